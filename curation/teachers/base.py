"""What a teacher is: someone who answers prompts, and the key under which an answer is kept.

There are two kinds. A teacher that *holds* answers already (`recorded`) is joined to rows. A teacher that is *asked*
(a model) gets requests, and what it says goes into the trace store before anybody hears of it: an answer that was paid
for is never lost and never asked for twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from curation.prompts import IMAGE_MARK
from schemas.recipe import Model

if TYPE_CHECKING:
    from curation.stages.base import Context

Finish = Literal["finished", "truncated", "failed"]

REJECTED = "rejected: "
"""How the reason of a failure begins that another try would meet again: the prompt is too long, a picture cannot be
read. Every other failure (a timeout, a server that went away, no memory) is asked for again by the next build."""


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
    logprobs: bool = Field(False, description="Whether to keep the log-probability of every token of an answer.")

    def key_fields(self) -> dict[str, Any]:
        return self.model_dump(exclude={"max_tokens", "logprobs"})


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `<image>` in the text of a user's turn stands for the next picture of the request."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Want:
    """One answer that is wanted."""

    key: str
    k: int
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and the answers to it that are wanted, with consecutive k: a teacher that can draw several answers in
    one go is sent its pictures once."""

    messages: tuple[Message, ...]
    images: tuple[str, ...]
    """Hashes of the pictures, in the order of their marks."""
    wants: tuple[Want, ...]
    seed: int
    """Seed of the first answer; the next one's is one more, and so on. vLLM seeds the answers of one request so."""
    max_tokens: int
    given: str | None = None
    """An answer that is there already: nothing is drawn, the one Answer has the log-probabilities of its tokens. They are
    those of this text, tokenised by itself behind the prompt; no end of turn is among them."""

    def part(self, start: int, stop: int) -> Request:
        """The request for wants[start:stop] alone; each answer keeps its seed."""
        return Request(
            self.messages, self.images, self.wants[start:stop], self.seed + start, self.max_tokens, self.given
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a teacher said to one want."""

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
    reasoning: str | None = None
    """What a server gave as the thinking before the text (`reasoning_content`)."""
    logprobs: Sequence[float] | None = None


def scored(request: Request, logprobs: Sequence[float], prompt_tokens: int) -> Answer:
    """The Answer to a request with a given answer: log-probabilities of its tokens, natural logarithms."""
    want = request.wants[0]
    return Answer(
        want.key, want.attempt, None, "finished", "given", request.max_tokens, prompt_tokens=prompt_tokens,
        output_tokens=len(logprobs), logprobs=logprobs,
    )  # fmt: skip


def failed(request: Request, why: str) -> Iterator[Answer]:
    """Answers of a request that could not be got."""
    for want in request.wants:
        yield Answer(want.key, want.attempt, None, "failed", why, request.max_tokens)


class Teacher(Protocol):
    """A teacher that is asked."""

    name: str
    """Its kind, as in recipes."""
    model: str
    revision: str
    """What tells two states of the model apart: a commit or a digest of its files, and with it whatever of the
    teacher's own settings shapes answers (the size of pictures, options of the chat template)."""

    def ask(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Answer]:
        """One answer per want, in any order, as they come. Requests are taken when there is room for them, so that
        millions need no memory. An answer that could not be got is `failed` with the reason; only what makes every
        further answer impossible is raised."""
        ...

    def load(self) -> Mapping[str, float]:
        """How it is doing, for the progress line: requests `in_flight`, and where it knows them the `limit` of these and how many
        requests were `sent_again` after an error."""
        ...

    def close(self) -> None:
        """Nothing more is asked: free memory and connections."""
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

    def files(self, recipe_dir: Path) -> Sequence[Path]:
        """Files whose bytes shape the traces: those of a model on this machine."""
        return ()

    def tokenizer(self, recipe_dir: Path) -> str | None:
        """Where the model's tokenizer lies, if it is on this machine: for estimates."""
        return None


class Held(Model):
    """Base of the configs of teachers whose answers are there already."""

    def needs_columns(self) -> Sequence[str]:
        """Columns of rows by which answers are joined."""
        raise NotImplementedError

    def files(self, recipe_dir: Path) -> Sequence[Path]:
        """Files whose bytes shape the traces."""
        raise NotImplementedError

    def pieces(self, rows: pa.Table, n: int, context: Context) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Some of the rows and their traces (schemas.rows.TRACE), at most `n` of each row, until all rows were there:
        in their order, and cut at the same places in every run."""
        raise NotImplementedError


class Prompt:
    """A rendered prompt put to one model with one way of sampling: what keys and seeds are made of."""

    __slots__ = ("_head", "images", "messages")

    def __init__(
        self, messages: Iterable[Message], images: Sequence[str], *, model: str, revision: str, sampling: Sampling
    ):
        self.messages = tuple(messages)
        self.images = tuple(images)
        asked = [[m.role, m.content] for m in self.messages]
        fields = [asked, list(images), model, revision, sampling.key_fields()]
        self._head = hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":"))[:-1].encode())

    @property
    def digest(self) -> bytes:
        """16 bytes that name the prompt."""
        return self._head.digest()[:16]

    def key(self, k: int) -> str:
        """32 hex digits over all that decides answer k: the rendered prompt with its image hashes, model and revision,
        the sampling parameters without max_tokens, and k."""
        whole = self._head.copy()
        whole.update(b",%d]" % k)
        return whole.hexdigest()[:32]

    def seed(self, k: int, draw: int = 0) -> int:
        """The seed of answer k, under 2^50 so that every server reads it exactly. `draw` counts finished answers that
        were refused: another draw is another seed, while a try that only failed or was cut is made again as it was."""
        return (int.from_bytes(self._head.digest()[16:22], "big") + k + draw * 1_000_003) % (1 << 50)


def trace_key(
    messages: Iterable[Message], images: Sequence[str], *, model: str, revision: str, sampling: Sampling, k: int
) -> str:
    """The key of one answer; see Prompt.key."""
    return Prompt(messages, images, model=model, revision=revision, sampling=sampling).key(k)


def content_parts(message: Message, images: Iterator[Any]) -> list[tuple[str, Any]]:
    """("text", str) and ("image", next of images) pieces of a turn, in order; empty text is left out. Pictures stand in
    users' turns only."""
    if message.role != "user":
        return [("text", message.content)]
    parts: list[tuple[str, Any]] = []
    for i, piece in enumerate(message.content.split(IMAGE_MARK)):
        if i:
            parts.append(("image", next(images)))
        if piece:
            parts.append(("text", piece))
    return parts
