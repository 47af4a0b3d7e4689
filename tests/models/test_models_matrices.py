"""Models of matrix products: loops written out, plain factors by SciPy, closed forms, best fits."""

import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices import LOG10, loss_crossing
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

import gflow
from gflow import tasks
from gflow.flow._flow import build_flow, trained_leaves
from gflow.models import (
    FactoredLinear,
    LinearAttention,
    MatrixSensing,
    Residual,
    SoftmaxAttention,
    SymmetricFactored,
)
from gflow.objectives import SquaredLoss
from gflow.parameters._symmetric import Symmetric
from theory import exact_linear

KEY = jax.random.key(0)
FAR = -100 * LOG10  # α = 1e-100


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


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


def raw_flow(loss, start, times):
    """The factors at `times` of gradient flow of `loss` (list of arrays → scalar)."""
    cuts = np.cumsum([x.size for x in start])[:-1]
    shapes = [x.shape for x in start]

    def unpack(y):
        return [part.reshape(s) for part, s in zip(np.split(y, cuts), shapes, strict=True)]

    gradient = jax.jit(jax.grad(loss))

    def field(t, y):
        parts = gradient([jnp.asarray(x) for x in unpack(y)])
        return -np.concatenate([np.asarray(g).ravel() for g in parts])

    flat = np.concatenate([np.asarray(x).ravel() for x in start])
    span = (0.0, float(times[-1]))
    run = solve_ivp(field, span, flat, "DOP853", times, rtol=1e-11, atol=1e-15)
    assert run.success
    return [unpack(y) for y in run.y.T]


def simulated(model, objective, t1, **options):
    """The run, and some of its steps after the start, the last among them."""
    options = {"rtol": 1e-11, "solver": diffrax.Tsit5(), "error_bars": False} | options
    run = gflow.simulate(model, objective, t1=t1, **options)
    assert run.successful
    return run, np.linspace(0, len(run.t) - 1, 9).astype(int)[1:]


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


SENSING = tasks.matrix_sensing(key=jax.random.key(3), d=4)


def test_a_symmetric_factor_follows_the_gradient_of_its_loss():
    """X' = −∇_X L(X Xᵀ), L = (1/2m) Σ (⟨A_i, X Xᵀ⟩ − y_i)²."""
    x = gaussian(4, 4, seed=16)
    model = SymmetricFactored(x, log_scale=SMALL)
    run, rows = simulated(model, SENSING.objective, 4.0)

    def loss(factors):
        read = jnp.tensordot(SENSING.inputs, factors[0] @ factors[0].T, axes=2)
        return jnp.sum((read - SENSING.targets) ** 2) / (2.0 * len(SENSING.targets))

    exact = raw_flow(loss, [1e-3 * x], run.t[rows])
    for row, (factor,) in zip(rows, exact, strict=True):
        np.testing.assert_allclose(
            run.observables["weight"][row], factor @ factor.T, rtol=0, atol=1e-8
        )
        half = run.leaves["weight"]["direction"][row] * np.exp(
            run.leaves["weight"]["log_size"][row]
        )
        # the same columns up to a rotation
        np.testing.assert_allclose(half[:4] @ half[:4].T, factor @ factor.T, rtol=0, atol=1e-8)
        np.testing.assert_array_equal(half[:4], half[4:])
    # dL/dt = −descent
    slope = np.gradient(run.loss, run.t)
    middle = slice(5, -5)
    np.testing.assert_allclose(-slope[middle], run.descent[middle], rtol=0.1, atol=1e-6)


# --- a symmetric factor stays one -----------------------------------------------------


class Distance(eqx.Module):
    """½‖matrix − M‖²."""

    target: jax.Array

    def __call__(self, model):
        return 0.5 * jnp.sum((model.matrix - self.target) ** 2)


BASIS = np.linalg.qr(gaussian(4, 4, seed=17))[0]
INDEFINITE = (BASIS * np.array([3.0, 1.0, -0.5, -2.0])) @ BASIS.T


def test_negative_directions_are_never_learned():
    """Rounding between A and B would grow at rate 2 along the last one, and be learned."""
    x = gaussian(4, 4, seed=18)
    model = SymmetricFactored(x, log_scale=-30.0)
    run, rows = simulated(model, Distance(jnp.asarray(INDEFINITE)), 30.0, solver=None)
    exact = exact_linear.symmetric(math.exp(-30.0) * x, INDEFINITE, 2.0 * run.t[rows])
    np.testing.assert_allclose(run.observables["weight"][rows], exact, rtol=0, atol=1e-8)
    assert run.loss[-1] == pytest.approx(0.5 * (0.5**2 + 2.0**2), abs=1e-10)


