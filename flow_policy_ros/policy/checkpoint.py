"""The checkpoint folder: weights as safetensors, everything else as JSON, nothing pickled.

``model.safetensors``; ``config.json`` (architecture, objective, flow, how trained); ``contract.json`` (what the robot must offer,
with the normalisers and their hash; where one network serves several robots a list of these, in the order of its
embodiments); ``README.md``. A policy that reads camera images and an instruction itself has a folder ``vlm`` besides, with the
processor of its vision-language model (see ``policy.prompt``); that model's weights are among the policy's own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from flow_policy_ros.models.conditioning import NetworkShape
from flow_policy_ros.policy.checkpoint_bounds import check_parameters, check_sizes, parse_json, read_json_text
from flow_policy_ros.policy.codec import Codec, network_shape
from flow_policy_ros.policy.flow_model import FlowConfig, FlowModel
from flow_policy_ros.policy.normaliser import Normaliser, json_sha256
from flow_policy_ros.policy.objectives import ObjectiveError, objective_of
from flow_policy_ros.policy.prompt import FOLDER, Prompter
from flow_policy_ros.runtime.contract import PROMPT, Contract, ContractError
from flow_policy_ros.vision.pretrained import ExtractorError
from flow_policy_ros.vision.tensor_file import write_tensors

WEIGHTS, CONFIG, CONTRACT, README = "model.safetensors", "config.json", "contract.json", "README.md"
KIND = "vector_flow"
FORMAT = 2
UNLIKE_FLOW = 3
READABLE = (1, FORMAT, UNLIKE_FLOW)
"""Format 1 knew one embodiment, and of the flow only its time sampler and solver. What is no flow has format 3, so that versions
which would sample it as one refuse it."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; one paragraph with the remedy."""


@dataclass(frozen=True)
class Checkpoint:
    """A policy that can be sampled: ``model`` on normalised tensors, ``codecs`` around it, one per embodiment in the
    model's order, ``training`` its history."""

    model: FlowModel
    codecs: tuple[Codec, ...]
    training: dict[str, Any] = field(default_factory=dict)

    def codec_of(self, robot: str | None = None) -> Codec:
        """The codec of ``robot``, or the only one. Raises ``CheckpointError`` listing the robots there are."""
        if len(self.codecs) == 1:
            return self.codecs[0]  # another robot of the same joints may use it: Contract.check_robot decides
        for codec in self.codecs:
            if codec.contract.robot == robot:
                return codec
        raise CheckpointError(
            f"robot {robot!r} is none of the checkpoint's embodiments, {[c.contract.robot for c in self.codecs]}. Give the "
            "robot file of one of these, or train with episodes of this robot."
        )


