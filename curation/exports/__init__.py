"""Exports: layouts in which other programs read a version. One file each; `load()` registers them all."""

from __future__ import annotations

import importlib
import pkgutil

from curation.exports.base import REGISTRY, Examples, Export, OutputConfig, register

__all__ = ["REGISTRY", "Examples", "Export", "OutputConfig", "load", "register"]


def load() -> dict[str, Export]:
    """Import every export of this package and return the registry, by kind."""
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{module}")
    return REGISTRY
