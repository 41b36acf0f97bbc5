"""``flow_policy params`` on real nodes over DDS: all or nothing, reasons, files that load again, here and in rcl."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ros_support import Ears, FakeRobot, Launcher, ears_fixture, launcher_fixture, until, values, write_robot  # noqa: F401
from test_params import ODD_TEXTS

pytest.importorskip("rclpy")
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

from flow_policy_ros.cli.main import main
from flow_policy_ros.ros import parameter_client
from flow_policy_ros.ros.parameters import NodeParameters
from flow_policy_ros.runtime.parameter_file import write_parameters
from flow_policy_ros.runtime.parameters import ParameterError, PolicyParameters
from flow_policy_ros.runtime.robot import load_robot

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """``flow_policy params`` in this process: exit code, output, errors. Patient: the machine may have other work."""
    monkeypatch.setattr(parameter_client, "SETTLED_S", 0.3)
    monkeypatch.setattr(parameter_client, "LATE_S", 0.5)

    def params(*words: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["params", *map(str, words), "--wait", "30"])
        said = capsys.readouterr()
        return code, said.out, said.err

    return params


def present(ears: Ears, node: str, *names: str) -> tuple[object, ...]:
    """Values as the node tells them, asked for without the program under test."""
    answer = ears.call(GetParameters, f"{node}/get_parameters", GetParameters.Request(names=list(names)))
    return tuple(Parameter.from_parameter_msg(ParameterMessage(name="", value=value)).value for value in answer.values)


@contextmanager
def spinning(*nodes: Node) -> Iterator[None]:
    """Nodes of the same context in a thread of their own."""
    executor = SingleThreadedExecutor(context=nodes[0].context)
    for node in nodes:
        executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        yield
    finally:
        executor.shutdown()
        thread.join(timeout=5.0)
        for node in nodes:
            node.destroy_node()


@pytest.fixture
def context() -> Iterator[rclpy.Context]:
    result = rclpy.Context()
    result.init()
    yield result
    result.try_shutdown()


def test_the_command_node_takes_all_or_nothing(launcher: Launcher, ears: Ears, tmp_path: Path, run: Run) -> None:
    groups = {"arm": ["shoulder", "elbow"]}
    node = launcher.node("command_node", write_robot(tmp_path, groups=groups), command__limit_scale=0.9)

    def scales() -> tuple[object, ...]:
        return present(ears, "command_node", "command.limit_scale", "command.group_scale", "command.smoothing")

    code, out, _ = run("list", "command", "--describe")
    assert code == 0 and out.startswith("/command_node\n")
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith("  command.")}
    assert "0.9" in rows["command.limit_scale"] and "0.01 to 1" in rows["command.limit_scale"]
    assert "at start only" in rows["command.rate_hz"] and "at start only" not in rows["command.smoothing"]
    assert "jerk filter" in out

    code, out, _ = run("set", "command.limit_scale:=0.5", "command.group_scale:=arm=0.5", "command.smoothing:=1e-2")
    assert code == 0 and "command.limit_scale: 0.9 -> 0.5" in out
    before = scales()
    assert before == (0.5, "arm=0.5", 0.01)
    assert run("get", "command.limit_scale", "robot_file") == (0, f"0.5\n{tmp_path / 'two_joints.yaml'}\n", "")
    dump = tmp_path / "dump.yaml"
    assert run("dump", "--node", "command_node", "--out", dump)[0] == 0

    for pair, words in (
        (["command.limit_scale:=0.7", "command.group_scale:=leg=0.5"], "no group 'leg'"),  # the first alone would do
        (["command.group_scale:=", "command.limit_scale:=1.5"], "out of range"),
        (["command.group_scale:=arm=1.5", "command.limit_scale:=0.7"], "at most 1."),
        (["command.smoothing:=0.2", "command.limit_scale:=fast"], "is 'fast', expected float"),
        (["command.smoothing:=0.2", "command.rate_hz:=50"], "at start only: limits hold between consecutive"),
        (["command.smoothing:=0.2", "use_sim_time:=true", "--node", "command_node"], "stamps of two clocks"),
    ):
        code, out, err = run("set", *pair)
        assert (code, out) == (1, "") and err.startswith("refused, nothing was changed"), (pair, err)
        assert words in err, (pair, err)
        assert scales() == before
    code, _, err = run("set", "command.smoothing:=0.2", "command.smoothness:=0.2", "--node", "command_node")
    assert code == 2 and "no live node named command_node has a parameter command.smoothness" in err and scales() == before

    assert run("set", "command.limit_scale:=0.8", "command.group_scale:=", "command.smoothing:=0")[0] == 0 and scales() != before
    as_ros2 = tmp_path / "ros2.yaml"
    as_ros2.write_text(yaml.dump(yaml.safe_load(dump.read_text()), default_flow_style=False))  # as ``ros2 param dump`` writes it
    for file, change in ((dump, "command.limit_scale: 0.8 -> 0.5"), (as_ros2, "")):
        code, out, _ = run("load", file)  # with read-only parameters in it, which are as they are
        assert code == 0 and change in out and "command.rate_hz" not in out and scales() == before
        assert out.count(" -> ") == (3 if change else 0) and "were so already and were not sent again" in out
    text = dump.read_text().replace("rate_hz: 100", "rate_hz: 250").replace("smoothing: 0.01", "smoothing: 0.3")
    dump.write_text(text)
    code, _, err = run("load", dump)
    assert code == 1 and "command.rate_hz is 100.0 and would be 250.0" in err and scales() == before
    assert node.alive() and "Traceback" not in node.output

    restarted = launcher.node("command_node", write_robot(tmp_path, groups=groups), command__limit_scale=0.9)
    twice = "2 nodes are called '/command_node'"
    until(lambda: twice in run("set", "command.smoothing:=0.2")[2], "two nodes of a name are not told apart")
    assert restarted.alive()


def test_the_recorder_names_its_next_episode_otherwise(launcher: Launcher, ears: Ears, tmp_path: Path, run: Run) -> None:
    node = launcher.node("recorder_node", write_robot(tmp_path), recorder__out=tmp_path / "bags", recorder__min_free_gb=0.0)
    assert run("set", "recorder.name:=door", "recorder.compression:=none")[0] == 0
    code, _, err = run("set", "recorder.name:=../door", "recorder.compression:=lz4")
    assert code == 1 and "expected the beginning of a folder's name" in err
    assert run("get", "recorder.name", "recorder.compression")[1] == "door\nnone\n"
    assert "door_0001" in ears.trigger("record/start").message
    assert ears.trigger("record/discard").success and node.alive()


def make_policy_node(context: rclpy.Context, robot: Any, namespace: str, most: int) -> tuple[Node, NodeParameters]:
    """A node with the policy's parameters, whose checkpoint, so to speak, allows ``most`` steps."""

    def judge(prefix: str, block: Any) -> None:
        if block.steps > most:
            raise ParameterError(f"at most {most} steps.")

    node = Node("policy_node", context=context, namespace=namespace)
    return node, NodeParameters(node, robot, ("policy",), judge=judge)


