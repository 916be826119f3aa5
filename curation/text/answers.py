r"""Forms of a gold answer that mean the same, brought to one.

`$$6$$`, `\(6\)`, `["6"]`, `6.` and `\boxed{6}` all become `6`. A form is only touched where it can mean one thing:
`(0,5)` and `1,2` are no numbers with thousands, `[32,52]` is an interval and not a list of one, `$3$ and $4$` is not
one formula, `.5` keeps its point. Answers are short, so the whole column is looked at; those that change are looked at
again, until nothing changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import polars as pl

from curation.text.columns import never_empty, until_stable, where

Form = Literal["fullwidth", "list", "math", "boxed", "letter", "trailing", "thousands", "fractions"]
FORMS: tuple[Form, ...] = get_args(Form)

ROUNDS = 8
"""Forms nest: ["$\\boxed{1,234}$."] takes five rounds; what nests deeper is left as it is after the last."""

_WIDE = {
    chr(wide): chr(wide - 0xFEE0)
    for first, last in (("０", "９"), ("Ａ", "Ｚ"), ("ａ", "ｚ"))
    for wide in range(ord(first), ord(last) + 1)
}


def _nested(depth: int) -> str:
    """Text whose braces close, to a depth: regular expressions cannot count."""
    inner = r"(?:[^{}\\]|\\.)*"
    for _ in range(depth):
        inner = rf"(?:[^{{}}\\]|\\.|\{{{inner}\}})*"
    return inner


_BOXED = rf"\A\\(?:boxed|fbox)\s*\{{({_nested(4)})\}}\z"
_LIST = r"\A\[\s*\"(?:[^\"\\]|\\.)*\"\s*\]\z"
_QUOTED = r"\A\[\s*'([^'\\]*)'\s*\]\z"
_MATH = (
    r"\A\$\$([^$]+)\$\$\z",
    r"\A\$([^$]+)\$\z",
    r"\A\\\(((?:[^\\]|\\[^()])+)\\\)\z",
    r"\A\\\[((?:[^\\]|\\[^\[\]])+)\\\]\z",
)
_LETTER = r"\A\\(?:text|textbf|textrm|mbox)\s*\{\s*(\(?[A-Z]\)?)\s*\}\z"
_TRAILING = r"[.;。；]\z"
# Not an ellipsis or a repeating decimal (0.33...), not LaTeX's \; , not initials (11:00 a.m.), nor several sentences.
_NOT_TRAILING = r"\.\.\z|…\z|\\[.;]\z|[A-Za-z]\.[ ]?[A-Za-z]\.\z|[.!?;。！？；]\s+\S|[。！？；][^。！？；]|\n"
_COMMA = r"(?:,\\!|\{,\}|\\,|,)"
_THOUSANDS = rf"\A(?:[-+−]|\\?\$ ?)*[1-9]\d{{0,2}}(?:{_COMMA}\d{{3}})+(?:\.\d+)?(?: ?\\?%)?\z"


def _fullwidth(texts: pl.Series) -> pl.Series:
    wide = texts.str.contains("[０-９Ａ-Ｚａ-ｚ]")
    return where(texts, wide, lambda s: s.str.replace_many(list(_WIDE), list(_WIDE.values())).str.normalize("NFC"))


def _one_of_list(text: str) -> str:
    """The one string of a list in JSON, whose text matches _LIST. Where the list was not written as JSON, backslashes
    are LaTeX's: ["\\frac12"] is no form feed before rac12, and ["\\sqrt2"] is no error."""
    raw = text.strip("[] \t\n")[1:-1]
    try:
        value: str = json.loads(text)[0]
    except ValueError:
        return raw
    return raw if any(character < " " for character in value) else value


def _list(texts: pl.Series) -> pl.Series:
    listed = texts.str.contains(_LIST)
    texts = where(texts, listed, lambda s: pl.Series([_one_of_list(t) for t in s.to_list()], dtype=pl.String))
    return texts.str.replace(_QUOTED, "$1")


def _math(texts: pl.Series) -> pl.Series:
    def unwrap(some: pl.Series) -> pl.Series:
        for pattern in _MATH:
            some = some.str.replace(pattern, "$1")
        return some

    # A $ that is escaped is money: \$5$ is no formula.
    return where(texts, texts.str.contains(r"\A(?:\$|\\\(|\\\[)[\s\S]*(?:[^\\]\$|\\\)|\\\])\z"), unwrap)


def _boxed(texts: pl.Series) -> pl.Series:
    return where(texts, texts.str.starts_with("\\"), lambda s: s.str.replace(_BOXED, "$1"))


def _letter(texts: pl.Series) -> pl.Series:
    return where(texts, texts.str.starts_with("\\"), lambda s: s.str.replace(_LETTER, "$1"))


def _trailing(texts: pl.Series) -> pl.Series:
    marked = texts.str.contains(_TRAILING) & ~texts.str.contains(_NOT_TRAILING)
    return where(texts, marked, lambda s: s.str.replace(_TRAILING, ""))


def _thousands(texts: pl.Series) -> pl.Series:
    return where(texts, texts.str.contains(_THOUSANDS), lambda s: s.str.replace_all(_COMMA, ""))


def _fractions(texts: pl.Series) -> pl.Series:
    return where(texts, texts.str.contains(r"\\[dt]frac"), lambda s: s.str.replace_all(r"\\[dt]frac", r"\frac"))


_DO: dict[Form, Callable[[pl.Series], pl.Series]] = {
    "fullwidth": _fullwidth,
    "list": _list,
    "math": _math,
    "boxed": _boxed,
    "letter": _letter,
    "trailing": _trailing,
    "thousands": _thousands,
    "fractions": _fractions,
}


def plain(texts: pl.Series, forms: Sequence[Form] = FORMS) -> pl.Series:
    """The answers in their plain form; nulls stay null, and none becomes empty.

    fullwidth  full-width digits and letters become ASCII: ＡＢ -> AB
    list       a list of one string is the string: ["AE"] -> AE
    math       the dollars around the whole: $$6$$, $6$, \\(6\\), \\[6\\] -> 6
    boxed      \\boxed{6} -> 6
    letter     \\text{(A)} -> (A)
    trailing   the full stop or semicolon at the end of one phrase: 6. -> 6
    thousands  1,234 -> 1234, where the whole answer is one number
    fractions  \\dfrac and \\tfrac -> \\frac
    """

    def run(some: pl.Series) -> pl.Series:
        for form in _DO:
            if form in forms:
                some = never_empty(some, lambda s, form=form: _DO[form](s).str.strip_chars())  # type: ignore[misc]
        return some

    # Letters, digits and blanks alone have no form; most answers are that.
    return where(texts, texts.str.contains(r"[^A-Za-z0-9 \-+/]"), lambda s: until_stable(s, run, rounds=ROUNDS))
