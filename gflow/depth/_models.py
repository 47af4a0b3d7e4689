"""The layers of the transformers of `gflow.models`, as blocks."""

import jax.numpy as jnp

from ..models._block import Block as Layer
from ..models._multi_head import MultiHeadAttention
from ..models._transformer import Transformer
from ..models._vision import VisionTransformer
from ._attention import Attention
from ._blocks import Block, Chain, Residual
from ._plain import Plain


def layers_of(model: VisionTransformer | Transformer) -> tuple[Block, ...]:
    r"""The layers of a transformer as blocks, one a layer, with all digits of its tokens.

    Attention becomes `Attention`, which counts merged tokens (`Merge`); norms and perceptrons are
    followed by their derivatives (`Plain`).

    **Raises:** ValueError for a model without such layers, and attention other than
    `gflow.models.MultiHeadAttention`.

    ```python
    vit = gflow.models.VisionTransformer((8, 8), patch=2, classes=10, layers=12, key=key)
    depth.follow(depth.layers_of(vit), vit.embedded(image))
    ```
    """
    layers = getattr(model, "layers", None)
    if not isinstance(layers, tuple) or not all(isinstance(x, Layer) for x in layers):
        raise ValueError(
            f"{type(model).__name__} has no layers of attention and perceptrons: give a "
            "gflow.models.VisionTransformer or Transformer, or write the blocks."
        )
    return tuple(_block(layer) for layer in layers)


def _block(layer: Layer) -> Block:
    parts: list[Block] = []
    for part in (layer.attention, layer.perceptron):
        if part is None:
            continue
        inner = _attention(part) if part is layer.attention else Plain(part)  # pyright: ignore[reportArgumentType]
        if layer.norm is not None:
            inner = Chain((Plain(layer.norm), inner))  # pyright: ignore[reportArgumentType]
        parts.append(Residual(inner) if layer.residual else inner)
    return Chain(tuple(parts))


def _attention(part) -> Attention:
    if not isinstance(part, MultiHeadAttention):
        raise ValueError(
            f"The attention of a layer is {type(part).__name__}, and layers_of takes "
            "MultiHeadAttention: write the blocks, with depth.attend."
        )
    query, key, value = (x.swapaxes(-1, -2) for x in (part.query, part.key, part.value))
    combined = jnp.einsum("hdk,hek->hde", value, part.output)
    return Attention(query, key, combined, causal=part.causal)
