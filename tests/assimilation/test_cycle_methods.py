import pickle
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import xarray as xr
from keras import ops

from physml import _backend
from physml.assimilation import (
    BLUE,
    ETKF,
    RK4,
    CallableObservations,
    Cycle,
    EnKFN,
    Gaussian,
    GridObservations,
    JointObservations,
    LinearObservations,
    OptimalInterpolation,
    PointObservations,
    Unrolled,
    desroziers,
    drive,
    random_positions,
)
from physml.assimilation.cycling.workers import OverDask, Sent
from physml.assimilation.method import Geometry, Method, Output, Problem, Seen
from physml.testbeds import lorenz96

SITES = 12
PERIOD = {"site": SITES}


def step():
    return RK4(lorenz96.tendency, 0.05, dtype="float64")


@pytest.fixture(scope="module")
def twin():
    """Ten members on twelve sites, and observations of twelve times, every second step, with gaps."""
    rng = np.random.default_rng(1)
    start = xr.Dataset(
        {"x": (("member", "site"), 2 + rng.normal(size=(10, SITES)), {"units": "1", "long_name": "a wave"})},
        {"site": np.arange(SITES)},
        {"title": "twin"},
    )
    values = 2 + rng.normal(size=(12, SITES))
    values[rng.random(values.shape) < 0.3] = np.nan
    values[4] = np.nan
    seen = xr.DataArray(values, {"time": 0.1 * np.arange(1, 13), "site": start.site}, ("time", "site"), "x")
    return start, GridObservations(seen, 1.0)


@pytest.fixture(scope="module")
def cycled(twin):
    start, seen = twin
    return Cycle(step(), ETKF(inflation=1.02), state_names=["x"], periodic=PERIOD).run(start, seen, members=True)


def test_a_labelled_cycle_is_the_bare_runner(twin, cycled):
    start, seen = twin
    values = seen.values.values
    scheme = step()

    def propagate(x, k):
        return scheme(scheme(x[..., None]))[..., 0]

    every = np.broadcast_to(np.arange(SITES, dtype="int32")[:, None], (12, SITES, 1))
    geometry = Geometry(np.arange(SITES)[:, None] * 1.0, np.array([SITES * 1.0]))
    problem = Problem(SITES, propagate, geometry=geometry)
    given = Seen(values, 1.0, every, np.ones(every.shape))
    bare = drive(ETKF(inflation=1.02), problem, start.x.values, given)
    names = {"mean": "x", "forecast_mean": "x_forecast", "spread": "x_std", "forecast_spread": "x_forecast_std"}
    # The order of the sums is another: missing observations are packed away here, there they are rows of zeros.
    for theirs, ours in {**names, "chi2": "chi2", "used": "used"}.items():
        np.testing.assert_allclose(cycled[ours], bare[theirs], rtol=0, atol=1e-9)
    np.testing.assert_allclose(cycled.x_members.mean("member"), cycled.x, rtol=0, atol=1e-13)
    np.testing.assert_allclose(cycled.x_members.std("member", ddof=1), cycled.x_std, rtol=0, atol=1e-13)


def test_model_error_is_bound_to_the_grid(twin):
    start, seen = twin
    scheme = step()
    cycle = Cycle(scheme, ETKF(), state_names=["x"], model_error=Gaussian(0.5, 1.0), periodic=PERIOD, fused=False)
    out = cycle.run(start, GridObservations(seen.values.isel(time=[0]), 1.0), seed=4, members=True)
    gap = np.abs(np.subtract.outer(np.arange(SITES), np.arange(SITES)))
    gap = np.minimum(gap, SITES - gap)
    q = cycle.course(start, seen).problem().model_error
    with _backend.float64():
        np.testing.assert_allclose(ops.convert_to_numpy(q.dense()), 0.25 * np.exp(-0.5 * gap**2), atol=1e-12)
        draws = np.random.default_rng((4, 0)).standard_normal((1, 10, q.rank))[0]
        x = ops.convert_to_tensor(start.x.values[..., None])
        x = scheme(scheme(x))[..., 0] + q.root(ops.convert_to_tensor(draws))
        np.testing.assert_allclose(out.x_forecast[0], ops.convert_to_numpy(x).mean(axis=0), rtol=0, atol=1e-12)


