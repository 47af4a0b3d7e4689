"""Heads that feel one force in the limit algorithm: one matrix, its parts, and when they part."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equal_heads import fixture
from matrices import LOG10, Matrix
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

import gflow
import theory
from gflow.models import SoftmaxAttention
from gflow.objectives import SquaredLoss
from theory._stage import by_leaf
from theory.gradual_rank import predict
from theory.gradual_rank._columns import Columns
from theory.gradual_rank._joint_columns import JointColumns

# --- a sum of matrices, and gates that set its terms apart -------------------------------


class Gated(eqx.Module):
    """Heads W_h, and a Hadamard weight g_h beside each."""

    w: gflow.Factored
    g: gflow.Hadamard


class Gates(eqx.Module):
    """½ rᵀKr, r = Σ_h (W_h + g_h P W_h P) − M: one force on all heads as long as g = 0."""

    kernel: jax.Array
    beside: jax.Array
    target: jax.Array

    def __call__(self, model):
        w, g = model.w.value, model.g.value
        beside = jnp.matmul(self.beside, jnp.matmul(w, self.beside))
        rest = jnp.sum(w + g[:, None, None] * beside, axis=0) - self.target
        return 0.5 * jnp.sum(rest.ravel() * jnp.matmul(self.kernel, rest.ravel()))


def gated(decades, order=(0, 1, 2)):
    """Three heads of one column, 3×3: two joint modes, then a gate; heads in this order."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((9, 9))
    kernel, target = root @ root.T / 9 + 0.3 * np.eye(9), 2 * rng.standard_normal((3, 3))
    beside = rng.standard_normal((3, 3))
    left, right = rng.standard_normal((2, 3, 3, 1))
    log_alpha, order = -decades * LOG10, list(order)
    s = rng.uniform(0.5, 2.0, 3)
    d = 0.7 * s[::-1]
    ones = np.ones(3, np.int8)
    g = gflow.Hadamard.from_scales(
        log_s=log_alpha + np.log(s[order]), log_d=log_alpha + np.log(d[order]),
        sign_s=ones, sign_d=ones, log_alpha=log_alpha,
    )  # fmt: skip
    w = gflow.Factored(jnp.asarray(left[order]), jnp.asarray(right[order]), log_scale=log_alpha)
    objective = Gates(*(jnp.asarray(x) for x in (kernel, beside, target)))
    return Gated(w, g), objective


def scipy_run(model, objective, end):
    """The flow of raw factors by DOP853; loss and gates as functions of time."""
    kernel, beside, target = (np.asarray(x) for x in jax.tree.leaves(objective))
    alpha = math.exp(float(model.w.log_alpha))
    factors = [alpha * np.asarray(x) for x in (model.w.left, model.w.right)]
    start = np.concatenate(
        [x.ravel() for x in factors]
        + [np.exp(np.asarray(x)) for x in (model.g.log_s, model.g.log_d)]
    )

    def parts(z):
        a, b = z[:9].reshape(3, 3, 1), z[9:18].reshape(3, 3, 1)
        w, g = a @ b.transpose(0, 2, 1), (z[18:21] ** 2 - z[21:] ** 2) / 4
        through = beside @ w @ beside
        rest = (w + g[:, None, None] * through).sum(axis=0) - target
        return a, b, through, g, rest

    def field(t, z):
        a, b, through, g, rest = parts(z)
        force = -(kernel @ rest.ravel()).reshape(3, 3)
        on_w = force + g[:, None, None] * (beside.T @ force @ beside.T)
        on_g = np.sum(force * through, axis=(1, 2))
        turned = (on_w @ b).ravel(), (on_w.transpose(0, 2, 1) @ a).ravel()
        return np.concatenate([*turned, on_g * z[18:21], -on_g * z[21:]])

    run = solve_ivp(field, (0, end), start, "DOP853", rtol=1e-13, atol=1e-30, dense_output=True)

    def loss(t):
        rest = parts(run.sol(t))[-1].ravel()
        return 0.5 * rest @ kernel @ rest

    return loss, lambda i, t: parts(run.sol(t))[3][i]


def crossing(function, level, t, around):
    return brentq(lambda x: function(x) - level, t - around, t + around, xtol=1e-11)


@pytest.fixture(scope="module")
def gates():
    return predict(*gated(50))


