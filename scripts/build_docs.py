"""Builds the pages of docs/ and the README as a site: ``make docs``. Strictly: a link or anchor that leads nowhere is an error.

The pages are written to be read where they lie; here they are copied, with the README as the first of them, and what links to files
that are no pages becomes their names. With --stage nothing but the copies is made.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
SECTIONS: dict[str, tuple[str, ...]] = {
    "Begin": ("index", "walkthrough", "your_robot", "robot_file", "robots", "bringup", "first_motion"),
    "Tutorials": (
        "tutorials/simulated_door", "tutorials/your_robot", "tutorials/record_train_replay_deploy", "tutorials/one_step",
        "tutorials/latency",
    ),
    "Concepts": ("concepts/time", "concepts/chunks", "concepts/safety"),
    "On the robot": ("command_interfaces", "recording", "replay", "view", "see", "operating", "symptoms", "parameters"),
    "Learn": ("training_data", "training", "datasets", "policies", "distillation", "detectors", "vision_language", "language_task"),
    "Understand": ("time", "chunks", "chunk_execution", "safety", "threats", "architecture"),
    "Look up": ("cli", "reference", "checkpoint", "benchmarks", "changes", "contributing"),
}  # fmt: skip
"""Where a page stands, by its name; a page that is not here stands under ``MORE``, and a name without a page is passed over."""
MORE = "More"
EXTRA = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
"""Pages from beside docs/."""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:)([^)#\s]*)(#[^)\s]*)?\)")


def pages(root: Path) -> dict[str, Path]:
    """Name in the site → file, of every page that there is."""
    docs = root / "docs"
    found = {path.relative_to(docs).as_posix(): path for path in sorted(docs.rglob("*.md"))}
    return found | {name: root / file for file, name in EXTRA.items() if (root / file).is_file()}


def navigation(names: list[str]) -> list[dict[str, list[str]]]:
    """Sections of pages, each page once."""
    left = {name.removesuffix(".md"): name for name in names}
    nav = [{section: [left.pop(name) for name in listed if name in left]} for section, listed in SECTIONS.items()]
    return [section for section in [*nav, {MORE: sorted(left.values())}] if next(iter(section.values()))]


def moved(text: str, file: Path, root: Path, known: dict[str, Path]) -> str:
    """A page's text with its links as they must be in the site, where it is ``known`` by another name or beside others."""
    names = {path.resolve(): name for name, path in known.items()}
    own = names[file.resolve()]

    def link(match: re.Match[str]) -> str:
        picture, label, target, anchor = match[1], match[2], match[3], match[4] or ""
        if not target:
            return match[0]
        place = (file.parent / target).resolve()
        if place in names:
            return f"[{label}]({_way(own, names[place])}{anchor})"
        if place.is_relative_to(root / "docs") and place.is_file():
            return f"{picture}[{label}]({_way(own, place.relative_to(root / 'docs').as_posix())})"
        if place.exists():
            return f"{label} (`{place.relative_to(root).as_posix()}`)" if place.is_relative_to(root) else label
        return match[0]  # left for the builder to refuse

    return LINK.sub(link, text)


def _way(own: str, other: str) -> str:
    return "../" * own.count("/") + other


def stage(root: Path, folder: Path) -> Path:
    """Copy every page and picture to ``folder``; the builder's configuration that goes with them."""
    shutil.rmtree(folder, ignore_errors=True)
    source = folder / "pages"
    source.mkdir(parents=True)
    known = pages(root)
    for name, file in known.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(moved(file.read_text(encoding="utf-8"), file, root, known), encoding="utf-8")
    for file in sorted((root / "docs").rglob("*")):
        if file.is_file() and file.suffix != ".md":
            place = source / file.relative_to(root / "docs")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
    content = yaml.safe_load((root / "mkdocs.yml").read_text(encoding="utf-8"))
    content |= {"docs_dir": str(source), "site_dir": str(folder / "site"), "nav": navigation(list(known))}
    configuration = folder / "mkdocs.yml"
    configuration.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return configuration


def main() -> int:
    """Returns the builder's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "docs", help="folder for the copies and the site")
    parser.add_argument("--stage", action="store_true", help="make the copies alone")
    given = parser.parse_args()
    configuration = stage(ROOT, given.out.resolve())
    if given.stage:
        return 0
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(configuration)]
    done = subprocess.run(command, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=False)
    if done.returncode == 0:
        print(f"open {configuration.parent / 'site' / 'index.html'}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
