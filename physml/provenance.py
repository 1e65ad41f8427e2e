"""Units and origin: what everything that is written carries about itself."""

from __future__ import annotations

import datetime
import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import xarray as xr

from physml._errors import describe


def package_version() -> str:
    """Return the version of the installed physml."""
    try:
        return version("physml")
    except PackageNotFoundError:
        return "unknown"


def digest(config: Any) -> str:
    """Return the SHA-256 of a configuration, whatever the order of its keys.

    Examples
    --------
    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()


def record(config: Any = None, **entries: str) -> dict[str, str]:
    """Return the provenance of a run: version, time, digest of its configuration and what else is given."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    made = {"physml_version": package_version(), "created": now, **entries}
    if config is not None:
        made["config_sha256"] = digest(config)
    return made


def stamp(ds: xr.Dataset, action: str, entries: dict[str, str] | None = None) -> xr.Dataset:
    """Return *ds* with CF conventions, its history continued by *action*, and the given provenance as attributes."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    line = f"{now} physml {package_version()}: {action}"
    attrs = dict(ds.attrs)
    attrs.setdefault("Conventions", "CF-1.11")
    attrs["history"] = f"{attrs['history']}\n{line}" if attrs.get("history") else line
    for key, value in (entries or {}).items():
        attrs[key if key.startswith("physml_") else f"physml_{key}"] = value
    return ds.assign_attrs(attrs)


def parse_units(units: str) -> Any:
    """Return the pint unit of a CF unit string.

    Raises
    ------
    ValueError
        Where the string is no unit.
    """
    import warnings

    with warnings.catch_warnings():
        # Its units also offer themselves to matplotlib, and warn where that is not installed.
        warnings.simplefilter("ignore")
        import cf_xarray.units

    try:
        return cf_xarray.units.units.parse_units(units)
    except Exception as error:  # pint raises half a dozen unrelated classes for a bad string
        raise ValueError(
            describe(
                f"units {units!r} cannot be read",
                expected="CF units such as 'kg m-3', 'degC' or '1'",
                received=repr(units),
                remedy="correct attrs['units']",
            )
        ) from error


def same_units(a: str, b: str) -> bool:
    """Tell whether two CF unit strings mean the same unit ("m/s" and "m s-1", "hPa" and "mbar"), scale and offset included.

    Examples
    --------
    >>> same_units("m/s", "m s-1"), same_units("degC", "K")
    (True, False)
    """
    if a == b:
        return True
    left, right = parse_units(a), parse_units(b)
    if left.dimensionality != right.dimensionality:
        return False
    ends = [[unit._REGISTRY.Quantity(x, unit).to_root_units().magnitude for x in (0.0, 1.0)] for unit in (left, right)]
    return bool(np.allclose(ends[0], ends[1], rtol=1e-9, atol=1e-9 * abs(ends[0][1] - ends[0][0])))


def units_ratio(a: str, b: str) -> Any:
    """Return by how much a change of one *a* exceeds a change of one *b*, as a pint quantity in base units.

    Examples
    --------
    >>> print(units_ratio("K d-1", "degC").to("1/d"))
    1.0 / day
    """
    changes = []
    for unit in (parse_units(a), parse_units(b)):
        quantity = unit._REGISTRY.Quantity
        changes.append((quantity(1.0, unit) - quantity(0.0, unit)).to_root_units())
    return changes[0] / changes[1]
