"""The loop of adaptive steps, the frames and the horizon that guide it, alone and in batches.

The fields marched through here have closed forms.
"""

import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_field import SOLVERS, Known, both, exact, go, known, marched, numbers, signed

from gflow.integrate._field import Pace, Unframed

LOG10 = math.log(10.0)
EPS = np.finfo(float).eps


# --- the loop -------------------------------------------------------------------------


@both
@pytest.mark.parametrize("tol", [1e-5, 1e-9])
def test_every_kept_entry_lies_on_the_solution(solver, tol):
    field, offset = known(), 0.7
    steps = go(field, solver, 20.0, tol=tol, offset=offset)
    kept, t = np.asarray(steps.kept), np.asarray(steps.t)
    assert t[kept][-1] == 20.0
    assert np.all(np.diff(t[kept]) > 0)
    found, truth = np.asarray(steps.state)[kept], exact(field, t[kept], offset)
    # the estimates of all steps, each at most tol(1 + |y|); errors in log a and log b add up,
    # while |y| varies by e² at most
    room = kept.sum() * tol * (1.0 + np.max(np.abs(truth), axis=0)) * math.e**2
    assert np.all(np.abs(found - truth) <= room)
    assert np.max(np.abs(found - truth)) > 1e-4 * tol  # there is something to bound


@both
def test_entries_say_what_each_attempt_led_to(solver):
    field = known(rate=3.0)
    steps = go(field, solver, 30.0, tol=1e-7, step=8.0)
    kept, tried, t = (np.asarray(x) for x in (steps.kept, steps.tried, steps.t))
    count = tried.sum()
    assert 0 < kept.sum() < count < len(kept)  # rejected at least once: 8 is far too long
    assert np.all(tried[:count])
    assert not np.any(tried[count:])
    assert not np.any(kept[count:])
    assert kept[count - 1]  # the last attempt was the one that arrived
    # a rejected attempt repeats the state before it
    before = np.concatenate([[0.0], t[: count - 1]])
    np.testing.assert_array_equal(np.diff(t[:count], prepend=0.0) > 0, kept[:count])
    np.testing.assert_array_equal(t[:count][~kept[:count]], before[~kept[:count]])
    state = np.concatenate([[field.y0], np.asarray(steps.state)])[: count + 1]
    rejected = np.flatnonzero(~kept[:count])
    np.testing.assert_array_equal(state[1:][rejected], state[rejected])


@both
@pytest.mark.parametrize("span", [0.1 + 0.2, 7.3, 1e-9, 12.345678901234567])
def test_the_end_is_reached_exactly(solver, span):
    steps = go(known(), solver, span)
    last = np.flatnonzero(steps.kept)[-1]
    assert float(steps.t[last]) == span
    assert float(np.max(steps.t)) == span


@both
def test_steps_grow_tenfold_at_most_and_are_seldom_rejected(solver):
    steps = go(known(), solver, 40.0, tol=1e-8, step=1e-6)
    lengths = np.diff(np.asarray(steps.t)[np.asarray(steps.kept)], prepend=0.0)[:-1]
    growth = lengths[1:] / lengths[:-1]
    assert growth.max() <= 10.0 * (1 + 1e-9)
    assert growth.max() > 9.0
    kept, tried = int(np.sum(steps.kept)), int(np.sum(steps.tried))
    assert tried - kept <= tried / 3


@both
def test_the_number_of_steps_is_that_of_a_method_of_order_five(solver):
    # estimates of order h⁵ for Rodas5P and Tsit5: ten times the steps for 10⁻⁵ times the error
    coarse, fine = (go(known(), solver, 8.0, tol=tol) for tol in (1e-6, 1e-11))
    assert 6.0 < np.sum(fine.kept) / np.sum(coarse.kept) < 14.0


@both
def test_a_relative_tolerance_knows_no_units(solver):
    # powers of two change no rounding; only b and the absolute tolerance 0 take part
    runs = [
        go(known((1.0, scale * 2.0, 1e300)), solver, 20.0, tol=1e-7, atol=0.0)
        for scale in (1.0, 2.0**40, 2.0**-40)
    ]
    assert float(np.max(runs[0].t)) == 20.0
    for other in runs[1:]:
        np.testing.assert_array_equal(runs[0].t, other.t)
        np.testing.assert_array_equal(runs[0].kept, other.kept)


