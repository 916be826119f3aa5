"""Loading a recipe: what a plan holds, and what is said of a recipe that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from curation import yamlfile
from curation.recipe import load_recipe
from schemas.errors import Problem, RecipeError

GOOD = """
    name: sums
    seed: 3
    sources:
      - parquet: data/sums.parquet
    stages:
      - stage: normalize
      - stage: filter
        name: short
        where: length(question) < 100
      - stage: filter
        name: never
        enabled: false
        where: "false"
    outputs:
      - export: rl
"""


def one(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, "\n".join(map(str, problems))
    return problems[0]


def test_a_plan_holds_validated_configs_in_order(folder: Path, write: Any) -> None:
    plan = load_recipe(write(GOOD), workspace=folder / ".winnow")
    assert (plan.recipe.name, plan.recipe.seed, plan.recipe_dir) == ("sums", 3, folder)
    assert [source.name for source in plan.sources] == ["sums"]
    assert [stage.name for stage in plan.stages] == ["annotate", "normalize", "short"]
    assert [(output.name, output.export.kind) for output in plan.outputs] == [("rl", "rl")]
    assert [stage.config.name for stage in plan.stages] == ["annotate", "normalize", "short"]


def test_the_text_of_a_plan_is_a_recipe_with_the_same_plan(folder: Path, write: Any) -> None:
    plan = load_recipe(write(GOOD), overrides=["seed=4", "stages.short.where=length(question) < 50"])
    again = load_recipe(write(plan.text, "again.yaml"))
    assert again.text == plan.text
    assert (again.recipe, again.sources, again.stages, again.outputs) == (
        plan.recipe,
        plan.sources,
        plan.stages,
        plan.outputs,
    )


def test_spacing_and_comments_do_not_change_the_text(write: Any) -> None:
    spaced = GOOD.replace("seed: 3", "seed:   3   # a comment").replace("where: length", "where:   length")
    assert load_recipe(write(GOOD)).text == load_recipe(write(spaced, "spaced.yaml")).text


def test_all_problems_come_at_once_in_the_order_of_the_file(write: Any, problems: Any) -> None:
    found = problems(
        write(
            """
            name: Sums
            seeed: 3
            sources:
              - parquet: data/sum.parquet
                max_quarantine: 3
              - {}
            stages:
              - stage: filtr
                where: "true"
              - normalize
              - stage: filter
                were: "true"
              - stage: mix
                total: "100"
            outputs:
              - export: slt
              - exprt: rl
            """
        )
    )
    lines = [problem.line for problem in found]
    assert lines == sorted(lines)
    said = {(problem.line, problem.message.split(" ")[0]) for problem in found}
    assert {1, 2, 5, 6, 8, 10, 11, 12, 14, 16, 17} <= set(lines), said
    assert all(problem.file.endswith("recipe.yaml") and problem.text for problem in found)


@pytest.mark.parametrize(
    ("old", "new", "line", "message", "hint"),
    [
        ("seed: 3", 'seed: "3"', 2, "`seed` should be a whole number, not `3`", "Take off the quotes"),
        ("seed: 3", "seed: 3.5", 2, "`seed` should be a whole number, not 3.5", ""),
        ("seed: 3", "seed: -1", 2, "`seed` should be at least 0, not -1", ""),
        ("seed: 3", "sed: 3", 2, "`sed` is not a key of the recipe", "Did you mean `seed`?"),
        ("name: sums", "name: 2024", 1, "`name` should be text, not 2024", '"2024"'),
        ("name: sums", "description: sums", 1, "`name` is missing in the recipe", "Name of the versions"),
        ("enabled: false", "enabled: no", 12, "`enabled` should be true or false, not `no`", "Write false"),
        ("stage: normalize", "stage: normalise", 6, "There is no stage `normalise`", "Did you mean `normalize`?"),
        ("export: rl", "export: r", 15, "There is no export `r`", "`rl`"),
        ("name: short", "name: normalize", 8, "Two stages are called `normalize` (line 6)", "another `name:`"),
        ("name: short", "name: Short ones", 8, "`name` can't be `Short ones`", "a-z"),
        ("where: length", "wher: length", 9, "`wher` is not a key of stage short", "Did you mean `where`?"),
        ("stage: normalize", "stage: annotate", 6, "`annotate` is run first", "`tokenizer`"),
        ("data/sums.parquet", "data/sum.parquet", 4, "there is no file or folder", "Did you mean `sums.parquet`?"),
        ("data/sums.parquet", "dato/sums.parquet", 4, "there is no folder", "Did you mean `data`?"),
        ("data/sums.parquet", "data/*.pq", 4, "no file matches data/*.pq", "begin at"),
        ("parquet: data/sums.parquet", "jsonl: .", 4, None, ""),
        ("parquet: data/sums.parquet", "hub: sums", 4, "`hub` can't be `sums`", "ORGANISATION/NAME"),
        ("parquet: data/sums.parquet", "parqet: x", 4, "`parqet` is not a key of source", "`parquet`"),
        ("length(question)", "length(qestion)", 9, "`qestion`, which is not there", "Did you mean `question`?"),
        ("length(question)", "lenght(question)", 9, "lenght", "length"),
        ("length(question)", "n_tokens", 9, "needs a tokenizer", "tokenizer: "),
        ("length(question)", "${HOME}", 9, "${HOME} stands in a text that is not a path", "--set"),
        ("data/sums.parquet", "${WINNOW_NOT_SET}/x.parquet", 4, "WINNOW_NOT_SET is not set", "export WINNOW_NOT_SET"),
        ("export: rl", "export: sft", 15, "Output sft needs traces", "stage: fanout"),
        ("stage: normalize", "stage: verify", 6, "Stage verify needs traces", "stage: fanout"),
        ("    stages:", "    tokenizer: no/such.json\n    stages:", 5, "no/such.json", ""),
    ],
)  # fmt: skip
def test_a_mistake_is_said_where_it_stands(
    write: Any, problems: Any, old: str, new: str, line: int, message: str | None, hint: str
) -> None:
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    found = problems(write(text))
    if message is None:
        assert not found
        return
    assert any(p.line == line and message in p.message and hint in p.hint for p in found), "\n".join(map(str, found))
    assert all(str(p).splitlines()[0].endswith(p.message) for p in found)


COLUMNS = """
    name: sums
    sources:
      - name: sums
        parquet: data/sums.parquet
        columns:
          answer: {after: "####"}
          solution: [answer, info.subject]
    outputs:
      - export: rl
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "message", "hint"),
    [
        ('{after: "####"}', "anwser", 6, "source sums has no column `anwser`", "Did you mean `answer`?"),
        ('{after: "####"}', '{aftr: "#"}', 6, "`aftr` is not a key of `answer` of source sums", "`after`"),
        ('{after: "####"}', "3", 6, "`answer` should be text or a list or a mapping", "quotes"),
        ("info.subject", "info.subjects", 7, "no column `info.subjects`", "It has: `question`"),
        ("[answer, info.subject]", "{from: [answer], boxd: true}", 7, "`boxd`", "Did you mean `boxed`?"),
        ("columns:", "where: lvl > 3\n        columns:", 5, "no column 'lvl'", "level"),
        ("columns:", "where: level >\n        columns:", 5, "where", ""),
        ("columns:", "require: [question, images]\n        columns:", 3, "no column `images`", "columns: {images: …}"),
        ("columns:", "require: [qestion]\n        columns:", 5, "An entry of `require` can't be", "`question`"),
        ("columns:", "image_folder: pictures\n        columns:", 5, "pictures", ""),
        ("parquet: data/sums.parquet", "parquet: [data/sums.parquet, data/more.parquet]", 4, "more.parquet", ""),
        ("parquet: data/sums.parquet", "generator: os.pathh:join\n        count: 3", 4, "can't be imported", ""),
        ("parquet: data/sums.parquet", "generator: os.path:joni\n        count: 3", 4, "no function `joni`", "`join`"),
        ("parquet: data/sums.parquet", "version: other@stable", 4, "`version`: ", ""),
    ],
)  # fmt: skip
def test_a_source_is_held_against_its_files(
    write: Any, problems: Any, old: str, new: str, line: int, message: str, hint: str
) -> None:
    text = COLUMNS.replace(old, new, 1)
    assert text != COLUMNS
    found = problems(write(text))
    assert any(p.line == line and message in p.message and hint in p.hint for p in found), found


