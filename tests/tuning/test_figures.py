"""Figures of searches show every scored trial, the best of them, and say what mattered."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from damped import SPEC, build, data

from physml import plot
from physml.tuning import between, search


@pytest.fixture(scope="module")
def results():
    space = {"damping": between(0.01, 1.0, log=True), "idle": ["a", "b"]}
    return [
        search(build, space, data(), spec=SPEC, method="random", n_trials=8, validation=2, score="rmse", seed=s)
        for s in range(2)
    ]


def test_the_history_is_the_best_so_far(results):
    ax = plot.search_history(results[0]).axes[0]
    best = np.minimum.accumulate(results[0].dataset.score.values)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), best)
    assert ax.get_ylabel() == "best root mean square error [K]"


def test_methods_are_named_and_seeds_are_a_band(results):
    ax = plot.search_history({"random": results, "one": results[0].dataset}, log=True).axes[0]
    expected = np.median([r.dataset.best.values for r in results], axis=0)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), expected)
    assert {t.get_text() for t in ax.texts} == {"random", "one"}


def test_slices_come_by_importance_and_ring_the_best(results):
    axes = plot.search_slices(results[0], title="slices").axes
    names, told = zip(*(a.get_xlabel().split("\n") for a in axes), strict=True)
    assert list(names) == list(results[0].importance().parameter.values)
    damping = axes[names.index("damping")]
    assert damping.get_xscale() == "log"
    assert damping.lines[0].get_xdata()[0] == results[0].best["damping"]
    assert len(damping.collections[0].get_offsets()) == 8
    shares = [float(t.removesuffix(" % of the variance")) for t in told]
    assert sum(shares) == pytest.approx(100, abs=1)
    plain = plot.search_slices(results[0].dataset, show=1).axes
    assert len(plain) == 1


def test_what_is_no_search_is_refused():
    with pytest.raises(ValueError, match="this is no result of a search"):
        plot.search_history(xr.Dataset({"x": ("t", [1.0])}))
    ds = xr.Dataset({"score": ("trial", [1.0]), "best": ("trial", [1.0])})
    with pytest.raises(ValueError, match="no parameter to draw"):
        plot.search_slices(ds)
