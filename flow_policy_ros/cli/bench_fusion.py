"""Deep fusion in ``flow_policy bench sampling``: what a chunk costs with its prefix kept over the solver steps, and without.

Vision-language models of random weights: time depends on their sizes alone, and nothing needs to be downloaded.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from flow_policy_ros.models.conditioning import Conditioning
    from flow_policy_ros.models.network import VelocityNetwork

STEPS, WORDS, WARM, SECONDS = 10, 20, 2, 20.0
STATE, HORIZON, ACTION, TOKENS, CHANNELS = 28, 16, 28, 60, 384
IMAGE_TOKEN, WORD = 49190, 100
FORMS = ("deep_expert", "deep_causal", "deep_mutual")
OVER_FEATURES = ("deep_features", "dit_cross", "residual_mlp")


@dataclass(frozen=True)
class VlmSize:
    """A model of SmolVLM's kind: ``text`` and ``vision`` part of its configuration, ``scale`` (patches per token and side), sides
    of its ``image`` in pixels, and the sizes of the action ``expert`` beside it."""

    text: dict[str, Any]
    vision: dict[str, Any]
    scale: int
    image: int
    expert: dict[str, int]

    @property
    def tokens(self) -> int:
        """Image tokens."""
        return int((self.image // self.vision["patch_size"] // self.scale) ** 2)

    def config(self) -> str:
        """The JSON text of its configuration."""
        text = {"model_type": "llama", "vocab_size": 49280, "rope_theta": 100000.0, **self.text}
        vision = {"model_type": "smolvlm_vision", "image_size": self.image, **self.vision}
        parts = {"text_config": text, "vision_config": vision, "scale_factor": self.scale, "image_token_id": IMAGE_TOKEN}
        return json.dumps({"model_type": "smolvlm", **parts})


VLMS = {
    "tiny": VlmSize(
        {"hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2},
        {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 8},
        scale=2, image=64, expert={"width": 48, "hidden": 96},
    ),
    # As HuggingFaceTB/SmolVLM-256M-Instruct, one image that is not split.
    "smolvlm_256m": VlmSize(
        {"hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536, "num_attention_heads": 9,
         "num_key_value_heads": 3, "head_dim": 64},
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16},
        scale=4, image=512, expert={"width": 432, "hidden": 1152},
    ),
}  # fmt: skip


def fusion_rows(vlms: tuple[str, ...], repeats: int, threads: int) -> list[dict[str, object]]:
    """A row per network and way: of the three forms of deep fusion over each of ``vlms``, where ``transformers`` is installed, and
    of networks over feature tokens."""
    import torch

    torch.set_num_threads(threads)
    rows: list[dict[str, object]] = []
    for name, vlm, network, observation in _subjects(vlms):
        counts = _counters(network, observation)
        with torch.inference_mode():
            parts = _parts(network, observation, repeats)
            for cached in (True, False):
                for count in counts.values():
                    count.clear()
                times = _timed(_chunk(network, observation, cached), repeats)
                passes = {what: len(count) / len(times) for what, count in counts.items()}
                rows.append(
                    {
                        "name": name,
                        "vlm": vlm,
                        "prefix_cache": cached,
                        "prefix_tokens": _prefix_tokens(observation),
                        "parameters": sum(p.numel() for p in network.parameters()),
                        "parameters_without_vlm": sum(p.numel() for n, p in network.named_parameters() if ".vlm." not in n),
                        "steps": STEPS,
                        **passes,
                        "chunks": max(1, len(times) - WARM),
                        "chunk_ms_p50": _percentile(times[WARM:] or times, 50),
                        "chunk_ms_p99": _percentile(times[WARM:] or times, 99),
                        **parts,
                        "threads": threads,
                        "backend": "torch fp32",
                    }
                )
    return rows


def _subjects(vlms: tuple[str, ...]) -> Iterator[tuple[str, str | None, VelocityNetwork, Conditioning]]:
    """Names of network and vision-language model, the network, and an observation for it; one at a time, for they are large."""
    import torch

    from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
    from flow_policy_ros.models.prefix_inputs import PrefixInputs
    from flow_policy_ros.models.registry import make_network, network_config
    from flow_policy_ros.vision.pretrained import ExtractorError, import_transformers

    torch.manual_seed(0)
    state = torch.randn(1, STATE)
    shape = NetworkShape(STATE, HORIZON, ACTION, TOKENS, CHANNELS)
    for name in OVER_FEATURES:
        network = make_network(name, network_config(name, {}), shape).eval()
        yield name, None, network, Conditioning.of(state, torch.randn(1, TOKENS, CHANNELS))
    try:
        import_transformers()
    except ExtractorError as error:
        print(f"no rows of deep fusion with a vision-language model: {error}", file=sys.stderr)
        return
    for vlm in vlms:
        size = VLMS[vlm]
        ids = torch.tensor([[1, *[IMAGE_TOKEN] * size.tokens, *range(WORD, WORD + WORDS)]])
        image = torch.randn(1, 1, 3, size.image, size.image)
        observation = Conditioning.of(state, prefix=PrefixInputs.make(ids, torch.ones_like(ids, dtype=torch.bool), image))
        for form in FORMS:
            sizes = size.expert if form == "deep_expert" else {}
            config = network_config(form, {"vlm": size.config(), **sizes})
            network = make_network(form, config, NetworkShape(STATE, HORIZON, ACTION)).eval()
            yield form, vlm, network, observation


def _prefix_tokens(observation: Conditioning) -> int:
    """What is read once per observation: tokens of images and words, or of features."""
    given = observation.token_mask if observation.prefix is None else observation.prefix.mask
    return int(given.shape[1])


def _counters(network: VelocityNetwork, observation: Conditioning) -> dict[str, list[None]]:
    """Lists that grow with each pass of the vision tower, and with each run of layers over the prefix's tokens."""
    from flow_policy_ros.models.suffix import DeepFusion

    images: list[None] = []
    prefixes: list[None] = []
    if isinstance(network, DeepFusion):
        network.prefix.vlm.vision_model.register_forward_hook(lambda *_: images.append(None))
        length = _prefix_tokens(observation)

        def note(module: Any, given: tuple[torch.Tensor, ...], options: dict[str, Any]) -> None:
            hidden = given[0] if given else options["hidden_states"]
            if hidden.shape[1] >= length:  # state and actions alone are fewer
                prefixes.append(None)

        assert length > HORIZON + 1
        network.prefix.text.layers[0].register_forward_pre_hook(note, with_kwargs=True)
    else:
        reader = {"DeepFeatures": "prefix", "DiTCross": "memory", "ResidualMLP": "observe"}[type(network).__name__]
        network.get_submodule(reader).register_forward_hook(lambda *_: prefixes.append(None))
    return {"image_passes": images, "prefix_passes": prefixes}


