"""Where a chunk's time goes: the stages of a policy, timed by wrapping their methods.

The stages know nothing of it, and without it they cost nothing. Imports no torch: ``Profile`` times methods of anything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from flow_policy_ros.runtime.latency_tracker import LatencyTracker

if TYPE_CHECKING:
    from flow_policy_ros.policy.flow_policy import FlowPolicy
    from flow_policy_ros.runtime.policy_loop import PolicyLoop

ASSEMBLY, INSTRUCTION, LOOK, FEATURES, NOISE, CONDITION = "assembly", "instruction", "look", "features", "noise", "condition"
VELOCITY, SOLVER, DECODE, REST, CHECK, FINISH, PUBLISH = "velocity", "solver", "decode", "rest", "check", "finish", "publish"
STAGES: dict[str, str] = {
    ASSEMBLY: "the observation from what has arrived, and what the chunk has to continue",
    INSTRUCTION: "an instruction read, once per instruction",
    LOOK: "images looked at ahead, in a thread of its own",
    FEATURES: "the observation as normalised tensors; images that are new, where nothing looks ahead",
    NOISE: "the noise that the chunk is sampled from",
    CONDITION: "what the network computes once per chunk",
    VELOCITY: "one evaluation of the network, of which an Euler step makes one",
    SOLVER: "integration between the evaluations; in mode rtc also the gradient",
    DECODE: "joint positions from the network's numbers",
    REST: "of sampling, what is in none of the stages above",
    CHECK: "shape, NaN and Inf; the chunk made",
    FINISH: "what the mode makes of the chunk, such as the average of an ensemble",
    PUBLISH: "the messages made and handed to the middleware",
}
"""By name what each is, in the order in which a chunk passes them. All but ``velocity`` come at most once per chunk."""


class Profile:
    """Times methods of objects (or functions of modules) by replacing them there, until ``unwrap``.

    ``sink(stage, ms)`` is told a call's own time when it ends, in the thread that made it: what other wrapped methods took inside
    it is theirs, so that times of all stages add up to the whole.
    """

    def __init__(self, sink: Callable[[str, float], None], clock: Callable[[], float] = time.perf_counter) -> None:
        self._sink, self._clock = sink, clock
        self._threads = threading.local()
        self._restore: list[Callable[[], None]] = []

    def wrap(self, owner: object, method: str, stage: str) -> None:
        """From now on time ``owner.method`` as ``stage``. Raises ``AttributeError`` where there is no such method."""
        inner, own = getattr(owner, method), method in vars(owner)

        def timed(*args: object, **named: object) -> object:
            inside = self._inside()
            inside.append(0.0)
            begun = self._clock()
            try:
                return inner(*args, **named)
            finally:
                taken = self._clock() - begun
                others = inside.pop()
                if inside:
                    inside[-1] += taken
                self._sink(stage, 1e3 * (taken - others))

        setattr(owner, method, timed)
        self._restore.append(lambda: setattr(owner, method, inner) if own else delattr(owner, method))

    def unwrap(self) -> None:
        """Give every method back as it was."""
        while self._restore:
            self._restore.pop()()

    def _inside(self) -> list[float]:
        """Of each wrapped call that this thread is in, outermost first: seconds spent in wrapped calls inside it."""
        if not hasattr(self._threads, "inside"):
            self._threads.inside = []
        inside: list[float] = self._threads.inside
        return inside


def wrap_policy(profile: Profile, loop: PolicyLoop, policy: FlowPolicy) -> None:
    """Time every stage of ``loop``, which samples ``policy`` (or what has a deadline around it), but ``PUBLISH``."""
    model = policy.model
    for owner, method, stage in (
        (loop, "observe", ASSEMBLY),
        (loop, "infer", CHECK),
        (loop, "finish", FINISH),
        (policy, "instruct", INSTRUCTION),
        (policy, "look", LOOK),
        (policy, "conditioning", FEATURES),
        (policy, "noise", NOISE),
        (policy, "sample", REST),
        (policy.codec, "decode", DECODE),
        (model, "condition", CONDITION),
        (model, "velocity", VELOCITY),
        (model, "sample", SOLVER),
    ):
        profile.wrap(owner, method, stage)


class StageTimes:
    """The last durations of every stage; ``add`` is a ``Profile``'s sink. ``trackers``: by stage, in the order of ``STAGES``."""

    def __init__(self) -> None:
        self.trackers = {stage: LatencyTracker() for stage in STAGES}

    def add(self, stage: str, duration_ms: float) -> None:
        """Record one duration."""
        self.trackers[stage].add(duration_ms)
