"""The published DAPG expert policies: environment observation → environment action. Weights come from the user's folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flow_policy_ros.runtime.types import FloatArray
from flow_policy_ros.sim.gl import SimError


class Expert:
    """A two-layer tanh network (Rajeswaran et al. 2018, Learning Complex Dexterous Manipulation), read from an ``.npz``.

    ``x = (o − in_shift)/(in_scale + 1e−8)``, two tanh layers, ``a = (w2 x + b2)·out_scale + out_shift``, clipped to [−1, 1].
    """

    def __init__(self, folder: str | Path, task_name: str) -> None:
        path = Path(folder) / f"{task_name}_expert.npz"
        if not path.is_file():
            raise SimError(f"no expert weights at {path}; give the folder that holds {task_name}_expert.npz with --expert.")
        with np.load(path, allow_pickle=False) as weights:
            self._w = {k: np.asarray(weights[k], dtype=np.float64) for k in weights.files}

    def action(self, observation: FloatArray) -> FloatArray:
        """(O,) → (A,) in [−1, 1]."""
        w = self._w
        x = (observation - w["in_shift"]) / (w["in_scale"] + 1e-8)
        x = np.tanh(w["w0"] @ x + w["b0"])
        x = np.tanh(w["w1"] @ x + w["b1"])
        return np.asarray(np.clip((w["w2"] @ x + w["b2"]) * w["out_scale"] + w["out_shift"], -1.0, 1.0))
