"""The one table of every node's topics and services. Data alone; what nodes say on ``/diagnostics`` is in ``reported``.

The reference page is made of it, and a test holds it against the running nodes. Types are text and nothing of ROS is imported,
so that the page can be made where ROS is missing; parameters are in ``runtime.parameters``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["publishes", "subscribes", "serves", "requests", "calls"]


@dataclass(frozen=True)
class Interface:
    """A topic, a service that it ``serves`` or ``requests``, or an action (``calls``) of a node.

    ``qos`` is a key of ``QOS``, empty for services and actions.

    ``name`` holds in braces what a robot file or checkpoint says (``PLACES``). It exists when one of ``when`` holds, or always.
    """

    role: Role
    name: str
    type: str
    qos: str
    text: str
    when: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeInterfaces:
    """A node: what it is, the ``blocks`` of ``runtime.parameters`` that it declares, its interfaces.

    ``parameters`` are its others: name → type, default, description.
    """

    text: str
    blocks: tuple[str, ...]
    interfaces: tuple[Interface, ...]
    parameters: dict[str, tuple[str, str, str]]

    def present(self, *conditions: str) -> list[Interface]:
        """The interfaces that there are when ``conditions`` hold."""
        return [i for i in self.interfaces if not i.when or not set(i.when).isdisjoint(conditions)]


@dataclass(frozen=True)
class Profile:
    """A quality of service of ``ros.qos``: what it promises, how many messages are kept, what it is for.

    ``lockstep`` is reliability and depth in lockstep where those are others.
    """

    reliability: str
    durability: str
    depth: int
    text: str
    lockstep: tuple[str, int] | None = None


QOS: dict[str, Profile] = {
    "RELIABLE": Profile("reliable", "volatile", 10, "what nobody should miss"),
    "RECORD": Profile("reliable", "volatile", 100, "what nobody may miss any of"),
    "IMAGE": Profile("reliable", "volatile", 2, "images: large, so few are kept"),
    "LATCHED": Profile("reliable", "transient_local", 1, "what a late reader must still learn"),
    "READER": Profile("best_effort", "volatile", 10, "readers of sensor data; in lockstep nothing may be lost", ("reliable", 100)),
    "IMAGE_READER": Profile(
        "best_effort", "volatile", 1, "images; reliable where the node needs them and all publishers are", ("reliable", 100)
    ),
}

PLACES: dict[str, str] = {
    "joint_state_topic": "`robot.joint_state_topic` of the robot file",
    "command_topic": "`robot.command_topic` of the robot file",
    "camera": "`topic` of the robot file's first camera",
    "camera_info": "`camera_info` beside the topic of the robot file's first camera",
    "look": "`topic` of a camera of the robot file whose images the checkpoint reads (a stream of frames)",
    "stream": "a feature stream of the checkpoint, such as `detections` or `objects`; one topic for each",
    "looked_at": "`topic` of each of `perception.cameras`, of the robot file",
    "depth": "`depth.topic` of such a camera",
    "depth_info": "`depth.camera_info` of such a camera; without it camera_info beside the topic of its colour images",
    "perceived": "`perception.extractor`, such as `detections`; of cameras but the robot file's first `<extractor>_<camera>`",
    "points": "`points`; of cameras but the robot file's first `points_<camera>`",
    "overlay": "`overlay`; of cameras but the robot file's first `overlay_<camera>`",
}

LOCKSTEP = ("`lockstep.enabled: true`",)
DEADMAN_BOOL = ("`command.deadman: bool`",)
DEADMAN_JOY = ("`command.deadman: joy`",)
TRAJECTORIES = ("`robot.command_interface: joint_trajectory`", "`joint_trajectory_chunk`")
ACTION = ("`robot.command_interface: follow_joint_trajectory`",)
ARRAY = ("`robot.command_interface: float64_array`",)
JOINT_STATE = ("`robot.command_interface: joint_state`",)
RAW = ("any other topic",)
COMPRESSED = ("a topic that ends in `compressed`",)
ATTENTIVE = ("a checkpoint whose network attends to tokens that lie in an image",)
POINTS = ("`perception.points` is set",)
READS = ("`perception.extractor: vlm`, with a model that reads",)

_ROBOT_FILE = {
    "robot_file": ("str", "", "Robot file (YAML): joints, limits, cameras, topics, and the defaults of the other parameters."),
}
_DIAGNOSTICS = Interface(
    "publishes", "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "RELIABLE", "How the node fares, once a second."
)

COMMAND = NodeInterfaces(
    "Plays the newest chunk at the control rate through the safety stage. Imports no torch. A managed (lifecycle) node that leads "
    "itself unless told to wait for a manager.",
    ("command", "lockstep"),
    (
        Interface("subscribes", "{joint_state_topic}", "sensor_msgs/msg/JointState", "READER", "Measured positions, by name."),
        Interface(
            "subscribes", "policy/chunk", "trajectory_msgs/msg/JointTrajectory", "RELIABLE",
            "Chunks: stamped with the joint state's instant, point k at k·dt after it. The newest is followed.",
        ),
        Interface(
            "subscribes", "command/emergency_stop", "std_msgs/msg/Bool", "READER",
            "True is a fault at once; false releases, after which a reset is needed.",
        ),
        Interface(
            "subscribes", "command/deadman", "std_msgs/msg/Bool", "READER", "The hold-to-run switch, again and again.",
            DEADMAN_BOOL,
        ),
        Interface(
            "subscribes", "joy", "sensor_msgs/msg/Joy", "READER", "Its button `command.deadman_button` is the hold-to-run switch.",
            DEADMAN_JOY,
        ),
        Interface(
            "subscribes", "lockstep/policy", "std_msgs/msg/Header", "RELIABLE",
            "The policy's word on a tick: whether there is a chunk.", LOCKSTEP,
        ),
        Interface(
            "subscribes", "lockstep/tick", "std_msgs/msg/Header", "RELIABLE", "The robot waits; stamps of its newest products.",
            LOCKSTEP,
        ),
        Interface(
            "publishes", "{command_topic}", "trajectory_msgs/msg/JointTrajectory", "RELIABLE",
            "Set-points to the controller, one each tick or whole trajectories.", TRAJECTORIES,
        ),
        Interface("publishes", "{command_topic}", "std_msgs/msg/Float64MultiArray", "RELIABLE", "A set-point each tick.", ARRAY),
        Interface("publishes", "{command_topic}", "sensor_msgs/msg/JointState", "RELIABLE", "A set-point each tick.", JOINT_STATE),
        Interface(
            "calls", "{command_topic}", "control_msgs/action/FollowJointTrajectory", "", "Whole trajectories as goals.", ACTION
        ),
        Interface(
            "publishes", "command/executed", "sensor_msgs/msg/JointState", "RECORD",
            "Every set-point of the safety stage, stamped with its tick.",
        ),
        Interface(
            "publishes", "command/plan", "trajectory_msgs/msg/JointTrajectory", "RELIABLE",
            "At the tick at which a chunk begins to be followed: what will be executed from then on. `frame_id`: the chunk's "
            "stamp, ns.",
        ),
        Interface(
            "publishes", "lockstep/command", "std_msgs/msg/Header", "RELIABLE", "What was published at a tick.", LOCKSTEP
        ),
        _DIAGNOSTICS,
        Interface(
            "serves", "command/reset", "std_srvs/srv/Trigger", "",
            "Drops faults and starts anew at the measured position. A robot in motion is stopped first: call again.",
        ),
        Interface("serves", "command/hold", "std_srvs/srv/Trigger", "", "Stops and holds, until it is enabled."),
        Interface(
            "serves", "command/enable", "std_srvs/srv/SetBool", "",
            "True: follows the chunks that come from then on; refused with a fault. False: stops and holds.",
        ),
    ),
    {
        **_ROBOT_FILE,
        "managed": (
            "bool", "false",
            "Wait for a lifecycle manager (or 'ros2 lifecycle set') instead of configuring and activating at start.",
        ),
    },
)  # fmt: skip

POLICY = NodeInterfaces(
    "Samples a chunk from the newest valid observation, in a worker thread. When an input is too old there is no chunk, and "
    "`/diagnostics` says so.",
    ("policy", "lockstep"),
    (
        Interface("subscribes", "{joint_state_topic}", "sensor_msgs/msg/JointState", "READER", "Measured positions, by name."),
        Interface(
            "subscribes", "features/{stream}", "sensor_msgs/msg/Image", "READER",
            "Features, 32FC1: a row a token, stamped with their image's instant.",
        ),
        Interface(
            "subscribes", "features/{stream}/info", "std_msgs/msg/String", "LATCHED",
            "JSON: the extractor; features of another one than the training's are refused.",
        ),
        Interface(
            "subscribes", "{look}", "sensor_msgs/msg/Image", "IMAGE_READER",
            "The cameras that the policy looks at itself, with the vision-language model in it.", RAW,
        ),
        Interface(
            "subscribes", "{look}", "sensor_msgs/msg/CompressedImage", "IMAGE_READER",
            "The cameras that the policy looks at itself, with the vision-language model in it.", COMPRESSED,
        ),
        Interface(
            "subscribes", "instruction", "std_msgs/msg/String", "LATCHED",
            "What is to be done, in words, for checkpoints that read an instruction; from the next chunk on.",
        ),
        Interface("subscribes", "command/executed", "sensor_msgs/msg/JointState", "RECORD", "Set-points that were sent."),
        Interface(
            "subscribes", "command/plan", "trajectory_msgs/msg/JointTrajectory", "RELIABLE",
            "What will be executed of the last chunk, and from when: its delay.",
        ),
        Interface(
            "subscribes", "lockstep/tick", "std_msgs/msg/Header", "RELIABLE", "The robot waits; stamps of its newest products.",
            LOCKSTEP,
        ),
        Interface("subscribes", "lockstep/command", "std_msgs/msg/Header", "RELIABLE", "What was published at a tick.", LOCKSTEP),
        Interface("publishes", "policy/chunk", "trajectory_msgs/msg/JointTrajectory", "RELIABLE", "Chunks."),
        Interface(
            "publishes", "policy/chunk_info", "diagnostic_msgs/msg/DiagnosticStatus", "RELIABLE",
            "Beside each chunk: observation stamps, function evaluations, seed, mode, committed steps, duration, and the "
            "instruction that it was made for.",
        ),
        Interface(
            "publishes", "policy/attention", "sensor_msgs/msg/Image", "IMAGE",
            "The image that the policy used last, under the attention of its action tokens; at most once a second, while somebody "
            "looks, and only then is its camera listened to. Of further streams `policy/attention_STREAM`.", ATTENTIVE,
        ),
        Interface("publishes", "lockstep/policy", "std_msgs/msg/Header", "RELIABLE", "The word on a tick.", LOCKSTEP),
        _DIAGNOSTICS,
        Interface("serves", "policy/reset", "std_srvs/srv/Trigger", "", "Forgets all inputs."),
    ),
    _ROBOT_FILE,
)  # fmt: skip

PERCEPTION = NodeInterfaces(
    "Turns the newest image of each camera into features, each camera in a thread of its own. Of images that arrive while another "
    "is being looked at, the last one is next. See `docs/vision_language.md`.",
    ("perception", "lockstep"),
    (
        Interface("subscribes", "{looked_at}", "sensor_msgs/msg/Image", "IMAGE_READER", "A camera.", RAW),
        Interface("subscribes", "{looked_at}", "sensor_msgs/msg/CompressedImage", "IMAGE_READER", "A camera.", COMPRESSED),
        Interface(
            "subscribes", "{depth}", "sensor_msgs/msg/Image", "IMAGE_READER",
            "Its depth, aligned with the colour image: 16UC1 in mm or 32FC1 in m, unless the robot file has another scale.", POINTS,
        ),
        Interface("subscribes", "{depth_info}", "sensor_msgs/msg/CameraInfo", "READER", "The matrix of its images.", POINTS),
        Interface(
            "subscribes", "instruction", "std_msgs/msg/String", "LATCHED",
            "What the model reads beside the images; from the next image on.", READS,
        ),
        Interface(
            "publishes", "features/{perceived}", "sensor_msgs/msg/Image", "RELIABLE",
            "32FC1: a row a token (of detections: a class), stamped with the image's instant.",
        ),
        Interface(
            "publishes", "features/{perceived}/info", "std_msgs/msg/String", "LATCHED",
            "JSON: the extractor, the hash of its weights, its classes or settings.",
        ),
        Interface(
            "publishes", "features/{points}", "sensor_msgs/msg/Image", "RELIABLE",
            "32FC1: x, y, z in m and 1 where they are known, a row a patch, stamped with the colour image's instant.", POINTS,
        ),
        Interface(
            "publishes", "features/{points}/info", "std_msgs/msg/String", "LATCHED",
            "JSON: the frame of the positions and the grid of the patches; once camera_info has come.", POINTS,
        ),
        Interface(
            "publishes", "perception/{overlay}", "sensor_msgs/msg/Image", "IMAGE",
            "The image with its detections, or the strength of its tokens, while somebody looks.",
        ),
        _DIAGNOSTICS,
    ),
    _ROBOT_FILE,
)  # fmt: skip

SIM = NodeInterfaces(
    "The simulated robot: joint states, camera and object state out, commands in. In lockstep it waits for the command of each "
    "tick; in real time it keeps to the wall clock.",
    ("sim", "lockstep"),
    (
        Interface("publishes", "{joint_state_topic}", "sensor_msgs/msg/JointState", "RELIABLE", "Positions and velocities."),
        Interface("publishes", "{camera}", "sensor_msgs/msg/Image", "IMAGE", "The camera, while somebody looks."),
        Interface("publishes", "{camera_info}", "sensor_msgs/msg/CameraInfo", "IMAGE", "The camera's matrix."),
        Interface("publishes", "features/objects", "sensor_msgs/msg/Image", "RELIABLE", "The object's true state, 32FC1."),
        Interface("publishes", "features/objects/info", "std_msgs/msg/String", "LATCHED", "JSON: the task."),
        Interface(
            "publishes", "sim/status", "diagnostic_msgs/msg/DiagnosticStatus", "LATCHED",
            "Episode, step, success; `goal_reached`, of several goals the one that was reached first, and `instruction`.",
        ),
        Interface(
            "publishes", "instruction", "std_msgs/msg/String", "LATCHED", "What the episode asks for, of a task with several goals."
        ),
        Interface("publishes", "/clock", "rosgraph_msgs/msg/Clock", "RELIABLE", "Simulated time; silent in real time."),
        Interface("publishes", "lockstep/tick", "std_msgs/msg/Header", "RELIABLE", "The simulation waits; silent in real time."),
        _DIAGNOSTICS,
        Interface(
            "subscribes", "{command_topic}", "trajectory_msgs/msg/JointTrajectory", "RELIABLE",
            "Commands of one point; whole trajectories are refused.", TRAJECTORIES + ACTION,
        ),
        Interface(
            "subscribes", "{command_topic}", "std_msgs/msg/Float64MultiArray", "RELIABLE", "Commands; refused in lockstep.", ARRAY
        ),
        Interface("subscribes", "{command_topic}", "sensor_msgs/msg/JointState", "RELIABLE", "Commands.", JOINT_STATE),
        Interface("subscribes", "lockstep/command", "std_msgs/msg/Header", "RELIABLE", "What was published at a tick.", LOCKSTEP),
        Interface(
            "serves", "sim/reset", "std_srvs/srv/Trigger", "", "Begins an episode from `sim.seed`, of `sim.steps` steps."
        ),
    ),
    _ROBOT_FILE,
)  # fmt: skip

PLAYER = NodeInterfaces(
    "A recording in the place of the robot: its joint states, images and recorded features, tick by tick, in lockstep only. "
    "The robot in the recording does not obey.",
    ("player", "command", "lockstep"),
    (
        Interface("publishes", "{joint_state_topic}", "sensor_msgs/msg/JointState", "RELIABLE", "As recorded, joints renamed."),
        Interface("publishes", "{camera}", "sensor_msgs/msg/Image", "IMAGE", "As recorded.", RAW),
        Interface("publishes", "{camera}", "sensor_msgs/msg/CompressedImage", "IMAGE", "As recorded.", COMPRESSED),
        Interface("publishes", "features/{stream}", "sensor_msgs/msg/Image", "RELIABLE", "Of `player.features`, as recorded."),
        Interface("publishes", "instruction", "std_msgs/msg/String", "LATCHED", "What the robot was told, as recorded."),
        Interface("publishes", "player/status", "diagnostic_msgs/msg/DiagnosticStatus", "LATCHED", "How far it is."),
        Interface("publishes", "/clock", "rosgraph_msgs/msg/Clock", "RELIABLE", "The recording's time."),
        Interface("publishes", "lockstep/tick", "std_msgs/msg/Header", "RELIABLE", "The recording waits."),
        _DIAGNOSTICS,
        Interface("subscribes", "lockstep/command", "std_msgs/msg/Header", "RELIABLE", "What was published at a tick."),
        Interface("serves", "player/start", "std_srvs/srv/Trigger", "", "Plays from the beginning."),
    ),
    _ROBOT_FILE,
)

RECORDER = NodeInterfaces(
    "Records the robot file's topics as they come, a bag for each episode; see `docs/recording.md`. Every publisher is met with a "
    "quality of service that it offers.",
    ("recorder",),
    (
        Interface(
            "subscribes", "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "RECORD",
            "And every other topic that is recorded, as soon as somebody publishes it.",
        ),
        _DIAGNOSTICS,
        Interface("serves", "record/start", "std_srvs/srv/Trigger", "", "Begins an episode; the answer names its folder."),
        Interface("serves", "record/stop", "std_srvs/srv/Trigger", "", "Ends it; the answer says what was recorded and lost."),
        Interface(
            "serves", "record/discard", "std_srvs/srv/Trigger", "",
            "Deletes the episode that is being recorded, else the one that ended last; no other.",
        ),
        Interface(
            "serves", "record/success", "std_srvs/srv/SetBool", "", "Labels the episode that is being recorded or ended last."
        ),
    ),
    _ROBOT_FILE,
)  # fmt: skip

FLIGHT = NodeInterfaces(
    "Keeps the last minute of the recorder's topics in memory and saves it, with what follows, as a bag when the command node "
    "latches a fault or falls silent at work; see `docs/operating.md`.",
    ("flight",),
    (
        Interface(
            "subscribes", "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "RECORD",
            "And every other topic that is kept, as soon as somebody publishes it.",
        ),
        _DIAGNOSTICS,
        Interface(
            "serves", "flight_recorder_node/save", "std_srvs/srv/Trigger", "",
            "Saves what is kept, without a fault; the answer names the bag, which is there when it is whole.",
        ),
    ),
    _ROBOT_FILE,
)  # fmt: skip

_SEEN = (
    Interface("subscribes", "{joint_state_topic}", "sensor_msgs/msg/JointState", "READER", "Measured positions, by name."),
    Interface("subscribes", "policy/chunk", "trajectory_msgs/msg/JointTrajectory", "READER", "Chunks."),
)
MARKERS = NodeInterfaces(
    "Draws for RViz and Foxglove, with the robot's URDF, where the newest chunk would lead its fingertips, and the plan that is "
    "being executed; only while somebody looks. See `docs/see.md`.",
    ("markers",),
    (
        *_SEEN,
        Interface(
            "subscribes", "command/plan", "trajectory_msgs/msg/JointTrajectory", "READER", "What is executed of the newest chunk."
        ),
        Interface(
            "publishes", "policy/markers", "visualization_msgs/msg/MarkerArray", "RELIABLE",
            "Namespaces `chunk/LINK` and `plan/LINK`: a line each, in the frame of the URDF's root; `measured`: a ball at each "
            "link.",
        ),
        _DIAGNOSTICS,
    ),
    _ROBOT_FILE,
)  # fmt: skip

DASHBOARD = NodeInterfaces(
    "Draws a page of the robot in the terminal (`flow_policy dashboard`). It publishes nothing. See `docs/see.md`.",
    ("dashboard",),
    (
        *_SEEN,
        Interface("subscribes", "command/executed", "sensor_msgs/msg/JointState", "READER", "Set-points that were sent."),
        Interface(
            "subscribes", "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "READER", "What the nodes say of themselves."
        ),
    ),
    _ROBOT_FILE,
)

PUBLISHED = ("a publisher of it",)
WATCHED = ("a page that is open, or Rerun",)
VIEW = NodeInterfaces(
    "Shows the robot on a page of this machine, or in Rerun (`flow_policy view`); also without a robot file. It publishes nothing. "
    "See `docs/view.md`.",
    ("view",),
    (
        *_SEEN,
        Interface("subscribes", "policy/chunk_info", "diagnostic_msgs/msg/DiagnosticStatus", "READER", "Ages and times of chunks."),
        Interface("subscribes", "command/executed", "sensor_msgs/msg/JointState", "READER", "Set-points that were sent."),
        Interface("subscribes", "command/plan", "trajectory_msgs/msg/JointTrajectory", "READER", "When a chunk is followed."),
        Interface("subscribes", "sim/status", "diagnostic_msgs/msg/DiagnosticStatus", "READER", "Episodes of a simulation."),
        Interface("subscribes", "instruction", "std_msgs/msg/String", "LATCHED", "What the robot is told."),
        Interface("subscribes", "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "READER", "How nodes fare."),
        Interface(
            "subscribes", "features/{stream}", "sensor_msgs/msg/Image", "READER", "Boxes, and the age of features.", PUBLISHED,
        ),
        Interface("subscribes", "features/{stream}/info", "std_msgs/msg/String", "LATCHED", "Names of the classes.", PUBLISHED),
        Interface(
            "subscribes", "{camera}", "sensor_msgs/msg/Image", "IMAGE_READER",
            "Pictures, or those of `view.image`, compressed or not.", WATCHED,
        ),
    ),
    _ROBOT_FILE,
)  # fmt: skip

NODES: dict[str, NodeInterfaces] = {
    "command_node": COMMAND,
    "policy_node": POLICY,
    "perception_node": PERCEPTION,
    "sim_node": SIM,
    "player_node": PLAYER,
    "recorder_node": RECORDER,
    "flight_recorder_node": FLIGHT,
    "marker_node": MARKERS,
    "dashboard_node": DASHBOARD,
    "view_node": VIEW,
}
