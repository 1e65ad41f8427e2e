"""Monthly sea surface temperature of an idealised ocean: seasons, an El Nino-like oscillation and red noise.

The temperature [degC] of month t (0 is the January of the first year) at latitude y and longitude x is

    T = max(-1.8, M(y, x) + S(y, t) + a(t) E(y, x) + b(t) N(y, x) + e(t, y, x)),

    M = -1.8 + 30 cos(y)^2 + 1.5 exp(-(y/15)^2) cos(x - 150),      mean: warm west, cold east of the Pacific
    S = -5 sin(y) |sin(2 y)|^(1/2) cos(2 pi (t - 1.5) / 12),       seasons: coldest at the end of February in the north
    E = exp(-(y/8)^2 - ((x - 220)/45)^2),                          the tongue of the eastern Pacific
    N = sin(2 (y - 15)) exp(-((y - 35)/20)^2 - ((x - 190)/40)^2),  a dipole of the North Pacific

with x in degrees east and every longitude difference taken the short way round. The index a is a damped oscillator
driven by noise, the recharge oscillator in its simplest form: z = a + i c obeys

    z(t+1) = exp(-1/18 + 2 pi i / 48) z(t) + q (xi + i eta),

a period of 48 months that forgets itself in 18, with q such that a has a standard deviation of 0.8 degC. The
index b is an AR(1) process of Hasselmann's (1976) kind with an e-folding time of 24 months and a standard deviation of
0.7 degC, and e one with 3 months and 0.4 degC, from white noise smoothed over two cells. xi, eta and the rest are
independent standard normal numbers, and every process starts from its stationary distribution. So a forecast has a
known answer: without e and the clip, the best forecast of a is the real part of exp(n(-1/18 + 2 pi i/48)) z(t).

Below the surface, at depth d [m], the mean and the anomalies decay separately:

    T(d) = max(-1.8, D + (M - D) exp(-d/400) + S exp(-d/40) + (a E + b N + e) exp(-d/120)),   D = 1 + 2 cos(y)^2.

References
----------
Hasselmann, K. (1976), doi:10.1111/j.2153-3490.1976.tb00696.x.

Examples
--------
>>> ds = simulate(n_years=2, shape=(18, 36))
>>> dict(ds.sst.sizes)
{'time': 24, 'lat': 18, 'lon': 36}
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from physml._errors import describe
from physml.grid import EARTH_RADIUS

__all__ = ["simulate"]

Array = NDArray[np.float64]

FREEZING = -1.8  # degC
START = "2000-01"
PERIOD, MEMORY, ENSO_SD = 48.0, 18.0, 0.8  # months, months, degC
PACIFIC_MEMORY, PACIFIC_SD = 24.0, 0.7
NOISE_MEMORY, NOISE_SD = 3.0, 0.4

# South, north [degrees north], west and east [degrees east]: boxes are enough for coasts, straits and closed basins.
LAND = (
    (-90, -72, 0, 360),  # Antarctica
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
    *,
    n_years: int = 10,
    shape: tuple[int, int] = (36, 72),
    seed: int = 0,
    members: int | None = None,
    depths: Sequence[float] | None = None,
) -> xr.Dataset:
    """Return months of temperature, NaN on land, with the indices that made them.

    Parameters
    ----------
    n_years
        Length; a longer series begins with the shorter one.
    shape
        Cells in (lat, lon), the whole sphere.
    seed
        Seed of the random numbers.
    members
        Number of realisations that share mean and seasons; none makes one, without the dimension.
    depths
        Depths [m] of levels, which adds ``temp`` on (time, depth, lat, lon) and leaves ``sst`` the surface.

    Returns
    -------
    xr.Dataset
        ``sst`` [degC] on (member, time, lat, lon) in float32, ``enso`` and ``recharge`` (a and c) and ``pacific`` (b)
        [degC] on (member, time), ``wet`` and ``cell_area`` [m2] on (lat, lon).

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    Examples
    --------
    >>> ds = simulate(n_years=1, shape=(12, 24), members=2, depths=[0.0, 100.0])
    >>> dict(ds.temp.sizes)
    {'member': 2, 'time': 12, 'depth': 2, 'lat': 12, 'lon': 24}
    """
    depth = _check(n_years, shape, seed, members, depths)
    ny, nx = (int(n) for n in shape)
    lat = (np.arange(ny) + 0.5) * 180.0 / ny - 90.0
    lon = (np.arange(nx) + 0.5) * 360.0 / nx
    y, x = np.radians(lat)[:, None], lon[None, :]
    wet = _wet(lat, lon)

    mean = FREEZING + 30 * np.cos(y) ** 2 + 1.5 * np.exp(-((lat[:, None] / 15) ** 2)) * np.cos(np.radians(x - 150))
    months = np.arange(12 * n_years)
    seasons = -5 * np.cos(2 * np.pi * (months[:, None] - 1.5) / 12) * (np.sin(y) * np.sqrt(abs(np.sin(2 * y)))).T
    tongue = np.exp(-((lat[:, None] / 8) ** 2) - (_apart(x, 220) / 45) ** 2)
    dipole = np.sin(2 * (y - np.radians(15))) * np.exp(-(((lat[:, None] - 35) / 20) ** 2) - (_apart(x, 190) / 40) ** 2)

    realisations = [_indices(seed, m, len(months)) for m in range(members or 1)]
    enso, recharge, pacific = (np.stack(index) for index in zip(*realisations, strict=True))
    anomaly = np.stack([_noise(seed, m, len(months), (ny, nx)) for m in range(members or 1)])
    anomaly += enso[..., None, None] * tongue + pacific[..., None, None] * dipole
    seasons = seasons[:, :, None]
    sst = np.where(wet, np.maximum(FREEZING, mean + seasons + anomaly), np.nan).astype("float32")

    lead = ("member", "time")
    kept = {
        "standard_name": "sea_surface_temperature",
        "cell_methods": "time: mean",
        "cell_measures": "area: cell_area",
    }
    data = {
        "sst": ((*lead, "lat", "lon"), sst, _attrs("sea surface temperature", "degC") | kept),
        "enso": (lead, enso, _attrs("amplitude of the El Nino-like oscillation", "degC")),
        "recharge": (lead, recharge, _attrs("other phase of the El Nino-like oscillation", "degC")),
        "pacific": (lead, pacific, _attrs("amplitude of the North Pacific dipole", "degC")),
        "wet": (("lat", "lon"), wet, {"long_name": "cell is ocean"}),
        "cell_area": (("lat", "lon"), _areas(ny, nx), _attrs("cell area", "m2") | {"standard_name": "cell_area"}),
    }
    if depth is not None:
        deep = 1 + 2 * np.cos(y) ** 2
        d = depth[:, None, None]
        below = deep + (mean - deep) * np.exp(-d / 400) + seasons[:, None] * np.exp(-d / 40)
        temp = np.maximum(FREEZING, below + anomaly[:, :, None] * np.exp(-d / 120))
        named = _attrs("sea water temperature", "degC") | kept | {"standard_name": "sea_water_temperature"}
        data["temp"] = ((*lead, "depth", "lat", "lon"), np.where(wet, temp, np.nan).astype("float32"), named)
    ds = xr.Dataset(data, _coordinates(lat, lon, n_years, members or 1, depth))
    if members is None:
        ds = ds.isel(member=0, drop=True)
    ds["time"].encoding = {"units": "days since 2000-01-01", "dtype": "int64"}
    for name in ("lat", "lon", "cell_area", "enso", "recharge", "pacific", *(["depth"] if depth is not None else [])):
        ds[name].encoding["_FillValue"] = None
    listed = None if depth is None else depth.tolist()
    ds.attrs = {
        "Conventions": "CF-1.11",
        "title": "Sea surface temperature of an idealised ocean",
        "source": "physml.testbeds.sst: seasons, a noise-driven oscillator, AR(1) processes",
        "history": f"physml.testbeds.sst.simulate(n_years={n_years}, shape={(ny, nx)}, seed={seed}, "
        f"members={members}, depths={listed})",
        "references": "https://doi.org/10.1111/j.2153-3490.1976.tb00696.x",
        "seed": int(seed),
    }
    return ds


def _apart(x: Array, centre: float) -> Array:
    """Return the difference of longitude [degrees], the short way round."""
    return (x - centre + 180) % 360 - 180


def _indices(seed: int, member: int, n: int) -> tuple[Array, Array, Array]:
    """Return a, c and b of the formula."""
    draws = np.random.default_rng([seed, member, 0]).standard_normal((n, 3))
    turn = np.exp(complex(-1 / MEMORY, 2 * math.pi / PERIOD))
    z = np.empty(n, complex)
    b = np.empty(n)
    q = math.sqrt(1 - abs(turn) ** 2)
    z[0], b[0] = complex(*draws[0, :2]), draws[0, 2]
    keep = math.exp(-1 / PACIFIC_MEMORY)
    for t in range(1, n):
        z[t] = turn * z[t - 1] + q * complex(*draws[t, :2])
        b[t] = keep * b[t - 1] + math.sqrt(1 - keep**2) * draws[t, 2]
    return ENSO_SD * z.real, ENSO_SD * z.imag, PACIFIC_SD * b


def _noise(seed: int, member: int, n: int, shape: tuple[int, int]) -> Array:
    """Return e of the formula, ``[time, lat, lon]``."""
    from scipy.ndimage import gaussian_filter, gaussian_filter1d

    rng = np.random.default_rng([seed, member, 1])
    keep = math.exp(-1 / NOISE_MEMORY)
    # The filter's own response brings a smoothed field back to unit variance, next to the poles too.
    modes = ("reflect", "wrap")
    rows, columns = (
        (gaussian_filter1d(np.eye(size), 2.0, axis=0, mode=mode) ** 2).sum(axis=1)
        for size, mode in zip(shape, modes, strict=True)
    )
    unit = 1 / np.sqrt(rows[:, None] * columns)
    e = np.empty((n, *shape))
    for t in range(n):
        white = unit * gaussian_filter(rng.standard_normal(shape), 2.0, mode=modes)
        e[t] = white if t == 0 else keep * e[t - 1] + math.sqrt(1 - keep**2) * white
    return NOISE_SD * e


def _wet(lat: Array, lon: Array) -> NDArray[np.bool_]:
    wet = np.ones((len(lat), len(lon)), bool)
    for south, north, west, east in LAND:
        inside = (lon - west) % 360 < east - west
        wet &= ~(((lat > south) & (lat < north))[:, None] & inside)
    return wet


def _areas(ny: int, nx: int) -> Array:
    """Return the cells' areas [m2]."""
    sine = np.sin(np.radians(np.linspace(-90, 90, ny + 1)))
    return np.repeat(EARTH_RADIUS**2 * np.diff(sine)[:, None] * 2 * np.pi / nx, nx, axis=1)


