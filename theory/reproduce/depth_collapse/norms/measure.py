"""Orthogonality gaps of deep linear networks with and without batch norm; ranks under LayerNorm."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gflow import depth
from theory import depth_collapse

from ... import Report
from ..problem import Deep
from ..settings import Settings

PAPER = "Daneshmand et al. 2020, arXiv 2003.01652, and 2021"
CAUTION = "Cirrincione 2026, arXiv 2604.23681 (abstract)"
SAMPLES, LAYERS = 5, 60


class Gaps(NamedTuple):
    """By width: the mean gap over layers with batch norm; and without, at the first width."""

    with_norm: dict[int, np.ndarray]
    without: np.ndarray
    floors: dict[int, tuple[float, float]]


def gaps(report: Report, settings: Settings) -> Gaps:
    """The gap decays to a floor ~ n/√d; without norm it grows to that of equal tokens."""
    with_norm, floors = {}, {}
    for width in settings.widths:
        gap, bar = _gap(width, True, settings)
        with_norm[width], floors[width] = gap, (float(np.mean(gap[LAYERS // 2 :])), bar)
    ends = [floors[w] for w in (settings.widths[0], settings.widths[-1])]
    span = math.log(settings.widths[-1] / settings.widths[0])
    power = math.log(ends[1][0] / ends[0][0]) / span
    report.add(
        "batch-norm.floor", -0.5, power, 0.1, sum(bar / floor for floor, bar in ends) / span,
        paper=PAPER, text="power of the width in the floor of the gap; 0.1 tells ½ from ¼ and 1",
    )  # fmt: skip
    for width in settings.widths:
        start = with_norm[width][0]
        report.add(
            f"batch-norm.opens.width{width}", 1.0, float(floors[width][0] < 0.5 * start), 0.0,
            paper=PAPER, text=f"the gap falls from {start:.3f} to {floors[width][0]:.3f}",
        )  # fmt: skip
    without, _ = _gap(settings.widths[0], False, settings)
    equal = math.sqrt(1.0 - 1.0 / SAMPLES)
    report.add(
        "no-norm.collapse", 1.0, float(without[-1] > without[0]), 0.0, paper=PAPER,
        text=f"without norm the gap rises from {without[0]:.3f} to {without[-1]:.3f}; {equal:.3f} "
        "of equal samples",
    )  # fmt: skip
    return Gaps(with_norm, without, floors)


def _gap(width: int, norm: bool, settings: Settings) -> tuple[np.ndarray, float]:
    """Mean over draws, and three standard errors of its level over the second half."""
    rng = np.random.default_rng(5)
    start = rng.normal(size=(1, width)) + 0.7 * rng.normal(size=(SAMPLES, width))
    run = depth.follow(
        depth.Fresh(Deep(width, norm), LAYERS), start, key=jax.random.key(6),
        observables={"gap": depth.orthogonality_gap}, draws=settings.gap_draws,
    )  # fmt: skip
    late = np.mean(run.observables["gap"][:, LAYERS // 2 :], axis=1)
    return run.mean("gap"), 3.0 * float(np.std(late, ddof=1)) / math.sqrt(len(late))


def layer_norms(report: Report) -> None:
    """rank LN(X) = rank(XP); the affine rank may rise, and the rank fall."""
    e1, e2 = np.array([1.0, -1, 0, 0]), np.array([0.0, 0, 1, -1])
    norm = jax.jit(lambda x: depth.LayerNorm()(depth.Tokens.of(x)).value)

    def rank(x) -> int:
        return int(np.linalg.matrix_rank(np.asarray(x), tol=1e-10))

    def affine(x) -> int:
        return rank(np.asarray(x) - np.mean(x, axis=0))

    line = np.array([e1 + t * e2 for t in (0.0, 1.0, 3.0)])
    pair = np.array([1.0 + e1, e1])
    rows = {
        "affine-before": (1, affine(line)), "affine-after": (2, affine(norm(jnp.asarray(line)))),
        "linear-before": (2, rank(pair)), "linear-after": (1, rank(norm(jnp.asarray(pair)))),
    }  # fmt: skip
    rng = np.random.default_rng(7)
    for r in (1, 2, 3):
        x = rng.normal(size=(6, r)) @ rng.normal(size=(r, 5))
        rows[f"identity.rank{r}"] = (
            depth_collapse.layer_norm_rank(x), rank(norm(jnp.asarray(x)))
        )  # fmt: skip
    for name, (expected, found) in rows.items():
        report.add(
            f"layer-norm.{name}", expected, found, 0.0, paper=CAUTION,
            text=f"ranks of tokens around LayerNorm, {name}",
        )  # fmt: skip
