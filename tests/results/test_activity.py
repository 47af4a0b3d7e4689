"""Which weights switch in a stage and when, each on its own scale: against closed forms."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from staged_runs import objective as fixture_loss, run as fixture_run

import gflow
from gflow.models import DiagonalLinear
from gflow.objectives import SquaredLoss
from gflow.results._activity import courses
from theory.gradual_rank import predict

FEATURES = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 3)))[0] * math.sqrt(50)


@functools.cache
def orthogonal(targets, units, log_alpha):
    """A run with orthogonal features of their own units, and the exact stages.

    A weight of force r and curvature h grows like a logistic curve to P = r/h, and is at half of it
    when (P/ψ₀ − 1)e^{−2rt} = 1, where ψ₀ = s₀²/4 (d₀²/4 where it is negative).
    """
    targets, units = np.array(targets), np.array(units)
    weight = gflow.Hadamard.small(3, log_alpha=log_alpha, key=jax.random.key(0))
    objective = SquaredLoss(jnp.asarray(FEATURES * units), jnp.asarray(FEATURES @ targets))
    r, rest = np.abs(units * targets), np.abs(targets / units)
    start = np.where(targets > 0, weight.log_s, weight.log_d)
    with np.errstate(divide="ignore", invalid="ignore"):
        times = (np.log(rest) + math.log(4.0) - 2.0 * start) / (2.0 * r)
    order = np.argsort(np.where(r > 0, times, np.inf))[: np.count_nonzero(r)]
    end = 1.2 * times[order[-1]]
    trajectory = gflow.simulate(DiagonalLinear(weight), objective, t1=float(end))
    return trajectory, order, times, targets / units


@pytest.mark.parametrize("log_alpha", [-20.0, -230.0])
@pytest.mark.parametrize(
    ("targets", "units"),
    [
        ((1.0, 0.5, 0.4), (1.0, 1.0, 1.0)),
        ((1.0, 0.5, 0.4), (1e-3, 1.0, 1.0)),  # weights (1000, .5, .4)
        ((1.0, -0.5, 0.4), (1.0, 1e4, 1.0)),  # (1, -5e-5, .4)
        ((1.0, 0.03, 5e-4), (1.0, 1.0, 1.0)),
        ((1.0, 1e-5, 0.0), (1.0, 1.0, 1.0)),
        ((3e-7, 0.0, -1.0), (1.0, 1.0, 1.0)),
    ],
)
def test_every_weight_has_its_stage_whatever_its_unit_and_its_effect(targets, units, log_alpha):
    trajectory, order, times, rest = orthogonal(targets, units, log_alpha)
    stages = trajectory.stages()
    switches = [[("weight", (int(i),))] for i in order]
    apart = np.all(np.diff(times[order]) > 12.0)  # what is closer may be one transition
    assert [c for s in stages for c in s.activated] == [c for s in switches for c in s]
    assert all(s.deactivated == [] for s in stages)
    assert int(stages[-1].rank["weight"]) == len(order)
    if not apart:
        return
    assert [s.activated for s in stages] == switches
    assert [int(s.rank["weight"]) for s in stages] == list(range(1, len(order) + 1))
    for stage, i in zip(stages, order.tolist(), strict=True):
        assert stage.label == f"+weight[{i}]"
        what, half = stage.level
        assert what == ("weight", (i,))
        assert half == pytest.approx(0.5 * rest[i], rel=2e-2)
        # the crossing of the very level: the logit of its share of the rest
        share = half / rest[i]
        rate = 2.0 * abs(units[i] * targets[i])
        exact = times[i] + math.log(share / (1.0 - share)) / rate
        assert abs(stage.t - exact) <= stage.error + 1e-13 * exact


def test_labels_are_those_of_the_prediction():
    trajectory = fixture_run(64)
    model, objective = trajectory.like, fixture_loss()
    labels = [s.label for s in trajectory.stages()]
    assert labels == [s.label for s in predict(model, objective).stages]
    assert labels == ["+weight[0]", "+weight[2] −weight[0]", "+weight[3]"]


# --- plain weights -----------------------------------------------------------------------


class Factors(eqx.Module):
    u: jax.Array
    v: jax.Array


SIZES = np.array([2.0, 1.0])


class Distance(eqx.Module):
    def __call__(self, model):
        return 0.5 * jnp.sum((SIZES - model.u * model.v) ** 2)


@pytest.mark.parametrize("start", [1e-4, 1e-6, 1e-8, 1e-12, 1e-20])
def test_plain_factors_switch_at_half_of_their_own_value_from_any_start(start):
    """w = uv with u = v obeys w' = 2w(S − w): t = log((w/(S − w))·(S − ε²)/ε²)/(2S)."""
    model = Factors(jnp.full(2, start), jnp.full(2, start))
    trajectory = gflow.simulate(model, Distance(), t1=1.3 * math.log(start**-2) / 2 + 4.0)
    stages = trajectory.stages()
    assert [s.activated for s in stages] == [[(n, (k,)) for n in "uv"] for k in (0, 1)]
    assert [[int(s.rank[n]) for n in "uv"] for s in stages] == [[1, 1], [2, 2]]
    for k, stage in enumerate(stages):
        what, half = stage.level
        size = SIZES[k]
        assert what == ("u", (k,))
        assert half == pytest.approx(0.5 * math.sqrt(size), rel=3e-2)
        w = half**2
        logs = math.log(w / (size - w)) + math.log((size - start**2) / start**2)
        assert abs(stage.t - logs / (2.0 * size)) <= stage.error + 1e-12 * stage.t


