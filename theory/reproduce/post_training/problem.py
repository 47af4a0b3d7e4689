"""A trained matrix W₀ = U diag(s) Vᵀ in balanced factors, and targets near it."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import gflow
from gflow.internal import svd

PAPER = "arXiv 2509.17866"


class Trained(NamedTuple):
    """W₀ by its singular vectors and values, largest first."""

    left: np.ndarray
    values: np.ndarray
    right: np.ndarray

    @property
    def weight(self) -> np.ndarray:
        return (self.left * self.values) @ self.right.T

    @property
    def model(self) -> dict[str, gflow.Factored]:
        root = np.sqrt(self.values)
        return {"w": gflow.Factored(self.left * root, self.right * root)}

    def towards(self, target: np.ndarray, t1: float, **options) -> gflow.Trajectory:
        """The flow of ½‖W − target‖² from W₀."""
        aim = jnp.asarray(target)
        return gflow.simulate(
            gflow.to_factors(self.model), lambda m: 0.5 * jnp.sum((m["w"].value - aim) ** 2),
            t1=t1, rtol=1e-11, **options,
        )  # fmt: skip

    def seen(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Change of the singular values, and rotations of the vectors, signs aligned."""
        u, s, vt = svd(weight)
        left, right = self.left.T @ u, self.right.T @ vt.T
        signs = np.sign(np.diagonal(left))
        eye = np.eye(len(s))
        return s - self.values, left * signs - eye, right * signs - eye


def trained(values: np.ndarray, seed: int) -> Trained:
    """These singular values in random bases."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(len(values),) * 2))[0] for _ in range(2))
    return Trained(left, np.asarray(values, float), right)


def gaussian(size: int, seed: int) -> Trained:
    """A Gaussian matrix, its vectors dense in singular values."""
    u, s, vt = svd(np.random.default_rng(seed).normal(size=(size, size)))
    return Trained(u, s / np.sqrt(size), vt.T)
