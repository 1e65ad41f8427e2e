"""What lies off the patterns an autoencoder knows is new, by how much, where, and in which variable."""

import keras
import numpy as np
import pytest
import xarray as xr

from physml.explain import novelty, on_tensors
from physml.fields import FieldSpec

NAMES = ["tracer", "u"]


@pytest.fixture
def spec():
    return FieldSpec(NAMES, NAMES, mask="wet", area="cell_area")


@pytest.fixture
def layout(ds, spec):
    return spec.bind(ds)


@pytest.fixture
def mean_only():
    """An autoencoder that knows nothing but zero: its error is the size of the sample."""
    return on_tensors(lambda x: 0.0 * x)


def test_the_error_is_the_weighted_rms_in_standard_deviations(mean_only, ds, layout):
    found = novelty(mean_only, ds, ds, layout=layout)
    w = ds.cell_area.where(ds.wet)
    each = []
    for name in NAMES:
        x = ds[name].astype("float64")
        mean_square = (x**2).weighted(w.fillna(0)).mean(("lat", "lon")) / x.var("time").mean()
        np.testing.assert_allclose(found.variable_error.sel(variable=name), mean_square**0.5, rtol=1e-6)
        np.testing.assert_allclose(found[f"{name}_residual"], ds[name], atol=1e-6)
        each.append(mean_square)
    np.testing.assert_allclose(found.error, (sum(each) / 2) ** 0.5, rtol=1e-6)


def test_the_threshold_is_the_quantile_of_training_and_ranks_count(mean_only, ds, layout):
    train, test = ds.isel(time=slice(16)), ds.isel(time=slice(16, None))
    found = novelty(mean_only, train, test, quantile=0.75, layout=layout)
    own = novelty(mean_only, train, train, quantile=0.75, layout=layout)
    assert found.attrs["threshold"] == np.quantile(own.error, 0.75)
    assert int(own.novel.sum()) == 4
    np.testing.assert_array_equal(found.train_error, np.sort(own.error))
    for error, rank in zip(found.error.values, found.exceedance.values, strict=True):
        assert rank == (1 + int((own.error >= error).sum())) / 17
    assert float(own.exceedance.min()) == 2 / 17 and float(own.exceedance.max()) == 1


def test_what_lies_off_the_known_patterns_is_found_and_located(ds, layout):
    """A linear autoencoder of one pattern reconstructs its multiples, and nothing else."""
    rng = np.random.default_rng(0)
    pattern = rng.normal(size=(4, 6, 2)) * layout.valid("targets")
    pattern /= np.sqrt((pattern**2).sum())
    amplitude = rng.normal(size=(24, 1, 1, 1))
    x = amplitude * pattern + 0.01 * rng.normal(size=(24, 4, 6, 2))
    known = ds.assign({n: (("time", "lat", "lon"), x[..., i]) for i, n in enumerate(NAMES)})

    @on_tensors
    def projection(x):
        p = keras.ops.cast(pattern, x.dtype)
        return keras.ops.sum(x * p, axis=(1, 2, 3), keepdims=True) * p

    new = known.copy(deep=True)
    new.u[5, 0, 2] += 1.0
    found = novelty(projection, known, new, quantile=0.9, layout=layout)
    assert int(found.error.argmax("time")) == 5 and bool(found.novel[5])
    assert float(found.exceedance[5]) == 1 / 25
    assert float(found.error[5]) > 5 * found.attrs["threshold"]
    assert found.variable_error[:, 5].idxmax() == "u"
    where = abs(found.u_residual[5]).argmax(("lat", "lon"))
    assert (int(where["lat"]), int(where["lon"])) == (0, 2)
    assert (found.u_residual.notnull() == ds.wet).all()


def test_lazy_data_stay_lazy_and_blocks_do_not_matter(ds, layout):
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((4, 6, 2)), keras.layers.Dense(1, "tanh"), keras.layers.Dense(2)])
    eager = novelty(network, ds, ds, layout=layout)
    lazy = novelty(network, ds.chunk(time=5), ds.chunk(time=7), layout=layout, batch_rows=3)
    assert all(lazy[n].chunks is not None for n in ("error", "novel", "exceedance", "u_residual"))
    assert lazy.train_error.chunks is None
    xr.testing.assert_allclose(
        lazy.drop_vars("novel").compute().drop_attrs(), eager.drop_vars("novel").drop_attrs(), atol=1e-5
    )


def test_what_is_no_autoencoder_is_refused(mean_only, ds, layout):
    ahead = FieldSpec(NAMES, NAMES, target_offsets=1, mask="wet").bind(ds)
    with pytest.raises(ValueError, match=r"is no autoencoder. Expected: targets among the inputs: tracer, u"):
        novelty(mean_only, ds, ds, layout=ahead)
    with pytest.raises(ValueError, match="quantile is out of range"):
        novelty(mean_only, ds, ds, layout=layout, quantile=1.0)
    with pytest.raises(ValueError, match="the training samples are too few"):
        novelty(mean_only, ds.isel(time=[0]), ds, layout=layout)
