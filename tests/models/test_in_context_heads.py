"""Heads on prompts of regression: token by token, the flow of the paper, starts, refusals."""

import math

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_context_flows import CONTEXT, EIGENVALUES, integrated, merged_matrix, separate_matrix

import gflow
from gflow.internal import trained_leaves
from gflow.models import MergedHeads, SeparateHeads
from gflow.objectives import InContextRegression

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def scaled(*shape, log_scale=0.0):
    return gflow.Scaled(RNG.normal(size=shape), log_scale)


def values(model):
    return [np.asarray(leaf.value) for leaf in trained_leaves(model).values()]


def linear_attention(prompt, value_entry, key_query):
    """Bottom right of Σ_i (1/N) V_i X Xᵀ KQ_i X, tokens as columns, with all blocks written out."""
    d, n = prompt.shape[1] - 1, len(prompt) - 1
    tokens = prompt.T.copy()
    tokens[-1, -1] = 0.0
    out = np.zeros_like(tokens)
    for a, u in zip(value_entry, key_query, strict=True):
        v, kq = np.zeros((d + 1, d + 1)), np.zeros((d + 1, d + 1))
        v[-1, -1], kq[:-1, :-1] = a, u
        out += v @ tokens @ tokens.T @ kq @ tokens / n
    return out[-1, -1]


def test_merged_heads_are_linear_attention():
    model = MergedHeads(scaled(3, log_scale=-0.5), scaled(3, 4, 4, log_scale=0.3))
    prompt = RNG.normal(size=(6, 5))
    assert list(trained_leaves(model)) == ["value", "key_query"]
    expected = linear_attention(prompt, *values(model))
    assert model(jnp.asarray(prompt)) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(model.matrix(), merged_matrix(*values(model)), rtol=1e-13)


def test_separate_heads_are_linear_attention():
    model = SeparateHeads(scaled(3), scaled(3, 2, 4, log_scale=-0.5), scaled(3, 2, 4))
    prompt = RNG.normal(size=(6, 5))
    v, k, q = values(model)
    assert list(trained_leaves(model)) == ["value", "key", "query"]
    expected = linear_attention(prompt, v, [a.T @ b for a, b in zip(k, q, strict=True)])
    assert model(jnp.asarray(prompt)) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(model.matrix(), separate_matrix(v, k, q), rtol=1e-12)
    other = prompt.copy()
    other[-1, -1] = 7.0  # the answer, which is not read
    assert model(jnp.asarray(other)) == model(jnp.asarray(prompt))


def test_small_starts_are_one_problem_at_every_size():
    for make in (
        lambda size: MergedHeads.small(4, 3, log_epsilon=size, key=KEY),
        lambda size: SeparateHeads.small(4, 3, 2, log_epsilon=size, key=KEY),
    ):
        one, far = make(0.0), make(-230.0)
        for a, b in zip(values(one), values(far), strict=True):
            np.testing.assert_allclose(b, math.exp(-230.0) * a, rtol=1e-12)
    assert SeparateHeads.small(4, 3, log_epsilon=0.0, key=KEY).key.value.shape == (3, 1, 4)
    covariance = np.array([[0.5, 0.2], [0.2, 0.3]])
    v, u = values(MergedHeads.aligned(covariance, 3, log_epsilon=-2.0, key=KEY))
    assert np.linalg.norm(v) == pytest.approx(math.exp(-2.0), rel=1e-12)
    force = covariance @ covariance
    np.testing.assert_allclose(u, v[:, None, None] * force / np.linalg.norm(force), rtol=1e-12)
    of_values = values(MergedHeads.aligned([0.5, 0.3], 3, log_epsilon=-2.0, key=KEY))[1]
    assert of_values[0, 0, 0] / of_values[0, 1, 1] == pytest.approx(25 / 9, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "reduction", "speed"), [("merged", "mean", 2.0), ("separate", "half_mean", 1.0)]
)
def test_runs_follow_the_flow_of_the_paper(kind, reduction, speed):
    """In its time, τ = 1, under the "half_mean" objective; "mean" is twice as fast."""
    if kind == "merged":
        model, t = MergedHeads.small(4, 3, log_epsilon=-5.0, key=KEY), 40.0
    else:
        model, t = SeparateHeads.small(4, 5, log_epsilon=-1.5, key=KEY), 30.0
    exact, _ = integrated(values(model), np.diag(EIGENVALUES), CONTEXT, [t])
    objective = InContextRegression(EIGENVALUES, CONTEXT, reduction=reduction)
    run = gflow.simulate(model, objective, t1=t / speed, rtol=1e-9, error_bars=False)
    for mine, theirs in zip(values(run.final), exact, strict=True):
        np.testing.assert_allclose(mine, theirs[0], rtol=0, atol=1e-7)


