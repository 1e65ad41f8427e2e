"""What all learners are asked: fit to labelled fields, predict labelled fields, be saved and loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol, Self, runtime_checkable

import xarray as xr

from physml.layout import Layout


@runtime_checkable
class Learner(Protocol):
    """A learner on labelled fields.

    Attributes
    ----------
    name
        What it is called in histories and figures.
    layout
        Layout of the data it was fitted to.
    provenance
        What is remembered of its making.
    """

    name: str
    layout: Layout
    provenance: Mapping[str, str]

    def fit(self, train: xr.Dataset) -> Self:
        """Fit to training data, lazily read; parts for validation and test are refused."""
        ...

    def predict(self, ds: xr.Dataset) -> xr.Dataset:
        """Return the targets, labelled, dated and masked as :func:`physml.predict` does; lazy where *ds* is."""
        ...

    def save(self, path: str | os.PathLike[str]) -> Any:
        """Write one file that runs no code when it is read."""
        ...
