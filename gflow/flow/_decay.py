"""Weight decay as the flow takes it: a rate for every leaf, checked, constant or λ(t)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._arguments import leaf_names
from ..parameters._base import Constant
from ..programs._closure import Traced
from ._callables import (
    traced_rate,
)

Decay = float | Callable[[Any], Any] | Mapping[str, Any]
# in a batch one number for each member as well
BatchDecay = Decay | ArrayLike | Sequence[float]


def decay_rate(rate, t, dtype) -> Float[Array, ""]:
    if rate is None:
        return jnp.zeros((), dtype)
    if isinstance(rate, Constant):
        return jnp.asarray(rate.value, dtype)
    return rate(jnp.asarray(t, dtype))


@eqx.filter_jit
def sampled(rate: Traced, times: Float[Array, " times"]) -> Float[Array, " times"]:
    """λ(t) at many times."""
    return jax.lax.map(rate, times)


def traced_rates(
    rates: tuple[Any, ...], names: tuple[str, ...], dtype: Any
) -> tuple[Constant | Traced | None, ...]:
    made: dict[int, Traced] = {}  # one function may be the decay of many leaves
    for name, rate in zip(names, rates, strict=True):
        if callable(rate) and id(rate) not in made:
            made[id(rate)] = traced_rate(rate, dtype, name)
    return tuple(made.get(id(rate), rate) for rate in rates)


def decay_rates(decay: BatchDecay, names: tuple[str, ...], members: int | None) -> tuple[Any, ...]:
    if isinstance(decay, Mapping):
        leaf_names("decay", decay, names)
        return tuple(_checked_rate(decay.get(name, 0.0), name, members) for name in names)
    return tuple(_checked_rate(decay, "every leaf", members) for _ in names)


def _checked_rate(rate: Any, name: str, members: int | None) -> Constant | Callable | None:
    if callable(rate):
        return rate
    try:
        value = np.asarray(rate, float)
    except (TypeError, ValueError):
        raise ValueError(
            f"decay = {rate!r} for {name}: it is a number, a function of time, or "
            "{leaf name: one of these}."
        ) from None
    allowed = ((),) if members is None else ((), (members,))
    if value.shape not in allowed:
        raise ValueError(
            f"decay for {name} has shape {value.shape}: it is a number, a function of time"
            + (f", or one number for each of the {members} members." if members else ".")
        )
    if not np.all((value >= 0.0) & np.isfinite(value)):
        raise ValueError(
            f"decay = {rate} for {name}: the rate λ of (λ/2)‖factors‖² must be finite and ≥ 0."
        )
    if not np.any(value):
        return None
    return Constant(value if members is None else np.broadcast_to(value, (members,)))
