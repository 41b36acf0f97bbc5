"""Two small ImageNet networks as plain torch modules, with the parameter names of the weights that are published for them.

MobileNetV2 (arXiv:1801.04381; names of torchvision) and EfficientNet-Lite0 (names of efficientnet_lite_pytorch). Loading and the
way of images into them are in ``vision.backbone``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

# expansion, channels, repeats, stride, kernel
MOBILENET_V2 = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 32, 3, 2, 3),
    (6, 64, 4, 2, 3),
    (6, 96, 3, 1, 3),
    (6, 160, 3, 2, 3),
    (6, 320, 1, 1, 3),
)
EFFICIENTNET_LITE0 = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
STEM = 32
HEAD = 1280


def _rows(table: tuple[tuple[int, int, int, int, int], ...]) -> list[tuple[int, int, int, int, int]]:
    """(in, expanded, out, stride, kernel) of each block."""
    rows, before = [], STEM
    for expansion, channels, repeats, stride, kernel in table:
        for i in range(repeats):
            rows.append((before, before * expansion, channels, stride if i == 0 else 1, kernel))
            before = channels
    return rows


def _unit(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, kernel: int) -> None:
        super().__init__()
        self.keeps = stride == 1 and inputs == outputs
        widen = [_unit(inputs, inner)] if inner != inputs else []
        self.conv = nn.Sequential(
            *widen, _unit(inner, inner, kernel, stride, inner), nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.keeps else self.conv(x)


class MobileNetV2(nn.Module):
    """Images (B, 3, h, w), normalised, to logits (B, 1000); ``maps`` gives the features after each change of resolution."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [_InvertedResidual(*row) for row in _rows(MOBILENET_V2)]
        self.features = nn.Sequential(_unit(3, STEM, 3, 2), *blocks, _unit(320, HEAD))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(HEAD, 1000))

    def maps(self, x: torch.Tensor) -> dict[int, torch.Tensor]:
        """{stride: (B, channels, h / stride, w / stride)}: the last, and deepest, of each stride."""
        found, height = {}, x.shape[-2]
        for layer in self.features:
            x = layer(x)
            found[_stride(height, x.shape[-2])] = x
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean(dim=(2, 3)))


class _SameConv2d(nn.Conv2d):
    """Padded as TensorFlow does: what cannot be shared equally goes to the right and to the bottom."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pads: list[int] = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            missing = max(0, (-(-size // stride) - 1) * stride + kernel - size)
            pads += [missing // 2, missing - missing // 2]
        return self._conv_forward(F.pad(x, pads), self.weight, self.bias)


class _MBConv(nn.Module):
    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, kernel: int) -> None:
        super().__init__()
        self.keeps = stride == 1 and inputs == outputs
        self.widens = inner != inputs
        if self.widens:
            self._expand_conv = _SameConv2d(inputs, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=1e-3)
        self._depthwise_conv = _SameConv2d(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, eps=1e-3)
        self._project_conv = _SameConv2d(inner, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        h = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(h)))))
        return x + h if self.keeps else h


class EfficientNetLite0(nn.Module):
    """As ``MobileNetV2``: no squeeze and excitation, ReLU6, which is what Lite means."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv2d(3, STEM, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(STEM, eps=1e-3)
        self._blocks = nn.ModuleList(_MBConv(*row) for row in _rows(EFFICIENTNET_LITE0))
        self._conv_head = _SameConv2d(320, HEAD, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(HEAD, eps=1e-3)
        self._fc = nn.Linear(HEAD, 1000)

    def maps(self, x: torch.Tensor) -> dict[int, torch.Tensor]:
        """As in ``MobileNetV2``."""
        height = x.shape[-2]
        x = F.relu6(self._bn0(self._conv_stem(x)))
        found = {_stride(height, x.shape[-2]): x}
        for block in self._blocks:
            x = block(x)
            found[_stride(height, x.shape[-2])] = x
        x = F.relu6(self._bn1(self._conv_head(x)))
        return {**found, _stride(height, x.shape[-2]): x}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._fc(self.maps(x)[32].mean(dim=(2, 3)))


def _stride(before: int, after: int) -> int:
    return int(2 ** round(float(torch.log2(torch.tensor(before / after)))))


NETWORKS: dict[str, type[MobileNetV2] | type[EfficientNetLite0]] = {
    "mobilenet_v2": MobileNetV2,
    "efficientnet_lite0": EfficientNetLite0,
}
