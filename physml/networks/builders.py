"""Networks by the names that configurations use."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras

from physml._errors import closest, describe
from physml.layout import Layout
from physml.networks.convolutional import cnn
from physml.networks.perceptron import mlp

BUILDERS: dict[str, Callable[..., keras.Model]] = {"cnn": cnn, "mlp": mlp}


def build(name: str, layout: Layout, outputs: int | None = None, **arguments: Any) -> keras.Model:
    """Return the network *name* for a layout.

    Raises
    ------
    ValueError
        For unknown names and arguments; the nearest is offered.

    Examples
    --------
    >>> build("cnm", None)
    Traceback (most recent call last):
    ValueError: unknown network 'cnm'; did you mean 'cnn'?. Expected: one of cnn, mlp. Received: 'cnm'. Remedy: correct network.name.
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
    parameters = inspect.signature(BUILDERS[name]).parameters
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
    return BUILDERS[name](layout, outputs=outputs, **arguments)


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
