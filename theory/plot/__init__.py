"""Figures of predictions and comparisons. Each takes `ax=None` and returns the axes.

Measured curves are solid and coloured; predictions are black: dashed for the curve at
finite α, dotted for the limit α → 0, open circles for predicted values. Leaves differ in dashes as
well as in colour. A figure for one column of a page is `ONE_COLUMN` inches wide, for both
`TWO_COLUMNS`.
"""

from gflow.plot import COLOURS as COLOURS, ONE_COLUMN as ONE_COLUMN, TWO_COLUMNS as TWO_COLUMNS

from ._bands import band as band
from ._closed_forms import (
    beside_curve as beside_curve,
    beside_numbers as beside_numbers,
    comparison as comparison,
    curves as curves,
)
from ._common import (
    FINITE as FINITE,
    LIMIT as LIMIT,
    PREDICTED as PREDICTED,
    TIME_LABEL as TIME_LABEL,
    Judged as Judged,
    Measured as Measured,
    Predicted as Predicted,
    Restarted as Restarted,
)
from ._leaves import (
    ranks_with_times as ranks_with_times,
    spectrum_with_times as spectrum_with_times,
    weights_with_times as weights_with_times,
)
from ._residuals import residual_curve as residual_curve, residuals as residuals
from ._stages import (
    collapse as collapse,
    finite_grid as finite_grid,
    staircase as staircase,
)
from ._studies import convergence as convergence, restarts as restarts
