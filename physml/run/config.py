"""RUN.yaml: what a training run is, checked whole before anything heavy is loaded.

A key that is not known, a value of another type, a missing key: each is refused with its path, and all are told at once.
Relative paths count from the folder of the file, those given as overrides from the working directory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from physml import _yaml
from physml._errors import closest, describe
from physml.run._schema import Key, keys, problems
from physml.training.options import OPTIMIZERS, SCHEDULES, choose

_PATHS = (("data", "path"), ("output", "directory"))


def _frozen(value: Any) -> Any:
    """Turn lists into tuples, at any depth."""
    if isinstance(value, list):
        return tuple(_frozen(v) for v in value)
    return {k: _frozen(v) for k, v in value.items()} if isinstance(value, dict) else value


def _several(value: Any) -> Any:
    """Let one name or number stand for a list of one."""
    return (value,) if isinstance(value, str | int) and not isinstance(value, bool) else _frozen(value)


Label = str | int | float
Names = Annotated[tuple[str, ...], BeforeValidator(_several)]
Steps = Annotated[tuple[int, ...], BeforeValidator(_several)]
Range = Annotated[tuple[Label, Label], BeforeValidator(_frozen)]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Named = Annotated[str | dict[str, Any], BeforeValidator(_frozen)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Anomaly(_Section):
    """Departures from the monthly climatology of the training period."""

    variables: Names
    """variables whose monthly climatology, fitted on the training period, is removed"""


class Data(_Section):
    """What is read."""

    path: Names
    """netCDF files or zarr stores, joined by their coordinates"""
    rename: dict[str, str] = {}
    """new names for variables and dimensions, {old: new}"""
    select: Annotated[dict[str, Label | tuple[Label, ...]], BeforeValidator(_frozen)] = {}
    """part to read, {dimension: [low, high]} or {dimension: label}"""
    chunks: dict[str, int] | None = None
    """dask chunks by dimension; those of the store by default"""
    mask_from: str | None = None
    """variable whose cells without a missing value make the mask; in place of spec.mask"""
    cell_area: bool = False
    """compute the cell area from latitude and longitude; in place of spec.area"""
    anomaly: Anomaly | None = None
    """learn departures from the monthly climatology, and add it back to predictions"""


class Spec(_Section):
    """What is learned from what: the arguments of FieldSpec."""

    inputs: Names
    """variables the network sees"""
    targets: Names
    """variables it predicts"""
    sample_dim: str = "time"
    """dimension along which samples are counted"""
    members: Names = ()
    """further dimensions whose entries are samples too, such as runs"""
    levels: Annotated[Names | dict[str, tuple[Label, ...] | None], BeforeValidator(_several)] = ()
    """dimensions that become channels, or {dimension: [labels]}"""
    input_offsets: Annotated[Steps | dict[str, Steps], BeforeValidator(_several)] = (0,)
    """steps of the inputs relative to the sample, or {variable: [steps]}"""
    target_offsets: Steps = (0,)
    """steps of the targets relative to the sample: the lead times"""
    mask: str | None = None
    """variable that is true on valid cells"""
    area: str | None = None
    """variable that weighs cells in the loss"""

    @model_validator(mode="after")
    def _is_a_spec(self) -> Spec:
        from physml.fields import FieldSpec

        FieldSpec(**dict(self))
        return self


class Split(_Section):
    """Which period is for training, which for validation, which for the test."""

    boundaries: Annotated[tuple[Label, ...], BeforeValidator(_several)] | None = None
    """last label of the training period and, if there is a test, of the validation period"""
    train: Range | None = None
    """first and last label, in place of boundaries"""
    validation: Range | None = None
    """first and last label"""
    test: Range | None = None
    """first and last label"""
    embargo: Literal["window"] | Annotated[int, Field(ge=0)] = "window"
    """steps left out after each boundary; the length of the window by default"""

    @model_validator(mode="after")
    def _is_ordered(self) -> Split:
        ranges = {n: r for n in ("train", "validation", "test") if (r := getattr(self, n)) is not None}
        if (self.boundaries is None) == (not ranges) or (ranges and "train" not in ranges):
            raise ValueError(
                describe(
                    "split needs boundaries or ranges, one of the two",
                    expected="split.boundaries, or split.train and further ranges",
                    received=", ".join([*(["boundaries"] if self.boundaries else []), *ranges]) or "neither",
                    remedy='boundaries: ["1989", "1995"]',
                )
            )
        parts = [(f"split.{n}", r) for n, r in ranges.items()] or [
            (f"split.boundaries.{i}", (label, label)) for i, label in enumerate(self.boundaries or ())
        ]
        before: tuple[float, ...] | None = None
        for name, (first, last) in parts:
            (start, _), (_, end) = _span(first, name), _span(last, name)
            if end < start or (before is not None and start <= before):
                raise ValueError(
                    describe(
                        f"{name} does not come after what stands before it",
                        expected="periods in order, apart from each other",
                        received=f"{first} to {last}" if ranges else first,
                        remedy="correct the dates; the end '1990' means all of 1990",
                    )
                )
            before = end
        return self


class Scaled(_Section):
    """How variables are scaled, fitted on the training period."""

    method: str | dict[str, str] = "standard"
    """standard, minmax, robust, sqrt, log, log:eps or none; for all variables, or {variable: method}"""
    by: Literal["month"] | None = None
    """statistics by calendar month; needs the input time.month"""

    @model_validator(mode="after")
    def _is_known(self) -> Scaled:
        from physml.data._methods import parse

        for choice in (self.method,) if isinstance(self.method, str) else self.method.values():
            parse(choice)
        return self


class Network(_Section):
    """The network in the middle."""

    name: str
    """name of a builder in physml.networks, such as cnn or mlp"""
    boundary: dict[str, Literal["periodic", "closed", "open", "pole"]] = {}
    """what lies beyond the ends of each space dimension: periodic, closed, open, or pole (latitude of the whole sphere)"""
    arguments: dict[str, Any] = {}
    """further arguments of the builder, such as {filters: 32}"""


class Component(BaseModel):
    """A constraint or a head: its type, and its arguments beside it."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, use_attribute_docstrings=True)

    type: str
    """name of a class in physml.constraints or physml.heads"""

    @property
    def arguments(self) -> dict[str, Any]:
        """All keys but the type."""
        return dict(self.model_extra or {})