@both
def test_many_short_calls_equal_one_long_one(solver):
    field, span = known(rate=3.0, mirrored=True), 25.0
    whole = go(field, solver, span, tol=1e-7, step=4.0)
    t, state, kept, step, time = [], [], [], 4.0, 0.0
    while time < span:
        steps = go(field, solver, span - time, tol=1e-7, step=step, offset=time, attempts=4)
        count = int(np.sum(steps.tried))
        t.append(time + np.asarray(steps.t)[:count])
        state.append(signed(steps)[:count])
        kept.append(np.asarray(steps.kept)[:count])
        step, time = steps.pace, t[-1][-1]
        y0 = jnp.asarray(state[-1][-1])
        field = eqx.tree_at(lambda f: (f.y0, f.side), field, (y0, steps.frame[count - 1]))
    count = int(np.sum(whole.tried))
    assert count > 40
    np.testing.assert_array_equal(np.concatenate(kept), np.asarray(whole.kept)[:count])
    # times are sums in another order, so steps differ in the last digits
    np.testing.assert_allclose(np.concatenate(t), np.asarray(whole.t)[:count], rtol=1e-6)
    np.testing.assert_allclose(np.concatenate(state), signed(whole)[:count], rtol=1e-5, atol=1e-5)


@both
@pytest.mark.parametrize("most", [1, 7, 16, 100])
def test_attempts_are_bounded(solver, most):
    steps = go(known(), solver, 1e6, attempts=16, most=most)
    assert int(np.sum(steps.tried)) == min(most, 16)
    assert float(np.max(steps.t)) < 1e6
    long = go(known(), solver, 1e6)
    count = min(most, 16)
    np.testing.assert_array_equal(steps.t[:count], long.t[:count])


class Marked(Known):
    """A field that no error estimate feels before it is there: a peak of c' at t = 50."""

    def velocity(self, t, state):
        return jnp.stack([0.0 * t, 0.0 * t, 50.0 * jnp.exp(-((10.0 * (t - 50.0)) ** 2))])

    def horizon(self, t, state, atol):
        return jnp.where(t < 49.4, jnp.minimum(self.limit, 49.5 - t), jnp.inf)


@both
def test_the_horizon_bounds_a_step(solver):
    steps = go(known(limit=0.25), solver, 20.0, tol=1e-2)
    lengths = np.diff(np.asarray(steps.t)[np.asarray(steps.kept)], prepend=0.0)
    assert np.max(lengths) == pytest.approx(0.25, rel=1e-12)
    # asked anew at every step, with the time since the very start
    field = Marked(*numbers((1.0, 1.0, 0.0), 1.0, np.inf, 1.0), jnp.array(False))
    steps = go(field, solver, 85.0, offset=15.0, step=1e3)
    last = np.flatnonzero(steps.kept)[-1]
    assert float(steps.t[last]) == 85.0
    whole = 50.0 * math.sqrt(math.pi) / 10.0
    assert float(steps.state[last, 2]) == pytest.approx(whole, abs=1e-5)


# --- frames ---------------------------------------------------------------------------


@both
def test_a_change_of_frame_changes_nothing(solver):
    # c passes through zero six times; a method that keeps the last slope must drop it then
    plain, mirrored = (go(known(mirrored=m), solver, 20.0, tol=1e-7) for m in (False, True))
    kept = np.asarray(mirrored.kept)
    assert np.sum(np.diff(np.asarray(mirrored.frame)[kept]) != 0) == 6
    assert np.all(np.asarray(mirrored.state)[kept, 2] >= 0)
    assert np.all(np.asarray(plain.frame) == 1.0)
    np.testing.assert_array_equal(mirrored.kept, plain.kept)
    np.testing.assert_allclose(mirrored.t, plain.t, rtol=1e-12)
    np.testing.assert_allclose(signed(mirrored), signed(plain), rtol=1e-12, atol=1e-12)


