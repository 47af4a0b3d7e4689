"""Minibatches of an objective that holds its data."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .flow import Flow


class Batches(eqx.Module):
    """Minibatches of an objective's data; `factor` makes their gradient unbiased."""

    key: Array
    factor: Float[Array, ""]
    size: int = eqx.field(static=True)

    def __call__(self, objective: Any, step: Int[Array, ""]) -> Callable[[Any], Array]:
        key = jax.random.fold_in(self.key, step)
        count = objective.inputs.shape[0]
        index = jax.random.choice(key, count, (self.size,), replace=False)
        some = _with_data(objective, objective.inputs[index], objective.targets[index])
        return lambda model: self.factor * some(model)


def _with_data(objective: Any, inputs: Array, targets: Array) -> Any:
    return eqx.tree_at(lambda o: (o.inputs, o.targets), objective, (inputs, targets))


def _has_examples(data: Any) -> TypeGuard[Array]:
    return eqx.is_array(data) and data.ndim > 0


def make_batches(flow: Flow, batch: int | None, key: Any) -> Batches | None:
    if batch is None:
        if key is not None:
            raise ValueError("key= draws minibatches: give batch=, their size, as well.")
        return None
    if key is None:
        raise ValueError(f"batch = {batch} needs a key: pass key=jax.random.key(0).")
    if not (eqx.is_array(key) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0):
        raise ValueError(f"key = {key!r} is not one typed key: pass key=jax.random.key(0).")
    objective = flow.objective
    inputs, targets = (getattr(objective, name, None) for name in ("inputs", "targets"))
    if not (_has_examples(inputs) and _has_examples(targets)):
        raise ValueError(
            f"batch = {batch} draws examples from the leading axis of objective.inputs and "
            f"objective.targets, which {type(objective).__name__} does not have. Use "
            "gflow.objectives.SquaredLoss or a module with these two arrays."
        )
    count = inputs.shape[0]
    if not 1 <= batch <= count:
        raise ValueError(f"batch = {batch}: choose from 1 to {count}, the number of examples.")
    total, single = _losses(flow)
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
    return Batches(key, jnp.asarray(factor, total.dtype), batch)


@eqx.filter_jit
def _losses(flow: Flow) -> tuple[Array, Array]:
    """The loss at the start: on all examples, and on each alone."""
    weights = flow.weights(flow.start())

    def alone(x, y):
        objective = _with_data(flow.objective, x[None], y[None])
        return dataclasses.replace(flow, objective=objective).loss(weights)

    return flow.loss(weights), jax.vmap(alone)(flow.objective.inputs, flow.objective.targets)
