"""``flow_policy doctor``: what it finds is true, and whatever is missing comes with a remedy and exit code 1."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from flow_policy_ros.cli import doctor


def test_the_program_agrees_with_itself(tmp_path: Path) -> None:
    """Table, JSON and exit code of a real run say the same."""
    file = tmp_path / "doctor.json"
    done = subprocess.run(
        [sys.executable, "-m", "flow_policy_ros", "doctor", "--json", str(file)], capture_output=True, text=True
    )
    content = json.loads(file.read_text())
    checks = {check["name"]: check for check in content["checks"]}
    assert content["ok"] == all(check["ok"] for check in checks.values() if check["required"])
    assert done.returncode == (0 if content["ok"] else 1), done.stderr
    assert all(name in done.stdout for name in checks)
    assert platform.python_version() in checks["Python"]["found"]
    assert all(check["ok"] or check["remedy"] in done.stdout.replace("\n", " ") for check in checks.values())


def test_what_is_missing_has_a_remedy_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "probe", lambda code, **environment: (False, "ImportError: broken"))
    monkeypatch.setattr(doctor, "installed", lambda package: None)
    assert doctor.main([]) == 1
    text = capsys.readouterr().out
    assert "broken" in text and doctor.GL_INSTALL in text and doctor.SETUP in text
    missing = {check.name for check in doctor.examine() if check.required and not check.ok}
    assert {"ROS 2", "torch", "torchvision", "ultralytics", "MuJoCo", "rendering"} <= missing
    assert all(check.remedy for check in doctor.examine() if not check.ok)


def test_an_optional_lack_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    note = doctor.Check("cores", False, False, "1", "give it two")
    monkeypatch.setattr(doctor, "examine", lambda: [note])
    assert doctor.main([]) == 0


def test_a_broken_library_is_reported_not_raised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "rclpy.py").write_text("raise ImportError('librcl.so: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = doctor.ros()
    assert not check.ok and "librcl.so" in check.found and "make setup" in check.remedy


def test_a_library_that_crashes_or_hangs_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    works, last = doctor.probe("import os; os.abort()")
    assert not works and "exit code -6" in last
    monkeypatch.setattr(doctor, "PROBE_TIMEOUT_S", 0.5)
    works, last = doctor.probe("import threading; threading.Event().wait()")
    assert not works and "0.5 s" in last


def test_a_backend_that_cannot_render_names_one_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(code: str, **environment: str) -> tuple[bool, str]:
        return environment.get("MUJOCO_GL") == "osmesa", "no EGL device"

    monkeypatch.setattr(doctor, "probe", probe)
    assert doctor.rendering().remedy == "export MUJOCO_GL=osmesa"
