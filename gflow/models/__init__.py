"""Equinox models: callables on one example, tokens as rows."""

from .attention import (
    DiagonalAttention as DiagonalAttention,
    LinearAttention as LinearAttention,
    Residual as Residual,
    SoftmaxAttention as SoftmaxAttention,
)
from .deep_linear import DeepLinear as DeepLinear
from .linear import DiagonalLinear as DiagonalLinear, woodworth as woodworth
