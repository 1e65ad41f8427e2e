"""Data assimilation: observations, error covariances, the best linear unbiased estimate, time steps and cycles.

Notation, as in the literature and throughout this package:

======  =====================================================================  ================symbol  meaning                                                                shape
======  =====================================================================  ================xf      forecast, also called background or first guess                        [n] wet cells
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
======  =====================================================================  ================
The public names below are imported when they are first used: ``import physml.assimilation`` loads no Keras.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physml.assimilation.analysis import analyse as analyse
    from physml.assimilation.background import Background as Background
    from physml.assimilation.background import bind as bind
    from physml.assimilation.background import draw as draw
    from physml.assimilation.blue import BLUE as BLUE
    from physml.assimilation.climatology import climatology_error as climatology_error
    from physml.assimilation.climatology import nmc_error as nmc_error
    from physml.assimilation.columns import ColumnObservations as ColumnObservations
    from physml.assimilation.combine import Dense as Dense
    from physml.assimilation.combine import Ensemble as Ensemble
    from physml.assimilation.combine import Hybrid as Hybrid
    from physml.assimilation.combine import Sum as Sum
    from physml.assimilation.consistency import chi_square as chi_square
    from physml.assimilation.consistency import desroziers as desroziers
    from physml.assimilation.consistency import dfs as dfs
    from physml.assimilation.consistency import influence as influence
    from physml.assimilation.covariance import Diagonal as Diagonal
    from physml.assimilation.covariance import GaspariCohn as GaspariCohn
    from physml.assimilation.covariance import Gaussian as Gaussian
    from physml.assimilation.covariance import Matern as Matern
    from physml.assimilation.cross_validation import leave_out as leave_out
    from physml.assimilation.cycle import Cycle as Cycle
    from physml.assimilation.diagnostics import crps as crps
    from physml.assimilation.diagnostics import rank_histogram as rank_histogram
    from physml.assimilation.diagnostics import spread_skill as spread_skill
    from physml.assimilation.diffusion import Diffusion as Diffusion
    from physml.assimilation.drawing import perturb as perturb
    from physml.assimilation.drawing import probed_variance as probed_variance
    from physml.assimilation.ensemble import ETKF as ETKF
    from physml.assimilation.ensemble import EnKF as EnKF
    from physml.assimilation.ensemble import EnSRF as EnSRF
    from physml.assimilation.envar import HybridEnVar as HybridEnVar
    from physml.assimilation.finite_size import EnKFN as EnKFN
    from physml.assimilation.fourdvar import FourDVar as FourDVar
    from physml.assimilation.fourdvar import WeakFourDVar as WeakFourDVar
    from physml.assimilation.gridded import GridObservations as GridObservations
    from physml.assimilation.grids import bilinear as bilinear
    from physml.assimilation.grids import observe as observe
    from physml.assimilation.grids import random_positions as random_positions
    from physml.assimilation.horizon import forecast_skill_horizon as forecast_skill_horizon
    from physml.assimilation.interpolation import interpolate_observations as interpolate_observations
    from physml.assimilation.joint import JointObservations as JointObservations
    from physml.assimilation.kalman import ExtendedKalman as ExtendedKalman
    from physml.assimilation.kalman import Kalman as Kalman
    from physml.assimilation.kalman import OptimalInterpolation as OptimalInterpolation
    from physml.assimilation.layer import Analysis as Analysis
    from physml.assimilation.layer import Influence as Influence
    from physml.assimilation.learn import AlternatingLearning as AlternatingLearning
    from physml.assimilation.letkf import LETKF as LETKF
    from physml.assimilation.likelihood import fit_background_error as fit_background_error
    from physml.assimilation.likelihood import innovation_likelihood as innovation_likelihood
    from physml.assimilation.localisation import gaspari_cohn as gaspari_cohn
    from physml.assimilation.lyapunov import kaplan_yorke as kaplan_yorke
    from physml.assimilation.lyapunov import lyapunov_spectrum as lyapunov_spectrum
    from physml.assimilation.multivariate import Balance as Balance
    from physml.assimilation.multivariate import Blocks as Blocks
    from physml.assimilation.multivariate import Kronecker as Kronecker
    from physml.assimilation.multivariate import Regression as Regression
    from physml.assimilation.network_steps import Corrected as Corrected
    from physml.assimilation.network_steps import CorrectedTendency as CorrectedTendency
    from physml.assimilation.network_steps import NetworkStep as NetworkStep
    from physml.assimilation.network_steps import Residual as Residual
    from physml.assimilation.observations import PointObservations as PointObservations
    from physml.assimilation.operators import CallableObservations as CallableObservations
    from physml.assimilation.operators import LinearObservations as LinearObservations
    from physml.assimilation.plane import Plane as Plane
    from physml.assimilation.runner import Runner as Runner
    from physml.assimilation.runner import drive as drive
    from physml.assimilation.smoother import EnKS as EnKS
    from physml.assimilation.spectrum import power_spectrum as power_spectrum
    from physml.assimilation.state_blue import StateBLUE as StateBLUE
    from physml.assimilation.steps import RK4 as RK4
    from physml.assimilation.steps import Euler as Euler
    from physml.assimilation.steps import Unrolled as Unrolled
    from physml.assimilation.superobbing import superob as superob
    from physml.assimilation.through import train_through as train_through
    from physml.assimilation.training import MultistepLoss as MultistepLoss
    from physml.assimilation.training import multistep_loss as multistep_loss
    from physml.assimilation.variational import ThreeDVar as ThreeDVar

_MODULES = {
    "observations": ("PointObservations",),
    "gridded": ("GridObservations",),
    "operators": ("CallableObservations", "LinearObservations"),
    "columns": ("ColumnObservations",),
    "joint": ("JointObservations",),
    "superobbing": ("superob",),
    "grids": ("bilinear", "observe", "random_positions"),
    "blue": ("BLUE",),
    "state_blue": ("StateBLUE",),
    "layer": ("Analysis", "Influence"),
    "cross_validation": ("leave_out",),
    "analysis": ("analyse",),
    "cycle": ("Cycle",),
    "background": ("Background", "bind", "draw"),
    "covariance": ("Diagonal", "GaspariCohn", "Gaussian", "Matern"),
    "combine": ("Dense", "Ensemble", "Hybrid", "Sum"),
    "multivariate": ("Balance", "Blocks", "Kronecker", "Regression"),
    "plane": ("Plane",),
    "diffusion": ("Diffusion",),
    "drawing": ("perturb", "probed_variance"),
    "likelihood": ("fit_background_error", "innovation_likelihood"),
    "localisation": ("gaspari_cohn",),
    "kalman": ("Kalman", "ExtendedKalman", "OptimalInterpolation"),
    "ensemble": ("EnKF", "EnSRF", "ETKF"),
    "letkf": ("LETKF",),
    "finite_size": ("EnKFN",),
    "smoother": ("EnKS",),
    "runner": ("Runner", "drive"),
    "variational": ("ThreeDVar",),
    "envar": ("HybridEnVar",),
    "climatology": ("climatology_error", "nmc_error"),
    "fourdvar": ("FourDVar", "WeakFourDVar"),
    "diagnostics": ("crps", "rank_histogram", "spread_skill"),
    "horizon": ("forecast_skill_horizon",),
    "consistency": ("chi_square", "desroziers", "dfs", "influence"),
    "spectrum": ("power_spectrum",),
    "lyapunov": ("kaplan_yorke", "lyapunov_spectrum"),
    "steps": ("RK4", "Euler", "Unrolled"),
    "network_steps": ("NetworkStep", "Residual", "Corrected", "CorrectedTendency"),
    "training": ("MultistepLoss", "multistep_loss"),
    "interpolation": ("interpolate_observations",),
    "learn": ("AlternatingLearning",),
    "through": ("train_through",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
