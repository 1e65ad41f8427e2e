"""A tracer carried by the time-dependent double gyre, in an ocean basin with coasts.

The flow is that of Shadden, Lekien and Marsden (2005), on x in [0, 2] and y in [0, 1], in numbers without dimension:

    psi = A sin(pi f) sin(pi y),   f = a x^2 + (1 - 2 a) x,   a = epsilon sin(2 pi t / period + phase),
    dx/dt = -d psi/dy,   dy/dt = d psi/dx.

The basin lies on the sphere, 36 to 45 degrees north and 60 to 36 degrees west, one layer of water 100 m thick. x is
affine in longitude and y in the *sine* of latitude, so that dx dy is proportional to true area: with the streamfunction
scaled by area, water moves in (x, y) exactly as the formula says, while areas, volumes and velocities are those of
the sphere, and latitude and longitude mean what they say. A unit of length is about 1000 km and a unit of time 8 days.
So the gyres pulsate in 80 days, water moves at up to 0.5 m s-1 (0.67 along the western and eastern coasts), and one day
is the output step 0.125. On 48 x 64 cells the Courant number of a day then reaches 1.3 along x and, with epsilon = 0,
1.9 along y; a pulsation of epsilon = 0.25 raises the latter to 2.8 at the western and eastern coasts.

References
----------
Shadden, S. C., Lekien, F. and Marsden, J. E. (2005), doi:10.1016/j.physd.2005.10.007.

Examples
--------
>>> ds = simulate(n_runs=2, n_steps=3, shape=(12, 16), island=True)
>>> dict(ds.tracer.sizes)
{'run': 2, 'time': 4, 'lat': 12, 'lon': 16}
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from physml._errors import refuse
from physml.testbeds._transport import MAX_OUTFLOW, advance, outflow_rate, transports

__all__ = ["advance", "basin", "mean_transports", "simulate", "streamfunction", "transports"]

Array = NDArray[np.float64]
Island = tuple[float, float, float]

EARTH_RADIUS = 6_371_000.0  # m, mean radius
LATITUDE = (36.0, 45.0)  # degrees north
LONGITUDE = (-60.0, -36.0)  # degrees east
THICKNESS = 100.0  # m
DAY = 86_400.0  # s
TIME_UNIT = 8 * DAY  # s
START = np.datetime64("2000-01-01", "ns")

AMPLITUDE, EPSILON, PERIOD = 0.1, 0.25, 10.0
ISLAND: Island = (1.2, 0.5, 0.15)  # x, y of the centre and radius; fits every shape from 12 x 16 up
ISLAND_REACH = 3.0  # the flow is deflected out to this multiple of an island's radius

_BASIN_AREA = (
    EARTH_RADIUS**2
    * math.radians(LONGITUDE[1] - LONGITUDE[0])
    * (math.sin(math.radians(LATITUDE[1])) - math.sin(math.radians(LATITUDE[0])))
)
# psi [m3 s-1] per unit of psi: the basin has two units of area.
_PSI_UNIT = THICKNESS * 0.5 * _BASIN_AREA / TIME_UNIT


def streamfunction(
    x: ArrayLike,
    y: ArrayLike,
    t: ArrayLike,
    *,
    phase: ArrayLike = 0.0,
    amplitude: float = AMPLITUDE,
    epsilon: float = EPSILON,
    period: float = PERIOD,
    islands: Sequence[Island] = (),
) -> Array:
    """Return the double gyre's streamfunction, without dimensions; arguments broadcast.

    Around an island (x0, y0, R) at distance r the streamfunction is drawn to its value at the centre, psi0:
    psi0 + g (psi - psi0), where g is 0 up to r = R and rises as s (2 - s), s = (r - R) / (2 R), to 1 at r = 3 R. So it
    is one constant on the island, no water enters it, and the basin's coasts keep psi = 0.

    Parameters
    ----------
    x, y, t
        Place in [0, 2] x [0, 1], and time.
    phase
        Phase of the pulsation [rad].
    amplitude, epsilon, period
        A, epsilon and the period of the formula above.
    islands
        (x0, y0, R) of each island, of disjoint reach 3 R.

    Examples
    --------
    >>> streamfunction(0.5, 0.5, 0.0).round(3)
    np.float64(0.1)
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    a = epsilon * np.sin(2 * np.pi * np.asarray(t, np.float64) / period + np.asarray(phase, np.float64))

    def gyres(x: Any, y: Any) -> Array:
        f = a * x**2 + (1 - 2 * a) * x
        return amplitude * np.sin(np.pi * f) * np.sin(np.pi * y)

    psi = gyres(x, y)
    for x0, y0, radius in islands:
        s = np.clip((np.hypot(x - x0, y - y0) - radius) / ((ISLAND_REACH - 1) * radius), 0.0, 1.0)
        g = s * (2 - s)
        psi = g * psi + (1 - g) * gyres(x0, y0)
    return psi


