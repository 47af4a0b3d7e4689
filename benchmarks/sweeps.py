"""A sweep from nothing to its medians: 16 scales × 64 seeds of ten weights, stages included.

Seconds of the whole, the share of it that storing takes, of opening and reading again, and peak
memory after an eighth of the runs and after all of them. The first chunk compiles.
"""

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gflow

SCALES, SEEDS, WEIGHTS, END = 16, 64, 10, 1.5


def build(log10_alpha: float, seed: int) -> tuple[Any, Any]:
    """Orthogonal features with ten rates: stages at τ = 0.1, 0.2 … 1, to leading order."""
    key = jax.random.key(seed)
    weight = gflow.Hadamard.small(WEIGHTS, log10_alpha=log10_alpha, key=key)
    rates = jnp.asarray(1.0 / np.linspace(0.1, 1.0, WEIGHTS))
    loss = gflow.objectives.SquaredLoss(jnp.eye(WEIGHTS), rates, "half_sum")
    return gflow.models.DiagonalLinear(weight), loss


def run(quick: bool, say) -> dict[str, Any]:
    """Seconds and shares of one sweep, and megabytes of peak memory."""
    scales, seeds = (2, 4) if quick else (SCALES, SEEDS)
    say(f"sweeps: {scales} scales × {seeds} seeds")
    grid = {"log10_alpha": [-8.0 - 4.0 * k for k in range(scales)]}
    told: list[tuple[gflow.SweepProgress, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sweep"
        began = time.perf_counter()
        gflow.sweep(
            build, grid, seeds=seeds, tau1=END, out=path, chunk=min(128, scales * seeds // 2),
            progress=lambda progress: told.append((progress, _peak())),
        )  # fmt: skip
        whole = time.perf_counter() - began
        began = time.perf_counter()
        runs = gflow.open_sweep(path)
        opening = time.perf_counter() - began
        began = time.perf_counter()
        medians = runs.stages()["tau"].median("seed")
        reading = time.perf_counter() - began
        size = sum(file.stat().st_size for file in path.iterdir())
    return {
        "runs": scales * seeds,
        "stages": int(medians.sizes["stage"]),
        "failed": told[-1][0].failed,
        "seconds": whole,
        "seconds_a_run_warm": _warm(told),
        "storing_share": told[-1][0].storing / whole,
        "opening_seconds": opening,
        "reading_seconds": reading,
        "megabytes": size / 1e6,
        "peak_megabytes_first": told[1][1],
        "peak_megabytes_last": told[-1][1],
    }


def _warm(told: list[tuple[gflow.SweepProgress, float]]) -> float:
    """Seconds of a run after the first chunk, which compiles."""
    first, last = told[1][0], told[-1][0]
    return (last.seconds - first.seconds) / (last.done - first.done)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
