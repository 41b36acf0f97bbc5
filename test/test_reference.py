"""Pages that say what the code does: the generated one is up to date and complete, what pages name exists."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flow_policy_ros.cli import params
from flow_policy_ros.cli.main import COMMANDS
from flow_policy_ros.cli.reference import COMMAND_LINE, INTERVENTIONS, page
from flow_policy_ros.ros.interfaces import NODES
from flow_policy_ros.ros.reported import REPORTED
from flow_policy_ros.runtime.parameters import BLOCKS
from flow_policy_ros.safety.guard import FAULTS, STATES, TRANSITIONS, GuardState
from flow_policy_ros.safety.limiter import KINDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
INVARIANTS = ["1", "2", "3", "4", "5"]

WITHOUT_ROS = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("rclpy") or name.partition(".")[0].endswith("_msgs"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Refuse())
from flow_policy_ros.cli.main import main
sys.exit(main(["params"]))
"""


def first_cells(text: str, heading: str) -> list[str]:
    """The first cells of the rows of the table below ``heading``, without backticks."""
    section = text.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    rows = [line.split(" | ")[0].removeprefix("| ").strip("`") for line in section.splitlines() if line.startswith("| ")]
    return rows[2:]


def test_the_page_is_what_the_generator_gives_today() -> None:
    assert (ROOT / "docs" / "reference.md").read_text() == page(), f"docs/reference.md is out of date; run: {COMMAND_LINE}"


def test_the_page_has_every_state_fault_intervention_and_parameter() -> None:
    text = page()
    assert first_cells(text, "### States") == [state.value for state in GuardState]
    assert first_cells(text, "### Faults") == list(FAULTS)
    assert first_cells(text, "### Interventions") == list(KINDS)
    for node, table in NODES.items():
        section = text.split(f"\n## {node}\n", 1)[1].split("\n## ", 1)[0]
        names = [f"{block}.{name}" for block in table.blocks if block != "lockstep" for name in vars(BLOCKS[block]())]
        assert first_cells(section, "### Parameters") == [*table.parameters, *names]
        assert first_cells(section, "### Values on `/diagnostics`") == [value.key for value in REPORTED[node]]
        assert section.split("### Parameters", 1)[0].count("\n| ") == len(table.interfaces) + 2
    lockstep = [f"lockstep.{name}" for name in vars(BLOCKS["lockstep"]())]
    assert first_cells(text, "## Parameters of lockstep") == lockstep


def test_tables_beside_the_code_cover_it() -> None:
    assert list(STATES) == list(GuardState) and set(TRANSITIONS) == set(GuardState)
    assert set(INTERVENTIONS) == set(KINDS)
    assert set(REPORTED) == set(NODES)
    assert {block for node in NODES.values() for block in node.blocks} == set(BLOCKS)


def test_the_command_prints_and_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert params.main([]) == 0
    assert capsys.readouterr().out == page()
    assert params.main(["--out", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text() == page() and capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="does not exist"):
        params.main(["--out", str(tmp_path / "nowhere" / "page.md")])


def test_the_page_needs_no_ros() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_ROS], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == page()


def named_tests(text: str) -> Iterator[str]:
    """``file`` and ``file::function`` of tests that a text names."""
    yield from re.findall(r"test_\w+\.py(?:::test_\w+)?", text)


def missing_tests(text: str) -> list[str]:
    """Those that a text names and that do not exist."""
    found = []
    for name in named_tests(text):
        file, _, function = name.partition("::")
        path = ROOT / "test" / file
        defined = {n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)} if path.is_file() else set()
        if not path.is_file() or (function and function not in defined):
            found.append(name)
    return found


@pytest.mark.parametrize("document", PAGES, ids=lambda path: path.name)
def test_tests_that_a_page_names_exist(document: Path) -> None:
    assert missing_tests(document.read_text()) == []


def test_a_test_that_does_not_exist_is_seen() -> None:
    text = "`test_limiter.py::test_nothing`<br>`test_nowhere.py` `test_limiter.py::test_no_target_breaks_a_limit`"
    assert missing_tests(text) == ["test_limiter.py::test_nothing", "test_nowhere.py"]


def test_every_invariant_stands_beside_tests_that_hold_it() -> None:
    section = (ROOT / "docs" / "safety.md").read_text().split("## What holds it\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| ")][1:]
    assert sorted({row[0] for row in rows}) == INVARIANTS
    for number, invariant, tests in rows:
        assert any("::" in name for name in named_tests(tests)), f"invariant {number}, {invariant!r}, names no test"


@pytest.mark.parametrize("document", PAGES, ids=lambda path: path.name)
def test_links_within_the_project_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_the_readme_has_every_command() -> None:
    text = (ROOT / "README.md").read_text()
    assert [name for name in COMMANDS if f"| `flow_policy {name}`" not in text] == []
