"""Regressions equal scikit-learn's on the same matrices, from sums that no chunk changes."""

from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from sklearn.linear_model import LinearRegression
from sklearn.linear_model import Ridge as Peer
from sklearn.preprocessing import StandardScaler

import physml
from physml import FieldSpec
from physml.learners import EOF, Linear, Ridge, load
from physml.learners._normal import Folds, Sums, solve, together

CELLS = FieldSpec(
    ["t", "wind", "depth"], "t", input_offsets={"t": (-1, 0)}, target_offsets=(1, 2), mask="wet", area="area"
)
MAPS = FieldSpec(["t", "wind"], "t", target_offsets=(1, 2), mask="wet", area="area")


def table(learner, ds, role, whole_window=True):
    packed = learner.layout.pack(ds, role, whole_window=whole_window).values
    return packed[:, ds.wet.values]


def cells(learner, ds):
    x, y = (table(learner, ds, r).astype(float) for r in ("inputs", "targets"))
    return x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])


@pytest.mark.parametrize("standardise", [False, True])
def test_cells_are_regressed_as_scikit_learn_does(ocean, standardise):
    learner = Ridge(CELLS, 3.0, standardise=standardise).fit(ocean)
    x, y = cells(learner, ocean)
    given = StandardScaler().fit_transform(x) if standardise else x
    peer = Peer(3.0).fit(given, y).predict(given)
    found = learner.rows(learner.layout.pack(ocean, "inputs", whole_window=True).values)
    np.testing.assert_allclose(found[:, ocean.wet.values].reshape(-1, 2), peer, rtol=1e-10)


def test_least_squares_without_penalty_and_with_features_that_depend_on_each_other(ocean):
    learner = Linear(CELLS).fit(ocean)
    x, y = cells(learner, ocean)
    np.testing.assert_allclose(learner.state["coef"], LinearRegression().fit(x, y).coef_.T, rtol=1e-8)
    twice = ocean.assign(copy=ocean.wind)
    both = Linear(FieldSpec(["wind", "copy"], "t", target_offsets=1, mask="wet")).fit(twice)
    once = Linear(FieldSpec("wind", "t", target_offsets=1, mask="wet")).fit(ocean)
    np.testing.assert_allclose(both.state["coef"], np.repeat(once.state["coef"] / 2, 2, axis=0), rtol=1e-8)


