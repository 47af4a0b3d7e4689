"""Functions made of gflow's own classes alone: they compute the same whenever they look the same.

What a user writes is traced in every call, for it may read anything. A model and an objective of
gflow read their fields, so that their program is found by these, without tracing them again.
"""

import dataclasses
from collections.abc import Hashable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from ._key import Same

#: Settings of JAX that a program depends on.
_SETTINGS = (
    "jax_enable_x64", "jax_default_matmul_precision", "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
)  # fmt: skip


def own(function: Any, like: tuple) -> Hashable | None:
    """A key of `function` of arguments like these, None where something in it is not gflow's."""
    try:
        seen = _described(function)
    except _Foreign:
        return None
    leaves, tree = jax.tree.flatten(like)
    shapes = tuple((x.shape, x.dtype, getattr(x, "weak_type", False)) for x in leaves)
    return seen, tree, shapes, tuple(getattr(jax.config, name) for name in _SETTINGS)


class _Foreign(Exception):
    """Something that may read more than its fields."""


def _described(x: Any) -> Hashable:
    kind = type(x)
    if x is None or kind in (bool, int, str, bytes):
        return kind, x
    if kind is float:
        return kind, x.hex()
    if isinstance(x, np.dtype):
        return kind, x
    if kind in (tuple, list):
        return kind, tuple(map(_described, x))
    if kind is dict and all(type(name) is str for name in x):
        return kind, tuple((name, _described(y)) for name, y in x.items())
    if isinstance(x, type) and _ours(x):
        return type, x
    if _ours(kind) and (isinstance(x, eqx.Module) or dataclasses.is_dataclass(kind)):
        return kind, _written(kind), tuple((name, _described(y)) for name, y in vars(x).items())
    raise _Foreign


def _written(kind: type) -> Hashable:
    """What stands in the bodies of a class and those above it: somebody may change a method."""
    ours = [k for k in kind.__mro__ if _ours(k)]
    return tuple(
        Same(x) for k in ours for x in vars(k).values() if callable(x) or isinstance(x, property)
    )


def _ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "gflow"
