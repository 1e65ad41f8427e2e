"""Which form of solution costs least: the rules of ``method="auto"``."""

from __future__ import annotations

from typing import Any

from physml._errors import closest, refuse
from physml.assimilation.blue.forms import Ensemble, Form, ObservationSpace, StateSpace
from physml.assimilation.blue.iterative import ConjugateGradients
from physml.assimilation.blue.local import Local
from physml.assimilation.blue.precision import Precision

FORMS: dict[str, type[Form]] = {
    "observation": ObservationSpace,
    "state": StateSpace,
    "ensemble": Ensemble,
    "pcg": ConjugateGradients,
    "precision": Precision,
    "local": Local,
}
MOST_OBSERVATIONS = 5000
"""Largest m that is solved by Cholesky in observation space: 200 MB and some seconds."""
MOST_STATES = 5000
"""Largest rank of B that is solved by Cholesky in state space."""
MOST_COLUMNS = 2**27
"""Largest number of elements of B H^T that is formed where B is an operator (1 GB)."""
MOST_FACTORISED = 200_000
"""Largest n whose posterior precision is factorised: beyond, its factors fill the memory."""
FEW_OBSERVATIONS = 200
"""Below, m products with B cost less than the factors of the posterior precision."""


def checked(method: str) -> str:
    """Return the name of a method, or refuse it."""
    if method not in ("auto", *FORMS):
        what = f"method {method!r} is unknown{closest(method, list(FORMS))}"
        refuse(what, ("auto", *FORMS), method, "take one of them")
    return method


def chosen(
    method: str, m: int | None, background: Any = None, in_time: bool = False, learned: bool = False
) -> type[Form]:
    """Return the form of solution for m observations (None: not known) of a background error.

    ==========================================================================  ===================
    where                                                                       form
    ==========================================================================  ===================
    B of an ensemble of fewer members than observations                         ensemble
    B^-1 sparse, more than 200 observations, at most 200 000 elements           precision
    at most 5 000 observations (and B H^T at most 1 GB where B is an operator)  observation space
    B a function of position                                                    local
    rank of B at most 5 000                                                     state space
    else                                                                        conjugate gradients
    ==========================================================================  ===================

    *background* None stands for a B that is a function of position. The inverse of a B some of whose parameters are *learned*
    is not factorised: its derivative is not known.
    """
    count = 0 if m is None else m
    if method != "auto":
        if in_time and method != "observation":
            what = f"method {method!r} knows no errors that are correlated in time"
            refuse(what, "'observation', or no time_length", method, "method='observation'")
        if method == "ensemble" and getattr(background, "anomalies", None) is None:
            refuse("B is not that of an ensemble", "Ensemble(...)", type(background).__name__, "method='state'")
        if method == "precision" and learned:
            what = "method 'precision' has no derivative by the parameters of B"
            refuse(what, "a fixed B", "parameters of B in trainable=", "method='auto', or trainable=['error_std']")
        if method == "precision" and getattr(background, "precision", None) is None:
            refuse("B has no sparse inverse", "Diffusion(...)", type(background).__name__, "method='auto'")
        if method == "local" and background is not None:
            remedy = "Gaussian(...) or Matern(...), or method='auto'"
            refuse("local analyses need B as a function of position", "a kernel", type(background).__name__, remedy)
        return FORMS[method]
    if in_time:
        return ObservationSpace
    if background is None:
        return ObservationSpace if count <= MOST_OBSERVATIONS else Local
    if background.anomalies is not None and background.rank < max(count, 1):
        return Ensemble
    if FEW_OBSERVATIONS < count and background.size <= MOST_FACTORISED and not learned:
        if background.precision is not None:
            return Precision
    if count <= MOST_OBSERVATIONS and count * background.size <= MOST_COLUMNS:
        return ObservationSpace
    return StateSpace if background.rank <= MOST_STATES else ConjugateGradients


def key(form: type[Form]) -> str:
    """Return the name of the method that asks for a form."""
    return next(name for name, known in FORMS.items() if known is form)
