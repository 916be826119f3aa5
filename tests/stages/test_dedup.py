"""dedup in whole builds: what is merged and into what, what only looks the same, and that nothing hangs on order."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pydantic import ValidationError

from curation import build, stages
from curation.similarity import texts
from curation.similarity.answers import Answer, agreement, answer_of
from curation.similarity.keep import Preference, license_rank
from curation.similarity.pictures import near_pairs
from curation.stages.base import Context
from curation.stages.dedup import Dedup
from curation.versions import Version
from schemas.errors import RecipeError

STAGE = stages.load()["dedup"]

Build = Callable[..., Version]


@pytest.fixture
def made(tmp_path: Path) -> Build:
    """`made(rows, **options)` builds a version of rows (with `source`, by default a) and one dedup stage."""

    def make(rows: list[dict[str, Any]], workers: int = 1, workspace: str = "ws", **options: Any) -> Version:
        names = sorted({row.get("source", "a") for row in rows})
        for name in names:
            own = [{k: v for k, v in row.items() if k != "source"} for row in rows if row.get("source", "a") == name]
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in own))
        recipe = {
            "name": "made",
            "sources": [
                {
                    "name": n,
                    "jsonl": f"{n}.jsonl",
                    "columns": {"images": "image"} if any("image" in r for r in rows) else {},
                }
                for n in names
            ],
            "stages": [{"stage": "dedup", **options}],
            "outputs": [{"export": "rl", "where": "question is not null"}],
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return build(tmp_path / "recipe.yaml", workspace=tmp_path / workspace, workers=workers)

    return make


def kept(version: Version) -> set[str]:
    return set(version.rows()["id"].to_list())


def merged(version: Version) -> dict[str, str]:
    """id of a merged row -> id of the row that it went into."""
    ids = dict(pl.read_parquet(version.files("decisions")).select("row_id", "id").iter_rows())
    rows = version.ledger().filter(pl.col("fate") == "merged").select("row_id", "into").iter_rows()
    return {ids[row]: ids[into] for row, into in rows}


def notes(version: Version) -> dict[str, Any]:
    return next(stage["notes"] for stage in version.manifest["stages"] if stage["kind"] == "dedup")


def figure(path: Path, number: int, kind: str = "PNG", size: tuple[int, int] = (480, 360)) -> str:
    """A drawing with a number of bars; the same for the same number."""
    rng = np.random.default_rng(number)
    image = Image.new("RGB", (480, 360), "white")
    pen = ImageDraw.Draw(image)
    for bar in range(8):
        height = int(rng.integers(40, 320))
        pen.rectangle([bar * 60 + 8, 360 - height, bar * 60 + 48, 356], fill=tuple(rng.integers(0, 200, 3).tolist()))
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    path.parent.mkdir(exist_ok=True, parents=True)
    image.save(path, kind, **({"quality": 75} if kind == "JPEG" else {}))
    return f"{path.parent.name}/{path.name}"


# ----------------------------------------------------------------------------------------------------------- duplicates


def test_formatting_does_not_make_a_question_new(made: Build) -> None:
    version = made(
        [
            {"id": "plain", "question": "What is $\\dfrac{1}{2} + x^2$ when $x \\leq 3$?", "answer": "1/2"},
            {"id": "latex", "question": "what is \\(\\frac12 + x^{2}\\)  when\n\\(x \\le 3\\)", "answer": "0.5"},
            {"id": "unicode", "question": "Find the value of ½ + x² when x ≤ 3.", "answer": "\\frac{1}{2}"},
            {"id": "minus", "question": "What is $\\dfrac{1}{2} - x^2$ when $x \\leq 3$?", "answer": "1/2"},
            {"id": "number", "question": "What is $\\dfrac{1}{2} + x^2$ when $x \\leq 4$?", "answer": "1/2"},
        ]
    )
    assert len(merged(version)) == 1 and merged(version).keys() | merged(version).values() == {"plain", "latex"}
    ledger = version.ledger().filter(pl.col("fate") == "merged")
    evidence = json.loads(ledger["evidence"][0])
    assert evidence["answers"] == "compatible" and evidence["similarity"] == 1.0
    assert ledger["reason"][0] == "duplicate" and "similarity of the texts" in ledger["sentence"][0]


def test_words_that_only_ask_may_differ_unless_exact(made: Build) -> None:
    rows = [
        {"id": "a", "question": "Find the value of x + 17 if x is 25 and nothing else.", "answer": "42"},
        {"id": "b", "question": "What is x + 17 if x is 25 and nothing else?", "answer": "42"},
    ]
    light = made(rows)
    assert len(merged(light)) == 1
    measured = json.loads(light.ledger().filter(pl.col("fate") == "merged")["evidence"][0])["similarity"]
    assert 0.5 < measured < 1
    assert merged(made(rows, text={"wording": "exact"})) == {}


def test_near_wordings_merge_only_where_numbers_and_a_telling_answer_agree(made: Build) -> None:
    base = "A merchant from the old town by the river sells 17 crates of oranges for 34 coins each on market day. How many coins does he get?"
    rows = [
        {"id": "base", "question": base, "answer": "578"},
        {"id": "typo", "question": base.replace("merchant", "mercant"), "answer": "578"},
        {"id": "number", "question": base.replace("17", "18"), "answer": "578"},
        {"id": "answer", "question": base.replace("each", "apiece"), "answer": "17"},
    ]
    assert merged(made(rows)) == {}
    found = merged(made(rows, text={"wording": "near", "threshold": 0.8}))
    assert found in ({"typo": "base"}, {"base": "typo"})


def test_the_answer_is_the_content_of_its_letter(made: Build) -> None:
    question = "Which of these numbers is a prime number greater than two?"
    rows = [
        {"id": "b", "question": question, "choices": ["4", "7", "9"], "answer": "B"},
        {"id": "c", "question": question, "choices": ["9", "4", "7"], "answer": "C"},
        {"id": "shown", "question": f"{question}\nChoices: (A) 7 (B) 9 (C) 4", "answer": "A"},
        {"id": "other", "question": question, "choices": ["6", "8", "7"], "answer": "C"},
    ]
    version = made(rows)
    assert kept(version) - {"other"} and len(merged(version)) == 2 and "other" in kept(version)


def test_pictures_must_agree_and_hashes_only_propose(made: Build, tmp_path: Path) -> None:
    question = "How high is the tallest bar of the chart?"
    rows = []
    for name, number, kind, size in [
        ("first", 1, "PNG", (480, 360)), ("again", 1, "PNG", (480, 360)), ("jpeg", 1, "JPEG", (480, 360)),
        ("larger", 1, "PNG", (960, 720)), ("other", 2, "PNG", (480, 360)),
    ]:  # fmt: skip
        image = figure(tmp_path / "images" / f"{name}.{kind.lower()}", number, kind, size)
        rows.append({"id": name, "question": question, "answer": "160", "image": image})
    version = made(rows)
    assert kept(version) == {"larger", "other"}, "the largest picture stays"
    assert set(merged(version)) == {"first", "again", "jpeg"}
    proofs = [json.loads(e) for e in version.ledger().filter(pl.col("fate") == "merged")["evidence"]]
    assert {proof["pictures"] for proof in proofs} == {"looks"} and {proof["kept_by"] for proof in proofs} == {"image"}
    same = made([row for row in rows if row["id"] in ("first", "again")], image={"radius": 0})
    proof = json.loads(same.ledger().filter(pl.col("fate") == "merged")["evidence"][0])
    assert proof["pictures"] == "bytes", "the same bytes need no hash"


def test_one_text_over_many_pictures_is_kept(made: Build, tmp_path: Path) -> None:
    rows = [
        {
            "id": str(i),
            "question": "What is missing?",
            "answer": str(i % 3),
            "image": figure(tmp_path / f"images/{i}.png", i),
        }
        for i in range(30)
    ]
    assert len(kept(made(rows))) == 30


def test_who_stays_is_a_policy_that_the_ledger_names(made: Build) -> None:
    def rows(**of: dict[str, Any]) -> list[dict[str, Any]]:
        base = {"question": "How many legs do seven spiders have?", "answer": "56"}
        return [{"id": name, **base, **own} for name, own in of.items()]

    licensed = rows(mit={"license": "MIT"}, nc={"license": "CC-BY-NC-4.0"}, cc0={"license": "CC0-1.0"}, none={})
    version = made(licensed)
    assert kept(version) == {"cc0"} and notes(version)["kept_by"] == {"license": 3}
    long = {"solution": "7 * 8 = 56, since each has eight."}
    solved = rows(short={"solution": "7 * 8"}, long=long, none={}, answerless={"answer": None, "solution": "?" * 99})
    assert kept(made(solved)) == {"long"}
    assert kept(made(solved[::2], keep=["solution"])) == {"short"}
    sourced = [{**row, "source": name} for row, name in zip(rows(x={}, y={}), ("a", "b"), strict=True)]
    assert kept(made(sourced, keep=["source"], sources=["b", "a"])) == {"y"}
    assert kept(made(sourced, keep=["source"], sources=["a"])) == {"x"}


def test_a_verified_row_stays_before_one_that_is_not(lab: Any) -> None:
    counts = [0, 2, None, 1]
    rows = lab.rows(
        [{"question": "one and the same", "n_correct": n, "license": "MIT" if n is None else None} for n in counts]
    )
    by = Preference(["verified", "license"])
    for start in (0, 2):
        by.add(rows.slice(start, 2), np.zeros(2, np.int64))
    rank = by.rank()
    assert set(np.argsort(rank)[:2].tolist()) == {1, 3}, "one correct trace is as good as two"
    assert by.because(1, 0) == "verified" and by.because(3, 2) == "verified" and by.because(2, 0) == "license"
    assert by.because(1, 3) == "content" and np.argsort(rank)[2] == 2
    before = Preference(["verified", "license"])
    before.add(rows.drop_columns(["n_correct"]), np.zeros(4, np.int64))
    assert np.argmin(before.rank()) == 2, "nothing was verified yet: the licence decides"


@pytest.mark.parametrize("looked_at", [1, 3, 5, 8])
def test_groups_are_read_in_parts(made: Build, monkeypatch: pytest.MonkeyPatch, looked_at: int) -> None:
    rows = [
        {"id": f"{kind}{n}", "question": f"How many {kind * 5} are {kind * 3} in all?", "answer": str(n // 2)}
        for kind in "abc"
        for n in range(4)
    ]
    whole = made(rows)
    monkeypatch.setattr("curation.stages.dedup.LOOKED_AT", looked_at)
    parts = made(rows, workspace="parts")
    assert len(merged(whole)) == 6 and parts.id == whole.id


def test_a_kept_row_takes_the_solution_of_a_merged_one(made: Build) -> None:
    base = {"question": "How many legs do seven spiders have?", "answer": "56"}
    rows = [
        {"id": "free", **base, "license": "CC0-1.0"},
        {"id": "solved", **base, "license": "MIT", "solution": "7 * 8"},
    ]
    rows += [{"id": "else", "question": "How many legs do two cows have?", "answer": "8", "solution": "2 * 4"}]
    version = made(rows, merge=["solution"])
    said = dict(version.rows().select("id", "solution").iter_rows())
    assert said == {"free": "7 * 8", "else": "2 * 4"} and notes(version)["solutions_taken"] == 1
    assert dict(made(rows).rows().select("id", "solution").iter_rows()) == {"free": None, "else": "2 * 4"}


# ------------------------------------------------------------------------------------------------- conflicts and families


CONFLICT = [
    {"id": "five", "question": "What is the sum of two and three?", "answer": "5"},
    {"id": "five too", "question": "What is the sum of two and three?", "answer": "5.0"},
    {"id": "six", "question": "what is the sum of two and three", "answer": "6"},
    {"id": "open", "question": "What is the sum of four and four?", "answer": "8"},
]


@pytest.mark.parametrize(("do", "stay"), [("keep", 3), ("report", 3), ("drop", 1)])
def test_answers_that_contradict_each_other_are_never_merged(made: Build, do: str, stay: int) -> None:
    version = made(CONFLICT, conflicts=do)
    assert len(kept(version)) == stay and "six" not in merged(version)
    assert notes(version)["label_conflicts"]["questions"] == 1 and notes(version)["label_conflicts"]["rows"] == 2
    decisions = pl.read_parquet(version.files("decisions"))
    marked = decisions.filter(pl.col("label_conflict").is_not_null())
    assert marked.height == (2 if do == "report" else 0) and marked["label_conflict"].n_unique() <= 1
    dropped = version.ledger().filter(pl.col("reason") == "label_conflict")
    assert dropped.height == (2 if do == "drop" else 0)
    assert all(json.loads(evidence)["against"] for evidence in dropped["evidence"])


def test_siblings_stay_and_can_be_capped(made: Build) -> None:
    rows = [
        {"id": f"s{i}", "question": f"A train leaves the station at {i} o'clock and runs {i * 7 + 30} miles an hour. How far is it after two hours?", "answer": str(2 * (i * 7 + 30))}
        for i in range(1, 10)
    ] + [{"id": "alone", "question": "Name the capital of France, please.", "answer": "Paris"}]  # fmt: skip
    version = made(rows)
    assert len(kept(version)) == 10
    assert notes(version)["families"] | {"examples": []} == {"families": 1, "rows": 9, "largest": 9, "examples": []}
    families = dict(version.rows().select("id", "family").iter_rows())
    assert families["alone"] is None and len(set(families.values()) - {None}) == 1
    capped = made(rows, max_siblings=2)
    assert len(kept(capped)) == 3 and "alone" in kept(capped)
    over = capped.ledger().filter(pl.col("reason") == "sibling_over_cap")
    assert over.height == 7
    evidence = json.loads(over["evidence"][0])
    assert evidence["family"] in capped.rows()["row_id"].to_list() and evidence["similarity"] >= 0.8


def test_siblings_of_pictures_show_one_picture(made: Build, tmp_path: Path) -> None:
    question = "In the figure the left bar is {} high. How high is the next bar of this chart?"
    rows = [
        {"id": f"{number}-{i}", "question": question.format(i), "answer": str(i), "image": figure(tmp_path / f"images/{number}.png", number)}
        for number in (1, 2) for i in (10, 20, 30)
    ]  # fmt: skip
    assert notes(made(rows))["families"] | {"examples": 0} == {"families": 2, "rows": 6, "largest": 3, "examples": 0}
    assert len(kept(made(rows, max_siblings=1))) == 2


# ------------------------------------------------------------------------------------------------------------ same result


def test_any_order_and_any_number_of_workers_give_one_version(made: Build, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = []
    for i in range(60):
        a, b = (int(n) for n in rng.integers(2, 9, 2))
        rows.append(
            {
                "id": str(i), "question": f"{['What is', 'Find'][i % 2]} {a} times {b}{'?.'[i % 2]}", "answer": str(a * b + (i % 7 == 0)),
                "source": "ab"[i % 2], "license": ["MIT", None][i % 3 == 0], "solution": ["Multiply.", None][i % 2],
                "image": figure(tmp_path / f"images/{i % 4}.{'jpeg' if i % 8 > 3 else 'png'}", i % 4, "JPEG" if i % 8 > 3 else "PNG"),
            }
        )  # fmt: skip
    options = {"conflicts": "report", "max_siblings": 5, "merge": ["solution"]}
    first = made(rows, workers=1, **options)
    second = made(rows[::-1], workers=2, workspace="other", **options)
    assert first.id == second.id
    assert notes(first)["duplicates"] > 2 and notes(first)["label_conflicts"]["rows"] > 0


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["What is the sum of {}?", "Find the sum of {}.", "How many are {} sheep on the green hill?", ""]),
            st.integers(0, 3),
            st.sampled_from(["5", "5.0", "6", None, "five"]),
        ),
        min_size=1, max_size=25,
    ),
    st.integers(0, 9),
    st.sampled_from(["exact", "light", "near"]),
)  # fmt: skip
def test_order_of_rows_makes_no_difference(
    lab: Any, context: Context, drawn: list[tuple[str, int, str | None]], seed: int, wording: str
) -> None:
    rows = lab.rows([{"question": q.format(n), "answer": a, "license": [None, "MIT"][n % 2]} for q, n, a in drawn])
    config = Dedup(text={"wording": wording}, max_siblings=2, conflicts="report")
    said = [lab.all(STAGE, config, table, context) for table in (rows, lab.shuffled(rows, seed))]
    assert said[0].fates.sort_by("row_id").equals(said[1].fates.sort_by("row_id"))
    assert said[0].columns.sort_by("row_id").equals(said[1].columns.sort_by("row_id"))
    assert said[0].notes == said[1].notes
    gone = set(said[0].fates["row_id"].to_pylist())
    into = {a: b for a, b in zip(*(said[0].fates[c].to_pylist() for c in ("row_id", "into")), strict=True) if b}
    assert not set(into.values()) & set(into), "nothing is merged into a row that is merged itself"
    assert len(gone) < len(rows)


# ---------------------------------------------------------------------------------------------------------- hostile input


def test_hostile_rows_are_kept_or_merged_and_nothing_breaks(lab: Any, context: Context) -> None:
    huge = "word and 17 + " * 80_000
    records = [
        {"question": None}, {"question": ""}, {"question": "???"}, {"question": "   \n"}, {"question": huge, "answer": "1"},
        {"question": huge, "answer": "1"}, {"question": "كم عدد الأضلاع في المثلث؟", "answer": "3"},
        {"question": "‏كم عدد الأضلاع في المثلث", "answer": "3"}, {"question": "\x00\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), "answer": "x"},
        {"question": "A" * 100_000, "answer": None}, {"question": "\\frac{" * 5000, "answer": "\\frac{"},
        {"question": "Where?", "images": ["0" * 64], "answer": "here"}, {"question": "Where?", "images": ["0" * 64], "answer": "here"},
        {"question": "Where?", "images": ["1" * 64], "answer": "here"}, {"question": "Where?", "choices": [None, ""], "answer": "A"},
    ]  # fmt: skip
    outcome = lab.all(STAGE, Dedup(text={"wording": "near"}), lab.rows(records), context)
    assert set(outcome.fates["fate"].to_pylist()) == {"merged"}
    assert len(outcome.fates) == 2 + 1, "the huge text, the Arabic one (marks apart), the same unknown picture"


def test_an_empty_build_of_dedup_keeps_its_columns(made: Build) -> None:
    version = made([{"id": "one", "question": "The only question here?", "answer": "yes"}])
    assert {"family", "label_conflict"} <= set(version.rows().columns) and len(kept(version)) == 1


# -------------------------------------------------------------------------------------------------------------- vectors


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A small static model: words that mean the same have the same vector."""
    model2vec = pytest.importorskip("model2vec", reason="the extra `semantic` is not installed")
    pytest.importorskip("usearch", reason="the extra `semantic` is not installed")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = [
        "[UNK]",
        "what",
        "is",
        "how",
        "the",
        "big",
        "large",
        "tower",
        "high",
        "tall",
        "metres",
        "are",
        "in",
        "red",
        "blue",
        "house",
        "eiffel",
    ]
    vectors = np.random.default_rng(1).normal(size=(len(words), 32)).astype(np.float32)
    for same, other in (("big", "large"), ("high", "tall"), ("what", "how")):
        vectors[words.index(same)] = vectors[words.index(other)]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model2vec.StaticModel(vectors, tokenizer).save_pretrained(str(tmp_path / "model"))
    return "model"


