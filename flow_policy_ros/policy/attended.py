"""Where in the camera images the action tokens' attention lies: maps of a policy's observation, stream by stream.

The attention itself is ``models.attention_maps``'; drawing it is ``vision.heat_map``'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from flow_policy_ros.models.attention_maps import attention_at, heat_maps
from flow_policy_ros.models.conditioning import Conditioning
from flow_policy_ros.models.prefix import Embedded, Prefix
from flow_policy_ros.models.suffix import DeepFusion
from flow_policy_ros.policy.codec import vector_streams
from flow_policy_ros.policy.compiled import CompiledNetwork
from flow_policy_ros.policy.deployed import empty_observation
from flow_policy_ros.policy.exported import ExportedNetwork
from flow_policy_ros.policy.flow_policy import FlowPolicy
from flow_policy_ros.runtime.contract import FRAMES, Contract, StreamContract
from flow_policy_ros.vision.heat_map import Box


@dataclass(frozen=True)
class Patches:
    """A ``stream`` whose first tokens are the cells of ``grid`` (rows, columns) over an image, ``levels`` times one after another.

    ``covered`` is the rectangle of the image that they tile, in pixels; None, where the checkpoint does not tell: all of it.
    """

    stream: StreamContract
    grid: tuple[int, int]
    levels: int = 1
    covered: Box | None = None


def patches_of(policy: FlowPolicy) -> tuple[Patches, ...]:
    """The streams over whose images the attention of ``policy`` can be drawn, of those that show what the camera sees now.

    Raises ``ValueError``, with the reason, where there is none.
    """
    if isinstance(policy.model.network, ExportedNetwork | CompiledNetwork):
        raise ValueError("exported and compiled networks do not tell their attention; set policy.backend to torch to see it.")
    observation = policy.conditioning(empty_observation(policy.contract))
    attention_at(policy.model.network, observation, policy.noise(0, 0), 0.0, 1)  # refuses networks that attend to nothing
    tokens = [patches for stream in vector_streams(policy.contract) if (patches := _of_tokens(stream)) is not None]
    found = _of_frames(policy) if isinstance(policy.model.network, DeepFusion) else tokens
    if not found:
        raise ValueError(
            "no stream of the checkpoint has tokens in a grid over a camera's newest image; use yolo_tokens, backbone or vlm "
            "features of one, or a vision-language model that sees the image whole."
        )
    return tuple(found)


def heats(
    policy: FlowPolicy, observation: Conditioning, noise: torch.Tensor, patches: Sequence[Patches]
) -> list[NDArray[np.float32]]:
    """The share of attention (rows, columns) that lies on each cell of each of ``patches``, for a batch of one observation.

    The mean over heads, layers and the points of the chunk, levels added up, in the step in which a chunk is begun from ``noise``
    (1, H, A): noise tells nothing of the chunk yet, so that what is seen decides. All tokens' together are at most 1.
    """
    network = policy.model.network
    attention = attention_at(network, observation, noise, 0.0, 1).mean
    frames, seen = policy.contract.of_kind(FRAMES), observation.prefix
    maps = []
    for one in patches:
        if isinstance(seen, Prefix | Embedded):
            heat = heat_maps(attention, seen.image, one.grid, len(frames))[0, frames.index(one.stream)]
        else:
            heat = heat_maps(_cells(attention, policy.contract, one), slice(None), one.grid, one.levels)[0].sum(dim=0)
        maps.append(heat.cpu().numpy())
    return maps


def _cells(attention: torch.Tensor, contract: Contract, patches: Patches) -> torch.Tensor:
    """Of the shares (1, H, L) of the network's tokens those (1, H, cells) of the cells; 0 of cells that the policy does not use."""
    streams = vector_streams(contract)
    before = sum(len(stream.rows) for stream in streams[: streams.index(patches.stream)])
    cells = patches.levels * patches.grid[0] * patches.grid[1]
    used = [row for row in patches.stream.rows if row < cells]  # rows ascend: these are its first
    shares = attention.new_zeros(*attention.shape[:2], cells)
    shares[:, :, used] = attention[:, :, before : before + len(used)]
    return shares


def _of_tokens(stream: StreamContract) -> Patches | None:
    grid, levels = stream.extractor.get("grid"), len(stream.extractor.get("levels", (0,)))
    if stream.moment != "newest" or not grid or levels * grid[0] * grid[1] > stream.tokens:
        return None
    return Patches(stream, (int(grid[0]), int(grid[1])), levels)


def _of_frames(policy: FlowPolicy) -> list[Patches]:
    found = []
    for stream in policy.contract.of_kind(FRAMES):
        height, width = (int(n) for n in stream.extractor["size"])
        layout = policy.codec.prompter.layout((height, width)) if policy.codec.prompter is not None else None
        if layout is not None and layout.grid is not None and stream.moment == "newest":
            found.append(Patches(stream, layout.grid, 1, layout.covered))
    return found
