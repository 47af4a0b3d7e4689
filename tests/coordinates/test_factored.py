"""Matrix products in the turning gauge: against closed forms, SciPy and symmetries."""

import contextlib
import itertools
import math
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import reference_data
from matrices import LOG10, Matrix, Quadratic, loss_crossing, quadratic
from scipy.integrate import solve_ivp

import gflow
import theory
from gflow.coordinates._gauge import clearing, column_velocity, pulled
from gflow.flow._flow import build_flow
from gflow.models import LinearAttention, SoftmaxAttention
from gflow.objectives import SquaredLoss
from gflow.parameters._factored import PlainFactors

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


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


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
        run = gflow.simulate(model, NETWORK_LOSS, t1=2.4 * exponent)
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
    warns = contextlib.nullcontext() if resolved else pytest.warns(UserWarning, match="square")
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


def rotation(r, seed):
    return np.linalg.qr(gaussian(r, r, seed=seed))[0]


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


# --- leaves of every shape, against SciPy ---------------------------------------------


class Zoo(eqx.Module):
    """Matrices of every kind added up, each behind a matrix of its own."""

    heads: gflow.Parameter
    wide: gflow.Parameter
    lora: gflow.Parameter
    hadamard: gflow.Parameter
    plain: jax.Array


class Together(eqx.Module):
    """½‖Σ_k P_k W_k − M‖² + ¼Σ(…)⁴ of one sum."""

    mixing: dict[str, jax.Array]
    target: jax.Array

    def __call__(self, model):
        total = -self.target
        for name, p in self.mixing.items():
            leaf = getattr(model, name)
            w = leaf.value if isinstance(leaf, gflow.Parameter) else leaf
            total = total + jnp.sum(p @ (w if w.ndim == 3 else w[None]), axis=0)
        return 0.5 * jnp.sum(total**2) + 0.25 * jnp.sum(total**4)


MIXING = {
    name: jnp.asarray(gaussian(2 if name == "heads" else 1, 3, 3, seed=20 + i))
    for i, name in enumerate(f.name for f in Zoo.__dataclass_fields__.values())
}
MIXING["plain"] *= 0.05  # or it would fit the target before the products have grown
TOGETHER = Together(MIXING, jnp.asarray(gaussian(3, 4, seed=11)))
RATES = {"wide": 0.05, "lora": 0.2, "hadamard": 0.1}


def zoo(alpha=1e-2):
    la = math.log(alpha)
    # five columns, of which one is nothing and another twice the first
    mixed = np.eye(5) + np.outer([1.0, 0, 0, 0, 0], [0, 0, 0, 2.0, 0])
    mixed[3:, 3:] = 0.0
    pairs = {
        "heads": (gaussian(2, 3, 2, seed=1), gaussian(2, 4, 2, seed=2)),
        "wide": (gaussian(3, 5, seed=5) @ mixed, gaussian(4, 5, seed=6) @ mixed),
        "lora": (gaussian(3, 2, seed=7), np.zeros((4, 2))),
    }
    leaves = {name: gflow.Factored(*pair, log_scale=la) for name, pair in pairs.items()}
    return Zoo(
        **leaves,
        hadamard=gflow.Hadamard.small((3, 4), log_alpha=la, key=jax.random.key(0)),
        plain=jnp.asarray(alpha * gaussian(3, 4, seed=10)),
    )


