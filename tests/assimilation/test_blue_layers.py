"""What the layers add to the forms of solution: choice, local tiles, learned covariances, any state vector."""

import keras
import numpy as np
import pytest
from keras import ops

from physml import _backend
from physml.assimilation import (
    BLUE,
    Diagonal,
    Diffusion,
    Ensemble,
    Gaussian,
    Matern,
    PointObservations,
    StateBLUE,
    analyse,
    random_positions,
)
from physml.assimilation.blue.choice import chosen


def numbers(x):
    return np.asarray(ops.convert_to_numpy(x))


def grid_of(layer):
    return {k: getattr(layer, k) for k in ("latitude", "longitude", "periodic", "mask")}


def along(function, x, direction, h=2e-3):
    low2, low, high, high2 = (function(x + k * h * direction) for k in (-2, -1, 1, 2))
    return (low2 - 8 * low + 8 * high - high2) / (12 * h)


@pytest.mark.parametrize("method", ["state", "pcg", "local"])
def test_forms_agree_on_a_grid_with_land(small, method):
    layer, _, arguments, xf, _ = small
    other = BLUE(layer.background_error, **grid_of(layer), dtype="float64", method=method, rtol=1e-14)
    with _backend.float64():
        one, two = (each.diagnose(ops.convert_to_tensor(xf), arguments) for each in (layer, other))
        signals = [numbers(each.influence(arguments).signal) for each in (layer, other)]
    assert np.abs(numbers(one.analysis) - numbers(two.analysis)).max() < 1e-10
    assert np.allclose(numbers(one.chi2), numbers(two.chi2), rtol=1e-9)
    if method != "pcg":
        assert np.abs(numbers(one.std) - numbers(two.std)).max() < 1e-10
        assert np.allclose(*signals, rtol=1e-10)
    assert layer.form == "observation space" != other.form


def test_local_analyses_leave_far_observations_out_and_tend_to_the_global_one(monkeypatch):
    monkeypatch.setattr("physml.assimilation.blue.grid_blue.TILE", 12)
    axis, rng = np.linspace(0, 11, 12), np.random.default_rng(1)
    lat, lon = random_positions(axis, axis, None, (1, 60), rng)
    obs = PointObservations(rng.normal(size=(1, 60)), lat, lon, error_std=0.3)
    xf = rng.normal(size=(1, 12, 12, 1))
    make = {"latitude": axis, "longitude": axis, "periodic": False, "dtype": "float64"}
    whole = BLUE(Matern(1.0, 150e3, nu=1.5), **make)
    given = whole.prepare(obs)
    with _backend.float64():
        xa, std = (numbers(a) for a in whole.diagnose(ops.convert_to_tensor(xf), given)[:2])
        errors = []
        for neighbours in (4, 16, 60):
            local = BLUE(Matern(1.0, 150e3, nu=1.5), **make, method="local", neighbours=neighbours)
            found = local.diagnose(ops.convert_to_tensor(xf), given)
            errors.append([np.abs(numbers(found.analysis) - xa).max(), np.abs(numbers(found.std) - std).max()])
    assert errors[0] > errors[1] > errors[2] and max(errors[2]) < 1e-12 and errors[1][0] < 0.1


@pytest.mark.parametrize("what", ["forecast", "values", "error_std", "std", "length"])
def test_gradients_of_local_analyses_are_those_of_finite_differences(monkeypatch, small, what):
    monkeypatch.setattr("physml.assimilation.blue.grid_blue.TILE", 10)
    layer, _, arguments, xf, _ = small
    rng = np.random.default_rng(2)
    up = rng.normal(size=xf.shape)
    start = {"forecast": xf, "values": arguments["values"], "error_std": arguments["error_std"]}.get(
        what, np.array(1.0)
    )

    def loss(x):
        given, forecast, B = dict(arguments), xf, Matern(0.8, 200e3, nu=1.5)
        if what == "forecast":
            forecast = x
        elif what in given:
            given[what] = x
        else:
            B = B.with_parameters({what: getattr(B, what) * x})
        local = BLUE(B, **grid_of(layer), dtype="float64", method="local", neighbours=3)
        return ops.sum(local(ops.convert_to_tensor(forecast), given) * ops.convert_to_tensor(up))

    def number(x):
        with _backend.float64():
            return float(numbers(loss(ops.convert_to_tensor(x))))

    _, gradient = _backend.value_and_gradient(loss, start)
    direction = rng.normal(size=start.shape)
    assert np.sum(gradient * direction) == pytest.approx(along(number, start, direction), rel=1e-8, abs=1e-8)


