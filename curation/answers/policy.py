"""The conventions on which graders differ, each with its option.

Suites of well-known graders contradict each other: one wants 75 to equal 0.75, another does not. So every such
question is a field here, with the default that docs/answers.md argues for. A policy is a plain frozen value: its JSON
text is part of cache keys, so two runs with the same conventions share their verdicts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

# Bumped whenever a verdict can change for the same input and policy: part of every cache key.
REVISION = 4


@dataclass(frozen=True, slots=True)
class Policy:
    """Conventions of equality and extraction; see docs/answers.md for each with examples."""

    percent_sign_optional: bool = True
    """`10%` meets `10` where one side lacks the sign (and |10| >= 1). `10%` always equals `0.1`."""
    missing_unit: Literal["accept", "refuse"] = "accept"
    """`5 cm` against `5`. Two different units of one dimension are converted whatever this says."""
    assignment_optional: bool = True
    """`x = 2` meets `2`, `y = 2x + 1` meets `2x + 1`: a lone name on the left may be left out."""
    lowest_terms: bool = False
    """Refuse `2/4` for `1/2`."""
    gold_rounding_digits: int = 3
    """A decimal gold with at least this many significant digits is a rounded value: an answer with more digits, or an
    exact one, meets it when it rounds to it. 0 switches it off."""
    answer_rounding_digits: int = 4
    """An exact gold without a finite decimal is met by its correctly rounded decimal with at least this many
    significant digits. 0 switches it off."""
    tolerance: float = 0.0
    """Relative tolerance for decimal golds, beyond rounding. Integers stay exact."""
    unordered_lists: bool = True
    """A comma list without brackets, or in braces, is a set. Round brackets always keep their order."""
    decimal_comma: bool = True
    """`2,74` meets `2.74`: a comma followed by anything but three digits can be a decimal comma."""
    weak_extraction: bool = True
    """Without a declared answer take the last formula or number. False gives `no_answer`."""
    last_box_only: bool = False
    """Several adjacent boxes of one sentence are one list; True takes the last of them."""
    judge_truncated: bool = False
    """Judge a truncated response that declares an answer, instead of `truncated`."""
    text_containment: bool = True
    """A text gold that stands whole inside the answer, not negated, is correct."""
    symbolic: bool = True
    """Ask sympy and math-verify (in killable processes) for what the earlier layers leave open."""
    deadline_s: float = 1.0
    """Wall time for one symbolic comparison before its process is killed."""
    memory_mb: int = 512
    """Address space of a symbolic worker beyond what its imports take."""

    @classmethod
    def parse(cls, settings: Iterable[str]) -> Policy:
        """A policy from `name=value` texts. Raises ValueError that names what is wrong with one."""
        defaults, given = cls(), dict[str, Any]()
        for setting in settings:
            name, equals, text = setting.partition("=")
            if not equals or name not in cls.__dataclass_fields__:
                raise ValueError(
                    f"{setting!r} is no convention; give name=value with one of {', '.join(cls.__dataclass_fields__)}"
                )
            default = getattr(defaults, name)
            allowed = {"missing_unit": ("accept", "refuse")}.get(
                name, ("true", "false") if isinstance(default, bool) else ()
            )
            if allowed and text not in allowed:
                raise ValueError(f"{name} is {' or '.join(allowed)}, not {text!r}")
            try:
                given[name] = text == "true" if isinstance(default, bool) else type(default)(text)
            except ValueError:
                raise ValueError(f"{name} is a number, not {text!r}") from None
        return cls(**given)

    def key(self) -> str:
        """Canonical JSON of the policy with the code revision: what caches are keyed by."""
        return json.dumps({"revision": REVISION, **asdict(self)}, sort_keys=True)
