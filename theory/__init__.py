"""What papers predict about gradient flow, and its comparison with simulation."""

from . import (
    assumptions as assumptions,
    gradual_rank as gradual_rank,
    plot as plot,
    saddle_to_saddle as saddle_to_saddle,
)
from .compare import (
    Comparison as Comparison,
    compare as compare,
    extrapolate as extrapolate,
)
from .prediction import Prediction as Prediction, Stage as Stage
