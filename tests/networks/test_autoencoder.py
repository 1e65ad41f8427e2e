"""An autoencoder squeezes maps through few numbers: as well as EOFs where it is linear, at random where it is variational."""

import keras
import numpy as np
import pytest
import xarray as xr

import physml
from physml import FieldModel, FieldSpec, NonNegative, Scaling, networks
from physml.learners import decode, draw_prior, encode
from physml.networks import InputNoise, LatentNormal, build, kl_divergence

RNG = np.random.default_rng(0)
ENDS = {"lat": "closed", "lon": "periodic"}


@pytest.fixture(scope="module")
def waves():
    """Sixty positive maps of 5 x 6 cells made by three waves and a little noise; one cell is land."""
    lat, lon = np.linspace(-1, 1, 5)[:, None], np.linspace(0, 2 * np.pi, 6, endpoint=False)
    patterns = np.stack([np.sin(lon) * (1 - lat**2), np.cos(lon) * lat, np.cos(2 * lon) + 0 * lat])
    maps = np.einsum("tk,kij->tij", RNG.normal(size=(60, 3)) * [3.0, 2.0, 1.0], patterns)
    wet = np.ones((5, 6), bool)
    wet[2, 3] = False
    return xr.Dataset(
        {
            "c": (("time", "lat", "lon"), (20 + maps + 0.1 * RNG.normal(size=maps.shape)).astype("float32")),
            "wet": (("lat", "lon"), wet),
        },
        {"time": xr.date_range("2000-01-01", periods=60), "lat": lat[:, 0], "lon": lon},
    ).assign_attrs(title="waves")


def model_of(ds, constraints=(), **arguments):
    spec = FieldSpec("c", "c", mask="wet")
    scaling = Scaling.fit(ds, spec)
    model = FieldModel(networks.autoencoder(scaling.layout, **arguments), scaling=scaling, constraints=constraints)
    return model, physml.Batches(ds, spec, 60)


def awake(model):
    """Give every weight a random value."""
    model.set_weights([RNG.normal(0, 0.3, w.shape) if w.dtype == np.float32 else w for w in model.get_weights()])
    return model


@pytest.mark.long
def test_a_linear_autoencoder_reaches_the_error_of_as_many_eofs(waves):
    model, batches = model_of(waves, kind="plain", latent=2, activation="linear")
    x, y, _ = batches[0]
    where = waves.wet.values
    rows = np.asarray(y, "float64")[:, where, 0]
    rows = (rows - float(waves.c.where(waves.wet).mean())) / float(waves.c.where(waves.wet).std())
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
    best = np.sum(values[2:] ** 2) / rows.size
    rate = keras.optimizers.schedules.CosineDecay(3e-2, 500)
    model.compile(keras.optimizers.Adam(rate), "mse", jit_compile=False)
    for _ in range(500):
        model.train_on_batch(x, y)
    found = (np.asarray(model(x))[:, where, 0] - np.asarray(y)[:, where, 0]) / float(waves.c.where(waves.wet).std())
    assert best <= np.mean(found.astype("float64") ** 2) * (1 + 1e-6)
    assert np.mean(found**2) < 1.01 * best


@pytest.mark.parametrize("filters", [pytest.param((), marks=pytest.mark.long), (3,)])
def test_maps_pass_through_latent_vectors_lazily_and_by_name(waves, filters, nothing_computed, tmp_path):
    model, _ = model_of(
        waves, [NonNegative("c")], kind="plain", latent=2, hidden=(7,), filters=filters, boundary=ENDS, seed=3
    )
    awake(model)
    latent = encode(model, waves)
    assert latent.code.dims == ("time", "latent")
    assert latent.sizes["latent"] == 2
    assert latent.attrs["title"] == "waves"
    expected = physml.predict(model, waves)
    xr.testing.assert_allclose(decode(model, latent).c, expected.c, atol=1e-4)
    assert bool(decode(model, latent).c[:, 2, 3].isnull().all())
    model.save(tmp_path / "m.keras")
    with nothing_computed():
        lazy = decode(str(tmp_path / "m.keras"), encode(str(tmp_path / "m.keras"), waves.chunk(time=25), batch_size=8))
    xr.testing.assert_allclose(lazy.c.compute(), expected.c, atol=1e-4)


