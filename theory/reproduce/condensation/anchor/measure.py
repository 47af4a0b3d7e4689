"""When weights condense and lose rank under AdamW, over seeds, and what changes first."""

import math
from typing import NamedTuple

import jax
import numpy as np

import gflow
from gflow import tasks
from theory import condensation as co

from ... import Report
from ..settings import Settings
from .problem import BATCH, EXAMPLES, KEPT, OTHER, SCALES, WIDTH, OneLayer, adamw

OUTER = {"value": "$W_V$", "inner": "$W_1$", "outer": "$W_2$"}
ATTENTION = {"query": "$W_Q$", "key": "$W_K$"}
MATRICES = OUTER | ATTENTION
#: The rank of a matrix has begun to fall when its effective rank is below this share of the start.
ONSET = 0.9
#: Steps between records.
EVERY = 10


class Course(NamedTuple):
    """One run: steps, and by matrix its records, effective rank, norm and relative change."""

    steps: np.ndarray
    loss: np.ndarray
    weights: dict[str, np.ndarray]
    ranks: dict[str, np.ndarray]
    norms: dict[str, np.ndarray]
    changes: dict[str, np.ndarray]

    def onset(self, names: dict[str, str]) -> float:
        """The step at which the mean effective rank passes ONSET of the start; ∞ if it does not."""
        mean = np.mean([self.ranks[n] / self.ranks[n][0] for n in names], axis=0)
        below = np.flatnonzero(mean < ONSET)
        if not below.size:
            return math.inf
        i = slice(below[0] - 1, below[0] + 1)
        return float(np.interp(-ONSET, -mean[i], self.steps[i]))

    def ratio(self, first: float, last: float) -> float:
        """Relative change of W_Q, W_K over that of the outer weights, between two steps."""
        inside = (self.steps[:-1] >= first) & (self.steps[1:] <= last)
        attention, outer = (
            np.mean([self.changes[n][inside] for n in names]) for names in (ATTENTION, OUTER)
        )
        return float(attention / outer)


class Anchor(NamedTuple):
    """All runs of the family that is judged, and their onsets (seed, outer weights or W_Q, W_K)."""

    runs: list[Course]
    onsets: np.ndarray


def trained(scale: float, steps: int, seeds: int) -> list[Course]:
    """Runs that differ in data, start and batches."""
    rule = adamw(scale, steps)
    found = []
    for seed in range(seeds):
        for_task, for_model, for_batches = jax.random.split(jax.random.key(seed), 3)
        task = tasks.anchor_function(key=for_task, examples=EXAMPLES)
        model = OneLayer(task.vocabulary, task.length, scale=scale, key=for_model)
        run = gflow.descend(
            model,
            task.objective,
            optimizer=rule,
            steps=steps,
            batch=BATCH,
            key=for_batches,
            save_every=EVERY,
        )
        found.append(course(run))
    return found


def course(run: gflow.Trajectory) -> Course:
    """What the figures show of a run, against its steps."""
    weights = {n: run.observables[n] for n in MATRICES}
    steps = EVERY * np.arange(len(run.loss))
    return Course(
        steps,
        run.loss,
        weights,
        {n: co.effective_rank(w) for n, w in weights.items()},
        {n: np.linalg.norm(w, axis=(1, 2)) for n, w in weights.items()},
        {n: co.relative_change(w, steps) for n, w in weights.items()},
    )


def anchor(report: Report, settings: Settings) -> Anchor:
    """Order in which the outer weights and W_Q, W_K condense under AdamW."""
    seeds, steps = settings.anchor_seeds, settings.anchor_steps
    report.settings |= {"anchor_scale": SCALES[KEPT]}
    runs = trained(SCALES[KEPT], steps, seeds)
    onsets = _onsets(runs)
    label = f"anchor function, AdamW, {KEPT}"
    report.add(
        "anchor.order",
        1.0,
        float(np.mean(onsets[:, 0] < onsets[:, 1])),
        0.0,
        text=f"{label}: share of seeds whose outer weights lose rank before W_Q, W_K",
    )
    spans = [(0.0, o, o, 4 * o) for o in onsets[:, 0]]
    ratios = np.array(
        [[run.ratio(*s[:2]), run.ratio(*s[2:])] for run, s in zip(runs, spans, strict=True)]
    )
    for when, sign, ratio in zip(("before", "after"), (-1.0, 1.0), ratios.T, strict=True):
        report.add(
            f"anchor.changes-{when}",
            1.0,
            float(np.mean(sign * np.log(ratio) > 0)),
            0.0,
            text=f"{label}: share of seeds with W_Q, W_K changing relatively "
            f"{'less' if sign < 0 else 'more'} than the outer weights, {when} these lose rank",
        )
    report.say(
        f"Anchor function, AdamW, {seeds} seeds, d = {WIDTH}: step at which the effective rank has "
        f"fallen to {ONSET:g} of its start, outer weights and W_Q, W_K; relative change of W_Q, "
        "W_K over that of the outer weights before and after the former (gradient flow: ≪ 1, ≫ 1)",
        described(KEPT, onsets, ratios),
    )
    report.say(
        "Mean |cos| of left singular vectors of records 10 steps apart, from 4 × the onset on: of "
        "all, and of the first alone",
        *(
            f"  {symbol:7} {drift(runs, onsets, name, None):.3f}, "
            f"{drift(runs, onsets, name, 1):.4f}"
            for name, symbol in MATRICES.items()
        ),
    )
    if settings.anchor_other_scale:
        others = trained(SCALES[OTHER], steps, seeds)
        report.say(
            "The same two steps with the paper's exponent in place of its σ√d (no verdict)",
            described(OTHER, _onsets(others), None),
        )
    return Anchor(runs, onsets)


def _onsets(runs: list[Course]) -> np.ndarray:
    return np.array([[run.onset(names) for names in (OUTER, ATTENTION)] for run in runs])


def drift(runs: list[Course], onsets: np.ndarray, name: str, top: int | None) -> float:
    """Mean over seeds and over the records from 4 × the outer onset on."""
    late = [r.weights[name][r.steps >= 4 * o] for r, o in zip(runs, onsets[:, 0], strict=True)]
    return float(np.mean([np.mean(co.singular_vector_drift(w, top).left) for w in late]))


def described(kept: str, onsets: np.ndarray, ratios: np.ndarray | None) -> str:
    """Means over seeds with their ranges."""
    columns = list(onsets.T) + ([] if ratios is None else list(ratios.T))
    numbers = ", ".join(f"{c.mean():.3g} ({c.min():.3g} to {c.max():.3g})" for c in columns)
    return f"  {kept}, σ = {SCALES[kept]:.4f}: {numbers}"
