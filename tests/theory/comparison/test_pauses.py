"""An orbit that pauses near another saddle: the plateau is beyond, and the pause is no stage.

One weight in f′(w) = −((w − c)² + e)(1 − w), from 0 to its minimum at 1, with a pause of π/√e/w at
c. Without the orbits a run that ends in the pause refuted the plateau after it, and one that
passes it had a transition too many.
"""

import functools

import equinox as eqx
import jax
import pytest

import gflow
import theory


class OneWeight(eqx.Module):
    w: gflow.Hadamard

    def __call__(self):
        return self.w.value[0]


def _loss(model, centre, gap):
    u, rest = model() - centre, 1.0 - centre
    return 1.0 - (rest * (u**3 / 3 + gap * u) - u**4 / 4 - gap * u**2 / 2)


def _model(decades):
    return OneWeight(gflow.Hadamard.small(1, log10_alpha=-float(decades), key=jax.random.key(0)))


def _predicted(decades, centre=0.5, gap=1e-4):
    loss = functools.partial(_loss, centre=centre, gap=gap)
    return theory.gradual_rank.predict(_model(decades), loss)


@functools.cache
def _run(decades, after):
    """To `after` the time when half of the weight is there, which is within the pause."""
    loss = functools.partial(_loss, centre=0.5, gap=1e-4)
    t = _predicted(decades).at(log10_alpha=-float(decades)).t[0]
    return gflow.simulate(_model(decades), loss, t1=float(t) + after)


@pytest.mark.parametrize("decades", [16, 64])
@pytest.mark.parametrize("after", [5.0, 50.0, 200.0])
def test_a_run_that_ends_in_the_pause_refutes_nothing(decades, after):
    found = theory.compare(_run(decades, after), _predicted(decades))
    assert found.counts["refuted"] == 0, found
    claims = {c.key: c.verdict for c in found.claims}
    assert claims["stage1.loss"] == "undecided"
    assert claims["stage1.time"] == "confirmed"


@pytest.mark.parametrize("decades", [16, 64])
def test_a_run_that_passes_it_is_confirmed_as_a_whole(decades):
    run = _run(decades, 1000.0)
    assert len(run.stages()) == 2
    found = theory.compare(run, _predicted(decades))
    assert {c.key: c.verdict for c in found.claims if c.verdict != "confirmed"} == {}
    (path,) = [c for c in found.claims if c.key == "path.transitions"]
    assert "a pause on the orbit of stage 1" in path.reason


@pytest.mark.parametrize(("centre", "gap"), [(0.6, 1e-4), (0.5, 1e-2)])
def test_a_pause_at_another_place_or_none_explains_nothing(centre, gap):
    found = theory.compare(_run(64, 1000.0), _predicted(64, centre, gap))
    verdicts = {c.key: c.verdict for c in found.claims}
    assert verdicts["path.transitions"] == "refuted"
    assert verdicts["stage1.time"] == "refuted"


def test_a_pause_of_another_length_is_seen_in_the_time():
    found = theory.compare(_run(64, 1000.0), _predicted(64, 0.5, 1.01e-4))
    assert {c.key: c.verdict for c in found.claims}["stage1.time"] == "refuted"


def test_a_run_that_rests_for_ever_where_the_orbit_only_pauses_refutes_the_plateau():
    """With no gap the flow never passes c; a pause excuses no run that is longer than it."""
    loss = functools.partial(_loss, centre=0.6, gap=0.0)
    prediction = _predicted(64, centre=0.6)
    t = float(prediction.at(log10_alpha=-64.0).t[0])
    run = gflow.simulate(_model(64), loss, t1=t + 4000.0)
    found = {c.key: c.verdict for c in theory.compare(run, prediction).claims}
    assert found["stage1.loss"] == "refuted"


def test_a_run_that_ends_in_a_pause_that_is_not_predicted_refutes_the_plateau():
    found = theory.compare(_run(64, 50.0), _predicted(64, 0.5, 1e-2))
    assert {c.key: c.verdict for c in found.claims}["stage1.loss"] == "refuted"
