"""BLUE: the best linear unbiased estimate of a field from a forecast and observations, as a Keras layer.

With the errors of the forecast and of the observations unbiased, independent and of covariance B and R, the analysis

    xa = xf + B H^T (H B H^T + R)^-1 (d - H xf)

minimises J(x) = (d - H x)^T R^-1 (d - H x) + (x - xf)^T B^-1 (x - xf). It is computed in observation space, whitened, in
float64, with identity rows for missing observations (notation in :mod:`physml.assimilation`):

    S = I + M R^-1/2 H B H^T R^-1/2 M = L L^T,   v = M R^-1/2 (d - H xf),   w = R^-1/2 M S^-1 v,
    xa = xf + B H^T w,   var = diag B - colsum((L^-1 M R^-1/2 H B)^2).

Its gradient costs one more solve with the same L. For a = dl/dxa and z = R^-1/2 M S^-1 M R^-1/2 H B a:

    dd = z,   dxf = a - H^T z,   dR = -sym(z w^T),   dp = a^T (dB/dp) H^T w - z^T H (dB/dp) H^T w

for a parameter p of B. The two terms of dp stay apart, since observations of another time meet B there at that time.

References
----------
Kalnay, E. (2003), Atmospheric Modeling, Data Assimilation and Predictability, doi:10.1017/CBO9780511802270, chapter 5.
Daley, R. (1991), Atmospheric Data Analysis, Cambridge University Press, chapter 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import keras
import numpy as np
import scipy.linalg
import xarray as xr
from keras import ops

from physml import _backend
from physml._errors import closest
from physml.assimilation.covariance import Diagonal, PointCovariance
from physml.assimilation.domain import is_constant, unit_vectors
from physml.assimilation.likelihood import prepared_rows
from physml.assimilation.observations import Interpolation, PointObservations, bilinear, refuse
from physml.assimilation.observed import ObservedCovariance, solve_innovation

BLOCK = 2**23
"""Largest number of elements of B H^T held at once when the posterior is computed (64 MB in float64)."""


class Analysis(NamedTuple):
    """What an analysis gives: tensors of the forecast's dtype; masked cells hold 0, missing observations NaN."""

    analysis: Any
    """xa, ``[batch, lat, lon, 1]``."""
    std: Any
    """Posterior standard deviation, ``[batch, lat, lon, 1]``."""
    innovation: Any
    """d - H xf, ``[batch, m]``."""
    innovation_std: Any
    """What B and R let one expect of it, sqrt(diag(H B H^T + R)), ``[batch, m]``."""
    chi2: Any
    """v^T S^-1 v over the number of observations used, ``[batch]``; NaN where there are none."""
    used: Any
    """Number of observations used, ``[batch]``."""


def _fold(x: Any, shared: bool) -> Any:
    return ops.transpose(x)[None] if shared else x[..., None]


def _unfold(x: Any, shared: bool) -> Any:
    return ops.transpose(x[0]) if shared else x[..., 0]


