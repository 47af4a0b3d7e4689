"""The turning gauge of matrix products: closed forms at many digits, and what it is by itself."""

import contextlib
import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
import reference_data
from matrices import LOG10, Matrix, Quadratic, gaussian, loss_crossing, quadratic, rotation

import gflow
import theory
from gflow.coordinates._gauge import clearing, column_velocity, pulled
from gflow.models import SoftmaxAttention
from gflow.objectives import SquaredLoss

NETWORK = reference_data.load("factored")
PLATEAUS = np.array([float(x) for x in NETWORK["losses"]])
LEVELS = 0.5 * (PLATEAUS[:-1] + PLATEAUS[1:])
TARGET = np.array(NETWORK["target"])


def network(log_alpha):
    """The dense 5×5 network: ½‖W − Σ‖², balanced factors that commute with nothing."""
    weight = gflow.Factored(
        np.array(NETWORK["left"]), np.array(NETWORK["right"]), log_scale=log_alpha
    )
    return Matrix(weight)


NETWORK_LOSS = Quadratic(jnp.eye(25), jnp.asarray(TARGET))


# --- the dense linear network, from a closed form at 1000 digits ----------------------


@pytest.mark.parametrize("exponent", ["20", "60", "100"])
@pytest.mark.parametrize(("rtol", "bound"), [(1e-8, 1e-8), (1e-11, 1e-10)])
def test_jump_times_of_a_dense_network(exponent, rtol, bound):
    log_alpha = -float(exponent) * LOG10
    run = gflow.simulate(
        network(log_alpha), NETWORK_LOSS, t1=2.4 * float(exponent) + 10.0, rtol=rtol
    )
    for level, exact in zip(LEVELS, NETWORK["times"][exponent], strict=True):
        jump = loss_crossing(run, level)
        error = abs(jump.t - float(exact))
        assert error <= bound
        # besides, a logarithm that has come from −Λ is rounded once a step, at random
        rounding = math.sqrt(jump.step) * np.spacing(-log_alpha) if rtol < 1e-8 else 0.0
        assert error <= jump.error + rounding
        assert jump.error <= 10 * bound


def test_steps_do_not_grow_with_the_logarithm_of_alpha():
    counts = [
        gflow.simulate(network(-k * LOG10), NETWORK_LOSS, t1=2.4 * k + 20.0).statistics["accepted"]
        for k in (6, 100)
    ]
    assert counts[1] <= 3 * counts[0]


def test_ranks_rise_one_by_one_and_modes_grow_at_their_own_rates():
    """On the way σ_j = α² e^{2 s_j t}·O(1); it counts from √α on, at s_j t = ¾ Λ."""
    scale = 60 * LOG10
    sizes = np.linalg.svd(TARGET, compute_uv=False)
    times = scale * np.linspace(0.1, 1.2, 23)
    times = times[np.min(np.abs(np.outer(times, sizes) - 0.75 * scale), axis=1) > 5.0]
    assert len(times) > 10
    run = gflow.simulate(network(-scale), NETWORK_LOSS, t1=1.3 * scale, save=times)
    rows = np.searchsorted(run.t, times)
    expected = np.sum(np.outer(times, sizes) > 0.75 * scale, axis=1)
    np.testing.assert_array_equal(run.observables["weight.above_sqrt_alpha"][rows], expected)
    logs = run.observables["weight.log_singular"][rows]
    early = times < 0.9 * scale / sizes[0]
    slopes = np.diff(logs[early], axis=0) / np.diff(times[early])[:, None]
    # once the start, in which all are mixed, is forgotten
    mixed = np.exp(-2.0 * np.min(-np.diff(sizes)) * times[early][:-1])
    assert mixed[-1] < 1e-3
    assert np.all(np.abs(slopes - 2 * sizes) <= 10.0 * mixed[:, None] + 1e-8)
    value = run.observables["weight"][rows]
    top = np.linalg.svd(value, compute_uv=False)[:, 0]
    np.testing.assert_allclose(np.exp(logs[:, 0]), top, rtol=1e-12)


def test_dormant_columns_rest_on_the_eigenvectors_of_the_flow():
    """Z' = HZ at W = 0, where H = [[0, Σ], [Σᵀ, 0]] has eigenvectors [u_j; v_j]/√2."""
    scale = 60 * LOG10
    u, sizes, vt = np.linalg.svd(TARGET)
    run = gflow.simulate(network(-scale), NETWORK_LOSS, t1=0.6 * scale / sizes[0], rtol=1e-10)
    columns = run.leaves["weight"]
    x = columns["direction"][-1][:, np.argsort(-columns["log_size"][-1])]
    along = np.abs(np.sum(np.concatenate([u, vt.T]) / math.sqrt(2.0) * x, axis=0))
    # what is left of another eigenvector decays as e^{−(s_i − s_j)t}
    rest = np.exp(-2 * np.min(-np.diff(sizes)) * run.t[-1])
    np.testing.assert_allclose(along, 1.0, rtol=0, atol=100 * rest + 1e-10)
    np.testing.assert_allclose(x.T @ x, np.eye(5), rtol=0, atol=1e-4)


