"""``flow_policy sros2``: writes the SROS 2 policy file of a robot's nodes. What it allows is ``ros.sros2``'s affair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

PROGRAM = "flow_policy sros2"
FILE = "policy.xml"


@dataclass(frozen=True)
class Arguments:
    """Write the SROS 2 policy of the nodes: which topics, services and actions each of them may use, and nothing else.

    Needs no ROS. Keys and signatures are made of it by 'ros2 security', whose commands are printed. See docs/threats.md.
    """

    robot: str
    """Robot file, or the name of one that ships."""
    checkpoint: str
    """Checkpoint folder, or the name of one that ships: its feature streams and cameras are topics."""
    out: Path
    """Folder for policy.xml; an older one there is replaced."""
    namespace: str = "/"
    """Name space of the nodes, such as /left; / for none."""
    nodes: tuple[str, ...] = ()
    """Nodes and steps of a bring-up to write profiles for, such as command_node configure_command; by default all but the simulated
    robot's."""
    set: tuple[str, ...] = ()
    """Parameters that the nodes are started with, NAME:=VALUE such as command.deadman:=joy: some of them make topics."""
    json: Path | None = None
    """Write the profiles to this file too."""


def main(argv: list[str]) -> int:
    """Returns 0; bad input raises ``ValueError``."""
    import json

    import tyro

    from flow_policy_ros import resources
    from flow_policy_ros.cli.outputs import make_folder, require_file
    from flow_policy_ros.ros.sros2 import absolute, as_json, deployment, others, policy_xml, profiles
    from flow_policy_ros.runtime.overlay import parse_settings
    from flow_policy_ros.runtime.robot import load_robot

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog=PROGRAM)
    require_file("--json", arguments.json)
    robot = load_robot(resources.robot_file(arguments.robot))
    settings = parse_settings(arguments.set, robot, {}, "here")
    contract = read_contract(resources.checkpoint(arguments.checkpoint), robot.name)
    plan = deployment(robot, contract, settings, arguments.namespace)
    made = profiles(plan, arguments.nodes or None)
    make_folder("--out", arguments.out)
    words = [PROGRAM, "for robot", repr(robot.name), "and checkpoint", repr(Path(arguments.checkpoint).name)]
    file = arguments.out / FILE
    file.write_text(policy_xml(made, f"Made by {' '.join(words)}; make it anew instead of editing it."), encoding="utf-8")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(as_json(made), indent=1) + "\n", encoding="utf-8")
    dry = absolute(robot.command_topic, plan.namespace) if plan.blocks["command"].dry_run else ""
    _show(made, others(plan, made), file, dry)
    return 0


def read_contract(folder: Path, robot: str) -> Any:
    """The contract in a checkpoint folder for ``robot``, without loading the network. Raises ``ContractError``."""
    import json

    from flow_policy_ros.runtime.contract import Contract, ContractError

    path = folder / "contract.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = content.get("embodiments", [content])
        contracts = [Contract.from_json(entry) for entry in entries]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ContractError(f"{path} cannot be read ({error}); give the folder of a checkpoint.") from error
    found = contracts if len(contracts) == 1 else [contract for contract in contracts if contract.robot == robot]
    if not found:
        known = ", ".join(contract.robot for contract in contracts)
        raise ContractError(f"robot '{robot}' is none of the checkpoint's ({known}); give the robot file of one of these.")
    return found[0]


def _show(made: Any, rest: dict[str, set[str]], file: Path, dry: str) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    width = max(len(one.enclave) for one in made)  # whole, in a narrow window too: they are there to be copied
    heads = ("publishes", "subscribes", "serves", "requests", "calls")
    console.print("  ".join(["enclave".ljust(width), *heads]))
    for one in made:
        rights = (one.publishes, one.subscribes, one.serves, one.requests, one.calls)
        counts = [str(len(names)).rjust(len(head)) for names, head in zip(rights, heads, strict=True)]
        console.print("  ".join([one.enclave.ljust(width), *counts]))
    if dry:
        console.print(f"Dry run: no node may send anything on {dry}. Make the policy and its keys anew for the robot to move.")
    console.print("The robot's own nodes (controllers, drivers) need profiles too, which only their makers can write:")
    for right, names in rest.items():
        for name in sorted(names):
            console.print(f"  {right} {name}")
    console.print(f"wrote {file}. On a machine with ROS 2, in the robot's ROS_DOMAIN_ID, make keys of it:")
    console.print("  ros2 security create_keystore keystore")
    console.print(f"  ros2 security generate_artifacts -k keystore -p {file}")
    console.print("and start each node in its enclave:")
    console.print("  export ROS_SECURITY_KEYSTORE=$PWD/keystore ROS_SECURITY_ENABLE=true ROS_SECURITY_STRATEGY=Enforce")
    console.print(f"  … --ros-args --enclave {made[0].enclave}")
