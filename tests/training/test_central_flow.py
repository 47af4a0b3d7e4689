"""Sharpness and the central flow, against Hessians, gradient descent itself, and a programme."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import gflow
from gflow.training._complementarity import covariance

ETA, EDGE = 0.5, 4.0
KEY = jax.random.key(0)


# --- sharpness ------------------------------------------------------------------------


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def hessian(loss, model):
    flat, back = jax.flatten_util.ravel_pytree(model)
    return np.asarray(jax.hessian(lambda x: loss(back(x)))(flat))


@pytest.mark.parametrize("size", [5, 60])  # whole, and by Lanczos' method
def test_sharpness_is_the_top_of_the_hessian(size):
    a = np.asarray(random(size, 3))

    def loss(model):
        pre = jnp.tanh(model["w"] @ jnp.asarray(a)) @ model["v"]
        return 0.5 * jnp.sum((pre - 1.0) ** 2) + 0.1 * jnp.sum(model["w"] ** 4)

    model = {"w": random(3, size, seed=1), "v": random(3, seed=2)}
    found = gflow.sharpness(model, loss, count=3)
    np.testing.assert_allclose(found, np.linalg.eigvalsh(hessian(loss, model))[::-1][:3], rtol=1e-7)


def test_sharpness_of_factors():
    # of ½(uv − 1)² at uv = 1: u² + v²
    leaf = gflow.to_factors(gflow.Hadamard.small(1, log_alpha=-1.0, key=KEY))
    u, v = leaf.factors
    found = gflow.sharpness({"w": leaf}, lambda m: 0.5 * jnp.sum((m["w"].value - u * v) ** 2))
    assert found[0] == pytest.approx(float(u[0] ** 2 + v[0] ** 2), rel=1e-12)
    scaled = gflow.Hadamard.small(1, log_alpha=-1.0, key=KEY)
    same = gflow.sharpness({"w": scaled}, lambda m: 0.5 * jnp.sum((m["w"].value - u * v) ** 2))
    assert same[0] == pytest.approx(found[0], rel=1e-12)
    with pytest.raises(ValueError, match="count = 3: the Hessian of 2"):
        gflow.sharpness({"w": scaled}, lambda m: jnp.sum(m["w"].value ** 2), count=3)


# --- the complementarity problem ------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_covariance_solves_its_problem(k, seed):
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(k, k, 12))
    gradients = gradients + gradients.swapaxes(0, 1)
    slack = rng.normal(size=(k, k))
    slack = slack + slack.T
    x = covariance(slack, gradients)
    y = slack + 0.5 * np.einsum("ijn,kln,kl->ij", gradients, gradients, x)
    size = np.max(np.abs(slack))
    assert np.min(np.linalg.eigvalsh(x)) > -1e-10
    assert np.min(np.linalg.eigvalsh(y)) > -1e-7 * size
    assert abs(np.vdot(x, y)) < 1e-7 * size * max(np.trace(x), 1.0)

    def cost(flat):  # X = Q Qᵀ is positive semi-definite
        q = flat.reshape(k, k)
        p = q @ q.T
        return 0.25 * np.sum(np.einsum("ijn,ij->n", gradients, p) ** 2) + np.vdot(slack, p)

    best = min(minimize(cost, rng.normal(size=k * k), tol=1e-14).fun for _ in range(4))
    ours = 0.25 * np.sum(np.einsum("ijn,ij->n", gradients, x) ** 2) + np.vdot(slack, x)
    assert ours == pytest.approx(best, abs=1e-6 * size)


# --- the flow -------------------------------------------------------------------------

#: y drifts up, sharpens x, and is held by the oscillation of x.
DRIFTS, PULL = np.array([0.11, 0.13]), 0.05


def edge(count):
    drifts = DRIFTS[:count]

    def loss(model):
        x, y = model["x"], model["y"]
        return jnp.sum(0.5 * (2.0 + y) * x**2 - drifts * y + 0.5 * PULL * y**2)

    return loss


@pytest.mark.parametrize("count", [1, 2])
def test_it_is_what_descent_does_on_average(count):
    start = {"x": jnp.full(count, 0.1), "y": jnp.full(count, 1.95)}
    central = gflow.central_flow(start, edge(count), learning_rate=ETA, t1=40.0)
    run = gflow.descend(start, edge(count), learning_rate=ETA, steps=4000, save_every=1)
    late = slice(len(run.t) // 2, None)
    y, square = (np.mean(z[late], 0) for z in (run.observables["y"], run.observables["x"] ** 2))
    np.testing.assert_allclose(y, 2.0, atol=1e-9)
    np.testing.assert_allclose(central.observables["y"][-1], 2.0, atol=1e-9)
    # the gradient flow goes on to where the drift ends
    flow = gflow.simulate(start, edge(count), t1=400.0)
    np.testing.assert_allclose(flow.observables["y"][-1], DRIFTS[:count] / PULL, rtol=1e-6)
    assert central.observables["oscillation"][-1] == pytest.approx(np.sum(square), rel=1e-6)
    np.testing.assert_allclose(square, 2.0 * (DRIFTS[:count] - 2.0 * PULL), rtol=1e-6)
    assert central.observables["mean_loss"][-1] == pytest.approx(np.mean(run.loss[late]), rel=1e-6)
    assert central.observables["sharpness"][-1] == pytest.approx(EDGE, rel=1e-12)
    assert np.max(central.observables["sharpness"]) < EDGE * (1.0 + 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("drift", [0.3, 0.02])
def test_matrices_at_the_edge(drift):
    """½xᵀ(2 + Y)x − ⟨C, Y⟩ + (d/2)‖Y‖²: Y = min(2, c/d) and Σ = 2(c − dY)₊ mode by mode of C."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 2)))[0]
    c = turn @ np.diag([0.25, drift]) @ turn.T

    def loss(model):
        x, y = model["x"], 0.5 * (model["y"] + model["y"].T)
        bowl = 0.5 * x @ (2.0 * jnp.eye(2) + y) @ x
        return bowl - jnp.sum(jnp.asarray(c) * y) + 0.5 * PULL * jnp.sum(y**2)

    start = {"x": jnp.zeros(2), "y": jnp.zeros((2, 2))}
    central = gflow.central_flow(start, loss, learning_rate=ETA, t1=150.0)
    rests = np.minimum(2.0, np.array([0.25, drift]) / PULL)
    y = central.observables["y"][-1]
    np.testing.assert_allclose(y, turn @ np.diag(rests) @ turn.T, atol=2e-3)
    left = 2.0 * np.maximum(np.array([0.25, drift]) - PULL * 2.0, 0.0)
    assert central.observables["oscillation"][-1] == pytest.approx(np.sum(left), rel=1e-6)


