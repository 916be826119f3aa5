"""What a stage is, and the registry of stages.

A stage is a frozen config and a function, of two kinds:

- a **row stage** sees a batch of rows and may add columns, give fates, make traces or verdicts. It must not care how
  rows are batched or ordered, so it runs on any number of workers and is cached partition by partition;
- a **global stage** sees the columns that it names for all rows, and returns fates, columns keyed by row_id, or how
  often rows repeat.

Neither returns the dataset: rows are materialised once, at the end. What a stage says nothing about is kept.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from schemas.errors import Problem
from schemas.rows import FATE

if TYPE_CHECKING:
    import duckdb


class StageConfig(BaseModel):
    """Base of every stage's config. `stage` is the registered kind, `name` the unique name in a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    stage: str
    name: str = Field("", description="Unique name in the recipe; the kind by default.")
    enabled: bool = Field(True, description="false leaves the stage out.")


def _silent(rows: int) -> None:
    """Nobody watches. (A function of the module, so that contexts can be sent to workers.)"""


def _unheard(text: str, facts: Mapping[str, Any]) -> None:
    """The same for `Context.status`."""


@dataclass(frozen=True)
class Context:
    """What a stage may use beside its config. Everything here is the same on every worker."""

    seed: int
    """The recipe's seed."""
    name: str
    """The stage's name: the other half of every random key."""
    workspace: Path
    recipe_dir: Path
    """Relative paths in configs begin here."""
    workers: int = 1
    memory_limit: int = 1 << 30
    """Bytes that a global stage may use."""
    scratch: Path | None = None
    """A folder that is removed after the stage."""
    traces: pa.Table | None = None
    """Row stages that declare needs="traces": the traces of the batch's rows, sorted by (row_id, k)."""
    verdicts: pa.Table | None = None
    """With needs="verdicts": their verdicts, in the same order."""
    before: Mapping[str, Any] = field(default_factory=dict)
    """Kind -> config of the last stage of that kind before this one, for the kinds that the stage `uses`."""
    earlier_traces: Callable[[str, str], pa.Table] | None = None
    """Row stages that make traces, where an earlier stage made some: those of the rows from one row_id to another."""
    progress: Callable[[int], None] = _silent
    """Call with the number of rows done since the last call."""
    status: Callable[[str, Mapping[str, Any]], None] = _unheard
    """`prepare` may call it every now and then: how it goes, in one line, and the same as facts for programs."""


@dataclass(frozen=True)
class Moved:
    """Traces that rows give to other rows, with their verdicts. None is lost: as many come as go."""

    givers: pa.Array
    """row_ids of the rows whose traces and verdicts all go."""
    traces: pa.Table
    """The same as schemas.rows.TRACE, under their new row_id and a k that is free there; `origin_row` says whence."""
    verdicts: pa.Table
    """row_id and k, the new ones, and the columns of schemas.verdicts."""


@dataclass(frozen=True)
class Outcome:
    """What a stage says. Everything is optional; what is not said stays as it was."""

    columns: pa.Table | None = None
    """Row stage: the written columns, as many rows as came in and in their order. Global stage: row_id + columns."""
    fates: pa.Table | Callable[[], pa.Table] | None = None
    """Rows that go, as schemas.rows.FATE. A row that is not named is kept."""
    traces: pa.Table | Iterable[pa.Table] | None = None
    """Row stage that makes traces: schemas.rows.TRACE, or pieces of it in the order of row_id, which are written one by
    one. Pieces must be the same in every run. `fates`, `notes` and `again` that are functions are called after the
    last piece. None leaves the traces of earlier stages as they are."""
    verdicts: pa.Table | None = None
    """Row stage that makes verdicts: row_id, k and the columns of schemas.verdicts."""
    moved: Moved | None = None
    """Global stage: traces that change their row."""
    repeat: pa.Table | None = None
    """Global stage: (row_id, repeat int32) for rows that stand in the data more than once."""
    notes: Mapping[str, Any] | Callable[[], Mapping[str, Any]] = field(default_factory=dict)
    """What the manifest and reports should know: counts, parameters, measured recall. JSON values."""
    again: bool | Callable[[], bool] = False
    """What is missing could be had another time: the next build runs the stage on these rows again."""


