"""Quantiles never cross, follow a transform of the target, and start from the climatology."""

import keras
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from scipy import stats

from physml import FieldModel, FieldSpec, NonNegative, Scaling, networks, predict
from physml.heads import Quantiles
from physml.model import load

SPEC = FieldSpec("x", "y", mask="wet", area="area")
LEVELS = st.lists(st.floats(0.01, 0.99), min_size=1, max_size=7, unique_by=lambda v: round(v, 3)).map(sorted)


@settings(max_examples=30)
@given(LEVELS, st.integers(0, 2**31))
def test_they_never_cross_whatever_the_network_gives(levels, seed):
    z = np.random.default_rng(seed).normal(scale=30, size=(20, len(levels))).astype("float32")
    found = ops.convert_to_numpy(Quantiles(levels)._increasing(ops.convert_to_tensor(z)))
    assert (np.diff(found, axis=-1) >= 0).all()


def test_a_network_of_zeros_answers_the_gaussian_of_the_training_data(sea):
    scaling = Scaling.fit(sea, SPEC)
    head = Quantiles()
    out = predict(FieldModel(networks.mlp(scaling.layout, outputs=head.channels(scaling.layout), hidden=()), scaling=scaling, head=head), sea)  # fmt: skip
    expected = stats.norm.ppf(head.levels, scaling.mean["y"], scaling.std["y"])
    np.testing.assert_allclose(out.y.isel(time=3, lat=1, lon=1), expected, rtol=1e-6)
    assert out.y.dims == ("time", "quantile", "lat", "lon")
    np.testing.assert_array_equal(out.y["quantile"], head.levels)
    assert out.y.attrs["units"] == "K"
    assert bool(out.y.isnull().any(("time", "quantile")).equals(~sea.wet))


@pytest.mark.parametrize(("method", "inverse"), [("log", np.exp), ("sqrt", np.square)])
def test_they_follow_the_transform_of_the_scaling(sea, untrained, method, inverse):
    bent = sea.assign(y=inverse(1.5 + 0.1 * (sea.y - 280)).assign_attrs(units="1"))
    straight = sea.assign(y=(1.5 + 0.1 * (sea.y - 280)).assign_attrs(units="1"))
    ours, plain = (
        untrained(ds, SPEC, Quantiles(), method={"y": m}) for ds, m in ((bent, method), (straight, "standard"))
    )
    np.testing.assert_allclose(predict(ours, sea).y, inverse(predict(plain, sea).y), rtol=2e-5)


def test_levels_of_a_field_and_their_quantiles_are_lazy_and_come_back_from_disk(sea, untrained, tmp_path):
    spec = FieldSpec("x", "z", levels="depth", mask="deep")
    model = untrained(sea, spec, Quantiles((0.1, 0.9)), constraints=[NonNegative("z")])
    out = predict(model, sea)
    assert out.z.dims == ("time", "quantile", "lat", "lon", "depth")
    assert float(out.z.min()) >= 0
    model.compile("sgd", "crps")
    model.save(tmp_path / "m.keras")
    again = predict(load(tmp_path / "m.keras"), sea.chunk(time=6))
    assert again.z.chunks is not None
    xr.testing.assert_allclose(again.compute(), out)
    loss = load(tmp_path / "m.keras").loss
    assert (loss.loss, loss.arguments) == ("crps", {"levels": [0.1, 0.9]})


def test_a_roll_out_goes_on_from_the_median_and_needs_one(sea, untrained):
    import physml

    sea = sea.assign(y=sea.y.fillna(280.0))
    spec = FieldSpec("y", "y", target_offsets=1)
    model = untrained(sea, spec, Quantiles((0.1, 0.5, 0.9)))
    out = physml.rollout(model, sea.isel(time=[0]), 2)
    first = predict(model, sea.isel(time=[0])).sel(quantile=0.5, drop=True)
    np.testing.assert_allclose(out.y.isel(time=0), first.y.isel(time=0), rtol=1e-6)
    assert out.y.dims == ("time", "lat", "lon")
    step = physml.FieldStep(model)
    state = model.layout.pack(sea.isel(time=[0]), "inputs").values
    np.testing.assert_allclose(ops.convert_to_numpy(step(state))[0, ..., 0], first.y.isel(time=0), rtol=1e-6)
    with pytest.raises(ValueError, match="the answer of Quantiles holds no state to go on from"):
        physml.rollout(untrained(sea, spec, Quantiles((0.1, 0.9))), sea.isel(time=[0]), 2)


@pytest.mark.parametrize("levels", [(), (0.5, 0.5), (0.9, 0.1), (0.0, 0.5), (0.5, 1.0)])
def test_levels_that_are_none_are_refused(levels):
    with pytest.raises(ValueError, match="the levels do not increase between 0 and 1"):
        Quantiles(levels)


def test_a_dimension_that_the_data_have_is_refused(sea):
    with pytest.raises(ValueError, match=r"the head would add the dimension 'lat'.*dim='...'"):
        Quantiles(dim="lat").answers(SPEC.bind(sea))


@pytest.mark.long
def test_training_separates_the_quantiles_of_skewed_noise():
    rng = np.random.default_rng(0)
    y = rng.gamma(2.0, size=(256, 16)).astype("float32")
    ds = xr.Dataset({"x": (("time", "i"), np.ones_like(y)), "y": (("time", "i"), y)}, {"time": np.arange(256)})
    spec = FieldSpec("x", "y")
    scaling = Scaling.fit(ds, spec, method={"x": "none"})
    head = Quantiles((0.1, 0.5, 0.9))
    model = FieldModel(networks.mlp(scaling.layout, outputs=3, hidden=()), scaling=scaling, head=head)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.05, 192)))
    model.fit(x=np.ones((256, 16, 1)), y=y[..., None], batch_size=16, epochs=12, verbose=0)
    found = predict(model, ds.isel(time=[0])).y.isel(time=0, i=0)
    np.testing.assert_allclose(found, np.quantile(y, head.levels), atol=0.03)
