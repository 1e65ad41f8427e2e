"""Correlations by implicit diffusion: coasts block.

The solution u of (I - l^2 div grad)^(p/2) u = white noise, with no flux through coasts, has in the open plane the Matern
correlation of order nu = p - 1 and of length l sqrt(2 nu) (Whittle 1954; Lindgren et al. 2011). With finite volumes, areas D and
A = D + l^2 G, where G is minus the integrated Laplacian, symmetric and sparse:

    F_p = A^-1 (D A^-1)^(p-1),   C = V^-1/2 F_p V^-1/2,   V = diag F_p,   B = Sigma C Sigma.

A is factorised once, and every product costs p solves. V, which makes C a correlation beside coasts too, is exact
(:mod:`physml.assimilation.errors.normalisation`). By the length, dF_p / d log l = 2 p (F_(p+1) - F_p): a derivative costs one solve more.

References
----------
Lindgren, F., Rue, H. and Lindstrom, J. (2011), An explicit link between Gaussian fields and Gaussian Markov random fields,
doi:10.1111/j.1467-9868.2011.00777.x.
Weaver, A. and Courtier, P. (2001), Correlation modelling on the sphere using a generalized diffusion equation,
doi:10.1002/qj.49712757518.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np

from physml._errors import refuse
from physml.assimilation.errors.background import Background
from physml.assimilation.errors.covariance import Covariance
from physml.assimilation.errors.domain import Domain, constant
from physml.assimilation.errors.implicit import Implicit
from physml.assimilation.errors.mesh import plane, sphere


@keras.saving.register_keras_serializable(package="physml")
@dataclass(frozen=True, eq=False)
class Diffusion(Covariance):
    """Matern correlation of order nu = *order* - 1 that goes round land, not across it.

    Parameters
    ----------
    std
        Standard deviation, a number or a field, in the units of the field.
    length
        Correlation length as of ``Matern(nu=order - 1)`` [m], a number or a field on the grid.
    order
        p, at least 2.
    spacing
        On a plane grid, distance between rows and between columns [m]. None: the grid is of latitude and longitude.
    periodic
        On a plane grid, whether the first and the last row, and column, are neighbours: (y, x), or one for both.
    probes
        Normalise by so many random probes instead of exactly: their standard error is 1 / sqrt(2 probes) of the standard
        deviation. For lengths of very many cells.

    Examples
    --------
    >>> from physml.assimilation import bind
    >>> error = Diffusion(0.5, 3.0, spacing=(1.0, 1.0), periodic=(False, False))
    >>> bind(error, shape=(6, 8)).diagonal().numpy()[:2].round(12).tolist()
    [0.25, 0.25]
    """

    std: Any
    length: Any
    order: int = 2
    spacing: Any = None
    periodic: Any = None
    probes: int | None = None
    positive: ClassVar[tuple[str, ...]] = ("std", "length")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.order, int | np.integer) or self.order < 2:
            remedy = "order 1 has no finite variance in two dimensions"
            refuse("Diffusion: the order is too low", "2, 3, ...", self.order, remedy)
        if self.probes is not None and self.probes < 2:
            refuse("Diffusion: too few probes", "2 or more, or None", self.probes, "pass probes=1000, or None")
        if (self.spacing is None) != (self.periodic is None):
            received, remedy = (
                "one without the other",
                "pass both on a plane grid, neither on one of latitude and longitude",
            )
            refuse("Diffusion: spacing and periodic belong together", "both, or neither", received, remedy)
        for name in ("spacing", "periodic"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(np.broadcast_to(np.asarray(value), (2,)).tolist()))

    def bind(self, domain: Domain) -> Background:
        """Return B on the elements of a domain."""
        if len(domain.shape) != 2:
            remedy = "bind(..., latitude=, longitude=), or shape=(ny, nx); Kronecker(between, within) adds levels"
            refuse("Diffusion needs a grid of two dimensions", "(latitude, longitude)", domain.shape, remedy)
        if self.spacing is None and not domain.spherical:
            refuse("Diffusion: the metric is not known", "latitude= and longitude=, or spacing=", None, "pass one")
        mesh = sphere(domain) if self.spacing is None else plane(domain, self.spacing, self.periodic)
        length = constant(self.length)
        if tuple(length.shape):
            length = domain.one().spread(length)
        return domain.each(Implicit(mesh, length, int(self.order), self.probes), self.std)
