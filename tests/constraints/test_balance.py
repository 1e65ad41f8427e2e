"""Laws by name and unit: terms add up in their units, over what is named; what does not fit is refused; laws are saved and reported."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import xarray as xr
from keras import ops

import physml
from physml import (
    BlockMean,
    Bounds,
    Budget,
    Closure,
    Conserve,
    ConstraintLayer,
    Constraints,
    FieldModel,
    FieldSpec,
    Monotone,
    NonNegative,
    Scaling,
    Simplex,
    _backend,
)

N, LAT, LON, LEVELS = 5, 4, 6, 3


@pytest.fixture
def air():
    """Columns of air over a map with land, with fluxes in several units."""
    rng = np.random.default_rng(0)

    def field(units, *, deep=False, low=0.0):
        dims = ("time", "lat", "lon", "level") if deep else ("time", "lat", "lon")
        shape = (N, LAT, LON, LEVELS) if deep else (N, LAT, LON)
        return dims, rng.uniform(low, low + 1, shape), {"units": units} if units else {}

    ds = xr.Dataset(
        {
            "heating": field("K s-1", deep=True, low=-0.5),
            "latent": field("W m-2"),
            "sensible": field("W m-2"),
            "net": field("W m-2"),
            "rain": field("kg m-2 s-1"),
            "rain_mm": field("mm d-1"),
            "heat": field("J m-2"),
            "kilo": field("kW m-2"),
            "bare": field(None),
            "dp": field("Pa", deep=True, low=1e4),
            "share": field("1", deep=True),
            "solar": (("time",), rng.uniform(1, 2, N), {"units": "W"}),
            "celsius": field("degC"),
            "kelvin": field("K", low=273.0),
        },
        {
            "time": xr.date_range("2000-01-01", periods=N),
            "lat": np.arange(LAT) * 5.0,
            "lon": np.arange(LON) * 5.0,
            "level": [1.0, 2.0, 3.0],
        },
    )
    wet = np.ones((LAT, LON), bool)
    wet[0, :2] = False
    ds["wet"] = (("lat", "lon"), wet)
    ds["area"] = (("lat", "lon"), rng.uniform(1, 2, (LAT, LON)), {"units": "m2"})
    ds["depth_of"] = (("level",), [1.0, 2, 4], {"units": "m"})
    ds["basin"] = (("lat", "lon"), np.where(wet, np.arange(LON) // 3, np.nan))
    return ds


def bind(ds, laws, inputs, targets, **options):
    laws = laws if isinstance(laws, Constraints) else Constraints(laws)
    levels = "level" if {"heating", "dp", "share"} & {*inputs, *targets} else None
    return laws, laws.bind(FieldSpec(inputs, targets, levels=levels, mask="wet", **options).bind(ds))


def sides(law, layout, ds):
    """Return the residual of a law in the data, as an array."""
    y, x = (layout.pack(ds, role).fillna(0).values for role in ("targets", "inputs"))
    with _backend.float64():
        parts = [layout.split(ops.convert_to_tensor(v), role) for v, role in ((y, "targets"), (x, "inputs"))]
        return np.asarray(law.residual(*parts, layout))


def test_terms_are_converted_to_the_units_of_the_first(air):
    law = Budget({"latent": 1, "kilo": -1})
    _, layout = bind(air, law, ["net"], ["latent", "kilo"])
    expected = (air.latent - 1000 * air.kilo).where(air.wet, 0.0)
    np.testing.assert_allclose(sides(law, layout, air)[..., 0], expected, rtol=1e-6)
    law = Budget({"latent": 1, "rain": (-2.5e6, "J kg-1")})
    _, layout = bind(air, law, ["net"], ["latent", "rain"])
    np.testing.assert_allclose(
        sides(law, layout, air)[..., 0], (air.latent - 2.5e6 * air.rain).where(air.wet, 0.0), rtol=1e-6
    )
    law = Budget({"kelvin": 1, "celsius": -1}, equals=273.15)
    _, layout = bind(air, law, ["net"], ["kelvin", "celsius"])
    np.testing.assert_allclose(
        sides(law, layout, air)[..., 0], (air.kelvin - air.celsius - 273.15).where(air.wet, 0.0), atol=1e-10
    )


def test_a_column_is_weighed_by_the_mass_of_its_layers_and_meets_the_fluxes_at_its_ends(air):
    law = Budget({"heating": (1004.0, "J kg-1 K-1"), "sensible": -1, "net": -1}, "level", "dp/g", name="enthalpy")
    _, layout = bind(air, law, ["dp", "net"], ["heating", "sensible"])
    column = (1004.0 * air.heating * air.dp / 9.80665).sum("level") - air.sensible - air.net
    np.testing.assert_allclose(sides(law, layout, air)[..., 0], column.where(air.wet, 0.0), rtol=1e-10, atol=1e-9)


def test_a_number_for_the_whole_map_counts_once(air):
    law = Budget({"latent": 1, "solar": -1}, ("lat", "lon"), "area")
    _, layout = bind(air, law, ["solar", "net"], ["latent"])
    expected = (air.latent * air.area).where(air.wet).sum(["lat", "lon"]) - air.solar
    np.testing.assert_allclose(sides(law, layout, air).ravel(), expected, rtol=1e-12)


def test_basins_and_blocks(air):
    law = Budget(["latent"], groups="basin", weights="area")
    _, layout = bind(air, law, ["net"], ["latent"])
    expected = (air.latent * air.area).where(air.wet).groupby(air.basin).sum().transpose("time", "basin")
    np.testing.assert_allclose(sides(law, layout, air).reshape(N, 2), expected, rtol=1e-12)
    law = Budget(["latent"], blocks={"lat": 2, "lon": 3}, weights="area")
    _, layout = bind(air, law, ["net"], ["latent"])
    expected = (air.latent * air.area).where(air.wet, 0.0).coarsen(lat=2, lon=3).sum()
    np.testing.assert_allclose(sides(law, layout, air)[..., 0], expected, rtol=1e-12)


def test_block_means_leave_masked_cells_out(air):
    air = air.assign(coarse=air.latent * 0 + 0.7)
    air["coarse"].attrs = air.latent.attrs
    laws, _ = bind(
        air,
        [BlockMean("latent", "coarse", {"lat": 2, "lon": 3}, "area"), Bounds("latent", 0, 1)],
        ["coarse"],
        ["latent"],
    )
    moved = laws.apply(air[["latent", "wet", "area"]], air[["coarse", "wet", "area"]], mask="wet")
    weighed = (moved.latent * air.area).where(air.wet).coarsen(lat=2, lon=3).sum()
    mean = weighed / air.area.where(air.wet).coarsen(lat=2, lon=3).sum()
    np.testing.assert_allclose(mean.dropna("lon"), 0.7, rtol=1e-12)
    assert moved.latent.min() >= 0 and moved.latent.max() <= 1
    np.testing.assert_array_equal(moved.latent.where(~air.wet), air.latent.where(~air.wet))


def test_fractions_along_a_level_dimension(air):
    laws, _layout = bind(air, [Simplex("share", over="level")], ["net"], ["share"])
    moved = laws.apply(air[["share", "wet"]], mask="wet", levels="level")
    np.testing.assert_allclose(
        moved.share.where(air.wet).sum("level", skipna=False).values[:, air.wet.values], 1.0, rtol=1e-12
    )
    assert moved.share.min() >= 0


@pytest.mark.parametrize(
    ("laws", "words"),
    [
        (Budget(["latent", "heat"]), r"units of its terms do not add up.*watt.*meter.*Received: 'joule / meter \*\* 2' for 'heat'"),
        (Budget(["latent", "bare"]), r"do not add up.*Received: None for 'bare'.*attrs\['units'\]"),
        (Budget(["latent", "sensibel"]), r"'sensibel' is neither target nor input; did you mean 'sensible'\?"),
        (Budget(["net", "solar"]), r"Budget 'net_solar' constrains no output"),
        (Budget(["latent"], over="lev"), r"sums over \['lev'\], which its terms do not have"),
        (Budget(["latent"], ("lat", "lon"), "aera"), r"'aera' is not known; did you mean 'area'\?"),
        (Budget(["latent"], ("lat", "lon"), "area + 1"), r"an expression cannot be read.*joined by \* and /"),
        (Budget(["latent"], blocks={"lat": 3}), r"blocks do not fit the grid along 'lat'.*divisor of the 4 cells"),
        (Budget(["latent"], ("lat", "lon"), "hole"), r"coefficient of 'latent' is missing.*1 of 22 valid cells"),
        (Closure("latent", sources="net", sinks="net2"), r"'net2' is neither target nor input; did you mean 'net'"),
        (Bounds("latent", upper="heat"), r"Bounds\('latent'\): 'heat' is in other units.*'W m-2'"),
        (Bounds("latent", upper="nett"), r"'nett' at offset 0 is not among the inputs"),
        (Monotone("latent", "level"), r"runs along 'level', which the field does not have"),
        ([Bounds("latent", 2), Bounds("latent", None, 1)], r"the bounds of 'latent' leave no value"),
        ([Bounds("latent", upper="sensible"), Bounds("sensible", upper="kilo")], r"in other units"),
        ([Bounds("latent", upper="sensible"), Monotone("sensible", "lat")], r"'sensible' stands in two orders"),
        (
            [Budget(["latent", "sensible"], equals=1), Budget({"latent": 2, "sensible": 2}, equals=2, name="twice")],
            r"the law 'twice' follows from \['latent_sensible'\]",
        ),
    ],
)  # fmt: skip
def test_laws_that_do_not_fit_are_refused(air, laws, words):
    air["hole"] = air.area.where(air.area != air.area.values[2, 2])
    with pytest.raises((ValueError, KeyError), match=words):
        bind(air, laws, ["net", "solar"], ["latent", "sensible", "heat", "bare", "kilo"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Bounds("a"), r"Bounds\('a'\) bounds nothing"),
        (lambda: Bounds("a", 2, 1), r"Bounds\('a'\) leaves no value.*lower=2"),
        (lambda: Budget({}), r"Budget has no terms"),
        (lambda: Closure("a", sources="b", sinks="b"), r"'b' occurs twice"),
        (lambda: Simplex("a"), r"Simplex\('a'\) has a single part"),
        (lambda: Constraints([], gradient="none"), r"gradient is not understood.*'exact'"),
        (lambda: Constraints.from_config([{"type": "Bound"}]), r"unknown constraint 'Bound'; did you mean 'Bounds'"),
    ],
)
def test_arguments_that_make_no_law_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_metric_and_exclusion_are_checked(air):
    for options, words in (
        ({"metric": {"latnet": 1}}, r"metric of 'latnet', which is no target"),
        ({"metric": {"latent": 0}}, r"metric of 'latent' is no cost"),
        ({"metric": {"latent": "basin"}}, r"metric 'basin' of 'latent' is no cost.*cells zero"),
        ({"exclude": {"latent": {"level": [1]}}}, r"'latent' has no such levels along 'level'"),
    ):
        with pytest.raises((ValueError, KeyError), match=words):
            bind(air, Constraints(Budget(["latent", "sensible"]), **options), ["net"], ["latent", "sensible"])


EVERY = [
    Budget({"heating": (1004.0, "J kg-1 K-1"), "sensible": -1.0}, "level", "dp/g", name="enthalpy"),
    Closure("net", sources={"solar_flux": "2*area"}, sinks=("latent", "sensible"), over=("lat", "lon")),
    Bounds("rain", 0.0, "latent"),
    Simplex(("tree", "grass"), total="land"),
    Simplex("share", over="level"),
    Monotone("rho", "level", increasing=False),
    BlockMean("fine", "coarse", {"lat": 2}, "area"),
    Budget(["latent"], groups="basin", weights="area", equals={"net": 1.0}),
    NonNegative("latent"),
    Conserve("latent", "lat", equals=2.0),
]


def test_every_law_survives_its_config():
    laws = Constraints(EVERY, metric={"rain": 2.0}, exclude={"share": {"level": [1.0]}}, gradient="leaky", settled=64)
    again = Constraints.from_config(json.loads(json.dumps(laws.to_config())))
    assert repr(again) == repr(laws)
    plain = Constraints.from_config(json.loads(json.dumps(Constraints(EVERY).to_config())))
    assert [type(law) for law in plain] == [type(law) for law in EVERY]
    assert [json.dumps(law.get_config()) for law in plain] == [json.dumps(law.get_config()) for law in EVERY]


def model_with_laws(air, laws, **options):
    spec = FieldSpec(["net", "dp"], ["heating", "latent", "sensible"], levels="level", mask="wet")
    scaling = Scaling.fit(air, spec)
    channels = len(scaling.layout.inputs), len(scaling.layout.targets)
    keras.utils.set_random_seed(0)
    start = keras.Input((LAT, LON, channels[0]), dtype=options.pop("network", "float32"))
    network = keras.Model(start, keras.layers.Conv2D(channels[1], 1, dtype=options.pop("policy", "float32"))(start))
    return FieldModel(network, scaling=scaling, constraints=laws, **options)


JOINT = [
    Budget({"heating": (1004.0, "J kg-1 K-1"), "sensible": -1, "net": -1}, "level", "dp/g", name="enthalpy"),
    Closure("net", sources="latent", sinks="sensible"),
    NonNegative("latent"),
]


def residual_size(model, ds):
    y = physml.predict(model, ds)
    enthalpy = (1004.0 * y.heating.astype("float64") * ds.dp / 9.80665).sum("level") - y.sensible - ds.net
    closure = ds.net - y.latent.astype("float64") + y.sensible
    return (
        float(np.abs(enthalpy.where(ds.wet)).max()),
        float(np.abs(closure.where(ds.wet)).max()),
        float(y.latent.min()),
    )


@pytest.mark.long
@pytest.mark.parametrize(("policy", "jit"), [("float32", False), ("mixed_float16", True)])
def test_a_model_learns_under_joint_laws_and_is_one_file(air, tmp_path, policy, jit):
    model = model_with_laws(air, JOINT, policy=policy)
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=jit)
    spec = model.layout.spec
    before = model.evaluate(physml.Batches(air, spec, 5), verbose=0)
    model.fit(physml.Batches(air, spec, 5), epochs=3, verbose=0)
    assert model.evaluate(physml.Batches(air, spec, 5), verbose=0) < before
    enthalpy, closure, least = residual_size(model, air)
    size = float((1004.0 * physml.predict(model, air).heating * air.dp / 9.80665).max())
    assert enthalpy < 1e-7 * size and closure < 1e-6 and least >= 0, (enthalpy / size, closure)
    model.save(tmp_path / "model.keras")
    again = physml.load(tmp_path / "model.keras")
    x = model.layout.pack(air, "inputs").fillna(0).values.astype("float32")
    np.testing.assert_array_equal(again.predict_on_batch(x), model.predict_on_batch(x))
    assert [type(law) for law in again.constraints] == [type(law) for law in JOINT]


def test_the_layer_holds_joint_laws_in_a_plain_model(air, tmp_path):
    spec = FieldSpec(["net"], ["latent", "sensible"], mask="wet")
    layout = spec.bind(air)
    start = keras.Input((LAT, LON, 1))
    out = keras.layers.Conv2D(2, 1)(start)
    laws = Constraints([Closure("net", sources="latent", sinks="sensible"), Bounds("latent", 0, 5)], gradient="leaky")
    model = keras.Model(start, ConstraintLayer(laws, layout, name="laws")(out, start))
    x = layout.pack(air, "inputs").fillna(0).values.astype("float32")
    y = model.predict_on_batch(x)
    gap = (x[..., 0] - y[..., 0] + y[..., 1])[:, air.wet.values]
    assert np.abs(gap).max() < 5e-7 and y[..., 0].min() >= 0
    model.save(tmp_path / "plain.keras")
    again = keras.saving.load_model(tmp_path / "plain.keras")
    np.testing.assert_array_equal(again.predict_on_batch(x), y)
    assert again.get_layer("laws").constraints.gradient == "leaky"


def test_check_says_whether_data_close_and_whether_they_could(air):
    spec = FieldSpec(["net"], ["latent", "sensible"], mask="wet")
    laws = Constraints(
        [Closure("net", sources="latent", sinks="sensible"), Bounds("latent", 0, 1), Bounds("sensible", 0, 1)]
    )
    found = laws.check(air, spec)
    gap = np.abs(air.net - air.latent + air.sensible).where(air.wet).max(["lat", "lon"])
    np.testing.assert_allclose(found.closure_net_latent_sensible, gap, rtol=1e-12)
    assert found.closure_net_latent_sensible.attrs["units"] == "watt / meter ** 2"
    assert found.reachable_closure_net_latent_sensible.all()
    far = laws.check(air.assign(net=air.net + 3 * (air.time == air.time[1])), spec)
    assert far.reachable_closure_net_latent_sensible.values.tolist() == [True, False, True, True, True]


def test_apply_names_what_cannot_be_where_and_by_how_much(air):
    laws = Constraints(
        [Closure("net", sources="latent", sinks="sensible"), Bounds("latent", 0, 1), Bounds("sensible", 0, 1)]
    )
    known = air[["net", "wet"]].copy(deep=True)
    known.net[3, 2, 4] = 2.5
    words = (
        r"closure_net_latent_sensible cannot be satisfied together with the other laws at time=2000-01-04.*lat=10.0, lon=20.0"
        r".*1.5 away; missed in 1 of 5 samples"
    )
    with pytest.raises(ValueError, match=words):
        laws.apply(air[["latent", "sensible", "wet"]], known, mask="wet")


def test_report_maps_what_is_violated_and_what_each_law_moves(air, nothing_computed):
    laws = Constraints([Closure("net", sources="latent", sinks="sensible"), NonNegative("latent")])
    outputs = air[["latent", "sensible", "wet"]].assign(latent=(air.latent - 0.4).assign_attrs(air.latent.attrs))
    lazy = outputs.chunk(time=2).assign(wet=outputs.wet)
    with nothing_computed():
        found = laws.report(lazy, air[["net", "wet"]].chunk(time=2).assign(wet=air.wet), mask="wet")
    found = found.compute()
    gap = np.abs(air.net - outputs.latent + air.sensible).where(air.wet, 0.0)
    np.testing.assert_allclose(found.map_closure_net_latent_sensible_before, gap.mean("time"), rtol=1e-10)
    np.testing.assert_allclose(found.closure_net_latent_sensible_before, gap.max(["lat", "lon"]), rtol=1e-10)
    assert found.closure_net_latent_sensible_after.max() < 1e-12
    assert found.nonnegative_latent_before.max() > 0.1 and found.nonnegative_latent_after.max() == 0
    clipped = np.minimum(outputs.latent, 0).where(air.wet, 0)
    alone = (clipped**2).mean(["lat", "lon"]) ** 0.5
    np.testing.assert_allclose(found.moved_latent_by_nonnegative_latent, alone, rtol=1e-6)
    assert "moved_sensible_by_nonnegative_latent" not in found
    assert (found.moved_latent > 0).all()
