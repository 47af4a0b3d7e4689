"""Minibatches of an objective that holds its data."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ..flow._callables import LossOf, Skeleton, arrays_of, is_array
from ..flow._flow import Flow
from ..programs._closure import Traced, traced


class Batches(eqx.Module):
    """Minibatches of an objective's data; `factor` makes their gradient unbiased.

    `objective`: the program of a minibatch; `places`: of inputs and targets among its data.
    """

    key: Array
    factor: Float[Array, ""]
    objective: Traced
    size: int = eqx.field(static=True)
    places: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, flow: Flow, step: Int[Array, ""]) -> Flow:
        """`flow` with the loss of the examples drawn for this step."""
        key = jax.random.fold_in(self.key, step)
        count = flow.data[self.places[0]].shape[0]
        index = jax.random.choice(key, count, (self.size,), replace=False)
        data = [x[index] if i in self.places else x for i, x in enumerate(flow.data)]
        return dataclasses.replace(flow, data=[self.factor, *data], objective=self.objective)


def make_batches(
    flow: Flow, model: PyTree, objective: Any, batch: int | None, key: Any
) -> Batches | None:
    if batch is None:
        if key is not None:
            raise ValueError("key= draws minibatches: give batch=, their size, as well.")
        return None
    if key is None:
        raise ValueError(f"batch = {batch} needs a key: pass key=jax.random.key(0).")
    if not (eqx.is_array(key) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0):
        raise ValueError(f"key = {key!r} is not one typed key: pass key=jax.random.key(0).")
    given = [getattr(objective, name) for name in _names(objective)]
    if len(given) != 2 or not all(is_array(x) and x.ndim > 0 for x in given):
        raise ValueError(
            f"batch = {batch} draws examples from the leading axis of objective.inputs and "
            f"objective.targets (or .labels), which {type(objective).__name__} does not have. Use "
            "one of gflow.objectives or a module with these two arrays."
        )
    places = _places(objective)
    count = flow.data[places[0]].shape[0]
    if not 1 <= batch <= count:
        raise ValueError(f"batch = {batch}: choose from 1 to {count}, the number of examples.")
    alone = _program(flow, model, objective, places, 1)
    total, single = _losses(flow, alone, places)
    if np.isclose(np.mean(single), total, rtol=1e-4):
        factor = 1.0
    elif np.isclose(np.sum(single), total, rtol=1e-4):
        factor = count / batch
    else:
        raise ValueError(
            f"{type(objective).__name__} is {float(total):.6g} on all examples, neither the mean "
            f"nor the sum of its values on single ones ({float(np.mean(single)):.6g} and "
            f"{float(np.sum(single)):.6g}): a minibatch would give a biased gradient."
        )
    program = _program(flow, model, objective, places, batch)
    return Batches(key, jnp.asarray(factor, total.dtype), program, batch, places)


def _names(objective: Any) -> list[str]:
    """Of the fields that hold one entry an example."""
    names = [n for n in ("inputs", "targets", "labels") if hasattr(objective, n)]
    return names[:2] if "inputs" in names else []


def _places(objective: Any) -> tuple[int, ...]:
    """Of inputs and targets among the arrays that the objective holds."""
    names = _names(objective)
    marked = eqx.tree_at(lambda o: [getattr(o, n) for n in names], objective, [_Mark, _Mark])
    leaves = [x for x in jax.tree.leaves(marked) if is_array(x) or x is _Mark]
    return tuple(i for i, x in enumerate(leaves) if x is _Mark)


class _Mark:
    """In the place of data."""


def _program(
    flow: Flow, model: PyTree, objective: Any, places: tuple[int, ...], size: int
) -> Traced:
    """A multiple of the loss of `size` examples, as a program of [factor, *data]."""
    loss = LossOf(Skeleton.of(model)[0], arrays_of(objective)[1], jnp.float32)

    def some(data, others, weights):
        return data[0] * loss(data[1:], others, weights)

    weights = eqx.filter_eval_shape(lambda flow: flow.weights(flow.start()), flow)
    value = eqx.filter_eval_shape(lambda flow, weights: flow.loss(weights), flow, weights)
    data = [
        jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) if i in places else x
        for i, x in enumerate(flow.data)
    ]
    return traced(some, [value, *data], flow.others, weights, what="The objective of a minibatch")


@eqx.filter_jit
def _losses(flow: Flow, alone: Traced, places: tuple[int, ...]) -> tuple[Array, Array]:
    """The loss at the start: on all examples, and on each alone."""
    weights = flow.weights(flow.start())
    total = flow.loss(weights)

    def one(*rows):
        drawn = dict(zip(places, (x[None] for x in rows), strict=True))
        data = [drawn.get(i, x) for i, x in enumerate(flow.data)]
        return alone([jnp.ones_like(total), *data], flow.others, weights)

    return total, jax.vmap(one)(*(flow.data[i] for i in places))
