"""FieldModel: scaling, network, head and constraints as one Keras model in physical units."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops

from physml import grid
from physml._errors import describe, refuse
from physml.constraints.base import Constraint
from physml.constraints.combine import Constraints
from physml.constraints.layer import concatenate
from physml.data._scaling_graph import ScalingGraph
from physml.data.scaling import Scaling
from physml.fields import FieldSpec
from physml.heads.base import Head, make_head
from physml.heads.distribution import Distribution
from physml.layout import Layout
from physml.provenance import record
from physml.scored import Scored
from physml.sizes import reads_gaps, refuse_whole_grid, sizes_of, valid_cells, whole_grid_reason


@keras.saving.register_keras_serializable(package="physml")
class FieldModel(Scored):
    """Any Keras network between named fields: physical units at both ends, laws enforced at the end.

    Inputs are scaled, masked cells set to zero (to NaN for a network with ``partial="nan"``, which looks for it), the network
    applied, its output brought back to physical units and moved onto the constraints. All of it is the graph of one ``keras.Model``, so ``compile``, ``fit``, ``predict`` and ``save`` work as
    for any other; one ``.keras`` file holds network, spec, scaling, masks, constraints and provenance.

    Losses and metrics see targets and predictions in scaled units (transformed where the scaling transforms them, divided by
    the standard deviation of the target, or of its change with *increment*), so that pressure in Pa does not drown humidity
    in kg kg-1. Of a head that answers a distribution metrics see the point forecast, weighted as in the loss.

    Parameters
    ----------
    network
        Maps ``[batch, *space, input channel]`` to ``[batch, *space, target channel]`` (or what *head* asks for), in scaled
        units. Any Keras model or layer. Where no target has a space dimension (an index, the regime of a day), it may map to
        ``[batch, channel]``.
    spec
        The :class:`physml.FieldSpec`, or its layout. Not needed with *scaling*, which knows it.
    scaling
        From :meth:`physml.Scaling.fit` on the training data. None: no scaling; *spec* must then be a layout.
    constraints
        Laws that hold in every output.
    head
        Turns the network's output into physical fields in place of the unscaling: one that keeps a law, such as
        :class:`physml.Transport`, or one that answers a distribution and brings its loss, such as :class:`physml.heads.Gaussian`; any
        :class:`physml.heads.Head`.
    increment
        The network predicts the change of each target from its value among the inputs, scaled by the standard deviation of
        that change, so that float32 keeps small anomalies of large fields. Of a target that the scaling transforms it is the
        change of the transformed value: growth for a logarithm, so that a positive field stays positive.
    penalties
        Laws whose violation joins the loss (soft), with *penalty* as weight.
    penalty
        Weight of *penalties*; a :class:`physml.PenaltySchedule` moves it in training.
    loss_units
        ``"scaled"`` or ``"physical"``: what losses and metrics see.
    missing
        ``"raise"``: an input missing on a valid cell is an error in :func:`physml.predict`, and makes its sample NaN elsewhere.
        ``"mean"``: it is taken at its mean.
    provenance
        Entries kept with the model, such as the source of the data.

    Raises
    ------
    ValueError
        Where the network's output does not have the channels, or a law does not fit.

    Notes
    -----
    A network on ``keras.Input((None, None, channels))`` makes a model for maps of any size, such as patches and tiles. On the
    grid of the layout it masks as ever; on other sizes a masked cell is one whose input is NaN, and outputs are not masked.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from physml import FieldModel, FieldSpec, NonNegative, Scaling, networks
    >>> rng = np.random.default_rng(0)
    >>> ds = xr.Dataset({"c": (("time", "x"), rng.random((9, 4)))}, {"time": np.arange(9)})
    >>> scaling = Scaling.fit(ds, FieldSpec("c", "c", target_offsets=1))
    >>> model = FieldModel(networks.mlp(scaling.layout), scaling=scaling, constraints=[NonNegative("c")])
    >>> model.predict_on_batch(np.zeros((2, 4, 1))).shape
    (2, 4, 1)
    """

    def __init__(
        self,
        network: Any,
        spec: FieldSpec | Layout | None = None,
        scaling: Scaling | None = None,
        constraints: Constraints | Iterable[Constraint] | Constraint = (),
        *,
        head: Head | None = None,
        increment: bool = False,
        penalties: Constraints | Iterable[Constraint] | Constraint = (),
        penalty: float = 1.0,
        loss_units: str = "scaled",
        missing: str = "raise",
        provenance: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        # Physical units do not fit into half precision: mixed precision belongs to the network inside.
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if self.compute_dtype not in ("float32", "float64"):
            raise ValueError(
                describe(
                    "FieldModel cannot hold physical units in half precision",
                    expected="dtype='float32' or 'float64'",
                    received=repr(self.dtype_policy.name),
                    remedy="give the network inside dtype='mixed_float16', and leave the FieldModel alone",
                )
            )
        self.network = network
        self.constraints = constraints if isinstance(constraints, Constraints) else Constraints(constraints)
        self.penalties = penalties if isinstance(penalties, Constraints) else Constraints(penalties)
        # A head holds the masks of its grid: a copy, so that one head may be given to models of several grids.
        self.head, self.increment = copy.copy(head), bool(increment)
        self._penalty: Any = float(penalty)
        if len(self.penalties):  # a variable, so that a schedule can move it without tracing the graph again
            self._penalty = self.add_weight(
                shape=(), initializer=keras.initializers.Constant(float(penalty)), trainable=False, name="penalty"
            )
        if isinstance(head, Distribution) and loss_units == "physical":
            refuse(
                f"FieldModel: the losses of the head {type(head).__name__} are in scaled units",
                "loss_units='scaled'",
                "loss_units='physical'",
                "leave loss_units out",
            )
        choices = {"loss_units": (loss_units, ("scaled", "physical")), "missing": (missing, ("raise", "mean"))}
        for what, (said, known) in choices.items():
            if said not in known:
                raise ValueError(
                    describe(
                        f"FieldModel: {what} is not understood",
                        expected=f"{known[0]!r} or {known[1]!r}",
                        received=repr(said),
                        remedy=f"{what}={known[0]!r}",
                    )
                )
        self.loss_units, self.missing = loss_units, missing
        self.provenance = record(**(provenance or {}))
        layout = _layout(spec, scaling).load()
        bound = self.penalties.bind(self.constraints.bind(self._answers(layout)))
        layout = replace(layout, statics=bound.statics, kept=bound.kept)
        if head is not None:
            layout = layout.keep(
                {n: grid.variable(layout.statics, n, "static field of the head") for n in head.statics(layout)}
            )
        self._attach(layout, (scaling or Scaling.identity(layout)).to_config())
        self.head_layer = None if self.head is None else self.head.layer(layout)
        self._shows_gaps = reads_gaps(network)
        self._check_network()
        sizes = sizes_of(network, layout)
        self.free_size = None in sizes
        """Whether it takes maps of any size."""
        if self.free_size:
            refuse_whole_grid(self)
        self(keras.Input((*sizes, len(layout.inputs)), dtype=self.compute_dtype))

    @property
    def penalty(self) -> float:
        """Weight of the soft laws; :class:`physml.PenaltySchedule` moves it in training."""
        return float(str(np.asarray(self._penalty)))  # 0.1, not the float64 beside the float32

    @penalty.setter
    def penalty(self, weight: float) -> None:
        if isinstance(self._penalty, float):
            self._penalty = float(weight)
        else:
            self._penalty.assign(weight)

    # the constants of the graph -----------------------------------------------------------------------------------

    def _attach(self, layout: Layout, scaling: Mapping[str, Any]) -> None:
        """Hold a layout, and everything derived from it and the scaling, as arrays."""
        self.layout = layout
        self.scaling = Scaling.from_config(scaling, layout)
        self._scale = ScalingGraph(self.scaling, self.increment, self.compute_dtype)
        self.loss_scale = self._scale.unit
        """What a scaled unit is in physical (or transformed) units, by target channel, over all months."""
        unit = self._scale.physical_unit()
        if self.head is not None:
            self.head.bind(layout, unit)
        self.answers = self._answers(layout)
        """Layout of what the model answers: that of its targets, or what the head makes of it."""
        self.constraints = self.constraints.weighed(
            unit if self.head is None else self.head.units(unit, layout), self.answers
        )
        valid_in, valid_out = layout.valid("inputs"), self.answers.valid("targets")
        self._valid_in = None if valid_in.all() else valid_in
        self._valid_out = None if valid_out.all() else valid_out
        truth = layout.valid("targets")
        self._valid_targets = None if truth.all() else truth

    def _answers(self, layout: Layout) -> Layout:
        return layout if self.head is None else self.head.answers(layout)

    def _check_network(self) -> None:
        layout = self.layout
        wanted = len(layout.targets) if self.head is None else self.head.channels(layout)
        given = (None, *layout.shape, len(layout.inputs))
        takes = getattr(self.network, "input_shape", None)
        fits = not isinstance(takes, tuple) or (
            len(takes) == len(given) and all(a in (None, b) for a, b in zip(takes, given, strict=True))
        )
        if not fits:
            raise ValueError(
                describe(
                    "the network does not take the inputs",
                    expected=f"[batch, {', '.join(map(str, given[1:]))}] for {', '.join(map(str, layout.inputs))}",
                    received=["batch", *takes[1:]],  # type: ignore[index]
                    remedy="build it on keras.Input((*layout.shape, len(layout.inputs)))",
                )
            )
        shape = tuple(self.network(keras.KerasTensor(given, self.compute_dtype)).shape)
        self._spreads = layout.series and layout.space != () and shape[1:] == (wanted,)
        if layout.series and layout.space and not self._spreads and not getattr(self.head, "cellwise", True):
            refuse(
                f"{type(self.head).__name__}: one class for the whole map cannot be the mean of those of its cells",
                f"a network that gives [batch, {wanted}]",
                [s if s is not None else "batch" for s in shape],
                "pool over the map before the last layer, such as keras.layers.GlobalAveragePooling2D",
            )
        if shape[1:] != (*layout.shape, wanted) and not self._spreads:
            raise ValueError(
                describe(
                    "the network's output does not fit the targets"
                    if self.head is None
                    else f"the network's output does not fit the head {type(self.head).__name__}",
                    expected=f"[batch, {', '.join(map(str, layout.shape))}, {wanted}]"
                    + (f" for {', '.join(map(str, layout.targets))}" if self.head is None else ""),
                    received=[s if s is not None else "batch" for s in shape],
                    remedy="give the last layer that many channels and keep the grid (padding)",
                )
            )

    # the graph --------------------------------------------------------------------------------------------------------

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return physical targets ``[batch, *space, channel]`` of physical inputs; masked cells hold 0."""
        wanted = (*sizes_of(self.network, self.layout), len(self.layout.inputs))
        if len(inputs.shape) != len(wanted) + 1 or any(
            None not in (have, want) and have != want for have, want in zip(inputs.shape[1:], wanted, strict=True)
        ):
            raise ValueError(
                describe(
                    "FieldModel takes the inputs as channels on their grid",
                    expected=f"[batch, {', '.join(map(str, wanted))}] for {', '.join(map(str, self.layout.inputs))}",
                    received=list(inputs.shape),
                    remedy="physml.predict(model, ds), or model.layout.pack(ds, 'inputs')",
                )
            )
        return self._loud(inputs, self.through(inputs, self.network, training=training))

    def _loud(self, inputs: Any, y: Any) -> Any:
        """Return NaN for samples with an input missing on a valid cell: on some processors an activation turns NaN into 0."""
        if self.missing == "mean":
            return y
        x = ops.cast(inputs, self.compute_dtype)
        there, present = ops.isfinite(x), valid_cells(self, x)
        there = there if present is None else ops.logical_or(there, ops.logical_not(present))
        whole = ops.all(there, axis=tuple(range(1, len(x.shape))), keepdims=True)
        return self._masked(ops.where(whole, y, ops.full_like(y, float("nan"))))

    def through(
        self,
        inputs: Any,
        network: Any,
        valid: Any = None,
        training: bool | None = None,
        penalties: bool = True,
        leftovers: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return what :meth:`call` does, of a window of the grid.

        Parameters
        ----------
        inputs
            ``[batch, *space, input channel]`` in physical units.
        network
            The network for windows of that size.
        valid
            Valid cells ``[*space, input channel]`` of the window; by default those of the layout, or cells that are not NaN.
        training
            As for any layer.
        penalties
            Whether soft laws join the loss.
        leftovers
            What the step before could not store of conserved totals, by name; those of this step are then returned as well.
        """
        layout, answers = self.layout, self.answers
        x, z = self.scaled_inputs(inputs, valid)
        if self._shows_gaps:
            present = valid_cells(self, ops.cast(inputs, self.compute_dtype)) if valid is None else valid
            z = z if present is None else ops.where(present, z, ops.full_like(z, float("nan")))
        n = ops.cast(network(z, training=training), self.compute_dtype)
        if self._spreads:  # one answer for the whole map stands in every cell of it
            n = ops.reshape(n, (-1, *(1,) * len(layout.shape), n.shape[-1]))
            n = n + ops.zeros_like(x[..., :1])
        if self.head_layer is not None:
            n = self.head_layer(n)
        if isinstance(self.head, Distribution):
            y = ops.cast(self.head.physical(n, x, self._scale), self.compute_dtype)
        elif self.head is not None:
            y = ops.cast(self.head(n, x), self.compute_dtype)
        else:
            y = self._scale.outputs(n, x)
        y = self._masked(y)
        penalties = penalties and len(self.penalties) > 0
        if len(self.constraints) or penalties:
            fields_in = layout.split(x, "inputs")
            if penalties:
                found = self.penalties.loss(answers.split(y, "targets"), fields_in, answers)
                self.add_loss(ops.cast(self._penalty, found.dtype) * found)
            if len(self.constraints):
                moved = self.constraints.project(answers.split(y, "targets"), fields_in, answers, leftovers)
                y = self._masked(concatenate(moved, answers))
        if not leftovers:
            return y if leftovers is None else (y, {})
        return y, self.constraints.leftovers(answers.split(y, "targets"), fields_in, answers, leftovers)

    def scaled_inputs(self, inputs: Any, valid: Any = None) -> tuple[Any, Any]:
        """Return what the network sees of physical inputs: themselves, gaps and masked cells filled, and scaled.

        Parameters
        ----------
        inputs, valid
            As for :meth:`through`.
        """
        x = ops.cast(inputs, self.compute_dtype)
        present = valid_cells(self, x) if valid is None else valid
        if self.missing == "mean":
            there = ops.isfinite(x)
            x = ops.where(there, x, self._scale.centre(ops.where(there, x, ops.zeros_like(x))))
        if present is not None:
            x = ops.where(present, x, ops.zeros_like(x))
        z = self._scale.inputs(x)
        if present is not None:
            z = ops.where(present, z, ops.zeros_like(z))
        if self.head is not None:
            z = z * self.head.seen
        return x, z

    def scaled_targets(self, y: Any, x: Any) -> Any:
        """Return physical targets ``[batch, *space, target channel]`` in scaled units, masked cells 0; *x* tells the month."""
        return self._masked(self._scale.targets(self._masked(ops.cast(y, self.compute_dtype)), self._physical(x)))

    def whole_grid_reason(self) -> str | None:
        """Return why an output cell depends on the whole grid whatever the network, or None; see :mod:`physml.sizes`."""
        return whole_grid_reason(self)

    # saving -----------------------------------------------------------------------------------------------------------

    def build(self, input_shape: Any = None) -> None:
        """Build the network; the model is already built when it is made."""
        if not self.network.built:
            self.network.build(input_shape)
        self.built = True

    def save_own_variables(self, store: Any) -> None:
        """Store mask, area, coordinates and the fields that constraints need."""
        for name, array in self.layout.arrays().items():
            store[name] = array

    def load_own_variables(self, store: Any) -> None:
        """Restore what :meth:`save_own_variables` stored."""
        arrays = {n: np.asarray(store[n]) for n in self.layout.arrays()}
        self._attach(Layout.from_config(self.layout.to_config(), arrays), self.scaling.to_config())

    def get_config(self) -> dict[str, Any]:
        """Return plain values that make the same model again."""
        return {
            "name": self.name,
            "network": keras.saving.serialize_keras_object(self.network),
            "layout": self.layout.to_config(),
            "scaling": self.scaling.to_config(),
            "constraints": self.constraints.to_config(),
            "penalties": self.penalties.to_config(),
            "penalty": self.penalty,
            "head": None if self.head is None else {"type": type(self.head).__name__, **self.head.get_config()},
            "increment": self.increment,
            "loss_units": self.loss_units,
            "missing": self.missing,
            "provenance": dict(self.provenance),
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> FieldModel:
        """Return the model that :meth:`get_config` describes."""
        config = dict(config)
        layout = Layout.from_config(config.pop("layout"))
        head = config.pop("head")
        network = keras.saving.deserialize_keras_object(config.pop("network"), custom_objects=custom_objects)
        return cls(
            network,
            layout,
            Scaling.from_config(config.pop("scaling"), layout),
            Constraints.from_config(config.pop("constraints")),
            penalties=Constraints.from_config(config.pop("penalties")),
            head=None if head is None else make_head(head),
            dtype=keras.saving.deserialize_keras_object(config.pop("dtype")),
            **config,
        )


def _layout(spec: FieldSpec | Layout | None, scaling: Scaling | None) -> Layout:
    if scaling is not None:
        bound = scaling.layout
        wanted = spec.spec if isinstance(spec, Layout) else spec
        if wanted is not None and wanted.in_steps(bound.step) != bound.spec:
            raise ValueError(
                describe(
                    "FieldModel: the scaling was fitted to another spec",
                    expected=bound.spec,
                    received=wanted,
                    remedy="Scaling.fit(train, spec) with the spec of the model",
                )
            )
        return bound
    if isinstance(spec, Layout):
        return spec
    raise ValueError(
        describe(
            "FieldModel does not know the grid",
            expected="scaling=Scaling.fit(train, spec), or spec.bind(ds)",
            received=f"spec={type(spec).__name__}, scaling=None",
            remedy="fit a Scaling to the training data",
        )
    )


def load(path: str | os.PathLike[str]) -> FieldModel:
    """Return a saved FieldModel.

    Parameters
    ----------
    path
        A ``.keras`` file written by ``model.save(path)``.

    Raises
    ------
    FileNotFoundError, ValueError
        Where there is no such file, or it holds something else.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(
            describe(
                f"no model at {path!r}", expected="a .keras file", received="nothing there", remedy="check the path"
            )
        )
    from physml.networks import register

    register()

    try:
        model = keras.saving.load_model(path)
    except Exception as error:  # Keras raises many classes for a file it cannot read
        raise ValueError(
            describe(
                f"the model at {path!r} cannot be read",
                expected="a whole .keras file written by FieldModel.save",
                received=f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}",
                remedy="save or copy the file again; a layer of your own must be imported before loading",
            )
        ) from error
    if not isinstance(model, FieldModel):
        raise ValueError(
            describe(
                f"the model at {path!r} is no FieldModel",
                expected="physml.FieldModel",
                received=type(model).__name__,
                remedy="keras.saving.load_model reads plain Keras models",
            )
        )
    return model