def save_checkpoint(folder: str | Path, checkpoint: Checkpoint, readme: str = "", half: bool = False) -> None:
    """Write the folder; each file is replaced at once. ``half`` stores float16 weights (loaded as float32).

    Raises ``CheckpointError`` for a checkpoint that could not be loaded again: the processor of its prompt is missing, or not the
    one that the contract names.
    """
    folder = Path(folder)
    prompter = _prompter_of(checkpoint.codecs)
    folder.mkdir(parents=True, exist_ok=True)
    if prompter is not None:
        prompter.save(folder / FOLDER)
    model = checkpoint.model
    weights = {
        name: tensor.detach().to("cpu", torch.float16 if half else torch.float32).contiguous()
        for name, tensor in model.state_dict().items()
    }
    write_tensors(folder / WEIGHTS, weights)
    config = {
        "format": FORMAT if model.objective == FlowModel.objective else UNLIKE_FLOW,
        "kind": KIND,
        "weights_sha256": file_sha256(folder / WEIGHTS),
        "network": {"name": model.network_name, "sizes": dataclasses.asdict(model.network_config)},
        "shape": dataclasses.asdict(model.shape),
        "objective": model.objective,
        "flow": {"path": "straight", "time": "0 noise, 1 data", **dataclasses.asdict(model.flow)},
        "training": checkpoint.training,
    }
    contracts = [_contract_json(codec) for codec in checkpoint.codecs]
    contract = contracts[0] if len(contracts) == 1 else {"embodiments": contracts}
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    write_text(folder / CONTRACT, json.dumps(contract, indent=2) + "\n")
    write_text(folder / README, readme or "# Flow policy\n")


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Read a checkpoint folder; the model is in eval mode, float32, on the CPU. Raises ``CheckpointError``."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"checkpoint {folder} is not a folder. Give the folder that holds {WEIGHTS}, {CONFIG} and {CONTRACT}, as "
            "`flow_policy train` writes it."
        )
    config, content = _read_json(folder, CONFIG), _read_json(folder, CONTRACT)
    if config.get("kind") != KIND or config.get("format") not in READABLE:
        raise CheckpointError(
            f"checkpoint {folder} is of kind {config.get('kind')!r}, format {config.get('format')!r}; expected "
            f"{KIND!r}, format {' or '.join(map(str, READABLE))}. Use the version of this package that wrote it."
        )
    try:
        entries = content.get("embodiments", [content])
        contracts = [Contract.from_json(entry) for entry in entries]
        shape = NetworkShape(**config["shape"]) if "shape" in config else network_shape(contracts)
        check_sizes(folder / WEIGHTS, dataclasses.asdict(shape), config["network"]["sizes"])
        if shape.embodiments != len(contracts):
            raise ContractError(f"{CONTRACT} has {len(contracts)} embodiments, expected {shape.embodiments} by {CONFIG}.")
        prompter = _read_prompter(folder, contracts)
        codecs = tuple(
            _codec(folder, entry, contract, str(entry.get("action_space", config.get("action_space"))), shape, number, prompter)
            for number, (entry, contract) in enumerate(zip(entries, contracts, strict=True))
        )
        network, objective = config["network"], objective_of(str(config.get("objective", FlowModel.objective)))
        flow = FlowConfig(**{name: value for name, value in config["flow"].items() if name not in ("path", "time")})
        joints = tuple(len(contract.action_joints) for contract in contracts)

        def build() -> FlowModel:
            return objective(str(network["name"]), network["sizes"], shape, flow, joints)

        check_parameters(folder / WEIGHTS, build)
        model = build()
    except CheckpointError:
        raise
    except ObjectiveError as error:
        raise CheckpointError(f"checkpoint {folder}: {error}") from error
    except KeyError as error:
        raise CheckpointError(
            f"checkpoint {folder}: {CONFIG} or {CONTRACT} lacks {error}; copy the whole folder again."
        ) from error
    except (ValueError, TypeError, AttributeError, OverflowError, RuntimeError, MemoryError) as error:
        raise CheckpointError(
            f"checkpoint {folder}: {error} Copy the whole folder again, or use the version of this package that "
            "wrote it."
        ) from error
    _load_weights(model, folder / WEIGHTS, config.get("weights_sha256"))
    return Checkpoint(model.eval(), codecs, dict(config.get("training", {})))


def _contract_json(codec: Codec) -> dict[str, Any]:
    normaliser = {
        "observation": codec.observation_normaliser.to_json(),
        "action": codec.action_normaliser.to_json(),
    }
    return codec.contract.to_json() | {
        "action_space": codec.action_space,
        "normaliser": normaliser,
        "normaliser_sha256": json_sha256(normaliser),
    }


def _codec(
    folder: Path,
    content: dict[str, Any],
    contract: Contract,
    action_space: str,
    shape: NetworkShape,
    embodiment: int,
    prompter: Prompter | None,
) -> Codec:
    normaliser = content["normaliser"]
    if json_sha256(normaliser) != content["normaliser_sha256"]:
        raise CheckpointError(
            f"checkpoint {folder}: the normaliser statistics in {CONTRACT} do not match their hash. The file was "
            "edited or belongs to another checkpoint; copy the whole folder again from where it was trained."
        )
    return Codec(
        contract,
        Normaliser.from_json(normaliser["observation"]),
        Normaliser.from_json(normaliser["action"]),
        action_space,
        shape,
        embodiment,
        prompter if contract.of_kind(PROMPT) else None,
    )


