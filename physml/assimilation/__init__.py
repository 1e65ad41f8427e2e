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
Rooms, each knowing those below it:

===============  ===========================================================================================
``learning``     alternately (assimilate, train, again) and end to end
``cycling``      :class:`Cycle`: labelled runs of time steps and analyses, stored and resumed
``blue``         the best linear unbiased estimate in each form of its solution
``methods``      Kalman, ensemble and variational methods, and what runs them on arrays
``diagnostics``  whether an assimilation is as good as it claims; Lyapunov exponents, horizons, spectra
``observing``    observations of every kind
``vector``       labelled fields as a state vector
``method``       what a method is: the one page to read before writing another
``errors``       error covariances and their products with a state vector
``steps``        time steps
===============  ===========================================================================================

The public names below are imported when they are first used: ``import physml.assimilation`` loads no Keras.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physml.assimilation.blue.analysis import analyse as analyse
    from physml.assimilation.blue.cross_validation import leave_out as leave_out
    from physml.assimilation.blue.grid_blue import BLUE as BLUE
    from physml.assimilation.blue.layer import Analysis as Analysis
    from physml.assimilation.blue.layer import Influence as Influence
    from physml.assimilation.blue.likelihood import fit_background_error as fit_background_error
    from physml.assimilation.blue.likelihood import innovation_likelihood as innovation_likelihood
    from physml.assimilation.blue.state_blue import StateBLUE as StateBLUE
    from physml.assimilation.cycling.cycle import Cycle as Cycle
    from physml.assimilation.diagnostics.consistency import chi_square as chi_square
    from physml.assimilation.diagnostics.consistency import desroziers as desroziers
    from physml.assimilation.diagnostics.consistency import dfs as dfs
    from physml.assimilation.diagnostics.consistency import influence as influence
    from physml.assimilation.diagnostics.horizon import forecast_skill_horizon as forecast_skill_horizon
    from physml.assimilation.diagnostics.lyapunov import kaplan_yorke as kaplan_yorke
    from physml.assimilation.diagnostics.lyapunov import lyapunov_spectrum as lyapunov_spectrum
    from physml.assimilation.diagnostics.spectrum import power_spectrum as power_spectrum
    from physml.assimilation.diagnostics.spread import crps as crps
    from physml.assimilation.diagnostics.spread import rank_histogram as rank_histogram
    from physml.assimilation.diagnostics.spread import spread_skill as spread_skill
    from physml.assimilation.errors.background import Background as Background
    from physml.assimilation.errors.background import bind as bind
    from physml.assimilation.errors.background import draw as draw
    from physml.assimilation.errors.climatology import climatology_error as climatology_error
    from physml.assimilation.errors.climatology import nmc_error as nmc_error
    from physml.assimilation.errors.combine import Dense as Dense
    from physml.assimilation.errors.combine import Ensemble as Ensemble
    from physml.assimilation.errors.combine import Hybrid as Hybrid
    from physml.assimilation.errors.combine import Sum as Sum
    from physml.assimilation.errors.covariance import Diagonal as Diagonal
    from physml.assimilation.errors.covariance import GaspariCohn as GaspariCohn
    from physml.assimilation.errors.covariance import Gaussian as Gaussian
    from physml.assimilation.errors.covariance import Matern as Matern
    from physml.assimilation.errors.diffusion import Diffusion as Diffusion
    from physml.assimilation.errors.drawing import perturb as perturb
    from physml.assimilation.errors.drawing import probed_variance as probed_variance
    from physml.assimilation.errors.localisation import gaspari_cohn as gaspari_cohn
    from physml.assimilation.errors.multivariate import Balance as Balance
    from physml.assimilation.errors.multivariate import Blocks as Blocks
    from physml.assimilation.errors.multivariate import Kronecker as Kronecker
    from physml.assimilation.errors.multivariate import Regression as Regression
    from physml.assimilation.errors.plane import Plane as Plane
    from physml.assimilation.learning.interpolation import interpolate_observations as interpolate_observations
    from physml.assimilation.learning.learn import AlternatingLearning as AlternatingLearning
    from physml.assimilation.learning.through import train_through as train_through
    from physml.assimilation.learning.training import MultistepLoss as MultistepLoss
    from physml.assimilation.learning.training import multistep_loss as multistep_loss
    from physml.assimilation.methods.ensemble import ETKF as ETKF
    from physml.assimilation.methods.ensemble import EnKF as EnKF
    from physml.assimilation.methods.ensemble import EnSRF as EnSRF
    from physml.assimilation.methods.envar import HybridEnVar as HybridEnVar
    from physml.assimilation.methods.finite_size import EnKFN as EnKFN
    from physml.assimilation.methods.fourdvar import FourDVar as FourDVar
    from physml.assimilation.methods.fourdvar import WeakFourDVar as WeakFourDVar
    from physml.assimilation.methods.kalman import ExtendedKalman as ExtendedKalman
    from physml.assimilation.methods.kalman import Kalman as Kalman
    from physml.assimilation.methods.kalman import OptimalInterpolation as OptimalInterpolation
    from physml.assimilation.methods.letkf import LETKF as LETKF
    from physml.assimilation.methods.runner import Runner as Runner
    from physml.assimilation.methods.runner import drive as drive
    from physml.assimilation.methods.smoother import EnKS as EnKS
    from physml.assimilation.methods.variational import ThreeDVar as ThreeDVar
    from physml.assimilation.network_steps import Corrected as Corrected
    from physml.assimilation.network_steps import CorrectedTendency as CorrectedTendency
    from physml.assimilation.network_steps import NetworkStep as NetworkStep
    from physml.assimilation.network_steps import Residual as Residual
    from physml.assimilation.observing.columns import ColumnObservations as ColumnObservations
    from physml.assimilation.observing.gridded import GridObservations as GridObservations
    from physml.assimilation.observing.grids import bilinear as bilinear
    from physml.assimilation.observing.grids import observe as observe
    from physml.assimilation.observing.grids import random_positions as random_positions
    from physml.assimilation.observing.joint import JointObservations as JointObservations
    from physml.assimilation.observing.observations import PointObservations as PointObservations
    from physml.assimilation.observing.operators import CallableObservations as CallableObservations
    from physml.assimilation.observing.operators import LinearObservations as LinearObservations
    from physml.assimilation.observing.superobbing import superob as superob
    from physml.assimilation.steps import RK4 as RK4
    from physml.assimilation.steps import Euler as Euler
    from physml.assimilation.steps import Unrolled as Unrolled

