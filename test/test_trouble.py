"""What is wrong now and then is said where it begins and where it is over, and counted in between."""

from __future__ import annotations

from collections.abc import Sequence

from flow_policy_ros.runtime.trouble import APART_S, SETTLED_S, Trouble


def lines(trouble: Trouble, run: Sequence[tuple[float, str | None]]) -> list[tuple[float, str]]:
    """What is said of (instant, reason or None where all is well)."""
    said = []
    for now, reason in run:
        text = trouble.wrong(reason, now) if reason is not None else (f"over: {came}" if (came := trouble.well(now)) else None)
        if text is not None:
            said.append((now, text))
    return said


def test_one_that_stays_is_one_line_and_its_end_another() -> None:
    run = [(0.1 * k, f"the state is {k} ms old") for k in range(300)] + [(30.0 + 0.5 * k, None) for k in range(10)]
    assert lines(Trouble(), run) == [(0.0, "the state is 0 ms old"), (30.0 + SETTLED_S, "over: 1")]


def test_one_that_comes_and_goes_is_said_every_ten_seconds_with_a_count() -> None:
    run = [(k / 20, f"{k} ms old" if k % 2 else None) for k in range(1, 20 * 25)]
    said = lines(trouble := Trouble(), run)
    assert [text.split("(")[-1] for _, text in said] == ["1 ms old", "100 times more in 10 s)", "100 times more in 10 s)"]
    assert [now for now, _ in said] == [0.05, 0.05 + APART_S, 0.05 + 2 * APART_S]
    assert trouble.text() == "499 ms old (250 times)" and not trouble.well(25.0)
    assert trouble.text() == "499 ms old (250 times, gone for the moment)"
    assert trouble.well(25.0 + SETTLED_S) == 250 and trouble.text() is None and not trouble.well(40.0)
    assert trouble.wrong("500 ms old", 41.0) == "500 ms old", "it was over: this is another"


def test_another_reason_is_said_at_once_and_each_once() -> None:
    run = [(0.1 * k, ("no image", "no joint state", None)[k % 3]) for k in range(60)]
    assert [text for _, text in lines(Trouble(), run)] == ["no image", "no joint state"]
