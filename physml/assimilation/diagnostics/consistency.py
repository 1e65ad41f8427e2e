"""Whether the error statistics that an analysis was given agree with its innovations, and what they should be.

With d the observations, xf and xa forecast and analysis, the innovation d - H xf, the residual d - H xa and the increment
H xa - H xf of an analysis with the right B and R have (Desroziers et al. 2005)

    <residual innovation> = R,      <increment innovation> = H B H^T,      <increment residual> = H A H^T,

where < > is the mean over many cases and A the covariance of the analysis error. With wrong B and R these means differ
from those that were used, and are better ones: use them, and look again.

References
----------
Desroziers, G., Berre, L., Chapnik, B. and Poli, P. (2005), doi:10.1256/qj.05.108.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from types import EllipsisType

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.provenance import same_units

Dims = str | Iterable[Hashable] | EllipsisType


def chi_square(
    innovation: xr.DataArray, innovation_std: xr.DataArray | float, *, dim: Dims = ..., level: float = 0.95
) -> xr.Dataset:
    """Return the mean square of innovations over their expected variance: 1 where B and R are right on the whole.

    Parameters
    ----------
    innovation
        d - H xf, NaN where there is no observation.
    innovation_std
        What is expected of it, the root of diag(H B H^T + R).
    dim
        Dimensions to average over, all by default.
    level
        Confidence of the interval.

    Returns
    -------
    Dataset
        ``chi2``, above one where errors are larger than expected; ``low`` and ``high``, between which it lies with the
        probability *level* if all is right and the innovations are independent; and ``count``.

    Examples
    --------
    >>> chi_square(xr.DataArray([2.0, -2.0], dims="time"), 2.0).chi2.item()
    1.0
    """
    square = (innovation.astype("float64") / innovation_std) ** 2
    dims = _dims(dim, square)
    count = square.notnull().sum(dims)
    out = xr.Dataset({"chi2": square.mean(dims), "count": count})
    out["low"], out["high"] = chi_square_interval(count, level)
    names = {"chi2": "chi-square of the innovations over their number", "count": "number of innovations"}
    names |= {"low": f"lower end of the {level:.0%} interval", "high": f"upper end of the {level:.0%} interval"}
    for name, long_name in names.items():
        out[name].attrs = {"long_name": long_name, "units": "1"}
    return out


def chi_square_interval(count: xr.DataArray, level: float = 0.95) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the interval of chi2 / count that holds *level* of all cases, for each number of observations.

    Examples
    --------
    >>> low, high = chi_square_interval(xr.DataArray(1000))
    >>> round(float(low), 2), round(float(high), 2)
    (0.91, 1.09)
    """
    from scipy import stats

    def end(n: np.ndarray, probability: float) -> np.ndarray:
        freedom = np.where(n > 0, n, 1)
        return np.where(n > 0, stats.chi2.ppf(probability, freedom) / freedom, np.nan)

    low, high = (
        xr.apply_ufunc(end, count, 0.5 + side * level / 2, dask="parallelized", output_dtypes=["float64"])
        for side in (-1, 1)
    )
    return low, high


def desroziers(
    innovation: xr.DataArray,
    residual: xr.DataArray,
    *,
    error_std: xr.DataArray | float | None = None,
    innovation_std: xr.DataArray | float | None = None,
    dim: Dims = ...,
    between: str | None = None,
) -> xr.Dataset:
    """Return the standard deviations of the errors of observations, forecast and analysis that the innovations suggest.

    Parameters
    ----------
    innovation, residual
        d - H xf and d - H xa, NaN where there is no observation.
    error_std
        sigma_o that the analysis used; adds by what factor to change it.
    innovation_std
        The root of diag(H B H^T + R) that it used; with *error_std* adds by what factor to change sigma_b.
    dim
        Dimensions to average over, all by default; leave out the one of instruments, levels or sites to see them apart.
    between
        A dimension of which all pairs are wanted: adds the covariance matrices ``R`` and ``B`` on
        (*between*, *between*_2), the second being H B H^T, made symmetric: means over the other dimensions in *dim*.

    Returns
    -------
    Dataset
        ``observation_error_std``, ``background_error_std``, ``analysis_error_std`` (both at the observations) and
        ``innovation_std`` in the units of the innovation, NaN where a variance came out negative; ``count``; and as far as
        asked for ``observation_error_factor`` and ``background_error_factor``, multiply the standard deviations used by them,
        ``R`` and ``B``.

    Raises
    ------
    ValueError
        Where the units of innovation and residual differ, or *between* is no dimension.

    References
    ----------
    Desroziers, G., Berre, L., Chapnik, B. and Poli, P. (2005), doi:10.1256/qj.05.108.

    Examples
    --------
    Innovations +-2 of which the analysis takes half: R and H B H^T are 2 each.

    >>> innovation = xr.DataArray([2.0, -2.0], dims="time")
    >>> found = desroziers(innovation, 0.5 * innovation)
    >>> round(float(found.observation_error_std) ** 2, 9), round(float(found.background_error_std) ** 2, 9)
    (2.0, 2.0)
    """
    units = _units(innovation, residual)
    before, after = innovation.astype("float64"), residual.astype("float64")
    before, after = before.where(after.notnull()), after.where(before.notnull())
    increment = before - after
    dims = _dims(dim, before)
    means = {
        "observation_error_std": (after * before, "observation error"),
        "background_error_std": (increment * before, "forecast error at the observations"),
        "analysis_error_std": (increment * after, "analysis error at the observations"),
        "innovation_std": (before * before, "innovation"),
    }
    out = xr.Dataset({"count": before.notnull().sum(dims)})
    out["count"].attrs = {"long_name": "number of innovations", "units": "1"}
    variance = {name: product.mean(dims) for name, (product, _) in means.items()}
    for name, (_, what) in means.items():
        std = variance[name].where(variance[name] >= 0) ** 0.5
        out[name] = std.assign_attrs(long_name=f"standard deviation of the {what}", **units)
    if error_std is not None:
        used = (xr.ones_like(before) * error_std**2).where(before.notnull())
        ratio = out.observation_error_std / np.sqrt(used.mean(dims))
        out["observation_error_factor"] = ratio.assign_attrs(long_name="suggested over used sigma_o", units="1")
        if innovation_std is not None:
            used = (xr.ones_like(before) * innovation_std**2).where(before.notnull()) - used
            ratio = out.background_error_std / np.sqrt(used.mean(dims))
            out["background_error_factor"] = ratio.assign_attrs(long_name="suggested over used sigma_b", units="1")
    if between is not None:
        if between not in before.dims:
            refuse(f"the innovation has no dimension {between!r}", f"one of {before.dims}", between, "correct between")
        over = [d for d in dims if d != between]
        squared = {"units": f"({units['units']})2" if units["units"] != "1" else "1"} if units else {}
        for name, left in (("R", after), ("B", increment)):
            other = before.rename({between: f"{between}_2"})
            matrix = (left * other).mean(over)
            turned = matrix.rename({between: f"{between}_2", f"{between}_2": between}).transpose(*matrix.dims)
            what = "observation error" if name == "R" else "forecast error at the observations"
            out[name] = (0.5 * (matrix + turned)).assign_attrs(long_name=f"covariance of the {what}", **squared)
    return out


