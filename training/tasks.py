"""Two procedural tasks, small enough to learn from nothing in minutes on a CPU: generators for recipes.

    sources: [{generator: "training.tasks:sums", count: 3000}]

They are what the trainers are tried on: a change that breaks learning breaks these, and anyone can repeat them.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

COLOURS = {"red": (220, 40, 40), "green": (40, 170, 70), "blue": (50, 80, 220)}
PLACES = ("top left", "top right", "bottom left", "bottom right")
SIDE = 32
"""Pixels of a picture; a quarter of it is one image token of the tiny model."""


def sums(index: int, seed: int = 0, digits: int = 2) -> dict[str, Any]:
    """Addition, digit by digit from the right: `<think>` holds each column's sum with its carry. All pairs come once
    before one comes again."""
    size = 10**digits
    a, b = divmod((index * 7919 + seed * 104_729) % size**2, size)
    carry, columns = 0, []
    for n in range(digits):
        total = a // 10**n % 10 + b // 10**n % 10 + carry
        carry = total // 10
        columns.append(f"{total:02d}")
    return {
        "id": f"sum-{a}-{b}",
        "question": f"{a:0{digits}d}+{b:0{digits}d}=",
        "answer": str(a + b),
        "solution": f"<think>{' '.join(columns)}</think><answer>{a + b}</answer>",
    }


def shapes(index: int, seed: int = 0) -> dict[str, Any]:
    """A picture with up to four discs and squares, one in each quarter, and a question of how many, which colour or
    where. `<think>` says the colour of each quarter: `r-bg`."""
    from PIL import Image, ImageDraw

    draw_from = np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))
    names = [*COLOURS, None]
    quarters = [names[int(draw_from.integers(4))] for _ in PLACES]
    kind = index % 3
    if kind == 0:
        colour = list(COLOURS)[int(draw_from.integers(3))]
        question, answer = f"How many {colour} shapes?", str(quarters.count(colour))
    elif kind == 1:
        at = int(draw_from.integers(4))
        quarters[at] = quarters[at] or "red"
        question, answer = f"Colour at the {PLACES[at]}?", str(quarters[at])
    else:
        at, colour = int(draw_from.integers(4)), list(COLOURS)[int(draw_from.integers(3))]
        others = [name for name in names if name != colour]
        quarters = [name if name != colour else others[int(draw_from.integers(3))] for name in quarters]
        quarters[at] = colour
        question, answer = f"Where is the {colour} shape?", PLACES[at]
    image = Image.new("RGB", (SIDE, SIDE), "white")
    pen, half = ImageDraw.Draw(image), SIDE // 2
    for n, name in enumerate(quarters):
        if name is None:
            continue
        size = int(draw_from.integers(9, 13))
        left, top = (int(v) for v in draw_from.integers(1, half - size, 2))
        left, top = left + half * (n % 2), top + half * (n // 2)
        box = (left, top, left + size, top + size)
        (pen.ellipse if draw_from.integers(2) else pen.rectangle)(box, fill=COLOURS[name])
    sink = io.BytesIO()
    image.save(sink, "PNG")
    seen = "".join(name[0] if name else "-" for name in quarters)
    return {
        "id": f"shapes-{seed}-{index}",
        "question": question,
        "answer": answer,
        "solution": f"<think>{seen}</think><answer>{answer}</answer>",
        "images": [sink.getvalue()],
    }


def cells(index: int, seed: int = 0) -> dict[str, Any]:
    """Sixteen coloured cells, and how many of them are red. `<think>` counts them in each quarter, which is one image
    token: `1 0 2 1`."""
    from PIL import Image

    draw_from = np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))
    colours = list(COLOURS.values())
    grid = draw_from.integers(0, len(colours), (4, 4))
    pixels = np.array(colours, np.uint8)[grid].repeat(SIDE // 4, 0).repeat(SIDE // 4, 1)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    red = grid == list(COLOURS).index("red")
    counts = [int(red[r : r + 2, c : c + 2].sum()) for r in (0, 2) for c in (0, 2)]
    return {
        "id": f"cells-{seed}-{index}",
        "question": "How many red cells?",
        "answer": str(sum(counts)),
        "solution": f"<think>{' '.join(map(str, counts))}</think><answer>{sum(counts)}</answer>",
        "images": [sink.getvalue()],
    }
