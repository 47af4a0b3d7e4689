"""What an Optax transformation is called, and the learning rate in it.

Optax builds a transformation from closures: a chain keeps its parts, and the last part of most
optimisers multiplies by minus the learning rate. What is not recognised here has no name and no
known rate; nothing is guessed.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

#: Optimisers of Optax with a name; of two with the same parts the first.
_NAMED = (
    "sgd", "adam", "adamw", "adamax", "adamaxw", "amsgrad", "adabelief", "adagrad", "adadelta",
    "rmsprop", "lion", "lamb", "radam", "yogi", "novograd", "adan", "sm3", "sign_sgd", "lbfgs",
    "optimistic_gradient_descent",
)  # fmt: skip


class Part(NamedTuple):
    """A stage of a chain: the function that made it, and what that closed over."""

    name: str
    closure: dict[str, Any]


def parts(update: Callable) -> list[Part]:
    """The stages of a transformation, those of chains within chains one after the other."""
    name = getattr(update, "__qualname__", "").split(".<locals>")[0].split(".")[0]
    code, cells = getattr(update, "__code__", None), getattr(update, "__closure__", None)
    names = () if code is None else code.co_freevars
    closure: dict[str, Any] = {n: c.cell_contents for n, c in zip(names, cells or (), strict=True)}
    if not getattr(update, "__module__", "").startswith("optax."):
        return [Part(name, {})]
    if name == "with_extra_args_support" and "tx" in closure:
        return parts(closure["tx"].update)
    if name == "chain" and "update_fns" in closure:
        return [part for function in closure["update_fns"] for part in parts(function)]
    if name == "named_chain" and "transforms" in closure:
        return [part for _, t in closure["transforms"] for part in parts(t.update)]
    if name == "inject_hyperparams" and "inner_factory" in closure:
        return [Part(getattr(closure["inner_factory"], "__name__", name), {})]
    return [Part(name, closure)]


def rate_of(optimizer: optax.GradientTransformation) -> float | Callable[[Any], Any] | None:
    """The learning rate by which an optimiser multiplies in the end; None if that is not seen.

    It is the product of the scales that the chain ends with, numbers and schedules.
    """
    scales: list[Any] = []
    for part in reversed(parts(optimizer.update)):
        if part.name == "scale" and "step_size" in part.closure:
            scales.append(part.closure["step_size"])
        elif part.name == "scale_by_schedule" and "step_size_fn" in part.closure:
            scales.append(part.closure["step_size_fn"])
        elif part.name != "identity":
            break
    schedules: list[Callable[[Any], Any]] = [x for x in scales if callable(x)]
    numbers = [x for x in scales if isinstance(x, int | float)]
    if not scales or len(numbers) + len(schedules) < len(scales):
        return None
    factor = -math.prod(numbers)
    if schedules:
        return lambda step: math.prod([f(step) for f in schedules], start=factor)
    # a bare change of sign is no rate, but for one of these that was made with a rate of 1
    alone = factor == 1.0 and name_of(optimizer) not in _NAMED
    return factor if factor > 0.0 and not alone else None


def name_of(optimizer: optax.GradientTransformation) -> str:
    """What it is called in Optax, stage by stage; "optimizer" where it has no name."""
    names = _stages(optimizer)
    found, i = [], 0
    while i < len(names):
        fitting = [k for k in _known() if tuple(names[i : i + len(k)]) == k]
        best = max(fitting, key=len, default=(names[i],))
        found.append(_known().get(best, best[0]))
        i += len(best)
    known = [name for name in found if name and "<" not in name]
    return " + ".join(known) if len(known) == len(found) else "optimizer"


def _stages(optimizer: optax.GradientTransformation) -> list[str]:
    """The names of the stages, of a learning rate whether it is a number or a schedule."""
    names = [part.name for part in parts(optimizer.update)]
    return ["scale" if name == "scale_by_schedule" else name for name in names]


@functools.cache
def _known() -> dict[tuple[str, ...], str]:
    """Names by their stages, from the optimisers that Optax makes."""
    found: dict[tuple[str, ...], str] = {("trace", "scale"): "sgd with momentum"}
    for name in _NAMED:
        stages = tuple(_stages(getattr(optax, name)(0.1)))
        if stages not in found:
            found[stages] = name
    return found


def told_rate(memory: Any) -> jax.Array | None:
    """The learning rate in the memory of `optax.inject_hyperparams`, or None."""
    found = optax.tree_utils.tree_get_all_with_path(memory, "hyperparams")
    rates = [values["learning_rate"] for _, values in found if "learning_rate" in values]
    return rates[0] if len(rates) == 1 else None
