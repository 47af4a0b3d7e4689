r"""Which heads feel one force, and until when.

Heads are gathered at the start where they are small alike and feel equal forces that are not
zero. Before an orbit the force on them is read at random weights that have what is active on
the orbit, of order one: forces are analytic in these but for kinks, so that heads whose forces
agree there agree on all of the orbit, and those whose forces do not are told apart before it.
On the orbit that is found it is asked once more.

Forces are equal where they differ by no more than 1e4 roundings of the terms that they are sums
of, some 2e-12 of them, and different beyond 5e5, 1e-10. In between float64 does not say. What a
difference of 1e-12 would do, the rounding of a force does already.
"""

from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from gflow.internal import coordinate_label, on_device

from ._columns import Columns
from ._fast_system import FastSystem, assembled, by_piece
from ._joint_columns import JointColumns
from ._orbits import Degenerate, Orbit
from ._saddle_leaf import SaddleLeaf
from ._scales import DOUBT, Scale

#: Draws of weights, and how far logarithms and directions are moved.
_DRAWS, _MOVED = 2, 0.3
#: Log-sizes below this enter an orbit.
_ENTERING = -10.0
#: At most so many states of an orbit are looked at.
_LOOKS = 32

#: Places of heads in their part, by what they feel.
Groups = list[list[int]]


def gathered(
    parts: Sequence[SaddleLeaf], forces: Sequence[np.ndarray], floors: Sequence[np.ndarray]
) -> list[list[int]]:
    """Places of parts at the start, those that are one matrix together."""
    groups: list[list[int]] = []
    for i, part in enumerate(parts):
        for group in groups:
            first = group[0]
            if not _alike(parts[first], part):
                continue
            floor, apart = float(np.max(floors[first])), np.linalg.norm(forces[i] - forces[first])
            if apart <= DOUBT * floor < floor < np.max(part.size_of(forces[i])):
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def _alike(one: SaddleLeaf, other: SaddleLeaf) -> bool:
    if not (isinstance(one, Columns) and isinstance(other, Columns) and type(one) is type(other)):
        return False
    same = one.split == other.split and one.weight.shape == other.weight.shape
    same &= one.decay == other.decay and one.untold and other.untold
    return bool(same and not one.k and not other.k and one.exponent[0] == other.exponent[0])


def parting(
    fast: FastSystem, parts: Sequence[SaddleLeaf], scales: Sequence[Scale], drop: float
) -> list[Groups]:
    """Of every part its heads by the force on what an orbit from `fast` leads over.

    **Raises:** Degenerate where forces differ by little more than rounding.
    """
    found = _whole(parts)
    state, active, logs = np.asarray(fast.start()), fast.active, fast.log_sizes
    entering = active & logs & (state < _ENTERING)
    sizes = [p.flat().size for p in fast.pieces]
    reach = [np.broadcast_to(np.ravel(s.reach), n) for s, n in zip(scales, sizes, strict=True)]
    state = np.where(entering, np.concatenate(reach), state)
    rng = np.random.default_rng(0)
    for _ in range(_DRAWS):
        moved = state + np.where(active, _MOVED * rng.standard_normal(len(state)), 0.0)
        found = _compared(found, parts, _forces(fast, on_device(moved)), scales, drop)
    return found


def _whole(parts: Sequence[SaddleLeaf]) -> list[Groups]:
    return [[list(range(len(p.heads)))] for p in parts]


def _compared(
    found: list[Groups],
    parts: Sequence[SaddleLeaf],
    seen: tuple[Array, Sequence[Array]],
    scales: Sequence[Scale],
    drop: float,
) -> list[Groups]:
    """Groups divided further where loss and forces that were `seen` say so."""
    out, loss = [], max(drop, abs(float(seen[0])))
    for groups, part, force, scale in zip(found, parts, seen[1], scales, strict=True):
        each = np.asarray(force)
        if len(part.heads) == 1 or not np.all(np.isfinite(each)):
            out.append(groups)
            continue
        largest = float(np.max(np.linalg.norm(each, axis=(1, 2))))
        noise = max(float(np.max(scale.noise(loss))), float(np.finfo(float).eps) * largest)
        bar = part.roundings * noise
        out.append([g for group in groups for g in _divided(part, group, each, bar)])
    return out


