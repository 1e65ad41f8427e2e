"""The ``physml`` command: demo, train, predict."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

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


def _run(options: argparse.Namespace) -> int:
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
