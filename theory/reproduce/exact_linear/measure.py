"""Two-layer linear networks: every simulated loss and matrix beside its exact solution.

Saxe et al. 2014, 2019 (hierarchies), Braun et al. 2022 and Domine et al. 2024 (balanced
starts), and the passage from lazy to rich.
"""

import math

import jax
import numpy as np
from scipy.optimize import elementwise

from gflow.plot import COLOURS, STYLE

from ... import exact_linear as exact
from .._report import Report
from ..exact_linear.random_networks import random_networks
from ..exact_linear.runs import (
    EXACT,
    MARGIN,
    RTOL,
    SIMULATED,
    TIME,
    add,
    new_figure,
    simulate,
    tolerance_line,
    visible,
)

SAXE = "Saxe et al. 2014, arXiv 1312.6120"
BRAUN = "Braun et al. 2022"
DOMINE = "Domine et al. 2024, arXiv 2409.14623"


def run(report: Report) -> None:
    """All four figures; `report.fast` takes 5 random networks in place of 50."""
    import matplotlib.pyplot as plt

    report.settings.update(rtol=RTOL, padded_sizes=8, networks=5 if report.fast else 50)
    with plt.rc_context(STYLE):
        for part in (hierarchy, balances, random_networks, lazy_and_rich):
            part(report)


def tree() -> np.ndarray:
    """8 features of 8 items in a binary tree: what separates them, from the coarsest down."""
    rows = [np.ones(8)]
    for size in (8, 4, 2):
        half = np.repeat([1.0, -1.0], size // 2)
        rows += [np.pad(half, (at, 8 - size - at)) for at in range(0, 8, size)]
    return np.stack(rows)


def hierarchy(report: Report) -> None:
    """Saxe et al. 2014, 2019: aligned modes of a hierarchy are learned along sigmoids."""
    target = tree()
    u, s, vt = np.linalg.svd(target)
    start = 1e-4
    w1, w2 = exact.aligned_start(target, start, hidden=(8,), key=jax.random.key(0))
    stages = exact.mode_stages(s, start)
    levels = sorted({round(stage.s, 12) for stage in stages}, reverse=True)
    times = [float(exact.mode_time(start, level / 2, level)) for level in levels]
    one = simulate(w1, w2, target, 1.35 * times[-1], save=times)
    strengths = np.einsum("ok,toi,ki->tk", u, one.simulated, vt)
    sigmoids = exact.mode_strength(start, s, one.t[:, None])
    error = np.max(np.abs(strengths - sigmoids), axis=1)
    report.say(
        "Hierarchy of 8 items, aligned modes from strength 1e-4: exact time at which each level is "
        "half learned",
        *(f"  s = {level:.5f}: t = {time:.10f}" for level, time in zip(levels, times, strict=True)),
    )  # fmt: skip
    for i, (level, time) in enumerate(zip(levels, times, strict=True)):
        k = int(np.argmin(np.abs(s - level)))
        at = int(np.argmin(np.abs(one.t - time)))
        # the recorded time is next to the crossing: one Newton step on a' = 2a(s − a)
        a = strengths[at, k]
        crossing = one.t[at] + (level / 2 - a) / (2 * a * (level - a))
        report.add(
            f"hierarchy.half-time.level{i + 1}",
            time, crossing, MARGIN * RTOL * time, 2 * one.bar * s[0] / level**2,
            unit="flow time", paper=SAXE, text=f"time at which s = {level:.4f} is half learned",
        )  # fmt: skip
    report.add(
        "hierarchy.strengths", 0.0, float(np.max(error)) / s[0], MARGIN * RTOL, one.bar,
        paper=SAXE, text="largest |simulated strength − sigmoid|, relative to s₁",
    )  # fmt: skip
    at = int(np.argmin(np.abs(one.t - 0.5 * (times[-2] + times[-1]))))
    expected = 0.5 * float(np.sum((s - sigmoids[at]) ** 2))
    bar = float(one.trajectory.error["loss"][at])
    report.add(
        "hierarchy.loss", expected, float(one.trajectory.loss[at]), MARGIN * RTOL * one.loss[0],
        bar, paper=SAXE, text=f"loss at t = {one.t[at]:.4g}, between the last two levels",
    )  # fmt: skip
    report.data(one.trajectory, "hierarchy")

    figure, (left, right) = new_figure(2)
    markers = "osD^"
    for colour, marker, level in zip(COLOURS, markers, levels, strict=False):
        k = int(np.argmin(np.abs(s - level)))
        left.plot(one.t, strengths[:, k], color=colour, **SIMULATED, zorder=1)
        grid = np.linspace(0, one.t[-1], 400)
        left.plot(grid, exact.mode_strength(start, level, grid), **EXACT)
        half = exact.mode_time(start, level / 2, level)
        label = f"$s = {level:.3g}$"
        left.plot(half, level / 2, marker, mfc="white", mec=colour, ms=5, label=label)
        right.semilogy(
            one.t, visible(np.abs(strengths[:, k] - sigmoids[:, k]) / s[0]),
            color=colour, marker=marker, markevery=(7, 25), ms=3.5, lw=1.0, mfc="white",
        )  # fmt: skip
    left.plot([], [], color="0.4", **SIMULATED, label="simulated")
    left.plot([], [], **EXACT, label="sigmoid, exact")
    left.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(0.0, 1.0))
    left.set(xlabel=TIME, ylabel="strength of the mode", ylim=(-0.05, 1.12 * s[0]))
    left.set_title("a hierarchy is learned level by level")
    tolerance_line(right, one.bar)
    right.set(xlabel=TIME, ylabel="|simulated − exact| / $s_1$")
    right.set_title("error of the simulated strengths")
    report.figure(figure, "hierarchy")


