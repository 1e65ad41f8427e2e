"""BLUE: the best linear unbiased estimate of a field from a forecast and observations, as a Keras layer.

With the errors of the forecast and of the observations unbiased, independent and of covariance B and R, the analysis

    xa = xf + B H^T (H B H^T + R)^-1 (d - H xf)

minimises J(x) = (d - H x)^T R^-1 (d - H x) + (x - xf)^T B^-1 (x - xf). It is computed whitened, in float64, with identity rows
for missing observations (notation in :mod:`physml.assimilation`), in the form that costs least:
:mod:`physml.assimilation.blue.forms` has the formulae, :mod:`physml.assimilation.blue.estimate` the gradient,
:mod:`physml.assimilation.blue.choice` the rules.

References
----------
Kalnay, E. (2003), Atmospheric Modeling, Data Assimilation and Predictability, doi:10.1017/CBO9780511802270, chapter 5.
Daley, R. (1991), Atmospheric Data Analysis, Cambridge University Press, chapter 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import ops

from physml._errors import closest, refuse
from physml.assimilation.blue.choice import chosen, key
from physml.assimilation.blue.estimate import double, spread_std
from physml.assimilation.blue.fitting import fitted
from physml.assimilation.blue.layer import LinearAnalysis
from physml.assimilation.blue.likelihood import Fit
from physml.assimilation.blue.local import Local, tiles
from physml.assimilation.blue.pointwise import ObservedKernel
from physml.assimilation.blue.problems import BackgroundProblem, KernelProblem
from physml.assimilation.errors.background import bind
from physml.assimilation.errors.covariance import Diagonal
from physml.assimilation.errors.domain import is_constant, ordered, unit_vectors
from physml.assimilation.observing.grids import Interpolation, bilinear
from physml.assimilation.observing.observations import PointObservations

TILE = 64
"""Largest number of cells in a tile of local analyses."""


@keras.saving.register_keras_serializable(package="physml")
class BLUE(LinearAnalysis):
    """Analysis of one field on a latitude-longitude grid: (forecast, observations) -> analysis.

    Parameters
    ----------
    background_error
        B: :class:`Diagonal`, :class:`Gaussian`, :class:`Matern` or any other that
        :func:`physml.assimilation.errors.background.bind` takes; its std may be a field ``[lat, lon]``,
        NaN on masked cells.
    observation_error
        sigma_o as a number or a :class:`Diagonal`, for observations that do not carry ``error_std``.
    latitude, longitude
        Centres of the cells [degrees], one-dimensional.
    periodic
        Whether the first and the last longitude are neighbours.
    mask
        True on wet cells, ``[lat, lon]``; None: all are wet. Masked cells pass through unchanged.
    positions
        ``(latitude, longitude)`` of the observations, ``[m]`` each, where they are always the same. The call then
        takes their values alone.
    method
        Form of the solution: "observation" or "state" space, "ensemble", "pcg" (preconditioned by the whitening),
        "precision", "local", or "auto": what costs least (:func:`physml.assimilation.blue.choice.chosen`). The attribute
        ``form`` tells which it was.
    trainable
        Names among "std", "length", "time_length", ... and "error_std": learned with the weights of the network.
    rtol
        Relative residual at which conjugate gradients stop.
    samples
        Number of random samples of the posterior, where it is too large for closed formulae.
    neighbours
        Number of observations nearest to each cell that a local analysis uses.

    Call arguments
    --------------
    forecast
        ``[batch, lat, lon, 1]``, in the units of the observations.
    observations
        Values ``[batch, m]``, NaN where missing; or the dictionary that :meth:`prepare` returns: ``values [o, m]``,
        ``index [o, m, 4]``, ``weights [o, m, 4]`` and optionally ``error_std [o, m]`` and ``lag [o, m]`` [s], where o is
        the size of the batch, or 1.

    Returns
    -------
    tensor
        Analysis ``[batch, lat, lon, 1]``.

    Raises
    ------
    ValueError
        For shapes that do not fit the grid, where no observation error is known or it is not positive, and for methods
        that the background error does not allow.

    Examples
    --------
    >>> from physml.assimilation import BLUE, Gaussian
    >>> grid = {"latitude": [0, 2], "longitude": [0, 2], "periodic": False}
    >>> layer = BLUE(Gaussian(1.0, 500e3), 0.1, **grid, positions=([0], [0]))
    >>> round(float(layer(np.zeros((1, 2, 2, 1), "float32"), np.array([[1.01]]))[0, 0, 0, 0]), 6)
    1.0
    """

    def __init__(
        self,
        background_error: Any,
        observation_error: float | Diagonal | None = None,
        *,
        latitude: Any,
        longitude: Any,
        periodic: bool,
        mask: Any = None,
        positions: tuple[Any, Any] | None = None,
        method: str = "auto",
        trainable: bool | Sequence[str] = True,
        rtol: float = 1e-10,
        samples: int = 64,
        neighbours: int = 50,
        **kwargs: Any,
    ) -> None:
        options: dict[str, Any] = {"method": method, "trainable": trainable, "rtol": rtol, "samples": samples}
        super().__init__(background_error, observation_error, **options, **kwargs)
        self.latitude, self.longitude = (np.asarray(a, "float64") for a in (latitude, longitude))
        self.periodic, self.neighbours = bool(periodic), int(neighbours)
        self.grid_shape = (self.latitude.size, self.longitude.size)
        self.mask = np.ones(self.grid_shape, bool) if mask is None else np.asarray(mask, bool)
        self.positions = positions if positions is None else tuple(np.asarray(p, "float64") for p in positions)
        at = bilinear(self.latitude, self.longitude, self.mask, *(self.positions or (0.0, 0.0)), periodic=self.periodic)
        self._fixed = Interpolation(at.index[None], at.weights[None]) if positions is not None else None
        wet = np.flatnonzero(self.mask)
        if not wet.size:
            refuse("the mask has no wet cell", "True on wet cells", "all False", "invert the mask")
        self.size = wet.size
        self._wet = wet.astype("int32")
        self._to_wet = np.zeros(self.mask.size, "int32")
        self._to_wet[wet] = np.arange(wet.size)
        self.background_error = self._on_grid(self.background_error)
        lat, lon = np.meshgrid(self.latitude, self.longitude, indexing="ij")
        self.unit = unit_vectors(lat.ravel()[wet], lon.ravel()[wet])

    def _on_grid(self, error: Any) -> Any:
        """Return a function of position whose std, where it is a field, is a NumPy array with something on land too."""
        std: Any = getattr(error, "std", None)
        if not _of_position(error) or not np.ndim(std) or (hasattr(std, "dtype") and not hasattr(std, "__array__")):
            return error
        field = np.asarray(ordered(std), "float64")
        if field.shape not in (self.grid_shape, (self.mask.size,)):
            what = "BLUE: the standard deviation does not fit the grid"
            refuse(what, f"a number or {self.grid_shape}", field.shape, "transpose it to the grid")
        wet = field.reshape(self.grid_shape)[self.mask]
        if not (wet > 0).all():
            what = f"BLUE: the standard deviation is missing or not positive on {int((~(wet > 0)).sum())} wet cells"
            refuse(what, "> 0", "NaN or less", "fill it, or pass mask=, True on wet cells")
        return replace(error, std=np.where(self.mask.reshape(field.shape), field, 1.0))

    def prepare(self, observations: PointObservations, outside: str = "drop") -> dict[str, np.ndarray]:
        """Return the call argument for observations in rows of time, ``[time, m]``, or a table, ``[1, m]``.

        Observations without a value on this grid get weights of zero and count as missing; ``outside="error"`` refuses
        them.
        """
        at = bilinear(
            self.latitude,
            self.longitude,
            self.mask,
            observations.latitude,
            observations.longitude,
            periodic=self.periodic,
            outside=outside,
        )
        given = {"values": observations.values, "index": at.index, "weights": at.weights}
        if observations.error_std is not None:
            given["error_std"] = observations.error_std
        return given if observations.values.ndim == 2 else {k: v[None] for k, v in given.items()}

    def seen(self, observations: Mapping[str, Any], background_error: Any = None) -> tuple[Any, dict[str, Any]]:
        """Return B, or another background error, seen by observations, and these in float64.

        To be called within ``_backend.float64()``; *observations* as for the call.
        """
        background, arguments = self._on_cells(observations, background_error)
        a = {k: double(v, k) for k, v in arguments.items() if v is not None}
        if not _of_position(background):
            bound = self._bound if background is self.background_error else self.bind(background)
            return BackgroundProblem(lambda _: bound, {}, Local).observed(a), a
        std = double(spread_std(background.std, self.size))
        return ObservedKernel(background, double(self.unit), std, a["index"], a["weights"], a.get("lag")), a

    def _cells(self, forecast: Any) -> Any:
        shape = tuple(forecast.shape)
        if shape[1:] != (*self.grid_shape, 1):
            expected = f"[batch, {self.grid_shape[0]}, {self.grid_shape[1]}, 1]"
            remedy = "slice the observed variable: state[..., k : k + 1]"
            refuse("BLUE: the forecast does not fit the grid", expected, list(shape), remedy)
        return ops.take(ops.reshape(forecast, (-1, self.mask.size)), self._wet, axis=1)

    def _to_grid(self, x: Any, elsewhere: Any = 0.0) -> Any:
        cells = ops.reshape(ops.take(x, self._to_wet, axis=1), (-1, *self.grid_shape, 1))
        return ops.where(self.mask[None, ..., None], cells, elsewhere)

    def bind(self, error: Any) -> Any:
        """Return a background error on the wet cells."""
        grid: dict[str, Any] = {"latitude": self.latitude, "longitude": self.longitude, "periodic": self.periodic}
        return bind(error, **grid, mask=self.mask)

    @cached_property
    def _bound(self) -> Any:
        """B on the wet cells, made once."""
        return self.bind(self.background_error)

    def _forget(self) -> None:
        self.__dict__.pop("_bound", None)

    def _problem(self, observations: Any) -> tuple[Any, dict[str, Any]]:
        background, arguments = self._on_cells(observations)
        m, options = arguments["values"].shape[1], self._options
        if _of_position(background):
            form = chosen(self.method, m, None, background.in_time)
            self.form = form.name
            if form is not Local:
                return KernelProblem(background, self.unit, form, **options), arguments
            given = [arguments[k] for k in ("index", "weights", "values")]
            each = []
            for i in range(arguments["values"].shape[0]):
                index, weights, values = (a[min(i, len(a) - 1)] for a in given)
                each.append(tiles(self.unit, index, weights, values, self.neighbours, TILE))
            return [KernelProblem(background, self.unit, form, t, **options) for t in each], arguments
        learned = self._learned_background()[1]
        form = chosen(self.method, m, self._bound, learned=bool(learned))
        self.form = form.name

        def bound(parameters: dict[str, Any]) -> Any:
            error = self.background_error
            return self.bind(error.with_parameters(parameters)) if parameters else self._bound

        return BackgroundProblem(bound, learned, form, **options), arguments

    def of_wet(self, index: np.ndarray) -> np.ndarray:
        """Return the numbers among the wet cells of cells of the grid."""
        return self._to_wet[index]

    def fit(
        self,
        innovations: PointObservations,
        loss: str = "innovation",
        *,
        error_std: Any = None,
        fixed: Sequence[str] = (),
    ) -> Fit:
        """Set B and sigma_o to what makes innovations most likely, and return them.

        Parameters
        ----------
        innovations
            Observations minus forecasts, d - H xf. Rows of time are independent of each other, unless B has a time_length.
        loss
            "innovation": minus the logarithm of their probability density.
        error_std
            First guess of sigma_o; by default that of the innovations or of the layer.
        fixed
            What to leave as it is, among the parameters of B and "error_std".

        References
        ----------
        Dee, D. P. (1995), doi:10.1175/1520-0493(1995)123<1128:OLEOEC>2.0.CO;2.
        """
        found = fitted(self, innovations, loss, error_std, fixed)
        self._adopt(found.background_error, found.error_std if np.ndim(found.error_std) == 0 else None)
        return found

    def resolved(self, m: int) -> str:
        """Return the method that "auto" chooses for m observations."""
        error = self.background_error
        point = _of_position(error)
        learned, in_time = bool({*self.learned} - {"error_std"}), getattr(error, "in_time", False)
        return key(chosen(self.method, m, None if point else self._bound, in_time, learned))

    def _on_cells(self, observations: Any, background: Any = None) -> tuple[Any, dict[str, Any]]:
        """Return B, with its std on the wet cells ``[n]`` where it is a function of position, and observations of cells."""
        given, background = observations, self._learned_background()[0] if background is None else background
        if not isinstance(given, Mapping):
            fixed: Any = self._fixed
            if fixed is None:
                expected = "a dictionary from BLUE.prepare(...), or a layer with positions=(latitude, longitude)"
                refuse(
                    "BLUE: observations without positions", expected, type(given).__name__, "make it with positions="
                )
            given = {"values": given, "index": fixed.index, "weights": fixed.weights}
        known = ("values", "index", "weights", "error_std", "lag")
        for name in given:
            if name not in known:
                what = f"BLUE: unknown part of the observations {name!r}{closest(name, known)}"
                refuse(what, known, sorted(given), "use BLUE.prepare(observations)")
        error, lag = self._error_std(given), given.get("lag")
        in_time = getattr(background, "in_time", False)
        if in_time and lag is None:
            what = "BLUE: the background error is correlated in time and the observations have no time"
            refuse(
                what, "lag [o, m], times since the analysis [s]", sorted(given), "use analyse(...), or no time_length"
            )
        index = given["index"]
        arguments = {
            "values": given["values"],
            "error_std": error,
            "index": self._to_wet[index] if is_constant(index) else ops.take(self._to_wet, index, axis=0),
            "weights": given["weights"],
            "lag": lag if in_time else None,
        }
        if _of_position(background) and np.ndim(background.std):
            std = background.std
            std = np.ravel(std)[self._wet] if is_constant(std) else ops.take(ops.reshape(std, (-1,)), self._wet)
            background = replace(background, std=std)
        return background, arguments

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().get_config(),
            "latitude": self.latitude.tolist(),
            "longitude": self.longitude.tolist(),
            "periodic": self.periodic,
            "mask": self.mask.tolist(),
            "positions": None if self.positions is None else [p.tolist() for p in self.positions],
            "neighbours": self.neighbours,
        }


def _of_position(error: Any) -> bool:
    """Tell whether a covariance is a function of position that the observations can be put into."""
    return hasattr(error, "log_derivatives")