_MODULES = {
    "observing.observations": ("PointObservations",),
    "observing.gridded": ("GridObservations",),
    "observing.operators": ("CallableObservations", "LinearObservations"),
    "observing.columns": ("ColumnObservations",),
    "observing.joint": ("JointObservations",),
    "observing.superobbing": ("superob",),
    "observing.grids": ("bilinear", "observe", "random_positions"),
    "blue.grid_blue": ("BLUE",),
    "blue.state_blue": ("StateBLUE",),
    "blue.layer": ("Analysis", "Influence"),
    "blue.cross_validation": ("leave_out",),
    "blue.analysis": ("analyse",),
    "cycling.cycle": ("Cycle",),
    "errors.background": ("Background", "bind", "draw"),
    "errors.covariance": ("Diagonal", "GaspariCohn", "Gaussian", "Matern"),
    "errors.combine": ("Dense", "Ensemble", "Hybrid", "Sum"),
    "errors.multivariate": ("Balance", "Blocks", "Kronecker", "Regression"),
    "errors.plane": ("Plane",),
    "errors.diffusion": ("Diffusion",),
    "errors.drawing": ("perturb", "probed_variance"),
    "blue.likelihood": ("fit_background_error", "innovation_likelihood"),
    "errors.localisation": ("gaspari_cohn",),
    "methods.kalman": ("Kalman", "ExtendedKalman", "OptimalInterpolation"),
    "methods.ensemble": ("EnKF", "EnSRF", "ETKF"),
    "methods.letkf": ("LETKF",),
    "methods.finite_size": ("EnKFN",),
    "methods.smoother": ("EnKS",),
    "methods.runner": ("Runner", "drive"),
    "methods.variational": ("ThreeDVar",),
    "methods.envar": ("HybridEnVar",),
    "errors.climatology": ("climatology_error", "nmc_error"),
    "methods.fourdvar": ("FourDVar", "WeakFourDVar"),
    "diagnostics.spread": ("crps", "rank_histogram", "spread_skill"),
    "diagnostics.horizon": ("forecast_skill_horizon",),
    "diagnostics.consistency": ("chi_square", "desroziers", "dfs", "influence"),
    "diagnostics.spectrum": ("power_spectrum",),
    "diagnostics.lyapunov": ("kaplan_yorke", "lyapunov_spectrum"),
    "steps": ("RK4", "Euler", "Unrolled"),
    "network_steps": ("NetworkStep", "Residual", "Corrected", "CorrectedTendency"),
    "learning.training": ("MultistepLoss", "multistep_loss"),
    "learning.interpolation": ("interpolate_observations",),
    "learning.learn": ("AlternatingLearning",),
    "learning.through": ("train_through",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
