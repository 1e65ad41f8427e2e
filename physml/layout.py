"""Layout: a FieldSpec on the grid of a Dataset: channels, space, units, masks, weights, and what is saved of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xarray as xr

from physml import _matching, _packing, calendar, grid
from physml._errors import closest, describe
from physml.fields import FieldSpec, Role
from physml.timeaxis import TimeStep, check_axis, usual_step


@dataclass(frozen=True)
class Channel:
    """One channel of a tensor: a variable at an offset [steps] and at labels of its level dimensions."""

    name: str
    offset: int = 0
    level: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        at = "".join(f" {dim}={label}" for dim, label in self.level.items())
        return f"{self.name}{at}{f' {self.offset:+d}' if self.offset else ''}"


@dataclass(frozen=True)
class Variable:
    """What is remembered of a variable: dimensions in their order, type, attributes, labels of its levels."""

    dims: tuple[str, ...]
    dtype: str
    attrs: Mapping[str, Any]
    levels: Mapping[str, tuple[Any, ...]]

    @property
    def depth(self) -> int:
        """Number of channels at one offset."""
        return int(np.prod([len(v) for v in self.levels.values()], dtype=int))


@dataclass(frozen=True)
class Layout:
    """A FieldSpec on the grid of a Dataset. Made by :meth:`FieldSpec.bind`.

    Attributes
    ----------
    space, shape
        Names and sizes of the space dimensions, in the order of the first input that has them all.
    variables
        What is remembered of every input and target.
    step
        The step of the sample dimension, with or without gaps, or None where it has none.
    statics
        Variables and coordinates without sample or member dimension: mask, area, volumes, level labels.
    kept
        Names of statics that are saved with the layout, besides mask, area and coordinates.
    hollow
        Whether the statics hold ones, until the arrays of a saved layout arrive.
    """

    spec: FieldSpec
    space: tuple[str, ...]
    shape: tuple[int, ...]
    variables: Mapping[str, Variable]
    step: TimeStep | None
    statics: xr.Dataset
    kept: tuple[str, ...] = ()
    hollow: bool = False

    @classmethod
    def of(cls, spec: FieldSpec, ds: xr.Dataset) -> Layout:
        """Bind *spec* to *ds*; see :meth:`FieldSpec.bind`."""
        ds = calendar.complete(ds, spec.inputs, spec.sample_dim)
        variables: dict[str, Variable] = {}
        if spec.sample_dim in ds.coords:
            check_axis(ds[spec.sample_dim], "FieldSpec")
        step = usual_step(ds[spec.sample_dim]) if spec.sample_dim in ds.coords else None
        spec = spec.in_steps(step)
        samples = {spec.sample_dim, *spec.members}  # type: ignore[misc]
        _check_dimensions(spec, ds)
        fields = {n: grid.variable(ds, n, role[:-1]) for role in ("inputs", "targets") for n in getattr(spec, role)}
        for name, da in fields.items():
            if not (np.issubdtype(da.dtype, np.number) or da.dtype == bool):
                raise TypeError(
                    describe(
                        f"{name!r} is not numeric",
                        expected="floats, integers or booleans",
                        received=da.dtype,
                        remedy=f"convert it: ds[{name!r}].astype('float32')",
                    )
                )
            if name in spec.targets and spec.sample_dim not in da.dims:
                raise ValueError(_no_sample_dim(spec.sample_dim, name, da))
            variables[name] = _variable(da, spec)
        moving = [n for n, da in fields.items() if spec.sample_dim in da.dims]
        if not moving:
            raise ValueError(_no_sample_dim(spec.sample_dim, spec.inputs[0], ds[spec.inputs[0]]))
        flat = {n: tuple(str(d) for d in da.dims if d not in {*samples, *spec.levels}) for n, da in fields.items()}  # type: ignore[misc]
        first = max(moving, key=lambda n: len(flat[n]))  # a series of numbers, such as the month, lies nowhere
        space = flat[first]
        for name, here in flat.items():
            if not set(here) <= set(space):
                raise ValueError(
                    describe(
                        f"{name!r} does not lie on the grid of the other variables",
                        expected=f"space dimensions {space}, as {first!r} has",
                        received=f"{here} with sizes {dict(ds[name].sizes)}",
                        remedy="interpolate it to the same cells, or name other dimensions in levels or members",
                    )
                )
        statics = ds.drop_vars([n for n, v in ds.variables.items() if samples & set(v.dims)])
        for dim, labels in spec.levels.items():  # type: ignore[union-attr]
            if labels is not None and dim in statics.dims:
                statics = (
                    statics.sel({dim: list(labels)}) if dim in statics.coords else statics.isel({dim: list(labels)})
                )
        for what in ("mask", "area"):
            if (name := getattr(spec, what)) is not None:
                _check_static(grid.variable(ds, name, what), what, {*space, *spec.levels})  # type: ignore[misc]
        return cls(
            spec=spec,
            space=space,
            shape=tuple(int(ds.sizes[d]) for d in space),
            variables=variables,
            step=step,
            statics=statics,
        )

    def channels(self, role: Role) -> tuple[Channel, ...]:
        """Return the channels of one role, in the order of the tensor."""
        found = []
        for name in getattr(self.spec, role):
            levels = self.variables[name].levels
            labels = [dict(zip(levels, at, strict=True)) for at in itertools.product(*levels.values())]
            found += [Channel(name, o, at) for o in self.spec.offsets(role, name) for at in labels]
        return tuple(found)

    @property
    def inputs(self) -> tuple[Channel, ...]:
        """Channels of the input tensor."""
        return self.channels("inputs")

    @property
    def targets(self) -> tuple[Channel, ...]:
        """Channels of the target tensor."""
        return self.channels("targets")

    @property
    def members(self) -> tuple[str, ...]:
        """Dimensions whose entries are samples too."""
        return tuple(self.spec.members or ())

    @property
    def series(self) -> bool:
        """Whether the targets lie nowhere on the grid: an index, the regime of a day."""
        return not any(set(self.space) & set(self.variables[n].dims) for n in self.spec.targets)

    def split(self, tensor: Any, role: Role) -> dict[str, Any]:
        """Return the parts ``[..., offset and level]`` of a tensor ``[..., channel]`` by variable."""
        return {n: tensor[..., self.where(role, n)] for n in getattr(self.spec, role)}

    def where(self, role: Role, name: str, offset: int | None = None) -> slice:
        """Return the slice of channels that a variable takes, at one offset or at all."""
        found = [i for i, c in enumerate(self.channels(role)) if c.name == name and offset in (None, c.offset)]
        if not found:
            raise KeyError(
                describe(
                    f"{name!r} at offset {offset} is not among the {role}",
                    expected=", ".join(str(c) for c in self.channels(role)),
                    received=f"{name!r}",
                    remedy=f"add it to the {role} of the FieldSpec",
                )
            )
        return slice(found[0], found[-1] + 1)

    def units(self, name: str) -> str | None:
        """Return the units of a variable, or None."""
        return self.variables[name].attrs.get("units")

    def static(self, source: str | xr.DataArray, name: str | None = None) -> np.ndarray:
        """Return a field without sample dimension as ``[*space, depth]`` float64, broadcast to the levels of *name*."""
        da = grid.variable(self.statics, source, "static field") if isinstance(source, str) else source
        levels = self.variables[name].levels if name is not None else {}
        allowed = {*self.space, *levels}
        if not set(da.dims) <= allowed:
            raise ValueError(
                describe(
                    f"static field {da.name!r} has other dimensions than the grid",
                    expected=f"a subset of {sorted(allowed)}",
                    received=da.dims,
                    remedy="select or interpolate it to the grid of the fields",
                )
            )
        for dim, labels in levels.items():
            if dim in da.dims and dim in da.coords:
                da = da.sel({dim: list(labels)})
        sizes = dict(zip(self.space, self.shape, strict=True)) | {d: len(v) for d, v in levels.items()}
        wrong = {str(d): (sizes[str(d)], n) for d, n in da.sizes.items() if sizes[str(d)] != n}
        if wrong:
            raise ValueError(
                describe(
                    f"static field {da.name!r} has another size than the grid",
                    expected={d: v[0] for d, v in wrong.items()},
                    received={d: v[1] for d, v in wrong.items()},
                    remedy="select the same region as the fields",
                )
            )
        whole = da.variable.set_dims(sizes).transpose(*self.space, *levels)
        return np.array(whole.values, dtype="float64").reshape(*self.shape, -1)

    def valid(self, role: Role) -> np.ndarray:
        """Return the valid cells, ``[*space, channel]`` booleans."""
        channels = self.channels(role)
        if self.spec.mask is None:
            return np.ones((*self.shape, len(channels)), dtype=bool)
        parts = []
        mask = grid.variable(self.statics, self.spec.mask, "mask")
        mask = (mask != 0) & mask.notnull()
        for name in getattr(self.spec, role):
            # A field without levels under a mask with levels is valid where any level is: the surface above the sea bed.
            foreign = [d for d in mask.dims if d not in self.space and d not in self.variables[name].levels]
            here = self.static(mask.any(foreign), name)
            here = np.broadcast_to(here != 0, (*self.shape, self.variables[name].depth))
            parts += [here] * len(self.spec.offsets(role, name))
        return np.concatenate(parts, axis=-1)

    @property
    def weights(self) -> np.ndarray:
        """Area of the cells ``[*space]`` (1 without area), zero where no target is valid; float64."""
        area = np.ones(self.shape) if self.spec.area is None else self.static(self.spec.area)[..., 0]
        area = np.where(self.valid("targets").any(-1), area, 0.0)
        if not np.isfinite(area).all() or (area < 0).any():
            raise ValueError(
                describe(
                    f"area {self.spec.area!r} is not a weight",
                    expected="finite and >= 0 on every valid cell",
                    received=f"{int((~np.isfinite(area)).sum())} missing, {int((area < 0).sum())} negative",
                    remedy="correct the area, or mask those cells",
                )
            )
        return area

    def samples(self, ds: xr.Dataset, role: Role | None = None) -> range:
        """Return the positions along the sample dimension whose whole window lies inside *ds*."""
        low, high = self.spec.window(role)
        n = ds.sizes[self.spec.sample_dim]
        return range(max(0, -low), max(max(0, -low), n - max(0, high)))

    def check(self, ds: xr.Dataset, role: Role, *, whole_window: bool = False, gaps: bool = False) -> None:
        """Refuse a Dataset that does not fit: names, dimensions, sizes, units, coordinates, time axis.

        The axis must have a constant step where offsets are counted along it: those of the role, or of the *whole_window*;
        with *gaps*, steps may be missing.

        Raises
        ------
        KeyError, ValueError
            Naming what differs from the Dataset the layout was bound to.
        """
        _matching.check(self, ds, role, whole_window=whole_window, gaps=gaps)

    def pack(self, ds: xr.Dataset, role: Role, *, whole_window: bool = False) -> xr.DataArray:
        """Return the variables of one role as one array with a channel dimension, lazily where *ds* is lazy.

        Parameters
        ----------
        ds
            Data like those the layout was bound to.
        role
            ``"inputs"`` or ``"targets"``.
        whole_window
            Keep only samples for which inputs and targets both lie in *ds*.

        Returns
        -------
        xarray.DataArray
            ``[*members, sample, *space, channel]``; the sample coordinate is that of offset 0. Missing values stay NaN.

        Raises
        ------
        KeyError, ValueError
            Where *ds* does not fit the layout, or holds no whole window.
        """
        return _packing.pack(self, ds, role, whole_window=whole_window)

    def unpack(self, array: xr.DataArray, role: Role = "targets", *, predicted: bool = False) -> xr.Dataset:
        """Return the named variables of an array made by :meth:`pack`, or of a prediction in its place.

        Parameters
        ----------
        array
            ``[*members, sample, *space, channel]``.
        role
            ``"inputs"`` or ``"targets"``.
        predicted
            For the output of a network: masked cells become NaN and integer variables stay floats.

        Returns
        -------
        xarray.Dataset
            Variables with their dimensions, types, attributes and levels. With one offset the sample coordinate is the
            time the field is valid at; with several there is a dimension ``lead`` and a coordinate ``valid_time``.
        """
        return _packing.unpack(self, array, role, predicted=predicted)

    def plain(self) -> Layout:
        """Return the same layout with targets at offset 0: for fields that carry the time they are valid at."""
        return replace(self, spec=replace(self.spec, target_offsets=(0,)))

    def keep(self, fields: Mapping[str, xr.DataArray]) -> Layout:
        """Return the same layout with static *fields* saved along with it, in memory."""
        added = {n: v.reset_coords(drop=True).compute() for n, v in fields.items()}
        kept = tuple(sorted({*self.kept, *added}))
        return replace(self, statics=self.statics.drop_vars(list(added), errors="ignore").assign(added), kept=kept)

    def load(self) -> Layout:
        """Return the same layout with mask, area and coordinates in memory; fields of samples are left alone."""
        kept = self._kept()
        return replace(self, statics=self.statics.assign({n: v.compute() for n, v in kept.items()}))

    def to_config(self) -> dict[str, Any]:
        """Return plain values that, with :meth:`arrays`, make the same layout again."""
        return {
            "spec": self.spec.to_config(),
            "space": list(self.space),
            "shape": list(self.shape),
            "variables": {
                n: {
                    "dims": list(v.dims),
                    "dtype": v.dtype,
                    "attrs": _plain(v.attrs),
                    "levels": {d: list(labels) for d, labels in v.levels.items()},
                }
                for n, v in self.variables.items()
            },
            "step": None if self.step is None else self.step.to_config(),
            "kept": list(self.kept),
            "arrays": {
                n: {
                    "dims": [str(d) for d in v.dims],
                    "shape": list(v.shape),
                    "dtype": str(v.dtype),
                    "attrs": _plain(v.attrs),
                }
                for n, v in self._kept().items()
            },
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that belong to the layout: mask, area, coordinates of space and levels."""
        return {n: np.asarray(v.values) for n, v in self._kept().items()}

    def _kept(self) -> dict[str, xr.DataArray]:
        allowed = {*self.space, *(d for v in self.variables.values() for d in v.levels)}
        names = {n for n in (self.spec.mask, self.spec.area, *self.kept) if n is not None}
        names |= {str(n) for n, c in self.statics.coords.items() if set(c.dims) <= allowed}
        return {n: self.statics[n] for n in sorted(names) if self.statics[n].dtype.kind in "biuf"}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> Layout:
        """Return the layout that :meth:`to_config` and :meth:`arrays` describe."""
        stored = {}
        for n, meta in config["arrays"].items():
            values = np.ones(meta["shape"], meta["dtype"]) if arrays is None else np.asarray(arrays[n], meta["dtype"])
            stored[n] = xr.Variable(meta["dims"], values.reshape(meta["shape"]), meta["attrs"])
        for v in config["variables"].values():
            for dim, labels in v["levels"].items():
                # Names of levels are no arrays to store; numbers are, and come later when only the configuration is there.
                if (dim not in stored and isinstance(labels[0], str)) or (dim in stored and arrays is None):
                    stored[dim] = xr.Variable(dim, labels, stored[dim].attrs if dim in stored else None)
        spec = FieldSpec(**config["spec"])
        data = {n: v for n, v in stored.items() if n in (spec.mask, spec.area, *config["kept"])}
        return cls(
            spec=spec,
            space=tuple(config["space"]),
            shape=tuple(config["shape"]),
            variables={
                n: Variable(tuple(v["dims"]), v["dtype"], v["attrs"], {d: tuple(x) for d, x in v["levels"].items()})
                for n, v in config["variables"].items()
            },
            step=None if config["step"] is None else TimeStep(**config["step"]),
            statics=xr.Dataset(data, {n: v for n, v in stored.items() if n not in data}),
            kept=tuple(config["kept"]),
            hollow=arrays is None,
        )


