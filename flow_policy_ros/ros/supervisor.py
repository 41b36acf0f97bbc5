"""Carries out a bring-up without launch: starts its processes in order, starts again what may be, and ends all, whatever happens.

What follows from a start or an end is decided by ``course``. What the processes say is passed on line by line; no node ever waits
for a terminal that does not read.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from flow_policy_ros.ros.bringup import Bringup, NodeDescription
from flow_policy_ros.ros.course import Course, End, Lost, Respawn
from flow_policy_ros.ros.processes import LAST_LINES, SUSPENDING, TETHER, NodeSpec, handled, python_path

LISTEN_S = 0.2
"""A signal that comes in the instant before one begins to wait wakes nobody: its handler is called when the wait is over."""
UNREAD = 2000
"""Lines that may wait for the terminal; later ones are dropped and counted."""
DRAIN_S, TERM_S, KILL_S = 1.0, 2.0, 5.0
"""How long is waited for the last words of one that has ended, after SIGTERM, and after SIGKILL."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Ended:
    """A process that has ended, and its exit code (below 0: a signal's number)."""

    path: str
    code: int


@dataclass(frozen=True)
class Asked:
    """Somebody asked, by a signal, that all be ended or suspended."""

    number: int


def spec_of(node: NodeDescription) -> NodeSpec:
    """The process of a description."""
    named = {"__node": node.name} if node.name != node.module else {}
    spaced = {"__ns": node.namespace} if node.namespace else {}
    return NodeSpec(node.module, node.parameters, {**named, **spaced, **node.remaps}, node.arguments, node.enclave)


class Printer:
    """Passes lines on in a thread of its own, so that nobody waits for ``say``."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._lines: queue.Queue[str | None] = queue.Queue(UNREAD)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, daemon=True)  # a terminal that never reads must not keep us
        self._thread.start()

    def put(self, line: str) -> None:
        """Never waits; drops the line if too many wait."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Say what is left, within a moment."""
        if self._dropped:
            self.put(f"({self._dropped} lines were not shown: the terminal did not keep up)")
        try:
            self._lines.put(None, timeout=DRAIN_S)
        except queue.Full:
            return
        self._thread.join(DRAIN_S)

    def _run(self) -> None:
        readable = True
        while (line := self._lines.get()) is not None:
            try:
                if readable:
                    self._say(line)
            except OSError:  # the terminal, or the program that read us, has gone; the nodes have not
                readable = False


