"""Traces of merged rows in a whole build: who takes them, under which k, how they are judged, and that none is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import yaml

from curation import build, sidebyside, story
from curation.engines.moved import write_moved
from curation.engines.partition import VERDICTS, Partition, layers_of, write_table
from curation.stages.base import Moved
from curation.versions import Version
from schemas.errors import RecipeError, WinnowError
from schemas.rows import TRACE

HALF = "What is one half of the number 7, written as a fraction?"
ANSWERS = {  # source, question, choices, answer, licence, and what the teacher said for k = 0, 1, …
    "free": ("a", HALF, None, "7/2", "CC0-1.0", ["It is \\boxed{7/2}.", "It is \\boxed{3}."]),
    "twin": ("b", HALF.replace("What is", "what  is"), None, "7/2", None, ["So \\boxed{7/2}.", "So \\boxed{5}.", None]),
    "form": ("a", f" {HALF}", None, "3.5", None, ["Thus \\boxed{\\frac{7}{2}}."]),
    "open": ("b", HALF.upper(), None, None, None, ["Here \\boxed{3.5}."]),
    "mute": ("b", f"{HALF} ", None, "7/2", None, []),
    "abc": ("a", "Which of these is a prime?", ["7", "8", "9"], "A", "CC0-1.0", ["\\boxed{A}"]),
    "cba": ("b", "Which of these is a prime?", ["9", "8", "7"], "C", None, ["\\boxed{C}"]),
    "ABC": ("b", "Which of these is a  prime?", ["7", "8", "9"], "7", None, ["\\boxed{A}"]),
    "alone": ("a", "How many days has a week?", None, "7", None, ["\\boxed{7}", "\\boxed{6}"]),
}


def recipe(
    folder: Path, *, workers: int = 1, workspace: str = "ws", merge: tuple[str, ...] = ("traces",), **options: Any
) -> Version:
    rows: dict[str, list[dict[str, Any]]] = {"a": [], "b": []}
    said = []
    for name, (source, question, choices, answer, licence, responses) in ANSWERS.items():
        row = {"id": name, "question": question, "choices": choices, "answer": answer, "license": licence}
        rows[source].append(row)
        said += [{"id": name, "sample": k, "response": text, "model": "m"} for k, text in enumerate(responses)]
    for name, own in {**rows, "said": said}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in own))
    stages = [
        {"stage": "fanout", "teacher": {"kind": "recorded", "path": "said.jsonl", "k": "sample"}, "n": 3},
        {"stage": "verify"},
        {"stage": "dedup", "merge": list(merge), "keep": ["answered", "license"], **options},
    ]
    told = {
        "name": "made",
        "sources": [{"name": name, "jsonl": f"{name}.jsonl"} for name in ("a", "b")],
        "stages": stages,
        "outputs": [{"export": "sft"}],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(told))
    return build(folder / "recipe.yaml", workspace=folder / workspace, workers=workers)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return recipe(tmp_path_factory.mktemp("inherit"))


@pytest.fixture(scope="module")
def ids(version: Version) -> dict[str, str]:
    return dict(pl.read_parquet(version.files("decisions")).select("id", "row_id").iter_rows())


def of(version: Version, row_id: str) -> list[tuple[int, str | None, str | None]]:
    """(k, whose, state) of a row's traces."""
    own = version.traces().filter(pl.col("row_id") == row_id).sort("k")
    return list(own.select("k", "origin_row", "state").iter_rows())


def test_the_kept_row_takes_all_traces_behind_its_own(version: Version, ids: dict[str, str]) -> None:
    names = {row: name for name, row in ids.items()}
    found = [(k, names.get(whose or ""), state) for k, whose, state in of(version, ids["free"])]
    assert found[:2] == [(0, None, "correct"), (1, None, "incorrect")]
    assert [k for k, _, _ in found] == list(range(7)), "k goes on without a gap"
    by_giver = {
        name: [state for _, whose, state in found if whose == name] for name in ("twin", "form", "open", "mute")
    }
    assert by_giver == {"twin": ["correct", "incorrect", None], "form": ["correct"], "open": ["correct"], "mute": []}
    assert all(of(version, ids[name]) == [] for name in ("twin", "form", "open", "mute"))
    assert of(version, ids["alone"]) == [(0, None, "correct"), (1, None, "incorrect")]


