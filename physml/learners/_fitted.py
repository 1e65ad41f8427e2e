"""What all learners share: bound to a layout when they are fitted, they answer rows of inputs, label them, and are saved."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import xarray as xr

from physml import _packing, calendar, provenance
from physml._errors import describe
from physml.data._assemble import fill_masked
from physml.data.split import refuse_judges
from physml.fields import FieldSpec, Role
from physml.heads._answers import answering
from physml.layout import Layout

LEARNERS: dict[str, type[Fitted]] = {}
"""Learners by the name that saved files use; a subclass of :class:`Fitted` is known once it is defined."""

State = dict[str, np.ndarray]


class Fitted:
    """A learner on labelled fields; subclasses say what is learned and what is answered.

    Parameters
    ----------
    spec
        What it reads and predicts.
    name
        What it is called in histories and figures; by default the name of its class.

    Attributes
    ----------
    state
        What was learned, as arrays by name; empty before :meth:`fit`.
    provenance
        What is remembered of its making: version, time, digest of its arguments, first and last time of the training data.
    """

    arguments: ClassVar[tuple[str, ...]] = ()
    """Names of the arguments besides spec and name; each is an attribute."""

    def __init_subclass__(cls, *, kind: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not kind:  # of learners, not a learner itself
            LEARNERS[cls.__name__] = cls

    def __init__(self, spec: FieldSpec, name: str | None = None) -> None:
        self.spec = spec
        self.name = name or type(self).__name__
        self.state: State = {}
        self.provenance: Mapping[str, str] = {}
        self.calendar = "standard"
        self.token = uuid.uuid4().hex
        self._layout: Layout | None = None

    @property
    def layout(self) -> Layout:
        """Layout of the data it was fitted to.

        Raises
        ------
        RuntimeError
            Before :meth:`fit`.
        """
        if self._layout is None:
            raise RuntimeError(
                describe(
                    f"{self.name} is not fitted",
                    expected="a learner that has seen training data",
                    received=f"{type(self).__name__} as it was made",
                    remedy="learner.fit(train) first, or physml.learners.load(path)",
                )
            )
        return self._layout

    @property
    def answers(self) -> Layout:
        """Layout of what it answers: the targets, and what it knows of their spread."""
        return self.layout

    def extra_inputs(self, layout: Layout) -> tuple[str, ...]:
        """Return parts of the date that it reads besides the inputs of the spec."""
        return ()

    def date_offsets(self) -> tuple[int, ...]:
        """Return the offsets whose dates are asked for: by default those of the targets."""
        return tuple(self.layout.spec.offsets("targets", self.layout.spec.targets[0]))

    def needed(self) -> tuple[str, ...]:
        """Return the inputs that it reads; the others are not touched."""
        return tuple(self.layout.spec.inputs)

    def learn(self, train: xr.Dataset) -> None:
        """Fill :attr:`state` from training data; :attr:`layout` is bound."""
        raise NotImplementedError

    def rows(self, x: np.ndarray) -> np.ndarray:
        """Return the answers to inputs ``[row, *space, input channel]``.

        Returns
        -------
        numpy.ndarray
            ``[row, *space, answer channel]``; ``[row, answer channel]`` where the targets lie nowhere on the grid.
        """
        raise NotImplementedError

    def fit(self, train: xr.Dataset) -> Self:
        """Fit to training data, read chunk by chunk.

        Raises
        ------
        KeyError, ValueError
            For parts of a split that are for validation or test, variables that are missing, an empty selection, and values
            missing on valid cells.
        """
        refuse_judges(train)
        dim = self.spec.sample_dim
        if dim in train.dims and train.sizes[dim] == 0:
            raise ValueError(
                describe(
                    f"{self.name}: the training data are empty",
                    expected=f"one sample or more along {dim!r}",
                    received="none",
                    remedy="correct the selection",
                )
            )
        layout = self.spec.bind(train)
        if extra := [n for n in self.extra_inputs(layout) if n not in layout.spec.inputs]:
            layout = _with_inputs(self.spec, extra).bind(train)
        before = self._layout, self.state, self.calendar, self.token
        self._layout, self.state, self.token = _slim(layout.load()), {}, uuid.uuid4().hex
        if is_dated(train, dim):
            self.calendar = str(train[dim].dt.calendar)
        roles: tuple[Role, Role] = ("inputs", "targets")
        try:
            for role in roles:
                self._layout.check(train, role, whole_window=True, gaps=True)
            self.learn(train)
        except BaseException:
            # What was fitted before still stands.
            self._layout, self.state, self.calendar, self.token = before
            raise
        ends = np.asarray(train[dim].values[[0, -1]]).astype(str).tolist() if dim in train.coords else []
        period = {"period": f"{ends[0]} to {ends[1]}"} if ends else {}
        self.provenance = provenance.record(self.to_config(), learner=type(self).__name__, **period)
        return self

    def predict(self, ds: xr.Dataset) -> xr.Dataset:
        """Predict the targets for every sample of a Dataset.

        Parameters
        ----------
        ds
            Data with the inputs; targets are not needed.

        Returns
        -------
        xarray.Dataset
            As :func:`physml.predict` returns it: named, with units, at the time the fields are valid at (with several target
            offsets: on ``lead``, with ``valid_time``), missing on masked cells. Lazy where *ds* is lazy.

        Raises
        ------
        KeyError, ValueError
            Where the data do not fit; on computing, where inputs that are read are missing on valid cells.
        """
        layout, answers = self.layout, self.answers
        packed = layout.pack(self._unread(ds), "inputs")
        function = _Rows(self)
        lost = layout.series
        out = _packing.map_samples(
            function, [packed], layout.space, len(answers.targets), np.float64, reduce=lost and bool(layout.space)
        )
        fields = (_nowhere(answers) if lost else answers).unpack(out, "targets", predicted=True)
        return provenance.stamp(
            self.dressed(fields).assign_attrs(ds.attrs),
            f"predict with {self.name}",
            {f"model_{k.removeprefix('physml_')}": v for k, v in self.provenance.items()},
        )

    def dressed(self, fields: xr.Dataset) -> xr.Dataset:
        """Return predictions in their last form."""
        return fields

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file that runs no code when it is read; see :func:`physml.learners.load`."""
        from physml.learners._files import save

        save(self, path)

    def to_config(self) -> dict[str, Any]:
        """Return the arguments it is made of, as plain values."""
        return {"spec": self.spec.to_config(), "name": self.name, **{a: getattr(self, a) for a in self.arguments}}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a learner as :meth:`to_config` describes it, not fitted."""
        rest = {k: v for k, v in config.items() if k != "spec"}
        return cls(FieldSpec(**config["spec"]), **rest)

    def files(self) -> dict[str, bytes]:
        """Return what is saved besides :attr:`state`, by the name of a file."""
        return {}

    def restore(self, files: Mapping[str, bytes]) -> None:
        """Take back what :meth:`files` gave."""

    def _unread(self, ds: xr.Dataset) -> xr.Dataset:
        """Return a Dataset in which the inputs that are not read are zero, and cost nothing."""
        ds = calendar.complete(ds, self.layout.spec.inputs, self.layout.spec.sample_dim)
        idle = [n for n in self.layout.spec.inputs if n not in self.needed() and n in ds.variables]
        return ds.assign({n: _nothing(ds[n]) for n in idle}) if idle else ds

    def inputs_of(self, x: np.ndarray) -> np.ndarray:
        """Return inputs ``[row, *space, input channel]`` with 0 on masked cells, refusing values missing on valid ones."""
        return fill_masked(x, self._valid(), self.layout, "inputs")

    def _valid(self) -> np.ndarray:
        valid = self.layout.valid("inputs").copy()
        for name in self.layout.spec.inputs:
            if name not in self.needed():
                valid[..., self.layout.where("inputs", name)] = False
        return valid


class _Rows:
    """The rows of a learner as a function that dask knows by the fit behind it."""

    def __init__(self, learner: Fitted) -> None:
        self.learner = learner

    def __call__(self, x: np.ndarray) -> np.ndarray:
        y = self.learner.rows(self.learner.inputs_of(x))
        if y.ndim == 2 and x.ndim > 2:  # one value for a whole map
            return y.reshape(len(y), *(1 for _ in x.shape[1:-1]), y.shape[-1])
        return y

    def __dask_tokenize__(self) -> Any:
        return type(self.learner).__name__, self.learner.token


def is_dated(ds: xr.Dataset, dim: str) -> bool:
    """Return whether a Dataset has dates along a dimension."""
    return isinstance(ds.indexes.get(dim), pd.DatetimeIndex | xr.CFTimeIndex)


def _nothing(da: xr.DataArray) -> xr.DataArray:
    import dask.array as dsa

    chunks = da.chunks if da.chunks is not None else -1
    if da.chunks is None and da.variable._in_memory:
        return da.copy(data=np.broadcast_to(np.zeros((), da.dtype), da.shape))
    return da.copy(data=dsa.zeros(da.shape, dtype=da.dtype, chunks=chunks))


def _with_inputs(spec: FieldSpec, extra: list[str]) -> FieldSpec:
    """Return a spec with parts of the date among its inputs, at offset 0."""
    offsets = {n: spec.offsets("inputs", n) for n in spec.inputs} | dict.fromkeys(extra, (0,))
    return replace(spec, inputs=(*spec.inputs, *extra), input_offsets=offsets)


def _slim(layout: Layout) -> Layout:
    """Return a layout that holds no more of the training data than is saved with it."""
    kept = set(layout._kept())
    return replace(layout, statics=layout.statics.drop_vars([n for n in layout.statics.data_vars if n not in kept]))


def _nowhere(layout: Layout) -> Layout:
    """Return the layout of numbers that lie nowhere on the grid."""
    dims = [d for d in layout.statics.dims if d in layout.space]
    return replace(
        layout,
        spec=replace(layout.spec, mask=None, area=None),
        space=(),
        shape=(),
        statics=layout.statics.drop_dims(dims),
    )


def with_spread(layout: Layout) -> Layout:
    """Return the layout of targets and their standard deviations, ``NAME_std``."""
    found = {n: layout.variables[n] for n in layout.spec.targets}
    for n in layout.spec.targets:
        known = layout.variables[n]
        attrs = {"long_name": f"standard deviation of {known.attrs.get('long_name', n)}"}
        if units := known.attrs.get("units"):
            attrs["units"] = units
        found[f"{n}_std"] = replace(known, attrs=attrs)
    return answering(layout, found, who="learner")
