"""Every bad input ends in one message that says what is wrong and where, what was expected, what came, and what to do."""

from __future__ import annotations

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
    FieldStep,
    NonNegative,
    Scaling,
    Transport,
    grid,
    networks,
)

SPEC = FieldSpec(["t", "f"], "t", target_offsets=1, mask="wet", area="area")


def data():
    """Return ten days of a state and a forcing on 4 x 6 cells with an island."""
    rng = np.random.default_rng(0)
    ds = xr.Dataset(
        {n: (("time", "lat", "lon"), rng.random((10, 4, 6)).astype("float32")) for n in ("t", "f")},
        {
            "time": xr.date_range("2000-01-01", periods=10),
            "lat": np.linspace(-60, 60, 4),
            "lon": np.arange(0.0, 360, 60),
        },
    )
    ds["wet"] = (("lat", "lon"), np.arange(24).reshape(4, 6) != 8)
    ds = ds.where(ds.wet).assign(wet=ds.wet)
    ds["t"].attrs["units"], ds["f"].attrs["units"] = "K", "W m-2"
    ds["area"] = (("lat", "lon"), rng.uniform(1, 2, (4, 6)))
    return ds


class World:
    """What the bad inputs are made of."""

    def __init__(self, folder):
        self.folder, self.ds = folder, data()
        self.scaling = Scaling.fit(self.ds, SPEC)
        self.layout = self.scaling.layout
        self.model = FieldModel(networks.mlp(self.layout, hidden=(2,)), scaling=self.scaling)

    def but(self, **variables):
        return self.ds.assign(variables)

    def hole(self, value, name="t"):
        da = self.ds[name].copy(deep=True)
        da[4, 0, 0] = value
        return self.but(**{name: da})

    def at(self, time):
        return self.ds.isel(time=slice(0, len(time))).assign_coords(time=time)

    def truncated(self):
        path = self.folder / "cut.keras"
        self.model.save(path)
        path.write_bytes(path.read_bytes()[:-2000])
        return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("bad"))


def days(*numbers):
    return np.datetime64("2000-01-01", "ns") + np.array(numbers) * np.timedelta64(1, "D")


def mixed_calendars():
    return np.concatenate([xr.date_range("2000-01-01", periods=3, calendar=c).values for c in ("noleap", "360_day")])