def test_area_counts_as_the_weight_of_a_row(ocean):
    learner = Ridge(CELLS, 1.0, area_weights=True).fit(ocean)
    x, y = cells(learner, ocean)
    weights = np.tile(ocean.area.values[ocean.wet.values], len(x) // 18)
    peer = Peer(1.0).fit(x, y, weights)
    np.testing.assert_allclose(learner.state["coef"], peer.coef_.T, rtol=1e-8)


def test_maps_are_regressed_on_all_their_values_or_on_components_along_patterns(ocean):
    learner = Ridge(MAPS, 5.0, samples="maps").fit(ocean)
    x, y = (table(learner, ocean, r).astype(float) for r in ("inputs", "targets"))
    x, y = np.moveaxis(x, 2, 1).reshape(len(x), -1), y.reshape(len(y), -1)
    peer = Peer(5.0).fit(x, y).predict(x).reshape(len(x), 18, 2)
    rows = learner.layout.pack(ocean, "inputs", whole_window=True).values
    np.testing.assert_allclose(learner.rows(rows)[:, ocean.wet.values], peer, rtol=1e-9)

    learner = Ridge(MAPS, 5.0, eofs=4).fit(ocean)
    pcs = [EOF(4, weights=ocean.area).fit(ocean[n]).project(ocean[n]).values[:70] for n in ("t", "wind")]
    peer = Peer(5.0).fit(np.concatenate(pcs, 1), y).predict(np.concatenate(pcs, 1)).reshape(len(y), 18, 2)
    np.testing.assert_allclose(learner.rows(rows)[:, ocean.wet.values], peer, rtol=1e-9)


def test_the_season_multiplies_components_and_departures_are_from_the_month(ocean):
    spec = FieldSpec(["t", "index"], "index", target_offsets=3, mask="wet")
    learner = Ridge(spec, 2.0, eofs=3, by="month", harmonics=1).fit(ocean)
    mean = ocean.groupby("time.month").mean()
    t, index = (ocean[n].groupby("time.month") - mean[n] for n in ("t", "index"))
    pcs = EOF(3).fit(t).project(t).values
    phase = 2 * np.pi * (ocean.time.dt.month.values - 1) / 12
    waves = np.stack([np.cos(phase), np.sin(phase)], 1)
    x = np.concatenate([pcs, pcs * waves[:, :1], pcs * waves[:, 1:], waves, index.values[:, None]], 1)
    peer = Peer(2.0).fit(x[:-3], index.values[3:]).predict(x)
    out = learner.predict(ocean)
    there = mean["index"].sel(month=out.time.dt.month).values
    np.testing.assert_allclose(out["index"].values, peer + there, rtol=1e-9)


def test_target_patterns_leave_the_other_directions_at_the_climatology(ocean):
    few = Ridge(MAPS, 1.0, eofs=5, eofs_out=2, by="month").fit(ocean).predict(ocean)
    from_mean = few.t.sel(lead=1).stack(cell=("lat", "lon")).dropna("cell")
    month = few.valid_time.sel(lead=1).dt.month.values
    mean = ocean.t.groupby("time.month").mean().stack(cell=("lat", "lon")).dropna("cell").sel(month=month)
    assert np.linalg.matrix_rank(from_mean.values - mean.values, tol=1e-8) == 2
    every = [Ridge(MAPS, 1.0, eofs=5, eofs_out=n, by="month").fit(ocean).predict(ocean).t.values for n in (18, None)]
    np.testing.assert_allclose(*every, rtol=1e-9)


def test_the_penalty_is_that_of_least_error_in_blocks_left_out(ocean):
    alphas = [0.1, 10.0, 1000.0]
    learner = Ridge(CELLS, alphas, folds=3).fit(ocean)
    x, y = (table(learner, ocean, r).astype(float) for r in ("inputs", "targets"))
    n, gap, cuts = len(x), 3, [0, 23, 46, 69]
    errors = np.zeros(3)
    for a, b in pairwise(cuts):
        fit = np.r_[0 : max(0, a - gap), min(n, b + gap) : n]
        for k, alpha in enumerate(alphas):
            peer = Peer(alpha).fit(x[fit].reshape(-1, 4), y[fit].reshape(-1, 2))
            missed = np.square(peer.predict(x[a:b].reshape(-1, 4)) - y[a:b].reshape(-1, 2)).sum(0)
            errors[k] += (missed / np.square(y - y.mean((0, 1))).sum((0, 1))).mean() / 3
    np.testing.assert_allclose(learner.state["errors"], errors, rtol=1e-8)
    assert learner.chosen == alphas[int(errors.argmin())]


def test_spread_is_the_error_in_blocks_left_out(ocean):
    learner = Ridge(CELLS, 1.0, spread=True, folds=3).fit(ocean)
    x, y = (table(learner, ocean, r).astype(float) for r in ("inputs", "targets"))
    missed = np.zeros((18, 2))
    for a, b in ((0, 23), (23, 46), (46, 69)):
        fit = np.r_[0 : max(0, a - 3), min(69, b + 3) : 69]
        peer = Peer(1.0).fit(x[fit].reshape(-1, 4), y[fit].reshape(-1, 2))
        missed += np.square(peer.predict(x[a:b].reshape(-1, 4)).reshape(-1, 18, 2) - y[a:b]).sum(0)
    np.testing.assert_allclose(learner.state["std"][ocean.wet.values], np.sqrt(missed / 69), rtol=1e-8)
    out = learner.predict(ocean)
    assert list(out) == ["t", "t_std"]
    assert out.t_std.attrs["units"] == "degC"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Ridge(CELLS, [1.0, 10.0], spread=True, folds=3),
        lambda: Ridge(MAPS, 1.0, eofs=4, eofs_out=3, by="month", harmonics=1, spread=True, folds=3),
    ],
)
def test_chunks_change_no_bit_of_what_is_learned_and_files_none_of_what_is_predicted(
    ocean, same, nothing_computed, tmp_path, make
):
    eager, lazy = make().fit(ocean), make().fit(ocean.chunk(time=5, lat=3))
    for key, values in eager.state.items():
        np.testing.assert_array_equal(values, lazy.state[key])
    with nothing_computed():
        out = lazy.predict(ocean.chunk(time=7))
    whole = eager.predict(ocean)
    np.testing.assert_allclose(out.t.values, whole.t.values, rtol=1e-13)
    eager.save(tmp_path / "ridge.learner")
    same(load(tmp_path / "ridge.learner").predict(ocean), whole)
    same(physml.predict(eager, ocean), whole)


