"""The Adroit table's row of LeRobot's DiffusionPolicy: samples, the pipe, the row, and that no child process is left.

Most of it is about the protocol: the child is a short script of this file that speaks it and knows nothing of LeRobot. The tests
that train LeRobot's own policy need an environment with it: FLOW_POLICY_LEROBOT=INTERPRETER (benchmarks/lerobot_table.py).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_bench_table import files, small

from flow_policy_ros.cli import bench_table, bench_table_lerobot
from flow_policy_ros.cli.bench_table_place import FINISHED, Workplace
from flow_policy_ros.cli.bench_table_work import trained
from flow_policy_ros.cli.main import main
from flow_policy_ros.data.episodes import Episode, EpisodeError
from flow_policy_ros.evaluation import adroit_table_pipe
from flow_policy_ros.evaluation.adroit_table import ROWS, LeRobotRecipe, Protocol
from flow_policy_ros.evaluation.adroit_table_lerobot import LeRobotPolicy, RememberingLoop, contract_of, samples_of
from flow_policy_ros.evaluation.adroit_table_pipe import ChildError, child
from flow_policy_ros.runtime.parameters import PolicyParameters
from flow_policy_ros.runtime.types import Chunk, Features, JointState

LEROBOT = os.environ.get("FLOW_POLICY_LEROBOT", "")
needs_lerobot = pytest.mark.skipif(not LEROBOT, reason="FLOW_POLICY_LEROBOT names no interpreter with LeRobot")
ROW = ROWS["lerobot_10"]
TICK, DT = 10_000_000, 20_000_000
TINY = LeRobotRecipe(minutes=0.02, down_dims=(16, 32))

SPEAKER = """
import json, os, sys, time
from pathlib import Path
work, out = sys.argv[1], Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir(parents=True, exist_ok=True)
(out / "pid").write_text(str(os.getpid()))
def say(**answer):
    print(json.dumps(answer), flush=True)
"""
TRAINED = """
if work == "train":
    for step in range(1, 4):
        say(step=step, steps=3, loss=1 / step)
    say(finished={"steps": 3, "loss": 0.5, "core_minutes": 0.1})
    sys.exit()
"""
SERVED = """
say(observations=2, joints=JOINTS, horizon=16, environment=ENVIRONMENT, steps=10)
for line in sys.stdin:
    given = json.loads(line)
    say(chunk=CHUNK)
