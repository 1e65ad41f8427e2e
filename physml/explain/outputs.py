"""What a model returns, and the names by which a target knows it.

Every kind of output is an array ``[row, *shape]`` that can be labelled: fields on the grid of the layout, a table of named
numbers (indices, probabilities of classes), or whatever a function of Datasets returned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from physml._errors import refuse

if TYPE_CHECKING:
    from physml.layout import Layout


@dataclass(frozen=True, eq=False)
class Fields:
    """Outputs ``[row, *space, target channel]``, named by the layout."""

    layout: Layout

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return (*self.layout.shape, len(self.layout.targets))

    def label(self, outputs: np.ndarray) -> xr.Dataset:
        """Return the outputs as a Dataset; rows lie along the sample dimension."""
        array = xr.DataArray(outputs, dims=(self.layout.spec.sample_dim, *self.layout.space, "channel"))
        return self.layout.unpack(array, "targets", predicted=True)


@dataclass(frozen=True, eq=False)
class Table:
    """Outputs ``[row, k]``: named numbers, such as an index or the probabilities of classes.

    Attributes
    ----------
    names, units, offsets
        Of each number: name, unit or None, steps from the sample to the time it is valid at.
    sample_dim
        Dimension of the rows once labelled.
    """

    names: tuple[str, ...]
    sample_dim: str
    units: tuple[str | None, ...] = ()
    offsets: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return (len(self.names),)

    def label(self, outputs: np.ndarray) -> xr.Dataset:
        """Return the outputs as a Dataset, one variable for each number; rows lie along the sample dimension."""
        found = {}
        for i, name in enumerate(self.names):
            unit = self.units[i] if self.units else None
            found[name] = (self.sample_dim, outputs[:, i], {} if unit is None else {"units": unit})
        return xr.Dataset(found)


@dataclass(frozen=True, eq=False)
class Given:
    """Outputs ``[row, values]`` of a function of Datasets, one after the other.

    Attributes
    ----------
    template
        What the function returned for one row, without the sample dimension.
    sample_dim
        Dimension of the rows once labelled.
    """

    template: xr.Dataset
    sample_dim: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return (sum(v.size for v in self.template.data_vars.values()),)

    def pack(self, ds: xr.Dataset) -> np.ndarray:
        """Return what the function returned as ``[row, values]``."""
        parts = [
            ds[n].transpose(self.sample_dim, *v.dims).values.reshape(ds.sizes[self.sample_dim], -1)
            for n, v in self.template.data_vars.items()
        ]
        return np.concatenate(parts, axis=1)

    def label(self, outputs: np.ndarray) -> xr.Dataset:
        """Return the Dataset that :meth:`pack` packed."""
        found, start = {}, 0
        for name, like in self.template.data_vars.items():
            values = outputs[:, start : start + like.size].reshape(len(outputs), *like.shape)
            found[name] = ((self.sample_dim, *like.dims), values, like.attrs)
            start += like.size
        return xr.Dataset(found, self.template.coords)


Outputs = Fields | Table | Given


def outputs_of(shape: Sequence[int], layout: Layout, names: Sequence[str] | None = None) -> Fields | Table:
    """Return how outputs with rows of *shape* are labelled.

    Parameters
    ----------
    shape
        Shape of one row: that of the targets of *layout*, or one axis, or none.
    layout
        Layout of the model.
    names
        Names of the numbers along one axis; by default those of the target channels where there are as many, else
        ``output 0`` and so on.

    Raises
    ------
    ValueError
        For another shape, or another number of names.
    """
    fields = Fields(layout)
    if names is None and tuple(shape) == fields.shape:
        return fields
    if len(shape) > 1:
        refuse(
            "the model returned another shape than its layout says",
            f"[row, *space, target channel] = [row, {', '.join(map(str, fields.shape))}], or [row, k]",
            f"[row, {', '.join(map(str, shape))}]",
            "give the layout the model was built for",
        )
    k = math.prod(shape)
    if names is not None and len(names) != k:
        refuse("outputs do not fit the model", f"{k} names", f"{len(names)}: {list(names)}", "name each of its outputs")
    targets = layout.targets
    if names is not None or k != len(targets):
        return Table(tuple(names or (f"output {i}" for i in range(k))), layout.spec.sample_dim)
    units = tuple(layout.units(c.name) for c in targets)
    return Table(tuple(map(str, targets)), layout.spec.sample_dim, units, tuple(c.offset for c in targets))
