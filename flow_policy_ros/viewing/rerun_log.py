"""Snapshots for the Rerun viewer (package rerun-sdk, which is optional): the same as on the page.

Rows are sent in portions, a column for each joint: a call of their library for each number would cost a core.
"""

from __future__ import annotations

from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from flow_policy_ros.viewing.pictures import Shelf
from flow_policy_ros.viewing.snapshot import Picture, Prediction, Row, Scene, Snapshot

INSTALL = "pip install rerun-sdk"
TIMELINE = "robot"
"""Name of the timeline: the robot's stamps."""
PORTION_NS = 500_000_000
EPOCH_NS = 100_000_000_000_000_000
"""Stamps below are a simulation's seconds, above an instant of the calendar."""
LEVELS = {"fault": "ERROR", "error": "ERROR", "warning": "WARN", "refused": "WARN"}


class RerunMissing(ValueError):
    """The package rerun-sdk is not here, or too old."""


def require_rerun() -> Any:
    """The module ``rerun``. Raises ``RerunMissing``."""
    if find_spec("rerun") is None:
        raise RerunMissing(f"--rerun and --rerun-out need the Python package rerun-sdk, which is missing: {INSTALL}.")
    import rerun

    if not hasattr(rerun, "Scalars") or not hasattr(rerun, "set_time"):
        raise RerunMissing(f"the package rerun-sdk is version {rerun.__version__}, expected 0.23 or newer: {INSTALL}.")
    return rerun


class RerunLog:
    """A ``Sink``. Starts the viewer, or writes the file ``out``; as a context manager, at whose end all is sent."""

    def __init__(self, shelf: Shelf, out: Path | None = None) -> None:
        """Raises ``RerunMissing``, or ``ValueError`` when the viewer does not start."""
        self._rr = rr = require_rerun()
        self._shelf = shelf
        self._stream = rr.RecordingStream("flow_policy_view")
        try:
            if out is not None:
                self._stream.save(str(out))
            else:
                self._stream.spawn()
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"Rerun cannot be started: {error}. Use --rerun-out FILE.rrd, and open the file elsewhere.") from error
        self._joints: tuple[str, ...] = ()
        self._rows: dict[str, list[Row]] = {"measured": [], "executed": [], "predicted": []}
        self._scalars: dict[str, list[tuple[int, float]]] = {}
        self._prediction: tuple[int, Prediction] | None = None
        self._picture = -1
        self._sent = 0
        self._calendar = True

    def __enter__(self) -> RerunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._prediction is not None:
            self._follow(*self._prediction, None)
        self._send()
        self._stream.flush()
        self._stream.disconnect()

    def show(self, scene: Scene, shot: Snapshot) -> None:
        """As in ``Sink``."""
        if scene.joints != self._joints:
            if not self._joints:
                self._calendar = shot.stamp > EPOCH_NS
            self._joints = scene.joints
            self._style(scene)
        self._rows["measured"] += shot.measured
        self._rows["executed"] += shot.executed
        if shot.prediction is not None:
            if self._prediction is not None:
                self._follow(*self._prediction, shot.stamp)
            self._prediction = (shot.stamp, shot.prediction)
        for name, value in vars(shot.delays).items():
            if value is not None:
                self._scalars.setdefault(f"delays/{name}_ms", []).append((shot.stamp, value))
        for event in shot.events:
            self._at(event.stamp)
            self._stream.log("events", self._rr.TextLog(f"{event.kind}: {event.text}", level=LEVELS.get(event.kind, "INFO")))
        if shot.picture is not None and shot.picture.number != self._picture:
            self._show_picture(shot.picture)
        if shot.guard.state:
            self._at(shot.stamp)
            text = f"**{shot.guard.state}**\n\n{shot.guard.message}"
            self._stream.log("guard", self._rr.TextDocument(text, media_type="text/markdown"))
        if shot.stamp - self._sent >= PORTION_NS:
            self._sent = shot.stamp
            self._send()

    def _follow(self, since: int, prediction: Prediction, until: int | None) -> None:
        """What a chunk predicts for the time from its own coming until the next one's: what a robot without limits would do."""
        for time, position in zip(prediction.times_ns, prediction.positions, strict=True):
            stamp = prediction.stamp + time
            if stamp >= since and (until is None or stamp < until):
                self._rows["predicted"].append(Row(stamp, position))

    def _show_picture(self, picture: Picture) -> None:
        data = self._shelf.get(picture.number)
        if data is None:
            return
        self._picture = picture.number
        self._at(picture.stamp)
        self._stream.log("camera", self._rr.EncodedImage(contents=data, media_type="image/jpeg"))
        high, wide = jpeg_size(data)
        size = np.array([wide, high])
        boxes = np.array([d.box for d in picture.detections], dtype=np.float64).reshape(-1, 4)
        labels = [f"{d.label} {d.score:.2f}" for d in picture.detections]
        found = self._rr.Boxes2D(centers=boxes[:, :2] * size, sizes=boxes[:, 2:] * size, labels=labels)
        self._stream.log("camera/detections", found)

    def _send(self) -> None:
        for kind, rows in self._rows.items():
            for column, joint in enumerate(self._joints):
                pairs = [(row.stamp, row.position[column]) for row in rows if column < len(row.position)]
                self._columns(f"joints/{joint}/{kind}", [(stamp, value) for stamp, value in pairs if np.isfinite(value)])
            rows.clear()
        for name, pairs in self._scalars.items():
            self._columns(name, pairs)
        self._scalars.clear()

    def _columns(self, path: str, pairs: list[tuple[int, float]]) -> None:
        if not pairs:
            return
        stamps, values = np.array([p[0] for p in pairs], dtype=np.int64), np.array([p[1] for p in pairs], dtype=np.float64)
        rr, calendar = self._rr, self._calendar
        when = {"timestamp": stamps.astype("datetime64[ns]")} if calendar else {"duration": stamps.astype("timedelta64[ns]")}
        self._stream.send_columns(path, [rr.TimeColumn(TIMELINE, **when)], rr.Scalars.columns(scalars=values))

    def _at(self, stamp: int) -> None:
        if self._calendar:
            self._stream.set_time(TIMELINE, timestamp=np.datetime64(stamp, "ns"))
        else:
            self._stream.set_time(TIMELINE, duration=np.timedelta64(stamp, "ns"))

    def _style(self, scene: Scene) -> None:
        """Colours of the page, and a view for each group of joints."""
        rr, blueprint = self._rr, self._rr.blueprint
        colours = {"measured": [21, 101, 192], "executed": [207, 63, 18], "predicted": [142, 36, 170]}
        for joint in scene.joints:
            for kind, colour in colours.items():
                line = rr.SeriesLines(colors=[colour], names=[f"{joint} {kind}"])
                self._stream.log(f"joints/{joint}/{kind}", line, static=True)
        views = [blueprint.TimeSeriesView(origin=f"/joints/{joint}", name=joint) for joint in scene.joints]
        side = blueprint.Vertical(
            blueprint.Spatial2DView(origin="/camera", name="camera"),
            blueprint.TextDocumentView(origin="/guard", name="guard"),
            blueprint.TextLogView(origin="/events", name="events"),
        )
        right = blueprint.Vertical(
            blueprint.Grid(*views, name="joints"), blueprint.TimeSeriesView(origin="/delays", name="delays / ms"), row_shares=[4, 1]
        )
        self._stream.send_blueprint(blueprint.Blueprint(blueprint.Horizontal(side, right, column_shares=[1, 3])))


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Height and width of a JPEG, from its head."""
    with Image.open(BytesIO(data)) as picture:
        wide, high = picture.size
    return high, wide
