"""What files from elsewhere can do here: no code is run from them, none is believed beyond what it holds, none leads outside.

The page docs/threats.md is held to its tests, and the source to what it never does. Publishers are in test_threats_publishers.py.
"""

from __future__ import annotations

import ast
import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_reference import named_tests

from flow_policy_ros.runtime.contract import ContractError, StreamContract
from flow_policy_ros.runtime.robot import RobotFileError, load_robot
from flow_policy_ros.runtime.yaml_bounded import MOST_NODES, load_yaml

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [*sorted((ROOT / "flow_policy_ros").rglob("*.py")), *sorted((ROOT / "launch").glob("*.py"))]
MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "pty", "code", "runpy"}
"""Nothing of these is imported: they run what is in a file, or a shell."""
BUILT_IN = {"eval", "exec", "compile", "__import__"}
PICKLES = {Path("vision/backbone.py"): "weights_only"}
"""Where a pickle may be read, and what it must be read with; both after a permission (see the page)."""


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of a name or attribute, else empty."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed([*parts, node.id])) if isinstance(node, ast.Name) else ""


def dangers(text: str, file: Path = Path("x.py")) -> list[str]:
    """What a source does that could run what came from elsewhere, as ``line: what``."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"{node.lineno}: imports {name}" for name in names if name.partition(".")[0] in MODULES]
        if not isinstance(node, ast.Call):
            continue
        name, given = dotted(node.func), {word.arg: word.value for word in node.keywords}
        if name in BUILT_IN or name in ("os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load"):
            found.append(f"{node.lineno}: {name}")
        if name.startswith(("os.spawn", "subprocess.getoutput", "subprocess.getstatusoutput")):
            found.append(f"{node.lineno}: {name}")
        if "shell" in given and not _is(given["shell"], False):
            found.append(f"{node.lineno}: shell")
        if name.startswith("subprocess.") and node.args and not isinstance(node.args[0], ast.List | ast.Name | ast.Call):
            found.append(f"{node.lineno}: a process that is not given as a list")
        if "trust_remote_code" in given and not _is(given["trust_remote_code"], False):
            found.append(f"{node.lineno}: trust_remote_code")
        if name.endswith("from_pretrained") and not {"trust_remote_code", "local_files_only"} <= set(given):
            found.append(f"{node.lineno}: from_pretrained that may fetch or run code")
        if name == "torch.load" and not (file in PICKLES and _is(given.get(PICKLES[file]), True)):
            found.append(f"{node.lineno}: torch.load")
        if name in ("np.load", "numpy.load") and not _is(given.get("allow_pickle"), False):
            found.append(f"{node.lineno}: np.load with pickles")
    return found


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_no_source_runs_what_comes_from_elsewhere() -> None:
    package = ROOT / "flow_policy_ros"
    found = [
        f"{path.relative_to(ROOT)}:{danger}"
        for path in SOURCES
        for danger in dangers(path.read_text(), path.relative_to(package) if path.is_relative_to(package) else path)
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from marshal import loads",
        "eval(text)",
        "__import__(name)",
        "import os\nos.system('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "subprocess.Popen(words, shell=wanted)",
        "subprocess.run(f'ls {name}')",
        "AutoModel.from_pretrained(name)",
        "auto.from_pretrained(name, local_files_only=True, trust_remote_code=True)",
        "auto.from_pretrained(name, local_files_only=True, trust_remote_code=given)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
    ],
)
def test_a_source_that_does_is_seen(text: str) -> None:
    assert len(dangers(text)) >= 1


def test_the_page_names_a_test_for_every_line_and_all_it_speaks_of() -> None:
    page = (ROOT / "docs" / "threats.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| it can", "| from", "|--"))]
    assert len(rows) > 30
    assert [row for row in rows if not list(named_tests(row)) and "no test" not in row] == []
    headings = " ".join(line for line in page.splitlines() if line.startswith("## ")).lower()
    for what in ("bag", "checkpoint", "parameter", "publisher", "model folder", "instruction", "image", "robot file"):
        assert what in headings, what


# Files that claim more than they hold


def bomb(key: str = "joints") -> str:
    """A robot file of some hundred characters that stands for 10^9 values."""
    lines = ["b0: &b0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"b{k}: &b{k} [{', '.join([f'*b{k - 1}'] * 10)}]" for k in range(1, 9)]
    return "\n".join([*lines, "/**:", "  ros__parameters:", "    robot:", "      name: x", f"      {key}: *b8", ""])


@pytest.mark.parametrize("key", ["joints", "limits", "cameras", "strange"])
def test_aliases_that_stand_for_a_thousand_million_values(tmp_path: Path, key: str) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text(bomb(key))
    with pytest.raises(RobotFileError, match="aliases stand for more than") as caught:
        load_robot(path)
    assert len(str(caught.value)) < 1000


def test_aliases_that_make_sense_are_kept() -> None:
    text = "a: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 3}\n"
    assert load_yaml(text) == yaml.safe_load(text) == {"a": {"x": [1, 2]}, "b": {"x": [1, 2]}, "c": {"x": [1, 2], "y": 3}}
    assert load_yaml("") is None
    assert len(load_yaml(f"[{', '.join('1' * 10)}]")) == 10 < MOST_NODES
    for text in ("&a [*a]", "&a {b: *a}"):
        with pytest.raises(yaml.YAMLError, match="part of"):
            load_yaml(text)
    with pytest.raises(yaml.YAMLError):
        load_yaml("!!python/object/apply:os.system [ls]")


def test_a_bags_metadata_with_aliases(tmp_path: Path) -> None:
    from flow_policy_ros.data.bags.rosbag2_folder import read_metadata

    path, problems = tmp_path / "metadata.yaml", list[str]()
    path.write_text(bomb().split("/**")[0] + "rosbag2_bagfile_information: {relative_file_paths: *b8}\n")
    assert read_metadata(path, problems) is None
    assert any("aliases stand for more" in problem for problem in problems)


def test_a_bags_metadata_leads_to_no_file_outside_its_folder(tmp_path: Path) -> None:
    from flow_policy_ros.data.bags.rosbag2_folder import files_of

    (tmp_path / "secret.mcap").write_bytes(b"not yours")
    bag = tmp_path / "bag"
    bag.mkdir()
    names = ["../secret.mcap", str(tmp_path / "secret.mcap"), "inner/../../secret.mcap", "..", "/etc/passwd", "here.mcap"]
    (bag / "here.mcap").write_bytes(b"")
    (bag / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": {"relative_file_paths": names}}))
    problems: list[str] = []
    assert files_of(bag, problems)[0] == [bag / "here.mcap"]
    assert sum("secret.mcap" in problem for problem in problems) == 3


@pytest.mark.parametrize(("tokens", "channels"), [(10**9, 3), (-1, 3), (1000, 10**9), (1, -1)])
def test_a_stream_of_any_number_of_tokens_is_refused_by_its_numbers(tokens: int, channels: int) -> None:
    with pytest.raises(ContractError, match="expected at most"):
        StreamContract("boxes", tokens, channels, {}, use=(0,))


# Checkpoints, detectors and model folders, which need torch


@pytest.fixture(name="checkpoint")
def checkpoint_fixture(tmp_path: Path) -> Path:
    pytest.importorskip("torch")
    from test_policy import make_checkpoint

    from flow_policy_ros.policy.checkpoint import save_checkpoint

    save_checkpoint(tmp_path / "checkpoint", make_checkpoint(), "# text\n")
    return tmp_path / "checkpoint"


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def headed(length: int, header: dict[str, Any]) -> bytes:
    """A safetensors file of this claimed length of its header."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", length or len(text)) + text


