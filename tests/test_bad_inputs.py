"""Bad input gives one clear error: what and where, what was expected, what came, and the remedy."""

import keras
import numpy as np
import pytest
import xarray as xr

import physml
from physml import (
    Batches,
    Conserve,
    Constraints,
    FieldModel,
    FieldSpec,
    NonNegative,
    Scaling,
    Transport,
    networks,
    predict,
    rollout,
    split_time,
)

SPEC = FieldSpec(["c", "u"], "c", target_offsets=1, mask="wet", area="area")
CLOSED = {"lat": "closed", "lon": "closed"}


def make():
    """Twelve days of a tracer and a velocity on 4 x 5 cells, two of them land."""
    rng = np.random.default_rng(0)
    wet = np.ones((4, 5), bool)
    wet[1, 2:4] = False
    ds = xr.Dataset(
        {
            "c": (("time", "lat", "lon"), rng.random((12, 4, 5)).astype("float32"), {"units": "kg m-3"}),
            "u": (("time", "lat", "lon"), rng.normal(size=(12, 4, 5)).astype("float32"), {"units": "m s-1"}),
            "wet": (("lat", "lon"), wet),
            "area": (("lat", "lon"), rng.uniform(1, 2, (4, 5)), {"units": "m2"}),
        },
        {
            "time": xr.date_range("2000-01-01", periods=12),
            "lat": ("lat", [-30.0, -10.0, 10.0, 30.0], {"units": "degrees_north"}),
            "lon": ("lon", np.arange(5) * 10.0, {"units": "degrees_east"}),
        },
    )
    units = {n: ds[n].attrs for n in ("c", "u")}
    for n in units:
        ds[n] = ds[n].where(ds.wet).assign_attrs(units[n])
    return ds


@pytest.fixture(scope="module")
def model():
    scaling = Scaling.fit(make(), SPEC)
    return FieldModel(networks.mlp(scaling.layout, hidden=(2,)), scaling=scaling, increment=True)


def batch(ds, spec=SPEC):
    return Batches(ds, spec, 4)[0]


def with_hole(ds, value, at=(3, 0, 0)):
    ds["u"][at] = value
    return ds


def mixed_calendars(ds):
    days = list(xr.date_range("2000-01-01", periods=6, calendar="noleap", use_cftime=True))
    days += list(xr.date_range("2000-01-07", periods=6, calendar="360_day", use_cftime=True))
    return ds.assign_coords(time=("time", np.array(days, dtype=object)))


def law(*laws, ds=None):
    return Constraints(laws).bind(SPEC.bind(make() if ds is None else ds))


def truncated(model, folder):
    model.save(folder / "whole.keras")
    (folder / "part.keras").write_bytes((folder / "whole.keras").read_bytes()[:2000])
    physml.load(folder / "part.keras")


def infeasible():
    ds = make()[["c"]].fillna(0)
    Constraints([NonNegative("c"), Conserve("c", ("lat", "lon"))]).apply(ds, -ds)


