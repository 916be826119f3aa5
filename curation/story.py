"""Why a row is, or is not, in a version: told from the version's own tables, stage by stage."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from curation.versions import Story, Version, parse, read_columns
from schemas.errors import WinnowError
from schemas.rows import ID_DIGITS

if TYPE_CHECKING:
    import polars as pl

_SHOWN = 400


def find(version: Version, wanted: str) -> str:
    """The row_id that `wanted` means: a row_id, an unambiguous beginning of one, or upstream's own id."""
    import polars as pl

    ledger = pl.scan_parquet(version.files("ledger")).select("row_id", "origin_key", "source")

    def matching(predicate: pl.Expr) -> list[str]:
        return ledger.filter(predicate).select("row_id").head(6).collect()["row_id"].to_list()

    found = matching(pl.col("row_id") == wanted)
    if not found and len(wanted) < ID_DIGITS and all(c in "0123456789abcdef" for c in wanted):
        found = matching(pl.col("row_id").str.starts_with(wanted))
    if not found:
        found = matching(
            (pl.col("origin_key") == wanted)
            | (pl.col("origin_key") == pl.concat_str(pl.col("source"), pl.lit(":" + wanted)))
        )
    if not found:
        raise WinnowError(
            f"{version} has no input row {wanted!r}: none of its sources yielded it.\n"
            f"Look for it with: winnow sql \"select row_id, question from {version.name}.decisions where question like '%…%'\""
        )
    if len(found) > 1:
        shown = ", ".join(found[:5]) + (" …" if len(found) > 5 else "")
        raise WinnowError(f"{wanted!r} names more than one row of {version}: {shown}. Give one of these ids.")
    return found[0]


def tell(version: Version, wanted: str) -> Story:
    """The story of one row."""
    row_id = find(version, wanted)
    fate = read_columns(version, "ledger", row_id)[0]
    row = next(iter(read_columns(version, "decisions", row_id)), None)
    traces = sorted(read_columns(version, "traces", row_id), key=lambda t: (t["k"], t.get("attempt") or 0))
    verdicts = {v["k"]: v for v in read_columns(version, "verdicts", row_id)}
    stages = version.manifest["stages"]

    lines = [f"Row {row_id} of {version}", ""]
    lines.append(f"  from      {fate['source']}: {fate['file']}, record {fate['index']}  ({fate['origin_key']})")
    if row is not None:
        lines += _shown("question", row["question"]) + _shown("answer", row["answer"])
        if row["choices"]:
            lines += _shown("choices", " | ".join(row["choices"]))
        if row["images"]:
            lines.append(f"  images    {len(row['images'])}: {', '.join(h[:12] for h in row['images'])}")
        lines.append(f"  licence   {row['license'] or 'unknown'}")
    lines.append("")

    story: list[dict[str, Any]] = []
    for stage in stages:
        name = stage["name"]
        if stage["kind"] == "source" and name != f"source:{fate['source']}":
            continue
        if fate["stage"] == name and fate["fate"] != "kept":
            story.append(
                {
                    "stage": name,
                    "word": fate["fate"],
                    "reason": fate["reason"],
                    "sentence": fate["sentence"],
                    "evidence": parse(fate["evidence"]),
                }
            )
            break
        said = _columns_said(stage, row)
        story.append({"stage": name, "word": "kept", **({"columns": said} if said else {})})
    if fate["stage"].startswith("export"):
        story.append(
            {
                "stage": fate["stage"],
                "word": fate["fate"],
                "reason": fate["reason"],
                "sentence": fate["sentence"],
                "evidence": parse(fate["evidence"]),
            }
        )
    width = max(len(step["stage"]) for step in story)
    for step in story:
        sentence = step.get("sentence", "")
        word = sentence if step["word"] == "kept" and sentence else step["word"] + (f": {sentence}" if sentence else "")
        lines.append(f"  {step['stage']:<{width}}  {word}")
        for column, value in (step.get("columns") or {}).items():
            lines.append(f"  {'':<{width}}    {column} = {_short(value, 120)}")
        if step.get("evidence"):
            evidence = (
                step["evidence"].items() if isinstance(step["evidence"], dict) else [("evidence", step["evidence"])]
            )
            lines += [f"  {'':<{width}}    {key}: {_short(value, 160)}" for key, value in evidence]
        lines += [f"  {'':<{width}}    {line}" for line in _joined(version, step, row)]
    if fate["into"]:
        lines.append(f"  merged into {fate['into']}: winnow why {version.name} {fate['into']}")
    if given := given_traces(version, fate):
        ks = ", ".join(str(trace["k"]) for trace in given)
        lines.append(f"  its {len(given)} traces went along, as k = {ks}")
    if traces:
        lines += ["", f"  {len(traces)} traces"]
        for trace in traces:
            verdict = verdicts.get(trace["k"])
            word = (
                f"{verdict['state']} by {verdict['method']}, read {_short(verdict['extracted'], 40)}"
                if verdict
                else "not checked"
            )
            if trace.get("origin_row"):
                word += f"; of {trace['origin_row']}"
            end = trace["fate"] if trace["fate"] == "exported" else f"not exported: {trace['fate_reason']}"
            lines.append(f"    k={trace['k']:<3} {trace['finish']:<9} {word}; {end}")
    facts = {
        "row_id": row_id,
        "version": str(version),
        "fate": {**fate, "evidence": parse(fate["evidence"])},
        "row": row,
        "story": story,
        "traces": traces,
        "given": [trace["k"] for trace in given],
        "verdicts": list(verdicts.values()),
    }
    return Story(lines, facts)


