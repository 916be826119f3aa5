"""Reasoning formats: what a finished answer must look like, and the few repairs that are made.

An answer's *shape* is a handful of yes-or-no facts about its tags. It is stored beside the text, so that a recipe may
demand another format of answers that are there already without reading any of them.

Repairs are two, and each is recorded with the trace:

    reasoning_content   a server gave the thinking in a field of its own: it is put in front, in think tags
    opened_think        the answer closes a think block that it never opened, because the chat template had opened it
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

REVISION = 1

Format = Literal["any", "think", "think_answer", "boxed", "think_boxed"]

OPEN, CLOSE = "<think>", "</think>"
_ANSWER = re.compile(r"\s*<answer>(.*)</answer>\s*", re.DOTALL)
_BOXED = re.compile(r"\\boxed\s*\{")


class Shape(enum.IntFlag):
    """What an answer's tags look like."""

    TEXT = 1  # there is text, or reasoning
    REASONING = 2  # the server gave reasoning apart
    OPENS = 4  # text begins with <think>
    CLOSES = 8  # it has exactly one </think>
    TWICE = 16  # more than one <think> or </think>
    SAYS = 32  # there is text after the thinking (or no thinking, and text)
    ANSWER = 64  # what follows the thinking is one answer block that is not empty
    BOXED = 128  # what follows the thinking has a box that closes


def shape_of(text: str | None, reasoning: str | None = None) -> int:
    """The shape of an answer, for `problem_of`."""
    text = text or ""
    shape = Shape(0)
    if text or reasoning:
        shape |= Shape.TEXT
    if reasoning:
        shape |= Shape.REASONING
    opened, closed = text.count(OPEN), text.count(CLOSE)
    if opened and text.lstrip().startswith(OPEN):
        shape |= Shape.OPENS
    if closed == 1:
        shape |= Shape.CLOSES
    if opened > 1 or closed > 1:
        shape |= Shape.TWICE
    said = text.rpartition(CLOSE)[2] if closed else "" if opened else text
    if said.strip():
        shape |= Shape.SAYS
    if (found := _ANSWER.fullmatch(said)) and found[1].strip() and "<answer>" not in found[1]:
        shape |= Shape.ANSWER
    if _has_box(said):
        shape |= Shape.BOXED
    return int(shape)


def _has_box(text: str) -> bool:
    for found in _BOXED.finditer(text):
        depth = 1
        for at in range(found.end(), min(len(text), found.end() + 10_000)):
            depth += (text[at] == "{") - (text[at] == "}")
            if not depth:
                return True
    return False


def problem_of(shape: int, form: Format) -> str | None:
    """What is wrong with a finished answer of this shape after its repairs, or None."""
    has = Shape(shape)
    if form == "any":
        return None
    if form.startswith("think"):
        apart = Shape.REASONING in has
        if Shape.TWICE in has:
            return "several think blocks"
        if not apart and Shape.CLOSES not in has:
            return "think block not closed" if Shape.OPENS in has else "no think block"
        if Shape.SAYS not in has:
            return "nothing after the thinking"
    if form.endswith("answer") and Shape.ANSWER not in has:
        return "no answer block, or text beside it"
    if form.endswith("boxed") and Shape.BOXED not in has:
        return "no box"
    return None


def problems(shapes: np.ndarray, form: Format) -> pa.Array:
    """string[answers]: `problem_of` each, null where nothing is wrong."""
    if form == "any":
        return pa.nulls(len(shapes), pa.string())
    kinds, at = np.unique(shapes, return_inverse=True)
    return pa.array([problem_of(int(kind), form) for kind in kinds], pa.string()).take(pa.array(at.reshape(-1)))


def repaired(text: str | None, reasoning: str | None, form: Format) -> tuple[str | None, str | None]:
    """The answer as one text, and the name of the repair or None."""
    if reasoning:
        return f"{OPEN}\n{reasoning.strip()}\n{CLOSE}\n{text or ''}", "reasoning_content"
    if text is not None and form.startswith("think") and OPEN not in text and text.count(CLOSE) == 1:
        return f"{OPEN}{text}", "opened_think"
    return text, None


def shapes_of(texts: Sequence[str | None]) -> np.ndarray:
    """int16[texts]"""
    return np.fromiter((shape_of(text) for text in texts), np.int16, len(texts))
