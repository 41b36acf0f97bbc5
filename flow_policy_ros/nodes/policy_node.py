"""The policy node: joint states and features in, timed action chunks out.

A shell around ``runtime.policy_loop`` and ``policy.flow_policy``. When an input is too old it publishes no chunk and
says so; what then happens to the robot is up to the command node.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import Image
from sensor_msgs.msg import JointState as JointStateMsg
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from flow_policy_ros.nodes.lockstep import CHUNK, COMMAND, PLAN, POLICY_SHARE, STALE, Patience, TickWord, delays
from flow_policy_ros.nodes.policy_lockstep import PolicyLockstep
from flow_policy_ros.nodes.policy_worker import PolicyWorker
from flow_policy_ros.nodes.runner import STEADY, ClosableNode, run
from flow_policy_ros.policy.checkpoint import CheckpointError
from flow_policy_ros.policy.deployed import deploy
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.diagnostics import ERROR, OK, WARN, counts, diagnostics, latency_values, status
from flow_policy_ros.ros.images import features_from_message
from flow_policy_ros.ros.messages import (
    MessageError,
    chunk_info,
    chunk_to_message,
    from_time,
    joint_state_from_message,
    plan_from_message,
    setpoint_from_executed,
    to_time,
)
from flow_policy_ros.ros.parameters import NodeParameters, robot_of
from flow_policy_ros.runtime.buffers import Stale
from flow_policy_ros.runtime.contract import ContractError
from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.runtime.latency_tracker import LatencyTracker
from flow_policy_ros.runtime.parameters import LockstepParameters, ParameterError, PolicyParameters
from flow_policy_ros.runtime.policy_loop import PolicyLoop
from flow_policy_ros.runtime.types import Chunk


class PolicyNode(ClosableNode):
    """Subscribes to joint states and the checkpoint's feature streams; publishes ``policy/chunk`` and its metadata.

    From ``command/executed`` and ``command/plan`` it learns what the robot really does with chunks, and how late.
    Service ``policy/reset`` forgets all inputs.
    """

    def __init__(self) -> None:
        super().__init__("policy_node")
        robot = robot_of(self)
        self._settings = NodeParameters(self, robot, ("policy", "lockstep"), self._changed, self._judge)
        policy, lockstep = self._settings.block(PolicyParameters), self._settings.block(LockstepParameters)
        if not policy.checkpoint:
            raise ParameterError("the parameter policy.checkpoint is not set; give the path of a checkpoint folder.")
        torch.set_num_threads(policy.threads)
        deployed = deploy(policy, robot.name)
        self._contract = deployed.contract
        self._contract.check_robot(robot)
        self._naming = robot.naming
        self._loop = PolicyLoop(deployed, policy, robot.endless)
        self._durations = LatencyTracker()
        self._ages = LatencyTracker()
        self._chunks = 0
        self._malformed: dict[str, int] = {}
        self._said: set[str] = set()  # kinds of refusals that the log has
        self._foreign: dict[str, str] = {}  # stream → why its features are not those of the training
        self._problem: str | None = "no sample yet"
        self._lockstep: PolicyLockstep | None = None
        self._worker: PolicyWorker | None = None
        if lockstep.inject:
            self.get_logger().warning(f"disturbances are injected: {lockstep.inject}")
        streams = tuple(stream.name for stream in self._contract.streams)

        self._chunk = self.create_publisher(JointTrajectory, "policy/chunk", qos.RELIABLE)
        self._info = self.create_publisher(DiagnosticStatus, "policy/chunk_info", qos.RELIABLE)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.RELIABLE)
        reader = qos.reader(lockstep.enabled)
        self.create_subscription(JointStateMsg, robot.joint_state_topic, self._on_joint_state, reader)
        for stream in self._contract.streams:
            self.create_subscription(Image, f"features/{stream.name}", partial(self._on_features, stream.name), reader)
            on_info = partial(self._on_feature_info, stream.name, stream.extractor)
            self.create_subscription(String, f"features/{stream.name}/info", on_info, qos.LATCHED)
        self.create_subscription(JointStateMsg, "command/executed", self._on_executed, qos.RECORD)
        self.create_subscription(JointTrajectory, "command/plan", self._on_plan, qos.RELIABLE)
        if lockstep.enabled:
            patience = Patience(POLICY_SHARE * lockstep.timeout_s)
            command_patience = Patience(POLICY_SHARE * lockstep.timeout_s)
            self._lockstep = PolicyLockstep(
                self._loop, streams, delays(lockstep), lockstep.seed, patience, command_patience, self._answer
            )
            self._words = self.create_publisher(Header, "lockstep/policy", qos.RELIABLE)
            self.create_subscription(Header, "lockstep/tick", self._on_tick, qos.RELIABLE)
            self.create_subscription(Header, "lockstep/command", self._on_command_word, qos.RELIABLE)
            self.create_timer(0.05, self._lockstep.proceed, clock=STEADY)
        else:
            self._worker = PolicyWorker(self._loop, self._now, self._done, delays(lockstep), lockstep.seed)
            self._timer = self.create_timer(1.0 / policy.rate_hz, self._worker.want, clock=STEADY)
        self.create_service(Trigger, "policy/reset", self._reset)
        self.create_timer(1.0, self._diagnose, clock=STEADY)

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()

    def _now(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _on_joint_state(self, message: JointStateMsg) -> None:
        try:
            state = self._naming.named(joint_state_from_message(message))
        except (MessageError, BadInput) as error:
            self._refuse("joint_state_malformed" if isinstance(error, MessageError) else error.kind, error)
            return
        try:
            if self._lockstep is not None:
                self._lockstep.on_joint_state(state)
            elif self._worker is not None:
                self._worker.on_joint_state(state, self._now())
        except BadInput as error:
            self._say_once(error.kind, error)  # counted by the loop

    def _on_features(self, stream: str, message: Image) -> None:
        if stream in self._foreign:
            self._malformed["features_foreign"] = self._malformed.get("features_foreign", 0) + 1
            return
        try:
            features = features_from_message(message)
            if features.stream != stream:
                raise MessageError(f"features on topic features/{stream} have frame_id '{features.stream}'.")
            if self._lockstep is not None:
                self._lockstep.on_features(features)
            elif self._worker is not None:
                self._worker.on_features(features, self._now())
        except MessageError as error:
            self._refuse("features_malformed", error)
        except BadInput as error:
            self._say_once(error.kind, error)

    def _on_executed(self, message: JointStateMsg) -> None:
        try:
            setpoint = setpoint_from_executed(message)
            if self._lockstep is not None:
                self._lockstep.on_setpoint(setpoint)
            elif self._worker is not None:
                self._worker.on_setpoint(setpoint, self._now())
        except MessageError as error:
            self._refuse("executed_malformed", error)
        except BadInput as error:
            self._say_once(error.kind, error)

    def _on_plan(self, message: JointTrajectory) -> None:
        try:
            plan = plan_from_message(message)
            if self._lockstep is not None:
                self._lockstep.on_plan(plan)
            elif self._worker is not None:
                self._worker.on_plan(plan, self._now())
        except MessageError as error:
            self._refuse("plan_malformed", error)
        except BadInput as error:
            self._say_once(error.kind, error)

    def _on_command_word(self, word: Header) -> None:
        assert self._lockstep is not None
        published = word.frame_id.split()
        self._lockstep.on_command_word(from_time(word.stamp), COMMAND in published, PLAN in published)

    def _on_feature_info(self, stream: str, trained_with: dict[str, Any], message: String) -> None:
        """Features of another extractor than the training's are worse than none."""
        self._foreign.pop(stream, None)
        try:
            given = json.loads(message.data)
            different = [key for key in trained_with if trained_with[key] != given.get(key)]
        except (ValueError, AttributeError) as error:
            self._refuse("features_info_malformed", error)
            return
        if different:
            self._foreign[stream] = (
                f"features '{stream}' come from another extractor than the checkpoint was trained with; "
                f"different: {', '.join(different)}. Start the perception node with the detector of this checkpoint."
            )
            self.get_logger().error(self._foreign[stream])

    def _on_tick(self, tick: Header) -> None:
        assert self._lockstep is not None
        try:
            word = TickWord.parse(from_time(tick.stamp), tick.frame_id)
        except ValueError as error:
            self._refuse("tick_malformed", error)
            return
        self._lockstep.on_tick(word)

    def _refuse(self, kind: str, error: Exception) -> None:
        self._say_once(kind, error)
        self._malformed[kind] = self._malformed.get(kind, 0) + 1

    def _say_once(self, kind: str, error: Exception) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self.get_logger().warning(f"refused: {error}")

    def _answer(self, stamp: int, product: Chunk | Stale | None, duration_ms: float) -> None:
        """Lockstep: the chunk if there is one, then the word that this tick is done."""
        if product is not None:
            self._done(product, duration_ms, str(stamp))
        word = CHUNK if isinstance(product, Chunk) else "" if product is None else STALE
        self._words.publish(Header(stamp=to_time(stamp), frame_id=word))

    def _done(self, product: Chunk | Stale, duration_ms: float, tick: str = "") -> None:
        """Publish a chunk, or note why there is none. Live, this runs in the worker's thread; ``tick`` is lockstep's."""
        if isinstance(product, Stale):
            if self._problem is None or _kind(product.reason) != _kind(self._problem):
                self.get_logger().warning(f"no chunk: {product.reason}")
            self._problem = product.reason
            return
        self._chunk.publish(chunk_to_message(product, tick))
        self._info.publish(chunk_info(product, duration_ms))
        if self._problem is not None:
            self.get_logger().info("sampling")
        self._problem = None
        self._chunks += 1
        self._durations.add(duration_ms)
        if self._lockstep is None:
            self._ages.add((self._now() - product.stamp) / 1e6)

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
        if self._worker is not None:
            self._worker.update(block)
            self._timer.timer_period_ns = round(1e9 / block.rate_hz)
        else:
            self._loop.update(block)

    def _diagnose(self) -> None:
        level, message = (OK, "sampling") if self._problem is None else (WARN, f"no chunk: {self._problem}")
        if self._foreign:
            level, message = ERROR, " ".join(self._foreign.values())
        if self._worker is not None and not self._worker.alive():
            level, message = ERROR, "sampling failed with an error (see the node's output); restart the node."
        delay = self._loop.delay
        values: dict[str, object] = {
            "chunks": self._chunks,
            **latency_values("inference_ms", self._durations),
            **latency_values("chunk_age_ms", self._ages),
            "mode": self._settings.block(PolicyParameters).mode,
            "delay_ms": "" if delay is None else f"{delay / 1e6:.3f}",
            **counts("clamped", self._loop.clamped),
            **counts("rejections", {**self._loop.rejections, **self._malformed}),
        }
        self._diagnostics.publish(diagnostics(self._now(), status("policy", level, message, values)))


def _kind(reason: str) -> str:
    """A reason without its figures, so that a growing age is not news."""
    return "".join(c for c in reason if not c.isdigit())


def main(args: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(PolicyNode, args, CheckpointError, ContractError)


if __name__ == "__main__":
    sys.exit(main())
