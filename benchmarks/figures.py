"""Cost against α, and error against work. Legible at one column's width and without colour."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from gflow.plot import COLOURS, STYLE

from .accuracy import Verdict
from .contenders import FLOW, SHOWN
from .grids import alpha_name
from .problems import MAIN

_MARKERS = "osD^vP*X<>"
_DASHES = ["-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5))]


def style(method: str) -> dict[str, Any]:
    """Black and thick for gflow; the others differ in marker and dashes as well as colour."""
    if method == FLOW:
        return {"color": "black", "marker": "o", "ls": "-", "lw": 2.0, "ms": 4.5, "zorder": 5}
    k = SHOWN.index(method) if method in SHOWN else len(method)
    hollow = method.startswith("dual")
    return {
        "color": COLOURS[k % 6],
        "marker": _MARKERS[k % len(_MARKERS)],
        "mfc": "white" if hollow else COLOURS[k % 6],
        "ls": _DASHES[k % len(_DASHES)],
        "lw": 1.0,
        "ms": 4.0,
    }


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """All figures there is data for; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        figures = {}
        costs = [r for r in results.get("single", {}).get("costs", []) if r["problem"] == MAIN]
        if costs:
            figures["cost"] = _cost(plt, costs)
        rows = results.get("work-precision", {}).get("rows", [])
        for name, exponent in dict.fromkeys((r["problem"], r["exponent"]) for r in rows):
            these = [r for r in rows if (r["problem"], r["exponent"]) == (name, exponent)]
            figures[f"work-precision-{name}-{alpha_name(exponent)}"] = _work(plt, these)
        paths = []
        for name, figure in figures.items():
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=200)
            plt.close(figure)
    return paths


def _cost(plt, costs: list[dict[str, Any]]):
    """Milliseconds at the loosest right tolerance against log₁₀(1/α)."""
    figure, ax = plt.subplots(figsize=(3.4, 3.9), layout="constrained")
    for method in SHOWN:
        rows = [r for r in costs if r["method"] == method and r["verdict"] == Verdict.RIGHT]
        rows = sorted((r["exponent"], r["seconds"]) for r in rows)
        if rows:
            x, y = np.array(rows, float).T
            ax.plot(x, 1e3 * y, label=method, **style(method))
    ax.axvspan(308, 3e6, color="0.92", zorder=0, lw=0)
    ax.text(0.98, 0.98, "below float64", transform=ax.transAxes, fontsize=7, ha="right", va="top")
    ax.set(
        xscale="log", yscale="log", xlim=(1.4, 3e6), xlabel=r"$\log_{10}(1/\alpha)$",
        ylabel=r"ms until every weight is within $10^{-6}$",
    )  # fmt: skip
    figure.legend(loc="outside lower center", ncols=2, fontsize=7)
    return figure


def _work(plt, rows: list[dict[str, Any]]):
    """Error against milliseconds and against gradient evaluations.

    What agrees with the reference to more digits than it is known to is drawn at the edge of the
    grey, hollow: it is as exact as can be told.
    """
    floor = max((r["reference_difference"] or 0.0 for r in rows), default=0.0)
    figure, axes = plt.subplots(1, 2, figsize=(7.0, 3.2), layout="constrained", sharey=True)
    for method in SHOWN:
        these = [r for r in rows if r["method"] == method and r["error"] is not None]
        for ax, key, unit in zip(axes, ("seconds", "evaluations"), (1e3, 1.0), strict=True):
            points = [(unit * r[key], max(r["error"], floor)) for r in these if r[key] > 0]
            if points:
                x, y = np.array(points).T
                line = style(method)
                ax.plot(x, y, label=method, **line)
                best = y <= floor
                ax.plot(x[best], y[best], **{**line, "ls": "", "mfc": "white"})
    for ax, label in zip(axes, ("ms", "gradient evaluations"), strict=True):
        ax.axhspan(1e-16, floor, color="0.92", zorder=0, lw=0)
        ax.text(0.98, 0.01, "beyond the reference", transform=ax.transAxes, fontsize=7, ha="right")
        ax.set(xscale="log", yscale="log", xlabel=label)
        ax.set_ylim(bottom=max(10 ** math.floor(math.log10(floor or 1e-12)), 1e-14))
    axes[0].set(ylabel="largest error of a weight, jumps included")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=7)
    return figure
