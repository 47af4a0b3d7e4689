"""Weight decay on two factors: balance, nuclear norm, soft thresholds, the rank of attention.

Kobayashi, Akram, von Oswald 2024: its Fig. 1 in both conventions of the loss (they differ by
a factor 2 in the threshold), the lookup task of softmax attention, whose rank at the end is
known, and transformers trained by Adam, where no law is exact.
"""

import itertools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import gflow
from gflow.plot import COLOURS, STYLE

from .... import weight_decay as theory
from ..._report import Report
from ...exact_linear.runs import EXACT, MARGIN, RTOL, SIMULATED, TIME, new_figure
from ...weight_decay.lookup import measure as decay_transformer
from ...weight_decay.lookup.measure import Pair, factors, flows, singular_values
from ...weight_decay.transformers import measure as decay_text

TARGET = np.diag([0.2, 0.4, 0.6, 0.8, 1.0])
#: Written as a formula: the two losses of `theory.weight_decay`.
LOSSES = {"half": r"$\frac{1}{2}\|AB^T - D\|^2$", "full": r"$\|AB^T - D\|^2$"}
MARKERS = "osD^v"
#: End of the sweep over λ, in the clock of the "half" loss.
END = 400.0


class Distance(eqx.Module):
    """factor · ‖A Bᵀ − D‖², with the factor ½ or 1."""

    target: Float[Array, "m n"]
    factor: Float[Array, ""]

    def __call__(self, model: Pair) -> Float[Array, ""]:
        return self.factor * jnp.sum((model.left @ model.right.T - self.target) ** 2)


def run(report: Report) -> None:
    """Five figures; `report.fast` takes fewer decays, steps and seeds for the transformers."""
    import matplotlib.pyplot as plt

    report.settings.update(rtol=RTOL, target=np.diag(TARGET).tolist())
    with plt.rc_context(STYLE):
        for loss in LOSSES:
            fig1(report, loss)
        decay_transformer.lookup(report)
        decay_transformer.recall(report)
        decay_text.text(report)


def fig1(report: Report, loss: str) -> None:
    """Four panels of the paper's Fig. 1, the rank, and the modes that tie with the decay."""
    clock = 1.0 if loss == "half" else 2.0
    objective = Distance(jnp.asarray(TARGET), jnp.asarray(0.5 * clock))
    rng = np.random.default_rng(0)
    start = Pair(*(jnp.asarray(0.5 * rng.standard_normal((5, 5))) for _ in range(2)))
    figure, axes = new_figure(2, 3)
    report.say(f"Fig. 1 with the loss {'½' * (loss == 'half')}‖ABᵀ − D‖², D = diag(.2 … 1):")
    in_time(report, loss, objective, start, axes[0])
    against_decay(report, loss, objective, start, axes[1, 0], axes[1, 1])
    modes(report, loss, objective, axes[2])
    figure.suptitle(f"loss {LOSSES[loss]}", fontsize=8)
    report.figure(figure, f"fig1_{loss}")


