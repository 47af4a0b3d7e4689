"""Escapes on to the plateau: what is conserved, closed forms, spectra, and what is refused."""

import functools
import math

import diffrax
import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from escaping_transformers import D, X, Y, outer, relative, simulate, small

import gflow
from gflow import models, objectives
from theory import condensation as co
from theory.condensation._effective_flow import EffectiveChain
from theory.reproduce.condensation.key_query_spectra import excess, predicted_spectra, spectra

#: Without the companion of the error bars: less to compile.
escape = functools.partial(gflow.escape, error_bars=False)

# ---- on to the plateau ------------------------------------------------------------------------


def grams(model):
    left, right = (
        np.asarray(x) * np.exp(np.asarray(model.kq.log_scale))
        for x in (model.kq.left, model.kq.right)
    )
    value, inner, _ = outer(model)
    # the gauge turns the columns: eigenvalues stay
    return np.linalg.eigvalsh(left.T @ left - right.T @ right), value.T @ value - inner @ inner.T


@pytest.mark.slow
def test_conserved_through_both_stages():
    model, loss = small(2, seed=1), objectives.MarginLoss(X, Y)
    out = escape(model, loss, level=0.2, rtol=1e-10)
    traj = simulate(out.final, loss, t1=400.0, rtol=1e-10)
    first, size = grams(model), np.linalg.norm(model.inner.value) ** 2
    for later in (out.final, traj.final):
        keys, values = grams(later)
        assert np.max(np.abs(keys - first[0])) < 1e-9
        assert np.max(np.abs(values - first[1])) < 1e-9
    # both stages have happened, and what is conserved is small beside the weights
    assert np.linalg.norm(traj.final.kq.value) > 0.5
    assert np.linalg.norm(outer(traj.final)[1]) ** 2 > 10 * size


@pytest.mark.slow
def test_the_level_of_the_hand_over_does_not_matter():
    model, loss, t1 = small(50), objectives.MarginLoss(X, Y), 600.0
    ends = []
    for level in (0.1, 0.3):
        out = escape(model, loss, level=level, rtol=1e-10)
        gone = out.at_norm(0.1).remaining if level > 0.1 else 0.0
        traj = simulate(out.final, loss, t1=t1 - gone, rtol=1e-10)
        ends.append((*outer(traj.final), np.asarray(traj.final.kq.log_singular_values())[:1]))
    assert np.linalg.norm(ends[0][1]) > 0.5
    for x, y in zip(*ends, strict=True):
        assert relative(x, y) < 1e-7


@pytest.mark.parametrize("same_last", [False, True])
def test_frozen_outer_weights_give_the_closed_form(same_last):
    x = np.array(X)
    if same_last:
        x[:, -1] = x[0, -1]
    w = [np.random.default_rng(s).standard_normal(shape) for s, shape in
         ((1, (D, D)), (2, (D, D)), (3, (D,)))]  # fmt: skip
    model = models.LastTokenTransformer(
        small(30).kq, *(gflow.Frozen(0.5 * z) for z in w), activation=jnp.tanh
    )
    f = co.key_query_matrix(x, Y, *(0.5 * z for z in w))
    sigma = np.linalg.svd(f, compute_uv=False)
    assert (sigma[1] < 1e-14 * sigma[0]) == same_last
    q, k = (1e-30 * np.asarray(z) for z in (model.kq.left, model.kq.right))
    t1 = 40.0 / sigma[0]  # to weights of 1e-13: the softmax is linear to 1e-26
    traj = simulate(model, objectives.MarginLoss(x, Y), t1=t1, rtol=1e-11)
    query, key = co.key_query(f, q, k, t1)
    left, right = (
        np.asarray(z) * np.exp(np.asarray(traj.final.kq.log_scale))
        for z in (traj.final.kq.left, traj.final.kq.right)
    )
    for ours, theirs in ((left, query), (right, key)):
        # the columns are turned by one rotation: compare what does not see it
        assert relative(ours @ ours.T, theirs @ theirs.T) < 1e-9
        np.testing.assert_allclose(
            np.linalg.svd(ours)[1][0], np.linalg.svd(theirs)[1][0], rtol=1e-9
        )
    assert relative(left @ right.T, query @ key.T) < 1e-9


