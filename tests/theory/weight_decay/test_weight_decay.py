"""Decay on two factors, against flows that know only gradients and solvers that know no formula.

Attention, chains and quadratic losses are integrated by SciPy (DOP853) with gradients by JAX;
minima come from alternating ridge regressions and from proximal gradient; gaps at 80 digits from
tests/references/make/decay_reference.py; curvatures from complex steps of gradients.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_data
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from theory import weight_decay as wd

REFERENCE = reference_data.load("decay")
EPS = float(np.finfo(float).eps)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def integrate(gradient, start, decay, times):
    """Weights (a list of arrays) at `times` of w' = −gradient(w) − λ(t)w."""
    shapes = [w.shape for w in start]
    splits = np.cumsum([w.size for w in start])[:-1]

    def unpack(y):
        return [x.reshape(s) for x, s in zip(np.split(y, splits), shapes, strict=True)]

    def field(t, y):
        rate = decay(t) if callable(decay) else decay
        weights = unpack(y)
        pulled = gradient(*weights)
        return np.concatenate(
            [-(np.asarray(g) + rate * w).ravel() for g, w in zip(pulled, weights, strict=True)]
        )

    flat = np.concatenate([w.ravel() for w in start])
    run = solve_ivp(field, (0, times[-1]), flat, "DOP853", times, rtol=1e-12, atol=1e-14)
    assert run.success
    return [np.stack(w) for w in zip(*(unpack(y) for y in run.y.T), strict=True)]


def quadratic(target, speed=1.0):
    """Gradient in (A, B) of (speed/2)‖ABᵀ − D‖²."""

    def gradient(a, b):
        m = speed * (a @ b.T - target)
        return m @ b, m.T @ a

    return gradient


def imbalances(a, b):
    return a.mT @ a - b.mT @ b


def grams(a, b):
    """‖A‖² + ‖B‖² at every time, of all heads."""
    return (np.sum(a**2, axis=(-2, -1)) + np.sum(b**2, axis=(-2, -1)))[..., None, None]


# ---- the imbalance ----------------------------------------------------------------------------

TOKENS = jnp.asarray(normal(0, 3, 4, 5))  # three sequences of four tokens in R⁵
WANTED = jnp.asarray(normal(1, 3, 4, 5))


@jax.jit
def attention_loss(key, query, value, output):
    """Two-head softmax attention; key, query, value: (heads, d_h, d), output: (heads, d, d_h)."""
    logits = jnp.einsum("sti,hki,hkj,suj->shtu", TOKENS, query, key, TOKENS) / math.sqrt(2.0)
    read = jnp.einsum("shtu,suj,hkj->shtk", jax.nn.softmax(logits, axis=-1), TOKENS, value)
    return jnp.mean((jnp.einsum("shtk,hik->sti", read, output) - WANTED) ** 2)


ATTENTION_GRADIENT = jax.jit(jax.grad(attention_loss, argnums=(0, 1, 2, 3)))


def attention_start(seed=2):
    return [0.7 * normal(seed + k, 2, *shape) for k, shape in enumerate([(2, 5)] * 3 + [(5, 2)])]


@pytest.mark.parametrize("schedule", [False, True])
def test_imbalance_of_softmax_attention(schedule):
    def decay(t):
        return 0.05 + 0.2 * math.sin(t) ** 2

    times = np.array([0.0, 0.5, 2.0, 5.0])
    rate = decay if schedule else 0.15
    key, query, value, output = integrate(ATTENTION_GRADIENT, attention_start(), rate, times)
    for left, right in [(key.mT, query.mT), (output, value.mT)]:
        law = wd.imbalance(left[0], right[0], rate, times)
        assert law.shape == (4, 2, 2, 2)
        assert np.max(np.abs(imbalances(left, right) - law) / grams(left, right)) < 1e-10
        # it is a law: nothing else about the weights is as simple
        free = left.mT @ left
        assert np.max(np.abs(free - free[0] * (law / law[0]))) > 1e-3
    # the other transpose obeys nothing
    wrong = key.mT @ key - query.mT @ query
    assert np.max(np.abs(wrong - wd.imbalance(key[0], query[0], rate, times))) > 1e-3


