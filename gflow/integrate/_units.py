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
from ..coordinates._units import Binding
from ..flow._flow import Flow
from ._field import Landing, Pace
from ._interfaces import DROWNED, turned

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
#: E-folds between two units beyond which what joins them is nothing.
BEYOND = math.log(1e9)
#: By what a step is shortened after which a dormant unit has drowned in a live one.
SHORTER = 0.25
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
    #: The leaves and their axes that meet at every interface.
    interfaces: tuple[tuple[tuple[int, int], ...], ...] = eqx.field(static=True, default=())

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
    def _bindings(self) -> list[Binding]:
        return [c.binding for c in self.coordinates]

    @property
    def first(self) -> list[int]:
        """The number of the first unit of every leaf."""
        first = np.cumsum([0, *self.counts])
        return [int(first[k]) for k in self.labels]

    @property
    def owner(self) -> np.ndarray:
        """The unit that each component of the state but the last belongs to."""
        own = [n + b.owner for n, b in zip(self.first, self._bindings, strict=True)]
        return np.concatenate([*own, np.arange(self.units)])

    def among(self, chosen: np.ndarray) -> np.ndarray:
        """By entry of the weights, whether it is of chosen units and joins them to no other."""
        parts = zip(self.first, self._bindings, strict=True)
        return np.concatenate([np.all(chosen[n + b.places], axis=0) for n, b in parts])

    def in_units(self, weights: list[Array]) -> list[Array]:
        """Directions of weights in the bases of the leaves, and the log-sizes of all units."""
        owner = self.owner[: -self.units]
        flat = jnp.concatenate([w.ravel() for w in weights])
        mine = owner[None] == np.arange(self.units)[:, None]
        top = jnp.max(jnp.where(mine, jnp.abs(flat)[None], 0.0), axis=1)
        x = flat / top[owner]
        norm = jnp.sqrt(jnp.matmul(jnp.asarray(mine, x.dtype), x**2))
        return [x / norm[owner], jnp.log(top) + jnp.log(norm)]

    def _based(self, bases: list[tuple[Array, ...]], now: Clockwork) -> "UnitFlow":
        pairs = zip(self.coordinates, bases, strict=True)
        made = tuple(c.framed(b) for c, b in pairs)
        return dataclasses.replace(self, coordinates=made, clockwork=now)

    def start(self) -> Float[Array, " size"]:
        first = [self.labels.index(k) for k in range(len(self.counts))]
        directions = [c.direction.ravel() for c in self.coordinates]
        sizes = [self.coordinates[i].log_size for i in first]
        return jnp.concatenate([*directions, *sizes, jnp.zeros((1,), self.dtype)])

    def _parts(self, state: Array) -> tuple[list[Array], list[Array]]:
        """Directions of the leaves, flat, and log-sizes by label."""
        sizes = [*self._entries, *self.counts]
        cuts = np.cumsum(sizes).tolist()
        found = jnp.split(state[: cuts[-1]], cuts[:-1])
        count = len(self.labels)
        return found[:count], found[count:]

    def split(self, state: Float[Array, " size"]) -> list[Array]:
        xs, logs = self._parts(state)
        return [jnp.concatenate([x, logs[k]]) for k, x in zip(self.labels, xs, strict=True)]

    def _by_unit(self, entries: list[Array]) -> Float[Array, " units"]:
        """Sums of the entries of all leaves."""
        sums: list[Any] = [0.0] * len(self.counts)
        for k, binding, x in zip(self.labels, self._bindings, entries, strict=True):
            sums[k] = sums[k] + binding.sums(x)
        return jnp.concatenate(sums)

    def _of_leaves(self, numbers: Array) -> list[Array]:
        """Numbers of all units, those of each leaf."""
        parts = jnp.split(numbers, np.cumsum(self.counts)[:-1].tolist())
        return [parts[k] for k in self.labels]

    def _spread(self, numbers: Array) -> list[Array]:
        """Numbers of all units, by the entries of each leaf."""
        parts = zip(self._bindings, self._of_leaves(numbers), strict=True)
        return [binding.spread(own) for binding, own in parts]

    def _across(self, frozen: Array) -> list[Array]:
        """By leaf, where an entry of a unit that is not frozen joins it to one that is."""
        parts = zip(self._bindings, self._of_leaves(frozen), strict=True)
        return [jnp.any(own[b.places], axis=0) & ~own[b.owner] for b, own in parts]

    def _parted(self, state: Array, frozen: Array) -> Array:
        """The same point without what joins dormant units to frozen ones that are far larger.

        Beside a unit by ρ smaller that is ρ, and was found to the tolerance of steps; the force
        that a live unit leaves is rounding, and through such an entry it would do more than all
        else to the smallest.
        """
        if not self.interfaces:
            return state
        logs = jnp.concatenate(self._parts(state)[1])
        parts = zip(self._bindings, self._of_leaves(logs), strict=True)
        above = [jnp.max(own[b.places], axis=0) - own[b.owner] for b, own in parts]
        held = jnp.concatenate(self._across(frozen)) & (jnp.concatenate(above) > BEYOND)
        return state.at[: len(held)].set(jnp.where(held, 0.0, state[: len(held)]))

    # the flow

    def rates(self, state: Array, k0: Float[Array, ""]) -> tuple[Array, Array, Array]:
        """Rates of directions and log-sizes in units of k0, g by entry, and |X|² by unit."""
        # of which nothing depends on what is held
        state = self._parted(state, self.clockwork.frozen)
        xs, logs = self._parts(state)
        _, forces = self.forces(self.weights(state))
        sizes = self._spread(jnp.concatenate(logs))
        gs = [
            forces[name].ravel() * jnp.exp(-size) / k0
            for name, size in zip(self.names, sizes, strict=True)
        ]
        if self.interfaces:
            across = self._across(self.clockwork.frozen)
            gs = [jnp.where(held, 0.0, g) for g, held in zip(gs, across, strict=True)]
        square = self._by_unit([x**2 for x in xs])
        growth = self._by_unit([g * x for g, x in zip(gs, xs, strict=True)]) / square
        turned = [g - a * x for g, a, x in zip(gs, self._spread(growth), xs, strict=True)]
        speed = self._by_unit([g**2 for g in gs]) / square
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
        norm = jnp.sqrt(self._by_unit([x**2 for x in xs]))
        xs = [x / n for x, n in zip(xs, self._spread(norm), strict=True)]
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
        let_go = dataclasses.replace(now, frozen=now.frozen & ~broken)
        again = jnp.any(broken)
        bases = before_bases = [c.bases for c in self.coordinates]
        if self.interfaces:
            bases, state, order, drowned = turned(self, state)
            shorter = dataclasses.replace(let_go, stride=SHORTER * now.stride)
            late = drowned > DROWNED
            let_go = jax.tree.map(lambda a, b: jnp.where(late, a, b), shorter, let_go)
            again = again | late
            now = dataclasses.replace(now, moving=now.moving[order], frozen=now.frozen[order])
            state = self._parted(state, now.frozen)
            speed, rest = self._based(bases, now).look(state, now.k0)
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
        frame = jax.tree.map(
            lambda a, b: jnp.where(again, a, b), (let_go, before_bases), (after, bases)
        )
        state = self._parted(state, frozen).at[-1].set(lapse)
        return Landing((*frame, self.kinks.frame()), state, jnp.array(True), again)

    def followed(self, state: Float[Array, " size"], frame: Any, own: PyTree[Array]) -> Any:
        """A companion has the clock of the run: what the two differ by are the steps."""
        lapse = state[-1] / self.clockwork.k0
        now, bases, kinks = own
        if self.interfaces:
            bases, state, _, _ = turned(self.framed(own), state)
        now = dataclasses.replace(now, elapsed=now.elapsed + lapse) if frame is None else frame[0]
        state = self._parted(state, now.frozen).at[-1].set(lapse)
        return state, (now, bases, kinks if frame is None else frame[-1])

    def paced(self, frame: Any, pace: Pace) -> tuple[Any, Pace]:
        clockwork, *rest = frame
        stride = clockwork.stride * pace.step
        now = Pace(jnp.ones_like(pace.step), pace.kept_step / pace.step, pace.kept_error)
        return (dataclasses.replace(clockwork, stride=stride), *rest), now

    # frames and records

    @property
    def moving(self) -> dict[str, PyTree[Array]]:
        return super().moving | {"clockwork": self.clockwork, "first_loss": self.first_loss}

    def frame(self) -> tuple[PyTree[Array], ...]:
        return self.clockwork, [c.bases for c in self.coordinates], self.kinks.frame()

    def framed(self, frame: tuple[PyTree[Array], ...]) -> "UnitFlow":
        clockwork, bases, kinks = frame
        based = self._based(bases, clockwork)
        return dataclasses.replace(based, kinks=self.kinks.framed(kinks))

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
