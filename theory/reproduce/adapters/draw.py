"""Loss, ranks and singular values of the adapters."""

from matplotlib.figure import Figure

from gflow.plot import alpha_label
from theory import plot

from .. import Scales, style

#: Of the leaves, in legends.
NAMES = {
    f"layers.{i}.{leaf}.change": f"{what}, layer {i}"
    for i in (0, 1)
    for leaf, what in (("kq", "key–query"), ("vo", "value–output"))
}


def draw(numbers: Scales) -> Figure:
    runs, prediction = numbers
    run, smaller = runs[100], runs[1000]
    figure, axes = style.figure(2, 2)
    plot.collapse([run, smaller], prediction, axes[0, 0])
    axes[0, 0].set_title("adapters on 4 heads × 2 layers")
    plot.ranks_with_times(run, prediction, axes[0, 1], NAMES)
    axes[0, 1].set(
        title=rf"modes above $\sqrt{{\alpha}}$, {alpha_label(run.log_alpha)}, heads added up",
        ylabel=r"number of singular values $>\sqrt{\alpha}$",
        ylim=(None, 1.5 * axes[0, 1].get_ylim()[1]),
    )
    plot.spectrum_with_times(smaller, prediction, axes[1, 0], labels=NAMES)
    axes[1, 0].set_title(f"singular values of the adapters, {alpha_label(smaller.log_alpha)}")
    axes[1, 0].set_ylim(top=1.4 * axes[1, 0].get_ylim()[1])
    plot.spectrum_with_times(run, prediction, axes[1, 1], logarithmic=True, labels=NAMES)
    axes[1, 1].set_title(f"dormant ones included, {alpha_label(run.log_alpha)}")
    axes[1, 1].get_legend().remove()
    return figure
