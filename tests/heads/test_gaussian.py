"""One standard deviation for all cells is a trained number; a roll-out goes on from the mean; bad arguments are refused."""

import keras
import numpy as np
import pytest
import xarray as xr

import physml
from physml import FieldModel, FieldSpec, Scaling, networks, predict
from physml.heads import Gaussian, Samples
from physml.model import load

SPEC = FieldSpec("x", "y", mask="wet")


def test_a_network_of_zeros_answers_mean_and_spread_of_the_training_data(sea):
    scaling = Scaling.fit(sea, SPEC)
    out = predict(FieldModel(networks.mlp(scaling.layout, outputs=2), scaling=scaling, head=Gaussian()), sea)
    np.testing.assert_allclose(out.y.max(), scaling.mean["y"], rtol=1e-6)
    np.testing.assert_allclose(out.y_std.max(), scaling.std["y"], rtol=2e-4)
    assert out.y.attrs["ancillary_variables"] == "y_std"
    assert out.y_std.attrs == {
        "long_name": "standard deviation of sst",
        "units": "K",
        "units_metadata": "temperature: difference",
    }


@pytest.mark.parametrize("loss", ["nll", *(pytest.param(n, marks=pytest.mark.long) for n in ("beta_nll", "crps"))])
def test_a_constant_sigma_becomes_the_root_mean_square_error_and_is_saved(loss, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(512, 8)).astype("float32")
    y = (2 * x + 0.3 * rng.normal(size=x.shape)).astype("float32")
    ds = xr.Dataset({"x": (("time", "i"), x), "y": (("time", "i"), y)}, {"time": np.arange(512)})
    scaling = Scaling.fit(ds, FieldSpec("x", "y"))
    head = Gaussian("constant")
    assert head.channels(scaling.layout) == 1
    model = FieldModel(networks.mlp(scaling.layout, hidden=()), scaling=scaling, head=head)
    model.compile(keras.optimizers.Adam(0.05), loss)
    for _ in range(200):
        model.train_on_batch(x[..., None], y[..., None])
    out = predict(model, ds)
    assert float(out.y_std.std()) < 1e-6
    assert float(out.y_std.mean()) == pytest.approx(float(((ds.y - out.y) ** 2).mean() ** 0.5), rel=0.02)
    model.save(tmp_path / "m.keras")
    xr.testing.assert_allclose(predict(load(tmp_path / "m.keras"), ds), out)


def test_a_roll_out_goes_on_from_the_mean_and_says_so(sea, untrained):
    sea = sea.assign(y=sea.y.fillna(280.0))
    model = untrained(sea, FieldSpec(["y", "x"], "y", target_offsets=1), Gaussian(), increment=True)
    out = physml.rollout(model, sea.isel(time=[0]), 2, forcing=sea[["x"]])
    first = predict(model, sea.isel(time=[0]))
    np.testing.assert_allclose(out.y.isel(time=0), first.y.isel(time=0), rtol=1e-6)
    second = sea.isel(time=[1]).assign(y=out.y.isel(time=[0]))
    np.testing.assert_allclose(out.y.isel(time=1), predict(model, second).y.isel(time=0), rtol=1e-6)
    assert list(out) == ["y"]
    assert "point forecast of Gaussian" in out.attrs["history"]


def test_an_ensemble_of_one_network_is_no_state(sea, untrained):
    sea = sea.assign(y=sea.y.fillna(280.0))
    model = untrained(sea, FieldSpec("y", "y", target_offsets=1), Samples(3))
    with pytest.raises(ValueError, match="the answer of Samples holds no state to go on from"):
        physml.FieldStep(model)


def test_several_leads_and_tiles_have_mean_and_spread(sea, untrained):
    spec = FieldSpec("x", "y", target_offsets=(1, 2), mask="wet")
    model = untrained(sea, spec, Gaussian(), any_size=True)
    out = predict(model, sea)
    assert out.y_std.dims == ("time", "lead", "lat", "lon")
    tiled = predict(model, sea, tiles={"lat": 2})
    for name in ("y", "y_std"):
        np.testing.assert_array_equal(tiled[name], out[name])


def test_members_are_labelled_and_their_mean_is_the_forecast(sea, untrained):
    head = Samples(4)
    out = predict(untrained(sea, SPEC, head), sea.chunk(time=8))
    assert out.y.dims == ("time", "member", "lat", "lon")
    assert out.member.attrs["standard_name"] == "realization"
    assert head.forecast(out).y.dims == ("time", "lat", "lon")


def test_arguments_that_mean_nothing_are_refused(sea, untrained):
    with pytest.raises(ValueError, match="sigma is not understood; did you mean 'constant'"):
        Gaussian("constent")
    with pytest.raises(ValueError, match="the least standard deviation is not above zero"):
        Gaussian(least=0)
    with pytest.raises(ValueError, match=r"Samples: too few members. Expected: a whole number n >= 2. Received: 1"):
        Samples(1)
    with pytest.raises(ValueError, match=r"not Gaussian in its own units.*or the head Quantiles"):
        untrained(sea, SPEC, Gaussian(), method={"y": "log"})
    with pytest.raises(ValueError, match="head Gaussian has no argument 'sigmas'; did you mean 'sigma'"):
        physml.heads.make_head({"type": "Gaussian", "sigmas": 1})