def _prompter_of(codecs: tuple[Codec, ...]) -> Prompter | None:
    """The one processor of all codecs that read a prompt; None where none does."""
    reading = [codec for codec in codecs if codec.contract.of_kind(PROMPT)]
    for codec in reading:
        if codec.prompter is None:
            raise CheckpointError(f"robot '{codec.contract.robot}' has a prompt, but its codec has no processor to be saved too.")
        _require_processor(codec.contract, codec.prompter)
    found = {codec.prompter.sha256: codec.prompter for codec in reading if codec.prompter is not None}
    if len(found) > 1:
        raise CheckpointError(f"the embodiments read their prompts with {len(found)} processors, expected one for all.")
    return next(iter(found.values()), None)


def _read_prompter(folder: Path, contracts: list[Contract]) -> Prompter | None:
    """The processor in the checkpoint, where a contract has a prompt. Raises ``CheckpointError``."""
    reading = [contract for contract in contracts if contract.of_kind(PROMPT)]
    if not reading:
        return None
    try:
        if not (folder / FOLDER).is_dir():
            raise ExtractorError(f"there is no folder {FOLDER}, which holds what reads the prompt.")
        prompter = Prompter.load(folder / FOLDER)
    except ExtractorError as error:
        raise CheckpointError(f"checkpoint {folder}: {error} Copy the whole folder again.") from error
    for contract in reading:
        _require_processor(contract, prompter)
    return prompter


def _require_processor(contract: Contract, prompter: Prompter) -> None:
    for stream in contract.of_kind(PROMPT):
        trained = str(stream.extractor.get("processor_sha256"))
        if trained != prompter.sha256:
            raise CheckpointError(
                f"the processor in {prompter.found.folder} is not the one that the stream '{stream.name}' was made with (sha256 "
                f"{prompter.sha256[:12]}…, expected {trained[:12]}…). A file was changed, added or removed, or belongs to another "
                "checkpoint; copy the whole folder again."
            )


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = parse_json(read_json_text(folder / name))
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {folder} has no readable {name} ({error.strerror}). Copy the whole folder, as `flow_policy "
            "train` wrote it."
        ) from error
    except ValueError as error:
        raise CheckpointError(f"checkpoint {folder}: {name} is not JSON ({error}). Copy the folder again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"checkpoint {folder}: {name} holds no JSON object. Copy the folder again.")
    return content


def _load_weights(model: FlowModel, path: Path, sha256: str | None) -> None:
    """``sha256`` None: a checkpoint of the first days, whose weights were not hashed."""
    try:
        weights = load_file(path)
        given = file_sha256(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"weights {path} cannot be read ({error}). Copy the file again; if the folder comes from a git clone, "
            "fetch its large files."
        ) from error
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if ours != theirs:
        differ = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        first = differ[0]
        raise CheckpointError(
            f"weights {path} do not fit the network of {CONFIG}: {len(differ)} tensors differ, first {first}: expected "
            f"{ours.get(first)}, given {theirs.get(first)}. {CONFIG}, {CONTRACT} and {WEIGHTS} must come from the same "
            "training; copy the whole folder again."
        )
    if sha256 is not None and given != sha256:
        raise CheckpointError(
            f"weights {path} are not the ones that {CONFIG} describes (sha256 {given[:12]}…, expected {sha256[:12]}…). "
            "The file was damaged or belongs to another checkpoint; copy the whole folder again."
        )
    broken = sorted(name for name, tensor in weights.items() if not torch.isfinite(tensor).all())
    if broken:
        raise CheckpointError(
            f"weights {path} hold NaN or Inf in {len(broken)} tensors, first {broken[0]}. The training diverged; use an "
            "earlier checkpoint or a lower learning rate."
        )
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace a file at once: a reader sees the old or the new one, an interruption leaves the old one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)
