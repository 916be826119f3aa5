"""Evaluating: stored answers and a real tiny model, from command to record, again and again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from curation.teachers.store import read_segment
from curation.versions import open_version
from schemas.benchmarks import Benchmark, Score
from schemas.errors import RecipeError, WinnowError
from tests.conftest import picture, write_jsonl
from training import benchmarks, harness, scoring
from training import evaluate as evaluation
from training.contrast import compare, contrast

ROOT = Path(__file__).parents[2]


def bench(folder: Path, rows: list[dict[str, Any]], name: str = "quiz", **more: Any) -> Path:
    write_jsonl(folder / f"{name}.jsonl", rows)
    meta = [key for key in rows[0] if key not in ("id", "question", "answer", "choices", "image")]
    source: dict[str, Any] = {"name": name, "jsonl": f"{name}.jsonl", "columns": {"meta": meta}}
    if "image" in rows[0]:
        source["columns"]["images"] = "image"
    recipe = {"name": name, "sources": [source], **more}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def variants(seeds: int = 12, each: int = 3) -> list[dict[str, Any]]:
    return [
        {"id": f"{s}/{v}", "question": f"What is {s} + {v}?", "answer": str(s + v), "seed": s, "kind": "odd" if s % 2 else "even"}
        for s in range(seeds)
        for v in range(each)
    ]  # fmt: skip


def answers(path: Path, rows: list[dict[str, Any]], model: str, right: Callable[[dict[str, Any], int], bool], n: int) -> Path:  # fmt: skip
    """n answers to each row; wrong ones are off by their k, and finished but for the last."""
    lines = [
        {"id": row["id"], "model": model, "response": f"So \\boxed{{{int(row['answer']) + (0 if right(row, k) else 1 + k)}}}",
         "finish": "stop", "tokens": 100 * (k + 1)}
        for row in rows for k in range(n)
    ]  # fmt: skip
    write_jsonl(path, lines)
    return path


HELD = {"finish": "finish", "output_tokens": "tokens"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def held(place: Path) -> dict[str, evaluation.Evaluation]:
    """Two models' stored answers, four to each question of twelve seeds in three variants."""
    rows = variants()
    score = {"metric": "worst_case", "also": ["accuracy"], "group": "seed", "by": ["kind"]}
    path = bench(place, rows, score=score)
    found = {}
    for name, right in {
        "good": lambda row, k: k < 3 and not (row["seed"] < 3 and row["id"].endswith("/2")),
        "poor": lambda row, k: row["seed"] % 2 == 0 and k < 2,
    }.items():
        stored = answers(place / f"{name}.jsonl", rows, name, right, 4)
        (found[name],) = evaluation.evaluate(
            benchmarks.model_of(str(stored), options=HELD), [path], workspace=place / "w"
        )
    return found  # fmt: skip


def figures(one: evaluation.Evaluation) -> dict[str, float]:
    return {figure.metric: figure.value for figure in one.figures}


def test_stored_answers_are_scored(held: dict[str, evaluation.Evaluation]) -> None:
    good = figures(held["good"])
    assert good["avg@4"] == pytest.approx(0.75 * 33 / 36)
    assert good["pass@2"] == good["pass@4"] == pytest.approx(33 / 36)  # of two of 3 right and 1 wrong one is right
    assert good["maj@4"] == pytest.approx(33 / 36)
    assert good["worst_case"] == pytest.approx(0.75 * 9 / 12)  # three seeds have a variant that is never right
    assert good["tokens"] == 250 and good["truncated"] == 0
    assert good["accuracy_per_1k_tokens"] == pytest.approx(good["avg@4"] / 0.25)
    assert good["accuracy/kind=odd"] == pytest.approx(0.75 * 17 / 18)
    assert held["good"].headline["good"].metric == "worst_case"
    worst, mean = held["good"].headline["good"], next(f for f in held["good"].figures if f.metric == "avg@4")
    assert (worst.units, worst.clusters, mean.units, mean.clusters) == (12, 12, 36, 12)


