"""Closed forms of linear networks against their flow: at 40 digits, by SciPy, by gflow itself.

The references (tests/references/make/linear_reference.py) and `linear_networks.flow` know only the
gradient of ½‖Σ − W₂W₁‖²: no Riccati equation, no singular vectors.
"""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_data
from linear_networks import CASES, flow, orthogonal, problem, relative, simulated

import gflow
from gflow import _cli as cli
from theory import exact_linear
from theory.exact_linear import _riccati as riccati, balanced_start, two_layer

REFERENCE = reference_data.load("linear")


@pytest.mark.parametrize("name", REFERENCE)
def test_forty_digits(name):
    case = {k: np.array(v, float) if k != "sizes" else v for k, v in REFERENCE[name].items()}
    gram = exact_linear.two_layer_gram(
        case["w1"], case["w2"], case["target"], case["t"], float(case["decay"])
    )
    for field in ("product", "input", "output"):
        assert np.max(relative(getattr(gram, field), case[field])) < 1e-12, field


def test_printed_digits():
    target = [[1.0, 0.4], [0.2, -0.7]]
    w1, w2 = [[0.1, 0.05], [-0.05, 0.1]], [[0.05, 0.1], [0.1, -0.05]]
    expected = [
        [0.057927347116317, 0.037592991549555, 0.018322925213168, -0.029022247611737],
        [0.81956821431301, 0.36730922610025, 0.053330491563296, -0.34860011250758],
        [0.99911383080088, 0.40106233683341, 0.19533278033313, -0.69051949605045],
    ]
    found = two_layer(w1, w2, target, [1.0, 3.0, 6.0]).reshape(3, 4)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    # a bottleneck with more inputs than outputs, whose F is singular
    target, w1, w2 = [[1, 0, 0.5], [-0.3, 0.8, 0.1]], [[0.1, 0.2, 0.2]], [[0.18], [0.24]]
    expected = [
        [[0.10990955772297, 0.1641128464252, 0.1366582254235],
         [0.10150481008776, 0.15156319117705, 0.1262080159899]],
        [[0.78593039890485, 0.30995237412253, 0.49703100268137],
         [0.177606130854, 0.070043660346543, 0.11232006475857]],
    ]  # fmt: skip
    found = two_layer(w1, w2, target, [1.0, 4.0])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("sizes", "balance", "decay"), CASES)
def test_the_whole_trajectory_by_scipy(sizes, balance, decay, seed):
    w1, w2, target = problem(sizes, balance, seed=seed)
    times = np.linspace(0.0, 6.0, 25)
    gram = exact_linear.two_layer_gram(w1, w2, target, times, decay)
    layers = flow([w1, w2], target, times, decay)
    unit = np.max(np.abs(gram.product))
    assert np.max(np.abs([b @ a for a, b in layers] - gram.product)) < 1e-9 * unit
    assert np.max(relative([a.T @ a for a, _ in layers], gram.input)) < 1e-9
    assert np.max(relative([b @ b.T for _, b in layers], gram.output)) < 1e-9


def check_simulated(sizes, balance, decay, seed):
    w1, w2, target = problem(sizes, balance, seed=seed)
    run = simulated((w1, w2), target, 6.0, decay)
    exact = two_layer(w1, w2, target, run.t, decay)
    assert len(run.t) > 20
    unit = np.max(np.abs(exact))
    assert np.max(np.abs(run.observables["product"] - exact)) < 1e-9 * unit
    loss = 0.5 * np.sum((target - exact) ** 2, axis=(1, 2))
    np.testing.assert_allclose(run.loss, loss, rtol=0, atol=1e-9 * loss[0])


def test_the_whole_trajectory_by_gflow():
    check_simulated((5, 3, 4), 0.7, 0.0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("sizes", "balance", "decay"), CASES)
def test_every_case_by_gflow(sizes, balance, decay, seed):
    check_simulated(sizes, balance, decay, seed)


# ---- the interface of a closed form: t = 0, t = ∞, any shape of t, restarts -------------


