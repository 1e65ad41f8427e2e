"""Gradients tell what a small change does; along a path they add up to the prediction, cell by cell, for any network."""

import cloudpickle
import dask
import keras
import numpy as np
import pytest
import xarray as xr
from keras import layers

from physml import FieldModel, NonNegative, Scaling
from physml.explain import Explainer, area_mean, box_mean, climatology, field, groups, on_tensors, samples, zero
from physml.explain.gradients.paths import nodes
from physml.fields import FieldSpec

COEF = np.array([2.0, -1.0, 0.5])
GRADIENT_KINDS = ("saliency", "smoothgrad", "input_x_gradient", "integrated", "expected")


def linear(x):
    return keras.ops.sum(x * keras.ops.cast(COEF, x.dtype), -1, keepdims=True)


def curved(x):
    return x[..., :1] ** 2 + x[..., 1:2] * x[..., 2:]


@pytest.fixture(scope="module")
def cnn():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((4, 6, 3)),
            layers.Conv2D(8, 3, padding="same", activation="gelu"),
            layers.LayerNormalization(),
            layers.Conv2D(1, 3, padding="same"),
        ]
    )


@pytest.fixture
def explainer(cnn, ds, layout):
    return Explainer(cnn, climatology(ds, layout, by="month"), groups(layout), area_mean(), layout=layout)


def share(ds):
    """Return the weight of every cell in the area mean, ``[lat, lon]``."""
    return (ds.cell_area / ds.cell_area.sum()).values


def stack(ds):
    return np.stack([ds[n].fillna(0).values for n in ("tracer", "u", "v")]).astype("float64")


@pytest.mark.parametrize(
    "kind, settings",
    [
        ("input_x_gradient", {}),
        ("integrated", {"steps": 1}),
        ("integrated", {"steps": 3, "rule": "stratified"}),
        ("expected", {"steps": 2, "replicates": 2}),
        ("occlusion", {"patches": {"lat": 1, "lon": 1}}),
    ],
)
def test_a_linear_model_gives_every_kind_the_anomaly_times_its_coefficient(ds, layout, kind, settings):
    base = climatology(ds, layout, by="month")
    result = Explainer(on_tensors(linear), base, None, area_mean(), layout=layout).gradients(ds, kind, **settings)
    monthly = ds[["tracer", "u", "v"]].groupby("time.month").map(lambda g: g - g.mean("time"))
    expected = stack(monthly) * COEF[:, None, None, None] * share(ds)
    np.testing.assert_allclose(result.attribution.where(ds.wet, 0), expected, atol=5e-7)
    assert abs(result.residual).max() < 5e-6  # differences of float32 values


def test_gradients_of_a_polynomial_are_those_of_the_book(ds, layout):
    explainer = Explainer(on_tensors(curved), zero(layout), None, area_mean(), layout=layout)
    t, u, v = stack(ds)
    slopes = explainer.gradients(ds, "saliency")
    np.testing.assert_allclose(slopes.attribution.where(ds.wet, 0), np.array([2 * t, v, u]) * share(ds), atol=1e-6)
    sizes = explainer.gradients(ds, "saliency", absolute=True)
    np.testing.assert_array_equal(sizes.attribution, abs(slopes.attribution))
    integrated = explainer.gradients(ds, "integrated", steps=1)  # exact: the gradient is linear on the path
    half = u * v / 2
    np.testing.assert_allclose(
        integrated.attribution.where(ds.wet, 0), np.array([t**2, half, half]) * share(ds), atol=1e-6
    )
    assert abs(integrated.residual).max() < 1e-6


def test_points_of_gauss_integrate_polynomials_of_twice_their_number():
    for n in (1, 2, 5):
        at, weight = nodes("gauss", n)
        for degree in range(2 * n):
            assert (weight * at**degree).sum() == pytest.approx(1 / (degree + 1), rel=1e-13)


def test_the_gradient_of_a_network_agrees_with_finite_differences(explainer, cnn, ds, layout):
    d = ds.isel(time=slice(0, 4))
    result = explainer.gradients(d, "saliency").attribution.where(ds.wet, 0)
    way = np.random.default_rng(3).normal(size=(4, 6, 3)) * layout.valid("inputs")
    x, step = layout.pack(d, "inputs").fillna(0).values, 1e-2
    f = lambda a: explainer.value(a.astype("float32"))[:, 0]  # noqa: E731
    centred = (8 * (f(x + step * way) - f(x - step * way)) - f(x + 2 * step * way) + f(x - 2 * step * way)) / (
        12 * step
    )
    np.testing.assert_allclose((result.values * np.moveaxis(way, -1, 0)[:, None]).sum((0, 2, 3)), centred, atol=2e-5)


