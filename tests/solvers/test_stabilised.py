"""RKC2 and ROCK4 against their defining polynomials, exact solutions, Tsit5 and Dopri8."""

import functools

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.solvers._rkc2 import RKC2
from gflow.solvers._rock4 import ROCK4
from gflow.solvers._rock4_coefficients import ROWS, finishing, recurrence
from gflow.solvers._spectral_radius import SpectralRadius
from gflow.solvers._switching import Switching

METHODS = {"RKC2": RKC2, "ROCK4": ROCK4}
NUMBERS = {"RKC2": np.arange(2, 501, dtype=np.int32), "ROCK4": ROWS[:, 0].astype(np.int32)}
methods = pytest.mark.parametrize("name", METHODS)


def spiral(t, y, args):
    """r' = r(1 − r²), θ' = 1 in Cartesian coordinates."""
    return (1.0 - jnp.sum(y**2)) * y + jnp.stack([-y[1], y[0]])


def spiral_exact(t):
    r = 1 / np.sqrt(1 + 3 * np.exp(-2 * t))  # from r = ½
    return np.stack([r * np.cos(t), r * np.sin(t)], axis=-1)


def driven(t, y, args):
    """Time enters both rates: y = (1/(1 + t²), e^{sin t}·(1 + t²))."""
    return jnp.stack([-2.0 * t * y[0] ** 2, y[1] * (jnp.cos(t) + 2.0 * t * y[0])])


def driven_exact(t):
    return np.stack([1 / (1 + t**2), np.exp(np.sin(t)) * (1 + t**2)], axis=-1)


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


# The stability polynomials


@functools.cache
def one_step(name):
    """y1 and the error of y' = rates·y from 1 with h = 1 and s stages, as a function of both."""

    @jax.jit
    def run(rates, stages):
        one = jnp.ones_like(rates)
        y1, _, error = METHODS[name]().advance(
            lambda c, y: rates * y, one, rates, jnp.array(1.0), stages
        )
        return y1, error

    return run


@functools.cache
def taylor(name):
    """Coefficients of R and of R − R̂ at 0 for every s, from nilpotent systems y_k' = y_{k−1}."""

    def field(c, y):
        return jnp.concatenate([jnp.zeros(1), y[:-1]])

    def run(stages):
        y0 = jnp.zeros(6).at[0].set(1.0)
        y1, _, error = METHODS[name]().advance(field, y0, field(0.0, y0), jnp.array(1.0), stages)
        return y1, error

    return [np.asarray(x) for x in jax.jit(jax.vmap(run))(jnp.asarray(NUMBERS[name]))]


@methods
def test_stability_polynomials_agree_with_exp_to_the_order(name):
    order = METHODS[name]().order(None)
    factorials = np.array([1, 1, 2, 6, 24, 120])
    polynomial, error = (x * factorials for x in taylor(name))
    np.testing.assert_allclose(polynomial[:, : order + 1], 1.0, atol=1e-11)
    assert np.all(np.abs(polynomial[:, order + 1] - 1) > 1e-2)  # and no further
    # RKC estimates its own error, of order h³; the embedded solution of ROCK4 has order 3
    estimated = METHODS[name]().error_order(None)
    np.testing.assert_allclose(error[:, :estimated], 0.0, atol=1e-11)
    assert np.all(np.abs(error[:, estimated]) > 1e-5)


def test_rkc_has_the_published_error_constant():
    # Sommeijer et al.: y(t + h) − y_{n+1} = (1/15) h³ y''' + … for large s
    polynomial, error = (x[:, 3] for x in taylor("RKC2"))
    assert 1 / 6 - polynomial[-1] == pytest.approx(1 / 15, rel=0.03)
    # (4/5)(y_n − y_{n+1}) + (2h/5)(F_n + F_{n+1})
    np.testing.assert_allclose(error, 0.2 - 0.8 * polynomial, rtol=1e-9)


