"""Steps in which time passes by equal factors: where they are taken, and that they are right."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import gflow
from gflow.integrate._passing import Passing, middle, straighter_in_log


class Weights(eqx.Module):
    a: jax.Array


class Falling(eqx.Module):
    """Σ rate·e^{−a}: a(t) = log(e^{a(0)} + rate·t)."""

    rate: jax.Array

    def __call__(self, model):
        return jnp.sum(self.rate * jnp.exp(-model.a))

    def exact(self, start, t):
        return np.log(np.exp(start) + np.asarray(self.rate) * t[:, None])


class Creeping(eqx.Module):
    """Σ a⁴/4: a(t) = (a(0)^{−2} + 2t)^{−1/2}, which no logarithm is."""

    def __call__(self, model):
        return jnp.sum(model.a**4) / 4.0


START = np.array([0.0, 1.0, 2.0])
FALLING = Falling(jnp.array([1.0, 3.0, 0.1]))


@pytest.mark.parametrize("solver", [None, gflow.solvers.Dopri8(), gflow.solvers.Rodas5P()])
def test_logarithms_are_followed_in_few_steps_and_within_their_bars(solver):
    run = gflow.simulate(Weights(jnp.asarray(START)), FALLING, t1=1e30, rtol=1e-9, solver=solver)
    off = np.abs(run.observables["a"] - FALLING.exact(START, run.t))
    assert np.max(off) < 1e-7
    assert np.all(off <= 10.0 * run.error["a"] + 1e-9)
    # of log t = 69; evenly Dopri8 took 150 steps, Rodas5P more than 500
    assert run.statistics["accepted"] < (200 if run.method.startswith("Rodas5P") else 100)
    late = run.t > 1e6
    assert np.max(np.diff(np.log(run.t[late]))) > 3.0


def test_the_states_between_are_right():
    run = gflow.simulate(Weights(jnp.asarray(START)), FALLING, t1=1e12, rtol=1e-9, error_bars=False)
    middles = np.sqrt(run.t[-4:-1] * run.t[-3:])
    for t in middles:
        assert t not in run.t
        exact = FALLING.exact(START, np.array([t]))[0]
        np.testing.assert_allclose(run.model(t=float(t)).a, exact, atol=1e-7)


def test_powers_are_followed_too():
    run = gflow.simulate(Weights(jnp.asarray(START + 1.0)), Creeping(), t1=1e20, rtol=1e-8)
    exact = ((START + 1.0) ** -2 + 2.0 * run.t[:, None]) ** -0.5
    # plain weights have an absolute tolerance, of the size of the start
    np.testing.assert_allclose(run.observables["a"], exact, rtol=0, atol=1e-8)
    assert run.statistics["accepted"] < 150


def test_a_window_of_decay_is_met_late_in_time():
    def decay(t):
        return jnp.where((t >= 1e6) & (t < 3e6), 1e-6, 0.0)

    run = gflow.simulate(
        Weights(jnp.asarray(START)), FALLING, t1=1e12, rtol=1e-9, decay=decay, error_bars=False
    )
    rate, a = np.asarray(FALLING.rate), START
    for begin, end, d in ((0.0, 1e6, 0.0), (1e6, 3e6, 1e-6), (3e6, 1e12, 0.0)):

        def field(s, y, d=d, begin=begin):
            return (rate * np.exp(-y) - d * y) * np.exp(s)

        log = [np.log1p(end - begin)] if begin == 0.0 else [np.log(begin), np.log(end)]
        spans = (0.0, log[0]) if begin == 0.0 else (log[0], log[1])
        if begin == 0.0:  # in log(1 + t)
            end_of = solve_ivp(field, spans, a, "DOP853", rtol=1e-12, atol=1e-12)
        else:
            end_of = solve_ivp(field, spans, a, "LSODA", rtol=1e-12, atol=1e-12)
        a = end_of.y[:, -1]
    np.testing.assert_allclose(run.observables["a"][-1], a, atol=1e-6)


def test_members_of_a_batch_step_so_too():
    starts = np.stack([START, START + 3.0])
    batch = gflow.simulate_batch(Weights(jnp.asarray(starts)), FALLING, t1=1e20, rtol=1e-8)
    for start, run in zip(starts, batch, strict=True):
        assert run.statistics["accepted"] < 100
        np.testing.assert_allclose(
            run.observables["a"], FALLING.exact(start, run.t), rtol=0, atol=1e-6
        )


# --- the parts ---------------------------------------------------------------------------------


def scalars(*numbers):
    return [jnp.asarray(float(x)) for x in numbers]


@pytest.mark.parametrize(
    ("curve", "wins"),
    [
        (np.log, True),
        (lambda t: t, False),
        (lambda t: np.log(t) + 1e-3 * t, True),
        (np.sqrt, False),
        (np.exp, False),
        (lambda t: 1e-12 * np.log(t), False),  # below what rounding may be
    ],
)
def test_which_line_lies_closer(curve, wins):
    t = np.array([1.0, 1.4, 2.2])
    y = np.stack([curve(t), 2.0 * curve(t)])
    moved = [jnp.asarray(y[:, i + 1] - y[:, i]) for i in range(2)]
    assert bool(straighter_in_log(*scalars(*t), *moved, jnp.full(2, 1e-8))) is wins


def test_short_steps_and_the_first_are_even():
    t = np.array([1.0, 1.001, 1.002])
    moved = [jnp.asarray([np.log(t[i + 1] / t[i])]) for i in range(2)]
    assert not straighter_in_log(*scalars(*t), *moved, jnp.full(1, 1e-12))
    assert not straighter_in_log(*scalars(0.0, 1.0, 3.0), *moved, jnp.full(1, 1e-12))


def test_time_passes_by_factors_and_its_rate_is_its_slope():
    passing = Passing(*scalars(2.0, 32.0, 5.0, 0.5), jnp.array(True))
    ask = jnp.linspace(5.0, 5.5, 5)
    times = [float(passing(t, t)[0]) for t in ask]
    np.testing.assert_allclose(times, [2.0, 4.0, 8.0, 16.0, 32.0], rtol=1e-14)
    slope = jax.grad(lambda t: passing(t, t)[0])(ask[1])
    assert float(passing(ask[1], ask[1])[1]) == pytest.approx(float(slope), rel=1e-13)
    even = Passing(*scalars(2.0, 32.0, 5.0, 0.5), jnp.array(False))
    assert [float(x) for x in even(ask[1], ask[2])] == [float(ask[2]), 1.0]
    start = Passing(*scalars(0.0, 32.0, 0.0, 32.0), jnp.array(False))
    assert float(start(ask[0], ask[0])[0]) == 5.0


def test_halves_meet_where_time_has_passed_half():
    yes, no = jnp.array(True), jnp.array(False)
    assert float(middle(*scalars(1.0, 15.0, 1.0), yes)) == pytest.approx(np.sqrt(32.0) - 1.0)
    assert float(middle(*scalars(1.0, 15.0, 1.0), no)) == 8.0
    assert float(middle(*scalars(0.0, 15.0, 0.0), no)) == 7.5
