"""Functions of Datasets as functions of packed inputs: what a model takes and returns keeps its names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import describe, refuse
from physml.explain.models.adapting import Adapted
from physml.explain.models.outputs import Given

if TYPE_CHECKING:
    from physml.layout import Layout


@dataclass(frozen=True, eq=False)
class OnDatasets:
    """A function of Datasets as one of inputs ``[row, *space, channel]``.

    Attributes
    ----------
    function
        Takes the inputs of some rows by name, returns anything with the sample dimension.
    layout
        Layout of the inputs.
    """

    function: Callable[[xr.Dataset], Any]
    layout: Layout

    def inputs(self, rows: np.ndarray) -> xr.Dataset:
        """Return rows ``[row, *space, channel]`` by name, missing on masked cells.

        Rows are mixtures of a sample and a baseline, which has another date: there are no labels along the sample dimension.
        """
        array = xr.DataArray(rows, dims=(self.layout.spec.sample_dim, *self.layout.space, "channel"))
        return self.layout.unpack(array, "inputs", predicted=True)

    def outputs(self, rows: np.ndarray) -> xr.Dataset:
        """Return what the function makes of rows, as a Dataset of variables along the sample dimension."""
        ds = self.inputs(rows)
        try:
            found = self.function(ds)
        except Exception as error:
            error.add_note(
                f"Raised in the model, which was given inputs of {dict(ds.sizes)} named {', '.join(map(str, ds.data_vars))}. "
                f"They have no labels along {self.layout.spec.sample_dim!r}: name parts of the date, such as 'time.month', "
                "among the inputs."
            )
            raise
        return self._checked(found, len(rows))

    def _checked(self, found: Any, rows: int) -> xr.Dataset:
        sample = self.layout.spec.sample_dim
        if isinstance(found, np.ndarray) and found.ndim == 1:
            found = xr.DataArray(found, dims=sample)
        if isinstance(found, xr.DataArray):
            found = found.rename(_name(self.function) if found.name is None else found.name).to_dataset(
                promote_attrs=False
            )
        ours = (
            [n for n, v in found.data_vars.items() if sample in v.dims and v.dtype.kind in "biuf"]
            if isinstance(found, xr.Dataset)
            else []
        )
        if not ours or found.sizes[sample] != rows:
            received = dict(found.sizes) if isinstance(found, xr.Dataset) else type(found).__name__
            raise ValueError(
                describe(
                    f"the model {_name(self.function)!r} returned no numbers along {sample!r}",
                    expected=f"a Dataset or DataArray with {rows} along {sample!r}, or {rows} numbers",
                    received=received,
                    remedy=f"reduce over other dimensions only, and keep {sample!r} whole",
                )
            )
        return found[ours]


@dataclass(frozen=True, eq=False)
class Packed:
    """An :class:`OnDatasets` whose outputs are laid out as the first ones were."""

    function: OnDatasets
    given: Given

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return outputs ``[row, values]``, zero where they are masked.

        Raises
        ------
        ValueError
            Where the function returns other variables, sizes, or valid cells than at first.
        """
        found = self.function.outputs(rows)
        expected = {n: dict(v.sizes) for n, v in self.given.template.data_vars.items()}
        received = {n: {d: s for d, s in v.sizes.items() if d != self.given.sample_dim} for n, v in found.items()}
        if received != expected:
            refuse(
                f"the model {_name(self.function.function)!r} returned other variables than for the baseline",
                expected,
                received,
                "return the same variables, of the same sizes, for all inputs",
            )
        values = self.given.pack(found)
        masked = ~self.given.valid
        if not np.isnan(values[:, masked]).all():
            refuse(
                f"the model {_name(self.function.function)!r} is defined on other cells than for the baseline",
                "missing values on the same cells for all inputs",
                "values where there were none",
                "fill them, such as by 0, where they depend on the inputs",
            )
        values[:, masked] = 0
        return values


def on_datasets(function: Callable[[xr.Dataset], Any], layout: Layout, probe: np.ndarray) -> Adapted:
    """Return a function of Datasets as a function of packed inputs.

    Parameters
    ----------
    function
        Is given the inputs of *layout* by name, for some rows at a time, with coordinates of space and levels, missing on
        masked cells. Several offsets lie along a dimension ``lead`` behind the sample dimension, labelled by the offset
        [steps]; a variable without one of them is missing there. Parts of the date, such as ``time.month``, are variables
        like any other; those without space dimensions, or without the sample dimension, are repeated along them, since
        groups may take them from the sample in one cell and from the baseline in another. Returns a Dataset or DataArray
        with the sample dimension, on any grid, or a NumPy array of one number for each row; variables of a Dataset without
        the sample dimension are ignored.
    layout
        Layout of the inputs.
    probe
        Inputs ``[1, *space, channel]`` by which the outputs are found.

    Raises
    ------
    ValueError
        Where it returns nothing along the sample dimension. What the function itself raises passes through.
    """
    adapter = OnDatasets(function, layout)
    first = adapter.outputs(probe)
    sample = layout.spec.sample_dim
    template = first.isel({sample: 0}, drop=True).compute()
    given = Given(template, layout)
    return Adapted(_name(function), layout, given, Packed(adapter, given))


def _name(function: Any) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    return "output" if name == "<lambda>" else str(name)
