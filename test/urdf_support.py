"""The URDF of the tests' robot of two joints, so plain that one can say where its tip is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

UPPER_M, LOWER_M = 0.3, 0.2
ARM = f"""<robot name="arm">
 <link name="table"/><link name="upper"/><link name="lower"/><link name="tip"/>
 <joint name="shoulder" type="revolute"><parent link="table"/><child link="upper"/><axis xyz="0 0 1"/>
  <limit lower="-3" upper="3" velocity="2" effort="1"/></joint>
 <joint name="elbow" type="revolute"><parent link="upper"/><child link="lower"/><origin xyz="{UPPER_M} 0 0"/><axis xyz="0 0 1"/>
  <limit lower="-3" upper="3" velocity="2" effort="1"/></joint>
 <joint name="nail" type="fixed"><parent link="lower"/><child link="tip"/><origin xyz="{LOWER_M} 0 0"/></joint>
</robot>"""


def write_arm(folder: Path) -> Path:
    """An arm in a plane: ``shoulder`` and ``elbow`` turn about z, ``tip`` is at its end."""
    path = folder / "arm.urdf"
    path.write_text(ARM)
    return path


def tip(positions: np.ndarray) -> np.ndarray:
    """Where the tip is (..., 3) for (shoulder, elbow) (..., 2)."""
    upper, lower = positions[..., 0], positions.sum(axis=-1)
    x = UPPER_M * np.cos(upper) + LOWER_M * np.cos(lower)
    y = UPPER_M * np.sin(upper) + LOWER_M * np.sin(lower)
    return np.stack([x, y, np.zeros_like(x)], axis=-1)