PARAPHRASES = [
    {"id": "a", "question": "how high is the big tower in metres", "answer": "330", "license": "MIT"},
    {"id": "b", "question": "what tall is the large tower in metres", "answer": "330"},
    {"id": "c", "question": "how tall is the big tower in metres", "answer": "324"},
    {"id": "d", "question": "is the house red", "answer": "yes"},
    {"id": "e", "question": "are the tall house red", "answer": "yes"},
]


def test_paraphrases_merge_only_with_a_telling_answer(made: Build, model: str) -> None:
    assert merged(made(PARAPHRASES)) == {}
    version = made(PARAPHRASES, semantic=0.95, model=model)
    assert merged(version) == {"b": "a"}
    line = version.ledger().filter(pl.col("fate") == "merged").to_dicts()[0]
    assert line["reason"] == "paraphrase" and json.loads(line["evidence"])["cosine"] >= 0.95


def test_the_joint_rule_of_openmmreasoner_works_within_and_across_sources(
    made: Build, model: str, tmp_path: Path
) -> None:
    chart = figure(tmp_path / "images/1.png", 1)
    again = figure(tmp_path / "images/1.jpeg", 1, "JPEG")
    rows = [
        {**PARAPHRASES[0], "image": chart, "source": "a"},
        {**PARAPHRASES[1], "image": again, "source": "b"},
        {**PARAPHRASES[2], "image": figure(tmp_path / "images/2.png", 2), "source": "b"},
        {"id": "twin", "question": "how high is the big tower in metres", "answer": "1", "image": chart, "source": "a"},
    ]
    version = made(rows, method="openmmreasoner", model=model)
    found = merged(version)
    assert set(found.values()) == {"a"} and set(found) == {"b", "twin"}, "answers do not count in this rule"
    again_ = made(rows[::-1], method="openmmreasoner", model=model, workers=2, workspace="other")
    assert again_.id == version.id


