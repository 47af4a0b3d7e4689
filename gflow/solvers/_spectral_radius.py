"""Explicit Runge–Kutta methods that take as many stages as the spectral radius asks for."""

import abc
from collections.abc import Callable
from typing import ClassVar, Literal

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

_PERIOD = 20  # steps between two renewals of the estimate
_FIRST, _LEAST, _MOST = 20, 5, 50  # iterations: first estimate, renewals, all
_CHANGE = 0.01  # relative change at which they end


def combination(*terms: tuple[Array | float, PyTree]) -> PyTree:
    """Σ wᵢ·treeᵢ over pairs (wᵢ, treeᵢ), each leaf in its own precision."""
    weights, trees = zip(*terms, strict=True)

    def leaf(*parts):
        return sum(
            jnp.asarray(w, part.dtype) * part for w, part in zip(weights, parts, strict=True)
        )

    return jax.tree.map(leaf, *trees)


def norm(tree: PyTree, dtype) -> Float[Array, ""]:
    """Euclidean norm over all leaves."""
    squares = [jnp.sum(jnp.square(leaf)).astype(dtype) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, jnp.zeros((), dtype)))


def noise(tree: PyTree, dtype) -> PyTree:
    """A unit vector with the leaves of `tree`: always the same, and in no special direction."""
    leaves, structure = jax.tree.flatten(tree)
    parts, first = [], 0
    for leaf in leaves:
        # the finaliser of MurmurHash3 scatters the entries' numbers over 32 bits
        bits = jax.lax.iota(jnp.uint32, leaf.size) + jnp.uint32(first + 1)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
        part = (bits ^ (bits >> 16)).astype(leaf.dtype) * 2.0**-31 - 1.0
        parts.append(part.reshape(leaf.shape))
        first += leaf.size
    vector = jax.tree.unflatten(structure, parts)
    return combination((1.0 / norm(vector, dtype), vector))


class SpectralRadius(eqx.Module):
    r"""Running estimate of |λ|max of a symmetric Jacobian J by power iteration.

    v ← Jv/‖Jv‖ with exact Jacobian–vector products and ρ = ‖Jv‖, which never exceeds
    |λ|max. Every 20 steps, or when asked to, the estimate is renewed: iteration from
    v + noise/2 until ρ changes by less than 1 %, for a v that is an eigenvector exactly
    would never see another overtake it. Between renewals single iterations follow J.

    **Source:** the power method of Sommeijer, Shampine & Verwer 1998, J. Comput. Appl. Math.
    88, 315, with products in place of their differences.
    **Valid** for real spectra; far from normal J, ‖Jv‖ may also exceed |λ|max.

    ```python
    radius = SpectralRadius.unknown(y, y.dtype)
    radius, products = radius.follow(lambda y: -jax.grad(loss)(y), y, renew=True, refine=True)
    ```
    """

    value: Float[Array, ""]
    vector: PyTree[Array]
    age: Int[Array, ""]

    @classmethod
    def unknown(cls, y: PyTree[Array], dtype) -> "SpectralRadius":
        return cls(jnp.zeros((), dtype), noise(y, dtype), jnp.array(_PERIOD, jnp.int32))

    def follow(
        self,
        field: Callable,
        y: PyTree[Array],
        renew: Bool[Array, ""] | bool,
        refine: Bool[Array, ""] | bool,
    ) -> tuple["SpectralRadius", Int[Array, ""]]:
        """The estimate at `y` and the number of Jacobian–vector products it took."""
        dtype = self.value.dtype
        renew = (self.age >= _PERIOD) | renew
        most = jnp.where(renew, _MOST, jnp.where(refine, 1, 0))
        # an outlier begins among n others: the first estimate must not settle on them
        least = jnp.where(self.value > 0, _LEAST, _FIRST)

        def product(vector):
            return jax.jvp(field, (y,), (vector,))[1]

        # the number of stages is a whole number: nothing is differentiated through it
        product = jax.tree.map(
            lambda x: jax.lax.stop_gradient(x) if eqx.is_inexact_array(x) else x,
            eqx.filter_closure_convert(product, self.vector),
        )

        def perturbed():
            mixed = combination((1.0, self.vector), (0.5, noise(y, dtype)))
            return combination((1.0 / norm(mixed, dtype), mixed))

        def unsettled(carry):
            count, value, previous, _ = carry
            settled = (count >= least) & (jnp.abs(value - previous) <= _CHANGE * value)
            return (count < most) & ~settled

        def iterate(carry):
            count, value, _, vector = carry
            image = product(vector)
            size = norm(image, dtype)
            usable = jnp.isfinite(size) & (size > 0)
            scaled = combination((1.0 / jnp.where(usable, size, 1.0), image))
            vector = jax.tree.map(lambda a, b: jnp.where(usable, a, b), scaled, vector)
            return count + 1, jnp.where(jnp.isfinite(size), size, value), value, vector

        start = jax.lax.cond(renew, perturbed, lambda: self.vector)
        start = jax.tree.map(jax.lax.stop_gradient, start)
        value = jax.lax.stop_gradient(self.value)
        carry = (jnp.zeros((), jnp.int32), value, jnp.full_like(value, jnp.inf), start)
        count, value, _, vector = jax.lax.while_loop(unsettled, iterate, carry)
        age = jnp.where(renew, 0, self.age + 1)
        return SpectralRadius(value, vector, age), count