def in_time(report: Report, loss: str, objective, start: Pair, axes) -> None:
    """(i) the gap to the nuclear norm between its bounds, (ii) the imbalance."""
    clock = 1.0 if loss == "half" else 2.0
    decays = [clock * x for x in (0.0, 0.05, 0.13, 0.5)]
    left, right = np.asarray(start.left), np.asarray(start.right)
    ends = [40.0 / clock] + [min(14.0 / d, 100.0 / clock) for d in decays[1:]]
    grid = np.linspace(0.0, max(ends), 800)
    runs = flows(start, objective, decays, ends, save=grid)
    for decay, run, colour, marker in zip(decays, runs, COLOURS, MARKERS, strict=False):
        a, b = factors(run)
        size = np.sum(a**2, axis=(1, 2)) + np.sum(b**2, axis=(1, 2))
        gap = np.array([theory.gap(x, y) for x, y in zip(a, b, strict=True)])
        bounds = theory.gap_bounds(left, right, decay, run.t, size)
        outside = np.maximum(bounds.lower - gap, gap - bounds.upper)
        # gap is right to 1e-14·sqrt(gap)·norm, the factors to rtol each
        report.add(
            f"fig1.{loss}.lambda{decay:g}.gap-bounds",
            0.0, max(0.0, float(np.max(outside / size))), MARGIN * RTOL,
            text="largest excursion of the gap from its bounds / norm²",
        )  # fmt: skip
        law = theory.imbalance(left, right, decay, run.t)
        measured = a.swapaxes(1, 2) @ a - b.swapaxes(1, 2) @ b
        error = np.linalg.norm(measured - law, axis=(1, 2)) / size
        report.add(
            f"fig1.{loss}.lambda{decay:g}.imbalance", 0.0, float(np.max(error)), MARGIN * RTOL,
            text="largest ‖G − e^(−2λt)G(0)‖ / (‖A‖² + ‖B‖²)",
        )  # fmt: skip
        label = rf"$\lambda = {decay:g}$"
        style = {"color": colour, **SIMULATED}
        axes[0].semilogy(run.t, gap, **style)
        axes[0].semilogy(run.t, bounds.upper, **EXACT)
        axes[0].semilogy(run.t, bounds.lower, **{**EXACT, "ls": (0, (1, 1.5))})
        norm = np.linalg.norm(measured, axis=(1, 2))
        axes[1].semilogy(run.t, norm, **style)
        axes[1].semilogy(run.t, np.linalg.norm(law, axis=(1, 2)), **EXACT)
        at = np.searchsorted(run.t, np.linspace(0.1, 0.8, 4) * run.t[-1])
        for ax, y in zip(axes, (gap, norm), strict=True):
            ax.plot(run.t[at], y[at], marker, mfc="white", mec=colour, ms=4.5, label=label)
        if decay:
            slope = float(theory.gap_late_slope(TARGET, 5, decay, loss))
            found, bar = late_slope(run.t, gap, slope)
            report.add(f"fig1.{loss}.lambda{decay:g}.late-slope", slope, found,
                       0.01 * abs(slope), bar, unit="1/flow time",
                       text="late slope of log(gap)")  # fmt: skip
            late = (
                np.array([0.35, 0.6]) * run.t[-1] if decay < 0.3 else np.array([6.0, 12.0]) / clock
            )
            anchor = np.searchsorted(run.t, late[0])
            axes[0].plot(late, 8.0 * gap[anchor] * np.exp(slope * (late - run.t[anchor])),
                         **{**EXACT, "ls": "-"})  # fmt: skip
            report.say(f"  λ = {decay:g}: slope of log(gap) {slope:.5f}, measured {found:.5f}")
    axes[0].plot([], [], color="0.4", **SIMULATED, label="simulated")
    axes[0].plot([], [], **EXACT, label="upper bound")
    axes[0].plot([], [], **{**EXACT, "ls": (0, (1, 1.5))}, label="lower bound")
    axes[0].plot([], [], **{**EXACT, "ls": "-"}, label="late slope")
    axes[1].plot([], [], **EXACT, label=r"$e^{-2\lambda t}$")
    for ax in axes:
        ax.legend(fontsize="x-small", ncols=2, loc="upper right")
    axes[0].set(xlabel=TIME, ylim=(1e-13, 1e5), xlim=(0, 100 / clock),
                ylabel=r"$\frac{1}{2}\|A\|^2+\frac{1}{2}\|B\|^2-\|AB^T\|_*$")  # fmt: skip
    axes[0].set_title("(i) gap to the nuclear norm")
    axes[1].set(xlabel=TIME, ylabel=r"$\|A^TA - B^TB\|$", ylim=(1e-7, 1e4), xlim=(0, 100 / clock))
    axes[1].set_title("(ii) imbalance of the factors")


def late_slope(t: np.ndarray, gap: np.ndarray, rate: float) -> tuple[float, float]:
    """Slope of log(gap) over the last half of the decades above rounding, and its drift."""
    lowest = max(gap[-1], 1e-13)
    ends = [t[np.searchsorted(-gap, -lowest * 10.0**k)] for k in (4.0, 2.0, 0.0)]
    fits = [
        np.polyfit(t[inside], np.log(gap[inside]), 1)[0]
        for low, high in itertools.pairwise(ends)
        for inside in [(t >= low) & (t <= high)]
    ]
    return float(fits[1]), float(abs(fits[1] - fits[0]))


