"""Three laws on the three axes on which each is straight."""

import numpy as np
from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, EXACT, MARKERS, MEASURED
from .measure import Memories

AXES = {
    "attention": ("layer $l$", r"$\ln(-\ln \rho)$", lambda n: n, lambda y: np.log(-y)),
    "leaky": ("$l^2$", r"$\ln \rho$", lambda n: n**2, lambda y: y),
    "accumulated": ("layer $l$", r"$\ln \rho$", lambda n: n, lambda y: y),
}
TITLES = {"attention": "no memory: cubic", "leaky": "leaky scores", "accumulated": "added scores"}


def memory_figure(found: Memories) -> Figure:
    figure, axes = style.figure(1, 3)
    for k, (kind, (x_label, y_label, x_of, y_of)) in enumerate(AXES.items()):
        layers = np.arange(1, len(found.measured[kind]))
        x, ax = x_of(layers.astype(float)), axes[k]
        ax.plot(x, y_of(found.measured[kind][1:]), MARKERS[k], color=COLOURS[k], **MEASURED,
                markevery=2, label="simulated")  # fmt: skip
        ax.plot(x, y_of(found.predicted[kind][1:]), **EXACT, label="predicted")
        ax.set(xlabel=x_label, ylabel=y_label, title=TITLES[kind])
        ax.legend(fontsize="x-small")
    return figure
