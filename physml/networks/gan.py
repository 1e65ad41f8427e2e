"""Adversarial training: a critic that tells generated fields from real ones, and a generator that learns to please it.

The generator is a FieldModel that reads a condition and a field of noise, laws included: what the critic sees obeys them. With
condition x, truth y, generated field g = G(x, noise) and critic D, in scaled units, by Wasserstein distance with penalty p:

    critic:     mean D(x, g) - mean D(x, y) + p mean (|dD/du (x, u)| - 1)^2,   u = e y + (1 - e) g,  e uniform in 0 ... 1
    generator:  - mean D(x, g) + content weight * content loss
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from physml import _backend
from physml._errors import closest, is_count, refuse
from physml.losses import fair_crps, weighed
from physml.networks.critics import NOISE, condition, gradient_penalty

CONTENTS = ("mse", "crps")


class WGAN:
    """Trains a generator against a critic, by Wasserstein distance with gradient penalty; conditional by its inputs.

    Parameters
    ----------
    generator
        A :class:`physml.FieldModel` with an input of noise, drawn anew at every step; its laws hold in all that is generated.
    critic
        From :func:`critic`, or any Keras model of that kind.
    noise
        Name of the input that holds the noise.
    n_critic
        Steps of the critic for each of the generator.
    penalty
        Weight of the gradient penalty.
    content
        A loss that joins the critic's verdict: None; ``"mse"``, of the mean of *members* draws; ``"crps"``, of their ensemble.
    content_weight
        Its weight.
    members
        Draws for each sample in a step of the generator.
    learning_rate, betas
        Of Adam, for both.
    seed
        Of the noise and of the points between real and generated fields.

    Raises
    ------
    ValueError
        Where the critic does not take the condition and the targets, the generator answers a distribution, or one of them computes
        in float16, whose gradients would vanish.

    References
    ----------
    Gulrajani, I. et al. (2017), doi:10.48550/arXiv.1704.00028. Leinonen, J. et al. (2021), doi:10.1109/TGRS.2020.3032790. Harris, L.
    et al. (2022), doi:10.1029/2022MS003120.

    Examples
    --------
    >>> spec = with_noise_inputs(physml.FieldSpec("coarse", "fine"), channels=4)  # doctest: +SKIP
    >>> scaling = physml.Scaling.fit(with_noise(ds, spec, seed=0), spec)  # doctest: +SKIP
    >>> generator = physml.FieldModel(networks.cnn(scaling.layout, boundary=ends), scaling=scaling)  # doctest: +SKIP
    >>> gan = WGAN(generator, critic(scaling.layout, boundary=ends))  # doctest: +SKIP
    >>> gan.fit(physml.Batches(with_noise(ds, spec, seed=0), spec, 16, shuffle=True), epochs=20)  # doctest: +SKIP
    >>> generator.save("generator.keras")  # doctest: +SKIP
    """

    def __init__(
        self,
        generator: Any,
        critic: keras.Model,
        *,
        noise: str = NOISE,
        n_critic: int = 5,
        penalty: float = 10.0,
        content: str | None = None,
        content_weight: float = 1.0,
        members: int = 1,
        learning_rate: float = 1e-4,
        betas: tuple[float, float] = (0.0, 0.9),
        seed: int = 0,
    ) -> None:
        layout = generator.layout
        self.condition = condition(layout, noise)
        at = layout.where("inputs", noise)
        _check(generator, critic, len(self.condition), content, members, n_critic)
        self.generator, self.critic, self.noise = generator, critic, (at.start, at.stop)
        self.n_critic, self.penalty, self.members, self.seed = int(n_critic), float(penalty), int(members), int(seed)
        self.content, self.content_weight = content, float(content_weight)
        self.steps = 0
        """Steps of the critic so far."""

        def adam() -> Any:
            return keras.optimizers.Adam(learning_rate, beta_1=betas[0], beta_2=betas[1])

        def beside(one: Any, other: Any) -> list[Any]:
            return [*one.non_trainable_variables, *other.variables]

        self._critic_step = _backend.training_step(
            self._critic_loss, critic.trainable_variables, beside(critic, generator), adam()
        )
        self._generator_step = _backend.training_step(
            self._generator_loss, generator.trainable_variables, beside(generator, critic), adam()
        )

    def fit(self, batches: Any, *, epochs: int) -> dict[str, list[float]]:
        """Train both.

        Parameters
        ----------
        batches
            :class:`physml.Batches` of the generator's inputs and targets; anything may stand in place of the noise.
        epochs
            Passes over them. Every batch is a step of the critic, every *n_critic*-th one of the generator too.

        Returns
        -------
        dict
            Means by epoch: ``distance`` (critic of real less that of generated fields), ``penalty``, ``verdict`` (critic of
            generated fields in steps of the generator) and ``content``.

        Raises
        ------
        ValueError
            Where training diverges.
        """
        if self.generator.free_size or self.generator.missing == "mean":
            batches.fill = float("nan")  # by which such a generator tells masked and missing cells
        history: dict[str, list[float]] = {"distance": [], "penalty": [], "verdict": [], "content": []}
        for epoch in range(epochs):
            told: dict[str, list[Any]] = {k: [] for k in history}
            batches.epoch = epoch
            for i in range(len(batches)):
                self._turn(*batches[i], told=told)
            for name, values in told.items():
                mean = float(np.mean([float(v) for v in values])) if values else float("nan")
                history[name].append(mean)
            if not np.isfinite(history["distance"][-1]):
                refuse(
                    f"training diverged in epoch {epoch + 1}",
                    "a finite distance",
                    history["distance"][-1],
                    "a smaller learning_rate, or check the scaling",
                )
        return history

    def _turn(self, x: Any, y: Any, weights: Any = None, *, told: dict[str, list[Any]]) -> None:
        """Take a step of the critic and, when it is due, one of the generator."""
        rng = np.random.default_rng((self.seed, self.steps))
        weights = self._valid(y) if weights is None else weights
        noise, between = self._draw(rng, x, 1)[0], rng.uniform(size=(len(x), *[1] * (y.ndim - 1)))
        distance, penalty = self._critic_step(x, y, weights, noise, between.astype("float32"))
        told["distance"].append(distance)
        told["penalty"].append(penalty)
        self.steps += 1
        if self.steps % self.n_critic == 0:
            verdict, content = self._generator_step(x, y, weights, self._draw(rng, x, self.members))
            told["verdict"].append(verdict)
            told["content"].append(content)

    def _draw(self, rng: np.random.Generator, x: Any, members: int) -> np.ndarray:
        return rng.normal(size=(members, *x.shape[:-1], self.noise[1] - self.noise[0])).astype("float32")

    def _with_noise(self, x: Any, noise: Any) -> Any:
        x = ops.cast(x, self.generator.compute_dtype)
        return ops.concatenate([x[..., : self.noise[0]], noise, x[..., self.noise[1] :]], axis=-1)

    def _seen(self, x: Any) -> Any:
        """Return the scaled condition; masked cells 0."""
        _, z = self.generator.scaled_inputs(x)
        return ops.take(z, self.condition, axis=-1)

    def _judged(self, seen: Any, z: Any) -> Any:
        return self.critic(ops.concatenate([seen, z], axis=-1), training=True)

    def _critic_loss(self, x: Any, y: Any, weights: Any, noise: Any, between: Any) -> Any:
        x = self._with_noise(x, noise)
        seen, real = self._seen(x), weighed(self.generator.scaled_targets(y, x), weights)
        fake = self.generator.scaled_targets(self.generator(x, training=True), x)
        fake = weighed(ops.stop_gradient(fake), weights)  # where no truth is, neither is seen
        point = between * real + (1.0 - between) * fake
        _, (slope,) = _backend.slopes(lambda u: self._judged(seen, u), [point])
        penalty = ops.mean(gradient_penalty(weighed(slope, weights)))
        distance = ops.mean(self._judged(seen, real)) - ops.mean(self._judged(seen, fake))
        return self.penalty * penalty - distance, (distance, penalty)

    def _valid(self, y: Any) -> np.ndarray:
        """Return 1 on target cells that are there, where no weights tell them."""
        mask = self.generator.layout.valid("targets")
        return np.broadcast_to(mask if y.shape[1:] == mask.shape else True, y.shape).astype("float32")

    def _generator_loss(self, x: Any, y: Any, weights: Any, noise: Any) -> Any:
        count, cells = self.members, ops.shape(y)[1:]
        x = ops.concatenate([self._with_noise(x, noise[m]) for m in range(count)], axis=0)
        answer = self.generator(x, training=True)
        penalties = self.generator.losses
        fake = self.generator.scaled_targets(answer, x)
        shown = weighed(fake, ops.concatenate([weights] * count, axis=0))
        verdict = ops.mean(self._judged(self._seen(x), shown))
        content = ops.zeros((), fake.dtype)
        if self.content is not None:
            drawn = ops.reshape(fake, (count, -1, *cells))
            own = self.generator.scaled_targets(y, x[: ops.shape(y)[0]])
            if self.content == "crps":
                error = fair_crps(own, ops.moveaxis(drawn, 0, -1))
            else:
                error = ops.square(ops.mean(drawn, axis=0) - own)
            weights = ops.cast(weights, error.dtype)
            if len(weights.shape) < len(error.shape):
                weights = ops.expand_dims(weights, -1)
            content = ops.mean(weights * error)
        value = self.content_weight * content - verdict + sum(penalties, 0.0)
        return value, (verdict, content)


def _check(generator: Any, critic: keras.Model, seen: int, content: str | None, members: int, n_critic: int) -> None:
    layout = generator.layout
    if generator.answers is not layout and generator.answers.targets != layout.targets:
        refuse(
            "WGAN: the generator answers a distribution",
            "the targets themselves: the noise makes the distribution",
            f"the head {type(generator.head).__name__}",
            "leave the head out",
        )
    wanted = seen + len(layout.targets)
    if critic.input_shape[-1] != wanted:
        refuse(
            "WGAN: the critic does not take the condition and the targets",
            f"{wanted} channels",
            critic.input_shape[-1],
            "physml.networks.critic(generator.layout, ...)",
        )
    layers = [*generator._flatten_layers(), *critic._flatten_layers()]
    half = next((layer for layer in layers if layer.compute_dtype == "float16"), None)
    if half is not None:
        refuse(
            "WGAN: the gradients vanish in half precision",
            "float32 or bfloat16",
            f"the layer {half.name!r} in float16",
            "build generator and critic under keras.config.set_dtype_policy('float32')",
        )
    if content is not None and content not in CONTENTS:
        refuse(
            f"WGAN: unknown content loss {content!r}{closest(str(content), CONTENTS)}",
            f"None or one of {CONTENTS}",
            repr(content),
            "content='crps'",
        )
    if not is_count(members, 2 if content == "crps" else 1) or not is_count(n_critic):
        refuse(
            "WGAN: too few draws or steps",
            "n_critic >= 1 and members >= 1, for 'crps' >= 2",
            f"n_critic={n_critic}, members={members}",
            "members=4",
        )
