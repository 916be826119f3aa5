"""What a teacher is: someone who answers prompts, and the key under which an answer is kept.

There are two kinds. A teacher that *holds* answers already (`recorded`) is joined to rows. A teacher that is *asked*
(a model) gets requests, and what it says goes into the trace store before anybody hears of it: an answer that was paid
for is never lost and never asked for twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from schemas.recipe import Model

Finish = Literal["finished", "truncated", "failed"]


class Sampling(BaseModel):
    """How a model samples. Everything but `max_tokens` is part of a trace's key: a longer limit changes no answer that
    was finished before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(1.0, ge=0, description="0 takes the likeliest token; then all n answers are the same.")
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0 looks at all tokens.")
    min_p: float = Field(0.0, ge=0, le=1)
    seed: int = Field(0, ge=0)
    max_tokens: int = Field(4096, ge=1)

    def key_fields(self) -> dict[str, Any]:
        return self.model_dump(exclude={"max_tokens"})


@dataclass(frozen=True)
class Message:
    """One turn. `<image>` in the text of a user's turn stands for the next picture of the request."""

    role: str
    content: str


@dataclass(frozen=True)
class Request:
    """One answer that is wanted."""

    key: str
    messages: tuple[Message, ...]
    images: tuple[str, ...]
    """Hashes of the pictures, in the order of their marks."""
    k: int
    attempt: int = 0

    @property
    def seed(self) -> int:
        """A seed of its own for every answer: 63 bits of the key, which has the recipe's seed and k in it."""
        return int.from_bytes(hashlib.sha256(self.key.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Answer:
    """What a teacher said to one request."""

    key: str
    attempt: int
    text: str | None
    finish: Finish
    finish_reason: str
    """In the teacher's own words: stop, length, or what failed."""
    max_tokens: int
    """The limit that it was asked under."""
    prompt_tokens: int | None = None
    output_tokens: int | None = None


class Teacher(Protocol):
    """A teacher that is asked."""

    name: str
    """Its kind, as in recipes."""
    model: str
    revision: str
    """What tells two states of the model apart: a commit, or a digest of its files."""

    def ask(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Answer]:
        """One answer per request, in any order, as they come. An answer that could not be got is `failed` with the
        reason; only what makes every further answer impossible is raised."""
        ...


ReadImages = Callable[[Sequence[str]], Mapping[str, bytes]]


class Asked(Model):
    """Base of the configs of teachers that are asked."""

    def open(self, read_images: ReadImages, recipe_dir: Path) -> Teacher:
        """The teacher, ready. Raises WinnowError where it cannot be: what is missing, and what installs it."""
        raise NotImplementedError

    def identity(self, recipe_dir: Path) -> tuple[str, str] | None:
        """(model, revision) as they will stand in keys, where that is known without loading the model."""
        return None


class Held(Model):
    """Base of the configs of teachers whose answers are there already."""

    def needs_columns(self) -> Sequence[str]:
        """Columns of rows by which answers are joined."""
        raise NotImplementedError

    def files(self, recipe_dir: Path) -> Sequence[Path]:
        """Files whose bytes shape the traces."""
        raise NotImplementedError

    def traces(self, rows: pa.Table, n: int, recipe_dir: Path) -> pa.Table:
        """schemas.rows.TRACE of the rows, at most `n` of each, sorted by (row_id, k)."""
        raise NotImplementedError


def trace_key(
    messages: Iterable[Message], images: Sequence[str], *, model: str, revision: str, sampling: Sampling, k: int
) -> str:
    """32 hex digits over all that decides an answer: the rendered prompt with its image hashes, model and revision, the
    sampling parameters without max_tokens, and k."""
    from curation.digests import json_digest

    asked = [[m.role, m.content] for m in messages]
    return json_digest([asked, list(images), model, revision, sampling.key_fields(), k])[:32]
