"""The remainder beyond T·Λ + C: against exact solutions, runs and the powers of α it must have."""

import functools
import math
import warnings
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import predicted_families
import pytest
from least_squares import (
    EQUAL,
    FIXTURE,
    LOG10,
    ORTHOGONAL,
    UNEQUAL,
    exact_crossing,
    fixture,
    linear,
    objective,
)
from matrices import Matrix, Quadratic, quadratic, quadratic_problem

import gflow
from gflow.models import SymmetricFactored
from theory.comparison._compare import measure
from theory.gradual_rank import predict
from theory.remainder import _orbit, _remainder, remainder
from theory.remainder._remainder import TRUSTED

#: Below this a remainder is the rounding of the orbits.
FLOOR = 1e-10


@functools.cache
def runs(factors, decades):
    """Misses and error bars of every stage of the fixture at α = 10^−decades."""
    model = linear(-decades * LOG10, {"equal": EQUAL, "unequal": UNEQUAL}[factors])
    run = gflow.simulate(model, objective(FIXTURE), tau1=8.0, rtol=1e-10)
    found = [(c.t, c.error) for c in measure(run, fixture(factors)) if c is not None]
    t, error = np.array(found).T
    return t - fixture(factors).at(run.log_alpha).t[: len(t)], error


# measured by runs at rtol 1e-10 of the fixture with equal factors: α, t₃ − (T₃Λ + C₃)
MEASURED = {16: -0.0900, 32: -3.802e-4, 40: -1.885e-5}


@pytest.mark.parametrize("decades", MEASURED)
def test_remainder_of_a_dying_weight(decades):
    r = remainder(fixture("equal"), -decades * LOG10)
    assert r.signed[2] == pytest.approx(MEASURED[decades], rel=0.1)
    assert abs(MEASURED[decades]) <= r.time[2] <= 5 * abs(MEASURED[decades])


def test_powers_of_alpha_of_the_fixture():
    """2e_j at each transition, from forces (1, ½, 7/10, 0), (0, −3/10, 1/10, −7/25), …

    Weight 2 at the first: 2(1 − 7/10). Weight 3 at the second: 2(1 − 3·7/25). The first, which
    dies at 1/20, at the third: 2/20·80/49.
    """
    r = remainder(fixture("equal"), -50 * LOG10)
    np.testing.assert_allclose(r.exponent, [0.6, 0.32, 8 / 49], rtol=1e-9)
    # and the remainders themselves go with these powers
    pair = [np.abs(remainder(fixture("equal"), -n * LOG10).signed) for n in (10, 14)]
    powers = np.log10(pair[0] / pair[1]) / 4
    np.testing.assert_allclose(powers[:2], [0.6, 0.32], rtol=0.05)


@pytest.mark.parametrize("factors", ["equal", "unequal"])
@pytest.mark.parametrize("decades", [4, 8, 16, 32, 64])
def test_allowance_covers_the_fixture_and_is_of_its_size(factors, decades):
    miss, error = runs(factors, decades)
    r = remainder(fixture(factors), -decades * LOG10)
    trusted = r.efolds[: len(miss)] <= TRUSTED
    allowed = r.time[: len(miss)] + 2 * error + FLOOR
    assert np.all(np.abs(miss)[trusted] <= allowed[trusted])
    clear = trusted & (np.abs(miss) > 10 * error + 10 * FLOOR)
    assert np.all(r.time[: len(miss)][clear] <= 5 * np.abs(miss)[clear])
    assert np.all(r.signed[: len(miss)][clear] * miss[clear] > 0)


@pytest.mark.parametrize("decades", [1.0, 1.5, 2.0])
def test_a_single_weight_has_the_remainder_of_its_riccati_equation(decades):
    """θ' = √(4θ² + c²)(g − hθ) in closed form: its other factor has fallen to α² and adds α⁴."""
    X, y = ORTHOGONAL[0], np.array([1.3, 0.0, 0.0, 0.0])
    pred = predict(linear(-10.0), objective((X, y)))
    (A, C), log_alpha = UNEQUAL, -decades * LOG10
    miss = exact_crossing(1.3, 1.0, A[0], C[0], log_alpha) - pred.at(log_alpha).t[0]
    r = remainder(pred, log_alpha)
    np.testing.assert_allclose(r.signed, miss, rtol=0.1, atol=1e-9)
    assert abs(miss) <= r.time[0] + FLOOR