@pytest.mark.parametrize("balance", [0.0, 0.7])
def test_times_of_any_shape(balance):
    w1, w2, target = problem((3, 4, 5), balance)
    times = np.array([[0.0, 0.5, 2.0], [1e4, np.inf, 7.0]])
    table = two_layer(w1, w2, target, times)
    assert table.shape == (2, 3, 5, 3)
    np.testing.assert_allclose(table[0, 0], w2 @ w1, rtol=0, atol=1e-15)
    for index, t in np.ndenumerate(times):
        one = two_layer(w1, w2, target, t)
        assert one.shape == (5, 3)
        np.testing.assert_array_equal(one, table[index])
    assert two_layer(w1, w2, target, []).shape == (0, 5, 3)
    np.testing.assert_allclose(table[1, 1], target, rtol=0, atol=1e-13)
    np.testing.assert_allclose(table[1, 0], table[1, 1], rtol=0, atol=1e-13)
    # just after the start: W + (first derivative)·t
    slope = w2 @ w2.T @ (target - w2 @ w1) + (target - w2 @ w1) @ w1.T @ w1
    step = two_layer(w1, w2, target, 1e-7) - w2 @ w1
    np.testing.assert_allclose(step / 1e-7, slope, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("sizes", "balance", "decay"), CASES)
def test_continuing_equals_going_straight(sizes, balance, decay):
    w1, w2, target = problem(sizes, balance, seed=3)
    middle = exact_linear.two_layer_factors(w1, w2, target, 1.7, decay)
    later = two_layer(*middle, target, [0.0, 2.3, np.inf], decay)
    straight = two_layer(w1, w2, target, [1.7, 4.0, np.inf], decay)
    assert np.max(relative(later, straight)) < 1e-12


@pytest.mark.parametrize("t", [60.0, 1e4, 1e12])
def test_late_times_do_not_overflow(t):
    for sizes, balance, decay in CASES:
        w1, w2, target = problem(sizes, balance, scale=1e-3, seed=4)
        late, end = two_layer(w1, w2, target, [t, np.inf], decay)
        assert np.all(np.isfinite(late))
        # the slowest mode arrives at twice its distance from rest
        rates = riccati.coupled_spectrum(target, balance, decay)[0]
        assert np.max(np.abs(late - end)) < 1e-12 + 1e8 * math.exp(-2 * t * np.min(np.abs(rates)))


def test_bottlenecks_end_at_the_best_approximation():
    w1, w2, target = problem((5, 3, 5), 0.7, seed=5)
    u, s, vt = np.linalg.svd(target)
    best = (u[:, :3] * s[:3]) @ vt[:3]
    rest = exact_linear.resting_point(w1, w2, target)
    np.testing.assert_allclose(rest.product, best, rtol=0, atol=1e-13)
    assert rest.loss == pytest.approx(0.5 * np.sum(s[3:] ** 2), rel=1e-12)
    assert rest.rank == 3
    assert rest.is_minimum


def test_decay_shrinks_or_drops_modes():
    s = np.array([2.0, 1.0, 0.3])
    w1, w2, _ = problem((3, 4, 3), seed=6)
    end = two_layer(w1, w2, np.diag(s), np.inf, decay=0.4)
    kept = np.diag([1.6, 0.6, 0.0])
    # half of all starts miss the second mode only if they are square; h = 4 is not
    np.testing.assert_allclose(end, kept, rtol=0, atol=1e-13)
    assert exact_linear.resting_point(w1, w2, np.diag(s), 0.4).missed.size == 0


