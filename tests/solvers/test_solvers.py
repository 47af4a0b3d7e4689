"""Rodas5P against exact solutions, published stiff references and Kvaerno5."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gflow.solvers import Rodas5P


def spiral(t, y, args):
    """r' = r(1 − r²), θ' = 1 in Cartesian coordinates."""
    rate = 1.0 - jnp.sum(y**2)
    return rate * y + jnp.stack([-y[1], y[0]])


def spiral_exact(t):
    r = 1 / jnp.sqrt(1 + 3 * jnp.exp(-2 * t))  # from r = ½
    return jnp.stack([r * jnp.cos(t), r * jnp.sin(t)], axis=-1)


def driven(t, y, args):
    """Time enters both rates: y = (1/(1 + t²), e^{sin t}·(1 + t²))."""
    return jnp.stack([-2.0 * t * y[0] ** 2, y[1] * (jnp.cos(t) + 2.0 * t * y[0])])


def driven_exact(t):
    return jnp.stack([1 / (1 + t**2), jnp.exp(jnp.sin(t)) * (1 + t**2)], axis=-1)


PROBLEMS = {
    "autonomous": (spiral, spiral_exact),
    "non-autonomous": (driven, driven_exact),
}
GRID = jnp.linspace(0.0, 2.0, 41)


@functools.cache
def errors(name):
    """Largest error at t = 2 and on a fixed grid, for steps of 1/8, 1/16, …"""
    field, exact = PROBLEMS[name]

    @jax.jit
    def solve(dt):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            Rodas5P(),
            0.0,
            2.0,
            dt,
            exact(jnp.array(0.0)),
            stepsize_controller=diffrax.ConstantStepSize(),
            saveat=diffrax.SaveAt(ts=GRID),
            max_steps=256,
        ).ys

    found = np.stack([solve(dt) for dt in 2.0 ** -np.arange(3.0, 7.0)])
    return np.max(np.abs(found - np.asarray(exact(GRID))), axis=-1)


@pytest.mark.parametrize("name", PROBLEMS)
def test_order_five(name):
    order = np.log2(errors(name)[:-1, -1] / errors(name)[1:, -1])
    assert order[-1] == pytest.approx(5.0, abs=0.2)
    assert Rodas5P().order(None) == 5


@pytest.mark.parametrize("name", PROBLEMS)
def test_dense_output_of_order_four(name):
    # the grid is not the steps': most of its points lie inside one
    worst = np.max(errors(name), axis=1)
    assert np.all(np.log2(worst[:-1] / worst[1:]) > 3.8)
    assert worst[-1] < 1e-7


def test_the_error_estimate_is_of_order_four():
    # one step: the embedded solution differs by O(h⁵)
    found = []
    for h in (1 / 64, 1 / 128, 1 / 256):
        _, error, *_ = Rodas5P().step(
            diffrax.ODETerm(driven), jnp.array(0.3), jnp.array(0.3 + h),
            driven_exact(jnp.array(0.3)), None, None, made_jump=False,
        )  # fmt: skip
        found.append(float(jnp.max(jnp.abs(error))))
    np.testing.assert_allclose(np.log2(np.divide(found[:-1], found[1:])), 5.0, atol=0.3)


def solve(field, y0, t1, *, rtol=1e-8, atol=1e-8, dt0=None, solver=None, args=None, steps=4096):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        Rodas5P() if solver is None else solver,
        0.0,
        t1,
        dt0,
        y0,
        args=args,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=steps,
    )


# Stiff problems, with the reference values of the IVP Test Set (Mazzia & Magherini 2008)


def van_der_pol(t, y, args):
    return jnp.stack([y[1], ((1.0 - y[0] ** 2) * y[1] - y[0]) / 1e-6])


def robertson(t, y, args):
    slow, fast, square = 0.04 * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
    return jnp.stack([fast - slow, slow - fast - square, square])


def test_van_der_pol():
    solution = solve(van_der_pol, jnp.array([2.0, 0.0]), 2.0, rtol=1e-9, atol=1e-9)
    expected = [1.706167732170483, -0.8928097010247975]
    np.testing.assert_allclose(solution.ys[-1], expected, rtol=1e-7)


def test_robertson_to_ten_to_the_eleven():
    solution = solve(robertson, jnp.array([1.0, 0.0, 0.0]), 1e11, rtol=1e-8, atol=1e-16)
    expected = [0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050]
    np.testing.assert_allclose(solution.ys[-1], expected, rtol=1e-6)


def test_agrees_with_kvaerno5():
    y0, t1 = jnp.array([1.0, 0.0, 0.0]), 40.0
    ours = solve(robertson, y0, t1, rtol=1e-9, atol=1e-13)
    theirs = solve(robertson, y0, t1, rtol=1e-9, atol=1e-13, solver=diffrax.Kvaerno5())
    np.testing.assert_allclose(ours.ys[-1], theirs.ys[-1], rtol=1e-7)


def prothero_robinson(t, y, rate):
    """y' = λ(cos t − y) − sin t, y = cos t."""
    return rate * (jnp.cos(t) - y) - jnp.sin(t)


@pytest.mark.parametrize("rate", [1e2, 1e6, 1e10])
def test_a_stiff_component_follows_its_slow_manifold(rate):
    solution = solve(prothero_robinson, jnp.array(1.0), 5.0, args=jnp.asarray(rate))
    assert float(solution.ys[-1]) == pytest.approx(np.cos(5.0), abs=1e-7)
    assert solution.stats["num_steps"] < 200


# Steps that leave the domain


