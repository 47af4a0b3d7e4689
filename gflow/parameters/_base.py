"""How a weight is parameterised: leaves of a model that know their coordinates near zero.

A model is any Equinox module. Its tiny weights are leaves derived from `Parameter`;
the forward pass reads `.value`. Plain inexact arrays are trained as they are, `Frozen`
ones are not trained.
"""

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, PyTree

from .._arguments import numbers
from .._eager import concrete, eager
from ..coordinates._arrays import ArrayCoordinates
from ..coordinates._base import Coordinates
from ..coordinates._bases import as_given
from ..coordinates._raw import RawCoordinates
from ..coordinates._units import Binding, UnitAxes
from ._elapsed import anew, recall, remember


@runtime_checkable
class Weight(Protocol):
    """What a model reads: a Parameter, or a module that makes one effective weight of several."""

    @property
    def value(self) -> Array: ...


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

    @abc.abstractmethod
    def unscaled(self) -> tuple[Array, ...]:
        """What stays the same in `rescaled`: O(1) factors and exponents."""

    def times(self) -> set[float]:
        return _known(self.elapsed)

    def numbers(self, log_alpha: float) -> dict[str, Any]:
        return {f"factor {i}": x for i, x in enumerate(self.unscaled())}


def _known(elapsed: Array) -> set[float]:
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


class Scaled(Trainable):
    """A plain weight as direction and log-size: W = e^{log_scale}·array.

    The flow moves `array` at rate e^{−log_scale}·g. `elapsed` is the flow time it stands at,
    NaN before it has been in a run.

    `units` is a label where three and more small factors meet: the leading `unit_axes` axes then
    count *units*, the modes of the model, and slices of leaves with one label are bound, number by
    number, to one unit (a head: v[h], K[h], Q[h], all with `units="heads"`). `gflow.simulate`
    follows units from any size through all saddles that their products make. A unit is one mode: of
    a weight that has several, each is one.

    `interfaces` names the axes at which one matrix meets the next with nothing in between, as in
    W₃W₂W₁: of every leaf a name or None an axis, and axes of one name meet. What is handed over
    there may be turned, W₁ → RW₁, W₂ → W₂Rᵀ, and a run turns it after every step so that the modes
    of general matrices stay apart: unit k is the k-th largest direction at each of them. Name all
    such axes of a model.

    **Raises** ValueError when e^{±log_scale} leaves the float range, and for units that an array
    does not have.

    ```python
    v = gflow.Scaled(jax.random.normal(a, (5,)), -230.26, units="heads")
    k = gflow.Scaled(jax.random.normal(b, (5, 4)), -230.26, units="heads")
    w1 = gflow.Scaled(jax.random.normal(a, (5, 4)), -138.16, interfaces=("h1", None))
    w2 = gflow.Scaled(jax.random.normal(b, (5, 5)), -138.16, interfaces=("h2", "h1"))
    ```
    """

    array: Float[Array, "..."]
    _log_scale: Constant
    _elapsed: Constant
    _bases: tuple[Constant, ...]
    units: str | None = eqx.field(static=True, default=None)
    unit_axes: int = eqx.field(static=True, default=1)
    interfaces: tuple[str | None, ...] = eqx.field(static=True, default=())

    def __init__(
        self, array: ArrayLike, log_scale: ArrayLike, *, units: str | None = None,
        unit_axes: int = 1, interfaces: Sequence[str | None] = (),
    ):  # fmt: skip
        self.array = float_array(array, "array")
        if not np.all(np.isfinite(np.asarray(self.array))):
            raise ValueError("Scaled(array, log_scale): array has NaN or infinite entries.")
        scale = float(np.asarray(log_scale))
        limit = -math.log(np.finfo(self.array.dtype).tiny)
        if not abs(scale) < limit:
            raise ValueError(
                f"Scaled(array, log_scale={scale:g}): e^±log_scale must be a float, that is "
                f"|log_scale| < {limit:.0f}. Below that use gflow.Hadamard for products."
            )
        if units is not None and not 1 <= unit_axes <= self.array.ndim:
            raise ValueError(
                f"Scaled(array, units={units!r}, unit_axes={unit_axes}): units are counted by the "
                f"first one or more axes of the array, whose shape is {self.array.shape}."
            )
        self.interfaces = _checked_interfaces(interfaces, self.array, units)
        self._log_scale = Constant(np.asarray(scale, self.array.dtype))
        self._elapsed = Constant(np.asarray(np.nan, self.array.dtype))
        self.units, self.unit_axes = units, unit_axes
        widths = [self.array.shape[a] for a in self._axes]
        self._bases = tuple(Constant(np.eye(n, dtype=self.array.dtype)) for n in widths)

    @property
    def log_scale(self) -> Float[Array, "..."]:
        return self._log_scale.value

    @property
    def elapsed(self) -> Float[Array, "..."]:
        return self._elapsed.value

    @property
    def value(self) -> Float[Array, "..."]:
        bases = [basis.value for basis in self._bases]
        return as_given(jnp.exp(self.log_scale) * self.array, self._axes, bases)

    @property
    def _axes(self) -> tuple[int, ...]:
        """The axes that are interfaces."""
        return tuple(a for a, name in enumerate(self.interfaces) if name)

    def conserved(self) -> Float[Array, "..."]:
        return jnp.zeros((0,), self.array.dtype)

    def coordinates(self, decays: bool) -> RawCoordinates:
        bases = tuple(basis.value for basis in self._bases)
        return RawCoordinates(self.array, self.log_scale, bases, self._axes)

    def at_record(self, record: Mapping[str, Any], time: float) -> "Scaled":
        if "log_norm" in record:  # of an escape, which sets the scale anew
            return Scaled(record["direction"], record["log_norm"], **self._bound)
        if "log_size" in record:  # of units, of which the largest sets it
            return self._of_units(record, time)
        array = jnp.asarray(record["array"])
        return self._at(array, Constant(np.asarray(time, array.dtype)))

    def rescaled(self, log_alpha: ArrayLike) -> "Scaled":
        """The same weight before any run, in units at log-size `log_alpha`."""
        never = Constant(jnp.full_like(self.elapsed, jnp.nan))
        if units_of(self) is not None:
            scale = checked_log_alpha(log_alpha, required=True)
            return eqx.tree_at(
                lambda p: (p._log_scale, p._elapsed), self,
                (Constant(jnp.broadcast_to(scale, self.log_scale.shape)), never),
            )  # fmt: skip
        return self if np.all(np.isnan(self.elapsed)) else self._at(self.array, never)

    def plain(self) -> "Scaled":
        """The same weight as an array of log-size 0, at the same time."""
        plain = Scaled(self.value, 0.0, **self._bound)
        return eqx.tree_at(lambda p: p._elapsed, plain, self._elapsed)

    def times(self) -> set[float]:
        return _known(self.elapsed)

    def numbers(self, log_alpha: float) -> dict[str, Any]:
        if units_of(self) is not None and log_alpha < 0.0:
            return {"array": self.array, "log-size over α": self.log_scale - log_alpha}
        return {"array": self.array, "log-size": self.log_scale}

    def _at(self, array: Array, elapsed: Constant) -> "Scaled":
        return eqx.tree_at(lambda p: (p.array, p._elapsed), self, (array, elapsed))

    @property
    def _bound(self) -> dict[str, Any]:
        of_units = {"units": self.units, "unit_axes": self.unit_axes}
        return of_units | {"interfaces": self.interfaces}

    def _of_units(self, record: Mapping[str, Any], time: float) -> "Scaled":
        """In the bases that it is recorded in, in which dormant units keep their digits."""
        direction, sizes = np.asarray(record["direction"]), np.asarray(record["log_size"])
        own = units_of(self)
        assert own is not None
        binding = Binding.of(direction.shape, own, len(sizes))
        share = np.exp(sizes - np.max(sizes))[binding.owner]
        array = (share * direction.ravel()).reshape(direction.shape)
        there = Scaled(array, np.max(sizes), **self._bound)
        names = sorted(name for name in record if name.startswith("basis_"))
        bases = tuple(Constant(np.asarray(record[name])) for name in names)
        elapsed = Constant(np.asarray(time, array.dtype))
        return eqx.tree_at(lambda p: (p._elapsed, p._bases), there, (elapsed, bases))


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