"""
HOLDS = '[given["state"][1]] * 15'
"""A chunk that stays where the robot is."""


def speaker(path: Path, joints: int = 2, environment: int = 1, chunk: str = HOLDS, trained: str = TRAINED) -> Path:
    served = SERVED.replace("JOINTS", str(joints)).replace("ENVIRONMENT", str(environment)).replace("CHUNK", chunk)
    path.write_text(SPEAKER + trained + served)
    return path


def gone(pid: Path) -> bool:
    try:
        os.kill(int(pid.read_text()), 0)
    except ProcessLookupError:
        return True
    return False


def talk(script: Path, out: Path, patience_s: float = 60.0):
    return child([sys.executable, str(script), "serve", "--out", str(out)], "the child", "look at it", patience_s)


def episode(ticks: int = 20) -> Episode:
    """Two joints and one object: position 100 and more, label 200 and more, object 300 and more, by tick."""
    k = np.arange(ticks, dtype=np.float64)
    two = np.stack([k, k + 0.5], axis=1)
    stamps = np.arange(ticks, dtype=np.int64) * TICK
    objects = (stamps, (300 + k).astype(np.float32).reshape(-1, 1, 1))
    return Episode("door", 0, True, TICK, stamps, ("a", "b"), 100 + two, 400 + two, 200 + two, {"objects": objects}, robot="r")


CONTRACT = contract_of(episode(), ("objects",), DT, 16, 2)


def test_samples_are_ours_begun_a_point_earlier() -> None:
    found = samples_of([episode(40), episode(20)], CONTRACT)
    assert found["state"].shape == (60, 2, 2) and found["environment"].shape == (60, 2, 1) and found["action"].shape == (60, 16, 2)
    for first, ticks in ((0, 40), (40, 20)):
        for k in (0, 1, 2, 7, ticks - 1):
            sample = {name: values[first + k] for name, values in found.items()}
            before = max(k - 2, 0)
            assert sample["state"][:, 0].tolist() == [100 + before, 100 + k]
            assert sample["environment"][:, 0].tolist() == [300 + before, 300 + k]
            after = [min(k + 2 * j, ticks - 1) for j in range(15)]
            assert sample["action"][:, 0].tolist() == [200 + row for row in (before, *after)]
            assert sample["padded"].tolist() == [k < 2, *(k + 2 * j > ticks - 1 for j in range(15))]


def test_an_episode_with_ticks_that_cannot_be_learned_from_is_refused() -> None:
    stamps, values = episode().streams["objects"]
    late = replace(episode(), streams={"objects": (stamps[3:], values[3:])})
    with pytest.raises(EpisodeError, match="20 control ticks, of which 17 can be learned from"):
        samples_of([late], CONTRACT)


def test_the_protocol_observes_live_what_it_was_trained_on(tmp_path) -> None:
    """At every tick the observation that is sent is the sample of that tick; after a reset nothing of before is left."""
    echo = '[[*(row[0] for row in given["state"]), *(row[0] for row in given["environment"])][2 * (j % 2):][:2] for j in range(15)]'
    shown, found = episode(), samples_of([episode()], CONTRACT)
    with talk(speaker(tmp_path / "s.py", chunk=echo), tmp_path) as process:
        loop = RememberingLoop(LeRobotPolicy(process, CONTRACT, 10), PolicyParameters(rate_hz=100.0))
        for start in (0, 10):  # the second time as if the episode began at tick 10
            loop.reset()
            for k in range(start, 20):
                now = int(shown.stamps[k])
                loop.on_joint_state(JointState(now, shown.joints, shown.position[k]), now)
                loop.on_features(Features(now, "objects", shown.streams["objects"][1][k]), now)
                chunk = loop.step(now)
                assert isinstance(chunk, Chunk) and chunk.nfe == 10
                before = found["state"][k, 0, 0], found["environment"][k, 0, 0]
                if k < start + 2:
                    before = 100 + start, 300 + start
                assert chunk.positions[0].tolist() == [before[0], 100 + k]
                assert chunk.positions[1].tolist() == [before[1], 300 + k]
    assert gone(tmp_path / "pid")


def test_the_protocol_sends_noise_of_seed_and_stamp_alone(tmp_path) -> None:
    with talk(speaker(tmp_path / "s.py", chunk='given["noise"][1:]'), tmp_path) as process:
        policy = LeRobotPolicy(process, CONTRACT, 10)
        parameters = PolicyParameters(rate_hz=100.0)

        def noise(stamp: int, seed: int):
            loop = RememberingLoop(policy, replace(parameters, seed=seed))
            loop.on_joint_state(JointState(stamp, ("a", "b"), np.zeros(2)), stamp)
            loop.on_features(Features(stamp, "objects", np.zeros((1, 1), np.float32)), stamp)
            return loop.step(stamp).positions

        one = noise(5, 0)
        assert np.array_equal(one, noise(5, 0)) and abs(one.mean()) < 0.5 and 0.5 < one.std() < 1.5
        assert not np.array_equal(one, noise(6, 0)) and not np.array_equal(one, noise(5, 1))
        observation = loop_observation(policy)
        with pytest.raises(ValueError, match="served in 10 steps, asked for were 2"):
            policy.sample(observation, 2, 0)


def loop_observation(policy: LeRobotPolicy):
    loop = RememberingLoop(policy, PolicyParameters(rate_hz=100.0))
    loop.on_joint_state(JointState(0, ("a", "b"), np.zeros(2)), 0)
    loop.on_features(Features(0, "objects", np.zeros((1, 1), np.float32)), 0)
    return loop.observe(0).observation


READY = "say(observations=2, joints=2, horizon=16, environment=1, steps=10)\nsys.stdin.readline()\n"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise SystemExit('no module named lerobot')", "ended with exit code 1: no module named lerobot; look at it"),
        ("os.kill(os.getpid(), 9)", "was ended by signal 9: it wrote no message"),
        ("print('warming up')", "said 'warming up', expected one JSON object a line"),
        ("print('[1, 2]')", "said '[1, 2]', expected one JSON object a line"),
        ("print('x' * 5_000_000)", "said a line of more than 4194304 bytes, which begins with 'xxx"),
        ("time.sleep(60)", "said nothing for 2 s"),
        ("say(observations=1)", "serves {'observations': 1}, expected {'observations': 2, 'joints': 2"),
        (READY + "raise SystemExit('out of memory')", "ended with exit code 1: out of memory"),
        (READY + "say(error='what')", "said ['error'], expected a chunk of numbers (15, 2)"),
        (READY + "say(chunk=[['a', 'b']] * 15)", "expected a chunk of numbers (15, 2)"),
        (READY + "say(chunk=[[0, 0]] * 16)", "made a chunk of shape (16, 2), expected (15, 2)"),
    ],
)
def test_a_child_that_dies_or_prints_rubbish_is_named_and_gone(body, message, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(adroit_table_pipe, "END_S", 0.5)
    (tmp_path / "s.py").write_text(SPEAKER + "\n" + body + "\n")
    patience_s = 2.0 if "sleep" in body else 60.0
    with pytest.raises(ChildError) as error, talk(tmp_path / "s.py", tmp_path, patience_s) as process:
        if "sleep" in body:
            while not (tmp_path / "pid").is_file():
                time.sleep(0.01)
        policy = LeRobotPolicy(process, CONTRACT, 10)
        policy.sample(loop_observation(policy), 10, 0)
    assert message in str(error.value) and str(error.value).startswith("the child ")
    assert gone(tmp_path / "pid")


def test_a_program_that_cannot_be_started_is_named() -> None:
    with pytest.raises(ChildError, match=r"LeRobot cannot be started: .*no_such_program"):
        child(["./no_such_program"], "LeRobot", "look at it", 1.0).__enter__()


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_a_child_that_will_not_end_is_ended_with_the_block(raised, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(adroit_table_pipe, "END_S", 0.2)
    stubborn = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nsay(here=1)\nwhile True:\n    time.sleep(1)\n"
    (tmp_path / "s.py").write_text(SPEAKER + stubborn)
    with pytest.raises(raised), talk(tmp_path / "s.py", tmp_path) as process:
        assert process.answer() == {"here": 1} and not gone(tmp_path / "pid")
        raise raised
    assert gone(tmp_path / "pid")


STOPPED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from flow_policy_ros.evaluation.adroit_table_pipe import child
with child([sys.executable, "-c", sys.argv[2]], "the child", "look at it", 2.0) as process:
    print(process.answer()["pid"], flush=True)
    print(process.answer(), flush=True)
"""
SLOW = "import os, time\nprint('{\"pid\": %d}' % os.getpid(), flush=True)\nfor _ in range(10):\n    time.sleep(0.1)\nprint('{}')"


