"""The semidefinite complementarity problem that holds curvatures at the edge of stability."""

import numpy as np
from jaxtyping import Float

_ROUNDS, _DONE = 20_000, 1e-12


def covariance(
    slack: Float[np.ndarray, "k k"], gradients: Float[np.ndarray, "k k size"]
) -> Float[np.ndarray, "k k"]:
    r"""X ⪰ 0 with Y = C + ½ B[X] ⪰ 0 and ⟨X, Y⟩ = 0, for B[X]_ij = Σ ⟨G_ij, G_kl⟩ X_kl.

    The minimum over X ⪰ 0 of ¼⟨X, B[X]⟩ + ⟨C, X⟩, by accelerated projected gradients. `slack` is
    C, `gradients` are G.
    """
    k = len(slack)
    flat = gradients.reshape(k * k, -1)
    gram = 0.5 * flat @ flat.T
    if k == 1:
        return np.maximum(-slack / gram, 0.0) if gram[0, 0] > 0.0 else np.zeros((1, 1))
    largest = float(np.linalg.eigvalsh(gram)[-1])
    if not largest > 0.0:
        return np.zeros((k, k))
    x = y = np.zeros((k, k))
    weight = 1.0
    for _ in range(_ROUNDS):
        down = slack + (gram @ y.ravel()).reshape(k, k)
        new = _projected(y - down / largest)
        # start anew where the momentum points uphill
        weight = 1.0 if np.vdot(y - new, new - x) > 0.0 else weight
        following = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * weight**2))
        y, moved = new + (weight - 1.0) / following * (new - x), np.max(np.abs(new - x))
        x, weight = new, following
        if moved <= _DONE * max(float(np.max(np.abs(x))), 1e-300):
            break
    return x


def _projected(x: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(0.5 * (x + x.T))
    return (vectors * np.maximum(values, 0.0)) @ vectors.T
