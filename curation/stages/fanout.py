"""fanout: asks a teacher for n answers to every row, or joins answers that were recorded.

What a teacher says goes into the trace store of the workspace before it counts. So a fan-out that was killed asks only
for what it does not have yet, x4 becomes x8 by asking for four more, and a changed filter asks for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from curation import prompts
from curation.ids import ids_array
from curation.stages.base import Context, Outcome, StageConfig, fates, row_stage
from curation.teachers import AnyTeacher, Asked, Held, Message, Request, Sampling, trace_key
from schemas.errors import Problem, WinnowError
from schemas.rows import TRACE


class Fanout(StageConfig):
    """Makes n traces per row with a teacher. Rows with fewer are kept, and counted in the report, unless `min_traces`
    says otherwise."""

    stage: Literal["fanout"] = "fanout"
    teacher: AnyTeacher
    n: int = Field(8, ge=1, description="Answers per row.")
    sources: list[str] | None = Field(None, description="Names of the sources whose rows are asked; by default all.")
    temperature: float = Field(1.0, ge=0, description="0 takes the likeliest token; then n must be 1.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Sample from the likeliest tokens that together have this probability."
    )
    top_k: int = Field(0, ge=0, description="Sample from so many of the likeliest tokens; 0 from all.")
    min_p: float = Field(0.0, ge=0, le=1, description="Leave out tokens less likely than this share of the likeliest.")
    seed: int = Field(0, ge=0, description="Another seed gives other answers, and is another key.")
    max_tokens: int = Field(4096, ge=1, description="Tokens of an answer at most; what reaches it is truncated.")
    system: str | None = Field(None, description="Text of a system turn.")
    template: str = Field(
        prompts.PROMPT, description="Template of the user's turn: {question}, {stem}, {choices}, {source}, {language}."
    )
    min_traces: int = Field(0, ge=0, description="Drop rows with fewer finished or truncated answers; 0 keeps all.")

    @field_validator("template")
    @classmethod
    def _fields(cls, text: str) -> str:
        prompts.parse_template(text, tuple(prompts.PROMPT_FIELDS))
        return text

    @property
    def sampling(self) -> Sampling:
        return Sampling(**{name: getattr(self, name) for name in Sampling.model_fields})


def reads(config: Fanout) -> Sequence[str]:
    if isinstance(config.teacher, Held):
        return tuple(dict.fromkeys(["source", *config.teacher.needs_columns()]))
    return ("source", "question", "choices", "images", "language")


def check(config: Fanout, schema: pa.Schema) -> Iterable[Problem]:
    from curation.sqlguard import nearest

    for name in reads(config):
        if name not in schema.names:
            yield Problem(
                f"teacher: there is no column {name!r} at this point of the recipe",
                text=name,
                hint=nearest(name, schema.names),
            )
    if isinstance(config.teacher, Asked) and config.temperature == 0 and config.n > 1:
        yield Problem("n: at temperature 0 all answers are the same", hint="Write n: 1, or a temperature above 0.")
    if config.min_traces > config.n:
        yield Problem(
            f"min_traces: {config.min_traces} traces are asked for, but n is {config.n}: every row would be dropped"
        )


def inputs(config: Fanout, recipe_dir: Path) -> Sequence[Path]:
    return config.teacher.files(recipe_dir) if isinstance(config.teacher, Held) else ()


def estimate(config: Fanout, rows: pa.Table, context: Context) -> dict[str, int]:
    """Requests that are not answered yet, and the tokens that they could make at most. What is stored is taken off only
    where the model's revision is known without loading it."""
    if isinstance(config.teacher, Held):
        return {"requests": 0, "tokens": 0}
    rows = _asked_rows(config, rows)
    identity = config.teacher.identity(context.recipe_dir)
    if identity is None:
        requests = len(rows) * config.n
    else:
        from curation.teachers.store import TraceStore

        wanted = [request for _, request in requests_of(config, rows, model=identity[0], revision=identity[1])]
        with TraceStore(context.workspace / "traces") as store:
            requests = len(store.missing(wanted, max_tokens=config.max_tokens))
    return {"requests": requests, "tokens": requests * config.max_tokens}


def _asked_rows(config: Fanout, rows: pa.Table) -> pa.Table:
    if config.sources is None:
        return rows
    return rows.filter(pc.is_in(rows["source"], pa.array(config.sources, pa.string())))


