from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops
from scipy.optimize import minimize

from physml import _backend
from physml.assimilation import BLUE, Diagonal, Gaussian, Matern, PointObservations, random_positions
from physml.assimilation.blue.estimate import estimate
from physml.assimilation.blue.forms import ObservationSpace
from physml.assimilation.blue.problems import KernelProblem


def run(layer, xf, arguments):
    """Return every part of the analysis as NumPy arrays, computed in float64."""
    with _backend.float64():
        return [np.asarray(ops.convert_to_numpy(x)) for x in layer.diagnose(ops.convert_to_tensor(xf), arguments)]


def wet(layer, x):
    return np.asarray(x).reshape(-1)[layer.mask.ravel()]


def test_analysis_and_posterior_are_those_of_the_kalman_update(small):
    layer, _, arguments, xf, dense = small
    xa, std, innovation, expected, chi2, used = run(layer, xf, arguments)
    reference, spread = dense.analysis(wet(layer, xf))
    assert np.abs(wet(layer, xa) - reference).max() < 1e-12
    assert np.abs(wet(layer, std) - spread).max() < 1e-12
    d = dense.d - dense.H @ wet(layer, xf)
    S = dense.H @ dense.B @ dense.H.T + dense.R
    assert np.allclose(innovation[0], d, rtol=0, atol=1e-13)
    assert np.allclose(expected[0], np.sqrt(np.diag(S)), rtol=1e-13)
    assert chi2[0] == pytest.approx(d @ np.linalg.solve(S, d) / 9, rel=1e-11) and used[0] == 9
    with _backend.float64():
        called = ops.convert_to_numpy(layer(ops.convert_to_tensor(xf), arguments))
    assert np.abs(called - xa).max() < 1e-13
    assert not xa[0, ~layer.mask].any()


def test_the_analysis_is_the_minimum_of_the_cost_function(small):
    layer, _, arguments, xf, dense = small
    x0, xa = wet(layer, xf), wet(layer, run(layer, xf, arguments)[0])
    root, inverse_r = np.linalg.cholesky(dense.B), np.linalg.inv(dense.R)

    def cost(c):
        """3D-Var in the control variable c, x = xf + B^1/2 c."""
        d = dense.d - dense.H @ (x0 + root @ c)
        return d @ inverse_r @ d + c @ c, 2 * (c - root.T @ dense.H.T @ inverse_r @ d)

    hessian = 2 * (np.eye(x0.size) + root.T @ dense.H.T @ inverse_r @ dense.H @ root)
    options = {"gtol": 1e-11}  # each step is solved exactly: quasi-Newton steps end where the processor rounds
    found = minimize(cost, np.zeros_like(x0), jac=True, hess=lambda c: hessian, method="trust-exact", options=options)
    assert np.abs(x0 + root @ found.x - xa).max() < 1e-10


def test_ridge_regression_is_blue(rng):
    from sklearn.linear_model import Ridge

    # H = the features, x = the parameters, R B^-1 = alpha: one feature for each of four cells.
    latitude, longitude = [0.0, 1.0], [0.0, 1.0]
    alpha, n = 0.7, 12
    layer = BLUE(Diagonal(1.0), np.sqrt(alpha), latitude=latitude, longitude=longitude, periodic=False, dtype="float64")
    features = rng.dirichlet(np.ones(4), size=n)
    target = rng.normal(size=n)
    arguments = {"values": target[None], "weights": features[None]}
    arguments["index"] = np.broadcast_to(np.arange(4, dtype="int32"), (1, n, 4))
    xa = run(layer, np.zeros((1, 2, 2, 1)), arguments)[0].ravel()
    reference = Ridge(alpha=alpha, fit_intercept=False, solver="cholesky").fit(features, target).coef_
    assert np.abs(xa - reference).max() < 1e-10


