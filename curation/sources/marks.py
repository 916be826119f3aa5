"""Image marks: where in a question a picture stands.

Upstream writes `<image>`, `<image1>`, `<image 1>`, `<|image_1|>` and more. Here a question has one `<image>` for each
picture, the n-th mark for the n-th picture.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MARK = re.compile(
    r"<\|?\s*(?:image|img|picture)[\s_-]*(\d{0,4})\s*\|?>|\[image[\s_-]*(\d{0,4})\]|<\|image_pad\|>", re.IGNORECASE
)
CANONICAL = "<image>"


class MarksDisagree(Exception):
    """Marks and pictures do not agree. The message says how."""


def place(texts: Sequence[str], images: int, how: str) -> tuple[list[str], list[int]]:
    """A question and its choices with canonical marks, and which upstream picture (from 0) belongs to each mark.

    how   agree: numbered marks choose their picture, unnumbered ones take the next; each picture has exactly one
          mark, a number's further uses become the words "image 1"; a question without marks gets all of them in front.
          combined: where marks do not agree and there is one picture, it stands for all marks, which become words.
          ignore: marks are taken out, and all pictures put in front.
    Raises MarksDisagree.
    """
    found = [mark for text in texts for mark in MARK.finditer(text)]
    if how == "ignore" and found:
        texts = [re.sub(r"[ \t]{2,}", " ", MARK.sub(" ", text)).strip() for text in texts]
        found = []
    if not found:
        return ["".join([CANONICAL + "\n"] * images) + texts[0], *texts[1:]], list(range(images))
    numbers = _numbers(found)
    distinct = list(dict.fromkeys(numbers))
    if None in numbers or sorted(n for n in distinct if n is not None) != list(range(1, images + 1)):
        if how == "combined" and images == 1:
            counted = iter([n or i for i, n in enumerate(numbers, 1)])
            texts = [MARK.sub(lambda mark: f"image {next(counted)}", text) for text in texts]
            return [f"{CANONICAL}\n{texts[0]}", *texts[1:]], [0]
        if None in numbers:
            raise MarksDisagree("Some image marks have numbers and some have none.")
        named = f"the marks {', '.join(mark.group(0) for mark in found[:8])}"
        raise MarksDisagree(f"The question has {named}, and the row has {images} image{'' if images == 1 else 's'}.")
    left = iter(numbers)
    seen: set[int | None] = set()

    def written(mark: re.Match[str]) -> str:
        number = next(left)
        if number in seen:
            return f"image {number}"
        seen.add(number)
        return CANONICAL

    return [MARK.sub(written, text) for text in texts], [n - 1 for n in distinct if n is not None]


def _numbers(found: Sequence[re.Match[str]]) -> list[int | None]:
    """The number of each mark, from 1. Where no mark has one, they are counted; where only some have, None stands."""
    written = [mark.group(1) or mark.group(2) for mark in found]
    if not any(written):
        return list(range(1, len(found) + 1))
    numbers = [int(digits) if digits else None for digits in written]
    return [n if n is None else n + 1 for n in numbers] if 0 in numbers else numbers
