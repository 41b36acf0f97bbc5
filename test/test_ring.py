"""The flight recorder's memory: bounded whatever comes, in order, nothing given to the reader twice or lost in silence."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest

from flow_policy_ros.data.ring import OVERHEAD, Kept, Lanes, Ring

S = 1_000_000_000


def kept(at: int, size: int = 100, source: str = "a") -> Kept:
    return Kept(at, source, at + 7, bytes(size), at + 5, at % 1000)


def test_what_is_older_than_the_window_goes() -> None:
    ring = Ring(10 * S, 10**9)
    for k in range(30):
        ring.put(kept(k * S))
    assert ring.count == 11 and ring.span == 10 * S and not ring.short
    assert ring.oldest is not None and ring.oldest.at == 19 * S


def test_memory_is_bounded_by_the_budget() -> None:
    budget = 50 * (1000 + OVERHEAD)
    ring = Ring(1000 * S, budget)
    for k in range(200):
        ring.put(kept(k * S, 1000))
        assert ring.size <= budget
    assert ring.count == 50 and ring.short
    ring.put(kept(200 * S, 2 * budget))  # larger than all there is room for
    assert ring.count == 0 and ring.size == 0


def test_the_budget_is_what_python_needs() -> None:
    """Of a message with all that is around it, as a robot's come: every number another object."""
    generator = np.random.default_rng(0)
    stamps = [int(x) for x in generator.integers(10**18, 2 * 10**18, 60_000)]
    gc.collect()
    tracemalloc.start()
    ring = Ring(4 * 10**18, 10**9)
    for k in range(20_000):
        one, two, three = (stamps[3 * k + i] + 1 for i in range(3))
        ring.put(Kept(one, "source", two, generator.bytes(90 + k % 20), three, 1000 + k))
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert ring.count == 20_000
    assert taken <= ring.size <= 2 * taken, f"{taken / 20_000:.0f} bytes a message, reckoned with {ring.size / 20_000:.0f}"


@pytest.mark.parametrize("seed", range(20))
def test_a_reader_gets_each_message_once_in_order_or_it_is_counted(seed: int) -> None:
    generator = np.random.default_rng(seed)
    budget = int(generator.integers(20, 400)) * (100 + OVERHEAD)
    ring = Ring(int(generator.integers(5, 80)) * S, budget)
    at, got, reading, first, missed = 0, [], False, 0, 0
    for _ in range(600):
        action = generator.random()
        if action < 0.8:
            at += int(generator.integers(1, 2 * S))
            ring.put(kept(at, int(generator.integers(0, 400))))
            assert ring.size <= budget
        elif not reading:
            ring.begin(at)
            first, got, reading = ring.count, [], True
            put_at_begin = at
            oldest = None if ring.oldest is None else ring.oldest.at
        elif action < 0.95:
            before = at - int(generator.integers(0, 3 * S))
            items = ring.read(before)
            assert all(k.at < before for k in items)
            got += items
            assert ring.size <= budget
        else:
            got += ring.read(at + 1)
            missed = ring.end()
            reading = False
            numbers = [k.at for k in got]
            assert numbers == sorted(set(numbers))
            assert not numbers or oldest is None or numbers[0] >= oldest
            if missed == 0 and first:
                assert numbers[0] == oldest and numbers[-1] == at >= put_at_begin


def test_what_is_awaited_does_not_grow_old_and_what_had_to_go_is_counted() -> None:
    ring = Ring(3 * S, 10**6)
    for k in range(4):
        ring.put(kept(k * S))
    ring.begin(3 * S)
    for k in range(4, 20):
        ring.put(kept(k * S))
    assert [k.at // S for k in ring.read(100 * S)] == list(range(20))
    assert ring.end() == 0
    ring.put(kept(20 * S))
    assert ring.count == 4

    small = Ring(100 * S, 10 * (100 + OVERHEAD))
    for k in range(10):
        small.put(kept(k * S))
    small.begin(9 * S)
    assert len(small.read(4 * S)) == 4
    for k in range(10, 20):
        small.put(kept(k * S))
    rest = [k.at // S for k in small.read(100 * S)]
    missed = small.end()
    assert missed > 0 and rest == list(range(4 + missed, 20))


def test_pictures_do_not_shorten_what_is_small() -> None:
    lanes = Lanes(60 * S, 20_000_000)
    for k in range(6000):
        lanes.put(kept(k * S // 100), large=False)
        if k % 10 == 0:
            lanes.put(kept(k * S // 100, 900_000), large=True)
        assert lanes.size <= 20_000_000
    assert lanes.small.span > 59 * S and not lanes.small.short
    assert lanes.large.short and lanes.large.count == 15
    lanes.resize(10 * S, 20_000_000)
    lanes.put(kept(60 * S), large=False)
    assert lanes.small.span == 10 * S


def test_lanes_are_read_in_the_order_of_arrival() -> None:
    lanes = Lanes(60 * S, 20_000_000)
    for k in range(100):
        lanes.put(kept(k), large=k % 3 == 0)
    assert lanes.begin(100) == []
    assert [k.at for k in lanes.read(50)] == list(range(50))
    assert [k.at for k in lanes.read(1000)] == list(range(50, 100))
    assert lanes.end() == 0


def test_what_was_told_once_outlives_the_window() -> None:
    lanes = Lanes(10 * S, 1_000_000)
    lanes.put(kept(0), False, ("info", b"1"))
    lanes.put(kept(1 * S), False, ("info", b"2"))
    lanes.put(kept(2 * S, 60_000), False, ("map", b"1"))  # more than may stand
    for k in range(3, 30):
        lanes.put(kept(k * S), False)
    lanes.put(kept(30 * S), False, ("info", b"2"))
    assert [k.at for k in lanes.begin(30 * S)] == [0], "the newer one is within the window"
    lanes.end()
    for k in range(10_000):
        lanes.put(kept(30 * S + k), False, ("other", str(k)))
        assert lanes.size <= 1_000_000


def test_a_camera_that_has_died_does_not_leave_old_pictures() -> None:
    """What grows old leaves, also when nothing more of its kind comes, or nothing at all."""
    lanes = Lanes(10 * S, 1_000_000)
    lanes.put(kept(0), True, ("latched picture", b""))
    lanes.put(kept(1 * S), True)
    lanes.put(kept(10 * S), False)
    assert lanes.large.count == 2
    lanes.put(kept(20 * S), False)
    assert lanes.large.count == 0 and lanes.small.count == 2
    assert [k.at for k in lanes.begin(25 * S)] == [0] and lanes.read(100 * S) == [kept(20 * S)]
    lanes.end()
    assert [k.at for k in lanes.begin(90 * S)] == [0] and lanes.read(100 * S) == []


def test_what_stands_and_is_still_within_its_own_ring_is_not_told_twice() -> None:
    lanes = Lanes(10 * S, 1_000_000)
    lanes.put(kept(0, 100_000), True, ("picture", b""))
    for k in range(1, 9):
        lanes.put(kept(k * S, 40_000), False)  # more than the small ring holds
    assert lanes.small.short and lanes.small.oldest is not None and lanes.small.oldest.at > 0
    lanes.put(kept(9 * S, 10_000), True, ("picture", b"2"))
    assert lanes.begin(9 * S) == []
