"""Every command as a person sees it: what it prints, where, and its exit code."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

COMMANDS = (
    "build", "quickstart", "run", "versions", "show", "why", "sql", "diff", "tag", "fsck", "gc", "doctor", "schema",
    "check", "train",
)  # fmt: skip


def test_help_names_every_command(winnow: Any) -> None:
    said = winnow("--help")
    assert said.code == 0
    assert [name for name in COMMANDS if name not in said.out] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_an_example(winnow: Any, name: str) -> None:
    said = winnow(name, "--help").out
    assert "Examples" in said and f"winnow {name}" in said.split("Examples")[1]


def test_help_imports_nothing_heavy() -> None:
    script = "import sys, curation.cli; print(*sorted(m for m in sys.modules if '.' not in m))"
    root = Path(__file__).resolve().parents[2]
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=True)
    heavy = {"polars", "duckdb", "pyarrow", "numpy", "pydantic", "datasets", "torch", "numba", "sympy", "yaml", "PIL"}
    assert heavy & set(loaded.stdout.split()) == set()


def test_build_prints_the_version_to_standard_output_and_progress_to_the_other(winnow: Any, built: Path) -> None:
    said = winnow("build", "recipe.yaml", "--workers", "1")
    assert said.code == 0
    assert said.out.startswith("sums@") and "19 of 20 rows kept (1 dropped)" in said.out
    assert "filter" in said.err and "cached" in said.err


def test_build_quiet_says_nothing_on_the_way(winnow: Any) -> None:
    said = winnow("build", "recipe.yaml", "--quiet", "--json", "--workers", "1")
    assert said.err == "" and said.json["name"] == "sums" and said.json["rows"] == 19


def test_build_logs_json_lines(winnow: Any, fresh: Path) -> None:
    said = winnow("build", "recipe.yaml", "--log-json", "--workers", "1", cwd=fresh)
    events = [json.loads(line) for line in said.err.splitlines()]
    finished = {e["stage"]: e for e in events if e["event"] == "stage_finished"}
    assert finished["filter"]["rows_in"] == 20 and finished["filter"]["dropped"] == 1
    assert events[-1]["event"] == "finished" and events[-1]["name"] == "sums"


def test_a_plan_says_what_is_cached_and_runs_nothing(winnow: Any, fresh: Path) -> None:
    before = winnow("build", "recipe.yaml", "--plan", "--json", cwd=fresh).json
    assert {step["cached"] for step in before["steps"]} <= {False, None}
    assert not list((fresh / "ws").glob("versions/*"))
    winnow("build", "recipe.yaml", "--workers", "1", cwd=fresh)
    after = winnow("build", "recipe.yaml", "--plan", "--json", cwd=fresh).json
    assert [step["cached"] for step in after["steps"]] == [True] * len(after["steps"])
    changed = winnow("build", "recipe.yaml", "--plan", "--set", "stages.filter.reason=other", "--json", cwd=fresh).json
    assert {step["name"]: step["cached"] for step in changed["steps"]}["filter"] is False
    assert "to run" in winnow("build", "recipe.yaml", "--plan", "--set", "stages.filter.reason=other", cwd=fresh).out


def test_limit_and_set_change_what_is_built(winnow: Any, fresh: Path) -> None:
    said = winnow("build", "recipe.yaml", "--limit", "5", "--set", "name=few", "--workers", "1", "--json", cwd=fresh)
    assert (said.json["name"], said.json["rows"]) == ("few", 5)
    assert "at most 5 rows per source" in winnow("show", "few", cwd=fresh).out


def test_a_wrong_recipe_is_said_with_exit_code_2(winnow: Any, fresh: Path) -> None:
    path = fresh / "recipe.yaml"
    path.write_text(path.read_text().replace("where:", "were:").replace("sums.jsonl", "sum.jsonl"))
    said = winnow("build", "recipe.yaml", cwd=fresh)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("The recipe has 3 problems; nothing was run.")
    assert "recipe.yaml:3: " in said.err and "Did you mean `sums.jsonl`?" in said.err
    assert "recipe.yaml:8: `were` is not a key of stage filter." in said.err and "Did you mean `where`?" in said.err
    assert not (fresh / "ws" / "versions").exists() or not list((fresh / "ws" / "versions").iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["build", "recipee.yaml"], 2, "Did you mean `recipe.yaml`?"),
        (["build", "recipe.yaml", "--set", "stages.fliter.where=x"], 2, "Did you mean `filter`?"),
        (["build", "recipe.yaml", "--memory-limit", "much"], 2, "is not a size"),
        (["build", "recipe.yaml", "--engine", "spark", "-q"], 1, "spark"),
        (["build"], 2, "RECIPE"),
        (["show", "sum"], 1, "Did you mean sums?"),
        (["show", "sums@nope"], 1, "neither a tag nor an id"),
        (["why", "sums", "zzz"], 1, "no input row"),
        (["sql", "selec 1"], 1, "selec"),
        (["sql", "select * from read_csv('/etc/passwd')"], 1, "Permission"),
        (["sql", "select 1", "-f", "xml"], 1, "table, csv, json, jsonl, parquet"),
        (["sql", "select 1", "-f", "parquet"], 1, "-o rows.parquet"),
        (["tag", "sums", "a tag"], 1, "cannot be a tag"),
        (["fsck", "sum"], 1, "no version named"),
        (["schema", "ledgr"], 1, "Did you mean `ledger`?"),
        (["check"], 2, "GOLD"),
        (["check", "--file", "none.jsonl"], 1, "none.jsonl"),
        (["check", "1", "1", "--convention", "tolerence=1"], 2, "tolerance"),
        (["check", "--file", "none.jsonl", "--judge", "http://localhost"], 2, "--judge-model"),
        (["run", "none.yaml"], 2, "The chain has one problem"),
        (["versions", "--workspace", "nowhere"], 1, "no workspace at"),
        (["bild"], 2, "bild"),
    ],
)
def test_mistakes_get_a_message_and_a_code(winnow: Any, arguments: list[str], code: int, words: str) -> None:
    said = winnow(*arguments)
    assert (said.code, said.out) == (code, "")
    assert words in " ".join(said.err.replace("│", " ").split())


def test_versions_show_and_recipe(winnow: Any) -> None:
    (listed,) = winnow("versions", "--json").json
    assert {"name", "id", "rows", "tags"} <= set(listed) and (listed["name"], listed["rows"]) == ("sums", 19)
    assert listed["id"] in winnow("versions").out
    shown = winnow("show", "sums").out
    assert "19 of 20 rows kept" in shown and "MIT" in shown and "filter" in shown
    assert winnow("show", "sums", "--json").json["id"] == listed["id"]
    assert winnow("show", f"sums@{listed['id'][:6]}", "--recipe").out.startswith("name: sums\n")


def test_why_tells_a_rows_story(winnow: Any) -> None:
    told = winnow("why", "sums", "s7")
    assert "no sevens" in told.out and "dropped" in told.out
    facts = winnow("why", "sums", "s7", "--json").json
    assert facts["row_id"] in told.out


def test_sql_writes_every_format(winnow: Any, tmp_path: Path) -> None:
    query = "select question, answer, [1, 2] as list from sums.rows order by question limit 3"
    assert "question" in winnow("sql", query).out.splitlines()[0]
    rows = winnow("sql", query, "--format", "json").json
    assert len(rows) == 3 and rows[0]["list"] == [1, 2]
    assert winnow("sql", query, "--json").json == rows
    assert [json.loads(line) for line in winnow("sql", query, "-f", "jsonl").out.splitlines()] == rows
    table = list(csv.reader(io.StringIO(winnow("sql", query, "-f", "csv").out)))
    assert table[0] == ["question", "answer", "list"] and json.loads(table[1][2]) == [1, 2]
    target = tmp_path / "rows.parquet"
    said = winnow("sql", query, "-o", str(target))
    assert (said.code, said.out) == (0, "") and pq.read_table(target).to_pylist() == rows


def test_sql_into_a_closed_pipe_ends_quietly(launch: Any, built: Path) -> None:
    with launch(built, "sql", "select * from range(200000)", "-f", "csv") as process:
        process.stdout.readline()
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


def test_tag_diff_fsck_and_gc(winnow: Any, fresh: Path) -> None:
    winnow("build", "recipe.yaml", "--workers", "1", cwd=fresh)
    assert "sums@stable is" in winnow("tag", "sums", "stable", cwd=fresh).out
    winnow("build", "recipe.yaml", "--workers", "1", "--set", "stages.filter.where=length(question) > 0", cwd=fresh)
    assert winnow("tag", "sums", "stable", cwd=fresh).code == 1
    assert winnow("tag", "sums", "newer", "--json", cwd=fresh).json["tag"] == "newer"
    counts = winnow("diff", "sums@stable", "sums", "--json", cwd=fresh).json["counts"]
    assert (counts["a"], counts["b"], counts["added"]) == (19, 20, 1)
    assert "1 added" in winnow("diff", "sums@stable", "sums", cwd=fresh).out
    assert "| added |" in winnow("diff", "sums@stable", "sums", "--markdown", cwd=fresh).out
    assert winnow("fsck", cwd=fresh).code == 0

    first = winnow("versions", "--json", cwd=fresh).json
    victim = next((Path(first[0]["path"]) / "data" / "rl").glob("*.parquet"))
    victim.chmod(0o644)
    data = bytearray(victim.read_bytes())
    data[100] ^= 255
    victim.write_bytes(data)
    said = winnow("fsck", "--json", cwd=fresh)
    assert said.code == 1 and any(victim.name in damage["file"] for damage in said.json)


def test_gc_shows_first_and_removes_when_told(winnow: Any, fresh: Path) -> None:
    winnow("build", "recipe.yaml", "--workers", "1", cwd=fresh)
    winnow("build", "recipe.yaml", "--workers", "1", "--set", "stages.filter.where=length(question) > 6", cwd=fresh)
    shown = winnow("gc", "--versions", cwd=fresh)
    assert shown.code == 0 and "version" in shown.out and "Nothing was removed" in shown.out
    assert len(winnow("versions", "--json", cwd=fresh).json) == 2
    assert winnow("gc", "--versions", "--yes", "--json", cwd=fresh).json["done"] is True
    assert len(winnow("versions", "--json", cwd=fresh).json) == 1
    assert "nothing to remove" in winnow("gc", "--versions", cwd=fresh).out
    assert winnow("fsck", cwd=fresh).code == 0


def test_schema(winnow: Any) -> None:
    assert winnow("schema", "recipe").json["title"] == "Winnow recipe"
    assert {"filter", "mix", "normalize"} <= {line["stage"] for line in winnow("schema", "stages", "--json").json}
    assert winnow("schema", "ledger").out.splitlines()[1].split() == ["row_id", "string"]


def test_doctor(winnow: Any) -> None:
    found = winnow("doctor", "--json").json
    assert found["cores"] >= 1 and found["packages"]["polars"] and found["workspace_writable"]
    assert any(part["name"] == "local" and part["usable"] for part in found["parts"])
    assert all(part["usable"] or part["install"] or "GPU" in part["what"] for part in found["parts"])
    assert "engine" in winnow("doctor").out


def test_check_says_whether_an_answer_is_right(winnow: Any, tmp_path: Path) -> None:
    assert "verdict    correct" in winnow("check", r"\frac{1}{2}", "So the answer is 0.5.").out
    assert winnow("check", "3", "The answer is 4.", "--json").json["state"] == "incorrect"
    assert winnow("check", "5 cm", "5", "--convention", "missing_unit=refuse", "--json").json["state"] == "incorrect"
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(
        '{"gold": "3", "response": "3", "expected": true}\n{"gold": "3", "response": "4", "expected": false}\n'
    )
    assert winnow("check", "--file", str(pairs), "--json").json["states"] == {"correct": 1, "incorrect": 1}


def test_the_workspace_option_wins_over_the_environment(winnow: Any, fresh: Path) -> None:
    winnow("build", "recipe.yaml", "--workers", "1", "--workspace", "other", cwd=fresh)
    assert (fresh / "other" / "versions" / "sums").is_dir()
    assert len(winnow("versions", "-w", "other", "--json", cwd=fresh).json) == 1


def test_interrupting_a_build_says_that_it_resumes(launch: Any, fresh: Path) -> None:
    lines = (json.dumps({"question": f"{i} + {i} = ?", "answer": str(2 * i)}) + "\n" for i in range(200_000))
    (fresh / "sums.jsonl").write_text("".join(lines))
    with launch(fresh, "build", "recipe.yaml", "--workers", "2", "--log-json") as process:
        while "stage_started" not in process.stderr.readline():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "run the same command again" in said and "Traceback" not in said
