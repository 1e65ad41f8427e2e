"""Groups partition the valid input cells, or say where they do not; sums over them and maps of them undo each other."""

import pickle
from types import SimpleNamespace

import dask.array as da
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
    with pytest.raises(ValueError, match=r"'tracer' has the name of a group that it does not hold.*add 'tracer'"):
        groups(layout).merge({"tracer": ["u", "v"]})
    assert groups(layout).merge({"tracer": ["u", "v"], "salt": "tracer"}).names == ("salt", "tracer")


def test_merging_keeps_what_the_groups_share(layout):
    made = groups(layout, box=HALVES).nested("region").merge({"currents": ["u, south", "v, south"]})
    assert made.parts["region"][2] == "south"
    assert made.parts["variable"][2] == "u + v"
    assert made.parents == (("south", "north", "south", "north", "north"),)
    with pytest.raises(
        ValueError, match=r"'all of u' would lie in the unions 'south', 'north'.*merge first, then nest"
    ):
        groups(layout, box=HALVES).nested("region").merge({"all of u": "u"})
    assert groups(layout, box=HALVES).merge({"currents": ["u", "v"]}).cells.tolist() == [10, 12, 44]


def test_an_empty_group_is_refused(layout):
    valid = layout.valid("inputs")
    with pytest.raises(ValueError, match="group 'land' is empty"):
        Groups.from_masks({"sea": valid, "land": ~valid}, layout)


def test_groups_come_from_whatever_knows_the_inputs(ds, layout):
    made = groups(layout)
    np.testing.assert_array_equal(groups(SimpleNamespace(layout=layout)).owner, made.owner)
    np.testing.assert_array_equal(groups(ds, spec=layout.spec).owner, made.owner)
    with pytest.raises(TypeError, match=r"which variables of the Dataset are inputs.*pass spec=FieldSpec"):
        groups(ds)
    with pytest.raises(TypeError, match=r"need the layout of the inputs.*Received: int"):
        groups(3)


def test_groups_are_cheap_to_send(ds):
    ds["bathymetry"] = (("lat", "lon", "fine"), np.zeros((4, 6, 100_000)))
    made = groups(ds, spec=FieldSpec(["u"], "u", mask="wet", area="cell_area"), variable=None, cells=True)
    sent = pickle.dumps(made)
    assert len(sent) < 100_000
    np.testing.assert_array_equal(pickle.loads(sent).layout.valid("inputs"), made.layout.valid("inputs"))


def test_integers_with_flags_are_basins_and_other_values_lie_in_none(layout, ds):
    basin = (ds.lon < 180).broadcast_like(ds.wet).transpose("lat", "lon").astype(int) + 1
    basin = basin.where(ds.lat > -40, 7).assign_attrs(flag_values=np.array([2, 1, 9]), flag_meanings="east west none")
    made = groups(layout, variable=None, region=basin, rest="southern")
    assert made.names == ("east", "west", "southern")
    east = ds.wet & (ds.lon < 180) & (ds.lat > -40)
    np.testing.assert_array_equal(made.masks[0, ..., 0], east)
    assert made.cells.sum() == 66
    with pytest.raises(ValueError, match=r"18 valid input cells lie in no group, first at lat=-45.0"):
        groups(layout, variable=None, region=basin)
    with pytest.raises(ValueError, match="flags of region 'basin' do not name its values"):
        groups(layout, region=basin.rename("basin").assign_attrs(flag_meanings="east west"))


def test_values_and_names_tell_regions_apart(layout, ds):
    sign = np.sign(ds.lat).broadcast_like(ds.wet).transpose("lat", "lon")
    assert groups(layout, variable=None, region=sign).names == ("-1", "1")
    assert groups(layout, variable=None, region=sign.where(ds.lat > 0), rest="S").names == ("1", "S")
    said = xr.where(sign > 0, "north", "").rename("half")
    made = groups(layout, variable=None, region=said, rest="elsewhere")
    assert made.names == ("north", "elsewhere")
    np.testing.assert_array_equal(made.masks[0, ..., 0], ds.wet & (ds.lat > 0))
    with pytest.raises(TypeError, match=r"region 'cell_area' is no mask.*whole numbers.*compare first"):
        groups(layout, region=ds.cell_area)
    with pytest.raises(TypeError, match="region is no mask"):
        groups(layout, region=3)


