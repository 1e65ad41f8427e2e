"""What a model returns, and the names by which a target knows it.

Every kind of output is an array ``[row, *shape]`` that can be labelled: fields on the grid of the layout, a table of named
numbers (indices, probabilities of classes), or whatever a function of Datasets returned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.layout import Layout, Variable


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
        What the function returned for one row, without the sample dimension; missing where it is masked.
    layout
        Layout of the inputs of the function.
    """

    template: xr.Dataset
    layout: Layout

    @property
    def sample_dim(self) -> str:
        """Dimension of the rows once labelled."""
        return self.layout.spec.sample_dim

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return (sum(v.size for v in self.template.data_vars.values()),)

    @property
    def valid(self) -> np.ndarray:
        """Values that are not masked, ``[values]`` booleans."""
        return np.concatenate([v.notnull().values.ravel() for v in self.template.data_vars.values()])

    def where(self, name: str) -> slice:
        """Return which values a variable takes."""
        start = 0
        for other, like in self.template.data_vars.items():
            if other == name:
                return slice(start, start + like.size)
            start += like.size
        raise KeyError(name)

    def pack(self, ds: xr.Dataset) -> np.ndarray:
        """Return what the function returned as ``[row, values]``."""
        parts = [
            ds[n].transpose(self.sample_dim, *v.dims).values.reshape(ds.sizes[self.sample_dim], -1)
            for n, v in self.template.data_vars.items()
        ]
        return np.concatenate(parts, axis=1)

    def label(self, outputs: np.ndarray) -> xr.Dataset:
        """Return the Dataset that :meth:`pack` packed, missing where it is masked."""
        found = {}
        for name, like in self.template.data_vars.items():
            values = outputs[:, self.where(str(name))].reshape(len(outputs), *like.shape)
            values = np.where(like.notnull().values, values, np.nan)
            found[name] = ((self.sample_dim, *like.dims), values, like.attrs)
        return xr.Dataset(found, self.template.coords)


Outputs = Fields | Table | Given


def channels_named(layout: Layout, names: Sequence[str]) -> Fields:
    """Return fields on the cells of the targets that are other variables, such as the probability of each class."""
    spec = layout.spec
    names = tuple(map(str, names))
    offsets = spec.target_offsets if len(spec.target_offsets) == 1 else (0,)  # type: ignore[arg-type]
    own = {n: Variable((spec.sample_dim, *layout.space), "float64", {}, {}) for n in names}
    spec = replace(spec, targets=names, target_offsets=offsets)
    return Fields(replace(layout, spec=spec, variables={**layout.variables, **own}))


def outputs_of(shape: Sequence[int], layout: Layout, names: Sequence[str] | None = None) -> Fields | Table:
    """Return how outputs with rows of *shape* are labelled.

    Parameters
    ----------
    shape
        Shape of one row: that of the targets of *layout*, or other channels on its grid, or one axis, or none.
    layout
        Layout of the model.
    names
        Names of the channels, or of the numbers along one axis; numbers are by default called as the target channels where
        there are as many, else ``output 0`` and so on.

    Raises
    ------
    ValueError
        For another shape, or another number of names.
    """
    fields = Fields(layout)
    if names is None and tuple(shape) == fields.shape:
        return fields
    on_grid = len(layout.space) > 0 and tuple(shape[:-1]) == layout.shape
    if len(shape) > 1 and not (on_grid and names is not None):
        refuse(
            "the model returned another shape than its layout says",
            f"[row, *space, target channel] = [row, {', '.join(map(str, fields.shape))}], or [row, k]",
            f"[row, {', '.join(map(str, shape))}]",
            "name its channels: outputs=[...]" if on_grid else "give the layout the model was built for",
        )
    k = shape[-1] if on_grid else math.prod(shape)
    if names is not None and len(names) != k:
        refuse("outputs do not fit the model", f"{k} names", f"{len(names)}: {list(names)}", "name each of its outputs")
    if on_grid:
        return channels_named(layout, names or ())
    targets = layout.targets
    if names is not None or k != len(targets):
        return Table(tuple(names or (f"output {i}" for i in range(k))), layout.spec.sample_dim)
    units = tuple(layout.units(c.name) for c in targets)
    return Table(tuple(map(str, targets)), layout.spec.sample_dim, units, tuple(c.offset for c in targets))
