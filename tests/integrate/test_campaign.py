"""A sample of the random models of `campaign`, and what makes their reference one."""

import dataclasses
import math

import numpy as np
import pytest
from campaign import compare, examine, simulated, summary
from plain_flows import FAMILIES, LOSSES, PAIRS, SMOOTH, draw, energy, packed, unpacked, velocity


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_descends_its_energy(family, kind):
    """Factors move by −∇(L + (λ/2)‖factors‖²), s and d, of norm √2 in (u, v), by twice that."""
    p = dataclasses.replace(draw(3, family, kind), log_alpha=math.log(0.3), decay=0.1)
    state = packed(p)
    steps = 1e-5 * np.eye(len(state))
    gradient = [(energy(p, state + e) - energy(p, state - e)) / 2e-5 for e in steps]
    like = unpacked(p, state)
    metric = np.concatenate([np.full(x.size, 2.0 if n in PAIRS else 1.0) for n, x in like.items()])
    assert np.max(np.abs(gradient)) > 0.01
    np.testing.assert_allclose(velocity(p, state), -metric * gradient, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("family", "decays"),
    [("hadamard", False), pytest.param("mixed", True, marks=pytest.mark.slow)],
)
def test_weights_losses_and_stage_times_lie_within_their_bars(family, decays):
    outcomes = []
    for seed, kind in enumerate(SMOOTH):
        p = draw(seed, family, kind)
        outcomes.append(examine(dataclasses.replace(p, decay=0.02 * decays)))
    assert all(o.successful for o in outcomes)
    assert not [line for o in outcomes for line in o.failures()], summary(outcomes)
    assert sum(len(o.stages.error) for o in outcomes) >= len(outcomes)
    ratios = np.concatenate([o.numbers.ratio for o in outcomes])
    assert len(ratios) > 100
    assert np.median(ratios) <= 10.0


def test_another_problem_lies_outside():
    p = draw(0, "hadamard", "squared")
    p = dataclasses.replace(p, decay=0.0)
    other = compare(dataclasses.replace(p, decay=1e-5), simulated(p))
    assert np.mean(other.numbers.outside) > 0.5
    assert other.stages.outside.all()