@row_stage(
    Fanout,
    revision=1000 * 1 + prompts.REVISION,
    reads=reads,
    makes="traces",
    check=check,
    inputs=inputs,
    estimate=estimate,
)
def run(config: Fanout, rows: pa.Table, context: Context) -> Outcome:
    asked = _asked_rows(config, rows)
    if isinstance(config.teacher, Held):
        traces = config.teacher.traces(asked, config.n, context.recipe_dir)
        notes: dict[str, Any] = {}
    else:
        traces, notes = _ask(config, config.teacher, asked, context)
    context.progress(len(rows))
    return Outcome(
        traces=traces,
        fates=_too_few(config, asked, traces) if config.min_traces else None,
        notes={**notes, **_counts(config, asked, traces)},
    )


def _usable(rows: pa.Table, traces: pa.Table) -> np.ndarray:
    """int64[rows]: answers with text, of each row."""
    own = ids_array(rows["row_id"])
    order = np.argsort(own, kind="stable")
    said = traces.filter(pc.not_equal(traces["finish"], "failed"))
    if not len(said):
        return np.zeros(len(rows), np.int64)
    return np.bincount(order[np.searchsorted(own[order], ids_array(said["row_id"]))], minlength=len(rows))


def _counts(config: Fanout, rows: pa.Table, traces: pa.Table) -> dict[str, Any]:
    usable = _usable(rows, traces)
    finish = {c["values"]: c["counts"] for c in pc.value_counts(traces["finish"]).to_pylist()}
    return {
        "teacher": config.teacher.kind,
        "rows": len(rows),
        "rows_without": int((usable == 0).sum()),
        "rows_short": int(((usable > 0) & (usable < config.n)).sum()),
        "traces": {name: int(finish.get(name, 0)) for name in ("finished", "truncated", "failed")},
    }


def _too_few(config: Fanout, rows: pa.Table, traces: pa.Table) -> pa.Table:
    usable = _usable(rows, traces)
    few = usable < config.min_traces
    counts = usable[few].tolist()
    return fates(
        rows.filter(pa.array(few))["row_id"],
        reason="too_few_traces",
        sentence=[f"The teacher gave {c} usable answers; the recipe asks for {config.min_traces}." for c in counts],
        evidence=[{"traces": c, "min_traces": config.min_traces} for c in counts],
    )


# --------------------------------------------------------------------------------------------------------------- asking


def requests_of(config: Fanout, rows: pa.Table, *, model: str, revision: str) -> list[tuple[str, Request]]:
    """(row_id, request) for every answer that the rows want."""
    texts = prompts.render(rows, config.template).to_pylist()
    system = [Message("system", config.system)] if config.system is not None else []
    made = []
    for row_id, text, images in zip(rows["row_id"].to_pylist(), texts, rows["images"].to_pylist(), strict=True):
        messages = (*system, Message("user", text))
        for k in range(config.n):
            key = trace_key(messages, images or (), model=model, revision=revision, sampling=config.sampling, k=k)
            made.append((row_id, Request(key, messages, tuple(images or ()), k)))
    return made


def _ask(config: Fanout, asked: Asked, rows: pa.Table, context: Context) -> tuple[pa.Table, dict[str, Any]]:
    from curation.images import ImageStore
    from curation.teachers.store import TraceStore

    teacher = asked.open(ImageStore(context.workspace).read, context.recipe_dir)
    wanted = requests_of(config, rows, model=teacher.model, revision=teacher.revision)
    with TraceStore(context.workspace / "traces") as store:
        missing = store.missing([request for _, request in wanted], max_tokens=config.max_tokens)
        for answer in teacher.ask(missing, config.sampling):
            store.append(answer, teacher=teacher.name, model=teacher.model)
        store.flush()
        found = store.best([request.key for _, request in wanted])
    if len(found) != len({request.key for _, request in wanted}):
        raise WinnowError(
            f"Stage {context.name}: the teacher {teacher.name} left answers out. Run the same command again."
        )
    at = {key: i for i, key in enumerate(found["key"].to_pylist())}
    traces = found.take(pa.array([at[request.key] for _, request in wanted], pa.int64()))
    own = {"row_id": pa.array([row_id for row_id, _ in wanted]), "k": pa.array([r.k for _, r in wanted], pa.int32())}
    table = pa.table(
        {name: own.get(name, traces[name] if name in traces.column_names else None) for name in TRACE.names}
    )
    return table.cast(TRACE), {"asked": len(missing), "reused": len(wanted) - len(missing)}
