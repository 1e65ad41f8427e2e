"""A history is a dictionary of lists, a Dataset along the epochs, and a file."""

from __future__ import annotations

import json

import pytest

from physml.training import History


def test_a_history_is_read_as_a_dictionary_and_as_a_dataset():
    history = History(loss=[3.0, 2.0], val_loss=[4.0, 5.0], learning_rate=[0.1, 0.05], odd=[1.0])
    assert history["loss"][-1] == 2.0
    ds = history.dataset
    assert ds.epoch.values.tolist() == [1, 2]
    assert ds.val_loss.attrs == {"long_name": "validation loss in scaled units", "units": "1"}
    assert set(ds) == {"loss", "val_loss", "learning_rate"}


def test_the_best_epoch_is_that_of_the_validation_where_there_is_one():
    nan = float("nan")
    assert History(loss=[3.0, 2.0, 1.0], val_loss=[nan, 4.0, 5.0]).best_epoch == 2
    assert History(loss=[3.0, 2.0, 1.0]).best_epoch == 3
    with pytest.raises(ValueError, match=r"no best epoch.*0 epochs"):
        _ = History().best_epoch


def test_a_history_is_read_as_it_was_written(tmp_path):
    history = History(loss=[0.1, 1e-12, float("nan")])
    history.save(tmp_path / "h.json")
    again = History.load(tmp_path / "h.json")
    assert again["loss"][:2] == history["loss"][:2] and again["loss"][2] != again["loss"][2]
    assert [p.name for p in tmp_path.iterdir()] == ["h.json"]
    (tmp_path / "h.json").write_text(json.dumps([1, 2]))
    with pytest.raises(ValueError, match=r"is no history.*list"):
        History.load(tmp_path / "h.json")
