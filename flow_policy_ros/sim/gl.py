"""Choosing an off-screen OpenGL backend before MuJoCo is imported; MuJoCo reads the choice at its own import."""

from __future__ import annotations

import ctypes.util
import os

BACKENDS = ("egl", "osmesa", "glfw")
INSTALL = "apt-get install libegl1 libosmesa6 libgl1-mesa-dri"


class SimError(RuntimeError):
    """The simulation cannot run; the message names what is missing and the remedy."""


def choose_backend() -> str:
    """Set ``MUJOCO_GL`` (``egl``, else ``osmesa``) unless the user has set it; returns the backend's name.

    Raises ``SimError`` for an unknown ``MUJOCO_GL`` and when no off-screen GL library is installed.
    """
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    if chosen and chosen not in BACKENDS:
        raise SimError(
            f"the environment variable MUJOCO_GL is '{chosen}', expected one of {', '.join(BACKENDS)}. Unset it, and one "
            "that is installed is chosen."
        )
    libraries = {"egl": "EGL", "osmesa": "OSMesa"}
    if not chosen:
        chosen = next((name for name, library in libraries.items() if ctypes.util.find_library(library)), "")
    if not chosen or (chosen in libraries and ctypes.util.find_library(libraries[chosen]) is None):
        raise SimError(
            f"the simulated camera needs an off-screen OpenGL library, but {chosen or 'neither EGL nor OSMesa'} was not found. "
            f"Install it: {INSTALL}"
        )
    os.environ["MUJOCO_GL"] = chosen
    return chosen
