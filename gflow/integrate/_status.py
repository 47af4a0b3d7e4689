"""How a run ended, in words."""

import enum
from typing import NamedTuple


class Status(enum.StrEnum):
    """How a run of any kind ended; a member is its message, and `traj.cause` may say more."""

    reached = "reached the requested time"
    stepped = "made the requested number of steps"
    stopped = "stopped where a condition was met"
    converged = "converged: no weight moves or grows any more, and the loss does not curve down"
    directional = (
        "directional convergence: the minimum is at infinity, where the weights grow for ever, "
        "and they hardly turn any more"
    )
    unbounded = (
        "stopped on the way to a minimum at infinity: the loss falls towards its infimum like a "
        "power of t while the weights grow on, which they do for ever, and their direction still "
        "turns. Pass t1, gflow.stop.direction_rests with a larger tolerance, or a decay that makes "
        "the minimum finite"
    )
    saddle = (
        "stopped at a saddle: no weight moves by more than its rounding, but the loss curves "
        "down in a direction that the weights do not have, or have lost to rounding. Start off "
        "the saddle, from small random weights (gflow.Hadamard or gflow.Factored leaves keep "
        "them at any size), or pass t1 to stay on it"
    )
    max_steps = "stopped at max_steps"
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
        "decay: use gflow.Hadamard or gflow.Factored leaves. (b) Several heads that feel one "
        "force and so move one mode in parallel, in a model that adds up their `.value`: let it "
        "read `.total` (gflow.models.beyond_uniform), or take a larger α. (c) Square factors of "
        "full width with a mode that shrinks before it grows: take one column less"
    )
    risen = (
        "stopped on a plateau that is left out of rounding: no dormant weight has grown on it, "
        "and the weights that rest there rest at a saddle that is unstable in themselves (a "
        "matrix whose learned directions would sooner turn, a symmetry that the start has and "
        "the minimum has not). When they leave it the digits of float64 decide. End the run "
        "before, or start further from the symmetry"
    )
    falls_back = (
        "the plain weights came to rest below the norm asked for: take a smaller level, or start "
        "elsewhere if the start falls back to the saddle"
    )
    vanishing = (
        "a plain weight fell through zero, where its direction is not defined: add a column or "
        "row to it, start with larger factors beside it, or use gflow.simulate at a moderate size"
    )
    diverged = (
        "diverged: the loss became NaN or infinite. Likely causes: (a) the learning rate is above "
        "2/(largest curvature), (b) the loss is unbounded below or undefined where the weights "
        "went. Pass a smaller learning rate; the records before are kept"
    )
    interrupted = "interrupted by the user"

    @property
    def successful(self) -> bool:
        return self in _SUCCESSFUL


_SUCCESSFUL = (
    Status.reached, Status.converged, Status.directional, Status.stepped, Status.stopped
)  # fmt: skip


class Ended(NamedTuple):
    """The status of one run, with what was found on looking."""

    status: Status
    cause: str = ""


def message(status: Status, cause: str) -> str:
    """Both in one sentence."""
    return f"{status.value}: {cause}" if cause else status.value
