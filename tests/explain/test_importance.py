"""A group is as important as the score is worse without what it says; intervals hold the importance in other samples."""

import itertools

import dask
import keras
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from made_tables import model, orthogonal, shifts, table

from physml.explain import area_mean, groups, permutation_importance
from physml.explain.effects.resampling import block_numbers, bootstrap_counts, month_labels, permutation
from physml.fields import FieldSpec

COEF = np.array([2.0, -1.0, 0.5, 0.0])
FOUR_WAYS = list(itertools.product(("single", "multi"), ("backward", "forward")))
HALVES = {"south": {"lat": slice(-90, 0)}, "north": {"lat": slice(0, 90)}}


def linear_case(n=40):
    x = orthogonal(n, 4)
    ds, layout = table(x, x @ COEF)
    return ds, layout, model(lambda z: z @ COEF, layout)


def importance(ds, layout, function, **settings):
    return permutation_importance(function, ds, groups(layout), layout=layout, **settings)


@pytest.mark.parametrize("kind, direction", FOUR_WAYS)
def test_uncorrelated_inputs_of_a_linear_model_cost_twice_their_variance_each_way(kind, direction):
    ds, layout, function = linear_case()
    found = importance(ds, layout, function, score="mse", kind=kind, direction=direction, permutations=shifts(40))
    np.testing.assert_allclose(found.importance, 2 * COEF**2, atol=1e-12)
    assert found["rank"].values.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(found.original_score, 0, atol=1e-25)
    assert found.importance.attrs["units"] == "K2"
    # Exactly none of the score depends on the last one, whichever samples are drawn.
    unused = found.sel(group="d")
    assert [unused.importance, unused.lower, unused.upper] == pytest.approx([0, 0, 0], abs=1e-12)


def test_each_variable_is_shuffled_unless_groups_are_given():
    ds, layout, function = linear_case()
    found = permutation_importance(function, ds, layout=layout, permutations=shifts(40))
    xr.testing.assert_identical(
        found.drop_attrs(), importance(ds, layout, function, permutations=shifts(40)).drop_attrs()
    )


def test_twins_hide_each_other_in_a_single_pass_and_not_in_several():
    twin, other = orthogonal(30, 2).T
    ds, layout = table(np.stack([twin, twin, other], 1), 3 * twin + 2.5 * other)
    function = model(lambda z: z @ [1.5, 1.5, 2.5], layout)
    found = {
        way: importance(ds, layout, function, score="mse", kind=way[0], direction=way[1], permutations=shifts(30))
        for way in FOUR_WAYS
    }
    values = {way: r.importance.values for way, r in found.items()}
    np.testing.assert_allclose(values["single", "backward"], [4.5, 4.5, 12.5], atol=1e-12)
    np.testing.assert_allclose(values["single", "forward"], [13.5, 13.5, 12.5], atol=1e-12)
    np.testing.assert_allclose(values["multi", "backward"], [4.5, 13.5, 12.5], atol=1e-12)
    np.testing.assert_allclose(values["multi", "forward"], [13.5, 4.5, 12.5], atol=1e-12)
    assert found["multi", "backward"]["rank"].values.tolist() == [2, 3, 1]
    assert found["multi", "forward"]["rank"].values.tolist() == [1, 3, 2]
    passes = found["multi", "backward"].pass_score
    np.testing.assert_allclose(passes.sel({"pass": 1}), [4.5, 4.5, 12.5], atol=1e-12)
    np.testing.assert_allclose(passes.sel({"pass": 3}), [np.nan, 30.5, np.nan], atol=1e-12)
    pair = groups(layout).merge({"twins": ["a", "b"]})
    joint = permutation_importance(function, ds, pair, score="mse", permutations=shifts(30))
    np.testing.assert_allclose(joint.importance, [18, 12.5], atol=1e-12)


@profile(max_examples=15)
@given(seed=st.integers(0, 2**16), direction=st.sampled_from(["backward", "forward"]), together=st.booleans())
def test_passes_add_up_to_the_difference_between_all_and_none_shuffled(seed, direction, together):
    rng = np.random.default_rng(seed)
    ds, layout = table(rng.normal(size=(9, 3)), rng.normal(size=9))
    function = model(lambda z: z[:, 0] * z[:, 1] + np.tanh(z[:, 2]), layout)
    more = {"score": "mae", "n_bootstrap": 0, "n_permutations": 3, "seed": seed, "together": together}
    found = importance(ds, layout, function, kind="multi", direction=direction, **more)
    ahead = importance(ds, layout, function, direction="forward", **more)
    np.testing.assert_allclose(found.importance.sum(), ahead.start_score - found.original_score, atol=1e-12)