def _none(config: Any) -> Sequence[str]:
    return ()


Run = Callable[[Any, Any, Context], Outcome]
Needs = Literal["rows", "traces", "verdicts"]


@dataclass(frozen=True)
class Stage:
    """A registered stage."""

    kind: str
    config: type[StageConfig]
    run: Run
    shape: Literal["row", "global"]
    revision: int
    reads: Callable[[Any], Sequence[str]]
    """Columns that it needs, besides row_id. "*" means all; a name that ends in "?" is read where it is there."""
    writes: Callable[[Any], Mapping[str, pa.DataType]]
    """Columns that it adds or replaces."""
    needs: Needs | Callable[[Any], Needs] = "rows"
    """What it sees beside the rows, if need be by its config (see `needs_of`)."""
    makes: Literal["rows", "traces", "verdicts"] = "rows"
    check: Callable[[Any, pa.Schema], Iterable[Problem]] | None = None
    """Says what is wrong with a config, given the schema that the stage will see; runs nothing."""
    inputs: Callable[[Any, Path, Path], Sequence[Path]] | None = None
    """Of a config, the recipe's folder and the workspace: files outside the dataset that shape the output. Their bytes
    enter the cache key."""
    prepare: Callable[[Any, Rows, Context], Mapping[str, Any]] | None = None
    """Row stages: called once, in the build's own process, before the partitions that are not cached are run, with
    those rows, the columns `prepares`, and their traces and verdicts. For work that must not be done by every worker on its own, like asking a
    teacher; what it finds it stores, and `run` reads. Returns notes of this run."""
    prepares: Callable[[Any], Sequence[str]] | None = None
    """Columns that `prepare` reads; those of `reads` by default."""
    estimate: Callable[[Any, pa.Table, Context], Mapping[str, int]] | None = None
    """What running it on these rows would ask of a teacher (requests, answers, prompt_tokens, output_tokens, tokens at
    most); asks nobody."""
    uses: Callable[[Any], Sequence[str]] = _none
    """Kinds of stages by whose config it goes, if they stand before it (see `Context.before`)."""
    libraries: Sequence[str] | Callable[[Any], Sequence[str]] = ()
    """Distributions whose version shapes the output, if need be by its config (see `libraries_of`)."""
    source: str = ""
    """For stages from outside this package: the text of their module, part of the cache key."""

    def needs_of(self, config: Any) -> Needs:
        return self.needs(config) if callable(self.needs) else self.needs

    def libraries_of(self, config: Any) -> Sequence[str]:
        return self.libraries(config) if callable(self.libraries) else self.libraries

    def reads_of(self, config: Any, columns: Iterable[str]) -> list[str]:
        """Which of a table's columns it reads."""
        there = list(columns)
        reads = list(self.reads(config))
        if reads == ["*"]:
            return there
        return [name.removesuffix("?") for name in reads if not name.endswith("?") or name[:-1] in there]

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.config) or ""


REGISTRY: dict[str, Stage] = {}


def _constant(value: Any) -> Callable[[Any], Any]:
    return value if callable(value) else lambda config: value


def _register(shape: Literal["row", "global"], config: type[StageConfig], **options: Any) -> Callable[[Run], Run]:
    kind = config.model_fields["stage"].default
    if not isinstance(kind, str):
        raise TypeError(f"{config.__name__}.stage needs a default: the name by which recipes call it")

    def add(run: Run) -> Run:
        options["reads"] = _constant(options.get("reads", ()))
        options["writes"] = _constant(options.get("writes", {}))
        if not run.__module__.startswith("curation."):
            options["source"] = Path(inspect.getfile(run)).read_text()
        REGISTRY[kind] = Stage(kind=kind, config=config, run=run, shape=shape, **options)
        return run

    return add


