"""``flow_policy params set``: change parameters of one live node, all of them or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Arguments:
    """Changes parameters of one live node, all of them at once or none. Why the node refuses is said (exit code 1)."""

    values: tyro.conf.Positional[tuple[str, ...]]
    """NAME:=VALUE, such as policy.steps:=5; quote what holds blanks."""
    node: str = ""
    """The node, by full name or the end of it, where several have such parameters: /left/policy_node."""
    wait: float = 5.0
    """Seconds that a node may take to be found, and to answer."""


def main(argv: list[str]) -> int:
    """Returns 0; 1 when the node refuses. Bad input raises ``ValueError``."""
    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy params set")
    from flow_policy_ros.cli.params_shared import owner, pairs, read, require_ros, tell, values_of

    given = pairs(arguments.values)
    if not given:
        raise ValueError("there is nothing to set; give NAME:=VALUE, such as policy.steps:=5.")
    require_ros()
    from flow_policy_ros.ros.parameter_client import ParameterClient, change

    with ParameterClient(arguments.wait) as client:
        live, _ = read(client, arguments.node, list(given))
        node = owner(live, list(given), arguments.node)
        client.require_alone([node])
        return tell(change(client, {node: values_of(arguments.values, live[node])}, live))