def scipy_zoo(model, objective, rates, times):
    """Effective weights and balances at `times`, from the plain factors."""
    plain = gflow.to_factors(model)
    pairs: dict[str, list[np.ndarray]] = {}
    for name in objective.mixing:
        leaf = getattr(plain, name)
        if isinstance(leaf, PlainFactors):
            pairs[name] = [np.asarray(leaf.left), np.asarray(leaf.right)]
        elif name == "hadamard":
            pairs[name] = [np.asarray(leaf.u), np.asarray(leaf.v)]
        else:
            pairs[name] = [np.asarray(leaf)]
    start = [x for pair in pairs.values() for x in pair]
    cuts = np.cumsum([x.size for x in start])[:-1]

    def unpack(y):
        parts = iter(x.reshape(s.shape) for x, s in zip(np.split(y, cuts), start, strict=True))
        return {name: [next(parts) for _ in pair] for name, pair in pairs.items()}

    def value(name, pair):
        if name == "plain":
            return pair[0]
        return pair[0] * pair[1] if name == "hadamard" else pair[0] @ pair[1].swapaxes(-1, -2)

    mixing = {name: np.asarray(p) for name, p in objective.mixing.items()}

    def field(t, y):
        now, rest = unpack(y), -np.asarray(objective.target)
        for name, pair in now.items():
            w = value(name, pair)
            rest = rest + sum(mixing[name] @ (w if w.ndim == 3 else w[None]))
        out = []
        for name, pair in now.items():
            g = -mixing[name].swapaxes(-1, -2) @ (rest + rest**3)
            g = g if name == "heads" else g[0]
            if name == "plain":
                out.append(g)
            elif name == "hadamard":
                out += [pair[1] * g, pair[0] * g]
            else:
                out += [g @ pair[1], g.swapaxes(-1, -2) @ pair[0]]
            rate = rates.get(name, 0.0)
            out[-len(pair) :] = [v - rate * x for v, x in zip(out[-len(pair) :], pair, strict=True)]
        return np.concatenate([x.ravel() for x in out])

    flat = np.concatenate([x.ravel() for x in start])
    end = float(times[-1])
    run = solve_ivp(field, (0.0, end), flat, "DOP853", times, rtol=1e-12, atol=1e-14)
    return [{name: value(name, pair) for name, pair in unpack(y).items()} for y in run.y.T]


TIMES = np.array([0.5, 2.0, 5.0, 10.0, 20.0])


def run_of(model, objective):
    return gflow.simulate(
        model,
        objective,
        t1=20.0,
        save=TIMES,
        decay=RATES,
        rtol=1e-11,
        solver=diffrax.Tsit5(),
        error_bars=False,
    )


@pytest.fixture(scope="module")
def zoo_run():
    return run_of(zoo(), TOGETHER)


@pytest.fixture(scope="module")
def zoo_exact():
    return scipy_zoo(zoo(), TOGETHER, RATES, TIMES)


def test_leaves_of_every_shape_against_scipy(zoo_run, zoo_exact):
    rows = np.searchsorted(zoo_run.t, TIMES)
    for row, exact in zip(rows, zoo_exact, strict=True):
        for name, value in exact.items():
            np.testing.assert_allclose(
                zoo_run.observables[name][row], value, rtol=0, atol=1e-8, err_msg=name
            )
    sizes = np.linalg.norm(zoo_run.observables["heads"][-1], axis=(-2, -1))
    assert np.all(sizes > 0.1), sizes  # the test is about weights that have grown


@pytest.mark.slow
def test_plain_factors_of_every_shape_against_scipy(zoo_exact):
    run = gflow.simulate(
        gflow.to_factors(zoo()), TOGETHER, t1=20.0, save=TIMES, decay=RATES, rtol=1e-11,
        solver=diffrax.Tsit5(), error_bars=False,
    )  # fmt: skip
    for row, exact in zip(np.searchsorted(run.t, TIMES), zoo_exact, strict=True):
        for name, value in exact.items():
            np.testing.assert_allclose(
                run.observables[name][row], value, rtol=0, atol=1e-8, err_msg=name
            )


def test_the_balance_decays_at_twice_the_rate_of_the_factors(zoo_run):
    """G' = −2λG in any gauge that turns with the columns, so its eigenvalues are e^{−2λt}."""
    start = zoo()
    for t in TIMES:
        model = zoo_run.model(t=t)
        for name in ("heads", "wide", "lora"):
            before, after = (
                np.linalg.eigvalsh(getattr(m, name).conserved()) for m in (start, model)
            )
            factor = math.exp(-2.0 * RATES.get(name, 0.0) * t)
            # against columns of size one
            np.testing.assert_allclose(after, factor * before, rtol=0, atol=1e-9, err_msg=name)
    assert np.max(np.abs(np.linalg.eigvalsh(start.heads.conserved()))) > 1e-4