def test_being_stopped_is_no_silence(root) -> None:
    """As by Ctrl-Z: both processes stand for longer than the patience, then go on."""
    both = subprocess.Popen([sys.executable, "-c", STOPPED, str(root), SLOW], stdout=subprocess.PIPE, text=True)
    try:
        number = int(both.stdout.readline())
        time.sleep(0.3)  # until it waits for the second line
        for process in (both.pid, number):
            os.kill(process, signal.SIGSTOP)
        time.sleep(3.0)
        for process in (both.pid, number):
            os.kill(process, signal.SIGCONT)
        assert both.stdout.read() == "{}\n" and both.wait() == 0
    finally:
        both.kill()
        both.wait()


def place_of(out: Path, shared: Path, interpreter: str = sys.executable, **protocol) -> Workplace:
    return replace(small(out, shared, rows=("lerobot_10",), **protocol), lerobot=Path(interpreter))


@pytest.fixture
def spoken(tmp_path, monkeypatch) -> Path:
    """The script of this file in place of LeRobot's, for the door."""
    script = speaker(tmp_path / "speaker.py", 28, 12)
    monkeypatch.setattr(bench_table_lerobot, "SCRIPT", script)
    return script


def test_the_protocol_makes_a_row_that_is_kept(spoken, tmp_path, shared) -> None:
    place = place_of(tmp_path / "out", shared)
    (cell,) = place.protocol.cells()
    table = bench_table.run(place)
    (entry,) = table["rows"]
    assert table["unfinished"] == [] and entry["row"] == "lerobot_10" and entry["any"]["mean"] == 0.0
    assert table["lerobot"]["minutes"] == 10.0
    assert "10 min of one core, weights not averaged" in (place.out / "table.md").read_text()
    result = json.loads(place.result(cell, "lerobot_10").read_text())
    assert result["steps"] == 10 and result["training"]["core_minutes"] == 0.1 and result["per_episode"][0]["seed"] == 500
    assert result["inference_ms"]["p50"] > 0 and gone(place.checkpoint(cell, ROW) / "pid")
    before = files(place.out)
    spoken.unlink()  # nothing is asked again
    assert bench_table.run(place) == table and files(place.out) == before


