r"""In-context linear regression as its eigenvalues see it: forces, curvatures, the optimum."""

import dataclasses
import functools
import math

import numpy as np
from jaxtyping import Float

from .._arguments import Numbers, real_array

Spectrum = Float[np.ndarray, " D"]


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    r"""Eigenvalues λ_d of the covariance, N pairs in context, variance σ² of the labels' noise.

    In the eigenbasis the loss of a diagonal M is Σ_d (λ_d − 2b_d m_d + S_d m_d²) + σ².
    """

    eigenvalues: Spectrum
    context: float
    noise: float

    @functools.cached_property
    def spread(self) -> Spectrum:
        """Γ_d = λ_d + (λ_d + tr Λ + σ²)/N: what a pair tells of direction d, per λ_d."""
        lam = self.eigenvalues
        return lam + (lam + np.sum(lam) + self.noise) / self.context

    @functools.cached_property
    def second(self) -> Spectrum:
        """Eigenvalues of E[ββᵀ] = E₂ + (σ²/N)Λ, which are λΓ."""
        return self.eigenvalues * self.spread

    @functools.cached_property
    def force(self) -> Spectrum:
        """b = λ²."""
        return self.eigenvalues**2

    @functools.cached_property
    def curvature(self) -> Spectrum:
        """S = λ²Γ."""
        return self.force * self.spread

    @functools.cached_property
    def optimum(self) -> Spectrum:
        """m* = 1/Γ; 0 in directions without variance, which nothing moves."""
        return np.where(self.eigenvalues > 0, 1.0 / self.spread, 0.0)

    @functools.cached_property
    def remaining(self) -> Spectrum:
        """λ_d − b_d m*_d, what direction d adds to the loss once it is learned."""
        lam = self.eigenvalues
        return lam * (lam + np.sum(lam) + self.noise) / self.context / self.spread

    @functools.cached_property
    def floor(self) -> float:
        """The loss of m*."""
        return float(np.sum(self.remaining)) + self.noise

    def loss(self, m: Float[np.ndarray, "*t D"]) -> Float[np.ndarray, "*t"]:
        """Of the diagonal M, without cancellation near the optimum."""
        return np.asarray(self.floor + np.sum(self.curvature * (m - self.optimum) ** 2, axis=-1))


def problem(eigenvalues: Numbers, context: float, noise: float = 0.0) -> Problem:
    """**Raises:** ValueError for what is no spectrum of a covariance, N < 1, σ² < 0, float32."""
    lam = real_array(eigenvalues, "eigenvalues")
    if lam.ndim != 1 or not lam.size:
        raise ValueError(
            f"eigenvalues has shape {lam.shape}: give the D eigenvalues of the covariance, (D,). "
            "Of a matrix they are np.linalg.eigvalsh(covariance), and weights go to its eigenbasis."
        )
    if np.any(lam < 0) or not np.any(lam > 0):
        raise ValueError(
            f"eigenvalues = {lam}: a covariance is positive semi-definite, and not zero. Give "
            "eigenvalues ≥ 0, one of them positive."
        )
    return Problem(lam, pairs(context), variance(noise))


def pairs(context: float) -> float:
    """N. **Raises:** ValueError unless it is an integer ≥ 1 or ∞."""
    n = float(real_array(context, "context", finite=False))
    if not n >= 1.0 or (math.isfinite(n) and n != int(n)):
        raise ValueError(
            f"context = {context}: the number N of pairs in a prompt is an integer of at least 1, "
            "or ∞, where every prompt shows the covariance itself."
        )
    return n


def variance(noise: float) -> float:
    """σ². **Raises:** ValueError unless it is finite and ≥ 0."""
    found = float(real_array(noise, "noise"))
    if found < 0.0:
        raise ValueError(f"noise = {noise}: the variance σ² of the labels' noise is ≥ 0.")
    return found


def sizes(size: Numbers) -> Float[np.ndarray, "..."]:
    """**Raises:** ValueError unless positive."""
    found = real_array(size, "size")
    if np.any(found <= 0.0):
        raise ValueError(f"size = {size}: the size of the start is positive; at 0 nothing moves.")
    return found
