"""The explainer: a model, a baseline, groups of inputs and a target, and every question that can be asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import xarray as xr

from physml._errors import describe, refuse
from physml.explain.models.adapting import adapt, layout_for
from physml.explain.models.targets import bind
from physml.explain.models.valued import valued
from physml.explain.players.baselines import Baseline
from physml.explain.players.groups import Groups

if TYPE_CHECKING:
    from physml.explain.shapley.designs import Estimator
    from physml.layout import Layout


class Explainer:
    """A model, a baseline, groups of inputs and a target: the game that is explained.

    Parameters
    ----------
    model
        A ``FieldModel``; any Keras model or layer ``[batch, *space, channel]`` in physical units, a fitted scikit-learn
        estimator, :class:`on_tensors`, or a callable from Datasets to Datasets, with *layout*.
    baseline
        What stands in for absent groups: :func:`climatology`, :func:`persistence`, :func:`samples`, :func:`zero` ...
    groups
        The players: :func:`groups`. Not needed for gradients.
    target
        :func:`box_mean`, :func:`area_mean`, :func:`cell`, :func:`field`, or sums and differences of such numbers,
        ``box_mean(lon=slice(50, 70)) - box_mean(lon=slice(90, 110))``; the name of an output, such as a class; a function
        from the labelled output Dataset to a DataArray along the sample dimension (slower); or None for all of the output.
    layout
        Layout of a model that has none of its own.
    outputs
        Names of the outputs of a model that returns ``[batch, k]``.

    Raises
    ------
    ValueError, KeyError, TypeError
        Where baseline or groups were made for another layout, or the target is not among the outputs.

    Examples
    --------
    >>> explainer = Explainer(model, climatology(train, model.layout), groups(model.layout))  # doctest: +SKIP
    >>> maps = explainer.shapley(test.isel(time=slice(0, 12)))  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        baseline: Baseline,
        groups: Groups | None = None,
        target: Any = None,
        *,
        layout: Layout | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        layout = layout_for(model, layout)
        shape = (*layout.shape, len(layout.inputs))
        given: list[tuple[str, type, Any]] = [
            ("baseline", Baseline, baseline.rows.shape[1:] if isinstance(baseline, Baseline) else type(baseline))
        ]
        if groups is not None:
            given.append(("groups", Groups, groups.owner.shape if isinstance(groups, Groups) else type(groups)))
        for what, kind, received in given:
            if received != shape:
                raise ValueError(
                    describe(
                        f"{what} do not fit the inputs of the model",
                        expected=f"{kind.__name__} on [*space, channel] = {shape}",
                        received=received,
                        remedy=f"make the {what} with the layout of this model",
                    )
                )
        self.adapted = adapt(model, layout, baseline.rows[:1], outputs)
        self.model, self.layout, self.baseline, self.groups = model, layout, baseline, groups
        self.measure = bind(target, self.adapted.outputs)
        self.value = valued(self.adapted, self.measure)

    def __getstate__(self) -> dict[str, Any]:
        # To other processes it goes as what it was adapted to, which knows how to travel.
        return self.__dict__ | {"model": None}

    @property
    def players(self) -> Groups:
        """The groups, where there are any.

        Raises
        ------
        ValueError
            Where the explainer was made without groups.
        """
        if self.groups is None:
            refuse(
                "the explainer has no groups", "named groups of inputs", "none", "Explainer(..., groups=groups(layout))"
            )
        return self.groups

    def read(self, ds: xr.Dataset, compared: bool = True) -> tuple[xr.DataArray, xr.DataArray | None]:
        """Return the samples of *ds* ``[*members, sample, *space, channel]``, and their own baselines where they have some.

        Methods that compare them with no baseline ask for the samples alone, ``compared=False``.
        """
        if not isinstance(ds, xr.Dataset):
            raise TypeError(
                describe(
                    "what is to be explained has no named inputs",
                    expected=f"a Dataset with {', '.join(self.layout.spec.inputs)}",
                    received=type(ds).__name__,
                    remedy="pass the Dataset, ds.isel(...)",
                )
            )
        packed = self.layout.pack(ds, "inputs")
        beside = self.baseline.beside(ds, self.layout) if compared else None
        if beside is not None:
            packed, beside = xr.align(packed, beside, join="inner", copy=False)
        return packed, beside

    def slots(self, packed: xr.DataArray) -> int:
        """Return the number of baseline rows that each sample is compared with; refuse samples without any."""
        return self.baseline.pick(packed[self.layout.spec.sample_dim]).shape[1]

    def shapley(
        self,
        ds: xr.Dataset,
        method: str | Estimator = "auto",
        *,
        pairs: int | None = None,
        tol: float | None = None,
        rtol: float | None = None,
        max_rows: int | None = None,
        batch_rows: int | None = None,
        seed: int = 0,
        level: float = 0.95,
        nested: Any = None,
        progress: bool = True,
    ) -> xr.Dataset:
        """Return the contribution of every group to every prediction: Shapley values, or Owen values of nested groups.

        Parameters
        ----------
        ds
            Samples to explain; read block by block where lazy. Select before: ``ds.isel(time=slice(0, 32))``.
        method
            ``"exact"``: all coalitions. ``"permutations"``: random orders, each with its reverse. ``"kernel"``: regression on
            random coalitions, each with its complement; no nested groups. ``"auto"``: exact up to 12 groups and 16384 model
            rows a sample, or as many rows as *max_rows*; permutations beyond. ``"trees"``: exact for any number of groups,
            for scikit-learn's trees, forests and boosting, of samples or of cells, and one number linear in their output; ``"auto"``
            takes it where it can. Or an estimator, which then has *pairs*, *seed* and unions of its own.
        pairs
            Orders, or coalitions, drawn for each sample; default 100 orders, or coalitions for as many model rows. With a
            tolerance: before the first decision to stop, default 16 orders.
        tol, rtol
            Draw until the half-width of the interval of every group, and cell of the target, is below *tol* [units of the
            target], or below *rtol* times the largest attribution of the sample. Each sample stops on its own.
        max_rows
            Model rows of one sample at which it stops anyway; default 20000 with a tolerance.
        batch_rows
            Rows the model is given at a time; default by size of the inputs. No result depends on it, but for the rounding of
            the model.
        seed
            Of the draws.
        level
            Of the intervals that decide when to stop.
        nested
            Unions of groups, for Owen values. None: those the groups were made with, if any. False: none. A name of their
            parts, ``"variable"``; several, the outermost first; or ``{"union": [group, ...]}``.
        progress
            Whether a bar shows on a terminal.

        Returns
        -------
        xarray.Dataset
            ``attribution`` and ``stderr`` on (group, members, sample[, space]), ``prediction``, ``base_value`` and
            ``residual = prediction - base_value - sum of attribution`` on the same without group, in the units of the
            target; ``rows``, ``dof`` (degrees of freedom of the standard error) and, where it can be said, ``converged`` on
            (members, sample). Lazy where *ds* is lazy. The sample coordinate is that of the inputs at offset 0;
            ``valid_time`` that of the target. :func:`interval` gives the intervals.

        Raises
        ------
        ValueError
            For missing inputs, too many groups for ``"exact"``, too few rows, unknown methods, and predictions that are not
            finite.
        KeyError
            Where *nested* names what is not there.
        """
        from physml.explain.shapley.values import attribute

        return attribute(
            self,
            ds,
            method,
            pairs=pairs,
            tol=tol,
            rtol=rtol,
            max_rows=max_rows,
            batch_rows=batch_rows,
            seed=seed,
            level=level,
            nested=nested,
            progress=progress,
        )

    def interactions(self, ds: xr.Dataset, method: str | Estimator = "auto", **settings: Any) -> xr.Dataset:
        """Return what pairs of groups contribute together, and each alone, to every prediction.

        Parameters
        ----------
        ds
            Samples to explain, as in :meth:`shapley`.
        method
            ``"exact"``: all coalitions. ``"paths"``: random orders in which every two groups are neighbours once. ``"auto"``:
            exact where :meth:`shapley` would be. Or an estimator.
        **settings
            ``pairs`` (sets of orders, each of about ``2 G^2`` model rows; default 16), ``tol``, ``rtol``, ``max_rows``,
            ``batch_rows``, ``seed``, ``level`` and ``progress``, as in :meth:`shapley`.

        Returns
        -------
        xarray.Dataset
            As of :meth:`shapley`, with ``attribution`` and ``stderr`` on (group, group_other, members, sample[, space]): half
            the Shapley interaction index (Grabisch and Roubens 1999, doi:10.1007/s001820050125) of two groups, and on the
            diagonal what is left of each Shapley value, so that sums over ``group_other`` are the Shapley values.
        """
        from physml.explain.shapley.interactions import interact

        return interact(self, ds, method, **settings)

    def gradients(self, ds: xr.Dataset, kind: str = "integrated", **settings: Any) -> xr.Dataset:
        """Return attributions cell by cell; see :func:`physml.explain.gradients.attribute`.

        Parameters
        ----------
        ds
            Samples to explain.
        kind
            ``"saliency"``, ``"smoothgrad"``, ``"input_x_gradient"``, ``"integrated"``, ``"expected"``, ``"grad_cam"``, ``"lrp"``;
            ``"occlusion"`` by patches of cells, or by group, which needs no derivative.
        **settings
            Of the kind, and ``batch_rows``; an unknown one is refused with the list of those there are.

        Examples
        --------
        >>> maps = explainer.gradients(ds, "integrated", tol=1e-3)  # doctest: +SKIP
        >>> maps = explainer.gradients(ds, "integrated", kinks={"sst": [-1.8]})  # freezing  # doctest: +SKIP
        >>> by_group = explainer.groups.sum(maps)  # doctest: +SKIP
        """
        from physml.explain.gradients import attribute

        return attribute(self, ds, kind, **settings)

    def backward_optimisation(
        self, start: xr.Dataset, aim: str | float = "greatest", *, background: xr.Dataset, **settings: Any
    ) -> xr.Dataset:
        """Return the nearest inputs that make the target great, small, or a value; see :mod:`physml.explain.inputs.optimal`."""
        from physml.explain.inputs.optimal import backward_optimisation

        return backward_optimisation(self, start, aim, background=background, **settings)
