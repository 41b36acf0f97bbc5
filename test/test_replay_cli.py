"""``flow_policy replay``: what it writes, what it refuses and in which words, one process or several, parameters set by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from replay_support import START, STREAM, TICK, recording, write_checkpoint, write_robot

from flow_policy_ros.cli.main import main
from flow_policy_ros.cli.replay import names_of
from flow_policy_ros.data.bag_events import CommandEvent, FeaturesEvent
from flow_policy_ros.data.bags import messages
from flow_policy_ros.data.bags.mcap_writer import McapWriter
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.runtime.latency import LatencyProfile
from flow_policy_ros.runtime.overlay import parse_settings, write_overlay
from flow_policy_ros.runtime.parameters import CommandParameters, ParameterError, PolicyParameters, from_flat
from flow_policy_ros.runtime.robot import RobotFileError, load_robot

KEYS = ("verdict", "reasons", "error", "seam", "jerk_ratio", "stale_fraction", "latency_ms", "realtime_factor")
TIMED = ("wall_s", "realtime_factor", "latency_ms", "bag", "problems")
"""What differs between two runs of one recording, or two recordings of one motion."""


def write_bag(path: Path, ticks: int = 120, features: bool = True) -> Path:
    """The recording of ``replay_support`` as an MCAP file."""
    with McapWriter(path, "zstd") as bag:
        for event in recording(ticks):
            if isinstance(event, CommandEvent):
                data = messages.joint_state(event.stamp, event.names, event.position)
                bag.put("/command/executed", messages.JOINT_STATE, event.received, data)
            elif isinstance(event, FeaturesEvent):
                if features:
                    bag.put("/features/touch", messages.IMAGE, event.received, messages.features(event.features))
            else:
                data = messages.joint_state(event.state.stamp, event.state.names, event.state.position)
                bag.put("/joint_states", messages.JOINT_STATE, event.received, data)
    return path


@pytest.fixture
def robot(tmp_path) -> Path:
    return write_robot(tmp_path)


@pytest.fixture
def common(tmp_path, robot) -> list[str]:
    """Options of a replay without injected latency, into ``tmp_path/out``."""
    checkpoint = write_checkpoint(tmp_path, STREAM)
    return ["--robot", str(robot), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out"), "--latency", "none"]


def metrics(path: Path) -> dict:
    return json.loads((path / "metrics.json").read_text())


def steady(figures: dict) -> dict:
    return {key: value for key, value in figures.items() if key not in TIMED}


def refusal(capsys, *arguments: str) -> str:
    """What a refused command line says, in one paragraph."""
    assert main(["replay", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_the_sample_is_good_and_everything_is_written(tmp_path, root, capsys):
    profile = LatencyProfile({"perception": (25.0, 31.0), "inference": (18.0, 22.0)}, "a test")
    profile.save(tmp_path / "latency.json")
    out = tmp_path / "out"
    code = main(["replay", str(root / "samples/adroit_door/seed_5000"), "--robot", "adroit_door", "--checkpoint",
                 "adroit_door_camera", "--out", str(out), "--latency", str(tmp_path / "latency.json"), "--seed", "5",
                 "--json", str(tmp_path / "figures.json")])  # fmt: skip
    found = metrics(out)
    assert code == 0, found["reasons"]
    assert json.loads((tmp_path / "figures.json").read_text()) == found
    assert set(KEYS) <= set(found) and found["verdict"] == "good" and found["reasons"] == []
    assert found["ticks"] == 200 and found["chunks"] >= 45 and found["duration_s"] == pytest.approx(1.99)
    settings = found["settings"]
    assert settings["latency_sha256"] == profile.sha256() and settings["policy.seed"] == 5
    assert settings["detector"].endswith("adroit_door_detector")
    assert "plotly" in (out / "report.html").read_text(encoding="utf-8").lower()
    written = open_bag(out / "replay.mcap")
    assert {"/command/executed", "/policy/chunk", "/features/detections"} <= set(written.topics)
    assert "good" in capsys.readouterr().out


def test_what_a_checkpoint_observes_has_to_be_in_the_recording(tmp_path, root, capsys, common):
    sample = str(root / "samples/adroit_door/seed_5000")
    there = ["--robot", "adroit_door", "--out", str(tmp_path / "o"), "--latency", "none"]
    error = refusal(capsys, sample, "--checkpoint", "adroit_door_state", *there)
    assert "observes the stream 'objects', the simulator's object state, which no sensor gives" in error
    assert "no topic features/objects" in error and "/camera/image_raw/compressed" in error
    bag = write_bag(tmp_path / "bag.mcap", features=False)
    assert "observes the stream 'touch', which nothing here computes" in refusal(capsys, str(bag), *common)
    camera = write_robot_of(tmp_path, "sightless", cameras={})
    error = refusal(capsys, sample, "--checkpoint", "adroit_door_camera", "--robot", str(camera), *there[2:])
    assert "robot file" in error and "has no camera" in error
    assert not (tmp_path / "out/report.html").exists()


def write_robot_of(folder: Path, name: str, **changes: object) -> Path:
    """The door's robot file with other entries of its robot block, under another name."""
    from flow_policy_ros import resources

    tree = yaml.safe_load(resources.robot_file("adroit_door").read_text())
    tree["/**"]["ros__parameters"]["robot"] |= changes
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_what_does_not_fit_is_refused_before_anything_runs(tmp_path, root, capsys, common, robot):
    bag = str(write_bag(tmp_path / "bag.mcap"))
    other = write_robot_of(tmp_path, "door")
    assert "does not fit robot file" in refusal(capsys, bag, *common, "--robot", str(other))
    blind = refusal(capsys, bag, *common, "--detector", "adroit_door_detector")
    assert "observes ['touch'] and nothing that a camera sees" in blind
    assert "no recording is given" in refusal(capsys, *common)
    assert "does not exist" in refusal(capsys, str(tmp_path / "absent.mcap"), *common)
    assert "policy.mode is 'rtc', but with 2 solver steps" in refusal(capsys, bag, *common, "--mode", "rtc")
    assert "--batch is 0" in refusal(capsys, bag, *common, "--batch", "0")
    assert "--jobs is 0" in refusal(capsys, bag, *common, "--jobs", "0")
    assert "'3ms' is no number" in refusal(capsys, bag, *common, "--inject", "drop=3ms")
    assert "latency profile absent.json cannot be read" in refusal(capsys, bag, *common, "--latency", "absent.json")
    assert "'nowhere' does not exist" in refusal(capsys, bag, *common, "--compare", "nowhere")
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"metrics.json"}  # which says of absent.mcap that it was refused