def test_output_is_labelled_at_the_times_of_the_observations(twin, cycled):
    start, seen = twin
    assert cycled.x.dims == ("time", "site") and cycled.x_members.dims == ("time", "member", "site")
    assert np.allclose(cycled.time, seen.values.time) and np.array_equal(cycled.site, start.site)
    assert cycled.x.attrs == start.x.attrs and cycled.attrs["title"] == "twin"
    assert cycled.x_std.attrs["units"] == "1" and "a wave" in cycled.x_std.attrs["long_name"]
    assert all({"long_name", "units"} <= set(cycled[v].attrs) for v in cycled.data_vars)
    there = np.isfinite(seen.values).sum("site").values
    assert np.array_equal(cycled.used, there) and np.array_equal(cycled.innovation.notnull().sum("obs"), there)
    # Without observations the analysis is the forecast, but for the inflation.
    np.testing.assert_allclose(cycled.x[4], cycled.x_forecast[4], rtol=0, atol=1e-12)
    assert np.isnan(cycled.chi2[4]) and cycled.attrs["observations_unused"] == 0
    first = seen.values[0].dropna("site") - cycled.x_forecast[0].sel(site=seen.values[0].dropna("site").site)
    np.testing.assert_allclose(cycled.innovation[0].dropna("obs"), first, rtol=0, atol=1e-13)
    assert np.array_equal(cycled.observation_site[0].dropna("obs"), first.site)


def test_residuals_are_observations_minus_the_analysis_and_suggest_the_errors(twin, cycled):
    _, seen = twin
    there = np.isfinite(seen.values.values)
    for name, field in (("innovation", cycled.x_forecast), ("residual", cycled.x)):
        told, expected = cycled[name].values, seen.values.values - field.values
        assert cycled[name].dims == ("time", "obs") and cycled[name].attrs["units"] == "1"
        np.testing.assert_allclose(told[np.isfinite(told)], expected[there], rtol=0, atol=1e-9)
    suggested = desroziers(cycled.innovation, cycled.residual)
    product = np.nanmean(cycled.innovation * cycled.residual)
    assert float(suggested.observation_error_std) == pytest.approx(np.sqrt(product), rel=1e-12)


def test_steps_and_the_steps_between_analyses_follow_from_the_times(twin, cycled):
    start, seen = twin
    cycle = Cycle(step(), ETKF(inflation=1.02), state_names=["x"], periodic=PERIOD, fused=False)
    course = cycle.course(start, GridObservations(seen.values.isel(time=[5, 1]), 1.0))
    assert course.every == 4 and len(course.rows.values) == 3 and course.vector.geometry.period.tolist() == [SITES]
    assert cycle.course(start, seen, steps=30).labels.times[-1] == pytest.approx(1.5)
    with pytest.raises(ValueError, match="outside the run"):
        cycle.course(start, seen, steps=20)
    # A coordinate that says its period needs no argument.
    start = start.assign_coords(site=start.site.assign_attrs(period=SITES))
    assert Cycle(step(), ETKF(), state_names=["x"]).course(start, seen).vector.geometry.period.tolist() == [SITES]


def test_gross_errors_are_set_aside_and_counted(twin):
    start, seen = twin
    wrong = seen.values.copy()
    wrong[0, np.flatnonzero(np.isfinite(wrong[0].values))[0]] = 80.0
    cycle = Cycle(step(), ETKF(), state_names=["x"], periodic=PERIOD, gross_error=8.0, fused=False)
    first = GridObservations(wrong.isel(time=slice(0, 2)), 1.0)
    out = cycle.run(start, first)
    assert out.rejected.values.tolist() == [1, 0] and out.attrs["observations_rejected"] == 1
    without = wrong.where(wrong != 80)
    again = cycle.run(start, GridObservations(without.isel(time=slice(0, 2)), 1.0))
    np.testing.assert_allclose(out.x, again.x, rtol=0, atol=1e-12)
    assert out.used[0] == again.used[0]


