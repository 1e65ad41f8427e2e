"""Heads: what turns the output of a network into named fields, and which loss such fields are trained with.

Heads that keep a law by construction (:class:`physml.Transport` and others) belong to :mod:`physml.constraints`.
"""

from __future__ import annotations

from typing import Any

_HOMES = {
    "Classes": "classes",
    "Distribution": "distribution",
    "Gaussian": "gaussian",
    "HEADS": "base",
    "Head": "base",
    "Quantiles": "quantiles",
    "Samples": "samples",
    "interval": "predictive",
    "make_head": "base",
    "quantiles_of": "predictive",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"physml.heads.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'physml.heads' has no attribute {name!r}")
