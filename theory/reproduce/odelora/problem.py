"""A matrix to be learned by an adapter: the loss ½‖W − M‖², and starts of W = BA."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import gflow
from gflow import velocity
from gflow.internal import svd

PAPER = "ODELoRA, arXiv 2602.07479"
TANGENT = velocity.Tangent()


class Problem(NamedTuple):
    """M = U diag(d) Vᵀ."""

    left: np.ndarray
    values: np.ndarray
    right: np.ndarray

    @property
    def target(self) -> np.ndarray:
        return (self.left * self.values) @ self.right.T

    def objective(self, model):
        return 0.5 * jnp.sum((model["w"].value - self.target) ** 2)

    def aligned(self, start: float) -> dict[str, gflow.Factored]:
        """Balanced factors on the singular vectors of M, every mode of size `start`."""
        root = np.sqrt(start)
        return {"w": gflow.Factored(root * self.left, root * self.right)}

    def random(self, size: float, rank: int, seed: int) -> dict[str, gflow.Factored]:
        """Balanced factors of a Gaussian matrix of this rank, times `size`."""
        rng = np.random.default_rng(seed)
        m, n = len(self.left), len(self.right)
        whole = rng.normal(size=(m, rank)) @ rng.normal(size=(rank, n))
        u, s, vt = svd(whole, full_matrices=False)
        root = np.sqrt(size * s[:rank])
        return {"w": gflow.Factored(u[:, :rank] * root, vt[:rank].T * root)}

    def modes(self, weights: dict[str, np.ndarray]) -> np.ndarray:
        """uᵢᵀWvᵢ, times along the leading axis."""
        return np.einsum("mk,tmn,nk->tk", self.left, weights["w"], self.right)


def problem(values: tuple[float, ...], shape: tuple[int, int], seed: int) -> Problem:
    """A target of these singular values in random bases."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(k, len(values))))[0] for k in shape)
    return Problem(left, np.array(values), right)
