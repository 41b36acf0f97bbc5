"""Starts nodes as processes, waits until they are up, and leads them through episodes of the simulated robot.

It watches and asks; it publishes nothing and takes no part in the control loop. What the episodes amount to is for the
caller to say.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import rclpy
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from flow_policy_ros.ros.collector import Collector, Seen, SimStatus
from flow_policy_ros.ros.domain import environment_variables, own_domain
from flow_policy_ros.ros.processes import NodeProblem, NodeProcesses, NodeSpec
from flow_policy_ros.runtime.robot import Robot

START_S = 180.0  # importing torch on a machine with other things to do takes long
ANSWER_S = 20.0
AGAIN_S = 3.0  # a node answers in vain while it has not discovered this process; it is then asked again
SILENCE_S = 10.0
STALL_S = 90.0
LATE_S = 5.0
Progress = Callable[[SimStatus, str], None]
"""Called now and then with the simulation's status and the guard's state."""


class Conductor:
    """The nodes of ``specs`` for ``robot``, in a ROS domain of their own; a context manager that ends them.

    ``realtime``: the simulation keeps to the wall clock, else it waits for the nodes; ``dds_profile`` see ``own_domain``.
    Entering raises ``NodeProblem`` when a node does not come up.
    """

    def __init__(
        self, robot: Robot, specs: Sequence[NodeSpec], realtime: bool = False, dds_profile: Path | None = None
    ) -> None:
        self._environment = own_domain(dds_profile)
        self._robot = robot
        self._realtime = realtime
        self._perception = any(spec.name == "perception_node" for spec in specs)
        self.processes = NodeProcesses(specs, self._environment)

    def __enter__(self) -> Conductor:
        with ExitStack() as stack:
            stack.enter_context(self.processes)
            self._join(stack)
            self._wait_until_up()
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.close()

    def _join(self, stack: ExitStack) -> None:
        """This process as a node among them."""
        context = Context()
        with environment_variables(self._environment):
            rclpy.init(context=context, domain_id=int(self._environment["ROS_DOMAIN_ID"]))
            stack.callback(context.try_shutdown)
            self._node = rclpy.create_node("conductor", context=context)
            stack.callback(self._node.destroy_node)
        self._executor = SingleThreadedExecutor(context=context)
        stack.callback(self._executor.shutdown)
        self._executor.add_node(self._node)
        self._collector = Collector(self._node, self._robot, self._perception, lockstep=not self._realtime)
        self._reset = {n: self._node.create_client(Trigger, f"{n}/reset") for n in ("command", "policy", "sim")}
        self._parameters = self._node.create_client(SetParametersAtomically, "sim_node/set_parameters_atomically")

    def _wait_until_up(self) -> None:
        clients: dict[str, Client] = {**{f"{n}_node": c for n, c in self._reset.items()}, "sim_node ": self._parameters}

        def missing() -> list[str]:
            absent = {name.strip() for name, client in clients.items() if not client.service_is_ready()}
            return [f"the node {name}" for name in sorted(absent)] or self._collector.unmatched()

        if not self._spin_until(lambda: not missing(), START_S):
            said = " ".join(f"{s.name}: {self.processes.last_words(s.name)}" for s in self.processes.specs)
            raise NodeProblem(
                f"after {START_S:.0f} s these did not come up: {', '.join(missing())}. {said} "
                "Free the machine of other work, or try 'flow_policy doctor'."
            )

    def run(self, seed: int, episode: int, steps: int, progress: Progress | None = None, instruction: str = "") -> Seen:
        """One episode of ``steps`` control steps from the scene of ``seed``; ``episode`` sets its stamps in lockstep.

        ``instruction`` is what the simulated robot asks for; where it is empty, a task with several goals draws one by ``seed``.
        Raises ``NodeProblem`` when a node dies or does not answer, and when no image reaches the perception node.
        """
        self._set({"sim.seed": seed, "sim.episode": episode, "sim.steps": steps, "sim.instruction": instruction})
        self._collector.begin()
        since = self._start_realtime() if self._realtime else self._start_lockstep()
        begun = time.monotonic()
        status: SimStatus | None = None
        while status is None or status.state != "done":
            status = self._next_status(episode, status, begun)
            if progress is not None:
                progress(status, self._collector.reports.get("command", {}).get("state", ""))
        if self._perception and not self._collector.features:
            raise self._camera_problem()
        if not self._realtime and not self._spin_until(lambda: self._collector.complete(steps), LATE_S):
            raise NodeProblem(
                f"not everything that the nodes published in episode {episode} arrived within {LATE_S:.0f} s of its end. "
                "A node may have missed a tick because the machine is overloaded; free it of other work."
            )
        return self._collector.seen(since, steps)

    def _next_status(self, episode: int, previous: SimStatus | None, begun: float) -> SimStatus:
        """The simulation's next word on the episode that was begun at ``begun`` (monotonic, s)."""

        def news() -> bool:
            silent = self._perception and not self._collector.features
            if silent and time.monotonic() - begun > SILENCE_S:
                raise self._camera_problem()
            status = self._collector.status
            return status is not None and status.episode == episode and status != previous

        if not self._spin_until(news, STALL_S) or self._collector.status is None:
            step = 0 if previous is None else previous.step
            words = " ".join(f"{s.name}: {self.processes.last_words(s.name)}" for s in self.processes.specs)
            raise NodeProblem(f"episode {episode} stands at step {step} since {STALL_S:.0f} s. {words}")
        return self._collector.status

    def final_reports(self, ticks: int) -> dict[str, dict[str, str]]:
        """Diagnostics of every node, the command node's after ``ticks`` ticks or more; nodes report once a second."""
        self._collector.reports.clear()
        names = {"command", "policy", "sim"} | ({"perception"} if self._perception else set())

        def there() -> bool:
            reports = self._collector.reports
            return names <= set(reports) and int(reports["command"]["ticks"]) >= ticks

        self._spin_until(there, LATE_S)
        return dict(self._collector.reports)

    def _start_lockstep(self) -> int:
        for name in ("policy", "command"):
            self._call(self._reset[name], Trigger.Request(), f"{name}/reset")
        self._begin_episode()
        return 0

    def _start_realtime(self) -> int:
        """The command node is reset before the robot is put elsewhere, and again after it; it refuses while in motion."""
        self._reset_command()
        self._call(self._reset["policy"], Trigger.Request(), "policy/reset")
        self._begin_episode()
        since = int(self._node.get_clock().now().nanoseconds)
        self._reset_command()
        return since

    def _begin_episode(self) -> None:
        """Ask once, for a second time would begin it again under the other nodes; its status is as good as an answer."""
        future = self._reset["sim"].call_async(Trigger.Request())

        def begun() -> bool:
            status = self._collector.status
            return future.done() or (status is not None and status.state == "running")

        if not self._spin_until(begun, ANSWER_S):
            raise NodeProblem(f"the service sim/reset did not answer within {ANSWER_S:.0f} s. {self._said('sim/reset')}")

    def _reset_command(self) -> None:
        deadline = time.monotonic() + ANSWER_S
        while not (answer := self._ask(self._reset["command"], Trigger.Request(), "command/reset")).success:
            if time.monotonic() > deadline:
                raise NodeProblem(f"the command node could not be reset in {ANSWER_S:.0f} s: {answer.message}")

    def _set(self, parameters: Mapping[str, int | str]) -> None:
        request = SetParametersAtomically.Request()
        request.parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in parameters.items()]
        result = self._ask(self._parameters, request, "sim_node/set_parameters_atomically").result
        if not result.successful:
            raise NodeProblem(f"the simulated robot refused {parameters}: {result.reason}")

    def _call(self, client: Client, request: Any, name: str) -> None:
        answer = self._ask(client, request, name)
        if not answer.success:
            raise NodeProblem(f"the service {name} failed: {answer.message}")

    def _ask(self, client: Client, request: Any, name: str) -> Any:
        """The answer to a request that may be made twice."""
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            future = client.call_async(request)
            if self._spin_until(future.done, AGAIN_S):
                return future.result()
        raise NodeProblem(f"the service {name} did not answer within {ANSWER_S:.0f} s. {self._said(name)}")

    def _said(self, service: str) -> str:
        node = service.split("/")[0].removesuffix("_node") + "_node"
        return self.processes.last_words(node)

    def _spin_until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Take what arrives until ``condition``; False when it did not come true in time."""
        deadline = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.processes.check()
            self._executor.spin_once(timeout_sec=0.1)
        return True

    def _camera_problem(self) -> NodeProblem:
        camera = self._robot.cameras[0]
        return NodeProblem(
            f"camera '{camera.name}' is silent: no image on topic '{camera.topic}' reached the perception node in this "
            f"episode. The perception node says: {self._collector.messages.get('perception', 'nothing')}. Check the "
            "camera's topic in the robot file and that nothing remaps it."
        )
