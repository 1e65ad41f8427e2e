"""A separable function of a field, whose attribution is known: the ground truth for explanations.

The field x holds d ocean cells, standardised and correlated over the sphere like sea surface temperature,

    x ~ N(0, S),    S_ij = exp(-|r_i - r_j| / 0.5),    r a point of the unit sphere (so |r_i - r_j| is a chord),

and the target is a sum of functions of one cell each,

    y = sum_i c_i(x_i),    c_i(x) = C_i(x) / d,    C_i(x) = integral of s_i(t) dt from 0 to x,

where the slope s_i is constant between five breakpoints, the sextiles of the standard normal distribution: C_i is continuous,
piecewise linear and zero at zero. The six fields of slopes are themselves drawn from N(0, S), so that neighbouring cells
behave alike. c is then what every cell contributes to y against a field of zeros: Shapley values, occlusion and integrated
gradients of the function itself all equal it, and what those of a network differ by is the fault of network and method.

References
----------
Mamalakis, A., Ebert-Uphoff, I. and Barnes, E. A. (2022), Neural network attribution methods for problems in geoscience: a
novel synthetic benchmark dataset, doi:10.1017/eds.2022.7. There S is that of observed temperatures (COBE).

Examples
--------
>>> ds = simulate(5, seed=1)
>>> dict(ds.x.sizes), int(ds.ocean.sum())
({'sample': 5, 'lat': 18, 'lon': 36}, 460)
>>> float(abs(truth(ds).attribution.sum(["lat", "lon"]) - ds.y).max()) < 1e-12
True
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from physml import grid, provenance
from physml._errors import refuse
from physml.testbeds._arrays import namespace

__all__ = ["contributions", "function", "kinks", "simulate", "truth"]

Array = NDArray[np.float64]

LENGTH = 0.5  # of the correlations, a chord of the unit sphere
SEXTILES = (-0.967421566101701, -0.430727299295457, 0.0, 0.430727299295457, 0.967421566101701)
DRAWN_TOGETHER = 256  # samples by one generator, so that they depend on their number and not on the chunks

# South, north [degrees north], west and east [degrees east]: coarse continents for cells of 10 degrees.
LAND = (
    (-90, -80, 0, 360),  # Antarctica
    (-80, -70, 40, 160),
    (-35, 35, 10, 42),  # Africa
    (5, 35, -15, 12),
    (35, 75, 0, 140),  # Eurasia
    (10, 35, 70, 85),
    (10, 35, 98, 115),
    (-38, -12, 115, 150),  # Australia
    (30, 70, 235, 290),  # the Americas
    (10, 30, 255, 270),
    (-55, 10, 283, 318),
    (62, 83, 305, 335),  # Greenland
)


def simulate(
    n: int,
    *,
    shape: tuple[int, int] = (18, 36),
    seed: int = 0,
    slope_seed: int = 0,
    chunk: int | None = None,
) -> xr.Dataset:
    """Return samples of the field and of the target, with the function that made them.

    Parameters
    ----------
    n
        Number of samples; more samples begin with the fewer.
    shape
        Cells in (lat, lon), the whole sphere.
    seed
        Seed of the samples.
    slope_seed
        Seed of the function: the same for the samples a network learns from and those it is explained on.
    chunk
        Samples in a block of dask, drawn when they are needed; None draws all at once. The numbers are the same.

    Returns
    -------
    xr.Dataset
        ``x`` on (sample, lat, lon), NaN on land, ``y`` on (sample), both in float64; ``slope`` on (segment, lat, lon), zero on land,
        ``breakpoint`` on (knot), ``ocean`` and ``cell_area`` [m2] on (lat, lon).

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.
    """
    numbers = {"n": (n, 1), "seed": (seed, 0), "slope_seed": (slope_seed, 0)} | ({"chunk": (chunk, 1)} if chunk else {})
    for name, (value, lowest) in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < lowest:
            refuse(f"{name} is out of range", f"an integer >= {lowest}", repr(value), f"pass {name}={max(lowest, 100)}")
    if chunk == 0 or len(shape) != 2 or not all(isinstance(k, (int, np.integer)) and k >= 4 for k in shape):
        what, expected, got = (
            ("chunk", "an integer >= 1, or None", 0) if chunk == 0 else ("shape", "two integers >= 4", shape)
        )
        refuse(f"{what} is out of range", expected, got, f"leave {what} out")
    ny, nx = (int(k) for k in shape)
    ds = _sphere(ny, nx)
    ocean = ds.ocean.values
    root = _root(ny, nx)
    slope = np.zeros((len(SEXTILES) + 1, ny, nx))
    slope[:, ocean] = np.random.default_rng([slope_seed, 0]).standard_normal((len(slope), len(root))) @ root.T
    ds["slope"] = (
        ("segment", "lat", "lon"),
        slope,
        _attrs("slope of the contribution times the number of ocean cells"),
    )
    ds["breakpoint"] = ("knot", np.array(SEXTILES), _attrs("value of x between two segments"))
    dims = ("sample", "lat", "lon")
    if chunk is None:
        ds["x"] = (dims, _draw(0, n, seed, ocean))
    else:
        import dask.array as da

        starts = range(0, n, chunk)

        def block(block_info: Any = None) -> Array:
            start, stop = block_info[None]["array-location"][0]
            return _draw(start, stop, seed, ocean)

        chunks = (tuple(min(chunk, n - s) for s in starts), (ny,), (nx,))
        ds["x"] = (dims, da.map_blocks(block, chunks=chunks, dtype="float64", meta=np.empty((0, 0, 0))))
    ds["x"].attrs = _attrs("standardised anomaly") | {"cell_measures": "area: cell_area"}
    ds = ds.assign_coords(sample=("sample", np.arange(n), _attrs("number of the sample")))
    ds["y"] = truth(ds).y
    ds.attrs = {
        "Conventions": "CF-1.11",
        "title": "A separable function of a field with a known attribution",
        "source": "physml.testbeds.separable: Gaussian field, piecewise linear functions of single cells",
        "references": "https://doi.org/10.1017/eds.2022.7",
    }
    return provenance.stamp(ds, f"testbeds.separable.simulate, {n} samples, seed {seed}, slope seed {slope_seed}")


def truth(ds: xr.Dataset) -> xr.Dataset:
    """Return the true attribution of the fields of a Dataset, lazily where these are lazy.

    Parameters
    ----------
    ds
        From :func:`simulate`, or with its ``slope`` and ``breakpoint`` and any ``x`` on (..., lat, lon).

    Returns
    -------
    xr.Dataset
        ``attribution`` c_i(x_i), as ``x``, and its sum ``y``; float64.
    """
    c = xr.apply_ufunc(
        lambda x: contributions(x[..., None].astype("float64"), ds)[..., 0],
        ds.x.transpose(..., "lat", "lon"),
        input_core_dims=[["lat", "lon"]],
        output_core_dims=[["lat", "lon"]],
        dask="parallelized",
        output_dtypes=["float64"],
    )
    out = xr.Dataset({"attribution": c.where(ds.ocean), "y": c.where(ds.ocean).sum(["lat", "lon"])})
    out["attribution"].attrs, out["y"].attrs = _attrs("true contribution to y"), _attrs("sum of the contributions")
    return out


def contributions(x: Any, ds: xr.Dataset) -> Any:
    """Return c of the formula for any array or tensor of fields, in its precision.

    Parameters
    ----------
    x
        Fields ``[..., lat, lon, channel]`` of one channel; what they hold on land does not count as long as it is finite.
    ds
        The function: ``slope``, ``breakpoint`` and ``ocean`` of :func:`simulate`.
    """
    xp = namespace(x)
    slope = (ds.slope / ds.ocean.sum()).values[..., None]
    slope = slope.astype(x.dtype) if xp is np else xp.cast(slope, x.dtype)
    ends = [-np.inf, *ds.breakpoint.values.tolist(), np.inf]
    total = 0.0 * x
    for k, (low, high) in enumerate(itertools.pairwise(ends)):
        total = total + slope[k] * (xp.clip(x, low, high) - min(max(0.0, low), high))
    return total


def function(ds: xr.Dataset) -> Callable[[Any], Any]:
    """Return y as a function of arrays or tensors, ``[..., lat, lon, channel] -> [..., 1]``.

    Examples
    --------
    >>> ds = simulate(3, shape=(6, 12))
    >>> x = ds.x.fillna(0).values[..., None]
    >>> bool(np.allclose(function(ds)(x)[:, 0], ds.y, rtol=0, atol=1e-12))
    True
    """
    fixed = ds[["slope", "breakpoint", "ocean"]].compute()
    return lambda x: namespace(x).sum(contributions(x, fixed), axis=(-3, -2))


def kinks(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the values of x at which the slope of its contribution jumps, by variable: ``{"x": breakpoints [knot]}``.

    For methods that follow paths: ``explainer.gradients(ds, "integrated", kinks=kinks(ds))`` is exact on :func:`function`.
    """
    return {"x": ds.breakpoint}


