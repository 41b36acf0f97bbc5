"""What a bring-up is: its nodes, their order and parameters, as data; and what follows when one ends. No ROS, no process."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from flow_policy_ros import resources
from flow_policy_ros.cli import bringup as command
from flow_policy_ros.cli.main import main
from flow_policy_ros.cli.sros2 import read_contract
from flow_policy_ros.nodes import flight_watch
from flow_policy_ros.ros.bringup import (
    LINGER_S,
    STOP_PATIENCE_S,
    Bringup,
    NodeDescription,
    namespace_of,
    policy_bringup,
    record_bringup,
    replay_bringup,
    sim_bringup,
    two_robots,
)
from flow_policy_ros.ros.bringup_options import (
    PolicyOptions,
    RecordOptions,
    ReplayOptions,
    SimOptions,
    TwoOptions,
    help_texts,
)
from flow_policy_ros.ros.course import PAUSES_S, RECOVERED_S, Course, End, Lost, Respawn
from flow_policy_ros.ros.enclaves import ENABLE, KEYSTORE, OVERRIDE, STRATEGY, refuse_unsecured
from flow_policy_ros.ros.interfaces import NODES
from flow_policy_ros.ros.parameter_sources import from_file
from flow_policy_ros.ros.sros2 import deployment, profiles
from flow_policy_ros.runtime.parameters import BLOCKS, EXTRACTORS, CommandParameters, ParameterError
from flow_policy_ros.runtime.robot import load_robot

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = (PolicyOptions, SimOptions, ReplayOptions, RecordOptions, TwoOptions)
HAND = ROOT / "package.xml"
"""A file in place of a URDF: a bring-up looks only whether it is there."""
DOOR: dict[str, Any] = {"robot": "adroit_door", "observation": "state"}
LIMIT, PASSES = "command.limit_scale", "policy.steps"


def by_path(bringup: Bringup) -> dict[str, NodeDescription]:
    return {node.path: node for node in bringup.nodes}


@pytest.fixture(name="made")
def made_fixture(tmp_path: Path) -> list[Bringup]:
    """One of each kind, everything that there is in it."""
    (tmp_path / "bag").mkdir()
    return [
        policy_bringup(PolicyOptions(instruction="open the door", flights=str(tmp_path), markers=str(HAND))),
        sim_bringup(SimOptions(start=True, lockstep=True)),
        replay_bringup(ReplayOptions(bag=str(tmp_path / "bag"))),
        record_bringup(RecordOptions(out=str(tmp_path), namespace="left")),
        two_robots(TwoOptions()),
    ]


def test_the_command_node_is_configured_first_and_activated_when_chunks_come() -> None:
    nodes = by_path(policy_bringup(PolicyOptions()))
    assert list(nodes) == ["/command_node", "/configure_command", "/perception_node", "/policy_node", "/activate_command"]
    assert nodes["/command_node"].after == () and nodes["/configure_command"].after == ("/command_node",)
    assert nodes["/perception_node"].after == nodes["/policy_node"].after == ("/configure_command",)
    activate = nodes["/activate_command"]
    assert activate.after == ("/policy_node",) and activate.arguments == ("activate", "command_node", "--topic", "policy/chunk")
    assert {path for path, node in nodes.items() if node.respawn} == {"/perception_node", "/policy_node"}
    assert {path for path, node in nodes.items() if node.managed} == {"/command_node"}
    assert nodes["/command_node"].parameters["managed"] is True


def test_in_lockstep_there_are_no_chunks_before_the_simulation_is_begun() -> None:
    nodes = by_path(sim_bringup(SimOptions(lockstep=True, start=True)))
    assert nodes["/activate_command"].arguments[2:] == ("--service", "policy/reset")
    assert nodes["/begin"].after == ("/command_node", "/configure_command", "/perception_node", "/policy_node",
                                     "/activate_command", "/sim_node")  # fmt: skip
    sim = nodes["/sim_node"].parameters
    assert sim["lockstep.enabled"] is True and sim["sim.realtime"] is False and sim["use_sim_time"] is True
    live = by_path(sim_bringup(SimOptions(seed=7)))["/sim_node"].parameters
    assert live["lockstep.enabled"] is False and live["sim.realtime"] is True and live["sim.seed"] == 7
    assert list(by_path(sim_bringup(SimOptions(policy=False, start=False)))) == ["/sim_node"]


def test_in_real_time_episodes_follow_each_other() -> None:
    """Else a robot whose episode is over goes on in a scene that its policy never saw."""
    resets = ("policy/reset", "command/reset", "sim/reset")
    for options, calls in (
        (SimOptions(), (*resets, "command/reset", "--episodes")),
        (SimOptions(lockstep=True), resets),
        (SimOptions(policy=False), ("sim/reset",)),
    ):
        assert by_path(sim_bringup(options))["/begin"].arguments == ("call", *calls)
    assert "/begin" not in by_path(sim_bringup(SimOptions(start=False)))


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("policy", "sim"):
        assert main(["bringup", kind, "--observation", "state", "--checkpoint", str(tmp_path), "--print"]) == 2
        said = capsys.readouterr()
        assert not said.out and "adroit_door_state" in said.err
        assert f"{tmp_path} is no checkpoint: it has no config.json" in said.err


def test_who_leads_the_command_node() -> None:
    for options, managed in ((PolicyOptions(managed=False), False), (PolicyOptions(lead=False), True)):
        nodes = by_path(policy_bringup(options))
        assert list(nodes) == ["/command_node", "/perception_node", "/policy_node"]
        assert nodes["/command_node"].parameters["managed"] is managed is nodes["/command_node"].managed
        assert all(node.after == () for node in nodes.values())


def test_in_every_kind_no_command_node_is_ever_started_again(made: list[Bringup]) -> None:
    for bringup in made:
        for node in bringup.nodes:
            assert node.respawn == (node.onlooker or node.module in ("policy_node", "perception_node")), node.path
            assert node.onlooker == (node.module in ("flight_recorder_node", "marker_node"))
            stops = node.module in ("command_node", "recorder_node", "flight_recorder_node")
            assert node.patience_s == STOP_PATIENCE_S if stops else node.patience_s < STOP_PATIENCE_S
    assert any(node.module == "command_node" for node in made[-1].nodes)


def test_a_command_node_has_the_time_to_bring_the_robot_to_a_stand() -> None:
    tree = ast.parse((ROOT / "flow_policy_ros" / "nodes" / "runner.py").read_text())
    (finish,) = [n.value for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "FINISH_S"]
    assert ast.literal_eval(finish) + 1.0 < STOP_PATIENCE_S


def test_modules_and_parameters_exist(made: list[Bringup]) -> None:
    for node in (node for bringup in made for node in bringup.nodes):
        assert (ROOT / "flow_policy_ros" / "nodes" / f"{node.module}.py").is_file()
        if node.task:
            assert not node.parameters and node.arguments
            continue
        table = NODES[node.module]
        known = {f"{block}.{f.name}" for block in table.blocks for f in dataclasses.fields(BLOCKS[block])}
        assert set(node.parameters) <= known | set(table.parameters) | {"use_sim_time"}, node.path
        assert node.parameters["robot_file"] == str(resources.robot_file("adroit_door"))


def test_everything_lies_in_the_name_space() -> None:
    nodes = policy_bringup(PolicyOptions(namespace="cell/left")).nodes
    assert all(node.namespace == "/cell/left" for node in nodes)
    assert all(path.startswith("/cell/left/") for node in nodes for path in node.after)
    assert (namespace_of(""), namespace_of("/"), namespace_of("/left")) == ("", "", "/left")
    for bad in ("2left", "left/", "le ft", "~left"):
        with pytest.raises(ValueError, match="name space"):
            namespace_of(bad)


def test_what_is_not_given_is_the_robot_files(tmp_path: Path) -> None:
    robot = yaml.safe_load(resources.robot_file("adroit_door").read_text())
    blocks = robot["/**"]["ros__parameters"]
    blocks["policy"] = {**blocks.get("policy", {}), "checkpoint": "adroit_door_state_h48"}
    blocks["perception"] = {**blocks.get("perception", {}), "detector": "/mine"}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(robot))
    nodes = by_path(policy_bringup(PolicyOptions(robot=str(path))))
    assert nodes["/policy_node"].parameters["policy.checkpoint"] == str(resources.checkpoint("adroit_door_state_h48"))
    assert "perception.detector" not in nodes["/perception_node"].parameters
    given = by_path(policy_bringup(PolicyOptions(robot=str(path), checkpoint="adroit_door_camera", detector=str(tmp_path))))
    assert given["/policy_node"].parameters["policy.checkpoint"] == str(resources.checkpoint("adroit_door_camera"))
    assert given["/perception_node"].parameters["perception.detector"] == str(tmp_path)


def test_another_extractor_has_its_weights_from_its_model() -> None:
    options = PolicyOptions(extractor="vlm", model="my_vlm", instruction="open the door")
    nodes = by_path(policy_bringup(options))
    seen = {name: value for name, value in nodes["/perception_node"].parameters.items() if name.startswith("perception.")}
    assert seen == {"perception.extractor": "vlm", "perception.model": "my_vlm", "perception.instruction": "open the door"}
    assert nodes["/policy_node"].parameters["policy.instruction"] == "open the door"


def test_a_dry_run_is_asked_of_the_command_node_alone() -> None:
    nodes = by_path(policy_bringup(PolicyOptions(dry_run=True)))
    assert [path for path, node in nodes.items() if "command.dry_run" in node.parameters] == ["/command_node"]
    assert "command.dry_run" not in by_path(policy_bringup(PolicyOptions()))["/command_node"].parameters
    assert "dry_run" in CommandParameters.__dataclass_fields__  # else the node would refuse it


def test_the_flight_recorder_and_the_marker_node_are_there_before_the_first_command(tmp_path: Path) -> None:
    looking = PolicyOptions(**DOOR, flights=str(tmp_path / "new"), markers=str(HAND), namespace="left")
    nodes = by_path(policy_bringup(looking))
    order = ["command_node", "configure_command", "flight_recorder_node", "marker_node", "policy_node", "activate_command"]
    assert list(nodes) == [f"/left/{name}" for name in order]
    flight, markers = nodes["/left/flight_recorder_node"], nodes["/left/marker_node"]
    assert flight.parameters["flight.out"] == str(tmp_path / "new") and flight.linger_s > 0
    assert markers.parameters["markers.urdf"] == str(HAND) and markers.linger_s == 0
    assert flight.after == markers.after == ("/left/configure_command",)
    given = ("flight_recorder_node:flight.keep:=3",)
    alone = by_path(sim_bringup(SimOptions(policy=False, start=False, flights=str(tmp_path), parameters=given)))
    assert list(alone) == ["/flight_recorder_node", "/sim_node"]
    assert alone["/flight_recorder_node"].parameters["flight.keep"] == 3
    two = by_path(two_robots(TwoOptions(flights=str(tmp_path), left_markers=str(HAND))))
    assert two["/right/flight_recorder_node"].parameters["flight.out"] == str(tmp_path / "right")
    assert "/left/marker_node" in two and "/right/marker_node" not in two


def test_what_flies_with_it_lingers_longer_than_the_command_nodes_silence() -> None:
    assert LINGER_S > flight_watch.SILENCE_S + 1.0 + 0.5 * flight_watch.MOST_CALLS - 0.5


@pytest.mark.parametrize("kind", range(5))
def test_every_node_has_the_enclave_that_its_profile_is_for(kind: int, tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    more: dict[str, Any] = {"enclaves": "/flow_policy", "flights": str(tmp_path), "markers": str(HAND), "namespace": "cell/left"}
    two = {"enclaves": "/flow_policy", "flights": str(tmp_path), "left_markers": str(HAND)}
    bringup = (
        lambda: policy_bringup(PolicyOptions(**more)),
        lambda: sim_bringup(SimOptions(**more, start=True)),
        lambda: replay_bringup(ReplayOptions(**more, bag=str(tmp_path / "bag"))),
        lambda: record_bringup(RecordOptions(enclaves="/flow_policy", out=str(tmp_path))),
        lambda: two_robots(TwoOptions(**two)),
    )[kind]()
    robot = load_robot(resources.robot_file("adroit_door"))
    contract = read_contract(resources.checkpoint("adroit_door_camera"), robot.name)
    for node in bringup.nodes:
        lockstep = bool(bringup.nodes[0].parameters.get("lockstep.enabled"))
        plan = deployment(robot, contract, {"lockstep.enabled": lockstep}, node.namespace or "/")
        profile = profiles(plan, (node.name,))[0]
        assert node.enclave == profile.enclave
        for name in node.arguments[1:]:  # of steps: what they use
            asked = [f"{node.namespace}/{name}", f"{node.namespace}/{name}/change_state"]
            assert name.startswith("--") or {*asked} & {*profile.requests, *profile.subscribes}, (node.path, name)
        assert {name for name in node.remaps.values()} <= profile.publishes | profile.subscribes
    assert bringup.enclaves == [node.enclave for node in bringup.nodes]
    assert not policy_bringup(PolicyOptions()).enclaves


def test_nodes_that_would_run_unprotected_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("/flow_policy/command_node", "/flow_policy/policy_node"):
        (tmp_path / "enclaves" / path.lstrip("/")).mkdir(parents=True)
    both = {ENABLE: "true", STRATEGY: "Enforce", KEYSTORE: str(tmp_path)}
    here = ["/flow_policy/command_node", "/flow_policy/policy_node"]
    refuse_unsecured(here, both)
    refuse_unsecured([], {})
    spoilt: list[tuple[dict[str, str], str]] = [
        ({ENABLE: ""}, "ROS_SECURITY_ENABLE is ''"), ({STRATEGY: "Permissive"}, "Enforce"), ({KEYSTORE: ""}, "keystore"),
        ({KEYSTORE: str(tmp_path / "none")}, "/flow_policy/command_node"), ({OVERRIDE: "/a"}, "Unset it"),
    ]  # fmt: skip
    for change, told in spoilt:
        with pytest.raises(ValueError, match=told):
            refuse_unsecured(here, {**both, **change})
    with pytest.raises(ValueError, match="no enclave /flow_policy/marker_node;"):
        refuse_unsecured([*here, "/flow_policy/marker_node"], both)
    monkeypatch.setattr(command, "require_ros", lambda: None)
    monkeypatch.delenv(ENABLE, raising=False)
    with pytest.raises(ValueError, match="would run unprotected"):
        command.main(["policy", "--enclaves", "/flow_policy"])


@pytest.mark.parametrize(
    ("make", "options", "told"),
    [
        (policy_bringup, PolicyOptions(robot="nope"), "'nope' does not exist"),
        (policy_bringup, PolicyOptions(checkpoint="nope"), "'nope' does not exist"),
        (policy_bringup, PolicyOptions(detector="nope"), "'nope' does not exist"),
        (policy_bringup, PolicyOptions(parameters=("policy_node:policy.steps",)), "NODE:NAME:=VALUE"),
        (policy_bringup, PolicyOptions(parameters=("sim_node:sim.seed:=5",)), "'sim_node', which is not started"),
        (policy_bringup, PolicyOptions(parameters=("policy_node:policy.stepps:=5",)), "policy.stepps"),
        (policy_bringup, PolicyOptions(parameters=("policy_node:command.rate_hz:=5",)), "no parameter 'command.rate_hz'"),
        (policy_bringup, PolicyOptions(parameters=("policy_node:policy.steps:=5000",)), "expected 1 to 1000"),
        (policy_bringup, PolicyOptions(parameters=("policy_node:policy.steps:=many",)), "expected int"),
        (policy_bringup, PolicyOptions(parameters=("command_node:managed:=true",)), "set by the option 'managed'"),
        (policy_bringup, PolicyOptions(params_files=("nowhere.yaml",)), "nowhere.yaml cannot be read"),
        (policy_bringup, PolicyOptions(enclaves="keystore"), "enclaves' root is 'keystore'"),
        (policy_bringup, PolicyOptions(markers="nowhere.urdf"), "URDF nowhere.urdf does not exist"),
        (replay_bringup, ReplayOptions(), "option 'bag'"),
        (replay_bringup, ReplayOptions(bag="/no/bag"), "/no/bag does not exist"),
        (record_bringup, RecordOptions(), "option 'out'"),
        (two_robots, TwoOptions(left_namespace=""), "left robot has no name space"),
        (two_robots, TwoOptions(right_namespace="left"), "both robots would be commanded on /left/"),
    ],
)  # fmt: skip
def test_what_cannot_be_started_is_refused_before_anything_is(make: Any, options: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make(options)


def test_two_robots_have_everything_apart() -> None:
    nodes = by_path(two_robots(TwoOptions(parameters=(f"left/policy_node:{PASSES}:=3", f"command_node:{LIMIT}:=0.5"))))
    sides = {path.split("/")[1] for path in nodes}
    assert sides == {"left", "right"} and len(nodes) == 10
    assert all(node.remaps == {"/diagnostics": f"{node.namespace}/diagnostics"} for node in nodes.values())
    assert all(path.startswith(node.namespace + "/") for node in nodes.values() for path in node.after)
    assert nodes["/left/policy_node"].parameters[PASSES] == 3 and PASSES not in nodes["/right/policy_node"].parameters
    assert all(nodes[f"/{side}/command_node"].parameters[LIMIT] == 0.5 for side in sides)


@pytest.mark.parametrize(
    ("key", "told"), [("command_topic", "commanded on /shared"), ("joint_state_topic", "positions for its own")]
)
def test_two_robots_that_share_a_topic_are_refused(key: str, told: str, tmp_path: Path) -> None:
    """Two command nodes on one controller; or the joint states of one robot taken for the other's."""
    robot = yaml.safe_load(resources.robot_file("adroit_door").read_text())
    robot["/**"]["ros__parameters"]["robot"][key] = "/shared"
    path = tmp_path / "absolute.yaml"
    path.write_text(yaml.safe_dump(robot))
    options = TwoOptions(left_robot=str(path), right_robot=str(path), observation="state")
    with pytest.raises(ValueError, match=told):
        two_robots(options)


