"""How figures of experiments look: one line style a meaning, one size of panel.

What is simulated is coloured, broad and pale; what is predicted is black, thin and dashed on top
of it; single measurements are open markers.
"""

import contextlib
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gflow.plot import COLOURS as COLOURS, STYLE

EXACT: dict[str, Any] = {"color": "black", "lw": 0.9, "ls": (0, (4, 2))}
SIMULATED: dict[str, Any] = {"lw": 2.2, "alpha": 0.55}
MEASURED: dict[str, Any] = {"ls": "", "mfc": "white", "ms": 4.5}
#: Beside the prediction: a bound, a limit, a place that does not attract.
DOTTED: dict[str, Any] = {"ls": (0, (1, 1.5)), "lw": 1.2}
#: Of an entry of the legend that stands for all colours.
ANY_COLOUR: dict[str, Any] = {"color": "0.4", **SIMULATED}
MARKERS = "osD^v"
TIME = "flow time $t$"


def context() -> contextlib.AbstractContextManager:
    """Sizes legible at one column's width; every experiment runs inside it."""
    return plt.rc_context(STYLE)


def figure(rows: int, columns: int, *, width: float = 3.5) -> tuple[Figure, np.ndarray]:
    """A figure of panels of `width` × 2.7 inches, and its axes: a row, a column or a table.

    ```python
    from theory.reproduce import style
    figure, (left, right) = style.figure(1, 2)
    figure, (ax,) = style.figure(1, 1)
    ```
    """
    size = (width * columns, 2.7 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    return figure, axes[0] if rows == 1 else axes[:, 0] if columns == 1 else axes


def entry(ax: Axes, label: str, line: dict, marker: str = "") -> None:
    """A line of the legend that stands for many lines of the panel."""
    ax.plot([], [], *([marker] if marker else []), label=label, **line)
