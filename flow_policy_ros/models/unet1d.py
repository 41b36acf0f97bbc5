"""Temporal U-Net over the chunk: 1D convolutions along time at several lengths, with skip connections.

Chi et al. 2023 (Diffusion Policy), section III-A, with flow time in place of the diffusion step: blocks of
convolution, GroupNorm and activation, scaled and shifted channel by channel (FiLM) by time and observation. A level of odd
length is extended by one step on its way up and cut, so any horizon from 1 on works.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.models.embeddings import time_features, vector_features
from flow_policy_ros.models.network import VelocityNetwork, zero_init


@dataclass(frozen=True)
class UNet1DConfig:
    """Sizes: ``width`` channels at full length, doubled at each further one of ``levels`` as the length halves;
    ``blocks`` per level and direction; ``kernel`` of the convolutions (odd), ``groups`` of the norms (which divide the
    width); embedding widths."""

    width: int = 64
    levels: int = 3
    blocks: int = 1
    kernel: int = 5
    groups: int = 8
    time_width: int = 64
    observation_width: int = 256


class _Convolution(nn.Conv1d):
    """nn.Conv1d, which for a few samples (as when sampling) is computed as windows times a matrix: on a CPU the library
    needs three times as long for so short sequences, and half as long for large batches."""

    few = 4

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """(B, inputs, N) to (B, outputs, ceil(N / stride))."""
        if len(h) > self.few:
            return super().forward(h)
        (width,), (stride,) = self.kernel_size, self.stride
        windows = F.pad(h, (width // 2, width // 2)).unfold(2, width, stride).transpose(1, 2).flatten(2)
        return F.linear(windows, self.weight.flatten(1), self.bias).transpose(1, 2)


class _Block(nn.Module):
    """Two convolutions on h (B, inputs, N), the first one's result scaled and shifted by (B, outputs, 1), beside a skip."""

    def __init__(self, inputs: int, outputs: int, config: UNet1DConfig) -> None:
        super().__init__()
        padding = config.kernel // 2
        self.conv1 = _Convolution(inputs, outputs, config.kernel, padding=padding)
        self.norm1 = nn.GroupNorm(config.groups, outputs)
        self.conv2 = _Convolution(outputs, outputs, config.kernel, padding=padding)
        self.norm2 = nn.GroupNorm(config.groups, outputs)
        self.skip = nn.Identity() if inputs == outputs else _Convolution(inputs, outputs, 1)

    def forward(self, h: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """(B, inputs, N) to (B, outputs, N)."""
        film = torch.addcmul(shift, F.silu(self.norm1(self.conv1(h))), scale + 1.0)
        return F.silu(self.norm2(self.conv2(film))) + self.skip(h)


class _Level(nn.Module):
    """Blocks one after the other at one length, the first of them from ``inputs`` to ``outputs`` channels."""

    def __init__(self, inputs: int, outputs: int, config: UNet1DConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(outputs if k else inputs, outputs, config) for k in range(config.blocks))
        self.film = 2 * outputs * config.blocks

    def forward(self, h: torch.Tensor, film: torch.Tensor) -> torch.Tensor:
        """(B, inputs, N) to (B, outputs, N), modulated by (B, ``film``, 1)."""
        factors = film.chunk(2 * len(self.blocks), dim=1)
        for k, block in enumerate(self.blocks):
            h = block(h, factors[2 * k], factors[2 * k + 1])
        return h


class UNet1D(VelocityNetwork):
    """See the module. The cache is the observation's share of the FiLM of all blocks, (B, sum of 2 channels).

    Time per step enters as an extra channel of each step; the blocks are modulated by the chunk's *earliest* time, so
    steps that are already clean (time 1) do not change what the network knows of the noisy ones. Raises ``ValueError`` for
    groups that do not divide the width and for an even kernel.
    """

    def __init__(self, shape: NetworkShape, config: UNet1DConfig) -> None:
        super().__init__(shape)
        if config.width % config.groups:
            raise ValueError(f"width {config.width} is not a multiple of its {config.groups} groups; choose one that is.")
        if config.kernel % 2 == 0:
            raise ValueError(f"kernel is {config.kernel}, expected an odd number, so that lengths stay.")
        channels = [config.width * 2**level for level in range(config.levels)]
        upwards = channels[:-1][::-1]
        inputs = [shape.action + 1, *channels[:-1]]
        self.down = nn.ModuleList(_Level(i, c, config) for i, c in zip(inputs, channels, strict=True))
        self.shorten = nn.ModuleList(_Convolution(c, c, 3, stride=2, padding=1) for c in channels[:-1])
        self.middle = _Level(channels[-1], channels[-1], config)
        self.lengthen = nn.ModuleList(nn.Linear(2 * c, 2 * c) for c in upwards)
        self.up = nn.ModuleList(_Level(2 * c, c, config) for c in upwards)
        self.out = zero_init(nn.Linear(config.width, shape.action))

        self.film = [level.film for level in (*self.down, self.middle, *self.up)]
        self.observe = vector_features(shape.vector, config.observation_width)
        self.observation_modulation = zero_init(nn.Linear(config.observation_width, sum(self.film)))
        self.time = time_features(config.time_width)
        self.time_modulation = zero_init(nn.Linear(config.time_width, sum(self.film), bias=False))

    def _condition(self, observation: Conditioning) -> torch.Tensor:
        return self.observation_modulation(self.observe(observation.vector))

    def _velocity(self, x: torch.Tensor, t: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
        per_step = t if t.ndim == 2 else t[:, None].expand(-1, self.shape.horizon)
        earliest = t if t.ndim == 1 else t.amin(dim=1)
        film = list((self.time_modulation(self.time(earliest)) + cache)[:, :, None].split(self.film, dim=1))
        h = torch.cat((x, per_step[:, :, None]), dim=2).transpose(1, 2)
        h = self.down[0](h, film.pop(0))
        skips = []
        for shorten, level in zip(self.shorten, self.down[1:], strict=True):
            skips.append(h)
            h = level(shorten(h), film.pop(0))
        h = self.middle(h, film.pop(0))
        for lengthen, level in zip(self.lengthen, self.up, strict=True):
            skip = skips.pop()
            # Two steps from one (a transposed convolution of width 2): n became ceil(n / 2) and returns as n or n + 1.
            longer = lengthen(h.transpose(1, 2)).unflatten(2, (2, -1)).flatten(1, 2).transpose(1, 2)
            h = level(torch.cat((skip, longer[:, :, : skip.shape[2]]), dim=1), film.pop(0))
        return self.out(h.transpose(1, 2))
