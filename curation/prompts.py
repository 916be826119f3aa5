"""How a row reads as text: the one rendering that teachers, SFT and RL share.

A row becomes a prompt by a template (`{question}` by default), a prompt becomes messages, and messages hold their
content as one string or as parts. A picture stands where its mark `<image>` stands. Everything works on whole Arrow
columns: a million rows are a few dozen calls, not a million.

    What is the area? <image>
    A. 12
    B. 16
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

REVISION = 1
"""Bumped when the same row would render otherwise: part of the cache keys of what is built from prompts."""

IMAGE_MARK = "<image>"
PROMPT = "{question}"
RESPONSE = "{response}"
PROMPT_FIELDS = {
    "question": "the question, its choices as lettered lines under it unless it already shows them",
    "stem": "the question alone",
    "choices": "the lettered lines alone; empty where there are none or the question shows them",
    "source": "name of the source",
    "language": "language code of the row",
}
RESPONSE_FIELDS = {
    "response": "what the trace, or the row's solution, says",
    "answer": "the row's gold answer",
    "extracted": "the answer that the checker found in the trace",
}

# "A." "(A)" "A:" "A、" not inside a word: how a question that shows its choices names the first two of them.
_SHOWS = r"(?:^|[^A-Za-z0-9])\(?{letter}\s*[.)）、．:：]"
_OWN_LABEL = r"^\s*\(?(?P<label>[A-Za-z])\s*[.)）、．:：]"

Template = tuple[tuple[str, str | None], ...]


@cache
def parse_template(text: str, fields: tuple[str, ...]) -> Template:
    """A template as (literal, field or None) pairs. `{{` and `}}` stand for braces.

    Raises ValueError, with the names that exist, for a field that is not one of `fields` or braces that do not pair.
    """
    try:
        pieces = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{error}; write {{{{ and }}}} for braces that are not a field") from None
    for literal, field, spec, conversion in pieces:
        if spec or conversion:
            raise ValueError(f"a field is a plain name in braces, without ':' or '!': {text!r}")
        if field is not None and field not in fields:
            raise ValueError(f"there is no field {{{field}}}; there are {', '.join(f'{{{f}}}' for f in fields)}")
        if IMAGE_MARK in literal:
            raise ValueError(f"a template does not write {IMAGE_MARK}: marks come with the question")
    return tuple((literal, field) for literal, field, _, _ in pieces)


def fill(template: Template, columns: Mapping[str, pa.Array], rows: int) -> pa.Array:
    """The template's text for each row; a null value reads as empty text."""
    pieces: list[pa.Array | pa.Scalar] = []
    for literal, field in template:
        if literal:
            pieces.append(pa.scalar(literal))
        if field is not None:
            pieces.append(columns[field])
    if len(pieces) == 1 and isinstance(pieces[0], pa.Array):
        return filled(pieces[0])
    if not any(isinstance(piece, pa.Array) for piece in pieces):
        return pa.repeat(pa.scalar("".join(piece.as_py() for piece in pieces)), rows)
    return pc.binary_join_element_wise(*pieces, "", null_handling="replace", null_replacement="")


def render(rows: pa.Table, template: str = PROMPT) -> pa.Array:
    """The prompt of each row: string[rows]. Needs the columns question, choices and images, and those it names.

    Pictures whose question has no mark at all are put first, each with its mark, on a line of their own.
    """
    parsed = parse_template(template, tuple(PROMPT_FIELDS))
    named = {field for _, field in parsed if field}
    columns: dict[str, pa.Array] = {}
    if named & {"question", "stem", "choices"}:
        stem = _with_marks(column(rows, "question"), images_per_row(rows))
        lines = _choice_lines(column(rows, "question"), rows)
        columns["stem"] = stem
        columns["choices"] = pa.nulls(len(rows), pa.string()) if lines is None else lines
        columns["question"] = stem
        if lines is not None and "question" in named:
            listed = pc.binary_join_element_wise(stem, lines, "\n", null_handling="replace", null_replacement="")
            columns["question"] = pc.if_else(pc.equal(pc.fill_null(lines, ""), ""), stem, listed)
    for name in named - columns.keys():
        columns[name] = column(rows, name)
    return fill(parsed, {name: columns[name] for name in sorted(named)}, len(rows))


def disagreeing_marks(rows: pa.Table, prompts: pa.Array) -> np.ndarray:
    """bool[rows]: the prompt's marks and the row's images differ in number, so no trainer could place them."""
    images = images_per_row(rows)
    if not images.any() and not _anywhere(prompts, IMAGE_MARK):
        return np.zeros(len(prompts), bool)
    return pc.count_substring(prompts, IMAGE_MARK).to_numpy(zero_copy_only=False) != images