def test_single_parameters_go_before_files_and_files_before_options(tmp_path: Path) -> None:
    file, later = tmp_path / "first.yaml", tmp_path / "later.yaml"
    file.write_text(yaml.safe_dump({
        "/**": {"ros__parameters": {"policy": {"steps": 4, "rate_hz": 5, "checkpoint": "/from/file"}, "use_sim_time": True}},
        "/policy_node": {"ros__parameters": {"policy.seed": 9, "qos_overrides./clock.depth": 1}},
        "other_node": {"ros__parameters": {"policy.seed": 8, "no.such": 1}},
    }))  # fmt: skip
    later.write_text(yaml.safe_dump({"policy_node": {"ros__parameters": {"policy.rate_hz": 6.0}}}))
    options = PolicyOptions(**DOOR, params_files=(str(file), str(later)), parameters=(f"policy_node:{PASSES}:=7",))
    nodes = by_path(policy_bringup(options))
    policy = nodes["/policy_node"].parameters
    assert policy["policy.checkpoint"] == "/from/file" and policy["policy.seed"] == 9
    assert policy["policy.rate_hz"] == 6.0 and policy[PASSES] == 7
    assert nodes["/command_node"].parameters["use_sim_time"] is True and PASSES not in nodes["/command_node"].parameters


