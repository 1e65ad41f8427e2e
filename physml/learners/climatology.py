"""Climatology: every forecast is the mean of its month, its day of the year, or of all years."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from physml._errors import describe, is_count
from physml.fields import FieldSpec
from physml.layout import Layout
from physml.learners import _blocks, _cycle, _points
from physml.learners._fitted import Fitted, State, with_spread

_MONTHS = "January February March April May June July August September October November December".split()


class Climatology(Fitted):
    """The mean of the training data at the same time of the year, and how much single years depart from it.

    Parameters
    ----------
    spec
        What is predicted; of the inputs nothing but the dates is read.
    by
        ``"month"``, ``"dayofyear"``, or None for one mean of all times. It is the date a field is valid at that counts.
    days
        Days of the year averaged together, centred on each: an odd number, for ``by="dayofyear"``.
    spread
        Answer the standard deviation of a new year about the mean too, ``NAME_std``: that of the training years times
        ``sqrt(1 + 1/n)``, for a mean that is known from *n* values only.
    name
        What it is called.

    Examples
    --------
    >>> ds = xr.Dataset({"t": ("time", np.arange(24.0))}, {"time": xr.date_range("2000-01-01", periods=24, freq="MS")})
    >>> Climatology(FieldSpec("t", "t", target_offsets=1), by="month").fit(ds).predict(ds).t.values[:2]
    array([7., 8.])
    """

    arguments = ("by", "days", "spread")

    def __init__(
        self, spec: FieldSpec, by: str | None = "month", *, days: int = 1, spread: bool = False, name: str | None = None
    ) -> None:
        super().__init__(spec, name)
        _cycle.check_by(by)
        if not is_count(days) or days % 2 == 0 or (days > 1 and by != "dayofyear"):
            raise ValueError(
                describe(
                    "Climatology: days does not fit",
                    expected="an odd number of days, with by='dayofyear'",
                    received=f"days={days}, by={by!r}",
                    remedy="days=31, by='dayofyear'",
                )
            )
        self.by, self.days, self.spread = by, int(days), bool(spread)

    @property
    def answers(self) -> Layout:
        """Layout of means and, with spread, standard deviations."""
        return with_spread(self.layout) if self.spread else self.layout

    def extra_inputs(self, layout: Layout) -> tuple[str, ...]:
        """Return the parts of the date."""
        return _cycle.names(layout, self.by, layout.spec.offsets("targets", layout.spec.targets[0]))

    def needed(self) -> tuple[str, ...]:
        """Return the parts of the date."""
        return self.extra_inputs(self.layout)

    def learn(self, train: xr.Dataset) -> None:
        """Find the means."""
        self.state = climate(self.layout, train, self.by, self.days)

    def rows(self, x: np.ndarray) -> np.ndarray:
        """Return the mean of each date, and the standard deviation."""
        mean = expected(self, x)
        if not self.spread:
            return mean
        n, squares = self.state["count"], self.state["squares"]
        n = n.reshape(-1, *(1 for _ in squares.shape[1:]))
        with np.errstate(invalid="ignore", divide="ignore"):
            std = np.where(n > 1, np.sqrt(squares / (n - 1) * (1 + 1 / n)), np.nan)
        return np.concatenate([mean, expected(self, x, std)], axis=-1)


def climate(layout: Layout, ds: xr.Dataset, by: str | None, days: int = 1) -> State:
    """Return the moments of the targets of a layout by group of their own dates.

    Returns
    -------
    dict
        ``count`` ``[group]``; ``mean`` and ``squares``, the sum of squared departures, ``[group, *space, level of each target]``,
        without space for targets that lie nowhere.

    Raises
    ------
    ValueError
        For a group without a sample, and values missing on valid cells.
    """
    values = own_dates(layout, tuple(layout.spec.targets))
    arrays = _blocks.packed(values, ds, ("inputs",), whole_window=False)
    sample = layout.spec.sample_dim
    group, n = np.zeros(arrays[0].sizes[sample], int), 1
    if by is not None:
        group = _cycle.groups_of(arrays[0][sample], by)
        n = _cycle.groups(by, str(arrays[0][sample].dt.calendar))
    found: State = {}
    for piece in _blocks.blocks(arrays, values, ("inputs",)):
        y = _points.targets(values, piece.arrays[0])
        here = group[(piece.start + np.arange(len(y))) % len(group)]
        _add(found, y, here, n)
    if days > 1:
        found = _smooth(found, days // 2)
    away = ~_cycle.reached(layout, by, int(group[0]), n)
    found["mean"][away] = np.inf  # of months that no step comes to; see by_group
    lacking = np.flatnonzero((found["count"] == 0) & ~away)
    if len(lacking):
        what = _MONTHS[lacking[0]] if by == "month" else f"day {lacking[0] + 1} of the year"
        raise ValueError(
            describe(
                f"the climatology has no sample in {what}",
                expected=f"samples in each {'month' if by == 'month' else 'day of the year'}",
                received=f"none in {len(lacking)} of {n}",
                remedy="train on whole years" if by == "month" else "average days together: days=31; or by='month'",
            )
        )
    return found


def expected(learner: Any, x: np.ndarray, table: np.ndarray | None = None, *, now: bool = False) -> np.ndarray:
    """Return the mean, or another *table* by group, for every target channel at its date, or at that of offset 0.

    Returns
    -------
    numpy.ndarray
        ``[row, *space, target channel]``, or ``[row, target channel]``.
    """
    layout = learner.layout
    table = learner.state["mean"] if table is None else table
    spec, values = layout.spec, own_dates(layout, tuple(layout.spec.targets))
    offsets = spec.offsets("targets", spec.targets[0])
    parts = dates(learner, x)
    group = {o: _cycle.ahead(layout, learner.by, parts, 0 if now else o, learner.calendar) for o in offsets}
    out = np.empty((len(x), *table.shape[1:-1], len(layout.targets)))
    for name in spec.targets:
        for o in offsets:
            found = by_group(learner, table, group[o])
            out[..., layout.where("targets", name, o)] = found[..., values.where("inputs", name)]
    return out


def by_group(learner: Any, table: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return the rows of a table by group.

    Raises
    ------
    ValueError
        For days and months that the calendar or the steps of the training data never come to.
    """
    there = np.unique(group)
    if len(there) and there[-1] >= len(table):
        raise ValueError(
            describe(
                f"{learner.name}: the climatology has no day {len(table) + 1} of the year",
                expected=f"dates of the calendar it was fitted to, {learner.calendar!r}",
                received="a longer year",
                remedy=f"ds.convert_calendar({learner.calendar!r})",
            )
        )
    if (strange := [g for g in there if np.isinf(table[g]).any()]) != []:
        raise ValueError(
            describe(
                f"{learner.name}: the climatology has no {_MONTHS[strange[0]]}",
                expected="the months of the training data",
                received=_MONTHS[strange[0]],
                remedy="predict from the same months, or train on all of them",
            )
        )
    found: np.ndarray = table[group]
    return found


