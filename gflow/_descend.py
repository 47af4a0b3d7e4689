"""Discrete training on the same time axis: gradient descent, minibatches, Optax."""

import enum
import math
import time
import warnings
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from ._arguments import count
from ._simulate import elapsed_time
from .coordinates._base import FactorCoordinates, RawCoordinates
from .flow._callables import check_objective
from .flow._flow import (
    Decay,
    Flow,
    Objective,
    build_flow,
    check_leaf,
    decay_rate,
    traced_observables,
)
from .integrate._round import record_state
from .parameters._base import is_parameter, to_factors, trained_leaves
from .programs._closure import check_untraced
from .results._trajectory import Trajectory, joined, log_alpha_of
from .training._samples import Batches, make_batches
from .training._signed_logs import SignedLogs, discrete

#: Records one call of the compiled loop makes.
RECORDS = 64


class DescentStatus(enum.Enum):
    """How a run ended; the value is the message."""

    reached = "made the requested number of steps"
    diverged = (
        "diverged: the loss became NaN or infinite. Likely causes: (a) the learning rate is above "
        "2/(largest curvature), (b) the loss is unbounded below or undefined where the weights "
        "went. Pass a smaller learning rate; the records before are kept"
    )
    interrupted = "interrupted by the user"

    @property
    def successful(self) -> bool:
        return self is DescentStatus.reached


def descend(
    model: PyTree,
    objective: Objective,
    *,
    learning_rate: Any = None,
    optimizer: Any = None,
    steps: int,
    batch: int | None = None,
    key: Any = None,
    decay: Decay = 0.0,
    log_alpha: float | None = None,
    observables: Any = None,
    save_every: int | None = None,
    allow_float32: bool = False,
    allow_frozen_sign: bool = False,
) -> Trajectory:
    r"""Train in discrete steps: gradient descent as exact as the flow, or any Optax optimiser.

    With `learning_rate=η` each factor takes the step −η(∇L + λ·factor). In the coordinates
    s = u + v, d = u − v of a Hadamard leaf, with g = −∂L/∂θ, that is

        s⁺ = (1 − ηλ + ηg) s,    d⁺ = (1 − ηλ − ηg) d,

    held as log|s|, log|d| and signs, hence exact at any α. u² − v² is not conserved:
    c⁺ = ((1 − ηλ)² − η²g²) c. Time is t = η·step.

    **Arguments:**

    - `model`, `objective`, `decay`, `log_alpha`, `observables`: as in `gflow.simulate`.
    - `learning_rate`: η of plain gradient descent, or
    - `optimizer`: an Optax transformation. It trains `gflow.to_factors(model)`. The learning
      rate of an optimiser made by `optax.inject_hyperparams` is known, and t = Σ η;
      otherwise t counts steps and there is no τ. Weight decay belongs into the optimiser.
    - `steps`: number of steps. Neither it nor η, `key` or a constant `decay` recompiles.
    - `batch`, `key`: draw so many examples for each step, without replacement, from the
      leading axis of `objective.inputs` and `objective.targets`. The gradient is an
      unbiased estimate of that of `objective`; the recorded loss is that of all data.
    - `save_every`: steps between records; by default such that there are at most 2000.

    **Returns:** a `Trajectory` without error bars; `.final` has the signs of s and d.
    When the loss leaves the floats it ends there, with a warning and the reason in `.status`.

    **Raises:** ValueError for bad input, naming what was given and what to do.

    **Source:** minibatch noise in these coordinates: Pesme et al. 2021 (2106.09524).

    ```python
    gflow.descend(model, objective, learning_rate=1e-2, steps=20_000)
    gflow.descend(model, objective, optimizer=optax.adamw(1e-3), steps=20_000)
    ```
    """
    check_untraced(model=model, objective=objective)
    check_objective(objective)
    _check_rule(learning_rate, optimizer, decay)
    steps, save_every = _check_steps(steps, save_every)
    scale, conflict = log_alpha_of(model, log_alpha)
    checks = dict(allow_float32=allow_float32, allow_frozen_sign=allow_frozen_sign)
    trained = model
    if learning_rate is not None:
        flow = discrete(build_flow(model, objective, decay=decay, **checks), model)
        rule: Any = _Plain(jnp.asarray(learning_rate, flow.start().dtype))
    else:
        for name, leaf in trained_leaves(model).items():
            check_leaf(name, leaf, **checks)
        trained = to_factors(model)
        flow = build_flow(trained, objective, **checks)
        rule = _Optax(optimizer, trained)
    batches = make_batches(flow, trained, objective, batch, key)
    programs = traced_observables(observables, trained, flow)

    began = time.perf_counter()
    carry = rule.start(flow)
    start = elapsed_time(model) if rule.knows_time(carry) else 0.0
    run = _Run(rule, flow, batches, programs, carry, start, steps, save_every)
    run.go()
    trajectory = Trajectory.from_records(
        model=trained,
        t=np.concatenate(run.times),
        records=joined(run.records),
        refined=None,
        log_alpha=scale,
        log_alpha_conflict=conflict,
        status=run.status,
        method=_describe(rule, flow, batches),
        statistics={
            "steps": run.made,
            "steps a record": save_every,
            "seconds": time.perf_counter() - began,
        },
        resolver=None,
    )
    if not rule.knows_time(carry):
        trajectory.counts_steps = True
        trajectory.log_alpha = math.nan
        trajectory.log_alpha_conflict = (
            "the learning rate inside the optimizer is not known, so that t counts steps. Make "
            "it with optax.inject_hyperparams(optax.adam)(learning_rate=...) for t = Σ η."
        )
    if not trajectory.successful:
        warnings.warn(f"gflow.descend {trajectory.status}.", stacklevel=2)
    return trajectory


