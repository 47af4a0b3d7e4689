"""Condensation and rank collapse of a one-layer transformer from weights of size 1e-4 … 1e-100.

Chen & Luo 2025. The first stage is simulated in its effective form, three factors in a row,
against blow-up times, bounds and limits; the second (`condensation_plateau`) at many ε against
F of the data; `condensation_full` follows the whole tanh model through both. Gradient flow
throughout; the paper trains by AdamW, which has no wait 1/ε.
"""

import math

import jax
import numpy as np

import gflow
from gflow.plot import COLOURS, STYLE

from .... import condensation as co
from ....condensation._effective_flow import EffectiveChain, effective_course
from ....condensation._measures import stable_rank
from ..._report import Report
from ...condensation.plateau import measure as condensation_plateau
from ...condensation.tanh_model import measure as condensation_full
from ...exact_linear.runs import EXACT, new_figure

MARKERS = "osD^v"
#: Width of the simulated starts, and the norm to which they are followed.
WIDTH, FAR = 16, 1e5
MEASURED = {"ls": "", "mfc": "white", "ms": 4.5}


def run(report: Report) -> None:
    """Stage one, stage two, both of the tanh model, then the other experiments of the paper."""
    import matplotlib.pyplot as plt

    from ...condensation.anchor.measure import anchor
    from ...condensation.two_layer.measure import two_layer

    with plt.rc_context(STYLE):
        first_stage(report)
        condensation_plateau.second_stage(report)
        condensation_full.both_stages(report)
        anchor(report)
        two_layer(report)


def first_stage(report: Report) -> None:
    """Escape: bounds, times over widths, and the rates at which weights condense."""
    figure, axes = new_figure(2, 2)
    runs = [simulated(seed) for seed in range(3)]
    energies(report, runs, axes[0, 0])
    widths(report, axes[0, 1])
    rates(report, *runs[0], axes[1])
    report.figure(figure, "condensation_escape")


def simulated(seed: int) -> tuple[gflow.models.LastTokenTransformer, gflow.Escape, np.ndarray]:
    """A start of unit variance, its escape in polar coordinates, and v."""
    model = gflow.models.LastTokenTransformer.small(
        WIDTH, WIDTH, log_epsilon=0.0, key=jax.random.key(seed)
    )
    v = np.random.default_rng(seed).standard_normal(WIDTH)
    v /= np.linalg.norm(v)
    # E > 0 at the start, so that the paper's bound holds from there on
    start = chain(model, v)
    v = v if start[0] @ start[1] @ start[2] > 0 else -v
    return model, gflow.escape(model, EffectiveChain(v), level=FAR, rtol=1e-11), v


