"""What users pass that is not quite what is expected: it is understood, or refused in words."""

from datetime import datetime

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from keras import ops

from physml import _backend
from physml.assimilation import (
    BLUE,
    Balance,
    Blocks,
    Cycle,
    Diffusion,
    Ensemble,
    Gaussian,
    GridObservations,
    Hybrid,
    Kronecker,
    OptimalInterpolation,
    PointObservations,
    Regression,
    StateBLUE,
    analyse,
    bind,
)
from physml.assimilation.cycling.identity import digest


@pytest.fixture(autouse=True)
def double_precision():
    with _backend.float64():
        yield


LAT, LON = np.arange(-30.0, 31, 10), np.arange(0.0, 360, 20)
GRID = {"latitude": LAT, "longitude": LON, "periodic": True}
MASK = np.ones((LAT.size, LON.size), bool)
MASK[:2, :5] = False


def numbers(x):
    return np.asarray(ops.convert_to_numpy(x))


@pytest.mark.parametrize("trainable", [["std"], ["length"], ["std", "length", "error_std"]])
def test_a_sparse_covariance_is_learned_from_many_observations(trainable):
    rng = np.random.default_rng(0)
    obs = PointObservations(rng.normal(size=210), rng.uniform(-28, 28, 210), rng.uniform(-180, 180, 210))
    error, xf = Diffusion(1.0, 2e6), rng.normal(size=(1, LAT.size, LON.size, 1))
    learned, fixed = BLUE(error, 0.3, **GRID, trainable=trainable), BLUE(error, 0.3, **GRID)
    given = fixed.prepare(obs)
    assert np.allclose(numbers(learned(xf, given)), numbers(fixed(xf, given)), rtol=0, atol=1e-9)
    assert fixed.form == "precision" != learned.form
    assert learned.resolved(210) == "observation"
    with pytest.raises(ValueError, match="has no derivative"):
        BLUE(error, 0.3, **GRID, trainable=trainable, method="precision")(xf, given)


def test_an_error_that_is_missing_is_refused_where_there_is_an_observation():
    with pytest.raises(ValueError, match="error_std is not positive"):
        PointObservations([1.0, 2.0], [0, 0], [0, 0], error_std=[0.1, np.nan])
    assert PointObservations([1.0, np.nan], [0, 0], [0, 0], error_std=[0.1, np.nan]).count == 1
    layer = BLUE(Gaussian(1.0, 1e6), **GRID)
    given = layer.prepare(PointObservations([1.0], [0.0], [0.0]))
    with pytest.raises(ValueError, match="not positive"):
        layer(np.zeros((1, LAT.size, LON.size, 1)), {**given, "error_std": np.array([[np.nan]])})


def test_a_field_of_standard_deviations_is_missing_on_land_and_nowhere_else():
    xf, where = np.zeros((1, LAT.size, LON.size, 1)), ([0.0], [140.0])
    std = xr.DataArray(np.where(MASK, 1.5, np.nan), {"lat": LAT, "lon": LON}, ("lat", "lon"))
    expected = numbers(BLUE(Gaussian(1.5, 1e6), 0.1, **GRID, mask=MASK, positions=where)(xf, np.ones((1, 1))))
    for field in (std.values, std, std.transpose("lon", "lat")):
        layer = BLUE(Gaussian(field, 1e6), 0.1, **GRID, mask=MASK, positions=where, trainable=["std"])
        assert np.allclose(numbers(layer(xf, np.ones((1, 1)))), expected, atol=1e-12)
    assert np.allclose(numbers(bind(Diffusion(std.values, 1e6), **GRID, mask=MASK).diagonal()), 2.25)
    for make in (
        lambda: BLUE(Gaussian(std, 1e6), 0.1, **GRID),
        lambda: bind(Diffusion(std.values, 1e6), **GRID),
        lambda: BLUE(Gaussian(np.ones((3, 4)), 1e6), 0.1, **GRID),
    ):
        with pytest.raises(ValueError, match=r"wet cells|does not fit"):
            make()


