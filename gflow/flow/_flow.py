"""The exact flow of a model: dθ/dt = −∇L(θ) − λθ, each leaf in its own coordinates."""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from ..coordinates._base import movable
from ..coordinates._raw import RawCoordinates
from ..coordinates._record import LeafRecord
from ..integrate._march import Field
from ..kinks._treatments import AsWritten, Kinks
from ..parameters._base import Constant, Parameter, Small, is_parameter, trained_leaves
from ..programs import _room as programs
from ..programs._closure import Traced, check_untraced, traced
from . import _schedule as schedule
from ._callables import (
    LossOf,
    Skeleton,
    arrays_of,
    check_objective,
    checked_observables,
    row_of,
    traced_observable,
    traced_rate,
)
from ._leaves import check_leaves, check_observable_names

# a Callable[[Any], Float[Array, ""]]; anything else is refused in a sentence
Objective = Any
Decay = float | Callable[[Any], Any] | Mapping[str, Any]
# in a batch one number for each member as well
BatchDecay = Decay | ArrayLike | Sequence[float]


class Flow(Field):
    """Vector field of the gradient flow on one flat state vector.

    Made by `build_flow`. `velocity(t, state)` is d(state)/dt; `weights(state)` are the
    effective weights by leaf name; `forces(weights)` is the loss with g = −∂L/∂weights.
    `objective` is a program of the arrays it holds (`data`), those of the model that stay
    (`others`) and the weights.
    """

    coordinates: tuple[Any, ...]
    decay: tuple[Constant | Traced | None, ...]
    others: list[Array]
    data: list[Array]
    objective: Traced
    names: tuple[str, ...] = eqx.field(static=True)
    #: Times that a step of the integration ends at, in order (see `_schedule`).
    edges: Float[Array, " edges"] | None = None
    kinks: Kinks = AsWritten()

    def as_written(self, weights: Mapping[str, Array]) -> Float[Array, ""]:
        """The loss with its branches as JAX takes them."""
        # what depends on no weight may be a plain number
        return jnp.asarray(self.objective(self.data, self.others, dict(weights)))

    def loss(self, weights: Mapping[str, Array]) -> Any:  # `build_flow` checks that it is a scalar
        return self.kinks.loss(self.as_written, weights)

    def forces(self, weights: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Loss and g = −∂L/∂weight for every trained leaf."""
        loss, gradient = jax.value_and_grad(self.loss)(weights)
        return loss, jax.tree.map(jnp.negative, gradient)

    @property
    def dtype(self) -> Any:
        """Of the state."""
        return jax.tree.leaves(eqx.filter(self.coordinates, eqx.is_inexact_array))[0].dtype

    @property
    def size(self) -> int:
        """Length of the state."""
        return sum(c.size for c in self.coordinates)

    @property
    def moving(self) -> dict[str, PyTree[Array]]:
        """By field, what changes from one point of a run to another."""
        return {"coordinates": self.coordinates, "kinks": self.kinks}

    def resumed(self, record: Mapping[str, Any], frame: tuple[PyTree[Array], ...]) -> "Flow":
        """The same flow from a recorded point on, whose frame that was."""
        return dataclasses.replace(self.at(record["leaves"]), kinks=self.kinks.framed(frame[-1]))

    def start(self) -> Float[Array, " size"]:
        return jnp.concatenate([c.start() for c in self.coordinates])

    def split(self, state: Float[Array, " size"]) -> list[Array]:
        sizes = [c.size for c in self.coordinates]
        return jnp.split(state, np.cumsum(sizes)[:-1].tolist())

    def views(self, state: Float[Array, " size"]) -> dict[str, Any]:
        """The arrays of what observables see of every leaf."""
        parts = zip(self.names, self.coordinates, self.split(state), strict=True)
        return eqx.filter({name: c.view(part) for name, c, part in parts}, eqx.is_array)

    def weights(self, state: Float[Array, " size"]) -> dict[str, Array]:
        parts = self.split(state)
        pairs = zip(self.names, self.coordinates, parts, strict=True)
        return {name: c.value(part) for name, c, part in pairs}

    def velocity(self, t: Float[Array, ""], state: Float[Array, " size"]) -> Array:
        return self.kinks.settled(self, t, state).motion(t, state)

    def motion(self, t: Float[Array, ""], state: Float[Array, " size"]) -> Array:
        """d(state)/dt with the branches of the loss as they stand."""
        return _motion(self, t, state)

    def at(self, leaves: Mapping[str, LeafRecord]) -> "Flow":
        """The same flow with coordinates that start at a recorded point."""
        pairs = zip(self.names, self.coordinates, strict=True)
        moved = tuple(c.at(leaves[name]) for name, c in pairs)
        return eqx.tree_at(lambda f: f.coordinates, self, moved)

    def record(self, t: Float[Array, ""], state: Float[Array, " size"]) -> dict[str, Any]:
        """Loss, descent, and per leaf its record and force."""
        settled = self.kinks.settled(self, t, state)
        loss, force = settled.forces(self.weights(state))
        leaves, descent = {}, jnp.zeros_like(loss)
        for name, c, rate, part in zip(
            self.names, self.coordinates, self.decay, self.split(state), strict=True
        ):
            decay = decay_rate(rate, t, state.dtype)
            descent = descent + c.descent(part, force[name], decay)
            leaves[name] = LeafRecord({**c.record(part), "force": force[name]}, c.chart)
        return {"loss": loss, "descent": descent, "leaves": leaves}

    def drift(
        self, t: Float[Array, ""], state: Float[Array, " size"], origin: Float[Array, " size"]
    ) -> tuple[Array, Array]:
        """Speed and scale of every weight or column: what has to stop before the flow rests."""
        settled = self.kinks.settled(self, t, state)
        _, force = settled.forces(self.weights(state))
        pairs = [
            c.drift(part, force[name], decay_rate(rate, t, state.dtype), begin)
            for name, c, rate, part, begin in zip(
                self.names, self.coordinates, self.decay, self.split(state), self.split(origin),
                strict=True,
            )
        ]  # fmt: skip
        return jnp.concatenate([x for x, _ in pairs]), jnp.concatenate([s for _, s in pairs])

    def resolved(self, state: Float[Array, " size"]) -> Array:
        parts = zip(self.coordinates, self.split(state), strict=True)
        return jnp.all(jnp.stack([c.resolved(part) for c, part in parts]))

    def first_step(self, t: Float[Array, ""], rtol: Float[Array, ""]) -> Float[Array, ""]:
        """A thousandth of what moves a logarithm by one; a hundredth of a raw weight's scale.

        ∞ where nothing moves.
        """
        start = self.start()
        speed = jnp.abs(self.velocity(t, start))
        atol, relative = self.tolerance(rtol)
        scale = (atol + relative * jnp.abs(start)) / rtol
        step = 1e-2 * jnp.where(speed > 0.0, scale / jnp.where(speed > 0.0, speed, 1.0), jnp.inf)
        return jnp.min(step)

    def tolerance(self, rtol: Float[Array, ""]) -> tuple[Array, Array]:
        pairs = [c.tolerance(rtol) for c in self.coordinates]
        return jnp.concatenate([a for a, _ in pairs]), jnp.concatenate([r for _, r in pairs])

    def frame(self) -> tuple[PyTree[Array], ...]:
        """One frame a leaf, and that of the kinks."""
        return *(c.frame() for c in self.coordinates), self.kinks.frame()

    def framed(self, frame: tuple[PyTree[Array], ...]) -> "Flow":
        pairs = zip(self.coordinates, frame[:-1], strict=True)
        moved = tuple(c.framed(x) for c, x in pairs)
        return dataclasses.replace(self, coordinates=moved, kinks=self.kinks.framed(frame[-1]))

    def recentred(self, state: Float[Array, " size"]) -> tuple[Any, Array, Array]:
        pairs = zip(self.coordinates, self.split(state), strict=True)
        frames, parts = zip(*(c.recentred(part) for c, part in pairs), strict=True)
        state = jnp.concatenate(parts)
        changed = jax.tree.map(lambda a, b: jnp.any(a != b), frames, self.frame()[:-1])
        sides, state = self.kinks.recentred(self.framed((*frames, self.kinks.frame())), state)
        changed = jax.tree.reduce(jnp.logical_or, changed, jnp.array(False))
        return (*frames, sides), state, changed

    def way(self, t0: Any, y0: Any, after: "Flow", t1: Any, y1: Any) -> Array:
        return self.kinks.way(self, t0, y0, after, t1, y1)

    def horizon(
        self, t: Float[Array, ""], state: Float[Array, " size"], atol: Float[Array, " size"]
    ) -> Float[Array, ""]:
        velocity = self.velocity(t, state)
        parts = zip(
            self.coordinates, self.split(state), self.split(velocity), self.split(atol),
            strict=True,
        )  # fmt: skip
        horizon = jnp.min(jnp.stack([c.horizon(*part) for c, *part in parts]))
        if self.edges is None:
            return horizon
        # an edge that rounding has put just behind or just before t is the one stood at
        rounding = 8.0 * jnp.finfo(t.dtype).eps * jnp.abs(t)
        ahead = jnp.searchsorted(self.edges, t + rounding, side="right")
        return jnp.minimum(horizon, self.edges[ahead] - t)


@eqx.filter_jit
def _motion(flow: Flow, t: Array, state: Array) -> Array:
    """`Flow.motion`: traced once for all the places of a program that ask for it."""
    _, force = flow.forces(flow.weights(state))
    parts = zip(flow.names, flow.coordinates, flow.decay, flow.split(state), strict=True)
    return jnp.concatenate(
        [c.velocity(part, force[n], decay_rate(rate, t, state.dtype)) for n, c, rate, part in parts]
    )


def decay_rate(rate, t, dtype) -> Float[Array, ""]:
    if rate is None:
        return jnp.zeros((), dtype)
    if isinstance(rate, Constant):
        return jnp.asarray(rate.value, dtype)
    return rate(jnp.asarray(t, dtype))


def _traced_rates(
    rates: tuple[Any, ...], names: tuple[str, ...], dtype: Any
) -> tuple[Constant | Traced | None, ...]:
    made: dict[int, Traced] = {}  # one function may be the decay of many leaves
    for name, rate in zip(names, rates, strict=True):
        if callable(rate) and id(rate) not in made:
            made[id(rate)] = traced_rate(rate, dtype, name)
    return tuple(made.get(id(rate), rate) for rate in rates)


def build_flow(
    model: PyTree,
    objective: Objective,
    *,
    decay: BatchDecay = 0.0,
    allow_float32: bool = False,
    allow_frozen_sign: bool = False,
    members: int | None = None,
    shared: bool = True,
) -> Flow:
    """Check `model` and `objective` and put every trained leaf into its coordinates.

    With `members` the model is a batch stacked along a leading axis of that length, and so
    is the objective unless it is `shared`.

    **Raises:** ValueError (with the leaf's name and the remedy) for a model without
    trained leaves, tied weights, float32 state, factors of equal size, an unknown leaf
    in `decay`, a loss that is not a finite scalar.
    """
    programs.room.make()
    check_untraced(model=model, objective=objective, decay=decay)
    check_objective(objective)
    check_leaves(model)
    leaves = trained_leaves(model)
    names = tuple(leaves)
    if not names:
        raise ValueError(
            f"{type(model).__name__} has nothing to train: no Hadamard or Scaled leaf and no "
            "inexact array (Frozen leaves and integer arrays stay)."
        )
    _check_untied(leaves)
    if members is None:
        check_single(leaves)
    rates = _decay_rates(decay, names, members)
    for name, leaf in leaves.items():
        check_leaf(name, leaf, allow_float32, allow_frozen_sign)
    trained = [x if is_parameter(x) else jnp.asarray(x) for x in leaves.values()]
    decays = tuple(rate is not None for rate in rates)
    coordinates, weights = _started(names, trained, decays, members is not None)
    like = _rows(weights, members)
    dtype = next(iter(like.values())).dtype
    rates = _traced_rates(rates, names, dtype)
    skeleton, others = Skeleton.of(model)
    data, empty = arrays_of(objective)
    rows = data if shared or members is None else row_of(data)
    function = LossOf(skeleton, empty, jnp.float32 if allow_float32 else dtype)
    loss = traced(function, rows, _rows(others, members), like, what="The objective")
    flow = Flow(coordinates, rates, others, data, loss, names)
    if members is None:
        _check_loss(flow)
    return flow


def traced_observables(
    observables: Any, model: PyTree, flow: Flow, members: int | None = None
) -> dict[str, Traced]:
    """Each as a program of the arrays of `model` that stay and the views of its leaves.

    **Raises:** ValueError for what is no mapping of names to functions, and for one that does not
    return numbers.
    """
    functions = checked_observables(observables)
    if not functions:
        return {}
    check_observable_names(functions, model)
    skeleton, others = Skeleton.of(model)
    like = _rows(others, members), _views(flow.coordinates, flow.names, members)
    return {name: traced_observable(f, name, skeleton, *like) for name, f in functions.items()}


def _rows(tree: PyTree, members: int | None) -> PyTree:
    return tree if members is None else row_of(tree)


def _views(coordinates: Any, names: tuple[str, ...], members: int | None) -> dict[str, Any]:
    """Shapes and dtypes of what observables see of one member."""

    def of(coordinates):
        return {n: c.view(c.start()) for n, c in zip(names, coordinates, strict=True)}

    if members is None:
        return eqx.filter_eval_shape(of, coordinates)
    return row_of(eqx.filter_eval_shape(eqx.filter_vmap(of), coordinates))


@eqx.filter_jit
def _started(
    names: tuple[str, ...], leaves: list[Any], decays: tuple[bool, ...], batched: bool
) -> tuple[tuple[Any, ...], dict[str, Array]]:
    """Coordinates of the leaves, and the weights they start at."""

    def of(leaves):
        made = tuple(_coordinates(x, decays) for x, decays in zip(leaves, decays, strict=True))
        return made, {n: c.value(c.start()) for n, c in zip(names, made, strict=True)}

    return jax.vmap(of)(leaves) if batched else of(leaves)


def _coordinates(leaf: Any, decays: bool) -> Any:
    if isinstance(leaf, Parameter):
        return movable(leaf.coordinates(decays))
    return RawCoordinates(leaf, jnp.zeros((), leaf.dtype))


def _check_untied(leaves: Mapping[str, Any]) -> None:
    seen: dict[int, str] = {}
    for name, leaf in leaves.items():
        if id(leaf) in seen:
            raise ValueError(
                f"Leaves {seen[id(leaf)]!r} and {name!r} are the same object. Tied weights "
                "would be trained as two; use one leaf and read it twice in the forward "
                "pass, or copy it if two weights are meant."
            )
        seen[id(leaf)] = name


def check_single(leaves: Mapping[str, Any]) -> None:
    """**Raises:** ValueError for a stack of models where one is meant."""
    for name, leaf in leaves.items():
        if isinstance(leaf, Small) and np.ndim(leaf.log_alpha) > 0:
            raise ValueError(
                f"Leaf {name!r} carries {np.shape(leaf.log_alpha)} values of log_alpha: this is a "
                "stack of models (made by eqx.filter_vmap), and one model is meant here. A stack "
                "is for gflow.simulate_batch and theory.gradual_rank.predict_batch."
            )


def check_leaf(name: str, leaf: Any, allow_float32: bool, allow_frozen_sign: bool) -> None:
    arrays = [x for x in jax.tree.leaves(leaf) if eqx.is_inexact_array(x)]
    if empty := [x.shape for x in arrays if x.size == 0]:
        raise ValueError(
            f"Leaf {name!r} has shape {empty[0]}, without any entry. Leave it out of the model, or "
            "hold it in gflow.Frozen."
        )
    dtypes = {np.dtype(x.dtype) for x in arrays}
    if any(np.issubdtype(d, np.complexfloating) for d in dtypes):
        raise ValueError(f"Leaf {name!r} is complex; the flow is of real weights.")
    if not allow_float32 and any(d.itemsize < 8 for d in dtypes):
        raise ValueError(
            f"Leaf {name!r} is {min(dtypes, key=lambda d: d.itemsize)}: stage times from tiny "
            'starts need float64. Call jax.config.update("jax_enable_x64", True) before '
            "building the model, or pass allow_float32=True to accept about 7 digits."
        )
    if isinstance(leaf, Parameter):
        fault = leaf.fault(allow_frozen_sign)
    else:
        fault = None if np.all(np.isfinite(leaf)) else "has NaN or infinite entries."
    if fault is not None:
        raise ValueError(f"Leaf {name!r} {fault}")


def _decay_rates(decay: BatchDecay, names: tuple[str, ...], members: int | None) -> tuple[Any, ...]:
    if isinstance(decay, Mapping):
        for key in decay:
            if key not in names:
                near = difflib.get_close_matches(str(key), names, n=3) or list(names)
                raise ValueError(
                    f"decay names leaf {key!r}, which this model does not train. "
                    f"Did you mean one of {near}?"
                )
        return tuple(_checked_rate(decay.get(name, 0.0), name, members) for name in names)
    return tuple(_checked_rate(decay, "every leaf", members) for _ in names)


def _checked_rate(rate: Any, name: str, members: int | None) -> Constant | Callable | None:
    if callable(rate):
        return rate
    try:
        value = np.asarray(rate, float)
    except (TypeError, ValueError):
        raise ValueError(
            f"decay = {rate!r} for {name}: it is a number, a function of time, or "
            "{leaf name: one of these}."
        ) from None
    allowed = ((),) if members is None else ((), (members,))
    if value.shape not in allowed:
        raise ValueError(
            f"decay for {name} has shape {value.shape}: it is a number, a function of time"
            + (f", or one number for each of the {members} members." if members else ".")
        )
    if not np.all((value >= 0.0) & np.isfinite(value)):
        raise ValueError(
            f"decay = {rate} for {name}: the rate λ of (λ/2)‖factors‖² must be finite and ≥ 0."
        )
    if not np.any(value):
        return None
    return Constant(value if members is None else np.broadcast_to(value, (members,)))


def with_schedule(flow: Flow, start: Any, end: Any, rtol: float) -> Flow:
    """The flow with the edges of its decays λ(t) from `start` to `end`, known to `rtol`.

    `start` and `end` are times, or those of all members of a batch.

    **Raises:** ValueError for a λ(t) without an end, or one that is negative, not finite or no
    number in the run.
    """
    rates = zip(flow.names, flow.decay, strict=True)
    schedules = {id(rate): (name, rate) for name, rate in rates if isinstance(rate, Traced)}
    if not schedules:
        return flow
    if end is None:
        raise ValueError(
            f"decay of {[name for name, _ in schedules.values()]} depends on time, so that rest at "
            "one time is not rest for ever. Give t1 or tau1."
        )
    start, end = float(np.min(start)), float(np.max(end))
    found = []
    for name, rate in schedules.values():
        at = functools.partial(decay_rate, rate, dtype=flow.dtype)
        found.append(schedule.edges(at, name, start, end, 0.01 * rtol))
    times = np.unique(np.concatenate(found))
    room = 1 << max(len(times).bit_length(), 4)  # compiled once for numbers up to a power of two
    padded = np.concatenate([times, np.full(room - len(times), np.inf)])
    return dataclasses.replace(flow, edges=jnp.asarray(padded, flow.dtype))


@eqx.filter_jit
def _first_forces(flow: Flow) -> tuple[Float[Array, ""], dict[str, Array]]:
    return flow.forces(flow.weights(flow.start()))


def _check_loss(flow: Flow) -> None:
    loss, forces = _first_forces(flow)
    bad = [name for name, force in forces.items() if not np.all(np.isfinite(force))]
    if not np.isfinite(loss) or bad:
        what = f"is {float(loss)}" if not np.isfinite(loss) else f"has no finite gradient in {bad}"
        raise ValueError(
            f"The loss at the start {what}. Check inputs and targets for NaN and the model "
            "for operations undefined at (almost) zero weights, such as a norm or a division."
        )
