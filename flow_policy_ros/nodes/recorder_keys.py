"""The terminal of the recorder: single keys in, one line of state out. What a key does is the node's affair."""

from __future__ import annotations

import os
import select
import shutil
import sys
import termios
import tty
from typing import Any, Protocol

HELP = "keys: space starts and stops, s success, f failure, d discards, q quits"


class Operator(Protocol):
    """Who sits in front of the recorder."""

    def pressed(self) -> str:
        """What was pressed since the last call."""

    def show(self, line: str) -> None:
        """The state as it is now."""


class Terminal:
    """Standard input, key by key, while this lives; use as a context manager."""

    def __init__(self) -> None:
        self._number = sys.stdin.fileno()
        self._before: list[Any] = []

    @staticmethod
    def present() -> bool:
        """Whether somebody can press keys: a terminal, and this program in its foreground."""
        if not sys.stdin.isatty():
            return False
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()

    def __enter__(self) -> Terminal:
        self._before = termios.tcgetattr(self._number)
        tty.setcbreak(self._number)
        return self

    def __exit__(self, *exception: object) -> None:
        termios.tcsetattr(self._number, termios.TCSADRAIN, self._before)
        print(file=sys.stderr)

    def pressed(self) -> str:
        """See ``Operator``."""
        pressed = ""
        while select.select([self._number], [], [], 0.0)[0]:
            data = os.read(self._number, 64)
            if not data:
                break
            pressed += data.decode(errors="replace")
        return pressed

    def show(self, line: str) -> None:
        """See ``Operator``."""
        width = shutil.get_terminal_size().columns
        print(f"\r\x1b[K{line[: width - 1]}", end="", file=sys.stderr, flush=True)
