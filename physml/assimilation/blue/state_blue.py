"""BLUE of any state vector: one dimension or three, several variables, observations of some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import keras
import numpy as np
import scipy.sparse
from keras import ops

from physml._errors import closest, refuse
from physml.assimilation.blue.choice import chosen
from physml.assimilation.blue.layer import LinearAnalysis
from physml.assimilation.blue.problems import BackgroundProblem
from physml.assimilation.errors.background import bind
from physml.assimilation.errors.covariance import Diagonal


@keras.saving.register_keras_serializable(package="physml")
class StateBLUE(LinearAnalysis):
    """Analysis of a state on any grid: (forecast, observations) -> analysis.

    The state vector holds the wet cells by rows, and of each cell its channels: element = cell * channels + channel. Every
    channel is changed as far as B correlates it with what is observed.

    Parameters
    ----------
    background_error
        B of the state vector: a matrix ``[n, n]``, a :class:`physml.assimilation.errors.background.Background`, or what
        :func:`physml.assimilation.errors.background.bind` makes one of.
    observation_error
        sigma_o as a number or a :class:`Diagonal`, for observations that do not carry ``error_std``.
    shape
        Shape of the state without the batch, ``(*space, channel)``.
    operator
        H of observations that are always at the same places: a matrix ``[m, n]``, also of ``scipy.sparse``, or
        ``(index, weights)``, ``[m, k]`` each: every observation is a weighted sum of k elements.
    mask
        True on wet cells, of the shape of space; None: all are wet. Masked cells pass through unchanged.
    grid
        What else :func:`bind` needs to know of space: ``latitude``, ``longitude`` and ``periodic``, or ``geometry``; and
        ``channels``, their names.
    method, trainable, rtol, samples
        As in :class:`BLUE`; there are no local analyses.

    Call arguments
    --------------
    forecast
        ``[batch, *space, channel]``.
    observations
        Values ``[batch, m]``, NaN where missing; or a dictionary: ``values [o, m]``, optionally ``error_std [o, m]``, and
        ``index`` and ``weights [o, m, k]`` where the layer has no operator; o is the size of the batch, or 1.

    Returns
    -------
    tensor
        Analysis ``[batch, *space, channel]``.

    Raises
    ------
    ValueError
        For shapes that do not fit, where no observation error is known or it is not positive, and for methods that the
        background error does not allow.

    Examples
    --------
    Two variables, of which the first is observed:

    >>> layer = StateBLUE(np.array([[1.0, 0.5], [0.5, 1.0]]), 1.0, shape=(1, 2), operator=np.array([[1.0, 0.0]]))
    >>> ops.convert_to_numpy(layer(np.zeros((1, 1, 2)), np.array([[2.0]]))).round(12).tolist()
    [[[1.0, 0.5]]]
    """

    def __init__(
        self,
        background_error: Any,
        observation_error: float | Diagonal | None = None,
        *,
        shape: Sequence[int],
        operator: Any = None,
        mask: Any = None,
        grid: Mapping[str, Any] | None = None,
        method: str = "auto",
        trainable: bool | Sequence[str] = True,
        rtol: float = 1e-10,
        samples: int = 64,
        **kwargs: Any,
    ) -> None:
        options: dict[str, Any] = {"method": method, "trainable": trainable, "rtol": rtol, "samples": samples}
        super().__init__(background_error, observation_error, **options, **kwargs)
        self.shape = tuple(int(s) for s in shape)
        self.channels = self.shape[-1]
        self.mask = np.ones(self.shape[:-1], bool) if mask is None else np.asarray(mask, bool)
        if self.mask.shape != self.shape[:-1]:
            refuse("mask does not fit the state", self.shape[:-1], self.mask.shape, "give it the shape of space")
        self.grid = dict(grid or {})
        wet = np.flatnonzero(self.mask)
        self.size = wet.size * self.channels
        self._wet = (wet[:, None] * self.channels + np.arange(self.channels)).ravel().astype("int32")
        self._to_wet = np.zeros(self.mask.size * self.channels, "int32")
        self._to_wet[self._wet] = np.arange(self.size)
        self.operator = None if operator is None else self._rows(operator)
        self._bound  # noqa: B018  what does not fit is refused here

    def _rows(self, operator: Any) -> dict[str, np.ndarray]:
        """Return H as ``matrix [m, n]``, or as ``index`` and ``weights [1, m, k]``."""
        if scipy.sparse.issparse(operator):
            rows = scipy.sparse.csr_array(operator)
            counts = np.diff(rows.indptr)
            index, weights = np.zeros((2, rows.shape[0], max(1, counts.max(initial=0))))
            there = np.arange(index.shape[1]) < counts[:, None]
            index[there], weights[there], width = rows.indices, rows.data, rows.shape[1]
            operator = (index, weights) if width == self.size else np.zeros(rows.shape)
        if isinstance(operator, tuple | list) and len(operator) == 2 and np.ndim(operator[0]) == 2:
            index, weights = np.asarray(operator[0], "int32"), np.asarray(operator[1], "float64")
            if index.shape != weights.shape or index.min(initial=0) < 0 or index.max(initial=0) >= self.size:
                received = f"{index.shape} and {weights.shape}, up to {index.max(initial=0)}"
                refuse(
                    "the rows of H do not fit", f"index and weights [m, k], below {self.size}", received, "correct H"
                )
            return {"index": index[None], "weights": weights[None]}
        matrix = np.asarray(operator, "float64")
        if matrix.ndim != 2 or matrix.shape[1] != self.size:
            refuse("H does not fit the state", f"[m, {self.size}]", matrix.shape, "one column for each element")
        return {"matrix": matrix}

    def _cells(self, forecast: Any) -> Any:
        shape = tuple(forecast.shape)
        if shape[1:] != self.shape:
            refuse("StateBLUE: the forecast does not fit", f"[batch, *{self.shape}]", list(shape), "reshape it")
        return ops.take(ops.reshape(forecast, (-1, self._to_wet.size)), self._wet, axis=1)

    def _to_grid(self, x: Any, elsewhere: Any = 0.0) -> Any:
        cells = ops.reshape(ops.take(x, self._to_wet, axis=1), (-1, *self.shape))
        return ops.where(self.mask[None, ..., None], cells, elsewhere)

    def _bind(self, error: Any) -> Any:
        grid: dict[str, Any] = {"channels": self.channels, **self.grid}
        if "latitude" not in grid and "geometry" not in grid:
            grid["shape"] = self.shape[:-1]
        return bind(error, self.size, mask=self.mask, **grid)

    @cached_property
    def _bound(self) -> Any:
        """B on the state vector, made once."""
        return self._bind(self.background_error)

    def _forget(self) -> None:
        self.__dict__.pop("_bound", None)

    def _problem(self, observations: Any) -> tuple[Any, dict[str, Any]]:
        given = observations if isinstance(observations, Mapping) else {"values": observations}
        known = ("values", "index", "weights", "error_std")
        for name in given:
            if name not in known:
                what = f"StateBLUE: unknown part of the observations {name!r}{closest(name, known)}"
                refuse(what, known, sorted(given), f"one of {known}")
        if "index" not in given and self.operator is None:
            expected = "index and weights, or a layer with operator="
            refuse("StateBLUE: observations without places", expected, sorted(given), "StateBLUE(..., operator=H)")
        given = {**({} if "index" in given else self.operator or {}), **given}
        arguments = {**given, "error_std": self._error_std(given)}
        _, learned = self._learned_background()
        form = chosen(self.method, arguments["values"].shape[1], self._bound, learned=bool(learned))
        self.form = form.name

        def bound(parameters: dict[str, Any]) -> Any:
            error = self.background_error
            return self._bind(error.with_parameters(parameters)) if parameters else self._bound

        return BackgroundProblem(bound, learned, form, rtol=self.rtol, samples=self.samples), arguments

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor; a ``geometry`` in *grid* must be given again."""
        operator: Any = None
        if self.operator is not None:
            rows = [a[0].tolist() for a in self.operator.values()]
            operator = self.operator["matrix"].tolist() if "matrix" in self.operator else rows
        plain = {k: np.asarray(v).tolist() if isinstance(v, np.ndarray) else v for k, v in self.grid.items()}
        return {
            **super().get_config(),
            "shape": list(self.shape),
            "operator": operator,
            "mask": self.mask.tolist(),
            "grid": plain,
        }
