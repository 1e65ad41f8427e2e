"""Every method is NumPy's on the same values, whatever the chunks; what a method cannot scale is counted and refused."""

from __future__ import annotations

import dask.array as dsa
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from physml import FieldSpec, Scaling
from physml.data import _quantiles
from physml.data._methods import METHODS, Method, choose, parse

SPEC = FieldSpec(["rain", "temp"], ["rain", "temp"], target_offsets=1, levels="lev", mask="wet")


def weather(n=40, seed=0):
    """Return rain [kg m-2 s-1] with many zeros, and float32 temperature on three levels, with land."""
    rng = np.random.default_rng(seed)
    wet = rng.random((3, 5)) < 0.7
    wet[0, :3] = True, True, False
    ds = xr.Dataset(
        {
            "rain": (("time", "y", "x"), np.maximum(rng.gamma(0.3, 1e-4, (n, 3, 5)) - 1e-5, 0)),
            "temp": (("time", "lev", "y", "x"), rng.normal(280, 5, (n, 3, 3, 5)).astype("float32")),
        },
        {"time": xr.date_range("2000-01-01", periods=n), "lev": [1000.0, 500.0, 200.0]},
    )
    ds["wet"] = (("y", "x"), wet)
    return ds.assign({name: ds[name].where(ds.wet) for name in ("rain", "temp")})


def on_wet(da, ds):
    """Return values ``[n, level]`` of the valid cells, float64."""
    values = da.transpose(..., *(d for d in ("lev",) if d in da.dims)).values.astype("float64")
    return (
        np.moveaxis(values, -1, 0)[..., ds.wet.values].reshape(3, -1).T
        if "lev" in da.dims
        else values[:, ds.wet.values].reshape(-1, 1)
    )


def expected(method, x):
    if method == "minmax":
        return x.min(0), x.max(0) - x.min(0)
    if method == "robust":
        low, middle, high = np.percentile(x, [25, 50, 75], axis=0)
        return middle, high - low
    if method == "none":
        return 0 * x[0], 0 * x[0] + 1
    x = {"log": lambda: np.log1p(x / 1e-5), "sqrt": lambda: np.sqrt(x)}.get(method, lambda: x)()
    return x.mean(0), x.std(0)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_numpys_on_valid_cells_of_each_level(method):
    ds = weather()
    choice = "log:1e-5" if method == "log" else method
    scaling = Scaling.fit(ds, SPEC, method=choice)
    for name in ("rain", "temp"):
        offset, scale = expected(method, on_wet(ds[name], ds))
        np.testing.assert_allclose(scaling.mean[name], offset, rtol=1e-12)
        np.testing.assert_allclose(scaling.std[name], scale, rtol=1e-10)


def test_methods_are_chosen_by_variable_and_the_others_are_standard():
    ds = weather()
    scaling = Scaling.fit(ds, SPEC, method={"rain": {"method": "log", "eps": 1e-5}})
    assert scaling.method("rain") == Method("log", 1e-5)
    assert scaling.method("temp") == Method()
    np.testing.assert_allclose(scaling.mean["temp"], on_wet(ds.temp, ds).mean(0), rtol=1e-12)


def test_one_name_for_all_leaves_the_calendar_standard():
    found = choose("sqrt", ["rain", "time.month"], ["time.month"])
    assert found == {"rain": Method("sqrt"), "time.month": Method()}


def test_changes_are_those_of_transformed_values():
    ds = weather()
    scaling = Scaling.fit(ds, SPEC, method={"rain": "log:1e-5", "temp": "minmax"})
    rain = np.log1p(ds.rain.values[:, ds.wet.values] / 1e-5)
    np.testing.assert_allclose(scaling.increment["rain"], [[np.diff(rain, axis=0).std()]], rtol=1e-12)
    temp = ds.temp.values.astype("float64")[..., ds.wet.values]
    np.testing.assert_allclose(scaling.increment["temp"], [np.diff(temp, axis=0).std((0, 2))], rtol=1e-12)


@settings(max_examples=20)
@given(
    method=st.sampled_from(["standard", "minmax", "robust", "log:1e-5", "sqrt"]),
    chunks=st.fixed_dictionaries(
        {d: st.integers(least, n) for d, least, n in (("time", 1, 9), ("lev", 1, 3), ("y", 2, 3), ("x", 2, 5))}
    ),
    seed=st.integers(0, 3),
)
def test_any_chunks_give_the_same_scaling(method, chunks, seed):
    ds = weather(9, seed)
    eager, lazy = (Scaling.fit(d, SPEC, method=method) for d in (ds, ds.chunk(chunks)))
    for what in ("mean", "std", "increment"):
        for name, value in getattr(eager, what).items():
            np.testing.assert_allclose(getattr(lazy, what)[name], value, rtol=1e-11)


