"""Small data with masks, areas, levels and months, and the mean of a loss by hand."""

import keras
import numpy as np
import pytest
import xarray as xr

from physml import FieldModel, Scaling


@pytest.fixture
def sea():
    """Two variables on four by three cells, one with levels, dry where the mask says."""
    rng = np.random.default_rng(0)
    n = 24
    x = rng.normal(size=(n, 4, 3)).astype("float32")
    wet = np.ones((4, 3), bool)
    wet[0, :2] = wet[3, 2] = False
    deep = np.stack([wet, wet], -1)
    deep[1, :, 1] = False
    ds = xr.Dataset(
        {
            "x": (("time", "lat", "lon"), x),
            "y": (("time", "lat", "lon"), 280 + 3 * x + rng.normal(size=x.shape), {"units": "K", "long_name": "sst"}),
            "z": (("time", "lat", "lon", "depth"), rng.gamma(2.0, size=(*x.shape, 2)), {"units": "kg m-3"}),
            "wet": (("lat", "lon"), wet),
            "deep": (("lat", "lon", "depth"), deep),
            "area": (("lat", "lon"), rng.uniform(1, 3, (4, 3))),
        },
        {"time": xr.date_range("2000-01-01", periods=n, freq="MS"), "lat": np.arange(4.0), "lon": np.arange(3.0)},
    )
    return ds.assign(y=ds.y.astype("float32").where(ds.wet), z=ds.z.astype("float32"), depth=("depth", [5.0, 50.0]))


@keras.saving.register_keras_serializable(package="tests")
class Bent(keras.layers.Layer):
    """A network without weights whose output differs from channel to channel and cell to cell."""

    receptive_field = ((0, 0), (0, 0))

    def __init__(self, outputs, **kwargs):
        super().__init__(**kwargs)
        self.outputs = outputs

    def call(self, x):
        slopes = 0.3 * np.cos(np.arange(self.outputs, dtype="float32"))
        return keras.ops.sum(x, -1, keepdims=True) * slopes + 0.2 * slopes[::-1]

    def get_config(self):
        return {**super().get_config(), "outputs": self.outputs}

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.outputs)


@pytest.fixture
def untrained():
    """A model with a head whose network is fixed, and its scaling."""

    def make(ds, spec, head, any_size=False, method="standard", by=None, **options):
        scaling = Scaling.fit(ds, spec, method=method, by=by)
        layout = scaling.layout
        sizes = (None,) * len(layout.shape) if any_size else layout.shape
        start = keras.Input((*sizes, len(layout.inputs)))
        network = keras.Model(start, Bent(head.channels(layout))(start))
        return FieldModel(network, scaling=scaling, head=head, **options)

    return make