def _parts(network: VelocityNetwork, observation: Conditioning, repeats: int) -> dict[str, float | None]:
    """Medians of what a chunk consists of, in ms: seeing (None where features come ready), conditioning, one solver step."""
    import dataclasses

    import torch

    from flow_policy_ros.models.prefix_inputs import PrefixInputs
    from flow_policy_ros.models.suffix import DeepFusion

    see = None
    if isinstance(network, DeepFusion):
        prefix = observation.prefix
        assert isinstance(prefix, PrefixInputs)
        see = _median(lambda: network.see(prefix), repeats)
        observation = dataclasses.replace(observation, prefix=network.see(prefix))
    condition = _median(lambda: network.condition(observation), repeats)
    x, t, cache = torch.randn(1, HORIZON, ACTION), torch.rand(1), network.condition(observation)
    return {"see_ms": see, "condition_ms": condition, "step_ms": _median(lambda: network.velocity(x, t, cache), repeats)}


def _chunk(network: VelocityNetwork, observation: Conditioning, cached: bool) -> Callable[[], object]:
    """Makes a chunk of an observation never seen before, the prefix computed once or in each step."""
    import torch

    from flow_policy_ros.flow.solvers import make_solver

    noise, solver = torch.randn(1, HORIZON, ACTION), make_solver("euler")

    def kept() -> object:
        cache = network.condition(observation)
        return solver.solve(lambda x, t: network.velocity(x, t, cache), noise, STEPS)

    def anew() -> object:
        return solver.solve(lambda x, t: network.velocity(x, t, network.condition(observation)), noise, STEPS)

    return kept if cached else anew


def _timed(call: Callable[[], object], repeats: int) -> list[float]:
    """Times of ``WARM`` calls and ``repeats`` more in ms, or of as many as fit into ``SECONDS``, at least one."""
    times: list[float] = []
    begin = time.perf_counter()
    while not times or (len(times) < WARM + repeats and time.perf_counter() - begin < SECONDS):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _median(call: Callable[[], object], repeats: int) -> float:
    times = _timed(call, repeats)
    return _percentile(times[WARM:] or times, 50)


def _percentile(times: list[float], which: int) -> float:
    import numpy as np

    return round(float(np.percentile(times, which)), 3)
