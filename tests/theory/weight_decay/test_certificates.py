"""Certificates of minima and kinds of end points, against solvers that know no formula.

Minima come from proximal gradient and from SciPy, curvatures from complex steps of gradients.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decayed_factors import normal
from scipy.optimize import minimize

from theory import weight_decay as wd

# ---- certificates -----------------------------------------------------------------------------

SAMPLES = normal(70, 50, 30, 5, 4)
#: decay over the largest that leaves anything, from 0.01 to 0.9
RATES = np.geomspace(0.01, 0.9, 50)[np.random.default_rng(71).permutation(50)]
PLANTED = normal(72, 50, 5, 2) @ normal(73, 50, 2, 4)
OUTPUTS = np.einsum("pkij,pij->pk", SAMPLES, PLANTED) + 0.3 * normal(74, 50, 30)
SIGNS = np.sign(OUTPUTS)


def sensing(w, pick):
    """Value and gradient: matrix sensing for even problems, logistic regression for odd ones."""
    values = np.einsum("pkij,pij->pk", SAMPLES[pick], w)
    odd = (np.arange(50) % 2 == 1)[pick][:, None]
    miss, margin = values - OUTPUTS[pick], values * SIGNS[pick]
    loss = np.where(odd, np.logaddexp(0.0, -margin), 0.5 * miss**2)
    slope = np.where(odd, -SIGNS[pick] / (1 + np.exp(np.minimum(margin, 50.0))), miss)
    return np.mean(loss, axis=1), np.einsum("pk,pkij->pij", slope / 30, SAMPLES[pick])


def thresholds():
    return RATES * np.linalg.norm(sensing(np.zeros((50, 5, 4)), slice(None))[1], 2, axis=(1, 2))


@pytest.fixture(scope="module")
def minima():
    """Minimisers of L + λ‖·‖_* of 50 convex problems by accelerated proximal gradient."""
    flat = SAMPLES.reshape(50, 30, 20)
    step = 30 / np.linalg.norm(flat, 2, axis=(1, 2)) ** 2
    decay = thresholds()
    w = y = np.zeros((50, 5, 4))
    momentum = np.ones(50)
    for _ in range(4000):
        x = y - step[:, None, None] * sensing(y, slice(None))[1]
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        fresh = (u * np.maximum(s - (step * decay)[:, None], 0)[:, None]) @ vt
        following = 0.5 * (1 + np.sqrt(1 + 4 * momentum**2))
        # start the momentum again where it points uphill
        uphill = np.sum((y - fresh) * (fresh - w), axis=(1, 2)) > 0
        following = np.where(uphill, 1.0, following)
        weight = np.where(uphill, 0.0, (momentum - 1) / following)[:, None, None]
        y, w, momentum = fresh + weight * (fresh - w), fresh, following
    return w, decay


def split(w, r):
    """Balanced factors of width r ≥ rank W, in a basis of hidden units where nothing is sparse."""
    u, s, vt = np.linalg.svd(w, full_matrices=False)
    turn = np.linalg.qr(normal(75, r, r))[0][: len(s)]
    root = np.sqrt(np.where(s > 1e-13 * np.max(s), s, 0.0))[:, None]
    return u @ (root * turn), vt.T @ (root * turn)


def test_certificates_accept_50_minima(minima):
    ranks = set()
    for k, (w, decay) in enumerate(zip(*minima, strict=True)):
        a, b = split(w, 5)
        m = sensing(w[None], slice(k, k + 1))[1][0]
        c = wd.certificate(a, b, m, decay)
        assert c.residual < 1e-8
        assert c.dual < 1 + 1e-8
        assert c.balance < 1e-12
        assert c.gap < 1e-12
        assert c.is_minimum()
        assert not c.is_saddle()
        assert wd.classify(c).kind is wd.Landscape.GLOBAL
        assert c.slack + c.overshoot < 1e-8
        ranks.add(c.rank)
        # other decays, gradients with the wrong sign or factor, are not certified
        for wrong in (wd.certificate(a, b, m, 2 * decay), wd.certificate(a, b, -m, decay)):
            assert c.rank == 0 or not wrong.is_stationary()
        assert not wd.certificate(a, b, m, decay / 2).is_minimum()
    assert ranks == {1, 2, 3, 4}


def test_certificate_by_hand():
    # the minimum of ½‖W − diag(2, 1, 0.1)‖² + 0.3‖W‖_*
    root = np.sqrt([1.7, 0.7])
    a, b = np.zeros((3, 4)), np.zeros((4, 4))
    a[[0, 1], [0, 1]] = b[[0, 1], [0, 1]] = root
    target = np.zeros((3, 4))
    target[range(3), range(3)] = [2.0, 1.0, 0.1]
    c = wd.certificate(a, b, a @ b.T - target, 0.3)
    assert (c.rank, c.width, c.full, c.decay) == (2, 4, 3, 0.3)
    assert c.dual == pytest.approx(1 / 3, rel=1e-14)
    assert c.norm == pytest.approx(4.8, rel=1e-14)
    np.testing.assert_allclose(c.singular_values, [1.7, 0.7, 0.0], atol=1e-15)
    for zero in (c.residual, c.balance, c.gap, c.slack, c.overshoot):
        assert abs(zero) < 1e-15
    # on the way: a scalar with every number different
    c = wd.certificate([[2.0]], [[1.0]], [[3.0]], 0.5)
    assert c.residual == pytest.approx(math.hypot(3 + 1, 6 + 0.5) / (0.5 * math.sqrt(5)), rel=1e-14)
    assert c.balance == pytest.approx(3 / 5, rel=1e-14)
    assert c.gap == pytest.approx(0.5, rel=1e-14)
    assert (c.slack, c.overshoot) == pytest.approx((0.5 * 2 + 3 * 2, 3 - 0.5), rel=1e-14)
    assert (c.dual, c.rank, c.norm) == (0.0, 1, 5.0)
    # what counts as a singular value
    tiny = np.diag([1.0, 1e-4])
    assert wd.certificate(tiny, tiny, tiny, 0.5).rank == 1
    assert wd.certificate(1e-4 * tiny, 1e-4 * tiny, tiny, 0.5).rank == 1
    assert wd.certificate(tiny, tiny, tiny, 0.5, rtol=1e-9).rank == 2
    assert wd.certificate(tiny, tiny, tiny, 0.5, atol=2.0).rank == 0


def test_certificates_reject_saddles(minima):
    rejected = 0
    for k, (w, decay) in enumerate(zip(*minima, strict=True)):
        best = np.linalg.svd(w, compute_uv=False)
        zero = sensing(np.zeros((1, 5, 4)), slice(k, k + 1))[1][0]
        c = wd.certificate(np.zeros((5, 3)), np.zeros((4, 3)), zero, decay)
        assert c.is_saddle()
        assert c.residual == 0.0

        def factored(x, k=k, decay=decay):
            a, b = x[:5, None], x[5:, None]
            value, m = sensing((a @ b.T)[None], slice(k, k + 1))
            pulled = np.concatenate([m[0] @ b + decay * a, m[0].T @ a + decay * b])[:, 0]
            return value[0] + 0.5 * decay * np.sum(x**2), pulled

        rest = minimize(factored, normal(k, 9), jac=True, method="BFGS", options={"gtol": 1e-10}).x
        a, b = rest[:5, None], rest[5:, None]
        value, m = sensing((a @ b.T)[None], slice(k, k + 1))
        lone = wd.certificate(a, b, m[0], decay)
        padded = [np.concatenate([x, np.zeros((len(x), 2))], axis=1) for x in (a, b)]
        c = wd.certificate(*padded, m[0], decay)
        assert c.is_stationary()
        above = value[0] + decay * np.sum(c.singular_values) - (
            sensing(w[None], slice(k, k + 1))[0][0] + decay * np.sum(best)
        )  # fmt: skip
        assert above <= c.slack + c.overshoot * np.sum(best) + 1e-12
        if best[1] > 1e-4 * best[0]:
            rejected += 1
            assert above > 0
            assert c.is_saddle()
            assert wd.classify(c).kind is wd.Landscape.SADDLE
            # without a column to spare it may be the best of rank 1
            assert not lone.is_saddle()
            assert not lone.is_minimum()
            assert wd.classify(lone).kind is wd.Landscape.UNDECIDED
        else:
            assert c.is_minimum()
    assert rejected > 15


def masked(weights, target, decay):
    """Value and gradient in (A, B) of ½Σ c(W − D)² + (λ/2)(‖A‖² + ‖B‖²)."""
    m, n = target.shape

    def objective(x):
        a, b = np.split(x, [len(x) * m // (m + n)])
        a, b = a.reshape(m, -1), b.reshape(n, -1)
        miss = a @ b.T - target
        force = weights * miss
        pulled = np.concatenate([(force @ b).ravel(), (force.T @ a).ravel()]) + decay * x
        return 0.5 * np.sum(force * miss) + 0.5 * decay * np.sum(x**2), pulled

    return objective


def hessian(problem, x):
    """By complex steps of the gradient: exact to rounding."""
    steps = x + 1e-30j * np.eye(len(x))
    return np.stack([problem(row)[1].imag / 1e-30 for row in steps])


def test_the_escape_is_in_the_hessian():
    target = np.diag([2.0, 1.0, 0.4])
    objective = masked(np.ones((3, 3)), target, 0.3)
    # at rest with the first mode alone
    a = np.zeros((3, 2))
    a[0, 0] = math.sqrt(1.7)
    flat = np.concatenate([a.ravel(), a.ravel()])
    lowest = np.linalg.eigvalsh(hessian(objective, flat))[0]
    c = wd.certificate(a, a, a @ a.T - target, 0.3)
    assert c.is_saddle()
    assert lowest == pytest.approx(c.decay * (1 - c.dual), rel=1e-12)
    # and at zero, where λ₀ = zero_rank_threshold is where it vanishes
    lowest = np.linalg.eigvalsh(hessian(objective, 0 * flat))[0]
    assert lowest == pytest.approx(0.3 - float(wd.zero_rank_threshold(-target)), rel=1e-12)


@pytest.mark.parametrize("side", [0.97, 1.03])
def test_zero_rank_threshold(side):
    # logistic loss: no closed form of the end
    def loss(w):
        return np.mean(np.logaddexp(0.0, -SIGNS[1] * np.einsum("kij,ij->k", SAMPLES[1], w)))

    slope = jax.grad(
        lambda w: jnp.mean(jnp.logaddexp(0.0, -SIGNS[1] * jnp.einsum("kij,ij->k", SAMPLES[1], w)))
    )(jnp.zeros((5, 4)))
    decay = side * float(wd.zero_rank_threshold(slope))

    def factored(x):
        a, b = x[:20].reshape(5, 4), x[20:].reshape(4, 4)
        w = a @ b.T
        margin = SIGNS[1] * np.einsum("kij,ij->k", SAMPLES[1], w)
        m = np.einsum("k,kij->ij", -SIGNS[1] / (1 + np.exp(margin)) / 30, SAMPLES[1])
        pulled = np.concatenate([(m @ b + decay * a).ravel(), (m.T @ a + decay * b).ravel()])
        return loss(w) + 0.5 * decay * np.sum(x**2), pulled

    end = minimize(
        factored, normal(77, 36), jac=True, method="L-BFGS-B",
        options={"gtol": 1e-10, "ftol": 0.0, "maxiter": 5000},
    ).x  # fmt: skip
    size = np.linalg.norm(end[:20].reshape(5, 4) @ end[20:].reshape(4, 4).T)
    assert (size > 1e-2) if side < 1 else (size < 1e-6)
    stacked = np.stack([np.asarray(slope), 2 * np.asarray(slope)])
    np.testing.assert_allclose(wd.zero_rank_threshold(stacked), [decay / side, 2 * decay / side])


# ---- the landscape of LoRA --------------------------------------------------------------------

#: how much the entries of a 2×2 target of ones matter: the off-diagonal ones hardly do
IMPORTANCE = np.array([[1.0, 0.05], [0.05, 1.0]])
WEIGHTED = masked(IMPORTANCE, np.ones((2, 2)), 0.02)


def end_point(start):
    x = minimize(WEIGHTED, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x
    a, b = x[:2, None], x[2:, None]
    c = wd.certificate(a, b, IMPORTANCE * (a @ b.T - 1.0), 0.02)
    return x, c, float(np.linalg.eigvalsh(hessian(WEIGHTED, x))[0])


def test_kinds_of_end_points():
    x, c, curvature = end_point(np.array([1.0, 1.1, 0.9, 1.0]))
    good = wd.classify(c, curvature)
    assert good.kind is wd.Landscape.GLOBAL
    assert wd.classify(c).kind is wd.Landscape.GLOBAL
    assert wd.classify(c, curvature, convex=False).kind is wd.Landscape.UNDECIDED

    y, c, curvature = end_point(np.array([1.0, -1.1, 0.9, -1.0]))
    assert curvature > 1e-3
    assert WEIGHTED(y)[0] > WEIGHTED(x)[0] + 1e-2
    bad = wd.classify(c, curvature)
    assert bad.kind is wd.Landscape.SPURIOUS
    assert (bad.rank, c.width, c.full) == (1, 1, 2)
    assert bad.norm == pytest.approx(float(np.sum(y**2)))
    assert wd.classify(c).kind is wd.Landscape.UNDECIDED
    # with a column more it is a saddle
    a, b = (np.array([[z[0], 0.0], [z[1], 0.0]]) for z in (y[:2], y[2:]))
    c = wd.certificate(a, b, IMPORTANCE * (a @ b.T - 1.0), 0.02)
    point = wd.classify(c)
    assert point.kind is wd.Landscape.SADDLE
    assert point.reason.endswith(f"Hessian eigenvalue ≤ {0.02 * (1 - c.dual):.6g}.")

    # the weaker of two modes alone: full rank 1, at rest, and downhill by the Hessian only
    target = np.diag([1.0, 1.5])
    a = np.array([[math.sqrt(0.98)], [0.0]])
    c = wd.certificate(a, a, a @ a.T - target, 0.02)
    assert c.is_stationary()
    problem = masked(np.ones((2, 2)), target, 0.02)
    lowest = float(np.linalg.eigvalsh(hessian(problem, np.concatenate([a, a])[:, 0]))[0])
    assert wd.classify(c, lowest).kind is wd.Landscape.SADDLE
    assert wd.classify(c).kind is wd.Landscape.UNDECIDED
    # on the way nothing is said, whatever the curvature
    for curvature in (None, -1.0, 1.0):
        point = wd.classify(wd.certificate(2 * a, a, -np.eye(2), 0.02), curvature)
        assert point.kind is wd.Landscape.UNDECIDED
        assert point.reason.startswith("not at rest")