def test_networks_that_compute_the_same_are_explained_alike(ds, layout):
    rng = np.random.default_rng(0)
    kernel, last = rng.normal(size=(3, 5)), rng.normal(size=(5, 1))
    short = keras.Sequential([keras.Input((4, 6, 3)), layers.Dense(5, "relu"), layers.Dense(1)])
    short.set_weights([kernel, np.zeros(5), last, np.zeros(1)])
    long = keras.Sequential(
        [keras.Input((4, 6, 3)), layers.Dense(3), layers.Dense(10, "relu"), layers.Dense(5), layers.Dense(1)]
    )
    halves = np.concatenate([np.eye(5), np.eye(5)]) / 2
    turn = rng.normal(size=(3, 3))
    both = np.concatenate([kernel, kernel], 1)
    long.set_weights(
        [turn, np.zeros(3), np.linalg.solve(turn, both), np.zeros(10), halves, np.zeros(5), last, np.zeros(1)]
    )
    explainers = [Explainer(m, climatology(ds, layout), None, area_mean(), layout=layout) for m in (short, long)]
    found = [e.gradients(ds, "integrated", steps=8).attribution for e in explainers]
    xr.testing.assert_allclose(found[0], found[1], rtol=0, atol=2e-5 * float(abs(found[0]).max()))


def test_steps_double_until_the_residual_is_small(explainer, ds):
    few = explainer.gradients(ds, "integrated", steps=1)
    tol = float(abs(few.residual).quantile(0.3))
    result = explainer.gradients(ds, "integrated", steps=1, tol=tol)
    assert result.converged.dtype == bool
    assert result.converged.all()
    assert abs(result.residual).max() <= tol
    assert set(result.steps.values.tolist()) >= {1, 2}
    np.testing.assert_allclose(result.attribution.where(result.steps == 1), few.attribution.where(result.steps == 1))
    stopped = explainer.gradients(ds, "integrated", steps=1, tol=tol, max_steps=1)
    np.testing.assert_array_equal(stopped.converged, abs(few.residual) <= tol)
    assert not stopped.converged.all()


@pytest.mark.long
def test_contributions_leave_over_what_the_residual_says(explainer, ds):
    for kind, most in (("input_x_gradient", 1.0), ("integrated", 1e-6)):
        result = explainer.gradients(ds, kind)
        total = result.attribution.sum(("channel", "lat", "lon"))
        np.testing.assert_allclose(result.prediction - result.base_value - total, result.residual, atol=1e-12)
        assert abs(result.residual).max() < most


def test_expected_gradients_approach_the_mean_over_all_baseline_rows_as_their_errors_say(cnn, ds, layout):
    explainer = Explainer(cnn, samples(ds, layout, 6, seed=0), None, area_mean(), layout=layout)
    d = ds.isel(time=slice(0, 6))
    truth = explainer.gradients(d, "integrated", steps=32)
    assert abs(truth.residual).max() < 1e-5
    drawn = explainer.gradients(d, "expected", replicates=16, seed=1)
    z = ((drawn.attribution - truth.attribution) / drawn.stderr).where(ds.wet)
    assert 0.97 < float((z**2).mean() ** 0.5) < 1.17  # Student's t at 15: 1.07
    more = explainer.gradients(d, "expected", replicates=64, seed=1)
    assert 1.6 < float(drawn.stderr.mean() / more.stderr.mean()) < 2.5
    assert drawn.attrs["replicates"] == 16


def test_noise_averages_the_gradient_around_the_sample(ds, layout):
    explainer = Explainer(on_tensors(curved), zero(layout), None, area_mean(), layout=layout)
    std = {"tracer": 0.5, "u": 0.0, "v": 2.0}
    result = explainer.gradients(ds, "smoothgrad", noise=std, copies=200, seed=4)
    plain = explainer.gradients(ds, "saliency")
    expected = np.array([2 * 0.5, 2.0, 0.0])[:, None, None] * share(ds) / np.sqrt(200)
    ratio = (result.stderr.mean("time") / np.where(expected > 0, expected, 1)).where(ds.wet)
    np.testing.assert_allclose(ratio.sel(channel=["tracer", "u"]).mean(("lat", "lon")), 1, atol=0.03)
    np.testing.assert_allclose(result.stderr.sel(channel="v").where(ds.wet, 0), 0, atol=1e-9)
    z = ((result.attribution - plain.attribution) / result.stderr).sel(channel=["tracer", "u"]).where(ds.wet)
    assert 0.9 < float((z**2).mean() ** 0.5) < 1.1
    relative = explainer.gradients(ds, "smoothgrad", noise=0.0, copies=2)
    np.testing.assert_allclose(relative.attribution, plain.attribution, atol=1e-7)


