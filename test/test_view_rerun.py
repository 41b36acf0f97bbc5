"""``flow_policy view --rerun-out``: the file of the Rerun viewer holds what the page shows. Skipped without rerun-sdk."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from view_support import JOINTS, write_view_bag

from flow_policy_ros.cli.main import main
from flow_policy_ros.viewing.pictures import encode
from flow_policy_ros.viewing.recorded import RecordedView
from flow_policy_ros.viewing.rerun_log import jpeg_size

pytest.importorskip("rerun", reason="needs rerun-sdk (requirements/view.txt)")


def rows_of(file: Path, home: Path) -> Counter[tuple[str, str]]:
    """Rows by entity and archetype, as the program of the package reads them."""
    done = subprocess.run(
        [sys.executable, "-m", "rerun", "rrd", "print", str(file)], capture_output=True, text=True, timeout=200,
        env={**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows: Counter[tuple[str, str]] = Counter()
    for count, path, columns in re.findall(r"with (\d+) rows \(.*?\) - (\S+) - .*data columns: \[(.*)\]", done.stdout):
        rows[path.replace("\\", ""), columns.split(":")[0]] += int(count)
    return rows


def test_the_file_holds_every_row_that_the_page_shows(tmp_path: Path) -> None:
    bag, file = write_view_bag(tmp_path / "run.mcap"), tmp_path / "run.rrd"
    assert main(["view", str(bag), "--rerun-out", str(file)]) == 0
    view = RecordedView(bag, None)
    shots = [shot for _, shot in view.snapshots()]
    view.close()
    rows = rows_of(file, tmp_path)
    for kind in ("measured", "executed"):
        expected = sum(len(getattr(shot, kind)) for shot in shots)
        assert rows[f"/joints/{JOINTS[0]}/{kind}", "Scalars"] == expected > 100
    pictures = {shot.picture.number for shot in shots if shot.picture is not None}
    assert rows["/camera", "EncodedImage"] == len(pictures) and rows["/camera/detections", "Boxes2D"] == len(pictures)
    assert rows["/events", "TextLog"] == sum(len(shot.events) for shot in shots) > 4
    assert rows["/delays/chunk_ms", "Scalars"] == sum(shot.delays.chunk is not None for shot in shots)
    assert rows[f"/joints/{JOINTS[1]}/predicted", "Scalars"] > 50


def test_the_size_of_a_picture_is_read_from_its_head() -> None:
    import numpy as np

    assert jpeg_size(encode(np.zeros((37, 61, 3), dtype=np.uint8))) == (37, 61)
