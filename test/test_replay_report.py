"""The replay report as a file: complete, escaped, small, without a network; its figures are those it was given."""

import html.parser
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from replay_report_support import HOSTILE, JOINTS, ORIGIN, PERIOD, empty, variant

from flow_policy_ros.evaluation.replay.figures import MISSING, Figures, dotted, leaves, lookup, shown
from flow_policy_ros.evaluation.replay.index import index_row, write_index
from flow_policy_ros.evaluation.replay.pictures import camera_picture, glance, worst_joints
from flow_policy_ros.evaluation.replay.plots import by_group, packed, spans, step_of, trace_content
from flow_policy_ros.evaluation.replay.report import Variant, check_rows, margin, tally, write_report
from flow_policy_ros.evaluation.replay.thresholds import limits_of


class Page(html.parser.HTMLParser):
    """What a browser would make of a page: its elements, and the text of those that carry a metric."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.metrics: list[tuple[dict[str, str], str]] = []
        self.text = ""
        self.script = False
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attributes}))
        self.script = tag in ("script", "style")
        self._open = "data-metric" in dict(attributes)
        if self._open:
            self.metrics.append(({k: v or "" for k, v in attributes}, ""))

    def handle_endtag(self, tag: str) -> None:
        self.script = self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            self.metrics[-1] = self.metrics[-1][0], self.metrics[-1][1] + data
        if not self.script:
            self.text += data


def text_of(path: Path) -> str:
    """The page without plotly, whose own text names addresses and elements."""
    return re.sub(r"<script>\s*/\*\*\n\* plotly\.js.*?</script>", "", path.read_text(), flags=re.S)


def written(folder: Path, *variants: Variant) -> Page:
    return Page(text_of(write_report(folder / "report.html", variants)))


def data_of(folder: Path) -> dict:
    page = (folder / "report.html").read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_every_figure_of_the_metrics_is_on_the_page(tmp_path: Path) -> None:
    first, second = variant("a"), variant("b", "bad", seed=4)
    page = written(tmp_path, first, second)
    found = {(attributes["data-metric"], attributes["data-variant"]) for attributes, _ in page.metrics}
    for number, one in enumerate((first, second)):
        wanted = {dotted(path) for path in leaves(one.metrics) if lookup(one.metrics, path) not in ({}, [])}
        assert len(wanted) > 80
        assert {path for path in wanted if (path, str(number)) not in found} == set()


def test_page_asks_for_nothing(tmp_path: Path) -> None:
    page = written(tmp_path, variant("a"))
    assert (tmp_path / "report.html").stat().st_size < 8e6
    own = text_of(tmp_path / "report.html")
    assert "Plotly.newPlot" in own and len(own) < 1e6  # plotly was cut out, and only plotly
    for _, attributes in page.tags:
        assert all(v.startswith(("data:", "#")) for k, v in attributes.items() if k in ("src", "href", "action", "srcset"))
    assert "http" not in re.sub(r"base64,[^\"]*|http-equiv", "", own)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv"))
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]


def test_the_same_replay_gives_the_same_page(tmp_path: Path) -> None:
    one = write_report(tmp_path / "a.html", [variant("a")]).read_bytes()
    assert one == write_report(tmp_path / "deeper" / "b.html", [variant("a")]).read_bytes()


def test_it_says_what_open_loop_means_and_what_is_wrong(tmp_path: Path) -> None:
    good = written(tmp_path, variant("a")).text
    assert "the robot did not obey these commands" in good and "Verdict: good" in good and "Do not run" not in good
    bad = written(tmp_path, variant("a", "bad")).text
    assert "Do not run this policy on the robot" in bad and "lag: the policy is 150 ms behind the recording." in bad
    assert "predicted like arm.turn" in bad


def test_what_cannot_be_judged_is_neither_good_nor_bad(tmp_path: Path) -> None:
    one = variant("a", "good")
    check = {"name": "recording", "value": 0.0, "limit": 1.0, "ok": False, "sentence": "cannot be judged: it holds no commands."}
    reason = "recording: cannot be judged: it holds no commands."
    said = {"verdict": "unjudged", "reasons": [reason], "checks": [check, *one.metrics["checks"]]}
    page = written(tmp_path, replace(one, metrics={**one.metrics, **said}))
    assert [a["class"] for _, a in page.tags if a.get("role") == "status"] == ["verdict unjudged"]
    assert "Verdict: unjudged" in page.text and reason in page.text and "tells too little" in page.text
    assert "Do not run" not in page.text and "speaks against" not in page.text and "✗ failed" not in page.text
    assert tally(said["checks"]) == "Of 5 checks 3 passed, 2 could not judge."
    assert tally([{**check, "name": "lag"}]) == "Of 1 checks 1 failed."
    assert ".verdict.unjudged" in text_of(tmp_path / "report.html")


def test_every_check_says_why_its_limit_is_what_it_is(tmp_path: Path) -> None:
    text = written(tmp_path, variant("a")).text
    for name, value, reason in [*limits_of("lag"), *limits_of("features")]:
        assert f"{name} {value:g}: {reason}" in text
    assert limits_of("jerk")[0][2] not in text  # there is no such check on this page


def test_a_lag_that_is_not_to_be_believed_is_not_shown_as_one(tmp_path: Path) -> None:
    one = variant("a")
    checks = [{**c, "value": None} if c["name"] == "lag" else c for c in one.metrics["checks"]]
    page = written(tmp_path, replace(one, metrics={**one.metrics, "lag_s": 0.5, "checks": checks}))
    assert "no clear lag" in page.text and "no shift fits clearly" in page.text
    assert "no clear lag" not in written(tmp_path, one).text


def test_ages_by_design_are_said_and_no_measure_for_the_others(tmp_path: Path) -> None:
    page = written(tmp_path, variant("a"))
    assert "it ages by design" in page.text
    row = re.search(r"<tr><th scope=\"row\">joint state</th>(.*?)</tr>", text_of(tmp_path / "report.html"), re.S)
    assert row is not None and "width:76.0px" in row[1]  # the longest of those that are measured against each other


def test_delays_that_were_injected_are_shown(tmp_path: Path) -> None:
    page = written(tmp_path, variant("a"))
    shown = [(attributes["data-metric"], text) for attributes, text in page.metrics]
    assert shown.count(("injected_ms.inference.p99", "33.0")) == 3 and ("injected_ms.inference.p50", "21.5") in shown
    assert "chunks per second, with fresh inputs (asked for: 25)" in page.text


def test_the_list_of_recordings_has_their_verdicts_and_links(tmp_path: Path) -> None:
    checks = [{"name": "lag", "ok": False}, {"name": "jerk", "ok": True}, {"name": "seam", "ok": False}]
    bad, good = {"verdict": "bad", "checks": checks}, {"verdict": "good", "checks": checks[1:2]}
    names = ["the first", "the second"]
    rows = [
        index_row("a b#1", Path("x/a b#1"), names, {**bad, "compare": good}), index_row(HOSTILE, Path(HOSTILE), names[:1], good),
        index_row("c", Path("c.mcap"), names, {"refused": f"it is {HOSTILE}"}),
    ]  # fmt: skip
    assert rows[0].variants == (("the first", "bad", "lag, seam"), ("the second", "good", ""))
    page = Page(write_index(tmp_path / "report.html", rows, "bad").read_text())
    assert next(a["href"] for tag, a in page.tags if tag == "a") == "a%20b%231/report.html"
    assert len([tag for tag, _ in page.tags if tag == "a"]) == 2 and not [tag for tag, _ in page.tags if tag in ("script", "img")]
    assert "1 bad, 1 good, 1 refused" in page.text and f"it is {HOSTILE}" in page.text and "lag, seam" in page.text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    """Names of joints, labels, variants and settings come from files that others made."""
    clean = written(tmp_path, variant("a", "bad"))
    hostile = variant(HOSTILE, "bad", [HOSTILE + joint for joint in JOINTS], label=HOSTILE)
    extra = {"bag": HOSTILE, "problems": [HOSTILE], "reasons": [HOSTILE], "stale": {HOSTILE: 1}, "settings": {HOSTILE: HOSTILE}}
    page = written(tmp_path, replace(hostile, metrics={**hostile.metrics, **extra}, groups={HOSTILE: hostile.traces.joints}))
    own = text_of(tmp_path / "report.html")
    assert "<img" not in own and "<!--" not in own
    assert [tag for tag, _ in page.tags if tag in ("script", "img")] == [tag for tag, _ in clean.tags if tag in ("script", "img")]
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.text.count(HOSTILE) > 20
    assert data_of(tmp_path)["variants"][0]["joints"] == [HOSTILE + joint for joint in JOINTS]


def test_nothing_is_called_not_measured(tmp_path: Path) -> None:
    page = written(tmp_path, empty("a"))
    texts = {attributes["data-metric"]: text for attributes, text in page.metrics}
    assert {texts["error.a"], texts["error.b"], texts["lag_s"], texts["jerk_ratio"], texts["resets"]} == {MISSING}
    assert "nan" not in page.text.lower() and "None" not in re.sub("None was found", "", page.text)
    with pytest.raises(ValueError, match="0 variants"):
        write_report(tmp_path / "none.html", [])


def test_verdict_that_is_missing_is_not_taken_for_good(tmp_path: Path) -> None:
    page = written(tmp_path, replace(empty("a"), metrics={}))
    assert "No verdict was given" in page.text and "Nothing in this recording speaks against" not in page.text


@pytest.mark.parametrize(
    ("value", "scale", "text"),
    [
        (None, 1.0, MISSING), (float("nan"), 1.0, MISSING), (float("inf"), 1.0, MISSING), ([], 1.0, "none"), ("", 1.0, "none"),
        (0, 1.0, "0"),
        (0.0, 1000.0, "0"), (-12, 1.0, "−12"), (123456, 1.0, "123456"), (0.0012349, 1000.0, "1.23"), (-0.0199, 100.0, "−1.99"),
        (9999.6, 1.0, "10000"), (0.99999, 1.0, "1.00"), (1e-9, 1.0, "1.00e−09"), (True, 1.0, "yes"), ("rtc", 1.0, "rtc"),
        ([0.5, None], 1.0, f"0.500, {MISSING}"), ({"a": 1}, 1.0, "a: 1"),
    ],
)  # fmt: skip
def test_how_figures_are_written(value: object, scale: float, text: str) -> None:
    assert shown(value, scale) == text


def test_paths_with_dots_in_names_are_unmistakable() -> None:
    metrics = {"error": {"a.b": 1.0, "a": {"b": 2.0}, "a\\": {"b": 3.0}}}
    assert sorted(dotted(path) for path in leaves(metrics)) == ["error.a.b", "error.a\\.b", "error.a\\\\.b"]
    assert lookup(metrics, ("error", "a.b")) == 1.0
    assert lookup({"checks": [{"value": 5}]}, ("checks", 0, "value")) == 5
    assert lookup({"checks": []}, ("checks", 0, "value")) is None and lookup({"a": "text"}, ("a", 0)) is None


def test_better_and_worse() -> None:
    first = {"error": {"a": 1.0}, "lag_s": -0.1, "frozen": 0.2, "realtime_factor": 3.0, "age_ms": {"x": {"p50": 5.0}}, "ticks": 9}
    here = {"error": {"a": 2.0}, "lag_s": 0.05, "frozen": 1.1, "realtime_factor": 2.0, "age_ms": {"x": {"p50": 5.01}}, "ticks": 8}
    figures = Figures([first, here])
    judged = {dotted(path): figures.compared(path, 1) for path in leaves(first)}
    assert judged == {
        "error.a": "worse", "lag_s": "better", "frozen": "better", "realtime_factor": "worse", "age_ms.x.p50": "equal",
        "ticks": "differs",
    }  # fmt: skip
    assert all(figures.compared(path, 0) == "" for path in leaves(first))
    assert Figures([{"error": {"a": None}}, here]).compared(("error", "a"), 1) == ""


def test_checks_of_two_variants_meet_by_name_and_failures_come_first() -> None:
    one, two = variant("a"), variant("b", "bad")
    shuffled = replace(two, metrics={**two.metrics, "checks": two.metrics["checks"][::-1][1:]})
    rows = check_rows([one, shuffled])
    assert [row.name for row in rows] == ["lag", "joint_order", "frozen", "features"]
    assert [row.places for row in rows] == [(1, 1), (0, 2), (2, 0), (3, None)]


def test_margins() -> None:
    assert margin({"value": 0.03, "limit": 0.06, "ok": True}) == "50 % to spare"
    assert margin({"value": -0.15, "limit": 0.06, "ok": False}) == "150 % beyond"
    assert margin({"name": "frozen", "value": 0.2, "limit": 0.3, "ok": False}) == "33 % beyond"
    assert margin({"name": "frozen", "value": 0.36, "limit": 0.3, "ok": True}) == "20 % to spare"
    assert margin({"name": "error", "value": 2.5, "limit": 2.0, "ok": True}) == "beyond, but excused"
    assert margin({"name": "rate", "value": 0.25, "limit": 0.5, "ok": False}) == "50 % beyond"
    assert margin({"name": "recording", "value": 30, "limit": 10, "ok": False}) == "failed for another reason"
    assert margin({"value": 3.0, "limit": 0.0, "ok": False}) == "3.00 beyond"
    assert margin({"value": 30.0, "limit": 2.0, "ok": False}) == "15.0 times the limit"
    assert margin({"value": None, "limit": 0.3, "ok": True}) == margin({"value": float("inf"), "limit": 1.0, "ok": False}) == ""


def test_packed_numbers_come_back() -> None:
    values = np.array([0.5, np.nan, -1.5, np.inf, 1.5])
    content = packed(values)
    import base64

    whole = np.frombuffer(base64.b64decode(content["data"]), dtype="<i2").astype(np.float64)
    back = np.where(whole == -32768, np.nan, content["low"] + content["step"] * (whole + 32767))
    assert back[[0, 2, 4]] == pytest.approx(values[[0, 2, 4]], abs=3.0 / 65534)
    assert np.isnan(back[[1, 3]]).all()
    assert packed(np.full(3, 0.25))["low"] == 0.25 and packed(np.full(2, np.nan))["step"] == 1.0


def test_traces_are_drawn_where_they_were(tmp_path: Path) -> None:
    one = variant("a")
    content = trace_content(one.traces, ORIGIN)
    assert content["time"][:3] == [0.0, 0.01, 0.02]
    assert content["limited"]["arm.turn"] == [[0.39, 0.59]] and content["limited"]["little"] == []
    assert content["states"][0] == [0.0, 0.05, "inactive"] and content["states"][-1][2] == "fault"
    assert content["faults"] == [[1.8, "tracking"]]
    assert content["ready"][3] is None and content["delay_ms"][4] == 45.0
    assert spans(np.array([True, False, True]), np.array([0.0, 1.0, 2.0])) == [[0.0, 0.0], [1.0, 2.0]]


def test_long_wide_replays_stay_small(tmp_path: Path) -> None:
    one = variant("a")
    rows, joints = 4096, [f"joint_{k}" for k in range(60)]
    wide = np.random.default_rng(0).normal(size=(rows, 60))
    off = np.zeros((rows, 60), dtype=np.bool_)
    traces = replace(
        one.traces, joints=tuple(joints), stamps=ORIGIN + PERIOD * np.arange(rows), recorded=wide, predicted=wide, commanded=wide,
        measured=wide, limited=off, stale=off[:, 0], states=("active",) * rows,
    )  # fmt: skip
    assert step_of([traces, traces]) == 2
    path = write_report(tmp_path / "report.html", [replace(one, traces=traces, groups={})] * 2)
    assert path.stat().st_size < 8.5e6


def test_groups_name_each_joint_once() -> None:
    assert by_group("abcd", {"x": "ba", "y": "ac", "none": "q"}) == {"x": ["a", "b"], "y": ["c"], "joints": ["d"]}


def test_pictures_show_the_worst() -> None:
    moment, blind = variant("a", label="a<b").moments
    assert worst_joints(moment)[0][0] == moment.joint and len(worst_joints(moment)) == 5
    picture = camera_picture(moment)
    assert "data:image/jpeg;base64," in picture and "a&lt;b" in picture and picture.count("<rect") == 1
    assert 'x="5.0" y="8.0" width="35.0" height="42.0"' in picture
    assert camera_picture(blind) == ""
    spike = variant("a").traces
    commanded = spike.commanded.copy()
    commanded[117, 0] = 50.0  # one tick of 200: no thinning may lose it
    drawn = glance([replace(spike, commanded=commanded)], JOINTS[0])
    heights = [float(y) for _, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", str(drawn))]
    assert min(heights) == 4.0 and sorted(heights)[1] > 30.0
