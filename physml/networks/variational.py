"""What makes an autoencoder variational, or denoising: random numbers in training alone, from a seed."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from physml._errors import refuse


def kl_divergence(mean: Any, log_variance: Any) -> Any:
    """Return the divergence of N(mean, variance) from N(0, 1), summed over the last axis [nats].

    KL = 1/2 sum(variance + mean^2 - 1 - log variance).

    Examples
    --------
    >>> float(kl_divergence(ops.array([[1.0, 0.0]]), ops.array([[0.0, 0.0]]))[0])
    0.5
    """
    return 0.5 * ops.sum(ops.exp(log_variance) + ops.square(mean) - 1.0 - log_variance, axis=-1)


@keras.saving.register_keras_serializable(package="physml")
class LatentNormal(keras.layers.Layer):
    """Draw a latent vector from its normal distribution in training, and return its mean otherwise.

    In training the divergence of that distribution from the prior N(0, 1) joins the loss, averaged over the batch, times
    *weight*; the gradient passes through the draw, ``mean + std * noise``.

    Parameters
    ----------
    weight
        Weight of the divergence in the loss.
    warmup
        Training steps over which the weight grows from 0.
    seed
        Of the noise.

    Input shape
    -----------
    ``[batch, 2 latent]``: means, then logarithms of variances.

    Output shape
    ------------
    ``[batch, latent]``.

    References
    ----------
    Kingma, D. P. and Welling, M. (2014), doi:10.48550/arXiv.1312.6114. Growing weight: Bowman et al. (2016),
    doi:10.18653/v1/K16-1002.
    """

    def __init__(self, weight: float, warmup: int = 0, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if weight < 0 or warmup < 0:
            refuse("LatentNormal: a negative weight", "weight and warmup >= 0", f"{weight}, {warmup}", "weight=1.0")
        self.weight, self.warmup, self.seed = float(weight), int(warmup), int(seed)
        self.noise = keras.random.SeedGenerator(self.seed)

    def build(self, input_shape: Any) -> None:
        """Make the count of training steps."""
        # Half precision counts to 2048.
        self.steps = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="steps", dtype="float32", autocast=False
        )
        self.built = True

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Return a draw, or the mean."""
        mean, log_variance = ops.split(x, 2, axis=-1)
        if not training:
            return mean
        weight = ops.convert_to_tensor(self.weight, dtype="float32")
        if self.warmup:
            weight = weight * ops.minimum(ops.convert_to_tensor(self.steps) / self.warmup, 1.0)
            self.steps.assign(self.steps + 1.0)
        found = kl_divergence(ops.cast(mean, "float32"), ops.cast(log_variance, "float32"))
        self.add_loss(weight * ops.mean(found))
        noise = keras.random.normal(ops.shape(mean), dtype=mean.dtype, seed=self.noise)
        return mean + ops.exp(0.5 * log_variance) * noise

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the shape of the latent vectors."""
        return (*input_shape[:-1], input_shape[-1] // 2)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "weight": self.weight, "warmup": self.warmup, "seed": self.seed}


@keras.saving.register_keras_serializable(package="physml")
class InputNoise(keras.layers.Layer):
    """Add normal noise to scaled inputs in training. Masked cells, which hold 0, keep it.

    Parameters
    ----------
    std
        Standard deviation of the noise, in scaled units.
    seed
        Of the noise.

    Input shape
    -----------
    Any.

    Output shape
    ------------
    The same.
    """

    receptive_field = 0

    def __init__(self, std: float, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not std > 0:
            refuse("InputNoise: no noise", "a standard deviation > 0, in scaled units", std, "noise=0.3")
        self.std, self.seed = float(std), int(seed)
        self.noise = keras.random.SeedGenerator(self.seed)

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Return the inputs, with noise in training."""
        if not training:
            return x
        noise = keras.random.normal(ops.shape(x), stddev=self.std, dtype=x.dtype, seed=self.noise)
        return x + ops.where(x != 0, noise, ops.zeros_like(x))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the same shape."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "std": self.std, "seed": self.seed}
