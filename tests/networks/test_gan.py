"""A generator inside a FieldModel: the penalty is exact, the laws hold in every draw, and noise follows its labels."""

import keras
import numpy as np
import pytest
import xarray as xr

import physml
from physml import FieldModel, FieldSpec, Scaling, _backend, networks
from physml.learners import generate, with_noise, with_noise_inputs
from physml.losses import fair_crps
from physml.networks import WGAN, critic, gradient_penalty

RNG = np.random.default_rng(0)
ENDS = {"y": "closed", "x": "periodic"}


@pytest.fixture(scope="module")
def fine():
    """Twenty positive maps of 4 x 8 cells, and the means over blocks of 2 x 2 of them; two blocks are land."""
    maps = RNG.gamma(2.0, size=(20, 4, 8)).astype("float32")
    coarse = maps.reshape(20, 2, 2, 4, 2).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    wet = np.ones((4, 8), bool)
    wet[:2, 2:6] = False
    return xr.Dataset(
        {
            "rain": (("time", "y", "x"), maps, {"units": "mm", "long_name": "rain"}),
            "coarse": (("time", "y", "x"), coarse, {"units": "mm"}),
            "wet": (("y", "x"), wet),
        },
        {"time": xr.date_range("2000-01-01", periods=20), "y": np.arange(4.0), "x": np.arange(8.0)},
    )


SPEC = with_noise_inputs(FieldSpec("coarse", "rain", mask="wet"), channels=2)
LAWS = [physml.NonNegative("rain"), physml.BlockMean("rain", "coarse", {"y": 2, "x": 2})]


def made(ds, seed=0, laws=LAWS, judge=None, **arguments):
    noisy = with_noise(ds, SPEC, seed=0)
    scaling = Scaling.fit(noisy, SPEC)
    network = networks.mlp(scaling.layout, hidden=(4,), seed=seed)
    generator = FieldModel(network, scaling=scaling, constraints=laws)
    if judge is None:
        judge = critic(scaling.layout, boundary=ENDS, filters=(4,), hidden=(4,), seed=seed)
    batches = physml.Batches(noisy, SPEC, 5, shuffle=True, seed=seed)
    return WGAN(generator, judge, seed=seed, **arguments), batches


def test_the_penalty_of_a_linear_critic_is_that_of_its_weights(fine):
    start = keras.Input((4, 8, 2))
    judge = keras.Model(start, keras.layers.Dense(1)(keras.layers.Flatten()(start)))
    gan, batches = made(fine, laws=[], judge=judge)
    x, y, w = batches[0]
    noise, between = RNG.normal(size=(5, 4, 8, 2)).astype("float32"), np.full((5, 1, 1, 1), 0.3, "float32")
    loss, (distance, penalty) = gan._critic_loss(x, y, w, noise, between)
    weights = np.asarray(judge.get_weights()[0]).reshape(4, 8, 2)[..., 1] * fine.wet.values
    expected = (np.sqrt(np.sum(weights.astype("float64") ** 2)) - 1) ** 2
    np.testing.assert_allclose(float(penalty), expected, rtol=1e-5)
    np.testing.assert_allclose(float(loss), 10 * float(penalty) - float(distance), rtol=1e-5)


def test_the_gradient_of_the_critics_loss_is_that_of_finite_differences(fine):
    start = keras.Input((4, 8, 2))
    x = keras.layers.Dense(5, "tanh", kernel_initializer=keras.initializers.GlorotUniform(1))(
        keras.layers.Flatten()(start)
    )
    judge = keras.Model(start, keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(2))(x))
    gan, batches = made(fine, laws=[], judge=judge)
    x, y, w = batches[0]
    args = (x, y, w, RNG.normal(size=(5, 4, 8, 2)).astype("float32"), np.full((5, 1, 1, 1), 0.3, "float32"))
    others = [*judge.non_trainable_variables, *gan.generator.variables]
    _, _, slopes = _backend.gradients(gan._critic_loss, judge.trainable_variables, others)(*args)
    for variable, slope in list(zip(judge.trainable_variables, slopes, strict=True))[:3:2]:
        kept, slope, other = np.array(variable), np.asarray(slope), RNG.normal(size=variable.shape)
        direction = (slope / np.linalg.norm(slope) + 0.5 * other / np.linalg.norm(other)).astype("float32")
        ends = []
        for step in (1e-2, -1e-2):
            variable.assign(kept + step * direction)
            ends.append(float(gan._critic_loss(*args)[0]))
        variable.assign(kept)
        found = float(np.sum(slope * direction))
        np.testing.assert_allclose((ends[0] - ends[1]) / 2e-2, found, rtol=1e-2)


