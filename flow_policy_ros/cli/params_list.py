"""``flow_policy params list``: the parameters of live nodes, with what can be made of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from flow_policy_ros.ros.parameter_client import LiveParameter

HIDDEN = ("qos_overrides", "start_type_description_service")
"""Beginnings of names that ROS gives to every node."""


@dataclass(frozen=True)
class Arguments:
    """Lists the parameters of live nodes: value, bounds, and whether they can be changed while the node runs."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Only those that begin so: policy, command.soft."""
    node: str = ""
    """Only this node's, by full name or the end of it."""
    describe: bool = False
    """Say of each what it is."""
    wait: float = 5.0
    """Seconds that a node may take to be found, and to answer."""
    json: Path | None = None
    """Write them all to this file too."""


def main(argv: list[str]) -> int:
    """Returns 0; 1 when a node that was found does not answer. Bad input raises ``ValueError``."""
    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy params list")
    import json

    from flow_policy_ros.cli.outputs import require_file
    from flow_policy_ros.cli.params_shared import complain, read, require_ros

    require_file("--json", arguments.json)
    require_ros()
    from flow_policy_ros.ros.parameter_client import ParameterClient

    with ParameterClient(arguments.wait) as client:
        live, silent = read(client, arguments.node, arguments.names)
    begin = arguments.names or ("",)
    chosen = {
        node: [one for name, one in parameters.items() if name.startswith(begin) and not name.startswith(HIDDEN)]
        for node, parameters in live.items()
    }
    if arguments.names and not any(chosen.values()):
        raise ValueError(f"no parameter begins with {' or '.join(arguments.names)}; leave the names out to see all.")
    for node, parameters in chosen.items():
        if parameters:
            print("\n".join([node, *(line for one in parameters for line in lines(one, arguments.describe))]))
    if arguments.json is not None:
        content = {node: {one.name: asdict(one) for one in parameters} for node, parameters in chosen.items()}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    return complain(silent.values())


def lines(one: LiveParameter, describe: bool) -> list[str]:
    """What is printed of a parameter."""
    from flow_policy_ros.cli.params_shared import shown

    bounds = f"{shown(float(one.bounds[0]))} to {shown(float(one.bounds[1]))}" if one.bounds else ""
    choices = one.constraints.partition("; at start only")[0] if one.constraints.startswith("one of") else ""
    notes = ", ".join(filter(None, [bounds, choices, "at start only" if one.read_only else ""]))
    row = f"  {one.name:<34} {shown(one.value):<16} {notes}".rstrip()
    return [row, f"      {one.description}"] if describe and one.description else [row]
