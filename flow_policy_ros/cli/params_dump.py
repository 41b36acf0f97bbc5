"""``flow_policy params dump``: the present parameters of live nodes as a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Arguments:
    """Writes the present parameters of live nodes as a file for 'flow_policy params load', 'ros2 param load' and --params-file."""

    node: str = ""
    """Only this node's, by full name or the end of it."""
    out: Path | None = None
    """Write to this file instead of printing."""
    wait: float = 5.0
    """Seconds that a node may take to be found, and to answer."""


def main(argv: list[str]) -> int:
    """Returns 0; 1 when a node that was found does not answer: its parameters are missing. Bad input raises ``ValueError``."""
    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy params dump")
    from flow_policy_ros.cli.outputs import require_file
    from flow_policy_ros.cli.params_shared import complain, read, require_ros

    require_file("--out", arguments.out)
    require_ros()
    from flow_policy_ros.ros.parameter_client import ParameterClient
    from flow_policy_ros.runtime.parameter_file import write_parameters

    with ParameterClient(arguments.wait) as client:
        live, silent = read(client, arguments.node)
    values = {node: {name: one.value for name, one in parameters.items()} for node, parameters in live.items()}
    text = write_parameters(values, "Parameters of live nodes, by flow_policy params dump.")
    if arguments.out is None:
        print(text, end="")
    else:
        arguments.out.write_text(text, encoding="utf-8")
    return complain(silent.values())