# what is wrong: (the call, the class of the error, words of its message)
BAD = {
    "a missing variable": (
        lambda m, p: SPEC.bind(make().drop_vars("u").rename(c="cc")),
        KeyError,
        ["input 'c'", "did you mean 'cc'"],
    ),
    "a missing mask": (lambda m, p: SPEC.bind(make().drop_vars("wet")), KeyError, ["mask 'wet'", "not in the Dataset"]),
    "other units": (
        lambda m, p: predict(m, make().assign(u=make().u.assign_attrs(units="km s-1"))),
        ValueError,
        ["'u' has other units", "'m s-1'", "'km s-1'"],
    ),
    "other dimensions": (lambda m, p: predict(m, make().rename(lat="y")), ValueError, ["other dimensions", "'y'"]),
    "a tensor of another shape": (
        lambda m, p: m.predict_on_batch(np.zeros((2, 5, 4, 2), "float32")),
        ValueError,
        ["shape"],
    ),
    "a missing value": (
        lambda m, p: batch(with_hole(make(), np.nan)),
        ValueError,
        ["input 'u' is missing on valid cells", "2000-01-04", "1 cells"],
    ),
    "an infinite value": (lambda m, p: predict(m, with_hole(make(), np.inf)), ValueError, ["input 'u'", "infinite"]),
    "a missing value and no mask": (
        lambda m, p: Scaling.fit(make(), FieldSpec("c", "c")),
        ValueError,
        ["'c' is missing", "no mask", "finite_mask"],
    ),
    "unsorted times": (
        lambda m, p: SPEC.bind(make().isel(time=[0, 2, 1])),
        ValueError,
        ["not strictly increasing", "2000-01-03", "sortby"],
    ),
    "repeated times": (
        lambda m, p: Batches(make().isel(time=[0, 1, 1, 2]), SPEC),
        ValueError,
        ["not strictly increasing", "drop_duplicates"],
    ),
    "mixed calendars": (
        lambda m, p: SPEC.bind(mixed_calendars(make())),
        ValueError,
        ["mixes calendars", "360_day, noleap"],
    ),
    "a gap in time": (
        lambda m, p: Batches(make().isel(time=[0, 1, 2, 6, 7]), SPEC),
        ValueError,
        ["no constant step", "2000-01-03", "2000-01-07", "reindex"],
    ),
    "another time step": (
        lambda m, p: Batches(make().isel(time=slice(None, None, 2)), m.layout),
        ValueError,
        ["step of 'time'", "1 days", "2 days"],
    ),
    "latitudes the other way": (
        lambda m, p: predict(m, make().isel(lat=slice(None, None, -1))),
        ValueError,
        ["'lat'", "runs the other way"],
    ),
    "another region": (
        lambda m, p: predict(m, make().assign_coords(lon=np.arange(5) + 90.0)),
        ValueError,
        ["'lon'", "90"],
    ),
    "another grid": (
        lambda m, p: predict(m, make().isel(lon=slice(0, 3))),
        ValueError,
        ["another grid", "{'lon': 5}", "{'lon': 3}"],
    ),
    "an empty selection": (
        lambda m, p: Batches(make().isel(time=slice(0, 0)), m.layout),
        ValueError,
        ["holds no batch"],
    ),
    "too short a period": (
        lambda m, p: Batches(make().isel(time=slice(0, 1)), SPEC),
        ValueError,
        ["holds no batch", "0 samples"],
    ),
    "a split without room": (
        lambda m, p: split_time(make(), ["2000-01-12"], SPEC),
        ValueError,
        ["validation part holds no whole window", "2000-01-12"],
    ),
    "a boundary that is no date": (lambda m, p: split_time(make(), ["soon"], SPEC), ValueError, ["boundary 'soon'"]),
    "offsets that are no steps": (
        lambda m, p: FieldSpec("c", "c", input_offsets=(0.5,)),
        ValueError,
        ["input_offsets", "integers"],
    ),
    "a repeated name": (lambda m, p: FieldSpec(["c", "c"], "c"), ValueError, ["repeat a name", "['c']"]),
    "no targets": (lambda m, p: FieldSpec("c", []), ValueError, ["no targets"]),
    "an unknown level": (
        lambda m, p: FieldSpec("c", "c", levels={"lat": [5.0]}).bind(make()),
        ValueError,
        ["no level 5.0", "'lat'"],
    ),
    "a mask that changes in time": (
        lambda m, p: FieldSpec("c", "c", mask="u").bind(make()),
        ValueError,
        ["mask 'u' varies along ['time']"],
    ),
    "a negative area": (lambda m, p: batch(make().assign(area=-make().area)), ValueError, ["area 'area'", "negative"]),
    "a constant variable": (
        lambda m, p: Scaling.fit(make().assign(u=make().u * 0 + 3), SPEC),
        ValueError,
        ["'u' does not vary", "mean 3"],
    ),
    "text": (
        lambda m, p: FieldSpec("t", "t").bind(xr.Dataset({"t": ("time", ["a", "b"])})),
        TypeError,
        ["'t' is not numeric"],
    ),
    "no sample dimension": (
        lambda m, p: FieldSpec("c", "c").bind(make().isel(time=0)),
        ValueError,
        ["no dimension 'time'", "expand_dims"],
    ),
    "a law on no target": (
        lambda m, p: law(NonNegative("cc")),
        KeyError,
        ["'cc', which is no target", "did you mean 'c'"],
    ),
    "two sums on one variable": (
        lambda m, p: law(Conserve("c", "lat"), Conserve("c", "lon")),
        ValueError,
        ["two weighted sums act on 'c'"],
    ),
    "a sum over no dimension of the field": (
        lambda m, p: law(Conserve("c", "depth")),
        ValueError,
        ["['depth']", "'lat'"],
    ),
    "missing weights": (
        lambda m, p: law(Conserve("c", "lat", "w"), ds=make().assign(w=make().area.where(make().lat > 0))),
        ValueError,
        ["'w'", "missing or negative"],
    ),
    "a source in other units": (
        lambda m, p: law(Conserve("c", ("lat", "lon"), "area", sources="u")),
        ValueError,
        ["source 'u'", "do not add up", "'m s-1'"],
    ),
    "a total out of reach": (lambda m, p: infeasible(), ValueError, ["cannot be satisfied within the bounds"]),
    "inputs that a law needs": (
        lambda m, p: Conserve("c", ("lat", "lon")).apply(make().fillna(0)),
        ValueError,
        ["inputs (c) that were not given"],
    ),
    "no such model": (lambda m, p: physml.load(p / "none.keras"), FileNotFoundError, ["no model at", "none.keras"]),
    "a truncated model": (truncated, ValueError, ["part.keras", "cannot be read"]),
    "a network with other channels": (
        lambda m, p: FieldModel(networks.mlp(m.layout, outputs=3), scaling=m.scaling),
        ValueError,
        ["does not fit the targets", "4, 5, 1", "3"],
    ),
    "a model that knows no grid": (
        lambda m, p: FieldModel(keras.Sequential([keras.layers.Dense(1)]), SPEC),
        ValueError,
        ["does not know the grid", "Scaling.fit"],
    ),
    "an unknown boundary": (
        lambda m, p: networks.cnn(m.layout, boundary={"lat": "closed", "lon": "cyclic"}),
        ValueError,
        ["boundary does not fit", "periodic"],
    ),
    "a missing boundary": (
        lambda m, p: Transport(3, {"lat": "closed"}).bind(m.layout),
        ValueError,
        ["boundary", "'lon'"],
    ),
    "a roll-out without forcing": (
        lambda m, p: rollout(m, make().isel(time=[0]), 2),
        KeyError,
        ["input 'u' is no target", "no forcing"],
    ),
    "a batch of nothing": (lambda m, p: Batches(make(), SPEC, 0), ValueError, ["batch_size is not positive", "0"]),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_clear_error(what, model, tmp_path):
    call, kind, words = BAD[what]
    with pytest.raises(kind) as caught:
        call(model, tmp_path)
    message = str(caught.value.args[0]) if kind is KeyError else str(caught.value)
    for word in words:
        assert word in message, message
    if what != "a tensor of another shape":  # that one is Keras's own
        for part in ("Expected: ", "Received: ", "Remedy: "):
            assert part in message, message


def test_the_table_is_long_enough():
    assert len(BAD) >= 25
