"""Attributions of many samples in a few numbers: their mean and mean absolute value, with intervals.

References
----------
Kuensch, H. R. (1989), The jackknife and the bootstrap for general stationary observations, doi:10.1214/aos/1176347265.
Politis, D. N. and Romano, J. P. (1992), A circular block-resampling procedure for stationary data, in Exploring the limits of
bootstrap, Wiley, 263-270.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import xarray as xr

from physml import grid
from physml._errors import refuse
from physml.explain.shapley.sweep import accept_level, t_quantile
from physml.provenance import stamp


def summary(
    result: xr.Dataset,
    *,
    sample: str | None = None,
    space: bool = True,
    weights: xr.DataArray | None = None,
    block: int | None = None,
    draws: int = 500,
    seed: int = 0,
    level: float = 0.95,
) -> xr.Dataset:
    """Return mean and mean absolute attributions over samples, with intervals that know that samples follow each other.

    Members, and space where a field is explained, are averaged at every sample first. The intervals say how the means would
    vary with other samples of the same length; they include the error of sampled attributions.

    Parameters
    ----------
    result
        Attributions, of :meth:`Explainer.shapley` or another method; lazy where that is.
    sample
        Dimension of the samples; default the first that carries dates, or else ``time``, or else the only one.
    space
        Whether to average over the cells of a field too; False: maps of means.
    weights
        Of the cells in that mean; default their area where there are latitude and longitude, else alike.
    block
        Samples that are drawn together by the circular block bootstrap: more than those that resemble each other; default
        ``n^(1/3)``, rounded up. 1: the samples are independent, and the intervals are Student's.
    draws, seed
        Number of bootstrap samples, and the seed of the draw.
    level
        Of the intervals.

    Returns
    -------
    xarray.Dataset
        ``mean`` and ``mean_absolute`` on (group, ...), each with ``_lower`` and ``_upper`` ends; ``noise``, the root mean square
        standard error of the attributions: a mean absolute value that is no larger is not told from zero.

    Raises
    ------
    ValueError
        Where the dimension of the samples is not clear, there are fewer than two, or a block is longer than they are.

    Examples
    --------
    >>> one = xr.Dataset({"attribution": (("group", "time"), [[1.0, 3.0], [-1.0, 1.0]])})
    >>> summary(one, block=1).mean_absolute.values
    array([2., 1.])
    """
    accept_level(level)
    sample = _sample(result) if sample is None else sample
    n = result.sizes[sample]
    block = int(np.ceil(n ** (1 / 3))) if block is None else block
    if not 1 <= block <= n or n < 2:
        refuse(
            "blocks do not fit the samples", f"2 or more samples, 1 <= block <= {n}", f"{n}, {block}", "pass block=1"
        )
    attribution = result["attribution"]
    over = [d for d in attribution.dims if d not in ("group", "group_other", "channel", "output", sample)]
    if not space:
        over = [d for d in over if d not in _space(result)]
    ours = _weights(result, over) if weights is None else weights

    def averaged(values: xr.DataArray) -> xr.DataArray:
        if not over:
            return values
        return values.mean(over) if ours is None else values.weighted(ours.fillna(0)).mean(over)

    found = {}
    for name, values in (("mean", attribution), ("mean_absolute", abs(attribution))):
        series = averaged(values)
        mean = series.mean(sample)
        half = _half_width(series, sample, block, draws, seed, level)
        lower = mean - half if name == "mean" else (mean - half).clip(min=0)
        about = {"units": attribution.attrs["units"]} if "units" in attribution.attrs else {}
        label = f"{name.replace('_', ' ')} {attribution.attrs.get('long_name', 'attribution')}"
        for what, end, text in (
            (name, mean, ""),
            (f"{name}_lower", lower, "lower end of the "),
            (f"{name}_upper", mean + half, "upper end of the "),
        ):
            found[what] = end.assign_attrs(long_name=text + label, **about)
    if "stderr" in result:
        about = {k: v for k, v in result.stderr.attrs.items() if k == "units"}
        noise = averaged(result["stderr"] ** 2).mean(sample) ** 0.5
        found["noise"] = noise.assign_attrs(long_name="root mean square standard error of the attributions", **about)
    out = xr.Dataset(found, attrs=result.attrs)
    out.attrs |= {"samples": n, "block": block, "summary_level": level}
    return stamp(out, f"mean attributions of {n} samples")


def mean_absolute(result: xr.Dataset, **settings: object) -> xr.DataArray:
    """Return the mean absolute attribution of each group, the largest first; *settings* as for :func:`summary`."""
    found = summary(result, **settings)["mean_absolute"]  # type: ignore[arg-type]
    order = np.argsort(-found.mean([d for d in found.dims if d != "group"]).values, kind="stable")
    return found.isel(group=order)


def _half_width(series: xr.DataArray, sample: str, block: int, draws: int, seed: int, level: float) -> xr.DataArray:
    n = series.sizes[sample]
    if block == 1:
        return series.std(sample, ddof=1) / np.sqrt(n) * float(t_quantile(n - 1, level))
    rng = np.random.default_rng(seed)
    count = -(-n // block)
    start = rng.integers(n, size=(draws, count))
    drawn = ((start[..., None] + np.arange(block)) % n).reshape(draws, -1)[:, :n]
    times = np.zeros((draws, n))
    np.add.at(times, (np.arange(draws)[:, None], drawn), 1)
    means = xr.dot(series, xr.DataArray(times / n, dims=("draw", sample)), dim=sample)
    # Few blocks know their spread badly: as many degrees of freedom as there are blocks, less one.
    return means.std("draw", ddof=1) * float(t_quantile(max(count - 1, 1), level))


def _sample(result: xr.Dataset) -> str:
    dims = [str(d) for d in result["attribution"].dims if d not in ("group", "group_other", "channel")]
    dated = [d for d in dims if d in result.coords and result[d].dtype.kind in "MO"]
    for d in [*dated, *(d for d in dims if d == "time"), *(dims if len(dims) == 1 else [])]:
        return d
    refuse("the dimension of the samples is not clear", "one with dates, or sample=...", dims, "pass sample='time'")


def _space(result: xr.Dataset) -> set[Hashable]:
    """Return the dimensions of the target: those that the number of rows of each sample does not have."""
    dims = set(result["attribution"].dims) - {"group", "group_other", "channel"}
    return dims - set(result["rows"].dims) if "rows" in result else dims


def _weights(result: xr.Dataset, over: list[Hashable]) -> xr.DataArray | None:
    try:
        area = grid.cell_area(result)
    except (ValueError, KeyError):
        return None
    return area if set(area.dims) <= set(over) else None
