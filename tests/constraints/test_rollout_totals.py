"""In a roll-out totals stay those of the initial state and the sources since, however many float32 steps there are."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import xarray as xr

import physml
from physml import Budget, Conserve, FieldModel, FieldSpec, NonNegative, Scaling

STEPS = 200


def made(gyre, laws, source=False):
    """Return a model that changes its tracer a lot, within its laws."""
    keras.utils.set_random_seed(3)
    names = ["tracer", "u", "v", *(["source"] if source else [])]
    spec = FieldSpec(names, "tracer", target_offsets=1, members="run", mask="wet")
    scaling = Scaling.fit(gyre, spec)
    start = keras.Input((*scaling.layout.shape, len(names)))
    out = keras.layers.Conv2D(1, 3, padding="same", kernel_initializer=keras.initializers.RandomNormal(stddev=0.5))(
        start
    )
    return FieldModel(keras.Model(start, out), scaling=scaling, constraints=laws, increment=True)


def run(model, gyre, source=False):
    still = gyre[["u", "v"]].isel(time=0, drop=True)
    forcing = still.expand_dims(time=STEPS).assign_coords(
        time=gyre.time.values[0] + np.arange(STEPS) * (gyre.time.values[1] - gyre.time.values[0])
    )
    if source:
        forcing["source"] = xr.zeros_like(forcing.u) + gyre.source.isel(time=0, drop=True)
        forcing["source"].attrs = gyre.source.attrs
    return physml.rollout(model, gyre.isel(time=[0]), STEPS, forcing)


def total(field, gyre):
    volume = gyre.cell_volume.where(gyre.wet, 0.0)
    return (field.astype("float64").fillna(0) * volume).sum(["lat", "lon"])


def drifts(field, gyre, gained=0.0):
    first = total(gyre.tracer.isel(time=0, drop=True), gyre)
    return (((total(field, gyre) - first - gained) / first).transpose("run", "time")).values


LAWS = {
    "one sum": [NonNegative("tracer"), Conserve("tracer", ("lat", "lon"), "cell_volume")],
    "a sum among other laws": [
        NonNegative("tracer"),
        Conserve("tracer", ("lat", "lon"), "cell_volume"),
        Budget({"tracer": 1}, ("lat", "lon"), "half_volume", equals={"tracer": 1.0}, name="western half"),
    ],
}


@pytest.mark.parametrize("which", LAWS)
def test_totals_do_not_drift(gyre, which):
    gyre = gyre.assign(
        half_volume=gyre.cell_volume.where(gyre.lon < gyre.lon.mean(), 0.0).assign_attrs(gyre.cell_volume.attrs)
    )
    model = made(gyre, LAWS[which])
    fields = run(model, gyre)
    assert float(fields.tracer.min()) >= 0
    assert float(np.abs(fields.tracer.diff("time")).mean()) > 1e-3  # it moves
    found = drifts(fields.tracer, gyre)
    assert np.abs(found).max() < 6e-8  # what float32 can store
    late, early = (np.abs(part).mean() for part in (found[:, STEPS // 2 :], found[:, : STEPS // 2]))
    assert late < 1.5 * early  # no trend and no random walk


def test_without_what_is_carried_they_would(gyre):
    model = made(gyre, LAWS["one sum"])
    state, found = gyre.isel(time=[0]), []
    x = model.layout.pack(state, "inputs").fillna(0).values.reshape(-1, *model.layout.shape, 3).astype("float32")
    volume = np.where(gyre.wet, gyre.cell_volume, 0.0)
    first = (x[..., 0].astype("float64") * volume).sum((1, 2))
    for _ in range(STEPS):
        x = np.concatenate([np.asarray(model.predict_on_batch(x)), x[..., 1:]], axis=-1)
        found.append(((x[..., 0].astype("float64") * volume).sum((1, 2)) - first) / first)
    carried = np.abs(drifts(run(model, gyre).tracer, gyre)[:, -50:]).mean()
    assert np.abs(found[-50:]).mean() > 3 * carried


def test_sources_are_added_up(gyre):
    laws = [NonNegative("tracer"), Conserve("tracer", ("lat", "lon"), "cell_volume", sources="source")]
    model = made(gyre, laws, source=True)
    fields = run(model, gyre, source=True)
    rate = total(gyre.source.isel(time=0, drop=True), gyre)
    step = (gyre.time[1] - gyre.time[0]) / np.timedelta64(1, "s")
    gained = rate * float(step) * xr.DataArray(np.arange(1, STEPS + 1), dims="time")
    assert np.abs(drifts(fields.tracer, gyre, gained)).max() < 6e-8 * float(
        1 + np.abs(gained / total(gyre.tracer.isel(time=0, drop=True), gyre)).max()
    )
    assert float(np.abs(gained).max()) > 1e-3
