"""The programs that are nodes, one a module, and their parts.

Importing what a node needs takes seconds, in which Ctrl-C is no error: a process that is a node then ends with a line and not with
a traceback. As soon as it runs, signals are ``runner``'s.
"""

from __future__ import annotations

import os
import signal
import sys

INTERRUPTED = 130
"""Exit code."""


def _end(number: int, frame: object) -> None:
    os.write(2, b"interrupted before the node had started\n")
    os._exit(INTERRUPTED)  # modules are half imported: nothing can be tidied up, and nothing is to be


def is_node(program: str) -> bool:
    """Whether ``program`` (``sys.argv[0]``) is a node: of ``python -m`` it is not known yet which module it will be."""
    return program == "-m" or os.path.basename(program).endswith("_node")


if is_node(sys.argv[0]):
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # a program that became a node holds it back until here
