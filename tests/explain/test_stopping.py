"""Every sample stops on its own, as soon as it is known well enough, wherever it is computed."""

import dask
import keras
import numpy as np
import pytest
import xarray as xr

from physml.explain import (
    Explainer,
    PairedKernel,
    PairedPermutations,
    area_mean,
    climatology,
    field,
    groups,
    interval,
    on_tensors,
    samples,
    shapley_values,
    zero,
)
from physml.explain.shapley.sweep import Sampled, Stopping, t_quantile

BOXES = {f"{x}E": {"lon": slice(x - 1, x + 1)} for x in range(0, 360, 60)}


@on_tensors
def saturating(x):
    """Additive where the currents are small, interacting where they are large."""
    u, v = x[..., 1:2], x[..., 2:]
    return x[..., :1] + keras.ops.tanh(
        keras.ops.sum(u * keras.ops.exp(v), (1, 2), keepdims=True)
    ) * keras.ops.ones_like(u)


@pytest.fixture
def explainer(ds, layout):
    return Explainer(saturating, climatology(ds, layout), groups(layout, box=BOXES), area_mean(), layout=layout)


@pytest.mark.parametrize("method", ["permutations", "kernel"])
def test_each_sample_stops_at_the_tolerance_and_holds_the_truth(ds, layout, method):
    made = groups(layout, variable={"tracer": "tracer", "currents": ["u", "v"]}, box=BOXES)
    explainer = Explainer(saturating, climatology(ds, layout), made, area_mean(), layout=layout)
    ds = ds.isel(time=slice(0, 6))
    exact = explainer.shapley(ds)
    assert exact.converged.all()
    assert not exact.dof.any()
    result = explainer.shapley(ds, method, tol=0.05, seed=3)
    inside = interval(result)
    half = (inside.upper - inside.lower) / 2
    assert result.converged.all()
    assert half.max() <= 0.05
    assert len(np.unique(result.rows)) > 1
    assert result.attrs["rows"] == int(result.rows.sum()) + 1
    assert (result.attrs["converged"], result.attrs["max_rows"]) == ("6 of 6 samples", 20_000)
    error = abs(result.attribution - exact.attribution)
    assert (error <= 2 * half + 1e-6).all()  # how often they cover is told by the games
    wide = explainer.shapley(ds, method, rtol=0.2)
    largest = abs(wide.attribution).max("group")
    assert (interval(wide).upper - wide.attribution <= 0.2 * largest + 1e-12).all()
    assert wide.rows.sum() < result.rows.sum()


def test_a_sample_that_cannot_reach_the_tolerance_says_so(explainer, ds):
    ds = ds.isel(time=slice(0, 3))
    result = explainer.shapley(ds, tol=1e-9, max_rows=1500)
    assert not result.converged.any()
    assert (result.rows <= 1500).all()
    assert (result.rows > 1500 - 2 * 17).all()
    assert result.attrs["max_rows"] == 1500
    fixed = explainer.shapley(ds.isel(time=slice(0, 2)), max_rows=1500)
    assert "converged" not in fixed
    assert (fixed.rows == 1 + 2 * 17 * 44).all()


def test_decisions_do_not_depend_on_batches_blocks_or_chunks(explainer, ds):
    ds = ds.isel(time=slice(2, 6))
    reference = explainer.shapley(ds, tol=0.2)
    for other in (
        explainer.shapley(ds, tol=0.2, batch_rows=70),
        explainer.shapley(ds, tol=0.2, batch_rows=3000),
        explainer.shapley(ds.chunk(time=1), tol=0.2),
        explainer.shapley(ds.chunk(time=3), tol=0.2),
    ):
        xr.testing.assert_equal(other.rows, reference.rows)
        xr.testing.assert_equal(other.dof, reference.dof)
        xr.testing.assert_allclose(other.drop_attrs(), reference.drop_attrs(), rtol=0, atol=1e-6)
    assert len(np.unique(reference.rows)) > 1


def test_several_baseline_rows_are_no_error_of_their_own(ds, layout):
    linear = on_tensors(lambda x: keras.ops.sum(x, -1, keepdims=True))
    made = groups(layout, box=BOXES)
    result = Explainer(linear, samples(ds, layout, 8, 0), made, area_mean(), layout=layout).shapley(ds, tol=1e-5)
    assert result.converged.all()
    assert (result.rows == 1 + 16 * 34).all()
    anomaly = result.prediction - result.base_value
    np.testing.assert_allclose(result.attribution.sum("group"), anomaly, atol=1e-6)


