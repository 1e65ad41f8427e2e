"""Searches find what is known to be best, from folds that leak nothing, alike whenever they are run."""

from __future__ import annotations

import itertools
import subprocess
import sys
import warnings

import numpy as np
import pytest
import xarray as xr
from damped import SPEC, TRUE, Damped, build, data

from physml import split_time, tuning
from physml.tuning import between, search

SPACE = {"damping": between(0.0, 1.0, points=6), "idle": ["a", "b"]}


def found(method="random", n_trials=12, space=SPACE, make=build, **more):
    options = {"spec": SPEC, "validation": 3, "score": "rmse", **more}
    return search(make, space, data(), method=method, n_trials=n_trials, **options)


@pytest.fixture(scope="module")
def bayesian():
    return found("bayesian", 30)


def test_the_grid_holds_every_point_once_and_finds_the_best():
    result = found("grid", None)
    ds = result.dataset
    points = set(zip(ds.damping.values.round(6).tolist(), ds.idle.values.tolist(), strict=True))
    assert len(points) == ds.sizes["trial"] == 12
    assert result.best["damping"] == pytest.approx(0.8) or result.best["damping"] == pytest.approx(0.6)
    assert abs(result.best["damping"] - TRUE) < 0.11


def test_the_score_of_a_trial_is_the_mean_over_folds_of_the_error_itself(bayesian):
    ds, t = bayesian.dataset, 3
    np.testing.assert_allclose(ds.score, ds.score_fold.mean("fold"))
    np.testing.assert_allclose(ds.score_spread, ds.score_fold.std("fold"))
    x, edges = data().x.values, [0, 67, 133, 200]
    for fold, (a, b) in enumerate(itertools.pairwise(edges)):
        block = x[a:b]
        error = np.sqrt(np.mean((block[1:] - float(ds.damping[t]) * block[:-1]) ** 2))
        assert float(ds.score_fold[t, fold]) == pytest.approx(error, rel=1e-12)
    assert ds.score.attrs["units"] == "K"


def test_a_bayesian_search_comes_near_the_truth_and_knows_what_mattered(bayesian):
    assert abs(bayesian.best["damping"] - TRUE) < 0.1
    late = np.abs(bayesian.dataset.damping.values - TRUE)
    assert late[10:].mean() < late[:10].mean(), "after the random start it looks where it is good"
    for method in ("fanova", "ped_anova"):
        shares = bayesian.importance(method)
        assert shares.parameter[0] == "damping"
        assert float(shares.sum()) == pytest.approx(1)
    assert float(bayesian.importance()[0]) > 0.9


def test_the_same_seed_finds_the_same_and_another_does_not():
    one, two, other = found(seed=4), found(seed=4), found(seed=5)
    for name in ("damping", "idle", "score_fold"):
        np.testing.assert_array_equal(one.dataset[name], two.dataset[name])
    assert not np.allclose(one.dataset.damping, other.dataset.damping)


@pytest.mark.long
@pytest.mark.parametrize("method", ["grid", "random", "bayesian"])
def test_a_search_that_goes_on_is_the_one_that_never_stopped(method, tmp_path):
    n = 12 if method == "grid" else 14
    whole = found(method, n)
    found(method, 5, study=tmp_path / "s")
    resumed = found(method, n, study=tmp_path / "s")
    for name in ("damping", "idle", "score_fold", "state"):
        np.testing.assert_array_equal(whole.dataset[name], resumed.dataset[name])


def test_nothing_of_a_fold_that_judges_is_trained_on_or_scaled_with():
    seen, scalings = [], []

    def make(params, scaling):
        scalings.append(scaling)
        return Damped(scaling.layout, params["damping"], seen)

    found(n_trials=2, make=make, validation="blocked", n_folds=4, embargo=3)
    whole = data()
    for k, (train, scaling) in enumerate(zip(seen, scalings, strict=True)):
        block = range(50 * (k % 4), 50 * (k % 4) + 50)
        assert min(abs(t - b) for t in train.time.values for b in block) == 4
        # Standard deviation and mean are those of the windows left, to the last digit.
        left = whole.sel(time=train.time)
        gap = np.flatnonzero(np.diff(left.time.values) > 1)
        inputs = np.delete(left.x.values, [*gap, left.sizes["time"] - 1], axis=0)
        assert float(scaling.mean["x"].squeeze()) == pytest.approx(inputs.mean(), abs=0.02)
        assert float(scaling.mean["x"].squeeze()) != pytest.approx(whole.x.values.mean(), abs=1e-6)
    assert len({id(s) for s in scalings}) == 4, "a scaling is fitted once a fold"


