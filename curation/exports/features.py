"""Hugging Face `datasets` features of an Arrow schema, in the JSON that `datasets` keeps in Parquet metadata.

Written by hand: importing `datasets` takes seconds, and a shard writer needs a dict of a few lines.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa

IMAGES = {"feature": {"_type": "Image"}, "_type": "List"}


def feature(kind: pa.DataType) -> Any:
    """The feature of one Arrow type; TypeError for one that no layout uses."""
    if pa.types.is_struct(kind):
        return {field.name: feature(field.type) for field in kind}
    if pa.types.is_list(kind):
        return {"feature": feature(kind.value_type), "_type": "List"}
    if pa.types.is_string(kind) or pa.types.is_null(kind):
        return {"dtype": "string", "_type": "Value"}
    if pa.types.is_boolean(kind):
        return {"dtype": "bool", "_type": "Value"}
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return {"dtype": {"float": "float32", "double": "float64"}.get(str(kind), str(kind)), "_type": "Value"}
    raise TypeError(f"a column of type {kind} cannot be exported; use text, numbers, booleans, lists or structs")


def features_of(schema: pa.Schema, *, images: Collection[str] = (), leave_out: Collection[str] = ()) -> dict[str, Any]:
    """Features of the columns in their order; those in `images` hold hashes now and pictures in the file."""
    return {
        field.name: IMAGES if field.name in images else feature(field.type)
        for field in schema
        if field.name not in leave_out
    }