def test_a_file_for_two_robots_is_loaded_wholly_or_not_at_all(context: rclpy.Context, tmp_path: Path, run: Run) -> None:
    robot = load_robot(write_robot(tmp_path))
    (left, at_left), (right, at_right) = (make_policy_node(context, robot, *n) for n in (("left", 20), ("right", 12)))

    def blocks() -> list[tuple[int, int]]:
        return [(b.steps, b.seed) for b in (p.block(PolicyParameters) for p in (at_left, at_right))]

    file = tmp_path / "p.yaml"
    with spinning(left, right):
        more = "/right/*: {ros__parameters: {policy.seed: 4}}"
        file.write_text(f"/**: {{ros__parameters: {{policy: {{steps: 12, seed: 3}}}}}}\n{more}\n")
        assert run("load", file)[0] == 0 and blocks() == [(12, 3), (12, 4)]
        file.write_text("/**: {ros__parameters: {policy: {steps: 15, seed: 7}}}\n")
        code, out, err = run("load", file)
        assert (code, out) == (1, "") and "/right/policy_node: at most 12 steps." in err
        assert blocks() == [(12, 3), (12, 4)]  # the left one had taken it, and gave it back
        assert run("load", file, "--node", "/left/policy_node")[0] == 0 and blocks() == [(15, 7), (12, 4)]
        more = "/left/policy_node: {ros__parameters: {policy: {threads: 2}}}"
        file.write_text(f"/**: {{ros__parameters: {{policy: {{seed: 1}}}}}}\n{more}\n")
        code, _, err = run("load", file)
        assert code == 1 and "/left/policy_node: policy.threads is 1 and would be 2" in err and blocks() == [(15, 7), (12, 4)]
        for words, error in (
            (("set", "policy.steps:=3"), "may be of /left/policy_node or /right/policy_node"),
            (("set", "policy.steps:=3", "--node", "policy_node"), "may be /left/policy_node or /right/policy_node"),
            (("get", "policy.steps", "--node", "middle/policy_node"), "there are /left/policy_node, /right/policy_node"),
        ):
            code, _, err = run(*words)
            assert code == 2 and error in err and blocks() == [(15, 7), (12, 4)]
        assert run("set", "policy.steps:=3", "--node", "left/policy_node")[0] == 0 and blocks() == [(3, 7), (12, 4)]


