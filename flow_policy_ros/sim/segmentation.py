"""Which pixels show which labelled object: a segmentation render of the simulated camera. Costs two renders."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow_policy_ros.sim.parts import PARTS, Part
from flow_policy_ros.sim.shapes import geom_id


class Segmentation:
    """A second renderer on the same model. Close it before the process ends."""

    def __init__(self, model: Any, width: int, height: int, task_name: str) -> None:
        import mujoco

        self._mujoco = mujoco
        self._model = model
        self._parts = PARTS[task_name]
        self._renderer = mujoco.Renderer(model, height, width)
        self._renderer.enable_segmentation_rendering()

    def masks(self, data: Any, camera_id: int) -> dict[str, NDArray[np.bool_]]:
        """Per class a mask (height, width) of the pixels that show it. What is see-through hides nothing behind it."""
        solid = self._render(data, camera_id, glass=False)
        everything = self._render(data, camera_id, glass=True)
        masks = {}
        for name, parts in self._parts.items():
            masks[name] = np.zeros(solid.shape[:2], dtype=bool)
            for part in parts:
                element = self._element(part)
                masks[name] |= (solid == element).all(axis=-1) | (everything == element).all(axis=-1)
        return masks

    def _element(self, part: Part) -> tuple[int, int]:
        kinds = self._mujoco.mjtObj
        if part.kind == "site":
            return int(self._model.site(part.name).id), int(kinds.mjOBJ_SITE)
        return geom_id(self._model, part), int(kinds.mjOBJ_GEOM)

    def _render(self, data: Any, camera_id: int, glass: bool) -> NDArray[np.int32]:
        """Element (id, type) per pixel (height, width, 2), with or without what is see-through."""
        self._renderer.update_scene(data, camera_id)
        scene = self._renderer.scene
        for geom in scene.geoms[: scene.ngeom]:
            if not glass and geom.rgba[3] < 1.0:
                geom.segid = -1  # MuJoCo leaves such an element out of the picture
        return np.asarray(self._renderer.render())

    def close(self) -> None:
        """Free the GL context."""
        self._renderer.close()
