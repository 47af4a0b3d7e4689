"""Models of matrix products: loops written out, plain factors by SciPy, far starts, refusals."""

import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices import LOG10, gaussian
from raw_factors import raw_flow, simulated

import gflow
from gflow import tasks
from gflow.flow._build import build_flow
from gflow.models import (
    FactoredLinear,
    LinearAttention,
    MatrixSensing,
    Residual,
    SoftmaxAttention,
    SymmetricFactored,
)
from gflow.objectives import SquaredLoss
from gflow.parameters._base import trained_leaves
from gflow.parameters._symmetric import Symmetric

KEY = jax.random.key(0)
FAR = -100 * LOG10  # α = 1e-100


def linear(log_alpha, r=2):
    """x ↦ (W₀ + A Bᵀ)x of three outputs and four inputs."""
    weight = gflow.Factored(
        gaussian(3, r, seed=1), gaussian(4, r, seed=2), log_scale=log_alpha
    )  # fmt: skip
    return FactoredLinear(weight, base=0.3 * gaussian(3, 4, seed=3))


def stack(kind, log_alpha, seed=0, heads=(2,)):
    """Two residual layers of attention, all factors of their own; `heads` = () for one head."""

    def factored(number):
        pair = (gaussian(*heads, 3, 2, seed=seed + number + k) for k in (0, 50))
        return gflow.Factored(*pair, log_scale=log_alpha)

    layers = [(factored(2 * i), factored(2 * i + 1)) for i in range(2)]
    return Residual([kind(*pair, scale=0.7) for pair in layers])


# --- forward passes and forces, element by element ------------------------------------


def test_a_factored_layer_row_by_row():
    model, x = linear(math.log(0.5)), gaussian(4, seed=5)
    left, right, base = (np.asarray(a) for a in (model.weight.left, model.weight.right,
                                                 model.base.value))  # fmt: skip
    expected = np.zeros(3)
    for i in range(3):
        for j in range(4):
            entry = base[i, j] + sum(0.25 * left[i, k] * right[j, k] for k in range(2))
            np.testing.assert_allclose(model.matrix[i, j], entry, rtol=1e-13)
            expected[i] += entry * x[j]
    np.testing.assert_allclose(model(jnp.asarray(x)), expected, rtol=1e-12)
    alone = FactoredLinear(model.weight)
    np.testing.assert_allclose(alone.matrix, model.matrix - base, rtol=0, atol=1e-15)
    assert list(trained_leaves(model)) == ["weight"]


def test_measurements_entry_by_entry():
    a, x = gaussian(4, 4, seed=6), gaussian(4, 2, seed=7)
    symmetric = SymmetricFactored(x, log_scale=math.log(0.5))
    product = MatrixSensing(gflow.Factored(x, gaussian(4, 2, seed=8)))
    for model, right, scale in (
        (symmetric, x, 0.25),
        (product, np.asarray(product.weight.right), 1.0),
    ):
        expected = 0.0
        for i in range(4):
            for j in range(4):
                expected += scale * a[i, j] * sum(x[i, k] * right[j, k] for k in range(2))
        np.testing.assert_allclose(model(jnp.asarray(a)), expected, rtol=1e-12)
    np.testing.assert_array_equal(symmetric.matrix, symmetric.matrix.T)


def loops(weights, x, softmax):
    """Layers, heads, queries and keys in loops; traceable, and nothing of gflow."""
    for kq, vo in weights:
        change = [jnp.zeros(x.shape[1])] * len(x)
        for h in range(len(kq)):
            for i in range(len(x)):
                logits = [0.7 * jnp.dot(x[i], jnp.dot(kq[h], x[j])) for j in range(len(x))]
                if softmax:
                    total = sum(jnp.exp(z) for z in logits)
                    logits = [jnp.exp(z) / total for z in logits]
                for j in range(len(x)):
                    change[i] = change[i] + logits[j] * jnp.dot(x[j], vo[h])
        x = x + jnp.stack(change)
    return x


KINDS = [(SoftmaxAttention, True), (LinearAttention, False)]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "softmax"), KINDS)
def test_stacks_of_heads_and_their_forces_token_by_token(kind, softmax):
    model = stack(kind, math.log(0.6))
    names = [f"layers.{i}.{name}" for i in range(2) for name in ("kq", "vo")]
    assert list(trained_leaves(model)) == names
    x, y = jnp.asarray(gaussian(1, 3, 3, seed=9)), jnp.asarray(gaussian(1, 3, 3, seed=10))

    def loss(weights):
        out = loops(list(zip(weights[::2], weights[1::2], strict=True)), x[0], softmax)
        return 0.5 * jnp.sum((out - y[0]) ** 2)

    values = [leaf.value for leaf in trained_leaves(model).values()]
    expected, gradient = jax.value_and_grad(loss)(values)
    flow = build_flow(model, SquaredLoss(x, y))
    measured, forces = flow.forces(dict(zip(names, values, strict=True)))
    np.testing.assert_allclose(measured, expected, rtol=1e-12)
    for name, g in zip(names, gradient, strict=True):
        np.testing.assert_allclose(forces[name], -g, rtol=0, atol=1e-12 * np.max(np.abs(g)))


