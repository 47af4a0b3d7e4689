"""Logits on the clock of their size, late ones, modes, and the measures of collapse."""

import math

import numpy as np
from matplotlib.figure import Figure

import gflow
from theory import cross_entropy

from ... import style
from ...style import ANY_COLOUR, COLOURS, DOTTED, EXACT, MARKERS, MEASURED, SIMULATED, TIME
from .measure import COPIES, DECAY, MODES, Collapse, K, Modes, logit


def curves(exact: dict[float, gflow.Trajectory], modes: list[Modes], found: Collapse) -> Figure:
    figure, ((early, late), (hadamard, collapse)) = style.figure(2, 2)
    for n, (size, run) in enumerate(exact.items()):
        clock, a, colour = 0.5 * K * math.log(1.0 / size), logit(run), COLOURS[n]
        label = rf"$10^{{{round(math.log10(size))}}}$" if size < 1e-3 else f"{size:g}"
        early.plot(run.t / clock, a, color=colour, **SIMULATED)
        grid = np.linspace(0.0, 1.6, 300) * clock
        early.plot(grid / clock, cross_entropy.etf_logit(K, size, grid), **EXACT)
        middle = float(cross_entropy.etf_time(K, size, 1.0 + 0.5 * n))
        early.plot(
            middle / clock, 1.0 + 0.5 * n, MARKERS[n % 5], mec=colour, **MEASURED, label=label
        )
        shown = run.t > 1.0
        late.semilogx(run.t[shown], a[shown], color=colour, **SIMULATED)
        grid = np.geomspace(1.0, run.t[-1], 300)
        late.semilogx(grid, cross_entropy.etf_logit(K, size, grid), **EXACT)
    early.set(xlim=(0.0, 1.6), ylim=(-0.2, 6.5), ylabel="logit $a$")
    early.set_xlabel(r"$t\,/\,(\frac{K}{2}\ln\frac{1}{a(0)})$")
    early.set_title(f"equiangular start, {K} classes")
    style.entry(early, "simulated", ANY_COLOUR)
    style.entry(early, "closed form", EXACT)
    early.legend(fontsize="x-small", title="$a(0)$", title_fontsize="x-small", loc="upper left")
    grid = np.geomspace(30.0, 1e12, 100)
    late.semilogx(
        grid, cross_entropy.late_logit(grid), color="0.35", **DOTTED, label=r"$-W_{-1}(-1/2t)$"
    )
    style.entry(late, "simulated", ANY_COLOUR)
    style.entry(late, "closed form", EXACT)
    late.set(xlabel=TIME, ylabel="logit $a$", xlim=(1.0, 1e12))
    late.set_title("late: logits grow as $\\log t$")
    late.legend(fontsize="x-small")

    moving = np.flatnonzero(MODES > 0.0)
    chosen = moving[np.argsort(MODES[moving])][::-1][::3]
    for one, dash in zip(modes, ("-", (0, (3, 1, 1, 1))), strict=True):
        for n, k in enumerate(chosen):
            shown = one.run.t > 0.5
            hadamard.semilogx(
                one.run.t[shown], one.modes[shown, k], color=COLOURS[n], ls=dash, **SIMULATED
            )
            grid = np.geomspace(0.5, min(one.run.t[-1], 1e5), 200)
            values = cross_entropy.hadamard_modes(MODES, grid, one.decay)[:, k]
            hadamard.semilogx(grid, values, **EXACT)
            if one.decay == 0.0:
                at = np.searchsorted(one.run.t, 10.0 ** np.arange(1.0, 5.0, 0.75))
                hadamard.semilogx(
                    one.run.t[at],
                    one.modes[at, k],
                    MARKERS[n],
                    mec=COLOURS[n],
                    **MEASURED,
                    label=f"$a(0) = {MODES[k]:g}$",
                )
    style.entry(hadamard, "simulated", ANY_COLOUR)
    style.entry(
        hadamard,
        rf"the same, $\lambda = {modes[1].decay:g}$",
        {**ANY_COLOUR, "ls": (0, (3, 1, 1, 1))},
    )
    style.entry(hadamard, "predicted", EXACT)
    hadamard.set(xlabel=TIME, ylabel="mode $a_k$", xlim=(0.5, 1e5), ylim=(-0.3, 15))
    hadamard.set_title(f"Hadamard start, {len(MODES)} classes")
    hadamard.legend(fontsize="x-small", loc="upper left")

    titles = "within classes", "lengths", "angles", "self-duality"
    for n, (title, (free, decayed)) in enumerate(zip(titles, found.measures.values(), strict=True)):
        shown = found.free.t > 1.0
        line = {"color": COLOURS[n], "marker": MARKERS[n], "mfc": "white", "ms": 3.5, "lw": 1.0}
        every = {"markevery": (5 * n, 30)}
        collapse.loglog(
            found.free.t[shown], np.maximum(free[shown], 1e-18), **line, **every, label=title
        )
        shown = found.decayed.t > 1.0
        collapse.loglog(
            found.decayed.t[shown],
            np.maximum(decayed[shown], 1e-18),
            **{**line, "ls": ":"},
            **every,
        )
    style.entry(collapse, rf"$\lambda = {DECAY:g}$", {"color": "0.4", "ls": ":", "lw": 1.0})
    collapse.set(xlabel=TIME, ylabel="measure of collapse", ylim=(1e-17, 30), xlim=(1.0, 1e12))
    collapse.set_title(f"neural collapse, {COPIES} examples a class")
    collapse.legend(fontsize="x-small", loc="lower left")
    return figure
