"""Perception, policy and command node for one robot: ``ros2 launch flow_policy_ros policy.launch.py robot:=…``.

The robot itself (a driver, or ``sim.launch.py``) is started elsewhere. Files are checked before any node starts.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from flow_policy_ros import resources
from flow_policy_ros.runtime.robot import Robot, load_robot

OF_A_MODEL = ("backbone", "vlm")
"""Extractors whose weights are no detector's."""
ARGUMENTS = [
    DeclareLaunchArgument(
        "robot", default_value="adroit_door", description="Robot file: a path, or the name of one that ships."
    ),
    DeclareLaunchArgument(
        "observation",
        default_value="camera",
        choices=["camera", "state"],
        description="camera: features of its images; state: the simulator's object state, without perception node.",
    ),
    DeclareLaunchArgument(
        "checkpoint",
        default_value="",
        description="Checkpoint: a folder, or the name of one that ships; empty: <robot>_<observation>.",
    ),
    DeclareLaunchArgument(
        "detector",
        default_value="",
        description="Detector: a folder, or the name of one that ships; empty: <robot>_detector.",
    ),
    DeclareLaunchArgument(
        "extractor",
        default_value="",
        description="What is made of images, as perception.extractor; empty: as in the robot file, else detections.",
    ),
    DeclareLaunchArgument(
        "model",
        default_value="",
        description="Of the extractors backbone and vlm: the folder of the model, or its hub name; empty: as in the robot file.",
    ),
    DeclareLaunchArgument(
        "instruction",
        default_value="",
        description="What is to be done, in words, for the policy and a vlm that reads; the topic instruction replaces it.",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of all nodes."),
    DeclareLaunchArgument(
        "use_sim_time", default_value="false", choices=["true", "false"], description="Take time from /clock."
    ),
    DeclareLaunchArgument(
        "lockstep",
        default_value="false",
        choices=["true", "false"],
        description="Act on the ticks of a simulation that waits, instead of on timers.",
    ),
    DeclareLaunchArgument(
        "managed",
        default_value="false",
        choices=["true", "false"],
        description="true: the command node waits for a lifecycle manager; false: it configures and activates itself.",
    ),
]


def nodes(context: LaunchContext) -> list[Node]:
    """The nodes, once the arguments are known."""
    given = {a.name: LaunchConfiguration(a.name).perform(context) for a in ARGUMENTS}
    robot = load_robot(resources.robot_file(given["robot"]))
    common = {
        "robot_file": robot.path,
        "lockstep.enabled": given["lockstep"] == "true",
        "use_sim_time": given["use_sim_time"] == "true",
    }
    checkpoint = resources.checkpoint(given["checkpoint"] or f"{robot.name}_{given['observation']}")
    own = {"policy_node": {"policy.checkpoint": str(checkpoint)}, "command_node": {"managed": given["managed"] == "true"}}
    if given["instruction"]:
        own["policy_node"]["policy.instruction"] = given["instruction"]
    if given["observation"] == "camera":
        own["perception_node"] = perception(given, robot)
    return [
        Node(
            package="flow_policy_ros",
            executable=name,
            name=name,
            namespace=given["namespace"],
            parameters=[{**common, **parameters}],
            output="screen",
        )
        for name, parameters in own.items()
    ]


def perception(given: dict[str, str], robot: Robot) -> dict[str, str]:
    """Parameters of the perception node; what is not given is left to the robot file."""
    extractor = given["extractor"] or str(robot.parameters.get("perception.extractor", "detections"))
    chosen = {"perception.extractor": extractor}
    if extractor not in OF_A_MODEL:
        return {**chosen, "perception.detector": str(resources.checkpoint(given["detector"] or f"{robot.name}_detector"))}
    if given["model"]:
        chosen["perception.model"] = given["model"]
    if given["instruction"] and extractor == "vlm":
        chosen["perception.instruction"] = given["instruction"]
    return chosen


def generate_launch_description() -> LaunchDescription:
    """What ``ros2 launch`` asks for."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=nodes)])