def test_masks_along_a_dimension_of_regions_and_outlines_have_their_names(layout, ds):
    halves = xr.concat([ds.lat < 0, ds.lat > 0], "region").assign_coords(
        names=("region", ["south", "north"]), abbrevs=("region", ["S", "N"]), region=[0, 1]
    )
    expected = groups(layout, box=HALVES)
    outlines = SimpleNamespace(mask_3D=lambda lon, lat: halves.broadcast_like(lon))
    for region in (halves, outlines):
        made = groups(layout, region=region)
        assert made.names == expected.names
        np.testing.assert_array_equal(made.owner, expected.owner)
    assert groups(layout, variable=None, region=halves.drop_vars("names")).names == ("0", "1")
    both = halves.copy(data=halves.values | np.array([[False], [True]]))
    with pytest.raises(
        ValueError, match=r"groups 'south' and 'north' overlap in 10 cells, first at lat=-45.0, lon=0.0"
    ):
        groups(layout, variable=None, region=both)
    with pytest.raises(ValueError, match="region holds masks without names"):
        groups(layout, region=(ds.lat < 0).rename(None))

    def missing(lon, lat):
        raise ImportError("No module named 'shapely'")

    with pytest.raises(ImportError, match=r"outlines need a library.*shapely.*pip install regionmask"):
        groups(layout, region=SimpleNamespace(mask_3D=missing))


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
def test_regionmask_outlines_and_masks_are_regions(layout, ds):
    regionmask = pytest.importorskip("regionmask")
    boxes = regionmask.Regions(
        [np.array([[0, y], [360, y], [360, y + 90], [0, y + 90]]) for y in (-90, 0)],
        names=["south", "north"],
        abbrevs=["south", "north"],
    )
    for region in (boxes, boxes.mask(ds.lon, ds.lat), boxes.mask_3D(ds.lon, ds.lat)):
        made = groups(layout, region=region)
        assert made.names == groups(layout, box=HALVES).names
        np.testing.assert_array_equal(made.owner, groups(layout, box=HALVES).owner)


def test_an_edge_belongs_to_the_part_above_it_and_the_last_to_the_last(layout):
    made = groups(layout, variable=None, coordinates={"lat": [-45, -15, 15, 45]})
    assert made.names == ("lat -45 to -15°", "lat -15 to 15°", "lat 15 to 45°")
    assert made.cells.tolist() == [18, 12, 36]
    assert made.parts["lat"] == made.names
    tropics = groups(layout, variable=None, coordinates={"latitude": [-np.inf, -30, 30, np.inf]})
    assert tropics.names == ("latitude below -30°", "latitude -30 to 30°", "latitude above 30°")
    with pytest.raises(ValueError, match=r"18 valid input cells lie in no group, first at lat=45.0"):
        groups(layout, variable=None, coordinates={"lat": [-90, 0, 45 - 1e-9]})


def test_longitudes_between_edges_go_round_the_globe(layout):
    made = groups(layout, variable=None, coordinates={"lon": [-90, 0, 90, 180, 270]})
    assert made.names == ("lon -90 to 0°", "lon 0 to 90°", "lon 90 to 180°", "lon 180 to 270°")
    np.testing.assert_array_equal(made.owner[0, :, 0], [1, 1, 2, 3, 3, 0])
    with pytest.raises(ValueError, match="round the globe more than once"):
        groups(layout, coordinates={"lon": [0, 180, 400]})


def test_coordinates_by_name_make_a_product_with_all_else(layout):
    made = groups(
        layout,
        variable={"tracer": "tracer", "currents": ["u", "v"]},
        coordinates={"lat": {"south": slice(None, 0), "north": slice(0, None)}, "lon": [0, 180, 360]},
    )
    assert made.names[:2] == ("tracer, south, lon 0 to 180°", "tracer, south, lon 180 to 360°")
    assert len(made) == 8
    assert groups(layout, variable=None, coordinates={"lat": True}).names == ("lat=-45", "lat=-15", "lat=15", "lat=45")
    with pytest.raises(ValueError, match=r"'a' and 'b' overlap in 6 cells, first at lat=15.0"):
        groups(layout, coordinates={"lat": {"a": slice(-90, 20), "b": slice(0, 90)}})
    with pytest.raises(KeyError, match="unknown space coordinate 'lt'; did you mean 'lat'"):
        groups(layout, coordinates={"lt": [0, 1]})
    with pytest.raises(ValueError, match=r"coordinates 'lat' are no edges.*for instance"):
        groups(layout, coordinates={"lat": [30, -30]})


