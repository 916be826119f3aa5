"""What a row, an image, a trace and a fate look like in Arrow.

Every table that Winnow stores is one of these schemas, plus the columns that stages add to rows. Image bytes never
stand in them: a row names its images by content hash, and the bytes lie once in the image store.
"""

from __future__ import annotations

import pyarrow as pa

ID_DIGITS = 20
"""Hex digits of row_id and content_id: 80 bits, so that 100 million rows collide with probability 4e-9."""

# What a source yields, before it has ids: one mapped record. `question_raw` is null where the mapping left the
# question as upstream wrote it (image marks are the only thing that a source rewrites).
MAPPED = pa.schema(
    [
        ("id", pa.string()),  # upstream's own id, or null
        ("question", pa.string()),
        ("question_raw", pa.string()),
        ("answer", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("solution", pa.string()),
        ("images", pa.list_(pa.string())),  # sha256 hex of each image's bytes, in the order of the marks
        ("license", pa.string()),  # SPDX name, or null where unknown
        ("meta", pa.string()),  # a JSON object: the upstream fields that the recipe keeps
    ]
)

# A row as stages see it. `*_raw` is null where normalisation changed nothing.
ROW = pa.schema(
    [
        ("row_id", pa.string()),
        ("content_id", pa.string()),
        ("origin_key", pa.string()),
        ("source", pa.string()),
        *MAPPED,
        ("answer_raw", pa.string()),
        ("language", pa.string()),  # ISO 639-1, or "und"
        ("n_tokens", pa.int32()),  # of the question, by the recipe's tokenizer; null without one
    ]
)

# Where a row stood in its source. Kept beside the rows, outside every digest: moving a file must not change a version.
PROVENANCE = pa.schema([("row_id", pa.string()), ("file", pa.string()), ("index", pa.int64())])

IMAGE = pa.schema(
    [
        ("hash", pa.string()),  # sha256 hex of the bytes
        ("bytes", pa.int64()),
        ("format", pa.string()),  # sniffed: PNG, JPEG, WEBP, GIF, BMP, TIFF …
        ("width", pa.int32()),  # pixels as stored, before EXIF orientation
        ("height", pa.int32()),
        ("mode", pa.string()),  # Pillow mode
        ("frames", pa.int32()),
        ("orientation", pa.int8()),  # EXIF orientation, 1 where absent
        ("alpha", pa.bool_()),
        ("tiny", pa.bool_()),  # a side under 28 px: a warning, never a reason to drop
        ("dhash", pa.string()),  # 256-bit difference hash, hex (imagehash.dhash with hash_size=16)
        ("pack", pa.string()),  # where the bytes lie in the image store
        ("offset", pa.int64()),
    ]
)

# One response of a teacher. `fate` and `fate_reason` are filled when a version is written.
TRACE = pa.schema(
    [
        ("row_id", pa.string()),
        ("k", pa.int32()),  # numbers a row's traces; a second fan-out goes on where the first one ended
        ("stage", pa.string()),  # name of the fan-out
        ("attempt", pa.int32()),
        ("key", pa.string()),  # what was asked: prompt, model, sampling, k
        ("teacher", pa.string()),
        ("model", pa.string()),
        ("text", pa.string()),
        ("finish", pa.string()),  # finished, truncated, failed
        ("finish_reason", pa.string()),
        ("malformed", pa.string()),  # what a finished answer lacks of the format that the recipe demands, or null
        ("repair", pa.string()),  # what was mended: reasoning_content, opened_think, or null
        ("prompt_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("logprobs", pa.list_(pa.float32())),  # of each token, where they were asked for
        ("origin_row", pa.string()),  # the row that the teacher answered, where a merge gave the trace to another one
    ]
)
CHOSEN_K = "chosen_k"
"""A column of rows, list<int32>: exports take only these traces of a row, where it is there and not null."""

TRACE_FATES = pa.schema([("fate", pa.string()), ("fate_reason", pa.string())])

# What a stage says of rows that it does not simply keep, or keeps with a remark.
FATE = pa.schema(
    [
        ("row_id", pa.string()),
        ("fate", pa.string()),  # dropped, merged, quarantined
        ("reason", pa.string()),  # a code, one word of the stage
        ("sentence", pa.string()),  # the same for a person
        ("evidence", pa.string()),  # a JSON object
        ("into", pa.string()),  # row_id of the row it was merged into
    ]
)
FATES = ("kept", "dropped", "merged", "quarantined")

LEDGER = pa.schema(
    [
        ("row_id", pa.string()),
        ("content_id", pa.string()),
        ("origin_key", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("fate", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("sentence", pa.string()),
        ("evidence", pa.string()),
        ("into", pa.string()),
        ("repeat", pa.int32()),  # how often a kept row stands in the data
        ("file", pa.string()),  # provenance, outside the version id
        ("index", pa.int64()),
    ]
)


def empty(schema: pa.Schema) -> pa.Table:
    """A table of no rows."""
    return schema.empty_table()
