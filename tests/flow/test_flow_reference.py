"""The flow against u' = v⊙g, v' = u⊙g integrated at 50 digits in the plain factors.

The references (tests/references/make/flow_reference.py) run through deactivations and
changes of sign, and share no formula with the log coordinates they are held against.
"""

import diffrax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import reference_data

import gflow

REFERENCE = reference_data.load("flow")


def numbers(rows):
    with mp.workdps(50):
        return np.array([[mp.mpf(x) for x in row] for row in rows])


def problem(run):
    """Model, objective, times and the reference θ, u, v (θ as floats, u and v as mpf)."""
    with mp.workdps(50):
        (u0,), (v0,) = numbers([run["u0"]]), numbers([run["v0"]])
        log_s, log_d = ([float(mp.log(abs(x))) for x in y] for y in (u0 + v0, u0 - v0))
        sign_s, sign_d = ([int(mp.sign(x)) for x in y] for y in (u0 + v0, u0 - v0))
        u, v = numbers(run["u"]), numbers(run["v"])
        theta = (u * v).astype(float)
    weight = gflow.Hadamard.from_scales(
        log_s=jnp.array(log_s),
        log_d=jnp.array(log_d),
        sign_s=jnp.array(sign_s),
        sign_d=jnp.array(sign_d),
        log_alpha=np.log(float(run["alpha"])),
    )
    objective = gflow.objectives.SquaredLoss(
        jnp.array(run["inputs"], float), jnp.array(run["targets"], float), "half_sum"
    )
    model = gflow.models.DiagonalLinear(weight)
    return model, objective, np.array(run["t"], float), theta, u, v


def at(trajectory, times):
    rows = np.searchsorted(trajectory.t, times)
    np.testing.assert_array_equal(trajectory.t[rows], times)
    return rows


def test_the_references_contain_the_events_they_are_meant_for():
    _, _, _, theta, _, _ = problem(REFERENCE["zhao 1e-8"])
    assert theta[:, 0].max() > 0.79  # coordinate 0 carries the first plateau,
    assert theta[-1, 0] < 0.03  # and leaves it
    for alpha in ("1e-2", "1e-4", "1e-8"):
        _, _, _, theta, _, _ = problem(REFERENCE[f"signs {alpha}"])
        assert theta[:, 0].max() > 0.35  # active positive,
        assert theta[-1, 0] < -0.17  # then active negative
        (u0,), (v0,) = (numbers([REFERENCE[f"signs {alpha}"][k]]) for k in ("u0", "v0"))
        assert u0[2] * v0[2] > 0 > theta[0, 2]  # changes sign while dormant


@pytest.mark.parametrize("name", REFERENCE)
def test_log_coordinates_agree_with_50_digits(name):
    model, objective, times, theta, u, v = problem(REFERENCE[name])
    run = gflow.simulate(model, objective, t1=times[-1], save=times, rtol=1e-11, error_bars=False)
    rows = at(run, times)
    np.testing.assert_allclose(run.observables["weight"][rows], theta, rtol=0, atol=1e-8)

    # s and d themselves: the smaller of the two is what decides the next event.
    with mp.workdps(50):
        log = np.vectorize(lambda x: float(mp.log(abs(x))))
        log_s, log_d = log(u + v), log(u - v)
    np.testing.assert_allclose(run.leaves["weight"]["log_s"][rows], log_s, rtol=0, atol=1e-7)
    np.testing.assert_allclose(run.leaves["weight"]["log_d"][rows], log_d, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["zhao 1e-2", "zhao 1e-4", "signs 1e-2", "signs 1e-4"])
def test_raw_factors_agree_with_50_digits_and_conserve_the_balance(name):
    model, objective, times, theta, u, v = problem(REFERENCE[name])
    run = gflow.simulate(
        gflow.to_factors(model), objective, t1=times[-1], save=times, rtol=1e-12,
        solver=diffrax.Dopri8(), error_bars=False,
    )  # fmt: skip
    rows = at(run, times)
    np.testing.assert_allclose(run.observables["weight"][rows], theta, rtol=0, atol=1e-8)
    # rtol is relative to u and v, whose squares the balance subtracts.
    u, v = run.leaves["weight"]["u"], run.leaves["weight"]["v"]
    drift = np.abs((u**2 - v**2) - (u[0] ** 2 - v[0] ** 2))
    assert np.max(drift) < 10 * 1e-12 * np.max(u**2 + v**2)


@pytest.mark.parametrize("name", REFERENCE)
def test_error_bars_cover_the_true_error(name):
    model, objective, times, theta, _, _ = problem(REFERENCE[name])
    run = gflow.simulate(model, objective, t1=times[-1], save=times, rtol=1e-5)
    rows = at(run, times)
    error, bar = np.abs(run.observables["weight"][rows] - theta), run.error["weight"][rows]
    assert error.max() > 1e-8  # there is an error to cover
    assert np.all(error.max(axis=0) <= bar.max(axis=0))
    # One by one a bar may fall short where the difference of the two runs crosses zero.
    assert np.mean(error <= bar + 1e-14) > 0.95


def test_the_error_is_proportional_to_rtol():
    model, objective, times, theta, _, _ = problem(REFERENCE["signs 1e-4"])
    rtol, error = np.array([1e-5, 1e-7, 1e-9, 1e-11]), []
    for x in rtol:
        run = gflow.simulate(model, objective, t1=times[-1], save=times, rtol=x, error_bars=False)
        error.append(np.max(np.abs(run.observables["weight"][at(run, times)] - theta)))
    slope = np.polyfit(np.log(rtol), np.log(error), 1)[0]
    assert slope == pytest.approx(1.0, abs=0.2)