def test_a_symmetric_factor_keeps_pace_with_a_plain_weight_beside_it():
    """X' = (G + Gᵀ − λ)X and b' = −∂L/∂b − μb in one loss that couples them, by SciPy on raw X."""
    x, c = 0.3 * gaussian(4, 2, seed=24), gaussian(4, 4, seed=25)  # ∂L/∂W is not symmetric
    target = gaussian(4, 4, seed=26)
    rates = {"w": 0.2, "b": 0.1}

    def loss(model):
        rest = model["w"].value + model["b"] * jnp.asarray(c) - jnp.asarray(target)
        return 0.5 * jnp.sum(rest**2)

    def right(_, z):
        factor, b = z[:-1].reshape(x.shape), z[-1]
        g = target - factor @ factor.T - b * c
        dx = (g + g.T) @ factor - rates["w"] * factor
        return np.append(dx.ravel(), np.sum(g * c) - rates["b"] * b)

    exact = solve_ivp(
        right, (0.0, 1.5), np.append(x.ravel(), 0.2), method="DOP853", rtol=1e-11, atol=1e-12
    ).y[:, -1]
    factor = exact[:-1].reshape(x.shape)
    leaf = Symmetric(x, x)
    for weight in (leaf, gflow.to_factors(leaf)):
        model = {"w": weight, "b": jnp.array(0.2)}
        run = gflow.simulate(model, loss, t1=1.5, decay=rates, error_bars=False)
        np.testing.assert_allclose(run.observables["w"][-1], factor @ factor.T, rtol=0, atol=1e-7)
        np.testing.assert_allclose(run.observables["b"][-1], exact[-1], rtol=0, atol=1e-7)


def test_jump_times_of_a_symmetric_factor_at_any_scale():
    """2m_j·t_j = Λ + log(…) of the j-th logistic mode, by volumes of the start (≤ 1e-100)."""
    x = gaussian(4, 4, seed=19)
    sizes = np.array([3.0, 2.0, 1.4, 1.0])
    target = (BASIS * sizes) @ BASIS.T
    projected = BASIS.T @ x
    volumes = [1.0] + [
        math.sqrt(np.linalg.det(projected[:j] @ projected[:j].T)) for j in range(1, 5)
    ]
    size = np.array(volumes[1:]) / np.array(volumes[:-1])
    # w/(m − w) = (size·α)² e^{4mt}/m, and the loss is halfway where w/m = 1 − √½
    constant = np.log(sizes * (math.sqrt(2.0) - 1.0) / size**2) / (4.0 * sizes)
    for log_alpha in (FAR, 10 * FAR):
        model = SymmetricFactored(x, log_scale=log_alpha)
        run = gflow.simulate(model, Distance(jnp.asarray(target)), tau1=0.55, error_bars=False)
        plateaus = 0.5 * np.array([np.sum(sizes[k:] ** 2) for k in range(5)])
        levels = 0.5 * (plateaus[:-1] + plateaus[1:])
        times = [loss_crossing(run, level).t for level in levels]
        np.testing.assert_allclose(times, -log_alpha / (2.0 * sizes) + constant, rtol=0, atol=1e-7)


def test_a_symmetric_leaf_is_continued_rescaled_batched_and_made_plain():
    models = eqx.filter_vmap(
        lambda key: SymmetricFactored.small(4, 4, log_alpha=-12.0, key=key)
    )(jax.random.split(KEY, 2))  # fmt: skip
    model = jax.tree.map(lambda x: x[0], models)
    assert isinstance(model.weight, Symmetric)
    options = {"solver": diffrax.Tsit5(), "error_bars": False}
    run = gflow.simulate(model, SENSING.objective, t1=6.0, **options)
    half = gflow.simulate(model, SENSING.objective, t1=2.5, **options)
    rest = gflow.simulate(half.final, SENSING.objective, t1=6.0, **options)
    assert isinstance(half.final.weight, Symmetric)
    np.testing.assert_allclose(rest.final.matrix, run.final.matrix, rtol=0, atol=1e-7)
    batch = gflow.simulate_batch(models, SENSING.objective, t1=6.0, error_bars=False)
    np.testing.assert_allclose(batch[0].final.matrix, run.final.matrix, rtol=0, atol=1e-7)
    assert not np.allclose(batch[1].final.matrix, run.final.matrix, rtol=0, atol=1e-6)
    smaller = gflow.rescale(model, -24.0)
    np.testing.assert_allclose(smaller.matrix, math.exp(-24.0) * model.matrix, rtol=1e-12)
    plain = gflow.to_factors(model).weight
    assert plain.factor.shape == (4, 4)
    np.testing.assert_allclose(plain.value, model.matrix, rtol=0, atol=1e-24)
    assert run.final.weight.conserved().size == 0


