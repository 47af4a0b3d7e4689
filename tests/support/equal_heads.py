"""Softmax heads that feel one force until their key–query matrices tell them apart."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import gflow
from gflow.models import SoftmaxAttention
from gflow.objectives import SquaredLoss

LOG10 = math.log(10.0)
D, RANK = 3, 2


def problem(heads, seed, strength, start=101):
    """Tokens, what a teacher of as many heads makes of them, and O(1) factors."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((12, 4, D))
    y = np.zeros_like(x)
    for _ in range(heads):
        kq = strength * rng.standard_normal((D, RANK)) @ rng.standard_normal((RANK, D))
        vo = rng.standard_normal((D, RANK)) @ rng.standard_normal((RANK, D))
        y = y + jax.nn.softmax(x @ kq @ x.swapaxes(1, 2), axis=-1) @ x @ vo
    rng = np.random.default_rng(start)
    factors = [rng.standard_normal((2, 2 * D, RANK)) for _ in range(heads)]
    return x, y, *np.array(factors).swapaxes(0, 1)


def fixture(name, digits, *, kind: Any = SoftmaxAttention, order=None, **settings):
    """A: key–query matrices win before the second mode of the sum. B: with weaker teacher heads.

    C: as B, with key–query matrices at 10⁻¹²⁵ of that, so that the second mode of the sum wins.
    """
    seed, strength, below = {"A": (1, 0.6, 0), "B": (2, 0.1, 0), "C": (2, 0.1, 125)}[name]
    x, y, kq, vo = problem(2, seed, strength)
    order = slice(None) if order is None else order
    scale = -digits * LOG10
    kq = gflow.Factored(
        kq[order, :D], kq[order, D:], log_scale=scale - below * LOG10, log_alpha=scale
    )
    vo = gflow.Factored(vo[order, :D], vo[order, D:], log_scale=scale)
    return kind(kq, vo, **settings), SquaredLoss(x, y, "half_mean")


class AddedUp(eqx.Module):
    """The same heads, whose values are added up: what tells them apart is rounded."""

    kq: gflow.Factored
    vo: gflow.Factored

    def __call__(self, x):
        weights = jax.nn.softmax(x @ self.kq.value @ x.T, axis=-1)
        return jnp.sum(weights @ (x @ self.vo.value), axis=0)


class Uniform(eqx.Module):
    """Heads without key–query matrices are one matrix with all of their columns."""

    vo: gflow.Factored
    causal: bool = eqx.field(static=True)

    def __call__(self, x):
        if self.causal:
            count = jnp.arange(1.0, len(x) + 1.0)
            return (jnp.cumsum(x, axis=0) / count[:, None]) @ self.vo.value
        mean = jnp.mean(x, axis=0, keepdims=True) @ self.vo.value
        return jnp.broadcast_to(mean, x.shape)


def merged(model, causal=False):
    """The model that `fixture` is as long as attention is uniform."""
    left, right = (jnp.concatenate(list(f), axis=-1) for f in (model.vo.left, model.vo.right))
    log_scale = float(model.vo.log_alpha)
    return Uniform(gflow.Factored(left, right, log_scale=log_scale), causal)