def test_options_in_another_order_keep_their_traces_apart(version: Version, ids: dict[str, str]) -> None:
    assert of(version, ids["abc"]) == [(0, None, "correct"), (1, ids["ABC"], "correct")]
    assert of(version, ids["cba"]) == [(0, None, "correct")], "C is another option there"
    notes = next(stage["notes"] for stage in version.manifest["stages"] if stage["kind"] == "dedup")
    taken = {"rows": 4, "traces": 6, "judged_anew": 3, "rows_with_other_options": 1}
    assert notes["traces_taken"] == taken


def test_measures_of_the_row_count_what_it_took(version: Version, ids: dict[str, str]) -> None:
    rows = {row["id"]: row for row in pl.read_parquet(version.files("decisions")).iter_rows(named=True)}
    measured = [rows["free"][name] for name in ("n_traces", "n_judged", "n_correct", "pass_rate")]
    assert measured == [7, 6, 4, 4 / 6]
    assert [rows["alone"][name] for name in ("n_traces", "n_judged", "n_correct")] == [2, 2, 1]
    assert rows["cba"]["n_correct"] == 1


def test_nothing_is_lost_and_the_ledger_reconciles(version: Version, ids: dict[str, str]) -> None:
    said = sum(len(own[-1]) for own in ANSWERS.values())
    made = version.manifest["counts"]["traces"]
    assert made["made"] == said == made["exported"] + made["not_exported"]
    ledger = version.ledger()
    assert ledger.filter(pl.col("fate") == "merged").height == 6 and ledger.height == len(ANSWERS)
    text = version.traces().filter(pl.col("origin_row") == ids["form"])["text"].to_list()
    assert text == ["Thus \\boxed{\\frac{7}{2}}."]
    assert version.rows().filter(pl.col("row_id") == ids["free"]).height > 0


def test_why_and_traces_tell_where_they_went(version: Version, ids: dict[str, str]) -> None:
    told = "\n".join(story.tell(version, "twin").lines)
    assert f"merged into {ids['free']}" in told and "its 3 traces went along, as k = " in told
    assert f"read 7/2; of {ids['twin']}; exported" in "\n".join(story.tell(version, "free").lines)
    shown = sidebyside.look(version, "free").text(width=200)
    assert shown.count(f"of {ids['twin']}") == 3
    assert sidebyside.look(version, "twin").text().endswith(f"merged into: {ids['free']}")
    assert "No teacher answered this row." in sidebyside.look(version, "mute").text()


def test_workers_and_caches_make_no_difference(version: Version, tmp_path: Path) -> None:
    again = recipe(tmp_path, workers=2)
    assert again.id == version.id
    without = recipe(tmp_path, merge=())
    assert without.id != version.id and without.traces()["origin_row"].null_count() == len(without.traces())


def test_traces_are_merged_after_verify_only(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="needs `method: questions`"):
        recipe(tmp_path, method="openmmreasoner", model="x")
    text = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    text["stages"] = [text["stages"][0], {"stage": "dedup", "merge": ["traces"]}]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(text))
    with pytest.raises(RecipeError, match="verdicts, and nothing before it makes any"):
        build(tmp_path / "recipe.yaml", workspace=tmp_path / "ws")


def test_a_move_that_loses_or_doubles_a_trace_is_refused(tmp_path: Path) -> None:
    names = [f"{letter * 20}" for letter in "ab"]
    write_table(tmp_path / "rows.parquet", pa.table({"row_id": names}))
    traces = pa.Table.from_pylist([dict.fromkeys(TRACE.names) | {"row_id": r, "k": 0} for r in names], schema=TRACE)
    write_table(tmp_path / "traces.parquet", traces)
    layers = layers_of(tmp_path / "rows.parquet", pa.table({"row_id": names}))
    partition = Partition("s", 0, 256, 2, layers, b"\xc0", traces=str(tmp_path / "traces.parquet"))

    def move(*ks: int) -> dict[str, dict[str, str]]:
        new = [dict.fromkeys(TRACE.names) | {"row_id": names[0], "k": k, "origin_row": names[1]} for k in ks]
        table = pa.Table.from_pylist(new, schema=TRACE)
        return write_moved("s", Moved(pa.array(names[1:]), table, VERDICTS.empty_table()), [partition], tmp_path)

    assert move(1).keys() == {"0"}
    with pytest.raises(WinnowError, match="a second trace k=0"):
        move(0)
    with pytest.raises(WinnowError, match="moved 2 traces to other rows, but 1 left theirs and 2 found a row"):
        move(1, 2)
    with pytest.raises(WinnowError, match="moved 0 traces"):
        move()
