"""Blow-up times and directions, against flows that know no conserved quantity.

Poles of the raw flow at 40 digits, by tests/references/make/condensation_reference.py, and DOP853
of all weights by SciPy.
"""

import itertools
import math
import pickle

import mpmath as mp
import numpy as np
import pytest
import reference_data
from chain_starts import arrays, normal, relative, start
from scipy.integrate import solve_ivp

from theory import condensation as co
from theory.condensation import _blow_up as blow_up

REFERENCE = reference_data.load("condensation")
FLOWS = REFERENCE["flows"]


def raw_flow(a, b, c, times):
    """(a, B, c) at `times` by the equations as they stand."""
    m, n = b.shape

    def unpack(y):
        return y[:m], y[m : m + m * n].reshape(m, n), y[m + m * n :]

    def field(_, y):
        a, b, c = unpack(y)
        return np.concatenate([b @ c, np.outer(a, c).ravel(), b.T @ a])

    y = np.concatenate([a, b.ravel(), c])
    run = solve_ivp(field, (0, times[-1]), y, "DOP853", times, rtol=3e-14, atol=1e-14)
    assert run.success
    return [unpack(y) for y in run.y.T]


@pytest.mark.parametrize("case", FLOWS, ids=[case["name"] for case in FLOWS])
def test_blow_up_against_40_digits(case):
    a, b, c = (np.array(case[k]) for k in "aBc")
    true = float(case["time"])
    time = co.blow_up_time(a, b, c)
    # the bar holds, and is worth having
    assert abs(time - true) <= time.error + 1e-16
    assert time.error < 1e-11 * true
    assert not time.exact
    lower, upper = co.blow_up_bounds(a, b, c)
    assert lower < true < upper
    limit = co.blow_up_limit(a, b, c)
    assert float(limit.time) == float(time)
    # the transposed chain has the same time
    assert co.blow_up_time(c, b.T, a) == pytest.approx(true, rel=1e-12)
    np.testing.assert_allclose(limit.left, arrays(case["p"]), atol=1e-11)
    np.testing.assert_allclose(limit.right, arrays(case["q"]), atol=1e-11)


def test_references_have_both_signs():
    energies = [np.array(x["a"]) @ np.array(x["B"]) @ np.array(x["c"]) for x in FLOWS]
    assert min(energies) < 0 < max(energies)
    assert 0 in energies


@pytest.mark.slow
def test_bounds_bracket():
    falling = 0
    for seed in range(100):
        d = (2, 3, 5, 9)[seed % 4]
        flow = start(seed, d, d + seed % 3, scale=(1.0, 1e-3, 1e3)[seed % 3])
        time, (lower, upper) = co.blow_up_time(*flow), co.blow_up_bounds(*flow)
        assert time.error < 1e-10 * time
        assert lower < time - time.error
        assert time + time.error < upper
        a, b, c = flow
        energy = a @ b @ c
        falling += energy < 0
        if energy > 0:
            assert upper == pytest.approx(energy ** (-1 / 3), rel=1e-13)
        # E^{-1/3} of the raw flow comes down on T* from above
        late = raw_flow(a, b, c, [0.0, 0.95 * time])[-1]
        left = (late[0] @ late[1] @ late[2]) ** (-1 / 3)
        assert 0.05 * time <= left < 0.06 * time
    assert 30 < falling < 70


def test_bounds_are_equal_for_balanced_starts():
    p, q = (x / np.linalg.norm(x) for x in (normal(0, 4), normal(1, 3)))
    flow = 0.7 * p, 0.7 * np.outer(p, q), 0.7 * q
    lower, upper = co.blow_up_bounds(*flow)
    time = co.blow_up_time(*flow)
    assert time.exact
    assert lower <= 1 / 0.7 <= upper
    assert (lower, upper, float(time)) == pytest.approx((1 / 0.7,) * 3, rel=1e-7)
    assert time == pytest.approx(1 / 0.7, rel=1e-14)