def attend(queries, keys):
    """A loss of the attention of three sequences; queries and keys are (sequence, token, d_h)."""
    attention = jax.nn.softmax(jnp.einsum("stk,suk->stu", queries, keys), axis=-1)
    return jnp.mean((attention @ TOKENS - WANTED) ** 2)


def test_imbalance_of_shared_keys_with_biases():
    """Two query heads of one key head: all rows of the queries, biases included, are one factor."""
    tokens = jnp.concatenate([TOKENS, jnp.ones((3, 4, 1))], axis=-1)

    @jax.jit
    def loss(key, first, second):  # (d_h, d + 1), the last column being the bias
        keys = tokens @ key.T
        return attend(tokens @ first.T, keys) + attend(tokens @ second.T, keys) ** 2

    start = [0.6 * normal(90 + k, 3, 6) for k in range(3)]
    times = np.array([0.0, 1.0, 4.0])
    key, *queries = integrate(jax.jit(jax.grad(loss, argnums=(0, 1, 2))), start, 0.2, times)
    left, right = key.mT, np.concatenate([q.mT for q in queries], axis=1)
    law = wd.imbalance(left[0], right[0], 0.2, times)
    assert np.max(np.abs(imbalances(left, right) - law) / grams(left, right)) < 1e-10


def test_imbalance_under_rotary_embedding():
    """Only the trace of each 2×2 rotation block obeys the law."""
    angles = jnp.outer(jnp.arange(4.0), jnp.array([1.0, 0.1]))  # token, block

    def rotated(x):
        pair = x.reshape(3, 4, 2, 2)
        cos, sin = jnp.cos(angles)[None], jnp.sin(angles)[None]
        turned = [cos * pair[..., 0] - sin * pair[..., 1], sin * pair[..., 0] + cos * pair[..., 1]]
        return jnp.stack(turned, axis=-1).reshape(3, 4, 4)

    @jax.jit
    def loss(key, query):
        return attend(rotated(TOKENS @ query.T), rotated(TOKENS @ key.T))

    start = [0.6 * normal(95, 4, 5), 0.6 * normal(96, 4, 5)]
    times = np.array([0.0, 1.0, 4.0])
    key, query = integrate(jax.jit(jax.grad(loss, argnums=(0, 1))), start, 0.2, times)
    left, right = key.mT, query.mT
    law = wd.imbalance(left[0], right[0], 0.2, times)
    error = (imbalances(left, right) - law) / grams(left, right)
    assert np.max(np.abs(error)) > 1e-4
    assert np.max(np.abs(error[:, 0, 0] + error[:, 1, 1])) < 1e-10
    assert np.max(np.abs(error[:, 2, 2] + error[:, 3, 3])) < 1e-10


def test_imbalance_of_a_chain():
    target = normal(3, 2, 4)

    @jax.jit
    def loss(w1, w2, w3):
        return jnp.sum(jnp.tanh(w3 @ w2 @ w1 - target) ** 2)

    start = [0.6 * normal(4, 3, 4), 0.6 * normal(5, 5, 3), 0.6 * normal(6, 2, 5)]
    times = np.array([0.0, 1.0, 4.0, 9.0])
    layers = integrate(jax.jit(jax.grad(loss, argnums=(0, 1, 2))), start, 0.2, times)
    for below, above in [(layers[0], layers[1]), (layers[1], layers[2])]:
        law = wd.imbalance(above[0], below[0].T, 0.2, times)
        measured = imbalances(above, below.mT)
        assert np.max(np.abs(measured - law) / grams(above, below)) < 1e-10


