"""The loop of adaptive steps, the frames and the horizon that guide it, its linear algebra.

The fields marched through here have closed forms; logarithmic coordinates are held against
their definition, and whole runs against the limit algorithm of `theory`.
"""

import functools
import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
import theory
from gflow.coordinates._factors import FactorCoordinates
from gflow.coordinates._log import LogCoordinates
from gflow.coordinates._raw import RawCoordinates
from gflow.flow._flow import build_flow
from gflow.integrate._march import TERM, Field, Pace, halved, march
from gflow.models import DiagonalLinear
from gflow.objectives import SquaredLoss
from gflow.solvers import ROCK4, Rodas5P, Switching
from gflow.solvers._linear import INVERTED, eliminated, factorised, inverse_without_pivots

LOG10 = math.log(10.0)
EPS = np.finfo(float).eps
SOLVERS = {"Rodas5P": Rodas5P(), "unpivoted": Rodas5P(pivot=False), "Tsit5": diffrax.Tsit5()}
both = pytest.mark.parametrize("solver", ["Rodas5P", "Tsit5"])


def numbers(*values):
    return tuple(jnp.asarray(x, float) for x in values)


class Known(Field):
    """a' = rate·a(1 − a), b' = b cos t, c' = cos t, of which |c| and the sign may be apart."""

    y0: jax.Array
    rate: jax.Array
    limit: jax.Array
    side: jax.Array
    mirrored: jax.Array

    def start(self):
        return self.y0.at[2].multiply(self.side)

    def velocity(self, t, state):
        a, b, _ = state
        return jnp.stack([self.rate * a * (1.0 - a), b * jnp.cos(t), self.side * jnp.cos(t)])

    def horizon(self, t, state, atol):
        return self.limit

    def frame(self):
        return self.side

    def framed(self, frame):
        return eqx.tree_at(lambda f: f.side, self, frame)

    def recentred(self, state):
        flip = (state[2] < 0.0) & self.mirrored
        side = jnp.where(flip, -self.side, self.side)
        return side, state.at[2].multiply(side * self.side), side != self.side


def known(y0=(0.01, 2.0, 0.3), rate=1.0, limit=np.inf, mirrored=False):
    return Known(*numbers(y0, rate, limit, 1.0), jnp.asarray(mirrored))


def exact(field, t, offset=0.0):
    """Solution at t after `offset`; c with its sign."""
    a, b, c = np.asarray(field.y0)
    bend = (1.0 / a - 1.0) * np.exp(-float(field.rate) * t)
    gain = np.sin(offset + t) - np.sin(offset)
    return np.stack([1.0 / (1.0 + bend), b * np.exp(gain), c + gain], axis=-1)


def itself(field):
    return field


@eqx.filter_jit
def marched(field, solver, tolerance, clock, pace, attempts, most=None, batched=False):
    return march(
        itself, field, solver, tolerance, *clock, pace, attempts=attempts, most=most,
        batched=batched,
    )  # fmt: skip


def go(
    field, solver, span, *, tol=1e-8, atol=None, step=0.1, offset=0.0, attempts=512, most=None,
    size=None,
):  # fmt: skip
    """`march` of one field; `tol` is both tolerances unless `atol` is given."""
    full = np.ones(field.start().size)
    tolerance = numbers((tol if atol is None else atol) * full, tol * full)
    solver = SOLVERS.get(solver, solver) if isinstance(solver, str) else solver
    most = None if most is None else jnp.asarray(most)
    pace = step if isinstance(step, Pace) else Pace.at(jnp.asarray(step))
    return marched(field, solver, tolerance, numbers(offset, span), pace, attempts, most)


def signed(steps):
    """States with c in place of |c|."""
    state = np.array(steps.state)
    state[..., 2] *= np.asarray(steps.frame)
    return state


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


class Edge(Field):
    """y' = −√y, y = (√y₀ − t/2)², and `bad` below 0."""

    y0: jax.Array
    bad: jax.Array

    def start(self):
        return self.y0

    def velocity(self, t, state):
        return jnp.where(state < 0.0, self.bad, -jnp.sqrt(jnp.abs(state)))

    def horizon(self, t, state, atol):
        return jnp.full((), jnp.inf)

    def frame(self):
        return ()

    def framed(self, frame):
        return self

    def recentred(self, state):
        return (), state, jnp.array(False)


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
    truth = (np.sqrt(field.y0) - t[kept][:, None] / 2) ** 2
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


