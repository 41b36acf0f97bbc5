"""What ``flow_policy train-detector`` says: findings of a data set, the table of results, the README beside the weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flow_policy_ros.vision.yolo_findings import Finding

POOR_RECALL = 0.5


def print_findings(findings: Sequence[Finding]) -> None:
    """One line for each, on standard error."""
    import sys

    for finding in findings:
        print(f"data set: {finding}", file=sys.stderr)


def write_readme(folder: Path) -> None:
    """How the detector in ``folder`` was made and how good it is, from its ``detector.json``."""
    content = json.loads((folder / "detector.json").read_text())
    made, metrics = content["training"], content["metrics"]
    lines = [
        f"# Detector: {content['model']} at {content['image_size']} px",
        "",
        f"Made by `{made['command']}`: {made['images']} images, {made['steps']} steps, {made['wall_s']:.0f} s. The",
        f"architecture is ultralytics' (AGPL-3.0); the weights were trained {_origin(made)}. `preview.jpg` and `previews/` show",
        "labels and detections on held-out frames.",
        "",
        f"On {metrics['images']} held-out frames: mAP50 {metrics['map50']:.3f}, mAP50-95 {metrics['map50_95']:.3f}. Recall and",
        "precision are those of the best detection of each class; errors of its centre are in pixels.",
        "",
        "| class | labelled | AP50 | AP50-95 | recall | precision | median | mean | 95th percentile |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in _rows(metrics)]
    points = {name: e["keypoint_error_px"] for name, e in metrics["classes"].items() if "keypoint_error_px" in e}
    if points:
        said = [f"{name} {error['median']:.1f} ({error['p95']:.1f})" for name, error in points.items()]
        lines += ["", f"Keypoints, median error in pixels and in brackets the 95th percentile: {', '.join(said)}."]
    (folder / "README.md").write_text("\n".join(lines) + "\n")


def _origin(made: dict[str, Any]) -> str:
    return f"on from `{made['start']}`" if made.get("start") else "from scratch"


def _rows(metrics: dict[str, Any]) -> list[list[str]]:
    """One row of text per class: name, labelled, AP50, AP50-95, recall, precision and the centre error's median, mean and p95."""
    rows = []
    for name, entry in metrics["classes"].items():
        error = entry.get("centre_error_px", {})
        numbers = [entry.get("ap50"), entry.get("ap50_95"), entry["recall"], entry["precision"]]
        numbers += [error.get(k) for k in ("median", "mean", "p95")]
        rows.append([name, str(entry["labelled"]), *("–" if v is None else f"{v:.2f}" for v in numbers)])
    return rows


def print_table(metrics: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{metrics['images']} held-out frames: mAP50 {metrics['map50']:.3f}, mAP50-95 {metrics['map50_95']:.3f}")
    for column in ("class", "labelled", "AP50", "AP50-95", "recall", "precision", "centre error px: median", "mean", "p95"):
        table.add_column(column)
    for row in _rows(metrics):
        table.add_row(*row)
    Console().print(table)


def print_remarks(metrics: dict[str, Any]) -> None:
    """A line, on standard error, for each class that is labelled but hardly found: averages hide it."""
    import sys

    for name, entry in metrics["classes"].items():
        if entry["labelled"] and entry["recall"] < POOR_RECALL:
            print(
                f"'{name}' was found in {entry['recall']:.0%} of the {entry['labelled']} pictures that show it; see previews/, and "
                "train longer (--epochs), with more pictures, or from another detector (--start).",
                file=sys.stderr,
            )
