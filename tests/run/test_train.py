"""A run from a YAML file: what is learned, what is written, and what is refused."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from physml import cli, load
from physml.run import config, prepare
from physml.run.train import train, write_prediction

YAML = """
data:
  path: sst.nc
  mask_from: sst
  cell_area: true
  anomaly: {variables: sst}
spec: {inputs: sst, targets: sst, input_offsets: [-1, 0], target_offsets: [1, 3]}
split: {boundaries: ["1992-12", "1994-12"]}
network:
  name: cnn
  boundary: {lat: closed, lon: periodic}
  arguments: {filters: 2, blocks: 1}
increment: true
training: {epochs: 1, batch_size: 16, learning_rate: 1.0e-12}
output: {directory: out}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with monthly data on a small globe with land, and a trained run."""
    path = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    time = xr.date_range("1985-01-15", "1997-12-31", freq="MS").shift(14, "D")
    lat, lon = np.arange(-75.0, 76, 30), np.arange(0.0, 360, 45)
    cycle = 10 * np.cos(2 * np.pi * (time.month.values - 1) / 12)
    walk = np.cumsum(rng.normal(0, 0.3, (time.size, lat.size, lon.size)), axis=0)
    ds = xr.Dataset(
        {"sst": (("time", "lat", "lon"), (15 + cycle[:, None, None] + walk).astype("float32"), {"units": "degC"})},
        {
            "time": time,
            "lat": ("lat", lat, {"units": "degrees_north", "standard_name": "latitude"}),
            "lon": ("lon", lon, {"units": "degrees_east", "standard_name": "longitude"}),
        },
    )
    ds["sst"] = ds.sst.where((ds.lat < 40) | (ds.lon > 100))
    ds.to_netcdf(path / "sst.nc")
    (path / "run.yaml").write_text(YAML)
    said = []
    train(config.load(path / "run.yaml"), said.append)
    assert any("parameters" in line for line in said)
    return path


def test_the_output_is_whole_and_nothing_else_is_left(folder):
    names = {p.name for p in (folder / "out").iterdir()}
    assert names == {"model.keras", "history.json", "scores.json", "run.yaml", "learning_curve.png"}
    assert not list(folder.glob(".physml-*"))
    again = config.load(folder / "out" / "run.yaml")
    assert config.digest(again) == load(folder / "out" / "model.keras").provenance["config_sha256"]


def test_scores_hold_every_lead_beside_persistence(folder):
    scores = json.loads((folder / "out" / "scores.json").read_text())
    assert scores["part"] == "test"
    assert set(scores["sst"]["rmse"]) == {"1", "3"}
    # The step of the optimizer is negligible: the untrained network forecasts no change, so it is persistence.
    for lead in ("1", "3"):
        assert scores["sst"]["rmse"][lead] == pytest.approx(scores["sst"]["rmse_persistence"][lead], rel=1e-5)


def test_predictions_are_masked_dated_and_in_the_units_of_the_data(folder):
    out = write_prediction(str(folder / "out"), str(folder / "sst.nc"), str(folder / "forecast.nc"))
    with xr.open_dataset(folder / "sst.nc") as data, xr.open_dataset(out) as forecast:
        assert forecast.sst.dims == ("time", "lead", "lat", "lon")
        assert forecast.sst.attrs["units"] == "degC"
        assert forecast.sst.dtype == "float32"
        assert (forecast.sst.isnull() == data.sst.isnull().all("time")).all()
        assert forecast.attrs["Conventions"].startswith("CF-")
        np.testing.assert_array_equal(forecast.time, data.time[1:])
        last = forecast.valid_time.isel(time=-1)
        np.testing.assert_array_equal(last, np.array(["1998-01-15", "1998-03-15"], "M8[ns]"))
        # No change of the anomaly: today's departure on top of the climatology of the month that is forecast.
        means = data.sst.sel(time=slice(None, "1992-12")).groupby("time.month").mean()
        today = data.sst.isel(time=-1, drop=True) - means.sel(month=12, drop=True)
        expected = today + means.sel(month=3, drop=True)
        np.testing.assert_allclose(forecast.sst.isel(time=-1).sel(lead=3), expected, atol=2e-5)


def test_a_prediction_is_not_overwritten_unless_asked(folder):
    target = folder / "kept.zarr"
    args = (str(folder / "out" / "model.keras"), [str(folder / "sst.nc")], str(target))
    write_prediction(*args)
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_prediction(*args)
    write_prediction(*args, overwrite=True)
    with xr.open_zarr(target, consolidated=False) as forecast:
        assert forecast.sizes["lead"] == 2
    with pytest.raises(ValueError, match=r"no known format.*\.nc or \*\.zarr"):
        write_prediction(args[0], args[1], str(folder / "x.txt"))


def test_a_failing_write_leaves_nothing_under_the_name_and_is_resumed(folder, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    before = set(folder.iterdir())
    command = ["predict", str(folder / "out"), str(folder / "sst.nc"), "--out", str(folder / "full.nc")]
    with monkeypatch.context() as m:
        m.setattr(xr.Dataset, "to_netcdf", full)
        assert cli.main(command) == 1
        assert re.search(r"No space left(.|\n)*1 of 1 regions are written.*--resume", capsys.readouterr().err)
        assert set(folder.iterdir()) - before == {folder / "full.nc.partial"}
        m.setattr(xr.Dataset, "to_zarr", full)
        assert cli.main([*command[:-1], str(folder / "empty.zarr")]) == 1
    assert not (folder / "empty.zarr.partial").exists()
    assert cli.main(command) == 1
    assert "was stopped" in capsys.readouterr().err
    assert cli.main([*command, "--resume", "--tiles", "lat=3"]) == 1
    assert "was begun with another options" in capsys.readouterr().err
    assert cli.main([*command, "--resume"]) == 0
    assert set(folder.iterdir()) - before == {folder / "full.nc"}
    write_prediction(str(folder / "out"), str(folder / "sst.nc"), str(folder / "tiled.nc"), tiles={"lat": 3})
    with xr.open_dataset(folder / "full.nc") as whole, xr.open_dataset(folder / "tiled.nc") as tiled:
        xr.testing.assert_allclose(tiled.sst, whole.sst, atol=1e-5)
    for made in ("full.nc", "tiled.nc"):
        (folder / made).unlink()


def test_a_run_is_not_overwritten_unless_asked(folder):
    with pytest.raises(FileExistsError, match=r"already holds a model.*overwrite=true"):
        train(config.load(folder / "run.yaml"))


def test_ranges_split_like_boundaries(folder):
    ranges = ["split={train: ['1985', '1992'], validation: ['1993', '1994'], test: ['1995', '1997']}"]
    out = train(config.load(folder / "run.yaml", [*ranges, f"output.directory={folder / 'ranges'}"]), lambda _: None)
    assert json.loads((out / "scores.json").read_text())["part"] == "test"
    with pytest.raises(ValueError, match=r"split\.test holds no whole window.*0 steps from 2005 to 2006"):
        late = ["split={train: ['1985', '1992'], test: ['2005', '2006']}", f"output.directory={folder / 'none'}"]
        train(config.load(folder / "run.yaml", late))
    assert not (folder / "none").exists()


def test_a_run_may_scale_by_month_and_read_the_calendar(folder):
    options = [
        "spec={inputs: [sst, time.month, time.dayofyear.sin], targets: sst, target_offsets: 1}",
        "scaling={method: {sst: robust}, by: month}",
        "data.anomaly=null",
        f"output.directory={folder / 'months'}",
    ]
    out = train(config.load(folder / "run.yaml", options), lambda _: None)
    scaling = load(out / "model.keras").scaling
    assert (scaling.by, scaling.method("sst").name) == ("month", "robust")
    assert scaling.period == ("1985-02-15T00:00:00", "1992-12-15T00:00:00")
    written = write_prediction(str(out), str(folder / "sst.nc"), str(folder / "months.nc"))
    with xr.open_dataset(written) as forecast:
        assert np.isfinite(forecast.sst.isel(lat=0)).all()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("scaling.by=month", "cannot tell the month of a sample"),
        ("network.name=cnm", "unknown network 'cnm'; did you mean 'cnn'?"),
        ("network.arguments.filtres=3", "no argument 'filtres'; did you mean 'filters'?"),
        ("constraints=[{type: NonNegativ, name: sst}]", "unknown constraint 'NonNegativ'; did you mean 'NonNegative'?"),
        ("network.boundary={lat: closed}", "boundary does not fit"),
        ("spec.inputs=ssh", "'ssh'"),
        ("data.mask_from=ssh", "mask_from 'ssh' is not in the Dataset"),
        ("data.path=nowhere.nc", "no data at"),
        ("training.learning_rate=1e30", "training diverged"),
    ],
)
def test_a_bad_run_is_one_clear_message_on_the_command_line(folder, capsys, override, words):
    argv = ["train", str(folder / "run.yaml"), override, f"output.directory={folder / 'bad'}"]
    if "inputs" in override:
        argv.append("data.anomaly=null")
    assert cli.main(argv) == 1
    error = capsys.readouterr().err
    assert words in error, error
    assert "Traceback" not in error
    assert not (folder / "bad").exists()


def test_a_run_that_was_killed_is_gone_on_with_and_never_begun_again_unasked(folder, monkeypatch):
    from physml.training import checkpoint

    recipe = ["training.epochs=2", "training.schedule=cosine", "training.learning_rate=1e-3"]
    killed_in = [*recipe, "training.warmup=1", f"output.directory={folder / 'killed'}"]
    whole = train(config.load(folder / "run.yaml", [*killed_in, f"output.directory={folder / 'whole'}"]))
    written = checkpoint.Checkpoint.on_epoch_end

    def killed(self, epoch, logs=None):
        written(self, epoch, logs)
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(checkpoint.Checkpoint, "on_epoch_end", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config.load(folder / "run.yaml", killed_in))
    assert [p.name for p in (folder / "killed").iterdir()] == ["training.npz"]
    with pytest.raises(FileExistsError, match=r"was stopped. Expected: output.resume=true to go on"):
        train(config.load(folder / "run.yaml", killed_in))
    with pytest.raises(ValueError, match=r"other settings. Expected: warmup 1.0"):
        train(config.load(folder / "run.yaml", [*killed_in, "training.warmup=0", "output.resume=true"]))
    out = train(config.load(folder / "run.yaml", [*killed_in, "output.resume=true"]))
    ours, theirs = (json.loads((p / "history.json").read_text()) for p in (out, whole))
    assert len(ours["loss"]) == 2 and not (out / "training.npz").exists()
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-6)
    assert config.digest(config.load(out / "run.yaml")) == config.digest(config.load(whole / "run.yaml"))


@pytest.mark.long
def test_a_recipe_reaches_the_optimizer_and_the_network(folder):
    recipe = (
        "training={optimizer: {type: sgd, momentum: 0.9}, precision: mixed_bfloat16, descent: batch, batch_size: 16, "
        "clip_norm: 1.0, epochs: 2, jit: false}"
    )
    out = train(config.load(folder / "run.yaml", [recipe, f"output.directory={folder / 'recipe'}"]))
    model = load(out / "model.keras")
    assert model.optimizer.momentum == 0.9 and model.optimizer.global_clipnorm == 1.0
    assert {layer.compute_dtype for layer in model.network.layers} >= {"bfloat16", "float32"}
    assert model.compute_dtype == "float32"


def test_years_may_be_numbers_and_ranges_keep_an_embargo(folder):
    said = []
    split = "split={train: [1985, 1992], validation: [1993, 1994], test: [1995, 1997], embargo: 6}"
    train(config.load(folder / "run.yaml", [split, f"output.directory={folder / 'years'}"]), said.append)
    assert "95 train, 18 validation, 30 test" in said[0]


def test_the_period_of_the_training_data_does_not_bind_predictions(folder):
    period = ["data.select={time: [1985, 1995], lat: [-80, 60]}", "split.boundaries=['1990-12', '1993-12']"]
    out = train(config.load(folder / "run.yaml", [*period, f"output.directory={folder / 'period'}"]), lambda _: None)
    written = write_prediction(str(out), str(folder / "sst.nc"), str(folder / "all.nc"))
    with xr.open_dataset(written) as forecast:
        assert forecast.time[-1] == np.datetime64("1997-12-15")
        assert forecast.lat.max() < 60


def test_a_prediction_never_replaces_the_data_it_reads(folder):
    path = str(folder / "sst.nc")
    with pytest.raises(FileExistsError, match="is the data themselves"):
        write_prediction(str(folder / "out"), path, path, overwrite=True)
    with xr.open_dataset(path) as data:
        assert "lead" not in data.dims


def test_a_file_without_chunks_is_read_in_pieces_along_the_samples(tmp_path):
    ds = xr.Dataset({"x": (("time", "i"), np.zeros((400, 20_000)))}, {"time": np.arange(400)})
    ds.to_netcdf(tmp_path / "a.nc")
    opened = prepare.open_data(str(tmp_path / "a.nc"))
    assert len(opened.chunks["time"]) > 2
    assert len(opened.chunks["i"]) == 1


def test_files_on_unlike_grids_are_refused(tmp_path):
    for name, lat in (("x", [1.0, 2.0]), ("y", [1.0, 2.0, 3.0])):
        xr.Dataset({name: ("lat", np.zeros(len(lat)))}, {"lat": lat}).to_netcdf(tmp_path / f"{name}.nc")
    with pytest.raises(ValueError, match=r"cannot be read.*on one grid"):
        prepare.open_data([str(tmp_path / "x.nc"), str(tmp_path / "y.nc")])


def test_a_typo_fails_before_tensorflow_is_loaded(folder):
    code = (
        "import sys; from physml import cli; "
        f"status = cli.main(['train', {str(folder / 'run.yaml')!r}, 'trainin.epochs=3']); "
        "sys.exit(10 * status + ('tensorflow' in sys.modules or 'keras' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 10, done.stderr
    assert "did you mean 'training'" in done.stderr


def test_help_loads_nothing_heavy_and_lists_the_commands():
    code = (
        "import sys; from physml import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(command in done.stdout for command in ("demo", "train", "predict"))


def test_selection_follows_the_order_of_the_coordinate():
    ds = xr.Dataset({"x": ("lat", np.arange(5.0))}, {"lat": [60.0, 30.0, 0.0, -30.0, -60.0]})
    assert prepare.rename_and_select(ds, {}, {"lat": [-30, 30]}).x.values.tolist() == [1.0, 2.0, 3.0]
    assert prepare.rename_and_select(ds, {"x": "y"}, {"lat": 0.0}).y.values.tolist() == [2.0]
    with pytest.raises(ValueError, match="leaves nothing along 'lat'"):
        prepare.rename_and_select(ds, {}, {"lat": [70, 80]})
