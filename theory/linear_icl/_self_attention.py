r"""Linear self-attention in its blocks u = W^PV_22, U = W^KQ_11: where one head comes to rest."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .._arguments import Numbers, real_array
from ._problem import problem


class SelfAttentionLimit(NamedTuple):
    """u and the eigenvalues of U at rest, and E(y − ŷ)² there."""

    value: Float[np.ndarray, ""]
    key_query: Float[np.ndarray, " D"]
    loss: float


def self_attention_limit(
    eigenvalues: Numbers, context: float, *, balance: Numbers = 0.0, noise: float = 0.0
) -> SelfAttentionLimit:
    r"""(u∞, U∞, loss) of one head of linear self-attention, from any start that leaves zero.

        u' = tr(UᵀΛ²) − u tr(ΓΛ U Λ Uᵀ),   U' = uΛ² − u² ΓΛ U Λ,   Γ = Λ + (Λ + tr Λ + σ²)/N

    keeps c = u² − ‖U‖² and comes to uU = Γ⁻¹, so that u∞² = ½(c + √(c² + 4 tr Γ⁻²)). From the start
    of the paper (`gflow.models.LinearSelfAttention.small`) c = 0:

        u∞ = (tr Γ⁻²)^{1/4},   U∞ = (tr Γ⁻²)^{−1/4} Γ⁻¹,   L∞ = tr Λ + σ² − tr(Λ²Γ⁻¹)

    and on a test prompt of any length M' it is ŷ = x_qᵀ Γ⁻¹ (1/M') Σ y_i x_i: Γ has the N of
    training.

    **Arguments:** `eigenvalues` (D,), positive, `context` N, `balance` c (a number), `noise` σ².
    −u, −U is the same predictor; a small start goes there where u + ⟨U, Λ²⟩/‖Λ²‖ < 0.

    **Returns:** a named tuple (value, key_query, loss); key_query in the order of `eigenvalues`.

    **Raises:** ValueError for eigenvalues that are not positive, N < 1, float32.
    **Regime:** exact, zero mixed blocks; the paper asks for σ²‖Γ‖√D < 2 at the start. **Source:**
    2306.09927, Theorem 4.1; any c and noise are of this package.

    ```python
    self_attention_limit([0.4, 0.3, 0.2, 0.1], 31).value        # 3.0…
    ```
    """
    found, c = problem(eigenvalues, context, noise), real_array(balance, "balance")
    if c.ndim or np.any(found.eigenvalues <= 0.0):
        raise ValueError(
            f"eigenvalues = {found.eigenvalues}, balance = {balance}: give positive eigenvalues "
            "(in a direction without variance nothing moves), and one number u² − ‖U‖²."
        )
    whole = float(np.sum(found.optimum**2))
    root = np.sqrt(c**2 + 4.0 * whole)
    # of the two forms the one that does not cancel
    square = 0.5 * (c + root) if c >= 0.0 else 2.0 * whole / (root - c)
    value = np.sqrt(square)
    return SelfAttentionLimit(value, found.optimum / value, found.floor)
