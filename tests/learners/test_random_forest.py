"""Forests equal scikit-learn's on the same rows, come back from disk, and are lazy when the data are."""

import dask.array as dsa
import numpy as np
import pytest
import xarray as xr
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

import physml
from physml import FieldSpec
from physml.learners import Forest, load
from physml.learners._stacking import draw

CELLS = FieldSpec(
    ["t", "wind", "depth", "time.month"],
    "t",
    input_offsets={"t": (-1, 0)},
    target_offsets=(1, 2),
    mask="wet",
    area="area",
)
SMALL = {"n_trees": 5, "min_samples_leaf": 4}


@pytest.fixture(scope="module")
def regimes(ocean):
    """Three kinds of water: cold, mild and warm, as flags."""
    kind = xr.where(ocean.t < 14, 1, xr.where(ocean.t < 16.5, 2, 5)).astype("int8")
    kind.attrs = {
        "long_name": "kind of water",
        "flag_values": np.array([1, 2, 5], "int8"),
        "flag_meanings": "cold mild warm",
    }
    return ocean.assign(kind=kind)


def rows(learner, ds):
    x, y = (
        learner.layout.pack(ds, r, whole_window=True).values[:, ds.wet.values].reshape(-1, n)
        for r, n in (("inputs", len(learner.layout.inputs)), ("targets", len(learner.layout.targets)))
    )
    return x.astype("float32"), y


def test_cells_are_the_rows_of_scikit_learns_forest(ocean):
    learner = Forest(CELLS, oob_score=True, bootstrap=True, max_samples=0.5, **SMALL)
    with pytest.warns(UserWarning, match="do not have OOB scores"):
        learner.fit(ocean)
    x, y = rows(learner, ocean)
    peer = RandomForestRegressor(5, min_samples_leaf=4, oob_score=True, max_samples=0.5, random_state=0)
    with pytest.warns(UserWarning, match="do not have OOB scores"):
        peer.fit(x, y)
    out = learner.predict(ocean)
    found = out.t.transpose("time", "lat", "lon", "lead").values[:-2][:, ocean.wet.values].reshape(-1, 2)
    np.testing.assert_array_equal(found, peer.predict(x))
    assert learner.oob_score == peer.oob_score_
    assert out.t.attrs["units"] == "degC"
    assert bool(out.t.isel(lat=1, lon=1).isnull().all())


