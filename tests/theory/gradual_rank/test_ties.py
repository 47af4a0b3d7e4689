"""Modes of one matrix that feel one force, or none until later: times against simulations."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices import Matrix, coupled

import gflow
import theory
from gflow.parameters._symmetric import Symmetric


def start(n, rank, seed=0, kind=gflow.Factored):
    key = jax.random.key(seed)
    return Matrix(kind.small((n, n), rank, log_alpha=-100.0, key=key))


def misses(model, objective):
    """The prediction, and simulated less predicted times."""
    prediction = theory.gradual_rank.predict(model, objective)
    run = gflow.simulate(model, objective, tau1=prediction.stages[-1].tau + 0.3, rtol=1e-9)
    stages = run.stages()
    assert [s.label for s in stages] == [s.label for s in prediction.stages]
    predicted = [s.tau * 100.0 + s.offset for s in prediction.stages]
    return prediction, run, np.subtract([s.t for s in stages], predicted)


class ToTarget(eqx.Module):
    """½‖W − D‖², its modes turned by a rotation that no coordinate shares."""

    target: jax.Array

    def __init__(self, values, symmetric=False):
        n = len(values)
        left, right = (
            np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0] for seed in (4, 5)
        )
        self.target = jnp.asarray(left @ np.diag(values) @ (left if symmetric else right).T)

    def __call__(self, model):
        return 0.5 * jnp.sum((model.weight.value - self.target) ** 2)


@pytest.mark.parametrize(
    ("values", "rank"),
    [
        ((1, 1, 1), 2),
        ((3, 2, 2), 2),
        pytest.param((3, 2, 2), 3, marks=pytest.mark.slow),
        pytest.param((1, 1, 1), 1, marks=pytest.mark.slow),
        pytest.param((1, 1, 1), 3, marks=pytest.mark.slow),
        pytest.param((3, 2, 2, 1), 2, marks=pytest.mark.slow),
    ],
)
def test_modes_of_equal_force_switch_together_with_the_sizes_that_the_start_gives(values, rank):
    """Where there are fewer columns than such modes they learn what they span of these."""
    prediction, run, gaps = misses(start(len(values), rank), ToTarget(values))
    assert np.all(np.abs(gaps) < 1e-8)
    assert all(not s.shares for s in prediction.stages)
    assert theory.compare(run, prediction).passed


@pytest.mark.slow
@pytest.mark.parametrize(("values", "rank"), [((1, 1, 1), 2), ((3, 2, 2), 3)])
def test_so_do_eigenvectors_of_a_square(values, rank):
    model = start(len(values), rank, kind=Symmetric)
    _, _, gaps = misses(model, ToTarget(values, symmetric=True))
    assert np.all(np.abs(gaps) < 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_columns_that_first_feel_no_force_keep_their_directions_until_they_do(rank):
    """The second mode feels a force once the first is learned; at zero weights none does."""
    _, _, gaps = misses(start(3, rank), coupled(2.0))
    assert np.all(np.abs(gaps) < 1e-8)


def test_a_saddle_whose_columns_would_sooner_turn_is_no_end():
    """A soft curvature costs the column of size 0.2 less than what force is left gains: 0.38."""
    with pytest.warns(UserWarning, match="predicted up to here"):
        prediction = theory.gradual_rank.predict(start(3, 1), coupled(0.05))
    assert prediction.ended.startswith("an unstable saddle")
    assert "turn to it at rate 0.38 " in prediction.ended
    stiff = theory.gradual_rank.predict(start(3, 1), coupled(2.0))
    assert stiff.ended.startswith("complete")
