"""What all layers of the best linear unbiased estimate share: forms of solution, learnable parameters, posterior, influence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from physml import _backend
from physml._errors import closest, refuse
from physml.assimilation.blue.choice import checked
from physml.assimilation.blue.estimate import Problem, double, estimate, fold, unfold
from physml.assimilation.blue.forms import Form
from physml.assimilation.errors.covariance import Diagonal
from physml.assimilation.errors.domain import is_constant


class Analysis(NamedTuple):
    """What an analysis gives: tensors of the forecast's dtype; masked cells hold 0, missing observations NaN."""

    analysis: Any
    """xa, of the shape of the forecast."""
    std: Any
    """Posterior standard deviation, likewise."""
    innovation: Any
    """d - H xf, ``[batch, m]``."""
    innovation_std: Any
    """What B and R let one expect of it, sqrt(diag(H B H^T + R)), ``[batch, m]``."""
    chi2: Any
    """v^T S^-1 v over the number of observations used, ``[batch]``; NaN where there are none."""
    used: Any
    """Number of observations used, ``[batch]``."""


class Influence(NamedTuple):
    """How much the observations determine the analysis, in float64; o is 1 or the size of the batch.

    References
    ----------
    Cardinali, C., Pezzulli, S. and Andersson, E. (2004), doi:10.1256/qj.03.205.
    """

    influence: Any
    """Of each observation on the analysis at its place, diag H K ``[o, m]``, 0 to 1; NaN where missing."""
    signal: Any
    """Degrees of freedom for signal, tr H K ``[o]``, 0 to m."""