def units(model):
    return [leaf.units for leaf in trained_leaves(model).values()]


def small(rank, **which):
    return SeparateHeads.small(4, 3, rank, log_epsilon=-3.0, key=KEY, **which)


def test_heads_of_rank_one_are_units_and_others_where_asked():
    assert units(small(1)) == ["heads"] * 3
    assert units(small(2)) == [None] * 3
    assert units(small(2, units="heads")) == ["heads"] * 3
    assert units(small(1, units="mine")) == ["mine"] * 3
    assert units(small(1, units=None)) == [None] * 3
    for a, b in zip(values(small(1)), values(small(1, units=None)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_decay_needs_plain_heads_or_a_solver():
    """As e^{−2γt} the decay acts on what is conserved, whatever the loss."""
    objective = InContextRegression(EIGENVALUES, CONTEXT)
    model = SeparateHeads.small(4, 5, log_epsilon=-1.5, key=KEY)
    with pytest.raises(ValueError, match="followed without decay"):
        gflow.simulate(model, objective, t1=30.0, decay=0.02)
    exact, _ = integrated(values(model), np.diag(EIGENVALUES), CONTEXT, [30.0], decay=0.02)
    plain = SeparateHeads.small(4, 5, log_epsilon=-1.5, key=KEY, units=None)
    for start, solver in ((model, diffrax.Dopri8()), (plain, None)):
        run = gflow.simulate(
            start, objective, t1=30.0, decay=0.02, solver=solver, rtol=1e-9, error_bars=False
        )
        for mine, theirs in zip(values(run.final), exact, strict=True):
            np.testing.assert_allclose(mine, theirs[0], rtol=0, atol=1e-7)


def test_descent_does_not_see_units():
    objective = InContextRegression(EIGENVALUES, CONTEXT)
    ends = []
    for which in ({}, {"units": None}):
        model = SeparateHeads.small(4, 5, log_epsilon=-1.5, key=KEY, **which)
        ends.append(values(gflow.descend(model, objective, learning_rate=0.5, steps=20).final))
    for a, b in zip(*ends, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_batch_of_sizes_goes_through_all_drops():
    objective = InContextRegression(EIGENVALUES, CONTEXT)
    models = [
        SeparateHeads.small(4, 5, log_epsilon=math.log(e), key=KEY) for e in (1e-3, 1e-20, 1e-100)
    ]
    batch = gflow.simulate_batch(jax.tree.map(lambda *x: jnp.stack(x), *models), objective)
    assert not batch.failed
    for run, model in zip(batch, models, strict=True):
        alone = gflow.simulate(model, objective)
        assert len(run.stages()) == len(alone.stages()) == 4
        for one, other in zip(run.stages(), alone.stages(), strict=True):
            assert one.activated == other.activated
            assert abs(one.t - other.t) <= one.error + other.error


REFUSED = {
    "MergedHeads needs value": lambda: MergedHeads(scaled(2), scaled(3, 4, 4)),
    "MergedHeads needs": lambda: MergedHeads(scaled(2), scaled(2, 4, 3)),
    "SeparateHeads needs": lambda: SeparateHeads(scaled(2), scaled(2, 1, 4), scaled(2, 2, 4)),
    "rank R = 3 .* at most D = 2": lambda: SeparateHeads(
        scaled(1), scaled(1, 3, 2), scaled(1, 3, 2)
    ),
    r"A prompt of shape \(6, 4\)": lambda: MergedHeads(scaled(2), scaled(2, 4, 4))(
        jnp.ones((6, 4))
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_refusals(words):
    with pytest.raises(ValueError, match=words):
        REFUSED[words]()
