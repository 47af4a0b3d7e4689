"""The one call that integrates: accuracy against SciPy, and error bars against tighter runs."""

import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from two_examples import DECAYS, GAIN, HALF_SUM, INPUTS, TARGETS, mixed, small

import gflow
from gflow.models import DiagonalAttention
from gflow.objectives import SquaredLoss


def scipy_flow(model, times, decay):
    """θ of each leaf of a Mixed model at `times`, in the plain factors, by SciPy.

    `decay(name, t)` is the rate of a leaf.
    """
    a, b = gflow.to_factors(model.hadamard), model.factors
    names = ("hadamard", "hadamard", "factors", "factors", "scaled", "plain")
    start = np.stack([a.u, a.v, b.u, b.v, model.scaled.value, model.plain])

    def velocity(t, state):
        u, v, p, q, w, z = state = state.reshape(6, 4)
        g = INPUTS.T @ (TARGETS - INPUTS @ (u * v + p * q + w + GAIN * z))
        rates = np.array([[decay(name, t)] for name in names])
        return (np.stack([v * g, u * g, q * g, p * g, g, GAIN * g]) - rates * state).ravel()

    solution = solve_ivp(
        velocity, (0, times[-1]), start.ravel(), "DOP853", times, rtol=1e-12, atol=1e-16
    )
    u, v, p, q, w, z = solution.y.reshape(6, 4, -1).transpose(0, 2, 1)
    return {"hadamard": u * v, "factors": p * q, "scaled": w, "plain": z}


