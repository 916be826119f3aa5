"""The recipe: one YAML file that says where rows come from, what is done to them and what comes out.

These models check shape and values. What needs the world outside (files, columns, SQL) is checked in
curation/recipe.py, which also turns every complaint into file, line and a suggestion.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


class Model(BaseModel):
    """Frozen, and a key that is not known is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


PathText = Annotated[str, Field(json_schema_extra={"format": "path"})]
"""A path. Relative ones begin at the folder of the file in which they stand, and `${NAME}` stands for an environment
variable: here and in no other text. Fields of stages and exports that name files have this type, or pathlib's Path."""

PathOrName = Annotated[str, Field(json_schema_extra={"format": "path-or-name"})]
"""The same for a text that may also be a name: a module, a repo id. It is a path where there is such a file."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Strings = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]


class Column(Model):
    """How one text field is made from upstream columns: joined, then cut."""

    from_: Strings = Field(alias="from", description="Upstream columns, joined by `join`; dots reach into structs.")
    join: str = Field(" ", description="What stands between joined columns.")
    after: str | None = Field(None, description="Keep what follows the last occurrence of this text.")
    before: str | None = Field(None, description="Keep what precedes the first occurrence of this text.")
    boxed: bool = Field(False, description="Keep the content of the last balanced \\boxed{…}.")
    strip: bool = Field(True, description="Strip blanks at both ends.")


class Literals(Model):
    """A constant for every row."""

    value: str


def _as_column(value: Any) -> Any:
    """`question: text`, `question: [body, question]` and `answer: {after: "####"}` are short for the full form."""
    if isinstance(value, str | list):
        return {"from": value}
    return value


def _which_text(value: Any) -> str:
    return "constant" if isinstance(value, Literals) or (isinstance(value, dict) and "value" in value) else "column"


Text = Annotated[
    Annotated[Column, Tag("column")] | Annotated[Literals, Tag("constant")],
    Discriminator(_which_text),
    BeforeValidator(_as_column, json_schema_input_type=str | list[str] | Column | Literals),
]


class Mapping(Model):
    """Which upstream columns become which fields of a row. A field that is not named is taken from the upstream column
    of the same name where there is one."""

    id: Text | None = None
    question: Text | None = None
    answer: Text | None = None
    choices: Strings | None = Field(
        default=None,
        description="A column of lists, of structs {label, text} or of lists as text; or one column for each choice.",
    )
    solution: Text | None = None
    images: Strings | None = Field(
        default=None, description="Columns of {bytes, path} structs, paths, base64 data URLs, or lists of them."
    )
    license: Text | None = None
    meta: list[str] | Literal["rest", "none"] = Field(
        default="none", description="Upstream columns kept as JSON in `meta`."
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from(cls, data: Any) -> Any:
        """`answer: {after: "####"}` reads the column that has the field's own name."""
        if not isinstance(data, dict):
            return data
        filled = dict(data)
        for field in ("id", "question", "answer", "solution", "license"):
            value = filled.get(field)
            if isinstance(value, dict) and "from" not in value and "value" not in value:
                filled[field] = {"from": field, **value}
        return filled


class Source(Model):
    """Where rows come from. Exactly one of the five places is named."""

    parquet: PathText | list[PathText] | None = Field(
        None, description="File, glob or folder of Parquet files (or a list)."
    )
    jsonl: PathText | list[PathText] | None = Field(
        None, description="File, glob or folder of JSON Lines files (or a list)."
    )
    hub: str | None = Field(None, description="Dataset repo id, with @revision: ORG/NAME@main.")
    version: str | None = Field(
        None, description="Another Winnow version: name, name@tag, name@id, or hub:ORG/NAME@revision."
    )
    generator: str | None = Field(
        None, description="Import path of a function index -> record: package.module:function."
    )

    name: str | None = Field(None, description="Unique name; by default taken from the place.")
    config: str | None = Field(None, description="Hub: the dataset's config.")
    split: str | None = Field(None, description="Hub: the dataset's split. Version: the split to take.")
    count: int | None = Field(None, ge=0, description="Generator: how many records.")
    args: dict[str, Any] = Field(default_factory=dict, description="Generator: keyword arguments.")
    columns: Mapping = Mapping()
    image_folder: PathText | None = Field(
        None, description="Where image paths begin; by default the file's own folder."
    )
    image_marks: Literal["agree", "combined", "ignore"] = Field(
        "agree",
        description="agree: marks and images must agree in number; combined: one picture stands for all marks; "
        "ignore: marks are taken out and the images are put first.",
    )
    license: str | None = Field(None, description="SPDX licence of all rows; a mapped column wins.")
    where: str | None = Field(None, description="SQL predicate over the upstream columns: rows to read at all.")
    require: list[Literal["question", "answer", "images", "choices"]] = Field(
        ["question"], description="Fields that a row must have; others go to quarantine."
    )
    max_quarantine: float = Field(0.05, ge=0, le=1, description="Share of bad rows at which the build stops.")
    expect: int | None = Field(None, ge=0, description="How many rows there should be; another number is an error.")

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        named = [kind for kind in PLACES if getattr(self, kind) is not None]
        if len(named) != 1:
            what = " and ".join(named) if named else "none"
            raise ValueError(f"a source names exactly one of {', '.join(PLACES)}; here: {what}")
        if self.generator is not None and self.count is None:
            raise ValueError("a generator needs `count`")
        return self

    @property
    def place(self) -> str:
        return next(kind for kind in PLACES if getattr(self, kind) is not None)


PLACES = ("parquet", "jsonl", "hub", "version", "generator")
OF_A_PLACE = ("config", "split", "count", "args", "image_folder")
"""Keys of a source that mean something in one kind of place only."""


class Output(Model):
    """One export: the layout in which rows and traces are written as a config of the version."""

    export: str = Field(description="sft or rl.")
    name: str | None = Field(None, description="Config name in the version; by default the export's kind.")


class Expected(Model):
    """How many there should be."""

    count: int = Field(ge=0)
    within: float = Field(0.0, ge=0, description="How far off it may be, as a share of `count`.")
    because: str = Field("", description="Where the number comes from.")


def _as_expected(value: Any) -> Any:
    return {"count": value} if isinstance(value, int) else value


class Recipe(Model):
    """The whole file. Stages and outputs are checked further by the models that their kinds register."""

    name: str = Field(description="Name of the versions that it builds.")
    description: str = Field("", description="One sentence for the dataset card.")
    seed: int = Field(0, ge=0, description="Seed of every random choice.")
    extends: PathText | None = Field(None, description="Path of a recipe that this one changes.")
    use: list[PathOrName] = Field(default_factory=list, description="Python files or modules that register own stages.")
    language: Literal["auto", "none"] = Field("auto", description="Whether to fill the language column.")
    tokenizer: PathOrName | None = Field(None, description="Path or repo id of a tokenizer, to count tokens.")
    expect: (
        dict[str, Annotated[Expected, BeforeValidator(_as_expected, json_schema_input_type=int | Expected)] | None]
        | None
    ) = Field(
        None,
        description="Counts that a build is compared with, e.g. {sources.tqa: 6500, stages.dedup.merged: 120, outputs.sft: "
        "{count: 874357, within: 0.01}}; null takes one back.",
    )
    sources: list[Source] = Field(min_length=1)
    stages: list[dict[str, Any]] = Field(default_factory=list)
    outputs: list[dict[str, Any]] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(
                "a name has lower-case letters, digits, '-', '_' and '.', and begins with a letter or digit"
            )
        return name
