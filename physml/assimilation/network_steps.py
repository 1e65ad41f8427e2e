"""Time steps that hold a network: residual steps, any model under the names of its state, and the correction of a model.

Two ways to correct a model whose equations are known but not right (Farchi et al. 2021): its state after each step,

    x(t + dt) = M(x(t)) + dt r(x(t)),                        Corrected(step, network),

or its tendency within the scheme, which sees the correction in each of its stages,

    dx/dt = f(x) + r(x),                                     RK4(CorrectedTendency(f, network), dt).

References
----------
Farchi, A., Laloyaux, P., Bonavita, M. and Bocquet, M. (2021), doi:10.1002/qj.4116. Farchi, A., Bocquet, M., Laloyaux, P.,
Bonavita, M. and Malartic, Q. (2021), doi:10.1016/j.jocs.2021.101468.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from physml._errors import refuse
from physml.assimilation.steps import evaluate


class _Held(keras.layers.Layer):
    """Base of steps that hold parts; functions among them must be registered with Keras to be read again."""

    parts: tuple[str, ...] = ()

    def __init__(
        self, *, state_names: Sequence[str] | None = None, forcing_names: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.state_names, self.forcing_names = tuple(state_names or ()), tuple(forcing_names or ())

    def _hold(self, **parts: Any) -> None:
        for name, part in parts.items():
            if not callable(part):
                what, received = f"{type(self).__name__}: {name} cannot be called", type(part).__name__
                refuse(what, "a network, a layer or a function of the state", received, f"pass {name}=...")
            setattr(self, name, part)

    def compute_output_shape(self, state_shape: Any, forcing_shape: Any = None) -> Any:
        """Return the shape of the state."""
        return tuple(state_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        parts = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in self.parts}
        names = {"state_names": self.state_names, "forcing_names": self.forcing_names}
        return {**super().get_config(), **names, **parts}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Return the layer that :meth:`get_config` describes."""
        parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in cls.parts}
        return cls(**{**config, **parts})


@keras.saving.register_keras_serializable(package="physml")
class NetworkStep(_Held):
    """Any model or function of the state as a time step with the names of its channels.

    Parameters
    ----------
    network
        ``network(state)`` or ``network(state, forcing)`` gives the state one step later; a functional model of two inputs gets
        them as a list. A :class:`physml.FieldModel` brings its own names: use :class:`physml.forecast.FieldStep` for one.
    state_names, forcing_names
        Names of the channels, for :class:`Cycle`.
    time_step
        Length of a step, None where it has none.
    """

    parts = ("network",)

    def __init__(self, network: Callable[..., Any], time_step: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._hold(network=network)
        self.time_step = time_step

    def call(self, state: Any, forcing: Any = None) -> Any:
        """Return the state one step later ``[batch, *space, channel]``."""
        return evaluate(self.network, state, forcing)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "time_step": self.time_step}


@keras.saving.register_keras_serializable(package="physml")
class Residual(NetworkStep):
    """The state plus what a network makes of it: x + network(x), an Euler step whose length the network knows.

    Parameters
    ----------
    network
        ``network(state)`` or ``network(state, forcing)`` gives the increment of one step.
    state_names, forcing_names, time_step
        As for :class:`NetworkStep`.

    Examples
    --------
    >>> step = Residual(lambda x: -0.5 * x, time_step="1D")
    >>> float(step(keras.ops.ones((1, 3, 1)))[0, 0, 0])
    0.5
    """

    def call(self, state: Any, forcing: Any = None) -> Any:
        """Return the state one step later ``[batch, *space, channel]``."""
        return state + evaluate(self.network, state, forcing)


@keras.saving.register_keras_serializable(package="physml")
class Corrected(_Held):
    """A time step of a model known, and a network that corrects the state after it: step(x) + dt network(x).

    Parameters
    ----------
    step
        The model as it is known. Its own weights, if any, are not trained.
    network
        The correction, in units of the state per unit of time, of the state (and the forcing) before the step.
    state_names, forcing_names
        Names of the channels, by default those of *step*.

    Notes
    -----
    The length dt is that of *step* where it is a number (``step.dt``), else 1.

    Examples
    --------
    >>> step = Corrected(lambda x: 0.5 * x, lambda x: 0.25 * x)
    >>> float(step(keras.ops.ones((1, 3, 1)))[0, 0, 0])
    0.75
    """

    parts = ("step", "network")

    def __init__(self, step: Callable[..., Any], network: Callable[..., Any], **kwargs: Any) -> None:
        for key in ("state_names", "forcing_names"):
            kwargs[key] = kwargs.get(key) or getattr(step, key, None)
        super().__init__(**kwargs)
        self._hold(step=step, network=network)
        if isinstance(step, keras.layers.Layer):
            step.trainable = False
        given = getattr(step, "dt", None)
        self.dt = float(given) if isinstance(given, int | float) else None
        self.time_step = getattr(step, "time_step", None) if self.dt is None else self.dt

    def call(self, state: Any, forcing: Any = None) -> Any:
        """Return the state one step later ``[batch, *space, channel]``."""
        # Both parts may compute in a precision of their own.
        known, more = (ops.cast(evaluate(f, state, forcing), state.dtype) for f in (self.step, self.network))
        return known + (1.0 if self.dt is None else self.dt) * more


@keras.saving.register_keras_serializable(package="physml")
class CorrectedTendency(_Held):
    """A tendency known, and a network added to it, to be put into a scheme: f(x) + network(x).

    Parameters
    ----------
    tendency
        The known one. Its own weights, if any, are not trained.
    network
        The correction, in the same units.

    Examples
    --------
    >>> from physml.assimilation import RK4
    >>> step = RK4(CorrectedTendency(lambda x: -x, lambda x: 0.0 * x), dt=0.1)
    """

    parts = ("tendency", "network")

    def __init__(self, tendency: Callable[..., Any], network: Callable[..., Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._hold(tendency=tendency, network=network)
        if isinstance(tendency, keras.layers.Layer):
            tendency.trainable = False

    def call(self, state: Any, forcing: Any = None) -> Any:
        """Return dx/dt ``[batch, *space, channel]``."""
        known, more = (ops.cast(evaluate(f, state, forcing), state.dtype) for f in (self.tendency, self.network))
        return known + more