def test_a_recording_of_another_robot_says_what_it_lacks(tmp_path, common, capsys):
    with McapWriter(tmp_path / "foreign.mcap", "zstd") as bag:
        for k in range(20):
            data = messages.joint_state(START + k * TICK, ("j1", "j2"), np.zeros(2))
            bag.put("/joint_states", messages.JOINT_STATE, START + k * TICK, data)
            bag.put("/features/touch", messages.IMAGE, START + k * TICK,
                    messages.features(next(e for e in recording(1) if isinstance(e, FeaturesEvent)).features))  # fmt: skip
    error = refusal(capsys, str(tmp_path / "foreign.mcap"), *common)
    assert "no joint state of robot 'hand' that can be used" in error and "missing ['wrist', 'thumb']" in error
    with McapWriter(tmp_path / "silent.mcap", "zstd") as bag:
        bag.put("/features/touch", messages.IMAGE, START, messages.features(
            next(e for e in recording(1) if isinstance(e, FeaturesEvent)).features))  # fmt: skip
    assert "robot.joint_state_topic: topic joint_states is not in the recording" in refusal(
        capsys, str(tmp_path / "silent.mcap"), *common)  # fmt: skip


def test_several_recordings_alike_in_one_process_and_in_two(tmp_path, common, capsys):
    (tmp_path / "twin").mkdir()
    bags = [str(write_bag(path)) for path in (tmp_path / "a.mcap", tmp_path / "b.mcap", tmp_path / "twin/a.mcap")]
    (tmp_path / "broken.mcap").write_bytes(b"nothing of the kind")
    results = {}
    for jobs in ("1", "2"):
        out = tmp_path / f"out{jobs}"
        code = main(["replay", *bags, str(tmp_path / "broken.mcap"), *common, "--out", str(out), "--jobs", jobs,
                     "--inject", "delay=30ms±20,drop=2%", "--batch", "4"])  # fmt: skip
        results[jobs] = metrics(out)
        assert list(results[jobs]["bags"]) == ["a", "b", "a_2", "broken"]
        assert results[jobs]["verdict"] == "bad" and code == 1  # the untrained policy's
        assert "begins with b'nothing" in results[jobs]["bags"]["broken"]["refused"]
        assert any(reason.startswith("a_2: ") for reason in results[jobs]["reasons"])
        assert metrics(out / "b") == results[jobs]["bags"]["b"] and (out / "a_2/report.html").is_file()
    for name in ("a", "b", "a_2"):
        one, two = (results[jobs]["bags"][name] for jobs in ("1", "2"))
        assert steady(one) == steady(two)
        assert one["commands_sha256"] == results["1"]["bags"]["a"]["commands_sha256"]
    assert "refused" in capsys.readouterr().out