def test_auto_takes_what_costs_least():
    class B:
        def __init__(self, rank, precision=None, anomalies=None, size=10**4):
            self.size, self.rank, self.precision, self.anomalies = size, rank, precision, anomalies

    names = [
        (100, None, "observation space"),
        (6000, None, "local"),
        (100, B(10**6), "observation space"),
        (6000, B(10**6), "conjugate gradients"),
        (6000, B(3000), "state space"),
        (100, B(20, anomalies=1), "ensemble"),
        (10, B(20, anomalies=1), "observation space"),
        (100, B(10**6, precision=1), "observation space"),
        (300, B(10**6, precision=1), "precision"),
        (300, B(10**6, precision=1, size=10**6), "conjugate gradients"),
    ]
    for m, background, name in names:
        assert chosen("auto", m, background).name == name
    assert chosen("auto", 6000, None, in_time=True).name == "observation space"


@pytest.mark.parametrize(
    ("B", "form"),
    [
        (lambda small: Ensemble(np.random.default_rng(0).normal(size=(5, 40))), "ensemble"),
        (lambda small: Diffusion(0.8, 150e3), "observation space"),
    ],
)
def test_other_background_errors_are_bound_to_the_wet_cells(small, B, form):
    layer, _, arguments, xf, dense = small
    other = BLUE(B(small), **grid_of(layer), dtype="float64")
    with _backend.float64():
        found = other.diagnose(ops.convert_to_tensor(xf), arguments)
        matrix = numbers(other.bind(other.background_error).dense())
    dense.B = matrix
    at = layer.mask.ravel()
    xa, std = dense.analysis(xf.ravel()[at])
    assert other.form == form
    assert np.abs(numbers(found.analysis).ravel()[at] - xa).max() < 1e-11
    assert np.abs(numbers(found.std).ravel()[at] - std).max() < 1e-10


# Keras itself converts variables in a way that NumPy 2 warns of.
@pytest.mark.long
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_network_learns_the_covariances_end_to_end_and_keeps_them(tmp_path):
    axis, rng, n = np.linspace(0, 7, 8), np.random.default_rng(4), 128
    truth = Matern(1.0, 250e3, nu=1.5)
    cells = [a.ravel() for a in np.meshgrid(axis, axis, indexing="ij")]
    x = (np.linalg.cholesky(truth.covariance(cells, cells)) @ rng.normal(size=(64, n))).T
    at = rng.choice(64, 32, replace=False)
    d = (x[:, at] + rng.normal(0, 0.4, (n, 32))).astype("float32")
    make = {"latitude": axis, "longitude": axis, "periodic": False}
    layer = BLUE(
        Matern(1.0, 100e3, nu=1.5),
        1.0,
        **make,
        positions=(cells[0][at], cells[1][at]),
        trainable=("length", "error_std"),
    )
    first, seen = keras.Input((8, 8, 1)), keras.Input((32,))
    model = keras.Model([first, seen], layer(first, seen))
    model.compile(keras.optimizers.Adam(0.1), "mse")
    zero, y = np.zeros((n, 8, 8, 1), "float32"), x.reshape(n, 8, 8, 1).astype("float32")
    before = model.evaluate([zero, d], y, verbose=0)
    model.fit([zero, d], y, batch_size=128, epochs=100, verbose=0)
    after = model.evaluate([zero, d], y, verbose=0)
    # The squared error of the analysis is least for the true covariances; sigma_b stays, since it scales with sigma_o.
    assert after < 0.9 * before
    assert layer.parameters["length"] == pytest.approx(250e3, rel=0.05)
    assert layer.parameters["error_std"] == pytest.approx(0.4, rel=0.05)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(again.predict([zero, d], verbose=0), model.predict([zero, d], verbose=0))
    assert again.layers[-1].parameters == layer.parameters


