"""``flow_policy bench latency``: the naive opponent, the rows, the restart, the pictures."""

from __future__ import annotations

import ast
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from flow_policy_ros.cli.bench_latency import delays_of, held_share
from flow_policy_ros.cli.main import main
from flow_policy_ros.evaluation.latency_plot import PANELS, lines, write_plot
from flow_policy_ros.evaluation.naive_executor import NaiveExecutor
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.runtime.types import Chunk
from flow_policy_ros.safety.guard import GuardState

DT = 10_000_000


@pytest.fixture(scope="module")
def robot(root: Path):
    return load_robot(root / "config/robots/adroit_door.yaml")


def chunk_of(robot, stamp: int, positions: np.ndarray) -> Chunk:
    """(H, J) in the robot's order, sent in the reverse one."""
    return Chunk(stamp, DT, robot.joints[::-1], positions[:, ::-1].copy(), 10, 0)


def line(robot, height: float, points: int = 10) -> np.ndarray:
    middle = (robot.limits.lower + robot.limits.upper) / 2
    return middle + height + 0.001 * np.arange(points)[:, None]


def test_the_opponent_finishes_the_old_chunk_and_jumps_to_the_new_one(robot) -> None:
    naive = NaiveExecutor(robot)
    old, new = line(robot, 0.0), line(robot, 0.05)
    assert naive.tick(0).setpoint is None
    naive.on_chunk(chunk_of(robot, 0, old), 0)
    naive.on_chunk(chunk_of(robot, 3 * DT, new), 6 * DT)
    ticks = [naive.tick(k * DT) for k in range(16)]
    sent = np.array([tick.setpoint.position for tick in ticks])
    assert np.array_equal(sent[:6], old[:6])
    assert np.array_equal(sent[6:13], new[3:])  # what has passed is left out
    assert np.array_equal(sent[13:], np.repeat(new[-1:], 3, axis=0))  # the queue is empty: the servo holds
    assert [k for k, tick in enumerate(ticks) if tick.plan is not None] == [0, 6]
    plan = ticks[6].plan
    assert (plan.stamp, plan.chunk_stamp, plan.names) == (6 * DT, 3 * DT, robot.joints)
    assert np.array_equal(plan.positions, new[3:])
    assert [tick.state for tick in ticks[12:14]] == [GuardState.ACTIVE, GuardState.HOLDING]


def test_the_opponent_clips_positions_and_nothing_else(robot) -> None:
    naive = NaiveExecutor(robot)
    far = line(robot, 0.0)
    far[3, 0] = robot.limits.upper[0] + 5.0
    naive.on_chunk(chunk_of(robot, 0, far), 0)
    sent = np.array([naive.tick(k * DT).setpoint.position for k in range(10)])
    assert sent[3, 0] == robot.limits.upper[0] and np.array_equal(np.delete(sent, 3, axis=0), np.delete(far, 3, axis=0))
    statistics = naive.statistics()
    assert statistics.interventions["position"][robot.joints[0]] == statistics.joint_ticks_limited == statistics.ticks_limited == 1
    assert statistics.ticks == statistics.ticks_active == 10


def test_the_opponent_takes_no_older_chunk_and_forgets(robot) -> None:
    naive = NaiveExecutor(robot)
    naive.on_chunk(chunk_of(robot, 5 * DT, line(robot, 0.05)), 5 * DT)
    naive.tick(5 * DT)
    naive.on_chunk(chunk_of(robot, 4 * DT, line(robot, 0.0)), 6 * DT)
    assert naive.tick(6 * DT).plan is None
    naive.reset()
    assert naive.tick(7 * DT).setpoint is None


def test_no_node_knows_the_opponent(root: Path) -> None:
    users = []
    for path in (root / "flow_policy_ros").rglob("*.py"):
        named = {n.module for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)}
        if "flow_policy_ros.evaluation.naive_executor" in named:
            users.append(path.name)
    assert users == ["bench_latency.py"]


def test_delays_and_held_ticks() -> None:
    assert delays_of("8, 0,4,4") == [0, 4, 8]
    assert held_share([["INACTIVE", "ACTIVE", "STOPPING", "ACTIVE"], ["INACTIVE"], ["ACTIVE"]]) == pytest.approx(0.25)
    assert held_share([["INACTIVE"]]) == 0.0


