r"""Kinks of the loss at zero weights: which force a dormant weight feels.

It is that of the direction of the dormant vector, F(ê) = lim −∇L(θ* + ε ê) for ε → 0. Where L
is differentiable at the saddle this is −∇L(θ*). With |w|, ReLU or a maximum of dormant weights
it depends on the signs of these weights, or on which of them is larger, and JAX's derivative at
exactly zero (relu'(0) = 0, |·|'(0) = 1) is one arbitrary choice. Sixty-four displacements with
sizes spread over e^6 tell which, whatever the program of the loss is.
"""

import dataclasses
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gflow.flow import Flow
from gflow.switches import find_switches

from .fast import Layout, assembled
from .part import Part
from .prediction import coordinate_label

#: Displacements, half with the signs of the weights and half with any.
DRAWS = 64
#: Sizes of the displacement, as shares of the largest weight (or of 1).
_FAR, _NEAR = 1e-9, 1e-10
#: A force that varies by less of the largest one does not vary.
_SAME = 1e-6


@dataclasses.dataclass(frozen=True)
class Kink:
    """A force on a dormant weight that depends on more than where the saddle is.

    `forces` are two of its values. `by_size`: which of the dormant weights is larger decides,
    otherwise their signs do. `share` of the largest force is how much it varies.
    """

    label: str
    forces: tuple[float, float]
    share: float
    by_size: bool

    def __str__(self) -> str:
        low, high = self.forces
        if self.by_size:
            return (
                "the force on dormant weights depends on which of them is larger (ReLU, leaky "
                f"ReLU, max: on {self.label} it varies by {100 * self.share:.2g} % of the largest "
                "over displacements of one sign pattern), so exponents and factors alone do not "
                "fix the path. Simulate from these factors"
            )
        return (
            f"the loss has a kink at zero of {self.label} (force {low:+.4g} or {high:+.4g} by the "
            "signs of the dormant weights), which the limit algorithm does not handle. Simulate "
            "from these factors"
        )


def has_kinks(flow: Flow, parts: Sequence[Part]) -> bool:
    """Whether the program of the loss has anything that might be a kink."""
    layout = tuple((p.name, p.head) for p in parts)
    weights = assembled([jnp.asarray(p.weight) for p in parts], layout, flow.names)
    found = find_switches(flow.loss, weights)
    return bool(found.sites or found.opaque)


def find_kink(flow: Flow, parts: Sequence[Part], log_alpha: float, largest: float) -> Kink | None:
    """The dormant weight whose force varies most with the dormant weights around it.

    None where every force is that of the saddle; `largest` is the force that counts as one.
    """
    layout = tuple((p.name, p.head) for p in parts)
    scale = max((float(np.max(np.abs(p.weight), initial=0.0)) for p in parts), default=0.0) or 1.0
    moves = _moves(parts, log_alpha)
    weights = [jnp.asarray(p.weight) for p in parts]
    sizes = jnp.asarray([scale * _FAR, scale * _NEAR])
    at_rest, around = _forces_around(flow, weights, [jnp.asarray(m) for m in moves], sizes, layout)
    limit = [np.asarray(x) for x in around]
    unit = max(largest, max(float(np.max(np.abs(x), initial=0.0)) for x in limit))
    half = DRAWS // 2
    for by_size in (True, False):
        worst = None
        for part, move, force, still in zip(parts, moves, limit, at_rest, strict=True):
            seen = force[:half] if by_size else np.concatenate([force, np.asarray(still)[None]])
            seen = np.where(np.any(move != 0, axis=0), seen, 0.0)
            spread = np.ptp(seen, axis=0) / unit
            if spread.size and (worst is None or np.max(spread) > worst[0]):
                index = np.unravel_index(int(np.argmax(spread)), spread.shape)
                label = coordinate_label((part.name, (*part.head, *map(int, index))))
                ends = float(np.min(seen[:, *index])), float(np.max(seen[:, *index]))
                worst = float(np.max(spread)), label, ends
        if worst is not None and worst[0] > _SAME:
            return Kink(worst[1], worst[2], worst[0], by_size)
    return None


def _moves(parts: Sequence[Part], log_alpha: float) -> list[np.ndarray]:
    """Displacements of the dormant weights: sizes e^{−6U}; the first half has their signs."""
    rng = np.random.default_rng(0)
    moves = []
    for part in parts:
        shape = (DRAWS, *part.weight.shape)
        size = np.exp(-6.0 * rng.random(shape))
        sign = np.where(rng.random(shape) < 0.5, -1.0, 1.0)
        if not part.directed:
            sign[: DRAWS // 2] = part.signs(-log_alpha)
            size = np.where(part.weight == 0.0, size, 0.0)
        moves.append(sign * size)
    return moves


@eqx.filter_jit
def _forces_around(
    flow: Flow,
    weights: list[Float[Array, "..."]],
    moves: list[Float[Array, "..."]],
    sizes: Float[Array, "2"],
    layout: Layout,
) -> tuple[list[Array], list[Array]]:
    """The forces on all parts, and their limits along each displacement."""

    def forces(weights):
        _, force = flow.forces(assembled(weights, layout, flow.names))
        return [force[name][head] for name, head in layout]

    def limit(move):
        far, near = (
            forces([w + size * m for w, m in zip(weights, move, strict=True)]) for size in sizes
        )
        ratio = _FAR / _NEAR  # what is linear in the size drops out
        return [(ratio * b - a) / (ratio - 1.0) for a, b in zip(far, near, strict=True)]

    return forces(weights), jax.vmap(limit)(moves)
