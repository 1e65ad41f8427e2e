"""Diagrams of probabilities and distributions: reliability with its bars, and the relative operating characteristic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from physml._errors import closest, refuse
from physml.verify.distributions import CALIBRATION, QUANTILE
from physml.verify.matching import Dims, dims_of, label_of
from physml.verify.means import COUNT, Terms, counting, scored_dims, sums
from physml.verify.probabilities import CATEGORY, bin_edges, binned_sums, events_of
from physml.verify.resampling import along_of, block_of, counts_of, ends_of, expanded, require_blocks, sampled

LEVELS = tuple(np.round(np.arange(0.05, 0.96, 0.05), 2))
"""Levels at which the calibration of a distribution is seen."""


def reliability(
    forecast: xr.DataArray | xr.Dataset,
    truth: xr.DataArray,
    dim: Dims = ...,
    weights: xr.DataArray | None = None,
    *,
    bins: int | Sequence[float] = 10,
    levels: Sequence[float] | None = None,
    bars: str | None = "consistency",
    level: float = 0.95,
    along: str | None = None,
    block: int | None = None,
    n: int = 1000,
    seed: int = 0,
    member: str = "member",
    category: str = CATEGORY,
) -> xr.Dataset:
    """Return how often what was forecast with a probability came true: as often as it says, where the forecast is reliable.

    Parameters
    ----------
    forecast
        Probabilities of an event, or of classes along *category*; or a distribution as in :func:`physml.verify.crps`: a
        Dataset with NAME and NAME_std, quantiles or members. Of a distribution the events are that the truth lies at or below
        its quantiles, which is its probability integral transform, accumulated.
    truth, dim, weights
        As in :func:`physml.verify.brier` and :func:`physml.verify.crps`.
    bins
        Number of bins of probability, or their ends.
    levels
        Of a distribution: the levels; by default those of the forecast's quantiles, else each twentieth.
    bars
        ``"consistency"``: around the diagonal, where the frequencies of a reliable forecast would lie by chance if all cases
        were independent (Bröcker and Smith 2007). ``"bootstrap"``: around the frequencies, from blocks of time, which keeps the
        memory of the errors and what neighbours have in common. None: none.
    level, along, block, n, seed
        Of the bars, as in :func:`physml.verify.block_bootstrap`.
    member, category
        Names of the dimensions of members and of classes.

    Returns
    -------
    Dataset
        On (bin): ``probability``, the mean of those forecast in the bin (or the level), ``frequency``, ``count`` of the cases,
        and with bars ``low`` and ``high``.

    Raises
    ------
    ValueError
        As :func:`physml.verify.brier`, :func:`physml.verify.crps` and :func:`physml.verify.block_bootstrap`.

    References
    ----------
    Bröcker, J. and Smith, L. A. (2007), doi:10.1175/WAF993.1. Gneiting, T., Balabdaoui, F. and Raftery, A. E. (2007),
    doi:10.1111/j.1467-9868.2007.00587.x.

    Examples
    --------
    >>> p, o = xr.DataArray([0.1, 0.1, 0.9, 0.9], dims="x"), xr.DataArray([0, 1, 1, 1], dims="x")
    >>> reliability(p, o, bins=2).frequency.values.tolist()
    [0.5, 1.0]
    """
    kinds = ("consistency", "bootstrap", None)
    if bars not in kinds:
        refuse(
            f"unknown bars {bars!r}{closest(str(bars), kinds[:2])}",
            "'consistency', 'bootstrap' or None",
            bars,
            "correct bars",
        )
    spread = isinstance(forecast, xr.Dataset) or QUANTILE in forecast.dims or member in forecast.dims
    if spread:
        if levels is None:
            own = isinstance(forecast, xr.DataArray) and QUANTILE in forecast.dims
            levels = forecast[QUANTILE].values.tolist() if own else LEVELS
        terms = CALIBRATION.terms(forecast, truth, levels=levels, member=member)

        def totals(dims: Any) -> xr.Dataset:
            # Where all cases are in every bin, the sum of probabilities is the level times the cases.
            found = sums(terms, dims, weights)
            cases = found[COUNT].where(found["value"].notnull())
            number = sums(
                Terms(
                    {"n": xr.ones_like(terms.values["value"]).where(terms.values["value"].notnull())},
                    terms.absent,
                    truth,
                ),
                dims,
                counting(weights),
            )["n"]
            out = xr.Dataset({"cases": cases, "p": cases * found["probability"], "o": found["value"], "n": number})
            return out.rename(probability="bin").drop_vars("bin")

        absent = terms.absent
    else:
        assert isinstance(forecast, xr.DataArray)
        p, o = events_of(forecast, truth, category)
        absent = p.isnull() & o.notnull()
        edges = bin_edges(bins)

        def totals(dims: Any) -> xr.Dataset:
            return binned_sums(p, o, truth, dims, weights, edges).drop_vars(COUNT)

    dims = scored_dims(Terms({}, absent, truth), dim)
    whole = totals(dims)
    out = _diagram(whole)
    tail = 0.5 * (1 - level)
    if bars == "consistency":
        low, high = (_binomial(out, q) for q in (tail, 1 - tail))
        out = out.assign(low=low, high=high)
    elif bars == "bootstrap":
        along = along_of(dims, along, absent)
        by_time = totals([d for d in dims if d != along]).drop_vars(along, errors="ignore")
        size = by_time.sizes[along]
        if block is None:
            by_time = by_time.compute()
            filled = whole["cases"].where(whole["cases"] > 0)
            influence = size * (by_time["o"] - by_time["cases"] * whole["o"] / filled) / filled
            block = block_of([influence.compute()], along)
        require_blocks(block, size)
        drawn = sampled(by_time, along, counts_of(along, size, block, n, seed))
        frequency = drawn["o"] / drawn["cases"].where(drawn["cases"] > 0)
        # A sample without a case in a bin tells nothing of it.
        out = out.assign(_skipping(frequency, expanded(tail, size / block)))
    names = {
        "probability": f"forecast probability of {label_of(truth)}",
        "frequency": "observed frequency",
        "count": "number of cases",
        "low": f"lower end of the {bars} bars",
        "high": f"upper end of the {bars} bars",
    }
    for name in out.data_vars:
        out[name].attrs = {"long_name": names[str(name)], "units": "1"}
    numbers = ("bin", np.arange(out.sizes["bin"]), {"long_name": "bin of probability", "units": "1"})
    kind = "distribution" if spread else "probability"
    return out.assign_coords(bin=numbers).assign_attrs(bars=bars or "none", level=level, kind=kind)


def _diagram(totals: xr.Dataset) -> xr.Dataset:
    filled = totals["cases"].where(totals["cases"] > 0)
    count = totals["n"].fillna(0).astype("int64")
    return xr.Dataset({"probability": totals["p"] / filled, "frequency": totals["o"] / filled, "count": count})


def _binomial(diagram: xr.Dataset, q: float) -> xr.DataArray:
    """Return the quantile of the frequency in as many independent cases of the bin's probability."""
    from scipy import stats

    def quantile(n: np.ndarray, p: np.ndarray) -> np.ndarray:
        found: np.ndarray = stats.binom.ppf(q, np.maximum(n, 1), np.clip(p, 0, 1)) / np.maximum(n, 1)
        return np.where(n > 0, found, np.nan)

    return xr.apply_ufunc(
        quantile, diagram["count"], diagram.probability, dask="parallelized", output_dtypes=["float64"]
    )


