"""The flow of plain factors by SciPy, and runs of gflow at the same times."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

import gflow


def raw_flow(loss, start, times):
    """The factors at `times` of gradient flow of `loss` (list of arrays → scalar)."""
    cuts = np.cumsum([x.size for x in start])[:-1]
    shapes = [x.shape for x in start]

    def unpack(y):
        return [part.reshape(s) for part, s in zip(np.split(y, cuts), shapes, strict=True)]

    gradient = jax.jit(jax.grad(loss))

    def field(t, y):
        parts = gradient([jnp.asarray(x) for x in unpack(y)])
        return -np.concatenate([np.asarray(g).ravel() for g in parts])

    flat = np.concatenate([np.asarray(x).ravel() for x in start])
    span = (0.0, float(times[-1]))
    run = solve_ivp(field, span, flat, "DOP853", times, rtol=1e-11, atol=1e-15)
    assert run.success
    return [unpack(y) for y in run.y.T]


def simulated(model, objective, t1, **options):
    """The run, and some of its steps after the start, the last among them."""
    options = {"rtol": 1e-11, "solver": diffrax.Tsit5(), "error_bars": False} | options
    run = gflow.simulate(model, objective, t1=t1, **options)
    assert run.successful
    return run, np.linspace(0, len(run.t) - 1, 9).astype(int)[1:]
