"""Runs that advance together in rounds: what is recorded, who has ended and why."""

import functools
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._progress import Bar
from ..flow._flow import Flow
from ..kinks._located import Course
from ..kinks._treatments import Sides
from ..results._resolver import Team
from ..solvers._switching import Switching
from ._climbing import Climbing
from ._departing import Departing
from ._field import Pace
from ._recorder import Recorded, Recorder
from ._resting import Resting
from ._round import BLOCK, Round, divide, first_record, run_round, stability_reach, united
from ._status import Ended, Status
from ._turns import Turns

#: Attempts a round of one run, and of a batch (whose finished members leave in between).
ATTEMPTS, ATTEMPTS_BATCHED = 512, 32

#: Share of the floats that an endless run may use up for its time.
_LATE = 1e-8

#: Numbers in the record of one round, with the data read for it, at most: for large models
#: and data a round is shorter, so that memory is bounded and the user hears of it.
_ROOM = 2**24


class Rounds:
    """One run (`members` = None) or a batch of them, advanced round by round.

    In every round the first `width` members that have not ended are advanced, so that
    finished ones make room for waiting ones, and in the end the width itself shrinks by
    factors of four. Times, steps and states of a member are its own: it neither waits for
    the others nor fails with them. `watched` measures after every round of a single run how
    near its steps are to the stability limit of an explicit method (`reach`). Members of a batch
    take turns where a single run switches between two methods (`Turns`).
    """

    def __init__(
        self, flow: Flow, *, solver, rtol, observables, start, end, error_bars, watched=False,
        members: int | None = None, shared: bool = True, width: int = 1, conditions=(),
        lookout: Resting | Departing | Climbing, attempts: int = ATTEMPTS, weights: bool = True,
    ):  # fmt: skip
        self.solver, self.observables, self.dtype = solver, observables, flow.dtype
        self.rtol, self.conditions = rtol, conditions
        self.batched, self.width = members is not None, width
        self.parts, self.fixed = divide(flow, self.batched, shared)
        self.begun, self.companion = self.parts, None
        if error_bars:
            self.companion = self.parts | {"kinks": flow.kinks.companion()}
        self.end = np.full(members or 1, np.inf) if end is None else np.array(end, float)
        self.start = self.time = np.full(members or 1, start, float)
        first, step, tolerance = self._first_record()
        self.tolerance = jax.tree.map(np.asarray, tolerance)  # rows are taken of it
        self.recorder = Recorder(self._rows(first), self.start, self.batched, error_bars, weights)
        step = np.atleast_1d(np.asarray(step, float))
        self.stationary = np.isinf(step)
        self.pace = Pace.at(np.where(self.stationary, 1.0, step).astype(self.dtype))
        self.status = np.full(len(self.time), None, object)
        self.status[~np.isfinite(self.recorder.first["loss"])] = Status.overflow
        self.cause = np.full(len(self.time), "", object)
        zero = np.zeros(len(self.time), int)
        self.accepted, self.rejected = zero, zero.copy()
        self.counts: dict[str, np.ndarray] = {}
        self.turns = Turns(solver, members) if members and isinstance(solver, Switching) else None
        self.watched, self.reach = watched and not self.batched, []
        # members of a batch take their steps in one loop, which need not be of two halves
        self.patient = self.batched or flow.kinks.companion().closeness < 1.0
        self.rounds, self.tried, self.room = 0, 0, 0
        self.most = 0
        numbers = sum(x[0].size for x in jax.tree.leaves(self.recorder.first)) * (1 + error_bars)
        numbers += sum(x.size for x in jax.tree.leaves(self.fixed) if eqx.is_array(x))
        most = ATTEMPTS_BATCHED if self.batched else attempts
        room = int(np.clip(_ROOM // (numbers * max(width, 1)), 8, most))
        self.attempts = room - room % BLOCK if room > BLOCK else room
        self.course = None
        if isinstance(flow.kinks, Sides):
            self.attempts = min(self.attempts, BLOCK)
            self.course = Course(flow, float(self.start[0]))
            self.course.begin(self)
            self.recorder.first = self._rows(self._first_record()[0])
        self.lookout = lookout
        self.lookout.begin(self)

    @property
    def first(self) -> Any:
        """What was recorded of the start, members first."""
        return self.recorder.first

    def _first_record(self) -> Any:
        clock = self._clock(self.start, self.rtol)
        return first_record(self.parts, self.fixed, self.observables, clock, self.batched)

    def _clock(self, *numbers: Any) -> np.ndarray:
        """Numbers of each member, as compiled code takes them."""
        rows = np.stack(np.broadcast_arrays(*numbers)).astype(self.dtype)
        return rows if self.batched else rows[:, 0]

    def _paces(self, rows: np.ndarray) -> Pace:
        """The paces of these members, as compiled code takes them."""
        pick = rows if self.batched else (0, ...)
        return jax.tree.map(lambda x: x[pick], self.pace)

    def _rows(self, tree: Any) -> Any:
        """On the host, with the axis of members first."""
        return jax.tree.map(lambda x: np.asarray(x) if self.batched else np.asarray(x)[None], tree)

    def go(self, max_steps: int, progress: bool = False) -> None:
        """Advance until every member has ended."""
        self.most = max_steps
        with self._bar(progress) as bar:
            try:
                while (left := np.flatnonzero(_going(self.status))).size:
                    left = left if self.turns is None else self.turns.next(left)
                    self._advance(left[: self.width], max_steps)
                    over = self.accepted + self.rejected >= max_steps
                    self.status[over & _going(self.status)] = Status.max_steps
                    ended = int(np.sum(~_going(self.status)))
                    steps = int(self.accepted.sum())
                    bar.to(ended if self.batched else self.time[0], steps=steps)
            except KeyboardInterrupt:
                self.status[_going(self.status)] = Status.interrupted
        for i in np.flatnonzero(self.status == Status.max_steps):
            self.status[i], self.cause[i] = self.lookout.late(self, int(i))

    def ended(self, i: int) -> Ended:
        """How member i ended."""
        return Ended(self.status[i], self.cause[i])

    def _slots(self, members: np.ndarray) -> np.ndarray:
        """`members` and filling, up to one of few widths: each width is compiled once."""
        width = min(self.width, len(self.status))
        while width // 4 >= len(members):
            width //= 4
        filling = np.full(width - len(members), len(self.status))
        return np.concatenate([members, filling])

    def _advance(self, members: np.ndarray, max_steps: int) -> None:
        slots = self._slots(members) if self.batched else members
        rows = np.minimum(slots, len(self.status) - 1)
        offset = self.time[rows]
        span = np.where(slots == rows, self.end[rows] - offset, 0.0)
        tolerance = self.tolerance
        if self.batched:
            tolerance = jax.tree.map(lambda x: x[rows], tolerance)
        far = 2.0 * _LATE * np.finfo(self.dtype).max  # no farther than where it would end
        ahead = np.where(np.isinf(span), np.maximum(far - offset, 0.0), span)
        ahead = np.minimum(ahead, self.lookout.aim(self))
        if self.course is not None:
            ahead = np.minimum(ahead, self.course.aim)
        given = (
            self.parts,
            self.companion,
            self.fixed,
            slots if self.batched else None,
            self.solver if self.turns is None else self.turns.method(members),
            tolerance,
            self._clock(offset, ahead),
            self._paces(rows),
            self.observables,
            self.attempts,
            self._budget(max_steps, rows),
        )
        after = run_round(*given, self.patient)
        if not self.patient and np.asarray(after[2].missed).any():
            self.patient = True
            after = run_round(*given, self.patient)
        self.parts, self.companion, done = after
        self._absorb(members, done, span[: len(members)])
        if self.course is not None and self.status[0] is None:
            self.course.after(self, done)
        if self.watched and self.status[0] is None:
            clock = self._clock(self.time, self.pace.step)
            self.reach.append(float(stability_reach(self.parts, self.fixed, clock)))

    def _budget(self, max_steps: int, rows: np.ndarray) -> np.ndarray:
        left = max_steps - (self.accepted + self.rejected)[rows]
        return left if self.batched else np.asarray(left[0])

    def _absorb(self, members: np.ndarray, done: Round, span: np.ndarray) -> None:
        """Keep what was recorded up to where each member ends, if it does."""
        kept, tries, local, loss, resolved = (
            self.recorder.column(x, len(members))
            for x in (
                done.kept, done.tried, done.t, done.record["loss"], done.record["resolved"],
            )
        )  # fmt: skip
        pace = jax.tree.map(lambda x: np.atleast_1d(x)[: len(members)], done.pace)
        moved = np.atleast_1d(done.moved)[: len(members)]
        attempt = np.arange(len(kept))[:, None]
        offset, never = self.time[members], len(kept)
        status, halted = np.full(len(members), None, object), np.zeros(len(members), bool)

        def first(where: Any) -> np.ndarray:
            return np.where(where.any(axis=0), np.argmax(where, axis=0), never)

        def cut(at: np.ndarray, inclusive: bool, why: Status) -> None:
            nonlocal kept
            status[(at < never) & _going(status)] = why
            kept = kept & (attempt < at + inclusive)

        cut(first(kept & ~np.isfinite(loss)), False, Status.overflow)
        lost = first(kept & ~resolved)
        cut(np.maximum(lost, first(kept) + 1), False, Status.unresolved)
        for condition in self.conditions:
            values = self.recorder.column(condition.values(done.record), len(members))
            met = first(kept & condition.met(values, members))
            # sooner than what the rows beyond would end in
            status[met < never] = Status.reached if condition.time else Status.stopped
            halted |= met < never
            kept = kept & (attempt <= met)
        t = offset + local
        going = _going(status) & kept.any(axis=0)
        if self.lookout.afterwards:
            going |= halted & kept.any(axis=0)
        found = self.lookout.look(self, members, going, kept, t, done)
        found = {j: x for j, x in found.items() if not (halted[j] and x.status.successful)}
        for j, one in found.items():
            status[j] = one.status
            self.cause[members[j]] = one.cause
            kept[one.row + 1 :, j] = False

        last = np.max(np.where(kept, attempt, 0), axis=0)
        halted[list(found)] = True
        tries = tries & ((attempt <= last) | ~halted)  # none that lies beyond
        count, tried = kept.sum(axis=0), tries.sum(axis=0)
        reached = np.where(count > 0, local[last, np.arange(len(members))], 0.0)
        time = offset + reached
        endless = np.isinf(self.end[members])
        there = ~endless & (count > 0) & ((reached >= span) | (time >= self.end[members]))
        time = np.where(there, self.end[members], time)  # offset + span may be a rounding off
        t[last[there], np.flatnonzero(there)] = time[there]
        # where neither the time nor the state moves any more, or none of the steps was kept
        still = (reached <= 1e-13 * time) & (moved < 1.0)
        stuck = np.where(count > 0, still, pace.step <= 1e-13 * pace.kept_step)
        if self.course is not None:
            stuck &= not (done.blocked or np.isfinite(self.course.aim))
        stuck |= np.isnan(pace.step)  # no step is left to try, and none would ever be
        beyond = endless & (time >= _LATE * np.finfo(self.dtype).max)
        ends = ((Status.reached, there), (Status.step_underflow, stuck), (Status.max_steps, beyond))
        for why, which in ends:
            status[which & _going(status)] = why
        # weights that become infinite at one time have had steps down to nothing
        status[(status == Status.overflow) & (reached < 1e-9 * time)] = Status.step_underflow

        def updated(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            old = old.copy()
            old[members] = new
            return old

        self.time = updated(self.time, time)
        self.pace = jax.tree.map(updated, self.pace, pace)
        self.accepted[members] += count
        self.rejected[members] += tried - count
        if self.turns is not None:
            self.turns.after(members, count, np.asarray(done.turned)[: len(members)])
            self.counts = self.turns.steps
        for name, numbers in done.counts.items():
            total = self.counts.setdefault(name, np.zeros(len(self.status), int))
            total[members] += np.atleast_1d(numbers)[: len(members)]
        self.status[members] = status
        self.rounds += 1
        self.tried += int(tried.sum())
        self.room += int(np.max(tried)) * (done.kept.shape[1] if self.batched else 1)
        self.recorder.keep(members, kept, t, done)
        for j, one in found.items():
            if np.isfinite(one.since):
                self.lookout.stay(self, int(members[j]), j, one, done)
        # a step is re-solved on the branches it was taken on
        self.recorder.thin([] if self.course is None else [t for t, _ in self.course.segments])

    def flow(self, i: int) -> Flow:
        """The flow of one member, at its start."""
        if not self.batched:
            return united(self.begun, self.fixed)
        # on the host: one indexing on the device costs more than all of it
        parts = jax.tree.map(lambda x: np.asarray(x)[i], self.begun)
        return united(jax.device_put(parts), self.fixed)

    @functools.cached_property
    def team(self) -> Team | None:
        """What re-solves members of a batch side by side."""
        if not self.batched:
            return None
        begun = jax.tree.map(np.asarray, self.begun)
        return Team(begun, self.fixed, self.solver, self.rtol, self.observables)

    def member(self, i: int) -> Recorded:
        """Times, stacked records and the companion's records of one member."""
        status = self.status[i]
        self.recorder.settle()
        return self.recorder.member(i, failed=status is not None and not status.successful)

    def _bar(self, shown: bool) -> Bar:
        """In members that have ended; of one run in flow time, which has no goal until rest."""
        if self.batched:
            return Bar(shown, len(self.status), "members")
        end = float(self.end[0])
        return Bar(shown, None if np.isinf(end) else end, "of flow time", float(self.start[0]))


def _going(status: np.ndarray) -> np.ndarray:
    """Which of the members have not ended."""
    return np.array([one is None for one in status], bool)
