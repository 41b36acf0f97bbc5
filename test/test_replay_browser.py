"""The replay report in a real browser: its scripts run, every figure is the one of the metrics, nothing leaves the page.

Skipped where there is no Chromium (``scripts/setup.sh`` installs it where it may).
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_support import Browser, chromium
from replay_report_support import HOSTILE, JOINTS, ORIGIN, empty, variant

from flow_policy_ros.evaluation.replay.figures import MISSING, dotted, leaves, lookup
from flow_policy_ros.evaluation.replay.report import Variant, write_report

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here (apt-get install chromium)")

SHOWN = """Array.from(document.querySelectorAll("[data-metric]"), e => [
    e.dataset.metric, Number(e.dataset.variant), Number(e.dataset.scale || 1), e.textContent])"""
PLOTS = """Array.from(document.querySelectorAll(".plot"), e => [
    e.id, e.querySelectorAll("svg .scatterlayer path, svg .scatterlayer use").length, Boolean(e.data)])"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


def opened(browser: Browser, folder: Path, *variants: Variant) -> Browser:
    browser.open(write_report(folder / "report.html", variants))
    return browser


def path_of(text: str) -> tuple[str | int, ...]:
    """The keys of a dotted path; what is a whole number is tried as an index too, by ``found``."""
    return tuple(re.sub(r"\\(.)", r"\1", part) for part in re.findall(r"((?:\\.|[^.\\])+)(?:\.|$)", text))


def found(metrics: dict[str, Any], text: str) -> Any:
    at: Any = metrics
    for key in path_of(text):
        if isinstance(at, dict) and key in at:
            at = at[key]
        elif isinstance(at, list) and str(key).isdigit() and int(key) < len(at):
            at = at[int(key)]
        else:
            return None
    return at


def agrees(value: Any, scale: float, text: str) -> bool:
    """Whether ``text`` is what ``value`` times ``scale`` reads as; for numbers to three digits."""
    if isinstance(value, (bool, str)) or value is None:
        return text == {None: MISSING, True: "yes", False: "no", "": "none"}.get(value, value)
    if isinstance(value, (dict, list)):
        return not value and text == "none"
    if value != value:
        return text == MISSING
    number = float(text.replace("−", "-"))
    if isinstance(value, int) and scale == 1:
        return number == value
    return abs(number - value * scale) <= 0.0051 * abs(value * scale)


def disagreements(browser: Browser, *variants: Variant) -> list[object]:
    rows = browser.evaluate(SHOWN)
    assert len(rows) > 20
    return [row for row in rows if not agrees(found(dict(variants[row[1]].metrics), row[0]), row[2], row[3])]


def test_figures_are_those_of_the_metrics(browser: Browser, tmp_path: Path) -> None:
    one, two = variant("sound"), variant("lagged", "bad", seed=4)
    page = opened(browser, tmp_path, one, two)
    assert disagreements(page, one, two) == []
    assert {row[1] for row in page.evaluate(SHOWN)} == {0, 1}
    assert page.errors == []
    # The comparison itself can fail: against other metrics it does, and so does a page that was tampered with.
    assert len(disagreements(page, two, one)) > 20
    page.evaluate("document.querySelector('[data-metric=\"lag_s\"]').textContent = '−12.2'")
    assert [row[0] for row in disagreements(page, one, two)] == ["lag_s"]


def test_nothing_is_fetched_and_all_plots_are_drawn(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, variant("sound"))
    own = (tmp_path / "report.html").resolve().as_uri()
    assert [address for address in page.requests if not address.startswith(("data:", "blob:"))] == [own]
    plots = page.evaluate(PLOTS)
    assert [plot[0] for plot in plots] == ["plot-traces", "plot-steps", "plot-delays", "plot-states"]
    assert all(marks > 0 and drawn for _, marks, drawn in plots)
    assert page.evaluate("Array.from(document.querySelectorAll('.glances svg path')).length") == 2 * len(JOINTS)
    assert page.errors == []