class _Plain(eqx.Module):
    """Gradient descent; it carries the state of the flow."""

    learning_rate: Float[Array, ""]

    def start(self, flow: Flow) -> Any:
        return flow.start()

    def step(self, flow: Flow, carry: Any, t: Float[Array, ""]) -> tuple[Any, Array]:
        loss, force = flow.forces(flow.weights(carry))
        parts = []
        for name, c, rate, part in zip(
            flow.names, flow.coordinates, flow.decay, flow.split(carry), strict=True
        ):
            decay = decay_rate(rate, t, part.dtype)
            if isinstance(c, SignedLogs):
                parts.append(c.descended(part, force[name], decay, self.learning_rate))
            else:
                parts.append(part + self.learning_rate * c.velocity(part, force[name], decay))
        return jnp.concatenate(parts), loss

    def time(self, carry: Any, start: Float[Array, ""], step: Int[Array, ""]) -> Array:
        return start + self.learning_rate * step.astype(start.dtype)

    def state(self, carry: Any) -> Array:
        return carry

    def knows_time(self, carry: Any) -> bool:
        return True


class _Optax(eqx.Module):
    """An Optax optimiser; it carries the inexact arrays of the model, its memory and Σ η."""

    optimizer: optax.GradientTransformation = eqx.field(static=True)
    model: PyTree

    def start(self, flow: Flow) -> Any:
        arrays = eqx.filter(self.model, eqx.is_inexact_array)
        with jax.numpy_dtype_promotion("standard"):  # which Optax is written for
            memory = self.optimizer.init(arrays)
        return arrays, memory, jnp.zeros((), flow.start().dtype)

    def _combined(self, arrays: PyTree) -> PyTree:
        return eqx.combine(arrays, eqx.filter(self.model, eqx.is_inexact_array, inverse=True))

    def _weights(self, arrays: PyTree) -> dict[str, Array]:
        leaves = trained_leaves(self._combined(arrays))
        return {name: x.value if is_parameter(x) else x for name, x in leaves.items()}

    def step(self, flow: Flow, carry: Any, t: Float[Array, ""]) -> tuple[Any, Array]:
        arrays, memory, elapsed = carry
        weights, pull = jax.vjp(self._weights, arrays)
        loss, forces = flow.forces(weights)
        (gradient,) = pull(jax.tree.map(jnp.negative, forces))
        with jax.numpy_dtype_promotion("standard"):
            updates, memory = self.optimizer.update(gradient, memory, arrays)
        rate = _known_rate(memory)
        elapsed = elapsed + (1.0 if rate is None else rate.astype(elapsed.dtype))
        return (eqx.apply_updates(arrays, updates), memory, elapsed), loss

    def time(self, carry: Any, start: Float[Array, ""], step: Int[Array, ""]) -> Array:
        return start + carry[2]

    def state(self, carry: Any) -> Array:
        leaves = trained_leaves(self._combined(carry[0])).values()
        return jnp.concatenate(
            [x.coordinates(False).start() if is_parameter(x) else x.ravel() for x in leaves]
        )

    def knows_time(self, carry: Any) -> bool:
        return _known_rate(carry[1]) is not None


def _known_rate(memory: Any) -> Any:
    """The learning rate in the state of `optax.inject_hyperparams`, or None."""
    found = optax.tree_utils.tree_get_all_with_path(memory, "hyperparams")
    rates = [values["learning_rate"] for _, values in found if "learning_rate" in values]
    return rates[0] if len(rates) == 1 else None


