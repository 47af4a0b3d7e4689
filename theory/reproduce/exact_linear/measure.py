"""Runs beside their exact solutions, judged, and the numbers that the figures show."""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import elementwise

from gflow.internal import svd
from theory import exact_linear as exact

from .. import Report
from . import problem
from .problem import BRAUN, DOMINE, SAXE, Balanced
from .runs import MARGIN, RTOL, Run, compare, simulate
from .settings import Settings


class Hierarchy(NamedTuple):
    """The run, strengths of its modes (time, mode), their sigmoids, and levels half learned."""

    run: Run
    start: float
    s: np.ndarray
    strengths: np.ndarray
    sigmoids: np.ndarray
    levels: list[float]


class RandomNetworks(NamedTuple):
    """By rtol and network: entries of W₂W₁, mean squared deviation of the loss."""

    sizes: dict[float, np.ndarray]
    deviations: dict[float, np.ndarray]


class Lazy(NamedTuple):
    """One start of a gain: the run, strengths of both modes, predicted and measured half-times."""

    gain: float
    run: Run
    strengths: np.ndarray
    predicted: list[float]
    measured: list[float]


class LazyAndRich(NamedTuple):
    """Runs of several gains, and half-times of the exact curve over a grid of gains."""

    s: np.ndarray
    runs: list[Lazy]
    grid: np.ndarray
    curves: np.ndarray


def hierarchy(report: Report) -> Hierarchy:
    """Saxe et al. 2014, 2019: aligned modes of a hierarchy are learned along sigmoids."""
    start = 1e-4
    w1, w2, target = problem.hierarchy(start)
    u, s, vt = svd(target)
    stages = exact.mode_stages(s, start)
    levels = sorted({round(stage.s, 12) for stage in stages}, reverse=True)
    times = [float(exact.mode_time(start, level / 2, level)) for level in levels]
    one = simulate(w1, w2, target, 1.35 * times[-1], pad=8, save=times)
    strengths = np.einsum("ok,toi,ki->tk", u, one.simulated, vt)
    sigmoids = exact.mode_strength(start, s, one.t[:, None])
    report.say(
        "Hierarchy of 8 items, aligned modes from strength 1e-4: exact time at which each level is "
        "half learned",
        *(f"  s = {level:.5f}: t = {time:.10f}" for level, time in zip(levels, times, strict=True)),
    )
    for i, (level, time) in enumerate(zip(levels, times, strict=True)):
        k = int(np.argmin(np.abs(s - level)))
        at = int(np.argmin(np.abs(one.t - time)))
        # the recorded time is next to the crossing: one Newton step on a' = 2a(s − a)
        a = strengths[at, k]
        crossing = one.t[at] + (level / 2 - a) / (2 * a * (level - a))
        report.add(
            f"hierarchy.half-time.level{i + 1}",
            time,
            crossing,
            MARGIN * RTOL * time,
            2 * one.bar * s[0] / level**2,
            unit="flow time",
            paper=SAXE,
            text=f"time at which s = {level:.4f} is half learned",
        )
    report.add(
        "hierarchy.strengths",
        0.0,
        float(np.max(np.abs(strengths - sigmoids))) / s[0],
        MARGIN * RTOL,
        one.bar,
        paper=SAXE,
        text="largest |simulated strength − sigmoid|, relative to s₁",
    )
    at = int(np.argmin(np.abs(one.t - 0.5 * (times[-2] + times[-1]))))
    report.add(
        "hierarchy.loss",
        0.5 * float(np.sum((s - sigmoids[at]) ** 2)),
        float(one.trajectory.loss[at]),
        MARGIN * RTOL * one.loss[0],
        float(one.trajectory.error["loss"][at]),
        paper=SAXE,
        text=f"loss at t = {one.t[at]:.4g}, between the last two levels",
    )
    report.data(one.trajectory, "hierarchy")
    return Hierarchy(one, start, s, strengths, sigmoids, levels)


def balances(report: Report) -> list[tuple[Balanced, Run]]:
    """Braun et al. 2022 (4-5-3 networks, two scales) and Domine et al. 2024 (λ-balanced)."""
    found = []
    for one in problem.balanced():
        run = simulate(*one.network, 80.0, save=np.geomspace(0.01, 20.0, 60))
        if one.paper == DOMINE:
            rest = exact.resting_point(*one.network)
            report.say(f"{one.label}: rank {rest.rank} at the end, loss {rest.loss:.6g}")
        compare(report, one.key, f"{one.label} ({one.paper})", run)
        found.append((one, run))
    return found


