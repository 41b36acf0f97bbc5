"""docs/walkthrough.md at small scale: every command of its block, in its order, as printed but for three numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXPERT = Path(__file__).parents[2] / "shared" / "adroit"
SMALL = {"EPISODES": "3", "STEPS": "40", "TRIALS": "1"}
JUDGES = ("replay", "evaluate")
"""Commands whose exit code 1 is a verdict: a policy of 40 steps may deserve it."""


def commands(page: Path) -> tuple[str, list[str]]:
    """The line that sets the numbers, and the commands of the page's block."""
    block = page.read_text().split("```bash\n")[1].split("```")[0].replace("\\\n", " ")
    lines = [line for line in block.splitlines() if line and not line.startswith("#")]
    return lines[0], lines[1:]


def test_the_walk_through(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    if not (EXPERT / "door_expert.npz").is_file():
        pytest.skip("needs the published expert, which is not part of this project")
    numbers, lines = commands(root / "docs" / "walkthrough.md")
    assert {word.split("=")[0] for word in numbers.split()} == set(SMALL)
    assert [line.split()[:2] for line in lines if line.split()[0] != "flow_policy"] == []
    environment = {**os.environ, **SMALL, "EXPERT": str(EXPERT), "OMP_NUM_THREADS": "1",
                   "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # fmt: skip
    for line in lines:
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        allowed = (0, 1) if line.split()[1] in JUDGES else (0,)
        assert done.returncode in allowed, f"{line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr

    contract = json.loads((tmp_path / "policy" / "contract.json").read_text())
    assert [stream["name"] for stream in contract["streams"]] == ["objects"] and len(contract["joints"]) == 28
    replayed = json.loads((tmp_path / "replayed_door" / "metrics.json").read_text())
    assert len(replayed["bags"]) == 2
    for name, figures in replayed["bags"].items():
        assert figures["chunks"] > 20 and figures["verdict"] in ("good", "bad"), figures["problems"]
        assert (tmp_path / "replayed_door" / name / "report.html").is_file()
        assert all(error is not None for error in figures["error"].values())
    assert json.loads((tmp_path / "evaluated.json").read_text())["episodes"] == 1
