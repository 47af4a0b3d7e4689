"""Several runs: stage times against 1/Λ, and restarts from perturbed saddles."""

from collections.abc import Sequence

import numpy as np

from gflow.plot import COLOURS, new_axes

from ._common import LIMIT, Predicted, Restarted


def convergence(scales, measured, errors, prediction: Predicted, limits, ax=None):
    """τ_k − T_k against 1/Λ: runs, the line C_k/Λ, and the extrapolated limit at 0.

    **Arguments:** `measured[i, k]`, `errors[i, k]`: τ and its bar of stage k in the run with
    Λ = `scales[i]`. `prediction`: of T and C. `limits[k]`: the extrapolated T.
    """
    ax = new_axes(ax)
    inverse = 1.0 / np.asarray(scales, float)
    line = np.linspace(0.0, 1.05 * inverse.max(), 2)
    markers = "osD^vP*X"
    for k, stage in enumerate(prediction.stages):
        colour = COLOURS[k % len(COLOURS)]
        ax.plot(line, stage.offset * line, color="black", lw=0.7, ls=(0, (4, 2)), zorder=1)
        ax.errorbar(
            inverse,
            np.asarray(measured)[:, k] - stage.tau,
            np.asarray(errors)[:, k],
            fmt=markers[k % len(markers)],
            color=colour,
            ms=4,
            label=f"{k + 1}: {stage.label}",
        )
        ax.plot(0.0, limits[k] - stage.tau, "o", mfc="none", mec=colour, ms=7, clip_on=False)
    ax.axhline(0.0, color="0.7", lw=0.8, zorder=0)
    ax.set(
        xlabel=r"$1/\Lambda = 1/\log(1/\alpha)$",
        ylabel=r"$\tau_k(\alpha) - T_k$",
    )
    ax.legend(frameon=False, fontsize="xx-small", title="stage", title_fontsize="xx-small")
    return ax


def restarts(results: Sequence[Restarted], ax=None):
    """Distance of the saddle reached after a perturbation, by size and stage.

    **Arguments:** `results`: of `theory.assumptions.perturb_and_restart`, one a stage.
    """
    ax = new_axes(ax)
    floor = 1e-16
    for i, result in enumerate(results):
        sizes = np.repeat(result.sizes, result.distance.shape[1])
        spread = 10.0 ** (0.04 * (i - 0.5 * (len(results) - 1)))
        distance = np.maximum(result.distance.ravel(), floor)
        ax.loglog(
            sizes * spread,
            distance,
            "osD^vP*X"[i % 8],
            color=COLOURS[i % len(COLOURS)],
            ms=3.5,
            label=f"stage {result.stage + 1}",
        )
    ax.axhline(1e-6, **LIMIT)
    ax.set(
        xlabel=r"size of the perturbation (s.d. of $\log|\theta|$)",
        ylabel="distance of the saddle reached",
        ylim=(floor / 3, 10),
    )
    ax.legend(frameon=False, fontsize="xx-small")
    return ax
