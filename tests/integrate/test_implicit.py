"""Implicit methods: what Diffrax leaves open is filled in, no escape is damped in silence."""

import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.solvers import Rodas5P


class Pair(eqx.Module):
    u: jax.Array
    v: jax.Array


TARGET = np.array([2.0, 1.0])


def half_sum(m):
    return 0.5 * jnp.sum((TARGET - m.u * m.v) ** 2)


@pytest.mark.slow
def test_a_root_finder_without_tolerances_gets_those_of_the_steps():
    weight = gflow.Hadamard.small(3, log_alpha=-230.0, key=jax.random.key(0))
    model = gflow.models.DiagonalLinear(weight)
    x = math.sqrt(3.0) * jnp.eye(3)
    loss = gflow.objectives.SquaredLoss(x, x @ jnp.array([1.5, -1.0, 0.7]))
    run = gflow.simulate(model, loss, tau1=2.0, solver=diffrax.Kvaerno5(), rtol=1e-5)
    logs = np.asarray(weight.log_s), np.asarray(weight.log_d)
    for stage, i, r in zip(run.stages(), (0, 1, 2), (1.5, -1.0, 0.7), strict=True):
        # θ' = 2|θ|(r − θ): half of r when the growing factor has come to ½ log(2|r|)
        exact = (0.5 * math.log(4 * abs(r)) - float(logs[r < 0][i])) / abs(r)
        assert abs(stage.t - exact) <= stage.error < 1e-2


@pytest.mark.parametrize("solver", [Rodas5P(), diffrax.Kvaerno3()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("scale", [1e-3, 1e-8])
def test_plain_factors_escape_under_an_implicit_method(solver, scale):
    """w = uv from u = v: w' = 2w(s − w), a logistic curve."""
    start = scale * jnp.ones(2)
    pair = Pair(start, jnp.array(start))
    run = gflow.simulate(pair, half_sum, t1=30.0, solver=solver, rtol=1e-4, error_bars=False)
    w = run.observables["u"] * run.observables["v"]
    exact = TARGET / (1.0 + (TARGET / scale**2 - 1.0) * np.exp(-2.0 * TARGET * run.t[:, None]))
    assert run.successful
    assert np.max(np.abs(np.log(w / exact))) < 1e-4 * 30  # rtol for each e-fold


def test_a_stiff_raw_problem_is_solved_by_default():
    """Orthogonal features of curvature 1 … 10⁻⁹: each weight relaxes at its own rate."""
    curvature = jnp.logspace(0.0, -9.0, 10)

    def loss(m):
        return 0.5 * jnp.sum(curvature * (m["w"] - 1.0) ** 2)

    run = gflow.simulate({"w": jnp.full(10, 2.0)}, loss, t1=1e10)
    assert run.successful
    assert run.statistics["accepted"] < 1000
    exact = 1.0 + np.exp(-np.asarray(curvature) * 1e10)
    assert np.all(np.abs(run.observables["w"][-1] - exact) <= run.error["w"][-1] + 1e-8)


@pytest.mark.parametrize("solver", [None, diffrax.Tsit5(), Rodas5P()], ids=lambda s: str(s)[:6])
def test_what_has_sunk_below_its_tolerance_and_grows_again_is_not_followed(solver):
    """λ = 2 until t = 50 takes plain factors down by e^{−50}; then they grow at rate 1.

    No method holds them to 10⁻⁵ of where they began, and explicit ones return too early,
    implicit ones never. In logarithms the escape is right.
    """

    def decay(t):
        return 2.0 / (1.0 + jnp.exp(t - 50.0))

    def loss(m):
        return 0.5 * jnp.sum((1.0 - m.u * m.v) ** 2)

    plain = Pair(jnp.full(1, 1e-6), jnp.full(1, 1e-6))
    with pytest.warns(UserWarning, match="below their own tolerance"):
        run = gflow.simulate(
            plain, loss, t1=160.0, decay=decay, solver=solver, rtol=1e-5, error_bars=False
        )
    assert not run.successful
    assert run.t[-1] < 114.0  # where the escape is in truth
    assert np.max(np.abs(run.observables["u"])) <= 1e-6


def test_weights_that_decay_for_good_are_no_failure():
    """A bias that relaxes to zero, and factors that decay outgrows: rest at zero."""
    model = {"b": jnp.full(1, 0.3), "u": jnp.full(1, 1e-3), "v": jnp.full(1, 2e-3)}

    def loss(m):
        return jnp.sum(m["b"] ** 2 + 0.5 * (0.1 - m["u"] * m["v"]) ** 2)

    run = gflow.simulate(model, loss, t1=500.0, decay={"u": 0.2, "v": 0.2}, error_bars=False)
    assert run.successful
    assert np.abs(run.observables["b"][-1, 0]) < 1e-8


def test_a_batch_takes_the_method_of_a_single_run():
    keys = jax.random.split(jax.random.key(3), 4)
    models = eqx.filter_vmap(
        lambda key: {"w": gflow.Factored.small((2, 2), 1, log_alpha=-100.0, key=key)}
    )(keys)

    def loss(m):
        return 0.5 * jnp.sum((m["w"].value - jnp.diag(jnp.array([2.0, 1.0]))) ** 2)

    batch = gflow.simulate_batch(models, loss, tau1=1.5, rtol=1e-5, error_bars=False)
    single = gflow.simulate(batch[0].like, loss, tau1=1.5, rtol=1e-5, error_bars=False)
    assert batch.statistics["method"].split(" where")[0] == single.method.split(" where")[0]
    assert batch.statistics["accepted"] / 4 < 1.2 * single.statistics["accepted"]
    assert batch[0].loss[-1] == pytest.approx(single.loss[-1], rel=1e-6, abs=1e-12)
