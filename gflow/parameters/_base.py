"""How a weight is parameterised: leaves of a model that know their coordinates near zero.

A model is any Equinox module. Its tiny weights are leaves derived from `Parameter`;
the forward pass reads `.value`. Plain inexact arrays are trained as they are, `Frozen`
ones are not trained.
"""

import abc
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import wadler_lindig as wl
from jax import lax
from jaxtyping import Array, ArrayLike, Float, PyTree

from .._alpha import one_log_alpha
from .._arguments import numbers
from .._display import Summary, span
from .._eager import concrete, eager
from ..coordinates._arrays import ArrayCoordinates
from ..coordinates._base import Coordinates
from ._elapsed import anew, recall, remember


@runtime_checkable
class Weight(Protocol):
    """What a model reads: a Parameter, or a module that makes one effective weight of several."""

    @property
    def value(self) -> Array: ...


@runtime_checkable
class Summed(Weight, Protocol):
    """A weight of heads that also hands out their sum."""

    @property
    def total(self) -> Array: ...


class Parameter(eqx.Module):
    r"""A weight of a model together with its parameterisation: the base of a leaf of your own.

    `value` is all that has to be written. The flow then moves the arrays x of the leaf as they
    are, x' = (∂value/∂x)ᵀ(−∂L/∂value) − λx, and every call, plot and file takes the leaf. With
    `conserved` it says what that flow leaves constant, with `coordinates` in which chart it is
    integrated (`gflow.coordinates.Coordinates`); the other members have defaults for both. A
    product may show its `factors`, plain arrays that observables read.

    A leaf that holds other leaves of a model is no weight of its own: make it an `eqx.Module` with
    a property `value`, and each of them is trained in its own coordinates.

    ```python
    class Cubed(gflow.Parameter):
        u: jax.Array

        @property
        def value(self):
            return self.u**3
    ```
    """

    #: Whether it is a product of matrices, whose modes are singular values.
    spectral: ClassVar[bool] = False
    #: The effective weight the forward pass uses.
    value: eqx.AbstractVar[Float[Array, "..."]]

    @property
    def total(self) -> Float[Array, "..."]:
        """The sum of `value` over its heads, which are all axes but the last two.

        A layer whose output is linear in that sum, up to what tells its heads apart, reads it in
        place of summing: heads that feel one force then keep their differences to all digits (see
        `gflow.models.beyond_uniform`).
        """
        return heads_summed(self.value)

    def _log_sizes(self) -> Float[np.ndarray, "..."]:
        """log|value| of every entry (of a product of columns, of every column), for people."""
        with np.errstate(divide="ignore"):
            return np.log(np.abs(np.asarray(self.value)))

    def __repr__(self) -> str:
        """One line, also within a model that is printed."""
        said = self.__pdoc__()
        return eqx.Module.__repr__(self) if said is None else wl.pformat(said)

    __str__ = __repr__

    def __pdoc__(self, **options: Any) -> wl.AbstractDoc | None:
        """What the printing of a model shows of it; None, its fields, where numbers are missing."""
        facts = self._known_facts()
        if facts is None:
            return None
        said = ", ".join(f"{name} {value}" for name, value in facts)
        return wl.TextDoc(f"{type(self).__name__}({said})")

    def _repr_html_(self) -> str:
        facts = self._known_facts()
        return Summary(
            type(self).__name__, [("fields", repr(self))] if facts is None else facts
        ).html()

    def _known_facts(self) -> list[tuple[str, str]] | None:
        """Its facts, those of the first and the number of a stack; None of what is no weight now.

        A leaf is also printed while it is traced, filtered or half built.
        """
        if not _known(self):
            return None
        try:
            if (members := self._members()) is None:
                return self._facts()
            first = jax.tree.map(lambda x: np.asarray(x)[0], self)
            found = first._known_facts()
        except (TypeError, ValueError, IndexError):
            return None
        return None if found is None else [("stack of", f"{members} (first shown)"), *found]

    def _members(self) -> int | None:
        """How many of it are stacked along a leading axis; None of a single one."""
        return None

    def _facts(self) -> list[tuple[str, str]]:
        return [("shape", str(self.value.shape)), (self._sized, span(self._log_sizes()))]

    #: What `_log_sizes` are sizes of.
    _sized: ClassVar[str] = "|θ|"

    def conserved(self) -> Float[Array, "..."] | tuple[Float[Array, "..."], ...]:
        """What gradient flow without decay leaves constant (empty: nothing)."""
        return ()

    def coordinates(self, decays: bool) -> Coordinates:
        """Coordinates of the flow, starting at this parameter; `decays`: whether there is decay."""
        return ArrayCoordinates(self)

    def steps(self, coordinates: Coordinates) -> Coordinates:
        """Those whose `descended` is a step of gradient descent on the factors."""
        return coordinates

    def at_record(self, record: Mapping[str, Any], time: float) -> "Parameter":
        """This parameter where a trajectory recorded it, at flow time `time`."""
        if "state" not in record or type(self).coordinates is not Parameter.coordinates:
            raise ValueError(
                f"{type(self).__name__} has coordinates of its own and does not say how to come "
                "back from them: define at_record(self, record, time), which returns the "
                f"parameter from what they record ({', '.join(sorted(record))})."
            )
        return ArrayCoordinates(self).view(jnp.asarray(record["state"]))

    def plain(self) -> "Parameter":
        """The same weight with plain factors, for outside optimisers."""
        return self

    def rescaled(self, log_alpha: ArrayLike) -> "Parameter":
        """The same O(1) factors at another α, before any run."""
        return anew(self)

    def times(self) -> set[float]:
        """The flow times that it is known to stand at."""
        return recall(self)

    def fault(self, allow_frozen_sign: bool) -> str | None:
        """Why the flow cannot start from it, if it cannot."""
        if all(np.all(np.isfinite(x)) for x in jax.tree.leaves(self) if eqx.is_inexact_array(x)):
            return None
        return "has NaN or infinite entries."

    def numbers(self, log_alpha: float) -> dict[str, Any]:
        """The α-free numbers that it starts from, by what they are."""
        arrays = (x for x in jax.tree.leaves(self) if eqx.is_array(x))
        return {f"part {i}": x for i, x in enumerate(arrays)}


