"""What counts as zero: the force on a weight, on a scale of its own.

A force is a sum over examples whose terms may cancel; rounding is relative to the terms. For a
loss L with curvature h along the weight they add up to about √(2Lh), which is Cauchy–Schwarz,
|⟨r, x⟩| ≤ ‖r‖‖x‖, where the loss is a square. In other units of an input, x → cx and θ → θ/c,
that scale and the force both change by c, so no answer depends on the units.
"""

import itertools
import math

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from gflow.internal import Flow

from ._fast_system import Layout, assembled, by_piece

#: Entries of a Hessian diagonal that are computed side by side.
_WIDTH = 64
#: A force below the floor but above this part of it is more than plain rounding.
DOUBT = 0.02


class Scale:
    """Largest force and curvature of one part over the plateaus visited, entry by entry.

    Forces up to `roundings` roundings of their terms count as zero.
    """

    def __init__(self, roundings: float, decay: float):
        self.roundings, self.decay = roundings, decay
        self.force, self.curvature, self.distance = np.zeros(()), np.zeros(()), np.zeros(())

    def see(self, force: ArrayLike, curvature: ArrayLike) -> None:
        force, curvature = np.asarray(force), np.asarray(curvature)
        self.force = np.maximum(self.force, force)
        self.curvature = np.maximum(self.curvature, curvature)
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.where(curvature > 0, force / curvature, 0.0)
        self.distance = np.maximum(self.distance, distance)

    def drop(self) -> float:
        """How far a weight of its own can lower the loss: g²/2h."""
        return float(np.max(0.5 * self.force * self.distance, initial=0.0))

    def noise(self, loss: float) -> np.ndarray:
        """One rounding of the terms of a force, at a loss of this size."""
        terms = np.maximum(self.force, np.sqrt(2.0 * loss * self.curvature))
        return np.asarray(np.finfo(float).eps * np.maximum(terms, self.decay))

    def floor(self, loss: float) -> np.ndarray:
        """Forces up to here are zero."""
        return np.asarray(self.roundings * self.noise(loss))

    @property
    def reach(self) -> np.ndarray:
        """Log-size of a factor whose weight is where its own parabola ends, or 0."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.maximum(0.5 * (math.log(4.0) + np.log(self.distance)), 0.0))


@eqx.filter_jit
def felt(flow: Flow, weights: list[Array], layout: Layout, single: tuple[bool, ...]):
    """Loss, force on every part, and ∂²L/∂w² along its entries.

    Where a part is not `single` one number stands for all of its entries: the root mean square of
    H z for random signs z.
    """
    flat, unravel = jax.flatten_util.ravel_pytree(weights)

    def force(flat: Float[Array, " p"]):
        loss, forces = flow.forces(assembled(unravel(flat), layout, flow.names))
        parts = by_piece(forces, layout)
        return jnp.concatenate([g.ravel() for g in parts]), (loss, parts)

    _, respond, (loss, parts) = jax.linearize(force, flat, has_aux=True)
    place = jnp.arange(flat.size)
    signs = jax.random.rademacher(jax.random.key(0), flat.shape, flat.dtype)

    def rms(edges: Int[Array, "2"]) -> Float[Array, ""]:
        inside = (place >= edges[0]) & (place < edges[1])
        moved = respond(jnp.where(inside, signs, 0.0))
        return jnp.sqrt(jnp.mean(moved**2, where=inside))

    ends = np.cumsum([0, *(g.size for g in parts)])
    whole = [edges for edges, own in zip(itertools.pairwise(ends), single, strict=True) if not own]
    # one program for all parts, however many
    roots = iter(jax.lax.map(rms, jnp.array(whole), batch_size=_WIDTH) if whole else ())
    curvature = []
    for at, g, own in zip(ends, parts, single, strict=False):
        if own:
            diagonal = jax.lax.map(
                lambda i: respond(jnp.where(place == i, 1.0, 0.0).astype(flat.dtype))[i],
                jnp.arange(at, at + g.size),
                batch_size=_WIDTH,
            )
            curvature.append(jnp.abs(diagonal).reshape(g.shape))
        else:
            curvature.append(next(roots))
    return loss, parts, curvature