@pytest.mark.parametrize(
    ("pattern", "path", "meant"),
    [
        ("/**", "/left/policy_node", True),
        ("/**/policy_node", "/policy_node", True),
        ("/**/policy_node", "/cell/left/policy_node", True),
        ("/*/policy_node", "/left/policy_node", True),
        ("/*/policy_node", "/cell/left/policy_node", False),
        ("/*/policy_node", "/policy_node", False),
        ("policy_node", "/policy_node", True),
        ("policy_node", "/left/policy_node", False),
        ("/left/*", "/left/policy_node", True),
        ("/right/**", "/left/policy_node", False),
    ],
)
def test_nodes_in_files_are_meant_as_rcl_means_them(pattern: str, path: str, meant: bool, tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump({pattern: {"ros__parameters": {PASSES: 2}}}))
    assert from_file("policy_node", path, file) == ({PASSES: 2} if meant else {})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("- 1", "expected NODE: ros__parameters"),
        ("policy_node: {steps: 1}", "ros__parameters"),
        ("policy_node: {ros__parameters: [1]}", "expected NAME: VALUE"),
        ("", "expected NODE: ros__parameters"),
        ("policy_node: {}", "has no ros__parameters"),
        ("policy_node: {ros__parameters: {polcy.steps: 1}}", "no parameter 'polcy.steps'"),
        ("policy_node: {ros__parameters: {policy.steps: 1.5}}", "expected int"),
        ("policy_node: {ros__parameters: {policy.steps: 1, policy.steps: 2}}", "given twice"),
    ],
)
def test_a_file_that_says_something_else_is_refused_with_its_name(content: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match=told) as refused:
        from_file("policy_node", "/policy_node", file)
    assert str(file) in str(refused.value)