class StabilisedState(eqx.Module):
    """What a stabilised method carries from step to step.

    `slope` is the vector field at `time`; `evaluations` counts the right-hand sides so
    far, a Jacobian–vector product as two. Diffrax drops the state of a rejected step,
    and with it that step's evaluations.
    """

    radius: SpectralRadius
    time: Float[Array, ""]
    slope: PyTree[Array]
    length: Float[Array, ""]
    stages: Int[Array, ""]
    evaluations: Int[Array, ""]

    @property
    def counts(self) -> dict[str, Int[Array, ""]]:
        return {"evaluations": self.evaluations}


class StabilisedSolver(diffrax.AbstractAdaptiveSolver):
    """A step of s explicit stages, s the least for which h·ρ is in the stability interval.

    A subclass has `stages(h·ρ)`, the number of stages it needs (beyond `max_stages`: none
    suffices), and `advance`, the step itself. Spectral radii cost one product with the
    Jacobian, two evaluations, for about 20 stages, and more at a renewal.

    A step on which anything is non-finite, or for which there are not enough stages,
    returns its start with a NaN error, which every adaptive controller of Diffrax
    rejects. With `scan_kind="lax"` solves have forward derivatives, with "checkpointed"
    reverse ones, with "bounded" both, at the price of passing over `max_stages` stages.
    """

    min_stages: eqx.AbstractVar[int]
    max_stages: eqx.AbstractVar[int]
    safety: eqx.AbstractVar[float]
    scan_kind: eqx.AbstractVar[Literal["lax", "checkpointed", "bounded"]]

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = diffrax.ThirdOrderHermitePolynomialInterpolation

    @abc.abstractmethod
    def stages(self, reach: Float[Array, ""]) -> Int[Array, ""]:
        """The least number of stages that is stable up to h·ρ = `reach`."""

    @abc.abstractmethod
    def advance(self, field, y0, slope, h, stages) -> tuple[PyTree, PyTree, PyTree]:
        """y1, f at y1 and the error estimate; `field(c, y)` is f at t0 + c·h."""

    def init(self, terms, t0, t1, y0, args):
        dtype = jnp.result_type(t0, t1, 0.0)
        t0 = jnp.asarray(t0, dtype)
        slope = terms.vf(t0, y0, args)
        radius = SpectralRadius.unknown(y0, dtype)
        none, one = jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32)
        return StabilisedState(radius, t0, slope, jnp.zeros((), dtype), none, one)

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        state, dtype = solver_state, solver_state.time.dtype
        t0, t1 = jnp.asarray(t0, dtype), jnp.asarray(t1, dtype)
        h = jnp.asarray(terms.contr(t0, t1), dtype)
        length = t1 - t0

        def field(c, y):
            return terms.vf(t0 + c * length, y, args)

        jumped = jnp.asarray(made_jump)
        known = (state.time == t0) & ~jumped
        slope = jax.lax.cond(known, lambda: state.slope, lambda: field(0.0, y0))

        # a step shorter than the last is perhaps the repetition of one that failed
        renew = (length < state.length) | jumped
        refine = state.radius.age % jnp.maximum(20 // jnp.maximum(state.stages, 1), 1) == 0
        radius, products = state.radius.follow(lambda y: field(0.0, y), y0, renew, refine)
        reach = self.safety * jnp.abs(h) * radius.value
        stages = self.stages(reach)
        possible = stages <= self.max_stages
        stages = jnp.where(possible, stages, self.stages(jnp.zeros_like(reach)))
        y1, slope1, error = self.advance(field, y0, slope, h, stages)

        new = jax.tree.leaves((y1, error))
        finite = possible & jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in new]))

        def kept(new, old):
            return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

        y1, slope1 = kept(y1, y0), kept(slope1, slope)
        error = kept(error, jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), error))
        dense = dict(y0=y0, y1=y1, k0=combination((h, slope)), k1=combination((h, slope1)))
        evaluations = state.evaluations + stages + 2 * products + jnp.where(known, 0, 1)
        time = jnp.where(finite, t1, t0)
        state = StabilisedState(radius, time, slope1, length, stages, evaluations)
        return y1, error, dense, state, diffrax.RESULTS.successful
