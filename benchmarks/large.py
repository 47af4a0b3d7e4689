r"""Ten thousand plain weights: stabilised methods against the usual explicit ones.

A tanh network 32 → 80 → 80 → 16 learns a random network of its own form on inputs whose
spectrum falls like 1/k. The flow is integrated to a time t1 at which (sharpness) × t1 is
`STIFFNESS`: an explicit method of n stages takes its steps from stability, some 3.3·t1/n
per unit of sharpness, a stabilised one needs only the square root of that many stages.

Every solver runs through Diffrax at the same tolerance from the same start; a gradient
costs the same in each. Sharpness is the largest eigenvalue of the Hessian, by Lanczos.
"""

import time
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.sparse.linalg import LinearOperator, eigsh

import gflow

from .networks import TanhNetwork

RTOL = 1e-4
STIFFNESS = 2e4
SHAPE = (32, 80, 16)
EXAMPLES = 64
MAX_STEPS = 200_000

#: Solvers of gflow by name, where this version has them.
STABILISED = ("RKC2", "ROCK2", "ROCK4")
USUAL = {"Tsit5": diffrax.Tsit5, "Dopri8": diffrax.Dopri8}


class Descent(eqx.Module):
    """y ↦ −∇L(y) of the flat weights of `model`."""

    objective: Any
    model: Any

    def unravelled(self, y):
        return ravel_pytree(self.model)[1](y)

    def loss(self, y):
        return self.objective(self.unravelled(y))

    def __call__(self, t, y, args):
        return -jax.grad(self.loss)(y)


def network(small: bool = False) -> tuple[TanhNetwork, gflow.objectives.SquaredLoss]:
    """The student at its start and the loss."""
    inputs, width, outputs = (4, 6, 2) if small else SHAPE
    keys = jax.random.split(jax.random.key(0), 3)
    spectrum = 4.0 / jnp.arange(1.0, inputs + 1.0)
    x = jax.random.normal(keys[0], (EXAMPLES, inputs)) * spectrum[None, :]
    teacher = TanhNetwork.draw(inputs, width, outputs, key=keys[1], scale=1.5)
    student = TanhNetwork.draw(inputs, width, outputs, key=keys[2], scale=0.5)
    return student, gflow.objectives.SquaredLoss(x, jax.vmap(teacher)(x))


def sharpness(field: Descent, y: jax.Array) -> float:
    """Largest eigenvalue of ∇²L, by Lanczos on Hessian–vector products."""
    product = eqx.filter_jit(lambda v: -jax.jvp(lambda y: field(0.0, y, None), (y,), (v,))[1])
    shape = (y.size, y.size)
    operator = LinearOperator(shape, lambda v: np.asarray(product(jnp.asarray(v))), dtype=float)
    start = np.random.default_rng(0).standard_normal(y.size)
    return float(eigsh(operator, k=1, which="LA", tol=1e-3, v0=start)[0][0])


@eqx.filter_jit
def _solve(field, solver, y0, t1, rtol, atol):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        solver,
        t0=0.0,
        t1=t1,
        dt0=None,
        y0=y0,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        saveat=diffrax.SaveAt(t1=True, solver_state=True),
        max_steps=MAX_STEPS,
        throw=False,
    )


def run(quick: bool, say) -> dict[str, Any]:
    """`problem`: sizes, sharpness and horizon; `rows`: one a solver."""
    model, objective = network(small=quick)
    field, y0 = Descent(objective, model), ravel_pytree(model)[0]
    say("large: sharpness")
    stiffness = 200.0 if quick else STIFFNESS
    solvers = {name: make() for name, make in USUAL.items()}
    for name in STABILISED:
        if hasattr(gflow.solvers, name):
            solvers[name] = getattr(gflow.solvers, name)()
    t1, settled = _horizon(field, y0, stiffness)
    truth = _integrate(field, diffrax.Tsit5(), y0, t1, 1e-3 * RTOL)
    rows = []
    for name, solver in solvers.items():
        say(f"large: {name}")
        rows.append({"solver": name, **_measure(field, solver, y0, t1, truth)})
    return {
        "problem": {
            "parameters": int(y0.size),
            "rtol": RTOL,
            "t1": t1,
            "sharpness_at_start": sharpness(field, y0),
            "sharpness_at_end": settled,
            "stiffness": settled * t1,
            "loss_at_start": float(field.loss(y0)),
            "loss_at_end": float(field.loss(truth)),
        },
        "rows": rows,
    }


def _horizon(field: Descent, y0: jax.Array, stiffness: float) -> tuple[float, float]:
    """A time t1 with (sharpness at t1) × t1 ≈ `stiffness`, and the sharpness there."""
    y, t, t1 = y0, 0.0, stiffness / 100.0
    for _ in range(3):
        y, t = _integrate(field, diffrax.Tsit5(), y0, t1, RTOL), t1
        edge = sharpness(field, y)
        if stiffness <= edge * t <= 1.5 * stiffness:
            break
        t1 = 1.2 * stiffness / edge
    return t, edge


def _arguments(y0, t1, rtol):
    atol = rtol * float(jnp.max(jnp.abs(y0)))
    return [jnp.asarray(x, y0.dtype) for x in (t1, rtol, atol)]


def _integrate(field, solver, y0, t1, rtol):
    """The weights at t1."""
    return jnp.asarray(_solve(field, solver, y0, *_arguments(y0, t1, rtol)).ys)[-1]


def _measure(field, solver, y0, t1, truth) -> dict[str, Any]:
    arguments = (field, solver, y0, *_arguments(y0, t1, RTOL))
    compiled = _solve.lower(*arguments).compile()
    began, used = time.perf_counter(), time.process_time()
    solution = jax.block_until_ready(compiled(*arguments))
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - used
    memory = compiled.compiled.memory_analysis()
    steps, accepted = (int(solution.stats[k]) for k in ("num_steps", "num_accepted_steps"))
    counted = getattr(solution.solver_state, "evaluations", None)
    if counted is None:
        each = solver.tableau.num_stages - int(solver.tableau.fsal)
        evaluations = 1 + steps * each
    else:  # rejected steps are not in the solver's own count: taken as average ones
        evaluations = round(int(counted) * steps / max(accepted, 1))
    return {
        "evaluations": evaluations,
        "steps": steps,
        "accepted": accepted,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "successful": bool(solution.result == diffrax.RESULTS.successful),
        "error": float(jnp.max(jnp.abs(solution.ys[-1] - truth))),
        "states_of_memory": memory.temp_size_in_bytes / y0.nbytes if memory else None,
    }
