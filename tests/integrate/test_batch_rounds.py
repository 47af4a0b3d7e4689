"""Who advances when in a batch, and members that fail, against an exact solution."""

import functools
import math
import warnings

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kinds import Linear
from terminals import standard_error

import gflow

# --- who advances when ----------------------------------------------------------------


class Growth(eqx.Module):
    """θ' = rate·(θ − bend·θ³): to ±1/√bend at stiffness 2·rate, for bend < 0 to infinity."""

    rate: jax.Array
    bend: jax.Array

    def __call__(self, model):
        w = model.weight
        return self.rate * jnp.sum(self.bend * w**4 / 4 - w**2 / 2)

    def exact(self, start, t):
        shrunk = np.exp(-2.0 * np.multiply.outer(t, self.rate))[..., None]
        bend = self.bend[..., None] if np.ndim(self.bend) else self.bend
        return start / np.sqrt(bend * start**2 * (1.0 - shrunk) + shrunk)


MEMBERS = 16
START = np.linspace(0.1, 0.4, 2 * MEMBERS).reshape(MEMBERS, 2)


def growth(rate=1.0, bend=1.0):
    full = np.ones(MEMBERS)
    return Growth(jnp.asarray(rate * full), jnp.asarray(bend * full))


TSIT5 = dict(solver=diffrax.Tsit5(), error_bars=False, rtol=1e-9)


def grown(objective, t1, **kwargs):
    """All members of a `Growth`, with plain weights and Tsit5."""
    kwargs = TSIT5 | kwargs
    models = Linear(jnp.asarray(START))
    return gflow.simulate_batch(models, objective, in_axes=(0, 0), t1=t1, **kwargs)


def weights(run):
    return run.observables["weight"]


def rates():
    """Nobody's neighbour is like oneself; the hardest of them are spread over the batch."""
    return np.random.default_rng(3).permutation(np.geomspace(0.2, 20.0, MEMBERS))


def spread():
    return growth(rates(), np.linspace(0.5, 2.0, MEMBERS))


@functools.cache
def lonely(i, t1):
    objective = jax.tree.map(lambda x: x[i], spread())
    model = Linear(jnp.asarray(START[i]))
    return gflow.simulate(model, objective, t1=t1, **TSIT5)


@pytest.mark.parametrize("width", [None, 16, 5, 4, 1])
def test_members_keep_their_places_at_any_width(width):
    objective, t1 = spread(), 4.0
    runs = grown(objective, t1, width=width)
    assert len(runs) == MEMBERS
    for i, run in enumerate(runs):
        one = jax.tree.map(lambda x, i=i: np.asarray(x)[i], objective)
        assert run.t[0] == 0.0
        assert run.t[-1] == t1
        np.testing.assert_allclose(weights(run), one.exact(START[i], run.t), rtol=0, atol=1e-6)
    # steps of its own, in a number that depends on nobody else
    counts = [run.statistics["accepted"] for run in runs]
    assert np.ptp(counts) > 100
    for i, run in enumerate(runs):
        other = lonely(i, t1)
        assert abs(run.statistics["accepted"] - other.statistics["accepted"]) <= 2
        assert abs(run.statistics["rejected"] - other.statistics["rejected"]) <= 2


def test_ends_of_each_member():
    ends = np.linspace(0.5, 6.0, MEMBERS)[::-1]
    objective = growth()
    for i, run in enumerate(grown(objective, ends, width=4)):
        assert run.t[-1] == ends[i]
        exact = Growth(1.0, 1.0).exact(START[i], ends[i])
        np.testing.assert_allclose(weights(run)[-1], exact, rtol=0, atol=1e-6)


def test_a_hard_member_does_not_hold_back_the_others():
    # stiff for 25 units of time: at the edge of stability of Tsit5, thousands of steps
    hard, rate, ends = 2, np.ones(MEMBERS), np.full(MEMBERS, 1.0)
    rate[hard], ends[hard] = 300.0, 25.0
    runs = grown(growth(rate), ends, width=4)
    counts = np.array([run.statistics["accepted"] + run.statistics["rejected"] for run in runs])
    easy = np.delete(counts, hard)
    assert counts[hard] > 100 * easy.max()
    assert runs.statistics["useful_work"] >= 0.6
    assert runs.statistics["useful_work"] <= 1.0
    # a round is 32 attempts of four members: the others, three at a time, are done long before
    # the hard one and add no round to its own
    assert runs.statistics["rounds"] <= math.ceil(counts[hard] / 32) + 1
    np.testing.assert_allclose(weights(runs[hard])[-1], 1.0, atol=1e-6)
    for i in np.delete(np.arange(MEMBERS), hard):
        exact = Growth(1.0, 1.0).exact(START[i], 1.0)
        np.testing.assert_allclose(weights(runs[int(i)])[-1], exact, rtol=0, atol=1e-6)
        assert runs[int(i)].statistics["accepted"] < 40


