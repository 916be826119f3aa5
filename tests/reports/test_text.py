"""Texts from data as HTML: what is shown, what is marked, and that nothing in it is alive."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.formats import number, said
from reports.text import mathml, rich
from tests.reports.conftest import HOSTILE


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a < b & c", "a &lt; b &amp; c"),
        ("costs $5 and $6, or $7", "costs $5 and $6, or $7"),
        ("$5-$6", "$5-$6"),
        ("between \\$3 and 4$", "between \\$3 and 4$"),
        ("\\(", "\\("),
        ("a\x00b\u202e", "a□b□"),
    ],
)
def test_plain_text(text: str, shown: str) -> None:
    assert rich(text, 1000) == shown


@pytest.mark.parametrize("text", ["$x^2$", "\\(x^2\\)", "\\[x^2\\]", "$$x^2$$", "\\begin{align}x^2\\end{align}"])
def test_formulas(text: str) -> None:
    shown = rich(f"so {text} it is", 1000)
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in shown
    assert ("display=" in shown) and ('"block"' in shown) == (text[:2] in ("\\[", "$$", "\\b"))


def test_the_marked_part() -> None:
    assert rich("it is 42.", 100, (6, 8)) == "it is <mark>42</mark>."
    assert "<mark><math" in rich("it is $42$.", 100, (7, 9))
    assert rich("it is 42.", 100, (50, 60)) == "it is 42."


def test_long_texts_keep_both_ends_and_the_mark() -> None:
    text = "begin" + "x" * 5000 + "42" + "y" * 5000 + "end"
    shown = rich(text, 600, (5005, 5007))
    assert shown.startswith("begin") and shown.endswith("end") and "<mark>42</mark>" in shown
    assert len(shown) < 1500 and shown.count("characters …") == 2


@pytest.mark.parametrize(
    "formula",
    [
        "\\href{javascript:alert(1)}{x}", "\\text{<script>alert(1)</script>}", "\\text{&lt;script&gt;}", "\\style{background:url(//e)}{x}",
        "\\unicode{60}script", "\\def\\a{\\a\\a}\\a", "{" * 400 + "}" * 400, "\\sqrt" * 300, "\\frac", "\\begin{array}{" + "c" * 500 + "}\\end{array}",
        "\\class{x}{y}", "\\color{red;background:url(x)}{x}", "x" * 5000, "\\left(" * 50, "^" * 100, "\\mathchoice{a}{b}{c}{d}", "\\text{" * 60,
    ],
)  # fmt: skip
def test_hostile_formulas_are_dead_or_text(formula: str) -> None:
    started = time.perf_counter()
    shown = mathml(formula)
    assert time.perf_counter() - started < 1
    if shown is not None:
        for element in ET.fromstring(shown).iter():
            assert element.tag.startswith("m") and element.tag not in ("mglyph", "maction", "script")
            assert not {"href", "style", "class", "onclick", "src"} & set(element.attrib)


PIECES = [
    *"\\$(){}[]^_&<>\"' abx1\n",
    "\\frac",
    "\\text",
    "\\sqrt",
    "\\left",
    "<script>",
    "\\begin{cases}",
    "\\end{cases}",
    "\\href",
]


@given(st.lists(st.sampled_from(PIECES), max_size=120).map("".join))
def test_any_text_gives_well_formed_harmless_html(text: str) -> None:
    shown = rich(text, 100, (3, 9))
    tree = ET.fromstring(f"<div>{shown}</div>".replace("&nbsp;", " "))
    assert {element.tag for element in tree.iter()} <= {"div", "span", "mark", "math"} | {
        e.tag for e in tree.iter() if e.tag.startswith("m")
    }
    assert not re.search(r"<script|onerror|href=", shown)


def test_the_worst_text() -> None:
    shown = rich(HOSTILE, 2000)
    assert "<script" not in shown and "<img" not in shown and "<svg" not in shown and "\u202e" not in shown


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1234567, "rows", "1,234,567"), (0.5, "%", "50 %"), (0.99999, "%", "99.999 %"), (0.0000001, "%", "0 %"), (1.0, "%", "100 %"),
        (123.456, "tokens", "123.5"), (0.12345, "", "0.123"), (4_200_000, "bytes", "4.2 MB"), (75.0, "s", "1 min 15 s"), (60_000.0, "s", "16 h 40 min"), (None, "", "—"),
        (float("nan"), "", "—"), (True, "", "yes"), (["a"], "", '["a"]'),
    ],
)  # fmt: skip
def test_numbers(value: object, unit: str, text: str) -> None:
    assert said(value, unit) == text
    assert number(1000) == "1,000"