def test_forces_of_measurements_are_residuals_times_measurements():
    a, y = gaussian(5, 3, 3, seed=24), gaussian(5, seed=25)
    x = gaussian(3, 2, seed=26)
    for model in (MatrixSensing(gflow.Factored(x, 2.0 * x)), SymmetricFactored(x)):
        w = np.asarray(model.matrix)
        expected = np.zeros((3, 3))
        for one, target in zip(a, y, strict=True):
            expected -= (np.sum(one * w) - target) * one / 5.0
        if isinstance(model, SymmetricFactored):
            expected = 0.5 * (expected + expected.T)
        flow = build_flow(model, SquaredLoss(a, y))
        forces = flow.forces({"weight": model.weight.value})[1]
        np.testing.assert_allclose(forces["weight"], expected, rtol=0, atol=1e-12)


# --- the flow of the factors, by SciPy ------------------------------------------------


def factors_of(model):
    """Plain (left, right) of every trained leaf with the scale of both."""
    out = []
    for leaf in trained_leaves(gflow.to_factors(model)).values():
        out += [leaf.left, leaf.right]
    return out


def products(factors):
    pairs = zip(factors[::2], factors[1::2], strict=True)
    return [jnp.matmul(a, b.swapaxes(-1, -2)) for a, b in pairs]


SMALL = math.log(1e-3)


def check(model, objective, loss, t1):
    run, rows = simulated(model, objective, t1)
    start = [np.asarray(x) for x in factors_of(model)]
    exact = raw_flow(lambda factors: loss(products(factors)), start, run.t[rows])
    names = list(trained_leaves(model))
    for row, factors in zip(rows, exact, strict=True):
        for name, value in zip(names, products(factors), strict=True):
            np.testing.assert_allclose(
                run.observables[name][row], value, rtol=0, atol=1e-8, err_msg=name
            )
    return run


BASE = 0.3 * gaussian(3, 4, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [False, True], ids=["small", "lora"])
def test_a_factored_layer_against_its_factors(zero):
    if zero:
        model = FactoredLinear.lora(BASE, 3, log_alpha=SMALL, key=KEY)
        np.testing.assert_array_equal(model.matrix, BASE)
    else:
        model = FactoredLinear.small((3, 4), 3, log_alpha=SMALL, key=KEY, base=BASE)
    x, y = 0.5 * gaussian(4, 4, seed=11), gaussian(4, 3, seed=12)

    def loss(weights):
        rest = jnp.asarray(x) @ (BASE + weights[0]).T - jnp.asarray(y)
        return 0.5 * jnp.sum(rest**2)

    run = check(model, SquaredLoss(x, y, reduction="half_sum"), loss, 20.0)
    # the test is about weights that have grown, and the base has stayed
    assert np.linalg.norm(run.observables["weight"][-1]) > 0.5
    np.testing.assert_array_equal(run.final.base.value, BASE)


TOKENS = jnp.asarray(gaussian(16, 4, 3, seed=13))
TAUGHT = SquaredLoss(TOKENS, jax.vmap(stack(SoftmaxAttention, math.log(0.6), seed=100))(TOKENS))


@pytest.mark.slow
def test_a_stack_of_layers_against_its_factors():
    def loss(weights):
        now = TOKENS
        for kq, vo in zip(weights[::2], weights[1::2], strict=True):
            share = jax.nn.softmax(0.7 * jnp.einsum("nid,de,nje->nij", now, kq, now), axis=-1)
            now = now + jnp.einsum("nij,njd,de->nie", share, now, vo)
        return jnp.sum((now - TAUGHT.targets) ** 2) / 32.0

    run = check(stack(SoftmaxAttention, SMALL, heads=()), TAUGHT, loss, 16.0)
    for name in run.leaves:
        change = run.observables[name][-1] - run.observables[name][0]
        assert np.linalg.norm(change) > 0.05, name


# --- runs from α = 1e-100 -------------------------------------------------------------


