"""Lockstep gives what one process gives, bit for bit, whatever order messages arrive in and however often.

The nodes' lockstep objects are joined by a bus that delivers in random order (in order per topic, as DDS does) and
delivers some messages twice. The real processes over DDS are tested in test_nodes_dds_lockstep.py.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from flow_policy_ros.evaluation.closed_loop import Stack, run_episode
from flow_policy_ros.nodes.command_lockstep import CommandLockstep
from flow_policy_ros.nodes.lockstep import Patience, TickWord
from flow_policy_ros.nodes.policy_lockstep import PolicyLockstep
from flow_policy_ros.nodes.sim_lockstep import SimLockstep
from flow_policy_ros.runtime.contract import Contract, StreamContract
from flow_policy_ros.runtime.inject import Disturbed, Injection
from flow_policy_ros.runtime.latency import LatencyProfile
from flow_policy_ros.runtime.parameters import CommandParameters, PolicyParameters
from flow_policy_ros.runtime.policy_loop import PolicyLoop
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.runtime.types import Chunk, Continuation, Features, FloatArray, Observation, Setpoint
from flow_policy_ros.safety.command_loop import CommandLoop
from flow_policy_ros.sim.robot import AdroitRobot

STEPS = 45
LATENCY = LatencyProfile({"perception": (0.0, 12.0, 35.0), "inference": (3.0, 9.0, 21.0)})
INJECTION = Injection.parse("delay=0.0..0.03,drop-chunks=0.2,drop-frames=0.4")
DELAYS = Disturbed(LATENCY, INJECTION)


class MovingPolicy:
    """A chunk that depends on every input, on (seed, stamp), and on what it is to continue."""

    prefix = 4

    def __init__(self, joints: tuple[str, ...]) -> None:
        streams = (StreamContract("detections", 1, 3, {}), StreamContract("objects", 1, 12, {}))
        self.contract = Contract("adroit_door", joints, joints, 10_000_000, 16, streams)

    def refusal(self, method: str, steps: int) -> str | None:
        return None

    def sample(
        self, observation: Observation, steps: int, seed: int, continuation: Continuation | None = None
    ) -> tuple[FloatArray, int]:
        noise = np.random.default_rng([seed, observation.stamp]).normal(size=len(observation.joint_position))
        seen = float(observation.features["detections"].sum() + observation.features["objects"].sum())
        goal = 0.05 * noise + 0.1 * np.sin(seen)
        chunk = observation.joint_position + np.linspace(0.0, 1.0, 16)[:, None] * goal
        if continuation is not None:
            held = np.clip(1.0 - (np.arange(16) - continuation.delay) / 8.0, 0.0, 1.0)[:, None]
            chunk = held * continuation.previous + (1.0 - held) * chunk
        return chunk, steps


class Brightness:
    """Mean colour of the image as features."""

    def extract(self, image: np.ndarray, stamp: int) -> Features:
        return Features(stamp, "detections", image.mean(axis=(0, 1), dtype=np.float64)[None].astype(np.float32))


class Bus:
    """Messages in order per topic; which topic is served next, and what is delivered twice, is drawn."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._queues: dict[tuple[str, Callable[..., None]], deque[tuple[object, ...]]] = {}

    def post(self, topic: str, readers: list[Callable[..., None]], *message: object) -> None:
        for reader in readers:
            queue = self._queues.setdefault((topic, reader), deque())
            queue.extend([message] * self._random.choice((1, 1, 1, 2)))

    def run(self) -> None:
        while waiting := [key for key, queue in self._queues.items() if queue]:
            key = self._random.choice(waiting)
            key[1](*self._queues[key].popleft())


@pytest.fixture(scope="module")
def adroit(root: Path) -> AdroitRobot:
    return AdroitRobot("door", load_robot(root / "config/robots/adroit_door.yaml"))


def loops(robot: AdroitRobot, mode: str = "receding") -> tuple[PolicyLoop, CommandLoop]:
    policy = PolicyLoop(MovingPolicy(robot.robot.joints), PolicyParameters(seed=3, mode=mode, rate_hz=60.0))  # busy almost always
    return policy, CommandLoop(robot.robot, CommandParameters())


@pytest.fixture(scope="module", params=["receding", "ensemble", "rtc"])
def expected(adroit: AdroitRobot, request: pytest.FixtureRequest) -> tuple[str, np.ndarray]:
    """The mode, and the commands of one process."""
    policy, command = loops(adroit, request.param)
    stack = Stack(policy, command, Brightness(), LATENCY, latency_seed=5, privileged=True, injection=INJECTION)
    result = run_episode(adroit, stack, seed=11, episode=2, steps=STEPS)
    assert result.chunks > result.statistics.chunks >= 3  # some got lost
    assert np.nanmax(np.ptp(result.commands, axis=0)) > 0.05
    return request.param, result.commands


