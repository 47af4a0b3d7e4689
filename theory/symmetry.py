r"""Symmetries and representations: alignment, the breaking of symmetries, their removal by decay.

Two linear layers h = W₁x, y = W₂h with decay λ on both learn W* = diag(d_i) on inputs of
covariance diag(ξ_i) and labels with noise of variance ς². In one common basis, with
Z = W₁W₁ᵀ = W₂ᵀW₂, H = E hhᵀ and G = E ggᵀ, g = ∂ℓ/∂h the gradient of one example,

    H_i = s_i ξ_i,   G_i = s_i (ξ_i(d_i − s_i)² + ς²),   s_i' = 2 s_i (ξ_i(d_i − s_i) − λ),

s_i being the eigenvalues of Z. At rest s_i = d_i − λ/ξ_i.

The systems are this project's, solved, each to show what a paper claims: alignment and reciprocal
power laws of representations (2410.03006), the breaking of symmetries (2502.05300), their removal
(syre, 2408.15495). Only the abstracts of the papers could be read.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import root_scalar

from ._arguments import Numbers, real_array, times

__all__ = ["Representations", "alignment", "escape_time", "representations", "softened_product"]


def __dir__() -> list[str]:
    return __all__


class Representations(NamedTuple):
    """Eigenvalues of Z, H and G in their common basis, in the order of the modes."""

    weights: Float[np.ndarray, " modes"]
    hidden: Float[np.ndarray, " modes"]
    gradients: Float[np.ndarray, " modes"]


class _Problem(NamedTuple):
    variances: np.ndarray
    targets: np.ndarray
    decay: float
    noise: float

    @property
    def resting(self) -> np.ndarray:
        """Where a mode would rest: s, or 0 where this is not positive."""
        return self.targets - self.decay / self.variances

    def read(self, strengths: np.ndarray, missing: np.ndarray) -> Representations:
        """H and G of modes s and of what they miss, d − s."""
        hidden = strengths * self.variances
        return Representations(
            strengths, hidden, strengths * (self.variances * missing**2 + self.noise)
        )


def representations(
    variances: Numbers, targets: Numbers, decay: Numbers, noise: Numbers
) -> Representations:
    r"""Eigenvalues of Z, H and G at rest.

        s_i = max(d_i − λ/ξ_i, 0),   H_i = s_i ξ_i,   G_i = s_i (λ²/ξ_i + ς²)

    White inputs: all three are proportional, H = ξZ and G = (λ²/ξ + ς²)Z (the canonical
    representation hypothesis). Without noise, whatever the inputs: HG = λ²Z², the reciprocal
    power law G ∝ Z²H⁻¹.

    **Arguments:** `variances` ξ_i > 0 of the inputs and `targets` d_i ≥ 0, one for all or one a
    mode; `decay` λ ≥ 0; `noise` ς² ≥ 0, the variance of each label.
    **Returns:** a named tuple (weights Z, hidden H, gradients G), each (modes,).

    **Raises:** ValueError for signs, shapes that do not fit, float32.
    **Regime:** exact for the population loss, a hidden width of at least the number of modes, and
    a generic start. In a flow noise and decay stand for the paper's balance of gradient noise and
    regularisation. **Source:** derived, for 2410.03006.

    ```python
    representations([1.0, 2.0, 0.5], [1.5, 1.0, 2.0], 0.2, 0.0).gradients   # .052, .018, .128
    ```
    """
    problem = _problem(variances, targets, decay, noise)
    s = np.maximum(problem.resting, 0.0)
    return problem.read(s, problem.targets - s)


def alignment(
    variances: Numbers,
    targets: Numbers,
    decay: Numbers,
    noise: Numbers,
    t: Numbers | None = None,
    start: Numbers | None = None,
) -> Float[np.ndarray, "..."]:
    r"""Cosine ⟨H, G⟩/(‖H‖‖G‖) at rest, or at times t of the flow from an aligned start.

    A learned mode has a small gradient: between the first mode and the last alignment is lost, and
    decay alone regains it. With κ_i = d_i − λ/ξ_i,

        s_i(t) = κ_i/(1 + (κ_i/s₀ − 1)e^{−2κ_iξ_i t})

    **Arguments:** those of `representations`; flow times `t ≥ 0`, ∞ included, of any shape (None:
    at rest); `start` s₀ > 0, one for all modes or one each: eigenvalues of Z at t = 0.
    **Returns:** the cosine, with the shape of t.

    **Raises:** ValueError as `representations`, for t without a start, and where H or G is zero:
    without decay and noise nothing is left of G at rest.
    **Regime:** exact from layers that are balanced and aligned with the target. Random starts lose
    and regain alignment at times of their own, and come to the same rest.
    **Source:** derived, for 2410.03006.

    ```python
    alignment(1.0, [1.5, 1.0, 2.0], 0.2, 0.0, [1.0, 4.0, 12.0], 1e-3)    # .985, .691, 1.000
    ```
    """
    problem = _problem(variances, targets, decay, noise)
    if t is None:
        s = np.maximum(problem.resting, 0.0)
        return _cosine(problem.read(s, problem.targets - s))
    if start is None:
        raise ValueError("t is given without start: say which eigenvalues of Z the flow starts at.")
    first = _fitting(real_array(start, "start"), "start", problem.targets.shape)
    if np.any(first <= 0.0):
        raise ValueError(f"start = {first}: eigenvalues of Z, positive; a mode at 0 stays there.")
    when = times(t)
    s, above = _logistic(problem, first, when[..., None])
    # d − s, without the cancellation where decay is small
    return _cosine(problem.read(s, problem.decay / problem.variances + above))


def escape_time(rate: Numbers, start: Numbers, level: Numbers) -> Float[np.ndarray, "..."]:
    r"""When the distance from a symmetric state comes to a level: t = ln(level/start)/μ.

    Off a symmetric rest state −∇²L maps the directions that break the symmetry to themselves;
    along the one of the largest eigenvalue μ the distance Δ = ‖θ − Pθ‖ grows as e^{μt}.
    `gflow.symmetry.breaking` finds μ, and the next order in the level.

    **Arguments:** `rate` μ > 0 (decay subtracted); `start` δ > 0 and `level` ≥ δ, distances along
    that direction. They broadcast. **Returns:** flow time.

    **Raises:** ValueError for μ ≤ 0, where the symmetry lasts, and for other signs.
    **Regime:** level ≪ 1; left out is O(level²), the same for every δ. **Source:** derived, for
    2502.05300, whose Δ_G is Δ².

    ```python
    escape_time(0.0111041695, 1e-6, 1e-2)          # 829.4488
    ```
    """
    mu, delta, final = (
        real_array(x, name)
        for x, name in ((rate, "rate"), (start, "start"), (level, "level"))
    )  # fmt: skip
    if np.any(mu <= 0.0):
        raise ValueError(
            f"rate = {rate}: where the rate is not positive the distance does not grow, and the "
            "symmetry lasts."
        )
    if np.any(delta <= 0.0) or np.any(final < delta):
        raise ValueError(
            f"start = {start}, level = {level}: distances, the first positive and the second at "
            "least as large."
        )
    return np.asarray(np.log(final / delta) / mu)


def softened_product(
    target: Numbers, decay: Numbers, a0: Numbers, b0: Numbers
) -> Float[np.ndarray, "..."]:
    r"""The product ab that decay towards (a₀, b₀), not towards zero, comes to rest at.

    L = ½(ab − m)² + (λ/2)((a − a₀)² + (b − b₀)²). With p = a₀ + b₀, q = a₀ − b₀, the product w of
    the minimum is the only root with |m − w| < λ of

        w = (λ²/4) [p²/(λ − m + w)² − q²/(λ + m − w)²].

    Plain decay (a₀ = b₀ = 0) rests at w = 0 for |m| < λ: collapsed. A random point (syre) softens
    the collapse: to first order w is the right side at w = 0, which grows without bound towards
    the transition λ = m.

    **Arguments:** target m, decay λ > 0, the point (a₀, b₀); they broadcast. **Returns:** w.
    **Raises:** ValueError for λ ≤ 0 and data that are not finite.
    **Regime:** exact, the global minimum: θᵀ(λ − (m − w)σ)θ is then not negative.
    **Source:** derived, for 2408.15495.

    ```python
    softened_product(0.5, 0.8, 0.05, 0.02)         # 0.008169106945894
    ```
    """
    given = ((target, "target"), (decay, "decay"), (a0, "a0"), (b0, "b0"))
    m, lam, a, b = np.broadcast_arrays(*(real_array(x, name) for x, name in given))
    if np.any(lam <= 0.0):
        raise ValueError(f"decay = {decay}: λ is positive; without it every ab = m is at rest.")
    found = [_softened(*map(float, x)) for x in zip(*map(np.ravel, (m, lam, a, b)), strict=True)]
    return np.reshape(found, m.shape)


def _softened(m: float, lam: float, a0: float, b0: float) -> float:
    p, q = a0 + b0, a0 - b0

    def excess(w: float) -> float:
        """Rises strictly from −∞ to ∞ between m − λ and m + λ."""
        grown, shrunk = (lam - m) + w, (lam + m) - w
        with np.errstate(divide="ignore"):
            pulls = [
                0.25 * lam**2 * np.square(np.float64(x) / y) if x else 0.0
                for x, y in ((p, grown), (q, shrunk))
            ]
        return float(w - pulls[0] + pulls[1])

    low, high = m - lam, m + lam
    # p = 0 or q = 0: the end of the interval, with either of two minima
    if excess(low) >= 0.0:
        return low
    if excess(high) <= 0.0:
        return high
    found = root_scalar(excess, bracket=(low, high), method="brentq", xtol=1e-300, rtol=1e-15)
    return float(found.root)


def _problem(variances: Numbers, targets: Numbers, decay: Numbers, noise: Numbers) -> _Problem:
    xi, d = real_array(variances, "variances"), real_array(targets, "targets")
    try:
        xi, d = (np.atleast_1d(x) for x in np.broadcast_arrays(xi, d))
    except ValueError:
        raise ValueError(
            f"variances have shape {xi.shape} and targets {d.shape}: give one of each a mode."
        ) from None
    if d.ndim != 1 or np.any(xi <= 0.0) or np.any(d < 0.0):
        raise ValueError(
            f"variances = {xi}, targets = {d}: one of each a mode, variances positive, targets "
            "(singular values) at least 0."
        )
    numbers = []
    for name, value in (("decay", decay), ("noise", noise)):
        found = real_array(value, name)
        if found.ndim or found < 0.0:
            raise ValueError(f"{name} = {value}: one number of at least 0.")
        numbers.append(float(found))
    return _Problem(xi, d, *numbers)


def _fitting(x: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if x.shape not in ((), shape):
        raise ValueError(f"{name} has shape {x.shape}: one for all modes, or {shape}, one each.")
    return np.broadcast_to(x, shape)


def _logistic(problem: _Problem, first: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """s(t) and κ − s(t)."""
    kappa, rate = problem.resting, 2.0 * problem.variances
    with np.errstate(invalid="ignore", over="ignore"):
        falling = np.where(kappa == 0.0, 1.0, np.exp(-np.abs(kappa) * rate * t))
        rising = kappa > 0.0
        first_part = np.where(rising, 1.0, falling)
        last_part = np.where(rising, falling, 1.0)
        below = first * (first_part - last_part) + kappa * last_part
        s = first * kappa * first_part / below
        missing = kappa * (kappa - first) * last_part / below
        algebraic = first / (1.0 + rate * first * t)
    return np.where(kappa == 0.0, algebraic, s), np.where(kappa == 0.0, -algebraic, missing)


def _cosine(found: Representations) -> np.ndarray:
    h, g = found.hidden, found.gradients
    sizes = [np.max(x, axis=-1, keepdims=True) for x in (h, g)]
    if any(np.any(size == 0.0) for size in sizes):
        raise ValueError(
            "H or G is zero, and has no direction to be aligned with: every mode is below the "
            "decay, or neither decay nor noise is left to hold a gradient at rest."
        )
    h, g = h / sizes[0], g / sizes[1]
    norms = np.linalg.norm(h, axis=-1) * np.linalg.norm(g, axis=-1)
    return np.asarray(np.sum(h * g, axis=-1) / norms)
