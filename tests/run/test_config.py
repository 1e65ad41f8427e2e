"""A configuration is checked whole, by name and type, before anything heavy is loaded; it survives a round trip."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from physml.run import config

RUN = """
data:
  path: sst.nc
  select: {lat: [-60, 60]}
  mask_from: sst
  cell_area: true
  anomaly: {variables: sst}
spec:
  inputs: sst
  targets: [sst]
  input_offsets: [-1, 0]
  target_offsets: [1, 3, 6]
split:
  boundaries: [1989-12-31, "1995"]
network:
  name: cnn
  boundary: {lat: closed, lon: periodic}
  arguments: {filters: 32, activation: null}
constraints:
  - {type: NonNegative, name: sst}
  - {type: Conserve, name: sst, over: [lat, lon], equals: null}
training:
  learning_rate: 1e-3
  early_stopping: {patience: 3}
"""


def changed(**sections) -> str:
    """Return RUN with sections replaced (a mapping: updated; None: removed)."""
    content = yaml.safe_load(RUN.replace("1e-3", "1.0e-3").replace("1989-12-31", '"1989-12-31"'))
    for name, value in sections.items():
        if value is None:
            del content[name]
        elif isinstance(value, dict):
            content[name] = {**content.get(name, {}), **value}
        else:
            content[name] = value
    return yaml.safe_dump(content, sort_keys=False)


def test_a_run_reads_as_it_is_written(tmp_path):
    (tmp_path / "run.yaml").write_text(RUN)
    run = config.load(tmp_path / "run.yaml")
    assert run.data.path == (str(tmp_path / "sst.nc"),)
    assert run.data.select == {"lat": (-60, 60)}
    assert run.spec.inputs == ("sst",) and run.spec.target_offsets == (1, 3, 6)
    assert run.split.boundaries == ("1989-12-31", "1995") and run.split.embargo == "window"
    assert run.network.arguments == {"filters": 32, "activation": None}
    assert [c.type for c in run.constraints] == ["NonNegative", "Conserve"]
    assert run.constraints[1].arguments == {"name": "sst", "over": ("lat", "lon"), "equals": None}
    assert run.training.learning_rate == 1e-3 and run.training.early_stopping.patience == 3
    assert run.output.directory == str(tmp_path / "run")


def test_the_sections_are_the_arguments_of_a_field_spec():
    from physml import FieldSpec

    spec = config.parse(RUN).spec
    assert FieldSpec(**dict(spec)).window() == (-1, 6)


def test_scaling_is_standard_unless_said():
    assert config.parse(RUN).scaling == config.Scaled(method="standard", by=None)
    said = config.parse(RUN, ["scaling={method: {sst: log:1e-6}, by: month}"]).scaling
    assert said == config.Scaled(method={"sst": "log:1e-6"}, by="month")


def test_nothing_in_a_configuration_can_be_changed():
    run = config.parse(RUN)
    with pytest.raises(ValueError, match="frozen"):
        run.training.epochs = 3


def test_dump_writes_all_defaults_and_reads_back_the_same(tmp_path):
    run = config.parse(RUN, folder="/data")
    text = config.dump(run)
    assert "batch_size: 32" in text
    (tmp_path / "elsewhere.yaml").write_text(text)
    again = config.load(tmp_path / "elsewhere.yaml")
    assert again == run
    assert config.dump(again) == text


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
FREE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(TEXT, FREE, max_size=4))
def test_free_arguments_survive_the_round_trip(arguments):
    run = config.parse(RUN)
    run = run.model_copy(update={"network": config.Network(name="cnn", arguments=arguments)})
    again = config.parse(config.dump(run))
    assert again.network == run.network
    assert config.digest(again) == config.digest(run)


def test_the_recipe_of_the_training_has_arguments_by_name():
    run = config.parse(
        changed(
            training={
                "optimizer": {"type": "sgd", "momentum": 0.9, "nesterov": True},
                "schedule": {"type": "plateau", "patience": 3, "factor": 0.5},
                "warmup": 2,
                "clip_norm": 1.0,
                "descent": "batch",
                "precision": "mixed_bfloat16",
                "early_stopping": {"patience": 4, "min_delta": 1e-3, "restore_best": False},
            }
        ),
        ["training.optimizer.momentum=0.8"],
    )
    training = run.training
    assert training.optimizer == {"type": "sgd", "momentum": 0.8, "nesterov": True}
    assert training.schedule["type"] == "plateau" and training.warmup == 2.0
    assert dict(training.early_stopping) == {"patience": 4, "min_delta": 1e-3, "restore_best": False}
    assert config.parse(config.dump(run)) == run


def test_the_help_names_every_optimizer_and_schedule():
    from physml.training import DESCENTS, OPTIMIZERS, SCHEDULES

    keys = {k.path: k for k in config.schema()}
    for path, names in (("schedule", SCHEDULES), ("optimizer", OPTIMIZERS)):
        assert all(name in keys[f"training.{path}"].meaning for name in names)
    assert keys["training.descent"].type == " | ".join(DESCENTS)


def test_the_digest_depends_on_the_content_and_on_nothing_else():
    run = config.parse(RUN)
    backwards = {
        k: dict(reversed(v.items())) if isinstance(v, dict) else v for k, v in yaml.safe_load(changed()).items()
    }
    reordered = yaml.safe_dump(dict(reversed(backwards.items())), sort_keys=False)
    assert config.digest(config.parse(reordered)) == config.digest(run)
    moved = config.parse(RUN, ["output.directory=/elsewhere", "output.overwrite=true"], folder="/other/disk")
    assert config.digest(moved) == config.digest(run)
    assert config.digest(config.parse(RUN, ["training.seed=1"])) != config.digest(run)
    assert config.digest(config.parse(RUN, ["data.path=other.nc"])) != config.digest(run)
    assert len(config.digest(run)) == 64


def test_yaml_is_read_by_the_rules_of_1_2():
    run = config.parse(
        changed(network={"arguments": "HERE"}).replace("HERE", "{a: 2e-4, b: no, c: 2000-01-01, d: 010, e: 1.}")
    )
    assert run.network.arguments == {"a": 2e-4, "b": "no", "c": "2000-01-01", "d": 10, "e": 1.0}


def test_overrides_replace_add_and_reach_into_lists():
    run = config.parse(
        RUN,
        [
            "training.epochs=5",
            "training.learning_rate=2e-4",
            "network.arguments.filters=8",
            "constraints.1.over=[lat]",
            "head.type=Transport",
            "head.size=5",
            "data.select={lon: 180}",
            "training.early_stopping=null",
        ],
    )
    assert (run.training.epochs, run.training.learning_rate, run.training.early_stopping) == (5, 2e-4, None)
    assert run.network.arguments["filters"] == 8
    assert run.constraints[1].arguments["over"] == ("lat",)
    assert run.head.type == "Transport" and run.head.arguments == {"size": 5}
    assert run.data.select == {"lon": 180}


def test_paths_count_from_the_file_and_overrides_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = changed(data={"path": ["a.nc", "/b.nc", "s3://bucket/c.zarr"]}, output={"directory": "out"})
    run = config.parse(text, folder="/data")
    assert run.data.path == ("/data/a.nc", "/b.nc", "s3://bucket/c.zarr")
    assert run.output.directory == "/data/out"
    run = config.parse(text, ["data.path=a.nc", "output.directory=out"], folder="/data")
    assert run.data.path == (str(tmp_path / "a.nc"),)
    assert run.output.directory == str(tmp_path / "out")


def test_reading_a_configuration_loads_no_network_library():
    code = (
        "import sys\nfrom physml.run import config\n"
        f"config.parse('''{RUN}''')\nconfig.help_text()\n"
        "loaded = {'keras', 'tensorflow', 'jax', 'matplotlib'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_help_names_every_key_with_its_type_default_and_meaning():
    keys = {k.path: k for k in config.schema()}
    assert keys["training.epochs"][1:] == ("integer", "10", "passes over the training period")
    assert keys["data.path"].default == "required"
    assert keys["training.early_stopping.patience"].default == "required in training.early_stopping"
    assert keys["split.embargo"].type == "window | integer"
    assert keys["network.boundary"].type == "{text: periodic | closed | open | pole}"
    assert keys["constraints"].type == "list of {type, ...}"
    for key in keys.values():
        assert key.meaning and key.path in config.help_text()


SPLIT = {"boundaries": None}
BAD = {
    "an unknown key": (
        changed(training={"epocs": 5}),
        r"RUN.yaml: training.epocs is not a key of training; did you mean 'epochs'\? Expected: one of epochs, batch_size.* "
        r"Received: epocs. Remedy: correct or remove training.epocs$",
    ),
    "an unknown section": (
        changed(trainings={}),
        r"trainings is not a key of the configuration; did you mean 'training'\?",
    ),
    "a key in the wrong section": (changed(epochs=5), r"epochs is not a key .*; did you mean 'training.epochs'\?"),
    "a missing section": (
        changed(split=None),
        r"split is missing. Expected: a section with boundaries, train.* add split",
    ),
    "a missing key": (
        changed(spec={"targets": None}).replace("  targets: null\n", ""),
        r"spec.targets is missing. Expected: list of text: variables it predicts. Received: nothing",
    ),
    "text for a number": (
        changed(training={"epochs": "ten"}),
        r"training.epochs has a wrong value. Expected: integer. Received: 'ten' \(str\)",
    ),
    "a fraction for an integer": (
        changed(training={"batch_size": 1.5}),
        r"training.batch_size .*integer.*1.5 \(float\)",
    ),
    "a number for a switch": (
        changed(increment=1),
        r"increment has a wrong value. Expected: true or false. Received: 1 \(int\)",
    ),
    "text for a switch": (changed(increment="no"), r"increment has a wrong value. .*'no' \(str\)"),
    "no epochs": (changed(training={"epochs": 0}), r"training.epochs .*Expected: greater than 0. Received: 0"),
    "an infinite rate": (changed(training={"learning_rate": float("inf")}), r"training.learning_rate .*finite number"),
    "an unknown schedule": (
        changed(training={"schedule": "cosin"}),
        r"training.schedule 'cosin' is not known; did you mean 'cosine'\?.*one of constant, step, .*'cosin'",
    ),
    "a schedule that lacks an argument": (
        changed(training={"schedule": {"type": "step", "every": 10}}),
        r"training.schedule 'step' lacks factor. Expected: factor: a number above 0, at most 1",
    ),
    "a schedule with an argument of another": (
        changed(training={"schedule": {"type": "cosine", "factor": 0.5}}),
        r"training.schedule 'cosine' has no argument 'factor'.*Expected: among to",
    ),
    "an unknown optimizer": (
        changed(training={"optimizer": "adanw"}),
        r"training.optimizer 'adanw' is not known; did you mean 'adamw'\?",
    ),
    "a momentum above one": (
        changed(training={"optimizer": {"type": "sgd", "momentum": 9}}),
        r"training.optimizer.momentum has a wrong value. Expected: a number of at least 0, at most 1. Received: 9 \(int\)",
    ),
    "an optimizer without a name": (
        changed(training={"optimizer": {"momentum": 0.9}}),
        r"training.optimizer is not understood. Expected: a name, or \{type: name",
    ),
    "an optimizer that is a number": (changed(training={"optimizer": 3}), r"training.optimizer has a wrong value"),
    "two bounds on the gradient": (
        changed(training={"clip_norm": 1.0, "clip_value": 1.0}),
        r"training clips the gradient twice. Expected: training.clip_norm or training.clip_value",
    ),
    "a warm-up without end": (
        changed(training={"epochs": 3, "warmup": 3}),
        r"training.warmup leaves no epoch. Expected: less than training.epochs, 3. Received: 3",
    ),
    "an unknown descent": (
        changed(training={"descent": "minibatch"}),
        r"training.descent .*'mini-batch', 'batch' or 'stochastic'.*'minibatch'",
    ),
    "an unknown precision": (
        changed(training={"precision": "float16"}),
        r"training.precision .*'mixed_bfloat16' or 'mixed_float16'.*'float16'",
    ),
    "a plateau that nobody watches": (
        changed(
            training={"early_stopping": None, "schedule": {"type": "plateau", "patience": 2, "factor": 0.5}},
            split={**SPLIT, "train": ["1960", "1990"]},
        ),
        r"training.schedule: plateau has no validation period to watch",
    ),
    "an unknown boundary": (
        changed(network={"boundary": {"lon": "wrap"}}),
        r"network.boundary.lon has a wrong value. Expected: 'periodic', 'closed', 'open' or 'pole'. Received: 'wrap'",
    ),
    "a section that is a number": (
        changed(data=3),
        r"data has a wrong value. Expected: a section with path, rename.*3 \(int\)",
    ),
    "a mapping for names": (changed(spec={"inputs": {"a": 1}}), r"spec.inputs .*list of text.*\{'a': 1\} \(dict\)"),
    "an embargo in words": (changed(split={"embargo": "year"}), r"split.embargo .*'window' or a valid integer.*'year'"),
    "a constraint without type": (changed(constraints=[{"name": "sst"}]), r"constraints.0.type is missing"),
    "a head that is a name": (
        changed(head="Transport"),
        r"head .*Expected: a mapping with type and arguments.*'Transport'",
    ),
    "repeated inputs": (changed(spec={"inputs": ["sst", "sst"]}), r"inputs repeat a name. .*\['sst'\]"),
    "offsets out of order": (
        changed(spec={"target_offsets": [3, 1]}),
        r"target_offsets are not steps. .*increasing integers",
    ),
    "an unknown scaling": (
        changed(scaling={"method": {"sst": "minmx"}}),
        r"the scaling method is not understood; did you mean 'minmax'\?.*Received: minmx",
    ),
    "statistics by week": (changed(scaling={"by": "week"}), r"scaling.by has a wrong value. Expected: 'month'"),
    "two masks": (
        changed(spec={"mask": "wet"}),
        r"data.mask_from and spec.mask exclude each other. .*both, spec.mask: wet",
    ),
    "two areas": (changed(spec={"area": "dxdy"}), r"data.cell_area and spec.area exclude each other"),
    "an anomaly of nothing": (
        changed(data={"anomaly": {"variables": ["sts"]}}),
        r"data.anomaly.variables names 'sts', which the network neither sees nor predicts; did you mean 'sst'\?",
    ),
    "no split at all": (changed(split=SPLIT), r"split needs boundaries or ranges, one of the two. .*Received: neither"),
    "two splits": (changed(split={"train": ["1960", "1990"]}), r"split needs .*Received: boundaries, train"),
    "boundaries out of order": (
        changed(split={"boundaries": ["1995", "1989"]}),
        r"split.boundaries.1 does not come after what stands before it. .*Received: 1989",
    ),
    "periods that overlap": (
        changed(split={**SPLIT, "train": ["1960", "1990"], "validation": ["1990-06", "1995"]}),
        r"split.validation does not come after .*1990-06 to 1995.*the end '1990' means all of 1990",
    ),
    "a period that runs backwards": (
        changed(split={**SPLIT, "train": ["1990", "1960"]}),
        r"split.train does not come after",
    ),
    "a date in words": (changed(split={"boundaries": ["May 1990"]}), r"split.boundaries.0 is no date.*'May 1990'"),
    "nothing to stop on": (
        changed(split={**SPLIT, "train": ["1960", "1990"]}),
        r"training.early_stopping has no validation period to watch",
    ),
    "a key twice": (RUN + "training: {epochs: 3}\n", r"'training' stands twice in one section"),
    "broken YAML": ("data: {path: a.nc\nspec: b", r"RUN.yaml is no YAML, line 2"),
    "a list": ("- data", r"RUN.yaml is no configuration. .*Received: list"),
    "an empty file": (
        "",
        r"RUN.yaml has 4 problems:\n- data is missing.*\n- spec is missing.*\n- split .*\n- network ",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_configuration_is_refused_by_name(case):
    text, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        config.parse(text, name="RUN.yaml")


def test_all_problems_are_told_at_once():
    with pytest.raises(ValueError, match="has 3 problems") as error:
        config.parse(changed(training={"epochs": "x", "sed": 1}, increment=3))
    assert str(error.value).count("\n- ") == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", r"override 'training.epochs' cannot be read. Expected: key=value"),
        ("=3", "cannot be read"),
        ("training.epochs.x=3", r"override 'training.epochs.x=3' leads nowhere. .*'training.epochs'"),
        ("constraints.7.type=A", r"leads nowhere. .*at 'constraints'"),
        ("training.epochs=[1", r"override 'training.epochs=\[1' is no YAML"),
        ("training.epoch=3", r"training.epoch is not a key of training; did you mean 'epochs'\?"),
    ],
)
def test_a_wrong_override_is_refused(override, message):
    with pytest.raises(ValueError, match=message):
        config.parse(changed(training={"epochs": 3}), [override])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no configuration at .*run.yaml"):
        config.load(tmp_path / "run.yaml")
