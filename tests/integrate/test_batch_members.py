"""Batches: members are the runs one would have made alone, whatever runs beside them.

Those of the linear model are held against `gflow.simulate`, which test_simulate_accuracy.py and
test_flow_reference.py hold against others.
"""

import functools
import math

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counted_losses import Counted, Hashable
from kinds import Linear, Mixed

import gflow
from gflow.models import DiagonalAttention, DiagonalLinear
from gflow.objectives import SquaredLoss

LOG10 = math.log(10.0)
INPUTS = np.array([[1, 0.5, 0.7, 0], [0.5, 1, 0.1, 0.7]])
TARGETS = np.array([1.0, 0.0])
HALF_SUM = SquaredLoss(INPUTS, TARGETS, "half_sum")


def stacked(trees):
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def small(decades, seed):
    weight = gflow.Hadamard.small(4, log_alpha=-decades * LOG10, key=jax.random.key(seed))
    return DiagonalLinear(weight)


def norm(model):
    return jnp.sum(model.weight.value**2)


def agree(run, other, times):
    """Everything recorded at `times` agrees within the two error bars, and rounding."""
    here, there = np.searchsorted(run.t, times), np.searchsorted(other.t, times)
    np.testing.assert_array_equal(run.t[here], times)
    np.testing.assert_array_equal(other.t[there], times)
    assert run.observables.keys() == other.observables.keys()
    quantities = {"loss": (run.loss, other.loss)} | {
        name: (x, other.observables[name]) for name, x in run.observables.items()
    }
    for name, (a, b) in quantities.items():
        bar = run.error[name][here] + other.error[name][there]
        rounding = 1e-13 * (1.0 + np.abs(a[here]))
        assert np.all(np.abs(a[here] - b[there]) <= bar + rounding), name


# --- members are runs -----------------------------------------------------------------

DECADES = np.array([2, 4, 16, 100, 1_000, 10_000])
DECAY = np.array([0.0, 0.02, 0.05, 0.08, 0.01, 0.03])
ENDS = np.array([8.0, 7.0, 8.0, 5.0, 6.0, 7.5])
SAVE = np.array([1.0, 3.0, 9.0])


def starts():
    return [small(n, seed) for seed, n in enumerate(DECADES)]


@functools.cache
def batch():
    """Seeds, scales, ends and decays together."""
    return gflow.simulate_batch(
        stacked(starts()), HALF_SUM, tau1=ENDS, decay=DECAY, save=SAVE,
        observables={"norm": norm}, width=2,
    )  # fmt: skip


@functools.cache
def single(i):
    return gflow.simulate(
        starts()[i], HALF_SUM, tau1=ENDS[i], decay=DECAY[i], save=SAVE,
        observables={"norm": norm},
    )  # fmt: skip


@pytest.mark.parametrize("i", range(len(DECADES)))
def test_a_member_is_the_run_it_would_be_alone(i):
    run, alone = batch()[i], single(i)
    assert run.status == alone.status == "reached the requested time"
    assert run.log_alpha == -DECADES[i] * LOG10
    assert run.tau[-1] == pytest.approx(ENDS[i], rel=1e-15)
    assert run.t[-1] == alone.t[-1]
    assert np.all(np.diff(run.t) > 0)
    agree(run, alone, [0.0, *SAVE, run.t[-1]])
    # the exponential of logarithms of up to 500 in size: rounding times 500
    start = starts()[i].weight.value
    np.testing.assert_allclose(run.observables["weight"][0], start, rtol=1e-12, atol=0)
    stages, others = run.stages(), alone.stages()
    assert [s.activated for s in stages] == [s.activated for s in others]
    assert len(stages) >= 1
    for stage, other in zip(stages, others, strict=True):
        assert abs(stage.t - other.t) <= stage.error + other.error


@pytest.mark.parametrize("rtol", [1e-4, 1e-5, 1e-6])
@pytest.mark.parametrize("i", range(1, len(DECADES)))
def test_a_loose_run_with_decay_finds_the_same_stages(i, rtol):
    # at rest under decay the data loss still has a slope, and follows every error to first order
    loose = gflow.simulate(starts()[i], HALF_SUM, tau1=ENDS[i], decay=DECAY[i], rtol=rtol)
    stages, sharp = loose.stages(), single(i).stages()
    assert [s.activated for s in stages] == [s.activated for s in sharp]
    for stage, other in zip(stages, sharp, strict=True):
        assert abs(stage.t - other.t) <= stage.error + other.error