def test_rkc_evaluates_at_the_published_times():
    # c_j = T'_s T''_j/(T''_s T'_j) ≈ (j² − 1)/(s² − 1), c_1 = c_2/T'_2, at w₀
    s, times = 9, []

    def field(c, y):
        jax.debug.callback(lambda c: times.append(float(c)), c)
        return y

    RKC2().advance(field, jnp.ones(1), jnp.ones(1), jnp.array(1.0), jnp.array(s, jnp.int32))
    jax.effects_barrier()
    polynomials = [np.polynomial.Chebyshev.basis(j) for j in range(2, s + 1)]
    w0 = 1 + 2 / 13 / s**2
    ratio = np.array([T.deriv(2)(w0) / T.deriv(1)(w0) for T in polynomials])
    expected = ratio / ratio[-1]
    first = expected[0] / polynomials[0].deriv(1)(w0)
    np.testing.assert_allclose(np.sort(times), [first, *expected], rtol=1e-11)


def furthest(name, s):
    """The advertised end of the interval of stability."""
    return (
        2 / 3 * (s**2 - 1) * (1 - 4 / 195) if name == "RKC2" else -ROWS[ROWS[:, 0] == s, 1].item()
    )


def interval(end):
    """Points of [−end, 0], denser at both ends."""
    return -end / 2 * (1 - np.cos(np.linspace(0, np.pi, 4001)))


def test_rkc_is_stable_and_damped_for_every_stage_number():
    run = one_step("RKC2")
    for s in NUMBERS["RKC2"]:
        z = interval(furthest("RKC2", int(s)))
        size = np.abs(run(jnp.asarray(z), jnp.asarray(s))[0])
        assert np.max(size) <= 1 + 1e-12
        # 1 − ε/3 to leading order
        assert np.max(size[z < -3], initial=0.0) <= 1 - 2 / 39 + 0.008
    # and no shorter than it could be
    beyond = run(jnp.asarray([-1.06 * furthest("RKC2", 40)]), jnp.array(40, jnp.int32))[0]
    assert np.abs(beyond[0]) > 1


def test_rock4_is_stable_and_damped_for_every_stage_number():
    run = one_step("ROCK4")
    for row in ROWS:
        s, z = int(row[0]), interval(-row[1])
        (mu, kappa), (a, b, _) = recurrence(row), finishing(row)
        before, P = np.ones_like(z), 1 + mu[0] * z
        for m, k in zip(mu[1:], kappa[1:], strict=True):
            before, P = P, P + m * z * P + k * (P - before)
        w = 1 + sum(b @ np.linalg.matrix_power(a, k) @ np.ones(4) * z ** (k + 1) for k in range(4))
        assert np.max(np.abs(w * P)) <= 1
        assert np.max(np.abs(w * P)[z < -3]) <= 0.953
        assert -row[1] > 0.353 * s**2 - 3.1
        # the solver has this polynomial; rounding enters before w multiplies
        found = run(jnp.asarray(z), jnp.asarray(s, jnp.int32))[0]
        assert np.all(np.abs(found - w * P) < 1e-13 * (10 + z**4 / 100))


@methods
def test_the_least_stable_number_of_stages_is_taken(name):
    solver, numbers = METHODS[name](), NUMBERS[name].tolist()
    reach = np.geomspace(0.01, 1.2 * furthest(name, numbers[-1]), 500)
    ends = np.array([furthest(name, s) for s in numbers])
    least = [*numbers, numbers[-1] + 1]
    expected = [least[np.searchsorted(ends, r)] for r in reach]
    np.testing.assert_array_equal(jax.vmap(solver.stages)(jnp.asarray(reach)), expected)
    assert int(METHODS[name](min_stages=17).stages(jnp.array(1.0))) == 17


def tableau(row):
    """Butcher's (A, b, b̂) of ROCK4, with the embedded method's stage last."""
    (mu, kappa), (a, b, b_hat) = recurrence(row), finishing(row)
    m, s = len(mu), len(mu) + 4
    matrix, point, step = np.zeros((s + 1, s + 1)), np.zeros(s + 1), np.zeros(s + 1)
    for j in range(m):
        step = kappa[j] * step + mu[j] * np.eye(s + 1)[j]
        point = point + step
        matrix[j + 1] = point
    for i in range(1, 4):
        matrix[m + i] = point
        matrix[m + i, m:s] += a[i]
    weights, embedded = point.copy(), point.copy()
    weights[m:s] += b
    embedded[m:] += b_hat
    matrix[s] = weights
    return matrix, weights, embedded