def test_the_penalty_has_a_gradient_where_the_critic_is_flat():
    _, slope = _backend.value_and_gradient(lambda s: gradient_penalty(s)[0], np.zeros((1, 3), "float32"))
    assert np.isfinite(slope).all()


def test_the_crps_of_an_ensemble_is_the_sum_over_pairs():
    members, truth = RNG.normal(size=(5, 7)), RNG.normal(size=7)
    pairs = np.abs(members[:, None] - members[None]).sum((0, 1)) / (2 * 5 * 4)
    expected = np.abs(members - truth).mean(0) - pairs
    np.testing.assert_allclose(np.asarray(fair_crps(truth, members.T)), expected, rtol=1e-5)


def test_training_moves_both_and_follows_the_seed(fine):
    runs = []
    for _ in range(2):
        gan, batches = made(fine, 1, [], n_critic=2, content="crps", members=2, learning_rate=1e-2)
        before = [np.array(w) for w in gan.generator.get_weights()]
        history = gan.fit(batches, epochs=1)
        assert set(history) == {"distance", "penalty", "verdict", "content"}
        assert all(len(v) == 1 and np.isfinite(v).all() for v in history.values())
        assert any((a != b).any() for a, b in zip(before, gan.generator.get_weights(), strict=True))
        runs.append([*gan.generator.get_weights(), *gan.critic.get_weights()])
    for first, again in zip(*runs, strict=True):
        np.testing.assert_allclose(first, again, atol=1e-6)


def test_neither_land_nor_missing_truth_tells_a_patch_from_a_generated_one(fine):
    """The critic sees 0 where there is no truth, whatever the generator answers there."""
    spec = with_noise_inputs(FieldSpec("coarse", "rain", mask="wet"), channels=1)
    noisy = with_noise(fine, spec, seed=0)
    noisy["rain"] = noisy.rain.where(noisy.x != 7)
    scaling = Scaling.fit(noisy.isel(x=slice(7)), spec)
    scaling = Scaling.from_config(scaling.to_config(), spec.bind(noisy))
    generator = FieldModel(networks.mlp(scaling.layout, hidden=(3,), any_size=True), scaling=scaling)
    generator.set_weights([RNG.normal(size=w.shape) for w in generator.get_weights()])
    judge = critic(scaling.layout, boundary=ENDS, filters=(2,), hidden=(2,), any_size=True)
    seen = []

    def told(z, training=None):
        seen.append(_backend.concrete(z))
        return judge(z)

    gan = WGAN(generator, judge, content="mse", n_critic=10)
    gan.critic = told
    batches = physml.Batches(noisy, spec, 4, patches=physml.Patches({"y": 4, "x": 6}), missing="mask", fill=np.nan)
    for i in range(len(batches)):
        x, y, w = batches[i]
        noise = RNG.normal(size=(1, *x.shape[:-1], 1)).astype("float32")
        _, (_, penalty) = gan._critic_loss(x, y, w, noise[0], np.full((len(x), 1, 1, 1), 0.5, "float32"))
        gan._generator_loss(x, y, w, noise)
        assert np.isfinite(float(penalty))
        whole = [z for z in seen if z is not None]  # JAX traces what it differentiates
        assert len(whole) >= 3
        for z in whole:
            assert not z[..., -1][np.broadcast_to(w == 0, z.shape[:-1])].any()
            assert np.isfinite(z).all()
        seen.clear()


def test_every_member_obeys_the_laws_and_comes_back_from_disk(fine, tmp_path, nothing_computed):
    gan, _ = made(fine)
    gan.generator.set_weights([RNG.normal(size=w.shape) for w in gan.generator.get_weights()])
    out = generate(gan.generator, fine, members=3, seed=5)
    assert out.rain.dims == ("member", "time", "y", "x")
    assert out.rain.attrs["units"] == "mm"
    assert bool(out.rain.where(~fine.wet, drop=True).isnull().any())
    assert float(out.rain.min()) >= 0
    blocks = out.rain.astype("float64").coarsen(y=2, x=2).mean()
    expected = fine.coarse.where(fine.wet).astype("float64").coarsen(y=2, x=2).mean()
    np.testing.assert_allclose(blocks, expected.expand_dims(member=3), rtol=1e-6)
    assert float(out.rain.std("member").max()) > 1e-3
    gan.generator.save(tmp_path / "g.keras")
    with nothing_computed():
        lazy = generate(str(tmp_path / "g.keras"), fine.chunk(time=7), members=4, seed=5)
    xr.testing.assert_allclose(lazy.rain.isel(member=slice(3)).compute(), out.rain, atol=1e-5)