def _anywhere(texts: pa.Array, needle: str) -> bool:
    """Whether any text has the needle in it: one search of the bytes, far cheaper than one per text. May say yes where
    two texts only touch."""
    _, offsets, data = texts.buffers()
    if data is None:
        return False
    width = "<i8" if pa.types.is_large_string(texts.type) else "<i4"
    edges = np.frombuffer(offsets, width)[texts.offset : texts.offset + len(texts) + 1]
    wanted, step = needle.encode(), 8 << 20
    for start in range(int(edges[0]), int(edges[-1]), step):
        if wanted in data.slice(start, min(step + len(wanted), int(edges[-1]) - start)).to_pybytes():
            return True
    return False


def filled(texts: pa.Array) -> pa.Array:
    """The texts with "" for null. Arrow's own fill_null copies even where nothing is null."""
    return pc.fill_null(texts, "") if texts.null_count else texts


def blank(texts: pa.Array) -> np.ndarray:
    """bool[rows]: null, or nothing but blanks."""
    return ~pc.fill_null(pc.match_substring_regex(texts, r"\S"), False).to_numpy(zero_copy_only=False)


def column(table: pa.Table, name: str) -> pa.Array:
    """One column as one array."""
    chunked = table[name]
    return chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()


def images_per_row(rows: pa.Table) -> np.ndarray:
    """int64[rows]"""
    if "images" not in rows.column_names or rows["images"].null_count == len(rows):
        return np.zeros(len(rows), np.int64)
    return pc.fill_null(pc.list_value_length(column(rows, "images")), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _with_marks(question: pa.Array, images: np.ndarray) -> pa.Array:
    if not images.any():
        return question
    bare = pc.and_(pa.array(images > 0), pc.equal(pc.count_substring(pc.fill_null(question, ""), IMAGE_MARK), 0))
    marks = pc.binary_repeat(pa.repeat(pa.scalar(IMAGE_MARK), len(question)), pa.array(images))
    return pc.if_else(bare, pc.binary_join_element_wise(marks, question, "\n"), question)


# -------------------------------------------------------------------------------------------------------------- choices


def labels(count: int) -> list[str]:
    """A, B, … Z, AA, AB, …"""
    letters = string.ascii_uppercase
    return [letters[i] if i < 26 else letters[i // 26 - 1] + letters[i % 26] for i in range(count)]


def _choice_lines(question: pa.Array, rows: pa.Table) -> pa.Array | None:
    """The lettered lines of each row, "" or null where there is nothing to list; None where no row has choices.

    Choices that bring their own letters ("A)21") are listed as they are. Choices that are bare letters are not listed:
    the picture shows what they stand for.
    """
    if "choices" not in rows.column_names or pa.types.is_null(rows.schema.field("choices").type):
        return None
    choices = column(rows, "choices")
    lengths = pc.fill_null(pc.list_value_length(choices), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    if not lengths.any():
        return None
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flat = pc.fill_null(choices.flatten(), "")
    position = np.arange(len(flat)) - np.repeat(offsets[:-1], lengths)
    label = pa.array(labels(int(lengths.max()))).take(pa.array(position))
    bare = _all_of(pc.equal(pc.utf8_upper(pc.utf8_trim_whitespace(flat)), label), offsets)
    own = pc.utf8_upper(pc.struct_field(pc.extract_regex(flat, pattern=_OWN_LABEL), "label"))
    own_labels = _all_of(pc.equal(own, label), offsets)
    lettered = pc.binary_join_element_wise(label, flat, ". ")
    lines = pc.if_else(pa.array(np.repeat(own_labels, lengths)), flat, lettered)
    text = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), lines), "\n")
    silent = bare | _shown(question, flat, offsets)
    return pc.if_else(pa.array(silent), "", text)


def _all_of(condition: pa.Array, offsets: np.ndarray) -> np.ndarray:
    """bool[rows]: true where a row has items and the condition holds for every one of them."""
    failed = np.concatenate([[0], np.cumsum(~pc.fill_null(condition, False).to_numpy(zero_copy_only=False))])
    return (failed[offsets[1:]] == failed[offsets[:-1]]) & (offsets[1:] > offsets[:-1])


def _shown(question: pa.Array, flat: pa.Array, offsets: np.ndarray) -> np.ndarray:
    """bool[rows]: the question itself letters its choices, and the text of each stands in it."""
    candidate = np.diff(offsets) > 1
    for letter in "AB":
        found = pc.match_substring_regex(question, _SHOWS.format(letter=letter))
        candidate &= pc.fill_null(found, False).to_numpy(zero_copy_only=False)
    shown = np.zeros(len(candidate), bool)
    where = np.flatnonzero(candidate)
    for row, text in zip(where.tolist(), question.take(pa.array(where)).to_pylist(), strict=True):
        squeezed = re.sub(r"\s+", "", text)
        options = flat.slice(offsets[row], offsets[row + 1] - offsets[row]).to_pylist()
        shown[row] = all(re.sub(r"\s+", "", option) in squeezed for option in options)
    return shown


# ------------------------------------------------------------------------------------------------------------- messages

Turn = tuple[str, pa.Array]
"""A role and what it says, one text per conversation."""


def conversations(turns: Sequence[Turn], *, content: str = "string") -> pa.Array:
    """list<struct<role, content>>, one conversation per row of the turns, which are equally long.

    content   string  text, pictures as marks in it
              parts   list<struct<type, text>>: a part of type image (text null) for each mark of a user's turn, and
                      the text between
              openai  list<struct<type, text, image_url: struct<url>>>; url is null until it is known
    """
    count = len(turns[0][1])
    width = len(turns)
    order = pa.array((np.arange(count)[:, None] + count * np.arange(width)[None, :]).ravel())
    if content == "string":
        said = pa.concat_arrays([text for _, text in turns]).take(order)
    else:
        said = pa.concat_arrays([_parts(text, content, split=role == "user") for role, text in turns]).take(order)
    role = pa.array([role for role, _ in turns]).take(pa.array(np.tile(np.arange(width), count)))
    offsets = pa.array(np.arange(0, (count + 1) * width, width, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays([role, said], ["role", "content"]))


def _parts(texts: pa.Array, layout: str, *, split: bool) -> pa.Array:
    """Content parts of each text. Marks become image parts where `split`; empty text between them is left out."""
    if split:
        pieces = pc.split_pattern(texts, IMAGE_MARK)
        lengths = pc.list_value_length(pieces).to_numpy(zero_copy_only=False).astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(2 * lengths - 1)])
        inside = np.arange(starts[-1]) - np.repeat(starts[:-1], 2 * lengths - 1)
        image = inside % 2 == 1
        text_index = np.zeros(len(image), np.int64)
        text_index[~image] = np.arange(int(lengths.sum()))
        text = pieces.flatten().take(pa.array(text_index, mask=image))
        keep = image | (pc.fill_null(pc.utf8_length(text), 0).to_numpy(zero_copy_only=False) > 0)
        kept_before = np.concatenate([[0], np.cumsum(keep)])
        offsets = kept_before[starts]
        text, image = text.filter(pa.array(keep)), image[keep]
    else:
        text, image, offsets = texts, np.zeros(len(texts), bool), np.arange(len(texts) + 1)
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), _part_struct(text, image, layout))


