"""Exponents whose values or sums are known exactly."""

import keras
import numpy as np
import pytest

from physml.assimilation import RK4, kaplan_yorke, lyapunov_spectrum
from physml.testbeds import lorenz63, lorenz96


def test_a_linear_network_has_the_logarithms_of_its_eigenvalues():
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    values = np.array([1.2, 0.9, 0.5, 0.1])
    layer = keras.layers.Dense(4, use_bias=False)
    layer.build((None, 1, 4))
    layer.kernel.assign((turn * values) @ turn.T)
    found = lyapunov_spectrum(layer, np.ones((2, 1, 4)), 40, dt=0.5, spin_up=160, units="d")
    np.testing.assert_allclose(found.exponent, 2 * np.log(values), rtol=1e-5)
    assert found.exponent.attrs["units"] == "d-1" and (found.stderr < 1e-4).all()
    leading = lyapunov_spectrum(layer, np.ones((2, 1, 4)), 40, dt=0.5, spin_up=160, exponents=2)
    np.testing.assert_allclose(leading.exponent, 2 * np.log(values[:2]), rtol=1e-5)


def test_the_exponents_of_lorenz_1963_add_up_to_its_divergence():
    start = lorenz63.simulate(0, members=4, spin_up=10.0).x.isel(time=0)
    found = lyapunov_spectrum(RK4(lorenz63.tendency, 0.01, dtype="float64"), start, 2000, every=10)
    assert float(found.exponent.sum()) == pytest.approx(-41 / 3, abs=1e-3)
    assert float(found.exponent[0]) == pytest.approx(0.906, abs=0.25)
    assert abs(float(found.exponent[1])) < 0.15
    np.testing.assert_allclose(found.running.isel(elapsed=-1), found.exponent, rtol=1e-12)
    assert float(found.elapsed[-1]) == pytest.approx(20.0)


def test_the_exponents_of_lorenz_1996_add_up_to_minus_n_as_the_step_shrinks():
    start = lorenz96.simulate(0, n=10, members=2, spin_up=10.0).x.isel(time=0)
    sums = [
        float(
            lyapunov_spectrum(
                RK4(lorenz96.tendency, dt, dtype="float64"), start, round(20 / dt), spin_up=0
            ).exponent.sum()
        )
        for dt in (0.05, 0.025)
    ]
    assert abs(sums[0] + 10) < 0.01
    assert abs(sums[1] + 10) < abs(sums[0] + 10) / 4


def test_the_dimension_of_kaplan_and_yorke():
    assert kaplan_yorke([0.906, 0.0, -14.572]) == pytest.approx(2.0622, abs=1e-4)
    assert kaplan_yorke([-1.0, -2.0]) == 0.0
    assert np.isnan(kaplan_yorke([1.0, -0.5]))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"dt": None}, "the length of the step is not known"),
        ({"exponents": 9}, "1 to 3"),
        ({"n_steps": 2}, "1 <= every <= n_steps"),
        ({"initial": np.ones(3)}, r"\[batch, \*space, channel\]"),
        ({"step": lambda x: 1e200 * x * x}, "left for infinity"),
    ],
)
def test_bad_arguments_are_named(arguments, text):
    given = {"step": lambda x: 0.5 * x, "initial": np.ones((1, 3, 1)), "n_steps": 8, "dt": 1.0} | arguments
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=text):
        lyapunov_spectrum(**given)
