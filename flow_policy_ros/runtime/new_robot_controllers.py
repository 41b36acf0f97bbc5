"""Which controllers of a ros2_control parameter file a robot file can command, how, and on which topic.

Only what the file says is judged; whether a controller runs is the robot's affair. The order of a controller's joints is read
by ``controller_file``. Topics and parameters: https://control.ros.org, pages of joint_trajectory_controller and
forward_command_controller.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flow_policy_ros.runtime.controller_file import VARIABLE, node_parameters
from flow_policy_ros.runtime.robot_yaml import TOPIC, RobotFileError, flatten, read_yaml, text

TRAJECTORY = ("joint_trajectory_controller/JointTrajectoryController", "ur_controllers/ScaledJointTrajectoryController")
"""Types that take whole trajectories by name, on ``NAME/joint_trajectory``."""
ARRAY = ("forward_command_controller/ForwardCommandController", "position_controllers/JointGroupPositionController")
"""Types that take bare values in their own order, on ``NAME/commands``."""
MANAGER = "controller_manager"
BROADCASTER = "joint_state_broadcaster/JointStateBroadcaster"


@dataclass(frozen=True)
class Controller:
    """One controller: ``name`` with its name space, ``joints`` as they are declared, with variables in them.

    ``interface`` is the robot file's, "" where ``unusable`` says why it cannot be commanded. ``checks`` are sentences for whoever
    reads the robot file. ``state_topic`` has the joint states, ``update_hz`` is the manager's rate, None where the file has none.
    """

    name: str
    type: str
    joints: tuple[str, ...]
    interface: str = ""
    topic: str = ""
    unusable: str = ""
    checks: tuple[str, ...] = ()
    state_topic: str = "joint_states"
    update_hz: float | None = None

    def described(self) -> str:
        """One line about it."""
        what = f"{self.type or 'no type'}, {len(self.joints)} joints"
        return f"{self.name} ({what}{f'; not to be commanded: {self.unusable}' if self.unusable else ''})"


def read_controllers(path: Path) -> tuple[Controller, ...]:
    """The controllers of the file that declare joints, or are of a type that can be commanded. Raises ``RobotFileError``."""
    tree = read_yaml(path, "controller file", "the one that is given to ros2_control_node")
    nodes: dict[str, dict[str, Any]] = {}
    for name, parameters in node_parameters(tree):
        nodes.setdefault(_plain(name), {}).update(flatten(parameters))
    managers = {_space(name): parameters for name, parameters in nodes.items() if name.rpartition("/")[2] == MANAGER}
    types = {
        _join(space, key.removesuffix(".type")): str(value)
        for space, parameters in managers.items()
        for key, value in parameters.items()
        if key.endswith(".type") and key.count(".") == 1
    }
    states = _state_topics(types, nodes)
    found = []
    for name in dict.fromkeys((*nodes, *types)):
        parameters = nodes.get(name, {})
        kind = types.get(name, str(parameters.get("type", "")))
        if not name or ("joints" not in parameters and kind not in (*TRAJECTORY, *ARRAY)):
            continue
        rate = managers.get(_space(name), {}).get("update_rate")
        found.append(_judged(name, kind, parameters, states.get(_space(name), _join(_space(name), "joint_states")), rate))
    if not found:
        raise RobotFileError(
            f"controller file {path} declares no controllers. Give the YAML file of ROS 2 control: each controller as a node with "
            "ros__parameters and a list 'joints', its type under controller_manager."
        )
    return tuple(found)


def choose(controllers: tuple[Controller, ...], wanted: str, path: Path) -> Controller:
    """The controller called ``wanted``, or the only one that can be commanded for "". Raises ``RobotFileError`` naming all."""
    usable = [controller for controller in controllers if not controller.unusable]
    everything = "; ".join(controller.described() for controller in controllers)
    if not wanted:
        if len(usable) == 1:
            return usable[0]
        if usable:
            raise RobotFileError(
                f"controller file {path} has {len(usable)} controllers that can be commanded: "
                f"{', '.join(controller.name for controller in usable)}. Choose with --controller NAME the one that will be "
                f"active. All there are: {everything}."
            )
        raise RobotFileError(f"controller file {path} has no controller that can be commanded: {everything}. Add a "
                             f"{TRAJECTORY[0]} or a {ARRAY[0]} (interface_name: position) for the joints.")
    name = wanted.strip("/")
    found = [c for c in controllers if c.name == name] or [c for c in controllers if c.name.endswith("/" + name)]
    if len(found) != 1:
        what = "no controller" if not found else f"{len(found)} controllers"
        raise RobotFileError(f"controller file {path} has {what} '{wanted}'; it has {everything}. Correct --controller.")
    if found[0].unusable:
        others = ", ".join(controller.name for controller in usable) or "none"
        raise RobotFileError(f"--controller {wanted}: {found[0].described()}. That can be commanded in {path}: {others}.")
    return found[0]


def find_variables(controller: Controller, given: dict[str, str], urdf_joints: Collection[str]) -> dict[str, str]:
    """Values of the variables (``$(var tf_prefix)``) in the controller's joints, as ``given`` or as the URDF's names tell.

    One that was not given is found when a single value makes every joint one of ``urdf_joints``. Raises ``RobotFileError`` where
    it is not, and for variables that are given and not there.
    """
    needed = dict.fromkeys(name for joint in controller.joints for name in VARIABLE.findall(joint))
    strangers = [name for name in given if name not in needed]
    if strangers:
        raise RobotFileError(f"--variables gives {strangers}, which no joint of controller '{controller.name}' uses; it uses "
                             f"{list(needed) or 'none'}. Correct or remove them.")
    lacking = [name for name in needed if name not in given]
    if not lacking:
        return {name: given[name] for name in needed}
    joints = [VARIABLE.sub(lambda match: given.get(match[1], match[0]), joint) for joint in controller.joints]
    values = _candidates(joints, urdf_joints) if len(lacking) == 1 else set()
    if len(values) != 1:
        raise RobotFileError(
            f"controller '{controller.name}' has joints such as '{joints[0]}', and the URDF's names do not tell the value of "
            f"{', '.join(lacking)}. Give what the robot is launched with: --variables "
            f"{' '.join(f'{name}:=VALUE' for name in lacking)} (nothing after := for an empty one)."
        )
    return {name: given.get(name, next(iter(values))) for name in needed}


def _candidates(joints: list[str], urdf_joints: Collection[str]) -> set[str]:
    """Values for the only variable left in ``joints`` with which each of them is a joint of the URDF."""
    first = next(joint for joint in joints if VARIABLE.search(joint))
    head, tail = VARIABLE.split(first, maxsplit=1)[::2]  # what is between is the variable's name
    values = {
        name[len(head): len(name) - len(tail)]
        for name in urdf_joints
        if name.startswith(head) and name.endswith(tail) and len(name) >= len(head) + len(tail)
    }
    spelt = {value: [_spelt(joint, value) for joint in joints] for value in values}
    return {value for value, names in spelt.items() if all(name in urdf_joints for name in names)}


def _spelt(joint: str, value: str) -> str:
    return VARIABLE.sub(lambda _: value, joint)


def _judged(name: str, kind: str, parameters: dict[str, Any], state_topic: str, rate: Any) -> Controller:
    """The controller with its interface and topic, or with the reason why it has none."""
    declared = parameters.get("joints", [])
    joints = tuple(map(str, declared)) if isinstance(declared, list) else ()
    hertz = float(rate) if isinstance(rate, (int, float)) and rate > 0 else None
    interface, topic, why = "", "", ""
    checks: list[str] = []
    if kind in TRAJECTORY:
        interface, topic = "joint_trajectory_chunk", "joint_trajectory"
        why = _trajectory(kind, parameters, checks)
    elif kind in ARRAY:
        interface, topic = "float64_array", "commands"
        commanded = "position" if kind == ARRAY[1] else parameters.get("interface_name")
        if commanded != "position":
            why = f"its interface_name is {commanded or 'not given'}, and policies command positions"
    elif kind:
        why = "not a type that takes positions on a topic"
    else:
        why = "the file does not say its type"
    if not why and not joints:
        why = "no list of joints in this file"
    if not why and not all(map(TOPIC.fullmatch, (name, state_topic))):
        why = "its name makes no ROS topic"
    if why:
        return Controller(name, kind, joints, unusable=why)
    return Controller(name, kind, joints, interface, _join(name, topic), "", tuple(checks), state_topic, hertz)


def _trajectory(kind: str, parameters: dict[str, Any], checks: list[str]) -> str:
    """Why a trajectory controller cannot be used, "" when it can; ``checks`` gets what is to be looked at."""
    interfaces = parameters.get("command_interfaces")
    if parameters.get("interpolation_method", "splines") != "splines":
        return "its interpolation_method is not splines, so it would jump from point to point"
    if not isinstance(interfaces, list) or not interfaces:
        checks.append("the controller has the command interface position, which its file does not say")
    elif "position" not in interfaces:
        checks.append(f"the controller follows positions over {text(interfaces)} with gains that are tuned")
    if parameters.get("command_joints", parameters.get("joints")) != parameters.get("joints"):
        checks.append("every joint below moves, though the controller's command_joints differ from its joints")
    if kind == TRAJECTORY[1] or any(key.startswith("speed_scaling.") for key in parameters):
        checks.append("the speed slider is at 100 %, since the controller slows down with it and falls behind the plan")
    return ""


def _state_topics(types: dict[str, str], nodes: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Topic of the joint states by name space, where a joint_state_broadcaster has its own."""
    topics = {}
    for name, kind in types.items():
        if kind == BROADCASTER and nodes.get(name, {}).get("use_local_topics") is True:
            topics[_space(name)] = _join(name, "joint_states")
    return topics


def _space(name: str) -> str:
    return name.rpartition("/")[0]


def _join(space: str, name: str) -> str:
    return f"{space}/{name}" if space else name


def _plain(name: str) -> str:
    """Without the wildcards of a parameter file, which stand for any name space."""
    return re.sub(r"(^|/)\*+(?=/|$)", "", name).strip("/")