def test_members_differ():
    # or the test above could not tell one from another
    ends = np.array([run.observables["weight"][-1] for run in batch()])
    apart = np.max(np.abs(ends[:, None] - ends[None]), axis=-1)
    assert np.min(apart[~np.eye(len(ends), dtype=bool)]) > 1e-3


def test_final_models_continue_where_the_members_stand():
    half = gflow.simulate_batch(
        stacked(starts()), HALF_SUM, tau1=0.4 * ENDS, decay=DECAY, width=2,
        observables={"norm": norm},
    )  # fmt: skip
    finals = [run.final for run in half]
    for final, decades, end in zip(finals, DECADES, ENDS, strict=True):
        assert float(final.weight.log_alpha) == -decades * LOG10
        assert float(final.weight.elapsed) == 0.4 * end * (decades * LOG10)
    rest = gflow.simulate_batch(
        stacked(finals), HALF_SUM, tau1=ENDS, decay=DECAY, observables={"norm": norm}, width=2
    )
    for run, before, straight in zip(rest, half, batch(), strict=True):
        assert run.t[0] == before.t[-1]
        # the state handed over carries the error of the first half
        bar = 10.0 * straight.error["weight"].max() + before.error["weight"].max() + 1e-12
        np.testing.assert_allclose(
            run.observables["weight"][-1], straight.observables["weight"][-1], rtol=0, atol=bar
        )


OTHER_TARGETS = np.array([[1.0, 0.0], [0.3, -1.2], [-0.7, 0.9]])


def objectives():
    return [SquaredLoss(INPUTS, y, "half_sum") for y in OTHER_TARGETS]


UNDER = dict(tau1=6.0, save=SAVE, observables={"norm": norm})


@functools.cache
def under(model_seed, i):
    return gflow.simulate(small(16, model_seed), objectives()[i], **UNDER)


def test_one_model_under_many_objectives():
    runs = gflow.simulate_batch(small(16, 0), stacked(objectives()), in_axes=(None, 0), **UNDER)
    for i, run in enumerate(runs):
        agree(run, under(0, i), [*SAVE, run.t[-1]])
    losses = [run.loss[0] for run in runs]
    np.testing.assert_allclose(losses, 0.5 * np.sum(OTHER_TARGETS**2, axis=1), rtol=1e-12)


def test_many_models_each_under_its_objective():
    models = [small(16, seed) for seed in (4, 5, 6)]
    runs = gflow.simulate_batch(stacked(models), stacked(objectives()), in_axes=(0, 0), **UNDER)
    for i, run in enumerate(runs):
        agree(run, under(4 + i, i), [*SAVE, run.t[-1]])


# --- stages of all members ------------------------------------------------------------


def pairs(seed):
    """Three layers of two modes: units, in a clock of their own."""
    rng = np.random.default_rng(seed)
    return gflow.models.DeepLinear.small(
        (2, 2, 2, 2), log_alpha=-(20.0 + 20.0 * seed), key=jax.random.key(int(rng.integers(99)))
    )


def of_units():
    target = np.array([[1.0, 0.2], [-0.1, 0.6]])
    return gflow.simulate_batch(
        stacked([pairs(seed) for seed in range(3)]), SquaredLoss(np.eye(2), target), rtol=1e-6
    )


BATCHES = {
    "own decays, scales and ends": batch,
    "own objectives": lambda: gflow.simulate_batch(
        small(16, 0), stacked(objectives()), in_axes=(None, 0), **UNDER
    ),
    "observables kept": lambda: gflow.simulate_batch(
        stacked(starts()[2:]), HALF_SUM, tau1=ENDS[2:], save=gflow.save.observables()
    ),
    "units": of_units,
    "without error bars": lambda: gflow.simulate_batch(
        stacked(starts()[:3]), HALF_SUM, tau1=6.0, error_bars=False, solver=gflow.solvers.Dopri8()
    ),
}


SLOW = {"units", "observables kept"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in BATCHES]
)
def test_stages_of_a_batch_are_those_of_its_members(name):
    runs = BATCHES[name]()
    found = runs.stages()
    assert len(found) == len(runs)
    for run, stages in zip(runs, found, strict=True):
        alone = run.stages()
        assert len(stages) == len(alone) >= 1
        for stage, other in zip(stages, alone, strict=True):
            # the same steps, of which many at once may round otherwise
            assert stage.t == pytest.approx(other.t, rel=1e-11)
            assert stage.error == pytest.approx(other.error, rel=1e-3, nan_ok=True)
            assert (stage.label, stage.step) == (other.label, other.step)
            assert stage.level is not None
            assert stage.level[0] == other.level[0]
            np.testing.assert_allclose(stage.loss, other.loss, rtol=1e-8, atol=1e-13)
            assert jax.tree.structure(stage.model) == jax.tree.structure(other.model)


