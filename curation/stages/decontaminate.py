"""decontaminate: takes out rows that hold items of benchmarks or of other versions, and measures how well it does.

The items are indexed once and rows stream past, batch by batch. A row that asks an item's question is dropped as a leak,
whatever was done to its formatting; the same wording with other numbers is a sibling, which stays and is marked. Each
build also searches for altered copies of the items, a batch of their own, and writes what was found of them into the
notes: the recall that was reached, not the one that was hoped for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, field_validator

from curation.answers.policy import REVISION as CHECKER_REVISION
from curation.similarity import texts
from curation.similarity.benchmarks import NAMED, benchmark_files, benchmark_name, benchmark_source, read_benchmarks
from curation.stages.base import Context, Outcome, Rows, StageConfig, fates, global_stage, sources_of, to_json
from schemas.errors import Problem
from schemas.recipe import Source
from schemas.rows import FATE

if TYPE_CHECKING:
    from curation.similarity.leaks import Match, Target

BATCH = 16_384
"""Rows that are searched at a time."""
EXAMPLES = 20
"""Rows that notes name of each kind."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LeakText(_Part):
    """When a row's words are an item's."""

    ngram: int = Field(default=8, ge=3, le=32, description="Words of an n-gram; shorter items are compared as a whole.")
    containment: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Share of an item's n-grams that a row must have, numbers included, to be a leak.",
    )
    fuzzy: float = Field(
        default=0.6,
        gt=0,
        le=1,
        description="Share from which a row is looked at: it is a leak if the answer is the item's too.",
    )


class LeakImage(_Part):
    """When a row's picture is an item's."""

    radius: int = Field(
        default=16, ge=0, le=47, description="Bits of 256 in which the hashes of two pictures may differ."
    )
    alone: Literal["report", "drop"] = Field(
        default="report", description="What becomes of a row with an item's picture and another question."
    )


class Decontaminate(StageConfig):
    """Drops rows that hold items of benchmarks, or rows of other versions. Writes `benchmark_overlap`: what a row that stays has in common with an
    item (JSON), or null."""

    stage: Literal["decontaminate"] = "decontaminate"
    against: list[str | Source] = Field(
        min_length=1,
        description="Benchmarks: names of those that ship with Winnow, names of the recipe's own sources, or sources as "
        "under `sources`; `{version: …}` keeps the rows of another version out.",
    )
    text: LeakText = LeakText()
    image: LeakImage = LeakImage()
    siblings: Literal["report", "drop"] = Field(
        "report",
        description="What becomes of rows with an item's wording and other numbers, signs, options or picture.",
    )
    measure: int = Field(
        200, ge=0, description="Items of each benchmark that are altered and searched for; 0 measures nothing."
    )

    @field_validator("against")
    @classmethod
    def _each_once(cls, against: list[str | Source]) -> list[str | Source]:
        names = [benchmark_name(entry) for entry in against]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two benchmarks are called {name!r}; give one of them another `name`")
        return against


def inputs(config: Decontaminate, folder: Path, workspace: Path) -> Sequence[Path]:
    """The files of all benchmarks: their bytes are a part of the stage's key."""
    return [path for entry in config.against for path in benchmark_files(entry, folder, workspace)]


def check(config: Decontaminate, schema: pa.Schema) -> Iterable[Problem]:
    from curation.sqlguard import nearest

    sources = sources_of(schema)
    for entry in config.against:
        if benchmark_source(entry) is None and sources is not None and entry not in sources:
            hint = nearest(str(entry), [*NAMED, *sources])
            yield Problem(
                f"against: there is no benchmark or source {entry!r}",
                text=str(entry),
                hint=hint or f"There are: {', '.join(NAMED)}. Any other is a source: {{parquet: …}}.",
            )
    if config.text.fuzzy > config.text.containment:
        yield Problem("text: `fuzzy` is above `containment`, so nothing would be looked at closer")


@global_stage(
    Decontaminate,
    revision=10_000 * 2 + 100 * texts.REVISION + CHECKER_REVISION,
    reads=("origin_key", "source", "question", "choices", "answer", "images"),
    writes={"benchmark_overlap": pa.string()},
    check=check,
    inputs=inputs,
    libraries=("polars", "pillow"),
)
def run(config: Decontaminate, rows: Rows, context: Context) -> Outcome:
    from curation.similarity.leaks import Rules, Target
    from curation.similarity.pictures import Pictures

    own_names = [benchmark_name(entry) for entry in config.against if benchmark_source(entry) is None]
    own: dict[str, list[pa.Table]] = {}
    hashes: set[str] = set()
    for batch in rows.batches():
        hashes.update(name for name in pc.unique(pc.list_flatten(batch["images"])).to_pylist() if name)
        for name in own_names:
            found = batch.filter(pc.equal(batch["source"], name))
            if len(found):
                own.setdefault(name, []).append(found.drop_columns(["source"]))
    items = read_benchmarks(
        config.against,
        own,
        workspace=context.workspace,
        recipe_dir=context.recipe_dir,
        workers=context.workers,
        memory_limit=context.memory_limit,
    )
    for images in items.table["images"].to_pylist():
        hashes.update(images or ())
    rules = Rules(config.text.ngram, config.text.containment, config.text.fuzzy, config.image.radius)
    target = Target(items, rules, Pictures(context.workspace, hashes))
    decided = _Decided(config, target)
    for batch in rows.batches():
        for start in range(0, len(batch), BATCH):
            piece = batch.slice(start, BATCH)
            asked = piece
            if own_names:
                asked = piece.filter(pc.invert(pc.is_in(piece["source"], pa.array(own_names))))
            decided.add(asked, target.search(asked, context.workers))
            context.progress(len(piece))
    notes = decided.notes()
    notes["benchmarks"] = {
        name: {
            "items": count,
            **({"quarantined": q} if (q := items.quarantined.get(name)) else {}),
            **({"version": version} if (version := items.versions.get(name)) else {}),
        }
        for name, count in sorted(Counter(items.table["benchmark"].to_pylist()).items())
    }
    if config.measure:
        from curation.similarity.measured import measured

        notes |= measured(target, config.measure, context)
    return Outcome(columns=decided.columns(), fates=decided.fates(), notes=notes)


