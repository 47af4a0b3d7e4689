"""By which method an orbit is followed."""

from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from gflow.internal import Pace, on_device, side_by_side
from gflow.solvers import Dopri8, Rodas5P

from ._fast_system import FastSystem, OrbitLeaf, by_piece
from ._motion import STEPS, marched, velocity_jacobian
from ._radau import Pacing, Slopes, attempt

#: An orbit that takes more than so many explicit rounds is stiff.
_EXPLICIT = 8
#: A tolerance that every error meets.
_ANY = 1e300
#: Up to this many state components a Rosenbrock step is cheap.
_DENSE = 400
#: With a tolerance above this Rosenbrock steps, of lower order, are not much shorter.
_LOOSE = 1e-7
#: What is asked of a Radau step as a share of the tolerance: the errors of an orbit add up.
_SHARE = 0.1
#: Attempted steps by the method of a stiff orbit.
_STEPS = 7680
#: Attempted Radau steps in one round.
_ATTEMPTS = 16
#: How a method goes on: the `Pace` of `march`, or the `Pacing` of Radau.
Going = Any


class Marched(NamedTuple):
    """A solver of Diffrax's kind, and the error that each of its steps may have."""

    solver: diffrax.AbstractAdaptiveSolver
    error: float

    def advance(
        self, fast: FastSystem, state: np.ndarray, elapsed: float, least: float, pace: Going
    ) -> tuple[np.ndarray, np.ndarray, Going]:
        """A round of steps from `state`: times from there, states, and the pace to go on at.

        `elapsed`: since the orbit began. `least`: the length that any step may have.
        """
        numbers = (on_device(np.asarray(x)) for x in (self.error, elapsed, least, np.inf))
        steps = marched(fast, on_device(state), pace, *numbers, self.solver)
        kept = np.asarray(steps.kept)
        return np.asarray(steps.t)[kept], np.asarray(steps.state)[kept], steps.pace

    def one_step(self, fast: FastSystem, state: np.ndarray, step: float) -> np.ndarray:
        """The state after one step of this length, whatever its error."""
        numbers = (on_device(np.asarray(x)) for x in (_ANY, 0.0, step, step))
        pace = Pace.at(on_device(step))
        steps = marched(fast, on_device(state), pace, *numbers, self.solver)
        return np.asarray(steps.state)[np.asarray(steps.kept)][-1]


class Radau(NamedTuple):
    """Steps whose Jacobian costs as many derivatives of the loss as there are active components.

    Dormant ones move none but those of their own piece, a block for each.
    """

    error: float

    def advance(
        self, fast: FastSystem, state: np.ndarray, elapsed: float, least: float, pace: Going
    ) -> tuple[np.ndarray, np.ndarray, Going]:
        """A round of steps, as `Marched.advance`."""
        t, times, states = 0.0, [], []
        for _ in range(_ATTEMPTS):
            pace, length, new = self._step(fast, state, pace, elapsed + t + least)
            if new is not None:
                t, state = t + length, new
                times.append(t)
                states.append(state)
        return np.array(times), np.array(states).reshape(-1, state.size), pace

    def one_step(self, fast: FastSystem, state: np.ndarray, step: float) -> np.ndarray:
        """The state after this time, in as many steps as it takes."""
        t, pace = 0.0, Pacing(step)
        while t < step:
            last = pace.step >= step - t
            pace, length, new = self._step(fast, state, pace, step - t)
            if new is not None:
                t, state = (step if last else t + length), new
        return state

    def _step(
        self, fast: FastSystem, state: np.ndarray, pace: Pacing, longest: float
    ) -> tuple[Pacing, float, np.ndarray | None]:
        """How to go on, the length of a step and, if it is accepted, the state after it."""

        def rates(z: np.ndarray) -> np.ndarray:
            rows = np.concatenate([state + z, state[None]])
            return np.asarray(_velocities(fast, on_device(rows)))

        if pace.step > longest:
            pace = Pacing(longest, None, pace.before)
        taken = attempt(rates, lambda: _slopes(fast, state), state.size, pace, self.error)
        if taken.stages is None:
            return taken.pacing, taken.length, None
        new = state + taken.stages[-1]
        if any(p.drifts for p in fast.pieces):
            new = np.asarray(_recentred(fast, on_device(new)))
        return taken.pacing, taken.length, new


def _slopes(fast: FastSystem, state: np.ndarray) -> Slopes:
    """The Jacobian: of the active components, and of the dormant ones of every piece."""
    active, first = fast.active, 0
    columns = velocity_jacobian(fast, state, active)
    alike: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    for block in map(np.asarray, _own_slopes(fast, on_device(state))):
        own = np.flatnonzero(~active[first : first + len(block)])
        alike.setdefault(len(own), []).append((first + own, block[np.ix_(own, own)]))
        first += len(block)
    groups = (list(zip(*x, strict=True)) for n, x in alike.items() if n)
    blocks = [(np.stack(index), np.stack(slopes)) for index, slopes in groups]
    return Slopes(np.flatnonzero(active), columns, blocks)


@eqx.filter_jit
def _velocities(fast: FastSystem, states: Array) -> Array:
    return jax.vmap(lambda x: fast.velocity(x))(states)


@eqx.filter_jit
def _own_slopes(fast: FastSystem, state: Array) -> list[Array]:
    """Of every piece ∂v along its own state, the forces held."""
    _, forces = fast.flow.forces(fast.weights(state))
    rows = fast.split(state), by_piece(forces, fast.layout)
    return side_by_side(_own_slope, fast.pieces, *rows)


def _own_slope(piece: OrbitLeaf, flat: Array, force: Array) -> Array:
    return jax.jacfwd(lambda x: piece.at(x).velocity(force))(flat)


@eqx.filter_jit
def _recentred(fast: FastSystem, state: Array) -> Array:
    return fast.recentred(state)


#: By which a step of an orbit is taken.
Method = Marched | Radau


class Methods(NamedTuple):
    """By which an orbit is followed: so many `rounds` of `first`, then where it is stiff.

    `most`: rounds in all.
    """

    rounds: int
    most: int
    first: Method
    stiff: Method

    @classmethod
    def of(cls, size: int, tolerance: float) -> "Methods":
        """For a state of this size, with this error a step."""
        if size > _DENSE:
            radau = Radau(_SHARE * tolerance)
            return cls(0, _STEPS // _ATTEMPTS, radau, radau)
        rounds = _EXPLICIT * min(1 + size // 13, 1 + int((_LOOSE / tolerance) ** 0.2))
        first, stiff = Marched(Dopri8(), tolerance), Marched(Rodas5P(), tolerance)
        return cls(rounds, rounds + _STEPS // STEPS, first, stiff)

    def at(self, number: int) -> Method:
        """For a round of this number."""
        return self.first if number < self.rounds else self.stiff

    def start(self, step: float) -> Going:
        """To set out with a step of this length."""
        return Pacing(step) if isinstance(self.first, Radau) else Pace.at(on_device(step))
