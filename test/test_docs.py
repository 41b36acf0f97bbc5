"""Every page: its links lead somewhere, its blocks of Python, YAML, JSON and XML can be read, and it has a place in the site."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
import yaml
from docs_support import ROOT, anchors, blocks, broken_links, documents

PAGES = documents()


@pytest.fixture(name="builder", scope="module")
def builder_fixture() -> ModuleType:
    """scripts/build_docs.py as a module."""
    spec = importlib.util.spec_from_file_location("build_docs", ROOT / "scripts" / "build_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    page = ROOT / "docs" / "safety.md"
    text = "# One `two`\n\n## A & b\n\n[x](nowhere.md) [x](reference.md#nowhere) [x](#none) [x](../../outside)\n"
    good = "[x](reference.md#command_node) [x](#one-two) [x](#a--b) [x](https://example.com/nowhere) ![p](images/door.gif)\n"
    assert broken_links(page, text + good) == ["nowhere.md", "reference.md#nowhere", "#none", "../../outside"]
    assert broken_links(page, "# A\n\n```bash\necho '[x](nowhere.md)'\n```\n") == []
    assert anchors("# A\n# A\n") == {"a", "a-1"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_can_be_read(page: Path) -> None:
    text, unreadable = page.read_text(encoding="utf-8"), []
    readers = {
        "python": ast.parse, "yaml": lambda t: list(yaml.safe_load_all(t)), "json": json.loads, "xml": ElementTree.fromstring
    }  # fmt: skip
    for block in blocks(text, *readers):
        try:
            readers[block.language](block.text)
        except (SyntaxError, ValueError, yaml.YAMLError, ElementTree.ParseError) as error:
            unreadable.append(f"{page.name}:{block.line}: {block.language}: {error}")
    assert unreadable == []
    assert text.count("\n```") % 2 == 0, f"{page.name}: a block is not closed"


def test_a_block_that_cannot_be_read_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for language, inner in (("python", "def f(:\n"), ("yaml", "a: [1\n"), ("json", "{\n"), ("xml", "<a>\n")):
        page.write_text(f"# A\n\n```{language}\n{inner}```\n")
        with pytest.raises(AssertionError, match=language):
            test_blocks_can_be_read(page)
    (block,) = blocks("1. a\n   ```bash\n   ls\n     x\n   ```\n")
    assert block.text == "ls\n  x\n" and block.line == 3


def test_every_page_is_in_the_site_once(builder: ModuleType) -> None:
    names = list(builder.pages(ROOT))
    listed = [name for section in builder.navigation(names) for group in section.values() for name in group]
    assert sorted(listed) == sorted(names) and "index.md" in names
    assert [next(iter(s)) for s in builder.navigation(["index.md", "a_page_of_tomorrow.md"])] == ["Begin", "More"]


def test_links_are_those_of_the_site(builder: ModuleType) -> None:
    known = builder.pages(ROOT)
    readme, page = ROOT / "README.md", ROOT / "docs" / "safety.md"
    assert builder.moved("[a](docs/safety.md#x) ![b](docs/images/door.gif) [c](LICENSE)", readme, ROOT, known) == (
        "[a](safety.md#x) ![b](images/door.gif) c (`LICENSE`)"
    )
    text = "[a](../README.md) [b](reference.md#x) [c](../config/fastdds.xml) [d](#here) [e](https://x.org) [f](gone.md)"
    assert builder.moved(text, page, ROOT, known) == (
        "[a](index.md) [b](reference.md#x) c (`config/fastdds.xml`) [d](#here) [e](https://x.org) [f](gone.md)"
    )


def test_the_site_is_built_strictly(builder: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    configuration = builder.stage(ROOT, tmp_path / "docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(configuration)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "docs" / "site" / "safety" / "index.html").is_file()
    page = configuration.parent / "pages" / "safety.md"
    page.write_text(page.read_text() + "\n[x](nowhere.md)\n")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and "nowhere.md" in done.stderr
