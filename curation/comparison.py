"""What changed between two versions, row by row, and which stage made the difference.

Rows are paired by row_id where both versions have it, else by origin_key (upstream's own id, or question and images):
a row whose answer was mended upstream is *changed*, not removed and added.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.versions import Version, open_version

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Diff:
    """The difference from `a` to `b`."""

    a: str
    b: str
    counts: dict[str, int]
    """a, b (rows in the data), unchanged, changed, added, removed, shared_content (rows of b whose content is in a)."""
    reasons: list[dict[str, Any]]
    """change, stage, reason, rows: which stage added, removed or changed how many."""
    rows: pl.DataFrame = field(repr=False)
    """Every row that differs: change, row_id, row_id_before, origin_key, source, stage, reason, columns."""

    def to_dict(self, rows: int = 1000) -> dict[str, Any]:
        return {
            "a": self.a,
            "b": self.b,
            "counts": self.counts,
            "reasons": self.reasons,
            "rows": self.rows.head(rows).to_dicts(),
        }

    def text(self, rows: int = 10) -> str:
        """For a person: the counts, the reasons, and some rows."""
        c = self.counts
        lines = [
            f"{self.a} -> {self.b}",
            f"  rows      {c['a']:,} -> {c['b']:,}: {c['added']:,} added, {c['removed']:,} removed, {c['changed']:,} changed, {c['unchanged']:,} as they were",
            f"  overlap   {c['shared_content']:,} rows of {self.b} have content that {self.a} has too",
        ]
        lines += [f"  {r['change']:<9} {r['rows']:>9,}  {r['stage']}: {r['reason']}" for r in self.reasons]
        shown = self.rows.head(rows).to_dicts()
        lines += [""] if shown else []
        lines += [f"  {r['change']:<9} {r['row_id']}  {r['origin_key']}  {r['stage']}: {r['reason']}" for r in shown]
        if len(self.rows) > rows:
            lines.append(f"  … and {len(self.rows) - rows:,} more (--json gives them)")
        return "\n".join(lines)

    def markdown(self) -> str:
        """For a changelog."""
        c = self.counts
        table = "\n".join(f"| {r['change']} | {r['stage']} | {r['reason']} | {r['rows']:,} |" for r in self.reasons)
        head = f"### {self.a} → {self.b}\n\n{c['added']:,} rows added, {c['removed']:,} removed, {c['changed']:,} changed, {c['unchanged']:,} unchanged. {c['shared_content']:,} of {c['b']:,} rows have content that {self.a} has too.\n"
        return head + (f"\n| change | stage | reason | rows |\n| --- | --- | --- | ---: |\n{table}\n" if table else "")


def diff(a: str | Version, b: str | Version, workspace: Path | str | None = None) -> Diff:
    """Compare two versions (references or open versions)."""
    import polars as pl

    old = a if isinstance(a, Version) else open_version(a, workspace)
    new = b if isinstance(b, Version) else open_version(b, workspace)
    before, after = _table(old), _table(new)

    # Pairs: the same row first, then upstream's key among what is left over.
    same = before.join(after, on="row_id", how="semi").select("row_id", after_id="row_id")
    rest_before = _numbered(before.join(same, on="row_id", how="anti"))
    rest_after = _numbered(after.join(same, on="row_id", how="anti"))
    moved = rest_before.join(
        rest_after.select("origin_key", "n", after_id="row_id"), on=["origin_key", "n"], how="inner"
    ).select("row_id", "after_id")
    sides = before.join(pl.concat([same, moved]), on="row_id", how="left")
    joined = sides.join(after, left_on="after_id", right_on="row_id", how="full", suffix="_after").select(
        row_id_before=pl.col("row_id"),
        row_id=pl.col("row_id_after"),
        origin_key=pl.coalesce("origin_key_after", "origin_key"),
        source=pl.coalesce("source_after", "source"),
        was=pl.col("fate").fill_null("absent"),
        now=pl.col("fate_after").fill_null("absent"),
        old_stage=pl.col("stage"),
        old_reason=pl.col("reason"),
        new_stage=pl.col("stage_after"),
        new_reason=pl.col("reason_after"),
    )
    kept_before, kept_after = pl.col("was") == "kept", pl.col("now") == "kept"
    added = joined.filter(~kept_before & kept_after).with_columns(
        change=pl.lit("added"),
        stage=pl.coalesce("old_stage", pl.lit("source")),
        reason=pl.when(pl.col("was") == "absent")
        .then(pl.lit("new in the source"))
        .otherwise(pl.lit("no longer ") + pl.col("was") + ": " + pl.col("old_reason")),
        columns=pl.lit(None, pl.List(pl.String)),
    )
    removed = joined.filter(kept_before & ~kept_after).with_columns(
        change=pl.lit("removed"),
        stage=pl.coalesce("new_stage", pl.lit("source")),
        reason=pl.when(pl.col("now") == "absent")
        .then(pl.lit("gone from the source"))
        .otherwise(pl.col("now") + ": " + pl.col("new_reason")),
        columns=pl.lit(None, pl.List(pl.String)),
    )
    both = joined.filter(kept_before & kept_after)
    changed = _changed(old, new, both)
    columns = ["change", "row_id", "row_id_before", "origin_key", "source", "stage", "reason", "columns"]
    rows = pl.concat(
        [
            frame.with_columns(row_id=pl.coalesce("row_id", "row_id_before")).select(columns)
            for frame in (removed, added, changed)
        ]
    )
    rows = rows.sort("change", "stage", "reason", "row_id")
    reasons = (
        rows.group_by("change", "stage", "reason")
        .len("rows")
        .sort(["change", "rows", "stage", "reason"], descending=[False, True, False, False])
    )
    contents = before.filter(pl.col("fate") == "kept").select("content_id").unique()
    shared = after.filter(pl.col("fate") == "kept").join(contents, on="content_id", how="semi").height
    counts = {
        "a": old.kept,
        "b": new.kept,
        "unchanged": both.height - changed.height,
        "changed": changed.height,
        "added": added.height,
        "removed": removed.height,
        "shared_content": shared,
    }
    return Diff(str(old), str(new), counts, reasons.to_dicts(), rows)


def _table(version: Version) -> pl.DataFrame:
    import polars as pl

    return pl.read_parquet(
        version.files("ledger"), columns=["row_id", "content_id", "origin_key", "source", "fate", "stage", "reason"]
    )


def _numbered(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows with one origin_key, numbered in the order of their content, kept ones first."""
    import polars as pl

    frame = frame.sort("origin_key", pl.col("fate") != "kept", "content_id", "row_id")
    return frame.with_columns(n=pl.int_range(pl.len()).over("origin_key"))


