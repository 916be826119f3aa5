"""perplexity: how surprised a model is by the answers of each row.

The model reads prompt and answer, and tells the log-probability of every token of the answer. Only those count: not the
prompt's, not the chat template's marks around it, no end of turn. What it says is a record in the workspace
(curation/teachers/scores.py): the build's own process asks for what is missing before anything else, and workers read the
record. So a build that was killed scores nothing twice, and the same rows get the same numbers on any number of workers.

An answer that the model refuses (too long for it, say) is left out. One that could not be scored this time leaves its row
without a perplexity, and the next build asks for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from curation import prompts
from curation.exports.common import no_marks, template_problem
from curation.ids import rows_of
from curation.stages.base import Context, Outcome, Rows, StageConfig, row_stage
from curation.teachers import AnyModel, Message
from curation.teachers.scores import Given, Scores, perplexity
from schemas.errors import Problem, WinnowError

COLUMNS = {"perplexity": pa.float64(), "perplexity_tokens": pa.int64()}
BLOCK = 1024
"""Answers that are looked up at a time."""
EXAMPLES = 5
"""Reasons of refusals that notes tell."""


class Perplexity(StageConfig):
    """Has a model score the answers of each row. Writes perplexity (over all tokens of these answers together; null where
    none could be scored) and perplexity_tokens."""

    stage: Literal["perplexity"] = "perplexity"
    teacher: AnyModel = Field(description="The model that scores: vllm_offline, transformers_local, or vLLM's server.")
    of: Literal["correct", "finished", "solution"] = Field(
        "correct", description="Answers that are scored: correct traces, finished ones, or the row's own solution."
    )
    max_per_row: int | None = Field(None, ge=1, description="At most so many traces of a row, the first by k.")
    template: str | None = Field(None, description="Template of the user's turn; by default that of the fanout before it, else {question}.")  # fmt: skip
    system: str | None = Field(None, description="Text of a system turn; by default that of the fanout before it.")

    @field_validator("template")
    @classmethod
    def _fields(cls, text: str | None) -> str | None:
        return template_problem(text, prompts.PROMPT_FIELDS)

    @field_validator("system")
    @classmethod
    def _no_marks(cls, text: str | None) -> str | None:
        return no_marks(text)


def reads(config: Perplexity) -> Sequence[str]:
    own = ("solution",) if config.of == "solution" else ()
    return ("question", "choices", "images", "source", "language", *own)


def needs(config: Perplexity) -> Literal["rows", "traces", "verdicts"]:
    return {"correct": "verdicts", "finished": "traces", "solution": "rows"}[config.of]  # type: ignore[return-value]


def inputs(config: Perplexity, recipe_dir: Path, workspace: Path) -> Sequence[Path]:
    return config.teacher.files(recipe_dir)


def check(config: Perplexity, schema: pa.Schema) -> Iterable[Problem]:
    if config.of == "solution" and config.max_per_row is not None:
        yield Problem("max_per_row: a row has one solution", hint="Leave it out, or score traces.")


def prepare(config: Perplexity, rows: Rows, context: Context) -> Mapping[str, Any]:
    """Have all answers scored that are not in the record."""
    from curation.images import ImageStore

    record = Scores(context.workspace)
    who = config.teacher.identity(context.recipe_dir)
    if who is not None and next(_missing(config, rows, context, record, who), None) is None:
        return {}
    model = config.teacher.open(ImageStore(context.workspace).read, context.recipe_dir)
    try:
        left = _missing(config, rows, context, record, (model.model, model.revision))
        scored, missed = record.measure(
            model, left, lambda count: context.status(f"{count:,} answers scored", {"scored": count})
        )
    finally:
        model.close()
    return {"scored": scored, "missed": missed}


def _missing(config: Perplexity, rows: Rows, context: Context, record: Scores, who: tuple[str, str]) -> Iterator[Given]:
    """Answers that are not in the record."""
    traces: Iterable[pa.Table | None] = repeat(None) if config.of == "solution" else rows.traces(_TRACE)
    verdicts: Iterable[pa.Table | None] = rows.verdicts(_VERDICT) if config.of == "correct" else repeat(None)
    for batch, own, judged in zip(rows.batches(), traces, verdicts, strict=False):
        given = [each for row in _given(config, batch, own, judged, context) for each in row]
        for start in range(0, len(given), BLOCK):
            some = given[start : start + BLOCK]
            keys = [each.key(*who) for each in some]
            known = record.get(keys)
            yield from (each for each, key in zip(some, keys, strict=True) if key not in known)


_TRACE, _VERDICT = ("k", "finish", "text"), ("k", "state")


def _given(
    config: Perplexity, rows: pa.Table, traces: pa.Table | None, verdicts: pa.Table | None, context: Context
) -> list[list[Given]]:
    """The answers of each row that are to be scored, by k. Blanks around an answer are no part of it."""
    asked = context.before.get("fanout")
    template = config.template or (asked.template if asked is not None else prompts.PROMPT)
    system = config.system if config.system is not None or asked is None else asked.system
    head = (Message("system", system),) if system is not None else ()
    texts = prompts.render(rows, template).to_pylist()
    images = [tuple(names or ()) for names in rows["images"].to_pylist()]
    if config.of == "solution":
        answers = [[text] if (text := (own or "").strip()) else [] for own in rows["solution"].to_pylist()]
    else:
        answers = _traces(config, rows, traces, verdicts)
    return [
        [Given((*head, Message("user", text)), shown, answer) for answer in said]
        for text, shown, said in zip(texts, images, answers, strict=True)
    ]


def _traces(config: Perplexity, rows: pa.Table, traces: pa.Table | None, verdicts: pa.Table | None) -> list[list[str]]:
    said: list[list[str]] = [[] for _ in range(len(rows))]
    if traces is None or not len(traces):
        return said
    chosen = traces.select(["row_id", *_TRACE]).filter(pc.equal(traces["finish"], "finished"))
    if config.of == "correct" and verdicts is not None:
        right = verdicts.filter(pc.equal(verdicts["state"], "correct")).select(["row_id", "k"])
        chosen = chosen.join(right, ["row_id", "k"], join_type="left semi").sort_by(
            [("row_id", "ascending"), ("k", "ascending")]
        )
    for row, text in zip(rows_of(chosen, rows).tolist(), chosen["text"].to_pylist(), strict=True):
        if (text := (text or "").strip()) and (config.max_per_row is None or len(said[row]) < config.max_per_row):
            said[row].append(text)
    return said


@row_stage(
    Perplexity,
    revision=100 * 1 + prompts.REVISION,
    reads=reads,
    writes=COLUMNS,
    needs=needs,
    check=check,
    inputs=inputs,
    prepare=prepare,
    uses=lambda config: ("fanout",),
)
def run(config: Perplexity, rows: pa.Table, context: Context) -> Outcome:
    who = config.teacher.identity(context.recipe_dir)
    if who is None:
        raise WinnowError(f"Stage {context.name}: the model {config.teacher.model} is no longer on this machine.")
    record = Scores(context.workspace)
    values: list[tuple[float | None, int]] = []
    refused: Counter[str] = Counter()
    scored = unscored = 0
    given = _given(config, rows, context.traces, context.verdicts, context)
    keys = [[each.key(*who) for each in row] for row in given]
    known = record.get([key for row in keys for key in row])
    for row in keys:
        said = [known.get(key) for key in row]
        missing = sum(score is None for score in said)
        told = [score for score in said if score is not None]
        refused.update(score.why for score in told if score.logprob is None)
        scored += sum(score.logprob is not None for score in told)
        unscored += missing
        values.append((None, 0) if missing else perplexity(told))
    context.progress(len(rows))
    columns = [pa.array([value[n] for value in values], kind) for n, kind in enumerate(COLUMNS.values())]
    notes: dict[str, Any] = {"model": config.teacher.model, "answers": scored, "unscored": unscored}
    if refused:
        notes["refused"] = {"answers": refused.total(), "reasons": [why for why, _ in refused.most_common(EXAMPLES)]}
    return Outcome(columns=pa.table(columns, names=list(COLUMNS)), notes=notes, again=unscored > 0)
