"""Clocks of separate heads by quadrature at 20 digits, and drops by the flow of all weights."""

import math

import mpmath
import numpy as np
import pytest
from in_context_flows import (
    CONTEXT,
    EIGENVALUES,
    force,
    integrated,
    loss,
    separate_matrix,
    separate_velocity,
)
from scipy.integrate import solve_ivp

from theory import linear_icl
from theory.linear_icl import _passing
from theory.linear_icl._clocks import Heads
from theory.linear_icl._problem import problem

DIAGONAL = np.diag(EIGENVALUES)


def start(heads, rank=None, seed=0, d=4):
    rng = np.random.default_rng(seed)
    shape = (heads, d) if rank is None else (heads, d, rank)
    return rng.normal(size=heads), rng.normal(size=shape), rng.normal(size=shape)


def blow_up(v, k, q, eigenvalues):
    """∫ds/v of one head by tanh-sinh, in two parts where v passes zero."""
    with mpmath.workdps(20):
        rate = [mpmath.mpf(x) ** 2 for x in np.repeat(eigenvalues, k.size // len(eigenvalues))]
        q = q if v > 0 else -q
        pairs = list(zip(map(mpmath.mpf, k.ravel()), map(mpmath.mpf, q.ravel()), rate, strict=True))

        def square(s):
            moved = (a * mpmath.cosh(x * s) + b * mpmath.sinh(x * s) for a, b, x in pairs)
            return mpmath.mpf(v) ** 2 + sum(
                m**2 - a**2 for m, (a, _, _) in zip(moved, pairs, strict=True)
            )

        grid = [mpmath.mpf(i) / 10 for i in range(600)]
        below = next((i for i, s in enumerate(grid) if square(s) <= 0), None)
        parts = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 600]
        if below is None:
            return float(mpmath.quad(lambda s: 1 / mpmath.sqrt(square(s)), parts))
        turn = mpmath.findroot(square, (grid[below - 1], grid[below]), solver="anderson")

        def inner(u):
            return 2 * u / mpmath.sqrt(abs(square(turn - u * u)) + mpmath.mpf(10) ** -40)

        back = mpmath.quad(inner, [0, 1, 2, 4, 6, 8, 12, 16, 24])
        return float(mpmath.quad(inner, [0, mpmath.sqrt(turn)]) + back)


def test_times_of_heads_by_quadrature():
    v, k, q = start(5)
    v = np.array([0.9, -0.9, 0.2, -0.2, 0.0])
    k[1], q[1] = k[0], q[0]  # one of the two has v pass zero
    found = linear_icl.head_times(v, k, q, EIGENVALUES)
    exact = [blow_up(*one, EIGENVALUES) for one in zip(v[:4], k, q, strict=False)]
    np.testing.assert_allclose(found[:4], exact, rtol=3e-12)
    assert 0 < found[4] < math.inf  # starts with v = 0, and ∫ds/v at its root


def test_times_of_heads_of_rank_two_by_quadrature():
    v, k, q = start(2, rank=2, seed=3)
    found = linear_icl.head_times(v, k, q, EIGENVALUES)
    exact = [blow_up(*one, EIGENVALUES) for one in zip(v, k, q, strict=True)]
    np.testing.assert_allclose(found, exact, rtol=3e-12)


def test_one_direction_is_one_over_its_size():
    """v = k = q: v' = λ²v²; a turned sign of two of them changes nothing."""
    for signs in ((1, 1, 1), (-1, -1, 1), (1, -1, -1)):
        v, k, q = (np.array(s * 1e-3) for s in signs)
        found = linear_icl.head_times([v], [[k]], [[q]], [0.5])
        assert found[0] == pytest.approx(1 / (0.25 * 1e-3), rel=1e-13)
    # the other four signs end at zero
    assert linear_icl.head_times([1e-3], [[1e-3]], [[-1e-3]], [0.5])[0] == math.inf
    still = linear_icl.head_times([0.0, 1.0, 0.0], [[0.0], [0.0], [1.0]], np.zeros((3, 1)), [0.5])
    np.testing.assert_array_equal(still, math.inf)


def test_symmetries_of_the_clocks():
    v, k, q = start(4, seed=5)
    found = linear_icl.head_times(v, k, q, EIGENVALUES)
    for other in (
        linear_icl.head_times(v, q, k, EIGENVALUES),
        linear_icl.head_times(-v, -k, q, EIGENVALUES),
        linear_icl.head_times(1e-200 * v, 1e-200 * k, 1e-200 * q, EIGENVALUES) * 1e-200,
        linear_icl.head_times(v, k[:, ::-1], q[:, ::-1], EIGENVALUES[::-1]),
        linear_icl.head_times(v, k[:, :, None], q[:, :, None], 2 * EIGENVALUES) * 4,
        linear_icl.head_times(v[::-1], k[::-1], q[::-1], EIGENVALUES)[::-1],
    ):
        np.testing.assert_allclose(other, found, rtol=2e-12)
    for sign in (1, -1):  # of v, which starts at zero
        one = linear_icl.head_times([0.0], k[:1], sign * q[:1], EIGENVALUES)
        assert one[0] == pytest.approx(blow_up(1e-9, k[0], q[0], EIGENVALUES), rel=1e-7)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 2)))[0]
    v, k, q = start(3, rank=2)
    np.testing.assert_allclose(
        linear_icl.head_times(v, k @ turn, q @ turn, EIGENVALUES),
        linear_icl.head_times(v, k, q, EIGENVALUES), rtol=2e-12,
    )  # fmt: skip


