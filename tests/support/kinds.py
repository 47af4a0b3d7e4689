"""Linear models with weights of every kind, shared by the tests."""

import equinox as eqx
import jax
import jax.numpy as jnp

import gflow


class Linear(eqx.Module):
    """⟨x, weight⟩ with a plain array."""

    weight: jax.Array

    def __call__(self, x):
        return jnp.dot(x, self.weight)


class Mixed(eqx.Module):
    """⟨x, sum of leaves of every kind⟩; `gain` is frozen."""

    hadamard: gflow.Parameter
    factors: gflow.Parameter
    scaled: gflow.Parameter
    plain: jax.Array
    gain: gflow.Frozen

    def __call__(self, x):
        total = self.hadamard.value + self.factors.value + self.scaled.value
        return jnp.dot(x, total + self.gain.value * self.plain)