@pytest.mark.slow
def test_joint_modes_and_a_split_come_when_raw_factors_say(gates):
    """T·Λ + C up to a power of α through two joint modes and the gate that parts the heads."""
    assert [s.label for s in gates.stages[:3]] == [
        "+w[head 0, 0] +w[head 1, 0] +w[head 2, 0]",
        "no switch",
        "+g[0]",
    ]
    missed = []
    for decades in (8, 11):
        model, objective = gated(decades)
        times = gates.at(-decades * LOG10).t[:3]
        loss, gate = scipy_run(model, objective, times[-1] + 4.0)
        row = []
        for stage, t in zip(gates.stages[:3], times, strict=True):
            observable, level = stage.level
            here = loss if observable == "loss" else functools.partial(gate, observable[1][0])
            found = crossing(here, level, t, 1.0)
            row.append(abs(found - t) * stage.rate)
        missed.append(row)
    larger, smaller = np.array(missed)
    assert np.all(smaller <= [1e-5, 1e-3, 5e-3])
    assert np.all(smaller < 0.7 * larger)


@pytest.mark.slow
def test_heads_in_another_order_are_predicted_in_that_order(gates):
    order = [2, 0, 1]
    other = predict(*gated(50, order), max_stages=3)
    for one, two in zip(gates.stages[:3], other.stages, strict=True):
        # what a head has of two modes is known as well as the orbit is, to 1e-11
        assert two.tau == pytest.approx(one.tau, rel=1e-10)
        assert two.offset == pytest.approx(one.offset, rel=0, abs=1e-7)
        for name in ("w", "g"):
            np.testing.assert_allclose(two.value[name], one.value[name][order], rtol=0, atol=1e-7)
        np.testing.assert_array_equal(by_leaf(two.rank)["w"], by_leaf(one.rank)["w"][order])
    shares = [gates.stages[0].shares["w", (h, 0)] for h in order]
    np.testing.assert_allclose(list(other.stages[0].shares.values()), shares, rtol=1e-12)


# --- sums alone: one matrix of all columns ------------------------------------------------


def summed(model):
    """½‖Σ_h W_h − M‖² weighed entry by entry."""
    weight = model.weight.value
    whole = weight if weight.ndim == 2 else jnp.sum(weight, axis=0)
    weights = jnp.asarray(np.random.default_rng(7).uniform(0.5, 1.5, (3, 4)))
    target = jnp.asarray(np.random.default_rng(8).standard_normal((3, 4)))
    return 0.5 * jnp.sum(weights * (whole - target) ** 2)


def columns(seed, width):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((3, width)), rng.standard_normal((4, width))


def test_heads_of_one_force_are_one_matrix_of_all_columns():
    """Times, offsets, losses and the sum are those of the columns side by side."""
    left, right = columns(3, 3)
    one = predict(Matrix(gflow.Factored(left, right, log_scale=-60.0)), summed)
    heads = (jnp.asarray(x.T[:, :, None]) for x in (left, right))
    many = predict(Matrix(gflow.Factored(*heads, log_scale=-60.0)), summed)
    assert len(one.stages) == len(many.stages) == 3
    for a, b in zip(one.stages, many.stages, strict=True):
        assert b.tau == pytest.approx(a.tau, rel=1e-10)
        assert b.offset == pytest.approx(a.offset, rel=0, abs=1e-8)
        assert b.loss == pytest.approx(a.loss, rel=1e-9, abs=1e-12)
        total = b.value["weight"].sum(axis=0)
        np.testing.assert_allclose(total, a.value["weight"], rtol=0, atol=1e-8)


def test_what_each_head_has_of_several_modes():
    """Weights of two heads of two columns against raw factors on their way, at α = 1e-7.

    R turns with the gauge on orbits of more than one active column: the heads would show it.
    """
    left, right = (np.stack(x) for x in zip(columns(1, 2), columns(2, 2), strict=True))
    model = Matrix(gflow.Factored(jnp.asarray(left), jnp.asarray(right), log_scale=-60.0))
    prediction = predict(model, summed)
    assert len(prediction.stages) == 3
    target = np.random.default_rng(8).standard_normal((3, 4))
    weights = np.random.default_rng(7).uniform(0.5, 1.5, (3, 4))

    def field(t, z):
        a, b = z[:12].reshape(2, 3, 2), z[12:].reshape(2, 4, 2)
        force = -weights * (np.sum(a @ b.transpose(0, 2, 1), axis=0) - target)
        return np.concatenate([(force @ b).ravel(), (force.T @ a).ravel()])

    log_alpha = -7 * LOG10
    start = math.exp(log_alpha) * np.concatenate([left.ravel(), right.ravel()])
    times = prediction.at(log_alpha).t
    middles = np.append(0.5 * (times[1:] + times[:-1]), times[-1] + 12.0)
    run = solve_ivp(field, (0, middles[-1]), start, "DOP853", middles, rtol=1e-12, atol=1e-20)
    for z, stage in zip(run.y.T, prediction.stages, strict=True):
        heads = z[:12].reshape(2, 3, 2) @ z[12:].reshape(2, 4, 2).transpose(0, 2, 1)
        np.testing.assert_allclose(stage.value["weight"], heads, rtol=0, atol=5e-3)


