"""What an RL run leaves for people: its report, its table of difficulty, and what SQL and the command make of them."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from curation import build
from curation.catalog import query
from curation.commands import app
from curation.stages.difficulty import wilson
from tests.reports.browsing import chromium
from tests.training.conftest import lines
from tests.training.test_gspo import DIGITS, asked, plan_in
from training.difficulty import write_difficulty
from training.groups import EDGES, SCHEMA
from training.gspo import train
from training.plots import areas, bars, plot
from training.report import write_report

HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
VERSION = """
name: questions
language: none
sources: [{name: asked, jsonl: asked.jsonl, license: MIT}]
outputs: [{export: rl}]
"""


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rl") / ".winnow"


@pytest.fixture(scope="module")
def run(space: Path, models: Callable[[str], Path]) -> tuple[Path, str]:
    """The folder of a run, and what it said: three steps of four questions from a version of six, one of them hostile."""
    folder = space.parent
    rows = [{"id": str(n), "question": f"What is {n}? {HOSTILE * (n == 3)}", "answer": str(n)} for n in range(6)]
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "version.yaml").write_text(VERSION)
    build(folder / "version.yaml", workspace=space, workers=1)
    made = plan_in(folder, models)(
        asked(1), description=HOSTILE, data=[{"version": "questions"}], alarms={"mismatch": 1e-12}, reward=DIGITS,
        evaluation={"data": {"version": "questions", "config": "rl"}, "limit": 4, "max_new_tokens": 4, "every": 2},
    )  # fmt: skip
    with contextlib.redirect_stderr(io.StringIO()) as said:
        done = train(made, workspace=space)
    return done.folder, said.getvalue()


def answers(folder: Path) -> list[dict[str, Any]]:
    return [
        row for place in sorted((folder / "rollouts").glob("*.parquet")) for row in pq.read_table(place).to_pylist()
    ]


# --------------------------------------------------------------------------------------------------------------- report


def test_the_report_of_a_run(run: tuple[Path, str]) -> None:
    text = (run[0] / "report.html").read_text()
    figures = re.findall("<figcaption>([^<]*)", text)
    wanted = ("Reward and its parts", "Right answers", "Held-out accuracy", "Length of answers", "Cut off", "Groups",
              "Right answers per 1,000 tokens", "Verdicts", "Entropy", "Importance ratios", "Clipped",
              "Rollout against trainer", "Time of a step")  # fmt: skip
    assert [name for name in wanted if name not in [figure.strip() for figure in figures]] == []
    assert "Largest spread of rewards" in text and "step-000003" in text and "3 of 3" in text
    assert "tests.training.functions:by_digit" in text  # a function of one's own is a part of the reward
    assert not re.search(r"\bnan\b", text.split("<h2>Groups")[0])


def test_what_the_data_says_is_inert(run: tuple[Path, str], tmp_path: Path) -> None:
    """Questions, answers, sources, names of functions and problems are whatever somebody wrote."""
    folder = shutil.copytree(run[0], tmp_path / "run")
    table = pq.read_table(folder / "rollouts" / "step-000003.parquet")
    for name in ("row_id", "source", "question", "gold", "text", "state", "problem", "kind"):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array([HOSTILE] * len(table)))
    functions = pa.array([json.dumps({HOSTILE: 0.5})] * len(table))
    table = table.set_column(table.schema.get_field_index("functions"), "functions", functions)
    pq.write_table(table, folder / "rollouts" / "step-000003.parquet")
    *before, last = lines(folder / "metrics.jsonl")
    parts = {HOSTILE: {"reward": 0.5, "accuracy": 0.5, "format": 1.0}, "other": {"reward": 0.1}}
    bad = {"step": 3, "loss": 0.0, "by_source": parts, "alarms": [HOSTILE], "states": {HOSTILE: 3}, f"m:{HOSTILE}": 0.5}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (*before, last, bad)))
    text = write_report(folder).read_text()
    assert "<script" not in text and "<img" not in text
    assert text.count(escape(HOSTILE)) > 20


@pytest.mark.browser
def test_the_report_in_a_browser(run: tuple[Path, str]) -> None:
    from tests.conftest import browser

    path = browser()
    assert path is not None
    with chromium(path) as seen:
        seen.page.goto((run[0] / "report.html").as_uri())
        assert seen.page.locator("figure svg").count() > 12
        assert seen.page.locator("details table tr").count() >= 5  # a group of four, and its head
        assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        seen.check("file://")


def crafted(folder: Path, groups: dict[str, list[tuple[float | None, float | None]]]) -> None:
    """The newest step's file with groups of (accuracy, reward); their names are their kinds, up to a dash."""
    rows: list[dict[str, Any]] = []
    for n, (name, pairs) in enumerate(groups.items()):
        for k, (accuracy, reward) in enumerate(pairs):
            rows.append({
                "step": 9, "group": n, "k": k, "number": n, "row_id": f"<{name}>", "source": "s", "question": "?",
                "gold": "1", "text": "1", "tokens": 3, "finished": True, "accuracy": accuracy, "format": 0.0,
                "state": "correct" if accuracy else "incorrect", "overlong": 0.0, "functions": "{}", "reward": reward,
                "problem": "" if reward is not None else "undecided", "kind": name.split("-")[0], "advantage": 0.0,
                "used": reward is not None,
            })  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "rollouts" / "step-000009.parquet")