@pytest.mark.parametrize("first", ["/command_node", "/**"])
def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path, first: str) -> None:
    """ROS takes the later block, which may be the one that is live."""
    said = {"/command_node": False, "/**": True}
    order = [first, *(name for name in said if name != first)]
    blocks = {name: {"ros__parameters": {"command": {"dry_run": said[name], "rate_hz": 50.0}}} for name in order}
    file = tmp_path / "both.yaml"
    file.write_text(yaml.safe_dump(blocks, sort_keys=False))
    with pytest.raises(ParameterError, match=r"both that command.dry_run is (True|False) and that it is (True|False); leave one"):
        from_file("command_node", "/command_node", file)


def test_texts_stay_texts_and_numbers_become_numbers() -> None:
    given = ("policy_node:policy.instruction:=12", "policy_node:policy.rate_hz:=1e1", "policy_node:use_sim_time:=true")
    policy = by_path(policy_bringup(PolicyOptions(**DOOR, parameters=given)))["/policy_node"].parameters
    assert policy["policy.instruction"] == "12" and policy["policy.rate_hz"] == 10.0 and policy["use_sim_time"] is True


def test_descriptions_that_cannot_be_followed_are_refused() -> None:
    node = NodeDescription("policy_node", "policy_node")
    with pytest.raises(ValueError, match="one name"):
        Bringup("", (node, node))
    with pytest.raises(ValueError, match="not before it"):
        Bringup("", (NodeDescription("policy_node", "policy_node", after=("/later",)),))


