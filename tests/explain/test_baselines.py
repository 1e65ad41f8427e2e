"""Baselines are named reference inputs: means, zero, samples, the past."""

from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from physml.data.scaling import Scaling
from physml.explain import (
    Baseline,
    Explainer,
    climatology,
    given,
    groups,
    normalised_zero,
    on_tensors,
    persistence,
    reference_period,
    samples,
    zero,
)
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
    with pytest.raises(ValueError, match=r"n samples cannot be drawn.*2\.5"):
        samples(ds, layout, 2.5, seed=0)
    with pytest.raises(ValueError, match=r"seed starts no draw.*Received: -1"):
        samples(ds, layout, 2, seed=-1)
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


@pytest.fixture(params=["standard", "noleap", "360_day"])
def years(ds, request):
    """Four years of months in several calendars."""
    time = xr.date_range("1999-01-01", periods=48, freq="MS", calendar=request.param, use_cftime=True)
    later = ds.assign({n: ds[n] + 1 for n in ("tracer", "u", "v")})
    return xr.concat([ds, later], "time", data_vars="minimal").assign_coords(time=time)


def test_a_reference_period_is_the_climatology_of_its_years_in_any_calendar(years):
    layout = FieldSpec(["tracer", "u"], "u", mask="wet").bind(years)
    base = reference_period(years, layout, slice("2000", "2001"), by="month")
    assert base.name == "reference period 2000-01-01 to 2001-12-01 by month"
    within = years.isel(time=slice(12, 36))
    np.testing.assert_array_equal(base.rows, climatology(within, layout, by="month").rows)
    assert reference_period(years, layout, ("2000", 2001)).name == "reference period 2000-01-01 to 2001-12-01"
    np.testing.assert_array_equal(base.pick(years.time)[:, 0], np.tile(np.arange(12), 4))
    lazy = reference_period(years.chunk(time=7), layout, slice("2000", "2001"), by="month")
    np.testing.assert_allclose(lazy.rows, base.rows, rtol=1e-13)


@pytest.mark.parametrize("by, keys, at", [("season", ("DJF", "JJA", "MAM", "SON"), 0), ("dayofyear", None, 0)])
def test_a_climatology_by_other_parts_of_the_date(ds, layout, by, keys, at):
    base = climatology(ds, layout, by=by)
    assert base.name == f"climatology by {by}"
    groups = ds.u.astype("float64").groupby(f"time.{by}").mean()
    assert base.keys == (keys or tuple(groups[by].values.tolist()))
    np.testing.assert_allclose(base.rows[at, ..., 1], groups.sel({by: base.keys[at]}).fillna(0), rtol=1e-13)
    own = base.rows[base.pick(ds.time)[:, 0], ..., 1]
    np.testing.assert_allclose(own, groups.sel({by: getattr(ds.time.dt, by)}).fillna(0), rtol=1e-13)


@pytest.mark.parametrize("method", ["standard", "minmax", {"tracer": "log:0.5", "u": "sqrt"}])
@pytest.mark.parametrize("by", [None, "month"])
def test_normalised_zero_is_what_the_scaling_turns_into_zeros(ds, method, by):
    from keras import ops

    from physml import _backend
    from physml.data._scaling_graph import ScalingGraph

    ds["tracer"] = abs(ds.tracer)
    spec = FieldSpec(["tracer", "u", "time.month"] if by else ["tracer", "u"], "tracer", mask="wet")
    scaling = Scaling.fit(ds, spec, method=method, by=by)
    base = normalised_zero(scaling)
    assert base.name == ("normalised zero by month" if by else "normalised zero")
    with _backend.float64():
        rows = ops.convert_to_tensor(base.rows)
        scaled = ops.convert_to_numpy(ScalingGraph(scaling, False, "float64").inputs(rows))[..., :2]
    np.testing.assert_allclose(scaled[:, ds.wet.values], 0, atol=1e-12)
    assert not base.rows[:, ~ds.wet.values].any()
    if by:
        np.testing.assert_array_equal(base.rows[:, 0, 0, 2], np.arange(1, 13))
        np.testing.assert_array_equal(base.pick(ds.time)[:, 0], np.tile(np.arange(12), 2))
    np.testing.assert_array_equal(normalised_zero(SimpleNamespace(scaling=scaling)).rows, base.rows)


@pytest.mark.parametrize("offsets", [(0,), (-2, 0)])
def test_persistence_gives_each_sample_its_own_past(years, offsets):
    layout = FieldSpec(["tracer", "u"], "u", target_offsets=1, input_offsets=offsets, mask="wet").bind(years)
    base = persistence(years, layout, lag=3)
    assert base.name == "persistence over 3 steps"
    packed, own = layout.pack(years, "inputs"), base.beside(years, layout)
    assert own.dims == packed.dims
    np.testing.assert_array_equal(own.time, packed.time[3:])
    np.testing.assert_array_equal(own, packed[:-3])
    assert base.rows.shape == (1, *packed.shape[1:])
    assert np.isfinite(base.rows).all()
    lazy = base.beside(years.chunk(time=5), layout)
    assert lazy.chunks is not None
    xr.testing.assert_identical(lazy.compute(), own)


