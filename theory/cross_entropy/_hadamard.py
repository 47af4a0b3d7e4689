r"""Modes of a Hadamard basis: K scalars that are the flow of two layers, softmax included.

H is Sylvester's matrix, ±1, HH = K I, first row and column of ones. W = H diag(a) H/K makes
softmax(W) = H diag(p̂) H/K, p̂ = H softmax(Ha/K): the singular vectors stay.
"""

import numpy as np
from jaxtyping import Float
from scipy.integrate import DOP853, solve_ivp
from scipy.linalg import hadamard

from .._arguments import Numbers, real_array, times
from ._etf import sizes

RTOL = 1e-13
#: When log t makes it stiff, and after how many lives of the decay.
_LATE, _FAR = 1e13, 30.0
#: A mode that moves no probability by its rounding.
_UNFELT = 1e-18


def hadamard_modes(start: Numbers, t: Numbers, decay: float = 0.0) -> Float[np.ndarray, "*t K"]:
    r"""Singular values a_k(t) of W₂W₁ = H diag(a) H/K on one-hot inputs, mean cross-entropy.

        a_k' = (2/K) a_k (1 − p̂_k) − 2λ a_k,   p̂ = H softmax(Ha/K),

    integrated as ln a_k against ln(1 + t), with 1 − p̂_k as a sum of probabilities: any size of the
    start, and late times, as log t. a₀ = a₀(0)e^{−2λt} changes no probability.

    **Arguments:** `start`: (K,), a_k ≥ 0, K = 2, 4, 8, …; flow times `t ≥ 0` of any shape, finite;
    `decay` λ ≥ 0 of both factors. **Returns:** t.shape + (K,), relative error about 1e-11.

    **Raises:** ValueError for another K, a_k < 0, λ < 0, t < 0 or infinite, float32.

    **Regime:** exact, from `hadamard_start`; loss −(1/K) Σ_c log softmax(W e_c)_c (mean). With all
    a_k of k ≥ 1 equal this is `etf_logit`. **Source:** 2512.04006.

    ```python
    hadamard_modes([0.0, 0.1, 0.2, 0.05], [0.0, 10.0, 100.0]).shape         # (3, 4)
    ```
    """
    a, h = _modes(start)
    t, rate = times(t), float(real_array(decay, "decay"))
    if a.ndim != 1:
        raise ValueError(f"start has shape {a.shape}: give the K singular values of one start.")
    if rate < 0.0:
        raise ValueError(f"decay = {decay}: the rate λ of θ' = −∂L − λθ is ≥ 0.")
    if np.any(np.isinf(t)):
        raise ValueError("t contains ∞: modes grow as log t, or rest at what a large t gives.")
    moving = (a > 0) & (np.arange(a.size) > 0)
    alone = 2.0 / a.size - 2.0 * rate
    found = np.zeros((t.size, a.size))
    with np.errstate(under="ignore"):
        found[:, 0] = a[0] * np.exp(-2.0 * rate * t.ravel())
        if np.any(moving):
            # up to where the softmax first feels one to rounding all grow at one rate
            felt = max(np.log(_UNFELT / np.max(a[moving])) / alone, 0.0) if alone > 0.0 else 0.0
            first = np.minimum(t.ravel(), felt)
            logs = np.log(a[moving]) + alone * felt
            clock, where = np.unique(np.log1p(t.ravel() - first), return_inverse=True)
            grown = _followed(logs, h[:, moving], clock, rate)[where.ravel()]
            found[:, moving] = np.exp(np.log(a[moving]) + alone * first[:, None] + grown)
    at_start = t.ravel() == 0
    found[at_start] = a
    return found.reshape(*t.shape, a.size)


def hadamard_logits(modes: Numbers) -> Float[np.ndarray, "*t K K"]:
    """W = H diag(a) H/K for modes a (..., K); column c holds the logits of class c.

    **Raises:** as `hadamard_modes`.

    ```python
    hadamard_logits(hadamard_modes([0.0, 0.1, 0.2, 0.05], 10.0))            # (4, 4)
    ```
    """
    a, h = _modes(modes)
    return (h * a[..., None, :]) @ h / len(h)


def hadamard_loss(modes: Numbers) -> Float[np.ndarray, "*t"]:
    r"""Mean cross-entropy of W = H diag(a) H/K, log(1 + Σ_{j≥1} e^{w_j − w_0}), w = Ha/K.

    All digits, also where it is small. **Arguments:** a: (..., K). **Raises:** as
    `hadamard_modes`.

    ```python
    hadamard_loss([0.0, 3.0, 3.0, 3.0])             # etf_loss(4, 3.0)
    ```
    """
    a, h = _modes(modes)
    return np.asarray(np.log1p(np.sum(np.exp(_behind(a, h)[..., 1:]), axis=-1)))


def _behind(a: np.ndarray, h: np.ndarray) -> np.ndarray:
    """w_j − w_0 = −(2/K) Σ a_k over the k with H_jk = −1."""
    return -2.0 / len(h) * (a @ (h < 0).T)


def _followed(logs: np.ndarray, h: np.ndarray, clock: np.ndarray, rate: float) -> np.ndarray:
    """ln a(t)/a(0) at s = ln(1 + t), ascending; `h`: the columns of the modes that move."""
    negative, classes = (h < 0).astype(float), len(h)

    def velocity(s, x):
        with np.errstate(under="ignore"):
            odds = np.exp(-2.0 / classes * (negative @ np.exp(np.minimum(logs + x, 700.0))))
            missed = 2.0 * (odds / np.sum(odds)) @ negative  # 1 − p̂
        return (2.0 / classes * missed - 2.0 * rate) * np.exp(s)

    # DOP853 is the more exact of the two until log t, or a rest under decay, makes it stiff; its
    # steps end at the times asked for, between which it is known less well
    stiff = np.log1p(_LATE if rate == 0.0 else _FAR / rate)
    grown, began, x, step = np.zeros((clock.size, logs.size)), 0.0, np.zeros_like(logs), None
    for i, ended in enumerate(np.minimum(clock, stiff)):
        if ended <= began:
            grown[i] = x
            continue
        first = None if step is None else min(step, ended - began)
        solver = DOP853(velocity, began, x, ended, rtol=RTOL, atol=RTOL, first_step=first)
        while solver.status == "running":
            said = solver.step()
            if solver.status == "failed":
                raise RuntimeError(f"DOP853 stopped: {said} Take a smaller last time t.")
            if solver.status == "running":
                step = solver.h_abs
        began, x = ended, solver.y
        grown[i] = x
    late = clock > stiff
    if np.any(late):
        found = solve_ivp(
            velocity, (stiff, clock[-1]), x, "LSODA", t_eval=clock[late], rtol=RTOL, atol=RTOL
        )
        if not found.success:
            raise RuntimeError(f"LSODA stopped: {found.message} Take a smaller last time t.")
        grown[late] = found.y.T
    return grown


def _modes(a: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """a, and H of its size."""
    a = sizes(a, "modes")
    count = a.shape[-1] if a.ndim else 0
    if count < 2 or count & (count - 1):
        raise ValueError(
            f"modes have shape {a.shape}: Sylvester's Hadamard matrix exists for K = 2, 4, 8, … "
            "classes (another one, as of K = 12, does not keep its modes apart). For other K use "
            "the equiangular start, theory.cross_entropy.etf_logit."
        )
    return a, hadamard(count).astype(float)
