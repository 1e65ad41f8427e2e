"""Classes come back as CF flags with probabilities; what is no class is refused by name; weights balance the classes."""

import keras
import numpy as np
import pytest
import xarray as xr

import physml
from physml import Batches, FieldModel, FieldSpec, Scaling, networks, predict
from physml.heads import Classes, Gaussian
from physml.model import load

SPEC = FieldSpec("x", "regime", mask="wet", area="area")
FLAGS = {"flag_values": np.int8([1, 2, 4]), "flag_meanings": "cold mild hot", "long_name": "regime"}


@pytest.fixture
def flagged(sea):
    number = np.select([sea.x < -0.5, sea.x < 0.6], [1, 2], 4).astype("int8")
    number[:, ~sea.wet.values] = -1
    return sea.assign(regime=(sea.x.dims, number, FLAGS))


def test_they_come_back_as_flags_with_probabilities_that_sum_to_one(flagged, untrained, tmp_path):
    model = untrained(flagged, SPEC, Classes())
    assert model.network.output_shape[-1] == 3
    out = predict(model, flagged)
    assert out.regime_probability.dims == ("time", "category", "lat", "lon")
    assert out.category.values.tolist() == ["cold", "mild", "hot"]
    total = out.regime_probability.sum("category")
    np.testing.assert_allclose(total.where(flagged.wet), xr.ones_like(total).where(flagged.wet), atol=2e-7)
    likely = np.array([1, 2, 4])[out.regime_probability.fillna(0).argmax("category")]
    np.testing.assert_array_equal(out.regime, np.where(flagged.wet, likely, np.nan))
    assert len(np.unique(likely[:, flagged.wet])) > 1
    assert out.regime.attrs["flag_meanings"] == "cold mild hot"
    assert out.regime.attrs["flag_values"].dtype == "int8"
    model.save(tmp_path / "m.keras")
    again = predict(load(tmp_path / "m.keras"), flagged.chunk(time=6))
    xr.testing.assert_allclose(again.compute(), out)


def test_a_file_holds_integers_with_a_fill_value_and_opens_as_it_was(flagged, untrained, tmp_path):
    out = predict(untrained(flagged, SPEC, Classes()), flagged)[["regime"]]
    out.to_netcdf(tmp_path / "out.nc")
    with xr.open_dataset(tmp_path / "out.nc", mask_and_scale=False) as raw:
        assert raw.regime.dtype == "int8"
        assert raw.regime.attrs["_FillValue"] == -128
        assert raw.regime.attrs["flag_values"].tolist() == [1, 2, 4]
    with xr.open_dataset(tmp_path / "out.nc") as file:
        np.testing.assert_array_equal(file.regime, out.regime)


@pytest.mark.parametrize("ending", ["nc", pytest.param("zarr", marks=pytest.mark.long)])
def test_a_prediction_written_region_by_region_holds_the_same_flags(flagged, untrained, tmp_path, ending):
    model = untrained(flagged, SPEC, Classes())
    path = physml.predict_to(model, flagged, tmp_path / f"out.{ending}", batch_size=10)
    reader = {"engine": "zarr", "consolidated": False} if ending == "zarr" else {"engine": "netcdf4"}
    with xr.open_dataset(path, mask_and_scale=False, **reader) as raw:
        assert raw.regime.dtype == "int8"
        assert raw.regime.attrs["_FillValue"] == -128
        assert raw.regime_probability.dtype == "float32"
    with xr.open_dataset(path, **reader) as file:
        np.testing.assert_array_equal(file.regime, predict(model, flagged).regime)
        assert np.isnan(file.regime_probability.where(~flagged.wet)).all()


def test_tiles_that_overlap_answer_the_class_of_their_mean_probability(flagged):
    ds = flagged.assign(regime=flagged.regime.clip(min=1).assign_attrs(FLAGS))
    scaling = Scaling.fit(ds, FieldSpec("x", "regime"))
    start = keras.Input((None, None, 1))
    bent = keras.initializers.RandomNormal(stddev=2, seed=0)
    end = keras.layers.Conv2D(3, 3, padding="same", kernel_initializer=bent)(start)
    model = FieldModel(keras.Model(start, end), scaling=scaling, head=Classes())
    options = {"tiles": {"lat": 2, "lon": 3}, "halo": {"lat": 1}, "blend": True}
    out = predict(model, ds, **options)
    assert (out.regime.dtype, out.regime.encoding["dtype"]) == ("float32", "int8")
    likely = out.regime_probability.argmax("category")
    np.testing.assert_array_equal(out.regime, np.array([1, 2, 4])[likely])
    np.testing.assert_allclose(out.regime_probability.sum("category"), 1, rtol=1e-6)