def crossings(v, k, q, eigenvalues, context, t1):
    """When the loss of the full flow passes half-way between the plateaus."""
    levels = linear_icl.plateaus(eigenvalues, context)
    covariance = np.diag(eigenvalues)
    middle = 0.5 * (levels[1:] + levels[:-1])
    events = [lambda m, x=x: loss(m, covariance, context) - x for x in middle]
    weights = [v, k[:, None, :], q[:, None, :]]
    _, times = integrated(weights, covariance, context, [t1], rtol=1e-9, events=events)
    return np.array([x[0] if x.size else math.nan for x in times])


def test_all_drops_by_the_flow_of_all_weights():
    v, k, q = start(5, seed=3)
    off = {}
    for size in (2e-2, 1e-2):
        found = linear_icl.drops(size * v, size * k, size * q, EIGENVALUES, CONTEXT)
        exact = crossings(size * v, size * k, size * q, EIGENVALUES, CONTEXT, 1.1 * found.times[-1])
        off[size] = np.abs(exact - found.times)
        assert len(set(found.heads.tolist())) == 4
    # a drop takes 5 to 40, and the times are 200 to 10000
    assert np.all(off[1e-2] < [1e-2, 0.5, 0.5, 1.5]), off
    assert np.all(off[1e-2][1:] < 0.7 * off[2e-2][1:]), off


def test_drops_scale_as_one_over_the_size():
    v, k, q = start(5, seed=3)
    times, heads = {}, {}
    for size in (1e-8, 1e-100):
        times[size], heads[size] = linear_icl.drops(size * v, size * k, size * q, EIGENVALUES, 31)
    np.testing.assert_array_equal(heads[1e-8], heads[1e-100])
    # matched: the rest is smaller than any offset of order one
    assert np.all(np.abs(1e-8 * times[1e-8] - 1e-100 * times[1e-100]) < 1e-6)
    order = [2, 0, 3, 1]
    turned = linear_icl.drops(
        1e-8 * v, 1e-8 * k[:, order], 1e-8 * q[:, order], EIGENVALUES[order], 31
    )
    np.testing.assert_allclose(turned.times, times[1e-8], rtol=1e-10)
    first = linear_icl.head_times(1e-8 * v, 1e-8 * k, 1e-8 * q, EIGENVALUES)
    kappa = np.cbrt(1 / (0.4 + 1.4 / 31))
    assert times[1e-8][0] == pytest.approx(min(first) - 1.25339 / (0.16 * kappa), rel=1e-12)
    assert heads[1e-8][0] == np.argmin(first)


