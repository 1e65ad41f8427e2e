"""A head turns the network's output into physical fields that keep a law by construction; all heads answer alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from physml._errors import closest, describe, misfits
from physml.layout import Layout

HEADS: dict[str, type[Head]] = {}
"""Heads by the names that configurations and saved models use; a subclass of :class:`Head` is known once it is defined."""

_OWN = (
    "physml.constraints.transport",
    "physml.constraints.fluxform",
    "physml.constraints.streamfunction",
    "physml.constraints.helmholtz",
    "physml.constraints.shares",
    "physml.heads.classes",
    "physml.heads.gaussian",
    "physml.heads.quantiles",
    "physml.heads.samples",
)
"""Modules whose heads are known by name without being imported first."""


class Head:
    """What makes the output of a :class:`physml.FieldModel` in place of the plain unscaling. Subclasses are known by name.

    A head is made without a grid, so that a configuration can describe it; the model then binds its own copy to the layout,
    once when it is made and again when its arrays are restored.

    Attributes
    ----------
    seen
        ``[input channel]``, 1.0 for inputs that the network sees and 0.0 for those hidden from it. Set by :meth:`bind`.
    """

    seen: np.ndarray
    local = False
    """Whether it acts on every cell alike, so that it fits maps of any size."""

    def __init_subclass__(cls, *, kind: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not kind:  # of heads, not a head itself
            HEADS[cls.__name__] = cls

    def channels(self, layout: Layout) -> int:
        """Return how many channels the network must give."""
        raise NotImplementedError

    def statics(self, layout: Layout) -> Sequence[str]:
        """Return the names of the static fields that are kept with the layout."""
        return ()

    def bind(self, layout: Layout, unit: np.ndarray | None = None) -> None:
        """Prepare masks and measures for a layout; refuse one it cannot act on.

        Parameters
        ----------
        layout
            With the static fields that :meth:`statics` names. While a saved model is rebuilt they hold ones at first.
        unit
            By how much each target changes, in its own units, when its scaled value changes by one, ``[target channel]``:
            the scale of the network's output. None: 1.
        """
        raise NotImplementedError

    def answers(self, layout: Layout) -> Layout:
        """Return the layout of what the model answers: by default that of the targets themselves.

        A head whose output is more than the targets (a mean and a standard deviation, quantiles, probabilities of classes) returns
        a layout with other targets, from :func:`physml.heads._answers.answering`; predictions are labelled by it.
        """
        return layout

    def layer(self, layout: Layout) -> Any:
        """Return a Keras layer that the network's output passes first, for weights that belong to the head, or None."""
        return None

    def units(self, unit: np.ndarray, layout: Layout) -> np.ndarray:
        """Return typical sizes of the channels of :meth:`answers`, from those of the targets ``[target channel]``."""
        return unit

    def __call__(self, network_output: Any, inputs: Any) -> Any:
        """Return the targets.

        Parameters
        ----------
        network_output
            ``[batch, *space, channels]``.
        inputs
            ``[batch, *space, input channel]`` in physical units, masked cells 0.

        Returns
        -------
        tensor
            ``[batch, *space, target channel]`` in physical units, in the type of *inputs*.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, as plain values."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Head:
        """Return the head with the arguments of :meth:`get_config`."""
        return cls(**config)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.get_config().items())})"


def make_head(config: Mapping[str, Any]) -> Head:
    """Return the head described by ``{"type": "Transport", **arguments}``.

    Raises
    ------
    ValueError
        For unknown types, and for arguments that the head does not have or lacks; the nearest name is offered.

    Examples
    --------
    >>> make_head({"type": "FluxForm", "boundary": {"x": "periodic"}}).boundary
    {'x': 'periodic'}
    """
    arguments = dict(config)
    name = arguments.pop("type", None)
    parameters, unknown, lacking = misfits(head_class(name), arguments)
    if unknown or lacking:
        what = (
            f"has no argument {unknown[0]!r}{closest(unknown[0], parameters)}" if unknown else f"needs {lacking[0]!r}"
        )
        raise ValueError(
            describe(
                f"head {name} {what}",
                expected=f"among {', '.join(parameters)}" if unknown else f"{lacking[0]}=...: it has no default",
                received=", ".join(arguments) or "no arguments",
                remedy=f"correct the arguments of head; see physml.{name}",
            )
        )
    return HEADS[name].from_config(arguments)


def head_class(name: Any) -> type[Head]:
    """Return the class of heads of that name.

    Raises
    ------
    ValueError
        For unknown names; the nearest is offered.
    """
    if name not in HEADS:
        for module in _OWN:
            import_module(module)
    if name not in HEADS:
        raise ValueError(
            describe(
                f"unknown head {name!r}{closest(str(name), HEADS)}",
                expected=f"one of {', '.join(sorted(HEADS))}",
                received=repr(name),
                remedy="correct head.type; a head of your own is known once its module is imported",
            )
        )
    return HEADS[name]