def test_heads_and_columns_in_another_order_are_the_same(zoo_run):
    swap = jnp.array([1, 0])

    def reordered(model):
        heads = gflow.Factored(
            model.heads.left[swap], model.heads.right[swap], log_scale=model.heads.log_alpha
        )
        columns = jnp.array([3, 1, 4, 0, 2])
        wide = gflow.Factored(
            model.wide.left[:, columns],
            model.wide.right[:, columns],
            log_scale=model.wide.log_alpha,
        )
        return eqx.tree_at(lambda m: (m.heads, m.wide), model, (heads, wide))

    objective = Together({**MIXING, "heads": MIXING["heads"][swap]}, TOGETHER.target)
    run = run_of(reordered(zoo()), objective)
    one, two = (np.searchsorted(r.t, TIMES) for r in (zoo_run, run))
    np.testing.assert_allclose(run.loss[two], zoo_run.loss[one], rtol=0, atol=1e-10)
    for name in MIXING:
        before, after = zoo_run.observables[name][one], run.observables[name][two]
        after = after[:, swap] if name == "heads" else after
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-10)


# --- what a leaf knows ----------------------------------------------------------------


def graded(sizes, m=4, n=5, seed=0):
    r = len(sizes)
    left, right = gaussian(m, r, seed=seed), gaussian(n, r, seed=seed + 1)
    return left, right, np.asarray(sizes, float)


@pytest.mark.parametrize(
    "sizes",
    [(0.0, -1.0, 0.5), (0.0, -20.0, -150.0), (-150.0, 0.0, -20.0), (-300.0, -310.0, -290.0),
     (0.0, -20.0, -150.0, -151.0, -300.0)],
)  # fmt: skip
def test_singular_values_of_any_size(sizes):
    """Of e^{2ℓ} from 1 to e^{−600}, each to its own relative accuracy; r > m has m of them."""
    left, right, logs = graded(sizes)
    with mp.workdps(700):
        scaled = mp.matrix(left.tolist()) * mp.diag([mp.exp(2 * mp.mpf(x)) for x in logs])
        w = scaled * mp.matrix(right.tolist()).T
        values = sorted(mp.svd_r(w, compute_uv=False), reverse=True)
        exact = [float(mp.log(x)) for x in values[: len(sizes)]]
    weight = gflow.Factored(left * np.exp(logs), right * np.exp(logs), log_alpha=-1.0)
    found = np.asarray(weight.log_singular_values())
    assert found.shape == (len(exact),)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-11)


def test_value_balance_and_gap_of_a_leaf():
    left, right = gaussian(2, 4, 3), gaussian(2, 5, 3, seed=1)
    weight = gflow.Factored(left, right, log_scale=-0.7)
    a, b = math.exp(-0.7) * left, math.exp(-0.7) * right
    w = a @ b.swapaxes(-1, -2)
    np.testing.assert_allclose(weight.value, w, rtol=1e-13, atol=1e-15)
    balance = a.swapaxes(-1, -2) @ a - b.swapaxes(-1, -2) @ b
    np.testing.assert_allclose(weight.conserved(), balance, rtol=0, atol=1e-14)
    plain = gflow.to_factors(weight)
    assert isinstance(plain, PlainFactors)
    np.testing.assert_allclose(plain.left, a, rtol=1e-14)
    np.testing.assert_allclose(plain.right, b, rtol=1e-14)
    np.testing.assert_allclose(plain.conserved(), balance, rtol=0, atol=1e-14)
    np.testing.assert_allclose(plain.value, w, rtol=0, atol=1e-14)
    nuclear = np.linalg.svd(w, compute_uv=False).sum(axis=-1)
    half = 0.5 * (np.sum(a**2, axis=(1, 2)) + np.sum(b**2, axis=(1, 2)))
    found = gflow.observables.gap("")(weight)
    np.testing.assert_allclose(found, half - nuclear, rtol=1e-12)
    assert np.all(found > 0.01)
    assert weight.rank == 3


