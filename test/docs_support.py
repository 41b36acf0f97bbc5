"""Pages as tests read them: their blocks of code, headings, links, and the command lines in them, none of which is run."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^( *)```([\w+-]*)[^\n]*\n(.*?)^\1```\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\((?!https?:|mailto:)([^)\s]*)\)")
VARIABLE = re.compile(r"\$\{?\w+\}?|\$\(\w+\)")


def documents() -> list[Path]:
    """Every page of the project, wherever it lies in docs/."""
    beside = [ROOT / name for name in ("README.md", "CONTRIBUTING.md") if (ROOT / name).is_file()]
    return [*beside, *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A block of code: its language, its text without the page's indentation, the line on which it begins."""

    language: str
    text: str
    line: int


def blocks(text: str, *languages: str) -> list[Block]:
    """The fenced blocks of these languages, all without any."""
    found = []
    for match in BLOCK.finditer(text):
        indent, language, inner = match.groups()
        if not languages or language in languages:
            lines = [line.removeprefix(indent) for line in inner.splitlines()]
            found.append(Block(language, "\n".join(lines) + "\n", text.count("\n", 0, match.start()) + 2))
    return found


def prose(text: str) -> str:
    """The page without its blocks of code."""
    return BLOCK.sub("", text)


def anchors(text: str) -> set[str]:
    """What links can point at: headings as GitHub and the builder name them, and ids that are written."""
    found: dict[str, int] = {}
    names = set(re.findall(r'(?:id|name)="([^"]+)"', text))
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", prose(text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
        count = found[slug] = found.get(slug, -1) + 1
        names.add(f"{slug}-{count}" if count else slug)
    return names


def broken_links(page: Path, text: str | None = None) -> list[str]:
    """Links of a page, as they are written, to files or headings that are not there."""
    text = page.read_text(encoding="utf-8") if text is None else text
    broken = []
    for target in LINK.findall(prose(text)):
        name, _, anchor = target.partition("#")
        file = page if not name else (page.parent / name).resolve()
        if not file.exists() or not file.is_relative_to(ROOT):
            broken.append(target)
        elif anchor and file.suffix == ".md":
            inside = text if file == page else file.read_text(encoding="utf-8")
            if anchor not in anchors(inside):
                broken.append(target)
    return broken


def command_lines(text: str, given: dict[str, str] | None = None) -> Iterator[list[str]]:
    """The commands of a shell block, as words; comments, assignments and redirections are left out. A variable is what was
    assigned to it, here or, in ``given``, before; else 1."""
    text = re.sub(r"<<-? *'?(\w+)'?.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)  # a text that is written to a file
    given = {} if given is None else given
    waiting = ""
    for line in text.replace("\\\n", " ").splitlines():
        waiting += VARIABLE.sub(lambda match: given.get(match[0].strip("${}()"), "1"), line.removeprefix("$ "))
        try:
            words = list(_words(waiting))
        except ValueError:  # a quotation that goes on in the next line
            waiting += "\n"
            continue
        waiting = ""
        yield from _commands(words, given)
    assert not waiting, f"a quotation is not closed: {waiting}"


def _words(line: str) -> Iterator[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>()")
    lexer.whitespace_split = True
    yield from lexer


def _commands(line: list[str], given: dict[str, str]) -> Iterator[list[str]]:
    words: list[str] = []
    skip = False
    for word in [*line, ";"]:
        if word and set(word) <= set(";&|()"):
            while words and re.fullmatch(r"\w+=.*", words[0], re.DOTALL):
                name, _, value = words[0].partition("=")
                given[name] = value
                words = words[1:]
            if words:
                yield words
            words = []
        elif word and set(word) <= set("<>&"):
            skip = True
        elif skip:
            skip = False
        else:
            words.append(word)


class Understood(BaseException):
    """A command line was read to its end; nothing of it is done."""


def refusal(words: list[str]) -> str:
    """What ``flow_policy WORDS`` would refuse of its own words before it did anything; empty where it understands them all."""
    tyro = pytest.importorskip("tyro")
    from flow_policy_ros.cli.main import COMMANDS, main

    if words[:1] in ([], ["--help"], ["-h"]):
        return ""
    if words[0] not in COMMANDS:
        return f"there is no command '{words[0]}'"
    output = io.StringIO()

    def only(real: Callable[..., Any]) -> Callable[..., Any]:
        def read(*given: Any, **options: Any) -> Any:
            real(*given, **options)
            raise Understood

        return read

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(tyro, "cli", only(tyro.cli)))
        stack.enter_context(mock.patch.object(argparse.ArgumentParser, "parse_args", only(argparse.ArgumentParser.parse_args)))
        stack.enter_context(contextlib.redirect_stdout(output))
        stack.enter_context(contextlib.redirect_stderr(output))
        try:
            code = main(words)
        except Understood:
            return ""
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return "" if code == 0 else " ".join(output.getvalue().split())[:600]
