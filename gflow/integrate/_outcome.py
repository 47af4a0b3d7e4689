"""From runs that have ended to trajectories."""

from jaxtyping import PyTree

from ..results._resolver import Resolver
from ..results._risen import first_risen
from ..results._trajectory import Trajectory
from ._conditions import ended_at
from ._run import Rounds
from ._sinking import first_lost
from ._status import Ended, Status


def trajectory_of(
    run: Rounds, i: int, model: PyTree, log_alpha: float, conflict: str, method: str,
    order: int = 2,
) -> Trajectory:  # fmt: skip
    """The trajectory of member `i`, which started as `model`, as far as it can be relied on."""
    found, flow, status = run.member(i), run.flow(i), run.ended(i)
    times, leaves = found.t[found.rows], found.records["leaves"]
    kept = min(x.chart.steps_on_branch(x) for x in leaves.values())
    lost = first_lost(flow, times, leaves, run.rtol)
    if lost is not None:
        kept = min(kept, lost + 1)
    statistics = {"accepted": int(run.accepted[i]), "rejected": int(run.rejected[i])}
    statistics["rounds"] = run.rounds
    if run.course is not None:
        statistics |= {"kinks_met": run.course.events, "kinks_slid_on": run.course.slides}
    statistics |= {name: int(count[i]) for name, count in run.counts.items()}
    segments = None if run.course is None else run.course.segments

    def up_to(rows: int, status: Ended) -> Trajectory:
        """As far as there are so many rows with weights."""
        part = found.cut(rows)
        return Trajectory.from_records(
            model=model,
            t=part.t,
            records=part.records,
            refined=part.refined,
            checkpoints=part.checkpoints,
            log_alpha=log_alpha,
            log_alpha_conflict=conflict,
            order=order,
            status=status.status,
            cause=status.cause,
            method=method,
            statistics=statistics,
            resolver=Resolver(
                flow,
                run.solver,
                run.rtol,
                run.observables,
                float(run.lookout.rest[i]),
                segments,
                run.team,
                i,
            ),
        )

    trajectory = up_to(kept, status if kept == len(times) else Ended(Status.unresolved))
    beyond = any(
        x.time and x.values(found.records)[-1] > x.of(i).stop.level for x in run.conditions
    )
    if trajectory.status is Status.stopped or (trajectory.status is Status.reached and beyond):
        trajectory = ended_at(trajectory, [x.of(i) for x in run.conditions])
    risen = first_risen(trajectory.whole, run.rtol) if run.lookout.plateaus else None
    return trajectory if risen is None else up_to(risen + 1, Ended(Status.risen))
