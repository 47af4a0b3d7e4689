"""Runs that advance together in rounds: what is recorded, who has ended and why."""

import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..flow._flow import Flow
from ..kinks._located import Course
from ..kinks._treatments import Sides
from ..parameters._base import Constant
from ..results._plateaus import thinned
from ..results._resolver import joined
from ._diagnosis import Stop, cause
from ._march import Pace
from ._rest import Verdict, escapes_to_infinity, settled_record, verdict
from ._round import BLOCK, Round, divide, first_record, run_round, stability_reach, united
from ._status import Ended, Status

#: Recorded steps that are kept whatever they need.
LEAST_ROWS = 512

#: Attempts a round of one run, and of a batch (whose finished members leave in between).
ATTEMPTS, ATTEMPTS_BATCHED = 512, 32

#: Attempts from which on a run to a given end is looked at: it may rest long before.
_LONG = 1024

#: Share of the floats that an endless run may use up for its time.
_LATE = 1e-8

#: Numbers that one run keeps of what it recorded, at most; then it is thinned.
KEPT = 2**25

#: Numbers in the record of one round, with the data read for it, at most: for large models
#: and data a round is shorter, so that memory is bounded and the user hears of it.
_ROOM = 2**24


class Rounds:
    """One run (`members` = None) or a batch of them, advanced round by round.

    In every round the first `width` members that have not ended are advanced, so that
    finished ones make room for waiting ones, and in the end the width itself shrinks by
    factors of four. Times, steps and states of a member are its own: it neither waits for
    the others nor fails with them. `watched` measures after every round of a single run how
    near its steps are to the stability limit of an explicit method (`reach`).
    """

    def __init__(
        self, flow: Flow, *, solver, rtol, observables, start, end, error_bars, watched=False,
        members: int | None = None, shared: bool = True, width: int = 1, conditions=(),
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
        first, step, self.tolerance = self._first_record(observables, rtol)
        self.first = self._rows(first)
        step = np.atleast_1d(np.asarray(step, float))
        self.stationary = np.isinf(step)
        self.pace = Pace.at(np.where(self.stationary, 1.0, step).astype(self.dtype))
        # what the objective has fallen by, and from when on a member has been found at rest
        self.autonomous = all(isinstance(rate, Constant | None) for rate in flow.decay)
        # decay goes on at rest: it lowers the logarithms of what is dormant
        self.stays = all(rate is None for rate in flow.decay)
        self.descent, self.fallen = self.first["descent"].astype(float), np.zeros(len(self.time))
        self.examined, self.rest = np.zeros(len(self.time)), np.full(len(self.time), np.inf)
        self.due = np.full(len(self.time), _LONG)
        self.status = np.full(len(self.time), None, object)
        self.status[~np.isfinite(self.first["loss"])] = Status.overflow
        self.cause = np.full(len(self.time), "", object)
        zero = np.zeros(len(self.time), int)
        self.accepted, self.rejected = zero, zero.copy()
        self.counts: dict[str, np.ndarray] = {}
        self.watched, self.reach = watched and not self.batched, []
        # members of a batch take their steps in one loop, which need not be of two halves
        self.rounds, self.tried, self.room, self.patient = 0, 0, 0, self.batched
        self.most = 0
        self._history: list[tuple[np.ndarray, Any, Any, Any, Any]] = []
        numbers = sum(x[0].size for x in jax.tree.leaves(self.first)) * (1 + error_bars)
        self.most_rows = max(KEPT // numbers, LEAST_ROWS)
        numbers += sum(x.size for x in jax.tree.leaves(self.fixed) if eqx.is_array(x))
        most = ATTEMPTS_BATCHED if self.batched else ATTEMPTS
        attempts = int(np.clip(_ROOM // (numbers * max(width, 1)), 8, most))
        self.attempts = attempts - attempts % BLOCK if attempts > BLOCK else attempts
        self.course = None
        if isinstance(flow.kinks, Sides):
            self.attempts = min(self.attempts, BLOCK)
            self.course = Course(flow, start)
            self.course.begin(self)
            self.first = self._rows(self._first_record(observables, rtol)[0])

    def _first_record(self, observables: dict, rtol: float) -> Any:
        clock = self._clock(self.start, rtol)
        return first_record(self.parts, self.fixed, observables, clock, self.batched)

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
        try:
            while (left := np.flatnonzero(self.status == None)).size:  # noqa: E711
                self._advance(left[: self.width], max_steps)
                over = self.accepted + self.rejected >= max_steps
                self.status[over & (self.status == None)] = Status.max_steps  # noqa: E711
                if progress:
                    self._report()
        except KeyboardInterrupt:
            self.status[self.status == None] = Status.interrupted  # noqa: E711
        for i in np.flatnonzero(self.status == Status.max_steps):
            self.cause[i] = self._cause(int(i))

    def ended(self, i: int) -> Ended:
        """How member i ended."""
        return Ended(self.status[i], self.cause[i])

    def _cause(self, i: int) -> str:
        """Why member i needs so many steps."""
        _, record, _ = self.member(i)
        made = self.accepted[i] + self.rejected[i]
        if not self.accepted[i]:
            return f"none of {made} attempts at a first step was kept. Pass a larger max_steps"
        stop = Stop(
            t=float(self.time[i]), start=float(self.start[i]), end=float(self.end[i]),
            step=float(np.atleast_1d(self.pace.kept_step)[i]), attempts=int(made),
            rejected=float(self.rejected[i] / made), descent=float(record["descent"][-1]),
            fallen=float(record["loss"][0] - record["loss"][-1]),
        )  # fmt: skip
        leaves = jax.tree.map(lambda x: x[-1], record["leaves"])
        return cause(self.flow(i), leaves, self.solver, self.rtol, stop)

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
        ahead = span if self.course is None else np.minimum(span, self.course.aim)
        given = (
            self.parts,
            self.companion,
            self.fixed,
            slots if self.batched else None,
            self.solver,
            tolerance,
            self._clock(offset, ahead),
            self._paces(rows),
            self.observables,
            self.attempts,
            self._budget(max_steps, rows),
        )
        after = run_round(*given, self.patient)
        if not self.patient and np.any(after[2].missed):
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

    def _column(self, x: Any, count: int) -> np.ndarray:
        """Entries of a round on the host, members second, the filling left out."""
        return np.asarray(x)[:, :count] if self.batched else np.asarray(x)[:, None]

    def _absorb(self, members: np.ndarray, done: Round, span: np.ndarray) -> None:
        """Keep what was recorded up to where each member ends, if it does."""
        kept, tries, local, loss, resolved = (
            self._column(x, len(members))
            for x in (
                done.kept, done.tried, done.t, done.record["loss"], done.record["resolved"],
            )
        )  # fmt: skip
        pace = jax.tree.map(lambda x: np.atleast_1d(x)[: len(members)], done.pace)
        moved = np.atleast_1d(done.moved)[: len(members)]
        attempt = np.arange(len(kept))[:, None]
        offset, never = self.time[members], len(kept)
        status = np.full(len(members), None, object)

        def first(where: Any) -> np.ndarray:
            return np.where(where.any(axis=0), np.argmax(where, axis=0), never)

        def cut(at: np.ndarray, inclusive: bool, why: Status) -> None:
            nonlocal kept
            status[(at < never) & (status == None)] = why  # noqa: E711
            kept = kept & (attempt < at + inclusive)

        cut(first(kept & ~np.isfinite(loss)), False, Status.overflow)
        lost = first(kept & ~resolved)
        cut(np.maximum(lost, first(kept) + 1), False, Status.unresolved)
        for condition in self.conditions:
            values = self._column(condition.values(done.record), len(members))
            met = first(kept & condition.stop.met(values))
            status[met < never] = Status.stopped  # sooner than what the rows beyond would end in
            kept = kept & (attempt <= met)
        t = offset + local
        resting = np.full(len(members), np.inf)
        going = self.autonomous & (status == None) & kept.any(axis=0)  # noqa: E711
        for j in np.flatnonzero(going & self._looked_at(members, tries.sum(axis=0))):
            rows = np.flatnonzero(kept[:, j])
            found = self._rest(int(members[j]), int(j), rows, t[:, j], done)
            if found is not None:
                row, status[j] = found
                kept[row + 1 :, j] = False
                resting[j] = t[row, j] if status[j].successful else np.inf

        count, tried = kept.sum(axis=0), tries.sum(axis=0)
        last = np.max(np.where(kept, attempt, 0), axis=0)
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
            status[which & (status == None)] = why  # noqa: E711
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
        for name, numbers in done.counts.items():
            total = self.counts.setdefault(name, np.zeros(len(self.status), int))
            total[members] += np.atleast_1d(numbers)[: len(members)]
        self.status[members] = status
        self.rounds += 1
        self.tried += int(tried.sum())
        self.room += int(np.max(tried)) * (done.kept.shape[1] if self.batched else 1)
        record, refined = done.record, done.refined
        if not self.batched:
            rows = kept[:, 0]
            record, refined = jax.tree.map(lambda x: np.asarray(x)[rows], (record, refined))
            kept, t = kept[rows], t[rows]
        elif jax.default_backend() != "cpu":  # where it would fill the memory of the device
            record, refined = jax.tree.map(np.asarray, (record, refined))
        self._history.append((members, kept, t, record, refined))
        for j in np.flatnonzero(np.isfinite(resting)):
            self._stay(int(members[j]), int(j), int(last[j]), float(resting[j]), done)
        if not self.batched and sum(len(entry[2]) for entry in self._history) > self.most_rows:
            self._thin()

    def _row(self, tree: Any, row: int, column: int) -> Any:
        """One row of what a round recorded of one member."""
        pick = (row, column) if self.batched else row
        return jax.tree.map(lambda x: np.asarray(x[pick]), tree)

    def _looked_at(self, members: np.ndarray, tried: np.ndarray) -> np.ndarray:
        """Whether a member may be at rest after a round: one that ends there, or would not arrive.

        To look compiles a program of the whole model: it is worth it where at the present step the
        end of the run lies beyond max_steps.
        """
        made = (self.accepted + self.rejected)[members] + tried
        endless = np.isinf(self.end[members])
        way = np.maximum(self.end[members] - self.time[members], 0.0)
        reach = np.asarray(self.pace.step, float)[members] * np.maximum(self.most - made, 1)
        late = self.stays & ~endless & (made >= self.due[members]) & (way > reach)
        self.due[members[late]] *= 2
        return endless | late

    def _rest(
        self, i: int, column: int, rows: np.ndarray, t: np.ndarray, done: Round
    ) -> tuple[int, Status] | None:
        """The first row at which member i is found to have ended, and how.

        Looked at are the last one, and in an endless run those from which on, at the rate of that
        moment, as much time again as has passed would lower the loss by no more than rtol of what
        it has fallen.
        """
        time, endless = t[rows], np.isinf(self.end[i])
        elapsed, looked = time - self.start[i], np.zeros(len(rows), bool)
        fallen = np.zeros(len(rows))
        looked[-1] = time[-1] < self.end[i]
        if endless:
            descent = self._column(done.record["descent"], column + 1)[rows, column]
            before = np.append(self.descent[i], descent[:-1])
            steps = np.diff(time, prepend=self.time[i])
            fallen = self.fallen[i] + np.cumsum(0.5 * (before + descent) * steps)
            self.descent[i], self.fallen[i] = descent[-1], fallen[-1]
            looked |= descent * elapsed <= self.rtol * fallen
        for k in np.flatnonzero(looked):
            if elapsed[k] < self.examined[i]:
                continue
            self.examined[i] = 1.5 * elapsed[k]
            leaves = self._row(done.record["leaves"], int(rows[k]), column)
            found = verdict(
                self.flow(i), leaves, float(time[k]), float(elapsed[k]), float(self.rtol)
            )
            if found is Verdict.resting:
                return int(rows[k]), Status.converged if endless else Status.reached
            if endless and found is Verdict.saddle:
                return int(rows[k]), Status.saddle
            here = rows[: k + 1], time[: k + 1]
            if endless and self._escapes(i, column, *here, done, float(fallen[k])):
                return int(rows[k]), Status.unbounded
        return None

    def _escapes(
        self, i: int, column: int, rows: np.ndarray, t: np.ndarray, done: Round, fallen: float
    ) -> bool:
        """Whether member i is on its way to infinity at the last of these rows of a round."""
        times, records, _ = self.member(i)
        pick = (rows, column) if self.batched else rows
        # by NumPy: to JAX every number of rows would be another program
        here = jax.tree.map(lambda x: np.asarray(x)[pick], done.record)
        names = ("descent", "leaves")
        whole = joined([{name: x[name] for name in names} for x in (records, here)])
        values = [leaf["value"] for leaf in whole["leaves"].values()]
        values = np.concatenate([x.reshape(len(x), -1) for x in values], axis=1)
        size = np.linalg.norm(values, axis=1)
        times = np.concatenate([times, t]) - self.start[i]
        return escapes_to_infinity(times, whole["descent"], size, fallen, self.rtol)

    def _stay(self, i: int, column: int, row: int, since: float, done: Round) -> None:
        """Member i rests from `since` on: the last of its rows is where it rests.

        It is what the step before comes to once the modes that the solver has left moving die
        out; in a run to a given end it is so at that end as well.
        """
        flow, clock = self.flow(i), jnp.asarray(since, self.dtype)

        def record(recorded):
            leaves = jax.tree.map(jnp.asarray, self._row(recorded["leaves"], row, column))
            found, lapse = settled_record(flow, leaves, clock, self.observables)
            shape = (1, 1) if self.batched else (1,)
            return jax.tree.map(lambda x: np.asarray(x).reshape(*shape, *x.shape), found), lapse

        main, lapse = record(done.record)
        second = None if done.refined is None else record(done.refined)[0]
        self.rest[i] = since + float(lapse)
        self.time[i] = self.rest[i] if np.isinf(self.end[i]) else self.end[i]
        one = np.ones((1, 1), bool)
        self._history.append((np.array([i]), one, np.full((1, 1), self.time[i]), main, second))

    def _thin(self) -> None:
        """Forget half of the steps of a single run, but none at which something happens."""
        _, kept, t, record, refined = zip(*self._history, strict=True)
        kept, t, record = np.concatenate(kept), np.concatenate(t), joined(list(record))
        refined = None if self.companion is None else joined(list(refined))
        rows = thinned(record["descent"])
        if self.course is not None:  # a step is re-solved on the branches it was taken on
            events = [time for time, _ in self.course.segments]
            rows = np.union1d(rows, np.flatnonzero(np.isin(t, events)))
        record, refined = jax.tree.map(lambda x: x[rows], (record, refined))
        self._history = [(np.zeros(1, int), kept[rows], t[rows], record, refined)]

    def flow(self, i: int) -> Flow:
        """The flow of one member, at its start."""
        if not self.batched:
            return united(self.begun, self.fixed)
        # on the host: one indexing on the device costs more than all of it
        parts = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[i]), self.begun)
        return united(parts, self.fixed)

    def member(self, i: int) -> tuple[np.ndarray, Any, Any]:
        """Times, stacked records and the companion's records of one member."""
        begin = jax.tree.map(lambda x: x[i : i + 1], self.first)
        times, records, refined = [self.start[i : i + 1]], [begin], [begin]
        for members, kept, t, record, second in self._history:
            column = int(np.searchsorted(members, i))
            if column == len(members) or members[column] != i:
                continue
            rows = kept[:, column]

            def pick(x, rows=rows, column=column):
                return np.asarray(x)[rows, column] if self.batched else x

            times.append(t[rows, column])
            records.append(jax.tree.map(pick, record))
            if second is not None:
                refined.append(jax.tree.map(pick, second))
        companion = None if self.companion is None else joined(list(refined))
        t, record = np.concatenate(times), joined(records)
        # steps below the rounding of the time: where the run went on the last of them counts
        later = np.diff(t) > 0.0
        failed = self.status[i] is not None and not self.status[i].successful
        distinct = np.append(True, later) if failed else np.append(later, True)
        if not distinct.all():
            t = t[distinct]
            record, companion = jax.tree.map(lambda x: x[distinct], (record, companion))
        return t, record, companion

    def _report(self) -> None:
        ended = int(np.sum(self.status != None))  # noqa: E711
        if self.batched:
            line = f"{ended} of {len(self.status)} members ended"
        else:
            goal = "rest" if np.isinf(self.end[0]) else f"{self.end[0]:.6g}"
            line = f"t = {self.time[0]:.6g} of {goal}"
        steps = int(self.accepted.sum())
        print(f"\r{line}, {steps} steps", end="", file=sys.stderr, flush=True)