def test_members_are_made_once():
    runs = batch()
    assert runs[1] is runs[1]
    assert runs[1] is not runs[2]
    assert runs[-1] is runs[len(runs) - 1]


def mixed(seed):
    rng = np.random.default_rng(seed)
    factors = gflow.to_factors(small(2.0, seed + 10).weight)
    return Mixed(
        small(2.0 + seed, seed).weight,
        factors,
        gflow.Scaled(jnp.asarray(rng.standard_normal(4)), log_scale=math.log(10.0 ** -(3 + seed))),
        jnp.asarray(1e-3 * rng.standard_normal(4)),
        gflow.Frozen(rng.uniform(-1.0, 1.0, 4)),
    )


@pytest.mark.slow
def test_leaves_of_every_kind():
    models, times = [mixed(seed) for seed in range(3)], [1.0, 4.0]
    kwargs = dict(t1=12.0, save=times, rtol=1e-7)
    runs = gflow.simulate_batch(stacked(models), HALF_SUM, **kwargs)
    for run, model in zip(runs, models, strict=True):
        agree(run, gflow.simulate(model, HALF_SUM, **kwargs), [0.0, *times, 12.0])
        np.testing.assert_array_equal(run.final.gain.value, model.gain.value)
        np.testing.assert_array_equal(run.final.scaled.log_scale, model.scaled.log_scale)


@pytest.mark.slow
def test_softmax_heads():
    task = gflow.tasks.teacher_student(key=jax.random.key(0), examples=16)

    def head(seed):
        keys = jax.random.split(jax.random.key(seed))
        return DiagonalAttention(
            *(gflow.Hadamard.small((1, 4), log_alpha=-100 * LOG10, key=k) for k in keys)
        )

    models = [head(seed) for seed in range(3)]
    kwargs = dict(tau1=2.4, save=[50.0, 200.0, 400.0])
    runs = gflow.simulate_batch(stacked(models), task.objective, **kwargs)
    for run, model in zip(runs, models, strict=True):
        alone = gflow.simulate(model, task.objective, **kwargs)
        agree(run, alone, [*kwargs["save"], run.t[-1]])
        assert [s.activated for s in run.stages()] == [s.activated for s in alone.stages()]
        assert len(run.stages()) >= 5


# --- a sequence -----------------------------------------------------------------------


def test_a_batch_is_a_sequence_of_trajectories():
    runs = batch()
    assert len(runs) == len(DECADES)
    assert all(isinstance(run, gflow.Trajectory) for run in runs)
    scales = [run.log_alpha for run in runs]
    assert scales == [-n * LOG10 for n in DECADES]
    assert [runs[i - len(runs)].log_alpha for i in range(len(runs))] == scales
    assert [run.log_alpha for run in runs[1::2]] == scales[1::2]
    assert [run.log_alpha for run in runs[-2:]] == scales[-2:]
    assert [run.log_alpha for run in reversed(runs)] == scales[::-1]
    for i in (len(runs), -len(runs) - 1):
        with pytest.raises(IndexError, match=f"member {i} of a batch of 6"):
            runs[i]


def test_statistics_are_sums_over_members():
    runs = batch()
    for name in ("accepted", "rejected"):
        assert runs.statistics[name] == sum(run.statistics[name] for run in runs)
    assert 0.0 < runs.statistics["useful_work"] <= 1.0
    assert runs.failed == []
    text = str(runs)
    parts = "Batch of 6", f"{runs.statistics['accepted']} steps", "0 failed", "Rodas5P in log"
    assert all(part in text for part in parts)


# --- compile once ---------------------------------------------------------------------


def test_other_seeds_scales_tolerances_ends_or_decays_do_not_compile():
    objective = Counted(HALF_SUM, Hashable())
    kwargs = dict(error_bars=False)
    models = stacked([small(2, 0), small(3, 1)])
    for run in gflow.simulate_batch(models, objective, tau1=1.0, decay=0.01, **kwargs):
        assert run.successful
    assert len(objective.count) > 0
    objective.count.clear()
    models = stacked([small(1_000, 2), small(7, 3)])
    again = gflow.simulate_batch(
        models, objective, t1=np.array([2.0, 9.0]), decay=np.array([0.0, 0.2]), rtol=1e-5, **kwargs
    )
    third = gflow.simulate_batch(models, objective, tau1=np.array([3.0, 2.0]), decay=0.1, **kwargs)
    assert [run.t[-1] for run in again] == [2.0, 9.0]
    assert len(list(third)) == 2
    assert len(objective.count) <= 2  # what it closes over is read once a run


