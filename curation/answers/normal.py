r"""The normal form of an answer as a string: what two writers of the same thing would both write.

Marks that carry no meaning go (dollars, \left, thin spaces, a closing full stop, bold stars); what carries meaning
stays. Equality of these strings is the cheapest verdict, and the strings are what verdict caches are keyed by.
"""

from __future__ import annotations

import re
from functools import lru_cache

from curation.answers.gate import ANSWER_CHARS, ascii_math

_WRAPPERS = re.compile(
    r"\s*(?:\$\$(?P<a>[^$]*)\$\$|\$(?P<b>[^$]*)\$|\\\((?P<c>(?:(?!\\\)).)*)\\\)|\\\[(?P<d>(?:(?!\\\]).)*)\\\]"
    r"|\*\*(?P<e>[^*]*)\*\*|`(?P<f>[^`]*)`)\s*",
    re.DOTALL,
)
_OPENERS = frozenset("$\\*`")  # what a wrapper begins with
_BOXED = re.compile(r"\s*\\(?:boxed|fbox)\s*\{(.*)\}\s*", re.DOTALL)
_NO_MEANING = re.compile(
    r"\\(?:left|right|big|Big|bigg|Bigg|displaystyle|textstyle|limits|!)(?![A-Za-z])\.?"
    r"|(?<!\\)\\[,;:> ]|~|(?<!\\)\\q?quad\b"
)
_QUANTITY = re.compile(r"\\(?:quantity|qty|SI)\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_PHANTOM = re.compile(r"\\[hv]?phantom\s*(?:\{[^{}]*\}|.)")
_STOP_BEFORE_UNIT = re.compile(r"(?<=\d)\.(?=\s*\\(?:mathrm|text|mbox))")
_BRACED_WORD = re.compile(r"(?<=\d)\{([a-z]{3,})\}")
_SIDE_BY_SIDE = re.compile(r"(?<=[\d)}\]])\s*\$\$\s+\$\$\s*(?=[-\d(\[])")  # two displayed values are a list
_OVER = re.compile(r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}|\A([^{}=,]*)\\over(?![A-Za-z])([^{}=,]*)\Z")
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z!,;{}()\[\]])")
_INLINE_MATH = re.compile(r"(?<!\\)\$([^$]+)(?<!\\)\$")
_THIN_COMMA = re.compile(r"(?<=\d),\\!\s*(?=\d{3})")
_BRACED_COMMA = re.compile(r"\s*\{,\s*\}\s*")
_LEADING = re.compile(r"\A(?:=|\\approx(?![A-Za-z])|\\simeq(?![A-Za-z]))\s*(?=\S)")
_SPACES = re.compile(r"\s{2,}|[^\S ]")  # what a single space is not


def _balanced(text: str) -> bool:
    depth = 0
    for char in text:
        if char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth < 0:
                return False
    return depth == 0


def unwrap(text: str) -> str:
    r"""`text` without what merely encloses it: $...$, \(...\), \boxed{...}, **...**, a closing full stop."""
    for _ in range(6):
        before = text
        text = text.strip().strip("​")
        if text[:1] in _OPENERS:
            match = _WRAPPERS.fullmatch(text)
            if match and match.lastgroup:
                text = match[match.lastgroup]
            boxed = _BOXED.fullmatch(text)
            if boxed and _balanced(boxed[1]):
                text = boxed[1]
        if (text.endswith((".", ",", ";", "。")) and not text.endswith(("..", r"\,", r"\;"))) or (
            text.endswith("\\") and not text.endswith("\\\\")
        ):
            text = text[:-1]
        if text == before:
            break
    return text


@lru_cache(maxsize=65_536)
def normal(text: str) -> str:
    """The string normal form, at most ANSWER_CHARS characters."""
    if text.isalnum() and text.isascii() and len(text) <= ANSWER_CHARS:
        return text
    text = unwrap(ascii_math(text[:ANSWER_CHARS]))
    if "$$" in text:
        text = _SIDE_BY_SIDE.sub(", ", text)
    if text.count("$") - text.count("\\$") >= 2:
        text = _INLINE_MATH.sub(r"\1", text)
    if "\\" in text or "~" in text:
        if ",\\!" in text:
            text = _THIN_COMMA.sub("{,}", text)
        if "\\qu" in text or "\\SI" in text or "\\qty" in text:
            text = _QUANTITY.sub(r"\1 \\text{\2}", text)
        if "phantom" in text:
            text = _PHANTOM.sub("", text)
        if "." in text:
            text = _STOP_BEFORE_UNIT.sub("", text)
        if "\\\\" in text and "\\begin" not in text:
            text = _DOUBLED.sub(lambda _: "\\", text)  # backslashes escaped once too often
        text = _NO_MEANING.sub(lambda m: " " if m[0] in ("~", "\\ ", "\\quad", "\\qquad") else "", text)
        if "\\over" in text:
            text = _OVER.sub(lambda m: rf"\frac{{{m[1] or m[3]}}}{{{m[2] or m[4]}}}", text)
        text = text.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac").replace(r"\cfrac", r"\frac")
    if "{" in text:
        text = _BRACED_WORD.sub(r" \1", text)
    if "{}" in text:
        text = text.replace("{}", "")
    if "{," in text:
        text = _BRACED_COMMA.sub("{,}", text)
    return unwrap(_LEADING.sub("", _SPACES.sub(" ", text).strip()))