def test_joint_observations_add_their_information(twin):
    start, seen = twin
    one = GridObservations(seen.values.isel(time=slice(0, 2)), 1.0)
    cycle = Cycle(step(), ETKF(), state_names=["x"], periodic=PERIOD, fused=False)
    twice = cycle.run(start, JointObservations([one, one]))
    half = cycle.run(start, GridObservations(one.values, 0.5**0.5))
    for name in ("x", "x_std"):
        np.testing.assert_allclose(twice[name], half[name], rtol=0, atol=1e-11)
    assert (twice.used == 2 * half.used).all()


def test_a_linear_function_is_its_matrix_and_another_is_seen_member_by_member(twin):
    start, _seen = twin
    h = np.random.default_rng(2).normal(size=(4, SITES))
    values = start.x.mean("member").values @ h.T + np.ones((2, 4))
    cycle = Cycle(step(), ETKF(), state_names=["x"], periodic=PERIOD, fused=False)
    time = [0.05, 0.1]
    matrix = cycle.run(start, LinearObservations(h, values, 0.5, time))
    function = cycle.run(start, CallableObservations(lambda x: ops.matmul(x[..., 0], h.T), values, 0.5, time))
    for name in ("x", "x_std", "innovation", "innovation_std", "chi2"):
        np.testing.assert_allclose(matrix[name], function[name], rtol=0, atol=1e-11)
    square = cycle.run(start, CallableObservations(lambda x: x[:, :3, 0] ** 2, np.full((2, 3), 6.0), 0.5, time))
    with _backend.float64():
        members = ops.convert_to_numpy(step()(ops.convert_to_tensor(start.x.values[..., None])))[:, :3, 0]
    np.testing.assert_allclose(square.innovation[0], 6 - (members**2).mean(axis=0), rtol=0, atol=1e-12)


def test_constraints_follow_the_analysis_of_every_member(twin):
    start, seen = twin
    cycle = Cycle(step(), ETKF(), after=ops.relu, state_names=["x"], periodic=PERIOD, fused=False)
    out = cycle.run(start, GridObservations(seen.values.isel(time=slice(0, 3)) - 4, 1.0), members=True)
    assert out.x_members.min() == 0 and out.x_forecast.min() < 0


def test_several_variables_on_the_sphere_in_a_float32_step():
    rng = np.random.default_rng(3)
    lat, lon = np.linspace(-30, 30, 3), np.arange(0.0, 360, 72)
    wet = np.ones((3, 5), bool)
    wet[1, 2] = False
    shape = (6, 3, 5)
    fields = {
        n: (("member", "lat", "lon"), np.where(wet, rng.normal(size=shape), np.nan), {"units": u})
        for n, u in (("t", "K"), ("s", "1"))
    }
    start = xr.Dataset(
        fields, {"lat": lat, "lon": lon, "time": np.datetime64("2001-01-01", "ns"), "wet": (("lat", "lon"), wet)}
    )
    seen_types = []

    class Step(keras.layers.Layer):
        time_step = "1D"
        state_names = ("t", "s")

        def call(self, state, forcing=None):
            seen_types.append(keras.backend.standardize_dtype(state.dtype))
            return 0.5 * state + forcing

    forcing = xr.Dataset({"f": (("lat", "lon"), np.full((3, 5), 0.25))}, {"lat": lat, "lon": lon})
    t = PointObservations(
        [[1.0], [2.0]], [[10.0], [0.0]], [[20.0], [144.0]], start.time.values + np.array([1, 2], "m8[D]"), 0.1, "K", "t"
    )
    s = GridObservations(start.s.mean("member").assign_coords(time=start.time + np.timedelta64(2, "D")), 0.2)
    cycle = Cycle(Step(), ETKF(), forcing_names=["f"], periodic=True, mask="wet", fused=False)
    out = cycle.run(start, JointObservations([t, s]), forcing)
    assert set(seen_types) == {"float32"} and out.t.dtype == np.float64
    assert out.t.dims == ("time", "lat", "lon") and np.array_equal(out.t.notnull()[0], wet)
    np.testing.assert_allclose(out.t_forecast[0], 0.5 * start.t.mean("member") + 0.25, rtol=0, atol=1e-6)
    assert out.attrs["observations_dropped_space"] == 1 + 0 and out.used.values.tolist() == [1, 14]
    assert out.observed.attrs["flag_meanings"] == "t s" and out.observed.values.tolist() == [0] + [1] * 14
    np.testing.assert_allclose(out.observation_latitude[1, :2], [np.nan, -30], atol=1e-12)
    np.testing.assert_allclose(out.observation_longitude[1, 3], 144, atol=1e-12)
    assert "units" not in out.innovation.attrs and out.t_std.attrs["units"] == "K"
    course = cycle.course(start, t, forcing)
    assert course.rows.positions.shape == (2, 1, 3) and course.vector.geometry.positions.shape == (28, 3)