def _sphere(ny: int, nx: int) -> xr.Dataset:
    """Return the grid: coordinates, ocean and areas."""
    lat, lon = (np.arange(ny) + 0.5) * 180 / ny - 90, (np.arange(nx) + 0.5) * 360 / nx
    ds = xr.Dataset(
        coords={
            "lat": ("lat", lat, {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}),
            "lon": ("lon", lon, {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}),
        }
    )
    land = np.zeros((ny, nx), bool)
    for south, north, west, east in LAND:
        land |= ((lat > south) & (lat < north))[:, None] & ((lon - west) % 360 < east - west)
    ds["ocean"] = (("lat", "lon"), ~land, {"long_name": "cell is ocean"})
    ds["cell_area"] = grid.cell_area(ds)
    return ds


@functools.lru_cache(maxsize=4)
def _root(ny: int, nx: int) -> Array:
    """Return L with L L^T = S over the ocean cells."""
    ds = _sphere(ny, nx)
    lat, lon = (np.radians(a)[ds.ocean.values] for a in np.meshgrid(ds.lat, ds.lon, indexing="ij"))
    r = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    chord = np.sqrt(np.maximum(2 - 2 * r @ r.T, 0))
    np.fill_diagonal(chord, 0)
    return np.linalg.cholesky(np.exp(-chord / LENGTH))


def _draw(start: int, stop: int, seed: int, ocean: NDArray[np.bool_]) -> Array:
    """Return the samples from *start* to *stop*, ``[sample, lat, lon]``, NaN on land."""
    root = _root(*ocean.shape)
    first, last = start // DRAWN_TOGETHER, -(-stop // DRAWN_TOGETHER)
    # One product for each generator: its rounding would otherwise depend on how many are drawn at once.
    drawn = [
        np.random.default_rng([seed, 1, k]).standard_normal((DRAWN_TOGETHER, len(root))) @ root.T
        for k in range(first, last)
    ]
    x = np.full((stop - start, *ocean.shape), np.nan)
    skipped = start - first * DRAWN_TOGETHER
    x[:, ocean] = np.concatenate(drawn)[skipped : skipped + stop - start]
    return x


def _attrs(long_name: str) -> dict[str, str]:
    return {"long_name": long_name, "units": "1"}