def test_area_counts_as_the_weight_of_a_row(ocean):
    learner = Forest(CELLS, area_weights=True, **SMALL).fit(ocean)
    x, y = rows(learner, ocean)
    weights = np.tile(ocean.area.values[ocean.wet.values], len(x) // 18)
    peer = RandomForestRegressor(5, min_samples_leaf=4, random_state=0).fit(x, y, weights)
    np.testing.assert_array_equal(learner.estimator.predict(x), peer.predict(x))


def test_maps_are_rows_and_an_index_is_read_and_answered_once(ocean):
    spec = FieldSpec(["t", "index", "time.month"], "index", target_offsets=3, mask="wet")
    learner = Forest(spec, samples="maps", **SMALL).fit(ocean)
    assert learner.estimator.n_features_in_ == 18 + 1 + 1
    x = np.concatenate(
        [
            np.stack([ocean.t.values[:, i, j] for i, j in zip(*np.nonzero(ocean.wet.values), strict=True)], 1),
            ocean["index"].values[:, None],
            ocean.time.dt.month.values[:, None],
        ],
        1,
    )
    peer = RandomForestRegressor(5, min_samples_leaf=4, random_state=0)
    order = np.argsort([f % 3 for f in learner.stacking.features], kind="stable")
    shuffled = x[:, np.argsort(order)]
    peer.fit(shuffled[:-3], ocean["index"].values[3:])
    out = learner.predict(ocean)
    np.testing.assert_array_equal(out["index"].values, peer.predict(shuffled))
    assert out["index"].dims == ("time",)


def test_maps_of_targets_are_answered_all_at_once(ocean, same):
    spec = FieldSpec("wind", "t", target_offsets=(1, 2), mask="wet")
    learner = Forest(spec, samples="maps", spread=True, **SMALL).fit(ocean)
    assert learner.estimator.n_outputs_ == 36
    out = learner.predict(ocean)
    y = learner.layout.pack(ocean, "targets", whole_window=True).values[:, ocean.wet.values].reshape(70, -1)
    x = ocean.wind.values[:70][:, ocean.wet.values]
    peer = RandomForestRegressor(5, min_samples_leaf=4, random_state=0).fit(x, y)
    found = out.t.transpose("time", "lat", "lon", "lead").values[:70][:, ocean.wet.values].reshape(70, -1)
    np.testing.assert_array_equal(found, peer.predict(x))
    same(out, learner.predict(ocean.chunk(time=9)))


def test_chunks_change_no_bit_and_rows_are_drawn_by_seed_alone(ocean, same, nothing_computed):
    def make(ds, **options):
        return Forest(CELLS, max_rows=300, spread=True, **{**SMALL, **options}).fit(ds)

    eager = make(ocean)
    with nothing_computed():
        out = eager.predict(ocean.chunk(time=7, lon=2))
    whole = eager.predict(ocean)
    same(out, whole)
    same(make(ocean.chunk(time=5, lat=3)).predict(ocean), whole)
    other = make(ocean, seed=1).predict(ocean)
    assert not np.array_equal(other.t, whole.t, equal_nan=True)


def test_rows_are_drawn_with_equal_chances_and_once():
    counts = np.zeros(12)
    for seed in range(3000):
        some = draw(12, 5, seed)
        assert len(np.unique(some)) == 5
        counts[some] += 1
    assert abs(counts / 3000 - 5 / 12).max() < 4 * np.sqrt(5 / 12 * 7 / 12 / 3000)
    assert np.array_equal(draw(10**6, 50, 3), draw(10**6, 50, 3))
    assert len(draw(7, 7, 0)) == 7


def test_more_rows_than_memory_holds_are_refused_with_the_number_that_fits(ocean):
    size = 4 * 5 + 8 * 2
    with pytest.raises(ValueError, match=r"1242 rows of 5 features do not fit into memory.*max_rows=100"):
        Forest(CELLS, memory=100 * size).fit(ocean)
    assert Forest(CELLS, memory=100 * size, max_rows=100, **SMALL).fit(ocean).estimator.n_features_in_ == 5


def test_spread_is_that_of_training_values_in_the_same_leaves(ocean):
    learner = Forest(CELLS, spread=True, **SMALL).fit(ocean)
    x, y = rows(learner, ocean)
    leaf = learner.estimator.apply(x)
    std = learner.predict(ocean).t_std.transpose("time", "lat", "lon", "lead").values[:-2][:, ocean.wet.values]
    for row in (0, 500, 1000):
        share = leaf == leaf[row]
        weight = (share / share.sum(0)).mean(1)
        mean = weight @ y
        expected = np.sqrt(weight @ (y - mean) ** 2)
        np.testing.assert_allclose(std.reshape(-1, 2)[row], expected, rtol=1e-9)


def test_spread_of_pure_noise_is_the_noise():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2000, 2))
    noise = 0.5 + (x > 0)
    ds = xr.Dataset(
        {"x": (("time", "i"), x), "y": (("time", "i"), noise * rng.normal(size=x.shape))}, {"time": np.arange(2000)}
    )
    out = Forest(FieldSpec("x", "y"), n_trees=20, min_samples_leaf=40, spread=True).fit(ds).predict(ds)
    for low in (True, False):
        there = (ds.x < 0) if low else (ds.x > 0)
        assert float(out.y_std.where(there).mean()) == pytest.approx(0.5 if low else 1.5, rel=0.05)


def test_classes_are_flags_with_probabilities(regimes, tmp_path, same):
    spec = FieldSpec(["wind", "time.month"], "kind", target_offsets=1, mask="wet")
    learner = Forest(spec, "classification", **SMALL).fit(regimes)
    out = learner.predict(regimes)
    x, y = rows(learner, regimes)
    peer = RandomForestClassifier(5, min_samples_leaf=4, random_state=0).fit(x, y[:, 0])
    assert out.kind_probability.dims == ("time", "category", "lat", "lon")
    p = out.kind_probability.transpose("time", "lat", "lon", "category").values[:-1][:, regimes.wet.values]
    np.testing.assert_array_equal(p.reshape(-1, 3), peer.predict_proba(x).astype("float32"))
    np.testing.assert_array_equal(out.kind.values[:-1][:, regimes.wet.values].ravel(), peer.predict(x))
    assert out.category.values.tolist() == ["cold", "mild", "warm"]
    assert out.kind.attrs["flag_values"].tolist() == [1, 2, 5]
    assert out.kind.attrs["flag_meanings"] == "cold mild warm"
    out.to_netcdf(tmp_path / "kind.nc")
    with xr.open_dataset(tmp_path / "kind.nc", mask_and_scale=False) as stored:
        assert stored.kind.dtype == "int8"
        assert int(stored.kind.isel(time=0, lat=1, lon=1)) == -128
    learner.save(tmp_path / "kind.learner")
    same(load(tmp_path / "kind.learner").predict(regimes.chunk(time=10)), out)


