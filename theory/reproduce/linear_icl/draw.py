"""Figures: losses on their own clocks, the clocks side by side, ranks, and the other papers."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from theory import linear_icl as icl

from .. import style
from ..style import ANY_COLOUR, COLOURS, DOTTED, EXACT, MARKERS, MEASURED, SIMULATED, TIME
from .heads import measure as heads
from .heads.measure import Merged, Ranks, Separate, levels
from .modes import measure as modes
from .modes.measure import Scales
from .problem import CONTEXT, EIGHT, FOUR, VARIANCES
from .sizes.measure import LEVEL, Escapes
from .softmax.measure import Softmax
from .training.measure import Descent, Trained

#: Of markers that fall on one another.
NESTED = (8.0, 5.5, 3.0)
LOSS = r"loss $\frac{1}{2}\mathrm{E}(y-\hat y)^2$"


def power(size: float) -> str:
    exponent = math.log10(size)
    if abs(exponent - round(exponent)) < 1e-9:
        return rf"$10^{{{round(exponent)}}}$"
    return f"{size:g}"


def drops(merged: Merged, separate: Separate) -> Figure:
    """Merged heads against t/ln(1/ε), separate ones against εt."""
    figure, (left, right) = style.figure(1, 2)
    loss = levels(FOUR)
    styles = list(zip(COLOURS, MARKERS, NESTED, strict=False))
    for (colour, marker, big), (size, run) in zip(styles, merged.runs.items(), strict=False):
        x = run.t / math.log(1.0 / size)
        left.plot(x, run.loss, color=colour, **SIMULATED)
        left.plot(x, merged.losses[size], **EXACT)
        middle = float(0.5 * (loss[0] + loss[-1]))
        at = float(np.interp(-middle, -run.loss, x))
        points = {**MEASURED, "mec": colour, "ms": big, "zorder": 3}
        left.plot(at, middle, marker, **points, label=power(size))
    rate = float(np.linalg.norm(np.square(FOUR)))
    left.axvline(1.0 / rate, color="0.35", **DOTTED, label=r"limit, $1/\|\Lambda^2\|$")
    style.entry(left, "simulated", ANY_COLOUR)
    style.entry(left, "exact", EXACT)
    left.set(xlim=(0, 8.5), ylim=(0, 0.54), ylabel=LOSS)
    left.set_xlabel(r"$t\,/\ln(1/\varepsilon)$")
    left.set_title("merged key and query: one drop")
    left.legend(fontsize="x-small", title=r"$\varepsilon$", title_fontsize="x-small")

    for level in loss:
        right.axhline(level, color="0.55", zorder=0, **DOTTED)
    every = list(separate.runs.items())
    shown = [every[i] for i in sorted({0, len(every) // 3, len(every) - 1})]
    for (colour, marker, big), (size, run) in zip(styles, shown, strict=False):
        right.plot(size * run.t, run.loss, color=colour, **SIMULATED)
        points = {**MEASURED, "mec": colour, "ms": big, "zorder": 3}
        halves = [heads.passing(run, x)[0] for x in 0.5 * (loss[1:] + loss[:-1])]
        middles = 0.5 * (loss[1:] + loss[:-1])
        right.plot(size * np.array(halves), middles, marker, **points, label=power(size))
    times, size = separate.times[min(separate.times)], min(separate.times)
    for m, t in enumerate(times):
        right.vlines(
            size * t, loss[m + 1], loss[m], color="black", lw=0.9, ls=(0, (4, 2)), zorder=4
        )
    style.entry(right, "simulated", ANY_COLOUR)
    style.entry(right, "predicted half-drop", EXACT)
    style.entry(right, "predicted plateau", {"color": "0.55", **DOTTED})
    right.set(xlim=(0, 1.2 * size * times[-1]), ylim=(0, 0.54), ylabel=LOSS)
    right.set_xlabel(r"$\varepsilon\,t$")
    right.set_title("separate, rank one: one drop a direction")
    box = {"framealpha": 1.0, "edgecolor": "none", "frameon": True, "title_fontsize": "x-small"}
    at = {"loc": "upper right", "bbox_to_anchor": (1.0, 0.92)}
    right.legend(fontsize="x-small", title=r"$\varepsilon$", **box, **at)
    return figure


def clocks(numbers: Escapes) -> Figure:
    """Escape time against the initial size: the power law and the logarithm."""
    figure, (left, right) = style.figure(1, 2)
    decades = -np.log10(numbers.sizes)
    line = np.argsort(decades)
    for ax in (left, right):
        ax.plot(decades, numbers.merged, MARKERS[1], mec=COLOURS[1], **MEASURED,
                label="merged (half-way)")  # fmt: skip
        ax.plot(decades[line], numbers.merged_predicted[line], **EXACT)
        ax.set(xlabel=r"$\log_{10}(1/\varepsilon)$", ylabel=f"{TIME} of the escape")
    left.plot(decades, numbers.separate, MARKERS[0], mec=COLOURS[0], **MEASURED,
              label=rf"separate (norm {LEVEL:g})")  # fmt: skip
    left.plot(decades[line], numbers.separate_predicted[line], **EXACT)
    style.entry(left, "predicted", EXACT)
    left.set_yscale("log")
    left.set_yticks([10.0**k for k in (0, 25, 50, 75, 100)])
    left.set_title(r"three factors: $1/\varepsilon$")
    handles, labels = left.get_legend_handles_labels()
    order = [1, 0, 2]
    left.legend([handles[i] for i in order], [labels[i] for i in order], fontsize="x-small")
    style.entry(right, "predicted", EXACT)
    right.set_ylim(0, None)
    right.set_title(r"two factors: $\ln(1/\varepsilon)\,/\,\|\Lambda^2\|$")
    right.legend(fontsize="x-small")
    return figure


def ranks(numbers: Ranks) -> Figure:
    """Loss against time for each rank; plateaus at multiples of the rank are marked."""
    count = len(numbers.runs)
    figure, axes = style.figure((count + 1) // 2, min(count, 2))
    loss = levels(EIGHT)
    last = max(run.t[-1] for run in numbers.runs.values())
    for ax, colour, (rank, run) in zip(np.ravel(axes), COLOURS, numbers.runs.items(), strict=False):
        for m, level in enumerate(loss):
            multiple = m % rank == 0
            line = {**EXACT, "zorder": 0} if multiple else {"color": "0.65", **DOTTED, "zorder": 0}
            ax.axhline(level, **line)
            if multiple and m < 6:
                ax.text(
                    0.99, level, f"$m = {m}$", transform=ax.get_yaxis_transform(), ha="right",
                    va="bottom", fontsize="x-small",
                )  # fmt: skip
        ax.semilogx(run.t[1:], run.loss[1:], color=colour, **SIMULATED)
        ax.set(xlabel=TIME, ylabel=LOSS, xlim=(1e3, last), ylim=(0.03, 0.545))
        ax.set_title(f"heads of rank {rank}")
    key = np.ravel(axes)[len(numbers.runs) - 1]
    style.entry(key, "simulated", ANY_COLOUR)
    style.entry(key, "plateau, multiple of the rank", EXACT)
    style.entry(key, "other plateau", {"color": "0.65", **DOTTED})
    box = {"framealpha": 1.0, "edgecolor": "none", "frameon": True}
    key.legend(fontsize="x-small", loc="upper right", bbox_to_anchor=(1.0, 0.86), **box)
    return figure


def others(scales: Scales, pairs: Softmax, trained: Trained) -> Figure:
    """Modes of several scales, the creep of softmax heads, and descent on prompts."""
    figure, ((left, right), (merged, separate)) = style.figure(2, 2)
    size = min(scales.runs)
    run = scales.runs[size]
    clock = math.log(1.0 / size)
    end = icl.modes(VARIANCES, CONTEXT, size, math.inf)
    weight = np.asarray(run.leaves["weight"]["value"])
    grid = np.linspace(0.0, 1.15 / VARIANCES[-1] ** 2, 2000)
    shown = modes.strengths(size, grid * clock)
    for colour, marker, s, a, exact, full in zip(
        COLOURS, MARKERS, VARIANCES, weight.T, shown.T, end, strict=False
    ):
        left.plot(run.t / clock, a / full, color=colour, **SIMULATED)
        left.plot(grid, exact / full, **EXACT)
        left.plot(1.0 / s**2, 0.5, marker, mec=colour, **MEASURED, label=f"$s = {s:g}$", zorder=3)
    left.set(xlim=(0, 1.15 / VARIANCES[-1] ** 2), ylim=(-0.05, 1.28))
    left.set_xlabel(r"$\tau = t\,/\ln(1/p_0)$")
    left.set_ylabel(r"strength of the mode $a/a_\infty$")
    left.set_title(rf"several scales, $p=q=${power(size)}; markers: $\tau = 1/s^2$")
    style.entry(left, "simulated", ANY_COLOUR)
    style.entry(left, "exact", EXACT)
    left.legend(fontsize="x-small", ncols=3, loc="upper left")

    for colour, marker, (count, run) in zip(COLOURS, MARKERS, pairs.runs.items(), strict=False):
        late = run.t > 1.0
        right.loglog(run.t[late], pairs.excess[count][late], color=colour, **SIMULATED)
        right.loglog(run.t, pairs.laws[count], **EXACT)
        at = [int(np.argmin(np.abs(run.t - t))) for t in (1e2, 1e3, 1e4, 1e5)]
        right.loglog(run.t[at], pairs.excess[count][at], marker, mec=colour, **MEASURED,
                     label=f"{count} heads")  # fmt: skip
    style.entry(right, "simulated", ANY_COLOUR)
    style.entry(right, "law", EXACT)
    right.set(xlabel=TIME, ylabel="loss above its infimum", xlim=(1, None))
    right.set_title(r"softmax heads in $\pm$ pairs: $t^{-2/3}$")
    right.legend(fontsize="x-small")

    loss = levels(FOUR)
    descent(merged, trained.merged, "merged heads", loss[[0, -1]], 2500)
    descent(separate, trained.separate, "separate heads", loss, 10_000)
    return figure


def descent(ax: Axes, numbers: Descent, title: str, loss: np.ndarray, last: int) -> None:
    run, rate = numbers.run, float(numbers.run.t[-1]) / numbers.run.statistics["steps"]
    for level in loss:
        ax.axhline(level, color="0.55", zorder=0, **DOTTED)
    ax.plot(run.t / rate, run.loss, color=COLOURS[0], **SIMULATED, label="gradient descent")
    ax.plot(numbers.sampled.t / rate, numbers.sampled.loss, **EXACT, label="flow, same prompts")
    population = {"color": "0.35", "lw": 0.9, "ls": (0, (5, 1.5, 1, 1.5))}
    ax.plot(numbers.flow.t / rate, numbers.flow.loss, **population, label="flow, all prompts")
    style.entry(ax, "predicted plateau", {"color": "0.55", **DOTTED})
    ax.set(xlabel="step", ylabel=LOSS, ylim=(0, 0.54))
    ax.set_xlim(0, min(last, run.statistics["steps"]))
    ax.set_title(f"{title}, {numbers.prompts} prompts")
    ax.legend(fontsize="x-small", loc="upper right", bbox_to_anchor=(1.0, 0.92))
