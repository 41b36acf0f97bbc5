"""Points on the surface of MuJoCo geoms and sites, enough that their projection spans the object's outline."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from flow_policy_ros.runtime.types import FloatArray
from flow_policy_ros.sim.parts import Part

_AROUND = 48


@cache
def _unit(kind: str) -> FloatArray:
    """Directions on the unit sphere (``ball``) or the unit circle at z = 0 (``ring``), (N, 3)."""
    angle = np.arange(_AROUND) * 2 * np.pi / _AROUND
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(_AROUND)], axis=1)
    if kind == "ring":
        return ring
    tilt = np.linspace(-np.pi / 2, np.pi / 2, _AROUND // 2 + 1)
    return np.concatenate([ring * np.cos(t) + [0.0, 0.0, np.sin(t)] for t in tilt])


def surface_points(model: Any, data: Any, part: Part) -> FloatArray:
    """World points (N, 3) in m on the surface of a part. Raises ``KeyError`` for a name the model does not have."""
    if part.kind == "site":
        element, size, shape = model.site(part.name), model.site(part.name).size, int(model.site(part.name).type[0])
        origin, rotation = data.site_xpos[element.id], data.site_xmat[element.id].reshape(3, 3)
        return _primitive(shape, size, part.span) @ rotation.T + origin
    index = geom_id(model, part)
    shape = int(model.geom_type[index])
    local = _mesh(model, index) if shape == 7 else _primitive(shape, model.geom_size[index], part.span)
    return np.asarray(local @ data.geom_xmat[index].reshape(3, 3).T + data.geom_xpos[index])


def geom_id(model: Any, part: Part) -> int:
    """Index of a part's geom: by name, or the n-th geom of a body where geoms have none."""
    if part.kind == "geom":
        return int(model.geom(part.name).id)
    return int(model.body(part.name).geomadr[0]) + part.number


def _mesh(model: Any, geom: int) -> FloatArray:
    mesh = model.geom_dataid[geom]
    start = model.mesh_vertadr[mesh]
    return np.asarray(model.mesh_vert[start : start + model.mesh_vertnum[mesh]], dtype=np.float64)


def _primitive(shape: int, size: FloatArray, span: tuple[float, float]) -> FloatArray:
    """Points of a sphere (2), capsule (3), cylinder (5) or box (6); ``span`` cuts a cylinder along its axis, −1 … 1."""
    low, high = np.array([0.0, 0.0, 1.0]) * size[1] * span[0], np.array([0.0, 0.0, 1.0]) * size[1] * span[1]
    if shape == 2:
        return _unit("ball") * size[0]
    if shape == 3:
        return np.concatenate([_unit("ball") * size[0] + low, _unit("ball") * size[0] + high])
    if shape == 5:
        return np.concatenate([_unit("ring") * size[0] + low, _unit("ring") * size[0] + high])
    if shape == 6:
        corners = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), axis=-1).reshape(-1, 3)
        return np.asarray(corners * size)
    raise ValueError(f"geom type {shape} has no outline here; expected sphere, capsule, cylinder, box or mesh.")
