"""Linear networks shared by the tests: starts, their flow by SciPy and by gflow."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

import gflow
from theory.exact_linear import balanced_start

SHAPES = [(4, 4, 4), (3, 6, 5), (4, 2, 5), (3, 4, 5), (5, 4, 3), (5, 2, 5), (4, 3, 4), (5, 3, 5)]
#: every (sizes, λ, γ) for which a start exists
CASES = [
    (sizes, balance, decay)
    for sizes in SHAPES
    for balance, decay in [(0.0, 0.0), (0.7, 0.0), (-0.7, 0.0), (2.0, 0.0), (0.0, 0.4)]
    if (balance <= 0 or sizes[1] <= sizes[2]) and (balance >= 0 or sizes[1] <= sizes[0])
]


def problem(sizes, balance=0.0, scale=0.3, seed=0):
    i, _, o = sizes
    target = np.random.default_rng(seed).standard_normal((o, i))
    return *balanced_start(sizes, balance=balance, scale=scale, key=jax.random.key(seed)), target


def flow(weights, target, times, decay=0.0):
    """The weights at `times` of W_l' = −∂L/∂W_l − γW_l for any number of layers, by DOP853."""
    shapes = [w.shape for w in weights]
    splits = np.cumsum([w.size for w in weights])[:-1]

    def unpack(y):
        return [x.reshape(s) for x, s in zip(np.split(y, splits), shapes, strict=True)]

    def chain(matrices, size):
        product = np.eye(size)
        for matrix in matrices:
            product = matrix @ product
        return product

    def field(t, y):
        layers = unpack(y)
        residual = target - chain(layers, target.shape[1])
        out = []
        for k, layer in enumerate(layers):
            below = chain(layers[:k], target.shape[1])
            above = chain(layers[k + 1 :], layer.shape[0])
            out.append((above.T @ residual @ below.T - decay * layer).ravel())
        return np.concatenate(out)

    start = np.concatenate([w.ravel() for w in weights])
    run = solve_ivp(
        field,
        (0.0, times[-1]),
        start,
        "DOP853",
        times,
        rtol=1e-12,
        atol=1e-12 * np.abs(start).max(),
    )
    assert run.success
    return [unpack(y) for y in run.y.T]


def relative(measured, exact):
    """Largest error over the largest entry, one number a matrix."""
    gap = np.max(np.abs(np.asarray(measured) - exact), axis=(-2, -1))
    return gap / np.max(np.abs(exact), axis=(-2, -1))


def product(model):
    return model.product


def simulated(weights, target, t1, decay=0.0, rtol=1e-12, **options):
    model = gflow.models.DeepLinear(tuple(jnp.asarray(w) for w in weights))
    objective = gflow.objectives.SquaredLoss(
        jnp.eye(target.shape[1]), jnp.asarray(target.T), reduction="half_sum"
    )
    run = gflow.simulate(
        model, objective, t1=t1, decay=decay, rtol=rtol, error_bars=False,
        observables={"product": product}, **options,
    )  # fmt: skip
    assert run.successful
    return run


def orthogonal(seed, n):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