def test_the_plain_service_sets_one_by_one(context: rclpy.Context, ears: Ears, tmp_path: Path) -> None:
    """As ROS means it: each answer is of one parameter, and what stands before a refused one is set."""
    node, parameters = make_policy_node(context, load_robot(write_robot(tmp_path)), "", 20)
    given = {"policy.steps": 5, "policy.rate_hz": 1e6, "policy.seed": 9}
    with spinning(node):
        request = SetParameters.Request(parameters=[Parameter(k, value=v).to_parameter_msg() for k, v in given.items()])
        results = ears.call(SetParameters, "policy_node/set_parameters", request).results
    block = parameters.block(PolicyParameters)
    assert [result.successful for result in results] == [True, False, True] and (block.steps, block.seed) == (5, 9)


def test_a_dump_starts_a_node_with_the_same_values(context: rclpy.Context, tmp_path: Path) -> None:
    """rcl reads what we write, odd texts too: it takes 1e5, nan and 0x1F for numbers where they are not in quotes."""
    given: dict[str, Any] = {f"text.t{k}": text for k, text in enumerate(ODD_TEXTS)}
    given |= {"a.flag": True, "a.count": -3, "a.small": 1e-9, "a.great": 1e22, "a.whole": 2.0, "a.list": ["1e5", "x"]}
    given["a.numbers"] = [1, 2]
    file = tmp_path / "dump.yaml"
    file.write_text(write_parameters({"/left/odd": given}), encoding="utf-8")
    node = Node(
        "odd", context=context, namespace="left", automatically_declare_parameters_from_overrides=True,
        cli_args=["--ros-args", "--params-file", str(file)],
    )  # fmt: skip
    found = {name: node.get_parameter(name).value for name in given}
    found = {name: list(value) if hasattr(value, "tolist") else value for name, value in found.items()}
    assert found == given and type(found["a.whole"]) is float
    # as ``ros2 param dump`` has it: PyYAML with its usual settings
    assert yaml.safe_load(file.read_text())["/left/odd"]["ros__parameters"]["text"] == {f"t{k}": t for k, t in enumerate(ODD_TEXTS)}


