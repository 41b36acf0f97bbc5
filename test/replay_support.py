"""What tests of the replay share: a small robot and checkpoint, recordings made up in memory, a sink that keeps what it is told."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import yaml
from recording_support import write_robot_file
from test_policy import make_checkpoint

from flow_policy_ros.data.bag_events import BadEvent, BagEvent, CommandEvent, FeaturesEvent, JointStateEvent
from flow_policy_ros.evaluation.replay.engine import Replayed, replay
from flow_policy_ros.evaluation.replay.records import ReplayChunk, ReplayFeatures, ReplayMeta, ReplayTick
from flow_policy_ros.evaluation.replay.stack import ReplayParts, ReplaySelection, Sources, load_replay
from flow_policy_ros.policy.checkpoint import save_checkpoint
from flow_policy_ros.runtime.contract import Contract, StreamContract
from flow_policy_ros.runtime.types import Features, JointState

JOINTS = ("wrist", "thumb")
TICK = 10_000_000
START = 7_000_000_003
STREAM = StreamContract("touch", 1, 2, {})


def write_robot(folder: Path, **blocks: object) -> Path:
    """The robot file of ``recording_support`` with further blocks of parameters, groups, and nothing that slows a start."""
    path = write_robot_file(folder)
    tree = yaml.safe_load(path.read_text())
    parameters = tree["/**"]["ros__parameters"]
    parameters["robot"]["groups"] = {"arm": ["wrist"], "fingers": ["thumb"]}
    parameters |= {"policy": {"rate_hz": 25.0, "steps": 2}, "command": {"soft_start_s": 0.0, "first_command_max": 10.0}, **blocks}
    path.write_text(yaml.safe_dump(tree))
    return path


def write_checkpoint(folder: Path, *streams: StreamContract, name: str = "c") -> Path:
    """A small untrained checkpoint for the robot."""
    contract = Contract("hand", JOINTS, JOINTS, 2 * TICK, 8, streams)
    save_checkpoint(folder / name, make_checkpoint(contract))
    return folder / name


def selection(folder: Path, *streams: StreamContract, **more: object) -> ReplaySelection:
    return ReplaySelection(write_robot(folder), write_checkpoint(folder, *streams), **more)  # type: ignore[arg-type]


def joint_states(count: int, first: int = 0, start: int = START) -> Iterator[JointStateEvent]:
    """At each tick a state of a slow motion; number ``first`` on."""
    for k in range(first, first + count):
        stamp = start + k * TICK
        yield JointStateEvent(stamp, JointState(stamp, JOINTS, 0.3 * np.sin(0.02 * k + np.arange(2.0))))


def recording(count: int) -> Iterator[BagEvent]:
    """Joint states, commands, and features of the stream ``touch`` at each tick."""
    for event in joint_states(count):
        yield event
        yield CommandEvent(event.received, event.received, JOINTS, event.state.position + 0.01)
        values = np.full((1, 2), 1e-3 * (event.received // TICK % 100), dtype=np.float32)
        yield FeaturesEvent(event.received, Features(event.received, "touch", values))


class Kept:
    """A sink that keeps everything, and a hash of all set-points."""

    def begin(self, meta: ReplayMeta) -> None:
        self.states: list[tuple[int, JointState]] = []
        self.recorded: list[CommandEvent] = []
        self.bad: list[BadEvent] = []
        self.features: list[ReplayFeatures] = []
        self.chunks: list[ReplayChunk] = []
        self.ticks: list[ReplayTick] = []
        self.ended = False

    def on_joint_state(self, state: JointState, received: int) -> None:
        self.states.append((received, state))

    def on_recorded(self, command: CommandEvent) -> None:
        self.recorded.append(command)

    def on_bad(self, event: BadEvent) -> None:
        self.bad.append(event)

    def on_features(self, seen: ReplayFeatures) -> None:
        self.features.append(seen)

    def on_chunk(self, sampled: ReplayChunk) -> None:
        self.chunks.append(sampled)

    def on_tick(self, tick: ReplayTick) -> None:
        self.ticks.append(tick)

    def end(self) -> None:
        self.ended = True

    @property
    def commands(self) -> np.ndarray:
        """Set-points (T, J), NaN where there was none."""
        nothing = np.full(len(JOINTS), np.nan)
        return np.array([nothing if t.tick.setpoint is None else t.tick.setpoint.position for t in self.ticks])

    def sha256(self) -> str:
        return hashlib.sha256(self.commands.tobytes()).hexdigest()


def run(loaded: ReplayParts, events: Iterable[BagEvent], sources: Sources | None = None) -> tuple[Kept, Replayed]:
    """A replay with new loops; recorded features by default those of every stream."""
    stack, ahead = loaded.open(sources or Sources(features=loaded.parts.streams))
    period_ns = round(1e9 / loaded.parts.command_parameters.rate_hz)
    kept = Kept()
    done = replay(events, stack, [kept], ReplayMeta("made up", "hand", "c", loaded.robot.joints, period_ns), "front", ahead)
    assert kept.ended
    return kept, done


def replayed(chosen: ReplaySelection, events: Iterable[BagEvent]) -> Kept:
    return run(load_replay(chosen), events)[0]
