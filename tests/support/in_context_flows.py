"""In-context regression as it stands in the paper: flows of all weights, in NumPy and SciPy."""

import numpy as np
from scipy.integrate import solve_ivp

EIGENVALUES = np.array([0.4, 0.3, 0.2, 0.1])
CONTEXT = 31


def second_moment(covariance, context, noise=0.0):
    """E[ββᵀ], from E[Λ̂²] = Λ² + (Λ + tr Λ)Λ/N and the noise of the mean of ε_n x_n."""
    d = len(covariance)
    trace = np.trace(covariance)
    gaussian = covariance @ (covariance + (covariance + trace * np.eye(d)) / context)
    return gaussian + noise / context * covariance


def force(matrix, covariance, context, noise=0.0):
    """−½ ∂E(y − βᵀMx)²/∂M."""
    second = second_moment(covariance, context, noise)
    return covariance @ covariance - second @ matrix @ covariance


def merged_matrix(v, u):
    return np.einsum("h,hab->ab", v, u)


def separate_matrix(v, k, q):
    """K, Q: (H, R, D)."""
    return np.tensordot(v[:, None, None] * k, q, ((0, 1), (0, 1)))


def merged_velocity(v, u, g):
    return [np.einsum("hab,ab->h", u, g), v[:, None, None] * g]


def separate_velocity(v, k, q, g):
    """v' = tr(K G Qᵀ), K' = v Q Gᵀ, Q' = v K G."""
    kg, each = k @ g, v[:, None, None]
    return [np.sum(kg * q, axis=(1, 2)), each * (q @ g.T), each * kg]


def integrated(start, covariance, context, t, *, rtol=1e-12, noise=0.0, decay=0.0, events=()):
    """Weights (a list of arrays with times first) at t, and the times of events(M)."""
    shapes = [x.shape for x in start]
    ends = np.cumsum([x.size for x in start])
    merged, separate = (merged_matrix, merged_velocity), (separate_matrix, separate_velocity)
    made, moved = merged if len(start) == 2 else separate

    def split(y):
        return [x.reshape(s) for x, s in zip(np.split(y, ends[:-1]), shapes, strict=True)]

    def velocity(_, y):
        weights = split(y)
        g = force(made(*weights), covariance, context, noise)
        return np.concatenate([x.ravel() for x in moved(*weights, g)]) - decay * y

    found = solve_ivp(
        velocity, (0.0, t[-1]), np.concatenate([x.ravel() for x in start]), "DOP853", t_eval=t,
        rtol=rtol, atol=1e-20, events=[lambda s, y, e=e: e(made(*split(y))) for e in events],
    )  # fmt: skip
    weights = [split(y) for y in found.y.T]
    return [np.array(x) for x in zip(*weights, strict=True)], found.t_events


def loss(matrix, covariance, context, noise=0.0):
    """E(y − ŷ)², y with noise."""
    b = second_moment(covariance, context, noise)
    return (
        np.trace(covariance) + noise
        - 2.0 * np.trace(matrix @ covariance @ covariance)
        + np.trace(b @ matrix @ covariance @ matrix.T)
    )  # fmt: skip