@eqx.filter_jit
def _advance(
    rule: Any,
    flow: Flow,
    batches: Batches | None,
    observables: dict,
    carry: Any,
    made: Int[Array, ""],
    start: Float[Array, ""],
    save_every: Int[Array, ""],
    steps: Int[Array, ""],
) -> tuple[Any, dict[str, Any]]:
    """Train until RECORDS records are made, or `steps` steps, or the loss is not finite.

    Records past the end are empty.
    """

    def step(inside):
        i, _, carry = inside
        drawn = flow
        if batches is not None:
            drawn = batches(flow, i)
        carry, loss = rule.step(drawn, carry, rule.time(carry, start, i))
        return i + 1, jnp.isfinite(loss), carry

    def save(inside, _):
        before, stop = inside[0], jnp.minimum(inside[0] + save_every, steps)
        inside = lax.while_loop(lambda x: (x[0] < stop) & x[1], step, inside)
        i, finite, carry = inside
        t = rule.time(carry, start, i)

        def recorded():
            return record_state(flow, observables, t, rule.state(carry))

        empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(recorded))
        record = lax.cond(i > before, recorded, lambda: empty)
        finite = finite & jnp.isfinite(record["loss"])
        return inside, {"step": i, "t": t, "finite": finite, "record": record}

    inside, saved = lax.scan(save, (made, jnp.array(True), carry), length=RECORDS)
    return inside[2], saved


@eqx.filter_jit
def _first(flow: Flow, observables: dict, t: Float[Array, ""]) -> dict[str, Any]:
    return record_state(flow, observables, t, flow.start())


def _to_host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


class _Run:
    """The loop over calls of `_advance`: what is recorded, and when to stop."""

    def __init__(self, rule, flow, batches, observables, carry, start, steps, save_every):
        self.arguments = (rule, flow, batches, observables)
        dtype = flow.start().dtype
        self.clock = (
            jnp.asarray(start, dtype),
            jnp.asarray(save_every, int),
            jnp.asarray(steps, int),
        )
        self.steps, self.made, self.status = steps, 0, DescentStatus.reached
        self.carry = carry
        self.times = [np.array([start])]
        first = _to_host(_first(flow, observables, self.clock[0]))
        self.records = [jax.tree.map(lambda x: x[None], first)]

    def go(self) -> None:
        try:
            while self.made < self.steps and self.status is DescentStatus.reached:
                self._advance()
        except KeyboardInterrupt:
            self.status = DescentStatus.interrupted

    def _advance(self) -> None:
        carry, saved = _advance(
            *self.arguments, self.carry, jnp.asarray(self.made, int), *self.clock
        )
        saved = _to_host(saved)
        fresh = np.diff(saved["step"], prepend=self.made) > 0
        count = int(np.sum(fresh & saved["finite"]))
        if not saved["finite"].all():
            self.status = DescentStatus.diverged
        self.carry = carry
        if count:
            self.made = int(saved["step"][count - 1])
            self.times.append(saved["t"][:count])
            self.records.append(jax.tree.map(lambda x: x[:count], saved["record"]))


def _check_rule(learning_rate: Any, optimizer: Any, decay: Decay) -> None:
    if (learning_rate is None) == (optimizer is None):
        given = "neither" if optimizer is None else "both"
        raise ValueError(
            f"Give either learning_rate=η (gradient descent) or optimizer= (Optax); got {given}."
        )
    if optimizer is None:
        if callable(learning_rate):
            raise ValueError(
                "learning_rate is a function of the step, a schedule. It goes into an optimiser "
                "that tells its rate, so that t = Σ η is known: "
                "optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=schedule)."
            )
        if not isinstance(learning_rate, int | float | np.number):
            raise ValueError(f"learning_rate = {learning_rate!r} must be a number above 0.")
        if not (math.isfinite(learning_rate) and learning_rate > 0):
            raise ValueError(f"learning_rate = {learning_rate} must be a finite number above 0.")
        return
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(
            f"optimizer = {optimizer!r} is no Optax transformation. Pass for example "
            "optax.adam(1e-3), or learning_rate= for plain gradient descent."
        )
    if isinstance(decay, Mapping) or callable(decay) or decay != 0.0:
        raise ValueError(
            f"decay = {decay!r} belongs to learning_rate=. With an optimizer put it there: "
            "optax.chain(optax.add_decayed_weights(λ), optax.sgd(η)), or optax.adamw."
        )


def _check_steps(steps: int, save_every: int | None) -> tuple[int, int]:
    steps = count("steps", steps, "the number of steps")
    if save_every is None:
        return steps, math.ceil(steps / 2000)
    return steps, count("save_every", save_every, "the steps from one record to the next")


def _describe(rule: Any, flow: Flow, batches: Batches | None) -> str:
    how = "" if batches is None else f", minibatches of {batches.size}"
    if isinstance(rule, _Optax):
        return f"Optax optimizer{how}, on plain factors"
    names = {SignedLogs: "log", RawCoordinates: "raw", FactorCoordinates: "factor"}
    kinds = sorted({names[type(c)] for c in flow.coordinates})
    what = "gradient descent" if batches is None else "stochastic gradient descent"
    rate = float(rule.learning_rate)
    return f"{what}{how}, learning rate {rate:g}, in {' and '.join(kinds)} coordinates"
