"""The judge inside the stage `verify`: a language model that is asked about what the rules leave open.

What it says is a record: on disk in the workspace before it counts, keyed by model, rubric, question, gold and answer. So
a build that was killed asks for nothing twice and ends with the same id, and so does one whose cached stages were thrown
away. An outage makes `checker_error`, which is in no pass rate, and the next build asks for those again. A sample of what
the rules decided, drawn by row, goes to the judge as well: how often the two agree says what its other verdicts are worth.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, field_validator

from curation import draws
from curation.answers import Judge
from curation.answers.cache import VerdictCache
from curation.answers.judge import WORDS, JudgeError
from curation.answers.judging import ask_many, compared, decided_by_rules, open_verdicts, with_answers, with_evidence
from curation.stages.base import Context
from schemas.errors import WinnowError

RECORD = "judgements.sqlite"
"""In the workspace: all that judges have said."""
EXAMPLES = 5
"""Verdicts that notes name of those where judge and rules differ."""


class JudgeConfig(BaseModel):
    """An OpenAI-compatible endpoint that is asked about verdicts which the rules leave open."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str = Field(description="Base URL, like http://localhost:8000/v1.")
    model: str = Field(description="Name of the model, as the server calls it.")
    revision: str = Field("", description="State of the model, for the key: a server does not tell it.")
    api_key_env: str | None = Field(None, description="Environment variable with the API key.")
    timeout: float = Field(30, gt=0, description="Seconds that one request may take.")
    tries: int = Field(4, ge=1, description="Tries of a request, with pauses that double, before it has failed.")
    concurrency: int = Field(8, ge=1, description="Requests in flight at most, of each worker.")
    swap: bool = Field(True, description="Ask in both orders of the two answers; only an agreement counts.")
    limit: int | None = Field(
        None, ge=1, description="Open answers of a row that are asked about at most, in the order of k; by default all."
    )
    sample: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of the answers decided by rules that are asked about too, for the agreement.",
    )

    @field_validator("base_url")
    @classmethod
    def _address(cls, text: str) -> str:
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("base_url is an address like http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("base_url holds no keys: name an environment variable under api_key_env")
        return text

    def open(self, workspace: Path) -> Judge:
        """The judge with its record. Raises WinnowError where the key is missing."""
        if self.api_key_env and not os.environ.get(self.api_key_env):
            raise WinnowError(
                f"The environment variable {self.api_key_env} is not set; the judge's api_key_env names it."
            )
        return Judge(
            base_url=self.base_url,
            model=self.model,
            revision=self.revision,
            api_key_env=self.api_key_env or "",
            timeout_s=self.timeout,
            retries=self.tries - 1,
            concurrency=self.concurrency,
            swap_check=self.swap,
            cache=VerdictCache(workspace / RECORD, durable=True),
        )


Asked = Callable[[np.ndarray], pa.Table]
"""A mask over the verdicts -> gold, response and question of those."""


def decide_open(config: JudgeConfig, verdicts: pa.Table, asked: Asked, context: Context) -> pa.Table:
    """Verdicts (row_id, k, VERDICT_SCHEMA) with the open ones decided by the judge, as far as `limit` allows."""
    where = open_verdicts(verdicts)
    if config.limit is not None:
        where = _first_of_each_row(verdicts, where, config.limit)
    if not where:
        return verdicts
    return with_answers(verdicts, where, _ask(config, verdicts, where, asked, context))


def against_rules(
    config: JudgeConfig, verdicts: pa.Table, asked: Asked, context: Context
) -> tuple[pa.Table, dict[str, Any]]:
    """Verdicts with the judge's word (evidence `judge_sample`) on a sample of those that the rules decided, and counts
    for the notes. The sample is drawn by (seed, stage, row_id, k)."""
    where = _sample(config, verdicts, context)
    said = _ask(config, verdicts, where, asked, context) if where else []
    found = compared(verdicts, where, said)
    counts = {name: n for name, n in found.as_dict().items() if name != "rate"}
    evidence = verdicts["evidence"].to_pylist()
    differ = []
    for at, (answer, _) in zip(where, said, strict=True):
        if isinstance(answer, JudgeError):
            continue
        evidence[at] = with_evidence(evidence[at], judge_sample=WORDS[answer])
        if answer is not (verdicts["state"][at].as_py() == "correct"):
            differ.append(f"{verdicts['row_id'][at].as_py()}/{verdicts['k'][at].as_py()}")
    at = verdicts.schema.get_field_index("evidence")
    verdicts = verdicts.set_column(at, verdicts.schema.field(at), pa.array(evidence, pa.string()))
    return verdicts, counts | ({"differ": differ[:EXAMPLES]} if differ else {})


def judge_notes(config: JudgeConfig, verdicts: pa.Table, agreement: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says of the judge: who it is, what it was asked and said, and how often it agrees with rules."""
    judged = verdicts.filter(pc.equal(verdicts["method"], "judge"))
    states = Counter(judged["state"].to_pylist())
    return {
        "model": config.model,
        "asked": len(judged),
        "verdicts": dict(sorted(states.items())),
        "left_open": len(open_verdicts(verdicts)) - states["undecided"],
        "agreement": agreement,
    }


def _ask(
    config: JudgeConfig, verdicts: pa.Table, where: Sequence[int], asked: Asked, context: Context
) -> list[tuple[Any, float]]:
    """What the judge says of the verdicts at `where`, which rises."""
    mask = np.zeros(len(verdicts), bool)
    mask[list(where)] = True
    some = verdicts.filter(pa.array(mask))
    return ask_many(asked(mask), some, range(len(where)), config.open(context.workspace))


def _first_of_each_row(verdicts: pa.Table, where: Sequence[int], limit: int) -> list[int]:
    """The first `limit` of each row's verdicts at `where`, by k."""
    rows, ks = verdicts["row_id"].to_pylist(), verdicts["k"].to_pylist()
    taken: Counter[str] = Counter()
    chosen = []
    for at in sorted(where, key=lambda at: (rows[at], ks[at])):
        taken[rows[at]] += 1
        if taken[rows[at]] <= limit:
            chosen.append(at)
    return sorted(chosen)


def _sample(config: JudgeConfig, verdicts: pa.Table, context: Context) -> list[int]:
    decided = np.asarray(decided_by_rules(verdicts), np.int64)
    ids, k = verdicts["row_id"].take(pa.array(decided)), verdicts["k"].to_numpy()[decided]
    drawn = np.zeros(len(decided), bool)
    for index in np.unique(k).tolist():
        of_k = k == index
        numbers = draws.draws(ids.filter(pa.array(of_k)), context.seed, f"{context.name}/judge", index)
        drawn[of_k] = draws.below(numbers, Fraction(str(config.sample)))
    return decided[drawn].tolist()  # type: ignore[no-any-return]