def test_fitting_sets_the_layer_and_any_background_error_can_be_fitted():
    axis, rng, n = np.linspace(0, 9, 10), np.random.default_rng(5), 10
    make = {"latitude": axis, "longitude": axis, "periodic": False, "dtype": "float64"}
    truth = BLUE(Diffusion(0.8, 200e3), 0.3, **make)
    with _backend.float64():
        x = numbers(truth.bind(truth.background_error).root(ops.convert_to_tensor(rng.normal(size=(n, 100)))))
    lat, lon = random_positions(axis, axis, None, (n, 30), rng)
    given = truth.prepare(PointObservations(np.zeros((n, 30)), lat, lon))
    values = np.stack([(a[i] * w).sum(-1) for a, i, w in zip(x, given["index"], given["weights"], strict=True)])
    values += rng.normal(0, 0.3, values.shape)
    values[0, 3:] = np.nan
    innovations = PointObservations(values, lat, lon)
    with _backend.float64():
        layer = BLUE(Diffusion(0.4, 120e3), 0.5, **make, trainable=("std",))
        layer._logs["std"].assign(0.7)
    found = layer.fit(innovations)
    assert layer.background_error is found.background_error and layer.observation_error.std == found.error_std
    assert layer.parameters["std"] == found.background_error.std
    assert found.background_error.std == pytest.approx(0.8, rel=0.15)
    assert found.background_error.length == pytest.approx(200e3, rel=0.25)
    assert found.error_std == pytest.approx(0.3, rel=0.15)
    with _backend.float64():
        zero = ops.zeros((n, 10, 10, 1), dtype="float64")
        assert np.mean(numbers(layer.diagnose(zero, layer.prepare(innovations)).chi2)) == pytest.approx(1, abs=0.1)
    with pytest.raises(ValueError, match="loss 'inovation' is unknown; did you mean 'innovation'"):
        layer.fit(innovations, "inovation")


def test_a_variable_that_is_not_observed_follows_by_regression_on_the_one_that_is():
    # Two variables on five cells; errors of the second are half those of the first, plus their own.
    gap = np.abs(np.arange(5)[:, None] - np.arange(5))
    C, own = np.exp(-gap / 2.0), 0.3 * np.eye(5)
    B = np.zeros((10, 10))
    B[::2, ::2], B[1::2, 1::2], B[::2, 1::2], B[1::2, ::2] = C, 0.25 * C + own, 0.5 * C, 0.5 * C
    mask = np.array([True, True, False, True, True])
    wet = np.repeat(mask, 2)
    layer = StateBLUE(
        B[np.ix_(wet, wet)], 0.2, shape=(5, 2), mask=mask, operator=([[0], [6]], np.ones((2, 1))), dtype="float64"
    )
    xf = np.random.default_rng(0).normal(size=(1, 5, 2))
    d = xf[:, [0, 4], 0] + np.array([[1.0, -2.0]])
    with _backend.float64():
        xa = numbers(layer(ops.convert_to_tensor(xf), d))
        std = numbers(layer.diagnose(ops.convert_to_tensor(xf), d).std)
    change = xa - xf
    assert np.abs(change[0, :, 1] - 0.5 * change[0, :, 0]).max() < 1e-14 and not change[0, 2].any()
    assert change[0, 0, 0] == pytest.approx(1 / 1.04, rel=0.15) and std[0, 0, 1] > std[0, 0, 0]
    again = StateBLUE.from_config(layer.get_config())
    with _backend.float64():
        assert np.array_equal(numbers(again(ops.convert_to_tensor(xf), d)), xa)


@pytest.mark.parametrize("method", ["observation", "state", "pcg"])
def test_no_form_loses_digits_to_a_precise_observation_in_a_float32_model(method):
    axis, rng = np.linspace(0, 20, 15), np.random.default_rng(4)
    at = random_positions(axis, axis, None, 40, rng)
    values, xf = rng.normal(size=(1, 40)).astype("float32"), rng.normal(size=(1, 15, 15, 1)).astype("float32")
    make = {"latitude": axis, "longitude": axis, "periodic": False, "positions": at}
    single = numbers(BLUE(Matern(1.0, 300e3, nu=1.5), 1e-3, **make, method=method, rtol=1e-13)(xf, values))
    with _backend.float64():
        exact = BLUE(Matern(1.0, 300e3, nu=1.5), 1e-3, **make, dtype="float64")
        double = numbers(exact(ops.convert_to_tensor(xf.astype("float64")), values.astype("float64")))
    assert single.dtype == np.float32 and np.abs(single - double).max() < 1e-7 * np.abs(double).max()


