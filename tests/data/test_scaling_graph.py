"""In the graph of a model every method is undone to rounding, months are those of the samples, and gradients are finite."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import xarray as xr
from keras import ops

from physml import FieldSpec, Scaling, _backend
from physml.data._scaling_graph import ScalingGraph


@pytest.fixture(autouse=True)
def float64():
    with _backend.float64():
        yield


METHODS = {
    "standard": "standard",
    "minmax": "minmax",
    "robust": "robust",
    "log": "log:1e-6",
    "log of positive": "log",
    "sqrt": "sqrt",
}


def data(positive=True):
    rng = np.random.default_rng(0)
    rain = rng.gamma(0.5, 1e-4, (48, 4, 5)) + 1e-9
    ds = xr.Dataset(
        {
            "rain": (("time", "y", "x"), rain if positive else rain - 1e-4),
            "temp": (("time", "y", "x"), rng.normal(280, 5, rain.shape)),
        },
        {"time": xr.date_range("2000-01-01", periods=48, freq="MS")},
    )
    return ds


def tensors(ds, spec, dtype):
    layout = spec.bind(ds)
    return (layout.pack(ds, r, whole_window=True).values.astype(dtype) for r in ("inputs", "targets"))


@pytest.mark.parametrize("by", [None, "month"])
@pytest.mark.parametrize("increment", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_scaled_comes_back(method, increment, by):
    spec = FieldSpec(["time.month", "rain", "temp"], ["temp", "rain"], target_offsets=(1, 2))
    ds = data()
    scaling = Scaling.fit(ds, spec, method={"rain": METHODS[method]}, by=by)
    for dtype, rtol in (("float64", 1e-9), ("float32", 1e-5)):
        x, y = tensors(ds, spec, dtype)
        graph = ScalingGraph(scaling, increment, dtype)
        n = graph.targets(y, x)
        if increment:  # the output is the change from the state, in the same units
            n = n - graph.targets(np.concatenate([x[..., i] for i in ([2, 2], [1, 1])], axis=-1), x)
        back = ops.convert_to_numpy(graph.outputs(n, x))
        assert back.dtype == dtype
        for channels in (slice(0, 2), slice(2, 4)):
            spread = 0.1 * y[..., channels].std()
            np.testing.assert_allclose(back[..., channels], y[..., channels], rtol=rtol, atol=rtol * spread)


def test_the_network_sees_each_sample_in_the_units_of_its_month():
    spec = FieldSpec(["rain", "time.month"], "rain", target_offsets=1)
    ds = data()
    scaling = Scaling.fit(ds, spec, method={"rain": "sqrt"}, by="month")
    x, y = tensors(ds, spec, "float64")
    graph = ScalingGraph(scaling, False, "float64")
    z, month = ops.convert_to_numpy(graph.inputs(x))[..., 0], ds.time.dt.month.values[:-1]
    scaled = ops.convert_to_numpy(graph.targets(y, x))[..., 0]
    for m in range(1, 13):
        np.testing.assert_allclose([scaled[month == m].mean(), scaled[month == m].std()], [0, 1], atol=1e-6)
        if m < 12:  # the last December is no sample here, and was one for the statistics of the inputs
            np.testing.assert_allclose([z[month == m].mean(), z[month == m].std()], [0, 1], atol=1e-6)
    # Land holds 0 in every channel: the month is that of the other cells.
    land = x.copy()
    land[:, 0] = 0
    np.testing.assert_array_equal(ops.convert_to_numpy(graph.inputs(land))[:, 1:, :, 0], z[:, 1:])


def test_a_root_of_either_sign_is_undone():
    spec = FieldSpec("rain", "rain", target_offsets=1)
    ds = data(positive=False)
    graph = ScalingGraph(Scaling.fit(ds, spec, method="sqrt"), False, "float32")
    x, y = tensors(ds, spec, "float32")
    assert (y < 0).any() and (y > 0).any()
    np.testing.assert_allclose(ops.convert_to_numpy(graph.outputs(graph.targets(y, x), x)), y, rtol=1e-5, atol=1e-12)


def test_an_increment_of_a_logarithm_is_growth_and_silence_is_persistence():
    spec = FieldSpec("rain", "rain", target_offsets=1)
    ds = data()
    scaling = Scaling.fit(ds, spec, method="log")
    graph = ScalingGraph(scaling, True, "float64")
    x, _ = tensors(ds, spec, "float64")
    np.testing.assert_allclose(ops.convert_to_numpy(graph.outputs(np.zeros_like(x), x)), x, rtol=1e-12)
    factor = ops.convert_to_numpy(graph.outputs(np.full_like(x, -3.0), x)) / x
    np.testing.assert_allclose(factor, np.exp(-3 * scaling.increment["rain"][0, 0]), rtol=1e-9)


@pytest.mark.parametrize("method", ["log:1e-6", "log", "sqrt"])
def test_gradients_are_finite_at_zero_and_outside_the_domain(method):
    spec = FieldSpec("rain", "rain", target_offsets=1)
    scaling = Scaling.fit(data(), spec, method=method)
    graph = ScalingGraph(scaling, False, "float32")
    # A network that begins with T(x) = 0, where a plain square root has no slope.
    zero = keras.initializers.Constant(-scaling.mean["rain"][0] / scaling.std["rain"][0])
    layer = keras.layers.Dense(1, kernel_initializer="zeros", bias_initializer=zero)

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layer

        def call(self, x):
            n = self.dense(graph.inputs(x))
            return graph.targets(graph.outputs(n, x), x)

    model = Model()
    x = np.zeros((8, 1, 1, 1), "float32")
    x[:4, 0, 0, 0] = 1e-4, -1.0, 1e6, -1e-7
    model.compile(keras.optimizers.SGD(1e-6), "mse", jit_compile=False)
    model.fit(x, np.zeros_like(x), verbose=0)
    assert all(np.isfinite(w).all() for w in layer.get_weights())


def test_a_loss_by_month_without_inputs_says_what_it_lacks():
    spec = FieldSpec(["rain", "time.month"], "rain", target_offsets=1)
    graph = ScalingGraph(Scaling.fit(data(), spec, by="month"), False, "float32")
    with pytest.raises(ValueError, match=r"needs the inputs to know the month. Expected: compute_loss\(x=inputs"):
        graph.targets(np.zeros((2, 4, 5, 1), "float32"), None)