# What follows from starts and ends.


def followed(bringup: Bringup) -> Course:
    """A course in which everything has been started, every step done."""
    course = Course(bringup)
    while due := course.due():
        for node in due:
            course.started(node.path, 0.0)
            if node.task:
                assert course.ended(node.path, 0, 0.0) is None
    return course


def test_each_is_due_when_those_before_it_are() -> None:
    course = Course(policy_bringup(PolicyOptions(**DOOR)))

    def due() -> list[str]:
        return [node.path for node in course.due()]

    assert due() == ["/command_node"]
    course.started("/command_node", 0.0)
    assert due() == ["/configure_command"]
    course.started("/configure_command", 0.0)
    assert due() == []  # until it has ended well
    assert course.ended("/configure_command", 0, 1.0) is None
    assert due() == ["/policy_node"]
    course.started("/policy_node", 1.0)
    assert due() == ["/activate_command"]


@pytest.mark.parametrize(("code", "ends"), [(2, 2), (1, 1), (-9, 1)])
def test_a_step_that_fails_ends_all(code: int, ends: int) -> None:
    course = Course(policy_bringup(PolicyOptions(**DOOR)))
    course.started("/command_node", 0.0)
    course.started("/configure_command", 0.0)
    end = course.ended("/configure_command", code, 1.0)
    assert isinstance(end, End) and end.code == ends and "configure command_node was not done" in end.reason


