r"""Two layers from a λ-balanced start: the matrix Riccati flow of Q = [W₁ᵀ; W₂], and its rest."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .._arguments import Numbers, real_array, times
from . import _riccati as riccati

SOURCE = "Fukumizu 1998; Saxe et al. 2014; Braun et al. 2022; Domine et al. 2024"
VALIDITY = "two linear layers, squared loss, whitened inputs, W₂ᵀW₂ − W₁W₁ᵀ = λI; decay if λ = 0"
#: ‖G − λI‖ relative to ‖W₁‖² + ‖W₂‖² up to which a start counts as λ-balanced. The product
#: is then off by as much; starts built in float64 are balanced to 1e-15 or so.
BALANCE_TOLERANCE = 1e-11


class Gram(NamedTuple):
    """W₂W₁, W₁ᵀW₁ and W₂W₂ᵀ: all that the flow determines (factors turn with G = λI)."""

    product: Float[np.ndarray, "*t o i"]
    input: Float[np.ndarray, "*t i i"]
    output: Float[np.ndarray, "*t o o"]


@dataclasses.dataclass(frozen=True, eq=False)
class RestingPoint:
    """Where a trajectory ends: a global minimum, or the saddle that misses some modes.

    `product`: W₂W₁; `loss`: ½‖Σ − W₂W₁‖²; `rank` of the product; `missed`: singular values
    of Σ, descending, that are not learned though h and the decay leave room for them.
    """

    product: Float[np.ndarray, "o i"]
    loss: float
    rank: int
    missed: Float[np.ndarray, " missed"]

    @property
    def is_minimum(self) -> bool:
        """Whether nothing is missed."""
        return self.missed.size == 0


def two_layer(
    w1: Numbers, w2: Numbers, target: Numbers, t: Numbers, decay: float = 0.0
) -> Float[np.ndarray, "*t o i"]:
    r"""W₂W₁ at the times `t` of gradient flow from a λ-balanced start, exactly.

    With Q = [W₁ᵀ; W₂], P = e^{Ft}Q(0) and F above, W₂W₁ is the lower left block of

        QQᵀ(t) = P (I + ∫₀ᵗ PᵀP)⁻¹ Pᵀ.

    Each mode approaches its end as e^{−sqrt(4s² + λ²)·t} when γ = 0.

    **Arguments:** `w1`: (h, i), `w2`: (o, h), `target` Σ: (o, i). `t ≥ 0` of any shape, flow
    time (learning rate × steps); ∞ is allowed. `decay` γ ≥ 0 acts on both factors. float64.

    **Returns:** shape t.shape + (o, i). t = 0 gives the start itself; t = ∞ the limit, saddles
    included (see `resting_point`). Any h: bottlenecks, rank-deficient and square starts.

    **Raises:** ValueError for shapes that do not chain, float32, data that are not finite,
    t < 0, a start that is not λ-balanced, decay with λ ≠ 0.

    **Regime:** exact. λ > 0 is possible for h ≤ o, λ < 0 for h ≤ i, λ = 0 always; a Gaussian
    start is none of these (see `balanced_start`, `lazy_to_rich`).

    **Source:** Fukumizu 1998; Braun et al. 2022 (λ = 0); Domine et al. 2024, 2409.14623. The
    form here needs no inverse of F nor of overlaps with the singular vectors.

    ```python
    w1, w2 = balanced_start((4, 3, 5), balance=0.5, scale=0.1, key=jax.random.key(0))
    two_layer(w1, w2, target, np.linspace(0, 10, 50)).shape      # (50, 5, 4)
    ```
    """
    first, second = two_layer_factors(w1, w2, target, t, decay)
    return second @ first


def two_layer_gram(
    w1: Numbers, w2: Numbers, target: Numbers, t: Numbers, decay: float = 0.0
) -> Gram:
    """`two_layer` with the Gram matrices W₁ᵀW₁ and W₂W₂ᵀ, the blocks of QQᵀ(t).

    They give the neural tangent kernel: W₂W₂ᵀ ⊗ XᵀX + I ⊗ XᵀW₁ᵀW₁X. Arguments and errors as
    for `two_layer`.

    ```python
    two_layer_gram(w1, w2, target, math.inf).output     # W₂W₂ᵀ at the end
    ```
    """
    first, second = two_layer_factors(w1, w2, target, t, decay)
    return Gram(second @ first, first.mT @ first, second @ second.mT)


def two_layer_factors(
    w1: Numbers, w2: Numbers, target: Numbers, t: Numbers, decay: float = 0.0
) -> tuple[Float[np.ndarray, "*t h i"], Float[np.ndarray, "*t o h"]]:
    """(RW₁, W₂Rᵀ) at the times `t`, with an unknown rotation R(t) of the hidden layer.

    λ-balance, products and Gram matrices do not see R, so this is a start to continue from.
    R = I at t = 0. Arguments and errors as for `two_layer`.

    ```python
    w1, w2 = two_layer_factors(w1, w2, target, 3.0)     # two_layer(w1, w2, target, t - 3)
    ```
    """
    a, b, sigma = _weights(w1, w2, target)
    flow = _riccati(a, b, sigma, decay)
    q = flow.factor(times(t))
    i = a.shape[1]
    return q[..., :i, :].mT, q[..., i:, :]


def resting_point(w1: Numbers, w2: Numbers, target: Numbers, decay: float = 0.0) -> RestingPoint:
    """Where the flow from this start ends, and which singular values of Σ it misses.

    A start whose overlap with a growing mode is zero to rounding never learns it. With λ = 0
    and i = h = o that happens whenever sgn det W₂W₁ ≠ sgn det Σ, for half of all random
    starts: the flow ends in the saddle without the smallest singular value, L = ½s². Rounding
    carries every simulation away from there, after about log(1/ε)/s in flow time.

    Arguments and errors as for `two_layer`.

    ```python
    resting_point(w1, w2, target).missed      # array([]) at a global minimum
    ```
    """
    a, b, sigma = _weights(w1, w2, target)
    flow = _riccati(a, b, sigma, decay)
    i = a.shape[1]
    product = flow.limit[i:] @ flow.limit[:i].T
    loss = 0.5 * float(np.sum((sigma - product) ** 2))
    rank, missed = _missed(sigma, product, float(decay), a.shape[0])
    return RestingPoint(product, loss, rank, missed)


def _missed(target, product, decay: float, h: int) -> tuple[int, np.ndarray]:
    """Rank of a rest point and the singular values among the h largest that it lacks."""
    s = np.linalg.svdvals(target)
    attained = s - decay  # what a learned mode of a rest point has in the product
    tiny = 1e-12 * float(np.max(s))
    modes = [int(k) for k in np.flatnonzero(attained > tiny)]
    learned = np.linalg.svdvals(product)
    learned = learned[learned > tiny][: len(modes)]
    unlearned = list(modes)
    for value in learned:
        unlearned.remove(min(unlearned, key=lambda k: abs(attained[k] - value)))
    return len(learned), s[[k for k in modes[:h] if k in unlearned]]


def _riccati(w1, w2, target, decay) -> riccati.Riccati:
    decay = float(decay)
    if not (decay >= 0.0 and math.isfinite(decay)):
        raise ValueError(f"decay = {decay}: the rate γ of (γ/2)‖W‖² must be finite and ≥ 0.")
    balance = _balance(w1, w2)
    if decay > 0.0 and balance != 0.0:
        raise ValueError(
            f"The start has balance λ = {balance:.6g} and decay = {decay:g} was given: λ then "
            "decays itself and no closed form applies. Use a start with λ = 0 "
            "(theory.exact_linear.balanced_start), decay=0, or gflow.simulate with decay."
        )
    rates, basis = riccati.coupled_spectrum(target, balance, decay)
    return riccati.solve(rates, basis, np.concatenate([w1.T, w2]))


def _balance(w1: np.ndarray, w2: np.ndarray) -> float:
    """λ of G = W₂ᵀW₂ − W₁W₁ᵀ = λI; refuses any other G."""
    h = w1.shape[0]
    g = w2.T @ w2 - w1 @ w1.T
    size = float(np.sum(w1**2) + np.sum(w2**2))
    balance = float(np.trace(g)) / h
    deviation = float(np.linalg.norm(g - balance * np.eye(h)))
    if deviation > BALANCE_TOLERANCE * size:
        raise ValueError(
            f"The start is not λ-balanced: with G = W₂ᵀW₂ − W₁W₁ᵀ and λ = tr G/h = "
            f"{balance:.6g}, ‖G − λI‖ = {deviation:.3g}, where ‖W₁‖² + ‖W₂‖² = {size:.3g}. The "
            "closed form holds for G = λI only. Make such a start with "
            "theory.exact_linear.balanced_start, or follow this one with "
            "gflow.simulate(gflow.models.DeepLinear((w1, w2)), objective)."
        )
    return 0.0 if abs(balance) <= BALANCE_TOLERANCE * size else balance


def _weights(w1, w2, target) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, b, sigma = real_array(w1, "w1"), real_array(w2, "w2"), real_array(target, "target")
    if not (
        a.ndim == b.ndim == sigma.ndim == 2
        and b.shape[1] == a.shape[0]
        and sigma.shape == (b.shape[0], a.shape[1])
        and min(*a.shape, *b.shape) > 0
    ):
        raise ValueError(
            f"w1 has shape {a.shape}, w2 {b.shape} and target {sigma.shape}: they must be "
            "(h, i), (o, h) and (o, i), so that w2 @ w1 has the shape of the target."
        )
    return a, b, sigma
