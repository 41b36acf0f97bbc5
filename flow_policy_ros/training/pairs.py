"""Pairs (noise, the teacher's own chunk) on disk: what reflow trains on.

A folder of shards (safetensors) and ``pairs.json``, which says whose pairs they are. Making them can be interrupted and
continued. Noise is drawn by shard number, so that a shard can be made, and checked, on its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from flow_policy_ros.models.conditioning import Conditioning
from flow_policy_ros.policy.checkpoint import write_text
from flow_policy_ros.policy.flow_model import FlowModel
from flow_policy_ros.training.config import TrainError
from flow_policy_ros.vision.tensor_file import write_tensors

INFO = "pairs.json"
SHARD = 4096
BLOCK = 256
"""Pairs that the teacher samples together."""
DIRECTION = "noise to data"


@dataclass(frozen=True)
class PairInfo:
    """Whose pairs: ``weights_sha256`` and ``normaliser_sha256`` (one per embodiment) of the teacher, the ``solver`` and
    ``steps`` that made the chunks, the ``seed`` of noise and observations, ``count`` pairs wanted."""

    weights_sha256: str
    normaliser_sha256: tuple[str, ...]
    solver: str
    steps: int
    seed: int
    count: int
    direction: str = DIRECTION

    @property
    def shards(self) -> int:
        """Number of shards; the last one may be shorter."""
        return -(-self.count // SHARD)

    def length(self, shard: int) -> int:
        """Pairs in a shard."""
        return min(SHARD, self.count - shard * SHARD)


@dataclass(frozen=True)
class Pairs:
    """``noise`` and ``chunk`` (N, H, A) and the ``observation`` (N) that the teacher saw; all normalised, float32."""

    noise: torch.Tensor
    chunk: torch.Tensor
    observation: Conditioning

    def take(self, which: slice | torch.Tensor) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.noise[which], self.chunk[which], self.observation.take(which))

    @staticmethod
    def cat(parts: Sequence[Pairs]) -> Pairs:
        """Pairs one after the other."""
        return Pairs(
            torch.cat([pairs.noise for pairs in parts]),
            torch.cat([pairs.chunk for pairs in parts]),
            Conditioning.cat([pairs.observation for pairs in parts]),
        )


def keyed_pair_noise(model: FlowModel, observation: Conditioning, seed: int, shard: int) -> torch.Tensor:
    """The noise (N, H, A) of a shard: depends on (``seed``, ``shard``) alone, zero on padded dimensions."""
    key = int(np.random.SeedSequence([seed, shard, 7]).generate_state(1, np.uint64)[0] >> 1)
    return model.draw_noise(observation, torch.Generator().manual_seed(key))


def make_pairs(
    folder: Path,
    info: PairInfo,
    teacher: FlowModel,
    observations: Iterator[Conditioning],
    progress: Callable[[int, int], None] = lambda done, total: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> bool:
    """Make the shards that are missing; False when interrupted before the last one.

    ``observations`` yields one batch per shard, from shard 0 on, of at least ``info.length(shard)``; ``progress(done,
    total)`` is called with counts of shards. Raises ``TrainError`` when the folder holds pairs of another teacher.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / INFO).is_file():
        before = read_info(folder)
        if _without_count(before) != _without_count(info):
            raise TrainError(
                f"{folder} holds pairs of another teacher or other settings ({_difference(before, info)}). Give another "
                "--pairs folder, or remove this one."
            )
    write_text(folder / INFO, json.dumps(asdict(info), indent=2) + "\n")
    for shard in range(info.shards):
        observation = next(observations)
        path, length = _path(folder, shard), info.length(shard)
        if not (path.is_file() and _length(path) >= length):
            write_tensors(path, _tensors(sample_pairs(teacher, info, observation.take(slice(length)), shard)))
        progress(shard + 1, info.shards)
        if interrupted():
            return shard + 1 == info.shards
    return True


@torch.inference_mode()
def sample_pairs(
    teacher: FlowModel, info: PairInfo, observation: Conditioning, shard: int, rows: slice = slice(None)
) -> Pairs:
    """The ``rows`` of a shard's pairs, by the teacher's solver; ``observation`` is the whole shard's.

    Rows that begin and end at a multiple of ``BLOCK`` come out bit for bit as in the whole.
    """
    noise = keyed_pair_noise(teacher, observation, info.seed, shard)[rows]
    observation = observation.take(rows)
    blocks = [slice(k, k + BLOCK) for k in range(0, len(noise), BLOCK)]
    chunks = [teacher.sample(observation.take(block), info.steps, noise[block]).x for block in blocks]
    return Pairs(noise, torch.cat(chunks), observation)


def read_info(folder: Path) -> PairInfo:
    """What the folder holds. Raises ``TrainError``."""
    try:
        content = json.loads((folder / INFO).read_text())
        return PairInfo(**content | {"normaliser_sha256": tuple(content["normaliser_sha256"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TrainError(f"{folder} holds no readable {INFO} ({error}). Make the pairs again.") from error


def read_pairs(folder: Path, info: PairInfo) -> Pairs:
    """All pairs. Raises ``TrainError`` naming the shard that is missing or damaged."""
    return Pairs.cat([read_shard(folder, shard).take(slice(info.length(shard))) for shard in range(info.shards)])


def read_shard(folder: Path, shard: int) -> Pairs:
    """One shard. Raises ``TrainError``."""
    path = _path(folder, shard)
    try:
        content = load_file(path)
        fields = {name: content[f"observation/{name}"] for name in ("state", "tokens", "token_mask", "embodiment")}
        return Pairs(content["noise"], content["chunk"], Conditioning(**fields))
    except (OSError, SafetensorError, KeyError) as error:
        raise TrainError(f"pairs {path} cannot be read ({error}). Remove the file and run again: it is made anew.") from error


def _tensors(pairs: Pairs) -> dict[str, torch.Tensor]:
    seen = vars(pairs.observation)
    return {"noise": pairs.noise.contiguous(), "chunk": pairs.chunk.contiguous()} | {
        f"observation/{name}": value.contiguous() for name, value in seen.items() if value is not None
    }


def _path(folder: Path, shard: int) -> Path:
    return folder / f"shard_{shard:05d}.safetensors"


def _length(path: Path) -> int:
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
            return int(file.get_slice("noise").get_shape()[0])
    except (OSError, SafetensorError):
        return 0


def _without_count(info: PairInfo) -> dict[str, object]:
    return {name: value for name, value in asdict(info).items() if name != "count"}


def _difference(before: PairInfo, now: PairInfo) -> str:
    ours, theirs = _without_count(now), _without_count(before)
    return ", ".join(f"{name}: {theirs[name]} there, {ours[name]} now" for name in ours if ours[name] != theirs[name])