class _Decided:
    """What becomes of rows that have something in common with an item."""

    def __init__(self, config: Decontaminate, target: Target):
        table = target.items.table
        self._versions = target.items.versions
        self._names, self._ids, self._rows = (table[name].to_pylist() for name in ("benchmark", "id", "row_id"))
        self._does = {"leak": "drop", "sibling": config.siblings, "picture": config.image.alone}
        self._gone: list[tuple[str, Match, dict[str, Any]]] = []
        self._said: list[tuple[str, Match, dict[str, Any]]] = []

    def add(self, rows: pa.Table, matches: Sequence[Match]) -> None:
        """The matches of a batch, sorted by row and nearest first."""
        ids = rows["row_id"]
        by_row: dict[int, list[Match]] = {}
        for match in matches:
            by_row.setdefault(match.row, []).append(match)
        for row, of in by_row.items():
            best = of[0]
            evidence = {
                "benchmark": self._names[best.item],
                "item": self._ids[best.item],
                "item_row": self._rows[best.item],
                "kind": best.kind,
                "rule": best.rule,
                **best.evidence,
            }
            if len(of) > 1:
                evidence["other_items"] = len(of) - 1
            to = self._gone if self._does[best.kind] == "drop" else self._said
            to.append((ids[row].as_py(), best, evidence))

    def fates(self) -> pa.Table:
        if not self._gone:
            return FATE.empty_table()
        by_reason: dict[str, list[tuple[str, Match, dict[str, Any]]]] = {}
        for line in self._gone:
            what = "version" if line[2]["benchmark"] in self._versions else "benchmark"
            by_reason.setdefault(f"{what}_{line[1].kind}", []).append(line)
        return pa.concat_tables(
            fates(
                [row for row, _, _ in lines],
                reason=reason,
                sentence=[_sentence(match, evidence, self._versions) for _, match, evidence in lines],
                evidence=[evidence for _, _, evidence in lines],
            )
            for reason, lines in by_reason.items()
        )

    def columns(self) -> pa.Table:
        return pa.table(
            {
                "row_id": pa.array([row for row, _, _ in self._said], pa.string()),
                "benchmark_overlap": pa.array([to_json(evidence) for _, _, evidence in self._said], pa.string()),
            }
        )

    def notes(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for kind in self._does:
            lines = [line for line in (*self._gone, *self._said) if line[1].kind == kind]
            lines.sort(key=lambda line: (-line[1].closeness, line[0]))
            found[kind] = {
                "rows": len(lines),
                "dropped": self._does[kind] == "drop",
                "by_benchmark": dict(sorted(Counter(evidence["benchmark"] for _, _, evidence in lines).items())),
                "by_rule": dict(sorted(Counter(match.rule for _, match, _ in lines).items())),
                "nearest": [
                    {"row": row, "benchmark": e["benchmark"], "item": e["item"], "closeness": round(m.closeness, 4)}
                    for row, m, e in lines[:EXAMPLES]
                ],
            }
        return {"found": found}


def _sentence(match: Match, evidence: dict[str, Any], versions: Mapping[str, str]) -> str:
    version = versions.get(evidence["benchmark"])
    item = (
        f"row {evidence['item_row']} of {version}" if version else f"item {evidence['item']} of {evidence['benchmark']}"
    )
    if match.rule == "same":
        return f"It is in {version} already."
    if match.kind == "picture":
        return f"It shows the picture of {item} and asks something else."
    if match.kind == "sibling":
        other = {
            "numbers": "other numbers",
            "signs": "other signs",
            "options": "other options",
            "fuzzy": "some other words",
        }
        return f"It has the wording of {item} with {other.get(match.rule, 'another picture')}."
    if match.rule == "picture":
        return f"It shows {item}, which stands in its picture."
    how = {"whole": "It is", "inside": "It contains"}.get(match.rule, "It has nearly all words of")
    return f"{how} {item}{', and shows its picture' if 'picture' in evidence else ''}."
