"""Texts from data as HTML: escaped, formulas as MathML, long ones shortened, a part of them marked.

Formulas are turned by latex2mathml here, so that a page needs neither a script nor a network for them. What it gives is
taken apart and put together again from a list of MathML's elements and attributes, because a formula may hold anything:
`\\href{javascript:…}`, `\\text{<script>}`, a thousand nested roots. What cannot be turned is shown as it is written.
"""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ET
from functools import lru_cache

from markupsafe import Markup, escape

FORMULA = 1500
"""Characters of a formula at most; a longer one is shown as it is written."""
NESTED = 30
"""Braces in one another at most."""
AROUND = 160
"""Characters that are shown around a marked part."""

_FORMULA = re.compile(
    r"\$\$(?P<a>[^$]{1,1500}?)\$\$"
    r"|\\\[(?P<b>.{1,1500}?)\\\]"
    r"|\\\((?P<c>.{1,1500}?)\\\)"
    r"|(?P<d>\\begin\{(?P<e>align|equation|gather|aligned|cases|array|[bpvBV]?matrix)\*?\}.{1,1500}?\\end\{(?P=e)\*?\})"
    r"|(?<![\\$\w])\$(?![\s$])(?P<f>[^$\n]{1,500}?)(?<![\s\\])\$(?![\d$])",
    re.DOTALL,
)
_REFUSED = re.compile(
    r"\\(def|gdef|edef|let|newcommand|renewcommand|providecommand|newenvironment|href|url|style|class|cssId)\b"
)
_TAGS = {
    "math", "mrow", "mi", "mo", "mn", "ms", "mtext", "mspace", "mfrac", "msqrt", "mroot", "msub", "msup", "msubsup", "munder", "mover",
    "munderover", "mmultiscripts", "mprescripts", "none", "mtable", "mtr", "mtd", "mstyle", "mpadded", "mphantom", "menclose", "merror",
}  # fmt: skip
_ATTRIBUTES = {
    "display", "displaystyle", "scriptlevel", "mathvariant", "stretchy", "fence", "separator", "form", "lspace", "rspace", "width",
    "height", "depth", "linethickness", "columnalign", "rowspacing", "columnspacing", "columnlines", "rowlines", "notation", "accent",
    "accentunder", "movablelimits", "minsize", "maxsize", "symmetric", "largeop",
}  # fmt: skip
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_VALUE = re.compile(r"[\w .%+#-]{0,60}")


def rich(text: str | None, limit: int, mark: tuple[int, int] | None = None) -> Markup:
    """A text as HTML: at most about `limit` characters of it, and `mark` [start, end) in any case, in a <mark>."""
    if not text:
        return Markup("")
    if mark is not None and not 0 <= mark[0] < mark[1] <= len(text):
        mark = None
    made, last = [], 0
    for start, end in _shown(len(text), limit, mark):
        if start > last:
            made.append(Markup('<span class="gap">… {} characters …</span>').format(f"{start - last:,}"))
        made.append(_piece(text, start, end, mark))
        last = end
    if last < len(text):
        made.append(Markup('<span class="gap">… {} characters …</span>').format(f"{len(text) - last:,}"))
    return Markup("").join(made)


def _shown(length: int, limit: int, mark: tuple[int, int] | None) -> list[tuple[int, int]]:
    """The parts of a text that are shown: its beginning, its end, and what is marked."""
    if length <= limit * 1.1:
        return [(0, length)]
    parts = [(0, limit * 2 // 3), (length - limit // 3, length)]
    if mark is not None:
        parts.append((max(0, mark[0] - AROUND), min(length, mark[0] + AROUND, mark[1] + AROUND)))
    merged: list[tuple[int, int]] = []
    for start, end in sorted(parts):
        if merged and start <= merged[-1][1] + 40:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _piece(text: str, start: int, end: int, mark: tuple[int, int] | None) -> Markup:
    made, at = [], start
    for match in _FORMULA.finditer(text, start, end):
        made.append(_plain(text, at, match.start(), mark))
        source = next(match[name] for name in "abcdf" if match[name] is not None)
        block = match["a"] is not None or match["b"] is not None or match["d"] is not None
        formula = mathml(source, block)
        if formula is None:
            made.append(_plain(text, match.start(), match.end(), mark))
        elif mark is not None and mark[0] < match.end() and match.start() < mark[1]:
            made.append(Markup("<mark>{}</mark>").format(formula))
        else:
            made.append(formula)
        at = match.end()
    made.append(_plain(text, at, end, mark))
    return Markup("").join(made)


def _plain(text: str, start: int, end: int, mark: tuple[int, int] | None) -> Markup:
    if mark is None or mark[1] <= start or end <= mark[0]:
        return _safe(text[start:end])
    left, right = max(start, mark[0]), min(end, mark[1])
    return Markup("{}<mark>{}</mark>{}").format(
        _safe(text[start:left]), _safe(text[left:right]), _safe(text[right:end])
    )


def harmless(text: str) -> str:
    """A text with control characters, lone surrogates and what turns the direction of writing shown as a box."""
    return _CONTROL.sub("□", text)


def _safe(text: str) -> Markup:
    return escape(harmless(text))


@lru_cache(maxsize=20_000)
def mathml(source: str, block: bool = False) -> Markup | None:
    """A formula in TeX as a <math> element, or None where it cannot be turned."""
    if len(source) > FORMULA or _REFUSED.search(source) or _depth(source) > NESTED or source.count("\\") > 400:
        return None
    from latex2mathml.converter import convert_to_element

    try:
        element = convert_to_element(source, display="block" if block else "inline")
        found = _clean(element)
    except (Exception, RecursionError):  # a parser of free text raises what it likes; the text itself is shown then
        return None
    return Markup(found)


def _depth(source: str) -> int:
    """How deep braces, environments and commands that take the next thing as their argument may nest."""
    depth = deepest = 0
    for character in source:
        depth += (character == "{") - (character == "}")
        deepest = max(deepest, depth)
    return max(deepest, source.count("\\begin"), source.count("\\left"), source.count("\\sqrt") // 2)


def _clean(element: ET.Element) -> str:
    """An element of MathML as text. Raises ValueError for what is none: the formula is then shown as it is written."""
    if element.tag not in _TAGS:
        raise ValueError(element.tag)
    attributes = "".join(
        f' {name}="{value}"'
        for name, value in element.attrib.items()
        if name in _ATTRIBUTES and _VALUE.fullmatch(value)
    )
    # latex2mathml writes characters as entities into the text.
    inner = _safe(html.unescape(element.text or ""))
    return f"<{element.tag}{attributes}>{inner}{''.join(_clean(child) for child in element)}</{element.tag}>"
