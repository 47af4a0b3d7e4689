"""Equinox models: callables on one example, tokens as rows."""

from ._adapted import Adapted as Adapted
from ._attended import beyond_uniform as beyond_uniform
from ._attention import (
    DiagonalAttention as DiagonalAttention,
    LinearAttention as LinearAttention,
    Residual as Residual,
    SoftmaxAttention as SoftmaxAttention,
)
from ._block import Block as Block
from ._decoder import OneLayerDecoder as OneLayerDecoder
from ._deep_linear import DeepLinear as DeepLinear
from ._dense import Perceptron as Perceptron, RMSNorm as RMSNorm
from ._factored_linear import FactoredLinear as FactoredLinear
from ._in_context import MergedHeads as MergedHeads, SeparateHeads as SeparateHeads
from ._last_token import LastTokenTransformer as LastTokenTransformer
from ._linear import DiagonalLinear as DiagonalLinear, woodworth as woodworth
from ._linear_self_attention import LinearSelfAttention as LinearSelfAttention
from ._multi_head import MultiHeadAttention as MultiHeadAttention
from ._pooled import PooledTransformer as PooledTransformer
from ._sensing import MatrixSensing as MatrixSensing, SymmetricFactored as SymmetricFactored
from ._softmax_context import SoftmaxContextHeads as SoftmaxContextHeads
from ._transformer import Transformer as Transformer
from ._tuned import Tuned as Tuned
from ._vision import VisionTransformer as VisionTransformer
