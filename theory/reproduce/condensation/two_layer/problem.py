"""Data in two dimensions, 40 neurons, and three activations.

Squared loss and neurons of size ε: tanh (p = 1), where the whole network is followed, z·tanh z
(p = 2) and z²·tanh z (p = 3), where neurons blow up one after another, so that each is also
followed alone, until it has grown to LEVEL.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import gflow
from theory import two_layer_condensation as theory

#: A draw for which h takes both signs where p = 2, so that all four critical angles attract; with
#: one sign only two do, and slowly.
SEED = 27
NEURONS, EXAMPLES, RTOL = 40, 12, 1e-10
#: Size ρ = √(p a² + ‖w‖²) up to which neurons are followed where p ≥ 2.
LEVEL = 0.03
NAMES = {1: "tanh z", 2: "z tanh z", 3: "z² tanh z"}


class TwoLayer(eqx.Module):
    """x ↦ Σ_j a_j σ(w_j·x), with σ(z) = (s₁ + s₂ z + s₃ z²) tanh z: one compilation for all p."""

    inner: Float[Array, "m d"]
    outer: Float[Array, " m"]
    share: gflow.Frozen

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        z = self.inner @ x
        s = self.share.value
        return self.outer @ ((s[0] + z * (s[1] + z * s[2])) * jnp.tanh(z))


class Problem:
    """Data of the three networks and their weights of size O(1)."""

    def __init__(self, neurons: int):
        rng = np.random.default_rng(SEED)
        self.x, self.y = rng.standard_normal((EXAMPLES, 2)), rng.standard_normal(EXAMPLES)
        self.outer = rng.standard_normal(NEURONS)[:neurons]
        self.inner = rng.standard_normal((NEURONS, 2))[:neurons]
        self.objective = gflow.objectives.SquaredLoss(self.x, self.y)

    def bound(self, p: int, level: float = LEVEL) -> float:
        """Largest relative error of h at size `level`, where z^{p−1} tanh z stands for z^p.

        That of σ is below z² ≤ (level·|x|)²; in h it grows by the cancellation Σ|y_i (w·x_i)^p| /
        |Σ y_i (w·x_i)^p|, the worst of all orientations.
        """
        limits = theory.orientations(self.x, self.y, p)
        angle = limits.angle[limits.attracts != 0]
        powers = (np.stack([np.cos(angle), np.sin(angle)], axis=1) @ self.x.T) ** p
        cancelled = np.max(np.abs(powers) @ np.abs(self.y) / np.abs(powers @ self.y))
        return float(level**2 * np.max(np.sum(self.x**2, axis=1)) * cancelled)

    def start(self, epsilon: float, p: int) -> TwoLayer:
        inner, outer = jnp.asarray(epsilon * self.inner), jnp.asarray(epsilon * self.outer)
        return TwoLayer(inner, outer, gflow.Frozen(jnp.eye(3)[p - 1]))

    def run(self, epsilon: float, p: int, t1: float, save=None) -> gflow.Trajectory:
        """The whole network."""
        start = self.start(epsilon, p)
        return gflow.simulate(start, self.objective, t1=t1, rtol=RTOL, save=save, error_bars=False)

    def alone(self, epsilon: float, p: int, t1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Every neuron by itself until its own time: outer (m,), inner (m, 2) there."""
        one, share = self.start(epsilon, p), jnp.broadcast_to(jnp.eye(3)[p - 1], (len(t1), 3))
        stacked = TwoLayer(one.inner[:, None], one.outer[:, None], gflow.Frozen(share))
        runs = gflow.simulate_batch(stacked, self.objective, t1=t1, rtol=RTOL, error_bars=False)
        ends = [[run.observables[n][-1, 0] for n in ("outer", "inner")] for run in runs]
        outer, inner = (np.array(x) for x in zip(*ends, strict=True))
        return outer, inner
