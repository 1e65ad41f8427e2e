"""An explained prediction is the sum of what its groups contribute, whoever makes it and however it is computed."""

import subprocess
import sys

import dask
import keras
import numpy as np
import pytest
import xarray as xr

from physml.explain import (
    Exact,
    Explainer,
    PairedPermutations,
    area_mean,
    box_mean,
    cell,
    climatology,
    field,
    groups,
    interval,
    on_tensors,
    samples,
    zero,
)
from physml.fields import FieldSpec

COEF = np.array([2.0, -1.0, 0.5])
HALVES = {"south": {"lat": slice(-90, 0)}, "north": {"lat": slice(0, 90)}}


@on_tensors
def linear(x):
    return keras.ops.sum(x * keras.ops.cast(COEF, x.dtype), -1, keepdims=True)


@on_tensors
def product(x):
    return x[..., :1] + x[..., 1:2] * x[..., 2:]


@pytest.fixture(scope="module")
def cnn():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((4, 6, 3)),
            keras.layers.Conv2D(8, 3, padding="same", activation="gelu"),
            keras.layers.LayerNormalization(),
            keras.layers.Conv2D(1, 3, padding="same"),
        ]
    )


def recorded(model, shapes):
    def call(x):
        shapes.append(tuple(x.shape))
        return model.function(x)

    return on_tensors(call)


def test_a_linear_model_is_explained_by_anomaly_times_coefficient(ds, layout):
    base = climatology(ds, layout)
    result = Explainer(linear, base, groups(layout), field("tracer"), layout=layout).shapley(ds)
    for i, name in enumerate(("tracer", "u", "v")):
        expected = COEF[i] * (ds[name].astype("float64") - ds[name].astype("float64").mean("time"))
        np.testing.assert_allclose(result.attribution.sel(group=name), expected, atol=2e-6)
    assert not result.stderr.where(ds.wet, 0).any()


def test_an_additive_function_gives_each_group_its_part_and_groups_the_sum_of_singles(ds, layout):
    @on_tensors
    def additive(x):
        return keras.ops.sin(x[..., :1]) + x[..., 1:2] ** 2 + keras.ops.exp(x[..., 2:])

    single = Explainer(additive, zero(layout), groups(layout), area_mean(), layout=layout).shapley(ds)
    for name, part in (("tracer", np.sin), ("u", np.square), ("v", np.expm1)):
        expected = part(ds[name].astype("float64")).weighted(ds.cell_area).mean(("lat", "lon"))
        np.testing.assert_allclose(single.attribution.sel(group=name), expected, atol=1e-6)
    together = groups(layout).merge({"currents": ["u", "v"]})
    merged = Explainer(additive, zero(layout), together, area_mean(), layout=layout).shapley(ds)
    np.testing.assert_allclose(
        merged.attribution.sel(group="currents"), single.attribution.sel(group=["u", "v"]).sum("group"), atol=1e-6
    )


def test_groups_are_players_not_sums_of_singles(ds, layout):
    @on_tensors
    def triple(x):
        return x[..., :1] * x[..., 1:2] * x[..., 2:]

    single = Explainer(triple, zero(layout), groups(layout), cell(lat=45, lon=0), layout=layout).shapley(ds)
    together = groups(layout).merge({"currents": ["u", "v"]})
    merged = Explainer(triple, zero(layout), together, cell(lat=45, lon=0), layout=layout).shapley(ds)
    np.testing.assert_allclose(single.attribution, single.prediction.values / 3 * np.ones((3, 1)), rtol=1e-5)
    np.testing.assert_allclose(merged.attribution, merged.prediction.values / 2 * np.ones((2, 1)), rtol=1e-5)


def test_regions_of_a_local_model_matter_only_where_they_are(ds, layout):
    result = Explainer(product, zero(layout), groups(layout, box=HALVES), layout=layout).shapley(ds)
    south = result.attribution.sel(group=result.group_region == "south")
    np.testing.assert_allclose(south.sel(lat=slice(0, 90)), 0, atol=1e-14)
    assert abs(south.sel(lat=-45)).min() > 0


