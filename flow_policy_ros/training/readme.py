"""The README.md of a checkpoint: what it is, how it was made, what was measured."""

from __future__ import annotations

from flow_policy_ros.policy.checkpoint import Checkpoint
from flow_policy_ros.runtime.contract import StreamContract


def checkpoint_readme(checkpoint: Checkpoint, command: str) -> str:
    """Markdown text; ``command`` is the exact command line that trained it."""
    contract, model, training = checkpoint.codec.contract, checkpoint.model, checkpoint.training
    data, validation = training["data"], training["validation"]
    streams = [_described(stream) for stream in contract.streams]
    sizes = ", ".join(f"{name} {value}" for name, value in vars(model.network_config).items())
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    measured = ", ".join(f"{name} {value:.4g}" for name, value in validation.items()) or "not measured"
    return f"""# Vector flow policy for {contract.robot}

Observes {len(contract.joints)} joint positions{"".join(" and " + stream for stream in streams)}; returns chunks of
{contract.horizon} positions of {len(contract.action_joints)} joints, {contract.dt_ns / 1e6:g} ms apart
({checkpoint.codec.action_space} actions).

* Network: `{model.network_name}`, {parameters:.2f} M parameters ({sizes}).
* Flow: straight path, training times `{model.time_sampler_name}`, solver `{model.solver_name}`.
* Data: {data["episodes"]} episodes of {", ".join(data["tasks"])} ({data["successes"]} successful, {data["seconds"]} s),
  {data["held_out"]} held out, {data["samples"]} training samples.
* Trained for {training["steps"]} of {training["config"]["steps"]} steps; the weights are their exponential average.
* Validation on the held-out episodes: {measured} (loss on normalised velocities; chunk_rmse in rad or m, 10 steps).

Trained with

```
{command or "train(TrainConfig(...)) as in config.json"}
```
"""


def _described(stream: StreamContract) -> str:
    text = f"`{stream.name}` ({stream.tokens} tokens of {stream.channels} channels"
    if stream.use:
        names = stream.extractor.get("classes") or [f"row {row}" for row in range(stream.tokens)]
        text += f", of which it uses only {', '.join(names[row] for row in stream.use)}"
    return text + (", those before the start)" if stream.moment == "first" else ")")