def test_it_is_that_of_scikit_learn_for_the_same_orders():
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance as peer
    from sklearn.utils import check_random_state

    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3))
    ds, layout = table(x, x[:, 0] * x[:, 1] + 0.1 * rng.normal(size=50))
    forest = RandomForestRegressor(5, random_state=0).fit(x, ds.y.values)
    theirs = peer(forest, x, ds.y.values, n_repeats=4, random_state=3, scoring="neg_mean_squared_error")
    # All columns are shuffled by the same generator there, over and over in place.
    generator = np.random.RandomState(check_random_state(3).randint(np.iinfo(np.int32).max + 1))
    order, column, orders = np.arange(50), np.arange(50), []
    for _ in range(4):
        generator.shuffle(order)
        column = column[order]
        orders.append(column)
    ours = importance(ds, layout, forest, score="mse", permutations=np.array(orders))
    np.testing.assert_allclose(ours.importances, theirs.importances, rtol=1e-12)


@pytest.mark.parametrize("name", ["rmse", "mse", "mae", "r2", "correlation", "acc"])
def test_scores_of_one_number_are_those_of_the_field(name):
    from sklearn import metrics

    rng = np.random.default_rng(0)
    y = rng.normal(3, 1, 30)
    ds, layout = table(y[:, None] + rng.normal(size=(30, 1)), y)
    found = importance(ds, layout, model(lambda z: z[:, 0], layout), score=name, n_bootstrap=50)
    p = ds.a.values
    known = {
        "rmse": metrics.root_mean_squared_error,
        "mse": metrics.mean_squared_error,
        "mae": metrics.mean_absolute_error,
        "r2": metrics.r2_score,
        "correlation": lambda y, p: np.corrcoef(y, p)[0, 1],
        "acc": lambda y, p: (
            (y - y.mean()) @ (p - y.mean()) / np.sqrt(((y - y.mean()) ** 2).sum() * ((p - y.mean()) ** 2).sum())
        ),
    }[name]
    assert found.original_score.item() == pytest.approx(known(y, p), rel=1e-12)
    by_function = importance(
        ds,
        layout,
        model(lambda z: z[:, 0], layout),
        score=known,
        better="larger" if known(y, y) == 1 else "smaller",
        n_bootstrap=0,
    )
    np.testing.assert_allclose(found.importances, by_function.importances, rtol=1e-9)
    assert (found.importance > 0).all() and (found.lower < found.importance).all()


def test_a_classifier_is_scored_by_its_probabilities():
    from sklearn import metrics
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 2))
    ds, layout = table(x, (x[:, 0] + rng.normal(size=80) > 0) * 1.0)
    fitted = LogisticRegression().fit(x[:, :1] * [[1, 0]], ds.y.values)
    p = fitted.predict_proba(x)[:, 1]
    for name, known in (("auc", metrics.roc_auc_score(ds.y, p)), ("brier", metrics.brier_score_loss(ds.y, p))):
        found = permutation_importance(fitted, ds, groups(layout), "1.0", score=name, n_bootstrap=20, layout=layout)
        assert found.original_score.item() == pytest.approx(known, rel=1e-12)
        assert found.importance.sel(group="a") > 0
        assert found.sel(group="b")[["importance", "lower", "upper"]].to_array().values.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="Brier score needs events as truth"):
        importance(ds.assign(y=ds.y * 2), layout, fitted, target="0.0", score="brier", truth=ds.y * 2)


def field_case(ds):
    """Return fields whose truth is a sum of inputs, with gaps, on part of the sphere."""
    gone = (ds.time.dt.month == 3) & (ds.lat > 0)
    ds = ds.assign(y=(2 * ds.tracer - ds.u).where(~gone).assign_attrs(units="K"))
    layout = FieldSpec(["tracer", "u", "v"], "y", mask="wet", area="cell_area").bind(ds)
    return ds, layout, model(lambda z: 2 * z[..., :1] - z[..., 1:2], layout)