# --- steps that fail ------------------------------------------------------------------


class Edge(Unframed):
    """y' = −√y, y = (√y₀ − t/2)², and `bad` below 0."""

    bad: jax.Array

    def velocity(self, t, state):
        return jnp.where(state < 0.0, self.bad, -jnp.sqrt(jnp.abs(state)))


class Pole(Edge):
    """y' = y²: y = y₀/(1 − y₀t)."""

    def velocity(self, t, state):
        return state**2 + 0.0 * self.bad


bad_numbers = pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])


@both
@bad_numbers
def test_trial_steps_out_of_the_domain_are_rejected(solver, bad):
    field = Edge(*numbers([1.0, 4.0], bad))
    steps = go(field, solver, 1.9, step=1.9)
    kept, t = np.asarray(steps.kept), np.asarray(steps.t)
    assert kept.sum() < np.sum(steps.tried)
    assert t[kept][-1] == 1.9
    truth = (np.sqrt(field.state) - t[kept][:, None] / 2) ** 2
    np.testing.assert_allclose(np.asarray(steps.state)[kept], truth, rtol=0, atol=1e-6)


@both
@bad_numbers
def test_nothing_goes_beyond_where_the_flow_ends(solver, bad):
    steps = go(Edge(*numbers([1.0, 4.0], bad)), solver, 4.0)
    assert np.all(np.isfinite(steps.state))
    # it tries until steps are lost in the time that has passed, and what is left to another call
    assert int(np.sum(steps.tried)) < 512
    assert float(steps.pace.step) < 1e-9
    assert 1.99 < float(np.max(steps.t)) < 2.0 + 1e-3  # √y = 10⁻⁴ where y is known to 10⁻⁸


@both
def test_a_pole_is_not_passed(solver):
    steps = go(Pole(*numbers([1.0, 0.5], 0.0)), solver, 4.0)
    kept, t = np.asarray(steps.kept), np.asarray(steps.t)
    assert np.all(np.isfinite(steps.state))
    assert 1.0 - 1e-6 < t[kept][-1] < 1.0 + 1e-6
    early = kept & (t < 0.99)
    assert early.sum() > 10
    truth = np.asarray([1.0, 0.5]) / (1.0 - t[early][:, None] * np.array([1.0, 0.5]))
    np.testing.assert_allclose(np.asarray(steps.state)[early], truth, rtol=1e-5)


class Doubtful(diffrax.Tsit5):
    """Steps longer than 0.1 have a number that is not finite, in the error or in the state."""

    bad: jax.Array = eqx.field(kw_only=True)
    in_state: jax.Array = eqx.field(kw_only=True)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        y1, error, *rest = super().step(terms, t0, t1, y0, args, solver_state, made_jump)
        spoilt = jnp.where(t1 - t0 > 0.1, self.bad, 0.0)
        y1 = jnp.where(self.in_state, y1 + spoilt, y1)
        error = jnp.where(self.in_state, 0.0, error + spoilt)
        return (y1, error, *rest)


@bad_numbers
@pytest.mark.parametrize("in_state", [False, True])
def test_a_state_or_an_error_that_is_not_finite_rejects_the_step(bad, in_state):
    solver = Doubtful(bad=jnp.array(bad), in_state=jnp.array(in_state))
    steps = go(known(), solver, 3.0, tol=1e-2, step=1.0)
    kept = np.asarray(steps.kept)
    t = np.asarray(steps.t)[kept]
    assert t[-1] == 3.0
    assert np.all(np.diff(t, prepend=0.0) <= 0.1 * (1 + 1e-12))
    assert np.all(np.isfinite(steps.state))
    assert kept.sum() < np.sum(steps.tried)


# --- batches --------------------------------------------------------------------------

RATES = np.array([0.3, 1.0, 5.0, 0.7])
SPANS = np.array([10.0, 0.0, 20.0, 3.0])
OFFSETS = np.array([0.0, 1.0, 2.0, 3.0])
FIRST = np.array([0.1, 0.2, 5.0, 1e-4])
TOLS = np.array([1e-6, 1e-7, 1e-8, 1e-9])


