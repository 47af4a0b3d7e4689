"""Forces on units: whole ones, and those on dormant units to leading order in their size."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gflow.internal import Flow, on_device


class Units(eqx.Module):
    """The flow of flat weights, and which unit every weight belongs to.

    `labels`: of every unit its label and its number; `order` D: forces on units that are small are
    of degree D − 1 in each of them.
    """

    flow: Flow
    owners: tuple[int, ...] = eqx.field(static=True)
    labels: tuple[tuple[str, int], ...] = eqx.field(static=True)
    leaves: tuple[tuple[str, str, tuple[int, ...]], ...] = eqx.field(static=True)
    order: int = eqx.field(static=True)

    @property
    def owner(self) -> Int[np.ndarray, " n"]:
        return np.array(self.owners)

    @property
    def count(self) -> int:
        return len(self.labels)

    @property
    def mask(self) -> Bool[np.ndarray, "units n"]:
        return self.owner == np.arange(self.count)[:, None]

    def shaped(self, flat: Any) -> dict[str, Any]:
        """Flat weights by leaf."""
        cuts = np.cumsum([math.prod(shape) for _, _, shape in self.leaves])[:-1].tolist()
        split = np.split if isinstance(flat, np.ndarray) else jnp.split
        parts = zip(self.leaves, split(flat, cuts), strict=True)
        return {name: x.reshape(shape) for (name, _, shape), x in parts}

    def norms(self, flat: np.ndarray) -> Float[np.ndarray, " units"]:
        return np.sqrt(np.bincount(self.owner, flat**2, self.count))

    def loss_and_force(self, flat: Array) -> tuple[Array, Array]:
        """L and −∂L/∂w."""
        loss, forces = self.flow.forces(self.shaped(flat))
        return loss, jnp.concatenate([forces[name].ravel() for name, _, _ in self.leaves])

    def term(self, live: Array, dormant: Array, degree: int) -> Float[Array, " n"]:
        """The term of `degree` in s of the force on every unit at `live` weights, where it alone
        of the dormant ones is s times `dormant`.
        """
        mask = jnp.asarray(self.mask)

        def of_one(own):
            def along(s):
                return self.loss_and_force(live + s * jnp.where(own, dormant, 0.0))[1]

            for _ in range(degree):
                along = _derivative(along)
            return jnp.where(own, along(jnp.zeros(())), 0.0)

        return jnp.sum(jax.vmap(of_one)(mask), axis=0) / math.factorial(degree)

    def leading(self, live: Array, dormant: Array) -> Float[Array, " n"]:
        """F: the force on dormant units, of degree D − 1 in each."""
        return self.term(live, dormant, self.order - 1)


def _derivative(f):
    def derivative(s):
        return jax.jvp(f, (s,), (jnp.ones(()),))[1]

    return derivative


@eqx.filter_jit
def _terms(units: Units, live: Array, dormant: Array) -> Float[Array, "degrees n"]:
    return jnp.stack([units.term(live, dormant, k) for k in range(units.order)])


def terms(units: Units, live: np.ndarray, dormant: np.ndarray) -> Float[np.ndarray, "degrees n"]:
    """Those of degree 0, …, D − 1 of the force on every unit."""
    return np.asarray(_terms(units, on_device(live), on_device(dormant)))


@eqx.filter_jit
def _joint(units: Units, live: Array, dormant: Array) -> Float[Array, "degrees n"]:
    def along(s):
        return units.loss_and_force(live + s * dormant)[1]

    found = []
    for degree in range(units.order):
        found.append(along(jnp.zeros(())) / math.factorial(degree))
        along = _derivative(along)
    return jnp.stack(found)


def joint_terms(
    units: Units, live: np.ndarray, dormant: np.ndarray
) -> Float[np.ndarray, "degrees n"]:
    """Terms of degree 0, …, D − 1 of the whole force, where all dormant units are there."""
    return np.asarray(_joint(units, on_device(live), on_device(dormant)))


@eqx.filter_jit
def _leading(units: Units, live: Array, dormant: Array) -> Array:
    return units.leading(live, dormant)


def leading(units: Units, live: np.ndarray, dormant: np.ndarray) -> Float[np.ndarray, " n"]:
    """F: the force on dormant units to leading order."""
    return np.asarray(_leading(units, on_device(live), on_device(dormant)))


@eqx.filter_jit
def _whole(units: Units, flat: Array) -> tuple[Array, Array]:
    return units.loss_and_force(flat)


def whole(units: Units, flat: np.ndarray) -> tuple[float, np.ndarray]:
    """Loss and force."""
    loss, force = _whole(units, on_device(flat))
    return float(loss), np.asarray(force)


@eqx.filter_jit
def _curvature(units: Units, flat: Array) -> Float[Array, "n n"]:
    return jax.jacfwd(lambda w: -units.loss_and_force(w)[1])(flat)


def curvature(units: Units, flat: np.ndarray) -> Float[np.ndarray, "n n"]:
    """The Hessian of the loss."""
    return np.asarray(_curvature(units, on_device(flat)))