@pytest.mark.parametrize("target", [None, box_mean("tracer", lat=slice(-90, 0))])
@pytest.mark.parametrize("method", ["exact", PairedPermutations(4, seed=2)])
def test_contributions_add_up_for_a_float32_network(cnn, ds, layout, target, method):
    base = climatology(ds, layout, by="month")
    result = Explainer(cnn, base, groups(layout, box=HALVES), target, layout=layout).shapley(ds, method)
    scale = abs(result.prediction).max()
    assert abs(result.residual).max() <= 1e-6 * scale
    whole = result.base_value + result.attribution.sum("group") + result.residual
    np.testing.assert_allclose(whole, result.prediction, atol=1e-12)
    direct = cnn.predict_on_batch(layout.pack(ds, "inputs").fillna(0).values)
    if target is None:
        np.testing.assert_allclose(
            result.prediction, ds.wet.where(ds.wet).values * direct[..., 0], rtol=2e-5, atol=1e-6
        )


@pytest.mark.parametrize("target", [None, area_mean()])
def test_batch_size_and_chunks_do_not_change_the_result(cnn, ds, layout, target):
    explainer = Explainer(cnn, climatology(ds, layout, by="month"), groups(layout, box=HALVES), target, layout=layout)
    ds = ds.isel(time=slice(0, 5))
    reference = explainer.shapley(ds)
    for other in (
        explainer.shapley(ds, batch_rows=17),
        explainer.shapley(ds, batch_rows=500),
        explainer.shapley(ds.chunk(time=1)),
        explainer.shapley(ds.chunk(time=3, lat=2)),
    ):
        xr.testing.assert_allclose(other.drop_attrs(), reference.drop_attrs(), rtol=0, atol=1e-6)
        assert other.attrs["rows"] == 5 + 5 * 63  # the baseline of five months


def test_lazy_samples_are_read_once_and_only_those_asked(cnn, ds, layout):
    reads = []

    def read(block, info):
        reads.append(info[0]["array-location"][0])
        return block

    lazy = ds.chunk(time=4)
    lazy["u"] = lazy.u.copy(
        data=lazy.u.data.map_blocks(
            lambda b, block_info: read(b, block_info), dtype="f4", meta=np.zeros((0, 0, 0), "f4")
        )
    )
    explainer = Explainer(cnn, climatology(ds, layout), groups(layout), area_mean(), layout=layout)
    with dask.config.set(scheduler="synchronous"):
        result = explainer.shapley(lazy.isel(time=slice(4, 12)))
        assert not reads
        result.compute()
    assert sorted(reads) == [(4, 8), (8, 12)]


