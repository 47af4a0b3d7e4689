"""Equinox models: callables on one example, tokens as rows."""

from .adapted import Adapted as Adapted
from .attention import (
    DiagonalAttention as DiagonalAttention,
    LinearAttention as LinearAttention,
    Residual as Residual,
    SoftmaxAttention as SoftmaxAttention,
)
from .deep_linear import DeepLinear as DeepLinear
from .factored_linear import FactoredLinear as FactoredLinear
from .last_token import LastTokenTransformer as LastTokenTransformer
from .linear import DiagonalLinear as DiagonalLinear, woodworth as woodworth
from .sensing import MatrixSensing as MatrixSensing, SymmetricFactored as SymmetricFactored
from .transformer import Transformer as Transformer
