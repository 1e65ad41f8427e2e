import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from physml.assimilation import BLUE, RK4, Cycle, EnKS, Gaussian, GridObservations, PointObservations
from physml.assimilation.cycling import storing as module
from physml.testbeds import lorenz96

SITES, TIMES = 8, 23


def method_cycle(fused=False, lag=3):
    """A smoother, whose fields come late, on eight sites; eleven chunks of two times and a half one."""
    rng = np.random.default_rng(1)
    start = xr.Dataset({"x": (("member", "site"), 2 + rng.normal(size=(6, SITES)))}, {"site": np.arange(SITES)})
    values = np.where(rng.random((TIMES, SITES)) < 0.3, np.nan, 2 + rng.normal(size=(TIMES, SITES)))
    time = 0.05 * np.arange(1, TIMES + 1)
    seen = GridObservations(xr.DataArray(values, {"time": time}, ("time", "site"), "x"), 1.0)
    step = RK4(lorenz96.tendency, 0.05, dtype="float64")
    method = EnKS(smoothing_lag=lag, rotate=True)
    return Cycle(step, method, state_names=["x"], periodic={"site": SITES}, gross_error=3.0, fused=fused), start, seen


def layer_cycle():
    """Optimal interpolation of two runs on a small grid."""
    rng = np.random.default_rng(2)
    lat, lon = np.linspace(-2, 2, 3), np.linspace(0, 3, 4)
    layer = BLUE(Gaussian(1.0, 300e3), latitude=lat, longitude=lon, periodic=False, dtype="float64")
    start = xr.Dataset(
        {"t": (("run", "lat", "lon"), rng.normal(size=(2, 3, 4)), {"units": "K"})},
        {"lat": lat, "lon": lon, "time": np.datetime64("2001-01-01", "ns")},
    )
    time = start.time.values + np.arange(1, 6) * np.timedelta64(1, "D")
    seen = PointObservations(rng.normal(size=(5, 2)), [0.0, 1.0], [1.0, 2.2], time, 0.3, "K")
    return Cycle(lambda x, forcing=None: 0.9 * x, layer, state_names=["t"], gross_error=2.0), start, seen


def options(kind):
    return {} if kind is method_cycle else {"time_step": "1D", "dtype": "float64", "steps": 5}


def equal(a, b):
    assert set(a.variables) == set(b.variables)
    for name in a.variables:
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=name)
        assert a[name].dims == b[name].dims and a[name].dtype == b[name].dtype
        assert a[name].attrs == b[name].attrs
    drop = ("history", "Conventions")
    assert {k: v for k, v in a.attrs.items() if k not in drop} == {k: v for k, v in b.attrs.items() if k not in drop}


def interrupted(monkeypatch, at):
    """Let the run fail after *at* writes: before anything of the next is written, or between its variables."""
    write, count = xr.Dataset.to_zarr, [0]

    def failing(self, *args, **kwargs):
        count[0] += 1
        if count[0] == at:
            # What is half written is rubbish.
            write(self * np.nan, *args, **kwargs)
            raise OSError("the disk is full")
        return write(self, *args, **kwargs)

    monkeypatch.setattr(xr.Dataset, "to_zarr", failing)


@pytest.mark.parametrize("kind", [method_cycle, layer_cycle])
def test_a_resumed_run_is_bit_equal_whatever_was_half_written(kind, tmp_path, monkeypatch, no_compute):
    cycle, start, seen = kind()
    whole = cycle.run(start, seen, **options(kind))
    assert whole.attrs["observations_rejected"] == whole.rejected.sum() > 0
    target = tmp_path / "run.zarr"
    more = {**options(kind), "to": target, "chunk": 2}
    for at in (3, 2, 1):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="the disk is full") as told:
            interrupted(patch, at)
            kind()[0].run(start, seen, **more, resume=True)
        assert "resume=True goes on" in told.value.__notes__[0]
        assert not target.exists() and len(list((tmp_path / "run.zarr.partial").glob("state-*"))) == 1
    resumed = kind()[0].run(start, seen, **more, resume=True)
    assert [p.name for p in tmp_path.iterdir()] == ["run.zarr"]
    equal(resumed, whole)
    with no_compute():
        lazy = xr.open_zarr(target, consolidated=False)
        assert lazy[next(iter(lazy))].chunks[0][:2] == (2, 2)


