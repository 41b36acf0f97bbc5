"""The simulated robot and the policy's nodes: ``ros2 launch flow_policy_ros sim.launch.py robot:=adroit_door``.

An episode begins with ``ros2 service call /sim/reset std_srvs/srv/Trigger``. With ``policy:=false`` only the robot
is started.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
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
        description="camera: features of its images; state: the simulator's object state, without perception node.",
    ),
    DeclareLaunchArgument("checkpoint", default_value="", description="As in policy.launch.py."),
    DeclareLaunchArgument("detector", default_value="", description="As in policy.launch.py."),
    DeclareLaunchArgument("extractor", default_value="", description="As in policy.launch.py."),
    DeclareLaunchArgument("model", default_value="", description="As in policy.launch.py."),
    DeclareLaunchArgument(
        "instruction",
        default_value="",
        description="As in policy.launch.py; of a task with several goals, what counts as success. Others take none.",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of all nodes."),
    DeclareLaunchArgument(
        "lockstep",
        default_value="false",
        choices=["true", "false"],
        description="true: the simulation waits for every product of a tick; false: it runs against the wall clock.",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value=LaunchConfiguration("lockstep"),
        choices=["true", "false"],
        description="Take time from /clock, which the simulated robot publishes in lockstep.",
    ),
    DeclareLaunchArgument(
        "managed", default_value="false", choices=["true", "false"], description="As in policy.launch.py."
    ),
    DeclareLaunchArgument("seed", default_value="0", description="Seed of the first episode."),
    DeclareLaunchArgument(
        "policy", default_value="true", choices=["true", "false"], description="Start the policy's nodes too."
    ),
]
PASSED_ON = (
    "robot", "observation", "checkpoint", "detector", "extractor", "model", "instruction", "namespace", "lockstep",
    "use_sim_time", "managed",
)  # fmt: skip


def entities(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The policy's nodes, then the robot's: the former refuse bad files, and nothing must be left running then."""
    given = {a.name: LaunchConfiguration(a.name).perform(context) for a in ARGUMENTS}
    lockstep = given["lockstep"] == "true"
    policy = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name("policy.launch.py"))),
        launch_arguments=[(name, given[name]) for name in PASSED_ON],
    )
    robot = Node(
        package="flow_policy_ros",
        executable="sim_node",
        name="sim_node",
        namespace=given["namespace"],
        parameters=[
            {
                "robot_file": load_robot(resources.robot_file(given["robot"])).path,
                "lockstep.enabled": lockstep,
                "sim.realtime": not lockstep,
                "sim.seed": int(given["seed"]),
                **({"sim.instruction": given["instruction"]} if given["instruction"] else {}),
            }
        ],
        output="screen",
    )
    return [policy, robot] if given["policy"] == "true" else [robot]


def generate_launch_description() -> LaunchDescription:
    """What ``ros2 launch`` asks for."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=entities)])
