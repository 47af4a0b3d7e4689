"""Gradient descent on Factored and Symmetric leaves against the plain factors at 200 digits."""

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import gflow
from gflow.coordinates._factors import FactorCoordinates
from gflow.parameters._hadamard import HadamardFactors

#: Three modes, two of them near each other, and a fourth that the three columns cannot learn.
TARGET = np.diag([1.0, 0.9, 0.4, 0.2]) @ np.array(
    [[0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5], [0.5, -0.5, -0.5]]
)


class Matrix(eqx.Module):
    w: gflow.Factored


def distance(model):
    return 0.5 * jnp.sum((model.w.value - TARGET) ** 2)


def small(log_alpha, seed=0, columns=3):
    key = jax.random.key(seed)
    return Matrix(gflow.Factored.small((4, 3), columns, log_alpha=log_alpha, key=key))


def by_hand(a, b, target, rate, decay, steps, at):
    """Gradient descent on A and B of ½‖ABᵀ − M‖², in the precision that is set."""
    a, b, target = (mpmath.matrix(np.asarray(x, object)) for x in (a, b, target))
    rate, keep, found = mpmath.mpf(rate), 1 - mpmath.mpf(rate) * mpmath.mpf(decay), []
    for step in range(steps + 1):
        if step in at:
            found.append((a, b))
        g = target - a * b.T
        a, b = keep * a + rate * (g * b), keep * b + rate * (g.T * a)
    return found


def big(log_alpha, x):
    """e^log_alpha·x of a float array, as exact numbers."""
    scale = mpmath.exp(mpmath.mpf(log_alpha))
    return [[scale * mpmath.mpf(float(v)) for v in row] for row in np.asarray(x)]


def log_singular(a, b):
    """Logarithms of the singular values of A Bᵀ, largest first."""
    values = mpmath.svd_r(a * b.T, compute_uv=False)
    return np.array([float(mpmath.log(v)) for v in values])


