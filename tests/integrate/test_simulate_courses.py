"""Runs that are continued, saved, read at any time and printed, and how they end."""

import importlib
import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from counted_losses import Counted, Hashable
from terminals import PLACES, standard_error
from two_examples import DECAYS, HALF_SUM, INPUTS, TARGETS, mixed, small

import gflow
from gflow.models import DiagonalLinear

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
    for part in ("t = 0 … 5", "in log coordinates", "reached the requested time"):
        assert part in text


@pytest.mark.parametrize(("stream", "shown"), PLACES)
def test_progress_is_a_bar_where_it_is_seen(stream, shown, monkeypatch, capsys):
    said = standard_error(monkeypatch, stream)
    run = gflow.simulate(small(), HALF_SUM, t1=5.0, error_bars=False, progress=True)
    assert capsys.readouterr().out == ""
    assert ("5/5 of flow time" in said.getvalue()) == shown
    assert (f"steps={run.statistics['accepted']}" in said.getvalue()) == shown
    assert bool(said.getvalue()) == shown


def test_progress_of_a_run_to_rest_has_no_goal(monkeypatch):
    said = standard_error(monkeypatch)
    run = gflow.simulate(small(), HALF_SUM, error_bars=False, progress=True)
    assert f"{run.t[-1]:.6g} of flow time [" in said.getvalue()
    assert "%" not in said.getvalue()


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
        run = gflow.simulate(small(-20.0), HALF_SUM, tau1=8.0, rtol=1e-13, error_bars=False)
    assert len(run.t) > 10
    assert not run.successful


# --- compile once ---------------------------------------------------------------------


def test_another_alpha_seed_tolerance_end_or_decay_does_not_compile():
    objective = Counted(HALF_SUM, Hashable())
    gflow.simulate(small(-10.0), objective, tau1=1.0, decay=0.01)
    objective.count.clear()
    gflow.simulate(small(-1e6, seed=1), objective, t1=4e6, decay=0.02, rtol=1e-6)
    gflow.simulate(small(-100.0, seed=2), objective, tau1=2, decay=0.03, rtol=1e-4)
    assert len(objective.count) <= 2  # what it closes over is read once a run
