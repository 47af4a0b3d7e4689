r"""Kinks of the loss at zero weights: which force a dormant weight feels.

It is that of the direction of the dormant vector, F(ê) = lim −∇L(θ* + ε ê) for ε → 0. Where L
is differentiable at the saddle this is −∇L(θ*). With |w|, ReLU or a maximum of dormant weights
it depends on the signs of these weights, or on which of them is larger, and JAX's derivative at
exactly zero (relu'(0) = 0, |·|'(0) = 1) is one arbitrary choice. The limit algorithm takes the
branches of the signs that the weights have; sixty-four displacements with sizes spread over e^6
tell whether anything else matters, whatever the program of the loss is.
"""

import dataclasses
from collections.abc import Sequence

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from gflow.internal import (
    Beside,
    Flow,
    coordinate_label,
    find_switches,
    on_device,
)

from ._fast_system import Layout, assembled, by_piece
from ._saddle_leaf import SaddleLeaf, layout_of

#: Displacements, each with some of the weights that change their sign on the other side.
DRAWS = 64
#: Sizes of the displacement, as shares of the largest weight (or of 1).
_FAR, _NEAR = 1e-9, 1e-10
#: A force that varies by less of the largest one does not vary.
_SAME = 1e-6


@dataclasses.dataclass(frozen=True)
class Kink:
    """A force on a dormant weight that depends on more than the saddle and its own sign.

    `forces` are two of its values, `share` of the largest force is how much it varies.
    `by_size`: which of the dormant weights is larger decides, otherwise it is not known what.
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
                f"ReLU, max: on {self.label} it varies by {100 * self.share:.2g} % of the largest, "
                f"from {low:+.4g} to {high:+.4g}, over displacements of one sign pattern), so "
                "exponents and factors alone do not fix the path. Simulate from these factors"
            )
        return (
            f"the loss has a kink at zero of {self.label} (force {low:+.4g} or {high:+.4g}) "
            "inside an operation that is not taken apart (sort, a loop, a pooling window), or "
            "with a derivative of its own. Write it with max, abs or where, or simulate from "
            "these factors"
        )


def has_kinks(flow: Flow, parts: Sequence[SaddleLeaf]) -> bool:
    """Whether the program of the loss has anything that might be a kink."""
    layout = layout_of(parts)
    weights = assembled([on_device(p.weight) for p in parts], layout, flow.names)
    found = find_switches(flow.loss, weights)
    return bool(found.sites or found.opaque)


def on_sides(
    flow: Flow, parts: Sequence[SaddleLeaf], across: Sequence[np.ndarray], draw: int
) -> Flow:
    """The flow on the branches of the signs of the weights; of those `across`, of the other.

    `draw`: a number for their sizes.
    """
    layout = layout_of(parts)
    rng = np.random.default_rng(1 + draw)
    moves = []
    for part, over in zip(parts, across, strict=True):
        size = _FAR * _scale(parts) * np.exp(-6.0 * rng.random(part.weight.shape))
        sign = rng.choice([-1.0, 1.0], part.weight.shape) if part.directed else part.signs()
        moves.append(on_device(np.where(over, -sign, sign) * size))
    return dataclasses.replace(flow, kinks=Beside(assembled(moves, layout, flow.names)))


def find_kink(
    flow: Flow,
    parts: Sequence[SaddleLeaf],
    force: Sequence[np.ndarray],
    beyond: Sequence[np.ndarray],
    largest: float,
) -> Kink | None:
    """The dormant weight whose force varies most with the dormant weights around it.

    None where every force is `force`, and of weights that are `turning` `beyond` on their other
    side, whichever of these are there. `largest` is the force that counts as one.
    """
    layout = layout_of(parts)
    weights = [on_device(p.weight) for p in parts]
    moves, over = _moves(parts)
    sizes = on_device(np.array([_scale(parts) * _FAR, _scale(parts) * _NEAR]))
    around = _forces_around(flow, weights, [on_device(m) for m in moves], sizes, layout)
    unit = max(largest, max(float(np.max(np.abs(x), initial=0.0)) for x in around))
    worst = None
    rows = zip(parts, moves, over, map(np.asarray, around), force, beyond, strict=True)
    for part, move, flipped, seen, near, far in rows:
        expected = np.where(flipped, far, near)
        miss = np.where(np.any(move != 0.0, axis=0), seen - expected, 0.0)
        share = np.max(np.abs(miss), axis=0) / unit
        if not share.size or (worst is not None and np.max(share) <= worst.share):
            continue
        index = np.unravel_index(int(np.argmax(share)), share.shape)
        label = coordinate_label(part.entry(tuple(map(int, index))))
        own, off = seen[:, *index], miss[:, *index]
        # of the draws in which the weight has one sign
        same = flipped[:, *index] == flipped[int(np.argmax(np.abs(off))), *index]
        ends = float(np.min(own[same])), float(np.max(own[same]))
        by_size = ends[1] - ends[0] > _SAME * unit
        if not by_size:
            at = int(np.argmax(np.abs(off)))
            ends = float(expected[at, *index]), float(own[at])
        worst = Kink(label, ends, float(np.max(share)), by_size)
    return worst if worst is not None and worst.share > _SAME else None


def _scale(parts: Sequence[SaddleLeaf]) -> float:
    return max((float(np.max(np.abs(p.weight), initial=0.0)) for p in parts), default=0.0) or 1.0


def _moves(parts: Sequence[SaddleLeaf]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Displacements of the dormant weights, of sizes e^{−6U}, and which are on the other side."""
    rng = np.random.default_rng(0)
    moves, over = [], []
    for part in parts:
        shape = (DRAWS, *part.weight.shape)
        size, other = np.exp(-6.0 * rng.random(shape)), rng.random(shape) < 0.5
        other[0], other[1] = False, True
        other &= part.turning
        sign = np.where(other, -part.signs(), part.signs())
        if part.directed:
            sign = rng.choice([-1.0, 1.0], shape)
        else:
            size = np.where(part.weight == 0.0, size, 0.0)
        moves.append(sign * size)
        over.append(other)
    return moves, over


@eqx.filter_jit
def _forces_around(
    flow: Flow,
    weights: list[Float[Array, "..."]],
    moves: list[Float[Array, "..."]],
    sizes: Float[Array, "2"],
    layout: Layout,
) -> list[Array]:
    """The limits of the forces on all parts along each displacement."""

    def forces(weights):
        _, force = flow.forces(assembled(weights, layout, flow.names))
        return by_piece(force, layout)

    def limit(move):
        far, near = (
            forces([w + size * m for w, m in zip(weights, move, strict=True)]) for size in sizes
        )
        ratio = _FAR / _NEAR  # what is linear in the size drops out
        return [(ratio * b - a) / (ratio - 1.0) for a, b in zip(far, near, strict=True)]

    return jax.vmap(limit)(moves)
