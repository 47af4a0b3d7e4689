"""Least squares of four examples and four Hadamard features: one compiled shape.

The fixture is that of 2607.12332; with orthogonal features every weight is on its own, and its
times are known exactly.
"""

import functools
import math

import jax.numpy as jnp
import mpmath as mp
import numpy as np

import gflow
import theory
from gflow.models import DiagonalLinear
from gflow.objectives import SquaredLoss
from theory.gradual_rank import predict

LOG10 = math.log(10.0)
WEIGHT = "weight"

# Every linear problem has four examples and four features: one compiled shape.
FIXTURE = (
    np.array([[1, 0.5, 0.7, 0], [0.5, 1, 0.1, 0.7], [0, 0, 0, 0], [0, 0, 0, 0]]),
    np.array([1.0, 0, 0, 0]),
)
SADDLES = np.array([[4 / 5, 0, 0, 0], [0, 0, 7 / 5, 0], [0, 0, 10 / 7, -10 / 49]])
TIMES = np.array([1.0, 4.0, 4.0 + 80.0 / 49.0])
EQUAL = (np.full(4, math.sqrt(2)), np.full(4, math.sqrt(2)))  # u = √2 α, v = 0
UNEQUAL = (np.array([0.6, 1.7, 1.0, 0.8]), np.array([1.2, 0.7, 1.9, 0.9]))


def random_problem(seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((4, 4)), rng.standard_normal(4)


def objective(problem, reduction="half_sum"):
    return SquaredLoss(*map(jnp.asarray, problem), reduction)


def scaled(log_alpha, factors, exponents=(1.0, 1.0)):
    """A Hadamard leaf with |s| = A·α^k, |d| = C·α^m."""
    (A, C), (k, m) = factors, exponents
    shape = np.shape(A)
    k, m = (
        np.broadcast_to(np.asarray(k, float), shape),
        np.broadcast_to(np.asarray(m, float), shape),
    )
    return gflow.Hadamard.from_scales(
        log_s=jnp.asarray(k * log_alpha + np.log(A)),
        log_d=jnp.asarray(m * log_alpha + np.log(C)),
        log_alpha=log_alpha,
        exponent_s=jnp.asarray(k),
        exponent_d=jnp.asarray(m),
    )


def linear(log_alpha, factors=UNEQUAL, exponents=(1.0, 1.0)):
    return DiagonalLinear(scaled(log_alpha, factors, exponents))


def taus(prediction):
    return np.array([s.tau for s in prediction.stages])


def offsets(prediction):
    return np.array([s.offset for s in prediction.stages])


def values(prediction, name=WEIGHT):
    return np.array([s.value[name] for s in prediction.stages])


def measured(prediction, trajectory):
    """Flow times at which the run crosses the prediction's levels, from the table."""
    rows = theory.compare(trajectory, prediction).rows
    assert [row.stage for row in rows] == [str(k + 1) for k in range(len(prediction.stages))]
    return np.array([row.tau_measured for row in rows]) * trajectory.scale


def misses(prediction, make, loss, decades, decay=0.0):
    """t_k measured − (T_k·Λ + C_k), one row for each α = 10^−decades."""
    out = []
    for n in decades:
        run = gflow.simulate(
            make(-n * LOG10),
            loss,
            tau1=1.2 * prediction.stages[-1].tau,
            decay=decay,
            error_bars=False,  # compiles in half the time
        )
        out.append(measured(prediction, run) - prediction.at(-n * LOG10).t)
    return np.array(out)


@functools.cache
def fixture(factors):
    return predict(linear(-10.0, {"equal": EQUAL, "unequal": UNEQUAL}[factors]), objective(FIXTURE))


@functools.cache
def fixture_run(factors, log_alpha):
    model = linear(log_alpha, {"equal": EQUAL, "unequal": UNEQUAL}[factors])
    return gflow.simulate(model, objective(FIXTURE), tau1=8.0, error_bars=False)


ORTHOGONAL = (np.diag([1.0, 2.0, 0.5, 1.5]), np.array([1.3, -0.4, -0.9, 0.35]))


def exact_crossing(g, h, A, C, log_alpha):
    """Flow time at which θ' = √(4θ² + c²)(g − hθ), from scale α, reaches half of g/h > 0."""
    with mp.workdps(60):
        g, h, A, C = map(mp.mpf, (g, h, A, C))
        kappa = A * C * mp.exp(2 * mp.mpf(log_alpha)) / 2
        # θ = κ sinh 2z, z' = g − hκ sinh 2z: a Riccati equation in w = e^{2z}
        R = mp.sqrt(g**2 + (h * kappa) ** 2)
        up, down = (g + R) / (h * kappa), (g - R) / (h * kappa)

        def primitive(w):
            return mp.log((w - down) / (up - w)) / (2 * R)

        end = mp.exp(mp.asinh(g / h / (2 * kappa)))
        return float(primitive(end) - primitive(A / C))
