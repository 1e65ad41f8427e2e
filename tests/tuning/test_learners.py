"""Forests and ridge regressions are searched as networks are."""

from __future__ import annotations

import pytest
from damped import SPEC, data

from physml import learners
from physml.tuning import between, search


def test_the_ridge_of_least_error_is_no_great_one():
    def build(params, scaling):
        return learners.Ridge(scaling.layout.spec, alpha=params["alpha"])

    space = {"alpha": between(1e-2, 1e6, log=True, points=3)}
    result = search(build, space, data(), spec=SPEC, method="grid", validation="expanding", n_folds=2, score="rmse")
    by_alpha = result.dataset.swap_dims(trial="alpha").sortby("alpha").score
    assert float(by_alpha[-1]) > 1.15 * float(by_alpha[0])
    assert float(by_alpha[0]) == pytest.approx(1.0, abs=0.1), "the noise is 1"


def test_a_forest_learns_from_data_with_a_hole():
    def build(params, scaling):
        return learners.Forest(scaling.layout.spec, n_trees=5, min_samples_leaf=params["leaf"], seed=0)

    result = search(build, {"leaf": [1, 20]}, data(), spec=SPEC, method="grid", validation=3, score="rmse")
    assert result.best == {"leaf": 20}
    assert result.refit(data()).layout.spec.targets == ("x",)
