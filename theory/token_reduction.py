r"""Fewer tokens, and what is lost and kept (frequency-aware reduction, 2511.21477): identities.

The high-frequency part of tokens is what tells them apart, HF(X) = (I − 11ᵀ/n)X; attention splits
into A^{LP} = 11ᵀ/n and A^{HP} = A − 11ᵀ/n, and HF(AX) = HF(A^{HP} HF(X)) for every A whose rows sum
to one. Of the paper the abstract and summaries were read; the laws are derived here.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ._arguments import Numbers, at_least, counts, real_array, token_rows
from .hopfield import log_shrinkage

__all__ = [
    "Merged",
    "boost_threshold",
    "high_frequency",
    "layer_sizes",
    "merge",
    "merge_factor",
    "merged_logits",
]


def __dir__() -> list[str]:
    return __all__


class Merged(NamedTuple):
    """Tokens after a merger, how many each stands for, and the scatter that is lost."""

    tokens: Float[np.ndarray, "kept d"]
    counts: Float[np.ndarray, " kept"]
    lost: float


def high_frequency(X: Numbers, weights: Numbers | None = None) -> Float[np.ndarray, "tokens d"]:
    r"""HF(X): tokens less their mean, which is weighted where tokens stand for several.

    **Raises:** ValueError for weights that are not positive, one a token.

    ```python
    high_frequency([[1.0, 2.0], [3.0, 2.0]])       # [[-1, 0], [1, 0]]
    ```
    """
    x = token_rows("X", X)
    m = np.ones(len(x)) if weights is None else real_array(weights, "weights")
    if m.shape != (len(x),) or np.any(m <= 0.0):
        raise ValueError(f"weights = {weights}: a positive number for each of {len(x)} tokens.")
    return np.asarray(x - m @ x / np.sum(m))


def merge(X: Numbers, members: Sequence[int] | range) -> Merged:
    r"""The tokens `members` replaced by their mean, which comes first and counts m of them.

        ‖HF X‖² = Σ_i m_i‖HF Y_i‖² + Σ_{i∈S}‖x_i − x̄_S‖²

    The last term is `lost`: the best set of m tokens is the one that makes it least.

    **Raises:** ValueError for members that are not different tokens of X.
    **Source:** derived.

    ```python
    merge(np.eye(3), [0, 2])                       # lost 1.0
    ```
    """
    x = token_rows("X", X)
    chosen = np.unique(np.asarray(members, int))
    if not len(chosen) or len(chosen) != len(members) or chosen[0] < 0 or chosen[-1] >= len(x):
        raise ValueError(f"members = {members}: different tokens, numbers 0 … {len(x) - 1}.")
    mean = np.mean(x[chosen], axis=0)
    rest = np.delete(x, chosen, axis=0)
    return Merged(
        np.concatenate([mean[None], rest]),
        np.concatenate([[float(len(chosen))], np.ones(len(rest))]),
        float(np.sum((x[chosen] - mean) ** 2)),
    )


def merged_logits(logits: Numbers, sizes: Numbers) -> Float[np.ndarray, "... tokens"]:
    r"""Logits + ln m of keys that stand for m tokens each, along the last axis.

    With it attention of the tokens that are kept is what it was before m equal tokens were merged;
    of unequal ones it differs in second order of their scatter.

    **Raises:** ValueError for sizes below 1, one a key.

    ```python
    merged_logits([0.0, 0.0], [3, 1])              # softmax: 3/4, 1/4
    ```
    """
    z, m = real_array(logits, "logits"), at_least("sizes", sizes, 1.0, "how many tokens a key is")
    if m.ndim != 1 or z.ndim == 0 or z.shape[-1] != len(m):
        raise ValueError(f"logits have shape {z.shape}, sizes {m.shape}: one size for each key.")
    return np.asarray(z + np.log(m))


def merge_factor(before: Numbers, after: Numbers, delta: Numbers) -> Float[np.ndarray, "..."]:
    r"""(e^δ + n − 1)/(e^δ + n' − 1): what a layer leaves of n' tokens over what it leaves of n.

    Simplex tokens, δ the logit of a token on itself above the others. n/n' at small δ, 1 at large
    δ; without residuals every later layer cubes it.

    **Raises:** ValueError for fewer than two tokens and δ ≤ 0.
    **Regime:** exact for simplex tokens. **Source:** derived.

    ```python
    merge_factor(12, 6, 1e-6)                      # 2
    ```
    """
    n = counts("before", before, 2, "how many tokens there were")
    kept = counts("after", after, 2, "how many tokens are left")
    gap = at_least("delta", delta, 0.0, "how much a token attends to itself")
    small = np.exp(-gap)
    return np.asarray((1.0 + (n - 1.0) * small) / (1.0 + (kept - 1.0) * small))


def boost_threshold(tokens: Numbers, beta: Numbers, boost: Numbers) -> Float[np.ndarray, "..."]:
    r"""ρ* = √(ln(1 + n/ω)/β): where attention A^{LP} + (1 + ω)A^{HP} neither collapses nor grows.

        ρ' = (1 + ω)λ_n(βρ²)ρ,   λ_n(δ) = (e^δ − 1)/(e^δ + n − 1)

    Simplex tokens below it collapse, cubically still; above it ρ grows, by a factor → 1 + ω. A
    boost moves the border of the collapse and does not remove it.

    **Raises:** ValueError for n < 2, β ≤ 0, ω ≤ 0.
    **Regime:** exact for simplex tokens. **Source:** derived.

    ```python
    boost_threshold(6, 4.0, 0.5)                   # 0.800772963682831
    ```
    """
    n = counts("tokens", tokens, 2, "how many tokens there are")
    b, omega = (real_array(x, name) for x, name in ((beta, "beta"), (boost, "boost")))
    if np.any(b <= 0.0) or np.any(omega <= 0.0):
        raise ValueError(f"beta = {beta}, boost = {boost}: both are positive.")
    return np.asarray(np.sqrt(np.log1p(n / omega) / b))


def layer_sizes(
    tokens: Numbers, beta: float | int, start: float | int = 1.0, boost: float | int = 0.0
) -> Float[np.ndarray, " layers_and_start"]:
    r"""ln ρ_l of simplex tokens, `tokens` of them in each layer: ρ' = (1 + ω)λ_n(βρ²)ρ.

    **Arguments:** `tokens`, the number in the first layer, the second, …; `start` ρ₀ > 0; `boost`
    ω ≥ 0. **Returns:** an array of len(tokens) + 1 numbers, the start first.
    **Raises:** ValueError for values outside of these.
    **Regime:** exact; beyond e^±700 the growth of a boost is 1 + ω. **Source:** derived.

    ```python
    np.exp(layer_sizes([12] * 4, 1.0))             # 1, 0.1253, 1.6e-4, 3.7e-13, 4.3e-39
    ```
    """
    numbers = np.atleast_1d(counts("tokens", tokens, 2, "how many tokens each layer has"))
    if not beta > 0.0 or not start > 0.0 or not boost >= 0.0:
        raise ValueError(
            f"beta = {beta}, start = {start}, boost = {boost}: the first two are positive, a boost "
            "is at least 0."
        )
    sizes = [math.log(start)]
    for n in numbers:
        log_delta = min(math.log(beta) + 2.0 * sizes[-1], 6.5)  # λ = 1 beyond
        sizes.append(sizes[-1] + log_shrinkage(float(n), log_delta) + math.log1p(boost))
    return np.array(sizes)
