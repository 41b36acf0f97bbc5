"""A child process that is talked to in lines of JSON: waited for with patience, ended in every case, its faults named.

What is said is the caller's; nothing here knows of policies.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Any

LONGEST = 1 << 22
"""Bytes of an answer; a chunk of thirty joints has ten thousand."""
SLICE_S = 0.5
"""What is waited at a time: while both processes are stopped (Ctrl-Z), no more than one of them goes by."""
END_S = 5.0
"""A child whose input has ended may take so long to end itself."""


class ChildError(ValueError):
    """A child process that could not be started, died, fell silent or said what was not expected."""


class Child:
    """A running child process. ``title`` names it in errors, ``remedy`` ends them; ``patience_s`` is the longest wait for a
    line."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes], title: str, remedy: str, patience_s: float) -> None:
        self._process, self._errors = process, errors
        self._title, self._remedy, self._patience_s = title, remedy, patience_s
        self._read = b""

    def ask(self, content: dict[str, Any]) -> dict[str, Any]:
        """Send a line and wait for the answer. Raises ``ChildError``."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(content).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._dead() from error
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next line, a JSON object. Raises ``ChildError``."""
        line = self._line()
        try:
            content = json.loads(line)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise self.wrong(f"said {_short(line)}, expected one JSON object a line")
        return content

    def wrong(self, what: str) -> ChildError:
        """The error to be raised for what it did."""
        return ChildError(f"{self._title} {what}; {self._remedy}.")

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        waited_s = 0.0
        while b"\n" not in self._read:
            if len(self._read) > LONGEST:
                raise self.wrong(f"said a line of more than {LONGEST} bytes, which begins with {_short(self._read)}")
            if waited_s >= self._patience_s:
                raise self.wrong(f"said nothing for {self._patience_s:g} s")
            ready, _, _ = select.select([self._process.stdout], [], [], SLICE_S)
            if not ready:
                waited_s += SLICE_S
                continue
            received = os.read(self._process.stdout.fileno(), 1 << 16)
            if not received:
                raise self._dead()
            self._read += received
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _dead(self) -> ChildError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines() or ["it wrote no message"]
        code = self._process.poll()
        if code is None:
            how = "closed its output"
        else:
            how = f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code}"
        return self.wrong(f"{how}: {words[-1]}")


@contextlib.contextmanager
def child(command: Sequence[str], title: str, remedy: str, patience_s: float) -> Iterator[Child]:
    """Start ``command`` on one core; however the block is left, the process ends with it. Raises ``ChildError``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment)
        except OSError as error:
            raise ChildError(f"{title} cannot be started: {error}; {remedy}.") from error
        try:
            yield Child(process, errors, title, remedy, patience_s)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """By its input's end, or by force where that does not do."""
    try:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.wait(END_S)
    except BaseException as error:  # also a second Ctrl-C
        process.kill()
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise


def _short(line: bytes) -> str:
    return repr(line[:60].decode(errors="replace")) + ("…" if len(line) > 60 else "")