def test_coordinates_of_names_have_no_ranges():
    ds = xr.Dataset({"t": (("time", "station"), np.zeros((2, 2)))}, {"time": [0, 1], "station": ["Oslo", "Rome"]})
    layout = FieldSpec("t", "t").bind(ds)
    assert groups(layout, cells=True).names == ("t, station=Oslo", "t, station=Rome")
    for choice in (dict(box={"a": {"station": slice(0, 1)}}), dict(coordinates={"station": True})):
        with pytest.raises(TypeError, match=r"'station' holds no numbers.*'Oslo', 'Rome'.*patches=\{'station': 1\}"):
            groups(layout, **choice)


def test_levels_are_cut_by_their_coordinate_too():
    layout = layered()
    made = groups(layout, variable=None, coordinates={"lev": [0, 500, 1000]})
    assert made.names == ("other inputs", "lev 0 to 500", "lev 500 to 1000")
    assert made.cells.tolist() == [8, 8, 16]
    assert groups(
        layout, variable=None, coordinates={"lev": {"top": slice(0, 100), "deep": [500.0, 1000.0]}}
    ).names == (
        "other inputs",
        "top",
        "deep",
    )


def test_patches_and_cells_are_players(layout, ds):
    made = groups(layout, variable=None, patches={"lat": 3, "lon": 4})
    assert made.names == (
        "lat -45 to 15, lon 0 to 180",
        "lat -45 to 15, lon 240 to 300",
        "lat 45 to 45, lon 0 to 180",
        "lat 45 to 45, lon 240 to 300",
    )
    assert made.cells.tolist() == [30, 18, 12, 6]
    bands = groups(layout, patches={"latitude": 2})
    np.testing.assert_array_equal(bands.owner, groups(layout, box=HALVES).owner)
    cells = groups(layout, variable=None, cells=True)
    assert len(cells) == 22
    assert cells.names[:2] == ("lat=-45, lon=0", "lat=-45, lon=60")
    assert (cells.cells == 3).all()
    np.testing.assert_array_equal(groups(layout, variable=None, patches={"lat": 1, "lon": 1}).owner, cells.owner)
    assert len(groups(layout, patches={"lon": 2}, box=HALVES)) == 18
    with pytest.raises(ValueError, match=r"patches along 'lat' have no size.*1 or more.*0"):
        groups(layout, patches={"lat": 0})
    with pytest.raises(ValueError, match="both given"):
        groups(layout, patches={"lat": 2}, cells=True)


def test_thousands_of_cells_are_arithmetic_on_indices(monkeypatch):
    ds = xr.Dataset({n: (("time", "y", "x"), np.zeros((2, 40, 50))) for n in "ab"}, {"time": [0, 1]})
    layout = FieldSpec(["a", "b"], "a").bind(ds)
    monkeypatch.setattr(Groups, "masks", property(lambda self: pytest.fail("a mask for each group was made")))
    made = groups(layout, variable=None, cells=True)
    np.testing.assert_array_equal(made.owner[..., 1].ravel(), np.arange(2000))
    assert made.names[50] == "y=1, x=0"
    assert repr(made).endswith("and 1980 more")


def test_a_group_is_cut_further_and_the_others_stay(layout):
    made = groups(layout).split("u", box=HALVES)
    assert made.names == ("tracer", "u, south", "u, north", "v")
    assert made.parts == {"variable": ("tracer", "u", "u", "v"), "region": ("", "south", "north", "")}
    np.testing.assert_array_equal(made.masks.sum(0), layout.valid("inputs"))
    again = groups(layout, box=HALVES).split(["north"], nest=True, coordinates={"lon": [0, 180, 360]})
    assert again.names[1:3] == ("tracer, north, lon 0 to 180°", "tracer, north, lon 180 to 360°")
    assert again.parents == (
        ("tracer, south", *["tracer, north"] * 2, "u, south", *["u, north"] * 2, "v, south", *["v, north"] * 2),
    )
    with pytest.raises(ValueError, match=r"6 valid input cells lie in no group, first at lat=45.0"):
        groups(layout).split("u", box={"a": {"lat": slice(-90, 20)}})