COMMAND = ["bench", "latency", "--episodes", "1", "--control-steps", "70", "--delays", "0,3", "--modes", "naive", "receding"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    file = tmp_path_factory.mktemp("bench") / "rows.json"
    assert main([*COMMAND, "--json", str(file)]) == 0
    return json.loads(file.read_text())["rows"]


def test_a_row_for_each_mode_and_delay(rows) -> None:
    assert [(row["mode"], row["delay_ms"]) for row in rows] == [
        ("naive", 0), ("naive", 30), ("receding", 0), ("receding", 30)
    ]  # fmt: skip
    for row in rows:
        assert row["seam"]["seams"] >= 5 and row["faults"] == {}
        assert row["seam"]["acceleration_seam"]["count"] and row["seam"]["acceleration_inside"]["count"]
        assert row["consumed_delay_ms"] >= row["delay_ms"]  # what was injected is what was measured
        assert 0 <= row["slowed_share"] <= 1 and 0 <= row["held_share"] < 0.5
    naive, ours = rows[1], rows[3]
    assert ours["seam"]["acceleration_seam"]["max"] <= 1.0 + 1e-9 < naive["seam"]["acceleration_seam"]["max"]
    assert ours["seam"]["position_seam"]["p95"] < 0.5 * naive["seam"]["position_seam"]["p95"]
    assert naive["interventions"]["velocity"] == 0 and naive["slowed_share"] == 0


def test_rows_that_are_there_are_kept_and_processes_change_nothing(rows, tmp_path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps({"rows": [row | {"mark": "kept"} for row in rows[:2]]}))
    plot = tmp_path / "rows.svg"
    assert main([*COMMAND, "--jobs", "2", "--json", str(file), "--plot", str(plot)]) == 0
    again = json.loads(file.read_text())["rows"]
    assert ["mark" in row for row in again] == [True, True, False, False]
    assert [row["trajectory_sha256"] for row in again] == [row["trajectory_sha256"] for row in rows]
    assert plot.is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--delays", "0,soon"], "--delays '0,soon' holds what is no whole number"),
        (["--delays=-1"], "expected control steps from 0 to 1000"),
        (["--plot", "rows.pdf"], "expected a name that ends in .html or .svg"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--json", "package.xml"], "package.xml holds no rows of this benchmark"),
        (["--checkpoint", "/nowhere/ck"], "/nowhere/ck"),
        (["--modes", "rtc_trained"], "--prefix"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(arguments, words, capsys) -> None:
    assert main(["bench", "latency", "--episodes", "1", *arguments]) == 2
    printed = capsys.readouterr()
    assert words in printed.err and "Traceback" not in printed.err and not printed.out


def made_up(mode: str, delay: int, success: float, jump: float | None) -> dict:
    seam = {"position_seam": {"p95": jump}, "acceleration_ratio": None if jump is None else 10 * jump}
    return {"mode": mode, "delay_ms": delay, "success_rate": success, "seam": seam}


ROWS = [made_up("<naive>", 100, 0.5, 0.2), made_up("<naive>", 0, 1.0, 0.02), made_up("rtc", 0, 1.0, None)]


def test_lines_are_in_order_and_leave_out_what_is_not_known() -> None:
    success, jump, _ = PANELS
    assert lines(ROWS, success) == {"<naive>": [(0, 100), (100, 50)], "rtc": [(0, 100)]}
    assert lines(ROWS, jump) == {"<naive>": [(0, 20), (100, 200)], "rtc": []}


def test_the_svg_shows_every_point_inside_its_panel(tmp_path) -> None:
    write_plot(tmp_path / "p.svg", ROWS, "a & b")
    tree = ElementTree.fromstring((tmp_path / "p.svg").read_text())
    name = "{http://www.w3.org/2000/svg}"
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in tree.iter(f"{name}circle")]
    assert len(circles) == 3 + 2 + 2
    assert all(50 <= x <= 340 and 30 <= y <= 260 for x, y in circles)
    assert circles[1][1] > circles[0][1]  # half as much success is lower
    texts = [t.text for t in tree.iter(f"{name}text")]
    assert "<naive>" in texts and "rtc" in texts and "100" in texts


def test_the_page_needs_no_network(tmp_path) -> None:
    write_plot(tmp_path / "p.html", ROWS, "a & b")
    text = (tmp_path / "p.html").read_text()
    assert "a &amp; b" in text and "Plotly.newPlot" in text and '"name": "rtc"' in text
    assert 'src="http' not in text
    with pytest.raises(ValueError, match=r"unknown kind '\.png', expected one of \.html, \.svg"):
        write_plot(tmp_path / "p.png", ROWS, "")


def test_a_picture_of_nothing_is_a_picture(tmp_path) -> None:
    empty = [replace_seam(row) for row in ROWS]
    for kind in ("svg", "html"):
        write_plot(tmp_path / f"p.{kind}", empty, "")


def replace_seam(row: dict) -> dict:
    return row | {"seam": {"position_seam": {"p95": None}, "acceleration_ratio": None}}
