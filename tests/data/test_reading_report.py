"""The report tells before any training how data are read, and its numbers are those of the reading."""

import numpy as np
import pytest
import xarray as xr

from physml import FieldSpec, Loader
from physml.data._zarr import Zarr

ROW = 100 * 4


@pytest.fixture
def stored(tmp_path):
    def store(chunks, n=60):
        rng = np.random.default_rng(0)
        ds = xr.Dataset({"a": (("time", "x"), rng.normal(size=(n, 100)).astype("float32"))}, {"time": np.arange(n)})
        ds.to_zarr(tmp_path / f"{chunks}.zarr", mode="w", consolidated=False, encoding={"a": {"chunks": chunks}})
        return xr.open_zarr(tmp_path / f"{chunks}.zarr", consolidated=False)

    return store


def decoded(loader, monkeypatch):
    """Return the bytes that one epoch decodes for each byte of data."""
    total = [0]

    def counted(self, at, into=None):
        out = read(self, at, into)
        total[0] += out.nbytes
        return out

    read = Zarr.read
    monkeypatch.setattr(Zarr, "read", counted)
    with loader:
        for _ in loader:
            pass
    monkeypatch.undo()
    return total[0] / (60 * ROW)


@pytest.mark.parametrize(
    ("chunks", "memory", "offsets"),
    [((10, 100), 45 * ROW, 0), ((30, 100), 25 * ROW, 0), ((10, 100), 50 * ROW, 1), ((7, 33), 40 * ROW, 0)],
)
def test_the_amplification_is_that_of_the_reading(stored, monkeypatch, chunks, memory, offsets):
    spec = FieldSpec("a", "a", target_offsets=offsets)
    loader = Loader(stored(chunks), spec, 4, shuffle=True, memory=memory)
    report = loader.report(measure=False)
    assert report.amplification == pytest.approx(decoded(loader, monkeypatch), rel=0.15)


def test_rows_in_memory_stay_below_the_bound(stored):
    loader = Loader(stored((5, 100)), FieldSpec("a", "a", target_offsets=1), 4, shuffle=True, memory=40 * ROW)
    pool, peak = loader._reading(), 0
    with loader:
        for _ in loader:
            held = sum(f.result().rows["a"].array.nbytes for f in pool._groups.values() if f.done())
            held += sum(row.nbytes for _, row in pool._kept.get("a", {}).values())
            peak = max(peak, held)
    assert 0 < peak <= 40 * ROW
    assert loader.report(measure=False).held <= 40 * ROW


def test_it_says_how_each_variable_is_read_and_what_would_help(stored):
    good = Loader(stored((10, 100)), FieldSpec("a", "a"), 4)
    text = str(good.report())
    assert "zarr v3, directly, 10 steps a chunk" in text
    assert "held in memory as a whole" in text
    assert "MB/s" in text
    assert "advice" not in text
    large = Loader(stored((60, 100)), FieldSpec("a", "a"), 4, shuffle=True, memory=20 * ROW).report(measure=False)
    assert any("chunks of 60 steps do not fit into memory" in a and "rechunk to time=" in a for a in large.advice)
    assert any("chunks are mixed at a time" in a for a in large.advice)
    through = Loader(stored((10, 100)) + 1, FieldSpec("a", "a"), 4).report(measure=False)
    assert any("'a' is read through dask: its values were computed (add)" in a for a in through.advice)
    tiny = Loader(stored((1, 100), 200), FieldSpec("a", "a"), 4).report(measure=False)
    assert any("are small: rechunk to time=" in a for a in tiny.advice)
    memory = Loader(stored((10, 100)).load(), FieldSpec("a", "a"), 4).report()
    assert memory.variables["a"]["how"] == "in memory"
    assert memory.speed is None


def test_a_report_reads_nothing_when_it_does_not_measure(stored, nothing_computed, monkeypatch):
    monkeypatch.setattr(Zarr, "read", lambda *a: pytest.fail("something was read"))
    with nothing_computed():
        assert Loader(stored((10, 100)), FieldSpec("a", "a"), 4).report(measure=False).batches == 15
