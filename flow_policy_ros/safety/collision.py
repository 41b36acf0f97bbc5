"""How near the robot is to itself and to the bounds of its workspace, and how fast it may go on.

Two questions to one ``CollisionMonitor``: ``distance`` (how near, and who) and ``approach`` (which factor on the advance
along the plan). It does not move, stop or latch anything: that is the command loop's. Shapes come from
``safety.collision_model``. Spheres are compared in numpy; other shapes by Pinocchio (Coal), where their bounding spheres
come near enough to matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flow_policy_ros.runtime.robot import Mimic
from flow_policy_ros.runtime.types import FloatArray
from flow_policy_ros.safety.collision_model import CollisionError, Declared, build, known_keys, numbers

STOP = 0.05  # a factor below this is 0: creeping towards half the margin would never end
STILL = 1e-9  # m; a smaller loss of distance is rounding, not approach


@dataclass(frozen=True)
class Workspace:
    """A box, ``lower`` to ``upper`` (3,) in m in the frame of the URDF's root, for the origins of the links ``frames``."""

    frames: tuple[str, ...]
    lower: FloatArray
    upper: FloatArray


@dataclass(frozen=True)
class Clearance:
    """The distance (m, negative where they overlap) between ``pair``: two links, or a link and a face of the workspace."""

    distance_m: float
    pair: tuple[str, str]

    def __str__(self) -> str:
        return f"{self.pair[0]} and {self.pair[1]} are {1e3 * self.distance_m:.1f} mm apart"


@dataclass(frozen=True)
class Approach:
    """``factor`` in [0, 1] on the advance along the plan; ``clearance`` is what asks for it, None where the factor is 1."""

    factor: float
    clearance: Clearance | None


def workspace_from(block: Any, where: str = "robot.workspace") -> Workspace:
    """Read the robot file's ``robot.workspace``: ``frames`` (names), ``lower``, ``upper``. Raises ``CollisionError``."""
    block = known_keys(block, ("frames", "lower", "upper"), where)
    frames = block.get("frames")
    if not isinstance(frames, list) or not frames or not all(isinstance(name, str) for name in frames):
        raise CollisionError(f"{where}.frames is {frames!r}, expected a list of links of the URDF, such as [palm].")
    lower, upper = (np.array(numbers(block.get(key), 3, f"{where}.{key}")) for key in ("lower", "upper"))
    if not (lower < upper).all():
        raise CollisionError(f"{where} goes from {lower.tolist()} to {upper.tolist()}, expected lower < upper in x, y and z.")
    return Workspace(tuple(frames), lower, upper)


