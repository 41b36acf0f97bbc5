"""A robot file for a recording that nobody has one for: whole, with what the recording tells and TODO where it cannot tell.

Limits are never taken from a recording. They are left as TODO, which every reader of robot files refuses: no robot moves before
somebody has filled them in.
"""

from __future__ import annotations

from collections.abc import Iterator

from flow_policy_ros.data.bag_messages import ARRAY, JOINT_STATE, TRAJECTORY
from flow_policy_ros.data.inspection_found import Inspection, JointFound, LayoutFound
from flow_policy_ros.data.inspection_roles import Roles, main_layout, roles
from flow_policy_ros.runtime.robot_yaml import text

INTERFACES = {JOINT_STATE: "joint_state", ARRAY: "float64_array", TRAJECTORY: "joint_trajectory"}
"""What takes commands of a type."""
CHECK = "the messages have no names: check that this is their order"


def sketch(inspection: Inspection) -> list[str]:
    """Lines of a robot file that fits this recording; none where it has no joint values. Comments say what has to be checked."""
    found = roles(inspection)
    state = main_layout(found.states[0]) if found.states else None
    command = main_layout(found.commands[0]) if found.commands else None
    joints = joint_names(state, command)
    if not joints:
        return []
    block = [
        "name: my_robot  # TODO",
        'limits_source: "TODO: where the limits below come from"',
        *_states(state or command, state is None, joints, found),
        *_commands(inspection, command, joints, found),
        *_cameras(inspection),
        *_limits(state or command, joints),
    ]
    return ["/**:", "  ros__parameters:", "    robot:", *(f"      {line}" for line in block)]


def joint_names(state: LayoutFound | None, command: LayoutFound | None) -> tuple[str, ...]:
    """The joints' names: those of the states, else of commands of as many joints, else made up."""
    source = state or command
    if source is None:
        return ()
    for layout in (state, command):
        if layout is not None and layout.named and len(layout.joints) == len(source.joints):
            return layout.names
    return tuple(f"joint_{k + 1}" for k in range(len(source.joints)))


def _states(source: LayoutFound | None, stands_in: bool, joints: tuple[str, ...], found: Roles) -> Iterator[str]:
    if source is None:
        return
    yield f"joints: {text(joints)}" + ("" if source.named else "  # TODO: what the joints are called")
    note = "  # no joint states were recorded; commands stand in for them" if stands_in else ""
    yield f"joint_state_topic: {text(source.topic.lstrip('/'))}{note}"
    yield from (f"# or {text(joints.topic.lstrip('/'))}" for joints in found.states[1:])
    if not source.named:
        yield f"joint_state_order: {text(joints)}  # {CHECK}"


def _commands(inspection: Inspection, command: LayoutFound | None, joints: tuple[str, ...], found: Roles) -> Iterator[str]:
    topic = None if command is None else inspection.topic(command.topic)
    interface = INTERFACES.get(topic.type, "") if topic is not None else ""
    live = text(topic.name.lstrip("/")) if topic is not None and interface else "joint_command"
    yield f"command_topic: {live}  # TODO: where the robot's driver takes commands"
    interface = interface or "joint_trajectory"
    yield f"command_interface: {interface}  # TODO: or {', '.join(other for other in INTERFACES.values() if other != interface)}"
    if interface == "float64_array":
        yield f"command_joints: {text(joints)}  # TODO: the controller's order"
    if command is None:
        return
    yield "recorded:"
    yield f"  command_topic: {text(command.topic.lstrip('/'))}"
    yield from (f"  # or {text(others.topic.lstrip('/'))}" for others in found.commands[1:])
    alike = len(command.joints) == len(joints)
    if not command.named and alike:
        yield f"  command_order: {text(joints)}  # {CHECK}"
    elif command.named and set(command.names) != set(joints) and alike:
        pairs = dict(zip(command.names, joints, strict=True))
        yield f"  command_names: {text(pairs)}  # paired by position: check which is which"


def _cameras(inspection: Inspection) -> Iterator[str]:
    cameras: dict[str, str] = {}
    for images in inspection.images:
        sizes = sorted(images.sizes, key=lambda size: -images.sizes[size])
        topic = inspection.topic(images.topic)
        if sizes and topic is not None and not images.topic.lstrip("/").startswith("features/"):
            path = images.topic.removesuffix("/compressed").strip("/").split("/")
            name, number = path[-2] if len(path) > 1 else path[-1], 2
            while name in cameras:
                name, number = f"{name}_{number}", number + 1
            rate = round(topic.typical_hz or topic.rate_hz or 1.0, 1)
            entry = {"topic": "/".join(path), "width": sizes[0][0], "height": sizes[0][1], "rate_hz": rate}
            cameras[name] = f"  {text(name)}: {text(entry)}"
    if cameras:
        yield "cameras:"
        yield from cameras.values()


def _limits(source: LayoutFound | None, joints: tuple[str, ...]) -> Iterator[str]:
    if source is None:
        return
    yield "# TODO: rad, rad/s, rad/s² (m for sliding joints) from the data sheet or the URDF, not from this recording, which"
    yield "# shows where the robot happened to be. The file is refused until they are numbers (docs/robot_file.md)."
    yield "limits:"
    for name, joint in zip(joints, source.joints, strict=True):
        yield f"  {text(name)}: {{position: [TODO, TODO], velocity: TODO, acceleration: TODO}}  # TODO; {_recorded(joint)}"


def _recorded(joint: JointFound) -> str:
    return f"recorded: {joint.low:.3f} to {joint.high:.3f}, up to {joint.velocity:.2f} per second"
