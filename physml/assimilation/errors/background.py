"""B on a state vector: products with B, with a root U of it (B = U U^T) and with U^T, without B itself where it is large.

:func:`bind` makes one from what a user says of the errors (:mod:`physml.assimilation.errors.covariance` and its neighbours) and from
where the elements of the state lie (:class:`physml.assimilation.errors.domain.Domain`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from physml import _backend
from physml._errors import refuse

LARGEST_DENSE = 5000
"""Number of elements up to which matrices ``[n, n]`` are formed (200 MB)."""


class Background:
    """Base: a covariance of n elements. Subclasses give :meth:`root` and :meth:`root_adjoint`; the rest follows.

    Arrays are float64 tensors; vectors lie along the last axis.
    """

    size: int
    """n."""
    rank: int
    """Number of columns r of the root U."""
    anomalies: Any = None
    """Rows A ``[N, n]`` with B = A^T A, where B is that of an ensemble; else None."""

    def root(self, c: Any) -> Any:
        """Return U c, ``[..., n]`` from ``[..., r]``."""
        raise NotImplementedError

    def root_adjoint(self, x: Any) -> Any:
        """Return U^T x, ``[..., r]`` from ``[..., n]``."""
        raise NotImplementedError

    def times(self, x: Any) -> Any:
        """Return B x, ``[..., n]``."""
        return self.root(self.root_adjoint(x))

    def dense(self) -> Any:
        """Return B ``[n, n]``; for small n."""
        if self.size > 4 * LARGEST_DENSE:
            refuse("B is too large to form", f"at most {4 * LARGEST_DENSE} elements", self.size, "use times(x)")
        return self.times(ops.eye(self.size, dtype="float64"))

    def diagonal(self) -> Any:
        """Return the variances ``[n]``."""
        if self.size > LARGEST_DENSE:
            remedy = "probed_variance(background, probes=, seed=) estimates them with their standard error"
            refuse("the variances of B need B", f"at most {LARGEST_DENSE} elements", self.size, remedy)
        return ops.diagonal(self.dense())

    @property
    def precision(self) -> Any:
        """B^-1 as a ``scipy.sparse`` matrix where it is sparse, else None."""
        return None


class Dense(Background):
    """B as a matrix ``[n, n]``, symmetric and positive semi-definite; its root from the eigenvectors."""

    def __init__(self, matrix: Any) -> None:
        b = np.asarray(matrix, "float64")
        if b.ndim != 2 or b.shape[0] != b.shape[1]:
            refuse("Dense: B is no square matrix", "[n, n]", b.shape, "pass the covariance of the state vector")
        if not np.isfinite(b).all():
            refuse("Dense: B is not finite", "finite values", "NaN or inf", "leave masked cells out of the state")
        if np.abs(b - b.T).max(initial=0) > 1e-10 * np.abs(b).max(initial=0):
            refuse("Dense: B is not symmetric", "B = B^T", f"they differ by {np.abs(b - b.T).max():g}", "(B + B.T) / 2")
        values, vectors = np.linalg.eigh((b + b.T) / 2)
        if values[0] < -1e-10 * max(values[-1], 0.0):
            refuse("Dense: B is not positive semi-definite", "eigenvalues >= 0", f"{values[0]:g}", "set them to 0")
        keep = values > 1e-14 * values[-1]
        self.matrix = b
        self._root = vectors[:, keep] * np.sqrt(values[keep])
        self.size, self.rank = self._root.shape

    def root(self, c: Any) -> Any:
        """Return U c."""
        return ops.matmul(c, self._root.T)

    def root_adjoint(self, x: Any) -> Any:
        """Return U^T x."""
        return ops.matmul(x, self._root)

    def times(self, x: Any) -> Any:
        """Return B x."""
        return ops.matmul(x, self.matrix)

    def dense(self) -> Any:
        """Return B."""
        return ops.convert_to_tensor(self.matrix)

    def diagonal(self) -> Any:
        """Return the variances."""
        return ops.convert_to_tensor(np.diag(self.matrix).copy())


class Independent(Background):
    """B = diag(std^2)."""

    def __init__(self, std: Any) -> None:
        self.std = std
        self.size = self.rank = int(std.shape[0])

    def root(self, c: Any) -> Any:
        """Return std c."""
        return self.std * c

    def root_adjoint(self, x: Any) -> Any:
        """Return std x."""
        return self.std * x

    def times(self, x: Any) -> Any:
        """Return std^2 x."""
        return ops.square(self.std) * x

    def dense(self) -> Any:
        """Return B."""
        return ops.diag(self.diagonal())

    def diagonal(self) -> Any:
        """Return std^2."""
        return ops.square(ops.convert_to_tensor(self.std))

    @property
    def precision(self) -> Any:
        """B^-1, diagonal."""
        if not isinstance(self.std, np.ndarray):
            return None
        import scipy.sparse

        return scipy.sparse.diags_array(1 / np.square(self.std), format="csc")


def bind(
    error: Any,
    size: int | None = None,
    *,
    geometry: Any = None,
    shape: tuple[int, ...] | None = None,
    latitude: Any = None,
    longitude: Any = None,
    periodic: bool | None = None,
    mask: Any = None,
    channels: int | tuple[str, ...] = 1,
) -> Background:
    """Return a background error on a state vector.

    The state vector holds the wet cells by rows, and of each cell its channels: element = cell * channels + channel. Where
    there are several channels, an error that does not speak of them is that of each, independent of the others.

    Parameters
    ----------
    error
        A covariance (:class:`Gaussian`, :class:`Diffusion`, a sum, ...); a matrix ``[n, n]``; a standard deviation, as a number
        or as an array on the grid; or a :class:`Background`, which is returned.
    size
        n, where nothing else tells it.
    geometry
        Where the elements lie, :class:`physml.assimilation.method.Geometry`; distances are its.
    shape
        Shape of the grid in space, where it is not (latitude, longitude).
    latitude, longitude
        Centres of the cells [degrees], one-dimensional; distances are chords through the Earth [m].
    periodic
        Whether the first and the last longitude are neighbours.
    mask
        True on wet cells, of the shape of the grid; None: all are wet.
    channels
        Number of channels, or their names.

    Raises
    ------
    ValueError
        Where shapes do not fit, or the error needs a grid that is not given.

    Examples
    --------
    >>> bind(0.5, size=3).diagonal().numpy().tolist()
    [0.25, 0.25, 0.25]
    """
    from physml.assimilation.errors.domain import Domain

    if isinstance(error, Background):
        return error
    with _backend.float64():
        domain = Domain.of(error, size, geometry, shape, latitude, longitude, periodic, mask, channels)
        bound = domain.bound(error)
    if bound.size != domain.size:
        what = f"{type(error).__name__} does not fit the state"
        refuse(what, f"{domain.size} elements", bound.size, "pass the covariance of wet cells x channels")
    return bound


def draw(background: Background, rng: np.random.Generator, members: int) -> Any:
    """Return *members* draws ``[members, n]`` of errors of covariance B, U c with c from *rng*."""
    with _backend.float64():
        return background.root(ops.convert_to_tensor(rng.standard_normal((members, background.rank))))
