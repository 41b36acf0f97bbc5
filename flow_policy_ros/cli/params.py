"""``flow_policy params``: the parameters of live nodes, and the reference page of all. Each action has a module of its own."""

from __future__ import annotations

import importlib
import sys

HELP = "read and change parameters of live nodes; without an action print the reference page of the nodes"
PLACE = "flow_policy_ros.cli.params_"
ACTIONS: dict[str, str] = {
    "list": "the parameters of live nodes: values, bounds, what can be changed while running",
    "get": "the values of some",
    "set": "change several of one node at once, all or none (NAME:=VALUE ...)",
    "load": "set what a parameter file holds",
    "dump": "write the present values as a file that load and --params-file take",
    "reference": "the reference page of the nodes: parameters, topics, services, states, faults; without ROS",
}


def usage() -> str:
    """The text of ``flow_policy params --help``."""
    rows = "\n".join(f"  {name:<11}{line}" for name, line in ACTIONS.items())
    return (
        f"usage: flow_policy params [ACTION] [OPTIONS]\n\n{HELP}\n\n{rows}\n\n"
        "'flow_policy params ACTION --help' lists an action's options; those without an action are those of reference.\n"
        "exit codes: 0 done, 1 a node refused or did not answer, 2 bad input."
    )


def main(argv: list[str]) -> int:
    """Runs one action; returns its exit code, or 2 for one that there is not."""
    if argv and argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if not argv or argv[0].startswith("-"):
        argv = ["reference", *argv]
    if argv[0] not in ACTIONS:
        print(f"error: unknown action {argv[0]!r}; known: {', '.join(ACTIONS)}.", file=sys.stderr)
        return 2
    return int(importlib.import_module(PLACE + argv[0]).main(argv[1:]))
