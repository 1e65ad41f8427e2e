"""Learners that are no networks, and the baselines every forecast must beat; all fit and predict labelled fields alike."""

from __future__ import annotations

from typing import Any

LEARNER_NAMES = ("Climatology", "DampedPersistence", "Forest", "Linear", "Persistence", "Ridge")
"""The learners of physml."""
_HOMES: dict[str, str] = {
    "Climatology": "climatology",
    "DampedPersistence": "persistence",
    "EOF": "eof",
    "Forest": "forest",
    "Learner": "base",
    "Linear": "linear",
    "Persistence": "persistence",
    "Ridge": "linear",
    "load": "_files",
    "encode": "latent",
    "decode": "latent",
    "draw_prior": "latent",
    "generate": "generative",
    "with_noise": "generative",
    "with_noise_inputs": "generative",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"physml.learners.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'physml.learners' has no attribute {name!r}")
