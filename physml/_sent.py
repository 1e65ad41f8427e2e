"""Objects sent to another process: made once there, and the last of them kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

KEPT = 4
"""Objects of a kind that are kept: a worker that lives long does not collect models."""


class Sent:
    """Objects of one kind that came from other processes, by what they are known by there."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}
        self._making = threading.Lock()

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the object of a key, made if it is not there."""
        with self._making:
            if key not in self._made:
                self._made[key] = make()
                for old in list(self._made)[:-KEPT]:
                    del self._made[old]
            return self._made[key]
