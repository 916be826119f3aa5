"""rows: the curated questions as they are, with their pictures: for people who bring their own layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from curation.exports.base import Examples, Export, OutputConfig, register
from curation.exports.common import by_split, column_problems, has_images, image_lists, sorted_rows
from curation.exports.features import features_of
from schemas.errors import Problem
from schemas.rows import ROW

_DEFAULT = ("row_id", "source", "id", "question", "choices", "answer", "solution", "images", "license", "language",
            "meta", "pass_rate")  # fmt: skip


class RowsConfig(OutputConfig):
    """The curated rows: one example per row, in canonical columns, with images."""

    export: Literal["rows"] = "rows"
    columns: list[str] | None = Field(
        None, description="Columns to write, in this order; by default the canonical ones and pass_rate."
    )
    images: Literal["auto", "yes", "no"] = Field(
        "auto", description="Whether there is a column of images; auto: where any row of the dataset has one."
    )


def _columns(config: RowsConfig, schema: pa.Schema) -> list[str]:
    wanted = config.columns or [name for name in _DEFAULT if name in schema.names]
    wanted = ["row_id", *(name for name in wanted if name != "row_id")]
    return [name for name in wanted if name != "images" or config.images != "no"]


def settle(config: RowsConfig, has_pictures: bool) -> RowsConfig:
    return config.model_copy(update={"images": "yes" if has_pictures else "no"}) if config.images == "auto" else config


def build(config: RowsConfig, rows: pa.Table, traces: pa.Table | None, verdicts: pa.Table | None) -> Examples:
    config = settle(config, has_images(rows))
    rows = sorted_rows(rows)
    columns = {name: rows[name] for name in _columns(config, rows.schema)}
    if "images" in columns:
        columns["images"] = image_lists(rows)
    extra = {"k": pa.nulls(len(rows), pa.int32()), "split": rows["split"]}
    return Examples(by_split(pa.table({"row_id": rows["row_id"], **extra, **columns})), {})


def check(config: RowsConfig, schema: pa.Schema) -> list[Problem]:
    return column_problems("columns", config.columns or (), schema)


def features(config: RowsConfig, schema: pa.Schema) -> Mapping[str, Any]:
    return features_of(schema, images=images(config), leave_out=("k",) if "k" not in (config.columns or ()) else ())


def images(config: RowsConfig) -> Sequence[str]:
    return ("images",) if config.images != "no" else ()


def reads(config: RowsConfig) -> Sequence[str]:
    return tuple(config.columns) if config.columns else tuple(ROW.names)


register(
    Export(
        "rows",
        RowsConfig,
        revision=1,
        build=build,
        reads=reads,
        needs=lambda config: "rows",
        features=features,
        images=images,
        check=check,
        settle=settle,
    )
)
