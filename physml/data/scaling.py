"""Scaling: what is subtracted from every variable and level and what it is divided by, from one pass over the training data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from physml import calendar, grid
from physml._errors import describe
from physml.data import _fitting
from physml.data._methods import Choice, Method, choose
from physml.data.split import refuse_judges
from physml.fields import FieldSpec, Role
from physml.layout import Layout
from physml.timeaxis import as_label, check_axis

Numbers = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Scaling:
    """Offsets and scales of the variables: the network sees ``(T(x) - mean) / std``.

    Attributes
    ----------
    layout
        Layout of the data it was fitted to.
    mean, std
        By variable, ``[depth]`` float64, over valid cells and all samples: mean and standard deviation, or what the method
        of the variable has in their place (least value and range, median and interquartile range), of transformed values
        where it has a transform T.
    increment
        By target that is also an input: standard deviation of the change of T(x) from offset 0 to each target offset,
        ``[offset, depth]``. Without a transform that is the change in physical units; with a logarithm it is growth.
    methods
        The method of every variable; those not named are standardised.
    monthly
        For statistics by calendar month: ``mean`` and ``std`` by variable, ``[12, offset, depth]`` with the offsets of inputs
        and targets in order, and ``increment``, ``[12, target offset, depth]``. None: the same all year.
    period
        First and last label of the samples it was fitted to.

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
    methods: Mapping[str, Method] = field(default_factory=dict)
    monthly: Mapping[str, Numbers] | None = None
    period: tuple[Any, Any] | None = None

    @classmethod
    def fit(
        cls,
        train: xr.Dataset,
        spec: FieldSpec | Layout,
        *,
        method: Choice | Mapping[str, Choice] = "standard",
        by: str | None = None,
        period: tuple[Any, Any] | None = None,
        progress: bool = False,
    ) -> Scaling:
        """Fit to training data in one pass, whatever their size.

        Parameters
        ----------
        train
            The training part only; the others that :func:`physml.split_time` makes are refused.
        spec
            What the network reads and predicts.
        method
            One name for all variables (parts of the date stay "standard"), or names by variable, "standard" for the others:

            ``"standard"``
                Mean and standard deviation.
            ``"minmax"``
                To [0, 1] over the training data.
            ``"robust"``
                Median and interquartile range. Exact for data in memory and variables of up to 2**24 values. Larger lazy ones
                are read twice more for histograms; each quartile is then known to the range of the variable over 2**33 for up
                to 16 levels (times months), over 2**21 for up to a thousand.
            ``"log:1e-6"``, ``{"method": "log", "eps": 1e-6}``
                log(x + eps), with eps in the units of the variable, then mean and standard deviation. A line below eps; what
                is predicted lies above -eps. ``"log"`` alone is log(x), for values above zero.
            ``"sqrt"``
                sign(x) sqrt(abs(x)), then mean and standard deviation; a line within 1e-4 of a standard deviation of zero.
            ``"none"``
                As it is; it need not vary. So are targets that are classes, whatever is said: booleans, and variables with the
                attribute flag_values.
        by
            ``"month"``: statistics by calendar month of the sample (the date at offset 0), for every variable, offset and
            level; static fields and parts of the date keep those of all year. The model reads the month from the input
            ``"time.month"``.
        period
            First and last label, such as ``("1960", "1989")``: other times are left out.
        progress
            Show a bar on a terminal.

        Raises
        ------
        ValueError
            For values missing on valid cells or outside the domain of a transform, for variables that never vary, for months
            without a sample, for data that are for validation or test, and where a period holds no time.
        """
        known = spec.spec if isinstance(spec, Layout) else spec
        dim = known.sample_dim
        refuse_judges(train)
        if period is not None:
            train = _within(train, dim, period)
        _check_by(by, known)
        train = calendar.complete(train, known.inputs, dim)
        layout = (spec if isinstance(spec, Layout) else spec.bind(train)).load()
        roles: tuple[Role, ...] = ("inputs", "targets")
        for role in roles:
            layout.check(train, role, whole_window=True, gaps=True)
        names = list(dict.fromkeys([*known.inputs, *known.targets]))
        methods = choose(method, names, calendar.virtual(names, dim)) | {n: Method("none") for n in _classes(layout)}
        months = None if by is None else train[dim].dt.month.values
        fitted = _fitting.fit(layout, train, methods, months, progress)
        mean, std, increment, monthly = fitted
        return cls(layout, mean, std, increment, methods, monthly, _ends(train, dim))

    @classmethod
    def identity(cls, layout: Layout) -> Scaling:
        """Return the scaling that changes nothing: mean 0, standard deviation 1."""
        zero = {n: np.zeros(v.depth) for n, v in layout.variables.items()}
        one = {n: np.ones(v.depth) for n, v in layout.variables.items()}
        change = {
            n: np.ones((len(layout.spec.offsets("targets", n)), layout.variables[n].depth))
            for n in layout.spec.targets
            if _fitting.has_increment(layout, n)
        }
        return cls(layout, zero, one, change)

    @property
    def by(self) -> str | None:
        """``"month"``, or None."""
        return None if self.monthly is None else "month"

    def method(self, name: str) -> Method:
        """Return the method of a variable."""
        return self.methods.get(name, Method())

    def vector(self, what: str, role: Role) -> np.ndarray:
        """Return ``"mean"``, ``"std"`` or ``"increment"`` for every channel of a role, over all months; float64."""
        parts = []
        for name in getattr(self.layout.spec, role):
            if what == "increment" and name not in self.increment:
                raise ValueError(
                    describe(
                        f"increment: {name!r} has no change from inputs to targets to predict",
                        expected="a target that is also an input at offset 0, at other target offsets, and that changes",
                        received=f"inputs {self.layout.spec.inputs}, target offsets {self.layout.spec.target_offsets}",
                        remedy="add it to the inputs, or pass increment=False",
                    )
                )
            once = getattr(self, what)[name]
            parts.append(
                once.reshape(-1) if what == "increment" else np.tile(once, len(self.layout.spec.offsets(role, name)))
            )
        return np.concatenate(parts)

    def table(self, what: str, role: Role) -> np.ndarray:
        """Return the same by month, ``[12, channel]``; variables without statistics by month have those of all year."""
        whole = np.tile(self.vector(what, role), (12, 1))
        for name in getattr(self.layout.spec, role):
            if self.monthly is None or name not in self.monthly[what]:
                continue
            found = self.monthly[what][name]
            if what != "increment":
                every = _fitting.offsets(self.layout, name)
                found = found[:, [every.index(o) for o in self.layout.spec.offsets(role, name)]]
            whole[:, self.layout.where(role, name)] = found.reshape(12, -1)
        return whole

    def to_config(self) -> dict[str, Any]:
        """Return plain values; the layout is not among them."""
        return {
            **{what: _lists(getattr(self, what)) for what in ("mean", "std", "increment")},
            "methods": {n: m.to_config() for n, m in self.methods.items()},
            "monthly": None if self.monthly is None else {what: _lists(v) for what, v in self.monthly.items()},
            "period": None if self.period is None else list(self.period),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], layout: Layout) -> Scaling:
        """Return the scaling that :meth:`to_config` describes."""
        monthly, period = config["monthly"], config["period"]
        return cls(
            layout,
            _arrays(config["mean"]),
            _arrays(config["std"]),
            _arrays(config["increment"]),
            methods={n: Method(**m) for n, m in config["methods"].items()},
            monthly=None if monthly is None else {what: _arrays(v) for what, v in monthly.items()},
            period=None if period is None else (period[0], period[1]),
        )


