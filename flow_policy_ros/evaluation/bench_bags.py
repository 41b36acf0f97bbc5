"""The recordings that benchmarks are made on: an episode of the simulated robot, made long by repetition; with raw images too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from flow_policy_ros.data.bag_messages import IMAGES
from flow_policy_ros.data.bags import messages
from flow_policy_ros.data.bags.definitions import standard_types
from flow_policy_ros.data.bags.open import open_bag
from flow_policy_ros.data.bags.repeat import repeat
from flow_policy_ros.data.bags.rosbag2_writer import Rosbag2Writer
from flow_policy_ros.evaluation.bag import write_bag
from flow_policy_ros.evaluation.closed_loop import run_episode
from flow_policy_ros.evaluation.record import Recorder
from flow_policy_ros.evaluation.setup import load, select
from flow_policy_ros.sim.robot import AdroitRobot
from flow_policy_ros.vision.decode import decode

SEED = 5000


def record_states(out: Path, task: str, seed: int = SEED, ticks: int = 200) -> Path:
    """An episode of the shipped state policy as the new bag ``out``: joint states, object state, set-points and chunks."""
    loaded = load(select(task, "state", None, None, None, policy_seed=seed), "none")
    robot = AdroitRobot(task, loaded.robot)
    recorder = Recorder(robot)
    result = run_episode(robot, loaded.stack, seed, 0, ticks, recorder)
    write_bag(out, replace(recorder.record(result), frames=[]), task, loaded.robot)
    return out


def with_raw_images(source: Path, out: Path) -> Path:
    """The recording ``source`` as the new bag ``out``, its compressed images as plain ``rgb8`` ones under the topic's base name."""
    bag = open_bag(source)
    kinds = standard_types().types
    with Rosbag2Writer(out, "none") as written:
        for message in bag.messages():
            topic = bag.topics[message.topic]
            if topic.type != messages.COMPRESSED_IMAGE:
                written.put(message.topic, topic.type, message.received, bytes(message.data))
                continue
            content = bag.decode(message)
            pixels = decode(IMAGES[topic.type](content))
            height, width, _ = pixels.shape
            image = kinds[messages.IMAGE](
                header=content.header, height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width,
                data=np.ascontiguousarray(pixels).ravel(),
            )  # fmt: skip
            data = bytes(standard_types().serialize_cdr(image, messages.IMAGE))
            written.put(message.topic.removesuffix("/compressed"), messages.IMAGE, message.received, data)
    bag.close()
    return out


def long_bag(source: Path, out: Path, seconds: float = 0.0, size: int = 0, compression: str = "zstd") -> Path:
    """``source`` repeated (see ``repeat``)."""
    bag = open_bag(source)
    try:
        return repeat(bag, out, seconds, size, compression)
    finally:
        bag.close()


def bytes_of(bag: Path) -> int:
    """Of its files, on the disk."""
    return sum(file.stat().st_size for file in bag.iterdir()) if bag.is_dir() else bag.stat().st_size
