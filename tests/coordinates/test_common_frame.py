"""Heads that feel one force: the two gradients, the frame, and times that rounding would shift.

Times of fixtures B and C at which the loss falls through levels: at C from raw factors at 50
digits (Dormand and Prince's eighth order, C++), to the digits given; at B from this flow written
a second time, from two starts.
"""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from equal_heads import LOG10, AddedUp, D, fixture, merged
from matrices import loss_crossing

import gflow
from gflow.coordinates._frame import FrameCoordinates, HeadForces
from gflow.coordinates._gauge import clearing
from gflow.coordinates._parallel import blurred, noise_felt
from gflow.flow._build import build_flow
from gflow.integrate._together import with_common_frames
from gflow.models import SoftmaxAttention, beyond_uniform
from gflow.solvers import Dopri8

EXPLICIT = {"solver": Dopri8(), "error_bars": False}

C20 = {
    13.0: 5.957, 3.1: 60.0109, 3.0: 60.8470, 2.5: 62.4489, 2.0: 72.6569, 1.5: 73.0129,
    1.0: 73.8476, 0.5: 81.2321,
}  # fmt: skip
HALF_A_DIGIT = np.array([5e-4] + 7 * [5e-5])
B100 = {13.0: 29.8583488531, 2.0: 75.9410290763, 1.0: 77.5796788473, 0.5: 81.0471057498}


def framed(model, objective):
    flow = with_common_frames(build_flow(model, objective), model, objective)
    return flow, flow.coordinates[flow.names.index("vo")]


def times(run, levels):
    return np.array([loss_crossing(run, level).t for level in levels])


# --- attention apart from uniform attention -------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [1e-250, 1e-9, 1.0, 300.0])
def test_attention_beyond_uniform_to_all_digits(size, causal):
    logits = size * np.random.default_rng(0).normal(size=(2, 4, 4))
    found = np.asarray(beyond_uniform(jnp.asarray(logits), causal=causal))
    with mpmath.workdps(600):
        for row, place in zip(found.reshape(-1, 4), np.ndindex(2, 4), strict=True):
            keys = place[1] + 1 if causal else 4
            e = [mpmath.exp(mpmath.mpf(float(v))) for v in logits[place][:keys]]
            exact = [float(v / sum(e) - mpmath.mpf(1) / keys) for v in e] + [0.0] * (4 - keys)
            scale = max(np.max(np.abs(exact)), 1e-320)
            np.testing.assert_allclose(row / scale, np.array(exact) / scale, rtol=0, atol=4e-15)


@pytest.mark.parametrize("causal", [False, True])
def test_heads_read_what_softmax_attention_reads(causal):
    model, objective = fixture("A", 0.3, causal=causal)
    x = objective.inputs[0]
    logits = x @ model.kq.value @ x.T
    seen = np.tril(np.ones((4, 4), bool)) if causal else np.ones((4, 4), bool)
    weights = jax.nn.softmax(jnp.where(jnp.broadcast_to(seen, (2, 4, 4)), logits, -jnp.inf))
    expected = np.sum(weights @ (x @ model.vo.value), axis=0)
    np.testing.assert_allclose(model(x), expected, rtol=0, atol=1e-13)


def test_what_a_head_feels_besides_keeps_its_digits():
    """To first order it is linear in the key–query matrix, however small that is."""
    found = []
    for digits in (7, 60):
        model, objective = fixture("A", digits)
        flow, _ = framed(model, objective)
        weights = {"kq": model.kq.value, "vo": 0.0 * model.vo.value}
        force = flow.pulls(weights)[1]["vo"]
        found.append(force)
        whole = flow.forces(weights)[1]["vo"]
        np.testing.assert_allclose(force.each, whole, rtol=1e-14, atol=0)
    np.testing.assert_allclose(found[0].common, found[1].common, rtol=1e-14, atol=0)
    scaled = np.asarray(found[1].apart) * 1e106
    largest = np.max(np.abs(scaled))
    assert 1e-14 < largest < 1e-12
    np.testing.assert_allclose(scaled, found[0].apart, rtol=0, atol=1e-12 * largest)


# --- the frame ------------------------------------------------------------------------


def some_frame(seed=0, skew=1e-4):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(7, 7)))[0] + skew * rng.normal(size=(7, 7))
    y, logs = rng.normal(size=(2, 7, 3)), np.array([[0.2, -1.0, -0.3], [-2.0, 0.0, 0.1]])
    y /= np.linalg.norm(basis @ y, axis=1, keepdims=True)
    known = jnp.zeros(2, jnp.int32), jnp.zeros((2, 2), bool)
    frame = FrameCoordinates(jnp.asarray(y), jnp.asarray(logs), *known, 4, jnp.asarray(basis))
    common, apart = rng.normal(size=(4, 3)), rng.normal(size=(2, 4, 3))
    return frame, HeadForces(jnp.asarray(common), jnp.asarray(apart))