def test_overtaken_stages_have_no_bound():
    r = remainder(fixture("equal"), -4 * LOG10)
    assert np.isinf(r.time[2])
    assert math.isnan(r.signed[2])
    assert "no later" in r.reason[2]
    assert not r.exists[1]


def test_an_active_start_has_no_bound_and_says_why():
    weights = linear(-20.0, exponents=([0.0, 1.0, 1.0, 1.0], [2.0, 1.0, 1.0, 1.0]))
    r = remainder(predict(weights, objective(FIXTURE)), -40.0)
    assert np.all(np.isinf(r.time))
    assert all("active start" in reason for reason in r.reason)


@pytest.mark.parametrize("log_alpha", [-9.0, -2.3e6])
def test_remainders_at_any_alpha_are_numbers(log_alpha):
    r = remainder(fixture("unequal"), log_alpha)
    assert not np.any(np.isnan(r.time))
    if log_alpha < -1e6:
        assert np.all(r.time < FLOOR)
        assert r.exists.all()


# Columns of matrices


# measured by runs at rtol 1e-10 of quadratic(7, α): α, t − (TΛ + C) of stages 2 and 3, and of
# quadratic(3, α), where a column shrinks on its branch before it escapes
MATRICES = {
    (7, 16): (-1.099e-3, None),
    (7, 32): (-2.916e-5, -9.43e-6),
    (7, 64): (-3.316e-8, -1.109e-8),
    (3, 32): (-2.970e-3, -2.511e-3),
    (3, 64): (-1.650e-5, -1.462e-5),
}


# the same of a square X Xᵀ, whose target has negative directions that nothing grows along
SQUARES = {8: (1.5955e-2, -7.08e-2), 16: (9.22e-4, -4.091e-3), 32: (3.1675e-6, -1.4055e-5)}


@pytest.mark.slow
def test_remainders_of_squares_are_those_of_runs():
    rng = np.random.default_rng(5)
    root = rng.standard_normal((16, 16))
    target = rng.standard_normal((4, 4))
    loss = Quadratic(
        jnp.asarray(root @ root.T / 16 + 0.3 * np.eye(16)), jnp.asarray(target + target.T)
    )
    x = jnp.asarray(rng.standard_normal((4, 3)))
    pred = predict(Matrix(SymmetricFactored(x, log_scale=-40.0).weight), loss)
    for decades, miss in SQUARES.items():
        r = remainder(pred, -decades * LOG10)
        np.testing.assert_allclose(r.signed[1:], miss, rtol=0.05)
        assert np.all(np.abs(miss) <= r.time[1:])
        assert np.all(r.time[1:] <= 2 * np.abs(miss))


@functools.cache
def matrix(seed):
    return predict(*quadratic(seed, -20 * LOG10))


@pytest.mark.parametrize(("seed", "decades"), MATRICES)
def test_remainders_of_columns_are_those_of_runs(seed, decades):
    r = remainder(matrix(seed), -decades * LOG10)
    for k, miss in enumerate(MATRICES[seed, decades], start=1):
        if miss is not None:
            assert r.signed[k] == pytest.approx(miss, rel=0.1)
            assert abs(miss) <= r.time[k] <= 3 * abs(miss)


def test_powers_of_alpha_of_columns():
    """The slowest relaxation of the saddle between, times T₂ − T₁: 0.0919 of seed 7.

    Of the saddle from a differentiation of the flow of Z = [A; B], of directions from the
    singular values of the force on the complement.
    """
    pred = matrix(7)
    kernel, target, *_ = quadratic_problem(7)
    w = pred.stages[0].value["weight"]
    u, s, vt = np.linalg.svd(w)
    z = np.concatenate([u[:, :1], vt[:1].T]) * math.sqrt(s[0])

    def velocity(z):
        w = z[:3] @ z[3:].T
        g = -(kernel @ (w - target).ravel()).reshape(3, 3)
        return np.concatenate([g @ z[3:], g.T @ z[:3]])

    eye = np.eye(6)
    columns = [
        (velocity(z + 1e-6 * e[:, None]) - velocity(z - 1e-6 * e[:, None])) / 2e-6 for e in eye
    ]
    rates = -np.linalg.eigvals(np.concatenate(columns, axis=1)).real
    force = -(kernel @ (w - target).ravel()).reshape(3, 3)
    h = np.linalg.svd(u[:, 1:].T @ force @ vt[1:].T, compute_uv=False)
    slowest = min(float(np.min(rates[rates > 1e-6])), float(h[0] - h[1]))
    r = remainder(pred, -50 * LOG10)
    power = slowest * (pred.stages[1].tau - pred.stages[0].tau)
    assert r.exponent[1] == pytest.approx(power, rel=1e-5)
    assert power == pytest.approx(0.0919, abs=1e-4)


