"""Predictions by tiles are those of whole maps: at coasts, at closed ends and across the date line; lazy and in bounded memory."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import physml
from physml import Conserve, FieldModel, FieldSpec, NonNegative, Scaling, Transport, networks
from physml.networks import Pad
from physml.tiles import axis, plan

SHAPE = (24, 36)
GLOBE = {"lat": "open", "lon": "periodic"}
SPEC = FieldSpec(["t", "f", "h"], "t", target_offsets=1, mask="wet")


def data(shape=SHAPE, n=6, seed=0):
    """Return two fields and a static one on a sphere with land, chunk by chunk of time."""
    rng = np.random.default_rng(seed)
    wet = rng.random(shape) > 0.2
    ds = xr.Dataset(
        {
            "t": (("time", "lat", "lon"), rng.normal(15, 3, (n, *shape)).astype("float32"), {"units": "degC"}),
            "f": (("time", "lat", "lon"), rng.normal(0, 1, (n, *shape)).astype("float32")),
            "h": (("lat", "lon"), rng.normal(0, 1, shape).astype("float32")),
            "wet": (("lat", "lon"), wet),
            "area": (("lat", "lon"), np.ones(shape), {"units": "m2"}),
        },
        {"time": xr.date_range("2000-01-01", periods=n), "lat": np.linspace(-80, 80, shape[0]), "lon": np.arange(shape[1]) * 10.0},
    )  # fmt: skip
    ds[["t", "f"]] = ds[["t", "f"]].where(ds.wet)
    return ds


@pytest.fixture(scope="module")
def ds():
    return data()


@pytest.fixture(scope="module")
def scaling(ds):
    return Scaling.fit(ds, SPEC)


def shaken(model):
    rng = np.random.default_rng(0)
    for v in model.network.trainable_variables:
        v.assign(rng.normal(0, 0.3, v.shape))
    return model


def cnn(scaling, boundary=GLOBE, any_size=False, **options):
    network = networks.cnn(
        scaling.layout, boundary=boundary, filters=4, blocks=1, first_kernel_size=3, coast=True, any_size=any_size
    )
    return shaken(FieldModel(network, scaling=scaling, **options))


def unet(scaling, pad=("closed", "periodic")):
    """Two poolings: windows must begin at multiples of four."""

    def conv(x, filters=3):
        return layers.Conv2D(filters, 3, activation="relu")(Pad(1, pad)(x))

    start = x = keras.Input((*scaling.layout.shape, len(scaling.layout.inputs)))
    kept = []
    for _ in range(2):
        x = conv(x)
        kept.append(x)
        x = layers.MaxPooling2D(2)(x)
    for y in reversed(kept):
        x = conv(layers.Concatenate()([layers.UpSampling2D(2)(conv(x)), y]))
    return shaken(FieldModel(keras.Model(start, conv(x, 1), name="unet"), scaling=scaling))


def same(model, ds, tiles, **options):
    """Check that tiles give what whole maps give, and return how far they are apart."""
    whole = physml.predict(model, ds)
    found = physml.predict(model, ds, tiles=tiles, **options)
    xr.testing.assert_allclose(found.drop_attrs(), whole.drop_attrs(), rtol=1e-6, atol=1e-5)
    assert (found.t.isnull() == whole.t.isnull()).all()
    return float(abs(found.t - whole.t).max())


def test_with_a_row_to_spare_tiles_are_bit_for_bit_the_whole_map(scaling):
    ds = data((24, 36), 9)
    for boundary in (GLOBE, {"lat": "closed", "lon": "closed"}):
        for tiles in ({"lat": 7, "lon": 10}, {"lon": 12}, {"lat": 9}):
            assert same(cnn(scaling, boundary), ds, tiles) == 0


@pytest.mark.parametrize("tiles", [{"lat": 7, "lon": 10}, {"lon": 12}, {"lat": 24, "lon": 5}, {"lat": 100, "lon": 30}])
@pytest.mark.parametrize("boundary", [GLOBE, {"lat": "closed", "lon": "closed"}, {"lat": "periodic", "lon": "open"}])
def test_tiles_equal_the_whole_map_at_coasts_ends_and_seams(ds, scaling, tiles, boundary):
    same(cnn(scaling, boundary, constraints=[NonNegative("t")], increment=True), ds, tiles)


@pytest.mark.parametrize("tiles", [{"lat": 5, "lon": 7}, {"lat": 4}])
def test_poolings_are_met_by_windows_at_multiples_of_the_stride(tiles):
    # 40 x 72 cells: the reach of a U-Net with two poolings is 18 cells.
    ds = data((60, 88), 3)
    scaling = Scaling.fit(ds, SPEC)
    model = unet(scaling)
    planned = plan(model, tiles)
    assert any(a.size < a.cells for a in planned.axes)
    assert all(s % 4 == 0 for a in planned.axes for s in a.starts)
    same(model, ds, tiles)


def test_ends_repeated_behind_a_valid_convolution_are_met(ds, scaling):
    start = keras.Input((*SHAPE, 3))
    x = Pad(2, ("open", "open"))(layers.Conv2D(3, 5, activation="relu")(start))
    model = shaken(FieldModel(keras.Model(start, layers.Dense(1)(x)), scaling=scaling))
    for tiles in ({"lat": 1}, {"lat": 3, "lon": 4}):
        same(model, ds, tiles)


def test_a_map_that_poolings_do_not_divide_is_still_met_exactly_at_its_ends():
    ds = data((61, 40), 3)
    scaling = Scaling.fit(ds, SPEC)
    start = keras.Input((61, 40, 3))
    x = layers.Conv2D(3, 3, strides=(4, 1), padding="same", activation="relu")(start)
    x = layers.UpSampling2D((4, 1))(x)
    network = keras.Model(start, layers.Conv2D(1, 3, padding="same")(layers.Cropping2D(((0, 3), (0, 0)))(x)))
    model = shaken(FieldModel(network, scaling=scaling))
    assert plan(model, {"lat": 9}).axes[0].size % 4 == 1
    same(model, ds, {"lat": 9, "lon": 11})


@settings(max_examples=5)
@given(st.integers(3, 24), st.integers(3, 36), st.integers(1, 6), st.integers(1, 4))
def test_any_tiles_chunks_and_batches_give_the_same(lat, lon, chunk, batch):
    ds = data()
    model = MODELS.setdefault("cnn", cnn(Scaling.fit(ds, SPEC)))
    whole = MODELS.setdefault("whole", physml.predict(model, ds))
    lazy = physml.predict(model, ds.chunk(time=chunk, lat=7), batch_size=batch, tiles={"lat": lat, "lon": lon})
    assert max(lazy.t.chunksizes["lat"]) == min(lat, 24)
    xr.testing.assert_allclose(lazy.compute().drop_attrs(), whole.drop_attrs(), rtol=1e-6, atol=1e-5)


MODELS = {}


def test_tiles_are_lazy_and_each_reads_its_window_alone(ds, scaling, nothing_computed):
    model = cnn(scaling)
    reads = []

    def read(block, block_info):
        reads.append(tuple(start for start, _ in block_info[0]["array-location"][1:]))
        return block

    lazy = ds.chunk(time=1, lat=6, lon=6)
    lazy["t"] = lazy.t.copy(data=lazy.t.data.map_blocks(read, dtype="float32", meta=np.empty((0, 0, 0), "float32")))
    with nothing_computed():
        out = physml.predict(model, lazy, tiles={"lat": 6, "lon": 6})
    assert not reads
    assert out.t.chunks[1:] == ((6,) * 4, (6,) * 6)
    out.t[0, :6, :6].compute(scheduler="synchronous")
    # 6 cells and a halo of 4: two chunks along latitude, three along longitude, one of them beyond the seam.
    assert set(reads) == {(a, b) for a in (0, 6) for b in (30, 0, 6)}


def test_the_halo_and_the_tiles_are_recorded(ds, scaling):
    out = physml.predict(cnn(scaling), ds, tiles={"lat": 8, "lon": 9})
    assert out.attrs["physml_tiles"] == "lat=8, lon=9"
    assert out.attrs["physml_halo"] == "lat=3+3, lon=3+3"
    assert "predict by tiles {'lat': 8, 'lon': 9} with" in out.attrs["history"]
    assert "physml_tiles" not in physml.predict(cnn(scaling), ds).attrs


def test_missing_inputs_are_refused_in_tiles_and_their_halo(ds, scaling):
    model = cnn(scaling)
    holed = ds.copy(deep=True)
    i, j = np.argwhere(ds.wet.values)[0]
    holed["f"][2, i, j] = np.nan
    with pytest.raises(ValueError, match=r"input 'f' is missing on valid cells.*1 cells"):
        physml.predict(model, holed, tiles={"lat": 6})


def test_the_network_of_a_model_is_left_as_it_was(ds, scaling, tmp_path):
    model = cnn(scaling)
    before = physml.predict(model, ds)
    physml.predict(model, ds, tiles={"lat": 8})
    model.save(tmp_path / "model.keras")
    again = physml.load(tmp_path / "model.keras")
    xr.testing.assert_identical(physml.predict(again, ds).drop_attrs(), before.drop_attrs())
    same(again, ds, {"lat": 8})


def test_a_model_of_any_size_predicts_by_tiles_and_as_a_whole(ds, scaling):
    model = cnn(scaling, any_size=True)
    assert model.free_size
    fixed = cnn(scaling)
    fixed.set_weights(model.get_weights())
    xr.testing.assert_allclose(
        physml.predict(model, ds).drop_attrs(), physml.predict(fixed, ds).drop_attrs(), atol=1e-5
    )
    same(model, ds, {"lat": 8, "lon": 9})


def test_missing_taken_at_the_mean_is_so_in_tiles_too(ds, scaling):
    model = cnn(scaling, missing="mean")
    holed = ds.copy(deep=True)
    holed["f"][:, 3:6] = np.nan
    same(model, holed, {"lat": 7, "lon": 11})


# boundaries and halos said by the user -------------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="test")
class Smooth(layers.Layer):
    """The mean of a cell and the two beside it along latitude, zero beyond the ends."""

    def call(self, x):
        padded = keras.ops.pad(x, [[0, 0], [1, 1], [0, 0], [0, 0]])
        return (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3


def custom(scaling):
    start = keras.Input((*SHAPE, 3))
    return shaken(FieldModel(keras.Model(start, layers.Dense(1)(Smooth(name="smooth")(start))), scaling=scaling))


def test_an_unknown_layer_needs_the_halo_from_the_user(ds, scaling):
    model = custom(scaling)
    with pytest.raises(ValueError, match=r"'smooth' \(Smooth\) is not known.*halo="):
        physml.predict(model, ds, tiles={"lat": 8})
    same(model, ds, {"lat": 8}, halo={"lat": 1})
    whole = physml.predict(model, ds)
    short = physml.predict(model, ds, tiles={"lat": 8}, halo={"lat": 0})
    assert float(abs(short.t - whole.t).max()) > 1e-2


def test_dimensions_are_periodic_by_the_user_only_where_no_layer_says_otherwise(ds, scaling):
    start = keras.Input((*SHAPE, 3))
    pointwise = shaken(FieldModel(keras.Model(start, layers.Dense(1)(start)), scaling=scaling))
    same(pointwise, ds, {"lon": 8}, periodic=["lon"])
    with pytest.raises(ValueError, match=r"'lat' is said to be periodic, but the network closes it"):
        physml.predict(cnn(scaling), ds, tiles={"lat": 8}, periodic="lat")
    mixed = layers.Conv2D(1, 3, padding="same")(layers.Conv2D(3, 3)(Pad(1, ("closed", "periodic"))(start)))
    model = shaken(FieldModel(keras.Model(start, mixed), scaling=scaling))
    with pytest.raises(ValueError, match=r"cannot be applied in tiles of 'lon'.*leave 'lon' out"):
        physml.predict(model, ds, tiles={"lon": 8})
    same(model, ds, {"lat": 8})


def test_a_larger_halo_changes_nothing_and_a_shorter_one_is_refused(ds, scaling):
    model = cnn(scaling)
    same(model, ds, {"lat": 6}, halo={"lat": 5})
    with pytest.raises(
        ValueError, match=r"halo along 'lat' is shorter than the network sees. Expected: >= 3 cells. Received: 2"
    ):
        physml.predict(model, ds, tiles={"lat": 6}, halo={"lat": 2})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tiles": {"lta": 4}}, r"tiles name 'lta', which is no space dimension; did you mean 'lat'"),
        ({"tiles": {"lat": 0}}, r"tiles hold no cell.*'lat': 0"),
        ({"tiles": {"lat": 4}, "halo": {"lat": -1}}, r"tiles hold no cell"),
        ({"halo": {"lat": 4}}, r"halo, periodic and blend belong to tiles"),
        ({"tiles": {"lat": 4}, "blend": True}, r"blend needs the cells by which windows overlap"),
    ],
)
def test_tiles_that_make_no_sense_are_refused(ds, scaling, options, words):
    with pytest.raises(ValueError, match=words):
        physml.predict(cnn(scaling), ds, **options)


def test_laws_and_heads_of_the_whole_map_are_refused_with_the_reason(ds, scaling):
    closed = {"lat": "closed", "lon": "periodic"}
    network = networks.cnn(scaling.layout, boundary=closed, filters=2, blocks=1, outputs=9)
    moved = FieldModel(network, scaling=scaling, head=Transport(3, closed))
    summed = cnn(scaling, constraints=[Conserve("t", ("lat", "lon"))])
    for model, word in ((moved, "Transport"), (summed, "Conserve")):
        with pytest.raises(ValueError, match=rf"cannot be applied tile by tile.*{word}.*apply\(fields, ds\)"):
            physml.predict(model, ds, tiles={"lat": 8})
    start = keras.Input((*SHAPE, 3))
    normed = layers.Dense(1)(layers.GroupNormalization(1, name="norm")(start))
    with pytest.raises(ValueError, match=r"'norm' is the whole map.*whole maps.*blend=True"):
        physml.predict(FieldModel(keras.Model(start, normed), scaling=scaling), ds, tiles={"lat": 8})


# blending ------------------------------------------------------------------------------------------------------------


def test_blended_windows_of_a_local_network_are_exact_away_from_what_they_cut(ds, scaling):
    start = keras.Input((*SHAPE, 3))
    pointwise = shaken(FieldModel(keras.Model(start, layers.Dense(1)(start)), scaling=scaling))
    whole = physml.predict(pointwise, ds)
    for periodic in ((), ("lon",)):
        out = physml.predict(
            pointwise, ds.chunk(time=2), tiles={"lat": 7, "lon": 9}, halo={"lat": 2, "lon": 3}, periodic=periodic, blend=True
        )  # fmt: skip
        xr.testing.assert_allclose(out.compute().drop_attrs(), whole.drop_attrs(), rtol=1e-5)
        assert "not the whole-map prediction" in out.attrs["physml_tiles_blended"]


def test_blending_has_no_seams_where_a_network_sees_the_whole_window(ds, scaling):
    start = keras.Input((None, None, 3))
    network = keras.Model(start, layers.Dense(1)(layers.GroupNormalization(1)(start)))
    model = FieldModel(network, scaling=scaling)
    rng = np.random.default_rng(1)
    for v in network.trainable_variables:
        v.assign(rng.normal(1, 0.3, v.shape))
    smooth = ds.assign(t=ds.t * 0 + ds.lat / 10 + ds.lon / 50, f=ds.f * 0 + ds.lat / 90, h=ds.h * 0 + 1).assign(
        wet=ds.wet | True
    )
    smooth = smooth.map(lambda v: v.ffill("lon").bfill("lon").ffill("lat").bfill("lat") if v.dtype.kind == "f" else v)
    model = FieldModel(
        network,
        scaling=Scaling.fit(smooth.assign(h=smooth.lat + 0 * smooth.lon, t=smooth.t + smooth.time.dt.day), SPEC),
    )
    blended = physml.predict(model, smooth, tiles={"lon": 12}, halo={"lon": 5}, blend=True).t
    hard = physml.predict(model, smooth, tiles={"lon": 12}, halo={"lon": 0}, blend=True).t
    jumps = [float(abs(a.diff("lon")).max()) for a in (blended, hard)]
    assert jumps[0] < 0.5 * jumps[1]


# windows -------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 9), st.integers(0, 9), st.integers(1, 4), st.booleans())
def test_every_window_holds_its_tile_and_the_halo_within_the_map(cells, tile, before, after, stride, periodic):
    if periodic:
        cells *= stride
    a = axis(cells, tile, (before, after), stride, periodic)
    assert a.bounds[0] == 0
    assert a.bounds[-1] == cells
    for i, start in enumerate(a.starts):
        first, last = a.bounds[i], a.bounds[i + 1]
        taken = np.concatenate([np.arange(cells)[p] for p in a.pieces(i)])
        assert len(taken) == a.size
        np.testing.assert_array_equal(taken[a.inside(i)], np.arange(first, last))
        if a.size == cells:
            continue
        assert start % stride == 0
        if periodic:
            assert start <= first - before
            assert start + a.size >= last + after
        else:
            assert (a.size - cells) % stride == 0
            assert 0 <= start <= max(0, first - before)
            assert min(cells, last + after) <= start + a.size <= cells


@pytest.mark.long
def test_memory_is_that_of_windows_and_not_of_maps(tmp_path):
    code = textwrap.dedent(
        """
        import resource, sys
        import dask, numpy as np, xarray as xr
        import physml
        from physml import FieldModel, FieldSpec, Scaling, networks
        def stored(n, cells):
            import dask.array as da
            x = da.random.default_rng(0).normal(size=(n, cells, cells), chunks=(1, 128, 128)).astype("float32")
            ds = xr.Dataset({"x": (("time", "y", "z"), x)}, {"time": np.arange(n)})
            ds.to_zarr(f"{sys.argv[1]}/{cells}.zarr", consolidated=False)
            return xr.open_zarr(f"{sys.argv[1]}/{cells}.zarr", consolidated=False)
        for cells in (256, 1536):
            ds = stored(2, cells)
            spec = FieldSpec("x", "x")
            layout = spec.bind(ds)
            net = networks.cnn(layout, boundary={"y": "periodic", "z": "open"}, filters=8, blocks=1)
            model = FieldModel(net, layout)
            with dask.config.set(num_workers=2):
                out = physml.predict(model, ds, tiles={"y": 128, "z": 128}, batch_size=2)
                out.x.mean().compute()
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        """
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    small, large = (float(x) for x in done.stdout.split())
    # Whole, a map of 1536 cells squared takes 75 MB for every layer of 8 filters, and so twice 2 x 75 MB for a convolution.
    assert large - small < 100, (small, large)
