"""YAML with positions: YAML 1.2 scalars, places, and every way in which a file can be wrong."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curation.yamlfile import MAX_NODES, YamlError, dump, parse, read, scalar


def problem(text: str) -> tuple[int | None, str]:
    """(line, message with hint) of the one problem of a text."""
    with pytest.raises(YamlError) as caught:
        parse(text, file="f.yaml")
    (found,) = caught.value.problems
    assert found.file == "f.yaml"
    return found.line, f"{found.message} {found.hint}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("Off", "Off"), ("true", True), ("False", False),
        ("1e-6", 1e-6), ("1E3", 1000.0), (".5", 0.5), ("5.", 5.0), ("-0", 0), ("08", "08"), ("007", "007"),
        ("0o17", 15), ("0x1F", 31), ("1_000", "1_000"), ("12:30", "12:30"), ("2020-01-01", "2020-01-01"),
        ("~", None), ("null", None),
        ("", None), ("+3", 3), ("1.2.3", "1.2.3"), (".inf", math.inf), ("-.inf", -math.inf), ("=", "="),
    ],
)  # fmt: skip
def test_plain_scalars_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    found = scalar(text)
    assert found == value and type(found) is type(value)
    assert parse(f"key: {text}", file="f").plain() == {"key": value}


def test_quoted_scalars_are_text_and_tags_decide() -> None:
    assert parse("a: '3'\nb: \"true\"\nc: !!str 12\nd: !!float 3", file="f").plain() == {
        "a": "3",
        "b": "true",
        "c": "12",
        "d": 3.0,
    }


def test_every_value_knows_where_it_is_written() -> None:
    tree = parse("name: x\nstages:\n  - stage: filter\n    where: a\n  - {stage: mix, total: 3}\n", file="r.yaml")
    where = tree.find(["stages", 0, "where"]).place
    assert (where.file, where.line, where.column, where.text) == ("r.yaml", 4, 5, "    where: a")
    assert tree.find(["stages", 1]).place.line == 5
    assert tree.find(["stages", 1, "total"]).place.column == 18
    assert tree.find(["stages", 1, "nothing", "here"]).place.line == 5


def test_anchors_and_merges_are_followed() -> None:
    text = "base: &b {q: 1, r: [1, 2]}\nown: {<<: *b, q: 2}\nboth: {<<: [{q: 5}, *b]}\n"
    assert parse(text, file="f").plain() == {
        "base": {"q": 1, "r": [1, 2]},
        "own": {"q": 2, "r": [1, 2]},
        "both": {"q": 5, "r": [1, 2]},
    }


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb:\n\tc: 2", 3, "tab"),
        ("a: 1\nb: 2\na: 3", 3, "`a` stands twice in one mapping; first on line 1"),
        ("a: !foo 3", 1, "!foo"),
        ("a: !!python/object/apply:os.system [x]", 1, "python/object"),
        ("a: !!int x", 1, "not of the type int"),
        ("a: 1\n---\nb: 2", 3, "second YAML document"),
        ("", None, "empty"),
        ("# nothing\n", None, "empty"),
        ("a: [1, 2\nb: 3", 1, "["),
        ("a: 'x\nb: 3\n", 1, "quote"),
        ("a: b: c", 1, "second `:`"),
        ("a: 1\n  b: 2", 2, "indented deeper"),
        ("- a\nb: 3", 2, "indentation"),
        ("a: @x", 1, "can't begin with '@'"),
        ("a: *x", 1, "alias 'x'"),
        ("a: &x [*x]", 1, "inside the very value"),
        ("a: \x00", 1, "U+0000"),
        ("? [a]\n: b", 1, "key must be"),
        ("[" * 100 + "]" * 100, 1, "nested deeper"),
        ("[" * 5000, None, "nested deeper"),
        ("a: " + "9" * 5000, 1, "not of the type int"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, line: int | None, words: str) -> None:
    where, said = problem(text)
    assert where == line and words in said


def test_aliases_that_multiply_are_stopped() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]" for i in range(1, 30)]
    line, said = problem("\n".join(lines))
    assert line is not None and f"{MAX_NODES:,}" in said


def test_a_file_that_is_not_utf8_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: x\ndescription: caf\xe9\n")
    with pytest.raises(YamlError) as caught:
        read(path, shown="latin.yaml")
    (found,) = caught.value.problems
    assert (found.line, "0xe9" in found.message) == (2, True)


def test_a_byte_order_mark_and_windows_lines_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: x\r\nseed: 3\r\n")
    tree = read(path)
    assert tree.plain() == {"name": "x", "seed": 3}
    assert tree.find(["seed"]).place.text == "seed: 3"


def test_a_missing_file_and_a_huge_file_are_problems(tmp_path: Path) -> None:
    with pytest.raises(YamlError, match="can't be read"):
        read(tmp_path / "nothing.yaml")
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"a: " + b"x" * (5 << 20))
    with pytest.raises(YamlError, match="at most"):
        read(huge)


TRAPS = ["yes", "1e-6", "08", "null", "", "~", "<<", "=", "1:30", "a: b", "# x", "- x", " x ", "0x1f", "*a", "a\nb\n"]
TEXTS = st.text("aeEnoty019.:-+_#&*!|>'\"%@`{}[],?~= \n\té漢😀\\", max_size=12) | st.sampled_from(TRAPS)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


# The first draw reads the constants of all loaded modules, which takes a second.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_what_is_dumped_is_read_back(data: dict[str, object]) -> None:
    assert parse(dump(data), file="f").plain() == data
