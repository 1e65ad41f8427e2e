"""Error covariances on the sphere, and their products with H.

B = Sigma C Sigma: standard deviations times a correlation that falls with distance, and with time where it has a
*time_length*. Distance is the chord through the Earth, in metres: a Gaussian of the great-circle distance, and a Matern
function of it smoother than nu = 1/2, are not positive definite on the sphere (Gneiting 2013); of the chord every one
is, because it is so in space. At 500 km chord and arc differ by 3 parts in 10 000.

References
----------
Gneiting, T. (2013), Strictly and non-strictly positive definite functions on spheres, doi:10.3150/12-BEJSP06.
Guinness, J. and Fuentes, M. (2016), Isotropic covariance functions on spheres, doi:10.1016/j.jmva.2015.08.018.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
import scipy.optimize
from keras import ops

from physml import _backend
from physml._errors import closest
from physml.assimilation.observations import PointObservations, duration, refuse, seconds
from physml.grid import EARTH_RADIUS

Kernel: TypeAlias = Callable[[Any, Any], Any]
Kernels: TypeAlias = tuple[Kernel, Kernel]


def unit_vectors(latitude: Any, longitude: Any) -> np.ndarray:
    """Return the points of the unit sphere ``[..., 3]`` at latitudes and longitudes [degrees], in float64."""
    phi, lam = np.deg2rad(np.asarray(latitude, "float64")), np.deg2rad(np.asarray(longitude, "float64"))
    phi, lam = np.broadcast_arrays(phi, lam)
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=-1)


def squared_chord(a: Any, b: Any) -> Any:
    """Return the squared chords ``[..., a, b]``, in radii, between unit vectors ``[..., a, 3]`` and ``[..., b, 3]``."""
    # By differences: 2 - 2 a.b would leave 0.1 m on the Earth between a point and itself.
    parts = [ops.square(a[..., :, None, i] - b[..., None, :, i]) for i in range(3)]
    return parts[0] + parts[1] + parts[2]


def is_constant(value: Any) -> bool:
    """Tell whether *value* is a number or a NumPy array, not a tensor that a gradient may be asked for."""
    return isinstance(value, int | float | np.generic | np.ndarray)


@dataclass(frozen=True, eq=False)
class Covariance:
    """Base of all covariances: a standard deviation, and a correlation that subclasses give.

    ``std`` and the parameters named by :meth:`log_derivatives` are plain attributes; ``dataclasses.replace`` may put tensors
    (the weights of a layer) in their place, and the analysis is then differentiable in them.
    """

    std: Any

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if is_constant(value) and not (np.asarray(value) > 0).all():
                what = f"{type(self).__name__}: {field.name} is not positive"
                refuse(
                    what, "> 0, in units of the field, [m] or [s]", np.min(np.asarray(value)), f"correct {field.name}"
                )

    def correlation(self, a: Any, b: Any) -> Any:
        """Return the correlation in space ``[..., a, b]`` between unit vectors ``[..., a, 3]`` and ``[..., b, 3]``."""
        raise NotImplementedError

    def time_correlation(self, a: Any, b: Any) -> Any:
        """Return the correlation in time ``[..., a, b]`` between times ``[..., a]`` and ``[..., b]`` [s]."""
        raise NotImplementedError

    def log_derivatives(self) -> dict[str, Kernels]:
        """Return, by parameter p, the kernels in space and time whose product is dC / d log p."""
        return {}

    @property
    def in_time(self) -> bool:
        """Whether errors of different times are correlated."""
        return False

    def covariance(self, a: tuple[Any, ...], b: tuple[Any, ...], *, std_a: Any = None, std_b: Any = None) -> np.ndarray:
        """Return the covariances ``[a, b]`` between two sets of points, in float64.

        Parameters
        ----------
        a, b
            ``(latitude, longitude)`` [degrees] or ``(latitude, longitude, time)``, with time in [s].
        std_a, std_b
            Standard deviations at the points; needed where ``std`` is a field.

        Examples
        --------
        >>> Gaussian(std=2.0, length=500e3).covariance(([0.0], [0.0]), ([0.0, 0.0], [0.0, 360.0])).round(12)
        array([[4., 4.]])
        """
        if np.ndim(self.std) and (std_a is None or std_b is None):
            received = f"std of shape {np.shape(self.std)}"
            refuse(
                "the standard deviation is a field", "std_a and std_b at the points", received, "pass std_a=, std_b="
            )
        std_a = self.std if std_a is None else np.asarray(std_a)[:, None]
        std_b = self.std if std_b is None else np.asarray(std_b)[None, :]
        with _backend.float64():
            units = [ops.convert_to_tensor(unit_vectors(*points[:2])) for points in (a, b)]
            result = np.asarray(ops.convert_to_numpy(self.correlation(*units)))
            if len(a) > 2 and len(b) > 2 and self.in_time:
                times = [ops.convert_to_tensor(np.asarray(points[2], "float64")) for points in (a, b)]
                result = result * ops.convert_to_numpy(self.time_correlation(*times))
        return std_a * result * std_b

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        config = {}
        for field in fields(self):
            value = getattr(self, field.name)
            config[field.name] = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Covariance:
        """Return the covariance that :meth:`get_config` describes."""
        return cls(**{k: np.asarray(v) if isinstance(v, list) else v for k, v in config.items()})


@keras.saving.register_keras_serializable(package="physml")
@dataclass(frozen=True, eq=False)
class Diagonal(Covariance):
    """Errors without correlation: the usual R, or a B whose analysis changes the observed cells alone.

    Parameters
    ----------
    std
        Standard deviation, a number or a field, in the units of the field.
    """

    def correlation(self, a: Any, b: Any) -> Any:
        """Return 1 where the points are the same, else 0."""
        return ops.cast(squared_chord(a, b) == 0, "float64")


@dataclass(frozen=True, eq=False)
class _Stationary(Covariance):
    length: Any
    time_length: Any = None

    def __post_init__(self) -> None:
        if self.time_length is not None and (is_constant(self.time_length) or not hasattr(self.time_length, "dtype")):
            object.__setattr__(self, "time_length", duration(self.time_length))
        super().__post_init__()

    @property
    def in_time(self) -> bool:
        """Whether errors of different times are correlated."""
        return self.time_length is not None

    def shape(self, r2: Any) -> Any:
        """Return the correlation at the squared distance r2, in units of the length."""
        raise NotImplementedError

    def slope(self, r2: Any) -> Any:
        """Return -r d/dr of :meth:`shape`."""
        raise NotImplementedError

    def correlation(self, a: Any, b: Any) -> Any:
        """Return the correlation in space ``[..., a, b]``."""
        return self.shape(self._distance2(a, b))

    def time_correlation(self, a: Any, b: Any) -> Any:
        """Return the correlation in time ``[..., a, b]``, of the same form as in space."""
        return self.shape(self._lag2(a, b))

    def log_derivatives(self) -> dict[str, Kernels]:
        """Return the kernels of dC / d log length and dC / d log time_length."""
        by_length: Kernel = lambda a, b: self.slope(self._distance2(a, b))  # noqa: E731
        kernels: dict[str, Kernels] = {"length": (by_length, self.time_correlation)}
        if self.in_time:
            kernels["time_length"] = (self.correlation, lambda a, b: self.slope(self._lag2(a, b)))
        return kernels

    def _distance2(self, a: Any, b: Any) -> Any:
        return squared_chord(a, b) * (EARTH_RADIUS / self.length) ** 2

    def _lag2(self, a: Any, b: Any) -> Any:
        return ops.square((a[..., :, None] - b[..., None, :]) / self.time_length)


@keras.saving.register_keras_serializable(package="physml")
@dataclass(frozen=True, eq=False)
class Gaussian(_Stationary):
    """Correlation exp(-r^2 / 2), r = chord / length, times the same in time: very smooth fields.

    Parameters
    ----------
    std
        Standard deviation sigma_b, a number or a field on the grid, in the units of the field.
    length
        Correlation length [m].
    time_length
        Correlation time: "30D", a timedelta, or [s]. None: times are not correlated.
    """

    def shape(self, r2: Any) -> Any:
        """Return exp(-r^2 / 2)."""
        return ops.exp(-0.5 * r2)

    def slope(self, r2: Any) -> Any:
        """Return r^2 exp(-r^2 / 2)."""
        return r2 * ops.exp(-0.5 * r2)


def _root(r2: Any, nu: float) -> Any:
    # The tiny number keeps the derivative of the root finite at zero distance.
    return ops.sqrt(2 * nu * r2 + 1e-30)


def _slope12(s: Any) -> Any:
    return s * ops.exp(-s)


_MATERN: dict[float, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    0.5: (lambda s: ops.exp(-s), _slope12),
    1.5: (lambda s: (1 + s) * ops.exp(-s), lambda s: s * _slope12(s)),
    2.5: (lambda s: (1 + s + s * s / 3) * ops.exp(-s), lambda s: s * (1 + s) / 3 * _slope12(s)),
}


@keras.saving.register_keras_serializable(package="physml")
@dataclass(frozen=True, eq=False)
class Matern(_Stationary):
    """Matern correlation of s = sqrt(2 nu) r, r = chord / length, times the same in time.

    exp(-s) for nu = 1/2, (1 + s) exp(-s) for 3/2, (1 + s + s^2 / 3) exp(-s) for 5/2: the field has 0, 1, 2 derivatives.

    Parameters
    ----------
    std, length, time_length
        As in :class:`Gaussian`.
    nu
        Smoothness: 0.5, 1.5 or 2.5.
    """

    nu: float = 1.5

    def __post_init__(self) -> None:
        if self.nu not in _MATERN:
            remedy = "take the nearest, or Gaussian(...) for a very smooth field"
            refuse("Matern: nu has no closed form here", "0.5, 1.5 or 2.5", self.nu, remedy)
        super().__post_init__()

    def shape(self, r2: Any) -> Any:
        """Return the Matern function of order nu."""
        return _MATERN[self.nu][0](_root(r2, self.nu))

    def slope(self, r2: Any) -> Any:
        """Return -r times its derivative."""
        return _MATERN[self.nu][1](_root(r2, self.nu))


@dataclass(frozen=True, eq=False)
class ObservedCovariance:
    """B seen by H: B H^T and H B H^T from the corners of the observations, without B.

    ``p`` below is 1 where all fields of a batch share their positions, else the size of the batch.
    """

    background: Covariance
    unit: Any
    """Unit vectors of the wet cells, ``[n, 3]``."""
    std: Any
    """Standard deviations of the wet cells, ``[n]``."""
    index: Any
    """Corners of the observations among the wet cells, ``[p, m, 4]``."""
    weights: Any
    """Weights of the corners, ``[p, m, 4]``."""
    lag: Any = None
    """Times of the observations since the analysis [s], ``[p, m]``; None: all are of its time."""

    def corner(self, k: int) -> tuple[Any, Any]:
        """Return the unit vectors ``[p, m, 3]`` and standard deviations ``[p, m]`` of the k-th corners."""
        return ops.take(self.unit, self.index[..., k], axis=0), ops.take(self.std, self.index[..., k], axis=0)

    def cross(
        self, unit: Any, std: Any, lag: Any, kernels: Kernels | None = None, corners: Iterable[int] = range(4)
    ) -> Any:
        """Return B H^T between points and the observations, ``[p, points, m]``, or what some corners add to it."""
        space, time = kernels or (self.background.correlation, self.background.time_correlation)
        total: Any = 0.0
        for k in corners:
            corner_unit, corner_std = self.corner(k)
            total = total + space(unit, corner_unit) * (self.weights[..., k] * corner_std)[..., None, :]
        if self.lag is not None and self.background.in_time:
            total = total * time(lag, self.lag)
        return total * std[..., :, None]

    def at_cells(self, cells: slice = slice(None), kernels: Kernels | None = None) -> Any:
        """Return B H^T at some of the wet cells, ``[p, cells, m]``."""
        now = ops.zeros((1,), dtype="float64")
        return self.cross(self.unit[cells], self.std[cells], now, kernels)

    def at_observations(self, kernels: Kernels | None = None) -> Any:
        """Return H B H^T, ``[p, m, m]``."""
        corners = [(self.weights[..., k, None], *self.corner(k)) for k in range(4)]
        return sum(weights * self.cross(unit, std, self.lag, kernels) for weights, unit, std in corners)

    def sample(self, x: Any) -> Any:
        """Return H x, ``[o, m, k]``, from ``[o, n, k]``; p is 1 or o."""
        flat, index, weights = self._flat(x)
        return ops.sum(ops.take(flat, index, axis=0) * weights, axis=-2)

    def spread(self, z: Any, like: Any) -> Any:
        """Return H^T z, ``[o, n, k]`` like *like*, from ``[o, m, k]``."""
        flat, index, weights = self._flat(like)
        values = ops.reshape(ops.expand_dims(z, -2) * weights, (-1, like.shape[-1] or ops.shape(like)[-1]))
        sums = ops.segment_sum(values, ops.reshape(index, (-1,)), num_segments=ops.shape(flat)[0])
        return ops.reshape(sums, ops.shape(like))

    def std_gradient(self, gain: Any, w: Any, z: Any, a: Any) -> Any:
        """Return dl/dstd ``[n]`` of a^T B H^T w - z^T H B H^T w, w and z held: cells count as targets and as corners."""
        total = ops.sum(a * ops.matmul(gain, w), axis=(0, 2)) / self.std
        now = ops.zeros((1,), dtype="float64")
        for k in range(4):
            unit, std = self.corner(k)
            to_cells = self.cross(self.unit, self.std, now, corners=[k])
            to_observations = self.cross(unit, std, self.lag)
            both = z * ops.matmul(to_observations, w) + w * ops.matmul(to_observations, z)
            at = w * ops.matmul(ops.swapaxes(to_cells, -1, -2), a) - self.weights[..., k, None] * both
            only = ops.convert_to_tensor(np.arange(4) == k, "float64") * ops.ones_like(self.weights)
            total = total + ops.sum(replace(self, weights=only).spread(at / std[..., None], a), axis=(0, 2))
        return total

    def _flat(self, x: Any) -> tuple[Any, Any, Any]:
        """Return x ``[o n, k]``, the corners in it ``[o, m, 4]`` and their weights ``[o, m, 4, 1]``."""
        size, n, columns = ops.shape(x)
        index = self.index + n * ops.expand_dims(ops.arange(size, dtype="int32"), (1, 2))
        return ops.reshape(x, (-1, columns)), index, ops.expand_dims(self.weights, -1)


class Solution(NamedTuple):
    """The solved observation space, from :func:`solve_innovation`."""

    observed: ObservedCovariance
    hbh: Any
    cholesky: Any
    scale: Any
    valid: Any
    innovation: Any
    whitened: Any
    weights: Any

    def solve(self, c: Any) -> Any:
        """Return R^-1/2 M S^-1 M R^-1/2 c, ``[o, m, k]``."""
        half = ops.solve_triangular(self.cholesky, self.scale[..., None] * c, lower=True)
        return self.scale[..., None] * ops.solve_triangular(ops.swapaxes(self.cholesky, -1, -2), half, lower=False)


def solve_innovation(observed: ObservedCovariance, x: Any, values: Any, error_std: Any) -> Solution:
    """Return S, v and w for forecasts x ``[o, n, k]`` and observations ``[o, m]``.

    Each of the o sets of observations is met by k fields: all fields of a batch (o = 1) or its own one (k = 1).
    """
    valid = ops.logical_and(ops.isfinite(values), ops.any(observed.weights > 0, axis=-1))
    # NaN must go before any arithmetic: NaN times zero is NaN, in the gradient too.
    scale = ops.where(valid, 1.0 / ops.where(valid, error_std, 1.0), 0.0)
    innovation = ops.where(valid, values, 0.0)[..., None] - observed.sample(x)
    hbh = observed.at_observations()
    identity = ops.eye(ops.shape(hbh)[-1], dtype="float64")
    cholesky = ops.cholesky(identity + scale[..., :, None] * hbh * scale[..., None, :])
    whitened = ops.solve_triangular(cholesky, scale[..., None] * innovation, lower=True)
    back = ops.solve_triangular(ops.swapaxes(cholesky, -1, -2), whitened, lower=False)
    return Solution(observed, hbh, cholesky, scale, valid, innovation, whitened, scale[..., None] * back)


def innovation_likelihood(innovation: Any, hbh: Any, error_std: Any) -> Any:
    """Return minus the logarithm of the probability density of innovations, ``[...]``.

    1/2 ||L^-1 v||^2 + sum log diag L + 1/2 sum over valid of log(2 pi sigma_o^2): the least value of it, over sigma_b, length and
    sigma_o, is their maximum-likelihood estimate.

    Parameters
    ----------
    innovation
        d - H xf ``[..., m]``, NaN where missing.
    hbh
        H B H^T ``[..., m, m]``.
    error_std
        sigma_o ``[..., m]``.

    References
    ----------
    Dee, D. P. (1995), doi:10.1175/1520-0493(1995)123<1128:OLEOEC>2.0.CO;2.
    """
    with _backend.float64():
        d, hbh, r = (ops.cast(ops.convert_to_tensor(a), "float64") for a in (innovation, hbh, error_std))
        valid = ops.isfinite(d)
        r = ops.where(valid, r, 1.0)
        scale = ops.where(valid, 1.0 / r, 0.0)
        identity = ops.eye(ops.shape(hbh)[-1], dtype="float64")
        cholesky = ops.cholesky(identity + scale[..., :, None] * hbh * scale[..., None, :])
        v = ops.solve_triangular(cholesky, (scale * ops.where(valid, d, 0.0))[..., None], lower=True)
        logarithms = ops.log(ops.diagonal(cholesky, axis1=-2, axis2=-1)) + ops.where(
            valid, ops.log(r * np.sqrt(2 * np.pi)), 0.0
        )
        return 0.5 * ops.sum(ops.square(v), axis=(-2, -1)) + ops.sum(logarithms, axis=-1)


class Fit(NamedTuple):
    """The B and sigma_o that make innovations most likely, and minus the logarithm of their probability density."""

    background_error: Covariance
    error_std: Any
    likelihood: float


def fit_background_error(
    layer: Any, innovations: PointObservations, *, error_std: Any = None, fixed: Sequence[str] = ()
) -> Fit:
    """Return sigma_b, lengths and sigma_o of maximum likelihood, by L-BFGS with the exact gradient.

    Parameters
    ----------
    layer
        Grid, H, and the first guess of B. A std that is a field is multiplied by one number.
    innovations
        Observations minus forecasts, d - H xf. Rows of time are independent of each other, unless B has a time_length.
    error_std
        First guess of sigma_o; by default that of the innovations or of the layer.
    fixed
        What to leave as it is, among "std", "length", "time_length" and "error_std".

    References
    ----------
    Dee, D. P. (1995), doi:10.1175/1520-0493(1995)123<1128:OLEOEC>2.0.CO;2.
    """
    guess = layer.background_error
    names = ("std", *guess.log_derivatives(), "error_std")
    for name in fixed:
        if name not in names:
            refuse(f"{name!r} is no parameter{closest(name, names)}", names, name, "correct fixed=")
    free = [n for n in names if n not in fixed]
    start, parts = prepared_rows(layer, innovations, error_std)

    def put(log: np.ndarray) -> tuple[Covariance, float]:
        factor = {n: 1.0 for n in names} | {n: float(np.exp(x)) for n, x in zip(free, log, strict=True)}
        return replace(guess, **{n: getattr(guess, n) * factor[n] for n in names[:-1]}), factor["error_std"]

    def objective(log: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = 0.0, dict.fromkeys(names, 0.0)
        background, factor = put(log)
        for part in parts:
            with _backend.float64():
                observed, a = layer.seen({**part, "error_std": part["error_std"] * factor}, background)
                nothing = ops.zeros((len(part["values"]), len(layer.unit), 1), dtype="float64")
                solution = solve_innovation(observed, nothing, a["values"], a["error_std"])
                d = ops.where(solution.valid, a["values"], np.nan)
                value += float(ops.sum(innovation_likelihood(d, solution.hbh, a["error_std"])))
                # dl/dA for A = H B H^T + R, twice.
                w = solution.weights
                p = solution.solve(ops.eye(w.shape[1], dtype="float64")[None]) - ops.matmul(w, ops.swapaxes(w, -1, -2))
                r2 = ops.where(solution.valid, ops.square(a["error_std"]), 0.0)
                gradient["std"] += float(ops.sum(p * solution.hbh))
                gradient["error_std"] += float(ops.sum(ops.diagonal(p, axis1=-2, axis2=-1) * r2))
                for name, kernels in observed.background.log_derivatives().items():
                    if name in free:
                        gradient[name] += 0.5 * float(ops.sum(p * observed.at_observations(kernels)))
        return value, np.array([gradient[n] for n in free])

    bounds, options = [(-5.0, 5.0)] * len(free), {"ftol": 1e-7}
    found = scipy.optimize.minimize(
        objective, np.zeros(len(free)), jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    background, factor = put(found.x)
    error = np.asarray(start) * factor
    return Fit(background, float(error.flat[0]) if np.ptp(error) == 0 else error, float(found.fun))


def prepared_rows(
    layer: Any, innovations: PointObservations, error_std: Any, size: int | None = None
) -> tuple[Any, list[dict[str, np.ndarray]]]:
    """Return sigma_o as given, and the prepared innovations in parts of *size* rows."""
    start = innovations.error_std if error_std is None else error_std
    if start is None and layer.observation_error is not None:
        start = layer.observation_error.std
    if start is None:
        refuse("the innovations have no error", "error_std, sigma_o", None, "pass error_std= as a first guess")
    in_time = layer.background_error.in_time
    given = layer.prepare(innovations.table() if in_time else innovations)
    given["error_std"] = np.broadcast_to(np.reshape(start, np.shape(start) or (1, 1)), given["values"].shape)
    if in_time:
        given["lag"] = seconds(innovations.table().time)[None]
    rows, m = given["values"].shape
    size = size or max(1, 2**21 // m**2)
    return start, [{k: v[i : i + size] for k, v in given.items()} for i in range(0, rows, size)]
