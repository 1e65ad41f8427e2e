"""A scorecard holds the scores of every model beside the reference, and nothing where a model lacks a variable."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import xarray as xr

from physml import verify

TIME = xr.date_range("2000-01-01", periods=80, freq="MS")


def field(seed: int, scale: float = 1.0, units: str = "K") -> xr.DataArray:
    values = scale * np.random.default_rng(seed).normal(size=80)
    return xr.DataArray(values, {"time": TIME}, ("time",), attrs={"units": units})


def forecasts() -> tuple[dict[str, xr.Dataset], xr.Dataset]:
    truth = xr.Dataset({"t": field(0), "h": field(1, units="m")})
    lead = xr.DataArray([1.0, 2.0], coords={"lead": [1, 2]}, dims="lead")

    def model(seed: int, scale: float) -> xr.Dataset:
        out = {n: truth[n] + scale * lead * field(seed + i) for i, n in enumerate(truth.data_vars)}
        return xr.Dataset({n: v.assign_attrs(truth[n].attrs) for n, v in out.items()})

    network = model(20, 0.2).assign(t_std=0.2 * lead * xr.ones_like(truth.t))
    network.t_std.attrs["units"] = "K"
    return {"persistence": model(10, 0.6), "network": network, "simple": model(30, 0.6)[["t"]]}, truth


def test_the_card_holds_the_scores_and_what_is_better_than_the_reference():
    models, truth = forecasts()
    acc = functools.partial(verify.acc, climatology=0.0)
    card = verify.scorecard(models, truth, ["rmse", acc], bootstrap={"n": 100, "block": 2})
    assert card.value.dims == ("score", "model", "lead", "variable")
    assert card.score.values.tolist() == ["rmse", "acc"]
    assert card.units.sel(score="rmse").values.tolist() == ["K", "m"]
    assert card.best.values.tolist() == ["smaller", "larger"]
    for name in ("t", "h"):
        np.testing.assert_allclose(
            card.value.sel(score="rmse", model="network", variable=name),
            verify.rmse(models["network"][name], truth[name], "time"),
        )
    one = verify.block_bootstrap(
        verify.rmse, models["network"].t, truth.t, reference=models["persistence"].t, n=100, block=2
    )
    picked = card.sel(score="rmse", model="network", variable="t")
    for name in ("low", "high", "difference", "difference_low", "difference_high", "p_value", "better"):
        np.testing.assert_allclose(picked[name], one[name])
    np.testing.assert_allclose(picked.percent, 100 * one.difference / one.reference)
    assert (card.better.sel(model="network") == 1).all()
    assert np.isnan(card.percent.sel(model="persistence")).all()
    assert np.isnan(card.value.sel(model="simple", variable="h")).all()
    assert card.model.values.tolist() == ["persistence", "network", "simple"]


def test_a_forecast_without_a_distribution_has_its_absolute_error_for_crps():
    models, truth = forecasts()
    card = verify.scorecard(models, truth, ["crps", "mae"], bootstrap=False)
    same = card.value.sel(model="persistence")
    np.testing.assert_allclose(same.sel(score="crps"), same.sel(score="mae"))
    gaussian = card.value.sel(model="network", variable="t")
    assert (gaussian.sel(score="crps") < 0.8 * gaussian.sel(score="mae")).all()
    np.testing.assert_allclose(gaussian.sel(score="crps"), verify.crps(models["network"], truth.t, "time"))


def test_all_models_are_scored_at_the_times_all_have():
    models, truth = forecasts()
    models["network"] = models["network"].isel(time=slice(30, None))
    card = verify.scorecard(models, truth, bootstrap=False)
    expected = verify.rmse(models["persistence"].t, truth.t[30:], "time")
    np.testing.assert_allclose(card.value.sel(score="rmse", model="persistence", variable="t"), expected)


def test_a_bias_is_compared_by_its_size():
    truth = xr.Dataset({"t": field(0)})
    models = {"persistence": truth - 0.5, "network": truth + 0.25}
    card = verify.scorecard(models, truth, ["bias"], bootstrap=False)
    assert card.percent.sel(model="network").item() == pytest.approx(-50.0)
    with_intervals = verify.scorecard(models, truth, ["bias"], bootstrap={"n": 20, "block": 2})
    assert with_intervals.percent.sel(model="network").item() == pytest.approx(-50.0)
    assert with_intervals.better.sel(model="network").item() == 1


def test_a_score_of_ones_own_and_no_reference():
    models, truth = forecasts()

    def worst(forecast, truth, dim, weights):
        return abs(forecast - truth).max(dim)

    card = verify.scorecard(models, truth, {"worst error": worst}, reference=None, bootstrap=False)
    assert list(card.data_vars) == ["value"]
    np.testing.assert_allclose(
        card.value.sel(model="network", variable="t")[0], worst(models["network"].t, truth.t, "time", None)
    )


def test_what_makes_no_card_is_refused():
    models, truth = forecasts()
    with pytest.raises(ValueError, match=r"'persistance' is none of the models; did you mean 'persistence'"):
        verify.scorecard(models, truth, reference="persistance")
    with pytest.raises(ValueError, match=r"unknown score 'rmsee'; did you mean 'rmse'\?.*acc, bias"):
        verify.scorecard(models, truth, ["rmsee"])
    with pytest.raises(ValueError, match="unknown score 'total'"):
        verify.scorecard(models, truth, ["total"])


def test_a_lead_whose_truth_ends_early_is_scored_while_it_is_known():
    data = {"t": (("time", "lead"), np.arange(24.0).reshape(12, 2))}
    truth = xr.Dataset(data, {"time": np.arange(12), "lead": [1, 6]})
    forecasts = {"a": truth + 1.0, "b": truth + 2.0}
    truth = truth.where((truth.lead < 6) | (truth.time < 7))
    card = verify.scorecard(forecasts, truth, ["rmse"], reference="b", bootstrap={"block": 2, "n": 20, "seed": 0})
    found = card.squeeze(drop=True).sortby("model")
    for name in ("value", "low", "high"):
        np.testing.assert_allclose(found[name], [[1.0, 1.0], [2.0, 2.0]])