class Payload:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("/tmp/flow_policy_ros_was_here"),)


CLAIMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a width of 10^9": (lambda f: edit(f / "config.json", lambda c: c["network"]["sizes"].update(width=10**9)), "'width' is 1e"),
    "a million blocks": (lambda f: edit(f / "config.json", lambda c: c["network"]["sizes"].update(blocks=10**6)), "'blocks' is 1e"),
    "sizes of no number": (
        lambda f: edit(f / "config.json", lambda c: c["network"]["sizes"].update(width=float("nan"))), "'width' is nan"
    ),
    "4096 times 4096 of everything": (
        lambda f: edit(f / "config.json", lambda c: c["network"]["sizes"].update(width=4096, expansion=512)),
        "the network that is described has",
    ),
    "a horizon of 10^9": (
        lambda f: (
            edit(f / "config.json", lambda c: c["shape"].update(horizon=10**9)),
            edit(f / "contract.json", lambda c: c.update(horizon=10**9)),
        ),
        "'horizon' is 1e",
    ),
    "no time between points": (lambda f: edit(f / "contract.json", lambda c: c.update(dt_ns=0)), "a time above zero"),
    "an infinite time": (lambda f: edit(f / "contract.json", lambda c: c.update(dt_ns=float("inf"))), "infinity"),
    "10^9 tokens": (lambda f: edit(f / "contract.json", lambda c: c["streams"][0].update(tokens=10**9)), "expected at most"),
    "brackets without end": (lambda f: (f / "config.json").write_text("[" * 100_000), "nested too deeply"),
    "a header of 2^60 bytes": (lambda f: (f / "model.safetensors").write_bytes(headed(1 << 60, {})), "cannot be read"),
    "a tensor of 4 TB": (
        lambda f: (f / "model.safetensors").write_bytes(
            headed(0, {"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}})
        ),
        "cannot be read",
    ),
    "a pickle as weights": (lambda f: (f / "model.safetensors").write_bytes(pickle.dumps(Payload())), "cannot be read"),
    "a device": (lambda f: ((f / "config.json").unlink(), (f / "config.json").symlink_to("/dev/zero")), "not a regular file"),
    "somebody else's file": (
        lambda f: ((f / "config.json").unlink(), (f / "config.json").symlink_to("/etc/passwd")), "is not JSON"
    ),
}  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_checkpoint_that_claims_more_than_it_holds(checkpoint: Path, claim: str) -> None:
    from flow_policy_ros.policy.checkpoint import CheckpointError, load_checkpoint

    harm, words = CLAIMS[claim]
    harm(checkpoint)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(checkpoint)
    text = str(caught.value)
    assert words in text and str(checkpoint) in text and len(text) < 1500
    assert "root:" not in text  # of what was read nothing is shown
    assert not Path("/tmp/flow_policy_ros_was_here").exists()


def test_other_weights_and_edited_statistics_do_not_match_their_hashes(checkpoint: Path) -> None:
    from safetensors.torch import load_file, save_file

    from flow_policy_ros.policy.checkpoint import CheckpointError, load_checkpoint

    weights = load_file(checkpoint / "model.safetensors")
    name = min(weights)
    weights[name].view(-1)[0] += 0.25
    save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match="are not the ones"):
        load_checkpoint(checkpoint)


