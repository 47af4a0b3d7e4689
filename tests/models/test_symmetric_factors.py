"""Symmetric factors against their plain flow and closed forms; sensing against its best fits."""

import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices import LOG10, gaussian, loss_crossing
from raw_factors import raw_flow, simulated
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

import gflow
from gflow import tasks
from gflow.models import SymmetricFactored
from gflow.parameters._symmetric import Symmetric
from theory import exact_linear

KEY = jax.random.key(0)
FAR = -100 * LOG10  # α = 1e-100
SMALL = math.log(1e-3)


# --- a symmetric factor stays one -----------------------------------------------------

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
        # −dL/dt = |∇L|² of the factor
        (slope,) = jax.grad(loss)([jnp.asarray(factor)])
        assert run.descent[row] == pytest.approx(float(jnp.sum(slope**2)), rel=1e-6, abs=1e-12)


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


@pytest.mark.slow
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
