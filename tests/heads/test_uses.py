"""Models with heads are explained, and trained from a configuration, like any other."""

import json

import numpy as np
import pytest
import xarray as xr

from physml import FieldSpec, load, predict
from physml.explain import Explainer, cell, groups, permutation_importance, zero
from physml.heads import Classes, Gaussian, Quantiles
from physml.run import config
from physml.run.train import train

SPEC = FieldSpec(["x", "v"], "y", mask="wet")


@pytest.fixture
def wide(sea):
    return sea.assign(v=(sea.x * 0 + np.random.default_rng(1).normal(size=sea.x.shape)).astype("float32"))


@pytest.mark.parametrize(
    ("head", "of", "where"),
    [(Gaussian(), "y_std", {}), (Gaussian(), "y", {}), (Quantiles((0.1, 0.5, 0.9)), "y", {"quantile": 0.9})],
)
def test_shapley_values_of_any_answer_add_up_to_it(wide, untrained, head, of, where):
    model = untrained(wide, SPEC, head)
    target = cell(of, lat=2.0, lon=1.0, **where)
    found = Explainer(model, zero(model), groups(model), target).shapley(wide.isel(time=[3]))
    out = predict(model, wide.isel(time=[3]))[of].sel(lat=2.0, lon=1.0, **where)
    base = predict(model, xr.zeros_like(wide[["x", "v"]].isel(time=[3])))[of].sel(lat=2.0, lon=1.0, **where)
    assert float(found.attribution.sum()) == pytest.approx(float((out - base).item()), rel=1e-4, abs=1e-4)
    assert abs(float(found.attribution.sum())) > 1e-3


def test_the_probability_of_a_class_is_explained_by_name(wide, untrained):
    flags = {"flag_values": [0, 1, 2], "flag_meanings": "cold mild hot"}
    number = np.select([wide.x < -0.5, wide.x < 0.6], [0, 1], 2).astype("int8")
    ds = wide.assign(regime=(wide.x.dims, number, flags))
    model = untrained(ds, FieldSpec(["x", "v"], "regime", mask="wet"), Classes())
    target = cell("regime_probability", lat=2.0, lon=1.0, category="hot")
    found = Explainer(model, zero(model), groups(model), target).shapley(ds.isel(time=[3]))
    out, base = (predict(model, d.isel(time=[3])).regime_probability for d in (ds, ds.assign(x=0 * ds.x, v=0 * ds.v)))
    expected = (out - base).sel(lat=2.0, lon=1.0, category="hot")
    assert float(found.attribution.sum()) == pytest.approx(float(expected.item()), abs=1e-5)


def test_importance_is_scored_with_the_mean_of_a_gaussian(wide, untrained):
    model = untrained(wide, SPEC, Gaussian())
    found = permutation_importance(model, wide, groups(model), cell("y", lat=2.0, lon=1.0), n_permutations=2, seed=0)  # fmt: skip
    assert np.isfinite(found.importance).all()


YAML = """
data: {path: data.nc, mask_from: %s}
spec: {inputs: x, targets: %s}
split: {boundaries: ["2000-10", "2001-03"]}
network: {name: mlp, arguments: {hidden: [4]}}
head: {type: %s}
training: {epochs: 1, batch_size: 8}
output: {directory: out}
"""


@pytest.mark.parametrize(
    "kind", ["Gaussian", *(pytest.param(n, marks=pytest.mark.long) for n in ("Quantiles", "Classes"))]
)
def test_a_run_from_a_configuration_uses_the_loss_of_the_head(sea, tmp_path, kind):
    regime = (sea.x > 0).astype("int8").assign_attrs(flag_values=[0, 1], flag_meanings="cold hot")
    sea[["x", "y"]].assign(regime=regime).to_netcdf(tmp_path / "data.nc")
    target, head = ("regime", "Classes, class_weights: balanced") if kind == "Classes" else ("y", kind)
    (tmp_path / "run.yaml").write_text(YAML % ("y", target, head))
    out = train(config.load(tmp_path / "run.yaml"), lambda line: None)
    model = load(out / "model.keras")
    scores = json.loads((out / "scores.json").read_text())[target]
    if kind == "Classes":
        assert set(model.head.class_weights) == {"cold", "hot"}
        assert 0 <= scores["balanced_accuracy"] <= 1
        assert model.loss.arguments["class_weights"] == list(model.head.class_weights.values())
    else:
        assert model.loss.loss == {"Gaussian": "beta_nll", "Quantiles": "pinball"}[kind]
        assert scores["rmse"]["0"] > 0
    with pytest.raises(ValueError, match=f"the head {kind} has no loss 'mse'"):
        train(config.load(tmp_path / "run.yaml", ["training.loss=mse", "output.overwrite=true"]), lambda line: None)