@pytest.mark.parametrize(("code", "ends"), [(0, 1), (-9, 1), (-11, 1), (70, 70), (2, 2)])
def test_the_command_node_is_never_started_again(code: int, ends: int) -> None:
    """Whatever it died of: a robot that was let go is somebody's to look at."""
    end = followed(policy_bringup(PolicyOptions(**DOOR))).ended("/command_node", code, 1000.0)
    assert isinstance(end, End) and end.code == ends and "/command_node" in end.reason


def test_the_policy_is_started_again_with_longer_and_longer_pauses_and_then_no_more() -> None:
    course, now = followed(policy_bringup(PolicyOptions(**DOOR))), 0.0
    for pause_s in PAUSES_S:
        now += 5.0
        again = course.ended("/policy_node", -9, now)
        assert isinstance(again, Respawn) and again.pause_s == pause_s
        course.started("/policy_node", now)
    assert isinstance(course.ended("/policy_node", -9, now + 5.0), End)
    assert course.respawns == {"/policy_node": len(PAUSES_S)}


def test_a_policy_that_had_recovered_begins_with_the_shortest_pause() -> None:
    course = followed(policy_bringup(PolicyOptions(**DOOR)))
    for now in (1.0, 2.0):
        assert isinstance(course.ended("/policy_node", 0, now), Respawn)
        course.started("/policy_node", now)
    again = course.ended("/policy_node", 1, 2.0 + RECOVERED_S)
    assert isinstance(again, Respawn) and again.pause_s == PAUSES_S[0]


