"""A sweep of two weights that is cheap, and its script for processes that are to be killed."""

import os
import signal
import sys

import jax
import jax.numpy as jnp

import gflow
from gflow.sweeps import _store

GRID = {"log10_alpha": [-8.0, -16.0]}
OPTIONS = {"seeds": 4, "tau1": 1.5, "chunk": 2, "progress": False, "error_bars": False}
RATES = (1.0, 2.0)


def build(log10_alpha, seed):
    weight = gflow.Hadamard.small(2, log10_alpha=log10_alpha, key=jax.random.key(seed))
    model = gflow.models.DiagonalLinear(weight)
    return model, gflow.objectives.SquaredLoss(jnp.eye(2), jnp.array(RATES), "half_sum")


def sweep(out, **options):
    return gflow.sweep(build, GRID, out=out, **(OPTIONS | options))


def main(out, number, of, calls):
    """Kill -9 in place of the given call, if any, that renames a finished file."""
    jax.config.update("jax_enable_x64", True)
    left, rename = int(calls), os.replace

    def replace(*names):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*names)

    _store.os.replace = replace
    sweep(out, process_id=int(number), num_processes=int(of))


if __name__ == "__main__":
    main(*sys.argv[1:])
