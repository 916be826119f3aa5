"""Questions as vectors, for what words can't tell: paraphrases, and the joint rule of OpenMMReasoner.

Texts become static embeddings (model2vec), neighbours are proposed by an HNSW index (usearch, one thread, rows in the
order of preference), and every pair is decided again by its exact cosine, in integers. Both libraries and a model are
asked for by the recipe; nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from curation.similarity import texts
from curation.similarity.answers import agreement
from curation.similarity.families import options_agree
from curation.similarity.questions import Questions
from curation.stages.base import Context, Rows
from schemas.errors import WinnowError

if TYPE_CHECKING:
    from curation.stages.dedup import Dedup

OMR_THRESHOLD = 0.99
NEIGHBOURS = 32
ROUNDS = 10
"""A cluster of more rows than `NEIGHBOURS` is merged in several rounds; further ones find next to nothing."""
SIDE = 16
"""Cells on a side of the grey picture that stands for a picture in the joint rule."""
_SCALE = 16_384
_BATCH = 4_096

Pair = tuple[int, int, float]
"""(row, the row that it is merged into, cosine)"""


def missing_libraries() -> list[str]:
    return [name for name in ("model2vec", "usearch") if importlib.util.find_spec(name) is None]


def model_files(model: str, folder: Path) -> list[Path]:
    """The files of a model: a folder, or a repo of the Hub's cache. Raises WinnowError where it is neither."""
    place = folder / model
    if not place.is_dir():
        from huggingface_hub import snapshot_download

        try:
            place = Path(snapshot_download(model, local_files_only=True))
        except Exception as error:  # a name that is no repo id, or a repo that is not here
            raise WinnowError(
                f"model: there is neither a folder {model} nor a model of this name in the Hub's cache.\n"
                f"Fetch it where there is a network: hf download {model}"
            ) from error
    files = sorted(p for p in place.iterdir() if p.suffix in (".json", ".safetensors"))
    if not any(p.suffix == ".safetensors" for p in files):
        raise WinnowError(f"model: {model} has no .safetensors file, so it is no model2vec model.")
    return files


# ----------------------------------------------------------------------------------------------------------- embeddings


def embedded(config: Dedup, rows: Rows, wanted: np.ndarray, context: Context) -> np.ndarray:
    """int16 (wanted rows, dimensions): unit vectors of their questions, in steps of 1 / 16,384."""
    from model2vec import StaticModel

    files = model_files(str(config.model), context.recipe_dir)
    model = StaticModel.from_pretrained(files[0].parent)
    parts: list[np.ndarray] = []
    start = 0
    for batch in rows.batches(["question"]):
        mask = wanted[start : start + len(batch)]
        said = [question or "" for question in batch["question"].filter(pa.array(mask)).to_pylist()]
        for at in range(0, len(said), _BATCH):
            parts.append(_steps(model.encode(said[at : at + _BATCH], use_multiprocessing=False)))
        start += len(batch)
    return np.concatenate(parts) if parts else np.empty((0, 1), np.int16)


