"""One Keras model in physical units: the loss weighs targets alike, masks hold, laws hold, and one file is all of it."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import keras
import numpy as np
import pytest
import xarray as xr

import physml
from physml import Batches, Conserve, FieldModel, FieldSpec, NonNegative, Scaling, Transport, networks

CLOSED = {"lat": "closed", "lon": "closed"}
LAWS = [NonNegative("tracer"), Conserve("tracer", ("lat", "lon"), weights="cell_volume", sources="source")]
SPEC = FieldSpec(
    ["tracer", "u", "v", "source"], "tracer", target_offsets=1, members="run", mask="wet", area="cell_area"
)


def awake(model, seed=0):
    """Give the zero-started last layer random weights, so that the network says something."""
    rng = np.random.default_rng(seed)
    for variable in model.network.layers[-1].trainable_variables:
        variable.assign(rng.normal(0, 0.5, variable.shape))
    return model


@pytest.fixture(scope="module")
def scaling(gyre):
    return Scaling.fit(gyre, SPEC)


@pytest.fixture(scope="module")
def batch(gyre, scaling):
    return Batches(gyre, scaling.layout, 16, shuffle=True)[0]


def make(scaling, **options):
    network = networks.cnn(scaling.layout, boundary=CLOSED, filters=4, blocks=1)
    return awake(FieldModel(network, scaling=scaling, **options))


def fit(model, batch, **options):
    x, y, w = batch
    return model.fit(x, y, sample_weight=w, verbose=0, **options).history["loss"]


def plain(config):
    """Return what is left of a configuration in JSON: lists for tuples, and no names that Keras counts."""
    return json.loads(json.dumps({k: v for k, v in config.items() if k != "network"}))


def weather():
    """Return pressure [Pa] and humidity [1], of magnitudes 1e5 and 1e-3, on two levels with land and unlike areas."""
    rng = np.random.default_rng(0)
    wet = np.ones((3, 5), bool)
    wet[0, :2] = False
    ds = xr.Dataset(
        {
            "p": (("time", "lat", "lon"), 101325 + 500 * rng.normal(size=(9, 3, 5))),
            "q": (("time", "lev", "lat", "lon"), 1e-3 * rng.random((9, 2, 3, 5))),
        },
        {"time": xr.date_range("2000-01-01", periods=9), "lev": [1000.0, 500.0]},
    ).where(xr.DataArray(wet, dims=("lat", "lon")))
    ds["wet"] = (("lat", "lon"), wet)
    ds["area"] = (("lat", "lon"), rng.uniform(1, 3, (3, 5)))
    ds["wet3"] = ds.wet & ((ds.lev > 600) | (ds.lat > 0))
    return ds


def obeys(model, x, y, gyre):
    volume = np.where(gyre.wet, gyre.cell_volume, 0)
    x, y = x.astype("float64"), np.asarray(y, "float64")
    want = ((x[..., 0] + 86400 * x[..., 3]) * volume).sum((1, 2))
    np.testing.assert_allclose((y[..., 0] * volume).sum((1, 2)), want, rtol=1.5e-7)
    assert y.min() >= 0
    assert not y[:, ~gyre.wet.values].any()


# loss and masks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [None, "wet", "wet3"])
@pytest.mark.parametrize("units", ["scaled", "physical"])
def test_the_loss_is_the_area_mean_over_valid_cells_in_scaled_units(mask, units):
    ds = weather()
    ds = ds.fillna(ds.mean()) if mask is None else ds.assign(q=ds.q.where(ds[mask]))
    spec = FieldSpec(["p", "q"], ["p", "q"], target_offsets=1, levels="lev", mask=mask, area="area")
    scaling = Scaling.fit(ds, spec)
    model = awake(FieldModel(networks.mlp(scaling.layout, hidden=(4,)), scaling=scaling, loss_units=units))
    model.compile(loss="mse", weighted_metrics=["mae"])
    x, y, w = Batches(ds, scaling.layout, 8)[0]
    found = model.evaluate(x, y, sample_weight=w, verbose=0, return_dict=True)
    error = (model.predict_on_batch(x) - y).astype("float64")
    if units == "scaled":
        error = error / np.array([*scaling.std["p"], *scaling.std["q"]])
    valid = scaling.layout.valid("targets")
    weight = np.broadcast_to(ds.area.values[..., None] * valid, error.shape)
    np.testing.assert_allclose(found["loss"], (weight * error**2).sum() / weight.sum(), rtol=1e-4)
    np.testing.assert_allclose(found["mae"], (weight * abs(error)).sum() / weight.sum(), rtol=1e-4)
    if units == "scaled":  # both targets weigh alike: an error of one standard deviation is 1 in each
        parts = (weight * error**2).sum((0, 1, 2)) / weight.sum((0, 1, 2))
        assert parts.max() / parts.min() < 30


def test_garbage_on_masked_cells_changes_nothing(gyre, scaling, batch):
    model = make(scaling, constraints=LAWS)
    model.compile("sgd", "mse")
    x, y, w = batch
    bad = [a.copy() for a in (x, y)]
    for a, rubbish in zip(bad, (np.nan, 1e30), strict=True):
        a[:, ~gyre.wet.values] = rubbish
    np.testing.assert_array_equal(model.predict_on_batch(bad[0]), model.predict_on_batch(x))
    assert model.evaluate(*bad, sample_weight=w, verbose=0) == model.evaluate(x, y, sample_weight=w, verbose=0)
    before = model.get_weights()
    model.train_on_batch(*bad, sample_weight=w)
    dirty = model.get_weights()
    model.set_weights(before)
    model.train_on_batch(x, y, sample_weight=w)
    for a, b in zip(dirty, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_increment_keeps_small_anomalies_of_a_large_field():
    rng = np.random.default_rng(0)
    walk = 101325 + np.cumsum(rng.normal(size=(60, 8)), axis=0) + 3000 * np.linspace(-1, 1, 8)
    ds = xr.Dataset({"p": (("time", "x"), walk, {"units": "Pa"})}, {"time": xr.date_range("2000-01-01", periods=60)})
    scaling = Scaling.fit(ds, FieldSpec("p", "p", target_offsets=(1, 2)))
    model = FieldModel(networks.mlp(scaling.layout, hidden=(4,)), scaling=scaling, increment=True)
    x, y, w = Batches(ds, scaling.layout, 58)[0]
    np.testing.assert_array_equal(model.predict_on_batch(x), np.repeat(x, 2, -1))  # silent: persistence, exactly
    model.compile(keras.optimizers.Adam(0.02), "mse")
    change = (walk[1:59] - walk[:58]) / scaling.increment["p"][0], (walk[2:60] - walk[:58]) / scaling.increment["p"][1]
    np.testing.assert_allclose(model.evaluate(x, y, sample_weight=w, verbose=0), np.mean(np.square(change)), rtol=1e-3)
    ds["p"] = ds.p.copy(data=walk[:1] + np.arange(60.0)[:, None] * 1.0 + 0.5 * (np.arange(60) % 2)[:, None])
    x, y, w = Batches(ds, scaling.layout, 58)[0]
    first, *_, last = model.fit(x, y, sample_weight=w, epochs=40, verbose=0).history["loss"]
    assert last < 0.2 * first


# training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("increment", [False, True])
def test_the_laws_hold_before_and_after_training(gyre, scaling, batch, increment):
    model = make(scaling, constraints=LAWS, increment=increment)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    obeys(model, batch[0], model.predict_on_batch(batch[0]), gyre)
    batches = Batches(gyre, scaling.layout, 8, shuffle=True)
    history = model.fit(batches, epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    obeys(model, batch[0], model.predict_on_batch(batch[0]), gyre)


def test_training_is_a_function_of_the_seed_and_counts_epochs_as_keras_does(gyre, scaling):
    seen = []

    class Recorded(Batches):
        def batch(self, epoch, index):
            seen.append((epoch, index))
            return super().batch(epoch, index)

    losses, state = [], random.getstate()
    for _ in range(2):
        model = make(scaling)
        model.compile("adam", "mse")
        batches = Recorded(gyre, scaling.layout, 10, shuffle=True, seed=3)
        losses.append(model.fit(batches, epochs=2, verbose=0).history["loss"])
    assert losses[0] == losses[1]
    assert random.getstate() == state
    assert seen[-6:] == [(e, i) for e in (0, 1) for i in range(3)]
    model.fit(batches, initial_epoch=2, epochs=3, verbose=0, callbacks=keras.callbacks.TerminateOnNaN())
    assert seen[-3:] == [(2, i) for i in range(3)]


def test_batches_that_are_changed_on_their_way_are_what_a_model_is_trained_on(gyre, scaling):
    asked = []

    class Changed(Batches):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    model = make(scaling)
    model.compile("adam", "mse")
    batches = Changed(gyre, scaling.layout, 10)
    model.fit(batches, epochs=1, verbose=0)
    assert set(asked) == set(range(len(batches)))


def test_plain_numpy_arrays_train_it(scaling, batch):
    model = make(scaling)
    model.compile("adam", "mse")
    x, y, _ = batch
    history = model.fit(x, y, batch_size=8, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_penalties_enter_the_loss_and_leave_the_output(gyre, scaling, batch):
    x, y, w = batch
    soft, free = make(scaling, penalties=LAWS, penalty=100.0), make(scaling)
    for model in (soft, free):
        model.compile("sgd", "mse")
    out = free.predict_on_batch(x)
    np.testing.assert_array_equal(soft.predict_on_batch(x), out)
    layout = soft.layout
    expected = float(soft.penalties.loss(layout.split(out, "targets"), layout.split(x, "inputs"), layout))
    added = soft.evaluate(x, y, sample_weight=w, verbose=0) - free.evaluate(x, y, sample_weight=w, verbose=0)
    assert expected > 0
    np.testing.assert_allclose(added, 100 * expected, rtol=1e-3)
    soft(x)
    soft(x)
    assert len(soft.losses) == 1


def test_half_precision_inside_keeps_the_budget_outside(gyre, scaling, batch):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = make(scaling, constraints=LAWS)
        step = physml.FieldStep(model)
    finally:
        keras.config.set_dtype_policy("float32")
    x = batch[0]
    assert model.network.layers[2].compute_dtype == "float16"
    model.compile("adam", "mse")
    fit(model, batch, epochs=1)
    obeys(model, x, model.predict_on_batch(x), gyre)
    y = np.asarray(step(x[..., :1], x[..., 1:]))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, model.predict_on_batch(x), atol=1e-2)


def test_any_network_fits_in_the_middle(scaling, batch):
    @keras.saving.register_keras_serializable(package="test_model")
    class Own(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = keras.layers.Dense(1)

        def call(self, x, training=None):
            return self.dense(x)

    for network in (Own(), keras.layers.Dense(1), keras.Sequential([keras.layers.Dense(1)])):
        model = FieldModel(network, scaling=scaling, constraints=LAWS)
        assert model.predict_on_batch(batch[0]).shape == (16, 12, 16, 1)
        assert len(model.trainable_variables) == 2


# saving --------------------------------------------------------------------------------------------------------------

ELSEWHERE = """
import sys
import numpy as np
import physml
folder = sys.argv[1]
for name in sys.argv[2:]:
    model = physml.load(f"{folder}/{name}.keras")
    np.save(f"{folder}/{name}.npy", model.predict_on_batch(np.load(f"{folder}/x.npy")))
    print(model.layout.spec.mask, [type(law).__name__ for law in model.constraints], model.provenance["source"])
