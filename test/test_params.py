"""Parameter files and the words of ``flow_policy params``, without ROS."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from flow_policy_ros.cli import params
from flow_policy_ros.cli.main import main
from flow_policy_ros.cli.params_shared import as_present, owner, pairs, shown, with_number
from flow_policy_ros.runtime.parameter_file import read_parameters, wanted_of, write_parameters
from flow_policy_ros.runtime.parameter_reasons import REASONS, why_at_start
from flow_policy_ros.runtime.parameters import BLOCKS, ParameterError
from flow_policy_ros.runtime.robot import RobotFileError

ODD_TEXTS = ("", "1e5", "nan", "0x1F", "true", "5x5", "12", "two\nlines", "ümlaut: [x]", "null", "~", "'quoted'", 'say "go"')


def read(folder: Path, text: str) -> list:
    path = folder / "p.yaml"
    path.write_text(text, encoding="utf-8")
    return read_parameters(path)


@pytest.mark.parametrize(
    ("pattern", "node", "meant"),
    [
        ("/**", "/policy_node", True),
        ("/**", "/left/policy_node", True),
        ("/*", "/policy_node", True),
        ("/*", "/left/policy_node", False),
        ("/**/policy_node", "/a/b/policy_node", True),
        ("/**/policy_node", "/policy_node", True),
        ("/**/policy_node", "/not_policy_node", False),
        ("/left/*", "/left/policy_node", True),
        ("/left/*", "/right/policy_node", False),
        ("policy_node", "/policy_node", True),
        ("policy_node", "/left/policy_node", False),
        ("/policy.node", "/policyXnode", False),
    ],
)
def test_a_section_means_the_nodes_that_rcl_would_take_it_for(tmp_path: Path, pattern: str, node: str, meant: bool) -> None:
    (section,) = read(tmp_path, yaml.safe_dump({pattern: {"ros__parameters": {"a": 1}}}))
    assert section.means(node) is meant and section.exact is ("*" not in pattern)


def test_name_spaces_may_be_nested_and_names_too(tmp_path: Path) -> None:
    text = "left:\n  policy_node:\n    ros__parameters:\n      policy: {steps: 3}\n      policy.seed: 4\n"
    (section,) = read(tmp_path, text)
    assert section.pattern == "/left/policy_node" and section.parameters == {"policy.steps": 3, "policy.seed": 4}


def test_what_is_said_of_one_node_goes_before_what_is_said_of_all(tmp_path: Path) -> None:
    nodes = {"/a": dict.fromkeys(("x", "y", "z")), "/b": dict.fromkeys(("x", "y"))}
    text = "/a: {ros__parameters: {x: 1}}\n/*: {ros__parameters: {x: 2, y: 2}}\n/**: {ros__parameters: {x: 3, y: 3, z: 3}}\n"
    wanted = wanted_of(read(tmp_path, text), nodes, tmp_path)
    assert wanted == {"/a": {"x": 1, "y": 2, "z": 3}, "/b": {"x": 2, "y": 2}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/c: {ros__parameters: {x: 1}}", "no such node is alive; there are /a, /b"),
        ("/**: {ros__parameters: {nowhere: 1}}", "has a parameter nowhere"),
        ("/b: {ros__parameters: {z: 1}}", r"no node of '/b' \(/b\) has a parameter z"),
        ("x: 1", "'/x' holds 1"),
        ("[1]", "it is .* expected NODE"),
        ("/a: {}", "has no ros__parameters"),
        ("/a: {ros__parameters: 3}", "expected NAME: VALUE"),
    ],
)
def test_a_file_that_fits_nothing_is_refused(tmp_path: Path, text: str, words: str) -> None:
    nodes = {"/a": dict.fromkeys(("x", "z")), "/b": dict.fromkeys("x")}
    with pytest.raises(ParameterError, match=words):
        wanted_of(read(tmp_path, text), nodes, tmp_path)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RobotFileError, match=r"x given twice|'x'\] given twice"):
        read(tmp_path, "/a: {ros__parameters: {x: 1, x: 2}}")
    with pytest.raises(RobotFileError, match="cannot be read"):
        read_parameters(tmp_path / "nowhere.yaml")


def test_a_written_file_is_read_as_it_was(tmp_path: Path) -> None:
    values = {f"text.t{k}": text for k, text in enumerate(ODD_TEXTS)}
    values |= {"a.flag": True, "a.count": -3, "a.small": 1e-9, "a.great": 1e22, "a.list": ["1e5", "x"], "a.whole": 2.0}
    values |= {"qos_overrides./clock.subscription.depth": 10, "a": 5}
    nodes = {"/left/policy_node": values, "/command_node": {"use_sim_time": False}}
    text = write_parameters(nodes, "first\nsecond")
    assert text.startswith("# first\n# second\n")
    sections = {section.pattern: dict(section.parameters) for section in read(tmp_path, text)}
    assert sections == nodes and type(sections["/left/policy_node"]["a.whole"]) is float


@pytest.mark.parametrize(
    ("text", "present", "value"),
    [
        ("5", 10, 5),
        ("5", 10.0, 5.0),
        ("1e-3", 0.1, 0.001),
        ("fast", 0.1, "fast"),
        ("true", False, True),
        ("1", False, 1),
        ("12", "episode", "12"),
        ("''", "episode", ""),
        ("go left", "", "go left"),
        ("[1, 2]", [0], [1, 2]),
        ("[1, 2", 3, "[1, 2"),
    ],
)
def test_a_text_is_read_as_the_present_value_is(text: str, present: object, value: object) -> None:
    found = as_present(text, present)
    assert found == value and type(found) is type(value)
    assert with_number(True, 1.0) is True


def test_pairs_are_names_with_values() -> None:
    assert pairs(["a.b:=c:=d", "e:=", "f=g:=h", "i =j"]) == {"a.b": "c:=d", "e": "", "f": "g:=h", "i": "j"}
    for texts, words in ((["a"], "expected NAME:=VALUE"), ([":=1"], "expected NAME"), (["a:=1", "a=2"], "given twice")):
        with pytest.raises(ValueError, match=words):
            pairs(texts)
    assert [shown(v) for v in (True, "", 0.1, 1 / 3, 12, "x")] == ["true", "''", "0.1", str(1 / 3), "12", "x"]


def test_the_owner_of_names_is_one_node() -> None:
    live = {"/left/p": dict.fromkeys(("a", "b.steps")), "/right/p": dict.fromkeys(("a", "c"))}
    assert owner(live, ["a", "c"], "") == "/right/p"
    for names, words in (
        (["steps"], r"no live node has a parameter steps; there are b\.steps"),
        (["a"], "may be of /left/p or /right/p; say which with --node"),
        (["b.steps", "c"], "do not belong to one node"),
    ):
        with pytest.raises(ValueError, match=words):
            owner(live, names, "")


def test_every_parameter_that_is_not_live_has_its_reason() -> None:
    fixed = [f"{p}.{n}" for p, cls in BLOCKS.items() for n, f in cls.__dataclass_fields__.items() if not f.metadata["live"]]
    assert [name for name in fixed if not why_at_start(name).endswith(".")] == []
    live = [f"{p}.{n}" for p, cls in BLOCKS.items() for n, f in cls.__dataclass_fields__.items() if f.metadata["live"]]
    assert [name for name in REASONS if name in live] == []
    assert [name for name in REASONS if "." in name and name not in fixed] == [] and set(REASONS) - set(fixed) <= set(BLOCKS)
    assert "laid out for it" in why_at_start("command.rate_hz")
    assert why_at_start("unknown.thing") == "it is read when the node starts."


def test_actions_and_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["params", "--help"]) == 0
    usage = capsys.readouterr().out
    assert all(action in usage for action in params.ACTIONS)
    assert main(["params", "reference"]) == 0
    page = capsys.readouterr().out
    assert main(["params"]) == 0 and capsys.readouterr().out == page
    assert main(["params", "sett"]) == 2 and "unknown action 'sett'" in capsys.readouterr().err


@pytest.mark.parametrize("action", [action for action in params.ACTIONS if action != "reference"])
def test_each_action_explains_itself(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["params", action, "--help"])
    assert not end.value.code and f"flow_policy params {action}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["set"], "nothing to set"),
        (["set", "policy.steps"], "expected NAME:=VALUE"),
        (["get"], "nothing to get"),
        (["load", "nowhere.yaml"], "cannot be read"),
        (["dump", "--out", "/nowhere/x.yaml"], "does not exist"),
    ],
)
def test_bad_words_are_refused_before_nodes_are_looked_for(
    words: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["params", *words]) == 2
    assert error in capsys.readouterr().err


def test_the_page_says_what_is_so(root: Path) -> None:
    text = (root / "docs" / "parameters.md").read_text(encoding="utf-8")
    table = text.split("| parameter | because |\n|---|---|\n", 1)[1].split("\n\n", 1)[0]
    assert table.splitlines() == [f"| `{name}` | {why} |" for name, why in REASONS.items()]
    tuned = text.split("| want | parameters |", 1)[1].split("\n\n", 1)[0]
    named = re.findall(r"`(\w+)\.(\w+)`", tuned)
    assert len(named) > 20
    assert [f"{b}.{n}" for b, n in named if not BLOCKS[b].__dataclass_fields__[n].metadata["live"]] == []
