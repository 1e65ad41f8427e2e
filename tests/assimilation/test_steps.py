import keras
import numpy as np
import pytest
from keras import ops
from scipy.integrate import solve_ivp

from physml import _backend
from physml.assimilation import RK4, Euler, Unrolled


@keras.saving.register_keras_serializable(package="tests")
def spring(x):
    """Tendency of (place, velocity) on a spring that hardens: Duffing's equation."""
    return ops.stack([x[..., 1], -x[..., 0] - x[..., 0] * ops.square(x[..., 0])], axis=-1)


@keras.saving.register_keras_serializable(package="tests")
def driven(x, forcing):
    """Tendency that tends to the forcing."""
    return forcing - x


def numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


@pytest.mark.parametrize(("scheme", "order"), [(Euler, 1), (RK4, 4)])
def test_schemes_converge_with_their_order(scheme, order):
    errors = []
    with _backend.float64():
        start = ops.convert_to_tensor(np.array([[[0.9, 0.1]]]))
        exact = solve_ivp(lambda t, x: [x[1], -x[0] - x[0] ** 3], (0, 1), [0.9, 0.1], rtol=1e-13, atol=1e-13).y[:, -1]
        for n in (8, 16, 32):
            step = scheme(spring, 1 / n, dtype="float64")
            errors.append(np.abs(numpy(Unrolled(step, n, False, dtype="float64")(start)) - exact).max())
    slope = np.log2(errors[1] / errors[2])
    assert abs(slope - order) < 0.1


def test_the_forcing_is_held_over_its_step():
    with _backend.float64():
        state = ops.convert_to_tensor(np.zeros((2, 3, 1)))
        forcing = ops.convert_to_tensor(np.arange(2 * 4 * 3).reshape(2, 4, 3, 1).astype("float64"))
        path = numpy(Unrolled(Euler(driven, 0.5, dtype="float64"), 4, dtype="float64")(state, forcing))
        x, f = np.zeros((2, 3, 1)), numpy(forcing)
        for n in range(4):
            x = x + 0.5 * (f[:, n] - x)
            assert np.array_equal(path[:, n], x)


def test_the_gradient_through_the_unrolled_steps_is_that_of_finite_differences():
    layer = Unrolled(RK4(spring, 0.2, dtype="float64"), 5, dtype="float64")
    rng = np.random.default_rng(0)
    start, upstream, direction = rng.normal(size=(2, 3, 2)), rng.normal(size=(2, 5, 3, 2)), rng.normal(size=(2, 3, 2))

    def loss(x):
        return ops.sum(layer(ops.convert_to_tensor(x)) * ops.convert_to_tensor(upstream))

    _, gradient = _backend.value_and_gradient(loss, start)
    with _backend.float64():
        low2, low, high, high2 = (float(loss(start + k * 1e-3 * direction)) for k in (-2, -1, 1, 2))
    numeric = (low2 - 8 * low + 8 * high - high2) / 12e-3
    assert np.sum(gradient * direction) == pytest.approx(numeric, rel=1e-9)


# Keras itself converts variables in a way that NumPy 2 warns of.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_tendency_network_is_trained_through_the_scheme_and_saved(tmp_path):
    state, forcing = keras.Input((4, 1)), keras.Input((4, 2))
    tendency = keras.Model([state, forcing], keras.layers.Dense(1)(keras.layers.Concatenate()([state, forcing])))
    held = keras.Input((3, 4, 2))
    model = keras.Model([state, held], Unrolled(RK4(tendency, 0.1), 3)(state, held))
    assert model.output_shape == (None, 3, 4, 1)
    assert len(model.trainable_variables) == 2
    rng = np.random.default_rng(0)
    x, f = rng.normal(size=(16, 4, 1)).astype("float32"), rng.normal(size=(16, 3, 4, 2)).astype("float32")
    model.compile("sgd", "mse")
    loss = model.fit([x, f], np.zeros((16, 3, 4, 1)), epochs=3, verbose=0).history["loss"]
    assert loss[-1] < loss[0]
    model.save(tmp_path / "steps.keras")
    again = keras.saving.load_model(tmp_path / "steps.keras")
    assert np.allclose(again.predict([x, f], verbose=0), model.predict([x, f], verbose=0), atol=1e-6)


def test_registered_functions_survive_serialisation():
    layer = Unrolled(Euler(spring, 0.5), 2, return_sequence=False)
    again = Unrolled.from_config(layer.get_config())
    x = np.ones((1, 2, 2), "float32")
    assert np.array_equal(numpy(again(x)), numpy(layer(x)))
    assert layer.compute_output_shape((None, 2, 2)) == (None, 2, 2)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Euler("decay", 1.0), ValueError, "Euler: the tendency cannot be called. Expected: a network, a layer"),
        (lambda: RK4(spring, 0.0), ValueError, "RK4: dt is not positive"),
        (lambda: Unrolled(spring, 0), ValueError, "Unrolled: n is no number of steps"),
        (
            lambda: Unrolled(Euler(driven, 1.0), 2)(np.zeros((1, 3, 1)), np.zeros((1, 4, 3, 1))),
            ValueError,
            r"the forcing does not fit. Expected: \[batch, 2, \*space, channel\]. Received: \[1, 4, 3, 1\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