def test_smoothed_fields_lie_at_their_own_times(tmp_path):
    cycle, start, seen = method_cycle()
    out = cycle.run(start, seen)
    # The smoother and its filter meet at the end; before, the smoothed state knows more than the filtered one.
    np.testing.assert_allclose(out.x_smoothed[-1], out.x[-1], rtol=0, atol=1e-13)
    assert out.x_smoothed.notnull().all()
    shorter = method_cycle(lag=1)[0].run(start, seen)
    np.testing.assert_array_equal(shorter.x, out.x)
    assert not np.allclose(shorter.x_smoothed[:-1], out.x_smoothed[:-1], atol=1e-3)


def free_cycle(factor=0.9):
    """Eight steps of a free run."""
    start = xr.Dataset({"c": ("x", [1.0, 2.0, 4.0])})
    return Cycle(lambda x, forcing=None: factor * x, state_names=["c"], space=["x"]), start


def test_memory_is_that_of_a_chunk(tmp_path, monkeypatch):
    kept, flush = [], module._Writer._flush

    def watched(self, last):
        kept.append(max(sum(map(len, parts)) for parts in self.buffers.values()))
        flush(self, last)
        kept.append(max(sum(map(len, parts)) for parts in self.buffers.values()))

    monkeypatch.setattr(module._Writer, "_flush", watched)
    cycle, start = free_cycle()
    out = cycle.run(start, steps=8, time_step=1.0, to=tmp_path / "run.zarr", chunk=3)
    assert kept == [3, 0, 3, 0, 2, 0]
    np.testing.assert_array_equal(out.c, cycle.run(start, steps=8, time_step=1.0).c)


def test_another_run_is_not_resumed_and_nothing_is_overwritten(tmp_path, monkeypatch):
    cycle, start = free_cycle()
    more = {"steps": 8, "time_step": 1.0, "to": tmp_path / "run.zarr", "chunk": 2}
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        interrupted(patch, 3)
        cycle.run(start, **more)
    with pytest.raises(FileExistsError, match="was stopped"):
        cycle.run(start, **more)
    forcing = np.ones((1, 8, 3, 1))
    for call, what in (
        (lambda: free_cycle(0.8)[0].run(start, **more, resume=True), "cycle"),
        (lambda: cycle.run(start + 1, **more, resume=True), "initial"),
        (lambda: cycle.run(start, None, forcing, **more, resume=True), "forcing"),
        (lambda: cycle.run(start, **{**more, "steps": 9}, resume=True), "options"),
        (lambda: cycle.run(start, **{**more, "chunk": 3}, resume=True), "chunk"),
    ):
        with pytest.raises(ValueError, match=f"was begun with another {what}. Expected"):
            call()
    first = cycle.run(start, **more, overwrite=True).load()
    with pytest.raises(FileExistsError, match="is there already"):
        cycle.run(start, **more, resume=True)
    equal(cycle.run(start, **more, overwrite=True), first)
    with pytest.raises(ValueError, match="has no known format"):
        cycle.run(start, **{**more, "to": tmp_path / "run.nc"})


def test_nothing_is_left_of_a_run_that_fails_at_once(tmp_path):
    cycle, start = free_cycle()
    bad = Cycle(cycle.step, after=None, state_names=["c"], space=["x"])
    with pytest.raises(IndexError):
        bad.run(start, None, np.ones((1, 2, 3, 1)), steps=8, time_step=1.0, to=tmp_path / "run.zarr")
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys, xarray as xr
sys.path.insert(0, {here!r})
from test_storing import method_cycle
cycle, start, seen = method_cycle()
write, count = xr.Dataset.to_zarr, [0]
def killing(self, *args, **kwargs):
    count[0] += 1
    if count[0] == {at}:
        write(self[list(self.data_vars)[:1]] * 0, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, *args, **kwargs)
xr.Dataset.to_zarr = killing
cycle.run(start, seen, to={target!r}, chunk=2, resume=True)
"""


@pytest.mark.long
def test_a_killed_run_goes_on_bit_equal(tmp_path):
    cycle, start, seen = method_cycle()
    whole, target = cycle.run(start, seen), tmp_path / "run.zarr"
    for at in (4, 1):
        code = KILLED.format(here=str(Path(__file__).parent), at=at, target=str(target))
        assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == -9
    equal(cycle.run(start, seen, to=target, chunk=2, resume=True), whole)
