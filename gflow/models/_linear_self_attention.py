"""Linear self-attention with all of its blocks, on prompts of regression."""

import equinox as eqx
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from ..parameters._base import Weight
from ..parameters._scaled import Scaled


class LinearSelfAttention(eqx.Module):
    r"""Linear self-attention with full value and key–query matrices, read at the query's label.

        f(E) = E + Σ_h W^PV_h E Eᵀ W^KQ_h E / N,      ŷ = the bottom right entry

    in the papers' columns: E = [[x_1 … x_N, x_q], [y_1 … y_N, 0]], which here are the rows of a
    prompt, tokens (x, y), the query last; its label is not read. `value` W^PV, `key_query` W^KQ:
    (D + 1, D + 1), or (H, D + 1, D + 1) of heads; any parameters, best `gflow.Scaled` where they
    start small. With S = EEᵀ/N over all N + 1 tokens,

        ŷ = Σ_abc S_ab T_abc x_q,c,   T_abc = Σ_h W^PV_h[y, a] W^KQ_h[b, c]       (`tensor`)

    so that of W^PV the last row is read, and of W^KQ all columns but the last. Blocks that mix x
    and y, W^PV[y, x] and W^KQ[y, x], stay zero over prompts whose tasks average to zero; then
    ŷ = βᵀM x_q with `.matrix()` M = Σ W^PV_22 W^KQ_11, as of `MergedHeads`. In the symbols of
    `LinearAttention` it is X + f(X) with kq = W^KQᵀ, vo = W^PVᵀ and scale 1/N.

    **Raises:** ValueError for other shapes and, at the first call, a prompt that does not fit.

    Zhang, Frei, Bartlett 2024 (2306.09927); Zhang, Singh, Latham, Saxe 2025 (2501.16265), ATTN_M.
    Losses over all prompts: `gflow.objectives.InContextRegression` where the mixed blocks are zero,
    `gflow.objectives.SharedTaskRegression` for any. Theory: `theory.linear_icl`.

    ```python
    model = gflow.models.LinearSelfAttention.small(np.eye(4), log_sigma=-5.0)
    objective = gflow.objectives.InContextRegression([0.4, 0.3, 0.2, 0.1], 31)
    gflow.simulate(model, objective, t1=2000.0).final.matrix()      # → Γ⁻¹
    ```
    """

    value: Weight
    key_query: Weight

    def __init__(self, value: Weight, key_query: Weight):
        v, u = value.value.shape, key_query.value.shape
        if v != u or len(v) not in (2, 3) or v[-1] != v[-2] or v[-1] < 2:
            raise ValueError(
                "LinearSelfAttention needs value and key_query of one shape, (D + 1, D + 1) or "
                f"(H, D + 1, D + 1); they are {v} and {u}."
            )
        self.value, self.key_query = value, key_query

    @classmethod
    def small(cls, theta: ArrayLike, *, log_sigma: ArrayLike) -> "LinearSelfAttention":
        r"""The start of 2306.09927, as `Scaled` leaves of log-size log σ.

            W^PV = σ [[0, 0], [0, 1]],   W^KQ = σ [[ΘΘᵀ, 0], [0, 0]],   ‖ΘΘᵀ‖_F = 1

        `theta` Θ: (D, D) or (D, r), brought to that norm. The paper asks for ΘΛ ≠ 0.
        """
        theta = np.asarray(theta, float)
        if theta.ndim != 2 or not np.all(np.isfinite(theta)) or not np.any(theta):
            raise ValueError(
                f"theta has shape {theta.shape}: give a finite matrix Θ ≠ 0 of D rows, such as "
                "np.eye(D)."
            )
        top = np.max(np.abs(theta))
        square = (theta / top) @ (theta / top).T
        value, key_query = np.zeros((2, len(square) + 1, len(square) + 1))
        value[-1, -1] = 1.0
        key_query[:-1, :-1] = square / np.linalg.norm(square)
        return cls(Scaled(value, log_sigma), Scaled(key_query, log_sigma))

    def tensor(self) -> Float[Array, "D1 D1 D"]:
        """T of ŷ = Σ S_ab T_abc x_q,c."""
        value, key_query = self._read()
        return jnp.tensordot(value, key_query, ((0,), (0,)))

    def matrix(self) -> Float[Array, "D D"]:
        """M of ŷ = βᵀM x_q.

        **Raises:** ValueError where a mixed block is not zero, for which there is no M; within
        compiled code, which cannot raise, it is NaN then.
        """
        value, key_query = self._read()
        m = jnp.tensordot(value[:, -1], key_query[:, :-1], 1)
        mixed = jnp.any(value[:, :-1] != 0.0) | jnp.any(key_query[:, -1] != 0.0)
        if isinstance(mixed, jax.core.Tracer):
            return jnp.where(mixed, jnp.nan, m)
        if mixed:
            raise ValueError(
                "LinearSelfAttention has blocks W^PV[y, x] or W^KQ[y, x] that are not zero: ŷ is "
                "then no βᵀM x_q. Take tensor(), whose loss over all prompts is "
                "gflow.objectives.SharedTaskRegression (share=0.0: every prompt its own task)."
            )
        return m

    def __call__(self, prompt: Float[Array, "tokens columns"]) -> Float[Array, ""]:
        value, key_query = self._read()
        if prompt.ndim != 2 or prompt.shape[1] != value.shape[1] or len(prompt) < 2:
            raise ValueError(
                f"A prompt of shape {prompt.shape} meets matrices of shape "
                f"{self.value.value.shape}: tokens are rows (x, y) of {value.shape[1]} numbers, N "
                "pairs and then the query, whose y is not read."
            )
        tokens = prompt.at[-1, -1].set(0.0)
        keys = (key_query @ prompt[-1, :-1]) @ tokens.T  # (H, tokens)
        values = value @ tokens.T
        return jnp.sum(keys * values) / (len(prompt) - 1)

    def _read(self) -> tuple[Float[Array, "H D1"], Float[Array, "H D1 D"]]:
        """What ŷ depends on: the last row of every W^PV, all but the last column of W^KQ."""
        v, u = self.value.value, self.key_query.value
        v, u = (x if x.ndim == 3 else x[None] for x in (v, u))
        return v[:, -1], u[:, :, :-1]
