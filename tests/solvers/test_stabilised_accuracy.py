"""RKC2 and ROCK4: order, accuracy and cost against exact solutions, Tsit5 and Dopri8."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stabilised_methods import METHODS, adaptive, driven, driven_exact, methods


def spiral(t, y, args):
    """r' = r(1 − r²), θ' = 1 in Cartesian coordinates."""
    return (1.0 - jnp.sum(y**2)) * y + jnp.stack([-y[1], y[0]])


def spiral_exact(t):
    r = 1 / np.sqrt(1 + 3 * np.exp(-2 * t))  # from r = ½
    return np.stack([r * np.cos(t), r * np.sin(t)], axis=-1)


RATES = jnp.array([-1.0, 0.5, 3.0])


def linear(t, y, args):
    return -RATES * y


def linear_exact(t):
    return np.exp(-np.multiply.outer(t, np.asarray(RATES)))


PROBLEMS = {
    "nonlinear": (spiral, spiral_exact),
    "non-autonomous": (driven, driven_exact),
    "linear": (linear, linear_exact),
}


# Order of convergence


@pytest.mark.parametrize("problem", PROBLEMS)
@methods
def test_order_at_several_stage_numbers(name, problem):
    field, exact = PROBLEMS[problem]
    solver = METHODS[name]()

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def end(n, stages):
        h = 2.0 / n.astype(float)

        def step(i, y):
            t = h * i.astype(float)
            here = functools.partial(shifted, t)
            return solver.advance(here, y, here(0.0, y), h, stages)[0]

        def shifted(t, c, y):
            return field(t + c * h, y, None)

        return jax.lax.fori_loop(jnp.zeros_like(n), n, step, jnp.asarray(exact(0.0)))

    stages = jnp.array([2, 3, 7, 40, 200] if name == "RKC2" else [5, 6, 17, 57, 152], jnp.int32)
    found = [end(jnp.array(n), stages) for n in (128, 256)]
    error = np.max(np.abs(np.stack(found) - exact(2.0)), axis=-1)
    np.testing.assert_allclose(np.log2(error[0] / error[1]), solver.order(None), atol=0.2)


@functools.cache
def errors(name):
    """Largest error of the driven problem at t = 2 and on a grid, for steps of 1/8, …, 1/64."""
    grid = jnp.linspace(0.0, 2.0, 41)

    @jax.jit
    def solve(dt):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(driven),
            METHODS[name](),
            0.0,
            2.0,
            dt,
            jnp.asarray(driven_exact(0.0)),
            stepsize_controller=diffrax.ConstantStepSize(),
            saveat=diffrax.SaveAt(ts=grid),
            max_steps=256,
        ).ys

    found = np.stack([solve(dt) for dt in 2.0 ** -np.arange(3.0, 7.0)])
    return np.max(np.abs(found - driven_exact(np.asarray(grid))), axis=-1)


@methods
def test_order_and_dense_output_through_diffrax(name):
    order = METHODS[name]().order(None)
    orders = np.log2(errors(name)[:-1, -1] / errors(name)[1:, -1])
    assert orders[-1] == pytest.approx(order, abs=0.2)
    # the grid is not the steps': most of its points lie inside one
    worst = np.max(errors(name), axis=1)
    assert np.all(np.log2(worst[:-1] / worst[1:]) > order - 0.3)


# Accuracy and cost


def well(y):
    """Fourteen weights under stiff quadratics, coupled by a quartic with a saddle at 0."""
    rates = jnp.geomspace(1.0, 1e3, 14)
    return 0.5 * jnp.sum(rates * y**2) + 0.25 * jnp.sum(y**2) ** 2 - 2.0 * y[0] ** 2 + y[0] * y[-1]


def valley(t, y, args):
    return -jax.grad(well)(y)


@methods
def test_agrees_with_dopri8_on_a_nonlinear_gradient_flow(name):
    # from near the saddle: one positive eigenvalue, then a minimum at sharpness 10³
    y0 = jnp.full(14, 0.01).at[0].set(1e-3)

    @jax.jit
    def end(rtol):
        return adaptive(valley, METHODS[name](), y0, 2.0, rtol, atol=1e-3 * rtol).ys[0]

    reference = valley_end()
    assert abs(reference[0]) > 0.1  # it left
    for rtol in (1e-4, 1e-7):
        # local errors are below rtol, global ones follow as its power p/(p + 1)
        order = METHODS[name]().order(None)
        bound = 5 * rtol ** (order / (order + 1))
        np.testing.assert_allclose(end(rtol), reference, rtol=bound, atol=rtol)


@functools.cache
def valley_end():
    y0 = jnp.full(14, 0.01).at[0].set(1e-3)
    return jax.jit(lambda: adaptive(valley, diffrax.Dopri8(), y0, 2.0, 1e-11).ys[0])()


POINTS = 200


def heat(t, y, args):
    """u_t = u_xx, with eigenvalues −4(n + 1)² sin²(kπ/2(n + 1))."""
    padded = jnp.pad(y, 1)
    return (padded[2:] - 2.0 * y + padded[:-2]) * (POINTS + 1.0) ** 2


def start_of_heat():
    x = np.arange(1, POINTS + 1) / (POINTS + 1)
    return np.where(x < 0.3, 1.0, 0.0)


def heat_exact(t):
    k = np.arange(1, POINTS + 1)
    rates = 4 * (POINTS + 1) ** 2 * np.sin(k * np.pi / 2 / (POINTS + 1)) ** 2
    modes = np.sin(np.pi * np.outer(k, k) / (POINTS + 1)) * np.sqrt(2 / (POINTS + 1))
    assert rates[-1] * t > 1e4
    return modes.T @ (np.exp(-t * rates) * (modes @ start_of_heat()))


@functools.cache
def stabilised_heat(name):
    """Errors at t = 1/4 and all evaluations, rejected steps included, at 1e-4 and 1e-8."""
    count = [0]

    def field(t, y, args):
        jax.debug.callback(lambda: count.__setitem__(0, count[0] + 1))
        return heat(t, y, args)

    @jax.jit
    def solve(rtol):
        y0 = jnp.asarray(start_of_heat())
        return adaptive(field, METHODS[name](), y0, 0.25, rtol, atol=1e-2 * rtol).ys[0]

    found = {}
    for rtol in (1e-4, 1e-8):
        count[0] = 0
        error = np.max(np.abs(np.asarray(solve(rtol)) - heat_exact(0.25)))
        jax.effects_barrier()
        # a Jacobian–vector product calls the field once and counts as two
        found[rtol] = error / np.max(heat_exact(0.25)), 2 * count[0]
    return found


@functools.cache
def explicit_heat(solver, evaluations):
    y0 = jnp.asarray(start_of_heat())
    solution = jax.jit(lambda: adaptive(heat, solver, y0, 0.25, 1e-4, atol=1e-6).stats)()
    return evaluations * int(solution["num_steps"])


@methods
def test_heat_takes_a_tenth_of_the_evaluations_of_explicit_methods(name):
    error, evaluations = stabilised_heat(name)[1e-4]
    assert error < 5e-3
    assert 10 * evaluations < explicit_heat(diffrax.Tsit5(), 6)
    assert 10 * evaluations < explicit_heat(diffrax.Dopri8(), 13)


def test_the_higher_order_pays_at_tight_tolerances():
    (error2, evaluations2), (error4, evaluations4) = (stabilised_heat(n)[1e-8] for n in METHODS)
    assert max(error2, error4) < 1e-5
    assert evaluations4 < evaluations2