@pytest.mark.parametrize(
    "kind", ["integrated", *(pytest.param(k, marks=pytest.mark.long) for k in ("occlusion", "smoothgrad", "expected"))]
)
def test_lazy_data_and_other_batches_give_the_same_numbers(explainer, ds, kind):
    d = ds.isel(time=slice(0, 7))
    settings = {"patches": {"lat": 2}} if kind == "occlusion" else {}
    reference = explainer.gradients(d, kind, **settings)
    lazy = explainer.gradients(d.chunk(time=3, lat=2), kind, **settings)
    assert all(v.chunks for v in lazy.values())
    for other in (lazy.compute(), explainer.gradients(d, kind, batch_rows=5, **settings)):
        xr.testing.assert_allclose(other.drop_attrs(), reference.drop_attrs(), rtol=0, atol=2e-7)
    tail = explainer.gradients(d.isel(time=slice(4, 7)), kind, **settings)
    if kind not in ("smoothgrad", "expected"):  # the others draw by the place of a sample
        xr.testing.assert_allclose(tail.drop_attrs(), reference.isel(time=slice(4, 7)).drop_attrs(), rtol=0, atol=2e-7)


def test_nothing_is_computed_before_it_is_asked_for(explainer, ds):
    def refuse(dsk, keys, **kwargs):
        raise RuntimeError("computed")

    with dask.config.set(scheduler=refuse):
        lazy = explainer.gradients(ds.chunk(time=5), "integrated")
    assert lazy.attribution.dims == ("channel", "time", "lat", "lon")


@pytest.mark.parametrize("kind", ["integrated", pytest.param("occlusion", marks=pytest.mark.long)])
def test_masked_cells_are_missing_and_never_matter(cnn, ds, layout, kind):
    dirty = ds.assign({n: ds[n].where(ds.wet, 1e6) for n in ("tracer", "u", "v")})
    settings = {"patches": {"lat": 2, "lon": 2}} if kind == "occlusion" else {"steps": 4}
    clean, other = (
        Explainer(cnn, climatology(d, layout), None, area_mean(), layout=layout).gradients(d, kind, **settings)
        for d in (ds, dirty)
    )
    xr.testing.assert_equal(clean, other)
    np.testing.assert_array_equal(clean.attribution.notnull().all(("channel", "time")), ds.wet)


def test_results_are_labelled_channel_by_channel(cnn, ds, tmp_path):
    layout = FieldSpec(["tracer", "u"], "tracer", input_offsets=(-1, 0), mask="wet").bind(ds)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4, 6, 4)), layers.Dense(1)])
    explainer = Explainer(model, zero(layout), groups(layout, lag=True), box_mean(lat=slice(-90, 0)), layout=layout)
    result = explainer.gradients(ds, "integrated")
    assert result.attribution.dims == ("channel", "time", "lat", "lon")
    assert result.variable.values.tolist() == ["tracer", "tracer", "u", "u"]
    assert result.offset.values.tolist() == [-1, 0, -1, 0]
    assert result.attribution.attrs["units"] == "kg m-3"
    assert result.lat.attrs == ds.lat.attrs
    assert result.attrs["method"] == "integrated gradients (Aumann-Shapley)"
    assert (result.attrs["baseline"], result.attrs["seed"], result.attrs["steps"]) == ("zero", "none", 32)
    assert result.attrs["title"] == "synthetic"
    assert result.sizes["time"] == 23
    result.to_netcdf(tmp_path / "a.nc")
    xr.testing.assert_equal(xr.load_dataset(tmp_path / "a.nc"), result)
    slopes = explainer.gradients(ds, "saliency")
    assert slopes.channel_units.values.tolist() == ["1", "1", "kg m-3 / (m s-1)", "kg m-3 / (m s-1)"]
    assert slopes.attrs["baseline"] == "none"