def test_rock4_satisfies_butchers_conditions_for_every_stage_number():
    for row in ROWS:
        A, b, b_hat = tableau(row)
        c = A.sum(axis=1)
        trees = [np.ones_like(c), c, c**2, A @ c, c**3, c * (A @ c), A @ c**2, A @ A @ c]
        densities = [1, 2, 3, 6, 4, 8, 12, 24]
        for tree, density in zip(trees, densities, strict=True):
            assert b @ tree == pytest.approx(1 / density, abs=1e-13)
        for tree, density in zip(trees[:4], densities, strict=False):
            assert b_hat @ tree == pytest.approx(1 / density, abs=1e-13)


def test_rock4_has_the_published_recurrence():
    # rock4.f, ten stages: μ₁, then pairs μ_j, κ_j
    published = [
        0.03256098772501858, 0.0392399455084615, 0.006548791582739922, 0.04499511886194148,
        0.03061034821432499, 0.05000269311882022, 0.06157339578289546, 0.05465516336291797,
        0.0957053888197476, 0.06104333020232396, 0.1406290220864037,
    ]  # fmt: skip
    mu, kappa = recurrence(ROWS[NUMBERS["ROCK4"] == 10][0])
    np.testing.assert_allclose(mu, [published[0], *published[1::2]], rtol=1e-12)
    np.testing.assert_allclose(kappa, [0.0, *published[2::2]], rtol=1e-12)


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


def adaptive(
    field, solver, y0, t1, rtol, *, atol=None, args=None, dt0=None, saveat=None, **options
):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        solver,
        0.0,
        t1,
        dt0,
        y0,
        args=args,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol if atol is None else atol),
        saveat=diffrax.SaveAt(t1=True) if saveat is None else saveat,
        max_steps=options.pop("max_steps", None),
        **options,
    )


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


# What is counted and carried


def stepping(solver, field):
    """One step and the start of the state, compiled."""
    term = diffrax.ODETerm(field)

    @eqx.filter_jit
    def step(t0, t1, y0, args, state, jump=False):
        return solver.step(term, t0, t1, y0, args, state, jnp.asarray(jump))

    @eqx.filter_jit
    def init(t0, y0, args):
        return solver.init(term, t0, t0, y0, args)

    return init, step


@methods
def test_evaluations_are_counted(name):
    count = [0]

    def field(t, y, args):
        jax.debug.callback(lambda: count.__setitem__(0, count[0] + 1))
        return -jnp.array([1.0, 100.0]) * y

    init, step = stepping(METHODS[name](), field)
    t, y = jnp.array(0.0), jnp.ones(2)
    state = init(t, y, None)
    products = stages = 0
    for _ in range(45):
        before = state
        y, _, _, state, _ = step(t, t + 0.1, y, None, state)
        t = t + 0.1
        spent = int(state.evaluations - before.evaluations)
        # every evaluation is a stage, or half a product: none is repeated between steps
        assert (spent - int(state.stages)) % 2 == 0
        products += (spent - int(state.stages)) // 2
        stages += int(state.stages)
    jax.effects_barrier()
    assert count[0] == 1 + stages + products
    assert int(state.evaluations) == 1 + stages + 2 * products
    # a first estimate, renewals at the 21st and 41st step, single iterations between them
    every = 20 // int(state.stages)
    assert 20 + 2 * 5 + 42 // (every + 1) < products < 50 + 2 * 20 + 45 // every + 1


