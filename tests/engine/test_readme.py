"""The README tells the truth: its recipe validates, its stage runs, its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

from curation import build
from curation.recipe import load_recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_stage_example_runs(project: Path) -> None:
    code = next(block for block in blocks("python") if "row_stage" in block)
    (project / "too_many_numbers.py").write_text(code)
    use = yaml.safe_load(next(block for block in blocks("yaml") if block.startswith("use:")))
    recipe = yaml.safe_load((project / "recipe.yaml").read_text())
    recipe |= {"use": use["use"], "stages": [{"stage": "too_many_numbers", "most": 1}, *recipe["stages"]]}
    (project / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    version = build(project / "recipe.yaml", workspace=project / "ws", workers=2)
    dropped = version.sql(
        "select sentence, evidence, count(*) as n from ledger where stage = 'too_many_numbers' group by all"
    )
    assert dropped.to_dicts() == [
        {"sentence": "The question has more than 1 numbers.", "evidence": '{"most":1}', "n": 60}
    ]


def test_the_recipe_example_is_valid(tmp_path: Path) -> None:
    text = next(block for block in blocks("yaml") if block.startswith("name:"))
    (tmp_path / "data").symlink_to(ROOT / "recipes" / "data")
    (tmp_path / "recipe.yaml").write_text(text)
    plan = load_recipe(tmp_path / "recipe.yaml", workspace=tmp_path / "ws")
    assert [stage.name for stage in plan.stages] == ["annotate", "normalize", "filter", "split"]
    assert build(tmp_path / "recipe.yaml", workspace=tmp_path / "ws").kept == 196


def test_the_commands_exist() -> None:
    named = set(re.findall(r"`winnow ([a-z-]+)", README)) | {"show", "gc", "schema"}
    for command in sorted(named):
        done = subprocess.run([sys.executable, "-m", "curation.cli", command, "--help"], capture_output=True, text=True)
        assert done.returncode == 0, f"winnow {command}: {done.stderr}"
        assert "Example" in done.stdout or "winnow " in done.stdout


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link