def _part_struct(text: pa.Array, image: np.ndarray, layout: str) -> pa.Array:
    if layout == "parts":
        kind = pa.array(["text", "image"]).take(pa.array(image.astype(np.int8)))
        return pa.StructArray.from_arrays([kind, text], ["type", "text"])
    kind = pa.array(["text", "image_url"]).take(pa.array(image.astype(np.int8)))
    url = pa.StructArray.from_arrays([pa.nulls(len(text), pa.string())], ["url"], mask=pa.array(~image))
    return pa.StructArray.from_arrays([kind, text, url], ["type", "text", "image_url"])


def with_urls(messages: pa.Array, urls: pa.Array) -> pa.Array:
    """`openai` messages with the urls of their image parts, given in the order in which the parts stand."""
    said = messages.values
    parts = said.field("content").values
    image = pc.equal(parts.field("type"), "image_url").to_numpy(zero_copy_only=False)
    if int(image.sum()) != len(urls):
        raise ValueError(f"{int(image.sum())} image parts, but {len(urls)} urls")
    at = np.zeros(len(image), np.int64)
    at[image] = np.arange(len(urls))
    url = pa.StructArray.from_arrays([urls.take(pa.array(at, mask=~image))], ["url"], mask=pa.array(~image))
    new_parts = pa.StructArray.from_arrays(
        [parts.field("type"), parts.field("text"), url], ["type", "text", "image_url"]
    )
    content = pa.ListArray.from_arrays(said.field("content").offsets, new_parts)
    turn = pa.StructArray.from_arrays([said.field("role"), content], ["role", "content"])
    return pa.ListArray.from_arrays(messages.offsets, turn)


def blocks(count: int, nbytes: int, *, rows: int = 1 << 14, limit: int = 256 << 20) -> Iterator[tuple[int, int]]:
    """(start, length) of blocks that together are `count` rows: small enough for caches and for 32-bit offsets."""
    step = max(1, min(rows, int(limit * count / max(nbytes, 1))))
    for start in range(0, count, step):
        yield start, min(step, count - start)
