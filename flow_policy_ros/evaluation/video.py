"""The pictures of a run as one video: a strip with episode, guard state and success under each camera frame.

Writes H.264 in an mp4 that browsers play, or a GIF where no encoder is installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from flow_policy_ros.evaluation.record import EpisodeRecord

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
WIDTH = 512  # of the picture, pixels
STRIP = 44  # height of the strip, pixels
HOLD_S = 1.0  # how long the last frame of an episode stays
STATE_COLOURS = {
    "inactive": "#9e9e9e", "starting": "#42a5f5", "active": "#2e7d32",
    "stopping": "#f9a825", "holding": "#ef6c00", "fault": "#c62828",
}  # fmt: skip
UNKNOWN_COLOUR = "#616161"


def write_video(folder: Path, records: Sequence[EpisodeRecord]) -> Path | None:
    """Write ``video.mp4`` (or ``video.gif``) into ``folder``; None when the episodes hold no frames."""
    if not any(record.frames for record in records):
        return None
    rate = frame_rate(records)
    try:
        import imageio_ffmpeg

        return _write_mp4(imageio_ffmpeg, folder / "video.mp4", _pictures(records, rate), rate)
    except (ImportError, RuntimeError, OSError):  # not installed, no encoder on this machine, or the encoder failed
        (folder / "video.mp4").unlink(missing_ok=True)
    return _write_gif(folder / "video.gif", _pictures(records, rate), rate)


def frame_rate(records: Sequence[EpisodeRecord]) -> float:
    """Frames per second of simulated time: the median over all intervals, within what players accept."""
    intervals = [b[0] - a[0] for record in records for a, b in pairwise(record.frames)]
    median_ns = float(np.median(intervals)) if intervals else 1e8
    return float(np.clip(1e9 / max(median_ns, 1.0), 1.0, 60.0))


def annotate(record: EpisodeRecord, number: int, of: int, stamp: int, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The RGB frame (H, W, 3) enlarged to ``WIDTH``, above a strip that says what it shows; even numbers of pixels."""
    height = round(frame.shape[0] * WIDTH / frame.shape[1] / 2) * 2
    canvas = Image.new("RGB", (WIDTH, height + STRIP), "#10141a")
    canvas.paste(Image.fromarray(frame).resize((WIDTH, height), Image.Resampling.LANCZOS), (0, 0))
    draw = ImageDraw.Draw(canvas)
    large, small = ImageFont.load_default(17), ImageFont.load_default(13)
    first = int(record.stamps[0]) if len(record.stamps) else stamp
    draw.text((12, height + 4), f"episode {number} of {of}", "white", large)
    draw.text((12, height + 25), f"seed {record.seed}    {(stamp - first) / 1e9:.2f} s", "#b0bec5", small)
    state = state_at(record, stamp)
    _badge(draw, height, 300, state, STATE_COLOURS.get(state, UNKNOWN_COLOUR), small)
    solved = record.success and stamp >= (record.success_stamp or _last_stamp(record))
    if solved:
        _badge(draw, height, WIDTH - 12, "SUCCESS", "#2e7d32", large)
        draw.rectangle((0, 0, WIDTH - 1, height - 1), outline="#43a047", width=4)
    elif not record.success and stamp >= _last_stamp(record):
        _badge(draw, height, WIDTH - 12, "FAILED", "#c62828", large)
    return np.asarray(canvas, dtype=np.uint8)


def state_at(record: EpisodeRecord, stamp: int) -> str:
    """The guard's state at the tick of ``stamp`` or the last one before it."""
    index = int(np.searchsorted(record.stamps, stamp, side="right")) - 1
    return record.states[index] if 0 <= index < len(record.states) else "unknown"


def _last_stamp(record: EpisodeRecord) -> int:
    return record.frames[-1][0]


def _badge(draw: ImageDraw.ImageDraw, top: int, right: int, text: str, colour: str, font: Font) -> None:
    width = round(draw.textlength(text, font))
    draw.rounded_rectangle((right - width - 20, top + 8, right, top + STRIP - 8), 6, fill=colour)
    draw.text((right - width - 10, top + STRIP // 2), text, "white", font, anchor="lm")


def _pictures(records: Sequence[EpisodeRecord], rate: float) -> Iterator[NDArray[np.uint8]]:
    size: tuple[int, ...] | None = None
    for number, record in enumerate(records, start=1):
        for stamp, frame in record.frames:
            picture = annotate(record, number, len(records), stamp, frame)
            size = size or picture.shape
            if picture.shape == size:  # a camera changed in mid-run cannot be in the same video
                yield picture
        for _ in range(round(HOLD_S * rate) if record.frames and picture.shape == size else 0):
            yield picture


def _write_mp4(encoder: object, path: Path, pictures: Iterator[NDArray[np.uint8]], rate: float) -> Path:
    first = next(pictures)
    size = (first.shape[1], first.shape[0])
    # yuv420p and the index at the front are what browsers ask for
    writer = encoder.write_frames(  # type: ignore[attr-defined]
        str(path), size, fps=rate, codec="libx264", pix_fmt_out="yuv420p", macro_block_size=2,
        output_params=["-crf", "23", "-preset", "veryfast", "-movflags", "+faststart", "-threads", "1"],
        ffmpeg_log_level="error",
    )  # fmt: skip
    writer.send(None)
    try:
        writer.send(first.tobytes())
        for picture in pictures:
            writer.send(np.ascontiguousarray(picture).tobytes())
    finally:
        writer.close()
    if not path.is_file() or path.stat().st_size == 0:
        raise OSError(f"the encoder wrote nothing to {path}")
    return path


def _write_gif(path: Path, pictures: Iterator[NDArray[np.uint8]], rate: float) -> Path:
    images = [Image.fromarray(picture).quantize(96) for picture in pictures]
    images[0].save(path, save_all=True, append_images=images[1:], duration=round(1000 / rate), loop=0)
    return path