def test_observations_of_other_shapes_are_refused_in_words():
    layer = BLUE(Gaussian(1.0, 1e6), 0.1, **GRID, positions=([0, 5], [0, 20]))
    state = StateBLUE(np.eye(2), 1.0, shape=(1, 2), operator=np.array([[1.0, 0.0]]))
    xf = np.zeros((2, LAT.size, LON.size, 1))
    for call, match in (
        (lambda: layer(xf, np.ones(2)), "wrong shape"),
        (lambda: layer(xf, np.ones((1, 3))), "does not fit the observations"),
        (lambda: layer(xf, np.ones((3, 2))), "do not fit the forecasts"),
        (lambda: state(np.zeros((1, 1, 2)), np.ones((1, 2))), "does not fit the observations"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_a_number_stands_for_independent_errors_within_a_whole():
    both = {"shape": (3,), "channels": ("t", "s")}
    blocks = numbers(bind(Blocks({"t": 0.5, "s": 0.1}), **both).diagonal())
    assert np.allclose(blocks, [0.25, 0.01] * 3)
    assert np.allclose(numbers(bind(Kronecker(np.eye(2), 0.5), **both).diagonal()), 0.25)
    balanced = numbers(bind(Balance(0.5, Regression("s", "t", 2.0)), **both).dense())[:2, :2]
    assert np.allclose(balanced, [[0.25, 0.5], [0.5, 1.25]])
    assert np.allclose(numbers(bind(np.array([[2.0, 1.0], [1.0, 2.0]])).dense()), [[2.0, 1.0], [1.0, 2.0]])
    hybrid = bind(Hybrid(2.0, Ensemble([[1.0, 2.0], [1.0, 2.0]])), size=2)
    assert np.allclose(numbers(hybrid.diagonal()), 2.0)
    with pytest.raises(ValueError, match="not finite"):
        bind(np.array([[1.0, np.nan], [np.nan, 1.0]]))


@pytest.mark.long
def test_iterations_that_do_not_converge_warn():
    rng = np.random.default_rng(0)
    obs = PointObservations(rng.normal(size=60), rng.uniform(-28, 28, 60), rng.uniform(0, 360, 60))
    layer = BLUE(Gaussian(1.0, 4e6), 1e-7, **GRID, method="pcg")
    with pytest.warns(RuntimeWarning, match="did not converge"):
        layer(np.zeros((1, LAT.size, LON.size, 1)), layer.prepare(obs))


@pytest.fixture
def initial():
    field = ("member", "lat", "lon"), np.ones((2, LAT.size, LON.size))
    start = np.datetime64("2000-01-01", "ns")
    degrees = {"lat": ("lat", LAT, {"units": "degrees_north"}), "lon": ("lon", LON, {"units": "degrees_east"})}
    return xr.Dataset({"t": field}, {**degrees, "time": start})


def still(x, forcing=None):
    return x


def test_runs_of_their_own_have_observations_of_their_own(initial):
    days = np.array(["2000-01-02", "2000-01-03"], "datetime64[ns]")
    cycle = Cycle(still, BLUE(Gaussian(1.0, 1e6), 0.1, **GRID), state_names=["t"])
    given = [dated(days), dated(days[:1].repeat(2))]
    out = cycle.run(initial, given, time_step="1D")
    assert out.used.values.tolist() == [[1, 2], [1, 0]]
    bare = PointObservations([1.0, 2.0], [0, 10], [0, 20], time=days, variable="t")
    for wrong, match in (
        ([bare, given[0]], "some of the observations"),
        ([bare, GridObservations(initial.t, 0.1)], "points"),
    ):
        with pytest.raises(ValueError, match=match):
            cycle.run(initial, wrong, time_step="1D", steps=2)


def test_forcing_needs_names(initial):
    with pytest.raises(ValueError, match="which variables force"):
        Cycle(still, state_names=["t"]).run(initial, forcing=initial, steps=2, time_step="1D")


def test_longitudes_of_gridded_observations_count_from_where_they_like(initial):
    one = initial.isel(member=0).assign(t=initial.t[0] + initial.lon)
    cycle = Cycle(still, OptimalInterpolation(background_error=Gaussian(1.0, 1e6)), state_names=["t"], periodic=True)
    seen = (one.t.isel(lat=slice(2, 4)) + 1).expand_dims(time=[np.datetime64("2000-01-02", "ns")])
    shifted = seen.assign_coords(lon=((seen.lon + 180) % 360 - 180).assign_attrs(seen.lon.attrs)).sortby("lon")
    runs = [cycle.run(one, GridObservations(each, 0.1), time_step="1D").t.values for each in (seen, shifted)]
    assert np.allclose(*runs, rtol=0, atol=1e-9)


def dated(times):
    return PointObservations([1.0, 2.0], [0, 10], [0, 20], time=times, error_std=0.1, variable="t")


def test_dates_of_python_and_in_words_are_those_of_numpy():
    days = np.array(["2000-01-01", "2000-01-02"], "datetime64[ns]")
    field = xr.Dataset({"t": (("time", "lat", "lon"), np.zeros((2, 7, 18)))}, {"time": days, "lat": LAT, "lon": LON})
    expected = analyse(field, dated(days), Gaussian(1.0, 1e6), periodic=True).t
    for times in (
        [datetime(2000, 1, 1), datetime(2000, 1, 2)],
        [pd.Timestamp("2000-01-01"), pd.Timestamp("2000-01-02")],
        ["2000-01-01", "2000-01-02"],
    ):
        assert expected.equals(analyse(field, dated(times), Gaussian(1.0, 1e6), periodic=True).t)
    for times, match in ((None, "have no times"), (["today", "never"], "no date")):
        with pytest.raises(ValueError, match=match):
            analyse(field, dated(times), Gaussian(1.0, 1e6), periodic=True)


def test_the_time_is_found_beside_other_dates():
    days = np.array(["2000-01-01", "2000-01-02"], "datetime64[ns]")
    ds = dated(days).to_dataset()
    ds = xr.Dataset({"t": ds.t}, {"deployed": ("obs", days - np.timedelta64(9, "D")), **ds.coords})
    ds.time.attrs.clear()
    assert (PointObservations.from_dataset(ds, "t", error_std=0.1).time == days).all()


def test_without_an_observation_the_analysis_is_the_forecast():
    field = xr.Dataset({"t": (("lat", "lon"), np.full((7, 18), 2.0))}, {"lat": LAT, "lon": LON})
    none = PointObservations([], [], [], error_std=0.1, variable="t")
    out = analyse(field, none, Gaussian(1.0, 1e6), periodic=True)
    assert (out.t == 2).all() and np.allclose(out.t_std, 1.0)
    assert out.used == 0 and out.innovation.size == 0


def test_a_fit_needs_innovations_and_learns_sigma_o_of_a_plain_number():
    rng = np.random.default_rng(1)
    layer = BLUE(1e-3, 1.0, **GRID)
    lat, lon = rng.uniform(-28, 28, (4, 50)), rng.uniform(0, 360, (4, 50))
    found = layer.fit(PointObservations(rng.normal(0, 0.5, (4, 50)), lat, lon))
    assert found.error_std == pytest.approx(0.5, rel=0.15) and found.background_error == 1e-3
    with pytest.raises(ValueError, match="every innovation is missing"):
        layer.fit(PointObservations(np.full((4, 50), np.nan), lat, lon))


def test_labelled_fields_are_saved():
    std = xr.DataArray(np.where(MASK, 1.5, np.nan), {"lat": LAT, "lon": LON}, ("lat", "lon"))
    again = Diffusion.from_config(Diffusion(std.transpose(), 1e6).get_config())
    assert np.array_equal(again.std, std.values, equal_nan=True)


class Model:
    def __init__(self, rate, kind="euler"):
        self.rate, self.kind = rate, kind

    def step(self, x, forcing=None):
        return self.rate * x


def test_runs_of_other_functions_methods_and_options_have_other_digests():
    assert digest(lambda x: np.sin(x)) != digest(lambda x: np.cos(x))
    assert digest(Model(1.0).step) == digest(Model(1.0).step) != digest(Model(2.0).step)
    assert digest(Model(1.0)) != digest(Model(1.0, "rk4"))
    one, other = (BLUE(Gaussian(1.0, 1e6), 0.1, **GRID, method=m) for m in ("local", "observation"))
    before = digest(one)
    assert before != digest(other)
    one(np.zeros((1, LAT.size, LON.size, 1)), one.prepare(PointObservations([1.0], [0.0], [0.0])))
    assert digest(one) == before
