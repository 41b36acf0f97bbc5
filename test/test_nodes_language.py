"""Instructions and images that the policy process reads itself, through real nodes: the same as in one process, and what is said
where they are missing, bad, or changed on the way."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ros_support import (  # noqa: F401
    UNHURRIED,
    Ears,
    FakeRobot,
    Launcher,
    ears_fixture,
    launcher_fixture,
    until,
    values,
    write_robot,
)  # fmt: skip

pytest.importorskip("rclpy")
pytest.importorskip("transformers")
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Header, String
from trajectory_msgs.msg import JointTrajectory
from vlm_folders import tiny, tokenizer

from flow_policy_ros.data.bag_writer import BagWriter
from flow_policy_ros.evaluation.closed_loop import Perception, Stack, run_episode
from flow_policy_ros.models.registry import VLM_NETWORKS
from flow_policy_ros.nodes.instruction_topic import InstructionTopic
from flow_policy_ros.nodes.lockstep import Patience, TickWord
from flow_policy_ros.nodes.policy_lockstep import WAITING, PolicyLockstep
from flow_policy_ros.nodes.policy_sight import InlineSight, Sight, View
from flow_policy_ros.policy.checkpoint import Checkpoint, save_checkpoint
from flow_policy_ros.policy.codec import Codec, network_shape, observation_dim
from flow_policy_ros.policy.flow_model import FlowModel
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.policy.instruction import SENTENCES, PromptReader, SentenceReader
from flow_policy_ros.policy.normaliser import Normaliser
from flow_policy_ros.policy.prompt import Prompter
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.images import image_to_message
from flow_policy_ros.ros.messages import chunk_from_message, from_time
from flow_policy_ros.runtime.contract import Contract, StreamContract
from flow_policy_ros.runtime.latency import LatencyProfile
from flow_policy_ros.runtime.parameters import CommandParameters, PolicyParameters, from_flat
from flow_policy_ros.runtime.policy_loop import PolicyLoop
from flow_policy_ros.runtime.robot import Robot, load_robot
from flow_policy_ros.runtime.types import EncodedImage, Features, JointState
from flow_policy_ros.safety.command_loop import CommandLoop
from flow_policy_ros.sim.instructions import draw
from flow_policy_ros.sim.robot import AdroitRobot
from flow_policy_ros.vision.frames import FrameFeatures
from flow_policy_ros.vision.pretrained import import_transformers
from flow_policy_ros.vision.sentence import SentenceEncoder

STEPS, SEED, HORIZON = 40, 11, 16
SIZE = (32, 32)
WARN, ERROR = b"\x01", b"\x02"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def bert(folder: Path) -> Path:
    transformers = import_transformers()
    torch.manual_seed(0)
    sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=64)
    transformers.BertModel(transformers.BertConfig(**sizes, max_position_embeddings=20)).save_pretrained(folder)
    tokenizer(longest=20, ends=True).save_pretrained(folder)
    return folder


def untrained(
    folder: Path, robot: Robot, streams: tuple[StreamContract, ...], network: str, sizes: dict[str, Any], prompter: Any = None
) -> Path:
    """Weights drawn at random in every layer, so that the chunk depends on every input."""
    contract = Contract(robot.name, robot.joints, robot.joints, 10_000_000, HORIZON, streams)
    shape = network_shape([contract])
    model = FlowModel(network, sizes, shape)
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        weight.data = 0.15 * torch.randn(weight.shape, generator=generator)

    def unit(size: int, scale: float) -> Normaliser:
        return Normaliser("mean_std", np.zeros(size), np.full(size, scale), ())

    codec = Codec(contract, unit(observation_dim(contract), 1.0), unit(shape.action, 0.2), "absolute", prompter=prompter)
    save_checkpoint(folder, Checkpoint(model, (codec,)))
    return folder


def sentence_policy(folder: Path, robot: Robot, objects: int = 0) -> Path:
    """Observes an instruction as one vector, and ``objects`` channels of a simulation's state."""
    words = bert(folder / SENTENCES)
    reader = SentenceReader(SentenceEncoder(str(words)))
    streams = [StreamContract("instruction", reader.tokens, reader.channels, reader.identity(), moment="standing")]
    if objects:
        streams.append(StreamContract("objects", 1, objects, {}))
    return untrained(folder, robot, tuple(streams), "residual_mlp", {"width": 32, "blocks": 1})


