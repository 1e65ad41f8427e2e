"""What two groups do together is split between them, and the rest is their own."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physml.explain import ExactInteractions, PairedPaths, shapley_values
from physml.explain.shapley.interactions import pair_index


def table(values):
    return lambda members: np.asarray(values)[members @ (1 << np.arange(members.shape[1]))]


def matrix(value, n, estimator=None):
    found, stderr = shapley_values(value, n, estimator or ExactInteractions())
    return found[pair_index(n)], stderr[pair_index(n)]


def by_definition(values, n):
    index = np.zeros((n, n))
    for i, j in itertools.permutations(range(n), 2):
        rest = [k for k in range(n) if k not in (i, j)]
        for size in range(n - 1):
            for s in itertools.combinations(rest, size):
                held = sum(1 << k for k in s)
                gain = values[held | 1 << i | 1 << j] - values[held | 1 << i] - values[held | 1 << j] + values[held]
                index[i, j] += math.factorial(size) * math.factorial(n - size - 2) / math.factorial(n - 1) * gain
    return index


@settings(max_examples=20)
@given(
    st.integers(2, 5).flatmap(
        lambda n: st.lists(st.floats(-10, 10, width=32), min_size=2**n, max_size=2**n).map(np.array)
    )
)
def test_exact_interactions_are_the_index_of_grabisch_and_roubens_and_rows_sum_to_shapley_values(values):
    n = int(math.log2(len(values)))
    found, _ = matrix(table(values), n)
    apart = ~np.eye(n, dtype=bool)
    np.testing.assert_allclose(2 * found[apart], by_definition(values, n)[apart], atol=1e-11)
    np.testing.assert_allclose(found.sum(1), shapley_values(table(values), n)[0], atol=1e-11)


@pytest.mark.parametrize("estimator", [ExactInteractions(), PairedPaths(2, 0)], ids=lambda e: e.name)
@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_additive_games_have_no_interaction_and_products_share_theirs(estimator, n):
    worth = np.arange(1.0, n + 1)
    found, stderr = matrix(lambda s: s @ worth, n, estimator)
    np.testing.assert_allclose(found, np.diag(worth), atol=1e-14)
    np.testing.assert_allclose(stderr, 0, atol=1e-14)
    if n > 1:
        found, stderr = matrix(lambda s: s @ worth + 4.0 * s[:, 0] * s[:, 1], n, estimator)
        expected = np.diag(worth)
        expected[0, 1] = expected[1, 0] = 2
        np.testing.assert_allclose(found, expected, atol=1e-13)
        np.testing.assert_allclose(stderr, 0, atol=1e-13)


@pytest.mark.parametrize("n", [5, 6])
def test_sampled_interactions_are_unbiased_add_up_and_their_intervals_cover(n):
    rng = np.random.default_rng(2)
    values, t = rng.normal(size=2**n), 2.023
    truth, _ = matrix(table(values), n)
    drawn = np.array([matrix(table(values), n, PairedPaths(40, seed)) for seed in range(100)])
    error, stderr = drawn[:, 0] - truth, drawn[:, 1]
    np.testing.assert_allclose(drawn[:, 0].sum((1, 2)), values[-1] - values[0], atol=1e-11)
    assert (abs(error.mean(0)) < 4 * error.std(0) / 10).all()
    assert 0.93 < (abs(error) < t * stderr).mean() < 0.97


def test_a_set_of_paths_costs_about_two_rows_for_each_ordered_pair():
    for n in (12, 17, 18):
        assert PairedPaths().rows_each(n, 1) < 2.1 * n**2