# --- the companion --------------------------------------------------------------------


@eqx.filter_jit
def companion(field, solver, offset, t, kept, choice=()):
    open_end = jnp.zeros_like(offset), jnp.zeros_like(offset)
    return halved(itself, field, solver, open_end, offset, t, kept, choice)[:2]


@both
def test_the_companion_takes_every_step_as_two_halves(solver):
    field, offset = known(mirrored=True), 0.4
    steps = go(field, solver, 20.0, tol=1e-5, offset=offset, step=5.0)
    kept = np.asarray(steps.kept)
    states, frames = companion(field, SOLVERS[solver], jnp.array(offset), steps.t, steps.kept)
    second = np.array(states)
    second[:, 2] *= np.asarray(frames)
    assert np.sum(np.diff(np.asarray(frames)[kept]) != 0) > 0
    # attempts that were rejected leave it where it is
    rejected = np.flatnonzero(~kept[1:] & np.asarray(steps.tried)[1:]) + 1
    assert rejected.size
    np.testing.assert_array_equal(second[rejected], second[rejected - 1])
    # order five: local errors fall by 2⁵ in each half, 2⁴ together
    truth = exact(field, np.asarray(steps.t)[kept], offset)
    main, half = np.abs(signed(steps)[kept] - truth), np.abs(second[kept] - truth)
    assert np.max(half[:, 1]) < np.max(main[:, 1]) / 8
    assert np.max(half[:, 2]) < np.max(main[:, 2]) / 8
    assert np.max(main[:, 1]) > 1e-7


def test_the_companion_is_two_steps_of_the_solver():
    # taken by hand
    field = known()

    @jax.jit
    def step(a, b, y):
        return Rodas5P().step(TERM, a, b, y, (field, jnp.array(0.3)), None, False)[0]

    t = jnp.array([0.5, 0.5, 1.7])
    states, _ = companion(field, Rodas5P(), jnp.array(0.3), t, jnp.array([True, False, True]))
    y, expected = field.start(), []
    for a, b in [(0.0, 0.25), (0.25, 0.5), (0.5, 1.1), (1.1, 1.7)]:
        expected.append(y := step(jnp.array(a), jnp.array(b), y))
    np.testing.assert_allclose(states, np.stack(expected)[[1, 1, 3]], rtol=1e-13)


def test_the_halves_are_taken_by_the_method_of_the_step():
    # h·ρ of a half is below what makes Rodas5P give way, that of the step is above
    field = known((0.9, 2.0, 0.3), rate=60.0)
    solver = Switching(diffrax.Tsit5(), Rodas5P())
    steps = go(field, solver, 4.0, tol=1e-6)
    rows = np.flatnonzero(np.asarray(steps.kept))
    stiff = np.asarray(steps.choice)[rows]
    assert 0 < np.sum(stiff) < len(stiff)
    states, _ = companion(field, solver, jnp.array(0.0), steps.t, steps.kept, steps.choice)

    @eqx.filter_jit
    def step(method, a, b, y):
        inner = method.init(TERM, a, b, y, (field, jnp.array(0.0)))
        return method.step(TERM, a, b, y, (field, jnp.array(0.0)), inner, True)[0]

    y, a = field.start(), 0.0
    for i, choice in zip(rows, stiff, strict=True):
        method, b = solver.stiff if choice else solver.explicit, float(steps.t[i])
        middle = a + 0.5 * (b - a)
        y = step(method, *numbers(a, middle), y)
        y = step(method, *numbers(middle, b), y)
        a = b
        np.testing.assert_allclose(states[i], y, rtol=1e-12)


@pytest.mark.parametrize("patient", [False, True])
def test_the_companion_takes_over_nothing_that_belongs_to_another_time(patient):
    # ROCK4 has waited since the start while Tsit5 took the steps: its slope there is not that here
    field = known((0.9, 2.0, 0.3), rate=60.0)
    solver = Switching(diffrax.Tsit5(), ROCK4())
    steps = go(field, solver, 4.0, tol=1e-6)
    stiff = np.asarray(steps.choice)[np.asarray(steps.kept)]
    assert np.sum(stiff) > 0
    assert not stiff[0]
    tolerance = jnp.full(3, 1e-6), jnp.full(3, 1e-6)

    @eqx.filter_jit
    def halves(t, kept, choice):
        zero = jnp.array(0.0)
        return halved(itself, field, solver, tolerance, zero, t, kept, choice, patient)

    states, frames, missed = halves(steps.t, steps.kept, steps.choice)
    assert not missed
    second = np.array(states)
    second[:, 2] *= np.asarray(frames)
    np.testing.assert_allclose(
        second[np.asarray(steps.kept)], signed(steps)[np.asarray(steps.kept)], rtol=0, atol=3e-5
    )