@pytest.mark.parametrize("labels", ["dates", "numbers", "floats", "cftime", "none"])
def test_noise_follows_its_labels_whatever_the_chunks(fine, labels):
    ds = fine[["coarse", "rain"]]
    if labels == "none":
        ds = ds.drop_vars("time")
    elif labels != "dates":
        axis = {"numbers": np.arange(20) - 5, "floats": np.linspace(0, 1, 20)}.get(labels)
        ds = ds.assign_coords(time=xr.date_range("2000", periods=20, use_cftime=True) if axis is None else axis)
    whole = with_noise(ds, SPEC, seed=3, members=2).noise
    lazy = with_noise(ds.chunk(time=6), SPEC, seed=3, members=3).noise
    assert lazy.chunks is not None
    xr.testing.assert_identical(lazy.isel(member=slice(2)).compute(), whole)
    if labels != "none":
        cut = with_noise(ds.isel(time=slice(4, 9)), SPEC, seed=3, members=2).noise
        xr.testing.assert_identical(cut, whole.isel(time=slice(4, 9)))
    flat = whole.values.reshape(40, -1)
    assert abs(np.corrcoef(flat) - np.eye(40)).max() < 0.6
    assert abs(flat.mean()) < 0.06 and abs(flat.std() - 1) < 0.05
    assert (with_noise(ds, SPEC, seed=4, members=2).noise != whole).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda ds: with_noise(ds, FieldSpec("coarse", "rain"), seed=0), r"the spec has no noise.*with_noise_inputs"),
        (lambda ds: with_noise(ds, SPEC, seed=-1), r"members >= 1 and seed >= 0.*seed=-1"),
        (lambda ds: with_noise_inputs(SPEC, channels=2), r"the name 'member' is taken"),
        (lambda ds: with_noise_inputs(FieldSpec("coarse", "rain"), channels=0), r"channels is no count"),
        (lambda ds: made(ds, laws=[], content="crsp"), r"unknown content loss 'crsp'; did you mean 'crps'"),
        (lambda ds: made(ds, laws=[], content="crps"), r"for 'crps' >= 2.*members=1"),
        (
            lambda ds: made(ds, judge=critic(with_noise(ds, SPEC, seed=0).pipe(SPEC.bind), boundary={"y": "open"})),
            r"boundary does not fit the grid",
        ),
        (
            lambda ds: made(ds, laws=[], judge=keras.Sequential([keras.Input((4, 8, 3)), keras.layers.Dense(1)])),
            r"does not take the condition and the targets.*2 channels.*Received: 3",
        ),
        (
            lambda ds: made(
                ds,
                laws=[],
                judge=keras.Sequential([keras.Input((4, 8, 2)), keras.layers.Dense(1, dtype="mixed_float16")]),
            ),
            r"vanish in half precision.*float32 or bfloat16.*in float16",
        ),
        (
            lambda ds: critic(FieldSpec("coarse", "rain").bind(ds), boundary=ENDS),
            r"the generator reads no noise.*an input 'noise'",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(fine, call, words):
    with pytest.raises(ValueError, match=words):
        call(fine)


@pytest.mark.long
def test_two_branches_are_told_apart_where_least_squares_takes_their_mean():
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, 4000)
    y = (1 + 0.5 * x) * rng.choice([-1, 1], 4000) + 0.05 * rng.normal(size=4000)
    ds = xr.Dataset({n: ("time", v.astype("float32")) for n, v in (("x", x), ("y", y))}, {"time": np.arange(4000)})
    plain = FieldSpec("x", "y")
    scaling = Scaling.fit(ds, plain)
    mean = FieldModel(networks.mlp(scaling.layout, hidden=(32, 32)), scaling=scaling)
    mean.compile("adam", "mse")
    mean.fit(physml.Batches(ds, plain, 200, shuffle=True), epochs=10, verbose=0)
    assert float(abs(physml.predict(mean, ds).y).max()) < 0.3  # where no truth is
    spec = with_noise_inputs(plain, channels=2)
    noisy = with_noise(ds, spec, seed=0)
    scaling = Scaling.fit(noisy, spec)
    generator = FieldModel(networks.mlp(scaling.layout, hidden=(32, 32)), scaling=scaling)
    options = {"n_critic": 2, "penalty": 0.1, "learning_rate": 1e-3, "betas": (0.5, 0.9)}
    gan = WGAN(generator, critic(scaling.layout, hidden=(64, 64)), seed=0, **options)
    gan.fit(physml.Batches(noisy, spec, 200, shuffle=True), epochs=120)
    drawn = generate(generator, ds.isel(time=slice(400)), members=50, seed=1).y.transpose("time", "member").values
    branch = 1 + 0.5 * x[:400, None]
    near = [np.mean(np.abs(drawn - sign * branch) < 0.3, axis=1) for sign in (1, -1)]
    assert np.mean(near[0] + near[1]) > 0.93
    assert min(np.mean(near[0]), np.mean(near[1])) > 0.4
