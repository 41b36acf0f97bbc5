"""What the policy looks at, for people: the attention of its action tokens, drawn on the camera images that they read.

Of a chunk just made, with its observation and its noise: one evaluation of the network more, in a thread that comes last, and only
while somebody looks. Nothing of it goes into a chunk, and no chunk waits for it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from flow_policy_ros.policy.attended import Patches, heats, patches_of
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.ros import qos
from flow_policy_ros.ros.diagnostics import latency_values
from flow_policy_ros.ros.images import encoded_from_message, image_to_message
from flow_policy_ros.ros.messages import from_time
from flow_policy_ros.runtime.contract import FRAMES
from flow_policy_ros.runtime.latency_tracker import LatencyTracker
from flow_policy_ros.runtime.policy_loop import SampleRequest
from flow_policy_ros.runtime.robot import Camera, Robot
from flow_policy_ros.runtime.stream_cameras import cameras_of
from flow_policy_ros.runtime.types import EncodedImage, Observation
from flow_policy_ros.vision.decode import decode
from flow_policy_ros.vision.heat_map import Box, draw_attention, scale_of

TOPIC = "policy/attention"
EVERY_S = 1.0
"""From the beginning of one map to that of the next, at least."""
NICE = 10
KEPT_IMAGES = 8
"""Of each camera: when a chunk is made of an image, newer ones have come already."""


class PolicyAttention:
    """Publishes ``policy/attention``, an image of the first stream whose tokens lie in one; of others ``policy/attention_STREAM``.

    Where ``policy`` looks at no image that could be drawn on there is no topic, and ``report`` says why. ``told`` is what feature
    streams say of themselves (``PolicyInputs.told``). ``attend`` belongs to the thread that spins the node, ``chunk_made`` to the
    one that samples.
    """

    def __init__(self, node: Node, policy: FlowPolicy, robot: Robot, told: Mapping[str, Mapping[str, Any]]) -> None:
        self._node, self._policy, self._told = node, policy, told
        self._cameras = cameras_of(policy.contract, robot)
        self._problem = ""
        self._patches: tuple[Patches, ...] = ()
        try:
            self._patches = tuple(patches for patches in patches_of(policy) if patches.stream.name in self._cameras)
        except ValueError as error:
            self._problem = str(error)
        names = [TOPIC, *(f"{TOPIC}_{patches.stream.name}" for patches in self._patches[1:])]
        self._publishers = [node.create_publisher(Image, name, qos.IMAGE) for name in names[: len(self._patches)]]
        self._subscriptions: list[Subscription] = []
        self._images: dict[str, deque[tuple[int, EncodedImage]]] = {}  # by camera, with their stamps
        self._watched = False
        self._begun = time.monotonic() - EVERY_S
        self._durations = LatencyTracker()
        self._request: SampleRequest | None = None
        self._arrived = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="attention", daemon=True)
        if self._patches:
            self._thread.start()

    def attend(self) -> None:
        """See whether somebody looks; to be called now and then. Cameras whose images are needed are listened to only then."""
        self._watched = any(publisher.get_subscription_count() for publisher in self._publishers)
        if self._watched and not self._subscriptions:
            cameras = [self._cameras[patches.stream.name] for patches in self._patches if _apart(patches)]
            self._subscriptions = [self._listen(camera) for camera in dict.fromkeys(cameras)]
        elif self._subscriptions and not self._watched:
            for subscription in self._subscriptions:
                self._node.destroy_subscription(subscription)
            self._subscriptions = []
            self._images = {}

    def chunk_made(self, request: SampleRequest) -> None:
        """A chunk was sampled from ``request``. It is noted, unless it comes too soon after the last one that was drawn."""
        if self._watched and time.monotonic() - self._begun >= EVERY_S:
            with self._arrived:
                self._request = request
                self._arrived.notify()

    def report(self) -> dict[str, object]:
        """For the diagnostics."""
        state = (self._problem or "drawn") if self._watched or not self._patches else "nobody looks"
        if self._patches and not self._ended and not self._thread.is_alive():
            state = "failed with an error (see the node's output); restart the node to see it again."
        return {"attention": state, **latency_values("attention_ms", self._durations)}

    def close(self) -> None:
        """End the thread, after the map that it makes."""
        with self._arrived:
            self._ended = True
            self._arrived.notify()
        if self._patches:
            self._thread.join(timeout=10.0)

    def _listen(self, camera: Camera) -> Subscription:
        images = self._images.setdefault(camera.name, deque(maxlen=KEPT_IMAGES))
        kind = CompressedImage if camera.topic.endswith("compressed") else Image
        return self._node.create_subscription(kind, camera.topic, partial(_keep, images), qos.image_reader(lockstep=False))

    def _run(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: self._request is not None or self._ended)
                if self._ended:
                    return
                request, self._request = self._request, None
            assert request is not None
            self._begun = time.monotonic()
            try:
                self._draw(request)
            except ValueError as error:  # an image that cannot be read among them
                self._problem = str(error)

    def _draw(self, request: SampleRequest) -> None:
        policy, observation = self._policy, request.observation
        conditioning = policy.remembered(observation)
        if conditioning is None:
            return
        found = heats(policy, conditioning, policy.noise(observation.stamp, request.seed), self._patches)
        self._durations.add((time.monotonic() - self._begun) * 1e3)
        top = max(float(heat.max()) for heat in found)  # one scale, so that images of several cameras can be compared
        problem = ""
        for patches, heat, publisher in zip(self._patches, found, self._publishers, strict=True):
            picture = self._picture(patches, observation)
            if picture is None:
                camera = self._cameras[patches.stream.name]
                problem = f"no image of camera '{camera.name}' on topic {camera.topic} has come since somebody looks."
                continue
            image, stamp = picture
            drawn = draw_attention(image, heat, scale_of(image), top, self._covered(patches))
            publisher.publish(image_to_message(drawn, stamp, self._cameras[patches.stream.name].name))
        self._problem = problem

    def _picture(self, patches: Patches, observation: Observation) -> tuple[NDArray[np.uint8], int] | None:
        """The image that the tokens were made of, or the newest of its camera where that one was not kept; with its stamp."""
        stream = patches.stream
        stamp = observation.stamps.get(stream.name, observation.stamp)
        if not _apart(patches):
            return observation.features[stream.name].reshape(stream.tokens, -1, 3), stamp
        images = list(self._images.get(self._cameras[stream.name].name, ()))
        if not images:
            return None
        stamp, image = next((kept for kept in images if kept[0] == stamp), images[-1])
        return decode(image), stamp

    def _covered(self, patches: Patches) -> Box | None:
        """What the extractor says of itself comes before what the checkpoint tells. Nonsense counts for nothing."""
        told: Any = self._told.get(patches.stream.name, {}).get("covered")
        try:
            left, top, right, bottom = (float(edge) for edge in told)
        except (TypeError, ValueError):
            return patches.covered
        sound = np.isfinite((left, top, right, bottom)).all() and right > left and bottom > top
        return (left, top, right, bottom) if sound else patches.covered


def _apart(patches: Patches) -> bool:
    """Whether the images come by a topic of their own, and not with the observation."""
    return patches.stream.kind != FRAMES


def _keep(images: deque[tuple[int, EncodedImage]], message: Image | CompressedImage) -> None:
    images.append((from_time(message.header.stamp), encoded_from_message(message)))