def mean_transports(
    shape: tuple[int, int],
    start: ArrayLike,
    stop: ArrayLike,
    *,
    phase: ArrayLike = 0.0,
    amplitude: float = AMPLITUDE,
    epsilon: float = EPSILON,
    period: float = PERIOD,
    islands: Sequence[Island] = (),
) -> tuple[Array, Array]:
    """Return the basin's face transports [m3 s-1], averaged from *start* to *stop*.

    Parameters
    ----------
    shape
        Number of cells (lat, lon).
    start, stop
        Times, without dimension (unit: 8 days). Means over time are by Gauss-Legendre quadrature with three nodes.
    phase, amplitude, epsilon, period, islands
        As in `streamfunction`; *phase* may be an array ``[run]``.

    Returns
    -------
    transport_x, transport_y
        ``[..., lat, lon_face]`` and ``[..., lat_face, lon]``, with the dimensions of *start* and *phase* in front.
    """
    x, y = _xy(*_faces(shape))
    begin, end, turn = (np.asarray(a, np.float64)[..., None, None] for a in (start, stop, phase))
    psi: Any = 0.0
    for node, weight in zip(*np.polynomial.legendre.leggauss(3), strict=True):
        t = 0.5 * (begin + end) + 0.5 * node * (end - begin)
        psi = psi + 0.5 * weight * streamfunction(
            x, y[:, None], t, phase=turn, amplitude=amplitude, epsilon=epsilon, period=period, islands=islands
        )
    return transports(_PSI_UNIT * psi)


def basin(shape: tuple[int, int] = (48, 64), islands: Sequence[Island] = ()) -> xr.Dataset:
    """Return the grid: coordinates, cell areas and volumes, and the sea mask.

    A cell is land when its four corners lie on an island.

    Parameters
    ----------
    shape
        Number of cells (lat, lon), each at least 4.
    islands
        (x0, y0, R) of each island in the units of `streamfunction`.

    Returns
    -------
    Dataset
        ``cell_area(lat, lon)`` [m2] on the sphere, ``cell_volume(lat, lon)`` [m3] (geometric, also on land),
        ``wet(lat, lon)``, and the coordinates ``lat``, ``lon``, ``lat_face``, ``lon_face``.

    Raises
    ------
    ValueError
        If the shape is not two integers of at least 4, or an island is too near a coast or another island, or
        holds no cell.
    """
    _check_shape(shape)
    _check_islands(islands)
    lat_face, lon_face = _faces(shape)
    strip = np.diff(np.sin(np.radians(lat_face)))
    area = EARTH_RADIUS**2 * strip[:, None] * np.diff(np.radians(lon_face))[None, :]
    wet = _wet(shape, islands)
    return xr.Dataset(
        {
            "cell_area": (("lat", "lon"), area, _attrs("area of the grid cell on the sphere", "m2", "cell_area")),
            "cell_volume": (("lat", "lon"), THICKNESS * area, _attrs("volume of the grid cell", "m3")),
            "wet": (("lat", "lon"), wet, _attrs("sea mask, True = sea", "1", "sea_binary_mask")),
        },
        {
            "lat": ("lat", _mid(lat_face), _attrs("latitude", "degrees_north", "latitude", axis="Y")),
            "lon": ("lon", _mid(lon_face), _attrs("longitude", "degrees_east", "longitude", axis="X")),
            # Neither axis nor standard name: lat and lon stay the only answers to "which is the latitude?".
            "lat_face": ("lat_face", lat_face, _attrs("latitude north of the equator of the cells' faces", "degree")),
            "lon_face": ("lon_face", lon_face, _attrs("longitude east of Greenwich of the cells' faces", "degree")),
        },
    )


