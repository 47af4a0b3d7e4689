"""Figures: staircases, ranks and spectra of full matrices; the gauge beside plain factors."""

from matplotlib.figure import Figure

from gflow.plot import alpha_label, tau_label
from theory import plot

from .. import Scales, style
from .measure import Gauge


def head(numbers: Scales) -> Figure:
    runs, prediction = numbers
    shown = runs[100]
    figure, axes = style.figure(2, 2)
    plot.collapse([runs[k] for k in (15, 100)], prediction, axes[0, 0])
    axes[0, 0].set_title("loss: two α on one staircase")
    plot.ranks_with_times(shown, prediction, axes[0, 1])
    axes[0, 1].set(
        title=rf"modes above $\sqrt{{\alpha}}$, {alpha_label(shown.log_alpha)}",
        ylabel=r"number of singular values $>\sqrt{\alpha}$",
    )
    plot.spectrum_with_times(shown, prediction, axes[1, 0])
    axes[1, 0].set_title("singular values of the two matrices")
    plot.spectrum_with_times(shown, prediction, axes[1, 1], logarithmic=True)
    axes[1, 1].set_title(r"the same, dormant ones included: $\sqrt{\alpha}$ is passed early")
    return figure


def sensing(numbers: Scales) -> Figure:
    runs, prediction = numbers
    figure, (left, right) = style.figure(1, 2)
    plot.collapse([runs[k] for k in (10, 60)], prediction, left)
    left.set_title("matrix sensing: best fits of rank 1, 2, 3")
    plot.spectrum_with_times(runs[60], prediction, right)
    right.set_title(f"singular values at {alpha_label(runs[60].log_alpha)}")
    return figure


def gauge(numbers: Gauge) -> Figure:
    figure, axes = style.figure(1, 2)
    log_alpha = numbers.guarded.log_alpha
    grid = plot.finite_grid(numbers.prediction, log_alpha, 1.2)
    predicted = numbers.prediction.at(log_alpha).loss(grid)
    run = numbers.guarded
    for ax, tau, loss, title in (
        (axes[0], run.tau, run.loss, "columns in their gauge"),
        (axes[1], numbers.tau, numbers.unguarded, "plain factors, Diffrax"),
    ):
        ax.plot(tau, loss, color=style.COLOURS[0], lw=1.5, label="simulated")
        ax.plot(grid, predicted, **plot.FINITE, label="predicted at that α")
        ax.set(xlabel=tau_label(), ylabel="loss", title=f"{title}, {alpha_label(log_alpha)}")
        ax.legend(frameon=False, fontsize="x-small")
    return figure
