"""Whole builds: what comes out, that it is always the same, and that nothing is done twice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pytest

from curation import build, diff, fsck, gc, list_versions, open_version, plan, query, tag
from curation.versions import Version
from schemas.errors import DamagedError, SourceError, WinnowError


@pytest.fixture
def version(project: Path) -> Version:
    return build(project / "recipe.yaml", workspace=project / "ws", workers=1)


def stages(version: Version) -> dict[str, dict[str, Any]]:
    return {stage["name"]: stage for stage in version.manifest["stages"]}


def test_every_row_has_one_fate_and_they_add_up(version: Version) -> None:
    counts = version.manifest["counts"]
    assert counts["input"] == 72
    assert counts["sources"]["text"] == {"dropped": 6, "kept": 54}
    ledger = version.ledger()
    assert ledger["row_id"].n_unique() == 72
    assert ledger.filter(pl.col("fate") == "dropped")["stage"].unique().to_list() == ["filter"]
    assert version.rows().height == counts["kept"] == 66


def test_traces_are_verified_and_each_has_a_fate(version: Version) -> None:
    traces = version.traces()
    assert traces.height == version.manifest["counts"]["traces"]["made"] == 144
    assert set(traces["state"]) == {"correct", "incorrect"}
    exported = traces.filter(pl.col("fate") == "exported")
    assert set(exported["state"]) == {"correct"}
    silent = traces.filter((pl.col("fate") != "exported") & pl.col("fate_reason").is_null())
    assert silent.height == 0
    dropped = traces.filter(pl.col("fate_reason").str.starts_with("row_dropped:filter"))
    assert dropped.height == 0, "rows that were dropped before the teacher have no traces"


def test_pass_rates_stand_in_the_rl_set(version: Version) -> None:
    rl = version.dataset("rl")
    rates = {row["extra_info"]["row_id"]: row["pass_rate"] for row in rl}
    rows = {r["row_id"]: r["pass_rate"] for r in version.rows().to_dicts()}
    assert all(rows[row_id] == rate for row_id, rate in rates.items())
    assert {0.75, 1.0, None} == set(rows.values())


def test_both_exports_open_offline_with_datasets(version: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sft = datasets.load_dataset(str(version.path), "sft")
    assert set(sft) == {"train", "test"}
    example = sft["train"][0]
    assert [m["role"] for m in example["messages"]][-1] == "assistant"
    rl = datasets.load_dataset(str(version.path), "rl", split="train")
    with_picture = next(row for row in rl if row["images"])
    assert with_picture["images"][0].size == (64, 48)
    assert with_picture["prompt"][0]["content"].count("<image>") == 1


def test_two_folders_and_other_workers_give_the_same_bytes(project: Path, version: Version, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    shutil.copytree(project, other, ignore=shutil.ignore_patterns("ws"))
    second = build(other / "recipe.yaml", workspace=other / "space", workers=2)
    assert second.id == version.id
    for name, record in version.manifest["files"].items():
        if not name.startswith(("verdicts/", "ledger", "README")):
            assert second.manifest["files"][name]["sha256"] == record["sha256"], name


def test_order_and_cut_of_the_source_do_not_matter(project: Path, version: Version) -> None:
    lines = (project / "text.jsonl").read_text().splitlines(keepends=True)
    (project / "text.jsonl").unlink()
    (project / "text").mkdir()
    (project / "text" / "b.jsonl").write_text("".join(reversed(lines[:25])))
    (project / "text" / "a.jsonl").write_text("".join(lines[25:]))
    recipe = (project / "recipe.yaml").read_text().replace("jsonl: text.jsonl", "jsonl: text")
    (project / "recipe.yaml").write_text(recipe)
    assert build(project / "recipe.yaml", workspace=project / "ws2").id == version.id


def test_building_again_does_nothing(project: Path, version: Version) -> None:
    before = {p: p.stat().st_mtime_ns for p in (project / "ws" / "stages").rglob("*") if p.is_file()}
    report = plan(project / "recipe.yaml", workspace=project / "ws")
    assert all(step["cached"] for step in report.steps)
    again = build(project / "recipe.yaml", workspace=project / "ws")
    assert again.id == version.id
    assert {p: p.stat().st_mtime_ns for p in (project / "ws" / "stages").rglob("*") if p.is_file()} == before


def test_a_changed_threshold_runs_only_what_follows(project: Path, version: Version) -> None:
    report = plan(project / "recipe.yaml", set=["stages.filter.where=length(question) < 20"], workspace=project / "ws")
    cached = {step["name"]: step["cached"] for step in report.steps}
    assert cached["source:text"] and cached["annotate"] and cached["normalize"]
    assert cached["filter"] is False and cached["verify"] is None


def test_unchanged_shards_are_linked(project: Path, version: Version) -> None:
    other = build(project / "recipe.yaml", set=["outputs.sft.max_per_row=1"], workspace=project / "ws")
    assert other.id != version.id
    rl = [name for name in version.manifest["files"] if name.startswith("data/rl/")]
    assert rl
    for name in rl:
        assert (other.path / name).samefile(version.path / name)
    assert not any(
        (other.path / n).samefile(version.path / n)
        for n in other.manifest["files"]
        if n.startswith("data/sft/") and (version.path / n).exists()
    )


def test_limit_takes_the_first_rows(project: Path) -> None:
    small = build(project / "recipe.yaml", workspace=project / "ws", limit=5)
    assert small.manifest["counts"]["input"] == 10


def test_a_version_is_a_source(project: Path, version: Version) -> None:
    tag("demo", "v1", project / "ws")
    recipe = 'name: second\nsources:\n  - version: demo@v1\nstages:\n  - {stage: filter, where: "len(images) > 0", reason: text}\noutputs:\n  - export: rl\n'
    (project / "second.yaml").write_text(recipe)
    second = build(project / "second.yaml", workspace=project / "ws")
    before = (
        version.rows().filter(pl.col("source") == "pictures").select("row_id", "content_id", "origin_key", "license")
    )
    after = second.rows().select("row_id", "content_id", "origin_key", "license")
    assert after.equals(before)
    assert diff("demo@v1", "second", project / "ws").counts["shared_content"] == 12


# ---------------------------------------------------------------------------------------------------------- why and diff


def test_why_tells_the_story_of_a_kept_row(version: Version) -> None:
    row = version.rows().filter(pl.col("id") == "t1").to_dicts()[0]
    story = version.why(row["row_id"][:10])
    text = str(story)
    assert "text.jsonl, record 1" in text
    assert "4 traces" in text and "incorrect" in text and "not exported: not_correct:incorrect" in text
    assert story.facts["fate"]["fate"] == "kept"
    assert "pass_rate = 0.75" in text
    assert str(version.why("t1")) == text


def test_why_tells_the_story_of_a_dropped_row(version: Version) -> None:
    story = version.why("text:t9")
    assert story.facts["story"][-1]["stage"] == "filter"
    assert "too long" in str(story)


def test_why_says_when_there_is_no_such_row(version: Version) -> None:
    with pytest.raises(WinnowError, match="no input row 'nonsense'"):
        version.why("nonsense")


def test_diff_names_the_stage(project: Path, version: Version) -> None:
    other = build(project / "recipe.yaml", set=["stages.filter.where=length(question) < 20"], workspace=project / "ws")
    difference = diff(version, other)
    assert difference.counts["added"] == 0
    assert difference.counts["removed"] == version.kept - other.kept > 0
    assert {r["stage"] for r in difference.reasons} == {"filter"}
    back = diff(other, version)
    assert back.counts["added"] == difference.counts["removed"]
    assert "no longer dropped" in back.reasons[0]["reason"]
    assert "rows added" in back.markdown()


def test_diff_pairs_a_mended_answer(project: Path, version: Version) -> None:
    text = (project / "text.jsonl").read_text()
    (project / "text.jsonl").write_text(text.replace('"answer": "1"', '"answer": "one"', 1))
    other = build(project / "recipe.yaml", workspace=project / "ws")
    difference = diff(version, other)
    assert (difference.counts["added"], difference.counts["removed"], difference.counts["changed"]) == (0, 0, 1)
    changed = difference.rows.to_dicts()[0]
    assert changed["origin_key"] == "text:t0" and "answer" in changed["columns"]


# ------------------------------------------------------------------------------------------------------- looking after it


def test_tags_and_references(project: Path, version: Version) -> None:
    ws = project / "ws"
    tag("demo", "v1", ws)
    other = build(project / "recipe.yaml", set=["seed=4"], workspace=ws)
    assert open_version("demo", ws).id == other.id
    assert open_version("demo@v1", ws).id == version.id == open_version(f"demo@{version.id[:6]}", ws).id
    with pytest.raises(WinnowError, match="names " + version.id):
        tag(f"demo@{other.id}", "v1", ws)
    tag(f"demo@{other.id}", "v1", ws, move=True)
    lines = list_versions(ws)
    assert {"name", "id", "rows", "tags"} <= lines[0].keys()
    assert [line["tags"] for line in lines if line["id"] == other.id] == [["v1"]]
    with pytest.raises(WinnowError, match="Did you mean demo"):
        open_version("dmo", ws)
    with pytest.raises(WinnowError, match="neither a tag nor an id"):
        open_version("demo@v9", ws)


def test_sql_sees_all_versions_and_nothing_else(project: Path, version: Version) -> None:
    ws = project / "ws"
    table = query(ws, "select source, count(*) as n from demo.rows group by 1 order by 1")
    assert table.to_pylist() == [{"source": "pictures", "n": 12}, {"source": "text", "n": 54}]
    assert query(ws, f'select count(*) as n from "demo@{version.id}".traces').to_pylist() == [{"n": 144}]
    assert query(ws, "select name, id, rows from versions").to_pylist()[0]["id"] == version.id
    assert set(version.sql("select distinct split from data_sft")["split"]) == {"train", "test"}
    for statement in (
        "select * from read_csv('/etc/passwd')",
        "copy (select 1) to '/tmp/x.csv'",
        "set threads = 1",
        "select * from nowhere",
    ):
        with pytest.raises(WinnowError, match="not run"):
            query(ws, statement)
    with pytest.raises(WinnowError, match=r"version\.table"):
        query(ws, "select * from rows")


def test_fsck_finds_a_flipped_bit_and_names_the_file(project: Path, version: Version) -> None:
    ws = project / "ws"
    assert fsck(workspace=ws) == []
    name = next(n for n in version.manifest["files"] if n.startswith("data/rl/"))
    path = version.path / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    damage = fsck("demo", ws)
    assert [d.file for d in damage] == [name]
    assert "sha256" in damage[0].what


def test_fsck_computes_the_id_again(project: Path, version: Version) -> None:
    path = version.path / "manifest.json"
    path.write_text(path.read_text().replace(version.id, "0" * 12))
    damage = fsck("demo", project / "ws")
    assert len(damage) == 1 and version.id in damage[0].what


def test_gc_shows_before_it_removes_and_keeps_what_versions_need(project: Path, version: Version) -> None:
    ws = project / "ws"
    assert gc(ws).items == []
    other = build(project / "recipe.yaml", set=["stages.filter.where=length(question) < 20"], workspace=ws)
    report = gc(ws, versions=True)
    assert not report.done and {i["what"] for i in report.items} == {"version", "cached stage"}
    assert version.path.exists()
    gc(ws, dry_run=False, versions=True)
    assert not version.path.exists() and other.path.exists()
    assert gc(ws, versions=True).items == []
    assert fsck(workspace=ws) == []
    assert all(
        step["cached"]
        for step in plan(project / "recipe.yaml", set=["stages.filter.where=length(question) < 20"], workspace=ws).steps
    )
    assert build(project / "recipe.yaml", workspace=ws).id == version.id


def test_a_removed_cache_file_is_made_again(project: Path, version: Version) -> None:
    ws = project / "ws"
    for entry in (ws / "stages" / "normalize").iterdir():
        (entry / "columns.parquet").unlink()
    for name in ("images",):
        shutil.rmtree(ws / name)
    shutil.rmtree(version.path)
    assert build(project / "recipe.yaml", workspace=ws).id == version.id
    assert fsck(workspace=ws) == []


def test_a_damaged_version_is_said_so_and_built_again(project: Path, version: Version) -> None:
    (version.path / "ledger.parquet").unlink()
    with pytest.raises(DamagedError, match="fsck"):
        open_version(version.path)
    assert build(project / "recipe.yaml", workspace=project / "ws").id == version.id


# --------------------------------------------------------------------------------------------------------------- bad input


def test_a_source_that_is_30_percent_broken_stops_the_build(project: Path) -> None:
    lines = (project / "text.jsonl").read_text().splitlines()
    (project / "text.jsonl").write_text("\n".join(line if i % 3 else line[:-5] for i, line in enumerate(lines)) + "\n")
    with pytest.raises(SourceError, match=r"20 of 60 records \(33.3%\)") as failure:
        build(project / "recipe.yaml", workspace=project / "ws")
    assert "first text.jsonl, record 0" in str(failure.value)
    relaxed = build(project / "recipe.yaml", set=["sources.text.max_quarantine=0.5"], workspace=project / "ws")
    assert relaxed.manifest["counts"]["quarantined"] == 20
    bad = relaxed.ledger().filter(pl.col("fate") == "quarantined")
    assert bad["sentence"].null_count() == 0 and bad["evidence"].null_count() == 0
    assert "quarantined" in str(relaxed.why(bad["row_id"][0]))


def test_expected_counts_are_checked(project: Path) -> None:
    with pytest.raises(SourceError, match="60 rows, and the recipe expects 61"):
        build(project / "recipe.yaml", set=["sources.text.expect=61"], workspace=project / "ws")


def test_nothing_left_is_an_error_that_says_where_rows_went(project: Path) -> None:
    with pytest.raises(WinnowError, match="No row is left") as failure:
        build(project / "recipe.yaml", set=["stages.filter.where=length(question) < 2"], workspace=project / "ws")
    assert "filter" in str(failure.value)


def test_identical_rows_are_told_apart(project: Path) -> None:
    text = (project / "text.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    twin = {**rows[0], "solution": "Another way."}
    same = [rows[0], rows[0], twin]
    (project / "text.jsonl").write_text(text + "".join(json.dumps(r) + "\n" for r in same))
    version = build(project / "recipe.yaml", workspace=project / "ws")
    decisions = version.sql("select row_id, content_id, solution from decisions where id = 't0'")
    assert decisions.height == 4
    assert decisions["content_id"].n_unique() == 1 and decisions["row_id"].n_unique() == 4
    (project / "text.jsonl").write_text("".join(json.dumps(r) + "\n" for r in reversed(same)) + text)
    again = build(project / "recipe.yaml", workspace=project / "ws")
    assert again.id == version.id


Edit = Callable[..., None]


def test_disabled_stages_are_left_out(project: Path, version: Version) -> None:
    other = build(project / "recipe.yaml", set=["stages.filter.enabled=false"], workspace=project / "ws")
    assert "filter" not in stages(other)
    assert other.kept == 72


def test_a_plain_script_may_use_workers(project: Path, version: Version) -> None:
    """Without `if __name__ == "__main__"`, which nobody writes in three lines."""
    script = project / "mine.py"
    script.write_text("from curation import build\nprint(build('recipe.yaml', workspace='ws2', workers=2).id)\n")
    done = subprocess.run([sys.executable, str(script)], cwd=project, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == version.id
