"""What a regression on whole maps reads: components of the fields along their patterns, numbers, and the annual cycle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr

from physml import calendar
from physml._errors import describe
from physml.fields import Role
from physml.layout import Layout
from physml.learners import _blocks, _cycle, _points
from physml.learners._fitted import State
from physml.learners._patterns import patterns
from physml.learners.climatology import by_group, climate, own_dates


class Anomalies:
    """Departures of some variables of one role from their climatology, at the date of every channel.

    Attributes
    ----------
    layout
        That of the learner.
    values
        The layout that reads the variables at their own dates; their climatology is
        ``[group, *space, level of each variable]``, without space where all of them lie nowhere.
    """

    def __init__(self, learner: Any, role: Role, names: tuple[str, ...]) -> None:
        self.layout: Layout = learner.layout
        self.learner, self.role, self.names = learner, role, names
        self.values = own_dates(self.layout, names) if names else None

    def fit(self, ds: xr.Dataset, state: State, key: str) -> None:
        """Add the climatology to a state."""
        if self.values is not None:
            state[f"{key}_mean"] = climate(self.values, ds, self.learner.by)["mean"]

    def of(self, x: np.ndarray, mean: np.ndarray, parts: np.ndarray, name: str, offset: int) -> np.ndarray:
        """Return the departures of a variable at an offset: ``[row, *space, level]`` or ``[row, level]``; 0 on masked cells."""
        layout = self.layout
        at = layout.where(self.role, name, offset)
        value = x[..., at]
        climate_of = self.climate(mean, parts, name, offset)
        if set(layout.space) & set(layout.variables[name].dims):
            return np.where(layout.valid(self.role)[..., at], value - climate_of, 0.0)
        return _points.numbers(layout, self.role, x, at) - climate_of

    def climate(self, mean: np.ndarray, parts: np.ndarray, name: str, offset: int) -> np.ndarray:
        """Return the climatology of a variable at an offset, as :meth:`of` returns departures."""
        assert self.values is not None
        group = _cycle.ahead(self.layout, self.learner.by, parts, offset, self.learner.calendar)
        found = by_group(self.learner, mean, group)[..., self.values.where("inputs", name)]
        if set(self.layout.space) & set(self.layout.variables[name].dims) or found.ndim == 2:
            return found
        flat = found.reshape(len(found), -1, found.shape[-1])  # a number among fields was spread over the map
        cells = _points.first_cells(self.values, "inputs")[self.values.where("inputs", name)]
        return flat[:, cells, np.arange(flat.shape[-1])]


def fields_among(layout: Layout, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the variables that lie on the grid."""
    return tuple(n for n in names if set(layout.space) & set(layout.variables[n].dims))


def leading(
    learner: Any, ds: xr.Dataset, anomalies: Anomalies, mean: np.ndarray, name: str, modes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the leading patterns of a variable's departures, from all its times, weighted by area.

    Returns
    -------
    tuple of numpy.ndarray
        ``[valid value, mode]``: from departures to components of variance 1, and ``[mode, valid value]`` back.
    """
    layout = own_dates(learner.layout, (name,))
    valid = layout.valid("inputs")
    area = np.broadcast_to(layout.weights[..., None], valid.shape)[valid]
    root = np.sqrt(area)
    sample = layout.spec.sample_dim
    whole = anomalies.values
    assert whole is not None
    columns = whole.where("inputs", name)
    packed = _blocks.packed(layout, ds, ("inputs",), whole_window=False)
    group = (
        _cycle.groups_of(packed[0][sample], learner.by)
        if learner.by is not None
        else np.zeros(packed[0].sizes[sample], int)
    )
    n, width = int(np.prod(packed[0].shape[: -valid.ndim], dtype=int)), int(valid.sum())
    if modes > min(n, width):
        raise ValueError(
            describe(
                f"{learner.name}: {modes} patterns of {name!r} are too many",
                expected=f"at most {min(n, width)}, for {n} samples of {width} values",
                received=modes,
                remedy="fewer patterns",
            )
        )

    def rows() -> Iterator[np.ndarray]:
        for piece in _blocks.blocks(packed, layout, ("inputs",)):
            here = group[(piece.start + np.arange(len(piece.arrays[0]))) % len(group)]
            yield (piece.arrays[0].astype("float64") - mean[here][..., columns])[:, valid] * root

    v, s, _ = patterns(rows, n, width, modes, learner.memory, learner.seed)
    size = s / np.sqrt(n)
    into = np.where(size > 0, v * root[:, None] / np.where(size > 0, size, 1), 0.0)
    back = np.where(root > 0, (v * size).T / np.where(root > 0, root, 1), 0.0)
    return into, back


def waves(layout: Layout, x: np.ndarray, harmonics: int) -> np.ndarray:
    """Return cosines and sines of the annual cycle at offset 0, ``[row, 2 x harmonics]``.

    Those of the date a forecast is valid at are the same but for a rotation, to which least squares and ridge are blind.
    """
    names = wave_names(layout)
    parts = _points.numbers(layout, "inputs", x, np.array([layout.where("inputs", n, 0).start for n in names]))
    phase = 2 * np.pi * (parts[:, 0] - 1) / 12 if len(names) == 1 else np.arctan2(parts[:, 0], parts[:, 1])
    return np.stack([f(k * phase) for k in range(1, harmonics + 1) for f in (np.cos, np.sin)], axis=1)


def wave_names(layout: Layout) -> tuple[str, ...]:
    """Return the parts of the date that tell the phase of the year."""
    sample = layout.spec.sample_dim
    if layout.step is not None and layout.step.kind == "month":
        return (f"{sample}.month",)
    return (f"{sample}.dayofyear.sin", f"{sample}.dayofyear.cos")


def read_by(layout: Layout, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the inputs that have a climatology: they vary with the samples and are no parts of the date."""
    sample = layout.spec.sample_dim
    dated = set(calendar.virtual(names, sample))
    return tuple(n for n in names if n not in dated and sample in layout.variables[n].dims)
