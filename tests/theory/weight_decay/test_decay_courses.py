"""Time-courses under weight decay: at 40 digits, by SciPy, and by the softmax flow they solve.

The references (tests/references/make/decay_reference.py) know only the gradients of ½‖W − D‖² and
‖W − D‖²; those of lookup come from quadrature of its scalar equation. End states and rates of
lookup are those of the full softmax problem, by L-BFGS and from its Hessian.
"""

import math

import jax
import numpy as np
import pytest
import reference_data
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

from theory import exact_linear, weight_decay as wd
from theory.exact_linear import balanced_start

REFERENCE = reference_data.load("decay")
FLOWS, LOOKUP = REFERENCE["flows"], REFERENCE["lookup"]


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def relative(measured, exact):
    """Largest error over the largest entry, one number a matrix."""
    gap = np.max(np.abs(np.asarray(measured) - exact), axis=(-2, -1))
    return gap / np.max(np.abs(exact), axis=(-2, -1))


def numbers(case):
    return {k: v if k == "loss" else np.array(v, float) for k, v in case.items()}


def is_balanced(case):
    return np.linalg.norm(case["left"].T @ case["left"] - case["right"].T @ case["right"]) < 1e-12


def start(sizes, g0, scale=0.3, seed=0):
    """A, B, D with AᵀA − BᵀB = g₀I."""
    m, n, r = sizes
    w1, w2 = balanced_start((n, r, m), balance=g0, scale=scale, key=jax.random.key(seed))
    return np.asarray(w2), np.asarray(w1).T, normal(seed, m, n)


def flow(a, b, target, decay, times, speed=1.0):
    """A(t), B(t) by DOP853."""
    cut = a.size

    def field(t, y):
        a_, b_ = y[:cut].reshape(a.shape), y[cut:].reshape(b.shape)
        m = speed * (a_ @ b_.T - target)
        return np.concatenate([(-m @ b_ - decay * a_).ravel(), (-m.T @ a_ - decay * b_).ravel()])

    y0 = np.concatenate([a.ravel(), b.ravel()])
    run = solve_ivp(field, (0, times[-1]), y0, "DOP853", times, rtol=1e-13, atol=1e-15)
    assert run.success
    return run.y[:cut].T.reshape(-1, *a.shape), run.y[cut:].T.reshape(-1, *b.shape)


# ---- quadratic losses -------------------------------------------------------------------------


def test_the_references_hold_both_kinds():
    g0 = [
        np.trace(c["left"].T @ c["left"] - c["right"].T @ c["right"])
        for c in map(numbers, FLOWS.values())
    ]
    assert sum(np.abs(g0) < 1e-9) >= 8
    assert sum(np.array(g0) > 0.1) >= 3
    assert sum(np.array(g0) < -0.1) >= 3
    assert {c["loss"] for c in FLOWS.values()} == {"half", "full"}


@pytest.mark.parametrize("name", FLOWS)
def test_forty_digits(name):
    case = numbers(FLOWS[name])
    a, b = case["left"], case["right"]
    arguments = (a, b, case["target"], case["decay"], case["t"], case["loss"])
    if is_balanced(case):
        assert np.max(relative(wd.balanced(*arguments), case["product"])) < 1e-12
    else:
        with pytest.raises(ValueError, match=r"Use theory\.weight_decay\.unbalanced"):
            wd.balanced(*arguments)
    assert np.max(relative(wd.unbalanced(*arguments), case["product"])) < 1e-12


@pytest.mark.parametrize(
    "name", [n for n, c in FLOWS.items() if "diagonal" in n and is_balanced(numbers(c))]
)
def test_modes_at_forty_digits(name):
    case = numbers(FLOWS[name])
    a, b, d = (np.diag(case[k]) for k in ("left", "right", "target"))
    exact = np.abs(np.diagonal(case["product"], axis1=1, axis2=2))
    found = wd.balanced_mode(
        a * np.abs(b), np.abs(d), case["t"][:, None], case["decay"], case["loss"]
    )
    np.testing.assert_allclose(found, exact, rtol=1e-13)


