"""What ``flow_policy bench sampling`` measures against: torchdiffeq on our network, and LeRobot's own policies.

torchcfm trains flows and has no sampler; its examples integrate with torchdiffeq, the network called with time, state and
observation in each step. LeRobot needs versions of its own and is measured in an environment of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from flow_policy_ros.models.conditioning import Conditioning
    from flow_policy_ros.models.network import VelocityNetwork

SCRIPT = Path("benchmarks") / "lerobot_sampling.py"
TOLERANCE = 1e-4
"""Of the adaptive solver, relative and absolute, as in torchcfm's examples."""


def torchdiffeq_ways() -> tuple[str, ...]:
    """Their names, empty where torchdiffeq is not installed."""
    try:
        import torchdiffeq  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: F401
    except ImportError:
        return ()
    return ("torchdiffeq euler", "torchdiffeq euler, observation read in each step", "torchdiffeq dopri5")


def torchdiffeq_chunk(
    way: str, network: VelocityNetwork, observation: Conditioning, noise: torch.Tensor, steps: int
) -> Callable[[], tuple[torch.Tensor, int]]:
    """Makes a normalised chunk (B, H, A) from ``noise`` in one of ``torchdiffeq_ways``, and says the evaluations made; ``steps`` do
    not count for dopri5."""
    import torch
    from torchdiffeq import odeint

    fixed = way != "torchdiffeq dopri5"
    times = torch.linspace(0.0, 1.0, steps + 1 if fixed else 2)
    anew = "each step" in way
    options: dict[str, Any] = {"method": "euler"} if fixed else {"method": "dopri5", "rtol": TOLERANCE, "atol": TOLERANCE}

    def chunk() -> tuple[torch.Tensor, int]:
        cache, evaluations = (None if anew else network.condition(observation)), 0

        def velocity(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            nonlocal evaluations
            evaluations += 1
            return network.velocity(x, t.expand(len(x)), network.condition(observation) if anew else cache)

        with torch.inference_mode():
            return odeint(velocity, noise, times, **options)[-1], evaluations

    return chunk


def lerobot_rows(python: Path, threads: tuple[int, ...], repeats: int, timeout_s: float = 3600.0) -> list[dict[str, Any]]:
    """Rows of ``benchmarks/lerobot_sampling.py``, run by the interpreter ``python`` of LeRobot's environment.

    Raises ``ValueError`` with the last line that it wrote where it fails.
    """
    from flow_policy_ros import resources

    script = resources.share() / SCRIPT
    if not script.is_file():
        raise ValueError(f"--lerobot needs {SCRIPT}, which is in the source tree only; run it from there.")
    command = [str(python), str(script), "--repeats", str(repeats), "--threads", *map(str, threads)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(max(threads))}
    remedy = f"see {SCRIPT} for how its environment is made"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"--lerobot {python}: {error}; {remedy}.") from error
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"--lerobot {python}: {reason}; {remedy}.")
    try:
        rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--lerobot {python} printed no figures ({error!r}); {remedy}.") from error
    return rows
