"""Any model is a function of packed inputs: every kind of Keras layer, estimators, functions of Datasets."""

import threading

import cloudpickle
import keras
import numpy as np
import pytest
import xarray as xr

from physml import Conserve, FieldModel, NonNegative, Scaling, Transport
from physml.explain import Explainer, area_mean, box_mean, cell, climatology, field, groups, on_tensors, samples, zero
from physml.explain.models.adapting import adapt
from physml.explain.models.targets import bind
from physml.fields import FieldSpec

L = keras.layers


@keras.saving.register_keras_serializable(package="test_models")
class Gate(L.Layer):
    """A layer of the user's own, without predict_on_batch."""

    def build(self, shape):
        self.gate = self.add_weight(shape=(shape[-1],), initializer="ones", name="gate")

    def call(self, x):
        return keras.ops.sum(x * keras.ops.sigmoid(x * self.gate), -1, keepdims=True)


class Unregistered(L.Layer):
    def call(self, x):
        return keras.ops.tanh(x[..., :1] * x[..., 1:2])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.drop, self.last = L.Dense(4, activation="silu"), L.Dropout(0.5), L.Dense(1)

    def call(self, x, training=None):
        return self.last(self.drop(self.first(x), training=training))


def chain(*layers):
    return keras.Sequential([keras.Input((4, 6, 3)), *layers])


def attention():
    x = keras.Input((4, 6, 3))
    y = L.Reshape((24, 3))(x)
    y = L.MultiHeadAttention(1, 2)(y, y)
    return keras.Model(x, L.Dense(1)(L.Reshape((4, 6, 3))(y)))


MODELS = {
    "GELU": lambda: chain(L.Conv2D(2, 3, padding="same", activation="gelu"), L.Dense(1)),
    "LeakyReLU": lambda: chain(L.Dense(3), L.LeakyReLU(), L.Dense(1)),
    "LayerNormalization": lambda: chain(L.Dense(3), L.LayerNormalization(), L.Dense(1)),
    "SiLU": lambda: chain(L.Dense(3, activation="silu"), L.Dense(1)),
    "LSTM": lambda: chain(L.Reshape((4, 18)), L.LSTM(2), L.Dense(1)),
    "GRU": lambda: chain(L.Reshape((4, 18)), L.GRU(2), L.Dense(1)),
    "attention": attention,
    "bilinear upsampling": lambda: chain(
        L.AveragePooling2D(2), L.UpSampling2D(2, interpolation="bilinear"), L.Dense(1)
    ),
    "batch normalization, dropout": lambda: chain(L.Dense(3), L.BatchNormalization(), L.Dropout(0.5), L.Dense(1)),
    "a layer of one's own": lambda: Gate(),
    "a subclassed model": lambda: Subclassed(),
}


@pytest.fixture
def few(ds):
    return ds.isel(time=slice(0, 3))


def packed(layout, ds):
    return layout.pack(ds, "inputs").fillna(0).values


def trains():
    """Fit a model that has nothing to do with the others."""
    model = keras.Sequential([keras.Input((2,)), L.Dense(2, activation="silu"), L.Dense(1)])
    model.compile("sgd", "mse")
    return np.isfinite(model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0).history["loss"][0])


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_layer_is_explained_additively(ds, few, layout, kind):
    keras.utils.set_random_seed(0)
    model = MODELS[kind]()
    result = Explainer(model, climatology(ds, layout), groups(layout), layout=layout).shapley(few)
    direct = keras.ops.convert_to_numpy(model(packed(layout, few)))[..., 0]
    wet = (slice(None), ds.wet.values) if direct.ndim == 3 else slice(None)
    np.testing.assert_allclose(result.prediction.values[wet], direct[wet], rtol=1e-5, atol=1e-6)
    assert abs(result.residual).max() <= 1e-6 * abs(result.prediction).max()
    assert abs(result.attribution).max() > 1e-3


