"""The page on replay says what the code does: thresholds, checks, keys of metrics.json, command lines."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Annotated

import pytest
from replay_support import STREAM, write_checkpoint, write_robot
from test_replay_cli import write_bag

from flow_policy_ros.cli.main import main
from flow_policy_ros.evaluation.replay.verdict import DEFAULTS


@pytest.fixture(name="page")
def page_fixture(root: Path) -> str:
    return (root / "docs/replay.md").read_text(encoding="utf-8")


def table(page: str, heading: str) -> list[list[str]]:
    """Rows of the table below ``heading``, without its head."""
    part = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")]
    assert len(rows) > 2
    return rows[2:]


def test_thresholds_are_those_of_the_code(page: str) -> None:
    said = [pair for row in table(page, "The verdict") for pair in re.findall(r"`(\w+)` ([\d.]+)", row[2])]
    assert {name: float(value) for name, value in said} == pytest.approx(dataclasses.asdict(DEFAULTS))
    assert len(said) == len(dataclasses.fields(DEFAULTS))


def test_keys_and_checks_are_those_of_a_run(page: str, tmp_path: Path) -> None:
    bag, out = write_bag(tmp_path / "bag.mcap"), tmp_path / "out"
    main(["replay", str(bag), "--robot", str(write_robot(tmp_path)), "--checkpoint", str(write_checkpoint(tmp_path, STREAM)),
          "--out", str(out), "--latency", "none", "--compare-set", "policy.mode=ensemble"])  # fmt: skip
    found = json.loads((out / "metrics.json").read_text())
    keys = [key for row in table(page, "metrics.json") for key in re.findall(r"`(\w+)`", row[0])]
    assert len(keys) == len(set(keys)) and set(keys) == set(found)
    assert [row[0].strip("`") for row in table(page, "The verdict")] == [check["name"] for check in found["checks"]]
    files = {row[0].strip("`") for row in table(page, "What comes out")}
    assert {path.name for path in out.iterdir()} == files | {"replay_compare.mcap"}


def test_command_lines_are_understood(page: str) -> None:
    import tyro

    from flow_policy_ros.cli import replay

    replay.tyro = tyro  # type: ignore[attr-defined]  # as its main does
    lines = [line for line in page.splitlines() if line.startswith("flow_policy replay ")]
    assert len(lines) >= 5
    for line in lines:
        arguments = tyro.cli(Annotated[replay.Arguments, tyro.conf.arg(name="")], args=shlex.split(line)[2:])
        assert len(arguments.bags) == 1 and arguments.out.name