# --- bad input ------------------------------------------------------------------------

PLAIN = Linear(jnp.ones((3, 4)))
FACTORS = (jnp.ones((3, 4)), 0.5 * jnp.ones((3, 4)))


def unknown_scale():
    return eqx.filter_vmap(lambda u, v: DiagonalLinear(gflow.Hadamard(u, v)))(*FACTORS)


def ran():
    return stacked([gflow.simulate(small(2, 0), HALF_SUM, t1=t, error_bars=False).final
                    for t in (1.0, 2.0, 3.0)])  # fmt: skip


class Two(eqx.Module):
    a: jax.Array
    b: jax.Array

    def __call__(self, x):
        return jnp.dot(x, self.a + self.b)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(in_axes=(0, 1)), r"in_axes = \(0, 1\): \(0, None\) for stacked models"),
        (dict(in_axes=(None, None)), r"in_axes = \(None, None\).*\(0, 0\) for both"),
        (
            dict(model=Two(jnp.ones((3, 4)), jnp.ones(()))),
            "model.b is a scalar, without the leading axis of members.*filter_vmap",
        ),
        (
            dict(model=Two(jnp.ones((3, 4)), jnp.ones((2, 4)))),
            "one leading axis in common; got model.a: 3, model.b: 2",
        ),
        (
            dict(in_axes=(0, 0), objective=HALF_SUM),
            "one leading axis in common; got model.weight: 3, objective.inputs: 2",
        ),
        (dict(in_axes=(None, 0), objective=norm), "one leading axis in common; got no arrays"),
        (dict(t1=None, tau1=2.0), r"members \[0, 1, 2\] have no common.*log_alpha=.*t1="),
        (dict(t1=None, tau1=2.0, model="unknown"), r"members \[0, 1, 2\] have no common"),
        (dict(t1=1.0, tau1=2.0), "t1 = 1.0 or tau1 = 2.0, not both"),
        (dict(t1=np.ones(2)), r"one for each of the 3 members is needed.*shape \(2,\)"),
        (dict(t1=np.ones((3, 1))), r"got an array of shape \(3, 1\)"),
        (dict(t1=np.array([1.0, 2.0, 0.0])), "Member 2 would end at t1 = 0.0.*stands at t = 0.0"),
        (dict(t1=np.array([1.0, -2.0, 1.0])), "Member 1 would end at t1 = -2.0"),
        (dict(t1=np.array([np.inf, 2.0, 1.0])), "Member 0 would end at t1 = inf.*finite"),
        (dict(t1=2.5, model="ran"), "Member 2 would end at t1 = 2.5, but stands at t = 3"),
        (dict(width=0), "width = 0: at least one member"),
        (dict(width=-3), "width = -3: at least one member"),
        (dict(decay=np.ones(2)), r"decay for every leaf has shape \(2,\).*each of the 3 members"),
        (dict(decay={"weight": np.ones(4)}), r"decay for weight has shape \(4,\)"),
        (dict(decay=np.array([0.1, -0.1, 0.1])), "every leaf.*finite and ≥ 0"),
        (dict(decay={"wieght": 0.1}), "decay names leaf 'wieght'.*'weight'"),
        (dict(rtol=0.0), "rtol = 0.0: choose"),
        (dict(rtol=1e-16), "rtol = 1e-16: choose"),
        (dict(solver=diffrax.Euler()), "Euler.* has no error estimate"),
        (dict(save=[1.0, 7.0]), "save contains t = 7.0, outside the run from t = 0.0 to 5.0"),
        (dict(save=[-1.0]), "save contains t = -1.0"),
        (dict(t1=None, decay=lambda t: 0.1 * t), r"decay of .* depends on time.*Give t1 or tau1"),
    ],
)
def test_bad_input_is_named_with_its_remedy(kwargs, message):
    kwargs = {"model": PLAIN, "objective": HALF_SUM, "t1": 5.0} | kwargs
    model, objective = kwargs.pop("model"), kwargs.pop("objective")
    model = {"unknown": unknown_scale, "ran": ran}[model]() if isinstance(model, str) else model
    with pytest.raises(ValueError, match=f"(?s){message}"):
        gflow.simulate_batch(model, objective, **kwargs)
