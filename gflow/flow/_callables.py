"""What the user hands over to be called, checked and made programs of arrays: losses and more."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..parameters._base import Parameter, heads_summed, is_parameter, is_trained, trained_leaves
from ..programs._closure import Traced, traced


class _Effective(Parameter):
    """What the forward pass sees of a trained Parameter while the flow runs."""

    value: Float[Array, "..."]
    #: The sum over heads where it is an argument apart from `value`.
    known_total: Float[Array, "..."] | None = None

    @property
    def total(self):
        return heads_summed(self.value) if self.known_total is None else self.known_total

    def conserved(self):
        return self.__getattr__("conserved")

    def __getattr__(self, name):
        raise OnlyValue(
            f"Inside the flow only `.value` of a parameter and its `.total` over heads are "
            f"available, not `.{name}`: the objective must be a function of the effective weights."
        )


class OnlyValue(AttributeError, ValueError):
    """An attribute that a parameter does not have while the flow runs."""


@dataclasses.dataclass(frozen=True, eq=False)
class Skeleton:
    """A model without its arrays: trained leaves by name, the other arrays in order."""

    names: tuple[str, ...]
    tree: PyTree  # of marks: Equinox's tree definitions cannot be pickled
    slots: tuple[int, ...]
    wrapped: tuple[bool, ...]
    rest: list[Any]

    @classmethod
    def of(cls, model: PyTree) -> tuple["Skeleton", list[Array]]:
        """And the arrays that stay."""
        leaves, treedef = jax.tree.flatten(model, is_leaf=is_parameter)
        slots = tuple(i for i, leaf in enumerate(leaves) if is_trained(leaf))
        wrapped = tuple(isinstance(leaves[i], Parameter) for i in slots)
        arrays, rest = arrays_of([None if is_trained(x) else x for x in leaves])
        tree = jax.tree.unflatten(treedef, [_Hole for _ in leaves])
        return cls(tuple(trained_leaves(model)), tree, slots, wrapped, rest), arrays

    def model(
        self, others: list[Array], weights: Mapping[str, Array], totals: Mapping[str, Array]
    ) -> PyTree:
        """The user's model with `weights` (leaf name → array) in place of its leaves.

        `totals`: sums over the heads of some of them, as arrays of their own.
        """

        wrapped = dict(zip(self.names, self.wrapped, strict=True))
        seen = {
            n: _Effective(weights[n], totals.get(n)) if wrap else weights[n]
            for n, wrap in wrapped.items()
        }
        return self.with_leaves(others, seen)

    def observed(self, others: list[Array], views: Mapping[str, Any]) -> PyTree:
        """The user's model with what observables see in place of its leaves."""
        wrapped = dict(zip(self.names, self.wrapped, strict=True))
        seen = {n: views[n] if wrap else views[n].value for n, wrap in wrapped.items()}
        return self.with_leaves(others, seen)

    def with_leaves(self, others: list[Array], seen: Mapping[str, Any]) -> PyTree:
        leaves: list[Any] = with_arrays(self.rest, others)
        for name, slot in zip(self.names, self.slots, strict=True):
            leaves[slot] = seen[name]
        return jax.tree.unflatten(jax.tree.structure(self.tree), leaves)


def arrays_of(tree: PyTree) -> tuple[list[Array], PyTree]:
    """The arrays of a tree, NumPy's copied, and the tree with marks in their places."""
    leaves, treedef = jax.tree.flatten(tree)
    arrays = [jnp.array(x) if isinstance(x, np.ndarray) else x for x in leaves if is_array(x)]
    return arrays, jax.tree.unflatten(treedef, [_Hole if is_array(x) else x for x in leaves])


def with_arrays(tree: PyTree, arrays: list[Array]) -> PyTree:
    """`arrays` in the places of the marks."""
    following = iter(arrays)
    return jax.tree.map(lambda x: next(following) if x is _Hole else x, tree)


class _Hole:
    """The place of an array."""


def is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray)


def row_of(tree: PyTree) -> PyTree:
    """Shapes and dtypes of one member of a batch."""

    def row(x):
        return jax.ShapeDtypeStruct(x.shape[1:], x.dtype) if hasattr(x, "dtype") else x

    return jax.tree.map(row, tree)