def test_values_in_the_blocks_that_judge_cannot_change_what_is_built():
    """Poison in a validation block: scaling and training part of that fold stay as they were."""
    means = []
    for poisoned in (False, True):
        ds = data()
        if poisoned:
            ds["x"] = ds.x.where((ds.time < 67) | (ds.time >= 133), 1e6)

        def make(params, scaling, means=means):
            means.append(float(scaling.mean["x"].squeeze()))
            return Damped(scaling.layout, params["damping"])

        search(make, SPACE, ds, spec=SPEC, method="random", n_trials=1, validation=3, score="rmse")
    clean, dirty = means[:3], means[3:]
    assert clean[1] == dirty[1]
    assert clean[0] != dirty[0]


def test_data_that_judge_are_no_data_to_choose_on():
    split = split_time(data(), [100, 150], SPEC)
    with pytest.raises(ValueError, match="test part of a split"):
        search(build, SPACE, split.test, spec=SPEC, method="random", n_trials=1, score="rmse")


@pytest.mark.long
@pytest.mark.parametrize("prune", ["median", "hyperband"])
def test_bad_trials_end_early_and_the_best_does_not(prune):
    result = found(n_trials=24, prune=prune, validation=6, space={"damping": between(-2.0, 1.0)})
    state = result.dataset.state
    assert (state == "pruned").any()
    done = result.dataset.score_fold.notnull().sum("fold")
    assert done.where(state == "pruned").max() < 6
    assert done.where(state == "complete").min() == 6
    assert result.dataset.score.where(state == "pruned").isnull().all()
    if prune == "median":
        # Without the ones ended early what was drawn is the same: the best is the best.
        whole = found(n_trials=24, validation=6, space={"damping": between(-2.0, 1.0)})
        assert result.best == whole.best


def test_a_function_makes_conditional_spaces():
    def space(trial):
        if trial.suggest_categorical("kind", ["none", "damped"]) == "none":
            return {"damping": 0.0}
        return {"damping": trial.suggest_float("damping", 0.1, 1.0, step=0.3)}

    result = found("grid", None, space=space)
    assert result.dataset.sizes["trial"] == 5
    assert int(result.dataset.damping.isnull().sum()) == 1
    assert result.best == {"damping": pytest.approx(0.7)}


def test_a_score_of_ones_own_may_be_maximised():
    def correlation(forecast, truth):
        return xr.corr(forecast.x, truth.x)

    result = found(
        score=correlation, direction="maximize", space={"damping": [-1.0, 0.5]}, method="grid", n_trials=None
    )
    assert result.best == {"damping": 0.5}
    assert result.best_score > 0.5
    assert result.dataset.best.values[-1] == result.best_score


def test_build_may_ask_for_the_training_part():
    def make(params, scaling, train):
        x = train.x.values
        return Damped(scaling.layout, float((x[1:] * x[:-1]).sum() / (x[:-1] ** 2).sum()))

    assert found(n_trials=1, make=make).best_score == pytest.approx(1.0, abs=0.1)


def test_several_targets_are_scored_over_their_spread():
    ds = data().assign(y=lambda d: 1000 * d.x)
    spec = type(SPEC)(["x", "y"], ["x", "y"], target_offsets=1)
    both = search(build, {"damping": [0.7]}, ds, spec=spec, method="grid", validation=2, score="scaled_rmse")
    alone = found("grid", None, space={"damping": [0.7]}, validation=2, score="scaled_rmse")
    np.testing.assert_allclose(both.dataset.score_fold, alone.dataset.score_fold, rtol=1e-6)
    with pytest.raises(RuntimeError, match="'rmse' of several targets has no units"):
        search(build, {"damping": [0.7]}, ds, spec=spec, method="grid", validation=2, score="rmse")


def test_failures_are_recorded_and_the_search_goes_on():
    def make(params, scaling):
        if params["damping"] > 0.6:
            raise MemoryError("too large")
        return build(params, scaling)

    result = found(n_trials=12, make=make, max_failures=12)
    failed = result.dataset.state == "failed"
    np.testing.assert_array_equal(failed, result.dataset.damping > 0.6)
    assert set(result.dataset.error.where(failed, drop=True).values) == {"MemoryError: too large"}
    assert result.best["damping"] <= 0.6
    with pytest.raises(RuntimeError, match=r"3 trials failed, the last one \(trial \d+\) with MemoryError: too large"):
        found(n_trials=20, make=make, max_failures=2)


