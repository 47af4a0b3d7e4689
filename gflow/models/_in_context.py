"""Linear attention on prompts of regression, with value and key-query weights a number a head."""

from abc import abstractmethod
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from ..parameters._base import Weight
from ..parameters._scaled import Scaled

#: In place of a label: units for heads of rank one, and none for a higher rank.
BY_RANK = "by rank"


class _Heads(eqx.Module):
    """ŷ = βᵀM x_q for a matrix M made of heads."""

    value: eqx.AbstractVar[Weight]

    @abstractmethod
    def matrix(self) -> Float[Array, "D D"]:
        """M."""

    def __call__(self, prompt: Float[Array, "tokens columns"]) -> Float[Array, ""]:
        m = self.matrix()
        if prompt.ndim != 2 or prompt.shape[1] != len(m) + 1 or len(prompt) < 2:
            raise ValueError(
                f"A prompt of shape {prompt.shape} meets a matrix of shape {m.shape}: tokens are "
                f"rows (x, y) of {len(m)} + 1 numbers, N pairs and then the query, whose y is not "
                "read."
            )
        x, y = prompt[:-1, :-1], prompt[:-1, -1]
        beta = (y @ x) / len(y)
        return (beta @ m) @ prompt[-1, :-1]


class MergedHeads(_Heads):
    r"""Linear attention whose key and query are one matrix a head: ŷ = Σ_i v_i βᵀU_i x_q.

    On a prompt of tokens (rows) (x_1, y_1) … (x_N, y_N), (x_q, ·), β = (1/N) Σ y_n x_n, so that
    ŷ = βᵀM x_q with `.matrix()` M = Σ v_i U_i. `value` v: (H,), `key_query` U: (H, D, D), any
    parameters, best `gflow.Scaled` where they start small. It is the bottom right entry of
    Σ_i (1/N) V_i X Xᵀ KQ_i X of linear attention, once the blocks that mix x and y are zero, where
    they stay.

    The origin is a saddle of order two, left at the rate ‖Λ²‖ by all of M at once.

    **Raises:** ValueError for other shapes and, at the first call, a prompt that does not fit.

    Zhang, Singh, Latham, Saxe 2025 (2501.16265), ATTN_M; theory: `theory.linear_icl`.

    ```python
    model = gflow.models.MergedHeads.small(4, 8, log_epsilon=-13.8, key=key)
    objective = gflow.objectives.InContextRegression([0.4, 0.3, 0.2, 0.1], 31)
    model(prompt), model.matrix()             # prompt: (N + 1, 5) -> a number; (4, 4)
    ```
    """

    value: Weight
    key_query: Weight

    def __init__(self, value: Weight, key_query: Weight):
        v, u = value.value.shape, key_query.value.shape
        if len(v) != 1 or len(u) != 3 or u[0] != v[0] or u[1] != u[2]:
            raise ValueError(
                f"MergedHeads needs value (H,) and key_query (H, D, D); they are {v} and {u}."
            )
        self.value, self.key_query = value, key_query

    @classmethod
    def small(
        cls, d: int, heads: int, *, log_epsilon: ArrayLike, key: PRNGKeyArray
    ) -> "MergedHeads":
        """Every entry of v and U drawn from N(0, ε²), log_epsilon = log ε, as `Scaled` leaves."""
        return cls(*_drawn(key, log_epsilon, (heads,), (heads, d, d)))

    @classmethod
    def aligned(
        cls, covariance: ArrayLike | Sequence[float], heads: int, *, log_epsilon: ArrayLike,
        key: PRNGKeyArray,
    ) -> "MergedHeads":  # fmt: skip
        """v = ε r, U_i = ε r_i Λ²/‖Λ²‖ with a random ‖r‖ = 1: the growing mode and nothing else.

        `covariance` Λ: (D, D), or its eigenvalues (D,).
        """
        covariance = jnp.asarray(covariance, jnp.result_type(float))
        force = jnp.diag(covariance**2) if covariance.ndim == 1 else covariance @ covariance
        r = jax.random.normal(key, (heads,))
        r = r / jnp.linalg.norm(r)
        u = r[:, None, None] * (force / jnp.linalg.norm(force))[None]
        return cls(Scaled(r, log_epsilon), Scaled(u, log_epsilon))

    def matrix(self) -> Float[Array, "D D"]:
        """M = Σ v_i U_i."""
        return jnp.tensordot(self.value.value, self.key_query.value, 1)