@pytest.mark.parametrize(("loss", "speed"), [("half", 1.0), ("full", 2.0)])
@pytest.mark.parametrize(
    ("sizes", "g0"),
    [((4, 3, 5), 0.0), ((4, 5, 2), 0.0), ((4, 3, 3), 0.6), ((3, 5, 2), 2.0), ((3, 4, 4), -0.6),
     ((5, 3, 1), -3.0), ((4, 4, 4), 0.3), ((3, 3, 2), 20.0)],
)  # fmt: skip
def test_whole_trajectories_by_scipy(sizes, g0, loss, speed):
    a, b, target = start(sizes, g0)
    times = np.linspace(0.0, 12.0, 13)
    exact = wd.unbalanced(a, b, target, 0.3, times, loss)
    left, right = flow(a, b, target, 0.3, times, speed)
    unit = np.max(np.abs(exact))
    assert np.max(np.abs(left @ right.mT - exact)) < 1e-9 * unit


@pytest.mark.parametrize("g0", [0.0, 0.7, -0.7])
@pytest.mark.parametrize("loss", ["half", "full"])
def test_times_of_any_shape(g0, loss):
    solve = wd.unbalanced if g0 else wd.balanced
    a, b, target = start((5, 4, 3), g0, seed=3)
    times = np.array([[0.0, 0.5, 2.0], [1e4, np.inf, 60.0]])
    table = solve(a, b, target, 0.2, times, loss)
    assert table.shape == (2, 3, 5, 4)
    np.testing.assert_allclose(table[0, 0], a @ b.T, rtol=0, atol=1e-15)
    for index, t in np.ndenumerate(times):
        one = solve(a, b, target, 0.2, t, loss)
        assert one.shape == (5, 4)
        np.testing.assert_allclose(one, table[index], rtol=0, atol=1e-13)
    assert solve(a, b, target, 0.2, [], loss).shape == (0, 5, 4)
    end = wd.soft_threshold(target, 0.2, loss, rank=3)
    np.testing.assert_allclose(table[1, 1], end, rtol=0, atol=1e-13)
    np.testing.assert_allclose(table[1, 0], end, rtol=0, atol=1e-13)


def test_modes_slower_than_the_imbalance():
    # λ = 0.5: g is rounding at t ≈ 38, where these modes are still on their way
    s = np.array([0.55, 0.5, 0.45])
    u, v = (np.linalg.qr(normal(seed, 3, 3))[0] for seed in (8, 9))
    target = (u * s) @ v
    a, b, _ = start((3, 3, 3), 0.4, seed=5)
    times = np.array([20.0, 35.0, 40.0, 45.0, 60.0])
    left, right = flow(a, b, target, 0.5, times)
    exact = left @ right.mT
    assert np.max(np.abs(exact[4] - exact[3])) > 1e-4
    found = wd.unbalanced(a, b, target, 0.5, times)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-10)
    np.testing.assert_allclose(wd.unbalanced(a, b, target, 0.5, 45.0), exact[3], rtol=0, atol=1e-10)


def test_decay_and_imbalance_vanish_continuously():
    a, b, target = start((4, 3, 3), 0.8, seed=4)
    times = np.array([0.5, 3.0, 8.0])
    conserved = exact_linear.two_layer(b.T, a, target, times)
    np.testing.assert_array_equal(wd.unbalanced(a, b, target, 0.0, times), conserved)
    for decay in (1e-4, 1e-6):
        near = wd.unbalanced(a, b, target, decay, times)
        assert 1e-3 * decay < np.max(np.abs(near - conserved)) < 50 * decay
    # g₀ just above what counts as balanced
    a, b, target = start((4, 3, 3), 1e-9, seed=4)
    a0, b0, _ = start((4, 3, 3), 0.0, seed=4)
    near = wd.unbalanced(a, b, target, 0.3, times)
    assert np.max(np.abs(near - wd.balanced(a0, b0, target, 0.3, times))) < 1e-8


