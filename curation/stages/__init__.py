"""Stages: one file each. `load()` registers those that ship with Winnow; a recipe's `use:` adds a user's own."""

from __future__ import annotations

import importlib
import pkgutil

from curation.stages.base import (
    REGISTRY,
    Context,
    Outcome,
    Stage,
    StageConfig,
    drop,
    fates,
    global_stage,
    row_stage,
    to_json,
)

__all__ = [
    "REGISTRY",
    "Context",
    "Outcome",
    "Stage",
    "StageConfig",
    "drop",
    "fates",
    "global_stage",
    "load",
    "row_stage",
    "to_json",
]


def load() -> dict[str, Stage]:
    """Import every stage of this package and return the registry, by kind."""
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{module}")
    return REGISTRY
