"""Shares: what is shared out is the total, no part has another sign, and zero from the network is the prior."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from keras import ops

from physml import FieldModel, FieldSpec, Scaling, Shares, _backend, load, networks

FORMS = ("softmax", "multiplicative")
BLOCK = {"blocks": {"y": 2, "x": 3}, "weights": "area", "total": "coarse"}


@pytest.fixture
def rain():
    rng = np.random.default_rng(0)
    area = xr.DataArray(rng.uniform(0.5, 1.5, (4, 6)), dims=("y", "x"))
    wet = xr.DataArray(rng.random((4, 6)) < 0.8, dims=("y", "x"))
    ds = xr.Dataset({"area": area, "wet": wet, "basin": (("y", "x"), np.arange(24).reshape(4, 6) % 3 - 1)})
    ds["fine"] = (("time", "y", "x"), rng.gamma(0.5, size=(8, 4, 6)))
    weight = area * wet
    means = (ds.fine * weight).coarsen(y=2, x=3).sum() / weight.coarsen(y=2, x=3).sum()
    ds["coarse"] = ds.fine.copy(data=np.repeat(np.repeat(means.transpose("time", "y", "x"), 2, 1), 3, 2))
    ds["dp"] = ds.fine * 0 + rng.uniform(0.5, 2.0, (8, 4, 6))
    return ds.assign_coords(time=np.arange(8))


SPEC = FieldSpec(["coarse", "dp"], "fine", mask="wet")


def bound(head, ds, spec=SPEC):
    layout = spec.bind(ds).load()
    layout = layout.keep({n: layout.statics[n] for n in head.statics(layout)})
    head.bind(layout)
    return layout


def run(head, ds, z):
    layout = bound(head, ds)
    with _backend.float64():
        x = ops.convert_to_tensor(layout.pack(ds, "inputs").values.astype("float64"))
        return np.asarray(head(ops.convert_to_tensor(z), x))[..., 0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1.0, 300.0])
def test_blocks_have_their_total_and_no_part_is_negative(rain, form, size):
    z = size * np.random.default_rng(1).normal(size=(8, 4, 6, 1))
    y = run(Shares("fine", **BLOCK, form=form), rain, z)
    weight = (rain.area * rain.wet).values
    got, want = ((v * weight).reshape(8, 2, 2, 2, 3).sum((2, 4)) for v in (y, rain.coarse.values))
    np.testing.assert_allclose(got, want, rtol=1e-12)
    assert y.min() >= 0 and np.isfinite(y).all()
    assert (y[:, ~rain.wet.values] == 0).all()


def test_the_softmax_is_that_of_the_formula(rain):
    z = np.random.default_rng(1).normal(size=(8, 4, 6, 1))
    y = run(Shares("fine", ("y", "x"), "area", total=5.0, prior="area"), rain, z)
    w = np.where(rain.wet, rain.area, 0)
    mu = w * rain.area.values
    shares = mu * np.exp(z[..., 0])
    shares /= shares.sum((1, 2), keepdims=True)
    np.testing.assert_allclose(y, np.where(w > 0, 5 * shares / np.where(w > 0, w, 1), 0), rtol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_a_silent_network_gives_the_prior_made_to_fit(rain, form):
    y = run(Shares("fine", **BLOCK, form=form, prior="coarse"), rain, np.zeros((8, 4, 6, 1)))
    np.testing.assert_allclose(y, rain.coarse.where(rain.wet, 0), rtol=1e-12)


def test_where_nothing_is_left_the_total_is_spread_evenly(rain):
    y = run(Shares("fine", ("y", "x"), total=3.0, form="multiplicative"), rain, np.full((8, 4, 6, 1), -1e4))
    np.testing.assert_allclose(y, np.where(rain.wet, 3.0 / int(rain.wet.sum()), 0)[None].repeat(8, 0), rtol=1e-12)


def test_basins_and_weights_of_each_sample(rain):
    z = np.random.default_rng(1).normal(size=(8, 4, 6, 1))
    y = run(Shares("fine", groups="basin", weights="dp", total=2.0), rain, z)
    for basin in (0, 1):
        here = ((rain.basin == basin) & rain.wet).values
        np.testing.assert_allclose((y * rain.dp.values)[:, here].sum(-1), 2.0, rtol=1e-12)
    assert (y[:, (rain.basin < 0).values] == 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_its_gradient_is_that_of_finite_differences(rain, form):
    head = Shares("fine", **BLOCK, form=form, prior="dp")
    layout = bound(head, rain)
    rng = np.random.default_rng(2)
    z, g = rng.normal(size=(8, 4, 6, 1)), rng.normal(size=(8, 4, 6, 1))
    x = layout.pack(rain, "inputs").values.astype("float64")

    def value(packed):
        with _backend.float64():
            return ops.sum(head(packed[..., :1], packed[..., 1:]) * ops.convert_to_tensor(g))

    with _backend.float64():
        at = np.concatenate([z, x], axis=-1)
        _, gradient = _backend.value_and_gradient(value, at)
        step = 1e-6 * rng.normal(size=at.shape)
        change = float(value(ops.convert_to_tensor(at + step))) - float(value(ops.convert_to_tensor(at - step)))
    np.testing.assert_allclose((gradient * step).sum(), change / 2, rtol=1e-7)


def test_classes_share_a_cell_and_the_model_survives_its_file(rain, tmp_path):
    ds = rain[["coarse", "wet"]].assign(tree=rain.dp / 4, grass=1 - rain.dp / 4)
    spec = FieldSpec("coarse", ["tree", "grass"], mask="wet")
    scaling = Scaling.fit(ds, spec)
    model = FieldModel(networks.mlp(scaling.layout), scaling=scaling, head=Shares(("tree", "grass")))
    model.compile("adam", "mse")
    x, y = (np.nan_to_num(scaling.layout.pack(ds, role).values).astype("float32") for role in ("inputs", "targets"))
    model.fit(x, y, epochs=2, verbose=0)
    out = model.predict_on_batch(x)
    np.testing.assert_allclose(out.sum(-1)[:, rain.wet.values], 1.0, rtol=1e-6)
    model.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(load(tmp_path / "m.keras").predict_on_batch(x), out)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Shares("fine", form="sofmax"), r"form is not understood; did you mean 'softmax'\?"),
        (lambda: Shares({"fine": xr.DataArray(1.0)}), r"takes fields by name.*pass its name"),
        (lambda: Shares("coarse"), r"must make all targets.*terms \('fine',\)"),
        (lambda: Shares({"fine": -1.0}, "x"), r"the weights of 'fine' cannot share anything out.*>= 0"),
        (lambda: Shares("fine", "x", prior="minus"), r"the prior of 'fine' cannot share anything out"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(rain, make, words):
    rain["minus"] = -rain.area
    with pytest.raises(ValueError, match=words):
        bound(make(), rain)
