"""Patches lie where they say, across the seam too, only where enough cells are valid, and each epoch draws its own."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from physml import FieldSpec, Loader, Patches
from physml.data.patches import cuts

NY, NX = 7, 12


@pytest.fixture(params=["memory", "store"])
def maps(request, tmp_path):
    """Return maps whose value tells time and cell, with land in one corner."""
    t, y, x = np.meshgrid(np.arange(6), np.arange(NY), np.arange(NX), indexing="ij")
    wet = np.ones((NY, NX), bool)
    wet[:3, :5] = False
    ds = xr.Dataset(
        {
            "a": (("time", "lat", "lon"), (10000 * t + 100 * y + x).astype("float32")),
            "b": (
                ("time", "lev", "lat", "lon"),
                ((10000 * t + 100 * y + x)[:, None] + [[[0.25]], [[0.5]]]).astype("float32"),
            ),
            "zonal": (("time", "lat"), (1000 * t[..., 0] + y[..., 0]).astype("float32")),
            "depth": (("lat", "lon"), 100.0 * y[0] + x[0]),
            "wet": (("lat", "lon"), wet),
            "area": (("lat", "lon"), 1.0 + y[0]),
        },
        {"time": np.arange(6), "lat": np.linspace(-60, 60, NY), "lon": 30.0 * np.arange(NX), "lev": [0.0, 1.0]},
    )
    if request.param == "memory":
        return ds
    ds.to_zarr(
        tmp_path / "a.zarr", consolidated=False, encoding={"a": {"chunks": (4, 3, 5)}, "b": {"chunks": (2, 1, 7, 4)}}
    )
    return xr.open_zarr(tmp_path / "a.zarr", consolidated=False)


SPEC = FieldSpec(["a", "b", "zonal", "depth", "lat"], "a", levels="lev", target_offsets=1, area="area")


def read(loader, epoch=0):
    with loader:
        return tuple(np.concatenate(p) for p in zip(*loader.iterate(epoch), strict=True))


@pytest.mark.parametrize("kind", ["random", "tiles"])
def test_every_channel_weight_and_label_is_of_the_same_cells(maps, kind):
    how = {"per_sample": 5} if kind == "random" else {"overlap": {"lon": 2}}
    patches = Patches({"lat": 3, "lon": 5}, periodic="lon", **how)
    loader = Loader(maps, SPEC, 4, shuffle=True, patches=patches, memory=4500)
    with loader:
        for i in range(len(loader)):
            x, y, w = loader[i]
            labels = loader.labels(i)
            lat, lon = np.rint((labels.lat.values + 60) / 20), np.rint(labels.lon.values / 30)
            cell = 100 * lat[:, :, None] + lon[:, None, :]
            time = labels.time.values[:, None, None]
            np.testing.assert_array_equal(x[..., 0], 10000 * time + cell)
            np.testing.assert_array_equal(x[..., 1], 10000 * time + cell + 0.25)
            np.testing.assert_array_equal(x[..., 2], 10000 * time + cell + 0.5)
            np.testing.assert_array_equal(x[..., 3], np.broadcast_to(1000 * time + lat[:, :, None], cell.shape))
            np.testing.assert_array_equal(x[..., 4], cell)
            np.testing.assert_allclose(x[..., 5], np.broadcast_to(labels.lat.values[:, :, None], cell.shape), rtol=1e-6)
            np.testing.assert_array_equal(y[..., 0], 10000 * (time + 1) + cell)
            np.testing.assert_allclose(
                w, np.broadcast_to((1 + lat) / 4, (5, *lat.shape)[1:]).repeat(5, -1).reshape(cell.shape), rtol=1e-6
            )


def test_tiles_cover_the_map_once_for_every_sample(maps):
    patches = Patches({"lat": 3, "lon": 4}, periodic="lon")
    x, _, _ = read(Loader(maps, FieldSpec("a", "a"), 8, patches=patches))
    assert len(x) == 6 * 3 * 3
    first = x[:9, ..., 0]
    cells, counts = np.unique(first, return_counts=True)
    assert len(cells) == NY * NX
    assert counts.max() == 2  # the last row of tiles overlaps, so that it ends with the map


def test_a_seam_is_crossed_only_where_it_is_periodic(maps):
    def columns(**how):
        x, _, _ = read(Loader(maps, FieldSpec("a", "a"), 8, patches=Patches({"lon": 5}, per_sample=40, **how)))
        return x[:, 0, :, 0] % 100

    assert (np.diff(columns()) == 1).all()
    assert set(np.diff(columns(periodic="lon")).ravel().tolist()) == {1.0, 1.0 - NX}


def test_land_is_rejected(maps):
    wet = maps.wet.values
    for least in (0.5, 1.0):
        patches = Patches({"lat": 3, "lon": 4}, per_sample=30, periodic="lon", min_valid=least)
        loader = Loader(maps, FieldSpec("a", "a", mask="wet"), 16, patches=patches, shuffle=True)
        x, _, w = read(loader)
        assert (w > 0).mean(axis=(1, 2)).min() >= least
        assert not x[w == 0].any()
        origins = patches.origins(("lat", "lon"), wet)
        expected = [
            (i, j)
            for i in range(NY - 2)
            for j in range(NX)
            if np.take(wet[i : i + 3], range(j, j + 4), axis=1, mode="wrap").mean() >= least
        ]
        assert sorted(map(tuple, origins.tolist())) == expected


def test_masked_cells_may_hold_nan(maps):
    patches = Patches({"lat": 3, "lon": 4}, per_sample=5)
    x, y, w = read(Loader(maps, FieldSpec("a", "a", mask="wet"), 7, patches=patches, fill=np.nan))
    np.testing.assert_array_equal(np.isnan(x[..., 0]), w == 0)
    assert np.isfinite(y).all()


def test_patches_are_a_function_of_seed_epoch_and_sample(maps):
    patches = Patches({"lat": 3, "lon": 4}, per_sample=3)

    def patches_of(**options):
        loader = Loader(maps, FieldSpec("a", "a"), 5, patches=patches, **options)
        x = read(loader, 2)[0]
        return x[np.lexsort((x[:, 0, 0, 0],))]

    whole = patches_of(seed=3)
    np.testing.assert_array_equal(patches_of(seed=3, shuffle=True), whole)
    np.testing.assert_array_equal(patches_of(seed=3, memory=1500, threads=1, shuffle=True), whole)
    assert (patches_of(seed=4) != whole).any()
    shares = np.concatenate([patches_of(seed=3, shard=(rank, 2)) for rank in range(2)])
    np.testing.assert_array_equal(shares[np.lexsort((shares[:, 0, 0, 0],))], whole)


def test_every_place_is_drawn_equally_often():
    ds = xr.Dataset({"a": (("time", "x"), np.tile(np.arange(8.0), (500, 1)))}, {"time": np.arange(500)})
    x, _, _ = read(Loader(ds, FieldSpec("a", "a"), 100, patches=Patches({"x": 3}, per_sample=12)))
    counts = np.bincount(x[:, 0, 0].astype(int), minlength=6)
    # 6000 draws of 6 places: five standard deviations of a binomial are 144.
    assert len(counts) == 6
    assert np.abs(counts - 1000).max() < 144


def test_the_margin_of_a_cut_edge_carries_no_weight(maps):
    patches = Patches({"lat": 5, "lon": 6}, margin=1)
    loader = Loader(maps, FieldSpec("a", "a"), 4, patches=patches)
    with loader:
        _, _, w = loader[0]
        labels = loader.labels(0)
    for weight, lat, lon in zip(w, labels.lat.values, labels.lon.values, strict=True):
        expected = np.ones((5, 6))
        if lat[0] > -60:
            expected[0] = 0
        if lat[-1] < 60:
            expected[-1] = 0
        if lon[0] > 0:
            expected[:, 0] = 0
        if lon[-1] < 330:
            expected[:, -1] = 0
        np.testing.assert_array_equal(weight > 0, expected > 0)


@settings(max_examples=60)
@given(
    n=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    origin=st.tuples(st.integers(0, 8), st.integers(0, 8)),
)
def test_cuts_equal_a_map_that_goes_round(n, size, origin):
    size = tuple(min(s, m) for s, m in zip(size, n, strict=True))
    origin = tuple(o % m for o, m in zip(origin, n, strict=True))
    field = np.arange(n[0] * n[1]).reshape(n)
    out = np.full(size, -1)
    for here, there in cuts(origin, size, n):
        out[here] = field[there]
    rolled = np.roll(field, (-origin[0], -origin[1]), (0, 1))
    np.testing.assert_array_equal(out, rolled[: size[0], : size[1]])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": {"lat": 3, "x": 2}}, r"size names 'x', which is not cut"),
        ({"size": {"lat": 8}}, r"larger than the map. Expected: at most \{'lat': 7\} cells. Received: \{'lat': 8\}"),
        ({"size": {"lon": 4}, "periodic": "lonn"}, r"periodic names 'lonn'.*did you mean 'lon'"),
        ({"size": {"lon": 4}, "overlap": 4}, r"overlap does not fit. Expected: at least 0 and less than the size"),
        ({"size": {"lon": 4}, "overlap": 1, "per_sample": 2}, r"overlap does not fit. Expected: none"),
        ({"size": {"lon": 4}, "margin": 2}, r"margin does not fit.*less than half"),
        ({"size": {"lon": 4}, "min_valid": 2}, r"min_valid does not fit. Expected: 0 to 1"),
        ({"size": {"lon": 4}, "per_sample": 0}, r"per_sample does not fit"),
        ({"size": {"lat": 0}}, r"size does not fit"),
        ({"size": {"lat": 7, "lon": 12}, "min_valid": 1.0}, r"no patch has enough valid cells.*Received: 0\.8"),
    ],
)
def test_patches_that_do_not_fit_are_refused(maps, arguments, words):
    with pytest.raises(ValueError, match=words):
        Loader(maps, FieldSpec("a", "a", mask="wet"), 4, patches=Patches(**arguments))
