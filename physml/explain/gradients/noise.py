"""The gradient itself, and its mean over noisy copies of the sample.

References
----------
Simonyan, K., A. Vedaldi and A. Zisserman, 2014: Deep inside convolutional networks. doi:10.48550/arXiv.1312.6034
Smilkov, D. et al., 2017: SmoothGrad: removing noise by adding noise. doi:10.48550/arXiv.1706.03825
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from physml.explain.gradients.rows import Moments, Rows, in_batches


def saliency(gradient: Rows, inputs: np.ndarray, batch_rows: int) -> np.ndarray:
    """Return the gradient at every sample ``[sample, *space, channel]`` in float64."""
    found = [slopes for _, slopes in in_batches(gradient, lambda k: inputs[k], len(inputs), batch_rows)]
    return np.concatenate(found).astype("float64")


def spread(inputs: np.ndarray, valid: np.ndarray, fraction: float) -> np.ndarray:
    """Return *fraction* of the range of each channel over the valid cells of each sample, ``[sample, channel]``."""
    space = tuple(range(1, inputs.ndim - 1))
    high = np.where(valid, inputs, -np.inf).max(space)
    low = np.where(valid, inputs, np.inf).min(space)
    return fraction * np.maximum(high - low, 0)


def smoothgrad(
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