def test_a_policy_that_refuses_its_input_would_refuse_it_again() -> None:
    end = followed(policy_bringup(PolicyOptions(**DOOR))).ended("/policy_node", 2, 1.0)
    assert isinstance(end, End) and end.code == 2


def test_an_onlooker_ends_the_others_only_where_it_is_refused_at_the_start(tmp_path: Path) -> None:
    course = followed(policy_bringup(PolicyOptions(**DOOR, flights=str(tmp_path))))
    path = "/flight_recorder_node"
    assert isinstance(course.ended(path, 2, 1.0), End)  # what was asked for cannot be had, and nothing moves yet
    for again in PAUSES_S:
        assert course.ended(path, -9, 1.0) == Respawn(next(n for n in course._nodes.values() if n.path == path), again)
        course.started(path, 1.0)
    assert isinstance(course.ended(path, 2, 1.0), Lost) and isinstance(course.ended(path, -9, 1.0), Lost)


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (1, 1), (-15, 1)])
def test_the_recorder_ends_as_it_likes(code: int, ends: int, tmp_path: Path) -> None:
    end = followed(record_bringup(RecordOptions(out=str(tmp_path)))).ended("/recorder_node", code, 1.0)
    assert isinstance(end, End) and end.code == ends


# The options and the command.


@pytest.mark.parametrize("options", OPTIONS, ids=lambda cls: cls.__name__)
def test_every_option_has_its_help(options: type) -> None:
    texts = help_texts(options)
    assert set(texts) == {field.name for field in dataclasses.fields(options)}
    assert all(text.endswith((".", ")")) for text in texts.values())
    hints = get_type_hints(options)
    if "extractor" in hints:
        assert set(get_args(hints["extractor"])) == {"", *EXTRACTORS}


def test_the_command_shows_and_writes_what_it_would_start(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "order.json"
    line = ["sim", "--observation", "state", "--namespace", "left"]
    given = ["--parameters", f"policy_node:{PASSES}:=2", f"command_node:{LIMIT}:=0.5"]
    assert command.main([*line, *given, "--print", "--json", str(file)]) == 0
    written = json.loads(file.read_text())
    paths = [node["path"] for node in written["nodes"]]
    order = ("command_node", "configure_command", "policy_node", "activate_command", "sim_node", "begin")
    assert paths == [f"/left/{name}" for name in order]
    shown = capsys.readouterr().out
    assert all(path in shown for path in paths) and f"{PASSES}: 2" in shown and f"{LIMIT}: 0.5" in shown
    assert "exit_code" not in written


WITHOUT_ROS = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("rclpy", "launch")) or name.partition(".")[0].endswith("_msgs"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Refuse())
from flow_policy_ros.cli.main import main
sys.exit(main(["bringup", "policy", "--print"]))
"""


def test_what_would_be_started_is_shown_without_ros() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_ROS], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "/perception_node" in done.stdout, done.stderr


def test_every_kind_has_help_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 2 and command.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {kind} " in shown for kind in command.KINDS)
    assert set(command.kinds()) == set(command.KINDS)
    for kind in command.KINDS:
        with pytest.raises(SystemExit) as done:
            command.main([kind, "--help"])
        assert done.value.code == 0 and "--print" in capsys.readouterr().out
    with pytest.raises(ValueError, match="kinds are policy, sim"):
        command.main(["nope"])


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["dryrun:=true"], "no argument 'dryrun' here; did you mean 'dry_run'?"),
        (["dry_run:=true"], "here it is --dry-run."),
        (["lead:=false"], "here it is --no-lead."),
        (["--observation", "state", "robot:=adroit_pen"], "here it is --robot adroit_pen."),
        (["--parameters", "policy_node:policy.steps:=5", "dryrun:=true"], "did you mean 'dry_run'?"),
    ],
)
def test_what_ros2_launch_takes_is_refused_with_what_is_to_be_written(words: list[str], error: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(error)):
        command.main(["policy", *words, "--print"])


def test_a_value_that_looks_so_is_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["policy_node:policy.steps:=5", "policy_node:policy.seed=6"]
    assert command.main(["policy", "--instruction", "a:=b", "--print", "--parameters", *given]) == 0
    shown = capsys.readouterr().out
    assert "policy.instruction: a:=b" in shown and "policy.steps: 5" in shown and "policy.seed: 6" in shown