def test_what_changed_since_is_explained_sample_by_sample(ds, layout):
    model = on_tensors(lambda x: 2 * x[..., :1] - x[..., 1:2])
    base = persistence(ds, layout, "3MS")
    assert base.lag == 3
    explain = lambda d: Explainer(model, base, groups(layout), layout=layout).shapley(d)  # noqa: E731
    result = explain(ds)
    np.testing.assert_array_equal(result.time, ds.time[3:])
    assert result.attrs["baseline"] == "persistence over 3MS"
    assert result.attrs["rows"] == 21 * (1 + 1 + 6)  # every sample has a baseline of its own
    for name, coef in (("tracer", 2), ("u", -1), ("v", 0)):
        np.testing.assert_allclose(
            result.attribution.sel(group=name), coef * (ds[name] - ds[name].shift(time=3))[3:], atol=2e-6
        )
    xr.testing.assert_allclose(explain(ds.chunk(time=5)).compute().attribution, result.attribution, rtol=0, atol=1e-12)


def test_persistence_does_not_reach_over_a_gap(ds, layout):
    at = [0, 1, 2, 6, 7]
    holed = ds.isel(time=at)
    own = persistence(ds, layout, lag=1).beside(holed, layout)
    np.testing.assert_array_equal(own.time, ds.time[[1, 2, 7]])
    np.testing.assert_array_equal(own[..., 1], ds.u[[0, 1, 6]])
    with pytest.raises(ValueError, match=r"no sample has the past.*1 steps apart.*pass the steps before"):
        persistence(ds, layout).beside(ds.isel(time=[0, 2]), layout)
    plain = ds.drop_vars("time")
    bare = FieldSpec("u", "u", mask="wet").bind(plain)
    with pytest.raises(ValueError, match="cannot tell which sample lies before"):
        persistence(plain, bare).beside(plain, bare)


def test_other_baselines_stand_beside_no_sample(ds, layout):
    assert climatology(ds, layout).beside(ds, layout) is None


def test_members_have_their_own_past(ds):
    runs = xr.concat([ds, ds.assign(u=ds.u + 2)], "run", data_vars=["tracer", "u", "v"])
    layout = FieldSpec(["tracer", "u", "v"], "tracer", mask="wet", members="run").bind(runs)
    own = persistence(runs, layout, lag=2).beside(runs, layout)
    np.testing.assert_array_equal(own, layout.pack(runs, "inputs").isel(time=slice(0, -2)))


def test_given_rows_and_datasets_are_baselines(ds):
    layout = FieldSpec(["tracer", "u"], "u", input_offsets=(-1, 0), mask="wet").bind(ds)
    packed = layout.pack(ds, "inputs")
    base = given(ds, layout, "all months")
    assert isinstance(base, Baseline)
    assert base.name == "all months"
    np.testing.assert_array_equal(base.rows, packed.fillna(0))
    np.testing.assert_array_equal(given(packed.fillna(0).values[3], layout).rows, base.rows[3:4])
    state = given(ds.isel(time=5, drop=True), layout).rows
    assert state.shape == (1, 4, 6, 4)
    np.testing.assert_array_equal(state[0, ..., 0], ds.tracer[5].fillna(0))
    np.testing.assert_array_equal(state[0, ..., 0], state[0, ..., 1])
    np.testing.assert_array_equal(given(ds.isel(time=5), layout).rows, state)
    np.testing.assert_array_equal(given(ds, SimpleNamespace(layout=layout)).rows, base.rows)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda d, x: reference_period(d, x, slice("1961", "1990")), ValueError, "holds no time.*2000.*1961 to 1990"),
        (lambda d, x: reference_period(d, x, ("2000",)), ValueError, "period does not fit the axis"),
        (lambda d, x: reference_period(d, x, 1961), ValueError, "period does not fit the axis.*Received: 1961"),
        (lambda d, x: climatology(d, x, by="mnth"), ValueError, "by is unknown; did you mean 'month'"),
        (lambda d, x: normalised_zero(x), TypeError, "needs a scaling.*Received: Layout"),
        (lambda d, x: persistence(d, x, 0), ValueError, "lag is no step back.*Received: 0"),
        (lambda d, x: persistence(d, x, "5D"), ValueError, "'5D' is no whole number of steps"),
        (lambda d, x: given(np.zeros((4, 6)), x), ValueError, r"rows of baseline 'given' do not fit.*\[row, 4, 6, 3\]"),
        (
            lambda d, x: given(d.where(d.time.dt.month > 1), x),
            ValueError,
            "given, row 0: 66 valid input values are missing",
        ),
        (lambda d, x: zero(d), TypeError, "zero cannot tell which variables"),
    ],
)
def test_baselines_that_cannot_be_made_say_why(ds, layout, call, error, text):
    with pytest.raises(error, match=text):
        call(ds, layout)
