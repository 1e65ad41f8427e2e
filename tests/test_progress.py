"""Bars are drawn on a terminal alone, count what dask computes, and never get in the way of an error."""

from __future__ import annotations

import io
import re
import sys

import dask.array as dsa
import pytest

from physml._progress import bar, computing, track


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal(monkeypatch):
    """Make the standard error a terminal; not in a fixture, pytest sets it anew before the test."""
    made = Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setenv("TERM", "xterm")
    return made


def everything(show):
    with computing("statistics", show=show):
        assert dsa.ones(40, chunks=10).sum().compute() == 40
    assert list(track(range(3), "counting", show=show)) == [0, 1, 2]
    assert list(track(iter("ab"), "unknown length", show=show)) == ["a", "b"]
    with bar("reading", 2, show=show) as done:
        done(2)


def test_nothing_is_drawn_where_there_is_no_terminal(capsys):
    everything(show=True)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_nothing_is_drawn_unless_asked(monkeypatch):
    made = terminal(monkeypatch)
    everything(show=False)
    assert made.getvalue() == ""


def test_bars_end_full_on_a_terminal(monkeypatch):
    made = terminal(monkeypatch)
    everything(show=True)
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", made.getvalue())
    for title, end in (("statistics", None), ("counting", "3/3"), ("reading", "2/2")):
        assert title in drawn
        assert end is None or end in drawn
    done, total = re.findall(r"statistics.*?(\d+)/(\d+)", drawn)[-1]
    assert done == total and int(total) >= 4


def test_an_error_passes_through(monkeypatch):
    terminal(monkeypatch)
    with pytest.raises(RuntimeError, match="broken"), computing("statistics"):
        raise RuntimeError("broken")
    with pytest.raises(RuntimeError, match="broken"), bar("reading"):
        raise RuntimeError("broken")
