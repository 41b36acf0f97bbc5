"""The policy node: joint states and features in, timed action chunks out.

A shell around ``runtime.policy_loop`` and ``policy.flow_policy``. When an input is too old it publishes no chunk and
says so; what then happens to the robot is up to the command node. What is looked at here, not by perception, is ``policy_sight``'s.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.nodes.instruction_topic import READ_APART_S, InstructionTopic
from flow_policy_ros.nodes.lockstep import CHUNK, COMMAND, PLAN, POLICY_SHARE, STALE, Patience, TickWord, delays
from flow_policy_ros.nodes.policy_attention import PolicyAttention
from flow_policy_ros.nodes.policy_inputs import PolicyInputs, Refusals
from flow_policy_ros.nodes.policy_lockstep import PolicyLockstep
from flow_policy_ros.nodes.policy_sight import InlineSight, LookingPolicy, Sight, views
from flow_policy_ros.nodes.policy_worker import PolicyWorker
from flow_policy_ros.nodes.runner import STEADY, ClosableNode, run
from flow_policy_ros.policy.checkpoint import CheckpointError
from flow_policy_ros.policy.deployed import DeadlinePolicy, deploy
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.policy.profile import LOOK, PUBLISH, Profile, StageTimes, wrap_policy
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics, counts, latency_values, status
from flow_policy_ros.ros.messages import chunk_info, chunk_to_message, from_time, to_time
from flow_policy_ros.ros.parameters import NodeParameters, robot_of
from flow_policy_ros.runtime.buffers import Stale
from flow_policy_ros.runtime.contract import POINTS, PROMPT, SAID, ContractError
from flow_policy_ros.runtime.latency_tracker import LatencyTracker
from flow_policy_ros.runtime.parameters import LockstepParameters, ParameterError, PolicyParameters
from flow_policy_ros.runtime.policy_loop import PolicyLoop
from flow_policy_ros.runtime.stream_cameras import cameras_of, greatest_ages
from flow_policy_ros.runtime.trouble import Trouble
from flow_policy_ros.runtime.types import Chunk


class PolicyNode(ClosableNode):
    """Subscribes to joint states and the checkpoint's feature streams; publishes ``policy/chunk`` and its metadata.

    An instruction, from ``policy.instruction`` or the topic ``instruction``, is in force from the next chunk on.
    From ``command/executed`` and ``command/plan`` it learns what the robot really does with chunks, and how late.
    Service ``policy/reset`` forgets all inputs.
    """

    def __init__(self) -> None:
        super().__init__("policy_node")
        robot = robot_of(self)
        orders = {"policy.instruction": self._order}
        self._settings = NodeParameters(self, robot, ("policy", "lockstep"), self._changed, self._judge, orders)
        policy, lockstep = self._settings.block(PolicyParameters), self._settings.block(LockstepParameters)
        if not policy.checkpoint:
            raise ParameterError("the parameter policy.checkpoint is not set; give the path of a checkpoint folder.")
        torch.set_num_threads(policy.threads)
        deployed = deploy(policy, robot.name)
        assert isinstance(deployed, LookingPolicy)  # every checkpoint's is
        self._contract = deployed.contract
        self._contract.check_robot(robot)
        cameras = cameras_of(self._contract, robot)
        self._loop = PolicyLoop(deployed, policy, robot.endless, greatest_ages(self._contract, robot))
        if policy.instruction:
            _require_readable(self._loop, policy.instruction)
        self._durations = LatencyTracker()
        self._ages = LatencyTracker()
        self._stages = StageTimes()
        self._chunks = 0
        self._refusals = Refusals(self.get_logger())
        self._trouble = Trouble()
        self._lockstep: PolicyLockstep | None = None
        self._worker: PolicyWorker | None = None
        if lockstep.inject:
            self.get_logger().warning(f"disturbances are injected: {lockstep.inject}")
        streams = tuple(stream.name for stream in self._contract.streams if stream.kind not in SAID)

        self._chunk = self.create_publisher(JointTrajectory, "policy/chunk", qos.RELIABLE)
        self._info = self.create_publisher(DiagnosticStatus, "policy/chunk_info", qos.RELIABLE)
        self._diagnostics = Diagnostics(self, robot.name)
        if lockstep.enabled:
            patience = Patience(POLICY_SHARE * lockstep.timeout_s)
            command_patience = Patience(POLICY_SHARE * lockstep.timeout_s)
            self._lockstep = PolicyLockstep(
                self._loop,
                streams,
                delays(lockstep),
                lockstep.seed,
                patience,
                command_patience,
                self._answer,
                {stream: camera.name for stream, camera in cameras.items()},
            )
            self._words = self.create_publisher(Header, "lockstep/policy", qos.RELIABLE)
            self.create_subscription(Header, "lockstep/tick", self._on_tick, qos.RELIABLE)
            self.create_subscription(Header, "lockstep/command", self._on_command_word, qos.RELIABLE)
            self.create_timer(0.05, self._lockstep.proceed, clock=STEADY)
        else:
            self._worker = PolicyWorker(self._loop, self._now, self._done, delays(lockstep), lockstep.seed)
            self._timer = self.create_timer(1.0 / policy.rate_hz, self._worker.want, clock=STEADY)
        receiver = self._lockstep or self._worker
        assert receiver is not None
        looked_at = views(self._contract, robot)
        self._sight = InlineSight(looked_at, receiver.on_features, self._refusals.refuse)
        if looked_at and self._worker is not None:
            ahead = None if self._contract.of_kind(POINTS) else deployed
            self._sight = Sight(ahead, looked_at, receiver.on_features, self._refusals.refuse, delays(lockstep), lockstep.seed)
        self._inputs = PolicyInputs(
            self, robot, self._contract, receiver, looked_at, self._sight.on_image, self._refusals, lockstep.enabled
        )
        self._whole = _whole(self._loop)
        self._profile = Profile(self._stages.add) if policy.profile else None
        self._time_stages()
        self._attention = PolicyAttention(self, self._whole, robot, self._inputs.told)
        apart_s = 0.0 if lockstep.enabled else READ_APART_S
        self._told = InstructionTopic(self, self._instruct, lambda: self._loop.instruction, apart_s)
        if policy.instruction:
            self._told.give(policy.instruction)
            if not self._loop.listens:
                self.get_logger().warning("the checkpoint reads no instruction; policy.instruction changes nothing.")
        self.create_service(Trigger, "policy/reset", self._reset)
        self.create_timer(1.0, self._diagnose, clock=STEADY)

    def close(self) -> None:
        """End the workers."""
        self._attention.close()
        self._sight.close()
        if self._worker is not None:
            self._worker.close()

    def _now(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _instruct(self, instruction: str) -> None:
        """From the next chunk, in lockstep from the next tick on. Raises ``ValueError`` for one that the policy cannot read."""
        if self._lockstep is not None:
            self._lockstep.on_instruction(instruction)
        elif self._worker is not None and (not instruction or instruction != self._loop.instruction):
            prompts = {stream.name for stream in self._contract.of_kind(PROMPT)}
            for said in self._worker.instruct(instruction, self._now()):
                if said.stream in prompts:
                    self._sight.on_prompt(said)

    def _order(self, instruction: str) -> None:
        """By parameter. Raises ``ValueError`` for one that the policy cannot read."""
        self._told.give(instruction)

    def _on_command_word(self, word: Header) -> None:
        assert self._lockstep is not None
        published = word.frame_id.split()
        self._lockstep.on_command_word(from_time(word.stamp), COMMAND in published, PLAN in published)

    def _on_tick(self, tick: Header) -> None:
        assert self._lockstep is not None
        try:
            word = TickWord.parse(from_time(tick.stamp), tick.frame_id)
        except ValueError as error:
            self._refusals.refuse("tick_malformed", error)
            return
        self._lockstep.on_tick(word)

    def _answer(self, stamp: int, product: Chunk | Stale | None, duration_ms: float) -> None:
        """Lockstep: the chunk if there is one, then the word that this tick is done."""
        if product is not None:
            self._done(product, duration_ms, str(stamp))
        word = CHUNK if isinstance(product, Chunk) else "" if product is None else STALE
        self._words.publish(Header(stamp=to_time(stamp), frame_id=word))

    def _done(self, product: Chunk | Stale, duration_ms: float, tick: str = "") -> None:
        """Publish a chunk, or note why there is none. Live, this runs in the worker's thread; ``tick`` is lockstep's."""
        if isinstance(product, Stale):
            said = self._trouble.wrong(product.reason, time.monotonic())
            if said is not None:
                self.get_logger().warning(f"no chunk: {said}")
            return
        sampled = self._loop.sampled  # of this chunk: the next is not begun before it is published
        self._send(product, duration_ms, "" if sampled is None else sampled.instruction, tick)
        came = self._trouble.well(time.monotonic())
        if not self._chunks:
            self._trouble = Trouble()  # what was missing at the start is over with the first chunk
            self.get_logger().info("sampling")
        elif came:
            self.get_logger().info("sampling" if came == 1 else f"sampling; there was no chunk {came} times")
        self._chunks += 1
        if sampled is not None:
            self._attention.chunk_made(sampled)
        self._durations.add(duration_ms)
        if self._lockstep is None:
            self._ages.add((self._now() - product.stamp) / 1e6)

    def _send(self, chunk: Chunk, duration_ms: float, instruction: str, tick: str) -> None:
        self._chunk.publish(chunk_to_message(chunk, tick))
        self._info.publish(chunk_info(chunk, duration_ms, instruction))

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._lockstep is not None:
            self._lockstep.reset()
        elif self._worker is not None:
            self._worker.reset()
        response.success, response.message = True, "inputs forgotten"
        return response

    def _judge(self, prefix: str, block: Any) -> None:
        if prefix == "policy":
            self._loop.require(block)

    def _changed(self, prefix: str, block: Any) -> None:
        if prefix != "policy":
            return
        if self._profile is not None:
            self._profile.unwrap()  # what is timed may become another policy
        try:
            if self._worker is not None:
                self._worker.update(block)
                self._timer.timer_period_ns = round(1e9 / block.rate_hz)
            else:
                self._loop.update(block)
        finally:
            self._time_stages()

    def _time_stages(self) -> None:
        if self._profile is None:
            return
        sampling = _whole(self._loop)
        wrap_policy(self._profile, self._loop, sampling)
        if sampling is not self._whole:
            self._profile.wrap(self._whole, "look", LOOK)  # the sight looks with the one of the start: both see the same
        self._profile.wrap(self, "_send", PUBLISH)

    def _diagnose(self) -> None:
        self._attention.attend()
        self._inputs.attend()
        problem = self._trouble.text() or (None if self._chunks else "no sample yet")
        level, message = (OK, "sampling") if problem is None else (WARN, f"no chunk: {problem}")
        wrong = [*self._inputs.foreign.values(), *self._sight.problems.values()]
        if self._told.problem is not None:
            wrong.append(self._told.problem)
        if wrong:
            level, message = ERROR, " ".join(wrong if problem is None else [message, *wrong])
        if not self._sight.alive():
            level, message = ERROR, "looking at images failed with an error (see the node's output); restart the node."
        if self._worker is not None and not self._worker.alive():
            level, message = ERROR, "sampling failed with an error (see the node's output); restart the node."
        delay = self._loop.delay
        values: dict[str, object] = {
            "chunks": self._chunks,
            **latency_values("inference_ms", self._durations),
            **latency_values("chunk_age_ms", self._ages),
            **self._profiled(),
            "mode": self._settings.block(PolicyParameters).mode,
            "instruction": self._loop.instruction,
            **self._sight.report(),
            **self._attention.report(),
            "delay_ms": "" if delay is None else f"{delay / 1e6:.3f}",
            **counts("clamped", self._loop.clamped),
            **counts("rejections", {"instruction": 0, **self._loop.rejections, **self._refusals.counts}),
        }
        self._diagnostics.publish(self._now(), status("policy", level, message, values))

    def _profiled(self) -> dict[str, float]:
        """How long the stages of a chunk take; empty without ``policy.profile``."""
        tables = (latency_values(f"profile_ms.{stage}", times) for stage, times in self._stages.trackers.items())
        return {key: ms for table in tables for key, ms in table.items()}


def _whole(loop: PolicyLoop) -> FlowPolicy:
    """The policy that samples, without the deadline around it."""
    policy = loop.policy.inner if isinstance(loop.policy, DeadlinePolicy) else loop.policy
    assert isinstance(policy, FlowPolicy)
    return policy


def _require_readable(loop: PolicyLoop, instruction: str) -> None:
    try:
        loop.read(instruction, 0)
    except ValueError as error:
        raise ParameterError(f"parameter policy.instruction: {error}") from error


def main(args: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(PolicyNode, args, CheckpointError, ContractError)


if __name__ == "__main__":
    sys.exit(main())
