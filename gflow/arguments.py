"""Numbers among the arguments of the public functions, checked in one place."""

import operator
from typing import Any

import numpy as np


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