def test_the_velocity_is_that_of_the_columns():
    """Of every head Z' = (H_h − λ)Z + ZΩ, Ω antisymmetric, in a frame that is not orthogonal."""
    frame, force = some_frame()
    state, decay = frame.start(), jnp.asarray(0.3)

    def columns(state):
        x, logs = frame._columns(state)
        return x * jnp.exp(logs)[:, None, :]

    z = np.asarray(columns(state))
    moved = jax.jvp(columns, (state,), (frame.velocity(state, force, decay),))[1]
    for head in range(2):
        h = np.zeros((7, 7))
        h[:4, 4:] = force.common + force.apart[head]
        h += h.T - 0.3 * np.eye(7)
        omega = np.linalg.lstsq(z[head], moved[head] - h @ z[head], rcond=None)[0]
        np.testing.assert_allclose(z[head] @ omega, moved[head] - h @ z[head], rtol=0, atol=1e-9)
        sizes = np.diag(omega)
        # lengths are drawn to one, which alone is on the diagonal
        np.testing.assert_allclose(omega - np.diag(sizes), -(omega - np.diag(sizes)).T, atol=1e-8)


def test_components_of_slower_modes_feel_nothing_of_faster_ones():
    frame, force = some_frame(skew=0.0)
    alike = HeadForces(force.common, 0.0 * force.apart)
    y = np.asarray(frame.direction)
    for row in range(1, 7):
        tail = y.copy()
        tail[:, row:] = 0.0
        state = frame._state(jnp.asarray(tail), frame.log_size, frame.basis)
        dy = frame._parts(frame.velocity(state, alike, jnp.zeros(())))[0]
        np.testing.assert_array_equal(dy[:, row:], 0.0)
        assert np.all(np.abs(dy[:, :row]) > 0.0)


def test_the_frame_starts_on_the_modes_of_the_common_force():
    flow, frame = framed(*fixture("B", 20))
    assert flow.together == ("vo",)
    common = np.asarray(flow.pulls(flow.weights(flow.start()))[1]["vo"].common)
    h = np.block([[np.zeros((D, D)), common], [common.T, np.zeros((D, D))]])
    rates = np.diag(frame.basis.T @ h @ frame.basis)
    np.testing.assert_allclose(rates, np.sort(np.linalg.eigvalsh(h))[::-1], rtol=0, atol=1e-12)
    gauge = build_flow(*fixture("B", 20))
    np.testing.assert_allclose(
        flow.weights(flow.start())["vo"], gauge.weights(gauge.start())["vo"], rtol=1e-12, atol=0
    )


def test_models_that_add_heads_up_and_starts_below_the_floats_stay_in_gauges():
    for model, objective in (fixture("C", 20, kind=AddedUp), fixture("B", 300)):
        flow = with_common_frames(build_flow(model, objective), model, objective)
        assert flow.together == ()
        assert clearing(flow.coordinates[1].log_size).shape == (2, 2, 2)


def test_a_component_that_leaves_the_floats_ends_the_run():
    frame, force = some_frame()
    y = np.zeros((2, 7, 3))
    y[:, 0] = 1.0
    for value, resolved in ((1e-200, True), (1e-275, False), (0.0, True)):
        y[1, 2, 0] = value
        state = frame._state(jnp.asarray(y), frame.log_size, frame.basis)
        assert bool(frame.resolved(state, force)) == resolved


# --- times ----------------------------------------------------------------------------


def test_times_that_rounding_would_shift_by_four_units():
    """In gauges of each head C jumps at 55.8; held against 50 digits and against one matrix."""
    model, objective = fixture("C", 20)
    run = gflow.simulate(model, objective, t1=82.0, **EXPLICIT)
    assert "frame" in run.method
    found = times(run, C20)
    assert np.all(np.abs(found - list(C20.values())) < HALF_A_DIGIT)
    # until the heads are told apart they are one matrix with all columns
    whole = gflow.simulate(merged(model), objective, t1=63.0, **EXPLICIT)
    np.testing.assert_allclose(times(whole, list(C20)[:4]), found[:4], rtol=0, atol=2e-8)

    other, _ = fixture("C", 20, order=[1, 0])
    permuted = gflow.simulate(other, objective, t1=82.0, **EXPLICIT)
    np.testing.assert_allclose(times(permuted, C20), found, rtol=0, atol=3e-7)
    np.testing.assert_allclose(
        permuted.observables["vo"][-1][::-1], run.observables["vo"][-1], rtol=0, atol=1e-5
    )