class SeparateHeads(_Heads):
    r"""Linear attention of rank R with separate key and query: ŷ = Σ_i v_i βᵀK_iᵀQ_i x_q.

    Prompts as of `MergedHeads`; `.matrix()` is M = Σ v_i K_iᵀQ_i. `value` v: (H,), `key` K and
    `query` Q: (H, R, D), any parameters, best `gflow.Scaled` where they start small. It takes
    R H ≥ D to reach every M.

    Three factors meet in M: the origin, and every saddle after it, is of order three and left
    after a time 1/ε, one eigenvector of the covariance after the other. Heads of rank one that are
    bound to units (`small`) are followed through all of them from any ε.

    **Raises:** ValueError for other shapes, R > D and, at the first call, a prompt that does not
    fit.

    Zhang, Singh, Latham, Saxe 2025 (2501.16265), ATTN_S; theory: `theory.linear_icl`, whose k and
    q are (H, D, R), `np.swapaxes(key, 1, 2)`.

    ```python
    model = gflow.models.SeparateHeads.small(4, 5, 1, log_epsilon=-4.6, key=key)
    objective = gflow.objectives.InContextRegression([0.4, 0.3, 0.2, 0.1], 31)
    ```
    """

    value: Weight
    key: Weight
    query: Weight

    def __init__(self, value: Weight, key: Weight, query: Weight):
        v, k, q = (w.value.shape for w in (value, key, query))
        if len(v) != 1 or len(k) != 3 or k != q or k[0] != v[0]:
            raise ValueError(
                f"SeparateHeads needs value (H,), key and query (H, R, D); they are {v}, {k} and "
                f"{q}."
            )
        if k[1] > k[2]:
            raise ValueError(
                f"SeparateHeads has key and query of shape {k}: the rank R = {k[1]} of a head is "
                f"at most D = {k[2]}, beyond which it adds nothing."
            )
        self.value, self.key, self.query = value, key, query

    @classmethod
    def small(
        cls, d: int, heads: int, rank: int = 1, *, log_epsilon: ArrayLike, key: PRNGKeyArray,
        units: str | None = BY_RANK,
    ) -> "SeparateHeads":  # fmt: skip
        """Every entry of v, K, Q drawn from N(0, ε²), log_epsilon = log ε, as `Scaled` leaves.

        `units`: the label that binds v[h], K[h], Q[h] to one unit (`gflow.Scaled`), with which
        `gflow.simulate` follows all drops, from ε = 1e-100 as well; None leaves plain weights,
        which decay can act on. Not given: "heads" for rank one and None for a higher one, of which
        a unit would hide modes.
        """
        shape = (heads, rank, d)
        label = units if units != BY_RANK else "heads" if rank == 1 else None
        return cls(*_drawn(key, log_epsilon, (heads,), shape, shape, units=label))

    def matrix(self) -> Float[Array, "D D"]:
        """M = Σ v_i K_iᵀQ_i."""
        k = self.key.value
        weighted = self.value.value[:, None, None] * k
        return jnp.tensordot(weighted, self.query.value, ((0, 1), (0, 1)))


def _drawn(
    key: PRNGKeyArray, log_size: ArrayLike, *shapes: tuple[int, ...], units: str | None = None
) -> list[Scaled]:
    keys = jax.random.split(key, len(shapes))
    return [
        Scaled(jax.random.normal(k, shape), log_size, units=units)
        for k, shape in zip(keys, shapes, strict=True)
    ]