def looking_policy(folder: Path, robot: Robot) -> Path:
    """Reads the camera ``front`` and the instruction through a vision-language model of its own."""
    source = tiny("smolvlm", folder.with_name(f"{folder.name}_vlm"))
    prompter = Prompter.load(source)
    frames = FrameFeatures(SIZE, "front")
    reader = PromptReader(prompter, length=40, size=SIZE)
    streams = (
        StreamContract("frames", frames.tokens, frames.channels, frames.identity()),
        StreamContract("prompt", reader.tokens, reader.channels, reader.identity(), moment="standing"),
    )
    sizes = {"vlm": (source / "config.json").read_text(), "width": 16, "hidden": 24}
    assert "deep_expert" in VLM_NETWORKS
    return untrained(folder, robot, streams, "deep_expert", sizes, prompter)


@pytest.mark.parametrize("kind", ["sentence", "looking"])
def test_the_nodes_give_what_one_process_gives(launcher: Launcher, ears: Ears, tmp_path: Path, root: Path, kind: str) -> None:
    robot_file = root / "config/robots/adroit_relocate_goals.yaml"
    robot = load_robot(robot_file)
    sim = AdroitRobot("relocate_goals", robot)
    perception: Perception | None = None
    if kind == "sentence":
        checkpoint = sentence_policy(tmp_path / "policy", robot, sim.task.object_channels)
    else:
        checkpoint, perception = looking_policy(tmp_path / "policy", robot), FrameFeatures(SIZE, "front")
    latency = LatencyProfile({"perception": (4.0, 23.0, 31.0), "inference": (2.0, 17.0)})
    latency.save(tmp_path / "latency.json")

    lockstep = {"lockstep__enabled": True, "lockstep__timeout_s": 250.0}
    delayed = {**lockstep, "lockstep__latency": tmp_path / "latency.json", "lockstep__seed": 5}
    episode = {"sim__seed": SEED, "sim__episode": 3, "sim__steps": STEPS}
    launcher.node("sim_node", robot_file, sim__task="relocate_goals", **episode, **lockstep)
    chosen = {"policy.steps": 3, "policy.seed": 7, "policy.rate_hz": 30.0}
    flags = {name.replace(".", "__"): value for name, value in chosen.items()}
    launcher.node("policy_node", robot_file, policy__checkpoint=checkpoint, **flags, **delayed)
    launcher.node("command_node", robot_file, **delayed)
    executed = ears.listen(JointStateMsg, "command/executed")
    chunk_info = ears.listen(DiagnosticStatus, "policy/chunk_info")
    status = ears.listen(DiagnosticStatus, "sim/status", qos.LATCHED)
    for service in ("policy/reset", "command/reset"):
        assert ears.trigger(service).success
    ears.begin_episode()
    told = ears.listen(String, "instruction", qos.LATCHED)  # late, as a policy that is started again would be

    asked = draw(sim.task.goals, SEED)
    sim.instruct(asked)
    policy_parameters = from_flat(PolicyParameters, "policy", {**robot.parameters, **chosen})
    policy = FlowPolicy.load(checkpoint)
    loop = PolicyLoop(policy, policy_parameters)
    command = CommandLoop(robot, from_flat(CommandParameters, "command", robot.parameters))
    stack = Stack(loop, command, perception, latency, latency_seed=5, privileged=kind == "sentence")
    expected = run_episode(sim, stack, seed=SEED, episode=3, steps=STEPS)
    assert len({v.tobytes() for v in expected.commands}) > 20  # it moves, so that equality means something
    assert expected.chunks > 5

    done = status.wait_for(lambda s: values(s)["state"] == "done", what="the episode did not end")
    assert values(done)["instruction"] == asked == told.wait_for().data
    assert values(done)["goal_reached"] == (sim.goal_reached or "")
    executed.wait_count(STEPS)
    commands = {from_time(message.header.stamp): message.position for message in executed.messages}
    given = np.array([commands[stamp] for stamp in sorted(commands)])
    assert given.tobytes() == expected.commands.tobytes()
    assert len(chunk_info.messages) == expected.chunks
    assert {values(info)["instruction"] for info in chunk_info.messages} == {asked}

    # The words matter: with others the same episode goes another way.
    sim.instruct(draw(sim.task.goals, SEED + 1))
    other = run_episode(sim, stack, seed=SEED, episode=3, steps=STEPS)
    assert other.commands.tobytes() != expected.commands.tobytes()


