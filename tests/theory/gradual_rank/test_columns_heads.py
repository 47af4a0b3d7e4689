"""The limit algorithm for softmax heads, squares and matrices that decay; what it refuses."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from columns_beside_runs import balanced_network, judged, misses, problem
from matrices import LOG10, Matrix, Quadratic, loss_crossing, quadratic_problem
from scipy.linalg import expm

import gflow
import theory
from gflow.models import Adapted, SoftmaxAttention, SymmetricFactored
from gflow.objectives import SquaredLoss
from theory.comparison._compare import measure
from theory.gradual_rank import predict
from theory.gradual_rank._columns import Columns
from theory.gradual_rank._saddle_leaf import Passage

# --- softmax attention ----------------------------------------------------------------


def head(seed=1, start=101, log_alpha=-60 * LOG10):
    """One softmax head, d = 3 and d_h = 2, taught by another: 48 sequences of 5 tokens."""
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.standard_normal((48, 5, 3)))
    kq = 0.6 * rng.standard_normal((3, 2)) @ rng.standard_normal((2, 3))
    vo = rng.standard_normal((3, 2)) @ rng.standard_normal((2, 3))
    teacher = SoftmaxAttention(gflow.Frozen(kq), gflow.Frozen(vo))
    objective = SquaredLoss(x, jax.vmap(teacher)(x), reduction="half_mean")
    rng = np.random.default_rng(start)
    leaves = []
    for _ in range(2):
        z = rng.standard_normal((6, 2))
        leaves.append(gflow.Factored(z[:3], z[3:], log_scale=log_alpha))
    return SoftmaxAttention(*leaves), objective


@pytest.mark.slow
def test_stages_of_a_softmax_head():
    model, objective = head()
    prediction = predict(model, objective)
    tau = [s.tau for s in prediction.stages]
    np.testing.assert_allclose(tau, [0.300271, 0.379223, 0.482410, 0.600422], rtol=0, atol=1e-6)
    loss = [s.loss for s in prediction.stages]
    np.testing.assert_allclose(loss, [6.784771, 3.635290, 1.226873, 0.0], rtol=0, atol=1e-6)
    leaves = [name for s in prediction.stages for name, _ in s.activated]
    assert leaves == ["vo", "kq", "vo", "kq"]
    ranks = [(int(s.rank["kq"]), int(s.rank["vo"])) for s in prediction.stages]
    assert ranks == [(0, 1), (1, 1), (1, 2), (2, 2)]
    # simulated at 1e-60, so that only a power of α is between
    np.testing.assert_allclose(
        prediction.at(-60 * LOG10).tau[:2], [0.302280, 0.381355], rtol=0, atol=2e-6
    )
    run = gflow.simulate(gflow.rescale(model, -300 * LOG10), objective, tau1=0.7)
    comparison = theory.compare(run, prediction)
    # stopped soon after the last stage: rest is not reached, and so not confirmed
    assert comparison.counts["refuted"] == 0, comparison
    for crossing, t, stage in zip(
        measure(run, prediction), prediction.at(-300 * LOG10).t, prediction.stages, strict=True
    ):
        assert crossing is not None
        assert abs(crossing.t - t) * stage.rate <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "start"), [(2, 102), (3, 103)])
def test_stages_of_further_softmax_heads(seed, start):
    model, objective = head(seed, start)
    prediction = predict(model, objective, max_stages=3)
    assert len(prediction.stages) == 3
    gaps, _ = misses(model, objective, prediction, -300 * LOG10)
    judged(gaps, prediction, -300 * LOG10)


# --- decay, late turns and squares ----------------------------------------------------


@pytest.mark.slow
def test_decay_slows_every_mode_down():
    """On a linear network mode j grows at s_j − λ and rests at s_j − λ."""
    target, left, right = balanced_network(0)
    rate = 0.1
    model = Matrix(gflow.Factored(left, right, log_scale=-100 * LOG10))
    objective = Quadratic(jnp.eye(9), jnp.asarray(target))
    prediction = predict(model, objective, decay=rate)
    u, sizes, vt = np.linalg.svd(target)
    growth = sizes - rate
    np.testing.assert_allclose([s.rate for s in prediction.stages], growth, rtol=1e-10)
    np.testing.assert_allclose([s.tau for s in prediction.stages], 1 / growth, rtol=1e-10)
    for k, stage in enumerate(prediction.stages, 1):
        shrunk = (u[:, :k] * growth[:k]) @ vt[:k]
        np.testing.assert_allclose(stage.value["weight"], shrunk, rtol=0, atol=1e-10)
    gaps, _ = misses(model, objective, prediction, -100 * LOG10, decay=rate)
    assert np.all(np.abs(gaps) <= 1e-6)
    # and where nothing commutes the flow agrees as well
    model, objective = problem((7, 3, 3))
    prediction = predict(model, objective, decay=rate)
    assert len(prediction.stages) == 3
    gaps, _ = misses(model, objective, prediction, -200 * LOG10, decay=rate)
    for gap, stage in zip(gaps, prediction.stages, strict=True):
        assert abs(gap) * stage.rate <= 1e-3


def test_the_end_of_an_orbit_may_be_read_off_before_its_columns_have_turned():
    """Under one force from then on, what columns gain does not depend on when that is said."""
    rng = np.random.default_rng(0)
    force, later = rng.standard_normal((2, 3, 3))
    h = np.block([[np.zeros((3, 3)), later], [later.T, np.zeros((3, 3))]])
    sizes = []
    for end in (0.1, 0.5, 2.0):
        part = Columns.of("w", (), rng.standard_normal((6, 2)), 3, np.ones(2), 0.05)
        part = dataclasses.replace(part.with_force(force, 1e-12), size=np.zeros(2))
        before = part.piece({})
        # the columns are infinitely smaller one than the next, so each is cleared of those before
        q, r = np.linalg.qr(expm((h - 0.05 * np.eye(6)) * end) @ np.asarray(before.direction))
        state = jnp.concatenate([jnp.asarray(q).ravel(), jnp.log(jnp.abs(jnp.diagonal(r)))])
        passage = Passage(before, before.at(state), 0.0, end)
        sizes.append(part.at_saddle({}, passage, later, 1e-12).size)
    np.testing.assert_allclose(sizes[1:], sizes[:-1], rtol=0, atol=1e-12)


@pytest.mark.slow
def test_offsets_where_dormant_columns_still_turn_at_the_end_of_an_orbit():
    """Adapters on two frozen heads: modes of like strength, saddles that are soon reached."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((32, 6, 3)))
    frozen = [size * rng.standard_normal((2, 3, 3)) for size in (0.7, 0.35)]
    change = [0.3 * rng.standard_normal((2, 3, 3)) for _ in frozen]
    taught = (gflow.Frozen(w + d) for w, d in zip(frozen, change, strict=True))
    objective = SquaredLoss(x, jax.vmap(SoftmaxAttention(*taught))(x), reduction="half_mean")
    kq, vo = (
        Adapted(
            w,
            gflow.Factored(*rng.standard_normal((2, 2, 3, 2)), log_scale=-300 * LOG10),
        )
        for w in frozen
    )
    model = SoftmaxAttention(kq, vo)
    prediction = predict(model, objective, max_stages=3)
    gaps, _ = misses(model, objective, prediction, -1000 * LOG10)
    for gap, stage in zip(gaps, prediction.stages, strict=True):
        assert abs(gap) * stage.rate <= 1e-7


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_squares_learn_along_eigenvectors(seed):
    """W = X Xᵀ in a loss that commutes with nothing, and whose target has negative directions."""
    rng = np.random.default_rng(60 + seed)
    kernel, *_ = quadratic_problem(seed, 4)
    target = rng.standard_normal((4, 4))
    target = target + target.T
    log_alpha = -150 * LOG10
    square = SymmetricFactored(jnp.asarray(rng.standard_normal((4, 3))), log_scale=log_alpha)
    model, objective = Matrix(square.weight), Quadratic(jnp.asarray(kernel), jnp.asarray(target))
    prediction = predict(model, objective)
    assert prediction.ended.startswith("complete")
    force = (kernel @ target.ravel()).reshape(4, 4)
    largest = np.max(np.linalg.eigvalsh(force + force.T))
    assert prediction.stages[0].tau == pytest.approx(1 / largest, rel=1e-12)
    for stage in prediction.stages:
        value = stage.value["weight"]
        np.testing.assert_allclose(value, value.T, rtol=0, atol=1e-9)
        assert np.min(np.linalg.eigvalsh(value)) > -1e-9
    gaps, _ = misses(model, objective, prediction, log_alpha)
    judged(gaps, prediction, log_alpha)