@pytest.mark.long
def test_members_are_samples_too(cnn, ds):
    runs = xr.concat([ds, ds.assign(u=ds.u * 2)], xr.Variable("run", [3, 4]), data_vars=["tracer", "u", "v"])
    layout = FieldSpec(["tracer", "u", "v"], "tracer", mask="wet", area="cell_area", members="run").bind(runs)
    explainer = Explainer(cnn, zero(layout), None, area_mean(), layout=layout)
    result = explainer.gradients(runs.chunk(run=1, time=5), "integrated", steps=4)
    assert result.attribution.dims == ("channel", "run", "time", "lat", "lon")
    alone = explainer.gradients(ds, "integrated", steps=4)
    xr.testing.assert_allclose(result.sel(run=3, drop=True).drop_attrs().compute(), alone.drop_attrs(), atol=1e-6)


@pytest.mark.long
def test_any_layer_will_do_and_the_function_travels_to_other_processes(ds):
    line = ds.isel(lat=0).reset_coords(drop=True)
    layout = FieldSpec(["tracer", "u", "v"], "tracer").bind(line)
    keras.utils.set_random_seed(2)
    start = x = keras.Input((6, 3))
    x = layers.LSTM(4, return_sequences=True)(x)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    x = layers.Dropout(0.5)(layers.Dense(4, activation="silu")(x))
    x = layers.UpSampling1D(2)(layers.MaxPooling1D(2)(x))
    model = keras.Model(start, layers.Dense(1)(x))
    explainer = Explainer(model, climatology(line, layout), None, area_mean(), layout=layout)
    d = line.isel(time=slice(0, 3))
    for kind in GRADIENT_KINDS:
        result = explainer.gradients(d, kind)
        assert bool(np.isfinite(result.attribution).all())
        assert float(abs(result.attribution).max()) > 0
    integrated = explainer.gradients(d, "integrated", steps=64)
    assert abs(integrated.residual).max() < 1e-4 * float(abs(integrated.attribution).max()) + 1e-6
    moved = cloudpickle.loads(cloudpickle.dumps(explainer)).gradients(d, "integrated", steps=64)
    np.testing.assert_allclose(moved.attribution, integrated.attribution, atol=1e-6)


def test_a_field_model_with_constraints_is_explained_in_physical_units(cnn, ds):
    spec = FieldSpec(["tracer", "u", "v"], "tracer", target_offsets=1, mask="wet", area="cell_area")
    ds["tracer"] = (1e3 + 50 * ds.tracer).assign_attrs(units="kg m-3").astype("float32")
    model = FieldModel(cnn, scaling=Scaling.fit(ds, spec), constraints=[NonNegative("tracer")], increment=True)
    explainer = Explainer(model, climatology(ds, model.layout), groups(model.layout), area_mean())
    result = explainer.gradients(ds, "integrated")
    assert result.attribution.attrs["units"] == "kg m-3"
    assert abs(result.residual).max() < 2e-6 * 1e3


def test_occlusion_of_an_additive_function_is_its_part(ds, layout):
    def additive(x):
        return keras.ops.sin(x[..., :1]) + x[..., 1:2] ** 2 + keras.ops.exp(x[..., 2:])

    explainer = Explainer(on_tensors(additive), zero(layout), groups(layout), area_mean(), layout=layout)
    t, u, v = stack(ds)
    truth = np.array([np.sin(t), u**2, np.expm1(v)]) * share(ds)
    cells = explainer.gradients(ds, "occlusion", patches={"lat": 1, "lon": 1})
    np.testing.assert_allclose(cells.attribution.where(ds.wet, 0), truth, atol=2e-6)
    assert abs(cells.residual).max() < 1e-5
    whole = explainer.gradients(ds, "occlusion")
    assert whole.attribution.dims == ("group", "time")
    np.testing.assert_allclose(whole.attribution, truth.sum((2, 3)), atol=2e-6)
    wide = explainer.gradients(ds, "occlusion", patches={"lon": 4}, strides={"lon": 1})
    assert wide.attrs["windows"] == 9
    one = explainer.gradients(ds, "occlusion", patches={"lat": 2, "lon": 3}, together=True)
    boxes = one.attribution.sum("channel").coarsen(lat=2, lon=3).sum()
    expected = xr.zeros_like(one.attribution).copy(data=truth).sum("channel").coarsen(lat=2, lon=3).sum()
    np.testing.assert_allclose(boxes, expected, atol=4e-6)