def test_the_analysis_is_the_posterior_of_a_gaussian_process(rng):
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel
    from sklearn.gaussian_process.kernels import Matern as Reference

    from physml.grid import EARTH_RADIUS

    latitude, longitude = np.linspace(-20, 20, 9), np.linspace(0, 355, 72)
    layer = BLUE(Matern(1.3, 900e3), 0.2, latitude=latitude, longitude=longitude, periodic=True, dtype="float64")
    cells = rng.choice(9 * 72, 40, replace=False)
    lat, lon = latitude[cells // 72], longitude[cells % 72]
    values = rng.normal(size=40)
    xa, std, *_ = run(layer, np.zeros((1, 9, 72, 1)), layer.prepare(PointObservations(values, lat, lon - 360)))
    kernel = ConstantKernel(1.3**2, "fixed") * Reference(900e3 / EARTH_RADIUS, "fixed", nu=1.5)
    process = GaussianProcessRegressor(kernel, alpha=0.04, optimizer=None).fit(layer.unit[cells], values)
    mean, deviation = process.predict(layer.unit, return_std=True)
    assert np.abs(xa.ravel() - mean).max() < 1e-10
    assert np.abs(std.ravel() - deviation).max() < 1e-9


def test_missing_observations_change_nothing_whatever_they_hold(small):
    layer, _, arguments, xf, _ = small
    gone = {k: v.copy() for k, v in arguments.items()}
    gone["values"][0, [1, 5]] = np.nan
    gone["error_std"] = gone["error_std"].copy()
    gone["error_std"][0, 1] = np.nan
    kept = {k: v[:, [0, 2, 3, 4, 6, 7, 8]] for k, v in arguments.items()}
    padded, removed = run(layer, xf, gone), run(layer, xf, kept)
    assert np.abs(padded[0] - removed[0]).max() < 1e-14
    assert np.abs(padded[1] - removed[1]).max() < 1e-14
    assert padded[4] == pytest.approx(removed[4], rel=1e-13) and padded[5] == 7
    assert np.isnan(padded[2][0, [1, 5]]).all() and np.isnan(padded[3][0, [1, 5]]).all()


def test_without_observations_the_forecast_stands_and_its_error_is_that_of_b(small):
    layer, _, arguments, xf, _ = small
    none = {**arguments, "values": np.full((1, 9), np.nan)}
    xa, std, innovation, _, chi2, used = run(layer, xf, none)
    assert np.array_equal(xa, xf)
    assert np.abs(wet(layer, std) - 0.8).max() < 1e-15
    assert np.isnan(innovation).all() and np.isnan(chi2).all() and used == 0


def test_two_observations_of_one_place_are_their_mean_with_half_the_error_variance(small):
    layer, _, _, xf, _ = small
    twice = layer.prepare(PointObservations([1.0, 2.0], [38, 38], [1, 1], error_std=0.3))
    once = layer.prepare(PointObservations([1.5], [38], [1], error_std=0.3 / np.sqrt(2)))
    a, b = run(layer, xf, twice), run(layer, xf, once)
    assert np.abs(a[0] - b[0]).max() < 1e-12 and np.abs(a[1] - b[1]).max() < 1e-12


def test_observations_on_land_and_outside_do_nothing(small):
    layer, _, arguments, xf, _ = small
    lost = PointObservations([5.0, 5.0, 1.0], [37.0, 60.0, 36.2], [0.0, 0.0, 1.4], error_std=0.1)
    arguments = layer.prepare(lost)
    *_, used = run(layer, xf, arguments)
    assert used == 1 and arguments["weights"].any(-1).tolist() == [[False, False, True]]
    alone = layer.prepare(PointObservations([1.0], [36.2], [1.4], error_std=0.1))
    assert np.abs(run(layer, xf, arguments)[0] - run(layer, xf, alone)[0]).max() < 1e-14
    with pytest.raises(ValueError, match="2 of 3 observations lie on land or outside"):
        layer.prepare(lost, outside="error")


def test_a_float32_model_loses_nothing_to_a_precise_observation():
    axis, rng = np.linspace(0, 20, 21), np.random.default_rng(4)
    at = random_positions(axis, axis, None, 80, rng)
    values = rng.normal(size=(1, 80)).astype("float32")
    xf = rng.normal(size=(1, 21, 21, 1)).astype("float32")
    make = {"latitude": axis, "longitude": axis, "periodic": False, "positions": at}
    layers = [BLUE(Gaussian(1.0, 1000e3), 1e-3, dtype=dtype, **make) for dtype in ("float32", "float64")]
    single = ops.convert_to_numpy(layers[0](xf, values))
    double = run(layers[1], xf.astype("float64"), values.astype("float64"))[0]
    assert single.dtype == np.float32
    assert np.abs(single - double).max() < 1e-7 * np.abs(double).max()


def test_chi_square_is_one_on_average_where_b_and_r_are_the_truth():
    latitude, longitude = np.linspace(-9, 9, 10), np.linspace(0, 30, 12)
    B, rng = Matern(0.7, 400e3, nu=1.5), np.random.default_rng(11)
    layer = BLUE(B, latitude=latitude, longitude=longitude, periodic=False, dtype="float64")
    lat, lon = (a.ravel() for a in np.meshgrid(latitude, longitude, indexing="ij"))
    root = np.linalg.cholesky(B.covariance((lat, lon), (lat, lon)))
    n = 30
    truth = (root @ rng.normal(size=(120, n))).T.reshape(n, 10, 12, 1)
    at = random_positions(latitude, longitude, None, (n, 25), rng)
    arguments = layer.prepare(PointObservations(np.zeros((n, 25)), *at, error_std=0.3))
    observed = (np.take_along_axis(truth.reshape(n, 120), arguments["index"].reshape(n, -1), 1)).reshape(n, 25, 4)
    arguments["values"] = (observed * arguments["weights"]).sum(-1) + rng.normal(0, 0.3, (n, 25))
    xa, std, _, _, chi2, _ = run(layer, np.zeros_like(truth), arguments)
    assert np.mean(chi2) == pytest.approx(1, abs=3 * np.sqrt(2 / (25 * n)))
    assert np.mean(((xa - truth) / std) ** 2) == pytest.approx(1, abs=0.08)


def along(function, x, direction, h=2e-3):
    """Derivative of a scalar function along a direction, by differences of fourth order."""
    low2, low, high, high2 = (function(x + k * h * direction) for k in (-2, -1, 1, 2))
    return (low2 - 8 * low + 8 * high - high2) / (12 * h)


CASES = ("forecast", "values", "error_std", "std", "std_field", "length", "time_length")


@pytest.mark.parametrize("what", CASES)
@pytest.mark.parametrize("kernel", [Gaussian, Matern])
def test_gradients_are_those_of_finite_differences(small, what, kernel):
    layer, _, arguments, xf, _ = small
    rng = np.random.default_rng(0)
    given = dict(layer._on_cells(arguments)[1])
    given["values"] = given["values"].copy()
    given["values"][0, 4] = np.nan
    given["lag"] = rng.uniform(-1e6, 1e6, (1, 9))
    upstream = rng.normal(size=(1, len(layer.unit)))
    given["forecast"] = wet(layer, xf)[None]
    B = kernel(0.8, 200e3, "9D")
    scale = {"length": 200e3, "time_length": 9 * 86400.0}.get(what, 1.0)
    start = {"std": np.array(0.8), "std_field": rng.uniform(0.5, 1, len(layer.unit))}.get(what)
    start = np.asarray(given[what] if what in given else start if start is not None else 1.0, "float64")

    def loss(x):
        x = ops.convert_to_tensor(x)
        arguments, background = dict(given), B
        if what in given:
            arguments[what] = ops.where(ops.isfinite(given[what]), x, np.nan) if what == "values" else x
        else:
            background = replace(B, **{what.removesuffix("_field"): x * scale})
        arguments["forecast"] = ops.convert_to_tensor(arguments["forecast"])
        forecast = arguments.pop("forecast")
        xa = estimate(KernelProblem(background, layer.unit, ObservationSpace), forecast, arguments)
        return ops.sum(xa * ops.convert_to_tensor(upstream))

    clean = np.nan_to_num(start)

    def number(x):
        with _backend.float64():
            return float(ops.convert_to_numpy(loss(x)))

    value, gradient = _backend.value_and_gradient(loss, clean)
    assert value == pytest.approx(number(clean), rel=1e-12)
    assert gradient.dtype == np.float64
    direction = rng.normal(size=clean.shape)
    assert np.sum(gradient * direction) == pytest.approx(along(number, clean, direction), rel=1e-8, abs=1e-8)
    if what == "values":
        assert gradient[0, 4] == 0


@pytest.mark.parametrize("shared", [True, False])
def test_gradients_of_a_batch_are_those_of_its_members(small, shared):
    layer, _, arguments, *_ = small
    rng = np.random.default_rng(1)
    batch, upstream = rng.normal(size=(3, 6, 7, 1)), rng.normal(size=(3, 6, 7, 1))
    observed = arguments if shared else {k: np.repeat(v, 3, axis=0) for k, v in arguments.items()}

    def loss(x, up, observed):
        return ops.sum(layer(ops.convert_to_tensor(x), observed) * ops.convert_to_tensor(up))

    _, gradient = _backend.value_and_gradient(lambda x: loss(x, upstream, observed), batch)
    for i in range(3):
        one = slice(i, i + 1)
        _, alone = _backend.value_and_gradient(lambda x, one=one: loss(x, upstream[one], arguments), batch[one])
        assert np.abs(alone - gradient[one]).max() < 1e-12


# Keras itself converts variables in a way that NumPy 2 warns of.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_the_layer_lives_in_a_model_that_is_saved_and_trained(tmp_path, dtype):
    rng = np.random.default_rng(2)
    latitude, longitude, mask = [2, 1, 0], [-10, 0, 10, 20], np.ones((3, 4), bool)
    mask[0, 0] = False
    at = ([0.5, 1.5, 2], [5, 15, 352])
    layer = BLUE(
        Matern(np.full((3, 4), 1.0), 1500e3),
        Diagonal(0.1),
        latitude=latitude,
        longitude=longitude,
        periodic=False,
        mask=mask,
        positions=at,
        dtype=dtype,
    )
    forecast, values = keras.Input((3, 4, 1)), keras.Input((3,))
    first = keras.layers.Conv2D(1, 1, dtype=dtype)(forecast)
    model = keras.Model([forecast, values], layer(first, values))
    assert model.output_shape == (None, 3, 4, 1)
    x = rng.normal(size=(8, 3, 4, 1)).astype("float32")
    y = rng.normal(size=(8, 3)).astype("float32")
    y[::2, 0] = np.nan
    before = model.predict([x, y], verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").predict([x, y], verbose=0)
    assert np.array_equal(again, before) and np.isfinite(before).all()
    if dtype == "float32":
        model.compile("sgd", "mse")
        loss = model.fit([x, y], np.zeros_like(x), epochs=3, verbose=0).history["loss"]
        assert loss[-1] < loss[0]


def test_the_layer_takes_positions_as_inputs_of_a_model(small):
    layer, _, arguments, xf, _ = small
    single = BLUE(layer.background_error, latitude=layer.latitude, longitude=layer.longitude, periodic=False)
    forecast = keras.Input((6, 7, 1))
    kinds = {"values": (9,), "error_std": (9,), "index": (9, 4), "weights": (9, 4)}
    inputs = {k: keras.Input(s, dtype="int32" if k == "index" else "float32", name=k) for k, s in kinds.items()}
    model = keras.Model([forecast, inputs], single(forecast, inputs))
    got = model.predict([xf.astype("float32"), {k: arguments[k] for k in kinds}], verbose=0)
    assert np.abs(got - ops.convert_to_numpy(single(xf.astype("float32"), arguments))).max() < 1e-4


@pytest.mark.parametrize(
    ("change", "call", "message"),
    [
        ({}, lambda b, x, a: b(x[:, :5], a), r"does not fit the grid. Expected: \[batch, 6, 7, 1\]"),
        ({}, lambda b, x, a: b(x, a["values"]), "observations without positions"),
        (
            {},
            lambda b, x, a: b(x, {**a, "weigths": a["weights"]}),
            "unknown part of the observations 'weigths'; did you mean",
        ),
        ({}, lambda b, x, a: b(x, {k: a[k] for k in ("values", "index", "weights")}), "BLUE: no observation error"),
        ({"background_error": Gaussian(1, 1e5, "1D")}, lambda b, x, a: b(x, a), "the observations have no time"),
        ({"mask": np.zeros((6, 7), bool)}, lambda b, x, a: b(x, a), "the mask has no wet cell"),
    ],
)
def test_what_does_not_fit_is_refused(small, change, call, message):
    layer, _, arguments, xf, _ = small
    make = {"background_error": layer.background_error, "latitude": layer.latitude, "longitude": layer.longitude}
    with pytest.raises(ValueError, match=message):
        call(BLUE(**{**make, "periodic": False, **change}), xf, arguments)
