r"""Which of several kinks a flow crosses and on which it slides.

On surfaces h_i = 0, with h_i > 0 the side the flow is on, the heights change at rates
r(b) = p + R b, b_i = 0 on that side and 1 on the other. Consistent are b_i = 0 with r_i ≥ 0,
b_i = 1 with r_i ≤ 0, and 0 < b_i < 1 with r_i = 0. For a loss with convex kinks −R is, up to a
scale of each b_i, minus a Gram matrix of normals, and the solution is that of smallest |θ'|.
"""

import numpy as np
from jaxtyping import Float

from .._svd import least_squares

#: A response this small, as a share of the push or of the largest, is none: no jump.
_NONE = 1e-9
#: A fraction this near to 0 or 1 is one.
_EDGE = 1e-9


class NotUnique(Exception):
    """Both sides of a concave kink lead away from it."""


class Tangled(Exception):
    """No consistent sides were found."""


def fractions(push: Float[np.ndarray, " m"], response: Float[np.ndarray, "m m"]) -> np.ndarray:
    """b for the rates p + R b, by principal pivots on the first that is inconsistent.

    Concave kinks (R_ii < 0) and those without a jump are crossed if their near side leads
    there. **Raises:** `NotUnique` where both sides lead away, `Tangled` where none is consistent.

    ```python
    fractions(np.array([-1.0]), np.array([[4.0]]))  # array([0.25]): p + R/4 = 0
    ```
    """
    count = len(push)
    # heights of any size: each in units of its own
    size = np.maximum(np.abs(push), np.max(np.abs(response), axis=1, initial=0.0))
    size = np.where(size > 0.0, size, 1.0)
    push, response = push / size, response / size[:, None]
    own = np.diag(response)
    none = _NONE * np.maximum(np.abs(push), np.max(np.abs(response), initial=0.0))
    convex = own > none
    b = np.zeros(count)
    for _ in range(count + 1):
        b, rates = _convex(push, response, convex, b)
        concave = np.flatnonzero(~convex)
        wrong = [i for i in concave if (b[i] == 0 and rates[i] < 0) or (b[i] == 1 and rates[i] > 0)]
        for i in concave:
            other = rates[i] + own[i] * (1.0 - 2.0 * b[i])
            near, far = (rates[i], other) if b[i] == 0 else (other, rates[i])
            if own[i] < -none[i] and near > none[i] and far < -none[i]:
                raise NotUnique
        if not wrong:
            return b
        b[wrong[0]] = 1.0 - b[wrong[0]]
    raise Tangled(f"the sides of {count} kinks do not fit together")


def _convex(push, response, convex, b):
    """The fractions of the convex kinks, those of the others given."""
    free = np.zeros(len(push), bool)
    b = np.where(convex, 0.0, b)
    for _ in range(4 * 2 ** min(len(push), 12)):
        b = b.copy()
        if free.any():
            rest = push + response @ np.where(free, 0.0, b)
            inner = response[np.ix_(free, free)]
            b[free] = least_squares(inner, -rest[free])
        rates = push + response @ b
        scale = 1e-12 * (np.abs(push) + np.abs(response) @ np.ones(len(push)))
        low, high = convex & ~free & (b == 0), convex & ~free & (b == 1)
        wrong = (free & ((b < 0) | (b > 1))) | (low & (rates < -scale)) | (high & (rates > scale))
        if not wrong.any():
            near = free & ((b < _EDGE) | (b > 1 - _EDGE))
            return np.where(near, np.round(b), b), rates
        i = int(np.flatnonzero(wrong)[0])
        if free[i]:
            free[i], b[i] = False, float(b[i] > 1)
        else:
            free[i] = True
    raise Tangled(f"the sides of {len(push)} kinks do not fit together")
