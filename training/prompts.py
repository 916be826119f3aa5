"""The questions of RL: read once, put into an order, handed out without an end.

Texts are kept; pictures stay in their files wherever those hold them as they are. The order is a function of the recipe
and the position alone, so a run that is taken up again needs nothing but its position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from curation.digests import json_digest
from schemas.errors import WinnowError
from schemas.training import Curriculum
from training.sources import ByteFinder, OpenData, Picture, Question, questions_of


@dataclass(frozen=True)
class Prompts:
    """Questions with their order: `at(position)` for any position, epoch after epoch."""

    questions: Sequence[Question]
    pass_rates: Sequence[float | None]
    order: str
    seed: int

    def __len__(self) -> int:
        return len(self.questions)

    def at(self, position: int) -> int:
        """The number of the question at a position of the endless stream."""
        epoch, place = divmod(position, len(self))
        return int(self._epoch(epoch)[place])

    def _epoch(self, epoch: int) -> np.ndarray:
        kept: dict[int, np.ndarray] = self.__dict__.setdefault("_kept", {})
        if epoch not in kept:
            kept.clear()
            if self.order == "shuffled":
                draw = np.random.Generator(np.random.Philox(key=np.array([self.seed, epoch], np.uint64)))
                kept[epoch] = draw.permutation(len(self))
            else:
                rates = np.array([0.5 if rate is None else rate for rate in self.pass_rates])
                kept[epoch] = np.argsort(rates if self.order == "ascending" else -rates, kind="stable")
        return kept[epoch]


def open_prompts(data: Sequence[OpenData], curriculum: Curriculum, seed: int) -> tuple[Prompts, int]:
    """All questions of a recipe's data within the band of its curriculum, and how many lie outside.

    Raises WinnowError where none is left, or where a curriculum by pass rate meets rows without one.
    """
    questions, rates, outside = [], [], 0
    for one in data:
        finders: dict[int, ByteFinder] = {}
        for question in questions_of(one, limit=-1):
            if curriculum.order != "shuffled" or curriculum.band is not None:
                if question.pass_rate is None:
                    raise WinnowError(
                        f"`curriculum` needs pass rates, and row {question.row_id} of {one.label} has none.\n"
                        "Export the layout `rl` from a version with a stage that makes them (docs/stages.md: pass_rate)."
                    )
                low, high = curriculum.band or (0.0, 1.0)
                if not low <= question.pass_rate <= high:
                    outside += 1
                    continue
            if any(picture.data for picture in question.pictures):
                file = question.file
                finders.setdefault(file, ByteFinder(one.files[file]))
                question = replace(question, pictures=list(_in_place(question.pictures, finders[file])))
            questions.append(question)
            rates.append(question.pass_rate)
        for finder in finders.values():
            finder.close()
    if not questions:
        raise WinnowError(f"There is no question to ask: no row has a gold answer ({outside:,} outside the band).")
    return Prompts(questions, rates, curriculum.order, seed), outside


def _in_place(pictures: Sequence[Picture], finder: ByteFinder) -> Iterator[Picture]:
    for picture in pictures:
        yield (finder.find(picture.data) if picture.data is not None else None) or picture


def seed_of(*parts: object) -> int:
    """A seed made of anything: the same parts, the same seed, on every machine."""
    return int(json_digest([str(part) for part in parts])[:15], 16)
