"""``flow_policy params get``: the values of some parameters of live nodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Arguments:
    """Prints the values of parameters of a live node, one a line, in the order asked for."""

    names: tyro.conf.Positional[tuple[str, ...]]
    """Full names, such as policy.steps."""
    node: str = ""
    """The node, by full name or the end of it, where several have such parameters: /left/policy_node."""
    wait: float = 5.0
    """Seconds that a node may take to be found, and to answer."""
    json: Path | None = None
    """Write the values to this file too."""


def main(argv: list[str]) -> int:
    """Returns 0. Bad input raises ``ValueError``."""
    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy params get")
    import json

    from flow_policy_ros.cli.outputs import require_file
    from flow_policy_ros.cli.params_shared import owner, read, require_ros, shown

    if not arguments.names:
        raise ValueError("there is nothing to get; give names, such as policy.steps.")
    require_file("--json", arguments.json)
    require_ros()
    from flow_policy_ros.ros.parameter_client import ParameterClient

    with ParameterClient(arguments.wait) as client:
        live, _ = read(client, arguments.node, arguments.names)
    found = {name: live[owner(live, [name], arguments.node)][name].value for name in arguments.names}
    for value in found.values():
        print(shown(value))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0
