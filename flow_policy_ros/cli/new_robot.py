"""``flow_policy new-robot``: a commented robot file from a URDF and a ros2_control parameter file.

What stands in the file is ``runtime.new_robot``'s; here it is written and what is left to do is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from flow_policy_ros.runtime.new_robot import Draft

PROGRAM = "flow_policy new-robot"


@dataclass(frozen=True)
class Arguments:
    """Write a robot file for a robot that has none: limits, mimic joints and groups from its URDF; joint order, interface and
    topics from the parameter file of its controllers.

    What neither says is left as TODO, and the file is refused until it is filled in; CHECK marks what is to be looked at.
    Every key of the file is explained in docs/robot_file.md.
    """

    urdf: Path
    """URDF of the robot; expand a xacro file first (xacro FILE > robot.urdf)."""
    controllers: Path | None = None
    """Parameter file (YAML) of ros2_control, as it is given to ros2_control_node."""
    controller: str = ""
    """The controller that will take the commands, with its name space; needed where the file has several that could."""
    variables: tuple[str, ...] = ()
    """Values of $(var NAME) in the controller's joints, as NAME:=VALUE, where the URDF's names do not tell them."""
    joint_limits: Path | None = None
    """MoveIt's joint_limits.yaml of the robot, for accelerations and jerks, and for ranges, soft limits, speeds and efforts where
    it is tighter."""
    groups: tuple[str, ...] = ()
    """Groups of joints as NAME:=JOINT,JOINT instead of those guessed from the URDF."""
    name: str = ""
    """Name of the robot, which goes into checkpoints; the URDF's where it is not given."""
    embed_limits: bool = False
    """Write the URDF's numbers into the file instead of naming the URDF and the controller file."""
    out: Path | None = None
    """Write the robot file to this new file; without it, it is printed, with paths relative to where you are."""
    json: Path | None = None
    """Write what is in the file, and what is left to do, to this file too."""


def main(argv: list[str]) -> int:
    """Returns 0; bad input raises ``ValueError``."""
    import json
    import sys

    import tyro

    from flow_policy_ros.cli.outputs import require_file
    from flow_policy_ros.runtime.new_robot import Description, draft

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog=PROGRAM)
    require_file("--out", arguments.out)
    require_file("--json", arguments.json)
    if arguments.out is not None and arguments.out.exists():
        raise ValueError(f"--out {arguments.out} exists already and is left alone; give another file, or move it away.")
    if not arguments.urdf.is_file():
        raise ValueError(f"--urdf {arguments.urdf} is no file; give the URDF of the robot (xacro FILE > robot.urdf makes one).")
    if arguments.controllers is None and (arguments.controller or arguments.variables):
        raise ValueError("--controller and --variables are about a controller file. Give it with --controllers, or leave them out.")
    made = draft(
        Description(
            urdf=arguments.urdf,
            folder=Path() if arguments.out is None else arguments.out.parent,
            controllers=arguments.controllers,
            controller=arguments.controller,
            variables=dict(pairs("--variables", arguments.variables)),
            joint_limits=arguments.joint_limits,
            groups={name: members(name, text) for name, text in pairs("--groups", arguments.groups)} or None,
            name=arguments.name,
            embed_limits=arguments.embed_limits,
        )
    )
    text = "\n".join(made.lines) + "\n"
    if arguments.out is None:
        print(text, end="")
    else:
        arguments.out.write_text(text, encoding="utf-8")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(content(made, arguments.out), indent=1) + "\n", encoding="utf-8")
    print("\n".join(report(made, arguments.out)), file=sys.stderr if arguments.out is None else sys.stdout)
    return 0


def pairs(option: str, words: tuple[str, ...]) -> list[tuple[str, str]]:
    """(name, value) of each word. Raises ``ValueError``."""
    from flow_policy_ros.runtime.setting import setting

    found: dict[str, str] = {}
    for word in words:
        pair = setting(word)
        if pair is None or pair[0] in found:
            raise ValueError(f"{option} {word}: expected NAME:=VALUE, each name once.")
        found[pair[0]] = pair[1]
    return list(found.items())


def members(group: str, text: str) -> tuple[str, ...]:
    """The joints of JOINT,JOINT. Raises ``ValueError`` for none, or one that is there twice."""
    joints = tuple(text.split(","))
    if not all(joints) or len(set(joints)) != len(joints):
        raise ValueError(f"--groups {group}:={text}: expected NAME:=JOINT,JOINT with every joint once.")
    return joints


def content(made: Draft, file: Path | None) -> dict[str, Any]:
    """What ``--json`` writes."""
    controller = made.controller
    return {
        "file": None if file is None else str(file),
        "name": made.name,
        "joints": made.joints,
        "mimics": made.mimics,
        "groups": made.groups,
        "controller": None if controller is None else controller.name,
        "command_interface": None if controller is None else controller.interface,
        "command_topic": None if controller is None else controller.topic,
        "todo": made.todo,
        "check": made.checks,
    }


def report(made: Draft, file: Path | None) -> list[str]:
    """What was made and what is left to do."""
    where = "printed" if file is None else f"written to {file}"
    follow = f", {len(made.mimics)} mimic joints" if made.mimics else ""
    groups = ", ".join(f"{name} ({len(joints)})" for name, joints in made.groups.items())
    lines = [f"robot file {where}: {made.name}, {len(made.joints)} joints{follow}; groups: {groups or 'none'}"]
    if made.controller is not None:
        lines.append(f"commands: {made.controller.interface} on {made.controller.topic}, to {made.controller.name}")
    if made.todo:
        lines.append(f"TODO: {', '.join(made.todo)}: the file is refused until these are filled in.")
    lines += [f"CHECK: {check}" for check in made.checks]
    if file is not None:
        lines.append(f"then: flow_policy inspect {file}")
    return lines
