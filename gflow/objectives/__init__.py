"""Scalar losses of a model: functions of its effective weights, without decay."""

from ._losses import (
    MarginLoss as MarginLoss,
    SquaredLoss as SquaredLoss,
)
