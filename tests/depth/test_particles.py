"""Flows of tokens against closed forms, SciPy and their energy."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from gflow import depth
from theory import depth_collapse

EYE = jnp.eye(5)


@pytest.mark.parametrize("kind", ["softmax", pytest.param("unnormalised", marks=pytest.mark.slow)])
def test_equal_overlaps_far_below_rounding(kind):
    beta, end = 1.2, 15.0
    block = depth.Attention(EYE, EYE, EYE, beta, normalised=kind == "softmax")
    run = depth.flow(depth.OnSphere(block), EYE, end, save=np.linspace(0.0, end, 31))
    exact = depth_collapse.equal_overlap(5, beta, run.t, kind)
    miss = np.abs(run.observables["correlation"] - exact)
    assert np.max(miss) < 1e-9
    late = run.observables["log_apart"]
    rate = float(depth_collapse.final_rate(beta, kind))
    assert (late[-2] - late[-1]) / 0.5 == pytest.approx(rate, rel=1e-9)
    early = run.t < 5.0 / rate
    true = np.abs(late[early] - np.log1p(-exact[early]))
    assert np.all(true <= run.error["log_apart"][early] + 1e-12)
    assert np.max(run.error["log_apart"]) < 1e-8


def test_tokens_on_the_sphere_climb_their_energy_and_stay_there():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    eye, beta = jnp.eye(3), 1.7
    block = depth.OnSphere(depth.Attention(eye, eye, eye, beta))
    watched = {"tokens": lambda tokens, block: tokens.value}
    run = depth.flow(block, x, 3.0, observables=watched)
    path = run.observables["tokens"]
    np.testing.assert_allclose(np.linalg.norm(path, axis=2), 1.0, atol=1e-9)
    energies = [depth_collapse.energy(x / np.linalg.norm(x, axis=1, keepdims=True), beta)
                for x in path]  # fmt: skip
    assert np.all(np.diff(energies) > 0.0)

    def field(_, y):
        return depth_collapse.token_velocity(
            (x := y.reshape(5, 3)) / np.linalg.norm(x, axis=1, keepdims=True), beta
        ).ravel()

    exact = solve_ivp(field, (0.0, 3.0), x.ravel(), method="DOP853", rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(path[-1].ravel(), exact.y[:, -1], atol=1e-8)


def test_on_the_plane_with_negative_values_tokens_meet_at_the_origin():
    x, eye = np.random.default_rng(1).normal(size=(4, 2)), jnp.eye(2)
    run = depth.flow(depth.Attention(eye, eye, -eye, 1.0), x, 4.0)

    def field(_, y):
        x = y.reshape(4, 2)
        a = np.exp(x @ x.T)
        return -(a / a.sum(axis=1, keepdims=True) @ x).ravel()

    exact = solve_ivp(field, (0.0, 4.0), x.ravel(), method="DOP853", rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(run.final.value.ravel(), exact.y[:, -1], atol=1e-8)
    assert run.observables["log_norm"][-1] < run.observables["log_norm"][0]


def test_what_is_no_flow_is_refused():
    block = depth.Attention(EYE, EYE, EYE)
    for call, words in (
        (lambda: depth.flow(block, EYE, -1.0), "t1 = -1.0"),
        (lambda: depth.flow(block, EYE, 1.0, save=[0.5, 0.2]), "times that rise"),
        (lambda: depth.flow(depth.Linear(jnp.ones((5, 2))), EYE, 1.0), "velocity of tokens"),
        (lambda: depth.flow(depth.HiddenScores(1.0), EYE, 1.0), "without memory"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.slow
def test_plain_velocities_arrive_or_say_why_not():
    run = depth.flow(lambda x: -x, EYE, 1.0)
    assert math.isclose(run.observables["log_norm"][-1], 0.5 * math.log(5.0) - 1.0, rel_tol=1e-9)
    with pytest.raises(ValueError, match="does not arrive"):
        depth.flow(lambda x: x**3, EYE, 10.0)
