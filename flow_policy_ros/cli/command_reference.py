"""The reference page of the command line as Markdown, made of what each command says of itself with ``--help``.

    python -m flow_policy_ros.cli.command_reference --out docs/cli.md

Nothing is explained here; what commands are for, and when, is on pages of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from flow_policy_ros.cli.main import COMMANDS, PROGRAM, main

COMMAND_LINE = "python -m flow_policy_ros.cli.command_reference --out docs/cli.md"
WIDTH = 130
"""Of the help texts, in characters."""


def page() -> str:
    """The whole page, ending in a line break. Commands whose help needs what is not installed say so."""
    lines = [
        "# Reference of the commands",
        "",
        f"Made from the commands' own `--help` by `{COMMAND_LINE}`; do not edit.",
        "Exit codes: 0 done, 1 ran but the result is bad, 2 refused (bad input), 130 interrupted, 70 a bug.",
        "",
        *(f"* [`{PROGRAM} {name}`](#{PROGRAM}-{name}): {text}" for name, (_, text) in COMMANDS.items()),
    ]
    for words, text in helps():
        lines += ["", f"{'#' * (1 + len(words))} {PROGRAM} {' '.join(words)}", "", "```text", *unboxed(text), "```"]
    return "\n".join(lines) + "\n"


def helps() -> Iterator[tuple[tuple[str, ...], str]]:
    """The words of every command, and of those that have parts of every part, with its help."""
    for name in COMMANDS:
        text = help_of(name)
        yield (name,), text
        for part in parts_of(name, text):
            yield (name, part), help_of(name, part)


def help_of(*words: str) -> str:
    """What ``flow_policy WORDS --help`` prints."""
    out = io.StringIO()
    shape = {"COLUMNS": str(WIDTH), "LINES": "1000", "NO_COLOR": "1", "TERM": "dumb"}
    with mock.patch.dict(os.environ, shape), contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return out.getvalue()


def parts_of(name: str, text: str) -> tuple[str, ...]:
    """The parts that a command's help lists: ``flow_policy bench NAME``, or a choice in braces on its first line."""
    if re.search(rf"'{PROGRAM} {name} [A-Z]+ --help'", text):
        return tuple(re.findall(r"^ {2}([a-z][\w-]*) {2,}", text, re.MULTILINE))
    usage = text.split("\n\n", 1)[0]
    choice = re.search(r"(?<![-\w] )\{([a-z][a-z_,-]*)\}", usage)
    return tuple(choice[1].split(",")) if choice else ()


def unboxed(text: str) -> list[str]:
    """The lines of a help with its headings as ``options:``, however they were drawn."""
    lines: list[str] = []
    for line in text.rstrip().splitlines():
        boxed = re.fullmatch(r"╭─ (.*?) ─*╮", line)
        if boxed:
            lines.append(f"{boxed[1]}:")
        elif re.fullmatch(r" *-{20,} *", line) and lines:
            lines[-1] = f"{lines[-1].strip()}:"
        elif not line.startswith("╰"):
            lines.append(line.strip("│").rstrip())
    return lines


def write(argv: list[str]) -> int:
    """Print or write the page; returns 0."""
    parser = argparse.ArgumentParser(description="Make the reference page of the commands.")
    parser.add_argument("--out", type=Path, help="file to write; standard output without it")
    given = parser.parse_args(argv)
    if given.out is None:
        print(page(), end="")
    else:
        given.out.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(write(sys.argv[1:]))
