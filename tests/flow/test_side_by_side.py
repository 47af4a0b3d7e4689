"""Alike things in one batch: the same numbers in the same order as one after the other."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow._side_by_side import side_by_side
from gflow.flow._build import build_flow


class Power(eqx.Module):
    factor: jax.Array
    exponent: int = eqx.field(static=True)

    def __call__(self, x):
        return self.factor * x**self.exponent


def _cases():
    rng = np.random.default_rng(0)
    sizes, exponents = (2, 3, 2, 2, 3, 1), (1, 1, 2, 1, 1, 1)
    items = [Power(jnp.asarray(rng.normal()), n) for n in exponents]
    return items, [jnp.asarray(rng.normal(size=n)) for n in sizes]


def test_in_their_order():
    items, rows = _cases()
    found = side_by_side(lambda item, x: item(x), items, rows)
    for one, item, x in zip(found, items, rows, strict=True):
        np.testing.assert_allclose(one, item(x), rtol=1e-15)


def test_a_function_sees_each_kind_once():
    items, rows = _cases()
    seen = []
    side_by_side(lambda item, x: seen.append((item.exponent, x.shape)) or x, items, rows)
    assert sorted(seen) == [(1, (1,)), (1, (2,)), (1, (3,)), (2, (2,))]


def test_rows_of_another_number_are_refused():
    items, rows = _cases()
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        side_by_side(lambda item, x: x, items, rows[1:])


class Three(eqx.Module):
    a: gflow.Factored
    b: gflow.Factored
    c: gflow.Factored

    def __call__(self, x):
        return jnp.tanh(x @ self.a.value) @ self.b.value @ self.c.value


def test_a_flow_with_leaves_alike_moves_each_leaf_as_its_own_coordinates_do():
    """Two leaves of one shape with different decay, and one of another."""
    shapes = ((4, 4), (4, 4), (4, 3))
    keys = jax.random.split(jax.random.key(1), 3)
    leaves = (
        gflow.Factored.small(s, 2, alpha=0.3, key=k) for s, k in zip(shapes, keys, strict=True)
    )
    x = jax.random.normal(jax.random.key(2), (20, 4))
    objective = gflow.objectives.SquaredLoss(x, jnp.sin(x[:, :3]))
    flow = build_flow(Three(*leaves), objective, decay={"a": 0.1, "b": 0.2, "c": 0.0})
    state = flow.start()
    _, force = flow.forces(flow.weights(state))
    rates = (0.1, 0.2, 0.0)
    expected = [
        c.velocity(part, force[name], jnp.asarray(rate))
        for name, c, part, rate in zip(
            flow.names, flow.coordinates, flow.split(state), rates, strict=True
        )
    ]
    found = flow.velocity(jnp.asarray(0.0), state)
    np.testing.assert_allclose(found, jnp.concatenate(expected), rtol=1e-12, atol=1e-14)
