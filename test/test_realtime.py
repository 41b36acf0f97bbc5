"""What a control process asks for: granted or refused in words, never silently; and no collector on the control path."""

from __future__ import annotations

import gc
import mmap
import os
import resource
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from flow_policy_ros.runtime.parameters import CommandParameters
from flow_policy_ros.runtime.realtime import Granted, QuietCollector, request, resident_mb
from flow_policy_ros.runtime.robot import load_robot
from flow_policy_ros.safety.command_loop import CommandLoop
from flow_policy_ros.safety.rehearsal import Rehearsal

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="SCHED_FIFO and mlockall are Linux's")
NOBODY = 65534
# In a process of its own, since none of it can be taken back: with threads, as the middleware has them.
ASK = """
import os, sys, threading, time
from flow_policy_ros.runtime.realtime import request
threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
if sys.argv[1] == "nobody":
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
granted = request(int(sys.argv[2]), sys.argv[3] == "lock")
policies = sorted(os.sched_getparam(int(t)).sched_priority for t in os.listdir("/proc/self/task"))
locked = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmLck")][0]
print(granted); print(policies); print(int(locked) > 0); print("\\n".join(granted.refusals))
"""


def ask(user: str, priority: int, memory: str) -> list[str]:
    source = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", ASK, user, str(priority), memory],
        env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


@linux
def test_what_was_granted_is_what_the_kernel_says() -> None:
    said, priorities, locked, *refusals = ask("self", 7, "lock")
    text = " ".join(refusals)
    if "SCHED_FIFO 7," in said:
        assert priorities == "[6, 7]" and "SCHED_FIFO" not in text  # the control thread is above all others
    else:
        assert priorities == "[0, 0]" and "SCHED_FIFO 7 was not granted" in text
    assert ("memory locked" in said) == (locked == "True") == ("locked memory was not granted" not in text)


@linux
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody without rights")
def test_without_rights_both_are_refused_with_the_remedy_and_nothing_changes() -> None:
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] == resource.RLIM_INFINITY:
        pytest.skip("everybody may lock memory here")
    if resource.getrlimit(resource.RLIMIT_RTPRIO)[1] != 0:
        pytest.skip("everybody may use SCHED_FIFO here")
    said, priorities, locked, *refusals = ask("nobody", 7, "lock")
    assert said == "ordinary scheduling, memory not locked" and priorities == "[0, 0]" and locked == "False"
    assert len(refusals) == 2
    assert "rtprio" in refusals[0] and "CAP_SYS_NICE" in refusals[0] and "--cap-add=SYS_NICE" in refusals[0]
    assert "memlock" in refusals[1] and "CAP_IPC_LOCK" in refusals[1] and "the limit is" in refusals[1]


@linux
def test_who_does_not_ask_gets_nothing_and_no_words() -> None:
    assert request(0, lock_memory=False) == Granted(None, False, ())
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_garbage_is_collected_after_ticks_and_at_no_other_time() -> None:
    class Node:
        pass

    def cycle() -> weakref.ref[Node]:
        node = Node()
        node.itself = node  # type: ignore[attr-defined]
        return weakref.ref(node)

    collector = QuietCollector(young_every=3, all_every=1000)
    collector.begin()
    try:
        garbage = cycle()
        busy = [[k] for k in range(20_000)]  # enough for an automatic collection, were there any
        assert garbage() is not None and len(busy) == 20_000
        for _ in range(2):
            collector.after_tick()
            assert garbage() is not None
        collector.after_tick()
        assert garbage() is None
    finally:
        collector.end()
    assert gc.isenabled()


def test_a_cycle_that_outlived_a_young_collection_is_collected_with_everything() -> None:
    class Node:
        pass

    collector = QuietCollector(young_every=1, all_every=3)
    collector.begin()
    try:
        node = Node()
        node.itself = node  # type: ignore[attr-defined]
        reference = weakref.ref(node)
        collector.after_tick()  # no longer young
        del node
        collector.after_tick()
        assert reference() is not None
        collector.after_tick()
        assert reference() is None
    finally:
        collector.end()


def test_collections_need_an_interval() -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        QuietCollector(0, 1)


@linux
def test_resident_memory_grows_with_what_is_touched() -> None:
    with mmap.mmap(-1, 40_000_000) as memory:  # an allocator may hand out pages that are resident already
        before = resident_mb(os.getpid())
        memory[:: mmap.PAGESIZE] = b"1" * len(range(0, 40_000_000, mmap.PAGESIZE))
        assert resident_mb(os.getpid()) - before > 30.0


@pytest.mark.parametrize("name", ["adroit_relocate", "adroit_door"])
def test_a_rehearsal_does_what_a_tick_does_and_touches_nothing_of_the_loop(root: Path, name: str) -> None:
    robot = load_robot(root / "config" / "robots" / f"{name}.yaml")
    parameters = CommandParameters(rate_hz=500.0, soft_start_s=1.0, autostart=False, deadman="bool", first_command_max=0.001)
    loop = CommandLoop(robot, parameters)
    rehearsal = Rehearsal(robot, parameters)
    for _ in range(1000):  # longer than the motion that it follows
        rehearsal.run()
        assert rehearsal.follows
    assert loop.statistics() == CommandLoop(robot, parameters).statistics()
