"""How many tokens a text has, by a tokenizer that lies on this machine.

A tokenizer is a tokenizer.json: its path, a folder that has one, or a Hub repo id whose files are in the local cache.
Nothing is downloaded: a build must not depend on what a name means today.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.errors import WinnowError

_BATCH = 2048


def find(name: str, folder: Path) -> Path:
    """The tokenizer.json that `name` means: a path (relative ones begin in `folder`), a folder, or ORG/NAME[@revision]
    in the local Hub cache. Raises WinnowError where there is none."""
    path = (folder / Path(name).expanduser()).resolve()
    if path.is_file():
        return path
    if path.is_dir():
        if (path / "tokenizer.json").is_file():
            return path / "tokenizer.json"
        raise WinnowError(f"tokenizer: {path} has no tokenizer.json. Name a folder or file that is a tokenizer.")
    repo, _, revision = name.partition("@")
    if repo.count("/") == 1 and not repo.startswith((".", "/", "~")):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(repo, "tokenizer.json", revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
        raise WinnowError(
            f"tokenizer: {name} is neither a path ({path} does not exist) nor in the local Hub cache.\n"
            f"Fetch it once: hf download {repo} tokenizer.json{f' --revision {revision}' if revision else ''}"
        )
    raise WinnowError(f"tokenizer: {path} does not exist. Name a tokenizer.json, a folder with one, or a Hub repo id.")


@lru_cache(maxsize=4)
def load(path: Path, changed: int) -> Any:
    """The tokenizer, once per process. `changed` is the file's mtime in ns, so that a new file is read again."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception for a file that it cannot read
        raise WinnowError(f"tokenizer: {path} cannot be read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def counts(texts: pa.Array | pa.ChunkedArray, path: Path) -> pa.Array:
    """Tokens of each text without special tokens, int32; null for null."""
    tokenizer = load(path, path.stat().st_mtime_ns)
    valid = texts.filter(texts.is_valid())
    found = np.empty(len(valid), np.int32)
    for start in range(0, len(valid), _BATCH):
        part = valid.slice(start, _BATCH).to_pylist()
        encoded = tokenizer.encode_batch_fast(part, add_special_tokens=False)
        found[start : start + len(part)] = [len(e) for e in encoded]
    present = np.asarray(texts.is_valid())
    spread = np.zeros(len(present), np.int32)
    spread[present] = found
    return pa.array(spread, mask=~present)