@pytest.mark.parametrize("exponent", [20, 40, 100])
def test_plain_factors_say_that_dormant_modes_are_lost(exponent):
    model = gflow.to_factors(network(-exponent * LOG10))
    with pytest.warns(UserWarning, match="dormant weights have sunk"):
        run = gflow.simulate(model, NETWORK_LOSS, t1=2.4 * exponent, error_bars=False)
    assert run.status == gflow.Status.unresolved.value
    assert not run.successful
    assert run.t[-1] < 25.0  # e^{s_1 t} fills the floats from there on
    assert np.all(np.isfinite(run.loss))


# --- any loss, from an integration of the plain factors at 120 digits -----------------

PLAIN = reference_data.load("gauge")


def plain_start(data):
    scale = -PLAIN["exponent"] * LOG10
    pairs = [(np.array(left), np.array(right)) for left, right in data["start"]]
    return [gflow.Factored(*pair, log_scale=scale) for pair in pairs]


def check_against_plain(model, objective, data, names):
    times = np.array([float(t) for t in data["weights"]])
    for rtol, bound in ((1e-8, 1e-8), (1e-11, 1e-10)):
        run = gflow.simulate(
            model, objective, t1=float(data["steps"][-1][0]), save=times, rtol=rtol
        )
        for level, exact in zip(data["levels"], data["times"], strict=True):
            jump = loss_crossing(run, level)
            error = abs(jump.t - float(exact))
            assert error <= bound
            rounding = math.sqrt(jump.step) * np.spacing(70.0) if rtol < 1e-8 else 0.0
            assert error <= jump.error + rounding
        rows = np.searchsorted(run.t, times)
        for row, exact in zip(rows, data["weights"].values(), strict=True):
            for name, value in zip(names, exact, strict=True):
                value = np.array([[float(x) for x in line] for line in value])
                # while a weight jumps an error in time is one in size, at rates of up to 15
                np.testing.assert_allclose(
                    run.observables[name][row], value, rtol=0, atol=50.0 * bound
                )


def test_a_loss_that_commutes_with_nothing_against_many_digits():
    data = PLAIN["quadratic"]
    (weight,) = plain_start(data)
    objective = Quadratic(jnp.array(data["kernel"]), jnp.array(data["target"]))
    check_against_plain(Matrix(weight), objective, data, ["weight"])


@pytest.mark.slow
def test_a_softmax_head_against_many_digits():
    data = PLAIN["head"]
    model = SoftmaxAttention(*plain_start(data))
    objective = SquaredLoss(np.array(data["x"]), np.array(data["y"]), "half_mean")
    check_against_plain(model, objective, data, ["kq", "vo"])


def test_the_sign_of_the_determinant_is_conserved():
    """AᵀA − BᵀB stays of size α², so that det A and det B vanish together or never."""
    model, objective = quadratic(25, -150.0)
    run = gflow.simulate(model, objective, tau1=2.9, error_bars=False)
    x = run.leaves["weight"]["direction"][run.tau > 0.1]  # by then far larger than α
    signs = np.linalg.slogdet(x[:, :3])[0] * np.linalg.slogdet(x[:, 3:])[0]
    assert set(signs) == {1.0}


@pytest.mark.parametrize(
    ("log_scale", "resolved"), [(-300.0, True), (-400.0, True), (-690.0, False)]
)
def test_a_column_that_has_lost_its_sign_is_within_its_bar_or_the_run_says_so(log_scale, resolved):
    """The last time is T·Λ + C of the limit algorithm; the sinking column flips at all three."""
    model, objective = quadratic(25, log_scale)
    warns = (
        contextlib.nullcontext() if resolved else pytest.warns(UserWarning, match="Square factors")
    )
    with warns:
        run = gflow.simulate(model, objective, tau1=2.9)
    assert run.successful == resolved
    stages = run.stages()
    assert len(stages) == (3 if resolved else 1)  # none after the failure
    if resolved:
        last = theory.gradual_rank.predict(model, objective).stages[2]
        assert abs(stages[2].t - last.tau * -log_scale - last.offset) <= stages[2].error


# --- the gauge itself -----------------------------------------------------------------


