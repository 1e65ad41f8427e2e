"""Correlations on a regular plane grid, through Fourier transforms.

On a grid that closes in every dimension the correlation matrix is circulant: products with it and with its symmetric square
root are products with a spectrum. A dimension that does not close is continued beyond its end, out of reach of the correlation,
and cut off again, which is exact too. Land is cut out in the same way: it does not block (:class:`Diffusion` does).

The correlation of a plane that closes is the sum over all ways round, divided by its value at distance zero: so it is positive
whatever the length, where the kernel of the shortest way need not be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
import scipy.fft
from keras import ops

from physml import _backend
from physml._errors import refuse
from physml.assimilation.errors.background import Background
from physml.assimilation.errors.covariance import Covariance, Stationary
from physml.assimilation.errors.domain import Domain, is_constant


@keras.saving.register_keras_serializable(package="physml")
@dataclass(frozen=True, eq=False)
class Plane(Covariance):
    """A :class:`Gaussian`, :class:`Matern` or :class:`GaspariCohn` covariance on a regular plane grid of one or two dimensions.

    Parameters
    ----------
    kernel
        Standard deviation, and length in the unit of *spacing*.
    spacing
        Distance between cells, one for all dimensions or one for each.
    periodic
        Whether the dimensions close, one for all or one for each.
    reach
        Distance beyond which the correlation is zero to rounding. None: as the kernel's length asks; pass more where the length
        is learnt and may grow.

    Examples
    --------
    >>> from physml.assimilation import Gaussian, bind
    >>> ring = bind(Plane(Gaussian(2.0, length=3.0), spacing=1.0, periodic=True), shape=(40,))
    >>> ring.diagonal().numpy()[:2].round(12).tolist()
    [4.0, 4.0]
    """

    kernel: Any
    spacing: Any
    periodic: Any
    reach: float | None = None
    positive: ClassVar[tuple[str, ...]] = ("spacing",)

    def __post_init__(self) -> None:
        if not isinstance(self.kernel, Stationary):
            refuse("Plane: unknown kernel", "Gaussian, Matern or GaspariCohn", type(self.kernel).__name__, "pass one")
        for name in ("spacing", "periodic"):
            value = np.asarray(getattr(self, name)).tolist()
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)
        if not (np.asarray(self.spacing) > 0).all():
            refuse("Plane: spacing is not positive", "> 0", self.spacing, "pass the distance between cells")
        if self.reach is None:
            if not is_constant(self.kernel.length):
                remedy = "pass reach=, some 40 lengths of a Matern, 9 of a Gaussian"
                refuse("Plane: the reach of a length that is a tensor is not known", "reach=", None, remedy)
            object.__setattr__(self, "reach", float(self.kernel.reach * np.max(self.kernel.length)))

    @property
    def parameters(self) -> dict[str, Any]:
        """What may be learnt: ``"kernel.std"`` and ``"kernel.length"``."""
        return {f"kernel.{n}": v for n, v in self.kernel.parameters.items()}

    def bind(self, domain: Domain) -> Background:
        """Return B on the elements of a domain."""
        if len(domain.shape) > 2:
            remedy = "a grid of one or two dimensions; Kronecker(between, within) adds levels"
            refuse("Plane: the grid has too many dimensions", "one or two", domain.shape, remedy)
        dims = len(domain.shape)
        spacing, periodic = (np.broadcast_to(a, (dims,)).tolist() for a in (self.spacing, self.periodic))
        return domain.each(Circulant(self.kernel, domain, spacing, periodic, float(self.reach)), self.kernel.std)  # type: ignore[arg-type]


class Circulant(Background):
    """The correlation of a plane grid by its spectrum; its root is symmetric, from white noise on the continued grid."""

    def __init__(
        self, kernel: Stationary, domain: Domain, spacing: list[float], periodic: list[bool], reach: float
    ) -> None:
        self.kernel, self.domain, self.spacing = kernel, domain, spacing
        far = [int(np.ceil(reach / dx)) for dx in spacing]
        around = zip(domain.shape, far, periodic, strict=True)
        self.whole = tuple(n if closed else scipy.fft.next_fast_len(n + k, real=True) for n, k, closed in around)
        # How often around a dimension the correlation reaches; a continued one is longer than that.
        self.turns = [
            int(np.ceil(reach / (n * dx) - 0.5)) if closed else 0
            for n, dx, closed in zip(self.whole, spacing, periodic, strict=True)
        ]
        self.size, self.rank = domain.cells, int(np.prod(self.whole))
        self._fixed = None
        if is_constant(kernel.length):
            with _backend.eager():
                self._fixed = np.array(ops.convert_to_numpy(self._spectrum(float(kernel.length))))

    def _spectrum(self, length: Any) -> Any:
        """Return the spectrum of the correlation, half of the last dimension."""
        # Every way round each dimension: [turn, cell] squared distances.
        squares = [
            np.square(dx * (((np.arange(n) + n // 2) % n - n // 2) + n * np.arange(-m, m + 1)[:, None]))
            for n, dx, m in zip(self.whole, self.spacing, self.turns, strict=True)
        ]
        total: Any = 0.0
        for rows in squares[0]:
            r2 = rows if len(squares) == 1 else rows[:, None] + squares[1][:, None, :]
            kernel = self.kernel.shape(ops.convert_to_tensor(r2) / length**2)
            total = total + (kernel if len(squares) == 1 else ops.sum(kernel, axis=0))
        first = ops.reshape(total, (-1,))[0]
        return _backend.real_spectrum(total / first)

    @property
    def spectrum(self) -> Any:
        """Eigenvalues of the correlation of the continued grid."""
        return self._spectrum(ops.cast(self.kernel.length, "float64")) if self._fixed is None else self._fixed

    @property
    def _root_spectrum(self) -> Any:
        if self._fixed is not None:
            return np.sqrt(np.maximum(self._fixed, 0.0))
        # Not from zero: the derivative of the square root is infinite there.
        return ops.sqrt(ops.maximum(self.spectrum, 1e-30))

    def times(self, x: Any) -> Any:
        """Return C x."""
        return self._cells(_backend.filtered(self.domain.to_grid(x), self.spectrum, self.whole))

    def root(self, c: Any) -> Any:
        """Return U c."""
        fields = ops.reshape(c, (*ops.shape(c)[:-1], *self.whole))
        return self._cells(_backend.filtered(fields, self._root_spectrum, self.whole))

    def root_adjoint(self, x: Any) -> Any:
        """Return U^T x."""
        c = _backend.filtered(self.domain.to_grid(x), self._root_spectrum, self.whole)
        return ops.reshape(c, (*ops.shape(x)[:-1], self.rank))

    def _cells(self, fields: Any) -> Any:
        return self.domain.to_cells(fields[(..., *(slice(n) for n in self.domain.shape))])

    def diagonal(self) -> Any:
        """Return ones."""
        return ops.ones((self.size,), dtype="float64")
