"""A version written by hand, ten rows of which every number is known, and the same with hostile texts in every column."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curation import store
from curation.images import ImageWriter
from curation.versions import Version
from schemas.rows import LEDGER, ROW, TRACE, TRACE_FATES
from schemas.verdicts import VERDICT_SCHEMA

HOSTILE = (
    "<script>window.hacked=1</script><img src=x onerror=window.hacked=2><svg onload=window.hacked=3>"
    "$\\href{javascript:window.hacked=4}{x}$ $\\text{<script>window.hacked=5</script>}$ </title></style>--><b>&amp;\"'"
    '{{7*7}} =HYPERLINK("http://evil.example") \u202e\x00\x07 \ud7ff http://evil.example/x.png'
)
DECISIONS = pa.schema(
    [
        *ROW, ("split", pa.string()), ("label_conflict", pa.string()), ("label_problem", pa.string()), ("benchmark_overlap", pa.string()),
        ("n_traces", pa.int32()), ("n_judged", pa.int32()), ("n_correct", pa.int32()), ("pass_rate", pa.float64()),
    ]
)  # fmt: skip

JUDGED = {
    (0, 0): '{"judge_sample": "equivalent"}',
    (0, 1): '{"judge_sample": "unclear"}',
    (0, 3): '{"judge": "equivalent"}',
}
"""Evidence of the traces that a judge was asked about: (0, 3) because it was open, the others as a sample."""


def row_id(n: int) -> str:
    return f"{n:x}" * 20


def leak(kind: str, rule: str) -> str:
    return json.dumps({"benchmark": "gsm8k", "item": "12", "item_row": "f" * 20, "kind": kind, "rule": rule})


# source, fate, stage, reason, into, evidence
FATES: list[tuple[Any, ...]] = [
    ("a", "kept", "export", "kept", None, None),
    ("a", "kept", "export", "kept", None, None),
    ("a", "dropped", "filter", "too_long", None, None),
    ("a", "merged", "dedup", "duplicate", row_id(0), '{"similarity": 1.0}'),
    ("b", "merged", "dedup", "duplicate", row_id(0), '{"similarity": 0.9}'),
    ("b", "kept", "export", "kept", None, None),
    ("b", "dropped", "decontaminate", "benchmark_leak", None, leak("leak", "whole")),
    ("b", "quarantined", "source:b", "no_answer", None, None),
    ("a", "kept", "export", "kept", None, None),
    ("b", "kept", "export", "kept", None, None),
]
STATES = {0: ["correct", "correct", "incorrect", "correct"], 1: ["correct", "incorrect", "incorrect", "truncated"]}


# A run that was interrupted after a minute, one that went on for half a minute, and one that found everything there.
THROUGHPUT = {
    "run": [0, 0, 1, 2], "seconds": [30.0, 60.0, 30.0, 0.5], "reused": [0, 0, 5, 8], "requests": [1, 2, 2, 0], "answers": [2, 5, 3, 0],
    "again": [0, 1, 1, 0], "truncated": [0, 0, 1, 0], "failed": [0, 0, 0, 0], "prompt_tokens": [10, 20, 10, 0],
    "output_tokens": [300, 1200, 900, 0], "in_flight": [2, 1, 0, 0],
}  # fmt: skip


def pictures(workspace: Path) -> list[str]:
    """Two pictures in the image store: a PNG of 60 x 40 pixels, a JPEG of 1200 x 300."""
    with ImageWriter(workspace) as writer:
        hashes = []
        for size, kind in (((60, 40), "PNG"), ((1200, 300), "JPEG")):
            sink = io.BytesIO()
            Image.new("RGB", size, (200, 30, 30)).save(sink, kind)
            hashes.append(writer.add(sink.getvalue()))
    return hashes


def write_version(workspace: Path, texts: Callable[[str], str] = lambda text: text, name: str = "small") -> Version:
    """Ten input rows of two sources, five of them in the data, with eight traces."""
    store.open_workspace(workspace)
    h1, h2 = pictures(workspace)
    folder = workspace / "versions" / name / "0123456789ab"
    for part in ("decisions", "traces", "verdicts", "data/sft"):
        (folder / part).mkdir(parents=True)
    ledger, decisions, traces, verdicts = [], [], [], []
    for n, (source, fate, stage, reason, into, evidence) in enumerate(FATES):
        ids = {"row_id": row_id(n), "content_id": row_id(n), "origin_key": texts(f"{source}:{n}")}
        told = {
            "fate": fate,
            "stage": stage,
            "reason": reason,
            "into": into,
            "evidence": evidence,
            "sentence": texts(f"It is {reason}."),
        }
        split = "train" if fate == "kept" else None
        ledger.append(
            {**ids, "source": texts(source), "split": split, "repeat": 1, "file": texts("in.jsonl"), "index": n, **told}
        )
        if fate == "quarantined":
            continue
        states = STATES.get(n, [])
        judged = {"n_traces": len(states), "n_judged": len(states), "n_correct": states.count("correct")}
        decisions.append(
            {
                **ids, "source": texts(source), "id": texts(str(n)), "question": texts(f"What is {'x' * n}?"), "split": split,
                "answer": texts("B" if n == 1 else "7"), "choices": [texts("one"), texts("two")] if n == 1 else None,
                "images": {1: [h1], 5: [h1, h2]}.get(n, []), "license": "CC-BY-NC-4.0" if n == 5 else "MIT", "language": "fr" if n == 5 else "en",
                "solution": texts("Because."), "meta": texts("{}"), "n_tokens": 10 + n, "label_conflict": row_id(8) if n in (8, 9) else None,
                "label_problem": "suspect_gold" if n == 8 else None, "benchmark_overlap": leak("sibling", "numbers") if n == 8 else None,
                **judged, "pass_rate": judged["n_correct"] / len(states) if states else None,
            }
        )  # fmt: skip
        for k, state in enumerate(states):
            body = "<think>I add.</think>" if k == 0 else ""
            text = texts(f"{body}So it is \\(\\boxed{{{k}}}\\).")
            made = state == "correct"
            traces.append(
                {
                    "row_id": row_id(n), "k": k, "stage": texts("fanout"), "attempt": 0, "teacher": "recorded", "model": texts("tiny"), "text": text,
                    "finish": "truncated" if state == "truncated" else "finished", "prompt_tokens": 10, "output_tokens": 100 * (k + 1),
                    "fate": "exported" if made else "not_exported", "fate_reason": None if made else f"not_correct:{state}",
                }
            )  # fmt: skip
            start = text.find("\\boxed")
            verdicts.append(
                {
                    "row_id": row_id(n), "k": k, "state": state, "method": "judge" if (n, k) == (0, 3) else "text", "rule": "box", "extracted": texts(str(k)),
                    "span_start": start, "span_end": start + 8, "gold_normal": "7", "answer_normal": str(k), "seconds": 0.0,
                    "evidence": JUDGED.get((n, k), "{}"),
                }
            )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(ledger, LEDGER), folder / "ledger.parquet")
    pq.write_table(pa.Table.from_pylist(decisions, DECISIONS), folder / "decisions" / "part-00000-of-00001.parquet")
    shown = pa.schema([*TRACE, *TRACE_FATES])
    pq.write_table(pa.Table.from_pylist(traces, shown), folder / "traces" / "part-00000-of-00001.parquet")
    judged_schema = pa.schema([("row_id", pa.string()), ("k", pa.int32()), *VERDICT_SCHEMA])
    pq.write_table(pa.Table.from_pylist(verdicts, judged_schema), folder / "verdicts" / "part-00000-of-00001.parquet")
    data = pa.table({"row_id": [t["row_id"] for t in traces if t["fate"] == "exported"]})
    pq.write_table(data, folder / "data" / "sft" / "train-00000-of-00001.parquet")
    recall = {
        "copied": {"planted": 50, "found": 50, "recall": 1.0},
        "reworded": {"planted": 50, "found": 40, "recall": 0.8},
    }
    stages = [
        {"name": name, "kind": kind, "rows_in": rows, "rows_out": rows, "dropped": 0, "notes": notes}
        for name, kind, rows, notes in (
            ("source:b", "source", 5, {}), ("filter", "filter", 9, {}), ("dedup", "dedup", 8, {}),
            ("decontaminate", "decontaminate", 6, {"recall": recall, "control": {"rows": 9, "false_alarms": 0}}),
            ("fanout", "fanout", 5, {"throughput": THROUGHPUT}),
        )
    ]  # fmt: skip
    kept = {"a": {"dropped": 1, "kept": 3, "merged": 1}, "b": {"dropped": 1, "kept": 2, "merged": 1, "quarantined": 1}}
    if texts("a") != "a":
        kept = {texts("a"): {"kept": 5}}
    manifest = {
        "format": 1, "name": name, "id": "0123456789ab", "description": texts("Ten rows."), "seed": 1, "limit": None, "shards": 1,
        "recipe": texts("name: small") if texts("a") == "a" else json.dumps({"name": texts("small")}),
        "counts": {"input": 10, "kept": 5, "dropped": 2, "merged": 2, "quarantined": 1, "sources": kept, "examples": {"sft": 4}, "traces": {"made": 8, "exported": 4, "not_exported": 4}},
        "expected": [
            {"what": "kept", "expected": 5, "within": 0.0, "found": 5, "agrees": True, "because": ""},
            {"what": "sources.b", "expected": 8, "within": 0.25, "found": 5, "agrees": False, "because": "the paper"},
        ],
        "funnel": [], "splits": {"sft": {"train": 4}}, "outputs": [{"name": "sft", "export": "sft", "config": {}}], "stages": stages,
        "inputs": {s: [{"path": "in.jsonl", "bytes": 100, "sha256": ""}] for s in kept}, "licenses": {s: {"MIT": 2} for s in kept},
        "libraries": {"winnow": "0.1.0"}, "python": "3.11", "files": {}, "run": {"created": "2026-01-02T03:04:05+00:00", "seconds": 1.0},
        "entry_files": {"ledger.parquet": (folder / "ledger.parquet").stat().st_size},
    }  # fmt: skip
    if texts("a") == "a":
        manifest["recipe"] = (
            "name: small\nsources:\n  - {name: a, jsonl: in.jsonl, expect: 5}\n  - {name: b, jsonl: in.jsonl, expect: 6}\n"
        )
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return Version.open(folder)


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Of the browser; tests that take it carry the marker `browser`."""
    from tests.conftest import browser

    path = browser()
    assert path is not None
    return path


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return write_version(tmp_path_factory.mktemp("small") / ".winnow")


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Every text of it ends in HOSTILE."""
    return write_version(tmp_path_factory.mktemp("hostile") / ".winnow", lambda text: f"{text} {HOSTILE}", "hostile")
