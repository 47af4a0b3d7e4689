"""Deep linear network: a product of matrices."""

import functools
import itertools
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .._alpha import one_log_alpha
from ..parameters._base import Parameter
from ..parameters._scaled import Scaled


class DeepLinear(eqx.Module):
    r"""x ↦ W_L ⋯ W₁x for weights (W₁, …, W_L), first layer first.

    Weights are arrays or any `gflow.Parameter` (read through `.value`), of any widths; layer
    l + 1 takes what layer l gives. `.product` is the matrix W_L ⋯ W₁. With inputs I and
    targets Σᵀ, `SquaredLoss(..., reduction="half_sum")` is ½‖Σ − W_L ⋯ W₁‖².

    **Raises:** ValueError for no weights, weights that are not matrices or do not chain.

    `small` draws matrices that are followed through every saddle from any scale.

    Saxe, McClelland, Ganguli 2014 (1312.6120); exact solutions: `theory.exact_linear`.

    ```python
    model = gflow.models.DeepLinear((w1, w2))      # (h, i), (o, h)
    model(x)                                       # x: (i,) -> (o,)
    objective = gflow.objectives.SquaredLoss(jnp.eye(i), target.T, reduction="half_sum")
    model = gflow.models.DeepLinear.small((i, h, h, o), log_alpha=-230.26, key=key)
    ```
    """

    weights: tuple[Float[Array, "_ _"] | Parameter, ...]

    def __init__(self, weights: Sequence[ArrayLike | Parameter]):
        self.weights = tuple(w if isinstance(w, Parameter) else jnp.asarray(w) for w in weights)
        if not self.weights:
            raise ValueError("DeepLinear(weights) needs at least one matrix.")
        shapes = [matrix.shape for matrix in self._matrices()]
        for number, shape in enumerate(shapes, 1):
            if len(shape) != 2:
                raise ValueError(f"Weight {number} of DeepLinear has shape {shape}: not a matrix.")
        for number, (below, above) in enumerate(itertools.pairwise(shapes), 1):
            if above[1] != below[0]:
                raise ValueError(
                    f"Weight {number} of DeepLinear has shape {below} and weight {number + 1} "
                    f"has {above}: layers do not chain. The first layer comes first, and its "
                    f"{below[0]} rows must be the columns of the next."
                )

    @classmethod
    def small(
        cls,
        widths: Sequence[int],
        *,
        log_alpha: ArrayLike | None = None,
        alpha: ArrayLike | None = None,
        log10_alpha: ArrayLike | None = None,
        key: PRNGKeyArray,
        scale: float = 1.0,
    ) -> "DeepLinear":
        """Gaussian matrices of entries α·scale, from the inputs of `widths` to its outputs.

        They are `gflow.Scaled` leaves that meet at interfaces "h1", "h2", …, for three layers and
        more: their modes leave the origin one after another after times ∝ α^{2−L} (τ of a run is
        α^{L−2} t), which `gflow.simulate` follows from any α down to 1e-146 (L = 3) or 1e-97 (4).
        Two layers are `gflow.models.FactoredLinear.small`. α is given as `log_alpha` (natural
        logarithm), `log10_alpha` or `alpha`.

        **Raises:** ValueError for fewer than three layers.
        """
        log_alpha = one_log_alpha(log_alpha, alpha, log10_alpha)
        count = len(widths) - 1
        if count < 3:
            raise ValueError(
                f"DeepLinear.small(widths={tuple(widths)!r}) has {max(count, 0)} layers; it is for "
                "three and more. Two: gflow.models.FactoredLinear.small."
            )
        names = [None, *(f"h{k}" for k in range(1, count)), None]
        return cls(
            [
                Scaled(
                    scale * jax.random.normal(k, (after, before)), log_alpha,
                    interfaces=(names[i + 1], names[i]),
                )
                for i, (k, (before, after)) in enumerate(
                    zip(jax.random.split(key, count), itertools.pairwise(widths), strict=True)
                )
            ]
        )  # fmt: skip

    def _matrices(self) -> list[Array]:
        return [w.value if isinstance(w, Parameter) else w for w in self.weights]

    @property
    def product(self) -> Float[Array, "o i"]:
        """The end-to-end matrix W_L ⋯ W₁."""
        return functools.reduce(lambda below, above: above @ below, self._matrices())

    def __call__(self, x: Float[Array, " i"]) -> Float[Array, " o"]:
        for matrix in self._matrices():
            x = matrix @ x
        return x
