"""Runs that advance together in rounds: what is recorded, who has ended and why."""

import enum
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .flow import Flow
from .integrate import BLOCK, Round, divide, first_record, run_round, stability_reach, united
from .plateaus import thinned
from .stepping import Pace
from .trajectory import joined

_FOREVER = 1e30

#: Recorded steps that are kept whatever they need.
LEAST_ROWS = 512

#: Attempts a round of one run, and of a batch (whose finished members leave in between).
ATTEMPTS, ATTEMPTS_BATCHED = 512, 32

#: Numbers that one run keeps of what it recorded, at most; then it is thinned.
KEPT = 2**25

#: Numbers in the record of one round, with the data read for it, at most: for large models
#: and data a round is shorter, so that memory is bounded and the user hears of it.
_ROOM = 2**24


class Status(enum.Enum):
    """How a run ended; the value is the message."""

    reached = "reached the requested time"
    converged = "converged: no weight moves or grows any more"
    max_steps = (
        "stopped at max_steps. Likely causes: (a) an explicit solver on a long plateau, (b) a "
        "tolerance near rounding, (c) no t1 and a loss without a minimum. Pass t1, a larger "
        "rtol or max_steps"
    )
    step_underflow = (
        "the step size shrank to nothing. Likely causes: (a) the loss is not differentiable or "
        "not finite here, (b) it is unbounded below and the weights blow up, (c) rtol is "
        "beyond float64"
    )
    overflow = (
        "the loss became NaN or infinite. Likely causes: (a) it is unbounded below and the "
        "weights blow up, (b) it is undefined where they went. What was recorded before is kept"
    )
    unresolved = (
        "dormant weights have sunk below the rounding of the active ones, or below their own "
        "tolerance: later stage times would be noise. (a) Raw factors, or plain arrays under "
        "decay: use gflow.Hadamard or gflow.Factored leaves. (b) Several heads "
        "that feel one force and so move one mode in parallel, or square factors of full width "
        "with a mode that shrinks before it grows: take a larger α, one head, or one column less"
    )
    interrupted = "interrupted by the user"

    @property
    def successful(self) -> bool:
        return self in (Status.reached, Status.converged)


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
        members: int | None = None, shared: bool = True, width: int = 1,
    ):  # fmt: skip
        self.solver, self.observables, self.dtype = solver, observables, flow.dtype
        self.rtol = rtol
        self.batched, self.width = members is not None, width
        self.parts, self.fixed = divide(flow, self.batched, shared)
        self.begun, self.companion = self.parts, self.parts if error_bars else None
        self.end = np.full(members or 1, np.inf) if end is None else np.array(end, float)
        self.start = self.time = np.full(members or 1, start, float)
        first, speed, self.tolerance = first_record(
            self.parts, self.fixed, observables, self._clock(self.start, rtol), self.batched
        )
        self.first = self._rows(first)
        self.residual = self.first["residual"].copy()
        speed = np.atleast_1d(np.asarray(speed, float))
        self.first_step = 1e-3 / np.where(speed > 0, speed, 1.0)
        self.pace = Pace.at(self.first_step.astype(self.dtype))
        self.status = np.full(len(self.time), None, object)
        self.status[~np.isfinite(self.first["loss"])] = Status.overflow
        zero = np.zeros(len(self.time), int)
        self.accepted, self.rejected = zero, zero.copy()
        self.counts: dict[str, np.ndarray] = {}
        self.watched, self.reach = watched and not self.batched, []
        self.rounds, self.tried, self.room = 0, 0, 0
        self._history: list[tuple[np.ndarray, Any, Any, Any, Any]] = []
        numbers = sum(x[0].size for x in jax.tree.leaves(self.first)) * (1 + error_bars)
        self.most_rows = max(KEPT // numbers, LEAST_ROWS)
        numbers += sum(x.size for x in jax.tree.leaves(self.fixed) if eqx.is_array(x))
        most = ATTEMPTS_BATCHED if self.batched else ATTEMPTS
        attempts = int(np.clip(_ROOM // (numbers * max(width, 1)), 8, most))
        self.attempts = attempts - attempts % BLOCK if attempts > BLOCK else attempts

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
        try:
            while (left := np.flatnonzero(self.status == None)).size:  # noqa: E711
                self._advance(left[: self.width], max_steps)
                over = self.accepted + self.rejected >= max_steps
                self.status[over & (self.status == None)] = Status.max_steps  # noqa: E711
                if progress:
                    self._report()
        except KeyboardInterrupt:
            self.status[self.status == None] = Status.interrupted  # noqa: E711

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
        span = np.where(slots == rows, np.minimum(self.end[rows] - offset, _FOREVER), 0.0)
        tolerance = self.tolerance
        if self.batched:
            tolerance = jax.tree.map(lambda x: x[rows], tolerance)
        self.parts, self.companion, done = run_round(
            self.parts,
            self.companion,
            self.fixed,
            slots if self.batched else None,
            self.solver,
            tolerance,
            self._clock(offset, span),
            self._paces(rows),
            self.observables,
            self.attempts,
            self._budget(max_steps, rows),
        )
        self._absorb(members, done, span[: len(members)])
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
        kept, tries, local, loss, resolved, residual = (
            self._column(x, len(members))
            for x in (
                done.kept, done.tried, done.t,
                done.record["loss"], done.record["resolved"], done.record["residual"],
            )
        )  # fmt: skip
        pace = jax.tree.map(lambda x: np.atleast_1d(x)[: len(members)], done.pace)
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
        resting = residual <= 1e-9 * self.residual[members]
        endless = np.isinf(self.end[members])
        cut(first(kept & resting & endless), True, Status.converged)

        count, tried = kept.sum(axis=0), tries.sum(axis=0)
        last = np.max(np.where(kept, attempt, 0), axis=0)
        reached = np.where(count > 0, local[last, np.arange(len(members))], 0.0)
        time = offset + reached
        there = ~endless & (count > 0) & ((reached >= span) | (time >= self.end[members]))
        time = np.where(there, self.end[members], time)  # offset + span may be a rounding off
        t = offset + local
        t[last[there], np.flatnonzero(there)] = time[there]
        least = 1e-13 * np.maximum(time, self.first_step[members])
        stuck = np.where(count > 0, reached <= 1e-13 * time, pace.step <= least)
        for why, which in ((Status.reached, there), (Status.step_underflow, stuck)):
            status[which & (status == None)] = why  # noqa: E711

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
        if not self.batched and sum(len(entry[2]) for entry in self._history) > self.most_rows:
            self._thin()

    def _thin(self) -> None:
        """Forget half of the steps of a single run, but none at which something happens."""
        _, kept, t, record, refined = zip(*self._history, strict=True)
        kept, t, record = np.concatenate(kept), np.concatenate(t), joined(list(record))
        refined = None if self.companion is None else joined(list(refined))
        rows = thinned(record["descent"])
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
        return np.concatenate(times), joined(records), companion

    def _report(self) -> None:
        ended = int(np.sum(self.status != None))  # noqa: E711
        if self.batched:
            line = f"{ended} of {len(self.status)} members ended"
        else:
            goal = "rest" if np.isinf(self.end[0]) else f"{self.end[0]:.6g}"
            line = f"t = {self.time[0]:.6g} of {goal}"
        steps = int(self.accepted.sum())
        print(f"\r{line}, {steps} steps", end="", file=sys.stderr, flush=True)