def test_two_models_are_compared_question_by_question(held: dict[str, evaluation.Evaluation], place: Path) -> None:
    found = {c.metric: c for c in compare("poor", "good", place / "w")}
    assert found["avg@4"].difference == pytest.approx(figures(held["good"])["avg@4"] - figures(held["poor"])["avg@4"])
    assert found["avg@4"].verdict == "B is better" and found["avg@4"].clusters == 12
    assert found["tokens"].difference == 0 and found["tokens"].verdict == "no difference shown"
    same = contrast((held["good"], "good"), (held["good"], "good"))
    assert {c.verdict for c in same} == {"no difference shown"}


def test_an_evaluation_is_a_version_and_can_be_asked_in_sql(held: dict[str, Any], place: Path) -> None:
    from curation.catalog import query

    said = held["good"].manifest["version"]
    version = open_version(f"{said['name']}@{said['id']}", place / "w")
    assert len(version.traces()) == 144
    lines = query(place / "w", "select model, value from evaluations.scores where metric = 'worst_case' order by model")
    assert [line["model"] for line in lines.to_pylist()] == ["good", "poor"]
    assert query(place / "w", "select count(*) n from evaluations.answers").to_pylist() == [{"n": 288}]


def test_the_same_answers_are_the_same_record(held: dict[str, Any], place: Path) -> None:
    model = benchmarks.model_of(str(place / "good.jsonl"), options=HELD)
    (again,) = evaluation.evaluate(model, [place / "quiz.yaml"], workspace=place / "w")
    assert again.path == held["good"].path and again.manifest == held["good"].manifest


def test_other_harnesses_read_ours_and_ours_reads_theirs(held: dict[str, Any], place: Path) -> None:
    evaluation.export(held["good"], place / "out", place / "w")
    written = json.loads(next((place / "out" / "good").glob("results_*.json")).read_text())
    assert written["results"]["quiz"]["worst_case,none"] == pytest.approx(held["good"].headline["good"].value)
    line = json.loads(next((place / "out" / "good").glob("samples_*.jsonl")).read_text().splitlines()[0])
    assert len(line["resps"][0]) == 4 and line["doc"]["question"].startswith("What is")
    (back,) = evaluation.take_in(place / "out" / "good", workspace=place / "other", model="theirs")
    assert figures(back)["accuracy"] == pytest.approx(figures(held["good"])["avg@4"])
    assert next(iter(back.headline.values())).clusters == 12  # the seed went along in `doc`


def test_an_imported_model_is_compared_with_ours_by_upstreams_id(held: dict[str, Any], place: Path) -> None:
    lines = [{"id": row["id"], "model": "rules", "correct": row["seed"] < 6} for row in variants()]
    write_jsonl(place / "quiz_verdicts.jsonl", lines)
    (taken,) = evaluation.take_in(place / "quiz_verdicts.jsonl", workspace=place / "w", group=r"(\d+)/")
    assert figures(taken)["worst_case"] == 0.5 and figures(taken)["accuracy"] == 0.5
    found = contrast((held["good"], "good"), (taken, "rules"), metrics=["worst_case"])
    assert found[0].units == 12 and found[0].difference == pytest.approx(0.5 - 0.75 * 9 / 12)


def test_bare_results_of_another_harness_are_two_independent_samples(tmp_path: Path) -> None:
    def results(value: float, name: str) -> Path:
        said = {
            "results": {"gsm8k": {"alias": "gsm8k", "exact_match,strict-match": value, "exact_match_stderr,strict-match": 0.01}},
            "config": {"model": "hf", "model_args": f"pretrained={name},dtype=float"},
            "n-samples": {"gsm8k": {"original": 1319, "effective": 1319}},
        }  # fmt: skip
        path = tmp_path / name / "results_2026.json"
        path.parent.mkdir()
        path.write_text(json.dumps(said))
        return path

    first, second = (
        evaluation.take_in(results(value, name), workspace=tmp_path / "w")[0] for value, name in ((0.6, "a"), (0.62, "b"))
    )  # fmt: skip
    (found,) = contrast((first, "a"), (second, "b"))
    assert found.difference == pytest.approx(0.02) and found.verdict == "no difference shown (not paired)"
    with pytest.raises(WinnowError, match="is no results file"):
        (tmp_path / "x.json").write_text("[]")
        harness.read(tmp_path / "x.json")


