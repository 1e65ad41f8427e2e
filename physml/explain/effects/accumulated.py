"""Accumulated local effects: the response to a variable where its samples lie, of one variable or of two together.

In each bin the prediction of its own samples is compared between the edges of the bin, all else as it is; the mean differences
are added up from bin to bin. Unlike partial dependence this leaves no sample where the data are not.

For a group of cells the coordinate of a sample is their area mean, and they are moved alike to bring it to the edges of its bin,
so that the pattern of a field stays; for one number this is the method of the literature.

References
----------
Apley, D. W. and Zhu, J. (2020), Visualizing the effects of predictor variables in black box supervised learning models,
doi:10.1111/rssb.12377.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.explain.effects.accumulated_cells import Cells
from physml.explain.effects.resampling import Length
from physml.explain.effects.rows import MEMORY
from physml.explain.effects.varied import Case, Chosen

if TYPE_CHECKING:
    from physml.explain.players.groups import Groups
    from physml.layout import Layout

Bins = int | Sequence[float] | np.ndarray


def ale(
    model: Any,
    ds: xr.Dataset,
    over: str | tuple[str, str],
    target: Any = None,
    *,
    groups: Groups | None = None,
    bins: Bins | tuple[Bins, Bins] = 20,
    by: Literal["sample", "cell"] = "sample",
    empty: Literal["nearest", "missing"] = "nearest",
    block: Length = None,
    n_bootstrap: int = 200,
    level: float = 0.95,
    seed: int = 0,
    batch_rows: int | None = None,
    memory: int = MEMORY,
    layout: Layout | None = None,
    outputs: Sequence[str] | None = None,
) -> xr.Dataset:
    """Return the accumulated local effect of one variable, or the interaction of two.

    Parameters
    ----------
    model, ds, target, groups, layout, outputs, batch_rows, memory
        As for :func:`physml.explain.partial_dependence`.
    over
        An input variable (at all offsets and levels), one channel such as ``"sst -1"`` or ``"sst +0"``, or one of *groups*; or two of them for
        the second order: what they do together beyond the sum of what each does.
    bins
        Number of bins, of equally many samples as far as values are not tied; or their edges, beyond which samples do not
        count. Edges are values of samples.
    by
        ``"sample"``: as above. ``"cell"``: for models whose output in a cell depends on the inputs of that cell alone, such as a
        forest of cells: every cell of every sample is a case of its own, with the value it holds, weighted by area. The target is
        then a field; its mean effect is returned.
    empty
        For two variables: ``"nearest"``: a cell without samples takes the mean difference of the nearest that has some, in
        units of the range of each variable, as Apley and Zhu do; ``"missing"``: as before, but the effect is missing at points
        none of whose cells has samples.
    block, n_bootstrap, level, seed
        The interval: percentiles over resamples of the samples in blocks, for this model and these bins.

    Returns
    -------
    xarray.Dataset
        ``effect``, ``lower`` and ``upper`` at the edges of the bins, along coordinates named after the variables, in their units,
        and the dimensions of the target; linear between the edges, with mean zero over the samples. ``counts``: samples in
        the bin that ends at each edge, zero at the first; ``rug``: the coordinate of every sample.

    Raises
    ------
    KeyError, ValueError
        For unknown names, variables that do not vary, edges that make empty bins (of one variable), missing inputs.

    Notes
    -----
    Means over the samples, for the centre and for the main effects that the second order leaves out, take the effect where
    each sample lies between the edges, not at the upper edge of its bin as in Apley and Zhu: so a linear function a x has exactly the effect
    a (x - mean), and a product exactly no main effect left in its interaction. The two differ by less than a bin.

    Examples
    --------
    >>> ale(model, ds, ("sst", "wind"), box_mean("rain", lat=slice(-5, 5)), bins=10)  # doctest: +SKIP
    """
    if empty not in ("nearest", "missing"):
        refuse(f"empty {empty!r} is unknown", "'nearest' or 'missing'", repr(empty), "leave it out")
    if by not in ("sample", "cell"):
        refuse(f"by {by!r} is unknown", "'sample' or 'cell'", repr(by), "leave it out")
    two = not isinstance(over, str)
    case = Case(
        model,
        ds,
        over,
        target,
        groups,
        each=4 if two else 2,
        batch_rows=batch_rows,
        block=block,
        n_bootstrap=n_bootstrap,
        seed=seed,
        memory=memory,
        layout=layout,
        outputs=outputs,
    )
    wanted = (bins,) if len(case.chosen) == 1 else bins if isinstance(bins, tuple) else (bins, bins)
    if len(wanted) != len(case.chosen):
        refuse("bins do not fit over", f"{len(case.chosen)} of them", len(wanted), "give bins for each, or a number")
    cells = Cells(case) if by == "cell" else None
    values = case.values if cells is None else cells.values()
    edges = [_edges(b, x, c) for b, x, c in zip(wanted, values, case.chosen, strict=True)]
    shape = tuple(e.size - 1 for e in edges)
    where = _places(values, edges)
    if cells is None:
        sums, weights = _differences(case, edges, where), _weights(case, where, shape)
    else:
        sums, weights = cells.differences(edges, where), cells.sums(where, shape)
        cells.alone()
    held = np.bincount(np.ravel_multi_index(tuple(where[0]), shape)[where[2]], minlength=int(np.prod(shape)))
    if not two and (held == 0).any():
        gone = np.flatnonzero(held == 0)
        refuse(
            "bins hold no samples", "one or more samples in each bin", f"none in bins {gone[:5].tolist()}", "widen them"
        )
    fill = _nearest_cells(held, edges) if two else np.arange(shape[0])
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums / weights[0][..., None]
    whole = mean[:1][:, fill]
    # A resample may miss a bin; what is known of it stays.
    mean = np.where(np.isfinite(mean), mean, whole).reshape(len(mean), *shape, case.width)
    effect = _accumulate(mean, [w.reshape(len(mean), *shape, 1) for w in weights])
    counts = np.zeros([n + 1 for n in shape], int)
    counts[(slice(1, None),) * len(shape)] = held.reshape(shape)
    if two and empty == "missing":
        near = np.pad(counts, [(0, 1), (0, 1)]) > 0
        effect[:, ~(near[:-1, :-1] | near[1:, :-1] | near[:-1, 1:] | near[1:, 1:])] = np.nan
    order = "second" if two else "first"
    result = case.result(
        {"effect": (effect, f"accumulated local effect of {order} order on {case.measure.label}")},
        edges,
        counts,
        level,
        {"method": f"accumulated local effects, {order} order, by {by}", "bins": " x ".join(map(str, shape))},
    )
    return result if cells is None else result.drop_vars("rug")


def _edges(bins: Bins, values: np.ndarray, chosen: Chosen) -> np.ndarray:
    """Return the edges of bins; bins are open below, but the first."""
    if isinstance(bins, int | np.integer):
        if bins < 1:
            refuse("too few bins", ">= 1", bins, "leave it out")
        edges = np.unique(np.quantile(values.ravel(), np.linspace(0, 1, int(bins) + 1), method="inverted_cdf"))
        if edges.size < 2:
            refuse(f"{chosen.name!r} does not vary", "samples with different values", edges[0], "choose another")
        return edges
    try:
        edges = np.asarray(bins, "float64")
    except (TypeError, ValueError):
        edges = np.zeros(0)
    if edges.ndim != 1 or edges.size < 2 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        refuse(
            "edges make no bins",
            "a whole number of bins, or two or more finite edges, increasing",
            repr(bins) if not edges.ndim or not edges.size else edges,
            "pass bins=20, or sort the edges, each once",
        )
    return edges


def _places(values: np.ndarray, edges: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return bin ``[chosen, sample]`` and place in it from 0 to 1 of each sample, and which lie in some bin."""
    inside = np.all([(x >= e[0]) & (x <= e[-1]) for x, e in zip(values, edges, strict=True)], axis=0)
    number = np.stack(
        [np.clip(np.searchsorted(e, x, "left") - 1, 0, e.size - 2) for x, e in zip(values, edges, strict=True)]
    )
    place = np.stack([(x - e[k]) / (e[k + 1] - e[k]) for x, e, k in zip(values, edges, number, strict=True)])
    return number, place, inside


