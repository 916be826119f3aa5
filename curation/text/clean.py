r"""Text cleaning that changes no meaning: Unicode form, controls, newlines and blanks.

Formulas and code are left as they are written: a run of blanks is shortened only outside $…$, \(…\), \[…\],
[asy]…[/asy], `…` and ```…```, and never at the beginning of a line, where it may be indentation. NFC composes accents
and touches nothing else; NFKC, which would make x² an x2, is never used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import polars as pl

from curation.text.columns import where

Step = Literal["unicode", "controls", "newlines", "blanks"]
STEPS: tuple[Step, ...] = get_args(Step)

_DIRTY = r"[^\n\x20-\x7E]|  | \n|\n\n\n|\A\s|\s\z"
"""Anything that a step may change stands in such a text; of clean ASCII nothing is."""

_BREAKS = r"\r\n|[\r\x0B\x0C\x{85}\x{2028}\x{2029}]"
_CONTROLS = r"[\x00-\x08\x0E-\x1F\x7F-\x{84}\x{86}-\x{9F}]"
# Zero-width blank, word joiner, byte order mark, soft hyphen. The joiners U+200C and U+200D stay: they spell words in
# Persian and Indic scripts, and hold emoji together.
_INVISIBLE = r"[\x{200B}\x{2060}\x{FEFF}\x{AD}]"
_DIRECTIONS = r"[\x{200E}\x{200F}\x{202A}-\x{202E}\x{2066}-\x{2069}]"
_RIGHT_TO_LEFT = r"[\p{Hebrew}\p{Arabic}\p{Syriac}\p{Thaana}\p{Nko}]"
_WIDE_BLANKS = r"[\x{A0}\x{1680}\x{2000}-\x{200A}\x{202F}\x{205F}\x{3000}]"

_VERBATIM = "|".join(
    [
        r"```[\s\S]*?```",
        r"`[^`\n]*`",
        r"\[asy\][\s\S]*?\[/asy\]",
        r"\\\$",
        r"\$\$[\s\S]*?\$\$",
        r"\$[^$]*\$",
        r"\\\([\s\S]*?\\\)",
        r"\\\[[\s\S]*?\\\]",
    ]
)
# What is kept of a match is in its groups: a verbatim span whole, of newlines at most two with the indentation that
# follows, of a run of blanks the first.
_RUNS = rf"({_VERBATIM})|(\n\n)\n+([ \t]*)|(\n[ \t]*)|([ \t])[ \t]+"


def _newlines(texts: pl.Series) -> pl.Series:
    return texts.str.replace_all(_BREAKS, "\n")


def _controls(texts: pl.Series) -> pl.Series:
    texts = texts.str.replace_all(_CONTROLS, "")
    texts = texts.str.replace_all(_INVISIBLE, "")
    marked = texts.str.contains(_DIRECTIONS) & ~texts.str.contains(_RIGHT_TO_LEFT)
    return where(texts, marked, lambda s: s.str.replace_all(_DIRECTIONS, ""))


def _unicode(texts: pl.Series) -> pl.Series:
    return where(texts, texts.str.contains(r"[^\x00-\x{2FF}]|[\x{300}-\x{36F}]"), lambda s: s.str.normalize("NFC"))


def _blanks(texts: pl.Series) -> pl.Series:
    texts = texts.str.replace_all(_WIDE_BLANKS, " ")
    texts = texts.str.replace_all(r"[ \t]+\n", "\n")
    texts = where(texts, texts.str.contains(r"[ \t][ \t]|\n\n\n"), lambda s: s.str.replace_all(_RUNS, "$1$2$3$4$5"))
    return texts.str.strip_chars(" \t\n")


# Newlines come before controls, which would take a lone \r away; composing comes after what may stand between a letter
# and its accent is gone.
_DO = {"newlines": _newlines, "controls": _controls, "unicode": _unicode, "blanks": _blanks}


def clean(texts: pl.Series, steps: Sequence[Step] = STEPS) -> pl.Series:
    """The texts with these steps done; nulls stay null.

    unicode   NFC
    controls  no NUL and other control characters, zero-width characters, nor direction marks in left-to-right text
    newlines  \\r\\n, \\r and the Unicode line breaks become \\n
    blanks    no blanks at either end and before newlines; no-break and wide blanks become plain ones; outside formulas
              and code runs of blanks become one blank, and more than two newlines two
    """

    def run(dirty: pl.Series) -> pl.Series:
        for name, step in _DO.items():
            if name in steps:
                dirty = step(dirty)
        return dirty

    return where(texts, texts.str.contains(_DIRTY), run)