def parabola(t, y, bad):
    """y = (√y₀ − t/2)², and `bad` below 0."""
    return jnp.where(y < 0, bad, -jnp.sqrt(jnp.abs(y)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_step_with_anything_not_finite_returns_its_start(bad):
    y0, bad = jnp.array([1.0, 4.0]), jnp.asarray(bad)
    y1, error, _, _, result = Rodas5P().step(
        diffrax.ODETerm(parabola), jnp.array(0.0), jnp.array(50.0), y0, bad, None, made_jump=False
    )
    np.testing.assert_array_equal(y1, y0)
    assert np.all(np.isnan(error))
    assert result == diffrax.RESULTS.successful  # rejected, not failed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_steps_that_leave_the_domain_are_rejected(bad):
    solution = solve(parabola, jnp.array(1.0), 1.9, dt0=1.9, args=jnp.asarray(bad))
    assert float(solution.ys[-1]) == pytest.approx(0.05**2, abs=1e-7)
    assert solution.stats["num_rejected_steps"] > 0


# Structure and transformations


def test_the_state_may_be_any_pytree():
    def field(t, y, args):
        rates = spiral(t, jnp.stack([y["a"], y["b"][0]]), None)
        return {"a": rates[0], "b": rates[1:]}

    start = spiral_exact(jnp.array(0.0))
    tree = solve(field, {"a": start[0], "b": start[1:]}, 1.0).ys
    flat = solve(spiral, start, 1.0).ys
    assert tree["b"].shape == (1, 1)
    np.testing.assert_allclose(tree["a"], flat[:, 0], rtol=1e-13)
    np.testing.assert_allclose(tree["b"], flat[:, 1:], rtol=1e-13)


def decay(t, y, k):
    return -k * y**2


def test_a_batch_is_its_members():
    # y = y₀/(1 + k y₀ t); the members differ by 10⁶ in speed
    rates = jnp.array([1e-3, 1.0, 1e3])

    @jax.jit
    def end(k):
        return solve(decay, jnp.array(1.0), 1.0, args=k, atol=1e-12).ys[-1]

    batch = jax.vmap(end)(rates)
    np.testing.assert_allclose(batch, 1 / (1 + rates), rtol=1e-7)
    np.testing.assert_allclose(batch, [end(k) for k in rates], rtol=1e-12)


def test_a_failing_member_leaves_the_others_alone():
    def end(y0):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(parabola),
            Rodas5P(),
            0.0,
            1.9,
            None,
            y0,
            args=jnp.array(jnp.nan),
            stepsize_controller=diffrax.PIDController(rtol=1e-8, atol=1e-8),
            max_steps=64,
            throw=False,
        )

    # y₀ = ¼ reaches 0 at t = 1 and has nowhere to go
    solutions = jax.vmap(end)(jnp.array([1.0, 0.25]))
    assert float(solutions.ys[0, -1]) == pytest.approx(0.05**2, abs=1e-7)
    stuck = np.asarray(solutions.result == diffrax.RESULTS.max_steps_reached)
    np.testing.assert_array_equal(stuck, [False, True])


def test_gradients_through_the_solve():
    def end(y0, k):
        return solve(decay, y0, 2.0, args=k, rtol=1e-10, atol=1e-10, steps=256).ys[-1]

    y0, k = jnp.array(1.5), jnp.array(0.7)
    by_start, by_rate = jax.jit(jax.grad(end, argnums=(0, 1)))(y0, k)
    whole = (1 + k * y0 * 2) ** 2
    assert float(by_start) == pytest.approx(float(1 / whole), rel=1e-7)
    assert float(by_rate) == pytest.approx(float(-2 * y0**2 / whole), rel=1e-7)
    slope = (end(y0, k + 1e-4) - end(y0, k - 1e-4)) / 2e-4
    assert float(by_rate) == pytest.approx(float(slope), rel=1e-6)


def test_one_compilation_serves_every_tolerance_and_end():
    traced = []

    @jax.jit
    def end(t1, tolerance):
        traced.append(1)
        return solve(decay, jnp.array(1.0), t1, args=1.0, rtol=tolerance, atol=tolerance).ys[-1]

    for t1, tolerance in [(1.0, 1e-6), (3.0, 1e-9)]:
        assert float(end(jnp.asarray(t1), jnp.asarray(tolerance))) == pytest.approx(
            1 / (1 + t1), rel=1e2 * tolerance
        )
    assert len(traced) == 1


def test_float32_states_stay_float32():
    with jax.enable_x64(False):
        solution = solve(decay, jnp.array(1.0), 1.0, args=jnp.array(1.0), rtol=1e-4, atol=1e-4)
        assert solution.ys.dtype == jnp.float32
        assert float(solution.ys[-1]) == pytest.approx(0.5, abs=1e-4)


def test_it_advances_in_a_scan():
    # no state of its own: steps can be taken one by one
    def body(y, t):
        end, *_ = Rodas5P().step(
            diffrax.ODETerm(spiral), t, t + 0.05, y, None, None, made_jump=False
        )
        return end, None

    y, _ = lax.scan(body, spiral_exact(jnp.array(0.0)), 0.05 * jnp.arange(20.0))
    np.testing.assert_allclose(y, spiral_exact(jnp.array(1.0)), rtol=1e-8)


@pytest.mark.parametrize("name", PROBLEMS)
def test_backwards_in_time(name):
    field, exact = PROBLEMS[name]
    start = exact(jnp.array(2.0))
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field), Rodas5P(), 2.0, 0.0, -0.01, start, max_steps=4096,
        stepsize_controller=diffrax.PIDController(rtol=1e-9, atol=1e-9),
    )  # fmt: skip
    np.testing.assert_allclose(solution.ys[-1], exact(jnp.array(0.0)), rtol=0, atol=1e-7)
