"""``flow_policy doctor``: what it finds is true, and whatever is missing comes with a remedy and exit code 1."""

from __future__ import annotations

import json
import os
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
    monkeypatch.setattr(doctor, "probe", lambda code, **environment: doctor.Answer(False, "ImportError: broken"))
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
    works, last, late = doctor.probe("import os; os.abort()")
    assert not works and not late and "exit code -6" in last
    monkeypatch.setattr(doctor, "PROBE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    works, last, late = doctor.probe("import threading; threading.Event().wait()")
    assert not works and late and "no answer within 0.5 s" in last


def test_what_did_not_answer_in_time_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a busy machine each is given longer, and what is late all the same says so, with what to do first."""
    monkeypatch.setattr(doctor, "PROBE_TIMEOUT_S", 0.25)
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0 * doctor.usable_cores(), 0.0, 0.0))
    monkeypatch.setattr(doctor, "examine", lambda: [doctor.detector()])
    for probe in ("DETECTOR_PROBE", "ROS_PROBE", "RENDER_PROBE", "TORCH_PROBE"):
        monkeypatch.setattr(doctor, probe, "import threading; threading.Event().wait()")
    assert doctor.main(["--json", str(tmp_path / "f.json")]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "no answer within 0.75 s" in text and "missing" not in text and "less to do" in text
    assert json.loads((tmp_path / "f.json").read_text())["checks"][0]["unknown"] is True
    for look in (doctor.ros, doctor.torch, doctor.rendering):
        assert look().unknown and "Try again" in look().remedy
    monkeypatch.setattr(os, "getloadavg", lambda: (1e9, 0.0, 0.0))
    assert doctor.patience_s() == doctor.LONGEST_S


def test_a_backend_that_cannot_render_names_one_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(code: str, **environment: str) -> doctor.Answer:
        return doctor.Answer(environment.get("MUJOCO_GL") == "osmesa", "no EGL device")

    monkeypatch.setattr(doctor, "probe", probe)
    assert doctor.rendering().remedy == "export MUJOCO_GL=osmesa"
