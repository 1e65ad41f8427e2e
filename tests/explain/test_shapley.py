"""Estimators solve games with known answers, whatever makes the values."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physml.explain import Exact, PairedPermutations, shapley_values
from physml.explain.designs import all_coalitions
from physml.explain.exact import shapley_matrix


def table(values):
    """Return the game whose value for coalition T is ``values[T]``."""
    return lambda members: np.asarray(values)[members @ (1 << np.arange(members.shape[1]))]


def by_definition(values, n):
    """Return the mean marginal contribution over all orders."""
    phi = np.zeros(n)
    for order in itertools.permutations(range(n)):
        held = 0
        for i in order:
            phi[i] += values[held | 1 << i] - values[held]
            held |= 1 << i
    return phi / math.factorial(n)


def games(players=None):
    return (st.integers(1, 5) if players is None else players).flatmap(
        lambda n: st.lists(st.floats(-10, 10, width=32), min_size=2**n, max_size=2**n).map(np.array)
    )


def test_glove_game():
    phi, stderr = shapley_values(lambda s: np.minimum(s[:, 0] | s[:, 1], s[:, 2]) * 1.0, 3)
    np.testing.assert_allclose(phi, [1 / 6, 1 / 6, 4 / 6], rtol=1e-14)
    assert not stderr.any()


def test_interaction_is_shared_equally():
    phi, _ = shapley_values(lambda s: 6.0 * s[:, 0] * s[:, 1] * s[:, 2] + 1.0 * s[:, 3], 4)
    np.testing.assert_allclose(phi, [2, 2, 2, 1], rtol=1e-14)


@given(games())
def test_exact_values_are_the_mean_over_all_orders_and_efficient(values):
    n = int(math.log2(len(values)))
    phi, _ = shapley_values(table(values), n)
    np.testing.assert_allclose(phi, by_definition(values, n), atol=1e-12)
    np.testing.assert_allclose(phi.sum(), values[-1] - values[0], atol=1e-12)


@given(games(st.just(4)), games(st.just(4)), st.floats(-3, 3))
def test_values_are_linear_in_the_game(a, b, scale):
    phi_a, phi_b = shapley_values(table(a), 4)[0], shapley_values(table(b), 4)[0]
    np.testing.assert_allclose(shapley_values(table(a + scale * b), 4)[0], phi_a + scale * phi_b, atol=1e-11)


@given(games(st.just(3)), st.floats(-3, 3))
def test_a_dummy_gets_its_own_worth_and_changes_nobody(values, worth):
    with_dummy = np.concatenate([values, values + worth])
    phi, _ = shapley_values(table(with_dummy), 4)
    np.testing.assert_allclose(phi, [*shapley_values(table(values), 3)[0], worth], atol=1e-12)


@given(games(st.just(4)), st.permutations(range(4)))
def test_names_do_not_matter(values, order):
    members = all_coalitions(4)
    renamed = table(values)(members[:, order])
    np.testing.assert_allclose(
        shapley_values(table(renamed), 4)[0], shapley_values(table(values), 4)[0][np.argsort(order)], atol=1e-12
    )


@settings(max_examples=30)
@given(games(), st.integers(2, 6), st.integers(0, 9))
def test_permutations_are_efficient_whatever_is_drawn(values, pairs, seed):
    n = int(math.log2(len(values)))
    phi, stderr = shapley_values(table(values), n, PairedPermutations(pairs, seed))
    np.testing.assert_allclose(phi.sum(), values[-1] - values[0], atol=1e-11)
    assert np.isfinite(stderr).all()


def test_permutations_are_exact_where_pairs_of_players_interact():
    def value(s):
        x = s * np.arange(1.0, 7.0)
        return x.sum(1) + x[:, 0] * x[:, 1] - 2 * x[:, 2] * x[:, 5]

    phi, stderr = shapley_values(value, 6, PairedPermutations(2, 0))
    np.testing.assert_allclose(phi, shapley_values(value, 6)[0], rtol=1e-12)
    np.testing.assert_allclose(stderr, 0, atol=1e-12)


@pytest.mark.parametrize("pairs", [20, 85])
def test_permutations_are_unbiased_and_their_intervals_cover(pairs):
    from scipy import stats

    n, draws = 10, 200
    rng = np.random.default_rng(0)
    inputs, hidden, out = rng.normal(size=n), rng.normal(size=(n, 32)) / 2, rng.normal(size=32)

    def network(members):
        return np.tanh((members * inputs) @ hidden) @ out

    truth = shapley_values(network, n)[0]
    drawn = np.array([shapley_values(network, n, PairedPermutations(pairs, seed)) for seed in range(draws)])
    error, stderr = drawn[:, 0] - truth, drawn[:, 1]
    assert (np.abs(error.mean(0)) < 4 * error.std(0) / np.sqrt(draws)).all()
    np.testing.assert_allclose((stderr**2).mean() / error.var(0).mean(), 1, atol=0.1)
    covered = np.abs(error) < stats.t.ppf(0.975, pairs - 1) * stderr
    assert 0.93 < covered.mean() < 0.97


def test_permutations_cost_what_they_say():
    design = PairedPermutations(7, 0).design(15, 1)
    assert len(design.coalitions) == 2 * 7 * (15 - 1)
    assert design.coalitions.any(1).all()
    assert not design.coalitions.all(1).any()


def test_several_baseline_rows_are_dealt_evenly_and_values_stay_their_mean():
    dealt = PairedPermutations(10, 0).design(4, 4)
    np.testing.assert_array_equal(np.bincount(dealt.slots[:, 0]), [3, 3, 3, 3])
    every = Exact().design(4, 3)
    np.testing.assert_array_equal(np.bincount(every.slot), [14, 14, 14])
    inner = shapley_matrix(4)[:, 1:-1].T
    np.testing.assert_allclose(sum(every.weights[every.slot == i] for i in range(3)), inner, rtol=1e-14)


def test_rows_of_the_matrix_sum_to_zero_and_split_the_whole():
    m = shapley_matrix(5)
    np.testing.assert_allclose(m.sum(1), 0, atol=1e-15)
    np.testing.assert_allclose(m[:, -1], 0.2)


def test_too_many_players_and_too_few_pairs_are_refused():
    with pytest.raises(ValueError, match=r"13 groups make 8192 coalitions.*at most 12.*merge groups.*permutations"):
        Exact().design(13, 1)
    with pytest.raises(ValueError, match="pairs are too few for a standard error"):
        PairedPermutations(1)
