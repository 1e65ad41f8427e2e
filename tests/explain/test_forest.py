"""Trees are explained exactly for any number of groups, as every other model would be and as TreeExplainer does."""

import numpy as np
import pytest
import xarray as xr
from sklearn import ensemble, tree

from physml.explain import Explainer, area_mean, box_mean, climatology, field, groups, samples
from physml.explain.players.baselines import Baseline
from physml.fields import FieldSpec

NAMES = [f"f{i}" for i in range(8)]


@pytest.fixture(scope="module")
def table():
    """Eight indices through ten years of months, some of which act together, in float64."""
    x = np.random.default_rng(0).normal(size=(120, 8))
    y = x[:, 0] * x[:, 1] + np.sin(x[:, 2]) + x[:, 3] * (x[:, 4] > 0)
    time = xr.date_range("2000-01-01", periods=120, freq="MS")
    return xr.Dataset({**{n: ("time", x[:, i]) for i, n in enumerate(NAMES)}, "y": ("time", y)}, {"time": time})


@pytest.fixture(scope="module")
def layout(table):
    return FieldSpec(NAMES, "y").bind(table)


def fitted(model, table):
    x, y = table[NAMES].to_array("f", "x").values.T, table.y.values
    y = np.digitize(y, [-0.5, 0.5]) if hasattr(model, "predict_proba") else y
    return model.fit(x, np.array(["low", "mid", "high"])[y] if hasattr(model, "predict_proba") else y)


MODELS = {
    "tree": lambda: tree.DecisionTreeRegressor(max_depth=4, random_state=0),
    "forest": lambda: ensemble.RandomForestRegressor(6, random_state=0),
    "boosting": lambda: ensemble.GradientBoostingRegressor(n_estimators=20, random_state=0),
    "classes": lambda: ensemble.RandomForestClassifier(6, random_state=0),
    "randomised": lambda: ensemble.ExtraTreesClassifier(6, random_state=0),
}


@pytest.mark.parametrize("kind", MODELS)
def test_trees_give_what_all_coalitions_give(table, layout, kind):
    model = fitted(MODELS[kind](), table)
    made = groups(layout).merge({"pair": ["f0", "f3"], "rest": ["f5", "f6", "f7"]})
    target = "high" if hasattr(model, "classes_") else None
    explainer = Explainer(model, samples(table, layout, 7, seed=1), made, target, layout=layout)
    few = table.isel(time=slice(0, 5))
    by_trees, by_rows = explainer.shapley(few), explainer.shapley(few, "exact")
    assert by_trees.attrs["method"] == "exact Shapley values of trees"
    np.testing.assert_allclose(by_trees.attribution, by_rows.attribution, rtol=0, atol=1e-12)
    for name in ("prediction", "base_value"):
        np.testing.assert_allclose(by_trees[name], by_rows[name], rtol=1e-12)
    assert abs(by_trees.residual).max() < 1e-12
    assert not by_trees.stderr.any() and by_trees.converged.all()


def test_groups_are_players_not_sums_of_their_features(table, layout):
    # A product: the pair (f0, f1) together with f3 gets another share than its members would.
    x = table[NAMES].to_array("f", "x").values.T
    model = tree.DecisionTreeRegressor(random_state=0).fit(x, (x[:, 0] > 0) * (x[:, 1] > 0) * (x[:, 3] > 0) * 1.0)
    base = Baseline("none", np.full((1, 8), -1.0))
    ones = table.isel(time=slice(0, 1)) * 0 + 1
    single = Explainer(model, base, groups(layout), layout=layout).shapley(ones).attribution[:, 0]
    merged = Explainer(model, base, groups(layout).merge({"pair": ["f0", "f1"]}), layout=layout).shapley(ones)
    np.testing.assert_allclose(single.sel(group=["f0", "f1", "f3"]), 1 / 3, rtol=1e-12)
    np.testing.assert_allclose(merged.attribution.sel(group=["pair", "f3"])[:, 0], 1 / 2, rtol=1e-12)


def test_fields_of_many_groups_are_exact_with_a_baseline_for_each_month(ds):
    layout = FieldSpec(["tracer", "u", "v"], "tracer", target_offsets=1, mask="wet", area="cell_area").bind(ds)
    x = layout.pack(ds, "inputs").values[:, layout.valid("inputs")]
    model = ensemble.RandomForestRegressor(4, random_state=0).fit(x[:-1], x[1:, ::3])
    boxes = {f"{e}E": {"lon": slice(e - 1, e + 1)} for e in range(0, 360, 60)}
    made = groups(layout, box=boxes)
    assert len(made) == 18
    explainer = Explainer(model, climatology(ds, layout, by="month"), made, area_mean(), layout=layout)
    result = explainer.shapley(ds.chunk(time=5))
    assert result.attribution.chunks is not None
    assert abs(result.residual).max() < 1e-6 and result.attribution.dims == ("group", "time")
    drawn = explainer.shapley(ds.isel(time=slice(0, 4)), "permutations", pairs=300)
    gap = abs(drawn.attribution - result.attribution[:, :4].compute())
    assert (gap <= 4 * drawn.stderr + 1e-9).all() and abs(result.attribution).max() > 0.01
    whole = groups(layout, variable={"tracer": "tracer", "currents": ["u", "v"]})
    explainer = Explainer(model, climatology(ds, layout), whole, area_mean(), layout=layout)
    np.testing.assert_allclose(
        explainer.shapley(ds).attribution, explainer.shapley(ds, "exact").attribution, rtol=0, atol=2e-6
    )