def test_a_judge_decides_what_the_rules_leave_open_and_says_so(place: Path) -> None:
    from tests.answers.test_judge import Endpoint, judge_at, sensible

    rows = [{"id": str(i), "question": f"Which city, {i}?", "answer": "city of Paris"} for i in range(3)]
    said = [
        "It must be Paris because of the river, the towers and the history of France.",
        "Rome, as far as one can tell from such a picture of ruins.",
        "city of Paris",
    ]
    path = bench(place, rows, name="cities")
    write_jsonl(
        place / "cities_said.jsonl", [{"id": r["id"], "response": text} for r, text in zip(rows, said, strict=True)]
    )
    (alone,) = evaluation.evaluate(str(place / "cities_said.jsonl"), [path], workspace=place / "j")
    endpoint = Endpoint(sensible)
    try:
        (found,) = evaluation.evaluate(
            str(place / "cities_said.jsonl"), [path], workspace=place / "j", judge=judge_at(endpoint.url)
        )
    finally:
        endpoint.close()
    assert figures(alone)["accuracy"] == pytest.approx(1 / 3) and figures(found)["accuracy"] == pytest.approx(2 / 3)
    answered = pl.read_parquet(found.path / "answers.parquet")
    assert answered.filter(pl.col("method") == "judge").height >= 1 and found.manifest["judge"] and found.id != alone.id


# ---------------------------------------------------------------------------------------------------------- real models


@pytest.fixture(scope="module")
def asked(place: Path, models: Callable[[str], Path]) -> tuple[Path, Path, evaluation.Evaluation]:
    """A tiny model with random weights, two sampled answers to each of six questions."""
    path = bench(place, variants(2), name="asked", ask={"n": 2, "temperature": 1.0, "max_tokens": 12})
    (found,) = evaluation.evaluate(str(models("qwen2")), [path], workspace=place / "w")
    return path, models("qwen2"), found


def stored(workspace: Path) -> int:
    """Answers in the trace store."""
    return sum(
        len(read_segment(path, ["key"]))
        for path in (workspace / "traces").glob("*.*")
        if path.suffix in (".log", ".parquet")
    )


def test_a_model_is_asked_once(asked: tuple[Path, Path, evaluation.Evaluation], place: Path) -> None:
    path, model, found = asked
    assert found.manifest["complete"] and figures(found)["tokens"] > 0
    before = stored(place / "w")
    (again,) = evaluation.evaluate(str(model), [path], workspace=place / "w")
    assert again.path == found.path
    (more,) = evaluation.evaluate(str(model), [path], workspace=place / "w", set=["ask.n=3"])
    assert stored(place / "w") == before + 6  # one more answer to each question
    assert more.id != found.id and more.manifest["ask"]["n"] == 3


def test_prompts_of_a_batch_end_where_their_answers_begin(models: Callable[[str], Path]) -> None:
    """Also with a tokenizer whose own habit is to pad behind: an answer would go on after the padding."""
    from curation.teachers.base import Message, Request, Want
    from curation.teachers.transformers_local import LocalModel, TransformersLocal

    config = TransformersLocal.model_validate({"kind": "transformers_local", "model": str(models("qwen2"))})
    teacher = LocalModel(config, lambda names: {}, Path())
    asked = [Request((Message("user", "Why? " * n),), (), (Want(str(n), 0),), 0, 4) for n in (1, 9)]
    inputs = teacher._inputs(asked)
    teacher.close()
    assert inputs["attention_mask"][:, -1].all() and not inputs["attention_mask"][0, 0]


def test_pictures_are_asked_too(tmp_path: Path, models: Callable[[str], Path]) -> None:
    (tmp_path / "images").mkdir()
    rows = []
    for i in range(3):
        (tmp_path / "images" / f"{i}.png").write_bytes(picture(i + 1))
        rows.append({"id": str(i), "question": "How many bars?", "answer": "1", "image": f"images/{i}.png"})
    path = bench(tmp_path, rows, name="bars", ask={"max_tokens": 4})
    (found,) = evaluation.evaluate(str(models("qwen2_5_vl")), [path], workspace=tmp_path / "w")
    assert next(iter(found.headline.values())).units == 3 and found.manifest["complete"]


