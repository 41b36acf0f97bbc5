"""Whether a command can write what it was asked to write, found out before the work and not after it."""

from __future__ import annotations

import json
import os
from pathlib import Path


def require_file(option: str, path: Path | None) -> None:
    """Raises ``ValueError`` when the file given with ``option`` cannot be written."""
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder, expected a file to write; add a file name, such as figures.json.")
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: the folder {path.parent} does not exist; create it first.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{option} {path} cannot be written; give a path where you may write.")


def make_folder(option: str, path: Path | None) -> None:
    """Make the folder given with ``option``. Raises ``ValueError`` when it neither is one nor can become one."""
    if path is None:
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{option} {path} cannot be made a folder ({error.strerror}); give one that exists or that you may create."
        ) from error
    if not os.access(path, os.W_OK):
        raise ValueError(f"{option} {path} cannot be written; give a folder where you may write.")


def print_json(figures: object, file: Path | None) -> None:
    """Figures as JSON on standard output, and in ``file`` if given."""
    text = json.dumps(figures, indent=1)
    print(text)
    if file is not None:
        file.write_text(text + "\n")
