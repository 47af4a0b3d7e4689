"""Steps of RKC2 and ROCK4: what they count, carry and reject, and which states they take."""

import functools

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stabilised_methods import METHODS, adaptive, driven, driven_exact, methods

import gflow
from gflow.solvers._rkc2 import RKC2
from gflow.solvers._rock4 import ROCK4
from gflow.solvers._spectral_radius import SpectralRadius
from gflow.solvers._switching import Switching

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


def test_a_switch_waits_for_a_step():
    with pytest.raises(ValueError, match="patience = 0"):
        Switching(diffrax.Dopri8(), ROCK4(), patience=0)
