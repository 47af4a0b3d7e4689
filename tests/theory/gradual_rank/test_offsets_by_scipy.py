"""T_k and C_k against flows in NumPy and SciPy, which share no line with what predicts them.

The orbits that `theory` connects and the runs of `gflow` are stepped by one and the same loop, so
that one is no witness against the other. Here the factors are integrated by DOP853 from 10⁻¹⁰⁰ on,
at which the powers of α that a prediction leaves out are below 10⁻¹³.
"""

import itertools
import math

import numpy as np
from least_squares import FIXTURE, LOG10, UNEQUAL, fixture
from matrices import quadratic, quadratic_problem
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

import theory

DECADES, RTOL = 100, 1e-12
SCALE = DECADES * LOG10


def check(prediction, levels, steps):
    """Each stage's level is crossed at T·Λ + C, to the solver's tolerance of a logarithm.

    A step adds an error of RTOL at most to the logarithm of a weight that grows at the stage's
    rate; `levels` are the functions of time that vanish there.
    """
    for stage, level in zip(prediction.stages, levels, strict=True):
        expected = stage.tau * SCALE + stage.offset
        found = brentq(level, expected - 1.0, expected + 1.0, xtol=1e-13, rtol=1e-14)
        assert abs(found - expected) < steps * RTOL / stage.rate
    assert steps * RTOL < 1e-8  # there is little that would pass


def test_hadamard_factors():
    """s' = g⊙s, d' = −g⊙d with s = u + v, d = u − v, through a weight that leaves."""
    x, y = FIXTURE

    def weight(z):
        return (z[:4] ** 2 - z[4:] ** 2) / 4.0

    def field(t, z):
        g = x.T @ (y - x @ weight(z))
        return np.concatenate([g, -g]) * z

    start = math.exp(-SCALE) * np.concatenate(UNEQUAL)
    prediction = fixture("unequal")
    end = prediction.stages[-1].tau * SCALE + 20.0
    run = solve_ivp(field, (0.0, end), start, "DOP853", rtol=RTOL, atol=1e-300, dense_output=True)

    def level(stage):
        ((_, (i,)), height) = stage.level
        return lambda t: weight(run.sol(t))[i] - height

    check(prediction, [level(stage) for stage in prediction.stages], len(run.t))


def graded(logs, columns):
    """The columns e^{l_j} x_j of Z = [A; B], turned into each other until they are orthogonal.

    Jacobi's rotations, in numbers that are of order one whatever the sizes: A Bᵀ stays.
    """
    columns = columns.copy()
    for _ in range(6):
        order = np.argsort(-logs - np.log(np.linalg.norm(columns, axis=0)))
        logs, columns = logs[order], columns[:, order]
        for i in range(len(logs)):
            for j in range(i + 1, len(logs)):
                (x, y), ratio = columns[:, [i, j]].T, math.exp(logs[j] - logs[i])
                overlap = x @ y
                # tan θ over the ratio: of tan 2θ = 2 r⟨x, y⟩ / (|x|² − r²|y|²)
                gap = x @ x - ratio**2 * (y @ y)
                root = math.copysign(math.hypot(gap, 2.0 * ratio * overlap), gap)
                turn = 2.0 * overlap / (gap + root)
                cosine = 1.0 / math.hypot(1.0, ratio * turn)
                columns[:, i] = cosine * (x + ratio**2 * turn * y)
                columns[:, j] = cosine * (y - turn * x)
    sizes = np.linalg.norm(columns, axis=0)
    return logs + np.log(sizes), columns / sizes


def test_factors_of_a_matrix():
    """A' = GB, B' = GᵀA for ½ vec(W − M)ᵀK vec(W − M), of which G = −∂L/∂W commutes with nothing.

    Every column of [A; B] obeys the same linear equation: a short while it is integrated as it
    is, then the columns are cleared of each other, or the small would be lost beside the large.
    """
    kernel, target, left, right = quadratic_problem(7)
    logs, columns = graded(np.full(3, -SCALE), np.concatenate([left, right]))

    def parts(logs, z):
        a, b = np.split(z.reshape(6, 3), 2)
        rest = ((a * np.exp(2.0 * logs)) @ b.T - target).ravel()
        return a, b, rest

    def field(t, z, logs):
        a, b, rest = parts(logs, z)
        force = -(kernel @ rest).reshape(3, 3)
        return np.concatenate([force @ b, force.T @ a]).ravel()

    prediction = theory.gradual_rank.predict(*quadratic(7, -SCALE))
    end = prediction.stages[-1].tau * SCALE + 5.0
    rate = 2.0 * np.linalg.norm((kernel @ target.ravel()).reshape(3, 3), 2)
    pieces, steps = [], 0
    knots = np.linspace(0.0, end, math.ceil(end * rate / 8.0))
    for t0, t1 in itertools.pairwise(knots):
        run = solve_ivp(
            field, (t0, t1), columns.ravel(), "DOP853", args=(logs,), rtol=RTOL, atol=1e-2 * RTOL,
            dense_output=True,
        )  # fmt: skip
        pieces.append((t1, logs, run.sol))
        steps += len(run.t)
        logs, columns = graded(logs, run.y[:, -1].reshape(6, 3))

    def loss(t):
        _, logs, solution = next(piece for piece in pieces if t <= piece[0])
        rest = parts(logs, solution(t))[2]
        return 0.5 * rest @ kernel @ rest

    assert len(prediction.stages) == 3
    check(prediction, [lambda t, s=s: loss(t) - s.level[1] for s in prediction.stages], steps)