class Child:
    """A process; ``ended`` is told when it has ended, after its last words. In a session of its own: Ctrl-C reaches us alone."""

    def __init__(
        self, node: NodeDescription, environment: Mapping[str, str], say: Say, ended: Callable[[Ended], None]
    ) -> None:
        self.node = node
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._process = subprocess.Popen(
            spec_of(node).command(), env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        reader = threading.Thread(target=self._read, args=(say,), daemon=True)
        reader.start()
        threading.Thread(target=self._wait, args=(reader, ended), daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def last_words(self) -> str:
        """The last lines that it printed, as a sentence."""
        return f"It said last: {' | '.join(self._lines)}" if self._lines else "It printed nothing."

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        self._process.send_signal(number)

    def _read(self, say: Say) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            line = raw.decode(errors="replace").rstrip()
            if line:
                self._lines.append(line.strip())
                say(f"[{self.node.path.lstrip('/')}] {line}")

    def _wait(self, reader: threading.Thread, ended: Callable[[Ended], None]) -> None:
        code = self._process.wait()
        reader.join(DRAIN_S)  # a process of its own may hold its output open
        ended(Ended(self.node.path, code))


class Supervisor:
    """Runs one bring-up. ``say`` is given every line of every process, and what is done about them."""

    def __init__(self, bringup: Bringup, say: Say = print, environment: Mapping[str, str] | None = None) -> None:
        self.course = Course(bringup)
        self._say = say
        own = {"PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1", TETHER: str(os.getpid())}
        self._environment = {**os.environ, **(environment or {}), **own}
        self._news: queue.SimpleQueue[Ended | Asked] = queue.SimpleQueue()  # its put may be called by a signal's handler
        self._children: dict[str, Child] = {}
        self._again: list[tuple[float, NodeDescription]] = []

    def run(self) -> End:
        """Until a signal asks for the end, or the course says so; all processes have ended then."""
        self._printer = Printer(self._say)
        with ExitStack() as stack:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup: outlive the terminal
                    stack.enter_context(handled(number, self._asked))
            for number in SUSPENDING:
                # a handler of the others would be called without end, each time a line is written again
                stack.enter_context(handled(number, self._asked if number == signal.SIGTSTP else signal.SIG_IGN))
            died = True
            try:
                end = self._follow()
                died = end.code != 0
            finally:
                killed = self._end_all(died)
                self._printer.close()
        if killed:
            text = f"{end.reason} Killed, because they did not end when they were asked to: {', '.join(killed)}."
            return End(text, end.code or 1)
        return end

    def pid(self, path: str) -> int:
        """Process id of a node that was started."""
        return self._children[path].pid

    def _asked(self, number: int, frame: object) -> None:
        self._news.put(Asked(number))

    def _follow(self) -> End:
        while True:
            while due := self.course.due():
                for node in due:
                    self._start(node)
            news = self._next()
            if isinstance(news, Asked) and news.number == signal.SIGTSTP:
                self._printer.put("[bringup] is not suspended: the nodes would freeze with the robot in motion. Ctrl-C ends it.")
                continue
            if isinstance(news, Asked):
                return End(f"asked to by {signal.Signals(news.number).name}.", 0)
            if news is None:
                continue
            said = self._children[news.path].last_words
            follows = self.course.ended(news.path, news.code, time.monotonic())
            if isinstance(follows, End):
                return End(follows.reason if follows.code == 0 else f"{follows.reason} {said}", follows.code)
            if isinstance(follows, Lost):
                self._printer.put(f"[bringup] {follows.reason} {said}")
            if isinstance(follows, Respawn):
                self._printer.put(f"[bringup] {news.path} ended with {news.code}; it is started again in {follows.pause_s:.0f} s")
                self._again.append((time.monotonic() + follows.pause_s, follows.node))

    def _next(self) -> Ended | Asked | None:
        """What happens next; None when it was a pause that was over, and the node is started again, or nothing did for a while."""
        when, node = min(self._again, key=lambda pair: pair[0], default=(float("inf"), None))
        try:
            return self._news.get(timeout=min(LISTEN_S, max(0.0, when - time.monotonic())))
        except queue.Empty:
            if node is not None and time.monotonic() >= when:
                self._again.remove((when, node))
                self._start(node)
            return None

    def _start(self, node: NodeDescription) -> None:
        self._printer.put(f"[bringup] starting {node.path}{''.join(f' {word}' for word in node.arguments)}")
        self._children[node.path] = Child(node, self._environment, self._printer.put, self._news.put)
        self.course.started(node.path, time.monotonic())

    def _end_all(self, died: bool) -> list[str]:
        """Ask all at once, each with its own patience; the paths of those that had to be killed.

        When one ``died`` those that linger are asked later.

        One signal, for a second one makes a command node end before the robot stands; that includes further Ctrl-C.
        """
        begun = time.monotonic()
        sent: dict[str, int] = {}
        while running := [child for child in self._children.values() if child.alive]:
            for child in running:
                waited = time.monotonic() - begun - (child.node.linger_s if died else 0.0)
                if waited < 0.0:
                    continue
                patience_s = child.node.patience_s
                number = (
                    signal.SIGINT if waited < patience_s else signal.SIGTERM if waited < patience_s + TERM_S else signal.SIGKILL
                )
                if sent.get(child.node.path) != number:
                    child.signal(number)
                    sent[child.node.path] = number
            longest = max(child.node.patience_s + (child.node.linger_s if died else 0.0) for child in running)
            if time.monotonic() - begun > longest + TERM_S + KILL_S:
                break
            time.sleep(0.05)
        return sorted(path for path, number in sent.items() if number == signal.SIGKILL)