@dataclasses.dataclass(frozen=True, eq=False)
class LossOf:
    """The objective as a function of its own arrays, those of the model that stay, the weights.

    And of the `totals` of some of the weights over their heads.
    """

    skeleton: Skeleton
    objective: Any
    dtype: Any

    def __call__(
        self,
        own: list[Array],
        others: list[Array],
        weights: dict[str, Array],
        totals: Mapping[str, Array] | None = None,
    ) -> Array:
        objective = with_arrays(self.objective, own)
        return _scalar(objective(self.skeleton.model(others, weights, totals or {})), self.dtype)


def check_objective(objective: Any) -> None:
    """**Raises:** ValueError unless it can be called with a model."""
    if inspect.isclass(objective):
        raise ValueError(
            f"objective = {objective.__name__} is a class: pass an object of it, such as "
            f"{objective.__name__}(inputs, targets)."
        )
    if not callable(objective):
        raise ValueError(
            f"objective = {_short(objective)} cannot be called: pass a function of the model that "
            "returns the loss, such as gflow.objectives.SquaredLoss(inputs, targets)."
        )


def _scalar(value: Any, dtype: Any) -> Float[Array, ""]:
    """The loss as an array; `dtype` is the lowest precision allowed."""
    must = "The objective must return a scalar loss; it returned"
    if isinstance(value, float):
        value = jnp.asarray(value, dtype)
    if value is None:
        raise ValueError(f"{must} None. Is a `return` missing?")
    if isinstance(value, tuple | list | dict):
        raise ValueError(
            f"{must} {type(value)}. Return the loss alone, and hand what else is to be recorded "
            "to observables=."
        )
    if isinstance(value, bool | int) or not hasattr(value, "dtype"):
        raise ValueError(f"{must} {_short(value)}, of {type(value)}: return a JAX array of floats.")
    value = jnp.asarray(value)
    if value.shape != ():
        raise ValueError(f"{must} shape {value.shape}. Sum or average over examples.")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"{must} {value.dtype}, which has no gradient along the weights. Return a float."
        )
    if value.dtype.itemsize < jnp.dtype(dtype).itemsize:
        raise ValueError(
            f"{must} {value.dtype}: stage times from tiny starts need the loss in {dtype}. Leave "
            "out the conversion, or pass allow_float32=True to accept about 7 digits."
        )
    return value


def checked_observables(observables: Any) -> dict[str, Callable]:
    """**Raises:** ValueError for what is no mapping of names to functions."""
    if observables is None:
        return {}
    if not isinstance(observables, Mapping):
        raise ValueError(
            f"observables = {_short(observables)} has no names: pass a dictionary of functions of "
            'the model, such as {"norm": lambda model: jnp.linalg.norm(model.weight.value)}.'
        )
    for name, function in observables.items():
        if inspect.isclass(function) or not callable(function):
            raise ValueError(
                f"observables[{name!r}] = {_short(function)} is no function of the model. Pass "
                "one, such as lambda model: model.weight.value[0]."
            )
    return dict(observables)


def traced_observable(
    function: Callable, name: str, skeleton: Skeleton, others: Any, views: Any
) -> Traced:
    """A program of the arrays that stay and the views of leaves, shaped like these."""
    what = f"observables[{name!r}]"

    arrays, rest = eqx.partition(views, lambda x: isinstance(x, jax.ShapeDtypeStruct))

    def read(others, arrays):
        return _numbers(function(skeleton.observed(others, eqx.combine(arrays, rest))), what)

    return traced(read, others, arrays, what=what)


def _numbers(value: Any, what: str) -> Array:
    if not isinstance(value, bool | int | float | complex | jax.Array | np.ndarray | np.generic):
        raise ValueError(
            f"{what} returned {_short(value)}, of {type(value)}: an observable is a number or an "
            "array. Give each of several a name of its own."
        )
    return jnp.asarray(value)


def traced_rate(rate: Callable, dtype: Any, name: str) -> Traced:
    """λ(t) as a program. **Raises:** ValueError unless it returns a number."""
    what = f"decay of {name!r}"

    def at(t):
        value = rate(t)
        shape = getattr(value, "shape", ()) if value is not None else None
        number = isinstance(value, int | float | jax.Array | np.ndarray | np.generic)
        if not number or shape != () or jnp.iscomplexobj(value):
            returned = f"an array of shape {shape}" if number else _short(value)
            raise ValueError(
                f"{what} returned {returned} for one time: λ(t) is a number. For rates that "
                "differ from leaf to leaf pass a dictionary, {leaf name: λ(t)}."
            )
        return jnp.asarray(value, dtype)

    return traced(at, jax.ShapeDtypeStruct((), dtype), what=what)


def _short(x: Any) -> str:
    text = repr(x)
    return text if len(text) <= 80 else text[:77] + "..."
