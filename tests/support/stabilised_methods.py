"""The stabilised methods by name, a problem with time in both rates, and adaptive solves of any."""

import diffrax
import jax.numpy as jnp
import numpy as np
import pytest

from gflow.solvers._rkc2 import RKC2
from gflow.solvers._rock4 import ROCK4

METHODS = {"RKC2": RKC2, "ROCK4": ROCK4}
methods = pytest.mark.parametrize("name", METHODS)


def driven(t, y, args):
    """Time enters both rates: y = (1/(1 + t²), e^{sin t}·(1 + t²))."""
    return jnp.stack([-2.0 * t * y[0] ** 2, y[1] * (jnp.cos(t) + 2.0 * t * y[0])])


def driven_exact(t):
    return np.stack([1 / (1 + t**2), np.exp(np.sin(t)) * (1 + t**2)], axis=-1)


def adaptive(
    field, solver, y0, t1, rtol, *, atol=None, args=None, dt0=None, saveat=None, **options
):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        solver,
        0.0,
        t1,
        dt0,
        y0,
        args=args,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol if atol is None else atol),
        saveat=diffrax.SaveAt(t1=True) if saveat is None else saveat,
        max_steps=options.pop("max_steps", None),
        **options,
    )