def test_a_run_goes_on_from_what_it_hands_out(tmp_path):
    model, objective = fixture("C", 20)
    whole = gflow.simulate(model, objective, t1=61.0, **EXPLICIT)
    first = gflow.simulate(model, objective, t1=30.0, **EXPLICIT)
    path = tmp_path / "run"
    first.save(path)
    read = gflow.Trajectory.load(path, like=model)
    exact = times(whole, (3.1, 3.0))
    for start in (first.final, read.final):
        rest = gflow.simulate(start, objective, t1=61.0, **EXPLICIT)
        np.testing.assert_allclose(times(rest, (3.1, 3.0)), exact, rtol=0, atol=2e-8)
    assert first.final.vo.in_frame() is not None
    moved = gflow.rescale(first.final, -20.0 * LOG10)
    assert moved.vo.in_frame() is None


def test_heads_added_up_end_where_noise_is_felt():
    """37/h₂ ≈ 50 after the first jump, before any of the times is wrong."""
    model, objective = fixture("C", 20, kind=AddedUp)
    with pytest.warns(UserWarning, match=r"gflow\.models\.beyond_uniform"):
        lost = gflow.simulate(model, objective, t1=82.0, **EXPLICIT)
    assert lost.status is gflow.Status.unresolved
    assert 40.0 < lost.t[-1] < 55.0


def test_noise_is_told_from_what_the_forces_bring_about():
    x = np.zeros((2, 4, 1))
    x[:, 0, 0] = 1.0
    x, logs = jnp.asarray(x), jnp.zeros((2, 1))
    known = blurred(jnp.zeros((2, 2), bool), x, logs)
    assert known[0, 1]
    assert not known[0, 0]
    apart = x.at[1, 1, 0].set(1e-3)
    assert blurred(known, apart, logs)[0, 1]
    assert not blurred(jnp.zeros((2, 2), bool), apart, logs).any()
    assert not blurred(known, x.at[1, 1, 0].set(0.9), logs).any()
    force = jnp.ones((2, 2, 2))
    assert noise_felt(known, apart, logs, force)
    assert not noise_felt(known, x.at[1, 1, 0].set(1e-6), logs, force)
    assert not noise_felt(known, apart, logs, force.at[1].multiply(1.001))


@pytest.mark.slow
def test_heads_added_up_go_on_where_forces_tell_them_apart_in_time():
    levels = (15.0, 10.0, 5.0, 2.0)
    runs = [
        gflow.simulate(*fixture("A", 30, kind=kind), t1=26.0, **EXPLICIT)
        for kind in (SoftmaxAttention, AddedUp)
    ]
    assert all(run.successful for run in runs)
    np.testing.assert_allclose(*(times(run, levels) for run in runs), rtol=0, atol=1e-7)


@pytest.mark.slow
def test_times_at_1e_100():
    model, objective = fixture("B", 100)
    run = gflow.simulate(model, objective, t1=82.0, **EXPLICIT)
    np.testing.assert_allclose(times(run, B100), list(B100.values()), rtol=0, atol=1e-8)
    with pytest.warns(UserWarning, match="beyond_uniform"):
        lost = gflow.simulate(
            fixture("B", 100, kind=AddedUp)[0], objective, t1=82.0, max_steps=4000, **EXPLICIT
        )
    assert lost.status is gflow.Status.unresolved


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:gflow.simulate")
def test_a_causal_mask_and_decay():
    model, objective = fixture("C", 20, causal=True)
    runs = [
        gflow.simulate(m, objective, t1=40.0, decay=0.01, **EXPLICIT)
        for m in (model, merged(model, causal=True))
    ]
    low = max(run.loss[-1] for run in runs)
    levels = low + (runs[0].loss[0] - low) * np.array([0.7, 0.4, 0.1])
    np.testing.assert_allclose(*(times(run, levels) for run in runs), rtol=0, atol=2e-8)


@pytest.mark.slow
def test_members_of_a_batch_are_runs_of_their_own():
    models = [fixture("C", digits)[0] for digits in (16, 20)]
    objective = fixture("C", 20)[1]
    stack = jax.tree.map(lambda *x: jnp.stack(x), *models)
    batch = gflow.simulate_batch(stack, objective, t1=61.0, **EXPLICIT)
    for model, one in zip(models, batch, strict=True):
        alone = gflow.simulate(model, objective, t1=61.0, **EXPLICIT)
        np.testing.assert_allclose(
            times(one, (13.0, 3.1)), times(alone, (13.0, 3.1)), rtol=0, atol=3e-8
        )
