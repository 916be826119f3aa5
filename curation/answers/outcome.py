"""What one comparison found, before it becomes a verdict."""

from __future__ import annotations

from typing import Any, NamedTuple

from schemas.verdicts import State

Node = tuple[Any, ...]


class Outcome(NamedTuple):
    """equal True, False or None (open), by which method, and why.

    trees  both sides, where the symbolic layer could still decide
    state  set where the outcome is neither equal, unequal nor open: a timeout, an error, no answer
    more   further evidence for the verdict
    """

    equal: bool | None
    method: str
    reason: str
    gold: str | None = None
    answer: str | None = None
    trees: tuple[Node, Node] | None = None
    state: State | None = None
    more: dict[str, Any] | None = None