def test_odd_maps_come_back_in_their_size_and_begin_at_the_mean():
    ds = xr.Dataset({"c": (("time", "x"), RNG.normal(size=(5, 11)))}, {"time": np.arange(5)})
    layout = FieldSpec("c", "c").bind(ds)
    network = networks.autoencoder(layout, kind="plain", latent=2, filters=(2, 3, 3), boundary={"x": "open"})
    assert network.output_shape == (None, 11, 1)
    assert not network.predict_on_batch(np.ones((2, 11, 1), "float32")).any()


def test_circles_and_poles_want_levels_that_divide_them():
    maps = xr.DataArray(np.zeros((3, 6, 10), "float32"), dims=("time", "lat", "lon"))
    layout = FieldSpec("a", "a").bind(xr.Dataset({"a": maps}, {"time": np.arange(3), "lat": np.linspace(-75, 75, 6)}))
    shared = {"kind": "plain", "latent": 2, "filters": (2, 2)}
    with pytest.raises(ValueError, match=r"autoencoder: pooling does not divide 'lon'.*5 of 10 cells"):
        networks.autoencoder(layout, boundary=ENDS, **shared)
    with pytest.raises(ValueError, match=r"the encoder: pooling does not divide 'lon'.*5 of 10 cells"):
        networks.lstm(layout, boundary=ENDS, flatten=True, encoder="convolutional")
    assert networks.autoencoder(layout, boundary={"lat": "open", "lon": "open"}, **shared).output_shape[1:] == (
        6,
        10,
        1,
    )


def test_noise_is_there_in_training_alone_and_not_on_land():
    layer = InputNoise(0.5, seed=1)
    x = np.ones((400, 50, 1), "float32")
    x[:, 3] = 0
    noisy = np.asarray(layer(x, training=True))
    np.testing.assert_array_equal(np.asarray(layer(x)), x)
    assert not noisy[:, 3].any()
    assert abs((noisy - x)[:, 4:].std() - 0.5) < 0.01
    np.testing.assert_array_equal(np.asarray(InputNoise(0.5, seed=1)(x, training=True)), noisy)
    assert (np.asarray(layer(x, training=True)) != noisy).any()


def test_the_divergence_is_that_of_two_normal_distributions():
    mean, std = np.array([0.7, -0.2]), np.array([0.5, 1.7])
    x = mean + std * RNG.normal(size=(400_000, 2))
    # E[log q - log p] over draws from q.
    log_ratio = 0.5 * x**2 - 0.5 * ((x - mean) / std) ** 2 - np.log(std)
    exact = float(kl_divergence(mean[None].astype("float32"), 2 * np.log(std)[None].astype("float32"))[0])
    assert abs(exact - log_ratio.sum(1).mean()) < 5 * log_ratio.sum(1).std() / np.sqrt(len(x))
    np.testing.assert_allclose(exact, np.sum(0.5 * (std**2 + mean**2 - 1) - np.log(std)), rtol=1e-6)


def test_latent_vectors_are_drawn_in_training_and_the_divergence_joins_the_loss():
    stats = np.tile([[1.0, -1.0, 2 * np.log(0.5), 0.0]], (20_000, 1)).astype("float32")
    layer = LatentNormal(weight=0.1, warmup=4, seed=0)
    np.testing.assert_array_equal(np.asarray(layer(stats)), stats[:, :2])
    assert not layer.losses
    kl = 0.5 * (0.25 + 1 - 1 - np.log(0.25)) + 0.5
    for step in range(6):
        drawn = np.asarray(layer(stats, training=True))
        np.testing.assert_allclose(float(layer.losses[-1]), 0.1 * min(step / 4, 1) * kl, rtol=1e-5)
    np.testing.assert_allclose(drawn.mean(0), [1, -1], atol=0.03)
    np.testing.assert_allclose(drawn.std(0), [0.5, 1], atol=0.03)


