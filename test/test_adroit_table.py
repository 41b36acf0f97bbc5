"""The Adroit table as data: cells, intervals against known numbers, the Markdown table and the plot of fixed results."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from flow_policy_ros.evaluation.adroit_table import LEROBOT, RECIPES, ROWS, STATE, Cell, Protocol, digest
from flow_policy_ros.evaluation.adroit_table_plot import panels, svg, write_table_plot
from flow_policy_ros.evaluation.adroit_table_summary import markdown, rate, summarise_table, t_interval, wilson
from flow_policy_ros.sim.tasks import TASKS


def result(task: str, count: int, row: str, seed: int, successes: int, strict: int, observation: str = "state") -> dict:
    line = {"task": task, "source": "expert", "demonstrations": count, "observation": observation}
    return {"line": line, "row": row, "seed": seed, "episodes": 100, "successes": successes, "strict_successes": strict,
            "wall_s": 60.0}  # fmt: skip


RESULTS = [
    result("door", 0, "expert", 0, 100, 99, observation=""),
    *(result("door", 10, "flow_1", seed, rate, rate - 10) for seed, rate in enumerate((80, 90, 100))),
    result("door", 25, "flow_1", 0, 100, 100),
    result("door", 10, "regression", 0, 0, 0),
]


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [(0, 10, 0.0, 0.2775), (8, 10, 0.4902, 0.9433), (100, 100, 0.9630, 1.0), (89, 100, 0.8137, 0.9375)],
)
def test_wilsons_interval_has_the_published_numbers(successes, episodes, low, high) -> None:
    assert wilson(successes, episodes) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "episodes"), [(1, 0), (0, 0), (11, 10), (-1, 10)])
def test_no_share_of_what_cannot_be(successes, episodes) -> None:
    with pytest.raises(ValueError, match="at least one"):
        wilson(successes, episodes)


def test_several_seeds_have_students_t() -> None:
    half = 4.302653 * 0.1 / 3**0.5  # t(0.975, 2 degrees of freedom), s = 0.1
    assert t_interval([0.4, 0.5, 0.6]) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    assert t_interval([0.8, 0.9, 1.0]) == pytest.approx((0.9 - half, 1.0), abs=1e-6)
    found = rate([(80, 100), (90, 100), (100, 100)])
    assert (found.mean, found.low, found.high) == pytest.approx((0.9, 0.9 - half, 1.0), abs=1e-6)


def test_seeds_that_agree_by_chance_prove_no_certainty() -> None:
    found = rate([(100, 100)] * 3)
    assert t_interval([1.0, 1.0, 1.0]) == (1.0, 1.0)
    assert (found.low, found.high) == pytest.approx(wilson(300, 300)) and found.low < 0.99


def test_the_cells_of_the_first_seed_come_first_and_once() -> None:
    cells = Protocol(tasks=("door", "pen"), demonstrations=(10, 10, 25), seeds=(0, 1), human=25).cells()
    assert len(cells) == len(set(cells)) == 2 * 2 * (2 * 2 + 1)  # seeds, observations, tasks by counts and people
    assert [cell.seed for cell in cells] == [0] * 10 + [1] * 10
    people = [cell for cell in cells if cell.source == "human"]
    assert {(cell.task, cell.demonstrations, cell.control_steps) for cell in people} == {("door", 25, 300)}
    assert len({cell.name for cell in cells}) == len(cells)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tasks": ("cooking",)}, "--tasks has ['cooking'], expected some of door, hammer, pen, relocate"),
        ({"rows": ("flow_3",)}, "--rows has ['flow_3'], expected some of expert, regression, flow_10"),
        ({"demonstrations": (0,)}, "--demonstrations is 0, expected at least 1"),
        ({"minutes": float("nan")}, "--minutes is nan"),
        ({"first_seed": 9950}, "must not be measured on what it was shown"),
        ({"tasks": ()}, "leave nothing to run"),
        ({"seeds": ()}, "leave nothing to run"),
    ],
)
def test_a_protocol_that_cannot_be_is_refused(given, message) -> None:
    with pytest.raises(ValueError) as error:
        Protocol(**given)
    assert message in str(error.value)


def test_a_recipe_decides_only_what_it_is_used_for() -> None:
    door = RECIPES["door"]

    def decides(recipe, observation=STATE, objective="flow", student=False) -> str:
        return digest(recipe.decides(observation, objective, student))

    assert decides(replace(door, steps=5000)) != decides(door)
    assert decides(replace(door, pairs=7)) == decides(door)
    assert decides(replace(door, pairs=7), student=True) != decides(door, student=True)
    assert decides(replace(door, first=False)) == decides(door)
    assert decides(replace(door, first=False), "camera") != decides(door, "camera")
    assert decides(replace(door, predicts="velocity")) != decides(door)
    assert decides(replace(door, predicts="velocity"), objective="regression") == decides(door, objective="regression")


def test_recipes_and_rows_are_of_tasks_and_objectives_that_there_are() -> None:
    from flow_policy_ros.policy.objectives import OBJECTIVES
    from flow_policy_ros.sim.parts import CLASSES

    assert set(RECIPES) <= set(TASKS)
    assert all(set(recipe.tokens) <= set(CLASSES[task]) for task, recipe in RECIPES.items())
    assert {row.objective for row in ROWS.values()} - {"", LEROBOT} <= set(OBJECTIVES)


def test_results_become_means_over_seeds() -> None:
    entries = {(e["demonstrations"], e["row"]): e for e in summarise_table(RESULTS)}
    one = entries[10, "flow_1"]
    assert one["seeds"] == [0, 1, 2] and one["episodes"] == 300 and one["evaluation_minutes"] == 1.0
    assert one["any"]["mean"] == pytest.approx(0.9) and one["strict"]["mean"] == pytest.approx(0.8)
    assert one["any"]["low"] == pytest.approx(0.6516, abs=1e-4) and one["any"]["high"] == 1.0
    assert entries[0, "expert"]["strict"]["mean"] == 0.99 and entries[10, "regression"]["any"]["mean"] == 0.0


def test_the_table_in_markdown() -> None:
    assert markdown(summarise_table(RESULTS)).splitlines() == [
        "| task | demonstrations | observation | expert | behaviour cloning | flow, 1 step |",
        "|---|---|---|---|---|---|",
        "| door | 10 | state | 100 [96.3, 100] / 99 | 0 [0, 3.7] / 0 (1) | 90 [65.2, 100] / 80 |",
        "| door | 25 | state | 100 [96.3, 100] / 99 | – | 100 [96.3, 100] / 100 (1) |",
    ]
    assert "| door | – | – | 100 [96.3, 100] / 99 |" in markdown(summarise_table(RESULTS[:1]))
    assert markdown([]).count("\n") == 2


def test_the_plot_has_a_mark_for_every_entry(tmp_path) -> None:
    entries = summarise_table([*RESULTS, result("door", 10, "flow_1", 0, 50, 40, "camera"), result("pen", 10, "flow_1", 0, 5, 4)])
    assert [*panels(entries)] == [("state", "expert", "door"), ("camera", "expert", "door"), ("state", "expert", "pen")]
    write_table_plot(tmp_path / "t.svg", entries, "a & b")
    tree = ElementTree.fromstring((tmp_path / "t.svg").read_text())
    circles = [element for element in tree.iter() if element.tag.endswith("circle")]
    assert len(circles) == 5
    heights = {float(circle.get("cy")) for circle in circles}
    assert {32.0, 198.0} <= heights  # 100% and 0%
    assert "flow, 1 step" in svg(entries, "x") and "behaviour cloning" in svg(entries, "x")
    assert ElementTree.fromstring(svg([], "nothing")) is not None


def test_names_of_cells() -> None:
    assert Cell("door", 10, "state", 2).name == "door_10_state_s2"
    assert Cell("door", 25, "camera", 0, "human").name == "door_human_25_camera_s0"