def test_every_batch_has_one_shape(ds, layout):
    shapes = []
    explainer = Explainer(recorded(product, shapes), zero(layout), groups(layout), area_mean(), layout=layout)
    explainer.shapley(ds, batch_rows=50)
    assert set(shapes[1:]) == {(50, 4, 6, 3)}  # the first is that of the probe
    assert len(shapes) == 1 + -(-(1 + 24 * 7) // 50)


def test_a_keras_model_is_compiled_once(ds, layout):
    traces = []

    class Counted(keras.Model):
        def call(self, x):
            traces.append(1)
            return product.function(x)

    explainer = Explainer(Counted(), zero(layout), groups(layout), area_mean(), layout=layout)
    explainer.shapley(ds, batch_rows=50)
    first = len(traces)
    explainer.shapley(ds, batch_rows=50)
    assert first <= 2
    assert len(traces) == first


def test_masked_cells_never_matter(cnn, ds, layout):
    dirty = ds.assign({n: ds[n].where(ds.wet, 1e6) for n in ("tracer", "u", "v")})
    results = [
        Explainer(cnn, climatology(d, layout), groups(layout, box=HALVES), target, layout=layout).shapley(d)
        for d in (ds, dirty)
        for target in (None, area_mean())
    ]
    xr.testing.assert_equal(results[0], results[2])
    xr.testing.assert_equal(results[1], results[3])
    np.testing.assert_array_equal(results[2].attribution.notnull().all(("group", "time")), ds.wet)


def test_several_baseline_rows_give_the_mean_of_the_games(cnn, ds, layout):
    base = samples(ds, layout, 3, seed=0)
    explain = lambda b: Explainer(cnn, b, groups(layout), area_mean(), layout=layout).shapley(ds)  # noqa: E731
    each = [explain(type(base)(str(i), base.rows[i : i + 1])) for i in range(3)]
    mean = sum(e.attribution for e in each) / 3
    np.testing.assert_allclose(explain(base).attribution, mean, atol=1e-6)
    drawn = Explainer(cnn, base, groups(layout), area_mean(), layout=layout).shapley(ds, "permutations", pairs=4)
    assert abs(drawn.residual).max() < 1e-6
    assert drawn.attrs["replicates"] == 6


def test_many_groups_go_to_permutations_whose_intervals_hold_the_exact_values(cnn, ds, layout):
    ds = ds.isel(time=slice(0, 3))
    boxes = {f"{x}E": {"lon": slice(x - 1, x + 1)} for x in range(0, 360, 60)}
    made = groups(layout, variable={"tracer": "tracer", "currents": ["u", "v"]}, box=boxes)
    explainer = Explainer(cnn, climatology(ds, layout), made, area_mean(), layout=layout)
    exact = explainer.shapley(ds)
    assert exact.attrs["method"] == "exact Shapley values"
    drawn = explainer.shapley(ds, "permutations", pairs=40, seed=1)
    inside = interval(drawn, 0.999)
    assert ((inside.lower <= exact.attribution) & (exact.attribution <= inside.upper)).mean() > 0.95
    xr.testing.assert_equal(interval(exact).lower, exact.attribution.rename("lower"))
    more = groups(layout, box=boxes)
    assert len(more) == 18
    auto = Explainer(cnn, climatology(ds, layout), more, area_mean(), layout=layout).shapley(ds, pairs=5)
    assert auto.attrs["method"] == "Shapley values by paired permutations"
    assert auto.attrs["rows_per_sample"] == 1 + 2 * 5 * 17


def test_the_result_is_labelled(cnn, ds, layout):
    explainer = Explainer(cnn, climatology(ds, layout, by="month"), groups(layout, box=HALVES), None, layout=layout)
    result = explainer.shapley(ds.isel(time=slice(0, 2)))
    assert result.attribution.dims == ("group", "time", "lat", "lon")
    assert result.prediction.dims == result.base_value.dims == result.residual.dims == ("time", "lat", "lon")
    assert result.group.values.tolist()[:2] == ["tracer, south", "tracer, north"]
    assert result.group_variable.values[0] == "tracer"
    assert result.attribution.attrs == {"long_name": "contribution to tracer, one month ahead", "units": "kg m-3"}
    assert result.lat.attrs == ds.lat.attrs
    np.testing.assert_array_equal(result.valid_time, ds.time[1:3])
    assert result.attrs["title"] == "synthetic"
    assert result.attrs["baseline"] == "climatology by month"
    assert result.attrs["seed"] == "none"
    assert all({"units", "long_name"} <= set(v.attrs) for v in result.values())


def test_the_result_goes_to_netcdf_and_back(cnn, ds, layout, tmp_path):
    result = Explainer(cnn, zero(layout), groups(layout), None, layout=layout).shapley(ds)
    result.to_netcdf(tmp_path / "a.nc")
    xr.testing.assert_equal(xr.load_dataset(tmp_path / "a.nc"), result)


def test_members_are_samples_too(cnn, ds):
    runs = xr.concat([ds, ds.assign(u=ds.u * 2)], xr.Variable("run", [3, 4]), data_vars=["tracer", "u", "v"])
    layout = FieldSpec(["tracer", "u", "v"], "tracer", mask="wet", area="cell_area", members="run").bind(runs)
    explainer = Explainer(cnn, zero(layout), groups(layout), area_mean(), layout=layout)
    result = explainer.shapley(runs.chunk(run=1, time=5))
    assert result.attribution.dims == ("group", "run", "time")
    assert result.run.values.tolist() == [3, 4]
    xr.testing.assert_allclose(result.sel(run=3, drop=True).drop_attrs(), explainer.shapley(ds).drop_attrs(), atol=1e-6)


def test_a_field_model_is_explained_in_physical_units(cnn, ds):
    from physml import FieldModel, Scaling, predict

    spec = FieldSpec(["tracer", "u", "v"], "tracer", target_offsets=1, mask="wet", area="cell_area")
    ds["tracer"] = (1e3 + 50 * ds.tracer).assign_attrs(units="kg m-3").astype("float32")
    model = FieldModel(cnn, scaling=Scaling.fit(ds, spec), increment=True)
    result = Explainer(model, climatology(ds, model.layout), groups(model.layout)).shapley(ds)
    direct = predict(model, ds).tracer
    np.testing.assert_array_equal(result.valid_time, direct.time)
    np.testing.assert_allclose(result.prediction, direct, rtol=1e-6)
    assert abs(result.residual).max() < 1e-6 * 1e3


def test_a_stack_of_lags_is_explained(ds):
    layout = FieldSpec(["tracer"], "tracer", input_offsets=(-2, -1, 0), mask="wet").bind(ds)
    result = Explainer(
        on_tensors(lambda x: x[..., :1] + 10 * x[..., 2:]),
        zero(layout),
        groups(layout, variable=None, lag=True),
        layout=layout,
    ).shapley(ds)
    assert result.group.values.tolist() == ["t-2", "t-1", "t"]
    assert result.sizes["time"] == 22
    np.testing.assert_allclose(result.attribution.sel(group="t"), 10 * ds.tracer[2:], atol=1e-5)
    np.testing.assert_allclose(result.attribution.sel(group="t-2"), ds.tracer[:-2], atol=1e-5)
    np.testing.assert_allclose(result.attribution.sel(group="t-1").where(ds.wet, 0), 0, atol=1e-14)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (
            lambda e, d: e().shapley(d.assign(u=d.u.where(d.time.dt.month != 3))),
            ValueError,
            r"ds at time 2000-03-01.*: 22 valid input values are missing, first at lat=-45\.0.*'u'",
        ),
        (lambda e, d: e().shapley(d, "exakt"), ValueError, "method 'exakt' is unknown; did you mean 'exact'"),
        (lambda e, d: e(made=dict(box=HALVES)).shapley(d, Exact(limit=5)), ValueError, "6 groups make 64 coalitions"),
        (lambda e, d: e(target=area_mean("salt")), KeyError, "unknown output 'salt'"),
        (lambda e, d: e().shapley(d, batch_rows=0), ValueError, "batch_rows is not positive"),
        (lambda e, d: e().shapley(d.drop_vars("v")), KeyError, "'v'"),
        (lambda e, d: e().shapley(d.isel(time=slice(0, 0))), ValueError, "no sample fits into the data"),
        (
            lambda e, d: e(on_tensors(lambda x: x)).shapley(d),
            ValueError,
            "the model returned another shape than its layout",
        ),
        (lambda e, d: e(on_tensors(lambda x: x[..., :1] / 0)).shapley(d), ValueError, "is not finite"),
        (lambda e, d: e(layout=None), TypeError, "the model has no layout"),
        (lambda e, d: e().shapley(d.u), TypeError, "no named inputs.*a Dataset with tracer, u, v.*DataArray"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_bad_input_says_what_is_wrong(ds, layout, call, error, text):
    def explainer(model=product, made=None, target=None, **kwargs):
        made = groups(layout, **(made or {}))
        return Explainer(model, zero(layout), made, target, **{"layout": layout, **kwargs})

    with pytest.raises(error, match=text):
        call(explainer, ds)


def test_parts_of_another_layout_are_refused(ds, layout):
    other = FieldSpec(["tracer", "u"], "tracer").bind(ds)
    with pytest.raises(ValueError, match="baseline do not fit the inputs"):
        Explainer(product, zero(other), groups(layout), layout=layout)
    with pytest.raises(ValueError, match="groups do not fit the inputs"):
        Explainer(product, zero(layout), groups(other), layout=layout)


def test_importing_explanations_loads_no_network_library():
    code = (
        "import sys; from physml.explain import *; from physml.explain import groups, Explainer; assert callable(groups);"
        "assert not {'keras', 'tensorflow', 'jax', 'matplotlib', 'scipy.stats'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
