"""Results with names: dimensions, coordinates, units and the settings they were made with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import xarray as xr

from physml.provenance import stamp
from physml.timeaxis import shift, step_of

if TYPE_CHECKING:
    from physml.explain.models.targets import Measure
    from physml.layout import Layout


@dataclass(frozen=True)
class Part:
    """One variable of a result, among the numbers of each sample.

    Attributes
    ----------
    name, long_name
        Of the variable.
    leading
        Sizes of its dimensions before those of the samples: ``{"group": 6}``.
    units
        Its unit; None: that of the target.
    each
        True: a value for each cell of the target; False: one for each sample, the first is taken.
    dtype
        Type it is given.
    """

    name: str
    long_name: str
    leading: Mapping[str, int] | None = None
    units: str | None = None
    each: bool = True
    dtype: str = "float64"

    @property
    def depth(self) -> int:
        """Number of values for each sample and cell of the target."""
        return math.prod((self.leading or {}).values())


def label(
    values: Any,
    parts: Sequence[Part],
    *,
    layout: Layout,
    measure: Measure,
    packed: xr.DataArray,
    coords: Mapping[str, Any],
    settings: Mapping[str, Any],
    attrs: Mapping[str, Any],
    what: str,
) -> xr.Dataset:
    """Return results ``[depth, *members, sample, width]`` as a Dataset.

    Parameters
    ----------
    values
        NumPy or dask array; the parts follow each other along its first axis.
    parts
        What they are.
    layout, measure
        Of the model and its target.
    packed
        The samples that were explained.
    coords
        Coordinates of the leading dimensions.
    settings, attrs
        How it was made; attributes of the data, which it overrides.
    what
        Line for the history.

    Returns
    -------
    xarray.Dataset
        The sample coordinate is that of the inputs at offset 0; ``valid_time`` that of the target.
    """
    sample = layout.spec.sample_dim
    outer = {str(d): packed.sizes[d] for d in packed.dims[: packed.get_axis_num(sample) + 1]}
    dims = (*outer, *measure.dims)
    own = {n: c for n, c in packed.coords.items() if n != "channel" and n not in measure.coords}
    out = xr.Dataset(coords={n: c for n, c in own.items() if set(c.dims) <= set(dims)})
    start = 0
    for part in parts:
        here = values[start : start + part.depth]
        start += part.depth
        there: tuple[str, ...] = dims
        shape: tuple[int, ...] = (*outer.values(), *measure.valid.shape)
        if not part.each:
            here, there, shape = here[..., 0], tuple(outer), tuple(outer.values())
        leading = part.leading or {}
        units = part.units or measure.units
        about = {"long_name": part.long_name, **({} if units is None else {"units": units})}
        here = here.reshape(*leading.values(), *shape)
        out[part.name] = ((*leading, *there), here if part.dtype == "float64" else here.astype(part.dtype), about)
    out = out.assign_coords({**measure.coords, **coords})
    if measure.offset and sample in out.coords and (step := step_of(out[sample], layout.step)) is not None:
        dates = shift(out[sample].values, step, measure.offset)
        out = out.assign_coords(valid_time=(sample, dates, {"long_name": "time at which the target is valid"}))
    out.attrs = {**attrs, **settings}
    return stamp(out, what)
