r"""What is read off weights that condense: ranks, row cosines, drift, and the signs that Theorem 2
of 2510.06954 assumes.

All take leading axes (of times, say) and return one number or matrix for each. The paper states
no formula for "effective rank" and "relative change"; those here are said below.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from gflow.internal import svd

from .._arguments import Numbers, real_array


class AssumptionShares(NamedTuple):
    """|A₁|/d and |A₂|/d²: see `assumption_shares`."""

    single: Float[np.ndarray, "..."]
    pairs: Float[np.ndarray, "..."]


class Drift(NamedTuple):
    """Mean |cos| of the singular vectors of one record and the next: `left`, `right`."""

    left: Float[np.ndarray, " steps"]
    right: Float[np.ndarray, " steps"]


def assumption_shares(a: Numbers, B: Numbers, c: Numbers) -> AssumptionShares:
    r"""How far the weights obey Assumption 1, from which W_V condenses: shares in [0, 1].

        A₁ = {i : c_i (Bᵀa)_i > 0 and a_i (Bc)_i > 0}
        A₂ = {(i, j) : ⟨c_i B_{:,i}, c_j B_{:,j}⟩ > 0 and ⟨a_i B_{i,:}, a_j B_{j,:}⟩ > 0}

    with a = (vW_V)ᵀ, B = W1, c = W2. Near the blow-up both shares go to 1 by themselves whenever
    no component of the limits p of a/‖a‖ and q of c/‖c‖ is zero; smallest components come last.

    **Arguments:** `a`: (..., d), `B`: (..., d, d), `c`: (..., d). **Returns:** `single` |A₁|/d and
    `pairs` |A₂|/d², of the leading shape. **Raises:** ValueError for shapes, float32, data that
    are not finite. **Source:** 2510.06954, Assumption 1 and Fig. 2(a).

    ```python
    assumption_shares(v @ W_V, W1, W2[:, 0])
    ```
    """
    a, b, c = real_array(a, "a"), real_array(B, "B"), real_array(c, "c")
    if not (a.ndim and b.shape == (*a.shape, a.shape[-1]) and c.shape == a.shape):
        raise ValueError(
            f"a has shape {a.shape}, B {b.shape} and c {c.shape}: they must be (..., d), "
            "(..., d, d) and (..., d); the paper pairs rows with columns, so that W1 is square."
        )
    columns, rows = b * c[..., None, :], b * a[..., None]
    single = (np.einsum("...ij,...i->...j", columns, a) > 0) & (
        np.einsum("...ij,...j->...i", rows, c) > 0
    )
    pairs: Bool[np.ndarray, "... d d"] = (columns.mT @ columns > 0) & (rows @ rows.mT > 0)
    return AssumptionShares(
        np.asarray(np.mean(single, axis=-1)), np.asarray(np.mean(pairs, axis=(-2, -1)))
    )


def row_cosines(W: Numbers) -> Float[np.ndarray, "*t m m"]:
    """S_ij = cos(w_i, w_j) of the rows of W (..., m, n); 0 for rows that vanish.

    Condensed rows have ±1 everywhere. For columns give the transpose.
    """
    w = _matrices(W)
    norm = np.linalg.norm(w, axis=-1, keepdims=True)
    unit = np.divide(w, norm, out=np.zeros_like(w), where=norm > 0)
    return np.clip(unit @ unit.mT, -1.0, 1.0)


def row_order(W: Numbers) -> Int[np.ndarray, "*t m"]:
    """Rows of W (..., m, n) by their entry in the top eigenvector of `row_cosines`, ascending.

    In this order condensed rows make two blocks, of +1 and of −1, the larger one last: the sign of
    an eigenvector is arbitrary, and is taken such that its entries have a sum ≥ 0.
    """
    top = np.linalg.eigh(row_cosines(W))[1][..., -1]
    sign = np.where(np.sum(top, axis=-1, keepdims=True) < 0, -1.0, 1.0)
    return np.argsort(sign * top, axis=-1, kind="stable")


def ordered_cosines(W: Numbers) -> Float[np.ndarray, "*t m m"]:
    """`row_cosines` with rows and columns in `row_order`: Fig. 1(a) of 2510.06954.

    ```python
    ordered_cosines(np.outer([1, -2, 3], [1, 1]))       # one block of −1 by itself, then +1
    ```
    """
    cosines, order = row_cosines(W), row_order(W)
    rows = np.take_along_axis(cosines, order[..., :, None], axis=-2)
    return np.take_along_axis(rows, order[..., None, :], axis=-1)


def effective_rank(W: Numbers) -> Float[np.ndarray, "*t"]:
    r"""exp(−Σ p_i ln p_i) with p_i = σ_i/Σσ: between 1 and min(m, n).

    **Raises:** ValueError for shapes, float32, a matrix that is zero.
    **Source:** Roy & Vetterli, EUSIPCO 2007.

    ```python
    effective_rank(np.eye(4))           # 4
    ```
    """
    s = _spectrum(W)
    p = s / np.sum(s, axis=-1, keepdims=True)
    return np.asarray(np.exp(-np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)))


def stable_rank(W: Numbers) -> Float[np.ndarray, "*t"]:
    """‖W‖_F²/‖W‖²: between 1 and the rank. **Raises** as `effective_rank`."""
    s = _spectrum(W)
    return np.asarray(np.sum((s / s[..., :1]) ** 2, axis=-1))


def spectral_gap(F: Numbers) -> Float[np.ndarray, "*t"]:
    """1 − σ₂/σ₁ in [0, 1]: 1 for rank one, 0 for a tie, where W_Q and W_K keep rank ≥ 2.

    At scale ε the rank left when attention saturates is 1 + Θ(ε^{2·gap}). **Raises** as
    `effective_rank`.
    """
    s = _spectrum(F)
    return np.asarray(1 - s[..., 1] / s[..., 0]) if s.shape[-1] > 1 else np.ones(s.shape[:-1])


def relative_change(W: Numbers, t: Numbers | None = None) -> Float[np.ndarray, " steps"]:
    r"""‖W_{k+1} − W_k‖/‖W_k‖ of records `W` (t, ...), in time units of `t` if that is given.

    The outer weights of a condensing transformer change first and W_Q, W_K after them: the ratio
    of their relative changes crosses 1. With times `t` (increasing) it is divided by t_{k+1} − t_k.

    **Raises:** ValueError for fewer than two records, one that is zero, times that do not increase.
    """
    w = real_array(W, "W")
    if w.ndim < 1 or len(w) < 2:
        raise ValueError(f"W has shape {w.shape}: the leading axis counts records, two or more.")
    w = w.reshape(len(w), -1)
    norm = np.linalg.norm(w, axis=1)
    if not np.all(norm > 0):
        raise ValueError(f"W vanishes in record {int(np.argmin(norm))}: it has no relative change.")
    change = np.linalg.norm(np.diff(w, axis=0), axis=1) / norm[:-1]
    if t is None:
        return change
    times = real_array(t, "t")
    if times.shape != norm.shape or not np.all(np.diff(times) > 0):
        raise ValueError(
            f"t has shape {times.shape} for {len(w)} records: give one time each, increasing."
        )
    return change / np.diff(times)


def singular_vector_drift(W: Numbers, top: int | None = None) -> Drift:
    r"""(1/k) Σ_{i≤k} |cos(u_i(t), u_i(t+1))| of records `W` (t, m, n), and the same for v_i.

    1 where directions are frozen (Assumption 2*). The modulus is taken as singular vectors have
    no sign. `top` = k ≤ min(m, n), by default all; near-equal singular values exchange their
    vectors, so that those of noise drift while the leading ones stand.

    **Raises:** ValueError for shapes, fewer than two records, k out of range.
    **Source:** 2510.06954, Fig. 2(b).
    """
    w = _matrices(W)
    if w.ndim != 3 or len(w) < 2:
        raise ValueError(f"W has shape {w.shape}: give two or more records, (t, m, n).")
    most = min(w.shape[1:])
    k = most if top is None else top
    if not 1 <= k <= most:
        raise ValueError(f"top = {k}: choose from 1 to {most}, the number of singular values.")
    u, _, vt = svd(w, full_matrices=False)
    left = np.abs(np.sum(u[:-1] * u[1:], axis=1))[:, :k]
    right = np.abs(np.sum(vt[:-1] * vt[1:], axis=2))[:, :k]
    return Drift(np.mean(left, axis=1), np.mean(right, axis=1))


def _matrices(w) -> np.ndarray:
    w = real_array(w, "W")
    if w.ndim < 2 or 0 in w.shape:
        raise ValueError(f"W has shape {w.shape}: give matrices (..., m, n).")
    return w


def _spectrum(w) -> np.ndarray:
    s = np.linalg.svdvals(_matrices(w))
    if not np.all(s[..., 0] > 0):
        raise ValueError("W is zero: it has no rank to speak of.")
    return s
