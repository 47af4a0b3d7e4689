"""Parts of the condensation experiment: what holds is confirmed, a wrong number refuted."""

import dataclasses

import numpy as np
import pytest

import gflow
import theory
from theory.condensation import EffectiveChain
from theory.reproduce.condensation.escape import measure as escape
from theory.reproduce.condensation.escape.problem import start


@pytest.mark.slow
def test_a_blow_up_is_met_and_another_refuted():
    one = start(0)
    out = gflow.escape(one.model, EffectiveChain(one.v), level=escape.FAR, rtol=1e-11)
    prediction = escape.blow_up(one)
    assert theory.compare(out, prediction).passed
    (time,) = prediction.numbers
    for factor in (2.0, 0.5, 1.0 + 1e-6):
        wrong = dataclasses.replace(time, predicted=factor * time.predicted)
        table = theory.compare(out, theory.Prediction.of(wrong))
        assert table.rows[0].verdict == "refuted"


@pytest.mark.slow
def test_an_energy_below_its_bound_is_refuted():
    """By the line of another start, whose energy is larger."""
    first, other = start(0), start(1)
    energies = [a @ b @ c for a, b, c in (first.chain, other.chain)]
    low, high = (first, other) if energies[0] < energies[1] else (other, first)
    out = gflow.escape(low.model, EffectiveChain(low.v), level=escape.FAR, rtol=1e-11)
    assert not np.isclose(*energies)
    rows = theory.compare(out, theory.Prediction.of(*escape.blow_up(high).curves)).rows
    assert rows[0].verdict == "refuted"