def test_the_gap_of_balanced_factors_is_zero():
    u, v = rotation(4, 0)[:, :2], rotation(5, 1)[:, :2]
    sizes, turn = np.array([1.3, 0.2]), rotation(2, 2)
    weight = gflow.Factored(u * sizes @ turn, v * sizes @ turn)
    gap = gflow.observables.gap("")
    assert 0.0 <= gap(weight) < 1e-29  # a square of rounding, not a difference of norms
    np.testing.assert_allclose(weight.conserved(), np.zeros((2, 2)), atol=1e-15)
    off = gflow.Factored(2.0 * u * sizes @ turn, 0.5 * v * sizes @ turn)
    assert gap(off) == pytest.approx((2.125 - 1.0) * np.sum(sizes**2), rel=1e-13)


def test_small_draws_gaussian_factors_that_do_not_depend_on_alpha():
    key = jax.random.key(0)
    one = gflow.Factored.small((2, 40, 30), 20, log_alpha=-1e5, key=key)
    two = gflow.Factored.small((2, 40, 30), 20, log_alpha=-3.0, key=key)
    assert one.left.shape == (2, 40, 20)
    assert one.right.shape == (2, 30, 20)
    np.testing.assert_array_equal(one.left, two.left)
    np.testing.assert_array_equal(one.right, two.right)
    for x in (one.left, one.right):  # 1200 and more numbers
        assert np.mean(x) == pytest.approx(0.0, abs=0.1)
        assert np.var(x) == pytest.approx(1.0, abs=0.15)
    pairs = np.ravel(one.left)[:1200], np.ravel(one.right)
    assert abs(np.corrcoef(*pairs)[0, 1]) < 0.1
    assert float(one.log_alpha) == -1e5


def test_logarithms_hold_where_the_value_underflows():
    left, right = gaussian(4, 3), gaussian(5, 3, seed=1)
    exact = np.log(np.linalg.svd(left @ right.T, compute_uv=False)[:3])
    weight = gflow.Factored(left, right, log_scale=-1e5)
    assert np.all(weight.value == 0.0)
    np.testing.assert_allclose(weight.log_singular_values(), exact - 2e5, rtol=0, atol=1e-9)