def _differences(case: Case, edges: Sequence[np.ndarray], where: Any) -> np.ndarray:
    """Return the sums of the differences across each bin, of second order for two variables, ``[1 + resample, bin, width]``."""
    number, _, inside = where
    bins = np.ravel_multi_index(tuple(number), [e.size - 1 for e in edges])
    sums = np.zeros((len(case.counts), int(np.prod([e.size - 1 for e in edges])), case.width))
    corners = [(0,), (1,)] if len(edges) == 1 else [(0, 0), (0, 1), (1, 0), (1, 1)]
    for numbers, rows in case.blocks(2 * len(corners)):
        numbers, rows = numbers[inside[numbers]], rows[inside[numbers]]
        if not len(numbers):
            continue
        varied = []
        for corner in corners:
            moved = rows
            for c, e, k, up in zip(case.chosen, edges, number[:, numbers], corner, strict=True):
                moved = c.shifted(moved, e[k + up])
            varied.append(moved)
        answers = case.answers(np.concatenate(varied)).reshape(len(corners), len(rows), case.width)
        change = answers[1] - answers[0] if len(corners) == 2 else (answers[3] - answers[2]) - (answers[1] - answers[0])
        for b in np.unique(bins[numbers]):
            here = bins[numbers] == b
            sums[:, b] += case.counts[:, numbers[here]].astype("float64") @ change[here]
    return sums


