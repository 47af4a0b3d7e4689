"""Loss and dormant modes of the adapters beside their prediction; the share of AdamW's change."""

import numpy as np
from matplotlib.figure import Figure

from gflow.plot import alpha_label
from theory import plot

from .. import style
from ..style import COLOURS, MARKERS, MEASURED
from .measure import Numbers
from .problem import NAMES

TICKS = (2.0, 1.0, 0.5, 0.2)
LABELS = {f"changes.{name}": name.rsplit(".", 1)[1] for name in NAMES}


def draw(numbers: Numbers) -> Figure:
    """Three panels."""
    (runs, prediction), shares = numbers
    run = runs[max(runs)]
    figure, (left, middle, right) = style.figure(1, 3)
    plot.collapse(list(runs.values()), prediction, left)
    left.set_title("turned digits, adapters alone")
    plot.spectrum_with_times(run, prediction, middle, logarithmic=True, labels=LABELS)
    middle.set_title(f"dormant modes of 8 adapters, {alpha_label(run.log_alpha)}")
    right.axhspan(shares.chance[0], shares.chance[2], color="0.85", label="random spaces, 90 %")
    right.plot(
        shares.loss, shares.share, MARKERS[0], color=COLOURS[0], label="AdamW, B = 0 at first",
        **MEASURED,
    )  # fmt: skip
    right.axvline(prediction.stages[-1].loss, color="black", lw=0.9, ls=(0, (4, 2)),
                  label="last saddle predicted")  # fmt: skip
    right.set(xlabel="training loss [nats]", ylabel="share in predicted directions")
    right.set_ylim(0.0, np.nextafter(1.0, 2.0))
    right.set_xscale("log")
    right.invert_xaxis()
    right.set_xticks(TICKS, [f"{loss:g}" for loss in TICKS])
    right.minorticks_off()
    right.set_title("what AdamW learns")
    right.legend(fontsize="x-small")
    return figure
