"""What a control process asks of the operating system, and what it was granted: scheduling, locked memory, no collector in the way.

Linux only; elsewhere everything is refused in words. Which process asks for what is the node's to decide.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
"""Of mlockall(2). On fault: what is touched stays; what is only reserved (8 MB of stack per thread) is not filled."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of mallopt(3): freed memory is kept for the next array, instead of being given back and faulted in anew."""
KEPT_BYTES = 64 << 20
CAP_IPC_LOCK = 14
PRIORITY_REMEDY = (
    "Give the user 'rtprio 98' in /etc/security/limits.conf and log in again, or the process the capability CAP_SYS_NICE "
    "(container: --cap-add=SYS_NICE --ulimit rtprio=98)."
)
MEMORY_REMEDY = (
    "Give the user 'memlock unlimited' in /etc/security/limits.conf and log in again, or the process the capability "
    "CAP_IPC_LOCK (container: --cap-add=IPC_LOCK --ulimit memlock=-1)."
)


@dataclass(frozen=True)
class Granted:
    """``fifo`` is the priority under SCHED_FIFO, None without; ``locked`` whether memory stays resident.

    ``refusals``: what was asked for and not granted, a sentence each, with the remedy.
    """

    fifo: int | None
    locked: bool
    refusals: tuple[str, ...] = ()

    def __str__(self) -> str:
        """What was granted, in one line for a log or diagnostics."""
        scheduling = "ordinary scheduling" if self.fifo is None else f"SCHED_FIFO {self.fifo}"
        return f"{scheduling}, memory {'locked' if self.locked else 'not locked'}"


def request(priority: int, lock_memory: bool) -> Granted:
    """Ask for SCHED_FIFO at ``priority`` (1 to 99; 0: do not ask) for every thread there is, and for locked memory.

    Call it from the control thread, when the middleware's threads run. They get one less, but at least 1: the control thread
    waits for locks that they hold, and no ordinary process may come between. Threads that are started later inherit.
    """
    refusals = []
    fifo = None
    if priority > 0:
        problem = _schedule(priority)
        fifo = priority if problem is None else None
        refusals += [] if problem is None else [f"SCHED_FIFO {priority} was not granted: {problem} {PRIORITY_REMEDY}"]
    locked = False
    if lock_memory:
        problem = _lock()
        locked = problem is None
        refusals += [] if problem is None else [f"locked memory was not granted: {problem} {MEMORY_REMEDY}"]
    return Granted(fifo, locked, tuple(refusals))


def _schedule(priority: int) -> str | None:
    """Why not; None when it was granted."""
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} has no SCHED_FIFO."
    here = threading.get_native_id()
    others = [int(task.name) for task in Path("/proc/self/task").iterdir() if int(task.name) != here]
    try:
        os.sched_setscheduler(here, os.SCHED_FIFO, os.sched_param(priority))
        for thread in others:
            try:
                os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(max(1, priority - 1)))
            except ProcessLookupError:  # it has ended meanwhile
                continue
    except OSError as error:
        return f"{error.strerror}."
    return None


def _lock() -> str | None:
    """Why not; None when it was granted."""
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} has no mlockall."
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if not _has_capability(CAP_IPC_LOCK):
        if hard != resource.RLIM_INFINITY:
            # Locked up to a limit, the process would be refused memory later, in the middle of its work.
            return f"the limit is {hard // 1024} kB."
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0:
        return f"{os.strerror(ctypes.get_errno())}."
    if hasattr(libc, "mallopt"):  # glibc
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_MMAP_MAX, 0)
    return None


def _has_capability(number: int) -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> number & 1)


class QuietCollector:
    """Garbage collection when there is time for it: right after a tick's publication, and never at another moment.

    What there is at ``begin`` is taken as permanent, so that what is left to look through is small: every ``young_every``
    ticks what is young, every ``all_every`` ticks everything since ``begin``, for cycles that outlived a young collection.
    """

    def __init__(self, young_every: int, all_every: int) -> None:
        """Both in ticks, at least 1."""
        if young_every < 1 or all_every < 1:
            raise ValueError(f"collections every {young_every} and {all_every} ticks, expected at least 1.")
        self._young_every, self._all_every = young_every, all_every
        self._ticks = 0

    def begin(self) -> None:
        """Collect everything once, keep the rest out of later collections, and switch the automatic ones off."""
        gc.collect()
        gc.freeze()
        gc.disable()
        self._ticks = 0

    def after_tick(self) -> None:
        """To be called when a tick's work is done."""
        self._ticks += 1
        if self._ticks % self._all_every == 0:
            gc.collect()
        elif self._ticks % self._young_every == 0:
            gc.collect(0)

    @staticmethod
    def end() -> None:
        """Automatic collections again, of everything."""
        gc.unfreeze()
        gc.enable()


def wait_until(instant: int) -> None:
    """Return at ``instant`` (``time.monotonic_ns``), without sleep: for what is left when one was woken a little ahead."""
    while time.monotonic_ns() < instant:
        pass


def resident_mb(pid: int) -> float:
    """Resident memory of a process in MB (10^6 bytes), from /proc. Raises ``OSError`` when there is no such process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6
