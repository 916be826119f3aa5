"""Duplicates, label conflicts and families among questions: who agrees with whom.

All of it is led: the row that is preferred leads, and each other one is compared with its leader itself. So nothing is
merged through a chain of look-alikes, and the result does not hang on the order in which rows came.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.similarity import texts
from curation.similarity.answers import Agreement, agreement, agrees
from curation.similarity.groups import near_texts
from curation.similarity.pictures import Pictures, Sameness, near_pairs
from curation.similarity.questions import Question, Questions, write_texts

MOST_LEADERS = 32
"""Leaders of one question and picture that a row is checked against; beyond, it leads itself."""


@dataclass(frozen=True, slots=True)
class Merge:
    """One row that is the same as another."""

    row: int
    into: int
    answers: Agreement
    pictures: Sameness


@dataclass
class Found:
    """What the comparison of questions with one text says."""

    merges: list[Merge] = field(default_factory=list)
    conflicts: list[tuple[int, int]] = field(default_factory=list)
    """Leaders of one question and picture whose answers are incompatible."""
    unclear: int = 0
    """Pairs that the checker could not decide, and that stay apart."""


def compare_group(
    group: Sequence[Question],
    pictures: Pictures,
    radius: int,
    found: Found,
    told: Callable[[int, int], str | None] | None = None,
) -> None:
    """Questions with one text, the preferred first: which are the same, and which only say so with another answer.
    `told` says how two of them have one text, where words may differ."""
    near = _near(group, pictures, radius)
    leaders: dict[tuple[str, ...], list[Question]] = defaultdict(list)
    decided: dict[object, Merge | None] = {}
    for question in group:
        key = (question.images, question.answer, None if question.images else question.options)
        if told is None and (like := decided.get(key)) is not None:
            found.merges.append(replace(like, row=question.row))
            continue
        merge, against = _led(question, leaders, near, pictures, found, told)
        if merge is None:
            leaders[question.images].append(question)
            found.conflicts += against
            said = agreement(question.answer, question.answer)
            decided[key] = Merge(question.row, question.row, said, Sameness("bytes"))
        else:
            found.merges.append(merge)
            decided[key] = merge


def _led(
    question: Question,
    leaders: Mapping[tuple[str, ...], list[Question]],
    near: Mapping[tuple[str, ...], list[tuple[str, ...]]],
    pictures: Pictures,
    found: Found,
    told: Callable[[int, int], str | None] | None,
) -> tuple[Merge | None, list[tuple[int, int]]]:
    """The merge of a question into the first leader that it agrees with, or the conflicts that it has with leaders."""
    against = []
    for other in leaders.get(question.images, ())[:MOST_LEADERS]:
        if not question.images and not options_agree(question, other):
            continue
        said = agreement(question.answer, other.answer)
        text = "same" if told is None else told(question.row, other.row)
        if _merges(said, text, question):
            return Merge(question.row, other.row, said, Sameness("bytes")), []
        found.unclear += said == "unclear"
        if said == "incompatible" and text == "same":
            against.append((other.row, question.row))
    # A picture that another encoder wrote: hashes propose, the answer must agree, and then the pixels decide.
    looked = 0
    for images in near.get(question.images, ()):
        for other in leaders.get(images, ()):
            said = agreement(question.answer, other.answer)
            text = "same" if told is None else told(question.row, other.row)
            if not _merges(said, text, question) or looked == MOST_LEADERS:
                continue
            looked += 1
            if same := pictures.same(question.images, other.images):
                return Merge(question.row, other.row, said, same), []
    return None, against


def _merges(said: Agreement, text: str | None, question: Question) -> bool:
    """Whether answers agree well enough for the text: other words need an answer that is no coincidence."""
    return (
        agrees(said) if text == "same" else text == "near" and said in ("equal", "compatible") and question.answer.tells
    )


def options_agree(question: Question, other: Question) -> bool:
    """Without a picture the options are a part of the question; one that shows none may be the same, asked openly."""
    return question.options is None or other.options is None or question.options == other.options


def _near(group: Sequence[Question], pictures: Pictures, radius: int) -> dict[tuple[str, ...], list[tuple[str, ...]]]:
    """Lists of pictures whose hashes propose that they are the same."""
    lists = list(dict.fromkeys(q.images for q in group if q.images))
    first = [pictures.dhash(images[0]) for images in lists]
    known = [i for i, dhash in enumerate(first) if dhash is not None]
    found: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
    for a, b in near_pairs([first[i] or "" for i in known], radius).tolist():
        left, right = lists[known[a]], lists[known[b]]
        apart = pictures.distance(left, right)
        if apart is not None and apart <= radius:
            found[left].append(right)
            found[right].append(left)
    return found


# ------------------------------------------------------------------------------------------------------------ wordings


def reworded(questions: Questions, threshold: float, *, threads: int, scratch: Path) -> np.ndarray:
    """int64 (rows,): one number for rows that may be one question in other words: their texts are chained by near ones,
    and have the same numbers and signs. Rows with one text key have one number."""
    first, cluster = near_texts(
        questions.compared, questions.text, threshold, threads=threads, order=questions.rank, scratch=scratch
    )
    code = np.unique(questions.text, return_inverse=True)[1]
    signs = texts.signature(questions.compared.take(pa.array(first)).combine_chunks()).dictionary_encode()
    groups = np.stack([cluster, signs.indices.to_numpy()], axis=1)
    return np.unique(groups, axis=0, return_inverse=True)[1].reshape(-1)[code].astype(np.int64)


def wording(questions: Questions, threshold: float) -> Callable[[int, int], str | None]:
    """How two rows of one group have the same text: `same` by their keys, `near` by exact Jaccard; None if neither."""
    from curation.kernels import minhash

    def told(row: int, other: int) -> str | None:
        if questions.text[row] == questions.text[other]:
            return "same"
        pair = questions.compared.take(pa.array([row, other]))
        shared, union = minhash.jaccard(pair, np.array([0]), np.array([1]))
        return "near" if shared[0] >= threshold * union[0] else None

    return told


# ------------------------------------------------------------------------------------------------------------ families


@dataclass(frozen=True)
class Families:
    """Template siblings: one text but for its numbers and names, and one picture or none."""

    leader: np.ndarray
    """int64 (rows,): the preferred row of the row's family; -1 for a row that stands alone or was left out."""
    similarity: np.ndarray
    """float64 (rows,): Jaccard with the leader, numbers taken as equal; exact, 1 for the leader."""


