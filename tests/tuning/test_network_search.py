"""Networks are trained fold by fold, stopped early, ended when they fall behind, and made again alike."""

from __future__ import annotations

import keras
import numpy as np
import optuna
import pytest
from damped import SPEC, data

from physml import FieldModel, heads, networks
from physml.tuning import between, search


def build(params, scaling):
    return networks.mlp(scaling.layout, hidden=(params["units"],), activation="tanh")


def found(make=build, n_trials=2, **more):
    space = {"units": [2, 3], "learning_rate": between(1e-3, 1e-1, log=True)}
    options = {"spec": SPEC, "method": "random", "validation": 2, "epochs": 3, "batch_size": 64, **more}
    return search(make, space, data(), n_trials=n_trials, **options)


def test_a_network_is_scored_by_its_loss_and_fitted_again_to_all():
    result = found(n_trials=1)
    ds = result.dataset
    assert np.isfinite(ds.score_fold).all()
    assert ((ds.best_epoch >= 1) & (ds.best_epoch <= 3)).all()
    model = result.refit(data())
    assert isinstance(model, FieldModel)
    assert model.network.layers[1].units == result.best["units"]
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(
        result.best["learning_rate"]
    )


@pytest.mark.long
def test_the_same_seed_scores_the_same_network():
    first, second = (found(n_trials=1).dataset.score_fold for _ in range(2))
    np.testing.assert_allclose(second, first, rtol=1e-5)


def test_a_network_that_falls_behind_ends_between_epochs():
    trained = []

    class Count(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            trained[-1] += 1

    class Always(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.number > 0 and trial.last_step >= 1

    class Counting(FieldModel):
        def fit(self, *args, **kwargs):
            kwargs["callbacks"] = [*kwargs["callbacks"], Count()]
            return super().fit(*args, **kwargs)

    def make(params, scaling):
        trained.append(0)
        return Counting(build(params, scaling), scaling=scaling)

    ds = found(make, prune=Always(), epochs=4).dataset
    assert ds.state.values.tolist() == ["complete", "pruned"]
    assert trained == [4, 4, 2], "two reports of the first fold, then nothing"


def test_a_network_that_diverges_is_no_failure():
    def make(params, scaling):
        model = FieldModel(build(params, scaling), scaling=scaling)
        model.compile(keras.optimizers.SGD(1e30 if params["units"] == 2 else 1e-3), "mse")
        return model

    space = {"units": [2, 3]}
    result = search(make, space, data(), spec=SPEC, method="grid", validation=2, epochs=3, max_failures=0)
    state = dict(zip(result.dataset.units.values.tolist(), result.dataset.state.values.tolist(), strict=True))
    assert state == {2: "diverged", 3: "complete"}


@pytest.mark.long
def test_forecasts_of_networks_and_heads_are_scored_too():
    def make(params, scaling):
        return FieldModel(networks.mlp(scaling.layout, hidden=(4,), outputs=2), scaling=scaling, head=heads.Gaussian())

    result = found(make, n_trials=1, score="rmse", epochs=20)
    assert 0.8 < result.best_score < 1.6