def test_a_variational_model_trains_is_deterministic_in_predict_and_draws_from_its_prior(waves, tmp_path):
    model, batches = model_of(waves, [NonNegative("c")], kind="variational", latent=2, hidden=(8,), beta=0.5, warmup=3)
    model.compile(keras.optimizers.Adam(1e-2), "mse", jit_compile=False)
    x, y, _ = batches[0]
    start = model.evaluate(x, y, verbose=0)
    history = model.fit(batches, epochs=40, verbose=0).history["loss"]
    assert model.evaluate(x, y, verbose=0) < 0.8 * start
    assert history[-1] > model.evaluate(x, y, verbose=0)  # the divergence counts in training alone
    first = physml.predict(model, waves)
    xr.testing.assert_identical(physml.predict(model, waves).c, first.c)
    latent = encode(model, waves)
    assert set(latent) == {"code", "code_std"}
    assert 0 < float(latent.code_std.min()) < 1
    maps = draw_prior(model, 3, seed=1)
    assert maps.c.dims == ("member", "lat", "lon")
    assert bool(maps.c[:, 2, 3].isnull().all()) and float(maps.c.min()) >= 0
    model.save(tmp_path / "m.keras")
    more = draw_prior(str(tmp_path / "m.keras"), 4, seed=1)
    xr.testing.assert_allclose(more.c.isel(member=slice(3)), maps.c, atol=1e-5)
    assert float(abs(draw_prior(model, 3, seed=2).c - maps.c).max()) > 0.01


def test_what_needs_inputs_asks_for_them(waves):
    model, _ = model_of(waves, [physml.Conserve("c", over=("lat", "lon"))], kind="plain", latent=2)
    latent = encode(awake(model), waves)
    with pytest.raises(ValueError, match=r"decode: Conserve follows from the input 'c'.*decode\(model, latent, ds\)"):
        decode(model, latent)
    found = decode(model, latent, waves).c
    xr.testing.assert_allclose(found, physml.predict(model, waves).c, atol=1e-4)


def test_parts_are_asked_of_autoencoders_alone(waves):
    scaling = Scaling.fit(waves, FieldSpec("c", "c", mask="wet"))
    with pytest.raises(ValueError, match=r"'mlp' is no autoencoder.*layers named 'encoder' and 'decoder'"):
        encode(FieldModel(networks.mlp(scaling.layout), scaling=scaling), waves)
    model, _ = model_of(waves, kind="plain", latent=2)
    with pytest.raises(ValueError, match=r"no prior.*kind='variational'"):
        draw_prior(model, 2, seed=0)
    with pytest.raises(ValueError, match=r"the vectors do not fit the decoder.*'latent' of 2"):
        decode(model, xr.DataArray(np.zeros((3, 4)), dims=("time", "latent")))
    with pytest.raises(ValueError, match="missing"):
        encode(model, waves.where(waves.lon > 1))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "plane"}, r"unknown kind of autoencoder 'plane'; did you mean 'plain'"),
        ({"kind": "plain", "latent": 0}, r"latent is no count"),
        ({"kind": "denoising"}, r"noise does not fit the kind 'denoising'.*noise=0.3"),
        ({"kind": "plain", "noise": 1.0}, r"noise does not fit the kind 'plain'"),
        ({"kind": "plain", "filters": (3,)}, r"the boundary does not fit the grid"),
        ({"kind": "plain", "filters": (3,), "kernel_size": 2}, r"an odd kernel.*kernel 2"),
        ({"kind": "plain", "any_size": True}, r"no maps of any size: one vector stands for the whole map"),
    ],
)
def test_what_cannot_be_built_is_refused(waves, arguments, words):
    layout = FieldSpec("c", "c").bind(waves)
    with pytest.raises(ValueError, match=words):
        build("autoencoder", layout, **{"latent": 2, **arguments})


def test_the_weight_of_the_divergence_grows_in_half_precision_too():
    layer = LatentNormal(1.0, warmup=4000, dtype="mixed_float16")
    layer(np.ones((2, 4)))
    layer.steps.assign(3000.0)
    layer(np.ones((2, 4)), training=True)
    assert float(layer.steps.value) == 3001.0
    assert float(layer.losses[0]) == pytest.approx(
        3000 / 4000 * float(kl_divergence(np.ones((1, 2)), np.ones((1, 2)))[0])
    )