@dataclass(frozen=True, eq=False, kw_only=True)
class Window(Method):
    """Nudges every run by what it knows of windows of two times with one earlier; tells of a smoothed state one time late."""

    ensemble = False
    smoothing_lag: int = 1
    background_error: object = None

    @property
    def count(self):
        return 2

    @property
    def lag(self):
        return 1

    @property
    def first(self):
        return 3

    def draws(self, rng, members, size, observed, count, noise=0):
        return {"number": rng.normal(size=(count, members, size))}

    def __call__(self, problem, state, seen, draws):
        x, told = state["ensemble"], []
        new = draws["number"].shape[0]
        for k in range(new):
            before = x
            x = problem.propagate(x, seen.values.shape[0] - new + k)
            at = seen.at(seen.values.shape[0] - new + k)
            y = problem.observe(x, at)
            d = ops.where(at.valid, at.values - y, 0.0)
            told.append((x, x + ops.sum(d, axis=-1, keepdims=True) + draws["number"][k], d, before))
            x = told[-1][1]
        forecast, analysis, d, before = (ops.stack(a) for a in zip(*told, strict=True))
        used = ops.ones(d.shape[:2], dtype="float64")
        return {"ensemble": x}, Output(forecast, analysis, d, d, used, used, used, smoothed=before)


@pytest.mark.parametrize("runs", [1, 2])
def test_windows_of_several_times_and_runs_of_their_own(runs):
    start = xr.Dataset({"c": (("run", "x"), np.arange(3.0 * runs).reshape(runs, 3))}, {"time": 0.0})
    start = start if runs > 1 else start.isel(run=0)
    seen = GridObservations(xr.DataArray(np.ones((4, 3)), {"time": np.arange(1.0, 5)}, ("time", "x"), "c"), 1.0)
    forcing = np.arange(4.0)[None, :, None, None]
    cycle = Cycle(lambda c, f: 0.5 * c + f, Window(), state_names=["c"], space=["x"], fused=False)
    out = cycle.run(start, seen, forcing, time_step=1.0, seed=5)
    c = start.c.values.reshape(runs, 3)
    # Two calls, of three times and of two, the last of which lies beyond the end.
    numbers = np.concatenate([np.random.default_rng((5, k)).normal(size=(3 - k, runs, 3)) for k in range(2)])
    for n in range(4):
        before, forecast = c, 0.5 * c + n
        c = forecast + (1 - forecast).sum(axis=1, keepdims=True) + numbers[n]
        np.testing.assert_allclose(out.c_forecast[n].values.reshape(runs, 3), forecast, atol=1e-12)
        np.testing.assert_allclose(out.c[n].values.reshape(runs, 3), c, atol=1e-12)
        if n:
            np.testing.assert_allclose(out.c_smoothed[n - 1].values.reshape(runs, 3), before, atol=1e-12)
    assert out.c_smoothed[3].isnull().all() and out.sizes["time"] == 4
    assert out.c.dims == (("time", "run", "x") if runs > 1 else ("time", "x")) and "c_std" not in out
    assert out.innovation.dims == (("time", "run", "obs") if runs > 1 else ("time", "obs"))


