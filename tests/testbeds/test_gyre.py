"""The double gyre: what the tracer, the flow and the Dataset must satisfy."""

import subprocess
import sys
import time

import cf_xarray  # noqa: F401
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from physml.testbeds.gyre import (
    AMPLITUDE,
    EARTH_RADIUS,
    EPSILON,
    ISLAND,
    PERIOD,
    TIME_UNIT,
    advance,
    basin,
    mean_transports,
    simulate,
    streamfunction,
    transports,
)

DAY = 86_400.0
TWO_ISLANDS = ((0.5, 0.5, 0.12), (1.4, 0.5, 0.15))


@pytest.fixture(scope="module", params=[False, True, TWO_ISLANDS], ids=["open", "island", "two islands"])
def double(request):
    return simulate(n_runs=3, n_steps=30, shape=(24, 32), island=request.param, dtype="float64")


@pytest.fixture(scope="module")
def single():
    return simulate(n_runs=2, n_steps=4, shape=(24, 32), island=True, sources=True)


def total(ds, name="tracer"):
    return (ds[name].astype("float64") * ds["cell_volume"]).sum(["lat", "lon"])


def xy(lat, lon):
    sine = np.sin(np.radians(lat))
    south, north = np.sin(np.radians([36.0, 45.0]))
    return (np.asarray(lon) + 60.0) / 12.0, (sine - south) / (north - south)


def assert_order(errors, expected, tolerance):
    """Each halving of the cells divides the error by 2 ** expected."""
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert (abs(orders - expected) < tolerance).all(), orders


# The tracer


def test_the_total_is_conserved_to_round_off(double):
    drift = total(double) / total(double).isel(time=0) - 1
    assert abs(drift).max() < 1e-13


def test_the_default_runs_are_fast_conserving_and_positive():
    start = time.process_time()
    ds = simulate(dtype="float64")
    assert time.process_time() - start < 15
    assert ds.tracer.shape == (16, 61, 48, 64)
    assert abs(total(ds) / total(ds).isel(time=0) - 1).max() < 1e-13
    assert ds.tracer.min() >= 0


def test_the_tracer_stays_between_zero_and_its_first_maximum(double):
    assert (double.tracer.isel(time=0) == 0).any()
    assert double.tracer.min() >= 0
    excess = double.tracer.max(["lat", "lon"]) / double.tracer.isel(time=0).max(["lat", "lon"]) - 1
    assert excess.max() < 1e-13


@pytest.mark.parametrize("islands", [(), (ISLAND,)])
def test_a_constant_stays_constant(islands):
    grid = basin((24, 32), islands)
    c = np.where(grid.wet, 3.7, np.nan)
    for k in range(60):
        flow = mean_transports((24, 32), 0.125 * k, 0.125 * (k + 1), islands=islands)
        c = advance(c, *flow, grid.cell_volume, DAY, mask=grid.wet)
    assert np.nanmax(abs(c / 3.7 - 1)) < 1e-13
    np.testing.assert_array_equal(np.isnan(c), ~grid.wet)


rough = st.one_of(
    st.sampled_from([0.0, 5e-324, 1.5e-323, 1e-310, 1e-300, 1e-160, 1e-20, 1.0, 1e20]),
    st.floats(0, 1e3, allow_subnormal=True),
)


@settings(max_examples=60, deadline=None)
@given(
    c=arrays(np.float64, (5, 6), elements=rough),
    psi=arrays(np.float64, (4, 5), elements=st.floats(-1, 1)),
    seconds=st.floats(1e-18, 3),
    volume=st.sampled_from([1.0, 7e10]),
)
def test_any_tracer_stays_positive_exactly_and_is_conserved_in_any_closed_flow(c, psi, seconds, volume):
    flow = transports(volume * np.pad(psi, 1))
    for _ in range(3):
        after = advance(c, *flow, np.full(c.shape, volume), seconds)
        assert (after >= 0).all()
        assert after.sum() == pytest.approx(c.sum(), rel=1e-13, abs=1e-320)
        assert after.max() <= c.max() * (1 + 1e-12) + 1e-310
        c = after