def _steps(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return np.rint(vectors / np.maximum(length, 1e-12) * _SCALE).astype(np.int16)


def cosines(vectors: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Exact cosines of pairs of rows: sums of integers, so they are the same on any machine. 0 beside a zero vector."""
    found = np.empty(len(left), np.float64)
    for at in range(0, len(left), _BATCH):
        a, b = (vectors[side[at : at + _BATCH]].astype(np.int64) for side in (left, right))
        norm = np.sqrt((a * a).sum(axis=1).astype(np.float64)) * np.sqrt((b * b).sum(axis=1).astype(np.float64))
        found[at : at + _BATCH] = (a * b).sum(axis=1) / np.maximum(norm, 1.0)
    return found


def proposed(vectors: np.ndarray) -> np.ndarray:
    """Pairs (i, j), i < j, of vectors that are near, int64 (n, 2). Rows come in the order of preference."""
    from usearch.index import Index

    if len(vectors) < 2:
        return np.empty((0, 2), np.int64)
    index = Index(ndim=vectors.shape[1], metric="cos", dtype="f32")
    some = vectors.astype(np.float32)
    index.add(np.arange(len(some)), some, threads=1)
    found = index.search(some, min(NEIGHBOURS, len(some)), threads=1)
    keys = np.asarray(found.keys).reshape(len(some), -1).astype(np.int64)
    pairs = np.stack([np.repeat(np.arange(len(some)), keys.shape[1]), keys.reshape(-1)], axis=1)
    return np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)


def _led(order: Sequence[int], links: Iterable[Pair]) -> list[Pair]:
    """Pairs (row, leader, cosine) of linked rows: the preferred leads, and a merged row leads nobody."""
    near: dict[int, list[tuple[int, float]]] = {}
    for a, b, cosine in links:
        near.setdefault(a, []).append((b, cosine))
    gone: dict[int, Pair] = {}
    for leader in order:
        if leader in gone:
            continue
        for row, cosine in sorted(near.get(leader, ())):
            gone.setdefault(row, (row, leader, cosine))
    return list(gone.values())


# ---------------------------------------------------------------------------------------------------------- paraphrases


def paraphrases(config: Dedup, questions: Questions, rows: Rows, alive: np.ndarray, context: Context) -> list[Pair]:
    """Rows that ask in other words what a preferred row asks. Numbers, signs, options and pictures must be the same, and
    the answers one that two questions hardly have by chance."""
    wanted = alive & ~questions.nothing
    vectors = embedded(config, rows, wanted, context)
    at = np.flatnonzero(wanted)
    order = np.argsort(questions.rank[at], kind="stable")
    vectors, at = vectors[order], at[order]
    pairs = proposed(vectors)
    cosine = cosines(vectors, pairs[:, 0], pairs[:, 1])
    near = cosine >= (config.semantic or 1.0)
    pairs, cosine = at[pairs[near]], cosine[near]
    involved = np.zeros(len(questions), bool)
    involved[pairs.reshape(-1)] = True
    details = {question.row: question for question in questions.details(rows, involved)}
    some = np.flatnonzero(involved)
    signs = texts.signature(questions.compared.take(pa.array(some)).combine_chunks()).to_pylist() if len(some) else []
    sign = dict(zip(some.tolist(), signs, strict=True))
    links = []
    for (a, b), value in zip(pairs.tolist(), cosine.tolist(), strict=True):
        one, other = details[a], details[b]
        if sign[a] != sign[b] or not options_agree(one, other) or not one.answer.tells:
            continue
        if agreement(one.answer, other.answer) not in ("equal", "compatible"):
            continue
        if questions.pictures.same(one.images, other.images) is not None:
            links.append((a, b, value))
    return _led(at.tolist(), links)


# -------------------------------------------------------------------------------------------------------------- joint


def joint_duplicates(config: Dedup, questions: Questions, rows: Rows, context: Context) -> list[Pair]:
    """The rule of OpenMMReasoner: a row goes when the cosine of text and picture together is above the threshold, within
    a source as well as between sources. Each pair is decided by its exact cosine, picture by picture.

    Where theirs takes a MobileNet's vector for a picture, this takes a grey picture of 16 by 16 cells.
    """
    threshold = config.semantic or OMR_THRESHOLD
    everyone = np.ones(len(questions), bool)
    text = embedded(config, rows, everyone, context)
    images = [question.images for question in questions.details(rows, everyone)]
    order = np.argsort(questions.rank, kind="stable")
    pictures = {name: _picture(questions, name) for shown in images for name in shown}
    blank = np.zeros(SIDE * SIDE, np.int16)
    mean = np.stack([_mean([pictures[name] for name in shown]) if shown else blank for shown in images])
    joint = np.concatenate([text, mean], axis=1)
    left, merged = order, []
    for _ in range(ROUNDS):
        pairs = left[proposed(joint[left])]
        value = cosines(text, pairs[:, 0], pairs[:, 1])
        links = []
        for (a, b), words in zip(pairs.tolist(), value.tolist(), strict=True):
            both = _with_pictures(words, images[a], images[b], pictures)
            if both > threshold:
                links.append((a, b, both))
        found = _led(left.tolist(), links)
        if not found:
            break
        merged += found
        gone = np.zeros(len(questions), bool)
        gone[[row for row, _, _ in merged]] = True
        left = order[~gone[order]]
    return merged


def _with_pictures(words: float, left: Sequence[str], right: Sequence[str], pictures: dict[str, np.ndarray]) -> float:
    """The cosine of two vectors of text and picture, one after the other, by the pictures that agree least."""
    if len(left) != len(right):
        return 0.0
    if not left:
        return words
    least = 1.0
    for a, b in zip(left, right, strict=True):
        if a != b:
            both = np.stack([pictures[a], pictures[b]])
            least = min(least, float(cosines(both, np.array([0]), np.array([1]))[0]))
    return (words + least) / 2


def _mean(vectors: Sequence[np.ndarray]) -> np.ndarray:
    return _steps(np.mean(np.stack(vectors).astype(np.float64), axis=0)[None])[0]


def _picture(questions: Questions, name: str) -> np.ndarray:
    """int16 (256,): the unit vector of a picture's grey cells around their mean."""
    cells = questions.pictures.grey(name, SIDE)
    return _steps((cells - cells.mean()).reshape(1, -1))[0]
