"""The simulated camera of the real-time mode: its own copy of the scene, its own thread, so that no step waits for it.

Software rendering takes several control periods. No messages here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.runtime.types import FloatArray
from flow_policy_ros.sim.robot import AdroitRobot

SceneState = dict[str, FloatArray]


class CameraWorker:
    """Renders the newest scene that was asked for; ``done(image, stamp)`` is called in the worker's thread."""

    def __init__(self, build: Callable[[], AdroitRobot], done: Callable[[NDArray[np.uint8], int], None]) -> None:
        """``build`` makes the copy, in the worker's thread, where its GL context belongs. Raises what it raises."""
        self._done = done
        self._wanted: tuple[SceneState, int] | None = None
        self._condition = threading.Condition()
        self._ended = False
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(build, ready), name="camera", daemon=True)
        self._thread.start()
        ready.result()

    def want(self, scene: SceneState, stamp: int) -> None:
        """Take a picture of ``scene`` as of ``stamp`` (ns); one that has not been begun is replaced."""
        with self._condition:
            self._wanted = (scene, stamp)
            self._condition.notify()

    def close(self) -> None:
        """End the thread and free its GL context."""
        with self._condition:
            self._ended = True
            self._condition.notify()
        self._thread.join(timeout=10.0)

    def _run(self, build: Callable[[], AdroitRobot], ready: Future[None]) -> None:
        try:
            twin = build()
            twin.render()  # the first one makes the context, or says why it cannot
        except Exception as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._wanted is not None or self._ended)
                if self._ended or self._wanted is None:
                    break
                (scene, stamp), self._wanted = self._wanted, None
            twin.set_sim_state(scene)
            self._done(twin.render(), stamp)
        twin.close()
