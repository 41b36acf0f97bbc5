"""How long LeRobot's own DiffusionPolicy takes for a chunk: run it in an environment with lerobot 0.4.4.

    python3.11 -m venv lerobot_env
    lerobot_env/bin/pip install -r benchmarks/lerobot_requirements.txt
    lerobot_env/bin/pip install --no-deps lerobot==0.4.4
    flow_policy bench sampling --lerobot lerobot_env/bin/python

The last command runs this file there. Random weights, float32, batch 1, observation 24 + 39, action 28, horizon 16; timed is
``predict_action_chunk`` alone, without LeRobot's normalisation before and after it. Its multi-task DiT flow policy is not in
0.4.4, the newest release for Python 3.11.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from flow_policy_ros.vision.torchvision_ops import ensure_torchvision

ensure_torchvision()
from lerobot.configs.types import FeatureType, PolicyFeature  # noqa: E402
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig  # noqa: E402
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy  # noqa: E402

STATE, ENVIRONMENT, ACTION, HORIZON = 24, 39, 28, 16
WAYS = {"ddim": ("DDIM", 10), "ddpm": ("DDPM", 100)}


def policy(down_dims: tuple[int, ...], scheduler: str, steps: int) -> DiffusionPolicy:
    """Random weights, and a queue that holds the two observations which it asks for."""
    config = DiffusionConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (STATE,)),
            "observation.environment_state": PolicyFeature(FeatureType.ENV, (ENVIRONMENT,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTION,))},
        horizon=HORIZON,
        down_dims=down_dims,
        noise_scheduler_type=scheduler,
        num_inference_steps=steps,
        device="cpu",
    )
    torch.manual_seed(0)
    made = DiffusionPolicy(config).eval()
    made.select_action(observation())  # fills the queues
    return made


def observation() -> dict[str, torch.Tensor]:
    """One, batch first."""
    return {"observation.state": torch.randn(1, STATE), "observation.environment_state": torch.randn(1, ENVIRONMENT)}


def main() -> None:
    """Print the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=20, help="chunks by DDIM; by DDPM a tenth of them")
    parser.add_argument("--down-dims", type=int, nargs="+", default=[128, 256, 512], help="its own default: 512 1024 2048")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for way in arguments.ways:
        scheduler, steps = WAYS[way]
        made, given = policy(tuple(arguments.down_dims), scheduler, steps), observation()
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            taken = []
            for _ in range(1 + max(1, arguments.repeats // (steps // 10))):
                begin = time.perf_counter()
                chunk = made.predict_action_chunk(given)
                taken.append((time.perf_counter() - begin) * 1e3)
            p50, p99 = np.percentile(taken[1:], (50, 99))
            parameters = sum(p.numel() for p in made.parameters())
            rows.append({
                "name": f"LeRobot DiffusionPolicy {round(parameters / 1e6)} M, {scheduler} {steps}", "parameters": parameters,
                "steps": steps, "nfe": steps, "threads": threads, "backend": "torch fp32", "chunks": len(taken) - 1,
                "chunk": list(chunk.shape[1:]), "ms_p50": round(float(p50), 3), "ms_p99": round(float(p99), 3),
            })  # fmt: skip
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