@pytest.mark.parametrize("kind", ["increment and a law", "head"])
def test_a_field_model_keeps_its_laws_in_every_mixture(ds, kind):
    keras.utils.set_random_seed(0)
    ds = ds.assign(tracer=(5 + 0.5 * ds.tracer).assign_attrs(ds.tracer.attrs))
    spec = FieldSpec(["tracer", "u", "v"], "tracer", target_offsets=1, mask="wet", area="cell_area")
    law = Conserve("tracer", ("lat", "lon"), "cell_area")
    settings = {"constraints": law, "penalties": NonNegative("tracer"), "increment": True}
    if kind == "head":
        settings = {"head": Transport(3, {"lat": "closed", "lon": "periodic"}, volume="cell_area")}
    network = chain(L.Dense(3, activation="gelu"), L.Dense(9 if kind == "head" else 1))
    model = FieldModel(network, scaling=Scaling.fit(ds, spec), **settings)
    few = ds.isel(time=slice(0, 3))
    result = Explainer(model, climatology(ds, model.layout), groups(model.layout)).shapley(few)
    assert abs(result.residual).max() <= 1e-6 * abs(result.prediction).max()
    direct = model.predict_on_batch(packed(model.layout, few))[..., 0]
    np.testing.assert_allclose(result.prediction.values[:, ds.wet], direct[:, ds.wet], rtol=1e-5)
    # The total is that of the tracer put in, whatever else is mixed: currents move it about, and add nothing.
    moved = result.attribution.sel(group=["u", "v"])
    assert abs(moved).max() > 1e-3
    np.testing.assert_allclose(moved.weighted(ds.cell_area).sum(("lat", "lon")), 0, atol=2e-5)


def test_after_failures_the_process_trains_and_explains(ds, few, layout):
    class Broken(L.Layer):
        def call(self, x):
            raise RuntimeError("my own fault")

    def refuse(ds):
        raise ZeroDivisionError("mine too")

    good = chain(L.Dense(2, activation="silu"), L.Dense(1))
    ask = lambda model, target=None: Explainer(model, zero(layout), groups(layout), target, layout=layout).shapley(few)  # noqa: E731
    with pytest.raises(ValueError, match=r"the model 'broken.*RuntimeError.*on_tensors"):
        ask(Broken())
    with pytest.raises(ValueError, match=r"expected|failed on the inputs of its layout.*\[row, 4, 6, 3\]"):
        ask(keras.Sequential([keras.Input((4, 6, 2)), L.Dense(1)]))
    with pytest.raises(ZeroDivisionError, match="mine too") as caught:
        ask(refuse)
    assert "named tracer, u, v" in caught.value.__notes__[0]
    with pytest.raises(KeyError, match="unknown output 'salt'"):
        ask(good, "salt")
    with pytest.raises(ValueError, match="is not finite"):
        ask(chain(L.Dense(2), L.Rescaling(np.inf), L.Dense(1)))
    with pytest.raises(ValueError, match="keeps its state"):
        ask(keras.Sequential([keras.Input((4, 18), batch_size=1), L.LSTM(2, stateful=True)]))
    assert trains()
    assert abs(ask(good).residual).max() < 1e-6


def test_a_model_that_was_explained_trains_on_and_its_new_weights_are_explained(few, layout):
    model = chain(L.Dense(2, activation="silu", activity_regularizer="l2"), L.Dense(1))
    explainer = Explainer(model, zero(layout), groups(layout), area_mean(), layout=layout)
    before = explainer.shapley(few)
    model.compile("sgd", "mse")
    model.fit(packed(layout, few), np.ones((3, 4, 6, 1)), verbose=0)
    after = explainer.shapley(few)
    assert abs(after.prediction - before.prediction).max() > 1e-3
    direct = model.predict_on_batch(packed(layout, few))[..., 0]
    np.testing.assert_allclose(
        after.prediction, (direct * layout.weights).sum((1, 2)) / layout.weights.sum(), rtol=1e-5
    )


def test_several_inputs_are_named_after_the_variables(few, layout):
    inputs = {n: keras.Input((4, 6, 1), name=n) for n in ("v", "tracer", "u")}
    y = L.Subtract()([inputs["tracer"], L.Multiply()([inputs["u"], inputs["v"]])])
    x = packed(layout, few)
    expected = x[..., :1] - x[..., 1:2] * x[..., 2:]
    for given in (list(inputs.values()), inputs):
        np.testing.assert_allclose(adapt(keras.Model(given, y), layout)(x), expected, atol=1e-6)
    other = [keras.Input((4, 6, 1), name=n) for n in ("tracr", "u")]
    with pytest.raises(ValueError, match=r"as 'tracr'; did you mean 'tracer'.*on_tensors"):
        adapt(keras.Model(other, L.Add()(other)), layout)


