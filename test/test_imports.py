"""The import rule of docs/architecture.md, held against the import graph; and the core without ROS, for real."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flow_policy_ros.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "flow_policy_ros"
PARTS = sorted(p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file())
MESSAGES = {"builtin_interfaces", "rcl_interfaces", "rosgraph_msgs", "std_srvs", "rosidl_runtime_py", "ament_index_python"}
CONFINED = {  # third parties that only some parts may touch
    "torch": {"flow", "models", "vision", "data", "policy", "training", "evaluation", "nodes", "cli"},
    "torchvision": {"vision"},
    "ultralytics": {"vision"},
    "mujoco": {"sim"},
    "gymnasium": {"sim"},
    "gymnasium_robotics": {"sim"},
}


def is_ros(module: str) -> bool:
    top = module.partition(".")[0]
    return top.startswith("rclpy") or top.endswith("_msgs") or top in MESSAGES or top in ("launch", "launch_ros")


def part_of(path: Path) -> str:
    """The subpackage of a file; for a module that lies at the top, its own name."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that the code names, also inside functions; ``from package import module`` as ``package.module``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def graph() -> list[tuple[Path, str]]:
    return [(path, module) for path in files() for module in imported(ast.parse(path.read_text()))]


def rule() -> dict[str, set[str]]:
    """Which part may import which, read from the document; what an imported part may import is allowed too."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.split("## Import rule", 1)[1].split("\n## ", 1)[0].replace("\n", " ")
    allowed: dict[str, set[str]] = {}
    for left, right in re.findall(r"((?:`\w+`(?:, )?)+) → ([^;.]*)", section):
        targets = {word for word in re.findall(r"\w+", right) if word in PARTS}
        for part in re.findall(r"\w+", left):
            allowed[part] = set(PARTS) - {"nodes", "cli"} if part in ("nodes", "cli") else targets
    changed = True
    while changed:
        changed = False
        for targets in allowed.values():
            more = set().union(*(allowed.get(t, set()) for t in targets)) - targets
            targets |= more
            changed = changed or bool(more)
    return allowed


def breaches(edges: list[tuple[Path, str]], allowed: dict[str, set[str]]) -> list[str]:
    """What breaks the rule, each as ``file: imports module``."""
    found = []
    for path, module in edges:
        part, top = part_of(path), module.partition(".")[0]
        ours = module.split(".")[1] if top == "flow_policy_ros" and "." in module else None
        bad = (
            (is_ros(module) and part not in ("ros", "nodes"))
            or (top in CONFINED and part not in CONFINED[top])
            or (ours in PARTS and ours != part and part in PARTS and ours not in allowed[part])
            or (ours in PARTS and part not in PARTS and part != "__main__")
        )
        if bad:
            found.append(f"{path.relative_to(ROOT)}: imports {module}")
    return found


def test_the_document_covers_every_part() -> None:
    assert set(rule()) == set(PARTS)


def test_no_import_breaks_the_rule() -> None:
    assert breaches(graph(), rule()) == []


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("runtime/timeline.py", "torch"),
        ("safety/guard.py", "torch.nn"),
        ("policy/flow_policy.py", "sensor_msgs.msg.Image"),
        ("evaluation/setup.py", "rclpy.node"),
        ("runtime/robot.py", "flow_policy_ros.safety.guard"),
        ("flow/paths.py", "flow_policy_ros.models.dit"),
        ("cli/demo.py", "flow_policy_ros.nodes.sim_node"),
        ("ros/qos.py", "flow_policy_ros.cli.main"),
        ("resources.py", "flow_policy_ros.sim.gl"),
    ],
)
def test_a_breach_is_seen(path: str, module: str) -> None:
    assert breaches([(PACKAGE / path, module)], rule()) == [f"flow_policy_ros/{path}: imports {module}"]


def test_commands_import_only_inside_functions() -> None:
    """Else ``flow_policy --help`` would wait for torch. (Helpers of commands are themselves imported inside functions.)"""
    found = []
    for module, _ in [*COMMANDS.values(), ("flow_policy_ros.cli.main", "")]:
        path = ROOT / (module.replace(".", "/") + ".py")
        for node in ast.parse(path.read_text()).body:
            tops = {m.partition(".")[0] for m in imported(node)} if isinstance(node, (ast.Import, ast.ImportFrom)) else set()
            found += [f"{path.name}: {top}" for top in tops - set(sys.stdlib_module_names)]
    assert found == []


def closure(start: str) -> set[str]:
    """All of our modules that importing ``start`` imports, at module level, and the third parties that these name."""
    seen, todo = set(), [start]
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        path = ROOT / (module.replace(".", "/") + ".py")
        if not path.is_file():
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                for name in imported(node):
                    parent = name.rpartition(".")[0]
                    ours = name.startswith("flow_policy_ros.")
                    todo.append(name if not ours or (ROOT / (name.replace(".", "/") + ".py")).is_file() else parent)
    return seen


def test_no_line_of_a_command_reads_as_an_import_of_ros() -> None:
    """Not even of a program in a text that another process is to run: what needs ROS is a module of ``ros``."""
    line = re.compile(r"^\s*(import|from)\s+rclpy\b", re.MULTILINE)
    assert line.search("PROBE = \"\"\"\nimport rclpy\n") is not None
    assert [path.name for path in (PACKAGE / "cli").glob("*.py") if line.search(path.read_text())] == []


def test_the_command_node_reaches_no_tensor_library() -> None:
    reached = closure("flow_policy_ros.nodes.command_node")
    assert any(module.startswith("flow_policy_ros.safety.") for module in reached)  # it follows imports at all
    assert not {m for m in reached if m.partition(".")[0] in ("torch", "torchvision", "ultralytics", "tensorflow", "jax")}


WITHOUT_ROS = """
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top.startswith("rclpy") or top.endswith("_msgs") or top in {messages!r}:
            raise ImportError(f"{{name}} is not here")

sys.meta_path.insert(0, Refuse())
for name in {modules!r}:
    importlib.import_module(name)
print("imported", len({modules!r}))
"""


def test_everything_outside_ros_and_nodes_imports_without_ros() -> None:
    pytest.importorskip("torch")
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in files()
        if part_of(path) not in ("ros", "nodes", "__main__")
    ]
    code = WITHOUT_ROS.format(messages=MESSAGES, modules=modules)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["imported", str(len(modules))]


def test_the_refusal_of_ros_is_real() -> None:
    pytest.importorskip("rclpy")
    code = WITHOUT_ROS.format(messages=MESSAGES, modules=["flow_policy_ros.ros.qos"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert "rclpy" in done.stderr and "is not here" in done.stderr