def test_a_target_may_not_have_the_name_of_an_answer(flagged, untrained):
    ds = flagged.assign(regime_probability=flagged.regime, z_std=flagged.x, z=flagged.x)
    with pytest.raises(ValueError, match="would answer 'regime_probability', which is the name of a target"):
        untrained(ds, FieldSpec("x", ["regime", "regime_probability"], mask="wet"), Classes(values=[1, 2, 4]))
    with pytest.raises(ValueError, match="would answer 'z_std', which is the name of a target"):
        untrained(ds, FieldSpec("x", ["z", "z_std"], mask="wet"), Gaussian())


def test_two_classes_take_one_channel(flagged, untrained):
    ds = flagged.assign(hot=(flagged.x > 0.3))
    spec = FieldSpec("x", "hot", mask="wet")
    model = untrained(ds, spec, Classes(labels=["cold", "hot"]))
    assert model.network.output_shape[-1] == 1
    out = predict(model, ds)
    p = out.hot_probability.sel(category="hot")
    np.testing.assert_allclose(out.hot_probability.sel(category="cold") + p, xr.ones_like(p).where(ds.wet), atol=1e-7)
    np.testing.assert_array_equal(out.hot, (p > 0.5).where(ds.wet))


def test_one_hot_targets_are_the_same_as_numbers(flagged, untrained):
    names = ["cold", "mild", "hot"]
    hot = flagged.assign({n: (flagged.regime == v).astype("int8") for n, v in zip(names, (1, 2, 4), strict=True)})
    spec = FieldSpec("x", names, mask="wet", area="area")
    a = untrained(flagged, SPEC, Classes())
    b = untrained(hot, spec, Classes(onehot=names, name="kind"), method={n: "none" for n in names})
    out = predict(b, hot)
    np.testing.assert_array_equal(out.kind_probability, predict(a, flagged).regime_probability)
    np.testing.assert_array_equal(np.unique(out.kind.values[np.isfinite(out.kind.values)]), [0, 1, 2])
    losses = []
    for model, ds, s in ((a, flagged, SPEC), (b, hot, spec)):
        model.compile(metrics=["accuracy"])
        missing = "mask" if model is b else "raise"
        losses.append(model.evaluate(Batches(ds, s, 24, missing=missing), verbose=0))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_the_regime_of_a_day_is_predicted_from_maps(flagged):
    day = xr.DataArray((np.arange(24) % 3).astype("int8"), dims="time", attrs={"flag_values": [0, 1, 2], "flag_meanings": "a b c"})  # fmt: skip
    ds = flagged.assign(day=day)
    spec = FieldSpec("x", "day", mask="wet")
    scaling = Scaling.fit(ds, spec)
    network = keras.Sequential([keras.Input((4, 3, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model = FieldModel(network, scaling=scaling, head=Classes())
    model.compile("adam", metrics=["accuracy"])
    model.fit(Batches(ds, spec, 12), epochs=1, verbose=0)
    out = predict(model, ds)
    assert out.day.dims == ("time",)
    assert out.day_probability.dims == ("time", "category")
    assert set(np.unique(out.day)) <= {0, 1, 2}
    with pytest.raises(ValueError, match=r"one class for the whole map.*Expected: a network that gives \[batch, 3\]"):
        FieldModel(networks.mlp(scaling.layout, outputs=3), scaling=scaling, head=Classes())


def test_a_value_that_is_no_class_stops_the_training_by_name(flagged):
    spoilt = flagged.assign(regime=flagged.regime.where((flagged.x < 0.6) | ~flagged.wet, 7).astype("int8").assign_attrs(FLAGS))  # fmt: skip
    scaling = Scaling.fit(spoilt, SPEC)
    model = FieldModel(networks.mlp(scaling.layout, outputs=3, hidden=()), scaling=scaling, head=Classes())
    model.compile("sgd")
    for ds in (spoilt, spoilt.chunk(time=8)):
        with pytest.raises(ValueError, match=r"target 'regime' holds values that are no class.*among 1, 2, 4.*7 on \d+ cells"):  # fmt: skip
            model.fit(Batches(ds, SPEC, 24), verbose=0)
    x, y, w = Batches(spoilt, SPEC, 24)[0]
    assert np.isnan(model.evaluate(x, y, sample_weight=w, verbose=0))


def test_balanced_weights_are_one_over_the_share_of_the_area(flagged):
    head = Classes(class_weights="balanced").fit(flagged.chunk(time=7), SPEC)
    area = flagged.area.where(flagged.wet, 0)
    share = [float(((flagged.regime == v) * area).sum() / (24 * area.sum())) for v in (1, 2, 4)]
    assert list(head.class_weights) == ["cold", "mild", "hot"]
    np.testing.assert_allclose(list(head.class_weights.values()), 1 / (3 * np.array(share)), rtol=1e-6)
    assert np.dot(share, list(head.class_weights.values())) == pytest.approx(1)
    assert physml.heads.make_head({"type": "Classes", **head.get_config()}).class_weights == head.class_weights
    with pytest.raises(ValueError, match="balanced weights are not known yet"):
        Classes(class_weights="balanced").bind(SPEC.bind(flagged))
    with pytest.raises(ValueError, match="'hot' does not occur in the training data"):
        Classes(class_weights="balanced").fit(flagged.assign(regime=flagged.regime.clip(max=2).assign_attrs(FLAGS)), SPEC)  # fmt: skip
    with pytest.raises(ValueError, match=r"values that are no class, on valid cells.*% of the area"):
        Classes(values=[1, 2], labels=["cold", "mild"], class_weights="balanced").fit(flagged, SPEC)


def test_missing_targets_count_for_no_class(flagged):
    holes = flagged.assign(regime=flagged.regime.where(flagged.x < 1).assign_attrs(FLAGS))
    weights = Classes(class_weights="balanced").fit(holes, SPEC).class_weights
    area = flagged.area.where(flagged.wet & holes.regime.notnull(), 0)
    share = np.array([float((area * (holes.regime == v)).sum() / area.sum()) for v in (1, 2, 4)])
    np.testing.assert_allclose(list(weights.values()), 1 / (3 * share), rtol=1e-6)


def test_a_class_that_never_varies_can_be_a_target(flagged):
    ds = flagged.assign(regime=flagged.regime.where(~flagged.wet, 2).astype("int8").assign_attrs(FLAGS))
    scaling = Scaling.fit(ds, SPEC)
    assert (scaling.mean["regime"], scaling.std["regime"]) == (0, 1)
    with pytest.raises(ValueError, match="'plain' does not vary"):
        Scaling.fit(ds.assign(plain=ds.regime.drop_attrs()), FieldSpec("x", "plain", mask="wet"))


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (Classes(values=[1, 2], labels=["a"]), "numbers and names of the classes of 'regime' do not fit"),
        (Classes(values=[1, np.nan]), r"'regime' do not fit.*Received: values \[1, nan\]"),
        (Classes(class_weights={"cold": 1.0}), r"class_weights do not fit.*each of cold, mild, hot"),
        (Classes(onehot=["cold", "hot"]), "onehot does not name the targets"),
        (Classes(dim="lat"), "the head would add the dimension 'lat'"),
    ],
)
def test_classes_that_do_not_fit_are_refused(flagged, head, words):
    layout = SPEC.bind(flagged)
    with pytest.raises(ValueError, match=words):
        (head.bind(layout), head.answers(layout))


def test_classes_that_nobody_names_are_refused(flagged):
    bare = flagged.assign(regime=flagged.regime.drop_attrs())
    with pytest.raises(ValueError, match=r"the numbers of the classes of 'regime' are not told.*flag_values and flag_meanings \(CF\)"):  # fmt: skip
        Classes().channels(SPEC.bind(bare))
    masks = flagged.assign(regime=flagged.regime.assign_attrs(flag_masks=[1, 2]))
    with pytest.raises(ValueError, match="has flag_masks"):
        Classes().channels(SPEC.bind(masks))
    with pytest.raises(ValueError, match="a class does not change by an increment"):
        ds = flagged.assign(regime=flagged.regime.astype("float32").assign_attrs(FLAGS))
        spec = FieldSpec(["x", "regime"], "regime", target_offsets=1, mask="wet")
        scaling = Scaling.fit(ds, spec)
        FieldModel(networks.mlp(scaling.layout, outputs=3), scaling=scaling, head=Classes(), increment=True)