def test_the_columns_of_a_good_source_are_found(write: Any, problems: Any) -> None:
    assert problems(write(COLUMNS)) == []


def test_without_the_world_only_the_recipe_is_judged(write: Any, problems: Any) -> None:
    text = COLUMNS.replace("data/sums.parquet", "nowhere/at/all.parquet")
    assert problems(write(text), check_world=False) == []
    assert problems(write(text.replace("export: rl", "export: r")), check_world=False)


def test_what_a_broken_stage_would_make_is_not_missed_again(write: Any, problems: Any) -> None:
    found = problems(
        write(
            """
            name: sums
            sources: [{parquet: data/sums.parquet}]
            stages:
              - stage: fanout
                teacher: {kind: recordd}
              - stage: verify
              - stage: filter
                where: pass_rate > 0.5
            outputs: [{export: sft}]
            """
        )
    )
    assert {p.line for p in found} <= {4, 5}


def test_a_stage_that_makes_a_column_too_late_is_named(write: Any, problems: Any) -> None:
    found = problems(
        write(
            """
            name: sums
            sources: [{parquet: data/sums.parquet}]
            stages:
              - {stage: filter, name: clear, where: kind_of > 3}
              - {stage: sql, name: kinds, query: "select row_id, length(question) as kind_of from rows"}
            outputs: [{export: rl}]
            """
        )
    )
    assert one(found).hint == "Stage kinds makes it further down: move it up."


