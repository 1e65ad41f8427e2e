import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from physml.assimilation import (
    BLUE,
    Diagonal,
    Gaussian,
    Matern,
    PointObservations,
    analyse,
    fit_background_error,
    leave_out,
    observe,
    random_positions,
)

B = Gaussian(0.5, 600e3)


@pytest.fixture
def obs(field, rng):
    """Observations of the field one degree warmer, rows of time, one of them missing, one on land, one outside."""
    lat, lon = random_positions(field.lat, field.lon, field.wet, (3, 12), rng)
    lat[0, :2], lon[0, :2] = [0.0, 50.0], [11.0, 0.0]
    values = observe(field, "sst", lat, lon, periodic=False, mask="wet").values + 1.0
    values[0, :2], values[1, 3] = 7.0, np.nan
    return PointObservations(values, lat, lon, field.time.values, 0.2, "degree_Celsius", "sst")


def test_every_time_is_analysed_alone_and_labelled(field, obs):
    out = analyse(field, obs, B, periodic=False, mask="wet")
    assert out.sst.dims == ("time", "lat", "lon") and out.attrs["title"] == "a field"
    assert out.sst.attrs == field.sst.attrs and out.sst_std.attrs["units"] == "degC"
    assert all("long_name" in out[v].attrs and "units" in out[v].attrs for v in out.data_vars)
    assert np.array_equal(out.sst.notnull(), field.sst.notnull())
    assert out.innovation.dims == ("time", "obs") == out.innovation_std.dims
    assert out.used.values.tolist() == [10, 11, 12] and out.attrs["observations_dropped_space"] == 2
    assert np.allclose(out.innovation.where(out.innovation_std.notnull()).mean(), 1)
    assert abs(out.sst - field.sst - 1).max() < abs(field.sst * 0 + 1).max()
    assert (out.sst_std < 0.5).all(where=out.sst_std.notnull().values)
    alone = analyse(
        field.isel(time=1), replace(obs.at(field.time.values[1:2]), time=None), B, periodic=False, mask="wet"
    )
    assert alone.sst.dims == ("lat", "lon")
    xr.testing.assert_allclose(alone.sst, out.sst.isel(time=1), rtol=1e-13)
    assert alone.chi2.item() == pytest.approx(out.chi2[1].item(), rel=1e-12)


def test_lazy_analyses_are_the_same_and_compute_nothing_when_called(field, obs, no_compute):
    for b, window in ((B, None), (replace(B, time_length="20D"), "15D")):
        eager = analyse(field, obs, b, periodic=False, mask="wet", window=window)
        with no_compute():
            lazy = analyse(field.chunk(time=2, lon=4), obs, b, periodic=False, mask=field.wet.compute(), window=window)
        assert all(lazy[v].chunks is not None for v in ("sst", "sst_std", "chi2", "used", "innovation"))
        for name in eager.data_vars:
            xr.testing.assert_allclose(lazy[name].compute(), eager[name], rtol=1e-12)


def test_with_a_time_length_the_observations_of_other_times_count_as_a_process_in_space_and_time(field, obs):
    b = replace(B, time_length="20D")
    out = analyse(field, obs, b, periodic=False, mask="wet")
    # The textbook in space and time, with each observation at its nearest cell.
    cells = [(2, 3), (8, 9), (1, 1)]
    lat, lon = np.array([(field.lat[j].item(), field.lon[i].item()) for j, i in cells]).T
    seconds = np.arange(3) * 864000.0
    values = np.array([field.sst[t, j, i].item() + d for t, (j, i), d in zip(range(3), cells, (1, -1, 2), strict=True)])
    table = PointObservations(values, lat, lon, field.time.values, 0.2, variable="sst")
    out = analyse(field, table, b, periodic=False, mask="wet")
    S = b.covariance((lat, lon, seconds), (lat, lon, seconds)) + 0.04 * np.eye(3)
    to = b.covariance(([-2.0], [6.0], seconds[1:2]), (lat, lon, seconds))
    expected = field.sst.sel(lat=-2, lon=6)[1].item() + (to @ np.linalg.solve(S, [1.0, -1, 2])).item()
    assert out.sst.sel(lat=-2, lon=6)[1].item() == pytest.approx(expected, rel=1e-12)
    spread = np.sqrt(0.25 - (to @ np.linalg.solve(S, to.T)).item())
    assert out.sst_std.sel(lat=-2, lon=6)[1].item() == pytest.approx(spread, rel=1e-11)
    assert out.used.values.tolist() == [3, 3, 3] and out.innovation.dims == ("obs",)
    near = analyse(field, table, b, periodic=False, mask="wet", window="11D")
    assert near.used.values.tolist() == [2, 3, 2]