"""


@pytest.mark.long
def test_one_file_is_the_whole_model_in_another_process(gyre, scaling, batch, tmp_path):
    origin = {"source": "gyre"}
    head = Transport(3, CLOSED, volume="cell_volume", balance=1)
    network = networks.cnn(scaling.layout, boundary=CLOSED, filters=4, blocks=1, outputs=9, coast=True)
    models = {
        "projected": make(scaling, constraints=LAWS, increment=True, provenance=origin),
        "transport": awake(FieldModel(network, scaling=scaling, head=head, provenance=origin)),
    }
    np.save(tmp_path / "x.npy", batch[0])
    for name, model in models.items():
        model.compile("adam", "mse")
        fit(model, batch, epochs=1)
        model.save(tmp_path / f"{name}.keras")
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, str(tmp_path), *models], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["wet ['NonNegative', 'Conserve'] gyre", "wet [] gyre"]
    for name, model in models.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), model.predict_on_batch(batch[0]))


def test_a_loaded_model_predicts_the_same_labels_and_trains_on(gyre, scaling, batch, tmp_path):
    model = make(scaling, constraints=LAWS)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    fit(model, batch, epochs=2)
    model.save(tmp_path / "model.keras")
    again = physml.load(tmp_path / "model.keras")
    assert plain(again.get_config()) == plain(model.get_config())
    xr.testing.assert_identical(
        physml.predict(again, gyre).drop_attrs(deep=False), physml.predict(model, gyre).drop_attrs(deep=False)
    )
    for m in (model, again):
        fit(m, batch, epochs=2, shuffle=False)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_levels_names_calendars_attributes_and_own_weights_are_saved(tmp_path):
    rng = np.random.default_rng(0)
    time = xr.date_range("2000-01-30", periods=8, freq="ME", calendar="noleap", use_cftime=True)
    c = rng.random((8, 2, 3, 5)).astype("float32")
    ds = xr.Dataset(
        {"c": (("time", "species", "depth", "x"), c, {"units": "mol m-3", "flag_values": np.array([1, 2])})},
        {"time": time, "species": ["no3", "po4"], "depth": ("depth", [5.0, 15.0, 40.0], {"units": "m"}), "x": range(5)},
    )
    weights = xr.DataArray([1.0, 2.0, 5.0], dims="depth", coords={"depth": ds.depth})
    spec = FieldSpec("c", "c", target_offsets=1, levels={"species": None, "depth": [40.0, 5.0]})
    scaling = Scaling.fit(ds, spec)
    laws = [NonNegative("c"), Conserve("c", ("x", "depth", "species"), weights=weights)]
    model = awake(FieldModel(networks.mlp(scaling.layout, hidden=(4,)), scaling=scaling, constraints=laws))
    model.save(tmp_path / "model.keras")
    expected = physml.predict(model, ds)
    found = physml.predict(tmp_path / "model.keras", ds)
    xr.testing.assert_identical(found.drop_attrs(deep=False), expected.drop_attrs(deep=False))
    assert found.species.values.tolist() == ["no3", "po4"]
    assert found.depth.values.tolist() == [40.0, 5.0]
    assert found.depth.attrs["units"] == "m"
    assert found.c.dims == ("time", "species", "depth", "x")
    np.testing.assert_array_equal(found.time[:-1], ds.time[1:])
    assert str(found.time.values[-1]) == "2000-09-30 00:00:00"
    w = weights.sel(depth=[40.0, 5.0])
    total = [(w * f.astype("float64")).sum(["species", "depth", "x"]) for f in (ds.c.sel(depth=[40.0, 5.0]), found.c)]
    np.testing.assert_allclose(total[1], total[0], rtol=2e-7)


def test_the_config_survives_json(scaling, batch):
    model = make(scaling, constraints=LAWS, increment=True, provenance={"source": "here"}, name="small")
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    again = keras.saving.deserialize_keras_object(config)
    assert plain(again.get_config()) == plain(model.get_config())
    assert again.provenance == model.provenance
    assert list(again.constraints) == LAWS
    np.testing.assert_array_equal(again.scaling.vector("increment", "targets"), scaling.vector("increment", "targets"))


# refusals ------------------------------------------------------------------------------------------------------------


def test_files_that_are_no_model_are_refused(scaling, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model at .*missing.keras.*check the path"):
        physml.load(tmp_path / "missing.keras")
    path = tmp_path / "model.keras"
    make(scaling).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"the model at .*model.keras' cannot be read.*copy the file again"):
        physml.load(path)
    start = keras.Input((3,))
    keras.Model(start, keras.layers.Dense(1)(start)).save(tmp_path / "plain.keras")
    with pytest.raises(ValueError, match=r"is no FieldModel. Expected: physml.FieldModel. Received: Functional"):
        physml.load(tmp_path / "plain.keras")


def channels(n_in, n_out):
    start = keras.Input((12, 16, n_in))
    return keras.Model(start, keras.layers.Dense(n_out)(start))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda s: FieldModel(channels(4, 2), scaling=s), r"output does not fit the targets. Expected: \[batch, 12, 16, 1\] for tracer \+1.*Received: \['batch', 12, 16, 2\]"),
        (lambda s: FieldModel(channels(3, 1), scaling=s), r"does not take the inputs. Expected: \[batch, 12, 16, 4\] for tracer, u, v, source.*12, 16, 3\]"),
        (lambda s: FieldModel(channels(4, 1), scaling=s, head=Transport(3, CLOSED)), r"does not fit the head Transport. Expected: \[batch, 12, 16, 9\]"),
        (lambda s: FieldModel(channels(4, 1), scaling=s, head=Transport(3, CLOSED, volume="cel_volume")), r"'cel_volume' is not in the Dataset; did you mean 'cell_volume'"),
        (lambda s: FieldModel(channels(4, 1), SPEC), r"does not know the grid. Expected: scaling=Scaling.fit"),
        (lambda s: FieldModel(channels(4, 1), FieldSpec("u", "u"), s), r"the scaling was fitted to another spec"),
        (lambda s: FieldModel(channels(4, 1), scaling=s, loss_units="normalised"), r"loss_units is not understood.*'scaled' or 'physical'"),
        (lambda s: FieldModel(channels(4, 1), scaling=s, dtype="mixed_float16"), r"cannot hold physical units in half precision.*'mixed_float16'"),
        (lambda s: FieldModel(channels(4, 1), scaling=s, constraints=[NonNegative("trace")]), r"'trace', which is no target; did you mean 'tracer'"),
        (lambda s: physml.model.make_head({"type": "Advect"}), r"unknown head 'Advect'. Expected: one of .*FluxForm.*Transport.*Received: 'Advect'"),
    ],
)  # fmt: skip
def test_models_that_do_not_fit_together_are_refused(scaling, make, words):
    with pytest.raises((ValueError, KeyError), match=words):
        make(scaling)


def test_without_a_scaling_units_pass_unchanged(scaling, batch):
    network = keras.layers.Dense(1, kernel_initializer="ones", use_bias=False)
    model = FieldModel(network, scaling.layout)
    expected = batch[0].sum(-1, keepdims=True) * scaling.layout.valid("targets")
    np.testing.assert_allclose(model.predict_on_batch(batch[0]), expected, rtol=1e-5, atol=1e-6)


# maps of other sizes, and missing inputs -----------------------------------------------------------------------------


def free(scaling, **options):
    network = networks.cnn(scaling.layout, boundary=CLOSED, filters=4, blocks=1, any_size=True)
    return awake(FieldModel(network, scaling=scaling, **options))


def test_on_its_own_grid_a_model_of_any_size_is_the_model_of_that_grid(scaling, batch, tmp_path):
    fixed, loose = make(scaling, increment=True), free(scaling, increment=True)
    loose.set_weights(fixed.get_weights())
    x, y, w = batch
    np.testing.assert_allclose(loose.predict_on_batch(x), fixed.predict_on_batch(x), atol=1e-6)
    for model in (fixed, loose):
        model.compile("sgd", "mse", weighted_metrics=["mae"])
    found, wanted = (m.evaluate(x, y, sample_weight=w, verbose=0) for m in (loose, fixed))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    loose.save(tmp_path / "model.keras")
    again = physml.load(tmp_path / "model.keras")
    assert again.free_size
    np.testing.assert_array_equal(again.predict_on_batch(x[:, :5, :7]), loose.predict_on_batch(x[:, :5, :7]))


def test_on_a_patch_masked_cells_are_nan_and_weights_are_the_mask(gyre, scaling, batch):
    model = free(scaling)
    model.compile("sgd", "mse")
    rows, columns = slice(2, 10), slice(3, 14)
    x, y, w = (a[:, rows, columns] for a in batch)
    wet = gyre.wet.values[rows, columns]
    assert not wet.all()
    marked = np.where(wet[..., None], x, np.nan).astype("float32")
    out = model.predict_on_batch(marked)
    assert np.isfinite(out).all()
    assert out.shape == (*x.shape[:-1], 1)
    # Scaled, a masked cell is 0 as on the whole grid: the mean.
    mean = scaling.vector("mean", "inputs").astype("float32")
    np.testing.assert_allclose(out, model.predict_on_batch(np.where(wet[..., None], x, mean)), atol=1e-5)
    rubbish = np.where(wet[..., None], y, 1e9).astype("float32")
    losses = [model.evaluate(marked, t, sample_weight=w, verbose=0) for t in (y, rubbish)]
    assert losses[0] == losses[1]
    error = (out - y)[..., 0] / scaling.std["tracer"][0]
    np.testing.assert_allclose(losses[0], (w * error**2).mean(), rtol=1e-3)
    before = model.evaluate(marked, y, sample_weight=w, verbose=0)
    model.fit(marked, y, sample_weight=w, epochs=3, verbose=0)
    assert model.evaluate(marked, y, sample_weight=w, verbose=0) < before


def test_patches_of_several_sizes_pass_one_model(scaling, batch):
    model = free(scaling)
    x = batch[0]
    whole = model.predict_on_batch(x)
    for size in ((4, 5), (6, 5), (9, 16), (12, 16)):
        assert model.predict_on_batch(x[:, : size[0], : size[1]]).shape == (len(x), *size, 1)
    np.testing.assert_array_equal(model.predict_on_batch(x), whole)


def test_the_kind_of_a_missing_input_decides_what_becomes_of_it(gyre, scaling, batch, tmp_path):
    x = batch[0].copy()
    i, j = np.argwhere(gyre.wet.values)[3]
    x[:, i, j, 1] = np.nan
    loud, mean = make(scaling), make(scaling, missing="mean")
    one = batch[0].copy()
    one[2] = x[2]
    spoilt = np.isnan(loud.predict_on_batch(one)).any((1, 2, 3))
    assert spoilt.tolist() == [n == 2 for n in range(len(one))]  # and its sample alone
    out = mean.predict_on_batch(x)
    filled = x.copy()
    filled[:, i, j, 1] = scaling.mean["u"][0]
    np.testing.assert_allclose(out, loud.predict_on_batch(filled), atol=1e-6)
    holed = gyre.copy(deep=True)
    holed["u"][..., i, j] = np.nan
    with pytest.raises(ValueError, match="missing on valid cells"):
        physml.predict(loud, holed)
    fields = physml.predict(mean, holed)
    assert (fields.tracer.isnull() == ~gyre.wet).all()
    mean.save(tmp_path / "model.keras")
    xr.testing.assert_identical(physml.predict(tmp_path / "model.keras", holed).drop_attrs(), fields.drop_attrs())
    step = make(scaling, missing="mean", increment=True)
    x[:, i, j, 0] = np.nan  # the state itself: a change of its mean
    filled[:, i, j, 0] = scaling.mean["tracer"][0]
    np.testing.assert_allclose(
        step.predict_on_batch(x), make(scaling, increment=True).predict_on_batch(filled), atol=1e-5
    )


def test_batches_are_told_to_mark_what_is_missing(gyre, scaling):
    for options, marked in (({}, False), ({"missing": "mean"}, True)):
        batches = Batches(gyre, scaling.layout, 16)
        batches.fill = 0.0
        model = make(scaling, **options)
        model.compile("sgd", "mse")
        model.fit(batches, epochs=1, verbose=0)
        assert np.isnan(batches.fill) == marked


def test_what_needs_the_whole_grid_is_refused_for_any_size(scaling):
    for options in ({"constraints": LAWS}, {"penalties": LAWS}):
        with pytest.raises(
            ValueError, match=r"maps of any size.*Received: Conserve.*a law with fields of the whole grid"
        ):
            free(scaling, **options)
    network = networks.cnn(scaling.layout, boundary=CLOSED, filters=4, blocks=1, outputs=9, any_size=True)
    with pytest.raises(ValueError, match=r"maps of any size.*the head Transport"):
        FieldModel(network, scaling=scaling, head=Transport(3, CLOSED))
    assert free(scaling, constraints=LAWS[:1]).free_size
    with pytest.raises(ValueError, match=r"missing is not understood. Expected: 'raise' or 'mean'. Received: 'fill'"):
        make(scaling, missing="fill")