def test_sources_without_names_get_unique_ones(folder: Path, write: Any) -> None:
    (folder / "data" / "b").mkdir()
    (folder / "data" / "b" / "sums.parquet").write_bytes((folder / "data" / "sums.parquet").read_bytes())
    text = """
        name: sums
        sources:
          - parquet: data/sums.parquet
          - jsonl: data/sums.jsonl
          - parquet: data/b
          - {parquet: data/*.parquet, name: glob}
          - {generator: "builtins:dict", count: 0, require: []}
        outputs: [{export: rl}]
    """
    plan = load_recipe(write(text), check_world=False)
    assert [source.name for source in plan.sources] == ["sums", "sums-2", "b", "glob", "dict"]


def test_two_sources_of_one_name_are_a_problem(write: Any, problems: Any) -> None:
    text = "name: x\nsources:\n  - {name: a, parquet: data}\n  - {name: a, jsonl: data}\noutputs: [{export: rl}]\n"
    found = one(problems(write(text)))
    assert (found.line, "Two sources are called `a` (line 3)" in found.message) == (4, True)


@pytest.mark.parametrize("text", ["", "- a\n", "name: [", "just text", "name: x\nname: y\n"])
def test_a_file_that_is_no_recipe_is_a_problem(write: Any, problems: Any, text: str) -> None:
    assert len(problems(write(text))) == 1


def test_a_recipe_that_is_not_there_names_the_nearest(write: Any, folder: Path, problems: Any) -> None:
    write(GOOD)
    found = one(problems(folder / "recipee.yaml"))
    assert "Did you mean `recipe.yaml`?" in found.hint


def test_a_recipe_error_reads_well(write: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(GOOD.replace("seed", "sed").replace("export: rl", "export: sft")))
    assert caught.value.exit_code == 2
    lines = str(caught.value).splitlines()
    assert lines[0] == "The recipe has 3 problems; nothing was run."
    assert lines[2:4] == ["    sed: 3", "    Did you mean `seed`?"]


def test_every_shipped_recipe_loads() -> None:
    recipes = Path(__file__).resolve().parents[2] / "recipes"
    builds = [path for path in recipes.glob("*.yaml") if not path.name.startswith("train_")]
    for path in sorted(builds):
        # What lies on the Hub is looked for by builds, not here.
        plan = load_recipe(path, check_world="openmmreasoner" not in path.name)
        assert yamlfile.parse(plan.text, file="text").plain()["name"] == plan.recipe.name
