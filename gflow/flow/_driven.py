"""The flow of factors along a velocity of the user's, with a memory where it has one."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._arguments import instance
from ..coordinates._base import Coordinates, State, Weight
from ..coordinates._record import LeafRecord
from ..programs._closure import Traced, traced
from ..velocity import Velocity
from ._decay import decay_rate
from ._flow import Flow
from ._plain import check_plain


class Remembering(Coordinates):
    """Factors as they are, and what a velocity remembers of them, behind them in the state."""

    inner: Coordinates
    memory: PyTree[Array]

    @property
    def chart(self) -> type[Coordinates]:
        return self.inner.chart

    @property
    def size(self) -> int:
        return self.inner.size + sum(x.size for x in jax.tree.leaves(self.memory))

    def _parted(self, state: State) -> tuple[Array, Array]:
        return state[: self.inner.size], state[self.inner.size :]

    def start(self) -> State:
        return jnp.concatenate([self.inner.start(), *_flat(self.memory)])

    def value(self, state: State) -> Weight:
        return self.inner.value(self._parted(state)[0])

    def arrays(self, state: State) -> PyTree[Array] | None:
        return self.inner.arrays(self._parted(state)[0])

    def remembered(self, state: State) -> PyTree[Array]:
        return _shaped(self.memory, self._parted(state)[1])

    def velocity(self, state: State, force: Weight, decay: Float[Array, ""]) -> State:
        """Along the gradient, which `Driven` hands to the velocity; the memory does not move."""
        x, rest = self._parted(state)
        return jnp.concatenate([self.inner.velocity(x, force, decay), jnp.zeros_like(rest)])

    def tolerance(self, rtol: Float[Array, ""]) -> tuple[State, State]:
        """A memory is measured by the factors it is of."""
        atol, relative = self.inner.tolerance(rtol)
        rest = jnp.ones((self.size - self.inner.size,), atol.dtype)
        ends = (atol, jnp.max(atol) * rest), (relative, jnp.max(relative) * rest)
        return jnp.concatenate(ends[0]), jnp.concatenate(ends[1])

    def scale(self, state: State, origin: State) -> State:
        """What every component is large or small beside; a memory as its factors are."""
        (x, rest), (begin, _) = self._parted(state), self._parted(origin)
        scale = jnp.maximum(jnp.abs(x), jnp.abs(begin))
        return jnp.concatenate([scale, jnp.max(scale) * jnp.ones_like(rest)])

    def view(self, state: State) -> PyTree:
        return self.inner.view(self._parted(state)[0])

    def record(self, state: State) -> dict[str, Array]:
        x, rest = self._parted(state)
        return self.inner.record(x) | {"memory": rest}

    def at(self, record: LeafRecord) -> "Remembering":
        return Remembering(self.inner.at(record), _shaped(self.memory, record["memory"]))

    def resolved(self, state: State, force: Weight) -> Array:
        return self.inner.resolved(self._parted(state)[0], force)


def _flat(tree: PyTree[Array]) -> list[Array]:
    return [x.ravel() for x in jax.tree.leaves(tree)]


def _shaped(like: PyTree[Array], flat: Float[Array, " size"]) -> PyTree[Array]:
    """A flat array in the structure of `like`."""
    leaves, structure = jax.tree.flatten(like)
    cuts = np.cumsum([x.size for x in leaves])[:-1].tolist()
    parts = zip(jnp.split(flat, cuts), leaves, strict=False)  # of no leaves there is one part
    return jax.tree.unflatten(structure, [part.reshape(x.shape) for part, x in parts])


class Driven(Flow):
    """dx/dt by `rule`, a program of t, the factors, the forces on them and the memory."""

    gradient: ClassVar[bool] = False

    rule: Traced = dataclasses.field(kw_only=True)

    def _pulled(self, t: Array, state: Array) -> list[Array]:
        """−∂L/∂x − λx of the factors of every leaf, where their state has them."""
        _, force = self.forces(self.weights(state))
        parts = zip(self.names, self.coordinates, self.decay, self.split(state), strict=True)
        return [
            c.velocity(part, force[n], decay_rate(rate, t, state.dtype))
            for n, c, rate, part in parts
        ]

    def _moved(self, t: Array, state: Array, pulled: list[Array]) -> list[Array]:
        parts = self.split(state)
        leaves = list(zip(self.names, self.coordinates, parts, pulled, strict=True))
        found, remembered = self.rule(
            t,
            {n: c.arrays(x) for n, c, x, _ in leaves},
            {n: c.arrays(g) for n, c, _, g in leaves},
            {n: c.remembered(x) for n, c, x, _ in leaves},
        )
        return [jnp.concatenate(_flat((found[n], remembered[n]))) for n in self.names]

    def motion(self, t: Float[Array, ""], state: Float[Array, " size"]) -> Array:
        return _motion(self, t, state)

    def record(self, t: Float[Array, ""], state: Float[Array, " size"]) -> dict[str, Any]:
        """With the rate at which the loss falls, which may be negative, as descent."""
        pulled = self._pulled(t, state)
        pairs = zip(pulled, self._moved(t, state, pulled), strict=True)
        return super().record(t, state) | {"descent": sum(jnp.vdot(g, x) for g, x in pairs)}

    def drift(
        self, t: Float[Array, ""], state: Float[Array, " size"], origin: Float[Array, " size"]
    ) -> tuple[Array, Array]:
        scales = [
            c.scale(part, begin)
            for c, part, begin in zip(
                self.coordinates, self.split(state), self.split(origin), strict=True
            )
        ]
        return self.velocity(t, state), jnp.concatenate(scales)


@eqx.filter_jit
def _motion(flow: Driven, t: Array, state: Array) -> Array:
    """`Driven.motion`: traced once for all the places of a program that ask for it."""
    return jnp.concatenate(flow._moved(t, state, flow._pulled(t, state)))


def driven(flow: Flow, velocity: Velocity) -> Driven:
    """The flow of plain factors with its leaves driven by `velocity`.

    **Raises:** ValueError for what is no `Velocity`, a leaf that is not held as plain factors, and
    a velocity or memory that does not have their structure.
    """
    what = "of a class derived from gflow.velocity.Velocity, such as gflow.velocity.Sign(1e-6)"
    instance("velocity", velocity, Velocity, what)
    check_plain(flow)
    factors = _start(flow)
    given = dict(velocity.memory(factors))
    if unknown := sorted(set(given) - set(flow.names)):
        raise ValueError(
            f"velocity.memory returned {unknown[0]!r}, which is no leaf; the leaves are "
            f"{', '.join(flow.names)}."
        )
    memory = {name: given.get(name, ()) for name in flow.names}
    time = jnp.zeros((), flow.dtype)
    what = f"velocity = {type(velocity).__name__}(…)"
    rule = traced(velocity, time, factors, factors, memory, what=what)
    _check_structure(jax.eval_shape(rule, time, factors, factors, memory), (factors, memory), what)
    pairs = zip(flow.names, flow.coordinates, strict=True)
    fields: dict[str, Any] = {f.name: getattr(flow, f.name) for f in dataclasses.fields(flow)}
    fields |= {"coordinates": tuple(Remembering(c, memory[n]) for n, c in pairs), "rule": rule}
    return Driven(**fields)


@eqx.filter_jit
def _start(flow: Flow) -> dict[str, PyTree[Array]]:
    pairs = zip(flow.names, flow.coordinates, strict=True)
    return {name: c.arrays(c.start()) for name, c in pairs}


def _check_structure(found: Any, wanted: tuple[Any, Any], what: str) -> None:
    if not isinstance(found, tuple) or len(found) != 2:
        raise ValueError(f"{what} returns two: d/dt of the factors, and of the memory.")
    for part, one, other in zip(("factors", "memory"), found, wanted, strict=True):
        leaves = [[(x.shape, x.dtype) for x in jax.tree.leaves(tree)] for tree in (one, other)]
        if jax.tree.structure(one) != jax.tree.structure(other) or leaves[0] != leaves[1]:
            shapes = [jax.tree.map(lambda x: f"{x.dtype}{x.shape}", tree) for tree in (one, other)]
            raise ValueError(
                f"{what}: d/dt of the {part} has the structure and shapes {shapes[0]}, the {part} "
                f"themselves {shapes[1]}. Return one array for each, as jax.tree.map does."
            )
