import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physml import _backend
from physml.assimilation import Diagonal, Gaussian, Matern, innovation_likelihood
from physml.assimilation.errors.covariance import unit_vectors

KERNELS = [Gaussian(2.0, 800e3), *(Matern(2.0, 800e3, nu=nu) for nu in (0.5, 1.5, 2.5))]
PLAIN = settings(max_examples=15, deadline=None, derandomize=True)


@PLAIN
@given(st.integers(0, 2**32 - 1), st.sampled_from(KERNELS), st.floats(1e5, 3e7))
def test_every_kernel_is_positive_definite_on_the_sphere_at_any_length(seed, kernel, length):
    rng = np.random.default_rng(seed)
    points = (np.rad2deg(np.arcsin(rng.uniform(-1, 1, 60))), rng.uniform(0, 360, 60))
    C = type(kernel)(**{**kernel.get_config(), "length": length}).covariance(points, points)
    assert np.linalg.eigvalsh(C).min() > -1e-12 * C.max() * 60
    assert np.allclose(np.diag(C), 4, rtol=1e-14)


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_agree_with_scipys_closed_forms_of_the_chord(kernel):
    from sklearn.gaussian_process import kernels

    reference = (
        kernels.RBF(800e3 / 6_371_229.0)
        if isinstance(kernel, Gaussian)
        else kernels.Matern(800e3 / 6_371_229.0, nu=kernel.nu)
    )
    rng = np.random.default_rng(0)
    points = rng.uniform(-80, 80, (2, 30))
    unit = unit_vectors(*points)
    assert np.allclose(kernel.covariance(points, points), 4 * reference(unit), rtol=1e-12, atol=1e-14)


def test_errors_of_different_times_are_correlated_by_the_product():
    kernel = Gaussian(1.0, 500e3, "30D")
    month = 30 * 86400.0
    both = kernel.covariance(([0], [0], [0.0]), ([0, 0], [0, 4], [month, month]))
    space = kernel.covariance(([0], [0]), ([0, 0], [0, 4]))
    assert np.allclose(both, np.exp(-0.5) * space, rtol=1e-14)
    assert kernel.time_length == month and Gaussian(1, 1).in_time is False
    assert Diagonal(3.0).covariance(([0, 1], [0, 0]), ([0, 1], [0, 0])).tolist() == [[9, 0], [0, 9]]


@pytest.mark.parametrize("kernel", [*KERNELS, Matern(1.0, 4e5, "20D", nu=2.5), Gaussian(1.0, 4e5, "20D")])
def test_derivatives_by_the_logarithm_of_a_parameter_are_those_of_finite_differences(kernel):
    from dataclasses import replace

    rng = np.random.default_rng(1)
    with _backend.float64():
        a, b = (keras.ops.convert_to_tensor(unit_vectors(*rng.uniform(-5, 5, (2, 6)))) for _ in range(2))
        s, t = (keras.ops.convert_to_tensor(rng.uniform(0, 4e6, 6)) for _ in range(2))

        def product(of, kernels=None):
            space, time = kernels or (of.correlation, of.time_correlation)
            return np.asarray(keras.ops.convert_to_numpy(space(a, b))) * (
                keras.ops.convert_to_numpy(time(s, t)) if of.in_time else 1.0
            )

        for name, kernels in kernel.log_derivatives().items():
            h, at = 1e-3, [replace(kernel, **{name: getattr(kernel, name) * np.exp(k * 1e-3)}) for k in (-2, -1, 1, 2)]
            low2, low, high, high2 = map(product, at)
            numeric = (low2 - 8 * low + 8 * high - high2) / (12 * h)
            assert np.abs(numeric - product(kernel, kernels)).max() < 1e-10


def test_likelihood_is_the_density_of_a_normal_distribution_of_the_observations_that_are_there():
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(3)
    root = rng.normal(size=(5, 5))
    hbh, r, d = root @ root.T, rng.uniform(0.5, 1, 5), rng.normal(size=5)
    d[2] = np.nan
    there = np.isfinite(d)
    expected = multivariate_normal(cov=(hbh + np.diag(r**2))[np.ix_(there, there)]).logpdf(d[there])
    got = float(keras.ops.convert_to_numpy(innovation_likelihood(d, hbh, r)))
    assert got == pytest.approx(-expected, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(-1.0, 1e5), "Gaussian: std is not positive. Expected: > 0"),
        (lambda: Gaussian(1.0, 0), "Gaussian: length is not positive"),
        (lambda: Matern(1.0, 1e5, nu=2), "Matern: nu has no closed form here. Expected: 0.5, 1.5 or 2.5. Received: 2"),
        (lambda: Diagonal(np.array([1.0, 0.0])), "Diagonal: std is not positive"),
        (lambda: Diagonal(np.ones(2)).covariance(([0], [0]), ([0], [0])), "the standard deviation is a field"),
    ],
)
def test_parameters_without_meaning_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kernel", [Diagonal(0.3), Gaussian(1.0, 2e5, "3D"), Matern(np.full((2, 2), 0.5), 1e5, nu=2.5)])
def test_a_covariance_survives_serialisation(kernel):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(kernel))
    assert type(again) is type(kernel) and again.get_config() == kernel.get_config()
