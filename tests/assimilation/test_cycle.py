import numpy as np
import pytest
import xarray as xr
from keras import ops

from physml.assimilation import BLUE, RK4, Cycle, Gaussian, PointObservations, observe, random_positions

DAY = np.timedelta64(1, "D").astype("m8[ns]")
START = np.datetime64("2003-05-01", "ns")


def turn(state, forcing=None):
    """Carry the field one cell to the east along closed latitudes and let it decay."""
    return 0.98 * ops.roll(state, 1, axis=2)


@pytest.fixture
def basin():
    """A channel of 5 x 8 cells with an island, its BLUE, an initial state and observations of five days."""
    lat, lon = np.linspace(-4, 4, 5), np.arange(0.0, 360, 45)
    mask = np.ones((5, 8), bool)
    mask[2, 3] = False
    layer = BLUE(Gaussian(0.5, 3000e3), latitude=lat, longitude=lon, periodic=True, mask=mask, dtype="float64")
    rng = np.random.default_rng(8)
    initial = xr.Dataset(
        {"t": (("lat", "lon"), np.where(mask, rng.normal(size=(5, 8)), np.nan), {"units": "K", "long_name": "heat"})},
        {"lat": lat, "lon": lon, "time": START},
    )
    at = random_positions(lat, lon, mask, (5, 6), rng)
    obs = PointObservations(rng.normal(size=(5, 6)), *at, START + DAY * np.arange(1, 6), 0.2, "K", "t")
    return layer, initial, obs, mask


def masked_turn(mask, dtype="float64"):
    def step(state, forcing=None):
        return turn(state) * ops.convert_to_tensor(mask[..., None].astype(dtype))

    step.state_names = ("t",)
    step.time_step = "1D"
    return step


def test_a_cycle_is_the_textbook_recursion_of_optimal_interpolation(basin):
    layer, initial, obs, mask = basin
    out = Cycle(masked_turn(mask), layer).run(initial, obs, steps=5, dtype="float64")
    x = initial.t.fillna(0).values
    B = layer.background_error.covariance(
        *2 * [[a.ravel() for a in np.meshgrid(layer.latitude, layer.longitude, indexing="ij")]]
    )
    for n in range(5):
        x = 0.98 * np.roll(x, 1, axis=1) * mask
        assert np.nanmax(np.abs(out.t_forecast[n] - x)) < 1e-13
        given = layer.prepare(PointObservations(obs.values[n], obs.latitude[n], obs.longitude[n]))
        H = np.zeros((6, 40))
        for k in range(4):
            np.add.at(H, (np.arange(6), given["index"][0, :, k]), given["weights"][0, :, k])
        S = H @ B @ H.T + 0.04 * np.eye(6)
        d = obs.values[n] - H @ x.ravel()
        x = x + ((B @ H.T @ np.linalg.solve(S, d)) * mask.ravel()).reshape(x.shape)
        assert np.nanmax(np.abs(out.t[n] - x)) < 1e-12
        assert np.allclose(out.innovation[n], d, atol=1e-13)
        assert out.chi2[n].item() == pytest.approx(d @ np.linalg.solve(S, d) / 6, rel=1e-10)
    assert out.attrs["solution"] == "observation space"
    assert out.t.dims == ("time", "lat", "lon") and out.t.attrs == initial.t.attrs
    assert np.array_equal(out.time, obs.time) and (out.used == 6).all()
    assert np.array_equal(out.t.notnull()[0], mask) and np.array_equal(out.t_std.notnull()[0], mask)
    assert all({"long_name", "units"} <= set(out[v].attrs) for v in out.data_vars)