def test_a_model_that_is_not_there_is_said_before_any_work(made: Build) -> None:
    with pytest.raises(RecipeError, match="neither a folder nowhere/model nor a model of this name") as error:
        made(PARAPHRASES, semantic=0.9, model="nowhere/model")
    assert "hf download nowhere/model" in str(error.value)


# --------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    "options",
    [
        {"semantic": 0.9}, {"method": "openmmreasoner"}, {"keep": ["license", "license"]}, {"text": {"threshold": 1.0}},
        {"max_siblings": 0}, {"image": {"radius": 48}}, {"merge": ["families"]}, {"keep": ["newest"]},
    ],
)  # fmt: skip
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Dedup(**options)


def test_an_unknown_source_is_named_with_the_nearest(made: Build) -> None:
    rows = [{"id": "x", "question": "Is it so?", "answer": "yes", "source": "gsm8k"}]
    with pytest.raises(RecipeError, match=r"there is no source 'gsm8'[\s\S]*gsm8k"):
        made(rows, sources=["gsm8"])


# ------------------------------------------------------------------------------------------------------------ small parts


def test_compared_texts() -> None:
    pairs = [
        ("$5!$", "5!"), ("Wow!", "wow"), ("right-angled", "right angled"), ("1,234,567", "1234567"), ("90^\\circ", "90°"),
        ("\\left(\\alpha\\leq\\pi\\right)", "(α ≤ π)"), ("３ × ４", "3 \\times 4"), ("a<image>b", "a b"), ("\\(x_1\\)", "x₁"),
    ]  # fmt: skip
    for left, right in pairs:
        found = texts.compared(pa.array([left, right])).to_pylist()
        assert found[0] == found[1], (left, right)
    others = [("3-2", "3+2"), ("x^23", "x^2 3"), ("5!", "5"), ("(12)", "(1,2)"), ("-3", "3"), ("x < y", "x > y")]
    for left, right in others:
        found = texts.compared(pa.array([left, right])).to_pylist()
        assert found[0] != found[1], (left, right)


