"""Scores are area-weighted, refuse what does not fit together, and stay lazy; totals and drifts keep fifteen digits."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from physml import verify

LAT = np.arange(-60.0, 61.0, 30.0)
LON = np.arange(0.0, 360.0, 60.0)
MONTHS = xr.date_range("2000-01-01", periods=4, freq="MS")


def field(seed: int = 0, units: str = "K", **coords) -> xr.DataArray:
    """One random field on time, latitude and longitude, with land in two cells."""
    coords = {"time": MONTHS, "lat": LAT, "lon": LON} | coords
    values = np.random.default_rng(seed).normal(size=tuple(len(v) for v in coords.values()))
    values[:, 0, :2] = np.nan
    return xr.DataArray(
        values, coords=coords, name="sst", attrs={"units": units, "long_name": "sea surface temperature"}
    )


def area() -> xr.DataArray:
    return xr.DataArray(np.cos(np.deg2rad(LAT)), coords={"lat": LAT}, name="area") * xr.ones_like(field()[0]).fillna(1)


def raising_scheduler(*args, **kwargs):
    raise AssertionError("computed too early")


def test_rmse_is_the_hand_computed_area_weighted_value():
    forecast, truth, weights = field(1), field(2), area()
    valid = truth.notnull().values
    w = np.broadcast_to(weights.values, truth.shape)[valid]
    expected = np.sqrt(np.sum(w * (forecast - truth).values[valid] ** 2) / np.sum(w))
    score = verify.rmse(forecast, truth, weights=weights)
    assert score.item() == pytest.approx(expected, rel=1e-14)
    assert score.attrs == {"long_name": "root mean square error of sea surface temperature", "units": "K"}
    expected = np.sum(w * np.abs(forecast - truth).values[valid]) / np.sum(w)
    assert verify.mae(forecast, truth, weights=weights).item() == pytest.approx(expected, rel=1e-14)


@settings(max_examples=25, deadline=None)
@given(offset=st.floats(-50, 50), seed=st.integers(0, 9))
def test_a_constant_offset_is_all_bias(offset, seed):
    truth = field(seed)
    assert verify.bias(truth + offset, truth, weights=area()).item() == pytest.approx(offset, abs=1e-13)
    assert verify.rmse(truth + offset, truth, weights=area()).item() == pytest.approx(abs(offset), abs=1e-13)


def test_cells_of_weight_zero_do_not_count():
    truth = field()
    forecast = truth.copy(deep=True)
    forecast[:, 2, 3] = np.nan
    weights = area().where(forecast[0].notnull(), 0)
    assert verify.rmse(forecast, truth, weights=weights).item() == 0.0


def test_a_forecast_that_breaks_down_scores_nan_not_better():
    truth = field()
    forecast = truth + 1.0
    forecast[3, 2, 2] = np.nan
    by_time = verify.rmse(forecast, truth, ["lat", "lon"], weights=area())
    np.testing.assert_allclose(by_time[:3], 1.0)
    assert np.isnan(by_time[3])
    assert verify.rmse(forecast, truth.where(forecast.notnull())).item() == pytest.approx(1.0)


def test_leads_and_members_that_the_truth_lacks_are_kept():
    truth = field()
    forecast = xr.concat([truth + 1, truth - 2], xr.DataArray([1, 3], dims="lead", attrs={"units": "months"}))
    score = verify.rmse(forecast, truth, ["time", "lat", "lon"], weights=area())
    assert score.dims == ("lead",)
    np.testing.assert_allclose(score, [1.0, 2.0])


def test_only_common_times_are_scored():
    truth = field()
    assert verify.bias((truth + 1).isel(time=slice(1, None)), truth.isel(time=slice(0, 3))).item() == pytest.approx(1)
    assert verify.rmse(truth + 1, truth, "time").sizes == {"lat": 5, "lon": 6}


def test_times_that_are_there_twice_and_none_are_refused():
    truth = field()
    twice = truth.isel(time=[0, 1, 1, 2])
    for pair in ((twice, truth), (truth, twice)):
        with pytest.raises(ValueError, match=r"a time along 'time' is there twice.*2000-02-01 00:00:00 twice"):
            verify.rmse(*pair)
    for pair in ((truth[:0], truth), (truth, truth[:0])):
        with pytest.raises(ValueError, match=r"have no time in common.*no labels"):
            verify.rmse(*pair)


def test_coordinates_that_differ_by_single_precision_are_the_same_grid():
    truth = field(lat=np.array([0.1, 0.2, 0.3]), lon=np.array([0.1, 0.7]))
    forecast = (truth + 1).assign_coords(lat=truth.lat.astype("float32"), lon=truth.lon.astype("float32"))
    score = verify.rmse(forecast, truth, "time")
    assert score.shape == (3, 2)
    np.testing.assert_array_equal(score.lat, truth.lat)


def test_units_are_the_same_when_pint_says_so_and_convert_when_asked():
    truth = field(units="kg m-3")
    assert verify.rmse((truth + 1).assign_attrs(units="kg/m3"), truth).item() == pytest.approx(1)
    grams = (1000 * truth + 500).assign_attrs(units="g m-3")
    assert verify.bias(grams, truth, convert_units=True).item() == pytest.approx(0.5)
    kelvin = (field() + 274.15).assign_attrs(units="K")
    assert verify.bias(kelvin, field(units="degC"), convert_units=True).item() == pytest.approx(1.0)


def test_datasets_are_scored_by_variable():
    truth = xr.Dataset({"a": field(1), "b": field(2)})
    score = verify.rmse(truth[["a"]] + 2, truth)
    assert list(score.data_vars) == ["a"]
    assert score.a.item() == pytest.approx(2.0)
    assert score.a.attrs["units"] == "K"


def test_skill_is_one_for_the_truth_zero_for_the_reference_and_three_quarters_for_half_the_error():
    truth = field(1)
    climatology = xr.zeros_like(truth).where(truth.notnull())
    assert verify.skill(truth, truth, climatology, weights=area()).item() == 1.0
    assert verify.skill(climatology, truth, climatology, weights=area()).item() == 0.0
    assert verify.skill(0.5 * truth, truth, climatology, weights=area()).item() == pytest.approx(0.75)


def test_skill_scores_forecast_and_reference_on_the_same_times():
    truth = field(1)
    reference = (truth + 1).isel(time=slice(0, 2))
    forecast = truth + xr.DataArray([0.5, 0.5, 9.0, 9.0], coords={"time": truth.time})
    assert verify.skill(forecast, truth, reference).item() == pytest.approx(0.75)


def test_the_total_of_a_density_is_a_mass_in_kilograms_summed_in_float64():
    rng = np.random.default_rng(0)
    density = xr.DataArray(
        rng.uniform(size=(2, 1000, 100)).astype("float32"),
        dims=("step", "y", "x"),
        name="tracer",
        attrs={"units": "kg m-3"},
    )
    volume = xr.DataArray(np.full((1000, 100), 0.1, "float32"), dims=("y", "x"), attrs={"units": "m3"})
    mass = verify.total(density, volume)
    expected = (density.values.astype("float64") * volume.values.astype("float64")).sum((1, 2))
    assert mass.dims == ("step",)
    np.testing.assert_allclose(mass, expected, rtol=1e-14)
    assert mass.attrs == {"long_name": "total of tracer", "units": "kg"}


def test_the_total_skips_land_but_not_a_hole_in_the_sea():
    density = xr.DataArray([1.0, 2.0, np.nan], dims="x")
    volume = xr.DataArray([1.0, 1.0, 1.0], dims="x")
    sea = xr.DataArray([True, True, False], dims="x")
    assert verify.total(density, volume).item() == 3.0
    assert verify.total(density, volume, mask=sea).item() == 3.0
    assert np.isnan(verify.total(density, volume, mask=~sea | sea))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99))
def test_moving_mass_between_cells_drifts_by_less_than_1e_minus_12(seed):
    rng = np.random.default_rng(seed)
    volume = xr.DataArray(rng.uniform(1e9, 2e9, (20, 30)), dims=("y", "x"), attrs={"units": "m3"})
    content = [rng.uniform(1, 2, (20, 30)) * volume.values]
    for _ in range(10):
        flux = rng.uniform(0, 0.1) * content[-1]
        content.append(content[-1] - flux + np.roll(flux, 1, axis=1))
    density = xr.DataArray(np.stack(content) / volume.values, dims=("step", "y", "x"), attrs={"units": "kg m-3"})
    mass = verify.total(density, volume)
    drift = verify.drift(mass, mass[0])
    assert float(abs(drift).max()) < 1e-12
    assert drift.attrs["units"] == "1"


def test_drift_counts_relative_to_the_reference_whatever_its_sign():
    mass = xr.DataArray([-2.0, -1.0], dims="step")
    np.testing.assert_array_equal(verify.drift(mass, mass[0]), [0.0, 0.5])


def test_negative_fraction_counts_wet_cells_only():
    tracer = xr.DataArray([[-1.0, 1.0, -1.0, np.nan], [1.0, 0.0, -1.0, np.nan]], dims=("step", "x"))
    wet = xr.DataArray([True, True, False, True], dims="x")
    np.testing.assert_allclose(verify.negative_fraction(tracer, wet, "x"), [0.5, 0.0])
    assert verify.negative_fraction(tracer).item() == pytest.approx(3 / 6)


@pytest.mark.parametrize("chunked_weights", [False, True])
def test_lazy_equals_eager_and_computes_nothing(chunked_weights):
    forecast, truth, weights = field(1), field(2), area()
    chunks = {"time": 2, "lat": 2}
    lazy = forecast.chunk(chunks), truth.chunk(chunks)
    w = weights.chunk() if chunked_weights else weights
    wet = truth[0].notnull()
    with dask.config.set(scheduler=raising_scheduler):
        scores = [
            verify.rmse(*lazy, weights=w),
            verify.bias(*lazy, "time", w),
            verify.mae(*lazy, weights=w),
            verify.skill(*lazy, 0 * lazy[1], weights=w),
            verify.total(lazy[0], w, mask=wet),
            verify.drift(verify.total(lazy[0], w), verify.total(lazy[0], w)[0]),
            verify.negative_fraction(lazy[0], wet),
        ]
    assert all(s.chunks is not None for s in scores)
    eager = [
        verify.rmse(forecast, truth, weights=weights),
        verify.bias(forecast, truth, "time", weights),
        verify.mae(forecast, truth, weights=weights),
        verify.skill(forecast, truth, 0 * truth, weights=weights),
        verify.total(forecast, weights, mask=wet),
        verify.drift(verify.total(forecast, weights), verify.total(forecast, weights)[0]),
        verify.negative_fraction(forecast, wet),
    ]
    for a, b in zip(scores, eager, strict=True):
        xr.testing.assert_allclose(a.compute(scheduler="synchronous"), b, rtol=1e-13)


def test_lazy_weights_are_checked_when_they_are_computed():
    score = verify.rmse(field(1).chunk(), field(2).chunk(), weights=(area() - 0.8).chunk())
    with pytest.raises(ValueError, match="hold negative values"):
        score.compute(scheduler="synchronous")


TRUTH = field()
REFUSED = {
    "a dimension the forecast lacks": (
        lambda: verify.rmse(TRUTH[0], TRUTH),
        ValueError,
        r"forecast lacks the dimension 'time' of the truth.*broadcast_like",
    ),
    "another grid": (
        lambda: verify.rmse(TRUTH.assign_coords(lat=LAT + 1), TRUTH),
        ValueError,
        r"lies at other places along 'lat' than sea surface temperature. Expected: 5 labels, -60.0 to 60.0. "
        r"Received: 5 labels, -59.0 to 61.0",
    ),
    "another size": (
        lambda: verify.rmse(TRUTH.isel(lon=slice(3)), TRUTH),
        ValueError,
        r"other places along 'lon'.*6 labels.*3 labels",
    ),
    "no common time": (
        lambda: verify.rmse(TRUTH.assign_coords(time=xr.date_range("2010", periods=4, freq="MS")), TRUTH),
        ValueError,
        r"have no time in common.*2000-01-01.*2010-01-01",
    ),
    "another calendar": (
        lambda: verify.rmse(TRUTH.convert_calendar("noleap"), TRUTH),
        ValueError,
        r"have no time in common.*DatetimeIndex.*CFTimeIndex.*one calendar",
    ),
    "an unknown dimension": (
        lambda: verify.rmse(TRUTH, TRUTH, "lot"),
        ValueError,
        r"has no dimension 'lot'; did you mean 'lon'\?",
    ),
    "other units": (
        lambda: verify.rmse(TRUTH.assign_attrs(units="g m-3"), TRUTH.assign_attrs(units="kg m-3")),
        ValueError,
        r"in different units. Expected: 'kg m-3'. Received: 'g m-3'. Remedy: pass convert_units=True",
    ),
    "another quantity": (
        lambda: verify.rmse(TRUTH.assign_attrs(units="m"), TRUTH, convert_units=True),
        ValueError,
        r"in different units. Expected: 'K'. Received: 'm'. Remedy: score the same quantity",
    ),
    "weights that are NaN": (
        lambda: verify.rmse(TRUTH, TRUTH, weights=TRUTH[0].rename("area")),
        ValueError,
        r"the weights 'area' hold NaN values.*2 NaN of 30.*weights.where\(mask, 0\)",
    ),
    "weights that are negative": (
        lambda: verify.total(TRUTH, -area()),
        ValueError,
        r"the weights hold negative values",
    ),
    "weights with another dimension": (
        lambda: verify.rmse(TRUTH, TRUTH, weights=area().expand_dims(run=2)),
        ValueError,
        r"the weight array has a dimension 'run' that sea surface temperature lacks",
    ),
    "a Dataset against an array": (
        lambda: verify.rmse(TRUTH.to_dataset(), TRUTH),
        TypeError,
        r"two DataArrays or two Datasets. Received: Dataset and DataArray",
    ),
    "a variable that is missing": (
        lambda: verify.rmse(TRUTH.to_dataset(name="ssr"), TRUTH.to_dataset()),
        KeyError,
        r"truth has no variable 'ssr'; did you mean 'sst'\?",
    ),
    "a drift relative to nothing": (
        lambda: verify.drift(xr.DataArray([0.0, 1.0], dims="step", name="mass"), 0.0),
        ValueError,
        r"drift of mass is relative to a total of zero.*total - reference",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_together_is_refused(case):
    call, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        call()
