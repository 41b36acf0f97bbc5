"""Reading YAML strictly: what YAML itself trips over is refused with the file's name, at the speed of reading."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flow_policy_ros.runtime.robot_yaml import RobotFileError, plain, read_yaml, strictly, text
from flow_policy_ros.runtime.yaml_bounded import load_yaml

NO_VALUES = ("a: 2020-13-45", "a: " + "1" * 5000, "a: !!int x", "a: !!bool x", "a: !!timestamp x", "a: !!float x")


@pytest.mark.parametrize("content", NO_VALUES, ids=lambda content: content[:14])
def test_a_value_that_its_form_or_tag_belies_is_refused_with_the_file_s_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(content)
    with pytest.raises(RobotFileError, match=r"robot file .*odd\.yaml is not YAML: .*Give a text file such as"):
        read_yaml(path, "robot file", "robots/shadow.yaml")
    with pytest.raises(yaml.YAMLError, match="its tag says"):
        load_yaml(content)


class Counted(str):
    """A key that counts how often it is compared."""

    comparisons = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.comparisons += 1
        return str.__eq__(self, other)


def test_keys_are_not_compared_each_with_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes minutes in a file of 100,000."""

    def counted(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Counted:
        return Counted(node.value)

    monkeypatch.setattr(Counted, "comparisons", 0)
    constructors = {**yaml.SafeLoader.yaml_constructors, "!k": counted}
    monkeypatch.setattr(yaml.SafeLoader, "yaml_constructors", constructors)
    count = 300
    assert len(strictly("\n".join(f"!k k{n}: {n}" for n in range(count)))) == count
    assert Counted.comparisons < 10 * count


def test_a_key_given_twice_is_refused_in_whatever_spelling() -> None:
    for content in ("a: 1\nb: 2\na: 3", "1: a\n0x1: b", "x: {a: 1, 'a': 2}"):
        with pytest.raises(yaml.YAMLError, match="given twice"):
            strictly(content)
    with pytest.raises(yaml.YAMLError, match="unhashable"):
        strictly("? [a]\n: 1")


BREAKS = [chr(k) for k in (*range(0x20), *range(0x7f, 0xa0), 0x2028, 0x2029, 0x202e, 0xfeff, 0xad)]


def test_no_character_ends_a_comment_or_a_text() -> None:
    for letter in BREAKS:
        assert plain(f"a{letter}b").isprintable() and len(f"# {plain(f'a{letter}b')}".splitlines()) == 1
        assert text(f"a{letter}b").isprintable() and yaml.safe_load(text(f"a{letter}b")) == f"a{letter}b"
    assert plain("a\nb\u2028c") == "a\\nb\\u2028c" and plain("10 N·m, é # 'x'") == "10 N·m, é # 'x'"
