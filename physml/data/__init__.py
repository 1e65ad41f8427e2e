"""Data: splitting in time, scaling, batches for Keras, and a catalog of public data."""

from __future__ import annotations

from typing import Any

_HOMES = {
    "Fold": "folds",
    "fold_time": "folds",
    "Split": "split",
    "split_time": "split",
    "Scaling": "scaling",
    "Loader": "loader",
    "Batches": "batches",
    "Patches": "patches",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "catalog":
        from importlib import import_module

        return import_module("physml.data.catalog")
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"physml.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'physml.data' has no attribute {name!r}")
