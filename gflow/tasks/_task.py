"""What every task has, and checks that tasks share."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..objectives._squared import SquaredLoss


class Task(eqx.Module):
    """Inputs, targets and the loss on them."""

    inputs: eqx.AbstractVar[Float[Array, "examples ..."]]
    targets: eqx.AbstractVar[Float[Array, "examples ..."]]

    @property
    @abc.abstractmethod
    def objective(self) -> SquaredLoss:
        """Squared loss on all examples."""


def floats(x: Any) -> Array:
    return jnp.asarray(x, jnp.result_type(float))


def check_count(name: str, value: int, lowest: int, highest: int | None = None) -> None:
    if value < lowest or (highest is not None and value > highest):
        bounds = f"at least {lowest}" if highest is None else f"from {lowest} to {highest}"
        raise ValueError(f"{name} = {value}: choose {bounds}.")


def evenly(name: str, count: int | None, total: int) -> Int[np.ndarray, " count"]:
    """`count` places of `total`, evenly spaced; None for all."""
    count = total if count is None else count
    check_count(name, count, 1, total)
    return np.arange(count) * total // count


def scikit_data(task: str) -> Any:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            f"The {task} data come with scikit-learn, which is not installed: "
            "pip install scikit-learn."
        ) from error
    return datasets


def generator(key: PRNGKeyArray) -> np.random.Generator:
    """NumPy's generator of a typed key, for what is drawn one by one."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).astype(np.uint32).tolist())