def given_traces(version: Version, fate: dict[str, Any]) -> list[dict[str, Any]]:
    """The traces that a merged row, by its line of the ledger, gave to the row it went into."""
    if not fate["into"]:
        return []
    theirs = read_columns(version, "traces", fate["into"])
    return sorted((t for t in theirs if t.get("origin_row") == fate["row_id"]), key=lambda t: t["k"])


def _joined(version: Version, step: dict[str, Any], row: dict[str, Any] | None) -> list[str]:
    """The benchmark item that a step names, with what overlaps. The version holds ids and spans of it, never its text:
    that is read from the workspace's cache, where it still is there."""
    said = step.get("evidence") or parse((step.get("columns") or {}).get("benchmark_overlap"))
    if not isinstance(said, dict) or "item_row" not in said:
        return []
    from curation.similarity.benchmarks import cached_item

    workspace = version.path.parents[2]
    item = cached_item(workspace, said["benchmark"], said["item_row"])
    if item is None:
        return [
            f"(the texts of {said['benchmark']} are not in this workspace's cache: build the recipe here to see them)"
        ]
    lines = [f"its text: {_short(item['question'], 300)}", f"its answer: {_short(item['answer'], 80)}"]
    question = ((row or {}).get("question") or "").encode()
    for begin, end, _, _ in said.get("spans", [])[:3]:
        lines.append(f"in common: {_short(question[begin:end].decode('utf-8', 'replace'), 200)}")
    return lines


def _columns_said(stage: dict[str, Any], row: dict[str, Any] | None) -> dict[str, Any]:
    """What a stage wrote of this row. Text that it only rewrote is shown by its raw form."""
    if row is None:
        return {}
    columns = stage.get("writes", [])
    if "question_raw" in columns:
        return {c: row[c] for c in ("question_raw", "answer_raw") if row.get(c) is not None}
    return {c: row[c] for c in columns if row.get(c) is not None}


def _shown(label: str, text: str | None) -> list[str]:
    if text is None:
        return [f"  {label:<9} —"]
    wrapped = textwrap.wrap(_short(text, _SHOWN), 100) or [""]
    return [f"  {label:<9} {wrapped[0]}", *(f"  {'':<9} {line}" for line in wrapped[1:])]


def _short(value: Any, limit: int) -> str:
    text = value if isinstance(value, str) else "—" if value is None else str(value)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
