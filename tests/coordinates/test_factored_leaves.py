"""What a factored leaf knows, how its runs are continued and batched, and what is refused."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from counted_losses import Counted, Hashable
from matrices import LOG10, Matrix, Quadratic, gaussian, loss_crossing, quadratic, rotation

import gflow
from gflow.models import LinearAttention, SoftmaxAttention
from gflow.parameters._factored import PlainFactors

# --- what a leaf knows ----------------------------------------------------------------


def graded(sizes, m=4, n=5, seed=0):
    r = len(sizes)
    left, right = gaussian(m, r, seed=seed), gaussian(n, r, seed=seed + 1)
    return left, right, np.asarray(sizes, float)


@pytest.mark.parametrize(
    "sizes",
    [(0.0, -1.0, 0.5), (0.0, -20.0, -150.0), (-150.0, 0.0, -20.0), (-300.0, -310.0, -290.0),
     (0.0, -20.0, -150.0, -151.0, -300.0)],
)  # fmt: skip
def test_singular_values_of_any_size(sizes):
    """Of e^{2ℓ} from 1 to e^{−600}, each to its own relative accuracy; r > m has m of them."""
    left, right, logs = graded(sizes)
    with mp.workdps(700):
        scaled = mp.matrix(left.tolist()) * mp.diag([mp.exp(2 * mp.mpf(x)) for x in logs])
        w = scaled * mp.matrix(right.tolist()).T
        values = sorted(mp.svd_r(w, compute_uv=False), reverse=True)
        exact = [float(mp.log(x)) for x in values[: len(sizes)]]
    weight = gflow.Factored(left * np.exp(logs), right * np.exp(logs), log_alpha=-1.0)
    found = np.asarray(weight.log_singular_values())
    assert found.shape == (len(exact),)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-11)


def test_value_balance_and_gap_of_a_leaf():
    left, right = gaussian(2, 4, 3), gaussian(2, 5, 3, seed=1)
    weight = gflow.Factored(left, right, log_scale=-0.7)
    a, b = math.exp(-0.7) * left, math.exp(-0.7) * right
    w = a @ b.swapaxes(-1, -2)
    np.testing.assert_allclose(weight.value, w, rtol=1e-13, atol=1e-15)
    balance = a.swapaxes(-1, -2) @ a - b.swapaxes(-1, -2) @ b
    np.testing.assert_allclose(weight.conserved(), balance, rtol=0, atol=1e-14)
    plain = gflow.to_factors(weight)
    assert isinstance(plain, PlainFactors)
    np.testing.assert_allclose(plain.left, a, rtol=1e-14)
    np.testing.assert_allclose(plain.right, b, rtol=1e-14)
    np.testing.assert_allclose(plain.conserved(), balance, rtol=0, atol=1e-14)
    np.testing.assert_allclose(plain.value, w, rtol=0, atol=1e-14)
    nuclear = np.linalg.svd(w, compute_uv=False).sum(axis=-1)
    half = 0.5 * (np.sum(a**2, axis=(1, 2)) + np.sum(b**2, axis=(1, 2)))
    found = gflow.observables.gap("")(weight)
    np.testing.assert_allclose(found, half - nuclear, rtol=1e-12)
    assert np.all(found > 0.01)
    assert weight.rank == 3


def test_the_gap_of_balanced_factors_is_zero():
    u, v = rotation(4, 0)[:, :2], rotation(5, 1)[:, :2]
    sizes, turn = np.array([1.3, 0.2]), rotation(2, 2)
    weight = gflow.Factored(u * sizes @ turn, v * sizes @ turn)
    gap = gflow.observables.gap("")
    assert 0.0 <= gap(weight) < 1e-29  # a square of rounding, not a difference of norms
    np.testing.assert_allclose(weight.conserved(), np.zeros((2, 2)), atol=1e-15)
    off = gflow.Factored(2.0 * u * sizes @ turn, 0.5 * v * sizes @ turn)
    assert gap(off) == pytest.approx((2.125 - 1.0) * np.sum(sizes**2), rel=1e-13)


def test_small_draws_gaussian_factors_that_do_not_depend_on_alpha():
    key = jax.random.key(0)
    one = gflow.Factored.small((2, 40, 30), 20, log_alpha=-1e5, key=key)
    two = gflow.Factored.small((2, 40, 30), 20, log_alpha=-3.0, key=key)
    assert one.left.shape == (2, 40, 20)
    assert one.right.shape == (2, 30, 20)
    np.testing.assert_array_equal(one.left, two.left)
    np.testing.assert_array_equal(one.right, two.right)
    for x in (one.left, one.right):  # 1200 and more numbers
        assert np.mean(x) == pytest.approx(0.0, abs=0.1)
        assert np.var(x) == pytest.approx(1.0, abs=0.15)
    pairs = np.ravel(one.left)[:1200], np.ravel(one.right)
    assert abs(np.corrcoef(*pairs)[0, 1]) < 0.1
    assert float(one.log_alpha) == -1e5


def test_logarithms_hold_where_the_value_underflows():
    left, right = gaussian(4, 3), gaussian(5, 3, seed=1)
    exact = np.log(np.linalg.svd(left @ right.T, compute_uv=False)[:3])
    weight = gflow.Factored(left, right, log_scale=-1e5)
    assert np.all(weight.value == 0.0)
    np.testing.assert_allclose(weight.log_singular_values(), exact - 2e5, rtol=0, atol=1e-9)


def test_rescale_keeps_the_factors_and_starts_time_anew():
    weight = gflow.Factored(gaussian(3, 2), gaussian(4, 2, seed=1), log_scale=-5.0)
    other = gflow.rescale(Matrix(weight), -100.0).weight
    assert float(other.log_alpha) == -100.0
    np.testing.assert_allclose(other.log_scale, -100.0, rtol=1e-15)
    for one, two in zip(weight.unscaled(), other.unscaled(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-13)
    record = {"direction": np.ones((7, 2)) / math.sqrt(7), "log_size": np.array([0.1, -3.5])}
    after = weight.at_record(record, 12.5)
    assert float(after.elapsed) == 12.5
    np.testing.assert_allclose(after.exponent, [0.0, 0.7], rtol=1e-14)  # active, dormant
    np.testing.assert_allclose(after.log_scale, [0.1, -3.5], rtol=1e-15)
    again = gflow.rescale(after, -10.0)
    np.testing.assert_allclose(again.log_scale, [0.1, -7.0], rtol=1e-14)
    assert float(again.elapsed) == 0.0


def test_scale_and_alpha_can_differ():
    left, right = gaussian(3, 2), gaussian(4, 2, seed=1)
    weight = gflow.Factored(1e-3 * left, 1e-3 * right, log_alpha=math.log(1e-3))
    np.testing.assert_allclose(weight.value, 1e-6 * left @ right.T, rtol=1e-13)
    np.testing.assert_allclose(weight.unscaled()[0], left, rtol=1e-13)
    smaller = gflow.rescale(weight, math.log(1e-5))
    np.testing.assert_allclose(smaller.value, 1e-10 * left @ right.T, rtol=1e-12)


# --- continuing, files, batches -------------------------------------------------------


@pytest.mark.slow
def test_continuing_from_a_run_equals_going_straight():
    model, objective = quadratic(7, -30 * LOG10)
    straight = gflow.simulate(model, objective, tau1=1.5, rtol=1e-11)
    first = gflow.simulate(model, objective, tau1=0.6, rtol=1e-11)
    continued(first.final, first, straight, objective)


def continued(before, first, straight, objective):
    assert float(before.weight.elapsed) == first.t[-1]
    second = gflow.simulate(before, objective, tau1=1.5, rtol=1e-11, error_bars=False)
    assert second.t[0] == first.t[-1]
    assert second.log_alpha == straight.log_alpha
    for level in (1.0, 0.1):  # the second and the third jump
        assert loss_crossing(second, level).t == pytest.approx(
            loss_crossing(straight, level).t, rel=0, abs=1e-10
        )
    np.testing.assert_allclose(
        second.observables["weight.log_singular"][-1],
        straight.observables["weight.log_singular"][-1],
        rtol=0,
        atol=1e-9,
    )


def test_continuing_from_a_file_equals_going_straight(tmp_path):
    model, objective = quadratic(7, -30 * LOG10)
    straight = gflow.simulate(model, objective, tau1=1.5, rtol=1e-11, error_bars=False)
    first = gflow.simulate(model, objective, tau1=0.6, rtol=1e-11, error_bars=False)
    first.save(tmp_path / "run.nc")
    loaded = gflow.Trajectory.load(tmp_path / "run.nc", like=model)
    assert eqx.tree_equal(loaded.final, first.final)
    continued(loaded.final, first, straight, objective)
    for name in ("loss", "weight", "weight.log_singular", "weight.above_sqrt_alpha"):
        one, two = ((r.loss if name == "loss" else r.observables[name]) for r in (first, loaded))
        np.testing.assert_array_equal(one, two)


def test_the_model_at_any_time():
    model, objective = quadratic(7, -30 * LOG10)
    run = gflow.simulate(model, objective, tau1=1.5, rtol=1e-11, error_bars=False)
    tau = 0.5 * (run.tau[200] + run.tau[201])
    at = run.model(at=tau)
    assert float(at.weight.elapsed) == pytest.approx(tau * run.scale, rel=1e-14)
    saved = gflow.simulate(
        model, objective, tau1=1.5, rtol=1e-11, save=[tau * run.scale], error_bars=False
    )
    row = np.searchsorted(saved.t, tau * run.scale)
    np.testing.assert_allclose(at.weight.value, saved.observables["weight"][row], atol=1e-10)
    np.testing.assert_allclose(run.model(at=0.0).weight.value, model.weight.value, rtol=1e-12)


@pytest.mark.slow
def test_a_batch_equals_its_members_alone():
    keys, scales = jax.random.split(jax.random.key(3), 3), jnp.array([-20.0, -70.0, -150.0])
    models = eqx.filter_vmap(
        lambda key, la: Matrix(gflow.Factored.small((3, 3), 3, log_alpha=la, key=key))
    )(keys, scales)
    _, objective = quadratic(7, -1.0)
    batch = gflow.simulate_batch(models, objective, tau1=2.0, error_bars=False)
    assert not batch.failed
    levels = (2.0, 0.5, 0.05)
    for key, scale, member in zip(keys, scales, batch, strict=True):
        alone = Matrix(gflow.Factored.small((3, 3), 3, log_alpha=scale, key=key))
        run = gflow.simulate(alone, objective, tau1=2.0)
        assert member.log_alpha == run.log_alpha == float(scale)
        for level in levels:
            one, two = loss_crossing(member, level), loss_crossing(run, level)
            # two runs at one tolerance, each with an error of its own
            assert abs(one.t - two.t) <= 2.0 * two.error
        assert float(member.final.weight.elapsed) == member.t[-1]


def test_another_alpha_seed_tolerance_or_end_does_not_compile():
    objective = Counted(Quadratic(jnp.eye(4), jnp.array([[2.0, 0.0], [0.5, 1.0]])), Hashable())

    def small(log_alpha, seed):
        key = jax.random.key(seed)
        return Matrix(gflow.Factored.small((2, 2), 2, log_alpha=log_alpha, key=key))

    kwargs: dict[str, Any] = dict(error_bars=False)
    gflow.simulate(small(-10.0, 0), objective, tau1=1.0, **kwargs)
    objective.count.clear()
    gflow.simulate(small(-1e5, 1), objective, t1=2e5, rtol=1e-6, **kwargs)
    gflow.simulate(small(-100.0, 2), objective, tau1=2, rtol=1e-4, **kwargs)
    final = gflow.simulate(small(-50.0, 2), objective, tau1=1, **kwargs).final
    gflow.simulate(final, objective, tau1=2, **kwargs)
    assert len(objective.count) == 4  # traced once a call, which tells what it reads


# --- bad input ------------------------------------------------------------------------

ONES = jnp.ones((3, 2))
KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: gflow.Factored(ONES, jnp.ones((3, 1))), r"left has shape \(3, 2\).*\(3, 1\)"),
        (lambda: gflow.Factored(jnp.ones(3), jnp.ones(3)), r"left has shape \(3,\)"),
        (lambda: gflow.Factored(jnp.ones((2, 3, 2)), ONES), "same leading axes of heads"),
        (lambda: gflow.Factored(jnp.ones((2, 3, 2)), jnp.ones((1, 3, 2))), "leading axes"),
        (lambda: gflow.Factored(ONES.at[0, 0].set(jnp.nan), ONES), "left has NaN or infinite"),
        (lambda: gflow.Factored(ONES, ONES.at[0, 0].set(jnp.inf)), "right has NaN or infinite"),
        (lambda: gflow.Factored(ONES, ONES.astype(complex)), "right is complex"),
        (lambda: gflow.Factored(ONES, ONES, log_alpha=math.nan), "log_alpha = nan"),
        (lambda: gflow.Factored(ONES, ONES, log_scale=-math.inf), "inf.*positive and finite"),
        (lambda: gflow.Factored.small((3, 3), 0, log_alpha=-3.0, key=KEY), "rank = 0"),
        (lambda: gflow.Factored.small((3, 3), 2, log_alpha=math.nan, key=KEY), "log_alpha = nan"),
        (lambda: gflow.rescale(gflow.Factored(ONES, ONES, -3.0), math.nan), "log_alpha = nan"),
        (
            lambda: gflow.to_factors(gflow.Factored(ONES, ONES, log_scale=-800.0)),
            "as small as e.-800, below the float range.*gflow.simulate",
        ),
        (lambda: PlainFactors(ONES, jnp.ones((3, 1))), "left has shape"),
        (lambda: gflow.Product(ONES), "two or more matrices; 1 given"),
        (lambda: gflow.Product(ONES, ONES), r"factor 0 has shape \(3, 2\) and factor 1 \(3, 2\)"),
        (lambda: gflow.Product(ONES, ONES.T, ONES, ONES), "factor 2 .* factor 3"),
        (lambda: gflow.Product(jnp.ones(3), ONES), r"factor 0 has shape \(3,\)"),
        (lambda: gflow.Product(ONES, jnp.full((2, 2), jnp.nan)), "factor 1 has NaN"),
        (lambda: gflow.Product(ONES, ONES.T.astype(complex)), "factor 1 is complex"),
        (
            lambda: SoftmaxAttention(*(gflow.Factored(x, x) for x in (ONES, ONES[:2]))),
            r"SoftmaxAttention needs kq and vo of one shape.*\(3, 3\).*\(2, 2\)",
        ),
        (
            lambda: LinearAttention(*(gflow.Factored(ONES, jnp.ones((4, 2))) for _ in range(2))),
            r"LinearAttention needs.*\(3, 4\)",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_named_with_its_remedy(build, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        build()


ANY = Quadratic(jnp.eye(9), jnp.eye(3))


@pytest.mark.parametrize(
    ("model", "kwargs", "message"),
    [
        (
            Matrix(gflow.Factored(ONES.astype(jnp.float32), ONES.astype(jnp.float32), -3.0)),
            dict(t1=1.0),
            "weight.*float32.*jax_enable_x64",
        ),
        (Matrix(gflow.Factored(ONES, ONES)), dict(tau1=1.0), "log_alpha = 0 on every leaf"),
        (Matrix(PlainFactors(ONES, ONES)), dict(tau1=1.0), "no Hadamard or Factored leaf"),
    ],
)
def test_runs_refuse_what_they_cannot_do(model, kwargs, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        gflow.simulate(model, ANY, **kwargs)


class ReadsFactors(eqx.Module):
    def __call__(self, model):
        return jnp.sum(model.weight.left)


def test_an_objective_of_more_than_effective_weights_is_refused():
    with pytest.raises(AttributeError, match=r"only `.value` of a parameter.*not `.left`"):
        gflow.simulate(Matrix(gflow.Factored(ONES, ONES, -3.0)), ReadsFactors(), t1=1.0)


@pytest.mark.slow
def test_more_columns_than_the_matrix_has_rows():
    rng = np.random.default_rng(5)
    left, right = rng.standard_normal((2, 5)), rng.standard_normal((3, 5))
    weight = gflow.Factored(left, right)
    exact = np.log(np.linalg.svd(left @ right.T, compute_uv=False))
    np.testing.assert_allclose(weight.log_singular_values(), exact, rtol=0, atol=1e-13)
    target = jnp.asarray(rng.standard_normal((2, 3)))
    start = Matrix(gflow.Factored(left, right, log_scale=-30 * LOG10))
    run = gflow.simulate(start, Quadratic(jnp.eye(6), target), tau1=6.0, error_bars=False)
    assert run.observables["weight.log_singular"].shape == (len(run.t), 2)
    assert [int(stage.rank["weight"]) for stage in run.stages()] == [1, 2]
    np.testing.assert_allclose(run.observables["weight"][-1], target, rtol=0, atol=1e-8)
