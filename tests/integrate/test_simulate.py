"""The one call that integrates: accuracy against SciPy, how runs end, bad input."""

import importlib
import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kinds import Linear, Mixed
from scipy.integrate import solve_ivp

import gflow
from gflow.models import DiagonalAttention, DiagonalLinear
from gflow.objectives import SquaredLoss

INPUTS = np.array([[1, 0.5, 0.7, 0], [0.5, 1, 0.1, 0.7]])
TARGETS = np.array([1.0, 0.0])
HALF_SUM = SquaredLoss(INPUTS, TARGETS, "half_sum")


def small(log_alpha=-4.6, seed=0, d=4):
    return DiagonalLinear(gflow.Hadamard.small(d, log_alpha=log_alpha, key=jax.random.key(seed)))


GAIN = np.array([1.0, 0.3, 0.5, -0.2])


def mixed():
    return Mixed(
        small(-4.6).weight,
        gflow.to_factors(small(-4.0, seed=1).weight),
        gflow.Scaled(jnp.array([1.0, -0.5, 0.2, 0.1]), log_scale=math.log(1e-4)),
        jnp.array([0.0, 1e-3, 2e-3, 0.0]),
        gflow.Frozen(GAIN),
    )


def scipy_flow(model, times, decay):
    """θ of each leaf of a Mixed model at `times`, in the plain factors, by SciPy.

    `decay(name, t)` is the rate of a leaf.
    """
    a, b = gflow.to_factors(model.hadamard), model.factors
    names = ("hadamard", "hadamard", "factors", "factors", "scaled", "plain")
    start = np.stack([a.u, a.v, b.u, b.v, model.scaled.value, model.plain])

    def velocity(t, state):
        u, v, p, q, w, z = state = state.reshape(6, 4)
        g = INPUTS.T @ (TARGETS - INPUTS @ (u * v + p * q + w + GAIN * z))
        rates = np.array([[decay(name, t)] for name in names])
        return (np.stack([v * g, u * g, q * g, p * g, g, GAIN * g]) - rates * state).ravel()

    solution = solve_ivp(
        velocity, (0, times[-1]), start.ravel(), "DOP853", times, rtol=1e-12, atol=1e-16
    )
    u, v, p, q, w, z = solution.y.reshape(6, 4, -1).transpose(0, 2, 1)
    return {"hadamard": u * v, "factors": p * q, "scaled": w, "plain": z}


# --- accuracy -------------------------------------------------------------------------

DECAYS = {
    "none": (0.0, lambda name, t: 0.0),
    "constant": (0.05, lambda name, t: 0.05),
    "of time": (lambda t: 0.2 / (1.0 + t), lambda name, t: 0.2 / (1.0 + t)),
    "by leaf": (
        {"hadamard": 0.1, "factors": 0.07, "scaled": lambda t: 0.02 * t},
        lambda name, t: {"hadamard": 0.1, "factors": 0.07, "scaled": 0.02 * t}.get(name, 0.0),
    ),
}


