"""Depth image and camera_info to a 3D position for each patch of an image (SYSTEMS.md 3, the LLaVA-3D line).

Numbers only: positions come out as arrays with a mask. The module that adds them to patch features is
``models.patch_positions``; decoding of depth messages is ``vision.decode``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
Positions = tuple[NDArray[np.float32], NDArray[np.bool_]]

COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}
ITERATIONS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-9)
ORIGIN = np.zeros(3)
LEAST_VALID = 0.1
"""Of a patch's pixels, the share that must have a depth for the patch to have a position."""


class DepthError(ValueError):
    """Depth or a camera description that cannot be used, or depth that is missing; the message names it and the remedy."""


@dataclass(frozen=True)
class Intrinsics:
    """How a camera projects: ``camera_matrix`` (3, 3) in pixels of an image ``width`` by ``height``, distortion by ``model``.

    Source of models and of the order of ``distortion``: sensor_msgs/CameraInfo, OpenCV. Raises ``DepthError`` for others.
    """

    width: int
    height: int
    camera_matrix: NDArray[np.float64]
    model: str = "plumb_bob"
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        matrix = np.asarray(self.camera_matrix)
        if self.width < 1 or self.height < 1:
            raise DepthError(f"camera_info says {self.width} by {self.height} pixels, expected the image's size; fill it in.")
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
            raise DepthError(
                f"camera_info has K = {matrix.tolist()}, expected a 3x3 matrix with focal lengths above 0: the camera is not "
                "calibrated. Calibrate it, or correct what its driver publishes."
            )
        if not any(self.distortion):
            return
        if self.model not in COEFFICIENTS:
            raise DepthError(
                f"camera_info has the distortion model '{self.model}', expected one of {', '.join(COEFFICIENTS)} (or none at all). "
                "Rectify the images (image_proc) and give the rectified topic's camera_info."
            )
        if len(self.distortion) not in COEFFICIENTS[self.model]:
            raise DepthError(
                f"camera_info has {len(self.distortion)} coefficients of '{self.model}', expected {COEFFICIENTS[self.model]}."
            )

    def scaled(self, width: int, height: int) -> Intrinsics:
        """The same camera's, for its whole image in another resolution. Raises ``DepthError`` for another shape of image."""
        x, y = width / self.width, height / self.height
        if abs(width - y * self.width) > 1.0:
            raise DepthError(
                f"depth image has {width} by {height} pixels and camera_info {self.width} by {self.height}: not the same picture "
                "in another resolution. Use the depth aligned to the colour camera, with that topic's camera_info."
            )
        scale = np.diag([x, y, 1.0])
        shift = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1.0]])  # pixel centres lie at whole numbers, edges half a pixel off
        matrix = shift @ scale @ np.linalg.inv(shift) @ self.camera_matrix
        return replace(self, width=width, height=height, camera_matrix=matrix)

    def rays(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Directions (n, 3) with z = 1 through pixels (n, 2) (x, y), undistorted; NaN where the model has no inverse there."""
        points = np.asarray(pixels, dtype=np.float64).reshape(-1, 1, 2)
        matrix, coefficients = self.camera_matrix, np.array(self.distortion)
        ones = np.ones((len(points), 1))
        if not coefficients.any():
            return np.concatenate([points[:, 0], ones], axis=1) @ np.linalg.inv(matrix).T
        if self.model == "equidistant":
            flat = cv2.fisheye.undistortPoints(points, matrix, coefficients)[:, 0]
            back = cv2.fisheye.distortPoints(flat[:, None], matrix, coefficients)[:, 0]
        else:
            # OpenCV 4 takes the number of iterations in a function of its own, 5 in the general one.
            invert = getattr(cv2, "undistortPointsIter", None) or partial(cv2.undistortPoints, dst=None)
            flat = invert(points, matrix, coefficients, R=None, P=None, criteria=ITERATIONS)[:, 0]
            back = cv2.projectPoints(np.concatenate([flat, ones], axis=1), ORIGIN, ORIGIN, matrix, coefficients)[0][:, 0]
        # The polynomials turn back far outside: such a pixel has no ray, rather than a wrong one.
        found = np.abs(back - points[:, 0]).max(axis=1) < 0.5
        return np.where(found[:, None], np.concatenate([flat, ones], axis=1), np.nan)


def intrinsics(
    width: int,
    height: int,
    k: Sequence[float],
    d: Sequence[float],
    model: str,
    binning: tuple[int, int] = (0, 0),
    roi: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> Intrinsics:
    """From the fields of a sensor_msgs/CameraInfo: K (9), D, ``binning`` (x, y), ``roi`` (x offset, y offset, width, height).

    Raises ``DepthError``; a cut-out or binned image is refused, as its K speaks of the whole one.
    """
    whole = roi in ((0, 0, 0, 0), (0, 0, width, height))
    if max(binning) > 1 or not whole:
        raise DepthError(
            f"camera_info has binning {binning} and region {roi}, expected the whole sensor (binning 0 or 1, no region). Let the "
            "driver send whole images, or give the camera_info of the image as it is."
        )
    return Intrinsics(width, height, np.array(k, dtype=np.float64).reshape(-1, 3), model, tuple(float(c) for c in d))


def metres(depth: NDArray[np.generic], scale: float | None = None, near: float = 0.02, far: float = 20.0) -> NDArray[np.float64]:
    """Depth (H, W) in metres, NaN where it is unknown: zero, negative, not finite, or out of ``near`` to ``far`` (m).

    ``scale`` is metres per unit; where it is not given, whole numbers are millimetres and floats metres (REP 118). Raises
    ``DepthError`` for another shape, and where floats seem to be millimetres.
    """
    if not isinstance(depth, np.ndarray) or depth.ndim != 2 or depth.dtype.kind not in "uif" or not depth.size:
        given = f"{depth.dtype} {depth.shape}" if isinstance(depth, np.ndarray) else type(depth).__name__
        raise DepthError(f"depth image is {given}, expected numbers of shape (height, width).")
    if scale is not None and not (np.isfinite(scale) and scale > 0):
        raise DepthError(f"depth scale is {scale}, expected metres per unit, above 0 (0.001 for millimetres).")
    unit = scale if scale is not None else 1.0 if depth.dtype.kind == "f" else 1e-3
    values = depth.astype(np.float64) * unit
    with np.errstate(invalid="ignore"):
        known = np.isfinite(values) & (values > 0)
        if known.any() and scale is None and np.median(values[known]) > 50 * far:
            raise DepthError(
                f"depth is {np.median(values[known]):.0f} m in the middle, which seems millimetres taken as metres; give the depth "
                "scale (0.001), or use the encoding 16UC1."
            )
        return np.where(known & (values >= near) & (values <= far), values, np.nan)


def patch_positions(
    depth: NDArray[np.float64],
    camera: Intrinsics,
    grid: tuple[int, int],
    covered: Box | None = None,
    transform: NDArray[np.float64] | None = None,
) -> Positions:
    """Position (n, 3) float32 in metres of each patch of a grid (rows, columns), row by row, and the mask (n,) of known ones.

    ``depth`` (H, W) metres along the optical axis, NaN unknown (``metres``), aligned with the colour image; ``covered`` is the
    rectangle of the colour image, in pixels of ``camera``, that the grid tiles (all of it where None). A patch has the median of
    its depths, on the ray through its centre; unknown ones are zero. ``transform`` (4, 4) takes points of the camera's optical
    frame into another, the robot's. Raises ``DepthError``.
    """
    if transform is not None:
        check_transform(transform)
    height, width = depth.shape
    here = camera.scaled(width, height)
    left, top, right, bottom = covered or (0.0, 0.0, float(camera.width), float(camera.height))
    rows, columns = grid
    xs = np.linspace(left, right, columns + 1) * width / camera.width  # patch edges in depth pixels
    ys = np.linspace(top, bottom, rows + 1) * height / camera.height
    z = np.full((rows, columns), np.nan)
    for i in range(rows):
        for j in range(columns):
            z[i, j] = _median(depth, (xs[j], ys[i], xs[j + 1], ys[i + 1]))
    centres = np.stack(np.meshgrid((xs[:-1] + xs[1:]) / 2, (ys[:-1] + ys[1:]) / 2), axis=-1).reshape(-1, 2)
    points = here.rays(centres - 0.5) * z.reshape(-1, 1)
    if transform is not None:
        points = points @ np.asarray(transform)[:3, :3].T + np.asarray(transform)[:3, 3]
    known = np.isfinite(points).all(axis=1)
    return np.where(known[:, None], points, 0.0).astype(np.float32), known


def _median(depth: NDArray[np.float64], box: Box) -> float:
    """Median of the known depths of a patch; NaN where too few are known. A patch smaller than a pixel has that pixel's."""
    height, width = depth.shape
    x0, y0, x1, y1 = box
    first_x, first_y = int(np.floor(x0 + 0.5)), int(np.floor(y0 + 0.5))  # pixels whose centre lies inside
    last_x, last_y = max(first_x + 1, int(np.floor(x1 + 0.5))), max(first_y + 1, int(np.floor(y1 + 0.5)))
    inside = depth[max(0, first_y) : min(height, last_y), max(0, first_x) : min(width, last_x)]
    known = inside[np.isfinite(inside)]
    enough = known.size >= max(1.0, LEAST_VALID * (last_x - first_x) * (last_y - first_y))
    return float(np.median(known)) if enough else float("nan")


def check_transform(transform: NDArray[np.float64]) -> None:
    """Raises ``DepthError`` unless this is a rigid motion (4, 4): a rotation, no mirror image, and a shift in metres."""
    matrix = np.asarray(transform, dtype=np.float64)
    rigid = (
        matrix.shape == (4, 4)
        and np.isfinite(matrix).all()
        and np.allclose(matrix[3], [0, 0, 0, 1])
        and np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-4)
        and np.linalg.det(matrix[:3, :3]) > 0
    )
    if not rigid:
        raise DepthError(f"transform from camera to robot is {matrix.tolist()}, expected a 4x4 rotation and shift.")