def influence(innovation: xr.DataArray, residual: xr.DataArray, error_std: xr.DataArray | float) -> xr.DataArray:
    """Return estimates of the influence of each observation on its own analysis, d(H xa) / dd, right on average.

    increment x residual / sigma_o^2 has the mean diag(H K) where B and R are right (Lupu et al. 2011): a single value means
    little, and a mean over many is the part of an analysis that comes from observations rather than from the forecast.

    References
    ----------
    Lupu, C., Gauthier, P. and Laroche, S. (2011), doi:10.1175/2010MWR3404.1.

    Examples
    --------
    >>> innovation = xr.DataArray([2.0, -2.0], dims="time")
    >>> influence(innovation, 0.5 * innovation, np.sqrt(2.0)).mean().round(9).item()
    0.5
    """
    _units(innovation, residual)
    out = (innovation - residual) * residual / error_std**2
    return out.assign_attrs(long_name="influence of the observation", units="1").rename("influence")


def dfs(influence: xr.DataArray, *, by: str | None = None, dim: Dims = ...) -> xr.Dataset:
    """Return the degrees of freedom for signal, the sum of the influences: how many numbers the observations determine.

    Parameters
    ----------
    influence
        d(H xa) / dd of each observation, of :class:`physml.assimilation.BLUE` or estimated by :func:`influence`; NaN where
        there is none.
    by
        Name of a coordinate, such as an instrument, to sum over each of its values apart.
    dim
        Dimensions to sum over, all by default. Not with *by*.

    Returns
    -------
    Dataset
        ``dfs``; ``count``; and ``per_observation``, their ratio.

    References
    ----------
    Cardinali, C., Pezzulli, S. and Andersson, E. (2004), doi:10.1256/qj.03.205.

    Examples
    --------
    >>> sites = {"kind": ("m", ["ship", "buoy", "buoy"])}
    >>> dfs(xr.DataArray([0.2, 0.5, 0.7], sites, ["m"]), by="kind").dfs.values.round(3).tolist()
    [1.2, 0.2]
    """
    if by is not None and (by not in influence.coords or dim is not ...):
        refuse(f"cannot sum by {by!r}", f"one of {list(influence.coords)}, and dim=...", (by, dim), "correct by or dim")
    if by is None:
        dims = _dims(dim, influence)
        total, count = influence.sum(dims), influence.notnull().sum(dims)
    else:
        label = influence[by].broadcast_like(influence)
        groups = influence.assign_coords({by: label}).groupby(by)
        total, count = groups.sum(...), influence.notnull().assign_coords({by: label}).groupby(by).sum(...)
    out = xr.Dataset({"dfs": total, "count": count, "per_observation": total / count})
    names = {"dfs": "degrees of freedom for signal", "count": "number of observations"}
    for name, long_name in (names | {"per_observation": "influence of an observation"}).items():
        out[name].attrs = {"long_name": long_name, "units": "1"}
    return out


def _dims(dim: Dims, data: xr.DataArray) -> list[Hashable]:
    if dim is ...:
        return list(data.dims)
    dims: list[Hashable] = [dim] if isinstance(dim, str) else list(dim)
    for name in dims:
        if name not in data.dims:
            refuse(f"the innovation has no dimension {name!r}", f"some of {data.dims}", dims, "correct dim")
    return dims


def _units(innovation: xr.DataArray, residual: xr.DataArray) -> dict[str, str]:
    """Return the units of innovations and residuals of the same observations."""
    if dict(innovation.sizes) != dict(residual.sizes):
        remedy = "compute both from the same array of observations: seen - forecast and seen - analysis"
        refuse(
            "innovation and residual are not of the same observations",
            dict(innovation.sizes),
            dict(residual.sizes),
            remedy,
        )
    try:
        xr.align(innovation, residual, join="exact", copy=False)
    except ValueError:
        refuse("innovation and residual have different labels", "the same", "others", "xr.align them first")
    ours, theirs = innovation.attrs.get("units"), residual.attrs.get("units")
    if ours and theirs and not same_units(ours, theirs):
        refuse("innovation and residual have different units", ours, theirs, "convert one")
    units = ours or theirs
    return {"units": units} if units else {}