# --- accuracy -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "by leaf"])
def test_leaves_of_every_kind_against_scipy(name):
    decay, rate = DECAYS[name]
    model, times = mixed(), np.array([1.0, 3.0, 10.0, 30.0])
    run = gflow.simulate(
        model, HALF_SUM, t1=30, save=times, decay=decay, rtol=1e-10, error_bars=False
    )
    rows = np.searchsorted(run.t, times)
    for leaf, expected in scipy_flow(model, times, rate).items():
        np.testing.assert_allclose(run.observables[leaf][rows], expected, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(run.final.gain.value, GAIN)


class HadamardOnly(eqx.Module):
    hadamard: gflow.Parameter

    def __call__(self, x):
        return jnp.dot(x, self.hadamard.value)


@pytest.mark.parametrize("name", ["constant", "of time"])
def test_decay_of_log_coordinates_against_scipy(name):
    decay, rate = DECAYS[name]
    leaf = small(math.log(1e-2), seed=3).weight
    factors, times = gflow.to_factors(leaf), np.array([1.0, 5.0, 20.0, 60.0])
    run = gflow.simulate(
        HadamardOnly(leaf), HALF_SUM, t1=60.0, save=times, decay=decay, rtol=1e-11,
        error_bars=False,
    )  # fmt: skip

    def velocity(t, state):
        u, v = state.reshape(2, 4)
        g = INPUTS.T @ (TARGETS - INPUTS @ (u * v))
        return np.concatenate([v * g, u * g]) - rate("hadamard", t) * state

    start = np.concatenate([factors.u, factors.v])
    solution = solve_ivp(velocity, (0, 60), start, "DOP853", times, rtol=1e-12, atol=1e-18)
    u, v = solution.y.reshape(2, 4, -1).transpose(0, 2, 1)
    rows = np.searchsorted(run.t, times)
    state = run.leaves["hadamard"]
    np.testing.assert_allclose(state["value"][rows], u * v, rtol=0, atol=1e-8)
    np.testing.assert_allclose(state["log_s"][rows], np.log(np.abs(u + v)), rtol=0, atol=1e-8)
    # log|s| + log|d| = log|c| − 2∫λ to rounding, at every step.
    integral = {"constant": 0.05 * run.t, "of time": 0.2 * np.log1p(run.t)}[name]
    product = state["log_s"] + state["log_d"]
    expected = product[0] - 2.0 * integral[:, None]
    np.testing.assert_allclose(product, expected, rtol=0, atol=1e-9)


def test_another_solver_gives_the_same_flow():
    model, times = small(-9.0), np.linspace(5.0, 60.0, 12)
    runs = [
        gflow.simulate(
            model, HALF_SUM, t1=60.0, save=times, rtol=1e-10, solver=solver, error_bars=False
        )
        for solver in (None, diffrax.Tsit5())
    ]
    weights = [run.observables["weight"][np.searchsorted(run.t, times)] for run in runs]
    np.testing.assert_allclose(weights[0], weights[1], rtol=0, atol=1e-8)
    assert runs[0].method.startswith("Dopri8, and Rodas5P where stiff")
    assert runs[1].method == "Tsit5 in log coordinates, rtol=1e-10"


def test_the_mean_runs_slower_than_the_sum_by_the_number_of_examples():
    kwargs = dict(rtol=1e-9, error_bars=False)
    once = gflow.simulate(small(), HALF_SUM, t1=20.0, **kwargs)
    mean = SquaredLoss(INPUTS, TARGETS, "half_mean")
    twice = gflow.simulate(small(), mean, t1=40.0, **kwargs)
    np.testing.assert_allclose(twice.final.weight.value, once.final.weight.value, atol=1e-8)
    assert twice.loss[-1] == pytest.approx(once.loss[-1] / 2, rel=1e-6)


def squared_factors(run):
    total = 0.0
    for leaf in run.leaves.values():
        if "log_s" in leaf:
            parts = [0.5 * np.exp(2 * leaf[key]) for key in ("log_s", "log_d")]
        else:
            parts = [leaf[key] ** 2 for key in (("u", "v") if "u" in leaf else ("value",))]
        total = total + sum(np.sum(x.reshape(len(x), -1), axis=-1) for x in parts)
    return total


@pytest.mark.parametrize("change", [lambda m: m, gflow.to_factors])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_descent_is_the_slope_of_what_the_flow_minimises(change, decay):
    times, step = np.array([1.0, 2.0, 5.0, 20.0]), 1e-3
    save = np.concatenate([times - step, times, times + step])
    run = gflow.simulate(
        change(mixed()), HALF_SUM, t1=30, save=save, rtol=1e-10, decay=decay, error_bars=False
    )
    energy = run.loss + 0.5 * decay * squared_factors(run)
    before, at, after = np.searchsorted(run.t, save).reshape(3, -1)
    slope = (energy[after] - energy[before]) / (2 * step)
    np.testing.assert_allclose(run.descent[at], -slope, rtol=1e-5, atol=1e-12)


# --- error bars -----------------------------------------------------------------------


def attention():
    keys = jax.random.split(jax.random.key(5), 3)
    kq, vo = (gflow.Hadamard.small((1, 2), log_alpha=-30.0, key=k) for k in keys[:2])
    x = jax.random.normal(keys[2], (8, 3, 2))
    target = DiagonalAttention(
        gflow.Frozen(jnp.array([[2.0, -1.0]])), gflow.Frozen(jnp.array([[1.0, 0.5]]))
    )
    return DiagonalAttention(kq, vo), SquaredLoss(x, jax.vmap(target)(x))


def size(model):
    return jnp.sum(jnp.abs(model.vo.value))


@pytest.mark.slow
def test_error_bars_cover_the_distance_from_a_much_tighter_run():
    model, objective = attention()
    times = 30.0 * np.linspace(0.25, 8.0, 32)
    kwargs = dict(tau1=8, save=times, observables={"size": size})
    coarse = gflow.simulate(model, objective, rtol=1e-6, **kwargs)
    tight = gflow.simulate(model, objective, rtol=1e-11, **kwargs)
    at, exact_at = np.searchsorted(coarse.t, times), np.searchsorted(tight.t, times)
    for name in ("kq", "vo", "size"):
        error = np.abs(coarse.observables[name][at] - tight.observables[name][exact_at])
        assert np.max(error) > 1e-9
        assert np.all(np.max(error, axis=0) <= np.max(coarse.error[name][at], axis=0))
    error = np.abs(coarse.loss[at] - tight.loss[exact_at])
    assert np.max(error) <= np.max(coarse.error["loss"][at])

    stages, exact = coarse.stages(), tight.stages()
    assert len(stages) == len(exact) >= 2
    for stage, reference in zip(stages, exact, strict=True):
        assert stage.activated == reference.activated
        assert abs(stage.t - reference.t) <= stage.error
        assert stage.error < 0.01


def test_error_bars_can_be_left_out():
    run = gflow.simulate(small(), HALF_SUM, t1=5.0, error_bars=False)
    assert run.error == {}