def _variable(da: xr.DataArray, spec: FieldSpec) -> Variable:
    levels: dict[str, tuple[Any, ...]] = {}
    for dim, wanted in spec.levels.items():  # type: ignore[union-attr]
        if dim not in da.dims:
            continue
        have = da[dim].values.tolist() if dim in da.coords else list(range(da.sizes[dim]))
        missing = [w for w in wanted or () if w not in have]
        if missing:
            raise ValueError(
                describe(
                    f"{da.name!r} has no level {missing[0]!r} along {dim!r}",
                    expected=f"labels among {have}",
                    received=missing,
                    remedy="use the labels of the data, or ds.interp(...) to the levels wanted",
                )
            )
        levels[str(dim)] = tuple(have) if wanted is None else tuple(wanted)
    return Variable(tuple(str(d) for d in da.dims), str(da.dtype), dict(da.attrs), levels)


def _check_dimensions(spec: FieldSpec, ds: xr.Dataset) -> None:
    for what in ("levels", "members"):
        for dim in getattr(spec, what):
            if dim not in ds.dims and dim not in ds.coords:
                raise ValueError(
                    describe(
                        f"{what} name {dim!r}, which is no dimension of the data{closest(dim, ds.dims)}",
                        expected=f"among {sorted(str(d) for d in ds.dims)}",
                        received=repr(dim),
                        remedy=f"correct {what}=..., or leave it out",
                    )
                )


def _no_sample_dim(sample_dim: str, name: str, da: xr.DataArray) -> str:
    return describe(
        f"{name!r} has no dimension {sample_dim!r} to draw samples from",
        expected=f"a dimension {sample_dim!r}",
        received=tuple(da.dims),
        remedy="pass sample_dim=..., or ds.expand_dims(...)",
    )


def _check_static(da: xr.DataArray, what: str, allowed: set[str]) -> None:
    strange = sorted(str(d) for d in set(da.dims) - allowed)
    if strange:
        raise ValueError(
            describe(
                f"{what} {da.name!r} varies along {strange}",
                expected=f"dimensions among {sorted(allowed)}",
                received=tuple(da.dims),
                remedy="give one field for all samples, for example physml.grid.finite_mask(...)",
            )
        )


def _plain(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as JSON can hold them."""
    return {str(k): v.tolist() if isinstance(v, np.ndarray | np.generic) else v for k, v in attrs.items()}