class Listening:
    """A policy whose chunk is what it was told, and when."""

    prefix = 0

    def __init__(self) -> None:
        told = StreamContract("instruction", 1, 2, {"extractor": "sentence"}, moment="standing")
        self.contract = Contract("one_joint", ("j",), ("j",), 10_000_000, 4, (told,))

    def instruct(self, instruction: str, stamp: int) -> tuple[Features, ...]:
        if not instruction:
            raise ValueError("the instruction is empty")
        return (Features(stamp, "instruction", np.array([[len(instruction), stamp]], np.float32)),)

    def sample(self, observation: Any, steps: int, seed: int) -> tuple[np.ndarray, int]:
        return np.full((4, 1), observation.features["instruction"][0, 0]), steps


def test_in_lockstep_an_instruction_is_in_force_from_a_tick_on() -> None:
    """By the tick's word or by topic, whichever comes first; and an episode begins with its own, whatever was said before."""
    loop = PolicyLoop(Listening(), PolicyParameters(rate_hz=100.0))
    said: list[object] = []
    never = Patience(1e9), Patience(0.0)
    lockstep = PolicyLockstep(loop, (), LatencyProfile({}), 0, *never, lambda stamp, product, ms: said.append(product))

    def tick(k: int, instruction: str = "") -> object:
        stamp = k * 10_000_000
        lockstep.on_joint_state(JointState(stamp, ("j",), np.zeros(1)))
        lockstep.on_tick(TickWord(stamp, stamp, 0, {}, instruction))
        product = said[-1]
        return getattr(product, "reason", None) or int(product.positions[0, 0])  # type: ignore[attr-defined]

    assert "no instruction has been given" in str(tick(1))
    assert tick(2, "red") == 3
    lockstep.on_instruction("red")  # the same by topic, late
    assert tick(3, "red") == 3
    lockstep.on_instruction("go left")
    assert len(said) == 3 and tick(4, "red") == 7  # at the next tick, against a word that is old
    assert tick(5, "red") == 7
    with pytest.raises(ValueError, match="the instruction is empty"):
        lockstep.on_instruction("")
    assert tick(6, "red") == 7 and loop.rejections["instruction"] == 1
    lockstep.reset()
    assert tick(7, "red") == 3
    lockstep.reset()
    assert tick(1) == 3  # an order given stays, also where the clock begins anew


def test_in_lockstep_an_order_by_topic_counts_against_the_word_before(ears: Ears) -> None:
    """Although the topic said the same before the word; of several orders the last, also where that is the one in force."""
    loop = PolicyLoop(Listening(), PolicyParameters(rate_hz=100.0))
    said: list[Any] = []
    never = Patience(1e9), Patience(0.0)
    lockstep = PolicyLockstep(loop, (), LatencyProfile({}), 0, *never, lambda stamp, product, ms: said.append(product))
    topic = InstructionTopic(ears.node, lockstep.on_instruction, lambda: loop.instruction)

    def tick(k: int, instruction: str = "") -> int:
        lockstep.on_joint_state(JointState(k * 10_000_000, ("j",), np.zeros(1)))
        lockstep.on_tick(TickWord(k * 10_000_000, k * 10_000_000, 0, {}, instruction))
        return int(said[-1].positions[0, 0])

    topic.offer("red")
    assert tick(1) == 3
    assert tick(2, "go left") == 7
    topic.offer("red")
    assert tick(3, "go left") == 3
    topic.offer("go left")
    topic.offer("red")
    assert tick(4, "go left") == 3
    topic.offer("")
    assert topic.problem is not None and "'red' stays in force" in topic.problem and tick(5, "go left") == 3


