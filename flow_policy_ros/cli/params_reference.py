"""``flow_policy params reference``: the reference page of the nodes, printed or written. What it says is ``reference``'s affair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated


@dataclass(frozen=True)
class Arguments:
    """Prints the reference page of the nodes (Markdown), made from the code: parameters, topics, services, states, faults.

    Needs no ROS.
    """

    out: Path | None = None
    """Write the page to this file instead, such as docs/reference.md."""


def main(argv: list[str]) -> int:
    """Returns 0; bad input raises ``ValueError``."""
    import tyro

    from flow_policy_ros.cli.outputs import require_file
    from flow_policy_ros.cli.reference import page

    arguments = tyro.cli(Annotated[Arguments, tyro.conf.arg(name="")], args=argv, prog="flow_policy params reference")
    require_file("--out", arguments.out)
    text = page()
    if arguments.out is None:
        print(text, end="")
    else:
        arguments.out.write_text(text, encoding="utf-8")
    return 0
