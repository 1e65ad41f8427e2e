"""The main job: a network trained on the user's data as a YAML file says, and its predictions written."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from physml import calendar
from physml._atomic import adding_to
from physml._errors import describe
from physml.data.batches import Batches
from physml.data.scaling import Scaling
from physml.data.split import mark, split_time, window_and_gap
from physml.fields import FieldSpec
from physml.forecast import persistence, predict
from physml.heads.classes import Classes
from physml.heads.distribution import Distribution
from physml.model import FieldModel, load, make_head
from physml.run import prepare
from physml.run.config import RunConfig, digest, dump
from physml.stream import check_target, key_of, stream
from physml.timeaxis import as_label
from physml.training import History, fit

MODEL, HISTORY, SCORES, CONFIG = "model.keras", "history.json", "scores.json", "run.yaml"
STATE = "training.npz"
"""State of a run that is not done, from which it goes on."""
CLIMATOLOGY = "climatology of "
IN_MEMORY = 2e9
"""Size of the tensors of a period [bytes] up to which its data are read once and kept."""

Parts = dict[str, xr.Dataset]
"""The periods by name: train, validation, test."""


def make_spec(config: RunConfig) -> FieldSpec:
    """Return the FieldSpec of a run; mask and area made by the run have their names here."""
    fields = dict(config.spec)
    if config.data.mask_from is not None:
        fields["mask"] = prepare.MASK
    if config.data.cell_area:
        fields["area"] = prepare.AREA
    return FieldSpec(**fields)


def read(config: RunConfig, spec: FieldSpec) -> tuple[Parts, xr.Dataset | None]:
    """Return the parts of the data, prepared, lazily, and the climatology that was removed, if any."""
    ds = prepare.open_data(config.data.path, config.data.chunks, spec.sample_dim)
    ds = prepare.rename_and_select(ds, config.data.rename, config.data.select)
    ds = prepare.add_mask_and_area(ds, config.data.mask_from, config.data.cell_area, spec.sample_dim)
    parts = _split(config, ds, spec)
    if config.data.anomaly is None:
        return parts, None
    means = prepare.climatology(parts["train"], config.data.anomaly.variables, spec.sample_dim)
    return {name: prepare.remove(part, means, spec.sample_dim) for name, part in parts.items()}, means


def _split(config: RunConfig, ds: xr.Dataset, spec: FieldSpec) -> Parts:
    split, dim = config.split, spec.sample_dim
    if split.boundaries is not None:
        parts = split_time(ds, split.boundaries, spec, split.embargo)._asdict()
        return {n: p for n, p in parts.items() if p is not None}
    index, (length, gap) = ds.indexes[dim], window_and_gap(spec.on(ds), split.embargo)
    found, earliest = {}, 0
    for name in ("train", "validation", "test"):
        if (ends := getattr(split, name)) is None:
            continue
        at = index.slice_indexer(*(as_label(index, label) for label in ends))
        start = max(at.start or 0, earliest)
        if at.stop - start < length + 1:
            raise ValueError(
                describe(
                    f"split.{name} holds no whole window",
                    expected=f"{length + 1} steps or more along {dim!r}, after an embargo of {gap}",
                    received=f"{max(at.stop - start, 0)} steps from {ends[0]} to {ends[1]}; the data run from "
                    f"{index[0]} to {index[-1]}",
                    remedy="correct the dates",
                )
            )
        found[name] = mark(ds.isel({dim: slice(start, at.stop)}), name)
        earliest = at.stop + gap
    return found


def make_model(
    config: RunConfig, scaling: Scaling, means: xr.Dataset | None, train: xr.Dataset | None = None
) -> FieldModel:
    """Return the untrained model of a run; *train* are the training data, for heads that take something from them."""
    from physml.constraints.combine import Constraints
    from physml.networks.builders import build

    layout = scaling.layout
    if means is not None:
        layout = layout.keep({f"{CLIMATOLOGY}{n}": da for n, da in means.data_vars.items()})
        scaling = Scaling.from_config(scaling.to_config(), layout)
    head = None if config.head is None else make_head({"type": config.head.type, **config.head.arguments})
    if isinstance(head, Distribution) and train is not None:
        head = head.fit(train, layout)
    with _arithmetic(config.training.precision):
        network = build(
            config.network.name,
            layout,
            outputs=None if head is None else head.channels(layout),
            boundary=config.network.boundary,
            **config.network.arguments,
        )
    return FieldModel(
        network,
        scaling=scaling,
        constraints=Constraints.from_config([{"type": c.type, **c.arguments} for c in config.constraints]),
        head=head,
        increment=config.increment,
        provenance={
            "data": ", ".join(Path(p).name for p in config.data.path),
            "config_sha256": digest(config),
            "preparation": json.dumps(
                {
                    "rename": config.data.rename,
                    # Which period and members to predict is the user's to say again.
                    "select": {
                        d: v
                        for d, v in config.data.select.items()
                        if d not in (layout.spec.sample_dim, *layout.members)
                    },
                    "anomaly": [] if config.data.anomaly is None else config.data.anomaly.variables,
                }
            ),
        },
        name=config.network.name,
    )


@contextlib.contextmanager
def _arithmetic(precision: str) -> Iterator[None]:
    """Let Keras build layers that compute in this precision."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def train(config: RunConfig, say: Callable[[str], None] = print) -> Path:
    """Train as the configuration says, and write model, history, scores and configuration into its output folder.

    Everything is written to a folder beside the output first and moved there when it is whole. While the run lasts, the output
    folder keeps its state, from which it goes on with ``output.resume=true`` when it was killed.

    Parameters
    ----------
    config
        From :func:`physml.run.config.load`.
    say
        Receives a line at every stage.

    Returns
    -------
    pathlib.Path
        The output folder: ``model.keras``, ``history.json``, ``scores.json``, ``run.yaml`` and ``learning_curve.png``.

    Raises
    ------
    FileExistsError
        Where the output folder holds a model, or the state of a run that was stopped, and neither ``output.overwrite`` nor
        ``output.resume`` is true.
    ValueError
        Where that state is of another configuration.
    """
    import keras

    target, out = Path(config.output.directory), config.output
    if (target / MODEL).exists() and not config.output.overwrite:
        raise FileExistsError(
            describe(
                f"output.directory {str(target)!r} already holds a model",
                expected="a new folder",
                received=str(target / MODEL),
                remedy="choose another output.directory, or output.overwrite=true",
            )
        )
    state = target / STATE
    if state.exists() and not (out.resume or out.overwrite):
        raise FileExistsError(
            describe(
                f"a run into output.directory {str(target)!r} was stopped",
                expected="output.resume=true to go on, or output.overwrite=true to begin again",
                received=str(state),
                remedy="say one of the two",
            )
        )
    settings = config.training
    keras.utils.set_random_seed(settings.seed)
    spec = make_spec(config)
    parts, means = read(config, spec)
    sizes = ", ".join(f"{p.sizes[spec.sample_dim]} {n}" for n, p in parts.items())
    say(f"data: steps of {spec.sample_dim!r}: {sizes}")
    scaling = Scaling.fit(parts["train"], spec, method=config.scaling.method, by=config.scaling.by, progress=True)
    model = make_model(config, scaling, means, parts["train"])
    say(f"network: {config.network.name}, {model.count_params():,} parameters")
    # A folder that cannot be written fails here, not after the training.
    new = not target.exists()
    target.mkdir(parents=True, exist_ok=True)
    batches, validation = (
        Batches(
            _in_memory(parts[n], spec),
            spec,
            settings.batch_size,
            shuffle=n == "train" and settings.shuffle,
            seed=settings.seed,
        )
        if n in parts
        else None
        for n in ("train", "validation")
    )
    assert batches is not None
    if not out.resume:
        state.unlink(missing_ok=True)
    try:
        history = fit(
            model,
            batches,
            validation,
            epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            schedule=settings.schedule,
            warmup=settings.warmup,
            optimizer=settings.optimizer,
            loss=settings.loss,
            clip_norm=settings.clip_norm,
            clip_value=settings.clip_value,
            descent=settings.descent,
            seed=settings.seed,
            jit="auto" if settings.jit is None else settings.jit,
            checkpoint=None if out.checkpoint_every is None else state,
            checkpoint_every=out.checkpoint_every or 1,
            resume=out.resume and out.checkpoint_every is not None,
            title=config.network.name,
            **({} if settings.early_stopping is None else dict(settings.early_stopping)),
        )
    except BaseException:
        # A state that is there is what the run goes on from.
        if new and not any(target.iterdir()):
            target.rmdir()
        raise
    last = {k: v[-1] for k, v in history.items()}
    say(f"trained {len(history['loss'])} epochs: " + ", ".join(f"{k} {v:.4g}" for k, v in last.items()))
    # The model is safe before anything else is done with it.
    with adding_to(target) as made:
        model.save(made / MODEL)
        history.save(made / HISTORY)
        (made / CONFIG).write_text(dump(config))
        _draw(history, made / "learning_curve.png")
    state.unlink(missing_ok=True)
    say(f"wrote {target / MODEL}")
    judged = next(n for n in ("test", "validation", "train") if n in parts)
    scores = {"part": judged, **score(model, parts[judged])}
    with adding_to(target) as made:
        (made / SCORES).write_text(json.dumps(scores, indent=1))
    return target