def test_labelled_analyses_say_how_they_were_solved_and_what_observations_did(field, rng):
    lat, lon = random_positions(field.lat, field.lon, field.wet, (3, 12), rng)
    obs = PointObservations(rng.normal(20, 1, (3, 12)), lat, lon, field.time.values, 0.2, variable="sst")
    B = Matern(0.5, 600e3, nu=1.5)
    out, local = (analyse(field, obs, B, periodic=False, mask="wet", method=m) for m in ("auto", "local"))
    assert (out.attrs["solution"], local.attrs["solution"]) == ("observation space", "local")
    assert float(abs(out.sst - local.sst).max()) < 1e-12
    assert out.influence.dims == ("time", "obs") and out.signal.attrs["long_name"] == "degrees of freedom for signal"
    assert np.allclose(out.influence.sum("obs"), out.signal) and (0 < out.influence).all() and (out.influence < 1).all()
    assert "sst_std_error" not in out
    some = analyse(
        field.chunk(time=1), obs, Diffusion(0.5, 600e3), periodic=False, mask=field.wet, method="pcg", samples=24
    )
    exact = analyse(field, obs, Diffusion(0.5, 600e3), periodic=False, mask="wet")
    assert float(abs(some.sst - exact.sst).max()) < 1e-8 and some.attrs["solution"] == "conjugate gradients"
    z = ((some.sst_std - exact.sst_std) / some.sst_std_error).values
    assert 0.3 < np.sqrt(np.nanmean(z**2)) < 2 and some.sst_std_error.attrs["units"] == "degC"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda g: BLUE(Diagonal(1.0), 1.0, **g, method="cholesky"), "method 'cholesky' is unknown. Expected"),
        (
            lambda g: BLUE(Matern(1.0, 1e5), 1.0, **g, trainable=("lenght",)),
            "'lenght' is no parameter of Matern; did you",
        ),
        (lambda g: BLUE(Matern(1.0, 1e5), **g, trainable=("error_std",)), "'error_std' is no parameter"),
        (lambda g: StateBLUE(np.array([[1.0, 0.5], [0.4, 1.0]]), 1.0, shape=(2, 1)), "B is not symmetric"),
        (lambda g: StateBLUE(np.eye(3), 1.0, shape=(2, 1)), "Expected"),
        (lambda g: StateBLUE(np.eye(2), 1.0, shape=(2, 1), operator=np.ones((1, 3))), "H does not fit the state"),
        (lambda g: StateBLUE(np.eye(2), 1.0, shape=(2, 1), operator=([[2]], [[1.0]])), "the rows of H do not fit"),
        (lambda g: StateBLUE(np.eye(2), 1.0, shape=(2, 1), mask=np.ones(3)), "mask does not fit the state"),
        (lambda g: StateBLUE(np.eye(2), 1.0, shape=(2, 1))(np.zeros((1, 2, 1)), np.ones((1, 1))), "without places"),
    ],
)
def test_what_does_not_fit_is_refused(small, make, message):
    with pytest.raises(ValueError, match=message):
        make(grid_of(small[0]))


@pytest.mark.parametrize(
    ("B", "method", "message"),
    [
        (Gaussian(1.0, 1e5), "ensemble", "B is not that of an ensemble"),
        (Gaussian(1.0, 1e5), "precision", "B has no sparse inverse"),
        (Diffusion(1.0, 1e5), "local", "local analyses need B as a function of position"),
    ],
)
def test_forms_that_b_does_not_allow_are_refused(small, B, method, message):
    layer, _, arguments, xf, _ = small
    with pytest.raises(ValueError, match=message):
        BLUE(B, **grid_of(layer), method=method)(xf, arguments)


def test_an_observation_without_error_is_refused_and_a_missing_one_may_have_none(small):
    layer, _, arguments, xf, _ = small
    exact = {**arguments, "error_std": arguments["error_std"].copy(), "values": arguments["values"].copy()}
    exact["error_std"][0, 2] = 0.0
    with pytest.raises(ValueError, match="the observation error is not positive"):
        layer.diagnose(xf, exact)
    exact["values"][0, 2] = np.nan
    assert np.isfinite(numbers(layer.diagnose(xf, exact).analysis)).all()
