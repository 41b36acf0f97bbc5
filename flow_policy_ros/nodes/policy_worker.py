"""The one thread that samples while the node goes on listening. No messages here.

The policy loop's inputs and its observation are guarded by a lock; sampling, which takes long, runs outside it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from flow_policy_ros.runtime.buffers import Stale
from flow_policy_ros.runtime.parameters import PolicyParameters
from flow_policy_ros.runtime.policy_loop import PolicyLoop
from flow_policy_ros.runtime.types import Chunk, Features, JointState


class PolicyWorker:
    """Samples once per ``want()``; wants that come while it samples make one more sample, at once afterwards.

    ``done(product, duration_ms)`` is called in the worker's thread. ``now()`` gives the instant in ns.
    """

    def __init__(self, loop: PolicyLoop, now: Callable[[], int], done: Callable[[Chunk | Stale, float], None]) -> None:
        self._loop = loop
        self._now = now
        self._done = done
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._ended = False
        self._epoch = 0  # of resets: a chunk that was begun before one is dropped
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)
        self._thread.start()

    def on_joint_state(self, joint_state: JointState, received: int) -> None:
        """As ``PolicyLoop.on_joint_state``."""
        with self._lock:
            self._loop.on_joint_state(joint_state, received)

    def on_features(self, features: Features, received: int) -> None:
        """As ``PolicyLoop.on_features``."""
        with self._lock:
            self._loop.on_features(features, received)

    def update(self, parameters: PolicyParameters) -> None:
        """As ``PolicyLoop.update``."""
        with self._lock:
            self._loop.update(parameters)

    def reset(self) -> None:
        """As ``PolicyLoop.reset``; a sample under way is not published."""
        with self._lock:
            self._loop.reset()
            self._epoch += 1

    def alive(self) -> bool:
        """False once sampling has failed with an error, whose traceback is on standard error."""
        return self._thread.is_alive()

    def want(self) -> None:
        """Sample as soon as possible."""
        self._wanted.set()

    def close(self) -> None:
        """End the thread, after the sample under way."""
        self._ended = True
        self._wanted.set()
        self._thread.join(timeout=10.0)

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._ended:
                return
            start = time.perf_counter()
            with self._lock:
                epoch = self._epoch
                observation = self._loop.observe(self._now())
            product = observation if isinstance(observation, Stale) else self._loop.infer(observation)
            if epoch == self._epoch and not self._ended:
                self._done(product, (time.perf_counter() - start) * 1e3)