def test_a_score_that_is_not_finite_is_no_best_one():
    def sometimes(forecast, truth):
        return float("nan") if float(forecast.x.std()) < 0.5 else float(((forecast - truth) ** 2).x.mean())

    result = found("bayesian", 14, score=sometimes)
    diverged = result.dataset.state == "diverged"
    assert diverged.any()
    assert result.dataset.score.where(diverged, drop=True).isnull().all()
    assert np.isfinite(result.best_score)
    with pytest.raises(
        RuntimeError, match=r"no trial was scored.*3 diverged; the last error: the score of fold 0 is inf"
    ):
        found(n_trials=3, score=lambda forecast, truth: np.inf)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(method="bayes"), r"unknown method 'bayes'; did you mean 'bayesian'\?"),
        (dict(score="rsme"), r"unknown score 'rsme'; did you mean 'rmse'\?"),
        (dict(direction="maximize"), "'rmse' is an error"),
        (dict(direction="up"), "unknown direction"),
        (dict(prune="medium"), r"unknown pruning 'medium'; did you mean 'median'\?"),
        (dict(n_trials=None), "a random search has no end of its own"),
        (dict(n_trials=0), "n_trials is no number of trials"),
        (dict(workers="all"), "workers are not understood"),
        (dict(budget="soon"), "budget is no length of time"),
        (dict(space={"score": [1]}), "'score' cannot name a parameter"),
        (dict(epochs=0), "epochs is no number of them"),
        (
            dict(method="grid", n_trials=None, space={n: list(range(10)) for n in "abcd"}),
            r"10000 trials of 3 folds are 30000 trainings.*at most 1000 trials.*method='random'",
        ),
        (
            dict(method="grid", n_trials=2, space={n: list(range(100)) for n in "abcdefgh"}),
            r"too large to draw 2 of its points.*at most 100000 points.*method='random' with n_trials=2",
        ),
        (
            dict(
                method="grid", n_trials=None, space=lambda trial: {n: trial.suggest_int(n, 0, 99) for n in "abcdefgh"}
            ),
            r"1001 or more trials of 3 folds are 3003 or more trainings",
        ),
    ],
)
def test_what_makes_no_search_is_refused_before_it_begins(arguments, message):
    def never(params, scaling):
        raise AssertionError("built")

    with pytest.raises(ValueError, match=message):
        found(make=never, **arguments)


def test_a_search_beyond_its_budget_ends_after_the_first_trial():
    built = []

    def make(params, scaling):
        built.append(params)
        return build(params, scaling)

    with pytest.raises(RuntimeError, match=r"99 trials of 3 folds are left.*at most 0.001 s.*workers"):
        found(n_trials=100, make=make, budget=0.001)
    assert len(built) == 3


def test_no_trial_begins_after_the_timeout():
    with pytest.raises(RuntimeError, match="no trial was scored"):
        found(n_trials=100, timeout=0)


def test_what_does_not_learn_is_told():
    with pytest.raises(
        RuntimeError, match=r"build returned nothing that learns from labelled fields.*Received: NoneType"
    ):
        found(n_trials=2, make=lambda params, scaling: None)
    with pytest.raises(RuntimeError, match="only networks have a validation loss"):
        found(n_trials=2, score="val_loss")


def test_the_result_is_a_labelled_dataset_that_can_be_written(tmp_path, bayesian):
    with xr.open_dataset(bayesian.to_netcdf(tmp_path / "found.nc")) as file:
        xr.testing.assert_allclose(file[["score", "damping"]], bayesian.dataset[["score", "damping"]])
        assert file.idle.values.tolist() == bayesian.dataset.idle.values.tolist()
        assert file.attrs["method"] == "bayesian"
    assert "SearchResult: bayesian, 30 trials, 30 scored" in repr(bayesian)
    with pytest.raises(ValueError, match="unknown method 'anova'"):
        bayesian.importance("anova")


def test_the_best_is_fitted_again_to_all():
    seen = []
    result = found(n_trials=3, make=lambda p, s: Damped(s.layout, p["damping"], seen))
    model = result.refit(data())
    assert model.damping == result.best["damping"]
    assert seen[-1].sizes["time"] == 200


def test_optuna_speaks_as_it_did_before():
    import optuna

    before = optuna.logging.get_verbosity()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found("bayesian", 12)
    assert optuna.logging.get_verbosity() == before
    assert not [w for w in caught if "optuna" in str(w.filename)]


def test_neither_optuna_nor_keras_is_loaded_before_it_is_used():
    code = "import sys, physml.tuning; print(*({'optuna', 'keras', 'tensorflow', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""


def test_without_optuna_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"Optuna draws the trials.*pip install 'physml\[learn\]'"):
        _ = tuning.search
    assert tuning.between(1, 3) == between(1, 3)
