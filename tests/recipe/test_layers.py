"""extends, overrides, environment variables, own stages: how several texts become one recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from curation.recipe import load_recipe
from curation.recipe.layers import source_name

BASE = """
    name: base
    seed: 1
    sources:
      - {name: sums, parquet: data/sums.parquet, columns: {answer: {after: "#"}}}
      - {name: lines, jsonl: data/sums.jsonl}
    stages:
      - stage: normalize
      - {stage: filter, name: dedup.text, where: length(question) < 100, reason: too long}
    outputs:
      - {export: rl}
      - {export: rows}
"""


@pytest.fixture
def base(write: Any) -> Path:
    return write(BASE, "base.yaml")


def test_a_recipe_is_laid_over_what_it_extends(base: Path, write: Any) -> None:
    plan = load_recipe(
        write(
            """
            extends: base.yaml
            name: child
            sources:
              - {name: lines, enabled: false}
              - {name: sums, columns: {solution: answer}}
              - {name: more, jsonl: data/sums.jsonl}
            stages:
              - {name: dedup.text, where: length(question) < 50}
              - {name: normalize, enabled: false}
              - {stage: filter, where: "true"}
            outputs:
              - {export: rows, enabled: false}
            """
        )
    )
    assert (plan.recipe.name, plan.recipe.seed) == ("child", 1)
    assert [source.name for source in plan.sources] == ["sums", "more"]
    columns = plan.sources[0].columns.model_dump(by_alias=True)
    assert columns["answer"]["after"] == "#" and columns["solution"]["from"] == ["answer"]
    assert [stage.name for stage in plan.stages] == ["annotate", "dedup.text", "filter"]
    changed = plan.stages[1].config.model_dump()
    assert (changed["where"], changed["reason"]) == ("length(question) < 50", "too long")
    assert [output.name for output in plan.outputs] == ["rl"]
    assert "extends" not in plan.text


def test_another_place_or_kind_replaces_the_old_one(base: Path, write: Any) -> None:
    plan = load_recipe(
        write(
            """
            extends: base.yaml
            sources: [{name: sums, jsonl: data/sums.jsonl}]
            stages: [{name: dedup.text, stage: mix, total: 3}]
            """
        )
    )
    assert plan.sources[0].place == "jsonl" and plan.sources[0].parquet is None
    assert plan.stages[-1].stage.kind == "mix"


def test_a_problem_in_a_base_points_into_the_base(base: Path, write: Any, problems: Any) -> None:
    base.write_text(base.read_text().replace("seed: 1", "sed: 1"))
    (found,) = problems(write("extends: base.yaml\nname: child\n"))
    assert (Path(found.file).name, found.line, found.text) == ("base.yaml", 2, "sed: 1")


def test_paths_begin_at_the_file_in_which_they_stand(base: Path, write: Any, folder: Path) -> None:
    path = write("extends: ../../base.yaml\nsources: [{name: own, jsonl: own.jsonl}]\n", "runs/july/child.yaml")
    (path.parent / "own.jsonl").write_text('{"question": "1?"}\n')
    plan = load_recipe(path)
    assert plan.recipe_dir == path.parent
    assert plan.sources[0].parquet == "../../data/sums.parquet"
    assert plan.sources[2].jsonl == "own.jsonl"
    again = load_recipe(write(plan.text, "runs/july/again.yaml"))
    assert again.sources == plan.sources


def test_a_chain_of_bases_and_a_circle(base: Path, write: Any, problems: Any) -> None:
    write("extends: base.yaml\nname: middle\nseed: 2\n", "middle.yaml")
    assert load_recipe(write("extends: middle.yaml\nname: top\n", "top.yaml")).recipe.seed == 2
    write("extends: circle_b.yaml\nname: a\n", "circle_a.yaml")
    found = problems(write("extends: circle_a.yaml\nname: b\n", "circle_b.yaml"))
    assert any("extends itself: circle_b.yaml -> circle_a.yaml -> circle_b.yaml" in p.message for p in found)


def test_a_base_that_is_not_there_names_the_nearest(base: Path, write: Any, problems: Any) -> None:
    found = problems(write("extends: bsae.yaml\nname: child\n"))
    assert found[0].line == 1 and found[0].hint == "Did you mean `base.yaml`?"


def test_a_changed_entry_that_the_base_has_not_is_said(base: Path, write: Any, problems: Any) -> None:
    (found,) = problems(write("extends: base.yaml\nstages: [{name: dedup.texts, where: 'true'}]\n"))
    assert found.message.startswith("`stage` is missing") and "called `dedup.texts`" in found.hint


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("seed=7", 7),
        ("stages.dedup.text.where=length(question) < 9", "length(question) < 9"),
        ("sources.sums.max_quarantine=0.5", 0.5),
        ("sources.sums.columns.answer.after=yes", "yes"),
        ("sources.sums.require=[question, answer]", ["question", "answer"]),
        ("outputs.rl.name=other", "other"),
        ('description="08"', "08"),
        ("description=a=b", "a=b"),
    ],
)
def test_overrides_change_one_value(base: Path, override: str, value: object) -> None:
    from curation import yamlfile

    plan = load_recipe(base, overrides=[override])
    assert yamlfile.parse(plan.text, file="").plain() != yamlfile.read(base).plain()
    assert value in list(leaves(yamlfile.parse(plan.text, file="").plain()))


def leaves(data: Any) -> Any:
    yield data
    for child in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from leaves(child)


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        ("sede=3", "`sede` is not a key of a recipe", "`seed`"),
        ("normalize.x=3", "`normalize` is not a key of a recipe", "`stages.normalize.x`"),
        ("stages.normalise.x=3", "no stage called `normalise`", "`normalize`"),
        ("stages.dedup.txt.where=3", "no stage called `dedup`", "`dedup.text`"),
        ("sources.sum.x=3", "no source called `sum`", "`sums`"),
        ("outputs.sft.x=3", "no output called `sft`", "There are: rl, rows"),
        ("stages.normalize=3", "Name the key of stage `normalize`", "stages.normalize.KEY"),
        ("stages.dedup.text.wher=3", "`wher` is not a key", "`where`"),
        ("seed=x", "`seed` should be a whole number", ""),
        ("seed", "KEY=VALUE", "--set"),
        ("seed=[3", "[", ""),
    ],
)
def test_an_override_that_fits_nothing_is_a_problem(
    base: Path, problems: Any, override: str, message: str, hint: str
) -> None:
    (found,) = problems(base, override)
    assert found.file == f"--set {override}" and message in found.message and hint in found.hint


def test_environment_variables_stand_in_paths(write: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUMS", str(folder / "data"))
    path = write("name: x\nsources: [{parquet: '${SUMS}/sums.parquet'}]\noutputs: [{export: rl}]\n")
    plan = load_recipe(path)
    assert plan.sources[0].parquet == f"{folder}/data/sums.parquet"
    assert "${SUMS}/sums.parquet" in plan.text and str(folder) not in plan.text


def test_a_variable_that_is_not_set_is_said_once(write: Any, problems: Any) -> None:
    text = "name: x\nsources: [{parquet: '${WINNOW_NOT_SET}/sums.parquet'}]\noutputs: [{export: rl}]\n"
    (found,) = problems(write(text))
    assert found.line == 2 and "WINNOW_NOT_SET is not set" in found.message


def test_latex_is_no_environment_variable(write: Any, problems: Any) -> None:
    text = """
        name: x
        sources: [{parquet: data/sums.parquet}]
        stages: [{stage: filter, where: "question != '${x}$'"}]
        outputs: [{export: rl}]
    """
    assert problems(write(text)) == []


OWN_STAGE = '''
from typing import Literal
from curation.stages import Outcome, StageConfig, row_stage

class Loud(StageConfig):
    """Drops nothing."""
    stage: Literal["{name}"] = "{name}"
    times: int = 1

@row_stage(Loud, revision=1, reads=("question",))
def run(config, rows, context):
    return Outcome()
'''


OWN = """
    name: x
    use: {use}
    sources: [{{parquet: data/sums.parquet}}]
    stages: [{stages}]
    outputs: [{{export: rl}}]
