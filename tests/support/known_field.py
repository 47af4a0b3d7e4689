"""A field with a closed form, marched through: what the tests of the loop share."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gflow.integrate._field import Field, Pace
from gflow.integrate._march import march
from gflow.solvers import Rodas5P

SOLVERS = {"Rodas5P": Rodas5P(), "unpivoted": Rodas5P(pivot=False), "Tsit5": diffrax.Tsit5()}
both = pytest.mark.parametrize("solver", ["Rodas5P", "Tsit5"])


def numbers(*values):
    return tuple(jnp.asarray(x, float) for x in values)


class Known(Field):
    """a' = rate·a(1 − a), b' = b cos t, c' = cos t, of which |c| and the sign may be apart."""

    y0: jax.Array
    rate: jax.Array
    limit: jax.Array
    side: jax.Array
    mirrored: jax.Array

    def start(self):
        return self.y0.at[2].multiply(self.side)

    def velocity(self, t, state):
        a, b, _ = state
        return jnp.stack([self.rate * a * (1.0 - a), b * jnp.cos(t), self.side * jnp.cos(t)])

    def horizon(self, t, state, atol):
        return self.limit

    def frame(self):
        return self.side

    def framed(self, frame):
        return eqx.tree_at(lambda f: f.side, self, frame)

    def recentred(self, state):
        flip = (state[2] < 0.0) & self.mirrored
        side = jnp.where(flip, -self.side, self.side)
        return side, state.at[2].multiply(side * self.side), side != self.side


def known(y0=(0.01, 2.0, 0.3), rate=1.0, limit=np.inf, mirrored=False):
    return Known(*numbers(y0, rate, limit, 1.0), jnp.asarray(mirrored))


def exact(field, t, offset=0.0):
    """Solution at t after `offset`; c with its sign."""
    a, b, c = np.asarray(field.y0)
    bend = (1.0 / a - 1.0) * np.exp(-float(field.rate) * t)
    gain = np.sin(offset + t) - np.sin(offset)
    return np.stack([1.0 / (1.0 + bend), b * np.exp(gain), c + gain], axis=-1)


def itself(field):
    return field


@eqx.filter_jit
def marched(field, solver, tolerance, clock, pace, attempts, most=None, batched=False):
    return march(
        itself, field, solver, tolerance, *clock, pace, attempts=attempts, most=most,
        batched=batched,
    )  # fmt: skip


def go(
    field, solver, span, *, tol=1e-8, atol=None, step=0.1, offset=0.0, attempts=512, most=None,
    size=None,
):  # fmt: skip
    """`march` of one field; `tol` is both tolerances unless `atol` is given."""
    full = np.ones(field.start().size)
    tolerance = numbers((tol if atol is None else atol) * full, tol * full)
    solver = SOLVERS.get(solver, solver) if isinstance(solver, str) else solver
    most = None if most is None else jnp.asarray(most)
    pace = step if isinstance(step, Pace) else Pace.at(jnp.asarray(step))
    return marched(field, solver, tolerance, numbers(offset, span), pace, attempts, most)


def signed(steps):
    """States with c in place of |c|."""
    state = np.array(steps.state)
    state[..., 2] *= np.asarray(steps.frame)
    return state
