"""Timed chunks in, the one to follow out: reception, order, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.runtime.timeline import MAX_FUTURE_NS, MAX_POINTS, ChunkTimeline
from flow_policy_ros.runtime.types import Chunk

DT = 10


def chunk(stamp: int, points, names=("a", "b"), dt_ns: int = DT) -> Chunk:
    """Joint a follows ``points``, joint b their negative."""
    column = np.array(points, dtype=np.float64)
    return Chunk(stamp, dt_ns, tuple(names), np.stack([column, -column], axis=1))


def timeline() -> ChunkTimeline:
    return ChunkTimeline(("a", "b"))


def stamp_at(line: ChunkTimeline, instant: int) -> int | None:
    """Stamp of the chunk to follow."""
    newest = line.newest(instant)
    return None if newest is None else newest.stamp


def test_a_chunk_is_visible_from_its_reception_on() -> None:
    line = timeline()
    assert line.newest(0) is None and line.chunk_age(0) is None
    line.add(chunk(100, [0.0, 1.0, 3.0]), received=112)
    assert line.newest(111) is None and line.chunk_age(111) is None
    assert stamp_at(line, 112) == 100 and line.chunk_age(115) == 15
    # How long it is followed is not decided here: it stays the newest.
    assert stamp_at(line, 1000) == 100 and line.chunk_age(1000) == 900


def test_the_newest_visible_chunk_replaces_the_one_before() -> None:
    line = timeline()
    line.add(chunk(100, [0.0] * 6), received=100)
    line.add(chunk(120, [1.0] * 6), received=135)
    assert [stamp_at(line, t) for t in (99, 120, 134, 135, 171)] == [None, 100, 100, 120, 120]


def test_chunks_may_arrive_out_of_order() -> None:
    line = timeline()
    line.add(chunk(120, [1.0] * 6), received=140)
    line.add(chunk(100, [0.0] * 6), received=110)
    assert [stamp_at(line, t) for t in (109, 110, 139, 140)] == [None, 100, 100, 120]


def test_a_chunk_of_the_same_stamp_replaces_the_one_before() -> None:
    line = timeline()
    line.add(chunk(100, [0.0] * 6), received=100)
    line.add(chunk(100, [1.0] * 6), received=105)
    newest = line.newest(110)
    assert newest is not None and newest.positions[0, 0] == 1.0


def test_a_chunk_of_the_future_waits_for_its_stamp() -> None:
    line = timeline()
    line.add(chunk(100, [0.0] * 5), received=100)
    line.add(chunk(130, [1.0] * 5), received=110)
    assert [stamp_at(line, t) for t in (120, 129, 130)] == [100, 100, 130]
    line.add(chunk(115, [2.0] * 5), received=115)  # and does not shut out what belongs before it
    assert stamp_at(line, 120) == 115


def test_columns_are_ordered_by_name_and_the_rest_is_kept() -> None:
    line = timeline()
    given = replace(chunk(0, [1.0, 2.0], names=("b", "a")), nfe=7, seed=3, observation_stamps={"joint_state": 0})
    line.add(given, received=0)
    newest = line.newest(5)
    assert newest is not None and newest.names == ("a", "b")
    assert newest.positions.tolist() == [[-1.0, 1.0], [-2.0, 2.0]]
    assert (newest.stamp, newest.dt_ns, newest.nfe, newest.seed) == (0, DT, 7, 3)
    assert newest.observation_stamps == {"joint_state": 0}


def test_positions_are_its_own() -> None:
    line = timeline()
    given = chunk(0, [1.0, 1.0])
    line.add(given, received=0)
    given.positions[:] = 7.0
    newest = line.newest(0)
    assert newest is not None and newest.positions[0, 0] == 1.0


def test_a_chunk_of_one_point_and_one_of_the_most_are_taken() -> None:
    line = timeline()
    line.add(chunk(10, [1.0]), received=10)
    assert stamp_at(line, 10) == 10
    line.add(chunk(20, [1.0] * MAX_POINTS), received=20)
    assert stamp_at(line, 20) == 20


GOOD = chunk(100, [0.0, 1.0])
BAD = {
    "nan": (replace(GOOD, positions=np.array([[0.0, 0.0], [0.0, np.nan]])), "chunk_not_finite", "['b']"),
    "inf": (replace(GOOD, positions=np.full((2, 2), np.inf)), "chunk_not_finite", "['a', 'b']"),
    "missing": (Chunk(100, DT, ("a",), np.zeros((2, 1))), "chunk_names", "missing ['b']"),
    "duplicated": (Chunk(100, DT, ("a", "b", "b"), np.zeros((2, 3))), "chunk_names", "duplicated ['b']"),
    "stranger": (Chunk(100, DT, ("a", "b", "c"), np.zeros((2, 3))), "chunk_names", "['c']"),
    "wrong width": (replace(GOOD, positions=np.zeros((2, 3))), "chunk_shape", "(2, 3)"),
    "one axis": (replace(GOOD, positions=np.zeros(2)), "chunk_shape", "(2,)"),
    "three axes": (replace(GOOD, positions=np.zeros((2, 2, 2))), "chunk_shape", "(2, 2, 2)"),
    "no points": (replace(GOOD, positions=np.zeros((0, 2))), "chunk_shape", "(0, 2)"),
    "dt zero": (replace(GOOD, dt_ns=0), "chunk_dt", "0 ns"),
    "dt negative": (replace(GOOD, dt_ns=-5), "chunk_dt", "-5 ns"),
    "older": (chunk(40, [0.0] * 20), "chunk_order", "50 ns"),
    "late": (chunk(60, [0.0, 1.0]), "chunk_late", "last point"),
    "long": (chunk(100, [0.0] * (MAX_POINTS + 1)), "chunk_shape", f"at most {MAX_POINTS}"),
    "future": (chunk(101 + MAX_FUTURE_NS, [0.0, 1.0]), "chunk_future", "1.000 s in the future"),
    "overflow": (chunk(100, [1e308, -1e308]), "chunk_range", "1.0e+308"),
}


@pytest.mark.parametrize(("bad", "kind", "named"), BAD.values(), ids=BAD.keys())
def test_a_bad_chunk_is_refused_and_the_current_one_goes_on(bad, kind, named) -> None:
    line = timeline()
    line.add(chunk(50, [5.0] * 11), received=50)
    with pytest.raises(BadInput) as caught:
        line.add(bad, received=100)
    assert caught.value.kind == kind and named in str(caught.value)
    assert stamp_at(line, 110) == 50


def test_the_present_chunk_is_taken_up_to_its_last_point_and_as_far_ahead_as_clocks_may_differ() -> None:
    line = timeline()
    line.add(chunk(90, [0.0, 1.0]), received=100)
    assert stamp_at(line, 100) == 90
    line.add(chunk(100 + MAX_FUTURE_NS, [0.0, 1.0]), received=100)
    assert stamp_at(line, 100 + MAX_FUTURE_NS) == 100 + MAX_FUTURE_NS


def test_clear_forgets_everything() -> None:
    line = timeline()
    line.add(chunk(50, [5.0] * 11), received=50)
    line.clear()
    assert line.newest(60) is None and line.chunk_age(60) is None
    line.add(chunk(40, [6.0] * 11), received=60)  # an older stamp is new again
    assert stamp_at(line, 60) == 40


def test_stamps_since_the_epoch_keep_their_nanoseconds() -> None:
    """Seconds as a float would resolve 238 ns here and blur these."""
    epoch = 1_800_000_000_000_000_001
    line = timeline()
    line.add(chunk(epoch, [0.0, 1.0], dt_ns=100), received=epoch + 3)
    assert [stamp_at(line, epoch + k) for k in (2, 3)] == [None, epoch]
    assert line.chunk_age(epoch + 101) == 101