@methods
def test_steps_by_hand_may_return_the_state_of_a_rejected_step(name):
    """The state of a step that was not kept belongs to another point: it is not trusted."""
    init, step = stepping(METHODS[name](), driven)
    zero, near, far = jnp.array(0.0), jnp.array(0.1), jnp.array(0.5)
    y0 = jnp.asarray(driven_exact(0.0))
    fresh = init(zero, y0, None)
    stale = step(zero, far, y0, None, fresh)[3]
    once, again = (step(zero, near, y0, None, state) for state in (fresh, stale))
    np.testing.assert_allclose(again[0], once[0], rtol=1e-12)
    np.testing.assert_allclose(again[1], once[1], rtol=1e-9, atol=1e-15)
    assert int(again[3].radius.age) == 0  # renewed
    # nor is the slope of a field that jumps where the step begins
    wrong = eqx.tree_at(lambda state: state.slope, fresh, 2.0 * fresh.slope)
    jumped = step(zero, near, y0, None, wrong, True)
    np.testing.assert_allclose(jumped[0], once[0], rtol=1e-12)
    assert not np.allclose(step(zero, near, y0, None, wrong)[0], once[0], rtol=1e-12)


def test_an_underestimated_radius_is_found_out():
    # ρ = 10⁴ taken for 1, in the direction of the smallest eigenvalue
    rates = jnp.concatenate([jnp.linspace(0.0, 10.0, 19), jnp.array([1e4])])
    solver = RKC2()

    def field(t, y, args):
        return -rates * (y - jnp.cos(t))

    y0 = jnp.ones(20)
    wrong = SpectralRadius(jnp.array(1.0), jnp.zeros(20).at[0].set(1.0), jnp.array(0, jnp.int32))
    state = solver.init(diffrax.ODETerm(field), 0.0, 0.1, y0, None)
    state = eqx.tree_at(lambda state: state.radius, state, wrong)
    solution = jax.jit(
        lambda: adaptive(
            field, solver, y0, 1.0, 1e-4, dt0=0.1, solver_state=state, max_steps=4096,
            saveat=diffrax.SaveAt(t1=True, solver_state=True),
        )
    )()  # fmt: skip
    np.testing.assert_allclose(solution.ys[-1, -1], np.cos(1.0), atol=1e-3)
    assert float(solution.solver_state.radius.value) == pytest.approx(1e4, rel=0.01)


# Steps that leave the domain


def parabola(t, y, bad):
    """y = (√y₀ − t/2)², and `bad` below 0."""
    return jnp.where(y < 0, bad, -jnp.sqrt(jnp.abs(y)))


@methods
def test_a_step_with_anything_not_finite_returns_its_start(name):
    init, step = stepping(METHODS[name](), parabola)
    zero, y0 = jnp.array(0.0), jnp.array([1.0, 4.0])
    for bad in map(jnp.asarray, (np.nan, np.inf, -np.inf)):
        state = init(zero, y0, bad)
        y1, error, _, after, result = step(zero, jnp.array(50.0), y0, bad, state)
        np.testing.assert_array_equal(y1, y0)
        assert np.all(np.isnan(error))
        assert result == diffrax.RESULTS.successful  # rejected, not failed
        np.testing.assert_array_equal(after.slope, parabola(0.0, y0, bad))
        assert float(after.time) == 0.0


def test_steps_that_leave_the_domain_are_rejected():
    @jax.jit
    @jax.vmap
    def end(bad):
        # the last step tried goes beyond the zero at t = 2
        solution = adaptive(parabola, RKC2(), jnp.array(1.0), 1.9, 1e-7, dt0=4.0, args=bad)
        return solution.ys[-1], solution.stats["num_rejected_steps"]

    found, rejected = end(jnp.array([np.nan, np.inf, -np.inf]))
    np.testing.assert_allclose(found, 0.05**2, atol=1e-5)
    assert np.all(rejected > 0)


