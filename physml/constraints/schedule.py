"""PenaltySchedule: the weight of soft laws grows, or fades, from epoch to epoch."""

from __future__ import annotations

from typing import Any

import keras

from physml._errors import closest, describe

FORMS = ("linear", "exponential")


@keras.saving.register_keras_serializable(package="physml")
class PenaltySchedule(keras.callbacks.Callback):
    """Callback that moves the weight of the penalties of a :class:`physml.FieldModel` from epoch to epoch.

    A small weight at first lets the network find the fields before the laws pull on it. The weight is a variable of the graph:
    nothing is traced again. It stays where the last epoch left it.

    Parameters
    ----------
    start, end
        Weight at epoch *begin* and before, and from *epochs* epochs later on.
    epochs
        Length of the ramp.
    form
        ``"linear"``, or ``"exponential"``: the same factor from each epoch to the next.
    begin
        First epoch of the ramp.

    Raises
    ------
    ValueError
        For negative weights, an exponential ramp from or to zero, a ramp without length; when training begins, for a model
        without penalties.

    Examples
    --------
    >>> schedule = PenaltySchedule(1e-4, 1e-2, epochs=10, form="exponential")
    >>> round(schedule.at(5), 6)
    0.001
    """

    def __init__(self, start: float, end: float, epochs: int, form: str = "linear", begin: int = 0) -> None:
        super().__init__()
        self.start, self.end, self.epochs, self.form, self.begin = (
            float(start),
            float(end),
            int(epochs),
            form,
            int(begin),
        )
        wrong = {
            "start and end": (
                min(self.start, self.end) < 0,
                ">= 0",
                f"start={start}, end={end}",
                "0 turns the penalty off",
            ),
            "epochs": (self.epochs < 1, ">= 1", epochs, "FieldModel(..., penalty=...) for a weight that stays"),
            "form": (form not in FORMS, f"one of {FORMS}", repr(form), "form='linear'"),
            "start or end": (
                form == "exponential" and not min(self.start, self.end) > 0,
                "> 0 on an exponential ramp",
                f"start={start}, end={end}",
                "form='linear', or a small weight in place of 0",
            ),
        }
        for what, (bad, expected, received, remedy) in wrong.items():
            if bad:
                hint = closest(str(form), FORMS) if what == "form" else ""
                raise ValueError(
                    describe(
                        f"PenaltySchedule: {what} cannot be used{hint}",
                        expected=expected,
                        received=received,
                        remedy=remedy,
                    )
                )

    def at(self, epoch: int) -> float:
        """Return the weight of an epoch."""
        share = min(max((epoch - self.begin) / self.epochs, 0.0), 1.0)
        if self.form == "exponential":
            return float(self.start ** (1 - share) * self.end**share)
        return self.start + (self.end - self.start) * share

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuse a model without penalties."""
        if not len(getattr(self.model, "penalties", ())):
            raise ValueError(
                describe(
                    "PenaltySchedule: the model has no penalties",
                    expected="FieldModel(..., penalties=[laws])",
                    received=f"a {type(self.model).__name__} without",
                    remedy="name the soft laws in penalties=..., or leave the callback out",
                )
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set the weight of the epoch."""
        self.model.penalty = self.at(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Put the weight into the history."""
        if logs is not None:
            logs["penalty"] = self.at(epoch)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"start": self.start, "end": self.end, "epochs": self.epochs, "form": self.form, "begin": self.begin}
