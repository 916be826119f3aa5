"""The text of a question without its formatting: what is left decides whether two are the same.

`compared` cuts a text into words, numbers, LaTeX commands and mathematical signs, and joins them by one blank. Letter
case, white space, sentence punctuation, dollar signs, braces and the spelling of LaTeX and Unicode do not count.
Numbers, signs, brackets and the order of everything do, so 3 - 2 is not 3 + 2, and x^2 is x². `light` also leaves out
articles and words that only ask. `blind` takes all numbers as equal, `signature` keeps nothing but numbers and signs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import pyarrow as pa

from curation.answers.choices import options_of

if TYPE_CHECKING:
    import polars as pl

REVISION = 1
"""Bumped when the same text would come out otherwise."""

_TOKEN = r"\\[A-Za-z]+|\d+(?:\.\d+)?|[\p{L}\p{M}]+|[-*/^_()\[\]%°!∞]|\p{Sm}"

# Before tokens are cut. None needs to look ahead or behind, so the regex engine stays linear.
_MARK = r"<image ?\d*>"
_MILLIONS = (r"\b(\d{1,3}),(\d{3}),(\d{3})\b", "${1}${2}${3}")
_THOUSANDS = (r"\b(\d{1,3}),(\d{3})\b", "${1}${2}")
_HYPHEN = (r"([\p{L}]{2})[-‐‑]([\p{L}]{2})", "${1} ${2}")
_EXCLAMATION = (r"([^0-9a-z)\]\s!])!|([a-z]{2})!+|!{2,}", "${1}${2} ")  # 5! and n! stay: factorials
_SHORT_FRACTION = (r"\\[dtc]?frac\s*(\d)\s*(\d)", r"\frac $1 $2 ")
_DEGREE = (r"\^\s*\{?\s*\\circ\s*\}?|\\degree|\\circ", " ° ")

_LITERALS = {
    "²": "^2", "³": "^3", "¹": "^1", "⁰": "^0", "⁴": "^4", "⁵": "^5", "⁶": "^6", "⁷": "^7", "⁸": "^8", "⁹": "^9",
    "ⁿ": "^n", "⁻": "^-", "₀": "_0", "₁": "_1", "₂": "_2", "₃": "_3", "₄": "_4", "₅": "_5", "₆": "_6", "₇": "_7",
    "₈": "_8", "₉": "_9", "−": "-", "–": "-", "—": " ", "º": "°", "′": "'",
}  # fmt: skip
_BREAKS = {"\\\\": " ", "\\(": " ", "\\)": " ", "\\[": " ", "\\]": " ", "\\,": " ", "\\;": " ", "\\!": " ", "\\:": " "}

GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "zeta": "ζ", "eta": "η", "theta": "θ",
    "iota": "ι", "kappa": "κ", "lambda": "λ", "mu": "μ", "nu": "ν", "xi": "ξ", "pi": "π", "rho": "ρ", "sigma": "σ",
    "tau": "τ", "upsilon": "υ", "phi": "φ", "chi": "χ", "psi": "ψ", "omega": "ω",
}  # fmt: skip
"""LaTeX's names of the small Greek letters."""
_NOTHING = (
    "left right big bigg bigl bigr biggl biggr displaystyle textstyle limits nolimits text textbf textit textrm mathrm "
    "mathbf mathit mathsf mbox hbox operatorname boldsymbol bm rm bf quad qquad boxed"
)
_SAME = {
    "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac", "\\le": "≤", "\\leq": "≤", "\\leqslant": "≤",
    "\\ge": "≥", "\\geq": "≥", "\\geqslant": "≥", "\\ne": "≠", "\\neq": "≠", "\\times": "*", "×": "*", "\\cdot": "*",
    "⋅": "*", "\\div": "/", "÷": "/", "⁄": "/", "\\to": "→", "\\rightarrow": "→", "\\infty": "∞", "\\pm": "±",
    "\\sqrt": "√", "\\angle": "∠", "\\triangle": "△", "\\parallel": "∥", "\\perp": "⊥", "\\cap": "∩", "\\cup": "∪",
    "\\lt": "<", "\\gt": ">", "\\mid": "|", "~": "", "\\varepsilon": "ε", "\\varphi": "φ", "\\ldots": "", "\\dots": "",
    "\\cdots": "", "\\sin": "sin", "\\cos": "cos", "\\tan": "tan", "\\log": "log", "\\ln": "ln", "\\max": "max",
    "\\min": "min", "\\gcd": "gcd", "\\lim": "lim",
    **{f"\\{name}": letter for name, letter in GREEK.items()},
    **{f"\\{name}": "" for name in _NOTHING.split()},
}  # fmt: skip

LIGHT = [
    "a", "an", "the", "please", "kindly", "now", "then", "find", "compute", "calculate", "determine", "evaluate",
    "solve", "what", "whats", "is", "are", "was", "were", "be", "value", "of", "following", "question", "problem",
    "answer",
]  # fmt: skip
"""Articles and words that only ask: `Find the value of x` and `What is x?` are one question."""


