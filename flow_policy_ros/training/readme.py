"""The README.md of a checkpoint: what it is, how it was made, what was measured."""

from __future__ import annotations

from typing import Any

from flow_policy_ros.policy.checkpoint import Checkpoint
from flow_policy_ros.policy.codec import Codec
from flow_policy_ros.runtime.contract import FRAMES, SAID, StreamContract


def checkpoint_readme(checkpoint: Checkpoint, command: str) -> str:
    """Markdown text; ``command`` is the exact command line that trained it."""
    training = checkpoint.training
    data, validation = training["data"], training["validation"]
    measured = ", ".join(f"{name} {value:.4g}" for name, value in validation.items()) or "not measured"
    objective = checkpoint.model.objective.capitalize()
    loss_on, sampled = checkpoint.model.loss_on, "10 steps" if checkpoint.model.stepwise else "in one pass"
    return f"""# {objective} policy for {", ".join(codec.contract.robot for codec in checkpoint.codecs)}

{policy_described(checkpoint)}
* Data: {data["episodes"]} episodes of {", ".join(data["tasks"])} ({_success(data)}; {data["seconds"]} s),
  {data["held_out"]} held out; {data["samples"]} training samples, {data["seconds_used"]} s.{_told(data)}
* Trained for {training["steps"]} of {training["config"]["steps"]} steps; the weights are their exponential average.
* Validation on the held-out episodes: {measured} (loss on normalised {loss_on}; chunk_rmse in rad or m, {sampled}).

Trained with

```
{command or "train(TrainConfig(...)) as in config.json"}
```
"""


def _told(data: dict[str, Any]) -> str:
    """Markdown: what the robot was told in the data, and the vision-language model that read it; nothing where it was not."""
    told, vlm = data.get("instructions"), data.get("vlm")
    text = ""
    if told:
        some = ", ".join(f"'{instruction}'" for instruction in told["some"])
        text = f"\n* Told in words, {told['different']} different: {some}{', …' if told['different'] > len(told['some']) else ''}."
    if vlm:
        begun = "from random weights" if vlm.get("weights") == "random" else f"from weights {vlm['weights_sha256'][:12]}"
        text += f"\n* Vision-language model: {vlm['model']}, {begun}, tuning `{vlm['tuning']}`."
    return text


def _success(data: dict[str, Any]) -> str:
    """What is known of the success of the recordings."""
    noted, count = data["success_noted"], data["episodes"]
    if not noted:
        return "success not noted"
    return f"{data['successes']} successful" + (f" of {noted}, of the others it is not noted" if noted < count else "")


def student_readme(checkpoint: Checkpoint, command: str) -> str:
    """Markdown text of a distilled policy; ``command`` is the exact command line."""
    training = checkpoint.training
    teacher = training["teacher"]
    errors = ", ".join(f"{value:.4g} ({name.rsplit('_', 1)[1]})" for name, value in training["validation"].items())
    return f"""# One-step flow policy for {", ".join(codec.contract.robot for codec in checkpoint.codecs)}

Distilled by reflow: sample it with **1 solver step** (2, 4 and 10 work as well).

{policy_described(checkpoint)}
* Teacher: weights {teacher["weights_sha256"][:12]}, {teacher["steps"]} {teacher["solver"]} steps; {teacher["count"]} pairs.
* Trained for {training["steps"]} steps after {training["config"]["rectify"]} of rectification; weights are averaged.
* Distance from the teacher's chunk on held-out pairs, normalised, by solver steps: {errors or "not measured"}.

Distilled with

```
{command or "distill(DistillConfig(...)) as in config.json"}
```
"""


def policy_described(checkpoint: Checkpoint) -> str:
    """Markdown: what it observes and returns for each robot, and the network and flow behind it."""
    model = checkpoint.model
    sizes = ", ".join(f"{name} {value}" for name, value in vars(model.network_config).items() if name != "vlm")
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    return "\n".join(
        [
            *(_robot_described(codec) for codec in checkpoint.codecs),
            "",
            f"* Network: `{model.network_name}`, {parameters:.2f} M parameters ({sizes}).",
            f"* {model.described()}.",
        ]
    )


def _robot_described(codec: Codec) -> str:
    contract = codec.contract
    past = [f"those {', '.join(f'{-offset / 1e6:g}' for offset in contract.history_ns)} ms before"] if contract.history_ns else []
    streams = past + [_described(stream) for stream in contract.streams]
    return (
        f"Robot `{contract.robot}`: observes {len(contract.joints)} joint positions"
        f"{''.join(' and ' + stream for stream in streams)}; returns chunks of {contract.horizon} positions of "
        f"{len(contract.action_joints)} joints, {contract.dt_ns / 1e6:g} ms apart ({codec.action_space} actions)."
    )


def _described(stream: StreamContract) -> str:
    if stream.kind == FRAMES:
        height, width = stream.extractor["size"]
        return f"images of camera `{stream.extractor.get('camera')}` ({width} by {height} px, stream `{stream.name}`)"
    if stream.kind in SAID:
        return f"the instruction (stream `{stream.name}`, {stream.tokens} tokens)"
    text = f"`{stream.name}` ({stream.tokens} tokens of {stream.channels} channels"
    if stream.use:
        names = stream.extractor.get("classes") or [f"row {row}" for row in range(stream.tokens)]
        text += f", of which it uses only {', '.join(names[row] for row in stream.use)}"
    return text + (", those before the start)" if stream.moment == "first" else ")")