def test_a_live_policy_is_sampled_otherwise_and_refuses_what_it_cannot(
    launcher: Launcher, ears: Ears, tmp_path: Path, run: Run
) -> None:
    pytest.importorskip("torch")
    from test_policy import make_checkpoint

    from flow_policy_ros.policy.checkpoint import save_checkpoint
    from flow_policy_ros.runtime.contract import Contract

    robot_file = write_robot(tmp_path)
    robot = load_robot(robot_file)
    save_checkpoint(tmp_path / "c", make_checkpoint(Contract(robot.name, robot.joints, robot.joints, 10_000_000, 16, ())))
    info = ears.listen(DiagnosticStatus, "policy/chunk_info")
    FakeRobot(ears)
    chosen = {"policy__steps": 5, "policy__profile": True, "policy__joint_state_max_age_s": 8.0}
    node = launcher.node("policy_node", robot_file, policy__checkpoint=tmp_path / "c", **chosen)

    def evaluations() -> str:
        """Of the first chunk that was begun after now: what was asked before may still be on its way."""
        now = ears.now()
        return values(info.wait_for(lambda i: int(values(i)["stamp"]) > now))["nfe"]

    info.wait_for()
    assert evaluations() == "5"
    assert run("set", "policy.solver:=heun", "policy.steps:=6")[0] == 0 and evaluations() == "12"
    for change, words in (
        (["policy.guidance_scale:=2", "policy.steps:=3"], "--condition-dropout above 0"),
        (["policy.deadline_s:=0.05", "policy.steps:=3"], "start the node with policy.deadline_s above 0"),
        (["policy.mode:=rtc", "policy.steps:=2"], "with 2 solver steps its guidance overshoots"),  # each alone would do
        (["policy.backend:=onnx", "policy.steps:=3"], "at start only: the network is loaded or compiled at start"),
    ):
        code, _, err = run("set", *change)
        assert code == 1 and words in err, change
        assert present(ears, "policy_node", "policy.mode", "policy.steps") == ("receding", 6)
        assert evaluations() == "12"
    assert run("set", "policy.solver:=")[0] == 0 and evaluations() == "6"
    stages = ears.diagnostics().wait_for(lambda s: s.name == "policy" and "profile_ms.velocity.p50" in values(s))
    assert "profile_ms.solver.p50" in values(stages) and node.alive() and "Traceback" not in node.output


def test_what_comes_late_is_listed_too_and_only_what_differs_is_sent(
    context: rclpy.Context, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One node is discovered while another one is being read; and an instruction that is loaded again is no new order."""
    robot = load_robot(write_robot(tmp_path))
    left, _ = make_policy_node(context, robot, "left", 20)
    late: list[Node] = []
    asked: list[list[str]] = []

    class Slow(parameter_client.ParameterClient):
        def parameters(self, node: str) -> dict[str, parameter_client.LiveParameter]:
            if not late:
                late.append(make_policy_node(context, robot, "late", 20)[0])
                executor.add_node(late[0])
                until(lambda: "/late/policy_node" in self.nodes(settled_s=0.0), "it is not discovered")
            return super().parameters(node)

        def set(self, node: str, values: Mapping[str, Any]) -> str:
            asked.append(sorted(values))
            return super().set(node, values)

    monkeypatch.setattr(parameter_client, "ParameterClient", Slow)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(left)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        dump = tmp_path / "dump.yaml"
        assert run("dump", "--out", dump)[0] == 0
        assert set(yaml.safe_load(dump.read_text())) == {"/left/policy_node", "/late/policy_node"}
        dump.write_text(dump.read_text().replace("seed: 0", "seed: 5", 1))
        code, out, _ = run("load", dump)
        assert code == 0 and asked == [["policy.seed"]] and out.count("policy.seed: 0 -> 5") == 1
        code, out, _ = run("load", dump)
        assert code == 0 and len(asked) == 1 and "so already" in out and "->" not in out
        assert run("set", "policy.seed=5", "--node", "left/policy_node")[0] == 0 and asked[1:] == [["policy.seed"]]  # an order
    finally:
        executor.shutdown()
        thread.join(timeout=5.0)
        for node in (left, *late):
            node.destroy_node()