def test_a_field_of_background_errors_sets_the_spread_far_from_observations(field):
    std = xr.where(field.lon < 12, 0.2, 0.9) + 0 * field.lat
    one = PointObservations([20.0], [-10.0], [0.0], field.time.values[:1], 0.1, variable="sst")
    out = analyse(field, one, Gaussian(std, 200e3), periodic=False, mask="wet")
    assert out.sst_std.isel(time=1).sel(lat=10, lon=[0, 24]).values == pytest.approx([0.2, 0.9])


def test_leaving_out_in_closed_form_is_doing_the_analysis_again_without(field, rng):
    lat, lon = random_positions(field.lat, field.lon, field.wet, 14, rng)
    days = rng.choice(field.time.values, 14)
    groups = np.array(list("aabbbcdefghhij"))
    obs = PointObservations(rng.normal(size=14), lat, lon, days, rng.uniform(0.1, 0.4, 14), "K")
    layer = BLUE(replace(B, time_length="15D"), latitude=field.lat, longitude=field.lon, periodic=False, mask=field.wet)
    out = leave_out(layer, obs, groups)
    zero = xr.zeros_like(field).assign(wet=field.wet)
    zero["sst"] = xr.zeros_like(field.sst.fillna(0)).assign_attrs(units="K")
    for label in ("b", "e"):
        kept, left = groups != label, np.flatnonzero(groups == label)
        rest = PointObservations(*(a[kept] for a in (obs.values, lat, lon, days)), obs.error_std[kept], "K", "sst")
        again = analyse(zero, rest, layer.background_error, periodic=False, mask="wet")
        at = observe(again, "sst", lat[left], lon[left], periodic=False, mask=field.wet)
        predicted = [at.sel(time=t)[k].item() for k, t in enumerate(days[left])]
        assert np.allclose(obs.values[left] - out.residual[left], predicted, rtol=0, atol=1e-7)
    assert out.attrs["observations"] == 14 and out.residual.attrs["units"] == "K"
    assert out.attrs["rmse_before"] == pytest.approx(np.sqrt(np.mean(obs.values**2)))
    assert out.attrs["chi2"] == pytest.approx(float(((out.residual / out.residual_std) ** 2).mean()))
    with pytest.raises(ValueError, match="groups do not fit the observations"):
        leave_out(layer, obs, groups[:3])


