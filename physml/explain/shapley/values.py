"""Shapley and Owen values of a model's prediction, for groups of its inputs.

An *estimator* (:class:`Exact`, :class:`PairedPermutations`, :class:`PairedKernel`, :class:`ExactOwen`) plans which coalitions
are valued; :mod:`physml.explain.shapley.sweep` values them with a model, and :mod:`physml.explain.shapley.attribution` labels the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.explain.result import Part
from physml.explain.shapley.attribution import estimated
from physml.explain.shapley.designs import Estimator, refuse_method
from physml.explain.shapley.exact import EXACT_LIMIT, Exact
from physml.explain.shapley.forest import attribute as of_trees
from physml.explain.shapley.forest import forest_of, refuse_trees
from physml.explain.shapley.gathering import Accumulator
from physml.explain.shapley.kernel import PairedKernel
from physml.explain.shapley.nesting import Unions, unions_of
from physml.explain.shapley.owen import EXACT_MARGINS, ExactOwen, margins
from physml.explain.shapley.permutations import PairedPermutations
from physml.explain.shapley.sweep import Stopping

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
    if nested is not None and nested is not False and not isinstance(method, str):
        refuse(
            "an estimator plans unions itself",
            "nested=None",
            repr(nested),
            "method='auto', or an estimator with unions=",
        )
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
    for depth, union in enumerate(getattr(method, "unions", ()), 1):
        label = "group_parent" if depth == 1 else f"group_parent_{depth}"
        coords[label] = ("group", list(union), {"long_name": f"union of the group, level {depth}"})
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


def rows_each(
    explainer: Explainer,
    n_slots: int,
    method: str | Estimator = "auto",
    *,
    pairs: int | None = None,
    tol: float | None = None,
    rtol: float | None = None,
    max_rows: int | None = None,
    nested: Any = None,
    **others: Any,
) -> int | None:
    """Return the model rows of one sample, the fewest where a tolerance decides; None for trees.

    Parameters
    ----------
    explainer, method, pairs, tol, rtol, max_rows, nested
        As for :func:`attribute`.
    n_slots
        Baseline rows of a sample.
    **others
        Further settings of :func:`attribute`, which cost nothing.
    """
    players, stopping = explainer.players, Stopping(tol, rtol, max_rows)
    unions = unions_of(players, nested)
    if method == "trees" or (method == "auto" and not unions and forest_of(explainer) is not None):
        return None
    if isinstance(method, str):
        method = _estimator(method, len(players), n_slots, pairs, 0, stopping, unions)
    return 1 + stopping.first(method, len(players), n_slots) * method.rows_each(len(players), n_slots)


def _estimator(
    method: str, n_groups: int, n_slots: int, pairs: int | None, seed: int, stopping: Stopping, unions: Unions
) -> Estimator:
    """Return the estimator that a method names."""
    known = ("auto", "exact", "permutations", "kernel", "trees")
    if method not in known:
        refuse_method(method, known, "PairedPermutations(pairs=200)")
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
