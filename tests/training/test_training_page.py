"""The page on training runs as printed, with fewer steps."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gflow

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()


def teacher(x):
    return x @ jnp.linspace(-1.0, 1.0, 8)


def test_the_page_on_training_runs_as_printed():
    x = np.random.default_rng(0).standard_normal((40, 8))
    names = dict(gflow=gflow, jax=jax, optax=optax, teacher=teacher)
    weight = gflow.Hadamard.small(8, log_alpha=-3.0, key=jax.random.key(0))
    names["model"] = gflow.models.DiagonalLinear(weight)
    names["loss"] = gflow.objectives.SquaredLoss(x, teacher(x))
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(re.sub(r"steps=\d[\d_]*", "steps=100", block), names)
    assert names["traj"].training.made == 200
    assert np.max(names["central"].observables["sharpness"]) * names["eta"] <= 2.0
    assert names["traj"].loss[-1] < names["traj"].loss[0]
