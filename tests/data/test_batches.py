"""A batch holds the data at the right times and members, in an order known beforehand; masked cells weigh nothing."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import physml
from physml import Batches, FieldModel, FieldSpec, Patches, Scaling, networks


def numbered(n_time=11, runs=3):
    """Return data whose value tells run, time and cell."""
    t, r, x = np.arange(n_time), np.arange(runs), np.arange(4)
    values = 1000 * r[:, None, None] + 10 * t[None, :, None] + x[None, None, :]
    return xr.Dataset(
        {"a": (("run", "time", "x"), values.astype("float64")), "b": (("time", "x"), 0.5 + values[0])},
        {"time": t, "run": r, "x": x * 1.0},
    )


@settings(max_examples=30)
@given(
    inputs=st.sampled_from([(0,), (-1, 0), (-2,)]),
    targets=st.sampled_from([(1,), (1, 3), (0,)]),
    batch_size=st.integers(1, 9),
    shuffle=st.booleans(),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 2),
    chunks=st.sampled_from([None, {"time": 3}, {"run": 2, "time": 4}]),
)
def test_every_sample_comes_once_at_its_offsets_and_member(inputs, targets, batch_size, shuffle, seed, epoch, chunks):
    ds = numbered()
    spec = FieldSpec(["a", "b"], "a", input_offsets=inputs, target_offsets=targets, members="run")
    batches = Batches(ds if chunks is None else ds.chunk(chunks), spec, batch_size, shuffle=shuffle, seed=seed)
    batches.epoch = epoch
    whole = [batches[i] for i in range(len(batches))]
    sizes = [len(x) for x, y, w in whole]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    x, y, w = (np.concatenate(part) for part in zip(*whole, strict=True))
    low, high = spec.window()
    times = range(max(0, -low), 11 - max(0, high))
    assert len(x) == batches.n_samples == 3 * len(times)
    seen = set()
    for xi, yi in zip(x, y, strict=True):
        run = int(xi[0, 0] // 1000)
        now = int(xi[0, 0] % 1000 // 10) - inputs[0]
        seen.add((run, now))
        cells = np.arange(4)
        expected = [1000 * run + 10 * (now + o) + cells for o in inputs] + [
            0.5 + 10 * (now + o) + cells for o in inputs
        ]
        np.testing.assert_array_equal(xi, np.stack(expected, -1))
        np.testing.assert_array_equal(yi, np.stack([1000 * run + 10 * (now + o) + cells for o in targets], -1))
    assert seen == {(r, t) for r in range(3) for t in times}
    assert (w == 1).all()
    order = np.arange(len(x)) if not shuffle else np.random.default_rng([seed, epoch]).permutation(len(x))
    np.testing.assert_array_equal(batches.order(), order)


def test_the_last_batch_is_dropped_only_when_asked():
    spec = FieldSpec("b", "b")
    assert [len(b[0]) for b in (Batches(numbered(), spec, 4)[i] for i in range(3))] == [4, 4, 3]
    assert len(Batches(numbered(), spec, 4, drop_remainder=True)) == 2
    assert Batches(numbered(), spec, 4)[-1][0][0, 0, 0] == 80.5


def test_fit_draws_a_new_known_order_every_epoch():
    drawn = []

    class Recorded(Batches):
        def __getitem__(self, index):
            drawn.append((self.epoch, index))
            return super().__getitem__(index)

    batches = Recorded(numbered(), FieldSpec("b", "b"), 4, shuffle=True, seed=7)
    start = keras.Input((4, 1))
    model = keras.Model(start, keras.layers.Dense(1)(start))
    model.compile(loss="mse", run_eagerly=True)
    model.fit(batches, epochs=3, verbose=0, shuffle=False)
    epochs = [drawn[-9:-6], drawn[-6:-3], drawn[-3:]]
    assert [[i for _, i in e] for e in epochs] == [[0, 1, 2]] * 3
    assert all(len({e for e, _ in epoch}) == 1 for epoch in epochs)
    assert len({epoch[0][0] for epoch in epochs}) == 3
    assert (batches.order(0) != batches.order(1)).any()


def test_masked_cells_hold_zero_and_weigh_nothing(sst):
    spec = FieldSpec(["temp", "bathymetry"], "salt", levels="depth", mask="wet", area="area")
    x, y, w = Batches(sst.assign(bathymetry=sst.bathymetry.where(sst.wet)), spec, 5)[1]
    dry = ~sst.wet.values
    assert x.shape == (5, 4, 6, 3)
    assert x.dtype == y.dtype == w.dtype == np.float32
    assert not x[:, dry].any()
    assert not y[:, dry].any()
    assert not w[:, dry].any()
    np.testing.assert_array_equal(x[:, ~dry][..., 1], sst.temp[5:10, 1].values[:, ~dry])
    np.testing.assert_allclose(w.mean(), 1, rtol=1e-6)
    np.testing.assert_allclose(w[0][~dry] / w[0, 0, 0], sst.area.values[~dry] / float(sst.area[0, 0]), rtol=1e-6)


def test_a_mask_with_levels_gives_weights_by_channel(sst):
    sst["wet3"] = sst.wet & ((sst.depth < 10) | (sst.lat > 0))
    sst["temp"] = sst.temp.where(sst.wet3)
    spec = FieldSpec("temp", "temp", levels="depth", mask="wet3", area="area")
    _, y, w = Batches(sst, spec, 2)[0]
    assert w.shape == y.shape == (2, 4, 6, 2)
    valid = sst.wet3.transpose("lat", "lon", "depth").values
    expected = sst.area.values[..., None] * valid
    np.testing.assert_allclose(w[0], expected / expected.mean(), rtol=1e-6)


def test_setting_up_reads_nothing_and_lazy_batches_are_the_same(sst, nothing_computed):
    spec = FieldSpec(["temp", "bathymetry"], "salt", levels="depth", mask="wet", area="area", target_offsets=1)
    with nothing_computed():
        lazy = Batches(sst.chunk(time=5, lat=2), spec, 7, shuffle=True, seed=1)
        assert len(lazy) == 4
    eager = Batches(sst, spec, 7, shuffle=True, seed=1)
    for i in range(4):
        for a, b in zip(lazy[i], eager[i], strict=True):
            np.testing.assert_array_equal(a, b)


def test_batches_read_files_opened_without_dask(sst, tmp_path):
    sst.to_netcdf(tmp_path / "sst.nc")
    spec = FieldSpec("temp", "salt", levels="depth", mask="wet")
    with xr.open_dataset(tmp_path / "sst.nc") as ds:
        for a, b in zip(Batches(ds, spec, 7)[1], Batches(sst, spec, 7)[1], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_missing_on_a_valid_cell_is_named(sst, value):
    sst["salt"][9, 0, 1:3] = value
    batches = Batches(sst, FieldSpec("salt", "salt", target_offsets=1, mask="wet"), 4)
    batches[0]
    with pytest.raises(
        ValueError, match=r"input 'salt' is missing on valid cells at time 2000-10-15.*Received: 2 cells"
    ):
        batches[2]


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        ({"target_offsets": 11}, {}, r"holds no batch. Expected: windows of offsets 0 to 11.*Received: 0 samples"),
        ({}, {"batch_size": 12, "drop_remainder": True}, r"holds no batch.*drop_remainder=False"),
        ({}, {"batch_size": 0}, r"batch_size is not positive. Expected: >= 1. Received: 0"),
    ],
)
def test_an_empty_selection_is_refused(spec, options, words):
    with pytest.raises(ValueError, match=words):
        Batches(numbered(), FieldSpec("b", "b", **spec), **options)


def test_areas_without_weight_are_refused(sst):
    sst["area"] = sst.area * 0
    with pytest.raises(ValueError, match=r"no valid cell carries weight.*total area 0"):
        Batches(sst, FieldSpec("salt", "salt", mask="wet", area="area"))[0]


def test_a_batch_out_of_range_is_an_index_error():
    with pytest.raises(IndexError, match="batch 3 of 3"):
        Batches(numbered(), FieldSpec("b", "b"), 4)[3]


@pytest.fixture
def stored(tmp_path):
    """Return two runs of 40 maps in a store of small chunks, read a few at a time."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 40, 6, 8)).astype("float32").cumsum(1)
    ds = xr.Dataset({"a": (("run", "time", "y", "x"), values)}, {"time": np.arange(40), "run": [0, 1]})
    ds.to_zarr(tmp_path / "a.zarr", consolidated=False, encoding={"a": {"chunks": (1, 7, 6, 8)}})
    return xr.open_zarr(tmp_path / "a.zarr", consolidated=False)


