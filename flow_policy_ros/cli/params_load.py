"""``flow_policy params load``: set on live nodes what a parameter file holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Arguments:
    """Sets what a parameter file holds on the live nodes that it names, all of it or nothing. Only what differs is sent.

    It takes what 'flow_policy params dump' and 'ros2 param dump' write, and wildcards such as /**. Parameters that are set at start
    only are passed over where they have that value already, and refused else (exit code 1).
    """

    file: tyro.conf.Positional[Path]
    """Parameter file (YAML)."""
    node: str = ""
    """Only for this node, by full name or the end of it; the rest of the file is left aside."""
    wait: float = 5.0
    """Seconds that a node may take to be found, and to answer."""


def main(argv: list[str]) -> int:
    """Returns 0; 1 when a node refuses. Bad input raises ``ValueError``."""
    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy params load")
    from flow_policy_ros.cli.params_shared import having, read_all, require_ros, tell, with_number
    from flow_policy_ros.runtime.parameter_file import read_parameters, wanted_of

    sections = read_parameters(arguments.file)
    require_ros()
    from flow_policy_ros.ros.parameter_client import ParameterClient, ParameterClientError, change, same

    with ParameterClient(arguments.wait) as client:
        if arguments.node:
            name = client.named(arguments.node)
            live = {name: client.parameters(name)}
            sections = [section for section in sections if section.means(name)]
            if not sections:
                raise ValueError(f"parameter file {arguments.file} holds nothing for {name}; leave --node out, or give another.")
        else:
            blocks = having(name for section in sections for name in section.parameters)
            live, silent = read_all(client, lambda live: blocks(live) and all(any(map(one.means, live)) for one in sections))
            meant = [why for node, why in silent.items() if any(section.means(node) for section in sections)]
            if meant:
                raise ParameterClientError(f"{' '.join(meant)} Nothing was changed; leave it aside with --node, naming another.")
        wanted = wanted_of(sections, live, arguments.file)
        client.require_alone(wanted)
        typed = {n: {k: with_number(v, live[n][k].value) for k, v in values.items()} for n, values in wanted.items()}
        differing = {n: {k: v for k, v in values.items() if not same(v, live[n][k].value)} for n, values in typed.items()}
        code = tell(change(client, differing, live))
    alike = sum(map(len, typed.values())) - sum(map(len, differing.values()))
    if code == 0 and alike:
        print(f"{alike} values were so already and were not sent again")
    return code