def _changed(old: Version, new: Version, both: pl.DataFrame) -> pl.DataFrame:
    """Rows kept in both whose narrow columns differ, with the stage that wrote the first column that does."""
    import polars as pl

    writers: dict[str, str] = {}
    for version in (old, new):
        for stage in version.manifest["stages"]:
            writers.update(dict.fromkeys(stage.get("writes", []), stage["name"]))
    order = {stage["name"]: n for n, stage in enumerate(new.manifest["stages"])}
    left, right = pl.scan_parquet(old.files("decisions")), pl.scan_parquet(new.files("decisions"))
    have, there = left.collect_schema(), right.collect_schema()
    ignored = {"row_id", "origin_key"}
    common = [c for c in have.names() if c in there and c not in ignored and have[c] == there[c]]
    ids = both.select("row_id_before", "row_id").lazy()
    joined = ids.join(left, left_on="row_id_before", right_on="row_id", how="inner").join(
        right, on="row_id", how="inner", suffix="_after"
    )
    flags = [pl.col(c).ne_missing(pl.col(f"{c}_after")).alias(c) for c in common]
    differing = (
        joined.select("row_id", *flags).filter(pl.any_horizontal(common)).collect()
        if common
        else pl.DataFrame(schema={"row_id": pl.String})
    )
    shown = [c for c in common if c != "content_id"] or common
    named = differing.select(
        "row_id", columns=pl.concat_list([pl.when(pl.col(c)).then(pl.lit(c)) for c in shown]).list.drop_nulls()
    )
    stages = []
    reasons = []
    for names in named["columns"].to_list():
        by = sorted(names, key=lambda c: (order.get(writers.get(c, ""), -1), c))
        stages.append(writers.get(by[0], "source") if by else "source")
        reasons.append(f"other {', '.join(by)}" if by else "other content")
    named = named.with_columns(
        change=pl.lit("changed"), stage=pl.Series(stages, dtype=pl.String), reason=pl.Series(reasons, dtype=pl.String)
    )
    return both.join(named, on="row_id", how="inner")