def chain(model, v) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a = (vW_V)ᵀ, B = W1, c = W2."""
    value, inner, readout = (np.asarray(x.value) for x in (model.value, model.inner, model.readout))
    return v @ value, inner, readout


def energies(report: Report, runs, ax) -> None:
    """E(t) above its bound, as E^{−1/3} against t, where the bound is a line of slope −1."""
    low = 0.0
    for i, (model, out, v) in enumerate(runs):
        start = chain(model, v)
        time, bounds = co.blow_up_time(*start), co.blow_up_bounds(*start)
        energy = -out.loss
        found = out.t[-1] + energy[-1] ** (-1 / 3)
        bar = out.at_norm(0.9 * FAR).error
        report.add(f"escape.start{i}.T", float(time), found, 1e-9 * time, bar + time.error,
                   unit="εm·flow time", text=f"T* of a' = Bc, B' = acᵀ, c' = Bᵀa, d = {WIDTH}",
                   )  # fmt: skip
        left = energy[0] ** (-1 / 3) - out.t
        below = left > 0
        low = max(low, float(np.max(energy[below] ** (-1 / 3) / left[below])))
        course = effective_course(*start, growth=100.0)
        ax.plot(course.t, course.energy ** (-1 / 3), color=COLOURS[i], lw=1)
        ax.plot(out.t[::2], energy[::2] ** (-1 / 3), MARKERS[i], color=COLOURS[i], **MEASURED)
        ax.plot([0, bounds.upper], [bounds.upper, 0], **EXACT)
        ax.plot(time, 0, "|", color=COLOURS[i], ms=14, mew=1.6, clip_on=False)
    # E ≥ (E₀^{−1/3} − t)^{−3} at all steps of all starts
    report.add("escape.energy-bound", 1.0, low, 1e-9,
               text="largest E(t)^(−1/3) / (E(0)^(−1/3) − t), at most 1")  # fmt: skip
    ax.plot([], [], "o", color="0.3", **MEASURED, label="simulated")
    ax.plot([], [], color="0.3", lw=1, label="reduced to $2d$ numbers")
    ax.plot([], [], **EXACT, label=r"bound, $E_0^{-1/3} - t$")
    ax.plot([], [], "|", color="0.3", ms=9, mew=1.6, label=r"predicted blow-up $T^*$")
    ax.set(xlabel=r"rescaled time $\bar t = \varepsilon m t$", ylabel=r"$E^{-1/3}$", ylim=(0, None))
    ax.set_xlim(0, 1.15 * max(out.t[-1] for _, out, _ in runs))
    ax.legend(fontsize="x-small")
    ax.set_title(f"escape of three starts, $d = {WIDTH}$")


def widths(report: Report, ax) -> None:
    """T*√d over widths, with Gaussian starts of unit variance."""
    sizes = 2 ** np.arange(1, 7 if report.fast else 9)
    seeds = 30 if report.fast else 60
    times, inside = np.zeros((len(sizes), seeds)), []
    for i, d in enumerate(sizes):
        for seed in range(seeds):
            rng = np.random.default_rng([int(d), seed])
            start = rng.standard_normal(d), rng.standard_normal((d, d)), rng.standard_normal(d)
            time = co.blow_up_time(*start)
            times[i, seed] = time * math.sqrt(d)
            if d <= 32 and start[0] @ start[1] @ start[2] > 0:
                lower, upper = co.blow_up_bounds(*start)
                inside.append(lower <= time <= upper)
    report.add("widths.share-within-bounds", 1.0, float(np.mean(inside)), 0.0,
               text=f"share of {len(inside)} blow-up times between their bounds, d ≤ 32, E(0) > 0",
               )  # fmt: skip
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75], axis=1)
    # the standard error of a median of like spread
    errors = 1.25 * (high - low) / 1.35 / math.sqrt(seeds)
    bar = float(math.hypot(*errors[-2:]))
    report.add("widths.median-settles", middle[-2], middle[-1], 3 * bar, bar,
               text=f"median of T*√d at d = {sizes[-1]}, that at d = {sizes[-2]} predicted",
               )  # fmt: skip
    report.say(f"T*√d at d = {sizes[-1]}: median {middle[-1]:.3f} ± {errors[-1]:.3f}, "
               f"quartiles {low[-1]:.3f} and {high[-1]:.3f} ({seeds} starts).")  # fmt: skip
    ax.errorbar(sizes, middle, [middle - low, high - middle], fmt="o", color=COLOURS[0],
                mfc="white", ms=4.5, capsize=2.5,
                label=f"median, quartiles of {seeds}")  # fmt: skip
    ax.axhline(middle[-1], **EXACT, label=f"{middle[-1]:.2f}")
    ax.set_xscale("log", base=2)
    ax.set(xlabel="width $d$", ylabel=r"$\bar T^*\sqrt{d}$", ylim=(0, 1.15 * np.max(high)))
    ax.legend(fontsize="x-small")
    ax.set_title("blow-up times of Gaussian starts")


def rates(report: Report, model, out: gflow.Escape, v, axes) -> None:
    """Angles and ranks against τ = T* − t, beside their predicted multiples of τ²."""
    start = chain(model, v)
    limit = co.blow_up_limit(*start)
    norms = np.geomspace(1.05, 0.9 * FAR, 26) * float(np.exp(out.log_largest[0]))
    passages = [out.at_norm(w) for w in norms[norms < 0.9 * FAR]]
    end = (-out.loss[-1]) ** (-1 / 3)
    tau = np.array([p.remaining + end for p in passages])
    a, b, _ = (np.stack(x) for x in zip(*(chain(p.model, v) for p in passages), strict=True))
    value = np.stack([np.asarray(p.model.value.value) for p in passages])
    rest = np.asarray(model.value.value) - np.outer(v, start[0])
    off = a - np.sum(a * limit.left, axis=1)[:, None] * limit.left
    cosines = co.value_cosines(np.asarray(model.value.value), v, a)
    exact = np.abs(np.einsum("d,tdk->tk", v, value)) / np.linalg.norm(value, axis=1)
    report.add("rates.value-cosines", 0.0, float(np.max(np.abs(exact - np.abs(cosines)))), 1e-9,
               text="largest error of cos(column of W_V, v)")  # fmt: skip
    curves = {
        r"angle of $a$ to $p$": (np.linalg.norm(off, axis=1) / np.linalg.norm(a, axis=1),
                                 limit.turn),
        r"stable rank of $W_1$, less 1": (stable_rank(b) - 1, limit.spread),
        r"stable rank of $W_V$, less 1": (
            stable_rank(value) - 1, float(np.sum(rest**2) - np.sum((rest @ limit.left) ** 2))),
    }  # fmt: skip
    # the rates need τ ≪ 1/(2√d); their next term is smaller by τ·2√d
    small = 2 * math.sqrt(WIDTH) * tau
    keys = ("angle-a", "rank-W1", "rank-WV")
    for i, (key, (name, (found, factor))) in enumerate(zip(keys, curves.items(), strict=True)):
        at = [int(np.argmin(np.abs(np.log(small / x)))) for x in (1e-1, 1e-2)]
        plain = name.replace("$", "")
        slope = np.diff(np.log(found[at]))[0] / np.diff(np.log(tau[at]))[0]
        report.add(f"rates.{key}.exponent", 2.0, slope, small[at[0]], text=f"{plain}: power of τ")
        report.add(f"rates.{key}.factor", 1.0, found[at[1]] / (factor * tau[at[1]] ** 2),
                   3 * small[at[1]],
                   text=f"{plain}: over its multiple of τ², τ·2√d = {small[at[1]]:.2g}",
                   )  # fmt: skip
        size = {**MEASURED, "ms": (4.5, 7.0, 3.5)[i]}
        axes[0].loglog(tau, found, MARKERS[i], color=COLOURS[i], **size, label=name)
        axes[0].loglog(tau, factor * tau**2, **EXACT)
    axes[0].loglog([], [], **EXACT, label=r"predicted, $\propto\tau^2$")
    axes[0].set(xlabel=r"time left $\tau = T^* - \bar t$", ylabel="distance from rank one")
    axes[0].legend(fontsize="x-small")
    axes[0].set_title("condensation")
    for k in range(WIDTH):
        axes[1].semilogx(tau, cosines[:, k], color="0.6", lw=0.8)
        axes[1].semilogx(tau[::3], np.einsum("d,td->t", v, value[:, :, k])[::3]
                         / np.linalg.norm(value[:, :, k], axis=1)[::3], "o", color=COLOURS[0],
                         ls="", mfc="white", ms=3)  # fmt: skip
    axes[1].plot([], [], color="0.6", lw=0.8, label="predicted")
    axes[1].plot([], [], "o", color=COLOURS[0], mfc="white", ms=3, label="simulated")
    axes[1].invert_xaxis()
    axes[1].set(xlabel=r"time left $\tau = T^* - \bar t$", ylabel="cosine with $v$")
    axes[1].legend(fontsize="x-small", loc="center right")
    axes[1].set_title("columns of $W_V$ turn to $\\pm v$")