def test_a_damaged_recording_is_replayed_as_far_as_it_can_be_read(tmp_path, common):
    bag = write_bag(tmp_path / "bag.mcap", ticks=2000)
    whole = bag.read_bytes()
    bag.write_bytes(whole[: len(whole) // 5])  # the index alone is half of the file
    main(["replay", str(bag), *common, "--batch", "16"])
    found = metrics(tmp_path / "out")
    assert 300 < found["ticks"] < 1500 and any("bag.mcap" in problem for problem in found["problems"])


def test_where_clocks_disagree_the_instants_of_receipt_are_offered_and_work(tmp_path, common):
    with McapWriter(tmp_path / "bag.mcap", "zstd") as bag:
        for event in recording(150):
            if not isinstance(event, CommandEvent | FeaturesEvent):
                data = messages.joint_state(event.received - 10**12, event.state.names, event.state.position)
                bag.put("/joint_states", messages.JOINT_STATE, event.received, data)
            elif isinstance(event, FeaturesEvent):
                bag.put("/features/touch", messages.IMAGE, event.received, messages.features(event.features))
    assert main(["replay", str(tmp_path / "bag.mcap"), *common]) == 1
    found = metrics(tmp_path / "out")
    assert any("--stamps receive" in problem for problem in found["problems"])
    assert any("never started: joint state is stale" in problem for problem in found["problems"]) and found["chunks"] == 0
    main(["replay", str(tmp_path / "bag.mcap"), *common, "--stamps", "receive"])
    assert metrics(tmp_path / "out")["chunks"] == 38 and not metrics(tmp_path / "out")["faults"]


def test_a_second_variant_stands_beside_the_first(tmp_path, common):
    bag = str(write_bag(tmp_path / "bag.mcap"))
    second = write_checkpoint(tmp_path, STREAM, name="second")
    main(["replay", bag, *common, "--set", "command.smoothing=0.05", "--compare", str(second), "--compare-set",
          "safety.scale.fingers=0.5", "--compare-set", "policy.mode=ensemble"])  # fmt: skip
    found = metrics(tmp_path / "out")
    assert found["checkpoint"].endswith("/c") and found["compare"]["checkpoint"].endswith("/second")
    settings, other = found["settings"], found["compare"]["settings"]
    assert settings["policy.mode"] == "receding" and "command.group_scale" not in settings
    assert (other["policy.mode"], other["command.group_scale"], other["command.smoothing"]) == ("ensemble", "fingers=0.5", 0.05)
    assert found["commands_sha256"] != found["compare"]["commands_sha256"]
    assert (tmp_path / "out/replay_compare.mcap").is_file()
    alone = metrics_of(bag, common, tmp_path / "alone", "--set", "command.smoothing=0.05")
    assert alone["commands_sha256"] == found["commands_sha256"]  # the second one changes nothing for the first


def metrics_of(bag: str, common: list[str], out: Path, *more: str) -> dict:
    main(["replay", bag, *common, "--out", str(out), *more])
    return metrics(out)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("policy.mode", "has no value, expected NAME:=VALUE"),
        ("policy.mode=fast", "parameter policy.mode is 'fast', expected one of receding"),
        ("policy.mdoe=rtc", "unknown parameter policy.mdoe; known: policy.checkpoint"),
        ("policy.rate_hz=1e9", "parameter policy.rate_hz is 1000000000.0 Hz, expected 0.1 to 200.0"),
        ("policy.rate_hz=often", "parameter policy.rate_hz is 'often', expected float"),
        ("policy.steps=2.5", "parameter policy.steps is 2.5, expected int"),
        ("command.slow_down=perhaps", "parameter command.slow_down is 'perhaps', expected bool"),
        ("policy.checkpoint=c", "policy.checkpoint cannot be tuned in a replay: it is given with --checkpoint"),
        ("perception.extractor=vlm", "perception.extractor cannot be tuned in a replay: the checkpoint says"),
        ("perception.instruction=go", "perception.instruction cannot be tuned in a replay: the recording says"),
        ("perception.points=2x2", "perception.points cannot be tuned in a replay"),
        ("command.deadman=bool", "command.deadman cannot be tuned in a replay: no recording says"),
        ("sim.seed=3", "parameter sim.seed belongs to 'sim', which has no part in a replay"),
        ("speed=3", "parameter speed is unknown; tunable are policy.*, command.*, perception.*, safety.scale.GROUP"),
        ("safety.scale.toes=0.5", "robot 'hand' has no group 'toes', expected one of arm, fingers"),
        ("safety.scale.arm=1.1", "the factor is '1.1', expected a number above 0 and at most 1."),
    ],
)
def test_settings_are_refused_in_the_words_of_the_nodes(robot, text, words):
    with pytest.raises((ParameterError, RobotFileError)) as error:
        parse_settings([text], load_robot(robot))
    assert words in str(error.value)