def row_stage(config: type[StageConfig], *, revision: int, **options: Any) -> Callable[[Run], Run]:
    """Register `run(config, rows: pa.Table, context) -> Outcome` as a row stage. Options are fields of `Stage`;
    `reads` and `writes` may be constants or functions of the config."""
    return _register("row", config, revision=revision, **options)


def global_stage(config: type[StageConfig], *, revision: int, **options: Any) -> Callable[[Run], Run]:
    """Register `run(config, rows: Rows, context) -> Outcome` as a global stage (see curation.engines.Rows)."""
    return _register("global", config, revision=revision, **options)


def sources_of(schema: pa.Schema) -> list[str] | None:
    """Names of the recipe's sources, as a stage's `check` is told them; None where nobody says."""
    said = (schema.metadata or {}).get(b"sources")
    return None if said is None else [str(name) for name in json.loads(said)]


def fates(
    row_ids: pa.Array | pa.ChunkedArray | Sequence[str],
    *,
    fate: str = "dropped",
    reason: str,
    sentence: str | Sequence[str],
    evidence: Sequence[Mapping[str, Any] | str | None] | Mapping[str, Any] | None = None,
    into: Sequence[str] | pa.Array | None = None,
) -> pa.Table:
    """A table of fates. `sentence` and `evidence` are one value for all rows or one per row; evidence is made JSON."""
    ids = row_ids if isinstance(row_ids, pa.Array | pa.ChunkedArray) else pa.array(row_ids, pa.string())
    n = len(ids)

    def spread(value: Any) -> pa.Array:
        if value is None or isinstance(value, str):
            return pa.repeat(pa.scalar(value, pa.string()), n)
        return pa.array(value, pa.string())

    if isinstance(evidence, Mapping):
        evidence_column = spread(to_json(evidence))
    elif evidence is None:
        evidence_column = spread(None)
    else:
        evidence_column = spread([to_json(e) if isinstance(e, Mapping) else e for e in evidence])
    into_column = into if isinstance(into, pa.Array | pa.ChunkedArray) else spread(into)
    return pa.table([ids, spread(fate), spread(reason), spread(sentence), evidence_column, into_column], schema=FATE)


def drop(
    rows: pa.Table, mask: pa.Array | pa.ChunkedArray, *, reason: str, sentence: str | Sequence[str], **evidence: Any
) -> pa.Table:
    """Fates for the rows of a batch where `mask` is true; keyword arguments become their evidence."""
    return fates(rows.filter(mask)["row_id"], reason=reason, sentence=sentence, evidence=evidence or None)


def to_json(value: Any) -> str:
    """Compact JSON with sorted keys: the one spelling in which evidence and configs are stored and hashed."""
    return _JSON.encode(value)


# Made once: json.dumps makes an encoder for every call with options, which costs more than a small value.
_JSON = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


class Rows(Protocol):
    """What a global stage sees: the columns that it reads, of all rows that are still kept, in the canonical order
    (recipe order of sources, then row_id)."""

    @property
    def schema(self) -> pa.Schema: ...

    @property
    def count(self) -> int: ...

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The columns (all that the stage reads by default) as one table, row_id first."""
        ...

    def batches(self, columns: Sequence[str] | None = None) -> Iterable[pa.Table]:
        """The same, partition by partition, for work that must not hold all rows at once."""
        ...

    def traces(self, columns: Sequence[str]) -> Iterable[pa.Table]:
        """row_id and these columns of the rows' traces: one table for each of `batches()`, sorted by (row_id, k). For
        stages that need traces; texts that are not asked for are not read."""
        ...

    def verdicts(self, columns: Sequence[str]) -> Iterable[pa.Table]:
        """The same of verdicts."""
        ...

    def connect(self, *, threads: int = 1) -> duckdb.DuckDBPyConnection:
        """A locked-down DuckDB connection (no files, no network, memory limit) with the view `rows`, and `traces` and
        `verdicts` where the stage needs them. One thread by default: sums of floats and `first()` then come out the
        same on any machine."""
        ...
