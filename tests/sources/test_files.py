"""Reading: what is found, how it is cut into parts, and what is said of files that are broken."""

from __future__ import annotations

import gzip
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.sources import open_source
from schemas.errors import SourceError
from schemas.recipe import Source

Take = Callable[..., Any]


def write_lines(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def questions(count: int) -> list[dict[str, Any]]:
    return [{"id": f"q{i}", "question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(count)]


# ------------------------------------------------------------------------------------------------------------- finding


def test_file_folder_glob_and_list(tmp_path: Path, take: Take) -> None:
    write_lines(tmp_path / "a/one.jsonl", questions(2))
    write_lines(tmp_path / "a/deep/two.jsonl", questions(3))
    write_lines(tmp_path / "a/.hidden.jsonl", questions(50))
    assert len(take(jsonl="a/one.jsonl").rows) == 2
    assert len(take(jsonl="a").rows) == 5
    assert len(take(jsonl="a/**/*.jsonl").rows) == 5
    assert len(take(jsonl=["a/one.jsonl", "a/deep/two.jsonl", "a/one.jsonl"]).rows) == 5


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"jsonl": "data/trian.jsonl"}, "Did you mean .*train.jsonl"),
        ({"parquet": "data"}, "has no files ending in .parquet"),
        ({"parquet": "data/*.parquet"}, "no file matches"),
        ({"parquet": "nowhere/x.parquet"}, "nowhere does not exist"),
        ({"jsonl": "data/train.jsonl", "image_folder": "pictures"}, "there is no such folder"),
        ({"generator": "no_such_module:f", "count": 1}, "cannot be imported"),
        ({"generator": "json:dump_all", "count": 1}, "no function 'dump_all'.*Did you mean 'dump"),
        ({"generator": "json", "count": 1}, "must be package.module:function"),
    ],
)
def test_what_cannot_be_opened_is_named(tmp_path: Path, source: dict[str, Any], said: str) -> None:
    write_lines(tmp_path / "data/train.jsonl", questions(1))
    with pytest.raises(SourceError, match=said):
        open_source(Source.model_validate({"name": "s", **source}), recipe_dir=tmp_path, workspace=tmp_path)


# ---------------------------------------------------------------------------------------------------------- JSON Lines


def test_a_broken_line_does_not_end_the_file(tmp_path: Path, take: Take) -> None:
    (tmp_path / "x.jsonl").write_bytes(
        b'\xef\xbb\xbf{"question": "one"}\n'
        b"\n"
        b'{"question": "two"\n'
        b'[{"question": "a list"}]\n'
        b'{"question": "caf\xe9"}\r\n'
        b'{"question": 5}\r\n' + b'{"question": ' + b"9" * 5000 + b"}\n" + b'{"a":' * 20_000 + b"\n"
        b'{"question": "last, without an end of line"}'
    )
    outcome = take(jsonl="x.jsonl")
    assert outcome.column("question") == ["one", "5", "last, without an end of line"]
    assert outcome.index == [0, 5, 8]
    assert outcome.reasons() == ["bad_json"] * 5
    assert [bad.index for bad in outcome.broken] == [2, 3, 4, 6, 7]
    assert all(bad.raw for bad in outcome.broken)
    assert "not UTF-8" in outcome.broken[2].sentence


def test_what_is_said_does_not_depend_on_the_place(tmp_path: Path, take: Take) -> None:
    """Sentences and evidence are part of a version; the number of a line is not."""
    good, bad = json.dumps({"question": "fine"}), '{"question": broken}'
    (tmp_path / "x.jsonl").write_text(f"{bad}\n{good}\n")
    (tmp_path / "y.jsonl").write_text(f"{good}\n{good}\n{good}\n{bad}\n")
    first, second = take(jsonl="x.jsonl").broken[0], take(jsonl="y.jsonl").broken[0]
    assert (first.sentence, first.evidence, first.raw) == (second.sentence, second.evidence, second.raw)
    assert (first.index, second.index) == (0, 3)


def test_a_json_array_is_no_json_lines(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(questions(3), indent=1))
    config = Source.model_validate({"name": "s", "jsonl": "x.jsonl"})
    with pytest.raises(SourceError, match=r"one JSON array.*\n.*jq -c"):
        open_source(config, recipe_dir=tmp_path, workspace=tmp_path).schema()


def test_gzip(tmp_path: Path, take: Take) -> None:
    text = "".join(json.dumps(record) + "\n" for record in questions(30)).encode()
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(text))
    assert len(take(jsonl="x.jsonl.gz").rows) == 30
    assert len(take(jsonl="x.jsonl.gz", limit=7).rows) == 7
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(text)[:-20])
    with pytest.raises(SourceError, match=r"damaged gzip file.*\n?.*download it"):
        take(jsonl="x.jsonl.gz")


