"""Training recipes: one function from batches to a trained model, with everything that a run needs to be repeated.

:func:`fit` names the optimizer, the course of the learning rate, the descent (of the whole training set, of batches, of single
samples), when to stop, and where to keep the state from which a killed run goes on. :class:`History` is what it returns. Names
and arguments of optimizers and schedules are :data:`OPTIMIZERS` and :data:`SCHEDULES`; Keras does the descending.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

_HOMES = {
    "DESCENTS": "options",
    "OPTIMIZERS": "options",
    "SCHEDULES": "options",
    "History": "history",
    "display": "callbacks",
    "fit": "recipe",
}
__all__ = sorted(_HOMES)

if TYPE_CHECKING:
    from physml.training.callbacks import display as display
    from physml.training.history import History as History
    from physml.training.options import DESCENTS as DESCENTS
    from physml.training.options import OPTIMIZERS as OPTIMIZERS
    from physml.training.options import SCHEDULES as SCHEDULES
    from physml.training.recipe import fit as fit


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'physml.training' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"physml.training.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
