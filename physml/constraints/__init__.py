"""Constraints: positivity and conservation by variable name, as layers, as losses and after the fact."""

from __future__ import annotations

from typing import Any

_HOMES = {
    "Constraint": "base",
    "NonNegative": "bounds",
    "Bounds": "bounds",
    "Monotone": "bounds",
    "Budget": "balance",
    "Closure": "closure",
    "Simplex": "closure",
    "BlockMean": "closure",
    "Completion": "completion",
    "Conserve": "budget",
    "Constraints": "combine",
    "ConstraintLayer": "layer",
    "PenaltySchedule": "schedule",
    "FluxForm": "fluxform",
    "Helmholtz": "helmholtz",
    "Streamfunction": "streamfunction",
    "Shares": "shares",
    "Nonlinear": "nonlinear",
    "KineticEnergy": "nonlinear",
    "RelativeHumidity": "nonlinear",
    "Transport": "transport",
    "project_sum": "projection",
}
_BELOW = ("HEADS", "Head", "make_head")
__all__ = sorted([*_HOMES, *_BELOW])


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"physml.constraints.{_HOMES[name]}"), name)
    if name in _BELOW:  # heads of laws are Heads like any other
        from physml.heads import base

        return getattr(base, name)
    raise AttributeError(f"module 'physml.constraints' has no attribute {name!r}")