def test_occlusion_by_group_takes_whole_fields_and_models_without_gradients(ds, layout):
    model = lambda d: (2 * d.tracer - d.u).rename("tracer")  # noqa: E731
    result = Explainer(model, zero(layout), groups(layout), layout=layout).gradients(ds, "occlusion")
    assert result.attribution.dims == ("group", "time", "lat", "lon")
    np.testing.assert_allclose(result.attribution.sel(group="tracer"), 2 * ds.tracer, atol=1e-6)
    np.testing.assert_allclose(result.attribution.sel(group="v").where(ds.wet, 0), 0)
    assert abs(result.residual).max() < 1e-6


def test_an_activation_map_weighs_features_by_their_mean_gradient(ds, layout):
    model = keras.Sequential(
        [
            keras.Input((4, 6, 3)),
            layers.Conv2D(2, 1, name="features"),
            layers.Activation("relu", name="bent"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1),
        ]
    )
    kernel = np.array([[1.0, 0.0], [0.0, -1.0], [0.0, 0.0]])
    model.set_weights([kernel[None, None], np.zeros(2), np.array([[2.0], [3.0]]), np.zeros(1)])
    explainer = Explainer(model, zero(layout), None, None, layout=layout)
    t, u, _ = stack(ds)
    maps = explainer.gradients(ds, "grad_cam", layer="bent")
    expected = (2 * np.maximum(t, 0) + 3 * np.maximum(-u, 0)) / 24
    assert maps.attribution.dims == ("time", "lat", "lon")
    np.testing.assert_allclose(maps.attribution.where(ds.wet), np.where(ds.wet, expected, np.nan), rtol=1e-5, atol=1e-8)
    last = explainer.gradients(ds, "grad_cam")
    assert last.attrs["layer"] == "features"
    slopes = [(2 * (t > 0)).mean((1, 2), keepdims=True), (3 * (u < 0)).mean((1, 2), keepdims=True)]
    expected = np.maximum(slopes[0] * t - slopes[1] * u, 0) / 24
    np.testing.assert_allclose(last.attribution.where(ds.wet), np.where(ds.wet, expected, np.nan), rtol=1e-4, atol=1e-7)


@pytest.mark.long
def test_an_activation_map_goes_through_a_field_model(cnn, ds):
    spec = FieldSpec(["tracer", "u", "v"], "tracer", mask="wet", area="cell_area")
    model = FieldModel(cnn, scaling=Scaling.fit(ds, spec), constraints=[NonNegative("tracer")])
    maps = Explainer(model, zero(model.layout), None, area_mean()).gradients(ds, "grad_cam", layer=cnn.layers[0].name)
    assert float(maps.attribution.min()) >= 0
    assert float(maps.attribution.max()) > 0
    np.testing.assert_array_equal(maps.attribution.notnull().all("time"), ds.wet)


@pytest.mark.parametrize("of", ["cells", pytest.param("optimal inputs", marks=pytest.mark.long)])
def test_half_precision_holds_gradients_of_any_units(ds, of):
    """A network in half precision between fields of 1e-9: what would vanish in it is scaled on the way."""
    spec = FieldSpec(["tracer", "u", "v"], "tracer", target_offsets=1, mask="wet", area="cell_area")
    ds["tracer"] = 1e-9 * ds.tracer.astype("float64")
    few = ds.isel(time=slice(0, 5))
    found = {}
    for policy in ("float32", "mixed_float16"):
        keras.utils.set_random_seed(1)
        conv = [layers.Conv2D(n, 3, padding="same", activation=a, dtype=policy) for n, a in ((4, "tanh"), (1, None))]
        model = FieldModel(keras.Sequential([keras.Input((4, 6, 3)), *conv]), scaling=Scaling.fit(ds, spec))
        explainer = Explainer(model, climatology(ds, model.layout), None, area_mean())
        if of == "cells":
            found[policy] = [explainer.gradients(few, kind).attribution for kind in ("input_x_gradient", "grad_cam")]
            continue
        best = explainer.backward_optimisation(few, "greatest", background=ds, within=0.5, steps=5)
        found[policy] = [best.target_after - best.target_before]
    for exact, half in zip(*found.values(), strict=True):
        assert 0 < float(abs(exact).max()) < 1e-6
        np.testing.assert_allclose(half, exact, rtol=0, atol=0.01 * float(abs(exact).max()))