def test_sums_of_parts_are_those_of_all_rows():
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(5, 1, (50, 3)), rng.normal(size=(50, 2)), rng.uniform(1, 2, 50)
    whole = Sums.of(x, y, w)
    parts = together(Sums.of(x[s], y[s], w[s]) for s in (slice(0, 7), slice(7, 30), slice(30, 50)))
    for a, b in zip(vars(whole).values(), vars(parts).values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    line = solve(whole, [2.0], False)[0]
    np.testing.assert_allclose(line.missed(whole), (w[:, None] * (line(x) - y) ** 2).sum(0), rtol=1e-12)
    np.testing.assert_allclose(line.coef, solve(whole, [2.0, 3.0], False)[0].coef, rtol=1e-10)


def test_no_sample_within_the_gap_of_a_part_is_among_those_that_judge_it():
    cut = Folds.of(53, 4, 5)
    segment, fold = cut.segment(np.arange(53)), cut.fold(np.arange(53))
    for f in range(4):
        test = np.flatnonzero(fold == f)
        train = np.flatnonzero(np.isin(segment, cut.trains[f]))
        assert np.array_equal(np.flatnonzero(np.isin(segment, cut.tests[f])), test)
        assert np.abs(train[:, None] - test).min() == 6
        far = np.abs(np.arange(53)[:, None] - test).min(1) > 5
        assert np.array_equal(train, np.flatnonzero(far))


def test_settings_that_do_not_fit_are_refused(ocean):
    with pytest.raises(ValueError, match="Ridge: alpha is no penalty"):
        Ridge(CELLS, -1.0)
    with pytest.raises(ValueError, match="patterns and harmonics are of whole maps"):
        Ridge(CELLS, 1.0, samples="cells", eofs=3)
    with pytest.raises(ValueError, match="samples='cell' is not understood; did you mean 'cells'"):
        Linear(CELLS, samples="cell")
    with pytest.raises(ValueError, match=r"the target lies nowhere on the grid.*samples='maps'"):
        Linear(FieldSpec("t", "index", mask="wet")).fit(ocean)
    with pytest.raises(ValueError, match=r"100 patterns of 't' are too many. Expected: at most 18"):
        Ridge(MAPS, 1.0, eofs=100).fit(ocean)
    with pytest.raises(ValueError, match="too few samples to leave out blocks of time"):
        Ridge(CELLS, [1.0, 2.0], folds=5).fit(ocean.isel(time=slice(0, 7)))


def test_departures_of_cells_are_regressed_without_the_date(ocean):
    learner = Ridge(CELLS, 2.0, by="month").fit(ocean)
    mean = ocean.groupby("time.month").mean()
    t, wind = ((ocean[n].groupby("time.month") - mean[n]).values[:, ocean.wet.values] for n in ("t", "wind"))
    depth = np.broadcast_to(ocean.depth.values[ocean.wet.values].astype("float32"), (69, 18))
    x = np.stack([t[:69], t[1:70], wind[1:70], depth], -1).reshape(-1, 4)
    y = np.stack([t[2:71], t[3:72]], -1).reshape(-1, 2)
    np.testing.assert_allclose(learner.state["coef"], Peer(2.0).fit(x, y).coef_.T, rtol=1e-6)


def test_windows_across_a_gap_are_left_out(ocean, same):
    before, after = ocean.isel(time=slice(0, 30)), ocean.isel(time=slice(40, 72))
    gappy = xr.concat([before, after], "time", data_vars="minimal")
    learner = Linear(CELLS).fit(gappy)
    parts = [cells(learner, part) for part in (before, after)]
    x, y = (np.concatenate(p) for p in zip(*parts, strict=True))
    np.testing.assert_allclose(learner.state["coef"], LinearRegression().fit(x, y).coef_.T, rtol=1e-8, atol=1e-12)
    lazy = Linear(CELLS).fit(gappy.chunk(time=7))
    np.testing.assert_array_equal(lazy.state["coef"], learner.state["coef"])
    assert learner.predict(after).sizes["time"] == 31
