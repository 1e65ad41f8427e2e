"""Folds along time: every step judged once, and no window of training near a step that judges."""

from __future__ import annotations

import dask.array
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from physml import FieldSpec, Loader, Scaling, split_time
from physml.data.folds import blocked, expanding, fold_time

AXES = {
    "numbers": lambda n: np.arange(n),
    "days": lambda n: xr.date_range("2000-01-01", periods=n, freq="D"),
    "months": lambda n: xr.date_range("2000-01-01", periods=n, freq="MS") + np.timedelta64(14, "D"),
    "noleap months": lambda n: xr.date_range("2000-01-15", periods=n, freq="MS", calendar="noleap", use_cftime=True),
    "360_day": lambda n: xr.date_range("2000-01-01", periods=n, freq="D", calendar="360_day", use_cftime=True),
}


def series(time):
    return xr.Dataset({"x": ("time", np.arange(float(len(time))))}, {"time": time})


def touched(ds, layout):
    """Numbers of the steps that the windows of a Loader touch, one row a sample."""
    x, y, _ = map(np.concatenate, zip(*Loader(ds, layout, 1000), strict=True))
    return np.concatenate([x, y], axis=-1).astype(int)


@settings(max_examples=25)
@given(
    axis=st.sampled_from(sorted(AXES)),
    inputs=st.lists(st.integers(-3, 0), min_size=1, max_size=3, unique=True).map(sorted),
    targets=st.lists(st.integers(1, 3), min_size=1, max_size=2, unique=True).map(sorted),
    k=st.integers(2, 4),
    embargo=st.sampled_from(["window", 0, 1, 9]),
    scheme=st.sampled_from([blocked, expanding]),
)
def test_no_window_of_training_comes_near_a_step_that_judges(axis, inputs, targets, k, embargo, scheme):
    spec = FieldSpec("x", "x", input_offsets=inputs, target_offsets=targets)
    ds = series(AXES[axis](97))
    low, high = spec.window()
    gap = high - low if embargo == "window" else embargo
    for train, validation in scheme(ds, spec, k, embargo=embargo):
        judged = validation.x.values.astype(int)
        assert (np.diff(judged) == 1).all(), "a block is contiguous"
        for layout in (spec.bind(ds), spec.bind(train)):
            seen = touched(train, layout)
            assert np.abs(seen[..., None] - judged).min() > gap
            spans = seen.max(1) - seen.min(1)
            assert (spans == high - low).all(), "no window reaches over the hole"
        assert touched(validation, spec.bind(ds)).shape[0] == judged.size - (high - low)
        if scheme is expanding:
            assert train.x.max() < judged.min() - gap


@settings(max_examples=25)
@given(n=st.integers(12, 60), k=st.integers(2, 6))
def test_every_step_judges_exactly_once(n, k):
    found = blocked(series(np.arange(n)), FieldSpec("x", "x"), k, embargo=0)
    assert np.concatenate([f.validation.x.values for f in found]).tolist() == list(range(n))
    for f in found:
        assert sorted([*f.train.x.values, *f.validation.x.values]) == list(range(n))
    sizes = [f.validation.sizes["time"] for f in found]
    assert max(sizes) - min(sizes) <= 1


def test_expanding_training_grows_and_lies_before():
    found = expanding(series(np.arange(40)), FieldSpec("x", "x", target_offsets=2), 3)
    assert [(f.train.sizes["time"], f.validation.x.values[0]) for f in found] == [(8, 10), (18, 20), (28, 30)]


def test_parts_are_marked_and_nothing_is_fitted_to_those_that_judge():
    spec = FieldSpec("x", "x")
    for train, validation in fold_time(series(np.arange(20)), spec, "blocked", n_folds=2):
        Scaling.fit(train, spec)
        with pytest.raises(ValueError, match="validation part of a split"):
            Scaling.fit(validation, spec)


def test_folds_are_lazy(nothing_computed):
    lazy = xr.Dataset({"x": ("time", dask.array.arange(40, chunks=5))}, {"time": np.arange(40)})
    with nothing_computed():
        assert all(f.train.x.chunks for f in fold_time(lazy, FieldSpec("x", "x"), 4))


def test_the_gaps_of_the_data_stay_gaps():
    spec = FieldSpec("x", "x", input_offsets=(-1, 0), target_offsets=1)
    whole = series(AXES["days"](90))
    ds = whole.isel(time=np.r_[0:20, 25:90])
    for train, _ in blocked(ds, spec, 3):
        seen = touched(train, spec.bind(ds))
        assert (np.diff(seen, axis=1) == 1).all()


def test_pairs_of_ones_own():
    ds, spec = series(np.arange(20)), FieldSpec("x", "x")
    split = split_time(ds, [12], spec)
    (fold,) = fold_time(ds, spec, split)
    assert fold.validation.identical(split.validation)
    (fold,) = fold_time(ds, spec, [(ds.isel(time=slice(5)), ds.isel(time=slice(9, None)))])
    assert fold.train.attrs["physml_split"] == "train"
    with pytest.raises(ValueError, match="fold 0 is no pair of Datasets"):
        fold_time(ds, spec, [ds])


def test_an_axis_on_which_a_hole_is_not_seen_is_refused():
    ds = series(np.cumsum(np.arange(1, 41)))
    blocked(ds, FieldSpec("x", "x"), 2)
    with pytest.raises(ValueError, match=r"cannot be told from a step.*validation='expanding'"):
        blocked(ds, FieldSpec("x", "x", target_offsets=1), 4)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ("block", r"unknown validation 'block'; did you mean 'blocked'\?"),
        (1, "number of folds is none. Expected: a whole number >= 2. Received: 1"),
        (20, "the validation part of fold 0 holds no whole window. Expected: at least 4 steps"),
    ],
)
def test_what_makes_no_folds_is_refused(validation, message):
    with pytest.raises(ValueError, match=message):
        fold_time(series(np.arange(40)), FieldSpec("x", "x", target_offsets=3), validation)


def test_a_training_part_without_a_window_is_refused():
    with pytest.raises(ValueError, match="the train part of fold 0 holds no whole window"):
        blocked(series(np.arange(10)), FieldSpec("x", "x", target_offsets=1), 2, embargo=5)
