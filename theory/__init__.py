"""What papers predict about gradient flow, and its comparison with simulation."""

from . import gradual_rank as gradual_rank, saddle_to_saddle as saddle_to_saddle
from .compare import (
    Comparison as Comparison,
    compare as compare,
    extrapolate as extrapolate,
)
from .prediction import Prediction as Prediction, Stage as Stage
