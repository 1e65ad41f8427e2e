"""Scaling: mean and standard deviation of every variable and level, from one pass over the training data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from physml import _packing
from physml._errors import describe
from physml.fields import FieldSpec, Role
from physml.layout import Layout

Numbers = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Scaling:
    """Means and standard deviations in the units of the variables.

    Attributes
    ----------
    layout
        Layout of the data it was fitted to.
    mean, std
        By variable, ``[depth]`` float64, over valid cells and all samples.
    increment
        By target that is also an input: standard deviation of its change from offset 0 to each target offset,
        ``[offset, depth]``.

    Examples
    --------
    >>> ds = xr.Dataset({"x": (("time", "i"), [[1.0, 3.0], [3.0, 5.0]])}, {"time": [0, 1]})
    >>> scaling = Scaling.fit(ds, FieldSpec("x", "x", target_offsets=1))
    >>> scaling.mean["x"], scaling.std["x"]
    (array([3.]), array([1.41421356]))
    """

    layout: Layout
    mean: Numbers
    std: Numbers
    increment: Numbers

    @classmethod
    def fit(cls, train: xr.Dataset, spec: FieldSpec | Layout) -> Scaling:
        """Fit to training data in one pass, whatever their size.

        Parameters
        ----------
        train
            The training part only.
        spec
            What the network reads and predicts.

        Raises
        ------
        ValueError
            For values missing on valid cells, and for variables that never vary.
        """
        import dask

        layout = (spec if isinstance(spec, Layout) else spec.bind(train)).load()
        spec = layout.spec
        roles: tuple[Role, ...] = ("inputs", "targets")
        for role in roles:
            layout.check(train, role, whole_window=True)
        names = list(dict.fromkeys([*spec.inputs, *spec.targets]))
        lazy: dict[str, Any] = {}
        for name in names:
            role = "inputs" if name in spec.inputs else "targets"
            valid = _valid(layout, role, name)
            da = _packing.select_levels(layout, _packing.ready(train[name], spec.sample_dim), name)
            da = da.astype("float64")
            da = da.where(valid & np.isfinite(da))
            over = [d for d in da.dims if d not in layout.variables[name].levels]
            cells = valid.sum([d for d in valid.dims if d in layout.space])
            total = int(np.prod([n for d, n in da.sizes.items() if d in over and d not in layout.space], dtype=int))
            lazy[name] = {
                "mean": da.mean(over),
                "std": da.std(over),
                "missing": (cells * total - da.count(over)).sum(),
            }
            if _has_increment(layout, name):
                # Neighbouring blocks are needed for the difference; the graph still reads every block once.
                steps = []
                for offset in spec.offsets("targets", name):
                    n = da.sizes[spec.sample_dim] - abs(offset)
                    a, b = max(0, -offset), max(0, offset)
                    later = da.isel({spec.sample_dim: slice(b, b + n)}).variable
                    steps.append((later - da.isel({spec.sample_dim: slice(a, a + n)}).variable).std(over))
                lazy[name]["increment"] = steps
        (found,) = dask.compute(lazy)
        mean, std, increment = {}, {}, {}
        for name in names:
            known, got = layout.variables[name], found[name]
            if int(got["missing"]):
                raise ValueError(
                    describe(
                        f"Scaling.fit: {name!r} is missing on valid cells",
                        expected="a value on every cell of the mask"
                        if spec.mask
                        else "no missing values (there is no mask)",
                        received=f"{int(got['missing'])} missing or infinite values",
                        remedy="name a mask in the FieldSpec (physml.grid.finite_mask makes one), or fill the gaps",
                    )
                )
            mean[name], std[name] = _flat(got["mean"], known), _flat(got["std"], known)
            floor = 1e-12 * np.maximum(np.abs(mean[name]), np.finfo("float64").tiny)
            if not (std[name] > floor).all():
                raise ValueError(
                    describe(
                        f"Scaling.fit: {name!r} does not vary over the training data",
                        expected="a standard deviation above zero",
                        received=f"{std[name].min():g} at level {int(std[name].argmin())}, mean {mean[name].min():g}",
                        remedy="drop the variable or the level, or train on a longer period",
                    )
                )
            if "increment" in got:
                rows = np.stack([np.asarray(s.values, "float64").reshape(-1) for s in got["increment"]])
                if (rows > floor).all():
                    increment[name] = rows
        return cls(layout, mean, std, increment)

    @classmethod
    def identity(cls, layout: Layout) -> Scaling:
        """Return the scaling that changes nothing: mean 0, standard deviation 1."""
        zero = {n: np.zeros(v.depth) for n, v in layout.variables.items()}
        one = {n: np.ones(v.depth) for n, v in layout.variables.items()}
        change = {
            n: np.ones((len(layout.spec.offsets("targets", n)), layout.variables[n].depth))
            for n in layout.spec.targets
            if _has_increment(layout, n)
        }
        return cls(layout, zero, one, change)

    def vector(self, what: str, role: Role) -> np.ndarray:
        """Return ``"mean"``, ``"std"`` or ``"increment"`` for every channel of a role, float64."""
        parts = []
        for name in getattr(self.layout.spec, role):
            n = len(self.layout.spec.offsets(role, name))
            if what == "increment":
                if name not in self.increment:
                    raise ValueError(
                        describe(
                            f"increment: {name!r} has no change from inputs to targets to predict",
                            expected="a target that is also an input at offset 0, at other target offsets, and that changes",
                            received=f"inputs {self.layout.spec.inputs}, target offsets {self.layout.spec.target_offsets}",
                            remedy="add it to the inputs, or pass increment=False",
                        )
                    )
                parts.append(self.increment[name].reshape(-1))
            else:
                parts.append(np.tile(getattr(self, what)[name], n))
        return np.concatenate(parts)

    def to_config(self) -> dict[str, Any]:
        """Return plain values; the layout is not among them."""
        return {
            what: {n: np.asarray(v).tolist() for n, v in getattr(self, what).items()}
            for what in ("mean", "std", "increment")
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], layout: Layout) -> Scaling:
        """Return the scaling that :meth:`to_config` describes."""
        return cls(layout, **{k: {n: np.asarray(x, "float64") for n, x in v.items()} for k, v in config.items()})


def _has_increment(layout: Layout, name: str) -> bool:
    spec = layout.spec
    if name not in spec.inputs or name not in spec.targets:
        return False
    return 0 in spec.offsets("inputs", name) and 0 not in spec.offsets("targets", name)


def _valid(layout: Layout, role: Role, name: str) -> xr.DataArray:
    known = layout.variables[name]
    where = layout.where(role, name, layout.spec.offsets(role, name)[0])
    data = layout.valid(role)[..., where].reshape(*layout.shape, *(len(x) for x in known.levels.values()))
    valid = xr.DataArray(data, dims=(*layout.space, *known.levels))
    # A variable without some space dimension is needed where any cell along it is.
    return valid.any([d for d in layout.space if d not in known.dims])


def _flat(da: xr.DataArray, known: Any) -> np.ndarray:
    return np.asarray(da.transpose(*known.levels).values, "float64").reshape(-1)