STEP = FieldSpec("a", "a", members="run", target_offsets=1)
FEW = 30 * 6 * 8 * 4


def linear(scaling):
    return keras.Sequential([keras.Input((*scaling.layout.shape, 1)), keras.layers.Conv2D(1, 1)])


def test_a_model_learns_the_same_from_a_store_and_from_tensors(stored):
    scaling = Scaling.fit(stored, STEP)
    trained = []
    for kind in ("batches", "by hand"):
        keras.utils.set_random_seed(0)
        model = FieldModel(linear(scaling), scaling=scaling)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        batches = Batches(stored, STEP, 8, shuffle=True, seed=3, memory=FEW)
        assert len(batches.plan().groups) > 2
        if kind == "batches":
            history = model.fit(batches, epochs=3, verbose=0, validation_data=Batches(stored, STEP, 8))
            assert len(history.history["val_loss"]) == 3
            assert batches.epoch == 3
        else:
            for epoch in range(3):
                for x, y, w in batches.iterate(epoch):
                    model.train_on_batch(x, y, w)
        batches.close()
        trained.append([np.asarray(v) for v in model.trainable_variables])
    for a, b in zip(*trained, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.data feeds TensorFlow")
def test_tf_data_holds_the_batches_goes_on_and_begins_the_next_epoch(stored):
    batches = Batches(stored, STEP, 8, shuffle=True, seed=3, memory=FEW)
    data = batches.tf_data(start=4)
    first = list(data.as_numpy_iterator())
    second = list(data.as_numpy_iterator())
    for got, wanted in ((first, batches.iterate(0, 4)), (second, batches.iterate(1))):
        for left, right in zip(got, wanted, strict=True):
            for a, b in zip(left, right, strict=True):
                np.testing.assert_array_equal(a, b)
    assert batches.epoch == 2
    assert int(batches.tf_data().cardinality()) == len(batches)
    assert len(next(iter(batches.tf_data(weights=False)))) == 2
    fixed = batches.tf_data(epoch=5)
    for _ in range(2):
        np.testing.assert_array_equal(next(fixed.as_numpy_iterator())[0], batches.batch(5, 0)[0])
    batches.close()


def test_batches_begin_where_tensorflow_takes_them_over(stored):
    for tensors in (Batches(stored, STEP, 3)[0], Batches(stored.load(), STEP, 5)[1]):
        assert [t.ctypes.data % 64 for t in tensors] == [0, 0, 0]


@pytest.mark.parametrize("workers", [1, 2])
def test_any_keras_model_is_fed_in_order(stored, workers):
    seen = []

    class Recorded(Batches):
        def batch(self, epoch, index):
            x, y, w = super().batch(epoch, index)
            seen.append((index, float(x[0, 0, 0, 0])))
            return x, y, w

    model = linear(Scaling.identity(STEP.bind(stored)))
    model.compile("sgd", "mse")
    with Recorded(stored, STEP, 8, memory=FEW, workers=workers) as batches:
        model.fit(batches, epochs=1, verbose=0, shuffle=False)
        expected = {i: float(batches[i][0][0, 0, 0, 0]) for i in range(len(batches))}
    assert all(expected[i] == value for i, value in seen)
    assert set(expected) == {i for i, _ in seen}


def test_what_a_reader_raises_ends_the_training_as_it_is(stored, tmp_path):
    scaling = Scaling.fit(stored, STEP)
    model = FieldModel(linear(scaling), scaling=scaling)
    model.compile("sgd", "mse")
    batches = Batches(stored, STEP, 8, memory=FEW)
    chunk = tmp_path / "a.zarr" / "a" / "c" / "1" / "4" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    with batches, pytest.raises(OSError, match=r"^'a': zarr array .*: chunk \(1, 4, 0, 0\) cannot be read") as caught:
        model.fit(batches, epochs=2, verbose=0)
    assert "Traceback" not in str(caught.value)


def test_patches_train_a_model_of_any_size_that_predicts_whole_maps(sst):
    ds = sst.assign(temp=sst.temp.where(sst.wet, np.nan))
    spec = FieldSpec(["temp", "bathymetry"], "salt", levels="depth", mask="wet", area="area")
    scaling = Scaling.fit(ds, spec)
    boundary = {"lat": "closed", "lon": "periodic"}
    network = networks.cnn(scaling.layout, boundary=boundary, filters=4, blocks=1, first_kernel_size=3, any_size=True)
    model = FieldModel(network, scaling=scaling)
    model.compile("adam", "mse")
    patches = Patches({"lat": 3, "lon": 4}, per_sample=2, periodic="lon", min_valid=0.5)
    batches = Batches(ds, spec, 8, shuffle=True, patches=patches)
    history = model.fit(batches, epochs=4, verbose=0, validation_data=Batches(ds, spec, 8, patches=patches))
    assert np.isfinite(history.history["loss"]).all()
    assert np.isfinite(history.history["val_loss"]).all()
    assert np.isnan(batches[0][0]).any()
    out = physml.predict(model, ds)
    assert (out.salt.isnull() == ~ds.wet).all()


def test_gaps_are_learned_around(sst):
    sst["temp"][3, 0, 0, 0] = np.nan
    sst["salt"][5, 3] = np.nan
    spec = FieldSpec("temp", "salt", levels="depth", mask="wet")
    whole = sst.fillna(0.0).where(sst.wet)
    scaling = Scaling.fit(whole, spec)
    model = FieldModel(networks.mlp(scaling.layout, hidden=(4,)), scaling=scaling, missing="mean")
    model.compile("adam", "mse")
    batches = Batches(sst, spec, 8, missing="mask")
    history = model.fit(batches, epochs=3, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert np.isfinite(physml.predict(model, sst).salt.where(sst.wet, 0.0)).all()