def perceptron(scale):
    net = eqx.nn.MLP(
        2, 1, 4, 1, activation=jnp.tanh, use_bias=False, use_final_bias=False, key=jax.random.key(0)
    )
    return jax.tree.map(lambda x: scale * x if eqx.is_inexact_array(x) else x, net)


def test_a_network_of_ordinary_weights_is_active_from_the_start_and_a_small_one_activates():
    inputs = np.random.default_rng(1).normal(size=(100, 2))
    objective = SquaredLoss(inputs, np.tanh(inputs[:, :1] - inputs[:, 1:]))
    for scale, t1 in ((1.0, 20.0), (1e-6, 40.0)):
        trajectory = gflow.simulate(perceptron(scale), objective, t1=t1, error_bars=False)
        stages = trajectory.stages()
        sizes = {n: x["value"][-1].size for n, x in trajectory.leaves.items()}
        if scale == 1.0:
            assert all(s.label == "no switch" for s in stages)
            assert all(int(np.sum(s.rank[n])) == sizes[n] for s in stages for n in sizes)
            continue
        (stage,) = stages
        assert stage.deactivated == []
        # w' ∝ a: what leaves zero leaves it in both layers
        assert {name for name, _ in stage.activated} == set(sizes)
        # of what carries the output nothing is missing
        for name, leaf in trajectory.leaves.items():
            there = leaf["value"][stage.step]
            large = np.argwhere(np.abs(there) > 0.1 * np.max(np.abs(there)))
            assert {(name, tuple(i)) for i in large.tolist()} <= set(stage.activated)


# --- stages of many runs -----------------------------------------------------------------


def test_stages_of_many_runs_are_matched_by_what_switches():
    runs = [orthogonal(t, (1.0, 1.0, 1.0), -230.0)[0] for t in ((1.0, 0.03, 5e-4), (1.0, 1e-5, 0))]
    aligned = gflow.align_stages([*runs, runs[1].stages()])
    assert aligned.labels == ["+weight[0]", "+weight[2]", "+weight[1]"]
    first, second = (run.stages() for run in runs)
    expected = [
        [first[0].t, first[2].t, first[1].t],
        [second[0].t, np.nan, second[1].t],
        [second[0].t, np.nan, second[1].t],
    ]
    np.testing.assert_array_equal(aligned.t, expected)
    np.testing.assert_allclose(aligned.tau, aligned.t / 230.0, rtol=1e-12)
    assert "+weight[2]" in str(aligned)
    twice = gflow.align_stages([[first[0], first[1], first[0]]])
    assert twice.labels == ["+weight[0]", "+weight[0] (2)", "+weight[1]"]
    with pytest.raises(ValueError, match="no run"):
        gflow.align_stages([])


def test_a_plain_weight_that_starts_from_zero_alone_has_a_scale():
    """A bias at zero beside a small product: it is there from the start, the product switches."""
    x = np.random.default_rng(0).normal(size=50)
    x = (x - x.mean()) / x.std()
    y = x + 3.0

    def loss(model):
        weight, bias = model
        return 0.5 * jnp.mean((weight.value * x + bias - y) ** 2)

    weight = gflow.Hadamard.small((1,), log_alpha=-20.0, key=jax.random.key(0))
    run = gflow.simulate((weight, jnp.zeros(())), loss, tau1=2.0)
    found = courses(run).leaves["1"]
    assert np.all(np.isfinite(found.threshold))
    assert np.all(found.active)
    assert [mode for stage in run.stages() for mode in stage.activated] == [("0", (0,))]
