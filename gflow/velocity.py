r"""Flows that are not the gradient flow: `gflow.simulate(model, objective, velocity=...)`.

A velocity says how all factors of a model move, from the forces on them, −∂L/∂x, and from a memory
of its own where it has one. The factors are plain arrays then (`gflow.to_factors` of the model).

```python
class Normalised(gflow.velocity.Velocity):          # dx/dt = −∇L/‖∇L‖
    def __call__(self, t, factors, forces, memory):
        size = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(forces)))
        return jax.tree.map(lambda g: g / size, forces), memory

run = gflow.simulate(model, objective, t1=5.0, velocity=Normalised())
```
"""

import abc
import math
from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._arguments import number
from .coordinates._factors import Entries as Entries

__all__ = ["Momentum", "Sign", "Tangent", "Velocity"]


def __dir__() -> list[str]:
    return __all__


#: By leaf name: the array of a plain weight, `Entries` of u ⊙ v, the factors of a product of
#: matrices in a tuple, or a parameter of one's own.
Factors = Mapping[str, PyTree[Array]]


class Velocity(eqx.Module):
    """How factors move. What it holds as arrays is data: other numbers compile nothing."""

    def memory(self, factors: Factors) -> Factors:
        """What is remembered at the start, by leaf name; by default nothing.

        A run that goes on from `traj.final` starts with this memory anew.
        """
        return {}

    @abc.abstractmethod
    def __call__(
        self, t: Float[Array, ""], factors: Factors, forces: Factors, memory: Factors
    ) -> tuple[Factors, Factors]:
        """d/dt of the factors and of the memory, in their structure.

        `forces` is −∂L/∂x − λx for every factor x, in the structure of `factors`.
        """


class Sign(Velocity):
    r"""Sign flow, x' = g/√(g² + ε²) for every entry, g = −∂L/∂x: Adam without memory.

    `width` ε > 0 is the force below which it is no longer a sign: the flow rests where forces
    vanish in place of switching there for ever.

    **Raises:** ValueError for a width that is not positive.

    ```python
    gflow.simulate(model, objective, t1=3.0, velocity=gflow.velocity.Sign(1e-6))
    ```
    """

    width: Array

    def __init__(self, width: float):
        self.width = _positive("width", width, "the force below which the sign is smooth")

    def __call__(
        self, t: Float[Array, ""], factors: Factors, forces: Factors, memory: Factors
    ) -> tuple[Factors, Factors]:
        return jax.tree.map(lambda g: g / jnp.sqrt(g**2 + self.width**2), forces), memory


class Momentum(Velocity):
    r"""Heavy ball, T x'' + x' = −∂L/∂x, from rest: x' = p, T p' = −∂L/∂x − p.

    `time` T > 0 is how long a velocity lasts. From T → 0 it is the gradient flow; steps of η with
    momentum β have T = η/(1 − β) on the axis t = Σ η/(1 − β).

    **Raises:** ValueError for a time that is not positive.

    ```python
    gflow.simulate(model, objective, t1=50.0, velocity=gflow.velocity.Momentum(10.0))
    ```
    """

    time: Array

    def __init__(self, time: float):
        self.time = _positive("time", time, "how long a velocity lasts")

    def memory(self, factors: Factors) -> Factors:
        return jax.tree.map(jnp.zeros_like, dict(factors))

    def __call__(
        self, t: Float[Array, ""], factors: Factors, forces: Factors, memory: Factors
    ) -> tuple[Factors, Factors]:
        pulled = jax.tree.map(lambda g, p: (g - p) / self.time, dict(forces), dict(memory))
        return memory, pulled


