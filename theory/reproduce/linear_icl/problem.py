"""Covariances, starts and losses of the papers, in the clock of ½E(y − ŷ)²."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import gflow
from gflow.models import MergedHeads, SeparateHeads
from gflow.objectives import InContextRegression

ZHANG = "Zhang et al. 2025, arXiv 2501.16265"
MAINALI = "Mainali, Teixeira 2025, arXiv 2504.12916"
HE = "He et al. 2025, arXiv 2503.12734"

#: Pairs in a prompt.
CONTEXT = 31
#: Of the covariance of 2501.16265, in proportion to 1 … D and of trace one.
FOUR = (0.4, 0.3, 0.2, 0.1)
EIGHT = tuple(n / 36 for n in range(8, 0, -1))
#: Variances of the modes of 2504.12916; theirs, unlike these, are many.
VARIANCES = (1.0, 0.7, 0.5, 0.35)

#: Dimension, length, variance of the noise of 2503.12734, and its mean validation losses.
SOFTMAX = (5, 40, 0.1)
PUBLISHED = {1: 0.414, 2: 0.235, 4: 0.234}


def objective(eigenvalues: tuple[float, ...] = FOUR) -> InContextRegression:
    return InContextRegression(list(eigenvalues), CONTEXT)


def merged(size: float, seed: int = 0) -> MergedHeads:
    """Eight heads of 2501.16265, Fig. 1."""
    return MergedHeads.small(4, 8, log_epsilon=math.log(size), key=jax.random.key(seed))


def white(size: float) -> MergedHeads:
    """An aligned start under Λ = I, both layers of norm `size`."""
    return MergedHeads.aligned(
        np.ones(4), 8, log_epsilon=math.log(size), key=jax.random.key(0)
    )  # fmt: skip


def separate(size: float, seed: int = 0) -> SeparateHeads:
    """Five heads of rank one of Fig. 3; a seed has the same directions at every size."""
    return SeparateHeads.small(4, 5, log_epsilon=math.log(size), key=jax.random.key(seed))


def of_rank(rank: int, seed: int, size: float) -> SeparateHeads:
    """Nine heads of Fig. 4."""
    return SeparateHeads.small(8, 9, rank, log_epsilon=math.log(size), key=jax.random.key(seed))


def heads(model: SeparateHeads) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """v, and k and q as (H, D, R), as `theory.linear_icl` takes them."""
    key, query = (np.swapaxes(np.asarray(x.value), 1, 2) for x in (model.key, model.query))
    return np.asarray(model.value.value), key, query


class Modes(eqx.Module):
    """M = diag(pq) in the basis that inputs and tasks share, one number a mode."""

    weight: gflow.Hadamard

    def matrix(self) -> Float[Array, "D D"]:
        return jnp.diag(self.weight.value)


def modes(size: float) -> Modes:
    """p = q = `size` in every mode."""
    factor = np.full(len(VARIANCES), size)
    return Modes(gflow.Hadamard(factor, factor))


class SoftmaxHeads(eqx.Module):
    """Values μ and key-query weights ω of softmax heads, a number a head each."""

    mu: Float[Array, " H"]
    omega: Float[Array, " H"]


class SoftmaxLoss(eqx.Module):
    """Half of the population loss 1 + σ² − 2μᵀω + μᵀ(ωωᵀ + c exp(d ωωᵀ))μ, c = (1 + σ²)/L."""

    dimension: float = SOFTMAX[0]
    share: float = (1.0 + SOFTMAX[2]) / SOFTMAX[1]
    top: float = 1.0 + SOFTMAX[2]

    def __call__(self, model: SoftmaxHeads) -> Float[Array, ""]:
        mu, omega = model.mu, model.omega
        products = jnp.outer(omega, omega)
        kernel = products + self.share * jnp.exp(self.dimension * products)
        return 0.5 * (self.top - 2.0 * mu @ omega + mu @ (kernel @ mu))


def softmax(count: int, size: float = 1e-3) -> SoftmaxHeads:
    """One head, or heads in ± pairs of one size."""
    signs = np.array([1.0, -1.0] * count)[:count]
    return SoftmaxHeads(jnp.asarray(size * signs), jnp.asarray(size * signs))


# The released code of 2501.16265 has the squared error without ½ and sums over the context: its
# step of lr is one of 2 lr N (merged) or 2 lr N^{2/3} (separate) in time, and its weights are
# smaller by √N and N^{1/3}.


def trained_merged() -> tuple[MergedHeads, float]:
    """Fig. 1: its start and its learning rate, in the units of this package."""
    return merged(1e-6 * math.sqrt(CONTEXT)), 2.0 * CONTEXT * 1e-3


def trained_separate(seed: int = 1) -> tuple[SeparateHeads, float]:
    """Fig. 3: likewise; every weight is drawn with 0.01/√(entries of its tensor)."""
    model = separate(1.0, seed)
    size = math.log(0.01 * CONTEXT ** (1 / 3))

    def drawn(leaf):
        return gflow.Scaled(leaf.value, size - 0.5 * math.log(leaf.value.size))

    start = SeparateHeads(drawn(model.value), drawn(model.key), drawn(model.query))
    return start, 2.0 * CONTEXT ** (2 / 3) * 0.02