def simulate(
    n_runs: int = 16,
    n_steps: int = 60,
    shape: tuple[int, int] = (48, 64),
    seed: int = 0,
    island: bool | Island | Sequence[Island] = False,
    sources: bool = False,
    *,
    step_hours: int = 24,
    amplitude: float = AMPLITUDE,
    epsilon: float = EPSILON,
    period: float = PERIOD,
    dtype: str = "float32",
) -> xr.Dataset:
    """Simulate several runs of a tracer in the double gyre as one CF-1.11 Dataset.

    Each run has its own initial tracer (3 to 5 smooth patches), its own phase of the gyres and, where asked for, its
    own source. Run r depends on *seed* and r, not on the number of runs. The computation is in float64; what drives
    it, transports and sources, is exact in *dtype*, so the stored data explain each step: `advance` takes
    ``tracer[t]`` with ``transport_x[t]``, ``transport_y[t]`` and ``source[t]`` to ``tracer[t + 1]``.

    Parameters
    ----------
    n_runs, n_steps
        Number of runs and of output steps; the Dataset holds ``n_steps + 1`` times.
    shape
        Number of cells (lat, lon).
    seed
        Seed of the random numbers, >= 0.
    island
        False, True (one island at x = 1.2, y = 0.5 of radius 0.15), or one or several (x, y, radius).
    sources
        Add a smooth, pulsating, non-negative source to each run.
    step_hours
        Output step [h], a whole number.
    amplitude, epsilon, period
        A, epsilon and period of `streamfunction`.
    dtype
        "float32" or "float64": how the fields are stored.

    Returns
    -------
    Dataset
        - ``tracer(run, time, lat, lon)`` [kg m-3] at each time, NaN on land;
        - ``u``, ``v`` [m s-1] at the cells' centres, NaN on land; ``transport_x(run, time, lat, lon_face)`` and
          ``transport_y(run, time, lat_face, lon)`` [m3 s-1]; ``source`` [kg m-3 s-1] where asked for, NaN on land:
          all are means over the output interval that begins at the time they carry;
        - ``cell_area``, ``cell_volume``, ``wet`` as in `basin`, and ``phase(run)`` [rad].

        The attribute ``substeps`` is the number of sub-steps of each output step.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Shadden, S. C., Lekien, F. and Marsden, J. E. (2005), doi:10.1016/j.physd.2005.10.007.

    Examples
    --------
    >>> ds = simulate(n_runs=1, n_steps=4, shape=(24, 32), dtype="float64")
    >>> total = (ds.tracer * ds.cell_volume).sum(["lat", "lon"])
    >>> bool((abs(total / total[:, 0] - 1) < 1e-13).all())
    True
    """
    _check_integer("n_runs", n_runs, 1, 16)
    _check_integer("n_steps", n_steps, 1, 60)
    _check_integer("seed", seed, 0, 0)
    _check_integer("step_hours", step_hours, 1, 24)
    _check_flow(amplitude, epsilon, period)
    if str(dtype) not in ("float32", "float64"):
        refuse("dtype is not supported", "'float32' or 'float64'", repr(dtype), "pass dtype='float32'")
    islands = _islands(island)
    grid = basin(shape, islands)
    shape = ny, nx = int(shape[0]), int(shape[1])
    gyres: dict[str, Any] = {"amplitude": amplitude, "epsilon": epsilon, "period": period, "islands": islands}

    dt = 3600.0 * step_hours
    step = dt / TIME_UNIT
    wet, volume = grid["wet"].values, grid["cell_volume"].values
    # Over a whole turn of the phase, so that the number of sub-steps does not depend on the runs drawn.
    turn = mean_transports(shape, 0.0, step, phase=np.linspace(0, 2 * np.pi, 64, endpoint=False), **gyres)
    substeps = math.ceil(1.01 * dt * outflow_rate(*turn, volume) / MAX_OUTFLOW)

    generators = [np.random.default_rng([seed, run]) for run in range(n_runs)]
    phase = np.array([rng.uniform(0, 2 * np.pi) for rng in generators])
    c = np.where(wet, np.stack([_patches(rng, shape) for rng in generators]), 0.0)
    patch = np.stack([_source_patch(rng, shape) for rng in generators]) if sources else None

    names = ["tracer", "u", "v", *(["source"] if sources else [])]
    out = {name: np.empty((n_runs, n_steps + 1, ny, nx), dtype) for name in names}
    out["transport_x"] = np.empty((n_runs, n_steps + 1, ny, nx + 1), dtype)
    out["transport_y"] = np.empty((n_runs, n_steps + 1, ny + 1, nx), dtype)
    across_x, across_y = _face_areas(shape)

    for k in range(n_steps + 1):
        tx, ty = mean_transports(shape, k * step, (k + 1) * step, phase=phase, **gyres)
        out["tracer"][:, k] = np.where(wet, c, np.nan)
        out["transport_x"][:, k], out["transport_y"][:, k] = tx, ty
        u, v = tx / across_x, ty / across_y
        out["u"][:, k] = np.where(wet, 0.5 * (u[..., 1:] + u[..., :-1]), np.nan)
        out["v"][:, k] = np.where(wet, 0.5 * (v[..., 1:, :] + v[..., :-1, :]), np.nan)
        source = None
        if patch is not None:
            rate = patch * _pulse(k * step, (k + 1) * step, phase, period)[:, None, None]
            out["source"][:, k] = np.where(wet, rate, np.nan)
            source = out["source"][:, k]
        if k < n_steps:
            c = advance(c, tx, ty, volume, dt, source, wet, substeps=substeps)

    ds = _labelled(out, grid, step_hours)
    ds["phase"] = ("run", phase, _attrs("phase of the pulsation of the gyres at the first time", "rad"))
    call = (
        f"simulate(n_runs={n_runs}, n_steps={n_steps}, shape={shape}, seed={seed}, island={islands or False}, "
        f"sources={bool(sources)}, step_hours={step_hours}, amplitude={amplitude}, epsilon={epsilon}, period={period}, "
        f"dtype={str(dtype)!r})"
    )
    ds.attrs = {
        "Conventions": "CF-1.11",
        "title": "Tracer carried by a time-dependent double gyre",
        "source": "physml.testbeds.gyre: finite volumes on a C-grid, Strang splitting, van Leer limiter",
        "history": f"physml.testbeds.gyre.{call}",
        "references": "https://doi.org/10.1016/j.physd.2005.10.007",
        "seed": int(seed),
        "substeps": substeps,
    }
    return ds


