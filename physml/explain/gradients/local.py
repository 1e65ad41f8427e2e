"""The gradient at the sample: itself, its mean over noisy copies, and times the difference from the baseline.

References
----------
Simonyan, K., A. Vedaldi and A. Zisserman, 2014: Deep inside convolutional networks. doi:10.48550/arXiv.1312.6034
Smilkov, D. et al., 2017: SmoothGrad: removing noise by adding noise. doi:10.48550/arXiv.1706.03825
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from physml._errors import is_count, refuse
from physml.explain.blocks import Block
from physml.explain.gradients.kinds import Found, Kind, added_up
from physml.explain.gradients.rows import Moments, Rows, in_batches
from physml.explain.gradients.work import Work

if TYPE_CHECKING:
    from physml.explain.explainer import Explainer


@dataclass(frozen=True)
class Saliency(Kind):
    """The gradient of the target in every input, or its absolute value."""

    absolute: bool = False
    method: ClassVar[str] = "saliency (gradient)"
    per_input: ClassVar[bool] = True
    adds_up: ClassVar[bool] = False
    compared: ClassVar[bool] = False

    @property
    def cells(self) -> dict[str, str]:
        """The gradient."""
        return {"attribution": "absolute gradient of {}" if self.absolute else "gradient of {}"}

    def explain(self, work: Work, block: Block) -> Found:
        """Return the gradient at every sample."""
        found = gradients_at(work.gradient, block.inputs, work.batch_rows)
        return {"attribution": np.abs(found) if self.absolute else found, "prediction": work.full(block)[:, 0]}


@dataclass(frozen=True)
class SmoothGrad(Kind):
    """The mean gradient over noisy copies of the sample, with its standard error.

    Attributes
    ----------
    noise
        Standard deviation of the noise: a number is the fraction of the range of each channel over the valid cells of the
        sample, which tells nothing without dimensions of space; an array ``[channel]`` or a mapping from variables is in the units of the inputs.
    copies, seed
        Number of copies, and seed of the noise.
    absolute
        Average the absolute gradient.
    """

    noise: Any = 0.15
    copies: int = 32
    seed: int = 0
    absolute: bool = False
    method: ClassVar[str] = "smoothgrad (mean gradient over noise)"
    per_input: ClassVar[bool] = True
    adds_up: ClassVar[bool] = False
    compared: ClassVar[bool] = False

    @property
    def cells(self) -> dict[str, str]:
        """The gradient and its standard error."""
        return {"attribution": "mean gradient of {} over noise", "stderr": "standard error of the mean gradient of {}"}

    def rows(self, explainer: Explainer, slots: int) -> int:
        """Return the number of copies."""
        return self.copies

    def prepare(self, explainer: Explainer, shape: tuple[int | None, ...], dtype: str) -> dict[str, Any]:
        """Check the noise."""
        if not is_count(self.copies, 2):
            whole = "a whole number >= 2"
            refuse("smoothgrad: copies are too few for a standard error", whole, repr(self.copies), "pass copies=32")
        names = [c.name for c in explainer.layout.inputs]
        known = isinstance(self.noise, Mapping) and set(self.noise) == set(names)
        if (isinstance(self.noise, Mapping) and not known) or np.shape(self._std(names)) not in ((), (len(names),)):
            refuse(
                "smoothgrad: noise does not fit the inputs",
                f"a fraction, or a standard deviation for each of {', '.join(dict.fromkeys(names))}",
                self.noise,
                "pass noise=0.15, or noise={'name': std in its units}",
            )
        if not explainer.layout.space and np.ndim(self._std(names)) == 0 and self._std(names) > 0:
            refuse(
                "smoothgrad: a fraction of the range over space says nothing where there is no space",
                f"a standard deviation for each of {', '.join(dict.fromkeys(names))}",
                f"noise={self.noise}",
                f"pass noise={{{names[0]!r}: std in its units, ...}}",
            )
        if not (np.isfinite(self._std(names)).all() and (self._std(names) >= 0).all()):
            refuse("smoothgrad: noise is not a standard deviation", ">= 0", self.noise, "pass noise=0.15")
        return {"noise": str(self.noise), "replicates": self.copies}

    def _std(self, names: list[str]) -> np.ndarray:
        given = [self.noise[n] for n in names] if isinstance(self.noise, Mapping) else self.noise
        try:
            return np.asarray(given, float)
        except (TypeError, ValueError):  # no number at all
            return np.full(len(names), np.nan)

    def explain(self, work: Work, block: Block) -> Found:
        """Return the mean gradient around every sample."""
        std = self._std([c.name for c in work.layout.inputs])
        if std.ndim == 0:
            std = spread(block.inputs, work.valid, float(std))
        mean, stderr = around(
            work.gradient,
            block.inputs,
            np.broadcast_to(std, (len(block.inputs), work.shape[-1])),
            work.valid,
            self.copies,
            self.seed,
            block.numbers,
            work.batch_rows,
            self.absolute,
        )
        return {"attribution": mean, "stderr": stderr, "prediction": work.full(block)[:, 0]}


@dataclass(frozen=True)
class InputXGradient(Kind):
    """The gradient times the difference from the mean of the baseline rows: first order, the residual tells how good."""

    method: ClassVar[str] = "(input - baseline) x gradient"

    def explain(self, work: Work, block: Block) -> Found:
        """Return the first-order contributions."""
        away = block.inputs - block.rows.astype("float64")[block.index].mean(1)
        phi = away * gradients_at(work.gradient, block.inputs, work.batch_rows)
        return {"attribution": phi, **added_up(work, block, phi)}


def gradients_at(gradient: Rows, inputs: np.ndarray, batch_rows: int) -> np.ndarray:
    """Return the gradient at every sample ``[sample, *space, channel]`` in float64."""
    found = [slopes for _, slopes in in_batches(gradient, lambda k: inputs[k], len(inputs), batch_rows)]
    return np.concatenate(found).astype("float64")


def spread(inputs: np.ndarray, valid: np.ndarray, fraction: float) -> np.ndarray:
    """Return *fraction* of the range of each channel over the valid cells of each sample, ``[sample, channel]``."""
    space = tuple(range(1, inputs.ndim - 1))
    high = np.where(valid, inputs, -np.inf).max(space)
    low = np.where(valid, inputs, np.inf).min(space)
    return fraction * np.maximum(high - low, 0)


def around(
    gradient: Rows,
    inputs: np.ndarray,
    std: np.ndarray,
    valid: np.ndarray,
    copies: int,
    seed: int,
    numbers: np.ndarray,
    batch_rows: int,
    absolute: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean gradient of noisy copies and its standard error, ``[sample, *space, channel]`` in float64.

    Parameters
    ----------
    std
        Standard deviation of the noise ``[sample, channel]``, in the units of the inputs.
    valid
        Cells that get noise, ``[*space, channel]``.
    copies, seed
        How many copies; the noise of a sample depends on the seed and its number among all alone.
    absolute
        Average the absolute gradient.
    """
    n, shape = len(inputs), inputs.shape[1:]
    scale = std.reshape(n, *[1] * (len(shape) - 1), shape[-1]) * valid

    def noise() -> Iterator[np.ndarray]:
        for s in range(n):
            rng = np.random.default_rng((seed, int(numbers[s])))
            for _ in range(copies):
                yield rng.standard_normal(shape) * scale[s]

    drawn = noise()
    found = [Moments(shape) for _ in range(n)]
    make = lambda k: np.stack([inputs[s] + next(drawn) for s in k // copies])  # noqa: E731
    for at, slopes in in_batches(gradient, make, n * copies, batch_rows):
        for k, slope in zip(at, slopes, strict=True):
            found[k // copies].add(np.abs(slope) if absolute else slope.astype("float64"))
    return np.array([m.mean for m in found]), np.array([m.stderr for m in found])
