"""physml: Keras networks that learn on labelled ocean and climate fields and keep the physics.

Public names are imported when they are first used, so ``import physml`` loads neither Keras nor TensorFlow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from physml import accessor as _accessor
from physml.provenance import package_version as _version

__version__ = _version()

_HOMES = {
    "FieldSpec": "fields",
    "Layout": "layout",
    "Scaling": "data.scaling",
    "split_time": "data.split",
    "Batches": "data.batches",
    "Loader": "data.loader",
    "Patches": "data.patches",
    "FieldModel": "model",
    "load": "model",
    "predict": "forecast",
    "predict_to": "stream",
    "rollout": "forecast",
    "FieldStep": "forecast",
    "NonNegative": "constraints.bounds",
    "Bounds": "constraints.bounds",
    "Monotone": "constraints.bounds",
    "Simplex": "constraints.closure",
    "Closure": "constraints.closure",
    "BlockMean": "constraints.closure",
    "Completion": "constraints.completion",
    "Budget": "constraints.balance",
    "Conserve": "constraints.budget",
    "Constraints": "constraints.combine",
    "ConstraintLayer": "constraints.layer",
    "PenaltySchedule": "constraints.schedule",
    "FluxForm": "constraints.fluxform",
    "Helmholtz": "constraints.helmholtz",
    "Streamfunction": "constraints.streamfunction",
    "Shares": "constraints.shares",
    "Nonlinear": "constraints.nonlinear",
    "KineticEnergy": "constraints.nonlinear",
    "RelativeHumidity": "constraints.nonlinear",
    "Transport": "constraints.transport",
}
_ROOMS = (
    "assimilation",
    "constraints",
    "data",
    "explain",
    "grid",
    "heads",
    "learners",
    "losses",
    "networks",
    "plot",
    "report",
    "testbeds",
    "training",
    "tuning",
    "verify",
)
__all__ = sorted([*_HOMES, *_ROOMS])

if TYPE_CHECKING:
    from physml.constraints.balance import Budget as Budget
    from physml.constraints.bounds import Bounds as Bounds
    from physml.constraints.bounds import Monotone as Monotone
    from physml.constraints.bounds import NonNegative as NonNegative
    from physml.constraints.budget import Conserve as Conserve
    from physml.constraints.closure import BlockMean as BlockMean
    from physml.constraints.closure import Closure as Closure
    from physml.constraints.closure import Simplex as Simplex
    from physml.constraints.combine import Constraints as Constraints
    from physml.constraints.completion import Completion as Completion
    from physml.constraints.fluxform import FluxForm as FluxForm
    from physml.constraints.helmholtz import Helmholtz as Helmholtz
    from physml.constraints.layer import ConstraintLayer as ConstraintLayer
    from physml.constraints.nonlinear import KineticEnergy as KineticEnergy
    from physml.constraints.nonlinear import Nonlinear as Nonlinear
    from physml.constraints.nonlinear import RelativeHumidity as RelativeHumidity
    from physml.constraints.schedule import PenaltySchedule as PenaltySchedule
    from physml.constraints.shares import Shares as Shares
    from physml.constraints.streamfunction import Streamfunction as Streamfunction
    from physml.constraints.transport import Transport as Transport
    from physml.data.batches import Batches as Batches
    from physml.data.loader import Loader as Loader
    from physml.data.patches import Patches as Patches
    from physml.data.scaling import Scaling as Scaling
    from physml.data.split import split_time as split_time
    from physml.fields import FieldSpec as FieldSpec
    from physml.forecast import FieldStep as FieldStep
    from physml.forecast import predict as predict
    from physml.forecast import rollout as rollout
    from physml.layout import Layout as Layout
    from physml.model import FieldModel as FieldModel
    from physml.model import load as load
    from physml.stream import predict_to as predict_to


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        value = getattr(import_module(f"physml.{_HOMES[name]}"), name)
    elif name in _ROOMS:
        value = import_module(f"physml.{name}")
    else:
        raise AttributeError(f"module 'physml' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


del _accessor