def gauge_field(x, log_size, force):
    """HZ + ZΩ column by column, with Ω written out."""
    m, r = force.shape[0], x.shape[1]
    h = np.block([[np.zeros((m, m)), force], [force.T, np.zeros((len(x) - m, len(x) - m))]])
    z, hx = x * np.exp(log_size), h @ x
    speed, growth = np.linalg.norm(hx, axis=0), np.sum(x * hx, axis=0)
    omega = np.zeros((r, r))
    for i in range(r):
        for j in range(r):
            gap = log_size[i] - log_size[j]
            damping = speed[i] + speed[j] - growth[i] - growth[j]
            c = 2 * x[:, i] @ hx[:, j] + damping * (x[:, i] @ x[:, j])
            omega[i, j] = -c * math.sinh(gap) / (2 * math.cosh(gap) ** 2)
    return h @ z + z @ omega, omega


def test_the_velocity_is_that_of_the_columns_in_a_turning_gauge():
    x, force = gaussian(7, 4), gaussian(3, 4, seed=1)
    x = x / np.linalg.norm(x, axis=0) * np.array([1.0, 1.1, 0.9, 1.0])
    log_size = np.array([0.3, -0.2, -1.5, 0.29])
    expected, omega = gauge_field(x, log_size, force)
    np.testing.assert_allclose(omega, -omega.T, rtol=0, atol=1e-15)
    hx = pulled(jnp.asarray(x), jnp.asarray(force), 3)
    turn, growth = column_velocity(jnp.asarray(x), hx, clearing(jnp.asarray(log_size)))
    found = (np.asarray(turn) + x * np.asarray(growth)) * np.exp(log_size)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    # lengths go to one at the rate |Hx|
    square = np.sum(x**2, axis=0)
    pull = -np.linalg.norm(np.asarray(hx), axis=0) * (square - 1.0) * square
    np.testing.assert_allclose(2 * np.sum(x * turn, axis=0), pull, rtol=0, atol=1e-13)


@pytest.mark.parametrize("gaps", [(0.0, 0.0), (40.0, 90.0), (800.0, 1e5)])
def test_a_smaller_column_is_cleared_of_a_larger_one(gaps):
    """The overlap of two graded columns decays, whatever H turns them to."""
    x = gaussian(6, 3, seed=2)
    x /= np.linalg.norm(x, axis=0)
    log_size = jnp.array([0.0, -gaps[0], -gaps[1]])
    force = jnp.asarray(gaussian(3, 3, seed=3))
    turn, growth = column_velocity(
        jnp.asarray(x), pulled(jnp.asarray(x), force, 3), clearing(log_size)
    )
    assert np.all(np.isfinite(turn))
    assert np.all(np.isfinite(growth))
    if gaps[0] == 0.0:
        return
    overlap = x.T @ x
    speed = np.asarray(x).T @ np.asarray(turn)
    slope = speed + speed.T
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert slope[i, j] * overlap[i, j] < 0


def rotated_columns(weight, seed):
    turn = jnp.asarray(rotation(weight.rank, seed))
    (scale,) = set(np.asarray(weight.log_scale).ravel().tolist())
    return gflow.Factored(weight.left @ turn, weight.right @ turn, log_scale=scale)


@pytest.mark.parametrize("log_alpha", [-2.0, -30 * LOG10])
@pytest.mark.parametrize("seed", [0, 1])
def test_rotated_columns_start_the_same_flow(log_alpha, seed):
    model, objective = quadratic(7, log_alpha)
    other = Matrix(rotated_columns(model.weight, seed))
    t1 = 2.0 * -log_alpha + 10.0
    times = np.linspace(0.0, t1, 41)[1:]
    runs = [gflow.simulate(m, objective, t1=t1, save=times, rtol=1e-12) for m in (model, other)]
    rows = [np.searchsorted(run.t, times) for run in runs]
    for name, atol in (("weight", 1e-10), ("weight.log_singular", 1e-9)):
        one, two = (run.observables[name][at] for run, at in zip(runs, rows, strict=True))
        np.testing.assert_allclose(one, two, rtol=0, atol=atol)
    one, two = (run.loss[at] for run, at in zip(runs, rows, strict=True))
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-10)
    ends = [np.linalg.eigvalsh(run.final.weight.conserved()) for run in runs]
    # of size α² beside columns of size one
    np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=1e-9)


def test_a_loss_three_times_as_high_runs_three_times_as_fast():
    model, objective = quadratic(7, -30 * LOG10)
    faster = eqx.tree_at(lambda o: o.kernel, objective, 3.0 * objective.kernel)
    one = gflow.simulate(model, objective, tau1=1.5, rtol=1e-11)
    two = gflow.simulate(model, faster, tau1=0.5, rtol=1e-11)
    for level in (3.0, 1.0, 0.1):
        assert 3.0 * loss_crossing(two, 3.0 * level).t == pytest.approx(
            loss_crossing(one, level).t, rel=0, abs=1e-10
        )