def test_ctrl_c_ends_the_child_too(spoken, tmp_path, shared) -> None:
    place = place_of(tmp_path / "out", shared)
    (cell,) = place.protocol.cells()
    endless = "import signal\nsay(step=1, steps=9, loss=1.0)\nos.kill(os.getppid(), signal.SIGINT)\ntime.sleep(600)\n"
    spoken.write_text(SPEAKER + endless)
    with pytest.raises(KeyboardInterrupt):
        bench_table.run(place)
    assert gone(place.checkpoint(cell, ROW) / "pid") and not (place.checkpoint(cell, ROW) / FINISHED).exists()
    assert json.loads((place.out / "table.json").read_text())["unfinished"] == [cell.name]


def test_a_budget_that_ran_out_ends_the_child_too(spoken, tmp_path, shared) -> None:
    place = place_of(tmp_path / "out", shared)
    (cell,) = place.protocol.cells()
    spoken.write_text(SPEAKER + "say(step=1, steps=9, loss=1.0)\ntime.sleep(600)\n")
    pid = place.checkpoint(cell, ROW) / "pid"
    assert trained(place, cell, ROW, lambda: 0.0 if pid.is_file() else 1.0) is None
    assert gone(pid) and not (pid.parent / FINISHED).exists()


@pytest.mark.parametrize("said", ["say(step=1)", "say(finished=3)", "say(finished={'steps': 3})"])
def test_a_training_that_says_something_else_is_named(said, spoken, tmp_path, shared) -> None:
    place = place_of(tmp_path / "out", shared)
    spoken.write_text(SPEAKER + said + "\ntime.sleep(600)\n")
    with pytest.raises(ChildError, match="expected"):
        bench_table.run(place)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rows", "lerobot_10"], "row lerobot_10 needs --lerobot, the interpreter of an environment with LeRobot"),
        (["--rows", "flow_1", "lerobot_10"], "or give --rows flow_1."),
        (["--rows", "lerobot_10", "--lerobot", "nowhere/python"], "--lerobot nowhere/python is no program that can be run"),
        (["--rows", "flow_1", "--lerobot", sys.executable], "no row uses it; add lerobot_10 to --rows"),
        (["--rows", "lerobot_10", "--lerobot", sys.executable, "--observations", "camera"], "is for --observations state alone"),
        (["--rows", "lerobot_10", "--lerobot", sys.executable, "--lerobot-minutes", "0"], "--lerobot-minutes is 0.0"),
    ],
)
def test_what_the_row_lacks_is_said_before_anything_is_made(more, message, tmp_path, shared, capsys) -> None:
    given = ["bench", "adroit", "--out", str(tmp_path / "out"), "--expert", str(shared / "adroit"), "--tasks", "door"]
    observed = [] if "--observations" in more else ["--observations", "state"]
    assert main([*given, *observed, *more]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and not printed.out and not any((tmp_path / "out").rglob("*"))


def test_the_row_is_not_among_the_default_ones_and_changes_no_other(tmp_path, shared) -> None:
    assert "lerobot_10" not in Protocol().rows and set(Protocol().rows) == set(ROWS) - {"lerobot_10"}
    place = small(tmp_path, shared)
    (cell,) = place.protocol.cells()
    longer = replace(place, protocol=replace(place.protocol, lerobot=LeRobotRecipe(minutes=20)))
    names = {name: place.result(cell, name) == longer.result(cell, name) for name in ROWS if name != "expert"}
    assert {name for name, same in names.items() if not same} == {"lerobot_10"}


@pytest.mark.slow
@needs_lerobot
def test_lerobots_own_policy_is_trained_served_and_measured(tmp_path, shared) -> None:
    place = place_of(tmp_path / "out", shared, LEROBOT, lerobot=TINY)
    (cell,) = place.protocol.cells()
    table = bench_table.run(place)
    assert table["unfinished"] == [] and [entry["row"] for entry in table["rows"]] == ["lerobot_10"]
    result = json.loads(place.result(cell, "lerobot_10").read_text())
    how = result["training"]
    assert how["steps"] >= 1 and how["samples"] == 200 - 2 * 7 and 0 < how["loss"] < 10 and how["core_minutes"] > 0
    assert not (place.checkpoint(cell, ROW) / "samples.npz").exists()
    # Served again, the same chunk; and another for another observation.
    with bench_table_lerobot.served(place, cell, "lerobot_10", place.checkpoint(cell, ROW)) as loaded:
        policy = loaded.stack.policy.policy
        assert policy.contract.horizon == 15 and policy.contract.dt_ns == DT
        chunks = []
        for shift in (0.0, 0.0, 1.0):
            loaded.stack.policy.reset()
            joints = policy.contract.joints
            loaded.stack.policy.on_joint_state(JointState(0, joints, np.full(len(joints), shift)), 0)
            loaded.stack.policy.on_features(Features(0, "objects", np.zeros((1, 12), np.float32)), 0)
            chunks.append(loaded.stack.policy.step(0).positions)
    assert np.array_equal(chunks[0], chunks[1]) and not np.array_equal(chunks[0], chunks[2])


@pytest.mark.slow
@needs_lerobot
def test_lerobots_training_learns_and_goes_on_as_if_it_had_not_been_ended(tmp_path, shared, monkeypatch) -> None:
    """Ended after it was saved and begun again: every later step has the very loss that it has in one go."""
    script = Path(bench_table_lerobot.__file__).parents[2] / "benchmarks" / "lerobot_table.py"
    place = place_of(tmp_path / "out", shared, LEROBOT)
    (cell,) = place.protocol.cells()
    from flow_policy_ros.cli.bench_table_work import demonstrations
    from flow_policy_ros.data.episodes import load_episodes

    episodes = load_episodes(demonstrations(place, cell))
    np.savez(tmp_path / "samples.npz", **samples_of(episodes, contract_of(episodes[0], ("objects",), DT, 16, 2)))
    often = tmp_path / "often.py"
    often.write_text(
        f"import sys; sys.path.insert(0, {str(script.parent)!r})\nimport lerobot_table\nlerobot_table.SAVE_EVERY = 10\n"
        "lerobot_table.Training._reckoned = lambda self, budget_s: 60\nlerobot_table.main()\n"
    )

    def losses(out: Path, last: int = 60) -> dict[int, float]:
        command = [LEROBOT, str(often), "train", "--out", str(out), "--samples", str(tmp_path / "samples.npz"), "--down-dims", "16",
                   "32", "--joint-noise", "0.01"]  # fmt: skip
        said: dict[int, float] = {}
        with child(command, "LeRobot", "look at it", 300.0) as process:
            while "finished" not in (answer := process.answer()) and answer["step"] < last:
                said[answer["step"]] = answer["loss"]
        return said

    whole, begun = losses(tmp_path / "whole", 1000), losses(tmp_path / "parts", 33)
    rest = losses(tmp_path / "parts", 1000)
    first = min(rest)
    assert sorted(whole) == list(range(1, 61)) and 21 <= first <= 61 and first % 10 == 1
    assert begun == {step: whole[step] for step in begun}
    assert rest == {step: whole[step] for step in rest}
    assert np.mean([whole[step] for step in range(51, 61)]) < np.mean([whole[step] for step in range(1, 11)])
