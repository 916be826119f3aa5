"""How much of what was planted a decontamination finds, by the way in which it was altered."""

from __future__ import annotations

from collections import Counter
from typing import Any

from curation.images import ImageStore
from curation.similarity import planted
from curation.similarity.leaks import Target
from curation.similarity.pictures import Pictures
from curation.similarity.planted import Planted
from curation.stages.base import Context

MOST_PICTURES = 40
"""Items of each benchmark whose pictures are altered: each is decoded and encoded three times."""


def measured(target: Target, most: int, context: Context) -> dict[str, Any]:
    """{"recall": kind -> planted, found, recall; "control": rows, false_alarms, rate}."""
    draw = planted.draws(context.seed, context.name, target.items)
    chosen = planted.sampled(target.items, most, draw)
    counts: dict[str, Counter[str]] = {}
    _count(target, planted.copies(target.items, chosen, draw), counts, context)
    pictured = planted.sampled(target.items, min(most, MOST_PICTURES), draw, pictured=True)
    if pictured:
        altered = planted.pictured_copies(target.items, pictured, ImageStore(context.workspace))
        _count(target, altered, counts, context)
    clean = planted.control(target.items, chosen, draw)
    leaks = [m for m in _first(target, clean, context).values() if m.kind == "leak"]
    # Benchmarks share items with one another: a text that holds one whole after all is no control.
    unclean = {m.row for m in leaks if m.rule in ("whole", "inside") and m.item != clean.items[m.row]}
    kinds = Counter(kind for row, kind in enumerate(clean.kinds) if row not in unclean)
    alarms = Counter(clean.kinds[m.row] for m in leaks if m.row not in unclean)
    total = kinds.total()
    recall = {
        kind: {"planted": of["planted"], "found": of["found"], "recall": round(of["found"] / of["planted"], 4)}
        for kind in (*planted.TEXT_KINDS, *planted.IMAGE_KINDS)
        if (of := counts.get(kind)) is not None
    }
    control = {
        "rows": total,
        "false_alarms": sum(alarms.values()),
        "rate": round(sum(alarms.values()) / total, 6) if total else 0.0,
        "by_kind": {kind: {"rows": n, "false_alarms": alarms[kind]} for kind, n in sorted(kinds.items())},
    }
    return {"recall": recall, "control": control}


def _first(target: Target, batch: Planted, context: Context) -> dict[int, Any]:
    """The nearest match of each planted row."""
    found: dict[int, Any] = {}
    nameless = batch.rows.drop_columns(
        ["row_id"]
    )  # a copy has the id of what it was made of, and is to be found without
    for match in target.search(nameless, context.workers):
        found.setdefault(match.row, match)
    return found


def _count(target: Target, batch: Planted, counts: dict[str, Counter[str]], context: Context) -> None:
    """Adds what was planted and what of it was found: named as a leak of the item, or of another with its text. Of a
    picture that was altered, the picture must be named too."""
    before = target.pictures
    if batch.images:
        target.pictures = Pictures.with_bytes(before, batch.images)
    found = _first(target, batch, context)
    target.pictures = before
    for row, (kind, item) in enumerate(zip(batch.kinds, batch.items, strict=True)):
        of = counts.setdefault(kind, Counter())
        of["planted"] += 1
        match = found.get(row)
        if match is None or match.kind != "leak":
            continue
        same = match.item == item or target.sides[match.item].compared == target.sides[item].compared
        of["found"] += same and (not batch.images or "picture" in match.evidence)
