"""Background errors of several variables: products, blocks, and balances between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import keras
import numpy as np
from keras import ops

from physml import _backend
from physml._errors import refuse
from physml.assimilation.errors import compose
from physml.assimilation.errors.background import Background
from physml.assimilation.errors.covariance import Covariance
from physml.assimilation.errors.domain import Domain, constant, is_constant


@keras.saving.register_keras_serializable(package="physml")
@dataclass(frozen=True, eq=False)
class Kronecker(Covariance):
    """Covariance between the channels times one in space: all channels have the same correlation of the cells.

    Parameters
    ----------
    between
        ``[c, c]``, symmetric and positive semi-definite; may be a tensor, then positive definite.
    within
        Covariance in space of one channel; with std 1, *between* holds the variances.

    Examples
    --------
    >>> from physml.assimilation import Diagonal, bind
    >>> pair = Kronecker([[1.0, 0.5], [0.5, 2.0]], Diagonal(1.0))
    >>> bind(pair, shape=(3,), channels=2).diagonal().numpy().round(12).tolist()
    [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]
    """

    between: Any
    within: Any

    def __post_init__(self) -> None:
        if not is_constant(self.between) and hasattr(self.between, "dtype"):
            return
        b = np.asarray(self.between, "float64")
        if b.ndim != 2 or b.shape[0] != b.shape[1]:
            refuse("Kronecker: between is no square matrix", "[channel, channel]", b.shape, "one row for each channel")
        if np.abs(b - b.T).max() > 1e-10 * np.abs(b).max():
            refuse(
                "Kronecker: between is not symmetric", "between = between^T", b.tolist(), "(between + between.T) / 2"
            )
        least = float(np.linalg.eigvalsh(b)[0])
        if least < -1e-10 * np.abs(b).max():
            what = "Kronecker: between is not positive semi-definite"
            refuse(what, "eigenvalues >= 0", f"{least:g}", "correlations must lie in -1 to 1, and fit each other")
        object.__setattr__(self, "between", b)

    def bind(self, domain: Domain) -> Background:
        """Return B on the elements of a domain."""
        between = constant(self.between)
        if between.shape[0] != domain.channels:
            refuse(
                "Kronecker: between does not fit the channels", domain.channels, between.shape[0], "one row for each"
            )
        return compose.Kronecker(domain.one().bound(self.within), between)


@keras.saving.register_keras_serializable(package="physml")
@dataclass(frozen=True, eq=False)
class Blocks(Covariance):
    """Variables whose errors are independent of each other, each with a covariance of its own.

    Parameters
    ----------
    of
        Covariances or standard deviations by name of the channel, for all channels; or a tuple in their order.

    Examples
    --------
    >>> from physml.assimilation import Diagonal, bind
    >>> errors = Blocks({"salinity": Diagonal(0.1), "temperature": Diagonal(0.5)})
    >>> bind(errors, shape=(2,), channels=("temperature", "salinity")).diagonal().numpy().round(12).tolist()
    [0.25, 0.01, 0.25, 0.01]
    """

    of: Any

    def bind(self, domain: Domain) -> Background:
        """Return B on the elements of a domain."""
        named = self.of if isinstance(self.of, dict) else dict(enumerate(self.of))
        placed = {domain.channel(name): error for name, error in named.items()}
        if len(placed) != domain.channels:
            known = domain.names or domain.channels
            refuse("Blocks: not every channel has a covariance", known, tuple(named), "pass one for each")
        return compose.Blocks([domain.one().bound(placed[k]) for k in range(domain.channels)])


@keras.saving.register_keras_serializable(package="physml")
@dataclass(frozen=True, eq=False)
class Regression:
    """A balance: *of* gains the coefficient times *on*, cell by cell.

    Parameters
    ----------
    of, on
        Names or numbers of channels.
    coefficient
        Number or field, in units of *of* over those of *on*; may be a tensor.
    """

    of: Any
    on: Any
    coefficient: Any

    def bound(self, domain: Domain) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        """Return the operator on ``[..., cells, channel]`` and its adjoint."""
        to, source = domain.channel(self.of), domain.channel(self.on)
        if to == source:
            refuse("Regression: a channel on itself", "two channels", self.of, "correct of= or on=")
        coefficient = domain.one().spread(self.coefficient)

        def gain(x: Any, target: int, origin: int) -> Any:
            place = np.arange(domain.channels) == target
            return x + ops.where(place, (coefficient * x[..., origin])[..., None], 0.0)

        return lambda x: gain(x, to, source), lambda x: gain(x, source, to)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        config = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: v.tolist() if isinstance(v, np.ndarray | np.generic) else v for k, v in config.items()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Regression:
        """Return the balance that :meth:`get_config` describes."""
        return cls(**{k: np.asarray(v) if isinstance(v, list) else v for k, v in config.items()})


@keras.saving.register_keras_serializable(package="physml")
@dataclass(frozen=True, eq=False)
class Balance(Covariance):
    """B = K B_u K^T: errors that are balanced parts of others, plus unbalanced ones of covariance B_u.

    Parameters
    ----------
    unbalanced
        B_u, such as :class:`Blocks` of all variables.
    operators
        One after the other they make K. Each is a :class:`Regression`; or any linear function ``[..., cells, channel]`` to the
        same, in ``keras.ops``, such as one for geostrophic currents: its adjoint is found by differentiation. For a saved model
        it must be registered with Keras.

    References
    ----------
    Weaver, A. T., Deltel, C., Machu, E., Ricci, S. and Daget, N. (2005), A multivariate balance operator for variational ocean
    data assimilation, doi:10.1256/qj.05.119.
    """

    unbalanced: Any
    operators: Any

    def __post_init__(self) -> None:
        given = self.operators
        object.__setattr__(self, "operators", tuple(given) if isinstance(given, list | tuple) else (given,))
        for operator in self.operators:
            if not isinstance(operator, Regression) and not callable(operator):
                expected = "Regression(of=, on=, coefficient=) or a function"
                refuse("Balance: unknown operator", expected, type(operator).__name__, "pass one")

    def bind(self, domain: Domain) -> Background:
        """Return B on the elements of a domain."""
        pairs = [o.bound(domain) if isinstance(o, Regression) else (o, _adjoint(o)) for o in self.operators]

        def on_fields(functions: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
            def apply(x: Any) -> Any:
                fields = ops.reshape(x, (*ops.shape(x)[:-1], domain.cells, domain.channels))
                for function in functions:
                    fields = function(fields)
                return ops.reshape(fields, (*ops.shape(x)[:-1], domain.size))

            return apply

        forward, adjoint = on_fields([f for f, _ in pairs]), on_fields([a for _, a in reversed(pairs)])
        return compose.Balanced(domain.bound(self.unbalanced), forward, adjoint)


def _adjoint(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: _backend.vjp(function, ops.zeros_like(x))[1](x)
