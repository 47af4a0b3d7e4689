"""Why a run was stopped at max_steps, found by looking at where it stands."""

import dataclasses
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..flow._flow import Flow
from ..solvers import Rodas5P
from ..solvers._switching import Switching
from ._choose import choose
from ._rest import Leaves, motion
from ._round import stability_reach

#: h·ρ at which the steps of an explicit method are held down by stability, and those of a
#: method of many stages by their number and what they amplify.
_HELD, _HELD_MANY = 1.5, 20.0

#: Displacements along the flow, in steps, at which two forces are compared.
_REACHES = np.array([1.0, 10.0, 100.0])


@dataclasses.dataclass(frozen=True)
class Stop:
    """Where a run stood when it was stopped.

    `step` is its last step, `rejected` the share of attempts that were, `descent` the rate at
    which the loss falls and `fallen` what it has fallen by since `start`.
    """

    t: float
    start: float
    end: float
    step: float
    attempts: int
    rejected: float
    descent: float
    fallen: float


def cause(flow: Flow, leaves: Leaves, solver: Any, rtol: float, stop: Stop) -> str:
    """A sentence on what held the steps of a run of `flow` at the recorded `leaves`."""
    dtype = flow.dtype
    leaves = jax.tree.map(jnp.asarray, leaves)
    clock, h = jnp.asarray(stop.t, dtype), jnp.asarray(stop.step, dtype)
    here = flow.at(leaves)
    goal = "rest" if np.isinf(stop.end) else f"t1 = {stop.end:.6g}"
    where = f"at t = {stop.t:.6g} on the way to {goal} "
    if not np.isfinite(stop.end) and stop.t > 1e-9 * np.finfo(dtype).max:
        return where + "the floats end, and the weights do not rest. Pass t1"
    jumps = np.asarray(kinked(here, clock, h * jnp.asarray(_REACHES, dtype)))
    reach = float(
        stability_reach({"coordinates": here.coordinates}, _bare(here), jnp.stack([clock, h]))
    )
    if stop.rejected > 0.2 and jumps[0] > 1e-3 and jumps[1] < 6.0 * jumps[0]:
        return where + _kink(jumps, stop)
    found = motion(flow, leaves, clock)
    scale, rounding = (np.asarray(x) for x in found[2:])
    if np.any(stop.step * rounding > 0.1 * rtol * np.where(scale > 0.0, scale, np.inf)):
        return where + (
            f"rounding holds the steps to h = {stop.step:.3g}: what the forces are known to, times "
            f"h, comes to rtol = {rtol:g}. Pass a larger rtol, or subtract a large offset from the "
            "targets"
        )
    held = reach > (_HELD if isinstance(solver, diffrax.AbstractERK) else _HELD_MANY)
    if _explicit(solver) and held:
        text = (
            f"stability holds the steps to h = {stop.step:.3g} (the fastest mode relaxes in "
            f"{stop.step / reach:.2g}), and not accuracy"
        )
        if stop.descent * (stop.t - stop.start) < rtol * stop.fallen:
            return (
                where
                + text
                + (
                    ", while the weights creep: as much time again would lower the loss by less "
                    f"than rtol of what it has fallen. Pass t1. {_remedy(flow, solver, rtol)}"
                )
            )
        return where + f"{text}. {_remedy(flow, solver, rtol)}"
    if stop.descent * (stop.t - stop.start) > 0.1 * stop.fallen and np.isinf(stop.end):
        return where + (
            "the loss falls as fast as ever: it may have no minimum. Pass t1, or a larger max_steps"
        )
    left = (stop.end - stop.t) / max(stop.t - stop.start, np.finfo(float).tiny)
    more = f", about {left * stop.attempts:.2g} at this pace" if left < 1e4 else ""
    return where + (
        f"accuracy holds the steps to h = {stop.step:.3g}: it needs more of them{more}. Pass a "
        "larger max_steps, or a larger rtol"
    )


def _bare(flow: Flow) -> Flow:
    return dataclasses.replace(flow, coordinates=())


def _explicit(solver: Any) -> bool:
    parts = (solver.stiff,) if isinstance(solver, Switching) else (solver,)
    return not any(isinstance(s, diffrax.AbstractImplicitSolver | Rodas5P) for s in parts)


def _kink(jumps: np.ndarray, stop: Stop) -> str:
    power = np.log10(max(jumps[1] / jumps[0], 1e-9))
    if power < 0.2 and stop.descent * (stop.t - stop.start) < 1e-2 * stop.fallen:
        kind = "a minimum or an edge of the loss was reached in finite time and the run"
    else:
        kind = "the run"
    change = "jumps" if power < 0.2 else "changes without a derivative"
    return (
        f"{kind} slides along a kink: within a step of h = {stop.step:.3g} the force {change} by "
        f"{100 * jumps[0]:.2g} % along the flow (ReLU, max, |·|, a root), where steps shrink to "
        "the tolerance. Pass a larger rtol (the jump times the step is the error), or a smooth "
        "activation or loss"
    )


def _remedy(flow: Flow, solver: Any, rtol: float) -> str:
    for name, other in (("solver=None", None), ("solver=gflow.solvers.Rodas5P()", Rodas5P())):
        try:
            better = choose(flow, other, rtol)
        except ValueError:
            continue
        if not _explicit(better) or (other is None and isinstance(solver, diffrax.AbstractERK)):
            return f"{name} takes {type(better).__name__}, which is not held by it"
    return (
        "Every method that may follow raw weights is: pass a smaller t1, or rescale inputs and "
        "weights so that their time scales are nearer to each other"
    )


@eqx.filter_jit
def kinked(
    flow: Flow, t: Float[Array, ""], steps: Float[Array, " reaches"]
) -> Float[Array, " reaches"]:
    """|v(y + hv) − v(y − hv)| / |v| for each h: proportional to h where the flow is smooth."""
    state = flow.start()
    v = flow.velocity(t, state)

    def change(h):
        apart = flow.velocity(t, state + h * v) - flow.velocity(t, state - h * v)
        return jnp.max(jnp.abs(apart)) / jnp.max(jnp.abs(v))

    return jax.lax.map(change, steps)
