"""What the networks see is read off their graphs: single cells changed say the same, and tiles give the whole map."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import xarray as xr

from physml import FieldModel, FieldSpec, Scaling, networks, predict
from physml.receptive import receptive_field

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the graph is the same on every backend"
)
RNG = np.random.default_rng(0)
OPEN = {"lat": "open", "lon": "closed"}
SPHERE = {"lat": "pole", "lon": "periodic"}
PLAIN = {"activation": "linear"}


def influence(network, shape):
    """Return which outputs change with which inputs, ``[*output, *input]`` booleans."""
    network.set_weights([0.2 + RNG.random(w.shape) if w.ndim > 1 else w for w in network.get_weights()])
    where = list(np.ndindex(*shape))
    # A rise by more than all differences moves an average and a maximum alike.
    x = np.repeat(RNG.random((1, *shape, 2)), len(where) + 1, 0).astype("float32")
    for row, at in enumerate(where):
        x[(row, *at)] += 3.0
    y = network.predict(x, batch_size=64, verbose=0).astype("float64")
    changed = (abs(y[:-1] / y[-1:] - 1) > 1e-6).any(-1)
    return np.moveaxis(changed.reshape(*shape, *shape), (0, 1), (2, 3))


def along(changed, axis):
    """Return which outputs see which inputs along one dimension, ``[output, input]``."""
    return changed.any((1, 3)) if axis == 0 else changed.any((0, 2))


VARIANTS = {
    "resnet": ("resnet", (15, 11), {"filters": (2, 2), "blocks": 1, "first_kernel_size": (3, 1)}),
    "unet": ("unet", (24, 16), {"filters": 2, "depth": 2, "convolutions": 1, "kernel_size": {"lat": 3, "lon": 1}}),
    "unet, odd": ("unet", (19, 13), {"filters": 2, "depth": 2, "convolutions": 1, "kernel_size": (3, 1)}),
    "unet, strides": ("unet", (16, 21), {"filters": 2, "depth": 1, "convolutions": 1, "factor": (2, 3), "downsampling": "strides", "upsampling": "transposed"}),
    "unet, nearest": ("unet", (20, 12), {"filters": 2, "depth": 1, "convolutions": 1, "kernel_size": (3, 1), "downsampling": "max", "upsampling": "nearest", "partial": "nan"}),
    "unet, partial": ("unet", (19, 9), {"filters": 2, "depth": 1, "partial": "nan", "convolutions": 1}),
}  # fmt: skip


RARE = ("unet, partial", "unet, odd", "unet, strides", "unet, seam", "resnet", "cnn, poles")


def everyday(cases):
    return [pytest.param(c, marks=pytest.mark.long) if c in RARE else c for c in cases]


@pytest.mark.parametrize("which", everyday(VARIANTS))
def test_the_field_of_a_network_is_that_of_changed_cells(which, layout_of):
    name, cells, arguments = VARIANTS[which]
    layout = layout_of(lat=cells[0], lon=cells[1])
    network = networks.build(name, layout, boundary=OPEN, norm=None, **PLAIN, **arguments)
    found = influence(network, cells)
    checked = 0
    for axis, extent in enumerate(receptive_field(network)):
        table = along(found, axis)
        for j, row in enumerate(table):
            there = set(np.flatnonzero(row))
            cell = extent.reach.at(j)
            assert j - extent.before <= min(there)
            assert max(there) <= j + extent.after
            if all(0 <= c < cells[axis] for c in cell):
                assert there == set(cell), (axis, j)
                checked += 1
    assert checked > 3


@pytest.mark.parametrize(
    ("sizes", "depth"),
    [
        pytest.param((8, 8), 1, marks=pytest.mark.long),
        ((9, 14), 1),
        pytest.param((17, 18), 1, marks=pytest.mark.long),
        pytest.param((18, 22), 1, marks=pytest.mark.long),
        pytest.param((24, 8), 2, marks=pytest.mark.long),
    ],
)
def test_near_a_pole_a_network_sees_the_far_side_and_says_so(sizes, depth, layout_of):
    """Rows are seen as far as said, across the pole too; columns over the whole circle. Where levels do not fit, no seam shows."""
    network = networks.unet(
        layout_of(lat=sizes[0], lon=sizes[1]), boundary=SPHERE, filters=2, depth=depth, convolutions=1, **PLAIN
    )
    lat, lon = receptive_field(network)
    assert lon.edge == "mixed"
    assert "across the pole" in lon.why
    assert lon.before >= sizes[1] // 2
    found = influence(network, sizes)
    assert found[0, 0][:, sizes[1] // 2].any()
    for j, row in enumerate(along(found, 0)):
        there = np.flatnonzero(row)
        assert j - lat.before <= there.min()
        assert there.max() <= j + lat.after
    # All columns are alike, in steps of the coarsest cells.
    step = 2**depth
    kept = slice(step, sizes[1] - sizes[1] % step)
    np.testing.assert_array_equal(np.roll(found, (step, step), (1, 3))[:, kept], found[:, kept])


def test_no_seam_where_the_levels_do_not_divide_the_circle(layout_of):
    """A circle of 30 cells under levels of 4: every cell sees its neighbours across the seam as it does inside."""
    layout = layout_of(lat=4, lon=30)
    network = networks.unet(
        layout, boundary={"lat": "open", "lon": "periodic"}, filters=2, depth=2, convolutions=1, **PLAIN
    )
    table = along(influence(network, (4, 30)), 1)
    reach = receptive_field(network)[1].reach
    for j in range(30):
        seen = {c % 30 for c in reach.at(j)}
        assert set(np.flatnonzero(table[j])) == seen
    # Inside a constant field every cell is alike: a seam would show.
    y = np.asarray(network(np.ones((1, 4, 30, 2), "float32")))
    np.testing.assert_allclose(y, y[:, :, :1] + 0 * y, rtol=1e-5)


def globe(shape, target="t"):
    rng = np.random.default_rng(1)
    ds = xr.Dataset(
        {"t": (("time", "lat", "lon"), rng.normal(10, 3, (4, *shape)).astype("float32"), {"units": "degC"})},
        {
            "time": np.arange(4),
            "lat": -90 + 180 / shape[0] * (np.arange(shape[0]) + 0.5),
            "lon": np.arange(shape[1]) * 1.0,
        },
    )
    ds["index"] = ds.t.mean(("lat", "lon"))
    return ds, Scaling.fit(ds, FieldSpec("t", target, target_offsets=1))


TILED = {
    "resnet": ((13, 18), {"lat": "closed", "lon": "periodic"}, {"lat": 5, "lon": 6}, {"filters": (2, 3), "blocks": 1}),
    "unet": ((35, 48), {"lat": "closed", "lon": "periodic"}, {"lat": 6, "lon": 8}, {"filters": 2, "depth": 2, "convolutions": 1}),
    "unet, strides": ((22, 24), {"lat": "open", "lon": "periodic"}, {"lat": 5, "lon": 12}, {"filters": 2, "depth": 1, "downsampling": "strides", "upsampling": "transposed"}),
    "unet, poles": ((36, 12), SPHERE, {"lat": 7}, {"filters": 2, "depth": 1, "convolutions": 1}),
    "cnn, poles": ((24, 12), SPHERE, {"lat": 5}, {"filters": 2, "blocks": 1}),
    "unet, seam": ((25, 31), {"lat": "open", "lon": "periodic"}, {"lat": 6}, {"filters": 2, "depth": 1, "convolutions": 1, "upsampling": "nearest"}),
}  # fmt: skip


@pytest.mark.parametrize("which", everyday(TILED))
def test_tiles_give_the_whole_map(which, awake):
    shape, boundary, tiles, arguments = TILED[which]
    ds, scaling = globe(shape)
    network = awake(networks.build(which.split(",")[0], scaling.layout, boundary=boundary, **arguments))
    model = FieldModel(network, scaling=scaling)
    whole, tiled = predict(model, ds).t.values, predict(model, ds, tiles=tiles).t.values
    assert np.ptp(whole[0]) > 0.1
    np.testing.assert_allclose(tiled, whole, rtol=3e-5, atol=3e-5)


def test_tiles_across_a_pole_or_a_seam_that_levels_do_not_divide_are_refused():
    ds, scaling = globe((24, 12))
    model = FieldModel(networks.cnn(scaling.layout, boundary=SPHERE, filters=2, blocks=0), scaling=scaling)
    with pytest.raises(ValueError, match=r"cannot be applied in tiles of 'lon'.*looks across the pole"):
        predict(model, ds, tiles={"lon": 4})
    ds, scaling = globe((8, 31))
    boundary = {"lat": "open", "lon": "periodic"}
    model = FieldModel(
        networks.unet(scaling.layout, boundary=boundary, filters=2, depth=1, convolutions=1), scaling=scaling
    )
    with pytest.raises(ValueError, match=r"cannot be applied in tiles of 'lon'.*treat its ends alike"):
        predict(model, ds, tiles={"lon": 8})


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("cnn", {"filters": (2,), "pooling": 2}, r"'flatten.*' is the whole map.*one vector"),
        ("resnet", {"filters": (2,), "blocks": 1}, r"'global_average_pooling2d.*' is the whole map.*sees all cells"),
        (
            "resnet",
            {"filters": (2,), "blocks": 1, "partial": "nan"},
            r"'global_pool.*' is the whole map.*all valid cells",
        ),
        ("mlp", {"flatten": True}, r"'gather.*' is the whole map.*the mask of the grid"),
    ],
)
def test_what_joins_the_whole_map_says_so(name, arguments, words):
    _, scaling = globe((8, 12), "index")
    network = networks.build(name, scaling.layout, boundary={"lat": "closed", "lon": "periodic"}, **arguments)
    with pytest.raises(ValueError, match=words):
        receptive_field(network)


def test_a_network_with_a_norm_over_the_map_says_so(layout_of):
    network = networks.unet(layout_of(lat=8, lon=8), boundary=OPEN, filters=8, depth=1, norm="group")
    with pytest.raises(ValueError, match=r"mean and variance over the whole map"):
        receptive_field(network)


@pytest.mark.parametrize("arguments", [{}, {"downsampling": "strides", "upsampling": "transposed"}, {"partial": "nan"}])
def test_a_periodic_unet_commutes_with_shifts_of_its_coarsest_cell(arguments, layout_of, awake):
    layout = layout_of(lat=5, lon=16)
    boundary = {"lat": "closed", "lon": "periodic"}
    network = awake(networks.unet(layout, boundary=boundary, filters=3, depth=2, convolutions=1, **arguments))
    x = RNG.normal(size=(2, 5, 16, 2)).astype("float32")
    y = np.asarray(network(x))
    np.testing.assert_allclose(np.asarray(network(np.roll(x, 4, 2))), np.roll(y, 4, 2), rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(network(np.roll(x, 2, 2))) - np.roll(y, 2, 2)).max() > 1e-3


def test_a_periodic_network_to_numbers_does_not_care_where_the_seam_is(layout_of, awake):
    layout = layout_of("index", lat=5, lon=16)
    boundary = {"lat": "closed", "lon": "periodic"}
    for name, arguments in (("resnet", {"filters": (3, 3), "blocks": 1}), ("cnn", {"filters": (3,), "gather": "max"})):
        network = awake(networks.build(name, layout, boundary=boundary, pooling=2, dense=(4,), **arguments))
        x = RNG.normal(size=(2, 5, 16, 2)).astype("float32")
        y = np.asarray(network(x))
        np.testing.assert_allclose(np.asarray(network(np.roll(x, 6, 2))), y, rtol=1e-5, atol=1e-6)
        assert isinstance(network, keras.Model)