def dates(learner: Any, x: np.ndarray) -> np.ndarray:
    """Return the parts of the date of every row, ``[row, part]``."""
    layout = learner.layout
    names = _cycle.names(layout, learner.by, learner.date_offsets())
    at = [layout.where("inputs", n, 0).start for n in names]
    return _points.numbers(layout, "inputs", x, np.array(at, int))


def own_dates(layout: Layout, names: tuple[str, ...]) -> Layout:
    """Return the layout that reads some variables, as inputs and targets alike, at their own dates."""
    spec = replace(layout.spec, inputs=names, targets=names, input_offsets=(0,), target_offsets=(0,))
    return replace(layout, spec=spec)


def _add(found: State, y: np.ndarray, group: np.ndarray, n: int) -> None:
    """Add samples ``[sample, ...]`` to the moments of their groups, in place."""
    if not found:
        found |= {"count": np.zeros(n), "mean": np.zeros((n, *y.shape[1:])), "squares": np.zeros((n, *y.shape[1:]))}
    for g in np.unique(group):
        mine = y[group == g]
        mean = mine.mean(0)
        part = {
            "count": np.array([float(len(mine))]),
            "mean": mean[None],
            "squares": np.square(mine - mean).sum(0)[None],
        }
        for key, value in merged({k: v[g : g + 1] for k, v in found.items()}, part).items():
            found[key][g] = value[0]


def merged(a: State, b: State) -> State:
    """Return the moments of two parts together."""
    wide = (-1, *(1 for _ in a["mean"].shape[1:]))
    n = a["count"] + b["count"]
    share = (b["count"] / np.maximum(n, 1)).reshape(wide)
    step = b["mean"] - a["mean"]
    return {
        "count": n,
        "mean": a["mean"] + share * step,
        "squares": a["squares"] + b["squares"] + step**2 * share * a["count"].reshape(wide),
    }


def _smooth(found: State, half: int) -> State:
    """Return the moments of each day together with those *half* days before and after, around the year."""
    out = found
    for k in [*range(-half, 0), *range(1, half + 1)]:
        out = merged(out, {key: np.roll(value, k, axis=0) for key, value in found.items()})
    return out
