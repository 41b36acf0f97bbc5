"""What the terminal shows while training, and how Ctrl-C becomes an orderly end."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SHOW_AFTER_S = 2.0
LINE_EVERY_S = 60.0


class ProgressBar:
    """A bar with rate and time left, which appears once the work has taken two seconds.

    Where the output is no terminal (a log file), a line a minute instead.
    """

    def __init__(self, total: int, done: int, shown: bool = True, title: str = "training", unit: str = "steps") -> None:
        self._total, self._first, self._shown = total, done, shown
        self._title, self._unit = title, unit
        self._begin = self._printed = time.monotonic()
        self._bar: Progress | None = None

    def update(self, done: int, text: str) -> None:
        """``done`` of the total; ``text`` is shown behind the rate."""
        elapsed = time.monotonic() - self._begin
        if self._bar is None:
            if not self._shown or elapsed < SHOW_AFTER_S:
                return
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._bar = Progress(TextColumn(self._title), *columns)
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total, completed=self._first)
        rate = (done - self._first) / elapsed
        self._bar.update(self._task, completed=done, description=f"{rate:.1f} {self._unit}/s  {text}  left")
        if not self._bar.console.is_terminal and time.monotonic() - self._printed > LINE_EVERY_S:
            self._printed = time.monotonic()
            left = (self._total - done) / max(rate, 1e-9)
            state = f"{self._title}: {done}/{self._total} {self._unit}  {rate:.1f} {self._unit}/s"
            print(f"{state}  {text}  {left:.0f} s left", flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.stop()


class InterruptFlag:
    """Within the block, the first Ctrl-C, or SIGTERM as schedulers send it, sets ``raised``; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.raised = False

    def __enter__(self) -> InterruptFlag:
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = [(number, signal.signal(number, self._on_signal)) for number in (signal.SIGINT, signal.SIGTERM)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._main:
            for number, before in self._before:
                signal.signal(number, before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.raised = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