def test_a_mode_and_its_half_time():
    # grows, is there already, dies, ties; the values by hand
    np.testing.assert_allclose(
        wd.balanced_mode([0.1, 0.3, 0.2, 0.1], [1.3, 0.6, 0.1, 0.3], 2.0, 0.3),
        [1 / (1 + 9 * math.exp(-4)), 0.3, 0.2 * math.exp(-0.8) / (2 - math.exp(-0.8)), 0.1 / 1.4],
        rtol=1e-14,
    )
    np.testing.assert_allclose(
        wd.balanced_mode(0.1, [1.3, 0.3, 0.0], np.inf, 0.3), [1.0, 0.0, 0.0], atol=0, rtol=1e-14
    )
    assert wd.balanced_mode(0.0, 1.0, np.inf, 0.3) == 0.0
    for loss, speed in [("half", 1.0), ("full", 2.0)]:
        for s0, d, decay in [(1e-9, 1.0, 0.25), (0.2, 1.0, 0.0), (0.3, 0.1, 0.5), (3.0, -1.0, 0.1)]:
            kappa = d - decay / speed
            half = float(wd.half_time(s0, d, decay, loss))
            level = 0.5 * kappa if kappa > 0 else 0.5 * s0
            assert wd.balanced_mode(s0, d, half, decay, loss) == pytest.approx(level, rel=1e-12)
    assert wd.half_time(1e-6, 1.0, 0.25) == pytest.approx(math.log(0.75e6 - 1) / 1.5, rel=1e-14)
    # ties, and what is continuous through them
    assert wd.half_time(0.2, 0.5, 0.5) == pytest.approx(2.5, rel=1e-14)
    assert wd.half_time(0.2, 0.5, 1.0, "full") == pytest.approx(1.25, rel=1e-14)
    assert wd.half_time(0.2, 0.5 - 1e-9, 0.5) == pytest.approx(2.5, rel=1e-7)
    # never; from the start; the half-life of something small
    np.testing.assert_allclose(
        wd.half_time([0.0, 0.9, 0.0, 0.0], [1.0, 1.0, 0.3, 0.1], 0.3),
        [np.inf, 0.0, np.inf, math.log(2) / 0.4],
        rtol=1e-14,
    )


# ---- lookup by softmax attention --------------------------------------------------------------


@pytest.mark.parametrize("name", LOOKUP)
def test_lookup_at_forty_digits(name):
    case = numbers(LOOKUP[name])
    setting = (float(case["a0"]), int(case["classes"]), float(case["decay"]))
    found = wd.lookup_course(*setting, case["t"], float(case["scale"]))
    np.testing.assert_allclose(found, case["a"], rtol=1e-11)


def test_printed_digits_of_lookup():
    assert wd.lookup_course(0.05, 5, 0.0, 5.0) == pytest.approx(0.3460105451795, abs=5e-13)
    np.testing.assert_allclose(wd.lookup_logit(6, [0.05, 0.2]), [2.70805020110221, 0], rtol=1e-14)


def test_lookup_at_any_time():
    for a0, decay in [(0.01, 0.05), (4.0, 0.05), (2.0, 0.5), (1.0, 1 / 6), (0.0, 0.05)]:
        times = np.array([[np.inf, 0.0], [3.0, 1e12]])
        table = wd.lookup_course(a0, 6, decay, times)
        assert table[0, 1] == a0
        end = wd.lookup_logit(6, decay) if a0 else 0.0
        assert table[0, 0] == end
        # at the threshold a ≃ K²/(2t)
        assert abs(table[1, 1] - end) < 1e-10
        middle = wd.lookup_course(a0, 6, decay, 1.2)
        on = wd.lookup_course(middle, 6, decay, 1.8)
        assert on == pytest.approx(table[1, 0], rel=1e-12)
    end = wd.lookup_logit(6, 0.05)
    np.testing.assert_array_equal(wd.lookup_course(end, 6, 0.05, [0.0, 5.0, np.inf]), end)
    assert wd.lookup_course(0.05, 5, 0.0, np.inf) == np.inf
    assert wd.lookup_course(0.05, 5, 0.1, []).shape == (0,)