@pytest.mark.slow
def test_decay_acts_on_columns_that_no_force_has_reached():
    """Keys and queries of a head shrink from the start, though they feel a force only later."""
    model, objective = head()
    rates = {"kq": 0.7, "vo": 0.3}
    prediction = predict(model, objective, decay=rates)
    assert [s.label for s in prediction.stages] == ["+vo[0]", "+kq[0]", "+vo[1]", "+kq[1]"]
    gaps, _ = misses(model, objective, prediction, -200 * LOG10, decay=rates)
    for gap, stage in zip(gaps, prediction.stages, strict=True):
        assert abs(gap) * stage.rate <= 1e-7


@pytest.mark.slow
def test_decay_moves_the_escape_of_a_column_that_shrinks():
    """What is left of the balance after decay sits on the branch that grows."""
    model, objective = problem((22, 3, 3))
    prediction = predict(model, objective, decay=0.12)
    last = prediction.stages[-1]
    assert math.isnan(last.offset)
    assert last.level is not None
    scales = np.array([150.0, 250.0, 400.0])
    times = []
    for scale in scales:
        small = gflow.rescale(model, -scale)
        run = gflow.simulate(small, objective, tau1=1.5, decay=0.12, error_bars=False)
        times.append(loss_crossing(run, last.level[1]).t)
    # it stands close to the other branch when they change, so a slow power of α is left
    apart = np.abs(np.diff(times) / np.diff(scales) - last.tau)
    assert apart[1] < 0.1 * apart[0] < 2e-4


