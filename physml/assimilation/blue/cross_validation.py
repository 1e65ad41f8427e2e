"""Cross-validation: what the analysis predicts for observations that it has not seen.

References
----------
Dubrule, O. (1983), Cross validation of kriging in a unique neighborhood, doi:10.1007/BF01033232.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import scipy.linalg
import xarray as xr
from keras import ops

from physml import _backend
from physml._errors import refuse
from physml.assimilation.blue.grid_blue import BLUE
from physml.assimilation.blue.likelihood import prepared_rows
from physml.assimilation.observing.observations import PointObservations


def leave_out(layer: BLUE, innovations: PointObservations, groups: Any) -> xr.Dataset:
    """Return what the analysis predicts for each group of observations from all others: cross-validation.

    In closed form from one inverse of the whole: with P = (H B H^T + R)^-1 and the group g left out, the innovations of g
    differ from their prediction by (P_gg)^-1 (P (d - H xf))_g, with covariance (P_gg)^-1.

    Parameters
    ----------
    layer
        Grid, H, B and, where the innovations carry none, sigma_o.
    innovations
        Observations minus forecasts, d - H xf; a row or a table of some 10 000 at most. Rows of time are independent of
        each other, unless B has a time_length.
    groups
        A label for each observation, such as the number of its float; those of one label are left out together.

    Returns
    -------
    Dataset
        By observation: ``innovation``, ``residual`` (observed minus predicted) and ``residual_std`` (what B and R let one
        expect of it). Attributes: ``rmse_before``, ``rmse_after``, and ``chi2``, the mean of (residual / residual_std)^2.

    References
    ----------
    Dubrule, O. (1983), Cross validation of kriging in a unique neighborhood, doi:10.1007/BF01033232.
    """
    labels = np.asarray(groups)
    if labels.shape != innovations.values.shape:
        refuse("groups do not fit the observations", innovations.values.shape, labels.shape, "one label for each")
    _, parts = prepared_rows(layer, innovations, None, size=1)
    residual, std = np.full((2, labels.size), np.nan)
    first = 0
    for part in parts:
        with _backend.float64():
            hbh = np.asarray(ops.convert_to_numpy(layer.seen(part)[0].at_observations())[0])
        d = part["values"][0]
        keep = np.flatnonzero(np.isfinite(d) & part["weights"][0].any(axis=-1))
        if keep.size:
            covariance = hbh[np.ix_(keep, keep)] + np.diag(part["error_std"][0][keep] ** 2)
            precision = scipy.linalg.cho_solve(scipy.linalg.cho_factor(covariance), np.eye(keep.size))
            weighted, place = precision @ d[keep], first + keep
            for label in np.unique(labels.ravel()[place]):
                g = np.flatnonzero(labels.ravel()[place] == label)
                left_out = np.linalg.inv(precision[np.ix_(g, g)])
                residual[place[g]], std[place[g]] = left_out @ weighted[g], np.sqrt(np.diag(left_out))
        first += d.size
    shape, used = labels.shape, np.isfinite(residual)
    out = replace(innovations, variable="innovation").to_dataset()
    unit = {"units": innovations.units} if innovations.units else {}
    texts = {
        "residual": ("observation minus its prediction from the other groups", residual),
        "residual_std": ("expected standard deviation of the residual", std),
    }
    for name, (text, array) in texts.items():
        out[name] = (innovations.dims, array.reshape(shape), {"long_name": text, **unit})
    scores = {
        "rmse_before": innovations.values.ravel()[used],
        "rmse_after": residual[used],
        "chi2": (residual / std)[used],
    }
    means = {k: float(np.mean(np.square(v))) if used.any() else np.nan for k, v in scores.items()}
    return out.assign_attrs({k: v if k == "chi2" else v**0.5 for k, v in means.items()}, observations=int(used.sum()))