@pytest.mark.parametrize("size", [50, 333, 10_000])
def test_parts_of_lines_tell_every_line_once(
    tmp_path: Path, take: Take, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    records = [{"question": f"{i} " + "x" * random.Random(i).randrange(200)} for i in range(300)]
    write_lines(tmp_path / "x.jsonl", records)
    monkeypatch.setattr("curation.sources.jsonl.BATCH_BYTES", size)
    outcome = take(jsonl="x.jsonl")
    assert outcome.column("question") == [record["question"].strip() for record in records]
    assert outcome.index == list(range(300))


def test_an_empty_file_has_no_rows(tmp_path: Path, take: Take) -> None:
    (tmp_path / "x.jsonl").write_text("")
    assert take(jsonl="x.jsonl").rows == []
    assert take(jsonl="x.jsonl", columns={"question": "text"}).rows == []


def test_a_key_that_only_late_records_have(tmp_path: Path, take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curation.sources.jsonl.LINES", 2)
    write_lines(tmp_path / "x.jsonl", [*questions(4), {"question": "why?", "level": 3, "extra": {"deep": [1]}}])
    outcome = take(jsonl="x.jsonl", columns={"solution": "extra.deep", "meta": ["level"]})
    assert outcome.column("meta") == ["{}"] * 4 + ['{"level": 3}']
    assert outcome.column("solution") == [None] * 4 + ["[1]"]


# ------------------------------------------------------------------------------------------------------------- Parquet


def test_a_parquet_file_cut_in_half(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(questions(1000)), tmp_path / "x.parquet")
    data = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(data[: len(data) // 2])
    config = Source.model_validate({"name": "s", "parquet": "x.parquet"})
    with pytest.raises(SourceError, match=r"x.parquet cannot be read as Parquet.*\n.*download it again"):
        open_source(config, recipe_dir=tmp_path, workspace=tmp_path).parts()


def test_a_parquet_file_damaged_inside(tmp_path: Path, take: Take) -> None:
    pq.write_table(pa.Table.from_pylist(questions(5000)), tmp_path / "x.parquet", compression="zstd")
    data = bytearray((tmp_path / "x.parquet").read_bytes())
    data[200 : len(data) // 2] = bytes(len(data) // 2 - 200)
    (tmp_path / "x.parquet").write_bytes(data)
    with pytest.raises(SourceError, match=r"x.parquet is damaged after record"):
        take(parquet="x.parquet")


@pytest.mark.parametrize("group", [7, 100, 1000])
@pytest.mark.parametrize("most", [500, 4_000, 1 << 26])
def test_parts_of_parquet_tell_every_row_once(
    tmp_path: Path, take: Take, monkeypatch: pytest.MonkeyPatch, group: int, most: int
) -> None:
    pq.write_table(pa.Table.from_pylist(questions(1000)), tmp_path / "x.parquet", row_group_size=group)
    monkeypatch.setattr("curation.sources.parquet.BATCH_BYTES", most)
    config = Source.model_validate({"name": "s", "parquet": "x.parquet"})
    parts = open_source(config, recipe_dir=tmp_path, workspace=tmp_path).parts()
    assert pickle.loads(pickle.dumps(parts)) == parts
    assert (len(parts) > 1) == (most < 1 << 26)
    outcome = take(parquet="x.parquet")
    assert outcome.column("id") == [f"q{i}" for i in range(1000)] and outcome.index == list(range(1000))
    assert take(parquet="x.parquet", limit=123).column("id") == [f"q{i}" for i in range(123)]


def test_files_with_missing_and_extra_columns(tmp_path: Path, take: Take) -> None:
    pq.write_table(pa.table({"question": ["a"], "answer": [1], "source": ["x"]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"question": ["b"], "level": [2.5]}), tmp_path / "2.parquet")
    pq.write_table(pa.table({"question": ["c"], "answer": ["text"]}), tmp_path / "3.parquet")
    outcome = take(parquet=".", columns={"answer": "answer", "meta": "rest"})
    assert outcome.column("answer") == ["1", None, "text"]
    assert outcome.column("meta") == ['{"source": "x"}', '{"level": 2.5}', "{}"]


def test_only_the_columns_that_are_read(tmp_path: Path) -> None:
    table = pa.table({"question": ["a", "b"], "big": ["x" * 1000] * 2, "level": [1, 2], "extra": [{"k": 1}] * 2})
    pq.write_table(table, tmp_path / "x.parquet")
    config = Source.model_validate(
        {"name": "s", "parquet": "x.parquet", "where": "Level > 1", "columns": {"meta": ["extra.k"]}}
    )
    reader = open_source(config, recipe_dir=tmp_path, workspace=tmp_path)
    assert reader.schema().names == ["question", "big", "level", "extra"]
    raw = next(iter(reader.read(reader.parts()[0])))
    assert raw.table.column_names == ["question", "level", "extra"]
    assert raw.index.tolist() == [1]


def test_text_that_is_not_utf8(tmp_path: Path, take: Take) -> None:
    wrong = pa.array([b"fine", b"caf\xe9", None], pa.binary()).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"question": wrong, "id": ["1", "2", "3"]}), tmp_path / "x.parquet")
    outcome = take(parquet="x.parquet")
    assert outcome.column("question") == ["fine", "caf\ufffd"]
    assert outcome.reasons() == ["no_question"]


# ----------------------------------------------------------------------------------------------------------- generators


def test_a_generator(tmp_path: Path, take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tasks.py").write_text(
        "def add(index, top=10):\n"
        "    if index == 5:\n"
        "        raise ValueError('five is missing')\n"
        "    a = index * 7919 % top\n"
        "    return {'question': f'{a} + 1 = ?', 'answer': a + 1, 'level': index % 3}\n"
    )
    monkeypatch.setattr("curation.sources.generator.CHUNK", 4)
    source = {"generator": "tasks.py:add", "count": 12, "args": {"top": 100}, "columns": {"meta": ["level"]}}
    outcome = take(**source)
    assert len(outcome.rows) == 11 and outcome.index == [i for i in range(12) if i != 5]
    assert outcome.rows[1]["answer"] == "20" and outcome.rows[1]["meta"] == '{"level": 1}'
    assert outcome.reasons() == ["generator_failed"] and "five is missing" in outcome.broken[0].sentence
    assert take(**source, limit=3).rows == outcome.rows[:3]
    with pytest.raises(SourceError, match=r"cannot be called with an index and these `args`.*bottom"):
        take(generator="tasks.py:add", count=1, args={"bottom": 1})
    config = Source.model_validate({"name": "s", **source})
    assert [p.name for p in open_source(config, recipe_dir=tmp_path, workspace=tmp_path).inputs()] == ["tasks.py"]
