"""Batches from a store are a pure function of seed, epoch and step: whatever the threads, after a resume, and over shards."""

import multiprocessing
import pickle
import threading

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from physml import FieldSpec, Loader
from physml.data._plan import merged

N_TIME, RUNS = 23, 2


def numbered():
    """Return data whose value tells run, time and cell."""
    t, r, x = np.arange(N_TIME), np.arange(RUNS), np.arange(4)
    values = 1000 * r[:, None, None] + 10 * t[None, :, None] + x[None, None, :]
    return xr.Dataset(
        {
            "a": (("run", "time", "x"), values.astype("float32")),
            "b": (("time", "x"), (0.5 + values[0]).astype("float32")),
            "h": ("x", 7.0 + x),
            "z": (("time", "k", "x"), (values[0][:, None, :] + 0.25 * np.arange(3)[:, None]).astype("float32")),
        },
        {"time": t, "run": r, "x": x * 1.0, "k": [10.0, 20.0, 30.0]},
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Return the numbers in a store of chunks that divide nothing."""
    path = tmp_path_factory.mktemp("store") / "a.zarr"
    encoding = {"a": {"chunks": (2, 5, 4)}, "b": {"chunks": (4, 3)}, "z": {"chunks": (3, 2, 4)}}
    numbered().to_zarr(path, consolidated=False, encoding=encoding)
    return xr.open_zarr(path, consolidated=False)


SPEC = FieldSpec(["a", "b", "h"], "a", input_offsets={"a": (-1, 0)}, target_offsets=(1, 3), members="run")
SMALL = 700
"""Memory [bytes] that holds a few chunks of the numbers only."""


def epoch_of(loader, epoch=0):
    return [tuple(np.array(t) for t in batch) for batch in loader.iterate(epoch)]


def same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        for s, t in zip(a, b, strict=True):
            np.testing.assert_array_equal(s, t)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    offsets=st.sampled_from([((0,), (0,)), ((-1, 0), (1,)), ((0,), (1, 3)), ((-4, -1), (2,)), ((0,), (7,))]),
    batch_size=st.integers(1, 11),
    shuffle=st.booleans(),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 2),
    memory=st.sampled_from([700, 1000, 2000, "512MB"]),
    threads=st.sampled_from([1, 2, 4]),
)
def test_every_sample_comes_once_with_its_values(stored, offsets, batch_size, shuffle, seed, epoch, memory, threads):
    inputs, targets = offsets
    spec = FieldSpec(
        ["a", "b", "h", "z"],
        "a",
        input_offsets={"a": inputs},
        target_offsets=targets,
        members="run",
        levels={"k": [30.0, 10.0]},
    )
    low, high = spec.window()
    loader = Loader(
        stored, spec, batch_size, shuffle=shuffle, seed=seed, memory=memory if memory != 700 else 1200, threads=threads
    )
    with loader:
        batches = epoch_of(loader, epoch)
    sizes = [len(x) for x, _, _ in batches]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    x, y, _ = (np.concatenate(part) for part in zip(*batches, strict=True))
    seen, cells, n = [], np.arange(4), len(inputs)
    for xi, yi in zip(x, y, strict=True):
        run, now = int(xi[0, 0] // 1000), int(xi[0, 0] % 1000 // 10) - inputs[0]
        seen.append((run, now))
        expected = [1000 * run + 10 * (now + o) + cells for o in inputs]
        expected += [0.5 + 10 * now + cells, 7.0 + cells, 10 * now + cells + 0.5, 10 * now + cells]
        np.testing.assert_array_equal(xi, np.stack(expected, -1))
        np.testing.assert_array_equal(yi, np.stack([1000 * run + 10 * (now + o) + cells for o in targets], -1))
    whole = [(r, t) for r in range(RUNS) for t in range(max(0, -low), N_TIME - max(0, high))]
    assert sorted(seen) == whole
    assert x.shape[-1] == n + 4
    if not shuffle:
        assert seen == whole


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_are_the_same_with_any_number_of_threads(stored, shuffle):
    found = []
    for threads in (1, 2, 4):
        with Loader(stored, SPEC, 3, shuffle=shuffle, seed=5, memory=SMALL, threads=threads) as loader:
            assert len(loader.plan().groups) > 2
            found.append(epoch_of(loader, 1))
    same(found[0], found[1])
    same(found[0], found[2])


@pytest.mark.parametrize("memory", [SMALL, "1MB"])
def test_an_epoch_goes_on_from_any_step(stored, memory):
    with Loader(stored, SPEC, 4, shuffle=True, seed=2, memory=memory) as loader:
        whole = epoch_of(loader, 3)
    for start in range(len(whole)):
        with Loader(stored, SPEC, 4, shuffle=True, seed=2, memory=memory) as fresh:
            same([tuple(b) for b in fresh.iterate(3, start)], whole[start:])


def test_batches_come_alike_in_any_order_and_from_several_threads(stored):
    with Loader(stored, SPEC, 3, shuffle=True, memory=SMALL) as loader:
        whole = epoch_of(loader, 0)
        jumps = np.random.default_rng(0).permutation(len(whole)).tolist()
        same([loader.batch(0, i) for i in jumps], [whole[i] for i in jumps])
        got = {}

        def work(numbers):
            for i in numbers:
                got[i] = loader.batch(0, i)

        threads = [threading.Thread(target=work, args=(range(k, len(whole), 3),)) for k in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(60)
        same([got[i] for i in range(len(whole))], whole)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_shards_together_are_the_whole_once_and_equally_long(stored, world):
    shares = []
    for rank in range(world):
        with Loader(stored, SPEC, 4, shuffle=True, shard=(rank, world), memory=SMALL) as loader:
            shares.append(np.concatenate([x[:, 0, 1] for x, _, _ in loader]))
            assert loader.n_samples == len(shares[-1])
    with Loader(stored, SPEC, 4, memory=SMALL) as loader:
        every = np.concatenate([x[:, 0, 1] for x, _, _ in loader])
    np.testing.assert_array_equal(np.sort(np.concatenate(shares)), np.sort(every))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_epochs_differ_and_a_seed_repeats_them(stored):
    with Loader(stored, SPEC, 4, shuffle=True, seed=1, memory=SMALL) as loader:
        first, second = loader.order(0), loader.order(1)
        assert (first != second).any()
        np.testing.assert_array_equal(np.sort(first), np.sort(second))
    with Loader(stored, SPEC, 4, shuffle=True, seed=1, memory=SMALL) as again:
        np.testing.assert_array_equal(again.order(1), second)


def test_what_fits_into_memory_is_shuffled_as_a_whole_and_read_once(stored, monkeypatch):
    from physml.data._zarr import Zarr

    reads, read = [], Zarr.read
    monkeypatch.setattr(Zarr, "read", lambda self, at, into=None: reads.append(at) or read(self, at, into))
    with Loader(stored, SPEC, 4, shuffle=True, seed=1) as loader:
        np.testing.assert_array_equal(loader.order(2), np.random.default_rng([1, 2]).permutation(loader.n_samples))
        for epoch in range(3):
            epoch_of(loader, epoch)
    assert len(reads) == 5 + 6 * 2 + 1  # the chunks of a, b and h; the windows need all of them


@pytest.mark.parametrize("shuffle", [False, True])
def test_edges_of_windows_are_kept_so_that_each_chunk_is_decoded_once(tmp_path, monkeypatch, shuffle):
    from physml.data._zarr import Zarr

    numbered()[["b"]].to_zarr(tmp_path / "b.zarr", consolidated=False, encoding={"b": {"chunks": (8, 4)}})
    reads, read = [], Zarr.read
    monkeypatch.setattr(Zarr, "read", lambda self, at, into=None: reads.append(at) or read(self, at, into))
    ds = xr.open_zarr(tmp_path / "b.zarr", consolidated=False)
    with Loader(ds, FieldSpec("b", "b", target_offsets=1), 4, shuffle=shuffle, memory=350) as loader:
        assert len(loader.plan().groups) == 3
        assert loader._cut().keep
        for epoch in range(4):
            reads.clear()
            assert len(epoch_of(loader, epoch)) == 6
            assert sorted(reads) == [(0, 0), (1, 0), (2, 0)]


def test_edges_that_do_not_fit_are_read_again_from_longer_stretches(stored):
    with Loader(stored, FieldSpec("b", "b", target_offsets=1), 4, shuffle=True, memory=300) as loader:
        cut = loader._cut()
        assert not cut.keep
        assert np.diff(cut.units.time_bounds).max() > 3
        assert "the edges of windows are read again" in str(loader.report(measure=False))
        x, y, _ = (np.concatenate(p) for p in zip(*loader, strict=True))
    np.testing.assert_array_equal(y - x, np.full_like(x, 10))
    np.testing.assert_array_equal(np.sort(x[:, 0, 0]), 10 * np.arange(22) + 0.5)


def test_gaps_in_time_are_never_bridged(tmp_path):
    ds = numbered()[["b"]].isel(time=[0, 1, 2, 3, 4, 9, 10, 11, 15, 16, 17, 18])
    ds.to_zarr(tmp_path / "g.zarr", consolidated=False, encoding={"b": {"chunks": (4, 4)}})
    for data in (ds, xr.open_zarr(tmp_path / "g.zarr", consolidated=False)):
        loader = Loader(data, FieldSpec("b", "b", input_offsets=(-1, 0), target_offsets=1), 3, memory=400)
        x, y, _ = (np.concatenate(p) for p in zip(*loader, strict=True))
        np.testing.assert_array_equal(x[:, 0, 1], 10 * np.array([1, 2, 3, 10, 16, 17]) + 0.5)
        np.testing.assert_array_equal(x[:, 0, 1] - x[:, 0, 0], np.full(6, 10))
        np.testing.assert_array_equal(y[:, 0, 0] - x[:, 0, 1], np.full(6, 10))
        loader.close()


def test_offsets_may_be_lengths_of_time():
    time = xr.date_range("2000-01-01", periods=12, freq="6h")
    ds = xr.Dataset({"x": (("time", "i"), np.arange(24.0).reshape(12, 2))}, {"time": time})
    spec = FieldSpec("x", "x", input_offsets=["-6h", "0h"], target_offsets=["12h", "1D"])
    assert spec.bind(ds).spec.target_offsets == (2, 4)
    x, y, _ = Loader(ds, spec, 20)[0]
    np.testing.assert_array_equal(y[:, 0] - x[:, 0, 1:], np.tile([4.0, 8.0], (7, 1)))
    months = xr.date_range("2000-01-31", periods=30, freq="ME", calendar="noleap", use_cftime=True)
    monthly = xr.Dataset({"x": ("time", np.arange(30.0))}, {"time": months})
    assert FieldSpec("x", "x", target_offsets=("1MS", "1YS")).bind(monthly).spec.target_offsets == (1, 12)
    with pytest.raises(ValueError, match=r"'5h' is no whole number of steps. Expected: a multiple.*6:00"):
        FieldSpec("x", "x", target_offsets="5h").bind(ds)
    with pytest.raises(ValueError, match=r"'6h' is no whole number of steps.*1 month"):
        FieldSpec("x", "x", target_offsets="6h").bind(monthly)
    with pytest.raises(ValueError, match=r"'soon' is no length of time. Expected: such as '6h'"):
        FieldSpec("x", "x", target_offsets="soon").bind(ds)


def test_levels_may_be_samples_and_members_channels():
    ds = numbered()
    by_level = Loader(ds, FieldSpec("z", "z", members="k"), 100)
    assert by_level[0][0].shape == (3 * N_TIME, 4, 1)
    by_run = Loader(ds, FieldSpec("a", "a", levels="run"), 100)
    x = by_run[0][0]
    assert x.shape == (N_TIME, 4, RUNS)
    np.testing.assert_array_equal(x[..., 1] - x[..., 0], np.full((N_TIME, 4), 1000))


def test_several_target_steps_are_there_for_an_unrolled_loss(stored):
    with Loader(stored, FieldSpec("b", "b", target_offsets=(1, 2, 3)), 5, memory=SMALL) as loader:
        x, y, _ = loader[1]
    np.testing.assert_array_equal(y - x, np.broadcast_to([10.0, 20.0, 30.0], y.shape))


def test_setting_up_computes_nothing(stored, nothing_computed):
    with nothing_computed():
        loader = Loader(stored + 1, SPEC, 4, shuffle=True, memory=3000)
        assert len(loader) > 1
        assert len(loader.order()) == loader.n_samples
    x = loader[0][0]
    direct = Loader(stored, SPEC, 4, shuffle=True, memory=3000)[0][0]
    np.testing.assert_array_equal(x[..., :3], direct[..., :3] + 1)


def test_data_read_through_dask_give_the_same_batches(stored):
    def batches(ds, **options):
        with Loader(ds, SPEC, 4, shuffle=False, memory=SMALL, **options) as loader:
            return epoch_of(loader)

    shifted = stored.map(lambda v: v + 0.0, keep_attrs=True)
    assert "through dask" in str(Loader(shifted, SPEC).report(measure=False))
    same(batches(shifted), batches(stored))
    with dask.config.set(scheduler="threads"):
        same(batches(shifted), batches(stored))


def test_a_loader_travels_to_another_process(stored):
    with Loader(stored, SPEC, 4, shuffle=True, memory=SMALL) as loader:
        first = loader.batch(1, 2)
        again = pickle.loads(pickle.dumps(loader))
    same([again.batch(1, 2)], [first])
    again.close()
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        same([pool.apply(take, (loader,))], [first])


def take(loader):
    return loader.batch(1, 2)


def test_labels_say_where_a_batch_comes_from(stored):
    with Loader(stored, SPEC, 5, shuffle=True, memory=SMALL) as loader:
        for i in range(len(loader)):
            labels, (x, _, _) = loader.labels(i), loader[i]
            np.testing.assert_array_equal(1000 * labels.run + 10 * labels.time, x[:, 0, 1])


def test_threads_end_with_the_loader_and_after_an_early_exit(stored):
    before = set(threading.enumerate())

    def working():
        return [t for t in threading.enumerate() if t not in before and t.name.startswith("physml")]

    def left():
        for t in working():
            t.join(10)
        return working()

    with Loader(stored, SPEC, 2, memory=SMALL) as loader:
        for _ in loader:
            break
        assert working()
    assert not left()
    loader = Loader(stored, SPEC, 2, memory=SMALL)
    loader[0]
    assert working()
    del loader
    assert not left()


def test_a_yielded_batch_is_never_written_again(stored):
    loader = Loader(stored, SPEC, 4, shuffle=True, memory=SMALL)
    kept = list(loader)
    first = [tuple(np.array(t) for t in batch) for batch in kept]
    for _ in range(3):
        list(loader.iterate(1))
    same(kept, first)


def test_the_memory_of_a_batch_serves_again_once_no_view_of_it_is_left(stored):
    loader = Loader(stored, SPEC, 4)
    x = loader[0][0]
    at, part = x.ctypes.data, x[1:, :, 1].T
    held = np.array(part)
    del x
    others = [loader[i][0] for i in range(1, 4)]
    assert at not in {o.ctypes.data for o in others}
    np.testing.assert_array_equal(part, held)
    assert all(o.ctypes.data % 64 == 0 for o in others)
    del part
    assert loader[0][0].ctypes.data == at


def test_the_cut_joins_short_chunks_and_divides_long_ones():
    assert merged(np.array([0, 10]), 1, 4).tolist() == [0, 3, 6, 10]
    assert merged(np.arange(9), 3, 100).tolist() == [0, 3, 6, 8]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory": "much"}, r"memory is not understood. Expected: bytes, or text such as '512MB'.*'much'"),
        ({"memory": 10}, r"memory is too small for one window.*Expected: at least"),
        ({"threads": -1}, r"threads is not positive"),
        ({"shard": (2, 2)}, r"shard is not understood. Expected: \(rank, world\)"),
        ({"missing": "ignore"}, r"missing is not understood. Expected: 'raise', 'drop' or 'mask'"),
        ({"min_valid": 0.5}, r"min_valid does not fit"),
    ],
)
def test_options_that_do_not_fit_are_refused(stored, options, words):
    with pytest.raises(ValueError, match=words):
        Loader(stored, SPEC, 4, **options)[0]