def test_below_the_edge_it_is_the_gradient_flow():
    model = {"w": gflow.Factored.small((2, 2), 2, log_alpha=-0.5, key=KEY)}

    def loss(m):
        return 0.5 * jnp.sum((m["w"].value - jnp.array([[1.0, 0.3], [0.2, 0.5]])) ** 2)

    flow = gflow.simulate(model, loss, t1=2.0)
    off = []
    for substeps in (4, 8):
        central = gflow.central_flow(model, loss, learning_rate=0.1, t1=2.0, substeps=substeps)
        assert np.all(central.observables["oscillation"] == 0.0)
        off.append(np.max(np.abs(central.observables["w"][-1] - flow.observables["w"][-1])))
        assert central.final["w"].left.shape == (2, 2)
    assert off[0] / off[1] == pytest.approx(2.0, abs=0.2)  # Euler's method


def test_a_loss_without_a_floor_is_not_reached():
    with pytest.warns(UserWarning, match="NaN or infinite"):
        run = gflow.central_flow(
            {"x": jnp.array(1.0)}, lambda m: -(m["x"] ** 4), learning_rate=0.1, t1=50.0
        )
    assert run.status is gflow.Status.diverged
    assert not run.successful
    assert np.all(np.isfinite(run.loss))
    assert run.t[-1] < 1.0  # x' = 4x³ is infinite at t = 1/8, a few steps of Euler later


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.6}, "a sharpness of 3.95256, beyond 2/η = 3.33333"),
        ({"learning_rate": 0.0}, "both are positive"),
        ({"t1": -1.0}, "both are positive"),
        ({"most": 1}, "eigenvalues are near 2/η"),
    ],
)
def test_bad_input_is_a_sentence(change, message):
    start = {"x": jnp.full(2, 0.1), "y": jnp.full(2, 1.95)}
    options = {"learning_rate": ETA, "t1": 40.0} | change
    with pytest.raises(ValueError, match=message):
        gflow.central_flow(start, edge(2), **options)
