"""The flight recorder: the last minute of a robot's topics in memory, and on a fault in a bag. It commands nothing.

Topics are those of the recorder. What is kept is ``data.ring``'s, when to save ``flight_watch``'s, writing ``flight_bag``'s.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import Trigger

from flow_policy_ros.data.ring import Kept, Lanes
from flow_policy_ros.nodes.flight_bag import FlightBag, Saved, bags, prune, recover
from flow_policy_ros.nodes.flight_watch import Event, FaultWatch
from flow_policy_ros.nodes.raw_topics import Arrived, RawTopics
from flow_policy_ros.nodes.recorder_episode import GB, DiskGuard
from flow_policy_ros.nodes.recorder_topics import selection
from flow_policy_ros.nodes.runner import STEADY, ClosableNode, run
from flow_policy_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics, counts, status
from flow_policy_ros.ros.messages import MessageError
from flow_policy_ros.ros.parameters import NodeParameters, robot_of
from flow_policy_ros.ros.raw import opened
from flow_policy_ros.runtime.parameters import FlightParameters, ParameterError
from flow_policy_ros.runtime.status_names import own_name

LOOK_S = 0.5
DIAGNOSTICS = "/diagnostics"
COMMAND = "command"
"""Name of the command node's status."""


class FlightRecorderNode(ClosableNode):
    """Saves a bag when the command node latches a fault or falls silent at work, and on the service ``~/save``.

    Of several command nodes that of its own name space counts.
    """

    def __init__(self) -> None:
        super().__init__("flight_recorder_node")
        robot = robot_of(self)
        self._settings = NodeParameters(self, robot, ("flight",), self._changed).block(FlightParameters)
        self._robot = robot.name
        self._folder = _folder(self._settings.out)
        for path in recover(self._folder):
            self.get_logger().warning(f"{path}: its recorder died in the midst of it; it can be read up to its last chunk.")
        self._lanes = Lanes(*_sizes(self._settings))
        self._bag: FlightBag | None = None
        self._last: Saved | None = None
        self._problem = ""
        self._saved = 0
        self._refused: Counter[str] = Counter()
        simulated = bool(self.get_parameter("use_sim_time").value)
        chosen = selection(self, robot, self._settings.topics.split(), False)
        self._topics = RawTopics(self, chosen, self._keep, self._settings.pictures, simulated)
        self._watch = FaultWatch(self._now())
        self._heard_on = self.resolve_topic_name(DIAGNOSTICS)
        self._diagnostics = Diagnostics(self, robot.name)
        self.create_service(Trigger, "~/save", self._on_save)
        self._topics.look()
        self.create_timer(LOOK_S, self._look, clock=STEADY)
        self.create_timer(1.0, self._report, clock=STEADY)
        self.get_logger().info(f"keeps the last {self._settings.seconds:g} s of '{robot.name}' for {self._folder}")

    def finished(self) -> bool:
        """After a signal: a bag that is being written ends now."""
        if self._bag is not None:
            self._bag.until = min(self._bag.until, time.monotonic_ns())
            self._collect()
        return self._bag is None

    def close(self) -> None:
        """Wait for what is left to be written."""
        if self._bag is not None:
            self._bag.until = time.monotonic_ns()
            self._settle(self._bag)

    def _keep(self, arrived: Arrived) -> None:
        kept = Kept(time.monotonic_ns(), arrived.source, self._now(), arrived.data, arrived.published, arrived.sequence)
        self._lanes.put(kept, arrived.large, (arrived.source.topic, arrived.publisher) if arrived.latched else None)
        if arrived.source.topic == self._heard_on:
            self._hear(arrived.data)

    def _hear(self, data: bytes) -> None:
        try:
            message = opened(data, DiagnosticArray)
        except MessageError as error:
            return self._refuse("diagnostics_malformed", error)
        for said in message.status:
            if own_name(said.name, self.get_namespace()) != COMMAND:
                continue
            values = {pair.key: pair.value for pair in said.values}
            try:
                events = self._watch.hear(values, said.message, time.monotonic_ns())
            except ValueError as error:
                self._refuse("status_malformed", error)
                continue
            for event in events:
                self._save(event)

    def _refuse(self, kind: str, error: Exception) -> None:
        self._refused[kind] += 1
        if self._refused[kind] == 1:
            self.get_logger().warning(f"{kind}: {error} It is passed over; more of this kind are only counted.")

    def _save(self, event: Event) -> tuple[bool, str]:
        """Begin a bag, or add to the one that is being written: whether that was done, and where it is to be, or why it was not."""
        until = time.monotonic_ns() + round(1e9 * self._settings.after_s)
        if self._bag is not None and self._bag.add(event, until):
            return True, self._say(f"{event.name}: goes into {self._bag.path}, which is being written")
        if self._bag is not None:
            self._settle(self._bag)
        guard = DiskGuard(self._settings.min_free_gb * GB)
        problem = guard.problem(self._folder, 0)
        if problem is None:
            try:
                self._bag = FlightBag(
                    self._folder, self._lanes, event, time.time_ns(), until, round(1e9 * self._settings.seconds),
                    self._settings.compression, self._robot, lambda size: guard.problem(self._folder, size),
                )  # fmt: skip
            except (ValueError, OSError) as error:
                problem = str(error)
        if self._bag is None:
            self._problem = f"{event.name} was not saved: {str(problem).replace('recorder.', 'flight.')}"
            self.get_logger().error(self._problem)
            return False, self._problem
        return True, self._say(f"{event.name}: saving {self._bag.path}, whole in {self._settings.after_s:g} s")

    def _say(self, text: str) -> str:
        self.get_logger().info(text)
        return text

    def _on_save(self, request: Any, response: Any) -> Any:
        response.success, response.message = self._save(Event("asked", "the service ~/save was called"))
        return response

    def _look(self) -> None:
        self._topics.look()
        self._collect()
        silent = self._watch.silent(time.monotonic_ns())
        if silent is not None:
            self._save(silent)

    def _collect(self) -> None:
        """Take note of a bag that is written."""
        if self._bag is not None and self._bag.done:
            self._settle(self._bag)

    def _settle(self, bag: FlightBag) -> None:
        saved = bag.finish()
        self._bag, self._last, self._problem = None, saved, saved.problem
        self._saved += 1
        if saved.problem:  # two calls: rclpy raises when one place in the code logs at two levels
            self.get_logger().error(f"saved {saved}")
        else:
            self.get_logger().info(f"saved {saved}")
        for path in prune(self._folder, self._settings.keep):
            self.get_logger().info(f"removed {path}: {self._settings.keep} bags are kept (flight.keep)")

    def _changed(self, prefix: str, block: FlightParameters) -> None:
        self._settings = block
        self._lanes.resize(*_sizes(block))

    def _report(self) -> None:
        lanes, settings = self._lanes, self._settings
        lost = self._topics.lost
        values: dict[str, object] = {
            "state": "watching" if self._bag is None else "saving",
            "topics": len(self._topics),
            "messages": lanes.count,
            "memory_mb": lanes.size / 1e6,
            "seconds": lanes.small.span / 1e9,
            "seconds_pictures": lanes.large.span / 1e9,
            "saved": self._saved,
            "last": self._last.path if self._last else "",
            "kept": len(bags(self._folder)) if self._folder.is_dir() else 0,
            **counts("rejections", self._refused),
            **counts("lost", {topic: count or 0 for topic, count in lost.items()}),
        }
        short = [f"{name} only {ring.span / 1e9:.0f} s" for name, ring in
                 (("pictures", lanes.large), ("all else", lanes.small)) if ring.short]  # fmt: skip
        level, message = OK, str(values["state"])
        if self._problem:
            level, message = ERROR, self._problem
        elif self._topics.silent:
            level, message = WARN, f"nobody publishes {', '.join(self._topics.silent)}."
        elif short:
            level = WARN
            message = f"flight.memory_mb holds of {' and of '.join(short)} of {settings.seconds:g} (flight.seconds). Raise it."
        self._diagnostics.publish(self._now(), status("flight_recorder", level, message, values))

    def _now(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def _sizes(parameters: FlightParameters) -> tuple[int, int]:
    """Window in ns and budget in bytes."""
    return round(1e9 * parameters.seconds), round(1e6 * parameters.memory_mb)


def _folder(out: str) -> Path:
    """``flight.out``, made if it is not there. Raises ``ParameterError``."""
    if not out:
        raise ParameterError("the parameter flight.out is not set; give the folder for the bags.")
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(
            f"the parameter flight.out is {folder}, which cannot be made a folder ({error.strerror}); give another."
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ParameterError(f"the parameter flight.out is {folder}, where nothing can be written; give another folder.")
    return folder


def main(args: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    # EventsExecutor fails at callbacks that want a message's information, by which losses and speakers are known.
    return run(FlightRecorderNode, args, executor_for=SingleThreadedExecutor)


if __name__ == "__main__":
    sys.exit(main())
