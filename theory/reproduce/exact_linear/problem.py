"""Targets and starts: a hierarchy, balanced starts at several scales, random networks."""

import math
from typing import NamedTuple

import jax
import numpy as np

from gflow.internal import svd
from theory import exact_linear as exact

SAXE = "Saxe et al. 2014, arXiv 1312.6120"
BRAUN = "Braun et al. 2022"
DOMINE = "Domine et al. 2024, arXiv 2409.14623"


class Network(NamedTuple):
    """Both layers at the start, and Σ."""

    w1: np.ndarray
    w2: np.ndarray
    target: np.ndarray


class Balanced(NamedTuple):
    """A network with its key in the report, how it is called, and whose it is."""

    key: str
    label: str
    network: Network
    paper: str


def tree() -> np.ndarray:
    """8 features of 8 items in a binary tree: what separates them, from the coarsest down."""
    rows = [np.ones(8)]
    for size in (8, 4, 2):
        half = np.repeat([1.0, -1.0], size // 2)
        rows += [np.pad(half, (at, 8 - size - at)) for at in range(0, 8, size)]
    return np.stack(rows)


def hierarchy(strength: float) -> Network:
    """Modes of the tree, aligned, all of one strength."""
    target = tree()
    w1, w2 = exact.aligned_start(target, strength, hidden=(8,), key=jax.random.key(0))
    return Network(w1, w2, target)


def balanced() -> list[Balanced]:
    """4–5–3 networks of two scales (Braun et al.), and λ-balanced 4–4–4 ones (Domine et al.)."""
    found = []
    target = np.random.default_rng(1).standard_normal((3, 4)) / math.sqrt(3)
    for scale in (0.15, 0.001):
        w1, w2 = exact.balanced_start((4, 5, 3), scale=scale, key=jax.random.key(1))
        one = Network(w1, w2, target)
        key = f"balanced.4-5-3.sigma{scale:g}"
        found.append(Balanced(key, f"4–5–3, σ = {scale:g}", one, BRAUN))
    target = np.random.default_rng(2).standard_normal((4, 4)) / 2.0
    for balance in (-1.0, 0.0, 1.0):
        w1, w2 = exact.balanced_start((4, 4, 4), balance=balance, scale=0.1, key=jax.random.key(3))
        one = Network(w1, w2, target)
        key = f"balanced.4-4-4.lambda{balance:g}"
        sign = f"{balance:+g}".replace("-", "−") if balance else "0"
        found.append(Balanced(key, f"4–4–4, λ = {sign}", one, DOMINE))
    return found


def from_zero(s: np.ndarray, gain: float) -> Network:
    """W₂W₁ = 0 and W₁ᵀW₁ = W₂W₂ᵀ = gain at the start, Σ = diag(s)."""
    w1, w2 = exact.orthogonal_start((2, 5, 2), gain=gain, key=jax.random.key(4))
    return Network(w1, w2, np.diag(s))


def random_network(seed: int) -> Network:
    """Sizes, whitened random regression and zero-balanced start of Braun et al., Fig. 2C–D."""
    rng = np.random.default_rng(seed)
    i, o = rng.choice(np.arange(2, 51), 2, replace=False)
    small, large = min(i, o), max(i, o)
    h = int(rng.integers(small, 51))
    examples = int(rng.integers(2 * large, 3 * large + 1))
    left, _, right = svd(rng.standard_normal((i, examples)), full_matrices=False)
    inputs = math.sqrt(examples) * left @ right
    target = rng.standard_normal((o, examples)) @ inputs.T / examples
    scale = rng.uniform(0.01, 0.5) / math.sqrt(max(i, h, o))
    w1, w2 = exact.balanced_start((int(i), h, int(o)), scale=scale, key=jax.random.key(seed))
    return Network(w1, w2, target)