class EarlyStopping(_Section):
    """When training stops before its last epoch."""

    patience: Positive
    """epochs without a better validation loss, after which training stops"""
    min_delta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """how much lower a loss must be to count as better"""
    restore_best: bool = True
    """end with the weights of the epoch of least validation loss, and not with the last ones"""


class Training(_Section):
    """How the network is trained: the arguments of physml.training.fit."""

    epochs: Positive = 10
    """passes over the training period"""
    batch_size: Positive = 32
    """samples in a batch"""
    descent: Literal["mini-batch", "batch", "stochastic"] = "mini-batch"
    """what a step sees: a batch, the whole training set (gathered from batches), or one sample"""
    learning_rate: Rate = 1e-3
    """step of the optimizer"""
    schedule: Named = "constant"
    """course of the learning rate over epochs: constant, cosine, step, exponential, cosine_restarts or plateau; with arguments {type: cosine, to: 0.01}, {type: step, every: 10, factor: 0.5}, {type: exponential, factor: 0.9}, {type: cosine_restarts, first: 10, longer: 2}, {type: plateau, patience: 3, factor: 0.5}"""
    warmup: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """epochs before that, over which the learning rate rises in a straight line"""
    loss: str | None = None
    """name of a Keras loss, taken in scaled units, or of a loss of the head; by default that of the head, or mse"""
    optimizer: Named = "adam"
    """sgd, rmsprop, adam, adamw, nadam, adamax, adagrad, adadelta or lion; with arguments {type: sgd, momentum: 0.9, nesterov: true}"""
    clip_norm: Rate | None = None
    """bound on the norm of the whole gradient"""
    clip_value: Rate | None = None
    """bound on each number of the gradient"""
    early_stopping: EarlyStopping | None = None
    """stop when the validation loss no longer falls"""
    shuffle: bool = True
    """draw samples in a new order every epoch"""
    seed: Annotated[int, Field(ge=0)] = 0
    """seed of the initial weights, of dropout and of the order of samples"""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """arithmetic inside the network; fields, laws and loss stay in float32"""
    jit: bool | None = None
    """compile the steps by XLA; by default as Keras chooses"""

    @field_validator("schedule")
    @classmethod
    def _is_a_schedule(cls, value: Any) -> Any:
        choose(value, SCHEDULES, "training.schedule")
        return value

    @field_validator("optimizer")
    @classmethod
    def _is_an_optimizer(cls, value: Any) -> Any:
        choose(value, OPTIMIZERS, "training.optimizer")
        return value

    @model_validator(mode="after")
    def _is_a_recipe(self) -> Training:
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError(
                describe(
                    "training clips the gradient twice",
                    expected="training.clip_norm or training.clip_value",
                    received="both",
                    remedy="remove one of the two",
                )
            )
        if self.warmup >= self.epochs:
            raise ValueError(
                describe(
                    "training.warmup leaves no epoch",
                    expected=f"less than training.epochs, {self.epochs}",
                    received=self.warmup,
                    remedy="a shorter training.warmup",
                )
            )
        return self


