"""Tables, files, caches and explanations."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from curation.answers import Policy, check, check_file, check_many, explain, pool, symbolic
from curation.answers.cache import VerdictCache
from schemas.errors import WinnowError
from schemas.verdicts import STATES, VERDICT_SCHEMA
from tests.answers.cases import CONVENTIONS

PAIRS = [(g, a) for g, a, _, _ in CONVENTIONS] * 6


def table() -> pa.Table:
    return pa.table({"gold": [g for g, _ in PAIRS], "response": [a for _, a in PAIRS]})


def without_seconds(verdicts: pa.Table) -> list[dict]:
    return verdicts.drop_columns(["seconds"]).to_pylist()


def test_one_row_for_each_row_in_order() -> None:
    verdicts = check_many(table())
    assert verdicts.schema == VERDICT_SCHEMA
    assert verdicts.num_rows == len(PAIRS)
    assert set(verdicts.column("state").to_pylist()) <= set(STATES)
    for row, (gold, answer) in zip(verdicts.to_pylist()[:90], PAIRS, strict=False):
        single = check(gold, answer).row()
        assert {k: v for k, v in row.items() if k != "seconds"} == {k: v for k, v in single.items() if k != "seconds"}


def test_any_number_of_workers_gives_the_same() -> None:
    one = without_seconds(check_many(table()))
    assert without_seconds(check_many(table(), workers=2)) == one
    assert without_seconds(check_many(table(), workers=3)) == one


def test_a_worker_that_dies_loses_nothing() -> None:
    check_many(table(), workers=2)
    for processes in pool._idle.values():
        for process in processes:
            process.kill()
            process.wait()
    assert without_seconds(check_many(table(), workers=2)) == without_seconds(check_many(table()))


def test_optional_columns() -> None:
    rows = pa.table(
        {
            "gold": ["B", "x", "5"],
            "response": [r"\boxed{16}", "It is Rome", r"\boxed{5}"],
            "choices": [["12", "16"], None, None],
            "golds": pa.array([None, ["Rome", "Roma"], None], type=pa.list_(pa.string())),
            "truncated": [None, False, True],
            "other": [1, 2, 3],
        }
    )
    assert check_many(rows).column("state").to_pylist() == ["correct", "correct", "truncated"]


def test_an_empty_table() -> None:
    assert check_many(table().slice(0, 0)).num_rows == 0


def test_missing_columns_are_named() -> None:
    with pytest.raises(ValueError, match="missing: response"):
        check_many(pa.table({"gold": ["1"]}))


def test_symbolic_verdicts_are_kept_across_runs(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.sqlite"
    pair = pa.table({"gold": ["w(12.5-w)=25"], "response": ["2w+50/w=25"]})
    first = check_many(pair, cache=path)
    assert first.column("method").to_pylist() == ["symbolic"]
    assert len(VerdictCache(path)) == 1
    symbolic._asked.cache_clear()
    symbolic.close()
    assert without_seconds(check_many(pair, cache=path)) == without_seconds(first)
    assert symbolic._nursery is None, "the kept verdict needed no process"


def test_cache_keys_do_not_collide_and_the_first_writer_wins(tmp_path: Path) -> None:
    assert VerdictCache.key("ab", "c") != VerdictCache.key("a", "bc")
    assert VerdictCache.key("x", Policy().key()) != VerdictCache.key("x", Policy(lowest_terms=True).key())
    cache = VerdictCache(tmp_path / "new" / "c.sqlite")
    key = VerdictCache.key("pair")
    assert cache.get(key) is None
    cache.put(key, {"equal": True})
    VerdictCache(cache.path).put(key, {"equal": False})
    assert cache.get(key) == {"equal": True}


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    pair = pa.table({"gold": ["w(12.5-w)=25"], "response": ["2w+50/w=25"]})
    for broken in (tmp_path / "file" / "verdicts.sqlite", tmp_path):
        symbolic._asked.cache_clear()
        assert check_many(pair, cache=broken).column("state").to_pylist() == ["correct"]


def test_policy_from_text() -> None:
    given = Policy.parse(["tolerance=0.01", "missing_unit=refuse", "symbolic=false", "gold_rounding_digits=0"])
    assert given == Policy(tolerance=0.01, missing_unit="refuse", symbolic=False, gold_rounding_digits=0)
    for wrong, said in (("tolerance", "no convention"), ("tolerance=x", "a number"), ("symbolic=1", "true or false"),
                        ("missing_unit=no", "accept or refuse"), ("tolerence=1", "tolerance")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            Policy.parse([wrong])


def test_explain_shows_every_step() -> None:
    text = explain("16", "So it is (C).", choices=["12", "14", "16"])
    for part in ("extracted", "kind       choice", "option C   16", "verdict    correct"):
        assert part in text
    assert "unit cm" in explain("5 cm", "50 mm")
    assert "nothing" in explain("5", "")


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def test_file_with_expectations(tmp_path: Path) -> None:
    rows = [
        {"gold": "1/2", "response": "0.5", "expected": True, "class": "number"},
        {"gold": "1/2", "prediction": "0.6", "expected": True, "class": "number"},
        {"gold": "x", "response": "x", "expected": False, "class": "symbol"},
        {"gold": 5, "response": 5, "expected": True, "class": "symbol"},
    ]
    report = check_file(write(tmp_path / "pairs.jsonl", rows))
    assert report.table.num_rows == 4
    whole = report.classes[-1]
    assert (whole.name, whole.pairs, whole.right, whole.false_accepts, whole.false_refusals) == ("all", 4, 2, 1, 1)
    assert [e["mistake"] for e in report.examples] == ["false accept", "false refusal"]
    assert "50.00%" in report.summary and "false accept [symbol]" in report.summary
    assert json.loads(report.json())["classes"][-1]["accuracy"] == 0.5


def test_file_without_expectations(tmp_path: Path) -> None:
    report = check_file(write(tmp_path / "pairs.jsonl", [{"gold": "1", "response": "1"}]))
    assert report.states == {"correct": 1} and report.classes == ()


def test_file_errors_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"gold": "1", "response": "1"}\n{"gold": "1"}\n', encoding="utf-8")
    with pytest.raises(WinnowError, match=r"pairs\.jsonl:2: needs the fields"):
        check_file(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(WinnowError, match=r"pairs\.jsonl:1: not a JSON object"):
        check_file(path)
    with pytest.raises(WinnowError, match="is not a file"):
        check_file(tmp_path / "absent.jsonl")
