"""What only the world can tell of a recipe's sources: whether files, versions and functions are there, and have the
columns that the recipe names. No row is read."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from curation.recipe.layers import missing_file
from curation.recipe.wording import did_you_mean, listed, quoted
from curation.yamlfile import Node
from schemas.errors import Problem, WinnowError
from schemas.recipe import Column, Source

_HUB = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_ENDINGS = {"parquet": (".parquet",), "jsonl": (".jsonl", ".json", ".ndjson")}


def source_problems(
    sources: Sequence[tuple[Source, Node]], folder: Path, workspace: Path | str | None, limit: int | None
) -> list[Problem]:
    """What is wrong with sources: missing files and versions, columns that are mapped and not there, predicates."""
    problems: list[Problem] = []
    for source, node in sources:
        if "${" in str(source.model_dump(include={*_ENDINGS, "image_folder"})):
            continue  # a variable that is not set: said already
        missing = list(_missing(source, node, folder, workspace))
        problems += missing or _schema_problems(source, node, folder, workspace, limit)
    return problems


def _missing(source: Source, node: Node, folder: Path, workspace: Path | str | None) -> Iterator[Problem]:
    place = source.place
    at = node.find([place])
    if place in _ENDINGS:
        given = getattr(source, place)
        for number, text in enumerate(given if isinstance(given, list) else [given]):
            one = at.find([number]).place
            path = folder / text
            if re.search(r"[*?\[]", text) and not path.exists():
                if next(Path(path.anchor).glob(str(path.relative_to(path.anchor))), None) is None:
                    yield one.problem(f"`{place}`: no file matches {text}.", f"Relative paths begin at {folder}.")
            elif not path.exists():
                yield missing_file(one, f"`{place}`", path)
            elif path.is_dir() and not any(f.name.lower().endswith(_ENDINGS[place]) for f in path.rglob("*")):
                yield one.problem(f"`{place}`: the folder {text} has no {' or '.join(_ENDINGS[place])} files.")
    if source.image_folder is not None and not (folder / source.image_folder).is_dir():
        yield missing_file(node.find(["image_folder"]).place, "`image_folder`", folder / source.image_folder)
    if place == "hub" and not _HUB.fullmatch(source.hub or ""):
        hint = "A dataset on the Hub is ORGANISATION/NAME, or ORGANISATION/NAME@REVISION."
        yield at.place.problem(f"`hub` can't be `{source.hub}`.", hint)
    if place == "version":
        yield from _version_problems(source, at, workspace)
    if place == "generator":
        yield from _generator_problems(source, at)


def _version_problems(source: Source, at: Node, workspace: Path | str | None) -> Iterator[Problem]:
    from curation.versions import open_version

    try:
        open_version(source.version or "", workspace)
    except WinnowError as error:
        yield quoted(error, at.place, "`version`: ")


def _generator_problems(source: Source, at: Node) -> Iterator[Problem]:
    module, colon, function = (source.generator or "").partition(":")
    if not colon or not function:
        yield at.place.problem(f"`generator` can't be `{source.generator}`.", "Write package.module:function.")
        return
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever a stranger's module raises, it is the recipe that names it
        yield at.place.problem(f"`generator`: {module} can't be imported: {type(error).__name__}: {error}")
        return
    if not callable(getattr(found, function, None)):
        functions = [name for name in dir(found) if callable(getattr(found, name)) and not name.startswith("_")]
        message = f"`generator`: {module} has no function `{function}`."
        yield at.place.problem(message, did_you_mean(function, functions) or f"It has: {listed(functions)}.")


def _schema_problems(
    source: Source, node: Node, folder: Path, workspace: Path | str | None, limit: int | None
) -> list[Problem]:
    from curation import sources
    from curation.store import default_workspace

    at = node.find([source.place]).place
    try:
        space = Path(workspace) if workspace is not None else default_workspace()
        reader = sources.open_source(source, recipe_dir=folder, workspace=space, limit=limit)
        schema = reader.schema()
    except WinnowError as error:
        return [quoted(error, at)]
    if schema is None:
        return []  # a dataset on the Hub that has not been fetched yet: its columns are seen when the build reads it
    return [*_column_problems(source, node, schema), *_where_problems(source, node, schema)]


def mapped_columns(source: Source) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(path in the source's entry, upstream column) for every column that the mapping names."""
    mapping = source.columns
    for field in type(mapping).model_fields:
        value = getattr(mapping, field)
        if isinstance(value, Column):
            value = value.from_
        names = [value] if isinstance(value, str) and field != "meta" else value if isinstance(value, list) else []
        for number, name in enumerate(names):
            yield ("columns", field, "from", number), name


def _column_problems(source: Source, node: Node, schema: pa.Schema) -> Iterator[Problem]:
    for path, name in mapped_columns(source):
        if not _reaches(schema, name):
            message = f"`{path[1]}`: source {source.name} has no column `{name}`."
            hint = did_you_mean(name, schema.names) or f"It has: {listed(schema.names)}."
            yield node.find(path).place.problem(message, hint)
    for field in source.require:
        if getattr(source.columns, field) is None and field not in schema.names:
            message = f"Source {source.name} has no column `{field}`, and none is mapped to it."
            hint = f"Say which column it is: columns: {{{field}: …}}. It has: {listed(schema.names)}."
            yield node.place.problem(message, hint)


def _reaches(schema: pa.Schema, name: str) -> bool:
    """Whether a column, or with dots a field of a struct, is there."""
    if name in schema.names:
        return True
    head, *rest = name.split(".")
    if head not in schema.names:
        return False
    kind = schema.field(head).type
    for part in rest:
        while pa.types.is_list(kind) or pa.types.is_large_list(kind):
            kind = kind.value_type
        if not pa.types.is_struct(kind):
            return not pa.types.is_nested(kind) and pa.types.is_string(kind)  # a text may hold JSON, read later
        if kind.get_field_index(part) < 0:
            return False
        kind = kind.field(part).type
    return True


def _where_problems(source: Source, node: Node, schema: pa.Schema) -> Iterator[Problem]:
    if source.where is None:
        return
    from curation import sqlguard

    at = node.find(["where"]).place
    try:
        columns = sqlguard.predicate(source.where).columns
    except ValueError as error:
        yield at.problem(f"`where`: {error}")
        return
    sql = f"select 1 from rows where (\n{source.where}\n)"
    for problem in sqlguard.problems(source.where, sql, {"rows": schema}, where="where", columns=columns):
        yield at.problem(problem.message.removesuffix(" at this point of the recipe"), problem.hint)
