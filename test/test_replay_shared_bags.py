"""The shared recordings through ``flow_policy replay``: of real robots, foreign, damaged. Replayed, or refused with the remedy."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
import zstandard
from bag_support import STORE, shared, write_folder
from demo_support import untrained_policy

from flow_policy_ros.cli.main import main
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.evaluation.replay.engine import replay
from flow_policy_ros.evaluation.replay.records import ReplayMeta
from flow_policy_ros.evaluation.replay.stack import ReplaySelection, events_of, load_replay, sources_of
from flow_policy_ros.evaluation.replay.traces import TraceData, Traces
from flow_policy_ros.runtime.contract import StreamContract
from flow_policy_ros.runtime.robot import load_robot

ROBOTS = Path(__file__).resolve().parent / "robots_for_bags"
ATS = "ats-mcap-short/ros2bag_ats_2025-12-02_12-44-28"
UNNAMED = "ats-emptynames-motion/ros2bag_static_ats_invz"
LBR = "lbr-reordered/rosbag2_2023_02_01-11_21_54"
KR5 = "kr5-ros1/trajectory_data.bag"
MARS = "mars-arm-zstd/calibration_bag"
JSON = "json-mcap/trajectory_20250527_003358_00m02s.mcap"
FOLLOWED = ("command.first_command_max=10.0", "command.soft_start_s=0.0")
"""An untrained policy begins anywhere; with these the command stage follows it all the same."""
TIMED = ("wall_s", "realtime_factor", "latency_ms")
LEFT_OUT = ("recording", "joint_order", "lag", "frozen", "error", "jerk", "stagnation", "noise")
"""Checks that compare with recorded motion."""


@dataclass(frozen=True)
class Case:
    """A recording, the robot file that goes with it, and parameters: slow rates where a recording is long."""

    bag: str
    robot: str
    settings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.bag.replace("/", "-")


@dataclass(frozen=True)
class Result:
    """What a replay left: its exit code, metrics.json (None where it was refused) and the folder."""

    code: int
    metrics: dict[str, Any]
    out: Path

    def check(self, name: str) -> dict[str, Any]:
        """The check of the verdict with this name."""
        return next(check for check in self.metrics["checks"] if check["name"] == name)


CASES = (
    Case("so101-rebag/ep4", "so101", ("command.rate_hz=10.0", "policy.rate_hz=5.0")),
    Case("so101-rebag/ep5", "so101", ("command.rate_hz=10.0", "policy.rate_hz=5.0")),
    Case(ATS, "ats-mcap-short", ("command.rate_hz=25.0",)),
    Case(UNNAMED, "ats-emptynames-motion", ("command.rate_hz=10.0", "policy.rate_hz=2.0")),
    Case(LBR, "lbr-reordered", ("command.rate_hz=25.0", "policy.rate_hz=5.0")),
    Case(KR5, "kr5-ros1", ("command.rate_hz=10.0", "policy.rate_hz=2.0")),
    Case(MARS, "mars-arm", ("command.rate_hz=5.0", "policy.rate_hz=1.0")),
)
BY_BAG = {case.bag: case for case in CASES}

Replay = Callable[..., Result]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module", name="checkpoints")
def checkpoints_fixture(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], list[str]]:
    """By robot file: options of an untrained policy; for a robot with a camera one that looks through a detector."""
    folder = tmp_path_factory.mktemp("checkpoints")
    made: dict[Path, list[str]] = {}

    def options(robot_file: Path) -> list[str]:
        if robot_file in made:
            return made[robot_file]
        robot, streams, more = load_robot(robot_file), list[StreamContract](), list[str]()
        if robot.cameras:
            pytest.importorskip("rclpy")  # what is imported next needs it
            pytest.importorskip("ultralytics")
            from test_nodes_dds_lockstep import CLASSES, CONFIDENCE, untrained_detector

            from flow_policy_ros.vision.detector import load_detector
            from flow_policy_ros.vision.features import DetectionFeatures

            detector = untrained_detector(folder / "detector")
            identity = DetectionFeatures(load_detector(detector, confidence=CONFIDENCE)).identity()
            streams = [StreamContract("detections", len(CLASSES), 5, identity)]
            more = ["--detector", str(detector), "--set", f"perception.confidence={CONFIDENCE}"]
        policy = untrained_policy(folder / f"policy_{len(made)}", robot, *streams, dt_ns=40_000_000)
        made[robot_file] = ["--checkpoint", str(policy), *more]
        return made[robot_file]

    return options


@pytest.fixture(scope="module", name="run")
def run_fixture(tmp_path_factory: pytest.TempPathFactory, checkpoints: Callable[[Path], list[str]]) -> Replay:
    """Replays a recording with a robot file from the command line."""

    def run(bag: Path, robot_file: Path, settings: tuple[str, ...] = (), *more: str) -> Result:
        out = tmp_path_factory.mktemp("replayed")
        arguments = [str(bag), "--robot", str(robot_file), "--out", str(out), "--latency", "none", *checkpoints(robot_file)]
        arguments += [word for text in (*FOLLOWED, *settings) for word in ("--set", text)]
        code = main(["replay", *arguments, *more])
        return Result(code, json.loads((out / "metrics.json").read_text(), parse_constant=not_finite), out)

    return run


@pytest.fixture(scope="module", name="replayed")
def replayed_fixture(run: Replay) -> Callable[[str], Result]:
    """The result of one of ``CASES`` by its recording, made once."""
    made: dict[str, Result] = {}

    def replayed(bag: str) -> Result:
        if bag not in made:
            case = BY_BAG[bag]
            made[bag] = run(shared(bag), ROBOTS / f"{case.robot}.yaml", case.settings, "--inject", "delay=30ms±20,drop=2%")
        return made[bag]

    return replayed


def not_finite(word: str) -> None:
    pytest.fail(f"metrics.json holds {word}")


def steady(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures.items() if key not in TIMED}


def rows(path: Path, topic: str) -> list[tuple[int, list[str], np.ndarray]]:
    """(received, names, positions) of joint messages as they are in a recording."""
    with contextlib.closing(open_bag(path)) as bag:
        found = [(message.received, bag.decode(message)) for message in bag.messages([topic])]
    return [(received, list(message.name), np.array(message.position)) for received, message in found]


def executed(result: Result) -> dict[int, tuple[list[str], bytes]]:
    """Names and positions of the set-points by instant."""
    return {stamp: (names, row.tobytes()) for stamp, names, row in rows(result.out / "replay.mcap", "/command/executed")}


def refused(result: Result, capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence of a refusal, which is the same in metrics.json."""
    assert result.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error and error.count("\n") == 1
    assert list(result.metrics) == ["refused"] and result.metrics["refused"] in error
    assert not (result.out / "report.html").exists()
    return error


