"""Habits that are files: how to contribute, what runs before a commit and at each change. They name what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
SECTIONS = {
    "Add a network": "models", "Add a robot": "", "Add a camera model": "vision", "Add a task": "sim/tasks"
}  # fmt: skip
"""Heading → folder of the modules that it is about."""


def section(heading: str) -> str:
    return PAGE.read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


def names(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", text)


def missing(text: str) -> list[str]:
    """Files that a text names and that are not there (``<name>`` is yours to write), and names that their files lack."""
    found = [name for name in names(text) if "/" in name and " " not in name and "<" not in name and not (ROOT / name).exists()]
    for name, file in re.findall(r"`(\w+)`(?: of| in| and [^`]*)? (?:in |of )?`([\w/]+\.py)`", text):
        if (ROOT / file).is_file() and not re.search(rf"\b{name}\b", (ROOT / file).read_text(encoding="utf-8")):
            found.append(f"{name} in {file}")
    return found


@pytest.mark.parametrize("heading", SECTIONS)
def test_each_is_ten_lines_of_things_that_exist(heading: str) -> None:
    text = section(heading)
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) <= 10 and sum(bool(re.match(r"\d\. ", line)) for line in lines) >= 5
    assert missing(text) == []
    folder = SECTIONS[heading]
    assert not folder or f"`flow_policy_ros/{folder}/<name>.py`" in text


def test_what_does_not_exist_is_seen() -> None:
    text = "`no/such.py`, `NOTHING` in `setup.py`, `models/<name>.py`, `NAME` in `setup.py`"
    assert missing(text) == ["no/such.py", "NOTHING in setup.py"]


def test_the_lists_that_the_page_names_are_all_that_has_to_be_told() -> None:
    """A network, camera model or task that is registered is found by the tests that the page names."""
    from flow_policy_ros.runtime.parameters import EXTRACTORS, SimParameters
    from flow_policy_ros.sim.tasks import TASKS

    assert set(SimParameters.__dataclass_fields__["task"].metadata["choices"]) == set(TASKS)
    assert {path.stem for path in (ROOT / "config" / "robots").glob("adroit_*.yaml")} == {f"adroit_{name}" for name in TASKS}
    assert f"SETTINGS) == set({'EXTRACTORS'})" in (ROOT / "test" / "test_extractors.py").read_text() and EXTRACTORS
    for file, list_of, registered in (("test_models.py", "SIZES", "NETWORKS"), ("test_export.py", "SMALL", "NETWORKS")):
        text = (ROOT / "test" / file).read_text()
        assert re.search(rf"(list|set)\({list_of}\) == (list|set)\({registered}\)", text), file


def test_a_commit_is_checked_by_the_pinned_tools() -> None:
    content = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = {hook["id"]: hook for repository in content["repos"] for hook in repository["hooks"]}
    assert {"ruff", "mypy", "check-yaml", "check-added-large-files"} <= set(hooks)
    for hook in (hook for hook in hooks.values() if "entry" in hook):
        assert hook["language"] == "system" and hook["entry"].startswith(".venv/bin/")
        assert [word for word in hook["entry"].split() if word.startswith("test/") and not (ROOT / word).is_file()] == []
    assert all(re.fullmatch(r"v\d+\.\d+\.\d+", repo["rev"]) for repo in content["repos"] if repo["repo"] != "local")


def test_every_change_is_tested_on_every_pair_that_is_promised() -> None:
    content = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    jobs = content["jobs"]
    assert {row["ros"] for row in jobs["ros"]["strategy"]["matrix"]["include"]} == {"humble", "jazzy", "kilted"}
    rows = jobs["wheels"]["strategy"]["matrix"]["include"]
    whole = [(row["wheels"], row["python"]) for row in rows if "torch" not in row]
    assert [python for wheels, python in whole if wheels == "kilted"] == ["3.10", "3.11", "3.12", "3.13", "3.14"]
    assert "jazzy" in dict(whole) and {row.get("torch") for row in rows} == {None, "without"}
    pins = [ROOT / "constraints" / f"py{row['python'].replace('.', '')}-{row['wheels']}.txt" for row in rows]
    assert [path.name for path in pins if not path.is_file()] == []
    assert [row for row in jobs["ros"]["strategy"]["matrix"]["include"]
            if not list((ROOT / "constraints").glob(f"py{row['python'].replace('.', '')}-{row['ros']}.txt"))] == []  # fmt: skip
    commands = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    targets = set(re.findall(r"^make (\w+)", "\n".join(commands), re.MULTILINE))
    assert {"lint", "docs", "setup", "test", "coverage"} <= targets
    assert targets <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert content["permissions"] == {"contents": "read"}
    uses = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", use) for use in uses)
