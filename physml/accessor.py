"""``ds.physml``: one-line calls into the functions of the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

if TYPE_CHECKING:
    from physml.model import FieldModel


@xr.register_dataset_accessor("physml")
class Accessor:
    """The functions of physml on a Dataset."""

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    def predict(self, model: FieldModel | str, **kwargs: Any) -> xr.Dataset:
        """Return :func:`physml.predict` of this Dataset."""
        from physml.forecast import predict

        return predict(model, self._ds, **kwargs)

    def rollout(self, model: FieldModel | str, steps: int, **kwargs: Any) -> xr.Dataset:
        """Return :func:`physml.rollout` from this Dataset."""
        from physml.forecast import rollout

        return rollout(model, self._ds, steps, **kwargs)

    def constrain(self, constraints: Any, inputs: xr.Dataset | None = None, **kwargs: Any) -> xr.Dataset:
        """Return this Dataset moved onto the constraints; see :meth:`physml.Constraints.apply`."""
        from physml.constraints.combine import Constraints

        laws = constraints if isinstance(constraints, Constraints) else Constraints(constraints)
        return laws.apply(self._ds, inputs, **kwargs)