def test_settings_given_twice_are_refused(robot):
    with pytest.raises(ParameterError, match=r"policy.seed is given twice"):
        parse_settings(["policy.seed:=1", "policy.seed=2"], load_robot(robot))


def test_scales_of_groups_are_added_to_those_of_the_robot_file(tmp_path):
    robot = load_robot(write_robot(tmp_path, command={"group_scale": "arm=0.8 fingers=0.7"}))
    assert parse_settings(["safety.scale.fingers=0.5"], robot) == {"command.group_scale": "arm=0.8 fingers=0.5"}
    given = parse_settings(["safety.scale.fingers=0.5", "command.group_scale=arm=0.1", "command.limit_scale=1"], robot)
    assert given == {"command.group_scale": "arm=0.1 fingers=0.5", "command.limit_scale": 1.0}


def test_saved_parameters_are_those_that_the_nodes_load(tmp_path, common, robot):
    """The file goes on top of the robot file, as --params-file of real nodes; the values are the replay's, types and all."""
    rclpy = pytest.importorskip("rclpy")
    from rclpy.node import Node

    from flow_policy_ros.ros.parameters import NodeParameters

    saved = tmp_path / "tuned.yaml"
    bag = str(write_bag(tmp_path / "bag.mcap"))
    texts = ["command.limit_scale=1", "command.slow_down=false", "safety.scale.fingers=0.5", "policy.overlap_s=1e-3"]
    texts.append("policy.solver=")
    arguments = [word for text in texts for word in ("--set", text)]
    main(["replay", bag, *common, *arguments, "--mode", "ensemble", "--seed", "9", "--save-params", str(saved)])
    parameters = yaml.safe_load(saved.read_text())["/**"]["ros__parameters"]
    assert set(parameters["policy"]) == {"mode", "overlap_s", "solver"} and set(parameters["command"]) == {
        "limit_scale", "group_scale", "slow_down"}  # fmt: skip
    loaded = load_robot(robot)
    expected = {**loaded.parameters, **parse_settings([*texts, "policy.mode=ensemble"], loaded)}
    context = rclpy.Context()
    rclpy.init(args=["--ros-args", "--params-file", str(saved)], context=context)
    try:
        node = Node("policy_node", context=context)
        live = NodeParameters(node, loaded, ("policy", "command"))
        assert live.block(PolicyParameters) == from_flat(PolicyParameters, "policy", expected)
        assert live.block(CommandParameters) == from_flat(CommandParameters, "command", expected)
        assert live.block(CommandParameters).group_scale == "fingers=0.5" and live.block(PolicyParameters).rate_hz == 25.0
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)
    assert metrics(tmp_path / "out")["settings"]["command.group_scale"] == "fingers=0.5"