# --- failures -------------------------------------------------------------------------


@functools.cache
def failing():
    bend = np.linspace(0.5, 2.0, MEMBERS)
    bend[[3, 8]], bend[5] = [-1.0, -4.0], np.nan
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runs = grown(growth(1.0, bend), 30.0, width=4)
    return bend, runs, [str(w.message) for w in caught]


def test_a_failing_member_fails_alone():
    bend, runs, _ = failing()
    assert runs.failed == [3, 5, 8]
    for i in range(MEMBERS):
        assert runs.status[i].successful == (i not in (3, 5, 8))
        if i not in (3, 5, 8):
            assert runs.status[i] is gflow.Status.reached
            exact = Growth(1.0, bend[i]).exact(START[i], runs[i].t)
            np.testing.assert_allclose(weights(runs[i]), exact, rtol=0, atol=1e-6)


def test_a_failed_member_keeps_what_it_has():
    bend, runs, _ = failing()
    for i in (3, 8):
        run = runs[i]
        assert not run.successful
        assert run.status == runs.status[i].value
        # θ → ∞ at a finite time, of the larger weight
        end = 0.5 * math.log1p(1.0 / (-bend[i] * START[i].max() ** 2))
        assert abs(run.t[-1] - end) < 1e-6
        early = run.t < 0.99 * end
        exact = Growth(1.0, bend[i]).exact(START[i], run.t[early])
        assert early.sum() > 20
        np.testing.assert_allclose(weights(run)[early], exact, rtol=1e-6)
        assert np.all(np.isfinite(run.loss))
        assert np.all(np.isfinite(run.final.weight))


def test_a_member_without_a_finite_loss_does_not_start():
    _, runs, _ = failing()
    assert runs.status[5] is gflow.Status.overflow
    np.testing.assert_array_equal(runs[5].t, [0.0])
    np.testing.assert_array_equal(weights(runs[5]), START[5:6])
    assert runs[5].statistics["accepted"] == runs[5].statistics["rejected"] == 0


def test_the_warning_names_who_failed():
    _, runs, messages = failing()
    (message,) = [m for m in messages if "simulate_batch" in m]
    assert message.startswith("gflow.simulate_batch: 3 of 16 members failed")
    for i in (3, 5, 8):
        assert f"member {i}: {runs.status[i].value}" in message
    assert "3 failed" in str(runs)


@pytest.mark.parametrize("most", [96, 90])  # three rounds, and what no round ends with
def test_max_steps_counts_for_each_member(most):
    hard = np.isin(np.arange(MEMBERS), [1, 9])
    with pytest.warns(UserWarning, match=r"gflow.simulate_batch: 2 of 16.*member 1: .*max_steps"):
        runs = grown(growth(np.where(hard, 200.0, 0.5)), 2.0, width=4, max_steps=most)
    assert runs.failed == [1, 9]
    for i, run in enumerate(runs):
        tried = run.statistics["accepted"] + run.statistics["rejected"]
        assert tried == most if hard[i] else tried < most
        assert (run.t[-1] < 2.0) == hard[i]


# --- progress, and members at rest ----------------------------------------------------


def test_progress_is_a_bar_of_members(monkeypatch):
    said = standard_error(monkeypatch)
    grown(growth(), 1.0, progress=True)
    assert "16/16 members" in said.getvalue()


def test_members_at_rest_need_an_end():
    model = Linear(jnp.array([[0.1, 0.2], [0.0, 0.0], [0.3, 0.0]]))
    with pytest.raises(ValueError, match=r"Members \[1\] start at rest. Give t1 or tau1"):
        gflow.simulate_batch(model, Growth(jnp.array(1.0), jnp.array(1.0)))
