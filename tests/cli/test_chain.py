"""Chains: checked as a whole, run step by step, and run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

CHAIN = """\
- build: recipe.yaml
  set: [seed=3]
  limit: 10
- tag: sums
  as: first
- sql: select count(*) as n from sums.rows
  to: count.json
- sql: select 1 as one
"""


def test_a_chain_runs_its_steps_and_can_run_again(winnow: Any, fresh: Path) -> None:
    (fresh / "chain.yaml").write_text(CHAIN)
    said = winnow("run", "chain.yaml", cwd=fresh)
    assert said.code == 0, said.err
    assert [line.split(":")[0] for line in said.out.splitlines()] == ["build", "tag", "sql", "sql"]
    assert json.loads((fresh / "count.json").read_text()) == [{"n": 9}]
    again = winnow("run", "chain.yaml", "--json", "--quiet", cwd=fresh)
    steps = [json.loads(line) for line in again.out.splitlines()]
    assert [step["step"] for step in steps] == ["build", "tag", "sql", "sql"] and again.err == ""
    assert len(winnow("versions", "--json", cwd=fresh).json) == 1


@pytest.mark.parametrize(
    ("chain", "line", "words"),
    [
        ("- biuld: recipe.yaml\n", 1, "Did you mean `build`?"),
        ("- train: recipe.yaml\n", 1, "`sql`"),
        ("- build: recipe.yaml\n- build: recip.yaml\n", 2, "Did you mean `recipe.yaml`?"),
        ("- build: recipe.yaml\n  limt: 3\n", 2, "Did you mean `limit`?"),
        ("- tag: sums\n", 1, "`as` is missing in step tag"),
        ("- build: recipe.yaml\n  sql: select 1\n", 1, "more than one step"),
        ("build: recipe.yaml\n", 1, "a list of steps"),
        ("- build: [x\n", 1, "closed"),
    ],
)
def test_a_wrong_chain_is_said_before_its_first_step(
    winnow: Any, fresh: Path, chain: str, line: int, words: str
) -> None:
    (fresh / "chain.yaml").write_text(chain)
    said = winnow("run", "chain.yaml", cwd=fresh)
    assert (said.code, said.out) == (2, "")
    assert f"chain.yaml:{line}: " in said.err and words in said.err
    assert not (fresh / "ws" / "versions" / "sums").exists()


def test_a_step_that_fails_stops_the_chain(winnow: Any, fresh: Path) -> None:
    (fresh / "chain.yaml").write_text("- sql: select * from nothing\n- build: recipe.yaml\n")
    said = winnow("run", "chain.yaml", cwd=fresh)
    assert said.code == 1 and not (fresh / "ws" / "versions" / "sums").exists()


def test_other_modules_add_steps(fresh: Path) -> None:
    from curation import chain
    from schemas.recipe import Model

    class Echo(Model):
        echo: str

    chain.STEPS["echo"] = chain.Step(Echo, lambda config, setting: {"said": config.echo})
    try:
        (fresh / "chain.yaml").write_text("- echo: hello\n")
        assert list(chain.run_chain(fresh / "chain.yaml")) == [{"step": "echo", "said": "hello"}]
    finally:
        del chain.STEPS["echo"]
