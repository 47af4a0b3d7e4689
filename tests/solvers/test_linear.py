"""The linear algebra of implicit steps: systems of any scaling, alone and in batches."""

import functools
import math

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gflow.solvers import Rodas5P
from gflow.solvers._linear import INVERTED, eliminated, factorised, inverse_without_pivots

LOG10 = math.log(10.0)
EPS = np.finfo(float).eps


def numbers(*values):
    return tuple(jnp.asarray(x, float) for x in values)


def definite(rng, n):
    """A symmetric matrix with eigenvalues between 1 and 100, and its inverse."""
    basis, _ = np.linalg.qr(rng.standard_normal((n, n)))
    eigenvalues = np.geomspace(1.0, 100.0, n)
    return (basis * eigenvalues) @ basis.T, (basis / eigenvalues) @ basis.T


def scaled_systems(n, count=12):
    """D^{−½} S D^{½} with D from 10⁻¹⁵⁰ to 10³, and the inverses D^{−½} S⁻¹ D^{½}."""
    rng = np.random.default_rng(n)
    matrices, inverses = [], []
    for _ in range(count):
        S, inverse = definite(rng, n)
        root = 10.0 ** (0.5 * rng.permutation(np.linspace(-150, 3, n)))
        matrices.append(S / root[:, None] * root)
        inverses.append(inverse / root[:, None] * root)
    return np.stack(matrices), np.stack(inverses)


@pytest.mark.parametrize("n", [1, 2, 5, 10, 32])
def test_elimination_inverts_symmetric_matrices_of_any_scaling(n):
    matrices, inverses = scaled_systems(n)
    found = np.asarray(eliminated(jnp.asarray(matrices)))
    assert found.shape == matrices.shape
    # entry by entry, in the scaling of each: the error of S⁻¹ is n·cond·ε of its size
    size = np.abs(inverses).max(axis=(1, 2), keepdims=True) if n == 1 else None
    with np.errstate(divide="ignore"):
        root = np.sqrt(np.abs(matrices / np.swapaxes(matrices, 1, 2)))  # √(D_j/D_i)
    size = root * (1.0 if size is None else size)  # ‖S⁻¹‖ = 1
    assert np.all(np.abs(found - inverses) <= 100 * n * EPS * 10 * size)


@pytest.mark.parametrize("n", [3, 10])
def test_elimination_agrees_with_numpy_on_the_matrices_of_a_step(n):
    # I/(hγ) + σHσ·D with D = ½e^{2x}, which is zero for weights below the float range
    rng = np.random.default_rng(n)
    H, _ = definite(rng, n)
    side = rng.choice([-1.0, 1.0], (8, n))
    x = np.where(rng.random((8, n)) < 0.5, rng.uniform(-2, 0.5, (8, n)), -1e4)
    curved = side[:, :, None] * H * side[:, None, :] * (0.5 * np.exp(2 * x))[:, None, :]
    for h in (1e-6, 1.0, 1e6):
        matrices = np.eye(n) / (0.2 * h) + curved
        found = np.asarray(eliminated(jnp.asarray(matrices)))
        expected = np.linalg.inv(matrices)
        room = 1e-11 * np.abs(expected).max(axis=(1, 2), keepdims=True)
        assert np.all(np.abs(found - expected) <= room)


def test_one_singular_member_leaves_the_others_alone():
    matrices, inverses = scaled_systems(4, count=3)
    matrices[1] = np.nan
    found = np.asarray(eliminated(jnp.asarray(matrices)))
    np.testing.assert_allclose(found[[0, 2]], inverses[[0, 2]], rtol=1e-9)
    assert np.all(np.isnan(found[1]))


def solve(matrix, b, pivot):
    return factorised(matrix, pivot)(b)


def systems(n, count=5):
    rng = np.random.default_rng(n + 1)
    matrices = np.stack([definite(rng, n)[0] for _ in range(count)])
    root = np.exp(rng.uniform(-1, 1, (count, n)))
    return matrices / root[:, :, None] * root[:, None, :], rng.standard_normal((count, n)), rng


