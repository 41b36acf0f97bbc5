"""What robots were told, in recordings: files, episodes, bags, windows; images as bytes; statistics that leave padding out."""

from dataclasses import replace

import numpy as np
import pytest
from recording_support import robot_of
from test_recording import JOINTS, MS, command, make_recording, state

from flow_policy_ros.data.bag_events import BagEvents, FeaturesEvent, InstructionEvent
from flow_policy_ros.data.bag_recording import Tables, read_recording
from flow_policy_ros.data.bag_writer import BagWriter
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.data.episodes import Episode, EpisodeError
from flow_policy_ros.data.recording import Instruction, Recording, Stream, load_recording
from flow_policy_ros.data.statistics import StatisticsBuilder, VectorStatistics
from flow_policy_ros.data.windows import Ages, Windows
from flow_policy_ros.runtime.types import Features, JointState


def test_instructions_and_bytes_come_back(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (6, 4, 9), dtype=np.uint8)
    plain = make_recording()
    seen = Stream(plain.streams["eye"].stamps, plain.streams["eye"].received, pictures)
    told = (Instruction(3, "öffne die Tür"), Instruction(9, ""), Instruction(9, "close it"))
    recording = make_recording(instructions=told, streams={"eye": seen})
    recording.save(tmp_path / "a.npz")
    back = load_recording(tmp_path / "a.npz")
    assert back.instructions == told and back.instruction == "close it"
    assert back.streams["eye"].values.dtype == np.uint8
    np.testing.assert_array_equal(back.streams["eye"].values, pictures)
    assert plain.instruction == "" and plain.told("go").instructions == (Instruction(int(plain.received[0]), "go"),)
    with pytest.raises(EpisodeError, match="instructions do not ascend"):
        make_recording(instructions=told[::-1])
    plain.save(tmp_path / "b.npz")
    whole = {name: values for name, values in np.load(tmp_path / "b.npz").items() if not name.startswith("instructions")}
    np.savez(tmp_path / "b.npz", **whole)  # as recordings of before
    assert load_recording(tmp_path / "b.npz").instructions == ()

    stamps = 10 * MS * np.arange(1, 7, dtype=np.int64)
    rows = np.zeros((6, 2))
    Episode("door", 0, True, 10 * MS, stamps, JOINTS, rows, rows, rows, {"eye": (stamps, pictures)}, instruction="go").save(
        tmp_path / "c.npz"
    )
    episode = load_recording(tmp_path / "c.npz")
    assert episode.instruction == "go" and episode.streams["eye"].values.dtype == np.uint8
    assert replace(Episode.load(tmp_path / "c.npz"), instruction="").instruction == ""
    assert Recording.of_episode(replace(Episode.load(tmp_path / "c.npz"), instruction="")).instructions == ()


def test_an_instruction_holds_over_pauses_until_there_is_another(tmp_path):
    tables = Tables(robot_of(tmp_path, JOINTS))
    picture = FeaturesEvent(6 * MS, Features(6 * MS, "eye", np.full((2, 3), 200, np.uint8)))
    tables.take_all([
        InstructionEvent(1 * MS, "a"), InstructionEvent(2 * MS, "b"), state(5 * MS), picture, command(6 * MS, 1.0),
        InstructionEvent(50 * MS, "c"), state(60 * MS), command(61 * MS, 1.0),
        InstructionEvent(100 * MS, "d"), state(300 * MS), command(301 * MS, 2.0), state(310 * MS), InstructionEvent(320 * MS, "e"),
    ])  # fmt: skip
    first, second = tables.recordings("bags/one", 0.1, None)
    before = Instruction(1 * MS, "a"), Instruction(2 * MS, "b"), Instruction(50 * MS, "c")
    assert first.instructions == before
    assert second.instructions == (*before, Instruction(100 * MS, "d"), Instruction(320 * MS, "e"))
    assert first.streams["eye"].values.dtype == np.uint8 and (first.streams["eye"].values == 200).all()


def test_after_a_pause_the_last_instruction_that_can_be_read_is_in_force(tmp_path):
    """What the robot refused changed nothing then: wordless orders are left out, the others before are there to go back to."""
    tables = Tables(robot_of(tmp_path, JOINTS))
    tables.take_all([
        InstructionEvent(1 * MS, "open"), InstructionEvent(2 * MS, "close"), InstructionEvent(3 * MS, "open"), state(5 * MS),
        command(6 * MS, 1.0), InstructionEvent(50 * MS, "<image>"), InstructionEvent(51 * MS, ""),
        InstructionEvent(52 * MS, "\x00"),
        state(300 * MS), command(301 * MS, 2.0), state(310 * MS),
    ])  # fmt: skip
    _, second = tables.recordings("bags/one", 0.1, None)
    assert second.instructions == (Instruction(2 * MS, "close"), Instruction(3 * MS, "open"), Instruction(50 * MS, "<image>"))
    assert sum("instruction" in problem and "(1 times)" in problem for problem in second.problems) == 2


