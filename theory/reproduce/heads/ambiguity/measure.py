"""Dimension of the contents that one sum leaves open, by the flows that learn the sum."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import gflow
from theory import heads

from ... import Report
from ..problem import PAPER

TOKENS, COUNT, WIDTH = 5, 3, 2
#: Shapes of W_O: columns, and rank.
OUTPUTS = ((6, 6), (6, 5), (4, 4), (6, 3), (2, 2), (4, 1))


class Learned(eqx.Module):
    """½‖C W_O − Y‖², summed over contents C = [C_1 … C_H], W_O and Y being known."""

    output: jax.Array
    target: jax.Array

    def __call__(self, model: dict[str, jax.Array]) -> jax.Array:
        return 0.5 * jnp.sum((model["contents"] @ self.output - self.target) ** 2)


class Ambiguity(NamedTuple):
    """A row a W_O: rank, predicted and measured dimension."""

    rows: list[tuple[int, int, int]]


def ambiguity(report: Report) -> Ambiguity:
    """Flows from more starts than there are dimensions: all learn Y, and differ in what is open."""
    rows, size = [], COUNT * WIDTH
    for columns, rank in OUTPUTS:
        rng = np.random.default_rng(10 * columns + rank)
        left, right = (np.linalg.qr(rng.normal(size=(k, rank)))[0] for k in (size, columns))
        output = np.zeros((size, size))  # columns of zeros change nothing
        output[:, :columns] = left @ right.T
        target = rng.normal(size=(TOKENS, size)) @ output
        # starts do not feel each other: one flow of all of them
        starts = rng.normal(size=(TOKENS * size + 2, TOKENS, size))
        run = gflow.simulate(
            {"contents": jnp.asarray(starts)}, Learned(jnp.asarray(output), jnp.asarray(target)),
            t1=40.0, error_bars=False,
        )  # fmt: skip
        ends = np.asarray(run.final["contents"])
        missed = float(np.max(np.abs(ends @ output - target)))
        apart = (ends[1:] - ends[0]).reshape(len(ends) - 1, -1)
        found = int(np.sum(np.linalg.svdvals(apart) > 1e-6))
        predicted = heads.ambiguity(TOKENS, WIDTH, output)
        report.add(
            f"ambiguity.columns{columns}.rank{rank}", predicted, found, 0.0, paper=PAPER,
            text=f"dimensions open with W_O of {columns} columns and rank {rank}; every sum is "
            f"learned to {missed:.1g}",
        )  # fmt: skip
        report.add(
            f"ambiguity.columns{columns}.rank{rank}.sum", 0.0, missed, 1e-7, paper=PAPER,
            text="how far the sum of any of these heads is from Y",
        )  # fmt: skip
        rows.append((rank, predicted, found))
    claimed = TOKENS * (COUNT - 1) * WIDTH
    report.say(
        f"The paper's n(H − 1)d_k = {claimed} dimensions are those of rank W_O = d_k = {WIDTH}; "
        f"with an invertible W_O every head is determined."
    )
    return Ambiguity(rows)
