"""The size gate and the character clean-up that every text passes first.

Everything after this sees bounded input, so later layers may be written plainly: the scan for an answer is linear in
at most 64 KB, and the parser meets at most 4 KB. A megabyte of brackets costs a slice, not a minute.
"""

from __future__ import annotations

import re
import unicodedata

TAIL_CHARS = 65_536  # of a response: the final answer stands at the end
ANSWER_CHARS = 4_096
MAX_DIGITS = 4_096
MAX_NESTING = 64
MAX_TOKENS = 512

# Bidirectional marks, zero-width and control characters (tab and newline stay): they change what a person sees.
_INVISIBLE = re.compile(
    "[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]"
)

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_SUPER_RUN = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_SUB_RUN = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
_VULGAR = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
    "⅙": "1/6", "⅚": "5/6", "⅐": "1/7", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8", "⅑": "1/9", "⅒": "1/10",
}  # fmt: skip
_VULGAR_RUN = re.compile(f"(\\d?)\\s*([{''.join(_VULGAR)}])")
_CHARACTERS = str.maketrans(
    {
        "−": "-", "–": "-", "‐": "-", "‑": "-", "﹣": "-", "－": "-", "—": "-", "×": r" \times ", "⋅": r" \cdot ",
        "·": r" \cdot ", "∙": r" \cdot ", "÷": r" \div ", "∕": "/", "⁄": "/", "≤": r" \le ", "≥": r" \ge ",
        "≦": r" \le ", "≧": r" \ge ", "⩽": r" \le ", "⩾": r" \ge ", "≠": r" \ne ", "≈": r" \approx ",
        "∈": r" \in ", "∪": r" \cup ", "∩": r" \cap ", "∞": r" \infty ", "π": r" \pi ", "θ": r" \theta ",
        "α": r" \alpha ", "β": r" \beta ", "γ": r" \gamma ", "λ": r" \lambda ", "φ": r" \phi ", "ω": r" \omega ",
        "±": r" \pm ", "∓": r" \mp ", "∅": r" \emptyset ", "√": r" \surd ", "°": r"^\circ ", "º": r"^\circ ",
        "℃": r"^\circ C", "∠": r" \angle ", "△": r" \triangle ", "％": "%", "′": "'", "’": "'", "‘": "'",
        "“": '"', "”": '"', "（": "(", "）": ")", "［": "[", "］": "]", "【": "[", "】": "]", "｛": "{", "｝": "}",
        "，": ", ", "、": ", ", "；": "; ", "：": ":", "。": ". ", "！": "!", "？": "?", "⟨": r"\langle ",
        "⟩": r"\rangle ", "ℝ": r"\mathbb{R}", "∑": r"\sum ", "∫": r"\int ", "∏": r"\prod ", "→": r" \to ",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u3000": " ",
    }
)  # fmt: skip


def names(text: str) -> frozenset[str]:
    """The words of `text` as a set: how the tables of this package are written."""
    return frozenset(text.split())


def strip_invisible(text: str) -> str:
    """`text` without control, zero-width and bidirectional characters."""
    return text if text.isascii() and text.isprintable() else _INVISIBLE.sub("", text)


def ascii_math(text: str) -> str:
    """An answer in the characters the parser knows: `x²` becomes `x^{2}`, `½` `(1/2)`, `−` a minus, `１` a one.

    Compatibility forms are folded (NFKC) after the marks whose meaning NFKC would lose.
    """
    if text.isascii():
        return text
    text = _INVISIBLE.sub("", text)
    text = _VULGAR_RUN.sub(lambda m: f"{m[1]} {_VULGAR[m[2]]} " if m[1] else f"({_VULGAR[m[2]]})", text)
    text = _SUPER_RUN.sub(lambda m: "^{" + "".join(_SUPERSCRIPTS[c] for c in m[0]) + "}", text)
    text = _SUB_RUN.sub(lambda m: "_{" + "".join(_SUBSCRIPTS[c] for c in m[0]) + "}", text)
    return unicodedata.normalize("NFKC", text.translate(_CHARACTERS)).translate(_CHARACTERS)
