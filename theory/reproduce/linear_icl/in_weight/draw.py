"""Figure: in-weight and in-context learning for every share of prompts with their own task."""

import numpy as np
from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, DOTTED, EXACT, SIMULATED
from .. import problem
from .measure import TRAINED, InWeight


def losses(numbers: InWeight) -> Figure:
    """The loss, the two test losses and what they come to at rest, against steps."""
    count = len(numbers.runs)
    figure, axes = style.figure((count + 2) // 3, 3, width=2.9)
    rate = problem.trained_blocks()[1]
    curves = (
        ("loss", "loss"),
        ("in_context", "test, in context"),
        ("in_weight", "test, in weights"),
    )
    for number, (ax, (own, run)) in enumerate(
        zip(np.ravel(axes), numbers.runs.items(), strict=False)
    ):
        for colour, (name, label), end in zip(COLOURS, curves, numbers.ends[own], strict=False):
            values = run.loss if name == "loss" else run.observables[name]
            ax.plot(run.t / rate, values, color=colour, **SIMULATED, label=label)
            ax.axhline(end, color=colour, zorder=0, **DOTTED)
            if own == TRAINED:
                x = numbers.descent
                trained = x.loss if name == "loss" else x.observables[name]
                ax.plot(x.t / rate, trained, **EXACT)
        ax.axvline(numbers.escapes[own] / rate, color="0.35", zorder=0, lw=0.8)
        ax.set(ylim=(0, 0.68 if own > 0 else 1.3), xlim=(0, run.t[-1] / rate))
        ax.set_title(f"{own:.0%} with a task of their own")
        if number % 3 == 0:
            ax.set_ylabel("half squared error")
        if number >= count - 3:
            ax.set_xlabel("step")
    key = np.ravel(axes)[0]
    style.entry(key, "minimum (predicted)", {"color": "0.4", **DOTTED})
    style.entry(key, "escape (predicted)", {"color": "0.35", "lw": 0.8})
    style.entry(key, "descent on prompts", EXACT)
    key.legend(fontsize="x-small", loc="upper right")
    return figure