def test_in_lockstep_nothing_is_kept_without_end() -> None:
    """Orders before a tick, and features of images that nobody announces."""
    policy = Listening()
    policy.contract = replace(policy.contract, streams=(*policy.contract.streams, StreamContract("eye", 1, 1, {})))
    loop = PolicyLoop(policy, PolicyParameters(rate_hz=100.0))
    said: list[Any] = []
    never = Patience(1e9), Patience(0.0)
    lockstep = PolicyLockstep(loop, ("eye",), LatencyProfile({}), 0, *never, lambda stamp, product, ms: said.append(product))
    for k in range(500):
        lockstep.on_instruction("go " * (1 + k % 9))
        lockstep.on_features(Features(10_000_000 + k, "eye", np.zeros((1, 1), np.float32)))
    assert len(lockstep._features) == WAITING
    lockstep.on_joint_state(JointState(1, ("j",), np.zeros(1)))
    lockstep.on_tick(TickWord(1, 1))
    assert loop.instruction == "go " * (1 + 499 % 9) and len(lockstep._features) == WAITING
    lockstep.on_joint_state(JointState(10_000_600, ("j",), np.zeros(1)))
    lockstep.on_tick(TickWord(10_000_600, 10_000_600, 10_000_499))
    assert not lockstep._features and said[-1].observation_stamps["eye"] == 10_000_499


def test_of_many_instructions_the_newest_is_read_now_and_then(ears: Ears) -> None:
    read: list[str] = []
    topic = InstructionTopic(ears.node, read.append, apart_s=3600.0)
    for k in range(200):
        topic._on_message(String(data=f"order {k}"))
    assert read == ["order 0"]
    topic._ready = 0.0  # an hour later
    topic._attend()
    topic._attend()
    assert read == ["order 0", "order 199"] and topic.text == "order 199"
    topic._on_message(String(data="order 200"))
    topic.give("stop")  # by parameter, at once and after all of them
    topic._ready = 0.0
    topic._attend()
    assert read[2:] == ["stop"]


def test_the_word_of_a_tick_carries_an_instruction_as_it_is() -> None:
    for instruction in ("", "put it = there,  image=3", " instruction= twice", "ganz groß\nzwei"):
        word = TickWord(5, 4, 3, {"objects": 2}, instruction, {"front": 3, "wrist": 1})
        assert TickWord.parse(5, str(word)) == word
    word = TickWord.parse(5, "joint_state=4 image=3 image.wrist=1 objects=2")
    assert (word.image_of("wrist"), word.image_of("front"), dict(word.streams)) == (1, 3, {"objects": 2})


def test_frames_of_two_cameras_are_waited_for_each() -> None:
    streams = tuple(StreamContract(name, 1, 1, {"extractor": "yolo_tokens", "camera": name}) for name in ("front", "wrist"))
    policy = Listening()
    policy.contract = Contract("one_joint", ("j",), ("j",), 10_000_000, 4, streams)
    policy.sample = lambda observation, steps, seed: (np.zeros((4, 1)), 1)  # type: ignore[method-assign]
    loop = PolicyLoop(policy, PolicyParameters(rate_hz=100.0))
    said: list[object] = []
    cameras = {"front": "front", "wrist": "wrist"}
    patience = Patience(1e9), Patience(0.0)
    lockstep = PolicyLockstep(
        loop, tuple(cameras), LatencyProfile({}), 0, *patience, lambda stamp, product, ms: said.append(product), cameras
    )
    lockstep.on_joint_state(JointState(100, ("j",), np.zeros(1)))
    lockstep.on_tick(TickWord(100, 100, 100, {}, "", {"front": 100, "wrist": 40}))
    lockstep.on_features(Features(100, "front", np.zeros((1, 1), np.float32)))
    assert not said
    lockstep.on_features(Features(40, "wrist", np.zeros((1, 1), np.float32)))
    (chunk,) = said
    assert chunk.observation_stamps == {"joint_state": 100, "front": 100, "wrist": 40}  # type: ignore[attr-defined]


def encoded(value: int, width: int = 64, height: int = 48) -> EncodedImage:
    return EncodedImage("rgb8", height, width, 3 * width, bytes([value]) * (3 * width * height))


