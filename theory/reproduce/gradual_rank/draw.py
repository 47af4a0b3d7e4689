"""Figures: staircases over α, ranks, weights with their predicted times, the Lasso."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gflow.plot import alpha_label
from theory import Prediction, plot

from .. import Convergence, Scales, style
from .lasso import LassoDistances
from .measure import Diabetes, Fixture, SoftmaxHead


def fixture(numbers: Fixture) -> Figure:
    (runs, prediction), table = numbers
    figure, (left, right) = style.figure(1, 2)
    plot.collapse([runs[k] for k in (4, 16, 64)], prediction, left)
    left.set_title("staircase and its finite-α curves")
    _convergence(right, table, prediction)
    return figure


def softmax_head(numbers: SoftmaxHead) -> Figure:
    runs, prediction = numbers.scales
    shown = runs[32]
    figure, axes = style.figure(2, 2)
    plot.collapse([runs[k] for k in (8, 32, max(runs))], prediction, axes[0, 0])
    axes[0, 0].set_title("loss: several α on one staircase")
    plot.ranks_with_times(shown, prediction, axes[0, 1])
    axes[0, 1].set_title(f"ranks at {alpha_label(shown.log_alpha)}")
    for ax, leaf in zip(axes[1], ("kq", "vo"), strict=True):
        plot.weights_with_times(shown, prediction, leaf, ax)
        ax.set_title(f"{leaf}: simulated, and predicted times and values")
    return figure


def softmax_head_checks(numbers: SoftmaxHead) -> Figure:
    figure, (left, right) = style.figure(1, 2)
    _convergence(left, numbers.convergence, numbers.scales.prediction)
    plot.restarts(numbers.restarts, right)
    right.set_title("perturb and restart")
    return figure


def diabetes(numbers: Diabetes) -> Figure:
    runs, prediction = numbers.scales
    run = runs[64]
    figure, (left, right) = style.figure(1, 2)
    plot.weights_with_times(run, prediction, "weight", left, dict(enumerate(numbers.names)))
    left.set(xscale="log", xlim=(1.0, run.tau[-1]), title="diabetes: weights and predicted times")
    left.plot([], [], **plot.PREDICTED, ms=4, label="predicted")
    left.set_ylim(-1.15, 0.68)  # room for the key, on white
    key = {"frameon": True, "framealpha": 1.0, "edgecolor": "none"}
    left.legend(fontsize="x-small", ncols=4, loc="lower center", **key)
    _lasso(right, numbers.lasso)
    right.set_title("time-averaged weights and the Lasso")
    return figure


def digits(numbers: Scales) -> Figure:
    runs, prediction = numbers
    figure, axes = style.figure(2, 2)
    plot.collapse(list(runs.values()), prediction, axes[0, 0])
    plot.ranks_with_times(runs[32], prediction, axes[0, 1])
    for ax, leaf in zip(axes[1], ("kq", "vo"), strict=True):
        plot.weights_with_times(runs[32], prediction, leaf, ax)
    return figure


def _convergence(ax: Axes, table: Convergence, prediction: Prediction) -> None:
    plot.convergence(table.scales, table.times, table.errors, prediction, table.limits, ax)
    ax.set_title(r"distance to the limit, and $C_k/\Lambda$")


def _lasso(ax: Axes, lasso: LassoDistances) -> None:
    """Distance to the Lasso against τ, for the limit path and for the simulated run."""
    label = rf"simulated, $\Lambda = {lasso.scale:.4g}$"
    ax.loglog(*lasso.limit, color="black", ls=(0, (4, 2)), lw=1.0, label="limit")
    ax.loglog(*lasso.run, color=style.COLOURS[0], lw=1.4, label=label)
    for tau in lasso.deactivations:
        ax.axvline(tau, color="0.35", **style.DOTTED)
        ax.text(tau, 1e-9, "deactivation ", ha="right", fontsize="x-small", rotation=90)
    ax.set(
        xlabel=r"rescaled time $\tau$",
        ylabel="time average − Lasso, relative",
        ylim=(1e-16, 10.0),
    )
    ax.legend(frameon=False, fontsize="x-small", loc="center left")
