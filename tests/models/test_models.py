"""Forward passes against loops written out, and the stack of residual layers predicted."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
import theory
from gflow.models import DiagonalAttention, DiagonalLinear, Residual, woodworth


def frozen_head(seed: int, heads: int, d: int, scale: float = 1.0) -> DiagonalAttention:
    rng = np.random.default_rng(seed)
    kq, vo = (gflow.Frozen(rng.standard_normal((heads, d))) for _ in range(2))
    return DiagonalAttention(kq, vo, scale=scale)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_attention_is_the_formula(heads, scale):
    d, tokens = 4, 5
    model = frozen_head(0, heads, d, scale)
    x = np.random.default_rng(1).standard_normal((tokens, d))
    expected = np.zeros((tokens, d))
    for h in range(heads):
        logits = scale * x @ np.diag(model.kq.value[h]) @ x.T
        weights = np.exp(logits)
        weights /= weights.sum(axis=1, keepdims=True)
        expected += weights @ x @ np.diag(model.vo.value[h])
    np.testing.assert_allclose(model(jnp.asarray(x)), expected, rtol=1e-13)


def test_order_of_heads_and_of_tokens_does_not_matter():
    model = frozen_head(2, 3, 4)
    x = jnp.asarray(np.random.default_rng(3).standard_normal((6, 4)))
    turned = DiagonalAttention(
        gflow.Frozen(model.kq.value[::-1]), gflow.Frozen(model.vo.value[::-1])
    )
    np.testing.assert_allclose(turned(x), model(x), rtol=1e-13)
    order = np.array([3, 0, 5, 1, 4, 2])
    np.testing.assert_allclose(model(x[order]), model(x)[order], rtol=1e-13)


def test_layers_add_to_their_input():
    one, two = frozen_head(4, 1, 3), frozen_head(5, 2, 3)
    x = jnp.asarray(np.random.default_rng(6).standard_normal((4, 3)))
    middle = x + one(x)
    np.testing.assert_allclose(Residual([one, two])(x), middle + two(middle), rtol=1e-14)


def test_shapes_that_do_not_fit_are_named():
    kq, vo = gflow.Frozen(jnp.ones((1, 3))), gflow.Frozen(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"\(1, 3\).*\(2, 3\)"):
        DiagonalAttention(kq, vo)
    with pytest.raises(ValueError, match="at least one layer"):
        Residual([])


def test_woodworth_is_the_difference_of_squares():
    # w = p² − q² with p' = −∂L/∂p: the same clock as the pair (p, q) itself
    model = woodworth(3, log_alpha=np.log(0.1))
    s, d = np.exp(model.weight.log_s), np.exp(model.weight.log_d)
    np.testing.assert_allclose(s / np.sqrt(2), 0.1)
    np.testing.assert_allclose(d / np.sqrt(2), 0.1)
    x, y = jnp.asarray([[1.0, 2.0, -1.0], [0.5, -1.0, 1.0]]), jnp.asarray([1.0, -2.0])
    run = gflow.simulate(model, gflow.objectives.SquaredLoss(x, y), t1=2.0, rtol=1e-11)

    p, q = np.full(3, 0.1), np.full(3, 0.1)
    from scipy.integrate import solve_ivp

    def field(t, z):
        p, q = z[:3], z[3:]
        g = -x.T @ (x @ (p**2 - q**2) - y) / 2
        return np.concatenate([2 * p * g, -2 * q * g])

    exact = solve_ivp(field, (0, 2), np.concatenate([p, q]), rtol=1e-12, atol=1e-14).y[:, -1]
    np.testing.assert_allclose(
        2 * run.observables["weight"][-1], exact[:3] ** 2 - exact[3:] ** 2, rtol=1e-9, atol=1e-11
    )


def test_linear_model_reads_the_value():
    weight = gflow.Hadamard(jnp.array([1.0, 2.0]), jnp.array([3.0, -1.0]))
    assert float(DiagonalLinear(weight)(jnp.array([1.0, 1.0]))) == pytest.approx(1.0)


@pytest.fixture(scope="module")
def stack():
    """A student of two layers with a residual stream, and a teacher of the same form."""
    d = 2
    rng = np.random.default_rng(7)
    inputs = jnp.asarray(rng.standard_normal((40, 4, d)) * [1.0, 1.4])

    def layer(kq, vo):
        return DiagonalAttention(gflow.Frozen(jnp.array([kq])), gflow.Frozen(jnp.array([vo])))

    teacher = Residual([layer([1.0, -0.5], [1.2, 0.4]), layer([0.4, 0.8], [-0.3, 0.9])])
    objective = gflow.objectives.SquaredLoss(inputs, jax.vmap(teacher)(inputs))
    keys = jax.random.split(jax.random.key(3), 4)
    kq1, vo1, kq2, vo2 = (gflow.Hadamard.small((1, d), log_alpha=-300.0, key=k) for k in keys)
    return Residual([DiagonalAttention(kq1, vo1), DiagonalAttention(kq2, vo2)]), objective


@pytest.mark.slow
def test_first_stages_of_a_stack_of_layers_are_predicted(stack):
    """At zero both layers feel the same force: their copies of a weight switch together."""
    model, objective = stack
    prediction = theory.gradual_rank.predict(model, objective, max_stages=4)
    first = prediction.stages[0]
    assert {name for name, _ in first.activated} == {"layers.0.vo", "layers.1.vo"}
    # under uniform attention the stack multiplies the mean by (1 + a)(1 + b), so that
    # a' = 2|a|G(1 + b), b' = 2|b|G(1 + a), and log|a/b| + a − b stays: no shares that are kept
    assert not first.shares
    (index,) = {index for _, index in first.activated}
    a, b = (float(first.value[f"layers.{i}.vo"][index]) for i in (0, 1))
    factor = "log_s" if a > 0 else "log_d"
    one, two = (float(getattr(layer.vo, factor)[index]) for layer in model.layers)
    assert math.log(a / b) + a - b == pytest.approx(2.0 * (one - two), abs=1e-8)
    run = gflow.simulate(model, objective, tau1=1.02 * prediction.stages[-1].tau)
    table = theory.compare(run, prediction)
    rows = table.rows
    assert table.counts["refuted"] == 0, table
    assert abs(rows[0].offset_measured - rows[0].offset_predicted) < 1e-5
