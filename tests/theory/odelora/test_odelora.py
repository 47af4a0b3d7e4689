"""ODELoRA's closed forms against its differential equation, integrated by SciPy."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from theory import exact_linear, odelora

TARGET = np.array([[2, 0.3, 0, 0.1], [-0.4, 1.5, 0.2, 0], [0.1, 0.2, -1, 0.3]])
U, V = np.array([1.0, 2.0, -1.0]), np.array([1.0, -1.0, 1.0, 2.0])
OPTIONS = dict(method="DOP853", rtol=1e-12, atol=1e-15)


def on_tangent_space(w, gradient, rank):
    """−(P_B 𝒢 + 𝒢 P_A − P_B 𝒢 P_A), with the projections from the singular vectors of W."""
    u, _, vt = np.linalg.svd(w)
    p, q = u[:, :rank] @ u[:, :rank].T, vt[:rank].T @ vt[:rank]
    return -(p @ gradient + gradient @ q - p @ gradient @ q)


def matrix_flow(start, target, rank, t):
    def field(_, y):
        w = y.reshape(start.shape)
        return on_tangent_space(w, w - target, rank).ravel()

    found = solve_ivp(field, (0.0, t), start.ravel(), **OPTIONS)
    return found.y[:, -1].reshape(start.shape)


def factor_velocity(b, a, gradient):
    """(B', A') of the balanced tangent flow, by the pseudoinverses and a Sylvester equation."""
    c = b.T @ b
    inverse = np.linalg.inv(c)
    p, q = b @ inverse @ b.T, a.T @ inverse @ a
    sigma = inverse @ b.T @ gradient @ a.T @ inverse
    delta = sigma - sigma.T
    r = len(c)
    eye = np.eye(r)
    both = np.kron(c, eye) + np.kron(eye, c.T)
    z = np.linalg.solve(both, 0.25 * (c @ delta - delta @ c).ravel()).reshape(r, r)
    down = -(np.eye(len(b)) - p) @ gradient @ a.T @ inverse + b @ (-0.5 * sigma + z)
    along = -inverse @ b.T @ gradient @ (np.eye(a.shape[1]) - q) + (-0.5 * sigma - z) @ a
    return down, along


@pytest.mark.parametrize("t", [0.1, 0.7, 2.5])
def test_aligned_modes_all_climb_at_rate_one(t):
    targets, starts = np.array([4.0, 1.0, 0.25]), np.array([1e-3, 3e-3, 2e-3])
    left, right = (np.linalg.qr(np.random.default_rng(k).normal(size=(3, 3)))[0] for k in (0, 1))
    target, start = (left @ np.diag(x) @ right.T for x in (targets, starts))
    modes = left.T @ matrix_flow(start, target, 3, t) @ right
    found = odelora.aligned(targets, starts, t)
    np.testing.assert_allclose(modes, np.diag(found), rtol=0, atol=3e-11)


def test_axes_of_time_come_first():
    assert odelora.aligned(2.0, 0.1, 1.0).shape == ()
    assert odelora.aligned(2.0, 0.1, [1.0, 2.0]).shape == (2,)
    assert odelora.aligned([2.0, 1.0, 0.5], 0.1, np.zeros((4, 2))).shape == (4, 2, 3)


def test_half_times_beside_those_of_lora():
    targets = np.array([4.0, 1.0, 0.25])
    times = odelora.half_times(targets, 1e-3)
    np.testing.assert_allclose(times, [0.69289715, 0.69214668, 0.68913916], atol=5e-9)
    np.testing.assert_allclose(
        np.diagonal(odelora.aligned(targets, 1e-3, times)), 0.5 * targets, rtol=1e-14
    )
    lora = exact_linear.mode_time(1e-3, 0.5 * targets, targets)
    np.testing.assert_allclose(lora, [1.03672495, 3.45337739, 11.03490579], atol=5e-9)
    with pytest.raises(ValueError, match="does not pass it"):
        odelora.half_times(1.0, 0.6)


@pytest.mark.parametrize("size", [1e-2, 0.3])
@pytest.mark.parametrize("t", [0.05, 1.0, 3.0])
def test_rank_one_under_any_target(size, t):
    unit = np.outer(U / np.linalg.norm(U), V / np.linalg.norm(V))
    found = odelora.rank_one(TARGET, U, 3.0 * V, size, t)
    w = matrix_flow(size * unit, TARGET, 1, t)
    np.testing.assert_allclose(found.weight, w, rtol=0, atol=1e-10)
    assert found.size == pytest.approx(np.linalg.norm(w), rel=1e-10)


def test_rank_one_has_the_directions_of_the_factor_flow_on_its_own_clock():
    size, t = 1e-2, 1.0
    found = odelora.rank_one(TARGET, U, V, size, [t])
    ends = [np.sqrt(size) * x / np.linalg.norm(x) for x in (U, V)]

    def field(_, y):
        b, a = y[:3], y[3:]
        force = TARGET - np.outer(b, a)
        return np.concatenate([force @ a, force.T @ b])

    lora = solve_ivp(field, (0.0, found.clock[0]), np.concatenate(ends), **OPTIONS).y[:, -1]
    b, a = lora[:3], lora[3:]
    direction = np.outer(b, a) / (np.linalg.norm(b) * np.linalg.norm(a))
    np.testing.assert_allclose(found.weight[0] / found.size[0], direction, atol=1e-10)


def test_rank_one_at_any_scale():
    times = np.array([0.0, 0.5, 20.0])
    found = odelora.rank_one(TARGET, U, V, 1e-100, times)
    left, values, right = np.linalg.svd(TARGET)
    best = values[0] * np.outer(left[:, 0], right[0])
    assert found.size[0] == pytest.approx(1e-100, rel=1e-12)
    # of other directions the share (s₀)^{1 − σ₂/σ₁} is left
    np.testing.assert_allclose(found.weight[1:] / -np.expm1(-times[1:, None, None]), best[None]
                               .repeat(2, 0), atol=1e-12)  # fmt: skip


def test_a_start_that_passes_through_zero_is_refused():
    with pytest.raises(ValueError, match="W reaches zero"):
        odelora.rank_one(np.diag([2.0, 1.0]), [1.0, 0.0], [-1.0, 0.0], 0.1, 3.0)
    early = odelora.rank_one(np.diag([2.0, 1.0]), [1.0, 0.0], [-1.0, 0.0], 0.1, 0.01)
    assert early.size == pytest.approx(-2.0 + 2.1 * np.exp(-0.01), rel=1e-12)


def test_ranks_from_tiny_starts():
    rng = np.random.default_rng(3)
    left, right = rng.normal(size=(3, 2)), rng.normal(size=(2, 4))
    far = []
    for size in (1e-4, 1e-5, 1e-6):
        w = matrix_flow(size * left @ right, TARGET, 2, 0.5)
        far.append(np.linalg.norm(w - odelora.small_start(TARGET, 2, 0.5)))
    values = np.linalg.svd(TARGET)[1]
    slopes = -np.diff(np.log10(far))
    assert slopes[1] == pytest.approx(1.0 - values[2] / values[1], abs=1e-3), (far, slopes)
    with pytest.raises(ValueError, match="which of the two directions"):
        odelora.small_start(np.diag([2.0, 1.0, 1.0]), 2, 0.5)
    with pytest.raises(ValueError, match="rank = 4"):
        odelora.small_start(TARGET, 4, 0.5)


@pytest.mark.parametrize(("target", "start", "step"), [(1.0, 0.2, 0.1), (3.0, 1e-3, 2e-4)])
def test_euler_steps_on_the_factors(target, start, step):
    rng = np.random.default_rng(1)
    u, v = (x / np.linalg.norm(x) for x in (rng.normal(size=4), rng.normal(size=3)))
    b, a = np.sqrt(start) * u[:, None], np.sqrt(start) * v[None]
    found = odelora.euler_mode(target, start, step, 20)
    assert found.shape == (21,)
    for s in found:
        assert float(u @ b @ a @ v) == pytest.approx(s, rel=1e-12)
        down, along = factor_velocity(b, a, b @ a - target * np.outer(u, v))
        b, a = b + step * down, a + step * along


def test_euler_steps_of_several_modes():
    both = odelora.euler_mode([3.0, 1.0], [0.1, 0.2], 0.05, 4)
    assert both.shape == (5, 2)
    np.testing.assert_array_equal(both[:, 1], odelora.euler_mode(1.0, 0.2, 0.05, 4))
    np.testing.assert_array_equal(both[0], [0.1, 0.2])


def test_euler_needs_steps_of_the_size_of_the_start():
    start, target = 1e-4, 1.0
    bound = 2.0 * start / target
    small = odelora.euler_mode(target, start, 0.1 * bound, 1)
    large = odelora.euler_mode(target, start, 0.1, 1)
    flow = odelora.aligned(target, start, [0.1 * bound, 0.1])
    assert abs(small[1] / flow[0] - 1.0) < 0.01
    assert large[1] / flow[1] > 200.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: odelora.aligned([1.0], [0.0], 1.0), "at zero the mode is not in BA"),
        (lambda: odelora.aligned([1.0], [0.1], -1.0), "flow times are ≥ 0"),
        (lambda: odelora.rank_one(TARGET, V, V, 0.1, 1.0), r"u has shape \(4,\)"),
        (lambda: odelora.rank_one(TARGET, U, 0.0 * V, 0.1, 1.0), "which is not zero"),
        (lambda: odelora.rank_one(TARGET, U, V, 0.0, 1.0), "size = 0.0"),
        (lambda: odelora.rank_one(TARGET, U, V, 0.1, np.inf), "finite times"),
        (lambda: odelora.rank_one(U, U, V, 0.1, 1.0), "give a matrix"),
        (lambda: odelora.euler_mode(1.0, 0.1, 0.0, 3), "a positive step"),
        (lambda: odelora.euler_mode(1.0, 0.1, 0.1, -1), "count = -1"),
    ],
)
def test_bad_input_is_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