def test_no_pickle_in_a_checkpoint_folder_is_opened(checkpoint: Path) -> None:
    """Whatever else lies in the folder is not looked at."""
    from flow_policy_ros.policy.checkpoint import load_checkpoint

    for name in ("model.pt", "pytorch_model.bin", "model.pkl", "optimizer.pt", "modeling.py", "__init__.py"):
        (checkpoint / name).write_bytes(pickle.dumps(Payload()))
    load_checkpoint(checkpoint)
    assert not Path("/tmp/flow_policy_ros_was_here").exists()


LAYER = [-1, 1, "Conv", [16, 3, 2]]
ARCHITECTURES: dict[str, Callable[[dict[str, Any]], object]] = {
    "code as activation": lambda a: a.update(activation="__import__('pathlib').Path('ran').touch() or nn.SiLU()"),
    "code as an argument": lambda a: a.update(activation="nn.LeakyReLU(__import__('os').getpid())"),
    "another module's class": lambda a: a.update(activation="torch.utils.data.DataLoader([])"),
    "a function of torch": lambda a: a["backbone"].append([-1, 1, "nn.functional.relu", []]),
    "a name of the builder's": lambda a: a["backbone"].append([-1, 1, "load_checkpoint", ["x.pt"]]),
    "torchvision": lambda a: a["backbone"].append([-1, 1, "TorchVision", [512, "resnet18", "DEFAULT"]]),
    "torchvision's functions": lambda a: a["backbone"].append([-1, 1, "torchvision.ops.nms", []]),
    "ten million layers": lambda a: a["backbone"].append([-1, 10**7, "Conv", [16, 3, 2]]),
    "two thousand rows": lambda a: a["backbone"].extend([LAYER] * 2000),
    "text": lambda a: a.update(backbone="yolo11n.yaml"),
}


