"""The one thread that samples while the node goes on listening. No messages here.

The policy loop's inputs and its observation are guarded by a lock; sampling, which takes long, runs outside it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from flow_policy_ros.runtime.buffers import Stale
from flow_policy_ros.runtime.latency import NO_LATENCY, Delays
from flow_policy_ros.runtime.parameters import PolicyParameters
from flow_policy_ros.runtime.policy_loop import PolicyLoop
from flow_policy_ros.runtime.types import Chunk, Features, JointState, Plan, Setpoint

WAIT_S = 0.01
"""What became of the last chunk is asked for again after this, since time alone may have ended the wait."""


class PolicyWorker:
    """Samples once per ``want()``; wants that come while it samples make one more sample, as soon as the loop does not wait.

    ``done(product, duration_ms)`` is called in the worker's thread. ``now()`` gives the instant in ns. ``delays`` are added
    to what sampling takes, and chunks that they lose are not passed on; drawn by (``seed``, stamp).
    """

    def __init__(
        self,
        loop: PolicyLoop,
        now: Callable[[], int],
        done: Callable[[Chunk | Stale, float], None],
        delays: Delays = NO_LATENCY,
        seed: int = 0,
    ) -> None:
        self._loop = loop
        self._now = now
        self._done = done
        self._delays = delays
        self._seed = seed
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._news = threading.Event()  # something that the loop may have waited for
        self._ended = threading.Event()
        self._epoch = 0  # of resets: a chunk that was begun before one is dropped
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)
        self._thread.start()

    def on_joint_state(self, joint_state: JointState, received: int | None = None) -> None:
        """As ``PolicyLoop.on_joint_state``."""
        with self._lock:
            self._loop.on_joint_state(joint_state, self._now() if received is None else received)

    def on_features(self, features: Features, received: int | None = None) -> None:
        """As ``PolicyLoop.on_features``."""
        with self._lock:
            self._loop.on_features(features, self._now() if received is None else received)

    def on_setpoint(self, setpoint: Setpoint, received: int | None = None) -> None:
        """As ``PolicyLoop.on_setpoint``."""
        with self._lock:
            self._loop.on_setpoint(setpoint, self._now() if received is None else received)

    def on_plan(self, plan: Plan, received: int | None = None) -> None:
        """As ``PolicyLoop.on_plan``."""
        with self._lock:
            self._loop.on_plan(plan, self._now() if received is None else received)
        self._news.set()

    def instruct(self, instruction: str, received: int) -> tuple[Features, ...]:
        """As ``PolicyLoop.instruct``; what it was read as. Sampling goes on while it is read."""
        said = self._loop.read(instruction, received)
        with self._lock:
            self._loop.obey(instruction, said, received)
        return said

    def update(self, parameters: PolicyParameters) -> None:
        """As ``PolicyLoop.update``."""
        with self._lock:
            self._loop.update(parameters)

    def reset(self) -> None:
        """As ``PolicyLoop.reset``; a sample under way is not published."""
        with self._lock:
            self._loop.reset()
            self._epoch += 1
        self._news.set()

    def alive(self) -> bool:
        """False once sampling has failed with an error, whose traceback is on standard error."""
        return self._thread.is_alive()

    def want(self) -> None:
        """Sample as soon as possible."""
        self._wanted.set()

    def close(self) -> None:
        """End the thread, after the sample under way."""
        self._ended.set()
        self._wanted.set()
        self._news.set()
        self._thread.join(timeout=10.0)

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            while not self._ended.is_set() and self._waiting():
                self._news.wait(timeout=WAIT_S)
            if self._ended.is_set():
                return
            start = time.perf_counter()
            with self._lock:
                epoch = self._epoch
                request = self._loop.observe(self._now())
            product = request if isinstance(request, Stale) else self._loop.infer(request)
            lost = isinstance(product, Chunk) and self._disturbed(product)
            with self._lock:
                if epoch != self._epoch or self._ended.is_set():
                    continue
                if isinstance(product, Chunk):
                    product = self._loop.finish(product)
                    self._loop.occupy(self._now())
            if not lost:
                self._done(product, (time.perf_counter() - start) * 1e3)

    def _waiting(self) -> bool:
        with self._lock:
            self._news.clear()
            return self._loop.waiting(self._now())

    def _disturbed(self, chunk: Chunk) -> bool:
        """Let the injected delay of a chunk pass, during which the policy is busy; whether the chunk gets lost then."""
        self._ended.wait(self._delays.delay("inference", chunk.stamp, self._seed) / 1e9)
        return self._delays.dropped("inference", chunk.stamp, self._seed)