def test_rescale_keeps_the_factors_and_starts_time_anew():
    weight = gflow.Factored(gaussian(3, 2), gaussian(4, 2, seed=1), log_scale=-5.0)
    other = gflow.rescale(Matrix(weight), -100.0).weight
    assert float(other.log_alpha) == -100.0
    np.testing.assert_allclose(other.log_scale, -100.0, rtol=1e-15)
    for one, two in zip(weight.unscaled(), other.unscaled(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-13)
    record = {"direction": np.ones((7, 2)) / math.sqrt(7), "log_size": np.array([0.1, -3.5])}
    after = weight.at_record(record, 12.5)
    assert float(after.elapsed) == 12.5
    np.testing.assert_allclose(after.exponent, [0.0, 0.7], rtol=1e-14)  # active, dormant
    np.testing.assert_allclose(after.log_scale, [0.1, -3.5], rtol=1e-15)
    again = gflow.rescale(after, -10.0)
    np.testing.assert_allclose(again.log_scale, [0.1, -7.0], rtol=1e-14)
    assert float(again.elapsed) == 0.0


def test_scale_and_alpha_can_differ():
    left, right = gaussian(3, 2), gaussian(4, 2, seed=1)
    weight = gflow.Factored(1e-3 * left, 1e-3 * right, log_alpha=math.log(1e-3))
    np.testing.assert_allclose(weight.value, 1e-6 * left @ right.T, rtol=1e-13)
    np.testing.assert_allclose(weight.unscaled()[0], left, rtol=1e-13)
    smaller = gflow.rescale(weight, math.log(1e-5))
    np.testing.assert_allclose(smaller.value, 1e-10 * left @ right.T, rtol=1e-12)


# --- continuing, files, batches -------------------------------------------------------


@pytest.mark.slow
def test_continuing_from_a_run_equals_going_straight():
    model, objective = quadratic(7, -30 * LOG10)
    straight = gflow.simulate(model, objective, tau1=1.5, rtol=1e-11)
    first = gflow.simulate(model, objective, tau1=0.6, rtol=1e-11)
    continued(first.final, first, straight, objective)


def continued(before, first, straight, objective):
    assert float(before.weight.elapsed) == first.t[-1]
    second = gflow.simulate(before, objective, tau1=1.5, rtol=1e-11)
    assert second.t[0] == first.t[-1]
    assert second.log_alpha == straight.log_alpha
    for level in (1.0, 0.1):  # the second and the third jump
        assert loss_crossing(second, level).t == pytest.approx(
            loss_crossing(straight, level).t, rel=0, abs=1e-10
        )
    np.testing.assert_allclose(
        second.observables["weight.log_singular"][-1],
        straight.observables["weight.log_singular"][-1],
        rtol=0,
        atol=1e-9,
    )


def test_continuing_from_a_file_equals_going_straight(tmp_path):
    model, objective = quadratic(7, -30 * LOG10)
    straight = gflow.simulate(model, objective, tau1=1.5, rtol=1e-11)
    first = gflow.simulate(model, objective, tau1=0.6, rtol=1e-11)
    first.save(tmp_path / "run.nc")
    loaded = gflow.Trajectory.load(tmp_path / "run.nc", like=model)
    assert eqx.tree_equal(loaded.final, first.final)
    continued(loaded.final, first, straight, objective)
    for name in ("loss", "weight", "weight.log_singular", "weight.above_sqrt_alpha"):
        one, two = ((r.loss if name == "loss" else r.observables[name]) for r in (first, loaded))
        np.testing.assert_array_equal(one, two)


def test_the_model_at_any_time():
    model, objective = quadratic(7, -30 * LOG10)
    run = gflow.simulate(model, objective, tau1=1.5, rtol=1e-11)
    tau = 0.5 * (run.tau[200] + run.tau[201])
    at = run.model(at=tau)
    assert float(at.weight.elapsed) == pytest.approx(tau * run.scale, rel=1e-14)
    saved = gflow.simulate(model, objective, tau1=1.5, rtol=1e-11, save=[tau * run.scale])
    row = np.searchsorted(saved.t, tau * run.scale)
    np.testing.assert_allclose(at.weight.value, saved.observables["weight"][row], atol=1e-10)
    np.testing.assert_allclose(run.model(at=0.0).weight.value, model.weight.value, rtol=1e-12)


@pytest.mark.slow
def test_a_batch_equals_its_members_alone():
    keys, scales = jax.random.split(jax.random.key(3), 3), jnp.array([-20.0, -70.0, -150.0])
    models = eqx.filter_vmap(
        lambda key, la: Matrix(gflow.Factored.small((3, 3), 3, log_alpha=la, key=key))
    )(keys, scales)
    _, objective = quadratic(7, -1.0)
    batch = gflow.simulate_batch(models, objective, tau1=2.0, error_bars=False)
    assert not batch.failed
    levels = (2.0, 0.5, 0.05)
    for key, scale, member in zip(keys, scales, batch, strict=True):
        alone = Matrix(gflow.Factored.small((3, 3), 3, log_alpha=scale, key=key))
        run = gflow.simulate(alone, objective, tau1=2.0)
        assert member.log_alpha == run.log_alpha == float(scale)
        for level in levels:
            one, two = loss_crossing(member, level), loss_crossing(run, level)
            # two runs at one tolerance, each with an error of its own
            assert abs(one.t - two.t) <= 2.0 * two.error
        assert float(member.final.weight.elapsed) == member.t[-1]


class Hashable(list):
    __hash__ = object.__hash__
    __eq__ = object.__eq__


class Counted(eqx.Module):
    """A loss that counts how often it is traced."""

    inner: Quadratic
    count: Hashable = eqx.field(static=True)

    def __call__(self, model):
        self.count.append(1)
        return self.inner(model)


def test_another_alpha_seed_tolerance_or_end_does_not_compile():
    objective = Counted(Quadratic(jnp.eye(4), jnp.array([[2.0, 0.0], [0.5, 1.0]])), Hashable())

    def small(log_alpha, seed):
        key = jax.random.key(seed)
        return Matrix(gflow.Factored.small((2, 2), 2, log_alpha=log_alpha, key=key))

    kwargs: dict[str, Any] = dict(error_bars=False)
    gflow.simulate(small(-10.0, 0), objective, tau1=1.0, **kwargs)
    objective.count.clear()
    gflow.simulate(small(-1e5, 1), objective, t1=2e5, rtol=1e-6, **kwargs)
    gflow.simulate(small(-100.0, 2), objective, tau1=2, rtol=1e-4, **kwargs)
    final = gflow.simulate(small(-50.0, 2), objective, tau1=1, **kwargs).final
    gflow.simulate(final, objective, tau1=2, **kwargs)
    assert len(objective.count) == 4  # traced once a call, which tells what it reads


# --- chains ---------------------------------------------------------------------------


def test_a_chain_multiplies_and_knows_its_balances():
    factors = [gaussian(2, 3, 4), gaussian(2, 4, 2, seed=1), gaussian(2, 2, 5, seed=2)]
    product = gflow.Product(*factors)
    a, b, c = factors
    np.testing.assert_allclose(product.value, a @ b @ c, rtol=0, atol=1e-13)
    first, second = product.conserved()
    np.testing.assert_allclose(
        first, a.swapaxes(-1, -2) @ a - b @ b.swapaxes(-1, -2), rtol=0, atol=1e-13
    )
    np.testing.assert_allclose(
        second, b.swapaxes(-1, -2) @ b - c @ c.swapaxes(-1, -2), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_the_flow_of_a_chain_is_minus_the_gradient(depth):
    sizes = [3, 4, 2, 5, 3][: depth + 1]
    factors = [gaussian(*shape, seed=i) for i, shape in enumerate(itertools.pairwise(sizes))]
    model = Matrix(gflow.Product(*factors))
    n = sizes[0] * sizes[-1]
    root = gaussian(n, n, seed=9)
    objective = Quadratic(
        jnp.asarray(root @ root.T), jnp.asarray(gaussian(sizes[0], sizes[-1], seed=8))
    )
    gradient = eqx.filter_grad(objective)(model).weight.factors
    for rate in (0.0, 0.3):
        flow = build_flow(model, objective, decay=rate)
        found = flow.velocity(jnp.array(0.0), flow.start())
        expected = [-g - rate * w for g, w in zip(gradient, model.weight.factors, strict=True)]
        np.testing.assert_allclose(
            found, np.concatenate([x.ravel() for x in expected]), rtol=1e-12, atol=1e-12
        )


@pytest.mark.slow
def test_a_deep_chain_against_scipy_and_its_conserved_balances():
    factors = [0.3 * gaussian(3, 3, seed=i) for i in range(3)]
    model, target = Matrix(gflow.Product(*factors)), gaussian(3, 3, seed=7)
    objective = Quadratic(jnp.eye(9), jnp.asarray(target))
    times = np.array([1.0, 5.0, 15.0])
    run = gflow.simulate(model, objective, t1=15.0, save=times, rtol=1e-10, error_bars=False)

    def field(t, y):
        a, b, c = y.reshape(3, 3, 3)
        g = target - a @ b @ c
        return np.stack([g @ (b @ c).T, a.T @ g @ c.T, (a @ b).T @ g]).ravel()

    exact = solve_ivp(
        field, (0, 15.0), np.stack(factors).ravel(), "DOP853", times, rtol=1e-12, atol=1e-13
    ).y.T.reshape(-1, 3, 3, 3)
    rows = np.searchsorted(run.t, times)
    value = exact[:, 0] @ exact[:, 1] @ exact[:, 2]
    np.testing.assert_allclose(run.observables["weight"][rows], value, rtol=0, atol=1e-8)
    for one, two in zip(run.final.weight.conserved(), model.weight.conserved(), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-8)
    half = gflow.simulate(model, objective, t1=5.0, rtol=1e-10, error_bars=False).final
    rest = gflow.simulate(half, objective, t1=15.0, rtol=1e-10, error_bars=False)
    np.testing.assert_allclose(rest.final.weight.value, value[-1], rtol=0, atol=1e-8)


# --- attention ------------------------------------------------------------------------


def test_attention_heads_token_by_token():
    """Query i attends to key j with weight softmax_j(scale · x_iᵀ KQ x_j)."""
    kq, vo = (
        gflow.Factored(gaussian(2, 3, 2), gaussian(2, 3, 2, seed=1)),
        gflow.Factored(gaussian(2, 3, 1, seed=2), gaussian(2, 3, 1, seed=3)),
    )
    x = gaussian(4, 3, seed=4)
    softmax, linear = np.zeros((4, 3)), np.zeros((4, 3))
    for h in range(2):
        a = np.asarray(kq.left[h] @ kq.right[h].T)
        v = np.asarray(vo.left[h] @ vo.right[h].T)
        for i in range(4):
            logits = np.array([0.7 * x[i] @ a @ x[j] for j in range(4)])
            share = np.exp(logits) / np.sum(np.exp(logits))
            for j in range(4):
                softmax[i] += share[j] * (x[j] @ v)
                linear[i] += logits[j] * (x[j] @ v)
    x = jnp.asarray(x)
    np.testing.assert_allclose(SoftmaxAttention(kq, vo, scale=0.7)(x), softmax, rtol=0, atol=1e-12)
    np.testing.assert_allclose(LinearAttention(kq, vo, scale=0.7)(x), linear, rtol=0, atol=1e-12)
    one = SoftmaxAttention(
        gflow.Factored(kq.left[0], kq.right[0]), gflow.Factored(vo.left[0], vo.right[0])
    )
    alone = SoftmaxAttention(
        gflow.Factored(kq.left[:1], kq.right[:1]), gflow.Factored(vo.left[:1], vo.right[:1])
    )
    np.testing.assert_allclose(one(x), alone(x), rtol=0, atol=1e-13)


# --- bad input ------------------------------------------------------------------------

ONES = jnp.ones((3, 2))
KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: gflow.Factored(ONES, jnp.ones((3, 1))), r"left has shape \(3, 2\).*\(3, 1\)"),
        (lambda: gflow.Factored(jnp.ones(3), jnp.ones(3)), r"left has shape \(3,\)"),
        (lambda: gflow.Factored(jnp.ones((2, 3, 2)), ONES), "same leading axes of heads"),
        (lambda: gflow.Factored(jnp.ones((2, 3, 2)), jnp.ones((1, 3, 2))), "leading axes"),
        (lambda: gflow.Factored(ONES.at[0, 0].set(jnp.nan), ONES), "left has NaN or infinite"),
        (lambda: gflow.Factored(ONES, ONES.at[0, 0].set(jnp.inf)), "right has NaN or infinite"),
        (lambda: gflow.Factored(ONES, ONES.astype(complex)), "right is complex"),
        (lambda: gflow.Factored(ONES, ONES, log_alpha=math.nan), "log_alpha = nan"),
        (lambda: gflow.Factored(ONES, ONES, log_scale=-math.inf), "inf.*positive and finite"),
        (lambda: gflow.Factored.small((3, 3), 0, log_alpha=-3.0, key=KEY), "rank = 0"),
        (lambda: gflow.Factored.small((3, 3), 2, log_alpha=math.nan, key=KEY), "log_alpha = nan"),
        (lambda: gflow.rescale(gflow.Factored(ONES, ONES, -3.0), math.nan), "log_alpha = nan"),
        (
            lambda: gflow.to_factors(gflow.Factored(ONES, ONES, log_scale=-800.0)),
            "as small as e.-800, below the float range.*gflow.simulate",
        ),
        (lambda: PlainFactors(ONES, jnp.ones((3, 1))), "left has shape"),
        (lambda: gflow.Product(ONES), "two or more matrices; 1 given"),
        (lambda: gflow.Product(ONES, ONES), r"factor 0 has shape \(3, 2\) and factor 1 \(3, 2\)"),
        (lambda: gflow.Product(ONES, ONES.T, ONES, ONES), "factor 2 .* factor 3"),
        (lambda: gflow.Product(jnp.ones(3), ONES), r"factor 0 has shape \(3,\)"),
        (lambda: gflow.Product(ONES, jnp.full((2, 2), jnp.nan)), "factor 1 has NaN"),
        (lambda: gflow.Product(ONES, ONES.T.astype(complex)), "factor 1 is complex"),
        (
            lambda: SoftmaxAttention(*(gflow.Factored(x, x) for x in (ONES, ONES[:2]))),
            r"SoftmaxAttention needs kq and vo of one shape.*\(3, 3\).*\(2, 2\)",
        ),
        (
            lambda: LinearAttention(*(gflow.Factored(ONES, jnp.ones((4, 2))) for _ in range(2))),
            r"LinearAttention needs.*\(3, 4\)",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_named_with_its_remedy(build, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        build()


ANY = Quadratic(jnp.eye(9), jnp.eye(3))


@pytest.mark.parametrize(
    ("model", "kwargs", "message"),
    [
        (
            Matrix(gflow.Factored(ONES.astype(jnp.float32), ONES.astype(jnp.float32), -3.0)),
            dict(t1=1.0),
            "weight.*float32.*jax_enable_x64",
        ),
        (Matrix(gflow.Factored(ONES, ONES)), dict(tau1=1.0), "log_alpha = 0 on every leaf"),
        (Matrix(PlainFactors(ONES, ONES)), dict(tau1=1.0), "no Hadamard or Factored leaf"),
    ],
)
def test_runs_refuse_what_they_cannot_do(model, kwargs, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        gflow.simulate(model, ANY, **kwargs)


class ReadsFactors(eqx.Module):
    def __call__(self, model):
        return jnp.sum(model.weight.left)


def test_an_objective_of_more_than_effective_weights_is_refused():
    with pytest.raises(AttributeError, match=r"only `.value` of a parameter.*not `.left`"):
        gflow.simulate(Matrix(gflow.Factored(ONES, ONES, -3.0)), ReadsFactors(), t1=1.0)


def test_more_columns_than_the_matrix_has_rows():
    rng = np.random.default_rng(5)
    left, right = rng.standard_normal((2, 5)), rng.standard_normal((3, 5))
    weight = gflow.Factored(left, right)
    exact = np.log(np.linalg.svd(left @ right.T, compute_uv=False))
    np.testing.assert_allclose(weight.log_singular_values(), exact, rtol=0, atol=1e-13)
    target = jnp.asarray(rng.standard_normal((2, 3)))
    start = Matrix(gflow.Factored(left, right, log_scale=-30 * LOG10))
    run = gflow.simulate(start, Quadratic(jnp.eye(6), target), tau1=6.0, error_bars=False)
    assert run.observables["weight.log_singular"].shape == (len(run.t), 2)
    assert [int(stage.rank["weight"]) for stage in run.stages()] == [1, 2]
    np.testing.assert_allclose(run.observables["weight"][-1], target, rtol=0, atol=1e-8)