def _coordinates(lat: Array, lon: Array, n_years: int, members: int, depth: Array | None) -> dict[str, tuple]:
    start = np.datetime64(START, "M") + np.arange(12 * n_years)
    found: dict[str, tuple] = {
        "member": ("member", np.arange(members), {"long_name": "number of the member", "standard_name": "realization"}),
        "time": ("time", start.astype("datetime64[ns]"), {"long_name": "month", "standard_name": "time", "axis": "T"}),
        "lat": ("lat", lat, _attrs("latitude", "degrees_north") | {"standard_name": "latitude", "axis": "Y"}),
        "lon": ("lon", lon, _attrs("longitude", "degrees_east") | {"standard_name": "longitude", "axis": "X"}),
    }
    if depth is not None:
        more = {"standard_name": "depth", "axis": "Z", "positive": "down"}
        found["depth"] = ("depth", depth, _attrs("depth", "m") | more)
    return found


def _attrs(long_name: str, units: str) -> dict[str, str]:
    return {"long_name": long_name, "units": units}


def _check(n_years: int, shape: tuple[int, int], seed: int, members: int | None, depths: object) -> Array | None:
    """Return the depths as an array, and refuse what is out of range."""
    numbers: dict[str, tuple[object, int]] = {"n_years": (n_years, 1), "seed": (seed, 0)}
    if members is not None:
        numbers["members"] = (members, 1)
    for name, (value, lowest) in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < lowest:
            _refuse(name, f"an integer >= {lowest}", value, f"pass {name}={max(lowest, 10)}")
    try:
        good = len(shape) == 2 and all(int(n) == n and n >= 8 for n in shape)
    except (TypeError, ValueError):
        good = False
    if not good:
        _refuse("shape", "(lat, lon), two integers >= 8", shape, "pass shape=(36, 72)")
    if depths is None:
        return None
    depth = np.asarray(depths, np.float64)
    if depth.ndim != 1 or not depth.size or not np.isfinite(depth).all() or depth[0] < 0 or (np.diff(depth) <= 0).any():
        _refuse("depths", "increasing depths >= 0 m", depths, "pass depths=[0, 50, 100]")
    return depth


def _refuse(name: str, expected: str, received: object, remedy: str) -> None:
    raise ValueError(describe(f"{name} is out of range", expected=expected, received=repr(received), remedy=remedy))
