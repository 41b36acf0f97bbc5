"""The cameras that a policy looks at itself: images in, frames of the contract's size out. No messages here.

A vision-language model's keys and values fit on no topic, so the policy's process runs the prefix itself, here in a thread of its
own: sampling is never held up by an image, and an image never by a chunk that is being sampled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from flow_policy_ros.ros.diagnostics import latency_values
from flow_policy_ros.runtime.contract import FRAMES, Contract, ContractError
from flow_policy_ros.runtime.joint_order import BadInput
from flow_policy_ros.runtime.latency import NO_LATENCY, Delays
from flow_policy_ros.runtime.latency_tracker import LatencyTracker
from flow_policy_ros.runtime.policy_loop import ContinuingPolicy, InstructedPolicy
from flow_policy_ros.runtime.robot import Camera, Robot
from flow_policy_ros.runtime.types import EncodedImage, Features
from flow_policy_ros.vision.decode import ImageError
from flow_policy_ros.vision.extractors import picture
from flow_policy_ros.vision.frames import FrameFeatures
from flow_policy_ros.vision.pretrained import ExtractorError


@runtime_checkable
class LookingPolicy(ContinuingPolicy, InstructedPolicy, Protocol):
    """A policy that can look at images before a chunk asks for what it sees in them (``FlowPolicy``)."""

    def look(self, frames: Mapping[str, Features], prompt: Features) -> None: ...


@dataclass(frozen=True)
class View:
    """One stream of frames: which ``camera`` it shows, and what makes its frames."""

    camera: Camera
    frames: FrameFeatures

    def frame(self, image: EncodedImage, stamp: int) -> Features:
        """The picture as the policy sees it, with the image's ``stamp``. Raises ``ImageError`` and ``ExtractorError``."""
        return self.frames.extract(picture(image), stamp)


def views(contract: Contract, robot: Robot) -> dict[str, View]:
    """What the policy looks at, by stream. Raises ``ContractError`` for a camera that the robot does not have."""
    cameras = {camera.name: camera for camera in robot.cameras}
    result = {}
    for stream in contract.of_kind(FRAMES):
        name = str(stream.extractor.get("camera", ""))
        if name not in cameras:
            raise ContractError(
                f"the checkpoint looks at camera '{name}' (stream '{stream.name}'), but robot file {robot.path} has "
                f"{', '.join(cameras) or 'no camera'}; add it under robot.cameras, with the name that it had in training."
            )
        height, width = (int(n) for n in stream.extractor["size"])
        seen = cameras[name].height, cameras[name].width
        result[stream.name] = View(cameras[name], FrameFeatures((height, width), name, stream.name, seen))
    return result


class InlineSight:
    """Makes a frame of every image at once, in the caller's thread, and gives it to ``give``: lockstep. The prefix is computed
    when a chunk needs it.

    ``problems`` says of streams why their newest image cannot be used; ``refuse(kind, error)`` is told each time.
    """

    def __init__(
        self, views: Mapping[str, View], give: Callable[[Features], None], refuse: Callable[[str, Exception], None]
    ) -> None:
        self.problems: dict[str, str] = {}
        self._views = dict(views)
        self._give = give
        self._refuse = refuse
        self._images = 0

    def on_image(self, stream: str, image: EncodedImage, stamp: int) -> None:
        """An image came. Raises what ``give`` raises."""
        self._images += 1
        frame = self._frame(stream, image, stamp)
        if frame is not None:
            self._give(frame)

    def on_prompt(self, prompt: Features) -> None:
        """Nothing: images are not read before a chunk needs them."""

    def report(self) -> dict[str, object]:
        """For the diagnostics."""
        return {"images": self._images} if self._views else {}

    def alive(self) -> bool:
        """See ``Sight``."""
        return True

    def close(self) -> None:
        """Nothing was begun."""

    def _frame(self, stream: str, image: EncodedImage, stamp: int) -> Features | None:
        view = self._views[stream]
        try:
            frame = view.frame(image, stamp)
        except (ImageError, ExtractorError) as error:
            self._refuse(type(error).__name__, error)
            self.problems[stream] = f"{error} The camera is '{view.camera.name}' on topic {view.camera.topic}."
            return None
        self.problems.pop(stream, None)
        return frame


class Sight(InlineSight):
    """Looks, in a thread of its own, at the newest image of each of ``views``; older ones that still wait are dropped.

    What was seen goes to ``give`` once ``policy`` has its prefix, so that a chunk finds it ready; None where more than images and
    prompt is needed, which is then computed with the chunk. ``delays`` may lose frames, drawn
    by (``seed``, stamp).
    """

    def __init__(
        self,
        policy: LookingPolicy | None,
        views: Mapping[str, View],
        give: Callable[[Features], None],
        refuse: Callable[[str, Exception], None],
        delays: Delays = NO_LATENCY,
        seed: int = 0,
    ) -> None:
        super().__init__(views, give, refuse)
        self._durations = LatencyTracker()
        self._dropped = self._lost = 0
        self._policy = policy
        self._delays, self._seed = delays, seed
        self._pending: dict[str, tuple[EncodedImage, int]] = {}
        self._prompt: Features | None = None
        self._frames: dict[str, Features] = {}  # the newest of each
        self._arrived = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="sight", daemon=True)
        self._thread.start()

    def on_image(self, stream: str, image: EncodedImage, stamp: int) -> None:
        """An image came; it must stay as it is."""
        with self._arrived:
            self._images += 1
            self._dropped += stream in self._pending
            self._pending[stream] = (image, stamp)
            self._arrived.notify()

    def on_prompt(self, prompt: Features) -> None:
        """Read this with the images that come from now on."""
        with self._arrived:
            self._prompt = prompt

    def report(self) -> dict[str, object]:
        """For the diagnostics."""
        lost = {"lost_by_injection": self._lost} if self._lost else {}
        return {"images": self._images, "dropped": self._dropped, **lost, **latency_values("prefix_ms", self._durations)}

    def alive(self) -> bool:
        """False once looking has failed with an error, whose traceback is on standard error."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End the thread, after the image that it is looking at."""
        with self._arrived:
            self._ended = True
            self._arrived.notify()
        self._thread.join(timeout=10.0)

    def _run(self) -> None:
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: self._pending or self._ended)
                if self._ended:
                    return
                stream = next(iter(self._pending))  # who waits longest: a fast camera does not hide a slow one
                image, stamp = self._pending.pop(stream)
            start = time.perf_counter()
            frame = self._frame(stream, image, stamp)
            if frame is None:
                continue
            try:
                self._look(frame)
                self._durations.add((time.perf_counter() - start) * 1e3)
                self._hand_on(frame)
            except (ContractError, ExtractorError, BadInput) as error:
                self._refuse(type(error).__name__, error)
                self.problems[stream] = str(error)

    def _look(self, frame: Features) -> None:
        with self._arrived:
            self._frames[frame.stream] = frame
            frames, prompt = dict(self._frames), self._prompt
        if self._policy is not None and prompt is not None and len(frames) == len(self._views):
            self._policy.look(frames, prompt)

    def _hand_on(self, frame: Features) -> None:
        if self._delays.dropped("perception", frame.stamp, self._seed):
            self._lost += 1
        else:
            self._give(frame)
