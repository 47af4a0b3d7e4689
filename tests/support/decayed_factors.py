"""Flows under weight decay by SciPy, and what the tests of factors measure in them."""

import numpy as np
from scipy.integrate import solve_ivp


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def integrate(gradient, start, decay, times):
    """Weights (a list of arrays) at `times` of w' = −gradient(w) − λ(t)w."""
    shapes = [w.shape for w in start]
    splits = np.cumsum([w.size for w in start])[:-1]

    def unpack(y):
        return [x.reshape(s) for x, s in zip(np.split(y, splits), shapes, strict=True)]

    def field(t, y):
        rate = decay(t) if callable(decay) else decay
        weights = unpack(y)
        pulled = gradient(*weights)
        return np.concatenate(
            [-(np.asarray(g) + rate * w).ravel() for g, w in zip(pulled, weights, strict=True)]
        )

    flat = np.concatenate([w.ravel() for w in start])
    run = solve_ivp(field, (0, times[-1]), flat, "DOP853", times, rtol=1e-12, atol=1e-14)
    assert run.success
    return [np.stack(w) for w in zip(*(unpack(y) for y in run.y.T), strict=True)]


def grams(a, b):
    """‖A‖² + ‖B‖² at every time, of all heads."""
    return (np.sum(a**2, axis=(-2, -1)) + np.sum(b**2, axis=(-2, -1)))[..., None, None]
