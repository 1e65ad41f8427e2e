"""Names and arguments of optimizers and schedules are checked without Keras, and are those of Keras."""

from __future__ import annotations

import inspect
import subprocess
import sys

import keras
import pytest

from physml.training.optimizers import CLASSES, optimizer_of, rate_of
from physml.training.options import OPTIMIZERS, REQUIRED, SCHEDULES, choose


def test_names_are_checked_without_a_network_library():
    code = (
        "import sys\nfrom physml.training import OPTIMIZERS, History\n"
        "from physml.training.options import choose\nchoose('adam', OPTIMIZERS, 'optimizer')\n"
        "assert not {'keras', 'tensorflow', 'jax', 'rich'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_have_the_arguments_and_defaults_of_keras(name):
    parameters = inspect.signature(getattr(keras.optimizers, CLASSES[name])).parameters
    for argument, known in OPTIMIZERS[name].items():
        default = parameters[argument].default
        assert known.default == (0.0 if default is None else default), argument
    made = optimizer_of(choose(name, OPTIMIZERS, "optimizer"), 0.25, clip_norm=2.0)
    assert type(made).__name__ == CLASSES[name]
    assert (float(made.learning_rate), made.global_clipnorm) == (0.25, 2.0)


def test_arguments_reach_the_optimizer():
    made = optimizer_of(choose({"type": "sgd", "momentum": 0.9, "nesterov": True}, OPTIMIZERS, ""), 0.1, clip_value=3.0)
    assert (made.momentum, made.nesterov, made.clipvalue, made.weight_decay) == (0.9, True, 3.0, None)
    made = optimizer_of(choose({"type": "AdamW", "weight_decay": 0.01}, OPTIMIZERS, ""), 0.1, passes=3)
    assert (made.weight_decay, made.gradient_accumulation_steps) == (0.01, 3)


def rates(schedule, steps=4, epochs=8, **options) -> list[float]:
    """The rate at the first step of every epoch."""
    rate = rate_of(choose(schedule, SCHEDULES, "schedule"), 1.0, steps=steps, epochs=epochs, **options)
    passes = options.get("passes", 1)
    at = [e * steps * passes for e in range(epochs)]
    return [float(rate(step)) for step in at] if callable(rate) else [rate] * epochs


def test_every_schedule_takes_its_course():
    assert rates("constant") == [1.0] * 8
    assert rates({"type": "step", "every": 2, "factor": 0.5}) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    assert rates({"type": "exponential", "factor": 0.5}) == pytest.approx([0.5**e for e in range(8)], rel=1e-6)
    half = 0.5
    assert rates("cosine")[::4] == pytest.approx([1.0, half], abs=1e-6)
    assert rates({"type": "cosine", "to": 0.2})[4] == pytest.approx(0.6, abs=1e-6)
    again = {"type": "cosine_restarts", "first": 2, "longer": 2, "lower": 0.5}
    assert rates(again) == pytest.approx([1, 0.5, 0.5, 0.4268, 0.25, 0.0732, 0.25, 0.2405], abs=1e-4)


def test_a_warm_up_comes_before_any_of_them():
    rate = rate_of(choose("cosine", SCHEDULES, ""), 1.0, steps=4, epochs=8, warmup=2)
    assert [float(rate(k)) for k in range(8)] == pytest.approx([(k + 1) / 8 for k in range(8)])
    assert [float(rate(4 * e)) for e in (2, 5, 8)] == pytest.approx([1.0, 0.5, 0.0], abs=1e-6)


def test_gathered_gradients_count_as_one_step():
    one = rates({"type": "step", "every": 2, "factor": 0.5}, steps=1, warmup=2)
    many = rates({"type": "step", "every": 2, "factor": 0.5}, steps=1, warmup=2, passes=5)
    assert one == many == [0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    rate = rate_of(choose("constant", SCHEDULES, ""), 1.0, steps=1, epochs=4, warmup=2, passes=5)
    assert [float(rate(k)) for k in (0, 4, 5, 9, 10)] == [0.5, 0.5, 1.0, 1.0, 1.0]


def test_a_schedule_survives_saving():
    rate = rate_of(choose("cosine", SCHEDULES, ""), 1.0, steps=4, epochs=8, warmup=2)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(rate))
    assert [float(again(k)) for k in range(0, 32, 5)] == [float(rate(k)) for k in range(0, 32, 5)]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("stp", r"schedule 'stp' is not known; did you mean 'step'\?"),
        ({"type": "step"}, r"lacks every and factor.*schedule: \{type: step, every: \.\.\., factor: \.\.\.\}"),
        ({"type": "step", "evry": 2}, r"no argument 'evry'; did you mean 'every'\?"),
        ({"type": "constant", "factor": 2}, r"Expected: none"),
        ({"type": "step", "every": 0, "factor": 0.5}, r"schedule.every has a wrong value. Expected: a number above 0"),
        ({"type": "step", "every": True, "factor": 0.5}, r"True \(bool\)"),
        ({"type": "plateau", "patience": 1.5, "factor": 0.5}, r"a whole number of at least 1. Received: 1.5 \(float\)"),
        ({"type": "cosine", "to": float("nan")}, r"schedule.to has a wrong value.*0.0 is usual"),
        (3, r"schedule is not understood"),
        ({"every": 3}, r"schedule is not understood"),
    ],
)
def test_what_is_wrong_is_named(value, words):
    with pytest.raises(ValueError, match=words):
        choose(value, SCHEDULES, "schedule")


def test_defaults_are_filled_in():
    found = choose({"type": "cosine_restarts", "first": 3}, SCHEDULES, "schedule").arguments
    assert found == {"first": 3.0, "longer": 1.0, "lower": 1.0, "to": 0.0}
    assert REQUIRED not in found.values()
