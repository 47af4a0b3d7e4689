"""Plain layers that act token by token: a two-layer perceptron and a norm."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._arguments import count


def check_sizes(module: eqx.Module, **sizes: int) -> None:
    for name, size in sizes.items():
        count(name, size, f"a size of the {type(module).__name__}")


def gaussian(key: PRNGKeyArray, shape: tuple[int, ...], inputs: int) -> Array:
    """Variance 1/inputs, so that a unit vector keeps its size on average."""
    return jax.random.normal(key, shape) / math.sqrt(inputs)


def affine(
    x: Float[Array, "*batch inputs"],
    weight: Float[Array, "outputs inputs"],
    bias: Float[Array, " outputs"] | None,
) -> Float[Array, "*batch outputs"]:
    """x Wᵀ + b, of every row of x."""
    y = x @ weight.T
    return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


class Perceptron(eqx.Module):
    r"""Two layers with a GELU between them, token by token: X ↦ gelu(X Wᵀ + b) Vᵀ + c.

    `inner` = W (hidden, d) and `outer` = V (d, hidden) are Gaussian with variance 1 over the
    number of their inputs; with `bias` there are b and c, which start at zero.

    **Raises:** ValueError for sizes below 1.

    ```python
    gflow.models.Perceptron(8, 32, key=jax.random.key(0))(X)     # X: (tokens, 8) -> (tokens, 8)
    ```
    """

    inner: Float[Array, "... hidden d"]
    outer: Float[Array, "... d hidden"]
    inner_bias: Float[Array, "... hidden"] | None
    outer_bias: Float[Array, "... d"] | None

    def __init__(self, d: int, hidden: int, *, bias: bool = False, key: PRNGKeyArray):
        check_sizes(self, d=d, hidden=hidden)
        keys = jax.random.split(key)
        self.inner = gaussian(keys[0], (hidden, d), d)
        self.outer = gaussian(keys[1], (d, hidden), hidden)
        self.inner_bias, self.outer_bias = (jnp.zeros(n) if bias else None for n in (hidden, d))

    def __call__(self, x: Float[Array, "tokens d"]) -> Float[Array, "tokens d"]:
        return affine(
            jax.nn.gelu(affine(x, self.inner, self.inner_bias)), self.outer, self.outer_bias
        )


class RMSNorm(eqx.Module):
    r"""Every token over its root mean square: x ↦ x/√(mean x² + 10⁻⁶). It has no parameters.

    ```python
    gflow.models.RMSNorm()(X)                                    # X: (tokens, d) -> (tokens, d)
    ```
    """

    def __call__(self, x: Float[Array, "tokens d"]) -> Float[Array, "tokens d"]:
        return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)