# --- logarithmic coordinates ----------------------------------------------------------


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
    here = LogCoordinates.from_logs(jnp.asarray(log_s), jnp.asarray(log_d), decays)
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
    here = LogCoordinates.from_logs(jnp.asarray(log_s), jnp.asarray(log_d), True)
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
    here = LogCoordinates.from_logs(*numbers([logs[0]], [logs[1]]), False)
    rate = here.velocity(here.start(), jnp.array([0.7 * side]), jnp.array(0.0))
    t = float(here.horizon(here.start(), rate, jnp.array([1e-9])))
    covered = (0.7 * t) / (math.log(2.0) - log_size)  # |θ| = e^{2z}/4 = 1 at z = log 2
    assert 0.2 < covered < 0.6


def test_what_does_not_grow_or_is_not_dormant_sets_no_horizon():
    def wait(log_s, log_d, force, decay):
        here = LogCoordinates.from_logs(*numbers([log_s], [log_d]), True)
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


# --- runs -----------------------------------------------------------------------------


TEACHER = np.array([3, -2.2, 1.7, 1.2, -0.8, 0.5, 0, 0, 0, 0])


@functools.cache
def regression():
    inputs = np.random.default_rng(0).normal(size=(40, 10))
    return SquaredLoss(inputs, inputs @ TEACHER, "half_mean")


def tilted(log_alpha, larger):
    """Ten weights that all start with s, or all with d, four times the other."""
    shift = math.log(2.0) * (1 if larger == "s" else -1)
    return DiagonalLinear(
        gflow.Hadamard.from_scales(
            log_s=jnp.full(10, log_alpha + shift),
            log_d=jnp.full(10, log_alpha - shift),
            log_alpha=log_alpha,
        )
    )


@functools.cache
def predicted(larger):
    # each weight its own size, or the four that never activate would be no rivals at all
    return theory.gradual_rank.predict(tilted(-50.0, larger), regression())


@pytest.mark.parametrize("rtol", [1e-4, 1e-8])
@pytest.mark.parametrize("larger", ["s", "d"])
def test_weights_that_change_sides_leave_the_plateaus_at_rounding(larger, rtol):
    # α = e^{−2·10⁶}: logarithms have 5e-10 of rounding, which must not reach the weights. With
    # s larger weights 1 and 4 change sides, with d larger 0, 2, 3 and 5. At rtol = 10⁻⁴ four
    # transitions fit into one round, between which coordinates are made anew anyway.
    log_alpha, prediction = -2e6, predicted(larger)
    run = gflow.simulate(
        tilted(log_alpha, larger), regression(), tau1=4.5, rtol=rtol, error_bars=False
    )
    start = run.leaves["weight"]["log_s"][0] > run.leaves["weight"]["log_d"][0]
    end = np.sign(run.observables["weight"][-1][:6])
    assert np.sum(end != np.where(start[:6], 1, -1)) == (2 if larger == "s" else 4)

    expected = prediction.at(log_alpha).t
    assert len(expected) == 6
    rates = np.array([stage.rate for stage in prediction.stages])
    rows = theory.compare(run, prediction).rows
    times = np.array([row.tau_measured for row in rows]) * run.scale
    assert np.max(np.abs(times - expected) * rates) <= 10 * rtol

    # on every plateau: no force on what is active, the saddle's own weights
    leaf, support = run.leaves["weight"], []
    for k, stage in enumerate(prediction.stages):
        assert not stage.deactivated
        support += [index[0] for _, index in stage.activated]
        inside = (run.t > expected[k]) & (run.t < np.append(expected, np.inf)[k + 1])
        force = np.max(np.abs(leaf["force"][inside][:, support]), axis=1)
        rest = np.argmin(force)
        assert force[rest] <= 1e-12
        value = leaf["value"][inside][rest][support]
        np.testing.assert_allclose(value, stage.value["weight"][support], rtol=0, atol=1e-11)


def attempts(run):
    return run.statistics["accepted"] + run.statistics["rejected"]