def test_scale_and_rotation():
    a, b, c = start(3, 4, 3)
    time = co.blow_up_time(a, b, c)
    for s in (1e-80, 1e-3, 1e90):
        assert co.blow_up_time(s * a, s * b, s * c) * s == pytest.approx(time, rel=1e-12)
    u, v = (np.linalg.qr(normal(seed, n, n))[0] for seed, n in ((5, 4), (6, 3)))
    assert co.blow_up_time(u @ a, u @ b @ v.T, v @ c) == pytest.approx(time, rel=1e-12)
    # the sign of the product matters, other signs do not
    assert co.blow_up_time(-a, b, -c) == pytest.approx(time, rel=1e-12)
    assert abs(co.blow_up_time(-a, b, c) / time - 1) > 0.01
    copy = pickle.loads(pickle.dumps(time))
    assert (float(copy), copy.error, copy.exact) == (float(time), time.error, False)


def carlson(alpha, beta, gamma):
    """T* by quadrature of α' = √((α² − A)(α² − B)) at 30 digits, over both branches of the path."""
    with mp.workdps(30):
        small, middle, large = sorted((mp.mpf(x) for x in (alpha, beta, gamma)), key=abs)
        squares = middle**2 - small**2, large**2 - small**2

        def until(top):  # of the smallest, β' = √((β² + ·)(β² + ·)), from 0 to top
            return mp.quad(lambda x: 1 / mp.sqrt((x * x + squares[0]) * (x * x + squares[1])), top)

        away = until([abs(small), 2 * large, mp.inf])
        falling = mp.sign(small) * mp.sign(middle) * mp.sign(large) < 0
        return away + (2 * until([0, abs(small)]) if falling else 0)


CHAINS = [
    (1.3, 0.4, 0.9), (1.3, -0.4, 0.9), (0.9, 1.3, -0.4), (-0.4, -1.3, -0.9), (-0.4, -1.3, 0.9),
    (1.0, 0.0, 0.3), (0.5, 0.5, 2.0), (1e-7, 3.0, 2e-7), (1e-12, 1.0, -3e-12), (2.0, -0.999, 1.0),
]  # fmt: skip


@pytest.mark.parametrize("chain", CHAINS)
def test_rank_one_against_quadrature(chain):
    true = float(carlson(*chain))
    for values in itertools.permutations(chain):
        assert co.rank_one_blow_up(*values) == pytest.approx(true, rel=1e-12)
    # the general route, with the closed form and without
    alpha, beta, gamma = chain
    time = co.blow_up_time([alpha], [[beta]], [gamma])
    assert time.exact
    assert abs(time - true) <= time.error
    p, q = (x / np.linalg.norm(x) for x in (normal(8, 3), normal(9, 4)))
    # what is orthogonal in B stands still
    u, _, vt = np.linalg.svd(np.outer(p, q))
    b = beta * np.outer(p, q) + 0.3 * np.outer(u[:, 1], vt[1])
    time = co.blow_up_time(alpha * p, b, gamma * q)
    assert abs(time - true) <= time.error
    assert time.error < 1e-9 * true


@pytest.mark.parametrize("chain", CHAINS)
def test_the_integration_reaches_the_closed_form(chain, monkeypatch):
    monkeypatch.setattr(blow_up, "_aligned", lambda *_: None)
    alpha, beta, gamma = chain
    time = co.blow_up_time([alpha], [[beta]], [gamma])
    true = float(carlson(*chain))
    assert not time.exact
    assert abs(time - true) <= time.error
    assert time.error < 1e-8 * true
    lower, upper = co.blow_up_bounds([alpha], [[beta]], [gamma])
    assert lower <= true <= upper


