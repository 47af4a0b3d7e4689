"""Decay λ(t): pulses, windows and oscillations on plateaus, against closed forms."""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

import gflow
from gflow.flow import _schedule as schedule

END, LOG_ALPHA = 690.0, -230.0


class Linear(eqx.Module):
    weight: gflow.Hadamard | gflow.Factored

    def __call__(self, x):
        return jnp.sum(x * self.weight.value)


LOSS = gflow.objectives.SquaredLoss(jnp.ones((1, 1)), jnp.ones(1))
MATRIX = gflow.objectives.SquaredLoss(jnp.ones((1, 1, 1)), jnp.ones(1))


class Pulse(eqx.Module):
    """λ(t) whose numbers are data: all pulses are one program."""

    at: jax.Array = eqx.field(converter=jnp.asarray)
    width: jax.Array = eqx.field(converter=jnp.asarray)
    height: jax.Array = eqx.field(converter=jnp.asarray)

    def __call__(self, t):
        return self.height * jnp.exp(-(((t - self.at) / self.width) ** 2))


class Window(eqx.Module):
    """λ(t) of one height between two times."""

    begin: jax.Array = eqx.field(converter=jnp.asarray)
    end: jax.Array = eqx.field(converter=jnp.asarray)
    height: jax.Array = eqx.field(converter=jnp.asarray)

    def __call__(self, t):
        return jnp.where((t > self.begin) & (t < self.end), self.height, 0.0)


# ∫λ over the whole run, in closed form
SCHEDULES = {
    "pulse": (Pulse(100.0, 0.3, 10.0), 10.0 * 0.3 * math.sqrt(math.pi)),
    "narrow": (Pulse(100.0, 0.05, 60.0), 60.0 * 0.05 * math.sqrt(math.pi)),
    "spike": (Pulse(137.21, 1e-6, 1e6), math.sqrt(math.pi)),
    "window": (Window(100.0, 110.0, 0.5), 5.0),
    "slit": (Window(100.0, 100.001, 5000.0), 5.0),
    "wave until 150": (lambda t: jnp.where(t < 150.0, 0.05 * (1 + jnp.sin(t)), 0.0),
                       0.05 * (150.0 + 1.0 - math.cos(150.0))),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_decay_before_the_escape_delays_it_by_its_integral(name):
    """θ' = 2θ(1 − θ) from θ₀ e^{−2∫λ}: half way at t = ½ log(1/θ₀ − 1) + ∫λ."""
    rate, integral = SCHEDULES[name]
    weight = gflow.Hadamard.small(1, log_alpha=LOG_ALPHA, key=jax.random.key(0))
    run = gflow.simulate(Linear(weight), LOSS, t1=300.0, decay=rate)
    (stage,) = run.stages()
    exact = -float(weight.log_s[0]) + math.log(2.0) + integral
    assert abs(stage.t - exact) <= stage.error < 1e-7


def test_columns_and_plain_arrays_feel_a_window_as_well():
    factored = gflow.Factored(jnp.ones((1, 1)), jnp.ones((1, 1)), log_scale=-50.0)
    run = gflow.simulate(Linear(factored), MATRIX, t1=80.0, decay=Window(20.0, 20.01, 500.0))
    # θ' = 2θ(1 − θ) from e^{−100} as above; the loss is halved at θ = 1 − 1/√2
    (stage,) = run.stages()
    exact = 50.0 + 5.0 + 0.5 * math.log(math.sqrt(2.0) - 1.0)
    assert abs(stage.t - exact) <= stage.error < 1e-7
    plain = gflow.simulate(
        {"w": jnp.ones(1)},
        lambda m: 0.0 * jnp.sum(m["w"]),
        t1=1000.0,
        decay=Pulse(123.4, 0.01, 50.0),
    )
    exact = math.exp(-0.5 * math.sqrt(math.pi))
    assert abs(plain.observables["w"][-1, 0] - exact) <= plain.error["w"][-1, 0] + 1e-14


def test_a_batch_feels_it_in_every_member():
    keys = jax.random.split(jax.random.key(1), 3)
    models = eqx.filter_vmap(
        lambda key: Linear(gflow.Hadamard.small(1, log_alpha=LOG_ALPHA, key=key))
    )(keys)
    batch = gflow.simulate_batch(models, LOSS, t1=300.0, decay=Window(100.0, 110.0, 0.5))
    for run in batch:
        (stage,) = run.stages()
        exact = -float(run.like.weight.log_s[0]) + math.log(2.0) + 5.0
        assert abs(stage.t - exact) <= stage.error


def test_edges_lie_where_the_rate_changes_and_nowhere_else():
    assert not len(schedule.edges(lambda t: 0.0 * t + 0.3, "w", 0.0, END, 1e-10))
    far = schedule.edges(Window(100.0, 110.0, 0.5), "w", 0.0, 2e7, 1e-10)
    for jump in (100.0, 110.0):
        assert np.min(np.abs(far - jump)) < 1e-7
    assert len(far) < 16
    # eight Gauss points between the edges give the integral
    rate, edges = Pulse(100.0, 0.05, 60.0), [0.0]
    edges += [*schedule.edges(rate, "w", 0.0, END, 1e-12), END]
    nodes, weights = np.polynomial.legendre.leggauss(8)
    for a, b in itertools.pairwise(edges):
        t = 0.5 * (a + b) + 0.5 * (b - a) * nodes
        exact = 1.5 * math.sqrt(math.pi) * (erf((b - 100) / 0.05) - erf((a - 100) / 0.05))
        assert abs(0.5 * (b - a) * np.sum(weights * np.asarray(rate(t))) - exact) < 1e-11


@pytest.mark.parametrize(
    ("rate", "says"),
    [
        (Window(77.699, 77.701, -5.0), r"-5.0 at t = 77.*≥ 0"),
        (lambda t: jnp.where(t < 50.0, 0.1, jnp.nan), "nan at t = .*finite"),
        (lambda t: jnp.stack([t, t]), r"shape \(2,\) at one time"),
    ],
)
def test_what_is_no_rate_is_refused_wherever_it_hides(rate, says):
    with pytest.raises(ValueError, match=says):
        schedule.edges(rate, "w", 0.0, END, 1e-10)
