"""Persistence is exact on constructed series; damping finds the coefficient a series was made with."""

import numpy as np
import pytest
import xarray as xr

from physml import FieldSpec
from physml.learners import Climatology, DampedPersistence, Persistence


def test_the_state_persists_at_every_lead(ocean):
    spec = FieldSpec(["wind", "t"], "t", target_offsets=(1, 3), mask="wet")
    out = Persistence(spec, anomaly=False).fit(ocean).predict(ocean)
    for lead in (1, 3):
        np.testing.assert_array_equal(out.t.sel(lead=lead).values, ocean.t.values)
    assert out.t.attrs["units"] == "degC"


def test_departures_persist_on_the_climatology_of_the_date_to_come(ocean):
    spec = FieldSpec("t", "t", target_offsets=(1, 3), mask="wet")
    out = Persistence(spec).fit(ocean).predict(ocean)
    mean = ocean.t.groupby("time.month").mean()
    now = ocean.t.groupby("time.month") - mean
    for lead in (1, 3):
        there = mean.sel(month=out.valid_time.sel(lead=lead).dt.month).values
        np.testing.assert_allclose(out.t.sel(lead=lead).values, now.values + there, rtol=1e-12)


def test_damping_finds_the_coefficient_of_each_cell_lead_and_month():
    phi = np.array([0.5, -0.9])
    clean = np.zeros((120, 2))
    clean[0] = 1.0
    for i in range(1, 120):
        clean[i] = phi * clean[i - 1] * (1 if i % 2 else 2)
        if i % 12 == 0:
            clean[i] = (-1) ** (i // 12)
    ds = xr.Dataset(
        {"t": (("time", "x"), clean)}, {"time": xr.date_range("2000-01-01", periods=120, freq="MS"), "x": [0, 1]}
    )
    learner = DampedPersistence(FieldSpec("t", "t", target_offsets=(1, 2)), per="month").fit(ds)
    slope = learner.state["slope"]  # [month, x, lead]
    np.testing.assert_allclose(slope[0], np.stack([phi, 2 * phi**2], axis=1), atol=1e-12)
    np.testing.assert_allclose(slope[1], np.stack([2 * phi, 2 * phi**2], axis=1), atol=1e-12)


def test_damping_is_least_squares_of_departures(ocean):
    spec = FieldSpec("t", "t", target_offsets=(1, 4), mask="wet")
    learner = DampedPersistence(spec, spread=True).fit(ocean)
    out = learner.predict(ocean)
    mean = ocean.t.groupby("time.month").mean()
    departure = (ocean.t.groupby("time.month") - mean).isel(lat=0, lon=3).values
    for lead in (1, 4):
        x, y = departure[:68], departure[lead : 68 + lead]  # all leads share the pairs of the longest
        slope = x @ y / (x @ x)
        there = mean.isel(lat=0, lon=3).sel(month=out.valid_time.sel(lead=lead).dt.month).values
        np.testing.assert_allclose(out.t.sel(lead=lead).isel(lat=0, lon=3), slope * departure + there, rtol=1e-12)
    n, p = 68, 13
    missed = ((y - x * (x @ y) / (x @ x)) ** 2).sum()
    std = out.t_std.sel(lead=4).isel(lat=0, lon=3).values
    np.testing.assert_allclose(std, np.sqrt(missed / (n - p) * (1 + p / n)), rtol=1e-10)


def test_damping_beats_persistence_and_climatology_on_new_years(ocean):
    spec = FieldSpec("t", "t", target_offsets=2, mask="wet")
    train, test = ocean.isel(time=slice(0, 48)), ocean.isel(time=slice(48, None))
    error = {}
    for learner in (Climatology(spec), Persistence(spec), DampedPersistence(spec)):
        out = learner.fit(train).predict(test)
        error[learner.name] = float(np.square(out.t - test.t).mean())
    assert min(error, key=error.get) == "DampedPersistence"


@pytest.mark.parametrize("make", [Persistence, DampedPersistence])
def test_chunks_change_no_bit(ocean, same, nothing_computed, make):
    spec = FieldSpec(["t", "wind"], "t", target_offsets=(1, 3), mask="wet")
    eager, lazy = (make(spec, spread=True, per="month").fit(ds) for ds in (ocean, ocean.chunk(time=5, lon=2)))
    for key, values in eager.state.items():
        np.testing.assert_array_equal(values, lazy.state[key])
    with nothing_computed():
        out = lazy.predict(ocean.chunk(time=7))
    same(out, eager.predict(ocean))


def test_an_index_persists_as_a_number(ocean):
    spec = FieldSpec(["t", "index"], "index", target_offsets=(1, 2), mask="wet")
    out = DampedPersistence(spec, spread=True).fit(ocean).predict(ocean)
    assert out["index"].dims == out.index_std.dims == ("time", "lead")
    alone = DampedPersistence(FieldSpec("index", "index", target_offsets=(1, 2)), spread=True).fit(ocean[["index"]])
    np.testing.assert_allclose(out["index"], alone.predict(ocean[["index"]])["index"], rtol=1e-12)


def test_targets_that_are_not_among_the_inputs_are_refused(ocean):
    with pytest.raises(ValueError, match="the present state of 't' is not known"):
        Persistence(FieldSpec("wind", "t", target_offsets=1, mask="wet")).fit(ocean)
    with pytest.raises(ValueError, match=r"per='month' goes with.*by='month'"):
        DampedPersistence(FieldSpec("t", "t"), None, per="month")
    with pytest.raises(ValueError, match="per='leads' is not understood; did you mean 'lead'"):
        Persistence(FieldSpec("t", "t"), per="leads")