def _lists(numbers: Numbers) -> dict[str, Any]:
    return {n: np.asarray(v).tolist() for n, v in numbers.items()}


def _arrays(lists: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {n: np.asarray(v, "float64") for n, v in lists.items()}


def _check_by(by: str | None, spec: FieldSpec) -> None:
    if by not in (None, "month"):
        raise ValueError(
            describe(
                "Scaling.fit: by is not understood",
                expected="None or 'month'",
                received=repr(by),
                remedy="pass by='month'",
            )
        )
    name = f"{spec.sample_dim}.month"
    if by == "month" and (name not in spec.inputs or 0 not in spec.offsets("inputs", name)):
        raise ValueError(
            describe(
                "Scaling.fit by month: the model cannot tell the month of a sample",
                expected=f"{name!r} among the inputs, at offset 0",
                received=f"inputs {', '.join(spec.inputs)}",
                remedy=f"FieldSpec(inputs=[..., {name!r}]); physml takes it from the dates",
            )
        )


def _classes(layout: Layout) -> list[str]:
    """Return the targets that are classes and no inputs."""
    flagged = [n for n in layout.spec.targets if n not in layout.spec.inputs]
    return [n for n in flagged if layout.variables[n].dtype == "bool" or "flag_values" in layout.variables[n].attrs]


def _within(ds: xr.Dataset, dim: str, period: tuple[Any, Any]) -> xr.Dataset:
    """Return the times from the first to the last label of a period."""
    check_axis(grid.variable(ds, dim, "sample coordinate"), "Scaling.fit")
    index = ds.indexes[dim]
    try:
        first, last = period
        at = index.slice_indexer(as_label(index, first), as_label(index, last))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            describe(
                "Scaling.fit: period does not fit the axis",
                expected=f"first and last label of type {np.asarray(index[:1]).dtype}",
                received=period,
                remedy="period=('1960', '1989') for dates, numbers for numbers",
            )
        ) from error
    part = ds.isel({dim: at})
    if part.sizes[dim] == 0:
        raise ValueError(
            describe(
                "Scaling.fit: period holds no time of the data",
                expected=f"labels between {index[0]} and {index[-1]}",
                received=period,
                remedy="correct the period",
            )
        )
    return part


def _ends(ds: xr.Dataset, dim: str) -> tuple[Any, Any] | None:
    """Return the first and last label, as text or number."""
    if dim not in ds.coords or ds[dim].ndim != 1:
        return None
    ends = ds[dim][[0, -1]]
    dates = ends.dtype.kind == "M" or isinstance(ends.to_index(), xr.CFTimeIndex)
    values = ends.dt.strftime("%Y-%m-%dT%H:%M:%S").values.tolist() if dates else ends.values.tolist()
    first, last = (v if isinstance(v, int | float | str) else str(v) for v in values)
    return first, last