def test_a_trained_model_is_asked_as_it_was_trained(project: Path, edit: Any, models: Callable[[str], Path]) -> None:
    from curation.builder import build
    from training.recipe import load_sft_recipe
    from training.sft import train

    def change(recipe: dict[str, Any]) -> None:
        recipe["sources"] = recipe["sources"][:1]
        recipe["stages"][3] |= {"system": "Be brief.", "template": "Q: {question}"}
        recipe["outputs"] = [{"export": "sft"}]

    edit(change)
    version = build(project / "recipe.yaml", workspace=project / "w")
    training = {
        "name": "run", "model": {"path": str(models("qwen2"))}, "data": [{"version": str(version)}], "steps": 1,
        "batch": {"max_tokens": 512, "workers": 0}, "log": {"to": []},
    }  # fmt: skip
    (project / "train.yaml").write_text(yaml.safe_dump(training))
    result = train(
        load_sft_recipe(project / "train.yaml", workspace=project / "w"), workspace=project / "w", quiet=True
    )
    model = benchmarks.model_of(str(result.folder))
    assert (model.name, model.system, model.template) == ("run-step-000001", "Be brief.", "Q: {question}")
    path = bench(project, variants(2), ask={"system": "Think in tags.", "max_tokens": 4})
    (found,) = evaluation.evaluate(model, [path], workspace=project / "w")
    assert found.manifest["prompt"] == {"system": "Be brief.", "template": "Q: {question}", "as_in": "the training run"}


# -------------------------------------------------------------------------------------------------------------- recipes


def test_every_shipped_benchmark_is_right() -> None:
    files = [p for p in (ROOT / "recipes" / "benchmarks").rglob("*.yaml") if p.parent.name != "base"]
    assert len(files) >= 25
    for path in files:
        assert benchmarks.load(path, ROOT).recipe.name == path.stem


def test_mmmu_pro_vision_gives_no_options_and_charxiv_asks_four_different_questions(tmp_path: Path) -> None:
    recipe = benchmarks.load("mmmu_pro_vision", tmp_path).recipe
    assert recipe.ask.template == "{stem}" and recipe.sources[0].columns.choices == ["options"]
    sources = benchmarks.load("charxiv_descriptive", tmp_path).recipe.sources
    assert [s.columns.question.from_ for s in sources] == [[f"descriptive_q{i}"] for i in (1, 2, 3, 4)]  # type: ignore[union-attr]


def test_charxivs_numbers_become_questions_and_gpqas_options_keep_their_order(tmp_path: Path) -> None:
    rows = [
        {"id": f"c{i}", "question": str(n), "answer": "x", "subplot_row": r, "subplot_col": 2, "subplot_loc": where}
        for i, (n, r, where) in enumerate([(1, 0, None), (8, 1, None), (18, 1, None), (2, 0, "the right panel"), (77, 0, None)])
    ]  # fmt: skip
    stages = [{"stage": "charxiv_descriptive"}]
    path = bench(tmp_path, rows, name="charts", use=["training.shaping"], stages=stages)
    write_jsonl(tmp_path / "charts_said.jsonl", [{"id": r["id"], "response": "x"} for r in rows])
    (found,) = evaluation.evaluate(str(tmp_path / "charts_said.jsonl"), [path], workspace=tmp_path / "w")
    version = open_version(found.manifest["version"]["name"], tmp_path / "w")
    said = dict(version.rows().select("id", "question").rows())
    assert said["c0"].startswith("For the current plot, what is the title")
    assert said["c1"].startswith("For the subplot at row 1 and column 2, what is the difference")
    assert said["c2"].startswith("What is the layout") and said["c3"].startswith(
        "For the right panel, what is the label"
    )
    assert version.ledger().filter(pl.col("fate") == "dropped")["reason"].to_list() == ["no_such_template"]

    options = [{"id": str(i), "question": f"Which, {i}?", "answer": "right", "choices": ["right", "w1", "w2", "w3"]} for i in range(40)]  # fmt: skip
    path = bench(tmp_path, options, name="options", use=["training.shaping"], stages=[{"stage": "shuffle_choices"}])
    write_jsonl(tmp_path / "options_said.jsonl", [{"id": r["id"], "response": "The answer is right."} for r in options])
    (found,) = evaluation.evaluate(str(tmp_path / "options_said.jsonl"), [path], workspace=tmp_path / "w")
    version = open_version(found.manifest["version"]["name"], tmp_path / "w")
    orders = version.rows()["choices"].to_list()
    assert {tuple(sorted(o)) for o in orders} == {("right", "w1", "w2", "w3")}
    places = [o.index("right") for o in orders]
    assert set(places) == {0, 1, 2, 3} and max(map(places.count, range(4))) < 20
    assert figures(found)["accuracy"] == 1.0