def _labelled(out: dict[str, NDArray], grid: xr.Dataset, step_hours: int) -> xr.Dataset:
    """Give the computed arrays their names, coordinates and CF attributes."""
    mean = "time: mean (comment: over the output interval that begins at this time)"
    attrs = {
        "tracer": _attrs("concentration of the tracer", "kg m-3", cell_methods="area: mean time: point"),
        "u": _attrs("eastward velocity", "m s-1", "eastward_sea_water_velocity", cell_methods=mean),
        "v": _attrs("northward velocity", "m s-1", "northward_sea_water_velocity", cell_methods=mean),
        "source": _attrs("source of the tracer", "kg m-3 s-1", cell_methods=f"area: mean {mean}"),
        "transport_x": _attrs("eastward volume transport through the cells' faces", "m3 s-1", cell_methods=mean),
        "transport_y": _attrs("northward volume transport through the cells' faces", "m3 s-1", cell_methods=mean),
    }
    dims = {
        "transport_x": ("run", "time", "lat", "lon_face"),
        "transport_y": ("run", "time", "lat_face", "lon"),
    }
    n_runs, n_times = out["tracer"].shape[:2]
    measures = {"cell_measures": "area: cell_area volume: cell_volume"}
    data = {
        name: (dims.get(name, ("run", "time", "lat", "lon")), values, attrs[name] | ({} if name in dims else measures))
        for name, values in out.items()
    }
    time = START + np.arange(n_times) * np.timedelta64(step_hours, "h")
    ds = xr.Dataset(data).assign_coords(
        run=("run", np.arange(n_runs), _attrs("number of the run", "1", "realization")),
        time=("time", time, {"long_name": "time", "standard_name": "time", "axis": "T"}),
    )
    ds = ds.merge(grid)
    ds["time"].encoding = {"units": "hours since 2000-01-01", "dtype": "int64"}
    for name in ("lat", "lon", "lat_face", "lon_face", "cell_area", "cell_volume", "transport_x", "transport_y"):
        ds[name].encoding["_FillValue"] = None
    return ds