class Trainable(Parameter):
    """A parameter that has coordinates of its own, and says how to come back from them."""

    @abc.abstractmethod
    def coordinates(self, decays: bool) -> Coordinates:
        """Coordinates of the flow, starting at this parameter."""

    @abc.abstractmethod
    def at_record(self, record: Mapping[str, Any], time: float) -> "Trainable":
        """This parameter where a trajectory recorded it, at flow time `time`."""


class Small(Trainable):
    """A product of factors that starts at a scale α and knows it.

    `log_alpha` is NaN where the scale is not known; `elapsed` is the flow time since the
    leaf was at its initial scale, the origin of τ.
    """

    log_alpha: eqx.AbstractVar[Float[Array, "..."]]
    elapsed: eqx.AbstractVar[Float[Array, "..."]]

    def _members(self) -> int | None:
        return self.elapsed.shape[0] if self.elapsed.ndim else None

    def _facts(self) -> list[tuple[str, str]]:
        known = np.asarray(self.log_alpha)
        alpha = span(known) if np.all(np.isfinite(known)) else "unknown"
        return [*super()._facts(), ("α", alpha)]

    @abc.abstractmethod
    def unscaled(self) -> tuple[Array, ...]:
        """What stays the same in `rescaled`: O(1) factors and exponents."""

    def times(self) -> set[float]:
        return known_time(self.elapsed)

    def numbers(self, log_alpha: float) -> dict[str, Any]:
        return {f"factor {i}": x for i, x in enumerate(self.unscaled())}


def _known(parameter: Parameter) -> bool:
    """Whether its numbers are at hand: neither traced nor abstract nor filtered out."""
    parts = jax.tree.leaves(parameter, is_leaf=lambda x: x is None)
    return all(
        isinstance(x, np.ndarray | np.generic | int | float)
        or (isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer))
        for x in parts
    )


def known_time(elapsed: Array) -> set[float]:
    return {float(t) for t in np.unique(np.asarray(elapsed)) if not np.isnan(t)}


_INTEGERS = {np.dtype(np.float32): np.int32, np.dtype(np.float64): np.int64}
_FLOATS = {np.dtype(np.int32): np.float32, np.dtype(np.int64): np.float64}


@eager
def _to_bits(xp: Any, value: Any) -> Any:
    value = xp.asarray(value)
    if value.dtype not in _INTEGERS:
        value = value.astype(jnp.result_type(float))
    # float32 where JAX knows no float64
    value = value.astype(jax.dtypes.canonicalize_dtype(value.dtype))
    width = _INTEGERS[np.dtype(value.dtype)]
    return value.view(width) if xp is np else lax.bitcast_convert_type(value, width)


@eager
def _from_bits(xp: Any, bits: Any) -> Any:
    width = _FLOATS[np.dtype(bits.dtype)]
    return bits.view(width) if xp is np else lax.bitcast_convert_type(bits, width)