def test_imbalance_at_any_time():
    a, b = normal(7, 2, 4, 3), normal(8, 2, 5, 3)
    start = imbalances(a, b)
    times = np.array([[0.0, 1.0], [3.0, np.inf]])
    table = wd.imbalance(a, b, 0.3, times)
    assert table.shape == (2, 2, 2, 3, 3)
    np.testing.assert_array_equal(table[0, 0], start)
    np.testing.assert_array_equal(table[1, 1], 0.0)
    np.testing.assert_allclose(table[0, 1] / start, math.exp(-0.6), rtol=1e-15)
    assert wd.imbalance(a[0], b[0], 0.3, 1.0).shape == (3, 3)
    assert wd.imbalance(a, b, 0.3, []).shape == (0, 2, 3, 3)
    # continuing equals going straight
    np.testing.assert_allclose(
        wd.imbalance(a, b, 0.3, 3.0), math.exp(-1.2) * table[0, 1], rtol=1e-14
    )
    # without decay it is conserved for ever; heads may have rates of their own
    np.testing.assert_array_equal(wd.imbalance(a, b, 0.0, np.inf), start)
    rates = np.array([0.0, 0.5])
    own = wd.imbalance(a, b, rates, [2.0, np.inf])
    np.testing.assert_allclose(own[0] / start, np.exp(-4.0 * rates)[:, None, None] + 0 * start)
    np.testing.assert_array_equal(own[1], [start[0], 0.0 * start[0]])