@pytest.mark.parametrize("harm", ARCHITECTURES)
def test_a_detectors_architecture_names_layers_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    pytest.importorskip("ultralytics")
    from flow_policy_ros.vision.detector import DetectorError, load_detector

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "detector"
    shutil.copytree(ROOT / "checkpoints" / "adroit_door_detector", folder)
    path = folder / "architecture.yaml"
    content = yaml.safe_load(path.read_text())
    ARCHITECTURES[harm](content)
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(DetectorError, match="the architecture"):
        load_detector(folder)
    assert not (tmp_path / "ran").exists()


def test_the_guard_on_architectures_is_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, and with an ultralytics that does not guard, the code would have run."""
    pytest.importorskip("ultralytics")
    from flow_policy_ros.vision import detector
    from flow_policy_ros.vision.ultralytics_setup import import_ultralytics

    import_ultralytics()
    tasks = pytest.importorskip("ultralytics.nn.tasks")
    if not hasattr(tasks, "_SafeLoad"):
        pytest.skip("this ultralytics has no guard to switch off")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(detector, "check_architecture", lambda architecture: None)
    monkeypatch.setattr(tasks._SafeLoad, "restricted", staticmethod(lambda: False))
    content = yaml.safe_load((ROOT / "checkpoints" / "adroit_door_detector" / "architecture.yaml").read_text())
    content["activation"] = "__import__('pathlib').Path('ran').touch() or torch.nn.SiLU()"
    detector.build_network(content, tuple("abcdefgh"))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("part", ["../other.safetensors", "/etc/passwd", "sub/x.safetensors", 5])
def test_a_model_folders_index_leads_to_no_file_outside(tmp_path: Path, part: object) -> None:
    pytest.importorskip("torch")
    from flow_policy_ros.vision.pretrained import ExtractorError, locate

    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "other.safetensors").write_bytes(headed(0, {}))
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": part}}))
    with pytest.raises(ExtractorError, match=r"expected files of its own folder|lacks the weights|cannot be read"):
        locate(str(folder))


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from safetensors.torch import save_file
    from torch import zeros

    from flow_policy_ros.vision.pretrained import ExtractorError, import_transformers, load_network, load_part, locate

    monkeypatch.chdir(tmp_path)
    transformers = import_transformers()
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "modeling_evil.py").write_text("import pathlib\npathlib.Path('ran').touch()\nclass Evil: pass\n")
    auto = {name: "modeling_evil.Evil" for name in ("AutoConfig", "AutoModel", "AutoProcessor", "AutoTokenizer")}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto, "architectures": ["Evil"]}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["modeling_evil.Evil", None]}}))
    save_file({"x": zeros(1)}, folder / "model.safetensors")
    found = locate(str(folder))
    import torch

    for attempt in (
        lambda: load_part(transformers.AutoConfig, found, "configuration"),
        lambda: load_part(transformers.AutoTokenizer, found, "tokenizer"),
        lambda: load_part(transformers.AutoProcessor, found, "processor"),
        lambda: load_network(transformers.AutoModel, found, torch.device("cpu"), torch.float32),
    ):
        with pytest.raises(ExtractorError):
            attempt()
    assert not (tmp_path / "ran").exists()


def test_a_pt_file_is_not_opened_unless_that_was_allowed(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    from flow_policy_ros.vision.detector import DetectorError, load_detector

    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(DetectorError, match="allow_pickle"):
        load_detector(path)
    assert not Path("/tmp/flow_policy_ros_was_here").exists()


