"""fanout: asks a teacher for n answers to every row, or joins answers that were recorded.

A teacher is asked once for all rows, before anything else happens, in the build's own process; what it says goes into
the trace store of the workspace before it counts (curation/teachers/asking.py). Then workers join what is stored to the
rows, partition by partition: so a fan-out that was killed asks only for what it does not have yet, x4 becomes x8 by
asking for four more, and a changed filter asks for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from curation import prompts
from curation.answers.policy import REVISION as CHECKER_REVISION
from curation.digests import json_digest
from curation.exports.common import no_marks, template_problem
from curation.stages.base import Context, Outcome, Rows, StageConfig, fates, row_stage
from curation.teachers import AnyTeacher, Asked, Held, Sampling
from curation.teachers import formats as formats
from curation.teachers.asking import Gathering, Wish
from curation.teachers.joining import Counts, held_pieces, stored_pieces, together
from curation.teachers.meter import Meter
from curation.teachers.policy import Retry, Until
from curation.teachers.store import TraceStore
from schemas.errors import Problem


class Fanout(StageConfig):
    """Makes n traces per row with a teacher. Rows with fewer are kept, and counted in the report, unless `min_traces`
    says otherwise."""

    stage: Literal["fanout"] = "fanout"
    teacher: AnyTeacher
    n: int = Field(8, ge=1, description="Answers per row.")
    until: Until | None = Field(
        None, description="Ask until there is enough, instead of n: {correct: 2, max: 8}. Judged in the order of k."
    )
    stop_if_all_wrong_after: int | None = Field(
        None, ge=1, description="Ask for no more where the first so many answers of a row are all wrong."
    )
    retry: Retry = Field(Retry(), description="What is asked for again: {truncated: {max_tokens: x2}, malformed: 1}.")
    format: formats.Format = Field(
        "any", description="What a finished answer must look like: think, think_answer, boxed, think_boxed, or any."
    )
    sources: list[str] | None = Field(None, description="Names of the sources whose rows are asked; by default all.")
    temperature: float = Field(1.0, ge=0, description="0 takes the likeliest token; then n must be 1.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Sample from the likeliest tokens that together have this probability."
    )
    top_k: int = Field(0, ge=0, description="Sample from so many of the likeliest tokens; 0 from all.")
    min_p: float = Field(0.0, ge=0, le=1, description="Leave out tokens less likely than this share of the likeliest.")
    seed: int = Field(0, ge=0, description="Another seed gives other answers, and is another key.")
    max_tokens: int = Field(4096, ge=1, description="Tokens of an answer at most; what reaches it is truncated.")
    logprobs: bool = Field(False, description="Keep the log-probability of every token of an answer.")
    system: str | None = Field(None, description="Text of a system turn. Training examples have it too, unless their output says another.")  # fmt: skip
    template: str = Field(
        prompts.PROMPT,
        description="Template of the user's turn: {question}, {stem}, {choices}, {source}, {language}. Training "
        "examples are rendered with it too, unless their output says another `prompt`.",
    )
    min_traces: int = Field(0, ge=0, description="Drop rows with fewer finished or truncated answers; 0 keeps all.")

    @field_validator("template")
    @classmethod
    def _fields(cls, text: str) -> str | None:
        return template_problem(text, prompts.PROMPT_FIELDS)

    @field_validator("system")
    @classmethod
    def _no_marks(cls, text: str | None) -> str | None:
        return no_marks(text)

    @property
    def most(self) -> int:
        """Answers of a row at most."""
        return self.until.max if self.until is not None else self.n

    @property
    def wish(self) -> Wish:
        return Wish(
            sampling=Sampling(**{name: getattr(self, name) for name in Sampling.model_fields}),
            most=self.most,
            template=self.template,
            system=self.system,
            form=self.format,
            retry=self.retry,
            correct=self.until.correct if self.until is not None else None,
            all_wrong=self.stop_if_all_wrong_after,
        )


_JUDGED = ("answer", "choices", "question")


def reads(config: Fanout) -> Sequence[str]:
    judged = _JUDGED if config.wish.adaptive else ()
    if isinstance(config.teacher, Held):
        return tuple(dict.fromkeys(["source", *config.teacher.needs_columns(), *judged]))
    return tuple(dict.fromkeys(["source", "question", "choices", "images", "language", *judged]))


def prepares(config: Fanout) -> Sequence[str]:
    return tuple(dict.fromkeys([*reads(config), *_JUDGED]))


def check(config: Fanout, schema: pa.Schema) -> Iterable[Problem]:
    from curation.sqlguard import nearest

    for name in reads(config):
        if name not in schema.names:
            yield Problem(
                f"teacher: there is no column {name!r} at this point of the recipe",
                text=name,
                hint=nearest(name, schema.names),
            )
    if isinstance(config.teacher, Asked) and config.temperature == 0 and config.most > 1:
        yield Problem("n: at temperature 0 all answers are the same", hint="Write n: 1, or a temperature above 0.")
    if config.until is not None and "n" in config.model_fields_set and config.n != config.until.max:
        yield Problem("n: with `until`, `until.max` says how many answers a row gets at most", hint="Leave n out.")
    if config.until is not None and config.until.correct > config.until.max:
        yield Problem(f"until: {config.until.correct} correct answers cannot be among {config.until.max}")
    if config.min_traces > config.most:
        yield Problem(
            f"min_traces: {config.min_traces} traces are asked for, but n is {config.most}: every row would be dropped"
        )


def inputs(config: Fanout, recipe_dir: Path, workspace: Path) -> Sequence[Path]:
    return config.teacher.files(recipe_dir)


def estimate(config: Fanout, rows: pa.Table, context: Context) -> dict[str, int]:
    """What is not answered yet and what that would cost; see curation.teachers.cost."""
    from curation.teachers.cost import estimated

    if isinstance(config.teacher, Held):
        return {"requests": 0, "answers": 0, "prompt_tokens": 0, "output_tokens": 0, "tokens": 0}
    return estimated(config.wish, config.teacher, _asked_rows(config, rows), context)


def _asked_rows(config: Fanout, rows: pa.Table) -> pa.Table:
    if config.sources is None:
        return rows
    return rows.filter(pc.is_in(rows["source"], pa.array(config.sources, pa.string())))


class _AskedRows:
    """The rows of a fan-out, batch by batch, without those of other sources."""

    def __init__(self, config: Fanout, rows: Rows):
        self._config, self._rows = config, rows
        self.count = rows.count if config.sources is None else sum(len(batch) for batch in self.batches(("source",)))

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        for batch in self._rows.batches(columns):
            yield _asked_rows(self._config, batch)


def prepare(config: Fanout, rows: Rows, context: Context) -> Mapping[str, Any]:
    """Ask the teacher for all that is missing. Does nothing where answers are held."""
    if isinstance(config.teacher, Held):
        return {}
    from curation.images import ImageStore

    asked = _AskedRows(config, rows)
    if not asked.count:
        return {}
    teacher = config.teacher.open(ImageStore(context.workspace).read, context.recipe_dir)
    try:
        with TraceStore(context.workspace / "traces") as store:
            asks = json_digest([teacher.name, teacher.model, teacher.revision, repr(config.wish), asked.count])[:8]
            folder = context.workspace / "throughput"
            meter = Meter(context.name, asked.count, folder, context.status, teacher.load, asks)
            return Gathering(config.wish, teacher, asked, store, meter).run()
    finally:
        teacher.close()


# The checker decides which answers are used where `until` is set, so its revision is part of this stage's.
@row_stage(
    Fanout,
    revision=100_000 * 3 + 1000 * prompts.REVISION + 100 * formats.REVISION + CHECKER_REVISION,
    reads=reads,
    prepare=prepare,
    prepares=prepares,
    makes="traces",
    check=check,
    inputs=inputs,
    estimate=estimate,
)
def run(config: Fanout, rows: pa.Table, context: Context) -> Outcome:
    asked = _asked_rows(config, rows)
    context.progress(len(rows))
    if not len(asked):  # rows of other sources keep the traces that they have
        return Outcome()
    counts = Counts(asked["row_id"])
    if isinstance(config.teacher, Held):
        pieces = held_pieces(config.wish, config.teacher, asked, context, counts)
    else:
        who = config.teacher.identity(context.recipe_dir)
        assert who is not None  # prepare asked it
        pieces = stored_pieces(config.wish, who, asked, context, counts)
    return Outcome(
        traces=(together(piece, first, last, context) for piece, first, last in pieces),
        fates=(lambda: _too_few(config, asked, counts)) if config.min_traces else None,
        notes=lambda: _notes(config, asked, counts),
        again=lambda: counts.again,
    )


def _notes(config: Fanout, rows: pa.Table, counts: Counts) -> dict[str, Any]:
    usable = counts.usable
    return {
        "teacher": config.teacher.kind,
        "template": config.template,
        "system": config.system or "",
        "rows": len(rows),
        "rows_without": int((usable == 0).sum()),
        "rows_short": 0 if config.wish.adaptive else int(((usable > 0) & (usable < config.n)).sum()),
        "traces": dict(counts.finish),
        **({"malformed": counts.malformed} if config.format != "any" else {}),
        **({"repaired": dict(counts.repaired)} if counts.repaired else {}),
        **({"unused": counts.unused} if config.wish.adaptive else {}),
    }


def _too_few(config: Fanout, rows: pa.Table, counts: Counts) -> pa.Table:
    few = counts.usable < config.min_traces
    found = counts.usable[few].tolist()
    return fates(
        rows.filter(pa.array(few))["row_id"],
        reason="too_few_traces",
        sentence=[f"The teacher gave {c} usable answers; the recipe asks for {config.min_traces}." for c in found],
        evidence=[{"traces": c, "min_traces": config.min_traces} for c in found],
    )
