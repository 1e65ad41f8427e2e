"""A distribution is answered as named fields, trained with the loss of its head, and survives a round trip."""

import keras
import numpy as np
import pytest
import xarray as xr

import physml
from physml import FieldModel, FieldSpec, Scaling, networks
from physml.heads import Gaussian


@pytest.fixture
def noisy():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (400, 6)).astype("float32")
    y = 20 + 3 * x + (0.5 + 0.4 * x) * rng.normal(size=x.shape).astype("float32")
    wet = np.array([1, 1, 1, 1, 1, 0], bool)
    return xr.Dataset(
        {
            "x": (("time", "i"), x),
            "y": (("time", "i"), y.astype("float32"), {"units": "K", "long_name": "temperature"}),
            "wet": ("i", wet),
        },
        {"time": np.arange(400), "i": np.arange(6)},
    )


def test_mean_and_standard_deviation_are_named_masked_and_come_back_from_disk(noisy, tmp_path):
    spec = FieldSpec("x", "y", mask="wet")
    scaling = Scaling.fit(noisy, spec)
    head = Gaussian()
    network = networks.mlp(scaling.layout, outputs=head.channels(scaling.layout), hidden=(16,))
    model = FieldModel(network, scaling=scaling, head=head)
    model.compile(keras.optimizers.Adam(1e-2), metrics=["mae"])
    history = model.fit(physml.Batches(noisy, spec, 100, shuffle=True), epochs=2, verbose=0).history
    assert history["loss"][1] < history["loss"][0]
    assert "mae" in history
    out = physml.predict(model, noisy)
    assert list(out) == ["y", "y_std"]
    assert out.y_std.attrs["units"] == "K"
    assert out.y_std.dims == ("time", "i")
    assert bool(out.y.isel(i=5).isnull().all())
    assert float(out.y_std.min()) > 0
    model.save(tmp_path / "m.keras")
    again = physml.predict(str(tmp_path / "m.keras"), noisy.chunk(time=50))
    xr.testing.assert_allclose(again.compute(), out)


def test_an_index_is_predicted_from_maps(noisy):
    ds = noisy.assign(index=noisy.y.where(noisy.wet).mean("i").assign_attrs(units="K"))
    spec = FieldSpec("x", "index", mask="wet")
    scaling = Scaling.fit(ds, spec)
    network = keras.Sequential([keras.Input((6, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    model = FieldModel(network, scaling=scaling)
    model.compile("adam", "mse")
    model.fit(physml.Batches(ds, spec, 100, shuffle=True), epochs=1, verbose=0)
    out = physml.predict(model, ds)
    assert out["index"].dims == ("time",)
    np.testing.assert_array_equal(out["index"], model.predict(physml.Batches(ds, spec, 400), verbose=0)[:, 0, 0])


def test_another_loss_is_refused_by_name(noisy):
    spec = FieldSpec("x", "y", mask="wet")
    scaling = Scaling.fit(noisy, spec)
    model = FieldModel(networks.mlp(scaling.layout, outputs=2, hidden=()), scaling=scaling, head=Gaussian())
    with pytest.raises(ValueError, match="the head Gaussian has no loss 'beta_nl'; did you mean 'beta_nll'"):
        model.compile("adam", "beta_nl")