"""


def test_own_stages_are_imported_before_they_are_used(write: Any, problems: Any) -> None:
    write(OWN_STAGE.replace("{name}", "loud"), "own/loud.py")
    plan = load_recipe(write(OWN.format(use="[own/loud.py]", stages="{stage: loud, times: 2}")))
    assert plan.stages[-1].stage.kind == "loud"
    assert [Path(file).is_absolute() and Path(file).name for file in plan.use] == ["loud.py"]
    (found,) = problems(write(OWN.format(use="[own/loud.py]", stages="{stage: loud, tims: 2}")))
    assert found.hint == "Did you mean `times`?"


def test_own_stages_that_fail_to_import_are_problems(write: Any, problems: Any) -> None:
    write("import json\n\njson.nothing\n", "own/broken.py")
    write("def (:\n", "own/syntax.py")
    use = "[own/broken.py, own/syntax.py, own/none.py, no_such_module]"
    found = problems(write(OWN.format(use=use, stages="{stage: shout}")))
    assert [p.line for p in found] == [2, 2, 2, 2]
    said = "\n".join(map(str, found))
    assert "AttributeError" in said and "broken.py, line 3" in said
    assert "SyntaxError" in said and "none.py" in said and "no_such_module" in said


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ({"parquet": "data/Train Set.parquet"}, "train-set"),
        ({"parquet": "data/train-*.parquet"}, "data"),
        ({"parquet": ["a/x.parquet", "b/y.parquet"]}, "x"),
        ({"jsonl": "data/records.jsonl.gz"}, "records"),
        ({"jsonl": "${DATA}/geometry3k"}, "geometry3k"),
        ({"hub": "openai/gsm8k@main"}, "gsm8k"),
        ({"version": "quickstart@stable"}, "quickstart"),
        ({"generator": "tasks.sums:Addition"}, "addition"),
        ({"parquet": "*.parquet"}, "parquet"),
    ],
)
def test_a_source_is_named_after_its_place(source: dict[str, Any], name: str) -> None:
    assert source_name(source) == name
