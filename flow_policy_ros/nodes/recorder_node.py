"""The recorder node: what a robot's topics say, into bags, message by message as it came over the wire.

Topics are looked for all the time (``raw_topics``), so that one that appears late is recorded too. Subscriptions live on between
episodes: an episode misses nothing at its beginning. Writing is ``recorder_episode``'s.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import SetBool, Trigger

from flow_policy_ros.nodes.raw_topics import Arrived, RawTopics
from flow_policy_ros.nodes.recorder_episode import EpisodeReport
from flow_policy_ros.nodes.recorder_keys import HELP, Operator, Terminal
from flow_policy_ros.nodes.recorder_report import figures, heard, judge, line, state, summary
from flow_policy_ros.nodes.recorder_session import Session, require_name
from flow_policy_ros.nodes.recorder_topics import selection
from flow_policy_ros.nodes.runner import STEADY, ClosableNode, run
from flow_policy_ros.ros.diagnostics import OK, Diagnostics, status
from flow_policy_ros.ros.parameters import NodeParameters, robot_of
from flow_policy_ros.runtime.parameters import ParameterError, RecorderParameters

LOOK_S, KEYS_S = 0.5, 0.05
MISSING_S = 3.0
"""An episode is this old when it is said what it lacks, and when a clock that is awaited is missed."""
NO_CLOCK = "waiting for /clock (--use-sim-time), which has no message; the episode has not begun"
IDLE = (
    "idle, and without a terminal no key begins an episode: call the service record/start, or give --start (recorder.autostart)."
)


class RecorderNode(ClosableNode):
    """Services ``record/start``, ``stop``, ``discard`` and ``success``. An ``operator`` is shown the state and may press keys."""

    def __init__(self, operator: Operator | None = None) -> None:
        super().__init__("recorder_node")
        robot = robot_of(self)
        self._settings = NodeParameters(self, robot, ("recorder",), self._changed, _judge).block(RecorderParameters)
        if self._settings.report and not Path(self._settings.report).parent.is_dir():
            raise ParameterError(f"the parameter recorder.report is {self._settings.report}; its folder does not exist, create it.")
        self._session = Session(self._settings, robot.name)
        self._selection = selection(self, robot, self._settings.topics.split(), self._settings.everything)
        self._simulated = bool(self.get_parameter("use_sim_time").value)
        self._topics = RawTopics(self, self._selection, self._keep, simulated=self._simulated)
        self._operator = operator
        self._received = 0
        self.failed = ""
        """Why the last episode ended, or none began, if nobody asked."""
        self._diagnostics = Diagnostics(self, robot.name)
        for name, act in (("start", self.start), ("stop", self.stop), ("discard", self.discard)):
            self.create_service(Trigger, f"record/{name}", self._service(act))
        self.create_service(SetBool, "record/success", self._on_success)
        self._topics.look()
        self.create_timer(LOOK_S, self._topics.look, clock=STEADY)
        self.create_timer(1.0, self._report, clock=STEADY)
        if operator is not None:
            self.get_logger().info(HELP)
            self.create_timer(KEYS_S, self._keys, clock=STEADY)
        self._built = time.monotonic()
        self._said: set[str] = set()  # what was complained of once already
        self._to_start = self._settings.autostart
        if operator is None and not self._to_start:
            self.get_logger().info(IDLE)
        if self._to_start and not self._simulated:
            self._to_start = False
            self.get_logger().info(self.start())

    def finish(self) -> int:
        """Write the file of figures, if one is wanted; returns the exit code: 1 when the disk ended an episode, one that was kept
        has no joint states, or one that was to begin never did."""
        reports = self._session.reports
        if self._settings.report:
            Path(self._settings.report).write_text(json.dumps(figures(reports, self._selection), indent=1) + "\n")
        empty = any(self._selection.states not in heard(report.counts) for report in reports)
        return int(bool(self.failed) or self._to_start or empty or any(report.problem for report in reports))

    def start(self) -> str:
        """Begin an episode; what there is to say. Raises ``ValueError``."""
        if self._now() <= 0:
            raise ValueError("there is no time yet: use_sim_time is set, and nobody publishes /clock.")
        episode = self._session.begin()
        self.failed = ""
        self._said.clear()
        self._topics.restart()
        return f"recording {episode.path}"

    def stop(self) -> str:
        """End the episode; what there is to say. Raises ``ValueError``."""
        report = self._end()
        return summary(report, self._selection.missing(heard(report.counts)))

    def discard(self) -> str:
        """Delete the episode that runs or ended last. Raises ``ValueError``."""
        return f"{self._session.discard()} was deleted"

    def close(self) -> None:
        """End the episode that runs."""
        if self._session.episode is not None:
            self.get_logger().info(self.stop())
        elif self._to_start:
            self.get_logger().error(f"{NO_CLOCK}.")

    def _end(self) -> EpisodeReport:
        report = self._session.end(self._topics.lost)
        if report.problem:
            self.failed = report.problem
            self.get_logger().error(f"{report.path.name} was ended: {report.problem}")
        return report

    def _changed(self, prefix: str, block: Any) -> None:
        self._session.update(block)

    def _keep(self, arrived: Arrived) -> None:
        self._received += 1
        self._session.put(arrived.source, self._now(), arrived.data, arrived.published, arrived.sequence)

    def _now(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _service(self, act: Callable[[], str]) -> Callable[[Any, Any], Any]:
        def answer(request: Any, response: Any) -> Any:
            try:
                response.success, response.message = True, act()
            except ValueError as error:
                response.success, response.message = False, str(error)
            self.get_logger().info(response.message)
            return response

        return answer

    def _on_success(self, request: Any, response: Any) -> Any:
        return self._service(lambda: self._label(bool(request.data)))(request, response)

    def _label(self, success: bool) -> str:
        return f"{self._session.label(success).name} is a {'success' if success else 'failure'}"

    def _keys(self) -> None:
        """Do what was pressed. A key that cannot be obeyed says why."""
        assert self._operator is not None
        actions: dict[str, Callable[[], str]] = {
            " ": self.start if self._session.episode is None else self.stop,
            "d": self.discard,
            "s": lambda: self._label(True),
            "f": lambda: self._label(False),
            "q": self._quit,
        }
        for key in self._operator.pressed():
            try:
                line = actions.get(key, lambda: HELP)()
            except ValueError as error:
                line = str(error)
            self._clear()
            self.get_logger().info(line)
            actions[" "] = self.start if self._session.episode is None else self.stop

    def _start_by_itself(self) -> None:
        try:
            self.get_logger().info(self.start())
        except ValueError as error:
            self.failed = str(error)
            self.get_logger().error(self.failed)
            self._quit()

    def _quit(self) -> str:
        signal.raise_signal(signal.SIGTERM)
        return "ending"

    def _report(self) -> None:
        if self._to_start and self._now() > 0:  # simulated time has begun
            self._to_start = False
            self._start_by_itself()
        waiting = NO_CLOCK if self._to_start and time.monotonic() - self._built > MISSING_S else ""
        missing = self._missing()
        if self._session.episode is not None and not self._session.episode.running:
            self._end()
            if self._settings.autostart:
                self._quit()
        episode, last = self._session.episode, self._session.last
        lost = self._topics.lost if episode else dict(last.lost if last else {})
        values = state(self._session, len(self._topics), self._received, lost)
        level, message = judge(values, self.failed or waiting, self._topics.silent, missing, self._topics.problems)
        self._diagnostics.publish(self._now(), status("recorder", level, message, values))
        other = [message] if level != OK and not self.failed and time.monotonic() - self._built > MISSING_S else []
        for sentence in filter(None, [waiting, *missing] if waiting or missing else other):
            self._complain(sentence)
        if self._operator is not None:
            self._operator.show(line(values, level, message))

    def _missing(self) -> list[str]:
        """What the episode lacks, once it is old enough to have it."""
        episode = self._session.episode
        return [] if episode is None or episode.seconds < MISSING_S else self._selection.missing(heard(episode.counts))

    def _complain(self, sentence: str) -> None:
        """Once: a line every second would hide all others."""
        if sentence not in self._said:
            self._said.add(sentence)
            self._clear()
            self.get_logger().warning(sentence)

    def _clear(self) -> None:
        """The terminal's line, so that the log does not continue it."""
        if self._operator is not None:
            self._operator.show("")


def _judge(prefix: str, block: Any) -> None:
    require_name(block)


def main(args: list[str] | None = None) -> int:
    """Entry point; returns the exit code, for which see ``RecorderNode.finish``."""
    nodes: list[RecorderNode] = []
    with Terminal() if Terminal.present() else nullcontext() as operator:

        def build() -> RecorderNode:
            nodes.append(RecorderNode(operator))
            return nodes[0]

        # EventsExecutor fails at callbacks that want a message's information, by which losses are counted.
        code = run(build, args, executor_for=SingleThreadedExecutor)
    for node in nodes:
        code = max(code, node.finish())
    return code


if __name__ == "__main__":
    sys.exit(main())
