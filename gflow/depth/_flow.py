"""Continuous depth: tokens as particles, in coordinates in which their collapse stays visible."""

import dataclasses
from collections.abc import Callable, Mapping

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jaxtyping import Array, Float, Shaped

from .._arguments import number, numbers
from ._blocks import Block
from ._follow import ALWAYS, as_block
from ._observables import Observable
from ._tokens import Tokens, direction, tokens_of


class OnSphere(Block):
    r"""The velocity of a block along the sphere: P^⊥_{x_i} y_i = y_i − ⟨x_i, y_i⟩x_i, y = block(X).

    ```python
    eye = jnp.eye(6)
    depth.flow(depth.OnSphere(depth.Attention(eye, eye, eye, scale=2.0)), eye, t1=10.0)
    ```
    """

    block: Block

    def __call__(self, tokens: Tokens) -> Tokens:
        y = self.block(tokens)
        common, apart = tokens.common, tokens.apart
        inner = common @ y.common
        rest = apart @ y.common + y.apart @ common + jnp.sum(apart * y.apart, axis=1)
        return y - tokens.row_scaled(inner, rest)


@dataclasses.dataclass(frozen=True, eq=False)
class DepthFlow:
    """Tokens over continuous depth: observables at the times `t`, times first, and error bars.

    `error[name]` is how far the run and one of tighter tolerance differ. `final`: the tokens.
    """

    t: Float[np.ndarray, " times"]
    observables: dict[str, np.ndarray]
    error: dict[str, np.ndarray]
    final: Tokens
    steps: int

    def __repr__(self) -> str:
        return (
            f"DepthFlow(to t = {self.t[-1]:g}, {self.steps} steps: {', '.join(self.observables)})"
        )


def flow(
    velocity: Block | Callable[[Array], Array],
    tokens: Tokens | Shaped[Array | np.ndarray, "..."],
    t1: float | int,
    *,
    observables: Mapping[str, Observable] | None = None,
    save: Float[np.ndarray, " times"] | list | None = None,
    rtol: float = 1e-10,
) -> DepthFlow:
    r"""X' = velocity(X), from t = 0 to `t1`: attention as a flow of particles.

    The mean token, the direction of the deviation and the logarithm of its size are integrated by
    Dopri8, at `rtol` and at a tenth of it, in which 1 − ρ ~ e^{−2t} has its digits at any time.

    **Arguments:** `velocity`, a block (on the sphere: `OnSphere(block)`) or a function of X;
    `save`, times between 0 and t1 (101 unless given); `observables` as in `follow`.
    **Raises:** ValueError for times and tolerances that are none, a velocity of another shape than
    that of the tokens, and flows that do not arrive.

    ```python
    run = depth.flow(depth.OnSphere(attention), jnp.eye(6), 20.0)
    run.observables["log_apart"], run.error["log_apart"]
    ```
    """
    end = number("t1", t1, "the end of the flow")
    tolerance = number("rtol", rtol, "the relative tolerance")
    if not 0.0 < end < np.inf or not 1e-14 < tolerance < 1e-1:
        raise ValueError(f"t1 = {t1}, rtol = {rtol}: a positive time, and 1e-14 < rtol < 0.1.")
    at = np.linspace(0.0, end, 101) if save is None else numbers("save", save, "times")
    if at.ndim != 1 or not len(at) or np.any(np.diff(at) <= 0.0) or at[0] < 0.0 or at[-1] > end:
        raise ValueError(f"save = {save}: times that rise, between 0 and t1 = {end:g}.")
    start, block = tokens_of(tokens), as_block(velocity)
    if not isinstance(block, Block):
        raise ValueError("A velocity is a block without memory: give a depth.Block.")
    moved = jax.eval_shape(block, start)
    if moved.deviation.shape != start.deviation.shape:
        raise ValueError(
            f"The velocity of tokens of shape {start.deviation.shape} has shape "
            f"{moved.deviation.shape}: the two are to be the same."
        )
    names = {**ALWAYS, **(observables or {})}
    coarse, _, _, arrived = _solve(
        block, start, jnp.asarray(at), jnp.asarray(end), jnp.asarray(tolerance), names
    )
    fine, final, steps, arrived_too = _solve(
        block, start, jnp.asarray(at), jnp.asarray(end), jnp.asarray(0.1 * tolerance), names
    )
    if not (arrived and arrived_too):
        raise ValueError(
            f"The flow does not arrive at t1 = {end:g}: (a) tokens run off to infinity before, (b) "
            "rtol is too tight. Give an earlier t1 or a looser rtol."
        )
    seen = {name: np.asarray(x) for name, x in fine.items()}
    with np.errstate(invalid="ignore"):
        error = {name: np.abs(seen[name] - np.asarray(coarse[name])) for name in seen}
    return DepthFlow(at, seen, error, final, int(steps))


def _unpacked(state, like: Tokens) -> Tokens:
    mean, turned, log = state
    # rounding that is common to all tokens would not decay with what tells them apart
    share = like.counts / jnp.sum(like.counts)
    turned = turned - (share @ turned)[None]
    zero = jnp.zeros_like(log)
    return Tokens(*direction(mean, zero), turned, log, like.counts, like.rounding)


@eqx.filter_jit
def _solve(block, start, at, end, rtol, names):
    def field(_, state, __):
        tokens = _unpacked(state, start)
        moved = block(tokens)
        there = jnp.isfinite(tokens.log_size)
        ratio = jnp.where(there, jnp.exp(moved.log_size - tokens.log_size), 0.0)
        along = ratio * moved.deviation
        norm = jnp.sum(start.counts[:, None] * tokens.deviation**2)
        growth = jnp.sum(start.counts[:, None] * tokens.deviation * along)
        growth = growth / jnp.where(norm > 0.0, norm, 1.0)
        return moved.common, along - growth * tokens.deviation, growth

    begin = (start.common, start.deviation, start.log_size)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field), diffrax.Dopri8(), 0.0, end, None, begin,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol, norm=optimistix.max_norm),
        saveat=diffrax.SaveAt(ts=at, t1=True), max_steps=4096, throw=False,
    )  # fmt: skip
    course = jax.tree.map(lambda x: x[:-1], solution.ys)

    def look(state):
        tokens = _unpacked(state, start)
        return {name: read(tokens, block) for name, read in names.items()}

    final = _unpacked(jax.tree.map(lambda x: x[-1], solution.ys), start)
    arrived = solution.result == diffrax.RESULTS.successful
    return jax.vmap(look)(course), final, solution.stats["num_accepted_steps"], arrived