def test_several_outputs_are_a_table_or_fields(few, layout):
    x = keras.Input((4, 6, 3))
    pooled = L.GlobalAveragePooling2D()(x)
    found = adapt(keras.Model(x, {"nino34": L.Dense(1)(pooled), "modes": L.Dense(2)(pooled)}), layout)
    assert sorted(found.outputs.names) == ["modes 0", "modes 1", "nino34"]
    assert found(packed(layout, few)).shape == (3, 3)
    with pytest.raises(ValueError, match=r"cannot be joined.*on_tensors\(lambda x: model\(x\)\["):
        adapt(keras.Model(x, {"a": L.Dense(1)(pooled), "b": L.Dense(2)(x)}), layout)


def test_a_flat_network_is_given_all_valid_inputs_of_a_sample(few, layout):
    model = keras.Sequential([keras.Input((66,)), L.Dense(1)])
    found = adapt(model, layout, outputs=["index"])
    x = packed(layout, few)
    np.testing.assert_allclose(found(x), model.predict_on_batch(x[:, layout.valid("inputs")]), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"takes another number of values.*Expected: 66.*Received: 65"):
        adapt(keras.Sequential([keras.Input((65,)), L.Dense(1)]), layout)


@pytest.mark.parametrize("kind", ["a layer of one's own", "a subclassed model", "batch normalization, dropout"])
def test_models_travel_to_other_processes(ds, few, layout, kind):
    model = chain(Unregistered()) if kind == "a subclassed model" else MODELS[kind]()
    explainer = Explainer(model, climatology(ds, layout), groups(layout), layout=layout)
    first = explainer.shapley(few)
    other = cloudpickle.loads(cloudpickle.dumps(explainer))
    assert other.adapted.network is not None
    for weight in model.weights:  # trained on
        weight.assign(weight * 2)
    again = cloudpickle.loads(cloudpickle.dumps(explainer.adapted))
    np.testing.assert_allclose(again(packed(layout, few)), explainer.adapted(packed(layout, few)), atol=1e-5)
    for weight in model.weights:
        weight.assign(weight / 2)
    xr.testing.assert_allclose(other.shapley(few).drop_attrs(), first.drop_attrs(), atol=1e-6)


def test_a_model_that_cannot_be_saved_says_so(layout):
    class Unsaveable(L.Layer):
        def __init__(self, weight):
            super().__init__()
            self.factor = weight

        def call(self, x):
            return x[..., :1] * self.factor

    found = adapt(Unsaveable(np.ones(1)), layout)
    with pytest.raises(TypeError, match=r"cannot be sent to another process.*get_config.*ds.load\(\)"):
        cloudpickle.loads(cloudpickle.dumps(found))


def test_functions_of_float64_keep_float64(layout):
    found = adapt(on_tensors(lambda x: x[..., :1] + 1e-12), layout)
    x = np.ones((1, 4, 6, 3))
    np.testing.assert_allclose(found(x) - 1, 1e-12, rtol=1e-3)


def test_a_model_may_ask_another(layout):
    inner = adapt(on_tensors(lambda x: 2 * x[..., :1]), layout)
    outer = adapt(lambda d: inner(np.stack([d[n].values for n in "tracer u v".split()], -1))[:, 0, 0, 0], layout)
    found = []
    thread = threading.Thread(target=lambda: found.append(outer(np.ones((3, 4, 6, 3)))), daemon=True)
    thread.start()
    thread.join(10)
    np.testing.assert_array_equal(found, [[[2], [2], [2]]])


def test_channels_that_are_no_targets_are_named(few, layout):
    model = chain(L.Dense(2, activation="softmax"))
    with pytest.raises(ValueError, match=r"another shape.*name its channels: outputs="):
        adapt(model, layout)
    explainer = Explainer(
        model, zero(layout), groups(layout), box_mean("warm", lat=slice(0, 90)), layout=layout, outputs=["cold", "warm"]
    )
    assert explainer.measure.label == "mean of warm over 0° to 90°N, one month ahead"
    assert abs(explainer.shapley(few).residual).max() < 1e-6


class Logistic:
    """A classifier as other libraries make them: no more than the names that scikit-learn gave."""

    classes_ = np.array(["dry", "wet"])

    def __init__(self, coef, names=None):
        self.coef, self.n_features_in_ = coef, len(coef)
        if names is not None:
            self.feature_names_in_ = np.array(names, object)

    def predict(self, x):
        return self.classes_[(self.predict_proba(x)[:, 1] > 0.5).astype(int)]

    def predict_proba(self, x):
        assert np.isfinite(np.asarray(x)).all() and (np.asarray(x) != 0).all()  # never a masked cell
        p = 1 / (1 + np.exp(-np.asarray(x) @ self.coef))
        return np.stack([1 - p, p], 1)


