"""From upstream records to rows: every type of answer, choices in all their shapes, pictures, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation.images import ImageStore

Take = Callable[..., Any]


def png(path: Path, seed: int = 0, kind: str = "PNG") -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, kind)
    return path.read_bytes()


def write(path: Path, records: list[Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ---------------------------------------------------------------------------------------------------------------- text


def test_answers_of_all_types_in_json(tmp_path: Path, take: Take) -> None:
    values = [None, "", "  ", float("nan"), ["C"], [1, 2.5], True, 7, 7.0, 0.1, {"a": None}, "text", "[1]", 10**30]
    write(tmp_path / "x.jsonl", [{"question": "q", "answer": value} for value in values] + [{"question": "q"}])
    texts = ['["C"]', "[1, 2.5]", "true", "7", "7.0", "0.1", '{"a": null}', "text", "[1]", str(10**30)]
    assert take(jsonl="x.jsonl").column("answer") == [None, None, None, None, *texts, None]


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pa.array([1, None, -3]), ["1", None, "-3"]),
        (pa.array([1.0, float("nan"), 0.25]), ["1", None, "0.25"]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array([["a"], [], None]), ['["a"]', "[]", None]),
        (pa.array([{"x": 1}, {"x": None}, None]), ['{"x": 1}', '{"x": null}', None]),
        (pa.array(["a", " ", "b\u00a0"]).dictionary_encode(), ["a", None, "b"]),
        (pa.array(["a", "", None], pa.large_string()), ["a", None, None]),
        (pa.nulls(3), [None] * 3),
    ],
)
def test_answers_of_all_types_in_parquet(tmp_path: Path, take: Take, column: pa.Array, texts: list[str | None]) -> None:
    pq.write_table(pa.table({"question": ["q"] * 3, "answer": column}), tmp_path / "x.parquet")
    assert take(parquet="x.parquet").column("answer") == texts


def test_hard_texts_pass(tmp_path: Path, take: Take) -> None:
    hard = ["x" * (1 << 20), "a\0b", "مرحبا \u202e abc", "one\r\ntwo\rthree\nfour\u2028five", "\U0001f600", "e\u0301"]
    write(tmp_path / "x.jsonl", [{"question": text} for text in [*hard, "lone \ud83d surrogate"]])
    assert take(jsonl="x.jsonl").column("question") == [*hard, "lone \ufffd surrogate"]


def test_a_question_must_be_there(tmp_path: Path, take: Take) -> None:
    write(tmp_path / "x.jsonl", [{"question": " \n"}, {"question": None}, {"other": 1}, {"question": "q"}])
    outcome = take(jsonl="x.jsonl")
    assert outcome.column("question") == ["q"] and outcome.reasons() == ["no_question"] * 3
    outcome = take(jsonl="x.jsonl", require=["question", "answer", "choices", "images"])
    assert outcome.reasons() == ["no_question"] * 3 + ["no_answer"]
    assert len({bad.raw for bad in outcome.broken}) == 4


def test_cutting_and_joining(tmp_path: Path, take: Take) -> None:
    record = {
        "Body": "Tom has 3 apples.",
        "Question": "How many?",
        "answer": "3 + 4 = <<3+4=7>>7 #### 5\n#### 1,007 ",
        "solution": r"so \boxed{1}, no: $\boxed{\frac{1}{2^{n}}}$ and \boxed{broken",
        "info": {"unit": {"name": "cm"}, "parts": [{"value": "first"}, {"value": "second"}]},
    }
    write(tmp_path / "x.jsonl", [record, {**record, "Body": None, "answer": "no mark", "solution": "none"}])
    columns = {"question": ["Body", "Question"], "answer": {"after": "####"}, "solution": {"boxed": True}}
    outcome = take(jsonl="x.jsonl", columns=columns)
    assert outcome.column("question") == ["Tom has 3 apples. How many?", "How many?"]
    assert outcome.column("answer") == ["1,007", None]
    assert outcome.column("solution") == [r"\frac{1}{2^{n}}", None]
    columns = {"question": "info.parts.1.value", "answer": "info.unit.name", "license": {"value": "MIT"}}
    columns["solution"] = {"from": "answer", "before": "####"}
    row = take(jsonl="x.jsonl", columns=columns).rows[0]
    assert [row[k] for k in ("question", "answer", "license")] == ["second", "cm", "MIT"]
    assert row["solution"] == "3 + 4 = <<3+4=7>>7"
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "x.parquet")
    row = take(parquet="x.parquet", columns={**columns, "id": "info.parts.7.value"}).rows[0]
    assert [row[k] for k in ("question", "answer", "id")] == ["second", "cm", None]


def test_meta(tmp_path: Path, take: Take) -> None:
    record = {"question": "q", "level": 3, "none": None, "deep": {"a": [1, "x"]}, "text": '{"year": 2010}'}
    write(tmp_path / "x.jsonl", [record])
    rest = json.loads(take(jsonl="x.jsonl", columns={"meta": "rest"}).rows[0]["meta"])
    assert rest == {"level": 3, "deep": {"a": [1, "x"]}, "text": '{"year": 2010}'}
    chosen = take(jsonl="x.jsonl", columns={"meta": ["level", "deep.a", "text.year"]}).rows[0]["meta"]
    assert json.loads(chosen) == {"level": 3, "a": [1, "x"], "year": 2010}
    assert take(jsonl="x.jsonl").rows[0]["meta"] is None
    table = {name: pa.array([value]) for name, value in record.items() if name != "deep"}
    table |= {"deep": pa.array([{"a": [1, 2]}]), "picture": pa.array([b"\x00\xff"])}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    rest["deep"] = {"a": [1, 2]}
    assert json.loads(take(parquet="x.parquet", columns={"meta": "rest"}).rows[0]["meta"]) == rest


def test_where_and_limit(tmp_path: Path, take: Take) -> None:
    write(tmp_path / "x.jsonl", [{"question": f"q{i}", "level": i} for i in range(10)])
    outcome = take(jsonl="x.jsonl", where="level::int % 2 = 0", columns={"meta": ["level"]})
    assert outcome.index == [0, 2, 4, 6, 8] and outcome.rows[1]["meta"] == '{"level": 2}'
    assert take(jsonl="x.jsonl", where="level::int % 2 = 0", limit=5).index == [0, 2, 4]


# -------------------------------------------------------------------------------------------------------------- choices


@pytest.mark.parametrize(
    ("value", "choices"),
    [
        (["x", "y"], ["x", "y"]),
        ([1, 2.5, True], ["1", "2.5", "true"]),
        (["A)21", "B)34"], ["21", "34"]),
        (["(A) yes", "(B) no"], ["yes", "no"]),
        (["A)A)59", "B)B)69"], ["59", "69"]),
        (["B. two", "A. one", "C. three"], ["one", "two", "three"]),
        (["A) one", "C) three"], ["A) one", "C) three"]),
        (["A) one", "two"], ["A) one", "two"]),
        (["A", "B", "C"], ["A", "B", "C"]),
        (["A)", "B)"], ["A)", "B)"]),
        ({"label": ["B", "A"], "text": ["two", "one"]}, ["one", "two"]),
        ({"label": ["1", "2", "10"], "text": ["a", "b", "c"]}, ["a", "b", "c"]),
        ({"B": "two", "A": "one"}, ["one", "two"]),
        ('["x", "y"]', ["x", "y"]),
        ("['it''s', \"y\"]", ["its", "y"]),
        ("A) x\nB) y\n", ["x", "y"]),
        ([], None),
        ([None, None], None),
        (None, None),
    ],
)
def test_choices(tmp_path: Path, take: Take, value: Any, choices: list[str] | None) -> None:
    write(tmp_path / "x.jsonl", [{"question": "q", "choices": value}, {"question": "r", "choices": ["other"]}])
    assert take(jsonl="x.jsonl").column("choices") == [choices, ["other"]]


def test_a_column_for_each_choice(tmp_path: Path, take: Take) -> None:
    write(tmp_path / "x.jsonl", [{"question": "q", "A": "x", "B": 2, "C": None}])
    assert take(jsonl="x.jsonl", columns={"choices": ["A", "B", "C"]}).column("choices") == [["x", "2"]]


# --------------------------------------------------------------------------------------------------------------- images


def test_pictures_of_every_shape(tmp_path: Path, take: Take) -> None:
    data = png(tmp_path / "img/a.png")
    jpeg = png(tmp_path / "img/wrong.png", 1, "JPEG")
    text = base64.b64encode(data).decode()
    shapes: list[Any] = [
        "img/a.png",
        ["img/a.png"],
        {"bytes": None, "path": "img/a.png"},
        [{"path": "img/a.png"}],
        {"bytes": text},
        f"data:image/png;base64,{text}",
        [f"data:image/png;base64,{text}"],
        text,
        '["img/a.png"]',
        "./img/../img/a.png",
    ]
    write(tmp_path / "x.jsonl", [{"question": "q", "image": shape} for shape in [*shapes, "img/wrong.png", None, []]])
    outcome = take(jsonl="x.jsonl")
    assert outcome.broken == []
    assert outcome.column("images") == [[name(data)]] * len(shapes) + [[name(jpeg)], [], []]
    assert outcome.column("question")[0] == "<image>\nq" and outcome.column("question_raw")[0] == "q"
    assert outcome.column("question")[-1] == "q" and outcome.column("question_raw")[-1] is None
    assert ("wrong.png", name(jpeg)) in outcome.files
    assert ImageStore(tmp_path / "ws").index()["format"].to_pylist().count("JPEG") == 1


def test_pictures_in_parquet(tmp_path: Path, take: Take) -> None:
    one, two = png(tmp_path / "one.png", 1), png(tmp_path / "sub/two.png", 2)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "question": ["first", "second"],
        "images": pa.array(
            [[{"bytes": one, "path": "x.jpg"}, {"bytes": None, "path": "two.png"}], None], pa.list_(kind)
        ),
        "extra": pa.array([None, two], pa.binary()),
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    outcome = take(parquet="x.parquet", image_folder="sub", columns={"images": ["images", "extra"]})
    assert outcome.column("images") == [[name(one), name(two)], [name(two)]]


def test_relative_pictures_begin_at_the_file(tmp_path: Path, take: Take) -> None:
    one, two = png(tmp_path / "a/p.png", 1), png(tmp_path / "b/p.png", 2)
    for folder in ("a", "b"):
        write(tmp_path / folder / "x.jsonl", [{"question": folder, "image": "p.png"}])
    assert take(jsonl="*/x.jsonl").column("images") == [[name(one)], [name(two)]]


def test_paths_may_not_leave_the_folder(tmp_path: Path, take: Take) -> None:
    png(tmp_path / "secret.png")
    png(tmp_path / "data/fine.png")
    (tmp_path / "data/link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "data/out").symlink_to(tmp_path)
    (tmp_path / "data/inside.png").symlink_to(tmp_path / "data/fine.png")
    bad = ["../../../../../../etc/passwd", "/etc/passwd", "../secret.png", "link.png", "out/secret.png", "a\0b"]
    bad.append(str(tmp_path / "data/fine.png"))
    write(tmp_path / "data/x.jsonl", [{"question": "q", "image": path} for path in [*bad, "fine.png", "inside.png"]])
    outcome = take(jsonl="data/x.jsonl")
    assert outcome.reasons() == ["image_path"] * len(bad) and len(outcome.rows) == 2
    assert {file for file, _ in outcome.files} == {"fine.png"}


def test_pictures_that_are_missing_or_bad(tmp_path: Path, take: Take) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(png(tmp_path / "whole.png")[:300])
    (tmp_path / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    names = ["gone.png", "empty.png", "cut.png", "drawing.svg", "folder", "pipe", "https://example.org/a.png"]
    records = [{"question": "q", "images": ["whole.png", each]} for each in names]
    write(tmp_path / "x.jsonl", [*records, {"question": "q", "images": [{}]}, {"question": "q", "images": 5}])
    outcome = take(jsonl="x.jsonl")
    expected = ["missing", "empty", "broken", "format", *["missing"] * 5]
    assert outcome.reasons() == [f"image_{why}" for why in expected] and outcome.rows == []
    assert ("gone.png", None) in outcome.files
    assert all(bad.sentence.endswith(".") and str(tmp_path) not in bad.sentence for bad in outcome.broken)


def test_marks_and_pictures_must_agree(tmp_path: Path, take: Take) -> None:
    one, two = png(tmp_path / "1.png", 1), png(tmp_path / "2.png", 2)
    both = ["1.png", "2.png"]
    records = [
        {"question": "<image 2> or <image 1>?", "images": both},
        {"question": "<image>", "images": both},
        {"question": "<image1> <image2>", "images": ["1.png"]},
        {"question": "Which? <image_1>", "choices": ["<image_2>", "none"], "images": both},
    ]
    write(tmp_path / "x.jsonl", records)
    outcome = take(jsonl="x.jsonl")
    assert outcome.index == [0, 3] and outcome.reasons() == ["image_marks"] * 2
    assert outcome.rows[0]["question"] == "<image> or <image>?" and outcome.rows[0]["images"] == [name(two), name(one)]
    assert outcome.rows[0]["question_raw"] == "<image 2> or <image 1>?"
    assert outcome.rows[1]["choices"] == ["<image>", "none"]
    assert take(jsonl="x.jsonl", image_marks="combined").index == [0, 2, 3]
    assert take(jsonl="x.jsonl", image_marks="ignore").index == [0, 1, 2, 3]
    write(tmp_path / "text.jsonl", [{"question": "See <image>."}, {"question": "1 < 2"}])
    assert take(jsonl="text.jsonl").reasons() == ["image_marks"]


# -------------------------------------------------------------------------------------------------- real and re-sharded


def test_resharding_changes_no_row(tmp_path: Path, take: Take) -> None:
    png(tmp_path / "p.png")
    answers: list[Any] = [1, "1", 1.5, None, ["x"], True, {"k": 1}]
    records = [
        {"id": i, "question": f"q{i % 50}", "answer": answers[i % 7], "note": answers[-i % 7]} for i in range(200)
    ]
    records[60] |= {"image": "p.png"}
    records[61] |= {"image": "gone.png"}
    records[62] |= {"question": ""}
    (tmp_path / "whole").mkdir()
    write(tmp_path / "whole/x.jsonl", records)
    for i, cut in enumerate(range(0, 200, 23)):
        write(tmp_path / f"part-{9 - i}.jsonl", records[cut : cut + 23][::-1])
    source = {"columns": {"meta": "rest"}, "image_folder": "."}
    whole, parts = take(jsonl="whole/x.jsonl", **source), take(jsonl="part-*.jsonl", **source)
    key = json.dumps
    assert sorted(map(key, whole.rows)) == sorted(map(key, parts.rows)) and len(whole.rows) == 198
    said = [sorted((b.reason, b.sentence, key(b.evidence), b.raw) for b in o.broken) for o in (whole, parts)]
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("file", "rows", "reasons", "how"),
    [
        ("text/gsm8k.parquet", 7473, [], "agree"),
        ("text/math.parquet", 12474, [], "agree"),
        ("text/aqua.parquet", 508, [], "agree"),
        ("multimodal/gaokao_mm.parquet", 114, [], "agree"),
        ("multimodal/theoremqa.parquet", 800, [], "agree"),
        ("multimodal/mathv_extra.parquet", 103, ["image_marks"] * 13, "agree"),
        ("multimodal/mathv_extra.parquet", 116, [], "combined"),
        ("multimodal/nlvr.parquet", 1200, [], "agree"),
        ("multimodal/geometry3k/records.jsonl", 57, ["image_missing"], "agree"),
    ],
)
def test_real_records(data_dir: Path, take: Take, file: str, rows: int, reasons: list[str], how: str) -> None:
    path = data_dir / file
    place = "parquet" if path.suffix == ".parquet" else "jsonl"
    outcome = take(**{place: str(path)}, image_marks=how, columns={"meta": "rest"})
    assert (len(outcome.rows), outcome.reasons()) == (rows, reasons)
    for row in outcome.rows:
        marks = sum(text.count("<image>") for text in (row["question"], *(row["choices"] or ())))
        assert marks == len(row["images"])
        assert row["choices"] is None or not row["choices"][0].startswith("A)")