def score(model: FieldModel, ds: xr.Dataset) -> dict[str, Any]:
    """Return the area-weighted rmse of every target by lead, beside that of persistence where the target is an input.

    Of a distribution it is that of the point forecast; of classes the share of the area whose class is right.
    """
    from physml import verify

    layout = model.layout
    spec = layout.spec
    truth = layout.unpack(layout.pack(ds, "targets", whole_window=True), "targets")
    candidates = {"rmse": predict(model, ds), "rmse_persistence": persistence(layout, ds)}
    if isinstance(model.head, Distribution):
        candidates["rmse"] = model.head.forecast(candidates["rmse"])
    weights = xr.DataArray(layout.weights, dims=layout.space, coords={d: ds[d] for d in layout.space if d in ds.coords})
    if isinstance(model.head, Classes):
        return {str(n): {"units": "1", **r} for n, r in model.head.accuracy(candidates["rmse"], truth, weights).items()}
    out: dict[str, Any] = {}
    for name in spec.targets:
        out[name] = {"units": layout.units(name) or "1"}
        for label, fields in candidates.items():
            if name not in fields:
                continue
            a, b = (x.drop_vars("valid_time", errors="ignore") for x in xr.align(fields[name], truth[name]))
            dims = [d for d in a.dims if d != "lead"]
            found = verify.rmse(a, b, weights=weights, dim=dims).values.reshape(-1)
            leads = spec.offsets("targets", name)
            out[name][label] = {str(k): float(x) for k, x in zip(leads, found, strict=True)}
    return out


