"""Baselines are named reference inputs: means, zero, samples."""

import numpy as np
import pytest
import xarray as xr

from physml.explain import climatology, samples, zero
from physml.fields import FieldSpec


def test_climatology_is_the_mean_over_time_and_zero_on_land(ds, layout):
    base = climatology(ds, layout)
    expected = np.stack([ds[n].astype("float64").mean("time").fillna(0) for n in ("tracer", "u", "v")], -1)
    np.testing.assert_allclose(base.rows[0], expected, rtol=1e-14)
    assert base.name == "climatology"
    np.testing.assert_array_equal(base.pick(ds.time), np.zeros((24, 1)))


def test_monthly_climatology_gives_each_sample_its_own_month(ds, layout):
    base = climatology(ds, layout, by="month")
    assert base.rows.shape == (12, 4, 6, 3)
    january = ds.u.isel(time=[0, 12]).astype("float64").mean("time").fillna(0)
    np.testing.assert_allclose(base.rows[0, ..., 1], january, rtol=1e-14)
    np.testing.assert_array_equal(base.pick(ds.time)[:, 0], np.tile(np.arange(12), 2))
    with pytest.raises(ValueError, match=r"lacks months.*months \[1\].*months \[2, 3, 4\]"):
        climatology(ds.isel(time=slice(1, 4)), layout, by="month").pick(ds.time[:1])


@pytest.mark.parametrize("by", [None, "month"])
def test_climatology_does_not_depend_on_chunks(ds, layout, by):
    np.testing.assert_allclose(
        climatology(ds.chunk(time=5), layout, by).rows, climatology(ds, layout, by).rows, rtol=1e-13
    )


def test_members_are_averaged_and_sampled_too(ds):
    runs = xr.concat([ds, ds.assign(u=ds.u + 2)], "run", data_vars=["tracer", "u", "v"])
    layout = FieldSpec(["tracer", "u", "v"], "tracer", mask="wet", members="run").bind(runs)
    mean = climatology(ds, layout).rows
    np.testing.assert_allclose(climatology(runs, layout).rows[..., 1], mean[..., 1] + ds.wet.values, atol=1e-7)
    drawn = samples(runs, layout, 48, seed=0)
    np.testing.assert_allclose(drawn.rows.mean(0)[..., 0], mean[0, ..., 0], atol=1e-6)


def test_samples_are_distinct_and_seeded(ds, layout):
    a, b = samples(ds, layout, 5, seed=1), samples(ds, layout, 5, seed=1)
    np.testing.assert_array_equal(a.rows, b.rows)
    assert len(np.unique(a.rows[:, 0, 0, 0])) == 5
    assert a.name == "5 samples (seed 1)"
    assert not np.array_equal(a.rows, samples(ds.chunk(time=7), layout, 5, seed=2).rows)
    assert a.pick(ds.time).shape == (24, 5)
    assert not zero(layout).rows.any()


def test_bad_baselines_say_what_is_wrong(ds, layout):
    with pytest.raises(ValueError, match=r"n samples cannot be drawn.*1 to 24"):
        samples(ds, layout, 25, seed=0)
    with pytest.raises(ValueError, match="by is unknown"):
        climatology(ds, layout, by="week")
    holed = ds.assign(u=ds.u.where(ds.time.dt.month != 3))
    with pytest.raises(
        ValueError, match=r"climatology: 22 valid input values are missing, first at lat=-45.0, lon=0.0.*'u'"
    ):
        climatology(holed, layout)
    plain = ds.assign_coords(time=np.arange(24))
    with pytest.raises(ValueError, match="climatology by month needs dates"):
        climatology(plain, FieldSpec("u", "u", mask="wet").bind(plain), by="month")
