"""Spaces: what may be chosen, how a grid lists it, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from physml.tuning.space import Space, between


def test_a_grid_is_the_product_of_choices_and_points():
    space = Space({"a": [1, 2], "b": between(1.0, 100.0, log=True, points=3), "c": range(3, 8, 2), "d": between(1, 3)})
    points = space.grid()
    assert len(points) == space.size() == 2 * 3 * 3 * 3
    assert points[0] == {"a": 1, "b": 1.0, "c": 3, "d": 1}
    assert sorted({p["b"] for p in points}) == [1.0, 10.0, 100.0]
    assert sorted({p["d"] for p in points}) == [1, 2, 3]
    assert len({tuple(p.values()) for p in points}) == len(points)


def test_a_step_lists_both_ends():
    assert between(0.0, 0.3, step=0.1).listed("x") == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert between(16, 64, log=True, points=3).listed("n") == [16, 32, 64]


def test_choices_may_be_anything_that_has_a_name():
    from optuna.trial import FixedTrial

    space = Space({"hidden": [(8,), (8, 8)], "law": {"none": None, "some": object}, "flag": [True, False]})
    assert space.draw(FixedTrial({"hidden": "(8, 8)", "law": "some", "flag": False})) == {
        "hidden": (8, 8),
        "law": object,
        "flag": False,
    }


def test_a_function_lists_every_path_through_it_once():
    def space(trial):
        kind = trial.suggest_categorical("kind", ["forest", "network"])
        if kind == "forest":
            return {"kind": kind, "trees": trial.suggest_int("trees", 10, 30, step=10)}
        return {
            "kind": kind,
            "layers": [trial.suggest_categorical(f"units{i}", [4, 8]) for i in range(trial.suggest_int("depth", 1, 2))],
        }

    points = Space(space).grid()
    assert len(points) == Space(space).size() == 3 + 2 + 4
    assert len({tuple(sorted(p.items())) for p in points}) == 9
    assert {"kind": "network", "depth": 2, "units0": 8, "units1": 4} in points


@pytest.mark.parametrize(
    ("space", "error", "message"),
    [
        ({}, ValueError, "the space is empty"),
        ([1, 2], TypeError, "space is none.*Received: list"),
        ({"a": 3}, TypeError, "no choices of 'a'.*Received: int 3"),
        ({"a": "relu"}, TypeError, "no choices of 'a'"),
        ({"a": []}, ValueError, "'a' has no choices"),
        ({"a": [1, 1]}, ValueError, "choices of 'a' repeat 1"),
        ({"a": [1, True]}, ValueError, "cannot be told apart"),
        ({"a": [object()]}, ValueError, "no name that another process would know"),
        ({3: [1]}, TypeError, "3 is no name of a parameter"),
    ],
)
def test_what_is_no_space_is_refused(space, error, message):
    with pytest.raises(error, match=message):
        Space(space)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(low=2, high=1), "low < high"),
        (dict(low=0, high=1, log=True), "low > 0 for a logarithm"),
        (dict(low=0, high=np.inf), "two finite numbers"),
        (dict(low=1, high=9, log=True, step=2), "not both"),
        (dict(low=0, high=1, points=1), "points >= 2"),
    ],
)
def test_what_is_no_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        between(**arguments)


def test_a_grid_needs_listed_values():
    with pytest.raises(ValueError, match=r"a grid needs listed values of 'x'.*between\(low, high, points=5\)"):
        Space({"x": between(0.0, 1.0)}).grid()


def test_the_paths_of_a_function_are_counted_no_further_than_asked():
    def endless(trial):
        return {f"p{i}": trial.suggest_categorical(f"p{i}", list(range(10))) for i in range(12)}

    assert Space(endless).size(1000) == 1001
    assert Space({f"p{i}": list(range(10)) for i in range(12)}).size() == 10**12