def test_noise_relative_to_a_range_over_space_needs_space():
    rng = np.random.default_rng(0)
    table = xr.Dataset({n: ("sample", rng.normal(size=9)) for n in ("a", "b", "y")})
    layout = FieldSpec(["a", "b"], "y", sample_dim="sample").bind(table)
    product = on_tensors(lambda x: x[:, :1] ** 2 * x[:, 1:])
    explainer = Explainer(product, zero(layout), layout=layout, outputs=["y"])
    with pytest.raises(ValueError, match=r"where there is no space.*Remedy: pass noise=\{'a': std in its units"):
        explainer.gradients(table, "smoothgrad")
    assert (explainer.gradients(table, "smoothgrad", noise={"a": 0.5, "b": 0.5}).stderr > 0).all()


def index(d):
    return d.tracer.max(("lat", "lon"))


@pytest.mark.parametrize(
    "model, target, kind, settings, text",
    [
        (None, area_mean(), "integrate", {}, "kind 'integrate' is unknown; did you mean 'integrated'"),
        (None, area_mean(), "integrated", {"step": 3}, "no setting 'step'; did you mean 'steps'"),
        (None, area_mean(), "integrated", {"steps": 0}, "steps are out of range"),
        (None, area_mean(), "integrated", {"steps": 2.5}, "steps are out of range. Expected: whole numbers"),
        (None, area_mean(), "smoothgrad", {"noise": "much"}, "not a standard deviation"),
        (None, area_mean(), "occlusion", {"patches": 2}, r"do not name their dimensions.*pass patches=\{'lat': 2\}"),
        (None, area_mean(), "occlusion", {"patches": {"lat": "2"}}, "leave cells out. Expected: whole numbers"),
        (None, area_mean(), "integrated", {"tol": 0}, "tol is not positive"),
        (None, area_mean(), "integrated", {"rule": "gaus"}, "steps by 'gaus' are unknown; did you mean 'gauss'"),
        (None, area_mean(), "integrated", {"batch_rows": 0}, "batch_rows is not positive"),
        (None, area_mean(), "expected", {"replicates": 1}, "replicates are too few"),
        (None, area_mean(), "smoothgrad", {"copies": 1}, "copies are too few"),
        (None, area_mean(), "smoothgrad", {"noise": {"tracer": 1}}, "noise does not fit the inputs"),
        (None, area_mean(), "smoothgrad", {"noise": -1.0}, "not a standard deviation"),
        (None, area_mean(), "grad_cam", {"layer": "conv"}, "finds no layer 'conv'"),
        (None, area_mean(), "occlusion", {"patches": {"lats": 2}}, "unknown dimension 'lats'; did you mean 'lat'"),
        (None, area_mean(), "occlusion", {"patches": {"lat": 2}, "strides": {"lat": 3}}, "leave cells out"),
        (None, field(), "integrated", {}, "explains one number a sample.*box_mean.*shapley"),
        (None, index, "saliency", {}, "cannot differentiate.*box_mean.*shapley.*occlusion"),
        (lambda d: d[["tracer"]], area_mean(), "saliency", {}, "needs the derivative of.*shapley.*occlusion"),
        (on_tensors(curved), area_mean(), "lrp", {}, "looks into the layers"),
        (on_tensors(lambda x: x[..., :1] ** 0.5), area_mean(), "saliency", {}, "in 'tracer' is not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_cannot_be_explained_is_refused_with_the_remedy(cnn, ds, layout, model, target, kind, settings, text):
    if model is not None and not isinstance(model, on_tensors):
        target = None if target is not index else target
        explainer = Explainer(model, zero(layout), None, index, layout=layout)
    else:
        explainer = Explainer(cnn if model is None else model, zero(layout), None, target, layout=layout)
    ds = ds.assign(tracer=0 * ds.tracer) if "finite" in text else ds
    with pytest.raises((ValueError, TypeError), match=text):
        explainer.gradients(ds, kind, **settings)


def test_after_refusals_an_unrelated_model_still_trains(cnn, ds, layout):
    explainer = Explainer(cnn, zero(layout), None, field(), layout=layout)
    for kind in ("saliency", "lrp", "grad_cam"):
        with pytest.raises(ValueError, match="one number a sample"):
            explainer.gradients(ds, kind)
    with pytest.raises(NotImplementedError, match="LayerNormalization"):
        Explainer(cnn, zero(layout), None, area_mean(), layout=layout).gradients(ds, "lrp")
    keras.utils.set_random_seed(0)
    other = keras.Sequential([keras.Input((2,)), layers.Dense(8, activation="gelu"), layers.Dense(1)])
    other.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(64, 2))
    losses = other.fit(x, x[:, :1], epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
