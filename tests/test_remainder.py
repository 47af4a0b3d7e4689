"""The remainder beyond T·Λ + C: against exact solutions, runs and the powers of α it must have."""

import functools
import math

import numpy as np
import pytest
from test_gradual_rank import (
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

import gflow
from theory.comparison import measure
from theory.gradual_rank import predict
from theory.remainder import TRUSTED, remainder

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


@pytest.mark.parametrize("log_alpha", [-9.0, -2.3e6])
def test_remainders_at_any_alpha_are_numbers(log_alpha):
    r = remainder(fixture("unequal"), log_alpha)
    assert not np.any(np.isnan(r.time))
    if log_alpha < -1e6:
        assert np.all(r.time < FLOOR)
        assert r.exists.all()