def families(
    questions: Questions,
    picture: np.ndarray,
    dhashes: dict[int, str],
    alive: np.ndarray,
    threshold: float,
    radius: int,
    *,
    threads: int,
    scratch: Path,
) -> Families:
    """Families of the rows where `alive` is true.

    picture  (rows,): keys of the rows' lists of pictures
    dhashes  hash of the first picture of each row that has one
    """
    from curation.kernels import minhash

    blind = write_texts(scratch / "blind.arrow", (texts.blind(chunk) for chunk in questions.compared.chunks))
    n = len(questions)
    leader, similarity = np.full(n, -1, np.int64), np.ones(n)
    rows = np.flatnonzero(alive & ~questions.nothing)
    if len(rows) < 2:
        return Families(leader, similarity)
    from curation.ids import hash_texts, ids_array

    keys = np.concatenate([ids_array(hash_texts(chunk)) for chunk in blind.chunks])
    first, cluster = near_texts(
        blind.take(pa.array(rows)), keys[rows], threshold, threads=threads, order=questions.rank[rows], scratch=scratch
    )
    code = np.unique(keys[rows], return_inverse=True)[1]
    text = first[cluster[code]]
    several = np.bincount(text, minlength=len(rows))[text] > 1
    rows, text = rows[several], text[several]
    if not len(rows):
        return Families(leader, similarity)
    groups = _with_pictures(questions, rows, text, picture, dhashes, radius)
    found, merged = minhash.leader_clusters(
        blind.take(pa.array(rows)), groups, threshold=threshold, order=questions.rank[rows], threads=threads
    )
    size = np.bincount(found, minlength=len(rows))
    leader[rows] = np.where(size[found] > 1, rows[found], -1)
    similarity[rows[merged["row"].to_numpy()]] = merged["jaccard"].to_numpy()
    return Families(leader, similarity)


def _with_pictures(
    questions: Questions,
    rows: np.ndarray,
    text: np.ndarray,
    picture: np.ndarray,
    dhashes: dict[int, str],
    radius: int,
) -> np.ndarray:
    """Groups of rows with one family of texts, cut where they show other pictures. Near pictures are chained: a family
    of one template and figure may be long."""
    from curation.similarity.groups import components

    pictured = np.flatnonzero(questions.pictured[rows])
    shown = np.zeros(len(rows), np.int64)
    if len(pictured):
        _, first, inverse = np.unique(picture[rows[pictured]], return_index=True, return_inverse=True)
        hashes = [dhashes.get(int(rows[pictured[i]]), "") for i in first]
        known = [i for i, dhash in enumerate(hashes) if dhash]
        # A picture of one text is never chained with one of another: pairs are looked for text by text.
        place: dict[int, list[int]] = defaultdict(list)
        for i in known:
            place[int(text[pictured[first[i]]])].append(i)
        links = [np.empty((0, 2), np.int64)]
        for members in place.values():
            pairs = near_pairs([hashes[i] for i in members], radius)
            links.append(np.asarray(members, np.int64)[pairs])
        shown[pictured] = 1 + components(len(first), links)[inverse]
    return np.unique(np.stack([text, shown], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
