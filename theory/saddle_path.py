"""The limit algorithm: from saddle to saddle, with the times of the transitions.

At a saddle every dormant mode has size e^{b − eΛ} and grows at a rate of its own, so that the
next one to become O(1) is the one with the smallest e/rate, and

    T ← T + e/rate,   C ← C + (x_m − b)/rate,

where x_m + rate·s is its log-size on the orbit that connects the two saddles, with s = 0 at the
level that defines the time. The exponents of the others fall by rate·ΔT; their b gain rate·ΔC
and what the orbit adds to their plateau rates. The offsets C are matched asymptotics of this
project: at finite α the transition is at T·Λ + C up to a power of α.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from gflow.flow import Flow

from .curves import Curves
from .fast import Fast, Layout, assembled
from .kinks import Kink, find_kink, has_kinks
from .orbits import Degenerate, Orbit, Unbounded, connect
from .part import FORCE_FLOOR, Part, Passage
from .prediction import Coordinate, Prediction, Stage, Start, coordinate_label

#: Candidates whose times agree to this relative accuracy are tied.
_TIE = 1e-9
#: Log-size at which the leading winner enters its orbit: its weight is about e^{-40}.
_ENTRY = -20.0


class _Winner(NamedTuple):
    part: int
    item: int
    rate: float
    size: float


class SaddlePath:
    """The state of the limit algorithm: parts at a saddle, and the time."""

    def __init__(self, flow: Flow, parts: Sequence[Part], log_alpha: float, elapsed: float, rtol):
        self.flow, self.parts, self.log_alpha, self.elapsed = flow, parts, log_alpha, elapsed
        self.tolerance = 0.2 * rtol
        self.layout = tuple((p.name, p.head) for p in parts)
        self.tau, self.offset = elapsed / -log_alpha, 0.0
        self.copies: list[set[Coordinate]] = []
        self.loss, forces = self._evaluate()
        # a start at rest has no force to compare with: that at zero weights sets the unit
        at_zero = self._evaluate([np.zeros_like(p.weight) for p in parts])[1]
        self.force_scale = max(_norm(g) for g in (*forces, *at_zero))
        self.kinked = has_kinks(flow, parts)
        if self.kinked and not any(p.active for p in parts):
            self._refuse_kinks()
        if not self.force_scale > 0:
            raise ValueError(
                "No weight feels a force at the start, so nothing ever escapes from it. In an "
                "attention model make sure that value–output weights see a gradient at zero."
            )
        self.floor = FORCE_FLOOR * self.force_scale
        for part, force in zip(parts, forces, strict=True):
            part.feel(force, self.floor)

    def follow(self, max_stages: int, source: str, validity: str) -> Prediction:
        if any(p.active for p in self.parts):
            self._settle()
            self._refuse_kinks()
        start = Start(self.tau, self._values(), self.loss, self._ranks())
        stages: list[Stage] = []
        orbits: list[Orbit] = []
        plateaus = [[p.snapshot() for p in self.parts]]
        ended = f"stopped at max_stages = {max_stages}"
        while len(stages) < max_stages:
            try:
                found = self._next_stage(len(stages) + 1)
            except Degenerate as error:
                ended = str(error)
                warnings.warn(f"The saddle path is predicted up to here: {error}", stacklevel=3)
                break
            if found is None:
                ended = "complete: nothing that is dormant feels a force that makes it grow"
                if held_back := sum(p.held_back for p in self.parts):
                    ended += f"; decay holds {held_back} back that would"
                break
            stages.append(found[0])
            orbits.append(found[1])
            plateaus.append([p.snapshot() for p in self.parts])
        curves = Curves(start, orbits, plateaus, self.layout, self.flow.names)
        return Prediction(start, stages, source, validity, ended, curves)

    def _kink(self) -> Kink | None:
        """What the force on a dormant weight depends on besides the saddle, if anything."""
        if not self.kinked:
            return None
        return find_kink(self.flow, self.parts, self.log_alpha, self.force_scale)

    def _refuse_kinks(self) -> None:
        if kink := self._kink():
            raise ValueError(f"At the start {kink}.")

    def _evaluate(self, weights: Sequence[np.ndarray] | None = None):
        """Loss and the force on every part, here or at other weights."""
        weights = [p.weight for p in self.parts] if weights is None else weights
        loss, force = _loss_and_force(self.flow, self._by_leaf(weights))
        return float(loss), [np.asarray(force[name])[head] for name, head in self.layout]

    def _values(self) -> dict[str, np.ndarray]:
        return self._by_leaf([p.weight for p in self.parts])

    def _ranks(self) -> dict[str, np.ndarray]:
        return self._by_leaf([p.rank for p in self.parts])

    def _by_leaf(self, parts: Sequence[np.ndarray]) -> dict[str, Any]:
        whole = assembled(parts, self.layout, self.flow.names)
        return {name: np.asarray(x) for name, x in whole.items()}

    def _settle(self) -> None:
        """From an active start to the saddle below it, before anything else escapes.

        In a model taken from a run, modes still far below this saddle are not part of it: they
        are on their way to the next and wait like dormant ones.
        """
        while True:
            orbit = self._connect([{} for _ in self.parts], (), "from the start")
            largest = max(float(np.max(np.abs(w))) for w in orbit.saddle_weights.values())
            passages = self._passages(orbit)
            if self.elapsed == 0.0:
                break
            deferred = [
                p.defer(passage, largest, self.log_alpha)
                for p, passage in zip(self.parts, passages, strict=True)
            ]
            if not any(deferred):
                break
            if not any(p.active for p in self.parts):
                self.loss, forces = self._evaluate()
                for part, force in zip(self.parts, forces, strict=True):
                    part.feel(force, self.floor)
                return
        self._land([{} for _ in self.parts], orbit)

    def _next_stage(self, number: int) -> tuple[Stage, Orbit] | None:
        due = [p.due() for p in self.parts]
        wait = np.concatenate([d.wait for d in due])
        best = float(np.min(wait, initial=math.inf))
        if number > 1 and (kink := self._kink()):
            raise Degenerate(f"At stage {number} {kink}")
        if not math.isfinite(best):
            return None
        tied = np.flatnonzero(wait <= best * (1 + _TIE) + 1e-300)
        modes = [(i, j) for i, d in enumerate(due) for j in range(len(d.wait))]
        winners = [
            _Winner(i, j, float(due[i].rate[j]), float(due[i].size[j]))
            for i, j in (modes[k] for k in tied)
        ]
        twins = self._twins(winners, number) if len(winners) > 1 else ()
        leader = max(winners, key=lambda w: -math.inf if math.isnan(w.size) else w.size)

        wait[tied] = math.inf
        margin = float(np.min(wait)) - best
        rival = modes[int(np.argmin(wait))] if math.isfinite(margin) else None
        entries: list[dict[int, float]] = [{} for _ in self.parts]
        for w in winners:
            apart = w.size - leader.size if len(winners) > 1 else 0.0
            entries[w.part][w.item] = _ENTRY + apart
        switched = {c: w for w in winners for c in [self._coordinate(w.part, w.item)]}
        before = [set(p.active) for p in self.parts]
        for p in self.parts:
            p.wait(best, 0.0)
        orbit = self._connect(entries, twins, f"stage {number}")
        level, crossing = self._level(orbit, leader)
        orbit = orbit.shifted(crossing)
        shift = (_ENTRY - leader.rate * float(orbit.s[0]) - leader.size) / leader.rate
        for p in self.parts:
            p.wait(0.0, shift)
        self.tau, self.offset = self.tau + best, self.offset + shift
        if rival is not None:
            rival = self._standing(*rival)
        if len(winners) > 1:
            self.copies.append(set(switched))
        self._land(entries, orbit)

        on, off = [], []
        for was, p in zip(before, self.parts, strict=True):
            on += [c for c in p.active if c not in was]
            off += sorted(was - set(p.active))
        share = {c: math.exp(2.0 * (w.size - leader.size)) for c, w in switched.items()}
        stage = Stage(
            tau=self.tau,
            offset=self.offset,
            activated=on,
            deactivated=off,
            value=self._values(),
            loss=self.loss,
            rank=self._ranks(),
            margin=margin,
            level=level,
            curvature=self._curvature(),
            rate=leader.rate,
            rival=rival,
            shares={c: x / sum(share.values()) for c, x in share.items()} if len(share) > 1 else {},
        )
        return stage, orbit

    def _coordinate(self, part: int, item: int) -> Coordinate:
        return self.parts[part].coordinate(item)

    def _standing(self, part: int, item: int) -> tuple[Coordinate, float, float]:
        """Exponent and log-size of a dormant mode now."""
        return self._coordinate(part, item), *self.parts[part].stands(item)

    def _twins(self, winners: list[_Winner], number: int) -> tuple[int, ...]:
        """Equal times are no accident between copies: one feature in several heads or layers.

        Copies grow at one rate, so their sizes keep the ratio the factors gave them until the
        orbit, which is followed from that ratio; the shares are the squares of the sizes.
        """
        names = ", ".join(coordinate_label(self._coordinate(w.part, w.item)) for w in winners)
        kinds = {self.parts[w.part].copies(w.item) for w in winners}
        rates = [w.rate for w in winners]
        if len(kinds) > 1 or np.ptp(rates) > _TIE * abs(rates[0]):
            raise ValueError(
                f"An accidental tie: {names} would switch at the same τ without being copies "
                "(one feature in several heads or layers), and the limit α → 0 does not decide "
                "which comes first. Perturb the data, or give Hadamard leaves unequal exponents "
                "(Hadamard.from_scales)."
            )
        parts = [self.parts[w.part] for w in winners]
        if not all(p.directed for p in parts):
            return ()
        if any(p.active for p in parts):
            raise Degenerate(
                f"At stage {number} heads of {parts[0].name!r} that already share a mode are "
                "about to share another. Their columns then mix across heads, which is not followed"
            )
        return tuple(w.part for w in winners)

    def _connect(self, entries: Sequence[dict[int, float]], twins, where: str) -> Orbit:
        pieces = tuple(p.piece(e) for p, e in zip(self.parts, entries, strict=True))
        fast = Fast(self.flow, pieces, self.layout, twins)
        try:
            return connect(fast, self.force_scale, self.tolerance)
        except (Degenerate, Unbounded) as error:
            raise type(error)(f"At {where}, {error}.") from None

    def _level(self, orbit: Orbit, leader: _Winner) -> tuple[tuple[Any, float], float]:
        """Half the winner's plateau value where it has one of its own, else midway in the loss."""
        part = self.parts[leader.part]
        own = part.threshold(leader.item, np.asarray(orbit.saddle.pieces[leader.part].weight()))
        if own is not None:
            component, log_size, value = own
            component += orbit.fast.place(leader.part)
            coordinate = self._coordinate(leader.part, leader.item)
            return (coordinate, value), orbit.crossing(component, log_size)
        middle = 0.5 * (self.loss + orbit.saddle_loss)
        return ("loss", middle), orbit.crossing(None, middle)

    def _passages(self, orbit: Orbit) -> list[Passage]:
        ends = float(orbit.s[0]), float(orbit.s[-1])
        pieces = zip(orbit.fast.pieces, orbit.saddle.pieces, strict=True)
        return [Passage(before, after, *ends) for before, after in pieces]

    def _land(self, entries: Sequence[dict[int, float]], orbit: Orbit) -> None:
        weights = [np.asarray(p.weight()) for p in orbit.saddle.pieces]
        self.loss, forces = self._evaluate(weights)
        passages = self._passages(orbit)
        for p, e, passage, g in zip(self.parts, entries, passages, forces, strict=True):
            p.land(e, passage, g, self.floor)

    def _curvature(self) -> float:
        """Smallest eigenvalue of ∇²L on the active part, exchange of copies taken out."""
        rows = [p.flat_directions() for p in self.parts]
        directions = [d for d in rows if d is not None]
        coordinates = [c for p in self.parts for c in p.active]
        if len(directions) < len(rows) or not coordinates:
            return math.nan
        weights = [jnp.asarray(p.weight) for p in self.parts]
        jacobian = np.asarray(force_jacobian(self.flow, weights, self.layout))
        cuts = np.cumsum([d.shape[1] for d in directions])[:-1]
        sides = np.split(jacobian, cuts, axis=0)
        half = np.concatenate([d @ side for d, side in zip(directions, sides, strict=True)])
        parts = np.split(half, cuts, axis=1)
        hessian = -np.concatenate([p @ d.T for d, p in zip(directions, parts, strict=True)], axis=1)
        values, vectors = np.linalg.eigh(0.5 * (hessian + hessian.T))
        exchange = np.zeros_like(values)
        for group in self.copies:
            inside = np.array([c in group for c in coordinates])
            if inside.any():
                part = vectors[inside] - vectors[inside].mean(axis=0)
                exchange += np.sum(np.square(part), axis=0)
        flat = (np.abs(values) < 1e-9 * np.max(np.abs(values))) & (exchange > 0.99)
        return float(np.min(values[~flat])) if np.any(~flat) else math.nan


def _norm(force: np.ndarray) -> float:
    return float(np.max(np.abs(force), initial=0.0))


@eqx.filter_jit
def _loss_and_force(flow: Flow, weights: dict[str, Any]):
    return flow.forces(weights)


@eqx.filter_jit
def force_jacobian(flow: Flow, weights: list[Any], layout: Layout) -> Any:
    """∂g/∂w of all parts, flattened one after the other: −∇²L."""
    flat, unravel = jax.flatten_util.ravel_pytree(weights)

    def force(flat):
        _, forces = flow.forces(assembled(unravel(flat), layout, flow.names))
        return jnp.concatenate([forces[name][head].ravel() for name, head in layout])

    return jax.jacfwd(force)(flat)
