"""On a separable function, whose attribution is known, every method that ought to be exact is."""

import numpy as np
import pytest
import xarray as xr

from physml.explain import Explainer, groups, on_tensors, sanity, zero
from physml.fields import FieldSpec
from physml.testbeds import separable


@pytest.fixture(scope="module")
def ds():
    return separable.simulate(3, shape=(6, 12), seed=1)


@pytest.fixture(scope="module")
def explainer(ds):
    layout = FieldSpec("x", "x", sample_dim="sample", mask="ocean", area="cell_area").bind(ds)
    players = groups(layout, cells=True)
    return Explainer(on_tensors(separable.function(ds)), zero(layout), players, layout=layout, outputs=["y"])


@pytest.fixture(scope="module")
def truth(ds):
    return separable.truth(ds).attribution


def test_permutations_of_cells_find_the_truth_without_error(explainer, ds, truth):
    result = explainer.shapley(ds, "permutations", pairs=2)
    np.testing.assert_allclose(explainer.groups.paint(result).x, truth, rtol=0, atol=1e-6 * float(abs(truth).max()))
    assert float(result.stderr.max()) < 1e-6 * float(abs(truth).max())


def test_occlusion_finds_the_truth(explainer, ds, truth):
    result = explainer.gradients(ds, "occlusion")
    np.testing.assert_allclose(explainer.groups.paint(result).x, truth, rtol=0, atol=1e-6 * float(abs(truth).max()))


def test_integrated_gradients_find_the_truth_where_paths_are_cut_at_the_kinks(explainer, ds, truth):
    result = explainer.gradients(ds, "integrated", kinks=separable.kinks(ds))
    most = float(abs(truth).max())
    np.testing.assert_allclose(result.attribution[0], truth, rtol=0, atol=1e-6 * most)
    with np.errstate(divide="ignore"):
        at = ds.breakpoint / ds.x
    np.testing.assert_array_equal(result.rows, 1 + ((at > 0) & (at < 1)).sum(("knot", "lat", "lon")))
    assert result.attrs["kinks"] == "x" and "rows_per_sample" not in result.attrs
    lazy = explainer.gradients(ds.chunk(sample=2), "integrated", kinks=separable.kinks(ds), batch_rows=7)
    assert lazy.attribution.chunks is not None
    xr.testing.assert_allclose(lazy.compute().drop_attrs(), result.drop_attrs(), rtol=0, atol=1e-6 * most)


def test_integrated_gradients_near_the_truth_in_proportion_to_their_steps(explainer, ds, truth):
    one, true = ds.isel(sample=[0]), truth[[0]]
    off = [float(abs(explainer.gradients(one, "integrated", steps=n).attribution[0] - true).max()) for n in (16, 256)]
    # Kinks cost first order in the step, at places that differ from one number of steps to the next.
    assert off[1] < off[0] / 6 and off[1] < 0.02 * float(abs(truth).max())


def test_methods_that_are_exact_agree_to_the_last_rank(explainer, ds, truth):
    found = {
        "shapley": explainer.groups.paint(explainer.shapley(ds, "permutations", pairs=2)).x,
        "occlusion": explainer.groups.paint(explainer.gradients(ds, "occlusion")).x,
        "truth": truth,
    }
    likeness = sanity.agreement(found, weights=ds.cell_area, over=("lat", "lon"))
    np.testing.assert_allclose(likeness.to_array(), 1, atol=1e-6)
