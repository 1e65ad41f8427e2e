"""The ``physml`` command: demo, train, predict, explain, data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from physml.provenance import package_version


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="physml", description="Networks on labelled fields that keep the physics.")
    top.add_argument("--version", action="version", version=f"physml {package_version()}")
    top.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="simulate, train three networks, roll out, assimilate, explain, report")
    demo.add_argument(
        "--out", default="demo-run", metavar="DIR", help="folder for fields, figures, scores and report.html"
    )
    demo.add_argument("--short", action="store_true", help="a small version of every stage, in seconds")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--overwrite", action="store_true", help="replace an earlier demo in DIR")

    train = commands.add_parser("train", help="train a network on your data as a YAML file says")
    train.add_argument("config", nargs="?", metavar="RUN.yaml")
    train.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as training.epochs=5")
    train.add_argument("--help-config", action="store_true", help="list every key with its type, default and meaning")

    predict = commands.add_parser("predict", help="write the predictions of a trained model as CF netCDF or zarr")
    predict.add_argument("model", metavar="MODEL", help="a .keras file, or the folder of a run")
    predict.add_argument("data", nargs="+", metavar="DATA", help="netCDF files or a zarr store")
    predict.add_argument("--out", required=True, metavar="FILE", help="*.nc or *.zarr")
    predict.add_argument("--overwrite", action="store_true", help="replace FILE")
    predict.add_argument("--tiles", metavar="DIM=CELLS,...", type=_sizes, help="predict by tiles, as lat=128,lon=128")
    predict.add_argument("--resume", action="store_true", help="go on where a prediction to FILE was stopped")

    explain = commands.add_parser(
        "explain",
        help="share a trained model's predictions among named groups of its inputs",
        description="Share a trained model's predictions among named groups of its inputs: Shapley values with standard "
        "errors, or derivatives, as netCDF, figures and a page.",
        epilog="physml explain run data.nc --target 'box_mean(sst, lat=-5:5, lon=190:240)' --groups variable,lag "
        "--baseline 'climatology(by=month)' --out explained",
    )
    explain.add_argument("model", metavar="MODEL", help="a .keras file, or the folder of a run")
    explain.add_argument("data", nargs="+", metavar="DATA", help="netCDF files or a zarr store with the inputs")
    explain.add_argument(
        "--out", required=True, metavar="DIR", help="folder for explanation.nc, figures and report.html"
    )
    explain.add_argument(
        "--target",
        metavar="TARGET",
        help="box_mean(NAME, lat=LOW:HIGH, ...), area_mean(NAME), cell(NAME, lat=..., ...), "
        "field(NAME), the name of an output; offset=STEPS in the brackets where it has several; the whole output by default",
    )
    explain.add_argument(
        "--groups",
        default="variable",
        metavar="GROUPS",
        help="words among variable, lag, level, cells; a mapping as "
        "'{box: {north: {lat: 0:90}}, rest: south}'; or a YAML file (default: variable)",
    )
    explain.add_argument(
        "--baseline",
        default="climatology",
        metavar="BASELINE",
        help="what stands in for absent groups: climatology, "
        "'climatology(by=month)', 'samples(20)', zero (default: climatology)",
    )
    explain.add_argument(
        "--baseline-data",
        nargs="+",
        metavar="DATA",
        help="data of the baseline, such as the training period; by default the data that are explained",
    )
    explain.add_argument(
        "--method",
        default="auto",
        metavar="METHOD",
        help="auto, exact, 'permutations(pairs=200)', 'gradients(kind=integrated)' (default: auto)",
    )
    explain.add_argument(
        "--samples",
        default="100",
        metavar="SAMPLES",
        help="a number, evenly spaced; a range FIRST:LAST; or all (default: 100)",
    )
    explain.add_argument("--seed", type=int, default=0)
    explain.add_argument("--overwrite", action="store_true", help="replace an earlier explanation in DIR")

    data = commands.add_parser("data", help="public data by name, and small samples that need no network")
    verbs = data.add_subparsers(dest="verb", required=True, metavar="VERB")
    listed = verbs.add_parser("list", help="list what there is")
    listed.add_argument("words", nargs="*", metavar="WORD", help="only entries that hold every word")
    show = verbs.add_parser("show", help="show variables, licence, citation, address of one data set")
    show.add_argument("name", metavar="NAME")
    fetch = verbs.add_parser("fetch", help="fetch the files of one data set, or write a sample, and print their paths")
    fetch.add_argument("name", metavar="NAME")
    fetch.add_argument("parameters", nargs="*", metavar="KEY=VALUE[,VALUE...]", help="such as year=2019,2020")
    fetch.add_argument("--to", metavar="DIR", help="folder for the files, instead of $PHYSML_DATA/NAME or the cache")
    fetch.add_argument("--overwrite", action="store_true", help="fetch again what is there")
    return top


def _sizes(text: str) -> dict[str, int]:
    try:
        return {k.strip(): int(v) for k, v in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are no sizes; expected lat=128,lon=128") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; an error is one message and the exit status 1."""
    options = parser().parse_args(argv)
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("physml: stopped", file=sys.stderr)
        return 130
    except (ValueError, KeyError, TypeError, OSError, ImportError) as error:
        if options.debug:
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print("\n".join([f"physml: {text}", *getattr(error, "__notes__", [])]), file=sys.stderr)
        return 1


def _data(options: argparse.Namespace) -> int:
    from physml.data import catalog

    if options.verb == "list":
        found = catalog.search(" ".join(options.words))
        if not found:
            print(f"physml: no data set holds {' '.join(options.words)!r}; physml data list shows all", file=sys.stderr)
            return 1
        print(catalog.table(found))
        return 0
    if options.verb == "show":
        print(catalog.info(options.name))
        return 0
    entry = catalog.info(options.name)
    values: dict[str, Any] = dict(entry.parse(text) for text in options.parameters)
    for path in catalog.fetch(options.name, options.to, overwrite=options.overwrite, **values):
        print(path)
    return 0


def _run(options: argparse.Namespace) -> int:
    if options.command == "data":
        return _data(options)
    from physml.run.quiet import start_backend

    if options.command == "demo":
        start_backend()
        from physml.run.demo import demo

        demo(options.out, short=options.short, seed=options.seed, overwrite=options.overwrite)
        return 0
    if options.command == "train":
        from physml.run import config

        if options.help_config:
            print(config.help_text())
            return 0
        if options.config is None:
            print("physml train: RUN.yaml is missing; physml train --help-config lists its keys", file=sys.stderr)
            return 2
        # Everything is checked before TensorFlow is loaded: a typo fails here, not hours later in a queue.
        wanted = config.load(options.config, options.overrides)
        start_backend()
        from physml.run.train import train

        train(wanted)
        return 0
    if options.command == "explain":
        from physml.run import explain_settings

        explain_settings.check(options.target, options.baseline, options.groups, options.method)
        start_backend()
        from physml.run.explain import explain_run

        explain_run(
            options.model,
            options.data,
            options.out,
            target=options.target,
            baseline=options.baseline,
            groups=options.groups,
            method=options.method,
            samples=None if options.samples == "all" else options.samples,
            seed=options.seed,
            baseline_data=options.baseline_data,
            overwrite=options.overwrite,
        )
        return 0
    start_backend()
    from physml.run.train import write_prediction

    done = write_prediction(
        options.model,
        options.data,
        options.out,
        overwrite=options.overwrite,
        tiles=options.tiles,
        resume=options.resume,
        progress=sys.stderr.isatty(),
    )
    print(done)
    return 0


if __name__ == "__main__":
    sys.exit(main())
