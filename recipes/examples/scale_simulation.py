"""Sources of any size whose every defect is known, for recipes/examples/scale_simulation.yaml.

    python recipes/examples/scale_simulation.py FOLDER [--scale 1.0]

At scale 1 it has the proportions of a published reasoning set: 103,000 questions with a picture and eight recorded
answers each, of which 583,000 are right, and 291,000 questions with one right answer: 874,000 examples. Around them stand
the rows that must go: duplicates (re-cased, re-wrapped, pictures enlarged or encoded anew), leaks of a small benchmark,
rows whose answers are all wrong, rows that are too long or have no answer; and siblings, which look like duplicates, have
other numbers and must stay. Same scale, same bytes. `planted.json` says how many there are of each.
"""

from __future__ import annotations

import argparse
import io
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PICTURED, RIGHT, PLAIN, TRIES = 103_000, 583_000, 291_000, 8
"""Rows with pictures, their right answers, rows without pictures, answers to a row with a picture."""
DUPLICATES, LEAKS, WRONG, LONG, UNANSWERED = 0.05, 0.01, 0.03, 0.002, 0.002
"""Rows that must go, as shares of those that stay."""
SIBLING = 25
"""Every so manieth row has the wording of the one before it."""
ITEMS = 200
"""Items of the benchmark with a picture, and as many without."""
TRUNCATED = 0.1
"""Share of wrong answers that were cut off."""
BLOCK = 4096
"""Rows that are written together."""
LETTERS = "ABCD"

_IMAGE = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
_ROW = pa.schema([("id", pa.string()), ("question", pa.string()), ("answer", pa.string()), ("choices", pa.list_(pa.string())), ("images", _IMAGE)])  # fmt: skip
_TRACE = pa.schema([("id", pa.string()), ("sample", pa.int32()), ("response", pa.string()), ("finish", pa.string()), ("tokens", pa.int32())])  # fmt: skip


@dataclass(frozen=True)
class Row:
    id: str
    question: str
    answer: str | None
    choices: tuple[str, ...] | None
    picture: bytes | None
    wrong: str
    """An answer of the same form that is not right."""


class Maker:
    """Draws rows and answers from one stream of chance."""

    def __init__(self, seed: int):
        self.chance = random.Random(seed)
        parts = "ba de fi go lu ma ne pi ro su ta ve wi xo zu ka le mi no tu".split()
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

    def traces(self, row: Row, right: int, tries: int) -> list[tuple[str, int, str, str, int]]:
        """`tries` answers of which `right` are right, in any order."""
        good = set(self.chance.sample(range(tries), right))
        made = []
        for k in range(tries):
            thought = f"Try {k} at {row.id}. {self.chance.choice(self.thoughts)}"
            cut = k not in good and self.chance.random() < TRUNCATED
            said = self._spelled(str(row.answer)) if k in good else row.wrong
            text = f"<think>{thought}" + ("" if cut else f"</think><answer>It is \\boxed{{{said}}}.</answer>")
            made.append((row.id, k, text, "length" if cut else "stop", len(text) // 4))
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


@dataclass(frozen=True)
class Planted:
    """What stands in one source, in rows; `right` counts right answers to rows that stay, others theirs that are not."""

    rows: int
    stay: int
    siblings: int
    duplicates: int
    leaks: int
    wrong: int
    long: int
    unanswered: int
    right: int
    others: int


def write(folder: Path, scale: float) -> dict[str, Planted]:
    """Write benchmark.parquet, pictured.parquet, plain.parquet, the traces of both and planted.json."""
    folder.mkdir(parents=True, exist_ok=True)
    maker = Maker(1)
    items = [maker.row(f"item-{n}", pictured=n % 2 == 0) for n in range(2 * ITEMS)]
    _write_rows(folder / "benchmark.parquet", items)
    stay = round(PICTURED * scale)
    planted = {
        "pictured": _source(folder, "pictured", maker, items[::2], stay, round(RIGHT * scale)),
        "plain": _source(folder, "plain", maker, items[1::2], round(PLAIN * scale), None),
    }
    (folder / "planted.json").write_text(json.dumps({"scale": scale, **{k: asdict(v) for k, v in planted.items()}}))
    return planted


def _source(folder: Path, name: str, maker: Maker, items: list[Row], stay: int, right: int | None) -> Planted:
    pictured = right is not None
    tries = TRIES if right is not None else 1
    each = right_of_each(stay, right, maker.chance) if right is not None else [1] * stay
    count = Counter(stay=stay)

    def made() -> Iterator[tuple[Row, int]]:
        """Rows, each with its number of right answers, those that must go among those that stay."""
        row: Row | None = None
        due: dict[str, float] = dict.fromkeys(("duplicates", "leaks", "wrong", "long", "unanswered"), 0.0)
        shares = dict(zip(due, (DUPLICATES, LEAKS, WRONG, LONG, UNANSWERED), strict=True))
        for n in range(stay):
            sibling = n % SIBLING == SIBLING - 1
            count["siblings"] += sibling
            row = maker.row(f"{name}-{n}", pictured, row if sibling else None)
            yield row, each[n]
            for kind, share in shares.items():
                due[kind] += share
                if due[kind] < 1:
                    continue
                due[kind] -= 1
                count[kind] += 1
                id = f"{name}-{kind}-{count[kind]}"
                if kind == "duplicates":
                    yield maker.copy(row, id), each[n]
                elif kind == "leaks":
                    yield maker.leak(items[count[kind] % len(items)], id), tries
                else:
                    other = maker.row(id, pictured)
                    if kind == "long":
                        other = replace(other, question=" ".join([*maker.chance.choices(maker.words, k=1500), other.question]))  # fmt: skip
                    if kind == "unanswered":
                        other = replace(other, answer=None)
                    yield other, 0 if kind == "wrong" else tries

    with (
        pq.ParquetWriter(folder / f"{name}.parquet", _ROW, compression="zstd") as rows,
        pq.ParquetWriter(folder / f"{name}_traces.parquet", _TRACE, compression="zstd") as answers,
    ):
        block: list[Row] = []
        traces: list[tuple[str, int, str, str, int]] = []
        for row, good in made():
            block.append(row)
            traces += maker.traces(row, good, tries)
            count["rows"] += 1
            if len(block) == BLOCK:
                rows.write_table(_table(block))
                answers.write_table(_traces_table(traces))
                block, traces = [], []
        if block:
            rows.write_table(_table(block))
            answers.write_table(_traces_table(traces))
    right = sum(each)
    return Planted(
        **{name: count[name] for name in Planted.__dataclass_fields__ if name not in ("right", "others")},
        right=right,
        others=stay * tries - right,
    )


def _table(rows: list[Row]) -> pa.Table:
    pictures = [[] if row.picture is None else [{"bytes": row.picture, "path": None}] for row in rows]
    columns = [[getattr(row, name) for row in rows] for name in ("id", "question", "answer", "choices")]
    return pa.table([*columns, pictures], schema=_ROW)


def _traces_table(traces: list[tuple[str, int, str, str, int]]) -> pa.Table:
    return pa.table(list(map(list, zip(*traces, strict=True))), schema=_TRACE)


def _write_rows(path: Path, rows: list[Row]) -> None:
    pq.write_table(_table(rows), path, compression="zstd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    options = parser.parse_args()
    for name, planted in write(options.folder, options.scale).items():
        print(f"{name}: {', '.join(f'{value:,} {kind}' for kind, value in asdict(planted).items())}")


if __name__ == "__main__":
    main()
