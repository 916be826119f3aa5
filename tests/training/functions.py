"""Reward functions that tests name by their import path."""

from __future__ import annotations

import re
from typing import Any


def small_letters(row: dict[str, Any]) -> float:
    """Share of the answer that is small letters: a task with a known best answer, which any model can begin to learn.
    A tag is one token and counts as one other sign."""
    text = re.sub("<[^<>]*>", "#", row["response"])
    return sum("a" <= letter <= "z" for letter in text) / max(len(text), 1)


def always_one(row: dict[str, Any]) -> float:
    return 1.0


def by_digit(row: dict[str, Any]) -> float:
    """Something that differs between any two answers."""
    return sum(map(ord, row["response"])) % 97 / 97


def not_of_one(row: dict[str, Any]) -> float | None:
    """One row's answers cannot be judged."""
    return None if row["row_id"] == "row001" else by_digit(row)
