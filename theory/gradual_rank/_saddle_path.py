"""The limit algorithm: from saddle to saddle, with the times of the transitions.

At a saddle every dormant mode has size e^{b − eΛ} and grows at a rate of its own, so that the
next one to become O(1) is the one with the smallest e/rate, and

    T ← T + e/rate,   C ← C + (x_m − b)/rate,

where x_m + rate·s is its log-size on the orbit that connects the two saddles, with s = 0 at the
level that defines the time. The exponents of the others fall by rate·ΔT; their b gain rate·ΔC
and what the orbit adds to their plateau rates. The offsets C are matched asymptotics of this
project: at finite α the transition is at T·Λ + C up to a power of α.
"""

import functools
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from gflow.internal import (
    Bar,
    Coordinate,
    Flow,
)

from .._prediction import Prediction
from .._stage import Level, Stage, Start
from ._curvature import curvature
from ._curves import Curves
from ._ended import complete, degenerate
from ._equal_forces import check_seeds, check_together, gathered, joined_parts, parting
from ._fast_system import FastSystem, Layout, assembled
from ._forces import Forces
from ._joint_columns import JointColumns
from ._kinks import Kink, find_kink
from ._orbits import Degenerate, Orbit, Unbounded, connect
from ._saddle_leaf import Due, Passage, SaddleLeaf, layout_of
from ._sides import check_forces, choose_sides
from ._ties import TIE, Winner, check_tie, shares

#: Log-size at which the leading winner enters its orbit: its weight is about e^{-40}.
_ENTRY = -20.0
#: A mode of a smaller exponent is of order one.
_ORDER_ONE = 1e-9

#: By part, the log-sizes of the items that enter an orbit.
Entries = Sequence[dict[int, float]]


