"""Merged and separate heads through all of their drops, judged."""

import math
from typing import NamedTuple

import numpy as np

import gflow
import theory
from gflow.internal import Quantity, first_crossing
from theory import linear_icl as icl

from ... import Report
from .. import problem
from ..problem import CONTEXT, EIGHT, FOUR, ZHANG
from ..settings import Settings

RTOL = 1e-9
#: Size of the published starts of heads of rank R.
PUBLISHED = 5e-3


class Merged(NamedTuple):
    """By size: the run of merged heads, and its exact loss at the same times."""

    runs: dict[float, gflow.Trajectory]
    losses: dict[float, np.ndarray]


class Separate(NamedTuple):
    """By size: the run of one seed, and its predicted half-drops.

    `misses`, `bars`: of all seeds, by how much drops are off, and known, over their time.
    """

    runs: dict[float, gflow.Trajectory]
    times: dict[float, np.ndarray]
    misses: dict[float, np.ndarray]
    bars: dict[float, np.ndarray]


class Ranks(NamedTuple):
    """By rank: the run of one seed; and how long each plateau lasts, over 1/λ², (seeds, m)."""

    runs: dict[int, gflow.Trajectory]
    lasts: dict[int, np.ndarray]


def levels(eigenvalues: tuple[float, ...]) -> np.ndarray:
    """½E(y − ŷ)² on the plateaus m = 0 … D."""
    return 0.5 * icl.plateaus(eigenvalues, CONTEXT)


def passing(run: gflow.Trajectory, level: float) -> tuple[float, float]:
    """When the loss comes down to a level, and the error bar; NaN where it does not."""
    found = first_crossing(run, Quantity(sign=-1.0), -level)
    return (math.nan, math.nan) if found is None else (found.t, found.error)


def merged_time(size: float) -> float:
    """By when merged heads have dropped and come to rest."""
    rate = float(np.linalg.norm(np.square(FOUR)))
    return (1.6 * math.log(1.0 / size) + 15.0) / rate


def merged(report: Report, settings: Settings) -> Merged:
    """One drop from any size, along the exact course; and the white start in closed form."""
    found = Merged({}, {})
    for size in settings.merged_sizes:
        model, objective = problem.merged(size), problem.objective()
        run = gflow.simulate(model, objective, t1=merged_time(size), rtol=RTOL)
        table = theory.compare(run, icl.predict(model, objective))
        report.compare(f"merged.size{size:g}", table, f"Merged heads from size {size:g}")
        report.add(
            f"merged.size{size:g}.drops", 1.0, float(len(run.stages())), 0.0, paper=ZHANG,
            text="transitions between plateaus",
        )  # fmt: skip
        u = np.asarray(model.key_query.value)
        exact = icl.merged_from(np.asarray(model.value.value), u, FOUR, CONTEXT, run.t)
        found.runs[size], found.losses[size] = run, 0.5 * exact.loss
    white(report)
    return found


def white(report: Report, size: float = 1e-3) -> None:
    """σ(t) of M = σI under Λ = I, from an aligned start."""
    objective = problem.objective((1.0,) * 4)
    run = gflow.simulate(problem.white(size), objective, t1=10.0, rtol=RTOL)
    matrix = theory.from_weights(lambda w: np.einsum("th,thab->tab", w["value"], w["key_query"]))
    curve = theory.Curve(
        "M = σI", lambda t: icl.merged_white(4, CONTEXT, size, t)[:, None, None] * np.eye(4),
        read=matrix, source=ZHANG, validity="aligned start, any size",
    )  # fmt: skip
    table = theory.compare(run, theory.Prediction.of(curve))
    report.compare("merged.white", table, f"Merged heads, Λ = I, aligned start of size {size:g}")


def separate(report: Report, settings: Settings) -> Separate:
    """One drop a direction: times, heads and plateaus of several seeds, the worst of each."""
    found, objective = Separate({}, {}, {}, {}), problem.objective()
    for size in settings.separate_sizes:
        tables, ordered, halves = {}, 0, []
        for seed in range(settings.separate_seeds):
            model = problem.separate(size, seed)
            prediction = icl.predict(model, objective)
            times = np.array([x.predicted for x in prediction.numbers if "half" in x.label])
            if not np.all(np.isfinite(times)):
                times = icl.drops(*problem.heads(model), FOUR, CONTEXT).times
            end = 1.2 * times[-1] + 50.0 / FOUR[-1] ** 2
            run = gflow.simulate(model, objective, t1=end, rtol=RTOL)
            table = tables[f"seed {seed}"] = theory.compare(run, prediction)
            ordered += learned_in_order(run)
            drops = [x for x in table.closed_forms if "half" in x.part]
            halves.append([(x.measured - x.predicted, x.error, x.predicted) for x in drops])
            if seed == SHOWN:
                found.runs[size], found.times[size] = run, times
        off, bars, at = np.moveaxis(np.array(halves), 2, 0)
        found.misses[size], found.bars[size] = off / at, bars / at
        text = f"Separate heads of rank one from size {size:g}, {len(tables)} seeds"
        report.compare_worst(f"separate.size{size:g}", tables, text)
        report.add(
            f"separate.size{size:g}.ordered", len(tables), ordered, 0.0, paper=ZHANG,
            text="seeds whose drops learn the eigenvectors in the order of the eigenvalues",
        )  # fmt: skip
    return found


