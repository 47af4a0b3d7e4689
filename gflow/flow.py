"""The exact flow of a model: dθ/dt = −∇L(θ) − λθ, each leaf in its own coordinates."""

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .coordinates import Coordinates, RawCoordinates
from .parameters import Constant, Hadamard, Parameter, Trainable, is_parameter

Objective = Callable[[Any], Float[Array, ""]]
Decay = float | int | Callable[[Any], Any] | Mapping[str, Any]


class _Effective(Parameter):
    """What the forward pass sees of a trained Parameter while the flow runs."""

    value: Float[Array, "..."]

    def conserved(self):
        return self.__getattr__("conserved")

    def __getattr__(self, name):
        raise AttributeError(
            f"Inside the flow only `.value` of a parameter is available, not `.{name}`: the "
            "objective must be a function of the effective weights."
        )


class Flow(eqx.Module):
    """Vector field of the gradient flow on one flat state vector.

    Made by `build_flow`. `velocity(t, state)` is d(state)/dt; `weights(state)` are the
    effective weights by leaf name; `forces(weights)` is the loss with g = −∂L/∂weights.
    """

    coordinates: tuple[Coordinates, ...]
    decay: tuple[Constant | Callable | None, ...]
    others: list[Any]
    objective: Any
    names: tuple[str, ...] = eqx.field(static=True)
    slots: tuple[int, ...] = eqx.field(static=True)
    wrapped: tuple[bool, ...] = eqx.field(static=True)
    treedef: Any = eqx.field(static=True)

    def model(self, weights: Mapping[str, Array]) -> PyTree:
        """The user's model with `weights` (leaf name → array) in place of its leaves."""
        leaves = list(self.others)
        for name, slot, wrap in zip(self.names, self.slots, self.wrapped, strict=True):
            leaves[slot] = _Effective(weights[name]) if wrap else weights[name]
        return jax.tree.unflatten(self.treedef, leaves)

    def loss(self, weights: Mapping[str, Array]) -> Any:  # `build_flow` checks that it is a scalar
        return self.objective(self.model(weights))

    def forces(self, weights: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Loss and g = −∂L/∂weight for every trained leaf."""
        loss, gradient = jax.value_and_grad(self.loss)(weights)
        return loss, jax.tree.map(jnp.negative, gradient)

    def start(self) -> Float[Array, " size"]:
        return jnp.concatenate([c.start() for c in self.coordinates])

    def split(self, state: Float[Array, " size"]) -> list[Array]:
        sizes = [jax.eval_shape(c.start).shape[0] for c in self.coordinates]
        return jnp.split(state, np.cumsum(sizes)[:-1].tolist())

    def weights(self, state: Float[Array, " size"]) -> dict[str, Array]:
        parts = self.split(state)
        pairs = zip(self.names, self.coordinates, parts, strict=True)
        return {name: c.value(part) for name, c, part in pairs}

    def velocity(self, t: Float[Array, ""], state: Float[Array, " size"]) -> Array:
        _, force = self.forces(self.weights(state))
        parts = []
        for name, c, rate, part in zip(
            self.names, self.coordinates, self.decay, self.split(state), strict=True
        ):
            parts.append(c.velocity(part, force[name], decay_rate(rate, t, state.dtype)))
        return jnp.concatenate(parts)

    def at(self, leaves: Mapping[str, dict[str, Array]]) -> "Flow":
        """The same flow with coordinates that start at a recorded point."""
        pairs = zip(self.names, self.coordinates, strict=True)
        moved = tuple(c.at(leaves[name]) for name, c in pairs)
        return eqx.tree_at(lambda f: f.coordinates, self, moved)

    def record(self, t: Float[Array, ""], state: Float[Array, " size"]) -> dict[str, Any]:
        """Loss, descent −dL/dt, residual, and per leaf its record and force."""
        loss, force = self.forces(self.weights(state))
        leaves, residuals, descent = {}, [], jnp.zeros_like(loss)
        for name, c, rate, part in zip(
            self.names, self.coordinates, self.decay, self.split(state), strict=True
        ):
            decay = decay_rate(rate, t, state.dtype)
            velocity = c.velocity(part, force[name], decay)
            _, drift = jax.jvp(c.value, (part,), (velocity,))
            descent = descent + jnp.sum(force[name] * drift)
            leaves[name] = {**c.record(part), "force": force[name]}
            residuals.append(c.residual(part, force[name], decay))
        residual = jnp.max(jnp.stack(residuals))
        return {"loss": loss, "descent": descent, "residual": residual, "leaves": leaves}

    def resolved(self, state: Float[Array, " size"]) -> Array:
        parts = zip(self.coordinates, self.split(state), strict=True)
        return jnp.all(jnp.stack([c.resolved(part) for c, part in parts]))

    def tolerance(self, rtol: float) -> tuple[np.ndarray, np.ndarray]:
        pairs = [c.tolerance(rtol) for c in self.coordinates]
        return np.concatenate([a for a, _ in pairs]), np.concatenate([r for _, r in pairs])


def decay_rate(rate, t, dtype) -> Float[Array, ""]:
    if rate is None:
        return jnp.zeros((), dtype)
    return jnp.asarray(rate.value if isinstance(rate, Constant) else rate(t), dtype)


def leaf_name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def trained_leaves(model: PyTree) -> dict[str, Any]:
    """Name → leaf of everything the flow moves: Trainable leaves and plain arrays."""
    paths, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=is_parameter)
    return {leaf_name(p): x for p, x in paths if _is_trained(x)}


def _is_trained(leaf: Any) -> bool:
    return isinstance(leaf, Trainable) or eqx.is_inexact_array(leaf)


def build_flow(
    model: PyTree,
    objective: Objective,
    *,
    decay: Decay = 0.0,
    allow_float32: bool = False,
    allow_frozen_sign: bool = False,
) -> Flow:
    """Check `model` and `objective` and put every trained leaf into its coordinates.

    **Raises:** ValueError (with the leaf's name and the remedy) for a model without
    trained leaves, tied weights, float32 state, factors of equal size, an unknown leaf
    in `decay`, a loss that is not a finite scalar.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(model, is_leaf=is_parameter)
    leaves = [leaf for _, leaf in paths]
    slots = tuple(i for i, leaf in enumerate(leaves) if _is_trained(leaf))
    names = tuple(leaf_name(paths[i][0]) for i in slots)
    if not slots:
        raise ValueError(
            f"{type(model).__name__} has nothing to train: no Hadamard or Scaled leaf and no "
            "inexact array (Frozen leaves and integer arrays stay)."
        )
    _check_untied(names, [leaves[i] for i in slots])
    rates = _decay_rates(decay, names)
    coordinates = []
    for name, slot, rate in zip(names, slots, rates, strict=True):
        leaf = leaves[slot]
        check_leaf(name, leaf, allow_float32, allow_frozen_sign)
        if isinstance(leaf, Trainable):
            coordinates.append(leaf.coordinates(rate is not None))
        else:
            coordinates.append(RawCoordinates(jnp.asarray(leaf), jnp.zeros((), leaf.dtype)))
    others = [None if i in slots else leaf for i, leaf in enumerate(leaves)]
    wrapped = tuple(isinstance(leaves[i], Trainable) for i in slots)
    flow = Flow(tuple(coordinates), rates, others, objective, names, slots, wrapped, treedef)
    _check_loss(flow)
    return flow


def _check_untied(names: tuple[str, ...], leaves: list[Any]) -> None:
    seen: dict[int, str] = {}
    for name, leaf in zip(names, leaves, strict=True):
        if id(leaf) in seen:
            raise ValueError(
                f"Leaves {seen[id(leaf)]!r} and {name!r} are the same object. Tied weights "
                "would be trained as two; use one leaf and read it twice in the forward "
                "pass, or copy it if two weights are meant."
            )
        seen[id(leaf)] = name


def check_leaf(name: str, leaf: Any, allow_float32: bool, allow_frozen_sign: bool) -> None:
    arrays = [x for x in jax.tree.leaves(leaf) if eqx.is_inexact_array(x)]
    dtypes = {np.dtype(x.dtype) for x in arrays}
    if any(np.issubdtype(d, np.complexfloating) for d in dtypes):
        raise ValueError(f"Leaf {name!r} is complex; the flow is of real weights.")
    if not allow_float32 and any(d.itemsize < 8 for d in dtypes):
        raise ValueError(
            f"Leaf {name!r} is {min(dtypes, key=lambda d: d.itemsize)}: stage times from tiny "
            'starts need float64. Call jax.config.update("jax_enable_x64", True) before '
            "building the model, or pass allow_float32=True to accept about 7 digits."
        )
    if not isinstance(leaf, Hadamard) and not all(np.all(np.isfinite(x)) for x in arrays):
        raise ValueError(f"Leaf {name!r} has NaN or infinite entries.")
    if isinstance(leaf, Hadamard) and not allow_frozen_sign:
        frozen = np.isneginf(leaf.log_factor_s) | np.isneginf(leaf.log_factor_d)
        if frozen.any():
            index = tuple(int(i) for i in np.argwhere(frozen)[0])
            raise ValueError(
                f"Leaf {name!r} has |u| = |v| at index {index}: the sign of that weight can "
                "never change. Draw unequal factors (Hadamard.small), or pass "
                "allow_frozen_sign=True if that is meant."
            )


def _decay_rates(decay: Decay, names: tuple[str, ...]) -> tuple[Any, ...]:
    if isinstance(decay, Mapping):
        for key in decay:
            if key not in names:
                near = difflib.get_close_matches(str(key), names, n=3) or list(names)
                raise ValueError(
                    f"decay names leaf {key!r}, which this model does not train. "
                    f"Did you mean one of {near}?"
                )
        return tuple(_checked_rate(decay.get(name, 0.0), name) for name in names)
    return tuple(_checked_rate(decay, "every leaf") for _ in names)


def _checked_rate(rate: Any, name: str) -> Constant | Callable | None:
    if callable(rate):
        return rate
    value = float(rate)
    if not (value >= 0.0 and math.isfinite(value)):
        raise ValueError(
            f"decay = {rate} for {name}: the rate λ of (λ/2)‖factors‖² must be finite and ≥ 0."
        )
    return Constant(value) if value > 0.0 else None


@eqx.filter_jit
def _forces(flow: Flow, weights: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    return flow.forces(weights)


def _check_loss(flow: Flow) -> None:
    weights = flow.weights(flow.start())
    shape = eqx.filter_eval_shape(flow.loss, weights)
    if not eqx.is_array_like(shape) and not hasattr(shape, "shape"):
        raise ValueError(f"The objective must return a scalar loss; it returned {type(shape)}.")
    if shape.shape != ():
        raise ValueError(
            f"The objective must return a scalar loss; it returned shape {shape.shape}. "
            "Sum or average over examples."
        )
    loss, forces = _forces(flow, weights)
    bad = [n for n, g in forces.items() if not np.all(np.isfinite(g))]
    if not np.isfinite(loss) or bad:
        what = f"is {float(loss)}" if not np.isfinite(loss) else f"has no finite gradient in {bad}"
        raise ValueError(
            f"The loss at the start {what}. Check inputs and targets for NaN and the model "
            "for operations undefined at (almost) zero weights, such as a norm or a division."
        )