def blue(
    background_error: PointCovariance,
    unit: np.ndarray,
    forecast: Any,
    values: Any,
    error_std: Any,
    index: Any,
    weights: Any,
    lag: Any = None,
) -> Any:
    """Return the analysis xa, differentiable on every backend in whatever is a tensor.

    Gradients are those of the module's formulae, for *forecast*, *values*, *error_std* and the parameters of
    *background_error* (std, length, time_length), computed in float64; positions get none.

    Parameters
    ----------
    background_error
        B. Its parameters may be tensors.
    unit
        Unit vectors of the wet cells, ``[n, 3]``.
    forecast
        xf, ``[batch, n]``.
    values, error_std
        d with NaN where missing, and sigma_o, ``[o, m]``, where o is the size of the batch, or 1: the same for all.
    index, weights
        Corners of the observations among the wet cells and their weights, ``[p, m, 4]``; p is 1 or o.
    lag
        Times of the observations since the analysis [s], ``[p, m]``.

    Returns
    -------
    tensor
        ``[batch, n]``, of the dtype of *forecast*.
    """
    # A list of names instead of one signature: constants stay exact, tensors go through the custom gradient.
    given = {
        "forecast": forecast,
        "values": values,
        "error_std": error_std,
        "index": index,
        "weights": weights,
        "std": _spread_std(background_error.std, len(unit)),
        "lag": lag,
        **{name: getattr(background_error, name) for name in background_error.log_derivatives()},
    }
    names = [k for k, v in given.items() if v is not None and not is_constant(v)]
    shared = values.shape[0] == 1

    def function(*tensors: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        tensor = dict(zip(names, tensors, strict=True))
        f = {k: _double(v, k) for k, v in {**given, **tensor}.items() if v is not None}
        parameters = {k: f[k] for k in background_error.log_derivatives()}
        observed = ObservedCovariance(
            replace(background_error, **parameters), _double(unit), f["std"], f["index"], f["weights"], f.get("lag")
        )
        x = _fold(f["forecast"], shared)
        solution = solve_innovation(observed, x, f["values"], f["error_std"])
        gain = observed.at_cells()
        analysis = _unfold(x + ops.matmul(gain, solution.weights), shared)

        def vjp(upstream: Any) -> tuple[Any, ...]:
            a = _fold(_double(upstream), shared)
            z = solution.solve(ops.matmul(ops.swapaxes(gain, -1, -2), a))
            rules = {
                "forecast": lambda: _unfold(a - observed.spread(z, a), shared),
                "values": lambda: ops.sum(z, axis=-1),
                "error_std": lambda: -2 * f["error_std"] * ops.sum(z * solution.weights, axis=-1),
                "std": lambda: observed.std_gradient(gain, solution.weights, z, a),
            }
            for name, kernels in observed.background.log_derivatives().items():
                rules[name] = lambda name=name, kernels=kernels: (
                    (  # type: ignore[misc]
                        ops.sum(a * ops.matmul(observed.at_cells(kernels=kernels), solution.weights))
                        - ops.sum(z * ops.matmul(observed.at_observations(kernels), solution.weights))
                    )
                    / f[name]
                )
            return tuple(ops.cast(rules[n](), tensor[n].dtype) if n in rules else None for n in names)

        return ops.cast(analysis, forecast.dtype), vjp

    if not names:
        with _backend.float64():
            return function()[0]
    return _backend.custom_gradient(function)(*[ops.convert_to_tensor(given[n]) for n in names])


def _double(value: Any, name: str = "") -> Any:
    return (
        ops.convert_to_tensor(value, "int32") if name == "index" else ops.cast(ops.convert_to_tensor(value), "float64")
    )


def _spread_std(std: Any, n: int) -> Any:
    return np.broadcast_to(np.asarray(std, "float64"), (n,)) if is_constant(std) else ops.broadcast_to(std, (n,))


@keras.saving.register_keras_serializable(package="physml")
class BLUE(keras.layers.Layer):
    """Analysis of one field on a latitude-longitude grid: (forecast, observations) -> analysis.

    Parameters
    ----------
    background_error
        B: :class:`Diagonal`, :class:`Gaussian` or :class:`Matern`; its std may be a field ``[lat, lon]``.
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
        For shapes that do not fit the grid, and where no observation error is known.

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
        background_error: PointCovariance,
        observation_error: float | Diagonal | None = None,
        *,
        latitude: Any,
        longitude: Any,
        periodic: bool,
        mask: Any = None,
        positions: tuple[Any, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        # Keras must not cast observations to float16; the layer casts to float64 itself.
        super().__init__(**{"autocast": False, **kwargs})
        error = observation_error
        self.background_error = background_error
        self.observation_error = error if error is None or isinstance(error, Diagonal) else Diagonal(error)
        self.latitude, self.longitude = (np.asarray(a, "float64") for a in (latitude, longitude))
        self.periodic = bool(periodic)
        self.grid_shape = (self.latitude.size, self.longitude.size)
        self.mask = np.ones(self.grid_shape, bool) if mask is None else np.asarray(mask, bool)
        self.positions = positions if positions is None else tuple(np.asarray(p, "float64") for p in positions)
        at = bilinear(self.latitude, self.longitude, self.mask, *(self.positions or (0.0, 0.0)), periodic=self.periodic)
        self._fixed = Interpolation(at.index[None], at.weights[None]) if positions is not None else None
        wet = np.flatnonzero(self.mask)
        if not wet.size:
            refuse("the mask has no wet cell", "True on wet cells", "all False", "invert the mask")
        self._wet = wet.astype("int32")
        self._to_wet = np.zeros(self.mask.size, "int32")
        self._to_wet[wet] = np.arange(wet.size)
        lat, lon = np.meshgrid(self.latitude, self.longitude, indexing="ij")
        self.unit = unit_vectors(lat.ravel()[wet], lon.ravel()[wet])

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

    def call(self, forecast: Any, observations: Any) -> Any:
        """Return the analysis ``[batch, lat, lon, 1]``."""
        background, arguments = self._on_cells(observations)
        analysis = blue(background, self.unit, self._cells(forecast), **arguments)
        cells = ops.take(analysis, self._to_wet, axis=1)
        shape = (-1, *self.grid_shape, 1)
        return ops.where(self.mask[None, ..., None], ops.reshape(cells, shape), forecast)

    def diagnose(self, forecast: Any, observations: Any) -> Analysis:
        """Return the analysis with its posterior standard deviation and the statistics of the innovation.

        Arguments as for the call. The posterior is computed in blocks of cells, so that memory stays bounded.
        """
        x = self._cells(forecast)
        dtype = x.dtype
        with _backend.float64():
            observed, a = self.seen(observations)
            shared = a["values"].shape[0] == 1
            x = _fold(_double(x), shared)
            solution = solve_innovation(observed, x, a["values"], a["error_std"])
            n, step = len(self.unit), max(1, BLOCK // max(1, int(np.prod(a["values"].shape))))
            increments, explained = [], []
            for start in range(0, n, step):
                gain = observed.at_cells(slice(start, start + step))
                increments.append(ops.matmul(gain, solution.weights))
                rows = solution.scale[..., None] * ops.swapaxes(gain, -1, -2)
                half = ops.solve_triangular(solution.cholesky, rows, lower=True)
                explained.append(ops.sum(ops.square(half), axis=-2))
            analysis = _unfold(x + ops.concatenate(increments, axis=1), shared)
            batch = ops.shape(analysis)[:1]
            variance = ops.maximum(ops.square(observed.std) - ops.concatenate(explained, axis=-1), 0.0)
            used = ops.sum(ops.cast(solution.valid, "float64"), axis=-1)
            error = ops.where(solution.valid, a["error_std"], np.nan)
            expected = ops.sqrt(ops.diagonal(solution.hbh, axis1=-2, axis2=-1) + ops.square(error))
            innovation = ops.where(solution.valid[..., None], solution.innovation, np.nan)
            chi2 = ops.sum(ops.square(solution.whitened), axis=1) / ops.where(used > 0, used, np.nan)[..., None]
            results = [
                self._to_grid(analysis),
                self._to_grid(ops.broadcast_to(ops.sqrt(variance), ops.shape(analysis))),
                _unfold(innovation, shared),
                ops.broadcast_to(expected, (*batch, *ops.shape(expected)[1:])),
                ops.reshape(chi2, batch),
                ops.broadcast_to(used, batch),
            ]
            return Analysis(*[ops.cast(r, dtype) for r in results])

    def _to_grid(self, x: Any) -> Any:
        cells = ops.reshape(ops.take(x, self._to_wet, axis=1), (-1, *self.grid_shape, 1))
        return ops.where(self.mask[None, ..., None], cells, 0.0)

    def seen(
        self, observations: Mapping[str, Any], background_error: PointCovariance | None = None
    ) -> tuple[ObservedCovariance, dict[str, Any]]:
        """Return B, or another background error, seen by observations, and these in float64.

        To be called within ``_backend.float64()``; *observations* as for the call.
        """
        background, arguments = self._on_cells(observations, background_error)
        a = {k: _double(v, k) for k, v in arguments.items() if v is not None}
        std = _double(_spread_std(background.std, len(self.unit)))
        return ObservedCovariance(background, _double(self.unit), std, a["index"], a["weights"], a.get("lag")), a

    def _cells(self, forecast: Any) -> Any:
        """Return the wet cells ``[batch, n]``."""
        shape = tuple(forecast.shape)
        if shape[1:] != (*self.grid_shape, 1):
            expected = f"[batch, {self.grid_shape[0]}, {self.grid_shape[1]}, 1]"
            remedy = "slice the observed variable: state[..., k : k + 1]"
            refuse("BLUE: the forecast does not fit the grid", expected, list(shape), remedy)
        return ops.take(ops.reshape(forecast, (-1, self.mask.size)), self._wet, axis=1)

    def _on_cells(
        self, observations: Any, background: PointCovariance | None = None
    ) -> tuple[PointCovariance, dict[str, Any]]:
        """Return B with its std on the wet cells ``[n]``, and the arguments of :func:`blue`."""
        given, background = observations, self.background_error if background is None else background
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
        error, lag = given.get("error_std"), given.get("lag")
        if error is None and self.observation_error is None:
            expected = "observations with error_std, or a layer with observation_error"
            refuse("BLUE: no observation error", expected, "neither", "PointObservations(..., error_std=...)")
        if background.in_time and lag is None:
            what = "BLUE: the background error is correlated in time and the observations have no time"
            refuse(
                what, "lag [o, m], times since the analysis [s]", sorted(given), "use analyse(...), or no time_length"
            )
        if error is None and self.observation_error is not None:
            error = self.observation_error.std
        if is_constant(error):
            error = np.broadcast_to(np.asarray(error, "float64"), np.broadcast_shapes(np.shape(error), (1, 1)))
        index, std = given["index"], background.std
        index = self._to_wet[index] if is_constant(index) else ops.take(self._to_wet, index, axis=0)
        if np.ndim(std):
            std = np.ravel(std)[self._wet] if is_constant(std) else ops.take(ops.reshape(std, (-1,)), self._wet)
        arguments = {
            "values": given["values"],
            "error_std": error,
            "index": index,
            "weights": given["weights"],
            "lag": lag,
        }
        return replace(background, std=std), arguments

    def compute_output_shape(self, forecast_shape: Any, observations_shape: Any = None) -> Any:
        """Return the shape of the forecast."""
        return tuple(forecast_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().get_config(),
            "background_error": keras.saving.serialize_keras_object(self.background_error),
            "observation_error": None
            if self.observation_error is None
            else np.asarray(self.observation_error.std).tolist(),
            "latitude": self.latitude.tolist(),
            "longitude": self.longitude.tolist(),
            "periodic": self.periodic,
            "mask": self.mask.tolist(),
            "positions": None if self.positions is None else [p.tolist() for p in self.positions],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> BLUE:
        """Return the layer that :meth:`get_config` describes."""
        error = keras.saving.deserialize_keras_object(config["background_error"])
        return cls(**{**config, "background_error": error})


def leave_out(layer: BLUE, innovations: PointObservations, groups: Any) -> xr.Dataset:
    """Return what the analysis predicts for each group of observations from all others: cross-validation.

    In closed form from one inverse of the whole: with P = (H B H^T + R)^-1 and the group g left out, the innovations of g
    differ from their prediction by (P_gg)^-1 (P (d - H xf))_g, with covariance (P_gg)^-1.

    Parameters
    ----------
    layer
        Grid, H, B and, where the innovations carry none, sigma_o.
    innovations
        Observations minus forecasts, d - H xf; a row or a table of some 10 000 at most. Rows of time are independent of
        each other, unless B has a time_length.
    groups
        A label for each observation, such as the number of its float; those of one label are left out together.

    Returns
    -------
    Dataset
        By observation: ``innovation``, ``residual`` (observed minus predicted) and ``residual_std`` (what B and R let one
        expect of it). Attributes: ``rmse_before``, ``rmse_after``, and ``chi2``, the mean of (residual / residual_std)^2.

    References
    ----------
    Dubrule, O. (1983), Cross validation of kriging in a unique neighborhood, doi:10.1007/BF01033232.
    """
    labels = np.asarray(groups)
    if labels.shape != innovations.values.shape:
        refuse("groups do not fit the observations", innovations.values.shape, labels.shape, "one label for each")
    _, parts = prepared_rows(layer, innovations, None, size=1)
    residual, std = np.full((2, labels.size), np.nan)
    first = 0
    for part in parts:
        with _backend.float64():
            hbh = np.asarray(ops.convert_to_numpy(layer.seen(part)[0].at_observations())[0])
        d = part["values"][0]
        keep = np.flatnonzero(np.isfinite(d) & part["weights"][0].any(axis=-1))
        if keep.size:
            covariance = hbh[np.ix_(keep, keep)] + np.diag(part["error_std"][0][keep] ** 2)
            precision = scipy.linalg.cho_solve(scipy.linalg.cho_factor(covariance), np.eye(keep.size))
            weighted, place = precision @ d[keep], first + keep
            for label in np.unique(labels.ravel()[place]):
                g = np.flatnonzero(labels.ravel()[place] == label)
                left_out = np.linalg.inv(precision[np.ix_(g, g)])
                residual[place[g]], std[place[g]] = left_out @ weighted[g], np.sqrt(np.diag(left_out))
        first += d.size
    shape, used = labels.shape, np.isfinite(residual)
    out = replace(innovations, variable="innovation").to_dataset()
    unit = {"units": innovations.units} if innovations.units else {}
    texts = {
        "residual": ("observation minus its prediction from the other groups", residual),
        "residual_std": ("expected standard deviation of the residual", std),
    }
    for name, (text, array) in texts.items():
        out[name] = (innovations.dims, array.reshape(shape), {"long_name": text, **unit})
    scores = {
        "rmse_before": innovations.values.ravel()[used],
        "rmse_after": residual[used],
        "chi2": (residual / std)[used],
    }
    means = {k: float(np.mean(np.square(v))) if used.any() else np.nan for k, v in scores.items()}
    return out.assign_attrs({k: v if k == "chi2" else v**0.5 for k, v in means.items()}, observations=int(used.sum()))