# --- runs from α = 1e-100 -------------------------------------------------------------


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


# --- matrix sensing -------------------------------------------------------------------


def best_fit(task, rank, starts=4):
    """Least loss over X Xᵀ of `rank` columns and the matrix there, by BFGS from random starts."""
    a, y = np.asarray(task.inputs), np.asarray(task.targets)
    d, m = a.shape[1], len(y)

    def loss(flat):
        x = flat.reshape(d, rank)
        rest = np.tensordot(a, x @ x.T, axes=2) - y
        return 0.5 * np.mean(rest**2), (2.0 / m * np.tensordot(rest, a, axes=1) @ x).ravel()

    rng = np.random.default_rng(0)
    found = [
        minimize(loss, rng.standard_normal(d * rank), jac=True, method="BFGS",
                 options={"gtol": 1e-10})
        for _ in range(starts)
    ]  # fmt: skip
    best = min(found, key=lambda result: result.fun)
    x = best.x.reshape(d, rank)
    return best.fun, x @ x.T


def test_sensing_visits_the_best_fits_of_every_rank_in_order():
    task, solver = SENSING, diffrax.Tsit5()
    # far enough for the flow to come to rest on the short first plateau
    model = SymmetricFactored.small(4, 4, log_alpha=3 * FAR, key=jax.random.key(2))
    run = gflow.simulate(model, task.objective, tau1=0.6, error_bars=False, solver=solver)
    assert run.successful
    stages = run.stages()
    assert [s.activated for s in stages] == [[("weight", (k,))] for k in range(3)]
    assert all(not s.deactivated for s in stages)
    for rank, stage in enumerate(stages, 1):
        loss, matrix = best_fit(task, rank)
        np.testing.assert_allclose(stage.value["weight"], matrix, rtol=0, atol=1e-8)
        assert stage.loss == pytest.approx(loss, abs=1e-12)
    np.testing.assert_allclose(run.final.matrix, task.planted, rtol=0, atol=1e-8)
    # isometry shifts the forces by some √(d·rank/m)
    np.testing.assert_allclose([s.tau for s in stages], [1 / 6, 1 / 4, 1 / 2.4], rtol=0.16)


def test_the_sensing_task_is_what_it_says():
    task = tasks.matrix_sensing(key=jax.random.key(5), d=6, spectrum=[2.0, 0.5], measurements=4000)
    a, m = np.asarray(task.inputs), np.asarray(task.planted)
    np.testing.assert_array_equal(a, a.swapaxes(1, 2))
    eigenvalues = np.linalg.eigvalsh(m)
    np.testing.assert_allclose(eigenvalues, [0, 0, 0, 0, 0.5, 2.0], rtol=0, atol=1e-14)
    for i in (0, 17):
        inner = sum(a[i, j, k] * m[j, k] for j in range(6) for k in range(6))
        assert task.targets[i] == pytest.approx(inner, rel=1e-12)
    # isotropic: ⟨A, S⟩² has mean ‖S‖² and standard deviation √2‖S‖²
    s = gaussian(6, 6, seed=22)
    s = (s + s.T) / np.linalg.norm(s + s.T)
    squares = np.tensordot(a, s, axes=2) ** 2
    assert abs(np.mean(squares) - 1.0) < 4.0 * math.sqrt(2.0 / 4000)
    # and the loss is half the mean of squared residuals
    model = SymmetricFactored(gaussian(6, 2, seed=23))
    rest = np.tensordot(a, np.asarray(model.matrix), axes=2) - np.asarray(task.targets)
    assert float(task.objective(model)) == pytest.approx(0.5 * np.mean(rest**2), rel=1e-12)
    one, same, other = (tasks.matrix_sensing(key=jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(one.inputs, same.inputs)
    assert one.inputs.shape == (600, 5, 5)
    assert not np.allclose(one.planted, other.planted)


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