def test_fields_are_scored_by_area_where_there_is_truth(ds):
    ds, layout, function = field_case(ds)
    found = importance(ds, layout, function, score="mse", permutations=shifts(24), n_bootstrap=0)
    there = ds.y.notnull()
    area = (ds.cell_area * there).fillna(0)
    for name, coef in (("tracer", 2), ("u", 1), ("v", 0)):
        x = ds[name].astype("float64")
        # Every sample is paired with every other: the mean square of x_i - x_j over all j.
        square = x**2 - 2 * x * x.mean("time") + (x**2).mean("time")
        assert found.importance.sel(group=name).item() == pytest.approx(
            coef**2 * (square * area).sum().item() / area.sum().item(), rel=1e-6, abs=1e-12
        )
    dirty = ds.assign({n: ds[n].where(ds.wet, 1e9) for n in ("tracer", "u", "v", "y")})
    again = importance(dirty, layout, function, score="mse", permutations=shifts(24), n_bootstrap=0)
    np.testing.assert_array_equal(again.importance, found.importance)


def test_a_group_of_cells_is_shuffled_as_one_field(ds):
    ds, layout, _ = field_case(ds)
    seen = []

    def product(z):
        seen.append(z)
        return z[..., :1]

    halves = groups(layout, variable=None, box=HALVES)
    permutation_importance(model(product, layout), ds, halves, n_permutations=1, n_bootstrap=0, seed=1)
    own, mixed = layout.pack(ds, "inputs").fillna(0).values, np.concatenate(seen[2:])
    order = [int(np.flatnonzero((own[:, :2] == row[:2]).all((1, 2, 3)))[0]) for row in mixed[:24]]
    assert sorted(order) == list(range(24)) and all(i != j for i, j in enumerate(order))
    np.testing.assert_array_equal(mixed[:24, :2], own[order, :2])
    np.testing.assert_array_equal(mixed[:24, 2:], own[:, 2:])


@pytest.mark.parametrize("score, kind", [("acc", "multi"), ("auc", "single")])
def test_lazy_data_give_the_same_in_any_chunks_and_batches(ds, score, kind):
    ds, layout, function = field_case(ds.isel(time=slice(12)))
    if score == "auc":
        ds["y"] = (ds.y > 0).where(ds.y.notnull()).astype("float64")
    settings = {
        "score": score,
        "block": "3MS",
        "n_permutations": 2,
        "n_bootstrap": 4,
        "kind": kind,
    }
    eager = importance(ds, layout, function, **settings)
    lazy = importance(ds.chunk(time=5, lat=2), layout, function, memory=0, batch_rows=5, **settings)
    assert (eager.attrs["reading"], lazy.attrs["reading"]) == ("at once", "batch by batch")
    xr.testing.assert_allclose(eager.drop_attrs(), lazy.drop_attrs(), rtol=1e-12)
    loaded = importance(ds.chunk(time=5), layout, function, **settings)
    xr.testing.assert_equal(eager.drop_attrs(), loaded.drop_attrs())


def test_lazy_data_beyond_the_limit_are_read_a_batch_at_a_time(ds, monkeypatch):
    from physml.explain.effects import rows

    ds, layout, function = field_case(ds)
    most = []
    plain = rows.Rows.take
    monkeypatch.setattr(rows.Rows, "take", lambda self, numbers: most.append(len(numbers)) or plain(self, numbers))
    monkeypatch.setattr(rows.Rows.blocks, "__defaults__", (1, 8 * layout.valid("inputs").size * 4))
    with dask.config.set(scheduler="synchronous"):
        importance(ds.chunk(time=4), layout, function, memory=0, n_permutations=1, n_bootstrap=0)
    assert max(most) == 8


def test_a_keras_model_sees_batches_of_one_size():
    ds, layout, _ = linear_case()
    shapes = []

    class Seen(keras.layers.Layer):
        def call(self, x):
            shapes.append(tuple(x.shape))
            return keras.ops.matmul(x, keras.ops.convert_to_tensor(COEF[:, None].astype("float32")))

    found = importance(ds, layout, Seen(), score="mse", permutations=shifts(40), batch_rows=16)
    np.testing.assert_allclose(found.importance, 2 * COEF**2, rtol=1e-4, atol=1e-6)
    assert set(shapes[1:]) == {(16, 4)}


def test_members_are_samples_too():
    x = orthogonal(20, 2)
    runs = xr.concat([table(h, h @ [2.0, 1.0])[0] for h in (x[:10], x[10:])], xr.Variable("run", [3, 4]))
    layout = FieldSpec(["a", "b"], "y", members="run").bind(runs)
    function = model(lambda z: z @ [2.0, 1.0], layout)
    found = permutation_importance(function, runs, groups(layout), score="mse", permutations=shifts(20), block=5)
    np.testing.assert_allclose(found.importance, [8, 2], atol=1e-12)
    assert found.attrs["samples"] == 20
    assert found.attrs["block"] == "5 (4 blocks)"