def test_looking_does_not_wait_and_drops_what_is_old(tmp_path: Path) -> None:
    """While one image is being looked at others come: the newest is next. A frame is given only once it has been looked at."""
    camera = load_robot(write_robot(tmp_path)).cameras[0]
    looked: list[int] = []
    given: list[Features] = []
    refused: list[str] = []
    begun, go = threading.Event(), threading.Event()

    class Slow(Listening):
        def look(self, frames: Any, prompt: Features) -> None:
            begun.set()
            assert go.wait(60.0)
            looked.append(frames["frames"].stamp)

    sight = Sight(
        Slow(), {"frames": View(camera, FrameFeatures(SIZE, "front", seen=(48, 64)))}, given.append,
        lambda kind, error: refused.append(str(error)),
    )  # fmt: skip
    try:
        sight.on_prompt(Features(0, "prompt", np.zeros((1, 2), np.float32)))
        sight.on_image("frames", encoded(1), 1)
        assert begun.wait(60.0)
        for stamp in (2, 3, 4):
            sight.on_image("frames", encoded(stamp), stamp)
        assert not given
        go.set()
        until(lambda: len(given) == 2, "the newest image was not looked at")
        assert looked == [1, 4] and [f.stamp for f in given] == [1, 4]
        assert given[1].values.shape == (32, 96) and given[1].values.dtype == np.uint8 and (given[1].values == 4).all()
        report = sight.report()
        assert (report["images"], report["dropped"]) == (4, 2) and "prefix_ms.p50" in report
        sight.on_image("frames", encoded(5, 32, 24), 5)
        until(lambda: bool(refused), "an image of another size was taken")
        assert "32 by 24 pixels, expected 64 by 48 of camera 'front'" in refused[0]
        until(lambda: "camera/image_raw" in sight.problems.get("frames", ""), "it does not say whose image it was")
        sight.on_image("frames", encoded(6), 6)
        until(lambda: len(given) == 3, "it does not go on")
        assert not sight.problems
    finally:
        go.set()
        sight.close()
    assert not sight.alive()


def test_in_line_every_image_counts_in_order(tmp_path: Path) -> None:
    camera = load_robot(write_robot(tmp_path)).cameras[0]
    given: list[Features] = []
    sight = InlineSight({"frames": View(camera, FrameFeatures(SIZE, "front"))}, given.append, lambda kind, error: None)
    for stamp in (1, 2, 3):
        sight.on_image("frames", encoded(stamp), stamp)
        assert [f.stamp for f in given] == list(range(1, stamp + 1))


