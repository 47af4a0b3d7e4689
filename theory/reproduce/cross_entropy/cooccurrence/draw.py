"""Losses by kind, read-outs, scores, and residuals by kind."""

import numpy as np
from matplotlib.figure import Figure

from ... import style
from ...style import COLOURS, MARKERS, SIMULATED, TIME
from .measure import KINDS, Run, Words, losses_by_kind


def words(numbers: Words) -> Figure:
    figure, axes = style.figure(2, 3, width=2.6)
    for row, run, title in zip(axes, numbers, ("published start", "a tenth of it"), strict=True):
        _row(row, run, title)
    return figure


def _row(row: np.ndarray, run: Run, title: str) -> None:
    losses, readouts, scores = row
    t, shown = run.flow.t, run.flow.t > 1e-3
    means = losses_by_kind(run)

    def line(ax, n, y, label, **more):
        ax.semilogx(t[shown], y[shown], color=COLOURS[n], **{**SIMULATED, "lw": 1.5}, **more)
        at = np.searchsorted(t[:-1], 10.0 ** (np.arange(-2.5, 2.4, 1.2) + 0.2 * n))
        ax.plot(t[at], y[at], MARKERS[n], mec=COLOURS[n], mfc="white", ms=4, label=label)

    for n, kind in enumerate(KINDS):
        line(losses, n, means[:, n], kind)
    losses.set(ylabel="loss", xlabel=TIME, ylim=(0, None))
    losses.set_title(f"{title}: by words present")
    losses.legend(fontsize="x-small")
    for n in range(3):
        line(readouts, n, run.seen["readout"][:, n], rf"$G(\mu_{n + 1})$")
    readouts.axhline(0.0, color="0.7", lw=0.6, zorder=0)
    readouts.set(xlabel=TIME)
    readouts.set_title("read-outs")
    readouts.legend(fontsize="x-small")
    pairs = ((0, 1), (1, 0), (2, 0), (2, 1))
    for n, (i, j) in enumerate(pairs):
        change = run.seen["scores"][:, i, j] - run.seen["scores"][0, i, j]
        line(scores, n, change, rf"$(\mu_{i + 1}, \mu_{j + 1})$")
    scores.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    scores.axhline(0.0, color="0.7", lw=0.6, zorder=0)
    scores.set(xlabel=TIME)
    scores.set_title("change of scores (key, query)")
    scores.legend(fontsize="x-small", loc="lower left")
