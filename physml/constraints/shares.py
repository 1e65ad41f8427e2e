"""Shares: a known total is shared out among cells, levels or variables, positively and exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from physml import _backend
from physml._errors import closest, describe
from physml.constraints._arrange import at_start
from physml.constraints.balance import Budget
from physml.constraints.linear import Coefficient, Factor, Terms, names_in
from physml.heads.base import Head
from physml.layout import Layout

FORMS = ("softmax", "multiplicative")
TINY = 1e-30
"""Mean share below which what is shared out is spread evenly."""


class Shares(Head):
    """Head that shares a known total out, positively and exactly.

    With weights ``w``, a total ``b`` and a prior ``m``, over the cells of each sum::

        y = b p / sum(w p)        p = m exp(z)       softmax: y = b softmax(z + log(w m)) / w
                                  p = m softplus(z)  multiplicative

    So ``sum(w y) = b``, and no ``y`` has another sign than ``b``. A network that says 0 gives the prior, made to fit the total.
    The softmax compares cells by their differences alone and lets one of them take everything; the multiplicative form is
    closer to linear, and forgets what is far below zero. Where the prior or the softplus leave nothing, the total is spread
    evenly.

    Parameters
    ----------
    terms
        The target; or all targets that share one total, with coefficients > 0 if need be, as in :class:`physml.Budget`.
    over, weights, blocks, groups
        Which cells share one total, and what they weigh, as in :class:`physml.Budget`; weights >= 0. None: the variables of
        each cell share it.
    total
        A number; or an input, or inputs with coefficients, whose weighted sums make the total, as in *equals* of
        :class:`physml.Budget`.
    form
        ``"softmax"`` or ``"multiplicative"``.
    prior
        The name of an input or of a field without sample dimension, ``>= 0``, such as a climatology or the coarse field. None: 1.

    Raises
    ------
    KeyError, ValueError
        For names, dimensions and units as in :class:`physml.Budget`; for targets that have no share, several target offsets,
        and weights or a prior that are negative.

    References
    ----------
    Harder et al. (2023), JMLR 24(365).

    Examples
    --------
    >>> Shares("rain", blocks={"lat": 4, "lon": 4}, weights="area", total="rain_coarse").form
    'softmax'
    """

    def __init__(
        self,
        terms: str | Sequence[str] | Mapping[str, Factor],
        over: str | Sequence[str] | None = None,
        weights: str | float | None = None,
        total: float | str | Mapping[str, Factor] = 1.0,
        *,
        blocks: Mapping[str, int] | None = None,
        groups: str | None = None,
        form: str = "softmax",
        prior: str | None = None,
    ) -> None:
        if form not in FORMS:
            raise ValueError(
                describe(
                    f"Shares: form is not understood{closest(str(form), FORMS)}",
                    expected=f"one of {FORMS}",
                    received=repr(form),
                    remedy="form='softmax'",
                )
            )
        terms = {terms: 1.0} if isinstance(terms, str) else terms
        total = {total: 1.0} if isinstance(total, str) else total
        self.budget = Budget(terms, over, weights, total, blocks=blocks, groups=groups, name="shares")
        if self.budget._given:
            raise ValueError(
                describe(
                    "Shares takes fields by name",
                    expected="names, products of names such as 'area*dz', or numbers",
                    received=f"a DataArray as {next(iter(self.budget._given))!r}",
                    remedy="put it into the Dataset, and pass its name",
                )
            )
        self.form, self.prior = form, prior

    def channels(self, layout: Layout) -> int:
        """Return how many channels the network must give: one for every target channel."""
        return len(layout.targets)

    def statics(self, layout: Layout) -> Sequence[str]:
        """Return the names of the static fields that are kept with the layout."""
        names = [*self.budget.factors(), *(names_in([self.prior], "Shares") if self.prior is not None else ())]
        return tuple(n for n in dict.fromkeys(names) if n in layout.statics.variables)

    def bind(self, layout: Layout, unit: np.ndarray | None = None) -> None:
        """Prepare weights and prior for a layout; refuse one it cannot act on. What the network says has no unit."""
        targets = tuple(layout.spec.targets)
        offsets = {n: layout.spec.offsets("targets", n) for n in targets}
        if set(self.budget.terms) != set(targets) or any(len(o) > 1 for o in offsets.values()):
            raise ValueError(
                describe(
                    "Shares must make all targets, at one offset",
                    expected=f"terms {targets}, one target offset",
                    received=f"terms {tuple(self.budget.terms)}, offsets {offsets}",
                    remedy="one FieldModel for the shares and another for the rest, or constraints=Budget(...) in place of the head",
                )
            )
        (law,) = self.budget.linear(layout)
        resolve = Terms(layout, "Shares")
        self._prior: dict[str, Coefficient] = {}
        self._there: dict[str, np.ndarray] = {}
        for n in targets:
            fixed, powers, _ = resolve.factor(self.prior if self.prior is not None else 1.0, n)
            shape = (*layout.shape, layout.variables[n].depth)
            weight, fixed = np.broadcast_to(law.outputs[n].fixed, shape), np.broadcast_to(fixed, shape)
            for what, values in (("weights", weight), ("prior", fixed)):
                bad = ~(values >= 0) & (weight != 0)
                if bad.any():
                    raise ValueError(
                        describe(
                            f"Shares: the {what} of {n!r} cannot share anything out",
                            expected=">= 0 wherever cells take part",
                            received=f"{int(bad.sum())} of {int((weight != 0).sum())} cells negative or missing",
                            remedy="correct the coefficients and fields, or mask those cells",
                        )
                    )
            known = np.broadcast_to(
                law.groups.share(np.ones(law.groups.sizes(law.depth))), shape
            )  # 0 outside all groups
            self._there[n] = (weight != 0) & (known != 0)
            self._prior[n] = Coefficient(np.where(self._there[n], fixed, 0.0), tuple(powers))
        self._law, self._layout = law, layout
        self._needs = tuple(dict.fromkeys([*law.needs, *(n for c in self._prior.values() for n, _ in c.inputs)]))
        self.seen = np.ones(len(layout.inputs), "float32")

    def __call__(self, network_output: Any, inputs: Any) -> Any:
        """Return the shares of the total.

        Computed in float64 and rounded once; on JAX that needs ``jax_enable_x64``, without it sums err by about 1e-7.

        Parameters
        ----------
        network_output
            ``[batch, *space, target channel]``.
        inputs
            ``[batch, *space, input channel]`` in physical units.

        Returns
        -------
        tensor
            ``[batch, *space, target channel]`` in physical units, in the type of *inputs*.
        """
        law, layout, kind = self._law, self._layout, _backend.widest_float()
        groups = law.groups
        x = at_start(layout.split(ops.cast(inputs, kind), "inputs"), self._needs, layout)
        z = layout.split(ops.cast(network_output, kind), "targets")
        arrays = law.arrays()
        w = {n: ops.cast(c, kind) for n, c in law.coefficients(x, arrays).items()}
        there = {n: ops.cast(here, kind)[None] for n, here in self._there.items()}
        p = {n: there[n] * ops.maximum(ops.cast(c.tensor(x), kind), 0.0) for n, c in self._prior.items()}
        if self.form == "softmax":
            low = {n: ops.where(p[n] > 0, z[n], ops.full_like(z[n], -1e30)) for n in z}
            tops = [groups.max(v if groups.levels else v + ops.zeros((law.depth,), kind)) for v in low.values()]
            top = tops[0]
            for t in tops[1:]:
                top = ops.maximum(top, t)
            top = groups.spread(ops.stop_gradient(top))
            p = {n: p[n] * ops.exp(low[n] - top) for n in z}
        else:
            p = {n: p[n] * ops.softplus(z[n]) for n in z}
        even = law.sum(w, {n: there[n] + 0.0 * z[n] for n in z})
        held = law.sum(w, p)
        empty = held <= TINY * even
        total, _ = law.total(x, arrays)
        none = ops.ones_like(even)
        safe = ops.where(even > 0, even, none)
        scale = ops.cast(total, kind) / ops.where(empty, safe, held)
        scale, spare = groups.spread(scale), groups.spread(ops.cast(empty, kind))
        y = {n: scale * ops.where(spare > 0, there[n] + 0.0 * p[n], p[n]) for n in z}
        return ops.cast(ops.concatenate([y[n] for n in layout.spec.targets], axis=-1), inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, as plain values."""
        b = self.budget
        return {
            "terms": dict(b.terms),
            "over": b.over,
            "weights": b.weights,
            "total": b.equals,
            "blocks": b.blocks,
            "groups": b.groups,
            "form": self.form,
            "prior": self.prior,
        }
