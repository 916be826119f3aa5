"""What only the world can tell of a recipe: whether files are there and have the columns, and whether each stage finds
what it reads at the point where it stands. Nothing is run and no row is read."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from curation.recipe.layers import missing_file
from curation.recipe.wording import did_you_mean, listed
from curation.yamlfile import Node
from schemas.errors import Problem, WinnowError
from schemas.recipe import Column, Source
from schemas.rows import ROW

if TYPE_CHECKING:
    from curation.recipe.plan import PlannedOutput, PlannedStage

_HUB = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_ENDINGS = {"parquet": (".parquet",), "jsonl": (".jsonl", ".json", ".ndjson")}

# ------------------------------------------------------------------------------------------------------------- sources


def source_problems(
    sources: Sequence[tuple[Source, Node]], folder: Path, workspace: Path | str | None, limit: int | None
) -> list[Problem]:
    """What is wrong with sources: missing files and versions, columns that are mapped and not there, predicates."""
    problems: list[Problem] = []
    for source, node in sources:
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
    from curation.versions import list_versions, open_version

    reference = source.version or ""
    try:
        open_version(reference, workspace)
    except WinnowError as error:
        name = reference.partition("@")[0]
        known = sorted({str(v["name"]) for v in list_versions(workspace)})
        hint = did_you_mean(name, known) if name not in known else "`winnow versions` lists its ids and tags."
        yield at.place.problem(f"`version`: {_first_line(error)}", hint or f"There are: {listed(known) or 'none yet'}.")


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
        first, _, rest = str(error).partition("\n")
        return [at.problem(first, rest.strip())]
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
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("set enable_external_access = false")
        connection.register("rows", schema.empty_table())
        try:
            connection.sql(f"select 1 from rows where (\n{source.where}\n)")
        except duckdb.Error as error:
            first = _first_line(error)
            unknown = re.search(r'column "([^"]+)"', first)
            hint = did_you_mean(unknown.group(1), schema.names) if unknown else ""
            yield node.find(["where"]).place.problem(f"`where`: {first}", hint)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


# --------------------------------------------------------------------------------------------------------------- order

_MAKERS = {"traces": "fanout", "verdicts": "verify"}
_RANK = {"rows": 0, "traces": 1, "verdicts": 2}


def order_problems(
    stages: Sequence[tuple[PlannedStage, Node]],
    outputs: Sequence[tuple[PlannedOutput, Node]],
    *,
    has_tokenizer: bool,
    files_in: Path | None,
) -> list[Problem]:
    """Go through the stages with the schema that rows have there, and see that each finds what it needs.

    `files_in` is the folder in which the files that stages read should be; None leaves them unchecked.
    """
    problems: list[Problem] = []
    schema = ROW
    made = {"rows"}
    later = [(p.name, set(p.stage.writes(p.config)), p.stage.makes) for p, _ in stages]
    for number, (planned, node) in enumerate(stages):
        stage, config, what = planned.stage, planned.config, f"Stage {planned.name}"
        if files_in is not None and stage.inputs is not None:
            problems += _file_problems(stage.inputs(config, files_in), node)
        problems += _needs_problems(what, _needs(stage.needs, config), made, node, later[number + 1 :])
        unread = _read_problems(what, stage.reads(config), schema, node, has_tokenizer, later[number + 1 :])
        problems += unread
        if stage.check is not None:
            problems += _placed(stage.check(config, schema), node, unread)
        for name, kind in stage.writes(config).items():
            at = schema.get_field_index(name)
            schema = schema.append(pa.field(name, kind)) if at < 0 else schema.set(at, pa.field(name, kind))
        made.add(stage.makes)
    for output, node in outputs:
        export, what = output.export, f"Output {output.name}"
        problems += _needs_problems(what, export.needs(output.config), made, node, [])
        unread = _read_problems(what, export.reads(output.config), schema, node, has_tokenizer, [])
        problems += unread
        if export.check is not None:
            problems += _placed(export.check(output.config, schema), node, unread)
    return problems


def _needs(needs: str | Callable[[Any], str], config: Any) -> str:
    return needs(config) if callable(needs) else needs


def _file_problems(paths: Iterable[Path], node: Node) -> Iterator[Problem]:
    for path in paths:
        if not path.exists():
            at = next((text for text in _texts(node) if Path(str(text.value)).name == path.name), node)
            yield missing_file(at.place, f"`{path.name}`", path)


def _needs_problems(
    what: str, needs: str, made: set[str], node: Node, later: Sequence[tuple[str, set[str], str]]
) -> Iterator[Problem]:
    for table in ("traces", "verdicts"):
        if _RANK[table] > _RANK[needs] or table in made:
            continue
        name = next((name for name, _, makes in later if makes == table), None)
        hint = f"Stage {name} makes them further down: move it up." if name else ""
        hint = hint or f"A stage before it must make them: - stage: {_MAKERS[table]}"
        yield node.place.problem(f"{what} needs {table}, and nothing before it makes any.", hint)


def _read_problems(
    what: str,
    reads: Iterable[str],
    schema: pa.Schema,
    node: Node,
    has_tokenizer: bool,
    later: Sequence[tuple[str, set[str], str]],
) -> list[Problem]:
    problems = []
    for name in reads:
        at = next((text for text in _texts(node) if _word(name, str(text.value))), node).place
        if name == "n_tokens" and not has_tokenizer:
            hint = "Name one at the top of the recipe: tokenizer: PATH-OR-REPO-ID"
            problems.append(at.problem(f"{what} reads `n_tokens`, which needs a tokenizer.", hint))
        elif name != "*" and name not in schema.names:
            maker = next((maker for maker, writes, _ in later if name in writes), None)
            hint = f"Stage {maker} makes it further down: move it up." if maker else did_you_mean(name, schema.names)
            hint = hint or f"There are: {listed(schema.names)}."
            problems.append(at.problem(f"{what} reads the column `{name}`, which is not there.", hint))
    return problems


def _word(name: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text) is not None


def _texts(node: Node) -> Iterator[Node]:
    """All texts below a node, but not those that only say what it is."""
    if isinstance(node.value, str):
        yield node
    for child in node.value if isinstance(node.value, list) else ():
        yield from _texts(child)
    for key, child in node.items():
        if key not in ("stage", "export", "name"):
            yield from _texts(child)


def _placed(said: Iterable[Problem], node: Node, known: Sequence[Problem]) -> Iterator[Problem]:
    """Problems of a stage's own check, put where the recipe has what they speak of: the key that the message begins
    with ("where: …"), or the text that they quote. What is said already of an unknown column is not said again."""
    for problem in said:
        if problem.line:
            yield problem
            continue
        key = re.match(r"`?([\w.]+)`?: ", problem.message)
        at = node.find(key.group(1).split(".")) if key else node
        quoted = problem.text.strip()
        inner = next((text for text in _texts(at) if quoted and str(text.value).strip() == quoted), None)
        column = re.search(r"[`'\"](\w+)[`'\"]", problem.message)
        if column and any(f"`{column.group(1)}`" in one.message for one in known):
            continue
        yield (inner or at).place.problem(problem.message, problem.hint)
