"""Groups partition the valid input cells, or say where they do not."""

import numpy as np
import pytest
import xarray as xr

from physml.explain import Groups, groups
from physml.fields import FieldSpec


def layered():
    rng = np.random.default_rng(1)
    ds = xr.Dataset(
        {
            "t": (("time", "lev", "x"), rng.normal(size=(6, 3, 4))),
            "ps": (("time", "x"), rng.normal(size=(6, 4))),
        },
        {"time": np.arange(6), "lev": [10.0, 500.0, 1000.0], "x": np.arange(4.0)},
    )
    return FieldSpec(["t", "ps"], "ps", levels="lev", input_offsets={"t": (-1, 0), "ps": (-1, 0)}).bind(ds)


HALVES = {"south": {"lat": slice(-90, 0)}, "north": {"lat": slice(0, 90)}}


def test_every_valid_cell_has_one_owner(layout):
    made = groups(layout, box=HALVES)
    assert made.names == ("tracer, south", "tracer, north", "u, south", "u, north", "v, south", "v, north")
    np.testing.assert_array_equal(made.masks.sum(0), layout.valid("inputs"))
    np.testing.assert_array_equal(made.cells, made.masks.sum((1, 2, 3)))
    assert made.parts["region"] == ("south", "north") * 3
    assert made.masks[0, :, :, 0][:2].sum() == 10
    assert "6 players: tracer, south (10 cells)" in repr(made)


def test_variables_can_be_named_together(layout):
    made = groups(layout, variable={"currents": ["u", "v"], "tracer": "tracer"})
    assert made.names == ("currents", "tracer")
    assert made.masks[0, ..., 1:].all(-1).sum() == 22
    assert groups(layout, variable=None).names == ("all inputs",)


def test_regions_are_labelled_fields_and_the_rest_has_a_name(layout, ds):
    made = groups(layout, variable=None, region={"east": (ds.lon < 180).broadcast_like(ds.wet).T}, rest="west")
    assert made.names == ("east", "west")
    np.testing.assert_array_equal(made.masks[0, ..., 0], ds.wet & (ds.lon < 180))


def test_longitude_ranges_may_cross_greenwich(layout):
    made = groups(layout, variable=None, box={"near": {"lon": slice(-60, 60)}}, rest="far")
    np.testing.assert_array_equal(made.masks[0, 0, :, 0], [True, True, False, False, False, True])
    assert groups(layout, variable=None, box={"all": {"lon": slice(0, 360)}}).cells == [66]
    assert groups(layout, variable=None, box={"all": {"lon": slice(0, None), "lat": slice(90, -90)}}).cells == [66]


def test_lags_and_levels_split_channels():
    layout = layered()
    assert groups(layout, lag=True, variable=None).names == ("t-1", "t")
    assert groups(layout, variable=True, level=True).names == (
        "t, lev=10.0",
        "t, lev=500.0",
        "t, lev=1000.0",
        "ps",
    )
    made = groups(layout, variable=None, level={"upper": slice(0, 500), "lower": [1000.0]}, lag={"both": [-1, 0]})
    assert made.names == ("both", "both, upper", "both, lower")
    assert made.cells.tolist() == [8, 16, 8]


def test_merging_makes_fewer_players(layout):
    made = groups(layout).merge({"currents": ["u", "v"]})
    assert made.names == ("tracer", "currents")
    np.testing.assert_array_equal(made.masks.any(0), layout.valid("inputs"))
    assert made.cells.tolist() == [22, 44]


@pytest.mark.parametrize(
    "choice, error, text",
    [
        (dict(variable={"a": ["tracr", "u"]}), KeyError, "unknown input variable 'tracr'; did you mean 'tracer'"),
        (dict(variable={"a": ["tracer", "u"]}), ValueError, "22 valid input cells lie in no group, first at lat=-45.0"),
        (dict(variable={"a": ["tracer", "u"], "b": ["u", "v"]}), ValueError, "'a' and 'b' overlap in 22 cells, first"),
        (dict(box={"a": {"lat": slice(-90, 20)}, "b": {"lat": slice(0, 90)}}), ValueError, "overlap in 6 cells, first"),
        (dict(box={"a": {"lat": slice(-90, 20)}}), ValueError, "18 valid input cells lie in no group.*rest="),
        (dict(box={"a": {"lat": slice(91, 99)}}), ValueError, "box 'a' selects no cell.*lat from -45 to 45"),
        (dict(box={"a": {"lt": slice(0, 9)}}), KeyError, "unknown space coordinate 'lt'; did you mean 'lat'"),
        (dict(box={"a": {"lat": 5}}), TypeError, "box 'a': lat is no range"),
        (
            dict(box={"isle": {"lat": slice(-20, 0), "lon": slice(100, 200)}}, rest="sea"),
            ValueError,
            "region 'isle' holds no valid cell",
        ),
        (dict(lag={"old": [-3]}), KeyError, "unknown input offset -3"),
        (dict(box=HALVES, rest="north"), ValueError, "region 'north' is named twice"),
    ],
)
def test_bad_choices_say_what_is_wrong(layout, choice, error, text):
    with pytest.raises(error, match=text):
        groups(layout, **choice)


def test_regions_must_be_boolean_fields_on_the_grid(layout, ds):
    with pytest.raises(TypeError, match=r"region 'a' is no boolean field.*ds.basin == 3"):
        groups(layout, region={"a": ds.cell_area})
    with pytest.raises(ValueError, match="another grid along 'lat'"):
        groups(layout, region={"a": ds.wet.assign_coords(lat=ds.lat + 1)})


def test_merging_unknown_or_twice_is_refused(layout):
    with pytest.raises(KeyError, match="unknown group 'w'"):
        groups(layout).merge({"a": ["w"]})
    with pytest.raises(ValueError, match="merged into 'a' and into 'b'"):
        groups(layout).merge({"a": ["u"], "b": ["u"]})


def test_an_empty_group_is_refused(layout):
    valid = layout.valid("inputs")
    with pytest.raises(ValueError, match="group 'land' is empty"):
        Groups.from_masks({"sea": valid, "land": ~valid}, layout)