class Tangent(Velocity):
    r"""W = BA moves as a matrix of its rank r under the gradient flow of W itself.

    With 𝒢 = ∂L/∂W and the projections P_B, P_A on columns of B and rows of A,

        W' = −(P_B 𝒢 + 𝒢 P_A − P_B 𝒢 P_A),

    the gradient projected on the tangent space of matrices of rank r. Of the factors that have it
    those are taken that keep BᵀB − AAᵀ = 0: with C_B = BᵀB, C_A = AAᵀ,

        B' = −(I − P_B) 𝒢 Aᵀ C_A⁻¹ + B(Z − ½Σ),   A' = −C_B⁻¹ Bᵀ𝒢(I − P_A) − (Z + ½Σ)A,
        Σ = C_B⁻¹ Bᵀ𝒢Aᵀ C_A⁻¹,   CZ + ZC = ¼(CΔ − ΔC),   Δ = Σ − Σᵀ,   C = C_B.

    Every leaf is a product of two matrices (`gflow.Factored`, heads in leading axes), or a plain
    weight, which follows its gradient. B and A need full column and row rank; rates are those of
    1/s_min, so that small starts are stiff. Where W loses rank on its way the velocity ends, and
    so does the run: W of full size goes straight to its target, through det W = 0 if the two
    determinants have different signs.

    **Raises:** ValueError, when the run is made, for a leaf of three factors and more and one of
    entries u ⊙ v. **Source:** 2602.07479 (abstract), with factors derived for this project.

    ```python
    adapter = gflow.Factored(b, a.T, log_scale=-5.0)
    gflow.simulate({"w": adapter}, objective, t1=5.0, velocity=gflow.velocity.Tangent())
    ```
    """

    def __call__(
        self, t: Float[Array, ""], factors: Factors, forces: Factors, memory: Factors
    ) -> tuple[Factors, Factors]:
        return {name: _tangent(name, x, forces[name]) for name, x in factors.items()}, memory


def _tangent(name: str, factors: PyTree[Array], forces: PyTree[Array]) -> PyTree[Array]:
    if isinstance(factors, jax.Array):
        return forces
    pair = type(factors) is tuple and len(factors) == 2
    if not pair or factors[0].ndim < 2 or factors[0].shape[-1] != factors[1].shape[-2]:
        raise ValueError(
            f"velocity = Tangent(): leaf {name!r} is no product of two matrices W = BA. Make it a "
            "gflow.Factored, or a plain array, which follows its gradient."
        )
    (b, a), (pull_b, pull_a) = factors, forces

    def transposed(x: Array) -> Array:
        return x.swapaxes(-1, -2)

    c, other = transposed(b) @ b, a @ transposed(a)
    # −𝒢Aᵀ and −Bᵀ𝒢 are the forces on B and A
    right = transposed(jnp.linalg.solve(other, transposed(pull_b)))  # −𝒢AᵀC_A⁻¹
    left = jnp.linalg.solve(c, pull_a)  # −C_B⁻¹Bᵀ𝒢
    sigma = -jnp.linalg.solve(c, transposed(b) @ right)
    z = _balance(c, sigma - transposed(sigma))
    down = right - b @ jnp.linalg.solve(c, transposed(b) @ right)
    along = left - transposed(jnp.linalg.solve(other, a @ transposed(left))) @ a
    return down + b @ (z - 0.5 * sigma), along - (z + 0.5 * sigma) @ a


def _balance(c: Float[Array, "... r r"], delta: Float[Array, "... r r"]) -> Array:
    """Z with CZ + ZC = ¼(CΔ − ΔC)."""
    r = c.shape[-1]
    eye = jnp.eye(r, dtype=c.dtype)
    both = jnp.einsum("...ik,jl->...ijkl", c, eye) + jnp.einsum("ik,...lj->...ijkl", eye, c)
    wanted = 0.25 * (c @ delta - delta @ c)
    heads = c.shape[:-2]
    flat = jnp.linalg.solve(both.reshape(*heads, r * r, r * r), wanted.reshape(*heads, r * r, 1))
    return flat.reshape(*heads, r, r)


def _positive(name: str, value: float, what: str) -> Array:
    found = number(name, value, what)
    if not (found > 0.0 and math.isfinite(found)):
        raise ValueError(f"{name} = {value}: {what}, a positive number.")
    return jnp.asarray(found, jnp.result_type(float))
