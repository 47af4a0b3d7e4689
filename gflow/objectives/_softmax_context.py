"""Softmax heads on prompts of regression: the surrogate of their loss over all prompts."""

from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._arguments import count
from ._in_context import checked_noise, checked_reduction


class SoftmaxContextRegression(eqx.Module):
    r"""Squared error of softmax heads over all prompts, as 2503.12734 approximates it.

    x ~ N(0, I_d), y = wᵀx + noise of variance σ², w ~ N(0, I/d), L pairs in context; the heads of
    `gflow.models.SoftmaxContextHeads` with a number ω_h each. With c = (1 + σ²)/L

        E(y − ŷ)² ≈ 1 + σ² − 2μᵀω + μᵀ(ωωᵀ + c exp(d ωωᵀ))μ       (entrywise exp)

    and the loss is half of it ("half_mean", the default) or all of it ("mean"). The two assume that
    a softmax is the ratio of its expectations (L large beside exp(dω²)), ‖x_q‖² = d, and y² of its
    mean whatever x is. Prompts of `gflow.tasks.in_context_regression(np.ones(d), L, noise=d * σ²)`
    are these times √d: their mean squared error is d times the one here, but for the approximation.

    **How near it is**, by 2·10⁵ prompts with σ² = 0.1 (± 0.4 %):

        d = 5, L = 40     one head at its optimum      0.372 here    0.408 sampled
                          a ± pair, ω = 0.1            0.221         0.242
                          a ± pair, ω = 0.4            0.232         0.256
                          a ± pair, ω = 0.8            0.445         0.399
        d = 5, L = 400    a ± pair, ω = 0.1, 0.8       0.114, 0.150  0.116, 0.156

    (μ of a pair is the best of the surrogate.) What it leaves out is O(1/L), even as ω → 0, where
    the loss is that of linear attention on centred pairs (`theory.linear_icl.softmax_linear_loss`)
    and 1/L = 1/40 of E y² adds up to a tenth of the loss; and from dω² ≈ 3 on it is no bound.

    **Clock:** the flow of "half_mean" has the time of `theory.linear_icl.softmax_creep` (τ = 1).

    **Arguments:** `dimension` d; `length` L; `noise` σ², the variance of the labels' noise.

    **Raises:** ValueError for d or L < 1, σ² < 0, an unknown reduction and, at the first call, a
    model whose key_query is not one number a head.

    ```python
    objective = gflow.objectives.SoftmaxContextRegression(5, 40, 0.1)
    gflow.simulate(SoftmaxContextHeads.small(2, log_epsilon=-7.0, pairs=True), objective, t1=1e4)
    ```
    """

    share: Float[Array, ""]
    top: Float[Array, ""]
    dimension: int = eqx.field(static=True)
    reduction: str = eqx.field(static=True)

    def __init__(
        self,
        dimension: int,
        length: int,
        noise: float = 0.0,
        reduction: Literal["half_mean", "mean"] = "half_mean",
    ):
        self.dimension = count("dimension", dimension, "the dimension d of the inputs")
        pairs = count("length", length, "the number L of pairs in a prompt")
        variance, self.reduction = checked_noise(noise), checked_reduction(reduction)
        dtype = jnp.result_type(float)
        self.share = jnp.asarray((1.0 + variance) / pairs, dtype)
        self.top = jnp.asarray(1.0 + variance, dtype)

    def __call__(self, model: Any) -> Float[Array, ""]:
        weights = (getattr(model, name, None) for name in ("value", "key_query"))
        mu, omega = (getattr(weight, "value", None) for weight in weights)
        if mu is None or omega is None or omega.ndim != 1 or mu.shape != omega.shape:
            shapes = "has none" if omega is None else f"has shape {omega.shape}"
            raise ValueError(
                "SoftmaxContextRegression reads value μ (H,) and key_query ω (H,) of "
                f"gflow.models.SoftmaxContextHeads; key_query of this {type(model).__name__} "
                f"{shapes}. Matrices are for SquaredLoss on the prompts of "
                "gflow.tasks.in_context_regression."
            )
        products = omega[:, None] * omega[None]
        kernel = products + self.share * jnp.exp(self.dimension * products)
        whole = self.top - 2.0 * mu @ omega + mu @ (kernel @ mu)
        return 0.5 * whole if self.reduction == "half_mean" else whole
