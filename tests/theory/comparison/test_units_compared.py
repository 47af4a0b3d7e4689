"""Runs of units through saddles of order three beside the limit algorithm: what refutes it."""

import dataclasses
import math

import numpy as np
import pytest
from small_heads import cubes, cubes_loss, heads, loss

import gflow
import theory


@pytest.fixture(scope="module")
def path():
    return theory.gradual_rank.predict(heads(1e-20), loss)


@pytest.fixture(scope="module")
def runs():
    return {e: gflow.simulate(heads(e), loss) for e in (1e-2, 1e-4, 1e-100)}


@pytest.mark.parametrize("epsilon", [pytest.param(1e-4, marks=pytest.mark.slow), 1e-100])
def test_every_claim_is_confirmed(path, runs, epsilon):
    table = theory.compare(runs[epsilon], path)
    assert table.passed, str(table)
    assert table.counts["confirmed"] == len(table.claims) > 24
    for row, stage in zip(table.transitions, path.stages, strict=True):
        assert row.tau_measured == pytest.approx(row.tau_predicted, rel=1e-6)
        assert row.tau_measured == pytest.approx(stage.tau, rel=2e-4)
        assert row.rank_predicted == row.rank_measured
    text = str(table)
    assert f"α = 10^-{-math.log10(epsilon):.0f}" in text
    assert max(len(line) for line in text.splitlines()) < 200


@pytest.mark.slow
def test_at_a_large_scale_nothing_is_claimed(path, runs):
    # a hundred times α is more than is trusted, met or not
    table = theory.compare(runs[1e-2], path)
    assert table.counts["refuted"] == 0
    assert table.counts["undecided"] > 0
    assert any("would decide" in claim.reason for claim in table.claims)


@pytest.mark.slow
def test_two_runs_give_the_limits(path, runs):
    table = theory.compare(runs[1e-4], path, second=runs[1e-100])
    assert table.passed, str(table)
    limits = [row.limit for row in table.transitions]
    np.testing.assert_allclose(limits, [s.tau for s in path.stages], rtol=1e-6)


def changed(path, k, **fields):
    stages = list(path.stages)
    stages[k] = dataclasses.replace(stages[k], **fields)
    return dataclasses.replace(path, stages=stages)


def without(path, k):
    return dataclasses.replace(path, stages=path.stages[:k] + path.stages[k + 1 :])


WRONG = {
    "a time by 1e-5": lambda p: changed(p, 1, tau=p.stages[1].tau * (1 + 1e-5)),
    "the last time by 1e-4": lambda p: changed(p, 3, tau=p.stages[3].tau * (1 - 1e-4)),
    "another head": lambda p: changed(p, 2, activated=p.stages[3].activated),
    "a loss by 5 %": lambda p: changed(p, 0, loss=1.05 * p.stages[0].loss),
    "a sign": lambda p: changed(
        p, 1, value=p.stages[1].value | {"q": -np.asarray(p.stages[1].value["q"])}
    ),
    "a rank": lambda p: changed(p, 1, rank=p.stages[1].rank | {"k": np.asarray(3)}),
    "a missing stage": lambda p: without(p, 2),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_theories_are_refuted(path, runs, what):
    table = theory.compare(runs[1e-100], WRONG[what](path))
    assert table.counts["refuted"] > 0, what


@pytest.mark.slow
def test_offsets_are_told_where_time_has_digits():
    path, run = theory.gradual_rank.predict(cubes(1e-4), cubes_loss), None
    run = gflow.simulate(cubes(1e-4), cubes_loss, rtol=1e-10)
    right = theory.compare(run, path)
    assert right.counts["refuted"] == 0
    misses = [row.offset_measured - row.offset_predicted for row in right.transitions]
    np.testing.assert_allclose(misses, 0.0, atol=2e-3)
    wrong = changed(path, 0, offset=path.stages[0].offset + 0.5)
    assert theory.compare(run, wrong).counts["refuted"] > 0


@pytest.mark.slow
def test_another_start_is_told(path):
    run = gflow.simulate(heads(1e-8, seed=4), loss, rtol=1e-6)
    table = theory.compare(run, path)
    assert any(c.key == "start.factors" and c.verdict == "refuted" for c in table.claims)


def test_another_order_is_another_model(path, runs):
    with pytest.raises(ValueError, match=r"of order 2, .* order 3"):
        theory.compare(runs[1e-4], dataclasses.replace(path, order=2))


def test_figures_have_the_axis_of_their_order(path, runs):
    ax = theory.compare(runs[1e-4], path).plot()
    assert ax.get_xlabel() == r"rescaled time $\tau = \alpha\,t$"
    left, right = ax.get_xlim()
    assert left < path.stages[0].tau < path.stages[3].tau < right < 130


def test_a_run_from_a_file_is_compared(path, runs, tmp_path):
    runs[1e-100].save(tmp_path / "run.nc")
    read = gflow.Trajectory.load(tmp_path / "run.nc", like=heads(1e-100))
    table = theory.compare(read, path)
    assert table.counts["refuted"] == 0
    measured = [row.tau_measured for row in table.transitions]
    np.testing.assert_allclose(measured, [s.tau for s in path.stages], rtol=1e-6)
    assert theory.compare(read, changed(path, 1, tau=1.01 * path.stages[1].tau)).counts["refuted"]
