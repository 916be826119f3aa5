"""Decontamination at scale: a million rows against 20,000 benchmark items, recall of planted copies, false alarms.

Rows are synthetic texts of 330 bytes; items are texts of 150 bytes from other sentence templates. Copies of items,
altered in known ways, are searched for in a batch of their own; the rows, which hold no item, are the control.

    python tests/benchmarks/bench_containment.py [rows, default 1,000,000] [items, default 20,000]
"""

import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pyarrow as pa
import pyarrow.compute as pc
import text_corpus

from curation.kernels import containment


def disguises(item: str, draw: random.Random) -> dict[str, str]:
    words = item.split(" ")
    filler = ["The", "quick", "answer", "should", "be", "given", "below", "in", "full", "with", "all", "steps", "shown"]
    lead = " ".join(draw.choices(filler, k=draw.randint(5, 60)))
    tail = " ".join(draw.choices(filler, k=draw.randint(5, 60)))
    return {
        "verbatim": item,
        "re-wrapped": "".join(word + draw.choice([" ", "\n", "  ", "\n\n"]) for word in words),
        "re-cased": item.upper(),
        "LaTeX respelt": item.replace("\\frac", "\\dfrac").replace("$", "").replace("{i}", "i").replace("^2", "^{2}"),
        "embedded": f"{lead} {item} {tail}",
        "one word changed": " ".join([*words[: len(words) // 2], "otherwise", *words[len(words) // 2 + 1 :]]),
    }


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    items = text_corpus.texts(count, seed=99, median=150, wording=3)
    control = text_corpus.texts(rows)
    containment.build(items[:10]).search(control[:10])
    start, wall = time.process_time(), time.perf_counter()
    index = containment.build(items)
    built = time.process_time() - start
    hits = index.search(control, threads=2)
    spent, wall = time.process_time() - start, time.perf_counter() - wall
    false = hits.filter(pc.equal(hits["exact"], hits["matched"]))["row"]
    print(
        f"{rows:,} rows against {count:,} items: {spent:.1f} s of CPU ({built:.1f} to build), {wall:.1f} s"
        " on two threads"
    )
    print(f"  control: {len(pc.unique(false))} of {rows:,} rows hold half of an item or more, with its numbers")
    draw = random.Random(0)
    chosen = draw.sample(range(count), min(count, 2_000))
    batches: dict[str, list[str]] = {}
    for item in chosen:
        for kind, text in disguises(items[item].as_py(), draw).items():
            batches.setdefault(kind, []).append(text)
    for kind, texts in batches.items():
        found = index.search(pa.array(texts))
        found = found.filter(pc.equal(found["exact"], found["matched"]))
        got = set(zip(found["row"].to_pylist(), found["item"].to_pylist(), strict=True))
        recall = sum((row, item) in got for row, item in enumerate(chosen)) / len(chosen)
        print(f"  {kind}: recall {recall:.4f}")


if __name__ == "__main__":
    main()