def random_networks(report: Report, settings: Settings) -> RandomNetworks:
    """The protocol of Braun et al. 2022, Fig. 2C–D, with the flow in place of descent."""
    tolerances = (1e-6, 1e-10)
    results: dict[float, list] = {rtol: [] for rtol in tolerances}
    for seed in range(settings.networks):
        network = problem.random_network(seed)
        for rtol in tolerances:
            one = simulate(*network, 30.0, pad=50, rtol=rtol)
            weight = np.gradient(one.t) / one.t[-1]
            gap = np.sum(weight * (one.trajectory.loss - one.loss) ** 2)
            worst = np.max(np.abs(one.trajectory.loss - one.loss)) / one.loss[0]
            bar = np.max(one.trajectory.error["loss"]) / one.loss[0]
            results[rtol].append((network.target.size, gap, worst, bar))
    sizes, deviations = {}, {}
    for rtol, rows in results.items():
        sizes[rtol], deviations[rtol], worst, bars = np.array(rows).T
        report.add(
            f"random-networks.rtol{rtol:g}.loss",
            0.0,
            float(worst.max()),
            MARGIN * rtol,
            float(bars.max()),
            paper=BRAUN,
            text=f"largest |loss − exact| of {len(rows)} networks, relative to the first loss",
        )
        report.add(
            f"random-networks.rtol{rtol:g}.loss-deviation",
            0.0,
            float(deviations[rtol].max()),
            5e-6,
            paper=BRAUN,
            text=f"largest mean squared deviation of the loss of {len(rows)} networks, against "
            "the 5e-6 of gradient descent in the paper",
        )
    return RandomNetworks(sizes, deviations)


def lazy_and_rich(report: Report) -> LazyAndRich:
    """One formula from lazy to rich: W₂W₁ = 0 and W₁ᵀW₁ = W₂W₂ᵀ = g at the start."""
    s = np.array([2.0, 0.5])
    runs = [_lazy(report, s, gain) for gain in (1e-4, 1e-2, 1.0, 10.0)]
    grid = np.geomspace(3e-5, 30, 60)
    return LazyAndRich(s, runs, grid, np.array([half_times(s, g) for g in grid]))


def _lazy(report: Report, s: np.ndarray, gain: float) -> Lazy:
    w1, w2, target = problem.from_zero(s, gain)
    predicted = half_times(s, gain)
    # to rest: what is left of a mode dies out at the rate 2sqrt(s² + g²)
    end = max(4 * predicted[1], predicted[1] + 15 / math.hypot(s[1], gain))
    one = simulate(
        w1,
        w2,
        target,
        end,
        solution=lambda t: exact.lazy_to_rich(target, gain, t),
        save=[x for x in predicted if x < end],
    )
    compare(report, f"lazy-to-rich.g{gain:g}", f"lazy to rich, g = {gain:g} ({DOMINE})", one)
    strengths = np.diagonal(one.simulated, axis1=1, axis2=2)
    measured = []
    for k in range(2):
        at = int(np.argmin(np.abs(one.t - predicted[k])))
        w = strengths[at, k]
        speed = 2 * (s[k] - w) * math.hypot(w, gain)
        measured.append(one.t[at] + (s[k] / 2 - w) / speed)
        report.add(
            f"lazy-to-rich.g{gain:g}.half-time.s{s[k]:g}",
            predicted[k],
            measured[-1],
            MARGIN * RTOL * predicted[k] * max(1.0, 2 / s[k]),
            float(one.trajectory.error["product"][at, k, k]) / speed,
            unit="flow time",
            paper=DOMINE,
            text=f"time at which s = {s[k]:g} is half learned",
        )
    return Lazy(gain, one, strengths, predicted, measured)


def half_times(s: np.ndarray, gain: float) -> list[float]:
    """When w' = 2(s − w)sqrt(w² + g²) from 0 reaches s/2: the exact curve, bisected."""

    def late(log_t, target):
        w = [
            exact.lazy_to_rich([[x]], gain, math.exp(y)) for x, y in zip(target, log_t, strict=True)
        ]
        return np.ravel(w) - 0.5 * target

    low, high = np.full(s.shape, -20.0), np.full(s.shape, 10.0)
    found = elementwise.find_root(late, (low, high), args=(s,))
    return [math.exp(x) for x in found.x]