def test_without_an_analysis_the_model_runs_free_and_between_analyses_nothing_is_claimed(basin):
    layer, initial, obs, mask = basin
    step = masked_turn(mask)
    free = Cycle(step, mask=mask).run(initial, steps=4, dtype="float64")
    assert list(free.data_vars) == ["t"]
    seldom = Cycle(step, layer).run(initial, obs.table(), steps=5, every=2, dtype="float64")
    assert seldom.used.values.tolist() == [0, 6, 0, 6, 0] and seldom.attrs["observations_unused"] == 18
    assert np.isnan(seldom.chi2.values).tolist() == [True, False, True, False, True]
    assert seldom.t_std[0].isnull().all() and seldom.t_std[1].notnull().any()
    assert np.array_equal(seldom.t[0], free.t[0], equal_nan=True)
    xr.testing.assert_equal(seldom.t_forecast[1].drop_attrs(), free.t[1].drop_attrs())


@pytest.mark.parametrize("each_its_own", [True, False])
def test_members_are_cycled_as_if_each_were_alone(basin, each_its_own):
    layer, initial, obs, mask = basin
    members = xr.concat([initial, 2 * initial, -initial], "run")
    other = PointObservations(obs.values[:, :4] + 1, obs.latitude[:, :4], obs.longitude[:, :4], obs.time, 0.3)
    given = [obs, other, obs] if each_its_own else obs
    cycle = Cycle(masked_turn(mask), layer)
    together = cycle.run(members, given, steps=5, dtype="float64")
    assert together.t.dims == ("time", "run", "lat", "lon") and together.chi2.dims == ("time", "run")
    alone = cycle.run(members.isel(run=1), other if each_its_own else obs, steps=5, dtype="float64")
    for name in ("t", "t_forecast", "t_std", "chi2", "used"):
        np.testing.assert_allclose(together[name].isel(run=1), alone[name], rtol=0, atol=1e-12)
    assert together.used.isel(run=1)[0] == (4 if each_its_own else 6)


def test_only_the_observed_variable_changes_and_constraints_follow_the_analysis(basin):
    layer, initial, obs, _ = basin
    pair = initial.assign(s=initial.t + 10)
    obs = PointObservations(obs.values - 5, obs.latitude, obs.longitude, obs.time, 0.2, variable="t")
    cycle = Cycle(lambda x, forcing=None: x, layer, after=ops.relu, state_names=["s", "t"])
    out = cycle.run(pair, obs, steps=5, time_step=86400, dtype="float64")
    assert np.array_equal(out.s[-1], pair.s, equal_nan=True)
    assert out.t.min() == 0 and out.t_forecast[1:].min() == 0 and out.innovation.max() < 0
    with pytest.raises(ValueError, match="the observed variable is not known"):
        cycle.run(pair, PointObservations(obs.values, 0.0, 0.0, obs.time, 0.2), steps=5, time_step="1D")


def test_forcing_acts_from_the_beginning_of_its_step_and_schemes_know_their_length():
    start = xr.Dataset({"c": ("x", [0.0, 0.0])}, {"time": START})
    times = START + DAY * np.arange(3)
    forcing = xr.Dataset({"f": (("time", "x"), [[1.0, 2], [3, 4], [5, 6]])}, {"time": times})
    step = RK4(lambda x, f: f / 86400 + 0 * x, dt=86400.0)
    cycle = Cycle(step, state_names=["c"], forcing_names=["f"], space=["x"])
    out = cycle.run(start, forcing=forcing, steps=3)
    assert np.allclose(out.c, [[1, 2], [4, 6], [9, 12]])
    assert np.array_equal(out.time, times + DAY)
    with pytest.raises(ValueError, match="the forcing 'f' has no field for the step that begins at 2003-05-04"):
        cycle.run(start, forcing=forcing, steps=4)
    array = forcing.f.values[None, ..., None]
    assert np.allclose(cycle.run(start, forcing=array, steps=3).c, out.c)
    undated = cycle.run(start.drop_vars("time"), forcing=forcing.isel(time=0, drop=True), steps=2)
    assert undated.time.dtype.kind == "m" and np.allclose(undated.c[-1], [2, 4])


