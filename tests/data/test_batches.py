"""A batch holds the data at the right times and members, in an order known beforehand; masked cells weigh nothing."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from physml import Batches, FieldSpec


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
