"""Error covariances: what a user says of the errors, and those whose correlation is a function of two points.

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

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeAlias

import keras
import numpy as np
from keras import ops

from physml import _backend
from physml._errors import closest, refuse
from physml.assimilation.errors.background import Background
from physml.assimilation.errors.domain import Domain, is_constant, ordered, unit_vectors
from physml.assimilation.errors.kernels import correlated
from physml.assimilation.errors.localisation import gaspari_cohn
from physml.assimilation.times import duration
from physml.grid import EARTH_RADIUS

Kernel: TypeAlias = Callable[[Any, Any], Any]
Kernels: TypeAlias = tuple[Kernel, Kernel]


def squared_chord(a: Any, b: Any) -> Any:
    """Return the squared chords ``[..., a, b]``, in radii, between unit vectors ``[..., a, 3]`` and ``[..., b, 3]``."""
    # By differences: 2 - 2 a.b would leave 0.1 m on the Earth between a point and itself.
    parts = [ops.square(a[..., :, None, i] - b[..., None, :, i]) for i in range(3)]
    return parts[0] + parts[1] + parts[2]


@dataclass(frozen=True, eq=False)
class Covariance:
    """Base of all covariances: a frozen dataclass of parameters, which :meth:`bind` puts on the elements of a state.

    Parameters that are numbers or fields are plain attributes; ``dataclasses.replace`` or :meth:`with_parameters` may put
    tensors (the weights of a layer) in their place, and products with B are then differentiable in them. ``a + b`` is the
    covariance of the sum of independent errors.
    """

    positive: ClassVar[tuple[str, ...]] = ()
    """Fields that must be positive, and may be learnt."""

    def __post_init__(self) -> None:
        for name in self.positive:
            value = getattr(self, name)
            # NaN in a field is land, which is looked at where the mask is known.
            field = np.asarray(value) if is_constant(value) else np.ones(1)
            known = field[~np.isnan(field)] if field.ndim else field
            if not known.size or not (known > 0).all():
                what = f"{type(self).__name__}: {name} is not positive"
                expected = "> 0, in units of the field, [m] or [s]"
                refuse(what, expected, known.min() if known.size else np.nan, f"correct {name}")

    def bind(self, domain: Domain) -> Background:
        """Return B on the elements of a domain."""
        raise NotImplementedError

    def __add__(self, other: Covariance) -> Covariance:
        from physml.assimilation.errors.combine import Sum

        return Sum((self, other))

    @property
    def parameters(self) -> dict[str, Any]:
        """What may be learnt, by name; parts of a whole are named after it: ``"parts.0.length"``."""
        found = {n: getattr(self, n) for n in self.positive if getattr(self, n) is not None}
        for name, key, part in self._parts():
            path = name if key is None else f"{name}.{key}"
            found.update({f"{path}.{n}": v for n, v in part.parameters.items()})
        return found

    def with_parameters(self, values: dict[str, Any]) -> Covariance:
        """Return the same covariance with other values of some :attr:`parameters`.

        Examples
        --------
        >>> (Diagonal(1.0) + Gaussian(2.0, 5e5)).with_parameters({"parts.1.length": 4e5}).parts[1].length
        400000.0
        """
        known = self.parameters
        for name in values:
            if name not in known:
                refuse(f"{name!r} is no parameter{closest(name, known)}", tuple(known), name, "correct the name")
        new: dict[str, Any] = {n: v for n, v in values.items() if "." not in n}
        for name, key, part in self._parts():
            path = name if key is None else f"{name}.{key}"
            own = {n.removeprefix(f"{path}."): v for n, v in values.items() if n.startswith(f"{path}.")}
            part = part.with_parameters(own) if own else part
            if key is None:
                new[name] = part
            else:
                held = new.setdefault(name, {})
                held[key] = part
        for name, held in new.items():
            if isinstance(held, dict) and isinstance(getattr(self, name), tuple):
                old = getattr(self, name)
                new[name] = tuple(held.get(str(i), old[i]) for i in range(len(old)))
        return replace(self, **new)

    def _parts(self) -> list[tuple[str, str | None, Covariance]]:
        found: list[tuple[str, str | None, Covariance]] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Covariance):
                found.append((field.name, None, value))
            elif isinstance(value, tuple | dict):
                items = value.items() if isinstance(value, dict) else enumerate(value)
                found += [(field.name, str(k), v) for k, v in items if isinstance(v, Covariance)]
        return found

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Covariance:
        """Return the covariance that :meth:`get_config` describes."""
        return cls(**{name: _revived(value) for name, value in config.items()})


def _plain(value: Any) -> Any:
    if hasattr(value, "dims"):
        value = ordered(value).values
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, tuple) and not all(isinstance(v, int | float | bool | str | None) for v in value):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {"parts": {k: _plain(v) for k, v in value.items()}}
    if hasattr(value, "get_config") or callable(value):
        return keras.saving.serialize_keras_object(value)
    return value


def _revived(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"parts"}:
        return {k: _revived(v) for k, v in value["parts"].items()}
    if isinstance(value, dict):
        return keras.saving.deserialize_keras_object(value)
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        return tuple(_revived(v) for v in value)
    return np.asarray(value) if isinstance(value, list) else value


@dataclass(frozen=True, eq=False)
class PointCovariance(Covariance):
    """Base of covariances of any two points: a standard deviation, and a correlation that subclasses give."""

    std: Any
    positive: ClassVar[tuple[str, ...]] = ("std",)

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


@keras.saving.register_keras_serializable(package="physml")
@dataclass(frozen=True, eq=False)
class Diagonal(PointCovariance):
    """Errors without correlation: the usual R, or a B whose analysis changes the observed cells alone.

    Parameters
    ----------
    std
        Standard deviation, a number or a field, in the units of the field.
    """

    def correlation(self, a: Any, b: Any) -> Any:
        """Return 1 where the points are the same, else 0."""
        return ops.cast(squared_chord(a, b) == 0, "float64")

    def bind(self, domain: Domain) -> Background:
        """Return B on the elements of a domain."""
        return domain.independent(self.std)


@dataclass(frozen=True, eq=False)
class Stationary(PointCovariance):
    """Base of correlations that are a function of distance over a length, times the same of time over a time."""

    length: Any
    time_length: Any = None
    positive: ClassVar[tuple[str, ...]] = ("std", "length", "time_length")

    @property
    def reach(self) -> float:
        """Number of lengths from which the correlation is zero to rounding."""
        return 40.0

    def __post_init__(self) -> None:
        if self.time_length is not None and (is_constant(self.time_length) or not hasattr(self.time_length, "dtype")):
            object.__setattr__(self, "time_length", duration(self.time_length))
        super().__post_init__()

    def bind(self, domain: Domain) -> Background:
        """Return B on the elements of a domain: as a matrix, through FFT along longitude, or block after block."""
        return domain.each(correlated(self, domain), self.std)

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
class Gaussian(Stationary):
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

    @property
    def reach(self) -> float:
        """9: exp(-40)."""
        return 9.0

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
class Matern(Stationary):
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

    @property
    def reach(self) -> float:
        """Where s = 40: exp(-40)."""
        return 40.0 / float(np.sqrt(2 * self.nu))

    def shape(self, r2: Any) -> Any:
        """Return the Matern function of order nu."""
        return _MATERN[self.nu][0](_root(r2, self.nu))

    def slope(self, r2: Any) -> Any:
        """Return -r times its derivative."""
        return _MATERN[self.nu][1](_root(r2, self.nu))


@keras.saving.register_keras_serializable(package="physml")
@dataclass(frozen=True, eq=False)
class GaspariCohn(Stationary):
    """Correlation that is zero from two lengths on, :func:`gaspari_cohn`: for localisation, and sparse matrices.

    Parameters
    ----------
    std, length, time_length
        As in :class:`Gaussian`; the length is half the distance from which the correlation is zero.
    """

    @property
    def reach(self) -> float:
        """2."""
        return 2.0

    def shape(self, r2: Any) -> Any:
        """Return the function of Gaspari and Cohn."""
        return gaspari_cohn(ops.sqrt(r2 + 1e-30), 1.0)

    def slope(self, r2: Any) -> Any:
        """Return -r times its derivative."""
        r = ops.sqrt(r2 + 1e-30)
        near, far = ops.minimum(r, 1.0), ops.clip(r, 1.0, 2.0)
        inner = ops.square(near) * (10 / 3 + near * (-15 / 8 + near * (-2 + near * 5 / 4)))
        # With p = (2 - r)^4 and q = r^2 + 2 r - 1/2: -r d/dr (p q / 12 r).
        gap = 2 - far
        q = far * (far + 2) - 0.5
        outer = gap * gap * gap * (4 * q * far + gap * q - gap * far * (2 * far + 2)) / (12 * far)
        return ops.where(r <= 1.0, inner, outer)
