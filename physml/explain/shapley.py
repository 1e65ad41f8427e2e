"""Shapley and Owen values of a model's prediction, for groups of its inputs.

An *estimator* (:class:`Exact`, :class:`PairedPermutations`, :class:`PairedKernel`, :class:`ExactOwen`) plans which coalitions
are valued; :mod:`physml.explain.sweep` values them with a model; :func:`attribute` labels the result.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import closest, describe, refuse
from physml.explain.blocks import Block, advance, over_samples, samples_at_a_time
from physml.explain.designs import Estimator
from physml.explain.exact import EXACT_LIMIT, Exact
from physml.explain.forest import attribute as of_trees
from physml.explain.forest import forest_of, refuse_trees
from physml.explain.game import default_rows
from physml.explain.gathering import Accumulator
from physml.explain.kernel import PairedKernel
from physml.explain.nesting import Unions, unions_of
from physml.explain.owen import EXACT_MARGINS, ExactOwen, margins
from physml.explain.permutations import PairedPermutations
from physml.explain.result import Part, label
from physml.explain.sweep import Stopping, sweep, t_quantile

if TYPE_CHECKING:
    from physml.explain.explainer import Explainer

EXACT_ROWS = 2**14
"""Model rows of one sample up to which "auto" is exact, for as many as EXACT_LIMIT groups, unless max_rows is given."""
MOST_EXACT = 20
"""Number of groups beyond which nothing is exact, whatever max_rows allow."""
PAIRS = 100
"""Orders drawn by default; coalitions are drawn for as many model rows."""
FIRST_PAIRS = 16
"""Orders drawn before the first decision where a tolerance is given."""


def shapley_values(
    value: Callable[[np.ndarray], np.ndarray], n_players: int, estimator: Estimator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return Shapley values of any game and their standard errors, ``[player]`` or ``[player, out]``.

    Parameters
    ----------
    value
        Values ``[row]`` or ``[row, out]`` of coalitions ``[row, player]``.
    n_players
        Number of players.
    estimator
        Default: :class:`Exact`.

    Examples
    --------
    Two left gloves and one right one: a pair is worth 1.

    >>> phi, _ = shapley_values(lambda s: np.minimum(s[:, 0] | s[:, 1], s[:, 2]) * 1.0, 3)
    >>> (phi * 6).round(12)
    array([1., 1., 4.])
    """
    estimator = estimator or Exact()
    design = estimator.design(n_players, 1, 0)
    rows = np.vstack([np.ones(n_players, bool), np.zeros(n_players, bool), design.coalitions])
    values = np.asarray(value(rows), "float64")
    shape = values.shape[1:]
    values = values.reshape(len(rows), -1)
    gathering = estimator.gathering(n_players, 1, values.shape[1])
    Accumulator(design, values[0], values[1:2], gathering).add(values[2:])
    phi, stderr, _ = gathering.result(values[0], values[1:2])
    return phi.reshape(-1, *shape), stderr.reshape(-1, *shape)