def _skipping(sample: xr.DataArray, tail: float) -> dict[str, xr.DataArray]:
    full = sample.notnull().any("sample")
    return {k: v.where(full) for k, v in ends_of("", sample.fillna(sample.mean("sample")), tail).items()}


def roc(
    probability: xr.DataArray,
    truth: xr.DataArray,
    dim: Dims = ...,
    weights: xr.DataArray | None = None,
    *,
    thresholds: Sequence[float] | None = None,
    category: str = CATEGORY,
) -> xr.Dataset:
    """Return the relative operating characteristic: hits against false alarms as the threshold of a warning falls.

    Parameters
    ----------
    probability, truth, dim, weights, category
        As in :func:`physml.verify.brier`; each class is an event of its own, and kept.
    thresholds
        Probabilities, ascending; a warning is given at or above each. None: each hundredth. The area is exact where all
        probabilities lie on thresholds, and else that under the polygon, a lower bound for a concave curve.

    Returns
    -------
    Dataset
        On (threshold): ``hit_rate`` and ``false_alarm_rate``, from 0 at the threshold infinity to 1 at zero; ``area``, 0.5 for a
        forecast that knows nothing, 1 for a perfect one: the probability that of two cases the one with the event had the
        higher probability.

    Raises
    ------
    ValueError
        As :func:`physml.verify.brier`.

    References
    ----------
    Mason, S. J. and Graham, N. E. (2002), doi:10.1256/003590002320603584.

    Examples
    --------
    >>> p, o = xr.DataArray([0.1, 0.4, 0.35, 0.8], dims="x"), xr.DataArray([0, 0, 1, 1], dims="x")
    >>> roc(p, o).area.item()
    0.75
    """
    from scores.probability import roc_curve_data

    p, o = events_of(probability, truth, category)
    levels = np.linspace(0, 1, 101) if thresholds is None else np.asarray(list(thresholds), "float64")
    if not (np.diff(levels) > 0).all() or levels.min() < 0 or levels.max() > 1:
        refuse("the thresholds do not ascend", "ascending probabilities", levels.tolist(), "sort them")
    dims = dims_of(dim, p.isnull() & o.notnull())
    absent = p.isnull() & o.notnull()
    if p.chunks is not None:  # scores integrates over all entries that are kept at once
        p, o = (a.chunk({d: -1 for d in p.dims if d not in dims and d in a.dims}) for a in (p, o))
    # 0.29 must reach the threshold 0.29 whichever way each was rounded.
    found = roc_curve_data(p + 1e-10, o, levels, reduce_dims=dims, weights=_broadcast(weights, p), check_args=False)
    lost = absent.any(dims)
    out = xr.Dataset(
        {
            "hit_rate": found["POD"].where(~lost),
            "false_alarm_rate": found["POFD"].where(~lost),
            "area": found["AUC"].where(~lost),
        }
    )
    labels = {
        "hit_rate": "hits over events",
        "false_alarm_rate": "false alarms over cases without the event",
        "area": "area under the relative operating characteristic",
    }
    for name, long_name in labels.items():
        out[name].attrs = {"long_name": f"{long_name} of {label_of(truth)}", "units": "1"}
    out["threshold"].attrs = {"long_name": "threshold of probability", "units": "1"}
    return out


def _broadcast(weights: xr.DataArray | None, like: xr.DataArray) -> xr.DataArray | None:
    from physml.verify.matching import checked_weights

    return None if weights is None else checked_weights(weights, like).astype("float64")
