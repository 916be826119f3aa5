"""A version's training examples as other programs' own files: LLaMA-Factory's and lmms-engine's conversations,
WebDataset's tars.

What reads Parquet by itself (TRL, verl, `datasets`) needs nothing of this: it takes the configs `sft` and `rl` as they lie
in the version (docs/exports.md). Rows stream through, one row group at a time; the same version gives the same bytes.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from curation.versions import DATA_FILE, Version
from schemas.errors import WinnowError

LAYOUTS = ("llamafactory", "lmms-engine", "webdataset")
TAR_BYTES = 256 << 20
ROWS = 64
MARK = "<image>"


@dataclass(frozen=True)
class Handed:
    """What was written."""

    folder: Path
    layout: str
    examples: dict[str, int]
    """split -> examples"""
    files: list[str]


def hand_over(
    version: Version, layout: str, folder: Path, *, config: str | None = None, tar_bytes: int = TAR_BYTES
) -> Handed:
    """Write a config of a version (by default `sft`, else its first) into an empty or new folder.

    Raises WinnowError where the layout cannot hold it, or the folder has files already.
    """
    if layout not in LAYOUTS:
        raise WinnowError(f"There is no layout {layout!r}. There are: {', '.join(LAYOUTS)}.")
    configs = version.manifest["splits"]
    config = config or ("sft" if "sft" in configs else next(iter(configs)))
    if config not in configs:
        raise WinnowError(f"{version} has no config {config!r}; it has {', '.join(configs)}.")
    if folder.exists() and any(folder.iterdir()):
        raise WinnowError(f"{folder} has files already, and they would mix. Name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    examples, files = {}, []
    for split in configs[config]:
        rows = _rows(version, config, split)
        if layout == "llamafactory":
            examples[split], written = _conversations(version, rows, folder, split)
        elif layout == "lmms-engine":
            examples[split], written = _messages(version, rows, folder, split)
        else:
            examples[split], written = _tars(rows, folder, split, tar_bytes)
        files += written
    if layout == "llamafactory":
        files.append(_dataset_info(version, folder, examples))
    return Handed(folder, layout, examples, sorted(files))


def _rows(version: Version, config: str, split: str) -> Iterator[dict[str, Any]]:
    for name in version.files(f"data/{config}"):
        match = DATA_FILE.fullmatch(Path(name).name)
        if match is None or match[1] != split:
            continue
        with pq.ParquetFile(name) as file:
            for batch in file.iter_batches(batch_size=ROWS):
                yield from batch.to_pylist()


# -------------------------------------------------------------------------------------------------------- LLaMA-Factory


def _text(content: Any) -> str:
    """A turn as one string, with a mark for each picture."""
    if isinstance(content, str):
        return content
    return "".join(MARK if part["type"] == "image" else part.get("text") or "" for part in content)


def _conversations(version: Version, rows: Iterator[dict[str, Any]], folder: Path, split: str) -> tuple[int, list[str]]:
    count, pictures = 0, set[str]()
    with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            _need_messages(version, row, "LLaMA-Factory")
            turns = [{"role": m["role"], "content": _text(m["content"])} for m in row["messages"]]
            images = row.get("images") or []
            marks = sum(turn["content"].count(MARK) for turn in turns)
            if marks != len(images):
                raise WinnowError(
                    f"{version}: row {row['row_id']} has {len(images)} pictures and {marks} times {MARK}; "
                    "LLaMA-Factory counts them. Filter rows whose text holds the mark."
                )
            names = [_picture(folder, image, pictures) for image in images]
            file.write(json.dumps({"messages": turns, "images": names}, ensure_ascii=False) + "\n")
            count += 1
    return count, [f"{split}.jsonl", *pictures]


def _need_messages(version: Version, row: dict[str, Any], who: str) -> None:
    if not isinstance(row.get("messages"), list):
        raise WinnowError(f"{version}: {who} needs conversations: the export sft, layout messages.")


def _picture(folder: Path, image: dict[str, Any], written: set[str]) -> str:
    """Write a picture once; its path in the folder."""
    name = f"images/{image['path']}"
    if name not in written:
        (folder / "images").mkdir(exist_ok=True)
        (folder / name).write_bytes(image["bytes"])
        written.add(name)
    return name


def _dataset_info(version: Version, folder: Path, examples: dict[str, int]) -> str:
    tags = {"role_tag": "role", "content_tag": "content"}
    tags |= {f"{role}_tag": role for role in ("user", "assistant", "system")}
    info = {}
    for split in examples:
        columns = {"messages": "messages"}
        if (folder / "images").is_dir():
            columns["images"] = "images"
        name = re.sub(r"\W+", "_", f"{version.name}_{split}")
        info[name] = {"file_name": f"{split}.jsonl", "formatting": "sharegpt", "columns": columns, "tags": tags}
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    return "dataset_info.json"


# ---------------------------------------------------------------------------------------------------------- lmms-engine


def _messages(version: Version, rows: Iterator[dict[str, Any]], folder: Path, split: str) -> tuple[int, list[str]]:
    """OpenAI's messages, every turn as parts, pictures as files below `data_folder`; and the YAML that lists them."""
    count, pictures = 0, set[str]()
    with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            _need_messages(version, row, "lmms-engine")
            names = iter([_picture(folder, image, pictures) for image in row.get("images") or ()])
            turns = [{"role": m["role"], "content": [_part(part, names) for part in _parts(m["content"])]} for m in row["messages"]]  # fmt: skip
            file.write(
                json.dumps({"id": f"{row['row_id']}-{row.get('k') or 0}", "messages": turns}, ensure_ascii=False) + "\n"
            )
            count += 1
    # The engine takes paths from where it is started, so they are written as the folder was named.
    entry = {"path": str(folder / f"{split}.jsonl"), "data_folder": str(folder), "data_type": "jsonl"}
    (folder / f"{split}.yaml").write_text(yaml.safe_dump({"datasets": [entry]}, sort_keys=False), encoding="utf-8")
    return count, [f"{split}.jsonl", f"{split}.yaml", *pictures]


