"""A cluster explains as one process does, and is sent each model once."""

import keras
import numpy as np
import pytest
import xarray as xr

from physml.explain import Explainer, climatology, field, groups
from physml.fields import FieldSpec


@pytest.mark.long
@pytest.mark.parametrize("target", [field()])
def test_a_cluster_gives_what_one_process_gives(ds, target):
    from distributed import Client, LocalCluster

    from physml import FieldModel, Scaling

    spec = FieldSpec(["tracer", "u", "v"], "tracer", target_offsets=1, mask="wet", area="cell_area")
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((4, 6, 3)), keras.layers.Conv2D(1, 3, padding="same", activation="gelu")])
    model = FieldModel(network, scaling=Scaling.fit(ds, spec))
    boxes = {f"{x}E": {"lon": slice(x - 1, x + 1)} for x in range(0, 360, 60)}
    explainer = Explainer(model, climatology(ds, model.layout, by="month"), groups(model.layout, box=boxes), target)
    here = explainer.shapley(ds, rtol=0.01)
    lazy = explainer.shapley(ds.chunk(time=4), rtol=0.01)
    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster, Client(cluster):
        there = lazy.compute()
    xr.testing.assert_equal(there.rows, here.rows)
    xr.testing.assert_allclose(there.drop_attrs(), here.drop_attrs(), rtol=0, atol=1e-5)
    assert len(np.unique(here.rows)) > 1