@pytest.mark.slow
def test_a_leaf_of_one_head_is_a_matrix():
    left, right = columns(5, 2)
    one = predict(Matrix(gflow.Factored(left, right, log_scale=-60.0)), summed)
    alone = predict(Matrix(gflow.Factored(left[None], right[None], log_scale=-60.0)), summed)
    for a, b in zip(one.stages, alone.stages, strict=True):
        assert (a.tau, a.offset, a.loss) == (b.tau, b.offset, b.loss)
        np.testing.assert_array_equal(b.value["weight"][0], a.value["weight"])


def test_heads_share_as_many_modes_as_they_have():
    """An identity target: three modes of one rate, four columns in two heads."""
    weight = gflow.Factored.small((2, 3, 3), 2, log_alpha=-50.0, key=jax.random.key(0))

    def identity(model):
        return 0.5 * jnp.sum((jnp.sum(model.weight.value, axis=0) - jnp.eye(3)) ** 2)

    (stage,) = predict(Matrix(weight), identity).stages
    assert stage.tau == pytest.approx(1.0, rel=1e-12)
    np.testing.assert_allclose(stage.value["weight"].sum(axis=0), np.eye(3), rtol=0, atol=1e-10)
    # C R_hᵀ: each head has what its columns span of the modes
    z = np.concatenate([*np.asarray(weight.left).transpose(0, 2, 1)]).T
    z = z + np.concatenate([*np.asarray(weight.right).transpose(0, 2, 1)]).T
    u, _, vt = np.linalg.svd(z, full_matrices=False)
    for h in (0, 1):
        own = vt.T[2 * h : 2 * h + 2]
        expected = u @ (own.T @ own) @ u.T
        np.testing.assert_allclose(stage.value["weight"][h], expected, rtol=0, atol=1e-9)


def test_sizes_of_a_part_are_ratios_of_minors():
    """b^S = b + ½ log of minors of M_S, by determinants of the columns of S at the start."""
    rng = np.random.default_rng(0)
    force = rng.standard_normal((3, 3))
    starts = rng.standard_normal((3, 6, 2))
    parts = [
        Columns.of("w", (h,), jnp.asarray(z), 3, np.ones(2), 0.0) for h, z in enumerate(starts)
    ]
    joint = JointColumns.of(parts).with_force(np.stack([force] * 3), 1e-12)
    u, _, vt = np.linalg.svd(force)
    q = np.concatenate([u, vt.T]) / math.sqrt(2.0)
    for groups in ([[0], [1, 2]], [[0, 2], [1]]):
        for part, places in zip(joint.split(groups), groups, strict=True):
            seen = q.T @ np.concatenate([starts[h] for h in places], axis=1)
            volumes = [0.5 * np.linalg.slogdet(seen[:j] @ seen[:j].T)[1] for j in range(1, 4)]
            sizes = np.diff([0.0, *volumes])[: len(part.size)]
            np.testing.assert_allclose(part.size, sizes, rtol=0, atol=1e-12)
            assert len(part.size) == min(2 * len(places), 3)


# --- forces that part, or nearly -----------------------------------------------------------


class Skewed(eqx.Module):
    """½‖Σ_h W_h + c·W_0W_1 − M‖²: forces are equal at zero, and differ by c·W away from it."""

    size: jax.Array

    def __call__(self, model):
        w = model.weight.value
        target = jnp.asarray([[2.0, 0.3, 0.0], [0.1, 1.0, 0.2], [0.0, 0.4, 0.5]])
        rest = jnp.sum(w, axis=0) + self.size * jnp.matmul(w[0], w[1]) - target
        return 0.5 * jnp.sum(rest**2)


def skewed(size, **kwargs):
    rng = np.random.default_rng(4)
    left, right = rng.standard_normal((2, 2, 3, 1))
    weight = gflow.Factored(jnp.asarray(left), jnp.asarray(right), log_scale=-60.0)
    return predict(Matrix(weight), Skewed(jnp.asarray(size)), **kwargs)


