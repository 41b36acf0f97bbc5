"""What a missing package may skip, and that everything else stays an error: test/without_torch.py."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import without_torch

MODULES = {
    "test_whole.py": "import absent_one\n\ndef test_never_seen() -> None:\n    assert False\n",
    "test_child.py": "from absent_one.part import thing\n",
    "test_other.py": "import absent_two\n",
    "test_parts.py": """
def test_reaches_it() -> None:
    import absent_one

def test_wraps_it() -> None:
    try:
        import absent_one
    except ImportError as error:
        raise ValueError("no such thing") from error

def test_lacks_another() -> None:
    import absent_two

def test_is_wrong() -> None:
    assert 1 == 2

def test_is_right() -> None:
    assert 1 == 1
""",
}
RUN = """
import sys, pytest
sys.path.insert(0, {here!r})
from without_torch import WithoutTorch
options = ["-q", "-ra", "-p", "no:cacheprovider", "--continue-on-collection-errors", {folder!r}]
sys.exit(pytest.main(options, plugins=[WithoutTorch(frozenset({{"absent_one"}}))]))
"""


def outcome(folder: Path) -> str:
    """What a run of ``MODULES`` prints in which ``absent_one`` may be missing."""
    for name, text in MODULES.items():
        (folder / name).write_text(text)
    code = RUN.format(here=str(Path(without_torch.__file__).parent), folder=str(folder))
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True).stdout


def test_only_what_needs_the_absent_is_skipped(tmp_path: Path) -> None:
    out = outcome(tmp_path)
    assert out.splitlines()[-1].startswith("2 failed, 1 passed, 4 skipped, 1 error"), out
    assert out.count("needs torch, which is not installed") == 3, out  # the two of test_parts.py are counted on one line
    assert "ERROR test_other.py" in out and "No module named 'absent_two'" in out
    assert "test_lacks_another" in out and "test_is_wrong" in out


def test_where_torch_is_installed_nothing_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("torch") is not None:
        assert without_torch.missing() == frozenset()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert without_torch.missing() == {"torch", "torchvision", "accelerate", "peft"}
