"""Names of leaves and observables as NetCDF takes them, and back."""

from typing import Any


def written_name(name: Any) -> str:
    """A name that is not empty and has no slash, which NetCDF takes for a group."""
    return str(name).replace("%", "%25").replace("/", "%2F") or "%"


def read_name(name: Any) -> str:
    """What `written_name` was given."""
    return "" if name == "%" else str(name).replace("%2F", "/").replace("%25", "%")