class Constant(eqx.Module):
    """Floats kept as their bit pattern: no gradient or optimiser can change them."""

    bits: Array

    def __init__(self, value: ArrayLike):
        self.bits = _to_bits(value)

    @property
    def value(self) -> Float[Array, "..."]:
        return _from_bits(self.bits)


class Frozen(Parameter):
    """An array that is not trained: no gradient, decay or optimiser moves it."""

    _array: Constant

    def __init__(self, array: ArrayLike):
        self._array = Constant(float_array(array, "array"))

    @property
    def value(self) -> Float[Array, "..."]:
        return self._array.value

    def conserved(self) -> Float[Array, "..."]:
        return self.value

    def numbers(self, log_alpha: float) -> dict[str, Any]:
        return {"array": self.value}


def heads_summed(value: Float[Array, "..."]) -> Float[Array, "..."]:
    """A weight summed over its heads, all axes but the last two."""
    return jnp.sum(value, axis=tuple(range(value.ndim - 2)))


def is_parameter(node: Any) -> bool:
    return isinstance(node, Parameter)


def leaf_name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def is_trained(leaf: Any) -> bool:
    """Whether the flow moves it: arrays of floats, and parameters that hold any."""
    if isinstance(leaf, Parameter):
        return any(eqx.is_inexact_array(x) for x in jax.tree.leaves(leaf))
    return eqx.is_inexact_array(leaf)


def trained_leaves(model: PyTree) -> dict[str, Any]:
    """Name → leaf of everything the flow moves."""
    paths, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=is_parameter)
    return {leaf_name(p): x for p, x in paths if is_trained(x)}


def known_times(leaf: Any) -> set[float]:
    """The flow times that a leaf, or the arrays in it, are known to stand at."""
    return leaf.times() if isinstance(leaf, Parameter) else recall(leaf)


def rescale(
    model: PyTree,
    log_alpha: ArrayLike | None = None,
    *,
    alpha: ArrayLike | None = None,
    log10_alpha: ArrayLike | None = None,
) -> PyTree:
    """`model` with every Hadamard, Factored and unit leaf at another α, with the same O(1) factors.

    `log_alpha` is the natural logarithm; in its place `log10_alpha` or `alpha`. All leaves start
    anew, at time 0.

    **Raises:** ValueError unless α is given once, positive and finite.

    ```python
    runs = [gflow.simulate(gflow.rescale(model, alpha=a), objective) for a in (1e-16, 1e-32)]
    ```
    """
    scale = one_log_alpha(log_alpha, alpha, log10_alpha)

    def change(node):
        return node.rescaled(scale) if isinstance(node, Parameter) else anew(node)

    return jax.tree.map(change, model, is_leaf=is_parameter)


def to_factors(model: PyTree) -> PyTree:
    """`model` with plain factors in place of scale form, for outside optimisers.

    Hadamard and Factored leaves become plain factors, Scaled an array of log-size 0; Frozen
    leaves stay frozen. Filter the result with `eqx.is_inexact_array` as any Equinox model.
    """

    def change(node):
        if not (isinstance(node, Small)):
            return node.plain() if isinstance(node, Parameter) else node
        times = known_times(node)
        return remember(node.plain(), times.pop() if len(times) == 1 else math.nan)

    return jax.tree.map(change, model, is_leaf=is_parameter)


def float_array(x: ArrayLike, name: str) -> Array:
    x = x if isinstance(x, np.ndarray) else jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(f"{name} is complex ({x.dtype}); weights here are real.")
    x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))
    return x if isinstance(x, jax.Array) else jax.device_put(x)


def checked_log_alpha(log_alpha: ArrayLike | None, required: bool = False) -> Array:
    if log_alpha is None and not required:
        return jax.device_put(np.asarray(np.nan, jnp.result_type(float)))
    dtype = jnp.result_type(float)
    if concrete(log_alpha) or not isinstance(log_alpha, jax.Array):
        log_alpha = numbers("log_alpha", log_alpha, "the natural logarithm of the scale α")
        log_alpha = np.asarray(log_alpha, dtype)
    value = jnp.asarray(log_alpha, dtype)
    if not isinstance(value, jax.core.Tracer) and not np.all(np.isfinite(np.asarray(value))):
        raise ValueError(
            f"log_alpha = {log_alpha}: the scale α must be positive and finite. Pass its "
            "natural logarithm, for example log_alpha=-230.26 for α = 1e-100."
        )
    return value