@functools.cache
def small(decades, rtol=1e-8):
    weight = gflow.Hadamard.small(10, log_alpha=-decades * LOG10, key=jax.random.key(0))
    model = DiagonalLinear(weight)
    return gflow.simulate(model, regression(), tau1=4.0, rtol=rtol, error_bars=False)


def test_attempts_hardly_depend_on_alpha():
    # 10⁻³ has two thirds of its transitions merged; 10⁻¹⁰⁰⁰⁰⁰⁰ has plateaus 10⁵ times as long
    most = attempts(small(1_000_000))
    assert most <= 3 * attempts(small(16))
    assert most <= 3 * attempts(small(3))
    assert attempts(small(10_000)) <= 2 * attempts(small(100))


@pytest.mark.parametrize("decades", [100, 10_000, 1_000_000])
@pytest.mark.parametrize("rtol", [1e-6, 1e-8])
def test_a_step_does_not_overshoot_the_next_transition(decades, rtol):
    # a step that ends beyond a transition is repeated once for every factor of ten
    run = small(decades, rtol)
    assert len(run.stages()) == 6
    assert run.statistics["rejected"] <= 6 * 20


# --- linear systems -------------------------------------------------------------------


def definite(rng, n):
    """A symmetric matrix with eigenvalues between 1 and 100, and its inverse."""
    basis, _ = np.linalg.qr(rng.standard_normal((n, n)))
    eigenvalues = np.geomspace(1.0, 100.0, n)
    return (basis * eigenvalues) @ basis.T, (basis / eigenvalues) @ basis.T


def scaled_systems(n, count=12):
    """D^{−½} S D^{½} with D from 10⁻¹⁵⁰ to 10³, and the inverses D^{−½} S⁻¹ D^{½}."""
    rng = np.random.default_rng(n)
    matrices, inverses = [], []
    for _ in range(count):
        S, inverse = definite(rng, n)
        root = 10.0 ** (0.5 * rng.permutation(np.linspace(-150, 3, n)))
        matrices.append(S / root[:, None] * root)
        inverses.append(inverse / root[:, None] * root)
    return np.stack(matrices), np.stack(inverses)


@pytest.mark.parametrize("n", [1, 2, 5, 10, 32])
def test_elimination_inverts_symmetric_matrices_of_any_scaling(n):
    matrices, inverses = scaled_systems(n)
    found = np.asarray(eliminated(jnp.asarray(matrices)))
    assert found.shape == matrices.shape
    # entry by entry, in the scaling of each: the error of S⁻¹ is n·cond·ε of its size
    size = np.abs(inverses).max(axis=(1, 2), keepdims=True) if n == 1 else None
    with np.errstate(divide="ignore"):
        root = np.sqrt(np.abs(matrices / np.swapaxes(matrices, 1, 2)))  # √(D_j/D_i)
    size = root * (1.0 if size is None else size)  # ‖S⁻¹‖ = 1
    assert np.all(np.abs(found - inverses) <= 100 * n * EPS * 10 * size)


@pytest.mark.parametrize("n", [3, 10])
def test_elimination_agrees_with_numpy_on_the_matrices_of_a_step(n):
    # I/(hγ) + σHσ·D with D = ½e^{2x}, which is zero for weights below the float range
    rng = np.random.default_rng(n)
    H, _ = definite(rng, n)
    side = rng.choice([-1.0, 1.0], (8, n))
    x = np.where(rng.random((8, n)) < 0.5, rng.uniform(-2, 0.5, (8, n)), -1e4)
    curved = side[:, :, None] * H * side[:, None, :] * (0.5 * np.exp(2 * x))[:, None, :]
    for h in (1e-6, 1.0, 1e6):
        matrices = np.eye(n) / (0.2 * h) + curved
        found = np.asarray(eliminated(jnp.asarray(matrices)))
        expected = np.linalg.inv(matrices)
        room = 1e-11 * np.abs(expected).max(axis=(1, 2), keepdims=True)
        assert np.all(np.abs(found - expected) <= room)


def test_one_singular_member_leaves_the_others_alone():
    matrices, inverses = scaled_systems(4, count=3)
    matrices[1] = np.nan
    found = np.asarray(eliminated(jnp.asarray(matrices)))
    np.testing.assert_allclose(found[[0, 2]], inverses[[0, 2]], rtol=1e-9)
    assert np.all(np.isnan(found[1]))


def solve(matrix, b, pivot):
    return factorised(matrix, pivot)(b)