@pytest.mark.parametrize("name", ["none", "by leaf"])
def test_leaves_of_every_kind_against_scipy(name):
    decay, rate = DECAYS[name]
    model, times = mixed(), np.array([1.0, 3.0, 10.0, 30.0])
    run = gflow.simulate(
        model, HALF_SUM, t1=30, save=times, decay=decay, rtol=1e-10, error_bars=False
    )
    rows = np.searchsorted(run.t, times)
    for leaf, expected in scipy_flow(model, times, rate).items():
        np.testing.assert_allclose(run.observables[leaf][rows], expected, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(run.final.gain.value, GAIN)


class HadamardOnly(eqx.Module):
    hadamard: gflow.Parameter

    def __call__(self, x):
        return jnp.dot(x, self.hadamard.value)


@pytest.mark.parametrize("name", ["constant", "of time"])
def test_decay_of_log_coordinates_against_scipy(name):
    decay, rate = DECAYS[name]
    leaf = small(math.log(1e-2), seed=3).weight
    factors, times = gflow.to_factors(leaf), np.array([1.0, 5.0, 20.0, 60.0])
    run = gflow.simulate(
        HadamardOnly(leaf), HALF_SUM, t1=60.0, save=times, decay=decay, rtol=1e-11,
        error_bars=False,
    )  # fmt: skip

    def velocity(t, state):
        u, v = state.reshape(2, 4)
        g = INPUTS.T @ (TARGETS - INPUTS @ (u * v))
        return np.concatenate([v * g, u * g]) - rate("hadamard", t) * state

    start = np.concatenate([factors.u, factors.v])
    solution = solve_ivp(velocity, (0, 60), start, "DOP853", times, rtol=1e-12, atol=1e-18)
    u, v = solution.y.reshape(2, 4, -1).transpose(0, 2, 1)
    rows = np.searchsorted(run.t, times)
    state = run.leaves["hadamard"]
    np.testing.assert_allclose(state["value"][rows], u * v, rtol=0, atol=1e-8)
    np.testing.assert_allclose(state["log_s"][rows], np.log(np.abs(u + v)), rtol=0, atol=1e-8)
    # log|s| + log|d| = log|c| − 2∫λ to rounding, at every step.
    integral = {"constant": 0.05 * run.t, "of time": 0.2 * np.log1p(run.t)}[name]
    product = state["log_s"] + state["log_d"]
    expected = product[0] - 2.0 * integral[:, None]
    np.testing.assert_allclose(product, expected, rtol=0, atol=1e-9)


def test_another_solver_gives_the_same_flow():
    model, times = small(-9.0), np.linspace(5.0, 60.0, 12)
    runs = [
        gflow.simulate(
            model, HALF_SUM, t1=60.0, save=times, rtol=1e-10, solver=solver, error_bars=False
        )
        for solver in (None, diffrax.Tsit5())
    ]
    weights = [run.observables["weight"][np.searchsorted(run.t, times)] for run in runs]
    np.testing.assert_allclose(weights[0], weights[1], rtol=0, atol=1e-8)
    assert runs[0].method == "Rodas5P in log coordinates, rtol=1e-10"
    assert runs[1].method == "Tsit5 in log coordinates, rtol=1e-10"


def test_the_mean_runs_slower_than_the_sum_by_the_number_of_examples():
    kwargs = dict(rtol=1e-9, error_bars=False)
    once = gflow.simulate(small(), HALF_SUM, t1=20.0, **kwargs)
    mean = SquaredLoss(INPUTS, TARGETS, "half_mean")
    twice = gflow.simulate(small(), mean, t1=40.0, **kwargs)
    np.testing.assert_allclose(twice.final.weight.value, once.final.weight.value, atol=1e-8)
    assert twice.loss[-1] == pytest.approx(once.loss[-1] / 2, rel=1e-6)


def squared_factors(run):
    total = 0.0
    for leaf in run.leaves.values():
        if "log_s" in leaf:
            parts = [0.5 * np.exp(2 * leaf[key]) for key in ("log_s", "log_d")]
        else:
            parts = [leaf[key] ** 2 for key in (("u", "v") if "u" in leaf else ("value",))]
        total = total + sum(np.sum(x.reshape(len(x), -1), axis=-1) for x in parts)
    return total


@pytest.mark.parametrize("change", [lambda m: m, gflow.to_factors])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_descent_is_the_slope_of_what_the_flow_minimises(change, decay):
    times, step = np.array([1.0, 2.0, 5.0, 20.0]), 1e-3
    save = np.concatenate([times - step, times, times + step])
    run = gflow.simulate(
        change(mixed()), HALF_SUM, t1=30, save=save, rtol=1e-10, decay=decay, error_bars=False
    )
    energy = run.loss + 0.5 * decay * squared_factors(run)
    before, at, after = np.searchsorted(run.t, save).reshape(3, -1)
    slope = (energy[after] - energy[before]) / (2 * step)
    np.testing.assert_allclose(run.descent[at], -slope, rtol=1e-5, atol=1e-12)


# --- error bars -----------------------------------------------------------------------


def attention():
    keys = jax.random.split(jax.random.key(5), 3)
    kq, vo = (gflow.Hadamard.small((1, 2), log_alpha=-30.0, key=k) for k in keys[:2])
    x = jax.random.normal(keys[2], (8, 3, 2))
    target = DiagonalAttention(
        gflow.Frozen(jnp.array([[2.0, -1.0]])), gflow.Frozen(jnp.array([[1.0, 0.5]]))
    )
    return DiagonalAttention(kq, vo), SquaredLoss(x, jax.vmap(target)(x))


def size(model):
    return jnp.sum(jnp.abs(model.vo.value))


def test_error_bars_cover_the_distance_from_a_much_tighter_run():
    model, objective = attention()
    times = 30.0 * np.linspace(0.25, 8.0, 32)
    kwargs = dict(tau1=8, save=times, observables={"size": size})
    coarse = gflow.simulate(model, objective, rtol=1e-6, **kwargs)
    tight = gflow.simulate(model, objective, rtol=1e-11, **kwargs)
    at, exact_at = np.searchsorted(coarse.t, times), np.searchsorted(tight.t, times)
    for name in ("kq", "vo", "size"):
        error = np.abs(coarse.observables[name][at] - tight.observables[name][exact_at])
        assert np.max(error) > 1e-9
        assert np.all(np.max(error, axis=0) <= np.max(coarse.error[name][at], axis=0))
    error = np.abs(coarse.loss[at] - tight.loss[exact_at])
    assert np.max(error) <= np.max(coarse.error["loss"][at])

    stages, exact = coarse.stages(), tight.stages()
    assert len(stages) == len(exact) >= 2
    for stage, reference in zip(stages, exact, strict=True):
        assert stage.activated == reference.activated
        assert abs(stage.t - reference.t) <= stage.error
        assert stage.error < 0.01


def test_error_bars_can_be_left_out():
    run = gflow.simulate(small(), HALF_SUM, t1=5.0, error_bars=False)
    assert run.error == {}


# --- times, models, files -------------------------------------------------------------


@pytest.mark.parametrize("log_alpha", [-9.0, -2300.0])
def test_continuing_from_the_final_model_equals_going_straight(log_alpha):
    model, kwargs = small(log_alpha), dict(rtol=1e-10, error_bars=False)
    straight = gflow.simulate(model, HALF_SUM, tau1=8, **kwargs)
    first = gflow.simulate(model, HALF_SUM, tau1=2.5, **kwargs)
    second = gflow.simulate(first.final, HALF_SUM, tau1=8, **kwargs)
    assert second.t[0] == first.t[-1] == -2.5 * log_alpha
    assert second.log_alpha == log_alpha
    assert second.tau[-1] == 8.0
    np.testing.assert_allclose(
        second.observables["weight"][-1], straight.observables["weight"][-1], rtol=0, atol=1e-8
    )
    # in log|s|, |log α| roundings long
    atol = 1e-7 + 1e-13 * -log_alpha
    for name in ("log_s", "log_d"):
        np.testing.assert_allclose(
            second.leaves["weight"][name][-1], straight.leaves["weight"][name][-1], atol=atol
        )


def test_continuing_keeps_a_decay_that_depends_on_time_in_step():
    model, kwargs = mixed(), dict(decay=DECAYS["by leaf"][0], rtol=1e-10, error_bars=False)
    straight = gflow.simulate(model, HALF_SUM, t1=20.0, **kwargs).final
    half = gflow.simulate(model, HALF_SUM, t1=7.0, **kwargs).final
    rest = gflow.simulate(half, HALF_SUM, t1=20.0, **kwargs).final
    for name in ("hadamard", "factors", "scaled"):
        np.testing.assert_allclose(
            getattr(rest, name).value, getattr(straight, name).value, rtol=0, atol=1e-8
        )
    np.testing.assert_allclose(rest.plain, straight.plain, rtol=0, atol=1e-8)


def test_the_model_at_any_time():
    model = small(-30.0)
    run = gflow.simulate(model, HALF_SUM, tau1=8.0, rtol=1e-9)
    dense = gflow.simulate(model, HALF_SUM, tau1=8.0, rtol=1e-11, save=[2.0 * 30, 4.3 * 30])
    for tau in (2.0, 4.3):
        row = np.searchsorted(dense.t, tau * 30)
        at = run.model(at=tau)
        np.testing.assert_allclose(
            at.weight.value, dense.observables["weight"][row], rtol=0, atol=1e-6
        )
        assert float(at.weight.elapsed) == tau * 30
        assert eqx.tree_equal(at, run.model(t=tau * 30))
    k = len(run.t) // 2
    np.testing.assert_allclose(
        run.model(t=run.t[k]).weight.value, run.observables["weight"][k], rtol=1e-12
    )
    np.testing.assert_allclose(run.final.weight.value, run.observables["weight"][-1], rtol=1e-12)
    assert eqx.tree_equal(run.model(at=0).weight.value, model.weight.value, rtol=1e-13, atol=0.0)


def test_saved_times_are_recorded_beside_the_steps():
    run = gflow.simulate(small(-9.0), HALF_SUM, t1=40.0, save=[40.0, 3.0, 0.0, 3.0])
    assert np.all(np.diff(run.t) > 0)
    assert {0.0, 3.0, 40.0} <= set(run.t)
    n = len(run.t)
    for array in (run.loss, run.descent, *run.observables.values(), *run.error.values()):
        assert array.shape[0] == n


def norm(model):
    return jnp.sum(model.weight.value**2)


def test_save_and_load(tmp_path):
    model = small(-30.0)
    run = gflow.simulate(model, HALF_SUM, tau1=8.0, observables={"norm": norm})
    run.save(tmp_path / "run.nc")
    loaded = gflow.Trajectory.load(tmp_path / "run.nc", like=model)
    for name in ("t", "tau", "loss", "descent"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(run, name))
    for name in ("log_alpha", "status", "successful", "method", "statistics"):
        assert getattr(loaded, name) == getattr(run, name)
    assert loaded.observables.keys() == run.observables.keys()
    for name, array in run.observables.items():
        np.testing.assert_array_equal(loaded.observables[name], array)
        np.testing.assert_array_equal(loaded.error[name], run.error[name])
    assert eqx.tree_equal(loaded.final, run.final)
    stages, again = run.stages(), loaded.stages()
    assert [s.activated for s in again] == [s.activated for s in stages]
    assert len(stages) >= 2
    for stage, other in zip(stages, again, strict=True):  # as they were found with the flow
        assert (stage.t, stage.error, stage.label) == (other.t, other.error, other.label)
    with pytest.raises(ValueError, match="which a file does not hold"):
        loaded.model(at=1.2345)
    with pytest.raises(ValueError, match=r"loaded without its model.*like=model"):
        _ = gflow.Trajectory.load(tmp_path / "run.nc").final


def test_a_run_prints_what_it_is():
    run = gflow.simulate(small(), HALF_SUM, t1=5.0, error_bars=False)
    text = str(run)
    for part in ("t = 0 … 5", "Rodas5P in log coordinates", "reached the requested time"):
        assert part in text


def test_progress_goes_to_stderr(capsys):
    gflow.simulate(small(), HALF_SUM, t1=5.0, error_bars=False, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "t = 5 of 5" in captured.err


# --- how runs end ---------------------------------------------------------------------


def test_without_an_end_it_runs_until_nothing_moves():
    run = gflow.simulate(small(-20.0), HALF_SUM, error_bars=False)
    assert run.successful
    assert run.status.startswith("converged")
    residual = INPUTS.T @ (TARGETS - INPUTS @ run.observables["weight"][-1])
    assert np.max(np.abs(residual)) < 1e-8  # also of weights that are dormant


def test_the_origin_does_not_count_as_converged():
    run = gflow.simulate(small(-1e5), HALF_SUM, error_bars=False)
    assert run.tau[-1] > 4.0
    assert run.loss[-1] < 1e-10


def test_max_steps():
    with pytest.warns(UserWarning, match="gflow.simulate stopped at max_steps"):
        run = gflow.simulate(small(-9.0), HALF_SUM, t1=200.0, rtol=1e-10, max_steps=64)
    assert not run.successful
    assert run.t[-1] < 200.0
    assert np.all(np.isfinite(run.loss))
    assert run.statistics["accepted"] + run.statistics["rejected"] == 64


class Unbounded(eqx.Module):
    """−Σθ⁴: the flow leaves the floats in finite time."""

    def __call__(self, model):
        return -jnp.sum(model.weight.value**4)


class Wall(eqx.Module):
    """−θ₀ up to θ₀ = 1, and nothing beyond."""

    def __call__(self, model):
        weight = model.weight.value[0]
        return -weight * jnp.where(weight < 1.0, 1.0, jnp.nan)


@pytest.mark.parametrize(
    ("objective", "why"),
    [
        (Unbounded(), "(?s)step size shrank.*differentiable.*unbounded below"),
        # the wall is a kink that is located, and crossed by the force that leads to it
        (Wall(), "(?s)NaN or infinite.*undefined where they went"),
    ],
    ids=["Unbounded", "Wall"],
)
def test_a_flow_that_cannot_go_on_keeps_what_it_has(objective, why):
    model = DiagonalLinear(gflow.Hadamard(jnp.array([1.0, 0.5]), jnp.array([0.8, 0.7])))
    with pytest.warns(UserWarning, match=why):
        run = gflow.simulate(model, objective, t1=100.0, error_bars=False)
    assert not run.successful
    assert 0.0 < run.t[-1] < 10.0
    assert np.all(np.isfinite(run.loss))
    assert np.all(np.isfinite(run.final.weight.value))
    assert run.loss[-1] < run.loss[0]


class Slope(eqx.Module):
    """−Σθ: θ = (s²e^{2t} − d²e^{−2t})/4 for ever."""

    def __call__(self, model):
        return -jnp.sum(model.weight.value)


def test_a_loss_beyond_the_floats_ends_the_run():
    model = DiagonalLinear(gflow.Hadamard(jnp.array([1.0]), jnp.array([0.8])))
    with pytest.warns(UserWarning, match=r"loss became NaN or infinite.*unbounded below"):
        run = gflow.simulate(model, Slope(), t1=1e3, rtol=1e-10, error_bars=False)
    assert not run.successful
    last = 0.5 * (math.log(np.finfo(float).max) + math.log(4) - 2 * math.log(1.8))
    assert run.t[-1] <= last
    assert np.all(np.isfinite(run.loss))
    exact = 2 * (math.log(1.8) + run.t) - math.log(4)  # d is lost beside s after t = 20
    late = run.t > 20
    assert late.any()
    np.testing.assert_allclose(
        run.observables["weight.log_abs"][late, 0], exact[late], rtol=0, atol=1e-9
    )


def test_raw_factors_say_where_they_stop_resolving():
    model = gflow.to_factors(small(math.log(1e-10)))
    times = [1.0, 10.0, 190.0]
    with pytest.warns(UserWarning, match=r"dormant weights have sunk.*gflow\.Hadamard"):
        run = gflow.simulate(model, HALF_SUM, t1=200.0, save=times, error_bars=False)
    assert not run.successful
    assert run.t[-1] < 60.0
    assert {1.0, 10.0} <= set(run.t)  # and what was not reached is left out
    u, v = run.leaves["weight"]["u"], run.leaves["weight"]["v"]
    s, d = np.abs(u + v), np.abs(u - v)
    ratio = np.min(np.minimum(s, d) / np.maximum(s, d), axis=1)
    floor = 32 * np.finfo(float).eps  # the last step kept is the last that still knows them
    assert floor < ratio[-1] < 1e-12 < ratio[0]


def test_an_interrupted_run_keeps_what_it_has(monkeypatch):
    module = importlib.import_module("gflow.integrate._run")
    rounds = []

    def interrupted(*args):
        rounds.append(1)
        if len(rounds) == 2:
            raise KeyboardInterrupt
        return run_round(*args)

    run_round = module.run_round
    monkeypatch.setattr(module, "run_round", interrupted)
    with pytest.warns(UserWarning, match="interrupted by the user"):
        run = gflow.simulate(small(-20.0), HALF_SUM, tau1=8.0, rtol=1e-11, error_bars=False)
    assert len(run.t) > 10
    assert not run.successful


# --- compile once ---------------------------------------------------------------------


class Hashable(list):
    __hash__ = object.__hash__
    __eq__ = object.__eq__


class Counted(eqx.Module):
    """A loss that counts how often it is traced."""

    inner: SquaredLoss
    count: Hashable = eqx.field(static=True)

    def __call__(self, model):
        self.count.append(1)
        return self.inner(model)


def test_another_alpha_seed_tolerance_end_or_decay_does_not_compile():
    objective = Counted(HALF_SUM, Hashable())
    gflow.simulate(small(-10.0), objective, tau1=1.0, decay=0.01)
    objective.count.clear()
    gflow.simulate(small(-1e6, seed=1), objective, t1=4e6, decay=0.02, rtol=1e-6)
    gflow.simulate(small(-100.0, seed=2), objective, tau1=2, decay=0.03, rtol=1e-4)
    assert len(objective.count) <= 2  # what it closes over is read once a run


# --- bad input ------------------------------------------------------------------------


class TwoLosses(eqx.Module):
    def __call__(self, model):
        return model.weight.value


class Pair(eqx.Module):
    def __call__(self, model):
        return jnp.sum(model.weight.value), 1.0


class Root(eqx.Module):
    """√(0·θ²): finite, without a finite gradient."""

    def __call__(self, model):
        return jnp.sqrt(0.0 * jnp.sum(model.weight.value**2))


class NotFinite(eqx.Module):
    def __call__(self, model):
        return jnp.log(-jnp.sum(model.weight.value**2))


class ReadsFactors(eqx.Module):
    def __call__(self, model):
        return jnp.sum(model.weight.log_s)


class TwoLeaves(eqx.Module):
    a: gflow.Parameter
    b: gflow.Parameter

    def __call__(self, x):
        return jnp.dot(x, self.a.value + self.b.value)


LEAF = small().weight
HADAMARD = gflow.Hadamard(jnp.array([1.0, 0.5, 0.2, 0.1]), jnp.array([0.5, 0.2, 0.5, 0.2]))


def ran(leaf, time):
    record = {"log_s": np.asarray(leaf.log_s), "log_d": np.asarray(leaf.log_d)}
    return leaf.at_record(record, time)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        # what build_flow checks
        (dict(model=DiagonalLinear(gflow.Frozen(GAIN))), "DiagonalLinear has nothing to train"),
        (dict(model=TwoLeaves(LEAF, LEAF)), "Leaves 'a' and 'b' are the same object.*Tied"),
        (dict(model=Linear(jnp.ones(4, complex))), "Leaf 'weight' is complex"),
        (dict(model=Linear(jnp.ones(4, jnp.float32))), "float32.*jax_enable_x64.*allow_float32"),
        (dict(model=Linear(jnp.array([1, jnp.nan, 1, 1]))), "Leaf 'weight' has NaN"),
        (
            dict(model=DiagonalLinear(gflow.Hadamard(jnp.ones(4), jnp.array([2, 2, -1.0, 2])))),
            r"\|u\| = \|v\| at index \(2,\).*allow_frozen_sign",
        ),
        (dict(decay={"wieght": 0.1}), "decay names leaf 'wieght'.*Did you mean.*'weight'"),
        (dict(decay=-0.1), "decay = -0.1 for every leaf.*≥ 0"),
        (dict(decay={"weight": math.nan}), "decay = nan for weight"),
        (dict(decay=math.inf), "decay = inf"),
        (dict(objective=TwoLosses()), r"scalar loss; it returned shape \(4,\).*average"),
        (dict(objective=Pair()), "scalar loss; it returned <class 'tuple'>"),
        (dict(objective=NotFinite()), "loss at the start is nan.*almost"),
        (dict(objective=Root()), "no finite gradient in .'weight'"),
        # what simulate checks
        (dict(rtol=0.0), "rtol = 0.0: choose"),
        (dict(rtol=1e-16), "rtol = 1e-16: choose.*1.4e-14"),
        (dict(rtol=1.0), "rtol = 1.0: choose"),
        (dict(rtol=math.nan), "rtol = nan: choose"),
        (dict(solver=diffrax.Euler()), "Euler.* has no error estimate.*Rodas5P"),
        (
            dict(model=TwoLeaves(ran(LEAF, 3.0), ran(HADAMARD, 4.0))),
            r"different times \[3.0, 4.0\].*gflow.rescale",
        ),
        (dict(t1=1.0, tau1=1.0), "t1 = 1.0 or tau1 = 1.0, not both"),
        (dict(t1=0.0), "end at t1 = 0.0, but the model stands at t = 0.0"),
        (dict(t1=-1), "end at t1 = -1.0"),
        (dict(t1=math.inf), "end at t1 = inf.*finite"),
        (dict(t1=math.nan), "end at t1 = nan"),
        (dict(t1=3.0, model=DiagonalLinear(ran(LEAF, 3.0))), "the model stands at t = 3.0"),
        (dict(log_alpha=math.nan), "log_alpha = nan must be finite"),
        (dict(save=[1.0, 6.0]), "save contains t = 6.0, outside the run from t = 0.0 to 5.0"),
        (dict(save=[-1.0]), "save contains t = -1.0"),
        (dict(save=math.nan), "save contains t = nan"),
        (
            dict(t1=None, objective=SquaredLoss(INPUTS, 0 * TARGETS), model=Linear(jnp.zeros(4))),
            "The start is stationary.*t1 or tau1",
        ),
        (dict(t1=None, decay={"weight": lambda t: 0.1}), "decay of .* depends on time.*t1 or tau1"),
        (dict(decay={"weight": lambda t: 0.1 - 0.1 * t}), "'weight' is -.* at t = 1.*≥ 0"),
        # what τ needs
        (
            dict(tau1=2.0, model=Linear(jnp.ones(4))),
            "tau1 = 2.0.*no Hadamard or Factored leaf.*Pass",
        ),
        (dict(tau1=2.0, model=DiagonalLinear(HADAMARD)), "'weight'. were built without log_alpha"),
        (
            dict(tau1=2.0, model=TwoLeaves(LEAF, small(-9.0).weight)),
            "disagree on log_alpha .a: -4.6, b: -9",
        ),
        (
            dict(tau1=2.0, model=TwoLeaves(LEAF, HADAMARD)),
            "disagree on log_alpha .a: -4.6, b: unknown",
        ),
        (dict(tau1=2.0, log_alpha=0.5), "log_alpha = 0.5 was given, so α ≥ 1"),
        (dict(tau1=2.0, model=small(0.0)), "log_alpha = 0 on every leaf, so α ≥ 1"),
    ],
)
def test_bad_input_is_named_with_its_remedy(kwargs, message):
    kwargs = {"model": small(), "objective": HALF_SUM, "t1": 5.0, **kwargs}
    if "tau1" in kwargs and kwargs["t1"] == 5.0:
        kwargs["t1"] = None
    model, objective = kwargs.pop("model"), kwargs.pop("objective")
    with pytest.raises(ValueError, match=f"(?s){message}"):
        gflow.simulate(model, objective, **kwargs)