class DepthBuffer:
    """The newest depth images of one camera, by stamp: finds the one that belongs to a colour image.

    ``tolerance_ns`` is how far their stamps may differ. ``frame`` is the optical frame that the depth must be given in, any where
    it is empty. Depth in another frame than the colour image's is not aligned with it, and would give wrong positions.
    """

    def __init__(self, tolerance_ns: int, frame: str = "", keep: int = 16) -> None:
        self._tolerance = tolerance_ns
        self._frame = frame
        self._kept: deque[tuple[int, NDArray[np.float64]]] = deque(maxlen=keep)

    def add(self, stamp: int, depth: NDArray[np.float64], frame: str = "") -> None:
        """Depth (H, W) in metres of this instant. Raises ``DepthError`` for another frame."""
        if self._frame and frame != self._frame:
            raise DepthError(
                f"depth image is in the frame '{frame}', expected '{self._frame}', the colour camera's: it is not aligned with the "
                "colour image. Use the driver's aligned depth topic (aligned_depth_to_color)."
            )
        self._kept.append((stamp, depth))

    def nearest(self, stamp: int) -> tuple[int, NDArray[np.float64]]:
        """Stamp and depth nearest to a colour image's stamp. Raises ``DepthError`` where there is none within the tolerance."""
        if not self._kept:
            raise DepthError(
                "no depth image has come, and these features need one for each colour image. Check the depth camera and its topic, "
                "or use a checkpoint trained without depth."
            )
        found, depth = min(self._kept, key=lambda kept: abs(kept[0] - stamp))
        if abs(found - stamp) > self._tolerance:
            raise DepthError(
                f"the depth image nearest to the colour image's stamp is {(found - stamp) / 1e6:+.1f} ms from it, expected at most "
                f"{self._tolerance / 1e6:.1f} ms. Synchronise the cameras, or raise the tolerance if the scene is slow."
            )
        return found, depth
