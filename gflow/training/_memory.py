"""What a run of discrete steps hands on to the run that continues it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


@dataclasses.dataclass(frozen=True, eq=False)
class Training:
    """Where a run of discrete steps stands: weights in its coordinates, memory, step and time.

    `made` steps since the first run, at `time`, which is a flow time if it is `timed`. A rate that
    has been one number (`rate`, else NaN) has counted time from `origin` at step `since`.
    `settings` is a digest of what a checkpoint was trained with.
    """

    what: str
    made: int
    time: float
    timed: bool
    rate: float
    origin: float
    since: int
    arrays: list[np.ndarray]
    settings: str = ""

    @classmethod
    def of(cls, place: PyTree, **numbers: Any) -> "Training":
        return cls(arrays=[_plain(x) for x in jax.tree.leaves(place)], **numbers)

    def place(self, like: PyTree, what: str) -> PyTree:
        """The arrays in the structure of `like`.

        **Raises:** ValueError where they are those of another rule or model.
        """
        leaves, treedef = jax.tree.flatten(like)
        shapes = [(x.shape, x.dtype) for x in map(_plain, leaves)]
        if [(x.shape, x.dtype) for x in self.arrays] != shapes:
            raise ValueError(
                f"The run in resume= was trained by {self.what} and this one is by {what}, on "
                "weights or with a memory of another shape. Continue with the rule of that run, or "
                "start anew from resume.final without resume=."
            )
        pairs = zip(self.arrays, leaves, strict=True)
        return jax.tree.unflatten(treedef, [_like(x, y) for x, y in pairs])

    def numbers(self) -> dict[str, Any]:
        """All but the arrays, for a file."""
        fields = dataclasses.fields(self)
        return {f.name: getattr(self, f.name) for f in fields if f.name != "arrays"}


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _plain(x: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(x) if _is_key(x) else x)


def _like(x: np.ndarray, y: Any) -> Any:
    if _is_key(y):
        return jax.random.wrap_key_data(jnp.asarray(x), impl=jax.random.key_impl(y))
    return jnp.asarray(x)
