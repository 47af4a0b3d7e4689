"""From a model and an objective to their flow: every check, and leaves in their coordinates."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..coordinates._base import movable
from ..coordinates._raw import RawCoordinates
from ..parameters._base import Parameter, Small, is_parameter, trained_leaves
from ..programs import _room as programs
from ..programs._closure import Traced, check_untraced, traced
from . import _schedule as schedule
from ._callables import (
    LossOf,
    Skeleton,
    arrays_of,
    check_objective,
    checked_observables,
    row_of,
    traced_observable,
)
from ._decay import BatchDecay, decay_rate, decay_rates, traced_rates
from ._flow import Flow, Objective
from ._leaves import check_leaves, check_observable_names


def build_flow(
    model: PyTree,
    objective: Objective,
    *,
    decay: BatchDecay = 0.0,
    allow_float32: bool = False,
    allow_frozen_sign: bool = False,
    members: int | None = None,
    shared: bool = True,
) -> Flow:
    """Check `model` and `objective` and put every trained leaf into its coordinates.

    With `members` the model is a batch stacked along a leading axis of that length, and so
    is the objective unless it is `shared`.

    **Raises:** ValueError (with the leaf's name and the remedy) for a model without
    trained leaves, tied weights, float32 state, factors of equal size, an unknown leaf
    in `decay`, a loss that is not a finite scalar.
    """
    programs.room.make()
    check_untraced(model=model, objective=objective, decay=decay)
    check_objective(objective)
    check_leaves(model)
    leaves = trained_leaves(model)
    names = tuple(leaves)
    if not names:
        raise ValueError(
            f"{type(model).__name__} has nothing to train: no Hadamard or Scaled leaf and no "
            "inexact array (Frozen leaves and integer arrays stay)."
        )
    _check_untied(leaves)
    if members is None:
        check_single(leaves)
    rates = decay_rates(decay, names, members)
    for name, leaf in leaves.items():
        check_leaf(name, leaf, allow_float32, allow_frozen_sign)
    trained = [x if is_parameter(x) else jnp.asarray(x) for x in leaves.values()]
    decays = tuple(rate is not None for rate in rates)
    coordinates, weights = _started(names, trained, decays, members is not None)
    like = _rows(weights, members)
    dtype = next(iter(like.values())).dtype
    rates = traced_rates(rates, names, dtype)
    skeleton, others = Skeleton.of(model)
    data, empty = arrays_of(objective)
    rows = data if shared or members is None else row_of(data)
    function = LossOf(skeleton, empty, jnp.float32 if allow_float32 else dtype)
    loss = traced(function, rows, _rows(others, members), like, what="The objective")
    flow = Flow(coordinates, rates, others, data, loss, names)
    if members is None:
        _check_loss(flow)
    return flow


def traced_observables(
    observables: Any, model: PyTree, flow: Flow, members: int | None = None
) -> dict[str, Traced]:
    """Each as a program of the arrays of `model` that stay and the views of its leaves.

    **Raises:** ValueError for what is no mapping of names to functions, and for one that does not
    return numbers.
    """
    functions = checked_observables(observables)
    if not functions:
        return {}
    check_observable_names(functions, model)
    skeleton, others = Skeleton.of(model)
    like = _rows(others, members), _views(flow.coordinates, flow.names, members)
    return {name: traced_observable(f, name, skeleton, *like) for name, f in functions.items()}


def _rows(tree: PyTree, members: int | None) -> PyTree:
    return tree if members is None else row_of(tree)


def _views(coordinates: Any, names: tuple[str, ...], members: int | None) -> dict[str, Any]:
    """Shapes and dtypes of what observables see of one member."""

    def of(coordinates):
        return {n: c.view(c.start()) for n, c in zip(names, coordinates, strict=True)}

    if members is None:
        return eqx.filter_eval_shape(of, coordinates)
    return row_of(eqx.filter_eval_shape(eqx.filter_vmap(of), coordinates))


@eqx.filter_jit
def _started(
    names: tuple[str, ...], leaves: list[Any], decays: tuple[bool, ...], batched: bool
) -> tuple[tuple[Any, ...], dict[str, Array]]:
    """Coordinates of the leaves, and the weights they start at."""

    def of(leaves):
        made = tuple(_coordinates(x, decays) for x, decays in zip(leaves, decays, strict=True))
        return made, {n: c.value(c.start()) for n, c in zip(names, made, strict=True)}

    return jax.vmap(of)(leaves) if batched else of(leaves)


def _coordinates(leaf: Any, decays: bool) -> Any:
    if isinstance(leaf, Parameter):
        return movable(leaf.coordinates(decays))
    return RawCoordinates(leaf, jnp.zeros((), leaf.dtype))


def _check_untied(leaves: Mapping[str, Any]) -> None:
    seen: dict[int, str] = {}
    for name, leaf in leaves.items():
        if id(leaf) in seen:
            raise ValueError(
                f"Leaves {seen[id(leaf)]!r} and {name!r} are the same object. Tied weights "
                "would be trained as two; use one leaf and read it twice in the forward "
                "pass, or copy it if two weights are meant."
            )
        seen[id(leaf)] = name


def check_single(leaves: Mapping[str, PyTree]) -> None:
    """**Raises:** ValueError for a stack of models where one is meant."""
    for name, leaf in leaves.items():
        if isinstance(leaf, Small) and np.ndim(leaf.log_alpha) > 0:
            raise ValueError(
                f"Leaf {name!r} carries {np.shape(leaf.log_alpha)} values of log_alpha: this is a "
                "stack of models (made by eqx.filter_vmap), and one model is meant here. A stack "
                "is for gflow.simulate_batch and theory.gradual_rank.predict_batch."
            )


def check_leaf(name: str, leaf: Any, allow_float32: bool, allow_frozen_sign: bool) -> None:
    arrays = [x for x in jax.tree.leaves(leaf) if eqx.is_inexact_array(x)]
    if empty := [x.shape for x in arrays if x.size == 0]:
        raise ValueError(
            f"Leaf {name!r} has shape {empty[0]}, without any entry. Leave it out of the model, or "
            "hold it in gflow.Frozen."
        )
    dtypes = {np.dtype(x.dtype) for x in arrays}
    if any(np.issubdtype(d, np.complexfloating) for d in dtypes):
        raise ValueError(f"Leaf {name!r} is complex; the flow is of real weights.")
    if not allow_float32 and any(d.itemsize < 8 for d in dtypes):
        raise ValueError(
            f"Leaf {name!r} is {min(dtypes, key=lambda d: d.itemsize)}: stage times from tiny "
            'starts need float64. Call jax.config.update("jax_enable_x64", True) before '
            "building the model, or pass allow_float32=True to accept about 7 digits."
        )
    if isinstance(leaf, Parameter):
        fault = leaf.fault(allow_frozen_sign)
    else:
        fault = None if np.all(np.isfinite(leaf)) else "has NaN or infinite entries."
    if fault is not None:
        raise ValueError(f"Leaf {name!r} {fault}")


def with_schedule(flow: Flow, start: Any, end: Any, rtol: float) -> Flow:
    """The flow with the edges of its decays λ(t) from `start` to `end`, known to `rtol`.

    `start` and `end` are times, or those of all members of a batch.

    **Raises:** ValueError for a λ(t) without an end, or one that is negative, not finite or no
    number in the run.
    """
    rates = zip(flow.names, flow.decay, strict=True)
    schedules = {id(rate): (name, rate) for name, rate in rates if isinstance(rate, Traced)}
    if not schedules:
        return flow
    if end is None:
        raise ValueError(
            f"decay of {[name for name, _ in schedules.values()]} depends on time, so that rest at "
            "one time is not rest for ever. Give t1 or tau1."
        )
    start, end = float(np.min(start)), float(np.max(end))
    found = []
    for name, rate in schedules.values():
        at = functools.partial(decay_rate, rate, dtype=flow.dtype)
        found.append(schedule.edges(at, name, start, end, 0.01 * rtol))
    times = np.unique(np.concatenate(found))
    room = 1 << max(len(times).bit_length(), 4)  # compiled once for numbers up to a power of two
    padded = np.concatenate([times, np.full(room - len(times), np.inf)])
    return dataclasses.replace(flow, edges=jnp.asarray(padded, flow.dtype))


@eqx.filter_jit
def _first_forces(flow: Flow) -> tuple[Float[Array, ""], dict[str, Array]]:
    return flow.forces(flow.weights(flow.start()))


def _check_loss(flow: Flow) -> None:
    loss, forces = _first_forces(flow)
    bad = [name for name, force in forces.items() if not np.all(np.isfinite(force))]
    if not np.isfinite(loss) or bad:
        what = f"is {float(loss)}" if not np.isfinite(loss) else f"has no finite gradient in {bad}"
        raise ValueError(
            f"The loss at the start {what}. Check inputs and targets for NaN and the model "
            "for operations undefined at (almost) zero weights, such as a norm or a division."
        )