def attribute(
    explainer: Explainer,
    ds: xr.Dataset,
    method: str | Estimator = "auto",
    *,
    pairs: int | None = None,
    tol: float | None = None,
    rtol: float | None = None,
    max_rows: int | None = None,
    batch_rows: int | None = None,
    seed: int = 0,
    level: float = 0.95,
    nested: Any = None,
    progress: bool = True,
) -> xr.Dataset:
    """Return Shapley or Owen values; see :meth:`physml.explain.Explainer.shapley`."""
    players, name = explainer.players, explainer.measure.label
    stopping = Stopping(tol, rtol, max_rows, level)
    unions = unions_of(players, nested)
    packed, beside = explainer.read(ds)
    n_slots = explainer.slots(packed)
    if isinstance(method, str) and method in ("auto", "trees"):
        trees = None if unions else forest_of(explainer)
        if trees is not None:
            return of_trees(explainer, trees, ds, packed, beside, level, progress)
        if method == "trees":
            refuse_trees(explainer)
    if isinstance(method, str):
        method = _estimator(method, len(players), n_slots, pairs, seed, stopping, unions)
    lead = {"group": len(players)}
    parts = [
        Part("attribution", f"contribution to {name}", lead),
        Part("stderr", f"standard error of the contribution to {name}", lead),
    ]
    coords = dict(players.coords)
    for i, union in enumerate(getattr(method, "unions", ())):
        names = "group_union" if not i else f"group_union_{i + 1}"
        coords.setdefault(names, ("group", list(union), {"long_name": "union of the group"}))
    return estimated(
        explainer,
        ds,
        packed,
        beside,
        method,
        stopping,
        parts=parts,
        index=np.arange(len(players)),
        coords=coords,
        title="Shapley values",
        batch_rows=batch_rows,
        progress=progress,
    )


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
    n_groups, n_slots = len(players), explainer.slots(packed)
    if batch_rows is not None and batch_rows < 1:
        refuse("batch_rows is not positive", ">= 1", batch_rows, "leave it out")
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
    sample = layout.spec.sample_dim
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
    if stopping.adaptive and not exact:
        settings |= {n: v for n in ("tol", "rtol", "max_rows") if (v := getattr(stopping, n)) is not None}
    else:
        rows = len(explainer.baseline.rows) + n_samples * each
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
        result.attrs["rows"] = len(explainer.baseline.rows) + int(result.rows.sum())
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
    """
    level = float(result.attrs.get("level", 0.95)) if level is None else level
    dof = result["dof"] if "dof" in result else xr.DataArray(int(result.attrs["replicates"]) - 1)
    quantile = xr.apply_ufunc(t_quantile, dof, level, dask="parallelized", output_dtypes=["float64"])
    half = (result.stderr * quantile).transpose(*result.stderr.dims)
    ends = {"lower": result.attribution - half, "upper": result.attribution + half}
    for name, end in ends.items():
        end.attrs = {**result.attribution.attrs, "long_name": f"{name} end of the {level:.0%} confidence interval"}
    return xr.Dataset(ends, attrs=result.attrs)


def _estimator(
    method: str, n_groups: int, n_slots: int, pairs: int | None, seed: int, stopping: Stopping, unions: Unions
) -> Estimator:
    """Return the estimator that a method names."""
    known = ("auto", "exact", "permutations", "kernel", "trees")
    if method not in known:
        raise ValueError(
            describe(
                f"method {method!r} is unknown{closest(method, known)}",
                expected="'auto', 'exact', 'permutations', 'kernel', 'trees' or an estimator such as PairedPermutations(pairs=200)",
                received=repr(method),
                remedy="leave it out for 'auto'",
            )
        )
    if method == "kernel" and unions:
        refuse(
            "the kernel regression knows no unions",
            "'exact' or 'permutations' for nested groups",
            "'kernel'",
            "pass nested=False for Shapley values",
        )
    if method == "auto":
        method = "exact" if affordable(n_groups, n_slots, stopping, unions) else "permutations"
    if method == "exact":
        return ExactOwen(unions) if unions else Exact(EXACT_LIMIT if stopping.max_rows is None else MOST_EXACT)
    orders = FIRST_PAIRS if stopping.adaptive else PAIRS
    if stopping.max_rows is not None and not stopping.adaptive:
        orders = stopping.max_rows
    if method == "permutations":
        return PairedPermutations(pairs if pairs is not None else orders, seed, unions)
    return PairedKernel(pairs if pairs is not None else orders * max(n_groups - 1, 1), seed)


def affordable(n_groups: int, n_slots: int, stopping: Stopping, unions: Unions) -> bool:
    """Return whether all coalitions fit into the rows of one sample."""
    budget = EXACT_ROWS if stopping.max_rows is None else stopping.max_rows
    if unions:
        return (
            margins(unions, n_groups) <= EXACT_MARGINS and 1 + ExactOwen(unions).rows_each(n_groups, n_slots) <= budget
        )
    fits = n_groups <= (EXACT_LIMIT if stopping.max_rows is None else MOST_EXACT)
    return fits and 1 + n_slots * (2**n_groups - 2) <= budget