def _in_memory(ds: xr.Dataset, spec: FieldSpec) -> xr.Dataset:
    """Read small data once; larger data stay on disk."""
    ds = calendar.complete(ds, spec.inputs, spec.sample_dim)
    names = [n for n in dict.fromkeys([*spec.inputs, *spec.targets, spec.mask, spec.area]) if n is not None]
    packed = [4 * ds[n].size * len(spec.offsets("inputs", n)) for n in spec.inputs]
    packed += [4 * ds[n].size * len(spec.offsets("targets", n)) for n in spec.targets]
    return ds[names].load() if sum(packed) <= IN_MEMORY else ds


def _draw(history: History, path: Path) -> None:
    try:
        from physml.plot import learning_curve

        learning_curve(history).savefig(path, dpi=150)
    except ImportError:  # the extra "plot" is not installed
        return


def write_prediction(
    model_path: str,
    data: str | list[str],
    out: str,
    *,
    overwrite: bool = False,
    tiles: Mapping[str, int] | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Path:
    """Predict from data on disk, and write the result as CF netCDF or zarr, region by region.

    Parameters
    ----------
    model_path
        A ``.keras`` file, or the folder of a run.
    data
        netCDF files or a zarr store with the inputs.
    out
        ``*.nc`` or ``*.zarr``; written beside itself first and moved when it is whole.
    overwrite, resume, progress
        As in :func:`physml.predict_to`.
    tiles
        Sizes of tiles by space dimension, as in :func:`physml.predict`.

    Returns
    -------
    pathlib.Path
        The file written.

    Raises
    ------
    FileExistsError, ValueError
        Where *out* is there already, or has another ending.
    """
    target = check_target(out, overwrite=overwrite, resume=resume)
    own = [p for p in ([data] if isinstance(data, str) else data) if Path(p).resolve() == target.resolve()]
    if own:
        raise FileExistsError(
            describe(
                f"--out {out!r} is the data themselves",
                expected="another path",
                received=own[0],
                remedy="choose another",
            )
        )
    model, prepared = open_for(model_path, data)
    means = _climatology_of(model)
    spec = model.layout.spec
    forecast = prepare.restore(predict(model, prepared, tiles=tiles), means, spec.sample_dim)
    key = key_of(model, prepared, tiles=tiles)
    return stream(forecast, target, key, spec.sample_dim, resume=resume, overwrite=overwrite, progress=progress)


def open_for(model: str | Path | FieldModel, data: str | Sequence[str]) -> tuple[FieldModel, xr.Dataset]:
    """Return a model, and data on disk prepared as those it was trained on, lazily.

    Parameters
    ----------
    model
        A ``.keras`` file, the folder of a run, or the model itself.
    data
        netCDF files or a zarr store with the inputs.
    """
    if not isinstance(model, FieldModel):
        path = Path(model)
        model = load(path / MODEL if path.is_dir() else path)
    sample_dim = model.layout.spec.sample_dim
    preparation = json.loads(model.provenance.get("preparation", "{}"))
    ds = prepare.open_data(data, sample_dim=sample_dim)
    renamed = {old: new for old, new in preparation.get("rename", {}).items() if old in ds.variables or old in ds.dims}
    ds = prepare.rename_and_select(ds, renamed, preparation.get("select", {}))
    return model, prepare.remove(ds, _climatology_of(model), sample_dim)


def _climatology_of(model: FieldModel) -> xr.Dataset:
    """Return the climatology of the training period that was taken from the variables, by month."""
    names = json.loads(model.provenance.get("preparation", "{}")).get("anomaly", [])
    return xr.Dataset({n: model.layout.statics[f"{CLIMATOLOGY}{n}"] for n in names}, {"month": np.arange(1, 13)})
