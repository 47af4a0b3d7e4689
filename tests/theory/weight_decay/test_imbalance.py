"""The imbalance of factors in simulated flows decays as e^{−2∫λ}, whatever the loss."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.models import SoftmaxAttention
from gflow.objectives import SquaredLoss
from gflow.parameters._factored import PlainFactors
from theory.weight_decay import imbalance


def schedule(t):
    return 0.3 / (1.0 + t)


class Chain(eqx.Module):
    weight: gflow.Parameter

    def __call__(self, x):
        return jnp.matmul(self.weight.value, x)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def gram(x):
    return np.asarray(x).mT @ np.asarray(x)


def test_two_softmax_heads():
    kq, vo = (PlainFactors(normal(i, 2, 4, 3), normal(i + 9, 2, 4, 3)) for i in (0, 1))
    model = SoftmaxAttention(kq, vo)
    inputs = normal(2, 12, 5, 4)
    objective = SquaredLoss(inputs, normal(3, 12, 5, 4))
    run = gflow.simulate(model, objective, t1=1.5, decay=schedule, rtol=1e-12, error_bars=False)
    for name in ("kq", "vo"):
        start, end = getattr(model, name), getattr(run.final, name)
        expected = imbalance(np.asarray(start.left), np.asarray(start.right), schedule, 1.5)
        found = gram(end.left) - gram(end.right)
        size = np.max(np.abs(gram(end.left)) + np.abs(gram(end.right)))
        assert np.max(np.abs(found - expected)) <= 1e-10 * size


def test_the_same_in_the_gauge_up_to_its_rotation():
    left, right = normal(5, 4, 3), normal(6, 4, 3)
    model = Chain(gflow.Factored(left, right))
    objective = SquaredLoss(normal(7, 20, 4), normal(8, 20, 4))
    run = gflow.simulate(
        model, objective, t1=3.0, decay=schedule, rtol=1e-12, error_bars=False, log_alpha=-1.0
    )
    expected = imbalance(np.asarray(left), np.asarray(right), schedule, 3.0)
    found = np.linalg.eigvalsh(np.asarray(run.final.weight.conserved()))
    np.testing.assert_allclose(found, np.linalg.eigvalsh(expected), rtol=0, atol=1e-10)


@pytest.mark.parametrize("decay", [0.15, schedule], ids=["constant", "schedule"])
def test_all_neighbours_of_a_chain_of_three(decay):
    factors = normal(0, 3, 4) / 2, normal(1, 4, 5) / 2, normal(2, 5, 3) / 2
    model = Chain(gflow.Product(*factors))
    objective = SquaredLoss(normal(7, 20, 3), normal(8, 20, 3))
    run = gflow.simulate(model, objective, t1=3.0, decay=decay, rtol=1e-12, error_bars=False)
    ends = run.final.weight.factors
    for a, b, left, right in zip(factors, factors[1:], ends, ends[1:], strict=False):
        expected = imbalance(np.asarray(a), np.asarray(b).T, decay, 3.0)
        found = gram(left) - gram(np.asarray(right).T)
        assert np.max(np.abs(found - expected)) <= 1e-10 * (1 + np.max(np.abs(gram(left))))