# what, how, exception, what the message says: the words in their order
BAD = {
    "variable missing": (lambda w: FieldSpec("tt", "t").bind(w.ds), KeyError, ["input 'tt' is not in the Dataset", "Received: area, f", "ds.rename"]),
    "variable misspelt in data to predict": (lambda w: physml.predict(w.model, w.ds.rename(f="forc")), KeyError, ["input 'f' is not in", "Received:", "forc"]),
    "mask missing": (lambda w: SPEC.bind(w.ds.drop_vars("wet")), KeyError, ["mask 'wet' is not in the Dataset", "Received: area"]),
    "text variable": (lambda w: FieldSpec("t", "name").bind(w.but(name=("time", list("abcdefghij")))), TypeError, ["'name' is not numeric", "Expected: floats", "Received:", "astype"]),
    "names repeated": (lambda w: FieldSpec(["t", "t"], "t"), ValueError, ["inputs repeat a name", "Received: ['t']", "remove"]),
    "no targets": (lambda w: FieldSpec("t", []), ValueError, ["FieldSpec has no targets", "targets=['name']"]),
    "offsets no integers": (lambda w: FieldSpec("t", "t", target_offsets=[0.5]), ValueError, ["target_offsets are not steps", "Expected: increasing integers", "Received: [0.5]"]),
    "offsets not increasing": (lambda w: FieldSpec("t", "t", input_offsets=(0, -1)), ValueError, ["input_offsets are not steps", "Received: (0, -1)"]),
    "offsets of a stranger": (lambda w: FieldSpec("t", "t", input_offsets={"u": (0,)}), ValueError, ["name a variable that is no input", "Expected: keys among ('t',)", "Received: ['u']"]),
    "level unknown": (lambda w: FieldSpec("t", "t", levels={"lat": [10.0]}).bind(w.ds), ValueError, ["no level 10.0 along 'lat'", "Expected: labels among [-60.0", "interp"]),
    "level dimension misspelt": (lambda w: FieldSpec("t", "t", levels="lats").bind(w.ds), ValueError, ["levels name 'lats'", "did you mean 'lat'"]),
    "sample dimension missing": (lambda w: FieldSpec("t", "area").bind(w.ds), ValueError, ["'area' has no dimension 'time'", "Received: ('lat', 'lon')", "expand_dims"]),
    "another grid": (lambda w: FieldSpec(["t", "x"], "t").bind(w.but(x=(("time", "station"), np.ones((10, 3))))), ValueError, ["'x' does not lie on the grid", "Expected: space dimensions ('lat', 'lon')", "interpolate"]),
    "mask with time": (lambda w: FieldSpec("t", "t", mask="m").bind(w.but(m=w.ds.t.notnull())), ValueError, ["mask 'm' varies along ['time']", "finite_mask"]),
    "area negative": (lambda w: Batches(w.but(area=-w.ds.area), SPEC)[0], ValueError, ["area 'area' is not a weight", "0 missing, 23 negative"]),
    "area missing": (lambda w: Batches(w.but(area=w.ds.area.where(w.ds.lat > 0)), SPEC)[0], ValueError, ["area 'area' is not a weight", "11 missing"]),
    "mask empty": (lambda w: Batches(w.but(wet=w.ds.wet & False), SPEC)[0], ValueError, ["no valid cell carries weight", "0 valid cells"]),
    "time unsorted": (lambda w: SPEC.bind(w.at(days(0, 2, 1))), ValueError, ["'time' is not strictly increasing", "2000-01-03", "followed by 2000-01-02", "sortby"]),
    "time repeated": (lambda w: SPEC.bind(w.at(days(0, 1, 1))), ValueError, ["not strictly increasing", "at position 2", "drop_duplicates"]),
    "time missing": (lambda w: SPEC.bind(w.at(np.append(days(0, 1), np.datetime64("NaT")))), ValueError, ["has missing labels", "1 missing", "dropna"]),
    "calendars mixed": (lambda w: SPEC.bind(w.ds.isel(time=slice(0, 6)).assign_coords(time=("time", mixed_calendars()))), ValueError, ["mixes calendars", "360_day, noleap", "convert_calendar"]),
    "time without a step": (lambda w: Batches(w.at(days(0, 1, 3, 7, 12)), w.layout), ValueError, ["no constant step", "2000-01-02", "followed by 2000-01-04", "position 2", "reindex"]),
    "training data without a step": (lambda w: Scaling.fit(w.at(days(0, 1, 3, 7, 12)), SPEC), ValueError, ["no constant step", "followed by 2000-01-04"]),
    "another time step": (lambda w: Batches(w.at(days(0, 7, 14)), w.layout), ValueError, ["the step of 'time' is not the one", "Expected: 1 days", "Received: 7 days", "resample"]),
    "finer time step": (lambda w: physml.predict(w.model, w.at(xr.date_range("2000-01-01", periods=4, freq="6h"))), ValueError, ["the step of 'time' is not the one", "Received: 0 days 06:00:00"]),
    "latitude flipped": (lambda w: physml.predict(w.model, w.ds.isel(lat=slice(None, None, -1))), ValueError, ["'lat' is not the one", "Expected: -60 ... 60", "Received: 60 ... -60", "isel(lat=slice(None, None, -1))"]),
    "another region": (lambda w: physml.predict(w.model, w.ds.assign_coords(lon=w.ds.lon - 180)), ValueError, ["'lon' is not the one", "Expected: 0 ... 300", "Received: -180 ... 120"]),
    "another resolution": (lambda w: physml.predict(w.model, w.ds.isel(lon=slice(0, 6, 2))), ValueError, ["lies on another grid", "Expected: {'lon': 6}", "Received: {'lon': 3}", "interpolate"]),
    "dimension missing": (lambda w: physml.predict(w.model, w.ds.isel(lat=0)), ValueError, ["input 't' has other dimensions than before", "Expected: ('time', 'lat', 'lon')"]),
    "dimension renamed": (lambda w: physml.predict(w.model, w.ds.rename(lat="y")), ValueError, ["has other dimensions than before", "Received: ('time', 'y', 'lon')", "rename"]),
    "other units": (lambda w: physml.predict(w.model, w.but(t=w.ds.t.assign_attrs(units="degC"))), ValueError, ["input 't' has other units", "Expected: 'K'", "Received: 'degC'", "pint"]),
    "units unreadable": (lambda w: physml.predict(w.model, w.but(t=w.ds.t.assign_attrs(units="of the sea"))), ValueError, ["units 'of the sea' cannot be read", "CF units", "attrs['units']"]),
    "value missing": (lambda w: physml.predict(w.model, w.hole(np.nan)), ValueError, ["input 't' is missing on valid cells", "Received: 1 cells", "finite_mask"]),
    "value infinite": (lambda w: Batches(w.hole(np.inf, "f"), w.layout, 3)[1], ValueError, ["input 'f' is missing on valid cells at time 2000-01-05", "1 cells missing or infinite"]),
    "value missing in training": (lambda w: Scaling.fit(w.hole(np.nan), SPEC), ValueError, ["Scaling.fit: 't' is missing on valid cells", "1 missing", "fill the gaps"]),
    "value missing without a mask": (lambda w: Scaling.fit(w.ds, FieldSpec("t", "t")), ValueError, ["'t' is missing on valid cells", "there is no mask", "finite_mask"]),
    "constant": (lambda w: Scaling.fit(w.but(f=w.ds.f * 0 + 3.1), SPEC), ValueError, ["'f' does not vary", "mean 3.1", "drop the variable"]),
    "empty selection": (lambda w: Batches(w.ds.isel(time=slice(0, 0)), w.layout), ValueError, ["holds no batch", "Received: 0 samples"]),
    "too short": (lambda w: FieldSpec("t", "t", target_offsets=12).bind(w.ds).pack(w.ds, "targets"), ValueError, ["no sample fits", "Expected: at least 13 steps", "Received: 10 steps"]),
    "split too short": (lambda w: physml.split_time(w.ds, ["2000-01-09"], SPEC), ValueError, ["the validation part holds no whole window", "move the boundaries"]),
    "batch size": (lambda w: physml.predict(w.model, w.ds, batch_size=0), ValueError, ["batch_size is not positive", "Received: 0"]),
    "law on a stranger": (lambda w: FieldModel(w.model.network, scaling=w.scaling, constraints=[NonNegative("temp")]), KeyError, ["NonNegative acts on 'temp', which is no target", "('t',)"]),
    "law over a stranger": (lambda w: Constraints(Conserve("t", "depth")).bind(w.layout), ValueError, ["sums over ['depth'], which the field does not have", "('lat', 'lon')"]),
    "weights missing": (lambda w: Constraints(Conserve("t", "lat", w.ds.area.where(w.ds.lat > 0))).bind(w.layout), ValueError, ["are no weights", "11 of 23 valid cells"]),
    "weights negative": (lambda w: Constraints(Conserve("t", "lat", -w.ds.area)).bind(w.layout), ValueError, ["are no weights", "23 of 23 valid cells missing or negative"]),
    "a law twice": (lambda w: Constraints([Conserve("t", "lat"), Conserve("t", "lat", equals=2)]).bind(w.layout), ValueError, ["the law \"Conserve(name='t', over=('lat',), weights=None, sources=(), equals=2.0)\" follows from", "none is a combination of the others", "drop one"]),
    "source in other units": (lambda w: Constraints(Conserve("t", "lat", sources="f")).bind(w.layout), ValueError, ["source 'f' of Conserve('t')", "'K' per step", "Received: 'W m-2'"]),
    "total out of reach": (lambda w: Constraints([NonNegative("t"), Conserve("t", ("lat", "lon"), equals=-1)]).apply(w.ds, mask="wet"), ValueError, ["conserve_t cannot be satisfied together with the other laws at time=2000-01-01", "Expected: a sum of -1", "10 of 10 samples"]),
    "inputs of a law not given": (lambda w: Constraints(Conserve("t", "lat")).apply(w.ds, mask="wet"), ValueError, ["follow from inputs (t) that were not given", "pass inputs"]),
    "boundary unknown": (lambda w: networks.cnn(w.layout, boundary={"lat": "closed", "lon": "cyclic"}), ValueError, ["the boundary does not fit the grid", "'periodic', 'closed', 'open'", "cyclic"]),
    "boundary missing": (lambda w: networks.build("cnn", w.layout), ValueError, ["network 'cnn' needs 'boundary'", "no default"]),
    "boundary of a head missing": (lambda w: FieldModel(networks.mlp(w.layout, outputs=9), scaling=w.scaling, head=Transport(3, {"lat": "closed"})), ValueError, ["Transport: the boundary does not fit", "each of ('lat', 'lon')"]),
    "network with other channels": (lambda w: FieldModel(networks.mlp(w.layout, outputs=3), scaling=w.scaling), ValueError, ["output does not fit the targets", "Expected: [batch, 4, 6, 1] for t +1", "Received: ['batch', 4, 6, 3]"]),
    "raw tensor of another shape": (lambda w: w.model.predict_on_batch(np.zeros((2, 4, 6, 3), "float32")), ValueError, ["FieldModel takes the inputs as channels", "Expected: [batch, 4, 6, 2] for t, f", "Received: [2, 4, 6, 3]"]),
    "raw tensor without channels": (lambda w: w.model(np.zeros((2, 4, 6), "float32")), ValueError, ["FieldModel takes the inputs as channels", "Received: [2, 4, 6]"]),
    "no scaling and no grid": (lambda w: FieldModel(w.model.network, SPEC), ValueError, ["does not know the grid", "Scaling.fit"]),
    "file missing": (lambda w: physml.predict(str(w.folder / "none.keras"), w.ds), FileNotFoundError, ["no model at", "none.keras", "check the path"]),
    "file cut short": (lambda w: physml.load(w.truncated()), ValueError, ["cannot be read", "whole .keras file"]),
    "roll-out without forcing": (lambda w: physml.rollout(w.model, w.ds.isel(time=[0]), 3), KeyError, ["the input 'f' is no target and has to be given", "Expected: forcing=Dataset with 'f' along 'time'", "Received: no forcing"]),
    "forcing too short": (lambda w: physml.rollout(w.model, w.ds.isel(time=[0]), 11, w.ds), ValueError, ["forcing 'f' is missing at 2000-01-11", "Received: 10 times from 2000-01-01"]),
    "model that is no step": (lambda w: FieldStep(FieldModel(networks.mlp(FieldSpec("f", "t").bind(w.ds), hidden=(2,)), FieldSpec("f", "t").bind(w.ds))), ValueError, ["the model is no time step", "the targets ['t'] are no inputs", "target_offsets=1"]),
    "areas of one latitude": (lambda w: grid.cell_area(w.ds.isel(lat=[0])), ValueError, ["cell areas need a regular grid", "two or more points"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_inputs_are_refused_with_a_message_that_helps(world, name):
    make, kind, words = BAD[name]
    with pytest.raises(kind) as caught:
        make(world)
    message = str(caught.value).replace('\\"', '"').replace("\\'", "'")
    at = -1
    for word in words:
        assert message.find(word, at + 1) > at, f"{word!r} is not said after what comes before it in: {message}"
        at = message.find(word, at + 1)
    assert "Expected: " in message
    assert "Received: " in message
    assert "Remedy: " in message


def test_the_table_is_long_enough():
    assert len(BAD) >= 25
    assert keras.config.floatx() == "float32"
