"""Starts of deficient rank: columns that are parallel, or zero, are fewer columns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow

# W = A bᵀ with A of 5 × r and b of 1 × r
TARGET = jnp.array([2.0, -1.0, 0.5, 0.0, 1.0])[:, None]
UNIT = TARGET / jnp.linalg.norm(TARGET)


def loss(model):
    return 0.5 * jnp.sum((model["w"].value - TARGET) ** 2)


def run(left, right):
    return gflow.simulate({"w": gflow.Factored(left, right, log_scale=-7.0)}, loss, t1=12.0)


SHARES = jax.random.normal(jax.random.key(0), (6,))
SHARES = SHARES / jnp.linalg.norm(SHARES)


@pytest.mark.parametrize("start", ["parallel", "zero"])
def test_columns_of_one_direction_are_one_column(start):
    """(A, b) → (AR, bR) with an orthogonal R changes nothing: six parallel columns are one.

    On the balanced ray W = σ·target/‖target‖ the singular value follows σ' = 2σ(s − σ).
    """
    row = SHARES if start == "parallel" else jnp.zeros(6).at[2].set(1.0)
    many = run(UNIT * row[None], row[None])
    assert many.successful
    assert many.statistics["accepted"] < 300
    s, small = float(jnp.linalg.norm(TARGET)), np.exp(-14.0)
    sigma = s / (1.0 + (s / small - 1.0) * np.exp(-2.0 * s * many.t))
    along = np.einsum("tij,ij->t", many.observables["w"], np.asarray(UNIT))
    bar = np.sum(many.error["w"], axis=(1, 2)) + 1e-12
    assert np.all(np.abs(along - sigma) <= bar)
    (stage,) = many.stages()
    assert {int(r) for r in np.ravel(stage.rank["w"])} == {1}