def _parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _part(part: dict[str, Any], names: Iterator[str]) -> dict[str, Any]:
    if part["type"] == "image":
        return {"type": "image_url", "image_url": {"url": next(names)}}
    if part["type"] == "image_url":
        raise WinnowError(
            "This export has lmms-engine's layout already (layout: openai): it reads it as it is. List each shard with "
            "data_type parquet, and its folder as data_folder."
        )
    return {"type": "text", "text": part.get("text") or ""}


# ----------------------------------------------------------------------------------------------------------- WebDataset


def _tars(rows: Iterator[dict[str, Any]], folder: Path, split: str, limit: int) -> tuple[int, list[str]]:
    """Tars of about `limit` bytes. A sample is `<row_id>-<n>.json` with all columns but the pictures, and
    `<row_id>-<n>.<i>.<ending>` for each picture; n numbers the examples of a row."""
    names: list[str] = []
    count = number = 0
    last = ""
    row = next(rows, None)
    while row is not None:
        names.append(f"{split}-{len(names):06d}.tar")
        size = 0
        with tarfile.open(folder / names[-1], "w", format=tarfile.USTAR_FORMAT) as tar:
            while row is not None and size <= limit:
                number = number + 1 if row["row_id"] == last else 0
                last = row["row_id"]
                key = f"{last}-{number}"
                images = row.pop("images", None) or []
                size += _add(tar, f"{key}.json", json.dumps(row, ensure_ascii=False, sort_keys=True).encode())
                for i, image in enumerate(images):
                    size += _add(tar, f"{key}.{i}.{image['path'].rpartition('.')[2]}", image["bytes"])
                count += 1
                row = next(rows, None)
    return count, names


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Add a file without time or owner, so that the same rows give the same tar."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
    return len(data)
