import numpy as np
import pytest
from keras import ops

from physml import _backend
from physml.assimilation import gaspari_cohn


def numpy_of(distance, half_width):
    with _backend.float64():
        return ops.convert_to_numpy(gaspari_cohn(np.asarray(distance, "float64"), half_width))


def test_gaspari_cohn_is_the_published_polynomial_without_its_cancellation():
    z = np.linspace(0, 1, 101)
    inner = -(z**5) / 4 + z**4 / 2 + 5 * z**3 / 8 - 5 * z**2 / 3 + 1
    assert np.abs(numpy_of(3 * z, 3.0) - inner).max() < 1e-15
    z = 1 + z
    outer = z**5 / 12 - z**4 / 2 + 5 * z**3 / 8 + 5 * z**2 / 3 - 5 * z + 4 - 2 / (3 * z)
    assert np.abs(numpy_of(3 * z, 3.0) - outer).max() < 1e-14
    assert (numpy_of(np.linspace(2, 50, 30), 1.0) == 0).all() and (
        numpy_of(np.linspace(1.9, 1.9999, 30), 1.0) > 0
    ).all()


def test_gaspari_cohn_has_two_continuous_derivatives_and_the_curvature_of_its_gaussian():
    h = 1e-3
    for z in (1.0, 2.0):
        f = numpy_of(z + h * np.arange(-3, 4), 1.0)
        third = np.diff(f, 3) / h**3
        assert np.abs(third).max() < 10  # a jump of the second derivative would give 1 / h
    assert (numpy_of([h], 1.0)[0] - 1) * -2 / h**2 == pytest.approx(10 / 3, rel=1e-2)


def test_gaspari_cohn_is_positive_definite_in_three_dimensions():
    points = np.random.default_rng(1).uniform(size=(150, 3))
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    for half_width in (0.05, 0.3, 2.0):
        assert np.linalg.eigvalsh(numpy_of(distance, half_width)).min() > -1e-12


def test_a_half_width_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"half_width is not positive\. Expected: > 0\. Received: 0"):
        gaspari_cohn(np.ones(2), 0)