@pytest.mark.parametrize("balance", [0.0, 1.3, -0.8])
def test_gram_matrices_at_the_end(balance):
    w1, w2, target = problem((3, 3, 3), balance, seed=8)
    u, s, vt = np.linalg.svd(target)
    gram = exact_linear.two_layer_gram(w1, w2, target, np.inf)
    if balance == 0 and np.linalg.det(w2 @ w1) * np.linalg.det(target) < 0:
        s = np.append(s[:-1], 0.0)  # blocked, which a start of λ ≠ 0 never is
    root = np.sqrt(balance**2 + 4 * s**2)
    np.testing.assert_allclose(gram.output, (u * (root + balance) / 2) @ u.T, atol=1e-13)
    np.testing.assert_allclose(gram.input, (vt.T * (root - balance) / 2) @ vt, atol=1e-13)


# ---- symmetries --------------------------------------------------------------------------


@pytest.mark.parametrize(("sizes", "balance", "decay"), CASES)
def test_symmetries(sizes, balance, decay):
    i, h, o = sizes
    w1, w2, target = problem(sizes, balance, seed=7)
    times = np.array([0.4, 2.0, 5.0])
    exact = two_layer(w1, w2, target, times, decay)
    u, r, v = orthogonal(1, o), orthogonal(2, h), orthogonal(3, i)
    turned = two_layer(r @ w1 @ v, u @ w2 @ r.T, u @ target @ v, times, decay)
    np.testing.assert_allclose(turned, u @ exact @ v, rtol=0, atol=1e-12)
    # the two layers change places under transposition, and λ its sign
    swapped = two_layer(w2.T, w1.T, target.T, times, decay)
    np.testing.assert_allclose(swapped.mT, exact, rtol=0, atol=1e-12)
    # θ → √c θ, Σ → cΣ, γ → cγ runs c times as fast
    c = 3.7
    scaled = two_layer(c**0.5 * w1, c**0.5 * w2, c * target, times / c, c * decay)
    np.testing.assert_allclose(scaled, c * exact, rtol=0, atol=1e-12 * c)


# ---- saddles -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 20])
@pytest.mark.parametrize("seed", range(6))
def test_the_sign_of_the_determinant_decides(n, seed):
    w1, w2, target = problem((n, n, n), seed=seed)
    s = np.linalg.svd(target, compute_uv=False)
    rest = exact_linear.resting_point(w1, w2, target)
    blocked = np.prod([np.linalg.slogdet(x)[0] for x in (w1, w2, target)]) < 0
    assert rest.is_minimum == (not blocked)
    if blocked:
        np.testing.assert_allclose(rest.missed, s[-1:], rtol=1e-14)
        assert rest.loss == pytest.approx(0.5 * s[-1] ** 2, rel=1e-12)
        # exact for ever, where an integrator is carried off by rounding at 31 to 35/s_min
        approach = min(s[-1], s[-2] - s[-1]) if n > 1 else s[-1]
        late = two_layer(w1, w2, target, [60.0 / approach, 1e6 / approach])
        assert np.max(np.abs(late - rest.product)) < 1e-10


def test_gflow_rests_at_the_saddle_within_the_window():
    """L = ½s² between 10/s and 20/s: before, other modes move; later rounding takes over."""
    w1, w2, target = problem((2, 2, 2), seed=0)
    target = target * [-1, 1] if np.linalg.det(w2 @ w1) * np.linalg.det(target) > 0 else target
    s = np.linalg.svd(target, compute_uv=False)[-1]
    run = simulated((w1, w2), target, 20.0 / s)
    window = run.t > 10.0 / s
    # the blocked mode decays as e^{−2st}, while errors of 1e-12 in its factors grow as e^{st}
    np.testing.assert_allclose(run.loss[window], 0.5 * s**2, rtol=1e-6)
    early = run.t < 15.0 / s
    exact = two_layer(w1, w2, target, run.t[early])
    gap = np.abs(run.observables["product"][early] - exact)
    assert np.max(gap) < 1e-9 * np.max(np.abs(exact))


