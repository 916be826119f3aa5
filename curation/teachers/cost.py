"""What a fan-out would cost, before it is begun: answers that are not there yet, and tokens, from a sample of rows.

Tokens of prompts are counted by the model's own tokenizer where it lies on this machine, and else taken as a quarter of
the characters; a picture as one token for each 28 x 28 pixels. Answers are taken to be as long as those of the same
model that are stored already, and else as long as they may be.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from curation.digests import text_id
from curation.images import ImageStore
from curation.stages.base import Context
from curation.teachers.asking import BLOCK, Wish
from curation.teachers.base import Asked
from curation.teachers.pictures import fitted
from curation.teachers.snapshot import Snapshot
from curation.teachers.store import TraceStore

SAMPLE = 256
"""Rows whose prompts are counted."""
PIXELS = 28 * 28


def estimated(wish: Wish, teacher: Asked, rows: pa.Table, context: Context) -> dict[str, int]:
    """requests (rows that are asked for something), answers, prompt_tokens, output_tokens (expected) and tokens (of
    answers, at most). With `until`, a row is taken to need all that it may get."""
    who = teacher.identity(context.recipe_dir)
    store = TraceStore(context.workspace / "traces")
    snapshot = Snapshot(store)
    requests = answers = tokens = 0
    for start in range(0, len(rows), BLOCK):
        block = rows.slice(start, BLOCK)
        if who is None:  # a model that is not on this machine yet has answered nothing here
            wanted = [wish.most] * len(block)
            limits = len(block) * wish.most * wish.limits[-1]
        else:
            keys = [p.key(k) for p in wish.prompts(block, model=who[0], revision=who[1]) for k in range(wish.most)]
            begin, end = snapshot.find(keys)
            tries = [wish.next_of(snapshot, int(a), int(b)) for a, b in zip(begin, end, strict=True)]
            wanted = [sum(t is not None for t in tries[i : i + wish.most]) for i in range(0, len(tries), wish.most)]
            limits = sum(t.max_tokens for t in tries if t is not None)
        requests += sum(count > 0 for count in wanted)
        answers += sum(wanted)
        tokens += limits
    mean = store.mean_output_tokens(teacher.identity(context.recipe_dir)[0]) if who else None  # type: ignore[index]
    expected = tokens if mean is None else min(tokens, round(mean * answers))
    prompts = round(_prompt_tokens(wish, teacher, rows, context) * requests)
    return {
        "requests": requests,
        "answers": answers,
        "prompt_tokens": prompts,
        "output_tokens": expected,
        "tokens": tokens,
    }


def _prompt_tokens(wish: Wish, teacher: Asked, rows: pa.Table, context: Context) -> float:
    """Mean tokens of a prompt."""
    if not len(rows):
        return 0.0
    order = sorted(range(len(rows)), key=lambda i: text_id(rows["row_id"][i].as_py()))[:SAMPLE] if len(rows) > SAMPLE else range(len(rows))  # fmt: skip
    sample = rows.take(pa.array(list(order), pa.int64()))
    made = wish.prompts(sample, model="", revision="")
    texts = ["\n".join(message.content for message in prompt.messages) for prompt in made]
    place = teacher.tokenizer(context.recipe_dir)
    count = _counter(place) if place is not None else None
    total = sum(len(text) / 4 if count is None else count(text) for text in texts)
    return (total + sum(_picture_tokens(prompt.images, teacher, context) for prompt in made)) / len(sample)


def _picture_tokens(images: tuple[str, ...], teacher: Asked, context: Context) -> float:
    if not images:
        return 0.0
    sizes = _sizes(context.workspace)
    most = getattr(teacher, "max_pixels", None)
    found = [fitted(*sizes[name], most) for name in images if name in sizes]
    return sum(width * height for width, height in found) / PIXELS


@lru_cache(maxsize=1)
def _sizes(workspace: Path) -> dict[str, tuple[int, int]]:
    index = ImageStore(workspace).index().select(["hash", "width", "height"])
    return {line["hash"]: (line["width"], line["height"]) for line in index.to_pylist()}


@lru_cache(maxsize=2)
def _counter(place: str):  # type: ignore[no-untyped-def]
    """A function text -> tokens, or None where no tokenizer lies there."""
    from tokenizers import Tokenizer

    file = Path(place) / "tokenizer.json"
    if not file.is_file():
        return None
    tokenizer = Tokenizer.from_file(str(file))
    return lambda text: len(tokenizer.encode(text).ids)
