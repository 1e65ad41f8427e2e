"""Calibration is drawn against the diagonal, with the numbers it was given."""

import numpy as np
import pytest
import xarray as xr

from physml import plot
from physml.heads import calibration, reliability


@pytest.fixture
def coin():
    rng = np.random.default_rng(0)
    p = xr.DataArray(rng.uniform(size=2000), dims="x", name="p")
    return p, xr.DataArray((rng.uniform(size=2000) < p).astype("float64"), dims="x")


def test_curves_hold_the_frequencies_and_the_counts(coin):
    found = reliability(*coin)
    figure = plot.calibration({"network": found}, effective=2000, title="rain")
    top, low = figure.axes
    line = next(line for line in top.lines if line.get_label() == "network")
    np.testing.assert_array_equal(line.get_ydata(), found.observed)
    np.testing.assert_array_equal(low.patches[0].get_data().values, found["count"])
    assert top.get_ylabel() == "observed frequency"
    assert low.get_xlabel() == "predicted probability"
    assert top.get_title(loc="left") == "rain"


def test_quantiles_of_several_models_share_axes():
    fields = xr.Dataset({"t": ("x", np.zeros(9)), "t_std": ("x", np.ones(9))})
    found = calibration(fields, xr.DataArray(np.linspace(-1, 1, 9), dims="x", name="t"))
    ax = plot.calibration({"a": found, "b": found}).axes[0]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b"]
    assert ax.get_xlabel() == "level of the predicted quantile"
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), ax.lines[0].get_ydata())


def test_results_of_two_kinds_are_refused(coin):
    fields = xr.Dataset({"t": ("x", np.zeros(9)), "t_std": ("x", np.ones(9))})
    other = calibration(fields, xr.DataArray(np.zeros(9), dims="x", name="t"))
    with pytest.raises(ValueError, match="these are no results of one kind"):
        plot.calibration({"a": reliability(*coin), "b": other})
    with pytest.raises(ValueError, match="Received: nothing"):
        plot.calibration({})