@pytest.mark.parametrize("order", range(4))
def test_any_order_of_arrival_gives_the_same_commands(
    adroit: AdroitRobot, expected: tuple[str, np.ndarray], order: int
) -> None:
    mode, wanted = expected
    commands = np.full_like(wanted, np.nan)
    bus = Bus(order)
    policy_loop, command_loop = loops(adroit, mode)
    perception = Brightness()
    newest_image = [0]

    def look(image: np.ndarray, stamp: int) -> None:
        bus.post("detections", [policy.on_features], perception.extract(image, stamp))

    def announce() -> None:
        now, state = adroit.stamp, adroit.joint_state()
        bus.post("joint_states", [policy.on_joint_state, command.on_joint_state], state)
        bus.post("objects", [policy.on_features], adroit.object_features())
        if adroit.camera_due():
            newest_image[0] = now
            bus.post("image", [look], adroit.render(), now)
        bus.post("tick", [policy.on_tick, command.on_tick], TickWord(now, now, newest_image[0], {"objects": now}))

    def answer_policy(stamp: int, product: object, duration_ms: float) -> None:
        if isinstance(product, Chunk):
            bus.post("chunk", [command.on_chunk], product, stamp)
        bus.post("policy", [command.on_policy], stamp, isinstance(product, Chunk))

    def answer_command(stamp: int, tick: object) -> None:
        setpoint = tick.setpoint  # type: ignore[attr-defined]
        if setpoint is not None:
            commands[adroit.step_index if stamp == adroit.stamp else -1] = setpoint.position
            bus.post("command", [sim.on_command], stamp, setpoint.position)
            bus.post("executed", [policy.on_setpoint], setpoint)
        plan = tick.plan  # type: ignore[attr-defined]
        if plan is not None:
            bus.post("plan", [policy.on_plan], plan)
        bus.post("word", [sim.on_word], stamp, setpoint is not None)
        bus.post("word", [policy.on_command_word], stamp, setpoint is not None, plan is not None)

    def never() -> Patience:
        return Patience(timeout_s=1e9)

    policy = PolicyLockstep(policy_loop, ("detections", "objects"), DELAYS, 5, never(), never(), answer_policy)
    command = CommandLockstep(command_loop, DELAYS, 5, never(), answer_command)
    sim = SimLockstep(adroit, never(), announce, lambda: None)
    adroit.reset(11, 2)
    sim.begin(STEPS)
    bus.run()
    assert not sim.running
    assert commands.tobytes() == wanted.tobytes()
    if mode == "rtc":
        assert policy_loop.delay is not None  # it heard of plans, so that equality means something


def test_a_silent_command_node_is_waited_for_once(adroit: AdroitRobot) -> None:
    seconds = [0.0]
    answered: list[int] = []
    loop, _ = loops(adroit)
    others, commands = (Patience(limit, clock=lambda: seconds[0]) for limit in (1e9, 5.0))
    policy = PolicyLockstep(loop, (), LATENCY, 0, others, commands, lambda stamp, product, ms: answered.append(stamp))

    def tick() -> int:
        policy.on_joint_state(adroit.joint_state())
        policy.on_tick(TickWord(adroit.stamp, adroit.stamp))
        return adroit.stamp

    adroit.reset(0, 0)
    first = tick()
    assert answered == [first]  # nothing comes before the first
    adroit.step(None)
    second = tick()
    seconds[0] = 4.9
    policy.proceed()
    assert answered == [first]
    seconds[0] = 5.0
    policy.proceed()
    assert answered == [first, second]
    adroit.step(None)
    third = tick()  # known to be silent: goes on at once
    assert answered == [first, second, third]
    policy.on_command_word(third, False, False)  # it lives after all: waited for again
    adroit.step(None)
    fourth = tick()
    adroit.step(None)
    fifth = tick()
    assert answered == [first, second, third, fourth]
    policy.on_command_word(fourth, True, False)  # announced, but not here yet
    assert answered[-1] == fourth
    zeros = np.zeros(len(adroit.robot.joints))
    policy.on_setpoint(Setpoint(fourth, adroit.robot.joints, zeros, zeros, zeros))
    assert answered[-1] == fifth


def test_a_silent_policy_is_waited_for_once(adroit: AdroitRobot) -> None:
    seconds = [0.0]
    answered: list[int] = []
    _, loop = loops(adroit)
    patience = Patience(5.0, clock=lambda: seconds[0])
    command = CommandLockstep(loop, LATENCY, 0, patience, lambda stamp, tick: answered.append(stamp))
    adroit.reset(0, 0)

    def tick() -> int:
        command.on_joint_state(adroit.joint_state())
        command.on_tick(TickWord(adroit.stamp, adroit.stamp))
        return adroit.stamp

    first = tick()
    seconds[0] = 4.9
    command.proceed()
    assert answered == []
    seconds[0] = 5.0
    command.proceed()
    assert answered == [first]
    adroit.step(None)
    second = tick()  # known to be silent: goes on at once
    assert answered == [first, second]
    command.on_policy(adroit.stamp, False)  # it lives after all: waited for again
    adroit.step(None)
    tick()
    assert len(answered) == 2
    command.on_policy(adroit.stamp, False)
    assert answered[2:] == [adroit.stamp]