def edited(source: str, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A robot file of ``robots_for_bags`` with its robot block changed."""
    tree = yaml.safe_load((ROBOTS / f"{source}.yaml").read_text())
    change(tree["/**"]["ros__parameters"]["robot"])
    path = folder / "edited.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.mark.parametrize("case", CASES, ids=str)
def test_real_robots_are_replayed(case: Case, replayed: Callable[[str], Result]) -> None:
    result = replayed(case.bag)
    found = result.metrics
    assert result.code == 1 and found["verdict"] in ("bad", "unjudged") and found["reasons"]  # untrained: never good
    robot = load_robot(ROBOTS / f"{case.robot}.yaml")
    states, period_s = rows_of_states(case, robot.joint_state_topic), 1 / found["settings"]["command.rate_hz"]
    assert found["duration_s"] == pytest.approx((states[-1] - states[0]) / 1e9, abs=3 * period_s)
    assert found["ticks"] == pytest.approx(found["duration_s"] / period_s + 1, abs=2)
    assert found["active_fraction"] > 0.7 and found["stale_fraction"] < 0.2 and not found["faults"], "the policy is followed"
    assert found["chunks"] >= 0.8 * found["duration_s"] * found["settings"]["policy.rate_hz"]
    assert found["bad"] == {} and (result.out / "report.html").stat().st_size > 10_000
    commands = executed(result)
    assert len({row for _, row in commands.values()}) > 20, "it moves, so that what is measured means something"
    limits = robot.limits
    for names, row in commands.values():
        assert names == list(robot.joints)
        assert (np.frombuffer(row) >= limits.lower - 1e-9).all() and (np.frombuffer(row) <= limits.upper + 1e-9).all()


def rows_of_states(case: Case, topic: str) -> list[int]:
    """Instants of receipt of the joint states."""
    with contextlib.closing(open_bag(shared(case.bag))) as bag:
        return [message.received for message in bag.messages(["/" + topic.lstrip("/")])]


@pytest.mark.parametrize("bag", ["so101-rebag/ep4", ATS])
def test_a_replay_repeats(bag: str, replayed: Callable[[str], Result], run: Replay) -> None:
    case, first = BY_BAG[bag], replayed(bag)
    settings = (shared(bag), ROBOTS / f"{case.robot}.yaml", case.settings, "--inject", "delay=30ms±20,drop=2%")
    again = run(*settings)
    assert steady(again.metrics) == steady(first.metrics) and executed(again) == executed(first)
    if bag == ATS:  # and it is no matter of nothing being drawn
        assert run(*settings, "--seed", "77").metrics["commands_sha256"] != first.metrics["commands_sha256"]


@pytest.mark.parametrize("bag", ["so101-rebag/ep4", "so101-rebag/ep5"])
def test_a_recording_in_which_nothing_moves_is_not_judged(bag: str, replayed: Callable[[str], Result]) -> None:
    result = replayed(bag)
    states = rows(shared(bag), "/follower/joint_states")
    assert np.ptp([row for _, _, row in states], axis=0).max() < 0.02  # it is so
    assert result.metrics["joints_still"] == list(load_robot(ROBOTS / "so101.yaml").joints)
    recording = result.check("recording")
    assert not recording["ok"] and "none of its 6 commanded joints moves, so that nothing can be compared" in recording["sentence"]
    for name in LEFT_OUT[1:]:
        assert result.check(name)["ok"] and result.check(name)["sentence"].startswith("not judged")


def test_a_camera_is_looked_through(replayed: Callable[[str], Result]) -> None:
    result = replayed("so101-rebag/ep5")
    with contextlib.closing(open_bag(shared("so101-rebag/ep5"))) as bag:
        pictures = bag.topics["/follower/cam_front/image_raw/compressed"].count
    assert 0.9 * result.metrics["ticks"] <= result.metrics["features"]["detections"]["count"] < pictures  # the newest of a tick
    assert result.metrics["latency_ms"]["perception"]["p50"] > 0.0
    assert "data:image/jpeg;base64," in (result.out / "report.html").read_text(encoding="utf-8")
    with contextlib.closing(open_bag(result.out / "replay.mcap")) as bag:
        assert bag.topics["/perception/overlay/compressed"].count == result.metrics["features"]["detections"]["count"]


def test_commands_and_states_of_other_names_are_those_of_the_robot(replayed: Callable[[str], Result]) -> None:
    """States call the joints q0, q1, q2 and commands q1, q2, q3: taken by these names the wrong ones would be compared."""
    result = replayed(ATS)
    commands, names = rows(shared(ATS), "/controller/out/servo_positions"), {"q1": "pivot", "q2": "shoulder", "q3": "elbow"}
    moved = dict(zip(commands[0][1], np.ptp([row for _, _, row in commands], axis=0), strict=True))
    assert result.metrics["motion"] == pytest.approx({joint: moved[name] for name, joint in names.items()})
    given = rows(result.out / "replay.mcap", "/replay/recorded")
    assert [(t, [names[name] for name in n], row.tolist()) for t, n, row in commands] == [(t, n, r.tolist()) for t, n, r in given]
    states, given = rows(shared(ATS), "/servo/out/state"), rows(result.out / "replay.mcap", "/servo/out/state")
    assert states[0][1] == ["q0", "q1", "q2"] and given[0][1] == ["pivot", "shoulder", "elbow"]
    assert [row.tolist() for _, _, row in states] == [row.tolist() for _, _, row in given]


def test_without_the_map_of_names_it_says_which_are_there(run: Replay, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    robot_file = edited("ats-mcap-short", tmp_path, lambda robot: robot.pop("joint_state_names"))
    error = refused(run(shared(ATS), robot_file), capsys)
    assert "missing ['pivot', 'shoulder', 'elbow']" in error
    assert "joints that the robot file has not: q0, q1, q2" in error and "robot.joint_state_names" in error


def test_without_the_map_of_commands_nothing_is_compared(run: Replay, tmp_path: Path) -> None:
    robot_file = edited("ats-mcap-short", tmp_path, lambda robot: robot["recorded"].pop("command_names"))
    result = run(shared(ATS), robot_file, BY_BAG[ATS].settings)
    assert result.metrics["joints_unknown"] == ["pivot", "shoulder", "elbow"] and result.metrics["chunks_compared"] == 0
    recording = result.check("recording")
    assert not recording["ok"] and "none of its commands is for a joint of the robot" in recording["sentence"]
    assert any("robot.recorded.command_names" in problem and "q1, q2, q3" in problem for problem in result.metrics["problems"])


def test_a_recorded_robot_that_does_not_obey_is_not_the_policys_fault(run: Replay, tmp_path: Path) -> None:
    def watch(robot: dict[str, Any]) -> None:
        robot["limits"]["elbow"]["tracking"] = 0.05

    result = run(shared(ATS), edited("ats-mcap-short", tmp_path, watch), BY_BAG[ATS].settings)
    assert result.metrics["faults"].get("tracking_error") and result.metrics["resets"]
    assert result.check("faults")["ok"] and "tracking_error" in result.check("recording")["sentence"]


def traces_of(case: Case, checkpoint: str) -> TraceData:
    """What the report draws, from a replay in this process."""
    settings = dict(text.split("=") for text in (*FOLLOWED, *case.settings))
    selection = ReplaySelection(
        ROBOTS / f"{case.robot}.yaml", Path(checkpoint), settings={name: float(value) for name, value in settings.items()}
    )
    loaded, traces = load_replay(selection), Traces(rows=1 << 14)
    with contextlib.closing(open_bag(shared(case.bag))) as bag:
        sources = sources_of(bag, loaded)
        stack, ahead = loaded.open(sources)
        period_ns = round(1e9 / loaded.parts.command_parameters.rate_hz)
        meta = ReplayMeta(str(bag.path), loaded.robot.name, checkpoint, loaded.robot.joints, period_ns)
        replay(events_of(bag, loaded.robot, sources, "header"), stack, [traces], meta, sources.camera, ahead)
    data = traces.data()
    assert data.stride == 1
    return data


class TestReordered:
    """Joint states in the order 1, 2, 3, 0, 4, 5, 6."""

    def test_measured_columns_are_the_joints_of_their_names(self, checkpoints: Callable[[Path], list[str]]) -> None:
        case = BY_BAG[LBR]
        data = traces_of(case, checkpoints(ROBOTS / f"{case.robot}.yaml")[1])
        states = raw_states(shared(LBR))
        assert states[0][1] != sorted(states[0][1])  # else order would mean nothing
        received = np.array([received for received, _, _ in states])
        table = np.array([[row[names.index(joint)] for joint in data.joints] for _, names, row in states])
        newest = np.searchsorted(received, data.stamps, side="right") - 1
        np.testing.assert_array_equal(data.measured, table[newest])
        # The command stage begins where the robot is, and that is another place for every joint.
        assert len({round(value, 4) for value in table[0]}) == len(data.joints)
        first = int(np.flatnonzero(np.isfinite(data.commanded).all(axis=1))[0])
        robot = load_robot(ROBOTS / f"{case.robot}.yaml")
        period_s = data.period_ns / 1e9
        assert (np.abs(data.commanded[first] - data.measured[first]) <= robot.limits.velocity * period_s).all()

    def test_the_order_in_the_messages_makes_no_difference(self, run: Replay, tmp_path: Path) -> None:
        case = BY_BAG[LBR]
        robot_file = ROBOTS / f"{case.robot}.yaml"
        joints = load_robot(robot_file).joints
        kept = [(t, message) for t, message in raw_messages(shared(LBR))][: 400 * 2]
        hashes = {}
        for name, names, columns in (
            ("as it is", None, None), ("sorted", list(joints), True), ("names alone sorted", list(joints), False),
        ):  # fmt: skip
            changed = []
            for received, message in kept:
                given = list(message.name)
                order = [given.index(joint) for joint in joints] if columns else list(range(len(given)))
                values = {key: np.array(getattr(message, key))[order] for key in ("position", "velocity", "effort")
                          if len(getattr(message, key))}  # fmt: skip
                values |= {key: np.zeros(0) for key in ("position", "velocity", "effort") if key not in values}
                changed.append((received, type(message)(header=message.header, name=names or given, **values)))
            bag = write_folder(tmp_path / name.replace(" ", "_"), changed)
            result = run(bag, robot_file, case.settings)
            assert result.metrics["chunks"] > 10
            hashes[name] = result.metrics["commands_sha256"]
        assert hashes["as it is"] == hashes["sorted"] != hashes["names alone sorted"]

    def test_without_commands_the_verdict_says_so(self, replayed: Callable[[str], Result]) -> None:
        result = replayed(LBR)
        recording = result.check("recording")
        assert not recording["ok"] and "it holds no commands" in recording["sentence"] and "robot.recorded" in recording["sentence"]
        assert result.metrics["recorded_commands"] == 0 and all(result.check(name)["ok"] for name in LEFT_OUT[1:])


def raw_messages(folder: Path) -> list[tuple[int, Any]]:
    """Joint states straight from the data base, past our readers."""
    (path,) = folder.glob("*.db3")
    with contextlib.closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as database:
        query = ("SELECT timestamp, data FROM messages JOIN topics ON topics.id = topic_id "
                 "WHERE name = '/joint_states' ORDER BY timestamp")  # fmt: skip
        found = database.execute(query).fetchall()
    return [(received, STORE.deserialize_cdr(data, "sensor_msgs/msg/JointState")) for received, data in found]


def raw_states(folder: Path) -> list[tuple[int, list[str], np.ndarray]]:
    return [(received, list(message.name), np.array(message.position)) for received, message in raw_messages(folder)]


class TestUnnamed:
    """Joint states without names, and commands that pause for 63 s."""

    def test_without_an_order_it_is_refused(self, run: Replay, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        robot_file = edited("ats-emptynames-motion", tmp_path, lambda robot: robot.pop("joint_state_order"))
        error = refused(run(shared(UNNAMED), robot_file), capsys)
        assert "3 positions and no names" in error and "Give robot.joint_state_order" in error

    def test_an_order_of_another_length_is_refused(
        self, run: Replay, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        more = {"joint_state_order": ["pivot", "shoulder", "elbow", "tool"]}
        error = refused(run(shared(UNNAMED), edited("ats-emptynames-motion", tmp_path, lambda robot: robot.update(more))), capsys)
        assert "robot.joint_state_order has 4 joints; expected as many" in error

    def test_the_order_is_what_the_robot_file_says(self, replayed: Callable[[str], Result]) -> None:
        given = rows(replayed(UNNAMED).out / "replay.mcap", "/servo/out/state")
        states = rows(shared(UNNAMED), "/servo/out/state")
        assert states[0][1] == [] or set(states[0][1]) == {""}
        assert given[0][1] == ["pivot", "shoulder", "elbow"]
        assert [row.tolist() for _, _, row in given] == [row.tolist() for _, _, row in states]

    def test_while_commands_pause_the_last_one_counts(
        self, replayed: Callable[[str], Result], checkpoints: Callable[[Path], list[str]]
    ) -> None:
        found, commands = replayed(UNNAMED).metrics, rows(shared(UNNAMED), "/servo/in/references/joint_references")
        received = np.array([t for t, _, _ in commands])
        pause = int(np.argmax(np.diff(received)))
        assert np.diff(received)[pause] > 63e9
        assert found["recorded_commands"] == len(commands) == 755 and found["recorded_refused"] == 0
        assert found["resets"] == 0 and found["chunks"] > 250  # policy and robot go on in the pause …
        assert 55 < found["chunks_compared"] < 100  # … and what nobody recorded for a second is not waited for
        assert found["motion"] == pytest.approx({"pivot": 1.3, "shoulder": 0.0, "elbow": 2.7})
        assert found["recorded_over_limits"] < 0.05
        # Two jumps are all that these commands do: nothing is said of standing still.
        assert replayed(UNNAMED).check("stagnation")["sentence"].startswith("not judged")
        slow = Case(UNNAMED, "ats-emptynames-motion", ("command.rate_hz=5.0", "policy.rate_hz=0.2"))
        data = traces_of(slow, checkpoints(ROBOTS / f"{slow.robot}.yaml")[1])
        inside = (data.stamps > received[pause]) & (data.stamps < received[pause + 1])
        assert inside.sum() > 300
        np.testing.assert_array_equal(data.recorded[inside], np.tile(commands[pause][2], (int(inside.sum()), 1)))


def test_a_ros_1_controllers_state_is_state_and_command(replayed: Callable[[str], Result]) -> None:
    result = replayed(KR5)
    with contextlib.closing(open_bag(shared(KR5))) as bag:
        states = [(m.received, bag.decode(m)) for m in bag.messages(["/arm_controller/state"])]
    told, measured = (rows(result.out / "replay.mcap", topic) for topic in ("/replay/recorded", "/arm_controller/state"))
    assert len(states) == len(told) == len(measured) == 562 and result.metrics["recorded_commands"] == 562
    assert told[0][1] == measured[0][1] == list(states[0][1].joint_names)
    assert [row.tolist() for _, _, row in told] == [list(state.desired.positions) for _, state in states]
    assert [row.tolist() for _, _, row in measured] == [list(state.actual.positions) for _, state in states]
    assert result.metrics["joints_still"] == ["joint_a4"]
    assert "not judged, since they stand still in it: joint_a4" in result.check("recording")["sentence"]


class TestJson:
    """JSON in MCAP, joint states at 2 Hz, commands of a type that nobody knows."""

    @pytest.fixture
    def robot_file(self, tmp_path: Path) -> Path:
        names = [f"fr3_joint{k}" for k in range(1, 8)] + ["fr3_finger_joint1", "fr3_finger_joint2"]
        limits = {name: {"position": [-3.2, 3.2], "velocity": 2.0, "acceleration": 10.0, "jerk": 100.0} for name in names}
        robot = {"name": "fr3", "joints": names, "limits": limits, "recorded": {"command_topic": "action"}}
        path = tmp_path / "fr3.yaml"
        path.write_text(yaml.safe_dump({"/**": {"ros__parameters": {
            "robot": robot, "policy": {"joint_state_max_age_s": 1.0}, "command": {"joint_state_max_age_s": 1.0}}}}))  # fmt: skip
        return path

    def test_known_types_are_replayed_by_their_fields(self, run: Replay, robot_file: Path) -> None:
        result = run(shared(JSON), robot_file)
        assert result.code == 1 and result.metrics["duration_s"] == pytest.approx(1.5, abs=0.05) and result.metrics["chunks"] > 5
        with contextlib.closing(open_bag(shared(JSON))) as bag:
            states = [json.loads(bytes(message.data)) for message in bag.messages(["/joint_states"])]
        given = rows(result.out / "replay.mcap", "/joint_states")
        assert len(given) == 4 and [row.tolist() for _, _, row in given] == [state["position"] for state in states]
        (problem,) = [p for p in result.metrics["problems"] if p.startswith("robot.recorded.command_topic")]
        assert "topic /action is labelbox_robotics.Action, expected" in problem
        assert "it holds no commands" in result.check("recording")["sentence"]

    def test_another_robot_is_told_where_joint_states_are(self, run: Replay, capsys: pytest.CaptureFixture[str]) -> None:
        robot_file = ROBOTS / "lbr-reordered.yaml"
        error = refused(run(shared(JSON), robot_file), capsys)
        assert "missing ['lbr_joint_0'" in error and "fr3_joint1" in error and "robot.joint_state_names" in error
        error = refused(run(shared(JSON), ROBOTS / "kr5-ros1.yaml"), capsys)
        assert "topic arm_controller/state is not in the recording; topics of that type: /joint_states" in error
        assert f"name it in robot file {ROBOTS / 'kr5-ros1.yaml'}" in error


EDGES = {
    "compressed_bag_file_zstd": (),
    "mcap_bag_with_topics_and_service_events": ("/test_service1/_service_event", "/test_topic2"),
    "mcap_split3_nometa": ("has no metadata.yaml",),
    "mcap_wbag_split5": ("AAA, BBB, CCC", "metadata.yaml says 2623 to 3034 ns"),
    "sqlite3_convert_a": (),
    "sqlite3_empty_bag": ("/rosout", "disagree on the QoS of /parameter_events"),
}


@pytest.mark.parametrize("name", EDGES)
def test_recordings_without_joint_states_are_refused(name: str, run: Replay, capsys: pytest.CaptureFixture[str]) -> None:
    path = shared(f"rosbag2-edges/{name}")
    error = refused(run(path, ROBOTS / "lbr-reordered.yaml"), capsys)
    assert f"recording {path} has no joint state of robot 'lbr'" in error
    assert "robot.joint_state_topic: topic joint_states is not in the recording" in error
    with contextlib.closing(open_bag(path)) as bag:
        assert all(topic in error for topic in bag.topics) and len(bag.topics) > 0
    assert "name it in robot file" in error and "flow_policy record" in error
    assert all(words in error for words in EDGES[name])


def test_every_shared_recording_is_here() -> None:
    tested = {*BY_BAG, JSON, *(f"rosbag2-edges/{name}" for name in EDGES)}
    root = shared("so101-rebag").parent
    there = {p for p in root.rglob("*") if p.suffix in (".mcap", ".db3", ".bag", ".zstd", ".zst")}
    assert {p for p in there if not any(p == root / t or (root / t) in p.parents for t in tested)} == set()
    assert len(tested) == 14


def cut(source: Path, path: Path, share: float) -> Path:
    """The first ``share`` of a file."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


class TestDamaged:
    """Cut copies are replayed as far as they can be read: up to there the set-points are those of the whole recording."""

    @pytest.fixture(params=["mcap", "db3", "zst", "ros1"])
    def damaged(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Case, Path, tuple[str, ...]]]:
        """(the whole one, a cut copy, what is said about it)"""
        if request.param == "mcap":
            (source,) = shared(ATS).glob("*.mcap")
            yield BY_BAG[ATS], cut(source, tmp_path / "cut.mcap", 0.6), ("was not closed", "cut off or damaged at byte")
        elif request.param == "ros1":
            yield BY_BAG[KR5], cut(shared(KR5), tmp_path / "cut.bag", 0.5), ("cut off or damaged",)
        else:
            (source,) = shared(LBR).glob("*.db3")
            if request.param == "db3":
                yield BY_BAG[LBR], cut(source, tmp_path / "cut.db3", 0.5), ("is damaged", "the others are lost")
                return
            packed = tmp_path / "whole.zst"
            packed.write_bytes(zstandard.compress(source.read_bytes()))
            words = ("cut off: decompression ended after", "the others are lost")
            yield BY_BAG[LBR], cut(packed, tmp_path / "cut.db3.zst", 0.5), words

    def test_what_is_left_is_replayed(
        self, damaged: tuple[Case, Path, tuple[str, ...]], run: Replay, replayed: Callable[[str], Result]
    ) -> None:
        case, path, words = damaged
        result = run(path, ROBOTS / f"{case.robot}.yaml", case.settings, "--inject", "delay=30ms±20,drop=2%")
        whole = replayed(case.bag)
        assert result.code == 1 and 0.1 < result.metrics["duration_s"] / whole.metrics["duration_s"] < 0.9
        for said in words:
            assert any(path.name in problem and said in problem for problem in result.metrics["problems"]), said
        left, all_of_them = executed(result), executed(whole)
        assert len(left) > 50 and {stamp: all_of_them.get(stamp) for stamp in left} == left

    def test_of_nothing_the_damage_is_the_reason(
        self, run: Replay, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (source,) = shared(ATS).glob("*.mcap")
        path = cut(source, tmp_path / "stump.mcap", 0.0004)
        error = refused(run(path, ROBOTS / "ats-mcap-short.yaml"), capsys)
        assert "stump.mcap was not closed" in error
        path.write_bytes(b"")
        assert "stump.mcap is empty (0 bytes)" in refused(run(path, ROBOTS / "ats-mcap-short.yaml"), capsys)
