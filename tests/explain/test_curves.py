"""Curves of one variable and surfaces of two are those of known functions, exactly where the theory says so."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tables import model, table

from physml.explain import ale, area_mean, groups, ice, on_tensors, partial_dependence
from physml.fields import FieldSpec

HALVES = {"south": {"lat": slice(-90, 0)}, "north": {"lat": slice(0, 90)}}


@pytest.fixture(scope="module")
def data():
    """Three variables, the first two correlated."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    x[:, 1] = 0.6 * x[:, 0] + 0.8 * x[:, 1]
    return table(x, units="K")


def columns(ds):
    return np.stack([ds[n].values for n in "abc"], 1)


@given(slope=st.floats(-5, 5), bins=st.integers(1, 30), seed=st.integers(0, 99))
@settings(max_examples=15)
def test_the_local_effect_of_a_linear_function_is_its_slope_times_the_departure_from_the_mean(slope, bins, seed):
    x = np.random.default_rng(seed).gamma(2, size=(50, 2))
    ds, layout = table(x)
    found = ale(model(lambda z: slope * z[:, 0] + z[:, 1] ** 2, layout), ds, "a", bins=bins, n_bootstrap=3)
    np.testing.assert_allclose(found.effect, slope * (found.a - x[:, 0].mean()), atol=1e-12)
    assert found.a.values[[0, -1]].tolist() == [x[:, 0].min(), x[:, 0].max()]
    assert found.counts.sum() == 50


def test_main_effects_of_an_additive_function_add_up_to_it_less_its_mean(data):
    ds, layout = data
    parts = [np.sin, lambda v: v**2, lambda v: np.maximum(v, 0)]
    function = model(lambda z: sum(f(z[:, i]) for i, f in enumerate(parts)), layout)
    x = columns(ds)
    whole = np.zeros(len(x))
    for i, name in enumerate("abc"):
        # With an edge at every sample nothing is left between the edges.
        found = ale(function, ds, name, bins=np.unique(x[:, i]), n_bootstrap=0)
        part = parts[i](found[name].values)
        np.testing.assert_allclose(found.effect, part - parts[i](x[:, i]).mean(), atol=1e-12)
        whole += np.interp(x[:, i], found[name], found.effect)
    answers = function.call(x)[:, 0]
    np.testing.assert_allclose(whole, answers - answers.mean(), atol=1e-12)


def test_local_effects_of_a_product_follow_the_correlation_where_partial_dependence_does_not():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(8_000, 2))
    x[:, 1] = 0.6 * x[:, 0] + 0.8 * x[:, 1]
    ds, layout = table(x)
    function = model(lambda z: z[:, 0] * z[:, 1], layout)
    found = ale(function, ds, "a", bins=40, n_bootstrap=0)
    inside = abs(found.a) < 1.5
    # The slope is the mean of b given a, 0.6 a, so that the effect is 0.3 (a^2 - 1).
    np.testing.assert_allclose(found.effect.where(inside, 0), (0.3 * (found.a**2 - 1)).where(inside, 0), atol=0.04)
    flat = partial_dependence(function, ds, "a", n_bootstrap=0)
    np.testing.assert_allclose(flat.effect, flat.a * x[:, 1].mean(), atol=1e-12)


def test_two_variables_interact_by_what_their_main_effects_leave(data):
    ds, layout = data
    function = model(lambda z: z[:, 0] * z[:, 1] + np.exp(z[:, 0]) + z[:, 1] ** 3, layout)
    both = ale(function, ds, ("a", "b"), bins=4, n_bootstrap=20)
    assert both.effect.dims == ("a", "b")
    assert (both.counts[1:, 1:] > 0).all() and both.counts.sum() == 400
    product = model(lambda z: z[:, 0] * z[:, 1], layout)
    first, second = (ale(product, ds, n, bins=both[n].values, n_bootstrap=0).effect for n in "ab")
    expected = both.a * both.b - (ds.a * ds.b).mean() - first - second
    np.testing.assert_allclose(both.effect, expected, atol=1e-12)
    # What is left has no main effect of its own, in either variable, and mean zero.
    left = model(lambda z: _bilinear(both, z), layout)
    for name in "ab":
        none = ale(left, ds, name, bins=both[name].values, n_bootstrap=0)
        np.testing.assert_allclose(none.effect, 0, atol=1e-12)
    np.testing.assert_allclose(_bilinear(both, columns(ds)).mean(), 0, atol=1e-12)
    assert (both.lower < both.upper).all()


def _bilinear(effect, z):
    at = {n: xr.DataArray(z[:, i], dims="time") for i, n in enumerate("ab")}
    return effect.effect.interp(at).values