def test_what_is_said_and_done_live(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    """No instruction yet, one that cannot be read, one, another; then the camera stops."""
    robot_file = write_robot(tmp_path)
    checkpoint = looking_policy(tmp_path / "policy", load_robot(robot_file))
    diagnostics = ears.diagnostics()
    chunks, info = ears.listen(JointTrajectory, "policy/chunk"), ears.listen(DiagnosticStatus, "policy/chunk_info")
    FakeRobot(ears)
    camera, orders = ears.speak(Image, "camera/image_raw"), ears.speak(String, "instruction", qos.LATCHED)
    patient = {"policy__joint_state_max_age_s": 8.0, "policy__features_max_age_s": 2.0}
    node = launcher.node("policy_node", robot_file, policy__checkpoint=checkpoint, policy__steps=2, **patient)
    ages = {**UNHURRIED, "command__chunk_max_age_s": 1.0, "command__first_command_max": 100.0}
    launcher.node("command_node", robot_file, **ages)
    seeing = [True]

    def see() -> None:
        if seeing[0]:
            picture = np.random.default_rng(len(info.messages)).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            camera.publish(image_to_message(picture, ears.now()))

    def policy_says(accept: Any, what: str) -> DiagnosticStatus:
        return diagnostics.wait_for(lambda s: s.name == "policy" and accept(s), len(diagnostics.messages), what)

    with ears.insisting(see):
        silent = "no instruction has been given"
        policy_says(lambda s: s.level == WARN and silent in s.message, "it says nothing of a missing order")
        orders.publish(String(data="the <image> goal"))
        refused = policy_says(lambda s: s.level == ERROR, "it takes what stands for an image")
        assert "<image>" in refused.message and silent in refused.message
        assert values(refused)["rejections.instruction"] == "1" and not chunks.messages

        orders.publish(String(data="move the red cube"))
        assert values(info.wait_for())["instruction"] == "move the red cube"
        assert set(chunk_from_message(chunks.wait_for()).names) == {"shoulder", "elbow"}
        running = policy_says(lambda s: "prefix_ms.p50" in values(s), "it does not look")
        assert values(running)["instruction"] == "move the red cube" and int(values(running)["images"]) > 0

        answer = set_parameter(ears, "policy_node", "policy.instruction", "a <image>")
        assert not answer.successful and "<image>" in answer.reason
        policy_says(lambda s: s.level == ERROR and "'move the red cube' stays in force" in s.message, "the old one does not stay")
        answer = set_parameter(ears, "policy_node", "policy.instruction", "open the door")
        assert answer.successful
        info.wait_for(lambda i: values(i)["instruction"] == "open the door", what="a new instruction has no effect")
        told = [values(i)["instruction"] for i in info.messages]
        assert told == sorted(told, key=["move the red cube", "open the door"].index)  # once, and no way back
        orders.publish(String(data="move the red cube"))
        info.wait_for(lambda i: values(i)["instruction"] == "move the red cube", len(info.messages), "the topic has no effect")
        assert set_parameter(ears, "policy_node", "policy.instruction", "open the door").successful  # which it is already
        info.wait_for(lambda i: values(i)["instruction"] == "open the door", len(info.messages), "the parameter has no effect")
        diagnostics.wait_for(lambda s: s.name == "command" and values(s)["state"] == "active", what="no chunk is followed")

        seeing[0] = False
        stale = policy_says(lambda s: s.level == WARN and "stale" in s.message, "a silent camera goes unnoticed")
        assert "'frames'" in stale.message
        after = len(diagnostics.messages)
        diagnostics.wait_for(lambda s: s.name == "command" and values(s)["state"] == "holding", after, "it goes on blindly")
        last = len(chunks.messages)
        seeing[0] = True
        chunks.wait_for(after=last, what="a camera that comes back is not looked at")
    assert node.alive() and "Traceback" not in node.output


def set_parameter(ears: Ears, node: str, name: str, value: str) -> Any:
    request = SetParametersAtomically.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    return ears.call(SetParametersAtomically, f"{node}/set_parameters_atomically", request).result


def test_what_a_policy_cannot_have_is_refused_at_the_start(launcher: Launcher, tmp_path: Path, root: Path) -> None:
    robot_file = write_robot(tmp_path)
    checkpoint = looking_policy(tmp_path / "policy", load_robot(robot_file))
    (tmp_path / "blind").mkdir()
    entry = {"topic": "wrist/image_raw", "width": 64, "height": 48, "rate_hz": 10.0}
    blind = write_robot(tmp_path / "blind", cameras={"wrist": entry})
    unread = launcher.node("policy_node", robot_file, policy__checkpoint=checkpoint, policy__instruction="'the <image> there'")
    unseen = launcher.node("policy_node", blind, policy__checkpoint=checkpoint)
    door = root / "config/robots/adroit_door.yaml"
    nothing_to_choose = launcher.node("sim_node", door, sim__task="door", sim__instruction="'the red goal'", lockstep__enabled=True)
    for node, words in (
        (unread, ["policy.instruction", "<image>"]),
        (unseen, ["camera 'front'", "has wrist", "robot.cameras"]),
        (nothing_to_choose, ["sim.instruction", "'door' takes none"]),
    ):
        assert node.wait() == 2
        assert "Traceback" not in node.output and len(node.output.splitlines()) == 1, node.output
        assert all(word in node.output for word in words), node.output


def test_the_simulation_says_what_it_asks_for(launcher: Launcher, ears: Ears, root: Path) -> None:
    robot_file = root / "config/robots/adroit_relocate_goals.yaml"
    launcher.node("sim_node", robot_file, sim__task="relocate_goals", sim__realtime=True, sim__steps=5, sim__seed=4)
    status = ears.listen(DiagnosticStatus, "sim/status", qos.LATCHED)
    told = ears.listen(String, "instruction", qos.LATCHED)
    answer = set_parameter(ears, "sim_node", "sim.instruction", "to the purple goal")
    assert not answer.successful and "sim.instruction" in answer.reason and "exactly one goal of" in answer.reason
    ears.begin_episode()
    goals = AdroitRobot("relocate_goals", load_robot(robot_file)).task.goals
    assert told.wait_for().data == draw(goals, 4)
    wanted = f"now to the {goals[1].name} one"
    assert set_parameter(ears, "sim_node", "sim.instruction", wanted).successful
    assert len(told.messages) == 1  # nothing is asked for before the next reset
    ears.trigger("sim/reset")
    assert told.wait_for(after=1).data == wanted
    done = status.wait_for(lambda s: values(s)["state"] == "done" and values(s)["instruction"] == wanted, what="no end")
    assert values(done)["goal_reached"] == ""


def test_a_recording_says_again_what_was_said(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    robot_file = write_robot(tmp_path)
    at = [1_000_000_000 + k * 10_000_000 for k in range(30)]
    with BagWriter(tmp_path / "bag") as bag:
        bag.instruction(at[0] - 5, "the red goal")
        for k, stamp in enumerate(at):
            bag.joint_state(JointState(stamp, ("shoulder", "elbow"), np.zeros(2)))
            if k == 12:
                bag.instruction(stamp + 1, "the blue goal")
    words = ears.listen(Header, "lockstep/tick")
    told = ears.listen(String, "instruction")
    quick = {"lockstep__enabled": True, "lockstep__timeout_s": 0.2}  # nobody answers
    launcher.node("player_node", robot_file, player__bag=tmp_path / "bag", **quick)
    ears.meet("player/start")
    until(lambda: ears.node.count_publishers("lockstep/tick") > 0 and ears.node.count_publishers("instruction") > 0, "no player")
    assert ears.trigger("player/start").success
    words.wait_for(lambda w: from_time(w.stamp) >= at[-1], what="the recording does not end")
    parsed = {from_time(w.stamp): TickWord.parse(from_time(w.stamp), w.frame_id).instruction for w in words.messages}
    assert {parsed[stamp] for stamp in at[:13] if stamp in parsed} == {"the red goal"}
    assert {parsed[stamp] for stamp in at[13:] if stamp in parsed} == {"the blue goal"}
    assert told.messages[-1].data == "the blue goal"


def test_what_was_said_before_is_recorded(launcher: Launcher, ears: Ears, tmp_path: Path) -> None:
    from test_recorder import expect, joint_state, read, record

    ears.speak(String, "instruction", qos.LATCHED).publish(String(data="the red goal"))
    states, diagnostics = ears.speak(JointStateMsg, "joint_states"), ears.diagnostics()
    record(launcher, tmp_path, ears)
    ears.connected(states)
    until(lambda: ears.node.count_subscribers("instruction") > 0, "the recorder does not listen")
    expect(ears, "start")
    diagnostics.wait_for(lambda status: int(values(status).get("messages", 0)) > 0)  # what was said is said again
    with ears.insisting(lambda: states.publish(joint_state(1))):
        expect(ears, "stop")
    (folder,) = (tmp_path / "bags").iterdir()
    assert [message.data for message in read(folder)["/instruction"]] == ["the red goal"]


def test_a_chunk_finds_ready_what_was_seen(tmp_path: Path) -> None:
    """The real network: it looks once at every image, in the sight's thread, however many chunks follow; the same as without."""
    robot = load_robot(write_robot(tmp_path))
    policies = [FlowPolicy.load(looking_policy(tmp_path / "policy", robot)) for _ in range(2)]
    loops = [PolicyLoop(policy, PolicyParameters(steps=2, rate_hz=100.0)) for policy in policies]
    for loop in loops:
        loop.instruct("move the red cube", 0)
    given: list[Features] = []
    looked_at = {"frames": View(robot.cameras[0], FrameFeatures(SIZE, "front"))}
    sight = Sight(policies[0], looked_at, given.append, lambda kind, error: None)
    try:
        (prompt,) = policies[0].instruct("move the red cube", 0)
        sight.on_prompt(prompt)
        for number in (1, 2, 3):
            sight.on_image("frames", encoded(60 * number), number * 100_000_000)
            until(lambda: len(given) == number, "the image was not looked at")  # noqa: B023
            kept = policies[0]._kept
            assert kept is not None and kept.passes == number
            for more in (0, 10_000_000):
                now = number * 100_000_000 + more
                chunks = []
                for loop in loops:
                    loop.on_features(given[-1], now)
                    loop.on_joint_state(JointState(now, robot.joints, np.zeros(2)), now)
                    chunks.append(loop.step(now))
                assert chunks[0].positions.tobytes() == chunks[1].positions.tobytes()  # type: ignore[union-attr]
            assert kept.passes == number
    finally:
        sight.close()