class CollisionMonitor:
    """Distances of a robot of J joints, for positions (J,) in the order of ``joints`` (rad or m).

    ``margin_m``: links nearer than this slow the approach, at half of it they stop it. ``acceleration`` (J,) or one number
    (rad/s²) and ``delay_s`` say how the robot brakes: what counts is where it would come to rest. ``period_s`` is the time
    between two questions. ``mimics`` move with their masters. One thread at a time: Pinocchio's data are reused.

    Raises ``CollisionError`` when ``pin`` is not installed, when meshes or positions of joints are missing, or when nothing is
    left to check.
    """

    def __init__(
        self,
        urdf_path: str | Path,
        joints: Sequence[str],
        margin_m: float,
        *,
        mimics: Sequence[Mimic] = (),
        workspace: Workspace | None = None,
        declared: Declared | None = None,
        acceleration: ArrayLike = np.inf,
        delay_s: ArrayLike = 0.0,
        period_s: float = 0.01,
    ) -> None:
        if not 0.0 < margin_m < np.inf:
            raise CollisionError(f"the collision margin is {margin_m} m, expected a length above zero.")
        self.margin_m = float(margin_m)
        built = build(urdf_path, joints, mimics, declared or Declared())
        import pinocchio

        self._pin = pinocchio
        self._built, self._matrix, self._offset = built, built.matrix, built.offset
        self.links, self.shapeless = built.links, built.shapeless
        self._model, self._geometry = built.model, built.geometry
        self._data, self._geometry_data = self._model.createData(), self._geometry.createData()
        self._results = [self._geometry_data.distanceResults[k] for k in range(len(built.pairs))]
        # Views into Pinocchio's own memory, (3,) and (3, 3) for each joint: forward kinematics fills them.
        self._translations = [placement.translation for placement in self._data.oMi]
        self._rotations = [placement.rotation for placement in self._data.oMi]
        self._delay = np.asarray(delay_s, dtype=np.float64)
        self._period = float(period_s)
        self._joint_count = len(joints)
        self.change(acceleration)
        self._problem: str | None = None

        shapes = list(self._geometry.geometryObjects)
        centres, radii, is_sphere = [np.zeros(3)] * len(shapes), np.zeros(len(shapes)), np.zeros(len(shapes), dtype=bool)
        for i, shape in enumerate(shapes):
            shape.geometry.computeLocalAABB()
            is_sphere[i] = type(shape.geometry).__name__ == "Sphere"
            radii[i] = shape.geometry.radius if is_sphere[i] else shape.geometry.aabb_radius
            centres[i] = shape.placement.act(np.zeros(3) if is_sphere[i] else np.asarray(shape.geometry.aabb_center))
        self._first, self._second = np.ascontiguousarray(built.pairs.T)
        self._radii = radii[self._first] + radii[self._second]
        self._inexact = ~(is_sphere[self._first] & is_sphere[self._second])

        self._workspace = workspace
        frames = workspace.frames if workspace else ()
        link = pinocchio.FrameType.BODY  # a joint may have the same name
        absent = [name for name in frames if not self._model.existFrame(name, link)]
        if absent:
            raise CollisionError(f"robot.workspace.frames names {absent}, which the URDF {urdf_path} does not have as links.")
        placed = [self._model.frames[self._model.getFrameId(name, link)] for name in frames]
        bodies = [shape.parentJoint for shape in shapes] + [frame.parentJoint for frame in placed]
        self._body = np.array(bodies, dtype=np.intp)
        points = [*centres, *(frame.placement.translation.copy() for frame in placed)]
        self._points = np.array(points, dtype=np.float64).reshape(-1, 3, 1)
        self._shape_count = len(shapes)
        if not len(built.pairs) and not frames:
            raise CollisionError(
                f"there is nothing to check: the URDF {urdf_path} has no two links with collision shapes that can move against "
                "each other, and there is no robot.workspace. Declare spheres in robot.collision.spheres."
            )

    @property
    def pair_count(self) -> int:
        """How many pairs of shapes are compared."""
        return len(self._first)

    def distance(self, position: ArrayLike) -> Clearance:
        """The least distance at ``position`` (J,), and between whom. Raises ``ValueError`` for NaN, Inf or a wrong length."""
        points = self._place(self._checked(position, "position"))
        distances, _ = self._between(points)
        least = np.inf
        for k in np.argsort(distances):  # true distances are not below these: done when these are above the least
            if distances[k] >= least:
                break
            if self._inexact[k]:
                (distances[k],) = self._exact(np.array([k]))
            least = min(least, distances[k])
        # Those not computed are above the least; a NaN is what argmin finds first.
        distances = np.append(distances, self._to_faces(points))
        index = int(distances.argmin())
        return self._named(float(distances[index]), index)

    def scale(self, position: ArrayLike, velocity: ArrayLike, moving: ArrayLike | None = None) -> float:
        """The factor of ``approach``."""
        return self.approach(position, velocity, moving).factor

    def approach(self, position: ArrayLike, velocity: ArrayLike, moving: ArrayLike | None = None) -> Approach:
        """How fast the plan may advance, from 1 (nobody within the margin comes nearer) to 0 (at half the margin: stop).

        ``position`` (J,) is the newest set-point, ``velocity`` (J,) that of the plan at full speed: where it wants to go, also
        while it stands. ``moving`` (J,) is the velocity of the set-points now, from which the robot would have to brake; the
        plan's if not given. Only pairs that lose distance count, each by the least distance on the way to rest: moving apart
        is always allowed, however near. Raises ``ValueError`` for NaN, Inf or a wrong length.
        """
        position, velocity = np.asarray(position, dtype=np.float64), np.asarray(velocity, dtype=np.float64)
        moving = velocity if moving is None else np.asarray(moving, dtype=np.float64)
        if not (np.isfinite(velocity).all() and np.isfinite(moving).all()):
            raise ValueError(f"velocities for the collision check must be finite; given: {velocity!r} and {moving!r}.")
        # What a joint does along the plan: the speed that it has, or can have one period on. What it does against it is ending.
        speed = np.maximum(np.where(moving * velocity > 0.0, np.abs(moving), 0.0), np.minimum(np.abs(velocity), self._change))
        ahead = position + np.copysign(speed, velocity) * (self._period + self._delay + speed * self._per_speed)
        points, then = self._place(self._checked(position, "position")), self._place(self._checked(ahead, "position ahead"))
        now, least = self._between(points, then)
        near = np.flatnonzero(self._inexact & (least < self.margin_m))
        if near.size:  # Pinocchio's data stand at ``ahead``
            least[near] = self._exact(near)
            self._place(position)
            now[near] = self._exact(near)
        if self._workspace:
            now, least = np.append(now, self._to_faces(points)), np.append(least, self._to_faces(then))

        # A distance that could not be computed is NaN: no pair passes by not being comparable.
        factors = 2.0 * np.where(np.isnan(least), -np.inf, least) / self.margin_m - 1.0
        factors[least >= now - STILL] = 1.0
        worst = int(factors.argmin())
        if factors[worst] >= 1.0:
            return Approach(1.0, None)
        factor = float(factors[worst]) if factors[worst] >= STOP else 0.0
        return Approach(factor, self._named(float(now[worst]), worst))

    def advance(self, position: ArrayLike, target: ArrayLike, moving: ArrayLike | None = None) -> float:
        """The factor of ``approach`` on the way from ``position`` to ``target`` (J,), the plan's set-point one period on.

        While the answer is 0, ``problem`` names both links and their distance.
        """
        position = np.asarray(position, dtype=np.float64)
        answer = self.approach(position, (np.asarray(target, dtype=np.float64) - position) / self._period, moving)
        self._problem = None
        if answer.factor == 0.0:
            self._problem = (
                f"{answer.clearance}, and the plan brings them nearer; motion stops at half of command.collision_margin "
                f"({1e3 * self.margin_m:g} mm). Send motions that lead apart, or correct the robot file's collision block."
            )
        return answer.factor

    @property
    def problem(self) -> str | None:
        """Who came too close, with the remedy, when the last answer of ``advance`` was 0."""
        return self._problem

    def change(self, acceleration: ArrayLike) -> None:
        """Brakes at ``acceleration`` (J,) or one number (rad/s²) from now on: a robot with lower limits stops later."""
        brakes = np.broadcast_to(np.asarray(acceleration, dtype=np.float64), (self._joint_count,))
        self._per_speed, self._change = 0.5 / brakes, brakes * self._period

    def near(self, position: ArrayLike) -> tuple[Clearance, ...]:
        """Every two links (and faces) within the margin at ``position`` (J,), nearest first: what ``ignore`` may have to name."""
        points = self._place(self._checked(position, "position"))
        distances, _ = self._between(points)
        close = np.flatnonzero(self._inexact & (distances < self.margin_m))
        distances[close] = self._exact(close)
        distances = np.append(distances, self._to_faces(points))
        found: dict[tuple[str, str], Clearance] = {}
        for k in np.argsort(distances):
            if not distances[k] >= self.margin_m:
                clearance = self._named(float(distances[k]), int(k))
                found.setdefault(clearance.pair, clearance)
        return tuple(found.values())

    def _checked(self, values: ArrayLike, what: str) -> FloatArray:
        array = np.asarray(values, dtype=np.float64)
        if array.shape != (self._joint_count,) or not np.isfinite(array).all():
            raise ValueError(f"the {what} for the collision check must be {self._joint_count} finite numbers; given: {array}.")
        return array

    def _place(self, position: FloatArray) -> FloatArray:
        """Centres of the shapes' bounding spheres and the origins of the workspace's frames (3, N), in m, at ``position``."""
        self._pin.forwardKinematics(self._model, self._data, self._offset + self._matrix @ position)
        rotations = np.concatenate(self._rotations).reshape(-1, 3, 3)
        translations = np.concatenate(self._translations).reshape(-1, 3)
        placed = (rotations.take(self._body, axis=0) @ self._points)[:, :, 0] + translations.take(self._body, axis=0)
        return np.ascontiguousarray(placed.T)

    def _between(self, points: FloatArray, then: FloatArray | None = None) -> tuple[FloatArray, FloatArray]:
        """Distances (P,) of bounding spheres: exact where both shapes are spheres, else never above the true one.

        Returned are those at ``points`` and the least while every point goes straight on to ``then``: none is jumped over.
        """
        gap = self._gap(points)
        square = np.einsum("ip,ip->p", gap, gap)
        now = np.sqrt(square) - self._radii
        if then is None:
            return now, now
        change = self._gap(then) - gap
        along, length = np.einsum("ip,ip->p", gap, change), np.einsum("ip,ip->p", change, change)
        share = np.minimum(np.maximum(-along, 0.0) / np.maximum(length, 1e-30), 1.0)
        square += share * (2.0 * along + share * length)
        return now, np.sqrt(np.maximum(square, 0.0)) - self._radii

    def _gap(self, points: FloatArray) -> FloatArray:
        return points.take(self._second, axis=1) - points.take(self._first, axis=1)

    def _exact(self, pairs: NDArray[np.intp]) -> list[float]:
        """True distances of ``pairs`` where ``_place`` put the robot last."""
        self._pin.updateGeometryPlacements(self._model, self._data, self._geometry, self._geometry_data)
        distances = []
        for k in pairs.tolist():
            self._pin.computeDistance(self._geometry, self._geometry_data, k)
            distances.append(self._results[k].min_distance)
        return distances

    def _to_faces(self, points: FloatArray) -> FloatArray:
        """How far each frame is inside each face of the workspace, (F · 6,) in m; negative outside."""
        if self._workspace is None:
            return np.empty(0)
        frames = points[:, self._shape_count :].T
        return np.concatenate([frames - self._workspace.lower, self._workspace.upper - frames], axis=1).ravel()

    def _named(self, distance: float, index: int) -> Clearance:
        if index < self.pair_count:
            return Clearance(distance, (self.links[self._first[index]], self.links[self._second[index]]))
        assert self._workspace is not None
        frame, face = divmod(index - self.pair_count, 6)
        return Clearance(distance, (self._workspace.frames[frame], f"workspace {('lower', 'upper')[face // 3]} {'xyz'[face % 3]}"))