class Output(_Section):
    """What is written, and where."""

    directory: str = "run"
    """folder for the model, the scores and this configuration"""
    overwrite: bool = False
    """replace what an earlier run left in that folder"""
    checkpoint_every: Positive | None = 1
    """epochs between two states kept in that folder while the run lasts; none keeps no state"""
    resume: bool = False
    """go on from the state that a killed run left in that folder, or begin where there is none"""


class RunConfig(_Section):
    """A training run, as in RUN.yaml."""

    data: Data
    """what is read"""
    spec: Spec
    """what is learned from what"""
    split: Split
    """which period is for training, validation and test"""
    scaling: Scaled = Scaled()
    """how variables are scaled"""
    network: Network
    """the network in the middle"""
    increment: bool = False
    """predict the change of the targets instead of the targets"""
    constraints: Annotated[tuple[Component, ...], BeforeValidator(_frozen)] = ()
    """laws the output is moved onto, a list of {type: NonNegative, ...}"""
    head: Component | None = None
    """what makes the output in place of the plain layer, {type: Transport, ...} or {type: Gaussian, ...}"""
    training: Training = Training()
    """how the network is trained"""
    output: Output = Output()
    """what is written, and where"""

    @model_validator(mode="after")
    def _sections_agree(self) -> RunConfig:
        for ours, theirs, asked in (
            ("data.mask_from", "spec.mask", self.data.mask_from and self.spec.mask),
            ("data.cell_area", "spec.area", self.data.cell_area and self.spec.area),
        ):
            if asked:
                raise ValueError(
                    describe(
                        f"{ours} and {theirs} exclude each other",
                        expected="one of the two",
                        received=f"both, {theirs}: {asked}",
                        remedy=f"remove {ours} to use the variable, or {theirs} to compute it",
                    )
                )
        known = (*self.spec.inputs, *self.spec.targets)
        for name in self.data.anomaly.variables if self.data.anomaly else ():
            if name not in known:
                raise ValueError(
                    describe(
                        f"data.anomaly.variables names {name!r}, which the network neither sees nor predicts{closest(name, known)}",
                        expected=f"among {', '.join(known)}",
                        received=repr(name),
                        remedy="correct the name, or add it to spec.inputs",
                    )
                )
        watching = "training.early_stopping" if self.training.early_stopping else "training.schedule: plateau"
        waits = self.training.early_stopping or choose(self.training.schedule, SCHEDULES, "").type == "plateau"
        if waits and self.split.boundaries is None and self.split.validation is None:
            raise ValueError(
                describe(
                    f"{watching} has no validation period to watch",
                    expected="split.validation or split.boundaries",
                    received="only split.train",
                    remedy=f"add split.validation, or remove {watching}",
                )
            )
        return self


