"""What ``flow_policy inspect`` shows of checkpoints, detectors and robot files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from flow_policy_ros.cli.inspect_tables import figure, listing, say, screen, table
from flow_policy_ros.policy.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from flow_policy_ros.policy.codec import Codec
from flow_policy_ros.runtime.contract import Contract, ContractError
from flow_policy_ros.runtime.joint_limits import Mimic
from flow_policy_ros.runtime.robot import INTERFACES, Robot


def show_checkpoint(folder: Path, robot: Robot | None) -> dict[str, Any]:
    """Everything is read, weights and hashes too. Raises ``CheckpointError``."""
    loaded = load_checkpoint(folder)
    console = screen()
    parameters = sum(weight.numel() for weight in loaded.model.state_dict().values())
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    network = f"{loaded.model.network_name}, {parameters / 1e6:.2f} M parameters"
    say(console, f"{folder}: checkpoint, {network}, {size / 1e6:.2f} MB, {len(loaded.codecs)} embodiment(s)")
    problems = [*_dead(loaded), *_unfit(loaded, robot)]
    for codec in loaded.codecs:
        _show_codec(console, codec)
    _show_training(console, loaded.training)
    listing(console, "problems", problems)
    if robot is not None and not problems:
        say(console, f"\nit fits robot file {robot.path} ('{robot.name}')")
    return {
        "what": "checkpoint",
        "path": str(folder),
        "size_bytes": size,
        "parameters": parameters,
        "network": {"name": loaded.model.network_name, "sizes": asdict(loaded.model.network_config)},
        "objective": loaded.model.objective,
        "flow": asdict(loaded.model.flow),
        "embodiments": [_codec_content(codec) for codec in loaded.codecs],
        "joints": [joint for codec in loaded.codecs for joint in codec.contract.joints],
        "topics": [],
        "training": loaded.training,
        "problems": problems,
    }


def show_detector(folder: Path) -> dict[str, Any]:
    """What its description says; the weights are not loaded. Raises ``CheckpointError``."""
    try:
        content = json.loads((folder / "detector.json").read_text(encoding="utf-8"))
        classes, size = [str(name) for name in content["classes"]], int(content["image_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"detector {folder}: no readable detector.json ({error!r}). Copy the whole folder again.") from error
    say(screen(), f"{folder}: detector {content.get('model', '')}, images of {size} pixels, classes {', '.join(classes)}")
    return {"what": "detector", "path": str(folder), **content, "topics": [], "joints": [], "problems": []}


def show_robot(robot: Robot, contract: Contract | None) -> dict[str, Any]:
    """``contract`` is a checkpoint's, to be compared."""
    console = screen()
    say(console, f"{robot.path}: robot file of '{robot.name}', {len(robot.joints)} joints")
    say(console, f"limits: {robot.limits_source or 'no source given'}")
    made = table(
        "", "joint", "group", "from\nrad or m", "to\nrad or m", "velocity\n…/s", "acceleration\n…/s²", "jerk\n…/s³",
        "effort\nN·m or N", "tracking\nrad or m",
    )  # fmt: skip
    limits = robot.limits
    for k, joint in enumerate(robot.joints):
        groups = ", ".join(name for name, members in robot.groups.items() if joint in members)
        ends = ("endless", "") if limits.continuous[k] else (figure(float(limits.lower[k])), figure(float(limits.upper[k])))
        rest = (limits.velocity, limits.acceleration, limits.jerk, limits.effort, limits.tracking)
        made.add_row(str(k), joint, groups, *ends, *(figure(float(bound[k]), 5) for bound in rest))
    console.print(made)
    say(console, f"joint states on {robot.joint_state_topic}")
    _show_commands(console, robot)
    for name, naming in (("joint states", robot.naming), ("recorded commands", robot.recorded and robot.recorded.naming)):
        if naming and naming.names:
            say(console, f"{name}: " + ", ".join(f"{theirs} is {ours}" for theirs, ours in naming.names.items()))
        if naming and naming.order:
            say(console, f"{name} without names are {', '.join(naming.order)}")
    if robot.recorded is not None:
        say(console, f"in recordings commands are on {robot.recorded.topic}")
    for camera in robot.cameras:
        say(console, f"camera {camera.name}: {camera.topic}, {camera.width} × {camera.height}, {camera.rate_hz} Hz")
    for name, value in robot.parameters.items():
        say(console, f"{name}: {value}")
    problems = _robot_problems(robot, contract)
    listing(console, "problems", problems)
    if contract is not None and not problems:
        say(console, f"\nthe checkpoint for robot '{contract.robot}' fits")
    return {
        "what": "robot",
        "path": robot.path,
        "name": robot.name,
        "topics": [robot.joint_state_topic, robot.command_topic, *(camera.topic for camera in robot.cameras)],
        "joints": [
            {
                "name": joint,
                "low": float(limits.lower[k]),
                "high": float(limits.upper[k]),
                "continuous": bool(limits.continuous[k]),
                "velocity": float(limits.velocity[k]),
                "acceleration": float(limits.acceleration[k]),
                "jerk": float(limits.jerk[k]),
                "origin": robot.limits_origin.get(joint, {}),
            }
            for k, joint in enumerate(robot.joints)
        ],
        "commands": {
            "topic": robot.command_topic,
            "interface": robot.command_interface,
            "type": INTERFACES[robot.command_interface],
            "joints": [asdict(wire) | {"index": robot.joints.index(wire.master)} for wire in robot.wires],
        },
        "mimics": [asdict(mimic) for mimic in robot.mimics],
        "naming": {"names": robot.naming.names, "order": robot.naming.order},
        "recorded": robot.recorded
        and {
            "command_topic": robot.recorded.topic,
            "names": robot.recorded.naming.names,
            "order": robot.recorded.naming.order,
        },
        "cameras": [asdict(camera) for camera in robot.cameras],
        "parameters": robot.parameters,
        "problems": problems,
    }


