"""A velocity network as two ONNX graphs: what is computed once per chunk, and one evaluation of the velocity.

Any solver, any number of steps, guidance and committed prefixes then work on top as they do without. Running them is
``exported``'s affair.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flow_policy_ros.models.conditioning import Conditioning, NetworkShape
from flow_policy_ros.models.network import VelocityNetwork
from flow_policy_ros.models.registry import VLM_NETWORKS
from flow_policy_ros.policy.checkpoint import WEIGHTS, CheckpointError, file_sha256, load_checkpoint, write_text

FOLDER, MANIFEST = "graphs", "graphs.json"
CONDITION, VELOCITY = "condition.onnx", "velocity.onnx"
OBSERVATION = ("state", "tokens", "token_mask", "embodiment")
"""Inputs of the first graph, as far as the network reads them."""


class ExportError(ValueError):
    """A network that cannot be exported, or graphs that cannot be used; one paragraph with the remedy."""


@dataclass(frozen=True)
class Manifest:
    """What ``graphs.json`` holds: which weights the graphs were made of, the hash of each graph, and whether they take samples in
    batches of any size, or one at a time (where the exporter fixed the size)."""

    weights_sha256: str
    files: dict[str, str]
    batches: bool

    @staticmethod
    def read(checkpoint: Path) -> Manifest:
        """Of a checkpoint folder, checked against its weights and the files. Raises ``ExportError``."""
        folder, remedy = checkpoint / FOLDER, f"make them with: flow_policy export {checkpoint}"
        try:
            content = json.loads((folder / MANIFEST).read_text())
            files = {name: str(content["files"][name]) for name in (CONDITION, VELOCITY)}
            manifest = Manifest(str(content["weights_sha256"]), files, bool(content["batches"]))
        except FileNotFoundError:
            raise ExportError(f"checkpoint {checkpoint} has no exported graphs ({FOLDER}/{MANIFEST}); {remedy}.") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ExportError(f"{folder / MANIFEST} cannot be used ({error!r}); {remedy}.") from error
        if manifest.weights_sha256 != file_sha256(checkpoint / WEIGHTS):
            raise ExportError(f"the graphs in {folder} were made of other weights than {checkpoint / WEIGHTS}; {remedy}.")
        for name, sha256 in manifest.files.items():
            if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
                raise ExportError(f"{folder / name} is missing or not the file that was exported; {remedy}.")
        return manifest


def write_graphs(checkpoint: Path) -> Manifest:
    """Write the graphs of a checkpoint folder into its sub-folder. Raises ``CheckpointError`` and ``ExportError``."""
    try:
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError as error:
        raise ExportError(f"{error.name} is not installed; pip install -r requirements/export.txt.") from error
    if not (checkpoint / WEIGHTS).is_file():
        raise CheckpointError(f"{checkpoint} is no checkpoint: it has no {WEIGHTS}.")
    model = load_checkpoint(checkpoint).model
    if model.network_name in VLM_NETWORKS:
        raise ExportError(
            f"{checkpoint} holds a vision-language model (network {model.network_name}), which runs in torch only; such a policy "
            "cannot be exported."
        )
    return write_network(model.network, checkpoint)


def write_network(network: VelocityNetwork, checkpoint: Path) -> Manifest:
    """Write the graphs of ``network``, which has the weights of the checkpoint folder. Raises ``ExportError``."""
    folder = checkpoint / FOLDER
    folder.mkdir(exist_ok=True)
    try:
        _write(network, folder, batches=True)
        batches = True
    except ExportError:  # some layers are exported for one size only
        _write(network, folder, batches=False)
        batches = False
    files = {name: file_sha256(folder / name) for name in (CONDITION, VELOCITY)}
    manifest = Manifest(file_sha256(checkpoint / WEIGHTS), files, batches)
    write_text(folder / MANIFEST, json.dumps(dataclasses.asdict(manifest), indent=1) + "\n")
    return manifest


def _write(network: VelocityNetwork, folder: Path, batches: bool) -> None:
    size = 2 if batches else 1
    observation, shape = example(network.shape, size), network.shape
    with torch.no_grad():
        cache = network.condition(observation)
        tensors, others = tensors_of(cache), tensors_of(network.condition(example(shape, size + 1)))
        names = [f"cache_{k}" for k in range(len(tensors))]
        given = {name: getattr(observation, name) for name in OBSERVATION}
        into = {"x": torch.zeros(size, shape.horizon, shape.action), "t": torch.zeros(size)}
        into |= dict(zip(names, tensors, strict=True))
        # What is as large for another batch belongs to the network, not to a sample.
        pairs = zip(names, tensors, others, strict=True)
        own = {name: [k for k in range(a.ndim) if a.shape[k] != b.shape[k]] for name, a, b in pairs}
        free = {name: own.get(name, [0]) if batches else [] for name in (*given, *into)}
        _export(ConditionModule(network), given, free, names, folder / CONDITION)
        _export(VelocityModule(network, cache), into, free, ["velocity"], folder / VELOCITY)


def example(shape: NetworkShape, batch: int = 1) -> Conditioning:
    """Observations of zeros, all tokens real."""
    return Conditioning.of(torch.zeros(batch, shape.state), torch.zeros(batch, shape.tokens, shape.channels))


def tensors_of(cache: Any) -> list[torch.Tensor]:
    """The tensors in a network's cache, in a fixed order. Raises ``ExportError`` for a cache of other things."""
    if isinstance(cache, torch.Tensor):
        return [cache]
    if cache is None:
        return []
    return [tensor for part in _parts(cache) for tensor in tensors_of(part)]


