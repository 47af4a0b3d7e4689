"""Equinox models: callables on one example, tokens as rows."""

from .attention import DiagonalAttention as DiagonalAttention, Residual as Residual
from .linear import DiagonalLinear as DiagonalLinear, woodworth as woodworth
