"""Video files, one frame at a time: encoding as LeRobot does (AV1, a key frame every second frame), decoding, joining without loss.

Frame k of a file lies at exactly k / fps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.data.lerobot.frames import DatasetError

KEY_FRAME_EVERY, CRF, PRESET = "2", "30", "12"
LEAST_PIXELS = 64
"""Of either side: what the AV1 encoder takes."""


@cache
def codec() -> str:
    """AV1 where this build of FFmpeg can encode it, else H.264."""
    os.environ.setdefault("SVT_LOG", "1")  # errors only; the encoder otherwise reports its settings for every file
    for name in ("libsvtav1", "libx264"):
        try:
            av.codec.Codec(name, "w")
            return name
        except av.error.FFmpegError:
            continue
    raise DatasetError("this build of PyAV encodes neither AV1 nor H.264; install PyAV's wheel, or use --images png.")


def require_size(camera: str, height: int, width: int) -> None:
    """Raises ``DatasetError`` for images that no video can hold."""
    if height % 2 or width % 2 or min(height, width) < LEAST_PIXELS:
        raise DatasetError(
            f"camera '{camera}' has images of {width}×{height} pixels; videos take even sizes from {LEAST_PIXELS} on. "
            "Use --images png."
        )


@contextmanager
def ordinary_scheduling() -> Iterator[None]:
    """Threads keep, and new ones get, the scheduling that this thread has before.

    SVT-AV1, where it has the right to, puts the whole process under SCHED_FIFO, beside which a robot's control loop would starve.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    known = {int(name): os.sched_getscheduler(int(name)) for name in os.listdir("/proc/self/task")}
    try:
        yield
    finally:
        for thread in map(int, os.listdir("/proc/self/task")):
            with suppress(ProcessLookupError):
                if os.sched_getscheduler(thread) != known.get(thread, policy):
                    os.sched_setscheduler(thread, known.get(thread, policy), parameters)


class VideoWriter:
    """Frames into an MP4; use as a context manager."""

    def __init__(self, path: Path, fps: int, height: int, width: int, threads: int = 0) -> None:
        """``threads`` 0: as many as the encoder likes."""
        name = codec()
        options = {"g": KEY_FRAME_EVERY, "crf": CRF}
        options |= {"preset": PRESET} if name == "libsvtav1" else {}
        if threads:
            options |= {"svtav1-params": f"lp={threads}"} if name == "libsvtav1" else {"threads": str(threads)}
        self._container = av.open(str(path), "w", format="mp4")
        stream: Any = self._container.add_stream(name, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        self._stream, self._base, self._count = stream, Fraction(1, fps), 0

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def add(self, image: NDArray[np.uint8]) -> None:
        """An RGB image (H, W, 3)."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = self._count, self._base
        self._count += 1
        with ordinary_scheduling():  # the encoder starts threads with its first frame, and may start more later
            packets = self._stream.encode(frame)
        self._container.mux(packets)

    def close(self) -> None:
        """What the encoder still holds, and the end of the file."""
        if self._count:
            with ordinary_scheduling():
                packets = self._stream.encode()
            self._container.mux(packets)
            self._count = 0
        self._container.close()


def read_video(path: Path, start_s: float, fps: float, count: int) -> Iterator[NDArray[np.uint8]]:
    """``count`` RGB frames (H, W, 3), those nearest to ``start_s`` + k / fps. Raises ``DatasetError`` for a file without them."""
    done = 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            base = stream.time_base or Fraction(1, 90_000)
            container.seek(max(0, int((start_s - 0.5 / fps) / base)), stream=stream, backward=True)
            for frame in container.decode(stream):
                late = (float((frame.pts or 0) * base) - start_s) * fps - done  # in frames
                if late < -0.5:
                    continue
                if late > 0.5:
                    break
                yield frame.to_ndarray(format="rgb24")
                done += 1
                if done == count:
                    return
    except (av.error.FFmpegError, IndexError) as error:
        raise DatasetError(f"video {path} cannot be read: {error}. Make it again, or leave this episode out.") from error
    raise DatasetError(
        f"video {path} has {done} frames from {start_s:.3f} s on at {fps:g} Hz, expected {count}; it does not belong to its table."
    )


def join(parts: Sequence[tuple[Path, int]], path: Path, fps: int) -> None:
    """The ``parts`` (file, frames) one after the other in ``path``, packets as they are."""
    first = 0
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as output:
        target: Any = None
        for part, frames in parts:
            with av.open(str(part)) as source:
                stream = source.streams.video[0]
                if target is None:
                    target = output.add_stream_from_template(stream, opaque=True)
                    target.time_base = stream.time_base
                base = stream.time_base or Fraction(1, 90_000)
                offset = round(Fraction(first, fps) / base)
                for packet in source.demux(stream):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.pts += offset
                    packet.dts += offset
                    packet.stream = target
                    output.mux(packet)
            first += frames


def describe(path: Path, fps: int) -> dict[str, Any]:
    """``info`` of a video feature, as LeRobot writes it."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return {
            "video.height": stream.height,
            "video.width": stream.width,
            "video.codec": stream.codec.canonical_name,
            "video.pix_fmt": str(stream.pix_fmt),
            "video.is_depth_map": False,
            "video.fps": fps,
            "video.channels": 3,
            "has_audio": False,
        }