def test_one_cell_in_ten_observed_brings_a_wrong_start_to_the_truth():
    lat, lon, B = np.linspace(-20, 20, 12), np.arange(0, 360, 15.0), Gaussian(1.0, 1500e3)
    rng, cells = np.random.default_rng(0), [a.ravel() for a in np.meshgrid(lat, lon, indexing="ij")]
    root = np.linalg.cholesky(B.covariance(cells, cells) + 1e-9 * np.eye(288))
    truth, wrong = (root @ rng.normal(size=(288, 2))).T.reshape(2, 12, 24)
    first = xr.Dataset({"t": (("lat", "lon"), truth, {"units": "K"})}, {"lat": lat, "lon": lon, "time": START})
    layer = BLUE(B, latitude=lat, longitude=lon, periodic=True)
    step = masked_turn(np.ones((12, 24), bool), "float32")
    true = Cycle(step).run(first, steps=12)
    at = random_positions(lat, lon, None, (12, 29), rng)
    values = observe(true, "t", *at, periodic=True).values + rng.normal(0, 0.1, (12, 29))
    obs = PointObservations(values, *at, true.time.values, 0.1, "K")
    cycled = Cycle(step, layer).run(first.assign(t=first.t.copy(data=wrong)), obs, steps=12)
    error = ((cycled.t - true.t) ** 2).mean(["lat", "lon"]) ** 0.5
    assert error[-1] < 0.25 * np.std(truth - wrong)
    assert cycled.t.dtype == np.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_step": "1h"}, "30 of 30 observations lie outside the run"),
        ({"steps": 2}, "18 of 30 observations lie outside the run"),
        ({"units": "degC"}, "units of the observations and of 't' differ"),
        ({"initial": lambda ds: ds * np.nan}, "the initial state 't' is missing on 39 wet cells"),
        (
            {"initial": lambda ds: ds.assign_coords(lat=ds.lat + 1)},
            "the latitude of the analysis and of the state differ",
        ),
        ({"initial": lambda ds: ds.expand_dims(a=2, b=2)}, "the initial state has too many dimensions"),
        (
            {"initial": lambda ds: ds.drop_vars("time").expand_dims(time=3)},
            "the initial state has several times. Expected: one time. Received: 3",
        ),
        ({"initial": lambda ds: ds.drop_vars("time")}, "are of different kinds. Expected: timedelta64"),
        ({"every": 6}, "1 <= every <= steps"),
        ({"observations": None}, "analysis and observations belong together"),
        ({"observations": 2}, "observations do not fit the members. Expected: one set, or 1. Received: 2"),
        ({"outside": "error", "latitude": 80.0}, "lie on land or outside the grid"),
        ({"step": lambda x, forcing=None: x * np.nan}, "the forecast is not finite at step 1"),
    ],
)
def test_what_does_not_fit_is_refused(basin, change, message):
    layer, initial, obs, mask = basin
    parts = {"latitude": obs.latitude, "units": obs.units} | {
        k: change[k] for k in ("latitude", "units") if k in change
    }
    obs = PointObservations(obs.values, parts["latitude"], obs.longitude, obs.time, 0.2, parts["units"])
    given = {None: None, 2: [obs, obs]}.get(change["observations"], obs) if "observations" in change else obs
    cycle = Cycle(change.get("step", masked_turn(mask)), layer, state_names=["t"])
    options = {"steps": 5, "time_step": "1D"} | {
        k: v for k, v in change.items() if k in ("steps", "every", "time_step", "outside")
    }
    with pytest.raises(ValueError, match=message):
        cycle.run(change.get("initial", lambda ds: ds)(initial), given, dtype="float64", **options)


def test_a_state_without_names_and_a_step_without_length_are_refused(basin):
    layer, initial, obs, _ = basin
    with pytest.raises(ValueError, match="Cycle: the state has no names"):
        Cycle(turn, layer)
    with pytest.raises(ValueError, match="the length of the time step is not known"):
        Cycle(turn, layer, state_names=["t"]).run(initial, obs, steps=5)
    with pytest.raises(KeyError, match="state variable 'T' is not in the Dataset"):
        Cycle(turn, layer, state_names=["T"]).run(initial, obs, steps=5, time_step="1D")