def is_parameter(node: Any) -> bool:
    return isinstance(node, Parameter)


def leaf_name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def units_of(leaf: Any) -> UnitAxes | None:
    """How the entries of a leaf are bound to units, if they are."""
    if isinstance(leaf, Scaled) and leaf.units is not None:
        return UnitAxes(leaf.units, tuple(range(leaf.unit_axes)))
    if isinstance(leaf, Scaled) and any(leaf.interfaces):
        axes = tuple(a for a, name in enumerate(leaf.interfaces) if name)
        names = tuple(name for name in leaf.interfaces if name)
        return UnitAxes(names[0], axes, names)
    return None


def _checked_interfaces(
    interfaces: Sequence[str | None], array: Array, units: str | None
) -> tuple[str | None, ...]:
    names = tuple(interfaces)
    if not names:
        return ()
    given = f"Scaled(array, interfaces={names!r})"
    if units is not None:
        raise ValueError(f"{given}: a leaf has units or interfaces, and units={units!r} was given.")
    if len(names) != array.ndim or not all(x is None or (isinstance(x, str) and x) for x in names):
        raise ValueError(
            f"{given}: one name for every axis of the array, whose shape is {array.shape}, None "
            "where it is no interface."
        )
    known = [name for name in names if name]
    if not known or len(set(known)) < len(known):
        raise ValueError(f"{given}: the axes that are interfaces need one name each.")
    return names


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


def rescale(model: PyTree, log_alpha: ArrayLike) -> PyTree:
    """`model` with every Hadamard, Factored and unit leaf at another α, with the same O(1) factors.

    All leaves start anew, at time 0.

    ```python
    runs = [gflow.simulate(gflow.rescale(model, la), objective) for la in (-37, -74)]
    ```
    """

    def change(node):
        return node.rescaled(log_alpha) if isinstance(node, Parameter) else anew(node)

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