def against_decay(report: Report, loss: str, objective, start: Pair, values, ranks) -> None:
    """(iii) 64 decays in one call: soft-thresholding, and the rank."""
    clock = 1.0 if loss == "half" else 2.0
    decays = 0.02 * clock * np.arange(64)
    end = END / clock
    runs = flows(start, objective, decays, end, save=[end / 2, end])
    found = np.array([singular_values(*factors(run))[-1] for run in runs])
    half = np.array([singular_values(*factors(r))[np.searchsorted(r.t, end / 2)] for r in runs])
    limit = np.linalg.svd(theory.soft_threshold(TARGET, decays, loss), compute_uv=False)
    predicted = theory.predicted_rank(TARGET, decays, loss=loss)
    tied = predicted.ties > 0
    # every mode relaxes at 2|d − λ| in the clock of "half"; the grid keeps |d − λ| ≥ 0.02
    tolerance = 10.0 * np.exp(-2.0 * 0.02 * END)
    report.add(
        f"fig1.{loss}.soft-threshold", 0.0, float(np.max(np.abs(found - limit)[~tied])), tolerance,
        text=f"largest |s_i − soft threshold| over {np.sum(~tied)} decays without ties",
    )  # fmt: skip
    threshold = 1e-4
    rank = np.sum(found > threshold, axis=1)
    report.add(f"fig1.{loss}.ranks", float(np.sum(predicted.rank[~tied])),
               float(np.sum(rank[~tied])), 0.0,
               text="sum of the ranks at those decays")  # fmt: skip
    d = np.diag(TARGET)[::-1]
    for i in np.flatnonzero(tied):
        k = int(np.argmin(np.abs(d - decays[i] / clock)))
        course = theory.balanced_mode(half[i, k], d[k], end / 2, d[k] * clock, loss)
        report.add(
            f"fig1.{loss}.lambda{decays[i]:g}.tie", float(course), found[i, k],
            float(1e-6 * course), text=f"s({end:g}) from s({end / 2:g}), tie with d = {d[k]:g}",
        )  # fmt: skip
    grid = np.linspace(0.0, decays[-1], 1000)
    exact = np.linalg.svd(theory.soft_threshold(TARGET, grid, loss), compute_uv=False)
    for k in range(5):
        values.plot(decays, found[:, 4 - k], color=COLOURS[k], **SIMULATED)
        values.plot(grid, exact[:, 4 - k], **EXACT)
        at = slice(3 * k, None, 9)
        values.plot(decays[at], found[at, 4 - k], MARKERS[k], mfc="white", mec=COLOURS[k], ms=4.5)
    values.plot([], [], color="0.4", **SIMULATED, label=f"simulated, $t = {end:g}$")
    values.plot([], [], **EXACT, label=r"$\max(d_i - \lambda%s, 0)$" % ("/2" * (clock > 1)))
    values.set(xlabel=r"weight decay $\lambda$", ylabel="singular values of $AB^T$")
    values.legend(fontsize="x-small")
    values.set_title("(iii) soft-thresholding, 64 decays in one call")
    ranks.plot(decays[~tied], rank[~tied], "o", color=COLOURS[0], ms=3, label="simulated")
    ranks.plot(decays[tied], rank[tied], "s", mfc="white", mec=COLOURS[1], ms=5,
               label=rf"ties, still $1/{2 * clock:g}t$ above 0")  # fmt: skip
    ranks.step(grid, theory.predicted_rank(TARGET, grid, loss=loss).rank, where="post", **EXACT,
               label="predicted")  # fmt: skip
    ranks.set(xlabel=r"weight decay $\lambda$", ylabel=r"rank, $\#\{s_i > 10^{-4}\}$")
    ranks.legend(fontsize="x-small")
    ranks.set_title("(iii) rank at the end")


def modes(report: Report, loss: str, objective, axes) -> None:
    """(iv) singular values in time at λ = .4 from an aligned balanced start."""
    clock, decay, small = (1.0 if loss == "half" else 2.0), 0.4, 0.05
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((5, 5)))[0]
    start = Pair(*(jnp.asarray(np.sqrt(small) * turn.T) for _ in range(2)))
    t1 = 1000.0
    save = np.geomspace(0.05, t1, 200)
    run = gflow.simulate(start, objective, t1=t1, decay=decay, rtol=RTOL,
                         save=save)  # fmt: skip
    report.data(run, f"fig1_{loss}_modes")
    a, b = factors(run)
    # the modes are the diagonal of AB^T: the start is diagonal in the bases of D
    found = np.diagonal(a @ b.swapaxes(1, 2), axis1=1, axis2=2)
    d = np.diag(TARGET)
    exact = theory.balanced_mode(small, d, run.t[:, None], decay, loss)
    bar = 2 * float(np.max(run.error["left"])) * float(np.max(np.abs(a)))
    report.add(f"fig1.{loss}.lambda{decay:g}.modes", 0.0, float(np.max(np.abs(found - exact))),
               MARGIN * RTOL, bar,
               text="largest |s_i(t) − exact| over all times and modes")  # fmt: skip
    for k in range(5):
        label = f"$d = {d[k]:g}$" + (" (tie)" if abs(d[k] - decay / clock) < 1e-12 else "")
        for ax in axes:
            ax.plot(run.t, found[:, k], color=COLOURS[k], **SIMULATED)
            ax.plot(run.t, exact[:, k], **EXACT)
        times = np.searchsorted(run.t, np.array([2.0, 6.0, 12.0]) * 1.12**k)
        axes[0].plot(run.t[times], found[times, k], MARKERS[k], mfc="white", mec=COLOURS[k], ms=4.5,
                     label=label)  # fmt: skip
    axes[0].plot([], [], **EXACT, label="exact")
    axes[0].legend(fontsize="x-small", ncols=2)
    axes[0].set(xlabel=TIME, ylabel="singular values of $AB^T$", xlim=(0, 20), ylim=(0, 1.15))
    axes[0].set_title(rf"(iv) $\lambda = {decay:g}$, aligned start")
    axes[1].set(xlabel=TIME, ylabel="singular values of $AB^T$", xscale="log", yscale="log",
                ylim=(1e-8, 2), xlim=(0.1, t1))  # fmt: skip
    axes[1].plot([], [], **EXACT, label="exact")
    axes[1].set_title("the tie dies as a power of time")
    axes[1].legend(fontsize="x-small")