def load(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read and check a configuration.

    Parameters
    ----------
    path
        The YAML file.
    overrides
        ``"training.epochs=5"``: a dotted key and a value in YAML. List entries are counted, ``constraints.0.type=...``.

    Returns
    -------
    RunConfig
        With absolute paths, so that :func:`dump` of it may be stored anywhere.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        Naming every key that is unknown, missing, or of the wrong type or value.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            describe(
                f"no configuration at {path}",
                expected="a YAML file",
                received="nothing there",
                remedy="correct the path",
            )
        )
    return parse(path.read_text(encoding="utf-8"), overrides, folder=path.parent, name=path.name)


def parse(
    text: str, overrides: Iterable[str] = (), *, folder: str | Path = ".", name: str = "the configuration"
) -> RunConfig:
    """Check the text of a configuration whose relative paths count from *folder*; see :func:`load`."""
    content = _yaml.read(text, name) or {}
    if not isinstance(content, dict):
        raise ValueError(
            describe(
                f"{name} is no configuration",
                expected="sections such as data, spec, split and network",
                received=type(content).__name__,
                remedy="see physml train --help-config",
            )
        )
    if isinstance(output := content.setdefault("output", {}), dict):
        output.setdefault("directory", Output.model_fields["directory"].default)
    for section, key in _PATHS:
        if isinstance(content.get(section), dict) and key in content[section]:
            content[section][key] = _yaml.absolute(content[section][key], Path(folder))
    for override in overrides:
        _yaml.set_key(content, override, _PATHS)
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        found = problems(error, RunConfig)
        head = f"{name}: " if len(found) == 1 else f"{name} has {len(found)} problems:\n- "
        raise ValueError(head + "\n- ".join(found)) from None


def dump(config: RunConfig) -> str:
    """Return the configuration as YAML, all defaults written out; :func:`load` reads the same one from it."""
    return _yaml.write(_plain(config))


def digest(config: RunConfig) -> str:
    """Return the SHA-256 of what decides the result: everything but the folders of the data and the output."""
    from physml.provenance import digest as sha256

    content = _plain(config)
    del content["output"]
    content["data"]["path"] = [p.rstrip("/").rpartition("/")[2] for p in config.data.path]
    return sha256(content)


def schema() -> list[Key]:
    """Return every key with its type, its default and its meaning, in the order of the file."""
    return list(keys(RunConfig))


def help_text() -> str:
    """Return the schema as text: one key after the other, its meaning below."""
    return "\n".join(f"{k.path}: {k.type} ({k.default})\n    {k.meaning}" for k in schema())


def _plain(value: Any) -> Any:
    """Return sections as dictionaries, without what is not set."""
    if isinstance(value, BaseModel):
        known = type(value).model_fields
        return {k: _plain(v) for k, v in value if v is not None or k not in known}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _span(label: Label, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the first and the last moment that a label stands for: '1990' is all of 1990."""
    if not isinstance(label, str):
        return (label,), (label,)
    if not re.fullmatch(r"-?\d+(-\d\d){0,2}([T ]\d\d(:\d\d){0,2}(\.\d+)?)?", label):
        raise ValueError(
            describe(
                f"{name} is no date",
                expected="1989, 1989-12 or 1989-12-31",
                received=repr(label),
                remedy=f"correct {name}",
            )
        )
    sign = -1 if label.startswith("-") else 1
    first, *rest = (float(n) for n in re.split(r"[-T :]", label.lstrip("-")))
    pad = 6 - 1 - len(rest)
    return (sign * first, *rest, *[0.0] * pad), (sign * first, *rest, *[float("inf")] * pad)
