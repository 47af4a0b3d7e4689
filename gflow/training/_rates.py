"""Learning rates of a run, and the time axis t = Σ η that they make."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._arguments import leaf_names
from ..programs._closure import Traced, traced

# a float, a Callable[[Any], Any] of the step, or for gradient descent {leaf name: one of these};
# anything else is refused in a sentence
LearningRate = Any

#: Steps at which a schedule is looked at in one call.
_BLOCK = 2**16


class Rate(eqx.Module):
    """η of every step: one number, or a program of the step."""

    value: Float[Array, ""] | Traced
    #: What steps are counted in (Optax counts in int32, and may round its rates accordingly).
    counter: Any = eqx.field(static=True)

    @property
    def constant(self) -> bool:
        return not isinstance(self.value, Traced)

    @property
    def number(self) -> float:
        """The one rate of all steps; NaN of a schedule."""
        return math.nan if isinstance(self.value, Traced) else float(self.value)

    def __call__(self, step: Int[Array, ""]) -> Float[Array, ""]:
        if isinstance(self.value, Traced):
            return jnp.asarray(self.value(step.astype(self.counter)))
        return self.value

    def __str__(self) -> str:
        return f"{self.number:g}" if self.constant else "by a schedule"


def make_rate(
    given: LearningRate, what: str, dtype: Any, *, counter: Any = None, least: str = ">"
) -> Rate:
    """**Raises:** ValueError for what is neither a number above 0 nor a schedule.

    `least`: ">=" where a rate of 0 is one too.
    """
    counter = np.dtype(counter or jax.dtypes.canonicalize_dtype(np.int64))
    if callable(given):
        return Rate(_schedule(given, what, dtype, counter), counter)
    real = np.asarray(given).dtype.kind in "iuf" if np.shape(given) == () else False
    if not real:
        raise ValueError(
            f"{what} = {given!r} must be a number above 0, or a schedule: a function of the step, "
            "such as those of Optax."
        )
    value = float(given)
    if not math.isfinite(value) or value < 0.0 or (least == ">" and value == 0.0):
        bound = "of at least 0" if least == ">=" else "above 0"
        raise ValueError(f"{what} = {given} must be a finite number {bound}.")
    return Rate(jnp.asarray(value, dtype), counter)


def _schedule(given: Callable, what: str, dtype: Any, counter: Any) -> Traced:
    def at(step):
        # schedules of Optax mix integers and floats
        with jax.numpy_dtype_promotion("standard"):
            value = given(step)
        number = isinstance(value, int | float | jax.Array | np.ndarray | np.generic)
        if not number or np.shape(value) != () or jnp.iscomplexobj(value):
            raise ValueError(
                f"{what} returned {value!r} for one step: a schedule returns one number, the rate "
                "of that step. For rates that differ from leaf to leaf pass a dictionary, "
                "{leaf name: rate or schedule}."
            )
        return jnp.asarray(value).astype(dtype)

    return traced(at, jax.ShapeDtypeStruct((), counter), what=what)


def check_rates(rate: Rate, what: str, first: int, steps: int) -> None:
    """**Raises:** ValueError where a schedule is negative or not finite in the run."""
    if rate.constant:
        return
    for begin in range(first, first + steps, _BLOCK):
        count = min(_BLOCK, first + steps - begin)
        room = 1 << (count - 1).bit_length()  # compiled once for numbers up to a power of two
        index = np.minimum(begin + np.arange(room), begin + count - 1)
        found = np.asarray(_over(rate, jnp.asarray(index)))
        bad = np.flatnonzero(~(np.isfinite(found) & (found >= 0.0)))
        if bad.size:
            i = bad[0]
            raise ValueError(
                f"{what} is {found[i]} at step {begin + i} of the run: a learning rate is finite "
                "and at least 0."
            )


@eqx.filter_jit
def _over(rate: Rate, steps: Int[Array, " steps"]) -> Float[Array, " steps"]:
    return jax.vmap(rate)(steps)


def leaf_rates(given: Any, names: tuple[str, ...], dtype: Any) -> tuple[Rate, ...]:
    """One rate a leaf. **Raises:** ValueError for names that are no leaves, or are lacking."""
    if not isinstance(given, Mapping):
        return (make_rate(given, "learning_rate", dtype),) * len(names)
    leaf_names("learning_rate", given, names)
    if lacking := [name for name in names if name not in given]:
        raise ValueError(
            f"learning_rate says nothing of {lacking}: give each leaf its rate (0 keeps it still)."
        )
    made: dict[int, Rate] = {}  # one schedule may be that of many leaves
    for name in names:
        rate, what = given[name], f"learning_rate[{name!r}]"
        if id(rate) not in made:
            made[id(rate)] = make_rate(rate, what, dtype, least=">=")
    rates = tuple(made[id(given[name])] for name in names)
    if all(r.number == 0.0 for r in rates):
        raise ValueError("learning_rate is 0 on every leaf, so that nothing would move.")
    return rates


def common(rates: tuple[Rate, ...]) -> Rate | None:
    """The one rate of all leaves, or None."""
    first = rates[0]
    if all(r is first for r in rates):
        return first
    return first if all(r.number == first.number for r in rates) else None


class Axis(eqx.Module):
    """The time of a step: origin + rate·(step − since), a sum of rates, or the count of steps.

    `rate` None: the optimiser tells it with every step (`told`), or nothing does.
    """

    origin: Float[Array, ""]
    since: Int[Array, ""]
    rate: Rate | None
    told: bool = eqx.field(static=True)

    @property
    def known(self) -> bool:
        """Whether t is a flow time and not a number of steps."""
        return self.told or self.rate is not None

    def time(self, total: Float[Array, ""], step: Int[Array, ""]) -> Float[Array, ""]:
        """The time after `step` steps; `total` is what `after` has added up."""
        count = (step - self.since).astype(total.dtype)
        if self.rate is not None and self.rate.constant:
            return self.origin + self.rate(step).astype(total.dtype) * count
        return total if self.known else self.origin + count

    def after(self, total: Float[Array, ""], step: Int[Array, ""], told: Any) -> Float[Array, ""]:
        """The sum of rates with that of step number `step`, which may have been `told`."""
        rate = told if self.rate is None else self.rate(step)
        return total if rate is None else total + rate.astype(total.dtype)
