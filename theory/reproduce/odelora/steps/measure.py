"""Euler steps of the factors, beside what one aligned mode does and what the flow does."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gflow import velocity
from theory import odelora

from ... import Report
from ..problem import PAPER

TARGET, START, END = 2.0, 1e-4, 8.0
#: Steps over 2s₀/d.
SHARES = (0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1000.0)


class Steps(NamedTuple):
    """By step over 2s₀/d: the first step over the flow's, measured and predicted; and paths."""

    first: np.ndarray
    predicted: np.ndarray
    paths: dict[float, np.ndarray]


def euler(report: Report) -> Steps:
    """First steps, and whole paths at a step of the size of the start and at a larger one."""
    bound = 2.0 * START / TARGET
    first, predicted = [], []
    for share in SHARES:
        step = share * bound
        exact = float(odelora.aligned(TARGET, START, step))
        measured = path(step, 1)[-1]
        expected = odelora.euler_mode(TARGET, START, step, 1)[-1]
        first.append(measured / exact)
        predicted.append(expected / exact)
        report.add(
            f"euler.first.share{share:g}", float(expected), float(measured), 1e-12 * expected,
            1e-14 * expected, paper=PAPER,
            text=f"a mode after one step of {share:g} × 2s₀/d (the flow: {exact:.4g})",
        )  # fmt: skip
    paths = {}
    for step in (0.02, 0.2):
        count = round(END / step)
        found = path(step, count)
        expected = odelora.euler_mode(TARGET, START, step, count)
        worst = int(np.argmax(np.abs(found / expected - 1.0)))
        report.add(
            f"euler.path.step{step:g}", float(expected[worst]), float(found[worst]),
            1e-11 * float(expected[worst]), 1e-13, paper=PAPER,
            text=f"the worst of {count} steps of {step:g}",
        )  # fmt: skip
        paths[step] = found
    return Steps(np.array(first), np.array(predicted), paths)


def path(step: float, count: int) -> np.ndarray:
    """The mode under Euler steps on the factors of an aligned start."""
    rng = np.random.default_rng(0)
    u, v = (x / np.linalg.norm(x) for x in (rng.normal(size=4), rng.normal(size=3)))
    b, a = (jnp.asarray(np.sqrt(START) * x) for x in (u[:, None], v[None]))
    target, along = jnp.asarray(TARGET * np.outer(u, v)), velocity.Tangent()
    found = [START]
    for _ in range(count):
        force = target - b @ a
        moved, _ = along(jnp.zeros(()), {"w": (b, a)}, {"w": (force @ a.T, b.T @ force)}, {})
        b, a = b + step * moved["w"][0], a + step * moved["w"][1]
        found.append(float(u @ np.asarray(b @ a) @ v))
    return np.array(found)