def test_stem_and_options() -> None:
    assert texts.stem_and_options("Which? Choices: (A) yes (B) no", None) == ("Which?", ("yes", "no"))
    assert texts.stem_and_options("Pick one.\nA. red\nB. blue", None) == ("Pick one.", ("red", "blue"))
    for formula in ("F(A) = (X - A)^2 (X - B)", "Let f(A) be g(B)."):
        assert texts.stem_and_options(formula, None) == (formula, ())


def test_answers_agree_by_content() -> None:
    assert answer_of("B", ["3", "5"]) == Answer("5", option=True)
    assert answer_of("C", ["A", "B", "C"]) == Answer("C", letter=True)
    assert agreement(Answer("1/2"), Answer("0.5")) == "compatible"
    assert agreement(Answer("dark blue", option=True), Answer("blue", option=True)) == "incompatible"
    assert agreement(Answer(""), Answer("7")) == "missing"
    assert agreement(Answer("A", letter=True), Answer("7")) == "unclear"
    assert not Answer("yes").tells and not Answer("7").tells and Answer("578").tells


def test_license_ranks() -> None:
    names = ["CC0-1.0", "MIT", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "my own", None]
    assert [license_rank(name) for name in names] == sorted(license_rank(name) for name in names)
    assert license_rank("Apache-2.0") == license_rank("CC-BY-4.0") == license_rank("MIT")


