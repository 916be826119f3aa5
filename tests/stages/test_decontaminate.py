"""decontaminate in whole builds: what leaks, what only looks like it, what it says of itself; and the known truths."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from pydantic import ValidationError

from curation import build, plan, stages
from curation.recipe.editor import recipe_schema
from curation.similarity import planted
from curation.similarity.benchmarks import NAMED, benchmark_source, read_benchmarks
from curation.stages.base import Context
from curation.stages.decontaminate import Decontaminate
from curation.versions import Version
from schemas.errors import RecipeError, SourceError
from schemas.recipe import Source

STAGE = stages.load()["decontaminate"]

ITEMS = [
    {"id": "train", "question": "A train leaves the old station at 9 o'clock and runs 70 miles an hour. How far is it at noon?", "answer": "210"},
    {"id": "latex", "question": "For which $x \\leq 3$ is $\\dfrac{1}{2} x^2 - 4x + 6 = 0$ true, and what is $90^\\circ - x$ then?", "answer": "88"},
    {"id": "short", "question": "Simplify the number $\\sqrt{242}$ fully.", "answer": "11\\sqrt{2}"},
    {"id": "options", "question": "Which of these numbers is both a prime and one more than a square?", "choices": ["9", "17", "21"], "answer": "B"},
    {"id": "generic", "question": "Which of the following is true?", "choices": ["All cats are grey.", "No cat is grey.", "Cats differ."], "answer": "C"},
]  # fmt: skip

Build = Callable[..., Version]


@pytest.fixture
def made(tmp_path: Path) -> Build:
    """`made(rows, items)` builds a version of rows and one decontaminate stage against items, in files of JSON Lines."""

    def make(
        rows: list[dict[str, Any]], items: list[dict[str, Any]] = ITEMS, workers: int = 1, **options: Any
    ) -> Version:
        for name, records in (("rows", rows), ("bench", items)):
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            (tmp_path / f"{name}.jsonl").write_text(text)
        recipe = {
            "name": "made",
            "sources": [{"jsonl": "rows.jsonl", "require": []}],
            "stages": [{"stage": "decontaminate", "against": [{"jsonl": "bench.jsonl"}], "measure": 0, **options}],
            "outputs": [{"export": "sft", "responses": "solution", "where": "solution is not null"}, {"export": "rl"}],
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return build(tmp_path / "recipe.yaml", workspace=tmp_path / "ws", workers=workers)

    return make


CLEAN = {"id": "clean", "question": "How many sides does a hexagon have in the plane?", "answer": "6"}


def said(version: Version) -> dict[str, tuple[str, str, str]]:
    """id -> (kind, rule, item) of rows that have something in common with an item, dropped or not."""
    decisions = pl.read_parquet(version.files("decisions"))
    lines = decisions.select("row_id", "id", "benchmark_overlap").to_dicts()
    fates = version.ledger().filter(pl.col("stage") == "decontaminate").select("row_id", "evidence")
    dropped = dict(fates.iter_rows())
    found = {}
    for line in lines:
        if text := dropped.get(line["row_id"]) or line["benchmark_overlap"]:
            proof = json.loads(text)
            found[line["id"]] = (proof["kind"], proof["rule"], proof["item"])
    return found


def notes(version: Version) -> dict[str, Any]:
    return next(stage["notes"] for stage in version.manifest["stages"] if stage["kind"] == "decontaminate")


# ---------------------------------------------------------------------------------------------------------------- leaks


def test_disguises_of_an_item_are_leaks_and_other_numbers_are_siblings(made: Build) -> None:
    train, latex, short = (item["question"] for item in ITEMS[:3])
    rows = [
        CLEAN,
        {"id": "verbatim", "question": train, "answer": None},
        {"id": "wrapped", "question": train.replace(" ", "\n"), "answer": "1"},
        {"id": "upper", "question": train.upper(), "answer": None},
        {"id": "inside", "question": f"Please solve this for my sister and explain it well. {train} Thank you so much!", "answer": None},
        {"id": "respelt", "question": latex.replace("\\dfrac{1}{2}", "\\frac12").replace("\\leq", "≤").replace("^\\circ", "°").replace("$", ""), "answer": None},
        {"id": "fuzzy", "question": train.replace("station", "depot"), "answer": "210"},
        {"id": "other number", "question": train.replace("70", "80"), "answer": "240"},
        {"id": "other word", "question": train.replace("station", "depot").replace("train", "bus"), "answer": "211"},
        {"id": "other sign", "question": latex.replace("- 4x", "+ 4x"), "answer": "93"},
        {"id": "short", "question": "simplify the number $\\sqrt{242}$ fully", "answer": None},
        {"id": "short inside", "question": f"This is the first of my exercises, and I do not understand it at all: {short}", "answer": "11\\sqrt2"},
    ]  # fmt: skip
    version = made(rows)
    kinds = {name: found[0] for name, found in said(version).items()}
    assert {name for name, kind in kinds.items() if kind == "leak"} == {
        "verbatim", "wrapped", "upper", "inside", "respelt", "fuzzy", "short", "short inside",
    }  # fmt: skip
    assert {name for name, kind in kinds.items() if kind == "sibling"} == {"other number", "other word", "other sign"}
    assert version.manifest["counts"]["kept"] + version.manifest["counts"]["dropped"] == len(rows)
    dropped = version.ledger().filter(pl.col("stage") == "decontaminate")
    assert set(dropped["reason"]) == {"benchmark_leak"}
    everything = " ".join(dropped["evidence"].to_list() + dropped["sentence"].to_list())
    assert "station" not in everything and "sqrt" not in everything, "the ledger has ids and spans, never texts"
    gone = made(rows, siblings="drop").ledger().filter(pl.col("reason") == "benchmark_sibling")
    assert gone.height == 3


def test_a_version_for_rl_is_held_apart_from_the_one_for_sft(tmp_path: Path) -> None:
    """From one pool of rows: by id, also where the text has changed since; and near duplicates from other sources."""
    train = ITEMS[0]["question"]
    pool = [CLEAN, *ITEMS[:3]]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pool))
    near = [
        {"id": "near", "question": train.replace(" ", "\n"), "answer": "210"},
        {"id": "sibling", "question": train.replace("70", "80"), "answer": "240"},
    ]
    (tmp_path / "near.jsonl").write_text("".join(json.dumps(row) + "\n" for row in near))
    for name, sources, steps in (
        ("pool", [{"jsonl": "pool.jsonl"}], []),
        ("sft", [{"version": "pool"}], [{"stage": "filter", "where": "length(question) > 80", "reason": "short"}]),
        (
            "rl", [{"version": "pool"}, {"jsonl": "near.jsonl"}],
            [
                {"stage": "sql", "query": "select row_id, if(id = 'latex', 'What then?', question) as question from rows"},
                {"stage": "decontaminate", "against": [{"version": "sft"}]},
            ],
        ),
    ):  # fmt: skip
        recipe = {"name": name, "sources": sources, "stages": steps, "outputs": [{"export": "rl"}]}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        version = build(tmp_path / f"{name}.yaml", workspace=tmp_path / "ws", workers=1)
    assert {id_: (kind, rule) for id_, (kind, rule, _) in said(version).items()} == {
        "train": ("leak", "same"), "latex": ("leak", "same"), "near": ("leak", "whole"), "sibling": ("sibling", "numbers"),
    }  # fmt: skip
    assert sorted(version.rows()["id"]) == ["clean", "short", "sibling"]
    with pytest.raises(RecipeError, match="'v9' is neither a tag nor an id of sft"):
        plan(tmp_path / "rl.yaml", set=["stages.decontaminate.against=[{version: sft@v9}]"], workspace=tmp_path / "ws")
    told = notes(version)
    sft = f"sft@{told['benchmarks']['sft']['version'].partition('@')[2]}"
    assert told["benchmarks"]["sft"] == {"items": 2, "version": sft} and told["recall"]["embedded"]["recall"] == 1.0
    reasons = dict(version.ledger().filter(pl.col("stage") == "decontaminate").select("reason", "sentence").iter_rows())
    assert set(reasons) == {"version_leak"}
    assert f"It is in {sft} already." in "\n".join(version.why("latex").lines)
    near = version.why("near").lines
    assert f"of {sft}." in "\n".join(near) and "its answer: 210" in "\n".join(near)


def test_spans_say_where_the_overlap_is(made: Build) -> None:
    row = {"id": "x", "question": f"Straße: {ITEMS[0]['question']} Bitte!", "answer": None}
    version = made([CLEAN, row])
    evidence = json.loads(version.ledger().filter(pl.col("stage") == "decontaminate")["evidence"][0])
    ((begin, end, item_begin, item_end),) = evidence["spans"]
    assert row["question"].encode()[begin:end].decode() == ITEMS[0]["question"].rstrip("?")
    assert ITEMS[0]["question"].encode()[item_begin:item_end].decode() == ITEMS[0]["question"].rstrip("?")
    story = "\n".join(version.why("x").lines)
    assert "its text: A train leaves the old station" in story and "in common: A train leaves" in story


def test_options_are_a_part_of_the_question(made: Build) -> None:
    options, generic = ITEMS[3], ITEMS[4]
    rows = [
        CLEAN,
        {**options, "id": "shuffled", "choices": ["21", "17", "9"]},
        {"id": "shown", "question": f"{options['question']}\n(A) 17\n(B) 21\n(C) 9", "answer": "A"},
        {**options, "id": "others", "choices": ["5", "15", "4"], "answer": "A"},
        {**generic, "id": "generic others", "choices": ["Two is odd.", "Three is odd.", "Four is odd."], "answer": "B"},
        {**generic, "id": "generic same"},
    ]
    found = said(made(rows))
    assert found["shuffled"][0] == found["shown"][0] == found["generic same"][0] == "leak"
    assert found["others"][0] == "sibling" and found["others"][1] == "options"
    assert found.get("generic others", ("sibling",))[0] == "sibling"


def test_pictures_and_texts_decide_together(made: Build, tmp_path: Path) -> None:
    from PIL import Image, ImageDraw

    (tmp_path / "images").mkdir()
    for name, shift in (("one", 0), ("two", 130)):
        image = Image.new("RGB", (480, 360), "white")
        pen = ImageDraw.Draw(image)
        for bar in range(7):
            pen.rectangle(
                [20 + bar * 60, (shift + bar * 97) % 300, 50 + bar * 60, 350], fill=(30 * bar, 90, 200 - 20 * bar)
            )
        image.save(tmp_path / f"images/{name}.png")
        image.save(tmp_path / f"images/{name}.jpeg", quality=80)
    question = "How high is the third bar of this chart?"
    items = [{"id": "chart", "question": question, "answer": "7", "image": "images/one.png"}]
    rows = [
        {**CLEAN, "image": None},
        {"id": "copy", "question": question, "answer": "7", "image": "images/one.jpeg"},
        {"id": "other chart", "question": question, "answer": "7", "image": "images/two.png"},
        {"id": "other question", "question": "What colour has the last bar in this drawing here?", "answer": "blue", "image": "images/one.jpeg"},
        {"id": "no picture", "question": question, "answer": "7", "image": None},
    ]  # fmt: skip
    columns = {"images": "image"}
    for name, records in (("rows", rows), ("bench", items)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    stage = {"stage": "decontaminate", "against": [{"jsonl": "bench.jsonl", "columns": columns}], "measure": 5}
    recipe = {
        "name": "shown",
        "sources": [{"jsonl": "rows.jsonl", "columns": columns}],
        "stages": [stage],
        "outputs": [{"export": "rl"}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    version = build(tmp_path / "recipe.yaml", workspace=tmp_path / "ws", workers=1)
    found = said(version)
    assert found["copy"][0] == "leak" and found["other chart"][:2] == ("sibling", "other_picture")
    assert found["other question"][0] == "picture" and found.get("no picture", ("sibling",))[0] != "picture"
    assert notes(version)["recall"]["image_re-encoded"] == {"planted": 1, "found": 1, "recall": 1.0}
    recipe["stages"][0]["image"] = {"alone": "drop"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    again = build(tmp_path / "recipe.yaml", workspace=tmp_path / "ws", workers=1)
    assert again.ledger().filter(pl.col("reason") == "benchmark_picture").height == 1
    # A benchmark's picture that changes makes the stage run again.
    Image.new("RGB", (480, 360), "black").save(tmp_path / "images/one.png")
    third = build(tmp_path / "recipe.yaml", workspace=tmp_path / "ws", workers=1)
    assert "copy" not in {name for name, kind in said(third).items() if kind[0] == "leak"}


def test_many_items_with_one_text_and_much_alike_pictures_are_each_found(made: Build, tmp_path: Path) -> None:
    """Ninety puzzles with one question, whose pictures differ in a colour that no difference hash sees."""
    items: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = [CLEAN]
    question = "What is the missing colour of the part denoted with a question mark in this figure?"
    for n in range(90):
        Image.new("RGB", (64, 64), (2 * n, 255 - 2 * n, 40 + n)).save(tmp_path / f"{n}.png")
        record = {
            "question": question,
            "images": [f"{n}.png"],
            "choices": ["red", "blue", f"hue {n % 7}"],
            "answer": "red",
        }
        items.append({"id": f"item {n}", **record})
        rows.append({"id": str(n), **record})
    Image.new("RGB", (64, 64), (255, 0, 255)).save(tmp_path / "other.png")
    rows.append({"id": "another", "question": question, "images": ["other.png"], "answer": "green"})
    found = said(made(rows, items))
    assert {name: item for name, (kind, _, item) in found.items() if kind == "leak"} == {
        str(n): f"item {n}" for n in range(90)
    }


def test_a_source_of_the_recipe_can_be_the_benchmark(tmp_path: Path) -> None:
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    rows = [CLEAN, {"id": "leak", "question": ITEMS[0]["question"], "answer": "1"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "own",
        "sources": [{"jsonl": "held.jsonl"}, {"jsonl": "rows.jsonl"}],
        "stages": [{"stage": "decontaminate", "against": ["held"]}],
        "outputs": [{"export": "rl"}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    version = build(tmp_path / "recipe.yaml", workspace=tmp_path / "ws", workers=1)
    kept = version.rows()
    assert kept.filter(pl.col("source") == "held").height == len(ITEMS) and "leak" not in kept["id"].to_list()


# ----------------------------------------------------------------------------------------------------- it measures itself


def test_recall_and_false_alarms_stand_in_the_manifest_and_the_card(made: Build) -> None:
    version = made([CLEAN], measure=10)
    recall, control = notes(version)["recall"], notes(version)["control"]
    assert {kind: of["planted"] for kind, of in recall.items() if kind != "latex"} == {
        "verbatim": 5, "re-wrapped": 5, "re-cased": 5, "embedded": 5, "options_shuffled": 2,
    }  # fmt: skip
    assert all(
        recall[kind]["recall"] == 1.0 for kind in ("verbatim", "re-wrapped", "re-cased", "latex", "options_shuffled")
    )
    assert control["rows"] > 0 and control["false_alarms"] == 0
    card = (version.path / "README.md").read_text()
    assert "## Decontamination" in card and "| decontaminate | re-cased | 5 | 5 | 100 % |" in card
    assert version.rows().height == 1, "what is planted is never among the rows"


def test_altered_copies_are_what_they_say() -> None:
    text = "Let $f(x) = \\frac{1}{2}x^2$ with $\\left(x \\le 3\\right)$ and $90^\\circ$."
    assert planted.respelt_latex(text) == "Let \\(f(x) = \\dfrac{1}{2}x^{2}\\) with \\((x \\leq 3)\\) and \\(90°\\)."


# ------------------------------------------------------------------------------------------------------------- same result


def test_workers_order_and_cache(made: Build, tmp_path: Path) -> None:
    rows = [
        {"id": str(i), "question": f"{ITEMS[i % 5]['question']} {'Show your work.' * (i % 3)}", "answer": str(i)}
        for i in range(40)
    ]
    first = made([CLEAN, *rows])
    steps = {step["name"]: step["cached"] for step in plan(tmp_path / "recipe.yaml", workspace=tmp_path / "ws").steps}
    assert steps["decontaminate"] is True
    assert made([*rows[::-1], CLEAN], workers=2).id == first.id
    changed = [{**ITEMS[0], "question": "Something else is asked here, and nobody has asked it before?"}, *ITEMS[1:]]
    assert made([CLEAN, *rows], items=changed).id != first.id


def test_hostile_rows_and_items(lab: Any, context: Context, tmp_path: Path) -> None:
    huge = "A train leaves the old station and " * 30_000
    items = [*ITEMS, {"id": "e", "question": ""}, {"id": "n", "question": None}, {"id": "h", "question": huge}, {"id": "rtl", "question": "كم عدد الأضلاع في المثلث القائم الذي رسمناه هنا على الورقة؟"}]  # fmt: skip
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items))
    rows = lab.rows(
        [
            {"question": None}, {"question": ""}, {"question": huge}, {"question": "\x00 \u202e ???"}, {"question": "<image>", "images": ["0" * 64]},
            {"question": "‏كم عدد الأضلاع في المثلث القائم الذي رسمناه هنا على الورقة"}, {"question": "\\" * 50_000}, {"question": "(A) " * 20_000},
        ]
    )  # fmt: skip
    config = Decontaminate.model_validate({"against": [{"jsonl": "bench.jsonl", "require": []}], "measure": 3})
    outcome = lab.all(STAGE, config, rows, context)
    assert set(outcome.fates["row_id"].to_pylist()) == {rows["row_id"][i].as_py() for i in (2, 5)}


def test_broken_pictures_of_a_benchmark_are_quarantined_as_in_any_source(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n not a picture")
    (tmp_path / "rows.jsonl").write_text(json.dumps(CLEAN) + "\n")
    lines = [json.dumps({**ITEMS[0], "id": str(i), "image": "broken.png" if i == 0 else None}) for i in range(30)]
    (tmp_path / "bench.jsonl").write_text("\n".join(lines))
    bench = {"jsonl": "bench.jsonl", "columns": {"images": "image"}}
    recipe = {
        "name": "b",
        "sources": [{"jsonl": "rows.jsonl"}],
        "stages": [{"stage": "decontaminate", "against": [bench]}],
        "outputs": [{"export": "rl"}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    version = build(tmp_path / "recipe.yaml", workspace=tmp_path / "ws", workers=1)
    assert notes(version)["benchmarks"] == {"bench": {"items": 29, "quarantined": 1}}
    bench["max_quarantine"] = 0.01
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(SourceError, match="Source bench is broken: 1 of 30"):
        build(tmp_path / "recipe.yaml", workspace=tmp_path / "ws", workers=1)


# ---------------------------------------------------------------------------------------------------------------- recipes


def problems(tmp_path: Path, **options: Any) -> str:
    (tmp_path / "rows.jsonl").write_text(json.dumps(CLEAN) + "\n")
    recipe = {
        "name": "r",
        "sources": [{"jsonl": "rows.jsonl"}],
        "stages": [{"stage": "decontaminate", **options}],
        "outputs": [{"export": "rl"}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(RecipeError) as error:
        build(tmp_path / "recipe.yaml", workspace=tmp_path / "ws")
    return str(error.value)


def test_mistakes_are_said_before_any_work(tmp_path: Path) -> None:
    assert "`against` is missing in stage decontaminate" in problems(tmp_path)
    text = problems(tmp_path, against=["math-50"])
    assert "there is no benchmark or source 'math-50'" in text and "math-500" in text and "recipe.yaml:" in text
    text = problems(tmp_path, against=[{"jsonl": "nowhere.jsonl"}])
    assert "no file or folder" in text and "nowhere.jsonl" in text
    text = problems(tmp_path, against=[{"jsonl": "rows.jsonl", "columns": {"question": "qestion"}}])
    assert "has no column `qestion`" in text and "`question`" in text
    assert "fuzzy" in problems(tmp_path, against=[{"jsonl": "rows.jsonl"}], text={"fuzzy": 0.95})
    assert "`against` needs at least 1 entry" in problems(tmp_path, against=[])


def test_impossible_options_are_refused() -> None:
    for against in (["gsm8k", "gsm8k"], [{"jsonl": "a/x.jsonl"}, {"jsonl": "b/x.jsonl"}]):
        with pytest.raises(ValidationError):
            Decontaminate.model_validate({"against": against})


def test_named_benchmarks_are_sources_by_repo_and_known_to_the_schema() -> None:
    assert {
        "mathvista",
        "mathvision",
        "mathverse",
        "dynamath",
        "wemath",
        "logicvista",
        "mmmu",
        "mmmu-pro",
        "charxiv",
    } <= set(NAMED)
    assert {"gsm8k", "math-500", "aime24", "aime25"} <= set(NAMED)
    for name in NAMED:
        source = benchmark_source(name)
        assert source is not None and source.hub and "/" in source.hub and source.split
    definitions = recipe_schema()["$defs"]
    assert "ngram" in definitions["LeakText"]["properties"] and "wording" in definitions["DedupText"]["properties"]
    definition = definitions["stage.decontaminate"]
    assert definition["properties"]["against"]["minItems"] == 1


def test_named_benchmarks_read_records_as_they_are_published(tmp_path: Path) -> None:
    """The columns that the datasets' cards and other evaluators' code name, one record each."""
    sink = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(sink, "PNG")
    picture = {"bytes": sink.getvalue(), "path": "p.png"}
    several = {f"image_{n}": picture if n < 3 else None for n in range(1, 8)}
    listed = "['$6', '$7', \"it's 8\"]"
    published: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {  # and id, question, choices, answer, pictures
        "mathvista": ({"pid": "1", "question": "Which?", "image": "images/1.jpg", "decoded_image": picture, "choices": ["a", "b"], "answer": "b", "query": "Hint"}, ("1", "Which?", ["a", "b"], "b", 1)),
        "mathvision": ({"id": "4", "question": "Which? <image1>", "options": ["A", "B"], "image": "images/4.jpg", "decoded_image": picture, "answer": "B", "solution": None, "level": 2}, ("4", "Which?", ["A", "B"], "B", 1)),
        "mathverse": ({"sample_index": "1", "problem_index": "1", "question": "Find x.\nChoices:\nA:1\nB:2", "image": picture, "answer": "B", "query_wo": "…"}, ("1", "Find x.\nChoices:\nA:1\nB:2", None, "B", 1)),
        "dynamath": ({"id": "1", "question_id": "7", "question": "What?", "decoded_image": picture, "ground_truth": "3.0"}, ("1 7", "What?", None, "3.0", 1)),
        "wemath": ({"ID": "3steps_1", "question": "Area?", "option": "A. 1; B. 2", "answer": "A", "image_path": picture}, ("3steps_1", "Area?\nA. 1; B. 2", None, "A", 1)),
        "logicvista": ({"id": "v1", "question": "Which? A or B", "answer": "B", "reasoning": "…", "image": picture}, ("v1", "Which? A or B", None, "B", 1)),
        "mmmu": ({"id": "validation_Art_1", "question": "<image 1> What?", "options": listed, "answer": "B", **several}, ("validation_Art_1", "What?", ["$6", "$7", "it's 8"], "B", 2)),
        "mmmu-pro": ({"id": "test_1", "question": "<image 1> What?", "options": listed, "answer": "B", **several}, ("test_1", "What?", ["$6", "$7", "it's 8"], "B", 2)),
        "mmmu-pro-vision": ({"id": "test_1", "image": picture, "options": listed, "answer": "B"}, ("test_1", "", ["$6", "$7", "it's 8"], "B", 1)),
        "charxiv": ({"original_id": "1", "reasoning_q": "Which line?", "reasoning_a": "red", "image": picture}, (None, "Which line?", None, "red", 1)),
        "gsm8k": ({"question": "How many?", "answer": "2+2=<<2+2=4>>4.\n#### 4"}, (None, "How many?", None, "4", 0)),
        "math-500": ({"problem": "Find $x$.", "solution": "…", "answer": "2", "unique_id": "test/algebra/1.json"}, ("test/algebra/1.json", "Find $x$.", None, "2", 0)),
        "aime24": ({"id": 60, "problem": "Find $x$.", "answer": "204"}, ("60", "Find $x$.", None, "204", 0)),
        "aime25": ({"problem": "Find $x$.", "answer": "70"}, (None, "Find $x$.", None, "70", 0)),
    }  # fmt: skip
    assert published.keys() == NAMED.keys()
    sources = []
    for name, (record, _) in published.items():
        pq.write_table(pa.Table.from_pylist([record]), tmp_path / f"{name}.parquet")
        told = {key: value for key, value in NAMED[name].items() if key not in ("hub", "split", "config")}
        sources.append(Source.model_validate({**told, "parquet": f"{name}.parquet", "name": name}))
    items = read_benchmarks(
        sources, {}, workspace=tmp_path / "ws", recipe_dir=tmp_path, workers=1, memory_limit=1 << 30
    )
    assert items.quarantined == {}
    for item in items.table.to_pylist():
        id_, *told, pictures = published[item["benchmark"]][1]
        question = re.sub(r"<image>\s*", "", item["question"] or "")
        assert [question, item["choices"], item["answer"]] == told and len(item["images"] or ()) == pictures
        assert id_ is None or item["id"] == id_


def test_a_named_benchmark_without_a_network_says_how_to_fetch_it(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(CLEAN) + "\n")
    recipe = {
        "name": "r",
        "sources": [{"jsonl": "rows.jsonl"}],
        "stages": [{"stage": "decontaminate", "against": ["math-500"]}],
        "outputs": [{"export": "rl"}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = subprocess.run(
        [sys.executable, "-m", "curation.cli", "build", str(tmp_path / "recipe.yaml"), "--workspace", str(tmp_path / "ws")],
        capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
    )  # fmt: skip
    assert done.returncode == 2
    assert "hf download HuggingFaceH4/MATH-500 --repo-type dataset" in done.stderr
    assert "math-500" in done.stderr and "nothing was run" in done.stderr


# ----------------------------------------------------------------------------------------------------------- known truths


@pytest.fixture(scope="module")
def against_all(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Seven sets against five benchmarks, all real."""
    folder = tmp_path_factory.mktemp("truths")
    after = {"answer": {"after": "####"}}
    sources: list[dict[str, Any]] = [
        {"parquet": "multimodal/mathv_extra.parquet", "image_marks": "combined"},
        {"parquet": "multimodal/mmk12.parquet"},
        {"jsonl": "multimodal/geometry3k/records.jsonl", "name": "geometry3k"},
        {"parquet": "text/math.parquet"},
        {"parquet": "text/gsm8k.parquet", "columns": after},
        {"parquet": "multimodal/puzzlevqa.parquet"},
    ]
    benchmarks: list[dict[str, Any]] = [
        {"parquet": "benchmark/mathv_testmini.parquet", "image_marks": "combined"},
        {"parquet": "benchmark/dynamath.parquet"},
        {"parquet": "benchmark/mathverse_text_only.parquet"},
        {"parquet": "benchmark/math500.parquet"},
        {"parquet": "benchmark/gsm8k_test.parquet", "columns": after},
    ]
    for source in (*sources, *benchmarks):
        place = "jsonl" if "jsonl" in source else "parquet"
        source[place] = str(data_dir / source[place])
    recipe = {
        "name": "truths",
        "sources": sources,
        "stages": [{"stage": "decontaminate", "against": benchmarks, "measure": 100}],
        "outputs": [{"export": "rl", "where": "answer is not null"}],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return build(folder / "recipe.yaml", workspace=folder / "ws", workers=2)


def test_all_of_math_500_is_found_in_the_math_test_set(against_all: Version) -> None:
    found = said(against_all)
    items = {
        item
        for row, (kind, _, item) in found.items()
        if kind == "leak" and row.startswith("math/test") and item.startswith("math500/")
    }
    assert items == {f"math500/{n}" for n in range(500)}


def test_shared_pictures_of_math_v_and_dynamath_are_found(against_all: Version) -> None:
    found = said(against_all)
    for row, seed in (("mathv/2949", 126), ("mathv/2942", 141), ("mathv/2900", 178), ("mathv/2941", 187)):
        assert found[row][0] in ("sibling", "picture") and found[row][2].startswith(f"dynamath/{seed}/"), row
    for row in ("mathv/2635", "mathv/2637"):
        assert found[row][0] == "sibling" and found[row][2] == "mathv/2636"
    # mathv/38 and dynamath seed 355 are both on the side of the benchmarks; math and mathv share whole problems.
    assert found["geometry3k/1681"][2] == "mathverse/234"
    assert found["math/test/1931"] == ("leak", "inside", "mathv/2984")


def test_shared_openings_are_no_leaks_and_templates_are_siblings(against_all: Version) -> None:
    found = said(against_all)
    assert not [row for row in found if row.startswith(("mmk12", "puzzlevqa"))]
    gsm8k = {row: kind for row, (kind, _, _) in found.items() if row.startswith("gsm8k")}
    assert set(gsm8k.values()) == {"sibling"} and 3 <= len(gsm8k) <= 4


def test_recall_on_real_benchmarks(against_all: Version) -> None:
    recall, control = notes(against_all)["recall"], notes(against_all)["control"]
    for kind in ("verbatim", "re-wrapped", "re-cased", "latex", "options_shuffled"):
        assert recall[kind]["recall"] >= 0.995, kind
    assert recall["embedded"]["recall"] >= 0.98 and recall["image_re-encoded"]["recall"] >= 0.99
    assert control["rate"] < 0.0005