def test_the_past_and_the_future_of_a_sample_stay_within_the_data(ds):
    layout = FieldSpec(["tracer", "u"], "tracer", input_offsets=(-2, 0), target_offsets=1, mask="wet").bind(ds)
    function = model(lambda z: z[..., 1:2], layout)
    found = permutation_importance(function, ds, groups(layout, lag=True), area_mean(), n_bootstrap=0)
    assert found.attrs["samples"] == 21
    assert set(np.flatnonzero(found.importance)) == {1}
    assert found.group_lag.values.tolist() == ["t-2", "t", "t-2", "t"]


def test_a_function_of_datasets_is_scored_as_one_of_arrays(ds):
    layout = FieldSpec(["tracer", "u"], "tracer", target_offsets=1, mask="wet", area="cell_area").bind(ds)
    named = importance(ds, layout, lambda d: d[["tracer"]] / 2 + d.u / 8, target="tracer", n_bootstrap=0)
    plain = importance(ds, layout, model(lambda z: z[..., :1] / 2 + z[..., 1:] / 8, layout), n_bootstrap=0)
    np.testing.assert_allclose(named.importances, plain.importances, rtol=1e-5)


def test_the_truth_may_be_given(ds):
    ds, layout, function = field_case(ds)
    mean = lambda d: d.y.weighted(ds.cell_area).mean(("lat", "lon"))  # noqa: E731
    settings = {"target": mean, "n_bootstrap": 0, "score": "mae"}
    told = importance(ds, layout, function, **settings)
    given = importance(ds, layout, function, truth=mean(ds)[::-1], **settings)
    np.testing.assert_allclose(given.importance, told.importance, rtol=1e-5)
    with pytest.raises(ValueError, match="truth lies elsewhere than"):
        importance(ds, layout, function, truth=mean(ds)[:5], **settings)


def test_the_result_is_labelled_and_goes_to_netcdf(tmp_path):
    ds, layout, function = linear_case()
    ds.attrs["title"] = "made"
    found = importance(ds, layout, function, kind="multi", block="1YS", seed=4, n_permutations=2, n_bootstrap=5)
    assert found.importance.dims == ("group",)
    assert found.importances.dims == ("group", "permutation")
    assert found.attrs["method"] == "permutation importance, multi pass, backward"
    assert found.attrs["block"] == "1YS (4 blocks)"
    assert {"title", "target", "seed", "rows", "interval"} <= set(found.attrs)
    assert all({"units", "long_name"} <= set(v.attrs) for v in found.values())
    assert found.attrs["rows"] == 40 + 2 * 40 * (4 + 3 + 2 + 1)
    found.to_netcdf(tmp_path / "a.nc")
    xr.testing.assert_equal(xr.load_dataset(tmp_path / "a.nc"), found)
    again = importance(ds, layout, function, kind="multi", block="1YS", seed=4, n_permutations=2, n_bootstrap=5)
    xr.testing.assert_equal(again, found)
    other = importance(ds, layout, function, kind="multi", block="1YS", seed=5, n_permutations=2, n_bootstrap=5)
    assert (other.importance != found.importance).any()


def daily(n=800):
    return xr.DataArray(np.zeros((2, n)), dims=("run", "time"), coords={"time": xr.date_range("2000-01-01", periods=n)})


@pytest.mark.parametrize("block, blocks", [(None, 800), (30, 27), ("90D", 9), ("1MS", 27), ("3MS", 9), ("1YS", 3)])
@pytest.mark.parametrize("calendar", ["standard", "noleap"])
def test_blocks_of_time_move_as_a_whole(block, blocks, calendar):
    axis = daily()
    axis["time"] = xr.date_range("2000-01-01", periods=800, calendar=calendar, use_cftime=calendar != "standard")
    of = block_numbers(axis, "time", block)
    assert of.max() + 1 == 2 * blocks
    order = permutation(np.random.default_rng(0), of)
    assert sorted(order) == list(range(1600))
    assert (np.diff(order) != 1).sum() < 2 * blocks
    assert (order != np.arange(1600)).all()
    counts = bootstrap_counts(np.random.default_rng(0), of, 3)
    within = np.diff(of) == 0
    assert (np.diff(counts, axis=1)[:, within] == 0).all()
    assert counts[:, np.unique(of, return_index=True)[1]].sum(1).tolist() == [2 * blocks] * 3