def test_near_pairs_are_the_same_by_either_way() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (1500, 32), dtype=np.uint8)
    codes[700:1400] = codes[:700]
    codes[np.arange(700, 1400), rng.integers(0, 32, 700)] ^= 1
    hashes = [bytes(code).hex() for code in codes]
    many = {tuple(p) for p in near_pairs(hashes, 8).tolist()}
    few = {tuple(p) for p in near_pairs(hashes[:1000], 8).tolist()}
    assert {(i, i + 700) for i in range(700)} <= many
    assert few == {p for p in many if max(p) < 1000}


# ---------------------------------------------------------------------------------------------------------- known truths


def test_puzzlevqa_keeps_every_true_puzzle(data_dir: Path, tmp_path: Path) -> None:
    """Its real repeats are those with one picture, question and answer; all else is a puzzle of its own."""
    source = data_dir / "multimodal" / "puzzlevqa.parquet"
    recipe = {
        "name": "puzzles",
        "sources": [{"name": "puzzlevqa", "parquet": str(source), "license": "MIT", "expect": 2000}],
        "stages": [{"stage": "dedup"}],
        "outputs": [{"export": "rl"}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    version = build(tmp_path / "recipe.yaml", workspace=tmp_path / "ws", workers=2)
    rows = pl.read_parquet(source, columns=["id", "question", "answer", "images"])
    puzzles = {(hash(row["images"][0]["bytes"]), row["question"], row["answer"]) for row in rows.iter_rows(named=True)}
    assert version.manifest["counts"]["kept"] == len(puzzles) == 1636
    assert notes(version)["label_conflicts"]["rows"] == 0
    by_id = {
        row["id"]: (row["images"][0]["bytes"], row["question"], row["answer"]) for row in rows.iter_rows(named=True)
    }
    assert all(by_id[a] == by_id[b] for a, b in merged(version).items())
