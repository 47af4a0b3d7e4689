"""Integration in rounds of a fixed number of steps.

One compiled function advances the flow by at most `STEPS` steps and hands back what was
recorded. Between rounds the coordinates are chosen anew for the point reached, so that
neither states nor times lose digits to the length of the run; memory, progress, partial
results and stopping rules live outside the compiled code.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, Int

from .flow import Flow

STEPS = 64


class RememberedStep(diffrax.AbstractAdaptiveStepSizeController):
    """A controller that keeps the step size it proposes, so that a solve can resume."""

    controller: diffrax.AbstractAdaptiveStepSizeController

    @property
    def rtol(self):
        return self.controller.rtol

    @property
    def atol(self):
        return self.controller.atol

    @property
    def norm(self):
        return self.controller.norm

    def wrap(self, direction):
        return RememberedStep(self.controller.wrap(direction))

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        end, inner = self.controller.init(terms, t0, t1, y0, dt0, args, func, error_order)
        return end, (end - t0, inner)

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, y_error, error_order, state):
        _, inner = state
        keep, start, end, jump, inner, result = self.controller.adapt_step_size(
            t0, t1, y0, y1_candidate, args, y_error, error_order, inner
        )
        return keep, start, end, jump, (end - start, inner), result


class Round(eqx.Module):
    """What one round recorded; entries past `accepted` are copies of the last."""

    t: Float[Array, " steps"]
    record: dict[str, Any]
    refined: dict[str, Any] | None
    accepted: Int[Array, ""]
    rejected: Int[Array, ""]
    next_step: Float[Array, ""]


def _velocity(t, state, args):
    flow, offset = args
    return flow.velocity(offset + t, state)


def record_state(flow: Flow, observables, t, state) -> dict[str, Any]:
    record = flow.record(t, state)
    model = flow.model(flow.weights(state))
    record["observables"] = {name: jnp.asarray(f(model)) for name, f in observables.items()}
    record["resolved"] = flow.resolved(state)
    return record


@eqx.filter_jit
def first_record(flow: Flow, observables: dict, t: Float[Array, ""]) -> dict[str, Any]:
    """The record of the flow's own starting point."""
    return record_state(flow, observables, t, flow.start())


@eqx.filter_jit
def run_round(
    flow: Flow,
    refined: Flow | None,
    solver: diffrax.AbstractSolver,
    tolerance: tuple[Array, Array],
    offset: Float[Array, ""],
    span: Float[Array, ""],
    step: Float[Array, ""],
    observables: dict,
) -> Round:
    """Advance by at most STEPS steps or `span`; repeat each accepted step as two halves.

    `refined` is the companion that takes the halves: its distance from the main run is
    the error bar. Times inside a round start at 0; `offset` is the flow time there.
    """
    atol, rtol = tolerance
    term = diffrax.ODETerm(_velocity)
    controller = diffrax.PIDController(rtol=rtol, atol=atol, norm=optx.max_norm, factormin=0.1)
    solution = diffrax.diffeqsolve(
        term,
        solver,
        t0=jnp.zeros_like(span),
        t1=span,
        dt0=step,
        y0=flow.start(),
        args=(flow, offset),
        stepsize_controller=RememberedStep(controller),
        saveat=diffrax.SaveAt(steps=True, controller_state=True),
        max_steps=STEPS,
        throw=False,
    )
    accepted = solution.stats["num_accepted_steps"]
    last = jnp.maximum(accepted - 1, 0)
    index = jnp.minimum(jnp.arange(STEPS), last)
    assert solution.ts is not None
    assert solution.ys is not None
    assert solution.controller_state is not None
    any_step = accepted > 0
    t = jnp.where(any_step, solution.ts[index], 0.0)
    states = jnp.where(any_step, solution.ys[index], flow.start()[None])

    companion = None
    if refined is not None:
        states_refined = _halved(refined, term, solver, offset, t, accepted)
        companion = jax.vmap(lambda t, x: record_state(refined, observables, t, x))(
            offset + t, states_refined
        )
    record = jax.vmap(lambda t, x: record_state(flow, observables, t, x))(offset + t, states)
    next_step, _ = solution.controller_state
    return Round(t, record, companion, accepted, solution.stats["num_rejected_steps"], next_step)


def _halved(flow, term, solver, offset, t, accepted):
    """The states at times `t`, each accepted step taken as two of half its length."""
    args = (flow, offset)

    def both_halves(start, end, state):
        middle = start + 0.5 * (end - start)

        def half(state, interval):
            a, b = interval
            inner = solver.init(term, a, b, state, args)
            out = solver.step(term, a, b, state, args, inner, made_jump=False)
            return out[0], None

        edges = jnp.stack([jnp.stack([start, middle]), jnp.stack([middle, end])])
        return jax.lax.scan(half, state, edges)[0]

    def body(carry, item):
        start, state = carry
        i, end = item
        state = jax.lax.cond(i < accepted, lambda: both_halves(start, end, state), lambda: state)
        return (end, state), state

    steps = (jnp.arange(STEPS), t)
    _, states = jax.lax.scan(body, (jnp.zeros_like(t[0]), flow.start()), steps)
    return states


@eqx.filter_jit
def single_step(
    flow: Flow,
    solver: diffrax.AbstractSolver,
    offset: Float[Array, ""],
    step: Float[Array, ""],
    observables: dict,
) -> dict[str, Any]:
    """The record one solver step of length `step` after the flow's start."""
    term, args, state = diffrax.ODETerm(_velocity), (flow, offset), flow.start()
    zero = jnp.zeros_like(step)
    inner = solver.init(term, zero, step, state, args)
    out = solver.step(term, zero, step, state, args, inner, made_jump=False)
    return record_state(flow, observables, offset + step, out[0])
