"""Every question on ten rows whose answers are known; headers, folders of one's own, and what goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from curation import reporting
from curation.explore.desk import Desk
from curation.versions import Version
from reports import questions
from reports.questions import Answer
from schemas.errors import WinnowError
from tests.reports.conftest import row_id

R0, R8 = row_id(0), row_id(8)

KNOWN: dict[str, list[tuple[Any, ...]]] = {
    "headline": [(10, 5, 0.5, 2, 4)],
    "headline_traces": [(8, 8, 0.5, 4, 0.5)],
    "funnel": [
        ("read", 0, 10, None, None, "total"),
        ("source:b", 10, 9, 1, 0.1, "taken out"),
        ("filter", 9, 8, 1, 0.1, "taken out"),
        ("dedup", 8, 6, 2, 0.2, "taken out"),
        ("decontaminate", 6, 5, 1, 0.1, "taken out"),
        ("in the data", 0, 5, None, None, "total"),
    ],
    "fates": [
        ("dedup", "merged", "duplicate", 2, 0.2, "It is duplicate."),
        ("decontaminate", "dropped", "benchmark_leak", 1, 0.1, "It is benchmark_leak."),
        ("filter", "dropped", "too_long", 1, 0.1, "It is too_long."),
        ("source:b", "quarantined", "no_answer", 1, 0.1, "It is no_answer."),
        ("export", "kept", "kept", 5, 0.5, None),
    ],
    "sources": [
        ("a", "kept", 3, 0.6), ("a", "merged", 1, 0.2), ("a", "dropped", 1, 0.2),
        ("b", "kept", 2, 0.4), ("b", "merged", 1, 0.2), ("b", "dropped", 1, 0.2), ("b", "quarantined", 1, 0.2),
    ],
    "composition": [("a", 5, 3, 0.6, 0.6, "MIT (3)"), ("b", 5, 2, 0.4, 0.4, "CC-BY-NC-4.0 (1), MIT (1)")],
    "expectations": [("kept", 5, 0.0, 5, "as expected", ""), ("sources.b", 8, 0.25, 5, "differs", "the paper")],
    "expected": [("a", 5, 5, "as expected", 0, 1, 100), ("b", 6, 5, "differs", 1, 1, 100)],
    "examples": [("sft", "sft", "train", 4)],
    "modality": [("a", "one picture", 1), ("a", "text", 2), ("b", "several pictures", 1), ("b", "text", 1)],
    "languages": [("en", 4, 0.8), ("fr", 1, 0.2)],
    "answer_kinds": [("a", "choice", 1), ("a", "number", 2), ("b", "number", 2)],
    "licenses": [
        ("MIT", "a, b", 4, 0.8, "may be published; name the authors and the licence"),
        ("CC-BY-NC-4.0", "b", 1, 0.2, "not for commercial use; name the authors"),
    ],
    "yield_by_source": [("a", 2, 8, 8, 4, 0.5, 2, 1.0)],
    # Of 4 traces 3 and 1 are correct. k=1: (3/4 + 1/4) / 2; k=2: (1 + 3/6) / 2; k=3: (1 + 3/4) / 2; k=4: both.
    "yield_by_k": [("all sources", 1, 0.5, 1, 2), ("all sources", 2, 0.75, 2, 2), ("all sources", 3, 0.875, 3, 2), ("all sources", 4, 1.0, 4, 2)],
    "pass_rates": [
        ("0 %", 0, 0.0), ("0–10 %", 0, 0.0), ("10–20 %", 0, 0.0), ("20–30 %", 1, 0.5), ("30–40 %", 0, 0.0), ("40–50 %", 0, 0.0),
        ("50–60 %", 0, 0.0), ("60–70 %", 0, 0.0), ("70–80 %", 1, 0.5), ("80–90 %", 0, 0.0), ("90–100 %", 0, 0.0), ("100 %", 0, 0.0),
    ],
    "verdict_methods": [("text", "correct", 3), ("text", "incorrect", 3), ("text", "truncated", 1), ("judge", "correct", 1)],
    "judge": [("equivalent", "correct", 1)],
    "judge_agreement": [("text", "correct", 2, 1, 0.5)],
    "trace_fates": [
        ("exported", "", 4, 0.5), ("not_exported", "not_correct:incorrect", 3, 0.375), ("not_exported", "not_correct:truncated", 1, 0.125),
    ],
    "truncation": [("fanout", "finished", 7, 0.875), ("fanout", "truncated", 1, 0.125)],
    # Questions are "What is ?" and n letters: 9, 10 and 17 characters in a; 14 and 18 in b.
    "question_lengths": [("a", 3, 9, 10, 12.0, 17, 17, 13.0, 18), ("b", 2, 14, 14, 16.0, 18, 18, 17.0, 19)],
    "response_tokens": [("fanout", 8, 100, 200, 250.0, 400, 400, 400)],
    # "So it is \\(\\boxed{0}\\)." has 23 characters, and stands alone but for k=0, where "<think>I add." (13) and </think> (8)
    # precede it: two responses of 44 characters with 100 tokens, and six of 23 with 200, 300 and 400 each.
    "thinking_lengths": [
        ("a", "response", 8, 23, 28.25, 44, 44, 200, 250, 400, 400),
        ("a", "thinking", 2, 13, 13.0, 13, 13, 30, 30, 30, 30),
        ("a", "answer", 8, 23, 23.0, 23, 23, 200, 238, 400, 400),
    ],
    "length_histogram": [
        ("16–31", "correct", 2), ("16–31", "incorrect", 3), ("16–31", "truncated", 1), ("32–63", "correct", 2),
    ],
    # Exported: two of 44 characters, two of 23, so 134 / 4 tokens.
    "token_budget": [("train", 4, 100 + 200 + 400 + 100, 34, 10 + 10 + 10 + 11)],
    "generation_cost": [("fanout", 2, 90.5, 4, 8, 2, 8, 0.125, 0.0, 30, 2100, 2100 / 90, 262.5)],
    "generation_speed": [
        ("fanout", 0.5, 10.0, 10 / 30, 2, 0, 2), ("fanout", 1.0, 30.0, 10 / 30, 3, 1, 1), ("fanout", 1.5, 30.0, 10 / 30, 3, 1, 0),
    ],
    "duplicates": [("3", 1, 2)],
    "largest_clusters": [(R0, 3, "a, b", "What is ?", [row_id(3), row_id(4)])],
    "overlap": [("a", "a", 1), ("b", "a", 1)],
    "label_conflicts": [(R8, 2, "a, b", ["7"], "What is xxxxxxxx?")],
    "label_problems": [("a", "suspect_gold", 1, 1)],
    "benchmarks": [("gsm8k", "leak", "whole", "taken out", 1), ("gsm8k", "sibling", "numbers", "kept and marked", 1)],
    "planted": [("decontaminate", "reworded", 50, 40, 0.8), ("decontaminate", "copied", 50, 50, 1.0)],
    "image_sizes": [("28–111 px", 1), ("1,024–2,047 px", 1)],
    "teacher_compare": [("fanout", "tiny", 2, 8, 0.5, 1.0, 3.5, 250.0, 400.0, 0.125, 0.0, 0.0, 20, 2000, 4)],
}  # fmt: skip


@pytest.fixture(scope="module")
def told(small: Version) -> dict[str, Answer]:
    return {answer.question.name: answer for answer in reporting.answers(small).answers}


def lines(answer: Answer) -> list[tuple[Any, ...]]:
    assert answer.table is not None, answer.missing or answer.error
    return [tuple(line.values()) for line in answer.table.to_pylist()]


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_known_answers(told: dict[str, Answer], name: str) -> None:
    found = lines(told[name])
    assert len(found) == len(KNOWN[name])
    for line, known in zip(found, KNOWN[name], strict=True):
        assert (
            line == pytest.approx(known, abs=1e-9)
            if not any(isinstance(v, str | list) or v is None for v in known)
            else [round(v, 9) if isinstance(v, float) else v for v in line]
            == [round(v, 9) if isinstance(v, float) else v for v in known]
        )


def test_pictures(told: dict[str, Answer]) -> None:
    formats = told["image_formats"].table.to_pylist()  # type: ignore[union-attr]
    assert [(f["format"], f["pictures"], f["least_sides"]) for f in formats] == [
        ("JPEG", 1, "1200 × 300"),
        ("PNG", 1, "60 × 40"),
    ]
    repeats = told["image_repeats"].table.to_pylist()  # type: ignore[union-attr]
    assert [(r["rows"], r["sources"], r["pixels"]) for r in repeats] == [(2, "a, b", "60 × 40")]


def test_every_file_is_tested_here(told: dict[str, Answer]) -> None:
    assert set(told) == {*KNOWN, "image_formats", "image_repeats"}
    assert all(answer.question.answers and answer.question.section != "More questions" for answer in told.values())


def test_a_version_without_traces_is_asked_less(small: Version, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "a" / "b" / "versions" / "bare" / "0123456789ab"
    shutil.copytree(small.path, folder)
    for part in ("traces", "verdicts"):
        shutil.rmtree(folder / part)
    answers = {a.question.name: a for a in reporting.answers(Version.open(folder)).answers}
    assert answers["truncation"].missing == "no traces"
    assert answers["image_formats"].missing == "no images"
    assert not [a.error for a in answers.values() if a.error]


def test_a_version_whose_files_are_links(small: Version, told: dict[str, Answer], tmp_path: Path) -> None:
    """As the Hub's client keeps what it has fetched."""
    (tmp_path / "blobs").mkdir()
    folder = tmp_path / "snapshots" / "commit"
    for number, path in enumerate(sorted(p for p in small.path.rglob("*") if p.is_file())):
        link = folder / path.relative_to(small.path)
        link.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "blobs" / str(number)).write_bytes(path.read_bytes())
        link.symlink_to(tmp_path / "blobs" / str(number))
    version = Version.open(folder)
    answers = {a.question.name: a for a in reporting.answers(version).answers}
    assert not [a.error for a in answers.values() if a.error]
    for name in ("composition", "yield_by_k", "teacher_compare"):
        assert answers[name].table == told[name].table
    assert reporting.query(version, "select distinct split from data_sft").to_pylist() == [{"split": "train"}]
    desk = Desk(version)
    assert desk.page("pass_rate > 0.5").total == 1
    desk.close()