def as_float(matrix):
    return np.array(matrix.tolist(), float)


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("alpha", [1e-3, 1e-60])
def test_columns_of_any_size_take_the_step_of_the_plain_factors(alpha, decay):
    log_alpha, rate = float(np.log(alpha)), 0.25
    steps = int(3.5 * -log_alpha / rate)
    model = small(log_alpha)
    traj = gflow.descend(model, distance, learning_rate=rate, decay=decay, steps=steps,
                         save_every=1)  # fmt: skip
    at = sorted({0, steps // 12, steps // 4, steps // 2, steps})
    with mpmath.workdps(200):
        start = big(log_alpha, model.w.left), big(log_alpha, model.w.right)
        reference = by_hand(*start, TARGET, rate, decay, steps, at)
        logs = [log_singular(a, b) for a, b in reference]
        # A Aᵀ, B Bᵀ and A Bᵀ are what a turn of the columns leaves as it is
        whole = [as_float(b * a.T) for a, b in reference]
        left = [as_float(a * a.T) for a, _ in reference]
    # some ten roundings a step, and those of log α
    slack = 1e-15 * (10 * steps + 200)
    found = traj.observables["w.log_singular"][at]
    np.testing.assert_allclose(found, logs, rtol=0, atol=slack)
    np.testing.assert_allclose(traj.observables["w"][at].swapaxes(1, 2), whole, rtol=0, atol=slack)
    record = traj.leaves["w"]
    z = record["direction"][at] * np.exp(record["log_size"][at])[:, None, :]
    np.testing.assert_allclose(z[:, :4] @ z[:, :4].mT, left, rtol=0, atol=slack)
    # dormant beside learned: the third mode is felt after the others are there
    assert logs[2][0] - logs[2][2] > 0.3 * -log_alpha
    assert traj.method.endswith("in column coordinates")


def test_twice_the_columns_and_heads_are_those_of_the_plain_factors():
    """More columns than modes, and two heads at once, against NumPy at α = 1e-2."""
    left, right = (
        1e-2 * jax.random.normal(jax.random.key(k), (2, n, 5)) for k, n in ((0, 4), (1, 3))
    )
    model = Matrix(gflow.Factored(left, right))

    def loss(m):
        both = m.w.value[0] + 0.5 * m.w.value[1] @ jnp.diag(jnp.array([1.0, 2.0, -1.0]))
        return 0.5 * jnp.sum((both - TARGET) ** 2)

    rate, steps = 0.1, 400
    traj = gflow.descend(model, loss, learning_rate=rate, steps=steps)
    a, b = np.asarray(left), np.asarray(right)
    turn = np.stack([np.eye(3), 0.5 * np.diag([1.0, 2.0, -1.0])])
    for _ in range(steps):
        g = (TARGET - np.sum(a @ b.mT @ turn, axis=0)) @ turn.mT
        a, b = a + rate * g @ b, b + rate * g.mT @ a
    np.testing.assert_allclose(traj.final.w.value, a @ b.mT, rtol=0, atol=1e-12)
    plain = gflow.descend(gflow.to_factors(model), loss, learning_rate=rate, steps=steps)
    np.testing.assert_allclose(traj.loss, plain.loss, rtol=1e-10)
    assert plain.method.endswith("in factor coordinates")


def test_one_factor_takes_the_step_of_one_factor():
    """X⁺ = X + η(G + Gᵀ)X, not half of it, at α = 1e-40 as at 200 digits."""
    target = np.array([[1.0, 0.3, 0.0], [0.3, 0.6, 0.1], [0.0, 0.1, -0.5]])
    log_alpha, rate, steps = float(np.log(1e-40)), 0.1, 1200

    class Square(eqx.Module):
        w: gflow.Symmetric

    weight = gflow.Symmetric.small((3, 3), 2, log_alpha=log_alpha, key=jax.random.key(3))
    traj = gflow.descend(
        Square(weight), lambda m: 0.5 * jnp.sum((m.w.value - target) ** 2), learning_rate=rate,
        steps=steps,
    )  # fmt: skip
    with mpmath.workdps(120):
        x = mpmath.matrix(big(log_alpha, weight.left))
        goal = mpmath.matrix(target.tolist())
        for _ in range(steps):
            x = x + 2 * mpmath.mpf(rate) * ((goal - x * x.T) * x)
        expected, logs = as_float(x * x.T), log_singular(x, x)
    np.testing.assert_allclose(traj.final.w.value, expected, rtol=0, atol=1e-11)
    np.testing.assert_allclose(traj.final.w.log_singular_values()[:2], logs[:2], rtol=0, atol=1e-11)


def test_a_dormant_column_keeps_every_digit_at_log_alpha_minus_a_hundred_thousand():
    model = small(-1e5, columns=1)
    rate, steps = 1e-3, 5000
    traj = gflow.descend(model, distance, learning_rate=rate, steps=steps)
    z = np.concatenate([model.w.left, model.w.right])
    h = np.block([[np.zeros((4, 4)), TARGET], [TARGET.T, np.zeros((3, 3))]])
    eigenvalues, basis = np.linalg.eigh(h)
    inside = basis.T @ z[:, 0] * (1.0 + rate * eigenvalues) ** steps
    expected = np.log(np.linalg.norm(inside)) - 1e5
    # two roundings of numbers of 1e5; plain summation is off by a thousand of them
    found = traj.leaves["w"]["log_size"][-1, 0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2 * np.spacing(1e5))


def test_a_column_that_a_step_takes_away_is_gone():
    """η|σ| = 1 takes the mode of eigenvalue −σ to zero, and it stays there."""
    weight = gflow.Factored(jnp.array([[1e-3], [0.0]]), jnp.array([[-1e-3], [0.0]]))
    traj = gflow.descend(
        {"w": weight}, lambda m: -m["w"].value[0, 0], learning_rate=1.0, steps=3, save_every=1
    )
    assert traj.successful
    np.testing.assert_array_equal(traj.observables["w"][1:], 0.0)
    assert traj.loss[0] == pytest.approx(1e-6)


def test_stages_of_descent_on_a_matrix_are_those_of_the_flow():
    model = small(-30.0)
    flow = gflow.simulate(model, distance, tau1=3.0, error_bars=False).stages()
    descent = gflow.descend(model, distance, learning_rate=0.01, steps=9000).stages()
    assert len(flow) >= 2
    assert [s.activated for s in descent] == [s.activated for s in flow]
    # log(1 + ησ)/η = σ(1 − ησ/2): half a per cent
    np.testing.assert_allclose([s.tau for s in descent], [s.tau for s in flow], rtol=0.006)


class Twice(FactorCoordinates):
    """Factors that move at twice the gradient: a chart of one's own with another metric."""

    def velocity(self, state, force, decay):
        return 2.0 * super().velocity(state, force, decay)


class Hasty(HadamardFactors):
    def coordinates(self, decays):
        return Twice(self.u, self.v)


def test_coordinates_that_are_no_gradient_are_refused():
    model = {"w": Hasty(jnp.ones(2), 0.5 * jnp.ones(2))}
    with pytest.raises(ValueError, match=r"'w' is a Hasty.*no gradient descent.*`descended`"):
        gflow.descend(model, lambda m: jnp.sum(m["w"].value), learning_rate=0.1, steps=1)
