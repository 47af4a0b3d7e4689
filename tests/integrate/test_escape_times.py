"""Escapes from saddles of order three, against the reduced flow, closed forms and raw runs."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from escaping_transformers import D, X, Y, outer, relative, simulate, small
from scipy.integrate import solve_ivp

import gflow
from gflow import models, objectives
from gflow.flow._build import build_flow
from theory import condensation as co
from theory.condensation._effective_flow import EffectiveChain, effective_course
from theory.condensation._reduced_flow import follow, reduced

V, M = co.condensation_direction(X, Y)


def unit_start(model):
    """(a, B, c) divided by ε."""
    value, inner, readout = (np.asarray(w.array) for w in (model.value, model.inner, model.readout))
    return V @ value, inner, readout


def plain_norms(out):
    """Norms of the plain weights at every step."""
    names = ("value", "inner", "readout")
    return np.exp(np.stack([out.observables[f"{n}.log_norm"] for n in names], axis=1))


# ---- model and loss ---------------------------------------------------------------------------


def test_model_and_loss():
    model = small(0, h=3)
    q, k = np.asarray(model.kq.left), np.asarray(model.kq.right)
    v, w, r = outer(model)
    for x, y in zip(X[:3], Y[:3], strict=True):
        logits = x[-1] @ q @ k.T @ x.T / math.sqrt(D)
        share = np.exp(logits - logits.max())
        out = np.tanh(share / share.sum() @ x @ v @ w) @ r
        assert model(jnp.asarray(x)) == pytest.approx(out, rel=1e-12)
        # a mask that hides later tokens changes nothing: only the last row is read
        margin = y * out
        one = x[None], np.array([y])
        assert objectives.MarginLoss(*one)(model) == pytest.approx(math.exp(-margin), rel=1e-12)
        loss = objectives.MarginLoss(*one, loss="logistic")(model)
        assert loss == pytest.approx(math.log1p(math.exp(-margin)), rel=1e-12)
    same = small(100, h=3)
    np.testing.assert_array_equal(same.inner.array, model.inner.array)
    np.testing.assert_array_equal(same.kq.left, model.kq.left)


def test_force_on_keys_is_the_key_query_matrix():
    model = eqx.tree_at(lambda m: m.kq, small(0), gflow.Scaled(np.zeros((D, D)), 0.0))
    flow = build_flow(model, objectives.MarginLoss(X, Y))
    _, forces = flow.forces(flow.weights(flow.start()))
    np.testing.assert_allclose(forces["kq"], co.key_query_matrix(X, Y, *outer(model)), atol=1e-13)


# ---- the effective flow -----------------------------------------------------------------------


def test_reduced_flow_is_the_effective_flow():
    model = small(0)
    start = unit_start(model)
    time = co.blow_up_time(*start)
    late = follow(reduced(*start), lambda late: late.time > 0.9 * time, 1e-13)
    traj = simulate(model, EffectiveChain(V), t1=late.time, rtol=1e-11)
    a = V @ np.asarray(traj.final.value.value)
    assert relative(a, math.sqrt(late.square) * late.direction) < 1e-8
    assert float(-EffectiveChain(V)(traj.final)) == pytest.approx(late.energy, rel=1e-8)
    # and in polar coordinates, to a norm 1e6 times that of the start
    out = gflow.escape(model, EffectiveChain(V, M), level=1e6, rtol=1e-10, error_bars=False)
    norm = max(plain_norms(out)[-1])
    assert out.t[-1] * M == pytest.approx(time - 1 / norm, rel=1e-10)
    left = co.blow_up_limit(*start)
    value, inner, readout = (w / np.linalg.norm(w) for w in outer(out.final))
    np.testing.assert_allclose(value, np.outer(V, left.left), atol=1e-5)
    np.testing.assert_allclose(inner, np.outer(left.left, left.right), atol=1e-5)
    np.testing.assert_allclose(readout, left.right, atol=1e-9)


def test_energy_bound_of_100_starts():
    # E' ≥ 3|E|^{4/3}: E(t) is above the solution of the equation
    for seed in range(100):
        rng = np.random.default_rng(seed)
        d = (2, 3, 6)[seed % 3]
        a, b, c = rng.standard_normal(d), rng.standard_normal((d, d)), rng.standard_normal(d)
        course = effective_course(a, b, c, growth=30.0)
        first, t, energy = course.energy[0], course.t, course.energy
        assert first == pytest.approx(a @ b @ c, rel=1e-10)
        if first > 0:
            bound = (first ** (-1 / 3) - t) ** -3
        else:
            bound = -(((-first) ** (-1 / 3) + t) ** -3)
        slack = 1e-9 * np.maximum(np.abs(energy), abs(first))
        assert np.all(energy - bound >= -slack), seed
        np.testing.assert_allclose(course.stable_rank[0], np.sum(b**2) / np.linalg.norm(b, 2) ** 2)


def test_full_flow_is_effective_to_second_order_at_fixed_rescaled_time():
    time = float(co.blow_up_time(*unit_start(small(0))))
    effective = simulate(small(0), EffectiveChain(V), t1=0.7 * time, rtol=1e-11)
    true = outer(effective.final)
    exponents = [2.0, 3.0]
    off = []
    for exponent in exponents:
        eps = 10.0**-exponent
        traj = simulate(
            small(exponent), objectives.MarginLoss(X, Y), t1=0.7 * time / (eps * M), rtol=1e-11,
        )  # fmt: skip
        off.append(max(relative(x / eps, y) for x, y in zip(outer(traj.final), true, strict=True)))
    slopes = -np.diff(np.log10(off)) / np.diff(exponents)
    # O(ε) is promised; at fixed rescaled time it is O(ε²), as W_QW_Kᵀ = O(ε²)
    assert np.all(slopes > 1.0)
    assert slopes[-1] == pytest.approx(2.0, abs=0.15)


# ---- the escape -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "slope"),
    [("exponential", 1.0), pytest.param("logistic", 0.5, marks=pytest.mark.slow)],
)
def test_escape_time(loss, slope):
    start = unit_start(small(0))
    time = float(co.blow_up_time(*start))
    w, off = 0.05, []
    for exponent in (4, 5, 100) if loss == "exponential" else (4, 5):
        eps = 10.0**-exponent
        out = gflow.escape(
            small(exponent), objectives.MarginLoss(X, Y, loss=loss), level=w,
            error_bars=loss == "exponential",
        )  # fmt: skip
        assert out.successful
        assert max(plain_norms(out)[-1]) == pytest.approx(w, rel=1e-12)
        predicted = float(co.escape_time(time, eps, M, w, slope))
        off.append(abs(out.t[-1] / predicted - 1))
        # what is left is the next order of the loss, ½(ℓ''/ℓ'²)·mean((x̄·v)²)w²/m², with what
        # `predict` allows beyond it, and rounding
        number = co.predict(small(exponent), objectives.MarginLoss(X, Y, loss=loss), level=w)
        allowed = number.numbers[0].tolerance + abs(number.numbers[0].predicted - predicted)
        assert off[-1] * predicted < allowed + 1e-11 * predicted
        # far less than the second term, 1/(κw), or than the rounding of the whole
        assert allowed < max(0.05 / (w * M * slope), 1e-11 * predicted)
    assert off[0] / off[1] == pytest.approx(10.0, rel=0.2)
    if loss == "exponential":
        # time left, where the digits of t are gone
        passage = out.at_norm(0.02)
        assert passage.remaining * M * slope == pytest.approx(1 / 0.02 - 1 / w, rel=0.02)
        assert passage.t == pytest.approx(out.t[-1] - passage.remaining, rel=1e-12)
        assert passage.error < 1e-8 * passage.t
        np.testing.assert_allclose(
            np.max([np.linalg.norm(x) for x in outer(passage.model)]), 0.02, rtol=1e-12
        )


def test_against_raw_weights():
    # the same flow by SciPy, on the weights themselves
    model, loss = small(3), objectives.MarginLoss(X, Y)
    out = gflow.escape(model, loss, level=0.3, rtol=1e-10)
    plain = [model.kq.left, model.kq.right, *(w.array for w in (model.value, model.inner,
             model.readout))]  # fmt: skip
    sizes = np.cumsum([x.size for x in plain])[:-1].tolist()

    def built(z):
        parts = [p.reshape(x.shape) for p, x in zip(jnp.split(z, sizes), plain, strict=True)]
        kq = gflow.Factored(*parts[:2])
        return models.LastTokenTransformer(kq, *(gflow.Scaled(p, 0.0) for p in parts[2:]))

    def risk(z):
        parts = [p.reshape(x.shape) for p, x in zip(jnp.split(z, sizes), plain, strict=True)]
        logits = jnp.einsum("nd,de,nse->ns", X[:, -1], parts[0] @ parts[1].T, X) / 2.0
        mixed = jnp.einsum("ns,nsd->nd", jax.nn.softmax(logits, axis=-1), X)
        return jnp.mean(jnp.exp(-Y * (jnp.tanh(mixed @ parts[2] @ parts[3]) @ parts[4])))

    field = jax.jit(lambda z: -jax.grad(risk)(z))
    z = 1e-3 * np.concatenate([np.asarray(x).ravel() for x in plain])
    run = solve_ivp(lambda _, z: np.asarray(field(z)), (0, out.t[-1]), z, "DOP853", rtol=1e-11,
                    atol=1e-14)  # fmt: skip
    end = built(run.y[:, -1])
    for ours, theirs in zip(outer(out.final), outer(end), strict=True):
        # near the blow-up a relative error δ of t is one of about δt/(T* − t) of the weights
        assert relative(ours, theirs) < 1e-6
    assert relative(out.final.kq.value, end.kq.value) < 1e-6
    assert out.loss[-1] == pytest.approx(float(risk(run.y[:, -1])), rel=1e-6)
    # error bars hold: log-norms at equal r against a run at a tolerance 100 times finer
    fine = gflow.escape(model, loss, level=0.3, rtol=1e-12)
    rough = gflow.escape(model, loss, level=0.3, rtol=1e-5)
    passage = rough.at_norm(0.1)
    assert abs(passage.t - fine.at_norm(0.1).t) <= passage.error
    assert passage.error < 1e-3 * passage.t


def test_the_size_of_the_start_hardly_matters():
    loss = objectives.MarginLoss(X, Y)
    runs = {e: gflow.escape(small(e), loss, level=0.2) for e in (2, 8, 100, 140)}
    steps = {e: r.statistics["accepted"] + r.statistics["rejected"] for e, r in runs.items()}
    # directions and loss at the level are those of the limit ε → 0
    for x, y in zip(outer(runs[100].final), outer(runs[8].final), strict=True):
        assert relative(x, y) < 1e-6
    assert runs[100].loss[-1] == pytest.approx(runs[8].loss[-1], rel=1e-8)
    # about 1.5 a power of ten
    assert steps[100] < 10 * steps[2]
    assert steps[140] - steps[100] < 2 * (140 - 100)
    assert np.all(np.diff(runs[8].t) > 0)


def test_states_on_the_way(monkeypatch):
    loss = objectives.MarginLoss(X, Y)
    out = gflow.escape(small(20), loss, level=0.2)
    whole = out.observables["inner"]
    assert whole.shape == (len(out.t), D, D)
    norms = np.linalg.norm(whole, axis=(1, 2))
    np.testing.assert_allclose(norms, np.exp(out.observables["inner.log_norm"]), rtol=1e-12)
    assert out.observables["kq"].shape == whole.shape
    assert out.remaining[0] == pytest.approx(out.t[-1], rel=1e-9)
    assert np.all(np.diff(out.remaining) < 0)
    # few steps kept: what is between is made again
    for name in ("KEPT", "LEAST_ROWS"):
        monkeypatch.setattr(f"gflow.integrate._recorder.{name}", 16)
    few = gflow.escape(small(20), loss, level=0.2)
    rows = np.flatnonzero(np.isin(out.clock, few.clock))
    assert len(rows) == len(few.t) < len(out.t)
    np.testing.assert_array_equal(few.t, out.t[rows])
    np.testing.assert_array_equal(few.observables["inner"], whole[rows])
    assert few.at_norm(0.01).t == pytest.approx(out.at_norm(0.01).t, rel=1e-13)
