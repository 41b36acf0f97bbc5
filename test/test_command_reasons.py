"""What the command stage says while it does not follow a chunk, and of a fault: the cause first, then what to do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from command_support import START, TICK, Bench

from flow_policy_ros.runtime.types import Chunk
from flow_policy_ros.safety.guard import GuardState


def reason(bench: Bench) -> str:
    return bench.loop.idle_reason(bench.now)


def test_before_the_start_the_first_cause_is_named_and_not_the_joint_state() -> None:
    bench = Bench(autostart=False)
    bench.loop.tick(bench.now)
    assert reason(bench).startswith("not enabled. Call ")  # there is no joint state either, but that would not be enough
    bench.loop.enable()
    bench.loop.reset()
    bench.loop.tick(bench.now)
    assert reason(bench).startswith("joint state: nothing received yet. Check ")


def held(bench: Bench) -> None:
    bench.loop.hold()


def let_go(bench: Bench) -> None:
    bench.loop.on_deadman(False, bench.now)


def reset_in_motion(bench: Bench) -> None:
    assert bench.loop.request_reset() is not None


def silent(bench: Bench) -> None:
    """The policy has ended."""


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (held, "not enabled. Call 'flow_policy command enable'"),
        (let_go, "the hold-to-run switch is not pressed. Hold it."),
        (reset_in_motion, "stopped for a reset asked for in motion. Ask again"),
        (silent, "no chunk has come for "),
    ],
)
def test_a_stop_names_its_cause_until_the_robot_stands_and_after(cause: Callable[[Bench], None], words: str) -> None:
    bench = Bench(deadman="bool", deadman_max_age_s=10.0, chunk_max_age_s=0.5)
    bench.loop.on_deadman(True, bench.now)
    bench.moving()
    assert bench.loop.state is GuardState.ACTIVE and reason(bench) == ""
    cause(bench)
    while bench.tick().state is GuardState.ACTIVE:
        pass
    assert bench.loop.state is GuardState.STOPPING and reason(bench).startswith(words)
    bench.tick(60)
    assert bench.loop.state is GuardState.HOLDING and reason(bench).startswith(words)


def test_chunks_that_are_refused_are_the_cause_and_not_their_absence() -> None:
    bench = Bench()
    bench.tick(2)
    assert reason(bench).startswith("no chunk has come. Look at what the policy says")
    bench.loop.on_chunk(Chunk(bench.now, TICK, ("other",), np.zeros((4, 1))), bench.now)
    assert reason(bench).startswith("the last chunk was refused: chunk ")
    bench.loop.on_malformed_chunk("chunk has 3 bytes.")
    assert reason(bench) == "the last chunk was refused: chunk has 3 bytes."
    bench.go(START)
    assert bench.tick().state is GuardState.ACTIVE and reason(bench) == ""


def test_an_emergency_stop_that_is_released_asks_for_the_reset_alone() -> None:
    bench = Bench()
    bench.tick()

    def detail() -> str:
        (fault,) = bench.loop.faults
        return fault.detail

    bench.loop.on_emergency_stop(True, bench.now)
    assert bench.loop.emergency and detail().endswith("Release it, then reset.")
    bench.loop.on_emergency_stop(False, bench.now)
    assert not bench.loop.emergency and detail().endswith("is released. Reset.")
    bench.loop.on_emergency_stop(True, bench.now)
    assert detail().endswith("Release it, then reset.") and bench.loop.statistics().faults == {"emergency_stop": 1}