def test_sources_add_what_they_say():
    ds = simulate(n_runs=3, n_steps=30, shape=(24, 32), sources=True, island=True, dtype="float64")
    entered = (total(ds, "source") * DAY).cumsum("time").shift(time=1, fill_value=0)
    expected = total(ds).isel(time=0) + entered
    assert abs(total(ds) / expected - 1).max() < 1e-13
    assert (entered.isel(time=-1) > 0.01 * expected.isel(time=0)).all()
    assert ds.source.min() >= 0
    assert ds.tracer.min() >= 0


def test_the_scheme_is_second_order_in_rotation():
    """L1 norm: van Leer's limiter clips the extremum, which holds the other norms back (4/3 in the maximum norm)."""
    errors = []
    for n in (64, 128, 256):
        h = 2 / n
        corner, centre = np.linspace(-1, 1, n + 1), -1 + h * (np.arange(n) + 0.5)
        # Solid-body rotation up to r = 0.6, slowing down to rest at r = 0.9: d psi/dr = 2 pi r (1 - smoothstep).
        radius = np.linspace(0, 1.5, 30_001)
        s = np.clip((radius - 0.6) / 0.3, 0, 1)
        speed = 2 * np.pi * radius * (1 - s**3 * (10 - 15 * s + 6 * s**2))
        psi = np.concatenate([[0], np.cumsum(0.5 * (speed[1:] + speed[:-1]) * np.diff(radius))])
        flow = transports(np.interp(np.hypot(corner[:, None], corner), radius, psi - psi[-1]))
        c = first = np.exp(-(centre**2 + (centre[:, None] - 0.25) ** 2) / 0.12**2)
        for _ in range(n // 4):
            c = advance(c, *flow, np.full((n, n), h * h), 0.25 / (n // 4))
        exact = np.rot90(first, -1)  # a quarter turn; psi = + r^2 turns counter-clockwise, and rows grow northward
        errors.append(abs(c - exact).mean())
    assert_order(errors, 2.0, 0.35)


def velocity(x, y, t):
    a = EPSILON * np.sin(2 * np.pi * t / PERIOD)
    f, slope = a * x**2 + (1 - 2 * a) * x, 2 * a * x + 1 - 2 * a
    speed = np.pi * AMPLITUDE
    return np.array(
        [-speed * np.sin(np.pi * f) * np.cos(np.pi * y), speed * np.cos(np.pi * f) * slope * np.sin(np.pi * y)]
    )


def origin(x, y, t, n=40):
    """Return where the water at x, y at time t was at time 0 (RK4 along the trajectory)."""
    place, h = np.array([x, y]), -t / n
    for _ in range(n):
        k1 = velocity(*place, t)
        k2 = velocity(*(place + h / 2 * k1), t + h / 2)
        k3 = velocity(*(place + h / 2 * k2), t + h / 2)
        k4 = velocity(*(place + h * k3), t + h)
        place, t = place + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), t + h
    return place


def test_the_gyre_converges_to_the_exact_solution_at_second_order():
    """The exact solution follows the formula's trajectories: flow, sphere, splitting and time means all agree with it."""

    def blob(x, y):
        return np.exp(-((x - 0.6) ** 2 + (y - 0.4) ** 2) / 0.2**2)

    errors = []
    for m in (1, 2, 4):
        shape, n = (24 * m, 32 * m), 8 * m
        grid = basin(shape)
        x, y = np.broadcast_arrays(*xy(grid.lat.values[:, None], grid.lon.values))
        c = blob(x, y)
        for k in range(n):
            flow = mean_transports(shape, 2 * k / n, 2 * (k + 1) / n)
            c = advance(c, *flow, grid.cell_volume, 2 / n * TIME_UNIT)
        weights = grid.cell_area / grid.cell_area.sum()
        errors.append(float((weights * abs(c - blob(*origin(x, y, 2.0)))).sum()))
    assert_order(errors, 2.0, 0.3)
    assert errors[1] < 1e-3


def test_runs_advance_together_as_each_alone():
    ds = simulate(n_runs=3, n_steps=1, shape=(12, 16), dtype="float64").isel(time=0)
    fields = [ds[name].values for name in ("tracer", "transport_x", "transport_y")]
    together = advance(*fields, ds.cell_volume, DAY, substeps=5)
    for run in range(3):
        alone = advance(*(field[run] for field in fields), ds.cell_volume, DAY, substeps=5)
        np.testing.assert_array_equal(together[run], alone)


def test_advance_keeps_floating_dtypes_and_what_stands_on_land():
    grid = basin((24, 32), (ISLAND,))
    flow = mean_transports((24, 32), 0, 0.125, islands=(ISLAND,))
    c = np.where(grid.wet, 1, -99).astype("float32")
    after = advance(c, *flow, grid.cell_volume, DAY, mask=grid.wet)
    assert after.dtype == np.float32
    assert (after[~grid.wet.values] == -99).all()
    assert advance(np.ones((24, 32), int), *mean_transports((24, 32), 0, 1), grid.cell_volume, 1.0).dtype == np.float64


# The flow


def test_the_streamfunction_is_that_of_shadden_et_al():
    x, y, t = 0.7, 0.3, 2.0
    a = 0.25 * np.sin(2 * np.pi * t / 10)
    expected = 0.1 * np.sin(np.pi * (a * x**2 + (1 - 2 * a) * x)) * np.sin(np.pi * y)
    assert streamfunction(x, y, t) == pytest.approx(expected, rel=1e-14)
    assert streamfunction(x, y, t + 1.5) == pytest.approx(streamfunction(x, y, t, phase=0.3 * np.pi), rel=1e-14)


def test_the_streamfunction_is_constant_on_islands_and_zero_on_coasts():
    x0, y0, radius = ISLAND
    angle, r = np.linspace(0, 2 * np.pi, 60), np.linspace(0, radius * (1 - 1e-12), 10)[:, None]
    on = streamfunction(x0 + r * np.cos(angle), y0 + r * np.sin(angle), 1.0, islands=[ISLAND])
    assert np.ptp(on) == 0
    assert on[0, 0] == streamfunction(x0, y0, 1.0)
    assert abs(streamfunction(np.linspace(0, 2, 50), 1.0, 1.0, islands=[ISLAND])).max() < 1e-15
    assert abs(streamfunction(2.0, np.linspace(0, 1, 50), 1.0, islands=[ISLAND])).max() < 1e-15


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("island", [False, True, TWO_ISLANDS])
def test_stored_transports_have_no_divergence_and_cross_no_coast(dtype, island):
    ds = simulate(n_runs=2, n_steps=5, shape=(24, 32), island=island, dtype=dtype)
    tx, ty = ds.transport_x.values, ds.transport_y.values
    divergence = np.diff(tx, axis=-1) + np.diff(ty, axis=-2)
    assert abs(divergence).max() == 0 < abs(tx).max()
    assert not tx[..., [0, -1]].any() and not ty[..., [0, -1], :].any()
    land = ~ds.wet.values
    assert bool(land.any()) == bool(island)
    assert not tx[..., :-1][..., land].any() and not tx[..., 1:][..., land].any()
    assert not ty[..., :-1, :][..., land].any() and not ty[..., 1:, :][..., land].any()


def test_transports_are_means_over_the_interval():
    phase = np.array([0.3, 2.0])
    whole = mean_transports((24, 32), 0, 0.25, phase=phase)
    first = mean_transports((24, 32), 0, 0.125, phase=phase)
    second = mean_transports((24, 32), 0.125, 0.25, phase=phase)
    for mean, early, late in zip(whole, first, second, strict=True):
        np.testing.assert_allclose(mean, 0.5 * (early + late), atol=4e-6 * abs(mean).max())


def test_velocities_are_those_of_the_flow_on_the_sphere():
    """dx/dt of the formula is u / (R cos(lat)) in longitude; the difference is the cells' finite size."""
    ds = simulate(n_runs=1, n_steps=1, shape=(48, 64), step_hours=1, epsilon=0.0, dtype="float64").isel(run=0, time=0)
    x, y = np.broadcast_arrays(*xy(ds.lat.values[:, None], ds.lon.values))
    dx, dy = velocity(x, y, 0.0)
    lat = np.radians(ds.lat.values[:, None])
    u = dx * np.radians(12.0) * EARTH_RADIUS * np.cos(lat) / TIME_UNIT
    v = dy * np.ptp(np.sin(np.radians([36.0, 45.0]))) / np.cos(lat) * EARTH_RADIUS / TIME_UNIT
    assert abs(ds.u - u).max() < 2e-3 * abs(u).max()
    assert abs(ds.v - v).max() < 2e-3 * abs(v).max()
    assert 0.3 < abs(ds.u).max() < 0.5


def test_a_day_has_the_documented_courant_numbers():
    ds = simulate(n_runs=16, n_steps=80, epsilon=0.0)
    along_x = abs(ds.transport_x.values[..., 1:]) * DAY / ds.cell_volume.values
    along_y = abs(ds.transport_y.values[..., 1:, :]) * DAY / ds.cell_volume.values
    assert along_x.max() == pytest.approx(1.26, abs=0.01)
    assert along_y.max() == pytest.approx(1.87, abs=0.01)


def test_cell_areas_are_those_of_the_sphere():
    grid = basin((12, 16))
    expected = EARTH_RADIUS**2 * np.radians(24) * (np.sin(np.radians(45)) - np.sin(np.radians(36)))
    assert float(grid.cell_area.sum()) == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(grid.cell_volume, 100 * grid.cell_area)


# The Dataset


def test_the_stored_data_explain_each_step(single):
    fields = ["tracer", "transport_x", "transport_y", "source"]
    for k in range(4):
        c, tx, ty, source = (single[name].isel(time=k).values for name in fields)
        after = advance(c, tx, ty, single.cell_volume, DAY, source, single.wet, substeps=single.attrs["substeps"])
        np.testing.assert_allclose(after, single.tracer.isel(time=k + 1), rtol=1e-5, atol=1e-7)


def test_stored_float64_data_repeat_each_step_exactly(double):
    for k in range(3):
        c, tx, ty = (double[name].isel(time=k).values for name in ("tracer", "transport_x", "transport_y"))
        after = advance(c, tx, ty, double.cell_volume, DAY, mask=double.wet, substeps=double.attrs["substeps"])
        np.testing.assert_array_equal(after, double.tracer.isel(time=k + 1))


def test_the_seed_decides_everything(single):
    arguments = {"n_runs": 2, "n_steps": 4, "shape": (24, 32), "island": True, "sources": True}
    xr.testing.assert_identical(single, simulate(**arguments, seed=0))
    other = simulate(**arguments, seed=1)
    assert not np.allclose(other.tracer.isel(time=0).fillna(0), single.tracer.isel(time=0).fillna(0))
    assert not np.allclose(other.phase, single.phase)


def test_runs_differ_and_do_not_depend_on_their_number(single):
    alone = simulate(n_runs=1, n_steps=4, shape=(24, 32), island=True, sources=True)
    np.testing.assert_array_equal(alone.tracer[0], single.tracer[0])
    assert not np.allclose(single.tracer[0].fillna(0), single.tracer[1].fillna(0))
    assert not np.allclose(single.u[0].fillna(0), single.u[1].fillna(0))
    calm = simulate(n_runs=1, n_steps=4, shape=(24, 32), island=True)
    np.testing.assert_array_equal(calm.tracer[0, 0], single.tracer[0, 0])


def test_the_dataset_follows_cf(single):
    for found in (single, single["tracer"], single["u"]):
        assert found.cf["X"].name == found.cf["longitude"].name == "lon"
        assert found.cf["Y"].name == found.cf["latitude"].name == "lat"
        assert found.cf["T"].name == found.cf["time"].name == "time"
    assert single.cf.cell_measures == {"area": ["cell_area"], "volume": ["cell_volume"]}
    assert single.attrs["Conventions"] == "CF-1.11"
    assert {"title", "source", "history", "references", "seed"} <= set(single.attrs)
    for variable in [*single.data_vars.values(), single.lat, single.lon, single.lat_face, single.lon_face, single.run]:
        assert variable.attrs["long_name"] and variable.attrs["units"], variable.name
    assert single.time.dtype.kind == "M"
    assert (np.diff(single.time) == np.timedelta64(1, "D")).all()


def test_dimensions_dtypes_and_land(single):
    cells = ("run", "time", "lat", "lon")
    for name in ("tracer", "u", "v", "source"):
        assert single[name].dims == cells and single[name].dtype == np.float32
        assert (single[name].isnull() == ~single.wet).all()
    assert single.transport_x.dims == ("run", "time", "lat", "lon_face")
    assert single.transport_y.dims == ("run", "time", "lat_face", "lon")
    assert single.wet.dtype == bool and not single.wet.all()
    assert (single.cell_volume > 0).all() and single.cell_volume.dtype == np.float64
    assert "source" not in simulate(n_runs=1, n_steps=1, shape=(4, 4))


def test_the_step_may_be_any_whole_number_of_hours():
    ds = simulate(n_runs=1, n_steps=8, step_hours=3, dtype="float64")
    assert (np.diff(ds.time) == np.timedelta64(3, "h")).all()
    day = simulate(n_runs=1, n_steps=1, dtype="float64").tracer[0]
    assert abs(ds.tracer[0, 8] - day[1]).mean() < 0.02 * abs(day[1] - day[0]).mean()


def test_round_trip_through_netcdf(single, tmp_path):
    single.to_netcdf(tmp_path / "gyre.nc")
    with xr.open_dataset(tmp_path / "gyre.nc") as back:
        xr.testing.assert_identical(back.load(), single)


def test_round_trip_through_zarr(single, tmp_path):
    single.to_zarr(tmp_path / "gyre.zarr", consolidated=False)
    with xr.open_zarr(tmp_path / "gyre.zarr", consolidated=False) as back:
        xr.testing.assert_identical(back.load(), single)


def test_the_module_needs_no_network_library():
    code = (
        "import sys, physml.testbeds.gyre\n"
        "loaded = {'keras', 'tensorflow', 'jax', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_runs": 0}, "n_runs is out of range. Expected: an integer >= 1. Received: 0. Remedy: pass n_runs=16."),
        ({"n_steps": 2.5}, "n_steps is out of range. Expected: an integer >= 1. Received: 2.5."),
        ({"seed": -1}, "seed is out of range. Expected: an integer >= 0. Received: -1. Remedy: pass seed=0."),
        ({"step_hours": 0}, "step_hours is out of range. Expected: an integer >= 1."),
        ({"shape": (48,)}, "shape is not that of a grid. Expected: (lat, lon), two integers >= 4. Received: (48,)."),
        ({"shape": 48}, "shape is not that of a grid. Expected: (lat, lon), two integers >= 4. Received: 48."),
        ({"shape": (3, 64)}, "shape is not that of a grid."),
        ({"dtype": "float16"}, "dtype is not supported. Expected: 'float32' or 'float64'. Received: 'float16'."),
        ({"amplitude": 0.0}, "amplitude is out of range. Expected: a number > 0. Received: 0.0."),
        ({"period": np.nan}, "period is out of range. Expected: a number > 0. Received: nan."),
        ({"epsilon": 0.7}, "epsilon is out of range. Expected: 0 <= epsilon < 0.5. Received: 0.7."),
        ({"island": "yes"}, "island is not understood. Expected: True, False, (x, y, radius) or a sequence of these."),
        ({"island": (1.0, 0.5)}, "island is not understood."),
        ({"island": (0.2, 0.5, 0.1)}, "the island (0.2, 0.5, 0.1) is too near a coast. Expected: a radius > 0, and 3"),
        ({"island": (1.0, 0.5, -0.1)}, "the island (1.0, 0.5, -0.1) is too near a coast."),
        (
            {"island": [(0.8, 0.5, 0.1), (1.2, 0.5, 0.1)]},
            "are too near each other. Expected: centres at least 0.6 apart",
        ),
        ({"island": (1.0, 0.5, 0.01)}, "the island (1.0, 0.5, 0.01) holds no whole cell of a grid of shape (48, 64)."),
    ],
)
def test_bad_arguments_of_simulate_are_named(arguments, message):
    with pytest.raises(ValueError) as error:
        simulate(**({"n_runs": 1, "n_steps": 1} | arguments))
    assert message in str(error.value)
    assert "Remedy: " in str(error.value)