def systems(n, count=5):
    rng = np.random.default_rng(n + 1)
    matrices = np.stack([definite(rng, n)[0] for _ in range(count)])
    root = np.exp(rng.uniform(-1, 1, (count, n)))
    return matrices / root[:, :, None] * root[:, None, :], rng.standard_normal((count, n)), rng


@pytest.mark.parametrize(
    ("n", "pivot"), [(4, True), (4, False), (INVERTED, False), (INVERTED + 1, False)]
)
def test_systems_are_solved_alone_and_in_batches(n, pivot):
    matrices, b, _ = systems(n)
    expected = np.linalg.solve(matrices, b[..., None])[..., 0]
    batch = jax.vmap(functools.partial(solve, pivot=pivot))(jnp.asarray(matrices), jnp.asarray(b))
    np.testing.assert_allclose(batch, expected, rtol=1e-10, atol=1e-12)
    alone = solve(jnp.asarray(matrices[2]), jnp.asarray(b[2]), pivot)
    np.testing.assert_allclose(alone, expected[2], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("batched", [True, False])
def test_derivatives_of_the_inverse_against_finite_differences(batched):
    matrices, b, rng = systems(4)
    change, weight = rng.standard_normal(matrices.shape), rng.standard_normal(b.shape)
    one = functools.partial(solve, pivot=False)

    @jax.jit
    def f(matrices):
        if batched:
            return jax.vmap(one)(matrices, jnp.asarray(b))
        return jnp.stack([one(m, jnp.asarray(x)) for m, x in zip(matrices, b, strict=True)])

    h = 1e-6
    slope = (np.asarray(f(jnp.asarray(matrices + h * change)))
             - np.asarray(f(jnp.asarray(matrices - h * change)))) / (2 * h)  # fmt: skip
    _, forward = jax.jvp(f, (jnp.asarray(matrices),), (jnp.asarray(change),))
    np.testing.assert_allclose(forward, slope, rtol=1e-6, atol=1e-6 * np.abs(slope).max())
    _, pull = jax.vjp(f, jnp.asarray(matrices))
    (backward,) = pull(jnp.asarray(weight))
    assert np.sum(backward * change) == pytest.approx(np.sum(weight * slope), rel=1e-6)
    # each member's own: the gradient of one does not reach another
    (single,) = pull(jnp.asarray(weight).at[1:].set(0.0))
    assert np.all(np.asarray(single)[1:] == 0.0)
    assert np.any(np.asarray(single)[0] != 0.0)


def test_the_inverse_itself():
    matrices, _, _ = systems(5)
    np.testing.assert_allclose(
        jax.vmap(inverse_without_pivots)(jnp.asarray(matrices)) @ matrices,
        np.broadcast_to(np.eye(5), matrices.shape), atol=1e-12,
    )  # fmt: skip


def plateau(t, x, args):
    """log coordinates x of θ = σe^{2x}/4 under the force r − Hθ."""
    H, target, side = args
    return side * (target - H @ (side * 0.25 * jnp.exp(2.0 * x)))


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, None, 0, None, 0, 0))
def plateau_steps(pivot, h, x, *args):
    term, zero = diffrax.ODETerm(plateau), jnp.zeros_like(h)
    return Rodas5P(pivot=pivot).step(term, zero, h, x, args, None, False)[:2]


@pytest.mark.parametrize("h", [1e-3, 0.3, 1.0])
def test_steps_with_and_without_pivots_are_the_same(h):
    rng = np.random.default_rng(8)
    n, count = 8, 16
    H = jnp.asarray(definite(rng, n)[0] / 100)
    side = jnp.asarray(rng.choice([-1.0, 1.0], (count, n)))
    target = jnp.asarray(rng.uniform(-1, 1, (count, n)))
    dormant = rng.random((count, n)) < 0.5
    x = jnp.asarray(
        np.where(dormant, rng.uniform(-1e4, -5, (count, n)), rng.uniform(-1, 0.5, (count, n)))
    )

    (end, error), (other, other_error) = (
        plateau_steps(pivot, jnp.array(h), x, H, target, side) for pivot in (True, False)
    )
    assert np.all(np.isfinite(end))
    assert np.max(np.abs(end - x)) > 0.1 * h  # it moved
    np.testing.assert_allclose(other, end, rtol=1e-13, atol=1e-12)
    np.testing.assert_allclose(other_error, error, rtol=1e-9, atol=1e-12)