def test_unions_nest_by_part_and_by_name(layout):
    made = groups(layout, box=HALVES)
    assert made.parents == ()
    assert made.nested("variable").parents == (("tracer",) * 2 + ("u",) * 2 + ("v",) * 2,)
    deep = made.nested("region", "variable")
    assert deep.parents[0] == ("south", "north") * 3
    assert deep.parents[1][:3] == ("south, tracer", "north, tracer", "south, u")
    assert deep.coords["group_parent"][1] == list(deep.parents[0])
    assert deep.coords["group_parent_2"][1] == list(deep.parents[1])
    named = made.nest({"currents": ["u", "v"], "the tracer": "tracer"})
    assert named.parents == (("the tracer",) * 2 + ("currents",) * 4,)
    alone = groups(layout).nest({"currents": ["u", "v"]})
    assert alone.parents == (("tracer", "currents", "currents"),)
    two = made.nest({"currents": ["u", "v"]}, {"all u": "u"})
    assert two.parents[1] == ("tracer, south", "tracer, north", "all u", "all u", "v, south", "v, north")


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda g: g.nested("basin"), KeyError, "unknown part 'basin'.*variable, region"),
        (lambda g: g.nest({"a": "w"}), KeyError, "unknown group 'w'"),
        (lambda g: g.nest({"a": "u", "b": "south"}), ValueError, "'u, south' is put into 'a' and into 'b'"),
        (lambda g: g.nest({"a": "south", "b": "north"}, {"c": "u"}), ValueError, "union 'c' lies in 'a' and in 'b'"),
        (lambda g: g.nest({"u, south": "v"}), ValueError, "'u, south' has the name of a group that it does not hold"),
        (
            lambda g: groups(g.layout, box={"u": {"lat": slice(-90, 0)}}, rest="n").merge({"a": "u"}),
            ValueError,
            "'u' is a",
        ),
    ],
)
def test_bad_unions_say_what_is_wrong(layout, call, error, text):
    with pytest.raises(error, match=text):
        call(groups(layout, box=HALVES))


def cellwise(layout, lazy=False):
    """Attributions by input cell, missing on land, as gradients give them."""
    n = len(layout.inputs)
    values = np.random.default_rng(3).normal(size=(n, 5, *layout.shape)).astype("float32")
    values = np.where(np.moveaxis(layout.valid("inputs"), -1, 0)[:, None], values, np.nan)
    return xr.DataArray(
        da.from_array(values, chunks=(1, 2, *layout.shape)) if lazy else values,
        dims=("channel", "time", *layout.space),
        coords={
            "time": np.arange(5),
            "variable": ("channel", [c.name for c in layout.inputs]),
            "offset": ("channel", [c.offset for c in layout.inputs]),
        },
        name="attribution",
        attrs={"units": "K", "long_name": "contribution"},
    )


def test_cells_are_summed_by_group(layout):
    made, cells = groups(layout, box=HALVES), cellwise(layout)
    summed = made.sum(cells)
    assert summed.dims == ("group", "time")
    assert summed.attrs == cells.attrs
    expected = cells.sel(channel=1).isel(lat=slice(2)).sum(("lat", "lon"), dtype="float64")
    np.testing.assert_allclose(summed.sel(group="u, south"), expected, rtol=1e-12)
    np.testing.assert_allclose(summed.sum("group"), cells.sum(("channel", "lat", "lon"), dtype="float64"), rtol=1e-12)
    result = xr.Dataset({"attribution": cells, "stderr": cells, "prediction": ("time", np.arange(5.0))}, attrs={"a": 1})
    whole = made.sum(result)
    assert set(whole.data_vars) == {"attribution", "prediction"}
    assert whole.attrs == {"a": 1}
    xr.testing.assert_identical(whole.attribution, summed)
    assert "lat" not in whole.coords


