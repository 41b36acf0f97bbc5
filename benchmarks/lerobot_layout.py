"""What LeRobot itself writes, as the file that test/test_lerobot.py compares with: run it in an environment with lerobot.

Once with lerobot 0.4.4 (v3.0) and once with 0.3.3 (v2.1): ``python benchmarks/lerobot_layout.py test/lerobot_layout.json``.
Each adds its own part: the files, columns and types of a small dataset with and without video.
"""

from __future__ import annotations

import inspect
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from lerobot.datasets.lerobot_dataset import CODEBASE_VERSION, LeRobotDataset

FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": ["a", "b", "c"]},
    "action": {"dtype": "float32", "shape": (3,), "names": ["a", "b", "c"]},
    "observation.features.det": {"dtype": "float32", "shape": (2, 4), "names": ["token", "channel"]},
    "input_age": {"dtype": "float64", "shape": (3,), "names": ["joint_state", "front", "det"]},
    "stamp": {"dtype": "int64", "shape": (1,), "names": None},
}
SIZE, LENGTHS, TASKS, FPS = (96, 128, 3), (7, 8, 9), ("open it", "open it", "close it"), 10


def record(root: Path, kind: str) -> None:
    """Three short episodes, written by LeRobot."""
    names = ["height", "width", "channels"]
    features = FEATURES | {"observation.images.front": {"dtype": kind, "shape": SIZE, "names": names}}
    dataset = LeRobotDataset.create("local/x", fps=FPS, features=features, root=root, robot_type="tiny", use_videos=kind == "video")
    rng = np.random.default_rng(0)
    task_in_frame = "task" not in inspect.signature(dataset.add_frame).parameters
    for length, task in zip(LENGTHS, TASKS, strict=True):
        for k in range(length):
            frame = {
                "observation.state": rng.normal(size=3).astype(np.float32),
                "action": rng.normal(size=3).astype(np.float32),
                "observation.features.det": rng.normal(size=(2, 4)).astype(np.float32),
                "input_age": rng.uniform(size=3),
                "stamp": np.array([10**18 + k * 10**8]),
                "observation.images.front": rng.integers(0, 255, size=SIZE, dtype=np.uint8),
            }
            if task_in_frame:
                dataset.add_frame(frame | {"task": task})
            else:
                dataset.add_frame(frame, task=task)
        dataset.save_episode()
    getattr(dataset, "finalize", lambda: None)()


def columns(path: Path) -> list[list[str]]:
    """Names and Arrow types, as they are to readers that know nothing of ``datasets``."""
    types = [(field.name, str(getattr(field.type, "storage_type", field.type))) for field in pq.read_schema(path)]
    return [[name, kind.replace("item: ", "element: ")] for name, kind in types]


def describe(root: Path) -> dict[str, Any]:
    """Everything but the values."""
    paths = (path for part in ("data", "videos", "meta") for path in (root / part).rglob("*") if path.is_file())
    files = sorted(str(path.relative_to(root)) for path in paths)
    data = sorted((root / "data").rglob("*.parquet"))[0]
    told = json.loads(pq.read_schema(data).metadata[b"huggingface"])["info"]["features"]
    found: dict[str, Any] = {
        "files": files, "info": json.loads((root / "meta" / "info.json").read_text()), "data": columns(data), "datasets": told,
    }  # fmt: skip
    lines = {path.name: json.loads(path.read_text().splitlines()[1]) for path in sorted((root / "meta").glob("*.jsonl"))}
    if lines:
        stats = lines.pop("episodes_stats.jsonl")["stats"]
        return found | {"lines": lines, "stats": {name: {k: np.shape(v) for k, v in s.items()} for name, s in stats.items()}}
    stats = json.loads((root / "meta" / "stats.json").read_text())
    return found | {
        "episodes": columns(sorted((root / "meta" / "episodes").rglob("*.parquet"))[0]),
        "tasks": columns(root / "meta" / "tasks.parquet"),
        "stats": {name: {k: np.shape(v) for k, v in s.items()} for name, s in stats.items()},
    }


def main(path: Path) -> None:
    """Add this version's part to the file."""
    found = json.loads(path.read_text()) if path.exists() else {}
    for kind in ("video", "image"):
        with tempfile.TemporaryDirectory() as folder:
            record(Path(folder) / "set", kind)
            found[f"{CODEBASE_VERSION} {kind}"] = describe(Path(folder) / "set")
    path.write_text(json.dumps(found, indent=None, sort_keys=True).replace('}, "v', '},\n"v') + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