@methods
def test_a_step_beyond_the_largest_stage_number_is_rejected(name):
    init, step = stepping(METHODS[name](max_stages=20), lambda t, y, args: -1e4 * y)
    zero, y0 = jnp.array(0.0), jnp.ones(3)
    y1, error, _, state, _ = step(zero, jnp.array(1.0), y0, None, init(zero, y0, None))
    np.testing.assert_array_equal(y1, y0)
    assert np.all(np.isnan(error))
    assert int(state.evaluations) < 100
    reach = 110.0 if name == "ROCK4" else 200.0
    y1, error, _, state, _ = step(zero, jnp.array(reach / 1e4), y0, None, state)
    assert np.all(np.isfinite(error))
    # a tenth more than h·ρ
    number = METHODS[name]().stages
    assert int(number(jnp.array(reach))) < int(state.stages) == int(number(jnp.array(1.1 * reach)))


# The spectral radius


def symmetric(seed, eigenvalues):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))
    return jnp.asarray(q @ np.diag(eigenvalues) @ q.T)


SPECTRA = {
    "outlier": np.concatenate([np.linspace(0, 50, 199), [100.0]]),
    "positive": np.concatenate([np.linspace(-1, 0, 199), [3.0]]),
    "flat": -np.linspace(1, 2, 200),
    "pair": np.concatenate([np.zeros(198), [-7.0, 7.0]]),
    "multiple": -3.0 * np.ones(200),
    "single": np.array([-5.0]),
}


@jax.jit
def follow(radius, matrix, renew):
    y = jnp.zeros(len(matrix))
    return radius.follow(lambda y: matrix @ y, y, renew, refine=False)


@pytest.mark.parametrize("kind", SPECTRA)
def test_spectral_radius_of_a_known_matrix(kind):
    matrix = symmetric(0, SPECTRA[kind])
    exact = np.max(np.abs(np.linalg.eigvalsh(matrix)))
    y = jnp.zeros(len(matrix))
    radius, products = follow(SpectralRadius.unknown(y, y.dtype), matrix, False)
    assert exact * 0.95 < float(radius.value) <= exact * (1 + 1e-12)
    assert 20 <= int(products) <= 50
    # warm: once more, from there
    radius, products = follow(radius, matrix, True)
    assert exact * 0.97 < float(radius.value) <= exact * (1 + 1e-12)
    assert int(products) <= 25


def test_spectral_radius_of_a_hessian_on_any_pytree():
    def loss(p):
        x = jnp.linspace(-2, 2, 16)[:, None]
        return jnp.mean((jnp.tanh(x @ p["a"] + p["b"][None]) @ p["c"] - jnp.sin(3 * x)) ** 2)

    keys = jax.random.split(jax.random.key(3), 3)
    p = {
        "a": jax.random.normal(keys[0], (1, 8)),
        "b": jax.random.normal(keys[1], (8,)),
        "c": jax.random.normal(keys[2], (8, 1)),
    }
    flat, unravel = jax.flatten_util.ravel_pytree(p)
    exact = np.linalg.eigvalsh(jax.jit(jax.hessian(lambda x: loss(unravel(x))))(flat))

    def field(p):
        return jax.tree.map(jnp.negative, jax.grad(loss)(p))

    @jax.jit
    def estimate(p):
        return SpectralRadius.unknown(p, flat.dtype).follow(field, p, renew=True, refine=True)[0]

    radius = estimate(p)
    assert float(radius.value) == pytest.approx(np.max(np.abs(exact)), rel=0.02)
    assert jax.tree.structure(radius.vector) == jax.tree.structure(p)


def test_spectral_radius_follows_a_jacobian_that_changes():
    # the second direction overtakes the first, of which the vector is an eigenvector exactly
    @jax.jit
    def advance(radius, growing):
        rates = jnp.array([100.0, growing])
        return radius.follow(lambda y: -rates * y, jnp.zeros(2), renew=False, refine=True)

    radius = SpectralRadius(jnp.array(100.0), jnp.array([1.0, 0.0]), jnp.array(0))
    products = 0
    for growing in 50.0 * 1.02 ** np.arange(120):
        radius, number = advance(radius, growing)
        products += int(number)
        assert float(radius.value) > 0.8 * max(100.0, growing)
    assert float(radius.value) > 0.95 * growing
    assert products < 120 + 6 * 50


