"""The rounding of float32 is settled on a few cells: totals are exact to double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest

from physml import _backend
from physml.constraints import project_sum


@pytest.mark.parametrize("cells", [1, 3, 64, 4096])
@pytest.mark.parametrize("shape", ["flat", "few are positive"])
def test_the_total_is_exact_in_double_precision(cells, shape):
    rng = np.random.default_rng(cells)
    w = rng.uniform(0.5, 1.5, (2, cells)) * (rng.random((2, cells)) < 0.8)
    w[:, 0] = 1.0
    state = np.abs(rng.normal(size=(3, 2, cells))).astype("float32")
    z = (state + rng.normal(size=state.shape) - (2 if shape != "flat" else 0)).astype("float32")
    y = np.asarray(project_sum(z, [state], weights=w, coefficients=[1.0], lower=0.0, settled=64))
    plain = np.asarray(project_sum(z, [state], weights=w, coefficients=[1.0], lower=0.0))
    assert y.dtype == np.float32 and (y[:, w > 0] >= 0).all()
    assert ((y != plain).sum(-1) <= 64).all()
    np.testing.assert_allclose(y, plain, rtol=0, atol=1e-4)
    for b in range(3):
        for g in range(2):
            want = math.fsum(state[b, g].astype("float64") * w[g])
            found = abs(math.fsum(y[b, g].astype("float64") * w[g]) - want) / want
            assert found < (2e-12 if cells > 64 else 1e-10 if cells == 64 else 2e-7), found


def test_groups_without_weight_are_left_alone():
    z = np.ones((1, 2, 5), "float32")
    w = np.array([[1.0, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    y = np.asarray(project_sum(z, [], weights=w, constant=7.0, settled=4))
    np.testing.assert_array_equal(y[0, 1], 1.0)
    assert math.fsum(y[0, 0].astype("float64")) == pytest.approx(7.0, rel=1e-15)


def test_its_gradient_is_that_of_the_projection():
    rng = np.random.default_rng(0)
    z, w, g = rng.normal(size=(1, 1, 9)), rng.uniform(1, 2, (1, 9)), rng.normal(size=(1, 1, 9))
    found = []
    for settled in (0, 4):
        with _backend.float64():
            import keras

            def value(x, settled=settled):
                moved = project_sum(x, [], weights=w, constant=5.0, lower=0.0, settled=settled)
                return keras.ops.sum(moved * keras.ops.convert_to_tensor(g))

            found.append(_backend.value_and_gradient(value, z)[1])
    np.testing.assert_array_equal(*found)
