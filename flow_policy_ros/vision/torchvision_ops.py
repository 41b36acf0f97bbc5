"""Make ``import torchvision`` work beside a torch that its compiled library was not built for.

The torchvision wheels of the package index are CUDA builds: beside a CPU-only torch their operators do not load, and
the import fails because ``torchvision::nms`` is not declared. Here the two operators that the import needs are
declared, ``nms`` with a CPU implementation. A machine whose torchvision loads its own operators is left alone. No
detector logic here.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

_libraries: list[torch.library.Library] = []  # a declaration lasts as long as its Library object


def greedy_nms(boxes: NDArray[np.float32], scores: NDArray[np.float32], iou_threshold: float) -> NDArray[np.int64]:
    """Indices (K,) of the boxes (N, 4) xyxy that non-maximum suppression keeps, best score (N,) first."""
    left_top, right_bottom = boxes[:, :2], boxes[:, 2:]
    area = np.prod(np.maximum(right_bottom - left_top, 0), axis=1)
    order = np.argsort(-scores, kind="stable")
    keep = []
    while order.size:
        best, order = order[0], order[1:]
        keep.append(best)
        extent = np.minimum(right_bottom[best], right_bottom[order]) - np.maximum(left_top[best], left_top[order])
        shared = np.prod(np.maximum(extent, 0), axis=1)
        order = order[shared <= iou_threshold * (area[best] + area[order] - shared)]
    return np.array(keep, dtype=np.int64)


def _own_operators_load() -> bool:
    """Whether torchvision's compiled library loads; loading it here is what its own import would do."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ImportError("torchvision is not installed; install the vision requirements (pip install torchvision).")
    for library in sorted(Path(spec.origin).parent.glob("_C*.so")) + sorted(Path(spec.origin).parent.glob("_C*.pyd")):
        try:
            torch.ops.load_library(str(library))
            return True
        except (OSError, RuntimeError):
            continue
    return False


def ensure_torchvision() -> None:
    """Import torchvision, with stand-in operators if its own do not load. Does nothing when it is already imported."""
    if "torchvision" in sys.modules:
        return
    stand_in = not _own_operators_load()
    if stand_in:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl("nms", _nms, "CPU")
        _libraries.append(library)
    import torchvision.extension

    if stand_in:
        # Only now: during its import torchvision attaches more to each operator of a library that it believes loaded.
        torchvision.extension._has_ops = lambda: True


def _nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    return torch.from_numpy(greedy_nms(boxes.float().numpy(), scores.float().numpy(), iou_threshold))