@pytest.mark.parametrize("method", ["exact", "permutations", "kernel"])
def test_one_group_gets_all_there_is(ds, layout, method):
    made = groups(layout).merge({"all": ["tracer", "u", "v"]})
    explainer = Explainer(saturating, samples(ds, layout, 20, 0), made, area_mean(), layout=layout)
    result = explainer.shapley(ds.isel(time=slice(0, 2)), method, tol=1e-6)
    np.testing.assert_allclose(result.attribution.sel(group="all"), result.prediction - result.base_value, atol=1e-12)
    assert result.converged.all()
    assert (result.rows == 1).all()


def test_auto_is_exact_within_the_rows_it_may_use(ds, layout):
    def method(baseline, **settings):
        explainer = Explainer(saturating, baseline, groups(layout), area_mean(), layout=layout)
        return explainer.shapley(ds.isel(time=slice(0, 1)), **settings).attrs["method"]

    assert method(zero(layout), max_rows=7) == "exact Shapley values"
    assert method(samples(ds, layout, 2, 0)) == "exact Shapley values"
    assert method(samples(ds, layout, 2, 0), max_rows=12) == "Shapley values by paired permutations"
    assert method(samples(ds, layout, 2, 0), max_rows=13) == "exact Shapley values"


def test_nested_groups_get_owen_values(ds, layout):
    ds = ds.isel(time=slice(0, 4))
    made = groups(layout, box={"south": {"lat": slice(-90, 0)}, "north": {"lat": slice(0, 90)}})
    explainer = Explainer(saturating, zero(layout), made, area_mean(), layout=layout)
    result = explainer.shapley(ds, nested="variable")
    assert result.attrs["method"] == "exact Owen values"
    assert result.group_parent.values.tolist() == list(made.parts["variable"])
    plain = Explainer(saturating, zero(layout), groups(layout), area_mean(), layout=layout).shapley(ds)
    np.testing.assert_allclose(
        result.attribution.groupby("group_parent").sum().sel(group_parent=plain.group.values).T,
        plain.attribution.T,
        atol=1e-6,
    )
    drawn = explainer.shapley(ds, "permutations", nested="variable", tol=0.02)
    assert drawn.attrs["method"] == "Owen values by paired permutations"
    np.testing.assert_allclose(drawn.attribution, result.attribution, atol=0.05)
    with pytest.raises(ValueError, match=r"kernel regression knows no unions.*nested=False"):
        explainer.shapley(ds, "kernel", nested="variable")


def test_interactions_are_labelled_and_add_up_to_shapley_values(ds, layout):
    ds = ds.isel(time=slice(0, 4))
    explainer = Explainer(saturating, zero(layout), groups(layout), field(), layout=layout)
    found = explainer.interactions(ds)
    assert found.attribution.dims == ("group", "group_other", "time", "lat", "lon")
    np.testing.assert_allclose(
        found.attribution.sum("group_other", skipna=False), explainer.shapley(ds).attribution, atol=1e-12
    )
    assert not abs(found.attribution.sel(group="tracer", group_other="u")).max() > 1e-6
    assert abs(found.residual).max() < 1e-6
    drawn = explainer.interactions(ds.chunk(time=2), "paths", pairs=4)
    xr.testing.assert_allclose(drawn.attribution, found.attribution, atol=1e-5)
    with pytest.raises(ValueError, match="method 'path' is unknown; did you mean 'paths'"):
        explainer.interactions(ds, "path")
    with pytest.raises(ValueError, match=r"pairs are too few.*Received: 0"):
        explainer.interactions(ds, "paths", pairs=0)
    for estimator in (PairedPermutations, None):
        with pytest.raises(TypeError, match=r"method is neither a name nor an estimator.*'auto'"):
            explainer.interactions(ds, estimator)
    with pytest.raises(ValueError, match="level is no probability"):
        interval(found, 95)


def test_a_whole_field_is_read_and_run_once_and_only_when_asked(ds, layout):
    runs = []

    def model(x):
        runs.append(len(x))
        return saturating.function(x)

    explainer = Explainer(on_tensors(model), zero(layout), groups(layout, box=BOXES), field(), layout=layout)
    runs.clear()
    with dask.config.set(scheduler="synchronous"):
        lazy = explainer.shapley(ds.chunk(time=12), rtol=0.5, batch_rows=100)
        assert not runs
        assert lazy.attribution.chunks
        assert "rows" not in lazy.attrs
        together = dask.compute(lazy.attribution, lazy.stderr, lazy.rows)
    once = len(runs)
    assert once * 100 < int(together[2].sum()) + 2 * (1 + 6 * 100)
    eager = explainer.shapley(ds, rtol=0.5, batch_rows=100)
    xr.testing.assert_allclose(together[0], eager.attribution, rtol=0, atol=1e-6)


