"""The gap of two decaying factors, the end of a quadratic loss, and what is refused.

Flows are integrated by SciPy (DOP853), minima come from alternating ridge regressions, gaps at
80 digits from tests/references/make/decay_reference.py.
"""

import math

import numpy as np
import pytest
import reference_data
from decayed_factors import grams, integrate, normal

from theory import weight_decay as wd

REFERENCE = reference_data.load("decay")
EPS = float(np.finfo(float).eps)


def quadratic(target, speed=1.0):
    """Gradient in (A, B) of (speed/2)‖ABᵀ − D‖²."""

    def gradient(a, b):
        m = speed * (a @ b.T - target)
        return m @ b, m.T @ a

    return gradient


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