def test_classes_without_flags_are_the_numbers_found_and_others_are_refused(ocean, regimes):
    spec = FieldSpec("wind", "kind", mask="wet")
    bare = regimes.assign(kind=regimes.kind.drop_attrs())
    learner = Forest(spec, "classification", **SMALL).fit(bare)
    assert learner.classes == ((1, 2, 5), ("1", "2", "5"))
    named = Forest(spec, "classification", values=[5, 2, 1], labels=["c", "b", "a"], **SMALL).fit(bare)
    a, b = (f.predict(bare).kind_probability for f in (learner, named))
    np.testing.assert_array_equal(a.transpose("category", ...)[::-1].values, b.transpose("category", ...).values)
    with pytest.raises(ValueError, match=r"holds values that are no class. Expected: among 1, 2. Received: 5"):
        Forest(spec, "classification", values=[1, 2]).fit(bare)
    with pytest.raises(ValueError, match="numbers and names of the classes of 'kind' do not fit"):
        Forest(spec, "classification", labels=["a", "b"]).fit(bare)


@pytest.mark.parametrize(
    ("attrs", "classes"),
    [
        ({"flag_values": "1b, 2b, 5b", "flag_meanings": "a b c"}, ((1, 2, 5), ("a", "b", "c"))),
        ({"flag_values": [1, 2, 5]}, ((1, 2, 5), ("1", "2", "5"))),
        (
            {"flag_values": "few", "flag_meanings": "a b"},
            "Forest: the attribute flag_values of 'kind' holds no numbers",
        ),
        ({"flag_masks": [1, 2, 4]}, "Forest: 'kind' has flag_masks, so that several flags may hold at once"),
    ],
)
def test_flags_are_read_as_heads_read_them(regimes, attrs, classes):
    ds = regimes.assign(kind=regimes.kind.drop_attrs().assign_attrs(attrs))
    learner = Forest(FieldSpec("wind", "kind", mask="wet"), "classification", **SMALL)
    if isinstance(classes, str):
        with pytest.raises(ValueError, match=classes):
            learner.fit(ds)
        learner = Forest(FieldSpec("wind", "kind", mask="wet"), "classification", values=[1, 2, 5], **SMALL)
        assert learner.fit(ds).classes[0] == (1, 2, 5)
    else:
        assert learner.fit(ds).classes == classes


def test_a_class_that_never_occurs_has_probability_zero(regimes):
    cold = regimes.assign(kind=regimes.kind.where(regimes.kind < 5, 2).astype("int8").assign_attrs(regimes.kind.attrs))
    out = Forest(FieldSpec("wind", "kind", mask="wet"), "classification", **SMALL).fit(cold).predict(cold)
    assert float(out.kind_probability.sel(category="warm").max()) == 0
    np.testing.assert_allclose(out.kind_probability.sum("category").where(regimes.wet, 1), 1, rtol=1e-6)


def test_importances_of_groups_are_sums_of_those_of_channels(ocean):
    learner = Forest(CELLS, **SMALL).fit(ocean)
    found = learner.importances({"before": "t -1", "state": ["t", "wind"], "rest": ["depth", "time.month"]})
    np.testing.assert_array_equal(found.importance, learner.estimator.feature_importances_)
    assert found.channel.values.tolist() == ["t -1", "t", "wind", "depth", "time.month"]
    by = found.importance
    np.testing.assert_allclose(found.variable_importance, [by[0] + by[1], *by[2:]])
    np.testing.assert_allclose(found.group_importance, [by[0], by[0] + by[1] + by[2], by[3] + by[4]])
    assert float(found.variable_importance.sum()) == pytest.approx(1)
    each = np.array([t.feature_importances_ for t in learner.estimator.estimators_])
    np.testing.assert_allclose(found.variable_importance_std[0], each[:, :2].sum(1).std(), rtol=1e-10)
    with pytest.raises(ValueError, match="names 'winds', which is no input; did you mean 'wind'"):
        learner.importances({"a": "winds"})


