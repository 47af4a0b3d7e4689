"""One linear layer whose matrix is a product, with or without a frozen base (LoRA)."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .._alpha import one_log_alpha
from ..parameters._base import Frozen, Parameter
from ..parameters._factored import Factored


class FactoredLinear(eqx.Module):
    r"""x ↦ (W₀ + A Bᵀ) x: a linear map whose trained part is a product of two factors.

    `weight` is A Bᵀ, best a `gflow.Factored` (any parameter of shape (o, i) will do); `base`
    is W₀, frozen, 0 without one. `.matrix` is W₀ + A Bᵀ. Flow time is that of the factors,
    A' = GB and B' = GᵀA with G = −∂L/∂(matrix), from any scale: `small` draws both factors at
    α, `lora` starts at A = 0, hence at W₀ itself.

    In LoRA's names W₀ + BA its B is our left factor A and its A our Bᵀ. Two layers W₂W₁ of a
    linear network are left = W₂, right = W₁ᵀ; with inputs I and targets Σᵀ,
    `SquaredLoss(..., reduction="half_sum")` is ½‖Σ − matrix‖².

    **Raises:** ValueError for a weight that is not one matrix, or a base of another shape or
    that is trained.

    LoRA: Hu et al. 2021 (2106.09685).

    ```python
    model = gflow.models.FactoredLinear.small((4, 6), 2, log_alpha=-230.26, key=key)
    model(jnp.ones(6)), model.matrix               # (4,), (4, 6)
    model = gflow.models.FactoredLinear.lora(base, 2, log_alpha=-7.0, key=key)
    ```
    """

    weight: Parameter
    base: Frozen | None

    def __init__(self, weight: Parameter, *, base: ArrayLike | Parameter | None = None):
        shape = weight.value.shape
        if len(shape) != 2:
            raise ValueError(
                f"FactoredLinear needs one matrix, and weight.value has shape {shape}. Take a "
                "weight without axes of heads."
            )
        if base is not None:
            base = _frozen(base)
            if base.value.shape != shape:
                raise ValueError(
                    f"The base of FactoredLinear has shape {base.value.shape} and weight.value "
                    f"{shape}: W₀ and A Bᵀ are added up and must have one shape."
                )
        self.weight, self.base = weight, base

    @classmethod
    def small(
        cls,
        shape: tuple[int, int],
        rank: int,
        *,
        log_alpha: ArrayLike | None = None,
        alpha: ArrayLike | None = None,
        log10_alpha: ArrayLike | None = None,
        key: PRNGKeyArray,
        base: ArrayLike | Parameter | None = None,
    ) -> "FactoredLinear":
        """Gaussian factors of size α for a matrix of `shape` (o, i) and `rank` columns.

        α is given as `log_alpha` (natural logarithm), `log10_alpha` or `alpha`.
        """
        log_alpha = one_log_alpha(log_alpha, alpha, log10_alpha)
        return cls(Factored.small(shape, rank, log_alpha=log_alpha, key=key), base=base)

    @classmethod
    def lora(
        cls,
        base: ArrayLike | Parameter,
        rank: int,
        *,
        log_alpha: ArrayLike | None = None,
        alpha: ArrayLike | None = None,
        log10_alpha: ArrayLike | None = None,
        key: PRNGKeyArray,
    ) -> "FactoredLinear":
        """LoRA's start: left = 0 and a Gaussian right factor of size α, so that matrix = W₀.

        α is given as `log_alpha` (natural logarithm), `log10_alpha` or `alpha`.
        """
        log_alpha = one_log_alpha(log_alpha, alpha, log10_alpha)
        base = _frozen(base)
        if base.value.ndim != 2:
            raise ValueError(
                f"The base of FactoredLinear has shape {base.value.shape}: give a matrix (o, i)."
            )
        weight = Factored.small(base.value.shape, rank, log_alpha=log_alpha, key=key)
        nothing = jnp.zeros_like(weight.left)
        return cls(Factored(nothing, weight.right, log_scale=log_alpha), base=base)

    @property
    def matrix(self) -> Float[Array, "o i"]:
        """The matrix of the map, W₀ + A Bᵀ."""
        return self.weight.value if self.base is None else self.base.value + self.weight.value

    def __call__(self, x: Float[Array, " i"]) -> Float[Array, " o"]:
        return self.matrix @ x


def _frozen(base: ArrayLike | Parameter) -> Frozen:
    if isinstance(base, Frozen):
        return base
    if isinstance(base, Parameter):
        raise ValueError(
            f"The base of FactoredLinear is frozen, and a {type(base).__name__} is trained. Pass "
            "base=base.value."
        )
    return Frozen(base)