def test_spectra_of_graded_keys():
    rng = np.random.default_rng(7)
    f, q, k = (rng.standard_normal((3, 3)) for _ in range(3))
    t = np.array([0.5, 2.0])
    exact = co.key_query(f, q, k, t)
    for ours, theirs in zip(predicted_spectra(f, q, k, t), exact, strict=True):
        logs = np.log(np.linalg.svd(theirs, compute_uv=False))
        np.testing.assert_allclose(ours, logs, atol=1e-11)
    leaf = gflow.Factored(q, k, -20.0)
    coordinates = leaf.coordinates(False)
    record = {x: np.asarray(y)[None] for x, y in coordinates.record(coordinates.start()).items()}
    for (u, logs), w in zip(spectra(record), (q, k), strict=True):
        left, values, _ = np.linalg.svd(w)
        np.testing.assert_allclose(logs[0], np.log(values) - 20, atol=1e-12)
        np.testing.assert_allclose(np.abs(u[0]), np.abs(left), atol=1e-10)
    # far beyond what the SVD of the matrix sees: each mode keeps its rate
    far = predicted_spectra(f, q, k, np.array([400.0, 500.0]))[0]
    rates = np.linalg.svd(f, compute_uv=False)
    np.testing.assert_allclose(np.diff(far, axis=0)[0] / 100, rates, rtol=1e-6)
    assert excess(far)[1] == pytest.approx(math.exp(2 * (far[1, 1] - far[1, 0])), rel=1e-6)


# ---- what is refused --------------------------------------------------------------------------

LOSS = objectives.MarginLoss(X, Y)


def with_inner(inner):
    return eqx.tree_at(lambda m: m.inner, small(3), inner)


REFUSED = {
    "level below": (lambda: escape(small(1), LOSS, level=0.1), "largest plain weight at"),
    "level": (lambda: escape(small(3), LOSS, level=math.nan), "finite norm"),
    "zero leaf": (
        lambda: escape(with_inner(gflow.Scaled(np.zeros((D, D)), 0.0)), LOSS, level=0.1),
        "'inner' is zero"),
    "nothing plain": (
        lambda: escape(small(3).kq, lambda w: jnp.sum(w.value**2), level=0.1),
        "plain weight"),
    "underflow": (lambda: escape(small(150), LOSS, level=0.1), "underflows"),
    "at rest": (
        lambda: escape(
            eqx.tree_at(lambda m: m.value, with_inner(gflow.Frozen(np.zeros((D, D)))),
                        gflow.Frozen(np.zeros((D, D)))), LOSS, level=0.1),
        "at rest"),
    "solver": (
        lambda: escape(small(3), LOSS, level=0.1, solver=diffrax.Kvaerno5()), "Dopri8"),
    "float32": (
        lambda: escape(with_inner(jnp.zeros((D, D), jnp.float32)), LOSS, level=0.1),
        "float64"),
    "shapes": (lambda: with_chain(), "chain|needs kq"),
    "labels": (lambda: objectives.MarginLoss(X, 0 * Y), "labels contain 0"),
    "number of labels": (lambda: objectives.MarginLoss(X, Y[:-1]), "one number for each"),
    "vector": (lambda: objectives.MarginLoss(X, Y)(lambda x: x[0]), "needs a number"),
    "on the way": (
        lambda: escape(small(3), LOSS, level=0.1).at_norm(0.2), "on the way"),
    "stages": (lambda: escape(small(3), LOSS, level=0.1).stages(), "within its first"),
    "direction": (lambda: EffectiveChain(np.eye(2)), "vector and a number"),
}  # fmt: skip


def with_chain():
    m = small(3)
    return models.LastTokenTransformer(m.kq, m.value, m.inner, m.value)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_unfinished_escapes_say_why():
    # a weight of one number that must change its sign: β falls through zero
    chain = models.LastTokenTransformer(
        gflow.Factored(np.eye(1), np.eye(1), -7.0),
        *(gflow.Scaled(np.array(x), -7.0) for x in ([[1.3]], [[-0.4]], [0.9])),
    )
    with pytest.warns(UserWarning, match="fell through zero"):
        out = escape(chain, EffectiveChain(np.ones(1)), level=0.1)
    assert not out.successful
    with pytest.warns(UserWarning, match="max_steps"):
        out = escape(small(100), LOSS, level=0.1, max_steps=20)
    assert 0 < out.statistics["accepted"] < 60
    assert escape(out.final, LOSS, level=0.1).successful
    # with pooled tokens that are not separable the weights come to rest
    linear = small(3, activation=lambda h: h)
    frozen = eqx.tree_at(lambda m: m.kq, linear, gflow.Frozen(np.zeros((D, D))))
    with pytest.warns(UserWarning, match="came to rest"):
        out = escape(frozen, LOSS, level=1e3)
    assert np.isfinite(out.loss[-1])
