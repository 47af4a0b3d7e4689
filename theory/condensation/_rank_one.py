"""Three numbers in a row, α' = βγ, β' = αγ, γ' = αβ: the blow-up of aligned rank-one factors."""

import numpy as np
from jaxtyping import Float
from scipy.special import elliprf

from .._arguments import Numbers, real_array

#: R_F(x², y², 1) = ln(4/(x + y)) to rounding for x and y below this.
TINY = 1e-10


def rank_one_blow_up(alpha: Numbers, beta: Numbers, gamma: Numbers) -> Float[np.ndarray, "..."]:
    r"""T* of α' = βγ, β' = αγ, γ' = αβ: the flow of a = αp, B = βpqᵀ, c = γq, p and q unit.

        αβγ ≥ 0:  T* = R_F(α², β², γ²)
        αβγ < 0:  T* = 2R_F(0, γ² − β², α² − β²) − R_F(α², β², γ²),   |β| the smallest

    with Carlson's R_F(x, y, z) = ½∫₀^∞ ds/√((s+x)(s+y)(s+z)). Balanced, α = β = γ > 0, it is 1/α.
    Where the two smallest differ by a relative gap g and αβγ < 0, T* grows as log(1/g).

    **Arguments:** real, of any shapes that broadcast. **Returns:** that shape, in the time of the
    equations above; multiplying all three by s divides it by s.

    **Raises:** ValueError for float32, non-finite data, two or more zeros (at rest), and
    αβγ < 0 with the two smallest equal in modulus (they fall to 0 for ever): T* = ∞.
    **Regime:** exact. **Source:** derived for 2510.06954, Theorem 1.

    ```python
    rank_one_blow_up(1.3, [0.4, -0.4], 0.9)      # 1.17514425, 1.93513464
    ```
    """
    names = ("alpha", "beta", "gamma")
    given = [real_array(x, n) for x, n in zip((alpha, beta, gamma), names, strict=True)]
    try:
        values = np.stack(np.broadcast_arrays(*given))
    except ValueError:
        raise ValueError(
            f"alpha, beta and gamma have shapes {', '.join(str(x.shape) for x in given)}, which "
            "do not broadcast."
        ) from None
    small, middle, large = np.sort(np.abs(values), axis=0)
    falling = np.prod(np.sign(values), axis=0) < 0
    for bad, why in (
        (middle == 0, "two of them are 0: the start is at rest"),
        (falling & (small == middle), "their product is < 0 and the two smallest are equal in "
         "modulus: both fall to 0 for ever"),
    ):  # fmt: skip
        if np.any(bad):
            triple = ", ".join(f"{x:g}" for x in values[:, bad][:, 0])
            raise ValueError(
                f"(alpha, beta, gamma) = ({triple}) never blows up (T* = ∞), as {why}. Change one "
                "of them, or leave this start out."
            )
    # squares neither overflow nor vanish
    x, y = small / large, middle / large
    # z of R_F(0, z², 1 − x²); 1 where it is not needed
    z = np.where(falling, np.sqrt(y - x) * np.sqrt(y + x), 1.0)
    ahead = np.where(y < TINY, np.log(4 / (x + y)), elliprf(x**2, y**2, 1.0))
    around = np.where(y < TINY, np.log(4 / z), elliprf(0.0, z**2, (1 - x) * (1 + x) + ~falling))
    return np.asarray(np.where(falling, 2 * around - ahead, ahead) / large)