def balances(report: Report) -> None:
    """Braun et al. 2022 (4-5-3 networks, two scales) and Domine et al. 2024 (λ-balanced)."""
    figure, axes = new_figure(2, 2)
    rng = np.random.default_rng(1)
    target = rng.standard_normal((3, 4)) / math.sqrt(3)
    runs = {}
    for scale in (0.15, 0.001):
        w1, w2 = exact.balanced_start((4, 5, 3), scale=scale, key=jax.random.key(1))
        runs[f"σ = {scale:g}"] = simulate(w1, w2, target, 20.0)
    shown = runs["σ = 0.15"]
    for n in range(12):
        entry = shown.simulated.reshape(-1, 12)[:, n]
        axes[0, 0].plot(shown.t, entry, color=COLOURS[n % 6], **SIMULATED)
        axes[0, 0].plot(shown.t, shown.exact.reshape(-1, 12)[:, n], **EXACT)
    axes[0, 0].set(xlabel=TIME, ylabel="entries of $W_2W_1$", xlim=(0, 12))
    axes[0, 0].set_title(r"4–5–3, $\lambda = 0$, $\sigma = 0.15$")

    square = np.random.default_rng(2).standard_normal((4, 4)) / 2.0
    balances = (-1.0, 0.0, 1.0)
    for balance in balances:
        key = jax.random.key(3)
        w1, w2 = exact.balanced_start((4, 4, 4), balance=balance, scale=0.1, key=key)
        rest = exact.resting_point(w1, w2, square)
        one = simulate(w1, w2, square, 20.0)
        runs[f"λ = {balance:+g}".replace("-", "−") if balance else "λ = 0"] = one
        report.say(
            f"4–4–4 network, λ = {balance:g}: rank {rest.rank} at the end, loss {rest.loss:.6g}"
        )
    styles = zip(runs.items(), (axes[0, 1],) * 2 + (axes[1, 0],) * 3, "osD^v", strict=True)
    for n, ((label, one), ax, marker) in enumerate(styles):
        sizes, key = ("4-5-3", label[4:]) if n < 2 else ("4-4-4", f"{balances[n - 2]:g}")
        key = f"balanced.{sizes}.{'sigma' if n < 2 else 'lambda'}{key}"
        add(report, key, f"{sizes.replace('-', '–')}, {label}", one, BRAUN if n < 2 else DOMINE)
        colour = COLOURS[n]
        ax.plot(one.t, one.trajectory.loss, color=colour, **SIMULATED)
        grid = np.linspace(0.0, 20.0, 7) + 0.5 + 0.8 * (n % 3)
        if ax is axes[1, 0]:
            grid = np.geomspace(0.02, 16.0, 7) * 1.3 ** (n % 3)
        at = np.searchsorted(one.t, grid[grid < one.t[-1]])
        ax.plot(one.t, one.loss, **EXACT)
        ax.plot(one.t[at], one.loss[at], marker, mec=colour, mfc="white", ms=4.5, label=label)
        axes[1, 1].semilogy(
            one.t, visible(one.error), color=colour, lw=1.0, marker=marker, mfc="white", ms=3.5,
            markevery=(3 * n, 30), label=label,
        )  # fmt: skip
    for ax in (axes[0, 1], axes[1, 0]):
        ax.plot([], [], color="0.4", **SIMULATED, label="simulated")
        ax.plot([], [], **EXACT, label="exact")
        ax.set(xlabel=TIME, ylabel="loss", ylim=(0, None))
        ax.legend(fontsize="x-small")
    axes[0, 1].set_title(r"4–5–3, $\lambda = 0$, two scales")
    axes[1, 0].set(xscale="log", xlim=(0.01, 20))
    axes[1, 0].set_title(r"4–4–4, $\lambda$-balanced, $\sigma = 0.1$")
    tolerance_line(axes[1, 1], None)
    axes[1, 1].set(xlabel=TIME, ylabel=r"|simulated − exact| / max|$\Sigma$|")
    axes[1, 1].legend(fontsize="x-small", ncols=2, loc="lower right")
    axes[1, 1].set_title("error of all five runs")
    report.figure(figure, "balances")


