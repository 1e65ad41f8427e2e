"""From an estimator and samples to a labelled result: what all methods that value coalitions have in common."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import describe
from physml.explain.blocks import Block, advance, over_samples, samples_at_a_time
from physml.explain.models.valued import accept_batch_rows, default_rows
from physml.explain.result import Part, label
from physml.explain.shapley.designs import Estimator
from physml.explain.shapley.sweep import MAX_ROWS, Stopping, accept_level, sweep, t_quantile

if TYPE_CHECKING:
    from physml.explain.explainer import Explainer


def estimated(
    explainer: Explainer,
    ds: xr.Dataset,
    packed: xr.DataArray,
    beside: xr.DataArray | None,
    estimator: Estimator,
    stopping: Stopping,
    *,
    parts: Sequence[Part],
    index: np.ndarray,
    coords: dict[str, Any],
    title: str,
    batch_rows: int | None,
    progress: bool,
) -> xr.Dataset:
    """Run an estimator over samples and label what it finds.

    Parameters
    ----------
    explainer, ds, packed, beside
        The game, the samples, and what :meth:`Explainer.read` made of them.
    estimator, stopping
        What is asked of each sample.
    parts
        Variables of the estimate and its standard error; the ones that belong to every result follow.
    index
        Which of the estimator's quantities makes each number of such a variable.
    coords
        Of their leading dimensions.
    title, batch_rows, progress
        Of the progress bar; rows the model is given at a time; whether the bar shows.
    """
    players, measure, layout = explainer.players, explainer.measure, explainer.layout
    sample = layout.spec.sample_dim
    n_groups, slots = len(players), explainer.baseline.pick(packed[sample])
    n_slots = slots.shape[1]
    if isinstance(estimator, type) or not hasattr(estimator, "gathering"):
        raise TypeError(
            describe(
                "method is neither a name nor an estimator",
                expected="such as 'auto', or PairedPermutations(pairs=200)",
                received=repr(estimator),
                remedy="leave it out for 'auto'",
            )
        )
    accept_batch_rows(batch_rows)
    first = stopping.first(estimator, n_groups, n_slots)
    each = 1 + first * estimator.rows_each(n_groups, n_slots)
    exact = estimator.pairs is None
    if exact:
        estimator.design(n_groups, n_slots, 0)  # refuses here, not in a worker, what is too large
    name = measure.label
    common = [
        Part("residual", f"{name} left over by the contributions"),
        Part("prediction", name),
        Part("base_value", f"{name} for the baseline"),
        Part("rows", "model rows valued for the sample", units="1", each=False, dtype="int64"),
        Part("dof", "degrees of freedom of the standard error; 0: exact", units="1", each=False, dtype="int64"),
    ]
    if exact or stopping.adaptive:
        common.append(Part("converged", "exact, or within the tolerance", units="1", each=False, dtype="bool"))
    share = np.bincount(index)
    k = len(share)
    depth = 2 * k + len(common)
    at_a_time = samples_at_a_time(packed, sample, depth * measure.valid.size)
    batch_rows = default_rows(4 * players.owner.size) if batch_rows is None else batch_rows
    if not stopping.adaptive:
        batch_rows = min(batch_rows, n_slots + at_a_time * each)
    values = over_samples(
        layout,
        packed,
        functools.partial(_explain, explainer, estimator, stopping, batch_rows, share, len(common)),
        depth,
        measure.valid.size,
        baseline=explainer.baseline,
        beside=beside,
        at_a_time=at_a_time,
        title=title,
        progress=progress,
    )
    values = values[np.concatenate([index, k + index, np.arange(2 * k, depth)])] if len(index) != k else values
    settings: dict[str, Any] = {
        "method": estimator.name,
        "seed": estimator.seed,
        "baseline": explainer.baseline.name,
        "target": name,
        "level": stopping.level,
    }
    n_samples = math.prod(packed.shape[: packed.get_axis_num(sample) + 1])
    n_base = n_samples if beside is not None else len(np.unique(slots))
    if stopping.adaptive and not exact:
        settings |= {n: v for n in ("tol", "rtol") if (v := getattr(stopping, n)) is not None}
        settings["max_rows"] = MAX_ROWS if stopping.max_rows is None else stopping.max_rows
    else:
        rows = n_base + n_samples * each
        settings |= {"replicates": first, "rows": rows, "rows_per_sample": each}
    result = label(
        values,
        [*parts, *common],
        layout=layout,
        measure=measure,
        packed=packed,
        coords=coords,
        settings=settings,
        attrs=ds.attrs,
        what=f"explained {name} by {estimator.name}, baseline {explainer.baseline.name}",
    )
    if "rows" not in settings and packed.chunks is None and (beside is None or beside.chunks is None):
        result.attrs["rows"] = n_base + int(result.rows.sum())
        result.attrs["converged"] = f"{int(result.converged.sum())} of {n_samples} samples"
    return result


def _explain(
    explainer: Explainer,
    estimator: Estimator,
    stopping: Stopping,
    batch_rows: int,
    share: np.ndarray,
    n_common: int,
    block: Block,
) -> np.ndarray:
    """Return estimates, their errors and what is common to all methods, of a block, ``[depth, sample, width]``.

    *share* is how often each quantity counts in the sum of all.
    """
    measure = explainer.measure
    cells, k = np.flatnonzero(measure.valid), len(share)
    out = np.full((2 * k + n_common, len(block.inputs), measure.valid.size), np.nan)
    found = sweep(
        estimator,
        stopping,
        block,
        owner=explainer.players.owner.ravel(),
        n_groups=len(explainer.players),
        value=explainer.value,
        dtype=str(explainer.adapted.dtype or block.inputs.dtype),
        batch_rows=batch_rows,
        fixed=explainer.adapted.compiled,
    )
    for s, one in found:
        out[:k, s, cells], out[k : 2 * k, s, cells] = one.estimate, one.stderr
        left = one.prediction - one.base - share @ one.estimate
        out[2 * k : 2 * k + 3, s, cells] = left, one.prediction, one.base
        out[2 * k + 3 :, s] = np.array([one.rows, one.dof, one.converged])[: n_common - 3, None]
        advance()
    return out


def interval(result: xr.Dataset, level: float | None = None) -> xr.Dataset:
    """Return ``lower`` and ``upper`` ends of the attributions, by Student's t over the pairs; no width where exact.

    Parameters
    ----------
    result
        Of :meth:`Explainer.shapley` or :meth:`Explainer.interactions`; lazy where that is.
    level
        Of the interval; default the one the values were made with.

    Raises
    ------
    ValueError
        Where *level* is no probability.
    """
    level = float(result.attrs.get("level", 0.95)) if level is None else level
    accept_level(level)
    dof = result["dof"] if "dof" in result else xr.DataArray(int(result.attrs["replicates"]) - 1)
    quantile = xr.apply_ufunc(t_quantile, dof, level, dask="parallelized", output_dtypes=["float64"])
    half = (result.stderr * quantile).transpose(*result.stderr.dims)
    ends = {"lower": result.attribution - half, "upper": result.attribution + half}
    for name, end in ends.items():
        end.attrs = {**result.attribution.attrs, "long_name": f"{name} end of the {level:.0%} confidence interval"}
    return xr.Dataset(ends, attrs=result.attrs)
