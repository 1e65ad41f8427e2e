"""Background errors of ensembles, matrices, sums and mixtures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from physml._errors import refuse
from physml.assimilation.errors import background, compose
from physml.assimilation.errors.background import Background
from physml.assimilation.errors.covariance import Covariance, GaspariCohn
from physml.assimilation.errors.domain import Domain, constant, is_constant


@keras.saving.register_keras_serializable(package="physml")
@dataclass(frozen=True, eq=False)
class Dense(Covariance):
    """B as a matrix.

    Parameters
    ----------
    matrix
        ``[n, n]`` on the elements of the state, symmetric and positive semi-definite.

    Raises
    ------
    ValueError
        Where the matrix is not square, not symmetric or not positive semi-definite.

    Examples
    --------
    >>> Dense([[1.0, 2.0], [2.0, 1.0]])
    Traceback (most recent call last):
    ValueError: Dense: B is not positive semi-definite. Expected: eigenvalues >= 0. Received: -1. Remedy: set them to 0.
    """

    matrix: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "_bound", background.Dense(self.matrix))
        object.__setattr__(self, "matrix", np.asarray(self.matrix, "float64"))

    def bind(self, domain: Domain) -> Background:
        """Return B."""
        return self._bound  # type: ignore[attr-defined]


@keras.saving.register_keras_serializable(package="physml")
@dataclass(frozen=True, eq=False)
class Ensemble(Covariance):
    """B of an ensemble, A^T A / (N - 1), maybe localised: multiplied element by element by a correlation of the cells.

    The product with a localised B costs N products with the correlation, and its root is that of the correlation times each
    anomaly: nothing is truncated.

    Parameters
    ----------
    members
        ``[N, n]``, on the elements of the state; their mean is taken away.
    localisation
        A covariance with std 1, such as ``GaspariCohn(1.0, 500e3)``; a number is the half-width of that; None: none. Channels
        of one cell are not localised from each other.

    References
    ----------
    Buehner, M. (2005), Ensemble-derived stationary and flow-dependent background-error covariances,
    doi:10.1256/qj.04.15.

    Examples
    --------
    >>> from physml.assimilation import bind
    >>> bind(Ensemble([[1.0, 2.0], [3.0, 6.0]])).dense().numpy().tolist()
    [[2.0, 4.0], [4.0, 8.0]]
    """

    members: Any
    localisation: Any = None

    def __post_init__(self) -> None:
        shape = np.shape(self.members)
        if len(shape) != 2 or shape[0] < 2:
            refuse("Ensemble: members have the wrong shape", "[N, n], N at least 2", shape, "pass an ensemble by rows")
        if is_constant(self.members) or isinstance(self.members, list | tuple):
            object.__setattr__(self, "members", np.asarray(self.members, "float64"))
            if not np.isfinite(self.members).all():
                refuse("Ensemble: members are not finite", "finite values", "NaN or inf", "drop those members")
        local = self.localisation
        if isinstance(local, int | float):
            object.__setattr__(self, "localisation", GaspariCohn(1.0, float(local)))

    @property
    def size(self) -> int:
        """N."""
        return int(np.shape(self.members)[1])

    def bind(self, domain: Domain) -> Background:
        """Return B."""
        members = constant(self.members)
        mean = members.mean(axis=0) if is_constant(members) else ops.mean(members, axis=0)
        rows = (members - mean) / np.sqrt(members.shape[0] - 1)
        if self.localisation is None:
            return compose.Anomalies(rows)
        correlation = self.localisation.bind(domain.one())
        if domain.channels > 1:
            correlation = compose.Kronecker(correlation, np.ones((domain.channels, domain.channels)))
        return compose.Anomalies(rows, correlation)


@keras.saving.register_keras_serializable(package="physml")
@dataclass(frozen=True, eq=False)
class Sum(Covariance):
    """B of the sum of independent errors, such as one of long and one of short scales; also written ``a + b``.

    Parameters
    ----------
    parts
        Covariances.
    """

    parts: Any

    def __post_init__(self) -> None:
        flat: list[Covariance] = []
        for part in self.parts:
            if not isinstance(part, Covariance):
                refuse("Sum: a part is no covariance", "covariances", type(part).__name__, "Diagonal(std) of a number")
            flat += part.parts if isinstance(part, Sum) else [part]
        object.__setattr__(self, "parts", tuple(flat))

    def bind(self, domain: Domain) -> Background:
        """Return the sum of all."""
        return compose.Total([p.bind(domain) for p in self.parts], [1.0] * len(self.parts))


@keras.saving.register_keras_serializable(package="physml")
@dataclass(frozen=True, eq=False)
class Hybrid(Covariance):
    """B = (1 - weight) static + weight ensemble.

    Parameters
    ----------
    static, ensemble
        Covariances.
    weight
        Between 0 and 1; may be a tensor.

    References
    ----------
    Hamill, T. M. and Snyder, C. (2000), A hybrid ensemble Kalman filter-3D variational analysis scheme,
    doi:10.1175/1520-0493(2000)128<2905:AHEKFV>2.0.CO;2.
    """

    static: Any
    ensemble: Any
    weight: Any = 0.5
    positive: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if is_constant(self.weight) and not 0 <= self.weight <= 1:
            refuse("Hybrid: weight is not between 0 and 1", "0 (static) to 1 (ensemble)", self.weight, "correct weight")

    @property
    def parameters(self) -> dict[str, Any]:
        """What may be learnt, the weight among it."""
        return {**super().parameters, "weight": self.weight}

    def bind(self, domain: Domain) -> Background:
        """Return the mixture."""
        weight = constant(self.weight)[()]
        if not is_constant(weight):
            # A search may step beyond the ends.
            weight = ops.clip(weight, 0.0, 1.0)
        return compose.Total([domain.bound(self.static), domain.bound(self.ensemble)], [1 - weight, weight])
