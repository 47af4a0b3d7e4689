"""Networks of random layers, from a key each, and boosted attention on simplex tokens."""

import math

import jax
import jax.numpy as jnp

from gflow import depth

#: Of the networks with residuals.
TOKENS, WIDTH = 8, 64


class Mixing(depth.Block):
    """From a key, uniform attention with a fresh value matrix, and a residual: X + α₁AXW_V."""

    scale: jax.Array

    def __call__(self, key):
        value = jax.random.normal(key, (WIDTH, WIDTH)) / math.sqrt(WIDTH)
        return depth.Residual(depth.Average(value), self.scale)


class Deep(depth.Block):
    """From a key, a layer of a deep linear network, with batch norm or without."""

    width: int
    norm: bool

    def __call__(self, key):
        weight = jax.random.normal(key, (self.width, self.width)) / math.sqrt(self.width)
        linear = depth.Linear(weight)
        return depth.Chain((linear, depth.BatchNorm(centred=False))) if self.norm else linear


class Boosted(depth.Block):
    """A^{LP} + (1 + ω)A^{HP} on logits βXXᵀ."""

    beta: jax.Array
    boost: jax.Array

    def __call__(self, tokens):
        attended = depth.attend(tokens, tokens, tokens, scale=self.beta)
        mean = depth.Average(jnp.eye(tokens.mean.shape[0]))(tokens)
        return attended + self.boost * (attended - mean)