@functools.cache
def late_turn():
    """A 3 × 3 matrix whose dormant columns are still turning when the first orbit has ended."""
    return predicted_families.matrix()


def test_columns_that_turn_late_leave_a_power_of_alpha():
    """Their rates differ by 0.143, the first orbit takes 8.9: they are still 1 apart after it."""
    found = [remainder(late_turn().prediction, -d * LOG10) for d in (60, 120)]
    for k in (1, 2):
        power = math.log(found[0].time[k] / found[1].time[k]) / (60 * LOG10)
        # a match half-way between two orbits costs a part of it
        assert 0.75 <= power / found[0].exponent[k] <= 1.1


@pytest.mark.slow
@pytest.mark.parametrize("decades", [30, 60])
def test_a_late_turn_is_within_its_bounds(decades):
    family = late_turn()
    run = family.run(decades)
    r = remainder(family.prediction, run.log_alpha)
    crossings = measure(run, family.prediction)
    for k, stage in enumerate(family.prediction.stages):
        found = crossings[k]
        assert found is not None
        miss = found.t - stage.tau * run.scale - stage.offset
        assert abs(miss) <= r.time[k] + 2.0 * found.error + FLOOR
        here = run.record_at(r.match[k] + miss)["leaves"]["matrix"]["value"]
        off = np.abs(np.asarray(here) - stage.value["matrix"])
        assert np.all(off <= 1.5 * r.weights[k]["matrix"] + 1e-8)
        # and the bounds are of use
        assert np.max(off) >= 0.2 * np.max(r.weights[k]["matrix"]) or np.max(off) < 1e-6


def test_scales_beyond_the_range_of_numbers_are_named():
    """Inputs of size 1 and 10⁻⁶, the second weight 10⁵: the rates differ by 10⁷."""
    rng = np.random.default_rng(0)
    X = np.linalg.qr(rng.standard_normal((12, 2)))[0] * math.sqrt(12) * np.array([1.0, 1e-6])
    leaf = gflow.Hadamard.small(2, log_alpha=-230.0, key=jax.random.key(1))
    loss = gflow.objectives.SquaredLoss(jnp.asarray(X), jnp.asarray(X @ np.array([1.0, 1e5])))
    pred = predict(gflow.models.DiagonalLinear(leaf), loss)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        r = remainder(pred, -230.0)
    assert r.time[0] < 1e-100
    assert r.time[1] == math.inf
    assert "range of numbers" in r.reason[1]


# How an orbit is cut


@pytest.mark.parametrize(
    "true",
    [lambda: fixture("equal"), lambda: fixture("unequal"), lambda: matrix(3), lambda: matrix(7)],
    ids=["equal", "unequal", "matrix 3", "matrix 7"],
)
def test_a_remainder_does_not_depend_on_how_orbits_are_cut(true, monkeypatch):
    """Joined steps of the orbit against steps an eighth as long: far within the first order."""
    joined = [remainder(true(), -n * LOG10) for n in (16, 32, 64)]
    count = max(len(path.s) for path in _remainder._known[true().orbits].paths)
    monkeypatch.setattr(_remainder, "_known", weakref.WeakKeyDictionary())
    monkeypatch.setattr(_orbit, "_MISSED", _orbit._MISSED / 512)
    monkeypatch.setattr(_orbit, "_CHANGE", _orbit._CHANGE / 8)
    cut = [remainder(true(), -n * LOG10) for n in (16, 32, 64)]
    assert max(len(path.s) for path in _remainder._known[true().orbits].paths) > 3 * count
    for one, other in zip(joined, cut, strict=True):
        clear = (other.efolds <= TRUSTED) & (other.time > FLOOR)
        assert clear.any()
        np.testing.assert_allclose(one.signed[clear], other.signed[clear], rtol=0.05)
        np.testing.assert_allclose(one.time[clear], other.time[clear], rtol=0.05)
