"""Linear and ridge regression of fields on fields: cell by cell, or of whole maps through their leading patterns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import xarray as xr

from physml._errors import closest, describe, is_count
from physml.fields import FieldSpec, Role
from physml.layout import Layout
from physml.learners import _blocks, _cycle, _features, _points
from physml.learners._designs import Regressed, every_offset
from physml.learners._features import Anomalies
from physml.learners._fitted import with_spread
from physml.learners._normal import Folds, Line, Sums, solve, together
from physml.learners.eof import MEMORY

SAMPLES = ("cells", "maps")
WIDEST = 4096
"""Features of a regression, at most: products of all of them are held."""
_AT_A_TIME = 32
"""Maps that are predicted at a time."""
_ROLES: tuple[Role, Role] = ("inputs", "targets")


class Design(NamedTuple):
    """Rows of a regression.

    Attributes
    ----------
    x, y
        ``[row, feature]``, ``[row, target]``.
    sample
        Number of the sample of every row, along the sample dimension.
    weights
        Of the rows, or None.
    """

    x: np.ndarray
    y: np.ndarray
    sample: np.ndarray
    weights: np.ndarray | None


class Ridge(Regressed):
    """Ridge regression: least squares with a penalty on the coefficients.

    Parameters
    ----------
    spec
        What it reads and predicts. Parts of the date that *by* and *harmonics* need are added to its inputs.
    alpha
        The penalty, as scikit-learn counts it; of several, the one of least error in blocks of time left out in turn is taken.
    samples
        ``"cells"``: every valid cell of every time is a row, and one regression on the channels serves all. ``"maps"``: every time
        is a row, and each target cell (or each target pattern, or number) has a regression on all that is read of the maps.
    eofs
        For maps: the number of leading patterns, weighted by area, that each field is read through; components have variance 1.
        None: all valid cells are read. Numbers, such as an index, are read as they are.
    eofs_out
        For maps: the number of patterns that target fields are predicted through. None: every cell by itself.
    by
        Fields and numbers are departures from this climatology of the training data, of the date of each: ``"month"``,
        ``"dayofyear"``, or None: as they are.
    harmonics
        For maps: harmonics of the annual cycle by which the components are multiplied, so that coefficients change with the
        season; they are features themselves too.
    standardise
        Whether the penalty is on features divided by their standard deviation.
    area_weights
        For cells: whether rows count with the area of the cell.
    spread
        Answer the standard deviation of the error too, ``NAME_std``, for every cell and lead: that in blocks of time left out in
        turn.
    folds
        Number of these blocks; as many steps as a window is long are left out on both sides of each.
    memory, seed
        See :class:`EOF`.
    name
        What it is called.

    Notes
    -----
    All is learned from sums in float64 over pieces of fixed size: the result does not depend on chunks. Patterns and climatology are
    those of all the training data when blocks are left out; the standard deviation allows for the second.

    References
    ----------
    Hoerl, A. E. and Kennard, R. W. (1970), Ridge regression, doi:10.1080/00401706.1970.10488634.

    Examples
    --------
    >>> ds = xr.Dataset({"x": ("time", [0.0, 1.0, 2.0]), "y": ("time", [1.0, 3.0, 5.0])}, {"time": [0, 1, 2]})
    >>> Linear(FieldSpec("x", "y")).fit(ds).predict(ds).y.values.round(12)
    array([1., 3., 5.])
    """

    arguments: ClassVar[tuple[str, ...]] = (
        "alpha",
        "samples",
        "eofs",
        "eofs_out",
        "by",
        "harmonics",
        "standardise",
        "area_weights",
        "spread",
        "folds",
        "memory",
        "seed",
    )

    def __init__(
        self,
        spec: FieldSpec,
        alpha: float | Sequence[float],
        *,
        samples: str | None = None,
        eofs: int | None = None,
        eofs_out: int | None = None,
        by: str | None = None,
        harmonics: int = 0,
        standardise: bool = False,
        area_weights: bool = False,
        spread: bool = False,
        folds: int = 5,
        memory: int = MEMORY,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        super().__init__(spec, name)
        _cycle.check_by(by)
        alphas = [float(a) for a in np.atleast_1d(np.asarray(alpha, "float64"))]
        if not alphas or not all(np.isfinite(a) and a >= 0 for a in alphas):
            self._refuse("alpha is no penalty", "numbers of 0 or more", alpha, "alpha=1.0, or alpha=[0.1, 1, 10]")
        samples = samples or ("maps" if eofs or eofs_out or harmonics else "cells")
        if samples not in SAMPLES:
            self._refuse(
                f"samples={samples!r} is not understood{closest(samples, SAMPLES)}", SAMPLES, samples, "'maps'"
            )
        for what, value in (("eofs", eofs), ("eofs_out", eofs_out)):
            if value is not None and not is_count(value):
                self._refuse(f"{what} is no number of patterns", "a whole number of at least 1", value, f"{what}=30")
        if samples == "cells" and (eofs or eofs_out or harmonics):
            self._refuse("patterns and harmonics are of whole maps", "samples='maps'", samples, "samples='maps'")
        if not is_count(harmonics, 0) or not is_count(folds, 2):
            self._refuse("harmonics or folds do not count", "harmonics >= 0, folds >= 2", (harmonics, folds), "folds=5")
        self.alpha: float | list[float] = alphas[0] if len(alphas) == 1 and np.ndim(alpha) == 0 else alphas
        self.samples, self.eofs, self.eofs_out, self.by = samples, eofs, eofs_out, by
        self.harmonics, self.standardise, self.area_weights = int(harmonics), bool(standardise), bool(area_weights)
        self.spread, self.folds, self.memory, self.seed = bool(spread), int(folds), int(memory), int(seed)

    def _refuse(self, what: str, expected: object, received: object, remedy: str) -> None:
        raise ValueError(
            describe(f"{type(self).__name__}: {what}", expected=expected, received=received, remedy=remedy)
        )

    @property
    def answers(self) -> Layout:
        """Layout of forecasts and, with spread, standard deviations."""
        return with_spread(self.layout) if self.spread else self.layout

    def extra_inputs(self, layout: Layout) -> tuple[str, ...]:
        """Return the parts of the date."""
        dated = list(_cycle.names(layout, self.by, every_offset(layout)))
        if self.harmonics:
            dated += [n for n in _features.wave_names(layout) if n not in dated]
        return tuple(dated)

    def needed(self) -> tuple[str, ...]:
        """Return all inputs."""
        return tuple(self.layout.spec.inputs)

    @property
    def chosen(self) -> float:
        """The penalty that was taken."""
        self.layout  # noqa: B018  refuses a learner that is not fitted
        return float(self.state["alpha"])

    def learn(self, train: xr.Dataset) -> None:
        """Find climatology, patterns and coefficients."""
        layout = self.layout
        if self.samples == "cells" and layout.space and layout.series:
            self._refuse(
                "the target lies nowhere on the grid, so cells do not predict it",
                "samples='maps'",
                "samples='cells'",
                "samples='maps', eofs=30",
            )
        lonely = set(layout.spec.targets) - set(_features.fields_among(layout, tuple(layout.spec.targets)))
        if self.eofs_out and lonely:
            self._refuse(
                f"{sorted(lonely)[0]!r} lies nowhere on the grid, and has no patterns",
                "fields",
                sorted(lonely),
                "eofs_out=None",
            )
        self._learn_patterns(train)
        packed = _blocks.packed(layout, train, _ROLES)
        n = packed[0].sizes[layout.spec.sample_dim]
        several = len(np.atleast_1d(self.alpha)) > 1
        low, high = layout.spec.window()
        cut = Folds.of(n, self.folds if several or self.spread else 1, high - low)
        if any(not t for t in [*cut.trains, *cut.tests]) and (several or self.spread):
            self._refuse("too few samples to leave out blocks of time", f"more than {self.folds} windows", n, "folds=2")
        parts: list[Sums | None] = [None] * len(cut.ends)
        for rows in self._designs(packed):
            segment = cut.segment(rows.sample)
            for s in np.unique(segment):
                at = segment == s
                part = Sums.of(rows.x[at], rows.y[at], None if rows.weights is None else rows.weights[at])
                known = parts[s]
                parts[s] = part if known is None else known + part
        sums = [p for p in parts if p is not None]
        whole = together(sums)
        alphas = np.atleast_1d(np.asarray(self.alpha, "float64"))
        best = 0
        if several:
            errors = np.zeros(len(alphas))
            for test, fit in zip(cut.tests, cut.trains, strict=True):
                held = together(sums[i] for i in test)
                lines = solve(together(sums[i] for i in fit), alphas.tolist(), self.standardise)
                errors += [self._score(line.missed(held), whole) for line in lines]
            best = int(errors.argmin())
            self.state["alphas"], self.state["errors"] = alphas, errors / self.folds
        alpha = [float(alphas[best])]
        self.state["alpha"] = np.array(alphas[best])
        self._keep(solve(whole, alpha, self.standardise)[0])
        if self.spread:
            lines = [solve(together(sums[i] for i in fit), alpha, self.standardise)[0] for fit in cut.trains]
            self.state["std"] = self._residuals(packed, cut, lines)

    def rows(self, x: np.ndarray) -> np.ndarray:
        """Return the regression of all rows, and the standard deviation of its error."""
        line = Line(self.state["coef"], self.state["mean"], self.state["intercept"])
        several = [x[i : i + _AT_A_TIME] for i in range(0, len(x), _AT_A_TIME)] or [x]
        found = np.concatenate([self._back(line(self._read(some)), some) for some in several])
        if not self.spread:
            return found
        return np.concatenate([found, np.broadcast_to(self.state["std"], found.shape)], axis=-1)

    def _learn_patterns(self, train: xr.Dataset) -> None:
        layout = self.layout
        if not self._departs:
            return
        for role, modes in zip(_ROLES, (self.eofs, self.eofs_out), strict=True):
            names = self._dated(role)
            anomalies = Anomalies(self, role, names)
            anomalies.fit(train, self.state, role)
            for name in _features.fields_among(layout, names) if modes else ():
                into, back = _features.leading(self, train, anomalies, self.state[f"{role}_mean"], name, modes or 0)
                self.state[f"{role}_into_{name}"], self.state[f"{role}_back_{name}"] = into, back

    def _designs(self, packed: list[xr.DataArray]) -> Iterator[Design]:
        layout = self.layout
        times = packed[0].sizes[layout.spec.sample_dim]
        area = layout.weights[self._cells].ravel() if self.samples == "cells" and self.area_weights else None
        for piece in _blocks.blocks(packed, layout, _ROLES):
            x, y = piece.arrays
            features, targets = self._read(x), self._forth(y, x)
            if features.shape[1] > WIDEST:
                self._refuse(
                    "the maps have too many values to regress on all of them",
                    f"at most {WIDEST} features",
                    features.shape[1],
                    "read them through patterns: eofs=30",
                )
            sample = np.repeat((piece.start + np.arange(len(x))) % times, len(features) // len(x))
            yield Design(features, targets, sample, None if area is None else np.tile(area, len(x)))

    def _score(self, missed: np.ndarray, sums: Sums) -> float:
        """Return the error of targets together, relative to their variance; cells count by area, variables alike."""
        layout = self.layout
        if self.samples == "cells" or layout.series or not layout.space:
            return float(np.mean(missed / np.where(sums.yy > 0, sums.yy, 1)))
        if self.eofs_out:
            size, at = [], []
            for i, name in enumerate(layout.spec.targets):
                back = self.state[f"targets_back_{name}"]
                for _ in layout.spec.offsets("targets", name):
                    size.append((back**2).sum(1))
                    at.append(np.full(len(back), i))
        else:
            valid = layout.valid("targets")
            wide = np.broadcast_to(layout.weights[..., None], valid.shape)
            size = [wide[valid]]
            at = [np.broadcast_to(np.arange(valid.shape[-1]), valid.shape)[valid]]
        weight, group = np.concatenate(size), np.concatenate(at)
        error, variance = np.bincount(group, weight * missed), np.bincount(group, weight * sums.yy)
        return float(np.mean(error / np.where(variance > 0, variance, 1)))

    def _keep(self, line: Line) -> None:
        self.state |= {"coef": line.coef, "mean": line.mean, "intercept": line.y}

    def _residuals(self, packed: list[xr.DataArray], cut: Folds, lines: list[Line]) -> np.ndarray:
        """Return the standard deviation of errors on parts that took no part in the fit, ``[*space, target channel]``."""
        layout = self.layout
        times = packed[0].sizes[layout.spec.sample_dim]
        total: np.ndarray | float = 0.0
        count = 0
        for piece in _blocks.blocks(packed, layout, _ROLES):
            x, y = piece.arrays
            fold = cut.fold((piece.start + np.arange(len(x))) % times)
            truth = _points.targets(layout, y)
            for f in np.unique(fold):
                mine = x[fold == f]
                total = total + np.square(self._back(lines[f](self._read(mine)), mine) - truth[fold == f]).sum(0)
            count += len(x)
        p = 0
        if self._departs:
            mean = self.state["targets_mean"]
            p = int(np.isfinite(mean).reshape(len(mean), -1).any(1).sum())
        # Each part was among the data of its climatology: the errors are as much too small.
        enlarged = (1 + p / count) / (1 - p / count) if count > p else np.nan
        return np.sqrt(total / count * enlarged)


class Linear(Ridge):
    """Least squares: :class:`Ridge` without a penalty; of least norm where features depend on each other.

    Parameters
    ----------
    spec
        What it reads and predicts.
    **options
        Those of :class:`Ridge`, but for ``alpha``.
    """

    arguments = tuple(a for a in Ridge.arguments if a != "alpha")

    def __init__(self, spec: FieldSpec, **options: Any) -> None:
        super().__init__(spec, 0.0, **options)