def with_tensors(cache: Any, tensors: Iterator[torch.Tensor]) -> Any:
    """``cache`` with its tensors replaced, in the order of ``tensors_of``."""
    if isinstance(cache, torch.Tensor):
        return next(tensors)
    if cache is None:
        return None
    parts = [with_tensors(part, tensors) for part in _parts(cache)]
    kind: Any = type(cache)
    return kind(*parts) if dataclasses.is_dataclass(cache) else kind(parts)


def _parts(cache: Any) -> list[Any]:
    if dataclasses.is_dataclass(cache) and not isinstance(cache, type):
        return [getattr(cache, field.name) for field in dataclasses.fields(cache)]
    if isinstance(cache, list) or type(cache) is tuple:
        return list(cache)
    raise ExportError(f"the network's cache holds a {type(cache).__name__}, expected tensors, tuples, lists and data classes.")


class ConditionModule(nn.Module):
    """Tensors of an observation in, the tensors of the network's cache out."""

    def __init__(self, network: VelocityNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, state: torch.Tensor, tokens: torch.Tensor, token_mask: torch.Tensor, embodiment: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        return tuple(tensors_of(self.network.condition(Conditioning(state, tokens, token_mask, embodiment))))


class VelocityModule(nn.Module):
    """x, t and the tensors of a cache in, the velocity out; ``cache`` shows how the tensors belong together."""

    def __init__(self, network: VelocityNetwork, cache: Any) -> None:
        super().__init__()
        self.network, self._cache = network, cache

    def forward(self, x: torch.Tensor, t: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        return self.network.velocity(x, t, with_tensors(self._cache, iter(tensors)))


def _export(module: nn.Module, inputs: dict[str, torch.Tensor], free: dict[str, list[int]], outputs: list[str], path: Path) -> None:
    """Write the graph of ``module``, whose ``inputs`` may be of any size in their ``free`` dimensions."""
    any_size: Any = torch.export.Dim.DYNAMIC
    sizes: tuple[Any, ...] = tuple({k: any_size for k in free[name]} for name in inputs)
    if isinstance(module, VelocityModule):  # whose cache is one argument
        sizes = (*sizes[:2], sizes[2:])
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                dynamo=True,
                dynamic_shapes=sizes,
                input_names=list(inputs),
                output_names=outputs,
                verbose=False,
            )
        assert program is not None
        partial = path.with_name(path.name + ".partial")
        program.save(partial, external_data=False)
        partial.replace(path)
    except Exception as error:  # the exporter raises whatever its stages raise
        if isinstance(error, ExportError | OSError):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExportError(f"the network cannot be exported to ONNX: {reason} Leave policy.backend at torch.") from error
    finally:
        quiet.setLevel(level)
