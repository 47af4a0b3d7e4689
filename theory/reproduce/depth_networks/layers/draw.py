"""Tokens over the layers of both networks, and the laws of their parts."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, EXACT, MARKERS, MEASURED
from .laws import MASKED, Cubes, Masked, Uniform
from .measure import WHEN, Course, Courses

LABELS = {
    "whole": "whole", "no-residual": "no residual", "no-norm": "no norm", "no-mlp": "no MLP",
    "attention-alone": "attention alone",
}  # fmt: skip
#: Below it is no longer shown.
FLOOR = 1e-9


def depth_figure(found: dict[str, Courses]) -> Figure:
    """A row a network: ‖R‖/‖X‖ at the start and trained, effective rank, entropies of heads."""
    figure, axes = style.figure(len(found), 4, width=2.6)
    for row, (name, courses) in zip(axes, found.items(), strict=True):
        for ax, when in zip(row[:2], WHEN, strict=True):
            for k, (variant, pair) in enumerate(courses.items()):
                _relative(ax, pair[when], k, LABELS[variant])
            ax.set(xlabel="layer", ylabel=r"$\|R\|/\|X\|$", ylim=(FLOOR, 3.0))
            ax.set_title(f"{name}, {'at the start' if when == 'start' else 'trained'}")
        _ranks(row[2], courses)
        _entropies(row[3], courses["whole"])
        for ax in row[2:]:
            ax.set_title(name)
    axes[0][1].legend(fontsize="x-small", loc="lower left")
    return figure


def _relative(ax: Axes, course: Course, k: int, label: str) -> None:
    """Geometric means over inputs and seeds, between which 90 % of the inputs lie."""
    each = course.relative.reshape(-1, course.relative.shape[-1])
    low, middle, high = np.nanquantile(each, (0.05, 0.5, 0.95), axis=0)
    layers = np.arange(len(middle))
    ax.fill_between(layers, np.exp(low), np.exp(high), color=COLOURS[k], alpha=0.15, lw=0)
    ax.semilogy(layers, np.exp(middle), MARKERS[k], color=COLOURS[k], label=label,
                **{**MEASURED, "ls": "-", "lw": 0.8})  # fmt: skip


def _ranks(ax: Axes, courses: Courses) -> None:
    for k, variant in enumerate(("whole", "no-residual")):
        for when, filled in zip(WHEN, (False, True), strict=True):
            rank = courses[variant][when].rank
            each = rank.reshape(-1, rank.shape[-1])
            ax.errorbar(
                np.arange(each.shape[1]) + (0.15 if filled else 0.0), np.nanmean(each, axis=0),
                np.nanstd(each, axis=0), fmt=MARKERS[k], color=COLOURS[k], capsize=2,
                label=f"{LABELS[variant]}, {when}",
                **{**MEASURED, "mfc": COLOURS[k] if filled else "white", "ls": "-", "lw": 0.8},
            )  # fmt: skip
    ax.set(xlabel="layer", ylabel="effective rank", ylim=(0.0, None))
    ax.legend(fontsize="x-small")


def _entropies(ax: Axes, pair: dict[str, Course]) -> None:
    """Every head of every seed, mean over the inputs."""
    for k, when in enumerate(WHEN):
        heads = np.nanmean(pair[when].entropies, axis=1).transpose(1, 0, 2)
        heads = heads.reshape(len(heads), -1)
        layers = np.arange(1, len(heads) + 1) + 0.2 * k
        ax.plot(np.repeat(layers, heads.shape[1]), heads.ravel(), MARKERS[k], color=COLOURS[k],
                **{**MEASURED, "ms": 3.0})  # fmt: skip
        ax.plot(layers, heads.mean(axis=1), color=COLOURS[k], ls=("-", ":")[k], lw=1.2,
                marker=MARKERS[k], ms=3.0, label=f"{when}, mean")  # fmt: skip
    ax.axhline(1.0, color="0.8", lw=0.8, zorder=0)
    ax.set(xlabel="layer", ylabel="entropy of a head / uniform", ylim=(0.0, 1.1))
    ax.legend(fontsize="x-small", loc="lower left")


def laws_figure(cubes: dict[str, list[Cubes]], uniform: Uniform, masked: Masked) -> Figure:
    figure, (left, middle, right) = style.figure(1, 3)
    _cubes(left, cubes)
    for k, (kind, (value, bar)) in enumerate(uniform.measured.items()):
        middle.errorbar(np.arange(len(value)), value, bar, fmt=MARKERS[k], color=COLOURS[k],
                        **MEASURED, lw=0.8, label=kind)  # fmt: skip
    middle.semilogy(np.arange(len(uniform.predicted)), uniform.predicted, **EXACT,
                    label="predicted, uniform")  # fmt: skip
    middle.set(xlabel="layer", ylabel=r"$1 - \rho$", title="fresh layers with residuals, digits")
    middle.legend(fontsize="x-small", loc="lower left")
    layers = np.arange(len(masked.mean))
    right.errorbar(layers[::4], masked.mean[::4], masked.half[::4], fmt="o", color=COLOURS[0],
                   **MEASURED, lw=0.8, label="masked attention alone")  # fmt: skip
    right.plot(layers, masked.mean[MASKED[1]] - 2 * math.log(2) * (layers - MASKED[1]), **EXACT,
               label=r"slope $-2\ln 2$")  # fmt: skip
    right.set(xlabel="layer", ylabel=r"$\ln(1 - \rho)$", title="fresh layers of the text decoder")
    right.legend(fontsize="x-small", loc="lower left")
    return figure


def _cubes(ax: Axes, cubes: dict[str, list[Cubes]]) -> None:
    """Every layer and input of attention alone: ‖R‖ against what the weights say of it."""
    for k, (when, seeds) in enumerate(cubes.items()):
        for number, found in enumerate(seeds):
            seen = (found.after < 0.0) & (found.ranges < 1.0)
            label = {"label": f"{when}, {{}}"} if number == 0 else {}
            for marker, values, what in (
                (MARKERS[k], found.law, "cubic law"), ("x+"[k], found.frobenius, "bound")
            ):  # fmt: skip
                shown = {key: text.format(what) for key, text in label.items()}
                held = seen & (values < 0.0)
                ax.loglog(-values[held], -found.after[held], marker, color=COLOURS[k], **shown,
                          **{**MEASURED, "ms": 3.5})  # fmt: skip
    ends = np.array([1.0, 1e3])
    ax.loglog(ends, ends, **EXACT, label="equal")
    ax.set(xlabel=r"$-\ln$ of what the weights say", ylabel=r"$-\ln\|R\|$ of a layer")
    ax.set_title("attention alone, digits")
    ax.legend(fontsize="x-small")