def bad(**changes):
    psi = np.zeros((5, 6))
    psi[1:-1, 1:-1] = 1.0
    tx, ty = transports(psi)
    good = {"tracer": np.ones((4, 5)), "transport_x": tx, "transport_y": ty, "volume": np.ones((4, 5)), "dt": 1.0}
    return good | changes


inflow, source_like, island = np.zeros((4, 6)), np.zeros((4, 6)), np.ones((4, 5), bool)
inflow[:, 0] = 1.0
source_like[1, 2] = 1.0
island[0, 2] = False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (bad(tracer=np.ones(5)), "tracer has too few dimensions. Expected: [..., y, x]. Received: (5,)."),
        (
            bad(transport_x=np.zeros((4, 5))),
            "transport_x does not fit a tracer of shape (4, 5). Expected: [..., 4, 6].",
        ),
        (
            bad(transport_y=np.zeros((4, 5))),
            "transport_y does not fit a tracer of shape (4, 5). Expected: [..., 5, 5].",
        ),
        (bad(volume=np.ones((5, 4))), "volume does not fit a tracer of shape (4, 5). Expected: [..., 4, 5]."),
        (bad(mask=np.ones((5, 4))), "mask does not fit a tracer of shape (4, 5). Expected: [..., 4, 5]."),
        (bad(volume=np.zeros((4, 5))), "volume is not positive. Expected: > 0 m3 in every cell. Received: 20 cells"),
        (bad(dt=0.0), "dt is not positive. Expected: > 0 s. Received: 0.0."),
        (
            bad(tracer=np.full((4, 5), np.nan)),
            "tracer is not finite. Expected: a number everywhere at sea. Received: 20",
        ),
        (
            bad(source=np.inf),
            "source is not finite. Expected: a number everywhere at sea. Received: 1 missing or infinite.",
        ),
        (bad(transport_x=np.full((4, 6), np.nan)), "transport_x is not finite."),
        (
            bad(transport_x=inflow),
            "transport crosses a coast. Expected: 0 m3 s-1 on the outer faces and on the faces of",
        ),
        (bad(mask=island), "transport crosses a coast. Expected: 0 m3 s-1"),
        (bad(transport_x=source_like), "transports are divergent. Expected: a net outflow of every cell below 1e-06"),
        (
            bad(substeps=1, dt=3.0),
            "substeps are too few for these transports. Expected: >= 5. Received: 1. Remedy: pass",
        ),
    ],
)
def test_bad_arguments_of_advance_are_named(arguments, message):
    with pytest.raises(ValueError) as error:
        advance(**arguments)
    assert message in str(error.value)
    assert "Remedy: " in str(error.value)
