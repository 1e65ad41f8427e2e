"""Owen values: unions play as wholes, and share what they get among their groups."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physml.explain import Exact, ExactOwen, PairedPermutations, groups, shapley_values
from physml.explain.shapley.nesting import branches, unions_of

ONE = (("a", "b", "a", "b", "b"),)
TWO = (("a", "a", "a", "b", "b"), ("1", "1", "2", "1", "2"))
TABLES = st.lists(st.floats(-10, 10, width=32), min_size=32, max_size=32).map(np.array)


def table(values):
    return lambda members: np.asarray(values)[members @ (1 << np.arange(members.shape[1]))]


def by_definition(values, unions):
    """Return the mean contribution over all orders in which every union stays together."""
    tree = branches(unions, 5)
    orders = [
        order
        for order in itertools.permutations(range(5))
        if all(len(list(itertools.groupby(level[list(order)]))) == len(set(level.tolist())) for level in tree)
    ]
    phi = np.zeros(5)
    for order in orders:
        held = 0
        for i in order:
            phi[i] += values[held | 1 << i] - values[held]
            held |= 1 << i
    return phi / len(orders)


@pytest.mark.parametrize("unions", [ONE, TWO])
@settings(max_examples=10)
@given(TABLES)
def test_exact_values_are_the_mean_over_orders_that_keep_unions_together(unions, values):
    np.testing.assert_allclose(
        shapley_values(table(values), 5, ExactOwen(unions))[0], by_definition(values, unions), atol=1e-12
    )


@pytest.mark.parametrize("unions", [("abcde",), ("aaaaa",), ("aaaaa", "abcde"), ("aaaaa", "bbbbb")])
@settings(max_examples=15)
@given(TABLES)
def test_unions_of_one_or_of_all_change_nothing(unions, values):
    unions = tuple(tuple(level) for level in unions)
    np.testing.assert_allclose(
        shapley_values(table(values), 5, ExactOwen(unions))[0], shapley_values(table(values), 5)[0], atol=1e-12
    )


@pytest.mark.parametrize("estimator", [ExactOwen(ONE), ExactOwen(TWO), PairedPermutations(4, 1, TWO)])
@settings(max_examples=15)
@given(TABLES)
def test_a_union_gets_its_value_in_the_game_of_unions(estimator, values):
    """Owen's quotient property: with two unions, whatever is drawn, since an order and its reverse are all orders of them."""
    first = np.array([name == "a" for name in estimator.unions[0]])
    quotient = shapley_values(lambda s: table(values)(np.where(first, s[:, :1], s[:, 1:])), 2)[0]
    phi = shapley_values(table(values), 5, estimator)[0]
    np.testing.assert_allclose([phi[first].sum(), phi[~first].sum()], quotient, atol=1e-11)


def test_orders_keep_unions_together_at_every_level():
    design = PairedPermutations(50, 0, TWO).design(5, 1)
    rank = 5 - design.coalitions.reshape(50, 2, 4, 5).sum(2) - 1
    for order in rank.argsort(-1).reshape(-1, 5):
        for level in branches(TWO, 5):
            assert len(list(itertools.groupby(level[order].tolist()))) == len(set(level.tolist()))
    assert len({tuple(r) for r in rank.reshape(-1, 5).tolist()}) > 12


def test_sampled_values_hold_the_exact_ones_in_their_intervals():
    rng = np.random.default_rng(1)
    values = table(rng.normal(size=32))
    exact = shapley_values(values, 5, ExactOwen(TWO))[0]
    drawn = np.array([shapley_values(values, 5, PairedPermutations(30, s, TWO)) for s in range(150)])
    error, stderr = drawn[:, 0] - exact, drawn[:, 1]
    assert (abs(error.mean(0)) < 4 * error.std(0) / np.sqrt(150)).all()
    assert 0.93 < (abs(error) < 2.045 * stderr).mean() < 0.97


def test_unions_save_coalitions():
    """Two unions of eight: no more than all subsets of one with or without the other."""
    unions = (("a",) * 8 + ("b",) * 8,)
    assert len(ExactOwen(unions).design(16, 1).coalitions) == 4 * 2**8 - 4 - 2
    with pytest.raises(ValueError, match="13 groups make 8192 coalitions"):
        Exact().design(13, 1)
    with pytest.raises(ValueError, match=r"40 groups in these unions make .* contributions.*method='permutations'"):
        ExactOwen((("a",) * 20 + ("b",) * 20,)).design(40, 1)


def test_unions_are_named_by_parts_or_given(layout):
    boxes = {"south": {"lat": slice(-90, 0)}, "north": {"lat": slice(0, 90)}}
    players = groups(layout, variable={"u": "u", "others": ["tracer", "v"]}, box=boxes)
    assert players.names == ("u, south", "u, north", "others, south", "others, north")
    by_variable = (("u", "u", "others", "others"),)
    assert unions_of(players) == ()
    assert unions_of(players, "variable") == unions_of(players, {"u": "u", "others": ["others"]}) == by_variable
    deep = unions_of(players, ["region", "variable"])
    assert (branches(deep, 4) == branches((("s", "n", "s", "n"), "abcd"), 4)).all()
    assert unions_of(players, {"half": ["u, north", "others, north"]}) == (
        ("u, south", "half", "others, south", "half"),
    )
    assert unions_of(players.nested("variable")) == by_variable
    assert unions_of(players.nested("variable"), False) == ()
    with pytest.raises(KeyError, match="unknown part 'variables'; did you mean 'variable'"):
        unions_of(players, "variables")
    with pytest.raises(KeyError, match="unknown group 'u, nort'; did you mean 'u, north'"):
        unions_of(players, {"a": ["u, nort"]})
    with pytest.raises(ValueError, match="'u, north' is put into 'a' and into 'b'"):
        unions_of(players, {"a": ["u, north"], "b": ["u, north"]})
    with pytest.raises(ValueError, match=r"'u, south' has the name of a group that it does not hold.*rename it"):
        unions_of(players, {"u, south": ["u, north", "others, north"]})
    with pytest.raises(TypeError, match=r"nested is understood neither as parts nor as unions.*Received: 3"):
        unions_of(players, 3)
    with pytest.raises(ValueError, match=r"a level of unions does not fit the groups.*5 groups.*3 names"):
        ExactOwen((("a", "b", "c"),)).design(5, 1)
