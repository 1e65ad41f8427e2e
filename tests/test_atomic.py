"""What is written appears whole or not at all, and what it replaces is lost only when the new one stands."""

import os

import pytest

from physml._atomic import adding_to, replacing


def test_a_new_folder_takes_the_place_of_the_old_one(tmp_path):
    target = tmp_path / "run"
    for text in ("first", "second"):
        with replacing(target) as made:
            made.mkdir()
            (made / text).write_text(text)
        assert [p.name for p in target.iterdir()] == [text]
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_while_writing_leaves_what_was_there(tmp_path):
    target = tmp_path / "a.nc"
    target.write_text("old")
    with pytest.raises(OSError, match="full"), replacing(target) as made:
        made.write_text("half")
        raise OSError("full")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_old_folder_comes_back_when_the_new_one_cannot_follow(tmp_path, monkeypatch):
    target, move = tmp_path / "run", os.replace
    target.mkdir()
    (target / "old").write_text("old")

    def fail_for_the_new(source, to):
        if to == target and source.name == target.name:
            raise OSError("refused")
        move(source, to)

    monkeypatch.setattr(os, "replace", fail_for_the_new)
    with pytest.raises(OSError, match="refused"), replacing(target) as made:
        made.mkdir()
    assert (target / "old").read_text() == "old"


def test_files_are_added_together_or_not_at_all(tmp_path):
    with pytest.raises(ValueError, match="stop"), adding_to(tmp_path) as folder:
        (folder / "a").write_text("a")
        raise ValueError("stop")
    assert not list(tmp_path.iterdir())
    with adding_to(tmp_path) as folder:
        (folder / "a").write_text("a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
