"""Instructions where some cannot be read: they are tried in order, by each that listens, whatever way a recording is played."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from replay_support import START, STREAM, TICK, joint_states, run, selection

from flow_policy_ros.data.bag_events import InstructionEvent
from flow_policy_ros.evaluation.replay.run import load_replay
from flow_policy_ros.evaluation.replay.stack import Sources
from flow_policy_ros.runtime.types import Features


class Reading:
    """A perception that reads everything but ``bad``."""

    speaks, instruction = True, ""

    def __init__(self, bad: str) -> None:
        self.bad, self.tried = bad, []

    def instruct(self, instruction: str) -> None:
        self.tried.append(instruction)
        if instruction == self.bad:
            raise ValueError(f"cannot read '{instruction}'")
        self.instruction = instruction

    def extract(self, image: np.ndarray, stamp: int) -> Features:
        return Features(stamp, "touch", np.zeros((1, 2), np.float32))

    def identity(self) -> dict[str, object]:
        return {}


def test_what_the_policy_cannot_read_perception_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_replay(selection(tmp_path, STREAM))
    perception = Reading("short")

    def refuse(instruction: str, stamp: int) -> tuple[Features, ...]:
        if instruction == "long":
            raise ValueError("too long")
        return ()

    monkeypatch.setattr(loaded.parts.policy, "instruct", refuse, raising=False)
    loaded = replace(loaded, parts=replace(loaded.parts, perception=perception))
    at = START + TICK // 2
    orders = [InstructionEvent(at, "red"), InstructionEvent(at, "long"), InstructionEvent(at, "short")]
    states = list(joint_states(10))
    kept, _ = run(loaded, [states[0], *orders, *states[1:]], Sources(camera="front"))
    assert perception.tried == ["red", "long", "short"] and perception.instruction == "long"
    assert [bad.reason for bad in kept.bad if bad.topic == "instruction"] == ["too long", "cannot read 'short'"]


def test_a_tick_word_holds_all_and_they_are_tried_in_order() -> None:
    pytest.importorskip("rclpy")
    from test_nodes_language import Listening

    from flow_policy_ros.nodes.lockstep import BETWEEN, Patience, TickWord
    from flow_policy_ros.nodes.policy_lockstep import PolicyLockstep
    from flow_policy_ros.runtime.latency import NO_LATENCY
    from flow_policy_ros.runtime.parameters import PolicyParameters
    from flow_policy_ros.runtime.policy_loop import PolicyLoop

    loop = PolicyLoop(Listening(), PolicyParameters(rate_hz=100.0))
    lockstep = PolicyLockstep(loop, (), NO_LATENCY, 0, Patience(1e9), Patience(0.0), lambda stamp, product, ms: None)
    for k, orders in enumerate((["red"], ["blue", ""], ["blue", ""], ["", "go left"])):
        word = TickWord(k * TICK, 0, 0, {}, BETWEEN.join(orders))
        assert TickWord.parse(word.stamp, str(word)).orders == orders
        lockstep.on_tick(TickWord.parse(word.stamp, str(word)))
        assert loop.instruction == [order for order in orders if order][-1]
    assert loop.rejections["instruction"] == 2  # each once, also where the word is carried on


def test_the_player_sends_all_that_came_in_a_tick(tmp_path: Path) -> None:
    rclpy = pytest.importorskip("rclpy")
    from ros_support import write_robot

    from flow_policy_ros.data.bag_writer import BagWriter
    from flow_policy_ros.nodes.player_node import PlayerNode
    from flow_policy_ros.runtime.types import JointState

    at = [START + k * TICK for k in range(6)]
    with BagWriter(tmp_path / "bag") as bag:
        bag.instruction(at[0] - 5, "the red goal")
        for k, stamp in enumerate(at):
            bag.joint_state(JointState(stamp, ("shoulder", "elbow"), np.zeros(2)))
            if k == 2:
                bag.instruction(stamp + 1, "the blue goal")
                bag.instruction(stamp + 2, "\x00")
    given = {"robot_file": write_robot(tmp_path), "player.bag": tmp_path / "bag", "lockstep.enabled": "true"}
    words = [word for name, value in given.items() for word in ("-p", f"{name}:={value}")]
    rclpy.init(args=["--ros-args", *words])
    try:
        node = PlayerNode()
        node._start(None, type("Answer", (), {})())
        said = []
        while node._tick is not None:
            said.append(node._word.orders)
            node._next()
        node.close()
        node.destroy_node()
    finally:
        rclpy.try_shutdown()
    assert said == [["the red goal"]] * 3 + [["the blue goal", "\x00"]] * 3
