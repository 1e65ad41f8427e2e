"""Units and origin: what everything that is written carries about itself."""

from __future__ import annotations

import datetime
import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

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
    """Tell whether two CF unit strings mean the same unit ("m/s" and "m s-1"), scale and offset included."""
    if a == b:
        return True
    left, right = parse_units(a), parse_units(b)
    return bool(left == right)


def units_ratio(a: str, b: str) -> Any:
    """Return ``a / b`` as a pint unit: ``.dimensionality`` and a factor to base units decide what it is."""
    return parse_units(a) / parse_units(b)
