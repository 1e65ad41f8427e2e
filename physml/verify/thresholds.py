"""Extremes: whether a forecast has as many, in the right places, and as far out as the truth."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.verify.classes import contingency
from physml.verify.matching import Dims, checked_weights, dims_of, in_units, label_of, paired, same_grid
from physml.verify.means import Terms, sums

QUANTILE = "quantile"
TABLE = {
    "frequency_bias": ("frequency_bias", "forecast events over events"),
    "hit_rate": ("probability_of_detection", "part of the events that was forecast"),
    "false_alarm_ratio": ("false_alarm_ratio", "part of the forecast events that did not happen"),
    "csi": ("critical_success_index", "critical success index"),
    "ets": ("equitable_threat_score", "equitable threat score"),
}


def extremes(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    dim: Dims = ...,
    weights: xr.DataArray | None = None,
    *,
    quantiles: Sequence[float] = (0.9, 0.95, 0.99),
    tail: str = "upper",
    threshold: xr.DataArray | None = None,
    convert_units: bool = False,
) -> xr.Dataset:
    """Return how a forecast does where the truth is extreme: beyond quantiles of its own.

    Parameters
    ----------
    forecast, truth, dim, weights, convert_units
        As in :func:`physml.verify.rmse`; quantiles are taken over *dim*, at each place if space is not in it.
    quantiles
        Levels of the truth beyond which an event lies.
    tail
        ``"upper"``: events lie above the quantiles; ``"lower"``: below, and levels such as 0.1 are meant.
    threshold
        Thresholds on ``quantile`` in the units of the truth, such as those of other years, in place of quantiles of this truth.

    Returns
    -------
    Dataset
        On (quantile): ``threshold``; of the events ``base_rate``, ``frequency_bias`` (1 is best), ``hit_rate``,
        ``false_alarm_ratio``, ``csi`` and ``ets`` (critical success index, and equitable threat score, which takes hits by
        chance off); ``quantile_bias``, the quantile of the forecast minus that of the truth.

    Raises
    ------
    ValueError
        Where a level is no probability, *tail* is neither, or as :func:`physml.verify.rmse`.

    References
    ----------
    Jolliffe, I. T. and Stephenson, D. B. (2012), Forecast Verification, chapter 3, doi:10.1002/9781119960003.

    Examples
    --------
    >>> truth = xr.DataArray(np.arange(100.0), dims="time")
    >>> found = extremes(truth + 5, truth, quantiles=[0.9])
    >>> float(found.frequency_bias.item()), float(found.hit_rate.item()), float(found.quantile_bias.item())
    (1.5, 1.0, 5.0)
    """
    if tail not in ("upper", "lower"):
        refuse("the tail is neither end", "'upper' or 'lower'", tail, "pass tail='upper'")
    f, o = paired(forecast, truth, convert_units)
    units = truth.attrs.get("units")
    dims = dims_of(dim, f)
    absent = f.isnull() & o.notnull()
    if threshold is None:
        levels = [float(q) for q in np.atleast_1d(np.asarray(quantiles, "float64"))]
        if not levels or not all(0 < q < 1 for q in levels):
            refuse("the quantiles are no probabilities", "between 0 and 1", levels, "quantiles=[0.9, 0.99]")
        bound = _quantiles(o, levels, [d for d in dims if d in o.dims], weights)
    else:
        if QUANTILE not in threshold.dims:
            refuse(
                "the thresholds have no levels",
                f"a dimension {QUANTILE!r}",
                threshold.dims,
                "expand_dims(quantile=[0.9])",
            )
        bound = in_units(threshold, truth, convert_units).astype("float64")
        place = same_grid(bound.isel({QUANTILE: 0}, drop=True), o, "threshold")
        bound = bound.assign_coords({d: place[d] for d in place.dims if d in place.coords})
        levels = threshold[QUANTILE].values.tolist() if QUANTILE in threshold.coords else []
    upper = tail == "upper"
    said, true = (f > bound, o > bound) if upper else (f < bound, o < bound)
    valid = o.notnull() & bound.notnull()
    cells = {"hits": said & true, "misses": ~said & true, "false": said & ~true, "rest": ~said & ~true}
    terms = Terms({k: (v + 0.0).where(valid) for k, v in cells.items()}, absent, truth)
    count = sums(terms, dims, weights)
    found = _scores(count)
    total = sum(count[k] for k in cells)
    out = xr.Dataset({"threshold": bound, "base_rate": (count["hits"] + count["misses"]) / total})
    for i, name in enumerate(TABLE):
        out[name] = found.isel(score=i)
    if threshold is None:
        lost = absent.any(dims)
        known = f.where(o.notnull())
        out["quantile_bias"] = (_quantiles(known, levels, dims, weights) - bound).where(~lost)
    return _described(out, truth, units, upper)


def _quantiles(
    data: xr.DataArray, levels: Sequence[float], dims: list[Hashable], weights: xr.DataArray | None
) -> xr.DataArray:
    data = data.chunk(dict.fromkeys(dims, -1)) if data.chunks is not None else data
    if weights is None:
        return data.quantile(levels, dims, skipna=True)
    weights = checked_weights(weights, data).astype("float64")
    known = [d for d in dims if d in weights.dims]
    whole = weights.chunk(dict.fromkeys(known, -1)) if weights.chunks is not None else weights
    found = data.weighted(whole).quantile(levels, dim=dims, skipna=True)
    # A single level loses its dimension there.
    return found if QUANTILE in found.dims else found.drop_vars(QUANTILE, errors="ignore").expand_dims(quantile=levels)


def _scores(count: xr.Dataset) -> xr.DataArray:
    def table(*cells: np.ndarray) -> np.ndarray:
        hits, misses, false, rest = np.broadcast_arrays(*cells)
        return np.stack(contingency(hits, misses, false, rest, [method for method, _ in TABLE.values()]), -1)

    return xr.apply_ufunc(
        table,
        *[count[k] for k in ("hits", "misses", "false", "rest")],
        output_core_dims=[["score"]],
        dask="parallelized",
        dask_gufunc_kwargs={"output_sizes": {"score": len(TABLE)}},
        output_dtypes=["float64"],
    )


def _described(out: xr.Dataset, truth: xr.DataArray, units: str | None, upper: bool) -> xr.Dataset:
    name, side = label_of(truth), "above" if upper else "below"
    labels = {
        "threshold": f"threshold of {name}",
        "base_rate": f"part of the cases {side} the threshold",
        "quantile_bias": f"quantile of the forecast minus that of {name}",
    } | {k: label for k, (_, label) in TABLE.items()}
    for k in out.data_vars:
        own = {"units": units} if units else {}
        out[k].attrs = {"long_name": labels[str(k)]} | (own if k in ("threshold", "quantile_bias") else {"units": "1"})
    return out.transpose(QUANTILE, ...)
