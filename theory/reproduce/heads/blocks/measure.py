r"""The blocks of AᵀA − BᵀB between two heads, which drift as soon as their patterns differ.

S_12 = A_1ᵀA_2 − B_1ᵀB_2,   S_12' = A_1ᵀ(G_2 − G_1)B_2 − B_1ᵀ(G_2 − G_1)ᵀA_2,   G = −∂L/∂VO
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from scipy.interpolate import CubicSpline

import gflow

from ... import Report
from ..problem import LAWS, PAPER, Teacher, teacher
from ..settings import Settings

END, TIMES = 3.0, 301
WIDTH = 2
#: Until then the key–query matrices are those of the start times a number, up to their square.
EARLY = 0.3


class Blocks(NamedTuple):
    """By size of the key–query factors (0: none): t, drift between heads, and its integral."""

    runs: dict[float, tuple[np.ndarray, np.ndarray, np.ndarray]]


def balance(model: PyTree) -> jax.Array:
    """AᵀA − BᵀB of all columns of both heads, (Hr, Hr)."""
    left, right = model.vo.factors
    a = jnp.concatenate(list(left), axis=-1)
    b = jnp.concatenate(list(right.swapaxes(-1, -2)), axis=-1)
    return a.T @ a - b.T @ b


class Rate:
    """S_12' by the difference of the two heads' forces."""

    def __init__(self, one: Teacher):
        self.inputs, self.targets = one

    def __call__(self, model: PyTree) -> jax.Array:
        logits = self.inputs[:, None] @ model.kq.value @ self.inputs[:, None].swapaxes(-1, -2)
        mixed = jax.nn.softmax(logits, axis=-1) @ self.inputs[:, None]
        missed = self.targets - jnp.sum(mixed @ model.vo.value, axis=1)
        force = jnp.einsum("nhti,ntj->hij", mixed, missed) / len(self.inputs)
        left, right = model.vo.factors
        apart, back = force[1] - force[0], right.swapaxes(-1, -2)
        return left[0].T @ apart @ back[1] - back[0].T @ apart.T @ left[1]


def blocks(report: Report, settings: Settings) -> Blocks:
    """Shared forces conserve the blocks; other patterns move them as the forces differ."""
    one, runs = teacher(), {}
    _counted(report, one)
    ends, early = {}, {}
    for size in (0.0, *settings.sizes):
        run = _run(one, size)
        whole = run.observables["balance"]
        moved, bar = np.abs(whole - whole[0]), float(np.max(run.error["balance"]))
        own = max(float(np.max(moved[:, a, a])) for a in (slice(0, WIDTH), slice(WIDTH, None)))
        report.add(
            f"blocks.size{size:g}.own", 0.0, own, 1e-8, bar, paper=LAWS,
            text=f"drift of the blocks of each head, key–query factors of size {size:g}",
        )  # fmt: skip
        between = whole[:, :WIDTH, WIDTH:] - whole[0, :WIDTH, WIDTH:]
        summed = CubicSpline(run.t, run.observables["rate"]).antiderivative()(run.t)
        ends[size] = float(np.max(np.abs(between)))
        first = run.t <= EARLY
        early[size] = (
            float(np.max(np.abs(between[first]))), float(np.max(run.error["balance"][first]))
        )  # fmt: skip
        if size == 0.0:
            report.add(
                "blocks.size0.between", 0.0, ends[size], 1e-8, bar, paper=PAPER,
                text="drift of the block between heads of one pattern",
            )  # fmt: skip
        else:
            off = float(np.max(np.abs(between - summed)))
            report.add(
                f"blocks.size{size:g}.between", 0.0, off / ends[size], 1e-6, bar / ends[size],
                paper=PAPER,
                text=f"drift of {ends[size]:.2g} between heads, less the integral of the forces' "
                "difference, over it",
            )  # fmt: skip
        norms = [np.linalg.norm(x, axis=(1, 2)) for x in (between, summed)]
        runs[size] = run.t, *norms
    _decayed(report, one)
    small = [s for s in settings.sizes if s < 0.05]
    for low, high in itertools.pairwise(small):
        report.add(
            f"blocks.power.size{high:g}", 2.0,
            float(np.log(early[high][0] / early[low][0]) / np.log(high / low)), 100.0 * high**2,
            early[low][1] / early[low][0] / np.log(high / low), paper=PAPER,
            text=f"power of the key–query factors in the drift between heads until t = {EARLY:g}",
        )  # fmt: skip
    return Blocks(runs)


def _run(one: Teacher, size: float, decay: float = 0.0) -> gflow.Trajectory:
    return gflow.simulate(
        one.student(size), one.objective, t1=END, decay=decay, rtol=1e-9,
        observables={"balance": balance, "rate": Rate(one)}, save=np.linspace(0.0, END, TIMES),
    )  # fmt: skip


def _counted(report: Report, one: Teacher) -> None:
    """d_k²H(H − 1)/2 laws more where all heads have one pattern."""
    patterns = jax.nn.softmax(jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4))), -1)
    for name, used in (("shared", patterns[:1].repeat(2, axis=0)), ("distinct", patterns)):

        def outputs(vo: gflow.Parameter, used: jax.Array = used) -> jax.Array:
            mixed = used[None] @ one.inputs[:, None]
            return jnp.sum(mixed @ vo.value, axis=1)

        laws = gflow.symmetry.conservation_laws(one.student(1.0).vo, outputs)
        between = WIDTH**2 if name == "shared" else 0
        expected = 2 * WIDTH * (WIDTH + 1) // 2 + between
        for what, number in (("count", laws.count), ("found", laws.independent)):
            report.add(
                f"blocks.laws.{name}.{what}", expected, number, 0.0, paper=LAWS,
                text=f"independent laws of two value–output pairs, {name} patterns: {what}",
            )  # fmt: skip


def _decayed(report: Report, one: Teacher) -> None:
    decay = 0.1
    run = _run(one, 0.0, decay)
    whole = run.observables["balance"]
    expected = whole[0] * np.exp(-2.0 * decay * run.t)[:, None, None]
    report.add(
        "blocks.decay", 0.0, float(np.max(np.abs(whole - expected))), 1e-8,
        float(np.max(run.error["balance"])), paper=PAPER,
        text="all blocks under decay less e^{−2λt} times those of the start, one pattern",
    )  # fmt: skip
