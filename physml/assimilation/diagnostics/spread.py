"""Whether an ensemble is as uncertain as it is wrong: spread beside skill, ranks of the truth, CRPS.

All functions take labelled arrays, check units and coordinates as :mod:`physml.verify` does (root mean square errors are
``physml.verify.rmse``), and stay lazy where their input is, except for the bins of :func:`spread_skill`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from types import EllipsisType
from typing import Any

import numpy as np
import xarray as xr

from physml import verify
from physml._errors import refuse

Dims = str | Iterable[Hashable] | EllipsisType


def spread_skill(
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    *,
    member: str = "member",
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
        Members and truth; the dimension of the members is absent in the truth.
    member
        Name of that dimension.
    bins
        Number of bins, each with as many cases as the others.
    error_std
        Standard deviation of the errors of the truth, where observations are taken for it.

    Returns
    -------
    Dataset
        ``spread``, ``rmse`` and ``count`` on (bin); over all cases together ``total_spread``, ``total_rmse`` and ``ratio``,
        spread over error: below one the ensemble is over-confident.

    Raises
    ------
    ValueError
        Where there are not two members, no case, or dimensions, coordinates or units differ.

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
    size = _members(ensemble, member, 2)
    error = verify.rmse(ensemble.mean(member, keep_attrs=True), truth, dim=())
    expected = ensemble.astype("float64").var(member, ddof=1) * (size + 1) / size + error_std**2
    both = xr.Dataset({"error": error**2, "expected": expected.where(error.notnull())}).compute()
    squared, variance = (both[k].broadcast_like(both.error).values.ravel() for k in ("error", "expected"))
    valid = np.isfinite(squared) & np.isfinite(variance)
    squared, variance = squared[valid], variance[valid]
    if not 1 <= bins <= squared.size:
        refuse("the bins do not fit the cases", f"1 to {squared.size}, the number of cases", bins, "pass bins=10")
    order = np.array_split(np.argsort(variance, kind="stable"), bins)
    attrs = {"units": error.attrs["units"]} if "units" in error.attrs else {}
    what = {
        "spread": ("expected error of the ensemble mean", variance),
        "rmse": ("rmse of the ensemble mean", squared),
    }
    out = xr.Dataset(coords={"bin": ("bin", np.arange(bins), {"long_name": "bin of spread", "units": "1"})})
    for name, (long_name, values) in what.items():
        roots = np.array([np.sqrt(values[part].mean()) for part in order])
        out[name] = ("bin", roots, {"long_name": long_name, **attrs})
        out[f"total_{name}"] = ((), float(np.sqrt(values.mean())), {"long_name": long_name, **attrs})
    out["count"] = ("bin", [len(part) for part in order], {"long_name": "number of cases", "units": "1"})
    out["ratio"] = (out.total_spread / out.total_rmse).assign_attrs(long_name="spread over error", units="1")
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

    Ties are broken at random. Where observations stand for the truth, their errors must be in the members too (Hamill
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
    size = _members(ensemble, member, 1)
    rng = np.random.default_rng(seed)
    above = verify.bias(ensemble, truth, dim=())
    if not (np.isscalar(error_std) and error_std == 0):
        above = above + error_std * xr.DataArray(rng.standard_normal(above.shape), dims=above.dims)
    lower, ties = (above < 0).sum(member), (above == 0).sum(member)
    lot = xr.DataArray(rng.random(lower.shape), dims=lower.dims)
    rank = (lower + np.floor(lot * (ties + 1))).where(above.notnull().all(member), -1.0)
    dims = list(rank.dims) if dim is ... else [dim] if isinstance(dim, str) else list(dim)
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


def crps(
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    *,
    member: str = "member",
    dim: Dims = ...,
    weights: xr.DataArray | None = None,
    fair: bool = True,
) -> xr.DataArray:
    """Return the continuous ranked probability score, the mean absolute error of a distribution.

    Parameters
    ----------
    ensemble, truth, member
        As for :func:`spread_skill`.
    dim
        Dimensions to average over, all by default.
    weights
        Weights of the average, usually the cell area.
    fair
        True: as of an ensemble without end from which the members are drawn (Ferro 2014); False: of the members themselves.

    Returns
    -------
    DataArray
        In the units of the truth; smaller is better.

    Raises
    ------
    ValueError
        Where there are too few members, or dimensions, coordinates or units differ.

    References
    ----------
    Hersbach, H. (2000), doi:10.1175/1520-0434(2000)015<0559:DOTCRP>2.0.CO;2. Ferro, C. A. T. (2014), doi:10.1002/qj.2270.

    Examples
    --------
    >>> members = xr.DataArray([[0.0], [2.0]], dims=("member", "x"))
    >>> crps(members, xr.DataArray([1.0], dims="x"), fair=False).item()
    0.5
    """
    from scores.probability import crps_for_ensemble

    _members(ensemble, member, 2 if fair else 1)
    # The score depends on the departures alone, and these are checked and in the units of the truth.
    error = verify.bias(ensemble.chunk({member: -1}) if ensemble.chunks else ensemble, truth, dim=())
    method: Any = "fair" if fair else "ecdf"
    zero = xr.zeros_like(error.isel({member: 0}, drop=True))
    pointwise = crps_for_ensemble(error, zero, member, method=method, preserve_dims="all")
    dims = list(pointwise.dims) if dim is ... else [dim] if isinstance(dim, str) else list(dim)
    out = pointwise.mean(dims) if weights is None else pointwise.weighted(weights).mean(dims)
    units = {"units": error.attrs["units"]} if "units" in error.attrs else {}
    return out.assign_attrs(long_name="continuous ranked probability score", **units).rename("crps")


def _members(ensemble: xr.DataArray, member: str, least: int) -> int:
    if not isinstance(ensemble, xr.DataArray) or member not in ensemble.dims or ensemble.sizes[member] < least:
        received = dict(ensemble.sizes) if hasattr(ensemble, "sizes") else type(ensemble).__name__
        remedy = "pass one variable, and member= its dimension of members"
        refuse("the ensemble has too few members", f"{least} or more along {member!r}", received, remedy)
    return int(ensemble.sizes[member])


def _upper_tail(chi2: xr.DataArray, freedom: int) -> xr.DataArray:
    from scipy import stats

    return xr.apply_ufunc(lambda x: stats.chi2.sf(x, freedom), chi2, dask="parallelized", output_dtypes=["float64"])
