"""Procedural tasks: a function from an index to a record, called the same way on every machine."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation.sources.base import Broken, Part, Raw
from curation.sources.files import chosen, records_table
from schemas.errors import SourceError

CHUNK = 10_000


def load_function(name: str, path: str, recipe_dir: Path) -> Callable[..., dict[str, Any]]:
    """`package.module:function`, or `file.py:function` relative to the recipe."""
    module_name, _, function_name = path.rpartition(":")
    if not module_name:
        raise SourceError(f"Source {name}: `generator: {path}` must be package.module:function or file.py:function.")
    try:
        if module_name.endswith(".py"):
            file = recipe_dir / module_name
            spec = importlib.util.spec_from_file_location(f"winnow_generator_{file.stem}", file)
            if spec is None or spec.loader is None or not file.is_file():
                raise SourceError(f"Source {name}: there is no {file}.")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
    except ImportError as error:
        raise SourceError(f"Source {name}: {module_name} cannot be imported: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        near = difflib.get_close_matches(function_name, [n for n, f in vars(module).items() if callable(f)], 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SourceError(f"Source {name}: {module_name} has no function {function_name!r}.{hint}")
    return function  # type: ignore[no-any-return]


class GeneratorReader:
    """Records `function(index, **args)` for index in [0, count)."""

    def __init__(
        self,
        name: str,
        path: str,
        count: int,
        args: dict[str, Any],
        recipe_dir: Path,
        limit: int | None,
        where: str | None,
    ):
        self._name = name
        self._path = path
        self._function = load_function(name, path, recipe_dir)
        try:
            inspect.signature(self._function).bind(0, **args)
        except TypeError as error:
            raise SourceError(
                f"Source {name}: {path} cannot be called with an index and these `args`: {error}."
            ) from error
        self._count = count if limit is None else min(count, limit)
        self._args = args
        self._where = where
        self.image_root = recipe_dir

    def inputs(self) -> list[Path]:
        return [Path(inspect.getfile(inspect.unwrap(self._function)))]

    def schema(self) -> pa.Schema:
        return self._table([0])[0].schema if self._count else pa.schema([])

    def parts(self) -> list[Part]:
        return [Part(self._path, start, min(start + CHUNK, self._count)) for start in range(0, self._count, CHUNK)]

    def read(self, part: Part) -> Iterator[Raw]:
        table, index, broken, records = self._table(list(range(part.start, part.stop)))
        yield chosen(Raw(table, self._path, index, broken, records), self._where)

    def _table(self, indices: list[int]) -> tuple[pa.Table, np.ndarray, list[Broken], list[dict[str, Any]]]:
        records: list[dict[str, Any]] = []
        good: list[int] = []
        broken: list[Broken] = []
        for index in indices:
            try:
                record = self._function(index, **self._args)
            except Exception as error:
                sentence = f"The generator failed: {type(error).__name__}: {error}"
                broken.append(
                    Broken(
                        self._path,
                        index,
                        "generator_failed",
                        sentence,
                        {"error": repr(error)},
                        f"{self._path}:{index}".encode(),
                    )
                )
                continue
            if not isinstance(record, dict):
                raise SourceError(
                    f"Source {self._name}: {self._path} must return a dict; for index {index} it returned "
                    f"{type(record).__name__}."
                )
            records.append(record)
            good.append(index)
        images = {name for record in records for name, value in record.items() if _is_bytes(value)}
        narrow = [{k: v for k, v in record.items() if k not in images} for record in records]
        table = records_table(narrow)
        for name in sorted(images):
            values = [_as_list(record.get(name)) for record in records]
            table = table.append_column(
                name, pa.array([[{"bytes": b, "path": None} for b in v] for v in values], _IMAGES)
            )
        return table, np.array(good, np.int64), broken, narrow


_IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def _as_list(value: Any) -> list[bytes]:
    return [] if value is None else [value] if isinstance(value, bytes) else list(value)


def _is_bytes(value: Any) -> bool:
    return isinstance(value, bytes) or (
        isinstance(value, list) and bool(value) and all(isinstance(v, bytes) for v in value)
    )
