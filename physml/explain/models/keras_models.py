"""A Keras model or layer as a function of packed inputs: compiled once for each number of rows, sent to other processes whole."""

from __future__ import annotations

import inspect
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from physml import _backend
from physml._errors import closest, describe, refuse
from physml.explain.models.adapting import Adapted
from physml.explain.models.outputs import Outputs, outputs_of
from physml.model import FieldModel

if TYPE_CHECKING:
    from physml.layout import Layout

MOST_SHAPES = 8
"""Numbers of rows for which compiled functions are kept."""


class Network:
    """A Keras model or layer as a function of inputs ``[row, *space, channel]``, in inference mode.

    Nothing of it is compiled before it is called, and nothing in Keras or its backend is replaced. Sent to another process,
    such as a dask worker, it travels as a ``.keras`` file beside the classes of its own layers.

    Parameters
    ----------
    model
        The model or layer.
    layout
        Layout of its inputs.

    Raises
    ------
    ValueError
        For several inputs that are not named after the variables, a model that keeps a state from batch to batch, and several
        outputs that cannot be joined.
    """

    def __init__(self, model: Any, layout: Layout) -> None:
        self.model, self.layout = model, layout
        self._compiled: dict[tuple[int, ...], Callable[..., tuple[np.ndarray, ...]]] = {}
        kept = [layer.name for layer in _layers(model) if getattr(layer, "stateful", False) is True]
        if kept:
            refuse(
                f"layer {kept[0]!r} of {model.name!r} keeps its state from one batch to the next",
                "predictions that do not depend on what was predicted before",
                "stateful=True",
                "build the model with stateful=False and the same weights",
            )
        self._names = _input_names(model, layout)
        self._cells = _flat_cells(model, layout)
        self.dtype = _widest(model)
        self._training = "training" in inspect.signature(model.call).parameters

    @property
    def plain(self) -> bool:
        """Whether the model itself takes ``[row, *space, channel]``."""
        return self._names is None and self._cells is None

    def raw(self, x: Any) -> Any:
        """Return what the model itself returns for tensors ``[row, *space, channel]``."""
        mode = {"training": False} if self._training else {}
        if isinstance(self.model, FieldModel):  # whose soft laws belong to training
            return self.model.through(x, self.model.network, training=False, penalties=False)
        if self._names is not None:
            return self.model(self.layout.split(x, "inputs"), **mode)
        if self._cells is not None:
            flat = ops.reshape(x, (-1, int(np.prod(x.shape[1:]))))
            x = ops.take(flat, self._cells, axis=1)
        return self.model(x, **mode)

    def tensors(self, x: Any) -> Any:
        """Return outputs ``[row, ...]`` of tensors ``[row, *space, channel]``: differentiable."""
        return self.joined(self.raw(x))

    def joined(self, found: Any) -> Any:
        """Return what the model itself returns as one tensor ``[row, ...]``."""
        if isinstance(found, Mapping | list | tuple):
            named = _named(self.model, found)
            if set(named) == set(self.layout.spec.targets):
                named = {n: named[n] for n in self.layout.spec.targets}
            parts = [ops.reshape(p, (-1, 1)) if len(p.shape) == 1 else p for p in named.values()]
            return ops.concatenate(parts, axis=-1)
        return ops.reshape(found, (-1, 1)) if len(found.shape) == 1 else found

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the outputs of rows."""
        rows = np.asarray(rows, self.dtype)
        if rows.shape not in self._compiled:
            for old in list(self._compiled)[: 1 - MOST_SHAPES]:
                del self._compiled[old]
            self._compiled[rows.shape] = _backend.fixed_signature(
                lambda x: (self.tensors(x),), list(self.model.variables), [rows.shape], [str(rows.dtype)]
            )
        return self._compiled[rows.shape](rows)[0]

    def __reduce__(self) -> Any:
        # Saved anew each time: the weights may have been trained since.
        data = _save(self.model, self.layout)
        return _restore, (_own_classes(self.model), isinstance(self.model, keras.Model), data, self.layout)


def keras_model(model: Any, layout: Layout, probe: np.ndarray, names: Sequence[str] | None) -> Adapted:
    """Return a Keras model or layer as a function of packed inputs; see :func:`physml.explain.models.adapting.adapt`.

    A functional model with several inputs is given each variable by its name, ``[row, *space, channel]``: the inputs are to
    be named after the variables. One whose only input is ``[row, n]`` is given the *n* valid inputs of a sample, in the order
    ``[*space, channel]``. Several outputs make one: fields where they are named after the targets, else a table.
    """
    network = Network(model, layout)
    if isinstance(model, FieldModel):
        return _adapted(network, outputs_of((*layout.shape, len(model.answers.targets)), model.answers, names))
    x = np.asarray(probe, network.dtype)
    try:
        raw = network.raw(ops.convert_to_tensor(x))
    except Exception as error:  # whatever a layer, of Keras or of the user, raises
        shape = f"[row, {', '.join(map(str, probe.shape[1:]))}]"
        raise ValueError(
            describe(
                f"the model {model.name!r} failed on the inputs of its layout",
                expected=f"a model of [row, *space, channel] = {shape}",
                received=f"{type(error).__name__}: {(str(error).strip() or ' ').splitlines()[0][:300]}",
                remedy="give the layout it was built for, or say how it is called: "
                "explain.on_tensors(lambda x: model(...))",
            )
        ) from error
    names = _names(model, raw, layout, names)
    return _adapted(network, outputs_of(network.joined(raw).shape[1:], layout, names))


def _adapted(network: Network, outputs: Outputs) -> Adapted:
    model = network.model
    own = model if network.plain else None
    return Adapted(model.name, network.layout, outputs, network, network.dtype, network.tensors, own)


def _layers(model: Any) -> list[Any]:
    flatten = getattr(model, "_flatten_layers", None)
    return [model] if flatten is None else list(flatten())


def _widest(model: Any) -> str:
    """Return the widest type of the weights: a model of float64 layers is given float64, whatever it says of itself."""
    known = [d for v in model.variables if (d := str(v.dtype)) in ("float32", "float64")]
    return max(known, default=str(model.variable_dtype))


def _input_names(model: Any, layout: Layout) -> list[str] | None:
    """Return the names of several inputs, those of the variables of the layout; None for one input."""
    given = getattr(model, "_inputs_struct", getattr(model, "inputs", None))
    if isinstance(given, Mapping):
        names = [str(n) for n in given]
    elif isinstance(given, list | tuple) and len(given) > 1:
        names = [str(x.name) for x in given]
    else:
        return None
    unknown = [n for n in names if n not in layout.spec.inputs]
    if unknown or set(names) != set(layout.spec.inputs):
        odd = f", as {unknown[0]!r}{closest(unknown[0], layout.spec.inputs)}" if unknown else ""
        refuse(
            f"the inputs of {model.name!r} are not the variables of the layout{odd}",
            ", ".join(map(repr, layout.spec.inputs)),
            ", ".join(map(repr, names)),
            "name them so: keras.Input(..., name='variable'), or say which channels each takes: "
            "explain.on_tensors(lambda x: model([x[..., :2], x[..., 2:]]))",
        )
    return names


def _flat_cells(model: Any, layout: Layout) -> np.ndarray | None:
    """Return where the features ``[row, n]`` of a model stand among the inputs ``[*space, channel]``; None for other models."""
    inputs = getattr(model, "inputs", None)
    if not layout.space or not inputs or len(inputs) != 1 or len(inputs[0].shape) != 2:
        return None
    cells = np.flatnonzero(layout.valid("inputs"))
    n = inputs[0].shape[1]
    if n != cells.size:
        refuse(
            f"the model {model.name!r} takes another number of values than the layout has",
            f"{cells.size}, all valid inputs of a sample, or an input [row, *space, channel]",
            n,
            "give the layout the model was built for",
        )
    return cells


def _named(model: Any, found: Any) -> dict[str, Any]:
    """Return several outputs by name."""
    if isinstance(found, Mapping):
        return {str(n): v for n, v in found.items()}
    names = getattr(model, "output_names", None) or [f"output {i}" for i in range(len(found))]
    return {str(n): v for n, v in zip(names, found, strict=True)}


def _names(model: Any, raw: Any, layout: Layout, names: Sequence[str] | None) -> Sequence[str] | None:
    """Return the names of the numbers a model returns, where it returns several tensors that are no fields of the targets."""
    if not isinstance(raw, Mapping | list | tuple) or names is not None:
        return names
    named = _named(model, raw)
    n_space = len(layout.space)
    fields = [len(p.shape) == n_space + 2 and tuple(p.shape[1:-1]) == layout.shape for p in named.values()]
    if n_space and all(fields) and set(named) == set(layout.spec.targets):
        return None
    if not all(len(p.shape) <= 2 for p in named.values()):
        refuse(
            f"the outputs of {model.name!r} cannot be joined",
            f"fields named {list(layout.spec.targets)}, or tables [row, k]",
            ", ".join(f"{n!r} {tuple(p.shape[1:])}" for n, p in named.items()),
            f"choose one: explain.on_tensors(lambda x: model(x)[{next(iter(named))!r}])",
        )
    wide = {n: 1 if len(p.shape) == 1 else int(p.shape[1]) for n, p in named.items()}
    return [n if k == 1 else f"{n} {i}" for n, k in wide.items() for i in range(k)]


def _own_classes(model: Any) -> dict[str, type]:
    """Return the classes of layers that neither Keras nor physml know by name."""
    kinds = {type(layer) for layer in _layers(model)}
    return {k.__name__: k for k in kinds if k.__module__.split(".")[0] not in ("keras", "physml")}


def _save(model: Any, layout: Layout) -> bytes:
    """Return a model or layer as the bytes of a ``.keras`` file."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        try:
            whole = model
            if not isinstance(model, keras.Model):
                start = keras.Input((*layout.shape, len(layout.inputs)), dtype=model.variable_dtype)
                whole = keras.Sequential([start, model])
            with warnings.catch_warnings():  # such as of a lambda, which is read back by ourselves
                warnings.simplefilter("ignore")
                whole.save(path)
            with open(path, "rb") as file:
                return file.read()
        except Exception as error:  # Keras raises many classes for what it cannot save
            raise TypeError(
                describe(
                    f"the model {model.name!r} cannot be sent to another process",
                    expected="a model that Keras can save: get_config in each layer of one's own",
                    received=f"{type(error).__name__}: {(str(error).strip() or ' ').splitlines()[0][:300]}",
                    remedy="add get_config, or compute in this process: ds.load(), or dask's threads",
                )
            ) from error


def _restore(classes: dict[str, type], whole: bool, data: bytes, layout: Layout) -> Network:
    from physml.networks import register

    register()

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        with open(path, "wb") as file:
            file.write(data)
        model = keras.saving.load_model(path, custom_objects=classes, compile=False, safe_mode=False)
    return Network(model if whole else model.layers[-1], layout)
