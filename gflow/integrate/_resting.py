"""The lookout for rest: whether a run has ended although time has not, and where it then stays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..parameters._base import Constant
from ..results._heading import heading
from ..results._resolver import joined
from ._diagnosis import Stop, cause
from ._rest import Verdict, falls_for_ever, grows_for_ever, settled_record, verdict
from ._round import Round
from ._status import Ended, Status

#: Attempts from which on a run to a given end is looked at: it may rest long before.
_LONG = 1024


class Found(NamedTuple):
    """The row of a round at which a member has ended, how, why, and from which time it stays."""

    row: int
    status: Status
    since: float = np.inf
    cause: str = ""


class Resting:
    """Looks whether members of a run are at rest: where they would not arrive, or have no end.

    On the way to a minimum at infinity directions rest: up to `direction` radians.
    """

    #: Whether it looks at runs that a condition has stopped as well.
    afterwards = False

    def __init__(self, direction: float):
        self.direction = direction

    def begin(self, run: Any) -> None:
        """Before the first step."""
        members, flow = len(run.time), run.flow(0)
        decay = flow.decay
        # a λ(t) may wake what rests; decay goes on at rest: it lowers what is dormant
        self.autonomous = all(isinstance(rate, Constant | None) for rate in decay)
        self.stays = all(rate is None for rate in decay)
        self.gradient = flow.gradient
        # what the objective has fallen by, and from when on a member is examined again
        self.descent = run.recorder.first["descent"].astype(float)
        self.fallen, self.examined = np.zeros(members), np.zeros(members)
        self.due = np.full(members, _LONG)
        self.rest = np.full(members, np.inf)
        # of members on their way to infinity, how far they are from their direction there
        self.turning = np.full(members, np.nan)

    @property
    def plateaus(self) -> bool:
        """Whether plateaus are left by what grows on them, not by a λ(t) or what is remembered."""
        return self.autonomous and self.gradient

    def aim(self, run: Any) -> float:
        """Up to where the next round may go."""
        return np.inf

    def look(
        self, run: Any, members: np.ndarray, going: np.ndarray, kept: np.ndarray, t: np.ndarray,
        done: Round,
    ) -> dict[int, Found]:  # fmt: skip
        """By column of the round: which of the members that are `going` have ended, and how."""
        if not self.autonomous:
            return {}
        tried = run.recorder.column(done.tried, len(members)).sum(axis=0)
        found = {}
        for j in np.flatnonzero(going & self._due(run, members, tried)):
            rows = np.flatnonzero(kept[:, j])
            one = self._ended(run, int(members[j]), int(j), rows, t[rows, j], done)
            if one is not None:
                found[int(j)] = one
        return found

    def _due(self, run: Any, members: np.ndarray, tried: np.ndarray) -> np.ndarray:
        """Whether a member may be at rest after a round: one that ends there, or would not arrive.

        To look compiles a program of the whole model: it is worth it where at the present step the
        end of the run lies beyond max_steps.
        """
        made = (run.accepted + run.rejected)[members] + tried
        endless = np.isinf(run.end[members])
        way = np.maximum(run.end[members] - run.time[members], 0.0)
        reach = np.asarray(run.pace.step, float)[members] * np.maximum(run.most - made, 1)
        late = self.stays & ~endless & (made >= self.due[members]) & (way > reach)
        self.due[members[late]] *= 2
        return endless | late

    def _ended(
        self, run: Any, i: int, column: int, rows: np.ndarray, time: np.ndarray, done: Round
    ) -> Found | None:
        """The first row at which member i is found to have ended.

        Looked at are the last one, and in an endless run those from which on, at the rate of that
        moment, as much time again as has passed would lower the loss by no more than rtol of what
        it has fallen.
        """
        endless, recorder = np.isinf(run.end[i]), run.recorder
        elapsed, looked = time - run.start[i], np.zeros(len(rows), bool)
        fallen = np.zeros(len(rows))
        looked[-1] = time[-1] < run.end[i]
        if endless:
            descent = recorder.column(done.record["descent"], column + 1)[rows, column]
            before = np.append(self.descent[i], descent[:-1])
            steps = np.diff(time, prepend=run.time[i])
            fallen = self.fallen[i] + np.cumsum(0.5 * (before + descent) * steps)
            self.descent[i], self.fallen[i] = descent[-1], fallen[-1]
            looked |= descent * elapsed <= run.rtol * fallen
        for k in np.flatnonzero(looked):
            if elapsed[k] < self.examined[i]:
                continue
            self.examined[i] = 1.5 * elapsed[k]
            row, t = int(rows[k]), float(time[k])
            if endless:
                here = recorder.rows(done.record, rows[: k + 1], column)
                self.turning[i] = self._turning(run, i, here, time[: k + 1], float(fallen[k]))
                if self.turning[i] <= self.direction:
                    return Found(row, Status.directional, cause=self._angle(run, i, t))
                if not np.isnan(self.turning[i]):
                    continue
            leaves = recorder.rows(done.record["leaves"], row, column)
            found = verdict(run.flow(i), leaves, t, float(elapsed[k]), float(run.rtol))
            if found is Verdict.resting:
                return Found(row, Status.converged if endless else Status.reached, t)
            if endless and found is Verdict.saddle:
                return Found(row, Status.saddle)
        return None

    def _angle(self, run: Any, i: int, t: float) -> str:
        return f"they are {self.turning[i]:.2g} rad from their direction there at t = {t:.3g}"

    def _turning(self, run: Any, i: int, here: Any, t: np.ndarray, fallen: float) -> float:
        """How far member i is from its direction at infinity at the last of these rows of a round.

        NaN where it is not on its way there. Once it is, it is as long as it grows: beside weights
        that have come to rest the descent ends in their rounding.
        """
        before = run.recorder.member(i)
        times, records = before.t, before.records
        if before.checkpoints is not None:
            at = before.checkpoints
            held = {name: records[name][at] for name in ("descent", "loss")}
            times, records = times[at], records | held
        names = ("descent", "loss", "leaves")
        whole = joined([{name: x[name] for name in names} for x in (records, here)])
        values = [
            leaf["value"].reshape(len(leaf["value"]), -1) for leaf in whole["leaves"].values()
        ]
        size = np.linalg.norm(np.stack([np.linalg.norm(x, axis=1) for x in values]), axis=0)
        times = np.concatenate([times, t]) - run.start[i]
        falls = not np.isnan(self.turning[i])
        falls = falls or falls_for_ever(times, whole["descent"], fallen, run.rtol)
        if not (falls and grows_for_ever(times, size)):
            return np.nan
        found = [heading(times, whole["loss"], x.__getitem__) for x in values if np.any(x[-1])]
        return max((np.inf if x is None else x.left + x.error for x in found), default=np.inf)

    def stay(self, run: Any, i: int, column: int, found: Found, done: Round) -> None:
        """Member i rests from then on: the last of its rows is where it rests.

        It is what the step before comes to once the modes that the solver has left moving die
        out; in a run to a given end it is so at that end as well.
        """
        flow, clock = run.flow(i), jnp.asarray(found.since, run.dtype)

        def record(recorded):
            leaves = run.recorder.rows(recorded["leaves"], found.row, column)
            here, lapse = settled_record(
                flow, jax.tree.map(jnp.asarray, leaves), clock, run.observables
            )
            return jax.tree.map(np.asarray, here), float(lapse)

        main, lapse = record(done.record)
        second = None if done.refined is None else record(done.refined)[0]
        self.rest[i] = found.since + lapse
        run.time[i] = self.rest[i] if np.isinf(run.end[i]) else run.end[i]
        run.recorder.append(i, run.time[i], main, second)

    def late(self, run: Any, i: int) -> Ended:
        """How member i ended that needs too many steps, or too much time."""
        if not np.isnan(self.turning[i]):
            return Ended(Status.unbounded, self._angle(run, i, float(run.time[i])))
        return Ended(Status.max_steps, self._late(run, i))

    def _late(self, run: Any, i: int) -> str:
        record = run.member(i).records
        made = run.accepted[i] + run.rejected[i]
        if not run.accepted[i]:
            return f"none of {made} attempts at a first step was kept. Pass a larger max_steps"
        stop = Stop(
            t=float(run.time[i]), start=float(run.start[i]), end=float(run.end[i]),
            step=float(np.atleast_1d(run.pace.kept_step)[i]), attempts=int(made),
            rejected=float(run.rejected[i] / made), descent=float(record["descent"][-1]),
            fallen=float(record["loss"][0] - record["loss"][-1]),
        )  # fmt: skip
        leaves = jax.tree.map(lambda x: x[-1], record["leaves"])
        return cause(run.flow(i), leaves, run.solver, run.rtol, stop)
