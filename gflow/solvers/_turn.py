"""One of the two methods of `Switching`, up to where it is the other's turn."""

from typing import ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from ._switching import Switching, followed


class TurnState(eqx.Module):
    """Whether the step was the other's to take, and what decides it."""

    turn: Bool[Array, "..."]
    limited: Int[Array, "..."]
    vector: PyTree[Array]
    inner: PyTree


class Turn(diffrax.AbstractAdaptiveSolver):
    """The `stiff` method of a `Switching` solver, or the other one, with that solver's judgement.

    It takes every step itself, and its state says whether `Switching` would have changed over: who
    integrates many at once can then collect those of one kind, which Switching cannot under
    `jax.vmap`.

    ```python
    solver = Turn(gflow.solvers.Switching(diffrax.Dopri8(), gflow.solvers.Rodas5P()), stiff=False)
    ```
    """

    switching: Switching
    stiff: bool = eqx.field(static=True)

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = diffrax.ThirdOrderHermitePolynomialInterpolation

    @property
    def method(self) -> diffrax.AbstractAdaptiveSolver:
        """The method itself."""
        return self.switching.stiff if self.stiff else self.switching.explicit

    def order(self, terms):
        return self.method.order(terms)

    def error_order(self, terms):
        return self.method.error_order(terms)

    def init(self, terms, t0, t1, y0, args):
        vector = followed(terms, t0, t1, y0, args)
        inner = jax.tree.map(jnp.asarray, self.method.init(terms, t0, t1, y0, args))
        return TurnState(jnp.array(False), jnp.zeros((), jnp.int32), vector, inner)

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        state, stiff = solver_state, jnp.array(self.stiff)
        now, limited, vector = self.switching.judged(
            terms, t0, t1, y0, args, stiff, state.limited, state.vector
        )
        y1, error, _, inner, result = self.method.step(
            terms, t0, t1, y0, args, state.inner, made_jump
        )
        inner = jax.tree.map(jnp.asarray, inner)
        after = TurnState(now != stiff, limited, vector, inner)
        k0, k1 = (jax.tree.map(lambda f: (t1 - t0) * f, terms.vf(t, y, args))
                  for t, y in ((t0, y0), (t1, y1)))  # fmt: skip
        return y1, error, dict(y0=y0, y1=y1, k0=k0, k1=k1), after, result
