"""Timed chunks in, positions out: reception, interpolation, ends, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.runtime.timeline import ChunkTimeline
from flow_policy_ros.runtime.types import Chunk

DT = 10


def chunk(stamp: int, points, names=("a", "b"), dt_ns: int = DT) -> Chunk:
    """Joint a follows ``points``, joint b their negative."""
    column = np.array(points, dtype=np.float64)
    return Chunk(stamp, dt_ns, tuple(names), np.stack([column, -column], axis=1))


def timeline() -> ChunkTimeline:
    return ChunkTimeline(("a", "b"))


def joint_a(line: ChunkTimeline, instant: int) -> float | None:
    position = line.sample(instant)
    return None if position is None else float(position[0])


def test_points_are_met_and_lines_lead_between_them() -> None:
    line = timeline()
    line.add(chunk(100, [0.0, 1.0, 3.0]), received=100)
    assert [joint_a(line, t) for t in (100, 105, 110, 115, 120)] == [0.0, 0.5, 1.0, 2.0, 3.0]
    position = line.sample(117)
    assert position is not None
    np.testing.assert_allclose(position, [2.4, -2.4], rtol=1e-15)


def test_nothing_before_reception_and_nothing_beyond_the_last_point() -> None:
    line = timeline()
    assert line.sample(0) is None and line.chunk_age(0) is None
    line.add(chunk(100, [0.0, 1.0, 3.0]), received=112)
    assert joint_a(line, 111) is None
    assert joint_a(line, 112) == pytest.approx(1.4)
    assert joint_a(line, 120) == 3.0
    assert joint_a(line, 121) is None
    assert line.chunk_age(115) == 15


def test_the_newest_visible_chunk_replaces_the_one_before() -> None:
    line = timeline()
    line.add(chunk(100, [0.0] * 6), received=100)
    line.add(chunk(120, [1.0] * 6), received=135)
    assert [joint_a(line, t) for t in (120, 134, 135, 170, 171)] == [0.0, 0.0, 1.0, 1.0, None]


def test_chunks_may_arrive_out_of_order() -> None:
    line = timeline()
    line.add(chunk(120, [1.0] * 6), received=140)
    line.add(chunk(100, [0.0] * 6), received=110)
    assert [joint_a(line, t) for t in (109, 110, 139, 140)] == [None, 0.0, 0.0, 1.0]


def test_a_newer_chunk_of_shorter_span_ends_the_motion_where_it_ends() -> None:
    line = timeline()
    line.add(chunk(100, [0.0] * 10), received=100)
    line.add(chunk(110, [1.0, 1.0]), received=110)
    assert [joint_a(line, t) for t in (109, 115, 120, 121)] == [0.0, 1.0, 1.0, None]


def test_a_chunk_of_the_future_waits_for_its_stamp() -> None:
    line = timeline()
    line.add(chunk(100, [0.0] * 5), received=100)
    line.add(chunk(130, [1.0] * 5), received=110)
    assert [joint_a(line, t) for t in (120, 129, 130)] == [0.0, 0.0, 1.0]
    line.add(chunk(115, [2.0] * 5), received=115)  # and does not shut out what belongs before it
    assert joint_a(line, 120) == 2.0


def test_columns_are_ordered_by_name() -> None:
    line = timeline()
    line.add(chunk(0, [1.0, 1.0], names=("b", "a")), received=0)
    position = line.sample(5)
    assert position is not None and position.tolist() == [-1.0, 1.0]


def test_a_chunk_of_one_point_holds_for_one_instant() -> None:
    line = timeline()
    line.add(chunk(10, [1.0]), received=10)
    assert joint_a(line, 10) == 1.0 and joint_a(line, 11) is None


def test_positions_are_the_callers_own() -> None:
    line = timeline()
    given = chunk(0, [1.0, 1.0])
    line.add(given, received=0)
    given.positions[:] = 7.0
    position = line.sample(0)
    assert position is not None
    position[:] = 9.0
    assert joint_a(line, 0) == 1.0


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
}


@pytest.mark.parametrize(("bad", "kind", "named"), BAD.values(), ids=BAD.keys())
def test_a_bad_chunk_is_refused_and_the_current_one_goes_on(bad, kind, named) -> None:
    line = timeline()
    line.add(chunk(50, [5.0] * 11), received=50)
    with pytest.raises(BadInput) as caught:
        line.add(bad, received=100)
    assert caught.value.kind == kind and named in str(caught.value)
    assert joint_a(line, 110) == 5.0


def test_clear_forgets_everything() -> None:
    line = timeline()
    line.add(chunk(50, [5.0] * 11), received=50)
    line.clear()
    assert line.sample(60) is None
    line.add(chunk(40, [6.0] * 11), received=60)  # an older stamp is new again
    assert joint_a(line, 60) == 6.0


def test_stamps_since_the_epoch_keep_their_nanoseconds() -> None:
    """Seconds as a float would resolve 238 ns here and blur these points."""
    epoch = 1_800_000_000_000_000_001
    line = timeline()
    line.add(chunk(epoch, [0.0, 1.0], dt_ns=100), received=epoch)
    assert [joint_a(line, epoch + k) for k in (0, 25, 100, 101)] == [0.0, 0.25, 1.0, None]
