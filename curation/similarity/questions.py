"""All rows as questions, read batch by batch: a few ids for each row in memory, their compared texts in a file.

Nothing here holds a text of every row: compared texts lie in an Arrow file in the scratch folder, mapped into memory,
and only rows that share a key with another are looked at again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.ids import canonical_texts, hash_texts, ids_array
from curation.similarity import texts
from curation.similarity.answers import Answer, answer_of
from curation.similarity.keep import Preference
from curation.similarity.pictures import Pictures
from curation.stages.base import Rows

READS = ("content_id", "source", "question", "choices", "answer", "images", "solution", "license", "n_correct?")


@dataclass(frozen=True)
class Question:
    """One row, as it is compared with others."""

    row: int
    answer: Answer
    options: frozenset[str] | None
    """What the options say, compared; None where there are none."""
    images: tuple[str, ...]


@dataclass
class Questions:
    """The rows of a stage. Arrays have one value a row, in the order in which the rows came."""

    row_ids: np.ndarray
    text: np.ndarray
    """S20: rows that have the same text by the stage's rule have the same key."""
    nothing: np.ndarray
    """bool: no word, number or sign in the text, and no picture."""
    pictured: np.ndarray
    """bool"""
    rank: np.ndarray
    """int64: the order of preference."""
    compared: pa.ChunkedArray
    """Their texts without formatting; memory-mapped."""
    preference: Preference
    pictures: Pictures
    options: dict[int, tuple[str, ...]]
    """Options that a question shows in its text, by row."""
    source: np.ndarray
    """int32: which of `sources`"""
    sources: list[str]

    def __len__(self) -> int:
        return len(self.row_ids)

    def details(self, rows: Rows, wanted: np.ndarray) -> Iterator[Question]:
        """The questions of the rows where `wanted` is true, in their order."""
        start = 0
        for batch in rows.batches(["answer", "choices", "images"]):
            mask = wanted[start : start + len(batch)]
            few = batch.filter(pa.array(mask)).to_pylist() if mask.any() else []
            at = (start + np.flatnonzero(mask)).tolist()
            shown = [
                tuple(line["choices"] or ()) or self.options.get(row, ()) for row, line in zip(at, few, strict=True)
            ]
            said = texts.compared(pa.array([o or "" for options in shown for o in options], pa.string())).to_pylist()
            used = 0
            for row, line, options in zip(at, few, shown, strict=True):
                own = frozenset(said[used : used + len(options)]) if options else None
                used += len(options)
                answer = answer_of(line["answer"], [o or "" for o in options])
                yield Question(row, answer, own, tuple(line["images"] or ()))
            start += len(batch)


def read_questions(
    rows: Rows,
    *,
    light: bool,
    preference: Preference,
    workspace: Path,
    scratch: Path,
    progress: Callable[[int], None],
) -> Questions:
    """Pass over all rows once. `light` leaves out articles and words that only ask when texts are told apart."""
    hashes: set[str] = set()
    for batch in rows.batches(["images"]):
        hashes.update(pc.unique(pc.list_flatten(batch["images"])).to_pylist())
    pictures = Pictures(workspace, (h for h in hashes if h is not None))
    path = scratch / "compared.arrow"
    keys, ids, nothing, pictured, codes = ([np.empty(0, "S20")], [np.empty(0, "S20")], [], [], [])
    names: dict[str, int] = {}
    options: dict[int, tuple[str, ...]] = {}
    start = 0
    schema = pa.schema([("text", pa.large_string())])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in rows.batches():
            stems, shown = texts.stems(batch)
            options.update({start + row: found for row, found in shown.items()})
            text = texts.compared(stems)
            writer.write_batch(pa.record_batch([text], schema=schema))
            lengths = pc.fill_null(pc.list_value_length(batch["images"]), 0).to_numpy()
            empty = np.asarray(pc.equal(pc.binary_length(text), 0))
            keys.append(ids_array(hash_texts(_without_light(text) if light else text)))
            ids.append(ids_array(batch["row_id"]))
            nothing.append(empty & (lengths == 0))
            pictured.append(lengths > 0)
            sizes = np.array([pictures.pixels(list(i or ())) for i in batch["images"].to_pylist()] if lengths.any() else [0] * len(batch), np.int64)  # fmt: skip
            preference.add(batch, sizes)
            codes.append(_codes(batch["source"], names))
            start += len(batch)
            progress(len(batch))
    return Questions(
        row_ids=np.concatenate(ids),
        text=np.concatenate(keys),
        nothing=np.concatenate([np.empty(0, bool), *nothing]),
        pictured=np.concatenate([np.empty(0, bool), *pictured]),
        rank=preference.rank(),
        compared=mapped(path),
        preference=preference,
        pictures=pictures,
        options=options,
        source=np.concatenate([np.empty(0, np.int32), *codes]),
        sources=list(names),
    )


def _without_light(text: pa.Array) -> pa.Array:
    """The texts without light words; a text of nothing else stays as it is."""
    few = texts.light(text)
    return pc.if_else(pc.equal(few, ""), text, few)


def _codes(column: pa.ChunkedArray, names: dict[str, int]) -> np.ndarray:
    encoded = column.combine_chunks().dictionary_encode()
    own = np.array([names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()] or [0], np.int32)
    return own[encoded.indices.to_numpy()]


def mapped(path: Path) -> pa.ChunkedArray:
    """The one column of an Arrow file, not copied into memory."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()["text"]


def write_texts(path: Path, made: Sequence[pa.Array] | Iterator[pa.Array]) -> pa.ChunkedArray:
    """Texts to a file, and back as a mapped column."""
    schema = pa.schema([("text", pa.large_string())])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for text in made:
            writer.write_batch(pa.record_batch([text], schema=schema))
    return mapped(path)


def picture_keys(rows: Rows) -> np.ndarray:
    """S20: rows that show the same pictures in the same order have the same key."""
    found = [ids_array(hash_texts(canonical_texts(batch, ["images"]))) for batch in rows.batches(["images"])]
    return np.concatenate([np.empty(0, "S20"), *found])