def test_what_a_drop_does_to_dormant_heads():
    """Entries X_1j, X_j1 on for a moment, by the flow of a head under an X of its own."""
    v, k, q = start(2, seed=4)
    row, column = np.array([[0.0, 0.3, -0.2, 0.5], [0.0, -0.4, 0.6, 0.1]]) * 1e-7
    x = np.zeros((4, 4))
    x[0], x[:, 0] = row, column
    by = _passing.Turn(row, column, 0.0, 0.0)
    found = _passing.turned(Heads(v, k[:, :, None], q[:, :, None]), by, 0)
    unlearned = slice(1, 4)  # along direction 0 nothing matters any more
    for i in range(2):
        assert found.v[i] - v[i] == pytest.approx(k[i] @ x @ q[i], rel=1e-6)
        for mine, theirs in (
            (found.k, k + v[:, None] * q @ x.T),
            (found.q, q + v[:, None] * k @ x),
        ):
            np.testing.assert_allclose(mine[i, unlearned, 0], theirs[i, unlearned], rtol=1e-13)


def test_the_turn_of_a_drop_by_the_flow_of_its_head():
    """∫X of one head from its start to where the slowest direction has died out."""
    lam = np.array([0.5, 0.42])
    v, k, q = (1e-2 * x for x in (np.array([1.0]), np.array([[1.0, 0.8]]), np.array([[0.9, 1.1]])))
    covariance = np.diag(lam)

    def velocity(_, y):
        weights = y[:1], y[1:3].reshape(1, 1, 2), y[3:5].reshape(1, 1, 2)
        g = force(separate_matrix(*weights), covariance, CONTEXT)
        return np.concatenate([x.ravel() for x in (*separate_velocity(*weights, g), g)])

    begun = np.concatenate([v, k[0], q[0], np.zeros(4)])
    total = solve_ivp(velocity, (0, 3e3), begun, "DOP853", rtol=1e-10, atol=1e-13).y[5:, -1]
    found = problem(lam, CONTEXT)
    heads = Heads(v, k[:, :, None], q[:, :, None])
    late = linear_icl.head_times(v, k, q, lam)[0]
    unit = 1 / (lam[0] ** 2 * np.cbrt(found.optimum[0]))
    by = _passing.turn(heads, found.force, found, 0, late, unit)
    assert by.share > 0.1
    np.testing.assert_allclose(
        [by.acted * lam[0] ** 2, by.row[1], by.column[1]], total[:3], rtol=3e-3
    )


def test_heads_run_out_and_directions_without_variance():
    v, k, q = start(2, seed=1, d=3)
    found = linear_icl.drops(1e-9 * v, 1e-9 * k, 1e-9 * q, [0.5, 0.3, 0.2], 31)
    assert np.all(np.isfinite(found.times[:2]))
    assert (found.times[2], found.heads[2]) == (math.inf, -1)
    v, k, q = start(4, seed=2, d=3)
    found = linear_icl.drops(1e-9 * v, 1e-9 * k, 1e-9 * q, [0.0, 0.7, 0.3], 31)
    assert np.all(np.isfinite(found.times[:2]))
    assert found.heads[2] == -1


@pytest.mark.parametrize("rank", [None, 2])
def test_what_is_conserved(rank):
    v, k, q = start(3, rank=rank)
    rows = [x[:, None, :] if rank is None else x.swapaxes(1, 2) for x in (k, q)]
    mixed = np.random.default_rng(1).normal(size=(4, 4))
    covariance = DIAGONAL + 0.1 * mixed @ mixed.T
    (w, keys, queries), _ = integrated([v, *rows], covariance, 5, [3.0], decay=0.2)
    before = linear_icl.conserved(v, k, q)
    after = linear_icl.conserved(w[0], keys[0].swapaxes(1, 2), queries[0].swapaxes(1, 2))
    for x, y in zip(before, after, strict=True):
        np.testing.assert_allclose(y, math.exp(-1.2) * x, rtol=0, atol=1e-10)
    assert after.keys.shape == (3, rank or 1, rank or 1)


def test_what_merged_heads_conserve():
    rng = np.random.default_rng(2)
    v, u = rng.normal(size=3), rng.normal(size=(3, 4, 4))
    (w, moved), _ = integrated([v, u], DIAGONAL, 5, [3.0], decay=0.1)
    before, after = linear_icl.conserved_merged(v, u), linear_icl.conserved_merged(w[0], moved[0])
    np.testing.assert_allclose(after, math.exp(-0.6) * before, rtol=0, atol=1e-10)
    assert np.max(np.abs(w[0] - v)) > 0.1
