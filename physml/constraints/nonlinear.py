"""Laws that are not linear: sums of functions of several variables, and bounds that are functions of other variables.

A sum ``sum w f(y) = b`` is met by Gauss-Newton projections: around the present fields it is a linear law with the slopes of ``f`` as
coefficients, which is projected onto together with all other laws, and again around the result; what is missed is squared
each time. A bound on a function that can be inverted, such as relative humidity, is a bound on one of its variables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
from keras import ops

from physml import _backend
from physml._errors import describe
from physml.constraints._arrange import at_start, fold, unfold
from physml.constraints.balance import Budget
from physml.constraints.base import Constraint, Fields
from physml.constraints.linear import Coefficient, Factor, LinearLaw
from physml.constraints.nearby import Box
from physml.layout import Layout
from physml.provenance import same_units, units_ratio


class Nonlinear(Constraint):
    """A sum of a function of several variables, ``sum w f(y, x) = b``, in cells, columns, blocks, basins or over the whole grid.

    Parameters
    ----------
    function
        Takes tensors, one for each of *variables* and then of *known*, and returns a tensor of the same shape, cell by cell,
        in ``keras.ops``. To be saved it must be registered with ``keras.saving.register_keras_serializable``.
    variables
        Targets. Their levels must be the same.
    equals
        The sum; or ``"start"``: that of the same variables among the inputs, so that it is conserved.
    over, weights, blocks, groups
        As in :class:`physml.Budget`, without units.
    known
        Inputs at offset 0 that the function takes too.
    passes
        Gauss-Newton projections: from a tenth beside the law, three leave about 1e-8 of it.
    name
        In reports and errors; by default that of the function.

    Raises
    ------
    KeyError, ValueError
        For names, dimensions and weights that do not fit.

    Notes
    -----
    The result satisfies all laws; it is the nearest such field up to the curvature of the law over the distance moved. On JAX without
    x64 the function is evaluated in float32, and the sum holds to about 1e-7 of itself.

    Examples
    --------
    >>> from keras import ops
    >>> Nonlinear(ops.hypot, ("u", "v"), equals=1.0, name="unit length").name
    'unit length'
    """

    passes = 4

    def __init__(
        self,
        function: Callable[..., Any] | dict[str, Any] | str,
        variables: Sequence[str],
        equals: float | str = 0.0,
        over: str | Sequence[str] | None = None,
        weights: Factor | None = None,
        *,
        blocks: Mapping[str, int] | None = None,
        groups: str | None = None,
        known: Sequence[str] = (),
        passes: int = 4,
        name: str | None = None,
    ) -> None:
        restored = not callable(function)
        self.function: Any = keras.saving.deserialize_keras_object(function) if restored else function
        self.variables, self.known = tuple(variables), tuple(known)
        self.equals = equals if isinstance(equals, str) else float(equals)
        self.passes = int(passes)
        self._named = name
        self.name = name or str(getattr(self.function, "__name__", type(self.function).__name__))
        if self.passes < 1 or not self.variables or (isinstance(self.equals, str) and self.equals != "start"):
            raise ValueError(
                describe(
                    f"Nonlinear({self.name!r}) is no law",
                    expected="one variable or more, passes >= 1, equals a number or 'start'",
                    received=f"variables={self.variables}, passes={passes}, equals={equals!r}",
                    remedy="Nonlinear(function, ('u', 'v'), equals='start', over=('lat', 'lon'))",
                )
            )
        self._frame = Budget(
            dict.fromkeys(self.variables, 1.0), over, weights, blocks=blocks, groups=groups, name=self.name
        )

    def _key(self, what: str) -> str:
        return f"{what} of {self.name}"

    def mentions(self) -> tuple[str, ...]:
        """Return the variables."""
        return self.variables

    def needs(self) -> tuple[str, ...]:
        """Return the inputs it follows from."""
        return (*self.known, *(self.variables if self.equals == "start" else ()))

    def factors(self) -> tuple[str, ...]:
        """Return the names in its weights."""
        return self._frame.factors()

    def statics(self, layout: Layout) -> dict[str, Any]:
        """Return the fields that weigh it."""
        return self._frame.statics(layout)

    def verify(self, layout: Layout) -> None:
        """Refuse a layout without its variables, inputs and dimensions."""
        missing = [n for n in self.variables if n not in layout.spec.targets]
        if missing:
            raise KeyError(
                describe(
                    f"Nonlinear {self.name!r} acts on {missing}, which are no targets",
                    expected=f"among {tuple(layout.spec.targets)}",
                    received=self.variables,
                    remedy="add them to the targets of the FieldSpec",
                )
            )
        for n in self.needs():
            layout.where("inputs", n, 0)
        depths = {n: layout.variables[n].depth for n in self.variables}
        if len(set(depths.values())) > 1:
            raise ValueError(
                describe(
                    f"Nonlinear {self.name!r}: its variables have different levels",
                    expected="the same levels of all",
                    received=depths,
                    remedy="select the same levels",
                )
            )
        self.linear(layout)

    def linear(self, layout: Layout) -> tuple[LinearLaw, ...]:
        """Return the law around the present fields: its slopes and its value there come as inputs from :meth:`prepare`."""
        (frame,) = self._frame.linear(_unitless(layout, self.variables))
        weights = frame.outputs[self.variables[0]]
        outputs = {
            n: Coefficient(weights.fixed, (*weights.inputs, (self._key(f"slope in {n}"), 1))) for n in self.variables
        }
        known = ((self._key("rest"), weights),)
        constant = self.equals if isinstance(self.equals, float) else 0.0
        return (LinearLaw(self.name, frame.groups, outputs, known, constant, frame.depth, frame.here),)

    def prepare(self, outputs: Fields, inputs: Fields, layout: Layout) -> dict[str, Any]:
        """Return the slopes at the present fields, and what the linear law must sum to, as fields ``[batch, *space, level]``."""
        kind = _backend.widest_float()
        y = [ops.cast(outputs[n], kind) for n in self.variables]
        x = [ops.cast(inputs[n], kind) for n in self.known]
        value, slopes = _backend.slopes(lambda *a: self.function(*a, *x), y)
        rest = sum((s * v for s, v in zip(slopes, y, strict=True)), -value)
        if self.equals == "start":
            rest = rest + self.function(*(ops.cast(inputs[n], kind) for n in self.variables), *x)
        found = {self._key(f"slope in {n}"): s for n, s in zip(self.variables, slopes, strict=True)}
        return found | {self._key("rest"): rest}

    def residual(self, outputs: Fields, inputs: Fields, layout: Layout) -> Any:
        """Return ``sum w f - b``, ``[batch and offset, *group, level]``."""
        kind = _backend.widest_float()
        y = fold({n: outputs[n] for n in self.variables}, layout)
        (law,) = self.held_linear(layout)
        ((_, weights),) = law.known
        names = dict.fromkeys([*self.needs(), *(n for n, _ in weights.inputs)])
        x = {n: ops.cast(v, kind) for n, v in at_start(inputs, list(names), layout, self.variables[0]).items()}
        known = [x[n] for n in self.known]
        value = self.function(*(ops.cast(y[n], kind) for n in self.variables), *known)
        if self.equals == "start":
            value = value - self.function(*(x[n] for n in self.variables), *known)
        weight = ops.cast(weights.tensor(x, ops.cast(weights.fixed, kind)), kind)
        out = (law.groups.sum(weight * value) - law.constant) * ops.cast(law.here, kind)
        return ops.cast(out, outputs[self.variables[0]].dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        frame = self._frame.get_config()
        config = {"function": keras.saving.serialize_keras_object(self.function), "variables": self.variables}
        config |= {"equals": self.equals, "known": self.known, "passes": self.passes, "name": self._named}
        return config | {k: v for k, v in frame.items() if k in ("over", "weights", "blocks", "groups")}


@keras.saving.register_keras_serializable(package="physml")
def kinetic_energy(*velocity: Any) -> Any:
    """Return half the square of a velocity [m2 s-2] of one, two or three components."""
    return 0.5 * sum((v * v for v in velocity[1:]), velocity[0] * velocity[0])


class KineticEnergy(Nonlinear):
    """The kinetic energy of a flow, ``sum w (u^2 + v^2) / 2``, stays what it was, or is given.

    Parameters
    ----------
    velocity
        Targets: one, two or three components [m s-1].
    over, weights
        As in :class:`physml.Budget`: the weights are the masses or volumes of the cells.
    equals
        ``"start"``: that of the inputs. Or the energy itself.
    passes
        Gauss-Newton projections.

    Examples
    --------
    >>> KineticEnergy(("u", "v"), ("lat", "lon"), "cell_volume").name
    'kinetic_energy'
    """

    def __init__(
        self,
        velocity: Sequence[str],
        over: str | Sequence[str],
        weights: Factor | None = None,
        equals: float | str = "start",
        passes: int = 4,
    ) -> None:
        super().__init__(kinetic_energy, velocity, equals, over, weights, passes=passes)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        config = super().get_config()
        return {"velocity": config["variables"]} | {
            k: config.get(k) for k in ("over", "weights", "equals", "passes") if k in config
        }


def saturation_humidity(temperature: Any, pressure: Any) -> Any:
    """Return the specific humidity [kg kg-1] of air saturated over water.

    Parameters
    ----------
    temperature
        [K].
    pressure
        [Pa].

    References
    ----------
    Bolton (1980), doi:10.1175/1520-0493(1980)108<1046:TCOEPT>2.0.CO;2, equation 10.

    Examples
    --------
    >>> import numpy as np
    >>> float(np.round(saturation_humidity(np.float64(293.15), np.float64(1e5)), 4))
    0.0147
    """
    vapour = 611.2 * ops.exp(17.67 * (temperature - 273.15) / (temperature - 29.65))
    ratio = 287.04 / 461.5
    return ratio * vapour / (pressure - (1 - ratio) * vapour)


class RelativeHumidity(Constraint):
    """Specific humidity between fractions of its saturation, by the temperature and pressure of the same cell.

    Relative humidity is proportional to specific humidity: a bound on the one is a bound on the other, joined with all other laws. Where
    temperature is a target it is taken after the projection, which is repeated.

    Parameters
    ----------
    name
        Specific humidity, a target.
    temperature, pressure
        Targets or inputs, in units that convert to K and Pa.
    lower, upper
        Fractions; None: no bound.
    passes
        Projections, where temperature or pressure are targets.

    Examples
    --------
    >>> RelativeHumidity("q", "t", "p", upper=1.05)
    RelativeHumidity(name='q', temperature='t', pressure='p', lower=0.0, upper=1.05, passes=4)
    """

    def __init__(
        self,
        name: str,
        temperature: str,
        pressure: str,
        lower: float | None = 0.0,
        upper: float | None = 1.0,
        passes: int = 4,
    ) -> None:
        self.name, self.temperature, self.pressure = name, temperature, pressure
        self.lower, self.upper = (None if b is None else float(b) for b in (lower, upper))
        self.passes = int(passes)

    def mentions(self) -> tuple[str, ...]:
        """Return humidity, temperature and pressure."""
        return (self.name, self.temperature, self.pressure)

    def verify(self, layout: Layout) -> None:
        """Refuse a layout without the fields, their units or their levels."""
        super().verify(layout)
        for n in (self.temperature, self.pressure):
            if n not in layout.spec.targets:
                layout.where("inputs", n, 0)
            self._factor(n, layout)
            if layout.variables[n].depth not in (1, layout.variables[self.name].depth):
                raise ValueError(
                    describe(
                        f"RelativeHumidity({self.name!r}): {n!r} has other levels",
                        expected=f"{layout.variables[self.name].depth} levels, or none",
                        received=layout.variables[n].depth,
                        remedy="select the same levels",
                    )
                )

    def _factor(self, n: str, layout: Layout) -> tuple[float, float]:
        """Return scale and offset of a field to K or Pa."""
        want, have = ("K" if n == self.temperature else "Pa"), layout.units(n)
        try:
            if have is None:
                raise ValueError("no units")
            offset = 273.15 if same_units(have, "degC") else 0.0
            return float(units_ratio(have, want).to("").magnitude), offset
        except Exception as error:  # pint raises several classes
            raise ValueError(
                describe(
                    f"RelativeHumidity({self.name!r}): the units of {n!r} are not understood",
                    expected=f"units that convert to {want}",
                    received=repr(have),
                    remedy=f"ds[{n!r}].attrs['units'] = {want!r}",
                )
            ) from error

    def _saturated(self, outputs: Fields, inputs: Fields, layout: Layout) -> Any:
        fields = []
        for n in (self.temperature, self.pressure):
            scale, offset = self._factor(n, layout)
            x = outputs[n] if n in layout.spec.targets else inputs[n]
            fields.append(ops.cast(x, _backend.widest_float()) * scale + offset)
        humidity = saturation_humidity(*fields)
        return humidity + ops.zeros_like(ops.cast(outputs[self.name], humidity.dtype))

    def boxes(self, layout: Layout) -> dict[str, Box]:
        """Return bounds that :meth:`prepare` gives as inputs."""
        low, high = (() if b is None else (self._key(side),) for side, b in self._sides())
        return {self.name: Box(low_inputs=low, high_inputs=high)}

    def _sides(self) -> tuple[tuple[str, float | None], ...]:
        return ("low", self.lower), ("high", self.upper)

    def _key(self, side: str) -> str:
        return f"{side} of relative humidity {self.name}"

    def prepare(self, outputs: Fields, inputs: Fields, layout: Layout) -> dict[str, Any]:
        """Return the bounds of specific humidity at the present temperature and pressure."""
        saturated = self._saturated(outputs, inputs, layout)
        return {self._key(side): b * saturated for side, b in self._sides() if b is not None}

    def residual(self, outputs: Fields, inputs: Fields, layout: Layout) -> Any:
        """Return how far specific humidity lies below (negative) or above its bounds, in its units and shape."""
        mine = [n for n in self.mentions() if n in layout.spec.targets]
        y = fold({n: outputs[n] for n in mine}, layout)
        others = [n for n in self.mentions() if n not in mine]
        x = at_start(inputs, others, layout, self.name)
        saturated = self._saturated(y, x, layout)
        q = ops.cast(y[self.name], saturated.dtype)
        out = ops.zeros_like(q)
        for side, bound in self._sides():
            if bound is not None:
                beyond = q - bound * saturated
                out = out + (ops.minimum if side == "low" else ops.maximum)(beyond, ops.zeros_like(beyond))
        return unfold({self.name: ops.cast(out, y[self.name].dtype)}, outputs, layout)[self.name]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {
            "name": self.name,
            "temperature": self.temperature,
            "pressure": self.pressure,
            "lower": self.lower,
            "upper": self.upper,
            "passes": self.passes,
        }


def _unitless(layout: Layout, names: Sequence[str]) -> Layout:
    """Return a layout in which the variables have no units: those of a function of them are not known."""
    bare = {n: replace(layout.variables[n], attrs={}) for n in names}
    return replace(layout, variables={**layout.variables, **bare})