def test_members_over_dask_give_the_numbers_of_one_batch(twin, cycled):
    start, seen = twin
    cycle = Cycle(step(), ETKF(inflation=1.02), state_names=["x"], periodic=PERIOD, fused=False)
    few = GridObservations(seen.values.isel(time=slice(0, 4)), 1.0)
    over = cycle.run(start, few, members_by="dask")
    for name in ("x", "x_forecast", "x_std", "chi2"):
        np.testing.assert_allclose(over[name], cycled[name].isel(time=slice(0, 4)), rtol=0, atol=1e-11)


def test_members_over_dask_are_not_differentiated_and_schemes_travel_in_parts():
    shared = OverDask(lambda x, forcing=None: 2 * x)
    with _backend.float64():
        x = ops.ones((3, 4, 1), dtype="float64")
        assert np.array_equal(ops.convert_to_numpy(shared(x)), 2 * np.ones((3, 4, 1)))
        with pytest.raises(ValueError, match="members over dask cannot be differentiated"):
            _, adjoint = _backend.vjp(shared, x)
            adjoint(x)
    sent = pickle.loads(pickle.dumps(Sent(Unrolled(step(), 2, return_sequence=False, dtype="float64")))).step
    assert sent.n == 2 and sent.step.dt == 0.05 and sent.step.dtype_policy.name == "float64"
    assert sent.step.tendency is lorenz96.tendency
    with pytest.raises(ValueError, match="the workers are no dask client"):
        OverDask(lambda x: x, workers=4)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"initial": lambda ds: ds.isel(member=0)}, {}, "ETKF: the initial state has no members"),
        ({"observations": lambda o: None}, {}, "analysis and observations belong together"),
        ({"observations": lambda o: [o]}, {}, "these are no observations"),
        ({"method": "layer"}, {"steps": 24, "time_step": 0.05}, "a layer observes points"),
        ({"periodic": {"s": 12}}, {}, "periodic names no dimension of space"),
        ({"periodic": True}, {}, "the grid is not geographic"),
        ({"gross_error": 0.0}, {}, "gross_error is not positive"),
        ({"step": lambda x, forcing=None: x * np.nan}, {"time_step": 0.05}, "not finite at the analysis of 0.1"),
        ({}, {"members_by": "threads"}, "members_by is unknown"),
        ({}, {"every": 50}, "1 <= every <= steps"),
    ],
)
def test_what_a_method_cannot_use_is_refused(twin, change, options, message):
    start, seen = twin
    given = {k: v for k, v in change.items() if k in ("periodic", "gross_error")}
    with pytest.raises(ValueError, match=message):
        method = ETKF() if "method" not in change else keras.layers.Identity()
        given |= {} if "method" not in change else {"space": ["site"]}
        cycle = Cycle(change.get("step", step()), method, state_names=["x"], **{"periodic": PERIOD, **given})
        cycle.run(change.get("initial", lambda ds: ds)(start), change.get("observations", lambda o: o)(seen), **options)


def test_one_member_and_a_mean_of_another_state_are_refused(twin):
    start, seen = twin
    with pytest.raises(ValueError, match="ETKF: one member has no spread"):
        Cycle(step(), ETKF(), state_names=["x"]).run(start.isel(member=[0]), seen)
    method = OptimalInterpolation(background_error=1.0, mean=np.zeros(7))
    with pytest.raises(ValueError, match=r"mean does not fit the state\. Expected: 12 elements"):
        Cycle(step(), method, state_names=["x"]).run(start.isel(member=0), seen)