def test_texts_that_yaml_would_read_as_something_else_stay_texts(tmp_path):
    path = tmp_path / "o.yaml"
    settings = {"command.group_scale": "1e3", "policy.solver": "", "command.deadman": "off", "policy.rate_hz": 1e-05}
    write_overlay(path, settings, "one\ntwo")
    assert path.read_text().startswith("# one\n# two\n")
    found = yaml.safe_load(path.read_text())["/**"]["ros__parameters"]
    assert found == {"command": {"group_scale": "1e3", "deadman": "off"}, "policy": {"solver": "", "rate_hz": 1e-05}}


def test_ray_is_asked_for_by_name_where_it_is_missing(tmp_path, common, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    bag = str(write_bag(tmp_path / "bag.mcap"))
    error = refusal(capsys, bag, *common, "--ray", "local")
    assert "needs the Python package 'ray'" in error and "pip install ray" in error


def test_recordings_of_one_name_get_folders_of_their_own(tmp_path):
    (tmp_path / "run.1").mkdir()
    paths = [tmp_path / "run.1", Path("x/run.mcap"), Path("y/run.db3"), Path("run_0.db3.zstd")]
    assert names_of(paths) == ["run.1", "run", "run_2", "run_0"]


def test_nothing_of_an_older_run_stands_beside_a_new_one(tmp_path, common):
    bag, other = (str(write_bag(tmp_path / f"{name}.mcap")) for name in ("bag", "other"))
    out = tmp_path / "out"
    main(["replay", bag, *common, "--batch", "8", "--compare-set", "policy.mode=ensemble"])
    assert (out / "replay_compare.mcap").is_file()
    for name in ("notes.txt", "bag/notes.txt", "mine/report.html"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("kept")
    code = main(["replay", bag, other, *common, "--batch", "8"])  # several now: folders and an index in the place of its files
    assert code == 1 and {path.name for path in out.iterdir()} == {
        "bag", "other", "mine", "notes.txt", "metrics.json", "report.html"}  # fmt: skip
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 'href="bag/report.html"' in page and 'href="other/report.html"' in page and "Verdict: bad" in page
    (tmp_path / "broken.mcap").write_bytes(b"nothing of the kind")
    assert main(["replay", str(tmp_path / "broken.mcap"), *common]) == 2
    left = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert left == {"metrics.json", "notes.txt", "bag/notes.txt", "mine/report.html"} and "refused" in metrics(out)


def test_a_command_line_that_is_refused_removes_nothing(tmp_path, common, capsys):
    bag, out = str(write_bag(tmp_path / "bag.mcap")), tmp_path / "out"
    main(["replay", bag, *common, "--batch", "8"])
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert "policy.mode is 'rtc'" in refusal(capsys, bag, *common, "--batch", "16", "--compare-set", "policy.mode=rtc")
    for given in (out / "replay.mcap", out):
        assert "over or into the recording" in refusal(capsys, str(given), *common)
    error = refusal(capsys, str(out), bag, *common, "--out", str(tmp_path))  # where results on it go is itself
    assert "over or into the recording" in error
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_recording_in_the_folder_of_an_older_run_is_not_removed(tmp_path, common, capsys):
    bags, out = [str(write_bag(tmp_path / f"{name}.mcap")) for name in "ab"], tmp_path / "out"
    main(["replay", *bags, *common, "--batch", "8"])
    assert "over or into the recording" in refusal(capsys, str(out / "a/replay.mcap"), *common)
    assert (out / "a/replay.mcap").is_file()


def test_a_mode_that_cannot_be_batched_is_refused_before_anything_is_measured(tmp_path, common, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bag = str(write_bag(tmp_path / "bag.mcap"))
    more = ["--latency", "measured", "--batch", "16", "--compare-set", "policy.mode=rtc", "--compare-set", "policy.steps=10"]
    assert "--batch samples chunks ahead, but policy.mode is 'rtc'" in refusal(capsys, bag, *common, *more)
    assert not (tmp_path / "cache").exists()


def test_a_folder_of_recordings_stands_for_them_and_what_is_none_is_to_be_converted(tmp_path, common, capsys):
    bags = tmp_path / "bags"
    for name in ("one", "two"):
        (bags / name).mkdir(parents=True)
        write_bag(bags / name / "0.mcap")
    main(["replay", str(bags), *common, "--batch", "8"])
    assert list(metrics(tmp_path / "out")["bags"]) == ["one", "two"]
    table = capsys.readouterr().out
    assert "failed checks" in table and "one" in table and "two" in table
    (tmp_path / "dataset/meta").mkdir(parents=True)
    (tmp_path / "dataset/meta/info.json").write_text("{}")
    (tmp_path / "episodes").mkdir()
    (tmp_path / "episodes/e.npz").write_bytes(b"")
    for given, kind in (("dataset", "a LeRobot dataset"), ("episodes", "episodes (.npz)"), ("episodes/e.npz", "episodes (.npz)")):
        error = refusal(capsys, str(tmp_path / given), *common)
        assert kind in error and "flow_policy convert" in error and "--to bag" in error


def test_the_bar_ends_at_the_end(tmp_path, common, monkeypatch):
    from flow_policy_ros.training.progress import ProgressBar

    told: list[tuple[int, int]] = []
    monkeypatch.setattr(ProgressBar, "update", lambda bar, done, text: told.append((done, bar._total)))
    (tmp_path / "broken.mcap").write_bytes(b"nothing of the kind")
    main(["replay", str(write_bag(tmp_path / "bag.mcap", 330)), str(tmp_path / "broken.mcap"), *common, "--batch", "8"])
    assert told[-1] == (3, 3) and max(done for done, _ in told) == 3


def test_delays_of_a_busy_machine_are_said_and_can_be_measured_again(tmp_path, common, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bag = str(write_bag(tmp_path / "bag.mcap"))
    busy = LatencyProfile({"inference": (*[110.0] * 38, 900.0, 900.0)}, "a test")
    metrics_of(bag, common, tmp_path / "first", "--latency", "measured")
    (kept,) = (tmp_path / "cache/flow_policy_ros").iterdir()
    busy.save(kept)
    found = metrics_of(bag, common, tmp_path / "busy", "--latency", "measured")
    assert any("took 110.0 ms at the median and 900.0 ms" in said and "remeasure" in said for said in found["problems"])
    assert found["injected_ms"]["inference"]["p50"] == pytest.approx(110, rel=0.01)
    rate = next(check for check in found["checks"] if check["name"] == "rate")
    assert not rate["ok"] and kept.name in rate["sentence"] and "measured on a test" in rate["sentence"]
    metrics_of(bag, common, tmp_path / "again", "--latency", "remeasure")
    assert LatencyProfile.load(kept).measured_on != "a test"


@pytest.mark.slow
def test_an_interrupted_replay_ends_with_all_its_processes(tmp_path, common):
    bags = [str(write_bag(tmp_path / f"{name}.mcap", ticks=20_000)) for name in "ab"]
    program = [sys.executable, "-m", "flow_policy_ros", "replay", *bags, *common, "--jobs", "2"]
    child = subprocess.Popen(
        program, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a suite in the background ignores
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 200
        while not (tmp_path / "out/a/replay.mcap").exists() and time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.1)
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does
        output, _ = child.communicate(timeout=120)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
    assert child.returncode == 130, output
    assert "interrupted" in output and "Traceback" not in output
    assert not (tmp_path / "out/a/metrics.json").exists()
    for _ in range(100):
        try:
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("processes of the replay are left")


