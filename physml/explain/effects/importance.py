"""Permutation importance: how much worse a model's predictions are scored when a group of inputs is shuffled.

All cells of a group take the values of one other sample, so that fields stay fields, and only the relation of the group to
the truth and to the other groups is cut.

======== ============================================ ======================================================
pass     backward                                     forward
======== ============================================ ======================================================
single   one group is shuffled, in turn               all are shuffled, one group is restored, in turn
multi    the most important group stays shuffled,     the most important group stays restored,
         the rest are tried again                     the rest are tried again
======== ============================================ ======================================================

References
----------
Breiman, L. (2001), Random forests, doi:10.1023/A:1010933404324.
Lakshmanan, V. et al. (2015), Which polarimetric variables are important ..., doi:10.1175/JTECH-D-13-00205.1.
McGovern, A. et al. (2019), Making the black box more transparent, doi:10.1175/BAMS-D-18-0195.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from physml import _progress
from physml._errors import closest, is_count, refuse
from physml.explain.effects.resampling import (
    Length,
    block_numbers,
    bootstrap_counts,
    month_labels,
    percentiles,
    permutation,
)
from physml.explain.effects.rows import MEMORY, Answers, Rows
from physml.explain.effects.scoring import EVENTS, Better, Score, score_of
from physml.explain.effects.shuffled import Shuffled
from physml.explain.effects.truth import truth_of
from physml.explain.models.adapting import adapt
from physml.explain.models.targets import bind
from physml.explain.players.groups import Groups
from physml.explain.players.groups import groups as players
from physml.provenance import stamp

if TYPE_CHECKING:
    from physml.explain.models.targets import Measure
    from physml.layout import Layout

KINDS = ("single", "multi")
DIRECTIONS = ("backward", "forward")


def permutation_importance(
    model: Any,
    ds: xr.Dataset,
    groups: Groups | None = None,
    target: Any = None,
    *,
    score: str | Callable[[Any, Any], float] = "rmse",
    better: Better | None = None,
    kind: Literal["single", "multi"] = "single",
    direction: Literal["backward", "forward"] = "backward",
    n_permutations: int = 10,
    block: Length = None,
    within: Literal["month"] | None = None,
    together: bool = True,
    permutations: np.ndarray | None = None,
    n_bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    truth: xr.DataArray | None = None,
    batch_rows: int | None = None,
    memory: int = MEMORY,
    layout: Layout | None = None,
    outputs: Sequence[str] | None = None,
) -> xr.Dataset:
    """Return how much each group of inputs matters to the score of a model's predictions.

    Parameters
    ----------
    model, target, layout, outputs
        As for :class:`physml.explain.Explainer`; the target may be a field, scored over its valid cells by area.
    ds
        Inputs and targets. Members are samples too. The result is computed at once. Lazy data are read at once where they
        take no more than *memory* bytes, else batch by batch through dask; shuffled samples then lie anywhere, which costs
        the least with a long *block*.
    groups
        What is shuffled: :func:`physml.explain.groups`; each input variable by default.
    score, better
        See :func:`physml.explain.scoring.score_of`; for a function, *better* says which values are, ``"smaller"`` or
        ``"larger"``. Cells where the truth is missing do not count; nor do, for one number, samples.
    kind, direction
        See the table above.
    n_permutations
        Random orders of the samples; the importance is the mean over them.
    block
        For samples that depend on each other in time: samples in a block, or its length (``"90D"``, ``"3MS"``). Blocks are
        shuffled, and resampled for the interval, as a whole.
    within
        ``"month"``: each sample takes the values of one of its own calendar month, so that the seasons stay.
    together
        True: all shuffled groups take the values of one other sample, and so stay in relation to each other. False: each
        group has an order of its own, which also cuts the relations among the shuffled. In a single backward pass there is
        no difference. (scikit-explain does the first going forward, the second going backward.)
    permutations
        Orders to use instead of random ones, ``[permutation, sample]`` or ``[permutation, group, sample]``.
    n_bootstrap, level
        Resamples, 0 for none, and probability of the interval.
    seed
        Of orders and resamples.
    truth
        The truth, where the model's outputs are not the targets of its layout.
    batch_rows
        Rows the model is given at a time; by default by size of the inputs.
    memory
        See *ds*; it holds for inputs and targets each, twice while they are read. Beside it a few blocks of 64 MiB are held, the
        bootstrap counts (2 bytes for each sample and resample), and for ``"auc"`` and functions all predictions of one order.

    Returns
    -------
    xarray.Dataset
        Along ``group``: ``importance``, the change of the score, positive where the group helps, in units of the score;
        ``relative_importance``, over the score of the unshuffled data; ``score`` with the group shuffled (restored, if
        forward); ``lower`` and ``upper``; ``rank``, 1 for the most important. ``importances`` along (group, permutation).
        ``original_score``, of the unshuffled data, and ``start_score``, before the first group. In several passes the change is
        that against the pass before, so that importances add up to the difference between all and none shuffled;
        ``rank`` is the number of the pass, and ``pass_score`` along (pass, group) holds the scores of all that were tried.

    Raises
    ------
    ValueError
        For unknown names, missing inputs, predictions that are not finite, and truth that is missing throughout.

    Notes
    -----
    The interval is the percentile interval of the importance over samples of the same size, for this model, averaged over the
    orders. A sample that is drawn c times counts c times where it is predicted, and c times in what changes where it lends
    its values: the pair (i, j) adds ``c_i h_ii + (c_i + c_j - 1)(h_ij - h_ii)``, the first order of the bootstrap of a statistic
    of pairs. A resample of rows alone would miss the lender's half. For functions pairs count ``c_i c_j`` times. Few orders,
    or an order for each group, make the interval somewhat wide; fewer than some fifty blocks make it narrow, as any bootstrap.
    In several passes the order of the groups is held as found.

    Examples
    --------
    >>> permutation_importance(model, test, groups(model.layout), score="rmse", block="1YS")  # doctest: +SKIP
    """
    for what, value, known in (("kind", kind, KINDS), ("direction", direction, DIRECTIONS)):
        if value not in known:
            refuse(f"{what} {value!r} is unknown{closest(str(value), known)}", known, repr(value), "correct it")
    if not is_count(n_permutations):
        refuse("n_permutations is out of range", "a whole number >= 1", repr(n_permutations), "leave it out")
    adapted = adapt(model, layout, None, outputs)
    layout, measure, rule = adapted.layout, bind(target, adapted.outputs), score_of(score, better)
    groups = players(layout) if groups is None else groups
    if groups.owner.shape != (*layout.shape, len(layout.inputs)):
        expected = f"Groups on [*space, channel] = {(*layout.shape, len(layout.inputs))}"
        refuse("groups do not fit the inputs of the model", expected, groups.owner.shape, "make them with its layout")
    rows = Rows(layout.pack(ds, "inputs", whole_window=True), layout, memory)
    sample = layout.spec.sample_dim
    blocks = block_numbers(rows.packed, sample, block)
    months = month_labels(rows.packed, sample, within)
    orders = (
        _drawn(blocks, months, n_permutations, 1 if together else len(groups), seed)
        if permutations is None
        else _checked(permutations, len(rows), len(groups))
    )
    counts = bootstrap_counts(np.random.default_rng([seed, 2]), blocks, n_bootstrap)
    answers = Answers(adapted, measure, rows.each, len(rows), batch_rows)
    true = truth_of(ds, adapted, measure, rows, memory, truth)
    shuffled = Shuffled(rows, true, answers, _cell_weights(layout, measure), rule, groups, orders, counts)
    if isinstance(score, str) and score in EVENTS:
        shuffled.check_events(measure.label)
    passes = 1 if kind == "single" else len(groups)
    with _progress.bar("permutation importance", passes) as done:
        found = _search(shuffled, rule, kind, direction, done)
    settings = {
        "method": f"permutation importance, {kind} pass, {direction}",
        "target": measure.label,
        "score": rule.name,
        "samples": len(rows),
        "permutations": len(orders),
        "permutation": "one order for all groups" if orders.shape[1] == 1 else "an order for each group",
        "block": "single samples" if block is None else f"{block} ({blocks[-1] + 1} blocks)",
        "within": within or "all samples",
        "seed": seed if permutations is None or n_bootstrap else "none",
        "rows": answers.rows,
        "reading": "at once" if rows.loaded else "batch by batch",
    }
    if n_bootstrap:
        settings["interval"] = f"{level:.0%} percentile interval of {n_bootstrap} bootstrap resamples of blocks"
    return _labelled(found, groups, measure, rule, direction, level, ds.attrs, settings)


def _search(
    shuffled: Shuffled, rule: Score, kind: str, direction: str, done: Callable[[int], None]
) -> dict[str, np.ndarray]:
    """Return the scores of all passes: each ``[..., permutation, 1 + resample]``."""
    n = len(shuffled.groups)
    backward = direction == "backward"
    sign = (1 if rule.better == "smaller" else -1) * (1 if backward else -1)
    original = shuffled.original
    shape = (len(shuffled.orders), len(original))
    before = np.broadcast_to(original, shape) if backward else shuffled.scores(np.ones((1, n), bool))[0]
    start, state = before, np.full(n, not backward)
    change, after = np.empty((2, n, *shape))
    rank, tried, left = np.zeros(n, int), np.full((n, n), np.nan), list(range(n))
    for number in range(1 if kind == "single" else n):
        states = np.tile(state, (len(left), 1))
        states[np.arange(len(left)), left] = backward
        scores = shuffled.scores(states)
        gain = sign * (scores - before)
        tried[number, left] = scores[..., 0].mean(1)
        if kind == "single":
            change, after = gain, scores
            rank[np.argsort(-gain[..., 0].mean(1), kind="stable")] = np.arange(1, n + 1)
            continue
        each = gain[..., 0].mean(1)
        # Twins must not change places by rounding: the first of equals goes first.
        best = int(np.argmax(each >= each.max() - 1e-12 * (abs(each).max() + abs(before[:, 0]).max())))
        group = left.pop(best)
        change[group], after[group], rank[group] = gain[best], scores[best], number + 1
        before, state = scores[best], states[best]
        done(1)
    return {"change": change, "after": after, "rank": rank, "tried": tried, "start": start, "original": original}


def _labelled(
    found: dict[str, np.ndarray],
    groups: Groups,
    measure: Measure,
    rule: Score,
    direction: str,
    level: float,
    attrs: Any,
    settings: dict[str, Any],
) -> xr.Dataset:
    units = rule.units(measure.units)
    about = {} if units is None else {"units": units}
    what = f"{rule.name} of {measure.label}"
    done = "shuffled" if direction == "backward" else "restored"
    change, original = found["change"], float(found["original"][0])

    def variable(dims: Any, values: Any, name: str, **more: str) -> tuple[Any, Any, dict[str, str]]:
        return dims, values, {"long_name": name, **about, **more}

    ratio = change[..., 0].mean(1) / abs(original) if original else np.full(len(groups), np.nan)
    out = {
        "importance": variable("group", change[..., 0].mean(1), f"importance: change of {what}"),
        "relative_importance": variable("group", ratio, f"change of {what} over its original value", units="1"),
        "score": variable("group", found["after"][..., 0].mean(1), f"{what}, group {done}"),
        "rank": variable("group", found["rank"], "rank, 1 for the most important", units="1"),
        "importances": variable(("group", "permutation"), change[..., 0], f"change of {what} in each permutation"),
        "original_score": variable((), original, f"{what}, nothing shuffled"),
        "start_score": variable((), found["start"][:, 0].mean(), f"{what}, before the first group"),
    }
    if change.shape[-1] > 1:
        ends = percentiles(np.moveaxis(change[..., 1:].mean(1), -1, 0), level)
        for name, end in zip(("lower", "upper"), ends, strict=True):
            out[name] = variable("group", end, f"{name} end of the {level:.0%} interval of the importance")
    if "multi pass" in settings["method"]:
        out["pass_score"] = variable(("pass", "group"), found["tried"], f"{what}, of each group tried in each pass")
        out["pass"] = ("pass", np.arange(1, len(groups) + 1), {"long_name": "pass", "units": "1"})
    result = xr.Dataset(out).assign_coords(groups.coords)
    result.attrs = {**attrs, **settings}
    return stamp(result, f"{settings['method']} of {what}")


def _drawn(blocks: np.ndarray, months: np.ndarray | None, n: int, each: int, seed: int) -> np.ndarray:
    """Return random orders ``[permutation, group or 1, sample]``."""
    orders = [
        [permutation(np.random.default_rng([seed, 1, r, g]), blocks, months) for g in range(each)] for r in range(n)
    ]
    return np.array(orders)


def _checked(permutations: np.ndarray, n: int, n_groups: int) -> np.ndarray:
    """Return given orders as ``[permutation, group or 1, sample]``."""
    orders = np.asarray(permutations)
    orders = orders[:, None] if orders.ndim == 2 else orders
    right = orders.ndim == 3 and orders.shape[1] in (1, n_groups) and orders.shape[2] == n and orders.dtype.kind in "iu"
    if not right or orders.min() < 0 or orders.max() >= n:
        refuse(
            "permutations are no orders of the samples",
            f"integers 0 to {n - 1}, [permutation, {n}] or [permutation, {n_groups}, {n}]",
            f"{orders.dtype} {np.shape(permutations)}",
            "leave them out for random ones",
        )
    return orders


def _cell_weights(layout: Layout, measure: Measure) -> np.ndarray:
    """Return the weight of each valid cell of the target: its area where it lies in space, else 1."""
    if measure.dims == layout.space and measure.dims:
        weights = layout.weights[measure.valid]
        return weights / weights.mean()
    return np.ones(int(measure.valid.sum()))