@pytest.mark.long
def test_maximum_likelihood_finds_the_covariances_that_made_the_innovations():
    latitude, longitude = np.linspace(0, 11, 12), np.linspace(0, 15, 16)
    truth, rng, n = Matern(0.8, 300e3, nu=1.5), np.random.default_rng(5), 10
    cells = [a.ravel() for a in np.meshgrid(latitude, longitude, indexing="ij")]
    root = np.linalg.cholesky(truth.covariance(cells, cells))
    fields = xr.Dataset(
        {"e": (("time", "lat", "lon"), (root @ rng.normal(size=(192, n))).T.reshape(n, 12, 16))},
        {"time": np.arange(n) * np.timedelta64(1, "D").astype("m8[ns]"), "lat": latitude, "lon": longitude},
    )
    at = random_positions(latitude, longitude, None, (n, 50), rng)
    values = observe(fields, "e", *at, periodic=False).values + rng.normal(0, 0.3, (n, 50))
    values[0, :5] = np.nan
    innovations = PointObservations(values, *at, fields.time.values)
    layer = BLUE(Matern(0.3, 100e3, nu=1.5), 1.0, latitude=latitude, longitude=longitude, periodic=False)
    fit = fit_background_error(layer, innovations)
    assert fit.background_error.std == pytest.approx(0.8, rel=0.15)
    assert fit.background_error.length == pytest.approx(300e3, rel=0.15)
    assert fit.error_std == pytest.approx(0.3, rel=0.1)
    fixed = fit_background_error(layer, innovations, error_std=0.3, fixed=["error_std", "length"])
    assert fixed.error_std == 0.3 and fixed.background_error.length == 100e3
    assert fixed.likelihood > fit.likelihood
    found = replace(innovations, error_std=float(fit.error_std), variable="e")
    out = analyse(xr.zeros_like(fields), found, fit.background_error, periodic=False)
    assert 0.9 < out.chi2.mean() < 1.1
    with pytest.raises(ValueError, match="'lenght' is no parameter; did you mean 'length'"):
        fit_background_error(layer, innovations, fixed=["lenght"])


@pytest.mark.parametrize(
    ("change", "keywords", "message"),
    [
        ({"units": "K"}, {}, "units of the observations and of 'sst' differ. Expected: degC. Received: K"),
        ({"error_std": None}, {}, "the observations have no error"),
        ({"variable": None}, {}, "the variable to analyse is not named"),
        (
            {},
            {"mask": None},
            "the forecast 'sst' is missing on wet cells. Expected: finite values. Received: 18 missing",
        ),
        ({}, {"mask": np.ones((2, 2))}, r"mask does not fit the grid. Expected: \(11, 13\)"),
        ({}, {"outside": "error"}, "2 of 36 observations lie on land or outside the grid"),
        (
            {"time": np.array(["2001-01-01", "2001-01-12", "2001-01-21"], "M8[ns]")},
            {},
            "at none of the forecast's times",
        ),
        ({"time": np.arange(3.0)}, {}, "are of different kinds. Expected: datetime64. Received: numbers"),
        ({"time": None}, {}, "the observations have no times"),
        ({}, {"periodic": True}, "the grid is not periodic"),
    ],
)
def test_what_does_not_fit_is_refused(field, obs, change, keywords, message):
    with pytest.raises(ValueError, match=message):
        analyse(field, replace(obs, **change), B, **{"periodic": False, "mask": "wet", **keywords})


def test_more_dimensions_and_missing_times_are_refused(field, obs):
    with pytest.raises(ValueError, match="'sst' has more than time and space"):
        analyse(field.assign(sst=field.sst.expand_dims(run=2)), obs, B, periodic=False, mask="wet")
    still = field.isel(time=0).drop_vars("time")
    with pytest.raises(ValueError, match="has a time_length and there is no time"):
        analyse(still, obs.table(), replace(B, time_length="1D"), periodic=False, mask="wet")
    late = replace(obs, time=obs.time + np.timedelta64(3, "D"))
    out = analyse(field, late, Diagonal(0.5), periodic=False, mask="wet", tolerance="4D")
    assert out.attrs["observations_dropped_time"] == 0 and "observation_time" in out.coords
    assert out.innovation.dims == ("observation_time", "obs")


def test_importing_the_room_loads_no_network_library():
    code = (
        "import sys, physml.assimilation as a; a.PointObservations([1.0], [0.0], [0.0]); print('keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False"
    with pytest.raises(AttributeError, match="has no attribute 'Blue'"):
        import physml.assimilation

        physml.assimilation.Blue  # noqa: B018