@pytest.mark.slow
def test_a_factored_layer_learns_one_singular_value_after_the_other():
    u, v = (np.linalg.qr(gaussian(n, n, seed=20 + n))[0] for n in (3, 4))
    sizes = np.array([3.0, 2.0, 1.2])
    target = (u * sizes) @ v[:, :3].T
    objective = SquaredLoss(np.eye(4), (BASE + target).T, reduction="half_sum")
    model = FactoredLinear.small((3, 4), 3, log_alpha=FAR, key=KEY, base=BASE)
    run = gflow.simulate(model, objective, tau1=1.0, error_bars=False, solver=diffrax.Tsit5())
    assert run.successful
    stages = run.stages()
    losses = [0.5 * np.sum(sizes[k:] ** 2) for k in (1, 2, 3)]
    np.testing.assert_allclose([s.loss for s in stages], losses, rtol=0, atol=1e-8)
    # to O(1/Λ)
    np.testing.assert_allclose([s.tau for s in stages], 1.0 / sizes, rtol=0, atol=0.01)


@pytest.mark.slow
def test_a_stack_of_layers_runs_from_far_below_the_floats():
    model = stack(SoftmaxAttention, FAR, seed=30, heads=())
    run = gflow.simulate(
        model, TAUGHT, tau1=0.8, rtol=1e-8, error_bars=False, solver=diffrax.Tsit5()
    )
    assert run.successful
    assert run.loss[-1] < 0.5 * run.loss[0]
    ranks = {name: run.observables[f"{name}.above_sqrt_alpha"] for name in trained_leaves(model)}
    assert all(rank[0] == 0 and rank[-1] <= 2 for rank in ranks.values())
    # value–output weights of both layers first: without them keys and queries feel nothing
    kq, vo = ([run.tau[ranks[f"layers.{i}.{name}"] > 0] for i in (0, 1)] for name in ("kq", "vo"))
    assert 0.0 < max(t[0] for t in vo) < min(t[0] for t in kq if t.size) < 0.8


# --- bad input ------------------------------------------------------------------------

ONES = np.ones((3, 2))


class Pooled(eqx.Module):
    def __call__(self, x):
        return jnp.mean(x, axis=0, keepdims=True)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FactoredLinear(gflow.Factored(np.ones((2, 3, 2)), np.ones((2, 3, 2)))),
         r"FactoredLinear needs one matrix.*\(2, 3, 3\)"),
        (lambda: FactoredLinear(gflow.Factored(ONES, ONES), base=np.ones((3, 4))),
         r"base of FactoredLinear has shape \(3, 4\).*\(3, 3\)"),
        (lambda: FactoredLinear(gflow.Factored(ONES, ONES), base=gflow.Factored(ONES, ONES)),
         r"is frozen, and a Factored is trained.*base=base.value"),
        (lambda: FactoredLinear.lora(np.ones(3), 2, log_alpha=-3.0, key=KEY),
         r"shape \(3,\): give a matrix"),
        (lambda: FactoredLinear.small((3, 3), 0, log_alpha=-3.0, key=KEY), "rank = 0"),
        (lambda: MatrixSensing(gflow.Frozen(np.ones(3))), r"one matrix.*\(3,\)"),
        (lambda: MatrixSensing(gflow.Frozen(ONES))(jnp.ones((2, 3))), r"\(2, 3\).*\(3, 2\)"),
        (lambda: SymmetricFactored(ONES)(jnp.ones((2, 2))), r"\(2, 2\).*\(3, 3\)"),
        (lambda: SymmetricFactored(np.full((3, 2), np.nan)), "NaN or infinite"),
        (lambda: SymmetricFactored.small(3, 0, log_alpha=-3.0, key=KEY), "rank = 0"),
        (lambda: Symmetric(ONES, 2 * ONES), "factors of X Xᵀ differ.*gflow.Factored"),
        (lambda: Symmetric(np.ones((2, 3, 2)), np.ones((2, 3, 2))), r"one matrix X.*\(2, 3, 2\)"),
        (lambda: Symmetric.small((3, 4), 2, log_alpha=-3.0, key=KEY), r"square.*\(3, 4\)"),
        (lambda: tasks.matrix_sensing(key=KEY, d=2), r"1 to d = 2 positive"),
        (lambda: tasks.matrix_sensing(key=KEY, spectrum=[1.0, 0.0]), r"spectrum = \[1.0, 0.0\]"),
        (lambda: tasks.matrix_sensing(key=KEY, spectrum=[]), "1 to d = 5"),
        (lambda: tasks.matrix_sensing(key=KEY, measurements=0), "measurements = 0"),
        (lambda: Residual([Pooled()])(jnp.ones((4, 3))),
         r"layers\[0\] of Residual, Pooled, turns shape \(4, 3\) into \(1, 3\)"),
    ],
)  # fmt: skip
def test_bad_input_is_named_with_its_remedy(build, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        build()


def test_a_layer_used_twice_is_refused():
    layer = stack(SoftmaxAttention, -3.0).layers[0]
    objective = SquaredLoss(gaussian(2, 4, 3), gaussian(2, 4, 3, seed=1))
    with pytest.raises(ValueError, match=r"layers.0.kq.*layers.1.kq.*same object"):
        gflow.simulate(Residual([layer, layer]), objective, t1=1.0)
