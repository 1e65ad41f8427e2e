"""Checks that can prove an explanation wrong do so, and let right ones pass."""

import keras
import numpy as np
import pytest
import xarray as xr
from scipy import stats

from physml.explain import Explainer, PairedPermutations, area_mean, field, groups, on_tensors, sanity, zero
from physml.explain.checks.ranks import pearson, spearman, top_overlap

HALVES = {"south": {"lat": slice(-90, 0)}, "north": {"lat": slice(0, 90)}}


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((4, 6, 3)),
            keras.layers.Dense(8, "tanh", name="first"),
            keras.Sequential([keras.Input((4, 6, 8)), keras.layers.Dense(6, "tanh", name="inner")], name="middle"),
            keras.layers.Dense(1, name="last"),
        ]
    )


@pytest.fixture
def explainer(network, layout):
    return Explainer(network, zero(layout), groups(layout, box=HALVES), area_mean(), layout=layout)


def fields(rng, *names):
    """Return made-up explanations of five samples on a grid, missing on one cell."""
    found = {n: xr.DataArray(rng.normal(size=(5, 4, 6)), dims=("time", "lat", "lon")) for n in names}
    return {n: a.where(~((a.lat == 1) & (a.lon == 2)) if "lat" in a.coords else a) for n, a in found.items()}


def exact(explainer, ds):
    return explainer.shapley(ds, "exact")


def test_explanations_that_add_up_pass_and_others_are_told(explainer, ds):
    result = exact(explainer, ds)
    found = sanity.additivity(result)
    assert found.additive.all() and float(found.share) == 1
    assert float(found.greatest_residual) == float(abs(result.residual).max())
    spoilt = result.assign(residual=result.residual + xr.where(result.time == result.time[3], 0.01, 0.0))
    found = sanity.additivity(spoilt)
    assert not found.additive[3] and found.additive.sum() == ds.sizes["time"] - 1
    assert float(found.share) == pytest.approx(1 - 1 / ds.sizes["time"])
    assert float(found.greatest_residual) == pytest.approx(0.01, rel=1e-4)


def test_the_tolerance_is_that_of_the_precision(explainer, ds):
    result = exact(explainer, ds)
    single, double = (sanity.additivity(result, dtype=d).tolerance for d in ("float32", "float64"))
    np.testing.assert_allclose(single / double, 2.0**29)
    size = abs(result.prediction) + abs(result.base_value) + abs(result.attribution).sum("group")
    np.testing.assert_allclose(single, 16 * 2.0**-23 * size)


def test_missing_cells_of_a_field_neither_pass_nor_fail(network, ds, layout):
    whole = Explainer(network, zero(layout), groups(layout), field(), layout=layout)
    found = sanity.additivity(exact(whole, ds.isel(time=slice(3))))
    assert (found.ratio.notnull() == ds.wet).all()
    assert float(found.share) == 1


def test_correlations_are_those_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 7, 30)).round(1)
    ones = np.ones(30)
    np.testing.assert_allclose(pearson(a, b, ones), [stats.pearsonr(x, y)[0] for x, y in zip(a, b, strict=True)])
    np.testing.assert_allclose(spearman(a, b, ones), [stats.spearmanr(x, y)[0] for x, y in zip(a, b, strict=True)])
    a[:, 3] = np.nan
    there = np.delete(np.arange(30), 3)
    np.testing.assert_allclose(spearman(a, b, ones), spearman(a[:, there], b[:, there], ones[there]), atol=1e-12)
    assert np.isnan(pearson(ones, rng.normal(size=30), ones))


def test_weights_count_as_repetition_does():
    a, b = np.random.default_rng(1).normal(size=(2, 12))
    n = np.arange(12) % 4
    np.testing.assert_allclose(pearson(a, b, n), pearson(np.repeat(a, n), np.repeat(b, n), np.ones(n.sum())))