def _divided(part: SaddleLeaf, group: list[int], force: np.ndarray, bar: float) -> Groups:
    out: Groups = []
    for place in group:
        for own in out:
            apart = float(np.linalg.norm(force[place] - force[own[0]]))
            if DOUBT * bar < apart <= bar:
                two = (coordinate_label(part.heads[p]) for p in (own[0], place))
                raise Degenerate(
                    f"the forces on {' and '.join(two)} differ by {apart:.1e}, little more than "
                    "rounding, so whether they learn as one or apart is not known"
                )
            if apart <= bar:
                own.append(place)
                break
        else:
            out.append([place])
    return out


def check_together(
    parts: Sequence[SaddleLeaf], orbit: Orbit, scales: Sequence[Scale], drop: float
) -> None:
    """**Raises:** Degenerate where heads that were taken as one felt different forces."""
    if all(len(p.heads) == 1 for p in parts):
        return
    every = max(1, len(orbit.state) // _LOOKS)
    for state in [*orbit.state[::every], orbit.state[-1]]:
        seen = _forces(orbit.fast, on_device(state))
        found = _compared(_whole(parts), parts, seen, scales, drop)
        if parted := [p for p, groups in zip(parts, found, strict=True) if len(groups) > 1]:
            names = ", ".join(coordinate_label(head) for head in parted[0].heads)
            raise Degenerate(
                f"the heads {names} feel different forces on the way, though they feel one at "
                "weights of the same kind; a loss with kinks may do that. What each of them "
                "learns is not followed"
            )


def check_seeds(
    fast: FastSystem,
    parts: Sequence[SaddleLeaf],
    scales: Sequence[Scale],
    drop: float,
    wait: float,
) -> None:
    """**Raises:** Degenerate where dormant weights set heads apart before the plateau ends.

    A dormant weight of another part of size α^{2e} that parts the forces on heads turns their
    active columns by as much, and what it turned grows on as a joint column: that has the
    exponent 2e where this is less than its own (2e + e_1 while no column is active).
    """
    for i, part in enumerate(parts):
        if not isinstance(part, JointColumns):
            continue
        own, first = part.columns, 0 if part.columns.k else 1
        ahead = 0.0 if first == 0 else float(own.exponent[0])
        growing = own.rates > own.floor
        growing[:first] = False
        for j, other in enumerate(parts):
            exponents = [other.exponent_and_size(n)[0] for n in range(len(other.size.ravel()))]
            if i == j or not exponents:
                continue
            seed = 2.0 * min(exponents) + ahead
            sooner = growing & (seed < own.exponent)
            if first == 0:
                sooner &= seed < own.rates * wait
            if np.any(sooner) and _sets_apart(fast, parts, scales, drop, i, j):
                raise Degenerate(
                    f"weights of {other.name!r} are small, but large enough to set the heads of "
                    f"{part.name!r}, which feel one force as long as they are zero, apart before "
                    "the next transition: what the heads share then is not followed. Take another "
                    "initial scale for one of the two leaves"
                )


def _sets_apart(
    fast: FastSystem,
    parts: Sequence[SaddleLeaf],
    scales: Sequence[Scale],
    drop: float,
    part: int,
    other: int,
) -> bool:
    """Whether dormant weights of `other`, of order one, part the heads of `part`."""
    size = np.abs(np.random.default_rng(0).standard_normal(fast.pieces[other].modes))
    seen = _forces_beside(fast, fast.start(), on_device(size), other)
    return len(_compared(_whole(parts), parts, seen, scales, drop)[part]) > 1


@eqx.filter_jit
def _forces(fast: FastSystem, state: Float[Array, " size"]):
    loss, forces = fast.flow.forces(fast.weights(state))
    return loss, by_piece(forces, fast.layout)


@eqx.filter_jit
def _forces_beside(fast: FastSystem, state: Array, size: Array, other: int):
    pieces = fast.unpack(state)
    weights = [p.disturbed(size) if i == other else p.weight() for i, p in enumerate(pieces)]
    loss, forces = fast.flow.forces(assembled(weights, fast.layout, fast.flow.names))
    return loss, by_piece(forces, fast.layout)


def joined_parts(parts: Sequence[SaddleLeaf], groups: Sequence[Sequence[int]]) -> list[SaddleLeaf]:
    """One part for each group."""
    out: list[SaddleLeaf] = []
    for group in groups:
        members = [p for p in (parts[i] for i in group) if isinstance(p, Columns)]
        out.append(JointColumns.of(members) if len(group) > 1 else parts[group[0]])
    return out
