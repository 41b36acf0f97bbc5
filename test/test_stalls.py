"""A test is run again where the machine stood still, one with real nodes once anyway, and a failure that stays is reported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = """
import pytest
from stalls import SecondTries
class Meter:
    worst_s = 0.0
METER = Meter()
def pytest_configure(config):
    config.pluginmanager.register(SecondTries(METER))
@pytest.fixture
def meter():
    return METER
@pytest.fixture
def launcher():
    pass
@pytest.fixture(scope="module")
def tries():
    from pathlib import Path
    count = Path("tries")
    count.write_text(str(int(count.read_text()) + 1 if count.exists() else 1))
    return int(count.read_text())
"""


@pytest.mark.parametrize(
    "nodes, stall_s, passes_at, outcome, tries",
    [
        ("", 0.5, 2, "1 passed", 2), ("", 0.5, 9, "1 failed", 3), ("", 0.0, 2, "1 failed", 1), ("", 0.5, 1, "1 passed", 1),
        (", launcher", 0.0, 2, "1 passed", 2), (", launcher", 0.0, 9, "1 failed", 2), (", launcher", 0.5, 9, "1 failed", 3),
    ],
)  # fmt: skip
def test_second_tries(tmp_path: Path, nodes: str, stall_s: float, passes_at: int, outcome: str, tries: int) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(
        f"def test_it(meter, tries{nodes}):\n    meter.worst_s = {stall_s}\n    assert tries >= {passes_at}, 'said'\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(Path(__file__).parent)}, capture_output=True, text=True)
    assert outcome in done.stdout, done.stdout
    assert (tmp_path / "tries").read_text() == str(tries)
    assert ("= run again" in done.stdout) == (tries > 1)
