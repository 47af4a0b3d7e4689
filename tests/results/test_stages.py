"""Plateaus and transitions read off a run, and the crossings that time them."""

import itertools
import math

import numpy as np
import pytest
from staged_runs import LOSSES, SADDLES, model, objective, run

import gflow
from gflow.results._crossings import Quantity, first_crossing
from gflow.results._plateaus import (
    DIP,
    plateau_steps,
)
from gflow.results._record import Record
from gflow.results._stages import (
    active_weights,
)

# Plateaus of a given descent


def zigzag(*turns, between=20):
    """exp of a piecewise linear height through `turns`, `between` steps a leg."""
    legs = [np.linspace(a, b, between, endpoint=False) for a, b in itertools.pairwise(turns)]
    return np.exp(np.concatenate([*legs, [turns[-1]]]))


def test_plateaus_are_the_valleys_between_peaks():
    # low start, two transitions with a valley between them, low end
    assert plateau_steps(zigzag(-30, 0, -20, -2, -31)) == [0, 40, 80]


@pytest.mark.parametrize("shift", [-600.0, 0.0, 600.0])
def test_the_unit_of_the_loss_does_not_matter(shift):
    descent = zigzag(-30, 0, -20, -2, -31) * math.exp(shift)
    assert plateau_steps(descent) == [0, 40, 80]


@pytest.mark.parametrize(
    ("dip", "count"), [(0.5 * DIP, 1), (0.9 * DIP, 1), (1.1 * DIP, 2), (1e5 * DIP, 2)]
)
def test_two_bumps_are_one_transition_unless_the_loss_rests_between(dip, count):
    descent = zigzag(-30, 1, -math.log(dip), 0, -30)
    assert len(plateau_steps(descent)) == 1 + count


@pytest.mark.parametrize("seed", range(5))
def test_rounding_at_the_end_of_a_run_is_no_transition(seed):
    # the last plateau is 1e-16 of the largest descent, with random digits and signs
    descent = zigzag(-30, 0, -20, -2, -31, between=50)
    rng = np.random.default_rng(seed)
    tail = 1e-16 * rng.standard_normal(300) * 10.0 ** rng.uniform(-4, 1, 300)
    steps = plateau_steps(np.concatenate([descent, tail]))
    assert steps[:2] == [0, 100]
    assert len(steps) == 3
    assert steps[2] >= 180


def test_noise_within_a_transition_does_not_split_it():
    rng = np.random.default_rng(0)
    descent = zigzag(-30, 0, -20, -2, -31, between=200)
    rough = descent * np.exp(rng.uniform(-1, 1, descent.size))  # at most a factor e² < DIP
    steps = plateau_steps(rough)
    assert len(steps) == 3
    assert abs(steps[1] - 400) < 40


def test_a_run_may_begin_or_end_within_a_transition():
    assert plateau_steps(zigzag(0, -30)) == [0, 20]
    assert plateau_steps(zigzag(0, -30, 0, -30)) == [0, 20, 60]
    # one that is not over at the end has not been made
    assert plateau_steps(zigzag(-30, 0)) == [0]
    assert plateau_steps(zigzag(-30, 0, -20, -2)) == [0, 40]


# Stages of a run


@pytest.mark.parametrize("decades", [40, 64, 128])
def test_stages_of_the_fixture(decades):
    trajectory = run(decades)
    stages = trajectory.stages()
    assert [s.activated for s in stages] == [[("weight", (i,))] for i in (0, 2, 3)]
    assert [s.deactivated for s in stages] == [[], [("weight", (0,))], []]
    assert [int(s.rank["weight"]) for s in stages] == [1, 1, 2]
    np.testing.assert_allclose([s.value["weight"] for s in stages], SADDLES, atol=1e-2)
    np.testing.assert_allclose([s.loss for s in stages], LOSSES, atol=1e-4)
    for stage, index in zip(stages, (0, 2, 3), strict=True):
        assert stage.tau * trajectory.scale == pytest.approx(stage.t, rel=1e-15)
        assert trajectory.loss[stage.step] == pytest.approx(stage.loss, rel=1e-3)
        # t is where the new weight passes half its plateau value
        half = trajectory.model(t=stage.t).weight.value[index]
        assert float(half) == pytest.approx(0.5 * stage.value["weight"][index], rel=1e-7)
        np.testing.assert_allclose(stage.model.weight.value, stage.value["weight"], rtol=1e-9)


def test_plateaus_lie_between_the_transitions():
    trajectory = run(64)
    stages = trajectory.stages()
    for stage, later in itertools.pairwise(stages):
        assert stage.t < trajectory.t[stage.step] < later.t


def test_transitions_that_overtake_each_other_are_one_stage():
    # at α = 1e-4 weights 2 and 3 come together (2607.12332)
    first, both = run(4).stages()
    assert first.activated == [("weight", (0,))]
    assert both.activated == [("weight", (2,)), ("weight", (3,))]
    # and on the line of interpolators weight 0 then stays where it was on its way to zero
    assert both.deactivated == []
    assert 0.05 < both.value["weight"][0] < 0.8


