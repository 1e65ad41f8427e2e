"""The projection is the nearest field with the total wanted, whatever the scale; its gradient is the true one."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import ops

from physml import _backend
from physml.constraints import project_sum

JAX = keras.backend.backend() == "jax"


def project(z, *terms, dtype="float64", **kwargs):
    """Project NumPy arrays in float64 on either backend."""
    with _backend.float64():
        tensors = [ops.convert_to_tensor(np.asarray(x, dtype)) for x in (z, *terms)]
        return np.asarray(project_sum(tensors[0], tensors[1:], **kwargs))


EXAMPLES = 60


def gradient(z, terms, upstream, **kwargs):
    """Return the gradients of ``sum(upstream * project_sum(z, terms))``."""
    if JAX:
        import jax

        with _backend.float64():
            arrays = tuple(jax.numpy.asarray(x) for x in (z, *terms))
            found = jax.grad(lambda a: (project_sum(a[0], a[1:], **kwargs) * upstream).sum())(arrays)
            return [np.asarray(g) for g in found]
    import tensorflow as tf

    tensors = [tf.constant(x) for x in (z, *terms)]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = tf.reduce_sum(project_sum(tensors[0], tensors[1:], **kwargs) * upstream)
    return [np.asarray(g) for g in tape.gradient(value, tensors)]


def fields(draw, shape=(2, 2, 6)):
    """Draw a field, weights and a total that positive fields can have, at some scale."""
    scale = draw(st.sampled_from([1e-5, 1.0, 1e9]))
    z = draw(hnp.arrays("float64", shape, elements=st.floats(-3, 3, width=16)))
    w = draw(hnp.arrays("float64", shape[1:], elements=st.sampled_from([0.0, 0.25, 1.0, 2.5, 1e3])))
    share = draw(st.floats(0, 4, width=16))
    return z * scale, w, share * scale * w.sum(-1)


@settings(max_examples=EXAMPLES)
@given(data=st.data(), lower=st.sampled_from([None, 0.0]))
def test_the_total_is_met_the_bound_holds_and_a_second_projection_changes_nothing(data, lower):
    z, w, total = fields(data.draw)
    y = project(z, weights=w, constant=total, lower=lower)
    assert np.isfinite(y).all()
    amount = np.maximum((np.abs(y if lower == 0 else z) * w).sum(-1), np.abs(total)) + np.finfo("float64").tiny
    assert (np.abs((y * w).sum(-1) - total * (w.sum(-1) > 0)) / amount).max() < 1e-12
    if lower is not None:
        assert (y >= 0).all()
    free = w == 0
    kept = np.maximum(z, -np.inf if lower is None else lower)
    np.testing.assert_array_equal(y[:, free], kept[:, free])
    np.testing.assert_allclose(
        project(y, weights=w, constant=total, lower=lower), y, rtol=1e-9, atol=1e-12 * np.abs(z).max()
    )


@settings(max_examples=EXAMPLES // 2)
@given(data=st.data())
def test_it_is_the_nearest_feasible_field(data):
    z, w, total = fields(data.draw, (1, 1, 5))
    w = w + 0.1
    total = total + w.sum(-1)
    scale = np.abs(z).max() + np.abs(total).max()
    z, total = z / scale, total / scale
    y = project(z, weights=w, constant=total, lower=0.0)[0, 0]
    best = scipy.optimize.minimize(
        lambda x: (w[0] * (x - z[0, 0]) ** 2).sum() / w.sum(),
        np.full(5, total[0] / w.sum()),
        jac=lambda x: 2 * w[0] * (x - z[0, 0]) / w.sum(),
        bounds=[(0, None)] * 5,
        constraints={"type": "eq", "fun": lambda x: (w[0] @ x - total[0]) / w.sum(), "jac": lambda x: w[0] / w.sum()},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 300},
    )
    ours = (w[0] * (y - z[0, 0]) ** 2).sum() / w.sum()
    assert ours <= best.fun + 1e-9


def test_another_metric_moves_cheap_cells_more():
    z, w, m = np.array([[[1.0, 2.0, 3.0]]]), np.array([[1.0, 2.0, 1.0]]), np.array([[1.0, 1.0, 4.0]])
    y = project(z, weights=w, metric=m, constant=4.0)[0, 0]
    gram = (w * w / m).sum()
    np.testing.assert_allclose(y, z[0, 0] - (w / m)[0] * ((w[0] @ z[0, 0]) - 4) / gram, rtol=1e-14)


@settings(max_examples=EXAMPLES // 2)
@given(data=st.data(), order=st.permutations(range(6)))
def test_the_order_of_cells_does_not_matter(data, order):
    z, w, total = fields(data.draw)
    y = project(z, weights=w, constant=total, lower=0.0)
    np.testing.assert_allclose(
        project(z[..., order], weights=w[..., order], constant=total, lower=0.0),
        y[..., order],
        rtol=1e-9,
        atol=1e-12 * np.abs(z).max(),
    )


@pytest.mark.parametrize("factor", [1e-30, 1e-5, 1e9])
def test_the_projection_is_free_of_scale(factor):
    rng = np.random.default_rng(0)
    z, w = rng.normal(0.2, 1, (3, 1, 500)), rng.uniform(0.1, 3, (1, 500))
    y = project(z, weights=w, constant=200.0, lower=0.0)
    np.testing.assert_allclose(
        project(z * factor, weights=w, constant=200.0 * factor, lower=0.0), y * factor, rtol=1e-12
    )


def test_both_bounds_hold_at_once():
    rng = np.random.default_rng(1)
    z, w = rng.normal(0.5, 1, (20, 1, 40)), rng.uniform(0.1, 3, (1, 40))
    for share in (0.0, 1e-6, 0.3, 0.999999, 1.0):
        y = project(z, weights=w, constant=share * w.sum(), lower=0.0, upper=1.0)
        assert y.min() >= 0
        assert y.max() <= 1
        np.testing.assert_allclose((w * y).sum(-1), share * w.sum(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("z", "w", "total", "expected"),
    [
        ([5.0], [2.0], 6.0, [3.0]),  # a single cell is the total
        ([-1.0, -2.0, 0.0], [1.0, 1.0, 1.0], 0.0, [0.0, 0.0, 0.0]),  # nothing to hold
        ([0.0, 0.0, 0.0], [1.0, 2.0, 1.0], 4.0, [1.0, 1.0, 1.0]),  # from nothing
        ([4.0, -1.0, 2.0], [0.0, 0.0, 0.0], 3.0, [4.0, 0.0, 2.0]),  # all masked: no law
        ([4.0, 1.0, 2.0], [1.0, 1.0, 1.0], -3.0, [0.0, 0.0, 0.0]),  # out of reach: at the bound
        ([1e9, 2e9, 3.0], [1.0, 1.0, 1.0], 1e-5, [0.0, 1e-5, 0.0]),  # a total far below the fields
    ],
)
def test_corner_cases(z, w, total, expected):
    y = project([[z]], weights=np.array([w]), constant=total, lower=0.0)
    np.testing.assert_allclose(y[0, 0], expected, rtol=1e-13)
    g = gradient(np.array([[z]]), [], np.ones((1, 1, len(z))), weights=np.array([w]), constant=total, lower=0.0)
    assert np.isfinite(g[0]).all()


def test_groups_without_weight_do_not_disturb_the_others():
    z = np.arange(6.0).reshape(1, 2, 3)
    y = project(z, weights=np.array([[1.0, 1, 1], [0, 0, 0]]), constant=np.array([6.0, 7.0]), lower=0.0)
    np.testing.assert_allclose(y, [[[1.0, 2, 3], [3, 4, 5]]], rtol=1e-14)


def test_terms_make_the_total_with_their_factors():
    rng = np.random.default_rng(2)
    z, x, s = rng.random((3, 4, 2, 9))
    w = rng.uniform(0.1, 3, (2, 9))
    y = project(z, x, s, weights=w, coefficients=[1.0, 86400.0], constant=2.0, lower=0.0)
    np.testing.assert_allclose((w * y).sum(-1), 2 + (w * (x + 86400 * s)).sum(-1), rtol=1e-13)


@pytest.mark.parametrize("lower", [None, 0.0])
@pytest.mark.parametrize("upper", [None, 2.0])
def test_the_gradient_is_that_of_finite_differences(lower, upper):
    rng = np.random.default_rng(3)
    z, x, s = rng.normal(0.3, 1, (3, 2, 2, 12))
    x = np.abs(x)
    w = rng.uniform(0.1, 3, (2, 12))
    w[0, 3] = 0
    args = {"weights": w, "coefficients": [1.0, 0.1], "lower": lower, "upper": upper}
    upstream = rng.normal(size=z.shape)
    found = gradient(z, [x, s], upstream, **args)
    bounds = [b for b in (lower, upper) if b is not None]
    at_bounds = np.isin(project(z, x, s, **args), bounds)
    assert at_bounds.any() == (lower is not None or upper is not None)
    for i, g in enumerate(found):
        direction = rng.normal(size=z.shape)
        # As long as no cell meets a bound or leaves one the projection is linear: the widest such step errs least.
        for h in 2.0 ** -np.arange(6, 24):
            ends = [[a + sign * h * direction * (j == i) for j, a in enumerate((z, x, s))] for sign in (1, -1)]
            ahead, behind = (project(*end, **args) for end in ends)
            if all((np.isin(end, bounds) == at_bounds).all() for end in (ahead, behind)):
                break
        difference = ((ahead - behind) * upstream).sum() / (2 * h)
        exact = (g * direction).sum()
        assert abs(difference - exact) <= 1e-9 * abs(exact)


def test_a_field_at_its_bounds_has_no_gradient_when_the_total_is_out_of_reach():
    rng = np.random.default_rng(3)
    z, x = rng.normal(0.3, 1, (2, 3, 2, 12))
    w = rng.uniform(0.1, 3, (2, 12))
    args = {"weights": w, "coefficients": [1.0], "lower": 0.0, "upper": 1.2}
    for far in (x - 9, x + 9):
        for g in gradient(z, [far], rng.normal(size=z.shape), **args):
            np.testing.assert_array_equal(g, 0)


def test_a_million_float32_cells_meet_their_total_to_the_last_digit():
    rng = np.random.default_rng(4)
    z = rng.normal(1, 1, (1, 1, 1_000_000)).astype("float32")
    x = rng.gamma(2.0, 1.0, z.shape).astype("float32")
    w = rng.uniform(1e9, 2e9, (1, 1_000_000))
    y = project(z, x, dtype="float32", weights=w, coefficients=[1.0], lower=0.0)
    assert y.dtype == np.float32
    assert y.min() >= 0
    want = math.fsum(w[0] * x[0, 0].astype("float64"))
    assert abs(math.fsum(w[0] * y[0, 0].astype("float64")) / want - 1) <= 6e-8


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_type_comes_back(dtype):
    z = ops.cast(np.array([[[1.0, -2.0, 4.0]]]), dtype)
    y = project_sum(z, [], weights=np.ones((1, 3)), constant=3.0, lower=0.0)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    np.testing.assert_allclose(np.asarray(ops.cast(y, "float32"))[0, 0], [0, 0, 3.0], rtol=1e-2)


def test_it_compiles():
    rng = np.random.default_rng(5)
    z, x = rng.normal(size=(2, 3, 2, 8)).astype("float32")
    x = np.abs(x)
    w = rng.uniform(0.5, 1, (2, 8))

    def step(z, x):
        return project_sum(z, [x], weights=w, coefficients=[1.0], lower=0.0)

    if JAX:
        import jax

        compiled, grad = jax.jit(step), jax.jit(jax.grad(lambda z, x: (step(z, x) ** 2).sum()))
        got, g = compiled(z, x), grad(z, x)
    else:
        import tensorflow as tf

        @tf.function(jit_compile=True)
        def compiled(z, x):
            with tf.GradientTape() as tape:
                tape.watch(z)
                y = step(z, x)
                loss = tf.reduce_sum(y**2)
            return y, tape.gradient(loss, z)

        got, g = compiled(tf.constant(z), tf.constant(x))
    np.testing.assert_allclose(np.asarray(got), np.asarray(step(z, x)), rtol=2e-6, atol=1e-7)
    assert np.isfinite(np.asarray(g)).all()
