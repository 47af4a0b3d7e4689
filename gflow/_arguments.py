"""What the public functions are given, checked in one place."""

import difflib
import operator
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

T = TypeVar("T")


def number(name: str, value: Any, what: str) -> float:
    """`value` as a float. **Raises:** ValueError naming the argument and `what` it is."""
    shape = np.shape(value) if not isinstance(value, str | bytes | dict) else None
    if shape is None or np.asarray(value).dtype.kind not in "iuf":
        raise ValueError(f"{name} = {value!r} is no number: {what}.")
    if shape != ():
        raise ValueError(
            f"{name} = {value!r} has shape {shape}: {what}, one number. Many runs at once are for "
            "gflow.simulate_batch."
        )
    return float(np.asarray(value))


def count(name: str, value: Any, what: str) -> int:
    """`value` as an integer of at least 1. **Raises:** ValueError as `number`."""
    try:
        found = operator.index(value)
    except TypeError:
        found = 0
    if isinstance(value, bool) or found < 1:
        raise ValueError(f"{name} = {value!r}: {what}, an integer of at least 1.")
    return found


def numbers(name: str, value: Any, what: str) -> np.ndarray:
    """`value` as an array of floats. **Raises:** ValueError as `number`."""
    try:
        found = np.asarray(value)
    except ValueError:  # a ragged list
        found = np.asarray(None)
    if found.dtype.kind not in "iuf" and found.size:
        raise ValueError(f"{name} = {value!r} is no array of numbers: {what}.")
    return found.astype(float)


def instance(name: str, value: Any, kind: type[T], what: str) -> T:
    """`value`, if it is a `kind`. **Raises:** ValueError that says `what` makes one."""
    if not isinstance(value, kind):
        raise ValueError(
            f"{name} is {value!r:.200}, of {type(value)}; a {kind.__name__} is needed: {what}."
        )
    return value


def leaf_names(name: str, given: Iterable[Any], leaves: Sequence[str]) -> None:
    """**Raises:** ValueError where an argument by leaf names one that is not trained."""
    for key in given:
        if key not in leaves:
            near = difflib.get_close_matches(str(key), leaves, n=3) or list(leaves)
            raise ValueError(
                f"{name} names leaf {key!r}, which this model does not train. "
                f"Did you mean one of {near}?"
            )


def file_path(value: Any) -> Path:
    """`value` as a path. **Raises:** ValueError for what is no name of a file."""
    try:
        return Path(value)
    except TypeError:
        raise ValueError(f"path = {value!r} is no name of a file. Give one like run.nc.") from None


def random_key(value: Any) -> Any:
    """`value`, if it is a key of JAX. **Raises:** ValueError that says how to make one."""
    dtype = getattr(value, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and not (dtype == np.uint32 and np.shape(value)[-1:] == (2,)):
        raise ValueError(f"key = {value!r} is no random key: pass jax.random.key(seed).")
    return value


def lengths(name: str, value: Any) -> tuple[int, ...]:
    """A shape, from integers of at least 0 or one of them. **Raises:** ValueError for others."""
    given = value if isinstance(value, tuple | list) else (value,)
    try:
        found = tuple(operator.index(n) for n in given)
    except TypeError:
        found = (-1,)
    if any(n < 0 for n in found):
        raise ValueError(f"{name} = {value!r} is no shape: give lengths, such as (3, 4).")
    return found