def test_an_additive_function_has_no_interaction_even_where_no_samples_lie(data):
    ds, layout = data
    function = model(lambda z: np.sin(z[:, 0]) + z[:, 1] ** 2, layout)
    found = ale(function, ds, ("a", "b"), bins=(15, 12), n_bootstrap=0)
    assert (found.counts[1:, 1:] == 0).any()
    np.testing.assert_allclose(found.effect, 0, atol=1e-12)
    missing = ale(function, ds, ("a", "b"), bins=(15, 12), n_bootstrap=0, empty="missing")
    corner = missing.counts[1:3, 1:3].sum() == 0
    assert missing.effect.isnull().any() and missing.effect.notnull().any()
    assert bool(np.isnan(missing.effect[1, 1])) == bool(corner)


def test_partial_dependence_of_an_additive_function_is_its_part_up_to_a_constant(data):
    ds, layout = data
    function = model(lambda z: np.sin(z[:, 0]) + z[:, 1] ** 2, layout)
    found = partial_dependence(function, ds, "a")
    np.testing.assert_allclose(found.effect - np.sin(found.a), (ds.b**2).mean(), atol=1e-12)
    assert (found.lower < found.effect).all() and (found.effect < found.upper).all()
    np.testing.assert_allclose(found.a[[0, -1]], ds.a.quantile([0.05, 0.95]))
    standard_error = (ds.b**2).std().item() / 20
    np.testing.assert_allclose((found.upper - found.lower) / (2 * 1.96 * standard_error), 1, atol=0.25)


def test_partial_dependence_and_its_curves_are_those_of_scikit_learn(data):
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import partial_dependence as peer

    ds, layout = data
    x = columns(ds)
    forest = RandomForestRegressor(4, max_depth=4, random_state=0).fit(x, x[:, 0] * x[:, 1])
    theirs = peer(forest, x, [1], grid_resolution=9, kind="both", method="brute")
    settings = {"layout": layout, "values": theirs["grid_values"][0]}
    found = partial_dependence(forest, ds, "b", n_bootstrap=0, **settings)
    np.testing.assert_allclose(found.effect, theirs["average"][0], rtol=1e-12)
    curves = ice(forest, ds, "b", **settings)
    np.testing.assert_allclose(curves.ice.transpose("time", "b"), theirs["individual"][0], rtol=1e-12)
    np.testing.assert_allclose(curves.effect, found.effect, rtol=1e-12)
    theirs = peer(forest, x, [(0, 1)], grid_resolution=5, method="brute")
    found = partial_dependence(
        forest, ds, ("a", "b"), n_bootstrap=0, layout=layout, values=tuple(theirs["grid_values"])
    )
    np.testing.assert_allclose(found.effect, theirs["average"][0], rtol=1e-12)


def test_centred_curves_begin_at_zero_and_shifts_pass_through_it(data):
    ds, layout = data
    function = model(lambda z: z[:, 0] * z[:, 1], layout)
    found = ice(function, ds, "a", values=[-1.0, 0.5, 2.0], centred=True)
    np.testing.assert_allclose(found.ice, (found.a + 1) * ds.b, atol=1e-12)
    moved = partial_dependence(function, ds, "a", mode="shift", n_bootstrap=0)
    np.testing.assert_allclose(moved.effect, moved.a * ds.b.mean(), atol=1e-12)
    assert moved.effect.sel(a=0) == 0
    np.testing.assert_allclose(moved.a[-1], 2 * ds.a.std())


def test_curves_of_lazy_data_are_read_only_when_asked_for(data, nothing_computed):
    ds, layout = data
    function = model(lambda z: np.tanh(z[:, 0]) * z[:, 1], layout)
    lazy = ds.chunk(time=90)
    with nothing_computed():
        curves = ice(function, lazy, "a", values=[0.0, 1.0])
    xr.testing.assert_allclose(curves.compute(), ice(function, ds, "a", values=[0.0, 1.0], batch_rows=7), rtol=1e-14)
    for call in (
        lambda d, **more: partial_dependence(function, d, "a", n_bootstrap=9, block="1YS", **more),
        lambda d, **more: ale(function, d, "a", n_bootstrap=9, block="1YS", **more),
        lambda d, **more: ale(function, d, ("a", "b"), n_bootstrap=9, block=12, **more),
    ):
        expected = call(ds)
        xr.testing.assert_allclose(call(lazy, memory=0, batch_rows=11), expected, rtol=1e-12)
        xr.testing.assert_equal(call(lazy), expected)


def field_case(ds):
    layout = FieldSpec(["tracer", "u", "v"], "tracer", mask="wet", area="cell_area").bind(ds)
    return layout, model(lambda z: 2 * z[..., :1] + z[..., 1:2] * z[..., 2:], layout)


