"""What `theory.gradual_rank.predict` takes: batches, and inputs that it refuses by name."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.models import DiagonalLinear
from gflow.objectives import SquaredLoss
from theory.gradual_rank import predict, predict_batch

# orthogonal features, h = 1: each weight is a logistic of its own, T = 1/|r|,
# C = (½ log 4|r| − log A)/|r|
EFFECTS = np.array([1.0, -0.5])
LOSS = SquaredLoss(jnp.eye(2), jnp.asarray(EFFECTS), "half_sum")


def small(key, log_alpha=-50.0):
    return DiagonalLinear(gflow.Hadamard.small(2, log_alpha=log_alpha, key=key))


def offsets(weight, effects):
    size = np.where(effects > 0, weight.log_factor_s, weight.log_factor_d)
    return (0.5 * np.log(4 * np.abs(effects)) - size) / np.abs(effects)


STACK = eqx.filter_vmap(small)(jax.random.split(jax.random.key(0), 3))


def test_every_member_of_a_batch_has_its_own_offsets():
    predictions = predict_batch(STACK, LOSS)
    assert len(predictions) == 3
    for i, prediction in enumerate(predictions):
        weight = jax.tree.map(lambda x, i=i: x[i], STACK).weight
        np.testing.assert_allclose([s.tau for s in prediction.stages], [1, 2], rtol=1e-12)
        found = [s.offset for s in prediction.stages]
        np.testing.assert_allclose(found, offsets(weight, EFFECTS), rtol=0, atol=1e-9)


def test_a_batch_of_objectives_shares_one_model():
    scale = np.array([1.0, 3.0])
    targets = jnp.asarray(EFFECTS * scale[:, None])
    losses = SquaredLoss(jnp.stack([jnp.eye(2)] * 2), targets, "half_sum")
    predictions = predict_batch(small(jax.random.key(1)), losses, in_axes=(None, 0))
    found = [[s.tau for s in p.stages] for p in predictions]
    np.testing.assert_allclose(found, np.array([1.0, 2.0]) / scale[:, None], rtol=1e-12)


@pytest.mark.parametrize("call", [predict, gflow.simulate])
def test_a_stack_of_models_is_sent_to_the_batch(call):
    with pytest.raises(ValueError, match=r"\(3,\) values of log_alpha.*simulate_batch.*_batch"):
        call(STACK, LOSS)


@pytest.mark.parametrize("rtol", [1.0, 0.0, -1.0, np.nan])
def test_a_tolerance_that_means_nothing_is_refused(rtol):
    with pytest.raises(ValueError, match="rtol ="):
        predict(small(jax.random.key(0)), LOSS, rtol=rtol)


@pytest.mark.parametrize("stages", [0, -2])
def test_no_stage_at_all_is_refused(stages):
    with pytest.raises(ValueError, match="max_stages ="):
        predict(small(jax.random.key(0)), LOSS, max_stages=stages)
