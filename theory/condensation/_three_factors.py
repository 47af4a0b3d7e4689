"""Three factors in a row, a, B and c of E = aᵀBc, and what their flow leaves constant."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .._arguments import Numbers, real_array


class Conserved(NamedTuple):
    """BBᵀ − aaᵀ, BᵀB − ccᵀ, ‖c‖² − ‖a‖² and ‖a'‖² − ‖c'‖² − (‖c‖² − ‖a‖²)‖c‖²."""

    left: Float[np.ndarray, "m m"]
    right: Float[np.ndarray, "n n"]
    difference: float
    invariant: float


def conserved(a: Numbers, B: Numbers, c: Numbers) -> Conserved:
    r"""What a' = Bc, B' = acᵀ, c' = Bᵀa leaves constant: two matrices and two numbers.

        BBᵀ − aaᵀ,   BᵀB − ccᵀ,   D = ‖c‖² − ‖a‖²,   ‖a'‖² − ‖c'‖² − D‖c‖²

    They find bugs; as a measure of accuracy they are too optimistic by orders of magnitude.

    **Arguments:** `a`: (m,), `B`: (m, n), `c`: (n,). **Raises:** ValueError for shapes that do not
    chain, float32, non-finite data. **Source:** 2510.06954, Proposition 2 (diagonals), derived.

    ```python
    conserved(a, B, c).left - conserved(a_later, B_later, c_later).left      # zero
    ```
    """
    a, b, c = chained(a, B, c)
    difference = float(c @ c - a @ a)
    slopes = b @ c, b.T @ a
    return Conserved(
        b @ b.T - np.outer(a, a),
        b.T @ b - np.outer(c, c),
        difference,
        float(slopes[0] @ slopes[0] - slopes[1] @ slopes[1] - difference * (c @ c)),
    )


def chained(a: Numbers, b: Numbers, c: Numbers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a, B and c as float64 arrays of shapes (m,), (m, n), (n,), or a ValueError."""
    a, b, c = real_array(a, "a"), real_array(b, "B"), real_array(c, "c")
    if not (a.ndim == c.ndim == 1 and b.shape == (a.size, c.size) and b.size):
        raise ValueError(
            f"a has shape {a.shape}, B {b.shape} and c {c.shape}: they must be (m,), (m, n) and "
            "(n,), so that a @ B @ c is a number. For attention a = v @ W_V, B = W1, c = W2[:, 0]."
        )
    return a, b, c


def size_of(a, b, c) -> float:
    """The power of 2 next to the largest entry: to divide by it is exact."""
    return 2.0 ** math.frexp(max(float(np.max(np.abs(x))) for x in (a, b, c)))[1]