def test_months_stay_where_they_are_if_asked():
    axis = daily()
    months = month_labels(axis, "time", "month")
    for block in (None, "1MS", 7):
        of = block_numbers(axis, "time", block)
        order = permutation(np.random.default_rng(0), of, months)
        assert (months[order] == months).mean() == 1
        assert (order != np.arange(1600)).mean() > 0.9
    monthly = axis.isel(time=slice(60)).assign_coords(time=xr.date_range("2000-01-01", periods=60, freq="MS"))
    months = month_labels(monthly, "time", "month")
    order = permutation(np.random.default_rng(0), block_numbers(monthly, "time", "1YS"), months)
    assert (months[order] == months).all()
    assert (np.diff(order) != 1).sum() < 10


def coverage(n, rho, block, score, truth, simulations, **settings):
    from scipy.signal import lfilter

    held = 0
    for s in range(simulations):
        noise = np.random.default_rng(s).normal(size=(n + 100, 3)) * np.sqrt(1 - rho**2)
        x = lfilter([1], [1, -rho], noise, axis=0)
        ds, layout = table(x[100:, :2], x[100:] @ [2, -1, 1])
        found = importance(
            ds,
            layout,
            model(lambda z: z @ [2, -1], layout),
            score=score,
            block=block,
            n_bootstrap=300,
            seed=s,
            **settings,
        )
        held += ((found.lower <= truth) & (truth <= found.upper)).values
    return held / simulations


@pytest.mark.long
@pytest.mark.parametrize(
    "case",
    [
        {"score": "mse", "truth": [8, 2]},
        {"score": "rmse", "truth": [2, np.sqrt(3) - 1]},
        {"score": "mse", "truth": [8, 2], "direction": "forward", "kind": "multi"},
    ],
)
def test_the_interval_holds_the_importance_in_other_samples_of_the_same_size(case):
    held = coverage(200, 0.0, None, simulations=200, **case)
    assert ((held > 0.91) & (held < 0.99)).all()  # three standard errors of 200 trials either side of 0.95


@pytest.mark.long
def test_only_blocks_make_the_interval_hold_for_samples_that_depend_on_each_other():
    case = {"score": "mse", "truth": [8, 2], "simulations": 100}
    assert (coverage(1200, 0.7, 20, **case) > 0.86).all()
    assert (coverage(1200, 0.7, None, **case) < 0.86).all()


@pytest.mark.parametrize(
    "settings, error, text",
    [
        ({"kind": "double"}, ValueError, "kind 'double' is unknown"),
        ({"direction": "forwards"}, ValueError, "direction 'forwards' is unknown; did you mean 'forward'"),
        ({"score": "rsme"}, ValueError, "score 'rsme' is unknown; did you mean 'rmse'"),
        ({"score": lambda y, p: 0.0}, ValueError, "it is not said which scores are better"),
        ({"block": 0}, ValueError, "block is not positive"),
        ({"block": 40}, ValueError, "holds all samples"),
        ({"block": "soon"}, ValueError, "'soon' is no length of time"),
        ({"within": "season"}, ValueError, "within is unknown"),
        ({"within": "month", "block": "7MS"}, ValueError, "no block can change places"),
        ({"permutations": np.zeros((2, 3), int)}, ValueError, "permutations are no orders"),
        ({"n_permutations": 0}, ValueError, "n_permutations is out of range"),
        ({"n_bootstrap": -1}, ValueError, "n_bootstrap is out of range"),
        ({"block": 2.5}, ValueError, "block is not positive. Expected: a whole number"),
        ({"level": 95}, ValueError, "level is no probability"),
        ({"batch_rows": 0}, ValueError, "batch_rows is not positive"),
    ],
)
def test_bad_settings_say_what_is_wrong(settings, error, text):
    ds, layout, function = linear_case()
    with pytest.raises(error, match=text):
        importance(ds, layout, function, **settings)


def test_bad_data_say_what_is_wrong():
    ds, layout, function = linear_case()
    with pytest.raises(ValueError, match=r"ds at time 2000-03-01.*missing.*'b'"):
        importance(ds.assign(b=ds.b.where(ds.time.dt.month != 3)), layout, function)
    with pytest.raises(ValueError, match="the truth is missing throughout"):
        importance(ds.assign(y=ds.y * np.nan), layout, function)
    with pytest.raises(ValueError, match="groups do not fit the inputs"):
        permutation_importance(function, ds, groups(FieldSpec("a", "y").bind(ds)))
    named = model(lambda z: z[:, :2], layout)
    with pytest.raises(ValueError, match="the truth of 'output 0' is not told"):
        permutation_importance(named, ds, groups(layout), "output 0")