def test_rank_one_fixtures():
    times = co.rank_one_blow_up(1.3, [0.4, -0.4], 0.9)
    np.testing.assert_allclose(times, [1.175144247767945, 1.935134636307140], rtol=1e-15)
    assert co.rank_one_blow_up(2.0, 2.0, 2.0) == pytest.approx(0.5, rel=1e-15)
    # squares of these vanish in float64: ln(4/(x + y)) with x = y = 1e-200
    far = co.rank_one_blow_up(1e-200, 1.0, 1e-200)
    assert far == pytest.approx(math.log(2) + 200 * math.log(10), rel=1e-15)
    assert co.blow_up_time([1e-200], [[1.0]], [1e-200]) == pytest.approx(float(far), rel=1e-15)
    # T* grows as log(1/gap)
    gaps = 10.0 ** -np.arange(4, 12)
    steps = np.diff(co.rank_one_blow_up(1.3, -0.9, 0.9 * (1 - gaps)))
    np.testing.assert_allclose(steps, steps[-1], rtol=1e-3)
    assert steps[-1] > 0.5


def test_conserved():
    flow = start(11, 4, 3)
    time = co.blow_up_time(*flow)
    first = co.conserved(*flow)
    for later in raw_flow(*flow, np.linspace(0, 0.9 * time, 5)):
        for x, y in zip(co.conserved(*later), first, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-9)
    # shapes tell left from right
    assert (first.left.shape, first.right.shape) == ((4, 4), (3, 3))
    assert first.difference == flow[2] @ flow[2] - flow[0] @ flow[0]


def test_limits_and_rates():
    flow = start(7, 5)
    limit = co.blow_up_limit(*flow)
    shift = co.conserved(*flow).difference
    taus = float(limit.time) * np.array([0.04, 0.02, 0.01])
    errors = []
    for tau, (a, b, c) in zip(taus, raw_flow(*flow, float(limit.time) - taus), strict=True):
        square = a @ a
        off = a - limit.left * (limit.left @ a)
        angle = np.linalg.norm(off) / np.linalg.norm(a)
        srank = np.sum(b**2) / np.linalg.norm(b, 2) ** 2
        errors.append(
            [
                angle / tau**2 / limit.turn - 1,
                (srank - 1) / tau**2 / limit.spread - 1,
                (square - tau**-2) * -3 / (shift + limit.mean) - 1,
                (a @ b @ c) * tau**3 - 1,
                relative(b / np.linalg.norm(b), np.outer(limit.left, limit.right)),
                relative(c / np.linalg.norm(c), limit.right),
            ]
        )
    orders = np.log2(np.abs(np.array(errors)[:-1] / np.array(errors)[1:]))[-1]
    # the next term is one or two powers of τ down; E τ³ = 1 + O(τ⁴), and the limits themselves
    assert np.all(orders[:3] > 0.8)
    assert np.all(np.abs(errors[-1][:3]) < 0.05)
    assert orders[3] == pytest.approx(4, abs=0.4)
    assert orders[4] == pytest.approx(1, abs=0.4)
    assert orders[5] == pytest.approx(2, abs=0.4)


def test_value_cosines():
    d = 4
    value, v = normal(1, d, d), normal(2, d)
    unit = v / np.linalg.norm(v)
    flow = unit @ value, normal(3, d, d), normal(4, d)
    time = float(co.blow_up_time(*flow))
    later = [x[0] for x in raw_flow(*flow, [0.0, 0.5 * time, 0.999 * time])]
    cosines = co.value_cosines(value, v, np.stack(later))
    for a, cosine in zip(later, cosines, strict=True):
        w = value + np.outer(unit, a - flow[0])  # W_V' = vᵀa'ᵀ
        np.testing.assert_allclose(cosine, unit @ w / np.linalg.norm(w, axis=0), rtol=1e-12)
    np.testing.assert_array_equal(np.sign(cosines[-1]), np.sign(co.blow_up_limit(*flow).left))
    assert np.min(np.abs(cosines[-1])) > 0.95