class LinearAnalysis(keras.layers.Layer):
    """Base of the layers; subclasses say where the state and the observations lie.

    Parameters
    ----------
    background_error, observation_error
        B and sigma_o.
    method
        ``"auto"``, or a form of solution: see :func:`physml.assimilation.blue.choice.chosen`.
    trainable
        Names of the parameters of B, or "error_std", to be learned: each gets a weight, the logarithm of what it is multiplied
        with. A boolean as for all layers of Keras.
    rtol
        Relative residual at which conjugate gradients stop.
    samples
        Number of random samples of the posterior, where it is too large for closed formulae.
    """

    def __init__(
        self,
        background_error: Any,
        observation_error: Any,
        *,
        method: str = "auto",
        trainable: bool | Sequence[str] = True,
        rtol: float = 1e-10,
        samples: int = 64,
        **kwargs: Any,
    ) -> None:
        # Keras must not cast observations to float16; the layer casts to float64 itself.
        super().__init__(**{"autocast": False, **kwargs}, trainable=trainable if isinstance(trainable, bool) else True)
        error = observation_error
        self.background_error = background_error
        self.observation_error = error if error is None or isinstance(error, Diagonal) else Diagonal(error)
        self.method, self.rtol, self.samples = checked(method), float(rtol), int(samples)
        self.form: str | None = None
        """Name of the form of solution that the last call chose."""
        self.learned = () if isinstance(trainable, bool) else tuple(trainable)
        for name in self.learned:
            if name not in self._learnable:
                what = f"{name!r} is no parameter of {type(background_error).__name__}"
                remedy = "correct trainable=; error_std needs observation_error="
                refuse(what + closest(name, list(self._learnable)), tuple(self._learnable), name, remedy)
        self._logs = {
            n: self.add_weight(name=f"log_{n.replace('.', '_')}", shape=(), initializer="zeros") for n in self.learned
        }

    @property
    def _learnable(self) -> dict[str, Any]:
        """First guesses of what may be learned."""
        known = dict(getattr(self.background_error, "parameters", {}))
        return known if self.observation_error is None else {**known, "error_std": self.observation_error.std}

    def _scaled(self, name: str, value: Any) -> Any:
        """Return a parameter, times the exponential of its weight where it is learned."""
        if name not in self._logs:
            return value
        dtype = _backend.widest_float()
        if is_constant(value):
            # NaN on land would make the gradient NaN everywhere.
            value = np.nan_to_num(value, nan=1.0)
        return ops.convert_to_tensor(value, dtype) * ops.exp(ops.cast(self._logs[name], dtype))

    @property
    def parameters(self) -> dict[str, Any]:
        """The learned parameters as they are now: std [units of the field], lengths [m] and [s]."""
        factors = {n: float(np.exp(ops.convert_to_numpy(self._logs[n]))) for n in self.learned}
        return {n: self._learnable[n] * factor for n, factor in factors.items()}

    def _learned_background(self) -> tuple[Any, dict[str, Any]]:
        """Return B with tensors in the place of what is learned, and these by name."""
        guess = getattr(self.background_error, "parameters", {})
        learned = {n: self._scaled(n, guess[n]) for n in self.learned if n != "error_std"}
        return self.background_error.with_parameters(learned) if learned else self.background_error, learned

    def _adopt(self, background_error: Any, error_std: Any = None) -> None:
        """Take B and sigma_o as they were found; weights start again from there."""
        self.background_error = background_error
        if error_std is not None:
            self.observation_error = Diagonal(error_std)
        with _backend.float64():
            for weight in self._logs.values():
                weight.assign(0.0)
        self._forget()

    @property
    def _options(self) -> dict[str, Any]:
        """What the forms of solution are told."""
        return {"rtol": self.rtol, "samples": self.samples}

    def _forget(self) -> None:
        """Drop what was made from B."""

    def _error_std(self, given: Mapping[str, Any]) -> Any:
        """Return sigma_o, ``[1 or o, 1 or m]``."""
        self._require_places(given)
        error = given.get("error_std")
        if error is None:
            if self.observation_error is None:
                expected = "observations with error_std, or a layer with observation_error"
                refuse(f"{type(self).__name__}: no observation error", expected, "neither", "pass observation_error=")
            error = self._scaled("error_std", self.observation_error.std)
        if is_constant(error):
            error = np.broadcast_to(np.asarray(error, "float64"), np.broadcast_shapes(np.shape(error), (1, 1)))
        elif len(error.shape) < 2:
            error = ops.reshape(error, (1, -1))
        std, values = (_backend.concrete(a) for a in (error, given["values"]))
        if std is not None and values is not None and np.any(~(std > 0) & np.isfinite(values)):
            remedy = "give exact observations a small error: 1e-3 of sigma_b loses nothing in float64"
            refuse("the observation error is not positive", "sigma_o > 0", f"{np.min(std):g}", remedy)
        return error

    def _require_places(self, arguments: Mapping[str, Any]) -> None:
        """Refuse observations whose parts have other shapes than one value, place and error for each."""
        shape = tuple(arguments["values"].shape)
        if len(shape) != 2:
            refuse(f"{type(self).__name__}: the observations have the wrong shape", "[batch, m]", shape, "values[None]")
        along = {"index": -2, "weights": -2, "matrix": -2, "error_std": -1, "lag": -1}
        for name, axis in along.items():
            part = arguments.get(name)
            size = None if part is None else part.shape[axis]
            if size not in (None, shape[1]) and not (size == 1 and name == "error_std") and shape[1] is not None:
                what = f"{type(self).__name__}: {name} does not fit the observations"
                refuse(what, f"{shape[1]}, one for each value", size, "pass as many values as there are places")

    def _cells(self, forecast: Any) -> Any:
        """Return the state ``[batch, n]``."""
        raise NotImplementedError

    def _to_grid(self, x: Any, elsewhere: Any = 0.0) -> Any:
        """Return a state ``[batch, n]`` in the shape of the forecast, with *elsewhere* on masked cells."""
        raise NotImplementedError

    def _problem(self, observations: Any) -> tuple[Problem, dict[str, Any]]:
        """Return B with its form of solution, and the observations as :func:`estimate` wants them."""
        raise NotImplementedError

    def _each(self, x: Any, observations: Any, act: Callable[[Any, Problem, dict[str, Any]], Any]) -> Any:
        """Apply *act* to states and observations, one set of observations after the other where analyses are local."""
        problem, arguments = self._problem(observations)
        batch, sets = x.shape[0], arguments["values"].shape[0]
        if batch not in (None, 1, sets) and sets not in (None, 1):
            what = f"{type(self).__name__}: the observations do not fit the forecasts"
            refuse(what, f"one set for all, or {batch}", sets, "pass one set for each forecast")
        if not isinstance(problem, list):
            return act(x, problem, arguments)
        rows = [
            {k: v if v is None or v.shape[0] == 1 else v[i : i + 1] for k, v in arguments.items()}
            for i in range(len(problem))
        ]
        parts = [
            act(x[i : i + 1] if len(problem) > 1 else x, p, row)
            for i, (p, row) in enumerate(zip(problem, rows, strict=True))
        ]
        if len(parts) == 1:
            return parts[0]
        if isinstance(parts[0], tuple):
            return tuple(ops.concatenate(column, axis=0) for column in zip(*parts, strict=True))
        return ops.concatenate(parts, axis=0)

    def call(self, forecast: Any, observations: Any) -> Any:
        """Return the analysis, of the shape of the forecast."""
        act = lambda x, problem, arguments: estimate(problem, x, arguments)  # noqa: E731
        return self._to_grid(self._each(self._cells(forecast), observations, act), forecast)

    def diagnose(self, forecast: Any, observations: Any) -> Analysis:
        """Return the analysis with its posterior standard deviation and the statistics of the innovation.

        Arguments as for the call. The posterior is computed in blocks of cells, so that memory stays bounded; where it is
        estimated from random samples, :meth:`posterior` tells its standard error.
        """
        return Analysis(*self._examine(forecast, observations, lambda solved: ()))

    def _examine(self, forecast: Any, observations: Any, more: Callable[[Form], tuple[Any, ...]]) -> tuple[Any, ...]:
        """Return the parts of :class:`Analysis`, and more of the solution."""

        def act(x: Any, problem: Problem, arguments: dict[str, Any]) -> tuple[Any, ...]:
            shared = arguments["values"].shape[0] == 1
            solved, x = self._solved(x, problem, arguments)
            variance, _ = solved.posterior
            analysis = unfold(x + solved.increment, shared)
            batch = ops.shape(analysis)[:1]
            valid = solved.told(solved.valid)
            used = ops.sum(ops.cast(valid, "float64"), axis=-1)
            error = ops.where(valid, solved.told(solved.error_std), np.nan)
            expected = ops.sqrt(solved.told(solved.observed_variance()) + ops.square(error))
            innovation = ops.where(valid[..., None], solved.told(solved.innovation), np.nan)
            chi2 = ops.sum(solved.told(solved.mahalanobis), axis=1) / ops.where(used > 0, used, np.nan)[..., None]
            return (
                analysis,
                ops.broadcast_to(ops.sqrt(variance), ops.shape(analysis)),
                unfold(innovation, shared),
                ops.broadcast_to(expected, (*batch, *ops.shape(expected)[1:])),
                ops.reshape(chi2, batch),
                ops.broadcast_to(used, batch),
                *more(solved),
            )

        with _backend.float64():
            cells = self._cells(ops.convert_to_tensor(forecast))
            dtype = cells.dtype
            xa, std, *rest = self._each(cells, observations, act)
            results = [self._to_grid(xa), self._to_grid(std), *rest]
            return tuple(ops.cast(r, dtype) for r in results)

    def _solved(self, x: Any, problem: Problem, arguments: dict[str, Any]) -> tuple[Form, Any]:
        given = {**arguments, **problem.parameters}
        f = {k: double(v, k) for k, v in given.items() if v is not None}
        x = fold(double(x), arguments["values"].shape[0] == 1)
        return problem.solve(f, x), x

    def posterior(self, observations: Any) -> tuple[Any, Any]:
        """Return the posterior standard deviation ``[o, *grid]`` in float64, and its standard error, 0 where it is exact."""

        def act(x: Any, problem: Problem, arguments: dict[str, Any]) -> tuple[Any, ...]:
            solved, _ = self._solved(x, problem, arguments)
            variance, error = solved.posterior
            std = ops.sqrt(variance)
            return std, ops.zeros_like(std) if error is None else 0.5 * error / ops.maximum(std, 1e-300)

        with _backend.float64():
            std, error = self._each(self._nothing(observations), observations, act)
            return self._to_grid(std), self._to_grid(error)

    def influence(self, observations: Any) -> Influence:
        """Return the influence of each observation and the degrees of freedom for signal; they do not depend on values."""

        def act(x: Any, problem: Problem, arguments: dict[str, Any]) -> tuple[Any, ...]:
            return self._influence(self._solved(x, problem, arguments)[0])

        with _backend.float64():
            return Influence(*self._each(self._nothing(observations), observations, act))

    def examine(self, forecast: Any, observations: Any) -> tuple[Any, ...]:
        """Return :meth:`diagnose`, the standard error of the std ``[o, *grid]``, and :meth:`influence`, from one solution."""

        def more(solved: Form) -> tuple[Any, ...]:
            variance, error = solved.posterior
            error = ops.zeros_like(variance) if error is None else 0.5 * error / ops.maximum(ops.sqrt(variance), 1e-300)
            return (error, *self._influence(solved))

        xa, std, innovation, expected, chi2, used, error, *influence = self._examine(forecast, observations, more)
        with _backend.float64():
            return xa, std, innovation, expected, chi2, used, self._to_grid(error), *influence

    @staticmethod
    def _influence(solved: Form) -> tuple[Any, Any]:
        valid = solved.told(solved.valid)
        influence = ops.where(valid, solved.told(solved.influence()), np.nan)
        return influence, ops.sum(ops.where(valid, influence, 0.0), axis=-1)

    def _nothing(self, observations: Any) -> Any:
        values = observations["values"] if isinstance(observations, Mapping) else observations
        return ops.zeros((values.shape[0], self.size), dtype="float64")

    size: int
    """Number of elements of the state, n."""

    def compute_output_shape(self, forecast_shape: Any, observations_shape: Any = None) -> Any:
        """Return the shape of the forecast."""
        return tuple(forecast_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor that all layers share."""
        error = self.observation_error
        return {
            **super().get_config(),
            "background_error": keras.saving.serialize_keras_object(self.background_error),
            "observation_error": None if error is None else np.asarray(error.std).tolist(),
            "method": self.method,
            "rtol": self.rtol,
            "samples": self.samples,
            **({"trainable": list(self.learned), "frozen": not self.trainable} if self.learned else {}),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LinearAnalysis:
        """Return the layer that :meth:`get_config` describes."""
        config = dict(config)
        frozen = config.pop("frozen", False)
        error = keras.saving.deserialize_keras_object(config["background_error"])
        layer = cls(**{**config, "background_error": error})
        if frozen:
            layer.trainable = False
        return layer