class SaddlePath:
    """The state of the limit algorithm: parts at a saddle, and the time."""

    def __init__(
        self, flow: Flow, parts: Sequence[SaddleLeaf], log_alpha: float, elapsed: float, rtol
    ):
        self.flow, self.log_alpha, self.elapsed = flow, log_alpha, elapsed
        self.parts: tuple[SaddleLeaf, ...] = tuple(parts)
        self.tolerance = 0.2 * rtol
        self.tau, self.offset = elapsed / -log_alpha, 0.0
        self.copies: list[set[Coordinate]] = []
        self.forces, self.slowest = Forces(flow, parts), math.inf
        self.kink: Kink | None = None
        # a start at rest has no force to compare with: that at zero weights sets the unit
        none = [np.zeros_like(p.weight) for p in parts]
        at_zero = self.forces.see(parts, "at zero weights", none)[1]
        self.loss, forces = self.forces.see(parts, "at the start")
        pulled = any(self.forces.pull(parts, g) for g in (at_zero, forces))
        self._feel(self._gather(forces))
        if not any(p.active for p in parts):
            self._refuse_kinks()
        if not pulled:
            raise ValueError(
                "No weight feels a force at the start, so nothing ever escapes from it. In an "
                "attention model make sure that value–output weights see a gradient at zero."
            )

    @property
    def layout(self) -> Layout:
        return layout_of(self.parts)

    def _gather(self, forces: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Heads that feel one force as one part, and the forces on these."""
        groups = gathered(self.parts, forces, self.forces.floors())
        self.parts = tuple(joined_parts(self.parts, groups))
        self.joint, self.exponent = len(groups) < len(forces), math.inf
        self.forces.gather(groups)
        return [np.stack([forces[i] for i in g]) if len(g) > 1 else forces[g[0]] for g in groups]

    def _part_ways(self, entries: Entries, where: str, wait: float) -> bool:
        """Heads told apart whose forces part on the orbit that these entries lead over."""
        if all(len(p.heads) == 1 for p in self.parts):
            return False
        fast = self._fast(entries, self.parts)
        try:
            check_seeds(fast, self.parts, self.forces.scales, self.forces.drop, wait)
            groups = parting(fast, self.parts, self.forces.scales, self.forces.drop)
        except Degenerate as error:
            raise Degenerate(f"At {where}, {error}.") from None
        divided = [
            part.split(own) if isinstance(part, JointColumns) and len(own) > 1 else [part]
            for part, own in zip(self.parts, groups, strict=True)
        ]
        self.forces.divide([len(own) for own in divided])
        before, self.parts = len(self.parts), tuple(p for own in divided for p in own)
        return len(self.parts) > before

    def _feel(self, forces: Sequence[np.ndarray]) -> None:
        rows = zip(self.parts, forces, self.forces.floors(), strict=True)
        self.parts = tuple(part.with_force(force, floor) for part, force, floor in rows)
        if self.forces.kinked:
            self._look_across(forces)

    def _look_across(self, forces: Sequence[np.ndarray]) -> None:
        """The forces that dormant weights will feel once their sign has changed."""
        turning = [p.turning for p in self.parts]
        beyond = forces
        if any(np.any(over) for over in turning):
            beyond = self.forces.see(self.parts, "on the other side of zero", across=turning)[1]
        self.kink = find_kink(self.flow, self.parts, forces, beyond, self.forces.largest)
        if self.kink is None:
            pairs = zip(self.parts, beyond, strict=True)
            self.parts = tuple(part.with_force_beyond(force) for part, force in pairs)

    def follow(self, max_stages: int, source: str, validity: str, bar: Bar) -> Prediction:
        found: list[tuple[Stage, Orbit]] = []
        start, plateaus = self._begin(found)
        ended = f"stopped at max_stages = {max_stages}"
        while len(found) < max_stages:
            try:
                transition = self._next_stage(len(found) + 1)
            except Degenerate as error:
                ended = str(error)
                break
            if transition is None:
                ended = complete(self.flow, self.parts, self.tau)
                break
            found.append(transition)
            plateaus.append(self.parts)
            bar.to(len(found), loss=f"{transition[0].loss:.6g}")
            if transition[1].degenerate:
                ended = degenerate(transition[1], f"stage {len(found)}")
                break
        if not ended.startswith(("complete", "stopped")):
            warnings.warn(f"The saddle path is predicted up to here: {ended}", stacklevel=3)
        if found:
            self._check_time(found[0][0])
        stages, orbits = [s for s, _ in found], [o for _, o in found]
        curves = Curves(start, orbits, plateaus, self.flow.names)
        return Prediction(start, stages, source, validity, ended, curves)

    def _refuse_kinks(self) -> None:
        if self.kink is not None:
            raise ValueError(f"At the start {self.kink}.")

    def _begin(
        self, found: list[tuple[Stage, Orbit]]
    ) -> tuple[Start, list[tuple[SaddleLeaf, ...]]]:
        """Where the path starts, with a stage that is under way there if there is one."""
        if any(p.active for p in self.parts):
            under_way = self._settle()
            self._refuse_kinks()
            if under_way is not None:
                start, transition, before = under_way
                found.append(transition)
                return start, [before, self.parts]
        start = Start(self.tau, self._values(), self.loss, self._ranks())
        return start, [self.parts]

    def _check_time(self, first: Stage) -> None:
        time = first.tau * -self.log_alpha + first.offset
        if time < self.elapsed - 1e-9 * abs(self.elapsed):
            raise ValueError(
                f"At the log_alpha = {self.log_alpha:g} of this model the first stage "
                f"({first.label}) would come at t = T·Λ + C = {time:.6g}, before the start: its "
                "factors are not small, being declared as α^e times factors that are as large as "
                "1/α^e. Give the leaf the log_alpha that its factors have, exponents (0, 2) for a "
                "weight that starts active, or take gflow.rescale(model, log_alpha) for the same "
                "O(1) factors at a smaller α."
            )

    def _values(self) -> dict[str, np.ndarray]:
        return self._by_leaf([p.weight for p in self.parts])

    def _ranks(self) -> dict[str, np.ndarray]:
        return self._by_leaf([p.rank for p in self.parts])

    def _by_leaf(self, parts: Sequence[np.ndarray]) -> dict[str, Any]:
        whole = assembled(parts, self.layout, self.flow.names)
        return {name: np.asarray(x) for name, x in whole.items()}

    def _settle(self) -> tuple[Start, tuple[Stage, Orbit], tuple[SaddleLeaf, ...]] | None:
        """From an active start to the saddle below it, before anything else escapes.

        In a model taken from a run, modes that have only begun to grow wait like dormant ones,
        and those in the midst of it make a stage that is under way: its time is that of the
        orbit through the start.
        """
        while True:
            idle: list[dict[int, float]] = [{} for _ in self.parts]
            if self._part_ways(idle, "the start", math.inf):
                continue
            orbit = self._connect(idle, "from the start")
            passages = self._passages(orbit)
            if self.elapsed == 0.0:
                break
            pairs = zip(self.parts, passages, strict=True)
            deferred = tuple(p.deferred(passage, self.log_alpha) for p, passage in pairs)
            if all(new is old for new, old in zip(deferred, self.parts, strict=True)):
                break
            self.parts = deferred
            self.loss, forces = self.forces.see(self.parts, "at the start")
            self._feel(forces)
            if not any(p.active for p in self.parts):
                return None
        if orbit.degenerate:
            raise Degenerate(degenerate(orbit, "from the start"))
        rising = [
            Winner(i, j, math.nan, math.nan)
            for i, (p, passage) in enumerate(zip(self.parts, passages, strict=True))
            for j in p.rising(passage)
        ]
        if self.elapsed == 0.0 or not rising:
            self._land(idle, orbit)
            return None
        start = Start(self.tau, self._values(), self.loss, self._ranks())
        before = self.parts
        levels = [self._level(orbit, w) for w in rising]
        first = min(range(len(rising)), key=lambda k: levels[k][1])
        _, shift = levels[first]
        transition = self._transition(
            orbit, idle, rising[first], levels[first], shift, rising, math.inf, None
        )
        return start, transition, before

    def _next_stage(self, number: int) -> tuple[Stage, Orbit] | None:
        if self.kink is not None:
            raise Degenerate(f"At stage {number} {self.kink}")
        while True:
            due = [p.candidates() for p in self.parts]
            wait = np.concatenate([d.wait for d in due])
            best = float(np.min(wait, initial=math.inf))
            if not math.isfinite(best):
                return None
            winners, entries = self._entering(due, best)
            if not self._part_ways(entries, f"stage {number}", best):
                break
        check_tie(self.parts, winners, number, self.tau + best)
        leader = _leader(winners)
        wait[_tied(wait, best)] = math.inf
        margin = float(np.min(wait)) - best
        modes = [(i, j) for i, d in enumerate(due) for j in range(len(d.wait))]
        rival = modes[int(np.argmin(wait))] if math.isfinite(margin) else None
        self.parts = tuple(p.after_plateau(best, 0.0) for p in self.parts)
        self._leave(best, entries)
        orbit = self._connect(entries, f"stage {number}")
        level = self._level(orbit, leader)
        entry = float(orbit.s[0]) - level[1]
        shift = (_ENTRY - leader.rate * entry - leader.size) / leader.rate
        self.tau += best
        return self._transition(orbit, entries, leader, level, shift, winners, margin, rival)

    def _leave(self, waited: float, entries: Entries) -> None:
        """The smallest power of α in what finite α adds, where heads have learned as one.

        Saddles relax and columns turn as e^{−rate·t}; a dormant mode is a weight of size α^{2e},
        and in a head of several that of its product with an active column, α^e.
        """
        if not self.joint:
            return
        rates = [self.slowest, *(float(gap) for p in self.parts for gap in p.gaps)]
        left = [
            (1.0 if isinstance(p, JointColumns) and p.columns.k else 2.0)
            * p.exponent_and_size(item)[0]
            for p, own in zip(self.parts, entries, strict=True)
            for item in range(p.size.size)
            if item not in own
        ]
        found = [rate * waited for rate in rates] + [e for e in left if e > _ORDER_ONE]
        self.exponent = min(self.exponent, *found, math.inf)

    def _entering(self, due: Sequence[Due], best: float) -> tuple[list[Winner], Entries]:
        """The modes that are due first, and the log-sizes at which they enter their orbit."""
        wait = np.concatenate([d.wait for d in due])
        modes = [(i, j) for i, d in enumerate(due) for j in range(len(d.wait))]
        winners = [
            Winner(i, j, float(due[i].rate[j]), float(due[i].size[j]))
            for i, j in (modes[k] for k in _tied(wait, best))
        ]
        entries: list[dict[int, float]] = [{} for _ in self.parts]
        for w in winners:
            apart = w.size - _leader(winners).size if len(winners) > 1 else 0.0
            entries[w.part][w.item] = _ENTRY + apart
        return winners, entries

    def _transition(
        self,
        orbit: Orbit,
        entries: Entries,
        leader: Winner,
        level: tuple[Level, float],
        shift: float,
        winners: Sequence[Winner],
        margin: float,
        rival: tuple[int, int] | None,
    ) -> tuple[Stage, Orbit]:
        """To the saddle at the end of an orbit that crosses its level `shift` from here."""
        switched = {self._coordinate(w.part, w.item): w for w in winners}
        before = [c for p in self.parts for c in p.active if c not in switched]
        defining, crossing = level
        orbit = orbit.shifted(crossing)
        self.parts = tuple(p.after_plateau(0.0, shift) for p in self.parts)
        self.offset += shift
        standing = None if rival is None else self._standing(*rival)
        self._land(entries, orbit)
        if orbit.degenerate:
            self.parts = tuple(p.forgetful() for p in self.parts)
        shared = shares(self.parts, switched, leader)
        if shared:
            self.copies.append(set(switched))
        after = [c for p in self.parts for c in p.active]
        flow = self.forces.sided(self.parts)
        stage = Stage(
            tau=self.tau,
            offset=self.offset,
            activated=[c for c in after if c not in before],
            deactivated=[c for c in before if c not in after],
            value=self._values(),
            loss=self.loss,
            rank=self._ranks(),
            margin=margin,
            level=defining,
            curvature=curvature(flow, self.parts, self.layout, self.copies),
            rate=leader.rate,
            rival=standing,
            shares=shared,
            exponent=self.exponent if self.joint else math.nan,
        )
        return stage, orbit

    def _coordinate(self, part: int, item: int) -> Coordinate:
        return self.parts[part].coordinate(item)

    def _standing(self, part: int, item: int) -> tuple[Coordinate, float, float]:
        """Exponent and log-size of a dormant mode now."""
        return self._coordinate(part, item), *self.parts[part].exponent_and_size(item)

    def _connect(self, entries: Entries, where: str) -> Orbit:
        fast = self._fast(entries, self.parts)
        limits = self.forces.limits(fast)
        try:
            orbit = connect(fast, limits, self.tolerance)
            on = functools.partial(self._fast, entries)
            chosen = choose_sides(self.parts, orbit, on, self.forces.floors())
            if chosen is not None:
                self.parts = tuple(chosen)
                orbit = connect(on(self.parts), limits, self.tolerance)
            check_together(self.parts, orbit, self.forces.scales, self.forces.drop)
            return orbit
        except (Degenerate, Unbounded) as error:
            raise type(error)(f"At {where}, {error}.") from None

    def _fast(self, entries: Entries, parts: Sequence[SaddleLeaf]) -> FastSystem:
        pieces = tuple(p.piece(e) for p, e in zip(parts, entries, strict=True))
        return FastSystem(self.forces.sided(parts), pieces, layout_of(parts))

    def _level(self, orbit: Orbit, leader: Winner) -> tuple[Level, float]:
        """Half the winner's plateau value where it has one of its own, else midway in the loss."""
        part = self.parts[leader.part]
        own = part.threshold(leader.item, np.asarray(orbit.saddle.pieces[leader.part].weight()))
        if own is not None:
            component, log_size, value = own
            component += orbit.fast.place(leader.part)
            coordinate = self._coordinate(leader.part, leader.item)
            return Level(coordinate, value), orbit.crossing(component, log_size)
        middle = 0.5 * (self.loss + orbit.saddle_loss)
        return Level("loss", middle), orbit.crossing(None, middle)

    def _passages(self, orbit: Orbit) -> list[Passage]:
        ends = float(orbit.s[0]), float(orbit.s[-1])
        pieces = zip(orbit.fast.pieces, orbit.saddle.pieces, strict=True)
        return [Passage(before, after, *ends) for before, after in pieces]

    def _land(self, entries: Entries, orbit: Orbit) -> None:
        if self.forces.kinked:
            check_forces(self.parts, orbit, functools.partial(self.forces.sided, self.parts))
        weights = [np.asarray(p.weight()) for p in orbit.saddle.pieces]
        self.loss, forces = self.forces.see(self.parts, "at a saddle", weights)
        self.slowest = orbit.slowest
        passages = self._passages(orbit)
        floors = self.forces.floors()
        rows = zip(self.parts, entries, passages, forces, floors, strict=True)
        self.parts = tuple(p.at_saddle(e, at, g, floor) for p, e, at, g, floor in rows)
        if self.forces.kinked:
            self._look_across(forces)


def _tied(wait: np.ndarray, best: float) -> np.ndarray:
    return np.flatnonzero(wait <= best * (1 + TIE) + 1e-300)


def _leader(winners: Sequence[Winner]) -> Winner:
    return max(winners, key=lambda w: -math.inf if math.isnan(w.size) else w.size)
