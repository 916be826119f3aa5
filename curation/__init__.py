"""Winnow's engine. In a notebook:

from curation import build, open_version

v = build("recipes/quickstart.yaml")
v.rows()            # polars
v.sql("select source, count(*) from ledger group by 1")
v.dataset("sft")    # datasets.Dataset
print(v.why(v.rows()["row_id"][0]))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curation.builder import build
    from curation.catalog import query
    from curation.comparison import diff
    from curation.maintenance import fsck, gc
    from curation.planning import plan
    from curation.versions import Version, list_versions, open_version, tag

__all__ = ["Version", "build", "diff", "fsck", "gc", "list_versions", "open_version", "plan", "query", "tag"]

_HOMES = {
    "build": "curation.builder",
    "plan": "curation.planning",
    "query": "curation.catalog",
    "diff": "curation.comparison",
    "fsck": "curation.maintenance",
    "gc": "curation.maintenance",
    "Version": "curation.versions",
    "list_versions": "curation.versions",
    "open_version": "curation.versions",
    "tag": "curation.versions",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `winnow --help` does not wait for polars and DuckDB."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'curation' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
