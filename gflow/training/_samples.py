"""The objective of every step: rows drawn from the data of one, or a sampler's own."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from ..flow._callables import LossOf, Skeleton, arrays_of, is_array, with_arrays
from ..flow._flow import Flow
from ..programs._closure import Traced, traced

# an int, or a Callable[[objective, key, step], objective]; else refused in a sentence
Batch = Any


class Batches(eqx.Module):
    """The flow of every step. `objective` is a program of a key, the step and the data."""

    key: Array
    objective: Traced
    described: str = eqx.field(static=True)

    def __call__(self, flow: Flow, step: Int[Array, ""]) -> Flow:
        """`flow` with the loss that is drawn for this step."""
        key = jax.random.fold_in(self.key, step)
        return dataclasses.replace(flow, data=[key, step, *flow.data], objective=self.objective)


def make_batches(
    flow: Flow, model: PyTree, objective: Any, batch: Batch | None, key: Any
) -> Batches | None:
    """**Raises:** ValueError for a size that the data have not, and without a key."""
    if batch is None:
        if key is not None:
            raise ValueError("key= draws minibatches: give batch=, their size, as well.")
        return None
    if not callable(batch) and (isinstance(batch, bool) or not hasattr(batch, "__index__")):
        raise ValueError(
            f"batch = {batch!r}: give the number of examples of a minibatch, or a sampler, a "
            "function (objective, key, step) -> objective."
        )
    size = getattr(batch, "__name__", type(batch).__name__) if callable(batch) else batch
    if key is None:
        raise ValueError(f"batch = {size} needs a key: pass key=jax.random.key(0).")
    if not (eqx.is_array(key) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0):
        raise ValueError(f"key = {key!r} is not one typed key: pass key=jax.random.key(0).")
    if callable(batch):
        return Batches(key, _sampled(flow, model, objective, batch), "batches of a sampler")
    program = _rows(flow, model, objective, int(batch))
    return Batches(key, program, f"minibatches of {batch}")


def _sampled(flow: Flow, model: PyTree, objective: Any, sampler: Callable) -> Traced:
    """The loss of what a sampler returns, as a program of [key, step, *data]."""
    skeleton, empty = Skeleton.of(model)[0], arrays_of(objective)[1]
    weights, loss = _shapes(flow)

    def some(data, others, weights):
        key, step, *own = data
        drawn = sampler(with_arrays(empty, own), key, step)
        if not callable(drawn) or isinstance(drawn, type):
            raise ValueError(
                f"The sampler batch= returned {drawn!r:.80}, of {type(drawn)}: it returns the "
                "objective of a step, a function of the model such as "
                "gflow.objectives.SquaredLoss(inputs, targets)."
            )
        return LossOf(skeleton, drawn, loss.dtype)([], others, weights)

    like = [*_key_and_step(), *flow.data]
    return traced(some, like, flow.others, weights, what="The sampler batch=")


def _rows(flow: Flow, model: PyTree, objective: Any, size: int) -> Traced:
    """The loss of `size` rows, times what makes its gradient unbiased, as such a program."""
    places = _places(objective, size)
    count = flow.data[places[0]].shape[0]
    if not 1 <= size <= count:
        raise ValueError(f"batch = {size}: choose from 1 to {count}, the number of examples.")
    loss = LossOf(Skeleton.of(model)[0], arrays_of(objective)[1], jnp.float32)
    factor = count / size if _adds_up(flow, loss, places, objective) else 1.0
    weights, value = _shapes(flow)

    def some(data, others, weights):
        key, _, *own = data
        index = jax.random.choice(key, count, (size,), replace=False)
        rows = [x[index] if i in places else x for i, x in enumerate(own)]
        return jnp.asarray(factor, value.dtype) * loss(rows, others, weights)

    like = [*_key_and_step(), *flow.data]
    return traced(some, like, flow.others, weights, what="The objective of a minibatch")


def _adds_up(flow: Flow, loss: LossOf, places: tuple[int, ...], objective: Any) -> bool:
    """Whether the loss is the sum of that of single examples, and not their mean."""
    weights, _ = _shapes(flow)
    one = [
        jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) if i in places else x
        for i, x in enumerate(flow.data)
    ]
    alone = traced(loss, one, flow.others, weights, what="The objective of one example")
    total, single = _losses(flow, alone, places)
    if np.isclose(np.mean(single), total, rtol=1e-4):
        return False
    if np.isclose(np.sum(single), total, rtol=1e-4):
        return True
    raise ValueError(
        f"{type(objective).__name__} is {float(total):.6g} on all examples, neither the mean nor "
        f"the sum of its values on single ones ({float(np.mean(single)):.6g} and "
        f"{float(np.sum(single)):.6g}): a minibatch would give a biased gradient. A sampler, "
        "batch=(objective, key, step) -> objective, may return what it likes."
    )


def _places(objective: Any, size: int) -> tuple[int, ...]:
    """Of inputs and targets among the arrays that the objective holds."""
    names = [n for n in ("inputs", "targets", "labels") if hasattr(objective, n)][:2]
    given = [getattr(objective, name) for name in names]
    if names[:1] != ["inputs"] or len(given) < 2 or not all(is_array(x) and x.ndim for x in given):
        raise ValueError(
            f"batch = {size} draws examples from the leading axis of objective.inputs and "
            f"objective.targets (or .labels), which {type(objective).__name__} does not have. Use "
            "one of gflow.objectives, a module with these two arrays, or a sampler: "
            "batch=(objective, key, step) -> objective."
        )
    marked = eqx.tree_at(lambda o: [getattr(o, n) for n in names], objective, [_Mark, _Mark])
    leaves = [x for x in jax.tree.leaves(marked) if is_array(x) or x is _Mark]
    return tuple(i for i, x in enumerate(leaves) if x is _Mark)


class _Mark:
    """In the place of data."""


def _shapes(flow: Flow) -> tuple[PyTree, Any]:
    """Of the weights and the loss."""
    weights = eqx.filter_eval_shape(lambda flow: flow.weights(flow.start()), flow)
    return weights, eqx.filter_eval_shape(lambda flow, x: flow.loss(x), flow, weights)


def _key_and_step() -> tuple[Any, Any]:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return key, jax.ShapeDtypeStruct((), jax.dtypes.canonicalize_dtype(np.int64))


@eqx.filter_jit
def _losses(flow: Flow, alone: Traced, places: tuple[int, ...]) -> tuple[Array, Array]:
    """The loss at the start: on all examples, and on each alone."""
    weights = flow.weights(flow.start())
    total = flow.loss(weights)

    def one(*rows):
        drawn = dict(zip(places, (x[None] for x in rows), strict=True))
        data = [drawn.get(i, x) for i, x in enumerate(flow.data)]
        return alone(data, flow.others, weights)

    return total, jax.vmap(one)(*(flow.data[i] for i in places))