@pytest.mark.slow
def test_forces_that_are_equal_at_the_start_alone_part_the_heads_at_once():
    stage = skewed(0.5, max_stages=1).stages[0]
    assert stage.activated == [("weight", (0, 0)), ("weight", (1, 0))]
    assert stage.shares == {}
    w = stage.value["weight"]
    rest = (
        w.sum(axis=0) + 0.5 * w[0] @ w[1] - np.array([[2.0, 0.3, 0], [0.1, 1, 0.2], [0, 0.4, 0.5]])
    )
    # at rest in the columns of each head alone
    forces = rest + 0.5 * rest @ w[1].T, rest + 0.5 * w[0].T @ rest
    for force, own in zip(forces, w, strict=True):
        np.testing.assert_allclose(force @ own.T, 0.0, rtol=0, atol=1e-9)
        np.testing.assert_allclose(own.T @ force, 0.0, rtol=0, atol=1e-9)


def test_forces_that_differ_by_little_more_than_rounding_end_the_path():
    with pytest.warns(UserWarning, match="little more than rounding"):
        found = skewed(2e-11)
    assert "At stage 1" in found.ended
    assert not found.stages


# --- softmax heads ----------------------------------------------------------------------------


def softmax(heads, seed, kscale, kq_exponent=1.0):
    """Heads of 3×3 and two columns, taught by as many, from 12 sequences of 4 tokens."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((12, 4, 3)), 0.0
    for _ in range(heads):
        kq = kscale * rng.standard_normal((3, 2)) @ rng.standard_normal((2, 3))
        vo = rng.standard_normal((3, 2)) @ rng.standard_normal((2, 3))
        logits = np.einsum("ntd,de,nse->nts", x, kq, x)
        p = np.exp(logits - logits.max(axis=-1, keepdims=True))
        y = y + p / p.sum(axis=-1, keepdims=True) @ x @ vo
    rng = np.random.default_rng(101)
    starts = [rng.standard_normal((6, 2)) for _ in range(2 * heads)]
    kq, vo = (
        gflow.Factored(
            *(
                jnp.asarray(np.stack([z[cut] for z in starts[i::2]]))
                for cut in (slice(3), slice(3, 6))
            ),
            log_scale=-100 * LOG10,
            exponent=exponent,
        )
        for i, exponent in ((0, kq_exponent), (1, 1.0))
    )
    return SoftmaxAttention(kq, vo), SquaredLoss(
        jnp.asarray(x), jnp.asarray(y), reduction="half_mean"
    )


JOINT = "+vo[head 0, 0] +vo[head 1, 0]"


@pytest.mark.slow
def test_a_key_query_matrix_parts_two_heads():
    prediction = predict(*softmax(2, 2, 0.1), max_stages=3)
    assert [s.label for s in prediction.stages] == [JOINT, "+kq[head 0, 0]", "+kq[head 1, 0]"]
    tau = [s.tau for s in prediction.stages]
    np.testing.assert_allclose(tau, [0.129755, 0.330072, 0.340364], rtol=0, atol=1e-6)
    first, second = prediction.stages[0].shares.values()
    assert 0.5 * math.log(first / second) == pytest.approx(0.024162445, abs=1e-9)
    # common-frame run of the same start: half-losses at α = 1e-60
    np.testing.assert_allclose(
        prediction.at(-60 * LOG10).t[:2], [17.9062377, 45.5692730], rtol=0, atol=2e-6
    )


@pytest.mark.slow
def test_a_second_joint_mode_before_any_key_query_matrix():
    """Key–query matrices that start at α^7.25; 50-digit runs from α = 1e-20 fall through levels."""
    prediction = predict(*softmax(2, 2, 0.1, 7.25), max_stages=3)
    tau = [s.tau for s in prediction.stages]
    np.testing.assert_allclose(tau, [0.129755, 1.347581, 1.585423], rtol=0, atol=1e-6)
    assert prediction.stages[1].label == "+vo[head 0, 1] +vo[head 1, 1]"
    assert prediction.stages[2].label == "+kq[head 0, 0]"
    finite = prediction.at(-20 * LOG10)
    levels, known = [13.0, 3.0, 2.5, 2.0, 1.5], [5.957, 60.8470, 62.4489, 72.6569, 73.0129]
    for level, t in zip(levels, known, strict=True):
        found = crossing(lambda x: float(finite.loss(x / finite.scale)), level, t, 0.5)
        assert found == pytest.approx(t, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("decades", [100, 200])
def test_two_softmax_heads_run_as_predicted(decades):
    """The flow in the frame of all heads beside the path, to below the floats' square root."""
    model, objective = fixture("B", decades)
    prediction = predict(model, objective, max_stages=3)
    table = theory.compare(gflow.simulate(model, objective, tau1=0.336), prediction)
    assert not table.counts["refuted"]
    for row in table.rows[:2]:
        assert row.offset_measured == pytest.approx(row.offset_predicted, abs=1e-6)
    times = {c.key: c.verdict for c in table.claims}
    assert times["stage1.time"] == times["stage2.time"] == "confirmed"