def _weights(case: Case, where: Any, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Return sums over the samples of each bin, ``[1 + resample, bin]``: how many, and their places, and the products of these."""
    number, place, inside = where
    bins = np.ravel_multi_index(tuple(number), shape)[inside]
    terms = [np.ones(place.shape[1]), *place] + ([place[0] * place[1]] if len(shape) == 2 else [])
    found = [
        np.stack([np.bincount(bins, (often * term)[inside], int(np.prod(shape))) for often in case.counts])
        for term in terms
    ]
    return found


def _nearest_cells(counts: np.ndarray, edges: Sequence[np.ndarray]) -> np.ndarray:
    """Return for each cell of two variables the nearest that holds samples, itself if it does."""
    centres = [(e[:-1] + e[1:]) / 2 / (e[-1] - e[0]) for e in edges]
    points = np.stack([g.ravel() for g in np.meshgrid(*centres, indexing="ij")], axis=1)
    held = np.flatnonzero(counts > 0)
    away = ((points[:, None] - points[held]) ** 2).sum(-1)
    fill = held[away.argmin(1)]
    fill[held] = held
    return fill


def _accumulate(mean: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """Return the centred effect at the edges, ``[1 + resample, *edge, width]``, of mean differences ``[1 + resample, *bin, width]``.

    *weights* are those of :func:`_weights`, with an axis for the width.
    """
    if len(weights) == 2:
        n, t = weights
        curve = _rise(mean)
        total = (n * curve[:, :-1] + t * mean).sum(1, keepdims=True)
        return curve - total / n.sum(1, keepdims=True)
    n, t1, t2, t12 = weights
    h = np.moveaxis(_rise(np.moveaxis(_rise(mean), 2, 1)), 2, 1)
    # Main effects of h: its differences across the bins of one variable, where the samples lie along the other.
    d1, d2 = np.diff(h, axis=1), np.diff(h, axis=2)
    first = (n * d1[:, :, :-1] + t2 * np.diff(d1, axis=2)).sum(2) / np.maximum(n.sum(2), 1)
    second = (n * d2[:, :-1] + t1 * np.diff(d2, axis=1)).sum(1) / np.maximum(n.sum(1), 1)
    f = h - _rise(first)[:, :, None] - _rise(second)[:, None]
    across1, across2 = np.diff(f, axis=1), np.diff(f, axis=2)
    total = n * f[:, :-1, :-1] + t1 * across1[:, :, :-1] + t2 * across2[:, :-1] + t12 * np.diff(across1, axis=2)
    return f - total.sum((1, 2), keepdims=True) / n.sum((1, 2), keepdims=True)


def _rise(steps: np.ndarray) -> np.ndarray:
    """Return the running sum along the second axis, from zero."""
    return np.concatenate([np.zeros_like(steps[:, :1]), np.cumsum(steps, axis=1)], axis=1)