def lookup_problem(k, decay, scale, width):
    """Value and gradient in (A, B) of the decayed mean cross-entropy; columns are queries."""
    cut = k * width

    def objective(x):
        a, b = x[:cut].reshape(k, width), x[cut:].reshape(k, width)
        logits = scale * a @ b.T
        logits = logits - logits.real.max(axis=0)
        p = np.exp(logits) / np.exp(logits).sum(axis=0)
        m = scale * (p - np.eye(k)) / k
        value = -np.mean(np.diag(logits) - np.log(np.exp(logits).sum(axis=0)))
        pulled = np.concatenate([(m @ b + decay * a).ravel(), (m.T @ a + decay * b).ravel()])
        return value + 0.5 * decay * np.sum(x**2), pulled

    return objective


def hessian(problem, x):
    """By complex steps of the gradient: exact to rounding."""
    steps = x + 1e-30j * np.eye(len(x))
    return np.stack([problem(row)[1].imag / 1e-30 for row in steps])


def simplex(k, a, width, seed=0):
    """Flat factors A = B = √a V Oᵀ."""
    v = np.linalg.svd(np.eye(k) - 1 / k)[0][:, : k - 1]
    o = np.linalg.qr(normal(seed, width, width))[0][:, : k - 1]
    factor = math.sqrt(a) * (v @ o.T).ravel()
    return np.concatenate([factor, factor])


@pytest.mark.parametrize(
    ("k", "decay", "scale", "width", "a0"),
    [(6, 0.05, 1.0, 5, 0.01), (4, 0.1, 0.5, 6, 3.0), (5, 0.0, 2.0, 4, 0.05), (3, 0.4, 1.0, 4, 1.0)],
)
def test_lookup_course_is_that_of_softmax_attention(k, decay, scale, width, a0):
    problem = lookup_problem(k, decay, scale, width)
    times = np.linspace(0.0, 20.0, 11)
    run = solve_ivp(
        lambda t, x: -problem(x)[1], (0, 20), simplex(k, a0, width), "DOP853", times,
        rtol=1e-12, atol=1e-14,
    )  # fmt: skip
    x = run.y.T.reshape(-1, 2, k, width)
    exact = wd.lookup_course(a0, k, decay, times, scale)
    ray = exact[:, None, None] * (np.eye(k) - 1 / k)
    np.testing.assert_allclose(x[:, 0] @ x[:, 1].mT, ray, rtol=0, atol=1e-10)


@pytest.mark.parametrize("width", [5, 8])
@pytest.mark.parametrize(
    ("decay", "scale"),
    [(0.02, 1.0), (0.05, 1.0), (0.1, 1.0), (0.15, 1.0), (0.18, 1.0), (0.2, 1.0), (0.4, 1.0),
     (0.05, 0.5), (0.08, 0.5), (0.09, 0.5), (0.3, 2.0), (0.35, 2.0)],
)  # fmt: skip
def test_end_of_lookup_from_random_starts(decay, scale, width):
    k = 6
    best = minimize(
        lookup_problem(k, decay, scale, width), 0.3 * normal(7, 2 * k * width), jac=True,
        method="L-BFGS-B", options={"gtol": 1e-11, "ftol": 0.0, "maxiter": 20000, "maxcor": 30},
    ).x  # fmt: skip
    w = best[: k * width].reshape(k, width) @ best[k * width :].reshape(k, width).T
    end = float(wd.lookup_logit(k, decay, scale))
    np.testing.assert_allclose(w, end * (np.eye(k) - 1 / k), rtol=0, atol=1e-4)
    s = np.linalg.svd(w, compute_uv=False)
    assert np.sum(s > 1e-3) == (k - 1 if decay < scale / k else 0)


@pytest.mark.parametrize(
    ("k", "decay", "scale", "width"),
    [(6, 0.05, 1.0, 5), (6, 0.05, 1.0, 8), (4, 0.1, 0.7, 3), (5, 0.15, 2.0, 4), (6, 0.16, 1.0, 6),
     (3, 0.1, 1.0, 2), (2, 0.1, 1.0, 2)],
)  # fmt: skip
def test_rates_are_curvatures(k, decay, scale, width):
    gradient = lookup_problem(k, decay, scale, width)
    rates = wd.lookup_rates(k, decay, scale)
    # factors leave 0 at half the rate of their product
    lowest = np.linalg.eigvalsh(hessian(gradient, np.zeros(2 * k * width)))[0]
    assert -2.0 * lowest == pytest.approx(float(rates.growth), rel=1e-12)
    x = simplex(k, float(wd.lookup_logit(k, decay, scale)), width)
    curvature = hessian(gradient, x)
    ray = x / np.linalg.norm(x)
    np.testing.assert_allclose(curvature @ ray, float(rates.relaxation) * ray, rtol=0, atol=1e-12)
    # turning hidden units costs nothing; the next eigenvalue is the slowest rate
    values = np.linalg.eigvalsh(curvature)
    slowest = np.min(values[values > 1e-9])
    if k >= 4:
        assert slowest == pytest.approx(float(rates.slowest), rel=1e-9)
    else:
        assert slowest >= rates.slowest * (1 - 1e-9)


