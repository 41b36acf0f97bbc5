"""The profiler: own times that add up, methods given back, results unchanged; and ``flow_policy bench profile``."""

from __future__ import annotations

import json
import threading
from collections import Counter

import numpy as np
import pytest
import torch

from flow_policy_ros.cli.main import main
from flow_policy_ros.evaluation.rounds import Rounds
from flow_policy_ros.policy.deployed import deploy
from flow_policy_ros.policy.profile import CHECK, PUBLISH, STAGES, VELOCITY, Profile, StageTimes, wrap_policy
from flow_policy_ros.resources import checkpoint, robot_file
from flow_policy_ros.runtime.contract import ContractError
from flow_policy_ros.runtime.parameters import PolicyParameters
from flow_policy_ros.runtime.policy_loop import PolicyLoop
from flow_policy_ros.runtime.robot import load_robot


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


class Clock:
    """Time goes on only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Work:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def outer(self) -> str:
        self.clock.now += 1.0
        self.inner(2.0)
        self.inner(seconds=4.0)
        return "done"

    def inner(self, seconds: float) -> None:
        self.clock.now += seconds

    def failing(self) -> None:
        self.clock.now += 8.0
        raise ValueError("as planned")


def test_a_stage_has_its_own_time_and_stages_add_up() -> None:
    clock, told = Clock(), []
    work = Work(clock)
    profile = Profile(lambda stage, ms: told.append((stage, ms)), clock)
    profile.wrap(work, "outer", "whole")
    profile.wrap(work, "inner", "part")
    assert work.outer() == "done"
    assert told == [("part", 2000.0), ("part", 4000.0), ("whole", 1000.0)]


def test_a_failing_call_is_timed_and_leaves_nothing_behind() -> None:
    clock, told = Clock(), []
    work = Work(clock)
    profile = Profile(lambda stage, ms: told.append((stage, ms)), clock)
    profile.wrap(work, "failing", "failing")
    profile.wrap(work, "outer", "whole")
    with pytest.raises(ValueError, match="as planned"):
        work.failing()
    work.outer()
    assert told == [("failing", 8000.0), ("whole", 7000.0)]


def test_unwrap_gives_methods_back_also_when_wrapped_twice() -> None:
    work, module_like = Work(Clock()), Work(Clock())
    own = lambda: None  # noqa: E731
    vars(module_like)["inner"] = own  # an attribute of its own, as a module's function is
    profile = Profile(lambda stage, ms: None)
    for _ in range(2):
        profile.wrap(work, "outer", "whole")
        profile.wrap(module_like, "inner", "part")
    profile.unwrap()
    assert set(vars(work)) == {"clock"} and vars(module_like)["inner"] is own
    with pytest.raises(AttributeError):
        profile.wrap(work, "unknown", "whole")


def test_threads_do_not_mix() -> None:
    """What another thread does meanwhile is not taken off this thread's stage."""
    clock, told = Clock(), []
    work = Work(clock)

    def other() -> None:
        thread = threading.Thread(target=work.inner, args=(2.0,))
        thread.start()
        thread.join()

    work.outer = other  # type: ignore[method-assign]
    profile = Profile(lambda stage, ms: told.append((stage, ms)), clock)
    profile.wrap(work, "outer", "whole")
    profile.wrap(work, "inner", "part")
    work.outer()
    assert told == [("part", 2000.0), ("whole", 2000.0)]


def rounds_of(mode: str, steps: int = 6) -> tuple[Rounds, PolicyLoop]:
    robot = load_robot(robot_file("adroit_door"))
    parameters = PolicyParameters(checkpoint=str(checkpoint("adroit_door_state")), steps=steps, mode=mode)
    policy = deploy(parameters, robot.name)
    loop = PolicyLoop(policy, parameters, robot.endless)
    return Rounds(loop, policy.contract, robot), loop


@pytest.mark.parametrize("mode", ["receding", "ensemble", "rtc"])
def test_profiled_chunks_are_the_same_chunks(mode) -> None:
    chunks = []
    for profiled in (False, True):
        rounds, loop = rounds_of(mode)
        times, calls = StageTimes(), Counter()
        profile = Profile(lambda stage, ms, times=times, calls=calls: (times.add(stage, ms), calls.update([stage])))
        if profiled:
            wrap_policy(profile, loop, loop._policy)
        made = []
        for _ in range(6):
            rounds.receive()
            made.append(rounds.sample())
            rounds.obey(made[-1])
        chunks.append(np.array([chunk.positions for chunk in made]))
        assert made[-1].execution.continued == (mode == "rtc")
        if not profiled:
            assert not calls
            continue
        assert calls[VELOCITY] == 36 and calls[CHECK] == 6
        # A stage that nothing ever told of would be a name without a method behind it.
        assert {"assembly", "features", "noise", "condition", "solver", "decode", "rest", "finish"} < set(calls) <= set(STAGES)
        assert times.trackers[VELOCITY].summary().count == 36 and times.trackers[PUBLISH].summary() is None
        profile.unwrap()
        assert "sample" not in vars(loop._policy) and "observe" not in vars(loop)
    np.testing.assert_array_equal(chunks[0], chunks[1])


def test_the_made_up_robot_follows_its_chunks() -> None:
    """Else nothing would be shaped, and nothing continued."""
    rounds, loop = rounds_of("rtc")
    for _ in range(6):
        rounds.receive()
        chunk = rounds.sample()
        rounds.obey(chunk)
    assert chunk.execution.continued and loop.delay is not None and rounds.command.statistics().chunks >= 2
    rounds.command.on_emergency_stop(True, rounds.now)
    with pytest.raises(ContractError, match="emergency stop"):
        rounds.receive()


def test_bench_profile_says_where_the_time_goes(tmp_path, capfd) -> None:
    file = tmp_path / "f.json"
    assert main(["bench", "profile", "--steps", "2", "--chunks", "4", "--json", str(file)]) == 0
    printed = capfd.readouterr()
    figures = json.loads(printed.out)
    assert figures == json.loads(file.read_text())
    stages = [row["stage"] for row in figures["rows"]]
    assert stages[:6] == ["assembly", "features", "noise", "condition", "velocity 1", "velocity 2"]
    assert "shape" in stages and sum(row["share"] for row in figures["rows"]) == pytest.approx(1.0, abs=0.01)
    assert all(0.0 < row["ms_p50"] <= row["ms_p99"] for row in figures["rows"])
    # Own times add up to the whole of the policy's part, but for a call or two.
    inside = sum(row["ms_p50"] for row in figures["rows"] if row["stage"] not in ("publish", "shape"))
    assert inside == pytest.approx(figures["policy_ms"]["with_profiler"], rel=0.5)
    assert "velocity 1" in printed.err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--chunks", "0"], "--chunks is 0, expected at least 1"),
        (["--mode", "fast"], "policy.mode is 'fast', expected one of receding"),
        (["--robot", "adroit_pen"], "does not fit robot file"),
        (["--checkpoint", "nowhere"], "checkpoint 'nowhere' does not exist"),
    ],
)
def test_bench_profile_refuses(command, message, capfd) -> None:
    assert main(["bench", "profile", *command]) == 2
    assert message in capfd.readouterr().err
