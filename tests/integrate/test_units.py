"""Units through every saddle of order three: times, plateaus, bars, what is conserved, the cost."""

import math

import numpy as np
import pytest
from small_heads import (
    AT_THOUSANDTH,
    LIMITS,
    MIDDLES,
    PLATEAUS,
    cubes,
    cubes_in_the_limit,
    cubes_loss,
    heads,
    loss,
)

import gflow


@pytest.fixture(scope="module")
def runs():
    """At a loose tolerance, by ε."""
    return {e: gflow.simulate(heads(e), loss, rtol=1e-6) for e in (1e-3, 1e-4, 1e-20, 1e-100)}


def half_drops(run):
    return [run.crossing(gflow.stop.loss_below(level)) for level in MIDDLES]


@pytest.mark.parametrize("epsilon", [1e-3, 1e-20, 1e-100])
def test_every_drop_comes_when_it_should_and_within_its_bar(runs, epsilon):
    run = runs[epsilon]
    exact, known = (AT_THOUSANDTH, 1e-11) if epsilon == 1e-3 else (LIMITS / epsilon, 2e-9)
    for stage, passage, t in zip(run.stages(), half_drops(run), exact, strict=True):
        assert passage.t == pytest.approx(t, rel=1e-6)
        assert abs(passage.t - t) <= passage.error + known * t
        assert passage.error < 1e-5 * t
        # a stage is where the loss is midway between its own plateaus
        assert stage.t == pytest.approx(t, rel=1e-6)
        assert stage.level[0] == "loss"
    assert run.status is gflow.Status.converged


@pytest.mark.parametrize("epsilon", [1e-20, 1e-100])
def test_plateaus_heads_and_ranks(runs, epsilon):
    stages = runs[epsilon].stages()
    np.testing.assert_allclose([s.loss for s in stages], PLATEAUS[1:], rtol=1e-10)
    for stage, head in zip(stages, (1, 3, 0, 2), strict=True):
        assert stage.activated == [("v", (head,)), ("k", (head,)), ("q", (head,))]
        assert not stage.deactivated
    assert [int(s.rank["k"]) for s in stages] == [1, 2, 3, 4]
    assert runs[epsilon].loss[-1] == pytest.approx(PLATEAUS[-1], rel=1e-13)


def test_at_finite_size_the_plateau_slopes(runs):
    assert runs[1e-3].stages()[0].loss == pytest.approx(PLATEAUS[1], rel=1e-5)
    assert runs[1e-3].loss[-1] == pytest.approx(PLATEAUS[-1], rel=1e-13)


def test_steps_hardly_depend_on_the_size_of_the_start(runs):
    steps = {e: sum(run.statistics[n] for n in ("accepted", "rejected")) for e, run in runs.items()}
    assert steps[1e-100] <= 3 * steps[1e-4]
    # Tsit5 takes 21 000 steps of six gradients at ε = 1e-3, as many more as ε is smaller; here a
    # step has two Jacobians of 46 columns and ten fields
    assert steps[1e-3] * (2 * 46 + 10) < 0.25 * 6 * 21_000


@pytest.mark.parametrize("epsilon", [1e-3, 1e-100])
def test_what_heads_conserve(runs, epsilon):
    # v² − |k|² and |k|² − |q|², of the size of the head at the time
    run = runs[epsilon]
    v, k, q = (run.leaves[name] for name in "vkq")
    sizes = v["log_size"]
    squares = [np.sum(x["direction"].reshape(*sizes.shape, -1) ** 2, axis=-1) for x in (v, k, q)]
    for one, other in ((0, 1), (1, 2)):
        balance = squares[one] - squares[other]
        drift = balance - balance[0] * np.exp(2 * (sizes[0] - sizes))
        dormant = sizes < math.log(0.1)
        assert np.max(np.abs(drift)) < 1e-6
        assert np.max(np.abs(drift), where=dormant, initial=0.0) < 1e-6


def test_where_t_has_no_digits_left_lapses_have(runs):
    # the last drop is at the same distance from its plateau whatever ε is
    left = [half_drops(runs[e])[-1].remaining for e in (1e-20, 1e-100)]
    for e in (1e-20, 1e-100):
        run = runs[e]
        drop = [run.crossing(gflow.stop.loss_below(PLATEAUS[-1] + x)) for x in (1e-2, 1e-6)]
        width = drop[0].remaining - drop[1].remaining
        assert run.t[-1] * np.finfo(float).eps > 1e3 or e == 1e-20
        left.append(width)
    assert left[2] == pytest.approx(left[3], rel=1e-3)
    assert np.all(runs[1e-100].lapses[1:] > 0.0)
    np.testing.assert_allclose(np.sum(runs[1e-100].lapses), runs[1e-100].t[-1], rtol=1e-13)


def test_an_end_a_condition_and_times_between(tmp_path):
    epsilon, whole = 1e-100, gflow.simulate(heads(1e-100), loss)
    wanted = np.array([1.0, 20.0, 20.5]) / epsilon
    run = gflow.simulate(heads(epsilon), loss, t1=30 / epsilon, save=wanted)
    assert run.status is gflow.Status.reached
    assert run.t[-1] == 30 / epsilon
    assert np.all(np.isin(wanted, run.t))
    assert run.remaining[0] == pytest.approx(run.t[-1], rel=1e-12)
    for t in (wanted[1], run.t[-1]):
        for name in "vkq":
            here, there = (getattr(r.model(t=t), name).value for r in (whole, run))
            np.testing.assert_allclose(here, there, rtol=1e-6, atol=0.0)
    # what comes after is the same, with time counted on
    after = gflow.simulate(run.final, loss)
    assert after.t[0] == run.t[-1]
    for found, stage in zip(after.stages(), whole.stages()[2:], strict=True):
        assert found.t == pytest.approx(stage.t, rel=1e-7)
    stopped = gflow.simulate(heads(epsilon), loss, stop=gflow.stop.loss_below(0.3))
    assert stopped.status is gflow.Status.stopped
    assert stopped.loss[-1] == pytest.approx(0.3, rel=1e-12)
    assert stopped.t[-1] == pytest.approx(whole.crossing(gflow.stop.loss_below(0.3)).t, rel=1e-12)
    path = tmp_path / "run.nc"
    run.save(path)
    read = gflow.Trajectory.load(path, like=heads(epsilon))
    assert [s.t for s in read.stages()] == [s.t for s in run.stages()]
    np.testing.assert_array_equal(read.remaining, run.remaining)
    np.testing.assert_array_equal(read.final.k.value, run.final.k.value)
    assert read.final.k.units == "heads"


def test_at_rest_a_run_goes_to_its_end_at_once():
    run = gflow.simulate(heads(1e-3), loss, t1=1e40, rtol=1e-6)
    assert run.status is gflow.Status.reached
    assert run.t[-1] == 1e40
    assert run.statistics["accepted"] < 400
    np.testing.assert_allclose(run.model(t=1e30).v.value, run.final.v.value, rtol=1e-14)


@pytest.mark.parametrize("epsilon", [1e-20, 1e-100])
def test_scalar_units_against_the_limit(epsilon):
    times, who, losses = cubes_in_the_limit()
    run = gflow.simulate(cubes(epsilon), cubes_loss, rtol=1e-9)
    assert run.successful
    for stage, t, factor, level in zip(run.stages(), times, who, losses[1:], strict=True):
        assert stage.activated == [factor]
        assert stage.t * epsilon == pytest.approx(t, rel=2e-9)
        assert abs(stage.t * epsilon - t) <= stage.error * epsilon
        assert stage.loss == pytest.approx(level, rel=1e-9, abs=1e-15)
