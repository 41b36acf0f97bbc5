"""The ``flow_policy`` program: picks the sub-command's module, runs it, turns errors into one paragraph.

Only the chosen module is imported, so that ``--help`` is quick. What a command does lives in its own module, each with
``main(argv) -> int``: 0 done, 1 ran with a bad result, 2 refused for bad input.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

PROGRAM = "flow_policy"
BUG = 70
"""Exit code when the program itself failed, apart from the three that a command may give."""
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("flow_policy_ros.cli.demo", "watch the simulated hand at work: nodes as processes, over DDS"),
    "evaluate": ("flow_policy_ros.cli.evaluate", "measure a checkpoint's success in lockstep episodes"),
    "replay": ("flow_policy_ros.cli.replay", "run a policy over recordings and judge whether it may run on the robot"),
    "train": ("flow_policy_ros.cli.train", "train a policy on recorded episodes"),
    "distill": ("flow_policy_ros.cli.distill", "distil a policy to one solver step (reflow)"),
    "export": ("flow_policy_ros.cli.export", "write a policy's network as ONNX graphs, and compare chunks and times"),
    "train-detector": (
        "flow_policy_ros.cli.train_detector",
        "train the detector on frames of the simulator or your own labelled pictures",
    ),
    "demonstrate": ("flow_policy_ros.cli.demonstrate", "record expert episodes in the simulator"),
    "take-over": ("flow_policy_ros.cli.take_over", "record the expert taking over from a policy (DAgger)"),
    "featurize": ("flow_policy_ros.cli.featurize", "add features to recorded episodes and bags"),
    "bench": ("flow_policy_ros.cli.bench", "measure sampling, training, success, and the flow maths against others"),
    "bringup": ("flow_policy_ros.cli.bringup", "start everything that a robot needs, in order, and watch it"),
    "command": ("flow_policy_ros.cli.command", "stop a robot, let it go on, reset a fault, ask how it stands"),
    "record": ("flow_policy_ros.cli.record", "record a robot's topics, an episode a bag, on keys or services"),
    "fuzz": ("flow_policy_ros.cli.fuzz", "throw random and malformed input at the safety stage and check every set-point"),
    "convert": ("flow_policy_ros.cli.convert", "convert recordings to LeRobot datasets, and back to bags or episodes"),
    "inspect": ("flow_policy_ros.cli.inspect", "say what is in a recording, checkpoint or robot file, and whether they fit"),
    "new-robot": ("flow_policy_ros.cli.new_robot", "write a robot file from a URDF and a ros2_control parameter file"),
    "view": ("flow_policy_ros.cli.view", "show a robot at work, or a recording of it, in the browser or in Rerun"),
    "dashboard": ("flow_policy_ros.cli.dashboard", "show a running robot on one page of the terminal"),
    "params": ("flow_policy_ros.cli.params", "read and change parameters of live nodes; print the reference page of all nodes"),
    "sros2": ("flow_policy_ros.cli.sros2", "write the SROS 2 policy of the nodes: what each may say and hear"),
    "doctor": ("flow_policy_ros.cli.doctor", "say what was found on this machine and what is missing"),
}


def usage() -> str:
    """The text of ``flow_policy --help``."""
    width = max(map(len, COMMANDS)) + 2
    rows = "\n".join(f"  {name:<{width}}{line}" for name, (_, line) in COMMANDS.items())
    return (
        f"usage: {PROGRAM} COMMAND [OPTIONS]\n\n"
        "Flow-matching policies for dexterous robots: camera and joint states in, safe joint commands out.\n\n"
        f"commands:\n{rows}\n\n'{PROGRAM} COMMAND --help' lists a command's options.\n"
        "exit codes: 0 done, 1 ran but the result is bad, 2 refused (bad input)."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own); returns the exit code."""
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()  # not as the interpreter ends, where nobody could catch that the reader has gone
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        return _refuse(f"unknown command {command!r}; the commands are {', '.join(COMMANDS)}.")
    try:
        return int(importlib.import_module(COMMANDS[command][0]).main(rest) or 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        if os.environ.get("FLOW_POLICY_DEBUG"):
            traceback.print_exc()
        text = explain(error, command)
        if text is not None:
            return _refuse(text)
        _refuse(
            f"{type(error).__name__}: {error}. This is a bug in '{PROGRAM} {command}'; "
            "run it again with FLOW_POLICY_DEBUG=1 for the traceback to report."
        )
        return BUG


def explain(error: Exception, command: str) -> str | None:
    """What a user did not give, or what the machine lacks, in words; None for an error that is neither."""
    from flow_policy_ros.sim.gl import SimError  # costs no more than the standard library

    if isinstance(error, (ValueError, SimError)):
        return str(error)
    if isinstance(error, ImportError):
        if isinstance(error, ModuleNotFoundError) and not (error.name or PROGRAM).startswith(PROGRAM):
            return f"'{PROGRAM} {command}' needs the Python package '{error.name}', which is missing; run 'make setup'."
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    return None


def _refuse(text: str) -> int:
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return 2
