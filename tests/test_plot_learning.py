"""Learning curves of several runs: one scale, the best epoch of each, the rate below where it moves."""

from __future__ import annotations

import numpy as np
import pytest

from physml import plot
from physml.training import History


def run(best: int, rates) -> History:
    epochs = np.arange(1, 7)
    held_out = 1.0 + 0.1 * (epochs - best) ** 2
    return History(loss=list(2.0 / epochs), val_loss=list(held_out), learning_rate=list(np.broadcast_to(rates, 6)))


RUNS = {"steady": run(3, 0.1), "falling": run(5, 0.1 * 0.5 ** np.arange(6))}


def words(figure) -> str:
    from matplotlib.text import Text

    return " | ".join(t.get_text() for t in figure.findobj(Text) if t.get_visible())


def test_several_runs_stand_side_by_side_on_one_scale_with_their_rates_below(tmp_path):
    figure = plot.learning_curve(RUNS, title="Two runs")
    said = words(figure)
    assert all(w in said for w in ("steady", "falling", "Two runs", "best: 1 at epoch 3", "best: 1 at epoch 5"))
    upper, lower = figure.axes[:2], figure.axes[2:]
    assert len({ax.get_ylim() for ax in upper}) == 1 and len({ax.get_ylim() for ax in lower}) == 1
    np.testing.assert_allclose(lower[1].lines[0].get_ydata(), RUNS["falling"]["learning_rate"])
    figure.savefig(tmp_path / "figure.png", dpi=40)


def test_runs_are_compared_in_one_panel_with_the_best_epoch_of_each_ringed():
    figure = plot.learning_curve(RUNS, together=True)
    axes, below = figure.axes
    rings = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1]
    assert rings == [3, 5]
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(dashed[0].get_ydata(), RUNS["steady"]["loss"])
    assert len(below.lines) == 2
    colours = plot.palette(RUNS)
    assert [line.get_color() for line in below.lines] == list(colours.values())


def test_one_record_of_several_runs_is_drawn_where_it_is_asked_for():
    figure = plot.learning_curve(RUNS, together=True, key="loss", rate=False)
    (axes,) = figure.axes
    assert len(axes.lines) == 2
    np.testing.assert_allclose(axes.lines[1].get_ydata(), RUNS["falling"]["loss"])


def test_a_rate_that_rests_takes_no_room_and_a_scale_may_be_asked_for():
    figure = plot.learning_curve(RUNS["steady"], log=True)
    assert len(figure.axes) == 1 and figure.axes[0].get_yscale() == "log"
    assert len(plot.learning_curve(RUNS["steady"], rate=True).axes) == 2
    assert len(plot.learning_curve(RUNS["falling"]).axes) == 2


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"the history 'b' holds no loss.*val_loss"):
        plot.learning_curve({"a": {"loss": [1.0]}, "b": {"val_loss": [1.0]}})
    with pytest.raises(ValueError, match=r"learning rate cannot be drawn.*Received: loss"):
        plot.learning_curve({"loss": [1.0, 2.0]}, rate=True)
    with pytest.raises(ValueError, match=r"the history holds no mae"):
        plot.learning_curve({"loss": [1.0]}, key="mae")
