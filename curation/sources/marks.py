"""Image marks: where in a question a picture stands.

Upstream writes `<image>`, `<image1>`, `<image 1>`, `<|image_1|>` and more. Here a question has one `<image>` for each
picture, the n-th mark for the n-th picture.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MARK = re.compile(
    r"<\|?\s*(?:image|img|picture)[\s_-]*(\d*)\s*\|?>|\[(?:image|IMAGE)[\s_-]*(\d*)\]|<\|image_pad\|>", re.IGNORECASE
)
CANONICAL = "<image>"


class MarksDisagree(Exception):
    """Marks and pictures do not agree. The message says how."""


@dataclass(frozen=True)
class Marked:
    question: str
    order: list[int]
    """Which upstream picture (from 0) belongs to each mark."""


def place(question: str, images: int, how: str) -> Marked:
    """The question with canonical marks, and the order of its pictures.

    how   agree: numbered marks choose their picture, unnumbered ones take the next; each picture has exactly one
          mark, a number's further uses become the words "image 1"; a question without marks gets all of them in front.
          combined: one picture stands for all marks, which become words.
          ignore: marks are taken out, and all pictures put in front.
    Raises MarksDisagree.
    """
    found = list(MARK.finditer(question))
    if how == "ignore" and found:
        question, found = re.sub(r"[ \t]{2,}", " ", MARK.sub(" ", question)).strip(), []
    if how == "combined" and images == 1 and found:
        if len(found) == 1:
            return Marked(MARK.sub(CANONICAL, question), [0])
        numbered = iter(range(1, len(found) + 1))
        return Marked(CANONICAL + "\n" + MARK.sub(lambda m: f"image {_number(m) or next(numbered)}", question), [0])
    if not found:
        return Marked("".join([CANONICAL + "\n"] * images) + question, list(range(images)))
    numbers = [_number(mark) for mark in found]
    if any(numbers) and not all(numbers):
        raise MarksDisagree("Some image marks have numbers and some have none.")
    wanted = numbers if any(numbers) else list(range(1, len(found) + 1))
    distinct = list(dict.fromkeys(wanted))
    if sorted(n for n in distinct if n) != list(range(1, images + 1)):
        what = f"the marks {', '.join(m.group(0) for m in found[:8])}" if any(numbers) else f"{len(found)} image marks"
        raise MarksDisagree(f"The question has {what}, and the row has {images} image{'' if images == 1 else 's'}.")
    seen: set[int | None] = set()
    pieces, end = [], 0
    for mark, number in zip(found, wanted, strict=True):
        pieces += [question[end : mark.start()], CANONICAL if number not in seen else f"image {number}"]
        seen.add(number)
        end = mark.end()
    return Marked("".join([*pieces, question[end:]]), [n - 1 for n in distinct if n])


def _number(mark: re.Match[str]) -> int | None:
    digits = mark.group(1) or mark.group(2)
    return int(digits) if digits else None
