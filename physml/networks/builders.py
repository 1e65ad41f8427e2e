"""Networks by the names that configurations use."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import keras

from physml._errors import closest, describe
from physml.layout import Layout

BUILDERS: dict[str, str] = {
    "cnn": "convolutional",
    "mlp": "perceptron",
    "resnet": "residual",
    "unet": "multiscale",
    "lstm": "recurrent",
    "gru": "recurrent",
    "convlstm": "memory",
    "autoencoder": "autoencoding",
}
"""Builders by name, and the module that holds each."""


def builder(name: str) -> Callable[..., keras.Model]:
    """Return the builder of that name, which :data:`BUILDERS` holds."""
    return getattr(import_module(f"physml.networks.{BUILDERS[name]}"), name)


def build(name: str, layout: Layout, outputs: int | None = None, **arguments: Any) -> keras.Model:
    """Return the network *name* for a layout.

    Raises
    ------
    ValueError
        For unknown names and arguments; the nearest is offered.

    Examples
    --------
    >>> build("cnm", None)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: unknown network 'cnm'; did you mean 'cnn'? Expected: one of ... Received: 'cnm'. Remedy: correct network.name.
    """
    if name not in BUILDERS:
        raise ValueError(
            describe(
                f"unknown network {name!r}{closest(name, BUILDERS)}",
                expected=f"one of {', '.join(BUILDERS)}",
                received=repr(name),
                remedy="correct network.name",
            )
        )
    parameters = inspect.signature(builder(name)).parameters
    known = [p for p in parameters if p not in ("layout", "outputs")]
    _refuse_unknown(name, arguments, known)
    for argument in known:
        if argument not in arguments and parameters[argument].default is inspect.Parameter.empty:
            raise ValueError(
                describe(
                    f"network {name!r} needs {argument!r}",
                    expected=f"{argument}=... as in physml.networks.{name}",
                    received="nothing",
                    remedy="say it in network.arguments: it has no default",
                )
            )
    return builder(name)(layout, outputs=outputs, **arguments)


def _refuse_unknown(name: str, arguments: Mapping[str, Any], known: list[str]) -> None:
    for argument in arguments:
        if argument not in known:
            raise ValueError(
                describe(
                    f"network {name!r} has no argument {argument!r}{closest(argument, known)}",
                    expected=f"among {', '.join(known)}",
                    received=repr(argument),
                    remedy="correct network.arguments",
                )
            )
