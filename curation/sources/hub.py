"""A dataset of the Hugging Face Hub, by repo id and revision.

Where the repo has Parquet files, just those of the asked config and split are fetched into the Hub's cache and read as
any other Parquet; `datasets` says which files they are, so a repo means here what it means there. Any other repo is
prepared by `datasets`, and its Arrow files are read. Without a network (HF_HUB_OFFLINE=1, or none there) both work from
the cache.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from curation.sources.base import BATCH_BYTES, Part, Raw, Reader
from curation.sources.files import chosen
from curation.sources.mapping import columns_read
from curation.sources.parquet import ParquetReader
from schemas.errors import SourceError
from schemas.recipe import Source

if TYPE_CHECKING:
    from datasets import DatasetBuilder


def open_hub(config: Source, name: str, recipe_dir: Path, limit: int | None) -> Reader:
    """Resolve `ORG/NAME@revision`. Raises SourceError with the command that fetches it where it is not cached."""
    repo, _, revision = str(config.hub).partition("@")
    try:
        kind, split, files = _resolved(repo, revision or "main", config.config, config.split)
    except SourceError as error:
        raise SourceError(f"Source {name}: {error}") from error
    label = f"{repo}/{config.config or 'default'}/{split}"
    if kind == "parquet":
        needed = functools.partial(columns_read, config)
        return ParquetReader(name, files, recipe_dir, limit, config.where, needed=needed, label=label)
    return ArrowReader(label, files, recipe_dir, limit, config.where)


@contextlib.contextmanager
def from_cache() -> Iterator[None]:
    """Inside, datasets are looked for in the cache alone, as with HF_HUB_OFFLINE=1."""
    import datasets.config
    import huggingface_hub.constants

    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = before


@functools.cache
def _resolved(repo: str, revision: str, config: str | None, split: str | None) -> tuple[str, str, Sequence[Path]]:
    """("parquet" or "arrow", the split, its files on this machine). Once per process: every part opens the source."""
    import datasets
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    where = f"{repo}@{revision}"
    try:
        builder = datasets.load_dataset_builder(repo, config, revision=revision)
        known = builder.config.data_files
        remote = [str(file) for file in known[_split_of(builder, where, split)]] if known else []
        if remote and all(file.startswith("hf://") and file.endswith(".parquet") for file in remote):
            paths = [file.split("@", 1)[1].partition("/")[2] for file in remote]
            folder = snapshot_download(
                repo, repo_type="dataset", revision=revision, allow_patterns=["README.md", *paths]
            )
            return "parquet", _split_of(builder, where, split), [Path(folder) / path for path in paths]
        return _prepared(builder, where, split)
    except SourceError:
        raise
    except Exception as error:
        reason = error
    # No network, or no such dataset: what the cache has decides.
    try:
        cached = functools.partial(
            snapshot_download, repo, repo_type="dataset", revision=revision, local_files_only=True
        )
        found = _in_snapshot(Path(cached(allow_patterns=["README.md"])), config)
        if found:
            name = _choose(list(found), where, split)
            files, globs = found[name]
            cached(allow_patterns=globs)  # raises where only some files of the split were fetched
            return "parquet", name, files
        return _prepared(datasets.load_dataset_builder(repo, config, revision=revision), where, split)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        said = (str(reason).strip().splitlines() or [type(reason).__name__])[0]
        raise SourceError(
            f"the dataset {where} is not (wholly) in the cache, nor to be had: {said}\nCheck name, revision, config. "
            "If this machine has no network, fetch it where there is one and bring the cache along (HF_HOME):\n"
            f"    hf download {repo} --repo-type dataset --revision {revision}"
        ) from error


def _in_snapshot(folder: Path, config: str | None) -> dict[str, tuple[list[Path], list[str]]]:
    """split -> its Parquet files and the patterns that name them, in a snapshot of which only a part may be here."""
    from datasets.data_files import get_data_patterns, resolve_pattern, sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    readme = folder / "README.md"
    configs = MetadataConfigs()
    if readme.exists():
        configs = MetadataConfigs.from_dataset_card_data(DatasetCard.load(readme).data)
    if configs:
        name = config or configs.get_default_config_name() or (next(iter(configs)) if len(configs) == 1 else None)
        if name not in configs:
            raise ValueError(f"it has the configs {', '.join(configs)}; say which with `config`")
        patterns = sanitize_patterns(configs[name]["data_files"]) if "data_files" in configs[name] else {}
    else:
        patterns = get_data_patterns(str(folder))
    found = {}
    for split, globs in patterns.items():
        files: list[Path] = []
        for pattern in globs:
            with contextlib.suppress(FileNotFoundError):  # not fetched
                files += [Path(file) for file in resolve_pattern(pattern, str(folder)) if file.endswith(".parquet")]
        if files:
            found[str(split)] = (files, [str(pattern) for pattern in globs])
    return found


def _split_of(builder: DatasetBuilder, where: str, split: str | None) -> str:
    return _choose([str(name) for name in (builder.config.data_files or builder.info.splits or ())], where, split)


def _choose(names: Sequence[str], where: str, split: str | None) -> str:
    """The asked split, or the only one."""
    if split is None and len(names) == 1:
        return names[0]
    if split is None and len(names) > 1:
        raise SourceError(f"the dataset {where} has the splits {', '.join(names)}; say which with `split`.")
    if split is not None and names and split not in names:
        raise SourceError(f"the dataset {where} has no split {split!r}; it has {', '.join(names)}.")
    return split or "train"


def _prepared(builder: DatasetBuilder, where: str, split: str | None) -> tuple[str, str, Sequence[Path]]:
    builder.download_and_prepare()
    split = _split_of(builder, where, split)
    return "arrow", split, [Path(file["filename"]) for file in builder.as_dataset(split).cache_files]


class ArrowReader:
    """Rows of the Arrow files that `datasets` prepared."""

    def __init__(self, label: str, files: Sequence[Path], recipe_dir: Path, limit: int | None, where: str | None):
        self._label = label
        self._files = list(files)
        self._limit = limit
        self._where = where
        self.image_root = recipe_dir

    def inputs(self) -> list[Path]:
        return self._files

    @staticmethod
    def _open(path: str | Path) -> pa.Table:
        return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()

    def schema(self) -> pa.Schema:
        return self._open(self._files[0]).schema.remove_metadata() if self._files else pa.schema([])

    def parts(self) -> list[Part]:
        parts, number, left = [], 0, self._limit
        for path in self._files:
            table = self._open(path)
            rows = len(table) if left is None else min(left, len(table))
            step = max(1, int(len(table) * 2 * BATCH_BYTES // max(table.nbytes, 1)))
            for start in range(0, rows, step):
                parts.append(Part(str(path), start, min(start + step, rows), number + start))
            number += rows
            left = None if left is None else left - rows
        return parts

    def read(self, part: Part) -> Iterator[Raw]:
        table = self._open(part.file).slice(part.start, part.stop - part.start)
        step = max(1, int(len(table) * BATCH_BYTES // max(table.nbytes, 1)))
        for start in range(0, len(table), step):
            piece = table.slice(start, step).replace_schema_metadata(None)
            first = part.first + start
            yield chosen(Raw(piece, self._label, np.arange(first, first + len(piece), dtype=np.int64)), self._where)
