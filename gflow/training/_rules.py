"""Rules by which a step is taken: gradient descent in the coordinates, or an Optax optimiser."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from ..flow._decay import decay_rate
from ..flow._flow import Flow
from ..parameters._base import is_parameter, trained_leaves
from ..programs._closure import Traced, traced
from ._optimizers import told_rate
from ._rates import Axis, Rate

Carry = PyTree[Array]


class Rule(eqx.Module):
    """One way to take a step. What a run carries from step to step is the rule's own."""

    axis: Axis

    @abc.abstractmethod
    def start(self, flow: Flow) -> Carry:
        """What is carried at the start of the flow."""

    @abc.abstractmethod
    def step(
        self, flow: Flow, carry: Carry, t: Float[Array, ""], step: Int[Array, ""]
    ) -> tuple[Carry, Float[Array, ""]]:
        """What is carried after a step, and the loss of `flow` before it."""

    @abc.abstractmethod
    def state(self, carry: Carry) -> Float[Array, " size"]:
        """The state of the flow, to be recorded."""

    def told(self, carry: Carry) -> Array | None:
        """The learning rate of the last step where the rule carries it."""
        return None


class GradientDescent(Rule):
    """A step −η(∇L + λ·factor) of every factor, exact in coordinates that allow it."""

    rates: tuple[Rate, ...]

    def start(self, flow: Flow) -> Carry:
        return flow.start()

    def step(
        self, flow: Flow, carry: Carry, t: Float[Array, ""], step: Int[Array, ""]
    ) -> tuple[Carry, Float[Array, ""]]:
        loss, force = flow.forces(flow.weights(carry))
        leaves = zip(
            flow.names, flow.coordinates, flow.decay, flow.split(carry), self.rates, strict=True
        )
        parts = [
            c.descended(part, force[name], decay_rate(decay, t, part.dtype), rate(step))
            for name, c, decay, part, rate in leaves
        ]
        return jnp.concatenate(parts), loss

    def state(self, carry: Carry) -> Float[Array, " size"]:
        return carry


class Optax(Rule):
    """An Optax optimiser of plain factors; it carries the arrays of the model and its memory."""

    model: PyTree
    #: Programs of the start of its memory and of a step, so that equal optimisers share one.
    begin: Traced
    update: Traced

    #: Optax counts steps in int32.
    counter: ClassVar[Any] = jnp.int32

    def start(self, flow: Flow) -> Carry:
        arrays = arrays_of_model(self.model)
        return arrays, _begun(self.begin, arrays)

    def step(
        self, flow: Flow, carry: Carry, t: Float[Array, ""], step: Int[Array, ""]
    ) -> tuple[Carry, Float[Array, ""]]:
        arrays, memory = carry
        loss, gradient = loss_and_gradient(flow, self.model, arrays)
        made = self.update(flow, arrays, memory, loss, gradient)
        return jax.tree.map(jnp.asarray, made), loss

    def state(self, carry: Carry) -> Float[Array, " size"]:
        leaves = trained_leaves(_combined(self.model, carry[0])).values()
        return jnp.concatenate(
            [x.coordinates(False).start() if is_parameter(x) else x.ravel() for x in leaves]
        )

    def told(self, carry: Carry) -> Array | None:
        return told_rate(carry[1])


def optax_programs(
    optimizer: optax.GradientTransformation, model: PyTree, flow: Flow
) -> tuple[Traced, Traced]:
    """Start and step of an optimiser of `model` as programs of arrays; `flow` is a step's own.

    The step sees the value of the loss, its gradient and the loss as a function, as line searches
    do. Optax mixes dtypes: within it promotion is JAX's standard one, and weights keep theirs.
    """
    extended = optax.with_extra_args_support(optimizer)

    def begin(arrays):
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.init(arrays)

    def update(flow, arrays, memory, loss, gradient):
        def value_fn(arrays):
            return flow.loss(weights_of(model, arrays))

        with jax.numpy_dtype_promotion("standard"):
            updates, memory = extended.update(
                gradient, memory, arrays, value=loss, grad=gradient, value_fn=value_fn
            )
            return optax.apply_updates(arrays, updates), memory

    arrays = arrays_of_model(model)
    first = traced(begin, arrays, what="optimizer.init")
    memory = eqx.filter_eval_shape(_begun, first, arrays)
    loss, gradient = eqx.filter_eval_shape(loss_and_gradient, flow, model, arrays)
    step = traced(update, flow, arrays, memory, loss, gradient, what="optimizer.update")
    return first, step


@eqx.filter_jit
def _begun(begin: Traced, arrays: PyTree) -> PyTree:
    return jax.tree.map(jnp.asarray, begin(arrays))  # what is constant comes as a number


def arrays_of_model(model: PyTree) -> PyTree:
    """What an optimiser sees: the inexact arrays."""
    return eqx.filter(model, eqx.is_inexact_array)


def weights_of(model: PyTree, arrays: PyTree) -> dict[str, Array]:
    """Effective weights by leaf name."""
    leaves = trained_leaves(_combined(model, arrays))
    return {name: x.value if is_parameter(x) else x for name, x in leaves.items()}


def loss_and_gradient(flow: Flow, model: PyTree, arrays: PyTree) -> tuple[Array, PyTree]:
    """The loss, and its gradient with respect to the arrays."""
    weights, pull = jax.vjp(lambda arrays: weights_of(model, arrays), arrays)
    loss, forces = flow.forces(weights)
    (gradient,) = pull(jax.tree.map(jnp.negative, forces))
    return loss, gradient


def _combined(model: PyTree, arrays: PyTree) -> PyTree:
    return eqx.combine(arrays, eqx.filter(model, eqx.is_inexact_array, inverse=True))
