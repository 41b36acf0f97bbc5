"""The dispatcher: which module runs, what a user sees of an error, how quickly help comes."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from flow_policy_ros.cli import main as program

ROOT = Path(__file__).resolve().parents[1]
HEAVY = "torch", "ultralytics", "mujoco", "rclpy", "numpy", "cv2", "rich"


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"]])
def test_a_reader_that_has_gone_is_no_error(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "flow_policy_ros", *words], stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=300
    )
    os.close(writer)
    assert done.stderr == "" and done.returncode == 141


def command(monkeypatch: pytest.MonkeyPatch, body: Callable[[list[str]], int]) -> None:
    """Make ``flow_policy try`` run ``body``."""
    module = types.ModuleType("try_command")
    module.main = body  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "try_command", module)
    monkeypatch.setitem(program.COMMANDS, "try", ("try_command", "for this test"))


def raising(error: BaseException) -> Callable[[list[str]], int]:
    def body(argv: list[str]) -> int:
        raise error

    return body


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from flow_policy_ros.cli.main import main; code = main(['--help']); "
        f"print([m for m in {HEAVY!r} if m in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    *text, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert all(any(line.split()[:1] == [name] for line in text) for name in program.COMMANDS)


@pytest.mark.parametrize("name", program.COMMANDS)
def test_every_command_explains_itself_without_heavy_imports(name: str) -> None:
    code = f"""
import sys
from flow_policy_ros.cli.main import main
code = 1
try:
    code = main([{name!r}, "--help"])
except SystemExit as end:
    code = end.code or 0
print([m for m in ("torch", "ultralytics", "mujoco", "rclpy") if m in sys.modules])
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert f"flow_policy {name}" in done.stdout
    # their options are data classes of the training package, which needs torch
    assert done.stdout.splitlines()[-1] == "[]" or name in ("train", "distill")


def test_the_chosen_module_gets_the_rest_and_gives_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def body(argv: list[str]) -> int:
        seen.append(argv)
        return 1

    command(monkeypatch, body)
    assert program.main(["try", "--seed", "3"]) == 1
    assert seen == [["--seed", "3"]]


def test_no_command_and_an_unknown_one_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main([]) == 2
    assert program.main(["evalute"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "'evalute'" in error and "evaluate" in error


def test_bad_input_is_one_paragraph(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class RobotError(ValueError):
        pass

    command(monkeypatch, raising(RobotError("robot file x.yaml\n  has no joints; add them.")))
    assert program.main(["try"]) == 2
    assert capsys.readouterr().err == "error: robot file x.yaml has no joints; add them.\n"


def test_a_missing_gl_library_is_bad_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from flow_policy_ros.sim.gl import SimError

    command(monkeypatch, raising(SimError("no off-screen GL; install libegl1.")))
    assert program.main(["try"]) == 2
    assert capsys.readouterr().err == "error: no off-screen GL; install libegl1.\n"


def test_a_missing_file_and_a_missing_package_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def body(argv: list[str]) -> int:
        (tmp_path / "absent.json").read_text()
        return 0

    command(monkeypatch, body)
    assert program.main(["try"]) == 2
    assert str(tmp_path / "absent.json") in capsys.readouterr().err
    command(monkeypatch, lambda argv: __import__("no_such_package"))
    assert program.main(["try"]) == 2
    error = capsys.readouterr().err
    assert "'no_such_package'" in error and "make setup" in error


def test_a_bug_says_so_and_shows_its_traceback_on_demand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(monkeypatch, raising(KeyError("joint")))
    monkeypatch.delenv("FLOW_POLICY_DEBUG", raising=False)
    assert program.main(["try"]) == program.BUG
    error = capsys.readouterr().err
    assert "KeyError" in error and "This is a bug" in error and error.count("\n") == 1
    monkeypatch.setenv("FLOW_POLICY_DEBUG", "1")
    assert program.main(["try"]) == program.BUG
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, raising(KeyboardInterrupt()))
    assert program.main(["try"]) == 130


@pytest.mark.parametrize("module", [module for module, _ in program.COMMANDS.values()])
def test_each_command_is_a_module_with_main(module: str) -> None:
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
    main = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    assert len(main) == 1 and [argument.arg for argument in main[0].args.args] == ["argv"]