def test_importances_of_maps_are_maps(ocean):
    learner = Forest(FieldSpec(["t", "index"], "index", target_offsets=1, mask="wet"), samples="maps", **SMALL).fit(
        ocean
    )
    found = learner.importances()
    assert found.value_importance.dims == ("channel", "lat", "lon")
    np.testing.assert_allclose(found.value_importance.sum(["lat", "lon"]), found.importance, rtol=1e-12)
    np.testing.assert_array_equal(found.value_importance.sel(channel="t").notnull(), ocean.wet)


def test_options_of_scikit_learn_go_by_their_names():
    forest = Forest(CELLS, max_features="sqrt", max_depth=3)
    assert forest._made().get_params()["max_features"] == "sqrt"
    with pytest.raises(ValueError, match="no option 'max_dept'; did you mean 'max_depth'"):
        Forest(CELLS, max_dept=3)
    with pytest.raises(ValueError, match=r"random_state is said otherwise. Expected: seed"):
        Forest(CELLS, random_state=3)
    with pytest.raises(ValueError, match="kind='regresion' is not understood; did you mean 'regression'"):
        Forest(CELLS, "regresion")
    with pytest.raises(ValueError, match="there is no out-of-bag score"):
        _ = Forest(CELLS, **SMALL).fit(_tiny()).oob_score


def _tiny():
    time = xr.date_range("2000-01-15", periods=30, freq="MS")
    rng = np.random.default_rng(0)
    ds = xr.Dataset({n: (("time", "x"), rng.normal(size=(30, 3))) for n in ("t", "wind")}, {"time": time})
    return ds.assign(depth=("x", [1.0, 2, 3]), wet=("x", [True] * 3), area=("x", [1.0] * 3))


def test_a_dask_dataset_is_read_once_and_predicted_block_by_block(ocean):
    reads = []

    def count(block):
        reads.append(len(block))
        return block

    t = ocean.t.chunk(time=12)
    t = t.copy(data=dsa.map_blocks(count, t.data, dtype=t.dtype, meta=np.empty((0, 0, 0))))
    spec = FieldSpec("t", "t", target_offsets=0, mask="wet")
    learner = Forest(spec, **SMALL).fit(ocean.assign(t=t))
    assert sum(reads) == 72
    assert physml.predict(learner, ocean.assign(t=t)).t.chunksizes["time"] == (12,) * 6


def test_quantiles_are_those_of_the_training_values_that_share_leaves(ocean, same, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (1500, 2))
    noise = rng.exponential(0.5 + (x > 0))
    ds = xr.Dataset(
        {n: (("time", "i"), v, {"units": "K"}) for n, v in {"x": x, "y": noise}.items()}, {"time": np.arange(1500)}
    )
    levels = [0.1, 0.5, 0.9]
    learner = Forest(FieldSpec("x", "y"), n_trees=100, min_samples_leaf=100, quantiles=levels).fit(ds)
    out = learner.predict(ds.isel(time=slice(0, 200)))
    assert out.y.dims == ("time", "quantile", "i")
    assert out["quantile"].values.tolist() == levels
    for there, scale in (((ds.x < -0.1), 0.5), ((ds.x > 0.1), 1.5)):
        mean = out.y.where(there).mean(("time", "i")).values
        np.testing.assert_allclose(1 - np.exp(-mean / scale), levels, atol=0.03)
    covered = (ds.y >= out.y.sel(quantile=0.1)) & (ds.y <= out.y.sel(quantile=0.9))
    assert float(covered.mean()) == pytest.approx(0.8, abs=0.05)
    learner.save(tmp_path / "q.learner")
    same(load(tmp_path / "q.learner").predict(ds.isel(time=slice(0, 200)).chunk(time=33)), out)
    # A tree whose leaves hold one value has that value as all its quantiles.
    spec = FieldSpec(["t", "index"], "index", target_offsets=1, mask="wet")
    one = Forest(spec, samples="maps", n_trees=1, bootstrap=False, quantiles=[0.2, 0.8]).fit(ocean).predict(ocean)
    np.testing.assert_array_equal(one["index"].values[:-1], np.tile(ocean["index"].values[1:, None], 2))
    with pytest.raises(ValueError, match="quantiles do not fit"):
        Forest(CELLS, quantiles=[0.9, 0.1])