def lazy_and_rich(report: Report) -> None:
    """One formula from lazy to rich: W₂W₁ = 0 and W₁ᵀW₁ = W₂W₂ᵀ = g at the start."""
    figure, (left, right) = new_figure(2)
    s = np.array([2.0, 0.5])
    target = np.diag(s)
    gains = (1e-4, 1e-2, 1.0, 10.0)
    halves = []
    for colour, marker, gain in zip(COLOURS, "osD^", gains, strict=False):
        w1, w2 = exact.orthogonal_start((2, 5, 2), gain=gain, key=jax.random.key(4))
        guess = _half_times(s, gain)
        end = 4 * guess[1]
        one = simulate(
            w1, w2, target, end, solution=lambda t, g=gain: exact.lazy_to_rich(target, g, t),
            save=[x for x in guess if x < end],
        )  # fmt: skip
        add(report, f"lazy-to-rich.g{gain:g}", f"lazy to rich, g = {gain:g}", one, DOMINE)
        strengths = np.diagonal(one.simulated, axis1=1, axis2=2)
        measured = []
        for k in range(2):
            at = int(np.argmin(np.abs(one.t - guess[k])))
            w = strengths[at, k]
            speed = 2 * (s[k] - w) * math.hypot(w, gain)
            measured.append(one.t[at] + (s[k] / 2 - w) / speed)
            report.add(
                f"lazy-to-rich.g{gain:g}.half-time.s{s[k]:g}",
                guess[k], measured[-1], MARGIN * RTOL * guess[k] * max(1.0, 2 / s[k]),
                one.bar * s[0] / speed, unit="flow time", paper=DOMINE,
                text=f"time at which s = {s[k]:g} is half learned",
            )  # fmt: skip
        halves.append(measured)
        x = one.t / guess[0]
        label = rf"$g = 10^{{{math.log10(gain):.0f}}}$"
        grid = np.geomspace(0.03, x[-1], 200)
        curve = exact.lazy_to_rich(target, gain, grid * guess[0])
        for k in range(2):
            left.semilogx(x[1:], strengths[1:, k] / s[k], color=colour, **SIMULATED)
            left.semilogx(grid, curve[:, k, k] / s[k], **EXACT)
        near = [int(np.argmin(np.abs(one.t - x))) for x in guess]
        left.plot(x[near], strengths[near, [0, 1]] / s, marker, mec=colour, mfc="white", ms=5,
                  label=label)  # fmt: skip
    left.plot([], [], color="0.4", **SIMULATED, label="simulated")
    left.plot([], [], **EXACT, label="exact")
    left.set(xlabel="time / half-time of the first mode", ylabel="strength / $s$", xlim=(0.1, 15))
    left.legend(fontsize="x-small", loc="upper left")
    left.set_title("rich: one after the other; lazy: together")
    grid = np.geomspace(3e-5, 30, 60)
    curves = np.array([_half_times(s, g) for g in grid])
    for k, marker in enumerate("os"):
        right.loglog(grid, curves[:, k], **EXACT, label="exact" if k else None)
        right.loglog(
            gains, np.array(halves)[:, k], marker, mec=COLOURS[k], mfc="white", ms=5,
            label=f"simulated, $s = {s[k]:g}$",
        )  # fmt: skip
    right.loglog(grid, math.log(2) / (2 * grid), color="0.5", ls=(0, (1, 1.5)), lw=1.2,
                 label=r"lazy limit, $\ln 2/2g$")  # fmt: skip
    right.set(xlabel="gain $g$ of the start", ylabel="flow time at half strength")
    right.set_ylim(0.02, 60)
    right.legend(fontsize="x-small")
    right.set_title("when each mode is half learned")
    report.figure(figure, "lazy_to_rich")


def _half_times(s: np.ndarray, gain: float) -> list[float]:
    """When w' = 2(s − w)sqrt(w² + g²) from 0 reaches s/2: the exact curve, bisected."""

    def late(log_t, target):
        w = [
            exact.lazy_to_rich([[x]], gain, math.exp(y)) for x, y in zip(target, log_t, strict=True)
        ]
        return np.ravel(w) - 0.5 * target

    low, high = np.full(s.shape, -20.0), np.full(s.shape, 10.0)
    found = elementwise.find_root(late, (low, high), args=(s,))
    return [math.exp(x) for x in found.x]