def compared(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The words, numbers and signs of each text, joined by blanks: large_string, "" for null."""
    import polars as pl

    series = pl.Series("text", pl.from_arrow(texts)).cast(pl.String).fill_null("")
    plain = ~(series.str.contains("\\", literal=True) | series.str.contains(r"[^\x00-\x7f]"))
    if plain.all():
        result = _tokens(series.str.to_lowercase())
    else:
        frame = pl.DataFrame({"text": series, "plain": plain}).with_row_index("at")
        easy = frame.filter(pl.col("plain"))
        hard = frame.filter(~pl.col("plain"))
        parts = [
            easy.select("at", _tokens(easy["text"].str.to_lowercase()).alias("text")),
            hard.select("at", _respelt(hard["text"]).alias("text")),
        ]
        result = pl.concat(parts).sort("at")["text"]
    return result.to_arrow().cast(pa.large_string())


def _tokens(lower: pl.Series) -> pl.Series:
    """The tokens of lower-case texts, joined."""
    tidy = lower.str.replace_all(_MARK, " ")
    tidy = tidy.str.replace_all(*_MILLIONS).str.replace_all(*_THOUSANDS)
    tidy = tidy.str.replace_all(*_HYPHEN).str.replace_all(*_EXCLAMATION)
    return tidy.str.extract_all(_TOKEN).list.join(" ").fill_null("")


def _respelt(series: pl.Series) -> pl.Series:
    """The same for texts with LaTeX or letters beyond ASCII in them."""
    import polars as pl

    text = series.to_frame("text").select(
        pl.col("text").str.replace_many(list(_LITERALS), list(_LITERALS.values())).str.normalize("NFKC")
    )["text"]
    text = text.str.replace_many(list(_BREAKS), list(_BREAKS.values())).str.to_lowercase()
    text = text.str.replace_all(*_SHORT_FRACTION).str.replace_all(*_DEGREE)
    tokens = _tokens(text).str.split(" ")
    mapped = tokens.list.eval(pl.element().replace(list(_SAME), list(_SAME.values())))
    return mapped.list.eval(pl.element().filter(pl.element() != "")).list.join(" ")


@cache
def _light_pattern() -> str:
    return rf"(?:(?:^| )(?:{'|'.join(LIGHT)}))+(?: |$)"


def light(compared: pa.Array) -> pa.Array:
    """Compared texts without the words of `LIGHT`."""
    import polars as pl

    series = pl.Series("text", pl.from_arrow(compared))
    return series.str.replace_all(_light_pattern(), " ").str.strip_chars(" ").to_arrow().cast(pa.large_string())


def blind(compared: pa.Array) -> pa.Array:
    """Compared texts with every number as 0."""
    import polars as pl

    series = pl.Series("text", pl.from_arrow(compared))
    return series.str.replace_all(r"\d+(?:\.\d+)?", "0").to_arrow().cast(pa.large_string())


def signature(compared: pa.Array) -> pa.Array:
    """The numbers and signs of compared texts alone, in their order: what must agree where words may differ."""
    import polars as pl

    series = pl.Series("text", pl.from_arrow(compared))
    return series.str.extract_all(r"\d+(?:\.\d+)?|[^\s\p{L}\p{M}\d]").list.join(" ").to_arrow().cast(pa.large_string())


# ------------------------------------------------------------------------------------------------------------- options

_FIRST_LABEL = re.compile(
    r"((?i:choices?|options?)\s*[:：]?\s*|选项\s*[:：]?\s*)?(?<![A-Za-z0-9)])(?:([(（])A\s?[)）]|A\s?[)）.．:：、])"
)
_ENDS = frozenset("\n.?!:;,，。？：；)）]}{\\_$")
"""What stands before a list of options, blanks left out: an end, or the beginning of a formula."""
_SHOWS_OPTIONS = r"[(（]?A\s?[)）.．:：、]"


def stem_and_options(question: str, choices: Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
    """The question without the options that it shows, and the options' texts: from `choices`, else from the question."""
    options = tuple(option.text for option in options_of(tuple(choices) if choices else None, question))
    if choices or not options or not options[0]:
        return question, options if choices else ()
    # The options stand at the end: the last "A." behind which the first option's text stands.
    for label in reversed(list(_FIRST_LABEL.finditer(question))):
        stem = question[: label.start()].rstrip(" ")
        if options[0] in question[label.end() :] and stem and (label[1] or label[2] or stem[-1] in _ENDS):
            return stem.rstrip() or question, options
    return question, ()


def stems(rows: pa.Table) -> tuple[pa.Array, dict[int, tuple[str, ...]]]:
    """The questions of rows (columns question, choices) without options that they show, and those options by row."""
    import pyarrow.compute as pc

    questions = pc.fill_null(rows["question"], "")
    questions = questions.combine_chunks() if isinstance(questions, pa.ChunkedArray) else questions
    bare = pc.equal(pc.fill_null(pc.list_value_length(rows["choices"]), 0), 0)
    shows = pc.and_(bare, pc.match_substring_regex(questions, _SHOWS_OPTIONS))
    at = [i for i, yes in enumerate(shows.to_pylist()) if yes] if pc.any(shows).as_py() else []
    if not at:
        return questions, {}
    found: dict[int, tuple[str, ...]] = {}
    texts = questions.to_pylist()
    for row in at:
        texts[row], options = stem_and_options(texts[row], None)
        if options:
            found[row] = options
    return pa.array(texts, pa.large_string()), found
