"""Figures of interactions, effects and importances show their numbers, intervals, and where the data lie."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from drawn import MINUS, rows, texts, whiskers, widths

from physml import plot

UNITS = {"units": "degC"}


def test_interactions_carry_their_numbers_and_are_symmetric_around_zero():
    names = ["a", "b", "c"]
    values = np.array([[1.0, -0.4, 0.0], [-0.4, 2.0, 0.3], [0.0, 0.3, -3.0]])
    matrix = xr.DataArray(values, {"group": names, "group_other": names}, ("group", "group_other"), attrs=UNITS)
    figure = plot.interactions(matrix.to_dataset(name="interaction"))
    image = figure.axes[0].images[0]
    # Colours by the pairs; the diagonal lies beyond.
    assert image.get_clim() == (-0.4, 0.4)
    assert f"{MINUS}3.00" in texts(figure) and f"{MINUS}0.40" in texts(figure) and "interaction [°C]" in texts(figure)
    twice = xr.concat([matrix, -matrix], "time").to_dataset(name="interaction")
    np.testing.assert_allclose(plot.interactions(twice).axes[0].images[0].get_array(), 0)
    figure = plot.interactions(twice, signed=False)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), abs(values))
    assert "mean absolute interaction" in texts(figure)


def test_interactions_that_may_be_zero_stand_in_brackets():
    names = ["a", "b"]
    dims = ("group", "group_other")
    found = xr.Dataset(
        {"attribution": (dims, [[1.0, 0.1], [0.1, 2.0]]), "stderr": (dims, np.full((2, 2), 0.1)), "dof": ((), 9)},
        {"group": names, "group_other": names},
    )
    figure = plot.interactions(found)
    assert [t.get_text() for t in figure.axes[0].texts] == ["1.00", "(0.10)", "(0.10)", "2.00"]
    assert "the 95 % interval holds zero" in texts(figure)
    assert "holds zero" not in texts(plot.interactions(found.drop_vars("stderr")))


def test_effects_at_the_edges_of_bins_are_drawn_bin_by_bin():
    effect = xr.Dataset(
        {
            "effect": (("sst", "wind"), np.arange(9.0).reshape(3, 3)),
            "counts": (("sst", "wind"), [[0, 0, 0], [0, 5, 0], [0, 1, 2]]),
            "rug": (("variable", "time"), np.array([[0.5, 1.5], [0.2, 0.3]])),
        },
        {"sst": [0.0, 1.0, 2.0], "wind": [0.0, 0.5, 3.0]},
    )
    ax = plot.effect_map(effect).axes[0]
    mesh, dots = ax.collections
    values = mesh.get_array().reshape(2, 2)
    np.testing.assert_allclose(values.filled(np.nan), [[2.0, 5.0], [np.nan, 6.0]])
    np.testing.assert_allclose(dots.get_offsets(), [[0.5, 0.2], [1.5, 0.3]])


def test_columns_of_a_large_matrix_are_numbered_as_its_rows():
    names = [f"group {i}" for i in range(15)]
    matrix = xr.DataArray(np.eye(15), {"group": names, "group_other": names}, ("group", "group_other"))
    ax = plot.interactions(matrix.to_dataset(name="interaction")).axes[0]
    assert ax.get_yticklabels()[14].get_text() == "group 14  15"
    assert [t.get_text() for t in ax.get_xticklabels()] == [str(i) for i in range(1, 16)]


def effect(name: str = "sst", units: str = "K", shift: float = 0.0) -> xr.Dataset:
    x = xr.DataArray(np.linspace(10, 30, 21), dims=name, attrs={"units": "degC"})
    line = np.linspace(-1, 1, 21) + shift
    parts = {
        "effect": (name, line, {"units": units, "long_name": "effect"}),
        "lower": (name, line - 0.1),
        "upper": (name, line + 0.1),
        "ice": ((name, "sample"), line[:, None] + np.array([-0.5, 0.5])),
        "rug": ("quantile", np.array([12.0, 20.0, 25.0, 99.0])),
    }
    return xr.Dataset(parts, {name: x})


def test_effect_curves_show_interval_samples_and_where_the_data_lie():
    figure = plot.effect_curves(effect(), title="Effect")
    ax = figure.axes[0]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.linspace(-1, 1, 21))
    threads, band, rug = ax.collections
    assert len(threads.get_segments()) == 2
    assert len(rug.get_segments()) == 3
    vertices = band.get_paths()[0].vertices
    assert (vertices[:, 1].min(), vertices[:, 1].max()) == pytest.approx((-1.1, 1.1))
    assert "sst [°C]" in texts(figure) and "effect [K]" in texts(figure)


def test_variables_get_panels_of_one_scale_and_kinds_of_effect_one_panel():
    figure = plot.effect_curves([effect(), effect("wind")])
    assert len(figure.axes) == 2
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    figure = plot.effect_curves({"ale": effect(), "partial dependence": effect(shift=0.2)})
    assert len(figure.axes) == 1
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ["ale", "partial dependence"]


def test_an_effect_map_leaves_out_where_there_are_no_data():
    grid = {"sst": ("sst", [10.0, 20.0, 30.0], UNITS), "wind": ("wind", [0.0, 5.0], {"units": "m s-1"})}
    values = np.array([[1.0, -1.0], [0.5, 2.0], [0.0, -0.5]])
    found = xr.Dataset({"effect": (("sst", "wind"), values, {"units": "K"})}, grid)
    figure = plot.effect_map(found)
    image = figure.axes[0].collections[0]
    assert image.get_clim() == (-2.0, 2.0) and "no data" not in texts(figure)
    count = np.array([[5, 3], [2, 0], [1, 1]])
    figure = plot.effect_map(found.assign(count=(("sst", "wind"), count)))
    drawn = figure.axes[0].collections[0].get_array()
    assert np.ma.getmaskarray(drawn).sum() == 1 and drawn.max() == 1.0
    for words in ("hatched: no data", "density of the data", "sst [°C]", "wind [m s⁻¹]"):
        assert words in texts(figure)


def importances(values, **parts) -> xr.Dataset:
    names = [f"g{i}" for i in range(len(values))]
    return xr.Dataset(
        {"importance": ("group", np.array(values), {"units": "K", "long_name": "rise"}), **parts}, {"group": names}
    )


def test_importance_is_ordered_and_has_its_interval():
    found = importances([0.2, 0.5, 0.1], lower=("group", [0.1, 0.3, 0.0]), upper=("group", [0.3, 0.9, 0.1]))
    figure = plot.importance(found)
    ax = figure.axes[0]
    assert rows(ax) == ["g1", "g0", "g2"] and widths(ax) == [0.5, 0.2, 0.1]
    np.testing.assert_allclose(whiskers(ax), [0.3, 0.1, 0.05])
    assert "rise [K]" in texts(figure)


def test_importances_by_pass_share_the_rows_of_the_first():
    multi = importances([0.6, 0.2, 0.1]).assign(rank=("group", [1, 2, 3]))
    figure = plot.importance({"single pass": importances([0.2, 0.5, 0.1]), "multi pass": multi})
    first, second = figure.axes
    assert widths(first) == [0.5, 0.2, 0.1] and widths(second) == [0.2, 0.6, 0.1]
    for words in ("single pass", "multi pass", "1.", "2."):
        assert words in texts(figure)


def test_a_group_without_importance_has_its_number_on_the_side_of_the_others():
    ax = plot.importance(importances([0.5, -0.01])).axes[0]
    places = {t.get_text(): t.xy[0] for t in ax.texts}
    assert places["0.50"] == 0.5 and places[f"{MINUS}0.01"] == 0.0


def test_replicates_of_an_importance_become_its_mean_and_interval():
    draws = np.linspace(0, 1, 201)
    found = xr.Dataset({"importance": (("group", "repeat"), draws[None])}, {"group": ["a"]})
    ax = plot.importance(found).axes[0]
    assert widths(ax) == pytest.approx([0.5])
    np.testing.assert_allclose(whiskers(ax), [0.475])


REFUSED = {
    "no interactions": (lambda: plot.interactions(xr.Dataset()), "this holds no interactions.*'group_other'"),
    "no effect": (lambda: plot.effect_curves(xr.Dataset({"efect": ("x", [1.0])})), "did you mean 'efect'"),
    "an effect of two as a curve": (
        lambda: plot.effect_curves(xr.Dataset({"effect": (("x", "y"), np.eye(2))})),
        "effect_map draws two",
    ),
    "an effect of one as a map": (lambda: plot.effect_map(effect()), "no effect of two variables.*effect_curves"),
    "effects in other units": (
        lambda: plot.effect_curves({"a": effect(), "b": effect(units="degF")}),
        "effects of 'sst' differ in units",
    ),
    "nothing": (lambda: plot.effect_curves([]), "no effect to draw"),
    "no importance": (lambda: plot.importance(xr.Dataset()), "holds no importance by group"),
    "importances of other groups": (
        lambda: plot.importance({"a": importances([1.0]), "b": importances([1.0, 2.0])}),
        "'b' ranks other groups",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_drawn_is_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()