def test_headers() -> None:
    one = questions.parse(
        "mine",
        "-- title: Mine\n-- chart: bars y=a x=b\n-- units: b=rows\n-- needs: rows.a, traces\n-- a remark\nselect 1 as a;\n",
    )
    assert (one.title, one.chart, one.roles, one.units, one.needs) == (
        "Mine",
        "bars",
        {"y": "a", "x": "b"},
        {"b": "rows"},
        ("rows.a", "traces"),
    )
    assert one.sql == "-- a remark\nselect 1 as a"
    assert questions.parse("by_hand", "select 1").title == "by hand"
    for text, said in (
        ("-- chart: pie\nselect 1", "is no chart. There are: table, numbers"),
        ("-- chart: bars y=a\nselect 1", "does not say which column is x"),
        ("-- order: first\nselect 1", "is no number"),
        ("-- title: nothing\n", "there is no query"),
    ):
        with pytest.raises(WinnowError, match=said):
            questions.parse("mine", text, "mine.sql")


def test_a_folder_of_ones_own(small: Version, tmp_path: Path) -> None:
    (tmp_path / "mine.sql").write_text("-- title: Mine\n-- section: My own\nselect count(*) as n from rows")
    (tmp_path / "wrong.sql").write_text("select no_such_column from rows")
    (tmp_path / "headline.sql").write_text("select 1 as one")
    (tmp_path / "chart.sql").write_text("-- chart: bars y=a x=b\nselect 1 as a")
    (tmp_path / "reads.sql").write_text("select * from read_text('/etc/hostname')")
    answers = {a.question.name: a for a in reporting.answers(small, [tmp_path]).answers}
    assert lines(answers["mine"]) == [(5,)]
    assert "no_such_column" in answers["wrong"].error
    assert lines(answers["headline"]) == [(1,)]
    assert "'b', which the query does not return" in answers["chart"].error
    assert "disabled" in answers["reads"].error
    with pytest.raises(WinnowError, match=r"has no \.sql files"):
        reporting.answers(small, [tmp_path / "empty"])


def test_texts_of_a_large_version_are_sampled() -> None:
    assert questions.sampled_until(20_000) == "g"
    assert questions.sampled_until(1_000_000) == f"{int(16**6 * 0.02):06x}"


def test_the_sql_of_a_figure_runs_in_winnow_sql(small: Version, told: dict[str, Answer]) -> None:
    for answer in told.values():
        assert reporting.query(small, answer.sql).num_rows == answer.table.num_rows  # type: ignore[union-attr]
    with pytest.raises(WinnowError, match="was not run"):
        reporting.query(small, "select 1 from nowhere")