def test_an_objective_of_more_than_effective_weights_is_refused():
    with pytest.raises(AttributeError, match=r"only `.value` of a parameter.*not `.log_s`"):
        gflow.simulate(small(), ReadsFactors(), t1=1.0)


def test_tau_and_times_of_a_trajectory():
    run = gflow.simulate(DiagonalLinear(HADAMARD), HALF_SUM, t1=5.0, error_bars=False)
    with pytest.raises(ValueError, match=r"τ = t/log.*built without log_alpha"):
        _ = run.tau
    with pytest.raises(ValueError, match="τ = t/log"):
        run.model(at=1.0)
    with pytest.raises(ValueError, match="either at=τ or t="):
        run.model()
    with pytest.raises(ValueError, match="either at=τ or t="):
        run.model(1.0, t=1.0)
    with pytest.raises(ValueError, match=r"t = 5.5 is outside the run.*0 to 5"):
        run.model(t=5.5)
    given = gflow.simulate(
        DiagonalLinear(HADAMARD), HALF_SUM, tau1=2.0, log_alpha=-3, error_bars=False
    )
    assert given.tau[-1] == 2.0
    assert given.t[-1] == 6.0


def test_a_frozen_sign_is_allowed_where_asked_for():
    model = gflow.models.woodworth(4, log_alpha=-5.0)
    assert np.all(model.weight.value == 0.0)
    equal = DiagonalLinear(gflow.Hadamard(jnp.full(4, 1e-2), jnp.full(4, 1e-2)))
    run = gflow.simulate(equal, HALF_SUM, t1=60.0, error_bars=False, allow_frozen_sign=True)
    assert np.all(run.observables["weight"] > 0)
    assert np.all(np.isneginf(run.leaves["weight"]["log_d"]))


@pytest.mark.parametrize("x64", [True, False])
def test_single_precision_runs_where_asked_for(x64):
    exact = gflow.simulate(small(seed=4), HALF_SUM, t1=40.0, error_bars=False)
    weight = gflow.to_factors(small(seed=4)).weight
    u, v = np.float32(weight.u), np.float32(weight.v)
    with jax.enable_x64(x64):
        inputs, targets = jnp.asarray(np.float32(INPUTS)), jnp.asarray(np.float32(TARGETS))
        model = DiagonalLinear(gflow.Hadamard(jnp.asarray(u), jnp.asarray(v), log_alpha=-4.6))
        run = gflow.simulate(
            model, SquaredLoss(inputs, targets, "half_sum"), t1=40.0, rtol=1e-5,
            allow_float32=True, decay=0.0, error_bars=False,
        )  # fmt: skip
    assert run.observables["weight"].dtype == np.float32
    np.testing.assert_allclose(
        run.observables["weight"][-1], exact.observables["weight"][-1], rtol=0, atol=1e-3
    )
