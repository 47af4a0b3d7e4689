"""Small weights that meet in threes and fours: heads, u³ − v³, products of four."""

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import gflow
from gflow.internal import Objective

from .. import problem


class Family(NamedTuple):
    """A model at any size ε of its start, and its loss."""

    name: str
    model: Callable[[float], eqx.Module]
    objective: Objective


class Cubes(eqx.Module):
    """f = u³ − v³, every entry a unit."""

    u: gflow.Scaled
    v: gflow.Scaled

    def __call__(self) -> Float[Array, " n"]:
        return self.u.value**3 - self.v.value**3


class Products(eqx.Module):
    """f = abcd entry by entry, an entry of all four a unit: order four."""

    a: gflow.Scaled
    b: gflow.Scaled
    c: gflow.Scaled
    d: gflow.Scaled

    def __call__(self) -> Float[Array, " n"]:
        return self.a.value * self.b.value * self.c.value * self.d.value


class Quadratic(eqx.Module):
    """½(f − y)ᵀA(f − y)."""

    mixing: Float[Array, "n n"]
    targets: Float[Array, " n"]

    def __call__(self, model: Cubes | Products) -> Float[Array, ""]:
        rest = model() - self.targets
        return 0.5 * rest @ self.mixing @ rest


def cubes(size: float) -> Cubes:
    log = math.log(size)
    u, v = np.array([0.7, 0.9, 1.1]), np.array([0.6, 0.8, 1.0])
    return Cubes(gflow.Scaled(u, log, units="u"), gflow.Scaled(v, log, units="v"))


def products(size: float) -> Products:
    drawn = np.random.default_rng(0).uniform(0.5, 1.5, (4, 3))
    return Products(*(gflow.Scaled(x, math.log(size), units="products") for x in drawn))


MIXING = jnp.asarray([[1.0, 0.3, -0.2], [0.3, 0.8, 0.1], [-0.2, 0.1, 0.6]])

FAMILIES = (
    Family("heads", problem.separate, problem.objective()),
    Family("cubes", cubes, Quadratic(MIXING, jnp.asarray([2.0, 1.0, -0.5]))),
    Family("products", products, Quadratic(MIXING, jnp.asarray([2.0, 1.0, 1.5]))),
)