def test_spectral_radius_without_a_direction():
    y = jnp.ones(3)
    start = SpectralRadius.unknown(y, y.dtype)
    assert np.linalg.norm(start.vector) == pytest.approx(1.0)
    flat, _ = start.follow(lambda y: jnp.ones(3), y, renew=True, refine=True)
    assert float(flat.value) == 0.0
    broken, _ = flat.follow(lambda y: jnp.sqrt(y - 1.0), y, renew=True, refine=True)
    for radius in (flat, broken):
        assert np.linalg.norm(radius.vector) == pytest.approx(1.0)
        assert np.isfinite(radius.value)


# Structure and transformations


@methods
def test_the_state_may_be_any_pytree(name):
    def field(t, y, args):
        return {"a": -2.0 * (y["a"] - jnp.sum(y["b"])), "b": -0.5 * y["b"]}

    def exact(t):
        lag = 4 * np.exp(-0.5 * t) - 3 * np.exp(-2 * t)
        return {"a": lag, "b": np.exp(-0.5 * t) * np.array([[1.0, 2.0]])}

    zero, end, y0 = jnp.array(0.0), jnp.array(0.01), jax.tree.map(jnp.asarray, exact(0.0))
    init, step = stepping(METHODS[name](), field)
    y1, error, dense, *_ = step(zero, end, y0, None, init(zero, y0, None))
    within = METHODS[name].interpolation_cls(t0=zero, t1=end, **dense).evaluate(0.003)
    tolerance = 1e-5 if name == "RKC2" else 1e-9
    for found, t in ((y1, 0.01), (within, 0.003)):
        assert found["b"].shape == error["b"].shape == (1, 2)
        for leaf in ("a", "b"):
            np.testing.assert_allclose(found[leaf], exact(t)[leaf], rtol=tolerance)


def decay(t, y, k):
    return -k * y**2


def test_a_batch_is_its_members():
    # the members differ by 10⁵ in speed, and so in their numbers of stages
    solver, term, times = ROCK4(), diffrax.ODETerm(decay), jnp.array([0.0, 0.1, 0.2])

    def steps(k):
        def body(carry, t):
            y, state = carry
            y, _, _, state, _ = solver.step(term, t, t + 0.1, y, k, state, made_jump=False)
            return (y, state), state.stages

        y0 = jnp.array(1.0)
        (y, state), stages = jax.lax.scan(body, (y0, solver.init(term, 0.0, 0.1, y0, k)), times)
        return y, state.evaluations, stages

    rates, alone = jnp.array([1e-3, 1.0, 1e2]), jax.jit(steps)
    batch = jax.jit(jax.vmap(steps))(rates)
    for ours, theirs in zip(batch, zip(*map(alone, rates), strict=True), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert batch[2][:, 0].tolist() == [5, 5, 9]


def bend(t, y, k):
    """y/√(1 + y²) decays like e^{−kt}, and like e^{−30kt}."""
    return -k * jnp.array([1.0, 30.0]) * (y + y**3)


def bent(name, kind, k):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(bend),
        METHODS[name](min_stages=9, max_stages=9, scan_kind=kind),
        0.0,
        1.0,
        0.1,
        jnp.array([1.0, 0.5]),
        args=k,
        max_steps=16,
        adjoint=diffrax.ForwardMode() if kind == "lax" else diffrax.RecursiveCheckpointAdjoint(),
    ).ys[-1, 0]


@pytest.mark.parametrize(("name", "kind"), [("RKC2", "checkpointed"), ("ROCK4", "lax")])
def test_gradients_through_the_solve(name, kind):
    derivative = jax.jacfwd if kind == "lax" else jax.grad
    slope = float(jax.jit(derivative(functools.partial(bent, name, kind)))(0.9))
    q = np.exp(-0.9) / np.sqrt(2)
    error = 2e-2 if name == "RKC2" else 1e-4
    assert slope == pytest.approx(-q / (1 - q**2) ** 1.5, rel=error)


