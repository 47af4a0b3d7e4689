"""Singular values and vectors under a changed target, against the flow of the factors by SciPy."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from theory import post_training

VALUES = np.array([3.0, 2.0, 1.0])
CHANGE = np.array([[0.3, 1.0, -0.5], [0.2, -0.4, 0.7], [0.6, -0.1, 0.5]])


def bases(m, n, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(np.linalg.qr(rng.normal(size=(k, k)))[0] for k in (m, n))


def factor_flow(values, target, u, v, t):
    """W(t) of A' = (M − W)B, B' = (M − W)ᵀA from A = U√s, B = V√s."""
    k = len(values)
    a, b = u[:, :k] * np.sqrt(values), v[:, :k] * np.sqrt(values)
    sizes = a.size

    def field(_, y):
        a, b = y[:sizes].reshape(-1, k), y[sizes:].reshape(-1, k)
        force = target - a @ b.T
        return np.concatenate([(force @ b).ravel(), (force.T @ a).ravel()])

    start = np.concatenate([a.ravel(), b.ravel()])
    y = solve_ivp(field, (0.0, t), start, method="DOP853", rtol=1e-13, atol=1e-15).y[:, -1]
    return y[:sizes].reshape(-1, k) @ y[sizes:].reshape(-1, k).T


def turned(w, u, v, k):
    """Singular values, and what the vectors beside those of the start are, signs aligned."""
    left, values, right = np.linalg.svd(w)
    left, right = u.T @ left, v.T @ right.T
    signs = np.sign(np.diagonal(left)[:k])
    return values[:k], left[:, :k] * signs, right[:, :k] * signs


@pytest.mark.parametrize("t", [0.05, 0.4, 3.0])
@pytest.mark.parametrize("factor", [1.2, 0.5])
def test_a_scaled_target_scales_and_turns_nothing(factor, t):
    u, v = bases(4, 3)
    start = u[:, :3] @ np.diag(VALUES) @ v.T
    w = factor_flow(VALUES, factor * start, u, v, t)
    found = post_training.scaled(VALUES, factor, t)
    np.testing.assert_allclose(u.T @ w @ v, np.pad(np.diag(found), ((0, 1), (0, 0))), atol=1e-11)


def test_scaling_is_uniform_at_rest_and_not_on_the_way():
    times = np.array([0.0, 0.05, np.inf])
    shares = post_training.scaled(VALUES, 1.2, times) / VALUES
    np.testing.assert_allclose(shares[0], 1.0, rtol=1e-15)
    np.testing.assert_allclose(
        shares[1], [1.0530608719463, 1.0368733127577, 1.0192086107666], rtol=1e-13
    )
    np.testing.assert_allclose(shares[2], 1.2, rtol=1e-15)
    np.testing.assert_array_equal(post_training.scaled([1.0, 0.0], 2.0, np.inf), [2.0, 0.0])


@pytest.mark.parametrize("shape", [(3, 3), (5, 3), (3, 4)])
@pytest.mark.parametrize("t", [0.1, 0.5, 4.0])
def test_a_small_change_to_second_order(shape, t):
    u, v = bases(*shape)
    rng = np.random.default_rng(5)
    change = CHANGE if shape == (3, 3) else rng.normal(size=shape)
    off = []
    for size in (1e-3, 1e-4):
        target = u[:, :3] @ np.diag(VALUES) @ v[:, :3].T + size * u @ change @ v.T
        values, left, right = turned(factor_flow(VALUES, target, u, v, t), u, v, 3)
        found = post_training.perturbed(VALUES, size * change, t)
        eye = np.eye(max(shape))
        off.append(
            [
                np.max(np.abs(values - VALUES - found.values)),
                np.max(np.abs(left - eye[: shape[0], :3] - found.left[:, :3])),
                np.max(np.abs(right - eye[: shape[1], :3] - found.right[:, :3])),
            ]
        )
        largest = max(np.max(np.abs(x)) for x in found)
        assert largest > 0.05 * size
    slopes = np.log10(np.array(off[0]) / np.array(off[1]))
    assert np.all((slopes > 1.9) & (slopes < 2.1)), (off, slopes)


def test_the_numbers_of_one_rotation():
    found = post_training.perturbed(VALUES, 1e-4 * CHANGE, [0.1, np.inf])
    np.testing.assert_allclose(found.left[:, 0, 1], [-2.0460405694943e-5, -5.2e-5], rtol=1e-13)
    np.testing.assert_allclose(found.right[:, 0, 1], [-2.6755915139541e-5, -6.8e-5], rtol=1e-13)


@pytest.mark.parametrize("t", [0.1, 0.5])
def test_a_target_turned_on_the_left_turns_the_left_alone(t):
    angle = 1e-5
    generator = np.zeros((3, 3))
    generator[1, 0], generator[0, 1] = angle, -angle
    found = post_training.perturbed(VALUES, generator @ np.diag(VALUES), t)
    assert found.left[1, 0] == pytest.approx(angle * -np.expm1(-5.0 * t), rel=1e-12)
    assert abs(found.right[1, 0]) < 1e-12 * angle
    assert found.left[2, 0] == found.left[2, 1] == 0.0


def test_left_and_right_turn_together_for_any_change():
    rng = np.random.default_rng(2)
    s = np.sort(rng.uniform(1.0, 2.0, 6))[::-1]
    e = rng.normal(size=(6, 6))
    found = post_training.perturbed(s, e, 0.7)
    d = e * -np.expm1(-(s[:, None] + s) * 0.7)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.where(np.eye(6) > 0, 0.0, (d - d.T) / (s[:, None] + s))
        together = np.where(np.eye(6) > 0, 0.0, (d + d.T) / (s - s[:, None]))
    np.testing.assert_allclose(found.left - found.right, apart, atol=1e-12)
    np.testing.assert_allclose(found.left + found.right, together, rtol=1e-12)
    np.testing.assert_allclose(found.left, -found.left.T, rtol=1e-12)


def test_the_null_model_is_coordinated():
    for size, least in ((16, 0.7), (64, 0.9)):
        values = np.linalg.svd(np.random.default_rng(1).normal(size=(size, size)))[1]
        found = post_training.null_coordination(values, 20)
        assert found.shape == (20,)
        assert least < np.median(found) < 1.0
    # of far apart singular values it may have any sign
    wide = post_training.null_coordination(10.0 ** -np.arange(6.0), 200)
    assert np.min(wide) < -0.5
    assert abs(np.mean(wide)) < 0.3
    same = post_training.perturbed(VALUES, CHANGE + CHANGE.T, np.inf)
    assert post_training.coordination(same.left, same.right) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: post_training.scaled([-1.0], 2.0, 1.0), "are not negative"),
        (lambda: post_training.scaled([1.0], -2.0, 1.0), "one positive number"),
        (lambda: post_training.scaled([1.0], 2.0, -1.0), "flow times are ≥ 0"),
        (lambda: post_training.perturbed([1.0, 1.0], np.eye(2), 1.0), "have a tie"),
        (lambda: post_training.perturbed([2.0, 1.0], np.eye(3), 1.0), r"k = min\(m, n\)"),
        (lambda: post_training.coordination(np.eye(2)[0], np.eye(2)), "give square matrices"),
    ],
)
def test_bad_input_is_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
