"""Logarithmic coordinates against their definition: charts, frames, and the horizon."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.coordinates._factors import FactorCoordinates
from gflow.coordinates._log import LogCoordinates
from gflow.coordinates._raw import RawCoordinates
from gflow.flow._build import build_flow

LOG10 = math.log(10.0)
EPS = np.finfo(float).eps
# of s and d, which the chart hands on
SIGNS, ONE = jnp.ones((2, 3, 4), jnp.int8), jnp.ones((2, 1), jnp.int8)


def numbers(*values):
    return tuple(jnp.asarray(x, float) for x in values)


def scattered(seed, scale):
    """log|s| and log|d| of twelve weights, dormant at `scale` or active on either side."""
    rng = np.random.default_rng(seed)
    log_s, log_d = -scale + rng.uniform(-3, 3, (2, 3, 4))
    active = rng.integers(-1, 2, (3, 4))
    large = rng.uniform(-1, 1, (3, 4))
    log_s, log_d = (
        np.where(active > 0, large, np.where(active < 0, -2 * scale - large, log_s)),
        np.where(active < 0, large, np.where(active > 0, -2 * scale - large, log_d)),
    )
    return log_s, log_d


@pytest.mark.parametrize("scale", [5.0, 700.0, 2e6])
@pytest.mark.parametrize("integral", [None, 0.0, 3.5])
def test_recentring_keeps_the_weight_and_follows_the_larger_logarithm(scale, integral):
    log_s, log_d = scattered(0, scale)
    decays = integral is not None
    here = LogCoordinates.from_logs(jnp.asarray(log_s), jnp.asarray(log_d), SIGNS, decays)
    # an impulse moves log|s| up and log|d| down by as much; decay lowers both by ∫λ
    impulse = np.random.default_rng(1).uniform(-1.5, 1.5, (3, 4)) * scale
    drop = integral or 0.0
    expected_s, expected_d = log_s + impulse - drop, log_d - impulse - drop
    side = np.where(log_s >= log_d, 1.0, -1.0)
    moved = np.array(here.start())
    moved[:12] += (side * impulse - drop).ravel()
    if decays:
        moved[12] += drop
    frame, state = here.recentred(jnp.asarray(moved))
    there = here.framed(frame)

    rounding = 8 * EPS * max(scale, 1.0)
    expected_side = np.where(expected_s >= expected_d, 1.0, -1.0)
    assert 2 <= np.sum(expected_side != side) <= 10  # some change sides, some do not
    np.testing.assert_array_equal(frame, expected_side)
    np.testing.assert_array_equal(there.frame(), expected_side)
    # whatever the frame, the same two logarithms, hence the product and the weight
    for record in (there.record(state), here.record(jnp.asarray(moved))):
        np.testing.assert_allclose(record["log_s"], expected_s, rtol=0, atol=rounding)
        np.testing.assert_allclose(record["log_d"], expected_d, rtol=0, atol=rounding)
        product = np.asarray(record["log_s"]) + np.asarray(record["log_d"])
        np.testing.assert_allclose(product, log_s + log_d - 2 * drop, rtol=0, atol=2 * rounding)
    with np.errstate(over="ignore"):
        value = 0.25 * (np.exp(2 * expected_s) - np.exp(2 * expected_d))
    finite = np.isfinite(value)
    np.testing.assert_allclose(
        np.asarray(there.value(state))[finite], value[finite], rtol=8 * rounding, atol=1e-300
    )
    # the state is the larger of the two, and a second time nothing happens
    np.testing.assert_allclose(
        state[:12].reshape(3, 4), np.maximum(expected_s, expected_d), rtol=0, atol=rounding
    )
    again, same = there.recentred(state)
    np.testing.assert_array_equal(again, frame)
    np.testing.assert_array_equal(same, state)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_a_frame_changes_the_chart_and_not_the_flow(decay):
    # the velocity of log|s| and of log|d| is the same in both charts
    log_s, log_d = scattered(2, 3.0)
    here = LogCoordinates.from_logs(jnp.asarray(log_s), jnp.asarray(log_d), SIGNS, True)
    force = jnp.asarray(np.random.default_rng(3).standard_normal((3, 4)))
    other = here.framed(-here.frame())
    state, mirrored = here.start(), np.array(here.start())
    mirrored[:12] = np.where(here.frame() > 0, log_d, log_s).ravel()
    speeds = []
    for chart, point in ((here, state), (other, jnp.asarray(mirrored))):
        rate = chart.velocity(point, force, jnp.asarray(decay))
        _, drift = jax.jvp(chart.record, (point,), (rate,))
        speeds.append(drift)
        np.testing.assert_allclose(drift["log_s"], force - decay, rtol=0, atol=1e-13)
        np.testing.assert_allclose(drift["log_d"], -force - decay, rtol=0, atol=1e-13)
    np.testing.assert_allclose(speeds[0]["value"], speeds[1]["value"], rtol=1e-12)


class TwoLeaves(eqx.Module):
    first: gflow.Hadamard
    plain: jax.Array
    second: gflow.Hadamard


class Slope(eqx.Module):
    """−⟨forces, θ⟩, and −Σ of the plain array: every force is constant."""

    first: jax.Array
    second: jax.Array

    def __call__(self, model):
        weights = jnp.sum(self.first * model.first.value) + jnp.sum(
            self.second * model.second.value
        )
        return -weights - jnp.sum(model.plain)


def two_leaves(seed, scale, decay=0.0, speed=1.0):
    """A flow of constant forces on two dormant leaves, its logarithms, and the forces."""
    rng = np.random.default_rng(seed)
    logs = -scale + rng.uniform(-2, 2, (2, 2, 3))
    leaves = [gflow.Hadamard.from_scales(log_s=jnp.array(s), log_d=jnp.array(d)) for s, d in logs]
    forces = speed * rng.uniform(0.2, 2.0, (2, 3)) * rng.choice([-1, 1], (2, 3))
    model = TwoLeaves(leaves[0], jnp.array([0.1, 0.2]), leaves[1])
    flow = build_flow(model, Slope(*map(jnp.asarray, forces)), decay=decay)
    return flow, logs[:, 0].ravel(), logs[:, 1].ravel(), forces.ravel()


def felt(log_s, log_d, force, decay, t):
    """By how much the largest dormant weight after t would shift a logarithm on its way.

    log|s| and log|d| of a weight under a constant force are straight lines. A force that
    changes by e^{2z} at the end of a step of |z|/r moves logarithms by e^{2z}|z|.
    """
    lines = [(log_s, force - decay), (log_d, -force - decay)]
    return np.max([np.exp(2 * (z + r * t)) * np.abs(z) for z, r in lines], axis=0)


@eqx.filter_jit
def horizon(flow, atol):
    return flow.horizon(jnp.zeros(()), flow.start(), atol)


@pytest.mark.parametrize("scale", [40.0, 1e4, 2e6])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("tol", [1e-5, 1e-11])
def test_the_horizon_ends_where_the_next_weight_comes_to_be_felt(scale, decay, tol):
    flow, log_s, log_d, force = two_leaves(4, scale, decay)
    atol = jnp.full(flow.size, tol)
    t = float(horizon(flow, atol))
    after = felt(log_s, log_d, force, decay, t)
    # unfelt still, and felt in the next step
    assert 0.01 * tol < np.max(after) < tol
    # a weight that may err more is felt later
    at = np.argmax(after)
    split = [c.start().size for c in flow.coordinates]
    place = at if at < 3 else at - 3 + split[0] + split[1]
    assert float(horizon(flow, atol.at[place].set(1e3 * tol))) > t
    # and twice as late at half the speed
    slow = two_leaves(4, scale, decay, speed=0.5)[0]
    if decay == 0.0:
        assert float(horizon(slow, atol)) == pytest.approx(2 * t, rel=1e-12)


@pytest.mark.parametrize("log_size", [-4.0, -2.0, -1.0, -0.3])
@pytest.mark.parametrize("side", [1, -1])
def test_on_its_way_up_a_weight_does_not_reach_one_in_a_step(log_size, side):
    logs = (log_size, -30.0)[::side]
    here = LogCoordinates.from_logs(*numbers([logs[0]], [logs[1]]), ONE, False)
    rate = here.velocity(here.start(), jnp.array([0.7 * side]), jnp.array(0.0))
    t = float(here.horizon(here.start(), rate, jnp.array([1e-9])))
    covered = (0.7 * t) / (math.log(2.0) - log_size)  # |θ| = e^{2z}/4 = 1 at z = log 2
    assert 0.2 < covered < 0.6


def test_what_does_not_grow_or_is_not_dormant_sets_no_horizon():
    def wait(log_s, log_d, force, decay):
        here = LogCoordinates.from_logs(*numbers([log_s], [log_d]), ONE, True)
        rate = here.velocity(here.start(), jnp.array([force]), jnp.array(decay))
        return float(here.horizon(here.start(), rate, jnp.full(2, 1e-9)))

    assert wait(-50.0, -50.0, 0.3, 0.5) == math.inf  # decay wins on both sides
    assert wait(-50.0, -50.0, 0.5, 0.3) == pytest.approx(wait(-50.0, -50.0, -0.5, 0.3))
    assert 100.0 < wait(-50.0, -50.0, 0.5, 0.3) < 250.0  # at rate 0.2
    assert wait(0.5, -200.0, 1.0, 0.1) == math.inf  # active, and d sinks
    assert 150.0 < wait(0.5, -200.0, -1.0, 0.0) < 200.0  # active, and d rises
    assert wait(-20.0, -math.inf, -1.0, 0.0) == math.inf  # what is zero never comes
    assert wait(-20.0, -50.0, 0.0, 0.0) == math.inf
    plain = RawCoordinates(jnp.ones(3), jnp.array(-2.0))
    factors = FactorCoordinates(jnp.ones(3), 2.0 * jnp.ones(3))
    for c in (plain, factors):
        assert float(c.horizon(c.start(), c.start(), c.start())) == math.inf


def test_a_flow_recentres_every_leaf_and_says_whether():
    flow, log_s, log_d, _ = two_leaves(5, 10.0)
    same = flow.recentred(flow.start())
    assert not bool(same[2])
    np.testing.assert_array_equal(same[1], flow.start())
    # one weight of the second leaf alone goes far to the other side
    side = np.where(log_s >= log_d, 1.0, -1.0)
    state = flow.start().at[5 + 1].add(-8.0)
    frames, new, changed = flow.recentred(state)
    assert bool(changed)
    np.testing.assert_array_equal(frames[0], side[:3])
    np.testing.assert_array_equal(frames[2], side[3:] * [1, -1, 1])
    before, after = flow.weights(state), flow.framed(frames).weights(new)
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-12)
    expected = np.array(state)
    expected[6] = log_s[4] + log_d[4] - expected[6]
    np.testing.assert_allclose(new, expected, rtol=1e-14)