@pytest.mark.parametrize("decades", [32, 64])
def test_error_bars_contain_the_error(decades):
    # the level, half the measured plateau, is part of what the bar has to cover
    pairs = list(zip(run(decades).stages(), run(decades, 1e-12).stages(), strict=True))
    assert len(pairs) == 3
    for stage, exact in pairs:
        assert abs(stage.t - exact.t) <= stage.error + exact.error
        assert stage.error < 0.1


@pytest.mark.parametrize("rtol", [1e-5, 1e-7, 1e-9])
def test_error_bars_of_a_crossing_follow_the_tolerance(rtol):
    level, quantity = 0.7, Quantity("weight", (2,))
    exact = first_crossing(run(40, 1e-12), quantity, level)
    found = first_crossing(run(40, rtol), quantity, level)
    assert abs(found.t - exact.t) <= found.error
    assert found.error < 1e3 * rtol * exact.t


def test_crossings_of_the_loss_and_of_either_sign():
    trajectory = run(40)
    for quantity, level in [
        (Quantity(sign=-1.0), -0.3),
        (Quantity("weight", (0,)), 0.4),
        (Quantity("weight", (3,), -1.0), 0.1),
    ]:
        crossing = first_crossing(trajectory, quantity, level)
        record = trajectory.record_at(crossing.t)
        assert float(quantity.of(record)) == pytest.approx(level, rel=1e-9)
        assert trajectory.t[crossing.step] <= crossing.t <= trajectory.t[crossing.step + 1]
        # first: everything recorded before lies below
        before = quantity.of({"loss": trajectory.loss, "leaves": trajectory.leaves})
        assert np.all(before[: crossing.step + 1] < level)


def test_a_level_that_is_not_reached_has_no_crossing():
    assert first_crossing(run(40), Quantity("weight", (0,)), 0.9) is None
    assert first_crossing(run(40), Quantity("weight", (1,)), 0.01) is None
    # weight 0 passes 0.4 upwards once, and falls through it later
    once = first_crossing(run(40), Quantity("weight", (0,)), 0.4)
    assert first_crossing(run(40), Quantity("weight", (0,)), 0.4, once.step + 1) is None


def recorded(t, loss):
    """A run of which only the loss was kept, as after loading from a file."""
    refined = {"loss": loss, "leaves": {}}
    provenance = dict(log_alpha=math.nan, status=gflow.Status.reached, method="", statistics={})
    return Record(
        t=t, loss=loss, observables={}, error={}, leaves={}, descent=loss, refined=refined,
        **provenance,
    )  # fmt: skip


@pytest.mark.parametrize("steps", [100, 300, 1000])
def test_the_first_of_several_crossings_by_interpolation(steps):
    t = np.sort(np.random.default_rng(0).uniform(0, 20, steps))
    trajectory = recorded(t, np.sin(t))
    for start, turn in [(0, 0), (np.searchsorted(t, 3.0), 1), (np.searchsorted(t, 9.0), 2)]:
        crossing = first_crossing(trajectory, Quantity(), 0.5, int(start))
        exact = math.pi / 6 + 2 * math.pi * turn
        assert abs(crossing.t - exact) <= crossing.error < 40 / steps
    assert first_crossing(trajectory, Quantity(), 0.5, 1, int(np.searchsorted(t, 0.4))) is None


@pytest.mark.parametrize("steps", [60, 120])
def test_interpolation_knows_its_error(steps):
    # the level of a logistic growth at random places between the steps; a bar is an estimate,
    # so one in a hundred may be exceeded
    rng, outside = np.random.default_rng(0), 0
    for _ in range(200):
        t, level = np.sort(rng.uniform(0, 10, steps)), rng.uniform(0.2, 0.8)
        crossing = first_crossing(recorded(t, 1 / (1 + np.exp(10 - 2 * t))), Quantity(), level)
        outside += abs(crossing.t - (5 + 0.5 * math.log(level / (1 - level)))) > crossing.error
    assert outside <= 2


def test_a_weight_on_its_way_to_zero_is_not_active():
    # on the second plateau weight 0 is still above √α, decaying at |g| = 1/20
    trajectory = run(64)
    step = trajectory.stages()[1].step
    size = trajectory.observables["weight.log_abs"][step]
    assert size[0] > 0.5 * trajectory.log_alpha
    np.testing.assert_array_equal(
        active_weights(trajectory, step)["weight"], [False, False, True, False]
    )


def test_nothing_is_active_at_the_start_and_no_stage_on_the_first_plateau():
    trajectory = gflow.simulate(model(64), objective(), tau1=0.6)
    assert not active_weights(trajectory, 0)["weight"].any()
    assert trajectory.stages() == []
