"""The SROS 2 policy: valid for its reader, made of the table, as narrow as robot file and parameters allow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from flow_policy_ros import resources
from flow_policy_ros.cli.main import main
from flow_policy_ros.cli.sros2 import read_contract
from flow_policy_ros.ros import interfaces
from flow_policy_ros.ros.interfaces import NODES
from flow_policy_ros.ros.sros2 import (
    BY_HAND,
    OPERATOR,
    VIEWER,
    Profile,
    absolute,
    deployment,
    others,
    places,
    policy_xml,
    present,
    profiles,
)
from flow_policy_ros.ros.steps import ACTIVATE, BEGIN, CONFIGURE, STEPS
from flow_policy_ros.runtime.contract import Contract, StreamContract
from flow_policy_ros.runtime.robot import INTERFACES, Robot, load_robot

CHILDREN = {"topics": "topic", "services": "service", "actions": "action"}
RIGHTS = {"topics": {"publish", "subscribe"}, "services": {"reply", "request"}, "actions": {"call", "execute"}}


def problems(text: str) -> list[str]:
    """What the schema of sros2 (policy.xsd, version 0.2.0) and its reader would refuse."""
    root = ElementTree.fromstring(text)
    found = [] if (root.tag, root.attrib) == ("policy", {"version": "0.2.0"}) else [f"root {root.tag} {root.attrib}"]
    found += [] if [child.tag for child in root] == ["enclaves"] else ["not one element enclaves"]
    paths = [enclave.get("path", "") for enclave in root.iter("enclave")]
    found += [path for path in paths if paths.count(path) > 1 or not re.fullmatch(r"(/[a-zA-Z_]\w*)+", path)]
    for enclave in root.find("enclaves") or ():
        if enclave.tag != "enclave" or [child.tag for child in enclave] != ["profiles"]:
            found.append(f"{enclave.tag} {enclave.attrib}")
        for profile in enclave.find("profiles") or ():
            if profile.tag != "profile" or set(profile.attrib) != {"ns", "node"}:
                found.append(f"{profile.tag} {profile.attrib}")
            for group in profile:
                if group.tag not in RIGHTS or not group.attrib or not set(group.attrib) <= RIGHTS[group.tag]:
                    found.append(f"{group.tag} {group.attrib}")
                    continue
                if set(group.attrib.values()) != {"ALLOW"} or not len(group):
                    found.append(f"{group.tag} {group.attrib} of {len(group)}")
                found += [f"{e.tag} {e.text}" for e in group if e.tag != CHILDREN[group.tag] or not _is_name(e.text or "")]
    return found


def _is_name(text: str) -> bool:
    return text == "/*" or re.fullmatch(r"(/[A-Za-z_]\w*)+", text) is not None


def robot_of(folder: Path, **block: object) -> Robot:
    """A robot of two joints, with two cameras of which one has depth."""
    limits = {j: {"position": [-1.0, 1.0], "velocity": 1.0, "acceleration": 10.0} for j in ("a", "b")}
    size = {"width": 64, "height": 48, "rate_hz": 10.0}
    wrist = {**size, "topic": "wrist/image", "depth": {"topic": "wrist/z"}}
    cameras = {"front": {**size, "topic": "camera/image_raw"}, "wrist": wrist}
    robot = {"name": "two", "joints": ["a", "b"], "limits": limits, "cameras": cameras, **block}
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": {"robot": robot}}}))
    return load_robot(path)


CONTRACT = Contract(
    "two", ("a", "b"), ("a", "b"), 20_000_000, 16,
    (StreamContract("objects", 1, 7, {}), StreamContract("tokens", 4, 8, {"extractor": "yolo_tokens", "camera": "wrist"})),
)  # fmt: skip


def profile_of(robot: Robot, node: str, namespace: str = "/", **settings: object) -> Profile:
    plan = deployment(robot, CONTRACT, {key.replace("__", "."): value for key, value in settings.items()}, namespace)
    return next(profile for profile in profiles(plan, NODES) if profile.node == node)


def test_every_shipped_robot_gives_a_valid_policy_of_every_node() -> None:
    contract = read_contract(resources.checkpoint("adroit_door_camera"), "adroit_door")
    for name in resources.names("robots"):
        plan = deployment(load_robot(resources.robot_file(name)), contract)
        text = policy_xml(profiles(plan, (*NODES, *STEPS)), "x -- y")
        assert problems(text) == []
        assert {p.get("node") for p in ElementTree.fromstring(text).iter("profile")} == {*NODES, *STEPS, OPERATOR, VIEWER}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace('version="0.2.0"', 'version="0.1.0"'),
        lambda text: text.replace("publish=", "request="),
        lambda text: text.replace("<topic>/diagnostics</topic>", "<service>/diagnostics</service>"),
        lambda text: text.replace("/policy_node", "/command_node"),
        lambda text: text.replace("<topic>/clock", "<topic>clock"),
        lambda text: text.replace('ns="/" ', ""),
    ],
)
def test_a_policy_that_sros2_would_refuse_is_seen(tmp_path: Path, spoil: Callable[[str], str]) -> None:
    text = policy_xml(profiles(deployment(robot_of(tmp_path), CONTRACT)), "")
    assert problems(text) == [] and problems(spoil(text)) != []


def test_a_row_of_the_table_counts_with_its_condition_and_only_then(tmp_path: Path) -> None:
    robot = robot_of(tmp_path)
    plans = {
        interfaces.TRAJECTORIES[0]: deployment(robot, CONTRACT),
        interfaces.LOCKSTEP[0]: deployment(robot, CONTRACT, {"lockstep.enabled": True}),
        interfaces.DEADMAN_BOOL[0]: deployment(robot, CONTRACT, {"command.deadman": "bool"}),
        interfaces.DEADMAN_JOY[0]: deployment(robot, CONTRACT, {"command.deadman": "joy"}),
        interfaces.POINTS[0]: deployment(robot, CONTRACT, {"perception.points": "2x2"}),
        interfaces.READS[0]: deployment(robot, CONTRACT, {"perception.extractor": "vlm"}),
    }
    kinds = {interfaces.TRAJECTORIES[1]: "joint_trajectory_chunk", interfaces.ACTION[0]: "follow_joint_trajectory",
             interfaces.ARRAY[0]: "float64_array", interfaces.JOINT_STATE[0]: "joint_state"}  # fmt: skip
    plans |= {condition: deployment(replace(robot, command_interface=kind), CONTRACT) for condition, kind in kinds.items()}
    met = set()
    for row in [row for node in NODES.values() for row in node.interfaces if row.when and set(row.when) <= set(plans)]:
        for condition, plan in plans.items():
            usual = interfaces.TRAJECTORIES[0] in row.when and condition not in kinds
            assert present(plan, row) == (condition in row.when or usual), (row.name, condition)
            met.add(condition)
    assert met == set(plans)
    for plan in plans.values():
        where = places(plan)
        for profile in profiles(plan, NODES)[: len(NODES)]:
            for row in [row for row in NODES[profile.node].interfaces if present(plan, row)]:
                given = re.search(r"{(\w+)}", row.name)
                names = [row.name] if given is None else [row.name.replace(given[0], value) for value in where[given[1]]]
                assert {absolute(name, "/") for name in names} <= getattr(profile, row.role), (profile.node, row.name)


def test_places_cover_those_of_the_table(tmp_path: Path) -> None:
    assert set(places(deployment(robot_of(tmp_path), CONTRACT))) == set(interfaces.PLACES)


def test_names_of_cameras_and_streams_come_from_robot_file_and_checkpoint(tmp_path: Path) -> None:
    robot = robot_of(tmp_path)
    assert {"/features/objects", "/features/tokens/info"} <= profile_of(robot, "policy_node").subscribes
    assert profile_of(robot, "perception_node").subscribes >= {"/camera/image_raw"}
    both = {"perception__cameras": "front wrist", "perception__points": "2x2", "perception__extractor": "vlm"}
    seen = profile_of(robot, "perception_node", **both)
    assert {"/wrist/image", "/wrist/z", "/instruction"} <= seen.subscribes
    assert {"/features/vlm", "/features/vlm_wrist/info", "/features/points_wrist", "/perception/overlay_wrist"} <= seen.publishes
    assert "/wrist/image" not in profile_of(robot, "perception_node").subscribes


def test_only_the_command_node_may_speak_to_the_controller(tmp_path: Path) -> None:
    made = profiles(deployment(robot_of(tmp_path, command_topic="controller/commands"), CONTRACT))
    assert [p.node for p in made if "/controller/commands" in p.publishes] == ["command_node"]
    assert [p.node for p in made if "/policy/chunk" in p.publishes] == ["policy_node"]
    assert [p.node for p in made if "/command_node/set_parameters" in p.requests] == [OPERATOR]
    assert [p.node for p in made if "/command/reset" in p.requests] == [OPERATOR]
    assert not [p.node for p in made if "/joint_states" in p.publishes]


@pytest.mark.parametrize("interface", INTERFACES)
def test_in_a_dry_run_security_lets_nobody_speak_to_the_controller(tmp_path: Path, interface: str) -> None:
    """What the command node may not say it cannot say by mistake either."""
    topic, order = "/controller/commands", ["a", "b"]
    robot = robot_of(tmp_path, command_topic=topic, command_interface=interface, command_joints=order)
    dry = deployment(robot, CONTRACT, {"command.dry_run": True})
    for plan, allowed in ((deployment(robot, CONTRACT), True), (dry, False)):
        made = profiles(plan)
        assert any(topic in profile.publishes | profile.calls for profile in made) is allowed
        assert (topic in policy_xml(made, "")) is allowed
        rest = others(plan, made)
        assert (topic in rest["subscribe"] | rest["execute"]) is allowed and topic not in rest["publish"]
    heard = {name for profile in profiles(dry) for name in profile.publishes}
    assert {"/command/executed", "/command/plan"} <= heard


def test_a_step_of_a_bring_up_may_lead_the_command_node_and_nothing_else(tmp_path: Path) -> None:
    made = {p.node: p for p in profiles(deployment(robot_of(tmp_path), CONTRACT))}
    assert BEGIN not in made  # beside a real robot nothing begins an episode
    for step in (CONFIGURE, ACTIVATE):
        assert made[step].requests == {"/command_node/get_state", "/command_node/change_state"}
        assert made[step].publishes == {"/rosout", "/parameter_events"} and not made[step].calls
    assert [p.node for p in made.values() if "/command_node/change_state" in p.requests] == [CONFIGURE, ACTIVATE, OPERATOR]
    lockstep = deployment(robot_of(tmp_path), CONTRACT, {"lockstep.enabled": True}, "/left")
    activate, begin = profiles(lockstep, (ACTIVATE, BEGIN))[:2]
    assert "/left/policy/reset" in activate.requests and activate.enclave == "/flow_policy/left/activate_command"
    assert begin.requests == {f"/left/{name}" for name in ("policy/reset", "command/reset", "sim/reset", "player/start")}


def test_a_name_space_is_kept_to(tmp_path: Path) -> None:
    left = profiles(deployment(robot_of(tmp_path), CONTRACT, {}, "/left"))
    right = profiles(deployment(robot_of(tmp_path), CONTRACT, {}, "/right"))
    common = {"/rosout", "/parameter_events", "/diagnostics", "/clock", "/*"}
    assert {"/diagnostics", "/left/diagnostics"} <= left[0].publishes  # the latter in a bring-up of two robots
    for one, other in zip(left, right, strict=True):
        assert one.enclave == other.enclave.replace("/right/", "/left/")
        assert (one.publishes | one.subscribes | one.serves) & (other.publishes | other.subscribes | other.serves) <= common
    assert problems(policy_xml([*left, *right], "")) == []
    for name in ("left", "/left/", "/2", "/a b", ""):
        with pytest.raises(ValueError, match="expected a name such as /left"):
            deployment(robot_of(tmp_path), CONTRACT, {}, name)


def test_what_people_say_by_hand_is_heard_by_a_node() -> None:
    heard = {row.name for node in NODES.values() for row in node.interfaces if row.role == "subscribes"}
    assert set(BY_HAND) <= heard


def test_names_cannot_break_out_of_the_file(tmp_path: Path) -> None:
    text = policy_xml([Profile("a", "/", frozenset({"/x</topic><topic>/*"}))], "--> <policy>")
    assert [e.text for e in ElementTree.fromstring(text).iter("topic")] == ["/x</topic><topic>/*"]


def test_the_command_writes_and_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, figures = tmp_path / "security", tmp_path / "profiles.json"
    words = ["sros2", "--robot", "adroit_door", "--checkpoint", "adroit_door_camera", "--out", str(out)]
    assert main([*words, "--namespace", "/left", "--set", "command.deadman=bool", "--json", str(figures)]) == 0
    assert problems((out / "policy.xml").read_text()) == []
    command = json.loads(figures.read_text())[0]
    assert command["enclave"] == "/flow_policy/left/command_node" and "/left/command/deadman" in command["subscribes"]
    said = capsys.readouterr().out
    assert "publish /left/joint_states" in said and "generate_artifacts" in said and "Dry run" not in said
    for profile in json.loads(figures.read_text()):  # whole, however narrow the window is
        assert re.search(rf"^{profile['enclave']} +{len(profile['publishes'])} ", said, re.MULTILINE), profile["enclave"]
    assert main([*words, "--set", "command.dry_run:=true"]) == 0
    assert "no node may send anything on /joint_command" in capsys.readouterr().out.replace("/adroit/", "/")
    assert main([*words, "--nodes", "no_node"]) == 2
    assert "no_node" in capsys.readouterr().err
    assert main([*words, "--set", "command.deadman=never"]) == 2
    assert main(["sros2", "--robot", "adroit_door", "--checkpoint", "adroit_door_detector", "--out", str(out)]) == 2
    assert "contract.json" in capsys.readouterr().err
