"""Ranks at equal loss over scales and seeds: from a smaller scale a lower one."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .. import Interval, Report, interval, signed
from .courses import METHODS, Course, course
from .problem import PAPER, PRODUCTS, Problem


class Ranks(NamedTuple):
    """`courses[method][scale]` by seed."""

    problem: Problem
    scales: tuple[float, ...]
    courses: dict[str, dict[float, list[Course]]]

    def seeds(self, method: str, name: str, scale: float, level: float) -> Float[np.ndarray, "..."]:
        """Of every seed the mean stable rank over all heads at `level`; nan where not met."""
        found = [c.at(name, level) for c in self.courses[method][scale]]
        return np.array([np.nan if x is None else np.mean(x) for x in found])

    def interval(self, method: str, name: str, scale: float, level: float) -> Interval:
        """Of the seeds that came to `level`."""
        values = self.seeds(method, name, scale, level)
        return interval(values[np.isfinite(values)])


def ranks(report: Report, problem: Problem, scales: tuple[float, ...], seeds: int) -> Ranks:
    """All runs, their table, and what is claimed of the flow. Scales fall."""
    courses: dict[str, dict[float, list[Course]]] = {}
    for method, train in METHODS.items():
        courses[method] = {
            scale: [course(train(problem, problem.start(seed, scale))) for seed in range(seeds)]
            for scale in scales
        }
    found = Ranks(problem, scales, courses)
    report.say(*_table(found))
    report.say(*_over_training(found))
    for name in PRODUCTS:
        _smaller_is_lower(report, found, name)
    return found


def _table(found: Ranks) -> list[str]:
    problem = found.problem
    seeds = len(found.courses["flow"][found.scales[0]])
    lines = [
        f"{problem.name}: mean stable rank over all heads of what was learned when the loss is "
        f"{problem.levels[-1]:g}, mean of {seeds} seeds ± 95 % (kq; vo; seeds that came there)"
    ]
    for scale in found.scales:
        for method in METHODS:
            values = found.seeds(method, "kq", scale, problem.levels[-1])
            kq, vo = (found.interval(method, n, scale, problem.levels[-1]) for n in PRODUCTS)
            lines.append(
                f"  scale {scale:<6g} {method:<5} {kq.mean:6.3f} ± {kq.half:.3f}   "
                f"{vo.mean:6.3f} ± {vo.half:.3f}   {np.sum(np.isfinite(values))}"
            )
    return lines


def _over_training(found: Ranks) -> list[str]:
    """No claim: what has not grown beyond its initial scale has no leading direction yet."""
    levels = found.problem.levels
    heads = "  ".join(f"{level:>12g}" for level in levels)
    lines = [f"The same along the flow, by loss (kq; vo):        {heads}"]
    for scale in found.scales:
        for name in PRODUCTS:
            rows = (found.interval("flow", name, scale, level) for level in levels)
            cells = "  ".join(f"{row.mean:5.2f} ± {row.half:4.2f}" for row in rows)
            lines.append(f"  scale {scale:<6g} {name}                               {cells}")
    return lines


def _smaller_is_lower(report: Report, found: Ranks, name: str) -> None:
    """Of the flow at equal loss, seed by seed: the smallest scale against the largest."""
    level, (large, *_, small) = found.problem.levels[-1], found.scales
    difference = found.seeds("flow", name, small, level) - found.seeds("flow", name, large, level)
    signed(
        report, f"{name}.scale", -1.0, interval(difference),
        f"stable rank of the change of {name} from attention at scale {small:g} less that from "
        f"{large:g}, at loss {level:g}", paper=PAPER,
        few="too few seeds came to this loss: more seeds or a larger t1 would tell",
    )  # fmt: skip