@pytest.mark.parametrize(
    ("n", "pivot"), [(4, True), (4, False), (INVERTED, False), (INVERTED + 1, False)]
)
def test_systems_are_solved_alone_and_in_batches(n, pivot):
    matrices, b, _ = systems(n)
    expected = np.linalg.solve(matrices, b[..., None])[..., 0]
    batch = jax.vmap(functools.partial(solve, pivot=pivot))(jnp.asarray(matrices), jnp.asarray(b))
    np.testing.assert_allclose(batch, expected, rtol=1e-10, atol=1e-12)
    alone = solve(jnp.asarray(matrices[2]), jnp.asarray(b[2]), pivot)
    np.testing.assert_allclose(alone, expected[2], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("batched", [True, False])
def test_derivatives_of_the_inverse_against_finite_differences(batched):
    matrices, b, rng = systems(4)
    change, weight = rng.standard_normal(matrices.shape), rng.standard_normal(b.shape)
    one = functools.partial(solve, pivot=False)

    @jax.jit
    def f(matrices):
        if batched:
            return jax.vmap(one)(matrices, jnp.asarray(b))
        return jnp.stack([one(m, jnp.asarray(x)) for m, x in zip(matrices, b, strict=True)])

    h = 1e-6
    slope = (np.asarray(f(jnp.asarray(matrices + h * change)))
             - np.asarray(f(jnp.asarray(matrices - h * change)))) / (2 * h)  # fmt: skip
    _, forward = jax.jvp(f, (jnp.asarray(matrices),), (jnp.asarray(change),))
    np.testing.assert_allclose(forward, slope, rtol=1e-6, atol=1e-6 * np.abs(slope).max())
    _, pull = jax.vjp(f, jnp.asarray(matrices))
    (backward,) = pull(jnp.asarray(weight))
    assert np.sum(backward * change) == pytest.approx(np.sum(weight * slope), rel=1e-6)
    # each member's own: the gradient of one does not reach another
    (single,) = pull(jnp.asarray(weight).at[1:].set(0.0))
    assert np.all(np.asarray(single)[1:] == 0.0)
    assert np.any(np.asarray(single)[0] != 0.0)


def test_the_inverse_itself():
    matrices, _, _ = systems(5)
    np.testing.assert_allclose(
        jax.vmap(inverse_without_pivots)(jnp.asarray(matrices)) @ matrices,
        np.broadcast_to(np.eye(5), matrices.shape), atol=1e-12,
    )  # fmt: skip


def plateau(t, x, args):
    """log coordinates x of θ = σe^{2x}/4 under the force r − Hθ."""
    H, target, side = args
    return side * (target - H @ (side * 0.25 * jnp.exp(2.0 * x)))


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, None, 0, None, 0, 0))
def plateau_steps(pivot, h, x, *args):
    term, zero = diffrax.ODETerm(plateau), jnp.zeros_like(h)
    return Rodas5P(pivot=pivot).step(term, zero, h, x, args, None, False)[:2]


@pytest.mark.parametrize("h", [1e-3, 0.3, 1.0])
def test_steps_with_and_without_pivots_are_the_same(h):
    rng = np.random.default_rng(8)
    n, count = 8, 16
    H = jnp.asarray(definite(rng, n)[0] / 100)
    side = jnp.asarray(rng.choice([-1.0, 1.0], (count, n)))
    target = jnp.asarray(rng.uniform(-1, 1, (count, n)))
    dormant = rng.random((count, n)) < 0.5
    x = jnp.asarray(
        np.where(dormant, rng.uniform(-1e4, -5, (count, n)), rng.uniform(-1, 0.5, (count, n)))
    )

    (end, error), (other, other_error) = (
        plateau_steps(pivot, jnp.array(h), x, H, target, side) for pivot in (True, False)
    )
    assert np.all(np.isfinite(end))
    assert np.max(np.abs(end - x)) > 0.1 * h  # it moved
    np.testing.assert_allclose(other, end, rtol=1e-13, atol=1e-12)
    np.testing.assert_allclose(other_error, error, rtol=1e-9, atol=1e-12)