@pytest.mark.long
@settings(max_examples=10)
@given(seed=st.integers(0, 100), chunks=st.integers(5, 40))
def test_quartiles_too_large_to_hold_come_within_the_bound_that_is_documented(seed, chunks):
    ds = weather(seed=seed)
    ds["temp"] = ds.temp * np.float32(1 + 1e3 * (seed % 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_quantiles, "EXACT", 10)
        found = Scaling.fit(ds.chunk(time=chunks, lev=2), SPEC, method="robust")
    for name in ("rain", "temp"):
        x = on_wet(ds[name], ds)
        offset, scale = expected("robust", x)
        bound = np.ptp(x, axis=0) / 2**33 + 1e-12 * abs(x).max()
        assert (abs(found.mean[name] - offset) <= bound).all()
        assert (abs(found.std[name] - scale) <= 2 * bound).all()


def test_quartiles_of_many_levels_share_the_memory_of_the_bins():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 7, 100))
    ds = xr.Dataset({"q": (("time", "i", "lev"), x)}, {"time": np.arange(50)}).chunk(time=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_quantiles, "EXACT", 10)
        found = Scaling.fit(ds, FieldSpec("q", "q", levels="lev"), method="robust")
    offset, scale = expected("robust", x.reshape(-1, 100))
    np.testing.assert_allclose(found.mean["q"], offset, atol=np.ptp(x) / 2**21)
    np.testing.assert_allclose(found.std["q"], scale, atol=2 * np.ptp(x) / 2**21)


def test_an_anomaly_of_one_pascal_keeps_six_digits_in_float32_data():
    rng = np.random.default_rng(0)
    p = (101325 + rng.normal(0, 1, (3000, 40))).astype("float32")
    ds = xr.Dataset({"p": (("time", "i"), p)}, {"time": np.arange(3000)})
    for data in (ds, ds.chunk(time=7), ds.chunk(time=1000, i=11)):
        scaling = Scaling.fit(data, FieldSpec("p", "p", target_offsets=1))
        np.testing.assert_allclose(scaling.std["p"], p.astype("float64").std(), rtol=1e-9)
        change = np.diff(p.astype("float64"), axis=0).std()
        np.testing.assert_allclose(scaling.increment["p"], [[change]], rtol=1e-9)


@pytest.mark.parametrize(
    ("method", "reads"), [("minmax", 1), ("log:1", 1), pytest.param("robust", 3, marks=pytest.mark.long)]
)
def test_each_block_is_read_once_and_twice_more_for_quartiles_too_large_to_hold(method, reads, monkeypatch):
    monkeypatch.setattr(_quantiles, "EXACT", 10)
    seen = []

    def read(block_info=None):
        at = block_info[None]
        seen.append(tuple(at["chunk-location"]))
        return np.random.default_rng(at["chunk-location"]).random(at["chunk-shape"])

    data = dsa.map_blocks(read, chunks=((5,) * 6, (3, 4)), dtype="float64", meta=np.zeros((0, 0)))
    ds = xr.Dataset({"x": (("time", "i"), data)}, {"time": xr.date_range("2000-01-01", periods=30, freq="MS")})
    layout = FieldSpec(["x", "time.month"], "x", target_offsets=1).bind(ds)
    seen.clear()
    Scaling.fit(ds, layout, method=method, by="month")
    assert sorted(seen) == sorted([(i, j) for i in range(6) for j in range(2)] * reads)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("gauss", r"the scaling method is not understood.*Expected: standard, minmax, robust, log, sqrt, none; 'log:eps'.*Received: gauss"),
        ("minmx", r"did you mean 'minmax'\?"),
        ("log:", r"not understood.*eps > 0 in units of the variable"),
        ("log:-1", r"not understood.*Received: log:-1"),
        ("sqrt:1", r"not understood.*Received: sqrt:1"),
        ({"rain": {"method": "log", "epsilon": 1}}, r"not understood"),
        ({"ran": "log:1"}, r"method names 'ran', which is neither input nor target; did you mean 'rain'\?"),
    ],
)  # fmt: skip
def test_methods_that_are_not_known_are_refused(method, words):
    with pytest.raises(ValueError, match=words):
        Scaling.fit(weather(), SPEC, method=method)


@pytest.mark.parametrize(
    ("method", "value", "words"),
    [
        ("log:1e-6", -1.0, r"'rain' has values outside the domain of method 'log'. Expected: x >= 0. Received: 2 of \d+ values. Remedy: clip or mask"),
        ("log", 0.0, r"'rain' has values outside the domain of method 'log'. Expected: x > 0. Received: 2 of \d+ values.*'log:eps' with eps > 0 allows zeros"),
        ("minmax", np.nan, r"'rain' is missing on valid cells.*Received: 2 missing"),
    ],
)  # fmt: skip
def test_values_outside_the_domain_are_counted_and_refused(method, value, words):
    ds = weather()
    ds["rain"] = (ds.rain + 1).where(ds.wet)
    ds.rain[3:5, 0, 0] = value
    with pytest.raises(ValueError, match=words):
        Scaling.fit(ds.chunk(time=4), SPEC, method={"rain": method})


def test_a_field_that_is_mostly_zero_has_no_interquartile_range():
    ds = weather()
    ds["rain"] = ds.rain.where(ds.rain > 5e-5, 0).where(ds.wet)
    with pytest.raises(ValueError, match=r"'rain' does not vary.*interquartile range.*Received: 0 at level 0"):
        Scaling.fit(ds, SPEC, method={"rain": "robust"})


@given(x=st.floats(0, 1e30), eps=st.floats(1e-10, 1e3), scale=st.floats(1e-6, 1e6))
def test_transforms_are_undone(x, eps, scale):
    for method in (Method("log", eps), Method("sqrt"), Method("log")):
        value = max(x, 1e-30) if method == Method("log") else x
        back = method.inverse(method.forward(np.float64(value), scale, np), scale, np)
        np.testing.assert_allclose(back, value, rtol=1e-9, atol=1e-300)


def test_a_method_reads_as_text_or_mapping():
    assert parse("log:1e-6") == parse({"method": "log", "eps": 1e-6}) == Method("log", 1e-6)
