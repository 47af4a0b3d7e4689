"""A gradient flow of units in clocks of its steps: all saddles of order three and more."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from ..coordinates._record import LeafRecord
from ..flow._flow import Flow
from ._field import Landing, Pace

#: Relative speeds of a unit below which it has settled, and from which on it moves again.
SETTLED, MOVING = 1e-3, 1e-2
#: Those below which it is held, at and above which it is let go, and that a step may not end with.
FROZEN, LET_GO, BROKEN = 1e-12, 1e-11, 1e-9
#: A settled unit is at most so many e-folds smaller than the largest.
SMALL = math.log(1e3)
#: Share of the first loss by which a step changes it from which on its time is a local one.
LOCAL = 1e-6
#: Weights of t in the clock: where speeds grow, and elsewhere (t itself).
GROWTH, PLAIN = 1e-6, 1e8
#: The first step, in units of the fastest rate; and how far a step in which speeds grow must go.
FIRST, FAR = 1e-2, 1e-3
#: The slowest rate.
SLOWEST = 1e-290


class Clockwork(eqx.Module):
    """What a step of units is taken in, chosen anew after every step.

    Rates are in units of `k0`, that of the units of `moving` at its start; `floor` is the weight
    of t in the clock, and the step is 1 in units of `stride`. Units that are `frozen` stay
    where they are. `elapsed` is the flow time at the start of the step.
    """

    k0: Float[Array, "..."]
    floor: Float[Array, "..."]
    stride: Float[Array, "..."]
    elapsed: Float[Array, "..."]
    moving: Bool[Array, "... units"]
    frozen: Bool[Array, "... units"]


class UnitFlow(Flow):
    r"""The flow of units w_h = e^{ℓ_h} X_h, |X_h| = 1, each bound across leaves. With g = e^{−ℓ}G

        X' = g − ⟨g, X⟩X/|X|²,    ℓ' = ⟨g, X⟩/|X|²,    G = −∂L/∂w,

    exact for any |X|; lengths are made one after every step. One step is taken in one clock r,

        dr = κ dt,   κ² = (S + c²k₀²)/(1 + c²),   S = Σ_{h ∈ C} |g_h|²/|X_h|²,

    with k₀² = S at its start and C the units that have not settled. A dormant unit that has won has
    ℓ' = κ through its whole drop. Where speeds fall, t itself is the clock (c ≫ 1). Rates of units
    that rest to rounding are set to zero: live units have neutral directions, (v, k, q) →
    (av, bk, q/ab), in which a step longer than the rounding of their rates would divide noise by
    noise.

    The time of the integration counts steps: each is of length one, or what is left of one after
    rejections, and r runs by `stride` in it. The last component of the state is the flow time since
    the start of the step, in units of 1/k₀ within a step and in its own where one has ended.
    """

    clockwork: Clockwork = dataclasses.field(kw_only=True)
    #: Loss at the start, by which changes of it are measured.
    first_loss: Float[Array, "..."] = dataclasses.field(kw_only=True)
    #: Which label the leaves have, by number, and how many units every label has.
    labels: tuple[int, ...] = eqx.field(static=True, kw_only=True)
    counts: tuple[int, ...] = eqx.field(static=True, kw_only=True)

    grow: ClassVar[float] = 1e3
    stretches: ClassVar[bool] = False

    # the state: directions of all leaves, log-sizes label by label, time

    @property
    def units(self) -> int:
        return sum(self.counts)

    @property
    def _entries(self) -> list[int]:
        return [c.direction.size for c in self.coordinates]

    @property
    def size(self) -> int:
        return sum(self._entries) + self.units + 1

    @property
    def owner(self) -> np.ndarray:
        """The unit that each component of the state but the last belongs to."""
        first = np.cumsum([0, *self.counts])
        rows = [
            np.repeat(first[k] + np.arange(self.counts[k]), n // self.counts[k])
            for k, n in zip(self.labels, self._entries, strict=True)
        ]
        return np.concatenate([*rows, np.arange(self.units)])

    def start(self) -> Float[Array, " size"]:
        first = [self.labels.index(k) for k in range(len(self.counts))]
        directions = [c.direction.ravel() for c in self.coordinates]
        sizes = [self.coordinates[i].log_size for i in first]
        return jnp.concatenate([*directions, *sizes, jnp.zeros((1,), self.dtype)])

    def _parts(self, state: Array) -> tuple[list[Array], list[Array]]:
        """Directions of the leaves, (units, entries) each, and log-sizes by label."""
        sizes = [*self._entries, *self.counts]
        cuts = np.cumsum(sizes).tolist()
        found = jnp.split(state[: cuts[-1]], cuts[:-1])
        count = len(self.labels)
        xs = [x.reshape(self.counts[k], -1) for k, x in zip(self.labels, found, strict=False)]
        return xs, found[count:]

    def split(self, state: Float[Array, " size"]) -> list[Array]:
        xs, logs = self._parts(state)
        return [jnp.concatenate([x.ravel(), logs[k]]) for k, x in zip(self.labels, xs, strict=True)]

    def _by_unit(self, rows: list[Array]) -> Float[Array, " units"]:
        """Sums over all leaves of numbers (units,) of each."""
        sums: list[Any] = [0.0] * len(self.counts)
        for k, row in zip(self.labels, rows, strict=True):
            sums[k] = sums[k] + row
        return jnp.concatenate(sums)

    def _of_leaves(self, numbers: Array) -> list[Array]:
        """Numbers of all units, those of each leaf."""
        parts = jnp.split(numbers, np.cumsum(self.counts)[:-1].tolist())
        return [parts[k] for k in self.labels]

    # the flow

    def rates(self, state: Array, k0: Float[Array, ""]) -> tuple[Array, Array, Array]:
        """Rates of directions and log-sizes in units of k0, g by entry, and |X|² by unit."""
        xs, logs = self._parts(state)
        _, forces = self.forces(self.weights(state))
        gs = [
            forces[name].reshape(x.shape) * jnp.exp(-logs[k])[:, None] / k0
            for name, k, x in zip(self.names, self.labels, xs, strict=True)
        ]
        square = self._by_unit([jnp.sum(x**2, axis=1) for x in xs])
        along = [jnp.sum(g * x, axis=1) for g, x in zip(gs, xs, strict=True)]
        growth = self._by_unit(along) / square
        turned = [
            (g - a[:, None] * x).ravel()
            for g, a, x in zip(gs, self._of_leaves(growth), xs, strict=True)
        ]
        speed = self._by_unit([jnp.sum(g**2, axis=1) for g in gs]) / square
        return jnp.concatenate([*turned, growth]), speed, square

    def _clocked(self, state: Array) -> tuple[Array, Array]:
        """Rates in units of k0, and κ."""
        now = self.clockwork
        rates, speed, _ = self.rates(state, now.k0)
        whole = jnp.sum(jnp.where(now.moving, speed, 0.0))
        kappa = jnp.sqrt((whole + now.floor**2) / (1.0 + now.floor**2))
        held = now.frozen[self.owner]
        return jnp.where(held, 0.0, rates), kappa

    def motion(self, t: Float[Array, ""], state: Float[Array, " size"]) -> Array:
        rates, kappa = self._clocked(state)
        return self.clockwork.stride * jnp.append(rates, 1.0) / kappa

    def look(self, state: Array, k0: Float[Array, ""]) -> tuple[Array, Array]:
        """Relative speed of every unit (|X| = 1) in units of k0, and how far it is from rest.

        That is the largest rate over the largest entry of the Jacobian in the unit itself.
        """

        def rates(y):
            found, _, _ = self.rates(y, k0)
            return found, found

        whole, found = jax.jacfwd(rates, has_aux=True)(state[:-1])
        owner = self.owner
        own = jnp.max(jnp.where(owner[:, None] == owner[None], jnp.abs(whole), 0.0), axis=1)
        mine = owner[None] == np.arange(self.units)[:, None]
        stiff = jnp.max(jnp.where(mine, own[None], 0.0), axis=1)
        fast = jnp.max(jnp.where(mine, jnp.abs(found)[None], 0.0), axis=1)
        # |X| = 1; the squares of the slowest would vanish
        share = jnp.where(mine, found[None] / jnp.where(fast > 0.0, fast, 1.0)[:, None], 0.0)
        speed = fast * jnp.sqrt(jnp.sum(share**2, axis=1))
        return speed, fast / jnp.where(stiff > 0.0, stiff, 1.0)

    def sets(self, state: Array, rest: Array, now: Clockwork) -> tuple[Array, Array]:
        """Which units move and which are frozen, with hysteresis."""
        logs = state[-1 - self.units : -1]
        settled = jnp.where(now.moving, rest < SETTLED, rest < MOVING)
        settled = settled & (logs > jnp.max(logs) - SMALL)
        frozen = settled & jnp.where(now.frozen, rest < LET_GO, rest < FROZEN)
        return ~settled, frozen

    def renormalised(self, state: Array) -> Array:
        """The same point with directions of norm one."""
        xs, logs = self._parts(state)
        norm = jnp.sqrt(self._by_unit([jnp.sum(x**2, axis=1) for x in xs]))
        xs = [(x / n[:, None]).ravel() for x, n in zip(xs, self._of_leaves(norm), strict=True)]
        return jnp.concatenate([*xs, jnp.concatenate(logs) + jnp.log(norm), state[-1:]])

    # steps

    def first_step(self, t: Float[Array, ""], rtol: Float[Array, ""]) -> Float[Array, ""]:
        one = jnp.ones((), self.dtype)
        return jnp.where(self.clockwork.k0 > SLOWEST, one, jnp.inf)

    def horizon(
        self, t: Float[Array, ""], state: Float[Array, " size"], atol: Float[Array, " size"]
    ) -> Float[Array, ""]:
        return jnp.asarray(jnp.inf, self.dtype)

    def tolerance(self, rtol: Float[Array, ""]) -> tuple[Array, Array]:
        zero = jnp.zeros_like(self.start())
        return zero + rtol, zero

    def allowed(
        self, tolerance: tuple[Array, Array], before: Float[Array, " size"],
        state: Float[Array, " size"],
    ) -> Float[Array, " size"]:  # fmt: skip
        """That of the time is relative to all of it, in a drop to the time scale of the drop."""
        atol, _ = tolerance
        old, new = (self.loss(self.weights(y)) for y in (before, state))
        drops = jnp.abs(new - old) > LOCAL * jnp.maximum(jnp.abs(self.first_loss), jnp.abs(new))
        now = self.clockwork
        scale = jnp.where(drops, 1.0, now.k0 * now.elapsed)
        return atol.at[-1].multiply(jnp.maximum(scale, state[-1]))

    def begun(self, state: Float[Array, " size"]) -> Array:
        return state.at[-1].set(0.0)

    def recentred(self, state: Float[Array, " size"]) -> tuple[Any, Array, Array]:
        return self.frame(), self.renormalised(state), jnp.array(False)

    def landed(
        self, before: Float[Array, " size"], state: Float[Array, " size"], h: Float[Array, ""]
    ) -> Landing:
        now = self.clockwork
        lapse = state[-1] / now.k0
        state = self.renormalised(state)
        _, end = self._clocked(state)
        speed, rest = self.look(state, now.k0)
        broken = now.frozen & ~(rest < BROKEN)
        moving, frozen = self.sets(state, rest, now)
        k0 = jnp.maximum(now.k0 * rate_of(speed, moving), SLOWEST)
        grows = (k0 > now.k0) & (h * now.stride > FAR)
        after = Clockwork(
            k0=k0,
            floor=jnp.where(grows, GROWTH, PLAIN),
            stride=now.stride * (k0 / now.k0) / end,
            elapsed=now.elapsed + lapse,
            moving=moving,
            frozen=frozen,
        )
        again = jnp.any(broken)
        let_go = dataclasses.replace(now, frozen=now.frozen & ~broken)
        clockwork = jax.tree.map(lambda a, b: jnp.where(again, a, b), let_go, after)
        frame = clockwork, self.kinks.frame()
        return Landing(frame, state.at[-1].set(lapse), jnp.array(True), again)

    def followed(self, state: Float[Array, " size"], frame: Any, own: PyTree[Array]) -> Any:
        """A companion has the clock of the run: what the two differ by are the steps."""
        lapse = state[-1] / self.clockwork.k0
        if frame is None:
            now = own[0]
            frame = dataclasses.replace(now, elapsed=now.elapsed + lapse), own[1]
        return state.at[-1].set(lapse), frame

    def paced(self, frame: Any, pace: Pace) -> tuple[Any, Pace]:
        clockwork, kinks = frame
        stride = clockwork.stride * pace.step
        now = Pace(jnp.ones_like(pace.step), pace.kept_step / pace.step, pace.kept_error)
        return (dataclasses.replace(clockwork, stride=stride), kinks), now

    # frames and records

    @property
    def moving(self) -> dict[str, PyTree[Array]]:
        return super().moving | {"clockwork": self.clockwork, "first_loss": self.first_loss}

    def frame(self) -> tuple[PyTree[Array], ...]:
        return self.clockwork, self.kinks.frame()

    def framed(self, frame: tuple[PyTree[Array], ...]) -> "UnitFlow":
        clockwork, kinks = frame
        return dataclasses.replace(self, clockwork=clockwork, kinks=self.kinks.framed(kinks))

    def resumed(self, record: Mapping[str, Any], frame: tuple[PyTree[Array], ...]) -> Flow:
        there: Any = super().resumed(record, frame)
        return dataclasses.replace(there, clockwork=frame[0])

    def at(self, leaves: Mapping[str, LeafRecord]) -> "UnitFlow":
        there: Any = super().at(leaves)
        some = [leaves[self.names[self.labels.index(k)]] for k in range(len(self.counts))]
        numbers = {n: some[0][n] for n in ("k0", "floor", "stride", "elapsed")}
        sets = {n: jnp.concatenate([leaf[n] for leaf in some]) for n in ("moving", "frozen")}
        return dataclasses.replace(there, clockwork=Clockwork(**numbers, **sets))

    def record(self, t: Float[Array, ""], state: Float[Array, " size"]) -> dict[str, Any]:
        """That of the flow, with the flow time that the step took, and what the next is taken in.

        `elapsed` is the time of the run itself, to rounding.
        """
        found = super().record(t, state)
        now, leaves = self.clockwork, found["leaves"]
        sets = self._of_leaves(now.moving), self._of_leaves(now.frozen)
        for name, moving, frozen in zip(self.names, *sets, strict=True):
            numbers = {n: getattr(now, n) for n in ("k0", "floor", "stride", "elapsed")}
            more = numbers | {"moving": moving, "frozen": frozen}
            leaves[name] = LeafRecord({**leaves[name].arrays, **more}, leaves[name].chart)
        return found | {"lapse": state[-1], "elapsed": now.elapsed}


def rate_of(speed: Array, moving: Array) -> Array:
    """The rate that sets the clock, the squares of speeds scaled."""
    speed = jnp.where(moving | ~jnp.any(moving), speed, 0.0)
    top = jnp.max(speed)
    share = speed / jnp.where(top > 0.0, top, 1.0)
    return top * jnp.sqrt(jnp.sum(share**2))
