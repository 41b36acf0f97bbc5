"""Safetensors files with the mode that every other file gets: safetensors itself makes them readable for their owner alone.

Reading them is the business of who asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Replace a safetensors file at once: a reader sees the old or the new one, an interruption leaves the old one."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    partial.touch()
    mode = partial.stat().st_mode & 0o666  # as the umask has it, which cannot be read without changing it for other threads
    save_file(dict(tensors), partial, None if metadata is None else dict(metadata))
    partial.chmod(mode)
    partial.replace(path)
