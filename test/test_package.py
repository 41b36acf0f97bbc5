"""The package as something one installs: built by colcon, found in the ament index, run from where it was installed."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flow_policy_ros import resources

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "flow_policy_ros"
PROGRAMS = {
    "flow_policy", "perception_node", "policy_node", "command_node", "sim_node", "player_node", "recorder_node",
    "flight_recorder_node", "marker_node", "dashboard_node", "view_node", "lead_node",
}  # fmt: skip
WHEELS = ("kilted", "jazzy")


@pytest.fixture(scope="session")
def install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefix of the package as colcon installs it."""
    colcon = shutil.which("colcon", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if colcon is None:
        pytest.skip("needs colcon (requirements/test.txt)")
    base = tmp_path_factory.mktemp("colcon")
    command = [colcon, "--log-base", "log", "build", "--base-paths", str(ROOT), "--packages-select", PACKAGE]
    done = subprocess.run(command, cwd=base, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return base / "install" / PACKAGE


def environment(prefix: Path) -> dict[str, str]:
    """What a sourced set-up file exports."""
    (site,) = prefix.glob("lib/python3*/site-packages")
    return {**os.environ, "AMENT_PREFIX_PATH": str(prefix), "PYTHONPATH": str(site)}


def run(prefix: Path, command: list[str], cwd: Path) -> str:
    done = subprocess.run(command, env=environment(prefix), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_ament_index_knows_the_package(install: Path, tmp_path: Path) -> None:
    assert (install / "share" / "ament_index" / "resource_index" / "packages" / PACKAGE).is_file()
    assert (install / "share" / PACKAGE / "package.xml").is_file()
    pytest.importorskip("ament_index_python")
    code = f"from ament_index_python import get_package_share_directory as g; print(g('{PACKAGE}'))"
    assert Path(run(install, [sys.executable, "-c", code], tmp_path).strip()) == install / "share" / PACKAGE


def test_ros2_run_finds_every_program(install: Path) -> None:
    """``ros2 run`` looks for executables in lib/<package>."""
    folder = install / "lib" / PACKAGE
    assert {p.name for p in folder.iterdir() if os.access(p, os.X_OK)} == PROGRAMS


def test_an_installed_program_runs_and_finds_its_files(install: Path, tmp_path: Path) -> None:
    assert "usage: flow_policy" in run(install, [str(install / "lib" / PACKAGE / "flow_policy"), "--help"], tmp_path)
    code = f"import {PACKAGE}.resources as r; print(r.__file__, r.share(), ','.join(r.names('robots')), sep='\\n')"
    file, share, robots = run(install, [sys.executable, "-c", code], tmp_path).splitlines()
    assert Path(file).is_relative_to(install)
    assert Path(share) == install / "share" / PACKAGE
    assert robots.split(",") == list(resources.names("robots"))


def test_a_node_refuses_bad_input_from_the_install(install: Path, tmp_path: Path) -> None:
    pytest.importorskip("rclpy")
    command = [str(install / "lib" / PACKAGE / "command_node"), "--ros-args", "-p", "robot_file:=absent.yaml"]
    done = subprocess.run(command, env=environment(install), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "absent.yaml" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("folder", ["config", "checkpoints", "launch"])
def test_every_shared_file_is_installed(install: Path, folder: str) -> None:
    def tree(base: Path) -> dict[str, int]:
        return {str(p.relative_to(base)): p.stat().st_size for p in base.rglob("*") if p.is_file() and p.suffix != ".pyc"}

    assert tree(install / "share" / PACKAGE / folder) == tree(ROOT / folder)


def test_data_files_inside_the_modules_are_installed(install: Path) -> None:
    (site,) = install.glob("lib/python3*/site-packages")
    wanted = {
        p.relative_to(ROOT)
        for p in (ROOT / PACKAGE).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts and p.name != ".gitignore"
    }
    assert not {p for p in wanted if not (site / p).is_file()}


def test_the_manifest_is_valid_and_agrees_with_setup() -> None:
    catkin_pkg = pytest.importorskip("catkin_pkg.package")
    warnings: list[str] = []
    manifest = catkin_pkg.parse_package(str(ROOT / "package.xml"), warnings=warnings)
    manifest.validate(warnings=warnings)
    assert warnings == []
    assert manifest.get_build_type() == "ament_python" and manifest.package_format == 3
    version = re.search(r'version="([\d.]+)"', (ROOT / "setup.py").read_text())
    assert version is not None and manifest.version == version.group(1)


def test_the_manifest_names_every_ros_package_that_is_imported() -> None:
    catkin_pkg = pytest.importorskip("catkin_pkg.package")
    named = {d.name for d in catkin_pkg.parse_package(str(ROOT / "package.xml")).exec_depends}
    imported = set()
    for path in [*(ROOT / PACKAGE / "ros").glob("*.py"), *(ROOT / PACKAGE / "nodes").glob("*.py"), *(ROOT / "launch").glob("*")]:
        for node in ast.walk(ast.parse(path.read_text())) if path.suffix == ".py" else ():
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported |= {m.partition(".")[0] for m in modules}
    ros = {m for m in imported if m.endswith(("_msgs", "_interfaces", "_srvs")) or m in ("rclpy", "launch", "launch_ros")}
    assert {"rclpy", "sensor_msgs", "launch_ros"} <= ros  # the search itself works
    assert ros <= named


def names(path: Path) -> set[str]:
    """Packages that a requirements or constraints file names, normalised."""
    lines = (line.partition("#")[0].partition(";")[0].strip() for line in path.read_text().splitlines())
    return {re.sub(r"[-_.]+", "-", re.split(r"[=<>~!\[ ]", line)[0]).lower() for line in lines if line}


@pytest.mark.parametrize("constraints", sorted((ROOT / "constraints").glob("*.txt")), ids=lambda p: p.stem)
def test_every_requirement_is_pinned(constraints: Path) -> None:
    of = [name for name in WHEELS if f"ros-{name}-rclpy" in names(constraints)]
    assert of == [name for name in WHEELS if constraints.stem.endswith(f"-{name}")]  # one distribution per environment
    wanted = set()
    for file in (ROOT / "requirements").glob("*.txt"):
        if file.stem != "ros":
            wanted |= names(file)
        for name in of if file.stem == "ros" else ():
            wanted |= {line.replace("${wheels}", name) for line in names(file)}
    assert wanted <= names(constraints)
    pins = [line for line in constraints.read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.\-]+==[\w.]+( ;.*)?", pin) for pin in pins)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WHEELS": "iron"}, "WHEELS is 'iron'; there are wheels of kilted and jazzy."),
        ({"TORCH": "no"}, "TORCH is 'no'; leave it unset, or say TORCH=without."),
    ],
)
def test_set_up_refuses_what_it_does_not_know_before_it_does_anything(variables: dict[str, str], said: str, tmp_path: Path) -> None:
    given = {**os.environ, "VENV": str(tmp_path / "venv"), **variables}
    done = subprocess.run([str(ROOT / "scripts" / "setup.sh")], env=given, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {said}\n")
    assert not list(tmp_path.iterdir())


def test_set_up_names_no_package_index() -> None:
    """Where packages come from is the machine's affair."""
    files = [path for folder in ("scripts", "requirements", "constraints") for path in (ROOT / folder).glob("*")]
    for file in [ROOT / "Makefile", *files]:
        assert not re.search(r"https?://|index-url|find-links", file.read_text()), file


def test_a_missing_shared_file_is_named_with_what_there_is() -> None:
    with pytest.raises(resources.ResourceError, match=r"'adroit_dor' does not exist.*adroit_door"):
        resources.robot_file("adroit_dor")


def test_a_path_serves_as_well_as_a_name(tmp_path: Path) -> None:
    assert resources.robot_file("adroit_door") == resources.share() / "config" / "robots" / "adroit_door.yaml"
    assert resources.checkpoint(tmp_path) == tmp_path.resolve()