def test_a_variable_of_a_field_is_moved_as_a_whole_by_its_area_mean(ds):
    _, function = field_case(ds)
    ds = ds.assign(tracer=ds.tracer + xr.DataArray(np.arange(24, dtype="float32") / 5, dims="time"))
    mean = ds.tracer.weighted(ds.cell_area).mean(("lat", "lon"))
    found = ale(function, ds, "tracer", area_mean(), bins=6, n_bootstrap=0)
    np.testing.assert_allclose(found.effect, 2 * (found.tracer - mean.mean()), atol=1e-5)
    np.testing.assert_allclose(found.rug, mean, rtol=1e-6)
    everywhere = ale(function, ds, "tracer", bins=6, n_bootstrap=4)
    assert everywhere.effect.dims == ("tracer", "lat", "lon")
    np.testing.assert_array_equal(everywhere.effect.notnull().all("tracer"), ds.wet)
    np.testing.assert_allclose(everywhere.effect.mean(("lat", "lon")), found.effect, atol=1e-5)
    # The response to a shift of u is v itself, cell by cell.
    moved = partial_dependence(function, ds, "u", mode="shift", values=[0.0, 1.0], n_bootstrap=0)
    np.testing.assert_allclose(moved.effect.sel(u=1), ds.v.mean("time"), atol=1e-5)
    assert moved.u.attrs["units"] == "m s-1" and moved.effect.attrs["units"] == "kg m-3"
    np.testing.assert_array_equal(moved.lat, ds.lat)


def test_a_model_of_cells_is_asked_cell_by_cell(ds):
    layout, function = field_case(ds)
    inside = ds.wet.values
    cells = {n: ds[n].values[:, inside] for n in ("tracer", "u", "v")}
    area = np.broadcast_to(ds.cell_area.values[inside], cells["u"].shape)
    found = ale(function, ds, "tracer", by="cell", bins=8, n_bootstrap=3)
    assert found.effect.dims == ("tracer",) and found.counts.sum() == 24 * 22
    mean = np.average(cells["tracer"], weights=area)
    np.testing.assert_allclose(found.effect, 2 * (found.tracer - mean), atol=1e-5)
    # Without weights it is the method of the literature on the table of all cells.
    even = FieldSpec(["tracer", "u", "v"], "tracer", mask="wet").bind(ds)
    rows, of_rows = table(np.stack([cells[n].ravel() for n in ("tracer", "u", "v")], 1).astype("float64"))
    as_rows = model(lambda z: z[:, 1] * z[:, 2] + 2 * z[:, 0], of_rows)
    as_cells = model(function.call, even)
    for over, columns in (("u", "b"), (("u", "v"), ("b", "c"))):
        one = ale(as_cells, ds, over, by="cell", bins=4, n_bootstrap=0)
        other = ale(as_rows, rows, columns, bins=4, n_bootstrap=0)
        np.testing.assert_allclose(one.effect, other.effect, atol=1e-5)
        np.testing.assert_array_equal(one.counts, other.counts)
    blurred = model(lambda z: z[..., :1] + np.roll(z[..., :1], 1, axis=2), layout)
    with pytest.raises(ValueError, match="the model looks at other cells too"):
        ale(blurred, ds, "tracer", by="cell")
    with pytest.raises(ValueError, match="by='cell' needs a field"):
        ale(function, ds, "tracer", area_mean(), by="cell")


def test_a_region_is_moved_and_the_rest_is_not(ds):
    layout, function = field_case(ds)
    made = groups(layout, box=HALVES)
    moved = partial_dependence(function, ds, "tracer, south", groups=made, mode="shift", values=[3.0], n_bootstrap=0)
    effect = moved.effect.isel({"tracer, south": 0})
    np.testing.assert_allclose(effect.where(ds.wet & (ds.lat < 0), 6.0).where(ds.lat < 0, 6 + effect), 6, atol=1e-5)
    level = partial_dependence(function, ds, "tracer, south", groups=made, values=[3.0], n_bootstrap=0)
    level = level.effect.isel({"tracer, south": 0, "lat": 0})
    np.testing.assert_allclose(level, 6 + (ds.u * ds.v).isel(lat=0).mean("time"), atol=1e-5)
    with pytest.raises(ValueError, match=r"'winds and tracer' mixes units.*tracer \[kg m-3\], u \[m s-1\]"):
        mixed = groups(layout, variable={"winds and tracer": ["tracer", "u"], "v": "v"})
        ale(function, ds, "winds and tracer", groups=mixed)


def test_a_single_channel_of_several_is_varied(ds):
    layout = FieldSpec("tracer", "tracer", input_offsets=(-1, 0), mask="wet", area="cell_area").bind(ds)
    function = model(lambda z: z[..., :1] - 3 * z[..., 1:], layout)
    slope = lambda over: partial_dependence(function, ds, over, area_mean(), mode="shift", values=[1.0], n_bootstrap=0)  # noqa: E731
    assert slope("tracer -1").effect.item() == pytest.approx(1, abs=1e-5)
    assert slope("tracer").effect.item() == pytest.approx(-2, abs=1e-5)


