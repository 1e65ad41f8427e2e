"""Whether an ensemble is as uncertain as it is wrong: spread beside skill, and ranks of the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.verify.deterministic import bias, mse
from physml.verify.distributions import forecast_of
from physml.verify.matching import Dims, checked_weights, dims_of


def spread_skill(
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    *,
    member: str = "member",
    dim: Dims = ...,
    weights: xr.DataArray | None = None,
    bins: int = 10,
    error_std: float | xr.DataArray = 0.0,
) -> xr.Dataset:
    """Return the error of the ensemble mean beside the spread that should equal it, for cases of alike spread.

    For members and truth drawn from one distribution the mean square error of the mean of N members is (N + 1) / N times
    their variance, with N - 1 in its denominator (Fortin et al. 2014), plus the variance of the errors in the truth where
    observations stand for it. The spread here is the root of that expected mean square error. The spread of few
    members errs itself, which draws the bins at both ends apart from the diagonal: trust them from twenty members on.

    Parameters
    ----------
    ensemble, truth
        Members and truth; the dimension of the members is absent in the truth. Or a Dataset with NAME and NAME_std: the
        spread is then the standard deviation that a Gaussian forecast says.
    member
        Name of that dimension.
    dim
        Dimensions of the cases, all by default; the others are kept.
    weights
        Weights of the means, usually the cell area.
    bins
        Number of bins, each with as many cases as the others.
    error_std
        Standard deviation of the errors of the truth, where observations are taken for it.

    Returns
    -------
    Dataset
        ``spread``, ``rmse`` and ``count`` on (bin); over all cases together ``total_spread``, ``total_rmse`` and ``ratio``,
        spread over error: below one the ensemble is over-confident. NaN where a forecast is missing and the truth is known.
        Lazy where the input is; all cases of one result are then sorted in one piece.

    Raises
    ------
    ValueError
        Where there are not two members, fewer cases than bins, or dimensions, coordinates or units differ.

    References
    ----------
    Fortin, V. et al. (2014), doi:10.1175/JHM-D-14-0008.1.

    Examples
    --------
    >>> members = xr.DataArray([[1.0, 3.0], [1.0, -1.0]], dims=("member", "x"))
    >>> truth = xr.DataArray([1.0, np.sqrt(12.0) + 1.0], dims="x")
    >>> float(spread_skill(members, truth, bins=1).ratio)
    1.0
    """
    if isinstance(ensemble, xr.Dataset):
        f = forecast_of(ensemble, truth)
        assert f.std is not None
        squared, variance, truth = (f.values - f.truth) ** 2, f.std**2, f.truth
    else:
        size = require_members(ensemble, member, 2)
        squared = mse(ensemble.mean(member, skipna=False, keep_attrs=True), truth, dim=())
        variance = ensemble.astype("float64").var(member, ddof=1) * (size + 1) / size
    squared, variance = xr.align(squared, variance + error_std**2, join="inner", copy=False)
    # Infinity stands for a forecast that is missing where the truth is known.
    absent = squared.isnull() & truth.notnull()
    squared, variance = squared.where(~absent, np.inf), variance.where(~absent, np.inf)
    weight = (
        xr.ones_like(squared, dtype="float64")
        if weights is None
        else checked_weights(weights, squared).astype("float64")
    )
    cases = dims_of(dim, squared)
    core: list[Any] = [cases, cases, cases]
    parts = [a.broadcast_like(squared) for a in (squared, variance, weight)]
    parts = [a.chunk(dict.fromkeys(cases, -1)) if a.chunks is not None else a for a in parts]
    if squared.chunks is None and variance.chunks is not None:
        parts = [a.chunk() for a in parts]
    table = xr.apply_ufunc(
        lambda s, v, w: _binned(s, v, w, len(cases), bins),
        *parts,
        input_core_dims=core,
        output_core_dims=[["quantity", "bin"]],
        dask="parallelized",
        dask_gufunc_kwargs={"output_sizes": {"quantity": 3, "bin": bins + 1}},
        output_dtypes=["float64"],
    )
    attrs = {"units": truth.attrs["units"]} if "units" in truth.attrs else {}
    binned = table.isel(bin=slice(bins)).assign_coords(
        bin=("bin", np.arange(bins), {"long_name": "bin of spread", "units": "1"})
    )
    whole = table.isel(bin=bins)
    out = xr.Dataset()
    for i, (name, long_name) in enumerate(
        {"spread": "expected error of the ensemble mean", "rmse": "rmse of the ensemble mean"}.items()
    ):
        out[name] = binned.isel(quantity=i).assign_attrs(long_name=long_name, **attrs)
        out[f"total_{name}"] = whole.isel(quantity=i).assign_attrs(long_name=long_name, **attrs)
    out["count"] = (
        binned.isel(quantity=2).fillna(0).astype("int64").assign_attrs(long_name="number of cases", units="1")
    )
    out["ratio"] = (out.total_spread / out.total_rmse).assign_attrs(long_name="spread over error", units="1")
    return out


def _binned(squared: np.ndarray, variance: np.ndarray, weight: np.ndarray, axes: int, bins: int) -> np.ndarray:
    """Return spread, error and number of cases ``[..., 3, bin + 1]``, the last of all cases, over the last *axes*."""
    lead = squared.shape[: squared.ndim - axes]
    flat = [np.broadcast_to(a, squared.shape).reshape(*lead, -1) for a in (variance, squared, weight)]
    out = np.empty((*lead, 3, bins + 1))
    for at in np.ndindex(*lead):
        v, s, w = (a[at] for a in flat)
        valid = ~np.isnan(v) & ~np.isnan(s) & (w > 0)
        v, s, w = v[valid], s[valid], w[valid]
        if np.isinf(s).any():
            out[at] = np.nan
            continue
        if not 1 <= bins <= v.size:
            refuse("the bins do not fit the cases", f"1 to {v.size}, the number of cases", bins, "pass bins=10")
        order = np.array_split(np.argsort(v, kind="stable"), bins)
        for i, part in enumerate([*order, slice(None)]):
            out[at][:2, i] = [np.sqrt(np.average(a[part], weights=w[part])) for a in (v, s)]
            out[at][2, i] = v[part].size
    return out


def rank_histogram(
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    *,
    member: str = "member",
    dim: Dims = ...,
    error_std: float | xr.DataArray = 0.0,
    seed: int = 0,
) -> xr.Dataset:
    """Return how often the truth had each rank among the members: a flat histogram where it is one of them.

    Ties are broken at random; cases where the truth or a member is missing are left out. Where observations stand for the truth, their errors must be in the members too (Hamill
    2001): *error_std* adds them.

    Parameters
    ----------
    ensemble, truth, member
        As for :func:`spread_skill`.
    dim
        Dimensions to count over, all by default.
    error_std
        Standard deviation of the errors of the truth.
    seed
        Seed of the random numbers.

    Returns
    -------
    Dataset
        ``count`` on (rank), rank 0 below all members and N above; ``expected``, the flat count; ``chi2`` of the departure
        with N degrees of freedom, and ``p_value``, for independent cases; ``slope`` and ``convexity``, two parts of chi2 with
        sign (Jolliffe and Primo 2008), each standard normal if flat: slope > 0, the truth is often above the members;
        convexity > 0, a U: too little spread.

    Raises
    ------
    ValueError
        Where there are no members, or dimensions, coordinates or units differ.

    References
    ----------
    Hamill, T. M. (2001), doi:10.1175/1520-0493(2001)129<0550:IORHFV>2.0.CO;2. Jolliffe, I. T. and Primo, C. (2008),
    doi:10.1175/2007MWR2219.1.

    Examples
    --------
    >>> members = xr.DataArray([[0.0, 0.0], [1.0, 1.0]], dims=("member", "x"))
    >>> rank_histogram(members, xr.DataArray([0.5, 2.0], dims="x"))["count"].values.tolist()
    [0, 1, 1]
    """
    size = require_members(ensemble, member, 1)
    rng = np.random.default_rng(seed)
    above = bias(ensemble, truth, dim=())
    if not (np.isscalar(error_std) and error_std == 0):
        above = above + error_std * xr.DataArray(rng.standard_normal(above.shape), dims=above.dims)
    lower, ties = (above < 0).sum(member), (above == 0).sum(member)
    lot = xr.DataArray(rng.random(lower.shape), dims=lower.dims)
    rank = (lower + np.floor(lot * (ties + 1))).where(above.notnull().all(member), -1.0)
    dims = dims_of(dim, rank)
    counts = xr.concat([(rank == r).sum(dims) for r in range(size + 1)], "rank", coords="minimal", compat="override")
    counts = counts.assign_coords(rank=("rank", np.arange(size + 1), {"long_name": "rank of the truth", "units": "1"}))
    flat = counts.sum("rank") / (size + 1)
    departure = (counts - flat) / np.sqrt(flat)
    chi2 = (departure**2).sum("rank", skipna=False)
    ramp = np.arange(size + 1) - size / 2.0
    bowl = ramp**2 - (ramp**2).mean()
    shapes = {"slope": ramp, "convexity": bowl}
    out = xr.Dataset({"count": counts, "expected": flat, "chi2": chi2, "p_value": _upper_tail(chi2, size)})
    for name, shape in shapes.items():
        norm = np.linalg.norm(shape) or np.nan
        out[name] = (departure * xr.DataArray(shape / norm, dims="rank")).sum("rank", skipna=False)
    names = {
        "count": "number of cases",
        "expected": "number of cases in a flat histogram",
        "chi2": "chi-square of the departure from a flat histogram",
        "p_value": "probability of a larger chi-square",
        "slope": "slope of the histogram in standard deviations",
        "convexity": "convexity of the histogram in standard deviations",
    }
    for name, long_name in names.items():
        out[name].attrs = {"long_name": long_name, "units": "1"}
    return out


def require_members(ensemble: xr.DataArray, member: str, least: int) -> int:
    """Return the number of members; refuse too few."""
    if not isinstance(ensemble, xr.DataArray) or member not in ensemble.dims or ensemble.sizes[member] < least:
        received = dict(ensemble.sizes) if hasattr(ensemble, "sizes") else type(ensemble).__name__
        remedy = "pass one variable, and member= its dimension of members"
        refuse("the ensemble has too few members", f"{least} or more along {member!r}", received, remedy)
    return int(ensemble.sizes[member])


def _upper_tail(chi2: xr.DataArray, freedom: int) -> xr.DataArray:
    from scipy import stats

    return xr.apply_ufunc(lambda x: stats.chi2.sf(x, freedom), chi2, dask="parallelized", output_dtypes=["float64"])