def test_estimators_of_samples_take_all_valid_inputs_in_order(ds, few, layout):
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    valid = layout.valid("inputs")
    x = packed(layout, ds)[:, valid].astype("float64")
    fitted = make_pipeline(StandardScaler(), LinearRegression()).fit(x, x[:, 0] + 2 * x[:, 5])
    result = Explainer(fitted, climatology(ds, layout), groups(layout), layout=layout).shapley(few)
    assert (result.attrs["target"], result.attribution.attrs["units"]) == ("tracer, one step ahead", "kg m-3")
    np.testing.assert_allclose(result.prediction, fitted.predict(x[:3]), rtol=1e-5)
    contribution = (x[:3] - x.mean(0)) * (fitted[-1].coef_ / fitted[0].scale_)
    np.testing.assert_allclose(result.attribution.sel(group="u"), contribution[:, 1::3].sum(1), atol=1e-5)

    wet = Explainer(Logistic(np.ones(66)), climatology(ds, layout), groups(layout), "wet", layout=layout)
    np.testing.assert_allclose(wet.shapley(few).prediction, 1 / (1 + np.exp(-x[:3].sum(1))), rtol=1e-5)
    both = Explainer(Logistic(np.ones(66)), climatology(ds, layout), groups(layout), layout=layout).shapley(few)
    assert both.output.values.tolist() == ["dry", "wet"]
    np.testing.assert_allclose(both.attribution.sum("output"), 0, atol=1e-12)

    fields = LinearRegression().fit(x, x[:, ::3])
    maps = Explainer(fields, climatology(ds, layout), groups(layout), field("tracer"), layout=layout).shapley(few)
    np.testing.assert_allclose(maps.prediction, few.tracer, atol=1e-4)


def test_estimators_of_cells_make_fields(ds, few, layout):
    from sklearn.linear_model import LinearRegression

    x = packed(layout, ds)[:, ds.wet.values].reshape(-1, 3)
    import pandas as pd

    table = pd.DataFrame(x[:, ::-1], columns=["v", "u", "tracer"])
    fitted = LinearRegression().fit(table, 2 * table["tracer"] - table["u"])
    result = Explainer(fitted, zero(layout), groups(layout), layout=layout).shapley(few)
    np.testing.assert_allclose(result.attribution.sel(group="tracer"), 2 * few.tracer, atol=1e-5)
    np.testing.assert_allclose(result.attribution.sel(group="v"), 0 * few.v, atol=1e-5)

    odds = Logistic(np.array([1.0, 0.0, -1.0]), ["tracer", "u", "v"])
    explainer = Explainer(odds, climatology(ds, layout), groups(layout), cell("wet", lat=45, lon=0), layout=layout)
    expected = 1 / (1 + np.exp(-(few.tracer - few.v).sel(lat=45, lon=0)))
    np.testing.assert_allclose(explainer.shapley(few).prediction, expected, rtol=1e-5)
    every = Explainer(odds, climatology(ds, layout), groups(layout), field("dry"), layout=layout).shapley(few)
    np.testing.assert_array_equal(every.attribution.notnull().all(("group", "time")), ds.wet)


@pytest.mark.parametrize(
    "model, error, text",
    [
        (Logistic(np.ones(7)), ValueError, "fit neither a sample nor a cell.*66 .*3 .the channels.*Received: 7"),
        (Logistic(np.ones(3), ["tracr", "u", "v"]), ValueError, "unknown feature 'tracr'; did you mean 'tracer'"),
        (Logistic(np.ones(66), [f"x{i}" for i in range(66)]), ValueError, "names its features.*without names"),
        (type("SVC", (), {"n_features_in_": 3, "predict": 0, "classes_": [0]})(), TypeError, "tells no probabilities"),
        (type("Lasso", (), {"fit": 0, "predict": 0})(), TypeError, "Lasso is not fitted"),
        (3, TypeError, "this is no model"),
    ],
)
def test_models_that_do_not_fit_say_why(layout, model, error, text):
    with pytest.raises(error, match=text):
        adapt(model, layout)


def test_an_estimator_that_fits_both_ways_is_refused(ds):
    ds["spot"] = ds.wet & (ds.lat == 45) & (ds.lon == 0)
    layout = FieldSpec(["tracer", "u"], "tracer", mask="spot").bind(ds)
    with pytest.raises(ValueError, match="fit both a cell and a sample"):
        adapt(Logistic(np.ones(2)), layout)