def test_a_forecast_that_outgrows_sixteen_digits_is_named(twin):
    start, seen = twin
    wild = RK4(lorenz96.tendency, 0.4, dtype="float64")
    # TensorFlow fails in the decomposition; JAX goes on with NaN, which the next forecast shows.
    when = "0.2" if keras.backend.backend() == "jax" else "0.1"
    with pytest.raises(ValueError, match=f"not finite at the analysis of {when}.*look at a free run"):
        Cycle(wild, EnKFN(), state_names=["x"]).run(10 * start, seen, time_step=0.05)


def test_optimal_interpolation_of_labelled_fields_is_blue():
    """A covariance given to a method is bound to the grid and its coasts, and points are observed as by the layer."""
    rng = np.random.default_rng(8)
    lat, lon, mask = np.linspace(-4, 4, 5), np.arange(0.0, 360, 45), np.ones((5, 8), bool)
    mask[2, 3] = False
    start = xr.Dataset(
        {"t": (("lat", "lon"), np.where(mask, rng.normal(size=(5, 8)), np.nan), {"units": "K"})},
        {"lat": lat, "lon": lon, "time": np.datetime64("2003-05-01", "ns")},
    )
    at = random_positions(lat, lon, mask, (2, 6), rng)
    time = start.time.values + np.arange(1, 3) * np.timedelta64(1, "D")
    seen = PointObservations(rng.normal(size=(2, 6)), *at, time, 0.2, "K", "t")
    error = Gaussian(0.5, 3000e3)

    def decay(x, forcing=None):
        return 0.9 * x

    layer = BLUE(error, latitude=lat, longitude=lon, periodic=True, mask=mask, dtype="float64")
    blue = Cycle(decay, layer, state_names=["t"]).run(start, seen, time_step="1D", dtype="float64")
    method = OptimalInterpolation(background_error=error)
    out = Cycle(decay, method, state_names=["t"], periodic=True, mask=mask, fused=False).run(
        start, seen, time_step="1D"
    )
    for name in blue.data_vars:
        np.testing.assert_allclose(out[name], blue[name], rtol=0, atol=1e-11, err_msg=name)
        assert out[name].dims == blue[name].dims

    np.testing.assert_allclose(out.observation_latitude, at[0], atol=1e-12)
    np.testing.assert_allclose(np.mod(out.observation_longitude, 360), np.mod(at[1], 360), atol=1e-11)


def test_many_steps_between_analyses_are_a_loop(twin):
    start, seen = twin
    scheme = step()
    cycle = Cycle(scheme, ETKF(), state_names=["x"], periodic=PERIOD)
    course = cycle.course(start, GridObservations(seen.values.isel(time=[2, 5]), 1.0))
    assert course.every == 6
    out = cycle.run(start, GridObservations(seen.values.isel(time=[2, 5]), 1.0))
    with _backend.float64():
        x = ops.convert_to_tensor(start.x.values[..., None])
        for _ in range(6):
            x = scheme(x)
        np.testing.assert_allclose(out.x_forecast[0], ops.convert_to_numpy(x)[..., 0].mean(axis=0), rtol=0, atol=1e-12)


@pytest.mark.long
def test_workers_of_a_cluster_integrate_a_network():
    from distributed import Client, LocalCluster

    rng = np.random.default_rng(9)
    network = keras.Sequential([keras.Input((8, 1)), keras.layers.Conv1D(4, 3, padding="same", activation="tanh")])
    model = keras.Model(network.inputs, keras.layers.Conv1D(1, 1)(network.outputs[0]))
    start = xr.Dataset({"x": (("member", "site"), rng.normal(size=(5, 8)))})
    seen = xr.DataArray(rng.normal(size=(2, 8)), {"time": [1.0, 2.0]}, ("time", "site"), "x")
    cycle = Cycle(model, ETKF(), state_names=["x"])
    batch = cycle.run(start, GridObservations(seen, 0.5), time_step=1.0)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        over = cycle.run(start, GridObservations(seen, 0.5), time_step=1.0, members_by="dask", workers=client)
    # float32, summed in another order.
    np.testing.assert_allclose(over.x, batch.x, rtol=0, atol=1e-5)
