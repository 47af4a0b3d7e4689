"""The limit algorithm for Hadamard and factored leaves in one model, and one as the other."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices import LOG10, loss_crossing

import gflow
import theory
from theory.comparison._compare import measure
from theory.gradual_rank import predict


class Both(eqx.Module):
    matrix: Any
    weight: Any


class Quadratic(eqx.Module):
    """½ zᵀKz of what separates all weights, as one vector, from their targets."""

    kernel: jax.Array
    target: jax.Array

    def __call__(self, model):
        values = jnp.concatenate([model.matrix.value.ravel(), model.weight.value.ravel()])
        rest = values - self.target
        return 0.5 * jnp.sum(rest * jnp.matmul(self.kernel, rest))


def both(seed, log_alpha):
    """A 3×3 matrix of two columns and four Hadamard weights that all disturb each other."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((13, 13))
    kernel = root @ root.T / 13 + 0.3 * np.eye(13)
    target = rng.standard_normal(13)
    model = Both(
        gflow.Factored(rng.standard_normal((3, 2)), rng.standard_normal((3, 2)), log_alpha),
        gflow.Hadamard.small(4, log_alpha=log_alpha, key=jax.random.key(seed)),
    )
    return model, Quadratic(jnp.asarray(kernel), jnp.asarray(target))


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_a_matrix_and_weights_switch_in_the_predicted_order(seed):
    model, objective = both(seed, -600.0)
    prediction = predict(model, objective)
    assert prediction.ended.startswith("complete")
    assert {c[0] for s in prediction.stages for c in s.activated} == {"matrix", "weight"}
    levels = [s.level[0] for s in prediction.stages if s.level]
    for level, stage in zip(levels, prediction.stages, strict=True):
        assert level == ("loss" if stage.activated[0][0] == "matrix" else stage.activated[0])
    run = gflow.simulate(model, objective, tau1=1.2 * prediction.stages[-1].tau, rtol=1e-9)
    comparison = theory.compare(run, prediction)
    assert comparison.counts["refuted"] == 0, comparison
    assert comparison.rows[0].verdict == "confirmed"
    found = zip(measure(run, prediction), prediction.at(-600.0).t, prediction.stages, strict=True)
    for crossing, t, stage in found:
        assert crossing is not None
        assert abs(crossing.t - t) * stage.rate <= 1e-6


def test_composite_curves_of_both_kinds():
    log_alpha = -600.0
    model, objective = both(0, log_alpha)
    prediction = predict(model, objective)
    run = gflow.simulate(model, objective, tau1=1.0, save=np.linspace(0.0, 600.0, 41))
    finite = prediction.at(log_alpha)
    np.testing.assert_allclose(finite.loss(run.tau), run.loss, rtol=0, atol=1e-5)
    values = finite.value(run.tau)
    for name in ("matrix", "weight"):
        np.testing.assert_allclose(values[name], run.leaves[name]["value"], rtol=0, atol=1e-5)
    logs = finite.log_singular("matrix", np.array([0.1, 0.3]))
    i = [int(np.argmin(np.abs(run.tau - t))) for t in (0.1, 0.3)]
    measured = -np.sort(-run.observables["matrix.log_singular"][i], axis=-1)[:, :2]
    np.testing.assert_allclose(logs, measured, rtol=0, atol=1e-3)


class Regression(eqx.Module):
    """½‖Xw − y‖² of weights that are 1 × 1 matrices, u·v each."""

    x: jax.Array
    y: jax.Array

    def __call__(self, model):
        w = model.weight.value.ravel()
        return 0.5 * jnp.sum((jnp.matmul(self.x, w) - self.y) ** 2)


@pytest.mark.slow
def test_a_hadamard_weight_is_a_matrix_of_one_entry():
    """The fixture of 2607.12332, in which a weight switches off: as weights and as matrices."""
    x = np.array([[1, 0.5, 0.7, 0], [0.5, 1, 0.1, 0.7], [0, 0, 0, 0], [0, 0, 0, 0]])
    objective = Regression(jnp.asarray(x), jnp.asarray([1.0, 0, 0, 0]))
    s, d = np.array([0.6, 1.7, 1.0, 0.8]), np.array([1.2, 0.7, 1.9, 0.9])
    u, v = (s + d) / 2, (s - d) / 2
    log_alpha = -64 * LOG10
    cells = u.reshape(4, 1, 1), v.reshape(4, 1, 1)
    scale = math.exp(log_alpha)
    hadamard = gflow.Hadamard(u * scale, v * scale, log_alpha=log_alpha)
    weights = predict(Both(None, hadamard), objective)
    model = Both(None, gflow.Factored(*cells, log_scale=log_alpha))
    matrices = predict(model, objective)
    for one, other in zip(weights.stages, matrices.stages, strict=True):
        assert one.tau == pytest.approx(other.tau, rel=1e-12)
        value = other.value["weight"].ravel()
        np.testing.assert_allclose(one.value["weight"], value, rtol=0, atol=1e-12)
        for name in ("activated", "deactivated"):
            ones, others = getattr(one, name), getattr(other, name)
            assert [i for _, (i,) in ones] == [i for _, (i, _) in others]
    # one column for s and d: where s is large d is a rounding of it, and gone when the weight that
    # shrinks needs it
    with pytest.warns(UserWarning, match="sunk below the rounding"):
        lost = gflow.simulate(model, objective, tau1=7.0, error_bars=False)
    assert lost.status is gflow.Status.unresolved
    assert weights.stages[0].tau < lost.tau[-1] < weights.stages[1].tau
    # times are those of other levels: held against a run of the same flow that knows s and d
    run = gflow.simulate(Both(None, hadamard), objective, tau1=7.0, error_bars=False)
    for stage, t in zip(matrices.stages, matrices.at(log_alpha).t, strict=True):
        assert stage.level is not None
        assert loss_crossing(run, stage.level[1]).t == pytest.approx(t, rel=0, abs=1e-5)
