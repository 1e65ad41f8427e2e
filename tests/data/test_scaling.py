"""Means and standard deviations are NumPy's on the valid cells, of every level, from reading each block once."""

from __future__ import annotations

import collections

import dask.array as dsa
import numpy as np
import pytest
import xarray as xr

from physml import FieldSpec, Layout, Scaling

SPEC = FieldSpec(["temp", "salt", "bathymetry"], ["temp", "salt"], target_offsets=(1, 3), levels="depth", mask="wet")


def test_scaling_is_numpys_on_valid_cells_of_each_level(sst):
    scaling = Scaling.fit(sst, SPEC)
    wet = sst.wet.values
    temp = sst.temp.values.astype("float64")[..., wet]
    np.testing.assert_allclose(scaling.mean["temp"], temp.mean((0, 2)), rtol=1e-13)
    np.testing.assert_allclose(scaling.std["temp"], temp.std((0, 2)), rtol=1e-13)
    np.testing.assert_allclose(scaling.mean["salt"], [sst.salt.values[:, wet].mean()], rtol=1e-13)
    np.testing.assert_allclose(scaling.mean["bathymetry"], [sst.bathymetry.values[wet].mean()], rtol=1e-13)
    for i, lead in enumerate((1, 3)):
        change = temp[lead:] - temp[:-lead]
        np.testing.assert_allclose(scaling.increment["temp"][i], change.std((0, 2)), rtol=1e-13)


def test_vectors_follow_the_channels(sst):
    scaling = Scaling.fit(sst, SPEC)
    channels = scaling.layout.targets
    assert [str(c) for c in channels][:2] == ["temp depth=0.0 +1", "temp depth=50.0 +1"]
    for what in ("mean", "std"):
        vector = scaling.vector(what, "targets")
        for value, c in zip(vector, channels, strict=True):
            assert value == getattr(scaling, what)[c.name][[0.0, 50.0].index(c.level.get("depth", 0.0))]
    increments = scaling.vector("increment", "targets")
    np.testing.assert_array_equal(increments[2:4], scaling.increment["temp"][1])


@pytest.mark.parametrize("labels", [[50.0], [50.0, 0.0]])
def test_levels_are_scaled_in_the_order_asked_for(sst, labels):
    scaling = Scaling.fit(sst, FieldSpec("temp", "temp", levels={"depth": labels}, mask="wet"))
    expected = [sst.temp.sel(depth=d).mean() for d in labels]
    np.testing.assert_allclose(scaling.mean["temp"], expected, rtol=1e-6)


def test_small_anomalies_on_a_large_mean_keep_their_digits():
    rng = np.random.default_rng(0)
    anomaly = rng.normal(0, 0.5, (200, 9))
    ds = xr.Dataset({"p": (("time", "x"), 101325.0 + anomaly)}, {"time": np.arange(200)})
    scaling = Scaling.fit(ds.chunk(time=7), FieldSpec("p", "p", target_offsets=1))
    np.testing.assert_allclose(scaling.std["p"], anomaly.std(), rtol=1e-9)
    np.testing.assert_allclose(scaling.increment["p"], [[np.diff(anomaly, axis=0).std()]], rtol=1e-9)


def test_lazy_data_give_the_same_scaling(sst):
    eager, lazy = Scaling.fit(sst, SPEC), Scaling.fit(sst.chunk(time=5, lat=3, depth=1), SPEC)
    for what in ("mean", "std", "increment"):
        for name, value in getattr(eager, what).items():
            np.testing.assert_allclose(getattr(lazy, what)[name], value, rtol=1e-12)


@pytest.mark.parametrize("offsets", [(0,), (1,), (1, 3)])
def test_each_block_is_read_once(offsets):
    reads = collections.Counter()
    rng = np.random.default_rng(0)

    def read(block_info=None):
        reads[tuple(block_info[None]["chunk-location"])] += 1
        return rng.normal(size=block_info[None]["chunk-shape"])

    data = dsa.map_blocks(read, chunks=((5,) * 6, (3, 4)), dtype="float64", meta=np.zeros((0, 0)))
    ds = xr.Dataset({"x": (("time", "i"), data)}, {"time": np.arange(30)})
    layout = FieldSpec("x", "x", target_offsets=offsets).bind(ds)
    reads.clear()
    Scaling.fit(ds, layout)
    assert reads == {(i, j): 1 for i in range(6) for j in range(2)}


def test_scaling_survives_its_config(sst):
    scaling = Scaling.fit(sst, SPEC)
    again = Scaling.from_config(
        scaling.to_config(), Layout.from_config(scaling.layout.to_config(), scaling.layout.arrays())
    )
    for what in ("mean", "std"):
        for role in ("inputs", "targets"):
            np.testing.assert_array_equal(again.vector(what, role), scaling.vector(what, role))
    np.testing.assert_array_equal(again.vector("increment", "targets"), scaling.vector("increment", "targets"))


def test_members_are_pooled_and_changes_stay_within_a_member(gyre):
    spec = FieldSpec(["tracer", "u"], "tracer", target_offsets=1, members="run", mask="wet")
    scaling = Scaling.fit(gyre.chunk(run=1, time=4), spec)
    tracer = gyre.tracer.values.astype("float64")[..., gyre.wet.values]
    np.testing.assert_allclose(scaling.mean["tracer"], tracer.mean(), rtol=1e-12)
    np.testing.assert_allclose(scaling.increment["tracer"], [[np.diff(tracer, axis=1).std()]], rtol=1e-12)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, r"'salt' is missing on valid cells.*Received: 2 missing or infinite values.*finite_mask"),
        (np.inf, r"'salt' is missing on valid cells.*Received: 2 missing or infinite values"),
    ],
)
def test_missing_values_are_counted_and_refused(sst, value, words):
    sst.salt[3:5, 0, 0] = value
    with pytest.raises(ValueError, match=words):
        Scaling.fit(sst, FieldSpec("salt", "salt", mask="wet"))


def test_a_variable_that_does_not_vary_is_refused(sst):
    sst["temp"][:, 1] = 0.1
    with pytest.raises(ValueError, match=r"'temp' does not vary.*at level 1.*drop the variable or the level"):
        Scaling.fit(sst.assign(temp=sst.temp.fillna(0.1)), FieldSpec("temp", "temp", levels="depth"))


def test_data_of_other_units_are_not_scaled_by_a_known_layout(sst):
    layout = SPEC.bind(sst)
    warm = sst.assign(temp=(sst.temp + 273.15).assign_attrs(units="K"))
    with pytest.raises(ValueError, match=r"input 'temp' has other units than before. Expected: 'degC'. Received: 'K'"):
        Scaling.fit(warm, layout)


def test_an_increment_needs_a_state_to_change(sst):
    scaling = Scaling.fit(sst, FieldSpec("temp", "salt", target_offsets=1, levels="depth", mask="wet"))
    with pytest.raises(ValueError, match=r"'salt' has no change from inputs to targets.*add it to the inputs"):
        scaling.vector("increment", "targets")
