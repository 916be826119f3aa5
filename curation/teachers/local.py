"""What teachers that load a model themselves share: how a state of the model is named."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path


def model_files(model: str, recipe_dir: Path) -> Sequence[Path]:
    """The files of a model in a folder; none of one that is named by its repo id."""
    folder = recipe_dir / model
    if not folder.is_dir():
        return ()
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def state_of(model: str, revision: str | None, recipe_dir: Path) -> str | None:
    """What tells two states of a model apart: the digest of a folder's files, or the commit of a repo. None where
    neither is known: the repo has not been fetched to this machine yet."""
    folder = recipe_dir / model
    if folder.is_dir():
        return _digest(folder)
    if revision and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None


def place_of(model: str, recipe_dir: Path) -> str:
    """Where a library finds the model: the folder's path, or the repo id."""
    folder = recipe_dir / model
    return str(folder) if folder.is_dir() else model


@lru_cache(maxsize=4)
def _digest(folder: Path) -> str:
    from curation.digests import file_digest, json_digest

    return json_digest([[p.name, file_digest(p)] for p in model_files(str(folder), Path())])[:12]