def test_bags_say_what_the_robot_was_told(tmp_path):
    robot = robot_of(tmp_path, JOINTS)
    for name, told in (("told", True), ("silent", False)):
        with BagWriter(tmp_path / name) as bag:
            if told:
                bag.instruction(5, "open the door")
            for stamp in (10, 20, 30):
                bag.joint_state(JointState(stamp, JOINTS, np.zeros(2)))
                bag.command(stamp, JOINTS, np.zeros(2), np.zeros(2))
        bag = open_bag(tmp_path / name)
        events = BagEvents(bag, robot)
        assert [e.text for e in events if isinstance(e, InstructionEvent)] == ["open the door"] * told
        assert (events.instruction is None) == (not told) and not any("instruction" in problem for problem in events.problems)
        bag.close()
        (recording,) = read_recording(tmp_path / name, robot)
        assert recording.instructions == ((Instruction(5, "open the door"),) if told else ())


def test_a_standing_stream_has_neither_delay_nor_age():
    """It is seen from its receipt on, and changes nothing of what is drawn for the others."""
    stamps = 10 * MS * np.arange(100, dtype=np.int64)
    values = np.arange(100, dtype=np.float32)[:, None, None]
    eye = Stream(stamps, stamps, values)
    told = Stream(stamps[[3, 60]] + 1, stamps[[3, 60]] + 1, np.array([[[1.0]], [[2.0]]], dtype=np.float32))
    recording = Recording(JOINTS, stamps, stamps, np.zeros((100, 2)), stamps, np.zeros((100, 2)), {"eye": eye, "said": told})
    options = {"delay_s": (0.0, 0.05), "ages": Ages(features_s=0.2)}
    windows = Windows([recording], ["said", "eye"], 2, 10 * MS, standing=["said"], **options)
    samples = windows.samples(0, 0)
    assert samples.ticks.tolist() == list(range(4, 100))
    np.testing.assert_array_equal(windows.gather(samples).features["said"].ravel(), np.where(samples.ticks <= 60, 1.0, 2.0))
    alone = Windows([recording], ["eye"], 2, 10 * MS, **options)
    seen = dict(zip(alone.samples(0, 0).ticks, alone.samples(0, 0).rows["eye"], strict=True))
    assert [seen[tick] for tick in samples.ticks] == samples.rows["eye"].tolist()
    assert (windows.moment("said"), windows.moment("eye")) == ("standing", "newest")
    late = Windows([recording], ["said"], 2, 10 * MS, **options)  # as any other stream it would be too old
    assert len(late.samples(0, 0).ticks) < 60


def test_pictures_of_several_recordings_are_gathered_as_bytes():
    def seen(first):
        stamps = 10 * MS * np.arange(5, dtype=np.int64)
        pictures = (first + np.arange(5, dtype=np.uint8))[:, None, None] * np.ones((2, 3), np.uint8)
        eye = Stream(stamps, stamps, pictures)
        return Recording(JOINTS, stamps, stamps, np.zeros((5, 2)), stamps, np.zeros((5, 2)), {"eye": eye})

    windows = Windows([seen(0), seen(100), seen(200)], ["eye"], 2, 10 * MS)
    batch = windows.gather(windows.samples(0, 0).take(np.array([14, 0, 7, 5, 4])))
    assert batch.features["eye"].dtype == np.uint8 and batch.features["eye"][:, 0, 0].tolist() == [204, 0, 102, 100, 4]


def test_values_that_do_not_count_change_no_statistic():
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((500, 4))
    counted = generator.random((500, 4)) < 0.6
    counted[:, 3] = False
    counted[:100, 2] = False  # nothing of it in the first part
    builder = StatisticsBuilder()
    for start in range(0, 500, 100):
        part = slice(start, start + 100)
        builder.add(np.where(counted, rows, 7e6)[part], counted[part])
    found = builder.result()
    for k in range(3):
        alone = VectorStatistics.of(rows[counted[:, k], k : k + 1])
        for name in ("mean", "std", "low", "high"):
            np.testing.assert_allclose(getattr(found, name)[k], getattr(alone, name)[0], rtol=1e-12, atol=1e-14)
    assert [float(getattr(found, name)[3]) for name in ("mean", "std", "low", "high")] == [0.0] * 4
    whole = StatisticsBuilder()
    whole.add(rows, np.ones_like(counted))
    for name in ("mean", "std", "low", "high"):
        np.testing.assert_array_equal(getattr(whole.result(), name), getattr(VectorStatistics.of(rows), name))


def test_a_stream_may_have_a_greatest_age_of_its_own():
    stamps = 10 * MS * np.arange(20, dtype=np.int64)
    eye = Stream(stamps[:1], stamps[:1], np.zeros((1, 1, 1), dtype=np.float32))
    recording = Recording(JOINTS, stamps, stamps, np.zeros((20, 2)), stamps, np.zeros((20, 2)), {"eye": eye, "near": eye})
    def ticks(name):
        windows = Windows([recording], [name], 2, 10 * MS, ages=Ages(features_s=0.1, streams_s={"near": 0.05}))
        return windows.samples(0, 0).ticks.tolist()

    assert ticks("eye") == list(range(11)) and ticks("near") == list(range(6))