SCHEDULES = {
    "constant": (lambda t: 0.3, lambda t: 0.3 * t),
    "warm-up": (
        lambda t: 0.2 * min(t / 5.0, 1.0),
        lambda t: 0.02 * t**2 if t < 5 else 0.2 * t - 0.5,
    ),
    "step": (
        lambda t: 0.3 if t < 1.3 else 0.01,
        lambda t: 0.3 * min(t, 1.3) + 0.01 * max(t - 1.3, 0),
    ),
    "vanishing": (lambda t: math.exp(-t), lambda t: -math.expm1(-t)),
    "slowly vanishing": (lambda t: (1 + t) ** -2.0, lambda t: 1.0 - 1.0 / (1.0 + t)),
    "off": (lambda t: 0.0, lambda t: 0.0),
    "array": (lambda t: jnp.exp(-jnp.asarray(t)), lambda t: -math.expm1(-t)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    decay, integral = SCHEDULES[name]
    times = np.array([0.0, 1e-3, 0.7, 4.0, 30.0, 1e4, np.inf, 0.7])
    a, b = np.eye(2), np.zeros((2, 2))
    found = wd.imbalance(a, b, decay, times)[:, 0, 0]
    np.testing.assert_allclose(found, [math.exp(-2 * integral(t)) for t in times], rtol=1e-9)
    # what happens early is seen from late times alone
    for t, one in zip(times, found, strict=True):
        np.testing.assert_allclose(wd.imbalance(a, b, decay, t)[0, 0], one, rtol=1e-9)


def test_one_step_of_descent():
    start = attention_start(20)
    pulled = [np.asarray(g) for g in ATTENTION_GRADIENT(*start)]
    for eta, rate in [(0.1, 0.0), (0.3, 0.2), (2.0, 0.6)]:
        key, query, value, output = (
            (1 - eta * rate) * w - eta * g for w, g in zip(start, pulled, strict=True)
        )
        for left, right, k, l in [(key.mT, query.mT, 0, 1), (output, value.mT, 3, 2)]:  # noqa: E741
            turn = [lambda x: x.mT, lambda x: x.mT, lambda x: x.mT, lambda x: x]
            law = wd.descent_imbalance(
                *(turn[j](start[j]) for j in (k, l)),
                *(turn[j](pulled[j]) for j in (k, l)),
                learning_rate=eta,
                decay=rate,
            )
            error = np.abs(law - imbalances(left, right))
            assert np.max(error / grams(left, right)) < 16 * EPS
    # by the gradient of the product
    a, b, m = normal(21, 4, 2), normal(22, 3, 2), normal(23, 4, 3)
    law = wd.descent_imbalance(a, b, m @ b, m.T @ a, 0.1, 0.5)
    a, b = a - 0.1 * (m @ b + 0.5 * a), b - 0.1 * (m.T @ a + 0.5 * b)
    np.testing.assert_allclose(law, imbalances(a, b), rtol=0, atol=32 * EPS * grams(a, b).max())


def test_gradients_of_another_kind_are_refused():
    a, b, m = normal(21, 4, 2), normal(22, 4, 2), normal(23, 4, 4)
    for ga, gb in [(m @ b, m @ a), (m @ b + 0.1 * a, m.T @ a), (0.5 * m @ b, m.T @ a)]:
        with pytest.raises(ValueError, match="not gradients of a function"):
            wd.descent_imbalance(a, b, ga, gb, 0.1)


# ---- the gap ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", REFERENCE["gaps"], ids=lambda c: f"{float(c['gap']):.0e}")
def test_gap_far_below_rounding(case):
    exact = float(case["gap"])
    found = wd.gap(case["left"], case["right"])
    # the factors are read to ε, and a gap is quadratic in what is missing to balance
    size = np.sum(np.square(case["left"]))
    assert abs(found - exact) < 100 * EPS * math.sqrt(exact * size) + 100 * EPS**2 * size


def test_gap_by_definition():
    for seed, (m, n, r) in enumerate([(3, 4, 2), (2, 3, 5), (4, 4, 4), (1, 3, 1), (3, 1, 2)]):
        a, b = normal(seed, 2, 3, m, r), normal(seed + 9, 2, 3, n, r)
        nuclear = np.linalg.norm(a @ b.mT, "nuc", axis=(-2, -1))
        plain = 0.5 * grams(a, b)[..., 0, 0] - nuclear
        np.testing.assert_allclose(wd.gap(a, b), plain, rtol=1e-12)
    assert wd.gap(np.zeros((3, 2)), np.zeros((3, 2))) == 0.0
    assert wd.gap(np.eye(3), 2 * np.eye(3)) == pytest.approx(1.5, rel=1e-15)


@pytest.mark.parametrize(("shape", "seed"), [((3, 4, 2), 0), ((3, 3, 5), 1), ((4, 2, 2), 2)])
def test_gap_stays_within_its_bounds(shape, seed):
    m, n, r = shape
    start = [0.8 * normal(seed, m, r), 0.4 * normal(seed + 5, n, r)]
    times = np.linspace(0.0, 25.0, 26)
    a, b = integrate(quadratic(normal(seed + 9, m, n)), start, 0.2, times)
    size = grams(a, b)[:, 0, 0]
    found = wd.gap(a, b)
    lower, upper = wd.gap_bounds(*start, 0.2, times, size)
    assert np.all(lower <= found * (1 + 1e-9))
    assert np.all(found <= upper * (1 + 1e-9))
    assert np.all(lower > 0)
    loose = wd.gap_bounds(*start, 0.2, times)
    np.testing.assert_array_equal(loose.lower, 0.0)
    np.testing.assert_array_equal(loose.upper, upper)


def test_gap_bounds_are_attained():
    # one column: the gap is ½(|a| − |b|)², and G = a² − b²
    a, b = np.array([[3.0]]), np.array([[1.0]])
    assert wd.gap(a, b) == pytest.approx(2.0)
    bounds = wd.gap_bounds(a, b, 0.0, 0.0, 10.0)
    assert bounds.lower == pytest.approx(2.0, rel=1e-14)
    # one factor zero: the upper bound
    bounds = wd.gap_bounds(a, 0 * b, 0.0, 0.0, 9.0)
    assert bounds == pytest.approx((4.5, 4.5), rel=1e-14)
    assert wd.gap(a, 0 * b) == pytest.approx(4.5)


#: singular values of D, its shape, width r, decay, loss, the slope, and a time after which the
#: next exponential is e^{−12} of what it was beside the slowest
SLOPES = [
    ((2.0, 1.0, 0.6), (3, 3), 3, 0.15, "half", -0.6, 40.0),
    ((2.0, 1.0, 0.6), (3, 4), 2, 0.15, "full", -0.6, 40.0),
    ((2.0, 1.0, 0.1), (3, 3), 3, 0.4, "half", -1.0, 20.0),
    ((2.0, 1.0, 0.1), (4, 3), 3, 0.6, "full", -1.6, 15.0),
    ((2.0, 1.0, 0.0), (3, 3), 3, 0.3, "full", -0.6, 20.0),
    ((2.0, 1.0), (2, 4), 3, 0.3, "half", -0.6, 20.0),
    ((2.0, 1.0), (2, 2), 3, 0.3, "half", -1.2, 20.0),
    ((2.0, 1.0), (2, 2), 2, 0.3, "half", -1.2, 20.0),
    ((0.3, 0.1), (2, 2), 3, 0.5, "half", -1.2, 30.0),
]


@pytest.mark.parametrize(("s", "shape", "r", "decay", "loss", "slope", "late"), SLOPES)
def test_late_slope_of_the_gap(s, shape, r, decay, loss, slope, late):
    k = len(s)
    u, v = (np.linalg.qr(normal(seed, n, n))[0] for seed, n in zip((31, 32), shape, strict=True))
    target = (u[:, :k] * s) @ v[:k]
    start = [0.8 * normal(33, shape[0], r), 0.5 * normal(34, shape[1], r)]
    speed = {"half": 1.0, "full": 2.0}[loss]
    a, b = integrate(quadratic(target, speed), start, decay, np.array([late, late + 4.0]))
    first, last = wd.gap(a, b)
    assert math.log(last / first) / 4.0 == pytest.approx(slope, rel=1e-2)
    assert wd.gap_late_slope(target, r, decay, loss) == pytest.approx(slope, rel=1e-12)


def test_slopes_by_hand():
    target = np.diag([2.0, 1.0, 0.1])
    assert wd.gap_late_slope(target, 2, 0.3) == pytest.approx(-1.2)
    assert wd.gap_late_slope(target, 3, 0.3) == pytest.approx(-0.8)
    assert wd.gap_late_slope(target, 3, 0.3, "full") == pytest.approx(-1.0)
    assert wd.gap_late_slope(target, 4, 0.3, "full") == pytest.approx(-1.0)
    assert wd.gap_late_slope(target[:2], 4, 0.3, "full") == pytest.approx(-0.6)
    stacked = wd.gap_late_slope(np.stack([target, 0 * target]), 2, [[0.3], [0.0]])
    np.testing.assert_allclose(stacked, [[-1.2, -0.6], [0.0, 0.0]])


@pytest.mark.parametrize("seed", [40, 50])
def test_late_constant_of_the_gap(seed):
    u, v = (np.linalg.qr(normal(seed + k, 4, 4))[0] for k in (1, 2))
    target = u @ np.diag([2.0, 1.3, 0.9, 0.1]) @ v
    start = [0.8 * normal(seed + 3, 4, 3), 0.4 * normal(seed + 4, 4, 3)]
    t = 30.0 / (4 * 0.25)
    a, b = integrate(quadratic(target), start, 0.25, np.array([t, t + 10.0]))
    constant = wd.gap_late_constant(*start, a[1].T @ a[1])
    # corrections are of first order in G: e^{−15}, times the sizes of G(0) over s
    assert wd.gap(a[0], b[0]) * math.exp(4 * 0.25 * t) == pytest.approx(constant, rel=1e-5)


# ---- the end of a quadratic loss --------------------------------------------------------------


def ridge(target, decay, r, speed, sweeps=3000):
    """Minimise (speed/2)‖ABᵀ − D‖² + (λ/2)(‖A‖² + ‖B‖²) by alternating ridge regressions."""
    b = normal(60, *target.shape[:-2], target.shape[-1], r)
    shift = (decay / speed)[..., None, None] * np.eye(r)
    a = b
    for _ in range(sweeps):
        a = target @ b @ np.linalg.inv(b.mT @ b + shift)
        b = target.mT @ a @ np.linalg.inv(a.mT @ a + shift)
    return a @ b.mT


SHAPES = [(3, 3, 3), (5, 4, 6), (2, 5, 2), (4, 4, 2), (5, 3, 1), (6, 5, 3), (1, 4, 2), (4, 6, 4)]


@pytest.mark.parametrize(("m", "n", "r"), SHAPES)
@pytest.mark.parametrize(("loss", "speed"), [("half", 1.0), ("full", 2.0)])
def test_rank_and_end_of_200_problems(m, n, r, loss, speed):
    rng = np.random.default_rng(100 * m + 10 * n + r)
    problems = []
    while len(problems) < 25:
        target = rng.standard_normal((m, n))
        d = np.linalg.svd(target, compute_uv=False)
        decay = speed * rng.uniform(0.05, 1.1) * d[0]
        # regressions converge as (d/threshold)² or (d_{r+1}/d_r)²: keep away from ties
        clear = np.all(np.abs(d / (decay / speed) - 1) > 0.03)
        if clear and (r >= len(d) or d[r] < 0.97 * d[r - 1]):
            problems.append((target, decay))
    targets = np.stack([p[0] for p in problems])
    decays = np.array([p[1] for p in problems])
    found = ridge(targets, decays, r, speed)
    end = wd.soft_threshold(targets, decays, loss, rank=r)
    np.testing.assert_allclose(end, found, rtol=0, atol=1e-9)
    rank, ties, ambiguous = wd.predicted_rank(targets, decays, r, loss)
    s = np.linalg.svd(found, compute_uv=False)
    np.testing.assert_array_equal(rank, np.sum(s > 1e-9, axis=-1))
    assert not np.any(ties)
    assert not np.any(ambiguous)
    if r >= min(m, n):
        np.testing.assert_array_equal(wd.soft_threshold(targets, decays, loss), end)


@pytest.mark.parametrize(("loss", "speed"), [("half", 1.0), ("full", 2.0)])
def test_end_of_the_flow(loss, speed):
    target, start = normal(61, 4, 3), [0.3 * normal(62, 4, 2), 0.3 * normal(63, 3, 2)]
    a, b = integrate(quadratic(target, speed), start, 0.5, np.array([0.0, 200.0]))
    end = wd.soft_threshold(target, 0.5, loss, rank=2)
    np.testing.assert_allclose(a[1] @ b[1].T, end, rtol=0, atol=1e-9)


def test_figure_1_in_both_conventions():
    target = np.diag([0.2, 0.4, 0.6, 0.8, 1.0])
    ends = {"half": ([0, 0, 0.2, 0.4, 0.6], 3), "full": ([0, 0.2, 0.4, 0.6, 0.8], 4)}
    for loss, (diagonal, rank) in ends.items():
        end = wd.soft_threshold(target, 0.4, loss)
        np.testing.assert_allclose(end, np.diag(diagonal), rtol=0, atol=1e-15)
        predicted = wd.predicted_rank(target, 0.4, loss=loss)
        assert predicted == (rank, 1, False)
    # ties count only where the width leaves room; equal values cut by the width are reported
    assert wd.predicted_rank(target, 0.4, 3) == (3, 0, False)
    assert wd.predicted_rank(np.eye(3), 0.5, 2) == (2, 0, True)
    assert wd.predicted_rank(np.eye(3), 1.0, 2) == (0, 2, False)
    assert wd.predicted_rank(np.zeros((2, 3)), 0.0) == (0, 0, False)
    # ties stay ties in bases where the SVD has to find them
    u, v = (np.linalg.qr(normal(seed, 5, 5))[0] for seed in (64, 65))
    assert wd.predicted_rank(u @ target @ v, 0.4) == (3, 1, False)


def test_batches_of_targets_and_decays():
    target = normal(66, 3, 4, 5)
    decays = np.array([[0.1], [1.0]])
    end = wd.soft_threshold(target, decays, rank=3)
    assert end.shape == (2, 3, 4, 5)
    for index in np.ndindex(2, 3):
        one = wd.soft_threshold(target[index[1]], decays[index[0], 0], rank=3)
        np.testing.assert_allclose(end[index], one, rtol=0, atol=1e-15)
    assert wd.predicted_rank(target, decays).rank.shape == (2, 3)
    assert wd.soft_threshold(target[0], [0.1, 0.2]).shape == (2, 4, 5)


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


# ---- what is refused --------------------------------------------------------------------------

A, B, D = np.ones((3, 2)), np.ones((4, 2)), np.ones((3, 4))
REFUSED = {
    "negative decay": (lambda: wd.soft_threshold(D, -0.1), "λ of .* is ≥ 0"),
    "NaN decay": (lambda: wd.soft_threshold(D, math.nan), "decay contains NaN"),
    "negative rate": (lambda: wd.imbalance(A, B, -1.0, 1.0), "contains -1.0"),
    "loss": (lambda: wd.soft_threshold(D, 0.1, "ful"), 'Did you mean "full"'),
    "loss by another name": (lambda: wd.predicted_rank(D, 0.1, loss="mse"), "½‖W − D‖²"),
    "vector": (lambda: wd.soft_threshold([1.0], 0.1), "give a matrix"),
    "NaN target": (lambda: wd.soft_threshold(D * math.nan, 0.1), "target contains NaN"),
    "float32": (lambda: wd.soft_threshold(D.astype(np.float32), 0.1), "float64"),
    "width": (lambda: wd.soft_threshold(D, 0.1, rank=0), "rank = 0"),
    "hidden axes": (lambda: wd.imbalance(A.T, B.T, 0.1, 1.0), "enters transposed"),
    "heads": (lambda: wd.imbalance(np.ones((2, 3, 2)), B, 0.1, 1.0), "equal leading axes"),
    "rates": (lambda: wd.imbalance(A, B, [0.1, 0.2], 1.0), "does not broadcast"),
    "time": (lambda: wd.imbalance(A, B, 0.1, -1.0), "flow times"),
    "schedule": (lambda: wd.imbalance(A, B, lambda t: 1 - t, [0.5, 3.0]), "decay.t. is -"),
    "NaN schedule": (lambda: wd.imbalance(A, B, lambda t: math.nan, 1.0), "decay.t. is nan"),
    "endless schedule": (lambda: wd.imbalance(A, B, lambda t: 0.1 / (1 + t), math.inf), "finite"),
    "step": (lambda: wd.descent_imbalance(A, B, A, B, 0.0), "learning_rate"),
    "gradients": (lambda: wd.descent_imbalance(A, B, B, A, 0.1), "shape of its factor"),
    "size": (lambda: wd.gap_bounds(A, B, 0.1, 0.0, 0.1), "at least"),
    "gram": (lambda: wd.gap_late_constant(A, B, np.diag([1.0, 0.0])), "singular"),
    "gram shape": (lambda: wd.gap_late_constant(A, B, np.eye(3)), "gram has shape"),
    "skew gram": (lambda: wd.gap_late_constant(A, B, [[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
    "certificate": (lambda: wd.certificate(A, B, D.T, 0.1), r"\(m, n\)"),
    "no decay": (lambda: wd.certificate(A, B, D, 0.0), "give λ > 0"),
    "threshold": (lambda: wd.zero_rank_threshold([1.0, 2.0]), "∇_W L"),
    "curvature": (lambda: wd.classify(wd.certificate(A, B, D, 0.1), math.nan), "NaN"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()