def test_missing_modes_are_named():
    target = np.diag([3.0, 2.0, 1.0])
    start = np.diag([0.0, 0.1, 0.1])  # no component along the strongest mode
    rest = exact_linear.resting_point(start, start, target)
    np.testing.assert_allclose(rest.product, np.diag([0.0, 2.0, 1.0]), atol=1e-14)
    np.testing.assert_allclose(rest.missed, [3.0])
    assert rest.rank == 2
    narrow = np.array([[0.0, 0.1, 0.0]])
    rest = exact_linear.resting_point(narrow, narrow.T, target)
    np.testing.assert_allclose(rest.missed, [3.0])
    zero = np.zeros((3, 3))
    np.testing.assert_allclose(exact_linear.resting_point(zero, zero, target).missed, [3, 2, 1])
    np.testing.assert_array_equal(two_layer(zero, zero, target, [1.0, 1e3, np.inf]), 0.0)


def test_tiny_components_that_are_meant_are_kept():
    """A mode 1e-30 beside one of 0.1 in the same basis: learned at its own time."""
    target, c = np.diag([1.0, 2.0]), np.diag([1e-30, 0.1])
    half = exact_linear.mode_time(1e-60, 0.5, 1.0)
    found = two_layer(c, c, target, [half, np.inf])
    np.testing.assert_allclose(found[0], np.diag([0.5, 2.0]), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found[1], target, rtol=0, atol=1e-14)


# ---- spectrum and rates ------------------------------------------------------------------


@pytest.mark.parametrize(("sizes", "balance", "decay"), CASES)
def test_spectrum_is_that_of_the_dense_matrix(sizes, balance, decay):
    i, _, o = sizes
    target = np.random.default_rng(9).standard_normal((o, i))
    rates, basis = riccati.coupled_spectrum(target, balance, decay)
    dense = np.block([[-balance / 2 * np.eye(i), target.T], [target, balance / 2 * np.eye(o)]])
    dense -= decay * np.eye(i + o)
    np.testing.assert_allclose(np.sort(rates), np.linalg.eigvalsh(dense), atol=1e-13)
    np.testing.assert_allclose((basis * rates) @ basis.T, dense, atol=1e-13)
    np.testing.assert_allclose(basis.T @ basis, np.eye(i + o), atol=1e-13)


@pytest.mark.parametrize("balance", [0.0, 0.9, -2.0])
def test_modes_arrive_at_sqrt_of_4s2_plus_balance2(balance):
    """Late slope of the weakest mode: of the flow by SciPy, and of the closed form."""
    target = np.diag([1.0, 0.4])
    w1, w2 = balanced_start((2, 2, 2), balance=balance, scale=0.5, key=jax.random.key(1))
    w1, w2 = (w1, w2) if np.linalg.det(w2 @ w1) > 0 else (w1 * [1, -1], w2)
    times = np.array([0.0, 9.0, 10.0])
    gaps = [abs(target - b @ a)[1, 1] for a, b in flow([w1, w2], target, times)]
    rate = math.sqrt(4 * 0.4**2 + balance**2)
    assert math.log(gaps[1] / gaps[2]) == pytest.approx(rate, rel=1e-2)
    late = np.abs(target - two_layer(w1, w2, target, times[1:]))[:, 1, 1]
    assert np.log(late[0] / late[1]) == pytest.approx(rate, rel=1e-3)


def test_large_balance_is_lazy():
    w1, w2, target = problem((3, 3, 3), 2000.0, seed=2)
    times = np.linspace(0.0, 2e-3, 9)
    lazy = target + (w2 @ w1 - target) * np.exp(-2000.0 * times)[:, None, None]
    gap = np.max(np.abs(two_layer(w1, w2, target, times) - lazy))
    assert gap < 1e-3 * np.max(np.abs(w2 @ w1 - target))


# ---- starts ------------------------------------------------------------------------------


@pytest.mark.parametrize(("sizes", "balance", "decay"), CASES)
def test_balanced_starts(sizes, balance, decay):
    w1, w2 = balanced_start(sizes, balance=balance, scale=0.3, key=jax.random.key(5))
    i, h, o = sizes
    assert (w1.shape, w2.shape) == ((h, i), (o, h))
    np.testing.assert_allclose(w2.T @ w2 - w1 @ w1.T, balance * np.eye(h), atol=1e-13)
    other = balanced_start(sizes, balance=balance, scale=0.3, key=jax.random.key(6))
    assert np.max(np.abs(other[0] - w1)) > 0.05