def test_functions_of_datasets_see_names_space_and_lags(ds, few):
    layout = FieldSpec(
        ["tracer", "time.month"], "tracer", input_offsets={"tracer": (-1, 0)}, mask="wet", area="cell_area"
    ).bind(ds)
    seen = []

    def change(d):
        seen.append(d)
        return (d.tracer.sel(lead=0) - d.tracer.sel(lead=-1)).rename("change").assign_attrs(units="kg m-3 month-1")

    base = samples(ds, layout, 2, seed=0)
    explainer = Explainer(change, base, groups(layout, variable=None, lag=True), field("change"), layout=layout)
    result = explainer.shapley(ds.isel(time=slice(0, 4)).chunk(time=2)).compute()
    expected = ds.tracer.diff("time")[:3]
    np.testing.assert_allclose(result.prediction, expected, atol=1e-6)
    assert (result.attrs["target"], result.attribution.attrs["units"]) == ("change", "kg m-3 month-1")
    assert seen[0].tracer.dims == ("time", "lead", "lat", "lon") and "time" not in seen[0].coords
    assert seen[0].lead.values.tolist() == [-1, 0] and seen[0].lat.attrs == ds.lat.attrs
    np.testing.assert_array_equal(seen[0].tracer[0, 0].notnull(), ds.wet)
    assert seen[0]["time.month"].sizes == seen[0].tracer.sizes


def test_outputs_of_functions_lie_on_the_grid_of_the_inputs_or_on_their_own(ds, few, layout):
    def model(d):
        return xr.Dataset(
            {
                "energy": d.u**2,
                "coarse": d.v.fillna(0).coarsen(lon=2).mean().rename(lon="longitude"),
                "profile": d.u.mean("lon"),
                "index": d.v.isel(lat=3, lon=0),
            }
        )

    area, zonal = ds.cell_area, np.cos(np.deg2rad(ds.lat))
    v = few.v.fillna(0).coarsen(lon=2).mean().rename(lon="longitude")
    expected = [
        (area_mean("energy"), (few.u**2).weighted(area).mean(("lat", "lon"))),
        (box_mean("energy", lat=slice(0, 90)), (few.u**2).sel(lat=slice(0, 90)).weighted(area).mean(("lat", "lon"))),
        (area_mean("profile"), few.u.mean("lon").weighted(zonal).mean("lat")),
        (cell("coarse", lat=45, lon=30), v.sel(lat=45, longitude=30)),
        (box_mean("coarse", lat=slice(0, 90)), None),
        ("index", few.v.isel(lat=3, lon=0)),
        (field("index"), few.v.isel(lat=3, lon=0)),
        ("coarse", v),
        (field("energy"), few.u**2),
    ]
    for target, value in expected:
        result = Explainer(model, zero(layout), groups(layout), target, layout=layout).shapley(few)
        if value is not None:
            np.testing.assert_allclose(result.prediction, value, atol=1e-6)
        assert abs(result.residual).max() < 1e-6
    assert result.lat.attrs == ds.lat.attrs
    bare = adapt(lambda d: d.u.mean(("lat", "lon")).expand_dims(mode=3), layout)
    with pytest.raises(ValueError, match=r"area of the cells of 'u'.*cannot be told.*weighted"):
        bind(area_mean("u"), bare.outputs)


@pytest.mark.parametrize(
    "model, text",
    [
        (lambda d: d.u.mean(), "returned no numbers along 'time'"),
        (lambda d: 3.0, "returned no numbers along 'time'.*Received: float"),
        (lambda d: d.u.isel(time=slice(0, 0)), "returned no numbers along 'time'"),
        (lambda d: d.u.where(d.u > 0), "is defined on other cells"),
        (lambda d: d.u if d.sizes["time"] == 1 else d[["u", "v"]], "other variables than for the baseline"),
    ],
)
def test_functions_that_return_something_else_are_told(few, layout, model, text):
    with pytest.raises(ValueError, match=text):
        Explainer(model, samples(few, layout, 3, 0), groups(layout), lambda d: d.u, layout=layout).shapley(few)


def test_a_number_for_each_row_is_an_output(few, layout):
    found = Explainer(lambda d: d.u.sum(("lat", "lon")).values, zero(layout), groups(layout), layout=layout)
    np.testing.assert_allclose(found.shapley(few).attribution.sel(group="u"), few.u.sum(("lat", "lon")), atol=1e-5)
    with pytest.raises(ValueError, match="names its outputs itself"):
        adapt(lambda d: d.u, layout, outputs=["u"])
