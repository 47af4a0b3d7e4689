"""Where a quadratic loss of ABᵀ ends under decay: soft-thresholding, and the rank it leaves."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from gflow.internal import svd

from .._arguments import Numbers, real_array
from ._balanced import (
    decays,
    speed,
)

SOURCE = "2410.23819 (Kobayashi, Akram, von Oswald 2024)"
VALIDITY = "gradient flow or SGD with equal decay on both factors; exact for any loss of A Bᵀ"

#: d and λ closer than this, relative to the largest d, are a tie: the accuracy of an SVD.
TIE_TOLERANCE = 1e-13


class PredictedRank(NamedTuple):
    """`rank` at t = ∞; modes in a `ties`; whether the end is one of many (`ambiguous`).

    A tied mode, d = λ, ends at 0 but only as 1/(2t), so that at any finite time it seems to be
    there. `ambiguous`: r cuts through equal singular values.
    """

    rank: Int[np.ndarray, "..."]
    ties: Int[np.ndarray, "..."]
    ambiguous: Bool[np.ndarray, "..."]


def soft_threshold(
    target: Numbers, decay: Numbers, loss: str = "half", *, rank: int | None = None
) -> Float[np.ndarray, "*batch m n"]:
    r"""Where training ends: U diag(max(d − λ, 0)) Vᵀ for a target D = U diag(d) Vᵀ.

    It minimises ½‖W − D‖² + λ‖W‖_*, that is, ½‖ABᵀ − D‖² + (λ/2)(‖A‖² + ‖B‖²). **With
    loss="full", ‖W − D‖², the threshold is λ/2, not λ.** Factors of width `rank` = r keep the r
    largest.

    **Arguments:** `target` D: (..., m, n); `decay` λ ≥ 0 broadcasts with the leading axes of D;
    `loss`: "half" or "full"; `rank`: r ≥ 1, or None for r ≥ min(m, n).
    **Returns:** broadcast leading axes + (m, n). Where r cuts through equal singular values it is
    one minimiser of many (see `predicted_rank`).

    **Raises:** ValueError for an unknown loss, λ < 0 or NaN, r < 1, float32, non-finite data.
    **Regime:** the global minimum, which gradient flow reaches from almost every start; a tie
    d = λ takes it for ever (1/t).
    **Source:** 2410.23819, Fig. 1 (whose loss is "full"); the proximal map of the nuclear norm.

    ```python
    soft_threshold(np.diag([0.2, 0.4, 1.0]), 0.4)               # diag(0, 0, 0.6)
    soft_threshold(np.diag([0.2, 0.4, 1.0]), 0.4, loss="full")  # diag(0, 0.2, 0.8)
    ```
    """
    d, threshold = _target(target), decays(decay) / speed(loss)
    u, s, vt = svd(d, full_matrices=False)
    kept = np.maximum(s - threshold[..., None], 0.0)
    if rank is not None:
        kept[..., _width(rank) :] = 0.0
    return (u * kept[..., None, :]) @ vt


def predicted_rank(
    target: Numbers, decay: Numbers, rank: int | None = None, loss: str = "half"
) -> PredictedRank:
    r"""Rank of the end, min(r, #{d > λ}) for ½‖W − D‖² and min(r, #{d > λ/2}) for ‖W − D‖².

    **Arguments, errors:** as for `soft_threshold`. **Returns:** a named tuple of integers, of the
    broadcast leading shape: (rank, ties, ambiguous). d and λ are tied if they differ by less
    than 1e-13 of the largest d; where `ties` > 0, the rank at a finite time needs a tolerance
    above balanced_mode(s0, d, t, decay), about 1/(2t) ("half") or 1/(4t) ("full").

    **Source:** 2410.23819, Fig. 1 (iii).

    ```python
    predicted_rank(np.diag([0.2, 0.4, 0.6, 0.8, 1.0]), 0.4)     # rank 3, one tie
    ```
    """
    d, threshold = _target(target), decays(decay) / speed(loss)
    s = np.linalg.svdvals(d)
    width = s.shape[-1] if rank is None else min(_width(rank), s.shape[-1])
    threshold = threshold[..., None]
    close = TIE_TOLERANCE * s[..., :1]
    tied = (np.abs(s - threshold) <= close) & (s > 0)
    count = np.sum((s > threshold) & ~tied, axis=-1)
    ties = np.minimum(np.sum(tied, axis=-1), np.maximum(width - count, 0))
    cut = np.zeros(count.shape, bool)
    if width < s.shape[-1]:
        equal = s[..., width - 1] - s[..., width] <= close[..., 0]
        cut = equal & (count > width)
    return PredictedRank(*(np.asarray(x) for x in (np.minimum(count, width), ties, cut)))


def gap_late_slope(
    target: Numbers, rank: int, decay: Numbers, loss: str = "half"
) -> Float[np.ndarray, "..."]:
    r"""d log(gap)/dt at late times: −min(4λ, 2(λ + d_r)) for ½‖W − D‖².

    d_r is the r-th largest singular value of D: a mode with d < λ dies with a gap e^{−2(λ+d)t}.
    Columns beyond the rank of D have d = 0 and leave e^{−2λt}, the rate of the upper bound; but
    beyond r = m = n there is nothing for them to leave behind, and d_n counts. loss="full":
    −min(4λ, 2λ + 4d_r).

    **Arguments:** `target` D: (..., m, n); `rank` r, the width of the factors; `decay` λ ≥ 0
    broadcasts with the leading axes. **Raises:** ValueError for shapes, r < 1, λ < 0, float32.
    **Regime:** a generic unbalanced start (G(0) has no zero in the modes kept); fit slopes where
    `gap` is above rounding. **Source:** derived for 2410.23819, Fig. 1 (i).

    ```python
    gap_late_slope(np.diag([2.0, 1.0]), 2, 0.3)         # −1.2
    gap_late_slope(np.diag([2.0, 1.0, 0.0]), 3, 0.3)    # −0.6
    ```
    """
    d, rate, clock = _target(target), decays(decay), speed(loss)
    width = _width(rank)
    s = np.linalg.svdvals(d)
    if d.shape[-2] == d.shape[-1]:
        width = min(width, s.shape[-1])
    last = s[..., width - 1] if width <= s.shape[-1] else np.zeros(s.shape[:-1])
    return np.asarray(-np.minimum(4.0 * rate, 2.0 * (rate + clock * last)))


def _target(target: Numbers) -> np.ndarray:
    d = real_array(target, "target")
    if d.ndim < 2 or d.shape[-1] == 0 or d.shape[-2] == 0:
        raise ValueError(f"target has shape {d.shape}: give a matrix D, (..., m, n).")
    return d


def _width(rank: int) -> int:
    if rank != int(rank) or rank < 1:
        raise ValueError(f"rank = {rank}: the width r of the factors is 1, 2, 3, …")
    return int(rank)
