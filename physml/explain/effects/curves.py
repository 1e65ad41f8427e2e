"""How a prediction responds to one variable: partial dependence and individual conditional expectation.

``mode="value"`` sets all chosen cells to a value, as in the literature, where an input is a number. For fields that is a flat
field, which may lie far from any the model has seen; ``mode="shift"`` adds to all cells alike and keeps the pattern.

References
----------
Friedman, J. H. (2001), Greedy function approximation, doi:10.1214/aos/1013203451.
Goldstein, A. et al. (2015), Peeking inside the black box, doi:10.1080/10618600.2014.907095.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.explain.blocks import BLOCK_BYTES, Block, over_samples
from physml.explain.effects.resampling import Length
from physml.explain.effects.rows import MEMORY
from physml.explain.effects.varied import Case, Chosen
from physml.explain.result import Part, label

if TYPE_CHECKING:
    from physml.explain.players.groups import Groups
    from physml.layout import Layout

Mode = Literal["value", "shift"]
Values = int | Sequence[float] | np.ndarray
POINTS = 21


def partial_dependence(
    model: Any,
    ds: xr.Dataset,
    over: str | tuple[str, str],
    target: Any = None,
    *,
    groups: Groups | None = None,
    values: Values | tuple[Values, Values] = POINTS,
    mode: Mode = "value",
    block: Length = None,
    n_bootstrap: int = 200,
    level: float = 0.95,
    seed: int = 0,
    batch_rows: int | None = None,
    memory: int = MEMORY,
    layout: Layout | None = None,
    outputs: Sequence[str] | None = None,
) -> xr.Dataset:
    """Return the mean prediction over all samples with some inputs set to, or shifted by, each of some values.

    Parameters
    ----------
    model, target, layout, outputs
        As for :class:`physml.explain.Explainer`.
    ds
        Inputs; members are samples too. Read block by block where lazy; the result is computed at once.
    over
        What is varied: an input variable (at all offsets and levels), one channel such as ``"sst -1"`` or ``"sst +0"``, or one of *groups*; or
        two of them.
    groups
        Named groups, if *over* names one.
    values
        The values, or how many: evenly from the 5th to the 95th percentile of the coordinate (the area mean of the chosen cells),
        or all there are where there are no more; for shifts, from minus to plus two of its standard deviations.
    mode
        ``"value"``: all chosen cells are set to the value; the effect is the mean prediction. ``"shift"``: the value is added to
        them; the effect is the mean change of the prediction.
    block, n_bootstrap, level, seed
        The interval: percentiles over resamples of the samples in blocks; see :func:`permutation_importance`. The model and
        the values are held.
    batch_rows, memory
        As for :func:`permutation_importance`.

    Returns
    -------
    xarray.Dataset
        ``effect``, ``lower`` and ``upper`` along a coordinate named after what is varied, in its units, and the dimensions
        of the target; ``counts``, the samples nearest to each value and within half a step; ``rug``, the coordinate of every sample.

    Raises
    ------
    KeyError, ValueError
        For unknown names, inputs of different units, missing inputs.

    Notes
    -----
    Inputs that depend on each other are pulled apart: the mean runs over combinations that may not occur. :func:`ale` stays where the data are.

    Examples
    --------
    >>> partial_dependence(model, ds, "sst", box_mean("rain", lat=slice(-5, 5)), mode="shift")  # doctest: +SKIP
    """
    case = Case(
        model,
        ds,
        over,
        target,
        groups,
        each=POINTS,
        batch_rows=batch_rows,
        block=block,
        n_bootstrap=n_bootstrap,
        seed=seed,
        memory=memory,
        layout=layout,
        outputs=outputs,
    )
    wanted = (values,) if len(case.chosen) == 1 else values if isinstance(values, tuple) else (values, values)
    if len(wanted) != len(case.chosen):
        refuse(
            "values do not fit over", f"{len(case.chosen)} of them", len(wanted), "give values for each, or a number"
        )
    grids = [_grid(v, x, mode, c) for v, x, c in zip(wanted, case.values, case.chosen, strict=True)]
    points = np.stack([g.ravel() for g in np.meshgrid(*grids, indexing="ij")], axis=1)
    sums = np.zeros((len(case.counts), len(points), case.width))
    for numbers, rows in case.blocks(4):
        base = case.answers(rows) if mode == "shift" else 0.0
        answers = np.empty((len(points), len(rows), case.width))
        step = max(1, BLOCK_BYTES // max(1, rows.nbytes))
        for start in range(0, len(points), step):
            varied = [_varied(case.chosen, rows, point, mode) for point in points[start : start + step]]
            answers[start : start + len(varied)] = case.answers(np.concatenate(varied)).reshape(
                len(varied), len(rows), -1
            )
        often = case.counts[:, numbers].astype("float64")
        for v, found in enumerate(answers):
            sums[:, v] += often @ (found - base)
    effect = sums / case.counts.sum(1, dtype="float64")[:, None, None]
    shape = (len(sums), *(g.size for g in grids), case.width)
    what = f"partial dependence of {case.measure.label}" if mode == "value" else f"mean change of {case.measure.label}"
    return case.result(
        {"effect": (effect.reshape(shape), what)},
        grids,
        _nearest(case.values, grids) if mode == "value" else None,
        level,
        {"method": f"partial dependence, {mode}"},
    )


def ice(
    model: Any,
    ds: xr.Dataset,
    over: str,
    target: Any = None,
    *,
    groups: Groups | None = None,
    values: Values = POINTS,
    mode: Mode = "value",
    centred: bool = False,
    batch_rows: int | None = None,
    memory: int = MEMORY,
    layout: Layout | None = None,
    outputs: Sequence[str] | None = None,
) -> xr.Dataset:
    """Return the prediction of every sample with some inputs set to, or shifted by, each of some values.

    Parameters
    ----------
    model, ds, over, target, groups, values, mode, batch_rows, memory, layout, outputs
        As for :func:`partial_dependence`; *over* is one name. The result is lazy where *ds* is; the inputs are read before, once, to find
        the values, unless these are given.
    centred
        Whether the prediction at the first value is taken off each curve, so that their slopes can be compared.

    Returns
    -------
    xarray.Dataset
        ``ice`` along a coordinate named after what is varied, members, samples and the dimensions of the target; ``effect``,
        its mean over members and samples.

    Raises
    ------
    KeyError, ValueError
        As :func:`partial_dependence`.
    """
    case = Case(
        model,
        ds,
        over,
        target,
        groups,
        each=POINTS,
        batch_rows=batch_rows,
        memory=memory,
        layout=layout,
        outputs=outputs,
    )
    if len(case.chosen) != 1:
        refuse("over names two inputs", "one", over, "partial_dependence takes two")
    chosen, measure, packed = case.chosen[0], case.measure, case.rows.packed
    given = None if isinstance(values, int | np.integer) else values
    grid = _grid(values if given is None else given, case.values[0] if given is None else np.zeros(1), mode, chosen)
    made = over_samples(
        case.layout,
        packed,
        functools.partial(_curves, case.answers, chosen, grid, mode, centred, measure.valid),
        len(grid),
        measure.valid.size,
        title="conditional expectation",
    )
    what = f"{measure.label} of each sample"
    if mode == "shift":
        what = f"change of {what}"
    elif centred:
        what = f"{what}, less that at {grid[0]:g}"
    out = label(
        made,
        [Part("ice", what, {chosen.name: len(grid)})],
        layout=case.layout,
        measure=measure,
        packed=packed,
        coords={chosen.name: (chosen.name, grid, dict(chosen.attrs))},
        settings=case.settings
        | {
            "method": f"individual conditional expectation, {mode}",
            "rows": len(case.rows) * (len(grid) + (mode == "shift")),
        },
        attrs=ds.attrs,
        what=f"individual conditional expectation of {measure.label} over {chosen.name}",
    )
    mean = out.ice.mean(case.rows.dims)
    return out.assign(effect=mean.assign_attrs(out.ice.attrs, long_name=f"mean over the samples of {what}"))


def _curves(
    answers: Any, chosen: Chosen, grid: np.ndarray, mode: Mode, centred: bool, valid: np.ndarray, block: Block
) -> np.ndarray:
    rows = block.inputs
    base = answers(rows) if mode == "shift" else 0.0
    out = np.full((len(grid), len(rows), valid.size), np.nan)
    for v, value in enumerate(grid):
        out[v][:, np.flatnonzero(valid)] = answers(_varied([chosen], rows, [value], mode)) - base
    return out - out[:1] if centred else out


def _varied(chosen: Sequence[Chosen], rows: np.ndarray, point: Any, mode: Mode) -> np.ndarray:
    for c, value in zip(chosen, point, strict=True):
        rows = c.at(rows, value) if mode == "value" else c.moved(rows, value)
    return rows


def _grid(values: Values, coordinate: np.ndarray, mode: Mode, chosen: Chosen) -> np.ndarray:
    """Return the values at which the inputs are put, or the shifts."""
    if mode not in ("value", "shift"):
        refuse(f"mode {mode!r} is unknown", "'value' or 'shift'", repr(mode), "pass mode='shift' for fields")
    if not isinstance(values, int | np.integer):
        found = np.asarray(values, "float64")
        if found.ndim != 1 or not found.size or not np.isfinite(found).all() or (np.diff(found) <= 0).any():
            refuse("values are no axis", "finite numbers, increasing", found, "sort them, each once")
        return found
    if values < 2:
        refuse("too few values", ">= 2", values, "leave it out")
    spread = float(coordinate.std())
    if not spread:
        refuse(f"{chosen.name!r} does not vary", "samples with different values", coordinate[0], "give values=[...]")
    if mode == "shift":
        return np.linspace(-2 * spread, 2 * spread, int(values))
    distinct = np.unique(coordinate)
    if distinct.size <= values:
        return distinct
    low, high = np.quantile(coordinate, [0.05, 0.95])
    return np.linspace(low, high, int(values))


def _nearest(coordinates: np.ndarray, grids: Sequence[np.ndarray]) -> np.ndarray:
    """Return the number of samples nearest to each point of a grid, and within half a step of it."""
    edges = []
    for g in grids:
        half = np.diff(g) / 2 if g.size > 1 else np.array([np.inf])
        edges.append(np.concatenate([g[:1] - half[:1], (g[:-1] + g[1:]) / 2, g[-1:] + half[-1:]]))
    return np.histogramdd(coordinates.T, edges)[0].astype(int)
