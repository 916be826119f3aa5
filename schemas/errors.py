"""Errors that a person meets: what is wrong, where, and what to do about it.

Commands turn a WinnowError into one plain message and its exit code; anything else is a bug and shows its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class WinnowError(Exception):
    """Something that the user can put right. The message says what happened, where, and what to do."""

    exit_code = 1


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a recipe."""

    message: str
    file: str = ""
    line: int | None = None
    text: str = ""  # the offending line, as written
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        lines = [f"{where}{self.message}"]
        if self.text:
            lines.append(f"    {self.text.strip()}")
        if self.hint:
            lines.append(f"    {self.hint}")
        return "\n".join(lines)


class RecipeError(WinnowError):
    """All problems of a recipe at once, found before any work."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem], what: str = "recipe"):
        self.problems = list(problems)
        count = "one problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        self.what = what
        super().__init__("\n".join([f"The {what} has {count}; nothing was run.", *map(str, self.problems)]))

    def __reduce__(self) -> tuple[type[RecipeError], tuple[list[Problem], str]]:
        """So that it can come from another process: an exception is otherwise made again from its message."""
        return type(self), (self.problems, self.what)


class SourceError(WinnowError):
    """A source that cannot be read, or is broken in too many rows."""


class BusyError(WinnowError):
    """Another process holds the lock."""


class DamagedError(WinnowError):
    """A stored file is missing or does not have the bytes that it was written with."""