# ---- errors ------------------------------------------------------------------------------

A, B, S = np.eye(2), np.eye(2), np.diag([2.0, 1.0])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((np.ones((2, 3)), np.ones((2, 4)), np.ones((2, 3)), 1.0), r"\(2, 3\).*\(2, 4\)"),
        ((A, B, np.ones((3, 2)), 1.0), r"target \(3, 2\)"),
        ((A, B, S * np.nan, 1.0), "target contains NaN"),
        ((A, B + np.inf, S, 1.0), "w2 contains NaN or infinite"),
        ((A, B, S, [1.0, -0.5]), "t contains -0.5"),
        ((A, B, S, np.nan), "t contains nan"),
        ((A.astype(np.float32), B, S, 1.0), "w1 is float32.*jax_enable_x64"),
        ((A, B, jnp.asarray(S, jnp.bfloat16), 1.0), "target is bfloat16"),
        ((A, B, S * 1j, 1.0), "complex128"),
        ((A, np.diag([2.0, 1.0]), S, 1.0), r"‖G − λI‖ = 2.12.*gflow.simulate"),
        ((A, 2 * B, S, 1.0, 0.1), "λ = 3 and decay = 0.1"),
        ((A, B, S, 1.0, -0.1), "decay = -0.1"),
    ],
)
def test_errors_say_what_to_do(arguments, says):
    with pytest.raises(ValueError, match=says):
        two_layer(*arguments)


# ---- the model ---------------------------------------------------------------------------


def test_deep_linear_is_a_product():
    rng = np.random.default_rng(14)
    shapes = [(2, 5), (4, 2), (4, 4), (3, 4)]
    weights = [rng.standard_normal(shape) for shape in shapes]
    model = gflow.models.DeepLinear(weights)
    np.testing.assert_allclose(model.product, np.linalg.multi_dot(weights[::-1]), rtol=1e-13)
    x = rng.standard_normal(5)
    np.testing.assert_allclose(model(jnp.asarray(x)), model.product @ x, rtol=1e-12)
    frozen = gflow.models.DeepLinear([gflow.Frozen(jnp.asarray(weights[0])), *weights[1:]])
    np.testing.assert_allclose(frozen.product, model.product, rtol=1e-15)
    with pytest.raises(ValueError, match=r"Weight 1 .*\(2, 5\) and weight 2 has \(3, 4\)"):
        gflow.models.DeepLinear([weights[0], weights[3]])
    with pytest.raises(ValueError, match=r"\(5,\): not a matrix"):
        gflow.models.DeepLinear([x])
    with pytest.raises(ValueError, match="at least one matrix"):
        gflow.models.DeepLinear([])


@pytest.mark.slow
def test_the_experiment_reproduces_in_fast_mode(tmp_path):
    assert cli.main(["reproduce", "exact-linear", "--fast", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "exact-linear"
    report = json.loads((folder / "report.json").read_text())
    assert report["passed"]
    keys = [row["quantity"] for row in report["rows"]]
    # the curve and the end of each of the nine runs that the prediction is compared with
    for claim in ("W2-W1", "loss", "rank-at-rest", "loss-at-rest"):
        found = [
            key for key in keys if key.startswith(("balanced", "lazy")) and key.endswith(claim)
        ]
        assert len(found) == 9, claim
    for row in report["rows"]:  # the solver's own error bars hold
        if row["error_bar"] > 0:
            off = abs(row["measured"] - row["predicted"])
            assert off <= row["error_bar"] + row["tolerance"], row["quantity"]
    for name in ("hierarchy", "balances", "random_networks", "lazy_to_rich"):
        assert (folder / f"{name}.png").stat().st_size > 20_000
        assert (folder / f"{name}.pdf").exists()
