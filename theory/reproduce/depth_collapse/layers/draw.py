"""Attention alone; residuals of two sizes; gradients."""

import numpy as np
from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, EXACT, MARKERS, MEASURED
from .measure import LAYERS, Gradients, Residuals


def layers_figure(cubes: np.ndarray, residuals: Residuals, gradients: Gradients) -> Figure:
    figure, (left, middle, right) = style.figure(1, 3)
    layers = np.arange(len(cubes))
    seen = cubes < -1.0
    left.semilogy(layers[seen], -cubes[seen], "o", color=COLOURS[0], **MEASURED, markevery=2,
                  label="simulated")  # fmt: skip
    left.semilogy(layers, -cubes[-1] * 3.0 ** (layers - layers[-1]), **EXACT, label="slope ln 3")
    left.set(xlabel="layer", ylabel=r"$-\ln \|R\|$", title="attention alone", ylim=(1.0, None))
    left.legend(fontsize="x-small")
    labels = {"one": r"$\alpha_1 = 1$", "root": r"$\alpha_1 = 1/\sqrt{L}$"}
    for k, (name, (measured, bars, expected)) in enumerate(residuals.found.items()):
        middle.errorbar(np.arange(LAYERS + 1), measured, bars, fmt=MARKERS[k], color=COLOURS[k],
                        **MEASURED, lw=0.8, label=labels[name])  # fmt: skip
        middle.semilogy(np.arange(LAYERS + 1), expected, **EXACT)
    style.entry(middle, "predicted", EXACT)
    middle.set(xlabel="layer", ylabel=r"$1 - \rho$", title="uniform attention, residuals")
    middle.legend(fontsize="x-small", loc="lower left")
    order = np.argsort(gradients.apart)
    for k, (name, pair) in enumerate((("W_Q", gradients.queries), ("W_V", gradients.values))):
        right.loglog(gradients.apart, pair[:, 0], MARKERS[k], color=COLOURS[k], **MEASURED,
                     label=f"$\\|\\partial S/\\partial {name}\\|^2$")  # fmt: skip
        right.loglog(gradients.apart[order], pair[order, 1], **EXACT)
    style.entry(right, "predicted", EXACT)
    right.invert_xaxis()
    right.set(xlabel=r"$1 - \rho$", ylabel="squared gradient", title="gradients on the way")
    right.legend(fontsize="x-small", loc="lower left")
    return figure