# --- bad input ------------------------------------------------------------------------


class Two(eqx.Module):
    weight: gflow.Parameter
    other: gflow.Parameter


ANY = Quadratic(jnp.eye(9), jnp.diag(jnp.arange(1.0, 4.0)))
SMALL = gflow.Factored.small((3, 3), 2, log_alpha=-50.0, key=jax.random.key(0))
WIDE = gflow.Factored.small((3, 3), 4, log_alpha=-50.0, key=jax.random.key(0))
RUN = {"direction": np.ones((6, 2)) / math.sqrt(6.0), "log_size": np.array([0.3, -20.0])}


HEADS = gflow.Factored.small((2, 3, 3), 2, log_alpha=-50.0, key=jax.random.key(0))


def turned_heads(model):
    """Forces of equal singular values, but not equal."""
    first, second = model.weight.value
    return 0.5 * jnp.sum((first + second[jnp.array([1, 2, 0])] - jnp.eye(3)) ** 2)


@pytest.mark.parametrize(
    ("model", "objective", "kwargs", "message"),
    [
        (Matrix(WIDE), ANY, {}, "'weight' has 4 columns for a 3×3 matrix.*r ≤ 3"),
        (Matrix(HEADS), turned_heads, {}, "A symmetric tie: .*together at T = 1"),
        (Matrix(SMALL.at_record(RUN, 12.0)), ANY, {}, "'weight' comes from a run.*gflow.rescale"),
        (Matrix(gflow.Factored(jnp.ones((3, 2)), jnp.ones((3, 2)))), ANY, {}, "needs 0 < α < 1"),
        (Matrix(SMALL), ANY, {"log_alpha": 1.0}, "needs 0 < α < 1.*log_alpha = 1 was given"),
        (Matrix(SMALL), ANY, {"decay": lambda t: 0.1}, "constant decay"),
        (Matrix(gflow.to_factors(SMALL)), ANY, {}, r"'weight'.* trained in another form"),
        (
            Two(SMALL, SMALL.rescaled(-60.0)),
            ANY,
            {},
            "disagree on log_alpha .weight: -50, other: -60",
        ),
        (Matrix(SMALL), Quadratic(jnp.eye(9), jnp.zeros((3, 3))), {}, "No weight feels a force"),
    ],
)
def test_bad_input_is_named_with_its_remedy(model, objective, kwargs, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        predict(model, objective, **kwargs)
