"""Members over dask: a time step whose batch is shared out among workers, for steps too heavy for one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from physml import _backend
from physml._errors import refuse
from physml.assimilation.steps import Unrolled, _Scheme, evaluate


class OverDask:
    """A time step on blocks of members, in parallel by dask. It cannot be compiled or differentiated.

    Parameters
    ----------
    step
        Any time step; it is sent to each worker once.
    workers
        A ``distributed.Client``; None: dask's threads here.
    dtype
        Of the state that the step sees.
    """

    def __init__(self, step: Callable[..., Any], workers: Any = None, dtype: str = "float64") -> None:
        self.step, self.workers, self.dtype = step, workers, dtype
        if workers is not None and not hasattr(workers, "submit"):
            received = type(workers).__name__
            refuse("the workers are no dask client", "a distributed.Client", received, "Client(n_workers=4)")
        # Wrapped, since distributed has a way of its own with Keras models, older than they are.
        self._sent = None if workers is None else workers.scatter([Sent(step)], broadcast=True, hash=False)[0]

    def __call__(self, state: Any, forcing: Any = None) -> Any:
        """Return the state ``[N, *space, channel]`` one step later."""
        return self.steps(state, 1, None if forcing is None else forcing[None])

    def steps(self, state: Any, count: int, forcing: Any = None) -> Any:
        """Return the state *count* steps later; forcing ``[count, 1 or N, *space, channel]``."""

        def function(x: Any) -> tuple[Any, Callable[..., Any]]:
            found = self._share(ops.convert_to_numpy(x), count, None if forcing is None else np.asarray(forcing))
            return ops.convert_to_tensor(found, x.dtype), _no_gradient

        return _backend.custom_gradient(function)(state)

    def _share(self, x: np.ndarray, count: int, forcing: np.ndarray | None) -> np.ndarray:
        rows = np.array_split(np.arange(len(x)), min(len(x), self._parts()))
        tasks = [
            (x[r], count, None if forcing is None else forcing[:, r if forcing.shape[1] > 1 else [0]], self.dtype)
            for r in rows
        ]
        if self.workers is not None:
            futures = [self.workers.submit(integrate, self._sent, *task, pure=False) for task in tasks]
            return np.concatenate(self.workers.gather(futures))
        import dask

        sent = Sent(self.step)
        delayed = [dask.delayed(integrate, pure=False)(sent, *task) for task in tasks]
        return np.concatenate(dask.compute(*delayed, scheduler="threads"))

    def _parts(self) -> int:
        if self.workers is None:
            import dask.system

            return int(dask.system.CPU_COUNT)
        return max(1, sum(self.workers.nthreads().values()))


class Sent:
    """A time step on its way to a worker; schemes around functions travel in parts, since Keras saves no plain functions."""

    def __init__(self, step: Callable[..., Any]) -> None:
        self.step = step

    def __reduce__(self) -> Any:
        step = self.step
        if not isinstance(step, _Scheme | Unrolled):
            return Sent, (step,)
        inner, number = (step.tendency, step.dt) if isinstance(step, _Scheme) else (step.step, step.n)
        more = {} if isinstance(step, _Scheme) else {"return_sequence": step.return_sequence}
        return _assembled, (type(step), Sent(inner), number, {"dtype": step.dtype_policy.name, **more})


def _assembled(kind: type, inner: Sent, number: Any, options: dict[str, Any]) -> Sent:
    return Sent(kind(inner.step, number, **options))


def integrate(sent: Sent, x: np.ndarray, count: int, forcing: Any, dtype: str) -> np.ndarray:
    """Return members ``[N, *space, channel]`` after *count* steps; what a worker does."""
    with _backend.float64():
        state = ops.convert_to_tensor(x.astype(dtype))
        for i in range(count):
            held = None
            if forcing is not None:
                now = np.broadcast_to(forcing[i], (len(x), *forcing.shape[2:]))
                held = ops.convert_to_tensor(now.astype(dtype))
            state = evaluate(sent.step, state, held)
        return ops.convert_to_numpy(state).astype(x.dtype)


def _no_gradient(*upstream: Any) -> Any:
    what = "members over dask cannot be differentiated"
    refuse(what, "an ensemble method without tangent linear or adjoint", "a derivative", "members_by='batch'")
