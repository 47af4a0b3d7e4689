r"""Late times: norms grow as log t, directions arrive as 1/log t."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import lambertw

from gflow.internal import least_squares

from .._arguments import Numbers, real_array, times
from ._max_margin import solved
from ._separation import constraints


class LateSeparator(NamedTuple):
    """W(t) = `slope` log t + `offset` of late times; `late_separator`.

    `complete`: whether the support spans the inputs; else an unknown constant that the support
    does not see is missing in `offset`.
    """

    slope: Float[np.ndarray, "*K d"]
    offset: Float[np.ndarray, "*K d"]
    complete: bool

    def at(self, t: Numbers) -> Float[np.ndarray, "..."]:
        """W at late times `t`, t.shape + that of W."""
        logs = np.log(_late(t))
        extra = (1,) * self.slope.ndim
        return self.slope * logs.reshape(*logs.shape, *extra) + self.offset

    def misalignment(self, t: Numbers) -> Float[np.ndarray, "*t"]:
        r"""‖offset off the slope‖/(‖slope‖ log t): the late angle to max-margin."""
        norm = float(np.linalg.norm(self.slope))
        along = np.sum(self.offset * self.slope) / norm**2
        return np.asarray(
            np.linalg.norm(self.offset - along * self.slope) / (norm * np.log(_late(t)))
        )


def late_separator(inputs: Numbers, labels: Numbers) -> LateSeparator:
    r"""Where a linear map is late in the flow of the mean cross-entropy on separable data.

        W(t) = Ŵ log t + W̃ + o(1),   z·W̃ = −log(n α_z) for the constraints z of the support,

    Ŵ = Σ α_z z the hard-margin separator (`max_margin`). Its norm grows as log t, its direction
    arrives as 1/log t, the loss is Σα/t: none of it depends on the start, beyond parts of W̃
    that the support does not see.

    **Arguments:** as `max_margin`. Two classes: loss (1/n) Σ log(1 + e^{−y w·x}).
    **Returns:** a `LateSeparator`: slope Ŵ, offset W̃ (the smallest one), `complete`, and its
    methods `at(t)` and `misalignment(t)`.

    **Raises:** ValueError as `max_margin`; for a support whose multipliers are not unique, or
    vanish on a margin, where W̃ has terms of log log t.

    **Regime:** t → ∞, W itself trained (one layer, no decay, unit rate). o(1) goes as t^{−μ}, μ ≤ 1
    the smallest of the next margin − 1 and the eigenvalues > 0 of Σ α_z z zᵀ (one of them is 1).
    **Source:** Soudry et al. 2018 (1710.10345), Theorems 3 and 4 (1/log t for almost all data).

    ```python
    late_separator([[2.0, 0.0], [0.0, 1.0]], [1, -1]).at(1e6)       # 0.5 log(2t), −log(t/2)
    ```
    """
    problem = constraints(inputs, labels)
    found = solved(problem)
    flat = found.multipliers
    alpha = flat if flat.ndim == 1 else flat[problem.example, problem.other]
    on_margin = problem.rows @ found.weights.ravel() <= 1.0 + 1e-9
    rows, alpha = problem.rows[on_margin], alpha[on_margin]
    rank = int(np.linalg.matrix_rank(rows))
    if rank < len(rows) or not np.all(alpha > 1e-9 * np.max(alpha)):
        raise ValueError(
            f"{len(rows)} constraints lie on the margin, of rank {rank}, with multipliers from "
            f"{np.min(alpha):.2g} to {np.max(alpha):.2g}: they must be independent, with positive "
            "ones. This holds for almost all inputs, not for symmetric ones."
        )
    n = int(problem.example[-1]) + 1
    offset = least_squares(rows, -np.log(n * alpha))
    complete = rank == int(np.linalg.matrix_rank(problem.rows))
    return LateSeparator(found.weights, offset.reshape(problem.shape), complete)


def late_logit(t: Numbers, scale: float = 1.0) -> Float[np.ndarray, "*t"]:
    r"""a of `etf_logit` at late times, whatever K and the start: e^{ςa}/(ςa) = 2ςt.

        ςa = −W₋₁(−1/2ςt) = log 2ςt + log log 2ςt + …;   ‖W₂W₁‖ = √(K − 1) a

    **Arguments:** `t` with 2ςt ≥ e, ∞ included; `scale` ς > 0. **Raises:** ValueError for others.

    **Regime:** t → ∞: a is below it by 1/(ς²a) to leading order (and what K and the start
    add to t, relative to t). **Source:** as `etf_logit`.

    ```python
    late_logit(1e100), etf_logit(3, 1.0, 1e100)         # 236.4…, less by 1/236
    ```
    """
    t, sigma = times(t), float(real_array(scale, "scale"))
    if not sigma > 0 or np.any(2.0 * sigma * t < np.e):
        raise ValueError(f"t = {t}, scale = {scale}: the late law is for scale > 0, 2 scale t ≥ e.")
    clock = 2.0 * sigma * t
    with np.errstate(divide="ignore"):
        b = -np.real(lambertw(-1.0 / clock, -1))
    return np.asarray(np.where(np.isinf(clock), np.inf, b) / sigma)


def _late(t: Numbers) -> np.ndarray:
    t = real_array(t, "t")
    if np.any(t <= 1.0):
        raise ValueError("The late law is for t far above 1; log t is not positive here.")
    return t