def _attrs(long_name: str, units: str, standard_name: str | None = None, **more: str) -> dict[str, str]:
    return {"long_name": long_name, "units": units} | ({"standard_name": standard_name} if standard_name else {}) | more


def _mid(faces: Array) -> Array:
    return 0.5 * (faces[1:] + faces[:-1])


def _faces(shape: tuple[int, int]) -> tuple[Array, Array]:
    """Return latitude and longitude of the cells' faces [degree]."""
    return np.linspace(*LATITUDE, shape[0] + 1), np.linspace(*LONGITUDE, shape[1] + 1)


def _centres(shape: tuple[int, int]) -> tuple[Array, Array]:
    """Return x ``[1, lon]`` and y ``[lat, 1]`` of the cells' centres."""
    lat, lon = _faces(shape)
    x, y = _xy(_mid(lat), _mid(lon))
    return x[None, :], y[:, None]


def _xy(lat: Array, lon: Array) -> tuple[Array, Array]:
    sine = np.sin(np.radians(lat))
    south, north = np.sin(np.radians(LATITUDE))
    return 2 * (lon - LONGITUDE[0]) / (LONGITUDE[1] - LONGITUDE[0]), (sine - south) / (north - south)


def _face_areas(shape: tuple[int, int]) -> tuple[Array, Array]:
    """Return the areas [m2] of the faces between cells along x ``[1, 1]`` and along y ``[lat_face, 1]``."""
    lat, lon = _faces(shape)
    along_meridian = EARTH_RADIUS * np.radians(lat[1] - lat[0])
    along_parallel = EARTH_RADIUS * np.radians(lon[1] - lon[0]) * np.cos(np.radians(lat))
    return np.full((1, 1), THICKNESS * along_meridian), THICKNESS * along_parallel[:, None]


def _bell(shape: tuple[int, int], x0: float, y0: float, radius: float) -> Array:
    """Return a cosine bell of height 1 and exact zeros outside its radius."""
    x, y = _centres(shape)
    return 0.5 * (1 + np.cos(np.pi * np.minimum(np.hypot(x - x0, y - y0) / radius, 1.0)))


