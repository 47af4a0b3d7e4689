"""An explicit method where the flow is not stiff and another where it is, step by step."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ._spectral_radius import combination, noise, norm

#: h·ρ, as shares of the explicit method's interval of stability, from which on its steps count as
#: held down by stability, and below which it takes over again.
LIMITED, FREE = 0.57, 0.29

#: Power iterations at the start of a solve. Every step adds one, and an explicit step that the
#: first ones let pass where it is unstable is rejected by its error.
_ITERATIONS = 4


class SwitchingState(eqx.Module):
    """Which method is at work, why, and what both carry from step to step."""

    stiff: Bool[Array, "..."]
    limited: Int[Array, "..."]
    vector: PyTree[Array]
    explicit_state: PyTree
    stiff_state: PyTree
    explicit_steps: Int[Array, "..."]
    stiff_steps: Int[Array, "..."]

    @property
    def counts(self) -> dict[str, Int[Array, "..."]]:
        return {"explicit_steps": self.explicit_steps, "stiff_steps": self.stiff_steps}


class Switching(diffrax.AbstractAdaptiveSolver):
    r"""`explicit` while h·ρ is small and `stiff` once stability holds the steps down.

    ρ is the spectral radius of the Jacobian, followed by one power iteration a step. With
    `interval` the length of the explicit method's interval of stability on the negative real axis
    (3.5 for Tsit5, 5.2 for Dopri8), the stiff method takes over when h·ρ > `unstable`·`interval`,
    or > 0.57·`interval` at `patience` steps in a row, and gives way below 0.29·`interval`. A
    gradient flow near saddles is stiff on its plateaus and not in between: the transitions take
    most of the steps, and there an explicit one costs a third or less. Waiting for as many steps as
    the change costs is at worst twice as dear as knowing how long the stiff stretch will be. An
    unstable step raises what is below its tolerance by orders of magnitude, and no error tells;
    where every component has a tolerance of its own size, `unstable` may be ∞.

    Both methods must take a plain `diffrax.ODETerm`. Under `jax.vmap` a method is computed at
    the steps that take it for any member: a batch that is nowhere stiff costs what the
    explicit one does.

    **Source:** the switch is that of Petzold 1983 (SIAM J. Sci. Stat. Comput. 4, 136), with
    a measured ρ.

    ```python
    solver = gflow.solvers.Switching(diffrax.Tsit5(), gflow.solvers.Rodas5P())
    ```
    """

    explicit: diffrax.AbstractAdaptiveSolver
    stiff: diffrax.AbstractAdaptiveSolver
    interval: float = 3.5
    patience: int = 3
    unstable: float = 1.15
    #: Whether the stiff method takes a step, unless `free`; None where each step decides.
    only_stiff: Bool[Array, ""] | None = None
    free: Bool[Array, ""] | bool = False

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = diffrax.ThirdOrderHermitePolynomialInterpolation

    def __check_init__(self):
        if self.patience < 1:
            raise ValueError(
                f"patience = {self.patience}: the stiff method takes over after at least one step "
                "that stability held down."
            )

    def order(self, terms):
        orders = (solver.order(terms) for solver in (self.explicit, self.stiff))
        return min(order for order in orders if order is not None)

    def error_order_at(self, terms, state: SwitchingState) -> Float[Array, ""]:
        """The power of h in the error of the method that `state` says was at work."""
        orders: list[Any] = [s.error_order(terms) for s in (self.stiff, self.explicit)]
        return jnp.where(state.stiff, *(jnp.asarray(float(order)) for order in orders))

    def choice(self, state: SwitchingState) -> Bool[Array, "..."]:
        """Which method the step that led to `state` took."""
        return state.stiff

    def taking(self, choice: Bool[Array, ""], free: Bool[Array, ""]) -> "Switching":
        """The same solver with every step by one method: what is compared has one order.

        Where it is `free` it decides itself after all.
        """
        return dataclasses.replace(self, only_stiff=choice, free=free)

    def init(self, terms, t0, t1, y0, args):
        none, vector = jnp.zeros((), jnp.int32), followed(terms, t0, t1, y0, args)
        states = (solver.init(terms, t0, t1, y0, args) for solver in (self.explicit, self.stiff))
        states = jax.tree.map(jnp.asarray, tuple(states))
        return SwitchingState(jnp.array(False), none, vector, *states, none, none)

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def judged(self, terms, t0, t1, y0, args, stiff, limited, vector):
        """Whether the step is for the stiff method, after `limited` others that were held down."""
        h = terms.contr(t0, t1)
        reach, vector = spectral_reach(lambda y: terms.vf(t0, y, args), y0, h, vector)
        limited = jnp.where(reach > LIMITED * self.interval, limited + 1, 0)
        enter = (reach > self.unstable * self.interval) | (limited >= self.patience)
        return jnp.where(stiff, reach >= FREE * self.interval, enter), limited, vector

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        state, h = solver_state, terms.contr(t0, t1)
        stiff, limited, vector = self.judged(
            terms, t0, t1, y0, args, state.stiff, state.limited, state.vector
        )
        if self.only_stiff is not None:
            stiff = jnp.where(self.free, stiff, self.only_stiff)
        jumped = jnp.asarray(made_jump) | state.stiff  # the slope kept is then not this point's

        def by_explicit():
            y1, error, _, inner, _ = self.explicit.step(
                terms, t0, t1, y0, args, state.explicit_state, jumped
            )
            return y1, error, jax.tree.map(jnp.asarray, inner), state.stiff_state

        def by_stiff():
            y1, error, _, inner, _ = self.stiff.step(
                terms, t0, t1, y0, args, state.stiff_state, made_jump
            )
            return y1, error, state.explicit_state, jax.tree.map(jnp.asarray, inner)

        step = y0, y0, state.explicit_state, state.stiff_state
        step = _where(stiff, by_stiff, step)
        y1, error, explicit_state, stiff_state = _where(~stiff, by_explicit, step)
        one, limited = jnp.where(stiff, 1, 0), jnp.where(stiff, 0, limited)
        steps = (state.explicit_steps + (1 - one), state.stiff_steps + one)
        after = SwitchingState(stiff, limited, vector, explicit_state, stiff_state, *steps)
        k0, k1 = (combination((h, terms.vf(t, y, args))) for t, y in ((t0, y0), (t1, y1)))
        dense = dict(y0=y0, y1=y1, k0=k0, k1=k1)
        return y1, error, dense, after, diffrax.RESULTS.successful


def _where(which: Bool[Array, ""], function: Callable[[], PyTree], otherwise: PyTree) -> PyTree:
    """`function()` where `which` holds; under `jax.vmap` computed if it holds for any member.

    A `cond` would there be computed always, a loop that runs once or not at all is not.
    """
    _, out = jax.lax.while_loop(
        lambda carry: carry[0], lambda _: (jnp.array(False), function()), (which, otherwise)
    )
    return out


def followed(terms, t0, t1, y0, args) -> PyTree[Array]:
    """A vector that the first power iterations have turned to the fastest mode."""
    dtype = jnp.result_type(t0, t1, 0.0)
    h = jnp.asarray(terms.contr(t0, t1), dtype)

    def iterate(_, vector):
        return spectral_reach(lambda y: terms.vf(t0, y, args), y0, h, vector)[1]

    return jax.lax.fori_loop(0, _ITERATIONS, iterate, noise(y0, dtype))


def spectral_reach(field, y, h, vector) -> tuple[Float[Array, ""], PyTree[Array]]:
    """h·ρ from one power iteration; some noise lets another eigenvector take over."""
    _, image = jax.jvp(field, (y,), (vector,))
    size = norm(image, h.dtype)
    usable = jnp.isfinite(size) & (size > 0)
    scale = jnp.where(usable, 1.0 / jnp.where(usable, size, 1.0), 0.0)
    mixed = combination((scale, image), (0.05, noise(y, h.dtype)))
    mixed = combination((1.0 / norm(mixed, h.dtype), mixed))
    mixed = jax.tree.map(lambda a, b: jnp.where(usable, a, b), mixed, vector)
    mixed, reach = jax.lax.stop_gradient((mixed, jnp.abs(h) * size))
    return jnp.where(jnp.isnan(reach), jnp.inf, reach), mixed
