"""Data assimilation: observations, error covariances, the best linear unbiased estimate, time steps and cycles.

Notation, as in the literature and throughout this package:

======  =====================================================================  =======================
symbol  meaning                                                                shape
======  =====================================================================  =======================
xf      forecast, also called background or first guess                        [n] wet cells
xa      analysis                                                               [n]
d       observations                                                           [m]
H       observation operator: bilinear interpolation over wet cells            [m, n], four per row
B       covariance of the forecast error; sigma_b its standard deviation       [n, n], never formed
R       covariance of the observation error, diagonal; sigma_o its root        [m, m]
M       validity of the observations, 0 where missing                          [m, m] diagonal
S       covariance of the whitened innovation, I + M R^-1/2 H B H^T R^-1/2 M   [m, m]
L       lower Cholesky factor of S                                             [m, m]
v       whitened innovation M R^-1/2 (d - H xf)                                [m]
w       weights of the representers, R^-1/2 M S^-1 v                           [m]
K       gain, B H^T (H B H^T + R)^-1; xa = xf + K (d - H xf) = xf + B H^T w    [n, m], never formed
chi2    v^T S^-1 v / number of valid observations; 1 where B and R are right   []
======  =====================================================================  =======================

The public names below are imported when they are first used: ``import physml.assimilation`` loads no Keras.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physml.assimilation.analysis import analyse as analyse
    from physml.assimilation.blue import BLUE as BLUE
    from physml.assimilation.blue import Analysis as Analysis
    from physml.assimilation.blue import leave_out as leave_out
    from physml.assimilation.columns import ColumnObservations as ColumnObservations
    from physml.assimilation.covariance import Diagonal as Diagonal
    from physml.assimilation.covariance import Gaussian as Gaussian
    from physml.assimilation.covariance import Matern as Matern
    from physml.assimilation.covariance import fit_background_error as fit_background_error
    from physml.assimilation.covariance import innovation_likelihood as innovation_likelihood
    from physml.assimilation.cycle import Cycle as Cycle
    from physml.assimilation.ensemble import ETKF as ETKF
    from physml.assimilation.ensemble import EnKF as EnKF
    from physml.assimilation.ensemble import EnSRF as EnSRF
    from physml.assimilation.finite_size import EnKFN as EnKFN
    from physml.assimilation.gridded import GridObservations as GridObservations
    from physml.assimilation.grids import bilinear as bilinear
    from physml.assimilation.grids import observe as observe
    from physml.assimilation.grids import random_positions as random_positions
    from physml.assimilation.joint import JointObservations as JointObservations
    from physml.assimilation.kalman import ExtendedKalman as ExtendedKalman
    from physml.assimilation.kalman import Kalman as Kalman
    from physml.assimilation.kalman import OptimalInterpolation as OptimalInterpolation
    from physml.assimilation.letkf import LETKF as LETKF
    from physml.assimilation.localisation import gaspari_cohn as gaspari_cohn
    from physml.assimilation.observations import PointObservations as PointObservations
    from physml.assimilation.operators import CallableObservations as CallableObservations
    from physml.assimilation.operators import LinearObservations as LinearObservations
    from physml.assimilation.runner import Runner as Runner
    from physml.assimilation.runner import drive as drive
    from physml.assimilation.smoother import EnKS as EnKS
    from physml.assimilation.steps import RK4 as RK4
    from physml.assimilation.steps import Euler as Euler
    from physml.assimilation.steps import Unrolled as Unrolled
    from physml.assimilation.superobbing import superob as superob

_MODULES = {
    "observations": ("PointObservations",),
    "gridded": ("GridObservations",),
    "operators": ("CallableObservations", "LinearObservations"),
    "columns": ("ColumnObservations",),
    "joint": ("JointObservations",),
    "superobbing": ("superob",),
    "grids": ("bilinear", "observe", "random_positions"),
    "covariance": ("Diagonal", "Gaussian", "Matern", "fit_background_error", "innovation_likelihood"),
    "localisation": ("gaspari_cohn",),
    "blue": ("BLUE", "Analysis", "leave_out"),
    "analysis": ("analyse",),
    "cycle": ("Cycle",),
    "kalman": ("Kalman", "ExtendedKalman", "OptimalInterpolation"),
    "ensemble": ("EnKF", "EnSRF", "ETKF"),
    "letkf": ("LETKF",),
    "finite_size": ("EnKFN",),
    "smoother": ("EnKS",),
    "runner": ("Runner", "drive"),
    "steps": ("RK4", "Euler", "Unrolled"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