def test_bounded_loops_have_both_derivatives():
    solver, y0 = RKC2(max_stages=16, scan_kind="bounded"), jnp.array([1.0, 0.5])

    @jax.jit
    def derivatives(k):
        def end(k):
            init, step = stepping(solver, bend)
            zero = jnp.array(0.0)
            return step(zero, jnp.array(0.2), y0, k, init(zero, y0, k))[0][0]

        return jax.jacfwd(end)(k), jax.grad(end)(k), end(k + 1e-4) - end(k - 1e-4)

    forward, reverse, difference = derivatives(0.9)
    np.testing.assert_allclose([forward, reverse], float(difference) / 2e-4, rtol=1e-6)


def test_float32_states_stay_float32():
    with jax.enable_x64(False):
        solution = adaptive(
            decay, RKC2(), jnp.array(1.0), 1.0, 1e-4, args=jnp.array(1.0),
            saveat=diffrax.SaveAt(t1=True, solver_state=True),
        )  # fmt: skip
        assert solution.ys.dtype == jnp.float32
        assert solution.solver_state.radius.value.dtype == jnp.float32
        assert float(solution.ys[-1]) == pytest.approx(0.5, abs=1e-3)


@methods
def test_the_coefficients_hold_in_float32(name):
    # y' = 1 is exact to the two roundings of a stage, that of y and that of its increment
    rates, s = np.array([0.0, -0.5], np.float32), jnp.array(133, jnp.int32)
    exact = one_step(name)(jnp.asarray(rates, jnp.float64), s)[0]
    with jax.enable_x64(False):
        single = jax.jit(
            lambda y0: METHODS[name]().advance(
                lambda c, y: rates * y + 1, y0, rates + 1, jnp.array(1.0), s
            )[0]
        )(jnp.ones(2))
    assert single.dtype == jnp.float32
    assert float(single[0]) == pytest.approx(2.0, rel=2 * 133 * 2.0**-23)
    # y' = 1 − y/2 is y' = −y/2 for y − 2
    assert float(single[1]) == pytest.approx(2 - float(exact[1]), rel=3e-5)


def test_time_may_run_backwards():
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(driven), RKC2(), 1.0, 0.0, None,
        jnp.asarray(driven_exact(1.0)), max_steps=None,
        stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-6),
    )  # fmt: skip
    np.testing.assert_allclose(solution.ys[-1], driven_exact(0.0), rtol=1e-3)


def test_memory_is_a_few_states():
    size = 10**5

    @jax.jit
    def solve(y0):
        return adaptive(lambda t, y, args: -y, RKC2(), y0, 1.0, 1e-4).ys

    use = solve.lower(jnp.ones(size)).compile().memory_analysis()
    most = use.temp_size_in_bytes + use.argument_size_in_bytes + use.output_size_in_bytes
    assert most < 12 * 8 * size


class Tanh(eqx.Module):
    inner: jax.Array
    readout: jax.Array


def tanh_fit(model):
    x = jnp.linspace(-1.0, 1.0, 48).reshape(16, 3) ** 2
    targets = jnp.sin(4.0 * jnp.sum(x, axis=1))
    outputs = jnp.matmul(jnp.tanh(jnp.matmul(x, model.inner)), model.readout)
    return jnp.mean((outputs - targets) ** 2)


def test_a_step_grows_by_the_order_of_the_method_at_work():
    # order 4 of the other one would have steps of order 8 grow too fast, and every other rejected
    rng = np.random.default_rng(0)
    model = Tanh(
        jnp.asarray(0.1 * rng.standard_normal((3, 6))), jnp.asarray(rng.standard_normal(6))
    )
    alone, both = (
        gflow.simulate(model, tanh_fit, t1=200.0, rtol=1e-9, solver=solver, error_bars=False)
        for solver in (
            diffrax.Dopri8(),
            Switching(diffrax.Dopri8(), ROCK4(), interval=5.2),
        )
    )
    attempts = [run.statistics["accepted"] + run.statistics["rejected"] for run in (alone, both)]
    assert attempts[1] < 1.2 * attempts[0]
    np.testing.assert_allclose(alone.loss[-1], both.loss[-1], rtol=1e-7)