def test_plotted_figures_are_those_of_the_metrics(browser: Browser, tmp_path: Path) -> None:
    one, two = variant("sound"), variant("lagged", "bad", seed=4)
    page = opened(browser, tmp_path, one, two)
    drawn = page.evaluate("element('plot-steps').data.map(l => [l.name, l.x, l.y])")
    assert [line[0] for line in drawn] == ["holding, A", "predicted, A", "holding, B", "predicted, B"]
    for number, (_, x, y) in enumerate(drawn):
        steps, key = (one, two)[number // 2].metrics["error_by_step"], ("hold", "predicted")[number % 2]
        assert x == pytest.approx([1000 * s for s in steps["ahead_s"]])
        assert y == pytest.approx([100 * e for e in steps[key]])
    lines = {line["name"]: line["y"] for line in page.evaluate("element('plot-traces').data.map(l => ({name: l.name, y: l.y}))")}
    commanded = [None if v != v else v for v in two.traces.commanded[:, 0]]
    assert lines["commanded, B"][:5] == commanded[:5] == [None] * 5
    assert lines["commanded, B"][5:] == pytest.approx(commanded[5:], abs=1e-4)


def test_seams_are_drawn_where_they_can_be_told_apart(browser: Browser, tmp_path: Path) -> None:
    one = variant("sound")
    names = "element('plot-traces').data.map(l => l.name)"
    assert "seams" in opened(browser, tmp_path, one).evaluate(names)
    many = ORIGIN + 9_000_000 * np.arange(201)
    traces = replace(one.traces, chunk_stamps=many, chunk_ready=many, inference_ms=np.ones(201))
    page = opened(browser, tmp_path, replace(one, traces=traces))
    assert page.errors == [] and "seams" not in page.evaluate(names)


def test_a_joint_is_chosen_by_its_picture_and_by_the_list(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, variant("sound"))
    title = "element('plot-traces').layout.yaxis.title.text"
    assert page.evaluate(title) == "arm.lift / rad or m"
    assert page.evaluate("Array.from(document.querySelectorAll('#joint optgroup'), g => g.label)") == ["arm", "fingers"]
    page.evaluate("document.querySelector('[data-joint=\"index\"]').click()")
    assert page.evaluate(title) == "index / rad or m" and page.evaluate("element('joint').value") == "index"
    page.evaluate("element('joint').value = 'arm.turn'; element('joint').dispatchEvent(new Event('change'))")
    assert page.evaluate(title) == "arm.turn / rad or m"
    assert page.evaluate("document.querySelector('[aria-pressed=\"true\"]').dataset.joint") == "arm.turn"
    shaded = page.evaluate("element('plot-traces').data.find(l => l.name === 'a limit acts').x.slice(0, 4)")
    assert shaded == [0.39, 0.39, 0.59, 0.59]


def test_hostile_names_do_not_act(browser: Browser, tmp_path: Path) -> None:
    hostile = variant(HOSTILE, "bad", [HOSTILE + joint for joint in JOINTS], label=HOSTILE)
    page = opened(browser, tmp_path, hostile, hostile)
    assert page.errors == []
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert page.evaluate("document.querySelectorAll('script').length") == 3
    assert page.evaluate("element('joint').value") == HOSTILE + JOINTS[0]
    assert disagreements(page, hostile, hostile) == []
    assert HOSTILE in page.evaluate("document.querySelector('#plot-traces .ytitle').textContent")


def test_empty_replay_is_a_page_too(browser: Browser, tmp_path: Path) -> None:
    nothing = empty("a")
    page = opened(browser, tmp_path, nothing)
    assert page.errors == [] and disagreements(page, nothing) == []
    assert lookup(nothing.metrics, ("error", "b")) is None
    assert page.evaluate("Array.from(document.querySelectorAll('.plot'), e => e.textContent.length > 10)") == [True] * 4


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_wider_than_the_window(browser: Browser, tmp_path: Path, width: int) -> None:
    long = [f"a_rather_long_name_of_a_joint_as_robots_have_them_{joint}" for joint in JOINTS]
    for variants in ([variant("sound")], [variant("sound", joints=long), variant("lagged by 150 ms", "bad", long)]):
        browser.resize(width)
        page = opened(browser, tmp_path, *variants)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        beyond = """Array.from(document.querySelectorAll("main *")).filter(e => !e.closest(".scroll, svg") &&
            e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))"""
        assert page.evaluate(beyond) == []
    browser.resize(1280)


def test_it_prints(browser: Browser, tmp_path: Path) -> None:
    pdf = opened(browser, tmp_path, variant("sound")).pdf()
    assert pdf.startswith(b"%PDF") and 2 <= pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") <= 12


def test_report_of_a_real_replay_shows_its_metrics_json(browser: Browser, tmp_path: Path) -> None:
    from flow_policy_ros.cli.replay import main

    sample = Path(__file__).parents[1] / "samples" / "adroit_door" / "seed_5000"
    code = main([
        str(sample), "--checkpoint", "adroit_door_camera", "--robot", "adroit_door", "--out", str(tmp_path), "--latency", "none",
        "--batch", "16", "--compare-set", "policy.steps=2",
    ])  # fmt: skip
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert code == {"good": 0, "unjudged": 1, "bad": 1}[metrics["verdict"]]
    other = metrics.pop("compare")
    browser.open(tmp_path / "report.html")
    assert browser.errors == []
    rows = browser.evaluate(SHOWN)
    assert [row for row in rows if not agrees(found((metrics, other)[row[1]], row[0]), row[2], row[3])] == []
    for number, figures in enumerate((metrics, other)):
        wanted = {dotted(path) for path in leaves(figures) if lookup(figures, path) not in ({}, [])}
        assert wanted <= {row[0] for row in rows if row[1] == number}
    assert all(marks > 0 and drawn for _, marks, drawn in browser.evaluate(PLOTS))
