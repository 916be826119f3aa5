"""Whether each stage and output finds what it needs at the point where it stands: columns, traces, verdicts, files.

The schema that rows have is carried from stage to stage; nothing is run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from curation.recipe.layers import missing_file
from curation.recipe.wording import did_you_mean, listed, quoted
from curation.yamlfile import Node
from schemas.errors import Problem, WinnowError
from schemas.rows import ROW

if TYPE_CHECKING:
    from curation.recipe.plan import PlannedOutput, PlannedStage

_MAKERS = {"traces": "fanout", "verdicts": "verify"}
_BEFORE = {"rows": (), "traces": ("traces",), "verdicts": ("traces", "verdicts")}


@dataclass
class _Point:
    """What there is at one point of a recipe."""

    has_tokenizer: bool
    complete: bool
    """Whether all stages are valid; if not, one of them may make what seems to be missing."""
    later: list[PlannedStage]
    schema: pa.Schema = ROW
    made: set[str] = field(default_factory=lambda: {"rows"})

    def after(self, planned: PlannedStage) -> None:
        """Go past a stage."""
        for name, kind in planned.stage.writes(planned.config).items():
            at = self.schema.get_field_index(name)
            new = pa.field(name, kind)
            self.schema = self.schema.append(new) if at < 0 else self.schema.set(at, new)
        self.made.add(planned.stage.makes)


def order_problems(
    stages: Sequence[tuple[PlannedStage, Node]],
    outputs: Sequence[tuple[PlannedOutput, Node]],
    *,
    has_tokenizer: bool,
    complete: bool,
    files_in: tuple[Path, Path] | None,
    sources: Sequence[str] = (),
) -> list[Problem]:
    """What stages and outputs do not find.

    sources   names of the recipe's sources: a stage's check finds them in the metadata of the schema
    complete  whether these are all the stages of the recipe, so that what they do not make is not there
    files_in  the recipe's folder and the workspace, where the files that stages read should be; None: they are not checked
    """
    problems: list[Problem] = []
    schema = ROW.with_metadata({"sources": json.dumps(list(sources))})
    point = _Point(has_tokenizer, complete, later=[planned for planned, _ in stages], schema=schema)
    for planned, node in stages:
        stage, config = planned.stage, planned.config
        point.later = point.later[1:]
        if files_in is not None:
            problems += _file_problems(planned, node, *files_in)
        reads: Sequence[str] = stage.reads(config)
        reads = reads if list(reads) == ["*"] else stage.reads_of(config, point.schema.names)
        needs: str = stage.needs(config) if callable(stage.needs) else stage.needs
        said = stage.check(config, point.schema) if stage.check is not None else ()
        problems += _step_problems(f"Stage {planned.name}", node, point, needs, reads, said)
        point.after(planned)
    for output, node in outputs:
        export, settings = output.export, output.config
        said = export.check(settings, point.schema) if export.check is not None else ()
        reads = export.reads(settings)
        problems += _step_problems(f"Output {output.name}", node, point, export.needs(settings), reads, said)
    return problems


def _step_problems(
    what: str, node: Node, point: _Point, needs: str, reads: Sequence[str], said: Iterable[Problem]
) -> Iterator[Problem]:
    if point.complete:
        yield from _need_problems(what, node, point, needs)
    unread = list(_read_problems(what, node, point, reads))
    yield from unread
    if point.complete or set(reads) <= {"*", *point.schema.names}:
        yield from _placed(said, node, unread)


def _file_problems(planned: PlannedStage, node: Node, folder: Path, workspace: Path) -> Iterator[Problem]:
    if planned.stage.inputs is None:
        return
    try:
        paths = planned.stage.inputs(planned.config, folder, workspace)
    except WinnowError as error:
        at = next((text for text in _texts(node) if str(text.value) in str(error)), node)
        yield quoted(error, at.place)
        return
    for path in paths:
        if not path.exists():
            at = next((text for text in _texts(node) if Path(str(text.value)).name == path.name), node)
            yield missing_file(at.place, f"`{at.value}`" if isinstance(at.value, str) else "A file", path)


def _need_problems(what: str, node: Node, point: _Point, needs: str) -> Iterator[Problem]:
    for table in _BEFORE[needs]:
        if table in point.made:
            continue
        maker = next((later.name for later in point.later if later.stage.makes == table), None)
        hint = f"Stage {maker} makes them further down: move it up." if maker else ""
        hint = hint or f"A stage before it must make them: - stage: {_MAKERS[table]}"
        yield node.place.problem(f"{what} needs {table}, and nothing before it makes any.", hint)


def _read_problems(what: str, node: Node, point: _Point, reads: Iterable[str]) -> Iterator[Problem]:
    known = point.schema.names
    for name in reads:
        said = next((text for text in _texts(node) if _word(name, str(text.value))), None)
        at = (said or node).place
        # An export that takes whatever columns there are may well take an empty one.
        if name == "n_tokens" and not point.has_tokenizer and (said or what.startswith("Stage")):
            hint = "Name one at the top of the recipe: tokenizer: PATH-OR-REPO-ID"
            yield at.problem(f"{what} reads `n_tokens`, which needs a tokenizer.", hint)
        elif name != "*" and name not in known and point.complete:
            maker = next((p.name for p in point.later if name in p.stage.writes(p.config)), None)
            hint = f"Stage {maker} makes it further down: move it up." if maker else did_you_mean(name, known)
            message = f"{what} reads the column `{name}`, which is not there."
            yield at.problem(message, hint or f"There are: {listed(known)}.")


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
        column = re.search(r"[`'\"](\w+)[`'\"]", problem.message)
        if column and any(f"`{column.group(1)}`" in one.message for one in known):
            continue
        key = re.match(r"`?([\w.]+)`?: ", problem.message)
        path: list[Any] = key.group(1).split(".") if key else []
        at, words = node.find(path), problem.text.strip()
        inner = next((text for text in _texts(at) if words and str(text.value).strip() == words), at)
        yield inner.place.problem(problem.message, problem.hint)
