"""Benchmarks to decontaminate against: those that have a name here, and how any source is read as one.

A benchmark is a source like any other. It is read by the same readers into the same cache, bad records are told of in
the same words, and without a network it must lie in the Hub's cache. Its rows never become rows of the dataset. Another
version is one, too: that is how what one model is trained on twice, by SFT and by RL, is held apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.engines.partition import read_prefixes
from schemas.errors import SourceError, WinnowError
from schemas.recipe import Source

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm")
_COLUMNS = ("row_id", "origin_key", "question", "choices", "answer", "images")


def _hub(repo: str, split: str, columns: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"hub": repo, "split": split, "columns": columns, "require": [], "image_marks": "ignore", **more}


_MMMU_IMAGES = [f"image_{n}" for n in range(1, 8)]

# The nine benchmarks (twelve columns) of OpenMMReasoner's evaluation, then text. We-Math's options are one text.
NAMED: dict[str, dict[str, Any]] = {
    "mathvista": _hub("AI4Math/MathVista", "testmini", {"id": "pid", "images": "decoded_image"}),
    "mathvision": _hub("MathLLMs/MathVision", "test", {"id": "id", "choices": "options", "images": "decoded_image"}),
    "mathverse": _hub("CaraJ/MathVerse-lmmseval", "testmini", {"id": "sample_index", "images": "image"}, config="testmini"),
    "dynamath": _hub(
        "kcz358/DynaMath", "test",
        {"id": ["id", "question_id"], "answer": "ground_truth", "images": "decoded_image"},
    ),
    "wemath": _hub(
        "We-Math/We-Math", "testmini",
        {"id": "ID", "question": {"from": ["question", "option"], "join": "\n"}, "images": "image_path"},
    ),
    "logicvista": _hub("lscpku/LogicVista", "test", {"images": "image"}),
    "mmmu": _hub("lmms-lab/MMMU", "validation", {"id": "id", "choices": "options", "images": _MMMU_IMAGES}),
    "mmmu-pro": _hub(
        "MMMU/MMMU_Pro", "test", {"id": "id", "choices": "options", "images": _MMMU_IMAGES}, config="standard (10 options)"
    ),
    "mmmu-pro-vision": _hub(
        "MMMU/MMMU_Pro", "test", {"id": "id", "choices": "options", "images": "image"}, config="vision"
    ),
    "charxiv": _hub(
        "princeton-nlp/CharXiv", "validation", {"question": "reasoning_q", "answer": "reasoning_a", "images": "image"}
    ),
    "gsm8k": _hub("openai/gsm8k", "test", {"answer": {"after": "####"}}, config="main"),
    "math-500": _hub("HuggingFaceH4/MATH-500", "test", {"id": "unique_id", "question": "problem"}),
    "aime24": _hub("simplescaling/aime24_nofigures", "train", {"question": "problem"}),
    "aime25": _hub("simplescaling/aime25_nofigures", "train", {"question": "problem"}),
}  # fmt: skip


def benchmark_source(entry: str | Source) -> Source | None:
    """The source that an entry of `against` means; None for the name of a source of the recipe."""
    if isinstance(entry, Source):
        from curation.recipe.layers import source_name

        return entry if entry.name else entry.model_copy(update={"name": source_name(entry.model_dump())})
    named = NAMED.get(entry)
    return None if named is None else Source.model_validate({**named, "name": entry})


def benchmark_name(entry: str | Source) -> str:
    source = benchmark_source(entry)
    return str(source.name if source is not None else entry)


def benchmark_files(entry: str | Source, folder: Path, workspace: Path) -> list[Path]:
    """Files whose bytes make the benchmark. Raises SourceError where it is not there, or lacks a column."""
    source = benchmark_source(entry)
    if source is None:
        return []
    from curation import sources
    from curation.recipe.world import source_problems
    from curation.yamlfile import Node, Place

    for problem in source_problems([(source, Node({}, Place("")))], folder, workspace, None):
        raise SourceError(f"against: {problem.message}\n{problem.hint}".strip())
    reader = sources.open_source(source, recipe_dir=folder, workspace=workspace)
    files = list(reader.inputs())
    if source.version is not None:
        return files
    pictures = [reader.image_root] if source.image_folder else [path.parent for path in files] if source.jsonl else []
    for root in dict.fromkeys(pictures):
        files += sorted(path for path in root.rglob("*") if path.suffix.lower() in _PICTURES)
    return files


@dataclass(frozen=True)
class Items:
    """The items of all benchmarks, in one table: benchmark, row_id, id (upstream's), question, choices, answer, images."""

    table: pa.Table
    quarantined: dict[str, int]
    """Benchmark -> records that could not be read."""
    versions: dict[str, str] = field(default_factory=dict)
    """Those that are versions -> name@id. Their row ids are those that the same questions have here."""

    def __len__(self) -> int:
        return len(self.table)


def read_benchmarks(
    entries: Sequence[str | Source],
    own: dict[str, list[pa.Table]],
    *,
    workspace: Path,
    recipe_dir: Path,
    workers: int,
    memory_limit: int,
) -> Items:
    """Read what `against` names. `own` has the rows of the recipe's own sources that are named as benchmarks."""
    from curation import ingest, store
    from curation.console import Quiet
    from curation.engines.local import LocalEngine

    space = store.open_workspace(workspace)
    digests = store.FileDigests(space)
    named = [(benchmark_name(entry), benchmark_source(entry)) for entry in entries]
    sources = [source for _, source in named if source is not None]
    with LocalEngine(workers, memory_limit) as engine:
        read = ingest.ingest(
            space, digests, sources, recipe_dir=recipe_dir, limit=None, run=engine.run, reporter=Quiet()
        )
    found = {ingested.source: ingested for ingested in read}
    tables: list[pa.Table] = []
    for name, source in named:
        pieces = own.get(name, []) if source is None else [p.read(list(_COLUMNS)) for p in found[name].partitions]
        table = pa.concat_tables(pieces) if pieces else None
        if table is None or not len(table):
            raise WinnowError(
                f"The benchmark {name} has no items, so nothing can be decontaminated against it.\nTake it out of "
                "`against`, or see why its rows are gone: winnow show, and `where` of the source."
            )
        tables.append(_named(name, table))
    quarantined = {name: len(of.quarantine) for name, of in found.items() if len(of.quarantine)}
    from curation.versions import open_version

    versions = {
        name: str(open_version(source.version, workspace)) for name, source in named if source and source.version
    }
    return Items(pa.concat_tables(tables).combine_chunks(), quarantined, versions)


def _named(name: str, table: pa.Table) -> pa.Table:
    keys = [str(key).partition(":")[2].removeprefix("=") for key in table["origin_key"].to_pylist()]
    columns = {"benchmark": pa.array([name] * len(table)), "id": pa.array(keys, pa.string())}
    columns |= {column: table[column] for column in ("row_id", "question", "choices", "answer", "images")}
    return pa.table(columns)


def cached_item(workspace: Path, name: str, row_id: str) -> dict[str, Any] | None:
    """An item of a benchmark that lies in the workspace's cache: what `why` joins its text from. None where the cache
    has been emptied, or the item stands in a version that was built elsewhere."""
    from curation import store

    folder = store.open_workspace(workspace).stages / "source"
    for entry in sorted(folder.glob("*")) if folder.is_dir() else ():
        manifest = store.load_entry(entry)
        if manifest is None or manifest.get("source") != name:
            continue
        for part in manifest["partitions"]:
            if part["first"] <= int(row_id[:2], 16) < part["last"]:
                table = read_prefixes(str(entry / part["rows_file"]), int(row_id[:2], 16), int(row_id[:2], 16) + 1)
                found = table.filter(pc.equal(table["row_id"], row_id))
                if len(found):
                    return dict(found.select(["question", "choices", "answer"]).to_pylist()[0])
    return None
