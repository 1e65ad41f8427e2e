"""Search of hyperparameters by blocked validation."""

from __future__ import annotations

from typing import Any

_HOMES = {"search": "searching", "SearchResult": "result", "between": "space", "Range": "space"}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module
        from importlib.util import find_spec

        if name == "search" and find_spec("optuna") is None:  # the only one that draws trials
            from physml._errors import describe

            raise ImportError(
                describe(
                    "search: Optuna draws the trials",
                    expected="optuna",
                    received="not installed",
                    remedy="pip install 'physml[learn]'",
                )
            )
        return getattr(import_module(f"physml.tuning.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'physml.tuning' has no attribute {name!r}")