def test_groups_that_are_shown(run: tuple[Path, str], tmp_path: Path) -> None:
    folder = shutil.copytree(run[0], tmp_path / "run")
    crafted(folder, {
        "equal-wrong": [(0.0, 0.1), (0.0, 0.1)], "signal-little": [(0.0, 0.1), (0.0, 0.6)], "equal-right": [(1.0, 1.0)] * 2,
        "format-wrong": [(0.0, 0.0), (0.0, 0.1)], "signal-most": [(0.0, 0.0), (1.0, 1.0)], "unscored-all": [(None, None)] * 2,
        "equal-wrong-too": [(0.0, 0.1)] * 2,
    })  # fmt: skip
    found = re.findall(r"<b>([^<]*)</b>: ([^ ]*) \(s\), (\d) of 2 right", write_report(folder).read_text())
    assert found == [
        ("Largest spread of rewards", "&lt;signal-most&gt;", "1"),
        ("Differs in form only", "&lt;format-wrong&gt;", "0"),
        ("All wrong", "&lt;equal-wrong&gt;", "0"),
        ("All right", "&lt;equal-right&gt;", "2"),
        ("Could not be scored", "&lt;unscored-all&gt;", "0"),
    ]


def test_a_run_that_has_only_begun_has_a_report(run: tuple[Path, str], tmp_path: Path) -> None:
    for name in ("manifest.json", "recipe.yaml"):
        shutil.copy(run[0] / name, tmp_path / name)
    assert "0 of 3" in write_report(tmp_path).read_text()


# --------------------------------------------------------------------------------------------------------------- figures


def heights(svg: str, shape: str) -> list[list[tuple[float, float]]]:
    found = re.findall(rf'<{shape} points="([^"]*)"', svg)
    return [[tuple(map(float, point.split(","))) for point in one.split()] for one in found]  # type: ignore[misc]


def test_areas_stand_upon_each_other() -> None:
    svg = areas("t", {"a": [(0, 1.0), (1, 3.0)], "never": [(0, 0.0)], "b": [(0, 1.0), (1, 1.0)]})
    below, above = heights(svg, "polygon")
    assert below[:2] == above[:1:-1]  # the upper edge of one is the lower edge of the next
    assert above[1][1] == pytest.approx(8) and "never" not in svg  # 3 + 1 is the top
    assert areas("t", {"a": []}) == "" and plot("t", {"a": [(0, float("nan"))]}) == ""


def test_bars_are_shares_with_marks_where_clipping_begins() -> None:
    counts = [0] * (len(EDGES) + 1)
    counts[8], counts[-1] = 3, 1
    svg = bars("t", EDGES.tolist(), {"before": [1] * len(counts), "now": counts}, (-1.0, 1.0))
    (shape,), (line,) = heights(svg, "polygon"), heights(svg, "polyline")
    bottom = max(y for _, y in shape)
    tall = [bottom - y for _, y in shape[1:-1:2]]
    assert np.argmax(tall) == 8 and tall[-1] == pytest.approx(max(tall) / 3, rel=0.01)
    assert len({y for _, y in line}) == 1 and svg.count("stroke-dasharray") == 2
    left, right = (float(x) for x in re.findall(r'<line x1="([\d.]+)" [^>]*dasharray', svg))
    middle = (shape[1 + 2 * 8][0] + shape[2 + 2 * 8][0]) / 2  # of the bar from -0.5 to 0
    assert left < middle < right
    assert bars("t", EDGES.tolist(), {"now": [0] * len(counts)}) == ""


# --------------------------------------------------------------------------------------------------------------- alarms


def test_an_alarm_is_in_the_metrics_on_the_console_and_in_the_report(run: tuple[Path, str]) -> None:
    folder, said = run
    told = [line["alarms"] for line in lines(folder / "metrics.jsonl") if "loss" in line]
    assert [len(texts) for texts in told] == [1, 0, 0]
    assert "Rollouts are not drawn from the policy" in told[0][0]
    assert said.count(told[0][0]) == 1 and f"step 1: {told[0][0]}" in said
    assert escape(told[0][0]) in (folder / "report.html").read_text().split("<h2>Curves")[0]


# ----------------------------------------------------------------------------------------------------------- difficulty


