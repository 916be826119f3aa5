"""What a recipe expects to come out, held against what a build found: a run says where it departs from the paper.

    expect:
      sources.tqa: 6500                            rows that were read
      stages.dedup: 74971                          rows that it left
      stages.dedup.merged: {count: 900, within: 0.1}   rows by fate, or by reason
      stages.fanout.traces: 824000                 notes of a stage that are numbers
      outputs.sft: {count: 874357, because: the paper, table 1}   examples; outputs.sft.train of one split
      kept: 100                                    rows of the version; also input, dropped, merged, quarantined

A departure stops nothing: it is told at the end of the build and kept in the manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from curation.recipe.wording import did_you_mean
from schemas.recipe import Expected

TOTALS = ("input", "kept", "dropped", "merged", "quarantined")


def unknown(
    keys: Iterable[str], *, sources: Iterable[str], stages: Iterable[str], outputs: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """(key, what is wrong with it) for keys that count nothing in a recipe of these names."""
    names = {"sources": list(sources), "stages": list(stages), "outputs": list(outputs)}
    for key in keys:
        if key in TOTALS:
            continue
        head, _, rest = key.partition(".")
        if head not in names:
            hint = "There are sources.NAME, stages.NAME, stages.NAME.REASON, outputs.NAME, " + ", ".join(TOTALS) + "."
            yield key, f"it begins with none of sources, stages and outputs. {hint}"
        elif _named(rest, names[head]) is None:
            yield key, f"there is none of this name among the {head}. {did_you_mean(rest, names[head])}".strip()


def _named(rest: str, names: Iterable[str]) -> tuple[str, str] | None:
    """The name that a key begins with, and what follows it; names may have dots."""
    for name in sorted(names, key=len, reverse=True):
        if rest == name or rest.startswith(name + "."):
            return name, rest[len(name) + 1 :]
    return None


def compared(expect: Mapping[str, Expected | None] | None, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each expectation with what the build found: key, expected, within, found (null where the build counts no such
    thing), agrees, because; in the order of the recipe."""
    lines = []
    for key, wanted in (expect or {}).items():
        if wanted is None:
            continue
        found = _found(key, manifest)
        agrees = found is not None and abs(found - wanted.count) <= wanted.within * wanted.count
        lines.append(
            {
                "what": key,
                "expected": wanted.count,
                "within": wanted.within,
                "found": found,
                "agrees": agrees,
                "because": wanted.because,
            }
        )
    return lines


def sentence(line: Mapping[str, Any]) -> str:
    """A departure, in words."""
    found = "nothing of that name was counted" if line["found"] is None else f"{line['found']:,} found"
    within = f" within {line['within']:.1%}" if line["within"] else ""
    because = f" ({line['because']})" if line["because"] else ""
    return f"Other than expected: {line['what']}: {found}, {line['expected']:,}{within} expected{because}."


def _found(key: str, manifest: Mapping[str, Any]) -> int | None:
    if key in TOTALS:
        return int(manifest["counts"].get(key, 0))
    head, _, rest = key.partition(".")
    if head == "sources":
        of = manifest["counts"]["sources"].get(rest)
        return None if of is None else sum(of.values())
    if head == "outputs":
        name, split = _named(rest, manifest["splits"]) or (rest, "")
        of = manifest["splits"].get(name)
        if of is None:
            return None
        return int(of.get(split, 0)) if split else sum(of.values())
    stages = {stage["name"]: stage for stage in manifest["stages"]}
    name, what = _named(rest, stages) or (rest, "")
    if name not in stages:
        return None
    if not what or what == "kept":
        return int(stages[name]["rows_out"])
    gone = [line for line in manifest["funnel"] if line["stage"] == name]
    if what in ("dropped", "merged", "quarantined"):
        return sum(line["rows"] for line in gone if line["fate"] == what)
    note: Any = stages[name].get("notes", {})
    for part in what.split("."):
        note = note.get(part) if isinstance(note, Mapping) else None
    if isinstance(note, Mapping):
        note = sum(value for value in note.values() if isinstance(value, int))
    if isinstance(note, int):
        return note
    return sum(line["rows"] for line in gone if line["reason"] == what)
