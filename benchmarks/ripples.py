r"""A batch in which one member is some 300 times harder than the others.

Its loss carries ripples, Σ_i a(1 − cos κθ_i)/κ, whose force −a sin κθ_i vanishes on a
dormant weight: plateaus and their times stay, but every transition crosses hundreds of
them, and each takes its own steps.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import gflow

from .problems import Case

#: Gradient of a ripple and its wave number, for a member some 300 times harder.
AMPLITUDE = 0.1
WAVE_NUMBER = 12_000.0


class Rippled(eqx.Module):
    """A loss of a diagonal linear model plus ripples in its weight."""

    loss: Any
    amplitude: jax.Array
    wave_number: jax.Array

    def __call__(self, model):
        ripples = 1.0 - jnp.cos(self.wave_number * model.weight.value)
        return self.loss(model) + self.amplitude / self.wave_number * jnp.sum(ripples)


def hard_member(case: Case, size: int, rtol: float = 1e-6) -> dict[str, Any]:
    """Steps of the hard member over those of another, the batch's useful work, and times."""
    amplitude = jnp.zeros(size).at[size // 2].set(AMPLITUDE)
    loss = case.problem.objective
    objectives = eqx.filter_vmap(
        lambda a: Rippled(loss, a, jnp.asarray(WAVE_NUMBER)), axis_size=size
    )(amplitude)
    keys = jax.vmap(jax.random.key)(np.arange(size))
    models = eqx.filter_vmap(partial(case.problem.model, case.log_alpha))(keys)
    options = {"t1": case.t1, "rtol": rtol, "error_bars": False, "max_steps": 1_000_000}

    def single(a):
        objective = Rippled(loss, jnp.asarray(a), jnp.asarray(WAVE_NUMBER))
        return gflow.simulate(case.model, objective, **options).statistics

    def together():
        return gflow.simulate_batch(models, objectives, in_axes=(0, 0), **options).statistics

    single(0.0)  # compile
    easy, hard = single(0.0), single(AMPLITUDE)
    together()
    batch = together()
    steps = [s["accepted"] + s["rejected"] for s in (easy, hard)]
    return {
        "size": size,
        "harder": steps[1] / steps[0],
        "useful_work": batch["useful_work"],
        "seconds": batch["seconds"],
        "seconds_of_singles": hard["seconds"] + (size - 1) * easy["seconds"],
    }
