"""What gradient descent does on average at the edge of stability, as a flow."""

import time
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ._arguments import count as counted, number
from .flow._build import traced_observables
from .flow._flow import Flow, Objective
from .flow._plain import plain_flow
from .flow._prepare import log_alpha_of
from .integrate._round import record_state
from .integrate._status import Status
from .results._resolver import joined
from .results._trajectory import Trajectory
from .training._complementarity import covariance
from .training._curvature import bends, downhill, finite, top

#: Weights up to which it is worth while: an eigenvalue problem a step.
MOST = 10_000
#: Eigenvalues from this share of 2/η on may come to it within a step.
_NEAR = 0.9


def central_flow(
    model: PyTree,
    objective: Objective,
    *,
    learning_rate: float,
    t1: float,
    substeps: int = 4,
    most: int = 8,
    observables: Any = None,
) -> Trajectory:
    r"""The central flow of gradient descent: its path averaged over oscillations.

        w' = −∇L(w) − ½∇⟨Σ, H(w)⟩,   H ≼ 2/η,   Σ ≽ 0,   ⟨Σ, 2/η − H⟩ = 0

    with H the Hessian of the loss. Below 2/η it is the gradient flow; where an eigenvalue comes to
    2/η gradient descent oscillates along its vector, with covariance Σ, and the oscillation itself
    pushes it towards flatter weights: as strongly as keeps the eigenvalue at 2/η. Σ solves a small
    semidefinite complementarity problem in every step.

    **Arguments:** `learning_rate` η; end `t1` in the time t = Σ η of `gflow.descend`; Euler steps
    of η/`substeps`, of first order; at most `most` eigenvalues at the edge. `observables`: as for
    `gflow.simulate`.

    **Returns:** a `Trajectory` of plain factors with the observables "sharpness" (the largest
    eigenvalue), "oscillation" tr Σ, and "mean_loss" = L + ½⟨H, Σ⟩, the average that descent sees.

    A loss that leaves the floats ends it before, as `Status.diverged` with a warning.

    **Raises:** ValueError for more than 10⁴ weights, a start beyond 2/η, or more than `most`
    eigenvalues at the edge.
    **Regime:** full batches, smooth losses, oscillations small on the scale on which H changes, and
    alive: one that has died out to rounding before an eigenvalue passes 2/η takes long to come
    back, and descent without noise follows the gradient flow until then.
    **Source:** Cohen, Damian, Talwalkar, Kolter & Lee 2024 (2410.24206).

    ```python
    central = gflow.central_flow(model, objective, learning_rate=0.1, t1=20.0)
    central.loss, central.observables["sharpness"], central.observables["mean_loss"]
    ```
    """
    eta = number("learning_rate", learning_rate, "the step η of gradient descent")
    end = number("t1", t1, "the end, in the time t = Σ η")
    if not (eta > 0.0 and end > 0.0):
        raise ValueError(f"learning_rate = {eta}, t1 = {end}: both are positive.")
    substeps = counted("substeps", substeps, "steps of the flow in one of descent")
    scale, conflict = log_alpha_of(model, None)
    model, flow = plain_flow(model, objective)
    if flow.size > MOST:
        raise ValueError(f"This model has {flow.size} weights; central flows are for up to {MOST}.")
    programs = traced_observables(observables, model, flow)
    began = time.perf_counter()
    run = _Run(flow, programs, eta, most)
    steps = int(np.ceil(end * substeps / eta))
    status = Status.reached
    for k in range(steps):
        if not run.step(end / steps, (k + 1) * end / steps):
            status = Status.diverged
            warnings.warn(f"gflow.central_flow {status}.", stacklevel=2)
            break
    return Trajectory.from_records(
        model=model,
        t=np.array(run.times),
        records=joined(run.records),
        refined=None,
        log_alpha=scale,
        log_alpha_conflict=conflict,
        status=status,
        method=f"central flow of gradient descent, learning rate {eta:g}, {substeps} substeps",
        statistics={"steps": len(run.times) - 1, "seconds": time.perf_counter() - began},
        resolver=None,
    )


class _Run:
    """A state that moves, and what was recorded on the way."""

    def __init__(self, flow: Flow, programs: dict, eta: float, most: int):
        self.flow, self.programs, self.edge, self.most = flow, programs, 2.0 / eta, most
        self.state = flow.start()
        self.values, self.vectors = top(flow, self.state, min(2, flow.size))
        if self.values[0] > self.edge:
            raise ValueError(
                f"The start has a sharpness of {self.values[0]:.6g}, beyond 2/η = {self.edge:.6g}: "
                "gradient descent leaves it at once, and no flow follows that. Take a smaller "
                "learning rate, or another start."
            )
        self.times, self.records = [], []
        self._keep(0.0, np.zeros((1, 1)))

    def step(self, span: float, after: float) -> bool:
        """Whether the loss and its Hessian were finite; the last such state is kept."""
        near = int(np.sum(self.values >= _NEAR * self.edge))
        if near > self.most:
            raise ValueError(
                f"{near} eigenvalues are near 2/η = {self.edge:.6g}, and most = {self.most}. Pass "
                "a larger `most`, or a smaller learning rate."
            )
        down = downhill(self.flow, self.state)
        sigma = np.zeros((1, 1))
        if near:
            u = self.vectors[:, :near]
            curvature, gradients = (
                np.asarray(x) for x in bends(self.flow, self.state, jnp.asarray(u))
            )
            rise = gradients @ np.asarray(down)
            slack = (self.edge * np.eye(near) - curvature) / span - rise
            sigma = covariance(slack, gradients)
            down = down - 0.5 * jnp.asarray(np.einsum("ij,ijn->n", sigma, gradients))
        moved = self.state + span * down
        if not finite(self.flow, moved):
            return False
        self.state = moved
        self._look(near)
        self._keep(after, sigma)
        return True

    def _look(self, near: int) -> None:
        """The eigenvalues that may come to the edge in the next step, and one more."""
        wanted = min(near + 2, self.flow.size)
        while True:
            self.values, self.vectors = top(self.flow, self.state, wanted, self.vectors)
            if self.values[-1] < _NEAR * self.edge or wanted == self.flow.size:
                return
            wanted = min(wanted + 2, self.flow.size)

    def _keep(self, t: float, sigma: np.ndarray) -> None:
        clock = jnp.asarray(t, self.state.dtype)
        record = jax.tree.map(np.asarray, _recorded(self.flow, self.programs, clock, self.state))
        size = float(np.trace(sigma))
        record["observables"] = record["observables"] | {
            "sharpness": np.asarray(self.values[0]),
            "oscillation": np.asarray(size),
            "mean_loss": record["loss"] + 0.5 * self.edge * size,
        }
        self.times.append(t)
        self.records.append(jax.tree.map(lambda x: x[None], record))


@eqx.filter_jit
def _recorded(flow: Flow, programs: dict, t: Float[Array, ""], state: Array) -> dict[str, Any]:
    return record_state(flow, programs, t, state)