def test_members_are_samples_too(data):
    ds, _ = data
    runs = xr.concat([ds, -ds], xr.Variable("run", [3, 4]))
    layout = FieldSpec(list("abc"), "y", members="run").bind(runs)
    function = model(lambda z: z[:, 0] * z[:, 1], layout)
    found = ice(function, runs, "a", values=[1.0, 2.0])
    assert found.ice.dims == ("a", "run", "time")
    np.testing.assert_allclose(found.ice, found.a * runs.b, atol=1e-12)
    effect = ale(function, runs, "a", n_bootstrap=2)
    assert effect.counts.sum() == 800 and effect.rug.dims == ("run", "time")


def test_one_sample_has_a_curve_too(data):
    ds, layout = data
    one = ice(model(lambda z: z[:, 0] * z[:, 1], layout), ds.isel(time=[3]), "a", values=[0.0, 2.0])
    np.testing.assert_allclose(one.ice, one.a * ds.b[[3]], atol=1e-12)
    assert ice(model(lambda z: z[:, 0], layout), ds, "a", values=np.int64(3)).sizes["a"] == 3


def test_lags_are_named_one_by_one(data):
    ds, _ = data
    layout = FieldSpec(["a", "b"], "y", input_offsets={"a": (-1, 0), "b": (0,)}).bind(ds)
    function = on_tensors(lambda x: 3 * x[..., :1] + 5 * x[..., 1:2] ** 2)
    for over, slope in (("a -1", 3.0), ("a +0", None)):
        found = ale(function, ds, over, layout=layout, outputs=["y"], n_bootstrap=0)
        here = found[over]
        wanted = slope * here if slope else 5 * here**2
        off = found.effect.squeeze() - wanted
        np.testing.assert_allclose(off - off.mean(), 0, atol=2e-5)


def test_results_are_labelled_and_go_to_netcdf(data, tmp_path):
    ds, layout = data
    ds = ds.assign(a=ds.a.assign_attrs(long_name="sea surface temperature"))
    layout = layout.spec.bind(ds)
    function = model(lambda z: z[:, 0], layout)
    for i, found in enumerate(
        [ale(function, ds, "a", seed=3), ale(function, ds, ("a", "b"), bins=5), partial_dependence(function, ds, "a")]
    ):
        assert found.a.attrs == {"long_name": "sea surface temperature", "units": "K"}
        assert found.effect.attrs["units"] == "K"
        assert {"method", "target", "samples", "rows", "seed", "interval"} <= set(found.attrs)
        assert all({"units", "long_name"} <= set(v.attrs) for v in found.values())
        found.to_netcdf(tmp_path / f"{i}.nc")
        xr.testing.assert_equal(xr.load_dataset(tmp_path / f"{i}.nc"), found)
    assert (ale(function, ds, "a", seed=3).upper == ale(function, ds, "a", seed=3).upper).all()
    assert (ale(function, ds, "a", seed=3).upper != ale(function, ds, "a", seed=4).upper).any()


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda f, d: ale(f, d, "sst"), KeyError, "over names the unknown input 'sst'"),
        (lambda f, d: ale(f, d, ("a", "a")), ValueError, "over names no one or two inputs"),
        (lambda f, d: ale(f, d, "a", bins=[0.0, 5.0, 6.0]), ValueError, r"bins hold no samples.*none in bins \[1\]"),
        (lambda f, d: ale(f, d, "a", bins=[1.0]), ValueError, "edges make no bins"),
        (lambda f, d: ale(f, d, "a", bins=0), ValueError, "too few bins"),
        (lambda f, d: ale(f, d, "a", bins="auto"), ValueError, "edges make no bins.*Received: 'auto'"),
        (lambda f, d: ale(f, d.assign(a=d.a * 0), "a"), ValueError, "'a' does not vary"),
        (lambda f, d: ale(f, d, ("a", "b"), empty="fill"), ValueError, "empty 'fill' is unknown"),
        (lambda f, d: partial_dependence(f, d, "a", mode="add"), ValueError, "mode 'add' is unknown"),
        (lambda f, d: partial_dependence(f, d, "a", values=[2.0, 1.0]), ValueError, "values are no axis"),
        (lambda f, d: partial_dependence(f, d, ("a", "b"), values=(3,)), ValueError, "values do not fit over"),
        (lambda f, d: ice(f, d, ("a", "b")), ValueError, "over names two inputs"),
        (lambda f, d: ice(f, d.assign(c=d.c.where(d.time.dt.month > 1)), "a"), ValueError, "missing.*'c'"),
    ],
)
def test_bad_input_says_what_is_wrong(data, call, error, text):
    ds, layout = data
    with pytest.raises(error, match=text):
        call(model(lambda z: z[:, 0], layout), ds)
