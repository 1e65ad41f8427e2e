"""Classes: the probability of each, and the most likely one as a CF flag."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from keras import ops

from physml import losses
from physml._errors import describe
from physml.data._scaling_graph import ScalingGraph
from physml.fields import FieldSpec
from physml.heads import _flags
from physml.heads._answers import along_classes, answering, probability, refuse_taken
from physml.heads.distribution import Distribution, folded, unfolded
from physml.layout import Layout, Variable


class Classes(Distribution):
    """The most likely class of every target, ``regime``, and the probability of each class, ``regime_probability``.

    ``regime`` holds the numbers of the classes, as the target does, with the attributes flag_values and flag_meanings. In memory
    they are floats, missing on masked cells, as xarray reads flags from a file; in a file they are integers with a _FillValue.
    ``regime_probability`` has a further dimension with the names of the classes. Two classes take one channel of the network
    (sigmoid), more take one each (softmax).

    Losses: ``"cross_entropy"``, ``"focal"`` (argument ``gamma``, 2), ``"brier"``. Metrics see the number of the class, from 0,
    and the probabilities: ``metrics=["accuracy"]``.

    Parameters
    ----------
    values
        Numbers of the classes in the target. None: its attribute flag_values.
    labels
        Names of the classes. None: its attribute flag_meanings, or the numbers.
    onehot
        Names of all targets, one for each class, 1 where it holds and 0 elsewhere; in place of *values*, which then count from 0.
    name
        Name of the answer where the targets are *onehot*.
    class_weights
        Factors of the loss by true class, ``{label: number}``. ``"balanced"``: each class counts alike in the training data; this
        needs :meth:`fit`. None: each cell counts alike.
    dim
        Name of the dimension of the classes.

    Raises
    ------
    ValueError
        Where the classes are not told or do not fit; in training, for targets that are none of them.

    Examples
    --------
    >>> Classes(values=[1, 2], labels=["water", "ice"]).get_config()["labels"]
    ['water', 'ice']
    """

    losses: ClassVar[Mapping[str, Callable[..., Any]]] = {
        "cross_entropy": losses.cross_entropy,
        "focal": losses.focal,
        "brier": losses.brier,
    }
    cellwise = False

    def __init__(
        self,
        values: Sequence[float] | None = None,
        labels: Sequence[str] | None = None,
        *,
        onehot: Sequence[str] = (),
        name: str = "class",
        class_weights: Mapping[str, float] | str | None = None,
        dim: str = "category",
    ) -> None:
        if onehot and values is not None:
            raise ValueError(
                describe(
                    "Classes: values and onehot exclude each other",
                    expected="numbers of one variable, or names of one variable for each class",
                    received=f"values={list(values)}, onehot={list(onehot)}",
                    remedy="leave one of them out",
                )
            )
        if isinstance(class_weights, str) and class_weights != "balanced":
            raise ValueError(
                describe(
                    "Classes: class_weights are not understood",
                    expected="'balanced', or {label: number}",
                    received=repr(class_weights),
                    remedy="class_weights='balanced'",
                )
            )
        self.values = None if values is None else tuple(np.asarray(values).tolist())
        self.labels = None if labels is None else tuple(map(str, labels))
        self.onehot, self.name, self.dim = tuple(onehot), str(name), str(dim)
        self.class_weights = class_weights if isinstance(class_weights, str | None) else dict(class_weights)

    def flags(self, layout: Layout) -> _flags.Flags:
        """Return the numbers and the names of the classes.

        Raises
        ------
        ValueError
            Where they are not told, or differ between targets.
        """
        names = list(layout.spec.targets)
        if self.onehot:
            if set(names) != set(self.onehot):
                raise ValueError(
                    describe(
                        "Classes: onehot does not name the targets",
                        expected=", ".join(names),
                        received=", ".join(self.onehot),
                        remedy="name one target for each class, and no other",
                    )
                )
            labels = self.labels or self.onehot
            _flags.check_classes(self.name, range(len(names)), labels)
            told = dict(zip(self.onehot, labels, strict=True))
            return tuple(range(len(names))), tuple(told[n] for n in names)
        every = {n: _flags.flags_of(n, layout.variables[n], self.values, self.labels) for n in names}
        first = every[names[0]]
        other = [n for n in names if every[n] != first]
        if other:
            raise ValueError(
                describe(
                    f"Classes: {other[0]!r} has other classes than {names[0]!r}",
                    expected=f"{names[0]!r}: {', '.join(first[1])}",
                    received=f"{other[0]!r}: {', '.join(every[other[0]][1])}",
                    remedy="one model for each",
                )
            )
        return first

    def fit(self, train: xr.Dataset, spec: FieldSpec | Layout) -> Classes:
        """Return the head with balanced weights as numbers: in proportion to 1 / the share of the class, 1 in the mean.

        The shares are those of the area of valid cells. One pass over the data, whatever their size.

        Raises
        ------
        ValueError
            For values that are no class, and where a class does not occur.
        """
        if self.class_weights != "balanced":
            return self
        layout = spec if isinstance(spec, Layout) else spec.bind(train)
        numbers, names = self.flags(layout)
        each = [layout.spec.targets] if self.onehot else [(n,) for n in layout.spec.targets]
        shares = np.mean(
            [_flags.class_shares(train, layout, n[0], numbers, n if self.onehot else ()) for n in each], axis=0
        )
        if not (shares > 0).all():
            raise ValueError(
                describe(
                    f"Classes: {names[int(np.argmin(shares))]!r} does not occur in the training data",
                    expected="samples of each class, for balanced weights",
                    received=", ".join(f"{n}: {100 * s:.3g} %" for n, s in zip(names, shares, strict=True)),
                    remedy="leave the class out, or give class_weights={label: number}",
                )
            )
        weights = {n: float(1 / (len(names) * s)) for n, s in zip(names, shares, strict=True)}
        return Classes(**{**self.get_config(), "class_weights": weights})

    def channels(self, layout: Layout) -> int:
        """Return how many channels the network must give: one for two classes, else one for each class."""
        classes = len(self.flags(layout)[0])
        truths = len(layout.targets) // (len(self.onehot) or 1)
        return truths * (1 if classes == 2 else classes)

    def answers(self, layout: Layout) -> Layout:
        """Return the layout of classes and probabilities."""
        numbers, names = self.flags(layout)
        spec = layout.spec
        answered: dict[str, Variable] = {}
        targets = {self.name: spec.targets[0]} if self.onehot else {n: n for n in spec.targets}
        refuse_taken(layout, [*([self.name] if self.onehot else []), *(f"{n}_probability" for n in targets)])
        for n, like in targets.items():
            known = layout.variables[like]
            if self.onehot:
                known = replace(known, attrs={"long_name": n})
            answered[n] = replace(known, attrs=_flags.flag_attrs(known, numbers, names))
        for n, like in targets.items():
            known = layout.variables[like]
            label = n if self.onehot else known.attrs.get("long_name", n)
            answered[f"{n}_probability"] = probability(known, layout, label, self.dim, names)
        return answering(layout, answered, along_classes(names, self.dim))

    def units(self, unit: np.ndarray, layout: Layout) -> np.ndarray:
        """Return 1 for all: classes and probabilities have no units."""
        return np.ones(len(self.answers(layout).targets))

    def bind(self, layout: Layout, unit: np.ndarray | None = None) -> None:
        """Learn the classes; refuse weights that do not fit them."""
        super().bind(layout, unit)
        self._numbers, self._names = self.flags(layout)
        self._truths = len(layout.targets) // (len(self.onehot) or 1)
        self._variables = {n: layout.variables[n] for n in layout.spec.targets}
        if self.class_weights == "balanced":
            raise ValueError(
                describe(
                    "Classes: balanced weights are not known yet",
                    expected="the head fitted to the training data",
                    received="class_weights='balanced'",
                    remedy="Classes(class_weights='balanced').fit(train, spec)",
                )
            )
        if self.class_weights is not None:
            _flags.weights_by_class(self.class_weights, self._names)  # type: ignore[arg-type]

    def physical(self, n: Any, x: Any, scale: ScalingGraph) -> Any:
        """Return classes ``[..., truth channel]`` and probabilities ``[..., truth channel * class]``."""
        if scale.increment:
            raise ValueError(
                describe(
                    "Classes: a class does not change by an increment",
                    expected="increment=False",
                    received="increment=True",
                    remedy="leave increment out",
                )
            )
        if len(self._numbers) == 2:
            p = ops.stack([ops.sigmoid(-n), ops.sigmoid(n)], axis=-1)
        else:
            p = ops.softmax(unfolded(n, len(self._numbers)), axis=-1)
        numbers = ops.convert_to_tensor(np.asarray(self._numbers, "float32"))
        likely = ops.cast(ops.take(numbers, ops.argmax(p, axis=-1), axis=0), p.dtype)
        return ops.concatenate([likely, folded(p)], axis=-1)

    def scaled(self, y: Any, x: Any, scale: ScalingGraph) -> Any:
        """Return the probabilities ``[..., truth channel, class]``."""
        return unfolded(y[..., self._truths :], len(self._numbers))

    def truth(self, y: Any, x: Any, scale: ScalingGraph) -> Any:
        """Return the number of the class ``[..., truth channel]``, from 0; NaN where there is none."""
        hot = self._hot(y)
        number = ops.cast(ops.argmax(hot, axis=-1), y.dtype)
        return ops.where(ops.equal(ops.sum(hot, axis=-1), 1), number, ops.full_like(number, float("nan")))

    def _hot(self, y: Any) -> Any:
        """Return 1 where a class holds, ``[..., truth channel, class]``."""
        if self.onehot:
            return ops.cast(ops.equal(ops.moveaxis(unfolded(y, self._truths), -1, -2), 1), y.dtype)
        values = ops.cast(np.asarray(self._numbers, "float64"), y.dtype)
        return ops.cast(ops.equal(ops.expand_dims(y, -1), values), y.dtype)

    def per_truth(self, values: Any) -> Any:
        """Return what holds for all targets of a one-hot truth."""
        if not self.onehot:
            return values
        values = ops.convert_to_tensor(values)
        kind = values.dtype
        return ops.cast(ops.min(unfolded(ops.cast(values, "float32"), self._truths), axis=-2), kind)

    def check(self, targets: np.ndarray, weights: np.ndarray, layout: Layout) -> None:
        """Refuse targets that are no class where they carry weight."""
        if not self.onehot:
            _flags.refuse_unknown(targets, weights, [str(c) for c in layout.targets], self._numbers)
            return
        hot = targets.reshape(*targets.shape[:-1], len(self.onehot), self._truths)
        held = ((hot == 1).sum(-2) == 1) & ((hot == 0).sum(-2) == len(self.onehot) - 1)
        w = weights if weights.ndim < targets.ndim else weights[..., : self._truths]
        _flags.refuse_unknown(held.astype("float32"), w, [f"{', '.join(self.onehot)}"] * self._truths, (1,))

    def point(self, parameters: Any) -> Any:
        """Return the probabilities: metrics such as the accuracy compare them with the number of the class."""
        return parameters

    def accuracy(self, fields: xr.Dataset, truth: xr.Dataset, weights: xr.DataArray) -> dict[str, dict[str, float]]:
        """Return the share of the area whose class is right, and the mean over classes of that share, by variable.

        Parameters
        ----------
        fields, truth
            Labelled answers, and labelled targets.
        weights
            Cell areas.
        """
        if self.onehot:
            hot = xr.concat([truth[n] for n in self._variables], self.dim, coords="minimal", compat="override")
            truth = xr.Dataset({self.name: hot.argmax(self.dim).where(hot.sum(self.dim) == 1)})
        found = {}
        for n in truth.data_vars:
            ours, theirs = (v.drop_vars("valid_time", errors="ignore") for v in xr.align(fields[n], truth[n]))
            area = weights.mean([d for d in weights.dims if d not in ours.dims])
            right = (ours == theirs).where(theirs.notnull() & ours.notnull()).weighted(area)
            by_class = [
                float((ours == v).where((theirs == v) & ours.notnull()).weighted(area).mean()) for v in self._numbers
            ]
            found[str(n)] = {"accuracy": float(right.mean()), "balanced_accuracy": float(np.nanmean(by_class))}
        return found

    def finish(self, fields: xr.Dataset, averaged: bool = False) -> xr.Dataset:
        """Return labelled answers whose classes are stored as integers; where averaged, the class of the mean probability."""
        for n in (self.name,) if self.onehot else tuple(self._variables):
            if averaged:
                p = fields[f"{n}_probability"]
                likely = p.fillna(0.0).argmax(self.dim)
                number = xr.zeros_like(fields[n])
                for k, v in enumerate(self._numbers):
                    number = xr.where(likely == k, v, number, keep_attrs=False)
                found = number.where(fields[n].notnull()).transpose(*fields[n].dims).astype(p.dtype)
                fields[n] = found.assign_attrs(fields[n].attrs)
            known = next(iter(self._variables.values())) if self.onehot else self._variables[n]
            kind, missing = _flags.storage(known, self._numbers)
            fields[n].encoding.update(dtype=kind, _FillValue=missing)
        return fields

    def loss_arguments(self) -> dict[str, Any]:
        """Return the weights in the order of the classes."""
        if not isinstance(self.class_weights, dict):
            return {}
        return {"class_weights": _flags.weights_by_class(self.class_weights, self._labels())}

    def _labels(self) -> Sequence[str]:
        """Return the names of the classes, which a head alone may not know."""
        return getattr(self, "_names", None) or self.labels or tuple(self.class_weights)  # type: ignore[arg-type]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, as plain values."""
        return {
            "values": None if self.values is None else list(self.values),
            "labels": None if self.labels is None else list(self.labels),
            "onehot": list(self.onehot),
            "name": self.name,
            "class_weights": self.class_weights,
            "dim": self.dim,
        }
