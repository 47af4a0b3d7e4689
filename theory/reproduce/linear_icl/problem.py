"""Covariances, starts and losses of the papers, in the clock of ½E(y − ŷ)²."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import gflow
from gflow.models import LinearSelfAttention, MergedHeads, SeparateHeads, SoftmaxContextHeads
from gflow.objectives import (
    InContextRegression,
    SharedTaskRegression,
    SoftmaxContextRegression,
)

FREI = "Zhang, Frei, Bartlett 2024, arXiv 2306.09927"
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


def softmax(count: int, size: float = 1e-3) -> SoftmaxContextHeads:
    """One head, or heads in ± pairs of one size."""
    if count > 1:
        return SoftmaxContextHeads.small(count, log_epsilon=math.log(size), pairs=True)
    one = np.full(1, size)
    return SoftmaxContextHeads(gflow.Scaled(one, 0.0), gflow.Scaled(one, 0.0))


def softmax_loss() -> SoftmaxContextRegression:
    return SoftmaxContextRegression(*SOFTMAX)


def softmax_pair(size: float, direction: np.ndarray) -> SoftmaxContextHeads:
    """A ± pair μ = ±ε, W = ±ε `direction`, a matrix of norm one: its even orders cancel."""
    signs, scale = np.array([1.0, -1.0]), math.log(size)
    matrices = gflow.Scaled(signs[:, None, None] * direction, scale)
    return SoftmaxContextHeads(gflow.Scaled(signs, scale), matrices)


def self_attention(size: float, theta: np.ndarray) -> LinearSelfAttention:
    """The start of 2306.09927."""
    return LinearSelfAttention.small(theta, log_sigma=math.log(size))


def thetas(seeds: int) -> list[np.ndarray]:
    """Θ = I, and random ones."""
    random = (np.random.default_rng(seed).normal(size=(4, 4)) for seed in range(1, seeds))
    return [np.eye(4), *random]


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


def shared_task(share: float, shown: bool = True) -> SharedTaskRegression:
    """Prompts of which a share has one task of norm √4, white inputs of trace one.

    Without any others its labels in context are noise, as in the released code.
    """
    return SharedTaskRegression(np.full(4, 0.25), CONTEXT, one_task(), share, shown=shown)


def one_task() -> np.ndarray:
    w = np.random.default_rng(0).normal(size=4)
    return w * 2.0 / np.linalg.norm(w)


def trained_blocks(seed: int = 0) -> tuple[LinearSelfAttention, float]:
    """Eight heads of all blocks, those that mix x and y in ŷ zero, and the learning rate."""
    keys = jax.random.split(jax.random.key(seed))
    value, key_query = (np.array(jax.random.normal(k, (8, 5, 5))) for k in keys)
    value[:, -1, :-1] = key_query[:, -1, :-1] = 0.0
    size = math.log(1e-6 * math.sqrt(CONTEXT))
    model = LinearSelfAttention(gflow.Scaled(value, size), gflow.Scaled(key_query, size))
    return model, 2.0 * CONTEXT * 5e-4
