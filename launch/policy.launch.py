"""Perception, policy and command node for one robot: ``ros2 launch flow_policy_ros policy.launch.py robot:=…``.

The robot itself (a driver, or ``sim.launch.py``) is started elsewhere. Files are checked before any node starts.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from flow_policy_ros import resources
from flow_policy_ros.runtime.robot import load_robot

ARGUMENTS = [
    DeclareLaunchArgument(
        "robot", default_value="adroit_door", description="Robot file: a path, or the name of one that ships."
    ),
    DeclareLaunchArgument(
        "observation",
        default_value="camera",
        choices=["camera", "state"],
        description="camera: the detector's features; state: the simulator's object state, without perception node.",
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
    if given["observation"] == "camera":
        detector = resources.checkpoint(given["detector"] or f"{robot.name}_detector")
        own["perception_node"] = {"perception.detector": str(detector)}
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


def generate_launch_description() -> LaunchDescription:
    """What ``ros2 launch`` asks for."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=nodes)])
