"""Many recordings: one after the other, in parallel processes, or on a cluster through Ray. What is done with one is ``run``'s.

There is no scheduler here: ``concurrent.futures`` and Ray have theirs. A recording is never shared between processes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any

import torch

from flow_policy_ros.evaluation.replay.run import Job, Progress, run_job
from flow_policy_ros.evaluation.replay.stack import ReplayError

Done = tuple[Job, dict[str, Any]]
LISTEN_S = 0.2
"""How often the progress of the processes is asked for."""

_tell: Progress = lambda seconds: None  # noqa: E731  # of this process; set when it begins


def run_here(jobs: Sequence[Job], progress: Progress) -> Iterator[Done]:
    """One after the other in this process, as they are done."""
    for job in jobs:
        yield job, run_job(job, progress)


def run_in_processes(jobs: Sequence[Job], processes: int, progress: Progress) -> Iterator[Done]:
    """In ``processes`` processes of one thread each, as they are done. Ends them all when it is given up."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes: numpy reads it when it is imported
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(queue,))
    waiting: dict[Future[dict[str, Any]], Job] = {}
    try:
        waiting = {pool.submit(_work, job): job for job in jobs}
        while waiting:
            finished, _ = wait(waiting, timeout=LISTEN_S, return_when=FIRST_COMPLETED)
            while not queue.empty():
                progress(queue.get())
            for future in finished:
                yield waiting.pop(future), future.result()
    except BrokenProcessPool as error:
        raise ReplayError(
            "a process that replayed a recording was killed, perhaps for want of memory; use fewer --jobs."
        ) from error
    finally:
        for process in list((pool._processes or {}).values()) if waiting else ():
            process.terminate()  # a replay that nobody waits for would go on to its end
        pool.shutdown(wait=not waiting, cancel_futures=True)


def run_on_ray(jobs: Sequence[Job], address: str) -> Iterator[Done]:
    """As tasks of one core each on the Ray cluster at ``address`` (``local``: on this machine), as they are done.

    Recordings, checkpoints and output folder have to be where they are here, on every machine. Raises ``ReplayError`` without Ray
    or cluster.
    """
    try:
        import ray  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise ReplayError(
            "--ray needs the Python package 'ray', which is not installed: run 'pip install ray' on every machine of the cluster, "
            "or leave --ray out and use --jobs."
        ) from error
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address == "local" else None)
    except ConnectionError as error:
        raise ReplayError(
            f"--ray {address}: there is no Ray cluster ({error}). Start one with 'ray start --head', or use --ray local."
        ) from error
    try:
        task = ray.remote(num_cpus=1, max_retries=0)(_alone)
        # Its workers may run in another folder.
        waiting = {task.remote(replace(job, bag=job.bag.absolute(), out=job.out.absolute())): job for job in jobs}
        while waiting:
            finished, _ = ray.wait(list(waiting), num_returns=1)
            for reference in finished:
                yield waiting.pop(reference), ray.get(reference)
    finally:
        ray.shutdown()


def _begin(queue: Any) -> None:
    """In a new process: whoever started it decides on interruptions, and there is one thread for each process."""
    global _tell
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _tell = queue.put


def _work(job: Job) -> dict[str, Any]:
    return run_job(job, _tell)


def _alone(job: Job) -> dict[str, Any]:
    torch.set_num_threads(1)
    return run_job(job)


