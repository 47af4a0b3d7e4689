"""Norms, ranks and loss in both stages; predicted times as vertical lines."""

import numpy as np
from matplotlib.figure import Figure

from theory.condensation import stable_rank

from ... import style
from ...style import COLOURS, EXACT
from .measure import BothStages
from .problem import EXPONENT

NAMES = {"value": "$W_V$", "inner": "$W_1$", "readout": "$W_2$", "query": "$W_Q$", "key": "$W_K$"}
STYLES = dict(zip(NAMES, ("-", "--", ":", "-", "--"), strict=True))
SHADES = dict(zip(NAMES, (0, 0, 0, 1, 1), strict=True))
PREDICTED = {"color": "0.4", "lw": 1, "ls": (0, (1, 1.5))}


def both_stages(numbers: BothStages) -> Figure:
    figure, axes = style.figure(3, 2)
    stages = (
        (numbers.one, numbers.clock, numbers.escape, r"$\varepsilon m t$ (flow time $t$)"),
        (numbers.two, 1.0, numbers.saturated, "flow time since the escape"),
    )
    for row, (stage, scale, mark, clock) in zip(axes.T, stages, strict=True):
        t = scale * stage.t
        for name, w in stage.weights.items():
            line = {"color": COLOURS[SHADES[name]], "ls": STYLES[name], "lw": 1.3}
            norm = np.linalg.norm(w.reshape(len(w), -1), axis=1)
            row[0].semilogy(t, norm, **line, label=NAMES[name])
            if w.ndim == 3:
                row[1].plot(t, stable_rank(w), **line, label=NAMES[name])
        row[2].plot(t, stage.loss, color="black", lw=1.3)
        for ax, label in zip(row, ("Frobenius norm", "stable rank", "loss"), strict=True):
            ax.axvline(scale * mark, **PREDICTED)
            ax.set(xlabel=clock, ylabel=label)
    (escape, condensation, _), (plateau, collapse, loss) = axes.T
    plateau.semilogy(*numbers.linear, **EXACT, label="linear flow")
    style.entry(escape, "predicted escape", PREDICTED)
    style.entry(loss, "predicted saturation", PREDICTED)
    loss.legend(fontsize="x-small")
    for ax in (escape, plateau, condensation):
        ax.legend(fontsize="x-small", ncols=2)
    escape.set_title(rf"escape, $d = {numbers.d}$, $\varepsilon = 10^{{-{EXPONENT}}}$")
    plateau.set_title("plateau")
    condensation.set_title("outer weights condense")
    collapse.set_title("$W_Q$, $W_K$ collapse")
    for ax in axes[1]:
        ax.set_ylim(0, None)
    return figure