def members():
    fields = [known((0.01, 2.0, 0.1 * i + 0.1), rate) for i, rate in enumerate(RATES)]
    return fields, jax.tree.map(lambda *x: jnp.stack(x), *fields)


@pytest.mark.parametrize("solver", ["unpivoted", "Tsit5"])
def test_members_of_a_batch_go_their_own_ways(solver):
    fields, together = members()
    tolerance = numbers(TOLS[:, None] * np.ones((4, 3)), TOLS[:, None] * np.ones((4, 3)))
    steps = marched(
        together,
        SOLVERS[solver],
        tolerance,
        numbers(OFFSETS, SPANS),
        Pace.at(*numbers(FIRST)),
        512,
        batched=True,
    )
    assert steps.state.shape == (512, 4, 3)
    counts = []
    for i, field in enumerate(fields):
        alone = go(field, solver, SPANS[i], tol=TOLS[i], step=FIRST[i], offset=OFFSETS[i])
        np.testing.assert_array_equal(steps.kept[:, i], alone.kept)
        np.testing.assert_array_equal(steps.tried[:, i], alone.tried)
        counts.append(count := int(np.sum(alone.tried)))
        # rounding enters the error estimates, and with them the steps, multiplied by 1/tol
        np.testing.assert_allclose(steps.t[:count, i], alone.t[:count], rtol=1e-6)
        state = steps.state[:count, i]
        np.testing.assert_allclose(state, alone.state[:count], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(steps.pace.step[i], alone.pace.step, rtol=1e-3)
        if count:
            assert float(steps.t[count - 1, i]) == SPANS[i]
    assert counts[1] == 0  # had arrived before it began
    assert float(steps.pace.step[1]) == FIRST[1]
    assert len({counts[0], counts[2], counts[3]}) == 3


@both
def test_members_have_bounds_of_their_own(solver):
    fields, together = members()
    tolerance = numbers(TOLS[:, None] * np.ones((4, 3)), TOLS[:, None] * np.ones((4, 3)))
    clock, most = numbers(OFFSETS, SPANS + 30.0), jnp.array([3, 40, 1, 0])
    pace = Pace.at(*numbers(FIRST))
    steps = marched(together, SOLVERS[solver], tolerance, clock, pace, 512, most, batched=True)
    np.testing.assert_array_equal(np.sum(steps.tried, axis=0), [3, 40, 1, 0])
    assert not steps.kept[0, 2]  # a first step of 5 is too long, but counts
    for i, count in ((0, 3), (1, 40)):
        alone = go(
            fields[i], solver, SPANS[i] + 30.0, tol=TOLS[i], step=FIRST[i], offset=OFFSETS[i]
        )
        np.testing.assert_allclose(steps.t[:count, i], alone.t[:count], rtol=1e-6)


@both
def test_a_member_that_cannot_go_on_stops_nobody(solver):
    y0 = np.array([[1.0], [np.nan], [0.25], [9.0]])
    together = Edge(*numbers(y0, np.full(4, np.nan)))
    tolerance = numbers(np.full((4, 1), 1e-8), np.full((4, 1), 1e-8))
    clock, pace = numbers(np.zeros(4), np.full(4, 1.9)), Pace.at(jnp.full(4, 1.9))
    steps = marched(together, SOLVERS[solver], tolerance, clock, pace, 96, batched=True)
    kept, t = np.asarray(steps.kept), np.asarray(steps.t)
    for i in (0, 3):
        last = np.flatnonzero(kept[:, i])[-1]
        assert t[last, i] == 1.9
        truth = (math.sqrt(y0[i, 0]) - 0.95) ** 2
        assert float(steps.state[last, i, 0]) == pytest.approx(truth, abs=1e-6)
    assert not np.any(kept[:, 1])
    assert t[:, 2].max() < 1.0 + 1e-3  # y₀ = ¼ is at 0 at t = 1
    assert np.all(np.isfinite(np.asarray(steps.state)[:, [0, 2, 3]]))