def test_the_bar_moves_with_every_sample(explainer, ds, monkeypatch):
    import contextlib

    from physml import _progress

    moves = []

    @contextlib.contextmanager
    def bar(title, total, show):
        moves.append((title, total, show))
        yield moves.append

    monkeypatch.setattr(_progress, "bar", bar)
    explainer.shapley(ds.isel(time=slice(0, 5)), pairs=2, progress=False)
    assert moves == [("Shapley values", 5, False), 1, 1, 1, 1, 1, 0]


def test_results_of_adaptive_runs_go_to_netcdf(explainer, ds, tmp_path):
    result = explainer.shapley(ds.isel(time=slice(0, 2)), tol=0.5, rtol=0.1)
    result.to_netcdf(tmp_path / "a.nc")
    again = xr.load_dataset(tmp_path / "a.nc")
    xr.testing.assert_equal(again, result)
    assert again.converged.dtype == bool
    assert again.rows.dtype == "int64"


def test_models_without_a_value_at_zero_are_never_given_zeros(ds, layout):
    few = ds.isel(time=slice(0, 2)).map(lambda v: 1 + abs(v) if v.dims[0] == "time" else v)
    logarithm = on_tensors(lambda x: keras.ops.log(x[..., :1]) / x[..., 1:2] / x[..., 2:])
    explainer = Explainer(logarithm, climatology(few, layout), groups(layout, box=BOXES), area_mean(), layout=layout)
    assert abs(explainer.shapley(few, tol=1e3).residual).max() < 1e-6


def test_functions_are_asked_for_no_row_that_nobody_needs(ds, layout):
    asked = []

    def product(d):
        asked.append(d.sizes["time"])
        return (d.u * d.v).rename("product")

    explainer = Explainer(product, zero(layout), groups(layout, box=BOXES), area_mean("product"), layout=layout)
    asked.clear()
    result = explainer.shapley(ds.isel(time=slice(0, 2)), rtol=0.3)
    assert sum(asked) == result.attrs["rows"] == 1 + result.rows.sum()


@pytest.mark.parametrize(
    "settings, text",
    [
        (dict(tol=-1), "tol is not positive"),
        (dict(level=95), "level is no probability"),
        (dict(pairs=4.5), r"pairs are too few.*a whole number >= 2.*4\.5"),
        (dict(seed=-1), r"seed starts no draw.*whole number >= 0.*-1"),
        (dict(method="kernel", seed=None), "seed starts no draw.*None"),
        (dict(method=PairedKernel(60), nested="variable"), r"an estimator plans unions itself.*unions="),
        (dict(max_rows=40), r"max_rows are too few for Shapley values by paired permutations.*>= 69 for 18 groups"),
        (dict(method="kernel", pairs=5, max_rows=20), r"max_rows are too few for .*kernel.*>= 37"),
        (dict(method="exact", max_rows=5000), r"max_rows are too few for exact.*>= 262143"),
    ],
)
def test_bad_settings_say_what_is_wrong(explainer, ds, settings, text):
    with pytest.raises(ValueError, match=text):
        explainer.shapley(ds, **settings)


@pytest.mark.long
def test_intervals_still_cover_where_the_tolerance_ends_the_draw():
    rng = np.random.default_rng(0)
    inputs, hidden, out = rng.normal(size=10), rng.normal(size=(10, 32)) / 2, rng.normal(size=32)

    def network(members):
        return np.tanh((members * inputs) @ hidden) @ out

    truth = shapley_values(network, 10)[0]
    empty = [network(np.zeros((1, 10)))]
    for estimator in (PairedPermutations(16, 0), PairedKernel(150, 0)):
        hits, counts = [], []
        for number in range(400):
            one = Sampled(estimator, Stopping(tol=0.03), 10, np.zeros(1, int), number)
            found = True
            while found is True:
                coalitions, _ = one.plan()
                found = one.add(network(coalitions)[:, None], empty)
            hits.append(abs(found.estimate[:, 0] - truth) <= t_quantile(found.dof, 0.95) * found.stderr[:, 0])
            counts.append(found.dof)
        assert len(set(counts)) > 1
        assert 0.92 < np.mean(hits) < 0.98
