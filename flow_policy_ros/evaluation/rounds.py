"""Policy and command stage around a robot that does exactly what it is told, in simulated time: what chunks cost.

Whether the motion makes sense is not the question here; features are empty and stay so.
"""

from __future__ import annotations

import numpy as np

from flow_policy_ros.policy.instruction import blank
from flow_policy_ros.runtime.buffers import Stale
from flow_policy_ros.runtime.contract import SAID, Contract, ContractError
from flow_policy_ros.runtime.parameters import CommandParameters
from flow_policy_ros.runtime.policy_loop import PolicyLoop
from flow_policy_ros.runtime.robot import Robot
from flow_policy_ros.runtime.types import Chunk, Features, JointState
from flow_policy_ros.safety.command_loop import CommandLoop

FIRST_NS = 1_000_000_000
ANYWHERE = 100.0
"""rad or m."""


class Rounds:
    """A round is ``receive``, ``sample``, ``obey``. ``command`` is the command stage, ``now`` the instant, ns.

    Raises ``ContractError`` for a robot that is not the policy's, and what ``PolicyLoop.instruct`` raises.
    """

    def __init__(self, loop: PolicyLoop, contract: Contract, robot: Robot) -> None:
        contract.check_robot(robot)
        self.now = FIRST_NS
        # Where this robot stands at first is made up, so that the first chunk may begin anywhere.
        parameters = CommandParameters(first_command_max=ANYWHERE)
        self.command = CommandLoop(robot, parameters)
        self._loop, self._robot = loop, robot
        self._period_ns = round(1e9 / parameters.rate_hz)
        self._streams = [stream for stream in contract.streams if stream.kind not in SAID]
        self._values = {stream.name: blank(stream) for stream in self._streams}
        limits = robot.limits
        self._position = np.clip(np.zeros(len(robot.joints)), limits.lower, limits.upper)
        if loop.listens:
            loop.instruct("hold still", self.now)
        self._feel()

    def receive(self) -> None:
        """Go on, tick by tick of the command stage, until a chunk is due, the policy's inputs fresh.

        Raises ``ContractError`` when the command stage has latched a fault: it would follow no chunk any more.
        """
        self._advance()
        while not self._loop.due(self.now):
            self._advance()
        if self.command.faults:
            raise ContractError(f"the command stage latched a fault: {self.command.faults[0].detail}")
        for stream in self._streams:
            self._loop.on_features(Features(self.now, stream.name, self._values[stream.name]), self.now)

    def sample(self) -> Chunk:
        """The policy's part of the round. Raises ``ContractError`` when there is no chunk."""
        product = self._loop.step(self.now)
        if isinstance(product, Stale):
            raise ContractError(f"the policy made no chunk: {product.reason}")
        return product

    def obey(self, chunk: Chunk) -> None:
        """The command stage takes the chunk, and shapes it for its next tick."""
        self.command.on_chunk(chunk, self.now)
        self.command.prepare(self.now + self._period_ns)

    def _advance(self) -> None:
        self.now += self._period_ns
        tick = self.command.tick(self.now)
        if tick.setpoint is not None:
            self._position = tick.setpoint.position
            self._loop.on_setpoint(tick.setpoint, self.now)
        if tick.plan is not None:
            self._loop.on_plan(tick.plan, self.now)
        self._feel()

    def _feel(self) -> None:
        state = JointState(self.now, self._robot.joints, self._position)
        self.command.on_joint_state(state, self.now)
        self._loop.on_joint_state(state, self.now)