@pytest.mark.parametrize("wide", [120, 60])
def test_trees_of_cells_are_explained_for_all_groups_of_all_regions(ds, wide):
    layout = FieldSpec(["tracer", "u", "v"], "tracer", target_offsets=1, mask="wet", area="cell_area").bind(ds)
    cells = layout.pack(ds, "inputs").values[:, ds.wet.values].reshape(-1, 3)
    model = ensemble.RandomForestRegressor(4, max_depth=5, random_state=0).fit(cells, cells[:, 0] * cells[:, 1])
    boxes = {f"{e}E": {"lon": slice(e - 1, e + wide - 59)} for e in range(0, 360, wide)}
    made = groups(layout, box=boxes)
    target = box_mean(lat=slice(-90, 0)) - box_mean(lat=slice(0, 90))
    few, base = ds.isel(time=slice(0, 2)), samples(ds, layout, 3, seed=0)
    explainer = Explainer(model, base, made, target, layout=layout)
    found = explainer.shapley(few)
    assert found.attrs["method"] == "exact Shapley values of trees" and abs(found.residual).max() < 1e-12
    if len(made) <= 9:
        np.testing.assert_allclose(found.attribution, explainer.shapley(few, "exact").attribution, rtol=0, atol=1e-12)
    else:  # the game adds up over longitudes: with all of them in one group it is that of the variables
        whole = Explainer(model, base, groups(layout), target, layout=layout).shapley(few, "exact")
        total = found.attribution.groupby("group_variable").sum().rename(group_variable="group")
        np.testing.assert_allclose(total.sel(group=whole.group), whole.attribution, rtol=0, atol=1e-12)


def test_what_trees_cannot_explain_goes_the_usual_way(table, layout):
    model = fitted(ensemble.GradientBoostingClassifier(n_estimators=5, random_state=0), table)
    made = groups(layout).merge({"rest": [f"f{i}" for i in range(3, 8)]})
    base = samples(table, layout, 2, seed=0)
    result = Explainer(model, base, made, "high", layout=layout).shapley(table.isel(time=slice(0, 2)))
    assert result.attrs["method"] == "exact Shapley values"
    with pytest.raises(ValueError, match=r"cannot explain 'high' of 'GradientBoostingClassifier'.*method='auto'"):
        Explainer(model, base, made, "high", layout=layout).shapley(table, "trees")
    model = fitted(MODELS["forest"](), table)
    with pytest.raises(ValueError, match="a target that is not linear"):
        Explainer(model, base, made, lambda d: d.y**2, layout=layout).shapley(table, "trees")
    assert (
        Explainer(model, base, made, 2 * field("y"), layout=layout).shapley(table, "trees").attrs["target"] == "2 x y"
    )


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["forest", "boosting", "classes", "boosted classes"])
def test_a_forest_of_100_trees_agrees_with_tree_explainer(table, layout, kind):
    shap = pytest.importorskip("shap", reason="the peer; pip install physml[explain]")
    model = {
        "forest": ensemble.RandomForestRegressor(100, random_state=0),
        "boosting": ensemble.GradientBoostingRegressor(random_state=0),
        "classes": ensemble.RandomForestClassifier(100, random_state=0),
        "boosted classes": ensemble.GradientBoostingClassifier(random_state=0),
    }[kind]
    x = table[NAMES].to_array("f", "x").values.T
    if kind == "boosted classes":  # of which TreeExplainer explains the log of the odds
        model.fit(x, np.where(table.y > 0, "wet", "dry"))
        target = lambda d: np.log(d.wet / d.dry)  # noqa: E731
    else:
        model = fitted(model, table)
        target = "high" if kind == "classes" else None
    peer = shap.TreeExplainer(model, x[:100], feature_perturbation="interventional")
    theirs = np.asarray(peer.shap_values(x[100:104], check_additivity=False))
    theirs = theirs[..., 0] if theirs.ndim == 3 else theirs
    explainer = Explainer(model, Baseline("the first 100", x[:100]), groups(layout), target, layout=layout)
    few = table.isel(time=slice(100, 104))
    for method in ("exact",) if kind == "boosted classes" else ("trees", "exact"):
        np.testing.assert_allclose(explainer.shapley(few, method).attribution.values.T, theirs, rtol=0, atol=1e-6)
