r"""The fast system of the limit α → 0: what moves on the orbit between two saddles.

A model is cut into pieces, one for each Hadamard leaf, one for each head of a factored leaf and
one for heads that feel one force.
Every piece has an active part, which makes its weight, and a dormant rest, which is infinitely
smaller as α → 0: it feels the force of the active part and makes none. All pieces together are
one autonomous system, stiff after the transition.
"""

import abc
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gflow.internal import Flow, eager, on_device, side_by_side


class OrbitLeaf(eqx.Module):
    """The state of one leaf, of one head of it, or of several heads, on an orbit."""

    @abc.abstractmethod
    def flat(self) -> Float[Array, " size"]: ...

    @abc.abstractmethod
    def at(self, flat: Float[Array, " size"]) -> "OrbitLeaf": ...

    @abc.abstractmethod
    def weight(self) -> Float[Array, "..."]:
        """The effective weight, of the active part alone; heads along the first axis."""

    @abc.abstractmethod
    def velocity(self, force: Float[Array, "..."]) -> Float[Array, " size"]: ...

    @property
    @abc.abstractmethod
    def modes(self) -> int:
        """How many modes it has, dormant ones included, up to the side they are on."""

    @abc.abstractmethod
    def disturbed(self, amount: Float[Array, " modes"]) -> Float[Array, "..."]:
        """The weight where dormant modes have these small amounts of their own."""

    @abc.abstractmethod
    def pushed(
        self, force: Float[Array, "..."], amount: Float[Array, " modes"]
    ) -> Float[Array, " size"]:
        """The velocity then."""

    @property
    @abc.abstractmethod
    def active(self) -> Bool[Array, " size"]:
        """Which components make the weight, and come to rest at a saddle."""

    @property
    @abc.abstractmethod
    def log_sizes(self) -> Bool[Array, " size"]:
        """Which components, active or dormant, are logarithms of sizes."""

    @abc.abstractmethod
    def without(self, gone: Bool[Array, " size"]) -> "OrbitLeaf":
        """The same state, with the active parts of these log-sizes made dormant."""

    @property
    def unitless(self) -> bool:
        """Whether every component is compared with the fastest of the piece, not with itself."""
        return False

    @property
    def drifts(self) -> bool:
        """Whether rounding takes the state off a manifold that `recentred` puts it back on."""
        return False

    def recentred(self) -> "OrbitLeaf":
        return self

    def loose(self) -> "OrbitLeaf":
        """With no weight held at a kink of the loss."""
        return self


#: Leaf name, and which head of the leaf.
Head = tuple[str, tuple[int, ...]]
#: The heads of every piece; those of a piece of several are the first axis of its weight.
Layout = tuple[tuple[Head, ...], ...]


class FastSystem(eqx.Module):
    """All pieces of a model; `layout`: the heads of each."""

    flow: Flow
    pieces: tuple[OrbitLeaf, ...]
    layout: Layout = eqx.field(static=True)

    def start(self) -> Float[Array, " size"]:
        return joined(self.pieces)

    def unpack(self, state: Float[Array | np.ndarray, " size"]) -> list[OrbitLeaf]:
        out, at = [], 0
        for piece in self.pieces:
            size = piece.flat().size
            mine = state[at : at + size]
            out.append(piece.at(on_device(mine) if isinstance(mine, np.ndarray) else mine))
            at += size
        return out

    def place(self, piece: int) -> int:
        """Where the state of a piece begins."""
        return sum(p.flat().size for p in self.pieces[:piece])

    def weights(self, state: Float[Array, " size"]) -> dict[str, Array]:
        """Leaf name → effective weight."""
        parts = side_by_side(_weight, self.pieces, self.split(state))
        return assembled(parts, self.layout, self.flow.names)

    def split(self, state: Float[Array, " size"]) -> list[Float[Array, " part"]]:
        """By pieces."""
        ends = np.cumsum([p.flat().size for p in self.pieces])
        return jnp.split(state, ends[:-1])

    def recentred(self, state: Float[Array, " size"]) -> Float[Array, " size"]:
        return jnp.concatenate(side_by_side(_recentred, self.pieces, self.split(state)))

    def velocity(self, state: Float[Array, " size"]) -> Float[Array, " size"]:
        return self.moving(state)[0]

    def moving(
        self, state: Float[Array, " size"]
    ) -> tuple[Float[Array, " size"], Float[Array, ""]]:
        """Velocity and loss."""
        loss, whole = self.flow.forces(self.weights(state))
        rows = self.split(state), by_piece(whole, self.layout)
        return jnp.concatenate(side_by_side(_velocity, self.pieces, *rows)), loss

    @property
    def active(self) -> np.ndarray:
        return np.concatenate([np.asarray(p.active) for p in self.pieces])

    @property
    def log_sizes(self) -> np.ndarray:
        return np.concatenate([np.asarray(p.log_sizes) for p in self.pieces])

    def together(self) -> list[slice]:
        """The components that are compared with the fastest among them, piece by piece."""
        ends = [self.place(i) for i in range(len(self.pieces) + 1)]
        parts = zip(self.pieces, itertools.pairwise(ends), strict=True)
        return [slice(*edges) for p, edges in parts if p.unitless]

    def without(self, gone: np.ndarray) -> "FastSystem":
        if not gone.any():
            return self
        pieces, at = [], 0
        for p in self.pieces:
            size = p.flat().size
            pieces.append(p.without(on_device(gone[at : at + size])))
            at += size
        return eqx.tree_at(lambda f: f.pieces, self, tuple(pieces))


def _weight(piece: OrbitLeaf, flat: Array) -> Array:
    return piece.at(flat).weight()


def _velocity(piece: OrbitLeaf, flat: Array, force: Array) -> Array:
    return piece.at(flat).velocity(force)


def _recentred(piece: OrbitLeaf, flat: Array) -> Array:
    return piece.at(flat).recentred().flat()


@eager
def _concatenated(xp: Any, *parts: Any) -> Any:
    return xp.concatenate(parts)


def joined(pieces: Sequence[OrbitLeaf]) -> Float[Array, " size"]:
    return _concatenated(*(p.flat() for p in pieces))


def assembled(parts: Sequence[Any], layout: Layout, names: Sequence[str]) -> dict[str, Any]:
    """Leaf name → array, from those of the pieces: a leaf as it is, heads stacked in order."""
    out = {}
    for name in names:
        mine = {
            head: x if len(heads) == 1 else x[i]
            for heads, x in zip(layout, parts, strict=True)
            for i, (n, head) in enumerate(heads)
            if n == name
        }
        if () in mine:
            out[name] = mine[()]
            continue
        order = sorted(mine)
        shape = tuple(1 + i for i in order[-1])
        out[name] = jnp.stack([mine[head] for head in order])
        out[name] = out[name].reshape(*shape, *out[name].shape[1:])
    return out


def by_piece(whole: Mapping[str, Array], layout: Layout) -> list[Array]:
    """What every piece has of arrays by leaf name."""
    out = []
    for heads in layout:
        mine = [whole[name][head] for name, head in heads]
        out.append(mine[0] if len(mine) == 1 else jnp.stack(mine))
    return out