def test_rates_are_slopes_of_the_course():
    rates = wd.lookup_rates(6, 0.05)
    early = wd.lookup_course(1e-12, 6, 0.05, [1.0, 5.0])
    assert math.log(early[1] / early[0]) / 4 == pytest.approx(float(rates.growth), rel=1e-9)
    for a0 in (1.0, 5.0):
        late = wd.lookup_course(a0, 6, 0.05, [80.0, 90.0]) - wd.lookup_logit(6, 0.05)
        measured = -math.log(late[1] / late[0]) / 10
        assert measured == pytest.approx(float(rates.relaxation), rel=1e-5)
    above = wd.lookup_rates(6, [0.2, 1 / 6])
    assert above.growth[0] == pytest.approx(2 * (1 / 6 - 0.2))
    np.testing.assert_allclose(above.relaxation, -above.growth)
    np.testing.assert_allclose(above.slowest, -above.growth)
    late = wd.lookup_course(1.0, 6, 0.2, [400.0, 500.0])
    assert math.log(late[0] / late[1]) / 100 == pytest.approx(above.relaxation[0], rel=1e-5)
    free = wd.lookup_rates(6, 0.0)
    assert free == (pytest.approx(1 / 3), 0.0, 0.0)
    assert wd.lookup_logit(6, 0.0) == np.inf


# ---- what is refused --------------------------------------------------------------------------

A, B, D = np.eye(3)[:, :2], np.eye(4)[:, :2], np.ones((3, 4))
REFUSED = {
    "decay": (lambda: wd.balanced(A, B, D, -0.1, 1.0), "λ of .* is ≥ 0"),
    "two decays": (lambda: wd.balanced(A, B, D, [0.1, 0.2], 1.0), "give one number"),
    "loss": (lambda: wd.balanced_mode(0.1, 1.0, 1.0, 0.1, "halve"), 'Did you mean "half"'),
    "shapes": (lambda: wd.balanced(A, B, D.T, 0.1, 1.0), r"\(m, n\)"),
    "transposed": (lambda: wd.unbalanced(A.T, B.T, D, 0.1, 1.0), "equal last"),
    "heads": (
        lambda: wd.balanced(np.ones((2, 3, 2)), np.ones((2, 4, 2)), D, 0.1, 1.0),
        r"\(m, r\)",
    ),
    "Gaussian": (lambda: wd.unbalanced(normal(0, 3, 2), B, D, 0.1, 1.0), "G = g₀I only"),
    "slow": (lambda: wd.unbalanced(2 * A, B, D, 1e-7, np.inf), "too slow beside"),
    "time": (lambda: wd.balanced(A, B, D, 0.1, -1.0), "flow times"),
    "float32": (lambda: wd.unbalanced(A.astype(np.float32), B, D, 0.1, 1.0), "float64"),
    "sign": (lambda: wd.balanced_mode(-0.1, 1.0, 1.0), "s₀ ≥ 0"),
    "one class": (lambda: wd.lookup_logit(1, 0.1), "at least 2"),
    "scale": (lambda: wd.lookup_logit(4, 0.1, -1.0), "positive"),
    "NaN": (lambda: wd.lookup_logit(4, math.nan), "decay contains NaN"),
    "negative": (lambda: wd.lookup_rates(4, -0.1), "is ≥ 0"),
    "negative logit": (lambda: wd.lookup_course(-1.0, 4, 0.1, 1.0), "a₀ ≥ 0"),
    "several": (lambda: wd.lookup_course([1.0, 2.0], 4, 0.1, 1.0), "one number each"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()