def _patches(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Return an initial tracer of at most 1 kg m-3: three to five bells."""
    c = np.zeros(shape)
    for _ in range(rng.integers(3, 6)):
        x0, y0, radius = rng.uniform(0.1, 1.9), rng.uniform(0.1, 0.9), rng.uniform(0.2, 0.4)
        c += rng.uniform(0.4, 1.0) * _bell(shape, x0, y0, radius)
    return c / c.max()


def _source_patch(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Return the mean rate of a source [kg m-3 s-1]: one bell of up to 0.02 kg m-3 a day."""
    x0, y0, radius = rng.uniform(0.2, 1.8), rng.uniform(0.2, 0.8), rng.uniform(0.15, 0.3)
    return rng.uniform(0.01, 0.02) / DAY * _bell(shape, x0, y0, radius)


def _pulse(start: float, stop: float, phase: Array, period: float) -> Array:
    """Return the mean of 1 + cos(2 pi t / period + phase) from *start* to *stop*."""
    w = 2 * np.pi / period
    mean = (np.sin(w * stop + phase) - np.sin(w * start + phase)) / (w * (stop - start))
    return np.maximum(1 + mean, 0.0)


def _islands(island: bool | Island | Sequence[Island]) -> tuple[Island, ...]:
    if island is False or island is True:
        return (ISLAND,) if island else ()
    try:
        rows = np.atleast_2d(np.asarray(island, np.float64))
    except (TypeError, ValueError):
        rows = np.empty((0, 0))
    if rows.ndim != 2 or rows.shape[1] != 3:
        expected = "True, False, (x, y, radius) or a sequence of these"
        refuse("island is not understood", expected, repr(island), f"pass island=True or island={ISLAND}")
    return tuple((float(x), float(y), float(radius)) for x, y, radius in rows)


def _wet(shape: tuple[int, int], islands: Sequence[Island]) -> NDArray[np.bool_]:
    x, y = _xy(*_faces(shape))
    wet = np.ones(shape, bool)
    for x0, y0, radius in islands:
        on = np.hypot(x[None, :] - x0, y[:, None] - y0) <= radius
        land = on[1:, 1:] & on[1:, :-1] & on[:-1, 1:] & on[:-1, :-1]
        if not land.any():
            refuse(
                f"the island {(x0, y0, radius)} holds no whole cell of a grid of shape {tuple(shape)}",
                "a cell with its four corners within the radius",
                f"cells of {2 / shape[1]:.3g} x {1 / shape[0]:.3g}",
                "take a larger radius or more cells",
            )
        wet &= ~land
    return wet


def _check_shape(shape: tuple[int, int]) -> None:
    try:
        good = len(shape) == 2 and all(int(n) == n and n >= 4 for n in shape)
    except (TypeError, ValueError):
        good = False
    if not good:
        refuse("shape is not that of a grid", "(lat, lon), two integers >= 4", repr(shape), "pass shape=(48, 64)")


def _check_integer(name: str, value: object, lowest: int, usual: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < lowest:
        refuse(f"{name} is out of range", f"an integer >= {lowest}", repr(value), f"pass {name}={usual}")


def _check_flow(amplitude: float, epsilon: float, period: float) -> None:
    for name, value, usual in (("amplitude", amplitude, AMPLITUDE), ("period", period, PERIOD)):
        if not (np.isfinite(value) and value > 0):
            refuse(f"{name} is out of range", "a number > 0", repr(value), f"pass {name}={usual}")
    if not 0 <= epsilon < 0.5:
        refuse("epsilon is out of range", "0 <= epsilon < 0.5", repr(epsilon), f"pass epsilon={EPSILON}")


def _check_islands(islands: Sequence[Island]) -> None:
    for i, (x, y, radius) in enumerate(islands):
        room = min(x, 2 - x, y, 1 - y)
        if not 0 < ISLAND_REACH * radius <= room:
            refuse(
                f"the island {(x, y, radius)} is too near a coast",
                f"a radius > 0, and {ISLAND_REACH:g} radii from its centre to every coast of [0, 2] x [0, 1]",
                f"a radius of {radius:g} and {room:.3g} to the nearest coast",
                "make it smaller or move it inwards",
            )
        for x1, y1, other in islands[:i]:
            apart, reach = math.hypot(x - x1, y - y1), ISLAND_REACH * (radius + other)
            if not apart >= reach:
                what = f"the islands {(x1, y1, other)} and {(x, y, radius)} are too near each other"
                refuse(
                    what, f"centres at least {reach:.3g} apart", f"{apart:.3g}", "move them apart or make them smaller"
                )
