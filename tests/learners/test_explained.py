"""Learners are explained and shuffled as they are: forests exactly, everything else as a function of its inputs."""

import numpy as np
import pytest
import xarray as xr

from physml import FieldSpec
from physml.explain import Explainer, area_mean, field, groups, permutation_importance
from physml.explain.players.baselines import Baseline
from physml.learners import DampedPersistence, Forest, Ridge

SMALL = {"n_trees": 4, "min_samples_leaf": 5}


def explainer(learner, ds, target=None):
    rows = learner.layout.pack(ds, "inputs").values[:6]
    rows = np.where(learner.layout.valid("inputs"), rows, 0)
    return Explainer(learner, Baseline("rows", rows), groups(learner.layout), target)


@pytest.mark.parametrize("samples", ["cells", "maps"])
def test_shapley_values_of_a_forest_are_exact(ocean, samples):
    spec = FieldSpec(["t", "wind"], "t", target_offsets=1, mask="wet", area="area")
    learner = Forest(spec, samples=samples, **SMALL).fit(ocean)
    asked = explainer(learner, ocean, area_mean("t"))
    some = ocean.isel(time=slice(30, 33))
    trees, exact = (asked.shapley(some, m, progress=False) for m in ("trees", "exact"))
    np.testing.assert_allclose(trees.attribution, exact.attribution, atol=1e-9)
    weights = ocean.area.where(ocean.wet, 0)
    mean = learner.predict(some).t.weighted(weights).mean(("lat", "lon"))
    np.testing.assert_allclose(trees.prediction, mean, rtol=1e-6)


def test_an_index_predicted_from_maps_is_explained_exactly(ocean):
    learner = Forest(FieldSpec(["t", "index"], "index", target_offsets=2, mask="wet"), samples="maps", **SMALL).fit(
        ocean
    )
    some = ocean.isel(time=slice(30, 32))
    found = explainer(learner, ocean).shapley(some, "trees", progress=False)
    np.testing.assert_allclose(found.prediction, learner.predict(some)["index"], rtol=1e-12)
    total = found.attribution.sum("group") + found.base_value
    np.testing.assert_allclose(total, found.prediction, rtol=1e-9)


def test_shapley_values_of_a_linear_regression_are_its_terms(ocean):
    spec = FieldSpec(["t", "wind"], "t", target_offsets=1, mask="wet")
    learner = Ridge(spec, 1.0).fit(ocean)
    some = ocean.isel(time=slice(30, 32))
    asked = explainer(learner, ocean, area_mean("t"))
    found = asked.shapley(some, "exact", progress=False).attribution.sel(group="wind")
    base = ocean.wind[:6].mean("time")
    terms = learner.state["coef"][1, 0] * (some.wind - base).mean(("lat", "lon"))
    np.testing.assert_allclose(found, terms, rtol=1e-5)


@pytest.mark.parametrize(
    "make",
    [lambda s: Forest(s, **SMALL), lambda s: Ridge(s, 1.0, eofs=4, by="month"), lambda s: DampedPersistence(s)],
)
def test_shuffling_what_a_learner_does_not_read_costs_nothing(ocean, make):
    ds = ocean.assign(noise=ocean.wind * 0 + 1)
    learner = make(FieldSpec(["t", "noise"], "t", target_offsets=1, mask="wet")).fit(ds)
    found = permutation_importance(learner, ds, target=field("t"), n_permutations=2, n_bootstrap=5)
    assert float(found.importance.sel(group="noise")) == 0
    assert float(found.importance.sel(group="t")) > 0
    out = learner.predict(ds).t.isel(time=slice(0, -1))
    truth = ds.t.isel(time=slice(1, None))
    rmse = float(np.sqrt(np.square(out.values - truth.values)[:, ds.wet.values].mean()))
    assert float(found.original_score) == pytest.approx(rmse, rel=1e-6)


def test_shuffling_finds_what_an_index_depends_on(ocean):
    spec = FieldSpec(["t", "wind"], "index", target_offsets=1, mask="wet")
    for learner in (Forest(spec, samples="maps", **SMALL), Ridge(spec, 1.0, eofs=4)):
        found = permutation_importance(learner.fit(ocean), ocean, n_permutations=2, n_bootstrap=5)
        truth = ocean["index"].values[1:]
        out = learner.predict(ocean)["index"].values[:-1]
        assert float(found.original_score) == pytest.approx(np.sqrt(np.mean((out - truth) ** 2)), rel=1e-6)
        assert float(found.importance.sel(group="t")) > 0


def test_probabilities_of_classes_are_shuffled_by_name(ocean):
    kind = xr.where(ocean.t > 15, 7, 3).astype("int8")
    kind.attrs = {"flag_values": np.array([3, 7], "int8"), "flag_meanings": "cold warm"}
    ds = ocean.assign(kind=kind)
    learner = Forest(FieldSpec(["t", "wind"], "kind", mask="wet"), "classification", **SMALL).fit(ds)
    found = permutation_importance(learner, ds, target=field("warm"), n_permutations=2, n_bootstrap=5)
    p = learner.predict(ds).kind_probability.sel(category="warm").values[:, ds.wet.values]
    rmse = np.sqrt(np.mean((p - (ds.kind.values[:, ds.wet.values] == 7)) ** 2))
    assert float(found.original_score) == pytest.approx(rmse, rel=1e-5)
    assert float(found.importance.sel(group="t")) > 0.2


def test_classes_of_several_targets_are_refused(ocean):
    ds = ocean.assign(kind=(ocean.t > 15).astype(int))
    spec = FieldSpec("t", "kind", target_offsets=(1, 2), mask="wet")
    learner = Forest(spec, "classification", **SMALL).fit(ds)
    with pytest.raises(ValueError, match="tells classes of 2 targets at once"):
        explainer(learner, ds)
