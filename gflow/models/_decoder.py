"""One layer of attention from the last token, and logits of the next one."""

import equinox as eqx
from jaxtyping import Array, Float

from ..parameters._base import Weight
from ._attended import attended


class OneLayerDecoder(eqx.Module):
    r"""Logits of the next token: W_OV Xᵀ softmax(X W_KQ x), x the last of the tokens (rows) X.

    `ov` W_OV: (classes, d), `kq` W_KQ: (d, d), key first; any parameters, one of them often
    `gflow.Frozen`. A sequence of one token has the logits W_OV x, whatever W_KQ is.

    Huang, Liang, Yang 2024 (2409.17335), where W_OV is trained first, on pairs, and then W_KQ on
    sentences; data: `gflow.tasks.next_token`. Forces on W_KQ keep their digits when attention is
    all on one token.

    **Raises:** ValueError for shapes that do not chain.

    ```python
    model = gflow.models.OneLayerDecoder(gflow.Frozen(np.zeros((8, 8))), gflow.Scaled(W, 0.0))
    model(X)                                  # X: (tokens, 8) -> (classes,)
    ```
    """

    kq: Weight
    ov: Weight

    def __init__(self, kq: Weight, ov: Weight):
        inner, outer = kq.value.shape, ov.value.shape
        d = outer[-1] if len(outer) == 2 else 0
        if inner != (d, d):
            raise ValueError(
                f"OneLayerDecoder needs kq (d, d) and ov (classes, d); they are {inner}, {outer}."
            )
        self.kq, self.ov = kq, ov

    def __call__(self, x: Float[Array, "tokens d"]) -> Float[Array, " classes"]:
        return self.ov.value @ attended(x @ (self.kq.value @ x[-1]), x)
