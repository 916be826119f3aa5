"""Traces in whole versions: several fan-outs, the prompt of training examples, and the commands that look at traces."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from curation import build, open_version
from curation.recipe import load_recipe
from curation.sidebyside import look
from curation.teachers.compare import compare, prices
from schemas.errors import RecipeError, WinnowError


def winnow(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "curation.cli", *words], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def two(project: Path, edit: Callable[..., None]) -> Path:
    """The project with two teachers: `good` is right (all but some of k = 3), `poor` gives two answers, cut or wrong."""
    lines = [json.loads(line) for line in (project / "responses.jsonl").read_text().splitlines()]
    poor = [
        {
            "id": r["id"],
            "sample": r["sample"],
            "response": "I think that \\boxed{0}" if r["sample"] else "So I",
            "why": "stop" if r["sample"] else "length",
            "tokens": 5,
            "model": "p",
        }
        for r in lines
        if r["sample"] < 2
    ]
    (project / "poor.jsonl").write_text("".join(json.dumps(line) + "\n" for line in poor))

    def how(recipe: dict[str, Any]) -> None:
        at = next(i for i, s in enumerate(recipe["stages"]) if s["stage"] == "fanout")
        recipe["stages"][at]["name"] = "good"
        teacher = {"kind": "recorded", "path": "poor.jsonl", "k": "sample", "finish": "why", "output_tokens": "tokens"}
        recipe["stages"].insert(
            at + 1, {"stage": "fanout", "name": "poor", "n": 2, "sources": ["text"], "teacher": teacher}
        )

    edit(how)
    return project


def test_a_second_fan_out_adds_and_replaces_nothing(two: Path) -> None:
    version = build(two / "recipe.yaml", workspace=two / "ws", workers=1)
    traces = version.traces()
    asked = traces.filter(pl.col("stage") == "good")["row_id"].n_unique()
    assert Counter(traces["stage"]) == {"good": 4 * asked, "poor": 2 * asked}
    assert traces.filter(pl.col("stage") == "poor")["k"].unique().sort().to_list() == [4, 5]
    assert traces.select("row_id", "k").is_unique().all()
    assert version.manifest["counts"]["traces"]["made"] == len(traces)
    # Only the second one asked of another source: the first one's traces stay where they are.
    for name, count in (("good", 4 * asked), ("poor", 2 * asked)):
        again = build(
            two / "recipe.yaml",
            workspace=two / "ws",
            workers=1,
            set=[f"stages.{'poor' if name == 'good' else 'good'}.sources=[pictures]"],
        )
        assert Counter(again.traces()["stage"]) == {name: count}


def test_the_whole_is_the_same_with_any_number_of_workers_and_blocks(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from curation.engines import rows as engine

    first = build(two / "recipe.yaml", workspace=two / "a", workers=1)
    monkeypatch.setattr(engine, "BLOCK_ROWS", 7)
    second = build(two / "recipe.yaml", workspace=two / "b", workers=2)
    assert first.id == second.id


def test_teachers_are_compared_by_what_their_traces_are_worth(two: Path) -> None:
    version = build(two / "recipe.yaml", workspace=two / "ws", workers=1)
    good, poor = compare(version, prices(["poor=1,2"]))
    assert (good.stage, poor.stage) == ("good", "poor") and good.rows == poor.rows
    verdicts = version.traces().filter(pl.col("stage") == "good")
    assert good.verified == pytest.approx((verdicts["state"] == "correct").mean())
    assert good.rows_solved == 1.0 and good.truncated == 0 and good.cost is None
    assert poor.verified == 0 and poor.truncated == 0.5 and poor.distinct_answers == 1.0 and poor.mean_tokens == 5
    assert poor.cost == pytest.approx(2 * 5 * poor.traces / 1e6) and poor.cost_per_1000_correct is None
    with pytest.raises(WinnowError, match="has no fanout 'other'; it has good, poor"):
        compare(version, prices(["other=1,2"]))
    for wrong in ("poor", "poor=1", "poor=a,b", "=1,2", "poor=-1,2"):
        with pytest.raises(WinnowError, match="is no price"):
            prices([wrong])
    said = winnow("teacher-compare", "demo", "-w", "ws", cwd=two)
    assert said.returncode == 0 and "verified" in said.stdout and "50.0%" in said.stdout
    assert [
        line["stage"] for line in json.loads(winnow("teacher-compare", "demo", "-w", "ws", "--json", cwd=two).stdout)
    ] == ["good", "poor"]


def test_traces_side_by_side(two: Path, edit: Callable[..., None]) -> None:
    version = build(two / "recipe.yaml", workspace=two / "ws", workers=1)
    seen = look(version, "text:t1")
    assert [t["k"] for t in seen.traces] == [0, 1, 2, 3, 4, 5]
    wide, narrow = seen.text(width=140), seen.text(width=50)
    assert "What is 1 + 2?" in wide and "k=0  correct" in wide and "k=4  truncated" in wide
    assert any("k=0" in line and "k=1" in line for line in wide.splitlines())
    assert not any("k=0" in line and "k=1" in line for line in narrow.splitlines())
    assert max(map(len, narrow.splitlines())) <= 50
    pictured = look(version, "pictures:p3", two / "seen")
    (path,) = pictured.images
    assert path.read_bytes() == (two / "pictures" / "images" / "3.png").read_bytes()
    assert "No teacher answered this row." in pictured.text() and path.resolve().as_uri() in pictured.text()
    shown = winnow("traces", "demo", "text:t1", "-w", "ws", cwd=two)
    assert shown.returncode == 0 and "k=5" in shown.stdout
    assert len(json.loads(winnow("traces", "demo", "t1", "-w", "ws", "--json", cwd=two).stdout)["traces"]) == 6
    assert winnow("traces", "demo", "nobody", "-w", "ws", cwd=two).returncode == 1


def test_control_characters_of_a_teacher_do_not_reach_the_terminal(project: Path, edit: Callable[..., None]) -> None:
    lines = [{"id": "t1", "sample": 0, "response": "\x1b[31mred\x1b[0m \\boxed{3}"}]
    (project / "responses.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    version = build(project / "recipe.yaml", workspace=project / "ws", workers=1)
    text = look(version, "text:t1").text()
    assert "\x1b" not in text and "\\x1b[31mred" in text


def test_training_examples_have_the_prompt_of_the_teacher(project: Path, edit: Callable[..., None]) -> None:
    def ask(recipe: dict[str, Any]) -> None:
        (fanout,) = (s for s in recipe["stages"] if s["stage"] == "fanout")
        fanout.update(system="Think first.", template="{question} Go on.")

    edit(ask)
    version = build(project / "recipe.yaml", workspace=project / "ws", workers=1)
    for config in ("sft", "rl"):
        record = version.dataset(config)[0]
        system, user = record["messages" if config == "sft" else "prompt"][:2]
        assert (system["role"], user["role"]) == ("system", "user")
        assert "Think first." in str(system["content"]) and "Go on." in str(user["content"])
    assert all("asked_otherwise" not in output for output in version.manifest["outputs"])
    edit(lambda recipe: recipe["outputs"][0].update(system=None, prompt="{question}"))
    said: list[str] = []

    from curation.console import Quiet

    class Notes(Quiet):
        def note(self, text: str) -> None:
            said.append(text)

    other = build(project / "recipe.yaml", workspace=project / "ws", workers=1, reporter=Notes())
    assert other.dataset("sft")[0]["messages"][0]["role"] == "user"
    assert len(said) == 1 and "Output sft: its examples are prompted otherwise than the teacher was" in said[0]
    first, second = other.manifest["outputs"]
    assert first["asked_otherwise"] == {"template": "{question} Go on.", "system": "Think first."}
    assert "asked_otherwise" not in second
    assert "prompted otherwise than the teacher was" in (other.path / "README.md").read_text()


def test_fan_outs_with_different_prompts_need_an_output_that_says_its_own(two: Path, edit: Callable[..., None]) -> None:
    edit(lambda recipe: recipe["stages"][4].update(system="Another."))
    with pytest.raises(RecipeError, match="ask with different prompts, so it must say its own"):
        load_recipe(two / "recipe.yaml")
    edit(lambda recipe: [output.update(prompt="{question}", system=None) for output in recipe["outputs"]])
    load_recipe(two / "recipe.yaml")


def test_malformed_answers_are_not_exported(project: Path, edit: Callable[..., None]) -> None:
    edit(lambda recipe: next(s for s in recipe["stages"] if s["stage"] == "fanout").update(format="think"))
    edit(lambda recipe: recipe.update(outputs=[{"export": "sft", "traces": "all"}]))
    everything = build(project / "recipe.yaml", workspace=project / "ws", workers=1)
    assert set(everything.traces()["malformed"]) == {"no think block"}
    edit(lambda recipe: recipe.update(outputs=[{"export": "sft"}, {"export": "rl"}]))
    none = build(project / "recipe.yaml", workspace=project / "ws", workers=1)
    reasons = Counter(none.traces().filter(pl.col("state") == "correct")["fate_reason"])
    assert reasons and set(reasons) == {"malformed"}


def test_a_plan_tells_what_a_teacher_would_cost_and_a_build_what_it_did(
    project: Path, edit: Callable[..., None], loopback: Callable[..., Any]
) -> None:
    server = loopback()

    def ask(recipe: dict[str, Any]) -> None:
        recipe["sources"] = recipe["sources"][:1]
        recipe["stages"] = [
            {"stage": "fanout", "n": 2, "teacher": server.teacher, "max_tokens": 100},
            {"stage": "verify"},
        ]

    edit(ask)
    (project / "ws").mkdir()
    first = winnow("build", "recipe.yaml", "--plan", "-w", "ws", cwd=project)
    assert first.returncode == 0, first.stderr
    recipe = yaml.safe_load((project / "recipe.yaml").read_text())
    (project / "read.yaml").write_text(yaml.safe_dump({**recipe, "stages": [], "outputs": [{"export": "rl"}]}))
    assert winnow("build", "read.yaml", "-w", "ws", "--quiet", cwd=project).returncode == 0
    plan = winnow("build", "recipe.yaml", "--plan", "-w", "ws", cwd=project)
    assert "120 answers in 60 requests: about" in plan.stdout and "12.0 k out" in plan.stdout
    steps = json.loads(winnow("build", "recipe.yaml", "--plan", "--json", "-w", "ws", cwd=project).stdout)["steps"]
    told = next(step for step in steps if step["kind"] == "fanout")
    assert (told["requests"], told["answers"], told["tokens"]) == (60, 120, 12_000) and told["prompt_tokens"] > 300
    events = winnow("build", "recipe.yaml", "-w", "ws", "--log-json", cwd=project).stderr.splitlines()
    status = [json.loads(line) for line in events if '"status"' in line]
    assert status and status[-1]["answers"] == 120 and "correct so far" in status[-1]["text"]
    assert server.counts()["asked"] == 120
    version = open_version("demo", project / "ws")
    (notes,) = [stage["notes"] for stage in version.manifest["stages"] if stage["kind"] == "fanout"]
    assert notes["asked"] == 120 and notes["output_tokens"] > 1000


def test_the_command_that_serves_is_told(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed: python tests/vllm_environment.py")
    (tmp_path / "model").mkdir()
    said = winnow("serve-teacher", "model", "--port", "81", "--print", "--dtype", "float32", cwd=tmp_path)
    assert said.returncode == 0
    assert "--model" in said.stdout and "--port 81" in said.stdout and said.stdout.rstrip().endswith("--dtype float32")
    assert "VLLM_SERVER_DEV_MODE" not in said.stdout  # who reaches such a server can have it read any file
    said = winnow("serve-teacher", "model", "--rollouts", "--print", cwd=tmp_path)
    assert "VLLM_SERVER_DEV_MODE=1" in said.stdout and "--logprobs-mode processed_logprobs" in said.stdout