#: The seed that figures show.
SHOWN = 1


def learned_in_order(run: gflow.Trajectory) -> bool:
    """Whether drop m + 1 brings entry (m, m) of M, in the eigenbasis, to half of its end."""
    w = {name: np.asarray(leaf["value"]) for name, leaf in run.leaves.items()}
    diagonal = np.einsum("th,thrd,thrd->td", w["value"], w["key"], w["query"])
    optimum = icl.merged(FOUR, CONTEXT, 1.0, math.inf).diagonal
    learned = diagonal > 0.5 * optimum
    first = np.where(np.any(learned, axis=0), np.argmax(learned, axis=0), len(learned))
    return bool(np.all(np.diff(first) > 0)) and bool(learned[-1].all())


def ranks(report: Report, settings: Settings) -> Ranks:
    """Heads of rank R rest at multiples of R; on other plateaus growth is exponential.

    A plateau at a multiple of R lasts as 1/ε, another as ln(1/ε) at most.
    """
    found, objective = Ranks({}, {}), problem.objective(EIGHT)
    for rank in settings.ranks:
        seeds = range(settings.rank_seeds)
        lasts = np.zeros((2, len(seeds), len(EIGHT)))
        for i, size in enumerate((PUBLISHED, PUBLISHED / 10.0)):
            tables = {}
            for seed in seeds:
                model = problem.of_rank(rank, seed, size)
                run = learn_all(model, objective)
                lasts[i, seed] = durations(run)
                if i == 0:
                    tables[f"seed {seed}"] = theory.compare(run, known(model, objective))
                    found.runs.setdefault(rank, run)
            if tables:
                text = f"Heads of rank {rank} from {size:g}, {len(tables)} seeds"
                report.compare_worst(f"rank{rank}", tables, text)
        found.lasts[rank] = lasts[0]
        if rank > 1:
            multiples(report, rank, lasts)
    return found


def multiples(report: Report, rank: int, lasts: np.ndarray) -> None:
    """Of `lasts` (size, seed, plateau): multiples of R last longer, and gain more by a small ε."""
    multiple = np.arange(lasts.shape[-1]) % rank == 0
    middle, gain = np.exp(np.mean(np.log(lasts[0]), axis=0)), lasts[1] / lasts[0]
    judged = {
        "order": (middle[None], f"from {PUBLISHED:g}, the geometric mean over seeds"),
        "order-smaller": (lasts[1], f"from {PUBLISHED / 10:g}, every seed by itself"),
        "gain": (gain, "by what a tenth of the size prolongs it, every seed by itself"),
    }
    for key, (values, words) in judged.items():
        long, short = values[:, multiple].min(axis=1), values[:, ~multiple].max(axis=1)
        report.add(
            f"rank{rank}.{key}", 0.0, float(np.sum(short >= long)), 0.0, paper=ZHANG,
            text=f"cases in which another plateau outlasts one at a multiple of {rank}, in units "
            f"of its own 1/λ², {words}: multiples {long.min():.3g} and more, others at most "
            f"{short.max():.3g}",
        )  # fmt: skip


def learn_all(model: gflow.models.SeparateHeads, objective) -> gflow.Trajectory:
    """Until the loss is near its end: a hundredth of the last drop above."""
    before, last = levels(EIGHT)[-2:]
    below = gflow.stop.loss_below(float(last + 0.01 * (before - last)))
    return gflow.simulate(model, objective, t1=1e8, rtol=1e-7, stop=below)


def known(model: gflow.models.SeparateHeads, objective) -> theory.Prediction:
    """What is conserved and, of R > 1, the first half-drop; ρ of later ones is not small here."""
    prediction = icl.predict(model, objective)
    labels = ("v² − ‖K‖²", "K Kᵀ − Q Qᵀ", "half-drop 1")
    return theory.Prediction.of(
        *(x for x in (*prediction.curves, *prediction.numbers) if x.label in labels)
    )


def durations(run: gflow.Trajectory) -> np.ndarray:
    """Times between half-drops, over the 1/λ² of the direction that ends each plateau."""
    loss = levels(EIGHT)
    halves = [passing(run, x)[0] for x in 0.5 * (loss[1:] + loss[:-1])]
    return np.diff([0.0, *halves]) * np.square(EIGHT)
