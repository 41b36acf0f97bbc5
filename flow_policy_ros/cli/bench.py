"""``flow_policy bench``: measurements that print JSON; each has a module of its own beside this one."""

from __future__ import annotations

import importlib
import sys

HELP = "measure sampling, training, closed-loop success, behaviour under delay, and the flow maths against others"
BENCHES: dict[str, tuple[str, str]] = {
    "sampling": ("flow_policy_ros.cli.bench_sampling", "time of a whole chunk, per backend and step count, beside others'"),
    "training": ("flow_policy_ros.cli.bench_training", "training samples per second, per network"),
    "adroit": ("flow_policy_ros.cli.bench_adroit", "the Adroit table of success, or that of given checkpoints"),
    "instructed": ("flow_policy_ros.cli.bench_instructed", "whether another instruction makes a policy reach another goal"),
    "latency": ("flow_policy_ros.cli.bench_latency", "success and smoothness over inference delay, per mode and naively"),
    "scaling": ("flow_policy_ros.cli.bench_scaling", "chunk time over horizon, action dimensions, prefix tokens and cameras"),
    "control": ("flow_policy_ros.cli.bench_control", "period error, stage time and memory of the command process, under load"),
    "replay": ("flow_policy_ros.cli.bench_replay", "speed of replay over real time, and memory over the length of recordings"),
    "convert": ("flow_policy_ros.cli.bench_convert", "MB/s from bags to datasets, and training samples per second from these"),
    "profile": ("flow_policy_ros.cli.bench_profile", "where a chunk's time goes, per stage"),
    "startup": ("flow_policy_ros.cli.bench_startup", "time until the command and the policy node can publish, per stage"),
    "memory": ("flow_policy_ros.cli.bench_memory", "resident memory of every node, and its growth over many chunks"),
    "flow": ("flow_policy_ros.cli.bench_flow", "sample quality on a toy, beside torchcfm with the same network"),
}


def usage() -> str:
    """The text of ``flow_policy bench --help``."""
    rows = "\n".join(f"  {name:<12}{line}" for name, (_, line) in BENCHES.items())
    return f"usage: flow_policy bench NAME [OPTIONS]\n\n{rows}\n\n'flow_policy bench NAME --help' lists a benchmark's options."


def require_positive(*given: tuple[str, int]) -> None:
    """Raises ``ValueError`` for the first (option, value) below 1."""
    for option, value in given:
        if value < 1:
            raise ValueError(f"{option} is {value}, expected at least 1.")


def main(argv: list[str]) -> int:
    """Runs one benchmark; returns its exit code, or 2 for a name that there is not."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] not in BENCHES:
        print(f"error: unknown benchmark {argv[0]!r}; known: {', '.join(BENCHES)}.", file=sys.stderr)
        return 2
    return int(importlib.import_module(BENCHES[argv[0]][0]).main(argv[1:]))