def test_overlap_of_the_greatest():
    a = np.array([9.0, -8, 7, 1, 0.5, np.nan])
    b = np.array([-9.0, 1, 8, 7, 0.5, 99])
    assert top_overlap(a, b, 3) == pytest.approx(2 / 3)
    assert top_overlap(a, b, 0.2) == 1
    assert top_overlap(a, b, 50) == 1


def test_agreement_is_symmetric_one_with_itself_and_blind_to_scale():
    rng = np.random.default_rng(2)
    maps = fields(rng, "a", "b")
    found = sanity.agreement({**maps, "twice": 2 * maps["a"], "minus": -maps["a"]}, over=("lat", "lon"), top=3)
    for measure in ("pearson", "spearman", "sign", "top"):
        square = found[measure].transpose("explanation", "other", "time").values
        np.testing.assert_allclose(square, square.swapaxes(0, 1))
        np.testing.assert_allclose(square[[0, 1, 2, 3], [0, 1, 2, 3]], 1)
    pair = found.sel(explanation="a")
    np.testing.assert_allclose(pair.sel(other="twice").to_array(), 1)
    np.testing.assert_allclose(pair.sel(other="minus")[["pearson", "spearman"]].to_array(), -1)
    np.testing.assert_allclose(pair.sel(other="minus").sign, 0)
    np.testing.assert_allclose(pair.sel(other="minus").top, 1)
    assert abs(pair.sel(other="b").pearson).max() < 0.9


def test_agreement_of_results_is_over_their_groups_and_weighted(explainer, ds):
    few = ds.isel(time=slice(4))
    results = {"exact": exact(explainer, few), "sampled": explainer.shapley(few, PairedPermutations(3))}
    found = sanity.agreement(results)
    assert found.pearson.dims == ("explanation", "other", "time")
    assert found.pearson.sel(explanation="exact", other="sampled").min() > 0.99
    heavy = xr.DataArray([1.0, 1.0, 0, 0, 0, 0], dims="group", coords={"group": results["exact"].group})
    two = sanity.agreement(results, weights=heavy).pearson.sel(explanation="exact", other="sampled")
    np.testing.assert_allclose(abs(two), 1)


def test_lazy_explanations_are_compared_lazily(explainer, ds):
    few = ds.isel(time=slice(4))
    lazy = {n: exact(explainer, few.chunk(time=2)) for n in "ab"}
    found = sanity.agreement(lazy)
    assert all(v.chunks is not None for v in found.data_vars.values())
    assert sanity.additivity(lazy["a"]).ratio.chunks is not None
    eager = sanity.agreement({n: exact(explainer, few) for n in "ab"})
    xr.testing.assert_allclose(found.compute().drop_attrs(), eager.drop_attrs())


def test_standard_errors_shrink_as_the_root_of_the_rows(ds, layout):
    @on_tensors
    def product(x):
        return keras.ops.sin(3 * x[..., :1]) * (1 + x[..., 1:2]) * (2 + x[..., 2:] ** 2)

    parts = groups(layout, box=HALVES, lag=True)
    product = Explainer(product, zero(layout), parts, area_mean(), layout=layout)
    few = ds.isel(time=slice(8))

    def explain(pairs):
        return product.shapley(few, PairedPermutations(pairs, seed=pairs))

    found = sanity.convergence(explain, (4, 16, 64), reference=exact(product, few))
    np.testing.assert_allclose(found.rows, [1 + 2 * p * (len(parts) - 1) for p in (4, 16, 64)])
    assert float(found.order) == pytest.approx(-0.5, abs=0.15)
    np.testing.assert_allclose(found.difference, found.stderr, rtol=0.35)
    own = sanity.convergence(explain, (4, 16))
    assert own.difference.isnull().values.tolist() == [False, True]


