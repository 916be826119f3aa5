"""Sources of any size whose every defect is known, for recipes/examples/scale_simulation.yaml.

    python recipes/examples/scale_simulation.py FOLDER [--scale 1.0]

At scale 1 it has the proportions of a published reasoning set: 103,000 questions with a picture and eight recorded
answers each, of which 583,000 are right, and 291,000 questions with one right answer: 874,000 examples. Around them stand
the rows that must go: duplicates (re-cased, re-wrapped, pictures enlarged or encoded anew), leaks of a small benchmark,
rows whose answers are all wrong, rows that are too long or have no answer; and siblings, which look like duplicates, have
other numbers and must stay. Same scale, same bytes. `planted.json` says how many there are of each; with

    python recipes/examples/scale_simulation.py FOLDER --check WORKSPACE/versions/scale-simulation/ID

a version built from them is held against it, row by row.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PICTURED, RIGHT, PLAIN, TRIES = 103_000, 583_000, 291_000, 8
"""Rows with pictures, their right answers, rows without pictures, answers to a row with a picture."""
SHARES = {"duplicates": 0.05, "leaks": 0.01, "wrong": 0.03, "long": 0.002, "unanswered": 0.002}
"""Rows that must go, as shares of those that stay."""
SIBLING = 25
"""Every so manieth row has the wording of the one before it."""
ITEMS = 0.015
"""Items of the benchmark with a picture, as a share of rows that stay with one; and so for those without. A third of them
leaks nowhere."""
TRUNCATED = 0.1
"""Share of wrong answers that were cut off."""
BLOCK = 4096
"""Rows that are written together."""
LETTERS = "ABCD"

_IMAGE = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
_ROW = pa.schema([("id", pa.string()), ("question", pa.string()), ("answer", pa.string()), ("choices", pa.list_(pa.string())), ("images", _IMAGE)])  # fmt: skip
_TRACE = pa.schema([("id", pa.string()), ("sample", pa.int32()), ("response", pa.string()), ("finish", pa.string()), ("tokens", pa.int32()), ("state", pa.string())])  # fmt: skip


@dataclass(frozen=True)
class Row:
    id: str
    question: str
    answer: str | None
    choices: tuple[str, ...] | None
    picture: bytes | None
    wrong: str
    """An answer of the same form that is not right."""


class Trace(NamedTuple):
    id: str
    sample: int
    response: str
    finish: str
    tokens: int
    state: str
    """What it is: correct, incorrect or truncated. For a reader of the file; the build does not look at it."""


class Maker:
    """Draws rows and answers from one stream of chance."""

    def __init__(self, seed: int):
        self.chance = random.Random(seed)
        parts = [a + b for a in "bdfgklmnprstvwz" for b in "aeiou"]
        self.words = sorted({"".join(self.chance.choices(parts, k=self.chance.randint(1, 4))) for _ in range(6000)})
        # Lengths of thoughts are log-normal, as those of real models are: a median of 350 words, few beyond 2,000.
        self.thoughts = [self._thought(min(2500, int(self.chance.lognormvariate(5.86, 0.7)) + 20)) for _ in range(600)]

    def _thought(self, words: int) -> str:
        said: list[str] = []
        while len(said) < words:
            said += [*self.chance.choices(self.words, k=self.chance.randint(5, 14)), "so", f"${self.chance.randrange(100)}", "+", f"{self.chance.randrange(100)}$."]  # fmt: skip
        return " ".join(said)

    def row(self, id: str, pictured: bool, like: Row | None = None) -> Row:
        """A question of its own, or the wording and picture of `like` with another number and answer."""
        value, kind = self.chance.randrange(1, 100_000), self.chance.randrange(4 if pictured else 3)
        number = f"{value}.{self.chance.randrange(10_000_000):07d}"
        if like is not None:
            question = like.question[: like.question.rindex(" for ")] + f" for {number} of them?"
            kind = 3 if like.choices else kind % 3
        else:
            count = min(120, int(self.chance.lognormvariate(3.4, 0.5)) + 10)
            question = f"{' '.join(self.chance.choices(self.words, k=count))} for {number} of them?"
        bottom = self.chance.choice((7, 11, 13))
        answer, wrong = [
            (f"{value}", f"{value + 1}"),
            (f"{value / 100:.2f}", f"{value / 100 + 1:.2f}"),
            (f"\\frac{{{bottom * value + 1}}}{{{bottom}}}", f"\\frac{{{bottom * value + 2}}}{{{bottom}}}"),
            (LETTERS[value % 4], LETTERS[(value + 1) % 4]),
        ][kind]
        choices = (like and like.choices) or (tuple(self.chance.sample(self.words, 4)) if kind == 3 else None)
        picture = (like.picture if like else self._picture()) if pictured else None
        return Row(id, question, answer, choices, picture, wrong)

    def _picture(self) -> bytes:
        """Eight by eight fields of eight by eight pixels."""
        fields = np.frombuffer(self.chance.randbytes(192), np.uint8).reshape(8, 8, 3)
        return _encoded(Image.fromarray(fields).resize((64, 64), Image.Resampling.NEAREST), "PNG")

    def copy(self, row: Row, id: str) -> Row:
        """The same question, written otherwise."""
        change: tuple[Callable[[str], str], ...] = (str, str.upper, lambda text: text.replace(" ", "\n", 3), lambda text: f"  {text} ")  # fmt: skip
        picture = row.picture
        if picture is not None and self.chance.random() < 0.5:
            image = Image.open(io.BytesIO(picture))
            larger = image.resize((128, 128), Image.Resampling.NEAREST)
            picture = self.chance.choice((_encoded(larger, "PNG"), _encoded(image, "WEBP", lossless=True)))
        return replace(row, id=id, question=self.chance.choice(change)(row.question), picture=picture)

    def leak(self, item: Row, id: str) -> Row:
        """A benchmark's item: as it is, written otherwise, or inside a longer text."""
        leaked = self.copy(item, id)
        if self.chance.random() < 0.3:
            around = [" ".join(self.chance.choices(self.words, k=8)) for _ in range(2)]
            leaked = replace(leaked, question=f"{around[0]}. {item.question} {around[1]}.")
        return leaked

    def traces(self, row: Row, right: int, tries: int) -> list[Trace]:
        """`tries` answers of which `right` are right, in any order."""
        good = set(self.chance.sample(range(tries), right))
        made = []
        for k in range(tries):
            text = f"<think>Try {k} at {row.id}. {self.chance.choice(self.thoughts)}"
            cut = k not in good and self.chance.random() < TRUNCATED
            if not cut:
                said = self._spelled(str(row.answer)) if k in good else row.wrong
                text += f"</think><answer>It is \\boxed{{{said}}}.</answer>"
            state = "correct" if k in good else "truncated" if cut else "incorrect"
            made.append(Trace(row.id, k, text, "length" if cut else "stop", len(text) // 4, state))
        return made

    def _spelled(self, answer: str) -> str:
        """Half of the fractions as 3/7 rather than \\frac{3}{7}."""
        if answer.startswith("\\frac") and self.chance.random() < 0.5:
            return answer[6:-1].replace("}{", "/")
        return answer


def _encoded(image: Image.Image, form: str, **how: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **how)
    return sink.getvalue()


def right_of_each(rows: int, total: int, chance: random.Random) -> list[int]:
    """How many of eight answers to each row are right: between one and eight, `total` together, most rows at the ends."""
    found = chance.choices(range(1, TRIES + 1), (13, 6, 6, 6, 7, 9, 14, 39), k=rows)
    missing, step = total - sum(found), 1 if total > sum(found) else -1
    while missing:
        at = chance.randrange(rows)
        if 1 <= found[at] + step <= TRIES:
            found[at] += step
            missing -= step
    return found


def write(folder: Path, scale: float) -> dict[str, dict[str, int]]:
    """Write benchmark.parquet, pictured.parquet, plain.parquet, the traces of both and planted.json. Of each source:
    `rows`; what becomes of them (`stay`, `duplicates`, `leaks`, `wrong`, `long`, `unanswered`), `siblings` among those
    that stay; and answers to rows that are judged: `correct`, `incorrect`, `truncated`."""
    folder.mkdir(parents=True, exist_ok=True)
    maker = Maker(1)
    stay = {"pictured": round(PICTURED * scale), "plain": round(PLAIN * scale)}
    items = {
        name: [maker.row(f"item-{name}-{n}", name == "pictured") for n in range(int(count * ITEMS) + 1)]
        for name, count in stay.items()
    }
    pq.write_table(_table([*items["pictured"], *items["plain"]]), folder / "benchmark.parquet", compression="zstd")
    each = {
        "pictured": right_of_each(stay["pictured"], round(RIGHT * scale), maker.chance),
        "plain": [1] * stay["plain"],
    }
    planted = {name: _write_source(folder, name, maker, items[name], each[name]) for name in stay}
    (folder / "planted.json").write_text(json.dumps({"scale": scale, **planted}))
    return planted


def _write_source(folder: Path, name: str, maker: Maker, items: list[Row], each: list[int]) -> dict[str, int]:
    count = dict.fromkeys(("rows", "stay", "siblings", *SHARES, "correct", "incorrect", "truncated"), 0)
    with (
        pq.ParquetWriter(folder / f"{name}.parquet", _ROW, compression="zstd") as rows,
        pq.ParquetWriter(folder / f"{name}_traces.parquet", _TRACE, compression="zstd") as answers,
    ):
        made = _rows(name, maker, items, each, count)
        while block := list(itertools.islice(made, BLOCK)):
            rows.write_table(_table([row for row, _ in block]))
            traces = [trace for _, traces in block for trace in traces]
            answers.write_table(pa.table(list(map(list, zip(*traces, strict=True))), schema=_TRACE))
            count["rows"] += len(block)
    return count


def _rows(
    name: str, maker: Maker, items: list[Row], each: list[int], count: dict[str, int]
) -> Iterator[tuple[Row, list[Trace]]]:
    """Rows with their answers, those that must go among those that stay; counts them in `count`."""
    pictured, tries = name == "pictured", TRIES if name == "pictured" else 1
    due = dict.fromkeys(SHARES, 0.0)
    row: Row | None = None
    for n, right in enumerate(each):
        sibling = n % SIBLING == SIBLING - 1
        row = maker.row(f"{name}-stay-{n}", pictured, row if sibling else None)
        traces = maker.traces(row, right, tries)
        count["stay"] += 1
        count["siblings"] += sibling
        _judged(traces, count)
        yield row, traces
        for kind, share in SHARES.items():
            due[kind] += share
            if due[kind] < 1:
                continue
            due[kind] -= 1
            id, at = f"{name}-{kind}-{n}", count[kind]
            count[kind] += 1
            if kind == "duplicates":  # whichever of the two stays, the same answers do
                yield maker.copy(row, id), [trace._replace(id=id) for trace in traces]
                continue
            other = maker.leak(items[at], id) if kind == "leaks" else maker.row(id, pictured)
            if kind == "long":
                other = replace(
                    other, question=f"{' '.join(maker.chance.choices(maker.words, k=1500))} {other.question}"
                )
            if kind == "unanswered":
                other = replace(other, answer=None)
            answers = maker.traces(other, 0 if kind == "wrong" else tries, tries)
            if kind == "wrong":
                _judged(answers, count)
            yield other, answers


def _judged(traces: list[Trace], count: dict[str, int]) -> None:
    for trace in traces:
        count[trace.state] += 1


def _table(rows: list[Row]) -> pa.Table:
    pictures = [[] if row.picture is None else [{"bytes": row.picture, "path": None}] for row in rows]
    columns = [[getattr(row, name) for row in rows] for name in ("id", "question", "answer", "choices")]
    return pa.table([*columns, pictures], schema=_ROW)


FATES = {
    "stay": ("kept", "kept"),
    "duplicates": ("merged", "duplicate"),
    "leaks": ("dropped", "benchmark_leak"),
    "wrong": ("dropped", "no_correct_trace"),
    "long": ("dropped", "the_question_is_longer_than_4_000_characters"),
    "unanswered": ("quarantined", "no_answer"),
}
"""What must become of each kind of row. Of a duplicate and its original either may be the one that is kept."""


def departures(folder: Path, version: Path) -> list[str]:
    """Where a version differs from what was planted in the sources in `folder`, in words; empty if nowhere."""
    planted = json.loads((folder / "planted.json").read_text())
    ledger = pl.read_parquet(version / "ledger.parquet").with_columns(
        kind=pl.col("origin_key").str.extract(r"-([a-z]+)-\d+$"), n=pl.col("origin_key").str.extract(r"-(\d+)$")
    )
    said = []

    def held(what: str, found: int, expected: int) -> None:
        if found != expected:
            said.append(f"{what}: {found:,} found, {expected:,} planted")

    for source in ("pictured", "plain"):
        own, count = ledger.filter(source=source), planted[source]
        held(f"{source}, rows", len(own), count["rows"])
        for kind, (fate, reason) in FATES.items():
            became = own.filter(fate=fate, reason=reason)
            held(f"{source}, {kind}", len(became), count[kind])
            strangers = became.filter(~pl.col("kind").is_in(["stay", "duplicates"] if kind in ("stay", "duplicates") else [kind]))  # fmt: skip
            held(f"{source}, {kind} that are none", len(strangers), 0)
    merged = ledger.filter(fate="merged").join(ledger, left_on="into", right_on="row_id", suffix="_into")
    held("duplicates merged into their other", len(merged.filter(pl.col("n") == pl.col("n_into"), pl.col("source") == pl.col("source_into"), pl.col("kind") != pl.col("kind_into"))), sum(planted[s]["duplicates"] for s in ("pictured", "plain")))  # fmt: skip
    states = dict(pl.scan_parquet(version / "verdicts/*.parquet").group_by("state").len().collect().iter_rows())
    for state in ("correct", "incorrect", "truncated"):
        held(f"answers, {state}", states.pop(state, 0), planted["pictured"][state] + planted["plain"][state])
    held("answers in any other state", sum(states.values()), 0)
    examples = json.loads((version / "manifest.json").read_text())["counts"]["examples"]["sft"]
    held("examples", examples, planted["pictured"]["correct"] + planted["plain"]["correct"])
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--check", type=Path, metavar="VERSION", help="folder of a version built from FOLDER")
    options = parser.parse_args()
    if options.check:
        said = departures(options.folder, options.check)
        sys.exit("\n".join(said) or None)
    for name, planted in write(options.folder, options.scale).items():
        print(f"{name}: {', '.join(f'{value:,} {kind}' for kind, value in planted.items())}")


if __name__ == "__main__":
    main()
