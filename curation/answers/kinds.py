"""What is asked for: read off the gold, the options and the caller's hint, never off the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from curation.answers.choices import Option, is_capital, letters_of_gold
from curation.answers.normal import normal

_ALIASES = {
    "choice": "choice", "mcq": "choice", "multiple_choice": "choice", "multiple-choice": "choice",
    "multiple choice": "choice",
    "text": "text", "free_text": "text", "string": "text", "open": "text",
    "math": "math", "number": "math", "numeric": "math", "integer": "math", "float": "math", "decimal": "math",
    "expression": "math", "list": "math", "yes/no": "text", "yesno": "text", "bool": "text", "boolean": "text",
}  # fmt: skip
# A question that asks for an order makes its list ordered.
ORDER_ASKED = re.compile(
    r"\b(?:sort|arrange|rank|put|list|order|write)\b[^.?]{0,80}\b(?:order|increasing|decreasing"
    r"|ascending|descending|smallest to|largest to"
    r"|least to|greatest to)\b|\bsort\b|从小到大|从大到小",
    re.IGNORECASE,
)


_OR_ELSE = re.compile(r"(.+?)\s*[(（]\s*(?:or|或)(?:者|\s+fill in|\s*[:：]|(?=\W))\s*(.+?)\s*[)）]\W*", re.DOTALL)


def alternatives(gold: str) -> tuple[str, ...]:
    """A gold that names a second one in brackets, as both: `35/4 (or 8.75)`."""
    if ")" not in gold and "）" not in gold:
        return (gold,)
    match = _OR_ELSE.fullmatch(gold) if gold.rstrip(" .$").endswith((")", "）")) else None
    return (match[1], match[2], gold) if match else (gold,)


def kind_of(gold: str, kind: str | None, options: Sequence[Option]) -> str:
    """One of choice, text, math. `kind` is the caller's hint; an unknown hint is ignored."""
    hinted = _ALIASES.get(kind.strip().lower()) if kind else None
    if hinted == "choice" or (hinted == "text" and not options):
        return hinted
    letters = letters_of_gold(gold)
    if letters and hinted != "text" and is_capital(gold):
        available = "".join(o.letter for o in options)
        if len(letters) == 1 or (options and all(c in available for c in letters)):
            return "choice"
    if options and hinted is None and normal(gold) in map(normal, (o.text for o in options)):
        return "choice"
    return "text" if hinted == "text" else "math"
