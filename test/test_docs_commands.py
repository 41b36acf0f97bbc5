"""Every command line of every page is one that exists: commands and options by their real parsers, nothing is run."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from docs_support import ROOT, blocks, command_lines, documents, prose, refusal

from flow_policy_ros.cli import command_reference
from flow_policy_ros.cli.main import COMMANDS, PROGRAM
from flow_policy_ros.ros.interfaces import NODES

PAGES = documents()
TOOLS = {
    ".", "[", "accelerate", "apt-get", "bash", "cat", "cd", "chmod", "chrt", "colcon", "cp", "cpupower", "curl", "do", "docker",
    "done", "echo", "export", "fi", "firefox", "for", "foxglove-studio", "git", "grep", "head", "hf", "htop", "if", "install",
    "journalctl", "jq", "kill", "ls", "mkdir", "mkfifo", "mv", "nproc", "openssl", "pgrep", "ping", "pip", "plotjuggler",
    "pre-commit", "rerun", "rm", "rosdep", "rviz2", "scp", "sed", "sha256sum", "source", "ssh", "sudo", "sysctl", "systemctl",
    "systemd-run", "tail", "tar", "taskset", "tee", "tensorboard", "test", "then", "torchrun", "touch", "true", "ulimit", "unzip",
    "useradd", "usermod", "uv", "wget", "while", "xdg-open",
}  # fmt: skip
"""Programs that pages may name without a word on them here: of the system, or of others."""
PYTHON = re.compile(r"(.*/)?python3?(\.\d+)?")


def problem(words: list[str]) -> str:
    """What is wrong with a command line; empty where nothing is."""
    name = words[0].rpartition("/")[2]
    if name in ("sudo", "time", "nice", "env", "exec", "nohup"):
        rest = list(words[1:])
        while rest and (rest[0].startswith("-") or re.fullmatch(r"\w+=.*|\d+", rest[0])):
            rest = rest[1:]
        return problem(rest) if rest else ""
    if name == PROGRAM:
        return refusal(words[1:])
    if name == "make":
        rules = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        asked = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
        return "".join(f"there is no target '{target}'" for target in asked if target not in rules)
    if PYTHON.fullmatch(words[0]):
        return _python(words[1:])
    if name == "ros2":
        return _ros2(words[1:])
    if name in NODES or name in TOOLS:
        return ""
    if "/" in words[0] and (ROOT / words[0]).exists():
        return ""
    return f"'{name}' is no program that pages name; if it should be, add it to TOOLS in {Path(__file__).name}"


def _python(words: list[str]) -> str:
    if words[:1] == ["-m"]:
        module = words[1]
        if module.split(".")[0] == "flow_policy_ros":
            if module == "flow_policy_ros":
                return refusal(words[2:])
            return "" if importlib.util.find_spec(module) is not None else f"there is no module {module}"
        return "" if module in ("pip", "venv", "pytest", "mkdocs", "http") else f"module {module} is unknown here"
    script = next((word for word in words if not word.startswith("-")), "")
    return "" if words[:1] == ["-c"] or not script or "/" not in script or (ROOT / script).exists() else f"there is no {script}"


def _ros2(words: list[str]) -> str:
    if words[:2] == ["run", "flow_policy_ros"]:
        return "" if words[2] in (*NODES, PROGRAM) else f"there is no program {words[2]}"
    if words[:2] == ["launch", "flow_policy_ros"]:
        file = ROOT / "launch" / words[2]
        if not file.is_file():
            return f"there is no launch/{words[2]}"
        given = {word.partition(":=")[0] for word in words[3:] if ":=" in word}
        sources = "".join(path.read_text() for path in [file, *(ROOT / "flow_policy_ros" / "ros").glob("bringup*.py")])
        return "".join(f"{file.name} has no argument '{name}'" for name in sorted(given) if not re.search(rf"\b{name}\b", sources))
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_are_real(page: Path) -> None:
    wrong, given = [], dict[str, str]()
    for block in blocks(page.read_text(encoding="utf-8"), "bash", "sh", "console"):
        for words in command_lines(block.text, given):
            found = problem(words)
            if found:
                wrong.append(f"{page.name}:{block.line}: {shlex.join(words)}: {found}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_the_text_names_exist(page: Path) -> None:
    """``flow_policy NAME`` and its options in running text."""
    text, wrong = prose(page.read_text(encoding="utf-8")), []
    for said in re.findall(rf"`{PROGRAM} ([^`]+)`", text):
        words = said.split()
        if re.fullmatch(r"[a-z][a-z0-9-]*", words[0]) and words[0] not in COMMANDS:
            wrong.append(said)
        elif words[0] in COMMANDS:
            known = OPTIONS.of(words[0])
            wrong += [said for word in re.findall(r"--[a-z][\w-]*", said) if word not in known and word != "--help"]
    assert wrong == []


class _Options:
    """The options of each command, read from its help when they are first asked for."""

    def __init__(self) -> None:
        self._known: dict[str, set[str]] = {}

    def of(self, name: str) -> set[str]:
        """Of the command and all its parts."""
        if name not in self._known:
            text = command_reference.help_of(name)
            texts = [text, *(command_reference.help_of(name, part) for part in command_reference.parts_of(name, text))]
            self._known[name] = set(re.findall(r"--[a-z][\w-]*", "".join(texts)))
        return self._known[name]


OPTIONS = _Options()


@pytest.mark.parametrize(
    "line",
    [
        "flow_policy evaluat --task door",
        "flow_policy evaluate --episodez 3",
        "flow_policy evaluate --episodes three",
        "flow_policy evaluate --task windows",
        "flow_policy bench nothing",
        "flow_policy inspect",
        "make demmo",
        "python -m flow_policy_ros.nodes.no_node",
        "ros2 launch flow_policy_ros nothing.launch.py",
        "ros2 launch flow_policy_ros policy.launch.py robbot:=x.yaml",
        "ros2 run flow_policy_ros no_node",
        "no_such_program --help",
    ],
)
def test_a_command_line_that_is_none_is_seen(line: str) -> None:
    ((words),) = list(command_lines(line))
    assert problem(words) != ""


def test_shell_lines_are_read_as_a_shell_reads_them() -> None:
    text = "# no\nA=1 flow_policy evaluate --episodes $N \\\n  --seed 3 > x.txt && make demo | head  # yes\n"
    text += "cat <<'EOF' > f\nrm -rf /\nEOF\n"
    assert list(command_lines(text)) == [
        ["flow_policy", "evaluate", "--episodes", "1", "--seed", "3"], ["make", "demo"], ["head"], ["cat"]
    ]  # fmt: skip
    assert problem(["flow_policy", "evaluate", "--episodes", "1", "--seed", "3"]) == ""
    assert problem(["sudo", "-E", "make", "demo"]) == "" and problem(["sudo", "make", "nothing"]) != ""


def test_the_page_of_the_commands_has_every_command_and_option() -> None:
    """Not its very words: another version of the parser draws them otherwise."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for words, said in command_reference.helps():
        head = f"{'#' * (1 + len(words))} {PROGRAM} {' '.join(words)}\n"
        assert head in text, f"docs/cli.md lacks {words}; run: {command_reference.COMMAND_LINE}"
        section = text.split(head, 1)[1].split("\n#", 1)[0]
        options = set(re.findall(r"--[a-z][\w-]*", said))
        assert options == set(re.findall(r"--[a-z][\w-]*", section)), f"{words}; run: {command_reference.COMMAND_LINE}"