def test_we_maths_score_of_a_whole_set(tmp_path: Path) -> None:
    """Three problems: one mastered, one with steps right alone, one learned by rote; a fourth lacks its whole."""
    parts = {"a": "111", "b": "110", "c": "011", "d": "11"}
    rows, said = [], []
    for problem, marks in parts.items():
        for key, mark in zip(("2steps_1", "2steps_2", "2steps_multi"), marks, strict=False):
            rows.append({"id": f"{problem}/{key}", "question": f"{problem} {key}?", "answer": "4", "ID": problem, "key": key})  # fmt: skip
            said.append({"id": rows[-1]["id"], "response": "\\boxed{4}" if mark == "1" else "\\boxed{5}"})
    score = {"metric": "wemath_loose", "also": ["wemath_strict"], "group": "ID", "part": "key"}
    path = bench(tmp_path, rows, score=score)
    write_jsonl(tmp_path / "said.jsonl", said)
    (found,) = evaluation.evaluate(str(tmp_path / "said.jsonl"), [path], workspace=tmp_path / "w")
    assert figures(found)["wemath_strict"] == pytest.approx(1.5 / 3)
    assert figures(found)["wemath_loose"] == pytest.approx(2.5 / 3)
    assert found.manifest["notes"]["incomplete_problems"] == 1


def test_votes_do_not_depend_on_how_an_answer_is_written() -> None:
    said = pl.DataFrame({
        "model": "m", "unit": "q", "answer_normal": ["1/2", "0.5", "3", None, "7"], "extracted": None,
        "right": [False, False, False, False, True],
    }, schema_overrides={"extracted": pl.String})  # fmt: skip
    from curation.answers.policy import Policy

    assert scoring._votes(said, Policy()).to_list() == [1, 1, 2, -1, 0]


# --------------------------------------------------------------------------------------------------------------- faults


def test_wrong_recipes_and_models_are_told(tmp_path: Path, models: Callable[[str], Path]) -> None:
    path = bench(tmp_path, variants(2), ask={"n": 4}, score={"metric": "worst_case"})
    with pytest.raises(RecipeError, match="temperature 0") as error:
        benchmarks.load(path, tmp_path)
    assert "`group` is missing" in str(error.value)
    path = bench(tmp_path, variants(2), scor={"group": "seed"})
    with pytest.raises(RecipeError, match="score"):
        benchmarks.load(path, tmp_path)
    with pytest.raises(WinnowError, match="Did you mean `gsm8k`"):
        benchmarks.find("gsm8")
    for name in ("nothing here", "http://localhost:1/v1"):
        with pytest.raises(WinnowError):
            benchmarks.model_of(name)
    path = bench(tmp_path, variants(2), score={"metric": "worst_case", "group": "sed"})
    stored = answers(tmp_path / "a.jsonl", variants(2), "m", lambda row, k: True, 1)
    with pytest.raises(WinnowError, match="The field 'sed' of `score`"):
        evaluation.evaluate(str(stored), [path], workspace=tmp_path / "w")
    assert Score() == Benchmark.model_validate({"name": "x", "sources": [{"jsonl": "a"}]}).score