def at_channel(maps, channel):
    at = {"offset": channel.offset, **channel.level}
    return maps[channel.name].sel({d: v for d, v in at.items() if d in maps[channel.name].dims}).reset_coords(drop=True)


@pytest.mark.parametrize("make", [lambda request: request.getfixturevalue("layout"), lambda request: layered()])
def test_a_share_of_its_group_painted_on_every_cell_sums_to_the_attribution(request, make):
    layout = make(request)
    made = groups(layout, variable=None, lag=True, coordinates={layout.space[-1]: [0, 2, 360]})
    given = made.sum(cellwise(layout)).rename("attribution")
    shares = made.paint(given, density=True)
    packed = xr.concat([at_channel(shares, c) for c in layout.inputs], "channel")
    back = made.sum(packed.transpose("channel", "time", *layout.space))
    np.testing.assert_allclose(back, given, rtol=1e-12)
    xr.testing.assert_allclose(made.sum(cellwise(layout, lazy=True)).compute(), given, rtol=1e-12)


def test_maps_are_labelled_and_missing_on_land(layout, ds):
    made = groups(layout, box=HALVES)
    given = made.sum(cellwise(layout))
    maps = made.paint(given)
    assert list(maps.data_vars) == ["tracer", "u", "v"]
    assert maps.u.dims == ("time", "lat", "lon")
    assert maps.lat.attrs == ds.lat.attrs
    assert maps.u.attrs == {"units": "K", "long_name": "contribution, by u"}
    np.testing.assert_array_equal(maps.u.notnull().all("time"), ds.wet)
    np.testing.assert_array_equal(maps.u.sel(lat=-45, lon=0), given.sel(group="u, south"))
    shuffled = given.isel(group=[3, 1, 0, 2, 5, 4])
    xr.testing.assert_identical(made.paint(shuffled), maps)
    by_area = made.paint(xr.Dataset({"attribution": given}), density="area")
    total = (by_area.v.fillna(0) * ds.cell_area).sel(lat=slice(0, 90)).sum(("lat", "lon"))
    np.testing.assert_allclose(total, given.sel(group="v, north"), rtol=1e-12)


def test_several_offsets_and_levels_are_dimensions_of_the_maps():
    layout = layered()
    made = groups(layout, lag=True, level=True)
    maps = made.paint(made.sum(cellwise(layout)).isel(time=0))
    assert maps.t.dims == ("offset", "lev", "x")
    assert maps.ps.dims == ("offset", "x")
    assert maps.offset.values.tolist() == [-1, 0]
    assert maps.lev.values.tolist() == [10.0, 500.0, 1000.0]


def test_painting_and_summing_stay_lazy(layout):
    made, cells = groups(layout), cellwise(layout, lazy=True)
    summed = made.sum(cells)
    maps = made.paint(summed)
    assert summed.chunks is not None
    assert all(v.chunks is not None for v in maps.values())
    xr.testing.assert_identical(maps.compute(), made.paint(made.sum(cells.compute())))


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda g, c: g.sum(c.isel(channel=slice(2))), "attributions do not lie on the input cells"),
        (lambda g, c: g.sum(c.isel(channel=[1, 0, 2])), "other channels, by variable"),
        (lambda g, c: g.sum(xr.Dataset({"prediction": c[0]})), "no attribution along 'channel'"),
        (lambda g, c: g.paint(c), "no dimension 'group'"),
        (lambda g, c: g.paint(g.sum(c).isel(group=slice(2))), "of other groups"),
        (lambda g, c: g.paint(g.sum(c).expand_dims(lat=4)), r"\['lat'\] cannot be painted.*rename\(lat='target_lat'\)"),
        (lambda g, c: g.paint(g.sum(c), density="volume"), "density is not understood"),
        (lambda g, c: Groups(g.names, g.owner).sum(c), "groups without a layout cannot be summed over cells"),
    ],
)
def test_what_cannot_be_summed_or_painted_is_refused(layout, call, text):
    with pytest.raises(ValueError, match=text):
        call(groups(layout), cellwise(layout))


def test_density_by_area_needs_an_area():
    made = groups(layered())
    with pytest.raises(ValueError, match="density by area needs the area"):
        made.paint(made.sum(cellwise(layered())), density="area")