def expected(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The table, counted the long way."""
    by_question: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_question[row["source"], row["row_id"]].append(row)
    for (source, row_id), mine in sorted(by_question.items()):
        judged = [row for row in mine if row["accuracy"] is not None]
        correct = sum(row["accuracy"] for row in judged)
        low, high = (float(side[0]) for side in wilson(np.array([correct]), np.array([len(judged)])))
        rates = {}
        for step in sorted({row["step"] for row in judged}):
            then = [row["accuracy"] for row in judged if row["step"] == step]
            rates[step] = sum(then) / len(then)
        some = bool(judged)
        yield {
            "row_id": row_id, "source": source, "n_asked": len(mine), "n_judged": len(judged), "n_correct": correct,
            "pass_rate": correct / len(judged) if some else None, "pass_rate_low": low if some else None,
            "pass_rate_high": high if some else None, "first_step": min(row["step"] for row in mine),
            "last_step": max(row["step"] for row in mine), "first_pass_rate": rates[min(rates)] if some else None,
            "last_pass_rate": rates[max(rates)] if some else None,
            "response_tokens": sum(row["tokens"] for row in mine) / len(mine),
        }  # fmt: skip


def test_difficulty_of_the_run(run: tuple[Path, str]) -> None:
    found = pq.read_table(run[0] / "difficulty.parquet").to_pylist()
    assert found == list(expected(answers(run[0])))
    assert len(found) == 6 and sum(row["n_asked"] for row in found) == 3 * 4 * 4
    assert all(row["first_step"] < row["last_step"] for row in found)


def test_difficulty_counts_what_could_be_judged_up_to_a_step(run: tuple[Path, str], tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    folder = shutil.copytree(run[0], tmp_path / "run")
    for place in (folder / "rollouts").glob("*.parquet"):
        table = pq.read_table(place)
        verdicts = [None if value > 1 else float(value) for value in draw.integers(0, 3, len(table))]
        hard = [
            None if row == table["row_id"][0].as_py() else v
            for row, v in zip(table["row_id"].to_pylist(), verdicts, strict=True)
        ]
        at = table.schema.get_field_index("accuracy")
        pq.write_table(table.set_column(at, "accuracy", pa.array(hard, pa.float64())), place)
    rows = answers(folder)
    for step in (3, 2):
        place = write_difficulty(folder, step)
        assert place is not None
        found = pq.read_table(place).to_pylist()
        assert found == list(expected([row for row in rows if row["step"] <= step]))
        assert any(row["first_pass_rate"] != row["last_pass_rate"] for row in found)
    before = place.read_bytes()
    write_difficulty(folder, 2)
    assert place.read_bytes() == before
    shutil.rmtree(folder / "rollouts")
    assert write_difficulty(folder, 3) is None


def test_sql_joins_a_run_with_the_version_it_was_trained_on(run: tuple[Path, str], space: Path) -> None:
    found = query(space, """
        select q.question, d.n_asked, d.last_pass_rate from "run:run".difficulty d join questions.rows q using (row_id)
        where d.n_correct = 0 and d.n_judged > 0 order by q.question
    """).to_pylist()  # fmt: skip
    never = [row for row in expected(answers(run[0])) if row["n_correct"] == 0 and row["n_judged"]]
    assert len(found) == len(never) > 0 and all(row["question"].startswith("What is") for row in found)
    counted = query(space, 'select count(*) as n, sum(used::int) as used from "run:run".rollouts').to_pylist()
    assert counted == [{"n": 48, "used": sum(row["used"] for row in answers(run[0]))}]
    held = query(space, 'select step, count(*) as n from "run:run".answers group by step order by step').to_pylist()
    assert held == [{"step": step, "n": 4} for step in (0, 2, 3)]
    with duckdb.connect(str(space / "catalog.duckdb"), read_only=True) as connection:  # the run wrote it at its end
        assert connection.sql('from "run:run".difficulty').fetchall()


# -------------------------------------------------------------------------------------------------------------- command


def test_the_command_writes_the_report_of_a_run(run: tuple[Path, str], space: Path, tmp_path: Path) -> None:
    def winnow(*words: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, ["report", "--workspace", str(space), *words])
        return done.exit_code, done.stdout.strip(), done.stderr

    place = run[0] / "report.html"
    text = place.read_text()
    for name in ("run:run", "run", str(run[0])):
        place.unlink()
        assert winnow(name)[:2] == (0, str(place))
        assert place.read_text() == text
    assert winnow("run:run", "-o", str(tmp_path / "own.html"))[:2] == (0, str(tmp_path / "own.html"))
    assert (tmp_path / "own.html").read_text() == text
    code, _, said = winnow("run:rum")
    assert code == 1 and "no training run 'rum'" in said and "There are: run." in said
    code, _, said = winnow("run", "--markdown")
    assert code == 1 and "takes only --output" in said
    assert winnow("nothing")[0] == 1


def test_of_a_version_and_a_run_with_one_name_the_name_alone_is_the_version(
    run: tuple[Path, str], space: Path, tmp_path: Path
) -> None:
    shutil.copytree(run[0], space / "runs" / "questions")
    out = tmp_path / "version.html"
    done = CliRunner().invoke(app, ["report", "--workspace", str(space), "questions", "-o", str(out)])
    assert done.exit_code == 0, done.stderr
    assert "winnow report run:questions" in done.stderr and "<title>questions@" in out.read_text()
    shutil.rmtree(space / "runs" / "questions")
