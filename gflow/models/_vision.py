"""A vision transformer: an image in patches to logits of its class."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._arguments import lengths
from ._block import NORM, Block, MakeAttention, blocks, multi_head, normalised
from ._dense import affine, check_sizes, gaussian


class VisionTransformer(eqx.Module):
    r"""ViT: patches of an image as tokens, transformer blocks, logits of the mean token.

        X = patches(image) Eᵀ + b + positions
        X ← X + attention(norm(X)),   X ← X + MLP(norm(X))
        logits = W_out mean(norm(X)) + b_out

    Images are (height, width) or (height, width, channels). Patches are squares of `patch` pixels,
    row after row, their pixels row after row with the channels innermost. Every token sees all
    tokens. Dosovitskiy et al. 2021 (2010.11929); norms here have no parameters.

    **Arguments:** what can be absent is None (`hidden`: no MLP; `norm`) or False (`positions`;
    `residual`; `bias`, of embedding, MLPs and readout). `class_token=True` puts a trained token
    before the patches and reads it in place of the mean. `attention`: a function (number of the
    layer, key) ↦ module in place of plain `MultiHeadAttention` of `heads` and `head_width`; it
    takes (tokens, d) to (tokens, d).

    **Raises:** ValueError for sizes below 1, a patch that does not divide the image; at a call,
    for an image of another shape.

    ```python
    def attention(layer, key):
        kq, vo = (gflow.Factored.small((2, 16, 16), 8, log_alpha=-230, key=k)
                  for k in jax.random.split(key))
        return gflow.models.SoftmaxAttention(kq, vo)

    vit = gflow.models.VisionTransformer(
        (8, 8), patch=2, classes=10, d=16, attention=attention, key=jax.random.key(0))
    vit(image)                                     # (8, 8) -> (10,)
    ```
    """

    embedding: Float[Array, "... d pixels"]
    embedding_bias: Float[Array, "... d"] | None
    class_token: Float[Array, "... d"] | None
    positions: Float[Array, "... tokens d"] | None
    layers: tuple[Block, ...]
    readout: Float[Array, "... classes d"]
    readout_bias: Float[Array, "... classes"] | None
    norm: eqx.Module | None
    image: tuple[int, ...] = eqx.field(static=True)
    patch: int = eqx.field(static=True)

    def __init__(
        self,
        image: tuple[int, ...],
        patch: int,
        classes: int,
        *,
        d: int = 32,
        heads: int = 2,
        head_width: int = 16,
        hidden: int | None = 64,
        layers: int = 2,
        attention: MakeAttention | None = None,
        norm: eqx.Module | None = NORM,
        residual: bool = True,
        bias: bool = True,
        positions: bool = True,
        class_token: bool = False,
        key: PRNGKeyArray,
    ):
        check_sizes(self, patch=patch, classes=classes, d=d, layers=layers)
        self.image, self.patch = lengths("image", image), patch
        rows, columns, channels = _sides(self.image, patch)
        pixels, tokens = patch * patch * channels, rows * columns + class_token
        keys = jax.random.split(key, layers + 4)
        self.embedding = gaussian(keys[0], (d, pixels), pixels)
        self.positions = jax.random.normal(keys[1], (tokens, d)) if positions else None
        self.class_token = jax.random.normal(keys[2], (d,)) if class_token else None
        self.readout = gaussian(keys[3], (classes, d), d)
        self.embedding_bias, self.readout_bias = (
            jnp.zeros(n) if bias else None for n in (d, classes)
        )
        make = attention or multi_head(d, heads, head_width, causal=False)
        self.layers = blocks(keys[4:], make, d, hidden, norm=norm, residual=residual, bias=bias)
        self.norm = norm

    def embedded(self, image: Float[Array, "height width ..."]) -> Float[Array, "tokens d"]:
        """The tokens that come to the first layer."""
        if image.shape != self.image:
            raise ValueError(
                f"The image has shape {image.shape}, and this VisionTransformer reads images of "
                f"shape {self.image}: give one of these, or build it with image={image.shape}."
            )
        x = affine(patches(image, self.patch), self.embedding, self.embedding_bias)
        if self.class_token is not None:
            x = jnp.concatenate([self.class_token[None], x])
        if self.positions is not None:
            x = x + self.positions
        return x

    def __call__(self, image: Float[Array, "height width ..."]) -> Float[Array, " classes"]:
        x = self.embedded(image)
        for layer in self.layers:
            x = layer(x)
        return self.read(x)

    def read(
        self, tokens: Float[Array, "tokens d"], counts: Float[Array, " tokens"] | None = None
    ) -> Float[Array, " classes"]:
        """Logits of the tokens that come from the last layer, each of which counts as many."""
        x = normalised(tokens, self.norm)
        if self.class_token is None:
            x = jnp.mean(x, axis=0) if counts is None else counts @ x / jnp.sum(counts)
        else:
            x = x[0]
        return affine(x, self.readout, self.readout_bias)


def patches(image: Float[Array, "height width ..."], patch: int) -> Float[Array, "patches pixels"]:
    rows, columns, channels = _sides(image.shape, patch)
    grid = image.reshape(rows, patch, columns, patch, channels)
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * columns, patch * patch * channels)


def _sides(image: tuple[int, ...], patch: int) -> tuple[int, int, int]:
    """Patches in a column and in a row, and channels."""
    if len(image) not in (2, 3) or min(image) < 1:
        raise ValueError(
            f"image = {image}: give its (height, width) or (height, width, channels), each at "
            "least 1."
        )
    if image[0] % patch or image[1] % patch:
        raise ValueError(
            f"patch = {patch} does not divide the image of {image[0]} × {image[1]} pixels: choose "
            "a divisor of both sides."
        )
    return image[0] // patch, image[1] // patch, image[2] if len(image) == 3 else 1