def test_an_explanation_of_the_network_is_lost_with_its_weights_and_one_of_the_input_is_not(explainer, ds):
    few = ds.isel(time=slice(6))

    def inputs_only(e, ds):
        """Pretend that a group contributes what it holds."""
        result = exact(e, ds)
        held = np.arange(len(e.groups))[:, None] + 0 * result.prediction.values
        return result.assign(attribution=(result.attribution.dims, held))

    honest = sanity.randomise(explainer, few, exact)
    assert honest.layer.values.tolist() == ["last", "inner", "first"]
    assert honest.spearman.dims == ("layer", "time")
    assert float(honest.spearman.mean("time").min()) < 0.5
    assert (abs(honest.change).max("time") > 1e-3).all()
    blind = sanity.randomise(explainer, few, inputs_only, layers=["last"])
    np.testing.assert_allclose(blind.spearman, 1)
    xr.testing.assert_equal(blind.change, honest.change.isel(layer=[0]))


def test_randomisation_leaves_the_network_alone_and_starts_alike_both_ways(explainer, network, ds):
    before = [w.copy() for w in network.get_weights()]
    few, two = ds.isel(time=slice(3)), ["last", "first"]
    cascading, independent = (
        sanity.randomise(explainer, few, exact, how=h, layers=two) for h in ("cascading", "independent")
    )
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    xr.testing.assert_equal(cascading.isel(layer=0).drop_attrs(), independent.isel(layer=0).drop_attrs())
    assert abs(cascading.change - independent.change).isel(layer=1).max() > 1e-3
    one = sanity.randomise(explainer, few, exact, how="independent", layers=["first"])
    xr.testing.assert_equal(one.isel(layer=0).drop_attrs(), independent.sel(layer="first").drop_attrs())


def test_a_network_of_a_class_that_cannot_be_made_again_is_randomised_too(ds, layout):
    class Odd(keras.layers.Layer):
        def __init__(self, n):
            super().__init__()
            self.dense = keras.layers.Dense(n)

        def call(self, x):
            return keras.ops.sin(self.dense(x))

    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4, 6, 3)), Odd(5), keras.layers.Dense(1, name="last")])
    before = [w.copy() for w in model.get_weights()]
    found = sanity.randomise(Explainer(model, zero(layout), groups(layout), area_mean(), layout=layout), ds, exact)
    assert found.sizes["layer"] == 2
    assert (abs(found.change).max("time") > 1e-3).all()
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_what_cannot_be_checked_is_refused_by_name(explainer, ds, layout):
    result = exact(explainer, ds.isel(time=slice(2)))
    with pytest.raises(KeyError, match="additivity: the result lacks 'residual'"):
        sanity.additivity(result.drop_vars("residual"))
    with pytest.raises(ValueError, match="there is nothing to compare"):
        sanity.agreement({"a": result})
    with pytest.raises(ValueError, match="top is out of range"):
        sanity.agreement({"a": result, "b": result}, top=1.5)
    with pytest.raises(ValueError, match="explanation 'b' is not of the same samples and inputs as 'a'"):
        sanity.agreement({"a": result, "b": result.isel(time=slice(1))})
    maps = fields(np.random.default_rng(0), "a", "b")
    with pytest.raises(ValueError, match=r"over is not told.*Remedy: pass over=\('lat', 'lon'\)"):
        sanity.agreement(maps)
    with pytest.raises(ValueError, match="budgets do not increase"):
        sanity.convergence(lambda n: result, (4, 4))
    with pytest.raises(ValueError, match="how='cascade' is unknown; did you mean 'cascading'"):
        sanity.randomise(explainer, ds, exact, how="cascade")
    with pytest.raises(KeyError, match="layers names the unknown 'frist'; did you mean 'first'"):
        sanity.randomise(explainer, ds, exact, layers=["frist"])
    plain = Explainer(on_tensors(lambda x: x[..., :1]), zero(layout), groups(layout), area_mean(), layout=layout)
    with pytest.raises(TypeError, match="only a Keras model can be randomised"):
        sanity.randomise(plain, ds, exact)
