"""Spectra at several losses, ranks over training, ranks over the initial scale."""

import numpy as np
from matplotlib.figure import Figure

from .. import style
from ..style import COLOURS, MARKERS, MEASURED
from .courses import METHODS
from .measure import Ranks
from .problem import PRODUCTS, SYMBOLS

LINES = ("-", "--", ":", "-.")


def spectra(found: Ranks) -> Figure:
    """Singular values under the flow, mean over heads of the first seed, a panel a scale."""
    figure, axes = style.figure(len(PRODUCTS), len(found.scales), width=2.6)
    for row, name in zip(axes, PRODUCTS, strict=True):
        for ax, scale in zip(row, found.scales, strict=True):
            course = found.courses["flow"][scale][0]
            for k, level in enumerate(found.problem.levels):
                if (place := course.met(level)) is None:
                    continue
                values = course.spectra[name][place[0]].mean(axis=0)
                ax.semilogy(
                    np.arange(1, len(values) + 1), values, MARKERS[k], color=COLOURS[k],
                    label=f"loss {level:g}", **{**MEASURED, "ls": LINES[k], "lw": 0.8},
                )  # fmt: skip
            top = np.nanmax(course.spectra[name].mean(axis=1))
            ax.set(xlabel="number", ylim=(1e-4 * top, 2.0 * top))
            ax.set_title(f"{SYMBOLS[name]}, scale {scale:g}", fontsize="small")
        row[0].set_ylabel("singular value")
    axes[0][0].legend(fontsize="x-small")
    return figure


def courses(found: Ranks) -> Figure:
    """Mean and standard deviation over all heads of the first seed, against the loss."""
    figure, axes = style.figure(len(PRODUCTS), len(METHODS), width=2.6)
    for row, name in zip(axes, PRODUCTS, strict=True):
        for ax, method in zip(row, METHODS, strict=True):
            for k, scale in enumerate(found.scales):
                course = found.courses[method][scale][0]
                end = course.met(found.problem.levels[-1])
                kept = slice(1, end[0] + 1 if end else None)
                loss, ranks = course.loss[kept], course.ranks(name)[kept]
                mean, spread = ranks.mean(axis=1), ranks.std(axis=1)
                ax.fill_between(
                    loss, mean - spread, mean + spread, color=COLOURS[k], alpha=0.15, lw=0
                )
                ax.plot(loss, mean, LINES[k], color=COLOURS[k], lw=1.5, label=f"scale {scale:g}")
            ax.set_xscale("log")
            ax.invert_xaxis()
            ax.set_xticks(found.problem.levels, [f"{level:g}" for level in found.problem.levels])
            ax.minorticks_off()
            ax.set_title(f"{SYMBOLS[name]}, {method}", fontsize="small")
            ax.set_xlabel("training loss [nats]")
        row[0].set_ylabel("stable rank")
    axes[0][0].legend(fontsize="x-small")
    return figure


def over_scales(found: Ranks) -> Figure:
    """Means of the seeds with their 95 % intervals, at the last loss."""
    figure, axes = style.figure(1, len(PRODUCTS))
    level = found.problem.levels[-1]
    for ax, name in zip(axes, PRODUCTS, strict=True):
        for k, method in enumerate(METHODS):
            rows = [found.interval(method, name, scale, level) for scale in found.scales]
            beside = np.array(found.scales) * 1.12 ** (k - 1)
            halves = [np.nan if np.isinf(row.half) else row.half for row in rows]
            ax.errorbar(
                beside, [row.mean for row in rows], halves, fmt=MARKERS[k], color=COLOURS[k],
                capsize=3, label=method, **MEASURED,
            )  # fmt: skip
        ax.set_xscale("log")
        ax.set_xticks(found.scales, [f"{scale:g}" for scale in found.scales])
        ax.minorticks_off()
        ax.set(xlabel="initial scale of the attention", ylabel="mean stable rank of all heads")
        ax.set_title(f"{SYMBOLS[name]} at loss {level:g}")
    axes[0].legend(fontsize="x-small")
    return figure