def _show_commands(console: Console, robot: Robot) -> None:
    """What the controller is sent, value by value, and the mimic joints that it is not sent."""
    kind = INTERFACES[robot.command_interface]
    say(console, f"the controller is sent {kind} on {robot.command_topic} (command_interface {robot.command_interface}):")
    made = table("value", "joint", "is")
    for k, wire in enumerate(robot.wires):
        index = robot.joints.index(wire.master)
        made.add_row(str(k), wire.joint, f"joint {index}" if wire.joint == wire.master else f"{_follows(wire)} (joint {index})")
    console.print(made)
    for mimic in robot.mimics:
        if mimic.joint not in robot.command_joints:
            say(console, f"{mimic.joint} is not sent: the hardware has it follow {_follows(mimic)}")


def _follows(mimic: Mimic) -> str:
    offset = f" {'+' if mimic.offset > 0 else '−'} {abs(mimic.offset):g}" if mimic.offset else ""
    return f"{mimic.multiplier:g} × {mimic.master}{offset}"


def _robot_problems(robot: Robot, contract: Contract | None) -> list[str]:
    problems = []
    if not robot.limits_source:
        problems.append("robot.limits_source is not given: write down where the limits come from, for whoever has to trust them.")
    if contract is not None:
        try:
            contract.check_robot(robot)
        except ContractError as error:
            problems.append(str(error))
    return problems


def _show_codec(console: Console, codec: Codec) -> None:
    contract = codec.contract
    seconds = contract.horizon * contract.dt_ns / 1e9
    say(console, f"\nrobot '{contract.robot}': {len(contract.joints)} joints observed, {len(contract.action_joints)} commanded")
    spacing = f"{contract.dt_ns / 1e6:g} ms apart ({seconds:.2f} s)"
    say(console, f"chunks of {contract.horizon} points, {spacing}, {codec.action_space} positions")
    for stream in contract.streams:
        made = stream.extractor.get("model", "") or stream.extractor.get("name", "")
        rows = "all" if not stream.use else f"rows {list(stream.use)}"
        say(console, f"features '{stream.name}': {stream.tokens} tokens × {stream.channels}, {rows}, {stream.moment}; {made}")
    made_table = table("joint", "motion in\ntraining", "offset\nrad or m", "scale\nrad or m")
    normaliser = codec.action_normaliser
    if len(normaliser.offset) == len(contract.action_joints):
        for k, joint in enumerate(contract.action_joints):
            dead = "dead" if k in normaliser.dead else "moves"
            made_table.add_row(joint, dead, figure(float(normaliser.offset[k])), figure(float(normaliser.scale[k]), 4))
        made_table.title = f"actions, normalised by {normaliser.method}"
        console.print(made_table)


def _show_training(console: Console, training: dict[str, Any]) -> None:
    for key in ("steps", "data", "validation"):
        if key in training:
            text = json.dumps(training[key])
            say(console, f"training {key}: {text if len(text) < 400 else text[:400] + '…'}")


def _codec_content(codec: Codec) -> dict[str, Any]:
    return codec.contract.to_json() | {
        "action_space": codec.action_space,
        "normaliser": {
            "observation": codec.observation_normaliser.to_json(),
            "action": codec.action_normaliser.to_json(),
        },
    }


def _dead(loaded: Checkpoint) -> list[str]:
    problems = []
    for codec in loaded.codecs:
        joints = codec.contract.action_joints
        dead = [joints[k % len(joints)] for k in codec.action_normaliser.dead]
        if dead:
            problems.append(
                f"robot '{codec.contract.robot}': the training data had no motion in {', '.join(dict.fromkeys(dead))}; what the "
                "policy "
                "does with these joints was never learnt."
            )
    return problems


def _unfit(loaded: Checkpoint, robot: Robot | None) -> list[str]:
    if robot is None:
        return []
    try:
        loaded.codec_of(robot.name).contract.check_robot(robot)
    except (CheckpointError, ContractError) as error:
        return [str(error)]
    return []
